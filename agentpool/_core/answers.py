"""Finds the JSON of a typed answer among thoughts, prose and fences."""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence

from agentpool._core.outputs import Parsed, Problems

Read = Callable[[str], Parsed | Problems]


def first_fit(text: str, read: Read) -> Parsed | Problems:
    """Return what the first JSON in an answer is read as that fits.

    First the whole text is tried, then what follows the model's thoughts, then the fenced blocks of
    that, the last one first, then the objects and arrays that stand in it, the last one first. What
    is a part of another JSON value, or of a thought, is never taken by itself.

    Args:
      text: the whole answer.
      read: reads a JSON text.

    Returns:
      What fits; or else the problems of the first JSON that was found, and without any those of the
      whole text.
    """
    whole = read(text.strip(_BLANK))
    if isinstance(whole, Parsed):
        return whole
    problems = whole if _is_json(text.strip(_BLANK)) else None
    for candidate in _candidates(text):
        found = read(candidate)
        if isinstance(found, Parsed):
            return found
        problems = problems or found
    return problems or whole


_BLANK = " \t\r\n\ufeff"


def _candidates(text: str) -> Iterator[str]:
    said = without_thoughts(text)
    blocks = [block["body"] for block in _FENCE.finditer(said)]
    for part in (said, *reversed(blocks)):
        if _is_json(part.strip(_BLANK)):
            yield part.strip(_BLANK)
    for start, end in reversed(_values_in(said)):
        yield said[start:end]


_FENCE = re.compile(r"```[\w+-]*[^\S\n]*\n(?P<body>.*?)```", re.DOTALL)


def _is_json(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def refuse_constant(name: str) -> object:
    """Refuse what Python's JSON takes beyond JSON: `NaN` and `Infinity`."""
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=refuse_constant)
_ANY_DECODER = json.JSONDecoder()  # where a value ends that holds a NaN is known as well

MOST_BROKEN = 10_000
"""After so many brackets of no value the search ends: Python counts a text's lines for each of them."""


def _values_in(text: str) -> list[tuple[int, int]]:
    """Return where objects and arrays stand in a text: start and end of each, in their order.

    A search from each bracket to the end of the text would take quadratic time. So one that leads to
    no value goes on where the value broke off: what stands before that is a part of something broken.
    """
    found = []
    broken = 0
    at = _next_bracket(text, 0)
    while at is not None:
        try:
            _, end = _ANY_DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            end = max(error.pos, at + 1)
            broken += 1
            if broken == MOST_BROKEN:
                break
        except (ValueError, RecursionError):  # a number of 5,000 digits, a thousand brackets
            break
        else:
            found.append((at, end))
        at = _next_bracket(text, end)
    return found


def _next_bracket(text: str, start: int) -> int | None:
    match = _BRACKET.search(text, start)
    return None if match is None else match.start()


_BRACKET = re.compile(r"[{\[]")


# -- thoughts -----------------------------------------------------------------------

_OPENED = re.compile(r"[\s\ufeff]*<(?P<tag>think|thinking|thought|reasoning)\b[^<>]*>", re.IGNORECASE)
_CLOSING = re.compile(r"</(?:think|thinking|thought|reasoning)\s*>", re.IGNORECASE)


def without_thoughts(text: str) -> str:
    """Return what follows the thoughts with which an answer begins.

    They end with the last tag that closes some; one may be there without the tag that opens them,
    which some servers swallow. Thoughts that nothing closes may hold the answer: only their tag goes.
    """
    start, values = 0, None
    while (closing := _CLOSING.search(text, _after_tag(text, start))) is not None:
        if _OPENED.match(text, start) is None:
            # Once for all tags: thousands of them would take quadratic time.
            values = _values_in(text) if values is None else values
            if _stands_in(values, closing.start()):
                break
        start = closing.end()
    return text[_after_tag(text, start) :].strip(_BLANK)


def _after_tag(text: str, start: int) -> int:
    opened = _OPENED.match(text, start)
    return start if opened is None else opened.end()


def _stands_in(values: Sequence[tuple[int, int]], position: int) -> bool:
    """Whether a tag is a part of a JSON value, such as a page of HTML in a string."""
    before = bisect(values, (position, position))
    return before > 0 and position < values[before - 1][1]
