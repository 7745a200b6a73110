"""W8 of others: the OpenAI SDK alone, and two libraries on top of it, on asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bench.meters import cpu
from bench.w8 import AT_ONCE, server

KEY = "a-key-of-nobody"
Make = Callable[[str], Callable[[], Awaitable[None]]]


def _measure(make: Make, size: int) -> dict[str, float]:
    """Measure the call that `make` returns for an address, 20 at once."""
    start = time.process_time()
    ms = setup = 0.0

    async def main(url: str) -> None:
        nonlocal ms, setup
        call = make(url)
        await call()
        setup = time.process_time() - start

        async def some(count: int) -> None:
            for _ in range(count):
                await call()

        await asyncio.gather(*(some(1) for _ in range(AT_ONCE)))
        with cpu() as span:
            await asyncio.gather(*(some(size // AT_ONCE) for _ in range(AT_ONCE)))
        ms = span.per(size) / 1000

    with server() as url:
        asyncio.run(main(url))
    return {"ms": ms, "s": setup}


def _sdk(url: str, *, streams: bool) -> Callable[[], Awaitable[None]]:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)

    async def plain() -> None:
        reply = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hello"}]
        )
        assert reply.choices[0].message.content

    async def stream() -> None:
        pieces = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        count = 0
        async for piece in pieces:
            count += len(piece.choices)
        assert count == 51

    return stream if streams else plain


def sdk_plain(size: int) -> dict[str, float]:
    return _measure(lambda url: _sdk(url, streams=False), size)


def sdk_stream(size: int) -> dict[str, float]:
    return _measure(lambda url: _sdk(url, streams=True), size)


def _pydantic_ai(url: str, *, streams: bool) -> Callable[[], Awaitable[None]]:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent = Agent(OpenAIChatModel("m", provider=OpenAIProvider(base_url=url, api_key=KEY)))

    async def plain() -> None:
        assert (await agent.run("hello")).output

    async def stream() -> None:
        async with agent.run_stream("hello") as result:
            async for _ in result.stream_text(delta=True, debounce_by=None):
                pass

    return stream if streams else plain


def pydantic_ai_plain(size: int) -> dict[str, float]:
    return _measure(lambda url: _pydantic_ai(url, streams=False), size)


def pydantic_ai_stream(size: int) -> dict[str, float]:
    return _measure(lambda url: _pydantic_ai(url, streams=True), size)


def _langchain(url: str, *, streams: bool) -> Callable[[], Awaitable[None]]:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    model = ChatOpenAI(model="m", base_url=url, api_key=SecretStr(KEY), max_retries=0)

    async def plain() -> None:
        assert (await model.ainvoke("hello")).content

    async def stream() -> None:
        async for _ in model.astream("hello"):
            pass

    return stream if streams else plain


def langchain_plain(size: int) -> dict[str, float]:
    return _measure(lambda url: _langchain(url, streams=False), size)


def langchain_stream(size: int) -> dict[str, float]:
    return _measure(lambda url: _langchain(url, streams=True), size)
