"""What a driver does on the wire itself: connections, clients, headers, learning, and how it leaves."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx2
import pytest
import trio
from rawserver import STREAM, answer, raw_server, sse

from agentpool import (
    Completion,
    CompletionRequest,
    DriverUnavailableError,
    MalformedReplyError,
    OpenAIDriver,
    PrivacyTier,
    ReasoningDelta,
    RequestRejectedError,
    TextDelta,
    UserMessage,
)
from agentpool.drivers import _http

ASK = CompletionRequest(messages=[UserMessage("hi")], max_tokens=100)


def reply(text: str = "ok", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "c", "model": "m", "choices": [choice], **more}


def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def driver_at(url: str, **more: Any) -> OpenAIDriver:
    return OpenAIDriver("m", base_url=f"{url}/v1", api_key="", **more)


async def parts_of(driver: OpenAIDriver, request: CompletionRequest = ASK) -> list[Any]:
    async with driver.stream(request) as parts:
        return [part async for part in parts]


# -- a server that keeps connections ------------------------------------------------------------


@attrs.define(eq=False)
class Keeping:
    """A server that keeps connections open.

    Attributes:
      connections: how many were opened.
      requests: how many requests came.
      close_after: so many requests of a connection are answered; the next one finds it closed.
    """

    url: str = ""
    connections: int = 0
    requests: int = 0
    close_after: int = 1_000_000
    silent: bool = False


@asynccontextmanager
async def keeping_server(body: bytes, *, close_after: int = 1_000_000) -> AsyncIterator[Keeping]:
    server = Keeping(close_after=close_after)

    async def handle(stream: trio.SocketStream) -> None:
        server.connections += 1
        async with stream:
            for _ in range(server.close_after):
                data = b""
                while b"\r\n\r\n" not in data or not data.endswith(b"}"):
                    more = await stream.receive_some()
                    if not more:
                        return
                    data += more
                server.requests += 1
                if server.silent:
                    return
                await stream.send_all(body)
            # The next request is read, and then the connection ends without a word, as when a
            # server's patience and the client's next call cross on the wire.
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield server
        nursery.cancel_scope.cancel()


WHOLE = json.dumps(reply()).encode()
KEPT = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(WHOLE),
    WHOLE,
)


def chunked(data: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)


async def test_a_connection_is_used_again() -> None:
    streamed = chunked(sse(chunk("a"), chunk("b", "stop"), "[DONE]"))
    for body in (KEPT, streamed):
        async with keeping_server(body) as server, driver_at(server.url) as driver:
            for _ in range(3):
                await driver.complete(ASK)
                await parts_of(driver)
            assert (server.connections, server.requests) == (1, 6)


async def test_a_connection_that_was_closed_meanwhile_is_no_error() -> None:
    async with keeping_server(KEPT, close_after=2) as server, driver_at(server.url) as driver:
        for _ in range(6):
            assert (await driver.complete(ASK)).text == "ok"
        assert server.connections == 3


async def test_a_server_that_hangs_up_on_every_request_is_an_error() -> None:
    async with keeping_server(KEPT) as server, driver_at(server.url) as driver:
        await driver.complete(ASK)
        server.silent = True
        with pytest.raises(DriverUnavailableError, match="disconnected") as caught:
            await driver.complete(ASK)
        assert caught.value.may_have_cost
        assert server.requests <= 1 + 2  # the connection from before, and one new one


async def test_a_stream_whose_server_stays_after_its_end_is_left() -> None:
    body = STREAM + sse(chunk("a", "stop"), "[DONE]")
    async with raw_server(body, stay=True) as server, driver_at(server.url) as driver:
        with trio.fail_after(5):
            assert (await driver.complete(ASK)).text == "a"
            await server.hung_up.wait()


# -- clients, headers, queries, options --------------------------------------------------------------


async def test_a_client_of_the_users_own_is_used_and_stays_open() -> None:
    seen: list[httpx2.Request] = []

    async def sign(request: httpx2.Request) -> None:
        request.headers["x-signed"] = "yes"
        seen.append(request)

    async with raw_server(answer(200, reply())) as server:
        async with httpx2.AsyncClient(event_hooks={"request": [sign]}, headers={"x-mine": "1"}) as client:
            async with driver_at(server.url, client=client) as driver:
                assert driver.privacy is PrivacyTier.STANDARD  # it may go through anybody's proxy
                assert (await driver.complete(ASK)).text == "ok"
            assert not client.is_closed
        head = server.requests[0][0].lower()
    assert "x-signed: yes" in head
    assert "x-mine: 1" in head
    assert len(seen) == 1


async def test_a_client_with_a_transport_that_knows_no_connections() -> None:
    def handle(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=reply("from nowhere"))

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handle)) as client:
        async with driver_at("https://example.org", client=client) as driver:
            assert (await driver.complete(ASK)).text == "from nowhere"
            assert [type(part) for part in await parts_of(driver)] == [TextDelta, Completion]


async def test_headers_query_and_options_go_through() -> None:
    async with raw_server(answer(200, reply())) as server:
        options = {"seed": 7, "metadata": {"a": 1}, "stream_options": None}
        async with driver_at(
            server.url, headers={"Api-Key": "abc"}, query={"api-version": "1"}, options=options
        ) as driver:
            await driver.complete(attrs.evolve(ASK, options={"metadata": {"b": 2}, "max_tokens": 3}))
        head, body = server.requests[0]
    assert head.startswith("POST /v1/chat/completions?api-version=1 HTTP/1.1")
    assert "api-key: abc" in head.lower()
    assert (body["seed"], body["max_tokens"], body["metadata"]) == (7, 3, {"a": 1, "b": 2})
    assert "stream_options" not in body


@pytest.mark.parametrize("value", ["a\nb", "\u00e9", 7])
def test_a_header_that_cannot_be_sent_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="the header 'x' has a value that cannot be sent"):
        OpenAIDriver("m", base_url="http://h", api_key="", headers={"x": value})


async def test_a_credential_in_a_header_or_query_is_shown_nowhere() -> None:
    def echo(head: str, body: Any) -> bytes:
        return answer(401, {"error": {"message": f"no: {head}"}})

    async with raw_server(echo) as server:
        headers = {"Authorization": "Bearer header-credential-123"}
        async with driver_at(server.url, headers=headers, query={"key": "query-credential-123"}) as driver:
            with pytest.raises(RequestRejectedError) as caught:
                await driver.complete(ASK)
            assert "credential" not in f"{caught.value!r} {caught.value.__notes__} {driver!r}"


# -- what is refused is learned ----------------------------------------------------------------------


async def test_a_parameter_is_learned_once_for_its_model_also_by_many_at_once() -> None:
    def pick(head: str, body: Any) -> bytes:
        if "temperature" in body and body["model"] == "m":
            return answer(
                400, {"error": {"message": "Unsupported parameter: 'temperature'", "param": "temperature"}}
            )
        return answer(200, reply())

    warm = attrs.evolve(ASK, temperature=0.5)
    async with raw_server(pick) as server, driver_at(server.url) as driver:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(driver.complete, warm)
        assert len(server.requests) == 10
        await driver.complete(warm)
        assert "temperature" not in server.requests[-1][1]
        await driver.complete(attrs.evolve(warm, model="other"))
        assert "temperature" in server.requests[-1][1]
        assert len(server.requests) == 12


async def test_what_the_user_gave_by_hand_is_never_left_out() -> None:
    refusal = answer(
        400, {"error": {"message": "Unsupported parameter: 'temperature'", "param": "temperature"}}
    )
    async with raw_server(refusal) as server, driver_at(server.url, options={"temperature": 1}) as driver:
        with pytest.raises(RequestRejectedError, match="temperature"):
            await driver.complete(ASK)
        assert len(server.requests) == 1


async def test_a_server_that_refuses_one_thing_after_the_other_is_given_up() -> None:
    def pick(head: str, body: Any) -> bytes:
        name = next(
            (name for name in ("temperature", "stop", "max_tokens", "max_completion_tokens") if name in body),
            "x",
        )
        return answer(400, {"error": {"message": f"Unsupported parameter: {name}", "param": name}})

    async with raw_server(pick) as server, driver_at(server.url) as driver:
        with pytest.raises(RequestRejectedError, match="Unsupported parameter: x"):
            await driver.complete(attrs.evolve(ASK, temperature=0.5, stop=["x"]))
        assert 4 <= len(server.requests) <= 9


# -- answers -------------------------------------------------------------------------------------------


async def test_a_packed_answer_is_unpacked() -> None:
    packed = gzip.compress(json.dumps(reply("packed")).encode())
    async with (
        raw_server(answer(200, packed, content_encoding="gzip")) as server,
        driver_at(server.url) as driver,
    ):
        assert (await driver.complete(ASK)).text == "packed"
    for body, encoding in ((b"\x1f\x8b is no gzip", "gzip"), (b"no deflate", "deflate")):
        broken = answer(200, body, content_encoding=encoding)
        async with raw_server(broken) as server, driver_at(server.url) as driver:
            with pytest.raises(MalformedReplyError, match="cannot be unpacked"):
                await driver.complete(ASK)


async def test_a_stream_under_another_name_is_read_too() -> None:
    body = sse(chunk("He"), chunk("llo", "stop"), "[DONE]")
    async with (
        raw_server(answer(200, body, content_type="text/plain")) as server,
        driver_at(server.url) as driver,
    ):
        assert (await driver.complete(ASK)).text == "Hello"
        assert (await parts_of(driver))[-1].text == "Hello"


async def test_an_answer_at_once_to_who_wants_a_stream() -> None:
    choice = {"index": 0, "message": {"content": "yes", "reasoning": "hm"}, "finish_reason": "stop"}
    async with raw_server(answer(200, {"choices": [choice]})) as server, driver_at(server.url) as driver:
        parts = await parts_of(driver)
    assert parts[:2] == [ReasoningDelta("hm"), TextDelta("yes")]
    assert isinstance(parts[2], Completion)


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b'"x"', b"not json", b""])
async def test_an_answer_that_is_no_object(body: bytes) -> None:
    async with raw_server(answer(200, body)) as server, driver_at(server.url) as driver:
        with pytest.raises(MalformedReplyError):
            await driver.complete(ASK)


async def test_an_error_event_whose_data_is_no_json() -> None:
    body = STREAM + b"event: error\ndata: upstream is gone\n\n"
    async with raw_server(body) as server, driver_at(server.url) as driver:
        with pytest.raises(DriverUnavailableError, match="upstream is gone"):
            await parts_of(driver)


async def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "LARGEST_ANSWER", 1000)
    async with raw_server(answer(200, reply("x" * 5000))) as server, driver_at(server.url) as driver:
        with pytest.raises(MalformedReplyError, match="more than 1,000 bytes"):
            await driver.complete(ASK)


async def test_a_refusal_without_end_is_read_as_far_as_it_is_of_use() -> None:
    body = json.dumps({"error": {"message": "no " * 1_000_000}}).encode()
    async with raw_server(answer(400, body)) as server, driver_at(server.url) as driver:
        with pytest.raises(RequestRejectedError) as caught:
            await driver.complete(ASK)
        assert len(str(caught.value)) < 3000


async def test_a_redirect_is_told_and_not_followed() -> None:
    async with raw_server(answer(308, b"", location="https://elsewhere.example/v1")) as server:
        async with driver_at(server.url) as driver:
            with pytest.raises(RequestRejectedError, match=r"sends us on to https://elsewhere\.example/v1"):
                await driver.complete(ASK)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("base", "hint"), [("/v1", "is the address right\\?"), ("", "a part such as /v1 may be missing")]
)
async def test_a_page_in_the_place_of_an_answer_is_told(base: str, hint: str) -> None:
    page = answer(200, b"<!doctype html><title>My gateway</title>", content_type="text/html")
    async with raw_server(page) as server:
        async with OpenAIDriver("m", base_url=server.url + base, api_key="") as driver:
            with pytest.raises(MalformedReplyError, match=f"the title 'My gateway'.*{hint}"):
                await driver.complete(ASK)


async def test_an_answer_that_breaks_off_is_no_answer() -> None:
    cut = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"
    async with raw_server(cut) as server, driver_at(server.url) as driver:
        with pytest.raises(MalformedReplyError, match="the answer was cut off") as caught:
            await driver.complete(ASK)
        assert caught.value.may_have_cost
        assert caught.value.__cause__ is not None


async def test_a_proxy_that_cannot_be_used_is_the_users_error() -> None:
    async with httpx2.AsyncClient() as client:
        driver = OpenAIDriver("m", base_url="http://127.0.0.1:1/v1", api_key="", client=client)

        async def fail(request: httpx2.Request) -> None:
            raise RuntimeError("cannot sign")

        client.event_hooks = {"request": [fail]}
        with pytest.raises(RequestRejectedError, match="RuntimeError: cannot sign"):
            await driver.complete(ASK)


# -- leaving ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["complete", "stream"])
async def test_a_cancelled_call_hangs_up_at_once(mode: str) -> None:
    arrived = trio.Event()

    def begin(head: str, body: Any) -> bytes:
        arrived.set()
        return STREAM + sse(chunk("Hel"))

    async with raw_server(begin, stay=True) as server, driver_at(server.url) as driver:
        call: Callable[[], Any] = (
            (lambda: driver.complete(ASK)) if mode == "complete" else (lambda: parts_of(driver))
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await arrived.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await server.hung_up.wait()


async def test_closing_twice_does_no_harm_and_a_closed_driver_says_so() -> None:
    driver = driver_at("http://127.0.0.1:9")
    await driver.aclose()
    await driver.aclose()
    assert "(closed)" in repr(driver)
    with pytest.raises(trio.ClosedResourceError, match="was closed"):
        await driver.complete(ASK)
    with pytest.raises(trio.ClosedResourceError, match="was closed"):
        await parts_of(driver)
