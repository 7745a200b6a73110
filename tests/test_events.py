"""What a subscriber sees, and what happens when it is slow."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pool_kit import failing, pool_of, server, sleeper, value

from agentpool import (
    AgentContext,
    AgentFinished,
    AgentSpawned,
    AgentStarted,
    AgentStuck,
    Completed,
    DeadlockSuspected,
    GuardWarned,
    MessageDeadLettered,
    MessageSent,
)


async def _gather(pool: Any, found: list[Any], **options: Any) -> None:
    async with pool.events(**options) as events:
        async for event in events:
            found.append(event)


async def test_the_life_of_an_agent_is_told_in_order_with_seq_time_and_parent(autojump_clock: Any) -> None:
    found: list[Any] = []

    async def parent(ctx: AgentContext) -> int:
        return int(await (await ctx.spawn(sleeper, 2, 7, name="child")).result())

    async with trio.open_nursery() as nursery:
        async with pool_of(2) as pool:
            nursery.start_soon(_gather, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            await pool.spawn(parent, name="boss")
    assert [event.seq for event in found] == list(range(1, 7))
    assert [(type(e), e.agent_id, e.parent_id) for e in found] == [
        (AgentSpawned, 1, 0),
        (AgentStarted, 1, 0),
        (AgentSpawned, 2, 1),
        (AgentStarted, 2, 1),
        (AgentFinished, 2, 1),
        (AgentFinished, 1, 0),
    ]
    assert found[0].name == "boss"
    assert isinstance(found[4].outcome, Completed)
    assert [event.time for event in found] == [0, 0, 0, 0, 2, 2]


async def test_each_event_names_the_parent_whoever_tells_it(autojump_clock: Any) -> None:
    found: list[Any] = []

    async def child(ctx: AgentContext) -> None:
        await ctx.send(ctx.parent_id, "never read")
        with trio.move_on_after(1):
            await ctx.ask(ctx.parent_id, "who waits for me")
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    async def parent(ctx: AgentContext) -> None:
        handle = await ctx.spawn(child)
        with trio.move_on_after(2):
            await handle.wait()
        handle.abort()

    async with trio.open_nursery() as nursery:
        async with pool_of(2) as pool:
            nursery.start_soon(_gather, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            await pool.spawn(parent)
    told = {type(event): (event.agent_id, event.parent_id) for event in found}
    assert told[MessageSent] == (2, 1)
    assert told[DeadlockSuspected] == (2, 1)
    assert told[AgentStuck] == (2, 1)
    # Its sender has ended by then.
    assert told[MessageDeadLettered] == (2, 0)


async def test_messages_and_dead_letters_are_told(autojump_clock: Any) -> None:
    found: list[Any] = []

    async def agent(ctx: AgentContext) -> None:
        (await ctx.receive())
        await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        async with pool_of(2, inbox_capacity=1) as pool:
            nursery.start_soon(_gather, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            handle = await pool.spawn(agent)
            await pool.send(handle.id, "taken")
            await pool.send(handle.id, "left")
    sent = [e.message.content for e in found if isinstance(e, MessageSent)]
    buried = [(e.message.content, e.reason) for e in found if isinstance(e, MessageDeadLettered)]
    assert sent == ["taken", "left"]
    assert buried == [("left", "has ended")]


async def test_a_message_that_waited_for_room_and_a_reply_are_told_once(autojump_clock: Any) -> None:
    found: list[Any] = []

    async def slow(ctx: AgentContext) -> None:
        await trio.sleep(1)
        async for message in ctx.inbox:
            ctx.reply(message, "reply")

    async with trio.open_nursery() as nursery:
        async with pool_of(1, inbox_capacity=1) as pool:
            nursery.start_soon(_gather, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            handle = await pool.spawn(slow)
            pool.send_nowait(handle.id, "fills")
            await pool.ask(handle.id, "?")
    sent = [e.message.content for e in found if isinstance(e, MessageSent)]
    assert sent == ["fills", "?", "reply"]


async def test_an_agent_can_tell_events_of_its_own(autojump_clock: Any) -> None:
    found: list[Any] = []
    observed = []

    async def agent(ctx: AgentContext) -> None:
        observed.append(ctx.observed)
        ctx.emit(GuardWarned, "careful")

    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            await (await pool.spawn(agent)).wait()
            nursery.start_soon(_gather, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            await (await pool.spawn(agent)).wait()
    assert observed == [False, True]
    (warned,) = [e for e in found if isinstance(e, GuardWarned)]
    assert (warned.agent_id, warned.text) == (2, "careful")


async def test_a_subscriber_sees_what_happens_from_then_on_and_the_end() -> None:
    found: list[Any] = []
    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            await (await pool.spawn(value)).wait()
            nursery.start_soon(_gather, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            await (await pool.spawn(value)).wait()
    assert {event.agent_id for event in found} == {2}


async def test_events_of_a_pool_that_has_ended_are_none() -> None:
    async with pool_of(1) as pool:
        pass
    async with pool.events() as events:
        assert [event async for event in events] == []


async def test_a_subscriber_that_leaves_gets_nothing_more() -> None:
    async with pool_of(1) as pool:
        async with pool.events() as events:
            await (await pool.spawn(value)).wait()
            assert isinstance(await events.__anext__(), AgentSpawned)
        assert not pool._state.events.subscriptions
        pool._state.events.unsubscribe(events)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_buffer": 0}, ValueError),
        ({"max_buffer": 1.5}, TypeError),
        ({"max_buffer": True}, TypeError),
        ({"overflow": "drop_newest"}, ValueError),
    ],
)
async def test_options_that_make_no_sense_are_refused(options: Any, error: type[Exception]) -> None:
    async with pool_of(1) as pool:
        with pytest.raises(error, match=next(iter(options))):
            async with pool.events(**options):
                pass


async def test_a_slow_subscriber_loses_the_oldest_events_and_they_are_counted(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        async with pool.events(max_buffer=10) as events:
            await pool.map(value, range(500))
            stats = events.statistics()
            found = []
            pool_events = events
            with trio.move_on_after(1):
                async for event in pool_events:
                    found.append(event)
            total = pool._state.events.end
            assert len(found) + events.statistics().dropped == total
            assert events.statistics().buffered == 0
            # Finished ones are dropped last.
            assert sum(isinstance(event, AgentFinished) for event in found) >= len(found) - 2
            assert found[-1].seq == total
            assert [event.seq for event in found] == sorted(event.seq for event in found)
            assert "EventSubscription" in repr(events)
            assert stats.buffered <= 600


async def test_finished_events_are_kept_when_there_is_room_for_them(autojump_clock: Any) -> None:
    async with pool_of(4) as pool:
        async with pool.events(max_buffer=20) as events:
            await pool.map(value, range(20))
            for _ in range(40):
                handle = await pool.spawn(server)
                pool.send_nowait(handle.id, 1)
                handle.abort()
                break
            await pool.join_all()
            found = []
            with trio.move_on_after(1):
                async for event in events:
                    found.append(event)
    finished = [event for event in found if isinstance(event, AgentFinished)]
    assert len(finished) >= 15


async def test_what_is_left_is_read_after_the_pool_has_ended() -> None:
    async with trio.open_nursery():
        async with pool_of(1) as pool:
            context = pool.events(max_buffer=5)
            events = await context.__aenter__()
            await pool.map(value, range(20))
    found = [event async for event in events]
    assert 0 < len(found) <= 5
    assert isinstance(found[-1], AgentFinished)
    await context.__aexit__(None, None, None)


async def test_two_subscribers_have_each_their_own_buffer(autojump_clock: Any) -> None:
    fast: list[Any] = []
    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            nursery.start_soon(_gather, pool, fast)
            async with pool.events(max_buffer=3) as slow:
                await trio.testing.wait_all_tasks_blocked()
                for i in range(400):
                    await (await pool.spawn(value, i)).wait()
                # The last batch was not shed yet: what is read is never more than fits.
                got = []
                with trio.move_on_after(1):
                    async for event in slow:
                        got.append(event)
    assert len(fast) == 1200
    assert len(got) <= 3
    assert got[-1] is fast[-1]


async def test_one_subscription_is_read_by_one_task() -> None:
    async with pool_of(1) as pool, pool.events() as events, trio.open_nursery() as nursery:
        nursery.start_soon(events.__anext__)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await events.__anext__()
        nursery.cancel_scope.cancel()


async def test_a_cancelled_read_loses_nothing(autojump_clock: Any) -> None:
    async with pool_of(1) as pool, pool.events() as events:
        with trio.move_on_after(1):
            await events.__anext__()
        await (await pool.spawn(value)).wait()
        assert isinstance(await events.__anext__(), AgentSpawned)


@pytest.mark.parametrize("max_buffer", [1, 2, 5])
async def test_the_loop_waits_before_its_next_step_when_exactly_max_buffer_events_are_buffered(
    max_buffer: int, autojump_clock: Any
) -> None:
    begin = trio.Event()
    told: list[str] = []
    found: list[str] = []
    total = 3 * max_buffer + 1

    async def loop(ctx: AgentContext) -> None:
        await begin.wait()
        for i in range(total):
            await ctx.wait_for_subscribers()
            told.append(str(i))
            ctx.emit(GuardWarned, str(i))

    async with pool_of(1) as pool:
        handle = await pool.spawn(loop)
        await trio.testing.wait_all_tasks_blocked()
        async with pool.events(max_buffer=max_buffer, overflow="block") as events:
            begin.set()
            await trio.testing.wait_all_tasks_blocked()
            assert len(told) == events.statistics().buffered == max_buffer
            async for event in events:
                assert events.statistics().buffered < max_buffer or handle.outcome is not None
                if isinstance(event, AgentFinished):
                    break
                assert isinstance(event, GuardWarned)
                found.append(event.text)
            assert events.statistics().dropped == 0
    assert found == told == [str(i) for i in range(total)]


async def test_the_loop_waits_for_the_slowest_of_its_subscribers(autojump_clock: Any) -> None:
    begin = trio.Event()
    told: list[int] = []

    async def loop(ctx: AgentContext) -> None:
        await begin.wait()
        while True:
            await ctx.wait_for_subscribers()
            told.append(ctx.id)
            ctx.emit(GuardWarned, "x")

    async with pool_of(1) as pool:
        handle = await pool.spawn(loop)
        await trio.testing.wait_all_tasks_blocked()
        async with (
            pool.events(max_buffer=2),
            pool.events(max_buffer=7, overflow="block"),
            pool.events(max_buffer=4, overflow="block"),
        ):
            begin.set()
            await trio.testing.wait_all_tasks_blocked()
            assert len(told) == 4
            handle.abort()
            await handle.wait()


@pytest.mark.parametrize("max_buffer", [1, 4])
@pytest.mark.parametrize("more", [-1, 0, 1, 2, 700])
async def test_exactly_the_newest_max_buffer_events_are_kept_and_the_others_counted(
    max_buffer: int, more: int, autojump_clock: Any
) -> None:
    begin = trio.Event()
    total = max_buffer + more

    async def loop(ctx: AgentContext) -> None:
        await begin.wait()
        for i in range(total):
            ctx.emit(GuardWarned, str(i))
        await trio.sleep_forever()

    async with pool_of(1) as pool:
        handle = await pool.spawn(loop)
        await trio.testing.wait_all_tasks_blocked()
        async with pool.events(max_buffer=max_buffer) as events:
            begin.set()
            await trio.testing.wait_all_tasks_blocked()
            found = []
            with trio.move_on_after(1):
                async for event in events:
                    assert isinstance(event, GuardWarned)
                    found.append(event.text)
            assert found == [str(i) for i in range(total)][-max_buffer:]
            assert events.statistics().dropped == max(0, more)
        handle.abort()


async def test_a_subscriber_that_blocks_holds_up_who_asks_for_room(autojump_clock: Any) -> None:
    steps = []

    async def loop(ctx: AgentContext) -> None:
        for i in range(6):
            await ctx.wait_for_subscribers()
            steps.append((i, trio.current_time()))
            ctx.emit(GuardWarned, str(i))

    found = []
    async with pool_of(1) as pool:
        async with pool.events(max_buffer=3, overflow="block") as events:
            handle = await pool.spawn(loop)
            await trio.sleep(10)
            assert len(steps) < 6
            with trio.move_on_after(5):
                async for event in events:
                    found.append(event)
            await handle.wait()
            assert events.statistics().dropped == 0
    texts = [event.text for event in found if isinstance(event, GuardWarned)]
    assert texts == ["0", "1", "2", "3", "4", "5"]


async def test_a_blocking_subscriber_that_leaves_lets_the_agents_go_on(autojump_clock: Any) -> None:
    async def loop(ctx: AgentContext) -> str:
        for _ in range(6):
            await ctx.wait_for_subscribers()
            ctx.emit(GuardWarned, "x")
        return "done"

    async with pool_of(1) as pool:
        async with pool.events(max_buffer=1, overflow="block"):
            handle = await pool.spawn(loop)
            await trio.sleep(3)
            assert handle.outcome is None
        assert await handle.result() == "done"


async def test_waiting_for_subscribers_without_any_is_nothing() -> None:
    async def loop(ctx: AgentContext) -> None:
        with trio.testing.assert_no_checkpoints():
            await ctx.wait_for_subscribers()

    async with pool_of(1) as pool:
        await (await pool.spawn(loop)).result()


async def test_an_event_is_frozen() -> None:
    async with pool_of(1) as pool, pool.events() as events:
        await (await pool.spawn(value)).wait()
        event = await events.__anext__()
        with pytest.raises(AttributeError):
            event.seq = 3  # type: ignore[misc]


async def test_events_and_the_change_that_they_tell_are_one_step() -> None:
    async with pool_of(2) as pool:
        async with pool.events() as events, trio.open_nursery() as nursery:
            handle = await pool.spawn(failing)

            async def watch() -> None:
                async for event in events:
                    if isinstance(event, AgentFinished):
                        assert handle.outcome is event.outcome
                        assert handle.id not in pool.router.inboxes
                        assert pool.statistics().running == 0
                        nursery.cancel_scope.cancel()

            nursery.start_soon(watch)


async def test_a_busy_pool_does_not_keep_events_that_everybody_has_read() -> None:
    found: list[Any] = []
    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            nursery.start_soon(_gather, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(600):
                await (await pool.spawn(value)).wait()
            assert len(pool._state.events._events) <= 600
    assert len(found) == 1800


async def test_a_subscription_begins_with_its_block_and_not_with_the_call(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        subscription = pool.events()
        await (await pool.spawn(value)).wait()
        async with subscription as events:
            await (await pool.spawn(value)).wait()
            assert (await anext(events)).agent_id == 2


async def test_a_subscription_is_for_one_block() -> None:
    async with pool_of(1) as pool:
        subscription = pool.events()
        async with subscription:
            pass
        with pytest.raises(RuntimeError, match=r"call events\(\) again"):
            async with subscription:
                pass


async def test_arguments_are_checked_at_the_call() -> None:
    async with pool_of(1) as pool:
        with pytest.raises(ValueError, match="max_buffer must be at least 1, not 0"):
            pool.events(max_buffer=0)
        with pytest.raises(ValueError, match="overflow must be"):
            pool.events(overflow="drop_newest")  # type: ignore[arg-type]


async def test_what_is_left_is_read_after_the_block_and_then_the_end(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        async with pool.events() as events:
            await pool.map(value, range(100))
        assert events.statistics().buffered == 300
        await pool.map(value, range(100))
        assert events.statistics().buffered == 300
        found = [event async for event in events]
        assert [event.seq for event in found] == list(range(1, 301))
        events.close()
        assert [event async for event in events] == []


async def test_another_task_that_reads_gets_the_end_when_the_block_is_left(autojump_clock: Any) -> None:
    found: list[Any] = []

    async def reads(events: Any) -> None:
        async for event in events:
            found.append(event)

    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        async with pool.events() as events:
            nursery.start_soon(reads, events)
            await (await pool.spawn(value)).wait()
            await trio.sleep(1)
        nursery.start_soon(reads, events)
    assert [type(event) for event in found] == [AgentSpawned, AgentStarted, AgentFinished]


async def test_a_task_that_found_another_one_reading_may_read_later(autojump_clock: Any) -> None:
    async with pool_of(1) as pool, pool.events() as events:
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(anext, events)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await anext(events)
        await (await pool.spawn(value)).wait()
        assert isinstance(await anext(events), AgentSpawned)


async def test_finished_events_take_their_room_from_others(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        async with pool.events(max_buffer=50) as events:
            await pool.map(value, range(20))
        found = [event async for event in events]
    assert len(found) == 50
    assert sum(isinstance(event, AgentFinished) for event in found) == 20
    assert events.dropped == 10


async def test_a_tap_shows_each_event_in_the_step_in_which_it_happens(autojump_clock: Any) -> None:
    shown: list[Any] = []
    observed: list[bool] = []

    async def tells(ctx: AgentContext) -> None:
        observed.append(ctx.observed)
        for number in range(600):
            ctx.emit(GuardWarned, str(number))
            assert shown[-1].text == str(number)
            await ctx.wait_for_subscribers()

    async with pool_of(1) as pool:
        async with pool.events() as events, trio.open_nursery() as nursery:
            nursery.start_soon(anext, events)
            await trio.testing.wait_all_tasks_blocked()
            pool._state.events.tap(shown.append)
            handle = await pool.spawn(tells)
            assert isinstance(shown[0], AgentSpawned)
            await handle.wait()
            assert isinstance(shown[-1], AgentFinished)
    assert observed == [True]
    assert [event.seq for event in shown] == list(range(1, 604))


async def test_a_batch_holds_all_that_has_piled_up_and_the_last_one_nothing(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        async with pool.events() as events:
            await (await pool.spawn(value)).wait()
            first = await anext(events)
            batch = await events.next_batch()
            kinds = [type(event) for event in [first, *batch]]
            assert kinds == [AgentSpawned, AgentStarted, AgentFinished]
            with trio.move_on_after(1) as scope:
                await events.next_batch()
            assert scope.cancelled_caught
            await (await pool.spawn(value)).wait()
            assert len(await events.next_batch()) == 3
    assert await events.next_batch() == []


async def test_a_batch_lets_agents_go_on_that_wait_for_a_slow_reader(autojump_clock: Any) -> None:
    async def telling(ctx: AgentContext) -> int:
        for _ in range(5):
            ctx.emit(GuardWarned, "text")
            await ctx.wait_for_subscribers()
        return 5

    async with pool_of(1) as pool:
        async with pool.events(max_buffer=2, overflow="block") as events:
            handle = await pool.spawn(telling)
            seen = 0
            while handle.outcome is None:
                seen += len(await events.next_batch())
            assert seen == 8


async def test_a_batch_that_is_not_waited_for_is_what_is_there(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        async with pool.events() as events:
            assert events.next_batch_nowait() == []
            await (await pool.spawn(value)).wait()
            assert type(await anext(events)) is AgentSpawned
            assert [type(event) for event in events.next_batch_nowait()] == [AgentStarted, AgentFinished]
            await (await pool.spawn(value)).wait()
            assert len(events.next_batch_nowait()) == 3
            assert events.next_batch_nowait() == []
