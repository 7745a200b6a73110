"""W7, the journal: what it costs to write down what model agents observe, before they act on it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio

from agentpool import Budget, SpawnConfig, SqliteJournal, ToolRegistry, open_agent_pool
from bench.meters import cpu
from bench.w3_agentpool import CALLS, MODEL_SECONDS, TURNS, InMemoryModel, _manifest, add

OBSERVATIONS = 2 * TURNS + CALLS
"""What the loop of one agent observes: a turn's messages, a turn's completion, a tool call's result.

Beside these the journal holds what each call may cost, what it cost, and that a tool call begins.
"""


def _run(size: int, at_once: int, seconds: float, journal: SqliteJournal | None, apart: float = 0) -> float:
    """Run agents of eleven turns; return how long one of them takes, in seconds.

    Args:
      seconds: how long their model takes.
      apart: seconds between their starts.
    """
    registry = ToolRegistry([add])
    config = SpawnConfig(_manifest(), "add")
    took = 0.0

    async def main() -> None:
        nonlocal took
        async with open_agent_pool(
            InMemoryModel(CALLS, seconds),
            max_concurrent=at_once,
            tool_builder=lambda manifest: registry,
            budget=Budget(tokens=10**12),
            journal=journal,
        ) as pool:
            for _ in range(size):
                await pool.spawn(config)
                if apart:
                    await trio.sleep(apart)
            for outcome in (await pool.join_all()).values():
                assert outcome.unwrap().text == "done"
                took += outcome.duration / size

    trio.run(main)
    return took


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


def _turn(size: int, apart: float, journal: SqliteJournal | None) -> dict[str, float]:
    """A turn of one of `size` agents, with a model that takes 50 ms."""
    return {"ms": _run(size, size, MODEL_SECONDS, journal, apart) / TURNS * 1e3}


def turn_without(size: int) -> dict[str, float]:
    """Their starts are spread over the 50 ms, so that they do not wait for each other all at once."""
    return _turn(size, MODEL_SECONDS / size, None)


def turn(size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return _turn(size, MODEL_SECONDS / size, SqliteJournal(Path(folder, "run.db")))


def turn_in_step_without(size: int) -> dict[str, float]:
    """All start at once, and all hear of their model in the same moment, turn after turn."""
    return _turn(size, 0, None)


def turn_in_step(size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return _turn(size, 0, SqliteJournal(Path(folder, "run.db")))
