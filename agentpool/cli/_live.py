"""The live table: what each agent does or waits for, drawn on a terminal while a fleet runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from agentpool._core import events as ev
from agentpool._core.messages import AgentId
from agentpool._core.summaries import tell_usage
from agentpool.cli._progress import LONGEST_LINE, AgentRow, FewLines, Progress, kind_of
from agentpool.cli._quiet import Quiet
from agentpool.cli._tables import COLOURS, Column, heading, money, row_of, tokens, width_of_all
from agentpool.cli._text import cut, encodable, listed, one_line, width_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

    from agentpool._kernel.inbox import InboxStatistics
    from agentpool._kernel.pool import AgentPool
    from agentpool._kernel.statistics import PoolStatistics, WaitingAgent
    from agentpool.cli._drivers import Drivers

SECONDS_BETWEEN_FRAMES = 0.25
WAITS_SHOWN = 5
LINES_OF_FIGURES = 4
WIDE = 100
"""From so many columns on there is room for everything."""


class LiveView:
    """Draws a table of the agents and the pool's figures on a terminal, at most four times a second.

    The size of the terminal is asked for each frame, and a frame is never larger: what has no room is
    counted.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress()
        self._lines = FewLines()
        self._quiet = Quiet()
        self._gone = False
        self._live = self._started()

    def _started(self) -> Live:
        from rich.live import Live

        live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            # Standard output may be somebody's file: only what goes to the terminal is drawn around.
            redirect_stdout=sys.stdout.isatty(),
        )
        live.start()
        # A cursor that is not hidden cannot be left hidden: by Ctrl-Z, Ctrl-\\ or a kill.
        self._console.show_cursor()
        return live

    def take(self, event: ev.Event) -> None:
        """Take the event in; warnings stay on the screen above the table."""
        line = self._progress.apply(event)
        if line is None or isinstance(event, (ev.AgentStarted, ev.AgentFinished)):
            return
        few = self._lines.next(kind_of(event), line)
        if few is not None and not self._quiet.keeps(few):
            self.tell(few)

    def tell(self, line: str) -> None:
        """Put a line above the table."""
        from rich.text import Text

        if self._gone:
            return
        try:
            if self._quiet.is_asking:
                self._console.print()  # the question stands on a line that has not ended
            # A text, not a string: in a string rich would look for markup and for names of emoji.
            self._console.print(
                Text(cut(encodable(one_line(line), sys.stderr), LONGEST_LINE), style="yellow")
            )
            self._quiet.ask_again()
        except OSError:
            self._gone = True

    @contextmanager
    def asking(self, again: Callable[[], None]) -> Iterator[None]:
        """Take the table off the terminal, and draw a new one below what was said there."""
        self.close()
        kept: list[str] = []
        try:
            with self._quiet.asking(again, kept):
                yield
        finally:
            try:
                self._live = self._started()
            except OSError:
                self._gone = True
            for line in kept:
                self.tell(line)

    def retrying(self, agent_id: AgentId, why: str, seconds: float) -> None:
        """Have the agent's line say so until the call is made again."""
        self._progress.retrying(agent_id, why, trio.current_time() + seconds)

    async def keep_drawing(self, pool: AgentPool, drivers: Drivers) -> None:
        """Draw a frame, wait, and so on until cancelled, or until the terminal has gone."""
        while not self._gone:
            try:
                if not self._quiet.is_asking:
                    self._live.update(self._frame(pool, drivers), refresh=True)
            except OSError:
                self._gone = True
            await trio.sleep(SECONDS_BETWEEN_FRAMES)
        await trio.sleep_forever()

    def close(self) -> None:
        """Take the table off the terminal."""
        try:
            self._live.stop()
        except OSError:
            pass

    def _frame(self, pool: AgentPool, drivers: Drivers) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        now = pool.statistics()
        figures = ", ".join([*pool_parts(now), *provider_parts(drivers)])
        below = [self._sums(), *folded(figures, self._console.width, LINES_OF_FIGURES)]
        # The heading, the line of what is hidden, and a line for the cursor.
        most = max(1, self._console.height - len(below) - 3)
        lines = frame_lines(self._progress, now, self._console.width, most, trio.current_time())
        last = [Text(self._fitting(text), style=style) for text, style in zip(below, _styles(), strict=False)]
        return Group(*lines, *last)

    def _sums(self) -> str:
        p = self._progress
        ended = f"{p.completed:,} completed, {p.failed:,} failed, {p.aborted:,} aborted"
        return f"{len(p.rows):,} agents: {ended}; {tell_usage(p.usage)}"

    def _fitting(self, text: str) -> str:
        return cut(encodable(text, sys.stderr), self._console.width, sys.stderr)


def _styles() -> Iterable[str]:
    yield ""
    while True:
        yield "dim"


