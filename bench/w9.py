"""W9, what is seen: the picture of a run, from its events to the data of a page; and what it costs."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from agentpool import (
    AgentManifest,
    AgentPool,
    Completion,
    CompletionRequest,
    EventSubscription,
    ResourceQuota,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    ToolRegistry,
    ToolResult,
    open_agent_pool,
)
from agentpool._core import events as ev
from agentpool._core.messages import AgentMessage
from agentpool._core.outcomes import Completed
from agentpool._core.picture import Picture
from agentpool._core.picture_data import changes_since
from bench.meters import cpu, resident_kb
from bench.w3_agentpool import InMemoryModel, add

AGENTS = 100
TURNS = 20

_REQUEST = CompletionRequest(model="m", messages=())
_ANSWER = Completion("An answer.", usage=TokenUsage(10, 5))
_CALL = ToolCall("c", "look")
_RESULT = ToolResult("seen")


def _spawned(count: int) -> Picture:
    picture = Picture()
    for number in range(1, count + 1):
        picture.take(ev.AgentSpawned(number, 0.0, number, 0, f"agent {number}"))
        picture.take(ev.AgentStarted(number, 0.0, number, 0))
    return picture


def _take(size: int, *kinds: tuple[type[Any], tuple[Any, ...]]) -> dict[str, float]:
    """Events of these kinds in turn, of 100 agents, a hundredth of a second apart."""
    picture = _spawned(AGENTS)
    events = []
    for number in range(size):
        kind, own = kinds[number % len(kinds)]
        events.append(kind(number, 1 + number / 100, 1 + number // len(kinds) % AGENTS, 0, *own))
    take = picture.take
    with cpu() as span:
        for event in events:
            take(event)
    return {"us": span.per(size)}


def phases(size: int) -> dict[str, float]:
    """Each closes a span."""
    return _take(size, (ev.PhaseChanged, ("reason", 1)), (ev.PhaseChanged, ("act", 1)))


def tools(size: int) -> dict[str, float]:
    """Each closes a span."""
    return _take(size, (ev.ToolStarted, (_CALL,)), (ev.ToolFinished, (_CALL, _RESULT, 0.1)))


def models(size: int) -> dict[str, float]:
    """Each closes a span."""
    asked = (_REQUEST, "m", "p", "", False)
    return _take(
        size, (ev.ModelCallStarted, asked), (ev.ModelCallFinished, (0, _ANSWER, None, False, 0.1, None))
    )


def words(size: int) -> dict[str, float]:
    return _take(size, (ev.TextDeltaReceived, ("word ",)))


def messages(size: int) -> dict[str, float]:
    return _take(size, (ev.MessageSent, (AgentMessage(1, 2, "x", 1),)))


def ignored(size: int) -> dict[str, float]:
    """An event that the picture has no use for."""
    return _take(size, (ev.CompletionFinished, (TokenUsage(10, 5), 0.1)))


def agents(size: int) -> dict[str, float]:
    """The spawn, the first step and the end of an agent, of which 20,000 are kept."""
    picture = Picture()
    outcome = Completed(agent_id=1, name="a", parent_id=0, value=None)
    with cpu() as span:
        for number in range(1, size + 1):
            at = number / 100
            picture.take(ev.AgentSpawned(number, at, number, 0, "agent"))
            picture.take(ev.AgentStarted(number, at, number, 0))
            picture.take(ev.AgentFinished(number, at + 0.005, number, 0, outcome))
    return {"us": span.per(size)}


# -- who watches ----------------------------------------------------------------------------


def _fastest(action: Callable[[], object], rounds: int = 5) -> dict[str, float]:
    """Return the milliseconds of the fastest of some rounds: what others do on the machine comes on top."""
    taken = []
    for _ in range(rounds):
        gc.collect()
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return {"ms": min(taken) * 1e3}


def sample_same(size: int) -> dict[str, float]:
    """A sample in which as many agents wait as before."""
    picture = _spawned(size)
    waiting = {number: (1,) for number in range(1, size + 1)}
    picture.sample(waiting, (), 1.0)
    return _fastest(lambda: picture.sample(dict(waiting), (), 2.0))


def sample_all(size: int) -> dict[str, float]:
    """A sample in which all begin to wait, or end it."""
    picture = _spawned(size)
    waiting = {number: (1,) for number in range(1, size + 1)}
    rounds = iter(range(1, 100))

    def action() -> None:
        number = next(rounds)
        picture.sample(waiting if number % 2 else {}, (), float(number))

    return _fastest(action)


def _busy(size: int) -> Picture:
    picture = _spawned(size)
    for number in range(1, size + 1):
        picture.take(ev.PhaseChanged(number, 1.0, number, 0, "reason", 1))
        picture.take(ev.ModelCallStarted(number, 1.5, number, 0, _REQUEST, "m", "p", "", False))
        picture.take(ev.ModelCallFinished(number, 2.0, number, 0, number, _ANSWER, None, False, 0.5, None))
    return picture


def changes_all(size: int) -> dict[str, float]:
    """The data of all agents, changed since; without the JSON."""
    picture = _busy(size)
    return _fastest(lambda: changes_since(picture, 0))


def changes_all_json(size: int) -> dict[str, float]:
    """The same, as JSON."""
    picture = _busy(size)
    return _fastest(lambda: json.dumps(changes_since(picture, 0)))


def changes_few(size: int) -> dict[str, float]:
    """The data of ten agents that have changed, as JSON."""
    picture = _busy(size)
    version = picture.version
    for number in range(1, 11):
        picture.take(ev.PhaseChanged(number, 3.0, number, 0, "act", 1))
    return _fastest(lambda: json.dumps(changes_since(picture, version)))


def spans(size: int) -> dict[str, float]:
    """Bytes for each span that is kept; and the data of all of them, in milliseconds."""
    picture = _spawned(AGENTS)
    gc.collect()
    before = resident_kb()
    for number in range(size):
        phase: Any = "act" if number // AGENTS % 2 else "reason"
        picture.take(ev.PhaseChanged(number, 1 + number / 100, 1 + number % AGENTS, 0, phase, 1))
    gc.collect()
    kb = resident_kb() - before
    return {"bytes": kb * 1024 / max(1, len(picture.spans)), **_fastest(lambda: changes_since(picture, 0), 2)}


# -- what it costs the run ---------------------------------------------------------------------


def unseen(size: int) -> dict[str, float]:
    """Nobody subscribed."""
    return _run(size, None)


def dropped(size: int) -> dict[str, float]:
    """A subscriber that never reads, whose events are dropped."""

    async def watch(pool: AgentPool, events: EventSubscription) -> None:
        await trio.sleep_forever()

    return _run(size, watch)


def read(size: int) -> dict[str, float]:
    """A subscriber that reads all events, and does nothing with them."""

    async def watch(pool: AgentPool, events: EventSubscription) -> None:
        while await events.next_batch():
            pass

    return _run(size, watch)


def drawn(size: int) -> dict[str, float]:
    """A subscriber that makes a picture of them, samples who waits, and makes the data of what changed."""

    async def watch(pool: AgentPool, events: EventSubscription) -> None:
        picture, version, next_round = Picture(), 0, 0.0
        while batch := await events.next_batch():
            for event in batch:
                picture.take(event)
            start = time.perf_counter()
            if start >= next_round:
                now = pool.statistics()
                waiting = {each.id: each.waits_for for each in now.waiting}
                picture.sample(waiting, [each.id for each in now.stuck], trio.current_time())
                data = changes_since(picture, version)
                json.dumps(data)
                version = data["version"]
                took = time.perf_counter() - start
                next_round = start + max(0.25, 50 * took)

    return _run(size, watch)


@contextmanager
def _frozen() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _run(size: int, watch: Callable[[AgentPool, EventSubscription], Any] | None) -> dict[str, float]:
    """`size` agents of 20 turns, 100 at once, each turn but the last with a tool call."""
    registry = ToolRegistry([add])
    manifest = AgentManifest(name="adder", resources=ResourceQuota(max_iterations=30, max_tool_calls=50))
    config = SpawnConfig(manifest, "add")

    async def main() -> None:
        driver = InMemoryModel(TURNS - 1)
        async with (
            open_agent_pool(driver, max_concurrent=100, tool_builder=lambda _: registry) as pool,
            trio.open_nursery() as nursery,
        ):
            if watch is not None:
                async with pool.events(max_buffer=10_000) as events:
                    nursery.start_soon(watch, pool, events)
                    await _work(pool, config, size)
                    nursery.cancel_scope.cancel()
            else:
                await _work(pool, config, size)

    with _frozen(), cpu() as span:
        trio.run(main)
    return {"us": span.per(size * TURNS)}


async def _work(pool: AgentPool, config: SpawnConfig[Any], size: int) -> None:
    for _ in range(size):
        await pool.spawn(config)
    for outcome in (await pool.join_all()).values():
        outcome.unwrap()
