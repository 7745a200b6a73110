"""The way out, as users of other libraries saw it go wrong: clients of their own, addresses, refusals."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
import trio
from rawserver import answer, raw_server

from agentpool import (
    AnthropicDriver,
    CompletionRequest,
    DriverError,
    GeminiDriver,
    OpenAIDriver,
    OverloadedError,
    RateLimitedError,
    RequestRejectedError,
    UserMessage,
)
from agentpool.drivers import _http

ASK = CompletionRequest(messages=[UserMessage("hi")], max_tokens=100)
SAID = {"role": "assistant", "content": "ok"}
REPLY = {"id": "c", "model": "m", "choices": [{"index": 0, "message": SAID, "finish_reason": "stop"}]}


def driver_at(url: str, **more: Any) -> OpenAIDriver:
    return OpenAIDriver("m", base_url=url, **{"api_key": "", **more})


async def refused(driver: Any) -> DriverError:
    async with driver:
        with pytest.raises(DriverError) as caught:
            await driver.complete(ASK)
    return caught.value


# -- what is written to logs --------------------------------------------------------------------


@pytest.mark.parametrize("make", [OpenAIDriver, AnthropicDriver, GeminiDriver])
async def test_the_log_of_the_http_library_is_told_no_query(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """librefang/librefang#5872: the key of an address stood in the log, at the level that many switch on."""
    caplog.set_level(logging.DEBUG)
    async with raw_server(answer(400, {"error": {"message": "no"}})) as server:
        await refused(make("m", base_url=f"{server.url}/v1?key=sk-in-the-address", api_key="sk-in-a-header"))
        assert "?key=sk-in-the-address" in server.requests[0][0]
    assert "HTTP Request: POST" in caplog.text
    assert "sk-in" not in caplog.text


async def test_a_query_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(answer(200, REPLY)) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        async with driver_at("http://example.invalid/v1?key=abc") as driver:
            assert (await driver.complete(ASK)).text == "ok"
        line = server.requests[0][0].splitlines()[0]
    assert line == "POST http://example.invalid/v1/chat/completions?key=abc HTTP/1.1"


# -- hooks of a client of the user's own --------------------------------------------------------------


async def read(response: httpx2.Response) -> None:
    await response.aread()


async def check(response: httpx2.Response) -> None:
    response.raise_for_status()


async def read_and_check(response: httpx2.Response) -> None:
    await response.aread()
    response.raise_for_status()


async def answered_through(
    hook: Callable[[httpx2.Response], Awaitable[None]], status: int, body: Any, **headers: str
) -> str | DriverError:
    """Return the answer's text, or the error, for a client with this hook."""
    async with raw_server(answer(status, body, **headers)) as server:
        async with httpx2.AsyncClient(event_hooks={"response": [hook]}) as client:
            async with driver_at(server.url, client=client) as driver:
                try:
                    return (await driver.complete(ASK)).text
                except DriverError as error:
                    return error


async def test_a_hook_may_read_an_answer_before_us() -> None:
    """BerriAI/litellm#10784: hooks that log what came."""
    assert await answered_through(read, 200, REPLY) == "ok"
    packed = gzip.compress(answer(200, REPLY).partition(b"\r\n\r\n")[2])
    assert await answered_through(read, 200, packed, content_encoding="gzip") == "ok"
    error = await answered_through(read, 400, {"error": {"message": "no such tool"}})
    assert (type(error), str(error)) == (RequestRejectedError, "no such tool")


async def test_a_hook_may_object_to_a_status() -> None:
    """encode/httpx#3493: `raise_for_status` in a hook; a wrong key looked like a server that is away."""
    error = await answered_through(check, 401, {"error": {"message": "wrong key"}})
    assert (type(error), str(error)) == (RequestRejectedError, "HTTP status 401 without words")
    error = await answered_through(check, 429, {}, retry_after="7")
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 7
    error = await answered_through(read_and_check, 401, {"error": {"message": "wrong key"}})
    assert (type(error), str(error)) == (RequestRejectedError, "wrong key")


