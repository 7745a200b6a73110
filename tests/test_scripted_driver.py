from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import ManifestError, OverloadedError, RateLimitedError, RequestRejectedError
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    TextDelta,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool.abc import Driver
from agentpool.drivers.scripted import EmbeddedDriver, ScriptedDriver


def request(*messages: ChatMessage) -> CompletionRequest:
    return CompletionRequest(messages=messages or (UserMessage("hi"),))


# -- replies ------------------------------------------------------------------------


async def test_replies_are_handed_out_in_order() -> None:
    call = Completion(tool_calls=[ToolCall("1", "add")])
    driver = ScriptedDriver(["one", call, lambda request: str(len(request.messages)), "four"])
    assert await driver.complete(request()) == Completion("one")
    assert await driver.complete(request()) is call
    assert await driver.complete(request()) == Completion("1")
    assert await driver.complete(request()) == Completion("four")


async def test_one_function_makes_every_reply() -> None:
    driver = ScriptedDriver(lambda request: f"to {len(request.messages)}", usage=TokenUsage(input_tokens=1))
    for _ in range(3):
        assert await driver.complete(request()) == Completion("to 1", usage=TokenUsage(input_tokens=1))
    assert len(driver.requests) == 3


async def test_the_function_may_be_async() -> None:
    async def reply(request: CompletionRequest) -> str:
        await trio.lowlevel.checkpoint()
        return "later"

    driver = ScriptedDriver(reply)
    assert await driver.complete(request()) == Completion("later")


@pytest.mark.parametrize("wrong", [7, None])
def test_what_is_neither_a_list_nor_a_function_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="replies must be a list of replies, or a function, not"):
        ScriptedDriver(wrong)


async def test_exceptions_are_raised() -> None:
    error = RateLimitedError(retry_after=3)
    driver = ScriptedDriver([error, OverloadedError, lambda request: KeyError("x"), "after"])
    with pytest.raises(RateLimitedError) as caught:
        await driver.complete(request())
    assert caught.value is error
    with pytest.raises(OverloadedError):
        await driver.complete(request())
    with pytest.raises(KeyError):
        await driver.complete(request())
    assert (await driver.complete(request())).text == "after"


async def test_a_function_may_be_async_and_take_time(autojump_clock: trio.testing.MockClock) -> None:
    async def slow(request: CompletionRequest) -> str:
        await trio.sleep(5)
        return "slow"

    assert (await ScriptedDriver([slow]).complete(request())).text == "slow"
    assert trio.current_time() == 5


async def test_one_request_too_many_is_an_error() -> None:
    driver = ScriptedDriver(["a", "b"])
    for _ in range(2):
        await driver.complete(request())
    for _ in range(2):
        with pytest.raises(RequestRejectedError, match="there were 2 scripted replies and all were used"):
            await driver.complete(request())
    assert len(driver.requests) == 4


async def test_an_endless_iterator_is_asked_as_it_goes() -> None:
    driver = ScriptedDriver(itertools.repeat("again"))
    assert [(await driver.complete(request())).text for _ in range(50)] == ["again"] * 50


async def test_requests_are_recorded() -> None:
    driver = ScriptedDriver(["a", "b"])
    asked = [request(UserMessage("1")), request(UserMessage("2"))]
    for each in asked:
        await driver.complete(each)
    assert driver.requests == asked


async def test_a_text_uses_what_is_said_and_nothing_otherwise() -> None:
    usage = TokenUsage(3, 4)
    own = Completion("own", usage=TokenUsage(1, 1))
    driver = ScriptedDriver(["text", own], usage=usage)
    assert (await driver.complete(request())).usage == usage
    assert (await driver.complete(request())).usage == TokenUsage(1, 1)
    assert (await ScriptedDriver(["text"]).complete(request())).usage == NO_USAGE


async def test_what_is_no_reply_is_refused() -> None:
    with pytest.raises(TypeError, match=r"give a list of replies, such as \['hello'\]"):
        ScriptedDriver("hello")
    replies: Any = [3]
    with pytest.raises(TypeError, match="a scripted reply is 3; give"):
        await ScriptedDriver(replies).complete(request())


async def test_a_hundred_tasks_get_each_reply_once() -> None:
    driver = ScriptedDriver([str(n) for n in range(100)])
    got: list[str] = []

    async def one() -> None:
        got.append((await driver.complete(request())).text)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(one)
    assert sorted(got, key=int) == [str(n) for n in range(100)]


