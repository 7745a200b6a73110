"""A pool on a cluster whose agents run until a message tells them to end, and write down when they ran.

    beating.py ADDRESS DIRECTORY LEASE

Reads commands, one a line: `spawn NAME...`, `send NAME...`, `abort NAME...`, `end`. An agent that is called
`stubborn` blocks its worker when it is sent something; one with `again` in its name is restarted if it fails.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio

from agentpool import (
    Aborted,
    AgentContext,
    AgentFinished,
    AgentHandle,
    AgentOutcome,
    AgentPool,
    AgentRestarted,
    Completed,
    Event,
    Failed,
    RestartPolicy,
    open_agent_pool,
    placed,
)
from agentpool.ray import RayPlacement


def say(event: str, at: float | None = None, **fields: Any) -> None:
    """Tell the test that something happens, or happened then."""
    print(json.dumps({"event": event, "at": time.monotonic() if at is None else at, **fields}), flush=True)


def stamp(directory: str, name: str, what: str) -> None:
    """Write down that an agent runs now, so that it is in the file whatever happens next."""
    place = os.readlink("/proc/self/ns/net")
    line = f"{what} {time.monotonic()!r} {place} {os.getpid()}\n"
    file = os.open(Path(directory, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


async def beating(ctx: AgentContext, directory: str, name: str) -> str:
    stamp(directory, name, "start")

    async def beat() -> None:
        while True:
            stamp(directory, name, "beat")
            await trio.sleep(0.02)

    try:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(beat)
            message = await ctx.receive()
            while name.startswith("stubborn"):
                stamp(directory, name, "block")
                time.sleep(0.02)  # noqa: ASYNC251  (so that nothing can cancel it)
            nursery.cancel_scope.cancel()
    finally:
        stamp(directory, name, "stop")
    return f"{name}: {message.content}"


def how(outcome: AgentOutcome[Any]) -> dict[str, Any]:
    match outcome:
        case Completed():
            return {"kind": "Completed", "value": outcome.value}
        case Failed():
            return {"kind": "Failed", "error": type(outcome.error).__name__, "text": str(outcome.error)}
        case Aborted():
            return {"kind": "Aborted", "reason": outcome.reason}


async def tell_what_happens(events: AsyncIterator[Event]) -> None:
    async for event in events:
        at = time.monotonic() - (trio.current_time() - event.time)
        match event:
            case AgentFinished(outcome=outcome):
                say("outcome", at, name=outcome.name, restarts=outcome.restarts, **how(outcome))
            case AgentRestarted(outcome=outcome):
                say("restarted", at, name=outcome.name, **how(outcome))


async def obey(pool: AgentPool, directory: str) -> list[AgentHandle[str]]:
    handles: dict[str, AgentHandle[str]] = {}
    while True:
        line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        command, *names = line.split()
        match command:
            case "spawn":
                for name in names:
                    restart = RestartPolicy(within=60.0) if "again" in name else None
                    handles[name] = await pool.spawn(
                        placed(beating), directory, name, name=name, restart=restart
                    )
            case "send":
                for name in names:
                    await pool.send(handles[name].id, "well done")
            case "abort":
                for name in names:
                    handles[name].abort()
            case "end":
                return list(handles.values())
            case _:
                raise ValueError(line)


async def main() -> None:
    address, directory, lease = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)  # for the report of a test that fails
    placement = RayPlacement(address=address, workers=3, lease=float(lease))
    async with (
        open_agent_pool(max_concurrent=100, placement=placement) as pool,
        pool.events(max_buffer=10_000) as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(tell_what_happens, events)
        handles = await obey(pool, directory)
        say("kept", outcomes={handle.name: how(await handle.wait()) for handle in handles})
        say("left", active=pool.active_count, lost_events=events.dropped)
        nursery.cancel_scope.cancel()
    say("over")


if __name__ == "__main__":
    trio.run(main)
