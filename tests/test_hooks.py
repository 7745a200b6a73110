"""Hooks around model calls and tool calls: what they see, change, refuse, try again, and what they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from pool_kit import pool_of

from agentpool import (
    Aborted,
    AgentContext,
    AgentManifest,
    ApprovalDecided,
    ApprovalRequest,
    ApprovalRules,
    Approved,
    AskModel,
    AssistantMessage,
    Budget,
    BudgetExceededError,
    CallTool,
    Completion,
    CompletionRequest,
    ContentRefusedError,
    Driver,
    DriverUnavailableError,
    Failed,
    HookContext,
    Hooks,
    KeptResults,
    ManifestError,
    ModelAgent,
    OverloadedError,
    SpawnConfig,
    TextDelta,
    TextDeltaReceived,
    TokenUsage,
    ToolCall,
    ToolDefinition,
    ToolError,
    ToolFinished,
    ToolMessage,
    ToolRegistry,
    ToolResult,
    ToolStarted,
    UserMessage,
    tool,
)

USED = TokenUsage(10, 5)


class Model(Driver):
    """Gives its answers in order, and keeps the requests."""

    context_window = 100_000

    def __init__(self, *answers: Completion | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return attrs.evolve(answer, usage=USED)


def calls(*made: ToolCall) -> Completion:
    return Completion(tool_calls=made)


def call(name: str, id: str = "c1", **arguments: Any) -> ToolCall:
    return ToolCall(id, name, arguments)


DONE: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    DONE.clear()


@tool(quick=True)
def add(a: int, b: int) -> int:
    """Add numbers."""
    DONE.append(("add", a, b))
    return a + b


@tool(quick=True)
def wipe(what: str) -> str:
    """Wipe something."""
    DONE.append(("wipe", what))
    return f"wiped {what}"


@tool(quick=True)
def flaky() -> str:
    """Work the third time."""
    DONE.append("flaky")
    if DONE.count("flaky") < 3:
        raise ToolError("not yet")
    return "done"


TOOLS = (add, wipe, flaky)
MANIFEST = AgentManifest(name="a")


async def outcome_of(
    model: Driver,
    *hooks: Hooks,
    agent_hooks: Sequence[Hooks] = (),
    manifest: AgentManifest = MANIFEST,
    tools: Any = TOOLS,
    events: list[Any] | None = None,
    **options: Any,
) -> Any:
    """Run an agent in a pool with hooks, and return its outcome."""
    async with pool_of(1, driver=model, hooks=hooks, **options) as pool:
        agent = SpawnConfig(manifest, "go", tools=tools, hooks=agent_hooks)
        if events is None:
            return await (await pool.spawn(agent)).wait()
        async with pool.events() as subscription:
            outcome = await (await pool.spawn(agent)).wait()
            subscription.close()
            events += [event async for event in subscription]
        return outcome


def results_in(outcome: Any) -> list[ToolMessage]:
    return [each for each in outcome.unwrap().transcript if isinstance(each, ToolMessage)]


def said_in(outcome: Any) -> list[AssistantMessage]:
    return [each for each in outcome.unwrap().transcript if isinstance(each, AssistantMessage)]


ADD = (calls(call("add", a=1, b=2)), Completion("done"))

# -- the order ------------------------------------------------------------------------------------------


class Noting(Hooks):
    """Notes when which of its methods is called."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> CompletionRequest:
        self.log.append(f"{self.name} before")
        return request

    async def around_model_call(
        self, ctx: HookContext, request: CompletionRequest, call: AskModel
    ) -> Completion:
        self.log.append(f"{self.name} in")
        completion = await call(request)
        self.log.append(f"{self.name} out")
        return completion

    async def after_model_call(
        self, ctx: HookContext, request: CompletionRequest, completion: Completion
    ) -> Completion:
        self.log.append(f"{self.name} after")
        return completion

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
        self.log.append(f"{self.name} before {call.name}")
        return call

    async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
        self.log.append(f"{self.name} in {call.name}")
        result = await proceed(call)
        self.log.append(f"{self.name} out {call.name}")
        return result

    async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
        self.log.append(f"{self.name} after {call.name}")
        return result


