"""Agents that spawn agents: the parent ends last, and what it ignored makes it fail."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pool_kit import failing, forever, pool_of, server, sleeper, value

from agentpool import (
    Aborted,
    AgentContext,
    AgentTimeoutError,
    Completed,
    Failed,
    PoolClosedError,
    UnhandledAgentErrors,
)


async def test_an_agent_ends_after_its_children(autojump_clock: Any) -> None:
    ends = []

    async def child(ctx: AgentContext) -> None:
        await trio.sleep(5)
        ends.append("child")

    async def parent(ctx: AgentContext) -> str:
        await ctx.spawn(child)
        return "early"

    async with pool_of(2) as pool:
        outcome = await (await pool.spawn(parent)).wait()
        ends.append("parent")
    assert ends == ["child", "parent"]
    assert isinstance(outcome, Completed)
    assert (outcome.value, outcome.duration) == ("early", 5)


async def test_a_child_knows_its_place(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext, n: int) -> list[tuple[int, int, int]]:
        mine = [(ctx.id, ctx.parent_id, ctx.depth)]
        if n:
            handle = await ctx.spawn(agent, n - 1)
            mine += await handle.result()
            assert (await handle.wait()).parent_id == ctx.id
        return mine

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent, 2)).result() == [(1, 0, 0), (2, 1, 1), (3, 2, 2)]


@pytest.mark.parametrize("end", ["fails", "aborted", "times out", "pool"])
async def test_children_are_aborted_and_awaited_when_the_parent_does_not_end_well(
    end: str, autojump_clock: Any
) -> None:
    cleaned = []

    async def child(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
            cleaned.append(trio.current_time())

    async def middle(ctx: AgentContext) -> None:
        await ctx.spawn(child)

    handles = []

    async def parent(ctx: AgentContext) -> None:
        handles.append(await ctx.spawn(middle))
        await trio.sleep(1)
        if end == "fails":
            raise ValueError
        await trio.sleep_forever()

    async with pool_of(3) as pool:
        handle = await pool.spawn(parent, timeout=1 if end == "times out" else None)
        await trio.sleep(1)
        if end == "aborted":
            handle.abort("why")
        if end == "pool":
            pool.abort_all("why")
        outcome = await handle.wait()
    assert cleaned == [3]
    assert outcome.duration == 3
    if end == "fails":
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, ValueError)
    elif end == "times out":
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, AgentTimeoutError)
        assert outcome.error.timeout == 1
    else:
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "why"


async def test_a_child_of_a_failed_parent_is_told_why() -> None:
    handles = []

    async def parent(ctx: AgentContext) -> None:
        handles.append(await ctx.spawn(forever))
        raise ValueError("mine")

    async with pool_of(2) as pool:
        await (await pool.spawn(parent)).wait()
    outcome = handles[0].outcome
    assert isinstance(outcome, Aborted)
    assert outcome.reason == "its parent, agent 1, failed: ValueError('mine')"


async def test_a_failure_that_the_parent_ignored_makes_it_fail_with_its_value_kept() -> None:
    async def parent(ctx: AgentContext) -> str:
        await ctx.spawn(failing, KeyError("ignored"))
        return "my value"

    async with pool_of(2) as pool:
        outcome = await (await pool.spawn(parent, name="boss")).wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, UnhandledAgentErrors)
    assert outcome.error.value == "my value"
    assert [type(error) for error in outcome.error.exceptions] == [KeyError]
    assert "agent 1 (boss)" in str(outcome.error)


async def test_a_failure_that_the_parent_looked_at_does_not() -> None:
    async def parent(ctx: AgentContext) -> str:
        await (await ctx.spawn(failing)).wait()
        await ctx.map(failing, [ValueError(), ValueError()])
        return "fine"

    async with pool_of(2) as pool:
        assert await (await pool.spawn(parent)).result() == "fine"


async def test_the_exception_of_the_parent_counts_the_failures_it_ignored() -> None:
    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(failing, KeyError("child"))
        await trio.testing.wait_all_tasks_blocked()
        raise ValueError("parent")

    async with pool_of(2) as pool:
        outcome = await (await pool.spawn(parent)).wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ValueError)
    assert "KeyError('child')" in outcome.error.__notes__[0]


async def test_an_aborted_parent_does_not_lose_the_failures_it_ignored() -> None:
    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(failing, KeyError("child"))
        await trio.sleep_forever()

    async with pool_of(2) as pool:
        handle = await pool.spawn(parent)
        await trio.testing.wait_all_tasks_blocked()
        handle.abort()
        outcome = await handle.wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, UnhandledAgentErrors)


async def test_a_parent_that_timed_out_tells_the_failures_it_ignored(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(failing, KeyError("child"))
        await trio.sleep_forever()

    async with pool_of(2) as pool:
        outcome = await (await pool.spawn(parent, timeout=3)).wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, AgentTimeoutError)
    assert "KeyError('child')" in outcome.error.__notes__[0]


async def test_the_deadline_of_a_child_can_only_be_narrower(autojump_clock: Any) -> None:
    found = []

    async def child(ctx: AgentContext) -> None:
        await trio.sleep_forever()

    async def parent(ctx: AgentContext) -> None:
        narrow = await ctx.spawn(child, timeout=2)
        wide = await ctx.spawn(child, timeout=50)
        outcome = await narrow.wait()
        found.append((outcome, trio.current_time()))
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                found.append((await wide.wait(), trio.current_time()))

    async with pool_of(3) as pool:
        outcome = await (await pool.spawn(parent, timeout=5)).wait()
    (narrow, at_narrow), (wide, at_wide) = found
    assert (at_narrow, at_wide) == (2, 5)
    assert (narrow.error.timeout, wide.error.timeout) == (2, None)
    assert "its ancestor's deadline" in str(wide.error)
    assert isinstance(outcome, Failed)


async def test_a_child_that_is_aborted_touches_nobody_else(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> Any:
        one, two = await ctx.fan_out([forever, forever])
        one.abort("just you")
        outcome = await one.wait()
        assert two.outcome is None
        two.abort()
        return outcome

    async with pool_of(4) as pool:
        sibling = await pool.spawn(sleeper, 5, "sibling")
        outcome = await (await pool.spawn(parent)).result()
        assert outcome.reason == "just you"
        assert await sibling.result() == "sibling"


async def test_abort_all_of_a_context_reaches_its_children_only() -> None:
    async def parent(ctx: AgentContext) -> list[str]:
        await ctx.fan_out([forever, forever])
        ctx.abort_all("mine")
        return [outcome.reason for outcome in (await ctx.join_all()).values()]  # type: ignore[union-attr]

    async with pool_of(4) as pool:
        other = await pool.spawn(server)
        assert await (await pool.spawn(parent)).result() == ["mine", "mine"]
        assert other.outcome is None


async def test_a_child_that_is_spawned_while_its_parent_is_aborted_is_aborted_too(
    autojump_clock: Any,
) -> None:
    handles = []

    async def parent(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                handles.append(await ctx.spawn(forever))

    async with pool_of(2) as pool:
        handle = await pool.spawn(parent)
        await trio.sleep(1)
        handle.abort("why")
        await handle.wait()
    assert isinstance(handles[0].outcome, Aborted)
    assert handles[0].outcome.reason == "why"


async def test_during_an_abort_a_spawn_sees_cancelled_and_not_a_closed_pool(autojump_clock: Any) -> None:
    seen: list[str] = []

    async def agent(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for verb in (
                lambda: ctx.spawn(value),
                lambda: ctx.fan_out([value]),
                lambda: ctx.map(value, [1]),
                lambda: ctx.race(value),
                lambda: ctx.vote(value, 1, n=3),
            ):
                try:
                    await verb()
                except BaseException as error:
                    seen.append(type(error).__name__)

    async with pool_of(3) as pool:
        await pool.spawn(agent)
        await pool.drain(1)
    assert seen == ["Cancelled"] * 5


async def test_an_agent_that_has_ended_spawns_no_more(autojump_clock: Any) -> None:
    contexts: list[AgentContext] = []

    async def parent(ctx: AgentContext) -> None:
        contexts.append(ctx)
        await ctx.spawn(sleeper, 5)

    async with pool_of(2) as pool:
        await pool.spawn(parent)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(PoolClosedError, match="agent 1"):
            await contexts[0].spawn(value)
        with pytest.raises(PoolClosedError, match="agent 1"):
            contexts[0].spawn_nowait(value)


async def test_a_spawn_that_waits_in_the_scope_of_an_agent_that_ends_is_refused(autojump_clock: Any) -> None:
    contexts: list[AgentContext] = []
    errors = []

    async def parent(ctx: AgentContext) -> None:
        contexts.append(ctx)
        await trio.sleep(1)

    async def outside() -> None:
        try:
            await contexts[0].spawn(value)
        except PoolClosedError as error:
            errors.append(str(error))

    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        await pool.spawn(parent)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(outside)
    assert len(errors) == 1


async def test_a_child_outlives_nobody_who_waits_for_it_elsewhere(autojump_clock: Any) -> None:
    handles: list[Any] = []

    async def parent(ctx: AgentContext) -> None:
        handles.append(await ctx.spawn(sleeper, 3, "child"))

    async with pool_of(2) as pool:
        await pool.spawn(parent)
        await trio.testing.wait_all_tasks_blocked()
        assert await handles[0].result() == "child"


async def test_spawned_through_the_pool_by_an_agent_is_a_child_of_the_pool(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext, pool: Any) -> int:
        handle = await pool.spawn(sleeper, 9)
        return int(handle.id)

    async with pool_of(2) as pool:
        handle = await pool.spawn(agent, pool)
        assert await handle.result() == 2
        assert trio.current_time() == 0
        outcome = await pool.join_next()
        assert outcome is not None
        assert outcome.parent_id == 0


async def test_abort_of_a_parent_whose_body_has_ended_reaches_its_children(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> str:
        await ctx.spawn(forever)
        return "body"

    async with pool_of(2) as pool:
        handle = await pool.spawn(parent)
        await trio.sleep(1)
        handle.abort()
        outcome = await handle.wait()
    # Decided by how its body ended.
    assert isinstance(outcome, Completed)
