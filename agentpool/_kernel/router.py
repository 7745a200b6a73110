"""Messages by id: inboxes, questions and their replies, topics, dead letters.

Messages live in one bounded `trio.open_memory_channel` pair per agent, and go in and out through
`*_nowait`; the waiting around them is `Wait`, because a task that waits here lends its slot.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._core.errors import UnknownAgentError
from agentpool._core.events import MessageDeadLettered, MessageSent
from agentpool._core.messages import SUPERVISOR, AgentId, AgentMessage, check_reply
from agentpool._core.text import shown
from agentpool._kernel.activity import Surroundings
from agentpool._kernel.current import current_agent, waiting_agent
from agentpool._kernel.inbox import Inbox, InboxStatistics
from agentpool._kernel.protection import protect_module
from agentpool._kernel.topics import Topics
from agentpool._kernel.wait import Wait, Waiter

if TYPE_CHECKING:
    from agentpool._kernel.journal import PoolJournal
    from agentpool._kernel.places import Op

DEAD_LETTERS_KEPT = 1000
"""So many of the newest dead letters can be inspected; all of them are counted."""


@attrs.frozen
class DeadLetter:
    """A message that nobody will receive, and why."""

    message: AgentMessage
    reason: str


def _no_id(to: object) -> TypeError:
    fix = ""
    if isinstance(to, str):
        fix = f"; ask find({shown(to)}) for the id"
    elif isinstance(getattr(to, "id", None), int):
        fix = "; give its `id`"
    return TypeError(f"`to` must be the id of an agent, not {shown(to)}{fix}")


@attrs.frozen
class RouterStatistics:
    """A snapshot of a router: at every moment `sent == received + dead_letters + in_inboxes`."""

    sent: int
    received: int
    dead_letters: int
    in_inboxes: int
    asks_pending: int


@attrs.define(eq=False)
class _Ask:
    """A question that waits for its reply."""

    wait: Wait
    message: AgentMessage
    taken: bool = False


class MessageRouter:
    """Delivers messages to bounded inboxes by agent id.

    A pool has one, `pool.router`, and registers its agents by itself. Used alone, it delivers
    between whoever registers; then the sender of a message is what the message says.

    Args:
      inbox_capacity: how many messages an inbox holds, at least 1.
      pool: given by a pool to its own router; left out, the router is used alone.
    """

    def __init__(self, inbox_capacity: int = 32, *, pool: Surroundings | None = None) -> None:
        if isinstance(inbox_capacity, bool) or not isinstance(inbox_capacity, int):
            raise TypeError(f"inbox_capacity must be an int, not {shown(inbox_capacity)}")
        if inbox_capacity < 1:
            raise ValueError(f"inbox_capacity must be at least 1, not {inbox_capacity}")
        self.inbox_capacity = inbox_capacity
        self.pool = pool
        self.journal: PoolJournal | None = None
        self.inboxes: dict[AgentId, Inbox] = {}
        self.asks: dict[int, _Ask] = {}
        self.sent: int = 0
        self.received: int = 0
        self.dead_letters: deque[DeadLetter] = deque(maxlen=DEAD_LETTERS_KEPT)
        self.dead_letter_count: int = 0
        # Shared by the inboxes that never held a message: most of those of a large pool.
        self.unused: InboxStatistics = InboxStatistics(0, 0, inbox_capacity, 0, 0)
        self.listening: InboxStatistics = InboxStatistics(0, 0, inbox_capacity, 0, 1)
        self._log = None if pool is None else pool.events
        self._last_id = 0
        self._topics = Topics()

    def __repr__(self) -> str:
        return f"<MessageRouter of {len(self.inboxes)} agents, {self.sent} messages sent>"

    @property
    def agent_count(self) -> int:
        """How many agents are registered."""
        return len(self.inboxes)

    # -- who can be reached ------------------------------------------------------------------------

    def register(self, agent_id: AgentId, *, owner: Waiter | None = None) -> Inbox:
        """Open an inbox for an agent.

        Raises:
          ValueError: if the agent has one already, or the id is not a positive number.
        """
        if agent_id <= SUPERVISOR:
            raise ValueError(f"an agent id is a positive number, not {agent_id}: 0 is the supervisor")
        if agent_id in self.inboxes:
            raise ValueError(f"agent {agent_id} is registered already")
        inbox = self.inboxes[agent_id] = Inbox(agent_id, self.inbox_capacity, self, owner)
        return inbox

    def unregister(self, agent_id: AgentId, reason: str = "has ended") -> None:
        """Close an agent's inbox; harmless if it has none.

        What is left in it becomes dead letters. Who waits for room in it, or for a reply from the
        agent, gets `UnknownAgentError`.
        """
        inbox = self.inboxes.pop(agent_id, None)
        if inbox is None:
            return
        inbox.close(reason)
        if self.asks:
            self.fail_asks_to(agent_id, reason, taken_only=False)
        self._topics.forget(agent_id)

    def fail_asks_to(self, agent_id: AgentId, reason: str, *, taken_only: bool) -> None:
        """Tell those that wait for a reply of an agent that none will come."""
        # A copy: an asker that is told may ask again, or end, before the next one is.
        for ask in list(self.asks.values()):
            if ask.message.to == agent_id and (ask.taken or not taken_only):
                del self.asks[ask.message.id]
                ask.wait.fail(UnknownAgentError(agent_id, f"agent {agent_id} {reason} without a reply"))

    def _inbox_of(self, agent_id: AgentId) -> Inbox:
        inbox = self.inboxes.get(agent_id)
        if inbox is None or inbox.ended:
            if agent_id == SUPERVISOR:
                raise UnknownAgentError(agent_id, "the supervisor, 0, has no inbox")
            if not isinstance(agent_id, int):
                raise _no_id(agent_id)
            raise UnknownAgentError(agent_id)
        return inbox

    def _stamped(
        self,
        sender: AgentId,
        to: AgentId,
        content: Any,
        reply_to: int | None,
        topic: str | None,
        op: Op | None,
        *,
        is_question: bool = False,
    ) -> AgentMessage:
        self._last_id += 1
        message = AgentMessage(sender, to, content, self._last_id, reply_to, topic, is_question)
        if self.journal is not None:
            self.journal.stamp(message, op, is_question=is_question)
        return message

    def _waiter(self) -> Waiter | None:
        """The agent of the calling task, which is about to wait; nobody alone."""
        return None if self.pool is None else waiting_agent()

    def _sender(self, claimed: AgentId) -> AgentId:
        """Who sends: in a pool the agent that calls, or the supervisor, whatever the message claims."""
        pool = self.pool
        if pool is None:
            return claimed
        pool.check_here()
        agent = current_agent()
        return agent.id if agent is not None and agent.slots is pool.slots else SUPERVISOR

    def _parent_of(self, agent_id: AgentId) -> AgentId:
        """Who spawned an agent that has an inbox; 0 for others."""
        inbox = self.inboxes.get(agent_id)
        return SUPERVISOR if inbox is None or inbox.owner is None else inbox.owner.parent_id

    def _name_of(self, agent_id: AgentId) -> str:
        """What an agent that has an inbox is called; nothing for others."""
        inbox = self.inboxes.get(agent_id)
        return "" if inbox is None or inbox.owner is None else inbox.owner.name

    def go_on_from(self, last_id: int) -> None:
        """Give messages higher ids than those that were sent before the pool was resumed."""
        self._last_id = last_id

    # -- sending -----------------------------------------------------------------------------------

    def send_nowait(self, message: AgentMessage, op: Op | None = None) -> None:
        """Deliver a message to its recipient's inbox.

        Raises:
          UnknownAgentError: if the recipient never existed or has ended.
          trio.WouldBlock: if its inbox is full.
        """
        inbox = self._inbox_of(message.to)
        sender = self._sender(message.sender)
        stamped = self._stamped(sender, message.to, message.content, message.reply_to, message.topic, op)
        if not inbox.offer(stamped):
            self.not_sent(stamped)
            raise trio.WouldBlock
        self.note_sent(stamped)

    async def send(self, message: AgentMessage, op: Op | None = None) -> None:
        """Deliver a message to its recipient's inbox, waiting for room.

        Messages between the same two agents arrive in the order they were sent.

        Raises:
          UnknownAgentError: if the recipient never existed or has ended, or ends meanwhile.
          DeadlockError: if waiting would close a cycle of agents that wait for each other.

        Checkpoint: always. Cancellation: `Cancelled` means that nothing was delivered.
        """
        waiter = self._waiter()
        await trio.lowlevel.checkpoint_if_cancelled()
        sender = self._sender(message.sender)
        wait = self.begin_send(
            waiter, sender, message.to, message.content, message.reply_to, message.topic, op
        )
        if wait is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await wait.park(wait.undo)

    def begin_send(
        self,
        waiter: Waiter | None,
        sender: AgentId,
        to: AgentId,
        content: Any,
        reply_to: int | None = None,
        topic: str | None = None,
        op: Op | None = None,
    ) -> Wait | None:
        """Deliver a message, or queue it and return what its sender has to wait for."""
        inbox = self._inbox_of(to)
        message = self._stamped(sender, to, content, reply_to, topic, op)
        if inbox.offer(message):
            self.note_sent(message)
            return None
        # Judged before it is queued: a wait that is refused has left nothing behind.
        wait = self._wait_on(waiter, inbox, message)
        wait.undo = inbox.forget_sender
        inbox.wait_for_room(wait)
        return wait

    def _wait_on(self, waiter: Waiter | None, inbox: Inbox, message: AgentMessage) -> Wait:
        targets = () if inbox.owner is None else (inbox.owner,)
        if self.pool is not None:
            try:
                self.pool.judge.check(waiter, targets)
            except BaseException:
                self.not_sent(message)
                raise
        return Wait(waiter, targets, content=message)

    def note_sent(self, message: AgentMessage) -> None:
        """Tell the subscribers of the pool that a message is on its way."""
        if self._log is not None and self._log.subscriptions:
            self._log.emit(MessageSent, message.sender, self._parent_of(message.sender), message)

    # -- asking --------------------------------------------------------------------------------------

    async def ask(self, message: AgentMessage, op: Op | None = None) -> Any:
        """Deliver a question, and wait for the content of its reply.

        Raises:
          UnknownAgentError: if the recipient never existed, or ends without a reply, or is
            restarted after it took the question.
          DeadlockError: if waiting would close a cycle of agents that wait for each other;
            nothing was delivered then.

        Checkpoint: always. Cancellation: after `Cancelled` the question may have been delivered;
        its reply becomes a dead letter.
        """
        waiter = self._waiter()
        await trio.lowlevel.checkpoint_if_cancelled()
        inbox = self._inbox_of(message.to)
        sender = self._sender(message.sender)
        message = self._stamped(
            sender, message.to, message.content, message.reply_to, message.topic, op, is_question=True
        )
        wait = self._wait_on(waiter, inbox, message)
        # Noted before the question is delivered: the one that gets it may answer in the same step.
        self.asks[message.id] = _Ask(wait, message)
        if inbox.offer(message):
            self.note_sent(message)
        else:
            inbox.wait_for_room(wait)
        return await self._answer_to(message, wait, inbox, op)

    async def _answer_to(self, message: AgentMessage, wait: Wait, inbox: Inbox, op: Op | None) -> Any:
        def give_up(wait: Wait) -> None:
            is_sent = not inbox.forget_sender(wait)
            self.asks.pop(message.id, None)
            if is_sent and self.journal is not None:
                self.journal.left(message.id, op)

        return await wait.park(give_up)

    async def ask_on(self, data: Any, op: Op) -> Any:
        """Wait for the answer to a question that was put before the agent was resumed.

        Raises:
          UnknownAgentError: as `ask`.
        """
        journal = self.journal
        assert journal is not None
        if "content" not in data:
            data = journal.answer_to(data["id"], data)
        if "content" in data:
            return journal.decoded(data["content"], op)
        message = AgentMessage(op.record.id, data["to"], None, data["id"])
        inbox = self.inboxes.get(message.to)
        if inbox is None or inbox.ended:
            raise UnknownAgentError(message.to, f"agent {message.to} has ended without a reply")
        wait = self._wait_on(waiting_agent(), inbox, message)
        self.asks[message.id] = _Ask(wait, message)
        return await self._answer_to(message, wait, inbox, op)

    def reply(self, replier: AgentId, message: AgentMessage, content: Any) -> None:
        """Answer a question; a reply that nobody waits for becomes a dead letter.

        Raises:
          ValueError: if the message was not sent to the replier.
        """
        check_reply(replier, message)
        journal = self.journal
        op = None
        if journal is not None:
            op = journal.draw()
            if op is not None and op.found is not None:
                journal.found_of(op, "reply")
                return
        self._last_id += 1
        reply = AgentMessage(replier, message.sender, content, self._last_id, message.id)
        if journal is not None:
            journal.replied(reply, op)
        ask = self.asks.get(message.id)
        self.sent += 1
        if ask is None and journal is not None and journal.keep_answer(reply):
            self.received += 1
            return
        if ask is None or ask.message.to != replier or ask.message.sender != message.sender:
            self.bury(reply, "nobody waits for this reply")
            return
        del self.asks[message.id]
        self.received += 1
        self.note_sent(reply)
        ask.wait.wake(content)

    def not_sent(self, message: AgentMessage) -> None:
        """The message will not be sent; whoever waits for that, or for a reply, is told in another way."""
        self.asks.pop(message.id, None)
        if self.journal is not None:
            self.journal.unstamp(message)

    def is_asked(self, message: AgentMessage) -> bool:
        """Whether somebody waits for a reply to the message."""
        return message.id in self.asks

    def asker_of(self, message_id: int, agent_id: AgentId) -> AgentId | None:
        """Return who waits for an agent's reply to a message; None if nobody does."""
        if (ask := self.asks.get(message_id)) is not None:
            return ask.message.sender if ask.message.to == agent_id else None
        return None if self.journal is None else self.journal.past.asker_of(message_id, agent_id)

    # -- topics ----------------------------------------------------------------------------------------

    def subscribe(self, agent_id: AgentId, topic: str) -> None:
        """Have what is published on a topic delivered to an agent's inbox.

        Raises:
          TypeError: if the topic is no string.
          UnknownAgentError: if the agent is not registered.
        """
        self._inbox_of(agent_id)
        self._topics.subscribe(agent_id, topic)

    def unsubscribe(self, agent_id: AgentId, topic: str) -> None:
        """Undo `subscribe`; harmless if there is nothing to undo."""
        self._topics.unsubscribe(agent_id, topic)

    def subscribers(self, topic: str) -> list[AgentId]:
        """The agents that subscribe to a topic, in the order in which they did."""
        return self._topics.subscribers(topic)

    # -- the books -----------------------------------------------------------------------------------------

    def put_in(self, message: AgentMessage) -> None:
        """Count a message as sent."""
        self.sent += 1
        if self.journal is not None:
            self.journal.sent(message)

    def taken(self, message: AgentMessage, op: Op | None, *, is_told: bool = True) -> None:
        """Count a message as received, by an operation of its agent; `is_told` has the journal tell of it."""
        self.received += 1
        if is_told and self.journal is not None:
            self.journal.received(message, op)
        if self.asks:
            ask = self.asks.get(message.id)
            if ask is not None:
                ask.taken = True

    def bury(self, message: AgentMessage, reason: str) -> None:
        """Count a message as one that nobody will receive."""
        self.dead_letter_count += 1
        self.dead_letters.append(DeadLetter(message, reason))
        if self.journal is not None:
            self.journal.buried(message, reason)
        if self._log is not None:
            sender = message.sender
            self._log.emit(MessageDeadLettered, sender, self._parent_of(sender), message, reason)
            self._log.reports.dead_letter(self._name_of(sender), message, reason)

    def statistics(self) -> RouterStatistics:
        """Return a snapshot."""
        return RouterStatistics(
            sent=self.sent,
            received=self.received,
            dead_letters=self.dead_letter_count,
            in_inboxes=sum(inbox.fill for inbox in self.inboxes.values()),
            asks_pending=len(self.asks),
        )


protect_module(globals())