async def test_the_pools_hooks_stand_outside_and_each_sees_first_what_it_answers_last() -> None:
    log: list[str] = []
    model = Model(Completion("done"))
    await outcome_of(
        model, Noting("p1", log), Noting("p2", log), agent_hooks=[Noting("a1", log), Noting("a2", log)]
    )
    ahead = [f"{name} {step}" for name in ("p1", "p2", "a1", "a2") for step in ("before", "in")]
    back = [f"{name} {step}" for name in ("a2", "a1", "p2", "p1") for step in ("out", "after")]
    assert log == ahead + back


async def test_tool_calls_go_through_hooks_in_the_same_order() -> None:
    log: list[str] = []
    model = Model(*ADD)
    await outcome_of(model, Noting("p", log), agent_hooks=[Noting("a", log)])
    assert [line for line in log if line.endswith("add")] == [
        "p before add", "p in add", "a before add", "a in add",
        "a out add", "a after add", "p out add", "p after add",
    ]  # fmt: skip


async def test_a_plain_hook_changes_nothing() -> None:
    plain, hooked = Model(*ADD), Model(*ADD)
    one, other = await outcome_of(plain), await outcome_of(hooked, Hooks(), Noting("p", []))
    assert one.unwrap() == other.unwrap()
    assert plain.requests == hooked.requests


# -- model calls ----------------------------------------------------------------------------------------


async def test_a_hook_is_not_asked_for_its_repr_by_calls_that_go_well() -> None:
    class Large(Hooks):
        def __repr__(self) -> str:
            DONE.append("repr")
            return "Large()"

        async def around_model_call(
            self, ctx: HookContext, request: CompletionRequest, call: AskModel
        ) -> Completion:
            return await call(request)

        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            return await proceed(call)

    model = Model(calls(call("add", a=1, b=2)), Completion("3"))
    async with pool_of(1, driver=model, hooks=[Large()]) as pool:
        config = SpawnConfig(AgentManifest(name="m"), "go", tools=[add])
        assert (await (await pool.spawn(config)).result()).text == "3"
    assert DONE == [("add", 1, 2)]


async def test_a_changed_request_is_what_is_sent_and_the_transcript_keeps_what_was_said() -> None:
    class Quiet(Hooks):
        async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> CompletionRequest:
            return attrs.evolve(request, system="Be quiet.", messages=(UserMessage("other"),))

    model = Model(Completion("done"))
    outcome = await outcome_of(model, Quiet())
    assert (model.requests[0].system, model.requests[0].messages) == ("Be quiet.", (UserMessage("other"),))
    assert outcome.unwrap().transcript[0] == UserMessage("go")


async def test_a_hook_may_answer_in_the_models_place_and_that_costs_nothing() -> None:
    class Cache(Hooks):
        async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> Completion:
            return Completion("from the cache", usage=TokenUsage(1000, 1000))

        async def after_model_call(
            self, ctx: HookContext, request: CompletionRequest, completion: Completion
        ) -> Completion:
            raise AssertionError("not of its own answer")

    log: list[str] = []
    model = Model()
    outcome = await outcome_of(model, Noting("p", log), Cache(), Noting("inner", log))
    assert outcome.unwrap().text == "from the cache"
    assert outcome.usage.total_tokens == outcome.unwrap().usage.total_tokens == 0
    assert log == ["p before", "p in", "p out", "p after"]


@pytest.mark.parametrize("where", ["before", "around", "after"])
async def test_what_a_hook_raises_around_a_model_call_is_the_agents_failure(where: str) -> None:
    error = ContentRefusedError("not in this house")

    class Refusing(Hooks):
        async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> CompletionRequest:
            if where == "before":
                raise error
            return request

        async def around_model_call(
            self, ctx: HookContext, request: CompletionRequest, call: AskModel
        ) -> Completion:
            if where == "around":
                raise error
            return await call(request)

        async def after_model_call(
            self, ctx: HookContext, request: CompletionRequest, completion: Completion
        ) -> Completion:
            raise error

    outcome = await outcome_of(Model(Completion("done")), Refusing())
    assert isinstance(outcome, Failed)
    assert outcome.error is error
    if where != "around":
        assert error.__notes__ == [f"raised by the hook Refusing.{where}_model_call"]


