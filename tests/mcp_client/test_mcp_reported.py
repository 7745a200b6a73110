"""Situations in which users of other MCP clients reported that something went wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

pytest.importorskip("mcp")

from http_kit import Request, go, serving
from mcp_kit import Inside, by_hand, calling, is_alive, manifest, results

from agentpool import McpServer, ToolError, open_agent_pool
from agentpool.tools.mcp import open_server
from agentpool.tools.mcp._mending import answer_to, mend

pytestmark = pytest.mark.processes


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    return Inside(tmp_path / "log")


async def test_one_failing_server_does_not_cost_the_tools_of_the_others() -> None:
    """mastra-ai/mastra#13521, langchain-ai/langchain-mcp-adapters#401, strands-agents/harness-sdk#1481."""
    broken = McpServer("broken", "stdio", ["/no/such/program"], required=False)
    dead = by_hand("die-at-start", name="dead", required=False)
    nobody = McpServer("nobody", "http", url="http://127.0.0.1:1/mcp", required=False)
    servers = manifest(broken, dead, by_hand(), nobody)
    async with open_agent_pool(max_concurrent=1) as pool:
        handle = await pool.spawn(calling(servers, ("mcp__hand__go", {})))
        assert results(await handle.result()) == ["call 1"]


async def test_what_is_printed_on_standard_output_does_not_stop_the_reading() -> None:
    """editor-code-assistant/eca#298, mateaix/mateclaw#226, hustcc/mcp-mermaid#25."""
    async with open_server(by_hand("chatty", "chatty-calls")) as server:
        for n in (1, 2, 3):
            assert (await server.call("go")).text == f"call {n}"


async def test_cancelling_a_call_does_not_kill_its_server(inside: Inside) -> None:
    """QwenLM/qwen-code#11272, openai/codex#26956: the server is told, and goes on."""
    server = by_hand("silent-once", f"log={inside.log}", f"pid={inside.log}")
    async with open_server(server) as opened:
        with trio.move_on_after(0.3):
            await opened.call("go")
        await inside.saw("notifications/cancelled")
        assert (await opened.call("go")).text == "call 2"
    assert len(inside.pids()) == 1


async def test_a_server_that_never_answers_what_was_cancelled_is_no_trouble(inside: Inside) -> None:
    """openai/codex#20925."""
    async with open_server(by_hand("silent", timeout=0.2)) as opened:
        for _ in range(3):
            with pytest.raises(ToolError, match=r"no answer within 0\.2 s"):
                await opened.call("go")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        ("404 Not Found", -32600, "Session not found"),  # anthropics/claude-code#55970
        ("404 Not Found", -32001, "Session not found"),  # punkpeye/mcp-remote#106
        ("400 Bad Request", -32000, "Bad Request: No valid session ID provided"),  # punkpeye/mcp-proxy#14
        ("401 Unauthorized", -32000, "Unauthorized: Session not found"),  # modelcontextprotocol/rust-sdk#559
        ("503 Service Unavailable", -32000, "Unknown session"),  # markmhendrickson/neotoma#1923
    ],
)
async def test_a_server_that_lost_its_sessions_gets_a_new_one(status: str, code: int, message: str) -> None:
    done: list[str] = []
    opened = {"n": 0}

    async def handler(request: Request) -> None:
        if request.method == "initialize":
            opened["n"] += 1
            return await request.usual(f"mcp-session-id: s{opened['n']}")
        if request.method == "tools/call" and opened["n"] == 1:
            error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
            return await request.answer(status, json.dumps(error).encode(), "content-type: application/json")
        if request.method == "tools/call":
            done.append(request.method)
        await request.usual()

    async with serving(handler) as url:
        assert await go(url) == "went"
    assert done == ["tools/call"]


async def test_an_error_of_a_tool_about_sessions_is_not_taken_for_a_lost_one() -> None:
    """The other side of the same: a call that was looked into is not made twice."""
    calls: list[str] = []

    async def handler(request: Request) -> None:
        if request.method == "initialize":
            return await request.usual("mcp-session-id: s1")
        if request.method == "tools/call":
            calls.append(request.method)
            error = {
                "jsonrpc": "2.0",
                "id": request.message["id"],
                "error": {"code": -1, "message": "no session"},
            }
            return await request.answer(
                "200 OK", json.dumps(error).encode(), "content-type: application/json"
            )
        await request.usual()

    async with serving(handler) as url:
        assert "no session" in await go(url)
    assert len(calls) == 1


