"""Aborting: at the next checkpoint, with a reason, and with whom it takes along."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pool_kit import forever, pool_of, server, sleeper, value

from agentpool import Aborted, AgentContext, AgentStuck, Completed, Failed


async def test_abort_ends_one_agent_at_its_next_checkpoint_and_nobody_else(autojump_clock: Any) -> None:
    async with pool_of(3) as pool:
        one, two = await pool.fan_out([forever, lambda ctx: sleeper(ctx, 3, "two")])
        one.abort("one")
        assert one.outcome is None
        await trio.lowlevel.checkpoint()
        outcome = await one.wait()
        assert isinstance(outcome, Aborted)
        assert trio.current_time() == 0
        assert await two.result() == "two"


async def test_abort_all_reaches_agents_before_their_first_step_and_leaves_the_pool_usable() -> None:
    steps = []

    async def agent(ctx: AgentContext) -> None:
        await trio.lowlevel.checkpoint()
        steps.append(ctx.id)

    async with pool_of(3) as pool:
        handles = [pool.spawn_nowait(agent) for _ in range(3)]
        pool.abort_all("stop")
        for handle in handles:
            outcome = await handle.wait()
            assert isinstance(outcome, Aborted)
            assert outcome.reason == "stop"
        assert steps == []
        assert await (await pool.spawn(value, 3)).result() == 3


async def test_a_reason_is_not_needed_and_the_first_one_counts() -> None:
    async with pool_of(2) as pool:
        one, two = await pool.fan_out([forever, forever])
        one.abort()
        two.abort("first")
        two.abort("second")
        outcomes = await pool.join_all()
    assert [outcome.reason for outcome in outcomes.values()] != []  # type: ignore[union-attr]
    assert outcomes[one.id].reason is None  # type: ignore[union-attr]
    assert outcomes[two.id].reason == "first"  # type: ignore[union-attr]


@pytest.mark.parametrize("ends", ["returns", "raises", "unwinds"])
async def test_how_the_body_ended_decides_and_not_whether_somebody_asked(ends: str) -> None:
    async def agent(ctx: AgentContext) -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            if ends == "returns":
                return "anyway"
            if ends == "raises":
                raise ValueError from None
            raise
        raise AssertionError

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()
        handle.abort()
        outcome = await handle.wait()
    assert type(outcome) is {"returns": Completed, "raises": Failed, "unwinds": Aborted}[ends]


async def test_an_agent_that_raised_in_a_group_beside_its_cancellation_has_failed() -> None:
    async def agent(ctx: AgentContext) -> None:
        async def bad() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bad)
            nursery.start_soon(trio.sleep_forever)

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()
        handle.abort()
        outcome = await handle.wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ExceptionGroup)
    assert [type(error) for error in outcome.error.exceptions] == [ValueError]


async def test_a_group_that_outer_cancellation_is_mixed_into_loses_only_that(autojump_clock: Any) -> None:
    handles = []

    async def agent(ctx: AgentContext) -> None:
        async def bad() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("kept")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bad)
            nursery.start_soon(trio.sleep_forever)

    with pytest.RaisesGroup(pytest.RaisesGroup(ValueError)), trio.move_on_after(1):
        async with pool_of(1) as pool:
            handles.append(await pool.spawn(agent))
            await trio.sleep_forever()
    assert isinstance(handles[0].outcome, Failed)


@pytest.mark.parametrize(
    "wait", ["receive", "send", "ask", "spawn", "join_next", "join_all", "result", "map"]
)
async def test_an_agent_is_aborted_out_of_every_wait_at_once(wait: str, autojump_clock: Any) -> None:
    async def deaf(ctx: AgentContext) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(30)

    async def agent(ctx: AgentContext, deaf_id: int) -> None:
        if wait == "receive":
            await ctx.receive()
        elif wait == "send":
            for _ in range(3):
                await ctx.send(deaf_id, 1)
        elif wait == "ask":
            await ctx.ask(deaf_id, 1)
        elif wait == "spawn":
            await ctx.spawn(forever)
            await ctx.spawn(forever)
        elif wait == "map":
            await ctx.map(sleeper, [100, 100])
        else:
            handle = await ctx.spawn(forever)
            await (handle.result() if wait == "result" else getattr(ctx, wait)())

    async with pool_of(2, inbox_capacity=1) as pool:
        to = await pool.spawn(deaf)
        handle = await pool.spawn(agent, to.id)
        await trio.sleep(1)
        handle.abort("now")
        outcome = await handle.wait()
        assert trio.current_time() == 1
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "now"


async def test_an_agent_can_abort_itself() -> None:
    box: list[Any] = []

    async def agent(ctx: AgentContext) -> None:
        box[0].abort("me")
        await trio.lowlevel.checkpoint()
        raise AssertionError

    async with pool_of(1) as pool:
        box.append(pool.spawn_nowait(agent))
        assert isinstance(await box[0].wait(), Aborted)


async def test_an_abort_after_the_deadline_does_not_hide_the_timeout(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        await trio.lowlevel.checkpoint()

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent, timeout=1)
        await trio.sleep(2)
        handle.abort("late")
        outcome = await handle.wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TimeoutError)


# -- those who live on ---------------------------------------------------------------------------------------


async def _stubborn(ctx: AgentContext, seconds: float) -> str:
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        try:
            await trio.sleep_until(end)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
    return "lived on"


async def _shielded(ctx: AgentContext, seconds: float) -> str:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)
    return "lived on"


@pytest.mark.parametrize("agent", [_stubborn, _shielded])
async def test_agents_that_live_on_after_their_abort_are_named_with_their_stack(
    agent: Any, autojump_clock: Any
) -> None:
    events = []

    async def watch(pool: Any) -> None:
        async with pool.events() as stream:
            async for event in stream:
                if isinstance(event, AgentStuck):
                    events.append(event)

    async with trio.open_nursery() as nursery:
        async with pool_of(2) as pool:
            nursery.start_soon(watch, pool)
            good = await pool.spawn(server)
            handle = await pool.spawn(agent, 20, name="stubborn")
            await trio.sleep(1)
            good.abort()
            handle.abort("please")
            await trio.sleep(3)
            assert pool.statistics().stuck == ()
            await trio.sleep(3)
            (stuck,) = pool.statistics().stuck
            assert (stuck.id, stuck.name) == (handle.id, "stubborn")
            assert any(agent.__name__ in line and "test_abort.py" in line for line in stuck.stack)
            assert await handle.result() == "lived on"
            assert pool.statistics().stuck == ()
    (event,) = events
    assert (event.agent_id, event.name, event.stack) == (stuck.id, "stubborn", stuck.stack)


async def test_an_aborted_agent_that_ends_in_time_is_not_reported(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(_shielded, 3)
        handle.abort()
        await handle.wait()
        await trio.sleep(20)
        assert pool.statistics().stuck == ()


async def test_an_agent_that_is_spawned_in_the_cleanup_of_an_aborted_one_is_aborted_too(
    autojump_clock: Any,
) -> None:
    outcomes: list[Any] = []

    async def parent(ctx: AgentContext) -> None:
        await (await ctx.spawn(value)).wait()  # whose task is left over for the next one
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(2):
                    outcomes.append(await (await ctx.spawn(forever)).wait())

    async with pool_of(3) as pool:
        handle = await pool.spawn(parent)
        await trio.sleep(1)
        handle.abort("enough")
        await handle.wait()
    assert [(type(outcome), outcome.reason) for outcome in outcomes] == [(Aborted, "enough")] * 2
    assert trio.current_time() == 1