def frame_lines(progress: Progress, now: PoolStatistics, width: int, most: int, time: float) -> list[Text]:
    """Return the table's lines: a heading, at most so many agents, and how many have no line.

    Args:
      progress: what the events told.
      now: who waits for whom.
      width: of the terminal; no line is longer.
      most: how many agents may have a line.
      time: on trio's clock.
    """
    from rich.text import Text

    rows, at_work, ended = progress.current(most)
    names = {row.agent_id: row.name for row in progress.rows.values()}
    waiting = {who.id: f"waits for {_targets(who, names)}" for who in now.waiting}
    columns = _columns(width, rows)
    lines = [heading(columns)]
    for row in rows:
        doing, style = _doing(row, waiting, time)
        cells = _cells(row, doing, time, wide=width >= WIDE)
        fitting = [
            cut(encodable(cell, sys.stderr), column.width, sys.stderr)
            for cell, column in zip(cells, columns, strict=True)
        ]
        lines.append(row_of(columns, fitting, ["", "", style, *[""] * (len(cells) - 3)]))
    hidden = [f"{number:,} {what}" for number, what in ((at_work, "at work"), (ended, "ended")) if number]
    if hidden:
        lines.append(Text(cut(f"not shown: {', '.join(hidden)}", width, sys.stderr), style="dim"))
    for line in lines:
        line.truncate(width)
    return lines


def _columns(width: int, rows: Sequence[AgentRow]) -> list[Column]:
    first = Column("agent", 5, right=True)
    figures = [
        Column("turn", 4, right=True),
        Column("tokens", 9, right=True),
        Column("seconds", 7, right=True),
    ]
    if width >= WIDE:
        figures[1:1] = [Column("tools", 5, right=True)]
        figures[3:3] = [Column("cost", 9, right=True)]
    room = max(16, width - width_of_all([first, *figures]) - 2)
    longest = max([4, *(width_of(one_line(row.name)) for row in rows)])
    name = Column("name", min(longest, room // 2))
    return [first, name, Column("doing", room - name.width), *figures]


def _doing(row: AgentRow, waiting: Mapping[AgentId, str], time: float) -> tuple[str, str]:
    """Tell what an agent does, and the style of it: its end, a retry, a wait, its work, in this order.

    A wait for a person comes before others.
    """
    if row.duration is not None:
        return row.state, COLOURS[row.state]
    if row.retry_at > time:
        return f"asks again in {row.retry_at - time:.0f} s: {row.retry}", "yellow"
    if row.asking:
        return f"waits for approval of {listed([*row.asking.values()], 2)}", "yellow"
    if row.agent_id in waiting:
        return waiting[row.agent_id], "dim"
    return row.doing or row.state, COLOURS[row.state]


def _cells(row: AgentRow, doing: str, time: float, *, wide: bool) -> list[str]:
    duration = time - row.spawned_at if row.duration is None else row.duration
    return [
        str(row.agent_id),
        one_line(row.name),
        one_line(doing),
        str(row.iteration or ""),
        *([str(row.tool_calls or "")] if wide else []),
        tokens(row.usage),
        *([money(row.usage)] if wide else []),
        f"{duration:.1f}",
    ]


def folded(text: str, width: int, most: int) -> list[str]:
    """Return a text in at most so many lines, broken between words where that is possible."""
    import textwrap

    return textwrap.wrap(text, max(10, width), max_lines=most, placeholder=" ...")


def pool_parts(now: PoolStatistics) -> list[str]:
    """Tell how many agents run, wait and for whom, and how many letters are dead."""
    names = {who.id: who.name for who in now.waiting}
    waits = [f"{_short(who.name)} for {_targets(who, names)}" for who in now.waiting[:WAITS_SHOWN]]
    more = len(now.waiting) - WAITS_SHOWN
    told = f" ({', '.join(waits)}{f' and {more:,} more' if more > 0 else ''})" if waits else ""
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
        parts.append(f"stuck: {listed([agent.name for agent in now.stuck], WAITS_SHOWN)}")
    return parts


def provider_parts(drivers: Drivers) -> list[str]:
    """Tell of each provider how many calls are under way and wait for its quota, and for how long."""
    parts = []
    for provider, now in drivers.statistics():
        text = f"{provider}: {now.in_flight} calls under way, {now.waiting} waiting"
        if now.refused:
            text += f", {now.refused} refused"
        if now.pause:
            text += f", paused for {now.pause:.0f} s"
        if now.circuit != "closed":
            text += f", circuit {now.circuit.replace('_', ' ')}"
        parts.append(text)
    return parts


def _tell_inboxes(inboxes: Collection[InboxStatistics]) -> str:
    if not inboxes:
        return "no inboxes"
    fill = sum(inbox.fill for inbox in inboxes)
    fullest = max(inboxes, key=lambda inbox: inbox.peak)
    return f"{fill} messages in inboxes (at most {fullest.peak} of {fullest.capacity} in one so far)"


def _targets(who: WaitingAgent, names: Mapping[AgentId, str]) -> str:
    few = [_short(names.get(target, str(target))) for target in who.waits_for[:2]]
    more = len(who.waits_for) - len(few)
    return " and ".join([*few, *([f"{more:,} more"] if more else [])]) or "anybody"


def _short(name: str) -> str:
    return cut(one_line(name), 30, sys.stderr)