async def test_a_server_that_installs_itself_first_may_be_given_the_time() -> None:
    """PraisonAI#5099, comfyui-mcp#1447, obot#6185, toolport#230, blockrun-mcp#144: a cold `npx -y`."""
    with pytest.raises(ToolError, match=r"did not answer within 0\.3 s \(start_timeout allows more\)"):
        async with open_server(by_hand("installs=1", start_timeout=0.3)):
            pass
    async with open_server(by_hand("installs=1", start_timeout=30)) as server:
        assert (await server.call("go")).text == "call 1"
    with pytest.raises(ValueError, match=r"McpServer\.start_timeout: is 0"):
        by_hand(start_timeout=0)


async def test_every_page_of_a_list_is_read() -> None:
    """vercel/ai#19240, Factory-AI/factory#7, ag2ai/ag2#3262."""
    async with open_server(by_hand("three-pages")) as server:
        assert [each.own.name for each in server.tools] == ["t0", "t1", "t2"]


async def test_a_last_page_that_leads_to_itself_ends_the_list() -> None:
    """DeusData/codebase-memory-mcp#1247: the list grew to 160 tools, of which 8 were different."""
    async with open_server(by_hand("same-page")) as server:
        assert [each.own.name for each in server.tools] == ["go"]


async def test_names_that_are_too_long_or_unfit_are_made_fit_and_called_by_their_own(tmp_path: Path) -> None:
    """anthropics/claude-code#20643, microsoft/vscode#243602, kolega-ai/kolega-code#581."""
    names = ["synchronize-all-customer-data-across-multiple-systems-and-regions", "files/read.it", "a b", "Ä"]
    definition = tmp_path / "definition.json"
    definition.write_text(json.dumps([{"name": name, "inputSchema": {"type": "object"}} for name in names]))
    server = by_hand(
        f"definition={definition}", "tell-name", name="enterprise-database-management-5b72495d-5e79-4584"
    )
    async with open_server(server) as opened:
        shown = [each.definition.name for each in opened.tools]
        assert len(set(shown)) == len(names)
        assert all(len(name) <= 64 and name.isascii() for name in shown)
        config = calling(manifest(server), *((name, {}) for name in shown))
    async with open_agent_pool(max_concurrent=1) as pool:
        assert results(await (await pool.spawn(config)).result()) == names


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([], '{"a": 1}'),  # ggml-org/llama.cpp#26410, agno-agi/agno#8653
        ([{"type": "text", "text": " "}], ' \n{"a": 1}'),
        ([{"type": "text", "text": "one"}], "one"),  # MoonshotAI/kimi-code#3234: not both
        (
            [{"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}],
            '[audio/wav, 3 bytes, which cannot be shown]\n{"a": 1}',
        ),
        (
            [{"type": "resource", "resource": {"uri": "f://x", "blob": "aGk=", "mimeType": "text/plain"}}],
            "[resource f://x]\nhi",
        ),
        (
            [{"type": "resource", "resource": {"uri": "f://y", "blob": "AAAA"}}],
            '[f://y, application/octet-stream, 3 bytes, which cannot be shown]\n{"a": 1}',
        ),
        (
            [{"type": "image", "data": "?", "mimeType": "image/png"}],
            '[image/png, whose bytes cannot be read]\n{"a": 1}',
        ),
        ([{"type": "image", "data": "", "mimeType": "image/png"}], '[image/png, empty]\n{"a": 1}'),
    ],
)
async def test_what_a_call_came_to_is_told_once(content: Any, told: str) -> None:
    async with open_server(by_hand("parts", f"content={json.dumps(content)}")) as server:
        assert (await server.call("go")).text == told


