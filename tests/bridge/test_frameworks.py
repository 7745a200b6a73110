"""Agents of other frameworks, which know asyncio only, in a pool: cap, deadline, failures, children.

They run on the models that these frameworks have for tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from ways_in import both_ways, no_thread_is_left

from agentpool import AgentContext, AgentFailedError, AgentTimeoutError, Completed, Failed
from agentpool.bridge import AsyncioAgentContext, asyncio_agent

pytest.importorskip("pydantic_ai")
pytest.importorskip("agents")

import agents as openai_agents
from agents import items as openai_items
from agents.models.interface import Model as OpenAIModel
from agents.tracing import set_tracing_disabled
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel as PydanticTestModel

set_tracing_disabled(True)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with no_thread_is_left():
        yield


class Running:
    """Counts how many runs are in it at once. Three at a time go through: less would hang, more is seen."""

    def __init__(self, together: int) -> None:
        self.now = self.peak = 0
        self._together = together
        self._barrier: asyncio.Barrier | None = None

    async def through(self) -> None:
        self._barrier = self._barrier or asyncio.Barrier(self._together)
        self.now += 1
        self.peak = max(self.peak, self.now)
        await self._barrier.wait()
        for _ in range(5):  # whoever were let in too much would come in now
            await asyncio.sleep(0)
        self.now -= 1


# -- pydantic-ai -----------------------------------------------------------------------------------------


def calls_then_says(tool: str, text: str) -> FunctionModel:
    """A model that calls a tool once, and then says what came of it."""

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        last = messages[-1].parts[-1]
        if isinstance(last, ToolReturnPart):
            return ModelResponse(parts=[TextPart(f"{text} {last.content}")])
        return ModelResponse(parts=[ToolCallPart(tool, {})])

    return FunctionModel(answer)


@both_ways
def test_pydantic_ai_runs_no_more_at_once_than_the_cap(run: Any) -> None:
    running = Running(3)
    inner = PydanticAgent(PydanticTestModel())

    @inner.tool_plain
    async def look_up(word: str) -> str:
        await running.through()
        return word

    @asyncio_agent
    async def reader(ctx: AsyncioAgentContext, number: int) -> str:
        return str((await inner.run(f"page {number}")).output)

    async def body(pool: Any) -> Any:
        return await pool.map(reader, range(9))

    outcomes = run(body, max_concurrent=3)
    assert [outcome.unwrap() for outcome in outcomes] == ['{"look_up":"a"}'] * 9
    assert (running.peak, running.now) == (3, 0)


@both_ways
def test_a_deadline_ends_pydantic_ai_and_its_tools(run: Any) -> None:
    inner = PydanticAgent(PydanticTestModel())
    seen: list[str] = []

    @inner.tool_plain
    async def dawdle(word: str) -> str:
        seen.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("stopped")
        return word

    @asyncio_agent
    async def slow(ctx: AsyncioAgentContext) -> str:
        return str((await inner.run("?")).output)

    async def body(pool: Any) -> Any:
        outcome = await (await pool.spawn(slow, timeout=0.5)).wait()
        assert seen == ["begun", "stopped"]  # when the outcome is known, nothing of it runs
        return outcome

    outcome = run(body, max_concurrent=3)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, AgentTimeoutError)


@both_ways
def test_one_failure_of_pydantic_ai_leaves_the_others(run: Any) -> None:
    inner = PydanticAgent(calls_then_says("divide", "it is"), deps_type=int)

    @inner.tool
    async def divide(context: RunContext[int]) -> float:
        return 12 / context.deps

    @asyncio_agent
    async def divider(ctx: AsyncioAgentContext, by: int) -> str:
        return str((await inner.run("?", deps=by)).output)

    async def body(pool: Any) -> Any:
        return await pool.map(divider, [3, 0, 4])

    first, second, third = run(body, max_concurrent=3)
    assert (first.unwrap(), third.unwrap()) == ("it is 4.0", "it is 3.0")
    assert isinstance(second, Failed)
    assert isinstance(second.error, ZeroDivisionError)


@both_ways
def test_a_tool_of_pydantic_ai_spawns_and_asks_under_a_cap_of_one(run: Any) -> None:
    leaf = PydanticAgent(PydanticTestModel(custom_output_text="leaf"))
    boss = PydanticAgent(calls_then_says("delegate", "they said"), deps_type=AsyncioAgentContext)

    @asyncio_agent
    async def child(ctx: AsyncioAgentContext) -> str:
        return str((await leaf.run("?")).output)

    async def clerk(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            ctx.reply(message, f"{message.content}!")

    @boss.tool
    async def delegate(context: RunContext[AsyncioAgentContext]) -> str:
        ctx = context.deps
        said = await (await ctx.spawn(child)).result()
        answer = await ctx.ask("clerk", said)
        return f"{said} {answer}"

    @asyncio_agent
    async def run_boss(ctx: AsyncioAgentContext) -> str:
        return str((await boss.run("?", deps=ctx)).output)

    async def body(pool: Any) -> Any:
        helper = await pool.spawn(clerk, name="clerk")
        handle = await pool.spawn(run_boss)
        text = await handle.result()
        helper.abort()
        return text

    assert run(body, max_concurrent=1) == "they said leaf leaf!"


@both_ways
def test_a_stream_of_pydantic_ai_that_is_left_early_leaves_nothing(run: Any) -> None:
    inner = PydanticAgent(PydanticTestModel(custom_output_text="one two three four"))

    @asyncio_agent
    async def reader(ctx: AsyncioAgentContext) -> str:
        async with inner.run_stream("?") as result:
            async for text in result.stream_text(delta=True, debounce_by=None):
                return text
        return ""

    async def body(pool: Any) -> Any:
        return await pool.map(reader_of, range(3))

    @asyncio_agent
    async def reader_of(ctx: AsyncioAgentContext, _: int) -> str:
        return await (await ctx.spawn(reader)).result()

    assert [outcome.unwrap() for outcome in run(body, max_concurrent=1)] == ["one "] * 3


# -- openai-agents ----------------------------------------------------------------------------------------


class FakeModel(OpenAIModel):
    """A model as the SDK's documentation has one be made: calls its tool once, and then says a text."""

    def __init__(self, tool: str | None, text: str) -> None:
        self._tool = tool
        self._text = text

    async def get_response(self, *args: Any, **kwargs: Any) -> openai_items.ModelResponse:
        asked = args[1] if len(args) > 1 else kwargs["input"]
        results = [item for item in asked if isinstance(item, dict) and "output" in item]
        output: Any
        if self._tool is None or results:
            said = " ".join([self._text, *(str(item["output"]) for item in results)])
            content = ResponseOutputText(annotations=[], text=said, type="output_text")
            output = ResponseOutputMessage(
                id="m", content=[content], role="assistant", status="completed", type="message"
            )
        else:
            output = ResponseFunctionToolCall(
                arguments="{}", call_id="c", name=self._tool, type="function_call"
            )
        return openai_items.ModelResponse([output], openai_agents.Usage(), None)

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield  # it never comes to that


