"""Exact replacement in a text: what is replaced, and what is wrong if nothing or too much would be."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence

import attrs

from agentpool._core.errors import ToolError
from agentpool.tools._lines import line_number, numbered, usual_break

MAX_MATCHES = 100_000
MAX_CHARS = 50_000_000  # before the bytes are counted
MAX_SHOWN_LINES = 20  # of what is nearest to a text that was not found
MAX_SHOWN_MATCHES = 20
_MAX_COMPARED = 4_000  # lines that are looked at for the nearest one
_MAX_LINE = 300  # characters of a line that are compared, and shown

_BREAK = re.compile(r"\r\n|\n")  # as models write them
_OWN_BREAK = re.compile(r"\r\n|\n|\r")
_NUMBERED = re.compile(r"\s*(?:[^\s:]+:)?\d+(?:[:|]|\t|→)")

# What models write for what files have, and the other way round.
_LOOKALIKES = str.maketrans({
    "‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "–": "-", "—": "-", "−": "-", "‑": "-",  # noqa: RUF001
    "\xa0": " ", "\u202f": " ", "…": "...",
})  # fmt: skip


@attrs.frozen
class Edited:
    """A text after its edit.

    Attributes:
      text: the whole new text.
      count: how often something was replaced.
      lines: the numbers of the first of these lines, in the old text.
    """

    text: str
    count: int
    lines: tuple[int, ...]

    def told(self) -> str:
        """Say where something was replaced."""
        times = f"{self.count} times: " if self.count > 1 else ""
        return f"{times}{_told_lines(self.lines, self.count)}"


def edited(text: str, old: str, new: str, *, replace_all: bool, name: str) -> Edited:
    r"""Replace `old` by `new`, which are taken as they are: nothing in them has a meaning.

    Line breaks are those of the file: a `\n` of `old` fits any, and those of `new` become what stands in
    the part that is replaced, or what the file has most. An `old` that has a `\r` is looked for as it
    is before that.

    Args:
      text: the old text.
      old: what is replaced.
      new: what takes its place.
      replace_all: whether to replace it wherever it is; else it has to be there once.
      name: what to call the file in errors.

    Raises:
      ToolError: if there is no such text, more than one, or nothing would change.
    """
    if not old:
        raise ToolError("old is empty: give the text that is replaced; write_file writes a whole file")
    spans = _spans(text, old, replace_all)
    _refuse_if_too_many(text, spans, new, name)
    if not spans:
        raise ToolError(f"old is not in {name}. {_hint(text, old, new)}")
    lines = tuple(line_number(text, start) for start, _ in spans[: MAX_SHOWN_MATCHES + 1])
    if len(spans) > 1 and not replace_all:
        raise ToolError(
            f"old is in {name} {len(spans)} times, at {_told_lines(lines, len(spans))}; give more of the"
            " lines around the one that you mean, or set replace_all"
        )
    changed = _replaced(text, spans, new)
    if changed == text:
        raise ToolError(
            f"old and new say the same, so that {name} would stay as it is (line breaks are the file's own)"
        )
    return Edited(changed, len(spans), lines)


def _refuse_if_too_many(text: str, spans: Sequence[tuple[int, int]], new: str, name: str) -> None:
    """Refuse what would take all memory: a long text in the place of very many short ones."""
    if len(spans) > MAX_MATCHES:
        raise ToolError(f"old is in {name} more than {MAX_MATCHES:,} times; write_file writes a whole file")
    if len(text) + len(spans) * len(new) > MAX_CHARS:
        raise ToolError(f"{name} would have more than {MAX_CHARS:,} characters after the edit")


def _told_lines(lines: Sequence[int], total: int) -> str:
    told = ", ".join(map(str, lines[:MAX_SHOWN_MATCHES]))
    return f"line{'s' * (total > 1)} {told}{' and more' * (total > MAX_SHOWN_MATCHES)}"


# -- finding -------------------------------------------------------------------------


def _spans(text: str, old: str, replace_all: bool) -> list[tuple[int, int]]:
    """Return where `old` is; overlapping places count, if only one of them could be meant."""
    if "\r" in old and (found := _found(text, old, replace_all)):
        return [(start, start + len(old)) for start in found]
    wanted = _plain(old)
    if "\r" not in text:
        return [(start, start + len(wanted)) for start in _found(text, wanted, replace_all)]
    # A place in the text without carriage returns, and the one in the text with them.
    at = _positions(text)
    return [(at(start), at(start + len(wanted))) for start in _found(_plain(text), wanted, replace_all)]


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _found(text: str, wanted: str, apart: bool) -> list[int]:
    """Return where a text is, up to one place more than `MAX_MATCHES`."""
    step = len(wanted) if apart else 1
    found: list[int] = []
    start = text.find(wanted)
    while start >= 0 and len(found) <= MAX_MATCHES:
        found.append(start)
        start = text.find(wanted, start + step)
    return found


def _positions(text: str) -> Callable[[int], int]:
    r"""Return the function from an index of `_plain(text)` to one of `text`: each `\r\n` counts for one."""
    pairs = [found.start() - before for before, found in enumerate(re.finditer("\r\n", text))]
    return lambda index: index + bisect_left(pairs, index)


def _replaced(text: str, spans: Sequence[tuple[int, int]], new: str) -> str:
    usual = usual_break(text)
    parts: list[str] = []
    end_before = 0
    for start, end in spans:
        own = _OWN_BREAK.search(text, start, end)
        parts += (text[end_before:start], (own[0] if own else usual).join(_BREAK.split(new)))
        end_before = end
    return "".join((*parts, text[end_before:]))


# -- what is wrong, if nothing is found ------------------------------------------------


def _hint(text: str, old: str, new: str) -> str:
    """Say what in the file is nearest to a text that is not there."""
    lines = [line.rstrip("\r\n") for _, line in numbered(text)]
    wanted = _plain(old).strip("\n").split("\n")
    if new.strip() and _spans(text, new, True):
        return "But new is there: was it replaced before?"
    for differs, alike in _LIKENESSES:
        keys = [alike(line) for line in wanted]
        found = [alike(line) for line in lines]
        start = _run_of(keys, found)
        if start is None and len(keys) == 1 and alike is not _without_number:
            start = next((n for n, line in enumerate(found) if keys[0] in line), None)
        if any(keys) and start is not None:
            return f"What is there differs in {differs}:\n{_shown(lines, start, len(wanted))}"
    if "\n" not in old and "\\n" in old and _spans(text, old.replace("\\n", "\n"), True):
        return r"Line breaks are written as \\n there, where \n is one"
    return _nearest(lines, wanted)


def _without_number(line: str) -> str:
    return _NUMBERED.sub("", line, count=1).strip()


def _spaced(line: str) -> str:
    return " ".join(line.split())


_LIKENESSES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("white space", _spaced),
    ("white space", lambda line: "".join(line.split())),
    ("quotes, dashes or spaces that look alike", lambda line: _spaced(line.translate(_LOOKALIKES))),
    ("the numbers of lines, which are no part of the file", _without_number),
    ("upper and lower case", lambda line: _spaced(line.casefold())),
)


def _run_of(wanted: Sequence[str], lines: Sequence[str]) -> int | None:
    """Return where the wanted lines follow each other, compared as wholes; None if nowhere."""
    place = ("\n" + "\n".join(lines) + "\n").find("\n" + "\n".join(wanted) + "\n")
    return None if place < 0 else "\n".join(("", *lines)).count("\n", 0, place)


def _shown(lines: Sequence[str], start: int, count: int) -> str:
    shown = lines[start : start + min(count, MAX_SHOWN_LINES)]
    told = [f"{start + n + 1}: {line[:_MAX_LINE]}" for n, line in enumerate(shown)]
    if count > MAX_SHOWN_LINES:
        told.append(f"and {count - MAX_SHOWN_LINES} lines more")
    return "\n".join(told)


def _nearest(lines: Sequence[str], wanted: Sequence[str]) -> str:
    first = max(wanted, key=lambda line: len(line.strip()))[:_MAX_LINE].strip()
    few = [line[:_MAX_LINE].strip() for line in lines[:_MAX_COMPARED]]
    found = difflib.get_close_matches(first, few, 1) if first else []
    if not found:
        return "Nothing there is like it; read_file shows what the file holds now"
    return f"The line that is most like {first!r} is\n{_shown(lines, few.index(found[0]), 1)}"
