"""The MCP server: clients that go away, lines that are wrong, who may come in, what a person is asked."""

from __future__ import annotations

import json
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

pytest.importorskip("mcp")
pytest.importorskip("hypercorn")

import mcp_types as types
from mcp_server_kit import (
    LEGACY,
    MODERN,
    Raw,
    Slow,
    both_eras,
    both_transports,
    call_params,
    client_of,
    fleet_of,
    pool_for,
    scripted_agent,
    served_lines,
    served_url,
    text_of,
)

from agentpool import AgentContext, AgentFinished, ApprovalRequested, Approved, SpawnConfig
from agentpool._serving import listening
from agentpool.mcp_server import (
    ClientApprover,
    _guard,
    _requests,
    _stdio,
    checked_token,
    serve_agents_http,
)
from agentpool.mcp_server._stdio import lines_of

pytestmark = pytest.mark.processes

WRITER = scripted_agent("writer", {"text": "You said {query}"}, query="hello")


# -- who goes away -----------------------------------------------------------------------


@both_eras
async def test_a_client_that_closes_its_end_ends_the_server_and_what_runs(era: str) -> None:
    """Servers that live on: modelcontextprotocol/typescript-sdk#2002, ProxymanApp/Proxyman#2727."""
    slow = Slow()
    async with pool_for() as pool:
        async with served_lines(pool, fleet_of(slow.slow)) as (lines, ended):
            await lines.open(era)
            await lines.call(era, 1, "slow")
            await slow.begun.wait()
            await lines.to_server.aclose()
            await slow.cleaned_up()
            await ended.wait()
        assert pool.active_count == 0


@both_eras
async def test_a_client_that_reads_no_more_ends_the_server(era: str) -> None:
    async with pool_for() as pool:
        async with served_lines(pool, fleet_of(WRITER)) as (lines, ended):
            await lines.open(era)
            await lines.from_server.aclose()
            await lines.call(era, 1, "writer")
            await ended.wait()


@both_eras
async def test_a_request_over_http_that_is_closed_aborts_its_agent(era: str) -> None:
    """caomengxuan666/cxxmcp#68, modelcontextprotocol/java-sdk#1021."""
    slow, other = Slow(), Slow()
    async with pool_for() as pool:
        fleet = fleet_of(slow.slow, scripted_agent("writer", {"text": "here"}, query="q"))
        async with served_url(pool, fleet) as url:
            raw = Raw(url)
            await raw.open(era)
            message = {"id": 1, "method": "tools/call", "params": call_params(era, "slow")}
            stream = await raw.begin_request(era, message)
            await slow.begun.wait()
            assert not other.begun.is_set()
            await stream.aclose()
            await slow.cleaned_up()
            message = {"id": 2, "method": "tools/call", "params": call_params(era, "writer")}
            async with await raw.begin_request(era, message) as stream:
                data = b""
                while b"here" not in data:
                    more = await stream.receive_some()
                    assert more
                    data += more


async def test_a_call_that_was_cancelled_is_not_answered_and_its_response_ends() -> None:
    """openai/codex#20925: there the client waits for good."""
    slow = Slow()
    cancel = {"method": "notifications/cancelled", "params": {"requestId": 1, "reason": "enough"}}
    async with pool_for() as pool:
        fleet = fleet_of(slow.slow, WRITER)
        async with served_lines(pool, fleet) as (lines, _):
            await lines.open(LEGACY)
            await lines.call(LEGACY, 1, "slow")
            await slow.begun.wait()
            await lines.send(cancel, cancel)  # the second comes too late, which is no error
            await slow.cleaned_up()
            await lines.call(LEGACY, 2, "writer")
            answer = await lines.receive()
            assert answer is not None
            assert answer["id"] == 2
        slow.begun, slow.ended, slow.child_ended = trio.Event(), trio.Event(), trio.Event()
        async with served_url(pool, fleet) as url:
            raw = Raw(url)
            await raw.open(LEGACY)
            message = {"id": 1, "method": "tools/call", "params": call_params(LEGACY, "slow")}
            async with await raw.begin_request(LEGACY, message) as stream:
                await slow.begun.wait()
                async with await raw.begin_request(LEGACY, cancel) as other:
                    assert b" 202 " in await other.receive_some()
                await slow.cleaned_up()
                data = b""
                while b"\r\n0\r\n" not in data:  # the last chunk
                    more = await stream.receive_some()
                    assert more
                    data += more
            assert b'"result"' not in data


