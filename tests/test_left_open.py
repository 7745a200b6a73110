"""What an agent leaves open on its task is its own failure, and nobody else sees anything of it."""

from __future__ import annotations

import gc
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from leftover_kit import A_FEW, KEPT, LEAVES, Leaves
from pool_kit import failing, pool_of, server, sleeper, value

from agentpool import (
    Aborted,
    AgentContext,
    AgentFailedError,
    AgentFinished,
    AgentManifest,
    AgentPoolError,
    AgentTimeoutError,
    ChildSpec,
    Completed,
    Completion,
    Failed,
    LeftOpenError,
    RestartPolicy,
    ScriptedDriver,
    SpawnConfig,
    Supervisor,
    ToolCall,
    ToolMessage,
    ToolRegistry,
    UnhandledAgentErrors,
    open_agent_pool,
    tool,
)
from agentpool._kernel.leftovers import close_leftovers, mark_task

# Trio tells of generators that are left to the collector, which is what is done here on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

each_way = pytest.mark.parametrize("leaves", LEAVES, ids=str)
some_ways = pytest.mark.parametrize("leaves", A_FEW, ids=str)
caps = pytest.mark.parametrize("cap", [1, 4])


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    KEPT.clear()
    yield
    KEPT.clear()


async def lives(ctx: AgentContext, *_: Any) -> str:
    """Outlasts every deadline that was left open; a cancellation that is not its own would end it."""
    begun = trio.current_time()
    await trio.sleep(2)
    assert trio.current_time() == begun + 2
    return "lived"


async def culprit(ctx: AgentContext, leaves: Leaves, seconds: float = 0) -> str:
    await leaves()
    await trio.sleep(seconds)
    return "went on"


def leaving(leaves: Leaves) -> Any:
    async def leaver(ctx: AgentContext, *_: Any) -> str:
        return await culprit(ctx, leaves)

    return leaver


def left_open_of(outcome: Any, leaves: Leaves) -> LeftOpenError:
    assert isinstance(outcome, Failed)
    error = outcome.error
    assert isinstance(error, LeftOpenError)
    assert isinstance(error, AgentPoolError)
    assert error.left_open
    assert all(isinstance(what, str) for what in error.left_open)
    assert all(what in str(error) for what in error.left_open)
    assert leaves.says in str(error)
    return error


def found_in(error: BaseException | None, kind: type[BaseException]) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [found for part in error.exceptions for found in found_in(part, kind)]
    return [error] if isinstance(error, kind) else []


# -- the agent ----------------------------------------------------------------------------------------


@each_way
@caps
async def test_what_an_agent_leaves_open_is_its_own_failure_and_is_named(
    leaves: Leaves, cap: int, autojump_clock: Any
) -> None:
    async with pool_of(cap) as pool:
        outcome = await (await pool.spawn(culprit, leaves)).wait()
        left_open_of(outcome, leaves)
        assert pool.active_count == 0
        assert pool.statistics().running == 0
        assert (await (await pool.spawn(lives)).wait()).unwrap() == "lived"


@each_way
async def test_an_agent_that_works_on_after_it_left_something_open_fails_at_its_end(
    leaves: Leaves, autojump_clock: Any
) -> None:
    """What it left open may fire meanwhile: also then the failure is that it was left open."""
    async with pool_of(2) as pool:
        other = await pool.spawn(lives)
        outcome = await (await pool.spawn(culprit, leaves, 1)).wait()
        left_open_of(outcome, leaves)
        assert (await other.wait()).unwrap() == "lived"


async def test_everything_that_was_left_open_is_named(autojump_clock: Any) -> None:
    (leaves,) = [leaves for leaves in LEAVES if leaves.name == "nurseries and scopes"]
    async with pool_of(1) as pool:
        error = left_open_of(await (await pool.spawn(culprit, leaves)).wait(), leaves)
    assert len(error.left_open) == 4
    assert sum("nursery" in what for what in error.left_open) == 2
    assert sum("shield" in what for what in error.left_open) == 1


async def test_an_agent_that_closes_what_it_opened_has_left_nothing_open(autojump_clock: Any) -> None:
    async def tidy(ctx: AgentContext) -> str:
        with trio.move_on_after(0.5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0.1)
        with trio.move_on_after(0.5) as scope:
            await trio.sleep(1)
        assert scope.cancelled_caught
        async with ctx.open_nursery() as own:
            own.start_soon(trio.sleep, 0.1)
        scope = trio.CancelScope()
        scope.__enter__()
        scope.__exit__(None, None, None)
        return "tidy"

    async with pool_of(1) as pool:
        assert (await (await pool.spawn(tidy)).wait()).unwrap() == "tidy"


