"""How a run is shown while it goes on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from agentpool._core import events as ev
from agentpool._core.messages import AgentId
from agentpool.cli._progress import LONGEST_LINE, FewLines, Progress, kind_of
from agentpool.cli._streams import say
from agentpool.cli._tables import can_draw
from agentpool.cli._text import cut, one_line

if TYPE_CHECKING:
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

    def close(self) -> None:
        """Do nothing."""


@attrs.define(eq=False)
class PlainView:
    """Prints a line for each start, end, retry and warning, on standard error; very many are counted."""

    _progress: Progress = attrs.field(factory=Progress)
    _lines: FewLines = attrs.field(factory=FewLines)

    def take(self, event: ev.Event) -> None:
        """Print the event's line, if it has one."""
        line = self._progress.apply(event)
        if line is not None:
            self._tell_few(kind_of(event), line)

    def tell(self, line: str) -> None:
        """Print a line."""
        say(cut(one_line(line), LONGEST_LINE, sys.stderr))

    def retrying(self, agent_id: AgentId, why: str, seconds: float) -> None:
        """Print a line."""
        row = self._progress.rows.get(agent_id)
        name = str(agent_id) if row is None else row.name
        self._tell_few("retries", f"{name}: asks again in {seconds:.1f} s: {why}")

    async def keep_drawing(self, pool: AgentPool, drivers: Drivers) -> None:
        """Do nothing until cancelled: lines are printed as their events come."""
        await trio.sleep_forever()

    def close(self) -> None:
        """Do nothing."""

    def _tell_few(self, kind: str, line: str) -> None:
        few = self._lines.next(kind, line)
        if few is not None:
            self.tell(few)
