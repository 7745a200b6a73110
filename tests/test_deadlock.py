"""Deadlocks are found at the wait that closes them; what may still end is only suspected."""

from __future__ import annotations

import sys
from collections import Counter
from random import Random
from typing import Any

import pytest
import trio
from pool_kit import collector, pool_of, server, sleeper, value
from trio.testing import MockClock

from agentpool import (
    Aborted,
    AgentContext,
    AgentStuck,
    AgentTimeoutError,
    Completed,
    DeadlockError,
    DeadlockSuspected,
    Failed,
    UnknownAgentError,
    open_agent_pool,
)
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.wait import OwnTaskWait
from agentpool.testing import PoolInstrument, instrumented, simulate


def _path(outcome: Any) -> tuple[int, ...]:
    assert isinstance(outcome, Failed), outcome
    assert isinstance(outcome.error, DeadlockError), outcome
    return outcome.error.path


# -- rings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inbox", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [2, 3, 5, 17, 50])
async def test_a_ring_of_full_inboxes_is_found_at_the_send_that_closes_it(size: int, inbox: int) -> None:
    gates = {agent_id: trio.Event() for agent_id in range(1, size + 1)}

    async def member(ctx: AgentContext) -> None:
        await gates[ctx.id].wait()
        following = ctx.id % size + 1
        for _ in range(inbox + 1):
            await ctx.send(following, "x")
        await ctx.receive()

    async with pool_of(size, inbox_capacity=inbox) as pool:
        for _ in range(size):
            await pool.spawn(member)
        await trio.testing.wait_all_tasks_blocked()
        order = list(range(1, size + 1))
        Random(size * inbox).shuffle(order)
        for i, agent_id in enumerate(order):
            gates[agent_id].set()
            await trio.testing.wait_all_tasks_blocked()
            if i < size - 1:
                assert pool.statistics().ended == 0
        closer = await pool.join_next()
        path = _path(closer)
        assert closer is not None
        assert closer.agent_id == order[-1]
        assert path == tuple((order[-1] - 1 + i) % size + 1 for i in range(size))
        await pool.join_all()


@pytest.mark.parametrize("size", [2, 3, 7, 30])
async def test_a_ring_of_questions_is_found_before_the_last_one_is_delivered(size: int) -> None:
    gates = {agent_id: trio.Event() for agent_id in range(1, size + 1)}

    async def member(ctx: AgentContext) -> None:
        await gates[ctx.id].wait()
        await ctx.ask(ctx.id % size + 1, "?")

    async with pool_of(size) as pool:
        for _ in range(size):
            await pool.spawn(member)
        await trio.testing.wait_all_tasks_blocked()
        for agent_id in range(1, size + 1):
            gates[agent_id].set()
            await trio.testing.wait_all_tasks_blocked()
        closer = await pool.join_next()
        assert _path(closer) == (size, *range(1, size))
        # The others' questions were delivered, the one that closed the ring was not.
        letters = [letter.message for letter in pool.dead_letters if letter.message.content == "?"]
        assert all(letter.sender != size for letter in letters)
        await pool.join_all()


async def test_the_error_names_the_agents_in_words() -> None:
    assert (
        str(DeadlockError([3, 1, 2])) == "agent 3 waits for 1 waits for 2 waits for 3: no such wait can end"
    )


# -- who waits for whom ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["ask", "send"])
async def test_an_agent_that_waits_for_itself_is_told(verb: str) -> None:
    async def agent(ctx: AgentContext) -> None:
        for _ in range(5):
            await getattr(ctx, verb)(ctx.id, "?")

    async with pool_of(1, inbox_capacity=2) as pool:
        assert _path(await (await pool.spawn(agent)).wait()) == (1,)


async def test_an_agent_that_waits_for_its_own_outcome_is_told() -> None:
    handles: list[Any] = []

    async def agent(ctx: AgentContext) -> None:
        await handles[0].result()

    async with pool_of(1) as pool:
        handles.append(pool.spawn_nowait(agent))
        assert _path(await handles[0].wait()) == (1,)


