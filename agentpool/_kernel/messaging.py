"""The verbs that a pool and a context share to reach agents: send, ask, find."""

from __future__ import annotations

from collections.abc import (
    Awaitable,
    Callable,
)
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import trio

from agentpool._core.errors import UnknownAgentError
from agentpool._core.messages import SUPERVISOR, AgentId, AgentMessage
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.many import ManyScope
from agentpool._kernel.protection import protect_module
from agentpool._kernel.wait import Wait

if TYPE_CHECKING:
    from agentpool._kernel.places import Op

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def _nothing(value: object, op: Op) -> None:
    """The operation came to nothing."""


class MessagingScope(ManyScope):
    """A scope that sends messages, and asks."""

    __slots__ = ()

    async def send(self, to: AgentId | str, content: Any) -> None:
        """Deliver a message to an agent's inbox, waiting for room.

        Messages between the same two agents arrive in the order they were sent. The sender is the
        agent whose task calls, or the supervisor.

        Args:
          to: the id of a live agent of this pool, or its name. If the agent of that name ends before it
            has the message, and a `Supervisor` starts it again, its next life gets it.

        Raises:
          UnknownAgentError: if the recipient never existed or has ended, or ends meanwhile; of a name,
            if no live agent has it and none will be started, or several have.
          DeadlockError: if waiting would close a cycle of agents that wait for each other.

        Checkpoint: always. Cancellation: `Cancelled` means that nothing was delivered.
        """
        state = self._state
        if state.journal is not None:
            return await state.journal.perform("send", partial(self._send, to, content), _nothing)
        if isinstance(to, str):
            return await self._by_name(to, lambda found: self.send(found, content))
        waiter = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        if waiter is not None and waiter.slots is state.slots:
            sender = waiter.id  # a task that the pool knows is in the pool's own run
        else:
            state.parts.check_here()
            sender = SUPERVISOR
        wait = state.router.begin_send(waiter, sender, to, content)
        if wait is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await wait.park(wait.undo)
        return None

    async def _send(self, to: AgentId | str, content: Any, op: Op | None) -> None:
        if isinstance(to, str):
            return await self._by_name(to, lambda found: self._send(found, content, op))
        return await self._state.router.send(AgentMessage(to=to, content=content), op)

    def send_nowait(self, to: AgentId | str, content: Any) -> None:
        """Deliver a message to an agent's inbox, without waiting.

        Raises:
          UnknownAgentError: if the recipient never existed or has ended; of a name, as `find`.
          trio.WouldBlock: if its inbox is full.
        """
        journal = self._state.journal
        if journal is None:
            return self._send_nowait(to, content, None)
        send = partial(self._send_nowait, to, content)
        return journal.perform_nowait("send", send, lambda *_: None, trio.WouldBlock())

    def _send_nowait(self, to: AgentId | str, content: Any, op: Op | None) -> None:
        found = self._state.names.find(to) if isinstance(to, str) else to
        self._state.router.send_nowait(AgentMessage(to=found, content=content), op)

    async def ask(self, to: AgentId | str, content: Any) -> Any:
        """Deliver a question to an agent, and return the content of its reply.

        Put a cancel scope around it for a time limit.

        Args:
          to: the id of a live agent of this pool, or its name. A question to a name outlives the one
            that it was put to: if that agent ends or is restarted without a reply, and starts again, by
            a `RestartPolicy` or a `Supervisor`, the question is put to its next life. So one question
            may be received more than once, and one that breaks each life of a service breaks it until
            its restarts are used up.

        Raises:
          UnknownAgentError: if the recipient never existed, or ends without a reply, or is
            restarted after it took the question; of a name, if no live agent has it and none will
            be started, or several have.
          DeadlockError: if waiting would close a cycle of agents that wait for each other;
            nothing was delivered then.

        Checkpoint: always. Cancellation: after `Cancelled` the question may have been delivered;
        a reply to it becomes a dead letter.
        """
        journal, router = self._state.journal, self._state.router
        if journal is not None:
            asked_before = partial(self._asked_before, to, content)
            return await journal.perform("ask", partial(self._ask, to, content), asked_before)
        if isinstance(to, str):
            return await self._by_name(to, lambda found: self.ask(found, content))
        return await router.ask(AgentMessage(to=to, content=content))

    async def _ask(self, to: AgentId | str, content: Any, op: Op | None) -> Any:
        if isinstance(to, str):
            return await self._by_name(to, lambda found: self._ask(found, content, op))
        return await self._state.router.ask(AgentMessage(to=to, content=content), op)

    async def _asked_before(self, to: AgentId | str, content: Any, data: Any, op: Op) -> Any:
        try:
            return await self._state.router.ask_on(data, op)
        except UnknownAgentError:
            if not isinstance(to, str):
                raise
        return await self._ask(to, content, op)  # the next life of whoever has that name

    async def _by_name(self, name: str, verb: Callable[[AgentId], Awaitable[T]]) -> T:
        """Do something with the agent of a name, and with its next life if it ends meanwhile.

        Each turn is a wait of its own, judged when it begins: in between the caller runs, so that no
        cycle can form that goes through it.
        """
        names = self._state.names
        waiter = waiting_agent()
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            found = names.begin_to_reach(waiter, name)
            if isinstance(found, Wait):
                found = await found.park(names.forget)
            try:
                return await verb(found)
            except UnknownAgentError:
                continue  # it has ended, or was restarted; the next look tells whether it comes again

    def find(self, name: str) -> AgentId:
        """Return the id of the live agent with a name.

        Raises:
          UnknownAgentError: if no live agent of the pool has it, or several have.
        """
        return self._state.names.find(name)


protect_module(globals())
