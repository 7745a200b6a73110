"""The proxy: the body that an agent has at the head while its code runs in a worker.

It performs, as the agent, what the code over there asks for. Each call is performed by a known task of the
agent, so that a wait in it is a wait of the agent. The proxy's own task stands for all tasks over there that
run: it counts as waiting from the moment when the worker tells that each of them waits in a call, until one
of these calls is answered. So the agent lends its slot exactly when it would if it ran here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import trio

from agentpool._core.errors import RemoteError, WorkerLostError
from agentpool._core.placing import (
    Abort,
    Answered,
    Called,
    CallId,
    ChildEnded,
    Down,
    Ended,
    Piece,
    Refused,
    Rested,
    Told,
    Up,
    Wanted,
    Withdraw,
    Withdrawn,
)
from agentpool._core.text import note, shown
from agentpool._kernel import granting
from agentpool._kernel.nursery import AgentNursery, open_known_nursery
from agentpool._kernel.places import Place, place_here, set_kept, set_place, standing_at
from agentpool._kernel.protection import protect_module
from agentpool._kernel.wait import OwnTaskWait
from agentpool._remote.batch_blocks import HeadBatches
from agentpool._remote.codec import (
    Dumps,
    SentError,
    WasCancelled,
    outcome_to_bytes,
    received,
    received_error,
    sent,
    sent_error,
)

if TYPE_CHECKING:
    from agentpool._core.messages import AgentId
    from agentpool._core.outcomes import AnyOutcome
    from agentpool._kernel.context import AgentContext
    from agentpool._kernel.handle import AgentHandle
    from agentpool._remote.codec import RemoteResult
    from agentpool._remote.model_verbs import HeadModels


class Way(Protocol):
    """The way to the worker in which an agent's code runs.

    Attributes:
      name: names the worker.
      dumps: pickles what users made.
    """

    name: str
    dumps: Dumps

    def send(self, record: Down) -> object:
        """Have a record sent; does not wait."""


Known: TypeAlias = "tuple[AgentId, str, bytes | None]"
"""A child as the worker is told of it: its id, its name, and its outcome if it has ended already."""

MANY_CHILDREN = 64
"""Of an agent with more children than this the ends are told once a second, and not with each answer."""

Verbs = dict[str, Callable[..., Awaitable[Any]]]
ToldVerbs = dict[str, Callable[..., object]]


class Call:
    """One call, as whoever performs it sees it."""

    def __init__(self, proxy: Proxy, number: CallId) -> None:
        self.proxy = proxy
        self.number = number
        self.scope = trio.CancelScope(shield=True)

    @property
    def ctx(self) -> AgentContext:
        """The context of the proxy."""
        return self.proxy.ctx

    @property
    def models(self) -> HeadModels:
        """Its model calls."""
        return self.proxy.models

    def send_piece(self, value: Any) -> None:
        """Send a piece of the answer."""
        data = sent(self.proxy.way.dumps, value, "a piece of an answer")
        self.proxy.way.send(Piece(self.ctx.id, self.number, data))


class Proxy:
    """What runs at the head in the place of one life of an agent.

    Attributes:
      ctx: the agent's context here.
      models: its model calls, as far as the head makes or admits them.
      handles: of the agents that its code has spawned.
      batches: the blocks of its code in which agents run.
      at_end: called when its code has ended, the last first; for what verbs open that lives on between calls.
    """

    def __init__(
        self, ctx: AgentContext, way: Way, verbs: Verbs, told: ToldVerbs, models: HeadModels
    ) -> None:
        self.ctx = ctx
        self.way = way
        self.models = models
        self.handles: dict[AgentId, AgentHandle[Any]] = {}
        self.batches = HeadBatches(self)
        self.at_end: list[Callable[[], object]] = [self.batches.close]
        self._nursery: AgentNursery | None = None
        self._verbs = verbs
        self._told = told
        self._asked: deque[Called | Told] = deque()
        self._calls: dict[CallId, Call] = {}
        self._withdrawn: set[CallId] = set()
        self._pushed: set[AgentId] = set()
        self._answered = 0
        self._rested = False
        self._turn = trio.Event()
        self._parked: OwnTaskWait | None = None
        self._result: RemoteResult | None = None
        self._lost: str | None = None
        self._broken: Exception | None = None
        self._place: Place | None = None
        self._tasks: dict[trio.lowlevel.Task, CallId] = {}
        self._loose: dict[CallId, tuple[float, bool]] = {}

    # -- told by the way, which stands in a task of its own ---------------------------------------------

    def take(self, record: Up) -> None:
        """The worker has told something of the agent; does not wait."""
        match record:
            case Called() | Told():
                self._asked.append(record)
            case Withdraw():
                self._withdraw(record.call)
                return
            case Rested():
                self._rested = record.answered == self._answered
                now = trio.current_time()
                self._loose = {number: (now + after, has_pool) for number, after, has_pool in record.loose}
                self.ctx._state.judge.became_uncertain(self.ctx._agent)
            case Ended():
                self._result = received(record.result, "how it ended")
            case _:  # pragma: no cover - the rest concerns no single agent
                return
        self._wake()

    def lost(self, reason: str) -> None:
        """The worker is lost, and its code does not run any more."""
        self._lost = reason
        self._wake()

    def want_item(self, feed: int) -> None:
        """Have the worker read the next item of an input: its code runs from now on."""
        self._runs_again()
        self.way.send(Wanted(self.ctx.id, feed))

    def start_task(self, task: Callable[[], Awaitable[object]], name: str) -> None:
        """Start a task of the agent that outlives the call that starts it."""
        assert self._nursery is not None
        with standing_at(None):
            self._nursery.start_soon(task, name=name)

    def known(self, handle: AgentHandle[Any]) -> Known:
        """Return a child for the worker, which has a handle of it from now on."""
        self.handles[handle.id] = handle
        # That of one that had ended before the agent was resumed; the failure is not looked at yet.
        outcome = handle._record.outcome
        if outcome is None:
            return handle.id, handle.name, None
        self._pushed.add(handle.id)
        return handle.id, handle.name, outcome_to_bytes(self.way.dumps, outcome)

    def place_at(self, path: str, number: int = 0) -> Place | None:
        """Return a place in the agent; None without a journal."""
        own = self._place
        if own is None:
            return None
        return Place(own.journal, own.record, own.life, own.past, path, number)

    def hand_out(self, outcome: AnyOutcome) -> bytes:
        """Return the outcome of a child for the worker, which keeps it from now on."""
        self.handles.pop(outcome.agent_id, None)
        self._pushed.discard(outcome.agent_id)
        return outcome_to_bytes(self.way.dumps, outcome)

    def push_ended(self) -> None:
        """Tell the worker of children that have ended, so that their handles know it there."""
        ended = [each for each in self.handles.values() if each._record.ended and each.id not in self._pushed]
        for handle in ended:
            outcome = handle._record.outcome  # not looked at yet: the worker tells when it is
            assert outcome is not None
            self._pushed.add(handle.id)
            self.way.send(ChildEnded(self.ctx.id, handle.id, outcome_to_bytes(self.way.dumps, outcome)))

    # -- asked by who judges the waits of the calls ------------------------------------------------------

    def _loose_end(self, task: trio.lowlevel.Task) -> tuple[float, bool]:
        # Of a call about which nothing was told: its agent does not rest yet, and is not judged.
        return self._loose.get(self._tasks.get(task, 0), (inf, False))

    def ends_at(self, task: trio.lowlevel.Task) -> float:
        """When the code over there ends a call by itself at the latest; `-inf` for at any time."""
        return self._loose_end(task)[0]

    def has_pool(self, task: trio.lowlevel.Task) -> bool:
        """Whether the task over there that waits for a call has opened a pool of its own."""
        return self._loose_end(task)[1]

    @property
    def is_over(self) -> bool:
        """Whether its code does not run any more."""
        return self._result is not None or self._lost is not None

    def _withdraw(self, number: CallId) -> None:
        call = self._calls.get(number)
        if call is not None:
            call.scope.cancel("the agent withdrew it")
        elif any(each.call == number for each in self._asked if isinstance(each, Called)):
            self._withdrawn.add(number)
        # Else it has been answered, and the answer is on its way.

    def _wake(self) -> None:
        self._turn.set()
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.wake()

    # -- the body ---------------------------------------------------------------------------------------

    async def run(self, start: Callable[[], Awaitable[object]]) -> Any:
        """Have the agent's code run over there, and perform what it asks for, until it has ended.

        Args:
          start: sends it there; if it raises, nothing was sent.
        """
        record = self.ctx._agent
        self._place = place_here()
        away = self.ctx._state.judge.away
        away[record.id] = self
        cancelled: trio.Cancelled | None = None
        await start()
        async with open_known_nursery(record) as nursery:
            self._nursery = nursery
            try:
                try:
                    await self._serve(nursery)
                except trio.Cancelled as error:
                    cancelled = error
                    self.way.send(Abort(self.ctx.id, record.abort_reason))
                    with trio.CancelScope(shield=True):
                        await self._serve(nursery)
            finally:
                if self._lost is not None:
                    # Now, and not when its body has failed: the calls may wait for the slots that they hold.
                    self.ctx.abort_all(f"worker {self.way.name} is lost")
                for call in self._calls.values():
                    call.scope.cancel("the agent has ended")
                for close in reversed(self.at_end):
                    close()
                del away[record.id]
        try:
            return self._value(cancelled)
        finally:
            del cancelled

    def _value(self, cancelled: trio.Cancelled | None) -> Any:
        result, where = self._result, f"worker {self.way.name}"
        try:
            if self._broken is not None and not isinstance(result, SentError):
                raise self._broken
            match result:
                case bytes():
                    return received(result, "what the agent returned")
                case SentError():
                    error = received_error(result, where)  # its own, which may be fatal, comes first
                    if self._broken is not None:
                        note(error, f"the agent was aborted because of {shown(self._broken)}")
                    raise error
                case WasCancelled() if cancelled is not None:
                    raise cancelled
                case WasCancelled():
                    raise RemoteError(
                        "Cancelled",
                        f"its body raised trio.Cancelled in {where}, though nobody had cancelled it",
                    )
                case _ if cancelled is not None:
                    raise cancelled  # it was about to end by that, and has
                case _:
                    raise WorkerLostError(self.way.name, self._lost or "")
        finally:
            del cancelled

    async def _serve(self, nursery: AgentNursery) -> None:
        record = self.ctx._agent
        while not self.is_over:
            # Nothing awaitable between here and the wait: what comes meanwhile would not be seen.
            while self._asked:
                self._begin(self._asked.popleft(), nursery)
            if self._rested and not self.is_over:
                # Without a slot: an input is read while its agent has lent it.
                self._parked = OwnTaskWait(record, needs_slot=False)
                await self._parked.park(self._unpark)
            else:
                self._turn = trio.Event()
                await self._turn.wait()
        # The last that it told came together with its end, or with the last that was heard of its worker.
        for asked in self._asked:
            if isinstance(asked, Told):
                self._do(asked)
        self._asked.clear()

    def _unpark(self, _: object) -> None:
        self._parked = None

    def _begin(self, asked: Called | Told, nursery: AgentNursery) -> None:
        if isinstance(asked, Told):
            self._do(asked)
            return
        call = self._calls[asked.call] = Call(self, asked.call)
        if asked.call in self._withdrawn:
            self._withdrawn.discard(asked.call)
            call.scope.cancel("the agent withdrew it")
        with standing_at(None):  # where its code stands is told with each call
            nursery.start_soon(self._perform, call, asked, name=f"{asked.verb} of agent {self.ctx.id}")

    def _do(self, told: Told) -> None:
        """Do what the agent does not wait for. It cannot be told of an error, which becomes its own."""
        try:
            with standing_at(self._place_of(told.place)):
                self._told[told.verb](self, *received(told.arguments, f"the arguments of {told.verb}"))
        except Exception as error:
            self._broken = self._broken or error
            self.way.send(Abort(self.ctx.id, f"{told.verb} raised {shown(error)}"))

    def _place_of(self, place: tuple[str, int] | None) -> Place | None:
        return None if place is None else self.place_at(*place)

    async def _perform(self, call: Call, asked: Called) -> None:
        number, agent = asked.call, self.ctx.id
        task = trio.lowlevel.current_task()
        self._tasks[task] = number
        set_place(self._place_of(asked.place))
        dumps = self.way.dumps
        answer: Down = Withdrawn(agent, number)
        try:
            with call.scope:
                verb = self._verbs[asked.verb]
                try:
                    args = received(asked.arguments, f"the arguments of {asked.verb}")
                    if asked.kept is not None:
                        set_kept(received(asked.kept, "what is kept of a context"))
                        granting.are_in_use()
                    # What has happened is told: nothing is awaited behind the verb.
                    value = await verb(call, *args)
                    answer = Answered(agent, number, sent(dumps, value, f"what {asked.verb} came to"))
                except Exception as error:
                    answer = Refused(agent, number, sent(dumps, sent_error(dumps, error), "an error"))
        finally:
            # First the agent counts as running again, and then its code over there may run.
            del self._calls[number], self._tasks[task]
            self._runs_again()
            if len(self.handles) <= MANY_CHILDREN:
                self.push_ended()
            self._abort_if_cancelled()
            self.way.send(answer)

    def _abort_if_cancelled(self) -> None:
        """Have a cancelled agent know it with the answer: what it does then is not written any more."""
        record = self.ctx._agent
        if record.is_cancelled() and not self.is_over:
            self.way.send(Abort(self.ctx.id, record.abort_reason))

    def _runs_again(self) -> None:
        self._answered += 1
        self._rested = False
        self._wake()


protect_module(globals())
