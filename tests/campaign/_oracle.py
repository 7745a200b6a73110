"""What has to be true after every run of a random program, whatever happened in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import trio

from agentpool._core.errors import LeftOpenError, UnhandledAgentErrors
from agentpool._core.events import AgentFinished, AgentRestarted, AgentSpawned, MessageDeadLettered
from agentpool._core.outcomes import Aborted, Completed, Failed
from agentpool.testing._books import problems_in_books
from agentpool.testing._simulate import Simulation, SimulationHangError

from ._logs import PoolLogs
from ._readers import reading_problems
from ._world import World, is_expected, leaves

# Times of a simulation are sums of floats.
_TICK = 1e-6


def violations(run: Simulation[Any], world: World, logs: PoolLogs) -> list[str]:
    """Return what a run did that no run may do; empty if all is well."""
    if isinstance(run.error, SimulationHangError):
        return [f"hang: {run.error}"]
    if isinstance(run.error, trio.TrioInternalError):
        return [f"the run broke down: {run.error.__cause__!r}"]
    return [
        *run.left_behind,
        *_end_of_pool(run, world),
        *_of_world(run, world, logs),
        *(problem for pool in run.pools for problem in problems_in_books(pool)),
    ]


def _of_world(run: Simulation[Any], world: World, logs: PoolLogs) -> Iterator[str]:
    """What went wrong in a pool, and in those that its agents opened."""
    # The log of a simulation has the events of all its pools, whose ids are the same.
    own = attrs.evolve(run, log=logs.of(world.pool))
    yield from world.problems
    yield from _outcomes(world)
    yield from _left_open(world)
    yield from _messages(own, world)
    yield from _events(own, world)
    yield from _times(own, world)
    yield from _aborted(own, world)
    yield from reading_problems(world)
    for inner in world.inner:
        if inner.pool is not None:
            yield from (f"in an inner pool: {problem}" for problem in _of_world(run, inner, logs))


def _end_of_pool(run: Simulation[Any], world: World) -> Iterator[str]:
    error = run.error
    if isinstance(error, SystemExit):
        if not world.fatal:
            yield "the pool raised SystemExit, but nobody did"
        return
    if world.fatal:
        yield f"an agent raised SystemExit, but the pool ended with {error!r}"
    if error is not None and world.body_failed and error is world.body_error:
        return
    if world.body_failed:
        yield f"the body raised, but the pool ended with {error!r}"
    if error is None:
        yield from _unseen_failures(world)
    elif not is_expected(error):
        yield f"the pool ended with {error!r}, of which {[e for e in leaves(error) if not is_expected(e)]}"
    elif world.cancelled or world.input_failed:
        pass  # failures come out beside the cancellation, in an ordinary group
    elif isinstance(error, BaseExceptionGroup) and not isinstance(error, UnhandledAgentErrors):
        yield f"the pool ended with the group {error!r} and not with UnhandledAgentErrors"


def _unseen_failures(world: World) -> Iterator[str]:
    """Who ends without an error has no failed child that nobody looked at, be it pool or agent."""
    well = {
        handle.id
        for handle in world.handles
        if isinstance(handle.outcome, Completed) and not _restarted(handle)
    }
    for owner, handles in world.owned.items():
        for handle in handles:
            is_ignored = isinstance(handle.outcome, Failed) and handle.id not in world.looked
            if is_ignored and (owner == 0 or owner in well):
                yield f"{owner} ended well although nobody looked at the failure of agent {handle.id}"


def _restarted(handle: Any) -> bool:
    return handle.outcome is not None and handle.outcome.restarts > 0


def _outcomes(world: World) -> Iterator[str]:
    for handle in world.handles:
        outcome = handle.outcome
        if outcome is None:
            yield f"agent {handle.id} has no outcome after the pool"
            continue
        if outcome.agent_id != handle.id:
            yield f"the handle {handle.id} has the outcome of agent {outcome.agent_id}"
        if isinstance(outcome, Failed) and not is_expected(outcome.error) and not world.fatal:
            yield f"agent {handle.id} failed with {outcome.error!r}"
        limit = world.timeouts.get(handle.id)
        if limit is not None and outcome.duration > limit + _TICK:
            yield f"agent {handle.id} ran for {outcome.duration} s under a timeout of {limit}"
        is_plain = handle.id in world.returned and not outcome.restarts and handle.id not in world.left
        if is_plain and not _returned_well(outcome):
            yield f"agent {handle.id} returned, but its outcome is {outcome!r}"
        is_script = handle.id not in world.supervisors
        if is_script and isinstance(outcome, Completed) and outcome.value[0] != "done":
            yield f"agent {handle.id} completed with {outcome.value!r}, which it never returned"
    ids = Counter(handle.id for handle in world.handles)
    for agent_id, count in ids.items():
        if count > 1:
            yield f"the id {agent_id} was given to {count} agents"


def _returned_well(outcome: Any) -> bool:
    if isinstance(outcome, Completed):
        return True
    return isinstance(outcome, Failed) and isinstance(outcome.error, UnhandledAgentErrors)


def _left_open(world: World) -> Iterator[str]:
    """Who leaves something open has failed by it, and nobody else has."""
    for handle in world.handles:
        outcome = handle.outcome
        own = [
            leaf.agent_id == handle.id
            for leaf in (leaves(outcome.error) if isinstance(outcome, Failed) else ())
            if isinstance(leaf, LeftOpenError)
        ]
        if any(own) and handle.id not in world.left:
            yield f"agent {handle.id} failed with {outcome.error!r}, but left nothing open"
        is_told = any(own) or isinstance(outcome, Aborted) or handle.id in world.timeouts
        if handle.id in world.left & world.returned and not is_told:
            yield f"agent {handle.id} left something open, but its outcome is {outcome!r}"


def _messages(run: Simulation[Any], world: World) -> Iterator[str]:
    received = Counter(content for _, content in world.received)
    dead = Counter(
        event.message.content for event in run.log.of(MessageDeadLettered) if event.message.reply_to is None
    )
    for content, count in received.items():
        if count > 1 and content[0] in ("say", "ask"):
            yield f"the message {content} was received {count} times"
    for content in world.sent:
        if received[content] + dead[content] != 1:
            fate = f"received {received[content]} times and buried {dead[content]} times"
            yield f"the message {content} was sent, and {fate}"
    for content in world.unsent:
        if received[content] or dead[content]:
            yield f"sending {content} raised, but it was delivered"
    yield from _order_per_pair(world)


def _order_per_pair(world: World) -> Iterator[str]:
    last: dict[tuple[int, int], int] = {}
    # What two tasks of one agent do may be noted in another order than it was done.
    concurrent = world.several
    for receiver, content in world.received:
        kind, sender, token = content
        if kind in ("say", "ask") and not {sender, receiver} & concurrent:
            if last.get((sender, receiver), 0) > token:
                yield f"agent {receiver} received {content} after a later message of the same sender"
            last[sender, receiver] = token


def _events(run: Simulation[Any], world: World) -> Iterator[str]:
    spawned = [event.agent_id for event in run.log.of(AgentSpawned)]
    finished = [event.agent_id for event in run.log.of(AgentFinished)]
    if Counter(spawned) != Counter(finished):
        odd = Counter(spawned)
        odd.subtract(Counter(finished))
        yield f"spawned and finished events do not match: { ({k: v for k, v in odd.items() if v}) }"
    if spawned != sorted(set(spawned)):
        yield f"ids were not issued from 1 up, each once: {spawned}"
    yield from _limits(run, world)
    ended_at = {agent_id: index for index, agent_id in enumerate(finished)}
    for event in run.log.of(AgentFinished):
        parent = event.parent_id
        if parent in ended_at and ended_at[parent] < ended_at[event.agent_id]:
            yield f"agent {parent} ended before its child {event.agent_id}"


def _limits(run: Simulation[Any], world: World) -> Iterator[str]:
    depths: dict[int, int] = {}
    for event in run.log.of(AgentSpawned):
        depths[event.agent_id] = depths[event.parent_id] + 1 if event.parent_id else 0
    if max(depths.values(), default=0) > world.program.depth:
        yield f"an agent of depth {max(depths.values())} was spawned under a limit of {world.program.depth}"
    descendants = sum(1 for depth in depths.values() if depth)
    if descendants > world.program.descendants:
        yield f"agents spawned {descendants} agents under a limit of {world.program.descendants}"


def _times(run: Simulation[Any], world: World) -> Iterator[str]:
    """Nothing in a script shields itself or computes for long, so that what ends it ends it at once."""
    # Whose end nobody was told of is a problem of its own.
    ended = {event.agent_id: event.time for event in run.log.of(AgentFinished)}
    for agent_id, (time, reason) in world.aborts.items():
        if ended.get(agent_id, time) > time + _TICK:
            yield f"agent {agent_id} was aborted ({reason}) at {time} and ended at {ended[agent_id]}"
    for agent_id, time in world.raised_at.items():
        if agent_id not in world.restarting and ended.get(agent_id, time) > time + _TICK:
            yield f"agent {agent_id} raised at {time} and ended at {ended[agent_id]}"
    restarts: dict[int, list[float]] = {}
    for event in run.log.of(AgentRestarted):
        restarts.setdefault(event.agent_id, []).append(event.time)
    for agent_id, times in restarts.items():
        if len(times) > 2:
            yield f"agent {agent_id} was restarted more often than twice: {times}"
    for content, (agent_id, taken) in world.taken.items():
        for time in restarts.get(agent_id, ()):
            if taken + _TICK < time and time + _TICK < world.answered.get(content, 0):
                yield f"agent {agent_id} was restarted with the question {content}, whose asker was not told"


def _aborted(run: Simulation[Any], world: World) -> Iterator[str]:
    """Whoever was aborted was meant, or stood below somebody who was."""
    if world.wholesale:
        return
    outcomes = {event.agent_id: event.outcome for event in run.log.of(AgentFinished)}
    reasons = {reason for _, reason in world.aborts.values()}
    for handle in world.handles:
        outcome = outcomes.get(handle.id)
        if not isinstance(outcome, Aborted):
            continue
        if not _was_meant(outcome, outcomes, world):
            yield f"agent {handle.id} was aborted ({outcome.reason}), and nobody meant it"
        # A parent that failed or a block that was left may have come first, with reasons of their own.
        is_given = outcome.reason in reasons or str(outcome.reason).startswith(("its parent", "the "))
        if handle.id in world.aborts and not is_given:
            yield f"agent {handle.id} was aborted for {outcome.reason!r}, but was told {reasons}"


def _was_meant(outcome: Any, outcomes: dict[int, Any], world: World) -> bool:
    """Whether it or somebody above it was aborted, failed, or belongs to a `race` or its like."""
    own = {handle.id for handle in world.handles}
    while outcome is not None:
        agent_id = outcome.agent_id
        failed = isinstance(outcome, Failed) or outcome.restarts
        if agent_id in world.aborts or agent_id not in own or failed:
            return True
        outcome = outcomes.get(outcome.parent_id)
    return False
