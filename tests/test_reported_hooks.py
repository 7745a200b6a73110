"""What users of other systems reported about hooks and long results, in their situations."""

from __future__ import annotations

import base64
import json
import logging
import re
import zlib
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from journal_kit import resumed, run
from pool_kit import pool_of

from agentpool import (
    AgentManifest,
    ApprovalRules,
    AskModel,
    CallTool,
    Completion,
    CompletionRequest,
    Driver,
    HookContext,
    Hooks,
    KeptResults,
    ModelAgent,
    OverloadedError,
    Redact,
    SpawnConfig,
    TextDelta,
    TextDeltaReceived,
    TokenUsage,
    ToolCall,
    ToolError,
    ToolMessage,
    ToolResult,
    tool,
)

USED = TokenUsage(10, 5)
DONE: list[Any] = []
Step = Callable[[str], Completion]


@pytest.fixture(autouse=True)
def in_a_temporary_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    DONE.clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


class Model(Driver):
    """Does one step after the other; a step makes a completion of what was told last."""

    def __init__(self, *steps: Step | Completion) -> None:
        self.steps = list(steps)
        self.requests: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        results = [each for each in request.messages if isinstance(each, ToolMessage)]
        step = self.steps.pop(0)
        made = step if isinstance(step, Completion) else step(results[-1].result.text if results else "")
        return attrs.evolve(made, usage=USED)


def calls(*made: ToolCall) -> Completion:
    return Completion(tool_calls=made)


DONE_TEXT = Completion("done")
MANIFEST = AgentManifest(name="a")


@tool(quick=True)
def deploy(where: str, options: dict[str, Any] | None = None) -> str:
    """Deploy something."""
    DONE.append((where, options))
    return f"deployed to {where}"


@tool(quick=True)
def draft(where: str) -> str:
    """Draft something."""
    DONE.append(("draft", where))
    return "drafted"


async def outcome_of(
    model: Driver,
    *hooks: Hooks,
    manifest: AgentManifest = MANIFEST,
    tools: Any = (deploy, draft),
    **more: Any,
) -> Any:
    async with pool_of(1, driver=model, hooks=hooks, **more) as pool:
        return await (await pool.spawn(SpawnConfig(manifest, "go", tools=tools))).wait()


def results_in(outcome: Any) -> list[ToolResult]:
    return [each.result for each in outcome.unwrap().transcript if isinstance(each, ToolMessage)]


DEPLOY = calls(ToolCall("c1", "deploy", {"where": "test", "options": {"fast": False}}))


# -- changed calls --------------------------------------------------------------------------------------