def sdk_agent(tool: Any = None, text: str = "done") -> openai_agents.Agent[Any]:
    name = None if tool is None else tool.name
    tools = [] if tool is None else [tool]
    return openai_agents.Agent("inner", model=FakeModel(name, text), tools=tools)


@both_ways
def test_openai_agents_run_no_more_at_once_than_the_cap(run: Any) -> None:
    running = Running(3)

    @openai_agents.function_tool
    async def look_up() -> str:
        await running.through()
        return "found"

    inner = sdk_agent(look_up)

    @asyncio_agent
    async def reader(ctx: AsyncioAgentContext, number: int) -> Any:
        return (await openai_agents.Runner.run(inner, f"page {number}")).final_output

    async def body(pool: Any) -> Any:
        return await pool.map(reader, range(9))

    outcomes = run(body, max_concurrent=3)
    assert [outcome.unwrap() for outcome in outcomes] == ["done found"] * 9
    assert (running.peak, running.now) == (3, 0)


@both_ways
def test_a_deadline_ends_openai_agents_and_their_tools(run: Any) -> None:
    # openai/openai-agents-python#3334: tasks of tools were cancelled and not awaited.
    seen: list[str] = []

    @openai_agents.function_tool
    async def dawdle() -> str:
        seen.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append("stopped")
        return "never"

    inner = sdk_agent(dawdle)

    @asyncio_agent
    async def slow(ctx: AsyncioAgentContext) -> Any:
        return (await openai_agents.Runner.run(inner, "?")).final_output

    async def body(pool: Any) -> Any:
        outcome = await (await pool.spawn(slow, timeout=0.5)).wait()
        assert seen == ["begun", "stopped"]
        return outcome

    outcome = run(body, max_concurrent=3)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, AgentTimeoutError)