async def test_a_failure_that_nobody_looked_at_comes_out_of_the_block_as_any_other(
    autojump_clock: Any,
) -> None:
    with pytest.raises(UnhandledAgentErrors) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(leaving(A_FEW[0]))
            other = await pool.spawn(lives)
    assert [type(error) for error in caught.value.exceptions] == [LeftOpenError]
    assert isinstance(other.outcome, Completed)


async def test_the_failure_is_told_as_an_event_and_by_result(autojump_clock: Any) -> None:
    found = []

    async def watch(pool: Any) -> None:
        async with pool.events() as events:
            async for event in events:
                found.append(event)

    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            nursery.start_soon(watch, pool)
            await trio.testing.wait_all_tasks_blocked()
            handle = await pool.spawn(leaving(A_FEW[0]))
            with pytest.raises(AgentFailedError) as caught:
                await handle.result()
    assert isinstance(caught.value.__cause__, LeftOpenError)
    (end,) = [event for event in found if isinstance(event, AgentFinished)]
    left_open_of(end.outcome, A_FEW[0])


@some_ways
async def test_tasks_of_a_nursery_that_was_left_open_have_cleaned_up_before_the_agent_ends(
    leaves: Leaves, autojump_clock: Any
) -> None:
    cleaned = []

    async def helper() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            cleaned.append(trio.current_time())

    async def agent(ctx: AgentContext) -> None:
        manager = trio.open_nursery()
        KEPT.append(manager)
        (await manager.__aenter__()).start_soon(helper)
        await trio.testing.wait_all_tasks_blocked()
        await leaves()

    async with pool_of(2) as pool:
        outcome = await (await pool.spawn(agent)).wait()
        assert cleaned == [trio.current_time()]
        left_open_of(outcome, leaves)


async def test_an_error_of_a_task_in_a_nursery_that_was_left_open_is_not_lost(autojump_clock: Any) -> None:
    async def helper() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("in cleanup")

    async def agent(ctx: AgentContext) -> None:
        manager = trio.open_nursery()
        KEPT.append(manager)
        (await manager.__aenter__()).start_soon(helper)
        await trio.testing.wait_all_tasks_blocked()

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    assert isinstance(outcome, Failed)
    told = [*getattr(outcome.error, "__notes__", []), repr(outcome.error), repr(outcome.error.__cause__)]
    told.append(repr(outcome.error.__context__))
    assert any("in cleanup" in text for text in told)
    assert any("nursery" in text for text in [*told, str(outcome.error)])


async def test_a_fatal_exception_of_a_task_in_a_nursery_that_was_left_open_comes_out(
    autojump_clock: Any,
) -> None:
    error = SystemExit(3)

    async def helper() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def agent(ctx: AgentContext) -> None:
        manager = trio.open_nursery()
        KEPT.append(manager)
        (await manager.__aenter__()).start_soon(helper)
        await trio.testing.wait_all_tasks_blocked()

    with pytest.raises(SystemExit) as caught:
        async with pool_of(1) as pool:
            await pool.spawn(agent)
    assert caught.value is error


# -- how the body ended ----------------------------------------------------------------------------------


@each_way
async def test_the_error_of_a_body_stays_the_outcome_and_a_note_names_what_was_left_open(
    leaves: Leaves, autojump_clock: Any
) -> None:
    error = ValueError("of the body")

    async def agent(ctx: AgentContext) -> None:
        await leaves()
        raise error

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent)).wait()
        assert isinstance(outcome, Failed)
        assert outcome.error is error
        assert any(leaves.says in note for note in error.__notes__)
        assert (await (await pool.spawn(lives)).wait()).unwrap() == "lived"


@some_ways
async def test_an_error_of_a_body_that_its_own_open_scope_had_cancelled_is_not_lost(
    leaves: Leaves, autojump_clock: Any
) -> None:
    error = ValueError("of the cleanup")

    async def agent(ctx: AgentContext) -> None:
        await leaves()
        try:
            await trio.sleep(1)
        finally:
            raise error

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    assert isinstance(outcome, Failed)
    assert outcome.error is error


@each_way
async def test_a_fatal_exception_comes_out_of_what_was_left_open(leaves: Leaves, autojump_clock: Any) -> None:
    error = SystemExit(4)

    async def agent(ctx: AgentContext) -> None:
        await leaves()
        raise error

    with pytest.raises(SystemExit) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(agent)
            await pool.spawn(lives)
    assert caught.value is error
    assert trio.current_time() == 0


