"""How a run is shown while it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from agentpool._core import events as ev
from agentpool._core.messages import AgentId
from agentpool.cli._progress import LONGEST_LINE, FewLines, Progress, kind_of
from agentpool.cli._quiet import Quiet
from agentpool.cli._streams import say
from agentpool.cli._tables import can_draw
from agentpool.cli._text import cut, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpool._kernel.pool import AgentPool
    from agentpool.cli._drivers import Drivers


def choose_view(*, quiet: bool) -> View:
    """Return a live table on a terminal, lines elsewhere, and nothing if that is asked for."""
    if quiet:
        return SilentView()
    if sys.stderr is not None and sys.stderr.isatty() and can_draw():
        from rich.console import Console

        from agentpool.cli._live import LiveView

        return LiveView(Console(stderr=True))
    return PlainView()


class View(Protocol):
    """Shows a run while it goes on."""

    def take(self, event: ev.Event) -> None:
        """Take an event in."""
        ...

    def tell(self, line: str) -> None:
        """Show a line that is no event's."""
        ...

    def retrying(self, agent_id: AgentId, why: str, seconds: float) -> None:
        """Take in that a model call of an agent failed, and will be made again."""
        ...

    async def keep_drawing(self, pool: AgentPool, drivers: Drivers) -> None:
        """Draw until cancelled."""
        ...

    def asking(self, again: Callable[[], None]) -> AbstractContextManager[None]:
        """Leave the terminal to somebody who asks, for as long as the block runs.

        What events tell meanwhile is shown afterwards. A line that is no event's is shown at once, and
        then `again` is called, which prints the question once more.
        """
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


@attrs.define(eq=False)
class SilentView:
    """Shows nothing."""

    def take(self, event: ev.Event) -> None:
        """Drop the event."""

    def tell(self, line: str) -> None:
        """Drop the line."""

    def retrying(self, agent_id: AgentId, why: str, seconds: float) -> None:
        """Drop it."""

    async def keep_drawing(self, pool: AgentPool, drivers: Drivers) -> None:
        """Do nothing until cancelled."""
        await trio.sleep_forever()

    def asking(self, again: Callable[[], None]) -> AbstractContextManager[None]:
        """Do nothing: nothing is printed anyway."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing."""


@attrs.define(eq=False)
class PlainView:
    """Prints a line for each start, end, retry and warning, on standard error; very many are counted."""

    _progress: Progress = attrs.field(factory=Progress)
    _lines: FewLines = attrs.field(factory=FewLines)
    _quiet: Quiet = attrs.field(factory=Quiet)

    def take(self, event: ev.Event) -> None:
        """Print the event's line, if it has one."""
        line = self._progress.apply(event)
        if line is not None:
            self._tell_few(kind_of(event), line)

    def tell(self, line: str) -> None:
        """Print a line."""
        if self._quiet.is_asking:
            say("")  # the question stands on a line that has not ended
        say(cut(one_line(line), LONGEST_LINE, sys.stderr))
        self._quiet.ask_again()

    def retrying(self, agent_id: AgentId, why: str, seconds: float) -> None:
        """Print a line."""
        row = self._progress.rows.get(agent_id)
        name = str(agent_id) if row is None else row.name
        self._tell_few("retries", f"{name}: asks again in {seconds:.1f} s: {why}")

    async def keep_drawing(self, pool: AgentPool, drivers: Drivers) -> None:
        """Do nothing until cancelled: lines are printed as their events come."""
        await trio.sleep_forever()

    @contextmanager
    def asking(self, again: Callable[[], None]) -> Iterator[None]:
        """Keep the lines of events back, and print them afterwards."""
        kept: list[str] = []
        try:
            with self._quiet.asking(again, kept):
                yield
        finally:
            for line in kept:
                self.tell(line)

    def close(self) -> None:
        """Do nothing."""

    def _tell_few(self, kind: str, line: str) -> None:
        few = self._lines.next(kind, line)
        if few is not None and not self._quiet.keeps(few):
            self.tell(few)
