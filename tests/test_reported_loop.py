"""What users of comparable systems reported about their agent loops, put to ours.

Each test names the report that it comes from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from pool_kit import pool_of

from agentpool import (
    AgentContext,
    AgentManifest,
    AgentResult,
    ApprovalRequest,
    ApprovalRules,
    AssistantMessage,
    CallTool,
    Completion,
    CompletionRequest,
    Decision,
    Denied,
    Driver,
    Failed,
    HookContext,
    Hooks,
    LoopHaltedError,
    MalformedReplyError,
    ModelSettings,
    ResourceQuota,
    ScriptedDriver,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    ToolError,
    ToolMessage,
    ToolResult,
    UserMessage,
    as_tool,
    tool,
)
from agentpool._core.messages import ReasoningDelta
from agentpool.abc import StreamPart

USAGE = TokenUsage(10, 5)
PLAIN = AgentManifest(name="a")
NOTHING = Completion(usage=USAGE)
THOUGHTS = Completion(reasoning="I have said all that there is.", usage=USAGE)


@tool
async def look(n: int = 0, seconds: float = 0) -> str:
    """Look."""
    await trio.sleep(seconds)
    return f"seen {n}"


def calls(*numbers: int, text: str = "", **more: Any) -> Completion:
    return Completion(text, [ToolCall(f"c{n}", "look", {"n": n, **more}) for n in numbers], usage=USAGE)


async def outcome_of(driver: Driver, manifest: AgentManifest = PLAIN, **options: Any) -> Any:
    async with pool_of(2, driver=driver) as pool:
        return await (await pool.spawn(SpawnConfig(manifest, "go", tools=[look], **options))).wait()


async def result_of(driver: Driver, manifest: AgentManifest = PLAIN, **options: Any) -> AgentResult[Any]:
    return (await outcome_of(driver, manifest, **options)).unwrap()  # type: ignore[no-any-return]


def limited(**resources: Any) -> AgentManifest:
    return AgentManifest(name="a", resources=ResourceQuota(on_limit="answer", **resources))


# -- empty answers: google/adk-python#5006, vellum-ai/vellum-assistant#25880, nugget/thane-ai-agent#167


async def test_nothing_after_results_of_tools_is_not_the_end(autojump_clock: Any) -> None:
    driver = ScriptedDriver([calls(1), NOTHING, "One was seen."])
    result = await result_of(driver)
    assert (result.text, result.usage) == ("One was seen.", USAGE + USAGE)
    assert AssistantMessage() not in tuple(result.transcript)


# -- lsdefine/GenericAgent#225: asked again and again, up to the limit of turns


async def test_it_is_asked_once_and_not_for_ever(autojump_clock: Any) -> None:
    driver = ScriptedDriver(lambda request: NOTHING)
    outcome = await outcome_of(driver)
    assert isinstance(outcome.error, MalformedReplyError)
    assert (len(driver.requests), outcome.usage) == (2, USAGE + USAGE)


# -- pydantic/pydantic-ai#6403 and #4557, NousResearch/hermes-agent#7968: an earlier text taken for the answer


@pytest.mark.parametrize("empty", [NOTHING, THOUGHTS])
async def test_what_was_said_before_a_call_is_no_answer(empty: Completion, autojump_clock: Any) -> None:
    driver = ScriptedDriver([calls(1, text="I will look that up."), empty, "It is one."])
    assert (await result_of(driver)).text == "It is one."
    driver = ScriptedDriver([calls(1, text="I will look that up."), empty, empty])
    assert isinstance((await outcome_of(driver)).error, MalformedReplyError)


# -- pydantic/pydantic-ai#2480: only thoughts


async def test_thoughts_alone_are_asked_about(autojump_clock: Any) -> None:
    driver = ScriptedDriver([THOUGHTS, "Three."])
    assert (await result_of(driver)).text == "Three."
    assert [message for message in driver.requests[1].messages if isinstance(message, AssistantMessage)] == []


# -- a last turn: langchain-ai/langchain#508, crewAIInc/crewAI#1038, openai/openai-agents-python#844


async def test_at_its_limit_an_agent_gives_what_it_has(autojump_clock: Any) -> None:
    driver = ScriptedDriver([calls(1), calls(2), "One and two."])
    result = await result_of(driver, limited(max_iterations=2))
    assert (result.text, result.stopped_by, result.tool_calls) == ("One and two.", "iterations", 2)


# -- langflow-ai/langflow#10607, langchain-ai/langchainjs#1136: tools are offered that cannot be used any more


async def test_in_the_last_turn_no_tools_are_offered(autojump_clock: Any) -> None:
    model = ModelSettings(tool_choice="required")
    manifest = attrs.evolve(limited(max_iterations=1), model=model)
    driver = ScriptedDriver([calls(1), "One."])
    await result_of(driver, manifest)
    assert [len(request.tools) for request in driver.requests] == [1, 0]
    assert [request.tool_choice for request in driver.requests] == ["required", None]


# -- agentscope-ai/QwenPaw#7775: the last turn falls to the limit that it is for


async def test_the_last_turn_is_not_stopped_by_the_limit_itself(autojump_clock: Any) -> None:
    driver = ScriptedDriver([calls(1), "One."])
    assert (await result_of(driver, limited(max_iterations=1, max_tool_calls=1))).text == "One."


# -- NousResearch/hermes-agent#36239, MiniMax-AI/MiniMax-M2.7#45: the model calls tools all the same


async def test_prose_beside_a_call_in_the_last_turn_is_no_answer(autojump_clock: Any) -> None:
    driver = ScriptedDriver([calls(1), calls(2, text="One last check.")])
    error = (await outcome_of(driver, limited(max_iterations=1))).error
    assert isinstance(error, LoopHaltedError)
    assert (error.limit, error.transcript[-2].text) == ("iterations", "One last check.")  # type: ignore[union-attr]
    assert isinstance(error.transcript[-1], ToolMessage)


# -- huggingface/smolagents#2686: what is checked elsewhere is not checked in the last turn


async def test_the_last_answer_keeps_its_type(autojump_clock: Any) -> None:
    driver = ScriptedDriver([calls(1), "unchecked"])
    error = (await outcome_of(driver, limited(max_iterations=1), output_type=int)).error
    assert isinstance(error, LoopHaltedError)
    assert "did not fit its output type" in error.reason
    good = await result_of(ScriptedDriver([calls(1), "1"]), limited(max_iterations=1), output_type=int)
    assert (good.output, good.stopped_by) == (1, "iterations")


# -- pydantic/pydantic-ai#2681 and #2593: tool calls are bounded exactly, and then there is one last call


async def test_tool_calls_are_bounded_within_a_turn(autojump_clock: Any) -> None:
    driver = ScriptedDriver([calls(1, 2), calls(3, 4), "One and two."])
    result = await result_of(driver, limited(max_tool_calls=3))
    assert (result.text, result.stopped_by, result.tool_calls) == ("One and two.", "tool_calls", 2)


# -- openai/openai-agents-python#719, pydantic/pydantic-ai#931 and #1083: the work is lost with the error


async def test_the_conversation_is_on_the_error(autojump_clock: Any) -> None:
    manifest = AgentManifest(name="a", resources=ResourceQuota(max_iterations=1))
    outcome = await outcome_of(ScriptedDriver([calls(1)]), manifest)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, LoopHaltedError)
    again = await result_of(ScriptedDriver(["It was one."]), history=tuple(outcome.error.transcript))
    assert again.text == "It was one."
    assert [message.result.text for message in again.transcript if isinstance(message, ToolMessage)] == [
        "seen 1"
    ]


# -- incidentfox/incidentfox#22, yonatangross/orchestkit#3796: a part looks like the whole to the parent


async def test_a_parent_is_told_that_its_child_was_stopped(autojump_clock: Any) -> None:
    manifest = AgentManifest(
        name="a", capabilities=["spawn"], resources=ResourceQuota(max_iterations=2, on_limit="answer")
    )

    def answer(request: CompletionRequest) -> Completion | str:
        first = request.messages[0]
        assert isinstance(first, UserMessage)
        turn = sum(isinstance(message, AssistantMessage) for message in request.messages)
        if first.body == "go":
            spawning = ToolCall("1", "spawn_agent", {"query": "look", "name": "child"})
            return Completion("", [spawning], usage=USAGE) if turn == 0 else "done"
        return calls(turn) if request.tools else "Half of it."

    result = await result_of(ScriptedDriver(answer), manifest)
    told = [message.result.text for message in result.transcript if isinstance(message, ToolMessage)]
    assert told == [
        "Half of it.\n\n(agent 2 (child) was stopped at its limit (iterations): it may be incomplete.)"
    ]


# -- openai/openai-agents-python#263, prism-php/prism#857, spring-projects/spring-ai#4649


@pytest.mark.parametrize("choice", ["required", "look"])
async def test_a_forced_call_is_made_once(choice: str, autojump_clock: Any) -> None:
    def obedient(request: CompletionRequest) -> Completion | str:
        return "done" if request.tool_choice == "auto" else calls(len(request.messages))

    driver = ScriptedDriver(obedient)
    manifest = AgentManifest(name="a", model=ModelSettings(tool_choice=choice))
    assert (await result_of(driver, manifest)).text == "done"
    assert [request.tool_choice for request in driver.requests] == [choice, "auto"]


# -- mattpocock/sandcastle#660, agent-tools-org/ai-dispatch#143: thoughts do not count as life


class Thinker(Driver):
    """Thinks for eight minutes before it answers."""

    async def complete(self, request: CompletionRequest) -> Completion:
        raise AssertionError

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        async def parts() -> AsyncIterator[StreamPart]:
            for _ in range(24):
                await trio.sleep(20)
                yield ReasoningDelta("hm")
            yield Completion("42", usage=USAGE)

        yield parts()


async def test_a_model_that_thinks_is_not_idle(autojump_clock: Any) -> None:
    manifest = AgentManifest(name="a", resources=ResourceQuota(idle=30))
    assert (await result_of(Thinker(), manifest)).text == "42"


# -- letta-ai/lettabot#136: several tools of 10 to 20 s each are taken for silence


async def test_tools_one_after_the_other_are_not_idle(autojump_clock: Any) -> None:
    driver = ScriptedDriver([*(calls(n, seconds=20) for n in range(6)), "done"])
    manifest = AgentManifest(name="a", resources=ResourceQuota(idle=30))
    assert (await result_of(driver, manifest)).text == "done"


# -- bigduu/Bamboo-agent#28: a stream that stalls in the middle hangs for good


class Stalling(Driver):
    """Says a word, and no more."""

    async def complete(self, request: CompletionRequest) -> Completion:
        raise AssertionError

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        async def parts() -> AsyncIterator[StreamPart]:
            yield ReasoningDelta("hm")
            await trio.sleep_forever()

        yield parts()


async def test_a_stream_that_stalls_is_given_up(autojump_clock: Any) -> None:
    started = trio.current_time()
    manifest = AgentManifest(name="a", resources=ResourceQuota(idle=30))
    outcome = await outcome_of(Stalling(), manifest)
    assert isinstance(outcome.error, LoopHaltedError)
    assert trio.current_time() - started == 30


# -- JSON among other text


@attrs.frozen
class Code:
    """What is asked for."""

    code: str


PRINT = '{"code": "use `print`"}'
FENCED = '{"code": "```py\\nprint()\\n```"}'


@pytest.mark.parametrize(
    ("text", "code"),
    [
        # langgenius/dify#41958
        (PRINT, "use `print`"),
        (f"Here is `the` result: {PRINT}", "use `print`"),
        # langchain-ai/langchain#9654 and #19646
        (f"Run this:\n```py\nprint()\n```\nand so\n```json\n{FENCED}\n```", "```py\nprint()\n```"),
        (f"```json\n{FENCED}\n```", "```py\nprint()\n```"),
        # guardrails-ai/guardrails#1549
        (f"````json\n{FENCED}\n````", "```py\nprint()\n```"),
        # langchain-ai/langchain#32120 and #40147, admonstrator/zettelrobbe#74
        (f'<think>Maybe {{"code": "no"}}?</think>\n{PRINT}', "use `print`"),
        (f"<think>Hm.</think> <tool_call>\n{PRINT}\n</tool_call>", "use `print`"),
        # CambrianTech/continuum#458
        (f"<think>Hm, {{that}} is hard.\n{PRINT}", "use `print`"),
        # sgl-project/sglang#6441
        (f"Hm.\n</think>\n\n{PRINT}", "use `print`"),
        # ant-design/x#514: a tag that is a part of the answer
        ('{"code": "<think>hm</think>"}', "<think>hm</think>"),
        ('Here: {"code": "<think>hm</think>"}', "<think>hm</think>"),
    ],
)
async def test_json_is_found_without_another_turn(text: str, code: str, autojump_clock: Any) -> None:
    driver = ScriptedDriver([text])
    assert (await result_of(driver, output_type=Code)).output == Code(code)
    schema = {"type": "object", "required": ["code"], "properties": {"code": {"type": "string"}}}
    manifest = AgentManifest(name="a", model=ModelSettings(output_schema=schema))
    assert (await result_of(ScriptedDriver([text]), manifest)).output == {"code": code}


async def test_a_model_is_told_what_a_nursery_of_a_tool_raised(caplog: pytest.LogCaptureFixture) -> None:
    """Of trio's groups the text is "Exceptions from Trio nursery (1 sub-exception)", which helps nobody."""

    async def fails(error: Exception) -> None:
        raise error

    @tool
    async def weather() -> str:
        """Tell the weather."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, ToolError("there is no such city"))
        return "sunny"

    @tool
    async def breaks() -> str:
        """Break."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, ToolError("half a city"))
            nursery.start_soon(fails, ValueError("a bug"))
        return "whole"

    async def child(ctx: AgentContext, query: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, ValueError("no child's play"))

    wanted = {"weather": {}, "breaks": {}, "child": {"query": "q"}}
    calls = [ToolCall(name, name, given) for name, given in wanted.items()]
    driver = ScriptedDriver([Completion(tool_calls=calls), "done"])
    tools = [weather, breaks, as_tool(child, name="child", description="Play.")]
    with caplog.at_level("INFO", "agentpool.loop"):
        async with pool_of(1) as pool:
            agent = SpawnConfig(PLAIN, "go", tools=tools, driver=driver)
            outcome: Any = await (await pool.spawn(agent)).wait()
    said = [each.result.text for each in outcome.value.transcript if isinstance(each, ToolMessage)]
    assert said[0] == "there is no such city"
    assert sorted(said[1].split("; ")) == ["ValueError: a bug", "half a city"]
    assert said[2] == "agent 2 (child) failed: ValueError: no child's play"
    levels = {record.args[0]: record.levelname for record in caplog.records if "failed" in record.message}
    assert levels["weather"] == "INFO"  # what a tool has to say to the model
    assert levels["breaks"] == "WARNING"


