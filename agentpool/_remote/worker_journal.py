"""The journal, as the code of an agent in a worker meets it: what it writes goes up to the head."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from agentpool._core.messages import AgentId
from agentpool._core.past import Operation
from agentpool._kernel.agent_journal import AgentJournal
from agentpool._kernel.places import NO_PAST, Op, PastLife, Place, Turns, place_here, set_place, standing_at
from agentpool._kernel.protection import await_unprotected, protect_module
from agentpool._objects import error_to_data
from agentpool._remote.line import Line

if TYPE_CHECKING:
    from agentpool._core.records import RecordKind
    from agentpool._kernel.activity import Activity
    from agentpool._remote.facts import JournalFacts

T = TypeVar("T")


class NumbersCalls(Line, Protocol):
    """The way to the head."""

    async def ask_or(
        self, withdrawn: Callable[[], object] | None, verb: str, *args: Any, op: Op | None = None
    ) -> Any:
        """As `ask`, for an operation of the agent's code."""
        ...


class WorkerJournal(AgentJournal):
    """Numbers the operations of one agent's code in its worker, and has the head write.

    What was done before the agent was resumed is known to the head alone, which performs the operations. Here
    is known of them when they were done, and all that the runs of the loop had observed.
    """

    def __init__(self, line: NumbersCalls, record: Activity, facts: JournalFacts) -> None:
        """Begin with one life of an agent, whose first step this is.

        Args:
          line: the agent's.
          record: the agent's in the worker.
          facts: what the head told as the agent began.
        """
        self.run_id = facts.run_id
        self._line = line
        self._record = record
        self._zero = trio.current_time() - facts.now
        self._past = NO_PAST
        if facts.is_resumed:
            done = {key: Operation(kind, None, at) for key, (kind, at) in facts.operations.items()}
            self._past = PastLife(done, facts.loops, {}, _ToldTurns(line))

    def begin_life(self, life: int) -> None:
        """The calling task begins the life of the agent."""
        set_place(Place(self, self._record, life, self._past))

    def append(self, kind: RecordKind, agent: AgentId, data: Mapping[str, Any]) -> None:
        """Have the head write a record; what is told or asked later comes after it."""
        self._line.tell("write", kind, data)

    async def commit(self) -> None:
        """Wait until everything that was appended is written.

        Raises:
          JournalError: if it cannot be written; it ends the pool too.

        Checkpoint: always. Cancellation: leaves nothing behind.
        """
        await self._line.ask("commit")

    def time_of(self, at: float) -> float:
        """Return the time on the clock of this process of a moment in the run."""
        return self._zero + at

    async def step(self, name: str, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
        """Do what a step of an agent's code does, or come to what it came to before."""
        kind = f"step {name}"
        op, place = self.draw(), place_here()
        before: tuple[Any] | None = await self._line.ask_or(None, "begin_step", kind, op=op)
        if before is not None:
            assert op is not None
            found: T = self.decoded(before[0], op)
            return found
        try:
            with standing_at(None if op is None or place is None else place.inside(op.key)):
                value: T = await await_unprotected(fn, *args)
            data = self.encoded(value, f"what the step {name!r} returned")
        except Exception as error:
            self.operated(op, "error", error_to_data(error))
            raise
        self.operated(op, kind, data)
        await self.commit_shielded()
        return value


class _ToldTurns(Turns):
    """Tells the head which tasks of an agent there are; it has them come to what they had done in order."""

    def __init__(self, line: Line) -> None:
        super().__init__(())
        self._line = line

    def opened(self, path: str) -> None:
        """A task of the agent stands there from now on."""
        self._line.tell("task_opened", path)

    def closed(self, path: str) -> None:
        """The task that stood there has ended."""
        self._line.tell("task_closed", path)


protect_module(globals())
