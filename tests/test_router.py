"""MessageRouter alone and in a pool: inboxes, order, cancellation, the books, dead letters."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio
from pool_kit import collector, pool_of, server, sleeper, value

from agentpool import AgentContext, AgentMessage, MessageRouter, UnknownAgentError

# -- alone -------------------------------------------------------------------------------------------------


async def test_a_router_delivers_between_whoever_registers() -> None:
    router = MessageRouter(2)
    inbox = router.register(7)
    assert router.agent_count == 1
    await router.send(AgentMessage(sender=3, to=7, content="a"))
    router.send_nowait(AgentMessage(sender=3, to=7, content="b"))
    with pytest.raises(trio.WouldBlock):
        router.send_nowait(AgentMessage(to=7, content="c"))
    first = await inbox.receive()
    assert (first.sender, first.to, first.content) == (3, 7, "a")
    assert inbox.receive_nowait().content == "b"
    with pytest.raises(trio.WouldBlock):
        inbox.receive_nowait()
    assert "1 agents, 2 messages sent" in repr(router)


async def test_ids_of_messages_are_unique_and_set_by_the_router() -> None:
    router = MessageRouter()
    inbox = router.register(1)
    for _ in range(3):
        router.send_nowait(AgentMessage(to=1, id=99))
    assert len({inbox.receive_nowait().id for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("capacity", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_capacity_that_makes_no_sense_is_refused(capacity: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="inbox_capacity"):
        MessageRouter(capacity)


def test_ids_that_make_no_sense_or_are_taken_are_refused() -> None:
    router = MessageRouter()
    router.register(1)
    with pytest.raises(ValueError, match="registered already"):
        router.register(1)
    with pytest.raises(ValueError, match="0 is the supervisor"):
        router.register(0)
    with pytest.raises(ValueError, match="positive"):
        router.register(-1)


async def test_unregister_buries_what_is_left_and_tells_who_waits() -> None:
    router = MessageRouter(1)
    inbox = router.register(1)
    router.send_nowait(AgentMessage(to=1, content="left"))
    told = []

    async def sender() -> None:
        with pytest.raises(UnknownAgentError):
            await router.send(AgentMessage(to=1, content="waits"))
        told.append(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender)
        await trio.testing.wait_all_tasks_blocked()
        assert inbox.statistics().senders_waiting == 1
        router.unregister(1)
        router.unregister(1)
    assert told == [1]
    assert router.agent_count == 0
    assert [letter.message.content for letter in router.dead_letters] == ["left"]
    with pytest.raises(trio.EndOfChannel):
        await inbox.receive()
    with pytest.raises(UnknownAgentError, match="no live agent 1"):
        router.send_nowait(AgentMessage(to=1))
    with pytest.raises(UnknownAgentError):
        await router.send(AgentMessage(to=1))


async def test_a_receiver_whose_inbox_is_unregistered_comes_to_the_end() -> None:
    router = MessageRouter()
    inbox = router.register(1)
    got = []

    async def receiver() -> None:
        got.append([message.content async for message in inbox])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver)
        await trio.testing.wait_all_tasks_blocked()
        await router.send(AgentMessage(to=1, content=1))
        await trio.testing.wait_all_tasks_blocked()
        assert inbox.statistics().receivers_waiting == 1
        router.unregister(1)
    assert got == [[1]]


async def test_questions_work_alone_too() -> None:
    router = MessageRouter(1)
    inbox = router.register(1)
    answers = []

    async def ask(what: int) -> None:
        answers.append(await router.ask(AgentMessage(sender=5, to=1, content=what)))

    async with trio.open_nursery() as nursery:
        for what in range(3):
            nursery.start_soon(ask, what)
            await trio.testing.wait_all_tasks_blocked()
        assert router.statistics().asks_pending == 3
        for _ in range(3):
            message = await inbox.receive()
            router.reply(1, message, message.content * 10)
    assert answers == [0, 10, 20]
    stats = router.statistics()
    assert stats.sent == stats.received == 6
    assert stats.asks_pending == stats.in_inboxes == stats.dead_letters == 0


async def test_a_question_that_waited_for_room_in_an_inbox_that_goes_is_told() -> None:
    router = MessageRouter(1)
    router.register(1)
    router.send_nowait(AgentMessage(to=1))

    async def ask() -> None:
        with pytest.raises(UnknownAgentError):
            await router.ask(AgentMessage(to=1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        router.unregister(1)
    assert router.statistics().asks_pending == 0


@pytest.mark.parametrize("full", [True, False])
async def test_a_cancelled_question_is_forgotten(full: bool, autojump_clock: Any) -> None:
    router = MessageRouter(1)
    inbox = router.register(1)
    if full:
        router.send_nowait(AgentMessage(to=1, content="first"))
    with trio.move_on_after(1):
        await router.ask(AgentMessage(to=1, content="?"))
    assert router.statistics().asks_pending == 0
    assert inbox.statistics().senders_waiting == 0
    message = inbox.receive_nowait()
    assert message.content == ("first" if full else "?")
    router.reply(1, message, "late")
    assert [letter.message.content for letter in router.dead_letters] == ["late"]
    assert router.dead_letters[0].message.reply_to == message.id


# -- in a pool -----------------------------------------------------------------------------------------------


async def test_the_sender_is_the_agent_that_calls_and_cannot_be_forged() -> None:
    async def liar(ctx: AgentContext, pool: Any, to: int) -> None:
        await ctx.send(to, "ctx")
        await pool.send(to, "pool")
        pool.send_nowait(to, "nowait")
        await pool.router.send(AgentMessage(sender=99, to=to, content="forged"))
        pool.router.send_nowait(AgentMessage(sender=99, to=to, content="forged too"))

    async def keeper(ctx: AgentContext) -> list[Any]:
        return [(message.sender, message.content) async for message in ctx.inbox]

    async with pool_of(2) as pool:
        handle = await pool.spawn(keeper)
        await pool.send(handle.id, "outside")
        await pool.router.send(AgentMessage(sender=99, to=handle.id, content="forged outside"))
        await (await pool.spawn(liar, pool, handle.id)).wait()
    assert handle.outcome is not None
    got = handle.outcome.unwrap()
    assert got[:2] == [(0, "outside"), (0, "forged outside")]
    assert got[2:] == [(2, c) for c in ("ctx", "pool", "nowait", "forged", "forged too")]


async def test_the_sender_to_another_pool_is_its_supervisor() -> None:
    async def keeper(ctx: AgentContext) -> list[int]:
        return [message.sender async for message in ctx.inbox]

    async def agent(ctx: AgentContext, other: Any, to: int) -> None:
        await other.send(to, 1)

    async with pool_of(1) as one, pool_of(1) as two:
        handle = await one.spawn(keeper)
        await (await two.spawn(agent, one, handle.id)).wait()
        await one.drain(5)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == [0]


async def test_unknown_and_finished_recipients_and_the_supervisor_are_refused() -> None:
    async with pool_of(1) as pool:
        ended = await pool.spawn(value)
        await ended.wait()
        for verb in (pool.send, pool.ask):
            for to in (ended.id, 99, -1):
                with pytest.raises(UnknownAgentError):
                    await verb(to, "x")
            with pytest.raises(UnknownAgentError, match="the supervisor, 0, has no inbox"):
                await verb(0, "x")
        with pytest.raises(UnknownAgentError):
            pool.send_nowait(ended.id, "x")
        assert pool.statistics().messages_sent == 0


async def test_send_waits_where_send_nowait_raises(autojump_clock: Any) -> None:
    async def slow(ctx: AgentContext) -> list[Any]:
        await trio.sleep(5)
        return [message.content async for message in ctx.inbox]

    async with pool_of(1, inbox_capacity=2) as pool:
        handle = await pool.spawn(slow)
        pool.send_nowait(handle.id, 1)
        pool.send_nowait(handle.id, 2)
        with pytest.raises(trio.WouldBlock):
            pool.send_nowait(handle.id, "refused")
        await pool.send(handle.id, 3)
        assert trio.current_time() == 5
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == [1, 2, 3]
    assert pool.statistics().messages_sent == 3


async def test_a_cancelled_send_has_delivered_nothing(autojump_clock: Any) -> None:
    async with pool_of(1, inbox_capacity=1) as pool:
        handle = await pool.spawn(sleeper, 10)
        pool.send_nowait(handle.id, "fills")
        with trio.move_on_after(1) as scope:
            await pool.send(handle.id, "cancelled")
        assert scope.cancelled_caught
        assert pool.statistics().inboxes[handle.id].senders_waiting == 0
    assert [letter.message.content for letter in pool.dead_letters] == ["fills"]


async def test_a_send_to_an_agent_that_ends_meanwhile_is_told(autojump_clock: Any) -> None:
    async with pool_of(1, inbox_capacity=1) as pool:
        handle = await pool.spawn(sleeper, 3)
        pool.send_nowait(handle.id, "fills")
        with pytest.raises(UnknownAgentError, match="agent 1 has ended"):
            await pool.send(handle.id, "waits")
        assert trio.current_time() == 3


async def test_what_is_left_in_an_inbox_becomes_dead_letters_that_are_counted_and_bounded() -> None:
    async with pool_of(1, inbox_capacity=600) as pool:
        for _ in range(3):
            handle = await pool.spawn(sleeper, 0)
            for i in range(500):
                pool.send_nowait(handle.id, i)
            handle.abort()
            await handle.wait()
        assert pool.statistics().dead_letters == 1500
        assert len(pool.dead_letters) == 1000
        assert all(letter.reason == "has ended" for letter in pool.dead_letters)


async def test_the_inbox_is_gone_in_the_step_in_which_the_agent_ends() -> None:
    async with pool_of(2) as pool:
        handle = await pool.spawn(server)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.router.agent_count == 1
        handle.abort()
        await handle.wait()
        assert pool.router.agent_count == 0


@pytest.mark.parametrize("seed", range(25))
async def test_order_per_pair_and_the_books_hold_under_cancellation(seed: int, autojump_clock: Any) -> None:
    random = Random(seed)
    delivered: dict[int, list[int]] = {}
    got: dict[int, list[tuple[int, int]]] = {}

    async def receiver(ctx: AgentContext) -> None:
        mine = got.setdefault(ctx.id, [])
        while True:
            with trio.move_on_after(random.choice([0.1, 1])):
                message = await ctx.receive()
                mine.append((message.sender, message.content))
                if message.content is None or len(mine) > 40:
                    return
            if random.random() < 0.3:
                await trio.sleep(random.random())

    async def sender(ctx: AgentContext, targets: list[int]) -> None:
        for n in range(25):
            to = random.choice(targets)
            with trio.move_on_after(random.choice([0, 0.2, 5])):
                try:
                    await ctx.send(to, n)
                except UnknownAgentError:
                    return
                delivered.setdefault(to, []).append(n)

    async with pool_of(random.randint(1, 3), inbox_capacity=random.randint(1, 3)) as pool:
        targets = [(await pool.spawn(receiver)).id for _ in range(3)]
        senders = [await pool.spawn(sender, targets) for _ in range(3)]
        for handle in senders:
            await handle.wait()
        for to in targets:
            try:
                await pool.send(to, None)
            except UnknownAgentError:
                continue
            delivered.setdefault(to, []).append(-1)
    for mine in got.values():
        for one in range(4, 7):
            from_one = [n for sender_id, n in mine if sender_id == one and n is not None]
            assert from_one == sorted(from_one)
    total = sum(len(found) for found in got.values())
    stats = pool.statistics()
    assert stats.messages_sent == stats.messages_received + stats.dead_letters
    assert stats.messages_received == total
    assert stats.messages_sent == sum(len(found) for found in delivered.values())


async def test_no_message_is_lost_between_a_receive_and_its_cancellation(autojump_clock: Any) -> None:
    # The message and the deadline come in the same step.
    async def receiver(ctx: AgentContext) -> list[int]:
        got = []
        while len(got) < 100:
            with trio.move_on_after(1):
                got.append((await ctx.receive()).content)
        return got

    async with pool_of(1) as pool:
        handle = await pool.spawn(receiver)
        for i in range(100):
            await trio.sleep(1)
            pool.send_nowait(handle.id, i)
        assert await handle.result() == list(range(100))


async def test_inbox_statistics_show_fill_and_peak() -> None:
    async with pool_of(1, inbox_capacity=5) as pool:
        handle = pool.spawn_nowait(collector)
        for i in range(3):
            pool.send_nowait(handle.id, i)
        stats = pool.statistics().inboxes[handle.id]
        assert (stats.fill, stats.peak, stats.capacity) == (3, 3, 5)
        assert "3/5" in repr(pool.router.inboxes[handle.id])
        await trio.testing.wait_all_tasks_blocked()
        stats = pool.statistics().inboxes[handle.id]
        assert (stats.fill, stats.peak) == (0, 3)
        assert pool.router.statistics().received == 3


async def test_topics_that_nobody_hears_any_more_are_forgotten() -> None:
    router = MessageRouter()
    for agent_id in (1, 2, 3):
        router.register(agent_id)
    for number in range(50):
        router.subscribe(1, f"topic {number}")
        router.subscribe(2, f"topic {number}")
    router.subscribe(1, "topic 0")  # once more changes nothing
    router.unsubscribe(3, "topic 0")
    router.unsubscribe(2, "no such topic")
    router.unregister(2)
    assert router.subscribers("topic 7") == [1]
    for number in range(49):
        router.unsubscribe(1, f"topic {number}")
    assert list(router._topics._subscribers) == ["topic 49"]
    router.unregister(1)
    router.unregister(3)
    assert not router._topics._subscribers
    assert not router._topics._heard