async def test_each_attempt_of_a_retry_is_counted() -> None:
    class Again(Hooks):
        async def around_model_call(
            self, ctx: HookContext, request: CompletionRequest, call: AskModel
        ) -> Completion:
            await call(request)
            await call(request)
            return Completion("made up", usage=TokenUsage())

    budget = Budget(tokens=100_000)
    outcome = await outcome_of(Model(Completion("1"), Completion("2")), Again(), budget=budget)
    assert outcome.unwrap().usage == USED + USED == outcome.usage
    assert budget.spent.tokens == 30
    assert outcome.unwrap().text == "made up"


async def test_a_retry_finds_no_room_that_the_budget_does_not_have() -> None:
    class Forever(Hooks):
        async def around_model_call(
            self, ctx: HookContext, request: CompletionRequest, call: AskModel
        ) -> Completion:
            while True:
                await call(request)

    model = Model(*[Completion("again")] * 10)
    outcome = await outcome_of(model, Forever(), budget=Budget(calls=3))
    assert isinstance(outcome.error, BudgetExceededError)
    assert len(model.requests) == 3


async def test_a_request_that_asks_for_more_is_set_aside_as_it_is_sent() -> None:
    class Greedy(Hooks):
        async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> CompletionRequest:
            return attrs.evolve(request, max_tokens=1_000_000)

    model = Model(Completion("done"))
    outcome = await outcome_of(model, Greedy(), budget=Budget(tokens=10_000))
    assert isinstance(outcome.error, BudgetExceededError)
    assert model.requests == []


async def test_a_hook_tries_again_what_failed() -> None:
    class Retry(Hooks):
        async def around_model_call(
            self, ctx: HookContext, request: CompletionRequest, call: AskModel
        ) -> Completion:
            try:
                return await call(request)
            except OverloadedError:
                return await call(request)

    outcome = await outcome_of(Model(OverloadedError("busy"), Completion("done")), Retry())
    assert outcome.unwrap().text == "done"
    error = DriverUnavailableError("gone")
    outcome = await outcome_of(Model(error), Retry())
    assert outcome.error is error
    assert not hasattr(error, "__notes__")


async def test_what_was_given_to_call_makes_no_call_once_the_hook_has_returned() -> None:
    kept: list[Any] = []

    class Keeping(Hooks):
        async def around_model_call(
            self, ctx: HookContext, request: CompletionRequest, call: AskModel
        ) -> Completion:
            kept.append((call, request))
            return await call(request)

        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            kept.append((proceed, call))
            return await proceed(call)

    await outcome_of(Model(*ADD), Keeping())
    for late, asked in kept:
        with pytest.raises(RuntimeError, match=r"the hook Keeping\.around_.*_call has returned"):
            await late(asked)
    assert DONE == [("add", 1, 2)]


class Returning(Hooks):
    """Returns something from one of its methods."""

    def __init__(self, where: str, what: Any) -> None:
        self.where = where
        self.what = what

    async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> Any:
        return self.what if self.where == "before_model_call" else request

    async def around_model_call(self, ctx: HookContext, request: CompletionRequest, call: AskModel) -> Any:
        return self.what if self.where == "around_model_call" else await call(request)

    async def after_model_call(
        self, ctx: HookContext, request: CompletionRequest, completion: Completion
    ) -> Any:
        return self.what if self.where == "after_model_call" else completion

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> Any:
        return self.what if self.where == "before_tool_call" else call

    async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> Any:
        return self.what if self.where == "around_tool_call" else await proceed(call)

    async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> Any:
        return self.what if self.where == "after_tool_call" else result


@pytest.mark.parametrize("what", [None, "text", ToolResult("x")])
@pytest.mark.parametrize("where", ["before_model_call", "around_model_call", "after_model_call"])
async def test_a_wrong_value_around_a_model_call_names_the_hook(where: str, what: Any) -> None:
    outcome = await outcome_of(Model(Completion("done")), Returning(where, what))
    assert isinstance(outcome.error, TypeError)
    assert f"the hook Returning.{where} has to return a Completion" in str(outcome.error)
    assert ("it has no `return` for this case" in str(outcome.error)) == (what is None)