@pytest.mark.parametrize("leaves", [leaves for leaves in LEAVES if leaves.says != "shield"], ids=str)
async def test_an_agent_that_is_aborted_under_what_it_left_open_is_aborted(
    leaves: Leaves, autojump_clock: Any
) -> None:
    shields = leaves.name in ("many scopes", "nurseries and scopes", "exit stack", "cancelled scope")

    async def agent(ctx: AgentContext) -> None:
        await leaves()
        await trio.sleep_forever()

    if shields:
        pytest.skip("it cannot be reached by an abort, or has ended before it")
    async with pool_of(2) as pool:
        other = await pool.spawn(lives)
        handle = await pool.spawn(agent)
        await trio.sleep(0.125)
        handle.abort("enough")
        outcome = await handle.wait()
        assert trio.current_time() == 0.125
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "enough"
        assert (await other.wait()).unwrap() == "lived"


@some_ways
async def test_an_agent_that_was_aborted_and_returned_all_the_same_has_left_something_open(
    leaves: Leaves, autojump_clock: Any
) -> None:
    async def agent(ctx: AgentContext) -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            await leaves()
        return "anyway"

    if leaves.name == "cancelled scope":
        leaves = next(leaves for leaves in LEAVES if leaves.name == "scope")
    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()
        handle.abort("enough")
        assert isinstance(await handle.wait(), Failed | Aborted)
        assert (await (await pool.spawn(lives)).wait()).unwrap() == "lived"


@pytest.mark.parametrize("name", ["generator in a scope, kept", "generator in a scope, lost", "nursery"])
async def test_an_agent_whose_time_is_over_under_what_it_left_open_has_timed_out(
    name: str, autojump_clock: Any
) -> None:
    (leaves,) = [leaves for leaves in LEAVES if leaves.name == name]

    async def agent(ctx: AgentContext) -> None:
        await leaves()
        await trio.sleep_forever()

    async with pool_of(2) as pool:
        other = await pool.spawn(lives)
        handle = await pool.spawn(agent, timeout=0.25)
        outcome = await handle.wait()
        assert trio.current_time() == 0.25
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, AgentTimeoutError)
        assert (await other.wait()).unwrap() == "lived"


@each_way
@pytest.mark.parametrize("timeout", [0.25, 10])
async def test_an_agent_with_a_timeout_that_leaves_something_open_touches_nobody(
    leaves: Leaves, timeout: float, autojump_clock: Any
) -> None:
    async with pool_of(2) as pool:
        other = await pool.spawn(lives, timeout=5)
        outcome = await (await pool.spawn(culprit, leaves, timeout=timeout)).wait()
        left_open_of(outcome, leaves)
        assert (await other.wait()).unwrap() == "lived"


# -- the neighbours ---------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("verb", ["spawn", "spawn_nowait", "fan_out", "map", "as_completed", "race", "vote"])
async def test_who_is_started_next_sees_nothing_of_what_was_left_open(
    leaves: Leaves, verb: str, autojump_clock: Any
) -> None:
    async with pool_of(1) as pool:
        await (await pool.spawn(culprit, leaves)).wait()
        if verb == "spawn":
            assert await (await pool.spawn(lives)).result() == "lived"
        elif verb == "spawn_nowait":
            assert await pool.spawn_nowait(lives).result() == "lived"
        elif verb == "fan_out":
            assert [await handle.result() for handle in await pool.fan_out([lives] * 2)] == ["lived"] * 2
        elif verb == "map":
            assert [outcome.unwrap() for outcome in await pool.map(lives, range(2))] == ["lived"] * 2
        elif verb == "as_completed":
            async with pool.as_completed(lives, iter(range(2))) as done:
                assert [outcome.unwrap() async for outcome in done] == ["lived"] * 2
        elif verb == "race":
            assert (await pool.race(lives, lives)).unwrap() == "lived"
        else:
            assert (await pool.vote(lives, n=3, quorum=2)).winner == "lived"


@each_way
@caps
async def test_who_waits_for_the_slot_of_a_culprit_sees_nothing_of_it(
    leaves: Leaves, cap: int, autojump_clock: Any
) -> None:
    async with pool_of(cap) as pool:
        agents = [leaving(leaves), lives, leaving(leaves), lives, lives]
        outcomes = await pool.map(lambda ctx, agent: agent(ctx), agents)
    left_open_of(outcomes[0], leaves)
    left_open_of(outcomes[2], leaves)
    assert [outcome.unwrap() for outcome in (outcomes[1], outcomes[3], outcomes[4])] == ["lived"] * 3


