"""What of an agent's doings outlives a crash: steps, calls with keys, time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import trio

from agentpool._core.messages import AgentId
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.places import key_of_call
from agentpool._kernel.protection import await_unprotected, protect_module
from agentpool._kernel.scope import Scope
from agentpool._kernel.state import PoolState

if TYPE_CHECKING:
    from agentpool._kernel.agent_journal import AgentJournal
    from agentpool._kernel.places import Place

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class LastingScope(Scope):
    """An agent's scope, with what it needs to be resumed; harmless in a pool without a journal."""

    __slots__ = ("_agent",)

    def __init__(self, state: PoolState, record: AgentRecord) -> None:
        super().__init__(state, record)
        self._agent = record

    @property
    def journal(self) -> AgentJournal | None:
        """The pool's journal, as the agent's code meets it; None without one."""
        return self._state.journal

    def current_time(self) -> float:
        """As `trio.current_time()`, in seconds; behind a verb that is not done again, when that was done.

        So what an agent decides by it is decided in the same way when the agent is resumed.
        """
        journal = self.journal
        return trio.current_time() if journal is None else journal.time_here()

    def adopt_children_of(self, place: Place) -> None:
        """Have the children go on that code at a place had spawned, which does not run again."""
        from agentpool._kernel.resuming import adopt  # who has no journal needs none

        adopt(self._state, self._agent, place.path)

    def children_of(self, place: Place) -> list[tuple[AgentHandle[Any], bool]]:
        """Return the children that such code had spawned, each with whether its outcome is known already."""
        from agentpool._kernel.resuming import spawned_at  # who has no journal needs none

        found = spawned_at(self._state, self._agent, place.path)
        return [(AgentHandle(child), is_taken) for child, is_taken in found]

    def find(self, name: str) -> AgentId:
        """Return the id of the live agent with a name; an agent that is resumed finds whom it had found.

        Raises:
          UnknownAgentError: if no live agent of the pool has it, or several have.
        """
        journal = self._state.journal
        find = partial(self._state.names.find, name)
        return find() if journal is None else journal.decide("find", find)[0]

    @property
    def call_key(self) -> str:
        """What names the tool call that runs: for a service that does nothing twice under the same key.

        With a journal, a call that is made again after a crash has the same key, and no other call in all
        the world has it. Declare the tool idempotent (`@tool(idempotent=True)`), or it is not made again.

        Raises:
          RuntimeError: outside of a tool call of this agent.
        """
        key = key_of_call(self._agent.id)
        if key is None:
            raise RuntimeError("call_key names a tool call, and none runs here")
        return key

    async def step(self, name: str, fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> T:
        """Do something once: if the agent is resumed after it, its result comes from the journal.

        An agent that is a function is run again from its start when its pool is resumed. What it had
        done by the verbs of its context is not done again; all else is, but for steps. A step that a
        crash cut off is done again, so it should be something that may happen twice. Without a journal
        it is `await fn(*args)`.

        Args:
          name: what the step is; a resumed agent has to come to the same steps in the same order.
          fn: what to do, an async function.

        Returns:
          What `fn` returned. With a journal it has to be data, or an object of a class with fields.

        Raises:
          RuntimeError: if the calling task is none of the agent's.
          ReplayMismatchError: if the journal tells of another step, or another operation, here.
          TypeError: if the result cannot be kept in the journal.
          JournalError: if it cannot be written.
          Exception: what `fn` raises; also when it is not done again.

        Checkpoint: with a journal always, without one as `fn`. Cancellation: as `fn`.
        """
        journal = self.journal
        if journal is None:
            value: T = await await_unprotected(fn, *args)
            return value
        waiting_agent()  # in a task that the pool does not know it would be done, and not kept
        return await journal.step(name, fn, args)


protect_module(globals())
