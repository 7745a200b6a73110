"""What `--var NAME=VALUE` says."""

from __future__ import annotations

from collections.abc import Iterable

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
