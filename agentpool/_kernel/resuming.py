"""Agents that another process began: put back as they were, and claimed by whoever spawned them.

Everybody who had not ended is back at once: with id, name, inbox and topics, so that messages reach it.
Its task waits until it is claimed. An agent whose parent is run again is claimed by it, when that comes to
the same spawn; the others are claimed here, from what the journal says that they run.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import trio

from agentpool._core.errors import ReplayMismatchError
from agentpool._core.events import AgentSpawned
from agentpool._core.messages import SUPERVISOR, AgentId, AgentMessage
from agentpool._core.outcomes import AnyOutcome
from agentpool._core.past import Past, PastAgent
from agentpool._kernel.agent import AgentRecord, Resumed, Work
from agentpool._kernel.children import Children
from agentpool._kernel.descriptions import described_agent, description_of, outcome_from_data
from agentpool._kernel.granting import spawned_in
from agentpool._kernel.inbox import Inbox
from agentpool._kernel.journal import PoolJournal
from agentpool._kernel.life import live, new_record
from agentpool._kernel.names import KeepsNames
from agentpool._kernel.options import SpawnOptions, name_of
from agentpool._kernel.places import context_with
from agentpool._kernel.protection import call_unprotected, protect_module
from agentpool._kernel.state import PoolState
from agentpool._objects import UnreadableDataError, object_from_data

Finder = Callable[[PastAgent], Any]
"""Gives the agent (a callable) that a journal cannot find by itself; None if it does not know it either."""


def restore(state: PoolState, journal: PoolJournal, finder: Finder | None) -> list[AgentRecord]:
    """Put the agents of the past back, and claim those that nobody else will.

    Args:
      finder: is asked for each agent that is claimed here, before its description is.

    Returns:
      Those that the program had spawned, in its order, also those that had ended.

    Raises:
      ReplayMismatchError: if an agent or a message cannot be made again.
    """
    past = journal.past
    works = {
        agent.id: _work_of(agent, finder) for agent in past.agents.values() if _claimed_here(past, agent)
    }
    state.journal = journal  # and not the router's yet: what is put back is not written again
    state.counts.issued = past.last_id
    state.counts.ended = len(past.ended)
    state.counts.descendants = sum(agent.parent != SUPERVISOR for agent in past.agents.values())
    state.counts.used.add(past.usage)
    state.router.go_on_from(past.last_message)
    if state.means.budget is not None:
        state.means.budget.begin_with(past.spent.tokens, past.spent.cost, past.spent.calls)
    records = {
        agent.id: _put_back(state, journal, agent) for agent in past.agents.values() if not agent.outcome
    }
    for agent_id in past.ended:
        _outcome_put_back(state, journal, past.agents[agent_id])
    for agent_id, work in works.items():
        claim(state, state.records[agent_id], work, _context_of(past.agents[agent_id]))
    state.keep_journal(journal)
    journal.finder = finder
    return [
        records[agent_id] if agent_id in records else ended_before(state, state.root, past.agents[agent_id])
        for agent_id in past.roots
    ]


def _claimed_here(past: Past, agent: PastAgent) -> bool:
    """Whether nobody will come to the spawn of an agent again."""
    if agent.outcome is not None:
        return False
    spawner, life, _ = agent.origin
    if spawner == SUPERVISOR:
        return True
    by = past.agents[spawner]
    return by.outcome is not None or by.life != life


def _outcome_put_back(state: PoolState, journal: PoolJournal, agent: PastAgent) -> None:
    """Give the outcome of an agent to its parent, if that is there, and may ask for it."""
    home = state.root
    if agent.parent != SUPERVISOR:
        parent = state.records.get(agent.parent)
        if parent is None:
            return
        home = parent.children
        spawner, life, key = agent.origin
        by = journal.past.agents.get(spawner)
        if by is None or by.life != life:
            return  # its parent was started afresh, and knows nothing of it
        if agent.is_taken and key is not None and by.is_in_finished_call(key):
            return
    outcome = journal.outcomes[agent.id] = _outcome_of(journal, agent)
    if agent.parent == SUPERVISOR or not agent.is_of_batch:
        home.ended_before(outcome)


def adopt(state: PoolState, record: AgentRecord, key: str) -> None:
    """Have the children go on that a tool call had spawned which is not made again.

    Args:
      record: their parent.
      key: that of the call; their spawns stand in it.
    """
    journal = state.journal
    assert journal is not None
    for child in list(record.children.live.values()):
        resumed = child.resumed
        if resumed is None or resumed.claimed.is_set() or not (resumed.past.origin[2] or "").startswith(key):
            continue
        try:
            work = _work_of(resumed.past, journal.finder)
        except ReplayMismatchError as error:
            child.abort(str(error))
        else:
            claim(state, child, work, _context_of(resumed.past))


def spawned_at(state: PoolState, record: AgentRecord, key: str) -> list[tuple[AgentRecord, bool]]:
    """Return the children that a tool call had spawned which is not made again, in their order.

    Returns:
      Each with whether its parent had got its outcome before it was resumed, in what is not done again.
    """
    journal = state.journal
    assert journal is not None
    found: list[tuple[AgentRecord, bool]] = []
    for agent in journal.past.agents.values():
        spawner, life, origin = agent.origin
        if spawner != record.id or life != record.restarts or not (origin or "").startswith(key):
            continue
        alive = state.records.get(agent.id)
        if alive is not None:
            found.append((alive, False))
        else:  # it had ended, or its time was over before its parent came here
            is_told = journal.past.agents[record.id].was_told_of(agent.id)
            found.append((ended_before(state, record.children, agent), is_told))
    return found


def _put_back(state: PoolState, journal: PoolJournal, agent: PastAgent) -> AgentRecord:
    home = state.root if agent.parent == SUPERVISOR else state.records[agent.parent].children
    # What cannot be read is found out before there is a record, which has to have a task.
    options = SpawnOptions(agent.name, _read(agent, "its options", agent.options).timeout)
    messages = [_message_of(agent, data) for data in agent.inbox.values()]
    work = Work(_never, (), options)
    started_at = journal.time_of(agent.spawned_at)
    record = new_record(state, home, work, agent.id, agent.name, started_at, holds=False)
    record.resumed = Resumed(agent)
    record.backing_off = True
    record.restarts = agent.life
    record.add_usage(agent.usage)
    for message in messages:
        record.inbox.put_back(message)
    for topic in agent.topics:
        state.router.subscribe(agent.id, topic)
    state.parts.nursery.start_soon(live, state, record, name=agent.name)
    return record


def _context_of(agent: PastAgent) -> contextvars.Context:
    return context_with({} if agent.context is None else _read(agent, "its context", agent.context))


def _message_of(agent: PastAgent, data: Any) -> AgentMessage:
    content = _read(agent, "its inbox", data["content"])
    asked = data.get("ask", False)
    return AgentMessage(data["from"], agent.id, content, data["id"], data["reply_to"], data["topic"], asked)


async def _never(ctx: Any) -> None:
    raise NotImplementedError  # an agent runs once it is claimed


def claim(state: PoolState, record: AgentRecord, work: Work, context: contextvars.Context) -> None:
    """Tell what a resumed agent runs, so that it goes on when it has a slot."""
    resumed = record.resumed
    assert resumed is not None
    record.work = work
    resumed.context = context
    spawned_in(record, context)
    spent = resumed.past.spent
    record.budget_goes_on(spent.tokens, spent.cost, spent.calls)
    if isinstance(work.fn, KeepsNames):
        state.names.spawned(record.id, work.fn.names_kept())
    if state.events.subscriptions:
        state.events.emit(AgentSpawned, record.id, record.parent_id, record.name)
    resumed.claimed.set()


def respawned(
    state: PoolState, home: Children[AgentRecord], agent_id: AgentId, work: Work, *, batch: Any = None
) -> AgentRecord:
    """Return an agent that its parent spawned before it was resumed, and comes to spawn again.

    Raises:
      ReplayMismatchError: if the parent spawns another one here than it did.
    """
    assert state.journal is not None
    agent = state.journal.past.agents[agent_id]
    name = work.options.name or name_of(work.fn)
    if name != agent.name:
        raise ReplayMismatchError(
            agent.parent,
            f"parent of {agent.name}",
            "a spawn",
            f"it spawns {name!r} now, and spawned {agent.name!r}",
        )
    _check_same(agent, work)
    record = state.records.get(agent_id)
    if record is None:  # it had ended, or its time was over before its parent came here
        return ended_before(state, home, agent, batch=batch)
    record.batch = batch
    claim(state, record, work, contextvars.copy_context())
    return record


def _work_of(agent: PastAgent, finder: Finder | None) -> Work:
    fn = None if finder is None else call_unprotected(finder, agent)
    args = _read(agent, "its arguments", agent.work["args"])
    if fn is None and agent.work["agent"] is not None:
        fn = _made(agent, agent.work["agent"])
    if fn is None:
        raise ReplayMismatchError(
            agent.id,
            agent.name,
            "its spawn",
            "the journal cannot find what it runs by a name: define it at the top of a module, or give it as"
            f" agents={{{agent.name!r}: ...}}",
        )
    options = _read(agent, "its options", agent.options)
    work = Work.of(fn, args, options)
    work.is_placed = work.is_placed or bool(agent.work.get("placed"))
    return work


def _made(agent: PastAgent, data: Any) -> Any:
    try:
        return call_unprotected(described_agent, data)
    except UnreadableDataError as error:
        raise ReplayMismatchError(agent.id, agent.name, "its spawn", str(error)) from error


def _read(agent: PastAgent, what: str, data: Any) -> Any:
    try:
        return call_unprotected(object_from_data, data)
    except UnreadableDataError as error:
        raise ReplayMismatchError(agent.id, agent.name, what, str(error)) from error


def _check_same(agent: PastAgent, work: Work) -> None:
    """Refuse another model agent than the one that was spawned; of a function the name is compared."""
    before = agent.work["agent"]
    if before is None or "kind" not in before:
        return
    now = description_of(work.fn)
    if now is not None and now != before:
        raise ReplayMismatchError(
            agent.id, agent.name, "its spawn", "its manifest, its tools or its query are not what they were"
        )


def _outcome_of(journal: PoolJournal, agent: PastAgent) -> AnyOutcome:
    started_at = journal.time_of(agent.spawned_at)
    outcome: AnyOutcome = call_unprotected(
        outcome_from_data, agent.outcome, agent.id, agent.name, agent.parent, started_at
    )
    return outcome


def ended_before(
    state: PoolState, home: Children[AgentRecord], agent: PastAgent, *, batch: Any = None
) -> AgentRecord:
    """Return the record of an agent that had ended, whose outcome is handed out as others are."""
    assert state.journal is not None
    outcome = state.journal.outcomes.pop(agent.id, None) or _outcome_of(state.journal, agent)
    record = AgentRecord(
        id=agent.id,
        name=agent.name,
        pool=state.parts,
        deadline=0.0,
        active=0,
        holds=False,
        ended=True,
        home=home,
        work=Work(_never, (), SpawnOptions(agent.name)),
        scope=trio.CancelScope(),
        inbox=Inbox(agent.id, 1, state.router, ended=True),
        batch=batch,
        started_at=outcome.started_at,
        outcome=outcome,
        restarts=outcome.restarts,
    )
    record.add_usage(outcome.usage)
    return record


protect_module(globals())