@pytest.mark.parametrize("kind", ["async", "approved", "hooked"])
async def test_the_calls_of_a_turn_begin_in_their_order(kind: str) -> None:
    """karthink/gptel#970, pydantic/pydantic-ai#3791, CherryHQ/stella#930: a stack got 3, 2, 1."""
    begun: list[int] = []

    @tool
    async def push(value: int) -> str:
        """Put something on the stack."""
        await trio.lowlevel.checkpoint()
        begun.append(value)
        await trio.sleep(0)
        return f"{value}"

    async def approver(request: ApprovalRequest) -> Decision:
        begun.append(request.arguments["value"])
        await trio.lowlevel.checkpoint()
        return Denied("no")

    class Around(Hooks):
        async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
            await trio.lowlevel.checkpoint()
            return await proceed(call)

    rules = ApprovalRules(ask=("push",) if kind == "approved" else ())
    hooks = [Around()] if kind == "hooked" else []
    for _ in range(20):  # trio begins tasks that are started together in either order
        begun.clear()
        calls = [ToolCall(f"c{n}", "push", {"value": n}) for n in range(7)]
        driver = ScriptedDriver([Completion(tool_calls=calls), "done"])
        async with pool_of(1, approver=approver) as pool:
            agent = SpawnConfig(
                AgentManifest(name="a", approval=rules), "go", tools=[push], driver=driver, hooks=hooks
            )
            await (await pool.spawn(agent)).result()
        assert begun == list(range(7))


