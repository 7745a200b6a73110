"""What is said in a message: text, or parts of which some are pictures or documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import attrs


@attrs.frozen
class Text:
    """A part that is text."""

    text: str


def _media_type(value: str) -> str:
    return value.strip().lower()


def _in_address(url: str) -> tuple[bytes, str]:
    """Return the bytes that a `data:` address holds, and their media type."""
    import base64  # both are seldom needed
    from urllib.parse import unquote_to_bytes

    head, _, body = url[5:].partition(",")
    media_type, *parameters = head.split(";")
    data = unquote_to_bytes(body)
    if "base64" in (parameter.strip().lower() for parameter in parameters):
        try:
            data = base64.b64decode(data)
        except ValueError as error:
            raise ValueError(f"a data: address whose bytes cannot be read: {error}") from None
    return data, _media_type(media_type)


@attrs.frozen
class _File:
    """Bytes with their media type, or an address at which the provider finds them; one of the two.

    A `data:` address is taken for the bytes that it holds.
    """

    data: bytes = attrs.field(default=b"", repr=lambda data: f"<{len(data):,} bytes>")
    media_type: str = attrs.field(default="", converter=_media_type)
    url: str = ""

    def __attrs_post_init__(self) -> None:
        kind = type(self).__name__
        if self.url[:5].lower() == "data:" and not self.data:
            # Most providers take bytes as bytes only.
            data, media_type = _in_address(self.url)
            for name, value in (("data", data), ("media_type", self.media_type or media_type), ("url", "")):
                object.__setattr__(self, name, value)
        if not isinstance(self.data, bytes):
            raise TypeError(f"{kind}.data must be bytes, not {type(self.data).__name__}")
        if bool(self.data) == bool(self.url):
            given = "both are given" if self.url else "neither is given"
            raise ValueError(f"{kind} needs its bytes (data) or its address (url), but {given}")
        if self.data and "/" not in self.media_type:
            raise ValueError(
                f"{kind} with bytes needs their media type, such as {self._example!r},"
                f" not {self.media_type!r}"
            )

    @property
    def _example(self) -> str:
        raise NotImplementedError


@attrs.frozen
class Image(_File):
    """A picture: `Image(data, "image/png")`, or `Image(url="https://...")`.

    Attributes:
      data: the file's bytes; empty if there is an address.
      media_type: what the bytes are; may be left out for an address.
      url: where the provider finds it; we do not fetch it. A `data:` address becomes bytes.

    Raises:
      ValueError: if there are neither bytes nor an address, or both, or bytes without a media type.
      TypeError: if `data` is no bytes.
    """

    @property
    def _example(self) -> str:
        return "image/png"


@attrs.frozen
class Document(_File):
    """A document, such as a PDF: `Document(data, "application/pdf", name="report.pdf")`.

    Attributes:
      data, media_type, url: as for `Image`.
      name: what the model is told that the document is called.

    Raises:
      ValueError, TypeError: as for `Image`.
    """

    name: str = ""

    @property
    def _example(self) -> str:
        return "application/pdf"


Part: TypeAlias = Text | Image | Document
Content: TypeAlias = str | tuple[Part, ...]
"""Text, or a tuple of parts."""


def as_content(given: Any) -> Content:
    """Return what was given as content: a text, one part, or an iterable of texts and parts.

    Raises:
      TypeError: if it, or something in it, is neither text nor a part.
    """
    if isinstance(given, str):
        return given
    if isinstance(given, Text | Image | Document):
        return (given,)
    if isinstance(given, Iterable) and not isinstance(given, bytes | dict):
        return tuple(map(_part, given))
    raise TypeError(f"content must be a string or parts (Text, Image, Document), not {_kind(given)}")


def _part(given: object) -> Part:
    if isinstance(given, str):
        return Text(given)
    if isinstance(given, Text | Image | Document):
        return given
    raise TypeError(f"a part of content must be a string, a Text, an Image or a Document, not {_kind(given)}")


def _kind(given: object) -> str:
    return f"a {type(given).__name__}"


def text_of(content: Content) -> str:
    """Return content as text, in which a line such as `[image/png, 1,234 bytes]` stands for a file."""
    if isinstance(content, str):
        return content
    return "\n".join(part.text if isinstance(part, Text) else told_of_file(part) for part in content)


def told_of_file(part: Image | Document) -> str:
    """Return the line of text that stands for a picture or a document where only text can go."""
    what = part.media_type or type(part).__name__.lower()
    name = f"{part.name}, " if isinstance(part, Document) and part.name else ""
    return f"[{name}{what}, {part.url}]" if part.url else f"[{name}{what}, {len(part.data):,} bytes]"


def parts_of(content: Content) -> tuple[Part, ...]:
    """Return content as parts; an empty text is none."""
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return content


def with_text(content: Content, before: str = "", after: str = "") -> Content:
    """Return content with text around it."""
    if isinstance(content, str):
        return f"{before}{content}{after}"
    parts = list(content)
    if before:
        parts.insert(0, Text(before))
    if after:
        parts.append(Text(after))
    return tuple(parts)
