"""A pool on a cluster whose agents run until a message tells them to end, and write down when they ran.

    beating.py ADDRESS DIRECTORY LEASE

Reads commands, one a line: `spawn NAME...` (a name with `-stubborn` in it is that of an agent that cannot be
cancelled, one with `-again` is restarted when it fails), `send NAME...`, `end`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import trio

from agentpool import (
    AgentContext,
    AgentHandle,
    AgentPool,
    Completed,
    Failed,
    RestartPolicy,
    open_agent_pool,
    placed,
)
from agentpool.ray import RayPlacement


def say(event: str, **fields: Any) -> None:
    """Tell the test something."""
    print(json.dumps({"event": event, "at": time.monotonic(), **fields}), flush=True)


def stamp(directory: str, name: str, what: str) -> None:
    """Write down that an agent runs now, so that it is in the file whatever happens next."""
    place = os.readlink("/proc/self/ns/net")
    line = f"{what} {time.monotonic()!r} {place} {os.getpid()}\n"
    file = os.open(Path(directory, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


async def beating(ctx: AgentContext, directory: str, name: str) -> str:
    stamp(directory, name, "start")
    if "-stubborn" in name:
        while True:
            stamp(directory, name, "beat")
            time.sleep(0.02)  # noqa: ASYNC251  (so that nothing can cancel it)

    async def beat() -> None:
        while True:
            stamp(directory, name, "beat")
            await trio.sleep(0.02)

    try:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(beat)
            message = await ctx.receive()
            nursery.cancel_scope.cancel()
    finally:
        stamp(directory, name, "stop")
    return f"{name}: {message.content}"


async def tell_outcome(handle: AgentHandle[str]) -> None:
    outcome = await handle.wait()
    match outcome:
        case Completed():
            how: dict[str, Any] = {"value": outcome.value}
        case Failed():
            how = {"error": type(outcome.error).__name__, "text": str(outcome.error)}
        case _:
            how = {"reason": outcome.reason}
    kind = type(outcome).__name__
    say("outcome", name=outcome.name, id=outcome.agent_id, kind=kind, restarts=outcome.restarts, **how)


async def obey(pool: AgentPool, directory: str) -> None:
    handles: dict[str, AgentHandle[str]] = {}
    async with trio.open_nursery() as nursery:
        while True:
            line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
            command, *names = line.split()
            match command:
                case "spawn":
                    for name in names:
                        restart = RestartPolicy(within=60.0) if "-again" in name else None
                        handle = await pool.spawn(
                            placed(beating), directory, name, name=name, restart=restart
                        )
                        handles[name] = handle
                        nursery.start_soon(tell_outcome, handle)
                case "send":
                    for name in names:
                        await pool.send(handles[name].id, "well done")
                case "end":
                    return
                case _:
                    raise ValueError(line)


async def main() -> None:
    address, directory, lease = sys.argv[1:]
    placement = RayPlacement(address=address, workers=3, lease=float(lease))
    async with open_agent_pool(max_concurrent=100, placement=placement) as pool:
        await obey(pool, directory)
        # What `join_all` has is what `wait` told: an agent has no second outcome.
        outcomes = await pool.join_all()
        say("joined", kinds={outcome.name: type(outcome).__name__ for outcome in outcomes.values()})
        say("left", active=pool.active_count)
    say("over")


if __name__ == "__main__":
    trio.run(main)