async def test_a_session_that_is_deleted_ends_what_runs_in_it() -> None:
    """modelcontextprotocol/python-sdk#3300: a session that its client has ended is gone."""
    slow = Slow()
    async with pool_for() as pool, served_url(pool, fleet_of(slow.slow)) as url:
        raw = Raw(url)
        await raw.open(LEGACY)
        message = {"id": 1, "method": "tools/call", "params": call_params(LEGACY, "slow")}
        async with await raw.begin_request(LEGACY, message):
            await slow.begun.wait()
            assert (await raw.status(b"", method="DELETE"))[0] == 200
            await slow.cleaned_up()
        assert (await raw.status(b"{}"))[0] == 404


@both_eras
async def test_one_client_cannot_cancel_the_call_of_another(era: str) -> None:
    slow = Slow()
    async with pool_for() as pool, served_url(pool, fleet_of(slow.slow, WRITER)) as url:
        one, other = Raw(url), Raw(url)
        await one.open(era)
        await other.open(era)
        message = {"id": 7, "method": "tools/call", "params": call_params(era, "slow")}
        async with await one.begin_request(era, message):
            await slow.begun.wait()
            cancel = {"method": "notifications/cancelled", "params": {"requestId": 7}}
            async with await other.begin_request(era, cancel) as stream:
                assert b" 202 " in await stream.receive_some()
            # The other client is served after its cancel was taken in.
            message = {"id": 8, "method": "tools/call", "params": call_params(era, "writer")}
            async with await other.begin_request(era, message) as stream:
                data = b""
                while b"You said" not in data:
                    data += await stream.receive_some()
            assert not slow.ended.is_set()
        await slow.cleaned_up()
        if era == LEGACY:
            assert one.headers["mcp-session-id"] != other.headers["mcp-session-id"]
            assert len(one.headers["mcp-session-id"]) >= 32


@both_transports
async def test_the_end_of_the_server_aborts_what_runs_also_if_clients_hold_on(transport: str) -> None:
    """Ctrl-C that hangs while a client is connected: nubo-db/dynoxide#22."""
    slow = Slow()
    async with pool_for() as pool:
        with trio.CancelScope() as scope:
            async with client_of(transport, LEGACY, pool, fleet_of(slow.slow)) as client:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.call_tool, "slow", {})
                    await slow.begun.wait()
                    scope.cancel()
        assert slow.ended.is_set()
        assert slow.child_ended.is_set()


async def test_a_client_that_does_not_read_a_long_answer_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "LAST_WORDS", 0.05)
    sent = trio.Event()

    async def long(ctx: AgentContext) -> str:
        sent.set()
        return "\x01" * 7_000_000  # 42 MB as JSON, which no buffer takes

    message = {"id": 1, "method": "tools/call", "params": call_params(MODERN, "long")}
    async with AsyncExitStack() as held, pool_for() as pool:
        async with served_url(pool, fleet_of(long)) as url:
            stream = await Raw(url).begin_request(MODERN, message)
            held.push_async_callback(stream.aclose)
            await sent.wait()
            await trio.testing.wait_all_tasks_blocked(0.1)


async def test_a_client_that_leaves_a_long_answer_unread_does_not_hold_up_the_end_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_stdio, "_LAST_WORDS", 0.05)

    async def long(ctx: AgentContext) -> str:
        return "x" * 1_000_000

    async with pool_for() as pool, served_lines(pool, fleet_of(long)) as (lines, ended):
        await lines.call(MODERN, 1, "long")
        await lines.from_server.receive_some(100)
        await lines.to_server.aclose()
        await ended.wait()


