"""What is told of a run at its end: a table for people, a document for machines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import attrs

from agentpool._core.outcomes import AgentResult, AnyOutcome, Completed
from agentpool._core.usage import TokenUsage
from agentpool.cli._progress import reason_of, state_of, tell_usage
from agentpool.cli._tables import COLOURS, money, table

WIDTH_OF_FILES = 120


def print_outcomes(outcomes: Sequence[AnyOutcome], usage: TokenUsage, duration: float) -> None:
    """Print the table of outcomes with their usage, and the sums below it.

    Args:
      outcomes: a line of the table each.
      usage: of the whole run; there may be more agents than lines.
      duration: seconds.
    """
    from rich.console import Console
    from rich.markup import escape

    console = Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_FILES)
    rows = table("agent", "name", "outcome", "seconds", "tokens", "cost", "result")
    for outcome in outcomes:
        state = state_of(outcome)
        rows.add_row(
            str(outcome.agent_id),
            escape(outcome.name),
            f"[{COLOURS[state]}]{state}[/]",
            f"{outcome.duration:.2f}",
            f"{outcome.usage.total_tokens:,}" if outcome.usage.total_tokens else "",
            money(outcome.usage),
            escape(_first_line(result_text(outcome) or reason_of(outcome))),
        )
    console.print(rows)
    counts = {"completed": 0, "failed": 0, "aborted": 0}
    for outcome in outcomes:
        counts[state_of(outcome)] += 1
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number) or "no agents"
    console.print(f"{told} in {duration:.1f} s; {tell_usage(usage)}", highlight=False)


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
