"""The journal of a pool, from the opening of the pool to its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import trio

from agentpool import abc
from agentpool._core.errors import JournalCorruptError, JournalError
from agentpool._core.messages import SUPERVISOR
from agentpool._core.past import Past, past_of
from agentpool._core.records import SCHEMA_VERSION
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.journal import PoolJournal
from agentpool._kernel.protection import protect_module
from agentpool._kernel.resuming import Finder, restore
from agentpool._kernel.state import PoolState


@attrs.define(eq=False)
class Keeping:
    """Opens a journal for a pool, has the pool begin or go on, and closes it.

    Attributes:
      about: what the run's first record tells beside the pool's settings, such as its fleet.
      is_resumed: whether the journal holds a run, which goes on.
      finder: finds the agents of that run that the journal cannot find by itself.
      roots: the agents that the program of that run had spawned.
    """

    journal: abc.Journal
    about: Mapping[str, Any] = attrs.field(factory=dict)
    is_resumed: bool = False
    finder: Finder | None = None
    roots: list[AgentRecord] = attrs.field(factory=list)
    _past: Past = attrs.field(factory=Past)

    async def open(self) -> None:
        """Open the journal, and read what it holds.

        Raises:
          JournalError: if it cannot be opened, or holds a run where none is to be, or holds none.
        """
        records = await self.journal.open()
        try:
            if records and not self.is_resumed:
                raise JournalError(
                    f"{self.journal} holds a run already: resume it, or give another file to a new run"
                )
            if not records and self.is_resumed:
                raise JournalError(f"{self.journal} holds no run that could be resumed")
            try:
                self._past = past_of(records)
            except ValueError as error:
                raise JournalCorruptError(f"{self.journal} is damaged: {error}") from error
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.journal.aclose()
            raise

    @property
    def past(self) -> Past:
        """What the run had come to."""
        return self._past

    def begin(self, state: PoolState, max_concurrent: int) -> None:
        """Have the pool write, and put the agents back that had not ended.

        Raises:
          ReplayMismatchError: if an agent cannot be made again.
        """
        journal = PoolJournal(
            self.journal, self._past, on_failure=state.fatal_error, is_left=lambda: state.is_left
        )
        if self.is_resumed:
            self.roots += restore(state, journal, self.finder)
            journal.append("resumed", SUPERVISOR, {})
        else:
            settings = {"max_concurrent": max_concurrent, "inbox_capacity": state.router.inbox_capacity}
            run = {"schema": SCHEMA_VERSION, "settings": settings, "about": dict(self.about)}
            journal.append("run", SUPERVISOR, run)
            state.keep_journal(journal)

    async def close(self, state: PoolState) -> None:
        """Write what is left. That it could not be written comes out of the pool."""
        if state.journal is None:
            return
        try:
            await state.journal.close("stopped" if state.is_left else "ended")
        except JournalError as error:
            state.fatal = state.fatal or error


protect_module(globals())
