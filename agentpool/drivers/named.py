"""Drivers by their names, as they are written in manifests, in fleet files and after `--driver`."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from urllib.parse import urlsplit

import attrs
import trio

from agentpool._core.errors import DriverError
from agentpool.abc import Driver
from agentpool.drivers.governed import GovernedDriver
from agentpool.drivers.prices import PriceTable
from agentpool.drivers.retrying import RetryingDriver

Provider: TypeAlias = Literal["openai", "anthropic", "gemini", "ollama", "local", "scripted", "auto"]

DEFAULT_MODELS: Mapping[str, str] = {
    "openai": "gpt-6-luna",
    "anthropic": "claude-haiku-5-5",
    "gemini": "gemini-3.5-flash-lite",
}
"""The models that `auto` takes where only a key says which provider it is: small and cheap ones."""

PROBE_SECONDS = 1.0
"""How long `auto` waits for a local server to answer."""

_NEEDS = "model drivers need pip install 'trio-agentpool[http]'"

_FORMS = (
    "openai:MODEL, anthropic:MODEL, gemini:MODEL, ollama:MODEL, openai+http://HOST:PORT/PATH:MODEL"
    " (the same for the others), local:FILE.gguf, scripted or auto"
)
_MODELS: Mapping[str, tuple[str, ...]] = {
    "openai": ("gpt", "chatgpt", "o1", "o3", "o4"),
    "anthropic": ("claude",),
    "gemini": ("google",),
}
"""How the words begin that people write in the place of a provider."""

# fmt: off
_COMPATIBLE = (
    "azure", "bedrock", "cerebras", "deepinfra", "deepseek", "fireworks", "groq", "huggingface",
    "litellm", "llamacpp", "llama.cpp", "lmstudio", "lm-studio", "mistral", "moonshot", "nvidia",
    "openrouter", "perplexity", "sglang", "together", "vertex", "vllm", "xai",
)
# fmt: on
"""Servers with OpenAI's API that have no name of their own here."""

# The address ends at the colon in front of the model: the first one behind the port or the path. A
# port is taken whole, so that `http://host:8080` alone is not a model of the name 8080. (Not by `?+`:
# that fails to match in Python 3.11.2, which Debian 12 has.)
_WITH_URL = re.compile(
    r"(?P<provider>[a-z]+)\+"
    r"(?P<url>https?://(?:\[[^\]]*\]|[^/:@\s]+)(?::\d+(?!\d)|(?!:\d))(?:/[^:\s]*)?)"
    r":(?P<model>\S+)"
)
_PLAIN = re.compile(r"(?P<provider>[a-z]+):(?P<model>\S+)")


@attrs.frozen
class DriverName:
    """A driver's name, taken apart.

    Attributes:
      provider: `openai`, `anthropic`, `gemini`, `ollama`, `local`, `scripted` or `auto`.
      model: the model; empty for `scripted` and `auto`; for `local` the path of its file.
      base_url: the address of the server, where the name has one.
    """

    provider: Provider
    model: str = ""
    base_url: str | None = None

    def __str__(self) -> str:
        if self.base_url is not None:
            return f"{self.provider}+{self.base_url}:{self.model}"
        return f"{self.provider}:{self.model}" if self.model else self.provider


@attrs.frozen
class ChosenDriver:
    """What `auto` came to: a name, and in a sentence why it is that one."""

    name: DriverName
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def parse_driver_name(name: str) -> DriverName:
    """Take a driver's name apart.

    Raises:
      ValueError: if it is not a driver's name; the text says how one is written.
    """
    text = name.strip()
    if text == "auto":
        return DriverName("auto")
    if text == "scripted":
        return DriverName("scripted")
    if text.startswith("local:"):
        return _local_name(text)
    match = None if _has_password(text) else _WITH_URL.fullmatch(text) or _PLAIN.fullmatch(text)
    if match is None or match["model"].startswith(("http://", "https://")):
        raise ValueError(_why_not(text))
    found = match.groupdict()
    provider = _provider(found["provider"], text)
    return DriverName(provider, found["model"], found.get("url"))


def placed_driver_name(name: str, base: Path | None) -> str:
    """Return a driver's name as it stands in a file, with a model's path that is relative to that file.

    Args:
      name: the name; one that is wrong is left as it is, for `parse_driver_name` to tell.
      base: the directory of the file; None if it came from none.
    """
    provider, _, path = name.strip().partition(":")
    path = path.strip()
    if provider != "local" or base is None or not path or path.startswith("~"):
        return name
    return f"local:{base / path}"


