from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio
from rawserver import answer, raw_server

from agentpool._core.capability import PrivacyTier
from agentpool._core.messages import CompletionRequest, UserMessage
from agentpool.drivers.anthropic import AnthropicDriver
from agentpool.drivers.gemini import GeminiDriver
from agentpool.drivers.named import ChosenDriver, DriverName, choose_driver, open_driver, parse_driver_name
from agentpool.drivers.ollama import OllamaDriver, ollama_url
from agentpool.drivers.openai import OpenAIDriver

pytest.importorskip("httpx2", reason="the extra http is not installed")

NOBODY = {"OLLAMA_HOST": "127.0.0.1:9"}
"""An environment without keys, and without a local server that this machine may have."""
KEY = "sk-canary-0123456789"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("openai:gpt-5", DriverName("openai", "gpt-5")),
        ("anthropic:claude-haiku-4-5", DriverName("anthropic", "claude-haiku-4-5")),
        ("ollama:llama3.2:3b", DriverName("ollama", "llama3.2:3b")),
        ("gemini:gemini-3.5-flash", DriverName("gemini", "gemini-3.5-flash")),
        ("gemini+http://h:80/v1beta:m", DriverName("gemini", "m", "http://h:80/v1beta")),
        ("openai+http://127.0.0.1:8080/v1:m", DriverName("openai", "m", "http://127.0.0.1:8080/v1")),
        ("openai+http://h:80/v1:llama3.2:3b", DriverName("openai", "llama3.2:3b", "http://h:80/v1")),
        ("openai+https://h/a/b:Qwen/Q-2", DriverName("openai", "Qwen/Q-2", "https://h/a/b")),
        ("openai+http://h:8000:Qwen/Q", DriverName("openai", "Qwen/Q", "http://h:8000")),
        ("openai+http://h:m", DriverName("openai", "m", "http://h")),
        ("ollama+http://[::1]:11434:m", DriverName("ollama", "m", "http://[::1]:11434")),
        ("scripted", DriverName("scripted")),
        ("auto", DriverName("auto")),
    ],
)
def test_a_name_is_taken_apart_and_put_together_again(text: str, name: DriverName) -> None:
    assert parse_driver_name(f" {text}\n") == name
    assert str(name) == text


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("", "openai:MODEL"),
        ("gpt-5", "openai:MODEL"),
        ("palm:pro", "anthropic:MODEL"),
        ("palm+http://h/v1:pro", "gemini:MODEL"),
        ("openai", "write openai:MODEL"),
        ("openai:", "write openai:MODEL"),
        ("openai:two words", "write openai:MODEL"),
        ("auto:gpt-5", "write 'auto' alone"),
        ("scripted+http://h:m", "write 'scripted' alone"),
        ("openai+http://127.0.0.1:8080", r"openai\+http://127.0.0.1:8080/v1:MODEL"),
        ("openai+http://127.0.0.1:8080/v1", r"openai\+http://127.0.0.1:8080/v1:MODEL"),
        ("openai+ftp://h/v1:m", r"openai\+http://127.0.0.1:8080/v1:MODEL"),
        ("openai:http://127.0.0.1:8080/v1:m", r"openai\+http://127.0.0.1:8080/v1:MODEL"),
        ("anthropic+m", r"anthropic\+http://127.0.0.1:8080/v1:MODEL"),
    ],
)
def test_a_wrong_name_is_told_with_its_fix(text: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        parse_driver_name(text)


def test_a_password_in_a_name_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="AGENTPOOL_API_KEY") as caught:
        parse_driver_name("openai+http://me:secret@127.0.0.1/v1:m")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="api_key") as caught:
        OpenAIDriver("m", base_url="http://me:secret@127.0.0.1/v1", api_key="")
    assert "secret" not in str(caught.value)


async def test_a_name_opens_its_driver_with_the_key_from_the_environment() -> None:
    async with open_driver("openai:gpt-4o", env={"OPENAI_API_KEY": KEY}) as driver:
        assert isinstance(driver, OpenAIDriver)
        assert driver.base_url == "https://api.openai.com/v1"
        assert driver.privacy is PrivacyTier.STANDARD
        assert KEY not in repr(driver)
    async with open_driver("anthropic:claude-opus-5", env={"ANTHROPIC_API_KEY": KEY}) as driver:
        assert isinstance(driver, AnthropicDriver)
        assert driver.context_window == 1_000_000
    for env in ({"GEMINI_API_KEY": KEY, "GOOGLE_API_KEY": "another"}, {"GOOGLE_API_KEY": KEY}):
        async with open_driver("gemini:gemini-3.5-flash-lite", env=env) as driver:
            assert isinstance(driver, GeminiDriver)
            assert driver.base_url == "https://generativelanguage.googleapis.com/v1beta"
            assert driver._credentials() == {"x-goog-api-key": KEY}
    async with open_driver("ollama:m", env={"OLLAMA_HOST": "0.0.0.0:80"}) as driver:
        assert isinstance(driver, OllamaDriver)
        assert driver.base_url == "http://127.0.0.1:80"


