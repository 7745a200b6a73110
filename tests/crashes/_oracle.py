"""What has to hold of a run that was cut off and resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import attrs

from agentpool._core.past import past_of
from agentpool._core.records import JournalRecord
from agentpool.abc import Journal
from agentpool.testing._simulate import attempt

from ._world import Boundary, Tape, World, set_world

Main: TypeAlias = Callable[[Journal, bool], Awaitable[Any]]
"""A program: its journal, and whether that holds a run. It returns its result, and what was spent."""

MAX_STEPS = 60_000
MAX_SECONDS = 20_000.0


@attrs.frozen
class Ran:
    """One run in one process.

    Attributes:
      result: what the program returned; None if it raised.
      error: what it raised.
      given: how many effects there were before it.
    """

    result: Any
    error: BaseException | None
    tape: Tape
    world: World
    given: int = 0


def run(main: Main, kept: Sequence[JournalRecord] = (), effects: Sequence[str] = (), seed: int = 0) -> Ran:
    """Run a program in a simulation, as if a process had been started with that journal and world."""
    tape, world = Tape(kept), set_world(World(effects))
    simulation = attempt(partial(main, tape, bool(kept)), seed, max_steps=MAX_STEPS, max_seconds=MAX_SECONDS)
    return Ran(simulation.value, simulation.error, tape, world, len(effects))


@attrs.frozen
class Crash:
    """What a crash leaves: the first records, and all effects that had happened."""

    kept: int
    effects: int

    @classmethod
    def all_at(cls, boundary: Boundary, given: int = 0) -> Iterator[Crash]:
        """Yield what a crash may leave there: at the least what was committed, at most what was appended."""
        for kept in sorted(
            {boundary.committed, (boundary.committed + boundary.appended + 1) // 2, boundary.appended}
        ):
            yield cls(kept, boundary.effects)


def crashes_of(ran: Ran) -> list[Crash]:
    """Return each crash that a run may have had."""
    found = dict.fromkeys(crash for boundary in ran.tape.boundaries for crash in Crash.all_at(boundary))
    return list(found)


def resumed(main: Main, ran: Ran, crash: Crash, seed: int = 0) -> Ran:
    """Resume a run as if it had crashed there."""
    return run(main, ran.tape.kept[: crash.kept], ran.world.lines[: crash.effects], seed)


def problems_of(whole: Ran, after: Ran, *, spent_at_crash: int | None = None, tidy: bool = True) -> list[str]:
    """Compare a run that was resumed, however often, with one that was never cut off."""
    if after.error is not None:
        first = str(after.error).partition("\n")[0]
        return [f"it raised {type(after.error).__name__}: {first}"]
    return [
        *(_result_problems(whole, after) if tidy else ()),
        *(_effect_problems(whole.world, after.world) if tidy else ()),
        *_spending_problems(after, spent_at_crash),
        *_broken_pledges(after.world),
        *_history_problems(after.tape.kept),
    ]


def _result_problems(whole: Ran, after: Ran) -> Iterator[str]:
    expected, found = whole.result[0], after.result[0]
    if expected != found:
        yield f"the result is {_difference(expected, found)}"


def _difference(expected: Any, found: Any) -> str:
    if isinstance(expected, dict) and isinstance(found, dict):
        expected, found = list(expected.items()), list(found.items())
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return ", ".join(f"[{i}]{_difference(one, other)}" for i, (one, other) in pairs if one != other)
    return f" {found!r} where {expected!r} is right"


def _effect_problems(expected: World, found: World) -> Iterator[str]:
    for what, times in found.counted("once").items():
        if times > max(1, expected.counted("once")[what]):
            yield f"{what} was done {times} times, and may be done once"
    for what in expected.counted("again").keys() - found.counted("again").keys():
        yield f"{what} was never done, and has to be done"
    for what in found.counted("again").keys() - expected.counted("again").keys():
        yield f"{what} was done, and nobody asked for it"
    keys, again = _keys_of(expected), _keys_of(found)
    for what in keys | again:
        if keys[what] != again[what]:
            yield f"{what} was paid {again[what]} times, and has to be paid {keys[what]} times"


def _keys_of(found: World) -> Counter[str]:
    """Return how many keys each payment had: under one key it is made once, however often it is tried."""
    return Counter(line.partition(" ")[2] for line in found.counted("keyed"))


def contradictions(before: Ran, crash: Crash, after: Ran) -> Iterator[str]:
    """Compare what agents saw before a crash that lost no record with what they saw when they ran again."""
    lines = after.world.lines
    seen, again = _notes(lines[: crash.effects][before.given :]), _notes(lines[crash.effects :])
    for agent in seen.keys() & again.keys():
        for number, (one, other) in enumerate(zip(seen[agent], again[agent], strict=False), 1):
            if one != other:
                # A step that came after it left a record.
                was_last = not any("|" in later.partition(" ")[2] for later in seen[agent][number:])
                if not was_last or one.rpartition(" ")[2].strip("'") not in _GAVE_UP:
                    yield f"agent {agent} saw {other} after the crash, and {one} before it"
                break


_GAVE_UP = ("nobody", "nothing", "room", "answer", "WouldBlock", "PoolFullError")
"""What an agent saw of an operation that came to nothing: it may be done again if nothing came later."""


def _notes(lines: Iterable[str]) -> dict[str, list[str]]:
    """Return what each agent saw, by agent and by the place in its code, in order."""
    notes: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("note "):
            who, _, rest = line[5:].partition("|")
            notes.setdefault(f"{who}|{rest.partition(' ')[0].rpartition('/')[0]}", []).append(rest)
    return notes


def _spending_problems(after: Ran, spent_at_crash: int | None) -> Iterator[str]:
    _, before, spent = after.result
    if spent < after.world.tokens:
        yield f"{spent} tokens count as spent, and {after.world.tokens} were"
    if spent_at_crash is not None and before < spent_at_crash:
        yield f"{before} tokens count as spent after the crash, and {spent_at_crash} were before it"


def _broken_pledges(found: World) -> Iterator[str]:
    """What was told outside, or done by what a step had come to, never becomes another thing."""
    told: dict[str, str] = {}
    for line in found.lines:
        if line.startswith("pledge "):
            who, _, what = line[7:].partition(" ")
            if told.setdefault(who, what) != what:
                yield f"{who} told {what} after it had told {told[who]}"


SLOTS = 3
"""How many model calls are under way at once at the most."""


def waste(before: Ran, crash: Crash, after: Ran) -> Iterator[str]:
    """What a crash may not cost: answers that were acted on, and more money than was set aside."""
    if after.error is not None:
        return
    lines = after.world.lines
    asked = _turns(lines[: crash.effects])
    for query, turns in _turns(lines[crash.effects :]).items():
        again = [turn for turn in turns if turn < max(asked.get(query, [0]))]
        if again:
            yield f"turns {again} of {query} were made again, and {asked[query]} were made before the crash"
    kept = before.tape.kept[: crash.kept]
    most = max((r.data["took"][0] + r.data["slack"][0] for r in kept if r.kind == "reserved"), default=0)
    truth = World(lines[: crash.effects]).tokens
    if after.result[1] > truth + SLOTS * most:
        yield f"{after.result[1]} tokens count as spent after the crash, and {truth} were"


def _turns(lines: Iterable[str]) -> dict[str, list[int]]:
    """Return which turns of each query were asked of the model."""
    found: dict[str, list[int]] = {}
    for line in lines:
        if line.startswith("model "):
            query, _, turn = line.rpartition(" ")
            found.setdefault(query, []).append(int(turn))
    return found


def orphans(before: Ran, crash: Crash, after: Ran) -> Iterator[str]:
    """Children that had been spawned, and did not do what they were spawned for."""
    for record in before.tape.kept[: crash.kept]:
        if record.kind == "spawned" and record.data["name"] == "errand":
            (what,) = record.data["work"]["args"]["$tuple"]
            if f"errand {what}" not in after.world.lines:
                yield f"the errand {what} was spawned, and never done"


def _history_problems(records: Sequence[JournalRecord]) -> Iterator[str]:
    """What a journal may never tell."""
    try:
        past = past_of(records)
    except ValueError as error:
        yield f"the journal does not fit: {error}"
        return
    yield from _twice("spawned", (r.agent for r in records if r.kind == "spawned"))
    yield from _twice("ended", (r.agent for r in records if r.kind == "ended"))
    yield from _twice("received", [r.data["id"] for r in records if r.kind == "received"])
    yield from _twice("sent", [r.data["id"] for r in records if r.kind == "sent"])
    yield from _twice(
        "returned",
        [
            (r.agent, r.data["loop"], r.data["n"], _life_at(records, i))
            for i, r in enumerate(records)
            if r.kind == "returned"
        ],
    )
    for agent in past.agents.values():
        if agent.outcome is None:
            yield f"agent {agent.id} ({agent.name}) has no outcome"


def _life_at(records: Sequence[JournalRecord], index: int) -> int:
    agent = records[index].agent
    return sum(record.kind == "restarted" and record.agent == agent for record in records[:index])


def _twice(what: str, things: Iterable[Any]) -> Iterator[str]:
    for thing, times in Counter(things).items():
        if times > 1:
            yield f"the journal tells {times} times that {thing} was {what}"