@both_ways
def test_one_failure_of_openai_agents_leaves_the_others(run: Any) -> None:
    @openai_agents.function_tool(failure_error_function=None)
    async def divide(context: openai_agents.RunContextWrapper[int]) -> str:
        return str(12 / context.context)

    inner = sdk_agent(divide)

    @asyncio_agent
    async def divider(ctx: AsyncioAgentContext, by: int) -> Any:
        return (await openai_agents.Runner.run(inner, "?", context=by)).final_output

    async def body(pool: Any) -> Any:
        return await pool.map(divider, [3, 0, 4])

    first, second, third = run(body, max_concurrent=3)
    assert (first.unwrap(), third.unwrap()) == ("done 4.0", "done 3.0")
    assert isinstance(second, Failed)
    with pytest.raises(AgentFailedError):
        second.unwrap()


@both_ways
def test_a_tool_of_openai_agents_spawns_and_asks_under_a_cap_of_one(run: Any) -> None:
    leaf = sdk_agent(text="leaf")

    @asyncio_agent
    async def child(ctx: AsyncioAgentContext) -> Any:
        return (await openai_agents.Runner.run(leaf, "?")).final_output

    async def clerk(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            ctx.reply(message, f"{message.content}!")

    @openai_agents.function_tool
    async def delegate(context: openai_agents.RunContextWrapper[AsyncioAgentContext]) -> str:
        ctx = context.context
        said = await (await ctx.spawn(child)).result()
        return f"{said} {await ctx.ask('clerk', said)}"

    boss = sdk_agent(delegate, "they said")

    @asyncio_agent
    async def run_boss(ctx: AsyncioAgentContext) -> Any:
        return (await openai_agents.Runner.run(boss, "?", context=ctx)).final_output

    async def body(pool: Any) -> Any:
        helper = await pool.spawn(clerk, name="clerk")
        text = await (await pool.spawn(run_boss)).result()
        helper.abort()
        return text

    assert run(body, max_concurrent=1) == "they said leaf leaf!"


@both_ways
def test_what_openai_agents_leave_running_ends_with_the_agent(run: Any) -> None:
    """A streamed run goes on in a task of the SDK's, whether or not somebody reads it."""
    inner = sdk_agent()
    streams: list[Any] = []

    @asyncio_agent
    async def starter(ctx: AsyncioAgentContext) -> str:
        streams.append(openai_agents.Runner.run_streamed(inner, "?"))
        await asyncio.sleep(0)
        return "gone"

    async def body(pool: Any) -> Any:
        outcome = await (await pool.spawn(starter)).wait()
        assert all(stream.run_loop_task.done() for stream in streams)
        return outcome

    assert isinstance(run(body, max_concurrent=1), Completed)
    assert len(streams) == 1