@pytest.mark.parametrize("what", [None, "text", Completion("x")])
@pytest.mark.parametrize("where", ["before_tool_call", "around_tool_call", "after_tool_call"])
async def test_a_wrong_value_around_a_tool_call_is_that_calls_error(where: str, what: Any) -> None:
    outcome = await outcome_of(Model(*ADD), Returning(where, what))
    (message,) = results_in(outcome)
    assert message.result.is_error
    assert message.result.text.startswith(f"TypeError: the hook Returning.{where} has to return a Tool")
    assert outcome.unwrap().text == "done"


async def test_a_method_that_is_not_async_is_told_so() -> None:
    class Plain(Hooks):
        def before_model_call(self, ctx: Any, request: Any) -> Any:  # type: ignore[override]
            return request

    outcome = await outcome_of(Model(Completion("done")), Plain())
    assert "the hook Plain.before_model_call is not async: write `async def before" in str(outcome.error)


async def test_a_request_with_a_call_that_has_no_result_is_not_sent() -> None:
    class Cutting(Hooks):
        async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> CompletionRequest:
            messages = [each for each in request.messages if not isinstance(each, ToolMessage)]
            return attrs.evolve(request, messages=messages)

    model = Model(*ADD)
    outcome = await outcome_of(model, Cutting())
    assert isinstance(outcome.error, ValueError)
    assert "the hook Cutting.before_model_call makes a request that cannot be sent" in str(outcome.error)
    assert len(model.requests) == 1


async def test_a_tool_that_a_hook_shows_is_not_granted_by_that() -> None:
    class Showing(Hooks):
        async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> CompletionRequest:
            extra = ToolDefinition("write_file", "Write.", {"type": "object", "properties": {}})
            return attrs.evolve(request, tools=(*request.tools, extra))

    model = Model(calls(call("write_file", path="x", content="y")), Completion("done"))
    (message,) = results_in(await outcome_of(model, Showing()))
    assert message.result.is_error
    assert "there is no tool 'write_file'" in message.result.text


# -- tool calls -----------------------------------------------------------------------------------------


