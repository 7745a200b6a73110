"""Presses Ctrl-C at random lines of the library, each time in a process of its own.

    python tests/ctrl_c_kit.py --strikes 5000 --seed 1

Every process has to end with KeyboardInterrupt, as it is and not in a group; every agent that was
spawned has to have its outcome, and the books of every pool have to add up.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import trio
import trio.testing

import agentpool
from agentpool import (
    AgentContext,
    AgentHandle,
    AgentManifest,
    AgentPool,
    Budget,
    Completion,
    RestartPolicy,
    ScriptedDriver,
    SpawnConfig,
    ToolCall,
    ToolRegistry,
    open_agent_pool,
    tool,
)

HOME = str(Path(agentpool.__file__).parent)
PATIENCE = 20.0
"""Seconds of the wall clock after which a process hangs."""

pools: list[AgentPool] = []
handles: list[AgentHandle[Any]] = []


# -- a program that uses much of the library -----------------------------------------------------------


async def number(ctx: AgentContext, what: int) -> int:
    await trio.sleep(what % 3)
    return what


async def server(ctx: AgentContext) -> None:
    ctx.subscribe("news")
    async for message in ctx.inbox:
        ctx.reply(message, message.content)


async def fails_twice(ctx: AgentContext, lives: list[int]) -> int:
    lives.append(1)
    if len(lives) < 3:
        raise ValueError("life")
    return len(lives)


async def numbers() -> AsyncIterator[int]:
    for i in range(3):
        await trio.sleep(0)
        yield i


async def lead(ctx: AgentContext, to: int) -> int:
    await ctx.map(number, [1, 2, 3])
    async with ctx.as_completed(number, numbers()) as outcomes:
        async for outcome in outcomes:
            outcome.unwrap()
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(ctx.ask, to, "one")
        nursery.start_soon(ctx.publish, "news", "two")
    with trio.move_on_after(0.5):
        await ctx.receive()
    async with open_agent_pool(max_concurrent=1) as inner:
        pools.append(inner)
        handles.append(await inner.spawn(number, 1))
    child = await ctx.spawn(number, 5)
    handles.append(child)
    return await child.result()


@tool(quick=True)
def add(a: int, b: int) -> int:
    """Add.

    Args:
      a: one.
      b: two.
    """
    return a + b


async def program(cap: int) -> None:
    driver = ScriptedDriver([Completion("", (ToolCall("1", "add", {"a": 1, "b": 2}),)), "Three."])
    registry = ToolRegistry([add])
    async with open_agent_pool(
        driver, max_concurrent=cap, tool_builder=lambda _: registry, budget=Budget(tokens=10**9)
    ) as pool:
        pools.append(pool)
        async with pool.events() as events:
            served = await pool.spawn(server)
            handles.append(served)
            for _ in range(2):
                handles.append(await pool.spawn(lead, served.id, timeout=50))
            handles.append(
                await pool.spawn(fails_twice, [], restart=RestartPolicy(max_restarts=5, backoff=1))
            )
            handles.append(await pool.spawn(SpawnConfig(AgentManifest(name="adder"), "Add.")))
            (await pool.race(lambda ctx: number(ctx, 1), lambda ctx: number(ctx, 2))).unwrap()
            await pool.vote(number, 3, n=3)
            assert await pool.ask(served.id, "y") == "y"
            late = await pool.spawn(server)
            handles.append(late)
            late.abort("enough")
            await late.wait()
            for handle in handles[1:-1]:
                await handle.wait()
            events.statistics()
        await pool.drain(grace=30)


# -- one strike ------------------------------------------------------------------------------------------


class Tracer:
    """Counts the lines that run in the library, and strikes at one of them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        if event == "line":
            self.count += 1
            if self.count == self.at:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self


def run(cap: int, at: int) -> tuple[str, Tracer]:
    """Run the program with a strike at its `at`-th line; tell what is wrong, or nothing."""
    tracer = Tracer(at)
    came: BaseException | None = None
    sys.settrace(tracer)
    try:
        trio.run(program, cap, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as error:
        came = error
    finally:
        sys.settrace(None)
    wrong = []
    if tracer.where and type(came) is not KeyboardInterrupt:
        wrong.append(f"{came!r} came out")
    if not tracer.where and came is not None:
        wrong.append(f"without Ctrl-C {came!r} came out")
    wrong += [f"agent {handle.id} has no outcome" for handle in handles if handle.outcome is None]
    for pool in pools:
        wrong += pool._books().problems()
    return "; ".join(wrong), tracer


def strike(cap: int, at: int) -> tuple[str, str]:
    """Strike in a process of its own; return where, and what is wrong."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        wrong, tracer = run(cap, at)
        os.write(writer, f"{tracer.where}|{tracer.count}|{wrong}".encode()[:4000])
        os._exit(0)
    os.close(writer)
    told = b""
    while select.select([reader], [], [], PATIENCE)[0] and (part := os.read(reader, 5000)):
        told += part
    os.close(reader)
    if not told:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if not told:
        return f"line {at}", "it hangs"
    where, count, wrong = told.decode().split("|", 2)
    return where or f"after {count} lines", wrong


def main() -> int:
    """Strike so many times; return 1 if anything went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--strikes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random = Random(options.seed)
    found = struck = 0
    lines = {cap: int(strike(cap, 0)[0].split()[1]) for cap in (1, 4)}
    for _ in range(options.strikes):
        cap = random.choice((1, 4))
        at = random.randint(1, lines[cap])
        where, wrong = strike(cap, at)
        struck += "after" not in where
        if wrong:
            found += 1
            print(f"cap {cap}, line {at}, {where}: {wrong}", flush=True)
    print(f"{struck} strikes in {lines} lines, {found} went wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
