"""What a pool writes into its journal, and what it finds there again.

Records are appended in the step in which the thing happens, and never wait. What is kept of a journal
is always a beginning, so a record is never there without those that it depends on. Only what leaves
the process waits (`commit`): a model call, a tool call, a step, an outcome that the program gets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar
from uuid import uuid4

import trio

from agentpool import abc
from agentpool._core.errors import JournalError
from agentpool._core.messages import SUPERVISOR, AgentId, AgentMessage
from agentpool._core.outcomes import AnyOutcome
from agentpool._core.past import Operation, Past, PastAgent
from agentpool._core.records import JournalRecord, RecordKind
from agentpool._kernel.activity import Activity
from agentpool._kernel.agent_journal import AgentJournal
from agentpool._kernel.descriptions import description_of, outcome_to_data
from agentpool._kernel.options import name_of
from agentpool._kernel.places import (
    Op,
    Place,
    kept_values,
    life_of,
    place_here,
    set_place,
    standing_at,
)
from agentpool._kernel.protection import await_unprotected, protect_module
from agentpool._objects import error_to_data

T = TypeVar("T")

LEFT = "left"
"""The kind of an operation that was cancelled, though it had begun to have an effect."""


_OF_THE_PROGRAM: Mapping[str, Any] = {"life": 0, "key": None}


def _is_open(found: Operation) -> bool:
    """Whether an operation had begun, and not come to anything: a question without an answer."""
    return found.kind == "ask" and "content" not in found.value


class PoolJournal(AgentJournal):
    """A pool's journal, and the past that it held when the pool was opened.

    Attributes:
      past: what the run had come to; empty for a new one.
      outcomes: of agents that had ended, and that nobody was given again.
      resumed: the agents that the program had spawned, in its order.
      finder: finds agents that the journal cannot find by itself.
      pause: ends the pool when all wait for the decisions of a person; None as long as nothing is asked.
      is_leaving: whether the pool is left early: what agents do from then on is their unwinding, and is
        not told.
      run_id: names the run in all the world.
    """

    def __init__(
        self,
        journal: abc.Journal,
        past: Past,
        *,
        on_failure: Callable[[BaseException], None],
        is_left: Callable[[], bool],
    ) -> None:
        """Write into a journal.

        Args:
          journal: an open one.
          past: what it holds.
          on_failure: told when it cannot be written.
          is_left: tells whether the pool ends early, so that nothing of it is written any more.
        """
        self.past = past
        self.run_id: str = past.run.get("id") or uuid4().hex
        self.outcomes: dict[AgentId, AnyOutcome] = {}
        self.resumed: Sequence[Any] = ()
        self.finder: Any = None
        self.pause: Any = None
        self._journal = journal
        self._on_failure = on_failure
        self._is_left = is_left
        self.is_leaving = False
        self._zero = trio.current_time() - past.elapsed
        self._calls = past.last_call
        self._stamped: dict[int, dict[str, Any]] = {}
        self._answers: dict[int, Any] = {}

    # -- writing -----------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds into the run."""
        return trio.current_time() - self._zero

    def append(self, kind: RecordKind, agent: AgentId, data: Mapping[str, Any]) -> None:
        """Have a record written; never raises, so that it may stand in the middle of bookkeeping."""
        if self._is_left():
            return
        try:
            self._journal.append(JournalRecord(kind, agent, data, round(self.now, 6)))
        except BaseException as error:
            self._on_failure(error)

    async def commit(self) -> None:
        """Wait until everything that was appended is written.

        Raises:
          JournalError: if it cannot be written; it ends the pool too.

        Checkpoint: unless everything is written. Cancellation: leaves nothing behind.
        """
        try:
            await self._journal.commit()
        except JournalError as error:
            self._on_failure(error)
            raise

    async def keep_end(self) -> None:
        """Wait, as the task of an agent that has ended, until that is written.

        Nobody depends on it. But without it a run of agents that never wait for the journal, which are
        functions without steps, would be written at its end only, and lost by a crash before that.
        """
        with suppress(JournalError):  # the pool ends by it
            await self.commit_shielded()

    async def close(self) -> None:
        """Say how the run was left, and let the journal go.

        Raises:
          JournalError: if what was left could not be written.
        """
        if self.pause is not None and self.pause.has_ended_it:
            how = "paused"
        else:
            how = "stopped" if self._is_left() else "ended"
        with suppress(JournalError):
            self._journal.append(JournalRecord("closed", SUPERVISOR, {"how": how}, round(self.now, 6)))
        await self._journal.aclose()

    def time_of(self, at: float) -> float:
        """Return the time on trio's clock of a moment in the run."""
        return self._zero + at

    # -- agents ------------------------------------------------------------------------------------

    def described(self, fn: Any, args: tuple[Any, ...], *, is_placed: bool = False) -> Any:
        """Return what an agent runs, and with what, as data; an agent that cannot be found again is None.

        Raises:
          TypeError: if an argument cannot be kept.
        """
        agent = description_of(fn)
        given = self.encoded(args, f"the arguments of {name_of(fn)}")
        described = {"agent": agent, "args": given}
        return {**described, "placed": True} if is_placed else described

    def spawned(
        self, record: Activity, description: Any, op: Op | None, options: Any, context: Context | None
    ) -> None:
        """An agent has its id; `context` is its spawner's, if that is not the calling task's."""
        by = SUPERVISOR if op is None else op.record.id
        of = _OF_THE_PROGRAM if op is None else op.data
        data = {
            "name": record.name,
            "parent": record.parent_id,
            "by": by,
            **of,
            "work": description,
            "options": self.encoded(options, "options"),
        }
        kept = kept_values(context)
        if kept:
            data["context"] = self.encoded(kept, "the context of an agent")
        self.append("spawned", record.id, data)

    def begin_life(self, record: Activity, life: int, past: PastAgent | None) -> None:
        """The calling task begins a life of an agent."""
        set_place(Place(self, record, life, life_of(past, life)))

    def ended(self, agent_id: AgentId, outcome: AnyOutcome) -> None:
        """An agent has its outcome."""
        self.append("ended", agent_id, outcome_to_data(outcome))

    # -- operations --------------------------------------------------------------------------------

    async def perform(
        self,
        kind: str,
        run: Callable[[Op | None], Awaitable[T]],
        restore: Callable[[Any, Op], Awaitable[T]],
    ) -> T:
        """Do an operation of the calling task, or come to what it came to before.

        Args:
          kind: what it is.
          run: does it, and writes what it came to.
          restore: makes its result of what the journal tells, behind a checkpoint.

        Raises:
          ReplayMismatchError: if the journal tells of another kind of operation.
        """
        op = self.draw()
        if op is None:
            return await run(None)
        if op.was_left or (op.found is not None and op.found.kind == LEFT):
            # It was cancelled before it had a result; what cancelled it does so again.
            await trio.sleep_forever()
        if op.found is not None:
            async with op.past.turns.take(op.key):
                found = self.found_of(op, kind, is_taken=_is_open(op.found))
                return await restore(found, op)
        await op.past.turns.are_over(op.key)
        try:
            return await run(op)
        except Exception as error:
            self.operated(op, "error", error_to_data(error))
            raise

    def perform_nowait(
        self, kind: str, run: Callable[[Op | None], T], restore: Callable[[Any, Op], T], refusal: Exception
    ) -> T:
        """As `perform`, for what does not wait.

        Args:
          refusal: raised again where it could not be done at once, and the code went on.
        """
        op = self.draw()
        if op is None:
            return run(None)
        if op.found is not None:
            return restore(self.found_of(op, kind), op)
        if op.was_left:
            raise refusal
        try:
            return run(op)
        except trio.WouldBlock:  # nothing has happened, and who polls does so often: it is not written
            raise
        except Exception as error:
            self.operated(op, "error", error_to_data(error))
            raise

    def found_of(self, op: Op, kind: str, *, is_taken: bool = True) -> Any:
        """Return what the journal tells of an operation.

        Args:
          is_taken: whether the agent has come to it thereby.

        Raises:
          ReplayMismatchError: if it is of another kind.
          Exception: what the operation raised.
        """
        found = op.found
        assert found is not None
        if is_taken:
            op.past.turns.taken(op.key)
        if found.kind == "error":
            raise self.decoded(found.value, op)
        if found.kind != kind:
            raise op.mismatch(f"it does `{kind}` now, where its journal tells of `{found.kind}`")
        return found.value

    def decide(self, kind: str, find: Callable[[], T]) -> tuple[T, Op | None]:
        """Return what was decided at this place before, or decide it now; it has to be data.

        Returns:
          What was decided, and the operation that it is.
        """

        def run(op: Op | None) -> tuple[T, Op | None]:
            decided = find()
            self.operated(op, kind, decided)
            return decided, op

        return self.perform_nowait(kind, run, lambda found, op: (found, op), trio.WouldBlock())

    async def step(self, name: str, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
        """Do what a step of an agent's code does, or come to what it came to before."""
        kind = f"step {name}"

        async def run(op: Op | None) -> T:
            await self.commit()
            # What it does by the agent's verbs is numbered by itself: it is not done when the step is not.
            place = place_here()
            with standing_at(None if op is None or place is None else place.inside(op.key)):
                value: T = await await_unprotected(fn, *args)
            self.operated(op, kind, self.encoded(value, f"what the step {name!r} returned"))
            await self.commit_shielded()
            return value

        async def restore(data: Any, op: Op) -> T:
            value: T = self.decoded(data, op)
            return value

        return await self.perform(kind, run, restore)

    # -- messages ----------------------------------------------------------------------------------

    def message_of(self, data: Any, op: Op) -> AgentMessage:
        """Return the message of which a record tells.

        Raises:
          ReplayMismatchError: if its content cannot be read any more.
        """
        content, to, asked = self.decoded(data["content"], op), op.record.id, data.get("ask", False)
        return AgentMessage(data["from"], to, content, data["id"], data["reply_to"], data["topic"], asked)

    def message_to_data(self, message: AgentMessage) -> dict[str, Any]:
        """Return a message as data, of which `message_of` makes it again."""
        return {
            "id": message.id,
            "from": message.sender,
            "content": self.encoded(message.content, "the content of a message"),
            "reply_to": message.reply_to,
            "topic": message.topic,
        }

    def stamp(self, message: AgentMessage, op: Op | None, *, is_question: bool = False) -> None:
        """Take in a message that is about to be sent.

        Raises:
          TypeError: if its content cannot be kept.
        """
        self._stamped[message.id] = {
            **self.message_to_data(message),
            "ask": is_question,
            **(_OF_THE_PROGRAM if op is None else op.data),
        }

    def replied(self, reply: AgentMessage, op: Op | None) -> None:
        """A question is answered.

        Raises:
          TypeError: if the answer cannot be kept.
        """
        content = self.encoded(reply.content, "an answer")
        of = _OF_THE_PROGRAM if op is None else op.data
        self.append(
            "replied", reply.sender, {"id": reply.reply_to, "reply": reply.id, "content": content, **of}
        )

    def left(self, question: int, op: Op | None) -> None:
        """Whoever asked waits no more: an answer that comes is none of that operation."""
        self.past.questions.pop(question, None)
        self.operated(op, LEFT, question)

    def keep_answer(self, reply: AgentMessage) -> bool:
        """Keep an answer for an asker that was not resumed as far yet; False if there is none such."""
        if reply.reply_to not in self.past.questions:
            return False
        del self.past.questions[reply.reply_to]
        self._answers[reply.reply_to] = self.encoded(reply.content, "an answer")
        return True

    def answer_to(self, question: int, data: Any) -> Any:
        """Return what is told of a question, with the answer if it has come meanwhile."""
        self.past.questions.pop(question, None)
        if question not in self._answers:
            return data
        return {**data, "content": self._answers.pop(question)}

    def unstamp(self, message: AgentMessage) -> None:
        """The message will not be sent."""
        self._stamped.pop(message.id, None)

    def sent(self, message: AgentMessage) -> None:
        """The message is on its way: in an inbox, or handed over."""
        self.append("sent", message.to, self._stamped.pop(message.id))

    def received(self, message: AgentMessage, op: Op | None) -> None:
        """The message was taken."""
        of = _OF_THE_PROGRAM if op is None else op.data
        self.append("received", message.to, {"id": message.id, **of})

    def buried(self, message: AgentMessage, reason: str) -> None:
        """Nobody will receive the message."""
        self._stamped.pop(message.id, None)
        self.append("buried", message.to, {"id": message.id, "reason": reason})

    # -- model calls -------------------------------------------------------------------------------

    def next_call(self) -> int:
        """Return the number of a model call that begins."""
        self._calls += 1
        return self._calls


protect_module(globals())