def _local_name(text: str) -> DriverName:
    path = text.removeprefix("local:").strip()
    if not path or "\0" in path:
        raise ValueError(f"{text!r} names no file: write local:FILE.gguf")
    return DriverName("local", path)


def _provider(word: str, text: str) -> Provider:
    if word == "openai":
        return "openai"
    if word == "anthropic":
        return "anthropic"
    if word == "gemini":
        return "gemini"
    if word == "ollama":
        return "ollama"
    raise ValueError(_why_not(text))


def _has_password(text: str) -> bool:
    return "@" in text.partition("://")[2].partition("/")[0]


def _meant(word: str) -> str:
    """Return what somebody may have meant who wrote the name of a model, or of another provider."""
    if word in get_args(Provider):
        return f". Did you mean {word}, in small letters?"
    for provider, beginnings in _MODELS.items():
        if word.startswith(beginnings):
            return f". Did you mean {provider}:MODEL?"
    if word in _COMPATIBLE:
        return f". A server with OpenAI's API, as {word} has it, is openai+https://HOST/PATH:MODEL"
    return ""


def _why_not(text: str) -> str:
    """Return what is wrong with a driver's name, without showing a password that may be in it."""
    if _has_password(text):
        return "a driver's name must not hold a user name or a password: set AGENTPOOL_API_KEY instead"
    first = re.split(r"[:+]", text, maxsplit=1)[0]
    if first == "local":
        return f"{text!r} names no file of a model: write local:FILE.gguf"
    if first in ("scripted", "auto"):
        return f"{text!r} is not the name of a driver: write {first!r} alone"
    if first not in get_args(Provider):
        return f"{text!r} is not the name of a driver: write {_FORMS}{_meant(first.strip().lower())}"
    if "://" in text or "+" in text:
        return f"{text!r} names no server, or no model there: write {first}+http://127.0.0.1:8080/v1:MODEL"
    return f"{text!r} names no model: write {first}:MODEL"


@asynccontextmanager
async def open_driver(
    name: str | DriverName,
    *,
    env: Mapping[str, str] | None = None,
    prices: PriceTable | None = None,
    resilient: bool = False,
    context_window: int | None = None,
) -> AsyncIterator[Driver | None]:
    """Open the driver of a name; leaving the block closes its connections, or lets its model go.

    The value is None for `scripted`: then each agent follows the script of its own manifest. To
    tell the user what `auto` came to, ask `choose_driver` first, and open the name that it gives.

    Keys are read from `OPENAI_API_KEY`, `ANTHROPIC_API_KEY`, `GEMINI_API_KEY` (else `GOOGLE_API_KEY`)
    and `OLLAMA_API_KEY`, and go to the provider that they are named after only. A server whose address
    is in the name is given `AGENTPOOL_API_KEY`, if that is set. Without one in the name, `OPENAI_BASE_URL`,
    `ANTHROPIC_BASE_URL`, `GOOGLE_GEMINI_BASE_URL` and `OLLAMA_HOST` may name another server.

    Args:
      name: of the driver.
      env: where the keys and these addresses are read from; left out, the environment of the process.
      prices: left out, the file that `AGENTPOOL_PRICES` names on top of the table of the package.
      resilient: whether to put a `GovernedDriver` and a `RetryingDriver` with their defaults around
        it, as `agentpool run` does, so that many agents can share it.
      context_window: tokens that one call of a `local` model may have; left out, as `LocalDriver`.

    Raises:
      ValueError: if the name is wrong, or the key that it needs is not set.
      ModuleNotFoundError: if httpx2 is not installed, or xllamacpp for a `local` one; it names the
        `pip install`.
      ManifestError: if the file of prices is wrong.
    """
    env = os.environ if env is None else env
    if isinstance(name, str):
        name = parse_driver_name(name)
    if name.provider == "auto":
        name = (await choose_driver(env=env)).name
    if name.provider == "scripted":
        yield None
        return
    if prices is None and env.get("AGENTPOOL_PRICES"):
        prices = PriceTable.load(env["AGENTPOOL_PRICES"])
    async with _make(name, env, prices, context_window) as driver:
        yield RetryingDriver(GovernedDriver(driver)) if resilient else driver


