"""The journal, as far as the code of an agent meets it: in the pool's process, and in a worker's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import trio

from agentpool._core.messages import AgentId
from agentpool._core.records import RecordKind
from agentpool._kernel.places import Op, next_op, place_here
from agentpool._kernel.protection import call_unprotected, protect_module
from agentpool._objects import NotDataError, UnreadableDataError, object_from_data, object_to_data

T = TypeVar("T")


class AgentJournal(ABC):
    """Where an agent's code is numbered, and what it observes is written.

    Attributes:
      run_id: names the run in all the world.
    """

    run_id: str

    @abstractmethod
    def append(self, kind: RecordKind, agent: AgentId, data: Mapping[str, Any]) -> None:
        """Have a record written; does not wait."""

    @abstractmethod
    async def commit(self) -> None:
        """Wait until everything that was appended is written.

        Raises:
          JournalError: if it cannot be written; it ends the pool too.

        Checkpoint: unless everything is written. Cancellation: leaves nothing behind.
        """

    async def commit_shielded(self) -> None:
        """As `commit`; cancellation does not end the wait."""
        with trio.CancelScope(shield=True):
            await self.commit()

    @abstractmethod
    async def step(self, name: str, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
        """Do what a step of an agent's code does, or come to what it came to before."""

    @abstractmethod
    def time_of(self, at: float) -> float:
        """Return the time on trio's clock of a moment in the run."""

    def time_here(self) -> float:
        """Return the time on trio's clock; of an operation that is not done again, when it was done."""
        place = place_here()
        op = None if place is None or place.journal is not self else place.last
        return trio.current_time() if op is None or op.found is None else self.time_of(op.found.at)

    # -- operations --------------------------------------------------------------------------------

    def draw(self) -> Op | None:
        """Number the operation that the calling task begins; None if it is no agent's task."""
        return next_op(self)

    def operated(self, op: Op | None, kind: str, value: Any = None) -> None:
        """Write what an operation came to."""
        if op is not None:
            self.append("operated", op.record.id, {**op.data, "kind": kind, "value": value})

    # -- values ------------------------------------------------------------------------------------

    def encoded(self, value: Any, what: str) -> Any:
        """Return a value as data.

        Raises:
          TypeError: if it cannot be kept, with what to do.
        """
        try:
            return call_unprotected(object_to_data, value)
        except NotDataError as error:
            raise TypeError(f"{what} cannot be kept in the journal: {error}") from error

    def decoded(self, data: Any, op: Op) -> Any:
        """Return the value of data.

        Raises:
          ReplayMismatchError: if it cannot be read any more.
        """
        try:
            return call_unprotected(object_from_data, data)
        except UnreadableDataError as error:
            raise op.mismatch(f"what it came to cannot be read: {error}") from error


protect_module(globals())