@each_way
async def test_siblings_and_the_block_see_nothing_of_what_was_left_open(
    leaves: Leaves, autojump_clock: Any
) -> None:
    async with pool_of(5) as pool:
        before = [await pool.spawn(lives) for _ in range(2)]
        bad = await pool.spawn(culprit, leaves)
        after = [await pool.spawn(lives) for _ in range(2)]
        await trio.sleep(1)  # the block itself is not cancelled
        assert trio.current_time() == 1
        for handle in (*before, *after):
            assert (await handle.wait()).unwrap() == "lived"
        left_open_of(await bad.wait(), leaves)
    assert trio.current_time() == 2


@each_way
@caps
async def test_a_parent_and_its_other_children_see_nothing_of_what_a_child_left_open(
    leaves: Leaves, cap: int, autojump_clock: Any
) -> None:
    async def parent(ctx: AgentContext) -> list[Any]:
        first = await (await ctx.spawn(culprit, leaves)).wait()
        left_open_of(first, leaves)
        await trio.sleep(1)
        return [outcome.unwrap() for outcome in await ctx.map(lives, range(2))]

    async with pool_of(cap) as pool:
        assert (await (await pool.spawn(parent)).wait()).unwrap() == ["lived"] * 2


@some_ways
@caps
async def test_children_of_a_culprit_have_ended_with_it_and_are_not_cancelled_by_its_scope(
    leaves: Leaves, cap: int, autojump_clock: Any
) -> None:
    handles = []

    async def parent(ctx: AgentContext) -> None:
        await leaves()
        handles.append(ctx.spawn_nowait(sleeper, 5) if cap > 1 else None)

    async with pool_of(cap) as pool:
        outcome = await (await pool.spawn(parent)).wait()
        assert isinstance(outcome, Failed)
        assert pool.active_count == 0
        assert all(handle is None or handle.outcome is not None for handle in handles)
        assert (await (await pool.spawn(lives)).wait()).unwrap() == "lived"


@some_ways
async def test_an_agent_that_collected_its_children_under_an_open_scope_fails_with_that_scope(
    leaves: Leaves, autojump_clock: Any
) -> None:
    if leaves.name == "cancelled scope":
        leaves = next(leaves for leaves in LEAVES if leaves.name == "scope")

    async def parent(ctx: AgentContext) -> list[Any]:
        await leaves()
        return [await (await ctx.spawn(sleeper, 0.125, n)).result() for n in range(2)]

    async with pool_of(1) as pool:
        left_open_of(await (await pool.spawn(parent)).wait(), leaves)


@each_way
async def test_the_next_agent_can_be_aborted_at_once_and_can_time_out(
    leaves: Leaves, autojump_clock: Any
) -> None:
    async with pool_of(1) as pool:
        await (await pool.spawn(culprit, leaves)).wait()
        handle = await pool.spawn(lives)
        await trio.sleep(0.125)
        handle.abort("enough")
        assert isinstance(await handle.wait(), Aborted)
        assert trio.current_time() == 0.125
        outcome = await (await pool.spawn(lives, timeout=0.125)).wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, AgentTimeoutError)
        assert trio.current_time() == 0.25


@some_ways
@pytest.mark.parametrize("how", ["scope", "body", "drain", "abort_all"])
async def test_the_pool_can_be_ended_as_ever_after_something_was_left_open(
    leaves: Leaves, how: str, autojump_clock: Any
) -> None:
    async def listens(ctx: AgentContext) -> None:
        await ctx.receive()

    class Stop(Exception):
        pass

    with trio.move_on_after(1 if how == "scope" else 50) as scope:
        try:
            async with pool_of(3) as pool:
                await (await pool.spawn(culprit, leaves)).wait()
                await pool.spawn(listens)
                await pool.spawn(sleeper, 100)
                if how == "scope":
                    await trio.sleep_forever()
                elif how == "body":
                    raise Stop
                elif how == "drain":
                    assert await pool.drain(grace=1) == []
                else:
                    pool.abort_all()
        except Stop:
            pass
    assert scope.cancelled_caught == (how == "scope")
    assert trio.current_time() <= 1


@some_ways
async def test_many_culprits_one_after_the_other_and_side_by_side(
    leaves: Leaves, autojump_clock: Any
) -> None:
    async with pool_of(3) as pool:
        other = await pool.spawn(lives)
        for outcome in await pool.map(leaving(leaves), range(30)):
            left_open_of(outcome, leaves)
        async with pool.as_completed(leaving(leaves), iter(range(30))) as done:
            async for outcome in done:
                left_open_of(outcome, leaves)
        assert (await other.wait()).unwrap() == "lived"
        now = pool.statistics()
        assert (now.spawned, now.ended, now.running) == (61, 61, 0)


