"""The page that shows a run, as one HTML document: live, or as a file of a run that is over.

`page.html`, `page.css` and `page.js` are written by hand and put together here. The document loads nothing
from elsewhere, and its policy (CSP) lets nothing run but its own script: no handler in an attribute, no
style in an attribute, no other script, also where a name or a transcript holds HTML.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from agentpool._core.plain_json import plain_json

PIECE = 10_000
"""So many spans, messages or agents of a file are read at once, lest the tab freezes while it is opened."""

_LISTS = ("agents", "spans", "arrows", "notes")
_MARK = re.compile(r"<!-- put: (\w+) -->")
_UNSAFE = re.compile("[<>&\ud800-\udfff]")


def page_html(data: Mapping[str, Any]) -> str:
    """Return the document.

    It holds what it shows as JSON, in elements that no browser runs. `#run` has all of `data` but the two
    parts that may be large: what has changed is in elements of the class `changes`, in pieces that are taken
    in one after the other, and each transcript is in an element of its own, which is read when somebody
    looks at it.

    Args:
      data: as `plain_json` takes it. `live`: whether it is to be fetched from the server that the page came
        from; `title`; and either `run`, the id of the run, or `changes` (see `picture_data.changes_since`)
        and `transcripts`, the messages of each agent by its id. A file may also have `exit` (how the run
        ended) and `pool`. Of a live run `leaves` tells whether draining it stops the agents at work.
    """
    head = {key: value for key, value in data.items() if key not in ("changes", "transcripts")}
    changes = data.get("changes")
    transcripts = data.get("transcripts") or {}
    parts = [_element('id="run"', head)]
    if changes is not None:
        parts.extend(_element('class="changes"', piece) for piece in _pieces(changes))
    parts.extend(
        _element(f'class="transcript" data-agent="{int(agent)}"', messages)
        for agent, messages in transcripts.items()
    )
    inside = {
        "policy": page_policy(),
        "style": _file("page.css"),
        "script": _file("page.js"),
        "data": "\n".join(parts),
        "title": _escaped(str(data.get("title", ""))),
    }
    return _MARK.sub(lambda found: inside[found[1]], _file("page.html"))


@cache
def page_policy() -> str:
    """Return the Content-Security-Policy of the document, which is in it too.

    A server sends it as a header as well, and adds what a document cannot say, such as `frame-ancestors`.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_hash(_file('page.js'))}'",
            f"style-src '{_hash(_file('page.css'))}'",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _pieces(changes: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    lists: dict[str, Sequence[Any]] = {key: changes.get(key, ()) for key in _LISTS}
    rest = {key: value for key, value in changes.items() if key not in _LISTS}
    yield {**rest, **{key: each[:PIECE] for key, each in lists.items()}}
    for key, each in lists.items():
        for start in range(PIECE, len(each), PIECE):
            yield {key: each[start : start + PIECE]}


def _element(attributes: str, data: Any) -> str:
    told = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", plain_json(data))
    return f'<script {attributes} type="application/json">{told}</script>'


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda found: f"&#{ord(found[0])};" if found[0] in "<>&" else "\ufffd", text)


@cache
def _file(name: str) -> str:
    # The policy has the hash of the text as the browser sees it: with plain line ends.
    return files("agentpool.web").joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
