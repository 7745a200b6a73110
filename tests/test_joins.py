"""join_next, join_all and handles: each outcome is handed out once."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pool_kit import failing, pool_of, sleeper, value

from agentpool import Aborted, AgentContext, Completed, Failed


async def test_join_next_hands_out_in_the_order_of_the_ends_and_none_means_empty(autojump_clock: Any) -> None:
    async with pool_of(3) as pool:
        assert await pool.join_next() is None
        for seconds in (3, 1, 2):
            await pool.spawn(sleeper, seconds, seconds)
        found = []
        while (outcome := await pool.join_next()) is not None:
            found.append(outcome.unwrap())
        assert found == [1, 2, 3]
        assert await pool.join_next() is None
        await pool.spawn(value, "later")
        later = await pool.join_next()
        assert later is not None
        assert later.unwrap() == "later"


async def test_failed_and_aborted_agents_are_joined_like_others(autojump_clock: Any) -> None:
    async with pool_of(3) as pool:
        await pool.spawn(failing)
        (await pool.spawn(sleeper, 5)).abort()
        await pool.spawn(value, None)
        assert {type(outcome) for outcome in (await pool.join_all()).values()} == {Failed, Aborted, Completed}


async def test_join_all_hands_out_by_id_what_nobody_has_taken(autojump_clock: Any) -> None:
    async with pool_of(4) as pool:
        handles = [await pool.spawn(sleeper, i, i) for i in range(4)]
        await handles[1].wait()
        first = await pool.join_next()
        assert first is not None
        assert first.agent_id == 1
        assert {i: outcome.unwrap() for i, outcome in (await pool.join_all()).items()} == {3: 2, 4: 3}
        assert await pool.join_all() == {}


async def test_joins_cover_direct_children_only(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> list[int]:
        await ctx.spawn(value, 1)
        await ctx.spawn(value, 2)
        return list(await ctx.join_all())

    async with pool_of(3) as pool:
        handle = await pool.spawn(parent)
        assert list(await pool.join_all()) == [handle.id]
    assert handle.outcome is not None
    assert sorted(handle.outcome.unwrap()) == [2, 3]


async def test_what_map_or_race_took_is_not_joined() -> None:
    async with pool_of(3) as pool:
        await pool.map(value, [1, 2])
        await pool.race(value, value)
        await pool.vote(value, 1, n=3)
        async with pool.as_completed(value, [1, 2]) as done:
            async for _ in done:
                break
        assert await pool.join_all() == {}
        assert await pool.join_next() is None


@pytest.mark.parametrize("verb", ["join_next", "join_all", "wait"])
async def test_a_cancelled_join_consumes_nothing(verb: str, autojump_clock: Any) -> None:
    async with pool_of(3) as pool:
        handle = await pool.spawn(sleeper, 2)
        await pool.spawn(sleeper, 4)
        for at in (1, 2, 3):
            with trio.CancelScope(deadline=at) as scope:
                await (handle.wait() if verb == "wait" else getattr(pool, verb)())
            if scope.cancelled_caught:
                continue
            assert verb != "join_all"
            break
        await trio.sleep(10)
        left = await pool.join_all()
        if scope.cancelled_caught:
            assert len(left) == 2
        else:
            assert len(left) == 1


@pytest.mark.parametrize("seed", range(30))
async def test_outcomes_are_neither_lost_nor_doubled_when_joins_are_cancelled_at_odd_times(
    seed: int, autojump_clock: Any
) -> None:
    from random import Random

    random = Random(seed)
    taken: list[int] = []
    async with pool_of(random.randint(1, 4)) as pool:

        async def joiner() -> None:
            for _ in range(30):
                with trio.move_on_after(random.choice([0, 0.1, 0.5, 1])):
                    if random.random() < 0.2:
                        taken.extend(await pool.join_all())
                    else:
                        outcome = await pool.join_next()
                        if outcome is not None:
                            taken.append(outcome.agent_id)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(joiner)
            for _ in range(15):
                await pool.spawn(sleeper, random.choice([0, 0.1, 0.5, 1]))
        taken.extend(await pool.join_all())
    assert sorted(taken) == list(range(1, 16))


async def test_an_agent_that_lost_its_slot_keeps_the_outcome_that_woke_it(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> Any:
        await ctx.spawn(sleeper, 1, "x")
        outcome = None
        with trio.move_on_after(3) as scope:
            outcome = await ctx.join_next()
        assert outcome is not None
        assert not scope.cancelled_caught
        return outcome.unwrap(), trio.current_time()

    async with pool_of(1) as pool:
        handle = await pool.spawn(parent)
        await pool.spawn(sleeper, 9)
        # The outcome came after 1 second, the slot after 9, the deadline of the join between them.
        assert await handle.result() in [("x", 9), ("x", 10), ("x", 1)]


async def test_an_inner_timeout_ends_the_wait_on_time_and_the_code_goes_on_with_a_slot(
    autojump_clock: Any,
) -> None:
    times: list[Any] = []

    async def waiter(ctx: AgentContext) -> None:
        with trio.move_on_after(1) as scope:
            await ctx.receive()
        times.append((scope.cancelled_caught, trio.current_time()))

    async with pool_of(1) as pool:
        handle = await pool.spawn(waiter)
        await pool.spawn(sleeper, 100)
        await trio.sleep(50)
        # The wait has ended: what is sent now stays in the inbox.
        pool.send_nowait(handle.id, "late")
        assert pool.statistics().inboxes[handle.id].fill == 1
    assert times == [(True, 100)]
    assert pool.statistics().dead_letters == 1


async def test_a_handle_waited_for_in_another_scope_takes_the_outcome_from_the_joins() -> None:
    async def parent(ctx: AgentContext, give: Any) -> Any:
        give(await ctx.spawn(value, 1))
        await ctx.receive()
        return await ctx.join_next()

    handles: list[Any] = []
    async with pool_of(3) as pool:
        parent_handle = await pool.spawn(parent, handles.append)
        await trio.testing.wait_all_tasks_blocked()
        assert await handles[0].result() == 1
        pool.send_nowait(parent_handle.id, "go")
        assert await parent_handle.result() is None


async def test_outcomes_taken_through_handles_do_not_pile_up_for_the_joins() -> None:
    async with pool_of(2) as pool:
        kept = await pool.spawn(value, "kept")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(300):
            handle = await pool.spawn(value)
            await trio.testing.wait_all_tasks_blocked(0)
            await handle.wait()
        order = pool._state.root._order
        assert order is not None
        assert order[1].statistics().current_buffer_used < 150
        assert list(await pool.join_all()) == [kept.id]


async def test_several_tasks_that_join_all_get_each_outcome_once(autojump_clock: Any) -> None:
    found: list[int] = []
    async with pool_of(5) as pool:

        async def join() -> None:
            found.extend(await pool.join_all())

        for i in range(5):
            await pool.spawn(sleeper, i)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(join)
    assert sorted(found) == [1, 2, 3, 4, 5]


async def test_several_tasks_in_join_next_are_told_when_no_agent_is_left(autojump_clock: Any) -> None:
    found: list[Any] = []
    async with pool_of(5) as pool:

        async def join() -> None:
            found.append(await pool.join_next())

        await pool.spawn(sleeper, 1)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(join)
    assert [outcome for outcome in found if outcome is None] == [None, None]