@pytest.mark.parametrize(
    ("result", "told", "is_error"),
    [
        ({"content": None, "structuredContent": {"id": "u1"}}, '{"id": "u1"}', False),  # agno-agi/agno#10245
        ({"structuredContent": {"rows": 3}}, '{"rows": 3}', False),  # use-agent-os/agent-os#2249
        # calebl/ynab-mcp-server#31
        (
            {"content": [{"type": "error", "text": "no such account"}], "isError": True},
            "no such account",
            True,
        ),
        # use-agent-os/agent-os#2249, BerriAI/litellm#36920: what is fine beside it is not lost
        (
            {"content": [{"type": "widget", "size": 3}, {"type": "text", "text": "fine"}]},
            '{"type": "widget", "size": 3}\nfine',
            False,
        ),
        ({"content": [{"type": "text", "text": "a", "annotations": {"priority": 7}}]}, "a", False),
        (
            {"content": [{"type": "resource_link", "name": "n"}]},
            '{"type": "resource_link", "name": "n"}',
            False,
        ),
        ({"content": [7, "b", None]}, "7\nb\nnull", False),
        ({"content": "just a text", "isError": None}, "just a text", False),
        ({"content": {"type": "text", "text": "one block"}}, "one block", False),
        ({"content": [], "structuredContent": [1, 2]}, "[1, 2]", False),  # naw103/foremerge#28
        ({"content": ["one, two"], "structuredContent": [1, 2]}, "one, two", False),
        # langchain-ai/langchain#40471, openai/openai-agents-python#4224
        ({"content": [], "structuredContent": {"code": "LATE"}, "isError": True}, '{"code": "LATE"}', True),
        (
            {"content": [{"type": "text", "text": "down"}], "structuredContent": {"a": 1}, "isError": True},
            "down",
            True,
        ),
    ],
)
async def test_an_answer_that_is_a_little_wrong_is_told(result: Any, told: str, is_error: bool) -> None:
    async with open_server(by_hand(f"result={json.dumps(result)}")) as server:
        answer = await server.call("go")
    assert (answer.text, answer.is_error) == (told, is_error)


FINE = '"result":{"content":[{"type":"text","text":"fine"}]}'


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        # modelcontextprotocol/python-sdk#1144, Serverless-Devs/agentrun-sdk-python#110: nothing came of the
        # call, or all of its time limit was waited for
        ('{"jsonrpc":"2.0","id":$id,"error":"boom"}', "call 'go': boom"),
        ('{"jsonrpc":"2.0","id":$id,"error":{"code":"E1","message":"boom"}}', "call 'go': boom"),
        ('{"jsonrpc":"2.0","id":$id,"error":{"message":"boom"}}', "call 'go': boom"),
        (
            '{"jsonrpc":"2.0","id":$id,"error":{"code":-32603,"message":null}}',
            """call 'go': {"code": -32603, "message": null}""",
        ),
        ('{"id":$id,"error":"boom"}', "call 'go': boom"),
        ('{"jsonrpc":"2.0","id":$id,"result":"yes"}', '''call 'go': its answer is no result: "yes"'''),
        ('{"jsonrpc":"2.0","id":$id,"result":null}', "call 'go': its answer is no result: null"),
        ('{"jsonrpc":"2.0","id":$id}', "call 'go': its answer is no result: null"),
        # what was done is not lost
        (f'{{"id":$id,{FINE}}}', "fine"),
        (f'{{"jsonrpc":"2.0","id":$id.0,{FINE}}}', "fine"),
        (f'{{"jsonrpc":"2.0","id":"$id",{FINE}}}', "fine"),
        (f'{{"jsonrpc":"2.0","id":$id,"error":null,{FINE}}}', "fine"),
    ],
)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_an_answer_that_is_none_ends_the_call(transport: str, answer: str, told: str) -> None:
    async def handler(request: Request) -> None:
        if request.method != "tools/call":
            return await request.usual()
        body = answer.replace("$id", json.dumps(request.message["id"]))
        await request.answer("200 OK", body.encode(), "content-type: application/json")

    with trio.fail_after(30):  # a call may take 60 s
        if transport == "http":
            async with serving(handler) as url:
                assert await go(url) == told
        else:
            async with open_server(by_hand(f"answer={answer}")) as server:
                try:
                    said = (await server.call("go")).text
                except ToolError as error:
                    said = str(error)
            assert said == told


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        # helidon-io/helidon-mcp#65, strands-agents/harness-sdk#792, modelcontextprotocol/python-sdk#1144
        ('{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"boom"}}', "call 'go': boom"),
        ('{"jsonrpc":"2.0","id":"92a9759e","error":{"code":-32603,"message":"boom"}}', "call 'go': boom"),
        ('{"jsonrpc":"2.0","error":{"code":-32603,"message":"boom"}}', "call 'go': boom"),
        ('{"error":"boom"}', "call 'go': boom"),
        # Neural-Harmonics/vcv-rack-plugin-mcp-server#21, radareorg/radare2-mcp#68
        (f'{{"jsonrpc":"2.0","id":0,{FINE}}}', "fine"),
    ],
)
async def test_the_body_of_an_answer_belongs_to_its_request(answer: str, told: str) -> None:
    async def handler(request: Request) -> None:
        if request.method != "tools/call":
            return await request.usual()
        await request.answer("200 OK", answer.encode(), "content-type: application/json")

    with trio.fail_after(30):
        async with serving(handler) as url:
            assert await go(url) == told