def _make(
    name: DriverName, env: Mapping[str, str], prices: PriceTable | None, context_window: int | None
) -> AbstractAsyncContextManager[Driver]:
    """Make a model driver. It is given its key and address, so that it looks for none by itself."""
    key = env.get("AGENTPOOL_API_KEY" if name.base_url else f"{name.provider.upper()}_API_KEY", "")
    match name.provider:
        case "openai":
            from agentpool.drivers import openai

            url = name.base_url or env.get("OPENAI_BASE_URL") or openai.DEFAULT_URL
            return openai.OpenAIDriver(name.model, base_url=url, api_key=key, prices=prices)
        case "anthropic":
            from agentpool.drivers import anthropic

            url = name.base_url or env.get("ANTHROPIC_BASE_URL") or anthropic.DEFAULT_URL
            return anthropic.AnthropicDriver(name.model, base_url=url, api_key=key, prices=prices)
        case "gemini":
            from agentpool.drivers import gemini

            url = name.base_url or env.get("GOOGLE_GEMINI_BASE_URL") or gemini.DEFAULT_URL
            key = key if name.base_url else gemini.gemini_key(env)
            return gemini.GeminiDriver(name.model, base_url=url, api_key=key, prices=prices)
        case "ollama":
            from agentpool.drivers import ollama

            url = name.base_url or ollama.ollama_url(env)
            return ollama.OllamaDriver(name.model, base_url=url, api_key=key, prices=prices)
        case "local":
            from agentpool.drivers import local

            return local.LocalDriver(name.model, context_window=context_window)
        case _:
            raise ValueError(f"{name} is no model driver")


async def choose_driver(*, env: Mapping[str, str] | None = None) -> ChosenDriver:
    """Choose the driver that `auto` stands for.

    The first of these: OpenAI, Anthropic or Gemini, if its key is set; Ollama, if it answers (at
    `OLLAMA_HOST` or its usual port, within a second) and has a model; else `scripted`.

    Args:
      env: where the keys are looked for; left out, the environment of the process.

    Checkpoint: always. Cancellation: nothing is left behind.
    """
    env = os.environ if env is None else env
    passed_over: list[str] = []
    for provider, model in DEFAULT_MODELS.items():
        key = f"{provider.upper()}_API_KEY"
        if not env.get(key):
            continue
        if find_spec("httpx2") is not None:
            await trio.lowlevel.checkpoint()
            return ChosenDriver(parse_driver_name(f"{provider}:{model}"), f"{key} is set")
        passed_over.append(f"{key} is set, but {_NEEDS}")
        break  # the others need it as well
    found = await _local_server(env, passed_over)
    if found is not None:
        return found
    reason = "no key is set and no local server answers" if not passed_over else "nothing else can be used"
    return ChosenDriver(DriverName("scripted"), _because(reason, passed_over))


def _because(reason: str, passed_over: list[str]) -> str:
    return "; ".join([reason, *passed_over])


async def _local_server(env: Mapping[str, str], passed_over: list[str]) -> ChosenDriver | None:
    from agentpool.drivers.ollama import ollama_url

    url = ollama_url(env)
    if not await _listens(url):
        return None
    if find_spec("httpx2") is None:
        passed_over.append(f"Ollama answers at {url}, but {_NEEDS}")
        return None
    models = await _models(url, env)
    if not models:
        passed_over.append(f"something listens at {url}, but offers no model")
        return None
    return ChosenDriver(DriverName("ollama", models[0]), f"Ollama answers at {url}")


async def _listens(url: str) -> bool:
    """Return whether somebody takes connections, before httpx2 is loaded to find out the same."""
    parts = urlsplit(url)
    with trio.move_on_after(PROBE_SECONDS):
        try:
            stream = await trio.open_tcp_stream(parts.hostname or "", parts.port or 80)
        except (OSError, ValueError):
            return False
        await trio.aclose_forcefully(stream)
        return True
    return False


async def _models(url: str, env: Mapping[str, str]) -> list[str]:
    from agentpool.drivers.ollama import OllamaDriver

    models: tuple[str, ...] = ()
    async with OllamaDriver("auto", base_url=url, api_key=env.get("OLLAMA_API_KEY", "")) as driver:
        with trio.move_on_after(PROBE_SECONDS):
            try:
                models = await driver.list_models()
            except DriverError:
                pass
    return [model for model in models if "embed" not in model]  # those only make vectors