@some_ways
async def test_a_culprit_does_not_win_a_race_and_its_end_is_no_vote(
    leaves: Leaves, autojump_clock: Any
) -> None:
    async with pool_of(3) as pool:
        outcome = await pool.race(leaving(leaves), lambda ctx: sleeper(ctx, 1, "good"))
        assert outcome.unwrap() == "good"
        verdict = await pool.vote(leaving(leaves), n=3, quorum=2)
        assert verdict.winner is None
        assert verdict.votes == {}
        for outcome in verdict.outcomes:
            left_open_of(outcome, leaves)


# -- the next life ----------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("raises", [False, True])
async def test_the_next_life_sees_nothing_of_what_the_one_before_left_open(
    leaves: Leaves, raises: bool, autojump_clock: Any
) -> None:
    tried = []

    async def agent(ctx: AgentContext) -> str:
        tried.append(ctx.id)
        if len(tried) < 3:
            await leaves()
            if raises:
                raise ValueError("again")
            return "not this one"
        return await lives(ctx)

    async with pool_of(2) as pool:
        other = await pool.spawn(lives)
        policy = RestartPolicy(max_restarts=5, within=100)
        handle = await pool.spawn(agent, restart=policy)
        outcome = await handle.wait()
        assert outcome.unwrap() == "lived"
        assert outcome.restarts == 2
        assert (await other.wait()).unwrap() == "lived"


@each_way
async def test_an_agent_that_leaves_something_open_in_each_life_fails_with_it_in_the_end(
    leaves: Leaves, autojump_clock: Any
) -> None:
    async with pool_of(1) as pool:
        policy = RestartPolicy(max_restarts=2, within=100)
        outcome = await (await pool.spawn(culprit, leaves, restart=policy)).wait()
        assert isinstance(outcome, Failed)
        assert outcome.restarts == 2
        assert found_in(outcome.error, LeftOpenError) or found_in(outcome.error.__cause__, LeftOpenError)
        assert (await (await pool.spawn(lives)).wait()).unwrap() == "lived"


@some_ways
async def test_an_agent_that_left_something_open_can_be_aborted_between_its_lives(
    leaves: Leaves, autojump_clock: Any
) -> None:
    async with pool_of(1) as pool:
        policy = RestartPolicy(max_restarts=9, within=100, backoff=8)
        handle = await pool.spawn(culprit, leaves, restart=policy)
        await trio.sleep(1)
        handle.abort("enough")
        assert isinstance(await handle.wait(), Aborted)
        assert trio.current_time() == 1


@some_ways
async def test_a_supervisor_restarts_who_left_something_open(leaves: Leaves, autojump_clock: Any) -> None:
    tried = []

    async def agent(ctx: AgentContext) -> None:
        tried.append(trio.current_time())
        if len(tried) < 3:
            await leaves()
            return
        await lives(ctx)

    async with pool_of(3) as pool:
        boss = Supervisor(
            [ChildSpec(agent, name="a"), ChildSpec(lives, name="b")], max_restarts=5, within=100
        )
        handle = await pool.spawn(boss)
        await trio.sleep(10)
        if handle.outcome is None:
            handle.abort()
        assert len(tried) >= 3


# -- the agent's own tasks ----------------------------------------------------------------------------------


@each_way
@caps
async def test_what_a_known_task_of_an_agent_leaves_open_fails_that_agent_only(
    leaves: Leaves, cap: int, autojump_clock: Any
) -> None:
    async def agent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(leaves)

    async with pool_of(cap) as pool:
        other = await pool.spawn(lives)
        outcome = await (await pool.spawn(agent)).wait()
        assert isinstance(outcome, Failed)
        (error,) = found_in(outcome.error, LeftOpenError)
        assert leaves.says in str(error)
        assert (await other.wait()).unwrap() == "lived"
        assert (await (await pool.spawn(lives)).wait()).unwrap() == "lived"


@each_way
async def test_a_known_task_that_leaves_something_open_cancels_its_siblings_and_can_be_caught(
    leaves: Leaves, autojump_clock: Any
) -> None:
    stopped = []

    async def sibling() -> None:
        try:
            await trio.sleep_forever()
        finally:
            stopped.append(trio.current_time())

    async def task() -> None:
        await trio.sleep(0.125)
        await leaves()

    async def agent(ctx: AgentContext) -> str:
        caught = []
        try:
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(sibling)
                nursery.start_soon(task)
        except* LeftOpenError as group:
            caught.append(group)
        assert caught
        return await lives(ctx)

    async with pool_of(1) as pool:
        assert (await (await pool.spawn(agent)).wait()).unwrap() == "lived"
    assert stopped == [0.125]


