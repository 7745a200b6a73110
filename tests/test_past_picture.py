"""The picture of a run out of its journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from journal_kit import Records, in_virtual_time, resumed, run

from agentpool import (
    AgentContext,
    AgentManifest,
    ApprovalRequest,
    ApprovalRules,
    Approved,
    AssistantMessage,
    Budget,
    Completion,
    CompletionRequest,
    Decision,
    Denied,
    Driver,
    DriverError,
    MemoryCapability,
    ModelAgent,
    ModelSettings,
    ResourceQuota,
    RestartPolicy,
    RunPausedError,
    TokenUsage,
    ToolCall,
    UnknownAgentError,
    UserMessage,
    open_agent_pool,
    tool,
)
from agentpool._core.past_picture import PastPicture, _Agent, past_picture
from agentpool._core.past_waits import waits_of, what_followed
from agentpool._core.picture import AgentRow, Picture
from agentpool._core.records import JournalRecord
from agentpool._kernel.descriptions import outcome_from_data

USED = TokenUsage(100, 10, cost_usd=0.5)


def past(records: Records | Sequence[JournalRecord], **options: Any) -> PastPicture:
    kept = records.kept if isinstance(records, Records) else records
    return past_picture(kept, outcome_from_data, **options)


def lane(then: PastPicture, agent_id: int) -> list[tuple[Any, ...]]:
    """What an agent did, as (kind, start, end, and what more there is to say)."""
    return [
        (span.kind, span.start, span.end, *([span.detail] if span.detail else []), *span.blocked_on)
        for span in then.picture.spans
        if span.agent == agent_id and span.start < span.end
    ]


def row(then: PastPicture, agent_id: int) -> AgentRow:
    return then.picture.rows[agent_id]


def notes(then: PastPicture) -> list[str]:
    return [note.text for note in then.picture.notes]


class Scripted(Driver):
    """Answers after two seconds, with what `answers` gives for the number of answers before."""

    def __init__(self, *answers: Completion | Exception) -> None:
        self.answers = answers

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(2)
        before = sum(isinstance(message, AssistantMessage) for message in request.messages)
        answer = self.answers[min(before, len(self.answers) - 1)]
        if isinstance(answer, Exception):
            raise answer
        return answer


def calls(*names: str, text: str = "") -> Completion:
    made = tuple(ToolCall(f"call-{number}", name, {"what": name}) for number, name in enumerate(names))
    return Completion(text, made, usage=USED)


@tool
async def look(what: str) -> str:
    """Look."""
    await trio.sleep(1)
    return f"saw {what}"


@tool
async def long_look(what: str) -> str:
    """Look for long."""
    await trio.sleep(3)
    raise ValueError("nothing to see")


def scholar(**settings: Any) -> ModelAgent:
    manifest = AgentManifest(
        name="scholar",
        model=ModelSettings(remote_model="big", **settings.pop("model", {})),
        resources=ResourceQuota(**settings),
    )
    return ModelAgent(manifest, tools=[look, long_look])


# -- loops ---------------------------------------------------------------------------------------


def test_a_loop_reasons_acts_and_reasons() -> None:
    driver = Scripted(calls("look", "long_look", text="let me look"), Completion("done", usage=USED))
    _, records = run(scholar(), "go", driver=driver)
    then = past(records)
    assert lane(then, 1) == [
        ("reasoning", 0.0, 2.0, "big"),
        ("acting", 2.0, 3.0, "look, long_look"),
        ("acting", 3.0, 5.0, "long_look"),
        ("reasoning", 5.0, 7.0, "big"),
    ]
    agent = row(then, 1)
    assert (agent.state, agent.words, agent.usage, agent.ended_at) == ("completed", "done", USED + USED, 7.0)
    assert (agent.model_calls, agent.tool_calls, agent.iteration) == (2, 2, 2)
    assert [
        (call.kind, call.name, call.start, call.end, call.failed, call.arguments) for call in then.calls
    ] == [
        ("model", "big", 0.0, 2.0, False, None),
        ("tool", "look", 2.0, 3.0, False, {"what": "look"}),
        ("tool", "long_look", 2.0, 5.0, True, {"what": "long_look"}),
        ("model", "big", 5.0, 7.0, False, None),
    ]
    assert notes(then) == []


def test_an_answer_whose_usage_nobody_knows_is_a_call() -> None:
    _, records = run(scholar(), "go", driver=Scripted(Completion("done")))
    then = past(records)
    assert not records.of_kind("settled")
    assert (row(then, 1).model_calls, row(then, 1).words) == (1, "done")
    assert [(call.start, call.end) for call in then.calls] == [(0.0, 2.0)]


@pytest.mark.parametrize("budget", [None, Budget(calls=5)])
def test_a_model_that_fails(budget: Budget | None) -> None:
    _, records = run(scholar(), "go", driver=Scripted(DriverError("no")), budget=budget)
    then = past(records)
    assert lane(then, 1) == [("reasoning", 0.0, 2.0, "big")]
    assert (row(then, 1).state, row(then, 1).reason) == ("failed", "DriverError: no")
    assert [(call.start, call.end) for call in then.calls] == [(0.0, 2.0)]


def test_a_conversation_that_was_summed_up_is_noted() -> None:
    class Long(Driver):
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.sleep(2)
            if not request.tools:
                return Completion("a summary", usage=USED)
            if any(isinstance(each, UserMessage) and each.kind == "summary" for each in request.messages):
                return Completion("done", usage=USED)
            return Completion("word " * 1500, (ToolCall("1", "look", {"what": "x"}),), usage=USED)

    agent = scholar(model={"context_window": 4_000, "compaction": "summary", "max_tokens": 100})
    _, records = run(agent, "go", driver=Long())
    kinds = [record.data["is"] for record in records.of_kind("observed")]
    assert "compacted" in kinds
    then = past(records)
    assert "first: its oldest messages were summed up" in notes(then)
    assert row(then, 1).usage == then.picture.usage
    assert {kind for kind, *_ in lane(then, 1)} == {"reasoning", "acting"}


def test_a_model_that_is_idle_and_tools_that_are() -> None:
    class Silent(Driver):
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.sleep(1)
            if any(isinstance(message, AssistantMessage) for message in request.messages):
                await trio.sleep(100)
            return calls("sleep")

    @tool
    async def sleep(what: str) -> str:
        """Sleep."""
        await trio.sleep(100)
        return ""

    manifest = AgentManifest(name="idle", resources=ResourceQuota(idle=5.0, on_limit="answer"))
    _, records = run(ModelAgent(manifest, tools=[sleep]), "go", driver=Silent())
    then = past(records)
    assert [record.data["is"] for record in records.of_kind("observed")].count("idled") == 2
    assert lane(then, 1) == [
        ("reasoning", 0.0, 1.0),
        ("acting", 1.0, 6.0, "sleep"),
        ("reasoning", 6.0, 11.0),
    ]
    (call,) = [call for call in then.calls if call.kind == "tool"]
    assert (call.start, call.end) == (1.0, 6.0)


def test_an_agent_that_remembers() -> None:
    class Notebook:
        async def recall(self, query: str) -> list[Any]:
            await trio.sleep(3)
            return []

        async def remember(self, text: str, **more: Any) -> None:
            await trio.sleep(4)

    manifest = AgentManifest(
        name="scholar", model=ModelSettings(remote_model="big"), capabilities=[MemoryCapability()]
    )
    driver = Scripted(Completion("done", usage=USED))
    _, records = run(ModelAgent(manifest), "go", driver=driver, memory=Notebook())
    assert lane(past(records), 1) == [
        ("perceiving", 0.0, 3.0),
        ("reasoning", 3.0, 5.0, "big"),
        ("running", 5.0, 9.0),
    ]


@pytest.mark.parametrize("budget", [None, Budget(calls=5)])
def test_models_that_a_function_asks(budget: Budget | None) -> None:
    async def asker(ctx: AgentContext) -> str:
        assert ctx.driver is not None
        await trio.sleep(1)
        answer = await ctx.driver.complete(CompletionRequest(messages=[UserMessage("go")]))
        await trio.sleep(1)
        return answer.text

    _, records = run(asker, driver=Scripted(Completion("done", usage=USED)), budget=budget)
    then = past(records)
    (call,) = then.calls
    assert (row(then, 1).usage, row(then, 1).model_calls) == (USED, 1)
    if budget is None:  # only the answer is in the journal
        assert (call.start, call.end) == (None, 3.0)
        assert lane(then, 1) == [("running", 0.0, 3.0), ("running", 3.0, 4.0)] or lane(then, 1) == [
            ("running", 0.0, 4.0)
        ]
    else:
        assert (call.start, call.end) == (1.0, 3.0)
        assert [(kind, start, end) for kind, start, end, *_ in lane(then, 1)] == [
            ("running", 0.0, 1.0),
            ("reasoning", 1.0, 3.0),
            ("running", 3.0, 4.0),
        ]


# -- waits and messages --------------------------------------------------------------------------


async def answering(ctx: AgentContext) -> None:
    question = await ctx.receive()
    await trio.sleep(2)
    ctx.reply(question, "yes")


async def sleeping(ctx: AgentContext, seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


def test_a_question_and_its_answer() -> None:
    async def asking(ctx: AgentContext) -> None:
        other = await ctx.spawn(answering)
        await trio.sleep(1)
        await ctx.ask(other.id, "well?")
        await trio.sleep(1)

    _, records = run(asking)
    then = past(records)
    assert lane(then, 1) == [("running", 0.0, 1.0), ("waiting", 1.0, 3.0, 2), ("running", 3.0, 4.0)]
    assert lane(then, 2) == [("waiting", 0.0, 1.0), ("running", 1.0, 3.0)]
    assert [(m.kind, m.sender, m.to, m.sent, m.received) for m in then.messages] == [
        ("question", 1, 2, 1.0, 1.0),
        ("reply", 2, 1, 3.0, 3.0),
    ]
    assert [(arrow.kind, arrow.time) for arrow in then.picture.arrows] == [("question", 1.0), ("reply", 3.0)]


def test_a_question_whose_recipient_ends_and_one_that_is_given_up() -> None:
    async def asking(ctx: AgentContext) -> None:
        other = await ctx.spawn(sleeping, 2)
        with pytest.raises(UnknownAgentError):
            await ctx.ask(other.id, "well?")
        third = await ctx.spawn(sleeping, 9)
        with trio.move_on_after(1):
            await ctx.ask(third.id, "well?")
        await trio.sleep(1)
        third.abort()

    _, records = run(asking)
    then = past(records)
    assert lane(then, 1) == [("waiting", 0.0, 2.0, 2), ("waiting", 2.0, 3.0, 3), ("running", 3.0, 4.0)]
    assert [message.buried for message in then.messages] == [True, True]
    assert row(then, 2).dead_letters == row(then, 3).dead_letters == 1
    assert any("was not received" in note for note in notes(then))


def test_a_message_that_had_come_needs_no_wait() -> None:
    async def late(ctx: AgentContext) -> None:
        await ctx.step("work", trio.sleep, 5)
        await ctx.receive()
        await ctx.step("more", trio.sleep, 5)

    async def sender(ctx: AgentContext) -> None:
        other = await ctx.spawn(late)
        await trio.sleep(1)
        await ctx.send(other.id, "hello")

    _, records = run(sender)
    then = past(records)
    assert lane(then, 2) == [("running", 0.0, 10.0)]
    (message,) = then.messages
    assert (message.sent, message.received) == (1.0, 5.0)


def test_waits_for_children() -> None:
    async def parent(ctx: AgentContext) -> None:
        first = await ctx.spawn(sleeping, 1)
        await first.wait()
        await ctx.spawn(sleeping, 1)
        await ctx.join_next()
        await ctx.spawn(sleeping, 1)
        await ctx.spawn(sleeping, 2)
        await ctx.join_all()
        assert await ctx.join_next() is None

    _, records = run(parent, max_concurrent=5)
    assert lane(past(records), 1) == [
        ("waiting", 0.0, 1.0, 2),
        ("waiting", 1.0, 2.0, 3),
        ("waiting", 2.0, 4.0, 4, 5),
    ]


def test_waits_in_map_and_in_a_race() -> None:
    async def parent(ctx: AgentContext) -> None:
        await trio.sleep(1)
        await ctx.map(sleeping, [1, 2])
        await trio.sleep(1)
        await ctx.step("look", trio.sleep, 1)
        await ctx.map(sleeping, [1])

    _, records = run(parent, max_concurrent=5)
    then = past(records)
    assert lane(then, 1) == [
        ("running", 0.0, 1.0),
        ("waiting", 1.0, 3.0, 2, 3),
        ("running", 3.0, 5.0),
        ("waiting", 5.0, 6.0, 4),
    ]
    cut = past(records.kept[: next(n for n, each in enumerate(records.kept) if each.kind == "ended")])
    assert (row(cut, 1).kind, row(cut, 1).blocked_on) == ("waiting", (2, 3))


def test_outcomes_that_are_taken_one_after_the_other() -> None:
    async def parent(ctx: AgentContext) -> None:
        async with ctx.as_completed(sleeping, [1, 2, 3, 4]) as done:
            async for _ in done:
                await trio.sleep(0.5)

    _, records = run(parent, max_concurrent=9)
    assert lane(past(records), 1) == [
        ("waiting", 0.0, 1.0, 2),
        ("waiting", 1.0, 2.0, 3),  # what was done with the outcome is in it: no record tells
        ("waiting", 2.0, 3.0, 4),
        ("waiting", 3.0, 4.0, 5),
        ("running", 4.0, 4.5),
    ]


def test_items_that_are_spawned_after_an_outcome_was_taken_are_not_waited_for() -> None:
    async def parent(ctx: AgentContext) -> None:
        async with ctx.as_completed(sleeping, [1, 2, 3, 4, 5, 6]) as done:
            async for _ in done:
                await trio.sleep(1.5)  # meanwhile others begin
                break
        await ctx.step("more", trio.sleep, 5)

    _, records = run(parent, max_concurrent=2)
    assert [each for each in lane(past(records), 1) if each[0] == "waiting"] == [("waiting", 0.0, 1.0, 2)]


def test_an_agent_waits_if_all_its_tool_calls_do() -> None:
    @tool
    async def consult(ctx: AgentContext, what: str) -> str:
        """Ask somebody."""
        other = await ctx.spawn(answering)
        answer: str = await ctx.ask(other.id, what)
        return answer

    agent = ModelAgent(AgentManifest(name="asking"), tools=[look, consult])
    _, records = run(
        agent, "go", driver=Scripted(calls("look", "consult"), Completion("done")), max_concurrent=5
    )
    assert lane(past(records), 1)[1:] == [
        ("acting", 2.0, 3.0, "look, consult"),
        ("waiting", 3.0, 4.0, 2),
        ("reasoning", 4.0, 6.0),
    ]


def test_tasks_of_an_agent_wait_for_several() -> None:
    async def parent(ctx: AgentContext) -> None:
        first, second = await ctx.spawn(answering), await ctx.spawn(answering)

        async def asks(other: int) -> None:
            await ctx.ask(other, "well?")

        async def receives() -> None:
            with trio.move_on_after(3):
                await ctx.receive()

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(asks, first.id)
            nursery.start_soon(asks, second.id)
            nursery.start_soon(receives)

    _, records = run(parent, max_concurrent=5)
    assert ("waiting", 0.0, 2.0, 2, 3) in lane(past(records), 1)


def test_messages_of_the_program_and_topics() -> None:
    records = Records()

    async def listener(ctx: AgentContext) -> None:
        with ctx.subscribe("news"):
            await ctx.receive()
            await ctx.receive()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=2, journal=records) as pool:
            handle = await pool.spawn(listener)
            await trio.sleep(1)
            await pool.send(handle.id, "hello")
            await trio.sleep(1)
            await pool.ask(await _spawned(pool, answering), "well?")
            await pool.send(handle.id, "bye")

    in_virtual_time(main)
    then = past(records)
    assert [(m.kind, m.sender, m.to) for m in then.messages] == [
        ("message", 0, 1),
        ("question", 0, 2),
        ("reply", 2, 0),
        ("message", 0, 1),
    ]
    assert lane(then, 1)[0] == ("waiting", 0.0, 1.0)


async def _spawned(pool: Any, agent: Any) -> int:
    return (await pool.spawn(agent)).id


def test_messages_that_a_loop_takes() -> None:
    async def boss(ctx: AgentContext) -> None:
        worker = await ctx.spawn(scholar(), "go")
        await trio.sleep(1)
        await ctx.send(worker.id, "hurry")
        await worker.wait()

    driver = Scripted(calls("look"), Completion("done", usage=USED))
    _, records = run(boss, driver=driver)
    (message,) = past(records).messages
    assert (message.sent, message.received) == (1.0, 3.0)


def test_a_question_to_a_name_is_put_to_its_next_life() -> None:
    async def frail(ctx: AgentContext) -> None:
        question = await ctx.receive()
        await trio.sleep(1)
        if question.id < 2:
            raise ValueError("once")
        ctx.reply(question, "yes")

    async def boss(ctx: AgentContext) -> None:
        handle = await ctx.spawn(frail, name="frail", restart=RestartPolicy())
        await ctx.ask("frail", "well?")
        await handle.wait()

    _, records = run(boss)
    then = past(records)
    assert [(message.kind, message.sent) for message in then.messages] == [
        ("question", 0.0),
        ("question", 1.0),
        ("reply", 2.0),
    ]
    assert lane(then, 1) == [("waiting", 0.0, 1.0, 2), ("waiting", 1.0, 2.0, 2)]
    assert None not in [wait.end for wait in waits_of(records.kept)]


def test_an_asker_that_ends_waits_no_more() -> None:
    async def asking(ctx: AgentContext) -> None:
        other = await ctx.spawn(sleeping, 9)
        await ctx.ask(other.id, "well?")

    async def boss(ctx: AgentContext) -> None:
        asker = await ctx.spawn(asking)
        await trio.sleep(2)
        asker.abort()
        await asker.wait()

    _, records = run(boss, max_concurrent=5)
    then = past(records)
    assert lane(then, 2) == [("waiting", 0.0, 2.0, 3)]
    assert row(then, 2).waits_for is None


def test_what_a_loop_came_to_next_is_told_life_by_life() -> None:
    records = [
        JournalRecord("begun", 1, {"loop": "a"}),
        JournalRecord("restarted", 1, {}),
        JournalRecord("begun", 1, {"loop": "a"}),
        JournalRecord("begun", 2, {"loop": "a"}),
        JournalRecord("observed", 1, {"loop": "a", "is": "replied"}),
        JournalRecord("ended", 1, {}),
    ]
    assert what_followed(records) == {0: "over", 2: "replied", 3: "cut", 4: "over"}


# -- lives, ends ---------------------------------------------------------------------------------


def test_a_restart_is_drawn_until_the_next_life_does_something() -> None:
    lives: list[int] = []

    async def frail(ctx: AgentContext) -> str:
        lives.append(1)
        await trio.sleep(1)
        await ctx.step("step", trio.lowlevel.checkpoint)
        if len(lives) < 2:
            raise ValueError("once")
        return "well"

    async def parent(ctx: AgentContext) -> None:
        policy = RestartPolicy(backoff=2)
        handle = await ctx.spawn(frail, restart=policy)
        await handle.wait()

    _, records = run(parent)
    then = past(records)
    spans = lane(then, 2)
    assert spans[0] == ("running", 0.0, 1.0)
    assert spans[1] == ("starting", 1.0, 4.0, "restart")
    assert (row(then, 2).restarts, row(then, 2).state) == (1, "completed")
    assert notes(then) == ["frail: restarted (1)"]


@pytest.mark.parametrize("words", [True, False])
def test_what_was_said_can_be_left_out(words: bool) -> None:
    async def boss(ctx: AgentContext) -> None:
        handle = await ctx.spawn(scholar(), "tell me the secret")
        await handle.wait()
        failing = await ctx.spawn(fails)
        await failing.wait()
        aborted = await ctx.spawn(sleeping, 9)
        aborted.abort("the secret is out")
        await aborted.wait()

    async def fails(ctx: AgentContext) -> None:
        raise ValueError("the secret failed")

    driver = Scripted(calls("look", text="the secret is out"), Completion("the secret is x", usage=USED))
    _, records = run(boss, driver=driver)
    then = past(records, words=words)
    told = repr((list(then.picture.rows.values()), then.picture.notes, then.calls))
    assert ("secret" in told) is words
    assert row(then, 3).reason == ("ValueError: the secret failed" if words else "ValueError")
    assert row(then, 4).reason == ("the secret is out" if words else "")
    assert [call.arguments for call in then.calls if call.kind == "tool"] == [
        {"what": "look"} if words else None
    ]


def test_a_run_that_was_stopped_and_one_whose_process_died() -> None:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=2, journal=records) as pool:
            await pool.spawn(sleeping, 9)
            await trio.sleep(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_virtual_time(main)
    assert notes(past(records)) == ["the run was stopped here; 1 agents have not ended"]
    assert notes(past(records.kept[:-1])) == ["the journal ends here: the run goes on, or its process died"]


def test_a_run_that_was_cut_off_in_a_model_call_and_in_a_tool_call() -> None:
    driver = Scripted(calls("look"), Completion("done", usage=USED))
    _, whole = run(scholar(), "go", driver=driver, budget=Budget(calls=9))
    for kind in ("reserved", "called"):
        end = next(number for number, record in enumerate(whole.kept, 1) if record.kind == kind)
        _, again = resumed(whole.kept[:end], driver=driver, budget=Budget(calls=9))
        then = past(again)
        (at,) = then.interrupted
        assert at == whole.kept[end - 1].at
        assert row(then, 1).state == "completed"
        cut = [call for call in then.calls if call.end is None]
        assert [call.kind for call in cut] == (["model"] if kind == "reserved" else ["tool"])
        assert "the run was interrupted here, and resumed: the time between does not count" in notes(then)


def test_an_agent_whose_value_could_not_be_kept_has_completed() -> None:
    async def odd(ctx: AgentContext) -> Any:
        return object()

    _, records = run(odd)
    assert "unkept" in records.of_kind("ended")[0].data
    assert row(past(records), 1).state == "completed"


# -- persons -------------------------------------------------------------------------------------


CAREFUL = ModelAgent(AgentManifest(name="careful", approval=ApprovalRules(ask=("look",))), tools=[look])


@pytest.mark.parametrize(
    ("decision", "note"),
    [(Approved(), []), (Denied("not that"), ["first: look was denied: not that"])],
)
def test_a_person_is_asked_and_decides(decision: Decision, note: list[str]) -> None:
    async def person(request: ApprovalRequest) -> Decision:
        await trio.sleep(4)
        return decision

    driver = Scripted(calls("look"), Completion("done", usage=USED))
    _, records = run(CAREFUL, "go", driver=driver, approver=person)
    then = past(records)
    assert ("approval", 2.0, 6.0, "look") in lane(then, 1)
    assert notes(then) == note
    assert notes(past(records, words=False)) == [each.removesuffix(": not that") for each in note]


def test_a_run_that_is_paused_for_a_person() -> None:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(Scripted(calls("look")), max_concurrent=2, journal=records) as pool:
            await (await pool.spawn(CAREFUL, "go")).wait()

    with pytest.raises(RunPausedError):
        in_virtual_time(main)
    then = past(records)
    assert row(then, 1).kind == "approval"
    assert notes(then) == ["the run was paused here; 1 agents have not ended"]


# -- records that tell of what is not there -------------------------------------------------------


def test_what_tells_of_agents_and_messages_that_are_not_known_is_passed_over() -> None:
    spent = {"n": 1, "took": [1, 1, 1], "slack": [0, 0, 0]}
    call = {"$object": ["agentpool:ToolCall", {"id": "1", "name": "look", "input": {}}]}
    then = past(
        [
            JournalRecord("run", 0, {}),
            JournalRecord("reserved", 7, spent),
            JournalRecord("settled", 7, {**spent, "usage": {}}, 1.0),
            JournalRecord("asked", 7, {"hash": "x", "agent": 7, "call": call, "rule": "ask"}, 1.0),
            JournalRecord("decided", 7, {"hash": "other", "approved": True, "reason": ""}, 1.0),
            JournalRecord("replied", 7, {"id": 3, "reply": 4, "content": 1, "life": 0, "key": None}, 1.0),
            JournalRecord("buried", 7, {"id": 9, "reason": "nobody waits"}, 2.0),
            JournalRecord("received", 7, {"id": 9, "life": 0, "key": None}, 2.0),
            JournalRecord("closed", 0, {"how": "ended"}, 3.0),
        ]
    )
    assert then.calls == []
    assert [message.kind for message in then.messages] == ["reply"]
    assert then.picture.time == 3.0


def test_code_that_begins_does_so_after_what_its_agent_did_before() -> None:
    waits = waits_of(
        [
            JournalRecord("spawned", 1, {"by": 0, "key": None, "name": "a", "parent": 0}),
            JournalRecord("sent", 1, {"id": 1, "from": 0, "key": None, "ask": False}, 3.0),
            JournalRecord("operated", 1, {"key": "1", "kind": "step", "value": None}, 5.0),
            JournalRecord("received", 1, {"id": 1, "key": "2/1"}, 6.0),
        ]
    )
    assert waits == []


def test_who_waits_for_anybody_and_for_one_waits_for_anybody() -> None:
    agent = _Agent(1, "a", 0, 0.0, waits={"1/1": (2,), "2/1": ()})
    assert agent.waits_for() == ()


def test_tools_that_an_answer_asked_for_and_that_were_not_called() -> None:
    _, records = run(scholar(), "go", driver=Scripted(calls("look"), Completion("done", usage=USED)))
    kept = [each for each in records.kept if (each.at <= 2 and each.kind != "called") or each.kind == "ended"]
    assert lane(past(kept), 1) == [("reasoning", 0.0, 2.0, "big"), ("running", 2.0, 5.0)]


def test_an_answer_that_is_a_dead_letter_was_not_received() -> None:
    async def asking(ctx: AgentContext) -> None:
        other = await ctx.spawn(answering)
        await ctx.ask(other.id, "well?")

    _, records = run(asking)
    at = next(place for place, each in enumerate(records.kept) if each.kind == "replied")
    buried = JournalRecord("buried", 1, {"id": records.kept[at].data["reply"], "reason": "late"}, 2.0)
    then = past([*records.kept[: at + 1], buried, *records.kept[at + 1 :]])
    assert [(each.kind, each.received, each.buried) for each in then.messages] == [
        ("question", 0.0, False),
        ("reply", None, True),
    ]


def test_an_asker_that_ends_without_a_word_waits_no_more() -> None:
    async def asking(ctx: AgentContext) -> None:
        other = await ctx.spawn(answering)
        await ctx.ask(other.id, "well?")

    _, records = run(asking)
    kept = [record for record in records.kept if record.kind != "replied"]
    assert lane(past(kept), 1) == [("waiting", 0.0, 2.0, 2)]


def test_a_tool_call_that_is_told_twice_is_one() -> None:
    driver = Scripted(calls("look"), Completion("done", usage=USED))
    _, records = run(scholar(), "go", driver=driver)
    at = next(place for place, record in enumerate(records.kept) if record.kind == "called")
    kept = [*records.kept[: at + 1], *records.kept[at:]]
    assert row(past(kept), 1).tool_calls == 1


def test_the_picture_keeps_as_much_as_it_is_told_to() -> None:
    async def parent(ctx: AgentContext) -> None:
        await ctx.map(sleeping, [1, 2, 3])

    _, records = run(parent, max_concurrent=5)
    then = past(records, picture=Picture(ended_kept=1), words=False)
    assert (then.picture.forgotten, list(then.picture.rows)) == (3, [1])