# -- what is wrong on the wire -----------------------------------------------------------


@both_eras
async def test_lines_that_are_no_messages_are_answered_and_the_server_lives(era: str) -> None:
    async with pool_for() as pool:
        async with served_lines(pool, fleet_of(WRITER)) as (lines, _):
            await lines.open(era)
            for line, code in (
                (b"{nonsense\n", -32700),
                (b"\xff\xfe\n", -32700),
                (b"[" * 100_000 + b"\n", -32700),
                (b"[1, 2]\n", -32600),
                (b'{"jsonrpc": "1.0", "method": "ping"}\n', -32600),
                (b"x" * 5_000_000 + b"\n", -32600),
            ):
                await lines.send(line)
                answer = await lines.receive()
                assert answer is not None
                assert answer["id"] is None
                assert answer["error"]["code"] == code
            await lines.send(b"\n  \r\n")
            await lines.call(era, 3, "writer")
            assert (await lines.answer_to(3))["result"]["content"][0]["text"] == "You said hello"


@pytest.mark.parametrize(
    ("message", "own"),
    [
        # helidon-io/helidon-mcp#65: who waits for an answer with its id does not know one without
        ({"id": 5, "method": "tools/call", "params": []}, 5),
        ({"id": "five", "method": 7}, "five"),
        ({"jsonrpc": "1.0", "id": 5, "method": "ping"}, 5),
        # modelcontextprotocol/python-sdk#2057, googleapis/mcp-toolbox#3464: nobody was answered
        ({"id": None, "method": "tools/list"}, None),
        ({"id": 5.0, "method": "tools/list"}, None),
        ({"id": True, "method": "tools/list"}, None),
        # an answer that is none could have the id of a request of the client's own
        ({"id": 5}, None),
    ],
)
async def test_a_request_that_is_none_is_answered_with_its_id(message: Any, own: Any) -> None:
    async with pool_for() as pool, served_lines(pool, fleet_of(WRITER)) as (lines, _):
        await lines.initialize()
        await lines.send(message)
        answer = await lines.receive()
        assert answer is not None
        assert (answer["id"], answer["error"]["code"]) == (own, types.INVALID_REQUEST)
        await lines.call(LEGACY, 6, "writer")
        assert (await lines.answer_to(6))["result"]["content"]


async def test_a_flood_without_a_line_end_is_not_kept() -> None:
    ours, theirs = socket.socketpair()
    flood = b"x" * 65_536
    most_kept = 0

    async def send() -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        async with stream:
            for _ in range(200):
                await stream.send_all(flood)
            await stream.send_all(b"\nnext\nlast")

    import tracemalloc

    with ours:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            tracemalloc.start()
            found = [line async for line in lines_of(ours.fileno(), most=100_000)]
            most_kept = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert found == [None, b"next", b"last"]
    assert most_kept < 2_000_000  # of 13 MB


async def test_standard_input_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"one\ntwo\n")
    with file.open("rb") as opened:
        assert [line async for line in lines_of(opened.fileno())] == [b"one", b"two"]


# -- who may come in ---------------------------------------------------------------------


async def test_pages_of_other_sites_other_paths_and_endless_bodies_are_refused() -> None:
    """DNS rebinding: apify/mcpc#303."""
    async with pool_for() as pool, served_url(pool, fleet_of(WRITER)) as url:
        raw = Raw(url)
        port = raw.port
        for status, options in (
            (421, {"host": "evil.example"}),
            (421, {"host": f"evil.example:{port}"}),
            (421, {"host": f"127.0.0.1.evil.example:{port}"}),
            (421, {"host": "127.0.0.1:port"}),
            (421, {"host": f"localhost:{port}@evil.example"}),
            (403, {"origin": "http://evil.example"}),
            (403, {"origin": "null"}),
            (403, {"origin": f"http://localhost.evil.example:{port}"}),
            (404, {"path": "/"}),
            (404, {"path": "/mcp/x"}),
            (413, {"length": 5_000_000}),
            (400, {"content_type": "text/plain"}),
            (406, {"accept": "text/html"}),
            (400, {}),
        ):
            assert (await raw.status(**options))[0] == status, options  # type: ignore[arg-type]
        for options in (
            {"host": f"localhost:{port}"},
            {"host": "[::1]"},
            {"origin": "http://localhost:6274"},
        ):
            assert (await raw.status(**options))[0] == 400, options  # type: ignore[arg-type]
        assert (await raw.status(b"{nonsense"))[0] == 400
        assert (await raw.status(b"{nonsense", mcp_protocol_version=MODERN))[0] == 400
        await raw.open(LEGACY)  # it lives