@some_ways
async def test_what_a_task_that_was_started_leaves_open_fails_its_agent_only(
    leaves: Leaves, autojump_clock: Any
) -> None:
    async def task(*, task_status: Any) -> None:
        task_status.started(3)
        await leaves()

    async def agent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            assert await nursery.start(task) == 3
            await trio.sleep(1)

    async with pool_of(2) as pool:
        other = await pool.spawn(lives)
        outcome = await (await pool.spawn(agent)).wait()
        assert isinstance(outcome, Failed)
        assert found_in(outcome.error, LeftOpenError)
        assert (await other.wait()).unwrap() == "lived"


@pytest.mark.parametrize("how", ["nursery", "as_completed", "pool"])
async def test_blocks_of_ours_that_an_agent_enters_by_hand_are_left_open_like_others(
    how: str, autojump_clock: Any
) -> None:
    from agentpool import open_agent_pool

    async def agent(ctx: AgentContext) -> str:
        manager: Any
        if how == "nursery":
            manager = ctx.open_nursery()
            KEPT.append(manager)
            (await manager.__aenter__()).start_soon(trio.sleep_forever)
        elif how == "as_completed":
            manager = ctx.as_completed(sleeper, iter([50] * 3))
            KEPT.append(manager)
            await manager.__aenter__()
        else:
            manager = open_agent_pool(max_concurrent=1)
            KEPT.append(manager)
            await (await manager.__aenter__()).spawn(sleeper, 50)
        return "left open"

    with trio.fail_after(500):
        async with pool_of(5) as pool:
            other = await pool.spawn(lives)
            outcome = await (await pool.spawn(agent)).wait()
            assert isinstance(outcome, Failed)
            assert isinstance(outcome.error, LeftOpenError)
            assert "nursery" in str(outcome.error)
            assert (await other.wait()).unwrap() == "lived"
            assert (await (await pool.spawn(lives)).wait()).unwrap() == "lived"


@pytest.mark.parametrize("verb", ["map", "as_completed", "as_completed, left early"])
@pytest.mark.parametrize("inside", ["scope", "nursery"])
@pytest.mark.parametrize("where", ["block", "agent"])
@caps
async def test_an_input_may_hold_a_scope_or_a_nursery_around_its_items(
    verb: str, inside: str, where: str, cap: int, autojump_clock: Any
) -> None:
    closed = []

    async def items() -> AsyncIterator[float]:
        try:
            if inside == "scope":
                with trio.move_on_after(1000):
                    for number in range(6):
                        yield number
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, 1)
                    for number in range(6):
                        yield number
        finally:
            closed.append(verb)

    async def consume(scope: Any) -> int:
        if verb == "map":
            return len(await scope.map(sleeper, items()))
        count = 0
        async with scope.as_completed(sleeper, items()) as done:
            async for _ in done:
                count += 1
                if verb.endswith("early") and count == 2:
                    break
        return count

    with trio.fail_after(100):
        async with pool_of(cap) as pool:
            found = await (consume(pool) if where == "block" else (await pool.spawn(consume)).result())
            assert found == (2 if verb.endswith("early") else 6)
            assert await (await pool.spawn(lives)).result() == "lived"
    assert closed == [verb]


# -- tool calls ---------------------------------------------------------------------------------------------


def calls(*names: str, first: int = 0) -> Completion:
    return Completion("", [ToolCall(f"{first + i}-{name}", name, {}) for i, name in enumerate(names)])


def tools_that_leave(leaves: Leaves) -> ToolRegistry:
    @tool
    async def peek() -> str:
        """Take the first piece of a stream."""
        await leaves()
        return "got a piece"

    @tool
    async def peek_and_wait() -> str:
        """Take the first piece of a stream, and wait for what may fire."""
        await leaves()
        await trio.sleep(1)
        return "got a piece"

    @tool
    async def peek_and_fail() -> str:
        """Take the first piece of a stream, and fail."""
        await leaves()
        raise ValueError("of the tool")

    @tool(timeout=4)
    async def peek_in_time() -> str:
        """Take the first piece of a stream, within a limit of its own."""
        await leaves()
        return "got a piece"

    @tool
    async def nap() -> str:
        """Sleep."""
        await trio.sleep(2)
        return "napped"

    return ToolRegistry([peek, peek_and_wait, peek_and_fail, peek_in_time, nap])