@pytest.mark.parametrize(
    "printed",
    [
        '{"id": $id, "name": "a record", "result": {}}',
        '{"level": "error", "error": "a line of a log"}',
        '{"jsonrpc": "2.0", "id": null, "error": {"code": -32601, "message": "no method notifications/x"}}',
        '{"jsonrpc": "2.0", "id": true, "result": {}}',
        '["jsonrpc"]',
    ],
)
async def test_json_that_is_no_answer_ends_no_call(printed: str) -> None:
    answer = f'{printed}\n{{"jsonrpc":"2.0","id":$id,{FINE}}}'
    async with open_server(by_hand(f"answer={answer}")) as server:
        assert (await server.call("go")).text == "fine"


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"method": "x", "id": 1}', b"[" * 100_000])
def test_what_is_no_answer_to_a_request_stays_as_it_is(body: bytes) -> None:
    assert answer_to(1, body) is body


def test_what_is_nested_too_deeply_is_said_to_be() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    result: dict[str, Any] = {"content": [deep, "b"]}
    mend(result)
    assert [each["text"] for each in result["content"]] == [
        "[something that is nested too deeply to be shown]",
        "b",
    ]


@pytest.mark.parametrize("result", [{}, {"content": 7}, {"content": None}, {"isError": False}])
async def test_an_answer_without_content_breaks_the_protocol(result: Any) -> None:
    async with open_server(by_hand(f"result={json.dumps(result)}")) as server:
        with pytest.raises(ToolError, match="breaks the protocol"):
            await server.call("go")


async def test_a_prompt_with_a_block_of_an_unknown_kind_is_read() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": {"type": "x", "text": "b"}},
    ]
    async with open_server(by_hand(f"result={json.dumps({'messages': messages})}")) as server:
        assert (await server.get_prompt("p")).text == "user:\na\nassistant:\nb"


async def test_a_schema_keeps_its_definitions_and_one_that_is_none_costs_nobody(tmp_path: Path) -> None:
    """open-webui/computer#87, agentscope-ai/QwenPaw#4191, sandialabs/atlas-ui-3#727."""
    schema = {
        "type": "object",
        "properties": {"query": {"$ref": "#/$defs/Query"}},
        "required": ["query"],
        "$defs": {"Query": {"type": "object", "properties": {"limit": {"type": "integer"}}}},
    }
    definition = tmp_path / "definition.json"
    lookup = {"name": "lookup", "inputSchema": {"type": "string", "description": "the title"}}
    definition.write_text(json.dumps([{"name": "list", "inputSchema": schema}, lookup]))
    async with open_server(by_hand(f"definition={definition}")) as server:
        shown = {each.own.name: each.definition.input_schema for each in server.tools}
    assert shown["list"] == schema
    assert shown["lookup"]["type"] == "object"


async def test_sessions_are_closed_in_any_order_and_from_any_task() -> None:
    """modelcontextprotocol/python-sdk#577 and #79: "exit cancel scope in a different task"."""
    async with open_agent_pool(max_concurrent=3) as pool:
        servers = [by_hand(name=f"s{n}") for n in range(3)]
        handles = [
            await pool.spawn(
                calling(
                    manifest(*servers[n:], servers[0]) if n else manifest(*servers), (f"mcp__s{n}__go", {})
                )
            )
            for n in range(3)
        ]
        handles[0].abort()
        for handle in handles[1:]:
            await handle.result()
        handles[0].outcome  # noqa: B018 - it is looked at


async def test_the_child_of_a_wrapper_is_ended_with_it(inside: Inside) -> None:
    """web-infra-dev/midscene#2157, codefuturist/email-mcp#60: `npx` ends, and its child does not."""
    real = by_hand(f"pid={inside.log}", "stubborn").command
    wrapped = McpServer("wrapped", "stdio", ["sh", "-c", f"{' '.join(real)}; true"])
    async with open_server(wrapped) as server:
        assert (await server.call("go")).text == "call 1"
        (pid,) = inside.pids()
    assert not is_alive(pid)
