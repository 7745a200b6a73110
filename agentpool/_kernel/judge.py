"""What the waits of a pool's agents amount to: a deadlock, a suspicion, or the end of the work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from heapq import heapify, heappop, heappush

import trio

from agentpool._core.errors import DeadlockError
from agentpool._core.events import DeadlockSuspected
from agentpool._core.messages import AgentId
from agentpool._core.waits import EdgesOf, WaitEdge, hopeless_cycle
from agentpool._kernel.log import EventLog
from agentpool._kernel.protection import protect_module
from agentpool._kernel.wait import Away, Source, Wait, Waiter


class _YoungestFirst:
    """Agents that quiescence may end, the youngest first; each is listed once.

    Invariant: every id that is listed is in the heap. Those of agents that were forgotten are too,
    but they never make up more than a half of it, so that a server outlives any number of agents.
    """

    def __init__(self) -> None:
        self._heap: list[AgentId] = []  # negative: the youngest has the highest id
        self._listed: dict[AgentId, Waiter] = {}

    def __len__(self) -> int:
        return len(self._listed)

    def add(self, agent: Waiter) -> None:
        """List an agent; harmless if it is listed."""
        if agent.id not in self._listed:
            self._listed[agent.id] = agent
            heappush(self._heap, -agent.id)

    def pop(self) -> Waiter:
        """Take the youngest."""
        while True:
            agent = self._listed.pop(-heappop(self._heap), None)
            if agent is not None:
                return agent

    def forget(self, agent: Waiter) -> None:
        """An agent has ended; harmless if it is not listed."""
        if self._listed.pop(agent.id, None) is not None and len(self._heap) > 2 * len(self._listed) + 64:
            self._heap = [-agent_id for agent_id in self._listed]
            heapify(self._heap)


class Judge(trio.abc.Instrument):
    """Judges the waits of one pool, when one begins and when a task ends.

    Attributes:
      work_is_over: whether nobody outside gives work any more, so that agents that all wait are at
        their end.
      idle: how many agents only others can move (counted by the agents).
      enabled: whether it looks for deadlocks at all.
      away: the code of agents, where that runs in another process.
      uncertain: once the work is over, the waits that something may end which this pool does not judge.

    Args:
      log: where it tells of a cycle that only a deadline or an unknown task can break.
      enabled: whether to look for deadlocks.
      on_rest: is told of each agent of which every known task waits; for a pool that runs the agents of
        another one, which judges.
    """

    def __init__(
        self, log: EventLog, *, enabled: bool = True, on_rest: Callable[[AgentId], object] | None = None
    ) -> None:
        self.work_is_over: bool = False
        self.idle = 0
        self.away: dict[AgentId, Away] = {}
        self.uncertain: set[Wait] = set()
        self._waits_begun = 0
        self._agents: dict[AgentId, Waiter] = {}
        self._log = log
        self.enabled = enabled
        self._on_rest = on_rest
        self._instrumented = False
        self._receivers = _YoungestFirst()
        self._readers = _YoungestFirst()

    @property
    def agents(self) -> Collection[Waiter]:
        """Those that have not ended."""
        return self._agents.values()

    def add(self, agent: Waiter) -> None:
        """An agent was spawned."""
        self._agents[agent.id] = agent

    def remove(self, agent: Waiter) -> None:
        """An agent has ended."""
        del self._agents[agent.id]
        if self.work_is_over:
            self._receivers.forget(agent)
            self._readers.forget(agent)

    def wait_begins(self, wait: Wait) -> None:
        """Number a wait, and note it if somebody else may end it."""
        self._waits_begun += 1
        wait.number = self._waits_begun
        if self.work_is_over and wait.is_uncertain:
            self.uncertain.add(wait)

    def became_uncertain(self, agent: Waiter) -> None:
        """Something of which nothing was known when they began may end waits of an agent."""
        if self.work_is_over:
            self.uncertain.update(wait for wait in agent.waits if wait.is_uncertain)

    def wait_ended(self, wait: Wait) -> None:
        """What a task waited for has happened."""
        if self.uncertain:
            self.uncertain.discard(wait)

    # -- deadlock --------------------------------------------------------------------------------

    def check(self, agent: Waiter | None, targets: Collection[Waiter], *, needs_all: bool = False) -> None:
        """Refuse a wait that closes a cycle of agents that wait for each other, before it begins.

        Raises:
          DeadlockError: if nothing could ever end the wait.
        """
        if agent is None or agent.active != 1 or agent.ready or not self.enabled:
            return  # another task of the agent may still do anything
        if len(targets) == 1:
            (target,) = targets
            if (target.active or target.ready) and target is not agent:
                return  # the usual case: one target, and it runs
        # Twice, since most waits are no cycle at all: first with every wait as an edge, which is cheap,
        # and only if that finds one with those alone that nothing else can end.
        edge = WaitEdge(targets, needs_all)
        suspects = hopeless_cycle(agent, _edges(agent, edge, _any_wait))
        if not suspects or agent.is_cancelled():
            return
        task = trio.lowlevel.current_task()
        if not self._ends_by_itself(agent, task):
            cycle = hopeless_cycle(agent, _edges(agent, edge, _certain))
            if cycle:
                raise DeadlockError([one.id for one in cycle])
        self._suspect(suspects)
        # The wait that is about to begin is in no list yet: its unknown tasks have to be watched too.
        self._watch_unknown_tasks(bool(task.child_nurseries))

    def _ends_by_itself(self, agent: Waiter, task: trio.lowlevel.Task) -> bool:
        if agent.is_narrowed(trio.current_effective_deadline()) or agent.ends_away(task):
            return True
        return bool(task.child_nurseries) and agent.has_unknown_tasks(agent.unknown_nurseries(task))

    def judge_again(self, agent: Waiter) -> None:
        """Tell the youngest wait on each cycle that is hopeless now: one that could have ended has not.

        Called when a task or a body has ended, and when a join has one child less to hope for.
        """
        if not self.enabled:
            return
        while agent.idle and not agent.ended:
            cycle = hopeless_cycle(agent, _edges(None, None, _certain))
            waits = [wait for one in cycle for wait in one.waits if wait.can_be_withdrawn]
            if not waits:
                break
            # The youngest closed the cycle, or would have, had it been refused when it began.
            youngest = max(waits, key=lambda wait: wait.number)
            at = next(i for i, one in enumerate(cycle) if one is youngest.waiter)
            youngest.withdraw(DeadlockError([one.id for one in (*cycle[at:], *cycle[:at])]))
        if not agent.idle or agent.ended:
            return  # whoever was told has freed it
        suspects = hopeless_cycle(agent, _edges(None, None, _any_wait))
        if suspects:
            self._suspect(suspects)
            self._watch_unknown_tasks()

    def _suspect(self, cycle: Sequence[Waiter]) -> None:
        path = tuple(one.id for one in cycle)
        self._log.emit(DeadlockSuspected, cycle[0].id, cycle[0].parent_id, path)
        self._log.reports.suspected(cycle[0], path)

    # -- rest and quiescence -----------------------------------------------------------------------

    def rested(self, agent: Waiter) -> None:
        """An agent came to rest: every known task of it waits."""
        if self._on_rest is not None:
            self._on_rest(agent.id)
            self._watch_unknown_tasks()
        if self.work_is_over:
            self._list(agent)
            self.judge_rest()

    def end_work(self) -> None:
        """Nobody outside gives work any more: from now on, agents that all wait are at their end."""
        if self.work_is_over:
            return
        self.work_is_over = True
        for agent in self._agents.values():
            self._list(agent)
            self.uncertain.update(wait for wait in agent.waits if wait.is_uncertain)
        self.judge_rest()

    def judge_rest(self) -> None:
        """If everybody who is left waits, end what the youngest waits for; its end is judged again.

        Inboxes come first, so that last words to older agents still arrive; the subscriptions of
        agents that read events come when no inbox is left to end, because events tell of those ends.
        """
        if not self.work_is_over or self.idle < len(self._agents) or not self._agents:
            return
        if self.uncertain:
            self.uncertain = {wait for wait in self.uncertain if wait.is_uncertain}
            if self.uncertain:
                self._watch_unknown_tasks()
                return
        for listed, ends_first in ((self._receivers, True), (self._readers, False)):
            while listed:
                source = _source_of(listed.pop(), ends_first=ends_first)
                if source is not None:
                    # One only: what its task does next comes first, and ends here again.
                    source.end()
                    return

    def _list(self, agent: Waiter) -> None:
        for listed, ends_first in ((self._receivers, True), (self._readers, False)):
            if _source_of(agent, ends_first=ends_first) is not None:
                listed.add(agent)

    # -- unknown tasks -------------------------------------------------------------------------------

    def _watch_unknown_tasks(self, has_some: bool = False) -> None:
        """From now on judge again when a task ends that the pool does not know.

        No bookkeeping of ours sees such an end, but an instrument does. It slows the whole run
        down a little, so it is added only when a judgement depended on such tasks.
        """
        if not self._instrumented and (has_some or self._have_unknown()):
            self._instrumented = True
            trio.lowlevel.add_instrument(self)

    def _have_unknown(self) -> list[Waiter]:
        return [
            agent for agent in self._agents.values() if any(wait.unknown_nurseries() for wait in agent.waits)
        ]

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Judge again when the last unknown task of an agent has ended (called by trio)."""
        for agent in self._have_unknown():
            if agent.idle:
                self.judge_again(agent)
                if self._on_rest is not None:
                    self._on_rest(agent.id)
        self.judge_rest()

    def close(self) -> None:
        """The pool has ended."""
        if self._instrumented:
            self._instrumented = False
            trio.lowlevel.remove_instrument(self)


def _source_of(agent: Waiter, *, ends_first: bool) -> Source | None:
    """What an agent waits to take from; an agent that has ended waits for nothing."""
    for wait in agent.waits:
        if wait.source is not None and wait.source.ends_first is ends_first:
            return wait.source
    return None


def _any_wait(wait: Wait) -> bool:
    return True


def _certain(wait: Wait) -> bool:
    return not wait.ends_by_itself


def _edges(
    waiting: Waiter | None, edge: WaitEdge[Waiter] | None, counts: Callable[[Wait], bool]
) -> EdgesOf[Waiter]:
    """The graph as it is, or as it would be if `waiting` began to wait as `edge` says."""

    def edges_of(agent: Waiter) -> Sequence[WaitEdge[Waiter]] | None:
        if agent is not waiting and (agent.active or agent.ready or agent.unwinding or agent.ended):
            return None
        edges = []
        for wait in agent.waits:
            targets = wait.known_targets()
            if targets is None or not counts(wait):
                return None
            edges.append(WaitEdge(targets, wait.needs_all))
        if agent is waiting and edge is not None:
            edges.append(edge)
        return edges

    return edges_of


protect_module(globals())
