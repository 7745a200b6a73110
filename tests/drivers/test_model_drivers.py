"""The drivers against @copilotkit/aimock, each in the same situations."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack

import attrs
import pytest
import trio
from aimock import Aimock
from models import DRIVERS, Make

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import (
    ContentRefusedError,
    ContextTooLongError,
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    OverloadedError,
    RateLimitedError,
    RequestRejectedError,
)
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    TextDelta,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool.abc import Driver
from agentpool.testing import check_driver

pytest.importorskip("httpx2", reason="the extra http is not installed")

LOOK = ToolDefinition(
    "look",
    "Look at a file.",
    {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)
HELLO = "Hello from the mock, dear agent. This is long enough for several chunks."


def ask(text: str, *more: ChatMessage, tools: tuple[ToolDefinition, ...] = ()) -> CompletionRequest:
    return CompletionRequest(
        messages=[UserMessage(text), *more], tools=tools, max_tokens=100, temperature=0.5, system="Be brief."
    )


async def streamed(driver: Driver, request: CompletionRequest) -> tuple[list[str], Completion]:
    deltas: list[str] = []
    async with driver.stream(request) as parts:
        async for part in parts:
            if isinstance(part, TextDelta):
                deltas.append(part.text)
            else:
                final = part
    return deltas, final


def open_sockets() -> int:
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
        except OSError:  # closed meanwhile
            pass
    return found


async def test_a_driver_is_a_driver(make: Make, aimock: Aimock) -> None:
    async with make(aimock.url) as driver:
        assert isinstance(driver, Driver)
        assert driver.privacy is PrivacyTier.SOVEREIGN


async def test_it_passes_the_conformance_kit(make: Make, aimock: Aimock) -> None:
    async with AsyncExitStack() as stack:
        await check_driver(lambda: stack.enter_async_context(make(aimock.url)))


async def test_it_answers(make: Make, aimock: Aimock) -> None:
    async with make(aimock.url) as driver:
        completion = await driver.complete(ask("plain"))
        assert completion.text == HELLO
        assert completion.stop_reason == "end_turn"
        body = aimock.last_body()
        assert body["model"] == driver.model
        assert body["messages"][0]["content"] == "Be brief."


async def test_it_streams_the_text_in_pieces_and_ends_with_the_whole(make: Make, aimock: Aimock) -> None:
    async with make(aimock.url) as driver:
        deltas, completion = await streamed(driver, ask("plain"))
        assert len(deltas) > 2
        assert "".join(deltas) == completion.text == HELLO
        whole = await driver.complete(ask("plain"))
        assert attrs.evolve(completion, response_id=None) == attrs.evolve(whole, response_id=None)


@pytest.mark.parametrize("name", ["chat", "responses", "anthropic"])
async def test_it_counts_tokens_and_their_price(name: str, aimock: Aimock) -> None:
    async with DRIVERS[name](aimock.url) as driver:
        for completion in (await driver.complete(ask("plain")), (await streamed(driver, ask("plain")))[1]):
            assert (completion.usage.input_tokens, completion.usage.output_tokens) == (11, 7)
            assert completion.usage.cost_usd == driver.estimate_cost(completion.usage)
            assert completion.usage.cost_usd > 0


async def test_the_request_may_name_another_model(make: Make, aimock: Aimock) -> None:
    async with make(aimock.url) as driver:
        await driver.complete(CompletionRequest("another", [UserMessage("plain")], stop=()))
        assert aimock.last_body()["model"] == "another"


async def test_tools_are_called_and_their_results_go_back(make: Make, aimock: Aimock) -> None:
    async with make(aimock.url) as driver:
        question = ask("tools", tools=(LOOK,))
        called = await driver.complete(question)
        assert called.text == "Let me look."
        assert called.stop_reason == "tool_use"
        assert [(call.name, dict(call.input)) for call in called.tool_calls] == [
            ("look", {"path": "a.md", "depth": 2}),
            ("look", {"path": "b.md"}),
        ]
        assert len({call.id for call in called.tool_calls}) == 2
        assert aimock.last_body()["tools"][0]["function"]["name"] == "look"

        first, second = called.tool_calls
        after = ask(
            "tools",
            AssistantMessage(called.text, called.tool_calls),
            ToolMessage(first.id, "look", ToolResult("all well")),
            ToolMessage(second.id, "look", ToolResult("no such file", is_error=True)),
            tools=(LOOK,),
        )
        assert (await driver.complete(after)).text == "Seen."
        roles = [message["role"] for message in aimock.last_body()["messages"]]
        assert roles[-3:] == ["assistant", "tool", "tool"]


async def test_tool_calls_are_put_together_from_a_stream(make: Make, aimock: Aimock) -> None:
    async with make(aimock.url) as driver:
        _, completion = await streamed(driver, ask("tools", tools=(LOOK,)))
        assert completion.text == "Let me look."
        assert completion.stop_reason == "tool_use"
        assert [(call.name, dict(call.input)) for call in completion.tool_calls] == [
            ("look", {"path": "a.md", "depth": 2}),
            ("look", {"path": "b.md"}),
        ]


@pytest.mark.parametrize("name", ["chat", "responses", "anthropic"])
async def test_an_answer_at_its_limit_says_so(name: str, aimock: Aimock) -> None:
    async with DRIVERS[name](aimock.url) as driver:
        assert (await driver.complete(ask("truncated"))).stop_reason == "max_tokens"
        assert (await streamed(driver, ask("truncated")))[1].stop_reason == "max_tokens"


async def test_an_answer_that_was_declined_says_so(aimock: Aimock) -> None:
    async with DRIVERS["chat"](aimock.url) as driver:
        assert (await driver.complete(ask("declined"))).stop_reason == "refusal"
        assert (await streamed(driver, ask("declined")))[1].stop_reason == "refusal"


FAULTS: dict[str, type[DriverError]] = {
    "rate limited": RateLimitedError,
    "overloaded": OverloadedError,
    "server error": DriverUnavailableError,
    "wrong key": RequestRejectedError,
    "too long": ContextTooLongError,
    "chaos drop": DriverUnavailableError,
    "chaos malformed": MalformedReplyError,
    "chaos disconnect": DriverUnavailableError,
    "chaos rate limit": RateLimitedError,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_an_error_of_our_own_that_tells_where_it_came_from(
    make: Make, aimock: Aimock, fault: str
) -> None:
    async with make(aimock.url) as driver:
        for mode in (driver.complete, lambda request: streamed(driver, request)):
            with pytest.raises(DriverError) as caught:
                await mode(ask(fault))
            assert type(caught.value) is FAULTS[fault]
            told = caught.value.__cause__ or getattr(caught.value, "__notes__", None)
            assert told is not None or fault == "chaos malformed"
        assert (await driver.complete(ask("plain"))).text == HELLO  # the driver goes on


async def test_a_rate_limit_tells_how_long_to_wait(make: Make, aimock: Aimock) -> None:
    async with make(aimock.url) as driver:
        with pytest.raises(RateLimitedError) as caught:
            await driver.complete(ask("rate limited"))
        assert caught.value.retry_after == 7


@pytest.mark.parametrize("name", ["chat", "responses"])
async def test_refused_content_is_told_from_a_bad_request(name: str, aimock: Aimock) -> None:
    async with DRIVERS[name](aimock.url) as driver:
        with pytest.raises(ContentRefusedError):
            await driver.complete(ask("content refused"))


@pytest.mark.parametrize("name", ["chat", "responses"])
async def test_malformed_arguments_are_a_problem_that_the_model_is_told(name: str, aimock: Aimock) -> None:
    async with DRIVERS[name](aimock.url) as driver:
        _, completion = await streamed(driver, ask("malformed arguments", tools=(LOOK,)))
        (call,) = completion.tool_calls
        assert call.name == "look"
        assert call.input == {}
        assert call.problem.startswith("Not run: the arguments are not JSON")


@pytest.mark.parametrize("where", ["cut at once", "cut in the middle"])
async def test_a_cut_stream_is_never_an_answer(make: Make, aimock: Aimock, where: str) -> None:
    async with make(aimock.url) as driver:
        got: list[str] = []
        with pytest.raises(DriverError) as caught:
            async with driver.stream(ask(where)) as parts:
                async for part in parts:
                    assert isinstance(part, TextDelta)
                    got.append(part.text)
        assert caught.value.retryable
        if where == "cut in the middle":
            assert got
            assert type(caught.value) is MalformedReplyError


async def test_two_hundred_calls_at_once(make: Make, aimock: Aimock) -> None:
    answers: list[str] = []

    async def call(driver: Driver, number: int) -> None:
        if number % 2:
            answers.append((await driver.complete(ask("plain"))).text)
        else:
            answers.append((await streamed(driver, ask("plain")))[1].text)

    before = open_sockets()
    async with make(aimock.url) as driver, trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(call, driver, number)
    assert answers == [HELLO] * 200
    assert open_sockets() == before


async def test_a_storm_of_rate_limits(make: Make, aimock: Aimock) -> None:
    refused: list[float | None] = []

    async def call(driver: Driver) -> None:
        with pytest.raises(RateLimitedError) as caught:
            await driver.complete(ask("rate limited"))
        refused.append(caught.value.retry_after)

    before = open_sockets()
    async with make(aimock.url) as driver:
        requests = len(aimock.journal())
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(call, driver)
        assert len(aimock.journal()) - requests == 100  # the SDK retried nothing behind our back
        assert (await driver.complete(ask("plain"))).text == HELLO
    assert refused == [7.0] * 100
    assert open_sockets() == before


async def test_cancelling_in_the_middle_of_a_stream_returns_at_once(make: Make, aimock: Aimock) -> None:
    begun = trio.Event()
    heard_to_the_end = False

    async def listen(driver: Driver) -> None:
        nonlocal heard_to_the_end
        async with driver.stream(ask("slow")) as parts:
            async for _ in parts:
                begun.set()
        heard_to_the_end = True

    before = open_sockets()
    async with make(aimock.url) as driver, trio.open_nursery() as nursery:
        nursery.start_soon(listen, driver)
        await begun.wait()
        started = time.perf_counter()
        nursery.cancel_scope.cancel()
    assert time.perf_counter() - started < 1  # the server would take 1.3 s and more for the rest
    assert not heard_to_the_end
    assert open_sockets() == before


async def test_the_conversation_reaches_the_model_whole(make: Make, aimock: Aimock) -> None:
    call = ToolCall("call_1", "look", {"path": "ä.md"})
    history = ask(
        "first",
        AssistantMessage("Looking.", (call,)),
        ToolMessage("call_1", "look", ToolResult("well")),
        AssistantMessage("It is well."),
        UserMessage("plain"),
    )
    async with make(aimock.url) as driver:
        assert (await driver.complete(history)).text == HELLO
    sent = str(aimock.last_body())
    for words in ("first", "Looking.", "ä.md", "It is well.", "plain"):
        assert words in sent
