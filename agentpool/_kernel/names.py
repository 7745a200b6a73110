"""Who is reached by a name, and which names come again.

An id is one agent, and ends with it. A name may be that of one agent after another: a supervisor starts
a child that ended as a new agent, with a new id and the old name. So who sends or asks by name waits
while nobody has the name and a supervisor is about to start somebody who has.

A supervisor may be started again itself, by its policy or by the supervisor above it. So the names of its
children outlive it: it leaves them to whoever decides about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Protocol, TypeAlias

from agentpool._core.errors import UnknownAgentError
from agentpool._core.messages import SUPERVISOR, AgentId
from agentpool._core.text import shown
from agentpool._kernel.inbox import Inbox
from agentpool._kernel.protection import protect_module
from agentpool._kernel.wait import Wait, Waiter


class Named(Protocol):
    """What a name leads to: an agent that has not ended."""

    id: AgentId
    name: str
    inbox: Inbox


Keeper: TypeAlias = tuple[AgentId, int]
"""A supervisor and the position of one of its children; or `_LEFT`, when it has left its names."""

NamesOfChild: TypeAlias = tuple[str, ...]
"""The name of a child, and of those below it, which it starts in its turn."""

_LEFT = -1

_MOST_COMPARED = 100
"""So many names are looked at for another spelling of one that nobody has."""


class KeepsNames:
    """An agent that starts others, and starts them again: a supervisor.

    A base class and no protocol: every agent that starts is asked whether it is one.
    """

    __slots__ = ()

    def names_kept(self) -> Sequence[NamesOfChild]:
        """The names that come with each of its children, by their positions."""
        raise NotImplementedError


class Names:
    """The names of one pool's agents.

    Attributes:
      waiting: those that wait for an agent of a name; empty most of the time, which the start of each
        agent asks.

    Args:
      agents: those that have not ended. They are searched for a name when it is asked for: to keep
        them by name too would cost every start and every end, and most agents are never looked for.
    """

    def __init__(self, agents: Mapping[AgentId, Named]) -> None:
        self.waiting: dict[str, list[Wait]] = {}
        self._agents = agents
        # Who starts an agent of a name, and starts it again when it has ended.
        self._kept: dict[str, set[Keeper]] = {}
        # Agents in which a supervisor runs that has not given up: they decide about their children.
        self._supervising: set[AgentId] = set()
        # What a supervisor has left, and who decides whether it is started again.
        self._left: dict[AgentId, tuple[AgentId, NamesOfChild]] = {}

    def find(self, name: str) -> AgentId:
        """Return the id of the live agent with a name.

        Raises:
          UnknownAgentError: if no live agent has it, or several have.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {shown(name)}")
        return self._only_one(name, [agent.id for agent in self._agents.values() if agent.name == name])

    def keep(self, name: str, keeper: Keeper) -> None:
        """From now on a supervisor starts an agent of the name when none lives; harmless if repeated."""
        self._kept.setdefault(name, set()).add(keeper)

    def drop(self, name: str, keeper: Keeper) -> None:
        """Undo `keep`, if it was done; who waits for the name is told when nobody keeps it any more."""
        keepers = self._kept.get(name, set())
        keepers.discard(keeper)
        if keepers or name not in self._kept:
            return
        del self._kept[name]
        for wait in self.waiting.pop(name, ()):
            wait.fail(self._nobody(name))

    # -- supervisors ---------------------------------------------------------------------------------

    def spawned(self, agent_id: AgentId, kept: Sequence[NamesOfChild]) -> None:
        """A supervisor was spawned, which is about to start its children."""
        # Here, and not in its first step: who sends to a child straight after the spawn waits for it.
        for position, names in enumerate(kept):
            for name in names:
                self.keep(name, (agent_id, position))

    def ended(self, agent_id: AgentId, kept: Sequence[NamesOfChild]) -> None:
        """A supervisor has ended for good, be it that it never took a step."""
        self._forget(agent_id, kept)
        heir, _ = self._left.get(agent_id, (None, ()))
        if heir == agent_id:
            self.take_over(agent_id)

    def begin_to_supervise(self, agent_id: AgentId) -> None:
        """A supervisor begins to run in an agent."""
        self._supervising.add(agent_id)

    def give_up(self, agent_id: AgentId, kept: Sequence[NamesOfChild], heir: AgentId | None) -> None:
        """A supervisor ends, and starts no child any more.

        Args:
          heir: who starts it again perhaps, so that its children come back: its own agent, if that has a
            policy, or its parent. It counts only if a supervisor runs in it.
        """
        if heir == agent_id or heir in self._supervising:
            assert heir is not None
            left = tuple(name for names in kept for name in names)
            self._left[agent_id] = (heir, left)
            for name in left:
                self.keep(name, (agent_id, _LEFT))
        self._supervising.discard(agent_id)
        self._forget(agent_id, kept)
        # Of those below it, which are among its own, nobody decides any more.
        for other in [other for other, (heir, _) in self._left.items() if heir == agent_id != other]:
            self.take_over(other)

    def take_over(self, agent_id: AgentId) -> None:
        """It was decided about a supervisor that gave up: drop what it left, if it left anything.

        Who decided that it comes back keeps its names before that.
        """
        _, left = self._left.pop(agent_id, (agent_id, ()))
        for name in left:
            self.drop(name, (agent_id, _LEFT))

    def _forget(self, agent_id: AgentId, kept: Sequence[NamesOfChild]) -> None:
        for position, names in enumerate(kept):
            for name in names:
                self.drop(name, (agent_id, position))

    # -- who waits -----------------------------------------------------------------------------------

    def begin_to_reach(self, waiter: Waiter | None, name: str) -> AgentId | Wait:
        """Return the id of the agent that gets messages under a name, or a wait for it.

        Raises:
          UnknownAgentError: if no live agent has the name and none will be started, or several have.
        """
        # An inbox that quiescence has ended takes nothing: its agent is on its way home.
        ids = [agent.id for agent in self._agents.values() if agent.name == name and not agent.inbox.ended]
        # Who is being cancelled itself does not wait for others to come back: the supervisor that starts
        # them may be waiting for this very agent to end.
        if ids or name not in self._kept or (waiter is not None and waiter.is_cancelled()):
            return self._only_one(name, ids)
        # Anybody could start an agent of that name, so that this wait is never judged hopeless. It needs
        # no judging: a supervisor that has a child to start runs, or waits for a slot, which this wait lends.
        wait = Wait(waiter, content=name)
        self.waiting.setdefault(name, []).append(wait)
        return wait

    def forget(self, wait: Wait) -> None:
        """Who waited was cancelled."""
        waits = self.waiting[wait.content]
        waits.remove(wait)
        if not waits:
            del self.waiting[wait.content]

    def came(self, agent: Named) -> None:
        """An agent was started: tell those that wait for its name."""
        for wait in self.waiting.pop(agent.name, ()):
            wait.wake(agent.id)

    # -- what is told ----------------------------------------------------------------------------------

    def _only_one(self, name: str, ids: list[AgentId]) -> AgentId:
        if len(ids) == 1:
            return ids[0]
        if not ids:
            raise self._nobody(name)
        told = ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")
        raise UnknownAgentError(
            ids[0], f"{len(ids)} live agents are called {shown(name)}: use the ids [{told}]"
        )

    def _nobody(self, name: str) -> UnknownAgentError:
        text = f"no live agent is called {shown(name)}"
        # Only other spellings of the same: a model that reads of a similar name would write to a stranger.
        letters = _letters(name)
        there = (agent.name for agent in islice(self._agents.values(), _MOST_COMPARED))
        for other in chain(there, self._kept):
            if other != name and _letters(other) == letters:
                return UnknownAgentError(SUPERVISOR, f"{text}. Did you mean {shown(other)}?")
        return UnknownAgentError(SUPERVISOR, text)


def _letters(name: str) -> str:
    """A name without what models and people get wrong: capitals, spaces, dashes, quotes."""
    return "".join(filter(str.isalnum, name)).casefold()


protect_module(globals())
