"""Ways in which a piece of code leaves something open on the task that runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import trio

KEPT: list[Any] = []
"""Keeps from the collector what was left open."""


@attrs.frozen
class Leaves:
    """Leaves something open on the task that calls it.

    Attributes:
      name: for people.
      leave: does it.
      says: what the failure has to name.
      lost: whether what was left open goes to the collector.
    """

    name: str
    leave: Callable[[], Awaitable[Any]]
    says: str
    lost: bool = False

    async def __call__(self) -> None:
        await self.leave()

    def __str__(self) -> str:
        return self.name


async def _in_a_scope() -> AsyncIterator[int]:
    with trio.move_on_after(0.5):
        yield 1
        yield 2


async def _in_a_shield() -> AsyncIterator[int]:
    with trio.CancelScope(shield=True):
        yield 1
        yield 2


async def _in_a_time_limit() -> AsyncIterator[int]:
    with trio.fail_after(0.5):
        yield 1
        yield 2


async def _in_a_nursery() -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        yield 1
        yield 2


async def _in_a_scope_in_a_nursery() -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0.25)
        with trio.move_on_after(0.5):
            yield 1
            yield 2


async def _in_another() -> AsyncIterator[int]:
    with trio.move_on_after(0.5):
        async for piece in _in_a_scope():
            yield piece


def _breaks_out_of(stream: Callable[[], AsyncIterator[int]]) -> Callable[[], Awaitable[None]]:
    async def leave() -> None:
        generator = stream()
        KEPT.append(generator)
        async for _ in generator:
            break

    return leave


def _loses(stream: Callable[[], AsyncIterator[int]]) -> Callable[[], Awaitable[None]]:
    async def leave() -> None:
        async for _ in stream():
            break

    return leave


async def _takes_one_by_hand() -> None:
    generator = _in_a_scope()
    KEPT.append(generator)
    await anext(generator)


def _scope(**options: Any) -> Callable[[], Awaitable[None]]:
    async def leave() -> None:
        scope = trio.CancelScope(**options)
        scope.__enter__()
        KEPT.append(scope)

    return leave


async def _scope_with_a_deadline() -> None:
    scope = trio.move_on_after(0.5)
    scope.__enter__()
    KEPT.append(scope)


async def _scope_that_nobody_keeps() -> None:
    trio.move_on_after(0.5).__enter__()


async def _cancelled_scope() -> None:
    scope = trio.CancelScope()
    scope.__enter__()
    KEPT.append(scope)
    scope.cancel()


async def _many_scopes() -> None:
    for number in range(5):
        scope = trio.CancelScope(shield=number % 2 == 0)
        scope.__enter__()
        KEPT.append(scope)


async def _nursery() -> None:
    manager = trio.open_nursery()
    KEPT.append(manager)
    nursery = await manager.__aenter__()
    nursery.start_soon(trio.sleep_forever)


async def _empty_nursery() -> None:
    manager = trio.open_nursery()
    KEPT.append(manager)
    await manager.__aenter__()


async def _nurseries_and_scopes() -> None:
    await _nursery()
    await _scope(shield=True)()
    await _nursery()
    await _scope_with_a_deadline()


async def _context_manager() -> None:
    manager = asynccontextmanager(_in_a_scope)()
    KEPT.append(manager)
    await manager.__aenter__()


async def _exit_stack() -> None:
    stack = AsyncExitStack()
    KEPT.append(stack)
    await stack.enter_async_context(trio.open_nursery())
    stack.enter_context(trio.CancelScope(shield=True))


LEAVES = [
    Leaves("generator in a scope, kept", _breaks_out_of(_in_a_scope), "cancel scope"),
    Leaves("generator in a scope, lost", _loses(_in_a_scope), "cancel scope", lost=True),
    Leaves("generator in a shield, kept", _breaks_out_of(_in_a_shield), "shield"),
    Leaves("generator in a shield, lost", _loses(_in_a_shield), "shield", lost=True),
    Leaves("generator in fail_after, kept", _breaks_out_of(_in_a_time_limit), "cancel scope"),
    Leaves("generator in a nursery, kept", _breaks_out_of(_in_a_nursery), "nursery"),
    Leaves("generator in both, kept", _breaks_out_of(_in_a_scope_in_a_nursery), "nursery"),
    Leaves("generator in a generator, kept", _breaks_out_of(_in_another), "cancel scope"),
    Leaves("generator in a generator, lost", _loses(_in_another), "cancel scope", lost=True),
    Leaves("one piece by hand", _takes_one_by_hand, "cancel scope"),
    Leaves("scope", _scope(), "cancel scope"),
    Leaves("shield", _scope(shield=True), "shield"),
    Leaves("scope with a deadline", _scope_with_a_deadline, "cancel scope"),
    Leaves("scope that nobody keeps", _scope_that_nobody_keeps, "cancel scope"),
    Leaves("cancelled scope", _cancelled_scope, "cancel scope"),
    Leaves("many scopes", _many_scopes, "cancel scope"),
    Leaves("nursery", _nursery, "nursery"),
    Leaves("empty nursery", _empty_nursery, "nursery"),
    Leaves("nurseries and scopes", _nurseries_and_scopes, "nursery"),
    Leaves("context manager of a generator", _context_manager, "cancel scope"),
    Leaves("exit stack", _exit_stack, "nursery"),
]

A_FEW = [
    leaves
    for leaves in LEAVES
    if leaves.name
    in {
        "generator in a scope, kept",
        "generator in a scope, lost",
        "generator in a nursery, kept",
        "shield",
        "cancelled scope",
        "nurseries and scopes",
    }
]
