"""Text of strangers on a terminal: what models, tools, files and errors say is shown, never obeyed."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from typing import TextIO

NAMES_SHOWN = 10
"""So many names stand in a list before the rest is only counted."""
LETTERS_IN_A_COLUMN = 8
"""A letter may bear marks that take no room, and emoji may consist of seven; a million are no text."""

_JOINERS = "\u200c\u200d"  # inside of words of several scripts, and of emoji
_KEPT = frozenset("\n\t") | frozenset(_JOINERS)
# Controls (C0, DEL, C1), format characters (bidi overrides, tags, zero width), lone surrogates, and
# the separators that terminals and editors take for line breaks.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def safe(text: str) -> str:
    """Return the text with everything that a terminal would obey written as an escape such as \\x1b.

    Line breaks and tabs stay.
    """
    if text.isprintable():  # the usual case: nothing of the kind is printable
        return text
    return "".join(_escaped(letter) for letter in text)


def one_line(text: str) -> str:
    """Return the text as `safe` does, on one line, with single spaces for line breaks and tabs."""
    return safe(" ".join(part for part in _as_spaces(text).split(" ") if part))


def _as_spaces(text: str) -> str:
    return text.replace("\r\n", " ").replace("\n", " ").replace("\t", " ")


def _escaped(letter: str) -> str:
    if letter in _KEPT or unicodedata.category(letter) not in _UNSAFE:
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes; letters of some scripts take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, width: int, stream: TextIO | None = None) -> str:
    """Return the text, or its beginning and an ellipsis that together take at most `width` columns."""
    if len(text) <= LETTERS_IN_A_COLUMN * width and width_of(text) <= width:
        return text
    dots = ellipsis(stream)
    room = max(0, width - len(dots))
    kept = text[:room]
    while width_of(kept) > room:
        kept = kept[:-1]
    return kept.rstrip() + dots[:width]


def cut_front(text: str, width: int, stream: TextIO | None = None) -> str:
    """Return the text, or an ellipsis and its end that together take at most `width` columns."""
    if len(text) <= LETTERS_IN_A_COLUMN * width and width_of(text) <= width:
        return text
    dots = ellipsis(stream)[:width]
    room = max(0, width - len(dots))
    kept = text[max(0, len(text) - room) :] if room else ""
    while width_of(kept) > room:
        kept = kept[1:]
    return dots + kept.lstrip()


def pieces(text: str, width: int) -> list[str]:
    """Take a text apart into lines of at most `width` columns; at least one."""
    lines: list[str] = [""]
    taken = 0
    for letter in text:
        size = width_of(letter)
        is_full = taken + size > width or len(lines[-1]) >= LETTERS_IN_A_COLUMN * width
        if is_full and lines[-1]:
            lines.append("")
            taken = 0
        lines[-1] += letter
        taken += size
    return lines


def ellipsis(stream: TextIO | None = None) -> str:
    """Return the sign of a cut, as far as the stream's encoding has one."""
    return "…" if can_encode("…", stream) else "..."


def can_encode(text: str, stream: TextIO | None = None) -> bool:
    """Whether a stream (standard output, if none is given) can write a text as it is."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def listed(names: Sequence[str], most: int = NAMES_SHOWN) -> str:
    """Return names with commas between them; of many only the first, and the number of the others."""
    shown = ", ".join(cut(one_line(name), 60) for name in names[:most])
    left = len(names) - most
    return f"{shown} and {left:,} more" if left > 0 else shown


def encodable(text: str, stream: TextIO | None = None) -> str:
    """Return the text as the stream will write it, so that its width is known: with escapes."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)
