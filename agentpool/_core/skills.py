"""Skills: what the front matter of a `SKILL.md` says, and how it is told to a model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

import attrs

MAX_DESCRIPTION = 1_024
"""So many characters of a skill's description are told at the most."""

MAX_LISTED = 16_000
"""So many characters the descriptions of all skills of an agent may have together."""


@attrs.frozen
class SkillHead:
    """What the front matter of a skill says.

    Attributes:
      name: how the model asks for it.
      description: what it is for, and when.
    """

    name: str
    description: str


class SkillError(ValueError):
    """The front matter of a skill is wrong.

    Attributes:
      key: of what; empty for all of it.
      problem: what is wrong.
      fix: how to mend it.
    """

    def __init__(self, key: str, problem: str, fix: str) -> None:
        self.key = key
        self.problem = problem
        self.fix = fix
        super().__init__(f"{key}: {problem}. {fix}")


def skill_head(text: str) -> SkillHead:
    """Return what the front matter of a `SKILL.md` says.

    It is YAML between two lines `---`, of which the simple forms are read: plain and quoted texts, also over
    several lines, and blocks (`>` and `|`). Keys other than `name` and `description` may be anything.

    Raises:
      SkillError: if there is no front matter, or a name or a description is missing.
    """
    values = dict(_entries(_front_matter(text)))
    name, description = (" ".join(values.get(key, "").split()) for key in ("name", "description"))
    for key, value in (("name", name), ("description", description)):
        if not value:
            problem = "is missing" if key not in values else "is empty"
            raise SkillError(key, problem, f"Write '{key}: ...' between the two lines '---'")
    return SkillHead(name, description)


def _front_matter(text: str) -> list[str]:
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[0].rstrip() != "---":
        fix = "Begin the file with '---', 'name: ...', 'description: ...', '---'"
        raise SkillError("", "there is no front matter in its first line", fix)
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() in ("---", "..."):
            return lines[1:number]
    raise SkillError("", "its front matter has no end", "Write a line '---' behind it")


_KEY = re.compile(
    r"""(?:"([^"]*)"|'([^']*)'|([^\s#'"\[\]{}&*!|>%@`,-][^:]*?|-[^\s:][^:]*?))\s*:(?:\s+(.*)|$)"""
)
_BLOCK = re.compile(r"([>|])([+-]?[1-9]?|[1-9][+-]?)(?:\s+#.*)?")


def _entries(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the keys of the outermost level, each with its text; what is no text is told as it is written."""
    at = 0
    while at < len(lines):
        found = _KEY.fullmatch(lines[at].rstrip())
        at += 1
        if found is None:
            continue
        start = at
        while at < len(lines) and (not lines[at].strip() or lines[at][0] in " \t"):
            at += 1
        name = next(each for each in found.groups()[:3] if each is not None)
        yield name, _text((found[4] or "").strip(), lines[start:at])


def _text(first: str, more: Sequence[str]) -> str:
    """Return the text that begins behind a key, and goes on in the lines below it."""
    block = _BLOCK.fullmatch(first)
    if block is not None:
        return "\n".join(more) if block[1] == "|" else " ".join(line.strip() for line in more)
    whole = " ".join(part for part in (first, *(line.strip() for line in more)) if part)
    quoted = _QUOTED.fullmatch(whole)
    if quoted is not None:
        return quoted[2].replace("''", "'") if quoted[1] is None else _unescaped(quoted[1])
    # `#42` is meant as it stands there, though YAML would take it for a comment.
    lines = (re.sub(r"(^|\s)#(\s.*)?$", "", line.strip()) for line in (first, *more))
    return " ".join(line for line in lines if line)


# All of it has to be quoted: a text that only begins with a quotation is meant as it is written.
_QUOTED = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|'((?:[^']|'')*)')(?:\s+#.*)?""")


def _unescaped(text: str) -> str:
    try:
        read: str = json.loads(f'"{text}"', strict=False)
    except ValueError:  # an escape that YAML has and JSON has not
        return text
    return read


def listed_skills(heads: Sequence[SkillHead]) -> str:
    """Return the skills of an agent as its model is told of them, a line for each."""
    room = max(60, min(MAX_DESCRIPTION, MAX_LISTED // max(1, len(heads))))
    return "\n".join(f"- {head.name}: {_short(head.description, room)}" for head in heads)


def _short(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 3].rstrip()}..."
