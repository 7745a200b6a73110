"""What `--var NAME=VALUE` and options that are paths say."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from agentpool.cli._errors import BadInputError


def parse_vars(given: Iterable[str]) -> dict[str, str]:
    """Return the values of variables by their names.

    Raises:
      BadInputError: if one is not written as NAME=VALUE, or a name is given twice.
    """
    values: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise BadInputError(f"--var {text!r} does not name a variable. Write --var NAME=VALUE")
        if name in values:
            raise BadInputError(f"--var {name} is given twice. Give it once")
        values[name] = value
    return values


def parse_directory(option: str, text: str) -> Path:
    """Return the directory that an option names; `~` at its beginning is the user's home.

    A shell leaves it as it is in `--option=~/path`, and nobody wants a directory of that name.

    Raises:
      BadInputError: if it is empty, as a variable of the shell that is not set is.
    """
    return _path(option, text, "directory")


def parse_file(option: str, text: str) -> Path:
    """Return the file that an option names, as `parse_directory` does.

    Raises:
      BadInputError: if it is empty.
    """
    return _path(option, text, "file")


def _path(option: str, text: str, kind: str) -> Path:
    if not text:
        raise BadInputError(f"{option} is empty. Give the path of a {kind}")
    return Path(os.path.expanduser(text))