async def results_of(leaves: Leaves, script: list[Any], cap: int) -> dict[str, Any]:
    """The results of the tool calls of a model agent that ends well, by call."""
    async with pool_of(
        cap, driver=ScriptedDriver(script), tool_builder=lambda manifest: tools_that_leave(leaves)
    ) as pool:
        handle = await pool.spawn(SpawnConfig(AgentManifest(name="reader"), "Go."))
        other = await pool.spawn(lives)
        result = await handle.result()
        assert (await other.wait()).unwrap() == "lived"
        assert (await (await pool.spawn(lives)).wait()).unwrap() == "lived"
    assert result.text == "Done."
    found = {m.call_id: m.result for m in result.transcript if isinstance(m, ToolMessage)}
    assert len(found) == sum(len(step.tool_calls) for step in script if isinstance(step, Completion))
    return found


@each_way
@pytest.mark.parametrize("name", ["peek", "peek_and_wait", "peek_in_time"])
async def test_what_a_tool_call_leaves_open_is_the_error_of_that_call_and_the_agent_goes_on(
    leaves: Leaves, name: str, autojump_clock: Any
) -> None:
    found = await results_of(leaves, [calls(name), calls("nap", first=5), "Done."], 4)
    assert found[f"0-{name}"].is_error
    assert leaves.says in str(found[f"0-{name}"].content)
    assert not found["5-nap"].is_error
    assert "napped" in str(found["5-nap"].content)


@each_way
@caps
async def test_calls_beside_one_that_leaves_something_open_see_nothing_of_it(
    leaves: Leaves, cap: int, autojump_clock: Any
) -> None:
    found = await results_of(
        leaves, [calls("nap", "peek", "nap", "peek_and_wait"), calls("nap", first=9), "Done."], cap
    )
    assert found["1-peek"].is_error
    assert found["3-peek_and_wait"].is_error
    for name in ("0-nap", "2-nap", "9-nap"):
        assert not found[name].is_error
        assert "napped" in str(found[name].content)


@some_ways
async def test_the_error_of_a_tool_is_told_though_it_left_something_open(
    leaves: Leaves, autojump_clock: Any
) -> None:
    found = await results_of(leaves, [calls("peek_and_fail"), calls("nap", first=5), "Done."], 1)
    assert found["0-peek_and_fail"].is_error
    assert "of the tool" in str(found["0-peek_and_fail"].content)
    assert not found["5-nap"].is_error


@some_ways
@pytest.mark.parametrize("how", ["abort", "timeout"])
async def test_an_agent_whose_tool_left_something_open_can_be_ended_at_once(
    leaves: Leaves, how: str, autojump_clock: Any
) -> None:
    script = [calls("peek"), calls("nap", first=5), "Done."]
    async with pool_of(
        2, driver=ScriptedDriver(script), tool_builder=lambda manifest: tools_that_leave(leaves)
    ) as pool:
        config = SpawnConfig(AgentManifest(name="reader"), "Go.")
        handle = await pool.spawn(config, timeout=1 if how == "timeout" else None)
        await trio.sleep(1)
        if how == "abort":
            handle.abort("enough")
        outcome = await handle.wait()
        assert trio.current_time() == 1
        if how == "abort":
            assert isinstance(outcome, Aborted)
        else:
            assert isinstance(outcome, Failed)
            assert isinstance(outcome.error, AgentTimeoutError)


@some_ways
async def test_an_agent_may_call_a_plain_function_that_fails_beside_what_is_open(
    leaves: Leaves, autojump_clock: Any
) -> None:
    """The failure of a child, raised under what was left open, is the error and names the scope."""
    if leaves.name == "cancelled scope":
        return

    async def agent(ctx: AgentContext) -> None:
        await leaves()
        await (await ctx.spawn(failing, KeyError("child"))).result()

    async with pool_of(2) as pool:
        outcome = await (await pool.spawn(agent)).wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error.__cause__, KeyError)
        assert any(leaves.says in note for note in outcome.error.__notes__)


# -- when nobody looks ---------------------------------------------------------------------------


async def leaves_a_scope(ctx: AgentContext) -> str:
    trio.CancelScope(deadline=trio.current_time() + 5).__enter__()
    return "done"


async def ignores_its_child(ctx: AgentContext) -> str:
    await ctx.spawn(leaves_a_scope)
    await trio.sleep(1)
    return "done"


@pytest.mark.parametrize("agent", [leaves_a_scope, ignores_its_child])
async def test_an_agent_that_nobody_looks_at_is_warned_of_and_the_block_ends_well(
    agent: Any, autojump_clock: Any
) -> None:
    with pytest.warns(RuntimeWarning, match="leaves_a_scope.*a cancel scope with a deadline left open"):
        async with pool_of(2) as pool:
            await pool.spawn(agent)