async def test_arguments_that_an_outer_hook_changes_reach_the_tool_through_inner_hooks() -> None:
    """mcp-use/mcp-use#521: what middleware changed was lost, and the call was made with the old ones."""

    class Formatting(Hooks):
        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            return await proceed(attrs.evolve(call, input={**call.input, "where": "formatted"}))

    class Passing(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            return call

        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            return await proceed(call)

    await outcome_of(Model(DEPLOY, DONE_TEXT), Formatting(), Passing())
    assert DONE == [("formatted", {"fast": False})]


async def test_arguments_that_a_hook_writes_into_deep_inside_reach_the_tool() -> None:
    """anomalyco/opencode#26910: a hook wrote into the arguments, read them back, and the tool got the old."""

    class Writing(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            call.input["options"]["fast"] = True
            return call

    outcome = await outcome_of(Model(DEPLOY, DONE_TEXT), Writing())
    assert DONE == [("test", {"fast": True})]
    said = outcome.unwrap().transcript[1].tool_calls[0]
    assert said.input == {"where": "test", "options": {"fast": False}}


@pytest.mark.parametrize("is_outside", [True, False])
async def test_rules_judge_the_call_that_is_made_in_whatever_order_hooks_stand(is_outside: bool) -> None:
    """langchain-ai/langchain#40694: a policy outside judged the harmless call, a hook inside replaced it."""

    class Policy(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            if call.name == "deploy":
                raise ToolError("not by the policy")
            return call

    class Editing(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            return attrs.evolve(call, name="deploy")

    hooks = (Policy(), Editing()) if is_outside else (Editing(), Policy())
    rules = AgentManifest(name="a", approval=ApprovalRules(deny=("deploy",)))
    model = Model(calls(ToolCall("c1", "draft", {"where": "x"})), DONE_TEXT)
    (result,) = results_in(await outcome_of(model, *hooks, manifest=rules))
    assert result.is_error
    assert DONE == []


# -- refused calls --------------------------------------------------------------------------------------


async def test_a_refused_call_has_its_result_and_the_transcript_can_be_sent_again() -> None:
    """anthropics/claude-agent-sdk-typescript#170: a denied call had no result: the next request failed."""

    class Denying(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            if call.input["where"] == "production":
                raise ToolError("it is frozen")
            return call

    many = [ToolCall(f"c{n}", "deploy", {"where": "production" if n % 2 else "test"}) for n in range(4)]
    outcome = await outcome_of(Model(calls(*many), DONE_TEXT), Denying())
    assert [result.is_error for result in results_in(outcome)] == [False, True, False, True]
    again = Model(DONE_TEXT)
    async with pool_of(1, driver=again) as pool:
        agent = ModelAgent(MANIFEST, tools=[deploy])
        await (await pool.spawn(agent, "more", outcome.unwrap().transcript)).wait()
    assert [each.call_id for each in again.requests[0].messages if isinstance(each, ToolMessage)] == [
        "c0",
        "c1",
        "c2",
        "c3",
    ]


def test_a_hook_that_fails_after_a_call_does_not_have_the_call_made_again() -> None:
    """strands-agents/harness-sdk#4338: an error behind finished tools had them run once more."""

    class Breaking(Hooks):
        async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
            raise ValueError("the audit log is gone")

    def model() -> Model:
        return Model(DEPLOY, lambda told: Completion(told))

    agent = ModelAgent(MANIFEST, tools=[deploy])
    outcome, records = run(agent, "go", driver=model(), hooks=[Breaking()])
    assert outcome.unwrap().text == "ValueError: the audit log is gone"
    for cut in range(2, len(records.kept)):
        if any(record.kind == "returned" for record in records.kept[:cut]):
            DONE.clear()
            rest = Model(lambda told: Completion(told))
            again, _ = resumed(records.kept[:cut], driver=rest, hooks=[Breaking()])
            assert again.unwrap().text == "ValueError: the audit log is gone"
            assert DONE == []


async def test_what_a_hook_raises_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """tylerjrbuell/reactive-agents-ts#74: errors of hooks were swallowed, and nobody saw them."""

    class Broken(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            raise KeyError("missing")

    with caplog.at_level(logging.WARNING, "agentpool"):
        (result,) = results_in(await outcome_of(Model(DEPLOY, DONE_TEXT), Broken()))
    assert result.text == "KeyError: 'missing'"
    (record,) = caplog.records
    assert "the tool deploy failed (raised by the hook Broken.before_tool_call): " in record.getMessage()


# -- tried again ----------------------------------------------------------------------------------------


async def test_the_usage_of_an_answer_that_a_hook_threw_away_is_counted() -> None:
    """strands-agents/harness-sdk#3627: a hook asked again, and what the first answer had cost was lost."""

    class Choosy(Hooks):
        async def around_model_call(
            self, ctx: HookContext, request: CompletionRequest, call: AskModel
        ) -> Completion:
            first = await call(request)
            return first if first.text != "bad" else await call(request)

    outcome = await outcome_of(Model(Completion("bad"), Completion("good")), Choosy())
    assert outcome.unwrap().text == "good"
    assert outcome.unwrap().usage == outcome.usage == USED + USED


async def test_a_hook_that_retries_for_ever_is_ended_by_the_agents_time(autojump_clock: Any) -> None:
    """langchain-ai/langchain#33275: a limit of 100 attempts was all that ended a wrong hook."""

    class Busy(Driver):
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.sleep(1)
            raise OverloadedError("busy")

    class Stubborn(Hooks):
        async def around_model_call(
            self, ctx: HookContext, request: CompletionRequest, call: AskModel
        ) -> Completion:
            while True:
                try:
                    return await call(request)
                except OverloadedError:
                    await trio.sleep(1)

    async with pool_of(1, driver=Busy(), hooks=[Stubborn()]) as pool:
        handle = await pool.spawn(SpawnConfig(MANIFEST, "go"), timeout=60)
        assert isinstance((await handle.wait()).error, TimeoutError)  # type: ignore[union-attr]
    assert trio.current_time() <= 61


# -- the order ------------------------------------------------------------------------------------------


async def test_what_two_hooks_wrap_they_unwrap_in_the_other_order() -> None:
    """inngest/inngest-py#232: "after" ran in the order of "before", so that encryption met packed data."""

    class Packing(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            packed = base64.b64encode(zlib.compress(call.input["where"].encode())).decode()
            return attrs.evolve(call, input={**call.input, "where": packed})

        async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
            return ToolResult(zlib.decompress(base64.b64decode(result.text)).decode())

    class Turning(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            return attrs.evolve(call, input={**call.input, "where": call.input["where"][::-1]})

        async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
            return ToolResult(result.text[::-1])

    @tool(quick=True)
    def echo(where: str) -> str:
        """Return it."""
        return where

    model = Model(calls(ToolCall("c1", "echo", {"where": "secret place"})), DONE_TEXT)
    (result,) = results_in(await outcome_of(model, Packing(), Turning(), tools=[echo]))
    assert result.text == "secret place"


@pytest.mark.parametrize("is_outside", [True, False])
async def test_what_keeps_long_results_gets_them_whole_wherever_it_stands(is_outside: bool) -> None:
    """tinyhumansai/openhuman#4464: results were cut before the hook that was to hand them over in full."""

    class Noting(Hooks):
        async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
            return ToolResult(f"noted: {result.text}")

    @tool(quick=True)
    def much() -> str:
        """Return much."""
        return "x" * 200_000

    hooks = [KeptResults(), Noting()]
    model = Model(calls(ToolCall("c1", "much", {})), DONE_TEXT)
    (result,) = results_in(await outcome_of(model, *(hooks if is_outside else hooks[::-1]), tools=[much]))
    assert f"[the result has {200_007 if is_outside else 200_000} characters" in result.text
    assert "[cut:" not in result.text


# -- long results ---------------------------------------------------------------------------------------


async def test_one_long_line_of_json_is_read_to_its_end() -> None:
    """NousResearch/hermes-agent#79818, google-gemini/gemini-cli#6240: lines do not page through one line."""
    rows = [{"id": n, "text": "line\nbreak"} for n in range(8_000)]

    @tool(quick=True)
    def query() -> list[dict[str, Any]]:
        """Return rows."""
        return rows

    pieces: list[str] = []

    def read(told: str) -> Completion:
        found = re.search(r'path="([^"]+)"', told)
        if found is not None:
            pieces.append(found[1])
            model.steps.append(read)
            return calls(ToolCall("r", "read_file", {"path": found[1]}))
        text, _, note = told.partition("\n[characters ")
        pieces.append(text)
        more = re.search(r"go on with offset=(\d+)", note)
        if more is None:
            return DONE_TEXT
        model.steps.append(read)
        return calls(ToolCall("r", "read_file", {"path": pieces[0], "offset": int(more[1])}))

    model = Model(calls(ToolCall("c1", "query", {})), read)
    await outcome_of(model, tools=[query])
    assert json.loads("".join(pieces[1:])) == rows


async def test_the_end_of_a_long_result_is_shown() -> None:
    """agentscope-ai/QwenPaw#5925, anomalyco/opencode#33650: the error at the end was what was cut off."""

    @tool(quick=True)
    def build() -> str:
        """Build."""
        return "compiling\n" * 20_000 + "error: the linker failed\n"

    model = Model(calls(ToolCall("c1", "build", {})), DONE_TEXT)
    (result,) = results_in(await outcome_of(model, tools=[build]))
    assert result.text.endswith("error: the linker failed\n")
    assert result.text.count("compiling") < 2_000


async def test_reading_on_is_not_cut_into_a_file_again() -> None:
    """microsoft/vscode#336210, CherryHQ/stella#9: what read the kept output was itself kept, without end."""

    @tool(quick=True)
    def much() -> str:
        """Return much."""
        return "".join(f"{n:06}" for n in range(50_000))

    def read(told: str) -> Completion:
        found = re.search(r'path="([^"]+)"', told)
        assert found is not None
        return calls(ToolCall("r", "read_file", {"path": found[1], "offset": 0}))

    model = Model(calls(ToolCall("c1", "much", {})), read, DONE_TEXT)
    results = results_in(await outcome_of(model, tools=[much]))
    assert results[1].text.startswith("000000000001")
    assert "[the result has" not in results[1].text
    assert 60_000 < len(results[1].text) < 65_536


# -- what is streamed -----------------------------------------------------------------------------------


class Streaming(Model):
    """Gives its answers in pieces."""

    def stream(self, request: CompletionRequest) -> Any:
        @asynccontextmanager
        async def stream() -> Any:
            completion = await self.complete(request)

            async def parts() -> Any:
                for word in completion.text.split():
                    yield TextDelta(word)
                yield completion

            iterator = parts()
            try:
                yield iterator
            finally:
                await iterator.aclose()

        return stream()


async def test_what_a_guard_blocks_is_seen_by_nobody_who_watches_the_stream() -> None:
    """api7/aisix#466, cisco-ai-defense/defenseclaw#99: pieces were out before the guard had looked."""
    looked: list[str] = []

    class Guard(Hooks):
        async def after_model_call(
            self, ctx: HookContext, request: CompletionRequest, completion: Completion
        ) -> Completion:
            looked.append(completion.text)
            raise ValueError("blocked")

    async with pool_of(1, driver=Streaming(Completion("the launch code")), hooks=[Guard()]) as pool:
        async with pool.events() as events:
            handle = await pool.spawn(SpawnConfig(MANIFEST, "go"))
            assert str((await handle.wait()).error) == "blocked"  # type: ignore[union-attr]
            events.close()
            told = [event async for event in events if isinstance(event, TextDeltaReceived)]
    assert told == []
    assert looked == ["the launch code"]  # BerriAI/litellm#27012: once, though it is streamed


# -- redaction ------------------------------------------------------------------------------------------


async def test_the_arguments_of_earlier_calls_are_sent_without_secrets() -> None:
    """ayunis-core/ayunis-core#802, rehydra-ai/rehydra-sdk#106: texts were cleaned, and arguments were not."""
    model = Model(
        calls(ToolCall("c1", "deploy", {"where": "me@example.org", "options": {"n": 1}})), DONE_TEXT
    )
    await outcome_of(model, Redact([r"\S+@\S+"]))
    assert DONE == [("me@example.org", {"n": 1})]  # NousResearch/hermes-agent#34693: done as it was said
    sent = model.requests[1].messages[1].tool_calls[0]  # type: ignore[union-attr]
    assert sent.input == {"where": "[hidden]", "options": {"n": 1}}
    assert "example.org" not in repr(model.requests[1])


async def test_the_text_of_an_error_out_of_a_hook_inside_is_cleaned_too() -> None:
    """bytedance/deer-flow#5527: a result that came in another way went past the redaction."""

    class Failing(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            raise ToolError("no access for me@example.org")

    (result,) = results_in(await outcome_of(Model(DEPLOY, DONE_TEXT), Redact([r"\S+@\S+"]), Failing()))
    assert result.text == "no access for [hidden]"
