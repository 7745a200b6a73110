"""How the arguments of a call are read by a rule that names some text.

A text has more than one reading: `docs/../key` is also `key`, `GIT  PUSH` also `git push`, and
`cd x && rm y` also `rm y`. Whoever writes a rule means them all, and whoever makes a call may choose.
So a rule that restricts is meant by a call of which any reading fits, and a rule that permits only by
one of which every reading does.
"""

from __future__ import annotations

import functools
import itertools
import json
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST_FOLDERS = 4
"""A pattern may hold `**/` so often: each of them doubles what is compared."""

_UNSEEN = frozenset({"Cc", "Cf"})  # controls, and marks that take no room
# What ends a command in a shell, or begins one inside of another.
_BETWEEN_COMMANDS = re.compile(r"[;&|<>\n\r`]|\$?\(|\)")
# `2>&1` names no file and no command.
_STREAMS = re.compile(r"\d*>&\d+(?=[\s;&|)]|$)")
# The usual ones: that any program may start another is not to be had by comparing texts.
_BEFORE_PROGRAMS = frozenset({"!", "{", "do", "else", "then"}) | frozenset(
    {"builtin", "command", "doas", "env", "exec", "nice", "nohup", "sudo", "time", "xargs"}
)
_ASSIGNMENT = re.compile(r"\w+=")
_QUOTES = str.maketrans("", "", "'\"\\")
_DRIVE = re.compile(r"[A-Za-z]:/")


def may_fit(pattern: str, value: Any, bases: Sequence[str] = ()) -> bool:
    """Whether any reading of a value fits a pattern; capitals make no difference.

    Args:
      pattern: `*` stands for any text, `?` for one character, `**/` for any number of folders.
      value: JSON data.
      bases: the directory that relative paths refer to, by all of its names; none if unknown.
    """
    folded = pattern.casefold()
    return any(
        _fits(pattern_read.casefold(), read.casefold())
        for text in _texts(value, whole=True)
        for pattern_read, read in _readings(folded, text, bases, by_place=False)
    )


def must_fit(pattern: str, value: Any, bases: Sequence[str] = ()) -> bool:
    """Whether every reading of a value, and of each part of it, fits a pattern (see `may_fit`)."""
    return all(
        _fits(pattern_read, read)
        for text in _texts(value, whole=False)
        for pattern_read, read in _readings(pattern, text, bases, by_place=True)
    )


# -- from a value to texts ------------------------------------------------------------


def text_of_value(value: Any) -> str:
    """Return a text as it is, and any other value as compact JSON with sorted keys."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)


def _texts(value: Any, *, whole: bool) -> Iterator[str]:
    """Yield the texts that a value consists of, names of keys among them.

    Args:
      whole: whether an array or a table is also a text itself, and a text that holds one, or a
        number, also that.
    """
    parts = _parts(value)
    if parts is None or whole:
        yield text_of_value(value)
    yield from () if parts is None else _leaves(parts)
    if whole and isinstance(value, str):
        yield from _texts_inside(value)


def _parts(value: Any) -> Sequence[Any] | None:
    """Return what an array or a table holds; None for anything else, and for an empty one."""
    if isinstance(value, Mapping):
        return [*value, *value.values()] or None
    return list(value) or None if isinstance(value, list | tuple) else None


def _leaves(parts: Sequence[Any]) -> Iterator[str]:
    todo = list(parts)
    while todo:
        one = todo.pop()
        inside = _parts(one)
        if inside is None:
            yield text_of_value(one)
        else:
            todo.extend(inside)


def _texts_inside(text: str) -> Iterator[str]:
    """Yield what a text says in JSON, or in another way to write a number."""
    for read in (json.loads,) if text.lstrip()[:1] in ("[", "{") else (int, float):
        try:
            value = read(text)
        except (ValueError, RecursionError):
            continue
        yield from _leaves([value])
        return


# -- the readings of a text -----------------------------------------------------------


def _readings(pattern: str, text: str, bases: Sequence[str], *, by_place: bool) -> Iterator[tuple[str, str]]:
    """Yield the pattern and the text in each way in which they are to be compared.

    Args:
      by_place: whether a pattern of several commands is compared command by command, with a text of as
        many; else the whole pattern is meant by each command.
    """
    yield pattern, text
    mended, plain = _mended(pattern), _mended(text)
    yield mended, plain
    for base in bases or (None,):
        yield _paths(mended, plain, base)
    for base, other in itertools.permutations(() if by_place else bases, 2):
        # The same directory by another name.
        inside = _paths(".", plain, base)[1]
        if not inside.startswith("../"):
            yield _paths(mended, inside, other)
    commands = _commands(text)
    wanted = _commands(pattern) if by_place else []
    if len(wanted) != len(commands):
        wanted = [mended] * len(commands)
    for one, command in zip(wanted, commands, strict=True):
        yield one, command
        bare = command.translate(_QUOTES)
        yield one.translate(_QUOTES), bare
        if not by_place:
            yield one.translate(_QUOTES), _from_its_program(bare)


def _commands(text: str) -> list[str]:
    parts = _BETWEEN_COMMANDS.split(_STREAMS.sub(" ", text))
    return [command for part in parts if (command := _mended(part))]


def _from_its_program(command: str) -> str:
    """Return a command without what stands before its program, and without the program's directory."""
    words = command.split(" ")
    while len(words) > 1 and (words[0].casefold() in _BEFORE_PROGRAMS or _ASSIGNMENT.match(words[0])):
        del words[0]
    if len(words) > 1:  # else it may be a path, of which the last part alone is another one
        words[0] = words[0].rpartition("/")[2]
    return " ".join(words)