async def test_the_driver_is_closed_behind_the_block() -> None:
    async with open_driver(DriverName("openai", "m", "http://127.0.0.1:9"), env={}) as driver:
        assert driver is not None
    with pytest.raises(trio.ClosedResourceError):
        await driver.complete(CompletionRequest())


async def test_a_missing_key_is_told_and_not_looked_for_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        async with open_driver("openai:gpt-4o", env={}):
            pass  # pragma: no cover
    async with open_driver("openai:gpt-4o"):
        pass


async def test_a_server_that_a_name_points_to_is_not_given_the_key_of_a_provider() -> None:
    reply = answer(
        200, {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}], "usage": None}
    )
    env = {"OPENAI_API_KEY": KEY}
    async with raw_server(reply) as server:
        for extra, expected in (
            ({}, ""),
            ({"AGENTPOOL_API_KEY": "sk-mine-01"}, "authorization: bearer sk-mine-01\r\n"),
        ):
            async with open_driver(f"openai+{server.url}/v1:m", env={**env, **extra}) as driver:
                assert driver is not None
                await driver.complete(CompletionRequest(messages=[UserMessage("x")]))
            head = server.requests[-1][0].lower()
            assert expected in head if expected else "authorization" not in head


async def test_scripted_leaves_each_agent_to_its_own_script() -> None:
    async with open_driver("scripted", env={}) as driver:
        assert driver is None


async def test_prices_of_your_own_are_named_by_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("[openai]\nmine = { input = 1, output = 1, context_window = 77 }\n")
    env = {"AGENTPOOL_PRICES": str(path)}
    async with open_driver("openai+http://127.0.0.1:9/v1:mine", env=env) as driver:
        assert driver is not None
        assert driver.context_window == 77


# -- auto


async def test_auto_takes_the_provider_whose_key_is_set() -> None:
    chosen = await choose_driver(env={"ANTHROPIC_API_KEY": KEY})
    assert chosen.name.provider == "anthropic"
    assert "ANTHROPIC_API_KEY" in chosen.reason
    chosen = await choose_driver(env={"GEMINI_API_KEY": KEY})
    assert chosen.name.provider == "gemini"
    everything = {"ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": KEY, "GEMINI_API_KEY": KEY}
    chosen = await choose_driver(env=everything)
    assert chosen.name.provider == "openai"
    assert KEY not in str(chosen)


async def test_auto_says_what_is_missing_for_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    chosen = await choose_driver(env={**NOBODY, "OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY})
    assert chosen.name == DriverName("scripted")
    assert chosen.reason.count("pip install 'trio-agentpool[http]'") == 1
    assert "OPENAI_API_KEY is set" in chosen.reason


async def test_auto_takes_no_key_that_may_be_for_something_else() -> None:
    assert (await choose_driver(env={**NOBODY, "GOOGLE_API_KEY": KEY})).name == DriverName("scripted")


async def test_auto_takes_a_local_server_that_answers() -> None:
    models = {"models": [{"model": "nomic-embed-text"}, {"model": "llama3.2:3b"}]}
    async with raw_server(answer(200, models)) as server:
        env = {"OLLAMA_HOST": server.url}
        assert await choose_driver(env=env) == ChosenDriver(
            DriverName("ollama", "llama3.2:3b"), f"Ollama answers at {server.url}"
        )
        async with open_driver("auto", env=env) as driver:
            assert isinstance(driver, OllamaDriver)
            assert driver.model == "llama3.2:3b"


@pytest.mark.parametrize("reply", [answer(200, {"models": []}), answer(500, {}), answer(200, b"<html>")])
async def test_auto_falls_back_to_scripts_if_the_local_server_offers_nothing(reply: bytes) -> None:
    async with raw_server(reply) as server:
        chosen = await choose_driver(env={"OLLAMA_HOST": server.url})
    assert chosen.name == DriverName("scripted")
    assert "offers no model" in chosen.reason


async def test_auto_does_not_wait_for_a_local_server_that_hangs() -> None:
    async with raw_server(b"", stay=True) as server:
        with trio.fail_after(3):
            chosen = await choose_driver(env={"OLLAMA_HOST": server.url})
        assert chosen.name == DriverName("scripted")


async def test_auto_falls_back_to_scripts_if_nobody_listens() -> None:
    chosen = await choose_driver(env=NOBODY)
    assert str(chosen) == "scripted (no key is set and no local server answers)"
    async with open_driver("auto", env=NOBODY) as driver:
        assert driver is None


async def test_auto_says_what_is_missing_for_a_local_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    async with raw_server(b"") as server:
        chosen = await choose_driver(env={"OLLAMA_HOST": server.url})
    assert "pip install 'trio-agentpool[http]'" in chosen.reason


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        (":8000", "http://127.0.0.1:8000"),
        ("example.com", "http://example.com:11434"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com/ollama/", "https://example.com:443/ollama"),
        ("[::1]:80", "http://[::1]:80"),
    ],
)
def test_ollama_is_found_where_ollama_itself_would_listen(host: str, url: str) -> None:
    assert ollama_url({"OLLAMA_HOST": host}) == url