class Changing(Hooks):
    """Makes another call of each call."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
        return attrs.evolve(call, **self.changes)


async def test_changed_arguments_are_called_and_the_transcript_keeps_what_the_model_said() -> None:
    events: list[Any] = []
    outcome = await outcome_of(Model(*ADD), Changing(input={"a": 5, "b": 6}), events=events)
    assert DONE == [("add", 5, 6)]
    assert said_in(outcome)[0].tool_calls == (call("add", a=1, b=2),)
    assert results_in(outcome) == [ToolMessage("c1", "add", ToolResult("11"))]
    started = [event.call for event in events if isinstance(event, ToolStarted)]
    finished = [event.call for event in events if isinstance(event, ToolFinished)]
    assert started == finished == [call("add", a=5, b=6)]


async def test_arguments_that_a_hook_writes_into_do_not_change_the_transcript() -> None:
    class Writing(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            call.input["a"] = 40  # type: ignore[index]
            return call

    outcome = await outcome_of(Model(*ADD), Writing())
    assert DONE == [("add", 40, 2)]
    assert said_in(outcome)[0].tool_calls[0].input == {"a": 1, "b": 2}


@pytest.mark.parametrize("at", ["before", "around"])
async def test_a_hook_cannot_change_the_id_of_a_call(at: str) -> None:
    class Renaming(Hooks):
        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            return await proceed(attrs.evolve(call, id="other"))

    hook = Changing(id="other") if at == "before" else Renaming()
    (message,) = results_in(await outcome_of(Model(*ADD), hook))
    assert message.call_id == "c1"
    assert "changes the id of a call from 'c1' to 'other'" in message.result.text
    assert type(hook).__name__ in message.result.text
    assert DONE == []


async def test_a_hook_may_answer_in_the_tools_place_and_the_result_is_recorded_once() -> None:
    class Refusing(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall | ToolResult:
            return ToolResult("not today", is_error=True) if call.name == "wipe" else call

    model = Model(calls(call("wipe", what="a"), call("add", "c2", a=1, b=2)), Completion("done"))
    events: list[Any] = []
    log: list[str] = []
    outcome = await outcome_of(model, Noting("p", log), Refusing(), events=events)
    assert results_in(outcome) == [
        ToolMessage("c1", "wipe", ToolResult("not today", is_error=True)),
        ToolMessage("c2", "add", ToolResult("3")),
    ]
    assert DONE == [("add", 1, 2)]
    assert "p after wipe" in log
    told = [event for event in events if isinstance(event, ToolStarted | ToolFinished)]
    assert sorted((type(event).__name__, event.call.id) for event in told) == [
        ("ToolFinished", "c1"), ("ToolFinished", "c2"), ("ToolStarted", "c1"), ("ToolStarted", "c2"),
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["before", "around", "after"])
async def test_what_a_hook_raises_around_a_tool_call_is_that_calls_result(where: str) -> None:
    class Refusing(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            if where == "before":
                raise ToolError("no")
            return call

        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            if where == "around":
                raise ToolError("no")
            return await proceed(call)

        async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
            raise ToolError("no")

    seen: list[ToolResult] = []

    class Outer(Hooks):
        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            seen.append(await proceed(call))
            return seen[-1]

    outcome = await outcome_of(Model(*ADD), Outer(), Refusing())
    assert results_in(outcome) == [ToolMessage("c1", "add", ToolResult("no", is_error=True))]
    assert seen == [ToolResult("no", is_error=True)]
    assert ([("add", 1, 2)] if where == "after" else []) == DONE


async def test_a_hook_tries_a_tool_again_and_watchers_see_one_call() -> None:
    keys: list[str] = []

    class Retry(Hooks):
        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            for _ in range(5):
                result = await proceed(call)
                keys.append(ctx.call_key)
                if not result.is_error:
                    break
            return result

    events: list[Any] = []
    model = Model(calls(call("flaky")), Completion("done"))
    outcome = await outcome_of(model, Retry(), events=events)
    assert results_in(outcome) == [ToolMessage("c1", "flaky", ToolResult("done"))]
    assert DONE == ["flaky"] * 3
    assert len(set(keys)) == 1
    told = [type(event) for event in events if isinstance(event, ToolStarted | ToolFinished)]
    assert told == [ToolStarted, ToolFinished]


async def test_a_call_behind_hooks_is_told_in_the_log_as_any(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "agentpool"):
        await outcome_of(Model(*ADD), Noting("p", []))
    told = [record.getMessage() for record in caplog.records]
    assert sum(text.startswith("the tool add ended after") for text in told) == 1


async def test_each_attempt_has_the_whole_time_of_the_tool(autojump_clock: Any) -> None:
    @tool(timeout=10)
    async def slow() -> str:
        """Be slow."""
        await trio.sleep(8)
        raise ToolError("no")

    class Retry(Hooks):
        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            await proceed(call)
            await trio.sleep(100)
            return await proceed(call)

    model = Model(calls(call("slow")), Completion("done"))
    (message,) = results_in(await outcome_of(model, Retry(), tools=[slow]))
    assert message.result == ToolResult("no", is_error=True)


@pytest.mark.parametrize("name", ["write_file", "nothing"])
async def test_a_hook_calls_no_tool_that_is_not_granted(name: str, tmp_path: Path) -> None:
    from agentpool.tools import build_tools, builtin_tools

    class Grants:
        capabilities = AgentManifest(
            name="w", capabilities=[{"type": "file_write", "allowed_paths": [str(tmp_path)]}]
        ).capabilities

    writer = AgentManifest(name="w", capabilities=Grants.capabilities)

    def builder(manifest: AgentManifest) -> ToolRegistry:
        registry = build_tools(manifest)
        for each in (*builtin_tools(writer), add):
            registry.register(each)
        return registry

    hook = Changing(name=name, input={"path": str(tmp_path / "x"), "content": "y"})
    outcome = await outcome_of(Model(*ADD), hook, tools=(), tool_builder=builder)
    (message,) = results_in(outcome)
    assert message.result.is_error
    assert ("does not grant" if name == "write_file" else "there is no tool") in message.result.text
    assert await trio.to_thread.run_sync(lambda: list(tmp_path.iterdir())) == []


async def test_a_call_whose_arguments_were_lost_can_be_mended() -> None:
    class Mending(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            assert call.problem == "no JSON"
            return attrs.evolve(call, input={"a": 1, "b": 1}, problem="")

    model = Model(calls(ToolCall("c1", "add", {}, problem="no JSON")), Completion("done"))
    assert results_in(await outcome_of(model, Mending()))[0].result == ToolResult("2")


async def test_a_hook_sees_a_result_whole_and_what_comes_out_is_cut() -> None:
    lengths: list[int] = []

    class Looking(Hooks):
        async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
            lengths.append(len(result.text))
            return ToolResult("x" * 100_000)

    @tool(quick=True)
    def long() -> str:
        """Return much."""
        return "y" * 90_000

    model = Model(calls(call("long")), Completion("done"))
    (message,) = results_in(await outcome_of(model, KeptResults(total=0), Looking(), tools=[long]))
    assert lengths == [90_000]
    assert len(message.result.text) == 65_536
    assert "cut: the result has 100000 characters" in message.result.text


async def test_calls_of_one_turn_go_through_hooks_side_by_side(autojump_clock: Any) -> None:
    class Slow(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            await trio.sleep(10)
            return call

    model = Model(calls(*[call("add", f"c{n}", a=n, b=n) for n in range(5)]), Completion("done"))
    started = trio.current_time()
    outcome = await outcome_of(model, Slow())
    assert trio.current_time() - started == 10
    assert [(each.call_id, each.result.text) for each in results_in(outcome)] == [
        (f"c{n}", str(2 * n)) for n in range(5)
    ]


async def test_a_hook_without_tools_stands_around_a_call_of_an_agent_without_any() -> None:
    log: list[str] = []
    outcome = await outcome_of(Model(*ADD), Noting("p", log), tools=())
    assert "there is no tool 'add'" in results_in(outcome)[0].result.text
    assert "p after add" in log


# -- approval -------------------------------------------------------------------------------------------

CAREFUL = AgentManifest(name="a", approval=ApprovalRules(ask=("wipe",)))


async def test_what_is_approved_is_the_call_that_is_made() -> None:
    asked: list[ApprovalRequest] = []

    async def approver(request: ApprovalRequest) -> Approved:
        asked.append(request)
        return Approved()

    hook = Changing(name="wipe", input={"what": "all"})
    outcome = await outcome_of(Model(*ADD), hook, manifest=CAREFUL, approver=approver)
    assert [(request.call.name, request.call.input) for request in asked] == [("wipe", {"what": "all"})]
    assert DONE == [("wipe", "all")]
    assert results_in(outcome) == [ToolMessage("c1", "add", ToolResult("wiped all"))]


async def test_a_changed_call_is_refused_by_the_rules_as_any_call() -> None:
    events: list[Any] = []
    hook = Changing(name="wipe", input={"what": "all"})
    outcome = await outcome_of(Model(*ADD), hook, manifest=CAREFUL, events=events)
    assert DONE == []
    assert results_in(outcome)[0].result.text.startswith("Not run: it was denied")
    kinds = [type(event) for event in events]
    assert ApprovalDecided in kinds
    assert ToolStarted not in kinds
    assert ToolFinished not in kinds


async def test_arguments_that_change_while_a_person_decides_are_not_called() -> None:
    held: list[Any] = []

    async def approver(request: ApprovalRequest) -> Approved:
        held[0]["what"] = "everything"
        return Approved()

    class Sly(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            held.append(dict(call.input))
            return attrs.evolve(call, input=held[0])

    model = Model(calls(call("wipe", what="a")), Completion("done"))
    await outcome_of(model, Sly(), manifest=CAREFUL, approver=approver)
    assert DONE == [("wipe", "a")]


async def test_one_decision_holds_for_the_same_call_however_often_it_is_tried_and_for_no_other() -> None:
    asked: list[Any] = []

    async def approver(request: ApprovalRequest) -> Approved:
        asked.append(request.call.input["what"])
        return Approved()

    class Twice(Hooks):
        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            await proceed(call)
            await proceed(call)
            return await proceed(attrs.evolve(call, input={"what": "b"}))

    model = Model(calls(call("wipe", what="a")), Completion("done"))
    await outcome_of(model, Twice(), manifest=CAREFUL, approver=approver)
    assert asked == ["a", "b"]
    assert DONE == [("wipe", "a"), ("wipe", "a"), ("wipe", "b")]


async def test_a_call_with_wrong_arguments_is_put_to_nobody_with_hooks_too() -> None:
    async def approver(request: ApprovalRequest) -> Approved:
        raise AssertionError("nobody is asked")

    events: list[Any] = []
    model = Model(calls(call("wipe")), Completion("done"))
    outcome = await outcome_of(model, Noting("p", []), manifest=CAREFUL, approver=approver, events=events)
    assert "wipe was not called, because its arguments are wrong" in results_in(outcome)[0].result.text
    told = [type(event) for event in events if isinstance(event, ToolStarted | ToolFinished)]
    assert told == [ToolStarted, ToolFinished]


# -- whose hooks ----------------------------------------------------------------------------------------


async def test_children_that_a_model_spawns_have_the_hooks_of_the_agent() -> None:
    log: list[str] = []

    class Naming(Hooks):
        async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> CompletionRequest:
            log.append(f"{ctx.id} below {ctx.parent_id}")
            return request

    model = Model(calls(call("spawn_agent", query="help")), Completion("helped"), Completion("done"))
    manifest = AgentManifest(name="a", capabilities=["spawn"])
    await outcome_of(model, agent_hooks=[Naming()], manifest=manifest)
    assert log == ["1 below 0", "2 below 1", "1 below 0"]


async def test_a_manifest_names_hooks_of_a_module_beside_it(tmp_path: Path) -> None:
    (tmp_path / "guard.py").write_text(
        "from agentpool import Hooks, ToolError\n"
        "class NoWiping(Hooks):\n"
        "    async def before_tool_call(self, ctx, call):\n"
        "        if call.name == 'wipe':\n"
        "            raise ToolError('this house wipes nothing')\n"
        "        return call\n"
        "ready = NoWiping()\n"
    )
    for name in ("NoWiping", "ready"):
        manifest = AgentManifest.from_toml(f'name = "a"\nhooks = ["guard:{name}"]', base=tmp_path)
        model = Model(calls(call("wipe", what="a")), Completion("done"))
        outcome = await outcome_of(model, manifest=manifest)
        assert results_in(outcome)[0].result.text == "this house wipes nothing"


async def test_hooks_that_cannot_be_had_are_findings(tmp_path: Path) -> None:
    (tmp_path / "guards.py").write_text(
        "from agentpool import Hooks\nnumber = 3\nclass Wants(Hooks):\n    def __init__(self, what): pass\n"
    )
    manifest = AgentManifest.from_toml(
        'name = "a"\nhooks = ["guards:number", "guards:Wants", "guards:nope", "nowhere:x"]', base=tmp_path
    )
    outcome = await outcome_of(Model(), manifest=manifest)
    assert isinstance(outcome.error, ManifestError)
    assert [finding.key for finding in outcome.error.findings] == [f"hooks[{n}]" for n in range(4)]
    text = str(outcome.error)
    for part in ("is no hook, but 3", "cannot be made without arguments", "has no 'nope'", "no module"):
        assert part in text


@pytest.mark.parametrize(
    ("hooks", "told"),
    [
        (Hooks(), "hooks must be a list of Hooks, not .*; write it in brackets"),
        ("guard:x", "hooks must be a list of Hooks, not 'guard:x'"),
        (3, "hooks must be a list of Hooks, not 3"),
        ([Hooks], r"not <class .*; write Hooks\(\.\.\.\)"),
        ([lambda ctx, call: call], "derive its class from agentpool.Hooks"),
    ],
)
async def test_what_is_no_hook_is_refused_where_it_is_given(hooks: Any, told: str) -> None:
    from agentpool import open_agent_pool

    with pytest.raises(TypeError, match=told):
        open_agent_pool(max_concurrent=1, hooks=hooks)
    with pytest.raises(TypeError, match=told):
        ModelAgent(MANIFEST, hooks=hooks)


# -- isolation ------------------------------------------------------------------------------------------

SET_BY_HOOK: ContextVar[str] = ContextVar("set_by_hook", default="")


async def test_what_a_hook_sets_is_seen_by_the_tool_and_by_nobody_after_it() -> None:
    seen: list[str] = []

    class Setting(Hooks):
        async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> CompletionRequest:
            seen.append(SET_BY_HOOK.get())
            SET_BY_HOOK.set("model")
            return request

        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            seen.append(SET_BY_HOOK.get())
            SET_BY_HOOK.set("tool")
            return call

    @tool(quick=True)
    def look() -> str:
        """Look."""
        return SET_BY_HOOK.get()

    outcome = await outcome_of(Model(calls(call("look")), Completion("done")), Setting(), tools=[look])
    assert results_in(outcome)[0].result.text == "tool"
    assert seen == ["", "", ""]


async def test_what_a_hook_leaves_open_is_told_and_harms_nobody(autojump_clock: Any) -> None:
    class Leaving(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            trio.CancelScope(deadline=trio.current_time() + 1).__enter__()
            return call

    class LeavingModel(Hooks):
        async def after_model_call(
            self, ctx: HookContext, request: CompletionRequest, completion: Completion
        ) -> Completion:
            trio.CancelScope(deadline=trio.current_time() + 1).__enter__()
            return completion

    outcome = await outcome_of(Model(*ADD), Leaving())
    assert "the hooks of a call of add: a cancel scope with a deadline left open" in (
        results_in(outcome)[0].result.text
    )
    assert outcome.unwrap().text == "done"
    outcome = await outcome_of(Model(*ADD), LeavingModel())
    assert "the hooks of a model call: a cancel scope" in str(outcome.error)


@pytest.mark.parametrize("where", ["before_model_call", "before_tool_call"])
async def test_an_agent_that_is_aborted_in_a_hook_ends_at_once(autojump_clock: Any, where: str) -> None:
    entered = trio.Event()

    class Waiting(Hooks):
        async def wait(self, ctx: Any, asked: Any) -> Any:
            entered.set()
            await trio.sleep_forever()

    setattr(Waiting, where, Waiting.wait)
    async with pool_of(1, driver=Model(*ADD), hooks=[Waiting()]) as pool:
        handle = await pool.spawn(SpawnConfig(MANIFEST, "go", tools=TOOLS))
        await entered.wait()
        handle.abort("enough")
        assert isinstance(await handle.wait(), Aborted)
    assert DONE == []


@pytest.mark.parametrize("where", ["before_model_call", "before_tool_call", "after_tool_call"])
@pytest.mark.parametrize("fatal", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
async def test_what_is_fatal_leaves_the_pool(where: str, fatal: BaseException) -> None:
    class Fatal(Hooks):
        async def die(self, *args: Any) -> Any:
            raise fatal

    setattr(Fatal, where, Fatal.die)
    with pytest.raises(type(fatal)) as caught:
        await outcome_of(Model(*ADD), Fatal())
    assert caught.value is fatal


async def test_a_hook_that_waits_for_another_agent_lends_the_slot(autojump_clock: Any) -> None:
    class Asking(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            async def helper(ctx: AgentContext) -> str:
                return "7"

            handle = await ctx.spawn(helper)
            return attrs.evolve(call, input={"a": int(await handle.result()), "b": 0})

    assert results_in(await outcome_of(Model(*ADD), Asking()))[0].result.text == "7"


# -- what is streamed -----------------------------------------------------------------------------------


class Streaming(Model):
    """Gives its answers in pieces."""

    def stream(self, request: CompletionRequest) -> Any:
        from contextlib import asynccontextmanager

        @asynccontextmanager
        async def stream() -> Any:
            async def parts() -> Any:
                completion = await self.complete(request)
                for word in completion.text.split():
                    yield TextDelta(word)
                yield completion

            async with aclosing(parts()) as iterator:
                yield iterator

        return stream()


class Shouting(Hooks):
    async def after_model_call(
        self, ctx: HookContext, request: CompletionRequest, completion: Completion
    ) -> Completion:
        return attrs.evolve(completion, text=completion.text.replace("secret", "######"))


class ShoutingAtOnce(Shouting):
    streams = True


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        (Shouting(), ["a ######"]),
        (ShoutingAtOnce(), ["a", "secret"]),
        (Hooks(), ["a", "secret"]),
        (Returning("before_model_call", Completion("mine")), ["mine"]),
    ],
)
async def test_text_that_a_hook_may_change_is_told_behind_it(hook: Hooks, told: list[str]) -> None:
    events: list[Any] = []
    await outcome_of(Streaming(Completion("a secret")), hook, events=events)
    assert [event.text for event in events if isinstance(event, TextDeltaReceived)] == told
