"""What the waits of a pool's agents amount to: a deadlock, a suspicion, or the end of the work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heappop, heappush

import trio

from agentpool._core.errors import DeadlockError
from agentpool._core.messages import AgentId
from agentpool._core.waits import EdgesOf, WaitEdge, hopeless_cycle
from agentpool._kernel.events import ReadWait
from agentpool._kernel.protection import protect_module
from agentpool._kernel.router import Inbox
from agentpool._kernel.slots import Party, Slots, Wait


class _YoungestFirst:
    """Agents that quiescence may end, the youngest first; each is listed once."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, Party]] = []
        self._listed: set[AgentId] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, party: Party) -> None:
        """List an agent; harmless if it is listed."""
        if party.id not in self._listed:
            self._listed.add(party.id)
            heappush(self._heap, (-party.id, party))

    def pop(self) -> Party:
        """Take the youngest."""
        party = heappop(self._heap)[1]
        self._listed.discard(party.id)
        return party


class Judge(trio.abc.Instrument):
    """Judges the waits of one pool, when one begins and when a task ends.

    Args:
      parties: the agents that have not ended, by id.
      suspect: called with a cycle that only a deadline or an unknown task can break.
      enabled: whether to look for deadlocks at all.
    """

    def __init__(
        self,
        slots: Slots,
        parties: Mapping[AgentId, Party],
        inbox_of: Callable[[Party], Inbox],
        suspect: Callable[[tuple[AgentId, ...]], None],
        *,
        enabled: bool = True,
    ) -> None:
        self._slots = slots
        self._parties = parties
        self._inbox_of = inbox_of
        self._suspect = suspect
        self._enabled = enabled
        self._instrumented = False
        self._receivers = _YoungestFirst()
        self._readers = _YoungestFirst()

    # -- deadlock --------------------------------------------------------------------------------

    def check(self, party: Party | None, targets: Collection[Party], *, needs_all: bool = False) -> None:
        """Refuse a wait that closes a cycle of agents that wait for each other, before it begins.

        Raises:
          DeadlockError: if nothing could ever end the wait.
        """
        if party is None or party.active != 1 or party.ready or not self._enabled:
            return  # another task of the agent may still do anything
        if len(targets) == 1:
            (target,) = targets
            if (target.active or target.ready) and target is not party:
                return  # the usual case: one target, and it runs
        edge = WaitEdge(targets, needs_all)
        suspects = hopeless_cycle(party, _edges(party, edge, _any_wait))
        if not suspects or party.is_cancelled():
            return
        task = trio.lowlevel.current_task()
        if not self._ends_by_itself(party, task):
            cycle = hopeless_cycle(party, _edges(party, edge, _certain))
            if cycle:
                raise DeadlockError([agent.id for agent in cycle])
        self._suspect(tuple(agent.id for agent in suspects))
        # The wait that is about to begin is in no list yet: its unknown tasks have to be watched too.
        self._watch_unknown_tasks(bool(task.child_nurseries))

    def _ends_by_itself(self, party: Party, task: trio.lowlevel.Task) -> bool:
        if party.is_narrowed(trio.current_effective_deadline()):
            return True
        return bool(task.child_nurseries) and party.has_unknown_tasks(party.unknown_nurseries(task))

    def _task_ended(self, party: Party) -> None:
        """The end of a task may have left only hopeless waits: the youngest on each cycle is told."""
        if not self._enabled:
            return
        while party.idle:
            cycle = hopeless_cycle(party, _edges(None, None, _certain))
            waits = [wait for agent in cycle for wait in agent.waits if wait.can_be_withdrawn]
            if not waits:
                break
            youngest = max(waits, key=lambda wait: wait.number)
            at = next(i for i, agent in enumerate(cycle) if agent is youngest.party)
            youngest.withdraw(DeadlockError([agent.id for agent in (*cycle[at:], *cycle[:at])]))
        suspects = hopeless_cycle(party, _edges(None, None, _any_wait))
        if suspects:
            self._suspect(tuple(agent.id for agent in suspects))
            self._watch_unknown_tasks()

    def lost_hope(self, party: Party) -> None:
        """A wait of an agent goes on, with one agent less that could have ended it."""
        if party.idle:
            self._task_ended(party)

    # -- rest and quiescence -----------------------------------------------------------------------

    def rested(self, party: Party, ends_body: bool) -> None:
        """An agent came to rest: every known task of it waits."""
        if ends_body and party.idle:
            self._task_ended(party)
        if self._slots.body_ended:
            self._list(party)
            self.judge_rest()

    def end_of_body(self) -> None:
        """Nobody outside gives work any more: from now on, agents that all wait are at their end."""
        slots = self._slots
        if slots.body_ended:
            return
        slots.body_ended = True
        parties = list(self._parties.values())
        for party in parties:
            self._list(party)
            slots.uncertain.update(wait for wait in party.waits if wait.is_uncertain)
        self.judge_rest()

    def judge_rest(self) -> None:
        """If everybody who is left waits, end what the youngest waits for; its end is judged again.

        Inboxes come first, so that last words to older agents still arrive; the subscriptions of
        agents that read events come when no inbox is left to end, because events tell of those ends.
        """
        slots = self._slots
        if not slots.body_ended or slots.idle < len(self._parties) or not self._parties:
            return
        if slots.uncertain:
            slots.uncertain = {wait for wait in slots.uncertain if wait.is_uncertain}
            if slots.uncertain:
                self._watch_unknown_tasks()
                return
        while self._receivers:
            party = self._receivers.pop()
            if not party.ended and _receives(party):
                self._inbox_of(party).end()
                return
        while self._readers:
            reading = _reading(self._readers.pop())
            if reading is not None:
                reading.subscription.close()
                return

    def _list(self, party: Party) -> None:
        if _receives(party):
            self._receivers.add(party)
        if _reading(party) is not None:
            self._readers.add(party)

    # -- unknown tasks -------------------------------------------------------------------------------

    def _watch_unknown_tasks(self, has_some: bool = False) -> None:
        """From now on judge again when a task ends that the pool does not know.

        No bookkeeping of ours sees such an end, but an instrument does. It slows the whole run
        down a little, so it is added only when a judgement depended on such tasks.
        """
        if not self._instrumented and (has_some or self._have_unknown()):
            self._instrumented = True
            trio.lowlevel.add_instrument(self)

    def _have_unknown(self) -> list[Party]:
        return [party for party in self._parties.values() if any(wait.nurseries for wait in party.waits)]

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Judge again when the last unknown task of an agent has ended (called by trio)."""
        for party in self._have_unknown():
            if party.idle:
                self._task_ended(party)
        self.judge_rest()

    def close(self) -> None:
        """The pool has ended."""
        if self._instrumented:
            self._instrumented = False
            trio.lowlevel.remove_instrument(self)


def _receives(party: Party) -> bool:
    return any(wait.receives for wait in party.waits)


def _reading(party: Party) -> ReadWait | None:
    return next((wait for wait in party.waits if isinstance(wait, ReadWait)), None)


def _any_wait(wait: Wait) -> bool:
    return True


def _certain(wait: Wait) -> bool:
    return not wait.ends_by_itself


def _edges(
    waiting: Party | None, edge: WaitEdge[Party] | None, counts: Callable[[Wait], bool]
) -> EdgesOf[Party]:
    """The graph as it is, or as it would be if `waiting` began to wait as `edge` says."""

    def edges_of(party: Party) -> Sequence[WaitEdge[Party]] | None:
        if party is not waiting and (party.active or party.ready or party.unwinding or party.ended):
            return None
        edges = []
        for wait in party.waits:
            targets = wait.known_targets()
            if targets is None or not counts(wait):
                return None
            edges.append(WaitEdge(targets, wait.needs_all))
        if party is waiting and edge is not None:
            edges.append(edge)
        return edges

    return edges_of


protect_module(globals())
