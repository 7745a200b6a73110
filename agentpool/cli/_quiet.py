"""Keeps the lines of a view back while the person at the terminal is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs


@attrs.define(eq=False)
class Quiet:
    """Keeps lines back while somebody is asked."""

    _again: Callable[[], None] | None = None
    _kept: list[str] = attrs.field(factory=list)

    @property
    def is_asking(self) -> bool:
        """Whether somebody is asked now."""
        return self._again is not None

    @contextmanager
    def asking(self, again: Callable[[], None], kept: list[str]) -> Iterator[None]:
        """Keep lines back within the block: they are added to `kept`."""
        self._again, self._kept = again, kept
        try:
            yield
        finally:
            self._again = None

    def keeps(self, line: str) -> bool:
        """Keep a line back, if somebody is asked; tell whether that was done."""
        if self._again is not None:
            self._kept.append(line)
        return self._again is not None

    def ask_again(self) -> None:
        """Something was printed behind the question, if there is one."""
        if self._again is not None:
            self._again()
