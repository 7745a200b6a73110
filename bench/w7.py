"""W7, the rest: imports, `statistics()`, the command line's start.

Nothing is imported up here, so that an import can be measured.
"""

from __future__ import annotations

import importlib
import time
from typing import Any


def _import_ms(name: str) -> dict[str, float]:
    start = time.process_time()
    importlib.import_module(name)
    return {"ms": (time.process_time() - start) * 1e3}


def import_trio(size: int) -> dict[str, float]:
    return _import_ms("trio")


def import_agentpool(size: int) -> dict[str, float]:
    return _import_ms("agentpool")


def import_pool(size: int) -> dict[str, float]:
    """`from agentpool import open_agent_pool`: public names are imported when they are asked for."""
    start = time.process_time()
    _ = importlib.import_module("agentpool").open_agent_pool
    return {"ms": (time.process_time() - start) * 1e3}


def statistics(size: int) -> dict[str, float]:
    """`statistics()` of a pool with `size` agents alive."""
    return _statistics_ms(size, waits=False)


def statistics_of_waiting(size: int) -> dict[str, float]:
    """The same with agents that wait for each other: the snapshot tells each of them, and for whom."""
    return _statistics_ms(size, waits=True)


def _statistics_ms(size: int, *, waits: bool) -> dict[str, float]:
    import trio
    import trio.testing

    import agentpool

    milliseconds = 0.0

    async def sleeps(ctx: agentpool.AgentContext) -> None:
        await trio.sleep_forever()

    async def asks(ctx: agentpool.AgentContext) -> None:
        await ctx.ask(first.id, None) if ctx.id % 2 else await ctx.receive()

    async def main() -> None:
        nonlocal milliseconds, first
        async with agentpool.open_agent_pool(max_concurrent=size, inbox_capacity=size) as pool:
            first = await pool.spawn(sleeps)
            for _ in range(size - 1):
                await pool.spawn(asks if waits else sleeps)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                start = time.process_time()
                pool.statistics()
                milliseconds = (time.process_time() - start) * 1e3
            pool.abort_all()
            await pool.join_all()

    first: Any = None
    trio.run(main)
    return {"ms": milliseconds}


_FLEET = """
[pool]
max_concurrent = 1
driver = "scripted"

[[agents]]
query = "go"

[agents.manifest]
name = "first"

[agents.manifest.script]
function = "first_step:answer"
"""

_MODULE = """
import sys, time
from agentpool import Completion

def answer(request):
    with open("started", "w") as file:
        file.write(repr(time.time()))
    return Completion(text="done")
"""


def command_line(size: int) -> dict[str, float]:
    """Wall clock from the start of the process of `agentpool run` to the first call of its agent's model."""
    import subprocess
    import sys
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "fleet.toml").write_text(_FLEET)
        Path(folder, "first_step.py").write_text(_MODULE)
        entry = "import sys; from agentpool.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", entry, "run", "fleet.toml"]
        start = time.time()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return {"ms": (float(Path(folder, "started").read_text()) - start) * 1e3}
