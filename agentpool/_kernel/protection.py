"""Ctrl-C may not strike in the middle of the library's bookkeeping.

Trio raises `KeyboardInterrupt` in whatever runs when the signal comes, except in code that is marked
as protected: then the main task gets it at its next checkpoint. Whether code is protected is decided
by the innermost marked function on the stack. So every function of the kernel is marked, each module
by its last line, and where the kernel calls a user's code it goes through one of the two here that are
not: a loop without an end in an agent can be interrupted.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import trio

from agentpool._core.text import note, shown, told


def protect_module(namespace: dict[str, Any]) -> None:
    """Mark every function and method that a module defines."""
    for function in functions_of(namespace):
        trio.lowlevel.enable_ki_protection(function)


def protect_class(cls: type) -> None:
    """Mark every method of a class."""
    for value in vars(cls).values():
        for function in _functions_in(value):
            trio.lowlevel.enable_ki_protection(function)


def functions_of(namespace: dict[str, Any]) -> list[FunctionType]:
    """Return the functions and methods that a module defines."""
    own = [
        value for value in namespace.values() if getattr(value, "__module__", None) == namespace["__name__"]
    ]
    functions: list[FunctionType] = []
    for value in own:
        for part in vars(value).values() if isinstance(value, type) else (value,):
            functions += _functions_in(part)
    return functions


def _functions_in(value: Any) -> list[FunctionType]:
    if isinstance(value, property):
        return [one for one in (value.fget, value.fset) if isinstance(one, FunctionType)]
    # Of a function that `contextmanager` and its like have wrapped, what runs is the inner one.
    while hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    return [value] if isinstance(value, FunctionType) else []


@trio.lowlevel.disable_ki_protection
def call_unprotected(function: Any, *args: Any) -> Any:
    """Call a user's synchronous function."""
    return function(*args)


@trio.lowlevel.disable_ki_protection
async def await_unprotected(async_fn: Any, *args: Any) -> Any:
    """Call a user's asynchronous function, and await what it returns."""
    return await async_fn(*args)


# They catch all that a stranger's text raises. The core knows nothing of trio, so they are marked here.
for _function in (shown, note, told):
    trio.lowlevel.enable_ki_protection(_function)