async def test_calls_of_a_turn_still_run_at_the_same_time(autojump_clock: trio.abc.Clock) -> None:
    """roackb2/heddle#289."""

    @tool
    async def slow() -> str:
        """Take a while."""
        await trio.sleep(10)
        return "ok"

    calls = [ToolCall(f"c{n}", "slow", {}) for n in range(50)]
    driver = ScriptedDriver([Completion(tool_calls=calls), "done"])
    began = trio.current_time()
    async with pool_of(1) as pool:
        await (await pool.spawn(SpawnConfig(PLAIN, "go", tools=[slow], driver=driver))).result()
    assert trio.current_time() - began == 10


@pytest.mark.parametrize("compaction", ["drop", "summary"])
async def test_tools_that_were_found_are_shown_when_the_search_has_left_the_window(compaction: Any) -> None:
    """openai/codex#34719, anomalyco/opencode#46190, #40901, kirodotdev/KiroCrew#8082, get-bb/bb#3626."""

    def numbered(number: int) -> Any:
        @tool(name=f"mcp__many__tool_{number}")
        async def one(text: str) -> str:
            """Tell the weather."""
            return text

        return one

    shown: list[set[str]] = []

    def reply(request: CompletionRequest) -> Completion | str:
        if not request.tools:
            return "a summary"
        shown.append({each.name for each in request.tools})
        turn = len(shown)
        if turn == 1:
            call = ToolCall("c", "find_tools", {"query": "mcp__many__tool_7"})
        else:
            call = ToolCall("c", "mcp__many__tool_7", {"text": f"{turn}" + "y" * 9000})
        return "done" if turn >= 12 else Completion(tool_calls=[call])

    model = ModelSettings(context_window=9000, max_tokens=500, compaction=compaction)
    async with pool_of(1) as pool:
        agent = SpawnConfig(
            AgentManifest(name="a", model=model),
            "go",
            tools=[numbered(n) for n in range(60)],
            driver=ScriptedDriver([reply] * 40),
        )
        result: Any = await (await pool.spawn(agent)).result()
    assert result.text == "done"
    assert "mcp__many__tool_7" not in shown[0]
    assert all("mcp__many__tool_7" in each for each in shown[1:])
