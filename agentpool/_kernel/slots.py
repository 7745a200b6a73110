"""Slots: how many agents run at once, who goes next, and how a waiting agent lends its slot.

The mechanism, in five sentences. A task of an agent goes back to trio's run queue only when its
agent holds a slot, or is itself being cancelled. An agent whose known tasks all wait lends its
slot: whoever needs one takes it, and until then it may have it back for nothing. Whoever wakes a
task of it asks for the slot on its behalf, in the same step. Woken agents come before agents that
have not started, but after `WOKEN_IN_A_ROW` of them one start goes first. `trio.CapacityLimiter`
does the accounting; the order of waiting is ours, because the limiter's queue is first in, first
out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Any, Protocol, TypeAlias

import outcome
import trio

from agentpool._blocking import ThreadCall, lendable_call, thread_calls
from agentpool._core.errors import AgentPoolError
from agentpool._kernel._trio_private import effective_deadline_of

WOKEN_IN_A_ROW = 8
"""So many woken agents go before one start: with one slot, two agents in ping-pong would
otherwise keep a third from ever starting."""


WATCHERS = 1
"""A pool has so many tasks of its own beside its agents."""


class PoolFullError(AgentPoolError, trio.WouldBlock):
    """`spawn_nowait` found no free slot."""


class Start(Protocol):
    """Something that wants a slot to start an agent in."""

    cancelled: bool

    def begin(self) -> None:
        """Start the agent: a slot is free."""

    def refuse(self, reason: str) -> None:
        """The pool takes no more agents."""


Targets: TypeAlias = "Collection[Party] | Callable[[], Collection[Party] | None] | None"


class Wait:
    """One blocked task.

    Attributes:
      party: the agent of the task; None for a task of no agent, which needs no slot.
      targets: the agents that could end the wait, or a function that tells them; None if anybody
        could.
      needs_all: whether all of them have to end.
      receives: whether it waits for a message.
      needs_slot: whether the task goes on only when its agent has a slot.
      nurseries: nurseries of the task that the pool does not know.
      undo: takes it out of the queue that it stands in; None while it is not to be cancelled.
      left: whether Ctrl-C ended it though it was not to be cancelled.
      number: counts the waits of a pool, so that the youngest can be told.
    """

    # Defaults on the class: a wait that sets 5 attributes costs 0.5 µs less than one that sets 16.
    content: Any = None
    needs_all: bool = False
    needs_slot = True
    receives = False
    nurseries: Sequence[trio.Nursery] = ()
    number = 0
    done: bool = False
    asked_to_cancel: bool = False
    left: bool = False
    _task: trio.lowlevel.Task | None = None
    _asleep = False
    _resumed = False
    _result: outcome.Outcome[Any] | None = None
    undo: Callable[[], None] | None = None

    def __init__(self, party: Party | None, targets: Targets = None, *, needs_all: bool = False) -> None:
        self.party = party
        self.targets = targets
        if needs_all:
            self.needs_all = True

    async def park(self, undo: Callable[[], None] | None) -> Any:
        """Wait until somebody calls `wake` or `fail`, and for the agent's slot after that.

        Args:
          undo: takes the wait out of the queue that it stands in, when the task is cancelled;
            None for a wait that is not to be cancelled.

        Cancellation: `Cancelled` means that `undo` was called, and that nobody had called `wake`.
        """
        task = self._task = trio.lowlevel.current_task()
        if thread_calls and (call := lendable_call(task)) is not None:
            return await self._park_without_thread(call, undo)
        self.undo = undo
        party = self.party
        if party is not None:
            if task.child_nurseries:
                self.nurseries = party.unknown_nurseries(task)
            party.pause(self)
            if self._resumed:
                # The lending itself ended the wait: it started the child, or ended the inbox.
                return await self._resumed_already()
        self._asleep = True
        return await trio.lowlevel.wait_task_rescheduled(self._abort)

    async def _park_without_thread(self, call: ThreadCall, undo: Callable[[], None] | None) -> Any:
        """Wait on behalf of a thread, whose token others may have meanwhile.

        The slot comes first and then the token: nobody waits for a slot while it holds a token.
        """
        call.lend()
        try:
            return await self.park(undo)
        finally:
            await call.take_back()  # noqa: ASYNC102  (ends when it is cancelled, and never raises that)

    async def granted(self) -> None:
        """Wait for the slot only: what was waited for has happened already."""
        self._task = trio.lowlevel.current_task()
        if self._resumed:
            await self._resumed_already()
        else:
            self._asleep = True
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    async def _resumed_already(self) -> Any:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return self._let_go().unwrap()

    @property
    def ends_by_itself(self) -> bool:
        """Whether a deadline narrower than the agent's own, or an unknown task, may end it."""
        party = self.party
        assert party is not None
        assert self._task is not None
        if self.nurseries and party.has_unknown_tasks(self.nurseries):
            return True
        return party.is_narrowed(effective_deadline_of(self._task))

    @property
    def looks_elsewhere(self) -> bool:
        """Whether its end may come from another pool, about which this one does not judge.

        That is when it waits for an agent of another pool, or its task has opened one that lives.
        """
        party = self.party
        assert party is not None
        if any(len(nursery.child_tasks) > WATCHERS for nursery in self.nurseries):
            return True
        target = next(iter(self.known_targets() or ()), None)
        return target is not None and target.slots is not party.slots

    @property
    def is_uncertain(self) -> bool:
        """Whether an agent that waits so is not at its end, though everybody in its pool waits."""
        return self.ends_by_itself or self.looks_elsewhere

    def known_targets(self) -> Collection[Party] | None:
        """The agents that could end the wait, as of now; None if anybody could."""
        targets = self.targets
        return targets() if callable(targets) else targets

    def wake(self, value: Any = None) -> None:
        """End the wait with a value: from here on it has happened, whatever is cancelled."""
        if self.left:
            return
        self.done = True
        self._result = outcome.Value(value)
        if self.party is None:
            self.resume()
        else:
            self.party.woken(self)

    def fail(self, error: BaseException) -> None:
        """End the wait with an exception, which must be an object of its own for each wait."""
        self.done = True
        self._result = outcome.Error(error)
        if self.party is None:
            self.resume()
        else:
            self.party.woken(self)

    def withdraw(self, error: BaseException) -> None:
        """Take the wait out of its queue, and end it with an exception."""
        assert self.undo is not None
        self.undo()
        self.fail(error)

    @property
    def can_be_withdrawn(self) -> bool:
        return self.undo is not None

    def resume(self) -> None:
        """Put the task back into trio's run queue."""
        self._resumed = True
        if self._asleep:
            assert self._task is not None
            trio.lowlevel.reschedule(self._task, self._let_go())

    def _let_go(self) -> outcome.Outcome[Any]:
        """Hand the result on, and break the cycles through it, through `undo` and through the task.

        An error's traceback holds the frame that holds this wait, and `undo` mostly refers to it:
        left to the cyclic collector, they made up half of what a shutdown costs.
        """
        result, self._result = self._result, None
        assert result is not None
        self.undo = None
        self._task = None
        return result

    def _abort(self, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        # Trio asks once per wait, so that afterwards the slots have to watch for the agent's end.
        self.asked_to_cancel = True
        party = self.party
        if self.done:
            assert party is not None
            party.slots.strand(party)
            return trio.lowlevel.Abort.FAILED
        if self.undo is None:
            return self._interrupted(raise_cancel)
        self.undo()
        self.done = True
        if party is None:
            self.undo = None
            return trio.lowlevel.Abort.SUCCEEDED
        self._result = outcome.capture(raise_cancel)
        party.woken(self)
        return trio.lowlevel.Abort.FAILED

    def _interrupted(self, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        """A wait that is not to be cancelled: only Ctrl-C, which strikes the main task, ends it."""
        pressed = outcome.capture(raise_cancel)
        assert isinstance(pressed, outcome.Error)
        if self.party is None and not isinstance(pressed.error, trio.Cancelled):
            # `raise_cancel` may be called only once then, so that the task is rescheduled from here.
            # Whoever would end the wait finds it done.
            self.done = self.left = True
            assert self._task is not None
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, pressed)
        return trio.lowlevel.Abort.FAILED


class Party:
    """The half of an agent that waits and holds a slot.

    Invariants:
      active counts the known tasks that run;  ready holds tasks that were woken and wait for the
      slot;  ready implies active == 0 and not holds;  idle and holds implies lends.
    """

    # Defaults on the class, as in `Wait`.
    active: int = 0
    holds = False
    lends = False
    unwinding: bool = False
    ended = False
    ready: Sequence[Wait] = ()
    waits: Sequence[Wait] = ()

    def __init__(self, party_id: int, slots: Slots, deadline: float) -> None:
        self.id = party_id
        self.slots = slots
        self.deadline = deadline

    @property
    def idle(self) -> bool:
        """Whether every known task waits, and none of them was woken: only others can move it."""
        return not self.active and not self.ready

    def unknown_nurseries(self, task: trio.lowlevel.Task) -> Sequence[trio.Nursery]:
        """The nurseries that the task opened by itself, so that their tasks are unknown."""
        raise NotImplementedError

    def has_unknown_tasks(self, nurseries: Sequence[trio.Nursery]) -> bool:
        """Whether tasks that are unknown live in one of these nurseries."""
        raise NotImplementedError

    # -- a task begins to wait, and ends to ------------------------------------------------

    def pause(self, wait: Wait) -> None:
        """Count a task as waiting; when it was the last one that ran, lend the slot."""
        slots = self.slots
        slots.waits_begun += 1
        wait.number = slots.waits_begun
        if slots.body_ended and wait.is_uncertain:
            slots.uncertain.add(wait)
        # A tuple: nearly always of one wait, and then no list has to be kept for each agent.
        self.waits = (*self.waits, wait) if self.waits else (wait,)
        self.active -= 1
        if not self.active:
            self.rest(ends_body=not wait.needs_slot)

    def rest(self, *, ends_body: bool, fails: bool = False) -> None:
        """Lend the slot: no known task runs any more.

        Args:
          ends_body: whether a task came to its end, so that nobody has judged yet whether the
            waits of the others became hopeless by it.
          fails: whether it ended by an error, which is about to cancel the others: only what is
            left of them afterwards can be judged.
        """
        slots = self.slots
        slots.idle += 1
        if self.holds:
            slots.lend(self)
        if fails:
            slots.on_failing_rest(self)
        elif ends_body or slots.body_ended:
            slots.on_rest(self, ends_body)

    def woken(self, wait: Wait) -> None:
        """Let a task that was woken go on, at once or when the agent has its slot again."""
        waits = self.waits
        self.waits = () if len(waits) == 1 else tuple(other for other in waits if other is not wait)
        slots = self.slots
        if slots.uncertain:
            slots.uncertain.discard(wait)
        if self.active:
            self.active += 1
            wait.resume()
            return
        if not self.ready:
            slots.idle -= 1
            if self.holds:
                slots.take_back(self)  # nobody wanted it
                self.active = 1
                wait.resume()
                return
        if not wait.needs_slot or self.is_cancelled():
            self.active = 1
            wait.resume()
            if self.ready:
                self.release_ready()
            return
        if not self.ready and slots.grants_at_once(self):
            self.active = 1
            wait.resume()
            return
        self._ask_for_slot(wait)
        if wait.asked_to_cancel:
            slots.strand(self)

    def _ask_for_slot(self, wait: Wait) -> None:
        if self.ready:
            self.ready = [*self.ready, wait]
        else:
            self.ready = [wait]
            self.slots.request(self)

    def release_ready(self) -> None:
        """Let the woken tasks go on, with the slot that was granted or because they need none."""
        ready, self.ready = self.ready, ()
        self.active += len(ready)
        for wait in ready:
            wait.resume()

    def new_task(self) -> Wait | None:
        """Count one more task that runs.

        Returns:
          What the task has to wait for first (`Wait.granted`), if the agent has no slot.
        """
        if self.idle:
            self.slots.idle -= 1
            if self.holds:
                self.slots.take_back(self)
                self.active = 1
                return None
        if self.active or self.is_cancelled():
            self.active += 1
            return None
        wait = Wait(self)
        wait.done = True
        wait._result = outcome.Value(None)
        self._ask_for_slot(wait)
        return wait

    async def regain(self) -> None:
        """Wait for the slot, after a task slept in something that is none of our waits.

        The caller is not counted as active; it is afterwards.

        Cancellation: ends the wait if the agent itself is cancelled, and is kept off if not.
        """
        wait = self.new_task()
        if wait is not None:
            await wait.granted()

    # -- being cancelled ---------------------------------------------------------------------

    def is_cancelled(self) -> bool:
        """Whether the agent itself is being cancelled, so that it unwinds without a slot.

        Compares the clock: to ask a scope whether it is cancelled would cancel it here and now,
        when its deadline has passed, and so run code in the middle of our bookkeeping.
        """
        if self.unwinding or self.slots.outside_cancelled:
            return True
        return self.deadline != inf and trio.current_time() >= self.deadline

    def is_narrowed(self, deadline: float) -> bool:
        """Whether a deadline is narrower than the agent's own, and than those around the pool."""
        return deadline < self.deadline and deadline < self.slots.deadline()

    def unwind(self) -> None:
        """The agent is being cancelled: from here on its tasks need no slot."""
        self.unwinding = True
        if self.ready:
            self.release_ready()


class Slots:
    """The slots of a pool.

    Attributes:
      on_rest: called when an agent came to rest, with whether a task of it ended by that.
      on_failing_rest: called when that happened by an error, which has not done its work yet.
      on_stranded: called when an agent has to be watched for its own end.
      idle: how many agents only others can move.
      body_ended: whether agents that all wait are at their end.
      uncertain: since then, the waits that something may end which the pool does not judge.
      deadline: tells that of the scopes around the pool, on trio's clock.
      outside_cancelled: whether a scope around the pool was cancelled.
    """

    def __init__(
        self,
        total: int,
        on_rest: Callable[[Any, bool], None],
        on_rest_later: Callable[[Any], None],
        on_stranded: Callable[[], None],
    ) -> None:
        self.limiter: trio.CapacityLimiter = trio.CapacityLimiter(total)
        self._free = total  # what the limiter has left, at a tenth of the price of asking it
        self.on_rest = on_rest
        self.on_failing_rest: Callable[[Any], None] = on_rest_later
        self.on_stranded = on_stranded
        self.idle = 0
        self.body_ended = False
        self.uncertain: set[Wait] = set()
        self.waits_begun = 0
        self.deadline: Callable[[], float] = lambda: inf
        self.outside_cancelled: bool = False
        self.stranded: set[Party] = set()
        self._woken: deque[Party] = deque()
        self._new: deque[Start] = deque()
        self._in_a_row = 0
        self._lent: dict[Party, None] = {}

    # -- asking for a slot ---------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether an agent may start at once: a slot is free, and nobody waits for one."""
        return not self._woken and not self._new and (self._free > 0 or bool(self._lent))

    @property
    def running(self) -> int:
        """How many agents hold a slot and use it."""
        return self.limiter.borrowed_tokens - len(self._lent)

    @property
    def total(self) -> int:
        """How many slots there are."""
        return int(self.limiter.total_tokens)

    @total.setter
    def total(self, total: int) -> None:
        self._free += total - self.total
        self.limiter.total_tokens = total
        while self._free < 0 and self._lent:
            self._call_in()
        self.dispatch()

    def lend(self, party: Party) -> None:
        """The slot of an agent that waits is there for others.

        Its token goes back to the limiter when somebody else needs it: most agents have it back
        before that, which saves 3 µs for each wait.
        """
        self._lent[party] = None
        party.lends = True
        if self._woken or self._new or self._free < 0:
            self._call_in()
            self.dispatch()

    def take_back(self, party: Party) -> None:
        """An agent goes on with the slot that it had lent and that nobody took."""
        self._lent.pop(party, None)
        party.lends = False

    def _call_in(self) -> None:
        """Take the slot that was lent first."""
        party = next(iter(self._lent))
        self.take_back(party)
        self._release(party)

    def _acquire(self, party: Party) -> None:
        self.limiter.acquire_on_behalf_of_nowait(party)
        self._free -= 1
        party.holds = True

    def _release(self, party: Party) -> None:
        self.limiter.release_on_behalf_of(party)
        self._free += 1
        party.holds = False

    def _is_free(self) -> bool:
        if self._free > 0:
            return True
        if not self._lent or self._free < 0:
            return False
        self._call_in()
        return True

    def take(self, party: Party) -> None:
        """Give a free slot to an agent that starts."""
        if self._free <= 0:
            self._call_in()
        self._acquire(party)
        party.active = 1
        self._in_a_row = 0

    def queue(self, start: Start) -> None:
        """Have an agent started as soon as it is its turn."""
        self._new.append(start)

    def grants_at_once(self, party: Party) -> bool:
        """Give an agent that was woken a free slot, if nobody waits for one; tell whether."""
        if self._woken or self._new or not self._is_free():
            return False
        self._acquire(party)
        return True

    def request(self, party: Party) -> None:
        """Ask for the slot of an agent that was woken."""
        self._woken.append(party)
        self.dispatch()

    def dispatch(self) -> None:
        """Hand out what is free."""
        while (self._woken or self._new) and self._is_free():
            if self._woken and (self._in_a_row < WOKEN_IN_A_ROW or not self._new):
                party = self._woken.popleft()
                if party.ready and not party.holds:  # else it was let go without a slot meanwhile
                    self._in_a_row = self._in_a_row + 1 if self._new else 0
                    self._acquire(party)
                    if self.stranded:
                        self.stranded.discard(party)
                    party.release_ready()
            else:
                start = self._new.popleft()
                if not start.cancelled:
                    self._in_a_row = 0
                    start.begin()

    def give_back(self, party: Party) -> None:
        """Take the slot of an agent that does not run any more, and hand it on."""
        if self.stranded:
            self.stranded.discard(party)
        if party.holds:
            assert not party.lends
            self._release(party)
        if self._new or self._woken:
            self.dispatch()

    # -- agents that are cancelled while they wait for their slot -------------------------------

    def strand(self, party: Party) -> None:
        """Watch over an agent with a task that trio will not ask again whether it can be cancelled."""
        if party.is_cancelled():
            party.release_ready()
        else:
            self.stranded.add(party)
            self.on_stranded()

    def release_stranded(self) -> None:
        """Let those go on that are being cancelled themselves by now."""
        for party in sorted(self.stranded, key=lambda party: party.id):
            if party.is_cancelled():
                self.stranded.discard(party)
                if party.ready:
                    party.release_ready()

    def outside_scope_cancelled(self) -> None:
        """A scope around the pool was cancelled: every agent unwinds."""
        self.outside_cancelled = True
        self.release_stranded()

    # -- asked -----------------------------------------------------------------------------------

    @property
    def waiting_to_start(self) -> int:
        """How many starts wait for a slot."""
        return sum(not start.cancelled for start in self._new)

    def drop_starts(self) -> list[Start]:
        """Take out what has not started."""
        dropped = [start for start in self._new if not start.cancelled]
        self._new.clear()
        return dropped
