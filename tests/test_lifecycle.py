"""The table of an agent's life: that it is one, and that agents keep to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise, zip_longest
from typing import Any

import attrs
import pytest
import trio
from pool_kit import forever, pool_of, sleeper, value

from agentpool import AgentContext, AgentHandle, AgentPool, Backoff, RestartPolicy
from agentpool._core.lifecycle import MEANING, SLOT, TRANSITIONS, LifeEvent, SlotUse, State

ROWS = {(row.before, row.event): row.after for row in TRANSITIONS}


# -- the table by itself --------------------------------------------------------------------


def test_no_row_is_there_twice() -> None:
    assert len(ROWS) == len(TRANSITIONS)


def test_every_event_and_every_state_is_in_the_table() -> None:
    assert {row.event for row in TRANSITIONS} == set(LifeEvent)
    assert {row.before for row in TRANSITIONS} == set(State) - {State.ENDED}
    assert {row.after for row in TRANSITIONS} == set(State) - {State.STARTING}
    assert set(SLOT) == set(MEANING) == set(State)


def reachable(state: State) -> set[State]:
    """The states that one or several events lead to."""
    found: set[State] = set()
    todo = [state]
    while todo:
        one = todo.pop()
        after = {row.after for row in TRANSITIONS if row.before is one} - found
        found |= after
        todo += after
    return found


def test_every_agent_can_end_and_none_lives_on_after_its_end() -> None:
    assert reachable(State.ENDED) == set()
    assert all(State.ENDED in reachable(state) for state in State if state is not State.ENDED)


# -- what agents do, seen from outside --------------------------------------------------------


def state_of(handle: AgentHandle[Any]) -> State:
    """Tell an agent's state by its status."""
    match handle.status:
        case "completed" | "failed" | "aborted":
            return State.ENDED
        case status:
            return State[status.upper()]


@attrs.frozen
class Seen:
    state: State
    time: float
    running: int
    """How many agents of the pool hold a slot."""


class Watch(trio.abc.Instrument):
    """Notes an agent's state whenever it has another one after a step of any task."""

    def __init__(self, pool: AgentPool, handle: AgentHandle[Any]) -> None:
        self._pool = pool
        self._handle = handle
        self._seen: list[Seen] = []
        self.after_task_step(trio.lowlevel.current_task())

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        state = state_of(self._handle)
        if not self._seen or state is not self._seen[-1].state:
            running = self._pool.statistics().running
            self._seen.append(Seen(state, trio.current_time(), running))

    def life(self) -> list[Seen]:
        """What was seen; without the step in which an agent learns that its last child has ended."""
        return [
            seen
            for seen, after in zip_longest(self._seen, self._seen[1:])
            if seen.state is not State.BACKING_OFF or after.time > seen.time
        ]


@contextmanager
def watching(pool: AgentPool, handle: AgentHandle[Any]) -> Iterator[Watch]:
    watch = Watch(pool, handle)
    trio.lowlevel.add_instrument(watch)
    try:
        yield watch
    finally:
        trio.lowlevel.remove_instrument(watch)


async def first_message(ctx: AgentContext) -> Any:
    return (await ctx.receive()).content


async def works_and_waits(ctx: AgentContext) -> Any:
    await trio.sleep(0.5)
    return await first_message(ctx)


async def leaves_a_child(ctx: AgentContext) -> None:
    ctx.spawn_nowait(sleeper, 1)
    await trio.sleep(0)


FAILED_BEFORE: set[int] = set()


async def fails_alone_once(ctx: AgentContext) -> None:
    await trio.sleep(0.5)
    if ctx.id not in FAILED_BEFORE:
        FAILED_BEFORE.add(ctx.id)
        raise ValueError("once")


async def fails_once(ctx: AgentContext) -> None:
    ctx.spawn_nowait(sleeper, 10)
    await fails_alone_once(ctx)


async def nothing(pool: AgentPool, handle: AgentHandle[Any]) -> None:
    pass


async def wake(pool: AgentPool, handle: AgentHandle[Any]) -> None:
    await trio.sleep(1)
    await pool.send(handle.id, "hello")


async def wake_while_the_slots_are_taken(pool: AgentPool, handle: AgentHandle[Any]) -> None:
    await pool.fan_out([partial(sleeper, seconds=5)] * pool.max_concurrent)
    await wake(pool, handle)


