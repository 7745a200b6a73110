"""A pool on a cluster, in situations that users of comparable systems reported.

    reported.py ADDRESS SITUATION [ARGUMENT]

Everything of its agents is defined here, in `__main__`, which no worker can import.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from agentpool import (
    Aborted,
    AgentContext,
    AgentPool,
    Completed,
    Failed,
    RemoteError,
    open_agent_pool,
    placed,
)
from agentpool.ray import RayPlacement

ADDRESS = sys.argv[1]


def say(event: str, **fields: Any) -> None:
    """Tell the test something."""
    print(json.dumps({"event": event, **fields}), flush=True)


def open_pool(*, lease: float = 10.0, workers: int = 1) -> Any:
    placement = RayPlacement(address=ADDRESS, workers=workers, cpus=0.1, lease=lease)
    return open_agent_pool(max_concurrent=20, placement=placement)


def told(outcome: Any) -> dict[str, Any]:
    match outcome:
        case Completed():
            return {"value": outcome.value}
        case Failed():
            return {"error": type(outcome.error).__name__, "text": str(outcome.error)}
        case Aborted():
            return {"aborted": outcome.reason}
    raise AssertionError(outcome)


async def outcome_of(pool: AgentPool, agent: Any, *args: Any) -> Any:
    return await (await pool.spawn(placed(agent), *args)).wait()


@attrs.frozen
class Order:
    """A value of a class that only the program has."""

    number: int


class OwnError(Exception):
    """One that can be made again, and only here."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Stubborn(Exception):
    """One that cannot be made again."""

    def __init__(self, number: int, *, response: object) -> None:
        super().__init__(f"number {number}")


async def doubled(ctx: AgentContext, order: Order) -> Order:
    return Order(order.number * 2)


async def own_error(ctx: AgentContext, kind: str) -> None:
    if kind == "own":
        raise OwnError(7)
    raise Stubborn(7, response=object())


async def main_module() -> None:
    """Functions, classes and errors of `__main__`, closures and lambdas."""
    async with open_pool() as pool:
        number = 3

        async def closure(ctx: AgentContext, give: Callable[[int], int]) -> int:
            return give(number)

        outcome = await outcome_of(pool, doubled, Order(4))
        say("class", value=outcome.value.number, same=type(outcome.value) is Order)
        say("closure", **told(await outcome_of(pool, closure, lambda x: x + 1)))
        error = (await outcome_of(pool, own_error, "own")).error
        say("error", same=type(error) is OwnError, number=error.number, notes=error.__notes__)
        error = (await outcome_of(pool, own_error, "stubborn")).error
        assert isinstance(error, RemoteError)
        say("stubborn", kind=error.type_name, text=error.text, traceback=error.traceback)


async def pid_of(ctx: AgentContext, seconds: float = 0.0) -> int:
    await trio.sleep(seconds)
    return os.getpid()


async def waiting(ctx: AgentContext, seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def blocking(ctx: AgentContext, seconds: float) -> float:
    time.sleep(seconds)  # noqa: ASYNC251  (that is the situation)
    return seconds


async def short_block() -> None:
    """An agent blocks its worker for most of the lease, and then another."""
    async with open_pool(lease=6.0) as pool:
        neighbour = await pool.spawn(placed(waiting), 1.0)
        for _ in range(2):
            say("blocked", **told(await outcome_of(pool, blocking, 4.0)))
        say("neighbour", **told(await neighbour.wait()))
        say("pids", pids=[told(await outcome_of(pool, pid_of)) for _ in range(2)])


async def leaving(ctx: AgentContext) -> None:
    await trio.sleep(0.5)
    sys.exit(3)


async def sys_exit() -> None:
    """An agent leaves the program."""
    async with open_pool() as pool:
        say("worker", **told(await outcome_of(pool, pid_of)))
        await pool.spawn(placed(waiting), 1000.0)
        await pool.spawn(placed(leaving))
        await trio.sleep_forever()


async def suicide(ctx: AgentContext, how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(0)
    else:
        ctypes.string_at(0)


async def dying() -> None:
    """Agents end the process in which they run; agents elsewhere go on, and new ones find a place."""
    async with open_pool(lease=3.0, workers=2) as pool:
        for how in ("kill", "exit", "segfault"):
            while len({outcome.unwrap() for outcome in await pool.map(placed(pid_of), [0.2, 0.2])}) < 2:
                pass  # the other worker is not up yet
            began = trio.current_time()
            agents = [await pool.spawn(placed(waiting), 1.0), await pool.spawn(placed(suicide), how)]
            agents += [await pool.spawn(placed(waiting), 1.0) for _ in range(2)]
            outcomes = [told(await agent.wait()) for agent in agents]
            say("died", how=how, outcomes=outcomes, seconds=trio.current_time() - began)
            say("next", **told(await outcome_of(pool, waiting, 0.1)))


async def deaf_worker() -> None:
    """The program gets a signal while the process of its agents ignores SIGTERM."""
    async with open_pool(lease=3.0) as pool:
        say("worker", **told(await outcome_of(pool, pid_of)))
        agent = await pool.spawn(placed(deaf_agent))
        await pool.ask(agent.id, "does it ignore it?")
        os.kill(os.getpid(), int(sys.argv[3]))
        await trio.sleep_forever()


async def deaf_agent(ctx: AgentContext) -> None:
    # As a library in C does it: Python would let the main thread alone.
    ctypes.CDLL(None).signal(int(signal.SIGTERM), ctypes.c_void_p(1))
    try:
        ctx.reply(await ctx.receive(), None)
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.5)


SITUATIONS: dict[str, Callable[[], Awaitable[None]]] = {
    each.__name__: each for each in (main_module, short_block, sys_exit, dying, deaf_worker)
}

if __name__ == "__main__":
    trio.run(SITUATIONS[sys.argv[2]])