@pytest.mark.parametrize("wait", ["wait", "join_next", "join_all", "map", "as_completed", "race"])
async def test_a_child_that_asks_a_parent_which_waits_for_it_is_told(wait: str, autojump_clock: Any) -> None:
    paths = []

    async def child(ctx: AgentContext, _: Any = None) -> None:
        await trio.sleep(1)
        try:
            await ctx.ask(ctx.parent_id, "?")
        except DeadlockError as error:
            paths.append(error.path)

    async def parent(ctx: AgentContext) -> None:
        if wait == "map":
            await ctx.map(child, [1])
        elif wait == "race":
            await ctx.race(child)
        elif wait == "as_completed":
            async with ctx.as_completed(child, [1]) as done:
                async for _ in done:
                    pass
        else:
            handle = await ctx.spawn(child)
            await (handle.wait() if wait == "wait" else getattr(ctx, wait)())

    async with pool_of(2) as pool:
        assert isinstance(await (await pool.spawn(parent)).wait(), Completed)
    assert paths == [(2, 1)]


async def test_the_parent_is_told_when_its_own_wait_closes_the_cycle(autojump_clock: Any) -> None:
    async def child(ctx: AgentContext) -> Any:
        return await ctx.ask(ctx.parent_id, "?")

    async def parent(ctx: AgentContext) -> Any:
        handle = await ctx.spawn(child)
        await trio.sleep(1)
        with pytest.raises(DeadlockError) as caught:
            await handle.wait()
        assert caught.value.path == (1, 2)
        ctx.reply(await ctx.receive(), "after all")
        return await handle.result()

    async with pool_of(2) as pool:
        assert await (await pool.spawn(parent)).result() == "after all"


async def test_a_join_next_is_hopeless_only_when_every_child_is(autojump_clock: Any) -> None:
    async def asking(ctx: AgentContext) -> Any:
        await trio.sleep(1)
        return await ctx.ask(ctx.parent_id, "?")

    async def parent(ctx: AgentContext) -> Any:
        await ctx.spawn(asking)
        await ctx.spawn(sleeper, 5, "slow")
        first = await ctx.join_next()
        assert first is not None
        with pytest.raises(DeadlockError) as caught:
            await ctx.join_next()
        assert caught.value.path == (1, 2)
        ctx.reply(await ctx.receive(), "yes")
        second = await ctx.join_next()
        assert second is not None
        return first.unwrap(), second.unwrap()

    async with pool_of(3) as pool:
        assert await (await pool.spawn(parent)).result() == ("slow", "yes")


@pytest.mark.parametrize(("asks_at", "told"), [(0.2, (1, 3)), (1, (3, 1))])
async def test_a_join_that_loses_its_last_hopeful_child_to_somebody_else_is_a_deadlock(
    asks_at: float, told: tuple[int, ...], autojump_clock: Any
) -> None:
    box: list[Any] = []
    found = []

    async def asking(ctx: AgentContext) -> None:
        await trio.sleep(asks_at)
        try:
            await ctx.ask(ctx.parent_id, "?")
        except DeadlockError as error:
            found.append((error.path, trio.current_time()))
        except UnknownAgentError:
            pass

    async def parent(ctx: AgentContext) -> None:
        box.append(await ctx.spawn(sleeper, 5))
        await ctx.spawn(asking)
        await trio.sleep(0.5)
        try:
            await ctx.join_next()
        except DeadlockError as error:
            found.append((error.path, trio.current_time()))
            ctx.reply(await ctx.receive(), "after all")

    async def thief(ctx: AgentContext) -> None:
        await box[0].wait()

    async with pool_of(9) as pool:
        await pool.spawn(parent)
        await trio.sleep(0.1)
        await pool.spawn(thief)
        await pool.join_all()
    # The youngest wait of the cycle is told.
    assert found == [(told, 5)]


