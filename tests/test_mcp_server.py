"""The MCP server: what clients of both generations see of a fleet, over pipes and over HTTP."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio

pytest.importorskip("mcp")
pytest.importorskip("hypercorn")

from mcp.shared.exceptions import MCPError
from mcp_server_kit import (
    LEGACY,
    MODERN,
    Slow,
    both_eras,
    both_transports,
    client_of,
    fleet_of,
    function_agent,
    pool_for,
    scripted_agent,
    served_lines,
    text_of,
)

from agentpool import AgentContext, AgentResult, Completed, Document, Image
from agentpool._core.usage import NO_USAGE
from agentpool.mcp_server import _calls
from agentpool.mcp_server._answers import answer_of
from agentpool.mcp_server._tools import served_tools

pytestmark = pytest.mark.processes


async def repeat(ctx: AgentContext, text: str, times: int = 2) -> str:
    """Say it again.

    Args:
      text: what to say.
      times: how often.
    """
    return text * times


async def failing(ctx: AgentContext) -> str:
    raise ValueError("no such page")


async def stopped(ctx: AgentContext) -> str:
    raise ExceptionGroup("both", [ValueError("one"), OSError("two")])


async def wordy(ctx: AgentContext) -> str:
    raise ValueError("x" * 10_000)


async def parent(ctx: AgentContext) -> str:
    await ctx.spawn(failing)
    return "not told"


WRITER = scripted_agent("my writer!", {"text": "You said {query}"}, query="hello", description="Writes.")
ASKED = scripted_agent("asked", {"text": "You asked {query}"})


@both_transports
@both_eras
async def test_each_agent_is_a_tool_and_a_call_is_answered_by_its_text(transport: str, era: str) -> None:
    async with pool_for() as pool:
        fleet = fleet_of(repeat, WRITER, ASKED)
        async with client_of(transport, era, pool, fleet) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert list(tools) == ["repeat", "my_writer", "asked"]
            assert tools["my_writer"].title == "my writer!"
            assert tools["my_writer"].description == "Writes."
            assert tools["repeat"].description == "Say it again."
            assert tools["repeat"].input_schema["properties"]["times"]["default"] == 2
            assert tools["my_writer"].input_schema["properties"]["query"]["default"] == "hello"
            assert tools["asked"].input_schema["required"] == ["query"]
            assert text_of(await client.call_tool("repeat", {"text": "ab"})) == "abab"
            assert text_of(await client.call_tool("my_writer", {})) == "You said hello"
            assert text_of(await client.call_tool("my_writer", {"query": "hi"})) == "You said hi"
            answer = await client.call_tool("asked", {"query": "why"})
            assert text_of(answer) == "You asked why"
            assert answer.meta is not None
            assert answer.meta["agentpool/usage"]["input_tokens"] >= 0
            assert not answer.is_error


AT_FAULT = fleet_of(failing, stopped, wordy, parent, repeat, ASKED)


@both_transports
@both_eras
async def test_what_fails_is_a_result_that_a_model_can_read(transport: str, era: str) -> None:
    """Errors of tools as protocol errors (adamw7/tools#450), null arguments (KeeperHub/keeperhub#2108),
    arguments that do not exist and were ignored (erikdarlingdata/PerformanceMonitor#3870)."""
    async with pool_for() as pool:
        async with client_of(transport, era, pool, AT_FAULT) as client:
            for name, arguments, told in (
                ("failing", None, "ValueError: no such page"),
                ("stopped", {}, "both"),
                ("wordy", {}, "... (10,012 characters)"),
                ("parent", {}, "ValueError: no such page"),
                ("repeat", {"text": "a", "times": "b"}, "times: should be a valid integer"),
                ("repeat", None, "text: is missing"),
                ("asked", None, "query: is missing"),
                ("asked", {"query": None}, "query: is missing"),
                ("asked", {"query": 3}, "query: must be a string, not 3"),
                ("asked", {"query": "  "}, "query: is blank"),
                ("asked", {"query": "a", "limit": 2}, "'limit' is no argument of this tool"),
            ):
                answer = await client.call_tool(name, arguments)
                assert answer.is_error, name
                assert told in text_of(answer)
            with pytest.raises(MCPError, match=r"there is no tool 'nope'\. The tools are: failing, stopped"):
                await client.call_tool("nope", {})
            assert not (await client.call_tool("repeat", {"text": "it lives"})).is_error


@both_transports
@both_eras
async def test_cancelling_a_call_aborts_its_agent_and_what_it_spawned(transport: str, era: str) -> None:
    """Work that goes on after the cancel (openai/codex#26956, aaif-goose/goose#3782)."""
    slow = Slow()
    async with pool_for() as pool:
        async with client_of(transport, era, pool, fleet_of(slow.slow, repeat)) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call_tool, "slow", {})
                await slow.begun.wait()
                nursery.cancel_scope.cancel()
            await slow.cleaned_up()
            assert text_of(await client.call_tool("repeat", {"text": "a"})) == "aa"
            assert pool.active_count == 0


@both_transports
@both_eras
async def test_calls_run_at_the_same_time_and_those_above_the_cap_wait_and_say_so(
    transport: str, era: str
) -> None:
    """Concurrent calls that are made one after the other: here the second is what ends the first."""
    met = trio.Event()
    told: list[str] = []
    seen = trio.Event()

    async def first(ctx: AgentContext) -> str:
        await met.wait()
        return "met"

    async def second(ctx: AgentContext) -> str:
        await seen.wait()
        met.set()
        return "there"

    async def third(ctx: AgentContext) -> str:
        return "at last"

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")
        seen.set()

    answers: dict[str, str] = {}
    async with pool_for(2) as pool:
        async with client_of(transport, era, pool, fleet_of(first, second, third)) as client:

            async def call(name: str, **options: Any) -> None:
                answers[name] = text_of(await client.call_tool(name, {}, **options))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, "first")
                nursery.start_soon(call, "second")
                while pool.active_count < 2:
                    await trio.sleep(0.01)
                await call("third", progress_callback=note)
    assert answers == {"first": "met", "second": "there", "third": "at last"}
    assert told[0] == "waits for a slot: as many agents run as may"


