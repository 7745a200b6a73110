"""Paths and patterns of files in a fleet file, with its variables in them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import attrs

from agentpool._core.rules import Report
from agentpool._core.templates import Placeholder, TemplateError, parse_template
from agentpool.fleet.variables import Variables


@attrs.frozen
class Place:
    """Where paths of a fleet file begin: its own directory, or a variable that is a path.

    Attributes:
      directory: where the file is, as its reader named it.
      variables: those of the file.
      report: takes the problems.
    """

    directory: Path
    variables: Variables
    report: Report

    def path(self, key: str, text: str) -> Path | None:
        """Return the path that a text stands for, None if that cannot be told."""
        variable, rest = self._split(text)
        if not self.variables.check(key, text if variable is None else rest, paths=variable is None):
            return None
        filled = self.variables.fill(text)
        if not isinstance(filled, str):
            return None
        return self.directory / filled if variable is None else Path(filled)

    def files(self, key: str, pattern: str, exclude: Sequence[str]) -> list[str]:
        """Return the files of a pattern in the order of their paths, and report it if there are none.

        They are written as seen from the directory of the fleet file, or, if the pattern begins with
        a variable that is a path, as that variable is.
        """
        variable, rest = self._split(pattern)
        if not self.variables.check(key, rest, paths=False):
            return []
        root = self.directory if variable is None else self._root(key, variable)
        values = self.variables.values.items()
        escaped = {name: glob.escape(value) for name, value in values if isinstance(value, str)}
        filled = self.variables.fill(rest, **escaped)
        if root is None or not isinstance(filled, str):
            return []
        shown = filled if variable is None else f"{root.as_posix()}{filled}"
        fix = "Check the pattern; it is relative to the fleet file"
        if variable is not None:
            fix = f"Check the pattern, and the path that --var {variable} gives"
        found = self._glob(key, root, filled if variable is None else filled[1:], shown)
        if found is None:
            return []
        wanted = [path for path in found if not _is_excluded(path.relative_to(root).parts, exclude)]
        if not wanted:
            no = "matches only files that 'exclude' passes over" if found else "matches no file"
            self.report.add(key, f"{shown!r} {no}", fix)
        return [(path.relative_to(root) if variable is None else path).as_posix() for path in wanted]

    def _split(self, text: str) -> tuple[str | None, str]:
        """Return the variable that is the beginning of a path, if there is one, and the rest."""
        try:
            first = next(iter(parse_template(text)), None)
        except TemplateError:
            return None, text
        if isinstance(first, Placeholder) and first.name in self.variables.paths:
            rest = text[len(str(first)) :]
            if first.index is None and (not rest or rest.startswith("/")):
                self.variables.used.add(first.name)
                return first.name, rest
        return None, text

    def _root(self, key: str, variable: str) -> Path | None:
        value = self.variables.values[variable]
        if not isinstance(value, str):
            return None
        problem = _why_no_directory(value)
        if problem is not None:
            self.report.add(key, problem, f"Give a directory with --var {variable}=PATH")
            return None
        return Path(value)

    def _glob(self, key: str, root: Path, pattern: str, shown: str) -> list[Path] | None:
        try:
            return sorted({path for path in root.glob(pattern) if _may_be_file(path)})
        except (ValueError, IndexError, NotImplementedError):  # pathlib raises them all
            fix = "Write it relative to the fleet file, such as docs/**/*.md, ** as a whole directory only"
            self.report.add(key, f"{shown!r} is no pattern of files", fix)
            return None


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # in a directory that may be listed and not entered: its agent will tell of it
        return True


def _why_no_directory(path: str) -> str | None:
    try:
        os.scandir(path).close()
    except FileNotFoundError:
        return f"there is no directory {path!r}"
    except NotADirectoryError:
        return f"{path!r} is a file, not a directory"
    except OSError as error:
        return f"{path!r} cannot be read: {error.strerror}"
    return None


def _is_excluded(parts: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(part, pattern) for part in parts for pattern in patterns)
