"""How a run is shown while it goes on, and how its outcomes are told at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio

from agentpool._core import events as ev
from agentpool._core.outcomes import AgentResult, AnyOutcome, Completed
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool.cli._progress import AgentRow, Progress, reason_of, state_of, tell_usage

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from agentpool._pool import AgentPool

SECONDS_BETWEEN_FRAMES = 0.25
COLOURS = {"completed": "green", "failed": "red", "aborted": "yellow", "running": "cyan", "starting": "dim"}


class View(Protocol):
    """Shows a run while it goes on."""

    def take(self, event: ev.Event) -> None:
        """Take an event in."""
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
            print(line, file=sys.stderr)

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
        table = _table("agent", "name", "state", "doing", "turn", "tools", "tokens", "cost", "seconds")
        for row in self._progress.current(most=max(3, self._console.height - 6)):
            table.add_row(*_cells(row, now))
        return Group(table, Text(self._sums()), Text(pool_figures(pool), style="dim"))

    def _sums(self) -> str:
        p = self._progress
        ended = f"{p.completed} completed, {p.failed} failed, {p.aborted} aborted"
        return f"{len(p.rows)} agents: {ended}; {tell_usage(p.usage)}"


def pool_figures(pool: AgentPool) -> str:
    """Tell in one line how many agents run, wait and for whom, and how many letters are dead."""
    return ""


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        right = column in ("agent", "turn", "tools", "tokens", "cost", "seconds")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


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
        _money(row.usage),
        f"{duration:.1f}",
    )


def _money(usage: TokenUsage) -> str:
    return f"${usage.cost_usd:.4f}" if usage.cost_usd else ""


# -- at the end ------------------------------------------------------------------


def print_outcomes(console: Console, outcomes: Sequence[AnyOutcome], duration: float) -> None:
    """Print the table of outcomes with their usage, and the sums below it."""
    from rich.markup import escape

    table = _table("agent", "name", "outcome", "seconds", "tokens", "cost", "result")
    for outcome in outcomes:
        state = state_of(outcome)
        table.add_row(
            str(outcome.agent_id),
            escape(outcome.name),
            f"[{COLOURS[state]}]{state}[/]",
            f"{outcome.duration:.2f}",
            f"{outcome.usage.total_tokens:,}" if outcome.usage.total_tokens else "",
            _money(outcome.usage),
            escape(_first_line(result_text(outcome) or reason_of(outcome))),
        )
    console.print(table)
    counts = {"completed": 0, "failed": 0, "aborted": 0}
    for outcome in outcomes:
        counts[state_of(outcome)] += 1
    total = sum_usage(outcomes)
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number) or "no agents"
    console.print(f"{told} in {duration:.1f} s; {tell_usage(total)}", highlight=False)


def sum_usage(outcomes: Sequence[AnyOutcome]) -> TokenUsage:
    """Add up what agents used."""
    return sum((outcome.usage for outcome in outcomes), NO_USAGE)


def result_text(outcome: AnyOutcome) -> str:
    """Return what an agent answered, as text; empty if it did not complete."""
    if not isinstance(outcome, Completed):
        return ""
    value = outcome.value
    return value.text if isinstance(value, AgentResult) else "" if value is None else str(value)


def _first_line(text: str, most: int = 120) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= most else line[: most - 1] + "…"


def outcome_as_json(outcome: AnyOutcome) -> dict[str, Any]:
    """Turn an outcome into what `--json` prints of it."""
    document: dict[str, Any] = {
        "id": outcome.agent_id,
        "name": outcome.name,
        "parent_id": outcome.parent_id,
        "outcome": state_of(outcome),
        "duration": outcome.duration,
        "restarts": outcome.restarts,
        "usage": attrs.asdict(outcome.usage),
    }
    match state_of(outcome):
        case "completed":
            document["text"] = result_text(outcome)
        case "failed":
            document["error"] = reason_of(outcome)
        case "aborted":
            document["reason"] = reason_of(outcome)
    value = outcome.value if isinstance(outcome, Completed) else None
    if isinstance(value, AgentResult):
        document |= {"iterations": value.iterations, "tool_calls": value.tool_calls}
    return document
