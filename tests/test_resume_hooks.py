"""Hooks in a run that is cut off and resumed: what ended is not done again."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from journal_kit import Records, in_virtual_time, resumed, run

from agentpool import (
    AgentContext,
    AgentManifest,
    ApprovalRequest,
    ApprovalRules,
    Approved,
    AskModel,
    AssistantMessage,
    CallTool,
    Completion,
    CompletionRequest,
    Driver,
    HookContext,
    Hooks,
    JournalError,
    ModelAgent,
    TokenUsage,
    ToolCall,
    ToolMessage,
    ToolResult,
    open_agent_pool,
    tool,
)

USED = TokenUsage(100, 10)
DONE: list[str] = []
SEEN: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    forget()


def forget() -> None:
    DONE.clear()
    SEEN.clear()


class Model(Driver):
    """Asks for these calls once, and then tells what they came to."""

    def __init__(self, *calls: ToolCall) -> None:
        self.calls = calls

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(1)
        if not any(isinstance(message, AssistantMessage) for message in request.messages):
            return Completion("raw", tool_calls=self.calls, usage=USED)
        told = [str(each.result.content) for each in request.messages if isinstance(each, ToolMessage)]
        return Completion("; ".join(told), usage=USED)


@tool
async def wipe(what: str) -> str:
    """Wipe something."""
    DONE.append(f"wipe {what}")
    await trio.sleep(1)
    return f"wiped {what}"


@tool(idempotent=True)
async def look(what: str) -> str:
    """Look at something."""
    DONE.append(f"look {what}")
    await trio.sleep(1)
    return f"saw {what}"


class Marking(Hooks):
    """Changes what the model says, what is called, and what comes of it; notes what it sees."""

    async def after_model_call(
        self, ctx: HookContext, request: CompletionRequest, completion: Completion
    ) -> Completion:
        SEEN.append(f"model said {completion.text}")
        return attrs.evolve(completion, text=f"<{completion.text}>")

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
        SEEN.append(f"before {call.id}")
        await trio.sleep(1)
        return attrs.evolve(call, input={"what": call.input["what"].upper()})

    async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
        SEEN.append(f"after {call.id}")
        return ToolResult(f"{result.text}!", result.is_error)


AGENT = ModelAgent(AgentManifest(name="a"), tools=[wipe, look])
CALLS = (ToolCall("1", "wipe", {"what": "a"}), ToolCall("2", "look", {"what": "b"}))
MODEL = Model(*CALLS)
WHOLE = "<wiped A!; saw B!>"


def text_of(outcome: Any) -> str:
    text: str = outcome.unwrap().text
    return text


def test_a_journal_holds_what_came_after_the_hooks() -> None:
    outcome, records = run(AGENT, "go", driver=MODEL, hooks=[Marking()])
    assert text_of(outcome) == WHOLE
    returned = [record.data["result"]["$object"][1]["content"] for record in records.of_kind("returned")]
    assert sorted(returned) == ["saw B!", "wiped A!"]
    called = [record.data["call"]["$object"][1]["input"]["what"] for record in records.of_kind("called")]
    assert sorted(called) == ["a", "b"]  # what the model said


def test_wherever_a_run_is_cut_off_it_ends_as_it_would_have_and_does_nothing_twice() -> None:
    _, records = run(AGENT, "go", driver=MODEL, hooks=[Marking()])
    kept = records.kept
    unknown = 0
    for cut in range(2, len(kept)):
        forget()
        finished = {record.data["n"] for record in kept[:cut] if record.kind == "returned"}
        begun = {record.data["n"] for record in kept[:cut] if record.kind == "called"}
        replied = sum(record.kind == "observed" and record.data["is"] == "replied" for record in kept[:cut])
        again, _ = resumed(kept[:cut], driver=MODEL, hooks=[Marking()])
        if not any(record.kind == "spawned" for record in kept[:cut]):
            continue
        text = text_of(again)
        if 0 in begun - finished:
            unknown += 1
            assert "wipe A" not in DONE  # nobody knows whether it was
            assert text.endswith("; saw B!>")
        else:
            assert text == WHOLE, cut
        assert DONE.count("wipe A") == (0 not in begun)
        assert DONE.count("look B") == (1 not in finished)
        assert not any(f"before {n + 1}" in SEEN for n in finished)
        assert len([each for each in SEEN if each.startswith("model")]) == 2 - replied
    assert unknown > 0


class Refusing(Hooks):
    """Answers in the tool's place."""

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolResult:
        SEEN.append(f"refused {call.id}")
        return ToolResult(f"not {call.input['what']}", is_error=True)