async def test_a_join_all_is_hopeless_when_one_child_is(autojump_clock: Any) -> None:
    paths = []

    async def asking(ctx: AgentContext) -> None:
        await trio.sleep(1)
        try:
            await ctx.ask(ctx.parent_id, "?")
        except DeadlockError as error:
            paths.append((error.path, trio.current_time()))

    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(asking)
        await ctx.spawn(sleeper, 5)
        await ctx.join_all()

    async with pool_of(3) as pool:
        await (await pool.spawn(parent)).result()
    assert paths == [((2, 1), 1)]


async def test_an_ended_body_waits_for_its_children(autojump_clock: Any) -> None:
    async def asking(ctx: AgentContext) -> None:
        await trio.sleep(1)
        await ctx.ask(ctx.parent_id, "?")

    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(asking)

    async with pool_of(3) as pool:
        outcome = await (await pool.spawn(parent)).wait()
    assert isinstance(outcome, Failed)
    assert _path_in_group(outcome.error) == [(2, 1)]


def _path_in_group(group: Any) -> list[tuple[int, ...]]:
    return [error.path for error in group.exceptions]


@pytest.mark.parametrize("children", [1, 2, 3])
async def test_the_end_of_a_body_that_closes_cycles_wakes_the_youngest_wait_of_each(
    children: int, autojump_clock: Any
) -> None:
    async def asking(ctx: AgentContext) -> None:
        await ctx.ask(ctx.parent_id, "?")

    async def parent(ctx: AgentContext) -> None:
        for _ in range(children):
            await ctx.spawn(asking)
        await trio.sleep(1)

    async with pool_of(4) as pool:
        outcome = await (await pool.spawn(parent)).wait()
    assert trio.current_time() == 1
    assert isinstance(outcome, Failed)
    assert sorted(_path_in_group(outcome.error)) == [(i + 2, 1) for i in range(children)]


async def test_without_the_detector_agents_wait_for_each_other_until_somebody_ends_it(
    autojump_clock: Any,
) -> None:
    async def asking(ctx: AgentContext) -> None:
        await ctx.ask(ctx.parent_id, "?")

    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(asking)
        await trio.sleep(1)

    with instrumented(PoolInstrument(detects_deadlocks=False)):
        async with pool_of(2) as pool:
            handle = await pool.spawn(parent)
            with trio.move_on_after(1000):
                await handle.wait()
            assert handle.status == "ending"
            handle.abort()


async def test_a_deadlock_over_several_pools_is_found(autojump_clock: Any) -> None:
    async def inner_agent(ctx: AgentContext, outer: AgentContext) -> None:
        await trio.sleep(1)
        await outer.ask(outer.id, "?")

    async def outer(ctx: AgentContext) -> Any:
        async with open_agent_pool(max_concurrent=1) as inner:
            return await (await inner.spawn(inner_agent, ctx)).wait()

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(outer)).result()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, DeadlockError)


# -- what is no deadlock -------------------------------------------------------------------------------------


async def test_waiting_for_an_agent_that_waits_for_a_message_is_no_deadlock(autojump_clock: Any) -> None:
    async def asking(ctx: AgentContext, to: int) -> Any:
        return await ctx.ask(to, "?")

    async with pool_of(3) as pool:
        silent = await pool.spawn(server)
        handle = await pool.spawn(asking, silent.id)
        assert await handle.result() == "?"


async def test_an_alarm_is_not_raised_when_the_last_free_agent_may_help(autojump_clock: Any) -> None:
    async def a(ctx: AgentContext, b: int) -> Any:
        await trio.sleep(1)
        return await ctx.ask(b, "?")

    async def b(ctx: AgentContext) -> Any:
        message = await ctx.receive()
        first = message.content
        if first == "?":
            ctx.reply(message, first)
        return await ctx.ask(1, "?")

    async with pool_of(3) as pool:
        helper = await pool.spawn(collector)
        assert helper.id == 1
        b_handle = await pool.spawn(b)
        a_handle = await pool.spawn(a, b_handle.id)
        assert await a_handle.result() == "?"
        b_handle.abort()


