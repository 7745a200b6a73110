"""Patterns of file names, as people and models write them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

from agentpool._core.errors import ToolError

MAX_ALTERNATIVES = 64  # that the braces of a pattern may stand for
MAX_PATTERN_CHARS = 1_000  # so that what takes the square of them takes no time, either

_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")  # the innermost; without a comma they are letters of a name
_ESCAPED = re.compile(r"\\([\[\]{}])")
_STAND_INS = str.maketrans("{}", "\ue000\ue001")  # for braces that are letters, while others are resolved
_MEANT = str.maketrans("\ue000\ue001", "{}")
_HIDDEN = re.compile(r"(^|[/{,\\])\.[^./\\]")


def names_hidden(pattern: str) -> bool:
    """Whether a pattern has a part that begins with a dot, so that hidden files are meant."""
    return _HIDDEN.search(pattern) is not None


def glob_matcher(pattern: str) -> Callable[[str], bool]:
    r"""Return what tells whether a name fits a glob.

    `*`, `?` and `[...]` stay within one part of the name, `**` is any number of parts, and
    `{a,b}` is either, also one in the other. A backslash before a bracket or brace makes it a letter of
    the name, and is a slash elsewhere. A pattern without a slash fits the last part, in every directory;
    one that ends with a slash fits all that is below. A part that begins with a dot is fitted only by one
    that does. The name that is written like the pattern fits, too. Takes time in proportion to the length
    of name and pattern, whatever they are.

    Raises:
      ToolError: if the pattern is too long, or braces stand for more than `MAX_ALTERNATIVES` patterns.
    """
    pattern = pattern.strip() or "**"
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ToolError(f"the pattern has {len(pattern)} characters; {MAX_PATTERN_CHARS} are the limit")
    plain = _relative(_ESCAPED.sub(r"\1", pattern))
    wanted = _relative(_ESCAPED.sub(_letter, pattern))
    fits = [_matcher(each.translate(_MEANT)) for each in dict.fromkeys((wanted, *_alternatives(wanted)))]
    return lambda name: name == plain or any(match(name) for match in fits)


def _relative(pattern: str) -> str:
    return pattern.replace("\\", "/").removeprefix("./").lstrip("/")


def _letter(escaped: re.Match[str]) -> str:
    letter = escaped[1]
    return f"[{letter}]" if letter == "[" else letter.translate(_STAND_INS)


def _alternatives(pattern: str) -> list[str]:
    """Return the patterns that braces stand for: `*.{ts,js}` is `*.ts` and `*.js`."""
    done: list[str] = []
    todo = [pattern]
    while todo:
        each = todo.pop()
        found = _BRACES.search(each)
        if found is None:
            done.append(each)
        else:
            todo += [each[: found.start()] + part + each[found.end() :] for part in found[1].split(",")]
        if len(done) + len(todo) > MAX_ALTERNATIVES:
            raise ToolError(
                f"{pattern.translate(_MEANT)!r} stands for more than {MAX_ALTERNATIVES} patterns;"
                " write fewer braces"
            )
    return done


def _matcher(pattern: str) -> Callable[[str], bool]:
    parts = [part for part in pattern.split("/") if part != "."] or ["**"]
    parts = ["**", *parts] if len(parts) == 1 else parts
    parts = [*parts[:-1], "**"] if parts[-1] == "" else parts
    # `**.md` is `**/*.md`, as people mean it; `[^a]` is `[!a]`, as shells have it.
    parts = [new for part in parts for new in (("**", part) if part[:2] == "**" != part else (part,))]
    fits = [
        None if part == "**" else re.compile(fnmatch.translate(part.replace("[^", "[!"))).match
        for part in parts
    ]

    def reachable(states: set[int]) -> set[int]:
        for state in sorted(states):
            while state < len(fits) and fits[state] is None:
                state += 1
                states.add(state)
        return states

    def matches(name: str) -> bool:
        states = reachable({0})
        for part in name.split("/"):
            after = set()
            for state in states:
                if part[0:1] == "." and not (state < len(parts) and parts[state][0:1] == "."):
                    continue
                check = fits[state] if state < len(fits) else _never
                if check is None:
                    after.add(state)
                elif check(part):
                    after.add(state + 1)
            states = reachable(after)
        return len(fits) in states

    return matches


def _never(part: str) -> None:
    """Fit nothing: the pattern has come to its end."""