async def test_a_cancelled_request_takes_no_reply() -> None:
    driver = ScriptedDriver(["first"])
    with trio.CancelScope() as scope:
        scope.cancel()
        await driver.complete(request())
    assert scope.cancelled_caught
    assert driver.requests == []
    assert (await driver.complete(request())).text == "first"


async def test_a_request_is_a_checkpoint() -> None:
    driver = ScriptedDriver(["a"])
    with trio.testing.assert_checkpoints():
        await driver.complete(request())


async def test_it_streams_as_every_driver_does() -> None:
    driver = ScriptedDriver(["hello"])
    async with driver.stream(request()) as parts:
        assert [part async for part in parts] == [TextDelta("hello"), Completion("hello")]


def test_it_is_a_driver_that_tells_nobody_anything() -> None:
    driver = ScriptedDriver(context_window=1000)
    assert isinstance(driver, Driver)
    assert driver.privacy is PrivacyTier.SOVEREIGN
    assert driver.context_window == 1000
    assert ScriptedDriver().context_window is None
    assert driver.estimate_cost(TokenUsage(1, 1)) == 0


# -- the script of a manifest -------------------------------------------------------

STEPS = """
name = "worker"
[script]
steps = [
    { calls = [
        { tool = "read", input = { path = "{query}", deep = [{ n = 1, text = "{{x}}" }] }, save_as = "page" },
        { tool = "count", input = {} },
    ] },
    { calls = [{ tool = "send", input = { text = "{page} {results[0]} {results[1]} | {messages}" } }] },
    { text = "{query}: {results[2]}" },
]
"""


async def converse(
    driver: Driver, query: str, results: dict[str, str], before: Sequence[ChatMessage] = ()
) -> list[ChatMessage]:
    """Do what an agent does: ask, call, ask again, until there is a text."""
    messages: list[ChatMessage] = [*before, UserMessage(query)]
    while True:
        completion = await driver.complete(CompletionRequest(messages=tuple(messages)))
        messages.append(AssistantMessage(completion.text, completion.tool_calls))
        if not completion.tool_calls:
            return messages
        for call in completion.tool_calls:
            content = results.get(call.name) or repr(call.input)
            messages.append(ToolMessage(call.id, call.name, ToolResult(content)))
        messages.append(UserMessage('<message from="3">\nnews\n</message>', "message", "news"))


async def test_the_steps_of_a_script_are_taken_in_order() -> None:
    driver = ScriptedDriver.for_manifest(AgentManifest.from_toml(STEPS))
    assert isinstance(driver, ScriptedDriver)
    messages = await converse(driver, "a.md", {"read": "PAGE {query}", "count": "7", "send": "sent"})
    said = [message for message in messages if isinstance(message, AssistantMessage)]
    assert [[(call.name, call.input) for call in each.tool_calls] for each in said] == [
        [("read", {"path": "a.md", "deep": [{"n": 1, "text": "{x}"}]}), ("count", {})],
        [("send", {"text": "PAGE {query} PAGE {query} 7 | news"})],
        [],
    ]
    assert said[-1].text == "a.md: sent"
    assert len({call.id for each in said for call in each.tool_calls}) == 3
    assert len(driver.requests) == 3


async def test_one_driver_serves_many_agents_of_a_manifest_at_once() -> None:
    driver = ScriptedDriver.for_manifest(AgentManifest.from_toml(STEPS))
    ends: dict[str, str] = {}

    async def agent(query: str) -> None:
        messages = await converse(driver, query, {"read": query, "count": "7", "send": f"for {query}"})
        last = messages[-1]
        assert isinstance(last, AssistantMessage)
        ends[query] = last.text

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(agent, f"q{n}")
    assert ends == {f"q{n}": f"q{n}: for q{n}" for n in range(20)}


async def test_a_second_query_begins_the_script_again() -> None:
    driver = ScriptedDriver.for_manifest(AgentManifest.from_toml(STEPS))
    first = await converse(driver, "one", {"read": "1", "count": "1", "send": "1"})
    second = await converse(driver, "two", {"read": "2", "count": "2", "send": "2"}, before=first)
    last = second[-1]
    assert isinstance(last, AssistantMessage)
    assert last.text == "two: 2"


async def test_a_request_after_the_last_step_is_an_error() -> None:
    driver = ScriptedDriver.for_manifest(AgentManifest.from_toml(STEPS))
    messages = await converse(driver, "a", {})
    with pytest.raises(
        RequestRejectedError, match="the script of manifest 'worker' has 3 steps, and all were taken"
    ):
        await driver.complete(request(*messages))