async def test_a_request_that_does_not_come_to_its_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_guard, "BODY_SECONDS", 0.05)
    async with pool_for() as pool, served_url(pool, fleet_of(WRITER)) as url:
        for era in (LEGACY, MODERN):
            headers = {"mcp_protocol_version": MODERN} if era == MODERN else {}
            async with await Raw(url).begin(b"{", length=100, **headers) as stream:
                while await stream.receive_some():
                    pass


async def test_a_token_is_asked_for_and_where_others_reach_the_address_there_has_to_be_one() -> None:
    token = "a-token-of-enough-letters"
    async with pool_for() as pool:
        async with served_url(pool, fleet_of(WRITER), host="0.0.0.0", token=token) as url:
            raw = Raw(url)
            given = {"authorization": f"Bearer {token}"}
            for status, options in (
                (401, {}),
                (401, {"authorization": token}),
                (401, {"authorization": f"Basic {token}"}),
                (401, {"authorization": f"Bearer {token}x"}),
                (403, {**given, "origin": "http://evil.example"}),
                (400, given),
                (400, {**given, "host": "any.example", "origin": "http://any.example"}),
            ):
                assert (await raw.status(**options))[0] == status, options  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"other machines reach 0\.0\.0\.0"):
            await serve_agents_http(pool, fleet_of(WRITER), host="0.0.0.0")
    for bad in ("short", "a token with some spaces", "tökens-need-to-be-ascii", ""):
        with pytest.raises(ValueError, match="a token needs at least 16"):
            checked_token(bad, "127.0.0.1")
    assert checked_token(None, "localhost") is None


async def test_a_port_in_use_is_an_error_of_the_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with pool_for() as pool:
            with pytest.raises(OSError, match="in use"):
                await serve_agents_http(pool, fleet_of(WRITER), port=taken.getsockname()[1])


# -- what a person is asked --------------------------------------------------------------


def asking_agent() -> Any:
    step = {"calls": [{"tool": "remember", "input": {"content": "a secret plan"}}]}
    return scripted_agent(
        "asking",
        step,
        {"text": "{results[0]}"},
        query="q",
        capabilities=[{"type": "memory"}],
        approval={"ask": ["remember"]},
    )


@both_transports
@both_eras
async def test_tool_calls_that_need_a_person_are_put_to_the_client(transport: str, era: str) -> None:
    said = {"action": "accept", "content": {"approve": True}}
    asked: list[str] = []

    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(**said)

    approver = ClientApprover()
    async with pool_for(approver=approver) as pool:
        options = {"approver": approver, "elicitation_callback": elicit}
        async with client_of(transport, era, pool, fleet_of(asking_agent()), **options) as client:
            answer = text_of(await client.call_tool("asking", {}))
            assert "denied" not in answer.lower()
            assert "Agent 'asking' wants to call 'remember'" in asked[0]
            assert '"content": "a secret plan"' in asked[0]
            said.update(content={"approve": False, "reason": "not today"})
            assert "not today" in text_of(await client.call_tool("asking", {}))
            said.update(action="decline", content={"approve": True})
            assert "the person did not approve of it" in text_of(await client.call_tool("asking", {}))
    assert len(asked) == 3


