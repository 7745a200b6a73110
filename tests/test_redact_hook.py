"""`Redact`: what it takes out of results and requests, and what it leaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from pool_kit import pool_of

from agentpool import (
    AgentManifest,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Driver,
    Image,
    ModelSettings,
    ProviderData,
    Redact,
    SpawnConfig,
    Text,
    ToolCall,
    ToolMessage,
    UserMessage,
    tool,
)

KEY = "sk-" + "Zq81kLm29Xw7Tr4p"


class Model(Driver):
    """Gives its answers in order, and keeps the requests."""

    def __init__(self, *answers: Completion) -> None:
        self.answers = list(answers)
        self.requests: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        return self.answers.pop(0)


async def run(
    hook: Redact, *answers: Completion, tools: Any = (), query: Any = "go", system: str = ""
) -> tuple[Model, Any]:
    model = Model(*answers)
    manifest = AgentManifest(name="a", model=ModelSettings(system_prompt=system))
    async with pool_of(1, driver=model, hooks=[hook]) as pool:
        handle = await pool.spawn(SpawnConfig(manifest, query, tools=tools))
        return model, (await handle.wait()).unwrap()


def call(name: str, **arguments: Any) -> Completion:
    return Completion(tool_calls=[ToolCall("c1", name, arguments)])


@pytest.mark.parametrize(
    ("hook", "text", "clean"),
    [
        (Redact(), f"the key is {KEY}.", "the key is [hidden]."),
        (Redact(), "password=hunter2-Xk9", "password=[hidden]"),
        (Redact(), "nothing to hide, [redacted-1] neither", "nothing to hide, [redacted-1] neither"),
        (Redact(detect=False), f"the key is {KEY}", f"the key is {KEY}"),
        (Redact(secrets=["blue moon"]), "a blue moon, a BLUE MOON", "a [hidden], a BLUE MOON"),
        (Redact([r"\d{3}-\d{2}-\d{4}"]), "number 123-45-6789", "number [hidden]"),
        (Redact([re.compile("moon", re.IGNORECASE)]), "a Moon", "a [hidden]"),
        (Redact([str.upper]), "quiet", "QUIET"),
        (Redact([r"a", r"\["], replacement="<\\1>"), "a[", "<\\1><\\1>"),
        (Redact(secrets=["blue moon"]), "blue moon, " * 3_000, "[hidden], " * 3_000),
    ],
)
async def test_a_result_is_told_without_secrets(hook: Redact, text: str, clean: str) -> None:
    @tool(quick=True)
    def read() -> str:
        """Read something."""
        return text

    model, result = await run(hook, call("read"), Completion("done"), tools=[read])
    (message,) = [each for each in result.transcript if isinstance(each, ToolMessage)]
    assert message.result.text == clean
    assert model.requests[1].messages[-1] == message


async def test_a_known_secret_of_the_environment_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-1845")
    assert Redact(detect=False).clean("it is correct-horse-1845") == "it is [hidden]"


async def test_a_request_is_sent_without_secrets_and_the_transcript_keeps_them() -> None:
    model, result = await run(Redact(), Completion("done"), query=f"use {KEY}", system=f"Yours is {KEY}.")
    (request,) = model.requests
    assert request.system == "Yours is [hidden]."
    assert request.messages[0] == UserMessage("use [hidden]")
    assert result.transcript[0] == UserMessage(f"use {KEY}")


async def test_what_is_clean_is_sent_as_it_is() -> None:
    model, result = await run(Redact(), Completion("done"), query="hello")
    assert model.requests[0].messages[0] is result.transcript[0]


async def test_parts_are_cleaned_and_pictures_left() -> None:
    picture = Image(b"png", "image/png")

    @tool(quick=True)
    def mixed() -> list[Any]:
        """Return several things."""
        return [picture, f"the key is {KEY}", "plain"]

    _, result = await run(Redact(), call("mixed"), Completion("done"), tools=[mixed], query=["a", picture])
    (message,) = [each for each in result.transcript if isinstance(each, ToolMessage)]
    assert message.result.content == (picture, Text("the key is [hidden]"), Text("plain"))


async def test_what_the_model_said_is_cleaned_in_the_next_request_and_done_as_it_was_said() -> None:
    seen: list[Any] = []

    @tool(quick=True)
    def login(password: str, number: int, more: dict[str, Any]) -> str:
        """Log in."""
        seen.append((password, number, more))
        return "in"

    signed = ProviderData("anthropic", "m", {"signature": KEY})
    said = Completion(
        f"I use {KEY}",
        tool_calls=[
            ToolCall(
                "c1", "login", {"password": "hunter2-Xk9", "number": 3, "more": {"keys": [KEY, 1, None]}}
            )
        ],
        reasoning=f"hm, {KEY}",
        provider_data=signed,
    )
    model, _ = await run(Redact(), said, Completion("done"), tools=[login])
    assert seen == [("hunter2-Xk9", 3, {"keys": [KEY, 1, None]})]
    message = model.requests[1].messages[1]
    assert isinstance(message, AssistantMessage)
    assert (message.text, message.reasoning) == ("I use [hidden]", "hm, [hidden]")
    assert message.tool_calls[0].input == {
        "password": "[hidden]",
        "number": 3,
        "more": {"keys": ["[hidden]", 1, None]},
    }
    assert message.provider_data == signed


async def test_one_hook_serves_many_texts() -> None:
    hook = Redact()
    for number in range(2_100):
        await hook._text(f"text {number}")
    assert len(hook._clean_texts) < 2_100


def test_a_hook_does_not_show_its_secrets() -> None:
    assert "blue moon" not in repr(Redact(secrets=["blue moon"]))


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: Redact("x"), TypeError, "patterns must be a list"),
        (lambda: Redact(3), TypeError, "patterns must be a list"),
        (lambda: Redact(["("]), ValueError, r"'\(' is no regular expression"),
        (lambda: Redact([3]), TypeError, "a pattern must be a regular expression or a function"),
        (lambda: Redact(secrets="x"), TypeError, "secrets must be a list of texts"),
        (lambda: attrs.evolve(Redact(), replacement=3), TypeError, "replacement"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        make()
