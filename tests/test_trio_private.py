"""Canaries for the things that agentpool takes from trio's inside: they sing when trio changes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from math import inf
from typing import Any

import outcome
import trio
import trio.testing

from agentpool._kernel._trio_private import (
    call_soon,
    effective_deadline_in,
    effective_deadline_of,
    has_host_loop,
    has_token,
    idle_threads,
    is_callback_task,
    is_cancelled_at,
    standing_of,
    waits_for_children,
)


async def test_a_task_waits_for_its_children_at_the_end_of_its_nursery_and_not_before() -> None:
    async def has_children() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.wait)
            await first.wait()
        await third.wait()

    first, second, third = trio.Event(), trio.Event(), trio.Event()
    seen = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(has_children)
        [task] = nursery.child_tasks
        for event in (first, second, third):
            await trio.testing.wait_all_tasks_blocked()
            seen.append(waits_for_children(task))
            event.set()
    assert seen == [False, True, False]


async def test_the_task_that_calls_what_was_given_to_run_sync_soon_is_known() -> None:
    callers: list[trio.lowlevel.Task] = []
    token = trio.lowlevel.current_trio_token()
    token.run_sync_soon(lambda: callers.append(trio.lowlevel.current_task()))
    await trio.testing.wait_all_tasks_blocked()
    assert is_callback_task(callers[0])
    assert not is_callback_task(trio.lowlevel.current_task())


async def test_a_thread_is_idle_when_its_call_has_ended() -> None:
    def busy() -> threading.Thread:
        thread = threading.current_thread()
        assert thread not in idle_threads()
        return thread

    assert await trio.to_thread.run_sync(busy) in idle_threads()


async def test_whoever_asks_for_a_token_makes_it_and_so_does_a_thread_of_trios() -> None:
    assert not has_token()
    trio.lowlevel.current_trio_token()
    assert has_token()


async def test_a_thread_of_trios_has_a_token() -> None:
    await trio.to_thread.run_sync(int)
    assert has_token()


async def test_what_is_called_soon_wakes_the_loop_and_makes_no_token() -> None:
    called = trio.Event()

    class CallsWhenAsleep(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            trio.lowlevel.remove_instrument(self)
            call_soon(called.set)

    trio.lowlevel.add_instrument(CallsWhenAsleep())
    with trio.fail_after(10):
        await called.wait()
    assert not has_token()


def test_a_guest_run_has_a_host_loop() -> None:
    todo: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    ended: list[outcome.Outcome[bool]] = []

    async def ask() -> bool:
        await trio.lowlevel.checkpoint()
        return has_host_loop()

    assert not trio.run(ask)
    trio.lowlevel.start_guest_run(ask, run_sync_soon_threadsafe=todo.put, done_callback=ended.append)
    while not ended:
        todo.get(timeout=10)()
    assert ended[0].unwrap()


async def test_the_effective_deadline_of_another_task_is_what_that_task_would_say(
    autojump_clock: Any,
) -> None:
    said: list[float] = []
    tasks: list[trio.lowlevel.Task] = []

    async def sleeper() -> None:
        tasks.append(trio.lowlevel.current_task())
        with trio.CancelScope(deadline=50), trio.CancelScope(deadline=70):
            said.append(trio.current_effective_deadline())
            await first.wait()
            with trio.CancelScope(shield=True):
                said.append(trio.current_effective_deadline())
                await second.wait()

    first, second = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        await trio.testing.wait_all_tasks_blocked()
        assert effective_deadline_of(tasks[0]) == said[0] == 50
        first.set()
        await trio.testing.wait_all_tasks_blocked()
        assert effective_deadline_of(tasks[0]) == said[1] == inf
        second.set()


async def test_the_effective_deadline_of_a_cancelled_task_is_past() -> None:
    async def sleeper() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(0)
            await started.wait()

    started = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        [task] = nursery.child_tasks
        assert effective_deadline_of(task) == inf  # the shield
        assert effective_deadline_in(nursery) == -inf
        started.set()


async def test_the_effective_deadline_in_a_nursery_is_what_its_new_tasks_say(autojump_clock: Any) -> None:
    said: list[float] = []

    async def says() -> None:
        said.append(trio.current_effective_deadline())

    with trio.CancelScope(deadline=20) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(says)
            await trio.testing.wait_all_tasks_blocked()
            assert effective_deadline_in(nursery) == said[0] == 20
            scope.deadline = 30
            assert effective_deadline_in(nursery) == 30


async def test_a_place_is_cancelled_by_the_scopes_around_it_only() -> None:
    task = trio.lowlevel.current_task()
    with trio.CancelScope() as outer:
        place = standing_of(task)
        with trio.CancelScope() as inner, trio.CancelScope(shield=True):
            shielded = standing_of(task)
            inner.cancel()
            assert not is_cancelled_at(place)
            outer.cancel()
            await trio.lowlevel.checkpoint()
            assert is_cancelled_at(place)
            assert not is_cancelled_at(shielded)


async def test_a_place_is_cancelled_when_a_task_inside_is_asked_whether_it_can_be(
    autojump_clock: Any,
) -> None:
    seen: list[bool] = []

    def asked(_: Any) -> trio.lowlevel.Abort:
        seen.append(is_cancelled_at(place))
        return trio.lowlevel.Abort.SUCCEEDED

    with trio.move_on_after(1):
        place = standing_of(trio.lowlevel.current_task())
        with trio.CancelScope():
            await trio.lowlevel.wait_task_rescheduled(asked)
    assert seen == [True]