@both_eras
async def test_agents_that_waited_for_a_slot_ask_their_own_client_and_others_are_denied(era: str) -> None:
    asked: list[str] = []

    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"approve": True})

    approver = ClientApprover()
    answers: list[str] = []
    async with pool_for(1, approver=approver) as pool:
        options = {"approver": approver, "elicitation_callback": elicit}
        async with client_of("stdio", era, pool, fleet_of(asking_agent()), **options) as client:

            async def call() -> None:
                answers.append(text_of(await client.call_tool("asking", {})))

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(call)
                # One of the program's own, for which no client answers.
                own = await pool.spawn(SpawnConfig(asking_agent().manifest, "own"))
                assert "the client cannot ask one" in (await own.result()).text
    assert len(asked) == 5
    assert len(answers) == 5
    assert not any("person" in answer for answer in answers)


async def test_questions_that_come_up_meanwhile_are_asked_in_the_next_round() -> None:
    asked: list[str] = []
    first, second = trio.Event(), trio.Event()

    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        asked.append(params.message)
        if len(asked) == 1:
            first.set()
            await second.wait()
        return types.ElicitResult(action="accept", content={"approve": True})

    async def parent(ctx: AgentContext) -> str:
        one = await ctx.spawn(SpawnConfig(asking_agent().manifest, "one"))
        await first.wait()
        async with pool.events() as events:
            other = await ctx.spawn(SpawnConfig(asking_agent().manifest, "other"))
            async for event in events:
                if isinstance(event, ApprovalRequested):
                    break
        second.set()
        return " ".join([(await each.result()).text for each in (one, other)])

    approver = ClientApprover()
    async with pool_for(approver=approver) as pool:
        options = {"approver": approver, "elicitation_callback": elicit}
        async with client_of("stdio", MODERN, pool, fleet_of(parent), **options) as client:
            answer = text_of(await client.call_tool("parent", {}))
    assert len(asked) == 2
    assert "approve" not in answer


@both_eras
async def test_a_client_that_cannot_ask_denies(era: str) -> None:
    approver = ClientApprover()
    async with pool_for(approver=approver) as pool:
        async with client_of("stdio", era, pool, fleet_of(asking_agent()), approver=approver) as client:
            assert "the client cannot ask one" in text_of(await client.call_tool("asking", {}))
    with pytest.raises(RuntimeError, match="used by a server already"):
        approver.serve(approver._calls)  # type: ignore[arg-type]
    request: Any = None
    assert await ClientApprover()(request) != Approved()


async def test_an_agent_whose_client_does_not_come_back_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_requests, "ANSWER_WITHIN", 0.05)
    approver = ClientApprover()
    capabilities = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}}
    async with pool_for(approver=approver) as pool:
        async with pool.events() as events:
            async with served_lines(pool, fleet_of(asking_agent()), approver=approver) as (lines, _):
                await lines.call(MODERN, 1, "asking", **capabilities)
                answer = (await lines.answer_to(1))["result"]
                assert answer["resultType"] == "input_required"
                state = answer["requestState"]
                assert len(state) >= 40
                async for event in events:
                    if isinstance(event, AgentFinished):
                        assert "did not come back" in str(event.outcome)
                        break
                params = {**call_params(MODERN, "asking", **capabilities), "requestState": state}
                await lines.send({"id": 2, "method": "tools/call", "params": params})
                answer = (await lines.answer_to(2))["result"]
                assert answer["isError"]
                assert "came too late" in json.dumps(answer)


async def test_the_end_of_the_server_aborts_agents_that_wait_for_an_answer() -> None:
    approver = ClientApprover()
    capabilities = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}}
    async with pool_for(approver=approver) as pool:
        async with served_lines(pool, fleet_of(asking_agent()), approver=approver) as (lines, _):
            await lines.call(MODERN, 1, "asking", **capabilities)
            await lines.answer_to(1)
            (waiting,) = pool.statistics().waiting
            assert waiting.name == "asking"
        assert not pool.statistics().waiting
        assert await pool.join_next() is None
