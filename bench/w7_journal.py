"""W7, the journal: what it costs to write down what model agents observe, before they act on it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import trio

from agentpool import Budget, SpawnConfig, SqliteJournal, ToolRegistry, open_agent_pool
from bench.meters import cpu
from bench.w3_agentpool import CALLS, MODEL_SECONDS, TURNS, InMemoryModel, _manifest, add

OBSERVATIONS = 2 * TURNS + CALLS
"""What the loop of one agent observes: a turn's messages, a turn's completion, a tool call's result.

Beside these the journal holds what each call may cost, what it cost, and that a tool call begins.
"""


def _run(size: int, at_once: int, seconds: float, journal: SqliteJournal | None) -> None:
    """Run agents of eleven turns; their model takes `seconds`."""
    registry = ToolRegistry([add])
    config = SpawnConfig(_manifest(), "add")

    async def main() -> None:
        async with open_agent_pool(
            InMemoryModel(CALLS, seconds),
            max_concurrent=at_once,
            tool_builder=lambda manifest: registry,
            budget=Budget(tokens=10**12),
            journal=journal,
        ) as pool:
            for _ in range(size):
                await pool.spawn(config)
            for outcome in (await pool.join_all()).values():
                assert outcome.unwrap().text == "done"

    trio.run(main)


def _per_observation(size: int, at_once: int) -> dict[str, float]:
    """CPU of a run with a journal, all threads together, less that of the same run without one."""
    with tempfile.TemporaryDirectory() as folder:
        with cpu() as without:
            _run(size, at_once, 0, None)
        with cpu() as kept:
            _run(size, at_once, 0, SqliteJournal(Path(folder, "run.db")))
    count = size * OBSERVATIONS
    return {"us": kept.per(count) - without.per(count)}


def one_at_once(size: int) -> dict[str, float]:
    return _per_observation(size, 1)


def twenty_at_once(size: int) -> dict[str, float]:
    return _per_observation(size, 20)


def hundred_at_once(size: int) -> dict[str, float]:
    return _per_observation(size, 100)


def _wall(size: int, journal: SqliteJournal | None) -> dict[str, float]:
    start = time.perf_counter()
    _run(size, size, MODEL_SECONDS, journal)
    return {"wall": (time.perf_counter() - start) / (TURNS * MODEL_SECONDS)}


def crowd_without(size: int) -> dict[str, float]:
    """`size` agents at once, with a model that takes 50 ms; compared with the ideal wall clock."""
    return _wall(size, None)


def crowd(size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return _wall(size, SqliteJournal(Path(folder, "run.db")))
