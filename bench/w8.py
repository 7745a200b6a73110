"""W8, a turn over the wire: CPU of the client on loopback, 20 calls at once, connections kept.

The server is a process of its own (`w8_server`). What is imported is imported in the functions, so
that `setup_*` measures it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from bench.meters import cpu

AT_ONCE = 20
TURNS = 10


@contextmanager
def server() -> Iterator[str]:
    """Run the server; the value is its address."""
    command = [sys.executable, "-m", "bench.w8_server"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        process.stdin.close()


async def at_once(call: Callable[[], Awaitable[None]], count: int) -> None:
    """Make `count` calls, 20 at once."""
    import trio

    async def some() -> None:
        for _ in range(count // AT_ONCE):
            await call()

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(some)


Make = Callable[[str], Callable[[], Awaitable[None]]]


BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100}


# -- the floor: httpx2 alone --------------------------------------------------------------


def _floor(size: int, *, streams: bool) -> dict[str, float]:
    import httpx2
    import trio

    ms = 0.0

    async def main(url: str) -> None:
        nonlocal ms
        limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)
        async with httpx2.AsyncClient(limits=limits) as client:

            async def plain() -> None:
                response = await client.post(f"{url}/chat/completions", json=BODY)
                assert response.json()["choices"]

            async def stream() -> None:
                texts: list[str] = []
                asked = {**BODY, "stream": True}
                async with client.sse(f"{url}/chat/completions", method="POST", json=asked) as events:
                    async for event in events:
                        if event.data != "[DONE]":
                            for choice in json.loads(event.data)["choices"]:
                                texts.append(choice["delta"].get("content") or "")
                assert len(texts) == 51

            call = stream if streams else plain
            await at_once(call, AT_ONCE)
            with cpu() as span:
                await at_once(call, size)
            ms = span.per(size) / 1000

    with server() as url:
        trio.run(main, url)
    return {"ms": ms}


def floor_plain(size: int) -> dict[str, float]:
    return _floor(size, streams=False)


def floor_stream(size: int) -> dict[str, float]:
    return _floor(size, streams=True)


def floor_setup(size: int) -> dict[str, float]:
    """Import, first client, first answer."""

    def run(url: str) -> None:
        import httpx2
        import trio

        async def main() -> None:
            async with httpx2.AsyncClient() as client:
                (await client.post(f"{url}/chat/completions", json=BODY)).json()

        trio.run(main)

    with server() as url:
        start = time.process_time()
        run(url)
    return {"s": time.process_time() - start}


def floor_crowd(size: int) -> dict[str, float]:
    """`size` tasks of 10 calls each."""
    import httpx2
    import trio

    async def main(url: str) -> None:
        limits = httpx2.Limits(max_connections=size, max_keepalive_connections=size)
        async with httpx2.AsyncClient(limits=limits) as client:

            async def task() -> None:
                for _ in range(TURNS):
                    (await client.post(f"{url}/chat/completions", json=BODY)).json()

            async with trio.open_nursery() as nursery:
                for _ in range(size):
                    nursery.start_soon(task)

    with server() as url, cpu() as span:
        trio.run(main, url)
    return {"ms": span.per(size * TURNS) / 1000}


# -- agentpool: model agents of ten turns, with retries, a governor, a budget and events -----------


def _agentpool(size: int, *, streams: bool) -> dict[str, float]:
    import trio

    from agentpool import (
        AgentManifest,
        Budget,
        EventSubscription,
        GovernedDriver,
        ModelAgent,
        OpenAIDriver,
        RetryingDriver,
        TextDeltaReceived,
        open_agent_pool,
        tool,
    )

    ms = 0.0

    async def main(url: str) -> None:
        nonlocal ms

        def add(a: int, b: int) -> int:
            """Add two numbers."""
            return a + b

        agent = ModelAgent(AgentManifest(name="a"), tools=[tool(quick=True)(add)])
        agents = size // TURNS
        async with OpenAIDriver("m", base_url=url, api_key="a-key-of-nobody") as wire:
            driver = RetryingDriver(GovernedDriver(wire))
            budget = Budget(tokens=1_000_000_000)
            async with open_agent_pool(driver, max_concurrent=AT_ONCE, budget=budget) as pool:

                async def read(*, task_status: trio.TaskStatus[EventSubscription]) -> None:
                    nonlocal deltas
                    async with pool.events(max_buffer=100_000) as events:
                        task_status.started(events)
                        async for event in events:
                            deltas += isinstance(event, TextDeltaReceived)

                deltas = 0
                async with trio.open_nursery() as nursery:
                    reader = await nursery.start(read) if streams else None
                    await pool.map(agent, ["hello"] * AT_ONCE)
                    with cpu() as span:
                        outcomes = await pool.map(agent, ["hello"] * agents)
                        while reader is not None and reader.statistics().buffered:
                            await trio.lowlevel.checkpoint()
                    assert all(outcome.unwrap().text for outcome in outcomes)
                    nursery.cancel_scope.cancel()
                assert deltas == (0 if not streams else 50 * TURNS * (agents + AT_ONCE))
                ms = span.per(agents * TURNS) / 1000

    with server() as url:
        trio.run(main, url)
    return {"ms": ms}


@contextmanager
def _whole_answers() -> Iterator[None]:
    """Have no answer streamed underneath, as it is not where the server is another machine."""
    from agentpool.drivers._http_driver import HttpDriver

    before = HttpDriver._streams_underneath
    HttpDriver._streams_underneath = lambda self: False  # type: ignore[method-assign]
    try:
        yield
    finally:
        HttpDriver._streams_underneath = before  # type: ignore[method-assign]


def agentpool_plain(size: int) -> dict[str, float]:
    """Calls of the driver that a pool hands out to 20 agents."""
    import trio

    from agentpool import (
        AgentContext,
        Budget,
        CompletionRequest,
        GovernedDriver,
        OpenAIDriver,
        RetryingDriver,
        UserMessage,
        open_agent_pool,
    )

    request = CompletionRequest(messages=[UserMessage("hello")], max_tokens=100)
    ms = 0.0

    async def agent(ctx: AgentContext, calls: int) -> None:
        assert ctx.driver is not None
        for _ in range(calls):
            await ctx.driver.complete(request)

    async def main(url: str) -> None:
        nonlocal ms
        async with OpenAIDriver("m", base_url=url, api_key="a-key-of-nobody") as wire:
            driver = RetryingDriver(GovernedDriver(wire))
            budget = Budget(tokens=1_000_000_000)
            async with open_agent_pool(driver, max_concurrent=AT_ONCE, budget=budget) as pool:
                await pool.map(agent, [1] * AT_ONCE)
                with cpu() as span:
                    outcomes = await pool.map(agent, [size // AT_ONCE] * AT_ONCE)
                for outcome in outcomes:
                    outcome.unwrap()
                ms = span.per(size) / 1000

    with _whole_answers(), server() as url:
        trio.run(main, url)
    return {"ms": ms}


def agentpool_turns(size: int) -> dict[str, float]:
    """Turns of model agents, with their loop, their tool calls, and conversations that grow."""
    with _whole_answers():
        return _agentpool(size, streams=False)


def agentpool_stream(size: int) -> dict[str, float]:
    return _agentpool(size, streams=True)


def agentpool_setup(size: int) -> dict[str, float]:
    """Import, first client, first answer."""

    def run(url: str) -> None:
        import trio

        from agentpool import CompletionRequest, OpenAIDriver, UserMessage

        async def main() -> None:
            async with OpenAIDriver("m", base_url=url, api_key="a-key-of-nobody") as driver:
                await driver.complete(CompletionRequest(messages=[UserMessage("hello")]))

        trio.run(main)

    with server() as url:
        start = time.process_time()
        run(url)
    return {"s": time.process_time() - start}


def agentpool_crowd(size: int) -> dict[str, float]:
    """`size` agents of 10 calls each; at the end no socket is left."""
    import trio

    from agentpool import AgentContext, CompletionRequest, OpenAIDriver, UserMessage, open_agent_pool

    request = CompletionRequest(messages=[UserMessage("hello")], max_tokens=100)
    sockets = _sockets()

    async def agent(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        for _ in range(TURNS):
            await ctx.driver.complete(request)

    async def main(url: str) -> None:
        async with OpenAIDriver("m", base_url=url, api_key="a-key-of-nobody") as driver:
            async with open_agent_pool(driver, max_concurrent=size) as pool:
                await pool.fan_out([agent] * size)
                for outcome in (await pool.join_all()).values():
                    outcome.unwrap()

    with server() as url, cpu() as span:
        trio.run(main, url)
    assert _sockets() == sockets
    return {"ms": span.per(size * TURNS) / 1000}


def _sockets() -> int:
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(os.path.islink(link) and os.readlink(link).startswith("socket:") for link in links)
