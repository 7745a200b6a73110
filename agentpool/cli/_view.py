"""How a run is shown while it goes on."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from agentpool._core import events as ev
from agentpool._core.messages import AgentId
from agentpool.cli._progress import AgentRow, Progress, tell_usage
from agentpool.cli._tables import COLOURS, money, table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from agentpool._kernel.inbox import InboxStatistics
    from agentpool._kernel.pool import AgentPool
    from agentpool._kernel.statistics import WaitingAgent

SECONDS_BETWEEN_FRAMES = 0.25
WAITS_SHOWN = 5


def choose_view(*, quiet: bool) -> View:
    """Return a live table on a terminal, lines elsewhere, and nothing if that is asked for."""
    if quiet:
        return SilentView()
    if sys.stderr.isatty():
        from rich.console import Console

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

    async def keep_drawing(self, pool: AgentPool) -> None:
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

    async def keep_drawing(self, pool: AgentPool) -> None:
        """Do nothing until cancelled."""
        await trio.sleep_forever()

    def close(self) -> None:
        """Do nothing."""


@attrs.define(eq=False)
class PlainView:
    """Prints a line for each start, end and warning, on standard error."""

    _progress: Progress = attrs.field(factory=Progress)

    def take(self, event: ev.Event) -> None:
        """Print the event's line, if it has one."""
        line = self._progress.apply(event)
        if line is not None:
            self.tell(line)

    def tell(self, line: str) -> None:
        """Print a line."""
        print(line, file=sys.stderr, flush=True)

    async def keep_drawing(self, pool: AgentPool) -> None:
        """Do nothing until cancelled: lines are printed as their events come."""
        await trio.sleep_forever()

    def close(self) -> None:
        """Do nothing."""


class LiveView:
    """Draws a table of the agents and the pool's figures on a terminal, at most four times a second."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._progress = Progress()
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            # Standard output may be somebody's file: only what goes to the terminal is drawn around.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()

    def take(self, event: ev.Event) -> None:
        """Take the event in; warnings stay on the screen above the table."""
        line = self._progress.apply(event)
        if line is not None and not isinstance(event, (ev.AgentStarted, ev.AgentFinished)):
            self.tell(line)

    def tell(self, line: str) -> None:
        """Put a line above the table."""
        self._console.print(line, style="yellow", markup=False, highlight=False)

    async def keep_drawing(self, pool: AgentPool) -> None:
        """Draw a frame, wait, and so on until cancelled."""
        while True:
            self._live.update(self._frame(pool), refresh=True)
            await trio.sleep(SECONDS_BETWEEN_FRAMES)

    def close(self) -> None:
        """Take the table off the terminal."""
        self._live.stop()

    def _frame(self, pool: AgentPool) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        now = trio.current_time()
        rows = table("agent", "name", "state", "doing", "turn", "tools", "tokens", "cost", "seconds")
        for row in self._progress.current(most=max(3, self._console.height - 6)):
            rows.add_row(*_cells(row, now))
        return Group(rows, Text(self._sums()), Text(pool_figures(pool), style="dim"))

    def _sums(self) -> str:
        p = self._progress
        ended = f"{p.completed} completed, {p.failed} failed, {p.aborted} aborted"
        return f"{len(p.rows)} agents: {ended}; {tell_usage(p.usage)}"


def pool_figures(pool: AgentPool) -> str:
    """Tell in one line how many agents run, wait and for whom, and how many letters are dead."""
    now = pool.statistics()
    names = {who.id: who.name for who in now.waiting}
    waits = [f"{who.name} for {_targets(who, names)}" for who in now.waiting[:WAITS_SHOWN]]
    more = len(now.waiting) - WAITS_SHOWN
    told = f" ({', '.join(waits)}{f' and {more} more' if more > 0 else ''})" if waits else ""
    parts = [
        f"{now.running} running in {now.max_concurrent} slots",
        f"{now.queued} queued",
        f"{now.backing_off} backing off",
        f"{now.waiting_to_start} to start",
        f"{len(now.waiting)} waiting{told}",
        _tell_inboxes(now.inboxes.values()),
        f"{now.dead_letters} dead letters",
    ]
    if now.stuck:
        parts.append(f"stuck: {', '.join(agent.name for agent in now.stuck)}")
    return ", ".join(parts)


def _tell_inboxes(inboxes: Collection[InboxStatistics]) -> str:
    if not inboxes:
        return "no inboxes"
    fill = sum(inbox.fill for inbox in inboxes)
    fullest = max(inboxes, key=lambda inbox: inbox.peak)
    return f"{fill} messages in inboxes (at most {fullest.peak} of {fullest.capacity} in one so far)"


def _targets(who: WaitingAgent, names: Mapping[AgentId, str]) -> str:
    return " and ".join(names.get(target, str(target)) for target in who.waits_for) or "anybody"


def _cells(row: AgentRow, now: float) -> Sequence[str]:
    from rich.markup import escape

    duration = now - row.spawned_at if row.duration is None else row.duration
    return (
        str(row.agent_id),
        escape(row.name),
        f"[{COLOURS[row.state]}]{row.state}[/]",
        escape(row.doing),
        str(row.iteration or ""),
        str(row.tool_calls or ""),
        f"{row.usage.total_tokens:,}" if row.usage.total_tokens else "",
        money(row.usage),
        f"{duration:.1f}",
    )
