"""The reviewers' own tools: checks of one Markdown file, each with the lines that it found.

Paths are relative to this folder, as they are in the fleet file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
MOST_CHARACTERS = 120
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)")
HEADING = re.compile(r"(#{1,6})\s+(.*)")
TODO = re.compile(r"\b(TODO|FIXME|XXX)\b")


def check_links(path: str) -> list[str]:
    """Find relative links that lead to no file.

    Args:
      path: the Markdown file.
    """
    folder = (HERE / path).parent
    found = []
    for number, line in _prose(path):
        for target in LINK.findall(line):
            file = target.partition("#")[0]
            if (
                file
                and "://" not in target
                and not target.startswith("mailto:")
                and not (folder / file).exists()
            ):
                found.append(f"line {number}: broken link: {target}")
    return found


def check_headings(path: str) -> list[str]:
    """Find headings that skip a level, such as a third below a first.

    Args:
      path: the Markdown file.
    """
    found = []
    above = 0
    for number, line in _prose(path):
        if heading := HEADING.fullmatch(line):
            level = len(heading[1])
            if level > above + 1:
                found.append(f"line {number}: heading skips a level: {heading[2]}")
            above = level
    return found


def find_todos(path: str) -> list[str]:
    """Find lines with a mark of unfinished work: TODO, FIXME or XXX.

    Args:
      path: the Markdown file.
    """
    return [
        f"line {number}: unfinished: {line.strip()}" for number, line in _prose(path) if TODO.search(line)
    ]


def find_long_lines(path: str) -> list[str]:
    """Find lines of more than 120 characters, tables and code aside.

    Args:
      path: the Markdown file.
    """
    return [
        f"line {number}: {len(line)} characters"
        for number, line in _prose(path)
        if len(line) > MOST_CHARACTERS and not line.startswith("|")
    ]


def count_words(path: str) -> int:
    """Count the words of a file, its code aside.

    Args:
      path: the Markdown file.
    """
    return sum(len(line.split()) for _, line in _prose(path))


def _prose(path: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a file that are not inside fenced code."""
    fence = ""
    for number, line in enumerate((HERE / path).read_text("utf-8").splitlines(), start=1):
        mark = line.lstrip()[:3]
        if fence:
            fence = "" if mark == fence else fence
        elif mark in ("```", "~~~"):
            fence = mark
        else:
            yield number, line
