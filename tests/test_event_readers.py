"""Agents that read the events of their pool, and agents that wait for a slow reader."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from pool_kit import Running, collector, forever, pool_of, server, sleeper, value

from agentpool import (
    AgentContext,
    AgentFinished,
    AgentManifest,
    AgentPool,
    AgentSpawned,
    Completed,
    DeadlockError,
    DeadlockSuspected,
    Failed,
    GuardWarned,
    RestartPolicy,
    SpawnConfig,
    UnknownAgentError,
    open_agent_pool,
)
from agentpool.drivers.scripted import ScriptedDriver
from agentpool.testing import SimulationContext, cancel_everywhere

caps = pytest.mark.parametrize("cap", [1, 2, 4])


def _value(handle: Any) -> Any:
    return handle.outcome.unwrap()


async def _watch(ctx: AgentContext, pool: AgentPool, full_at: int | None = None) -> list[Any]:
    async with pool.events() if full_at is None else pool.events(full_at, "block") as events:
        return [event async for event in events]


async def _tells(ctx: AgentContext, count: int = 6) -> int:
    """An agent whose loop waits for subscribers before each step, as that of a model agent does."""
    for number in range(count):
        await ctx.wait_for_subscribers()
        ctx.emit(GuardWarned, str(number))
    return count


async def _tells_later(ctx: AgentContext) -> int:
    await trio.sleep(1)
    return await _tells(ctx)


def _texts(events: list[Any]) -> list[str]:
    return [event.text for event in events if isinstance(event, GuardWarned)]


# -- lending and the end ------------------------------------------------------------


@caps
async def test_an_agent_that_reads_lends_its_slot_and_is_told_the_end(cap: int, autojump_clock: Any) -> None:
    async with pool_of(cap) as pool:
        handle = await pool.spawn(_watch, pool)
        await trio.testing.wait_all_tasks_blocked()
        assert await (await pool.spawn(sleeper, 1, "done")).result() == "done"
    assert trio.current_time() == 1
    found = _value(handle)
    assert next(type(event) for event in found if event.agent_id == 2) is AgentSpawned
    assert isinstance(found[-1], AgentFinished)
    assert found[-1].agent_id == 2


@caps
async def test_nothing_ends_while_the_block_may_still_give_work(cap: int, autojump_clock: Any) -> None:
    async with pool_of(cap) as pool:
        handle = await pool.spawn(_watch, pool)
        await trio.sleep(100)
        assert handle.status == "waiting"
        await pool.drain(5)
        assert isinstance(handle.outcome, Completed)
    assert trio.current_time() == 100


async def test_a_reader_reads_only_with_a_slot(autojump_clock: Any) -> None:
    running = Running()

    async def watch(ctx: AgentContext, pool: AgentPool) -> int:
        count = 0
        async with pool.events() as events:
            async for _ in events:
                with running:
                    await trio.sleep(0.1)
                count += 1
        return count

    async def work(ctx: AgentContext) -> None:
        for _ in range(3):
            with running:
                await trio.sleep(0.3)
            with trio.move_on_after(0.1):
                await ctx.receive()

    async with pool_of(1) as pool:
        readers = [await pool.spawn(watch, pool) for _ in range(2)]
        for _ in range(3):
            await pool.spawn(work)
    assert running.peak == 1
    assert [_value(reader) >= 9 for reader in readers] == [True, True]


async def test_inboxes_end_before_events_and_both_from_the_youngest_on(autojump_clock: Any) -> None:
    ends: list[str] = []

    async def watch(ctx: AgentContext, pool: AgentPool) -> None:
        async with pool.events() as events:
            async for _ in events:
                pass
        ends.append(f"{ctx.id} reads")

    async def receive(ctx: AgentContext) -> None:
        async for _ in ctx.inbox:
            pass
        ends.append(f"{ctx.id} receives")

    async with pool_of(1) as pool:
        await pool.spawn(receive)
        await pool.spawn(watch, pool)
        await pool.spawn(receive)
        await pool.spawn(watch, pool)
        await pool.spawn(receive)
    assert ends == ["5 receives", "3 receives", "1 receives", "4 reads", "2 reads"]


async def test_what_a_reader_does_at_its_end_is_seen_by_older_readers(autojump_clock: Any) -> None:
    async def last_works(ctx: AgentContext, pool: AgentPool) -> None:
        await _watch(ctx, pool)
        await (await ctx.spawn(sleeper, 5, name="late")).result()

    async with pool_of(1) as pool:
        older = await pool.spawn(_watch, pool)
        await pool.spawn(last_works, pool)
    names = [event.name for event in _value(older) if isinstance(event, AgentSpawned)]
    assert names == ["last_works", "late"]
    assert [e.agent_id for e in _value(older) if isinstance(e, AgentFinished)] == [3, 2]


async def test_an_agent_that_receives_after_its_events_have_ended_is_told_that_end_too(
    autojump_clock: Any,
) -> None:
    async def both(ctx: AgentContext, pool: AgentPool) -> list[Any]:
        await _watch(ctx, pool)
        return [message.content async for message in ctx.inbox]

    async with pool_of(1) as pool:
        handle = await pool.spawn(both, pool)
        pool.send_nowait(handle.id, "kept")
    assert _value(handle) == ["kept"]


async def test_a_subscription_that_has_ended_stays_so_and_a_new_one_is_told_the_end_again(
    autojump_clock: Any,
) -> None:
    async def stubborn(ctx: AgentContext, pool: AgentPool) -> str:
        async with pool.events() as events:
            assert [event async for event in events] == []
            ctx.emit(GuardWarned, "not seen")
            assert [event async for event in events] == []
            assert events.statistics().buffered == 0
        assert await _watch(ctx, pool) == []
        return "ends"

    async with pool_of(1) as pool:
        handle = await pool.spawn(stubborn, pool)
    assert _value(handle) == "ends"


@caps
async def test_a_reader_beside_the_other_tasks_of_its_agent(cap: int, autojump_clock: Any) -> None:
    async def lead(ctx: AgentContext, pool: AgentPool) -> tuple[int, list[Any]]:
        seen: list[Any] = []

        async def watch(*, task_status: trio.TaskStatus[None]) -> None:
            async with pool.events() as events:
                task_status.started()
                async for event in events:
                    if isinstance(event, AgentFinished):
                        seen.append(event.agent_id)

        async with ctx.open_nursery() as nursery:
            await nursery.start(watch)
            await (await ctx.spawn(sleeper, 1)).result()
            got = [message.content async for message in ctx.inbox]
        return len(seen), got

    async with pool_of(cap) as pool:
        handle = await pool.spawn(lead, pool)
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(value)
        pool.send_nowait(handle.id, "hello")
    assert _value(handle) == (2, ["hello"])
    assert trio.current_time() == 1


@caps
async def test_several_readers_and_a_receiver_in_one_agent_all_end(cap: int, autojump_clock: Any) -> None:
    ends: list[str] = []

    async def busy(ctx: AgentContext, pool: AgentPool) -> None:
        async def read(name: str) -> None:
            async with pool.events() as events:
                async for _ in events:
                    pass
            ends.append(name)

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(read, "one")
            nursery.start_soon(read, "two")
            async for _ in ctx.inbox:
                pass
            ends.append("inbox")

    async with pool_of(cap) as pool:
        await pool.spawn(busy, pool)
        await pool.spawn(server)
    assert ends[0] == "inbox"
    assert sorted(ends[1:]) == ["one", "two"]


async def test_a_reader_under_a_narrower_deadline_is_left_to_its_deadline(autojump_clock: Any) -> None:
    async def patient(ctx: AgentContext, pool: AgentPool) -> float:
        async with pool.events() as events:
            with trio.move_on_after(30) as scope:
                async for _ in events:
                    pass
        assert scope.cancelled_caught
        return trio.current_time()

    async with pool_of(1) as pool:
        other = await pool.spawn(_watch, pool)
        sink = await pool.spawn(collector)
        handle = await pool.spawn(patient, pool)
    assert _value(handle) == 30
    assert _value(sink) == []
    assert [e.agent_id for e in _value(other) if isinstance(e, AgentFinished)] == [3, 2]


async def test_unknown_tasks_keep_a_reader_alive_until_they_end(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext, pool: AgentPool) -> list[Any]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 20)
            return await _watch(ctx, pool)

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent, pool)
    assert trio.current_time() == 20
    assert _value(handle) == []


async def test_a_task_that_the_pool_does_not_know_does_not_read(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext, pool: AgentPool) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, ctx, pool)

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent, pool)).wait()
    assert isinstance(outcome, Failed)
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="open_nursery")):
        raise outcome.error


async def test_who_waits_for_a_reader_ends_with_it(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext, pool: AgentPool) -> int:
        reader = await ctx.spawn(_watch, pool)
        return len(await reader.result())

    async def asker(ctx: AgentContext, to: int) -> str:
        with pytest.raises(UnknownAgentError):
            await ctx.ask(to, "?")
        return "told"

    async with pool_of(1) as pool:
        handle = await pool.spawn(parent, pool)
        await trio.testing.wait_all_tasks_blocked()
        asking = await pool.spawn(asker, 2)
    assert _value(asking) == "told"
    assert _value(handle) > 0


async def test_a_reader_that_is_always_restarted_ends_at_rest(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(_watch, pool, restart=RestartPolicy(mode="always"))
    assert isinstance(handle.outcome, Completed)
    assert handle.outcome.restarts == 0


async def test_a_wait_for_a_reader_is_not_hopeless(autojump_clock: Any) -> None:
    # Whoever makes an event could wake the reader.
    async def answers(ctx: AgentContext, pool: AgentPool) -> None:
        async with pool.events() as events:
            async for event in events:
                if isinstance(event, GuardWarned):
                    ctx.reply(ctx.receive_nowait(), event.text)

    async def asks(ctx: AgentContext, to: int) -> Any:
        return await ctx.ask(to, "?")

    async with pool_of(1) as pool:
        reader = await pool.spawn(answers, pool)
        await trio.testing.wait_all_tasks_blocked()
        asking = await pool.spawn(asks, reader.id)
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(_tells, 1)
        assert await asking.result() == "0"


# -- events of other pools ------------------------------------------------------------


@caps
async def test_an_agent_that_reads_the_events_of_a_pool_of_its_own_gets_the_end_when_that_ends(
    cap: int, autojump_clock: Any
) -> None:
    async def boss(ctx: AgentContext) -> list[Any]:
        found: list[Any] = []

        async def watch(inner: AgentPool, *, task_status: trio.TaskStatus[None]) -> None:
            async with inner.events() as events:
                task_status.started()
                found.extend([event async for event in events])

        async with ctx.open_nursery() as nursery:
            async with open_agent_pool(max_concurrent=cap) as inner:
                await nursery.start(watch, inner)
                await inner.spawn(server)
                await inner.spawn(sleeper, 10)
        return found

    async with pool_of(cap) as pool:
        handle = await pool.spawn(boss)
        await pool.spawn(_watch, pool)
    assert trio.current_time() == 10
    assert sum(isinstance(event, AgentFinished) for event in _value(handle)) == 2


async def test_a_reader_of_another_pool_is_not_at_its_end_when_its_own_pool_is(autojump_clock: Any) -> None:
    async with pool_of(1) as other:
        async with pool_of(1) as pool:
            watching = await pool.spawn(_watch, other)
            writing = await pool.spawn(collector)

            async def later(ctx: AgentContext) -> None:
                await trio.sleep(50)
                pool.send_nowait(writing.id, "late")
                watching.abort()

            await other.spawn(later)
        assert _value(writing) == ["late"]


async def test_the_task_of_the_program_reads_until_the_pool_has_ended(autojump_clock: Any) -> None:
    found: list[Any] = []

    async def show(pool: AgentPool, *, task_status: trio.TaskStatus[None]) -> None:
        async with pool.events() as events:
            task_status.started()
            async for event in events:
                found.append(event)

    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            await nursery.start(show, pool)
            reader = await pool.spawn(_watch, pool)
            await pool.spawn(sleeper, 7)
    assert [e.agent_id for e in found if isinstance(e, AgentFinished)] == [2, 1]
    assert isinstance(reader.outcome, Completed)


# -- cancellation ------------------------------------------------------------


async def test_a_reader_whose_time_is_up_while_it_waits_for_its_slot_gets_its_event(
    autojump_clock: Any,
) -> None:
    # What happened is returned: the event came before the deadline, the slot after it.
    async def reads(ctx: AgentContext, pool: AgentPool) -> tuple[Any, bool, float]:
        async with pool.events() as events:
            with trio.move_on_after(5) as scope:
                event = await anext(events)
                return type(event), scope.cancelled_caught, trio.current_time()
        raise AssertionError

    async with pool_of(1) as pool:
        handle = await pool.spawn(reads, pool)
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(sleeper, 100)
        assert await handle.result() == (AgentSpawned, False, 100)


@caps
async def test_a_reader_that_gives_up_and_reads_again_misses_nothing(cap: int, autojump_clock: Any) -> None:
    async def impatient(ctx: AgentContext, pool: AgentPool) -> tuple[int, list[str]]:
        found: list[Any] = []
        given_up = 0
        async with pool.events() as events:
            while len(_texts(found)) < 9:
                with trio.move_on_after(0.4) as scope:
                    found.append(await anext(events))
                given_up += scope.cancelled_caught
        return given_up, _texts(found)

    async def tells(ctx: AgentContext) -> None:
        for number in range(9):
            await trio.sleep(1)
            ctx.emit(GuardWarned, str(number))

    async with pool_of(cap) as pool:
        handle = await pool.spawn(impatient, pool)
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(tells)
    given_up, texts = _value(handle)
    assert texts == [str(number) for number in range(9)]
    assert given_up > 0 or cap == 1


async def test_a_reader_that_is_aborted_leaves_nothing_behind(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(_watch, pool, 1)
        await trio.testing.wait_all_tasks_blocked()
        handle.abort()
        await handle.wait()
        assert await (await pool.spawn(_tells)).result() == 6
        assert not pool._state.events.subscriptions
        assert not pool._state.events.sleeping


@pytest.mark.parametrize("overflow", ["drop_oldest", "block"])
def test_readers_and_writers_may_be_cancelled_at_every_step(overflow: str) -> None:
    async def reads(ctx: AgentContext, pool: AgentPool) -> None:
        async with pool.events(max_buffer=2, overflow=overflow) as events:  # type: ignore[arg-type]
            async for _ in events:
                with trio.move_on_after(0.1):
                    await ctx.receive()

    async def main(sim: SimulationContext) -> None:
        async with open_agent_pool(max_concurrent=1) as pool:
            with sim.body():
                await pool.spawn(reads, pool)
                await pool.spawn(reads, pool)
                await pool.spawn(server)
                await pool.spawn(_tells, 4)
                await trio.sleep(0.3)

    assert cancel_everywhere(main).runs > 100


# -- agents that wait for a slow reader ------------------------------------------------------------


@caps
@pytest.mark.parametrize("max_buffer", [1, 3])
async def test_an_agent_that_waits_for_a_reader_lends_the_slot_that_the_reader_needs(
    max_buffer: int, cap: int, autojump_clock: Any
) -> None:
    async with pool_of(cap) as pool:
        reader = await pool.spawn(_watch, pool, max_buffer)
        await trio.testing.wait_all_tasks_blocked()
        writers = [await pool.spawn(_tells) for _ in range(3)]
    assert [_value(writer) for writer in writers] == [6, 6, 6]
    assert sorted(_texts(_value(reader))) == sorted([str(number) for number in range(6)] * 3)


async def test_statistics_tell_for_whom_a_writer_waits(autojump_clock: Any) -> None:
    async def slow(ctx: AgentContext, pool: AgentPool) -> None:
        async with pool.events(max_buffer=1, overflow="block"):
            await ctx.receive()

    async with pool_of(1) as pool:
        reader = await pool.spawn(slow, pool)
        await trio.testing.wait_all_tasks_blocked()
        writer = await pool.spawn(_tells)
        await trio.testing.wait_all_tasks_blocked()
        waits = {agent.id: agent.waits_for for agent in pool.statistics().waiting}
        assert waits == {reader.id: (), writer.id: (reader.id,)}
        pool.send_nowait(reader.id, "go on")
    assert _value(writer) == 6


async def test_a_subscription_that_was_never_entered_stops_nobody(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        subscription = pool.events(max_buffer=1, overflow="block")
        assert await (await pool.spawn(_tells)).result() == 6
        async with subscription as events:
            assert events.statistics().buffered == 0


async def test_an_agent_that_leaves_its_block_lets_the_others_go_on(autojump_clock: Any) -> None:
    async def brief(ctx: AgentContext, pool: AgentPool) -> None:
        async with pool.events(max_buffer=1, overflow="block"):
            await trio.sleep(5)

    async with pool_of(2) as pool:
        await pool.spawn(brief, pool)
        await trio.testing.wait_all_tasks_blocked()
        assert await (await pool.spawn(_tells)).result() == 6
        assert trio.current_time() == 5


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("of_other_pool", [False, True])
async def test_what_an_agent_left_open_is_dropped_at_its_end(
    of_other_pool: bool, dies: bool, autojump_clock: Any
) -> None:
    async def leaks(ctx: AgentContext, pool: AgentPool) -> Any:
        events = await pool.events(max_buffer=1, overflow="block").__aenter__()
        await trio.sleep(5)
        assert not dies
        return events

    async with pool_of(2) as pool, pool_of(1) as other:
        leaking = await (other if of_other_pool else pool).spawn(leaks, pool)
        await trio.testing.wait_all_tasks_blocked()
        writer = await pool.spawn(_tells)
        await leaking.wait()
        assert await writer.result() == 6
        assert trio.current_time() == 5
        assert not pool._state.events.subscriptions
        if not dies:
            events = _value(leaking)
            left = events.statistics().buffered
            assert len([event async for event in events]) == left > 0


async def test_what_a_life_left_open_is_dropped_before_the_next(autojump_clock: Any) -> None:
    lives = 0

    async def leaks(ctx: AgentContext, pool: AgentPool) -> str:
        nonlocal lives
        lives += 1
        if lives == 1:
            await pool.events(max_buffer=1, overflow="block").__aenter__()
            ctx.emit(GuardWarned, "x")
            raise ValueError
        await ctx.receive()
        return "restarted"

    async with pool_of(2) as pool:
        leaking = await pool.spawn(leaks, pool, restart=RestartPolicy(backoff=0.0))
        await trio.sleep(1)
        assert await (await pool.spawn(_tells)).result() == 6
        pool.send_nowait(leaking.id, "end")
        assert await leaking.result() == "restarted"


async def test_a_writer_may_stop_waiting(autojump_clock: Any) -> None:
    async def impatient(ctx: AgentContext) -> int:
        given_up = 0
        for _ in range(5):
            with trio.move_on_after(1) as scope:
                await ctx.wait_for_subscribers()
            given_up += scope.cancelled_caught
            ctx.emit(GuardWarned, "x")
        return given_up

    async with pool_of(1) as pool:
        async with pool.events(max_buffer=4, overflow="block") as events:
            assert await (await pool.spawn(impatient)).result() == 3
            assert events.statistics().buffered == 8
            assert await (await pool.spawn(value)).result() is None


async def test_a_writer_waits_for_one_slow_reader_after_the_other(autojump_clock: Any) -> None:
    async def slow(ctx: AgentContext, pool: AgentPool, seconds: float) -> list[Any]:
        async with pool.events(max_buffer=2, overflow="block") as events:
            await trio.sleep(seconds)
            return [event async for event in events]

    async with pool_of(4) as pool:
        readers = [await pool.spawn(slow, pool, seconds) for seconds in (20, 10, 30)]
        await trio.testing.wait_all_tasks_blocked()
        writer = await pool.spawn(_tells)
        await writer.result()
        assert trio.current_time() == 30
    assert [_texts(_value(reader)) for reader in readers] == [list("012345")] * 3


async def test_an_unknown_task_does_not_wait_for_subscribers(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tells, ctx)

    async with pool_of(1) as pool, pool.events():
        outcome = await (await pool.spawn(agent)).wait()
    assert isinstance(outcome, Failed)
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="open_nursery")):
        raise outcome.error


async def test_the_task_of_the_program_may_wait_for_subscribers_too(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        contexts.append(ctx)
        await collector(ctx)

    contexts: list[AgentContext] = []
    async with pool_of(1) as pool:
        await pool.spawn(agent)
        reader = await pool.spawn(_watch, pool, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert await _tells(contexts[0]) == 6
    assert _texts(_value(reader)) == list("012345")


# -- who waits for whom ------------------------------------------------------------


async def test_an_agent_is_not_held_up_by_what_it_reads_itself(autojump_clock: Any) -> None:
    # It could not read meanwhile, so that waiting would be for ever.
    async def both(ctx: AgentContext, pool: AgentPool) -> list[str]:
        async with pool.events(max_buffer=2, overflow="block") as events:
            await _tells(ctx)
            assert events.statistics().buffered >= 6
            return _texts([await anext(events) for _ in range(events.statistics().buffered)])

    async with pool_of(1) as pool:
        assert await (await pool.spawn(both, pool)).result() == list("012345")


async def test_a_model_agent_is_not_held_up_by_what_it_reads_itself(autojump_clock: Any) -> None:
    model = SpawnConfig(AgentManifest(name="plain"), "hi")

    async def both(ctx: AgentContext, pool: AgentPool) -> str:
        async with pool.events(max_buffer=1, overflow="block"):
            return (await model(ctx)).text

    async with pool_of(1, driver=ScriptedDriver(["done"])) as pool:
        assert await (await pool.spawn(both, pool)).result() == "done"


async def test_a_writer_is_told_that_its_reader_waits_for_it(autojump_clock: Any) -> None:
    async def reader(ctx: AgentContext, pool: AgentPool) -> Any:
        async with pool.events(max_buffer=2, overflow="block"):
            return await (await ctx.spawn(_tells_later)).wait()

    async with pool_of(2) as pool:
        outcome = await (await pool.spawn(reader, pool)).result()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, DeadlockError)
    assert outcome.error.path == (2, 1)


async def test_a_reader_is_told_that_it_waits_for_who_waits_for_it(autojump_clock: Any) -> None:
    async def reader(ctx: AgentContext, pool: AgentPool) -> str:
        async with pool.events(max_buffer=2, overflow="block") as events:
            writer = await ctx.spawn(_tells)
            await trio.sleep(1)
            with pytest.raises(DeadlockError) as caught:
                await writer.wait()
            assert caught.value.path == (1, 2)
            async for event in events:
                if isinstance(event, AgentFinished):
                    break
        return "goes on"

    async with pool_of(2) as pool:
        assert await (await pool.spawn(reader, pool)).result() == "goes on"


async def test_the_end_of_a_task_that_could_have_read_closes_the_cycle(autojump_clock: Any) -> None:
    async def reader(ctx: AgentContext, pool: AgentPool) -> Any:
        async with pool.events(max_buffer=2, overflow="block"), ctx.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)
            return await (await ctx.spawn(_tells_later)).wait()

    async with pool_of(2) as pool:
        outcome = await (await pool.spawn(reader, pool)).result()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, DeadlockError)
    assert trio.current_time() == 5


async def test_a_writer_under_a_deadline_of_its_own_is_only_suspected(autojump_clock: Any) -> None:
    async def writer(ctx: AgentContext) -> str:
        with trio.move_on_after(9) as scope:
            await _tells_later(ctx)
        return "gave up" if scope.cancelled_caught else "told"

    async def reader(ctx: AgentContext, pool: AgentPool) -> Any:
        async with pool.events(max_buffer=2, overflow="block"):
            return await (await ctx.spawn(writer)).result()

    async with pool_of(2) as pool, pool.events() as events:
        assert await (await pool.spawn(reader, pool)).result() == "gave up"
        while not isinstance(event := await anext(events), DeadlockSuspected):
            pass
        assert event.path == (2, 1)


async def test_who_reads_counts_and_not_who_opened(autojump_clock: Any) -> None:
    async def reads(ctx: AgentContext, events: Any, count: int) -> list[str]:
        return _texts([await anext(events) for _ in range(count)])

    async def opens(ctx: AgentContext, pool: AgentPool) -> tuple[Any, Any]:
        async with pool.events(max_buffer=2, overflow="block") as events:
            reading = await ctx.spawn(reads, events, 6)
            await trio.testing.wait_all_tasks_blocked()
            # Both wait: the child for the events of the other, this one for that other.
            writing = await ctx.spawn(_tells, 2)
            return await writing.result(), await reading.result()

    async with pool_of(1) as pool:
        assert await (await pool.spawn(opens, pool)).result() == (2, ["0", "1"])


async def test_when_who_reads_has_ended_the_opener_counts_again(autojump_clock: Any) -> None:
    async def reads(ctx: AgentContext, events: Any) -> None:
        await anext(events)
        await trio.sleep(10)

    async def opens(ctx: AgentContext, pool: AgentPool) -> Any:
        async with pool.events(max_buffer=2, overflow="block") as events:
            await ctx.spawn(reads, events)
            await trio.testing.wait_all_tasks_blocked()
            outcome = await (await ctx.spawn(_tells)).wait()
            return outcome, trio.current_time()

    async with pool_of(3) as pool:
        outcome, now = await (await pool.spawn(opens, pool)).result()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, DeadlockError)
    assert now == 10


@pytest.mark.parametrize("outside", [False, True], ids=["an agent", "the program"])
async def test_while_who_opened_it_may_read_on_a_wait_for_the_last_reader_is_not_hopeless(
    outside: bool, autojump_clock: Any
) -> None:
    opened: list[Any] = []

    async def opens(ctx: AgentContext | None, pool: AgentPool) -> list[str]:
        async with pool.events(max_buffer=2, overflow="block") as events:
            opened.append(events)
            await trio.sleep(5)
            found = []
            while len(_texts(found)) < 6:
                found.append(await anext(events))
            return _texts(found)

    async def reads(ctx: AgentContext) -> Any:
        await anext(opened[0])
        return await (await ctx.spawn(_tells)).wait(), trio.current_time()

    async with pool_of(3) as pool:
        opening = None if outside else await pool.spawn(opens, pool)
        async with trio.open_nursery() as nursery:
            if outside:
                nursery.start_soon(opens, None, pool)
            await trio.testing.wait_all_tasks_blocked()
            outcome, now = await (await pool.spawn(reads)).result()
    assert isinstance(outcome, Completed)
    assert now == 5
    if opening is not None:
        assert _value(opening) == list("012345")


async def test_when_neither_the_last_reader_nor_who_opened_it_can_read_the_writer_is_told(
    autojump_clock: Any,
) -> None:
    async def opens(ctx: AgentContext, pool: AgentPool) -> Any:
        async with pool.events(max_buffer=2, overflow="block") as events:
            return await (await ctx.spawn(reads, events)).result()

    async def reads(ctx: AgentContext, events: Any) -> Any:
        await anext(events)
        return await (await ctx.spawn(_tells_later)).wait()

    async with pool_of(3) as pool:
        outcome = await (await pool.spawn(opens, pool)).result()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, DeadlockError)
    assert outcome.error.path in ((3, 2), (3, 1, 2))


@pytest.mark.parametrize("read", [1, 4])
async def test_a_writer_goes_on_as_soon_as_there_is_room_and_not_when_its_reader_comes_again(
    read: int, autojump_clock: Any
) -> None:
    async def reads(ctx: AgentContext, pool: AgentPool) -> Any:
        async with pool.events(max_buffer=4, overflow="block") as events:
            writer = await ctx.spawn(_tells, 3)  # spawned, started, and two of its own fill the buffer
            await trio.sleep(1)
            assert events.statistics().buffered == 4
            for _ in range(read):
                await anext(events)
            return await writer.wait()

    async with pool_of(2) as pool:
        assert isinstance(await (await pool.spawn(reads, pool)).result(), Completed)


async def test_a_subscription_goes_from_reader_to_reader(autojump_clock: Any) -> None:
    async def reads(ctx: AgentContext, events: Any, take: int, after: float) -> list[str]:
        await trio.sleep(after)
        found = [await anext(events) for _ in range(take)]
        await trio.sleep(20 - after)
        return _texts(found)

    async with pool_of(4) as pool:
        async with pool.events(max_buffer=2, overflow="block") as events:
            first = await pool.spawn(reads, events, 6, 1)
            second = await pool.spawn(reads, events, 5, 2)
            writer = await pool.spawn(_tells, 6)
            assert await writer.result() == 6
            assert await first.result() == []
            assert await second.result() == ["0", "1", "2", "3", "4"]
            assert _texts([await anext(events)]) == ["5"]


async def test_an_outside_reader_of_what_an_agent_opened_may_always_go_on(autojump_clock: Any) -> None:
    found: list[Any] = []
    opened: list[Any] = []

    async def opens(ctx: AgentContext, pool: AgentPool) -> Any:
        async with pool.events(max_buffer=1, overflow="block") as events:
            opened.append(events)
            await ctx.receive()
            return await (await ctx.spawn(_tells)).result()

    async def show() -> None:
        async for event in opened[0]:
            await trio.sleep(1)
            found.append(event)

    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            handle = await pool.spawn(opens, pool)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(show)
            await trio.testing.wait_all_tasks_blocked()
            pool.send_nowait(handle.id, "go")
            assert await handle.result() == 6
    assert _texts(found) == list("012345")


# -- quiescence with writers ---------------------------------------------------------------


async def test_who_waits_for_an_outside_reader_is_not_at_rest(autojump_clock: Any) -> None:
    async def writes(ctx: AgentContext, to: int) -> None:
        await _tells(ctx)
        await ctx.send(to, "after all")

    async def show(pool: AgentPool, *, task_status: trio.TaskStatus[None]) -> None:
        async with pool.events(max_buffer=2, overflow="block") as events:
            task_status.started()
            async for _ in events:
                await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            await nursery.start(show, pool)
            sink = await pool.spawn(collector)
            watching = await pool.spawn(_watch, pool)
            writer = await pool.spawn(writes, sink.id)
    assert isinstance(writer.outcome, Completed)
    assert _value(sink) == ["after all"]
    assert _texts(_value(watching)) == list("012345")


async def test_a_reader_that_waits_for_messages_is_told_the_end_and_reads_on(autojump_clock: Any) -> None:
    async def receives_first(ctx: AgentContext, pool: AgentPool) -> list[str]:
        async with pool.events(max_buffer=2, overflow="block") as events:
            async for _ in ctx.inbox:
                pass
            return _texts([event async for event in events])

    async with pool_of(1) as pool:
        reader = await pool.spawn(receives_first, pool)
        await trio.testing.wait_all_tasks_blocked()
        writer = await pool.spawn(_tells)
        watching = await pool.spawn(_watch, pool)
    assert _value(writer) == 6
    assert _value(reader) == list("012345")
    assert _texts(_value(watching))[-4:] == list("2345")


async def test_a_reader_of_something_else_is_told_the_end_when_it_holds_up_others(
    autojump_clock: Any,
) -> None:
    async def reads_another(ctx: AgentContext, pool: AgentPool) -> int:
        async with pool.events(max_buffer=1, overflow="block"):
            return len(await _watch(ctx, pool))

    async with pool_of(1) as pool:
        reader = await pool.spawn(reads_another, pool)
        await trio.testing.wait_all_tasks_blocked()
        writer = await pool.spawn(_tells)
    assert _value(writer) == 6
    assert _value(reader) >= 2


async def test_what_waits_for_a_reader_in_another_pool_is_not_at_rest(autojump_clock: Any) -> None:
    async def slow(ctx: AgentContext, pool: AgentPool, *, started: trio.Event) -> None:
        async with pool.events(max_buffer=2, overflow="block") as events:
            started.set()
            async for _ in events:
                await trio.sleep(1)

    async def writes(ctx: AgentContext, to: int) -> None:
        await _tells(ctx)
        await ctx.send(to, "late")

    started = trio.Event()
    async with pool_of(1) as other:
        async with pool_of(1) as pool:
            reader = await other.spawn(lambda ctx: slow(ctx, pool, started=started))
            await started.wait()
            sink = await pool.spawn(collector)
            await pool.spawn(writes, sink.id)
        assert _value(sink) == ["late"]
        assert await reader.result() is None


# -- many of them -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
async def test_programs_of_readers_writers_and_servers_end(seed: int, autojump_clock: Any) -> None:
    lot = Random(seed)

    async def acts(ctx: AgentContext, pool: AgentPool, steps: list[Any]) -> None:
        for step, number in steps:
            match step:
                case "read":
                    async with pool.events(number + 1, lot.choice(["block", "drop_oldest"])) as events:
                        for _ in range(number):
                            with trio.move_on_after(lot.choice([0.5, 1, 1000])):
                                await anext(events)
                        if number % 2:
                            async for _ in events:
                                pass
                case "tell":
                    try:
                        await _tells(ctx, number)
                    except DeadlockError:
                        ctx.emit(GuardWarned, "in vain")
                case "sleep":
                    await trio.sleep(number)
                case "receive":
                    async for _ in ctx.inbox:
                        pass
                case _:
                    inner = [(lot.choice(["read", "tell", "receive"]), lot.randrange(4))]
                    try:
                        await (await ctx.spawn(acts, pool, inner)).wait()
                    except DeadlockError:
                        pass

    kinds = ["read", "read", "tell", "tell", "sleep", "receive", "spawn"]
    async with pool_of(lot.randint(1, 4), seed=seed) as pool:
        for _ in range(lot.randint(2, 7)):
            steps = [(lot.choice(kinds), lot.randrange(5)) for _ in range(lot.randint(1, 4))]
            await pool.spawn(acts, pool, steps)
        handle = await pool.spawn(forever)
        await trio.sleep(3)
        handle.abort()
