"""The only place where a task of an agent sleeps.

A wait is pending until somebody makes it true (`wake`, `fail`), then it has happened, and it is
resumed when its agent has a slot. Whoever makes it true hands over the value in the same step, so
that nothing which happened can be lost: there is no second look after the sleep. A task of an agent
goes back to trio's run queue only when its agent holds a slot, or is itself being cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from math import inf
from typing import Any, Protocol, TypeAlias

import attrs
import outcome
import trio

from agentpool._blocking import ThreadCall, lendable_call, thread_calls
from agentpool._core.messages import AgentId
from agentpool._kernel._trio_private import effective_deadline_of
from agentpool._kernel.protection import protect_module

WATCHERS = 1
"""A pool has so many tasks of its own beside its agents."""


class Held(Protocol):
    """Something that an agent has opened, or uses, and that must not outlive it."""

    def holder_ended(self, waiter: Waiter) -> None:
        """The agent has ended, and left it as it is."""


class Source(Protocol):
    """What a wait takes from, and quiescence may end: an inbox, a subscription to events."""

    @property
    def ends_first(self) -> bool:
        """Whether it ends before the sources that tell of such ends."""
        ...

    def end(self) -> None:
        """Nothing more will come."""


class Away(Protocol):
    """The code of an agent, where that runs in another process: what it does there about its waits here."""

    def ends_at(self, task: trio.lowlevel.Task) -> float:
        """When it ends what a task waits for by itself, at the latest; `-inf` for at any time."""
        ...

    def has_pool(self, task: trio.lowlevel.Task) -> bool:
        """Whether its task has opened a pool of its own, which lives."""
        ...


class Waiter(Protocol):
    """The agent of a task that waits, as far as a wait and whoever judges it need it."""

    id: AgentId
    name: str
    deadline: float
    active: int
    unwinding: bool
    ended: bool
    ready: Sequence[Wait]
    waits: Sequence[Wait]
    held: Sequence[Held]

    def __hash__(self) -> int: ...

    @property
    def parent_id(self) -> AgentId:
        """The id of the agent that spawned it; 0 for the pool's own."""
        ...

    @property
    def tasks(self) -> Collection[trio.lowlevel.Task]:
        """Its known ones."""
        ...

    @property
    def slots(self) -> object:
        """Those of its pool, by which agents of one pool are told from those of another."""
        ...

    @property
    def idle(self) -> bool:
        """Whether every task of it waits and none was woken, so that only others can move it."""
        ...

    def pause(self, wait: Wait) -> None:
        """A task of it begins to wait."""

    def woken(self, wait: Wait) -> None:
        """What a task of it waited for has happened."""

    def cannot_be_cancelled_again(self) -> None:
        """Trio has told a task of it that it is cancelled, and will not do so again."""

    def is_cancelled(self) -> bool:
        """Whether it is itself being cancelled, so that it unwinds without a slot."""
        ...

    def is_narrowed(self, deadline: float) -> bool:
        """Whether a deadline is narrower than its own, and than those around the pool."""
        ...

    def unknown_nurseries(self, task: trio.lowlevel.Task) -> Sequence[trio.Nursery]:
        """The nurseries that a task of it opened by itself, so that their tasks are unknown."""
        ...

    def has_unknown_tasks(self, nurseries: Sequence[trio.Nursery]) -> bool:
        """Whether tasks that are unknown live in one of these nurseries."""
        ...

    def ends_away(self, task: trio.lowlevel.Task) -> bool:
        """Whether the code for which a task waits may end the wait by itself, in another process."""
        ...

    def looks_away(self, task: trio.lowlevel.Task) -> bool:
        """Whether that code has opened a pool there, whose agents may end the wait."""
        ...


waits_outside: dict[trio.lowlevel.Task, Wait] = {}
"""The waits of tasks of no agent; those that have happened are taken out when their task goes on."""


Targets: TypeAlias = "Collection[Waiter] | Callable[[], Collection[Waiter] | None] | None"


