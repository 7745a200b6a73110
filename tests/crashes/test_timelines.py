"""The picture that a journal gives is that of the events of the same run, as far as the journal can tell."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from agentpool import Budget, open_agent_pool, resume_agent_pool
from agentpool._core import events as ev
from agentpool._core.chrome_trace import chrome_trace
from agentpool._core.past_picture import PastPicture, past_picture
from agentpool._core.picture import AgentRow, Picture
from agentpool._core.picture_data import changes_since
from agentpool._core.records import JournalRecord
from agentpool._kernel.descriptions import outcome_from_data

from . import _programs, _town
from ._world import Tape, World, set_world

RUNS = int(os.environ.get("AGENTPOOL_TIMELINE_RUNS", "12"))
SECONDS = 100.0


class Heard:
    """A run, as its journal and its events tell it."""

    def __init__(self, seed: int, *, tidy: bool, budget: bool) -> None:
        self.tape = Tape()
        self.events: list[ev.Event] = []
        set_world(World())
        script = _programs.draw(seed, tidy=tidy)

        async def main() -> None:
            limit = Budget(tokens=_town.BUDGET) if budget else None
            opened = open_agent_pool(
                _town.Model(), max_concurrent=3, journal=self.tape, budget=limit, seed=seed
            )
            async with opened as pool:
                events = await pool.events(max_buffer=1_000_000).__aenter__()
                handle = await pool.spawn(_programs.actor, script, name="mayor", timeout=SECONDS)
                await handle.wait()
            # What happened while the pool was left, too.
            self.events += [event async for event in events]

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    def live(self) -> Picture:
        picture = Picture()
        for event in self.events:
            picture.take(event)
        return picture


def past(records: Sequence[JournalRecord]) -> PastPicture:
    return past_picture(records, outcome_from_data)


def told(row: AgentRow) -> dict[str, Any]:
    """What a journal tells of an agent, too."""
    return {
        "name": row.name,
        "parent": row.parent,
        "depth": row.depth,
        "state": row.state,
        "reason": row.reason,
        "restarts": row.restarts,
        "usage": row.usage,
        "sent": row.sent,
        "heard": row.heard,
        "dead": row.dead_letters,
        "words": row.words,
        "spawned": round(row.spawned_at, 6),
        "ended": None if row.ended_at is None else round(row.ended_at, 6),
    }


@pytest.mark.parametrize("budget", [True, False])
@pytest.mark.parametrize("tidy", [True, False])
@pytest.mark.parametrize("seed", range(RUNS))
def test_it_agrees_with_the_events_of_the_run(seed: int, tidy: bool, budget: bool) -> None:
    run = Heard(seed, tidy=tidy, budget=budget)
    live, then = run.live(), past(run.tape.kept)
    now = then.picture
    assert {row.id: told(row) for row in now.rows.values()} == {
        row.id: told(row) for row in live.rows.values()
    }
    for row in now.rows.values():
        # A call that was aborted while its beginning was being written was not made, and the journal has it.
        cut = sum(call.agent == row.id and call.kind == "tool" and call.end is None for call in then.calls)
        assert row.tool_calls - cut <= live.rows[row.id].tool_calls <= row.tool_calls
    assert list(now.rows) == list(live.rows)
    assert now.ends == live.ends
    assert now.usage == live.usage
    assert [(a.id, a.sender, a.to, a.kind, round(a.time, 6)) for a in now.arrows] == [
        (a.id, a.sender, a.to, a.kind, round(a.time, 6)) for a in live.arrows
    ]
    assert tool_calls_of(then) == tool_calls_heard(run.events)
    if budget:
        assert model_calls_of(then) == model_calls_heard(run.events)


def tool_calls_of(then: PastPicture) -> list[tuple[Any, ...]]:
    ended = [call for call in then.calls if call.kind == "tool" and call.end is not None]
    return sorted(
        (call.agent, call.name, round(call.start or 0.0, 6), round(call.end or 0.0, 6)) for call in ended
    )


def tool_calls_heard(events: Sequence[ev.Event]) -> list[tuple[Any, ...]]:
    begun: dict[Any, float] = {}
    found = []
    for event in events:
        if isinstance(event, ev.ToolStarted):
            begun[event.agent_id, event.call.id] = event.time
        elif isinstance(event, ev.ToolFinished):
            start = begun.pop((event.agent_id, event.call.id))
            found.append((event.agent_id, event.call.name, round(start, 6), round(event.time, 6)))
    return sorted(found)


def model_calls_of(then: PastPicture) -> list[tuple[Any, ...]]:
    ended = [call for call in then.calls if call.kind == "model" and call.usage.total_tokens]
    return sorted((call.agent, round(call.start or 0.0, 6), round(call.end or 0.0, 6)) for call in ended)


def model_calls_heard(events: Sequence[ev.Event]) -> list[tuple[Any, ...]]:
    begun: dict[int, float] = {}
    found = []
    for event in events:
        if isinstance(event, ev.ModelCallStarted):
            begun[event.seq] = event.time
        elif isinstance(event, ev.ModelCallFinished) and event.completion is not None:
            found.append((event.agent_id, round(begun[event.started], 6), round(event.time, 6)))
    return sorted(found)


@pytest.mark.parametrize("seed", range(RUNS))
def test_the_same_journal_gives_the_same_picture_and_trace(seed: int) -> None:
    kept = Heard(seed, tidy=False, budget=True).tape.kept
    one, other = past(kept), past(kept)
    assert changes_since(one.picture, 0) == changes_since(other.picture, 0)
    assert "".join(chrome_trace(one, "run.db")) == "".join(chrome_trace(other, "run.db"))


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_journal_that_is_cut_off_anywhere_gives_a_picture(seed: int) -> None:
    kept = Heard(seed, tidy=False, budget=bool(seed % 2)).tape.kept
    for end in range(1, len(kept)):
        then = past(kept[:end])
        check_lanes(then)
        check_trace(then)
        assert then.picture.notes[-1].text.startswith("the journal ends here")


@pytest.mark.parametrize("budget", [True, False])
@pytest.mark.parametrize("seed", range(RUNS))
def test_what_was_resumed_is_one_picture(seed: int, budget: bool) -> None:
    rng = random.Random(f"timeline {seed}")
    whole = Heard(seed, tidy=True, budget=budget).tape.kept
    begun = next(place for place, record in enumerate(whole, 1) if record.kind == "spawned")
    tape = Tape(whole[: rng.randrange(begun, len(whole))])
    limit = Budget(tokens=_town.BUDGET) if budget else None

    async def go_on() -> None:
        async with resume_agent_pool(tape, _town.Model(), budget=limit, seed=seed) as pool:
            await pool.resumed[0].wait()

    trio.run(go_on, clock=trio.testing.MockClock(autojump_threshold=0))
    then = past(tape.kept)
    check_lanes(then)
    check_trace(then)
    assert len(then.interrupted) == 1
    assert all(row.has_ended for row in then.picture.rows.values())
    at = then.interrupted[0]
    assert not [span for span in then.picture.spans if span.start < at < span.end]


def check_lanes(then: PastPicture) -> None:
    """The spans of an agent follow each other, from its spawn to its end."""
    picture = then.picture
    for row in picture.rows.values():
        spans = [span for span in picture.spans if span.agent == row.id]
        moments = [moment for span in spans for moment in (span.start, span.end)]
        assert moments == sorted(moments), row
        assert not moments or moments[0] >= row.spawned_at
        assert not moments or row.ended_at is None or moments[-1] <= row.ended_at


def check_trace(then: PastPicture) -> None:
    """No slices on a thread overlap, and each arrow has two ends that hang on slices."""
    document = json.loads("".join(chrome_trace(then, "run.db")))
    slices: dict[int, list[tuple[int, int]]] = {}
    hooks: dict[str, dict[int, tuple[int, int]]] = {"s": {}, "f": {}}
    for event in document["traceEvents"]:
        assert isinstance(event.get("ts", 0), int)
        if event["ph"] == "X":
            assert event["dur"] >= 0
            slices.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] in hooks:
            hooks[event["ph"]][event["id"]] = (event["tid"], event["ts"])
    for spans in slices.values():
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert end <= start
    assert hooks["s"].keys() == hooks["f"].keys()
    for ends in hooks.values():
        for thread, at in ends.values():
            assert any(start <= at < end for start, end in slices[thread])