async def abort(pool: AgentPool, handle: AgentHandle[Any]) -> None:
    await trio.sleep(1)
    handle.abort()


async def abort_while_it_is_queued(pool: AgentPool, handle: AgentHandle[Any]) -> None:
    await wake_while_the_slots_are_taken(pool, handle)
    handle.abort()


async def take_the_slots(pool: AgentPool, handle: AgentHandle[Any]) -> None:
    await trio.sleep(1)
    await pool.fan_out([partial(sleeper, seconds=20)] * pool.max_concurrent)


PAUSE = 5
SCENARIOS = {
    "it returns at once": (value, nothing, [State.STARTING, State.ENDED]),
    "it works": (partial(sleeper, seconds=1), nothing, [State.STARTING, State.RUNNING, State.ENDED]),
    "it is aborted while it works": (forever, abort, [State.STARTING, State.RUNNING, State.ENDED]),
    "it is woken": (
        first_message,
        wake,
        [State.STARTING, State.WAITING, State.RUNNING, State.ENDED],
    ),
    "it is woken while no slot is free": (
        first_message,
        wake_while_the_slots_are_taken,
        [State.STARTING, State.WAITING, State.QUEUED, State.RUNNING, State.ENDED],
    ),
    "it is aborted while it waits": (
        first_message,
        abort,
        [State.STARTING, State.WAITING, State.RUNNING, State.ENDED],
    ),
    "it is aborted while it waits for a slot": (
        first_message,
        abort_while_it_is_queued,
        [State.STARTING, State.WAITING, State.QUEUED, State.RUNNING, State.ENDED],
    ),
    "it works and then waits": (
        works_and_waits,
        wake,
        [State.STARTING, State.RUNNING, State.WAITING, State.RUNNING, State.ENDED],
    ),
    "its child lives on after its body": (
        leaves_a_child,
        nothing,
        [State.STARTING, State.RUNNING, State.ENDING, State.ENDED],
    ),
    "it is restarted": (
        fails_once,
        nothing,
        [
            State.STARTING,
            State.RUNNING,
            State.ENDING,
            State.BACKING_OFF,
            State.RUNNING,
            State.ENDING,
            State.ENDED,
        ],
    ),
    "it is aborted in the pause before its restart": (
        fails_once,
        abort,
        [State.STARTING, State.RUNNING, State.ENDING, State.BACKING_OFF, State.ENDED],
    ),
}


async def life_of(agent: Callable[..., Any], act: Callable[..., Any]) -> list[Seen]:
    FAILED_BEFORE.clear()
    policy = RestartPolicy("transient", max_restarts=1, within=60, backoff=Backoff(PAUSE, PAUSE, jitter=0))
    async with pool_of(2) as pool:
        handle = pool.spawn_nowait(agent, restart=policy)
        with watching(pool, handle) as watch:
            await act(pool, handle)
            await handle.wait()
    return watch.life()


@pytest.mark.parametrize("name", SCENARIOS)
async def test_agents_go_the_way_that_the_table_shows(name: str, autojump_clock: Any) -> None:
    agent, act, expected = SCENARIOS[name]
    assert [seen.state for seen in await life_of(agent, act)] == expected
    assert all(after in reachable(before) for before, after in pairwise(expected))


def test_every_row_of_the_table_is_seen_in_some_life() -> None:
    seen = {pair for _, _, expected in SCENARIOS.values() for pair in pairwise(expected)}
    rows = {(row.before, row.after) for row in TRANSITIONS}
    assert rows - seen == {(State.BACKING_OFF, State.QUEUED)}  # by the next test


async def test_after_its_pause_an_agent_waits_for_a_slot(autojump_clock: Any) -> None:
    backing_off, queued, after = (await life_of(fails_once, take_the_slots))[3:6]
    assert backing_off.state is State.BACKING_OFF
    assert queued.state is State.QUEUED
    assert queued.time - backing_off.time == PAUSE
    assert after.time - backing_off.time > 4 * PAUSE


@pytest.mark.parametrize(("agent", "act"), [(works_and_waits, wake), (fails_alone_once, nothing)])
async def test_an_agent_holds_a_slot_in_the_states_that_the_table_says(
    agent: Callable[..., Any], act: Callable[..., Any], autojump_clock: Any
) -> None:
    for seen in await life_of(agent, act):
        assert bool(seen.running) == (SLOT[seen.state] is SlotUse.HELD)