def _mended(text: str) -> str:
    """Return a text with its look-alikes and all that is not seen taken out, and single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if not text.isprintable():
        text = "".join(
            letter for letter in text if letter.isspace() or unicodedata.category(letter) not in _UNSEEN
        )
    return " ".join(text.split())


def _paths(pattern: str, text: str, base: str | None) -> tuple[str, str]:
    """Return both as paths: absolute ones if the pattern is one, else relative to `base`."""
    wanted, path = _slashed(pattern), _slashed(text)
    if base is None:
        return posixpath.normpath(wanted), posixpath.normpath(path)
    home = posixpath.normpath(_slashed(base))
    absolute = posixpath.normpath(path if _is_absolute(path) else f"{home}/{path}")
    if _is_absolute(wanted):
        return posixpath.normpath(wanted), absolute
    return posixpath.normpath(wanted), _relative(absolute, home)


def _slashed(text: str) -> str:
    # Two slashes at the beginning have a meaning of their own to `normpath`, and none to a file system.
    return re.sub(r"^//+", "/", text.replace("\\", "/"))


def _is_absolute(path: str) -> bool:
    return path.startswith("/") or _DRIVE.match(path) is not None


def _relative(path: str, home: str) -> str:
    """Return an absolute path as seen from another; pure, where `relpath` asks for the current one."""
    here, there = home.split("/"), path.split("/")
    shared = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(here, there, strict=False))))
    if not shared:
        return path  # on another drive
    return "/".join([*[".."] * len([part for part in here[shared:] if part]), *there[shared:]]) or "."


# -- patterns -------------------------------------------------------------------------


def _fits(pattern: str, text: str) -> bool:
    return any(regex.fullmatch(text) for regex in _compiled(pattern))


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> tuple[re.Pattern[str], ...]:
    parts = pattern.split("**/", MOST_FOLDERS)
    ways = itertools.product(*[("", "*/")] * (len(parts) - 1))
    return tuple(
        re.compile(_regex("".join(itertools.chain(*zip(parts, (*way, ""), strict=True)))), re.DOTALL)
        for way in ways
    )


def _regex(pattern: str) -> str:
    """Return a pattern as a regular expression whose time grows with the text and not faster.

    What stands between two stars is looked for once, from the left, and never again: if it fits at all,
    it does so there.
    """
    first, *rest = [_fixed(part) for part in pattern.split("*")]
    if not rest:
        return first
    *between, last = rest
    return first + "".join(f"(?>.*?{part})" for part in between if part) + f".*{last}"


def _fixed(text: str) -> str:
    return "".join("." if letter == "?" else re.escape(letter) for letter in text)