async def _suspicions(pool: Any, found: list[Any]) -> None:
    async with pool.events() as events:
        async for event in events:
            if isinstance(event, DeadlockSuspected):
                found.append(event.path)


async def test_a_wait_under_a_narrower_deadline_is_suspected_and_not_raised(autojump_clock: Any) -> None:
    found: list[Any] = []

    async def asking(ctx: AgentContext, limit: float) -> str:
        other = 3 - ctx.id
        await trio.sleep(ctx.id)
        with trio.move_on_after(limit) as scope:
            await ctx.ask(other, "?")
        return "gave up" if scope.cancelled_caught else "answered"

    async with trio.open_nursery() as nursery:
        async with pool_of(2) as pool:
            nursery.start_soon(_suspicions, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            first = await pool.spawn(asking, 10)
            second = await pool.spawn(asking, 1000)
            assert await first.result() == "gave up"
            assert (await second.wait()).agent_id == 2
    assert found[0] == (2, 1)


async def test_a_deadline_around_the_pool_or_of_the_agent_does_not_hide_a_deadlock(
    autojump_clock: Any,
) -> None:
    async def asking(ctx: AgentContext) -> None:
        await trio.sleep(ctx.id)
        await ctx.ask(3 - ctx.id, "?")

    with trio.fail_after(1000):
        async with pool_of(2) as pool:
            await pool.spawn(asking, timeout=500)
            handle = await pool.spawn(asking, timeout=600)
            assert _path(await handle.wait()) == (2, 1)
            await pool.join_all()


async def test_an_agent_with_unknown_tasks_is_suspected_until_they_have_ended(autojump_clock: Any) -> None:
    found: list[Any] = []

    async def asking(ctx: AgentContext) -> Any:
        async with trio.open_nursery() as nursery:
            if ctx.id == 1:
                nursery.start_soon(trio.sleep, 50)
            await trio.sleep(ctx.id)
            return await ctx.ask(3 - ctx.id, "?")

    async with trio.open_nursery() as nursery:
        async with pool_of(2) as pool:
            nursery.start_soon(_suspicions, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(2):
                await pool.spawn(asking)
            outcomes = await pool.join_all()
    assert found == [(2, 1)]
    assert trio.current_time() == 50
    assert [type(outcome) for outcome in outcomes.values()] == [Failed, Failed]


async def test_an_unknown_task_may_break_the_cycle(autojump_clock: Any) -> None:
    async def asking(ctx: AgentContext) -> str:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                if ctx.id == 1:

                    async def rescue() -> None:
                        await trio.sleep(10)
                        scope.cancel()

                    nursery.start_soon(rescue)
                await trio.sleep(ctx.id)
                await ctx.ask(3 - ctx.id, "?")
        return "rescued"

    async with pool_of(2) as pool:
        handle = await pool.spawn(asking)
        await pool.spawn(asking)
        assert await handle.result() == "rescued"
        await pool.join_all()


async def test_unknown_tasks_that_ended_before_the_wait_began_do_not_matter(autojump_clock: Any) -> None:
    async def asking(ctx: AgentContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
            await trio.sleep(ctx.id)
            await ctx.ask(3 - ctx.id, "?")

    async with pool_of(2) as pool:
        for _ in range(2):
            await pool.spawn(asking)
        await pool.join_all()
    assert trio.current_time() == 2


async def test_a_closed_cycle_with_an_aborted_agent_is_none(autojump_clock: Any) -> None:
    async def asking(ctx: AgentContext) -> Any:
        await trio.sleep(ctx.id)
        return await ctx.ask(3 - ctx.id, "?")

    async with pool_of(2) as pool:
        first = await pool.spawn(asking)
        second = await pool.spawn(asking)
        await trio.sleep(1.5)
        first.abort()
        outcome = await second.wait()
        assert isinstance(outcome, Failed)
        assert not isinstance(outcome.error, DeadlockError)


async def test_a_wait_in_a_cleanup_under_a_shield_is_judged_by_nobody(autojump_clock: Any) -> None:
    stuck: list[Any] = []

    async def asking(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(8, shield=True):
                await ctx.ask(ctx.id, "?")

    async def watch(pool: Any) -> None:
        async with pool.events() as events:
            async for event in events:
                if isinstance(event, AgentStuck):
                    stuck.append(event.agent_id)

    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            nursery.start_soon(watch, pool)
            handle = await pool.spawn(asking)
            await trio.testing.wait_all_tasks_blocked()
            handle.abort()
            await handle.wait()
    assert stuck == [1]
    assert trio.current_time() == 8


# -- agents that are being cancelled -------------------------------------------------------------------------


@pytest.mark.parametrize("ring", [1, 2])
async def test_an_aborted_agent_that_closes_a_cycle_under_a_shield_is_cancelled_and_not_told(
    ring: int, autojump_clock: Any
) -> None:
    shields: list[trio.CancelScope] = []
    caught: list[type[BaseException]] = []

    async def other(ctx: AgentContext) -> Any:
        return await ctx.ask(1, "?")

    async def cleaning(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True) as shield:
                shields.append(shield)
                try:
                    await ctx.ask(ring, "?")
                except BaseException as error:
                    caught.append(type(error))
                    raise

    async with pool_of(2) as pool:
        handle = await pool.spawn(cleaning)
        if ring == 2:
            await pool.spawn(other)
        await trio.testing.wait_all_tasks_blocked()
        handle.abort("enough")
        await trio.sleep(50)
        assert caught == []
        shields[0].cancel()
        outcome = await handle.wait()
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "enough"
        await pool.join_all()
    assert caught == [trio.Cancelled]
    assert trio.current_time() == 50


@pytest.mark.parametrize("verb", ["ask", "send", "wait"])
@pytest.mark.parametrize("by", ["deadline", "abort"])
async def test_an_agent_whose_end_has_come_is_cancelled_and_not_told_of_the_cycle_that_it_closes(
    by: str, verb: str, mock_clock: Any
) -> None:
    caught: list[type[BaseException]] = []
    box: list[Any] = []

    async def agent(ctx: AgentContext) -> None:
        if verb == "send":
            ctx.send_nowait(ctx.id, "fills")
        if by == "deadline":
            mock_clock.jump(10)  # in this very step, so that trio has not seen it yet
        else:
            box[0].abort()
        try:
            await (box[0].wait() if verb == "wait" else getattr(ctx, verb)(ctx.id, "?"))
        except BaseException as error:
            caught.append(type(error))
            raise

    async with pool_of(1, inbox_capacity=1) as pool:
        box.append(pool.spawn_nowait(agent, timeout=5))
        outcome = await box[0].wait()
    assert caught == [trio.Cancelled]
    if by == "deadline":
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, AgentTimeoutError)
    else:
        assert isinstance(outcome, Aborted)


async def test_an_agent_whose_timeout_has_passed_is_not_told_of_a_cycle_under_a_shield(
    autojump_clock: Any,
) -> None:
    caught: list[type[BaseException]] = []

    async def asking(ctx: AgentContext) -> None:
        with trio.CancelScope(shield=True) as shield:
            await trio.sleep(10)
            box.append(shield)
            try:
                await ctx.ask(ctx.id, "?")
            except BaseException as error:
                caught.append(type(error))
                raise

    box: list[trio.CancelScope] = []
    async with pool_of(1) as pool:
        handle = await pool.spawn(asking, timeout=5)
        await trio.sleep(30)
        assert caught == []
        box[0].cancel()
        await handle.wait()
    assert caught == [trio.Cancelled]


async def test_an_aborted_agent_is_not_told_of_a_cycle_that_the_end_of_a_body_closes(
    autojump_clock: Any,
) -> None:
    shields: list[trio.CancelScope] = []
    caught: list[type[BaseException]] = []

    async def child(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True) as shield:
                shields.append(shield)
                try:
                    await ctx.ask(ctx.parent_id, "?")
                except BaseException as error:
                    caught.append(type(error))
                    raise

    async def parent(ctx: AgentContext) -> None:
        handle = await ctx.spawn(child)
        await trio.sleep(1)
        handle.abort()
        await trio.sleep(1)

    async with pool_of(2) as pool:
        handle = await pool.spawn(parent)
        await trio.sleep(50)
        assert caught == []
        shields[0].cancel()
        assert isinstance(await handle.wait(), Completed)
    assert caught == [trio.Cancelled]
    assert trio.current_time() == 50


# -- random programs: no false alarm, and no hang without one ------------------------------------------------


async def _random_program(seed: int, results: dict[str, Any]) -> None:
    random = Random(seed)
    size = random.randint(2, 5)

    plans = {
        i: [
            (random.choice(["ask", "send", "receive", "wait", "reply", "pause"]), random.randint(1, size))
            for _ in range(4)
        ]
        for i in range(1, size + 1)
    }
    handles: dict[int, Any] = {}

    async def agent(ctx: AgentContext) -> None:
        questions = []
        for verb, to in plans[ctx.id]:
            try:
                if verb == "ask":
                    await ctx.ask(to, "?")
                elif verb == "send":
                    await ctx.send(to, "!")
                elif verb == "wait":
                    await handles[to].wait()
                elif verb == "pause":
                    await trio.sleep(1)
                elif verb == "receive":
                    questions.append(await ctx.receive())
                elif questions:
                    ctx.reply(questions.pop(), "ok")
            except DeadlockError:
                results["alarms"] += 1
                raise
            except (Exception, trio.EndOfChannel):
                pass

    async with open_agent_pool(max_concurrent=random.randint(1, 3), inbox_capacity=1) as pool:
        for i in range(1, size + 1):
            handles[i] = await pool.spawn(_gate(agent))
        for i in range(1, size + 1):
            pool.send_nowait(i, "begin")


def _gate(agent: Any) -> Any:
    async def gated(ctx: AgentContext) -> None:
        await ctx.receive()
        await agent(ctx)

    return gated


def _judged_program(seed: int, *, detect: bool = True) -> tuple[str, int]:
    results: dict[str, Any] = {"alarms": 0}

    scope = trio.CancelScope(deadline=1000)

    async def main() -> None:
        with scope, instrumented(PoolInstrument(detects_deadlocks=detect)):
            await _random_program(seed, results)

    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    except ExceptionGroup as group:
        rest = group.split(DeadlockError)[1]
        assert rest is None, rest
    return "hang" if scope.cancelled_caught else "ended", results["alarms"]


def test_random_programs_never_hang_and_each_alarm_is_a_hang_without_the_detector() -> None:
    alarmed = []
    for seed in range(400):
        ended, alarms = _judged_program(seed)
        assert ended == "ended", seed
        if alarms:
            alarmed.append(seed)
    assert len(alarmed) > 40
    for seed in alarmed[:60]:
        assert _judged_program(seed, detect=False)[0] == "hang", seed


async def test_values_travel_when_nothing_is_wrong() -> None:
    async with pool_of(1) as pool:
        assert await (await pool.spawn(value, 1)).result() == 1


async def test_the_end_of_a_task_that_leaves_only_waits_with_deadlines_is_suspected(
    autojump_clock: Any,
) -> None:
    found: list[Any] = []

    async def child(ctx: AgentContext) -> None:
        with trio.move_on_after(50):
            await ctx.ask(ctx.parent_id, "?")

    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(child)
        await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        async with pool_of(2) as pool:
            nursery.start_soon(_suspicions, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(await (await pool.spawn(parent)).wait(), Completed)
    assert found == [(1, 2)]
    assert trio.current_time() == 50


# -- what it costs ------------------------------------------------------------------------------------------


def _calls_of_ping_pong(rounds: int, *, detect: bool = True) -> Counter[tuple[str, str]]:
    """What is called, module by function, while two agents send to each other and find room."""
    calls: Counter[tuple[str, str]] = Counter()

    def count(frame: Any, event: str, _arg: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("agentpool."):
            calls[module, frame.f_code.co_qualname] += 1

    async def serve(ctx: AgentContext) -> None:
        other = (await ctx.receive()).content
        sys.setprofile(count)
        try:
            for _ in range(rounds):
                await ctx.send(other, 0)
                await ctx.receive()
        finally:
            sys.setprofile(None)

    async def answer(ctx: AgentContext) -> None:
        for _ in range(rounds):
            message = await ctx.receive()
            await ctx.send(message.sender, message.content)

    async def main() -> None:
        with instrumented(PoolInstrument(detects_deadlocks=detect)):
            async with open_agent_pool(max_concurrent=2) as pool:
                server = await pool.spawn(serve)
                pool.send_nowait(server.id, (await pool.spawn(answer)).id)
                await pool.join_all()

    simulate(main, 1)
    return calls


def test_a_send_that_finds_room_does_the_same_work_whether_or_not_deadlocks_are_looked_for() -> None:
    detected = _calls_of_ping_pong(100)
    undetected = _calls_of_ping_pong(100, detect=False)
    # So whatever the time of a send is, the detector makes nothing of it.
    assert detected == undetected
    assert detected["agentpool._kernel.inbox", "Inbox.offer"] == 200
    assert not [
        name
        for module, name in detected
        if module == "agentpool._core.waits" or name in ("Judge.check", "Judge.judge_again")
    ]


async def test_an_agent_that_does_something_else_beside_a_join_is_not_judged(autojump_clock: Any) -> None:
    box: list[Any] = []

    async def asking(ctx: AgentContext) -> Any:
        await trio.sleep(1)
        return await ctx.ask(ctx.parent_id, "?")

    async def parent(ctx: AgentContext) -> Any:
        async def answer_later() -> None:
            await trio.sleep(10)
            ctx.reply(await ctx.receive(), "at last")

        box.append(await ctx.spawn(sleeper, 5))
        await ctx.spawn(asking)
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(answer_later)
            joined = await ctx.join_next()
        assert joined is not None
        return joined.unwrap()

    async with pool_of(9) as pool:
        handle = await pool.spawn(parent)
        await trio.sleep(2)
        assert isinstance(await box[0].wait(), Completed)  # which the join does not get
        assert await handle.result() == "at last"


async def test_a_wait_for_another_task_of_the_agent_is_not_the_one_that_is_told(autojump_clock: Any) -> None:
    """As of an agent that waits for its function on asyncio: what its verbs wait for decides."""
    told: list[str] = []

    async def asks(ctx: AgentContext, other: int, who: str) -> None:
        try:
            await ctx.ask(other, "?")
        except (DeadlockError, UnknownAgentError) as error:
            told.append(f"{who}: {type(error).__name__}")

    async def waits_for_own_task() -> None:
        await trio.sleep(1)  # so that its wait is the youngest
        agent = waiting_agent()
        assert agent is not None
        await OwnTaskWait(agent).park(lambda _: None)

    async def first(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(waits_for_own_task)
            nursery.start_soon(trio.sleep, 2)  # its end closes the circle
            await trio.sleep(0.5)  # until the other one is there
            await asks(ctx, 2, "first")
            nursery.cancel_scope.cancel()

    async with pool_of(2) as pool:
        await pool.spawn(first)
        await pool.spawn(asks, 1, "second")
        await pool.join_all()
        assert trio.current_time() == 2
    assert sorted(told) in (
        ["first: DeadlockError", "second: UnknownAgentError"],
        ["first: UnknownAgentError", "second: DeadlockError"],
    )
