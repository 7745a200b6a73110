"""A batch: agents that one verb starts one after the other, and their outcomes."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol

import attrs
import trio

from agentpool._core.errors import PoolClosedError, PoolLimitError
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome
from agentpool._kernel import life
from agentpool._kernel._trio_private import is_cancelled_at, standing_of
from agentpool._kernel.agent import AgentRecord, Work
from agentpool._kernel.children import Children
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.options import SpawnOptions
from agentpool._kernel.places import Op
from agentpool._kernel.protection import protect_module
from agentpool._kernel.slots import Start
from agentpool._kernel.splitting import is_fatal, is_only_cancelled, note_beside
from agentpool._kernel.state import PoolState
from agentpool._kernel.wait import Wait

OUTCOMES_IN_A_ROW = 16
"""So many outcomes that have piled up are handed out before other tasks have their turn: a taker
that gave way after each would hold up the agents, which a hundred at a time end in one turn."""

AHEAD_OF_THE_TAKER = 2
"""So many times `max_concurrent` agents live, or wait to be taken, in a batch that is bounded. Once
would be too few: with one slot, a server among the items would keep its clients from starting."""


@attrs.frozen
class Launcher:
    """How a batch starts an agent for an item.

    Attributes:
      home: whose children the agents are.
      call: makes an agent and its arguments of an item.
      context: that of the verb's caller, though the agents are started by whoever frees a slot.
      by_agent: whether the caller was an agent.
      op: the operation that the verb is; None without a journal, and for the program.
    """

    state: PoolState
    home: Children[AgentRecord]
    call: Callable[[Any], tuple[Callable[..., Awaitable[Any]], tuple[Any, ...]]]
    options: SpawnOptions
    context: contextvars.Context
    by_agent: bool
    op: Op | None = None

    def admit(self) -> None:
        """Raise `PoolClosedError` or `PoolLimitError` if the pool starts no agent here."""
        self.state.admit(self.home, by_agent=self.by_agent)

    def start(self, item: Any, number: int, batch: Batch) -> AgentRecord:
        """Start an agent in a free slot; one that was started before its owner was resumed goes on.

        Args:
          number: counts the items.
        """
        self.admit()
        fn, args = self.call(item)
        work = Work.of(fn, args, self.options)
        journal = self.state.journal
        if journal is not None and self.op is not None:
            work.op = op = self.op.item(number)
            if op.found is not None:
                from agentpool._kernel.resuming import respawned  # who has no journal needs none

                before: AgentId = journal.found_of(op, "spawn")
                return respawned(self.state, self.home, before, work, batch=batch)
        return life.start(
            self.state,
            self.home,
            work,
            context=self.context,
            batch=batch,
            by_agent=self.by_agent,
        )


class Feed(Start, Protocol):
    """Where the items of a batch come from; itself the start that waits for the next slot."""

    @property
    def is_queued(self) -> bool:
        """Whether an agent waits for its slot."""
        ...

    def go_on(self) -> None:
        """An outcome was taken: there may be room for one more agent."""

    def cancel(self) -> None:
        """Start no more agents."""


class Batch:
    """Agents that one verb started together, and their outcomes, which no join hands out.

    Invariants:
      live holds the agents that have not ended;  done holds the outcomes that nobody has taken;
      if the batch is bounded, both together are at most twice `max_concurrent`.

    Attributes:
      launcher: starts the agents.
      input_ended: whether no more agents will be started.
      error: why the input ended early; raised where the outcomes are taken.
    """

    def __init__(self, launcher: Launcher, reason: str, *, bounded: bool = False) -> None:
        self.launcher = launcher
        self.live: dict[AgentId, AgentRecord] = {}
        self.done: deque[AnyOutcome] = deque()
        self.input_ended = False
        self.error: BaseException | None = None
        self._reason = reason
        self._bounded = bounded
        self._feed: Feed | None = None
        self._standing: object = None
        self._taker: Wait | None = None
        self._stopper: Wait | None = None
        self._in_a_row = 0
        self._started = 0
        self._taken = 0

    # -- the input -----------------------------------------------------------------------------------

    def open(self, feed: Feed) -> None:
        """Take the items from a feed, in a block of the calling task."""
        self._feed = feed
        self._standing = standing_of(trio.lowlevel.current_task())

    @property
    def is_full(self) -> bool:
        """Whether the taker of the outcomes is as far behind as it may be.

        Agents that lend their slots count too: else an input without an end would be pulled without
        a bound while all of them wait for one server.
        """
        if not self._bounded:
            return False
        return len(self.live) + len(self.done) >= AHEAD_OF_THE_TAKER * self.launcher.state.slots.total

    def start(self, item: Any) -> None:
        """Start an agent for an item, in a free slot."""
        record = self.launcher.start(item, self._started, self)
        self._started += 1
        self.live[record.id] = record
        if record.outcome is not None:  # it had ended before its owner was resumed
            self.ended(record.outcome)

    def end_input(self, error: BaseException | None = None) -> None:
        """There are no more items, or no more can be had."""
        self.input_ended = True
        self.error = error
        taker = self._taker
        if error is not None and taker is not None and taker.needs_all:
            self.abandon()  # here and now: who waits for all may need the slot that one of them holds
            self._tell()
        elif self.is_over:
            self._tell()
        elif taker is not None and taker.waiter is not None:
            # Not told: it would wait for its slot only to wait on, and miss a time limit meanwhile.
            # But no agent waits to be started any more, which was a hope.
            self.launcher.state.judge.judge_again(taker.waiter)

    def fail(self, error: BaseException) -> None:
        """The input raised what no pool may contain: it leaves the pool at once."""
        self.end_input(error)
        self.launcher.state.fatal_error(error, "an input")

    def cancel(self) -> None:
        """Start no more agents."""
        self.input_ended = True
        assert self._feed is not None
        self._feed.cancel()

    # -- the outcomes --------------------------------------------------------------------------------

    def ended(self, outcome: AnyOutcome) -> None:
        """An agent ended (called in the step in which it does)."""
        # The outcome only: kept records made a map over 10,000 items half as slow again.
        del self.live[outcome.agent_id]
        # Before anybody is told: who is told looks here for it.
        self.done.append(outcome)
        if self._taker is not None and (not self._taker.needs_all or self.is_over):
            self._tell()
        if self._stopper is not None and not self.live:
            stopper, self._stopper = self._stopper, None
            stopper.wake()

    def _tell(self) -> None:
        if self._taker is not None:
            wait, self._taker = self._taker, None
            wait.wake()

    @property
    def is_over(self) -> bool:
        """Whether no outcome will come any more."""
        return self.input_ended and not self.live

    def targets(self) -> Collection[AgentRecord] | None:
        """Who can end the wait for the next outcome; None while an agent waits to be started."""
        is_queued = self._feed is not None and self._feed.is_queued
        return None if is_queued else self.live.values()

    async def wait_for_more(self, *, needs_all: bool) -> None:
        """Wait until an agent ends, or the input does.

        Args:
          needs_all: whether the caller will go on to wait until all of them have ended.

        Cancellation: leaves nothing behind; if the whole block is cancelled the agents are aborted.
        """
        if self._taker is not None:
            raise trio.BusyResourceError("another task takes these outcomes already")
        waiter = waiting_agent()
        targets = self.live.values() if needs_all else self.targets()
        if targets is not None:
            self.launcher.state.judge.check(waiter, targets, needs_all=needs_all)
        wait = Wait(waiter, self.live.values() if needs_all else self.targets, needs_all=needs_all)
        self._taker = wait
        await wait.park(self._taker_left)

    def _taker_left(self, wait: Wait) -> None:
        self._taker = None
        self.abandon_if_cancelled()

    async def next_outcome(self) -> AnyOutcome | None:
        """Take the next outcome, in the order of the ends; None at the end.

        Raises:
          BaseException: what the input raised, when the outcomes before it were taken.

        Checkpoint: for cancellation always, for the scheduler at least at every 16th outcome.
        Cancellation: `Cancelled` means that none was taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.is_over or (self.done and not self._in_a_row):
            await trio.lowlevel.cancel_shielded_checkpoint()
            self._in_a_row = OUTCOMES_IN_A_ROW
        self._in_a_row -= 1
        while not self.done and not self.is_over:
            await self.wait_for_more(needs_all=False)
            self._in_a_row = OUTCOMES_IN_A_ROW
        if not self.done:
            self.raise_error()
            return None
        outcome = await self._next_as_before() or self.done.popleft()
        journal = self.launcher.state.journal
        if journal is not None:
            op = self._op_of_taking()
            journal.operated(op, "take", outcome.agent_id)
            await self._keep()
        self._taken += 1
        self.launcher.home.see(outcome.agent_id)
        if self._feed is not None:
            self._feed.go_on()
        return outcome

    def _op_of_taking(self) -> Op | None:
        op = self.launcher.op
        return None if op is None else op.item(f"t{self._taken}")

    async def _next_as_before(self) -> AnyOutcome | None:
        """Take the outcome that was taken here before the owner was resumed; None if none was."""
        op = self._op_of_taking()
        if op is None or op.found is None:
            return None
        while True:
            for outcome in self.done:
                if outcome.agent_id == op.found.value:
                    self.done.remove(outcome)
                    return outcome
            if self.is_over:
                raise op.mismatch(f"agent {op.found.value} is not one of its agents any more")
            await self.wait_for_more(needs_all=False)

    async def all_ended(self) -> None:
        """Wait until the input and all of the agents have ended.

        Raises:
          BaseException: what the input raised, at once.
        """
        while not self.is_over and self.error is None:
            await self.wait_for_more(needs_all=True)
        self.raise_error()
        await self._keep()

    async def _keep(self) -> None:
        """Have what the program gets written before it gets it."""
        journal = self.launcher.state.journal
        if journal is not None and self.launcher.op is None:
            await journal.commit_shielded()

    def raise_error(self, *, beside: BaseException | None = None) -> None:
        """Raise what ended the input early, once.

        Args:
          beside: what leaves the block anyway. What the input raised is noted on it; or raised in a
            group with it, if it is a cancellation, with which a note would be lost.
        """
        error, self.error = self.error, None
        try:
            raise_of_input(error, beside)
        finally:
            del error, beside  # their tracebacks hold this frame

    def decide(self) -> None:
        """The outcomes so far are enough: start no more agents, and forget what became of the input."""
        self.cancel()
        self.error = None
        self.look_at_all()

    def look_at_all(self) -> None:
        """The outcomes that have come were looked at, be they taken or not."""
        for outcome in self.done:
            self.launcher.home.see(outcome.agent_id)

    # -- the end ---------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Start no more agents, and abort those that live."""
        self.cancel()
        for record in list(self.live.values()):
            record.abort(self._reason)

    def abandon_if_cancelled(self) -> None:
        """Abort the agents if a scope around the block was cancelled.

        Called in the step of the cancellation: the owner goes on only when it has its slot, which
        the very agents may hold that it would abort then. A scope inside the block is no reason.
        """
        if is_cancelled_at(self._standing):
            self.abandon()

    async def wait_for_end(self) -> None:
        """Wait until no agent is left.

        Cancellation: is kept off until then.
        """
        with trio.CancelScope(shield=True):
            if self.live:
                self._stopper = Wait(waiting_agent(), self.live.values(), needs_all=True)
                await self._stopper.park(None)
        self._feed = None  # breaks the cycle, so that the outcomes go without the cyclic collector
        self._tell()


def raise_of_input(error: BaseException | None, beside: BaseException | None) -> None:
    """Raise what ended an input early, or tell of it on what leaves the block anyway; see `raise_error`."""
    try:
        if error is None:
            return
        if beside is None or isinstance(beside, GeneratorExit):
            raise error  # who closes a generator swallows its end, and a note on it
        if is_fatal(error) or isinstance(error, PoolClosedError | PoolLimitError):
            return  # it comes out of the pool; or it says only why no more agents were started
        if is_only_cancelled(beside):
            raise BaseExceptionGroup("the block was cancelled, and its input failed", [beside, error])
        note_beside(beside, [error], "the input raised")
    finally:
        del error, beside  # their tracebacks hold this frame


protect_module(globals())