async def test_a_login_that_fails_is_no_server_that_is_away() -> None:
    class Login(httpx2.Auth):
        requires_response_body = True

        def auth_flow(self, request: httpx2.Request) -> Any:
            response = yield httpx2.Request("POST", str(request.url.join("/token")))
            response.raise_for_status()

    async with raw_server(answer(403, {"error": {"message": "unknown client"}})) as server:
        async with httpx2.AsyncClient(auth=Login()) as client:
            error = await refused(driver_at(server.url, client=client))
    assert type(error) is RequestRejectedError
    assert "unknown client" in str(error)


async def test_a_hook_that_fails_by_itself_says_how() -> None:
    async def hook(response: httpx2.Response) -> None:
        raise LookupError("no tenant")

    error = await answered_through(hook, 200, REPLY)
    assert type(error) is RequestRejectedError
    assert "LookupError: no tenant" in str(error)


# -- addresses -------------------------------------------------------------------------------------


async def test_the_address_of_a_call_is_taken_for_that_of_the_server() -> None:
    """BerriAI/litellm#8572, sourcegit-scm/sourcegit#1618, evalstate/fast-agent-docs#11."""
    async with raw_server(answer(404, {"error": {"message": "no model"}})) as server:
        for make, end in (
            (OpenAIDriver, "/openai/deployments/d/chat/completions?api-version=1"),
            (OpenAIDriver, "/v1/chat/completions"),
            (OpenAIDriver, "/v1/responses/"),
            (AnthropicDriver, "/v1/messages"),
            (GeminiDriver, "/v1beta/models/m:generateContent"),
        ):
            await refused(make("m", base_url=server.url + end, api_key=""))
        lines = [head.split()[1] for head, _ in server.requests]
    assert lines == [
        "/openai/deployments/d/chat/completions?api-version=1",
        "/v1/chat/completions",
        "/v1/chat/completions",
        "/v1/messages",
        "/v1beta/models/m:streamGenerateContent?alt=sse",
    ]


async def test_a_path_that_is_missing_is_a_guess_where_there_is_none() -> None:
    for body, base, hint in (
        ({"detail": "Not Found"}, "", True),
        (b"404 page not found", "", True),
        ({"detail": "Not Found"}, "/v1", False),
        ({"error": {"message": "the model `m` does not exist"}}, "", False),
    ):
        async with raw_server(answer(404, body)) as server:
            error = await refused(driver_at(server.url + base))
        assert type(error) is RequestRejectedError
        assert ("a part such as /v1 may be missing" in str(error)) is hint


# -- refusals that break --------------------------------------------------------------------------------


async def test_a_refusal_that_breaks_off_is_one_nevertheless() -> None:
    whole = answer(429, {"error": {"message": "slow down"}}, retry_after="7")
    cut = whole.replace(b"content-length: ", b"content-length: 9")
    async with raw_server(cut) as server:
        error = await refused(driver_at(server.url))
    assert isinstance(error, RateLimitedError)
    assert (error.retry_after, str(error), error.may_have_cost) == (7, "slow down", False)


async def test_a_refusal_that_cannot_be_unpacked_is_one_nevertheless() -> None:
    async with raw_server(answer(503, b"no gzip at all", content_encoding="gzip")) as server:
        assert type(await refused(driver_at(server.url))) is OverloadedError


async def test_a_refusal_whose_words_never_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "REFUSAL_SECONDS", 0.05)
    head = b'HTTP/1.1 429 X\r\nretry-after: 7\r\ncontent-length: 999\r\n\r\n{"err'
    async with raw_server(head, stay=True) as server:
        with trio.fail_after(5):
            error = await refused(driver_at(server.url))
            await server.hung_up.wait()
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 7