@both_transports
@both_eras
async def test_progress_numbers_grow_and_tell_of_agents_below_too(transport: str, era: str) -> None:
    """Equal numbers (shaun0927/openchrome#954)."""
    told: list[tuple[float, str]] = []
    seen = {2: trio.Event(), 3: trio.Event()}

    async def below(ctx: AgentContext) -> None:
        await seen[ctx.id].wait()

    async def parent(ctx: AgentContext) -> str:
        for _ in range(2):
            await (await ctx.spawn(below)).wait()
        return "done"

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message or ""))
        for number, event in seen.items():
            if message == f"agent {number}: started":
                event.set()

    async with pool_for() as pool:
        async with client_of(transport, era, pool, fleet_of(parent)) as client:
            await client.call_tool("parent", {}, progress_callback=note)
    numbers = [number for number, _ in told]
    assert len(numbers) >= 2
    assert numbers == sorted(set(numbers))


@both_eras
async def test_a_progress_token_of_0_is_one_and_without_a_token_nothing_is_told(era: str) -> None:
    """modelcontextprotocol/python-sdk#176; a token of the server's own: twentyhq/twenty#24559."""
    async with pool_for() as pool:
        async with served_lines(pool, fleet_of(WRITER)) as (lines, _):
            await lines.open(era)
            await lines.call(era, 1, "my_writer", progressToken=0)
            first = await lines.receive()
            assert first is not None
            assert first["method"] == "notifications/progress"
            assert first["params"]["progressToken"] == 0
            await lines.answer_to(1)
            await lines.call(era, 2, "my_writer")
            answer = await lines.receive()
            assert answer is not None
            assert answer["id"] == 2
            await lines.call(era, 3, "my_writer", progressToken=True)
            assert (await lines.receive() or {})["id"] == 3


@both_eras
async def test_structured_answers_are_objects_that_fit_the_schema(era: str) -> None:
    number = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    items = {"type": "array", "items": {"$ref": "#/$defs/Item"}, "$defs": {"Item": {"type": "string"}}}
    one = scripted_agent("one", {"text": '{{"n": 3}}'}, query="q", model={"output_schema": number})
    half = scripted_agent(
        "half", {"text": '{{"n": 1, "t": "\\ud83d"}}'}, query="q", model={"output_schema": number}
    )
    many = scripted_agent("many", {"text": '["a", "b"]'}, query="q", model={"output_schema": items})
    async with pool_for() as pool:
        async with client_of("stdio", era, pool, fleet_of(one, many, half, WRITER)) as client:
            assert (await client.call_tool("half", {})).structured_content == {"n": 1, "t": "\ufffd"}
            assert (await client.call_tool("one", {})).structured_content == {"n": 3}
            answer = await client.call_tool("many", {})
            assert answer.structured_content == {"result": ["a", "b"]}
            assert text_of(answer) == '["a", "b"]'
            assert (await client.call_tool("my_writer", {})).structured_content is None


async def test_pictures_data_and_nothing_of_functions_arrive_as_what_they_are() -> None:
    async def picture(ctx: AgentContext) -> list[Any]:
        paper = Document(b"%PDF", "application/pdf", name="a paper.pdf")
        return ["see", Image(b"\x89PNG", "image/png"), Image(url="https://example.org/a.png"), paper]

    async def data(ctx: AgentContext) -> dict[str, int]:
        return {"n": 1}

    async def nothing(ctx: AgentContext) -> None:
        pass

    async def unsendable(ctx: AgentContext) -> object:
        return object()

    async with pool_for() as pool:
        fleet = fleet_of(picture, data, nothing, unsendable)
        async with client_of("stdio", LEGACY, pool, fleet) as client:
            blocks: list[Any] = (await client.call_tool("picture", {})).content
            assert [block.type for block in blocks] == ["text", "image", "resource_link", "resource"]
            assert blocks[3].resource.uri == "agentpool:///a%20paper.pdf"
            assert text_of(await client.call_tool("data", {})) == '{"n":1}'
            assert text_of(await client.call_tool("nothing", {})) == "ok"
            answer = await client.call_tool("unsendable", {})
            assert answer.is_error
            assert "that JSON cannot carry" in text_of(answer)