@attrs.define(eq=False)
class Wait:
    """One blocked task.

    Attributes:
      waiter: the agent of the task; None for a task of no agent, which needs no slot.
      targets: the agents that could end the wait, or a function that tells them; None if anybody
        could.
      needs_all: whether all of them have to end.
      needs_slot: whether the task goes on only when its agent has a slot.
      source: what it takes from, if quiescence may end that.
      content: what it brings, such as a message for which there is no room yet.
      undo: takes it out of the queue that it stands in, when called with it; None while it is not to
        be cancelled.
      number: counts the waits of a pool, so that the youngest can be told.
      happened: whether somebody made it true.
      asked_to_cancel: whether trio has told it that it is cancelled, which it does only once.

    Invariant: `_result` is set exactly from `wake` or `fail` on, until the task has it.
    """

    waiter: Waiter | None
    targets: Targets = None
    needs_all: bool = attrs.field(default=False, kw_only=True)
    needs_slot: bool = attrs.field(default=True, kw_only=True)
    source: Source | None = attrs.field(default=None, kw_only=True)
    content: Any = attrs.field(default=None, kw_only=True)
    undo: Callable[[Wait], object] | None = attrs.field(default=None, init=False)
    number: int = attrs.field(default=0, init=False)
    happened: bool = attrs.field(default=False, init=False)
    asked_to_cancel: bool = attrs.field(default=False, init=False)
    _interrupted: bool = attrs.field(default=False, init=False)
    _task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)
    _asleep: bool = attrs.field(default=False, init=False)
    _resumed: bool = attrs.field(default=False, init=False)
    _result: outcome.Outcome[Any] | None = attrs.field(default=None, init=False)

    @classmethod
    def that_happened(cls, waiter: Waiter) -> Wait:
        """A wait for the slot only, such as that of a new task: see `granted`."""
        wait = cls(waiter)
        wait.happened = True
        wait._result = outcome.Value(None)
        return wait

    async def park(self, undo: Callable[[Wait], object] | None) -> Any:
        """Wait until somebody calls `wake` or `fail`, and for the agent's slot after that.

        Args:
          undo: called with the wait when the task is cancelled, takes it out of the queue that it
            stands in; None for a wait that is not to be cancelled. Ctrl-C ends that of the main task
            too.

        Cancellation: `Cancelled` means that `undo` was called, and that nobody had called `wake`.
        """
        task = self._task = trio.lowlevel.current_task()
        if thread_calls and (call := lendable_call(task)) is not None:
            return await self._park_without_thread(call, undo)
        # Before pausing: whoever gets the slot there may end this wait, or withdraw it, in this very step.
        self.undo = undo
        if self.waiter is None:
            waits_outside[task] = self
            try:
                return await self._sleep()
            finally:
                del waits_outside[task]
        self.waiter.pause(self)
        return await self._sleep()

    async def _park_without_thread(self, call: ThreadCall, undo: Callable[[Wait], object] | None) -> Any:
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
        await self._sleep()

    def _sleep(self) -> Coroutine[Any, Any, Any]:
        # Not `async def`: the coroutine would live as long as the wait, one for each agent that waits.
        if self._resumed:
            return self._go_on()
        self._asleep = True
        return trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105  (both callers await it)

    async def _go_on(self) -> Any:
        """It was resumed before it slept.

        Pausing gave the slot to others, and that started the child or ended the inbox it waits for.
        """
        await trio.lowlevel.cancel_shielded_checkpoint()
        return self._let_go().unwrap()

    # -- what may happen to it ---------------------------------------------------------------------

    def wake(self, value: Any = None) -> None:
        """End the wait with a value: from here on it has happened, whatever is cancelled."""
        # A wait that Ctrl-C has ended may still stand in a queue: its task is on its way and gets no value.
        if not self._interrupted:
            self._happen(outcome.Value(value))

    def fail(self, error: BaseException) -> None:
        """End the wait with an exception, which must be an object of its own for each wait."""
        self._happen(outcome.Error(error))

    def withdraw(self, error: BaseException) -> None:
        """Take the wait out of its queue, and end it with an exception."""
        assert self.undo is not None
        self.undo(self)
        self.fail(error)

    def _happen(self, result: outcome.Outcome[Any]) -> None:
        self.happened = True
        self._result = result
        if self.waiter is None:
            self.resume()
        else:
            self.waiter.woken(self)

    def resume(self) -> None:
        """Put the task back into trio's run queue (called by its agent, when that may go on)."""
        # Kept apart from `happened`: between the two lies the wait for the agent's slot.
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
        # Trio asks once for each sleep, so that afterwards somebody has to watch for the agent's end.
        # Three cases. It has happened: the value is kept and `Cancelled` comes at the task's next checkpoint.
        # It may not be cancelled: only Ctrl-C gets through. Else it leaves its queue, and is cancelled.
        self.asked_to_cancel = True
        if self.happened:
            assert self.waiter is not None
            self.waiter.cannot_be_cancelled_again()
            return trio.lowlevel.Abort.FAILED
        if self.undo is None:
            return self._interrupt(raise_cancel)
        # Out of its queue in this very step: nobody may hand a value to a wait that is being cancelled.
        self.undo(self)
        if self.waiter is None:
            self.happened = True
            self.undo = None
            return trio.lowlevel.Abort.SUCCEEDED
        # Trio is told that it failed, because the task goes on only when its agent has a slot; the
        # `Cancelled` is the result that it gets then.
        self._happen(outcome.capture(raise_cancel))
        return trio.lowlevel.Abort.FAILED

    def _interrupt(self, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        """A wait that is not to be cancelled: only Ctrl-C, which strikes the main task, ends it."""
        pressed = outcome.capture(raise_cancel)
        assert isinstance(pressed, outcome.Error)
        if self.waiter is None and not isinstance(pressed.error, trio.Cancelled):
            # `raise_cancel` may be called only once then, so that the task is rescheduled from here.
            # Whoever would end the wait finds it ended.
            self.happened = self._interrupted = True
            assert self._task is not None
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, pressed)
        return trio.lowlevel.Abort.FAILED

    # -- asked by who judges -------------------------------------------------------------------------

    @property
    def can_be_withdrawn(self) -> bool:
        """Whether it may be ended by an error."""
        return self.undo is not None

    def known_targets(self) -> Collection[Waiter] | None:
        """The agents that could end the wait, as of now; None if anybody could."""
        targets = self.targets
        return targets() if callable(targets) else targets

    def unknown_nurseries(self) -> Sequence[trio.Nursery]:
        """Nurseries of the task that the pool does not know."""
        if self._task is None or not self._task.child_nurseries:
            return ()
        assert self.waiter is not None
        return self.waiter.unknown_nurseries(self._task)

    @property
    def ends_by_itself(self) -> bool:
        """Whether a deadline narrower than the agent's own, or an unknown task, may end it."""
        assert self.waiter is not None
        assert self._task is not None
        return self.ends_at < inf or self.waiter.ends_away(self._task)

    @property
    def ends_at(self) -> float:
        """When it ends by itself at the latest, as far as is seen here.

        `inf` if only others can end it, `-inf` if an unknown task may at any time.
        """
        waiter = self.waiter
        assert waiter is not None
        assert self._task is not None
        nurseries = self.unknown_nurseries()
        if nurseries and waiter.has_unknown_tasks(nurseries):
            return -inf
        deadline = effective_deadline_of(self._task)
        return deadline if waiter.is_narrowed(deadline) else inf

    @property
    def looks_elsewhere(self) -> bool:
        """Whether its end may come from another pool, about which this one does not judge.

        That is when it waits for an agent of another pool, or its task has opened one that lives.
        """
        waiter = self.waiter
        assert waiter is not None
        assert self._task is not None
        if self.has_own_pool or waiter.looks_away(self._task):
            return True
        # All targets of a wait are of one pool, so that the first tells.
        target = next(iter(self.known_targets() or ()), None)
        return target is not None and target.slots is not waiter.slots

    @property
    def has_own_pool(self) -> bool:
        """Whether its task has opened a pool that lives."""
        return any(len(nursery.child_tasks) > WATCHERS for nursery in self.unknown_nurseries())

    @property
    def has_to_be_judged(self) -> bool:
        """Whether nobody has judged, before it began, whether it closes a cycle."""
        # A wait that is not to be cancelled is one for the end of others; one without a slot is a feeder's.
        return self.undo is None or not self.needs_slot

    @property
    def is_uncertain(self) -> bool:
        """Whether an agent that waits so is not at its end, though everybody in its pool waits."""
        return self.ends_by_itself or self.looks_elsewhere


