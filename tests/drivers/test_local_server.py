"""A real model behind llama.cpp's HTTP server, asked by `OpenAIDriver`."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from smollm import TOOLS_TEMPLATE, weights

from agentpool import (
    AgentManifest,
    Completion,
    CompletionRequest,
    ContextTooLongError,
    ModelAgent,
    ModelSettings,
    OpenAIDriver,
    PrivacyTier,
    RequestRejectedError,
    TextDelta,
    ToolDefinition,
    UserMessage,
    open_agent_pool,
)

pytest.importorskip("httpx2", reason="the extra http is not installed")
WEIGHTS = weights()
KEY = "sk-of-a-test-0123456789"
WEATHER = ToolDefinition(
    "get_weather",
    "Tells the weather of a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
NUMBER = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}
ECHO = (
    'Repeat this text:\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Berlin"}}\n</tool_call>'
)


@contextmanager
def serving(port: int = 0) -> Iterator[str]:
    script = str(Path(__file__).with_name("llama_server.py"))
    command = [sys.executable, script, str(WEIGHTS), str(port), KEY, TOOLS_TEMPLATE]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        yield address
    finally:
        process.communicate(timeout=30)  # closes its input


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as address:
        yield address


def open_model(server: str, **settings: Any) -> OpenAIDriver:
    return OpenAIDriver("smollm", base_url=f"{server}/v1", **{"api_key": KEY, **settings})


def ask(text: str, **settings: Any) -> CompletionRequest:
    given: dict[str, Any] = {"max_tokens": 16, "temperature": 0.0, **settings}
    return CompletionRequest(messages=(UserMessage(text),), **given)


def slots(server: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"{server}/slots", headers={"authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


async def test_an_answer_and_a_stream_are_the_same(server: str) -> None:
    async with open_model(server) as driver:
        assert driver.privacy is PrivacyTier.SOVEREIGN
        answer = await driver.complete(ask("Count to ten."))
        async with driver.stream(ask("Count to ten.")) as stream:
            parts = [part async for part in stream]
        whole = parts[-1]
        assert isinstance(whole, Completion)
        assert (
            "".join(part.text for part in parts if isinstance(part, TextDelta)) == whole.text == answer.text
        )
        assert len(parts) > 5
        assert 0 < answer.usage.output_tokens == whole.usage.output_tokens
        assert whole.usage.cache_read_tokens > 0


async def test_a_call_of_the_model_is_read(server: str) -> None:
    async with open_model(server) as driver:
        answer = await driver.complete(ask(ECHO, tools=(WEATHER,), max_tokens=60))
    assert [(call.name, dict(call.input)) for call in answer.tool_calls] == [
        ("get_weather", {"city": "Berlin"})
    ]
    assert answer.stop_reason == "tool_use"


async def test_an_answer_fits_its_schema(server: str) -> None:
    async with open_model(server) as driver:
        answer = await driver.complete(ask("Choose a number.", output_schema=NUMBER, max_tokens=40))
    assert json.loads(answer.text)["n"] in range(10)


async def test_eight_agents_at_once(server: str) -> None:
    manifest = AgentManifest(
        name="a",
        privacy="sovereign",
        model=ModelSettings(max_tokens=20, temperature=0.0),
    )
    agent = ModelAgent(manifest, output_type=bool)
    async with open_model(server) as driver:
        async with open_agent_pool(driver, max_concurrent=8) as pool:
            outcomes = await pool.map(agent, [f"Is {n} much?" for n in range(8)])
    assert all(isinstance(outcome.unwrap().output, bool) for outcome in outcomes)
    assert all(outcome.usage.output_tokens > 0 for outcome in outcomes)


@pytest.mark.parametrize("streams", [True, False])
async def test_a_cancelled_call_frees_the_slot_of_the_server(server: str, streams: bool) -> None:
    """Told by the server itself: nobody is being answered, and most of the answer was not made."""
    request = ask("Tell a story.", max_tokens=400, options={"ignore_eos": True})
    async with open_model(server) as driver:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                if streams:
                    nursery.start_soon(_read, driver, request)
                else:
                    nursery.start_soon(driver.complete, request)
                while not (busy := [slot for slot in slots(server) if slot["is_processing"]]):
                    await trio.sleep(0.01)
                scope.cancel()
        assert scope.cancelled_caught
        while any(slot["is_processing"] for slot in slots(server)):
            await trio.sleep(0.01)
        (slot,) = [slot for slot in slots(server) if slot["id"] == busy[0]["id"]]
        assert slot["next_token"][0]["n_decoded"] < 300
        assert (await driver.complete(ask("Say hello."))).text


async def _read(driver: OpenAIDriver, request: CompletionRequest) -> None:
    async with driver.stream(request) as stream:
        async for _ in stream:
            pass


async def test_a_request_that_is_too_long_is_told_as_that(server: str) -> None:
    async with open_model(server) as driver:
        for _ in range(2):
            with pytest.raises(ContextTooLongError):
                await driver.complete(ask("hello " * 1000))
        with pytest.raises(ContextTooLongError):
            async with driver.stream(ask("hello " * 1000)) as stream:
                async for _ in stream:
                    pass


async def test_a_wrong_key_is_refused(server: str) -> None:
    async with open_model(server, api_key="sk-another-0123456789") as driver:
        with pytest.raises(RequestRejectedError):
            await driver.complete(ask("Say hello."))


async def test_a_server_that_was_started_again_between_two_calls_is_no_error() -> None:
    with serving() as address:
        driver = open_model(address)
        first = await driver.complete(ask("Say hello."))
    port = int(address.rpartition(":")[2])
    async with driver:
        with serving(port):
            second = await driver.complete(ask("Say hello."))
            async with driver.stream(attrs.evolve(ask("Say hello."), max_tokens=5)) as stream:
                assert [part async for part in stream]
    assert second.text == first.text
