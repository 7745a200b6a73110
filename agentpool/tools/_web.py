"""`fetch_url`: what is in the web, as a model can read it."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from agentpool._blocking import run_blocking
from agentpool._core.capability import NetworkCapability, PrivacyTier
from agentpool._core.content import Document, Image
from agentpool._core.errors import ToolError
from agentpool._core.messages import ToolResult
from agentpool.tools._fetching import Fetched, Fetcher
from agentpool.tools._function import tool
from agentpool.tools._pages import readable, text_of_bytes
from agentpool.tools._urls import web_address

MAX_SHOWN_CHARS = 50_000  # below a registry's limit, so that the note about the rest survives
MAX_REFUSAL_CHARS = 2_000  # of what a server says beside a status that is an error


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_IMAGES = {
    "image/png": b"\x89PNG",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
_TEXTS = _words(
    "application/json application/xml application/javascript application/x-javascript"
    " application/ecmascript application/yaml application/x-yaml application/toml application/x-ndjson"
    " application/jsonlines application/sql application/x-sh application/graphql application/x-www-form-"
    " urlencoded application/x-tex image/svg+xml message/rfc822"
)
_PAGES = ("text/html", "application/xhtml+xml")
_UNKNOWN = ("", "application/octet-stream", "binary/octet-stream")


class UrlFetcher:
    """`fetch_url` for the hosts of a `NetworkCapability`."""

    def __init__(self, allowed_hosts: Iterable[str], privacy: PrivacyTier, **options: Any) -> None:
        """Keep what may be reached.

        Args:
          allowed_hosts: as in the capability.
          privacy: the agent's tier.
          options: more of a `Fetcher`.
        """
        self._fetcher = Fetcher.of(allowed_hosts, privacy, **options)

    @tool(capability=NetworkCapability(()), idempotent=True)
    async def fetch_url(self, url: str, start: int = 0) -> ToolResult:
        """Get a page, a text, a picture or a PDF from the web, by GET. Pages come as text with their links.

        Args:
          url: the whole address, beginning with https:// or http://.
          start: how many characters to leave out at the beginning, to read on in a long text.
        """
        if start < 0:
            raise ToolError("start counts characters, from 0 up")
        fetched = await self._fetcher.fetch(url)
        return await run_blocking(_told, fetched, str(web_address(url)), start)


def _told(fetched: Fetched, asked: str, start: int) -> ToolResult:
    media_type, charset = _content_type(fetched)
    if not 200 <= fetched.status < 300:
        return ToolResult(_refusal(fetched, media_type, charset), is_error=True)
    file = _file(fetched, media_type)
    if file is not None:
        return ToolResult((file,))
    if not fetched.body:
        return ToolResult(f"[the answer is empty (status {fetched.status})]")
    if not _is_text(media_type):
        raise ToolError(
            f"{fetched.address} is {media_type or 'something unknown'} of {_size(fetched)}, which is neither"
            " text nor a picture that can be shown"
        )
    text = _text(fetched, media_type, charset)
    return ToolResult(_part(text, start, fetched, asked))


def _content_type(fetched: Fetched) -> tuple[str, str]:
    """Return the media type and the charset; what says nothing, or too little, is looked at."""
    media_type, *parameters = (part.strip() for part in fetched.content_type.split(";"))
    pairs = (part.partition("=") for part in parameters)
    charset = next((value.strip() for name, _, value in pairs if name.strip().lower() == "charset"), "")
    media_type = media_type.lower()
    return (_seen_type(fetched.body) if media_type in _UNKNOWN else media_type), charset


def _seen_type(body: bytes) -> str:
    for media_type, magic in _IMAGES.items():
        if body.startswith(magic):
            return media_type
    if body.startswith(b"%PDF-"):
        return "application/pdf"
    head = body[:1024]
    if b"\0" in head:
        return "application/octet-stream"
    begin = head.lstrip().lower()
    return "text/html" if begin.startswith((b"<!doctype html", b"<html")) else "text/plain"


def _is_text(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type in _TEXTS or media_type.endswith(("+json", "+xml"))


def _file(fetched: Fetched, media_type: str) -> Image | Document | None:
    magic = b"%PDF-" if media_type == "application/pdf" else _IMAGES.get(media_type)
    if magic is None:
        return None
    if fetched.is_cut:
        raise ToolError(
            f"{fetched.address} is {media_type} of {_size(fetched)}, which is too much to be shown"
        )
    if not fetched.body.startswith(magic):
        raise ToolError(f"{fetched.address} says that it is {media_type}, but it is not")
    return Document(fetched.body, media_type) if magic == b"%PDF-" else Image(fetched.body, media_type)


def _size(fetched: Fetched) -> str:
    return f"{'more than ' * fetched.is_cut}{len(fetched.body):,} bytes"


def _text(fetched: Fetched, media_type: str, charset: str) -> str:
    text = text_of_bytes(fetched.body, charset, is_cut=fetched.is_cut)
    return readable(text, str(fetched.address)) if media_type in _PAGES else text


def _refusal(fetched: Fetched, media_type: str, charset: str) -> str:
    try:
        phrase = HTTPStatus(fetched.status).phrase
    except ValueError:
        phrase = "an unknown status"
    words = _text(fetched, media_type, charset).strip() if _is_text(media_type) else ""
    return f"{fetched.address} answered {fetched.status} {phrase}\n\n{words[:MAX_REFUSAL_CHARS]}".strip()


def _part(text: str, start: int, fetched: Fetched, asked: str) -> str:
    if start > len(text):
        raise ToolError(f"the text has {len(text)} characters, so that there is nothing at {start}")
    part = text[start : start + MAX_SHOWN_CHARS]
    end = start + len(part)
    notes = []
    if str(fetched.address) != asked and start == 0:
        notes.append(f"[from {fetched.address}]")
    if end < len(text):
        notes.append(f"[characters {start} to {end} of {len(text)}; go on with start={end}]")
    elif fetched.is_cut:
        notes.append(f"[cut: only the first {len(fetched.body):,} bytes were fetched]")
    return "\n".join([part, *notes])