class SlowlyUndoneWait(Wait):
    """A wait that cannot be undone at once: whoever was asked to undo it tells what it came to.

    After that it is ended by `wake` or `fail` if it has happened all the same, and by `was_undone` if not.
    """

    def __init__(self, waiter: Waiter | None, begin_to_undo: Callable[[], object]) -> None:
        """Begin.

        Args:
          begin_to_undo: asks for it; called once at the most, may not raise.
        """
        super().__init__(waiter)
        self._begin_to_undo = begin_to_undo
        self._raise_cancel: Callable[[], Any] | None = None

    def _abort(self, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        if self.happened:
            return super()._abort(raise_cancel)
        # The task sleeps on: it goes on as cancelled only when it is known that nothing has happened.
        self.asked_to_cancel = True
        self._raise_cancel = raise_cancel
        self._begin_to_undo()
        return trio.lowlevel.Abort.FAILED

    def was_undone(self) -> None:
        """It has not happened, and will not: its task goes on as cancelled."""
        assert self._raise_cancel is not None
        raise_cancel, self._raise_cancel = self._raise_cancel, None
        self._happen(outcome.capture(raise_cancel))


class OwnTaskWait(Wait):
    """A wait for what another task of the same agent does.

    It has no edge to anybody, so that it keeps no agent from being hopeless: what the other tasks wait
    for decides, and they are told of a deadlock.
    """

    def __init__(self, waiter: Waiter, *, needs_slot: bool = True) -> None:
        super().__init__(waiter, (), needs_slot=needs_slot)

    @property
    def can_be_withdrawn(self) -> bool:
        """Whether it may be ended by an error."""
        return False

    @property
    def has_to_be_judged(self) -> bool:
        """Always: the other tasks began to wait when this one still ran, so that nothing was hopeless."""
        return True


protect_module(globals())