def test_a_refusal_is_recorded_as_any_result_and_not_decided_again() -> None:
    outcome, records = run(AGENT, "go", driver=MODEL, hooks=[Refusing()])
    assert text_of(outcome) == "not a; not b"
    for kind in ("called", "returned"):
        assert sorted(record.data["n"] for record in records.of_kind(kind)) == [0, 1]
    returned = [n for n, record in enumerate(records.kept) if record.kind == "returned"]
    for cut in range(returned[0], len(records.kept)):
        known = sum(record.kind == "returned" for record in records.kept[:cut])
        forget()
        again, _ = resumed(records.kept[:cut], driver=MODEL, hooks=[Refusing()])
        assert DONE == []
        if records.kept[cut - 1].kind != "called":  # the two are written in one step
            assert text_of(again) == "not a; not b"
            assert len(SEEN) == 2 - known


def test_a_call_that_a_hook_made_another_is_repeated_only_if_that_one_may_be() -> None:
    class Instead(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            return attrs.evolve(call, name="wipe")

    model = Model(ToolCall("1", "look", {"what": "b"}))
    _, records = run(AGENT, "go", driver=model, hooks=[Instead()])
    cut = next(n for n, record in enumerate(records.kept) if record.kind == "returned")
    forget()
    again, _ = resumed(records.kept[:cut], driver=model, hooks=[Instead()])
    assert DONE == []
    assert "unknown" in text_of(again) or "not known" in text_of(again)


def test_what_a_person_let_through_is_not_asked_again_and_is_the_changed_call() -> None:
    agent = ModelAgent(AgentManifest(name="a", approval=ApprovalRules(ask=("look",))), tools=[wipe, look])
    asked: list[Any] = []

    async def approver(request: ApprovalRequest) -> Approved:
        asked.append(request.call.input)
        return Approved()

    model = Model(ToolCall("2", "look", {"what": "b"}))
    _, records = run(agent, "go", driver=model, hooks=[Marking()], approver=approver)
    assert asked == [{"what": "B"}]
    cut = next(n for n, record in enumerate(records.kept) if record.kind == "returned")
    forget()
    again, _ = resumed(records.kept[:cut], driver=model, hooks=[Marking()], approver=approver)
    assert text_of(again) == "<saw B!>"
    assert asked == [{"what": "B"}]
    assert DONE == ["look B"]


def test_each_attempt_sends_its_own_message_and_a_resumed_one_does_not_send_it_again() -> None:
    got: list[Any] = []

    @tool(idempotent=True)
    async def tell(ctx: Any) -> str:
        """Tell the other agent."""
        await ctx.send("listener", "news")
        return "told"

    class Twice(Hooks):
        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            await proceed(call)
            return await proceed(call)

    async def listener(ctx: Any) -> None:
        async for message in ctx.inbox:
            got.append(message.content)

    async def main() -> None:
        async with open_agent_pool(
            Model(ToolCall("1", "tell", {})), max_concurrent=2, journal=records, hooks=[Twice()]
        ) as pool:
            await pool.spawn(listener, name="listener")
            agent = ModelAgent(AgentManifest(name="a"), tools=[tell])
            await (await pool.spawn(agent, "go")).wait()

    records = Records()
    in_virtual_time(main)
    assert got == ["news", "news"]
    sent = [each.data["key"] for each in records.kept if "t0/" in str(each.data.get("key"))]
    assert sent == ["0t0/0", "0t0/1"]


async def helper(ctx: Any) -> str:
    DONE.append("helped")
    await trio.sleep(1)
    return "x"


class AskingForHelp(Hooks):
    """Has an agent look at each request."""

    async def around_model_call(
        self, ctx: HookContext, request: CompletionRequest, call: AskModel
    ) -> Completion:
        assert isinstance(ctx, AgentContext)
        handle = await ctx.spawn(helper)
        await handle.wait()
        return await call(request)


async def twice(ctx: AgentContext) -> list[str]:
    return [(await AGENT(ctx, "go")).text, (await AGENT(ctx, "go")).text]


def test_agents_that_hooks_around_model_calls_spawn_are_spawned_once() -> None:
    hooks = [AskingForHelp()]
    model = Model(ToolCall("2", "look", {"what": "b"}))
    outcome, records = run(twice, driver=model, hooks=hooks)
    assert outcome.unwrap() == ["saw b", "saw b"]
    spawned = len(records.of_kind("spawned"))
    assert spawned == 5
    for cut in range(3, len(records.kept)):
        again, more = resumed(records.kept[:cut], driver=model, hooks=hooks)
        assert again.unwrap() == ["saw b", "saw b"], cut
        assert len(more.of_kind("spawned")) == spawned, cut


class LeavingHelp(Hooks):
    """Starts an agent with each request that goes on by itself."""

    async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> CompletionRequest:
        assert isinstance(ctx, AgentContext)
        await ctx.spawn(slow_helper)
        return request


async def slow_helper(ctx: Any) -> None:
    await trio.sleep(100)
    DONE.append("helped")


def test_agents_that_a_hook_left_at_work_go_on_though_its_call_is_not_made_again() -> None:
    model = Model(ToolCall("2", "look", {"what": "b"}))
    _, records = run(AGENT, "go", driver=model, hooks=[LeavingHelp()])
    replied = [n for n, record in enumerate(records.kept) if record.data.get("is") == "replied"]
    forget()
    again, _ = resumed(records.kept[: replied[-1] + 1], driver=model, hooks=[LeavingHelp()])
    assert text_of(again) == "saw b"
    assert DONE == ["helped"]  # the first had ended: there are two slots


def test_a_journal_that_breaks_is_no_error_of_a_tool() -> None:
    records = Records(broken_after=3)
    seen: list[ToolResult] = []

    class Looking(Hooks):
        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            seen.append(await proceed(call))
            return ToolResult("all is well")

    async def main() -> None:
        async with open_agent_pool(MODEL, max_concurrent=2, journal=records, hooks=[Looking()]) as pool:
            await (await pool.spawn(AGENT, "go")).wait()

    with pytest.raises(JournalError):
        in_virtual_time(main)
    assert DONE == []


# -- agents with hooks in a journal ---------------------------------------------------------------------


class Stateless(Hooks):
    async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
        return ToolResult(f"{result.text}?", result.is_error)


@attrs.frozen
class WithFields(Hooks):
    mark: str

    async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
        return ToolResult(f"{result.text}{self.mark}", result.is_error)


def test_an_agents_hooks_are_kept_with_it() -> None:
    agent = ModelAgent(AgentManifest(name="a"), tools=[look], hooks=[Stateless(), WithFields("!")])
    model = Model(ToolCall("2", "look", {"what": "b"}))
    outcome, records = run(agent, "go", driver=model)
    assert text_of(outcome) == "saw b!?"
    cut = next(n for n, record in enumerate(records.kept) if record.kind == "called")
    again, _ = resumed(records.kept[:cut], driver=model)
    assert text_of(again) == "saw b!?"


def test_an_agent_whose_hooks_cannot_be_kept_is_given_again() -> None:
    class Inner(Hooks):
        async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
            return ToolResult("inner")

    agent = ModelAgent(AgentManifest(name="a"), tools=[look], hooks=[Inner()])
    with pytest.raises(TypeError, match=r"agent 'a' has the hook .*, which a journal cannot keep"):
        agent.to_journal()
    model = Model(ToolCall("2", "look", {"what": "b"}))
    _, records = run(agent, "go", driver=model)
    cut = next(n for n, record in enumerate(records.kept) if record.kind == "called")
    again, _ = resumed(records.kept[:cut], driver=model, agents={"first": agent})
    assert text_of(again) == "inner"