async def test_a_landing_at_a_limit_is_told_beside_the_answer() -> None:
    step = {"calls": [{"tool": "remember", "input": {"content": "a"}}]}
    agent = scripted_agent(
        "landing",
        step,
        {"text": "as far as I came"},
        query="q",
        capabilities=[{"type": "memory"}],
        resources={"max_iterations": 1, "on_limit": "answer"},
    )
    async with pool_for() as pool:
        async with client_of("stdio", LEGACY, pool, fleet_of(agent)) as client:
            answer = await client.call_tool("landing", {})
            assert text_of(answer) == "as far as I came"
            assert answer.meta is not None
            assert answer.meta["agentpool/stopped_by"] == "iterations"


def test_an_answer_that_does_not_keep_the_promise_of_a_schema_is_an_error() -> None:
    agent = scripted_agent("one", {"text": "x"}, query="q", model={"output_schema": {"type": "object"}})
    tool = served_tools(fleet_of(agent))["one"]
    result = AgentResult("half an answ", "half an answ", NO_USAGE, 1, 0, ())
    answer = answer_of(tool, Completed(agent_id=1, name="one", parent_id=0, value=result))
    assert answer.is_error
    assert "gave no answer of its schema: half an answ" in text_of(answer)


async def test_what_a_file_fixes_is_neither_seen_nor_changed_by_clients() -> None:
    async def search(ctx: AgentContext, query: str, root: str, deep: bool = False, /) -> str:
        return f"{query} in {root}, {deep}"

    agent = function_agent(search, query="all", args={"root": "/data"})
    async with pool_for() as pool:
        async with client_of("stdio", MODERN, pool, fleet_of(agent)) as client:
            (tool,) = (await client.list_tools()).tools
            assert list(tool.input_schema["properties"]) == ["query", "deep"]
            assert "required" not in tool.input_schema
            assert text_of(await client.call_tool("search", {"deep": True})) == "all in /data, True"
            assert text_of(await client.call_tool("search", {"query": "x"})) == "x in /data, False"
            answer = await client.call_tool("search", {"root": "/etc"})
            assert answer.is_error
            assert "root: is no argument" in text_of(answer)


@both_eras
async def test_an_answer_that_is_too_long_is_an_error_and_a_large_one_arrives(era: str) -> None:
    async def long(ctx: AgentContext, megabytes: int) -> str:
        return "é" * (megabytes * 512 * 1024)

    async with pool_for() as pool:
        async with client_of("stdio", era, pool, fleet_of(long)) as client:
            assert len(text_of(await client.call_tool("long", {"megabytes": 4}))) == 2 * 1024 * 1024
            answer = await client.call_tool("long", {"megabytes": 9})
            assert answer.is_error
            assert "longer than 8,388,608 bytes" in text_of(answer)


async def test_an_agent_that_is_aborted_or_times_out_or_finds_no_pool_is_an_error() -> None:
    slow = Slow()
    hasty = function_agent(Slow().slow, "hasty", timeout=0.05)
    async with pool_for() as pool:
        async with client_of("stdio", LEGACY, pool, fleet_of(slow.slow, hasty)) as client:
            assert "AgentTimeoutError" in text_of(await client.call_tool("hasty", {}))

            async def abort() -> None:
                await slow.begun.wait()
                pool.abort_all("enough")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(abort)
                answer = await client.call_tool("slow", {})
            assert answer.is_error
            assert "agent 'slow' was aborted: enough" in text_of(answer)
            await pool.drain()
            answer = await client.call_tool("slow", {})
            assert answer.is_error
            assert "starts no more agents" in text_of(answer)


async def test_calls_beyond_the_most_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_calls, "MOST_CALLS", 2)
    slow = Slow()
    async with pool_for(1) as pool:
        async with served_lines(pool, fleet_of(slow.slow, repeat)) as (lines, _):
            await lines.initialize()
            await lines.call(LEGACY, 1, "slow")
            await lines.call(LEGACY, 2, "slow")
            await slow.begun.wait()
            await lines.call(LEGACY, 3, "slow")
            answer = await lines.answer_to(3)
            assert answer["result"]["isError"]
            assert "2 calls are under way already" in answer["result"]["content"][0]["text"]


async def test_a_client_that_is_told_reads_at_most_four_lines_a_second(autojump_clock: object) -> None:
    told: list[tuple[float, float, str]] = []

    async def tell(number: float, line: str) -> None:
        told.append((trio.current_time(), number, line))

    teller = _calls.Teller(tell)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(teller.run)
        for n in range(1_000):
            teller.note(f"line\n {n}")
            await trio.sleep(0.001)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(told) <= 5
    assert all(later[0] - sooner[0] >= 0.25 for sooner, later in itertools.pairwise(told))
    assert told[-1][1:] == (1_000.0, "line 999")  # the last word is not lost
