"""Texts of files: how they are encoded, and where their lines end."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import suppress

import attrs

from agentpool._core.errors import ToolError

_BREAK = re.compile(r"\r\n|\n|\r")

_MARKS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF8, "utf-8"))


@attrs.frozen
class FileText:
    """A text, and how its file has it.

    Attributes:
      text: with the line breaks of the file, without its mark.
      mark: the byte order mark that the file begins with; empty if it has none.
      codec: the name of the encoding.
    """

    text: str
    mark: bytes
    codec: str

    def encoded(self, text: str) -> bytes:
        """Return another text as this file has texts.

        Raises:
          UnicodeEncodeError: if it holds half a character.
        """
        return self.mark + text.encode(self.codec)


def decoded(data: bytes, name: str) -> FileText:
    """Read the bytes of a file as text: UTF-8, or UTF-16 with its mark.

    Args:
      data: what the file holds.
      name: what to call it in errors.

    Raises:
      ToolError: if they are something else.
    """
    mark, codec = next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", "utf-8"))
    if codec != "utf-8":  # what Windows calls Unicode
        with suppress(UnicodeDecodeError):
            text = data[len(mark) :].decode(codec)
            if "\0" not in text:
                return FileText(text, mark, codec)
    if b"\0" in data[:8192]:
        raise ToolError(f"{name} is a binary file, not text")
    try:
        return FileText(data.removeprefix(codecs.BOM_UTF8).decode(), mark, "utf-8")
    except UnicodeDecodeError:
        raise ToolError(_not_utf8(data, name)) from None


def _not_utf8(data: bytes, name: str) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = len(_BREAK.findall(data[: error.start].decode("latin-1"))) + 1
        return f"{name} is not UTF-8 text: byte {data[error.start]:#04x} in line {line}"
    return f"{name} is not UTF-8 text"  # pragma: no cover  (it was not, a moment ago)


def split_lines(text: str) -> list[str]:
    r"""Split a text where editors do, with the line breaks: at `\n`, `\r\n` and `\r`.

    Not at form feeds and the separators of Unicode, as `splitlines` does: the numbers of lines would not
    be those that editors, compilers and version control give.
    """
    return io.StringIO(text, newline="").readlines()


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text with their numbers, one at a time."""
    return enumerate(io.StringIO(text, newline=""), 1)


def line_number(text: str, index: int) -> int:
    """Return the number of the line that a character is in, from 1."""
    number = 1 + text.count("\n", 0, index)
    if "\r" in text:
        number = 1 + sum(1 for found in _BREAK.finditer(text) if found.end() <= index)
    return number


def usual_break(text: str) -> str:
    r"""Return the line break that a text has most; `\n` if it has none."""
    both = text.count("\r\n")
    counts = {"\n": text.count("\n") - both, "\r\n": both, "\r": text.count("\r") - both}
    return max(counts, key=lambda kind: counts[kind])


def has_only_crlf(text: str) -> bool:
    r"""Whether a text has lines, and all of them end with `\r\n`."""
    both = text.count("\r\n")
    return 0 < both == text.count("\n") == text.count("\r")
