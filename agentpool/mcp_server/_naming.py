"""Names of tools: what every client and every model accepts, and each once."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 64
_OTHERS = re.compile(r"[^A-Za-z0-9_-]+")


def tool_names(names: Iterable[str]) -> list[str]:
    """Return a name of a tool for each name of an agent, in the same order.

    It has letters, digits, `_` and `-` only, and at most 64 of them. Names that come to the same are
    told apart by a number. A name that is right as it is stays so.
    """
    given = list(names)
    cleaned = [_cleaned(name) for name in given]
    taken = {name for name, clean in zip(given, cleaned, strict=True) if name == clean}
    made = []
    for name, clean in zip(given, cleaned, strict=True):
        made.append(clean if name == clean else _unused(clean, taken))
        taken.add(made[-1])
    return made


def _cleaned(name: str) -> str:
    return _OTHERS.sub("_", name).strip("_")[:LONGEST] or "agent" if _OTHERS.search(name) else name[:LONGEST]


def _unused(clean: str, taken: set[str]) -> str:
    number, name = 1, clean
    while name in taken:
        number += 1
        ending = f"_{number}"
        name = clean[: LONGEST - len(ending)] + ending
    return name
