"""When everybody who is left waits for messages, inboxes end: the youngest receiver's first."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import trio
from pool_kit import Running, collector, pool_of, server, sleeper

from agentpool import (
    AgentContext,
    AgentFinished,
    AgentPool,
    Completed,
    Failed,
    GuardWarned,
    RestartPolicy,
    UnknownAgentError,
)


async def test_servers_need_no_poison_pill() -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(server)
        assert await pool.ask(handle.id, 1) == 1
        pool.send_nowait(handle.id, 2)
    assert isinstance(handle.outcome, Completed)
    assert handle.outcome.value == [1, 2]


async def test_receive_raises_end_of_channel_and_goes_on_to() -> None:
    async def agent(ctx: AgentContext) -> str:
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await ctx.receive()
        with pytest.raises(trio.EndOfChannel):
            ctx.receive_nowait()
        return repr(ctx.inbox)

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == "<Inbox of agent 1, ended>"


async def test_a_servers_last_words_to_an_older_one_arrive(autojump_clock: Any) -> None:
    ends: list[int] = []

    async def relay(ctx: AgentContext, to: int) -> None:
        count = 0
        async for _ in ctx.inbox:
            count += 1
        ends.append(ctx.id)
        if to:
            await ctx.send(to, f"{ctx.id} saw {count}")

    async def sink(ctx: AgentContext) -> list[Any]:
        got = [message.content async for message in ctx.inbox]
        ends.append(ctx.id)
        return got

    async with pool_of(1) as pool:
        last = await pool.spawn(sink)
        to = last.id
        for _ in range(4):
            to = (await pool.spawn(relay, to)).id
        pool.send_nowait(to, "one")
    assert last.outcome is not None
    assert last.outcome.unwrap() == ["2 saw 1"]
    assert ends == [5, 4, 3, 2, 1]
    assert pool.statistics().dead_letters == 0


async def test_nothing_ends_while_the_body_may_still_give_work(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(server)
        await trio.sleep(100)
        assert handle.outcome is None


async def test_nothing_ends_while_an_agent_works(autojump_clock: Any) -> None:
    async def late(ctx: AgentContext, to: int) -> None:
        await trio.sleep(100)
        await ctx.send(to, "late")

    async with pool_of(2) as pool:
        handle = await pool.spawn(collector)
        await pool.spawn(late, handle.id)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == ["late"]


async def test_a_question_that_waits_for_a_receiver_counts_as_waiting(autojump_clock: Any) -> None:
    async def keeper(ctx: AgentContext) -> str:
        kept = [message async for message in ctx.inbox]
        ctx.reply(kept[0], "at last")
        return "done"

    async def asker(ctx: AgentContext, to: int) -> Any:
        return await ctx.ask(to, "?")

    async with pool_of(1) as pool:
        keeper_handle = await pool.spawn(keeper)
        handle = await pool.spawn(asker, keeper_handle.id)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == "at last"


async def test_an_asker_whose_server_ends_without_a_reply_is_told(autojump_clock: Any) -> None:
    async def silent(ctx: AgentContext) -> None:
        async for _ in ctx.inbox:
            pass

    async def asker(ctx: AgentContext, to: int) -> str:
        try:
            await ctx.ask(to, "?")
        except UnknownAgentError as error:
            return str(error)
        return "?"

    async with pool_of(2) as pool:
        silent_one = await pool.spawn(silent)
        handle = await pool.spawn(asker, silent_one.id)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == "agent 1 has ended without a reply"


async def test_parents_that_wait_for_servers_end_with_them(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext, depth: int) -> int:
        if depth:
            child = await ctx.spawn(parent, depth - 1)
            return 1 + await child.result()
        await ctx.spawn(server)
        await ctx.join_all()
        return 0

    async with pool_of(1) as pool:
        handle = await pool.spawn(parent, 3)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == 3


async def test_a_wait_under_a_narrower_deadline_of_its_own_is_left_to_its_deadline(
    autojump_clock: Any,
) -> None:
    async def patient(ctx: AgentContext, to: int) -> str:
        with trio.move_on_after(30) as scope:
            await ctx.receive()
        assert scope.cancelled_caught
        await ctx.send(to, "after the deadline")
        return "patient"

    async with pool_of(2) as pool:
        sink = await pool.spawn(collector)
        handle = await pool.spawn(patient, sink.id)
    assert trio.current_time() == 30
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == "patient"
    assert sink.outcome is not None
    assert sink.outcome.unwrap() == ["after the deadline"]


async def test_a_timeout_of_the_agent_or_a_scope_around_the_pool_is_no_narrower_deadline(
    autojump_clock: Any,
) -> None:
    with trio.fail_after(100):
        async with pool_of(2) as pool:
            handle = await pool.spawn(server, timeout=50)
    assert trio.current_time() == 0
    assert isinstance(handle.outcome, Completed)


async def test_a_deadline_that_is_set_later_on_a_scope_around_the_pool_is_none_either(
    autojump_clock: Any,
) -> None:
    async def slow(ctx: AgentContext) -> str:
        async for _ in ctx.inbox:
            await trio.sleep(1)
        return "done"

    with trio.CancelScope() as scope:
        async with pool_of(1) as pool:
            handle = await pool.spawn(slow)
            pool.send_nowait(handle.id, 1)
            scope.deadline = trio.current_time() + 50
    assert not scope.cancelled_caught
    assert isinstance(handle.outcome, Completed)


async def test_unknown_tasks_keep_a_receiver_alive_until_they_end(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> list[Any]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 20)
            return [message.content async for message in ctx.inbox]

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
    assert trio.current_time() == 20
    assert isinstance(handle.outcome, Completed)


@pytest.mark.parametrize("before", [True, False])
async def test_unknown_tasks_that_have_ended_do_not_matter(before: bool, autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> list[Any]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1)
            if before:
                await trio.sleep(2)
            return [message.content async for message in ctx.inbox]

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.sleep(5)
    assert trio.current_time() == 5
    assert isinstance(handle.outcome, Completed)


async def test_topics_end_with_their_subscribers(autojump_clock: Any) -> None:
    async def listener(ctx: AgentContext) -> list[Any]:
        ctx.subscribe("news")
        return [message.content async for message in ctx.inbox]

    async def speaker(ctx: AgentContext) -> int:
        await trio.sleep(1)
        return await ctx.publish("news", "x")

    async with pool_of(2) as pool:
        listeners = [await pool.spawn(listener) for _ in range(3)]
        handle = await pool.spawn(speaker)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == 3
    assert [h.outcome.unwrap() for h in listeners if h.outcome is not None] == [["x"]] * 3


async def test_a_server_that_restarts_is_waited_for_and_ends_at_rest(autojump_clock: Any) -> None:
    bodies = 0

    async def fragile(ctx: AgentContext) -> int:
        nonlocal bodies
        bodies += 1
        async for message in ctx.inbox:
            if message.content == "die":
                raise ValueError
        return bodies

    async with pool_of(1) as pool:
        handle = await pool.spawn(fragile, restart=RestartPolicy(max_restarts=3, backoff=2.0))
        for what in ("die", "x", "die"):
            pool.send_nowait(handle.id, what)
    assert isinstance(handle.outcome, Completed)
    assert handle.outcome.value == 3
    assert handle.outcome.restarts == 2


async def test_a_server_that_still_has_messages_takes_them_before_the_end(autojump_clock: Any) -> None:
    async def slow(ctx: AgentContext) -> int:
        count = 0
        async for _ in ctx.inbox:
            await trio.sleep(1)
            count += 1
        return count

    async with pool_of(1) as pool:
        handle = await pool.spawn(slow)
        for i in range(10):
            pool.send_nowait(handle.id, i)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == 10


async def test_messages_to_an_inbox_that_ended_are_refused(autojump_clock: Any) -> None:
    async def lingering(ctx: AgentContext) -> None:
        async for _ in ctx.inbox:
            pass
        await trio.sleep(5)

    async def later(ctx: AgentContext, to: int) -> str:
        async for _ in ctx.inbox:
            pass
        raise AssertionError("an older agent ends later")

    async with trio.open_nursery() as nursery:
        async with pool_of(2) as pool:
            handle = await pool.spawn(lingering)

            async def outside() -> None:
                await trio.sleep(1)
                with pytest.raises(UnknownAgentError):
                    pool.send_nowait(handle.id, "late")

            nursery.start_soon(outside)


async def test_ends_come_one_at_a_time_and_are_judged_again(autojump_clock: Any) -> None:
    # The youngest, told of its end, gives work to the two older ones, who work with one slot.
    running = Running()

    async def worker(ctx: AgentContext) -> int:
        done = 0
        async for _ in ctx.inbox:
            with running:
                await trio.sleep(1)
            done += 1
        return done

    async def giver(ctx: AgentContext) -> None:
        async for _ in ctx.inbox:
            pass
        for to in (1, 2, 1):
            await ctx.send(to, "work")

    async with pool_of(1) as pool:
        workers = [await pool.spawn(worker) for _ in range(2)]
        await pool.spawn(giver)
    assert [h.outcome.unwrap() for h in workers if h.outcome is not None] == [2, 1]
    assert running.peak == 1


async def test_servers_that_wait_beside_a_failing_one_end_too() -> None:
    async def bad(ctx: AgentContext) -> None:
        async for _ in ctx.inbox:
            pass
        raise ValueError

    async with pool_of(3) as pool:
        good = [await pool.spawn(server) for _ in range(2)]
        handle = await pool.spawn(bad)
        await trio.testing.wait_all_tasks_blocked()
        nobody = pool.statistics()
        assert nobody.ended == 0
        handle_outcome = None
        with pytest.RaisesGroup(ValueError):
            async with pool_of(1) as other:
                await other.spawn(bad)
        await pool.drain(5)
        handle_outcome = await handle.wait()
    assert isinstance(handle_outcome, Failed)
    assert all(isinstance(h.outcome, Completed) for h in good)


async def test_two_servers_that_talk_after_the_body_do_not_pile_up_work_for_the_judge() -> None:
    async def asker(ctx: AgentContext, to: int) -> None:
        for i in range(1000):
            await ctx.ask(to, i)

    async with pool_of(1) as pool:
        to = await pool.spawn(server)
        await pool.spawn(asker, to.id)
    assert len(pool._state.judge._receivers) < 20


async def test_join_all_in_the_body_waits_for_servers(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(server)
        with trio.move_on_after(100) as scope:
            await pool.join_all()
        assert scope.cancelled_caught
        assert handle.outcome is None


async def test_an_agent_that_waits_for_a_slot_is_not_at_rest(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext, to: int) -> None:
        await ctx.send(to, await (await ctx.spawn(sleeper, 1, "from a child")).result())

    async with pool_of(1) as pool:
        sink = await pool.spawn(collector)
        for _ in range(3):
            await pool.spawn(parent, sink.id)
    assert sink.outcome is not None
    assert sink.outcome.unwrap() == ["from a child"] * 3


async def test_events_end_when_no_inbox_is_left_to_end(autojump_clock: Any) -> None:
    async def watch(ctx: AgentContext, pool: AgentPool) -> list[int]:
        async with pool.events() as events:
            return [event.agent_id async for event in events if isinstance(event, AgentFinished)]

    async with pool_of(1) as pool:
        first = await pool.spawn(watch, pool)
        servers = [await pool.spawn(server) for _ in range(3)]
        last = await pool.spawn(watch, pool)
        await trio.testing.wait_all_tasks_blocked()
    assert all(isinstance(one.outcome, Completed) for one in servers)
    assert first.outcome is not None
    assert first.outcome.unwrap() == [4, 3, 2, 5]
    assert last.outcome is not None
    assert last.outcome.unwrap() == [4, 3, 2]


async def test_two_readers_that_wake_each_other_do_not_pile_up_work_for_the_judge() -> None:
    async def echo(ctx: AgentContext, pool: AgentPool) -> None:
        async with pool.events() as events:
            async for event in events:
                if isinstance(event, GuardWarned) and event.agent_id != ctx.id and event.seq < 1000:
                    ctx.emit(GuardWarned, "echo")

    async with pool_of(1) as pool:
        for _ in range(2):
            await pool.spawn(echo, pool)
        await trio.testing.wait_all_tasks_blocked()
        pool._state.events.emit(GuardWarned, 3, 0, "first")
    assert len(pool._state.judge._readers) < 20


class _Told:
    """What somebody returns, which nobody needs any more."""


async def test_what_ended_while_a_server_goes_on_is_forgotten(autojump_clock: Any) -> None:
    kept: list[weakref.ref[_Told]] = []

    async def receives(ctx: AgentContext) -> _Told:
        await ctx.receive()
        told = _Told()
        kept.append(weakref.ref(told))
        return told

    async def serves(ctx: AgentContext) -> None:
        for _ in range(300):
            child = await ctx.spawn(receives)
            await trio.sleep(1)  # the block has ended, and the child waits
            await ctx.send(child.id, "go")
            await child.wait()
        del child
        gc.collect()
        assert sum(told() is not None for told in kept) <= 1  # the last one
        assert len(ctx._state.judge._receivers._heap) <= 66

    async with pool_of(2) as pool:
        handle = await pool.spawn(serves)
    await handle.result()


async def test_the_youngest_is_found_among_those_that_have_ended_since(autojump_clock: Any) -> None:
    ended: list[int] = []

    async def receives(ctx: AgentContext) -> None:
        async for _ in ctx.inbox:
            return
        ended.append(ctx.id)

    async def serves(ctx: AgentContext) -> None:
        children = [await ctx.spawn(receives) for _ in range(6)]
        await trio.sleep(1)
        for child in children[1::2]:
            await ctx.send(child.id, "go")
            await child.wait()

    async with pool_of(2) as pool:
        handle = await pool.spawn(serves)
    first = handle.id + 1
    assert ended == [first + 4, first + 2, first]
