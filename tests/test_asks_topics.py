"""Questions and replies, broadcasts, topics."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
import trio.testing
from pool_kit import collector, pool_of, server, sleeper

from agentpool import AgentContext, AgentMessage, MessageDeadLettered, MessageSent, UnknownAgentError


async def _answering(ctx: AgentContext) -> None:
    async for message in ctx.inbox:
        ctx.reply(message, ("re", message.content))


async def test_a_question_from_outside_or_from_an_agent_gets_its_answer() -> None:
    async def asker(ctx: AgentContext, to: int) -> Any:
        return await ctx.ask(to, "?")

    async with pool_of(1) as pool:
        handle = await pool.spawn(_answering)
        assert await pool.ask(handle.id, "!") == ("re", "!")
        assert await (await pool.spawn(asker, handle.id)).result() == ("re", "?")


async def test_many_questions_get_each_their_own_answer(autojump_clock: Any) -> None:
    answers: dict[int, Any] = {}

    async def shuffling(ctx: AgentContext) -> None:
        kept = [await ctx.receive() for _ in range(5)]
        for message in reversed(kept):
            ctx.reply(message, message.content * 10)

    async with pool_of(1) as pool:
        handle = await pool.spawn(shuffling)

        async def ask(n: int) -> None:
            answers[n] = await pool.ask(handle.id, n)

        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(ask, n)
    assert answers == {n: n * 10 for n in range(5)}


async def test_only_the_recipient_may_reply() -> None:
    async def impostor(ctx: AgentContext, forged: list[AgentMessage]) -> str:
        message = forged[0]
        with pytest.raises(ValueError, match="was sent to agent 1"):
            ctx.reply(message, "forged")
        # An address that was changed by hand does not help.
        ctx.reply(AgentMessage(sender=message.sender, to=ctx.id, id=message.id), "forged")
        return "tried"

    seen: list[AgentMessage] = []

    async def honest(ctx: AgentContext) -> None:
        seen.append(await ctx.receive())
        await ctx.receive()
        ctx.reply(seen[0], "honest")

    async with pool_of(2) as pool, trio.open_nursery() as nursery:
        handle = await pool.spawn(honest)
        answers = []

        async def ask() -> None:
            answers.append(await pool.ask(handle.id, "?"))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert await (await pool.spawn(impostor, seen)).result() == "tried"
        pool.send_nowait(handle.id, "go on")
    assert answers == ["honest"]
    assert [letter.message.content for letter in pool.dead_letters] == ["forged"]


async def test_a_reply_is_from_who_replies_and_goes_to_who_asked(autojump_clock: Any) -> None:
    found: list[Any] = []

    async def asker(ctx: AgentContext, to: int) -> Any:
        return await ctx.ask(to, "?")

    async def twice(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            ctx.reply(message, "heard")
            ctx.reply(message, "too late")

    async with trio.open_nursery() as nursery:
        async with pool_of(2) as pool:
            nursery.start_soon(_letters, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            replier = await pool.spawn(twice)
            handle = await pool.spawn(asker, replier.id)
            assert await handle.result() == "heard"
    assert found == [
        (MessageSent, handle.id, handle.id, replier.id, "?"),
        (MessageSent, replier.id, replier.id, handle.id, "heard"),
        (MessageDeadLettered, replier.id, replier.id, handle.id, "too late"),
    ]
    assert [(letter.message.sender, letter.message.to) for letter in pool.dead_letters] == [
        (replier.id, handle.id)
    ]


@pytest.mark.parametrize("claimed", ["replier", "supervisor", "bystander", "nobody"])
async def test_a_reply_to_a_question_with_a_forged_sender_is_a_dead_letter_of_the_replier(
    claimed: str, autojump_clock: Any
) -> None:
    found: list[Any] = []

    async def asker(ctx: AgentContext, to: int) -> Any:
        return await ctx.ask(to, "?")

    async def forger(ctx: AgentContext, sender: int) -> None:
        message = await ctx.receive()
        ctx.reply(attrs.evolve(message, sender=sender), "forged")
        await trio.sleep(1)
        ctx.reply(message, "honest")

    async with trio.open_nursery() as nursery:
        async with pool_of(3) as pool:
            nursery.start_soon(_letters, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            bystander = await pool.spawn(collector)
            sender = {"replier": 2, "supervisor": 0, "bystander": bystander.id, "nobody": 99}[claimed]
            replier = await pool.spawn(forger, sender)
            handle = await pool.spawn(asker, replier.id)
            assert await handle.result() == "honest"
            assert trio.current_time() == 1
    assert found == [
        (MessageSent, handle.id, handle.id, replier.id, "?"),
        (MessageDeadLettered, replier.id, replier.id, sender, "forged"),
        (MessageSent, replier.id, replier.id, handle.id, "honest"),
    ]
    assert [letter.message.sender for letter in pool.dead_letters] == [replier.id]
    assert bystander.outcome is not None
    assert bystander.outcome.unwrap() == []


async def _letters(pool: Any, found: list[Any]) -> None:
    async with pool.events() as events:
        async for event in events:
            if isinstance(event, MessageSent | MessageDeadLettered):
                message = event.message
                found.append((type(event), event.agent_id, message.sender, message.to, message.content))


async def test_a_second_reply_and_a_reply_to_no_question_are_dead_letters() -> None:
    async def twice(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            ctx.reply(message, "first")
            ctx.reply(message, "second")

    async with pool_of(1) as pool:
        handle = await pool.spawn(twice)
        assert await pool.ask(handle.id, "?") == "first"
        pool.send_nowait(handle.id, "no question")
    assert [letter.message.content for letter in pool.dead_letters] == ["second", "first", "second"]
    assert {letter.reason for letter in pool.dead_letters} == {"nobody waits for this reply"}


async def test_a_reply_to_somebody_who_stopped_waiting_is_a_dead_letter(autojump_clock: Any) -> None:
    async def slow(ctx: AgentContext) -> None:
        message = await ctx.receive()
        await trio.sleep(5)
        ctx.reply(message, "late")

    async with pool_of(1) as pool:
        handle = await pool.spawn(slow)
        with trio.move_on_after(1):
            await pool.ask(handle.id, "?")
    assert [letter.message.content for letter in pool.dead_letters] == ["late"]


@pytest.mark.parametrize("state", ["took it", "in its inbox", "waits for room"])
async def test_an_asker_is_told_when_the_recipient_ends(state: str, autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        if state == "took it":
            await ctx.receive()
        await trio.sleep(5)

    async with pool_of(1, inbox_capacity=1) as pool:
        handle = await pool.spawn(agent)
        if state == "waits for room":
            pool.send_nowait(handle.id, "fills")
        with pytest.raises(UnknownAgentError, match="agent 1 has ended"):
            await pool.ask(handle.id, "?")
        assert trio.current_time() == 5


async def test_an_answer_in_the_step_in_which_the_asker_is_cancelled_is_not_lost(autojump_clock: Any) -> None:
    async def punctual(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            await trio.sleep_until(message.content)
            ctx.reply(message, "on time")

    async def asker(ctx: AgentContext, to: int) -> list[str]:
        got = []
        for n in range(1, 20):
            with trio.CancelScope(deadline=n):
                got.append(await ctx.ask(to, n))
        return got

    async with pool_of(2) as pool:
        handle = await pool.spawn(punctual)
        got = await (await pool.spawn(asker, handle.id)).result()
        replies = len(got) + pool.statistics().dead_letters
        await pool.drain(50)
    assert replies <= 19
    stats = pool.statistics()
    assert stats.messages_sent == stats.messages_received + stats.dead_letters


async def test_an_asker_may_be_aborted_while_its_question_waits_for_room(autojump_clock: Any) -> None:
    async def asker(ctx: AgentContext, to: int) -> None:
        await ctx.ask(to, "?")

    async with pool_of(1, inbox_capacity=1) as pool:
        deaf = await pool.spawn(sleeper, 10)
        pool.send_nowait(deaf.id, "fills")
        pool.max_concurrent = 2
        handle = await pool.spawn(asker, deaf.id)
        await trio.sleep(1)
        handle.abort()
        await handle.wait()
        assert trio.current_time() == 1
        assert pool.router.statistics().asks_pending == 0


async def test_the_content_of_a_message_may_be_anything() -> None:
    error = ValueError()
    async with pool_of(1) as pool:
        handle = await pool.spawn(server)
        for content in (None, error, [1], trio.Event()):
            assert await pool.ask(handle.id, content) is content


# -- broadcast ------------------------------------------------------------------------------------------------  # noqa: E501


async def test_a_broadcast_reaches_every_other_agent(autojump_clock: Any) -> None:
    async def speaker(ctx: AgentContext) -> int:
        return await ctx.broadcast("all")

    async with pool_of(2) as pool:
        handles = [await pool.spawn(collector) for _ in range(3)]
        speaker_handle = await pool.spawn(speaker)
        assert await speaker_handle.result() == 3
    assert [h.outcome.unwrap() for h in handles if h.outcome is not None] == [["all"]] * 3


async def test_a_broadcast_waits_for_room_and_passes_over_who_ends(autojump_clock: Any) -> None:
    async def speaker(ctx: AgentContext) -> int:
        return await ctx.broadcast("all")

    async with pool_of(3, inbox_capacity=1) as pool:
        deaf = await pool.spawn(sleeper, 5)
        pool.send_nowait(deaf.id, "fills")
        listener = await pool.spawn(collector)
        handle = await pool.spawn(speaker)
        assert await handle.result() == 1
        assert trio.current_time() == 5
    assert listener.outcome is not None
    assert listener.outcome.unwrap() == ["all"]


# -- topics ------------------------------------------------------------------------------------------------------  # noqa: E501


async def test_what_is_published_reaches_the_subscribers_of_its_topic(autojump_clock: Any) -> None:
    async def listener(ctx: AgentContext, topics: list[str]) -> list[Any]:
        for topic in topics:
            ctx.subscribe(topic)
            ctx.subscribe(topic)
        return [(message.topic, message.content, message.sender) async for message in ctx.inbox]

    async def speaker(ctx: AgentContext) -> list[int]:
        ctx.subscribe("a")
        return [await ctx.publish(topic, topic * 2) for topic in ("a", "b", "nobody")]

    async with pool_of(1) as pool:
        one = await pool.spawn(listener, ["a"])
        two = await pool.spawn(listener, ["a", "b"])
        await trio.testing.wait_all_tasks_blocked()
        speaker_handle = await pool.spawn(speaker)
        assert await speaker_handle.result() == [2, 1, 0]
    assert one.outcome is not None
    assert one.outcome.unwrap() == [("a", "aa", 3)]
    assert two.outcome is not None
    assert two.outcome.unwrap() == [("a", "aa", 3), ("b", "bb", 3)]


async def test_a_subscription_can_be_closed(autojump_clock: Any) -> None:
    async def listener(ctx: AgentContext) -> list[Any]:
        got = []
        with ctx.subscribe("a") as subscription:
            assert subscription.topic == "a"
            got.append((await ctx.receive()).content)
        subscription.close()
        ctx.unsubscribe("never")
        got += [message.content async for message in ctx.inbox]
        return got

    async def speaker(ctx: AgentContext) -> list[int]:
        counts = []
        for i in range(3):
            counts.append(await ctx.publish("a", i))
            await trio.sleep(1)
        return counts

    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
        await trio.testing.wait_all_tasks_blocked()
        assert await (await pool.spawn(speaker)).result() == [1, 0, 0]
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == [0]


async def test_an_agent_that_ended_subscribes_to_nothing_any_more() -> None:
    contexts = []

    async def listener(ctx: AgentContext) -> None:
        ctx.subscribe("a")
        contexts.append(ctx)

    async def speaker(ctx: AgentContext) -> int:
        return await ctx.publish("a", 1)

    async with pool_of(1) as pool:
        await (await pool.spawn(listener)).wait()
        assert pool.router.subscribers("a") == []
        assert await (await pool.spawn(speaker)).result() == 0
        with pytest.raises(UnknownAgentError):
            contexts[0].subscribe("a")


class _Moody(str):
    """A topic whose hash is not to be had twice."""

    asked = 0

    def __hash__(self) -> int:
        self.asked += 1
        if self.asked > 1:
            raise ValueError("no hash")
        return super().__hash__()


async def test_an_agents_end_does_not_depend_on_the_hash_of_a_topic() -> None:
    async def listens(ctx: AgentContext) -> Any:
        ctx.subscribe(_Moody("news"))
        return (await ctx.receive()).content

    async with pool_of(2) as pool:
        listening = await pool.spawn(listens)
        await trio.testing.wait_all_tasks_blocked()

        async def tells(ctx: AgentContext) -> int:
            return await ctx.publish("news", "heard")

        assert await (await pool.spawn(tells)).result() == 1
        assert await listening.result() == "heard"


async def test_a_topic_that_is_no_string_is_refused() -> None:
    async def agent(ctx: AgentContext) -> None:
        for use in (ctx.subscribe, ctx.unsubscribe):
            with pytest.raises(TypeError, match="a topic must be a string, not 3"):
                use(3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a topic must be a string"):
            await ctx.publish(None, "content")  # type: ignore[arg-type]

    async with pool_of(1) as pool:
        await (await pool.spawn(agent)).result()
