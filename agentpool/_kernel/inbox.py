"""The inbox of one agent.

Messages live in one bounded `trio.open_memory_channel` pair, and go in and out through `*_nowait`; the
waiting around them is `Wait`, because a task that waits here lends its slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio

from agentpool._core.errors import UnknownAgentError
from agentpool._core.messages import AgentId, AgentMessage
from agentpool._kernel.activity import Surroundings
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.idleness import heard_of
from agentpool._kernel.protection import protect_module
from agentpool._kernel.wait import Wait, Waiter

if TYPE_CHECKING:
    from agentpool._kernel.journal import PoolJournal
    from agentpool._kernel.places import Op


@attrs.frozen
class InboxStatistics:
    """A snapshot of an inbox.

    Attributes:
      fill: how many messages are in it.
      peak: the most there were at once.
      capacity: how many fit.
      senders_waiting: how many senders wait for room.
      receivers_waiting: how many tasks wait for a message.
    """

    fill: int
    peak: int
    capacity: int
    senders_waiting: int
    receivers_waiting: int


class PostOffice(Protocol):
    """What an inbox needs of the router that it belongs to."""

    pool: Surroundings | None
    journal: PoolJournal | None
    sent: int
    unused: InboxStatistics
    listening: InboxStatistics

    def put_in(self, message: AgentMessage) -> None:
        """Count a message as sent."""

    def taken(self, message: AgentMessage, op: Op | None, *, is_told: bool = True) -> None:
        """Count a message as received, by an operation of its agent; `is_told` has the journal tell of it."""

    def bury(self, message: AgentMessage, reason: str) -> None:
        """Count a message as one that nobody will receive."""

    def note_sent(self, message: AgentMessage) -> None:
        """Tell that a message is on its way."""

    def is_asked(self, message: AgentMessage) -> bool:
        """Whether somebody waits for a reply to the message."""
        ...

    def not_sent(self, message: AgentMessage) -> None:
        """The message will not be sent; whoever waits for that, or for a reply, is told in another way."""


@attrs.define(eq=False, repr=False)
class Inbox:
    """The messages of one agent, in the order in which they arrived.

    Iterating with `async for` receives until the inbox ends.
    """

    agent_id: AgentId
    capacity: int
    _post: PostOffice
    owner: Waiter | None = None
    ended: bool = False
    fill: int = 0
    peak: int = 0
    # Opened by the first message that is not handed over at once: a pair costs 3 µs and 1.8 KB.
    _channel: tuple[trio.MemorySendChannel[AgentMessage], trio.MemoryReceiveChannel[AgentMessage]] | None = (
        None
    )
    # Made when they are needed: most agents get few messages, many none, and a deque takes 0.6 KB.
    _waiting: deque[Wait] | None = None
    _senders: deque[Wait] | None = None

    def __repr__(self) -> str:
        state = "ended" if self.ended else f"{self.fill}/{self.capacity}"
        return f"<Inbox of agent {self.agent_id}, {state}>"

    @property
    def journal(self) -> PoolJournal | None:
        """That of its pool."""
        return self._post.journal

    # -- taking out ----------------------------------------------------------------------------

    def receive_nowait(self) -> AgentMessage:
        """Take the oldest message.

        Raises:
          trio.WouldBlock: if there is none.
          trio.EndOfChannel: if there is none and none will come any more.
        """
        journal = self._post.journal
        if journal is None:
            return self._receive_nowait(None)
        return journal.perform_nowait("receive", self._receive_nowait, journal.message_of, trio.WouldBlock())

    def _receive_nowait(self, op: Op | None) -> AgentMessage:
        if self.fill:
            return self._take(op)
        if self.ended:
            raise trio.EndOfChannel
        raise trio.WouldBlock

    def take_all(self) -> list[AgentMessage]:
        """Take what there is; for the loop, whose journal tells of it in its own way."""
        messages = []
        while self.fill:
            messages.append(self._take(None, is_told=False))
        return messages

    # Not `async def`, which would only wrap a coroutine in one more, for every agent that waits.
    def receive(self, *, unless_silent: bool = False) -> Coroutine[Any, Any, AgentMessage]:
        """Take the oldest message, waiting for one if there is none.

        Args:
          unless_silent: whether to give up when nobody is left who could ever send one.

        Raises:
          DeadlockError: if `unless_silent`, and every agent waits, and the program for them.
          trio.EndOfChannel: if none will come any more: the pool's block has ended and everybody
            who is left waits, or the agent has ended.

        Checkpoint: always. Cancellation: `Cancelled` means that no message was taken.
        """
        journal = self._post.journal
        if journal is None:
            return self._receive(unless_silent, None)
        return journal.perform("receive", partial(self._receive, unless_silent), self._received_before)

    async def _received_before(self, data: Any, op: Op) -> AgentMessage:
        return self._message_of(data, op)

    def _message_of(self, data: Any, op: Op) -> AgentMessage:
        assert self._post.journal is not None
        return self._post.journal.message_of(data, op)

    async def _receive(self, unless_silent: bool, op: Op | None) -> AgentMessage:
        waiter = None if self._post.pool is None else waiting_agent()
        if waiter is not self.owner:
            raise RuntimeError(f"only the tasks of agent {self.agent_id} receive from its inbox")
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.fill:
            message = self._take(op)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return message
        if self.ended:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise trio.EndOfChannel
        wait = Wait(waiter, source=self, content=op)
        waiting = self._waiting
        if waiting is None:
            waiting = self._waiting = deque()
        waiting.append(wait)
        if unless_silent and self._post.pool is not None:
            self._post.pool.silence.listen(wait)
        received: AgentMessage = await wait.park(waiting.remove)
        return received

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> AgentMessage:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def _take(self, op: Op | None, *, is_told: bool = True) -> AgentMessage:
        assert self._channel is not None
        message = self._channel[1].receive_nowait()
        self.fill -= 1
        self._post.taken(message, op, is_told=is_told)
        heard_of(self.owner)
        if self._senders:
            self._admit(self._senders.popleft())
        return message

    # -- putting in ------------------------------------------------------------------------------

    def offer(self, message: AgentMessage) -> bool:
        """Hand a message to a waiting task of the agent or keep it; False if there is no room."""
        if self._waiting:
            wait = self._waiting.popleft()
            self._post.put_in(message)
            self._post.taken(message, wait.content)
            heard_of(self.owner)
            # Handed over in this step, past the channel: no other task can take it between now and its turn.
            wait.wake(message)
            return True
        if self.fill >= self.capacity:
            return False
        if self._channel is None:
            self._channel = trio.open_memory_channel(self.capacity)
        self._channel[0].send_nowait(message)
        self._post.put_in(message)
        self.fill += 1
        if self.fill > self.peak:
            self.peak = self.fill
        return True

    def put_back(self, message: AgentMessage) -> None:
        """Keep a message that was in the inbox before its agent was resumed."""
        if self._channel is None:
            self._channel = trio.open_memory_channel(self.capacity)
        self._channel[0].send_nowait(message)
        self._post.sent += 1
        self.fill += 1
        self.peak = max(self.peak, self.fill)

    def wait_for_room(self, wait: Wait) -> None:
        """Queue a sender, whose message is the wait's content."""
        if self._senders is None:
            self._senders = deque()
        self._senders.append(wait)

    def forget_sender(self, wait: Wait) -> bool:
        """Take a sender out of the queue; return whether it still stood there."""
        if not self._senders or wait not in self._senders:
            return False
        self._senders.remove(wait)
        self._post.not_sent(wait.content)
        return True

    def _admit(self, wait: Wait) -> None:
        message: AgentMessage = wait.content
        # There is room: this is called for each message that is taken out, and nobody sends past the queue,
        # since an inbox with senders in it is full.
        admitted = self.offer(message)
        assert admitted
        self._post.note_sent(message)
        # The sender of a question waits on, now for its reply.
        if not self._post.is_asked(message):
            wait.wake()

    # -- the end -----------------------------------------------------------------------------------

    @property
    def ends_first(self) -> bool:
        """Before subscriptions to events, which tell of its end."""
        return True

    def end(self) -> None:
        """No more messages: tasks that wait for one get `trio.EndOfChannel`."""
        self.ended = True
        while self._waiting:
            self._waiting.popleft().fail(trio.EndOfChannel())

    def close(self, reason: str) -> None:
        """The agent is gone: what is left becomes dead letters, and waiting senders are told."""
        # First those that wait for a message: their agent has ended, and nothing is to be handed to them.
        self.end()
        while self.fill:
            assert self._channel is not None
            self.fill -= 1
            self._post.bury(self._channel[1].receive_nowait(), reason)
        if self._channel is not None:
            self._channel[0].close()
            self._channel[1].close()
        while self._senders:
            wait = self._senders.popleft()
            self._post.not_sent(wait.content)
            wait.fail(UnknownAgentError(self.agent_id, f"agent {self.agent_id} {reason}"))

    def statistics(self) -> InboxStatistics:
        """Return a snapshot."""
        if not self.peak and not self._senders and len(self._waiting or ()) < 2:
            return self._post.listening if self._waiting else self._post.unused
        return InboxStatistics(
            fill=self.fill,
            peak=self.peak,
            capacity=self.capacity,
            senders_waiting=len(self._senders or ()),
            receivers_waiting=len(self._waiting or ()),
        )


protect_module(globals())
