"""Context variables that have a value for the time of a block."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from agentpool._kernel.protection import protect_module

T = TypeVar("T")


class Bound(Generic[T]):
    """Has a context variable hold a value within a block.

    One that holds it already is left alone: each variable more that is set makes every copy of the context,
    of which each tool call makes one, dearer.
    """

    __slots__ = ("_above", "_value", "_variable")

    def __init__(self, variable: ContextVar[T], value: T) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> None:
        self._above = self._variable.get()
        if self._above is not self._value:
            self._variable.set(self._value)

    def __exit__(self, *_: Any) -> None:
        if self._above is not self._value:
            self._variable.set(self._above)


protect_module(globals())
