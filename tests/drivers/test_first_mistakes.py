"""What goes wrong when somebody connects his agents to a model for the first time, and what he is told."""

from __future__ import annotations

import logging
import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from rawserver import answer, raw_server

from agentpool import (
    AnthropicDriver,
    CompletionRequest,
    DriverUnavailableError,
    GeminiDriver,
    OllamaDriver,
    OpenAIDriver,
    PrivacyTier,
    RequestRejectedError,
    UserMessage,
    parse_driver_name,
)

ASK = CompletionRequest(messages=[UserMessage("hi")])
CERTIFICATE = Path(__file__).parent / "loopback.pem"
PROXIES = (
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
)
OF_ENVIRONMENT = (*PROXIES, "SSL_CERT_FILE", "SSL_CERT_DIR")
SAID = answer(200, {"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}]})


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OF_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


def driver_at(url: str, **more: Any) -> OpenAIDriver:
    return OpenAIDriver("m", base_url=url, api_key="", **more)


# -- TLS, certificates, proxies --------------------------------------------------------------------


@asynccontextmanager
async def proxy(refusal: bytes = b"") -> AsyncIterator[tuple[str, list[str]]]:
    """Run a company's proxy, which also is the server behind it; give its address, and what it was told."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    heads: list[str] = []

    async def handle(stream: trio.SocketStream) -> None:
        try:
            head = await stream.receive_some()
            heads.append(head.decode())
            await stream.send_all(refusal or b"HTTP/1.1 200 Connection established\r\n\r\n")
            if not refusal:
                await speak(trio.SSLStream(stream, context, server_side=True))
        except trio.BrokenResourceError:
            pass  # the certificate was not believed
        await trio.aclose_forcefully(stream)

    async def speak(inside: trio.SSLStream[trio.SocketStream]) -> None:
        data = b""
        while not data.endswith(b"}"):
            data += await inside.receive_some()
        await inside.send_all(SAID)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}", heads
        nursery.cancel_scope.cancel()


async def test_a_companys_proxy_and_its_certificate_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxy() as (address, heads):
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:word@{address}")
        async with driver_at("https://models.example/v1") as driver:
            with pytest.raises(RequestRejectedError, match=r"certificate verify failed.*SSL_CERT_FILE"):
                await driver.complete(ASK)
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        async with driver_at("https://models.example/v1") as driver:
            assert (await driver.complete(ASK)).text == "ok"
        assert len(heads) == 2
        assert all(head.startswith("CONNECT models.example:443") for head in heads)
        assert all("proxy-authorization: basic" in head.lower() for head in heads)


async def test_a_companys_proxy_and_its_certificate_come_with_a_client() -> None:
    known = ssl.create_default_context(cafile=str(CERTIFICATE))
    async with (
        proxy() as (address, heads),
        httpx2.AsyncClient(proxy=f"http://{address}", verify=known) as client,
    ):
        async with driver_at("https://models.example/v1", client=client) as driver:
            assert (await driver.complete(ASK)).text == "ok"
        assert len(heads) == 1


async def test_a_proxy_that_wants_a_password_is_not_asked_again() -> None:
    async with proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as (address, _):
        async with httpx2.AsyncClient(proxy=f"http://{address}") as client:
            with pytest.raises(RequestRejectedError, match="407 Proxy Authentication Required"):
                await driver_at("https://models.example/v1", client=client).complete(ASK)
    async with proxy(b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as (address, _):
        async with httpx2.AsyncClient(proxy=f"http://{address}") as client:
            with pytest.raises(DriverUnavailableError, match="502 Bad Gateway"):
                await driver_at("https://models.example/v1", client=client).complete(ASK)


async def test_a_certificate_of_ones_own_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    async def handle(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            data = await stream.receive_some()
            while not data.endswith(b"}"):
                data += await stream.receive_some()
            await stream.send_all(SAID)
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, handle, 0, context, host="127.0.0.1")
        listeners = await nursery.start(serve)
        url = f"https://127.0.0.1:{listeners[0].transport_listener.socket.getsockname()[1]}/v1"
        async with driver_at(url) as driver:
            with pytest.raises(RequestRejectedError, match="SSL_CERT_FILE"):
                await driver.complete(ASK)
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        async with driver_at(url) as driver:
            assert driver.privacy is PrivacyTier.SOVEREIGN
            assert (await driver.complete(ASK)).text == "ok"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SSL_CERT_FILE", "/nowhere/company.pem", "SSL_CERT_FILE or SSL_CERT_DIR"),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE or SSL_CERT_DIR"),
        ("HTTPS_PROXY", "gopher://me:word@127.0.0.1:9", "HTTPS_PROXY.*is not the address of a proxy"),
        ("HTTPS_PROXY", "http://me:word@127.0.0.1:nine", "HTTPS_PROXY.*is not the address of a proxy"),
    ],
)
async def test_an_environment_that_cannot_be_used_is_told_by_its_name(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    async with driver_at("https://models.example/v1") as driver:
        with pytest.raises(RequestRejectedError, match=told) as caught:
            await driver.complete(ASK)
    assert "word" not in str(caught.value)


async def test_a_socks_proxy_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    async with driver_at("https://models.example/v1") as driver:
        with pytest.raises(RequestRejectedError, match=re.escape("pip install 'httpx2[socks]'")):
            await driver.complete(ASK)


@pytest.mark.parametrize("own", [False, True])
async def test_a_key_in_a_query_is_in_no_log(own: bool, caplog: pytest.LogCaptureFixture) -> None:
    """httpx2 logs each address, with its query, at the level INFO."""
    caplog.set_level(logging.DEBUG)
    key = "canary/4711+do not=print"
    async with raw_server(SAID) as server, httpx2.AsyncClient() as client:
        more = {"client": client} if own else {}
        async with driver_at(server.url + "/v1?version=2", query={"key": key}, **more) as driver:
            await driver.complete(ASK)
    assert f"{server.url}/v1/chat/completions?version=2&key=[redacted]" in caplog.text
    assert "canary" not in caplog.text
    assert "canary" in server.requests[0][0]


# -- the address -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 405])
async def test_a_path_that_a_server_does_not_know_is_told_with_the_address(status: int) -> None:
    """vLLM, llama.cpp and others say no more than "Not Found"."""
    async with raw_server(answer(status, {"detail": "Not Found"})) as server:
        with pytest.raises(
            RequestRejectedError, match=rf"^Not Found \({server.url} has no.* /v1 may be missing"
        ):
            await driver_at(server.url).complete(ASK)
        with pytest.raises(RequestRejectedError, match=r"/v1 has no such API: is the address right\?\)"):
            await driver_at(server.url + "/v1").complete(ASK)
        with pytest.raises(RequestRejectedError, match=r"is the address right\?\)"):
            await AnthropicDriver("m", base_url=server.url, api_key="").complete(ASK)


@pytest.mark.parametrize(
    "said", ["model 'm' not found", "The model `m` does not exist.", "The API deployment does not exist"]
)
async def test_a_model_that_is_not_there_says_nothing_of_the_address(said: str) -> None:
    async with raw_server(answer(404, {"error": {"message": said}})) as server:
        with pytest.raises(RequestRejectedError, match=f"^{re.escape(said)}(\n|$)"):
            await driver_at(server.url).complete(ASK)


# -- names and arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gpt-5", "Did you mean openai:MODEL?"),
        ("claude-haiku-5", "Did you mean anthropic:MODEL?"),
        ("google:gemini-3", "Did you mean gemini:MODEL?"),
        ("OpenAI:gpt-5", "Did you mean openai, in small letters?"),
        ("azure:gpt-5", "as azure has it, is openai+https://HOST/PATH:MODEL"),
        ("vLLM:qwen3", "as vllm has it, is openai+https://HOST/PATH:MODEL"),
        ("palm:pro", "local:FILE.gguf, scripted or auto"),
    ],
)
def test_the_name_of_another_provider_or_of_a_model_alone(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(hint)}$"):
        parse_driver_name(name)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"timeout": "5"}, "timeout must be a number of seconds, not '5'"),
        ({"timeout": 0}, "timeout must be more than 0 seconds, not 0"),
        ({"context_window": "8k"}, "context_window must be a whole number, not '8k'"),
        ({"context_window": -5}, "context_window must be at least 1, not -5"),
        ({"privacy": "Private"}, "privacy must be a PrivacyTier, such as PrivacyTier.PRIVATE, not 'Private'"),
        ({"prices": "prices.toml"}, "prices must be a PriceTable, such as PriceTable.load(path)"),
        ({"client": httpx2.Client}, "client must be an httpx2.AsyncClient"),
        ({"headers": [("a", "b")]}, "headers must be a mapping from names to values, not a list"),
        ({"headers": {"a b": "c"}}, "'a b' is not the name of a header"),
        ({"headers": {"x-key": None}}, "the header 'x-key' has a value that cannot be sent"),
        ({"query": "a=b"}, "query must be a mapping from names to values, not a str"),
        ({"options": {7: "seed"}}, "options must be a mapping from names to values, not a dict"),
    ],
)
@pytest.mark.parametrize("make", [OpenAIDriver, AnthropicDriver, GeminiDriver, OllamaDriver])
def test_a_wrong_argument_is_told_at_once(make: Any, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(told)}"):
        make("m", base_url="http://127.0.0.1:9", api_key="", **wrong)


async def test_a_client_of_ones_own_is_why_an_address_here_is_not_sovereign() -> None:
    async with httpx2.AsyncClient() as client:
        with pytest.raises(ValueError, match="a client of your own may lead anywhere"):
            driver_at("http://127.0.0.1:9/v1", client=client, privacy=PrivacyTier.SOVEREIGN)
    with pytest.raises(ValueError, match="not this machine"):
        driver_at("http://192.0.2.1/v1", privacy=PrivacyTier.SOVEREIGN)
