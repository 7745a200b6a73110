"""The journal of a pool, from the opening of the pool to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from agentpool import abc
from agentpool._core.budget import Budget
from agentpool._core.errors import JournalCorruptError, JournalError
from agentpool._core.messages import SUPERVISOR
from agentpool._core.past import Past, past_of
from agentpool._core.records import SCHEMA_VERSION, JournalRecord
from agentpool._kernel.journal import PoolJournal
from agentpool._kernel.protection import call_unprotected, protect_module
from agentpool._kernel.resuming import Finder, restore
from agentpool._kernel.state import PoolState, Settings


@attrs.define(eq=False)
class Keeping:
    """Opens a journal for a pool, has the pool begin or go on, and closes it.

    Attributes:
      about: what the run's first record tells beside the pool's settings, such as its fleet.
      is_resumed: whether the journal holds a run, which goes on.
      finder: finds the agents of that run that the journal cannot find by itself.
      heed: is told what the journal of that run holds, before any of its agents is made again.
    """

    journal: abc.Journal
    about: Mapping[str, Any] = attrs.field(factory=dict)
    is_resumed: bool = False
    finder: Finder | None = None
    heed: Callable[[Sequence[JournalRecord]], object] | None = None
    _past: Past = attrs.field(factory=Past)

    async def open(self, settings: Settings) -> Settings:
        """Open the journal, and read what it holds.

        Args:
          settings: those that were given.

        Returns:
          Those of the pool: what was not given is as it was.

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
            if self.heed is not None:
                call_unprotected(self.heed, records)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.journal.aclose()
            raise
        return _settings_of(self._past, settings) if self.is_resumed else settings

    async def begin(self, state: PoolState, settings: Settings) -> None:
        """Have the pool write, and put the agents back that had not ended.

        Raises:
          ReplayMismatchError: if an agent cannot be made again.
          JournalError: if the journal cannot be written.
        """
        journal = PoolJournal(
            self.journal, self._past, on_failure=state.fatal_error, is_left=lambda: state.is_left
        )
        if self.is_resumed:
            journal.resumed = restore(state, journal, self.finder)
            journal.append("resumed", SUPERVISOR, {})
        else:
            run = {
                "schema": SCHEMA_VERSION,
                "id": journal.run_id,
                "settings": _settings_to_data(settings),
                "about": dict(self.about),
            }
            journal.append("run", SUPERVISOR, run)
            state.keep_journal(journal)
        await journal.commit()  # a run that has begun can be resumed, whatever comes

    async def close(self, state: PoolState) -> None:
        """Write what is left. That it could not be written comes out of the pool."""
        if state.journal is None:
            return
        try:
            await state.journal.close()
        except JournalError as error:
            state.fatal = state.fatal or error


def _settings_to_data(settings: Settings) -> dict[str, Any]:
    budget = settings.budget
    return {
        "max_concurrent": settings.max_concurrent,
        "inbox_capacity": settings.inbox_capacity,
        "budget": None if budget is None else attrs.asdict(budget.limit),
    }


def _settings_of(past: Past, given: Settings) -> Settings:
    """Return the settings of a run, where none are given in their place."""
    before = past.run["settings"]
    budget = given.budget
    if budget is None and before["budget"] is not None:
        budget = Budget(**before["budget"])
    return Settings(
        given.max_concurrent or before["max_concurrent"],
        given.inbox_capacity or before["inbox_capacity"],
        budget,
    )


protect_module(globals())
