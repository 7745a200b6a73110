"""One of each model driver, for tests that all of them have to pass."""

from __future__ import annotations

from collections.abc import Callable

from agentpool.drivers._http_driver import HttpDriver
from agentpool.drivers.anthropic import AnthropicDriver
from agentpool.drivers.gemini import GeminiDriver
from agentpool.drivers.ollama import OllamaDriver
from agentpool.drivers.openai import OpenAIDriver

KEY = "sk-canary-0123456789"

Make = Callable[[str], HttpDriver]

DRIVERS: dict[str, Make] = {
    "chat": lambda url: OpenAIDriver("gpt-4o", base_url=f"{url}/v1", api_key=KEY),
    "responses": lambda url: OpenAIDriver("gpt-4o", base_url=f"{url}/v1", api_key=KEY, api="responses"),
    "anthropic": lambda url: AnthropicDriver("claude-haiku-4-5", base_url=url, api_key=KEY),
    "gemini": lambda url: GeminiDriver("gemini-2.5-flash", base_url=url, api_key=KEY),
    "ollama": lambda url: OllamaDriver("llama3.2", base_url=url, api_key=KEY),
}