async def test_where_warnings_are_errors_it_comes_out_as_any_failure(autojump_clock: Any) -> None:
    with pytest.raises(UnhandledAgentErrors) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(leaves_a_scope)
    assert [type(error) for error in caught.value.exceptions] == [LeftOpenError]


# -- odd ways --------------------------------------------------------------------------------------


async def test_an_error_in_a_nursery_that_was_left_open_is_told_beside_that_of_the_body(
    autojump_clock: Any,
) -> None:
    async def agent(ctx: AgentContext) -> None:
        nursery = await trio.open_nursery().__aenter__()

        async def cleans_up_badly() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("of the task")

        nursery.start_soon(cleans_up_badly)
        await trio.sleep(1)
        raise ValueError("of the body")

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    assert isinstance(outcome, Failed)
    notes = " ".join(outcome.error.__notes__)
    assert "KeyError('of the task')" in notes
    assert "a nursery with 1 tasks left open" in notes


async def test_code_that_left_a_scope_which_is_not_its_own_has_nothing_to_be_closed() -> None:
    outer = trio.CancelScope()
    outer.__enter__()
    mark = mark_task()
    outer.__exit__(None, None, None)
    assert not mark.is_left
    assert await close_leftovers(mark, None) == (None, ())


async def test_a_pool_is_for_one_block(autojump_clock: Any) -> None:
    opened = open_agent_pool(max_concurrent=1)
    async with opened:
        pass
    with pytest.raises(RuntimeError, match="call open_agent_pool again"):
        async with opened:
            pass


async def _asks_under_a_shield(ctx: AgentContext, to: int) -> None:
    """Leaves a known nursery open, with a task that first has to hear from a server."""

    async def asks() -> None:
        with trio.CancelScope(shield=True):
            assert await ctx.ask(to, "last") == "last"

    nursery = await ctx.open_nursery().__aenter__()
    nursery.start_soon(asks)
    await trio.sleep(0)


async def _leaves_it_in_a_task(ctx: AgentContext, to: int) -> None:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(_asks_under_a_shield, ctx, to)


@caps
@pytest.mark.parametrize("agent", [_asks_under_a_shield, _leaves_it_in_a_task])
async def test_the_slot_is_lent_while_a_nursery_that_was_left_open_is_closed(
    agent: Any, cap: int, autojump_clock: Any
) -> None:
    async with pool_of(cap) as pool:
        serving = await pool.spawn(server)
        leaving = await pool.spawn(agent, serving.id)
        outcome = await leaving.wait()
        assert isinstance(outcome, Failed)
        assert "a nursery with 1 tasks" in repr(outcome.error)
        assert pool.statistics().running == 0
        assert await (await pool.spawn(lives)).result() == "lived"
    assert await serving.result() == ["last"]


@caps
async def test_a_generator_with_a_nursery_that_is_collected_later_counts_no_task_twice(
    cap: int, autojump_clock: Any
) -> None:
    async def numbers(ctx: AgentContext, to: int) -> AsyncIterator[int]:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(ctx.ask, to, "asked")
            await trio.sleep(0)
            yield 1

    async def leaves(ctx: AgentContext, to: int) -> None:
        generator = numbers(ctx, to)
        KEPT.append(generator)
        await anext(generator)

    async with pool_of(cap) as pool:
        serving = await pool.spawn(server)
        outcome = await (await pool.spawn(leaves, serving.id)).wait()
        assert isinstance(outcome, Failed)
        KEPT.clear()
        gc.collect()
        await trio.sleep(1)
        assert await (await pool.spawn(lives)).result() == "lived"


async def _numbers_in_a_shield() -> AsyncIterator[int]:
    with trio.CancelScope(shield=True):
        for number in itertools.count():
            yield number
            await trio.sleep(0.1)


async def _leaves_a_batch(ctx: AgentContext) -> None:
    async def outcomes() -> AsyncIterator[Any]:
        async with ctx.as_completed(value, _numbers_in_a_shield()) as ended:
            async for outcome in ended:
                yield outcome

    generator = outcomes()
    KEPT.append(generator)
    await anext(generator)


@caps
async def test_a_batch_that_is_left_open_ends_though_its_input_shields_itself(
    cap: int, autojump_clock: Any
) -> None:
    async with pool_of(cap) as pool:
        leaving = await pool.spawn(_leaves_a_batch)
        outcome = await leaving.wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, LeftOpenError)
        assert pool.active_count == 0
        assert await (await pool.spawn(lives)).result() == "lived"