async def test_a_script_goes_on_although_its_first_turns_were_dropped() -> None:
    driver = ScriptedDriver.for_manifest(AgentManifest.from_toml(STEPS))
    messages = await converse(driver, "a", {"send": "sent"})
    query, last_turn = messages[0], messages[-4:-1]
    assert isinstance(last_turn[0], AssistantMessage)
    assert (await driver.complete(request(query, *last_turn))).text == "a: sent"


async def test_a_result_that_was_dropped_is_missed_in_words() -> None:
    driver = ScriptedDriver.for_manifest(AgentManifest.from_toml(STEPS))
    messages = await converse(driver, "a", {})
    query, first_turn = messages[0], messages[1]
    with pytest.raises(
        RequestRejectedError, match=r"step 2 of the script of 'worker': .*page.* known are \{query\}"
    ):
        await driver.complete(request(query, first_turn))
    text = STEPS.replace("{page} ", "").replace("{results[0]}", "")
    driver = ScriptedDriver.for_manifest(AgentManifest.from_toml(text))
    with pytest.raises(RequestRejectedError, match="the result 1 is in no message any more"):
        await driver.complete(request(query, first_turn))


async def test_texts_between_calls_are_steps_too() -> None:
    manifest = AgentManifest.from_toml(
        'name = "m"\n[script]\nsteps = [{ text = "1" }, { text = "2 {query}" }]'
    )
    driver = ScriptedDriver.for_manifest(manifest)
    messages = (UserMessage("q"), AssistantMessage("1"), UserMessage("go on", "note"))
    assert (await driver.complete(request(*messages))).text == "2 q"


async def test_a_conversation_without_a_query_is_taken_as_it_is() -> None:
    manifest = AgentManifest.from_toml('name = "m"\n[script]\nsteps = [{ text = "<{query}>" }]')
    driver = ScriptedDriver.for_manifest(manifest)
    assert (await driver.complete(CompletionRequest())).text == "<>"


async def test_a_script_may_be_a_function_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "from agentpool._core.messages import Completion\n"
        "def plain(request):\n    return f'{len(request.messages)} messages'\n"
        "async def whole(request):\n    return Completion('whole')\n"
    )
    for name, answer in (("plain", "1 messages"), ("whole", "whole")):
        path = tmp_path / "agent.toml"
        path.write_text(f'name = "m"\n[script]\nfunction = "script:{name}"\n')
        driver = ScriptedDriver.for_manifest(AgentManifest.load(path))
        assert [(await driver.complete(request())).text for _ in range(2)] == [answer] * 2


def test_a_function_that_cannot_be_loaded_is_a_finding(tmp_path: Path) -> None:
    manifest = AgentManifest.from_toml('name = "m"\n[script]\nfunction = "nowhere_at_all:f"', base=tmp_path)
    with pytest.raises(
        ManifestError, match=r"manifest 'm': script.function: there is no module 'nowhere_at_all'"
    ):
        ScriptedDriver.for_manifest(manifest)


def test_a_manifest_without_a_script_is_a_finding() -> None:
    with pytest.raises(ManifestError, match="manifest 'm': script: is missing"):
        ScriptedDriver.for_manifest(AgentManifest(name="m"))


# -- one driver for many manifests --------------------------------------------------


async def test_the_embedded_driver_follows_each_manifests_own_script() -> None:
    embedded = ScriptedDriver.embedded()
    assert isinstance(embedded, EmbeddedDriver)
    assert isinstance(embedded, Driver)
    for text in ("one", "two"):
        manifest = AgentManifest.from_toml(f'name = "m"\n[script]\nsteps = [{{ text = "{text}" }}]')
        bound = embedded.bind(manifest)
        assert (await bound.complete(request())).text == text
        assert attrs.asdict(Completion(text))["text"] == text
        assert isinstance(bound, ScriptedDriver)
        assert bound.requests == []


async def test_the_embedded_driver_answers_nothing_by_itself() -> None:
    embedded = ScriptedDriver.embedded()
    assert repr(embedded) == "<EmbeddedDriver>"
    assert embedded.privacy is PrivacyTier.SOVEREIGN
    with pytest.raises(RequestRejectedError, match="the embedded driver follows scripts"):
        await embedded.complete(request())
    with pytest.raises(ManifestError, match="is missing"):
        embedded.bind(AgentManifest(name="m"))
