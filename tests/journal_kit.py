"""A journal in memory, and runs that are cut off after each of its records and resumed."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio
import trio.testing

from agentpool import AgentPool, Driver, JournalError, open_agent_pool, resume_agent_pool
from agentpool._core.records import JournalRecord
from agentpool.abc import Journal


class Records(Journal):
    """Keeps records as a file would: as JSON. `broken_after` commits it cannot be written any more."""

    def __init__(self, kept: Sequence[JournalRecord] = (), *, broken_after: int | None = None) -> None:
        self.kept = list(kept)
        self.committed = len(self.kept)
        self.is_open = False
        self.commits_left = broken_after

    def __repr__(self) -> str:
        return "Records()"

    async def open(self) -> Sequence[JournalRecord]:
        await trio.lowlevel.checkpoint()
        self.is_open = True
        return tuple(self.kept)

    def append(self, record: JournalRecord) -> None:
        assert self.is_open
        if self.commits_left is not None and self.commits_left < 0:
            raise JournalError("the disk is full")
        data = json.loads(json.dumps(record.data, allow_nan=False))
        self.kept.append(JournalRecord(record.kind, record.agent, data, record.at))

    async def commit(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.commits_left is not None:
            self.commits_left -= 1
            if self.commits_left < 0:
                raise JournalError("the disk is full")
        self.committed = len(self.kept)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.is_open = False

    def of_kind(self, kind: str) -> list[JournalRecord]:
        """Return the records that tell that."""
        return [record for record in self.kept if record.kind == kind]


def in_virtual_time(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a program; its clock jumps whenever all wait."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(main, clock=clock)


def run(
    agent: Callable[..., Awaitable[Any]], *args: Any, driver: Driver | None = None, **settings: Any
) -> tuple[Any, Records]:
    """Run one agent in a pool with a journal; return its outcome and the journal."""
    records = Records()

    async def main() -> Any:
        pool_settings = {"max_concurrent": 2, **settings}
        async with open_agent_pool(driver, journal=records, **pool_settings) as pool:
            handle = await pool.spawn(agent, *args, name="first")
            return await handle.wait()

    return in_virtual_time(main), records


def resumed(
    kept: Sequence[JournalRecord], *, driver: Driver | None = None, **settings: Any
) -> tuple[Any, Records]:
    """Resume a run whose program had spawned one agent; return its outcome and the journal."""
    records = Records(kept)

    async def main() -> Any:
        async with resume_agent_pool(records, driver, **settings) as pool:
            (handle,) = pool.resumed
            return await handle.wait()

    return in_virtual_time(main), records


async def in_pool(records: Records, use: Callable[[AgentPool], Awaitable[Any]], **settings: Any) -> Any:
    """Resume a run, and do something in its pool."""
    async with resume_agent_pool(records, **settings) as pool:
        return await use(pool)


def is_begun(records: Sequence[JournalRecord]) -> bool:
    """Whether the program had spawned its agent."""
    return any(record.kind == "spawned" for record in records)


def after_each_cut(
    agent: Callable[..., Awaitable[Any]],
    *args: Any,
    driver: Callable[[], Driver] | None = None,
    same: Callable[[Any], Any] = lambda outcome: outcome.unwrap(),
    between: Callable[[], object] = lambda: None,
    **settings: Any,
) -> tuple[Any, list[JournalRecord]]:
    """Cut a run off after each of its records, and check that it comes to the same when it is resumed.

    And the resumed run is cut off after each fifth record once more.

    Args:
      driver: makes the driver of a run.
      same: what of the outcome has to be the same.
      between: called before each run.

    Returns:
      What it comes to, and the records of the whole run.
    """

    def of_run() -> Driver | None:
        between()
        return None if driver is None else driver()

    whole, records = run(agent, *args, driver=of_run(), **settings)
    expected = same(whole)
    for end in range(1, len(records.kept) + 1):
        kept = records.kept[:end]
        if not is_begun(kept):
            continue
        outcome, again = resumed(kept, driver=of_run())
        assert same(outcome) == expected, f"cut off after record {end}: {kept[-1]}"
        for second_end in range(end + 1, len(again.kept) + 1, 5):
            outcome, _ = resumed(again.kept[:second_end], driver=of_run())
            assert same(outcome) == expected, f"cut off after records {end} and {second_end}"
    return expected, records.kept
