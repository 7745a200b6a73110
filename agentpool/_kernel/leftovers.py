"""What a piece of a user's code leaves open on the task that runs it, and how it is closed.

A `break` out of an async generator that yields inside `move_on_after`, a scope that was entered by
hand, a nursery whose block was never left: each stays on the task. Trio finds out when the task, or
a scope around, ends, and raises an error there that takes the neighbours along. So the pool looks
first, closes what is open from the inside out, and makes it the failure of whoever left it.
"""

from __future__ import annotations

import contextvars
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, ref

import trio

from agentpool._core.value import value
from agentpool._kernel import _trio_private as private
from agentpool._kernel.protection import await_unprotected, protect_module
from agentpool._kernel.splitting import note_beside

T = TypeVar("T")


@value
class Mark:
    """Where a task stood before it began to run somebody's code."""

    task: trio.lowlevel.Task
    standing: private.Standing
    nurseries: int

    @property
    def is_left(self) -> bool:
        """Whether the task stands there again: nothing that was opened since is open."""
        task = self.task
        return private.standing_of(task) is self.standing and private.open_nurseries(task) == self.nurseries


def mark_task() -> Mark:
    """Note where the calling task stands."""
    task = trio.lowlevel.current_task()
    return Mark(task, private.standing_of(task), private.open_nurseries(task))


async def close_leftovers(
    mark: Mark, error: BaseException | None
) -> tuple[BaseException | None, tuple[str, ...]]:
    """Close what the calling task has opened since `mark`, from the inside out.

    Args:
      error: what the code raised, or None. A scope that was left open and has fired takes its own
        `Cancelled` out of it.

    Returns:
      What is left of the error, and a text for each thing that was left open.

    Waits for the tasks of nurseries that were left open; they are cancelled. Cancellation: is kept
    off until they have ended. If nothing was left open this is no checkpoint.
    """
    task = mark.task
    found: list[str] = []
    while not mark.is_left:
        if private.open_nurseries(task) > mark.nurseries:
            nursery = private.innermost_nursery(task)
            if not private.is_inside(nursery, task):
                found.append(_nursery_text(nursery))
                owner = _owner_of(nursery)
                if owner is not None:
                    owner.left_open()
                nursery.cancel_scope.cancel("its block was never left")
                error, raised = await private.leave_nursery(nursery, error)
                if owner is not None:
                    await owner.closed()
                if error is None:
                    error = raised
                elif raised is not None:
                    note_beside(error, [raised], "raised together with")
                continue
        if not private.encloses(mark.standing, task):
            break  # the code left a scope that is not its own: what is inside is gone already
        scope = private.innermost_scope(task)
        found.append(_scope_text(scope))
        error = private.leave_scope(scope, error)
    return error, tuple(found)


class NurseryOwner(Protocol):
    """Who has more to do than trio when its nursery is found left open, and closed."""

    def left_open(self) -> None:
        """It will be closed: its tasks are about to be cancelled."""

    async def closed(self) -> None:
        """Its tasks have ended. Never raises."""


# Weak on both sides: an owner leads to its nursery.
_owners: WeakKeyDictionary[trio.Nursery, ref[NurseryOwner]] = WeakKeyDictionary()


def _owner_of(nursery: trio.Nursery) -> NurseryOwner | None:
    reference = _owners.pop(nursery, None)
    return None if reference is None else reference()


def when_left_open(nursery: trio.Nursery, owner: NurseryOwner) -> None:
    """Have the owner of a nursery told if it is found left open.

    A pool's nursery holds a task that lives until the pool is closed, whatever is cancelled; and an
    agent lends its slot while it waits for the tasks of its own nurseries.
    """
    _owners[nursery] = ref(owner)


async def run_tidily(
    async_fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]
) -> tuple[T | None, BaseException | None, tuple[str, ...]]:
    """Run somebody's code, and close what it left open.

    Returns:
      What it returned, what it raised, and what it left open.
    """
    mark = mark_task()
    value: T | None = None
    error: BaseException | None = None
    try:
        value = await await_unprotected(async_fn, *args)
    except BaseException as raised:  # handed to the caller: nothing is swallowed
        error = raised
    try:
        if mark.is_left:
            return value, error, ()
        error, left_open = await close_leftovers(mark, error)
        return value, error, left_open
    finally:
        del error, value  # the traceback of an error holds this frame


def _scope_text(scope: trio.CancelScope) -> str:
    if scope.shield:
        return "a cancel scope that shields"
    if scope.deadline != float("inf"):
        return "a cancel scope with a deadline"
    return "a cancel scope"


def _nursery_text(nursery: trio.Nursery) -> str:
    return f"a nursery with {len(nursery.child_tasks)} tasks"


def told_of(left_open: tuple[str, ...]) -> str:
    """Say what was left open, and what leaves such things open."""
    return (
        f"{', '.join(left_open)} left open; use `with` and `async with`, and close an async generator"
        " that is not read to its end (`async with contextlib.aclosing(generator)`)"
    )


@types.coroutine
def run_in_context(context: contextvars.Context, coro: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Run a coroutine in the calling task, but in a context of its own.

    Trio runs every step of a task in `Task.context`; this runs each step of the coroutine in
    `context` inside that, so that what it sets is seen by nobody else.
    """
    step, sent = coro.send, None
    while True:
        try:
            yielded = context.run(step, sent)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        try:
            sent = yield yielded
            step = coro.send
        except BaseException as error:  # thrown into the coroutine: nothing is swallowed
            sent, step = error, coro.throw


protect_module(globals())
