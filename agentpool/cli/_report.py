"""What is told of a run at its end: a table for people, a document for machines."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from agentpool._core.outcomes import AgentResult, AnyOutcome, Completed
from agentpool._core.summaries import reason_of, state_of, tell_usage
from agentpool._core.text import shown
from agentpool._core.usage import TokenUsage
from agentpool.cli._tables import (
    COLOURS,
    Column,
    can_draw,
    fitted,
    heading,
    money,
    row_of,
    size_of,
    tokens,
    width_of_all,
)
from agentpool.cli._text import LETTERS_IN_A_COLUMN, cut, ellipsis, encodable, one_line, pieces, width_of

if TYPE_CHECKING:
    from rich.text import Text

WIDTH_OF_FILES = 80
ROWS = 40
"""So many agents have a line of the table; of more, those that failed come first."""
LINES_OF_NAME = 4
LINES_OF_REASON = 3
ANSWER_AT_LEAST = 16
NAME_AT_LEAST = 12


def print_outcomes(
    outcomes: Sequence[AnyOutcome], usage: TokenUsage, duration: float, *, output: Path | None = None
) -> None:
    """Print the table of outcomes with their usage, and the sums below it.

    Args:
      outcomes: a line of the table each.
      usage: of the whole run; there may be more agents than lines.
      duration: seconds.
      output: the directory with the whole answers, if there is one.
    """
    from rich.console import Console

    plain = None if can_draw() else False
    width = None if sys.stdout.isatty() else size_of("COLUMNS") or WIDTH_OF_FILES
    console = Console(width=width, force_terminal=plain)
    rows = rows_shown(outcomes)
    report = _Table(rows, max(20, console.width))
    for line in report.lines() if rows else ():
        console.print(line, soft_wrap=True, crop=False, highlight=False)
    if len(rows) < len(outcomes):
        hidden = _counted([each for each in outcomes if not any(each is row for row in rows)])
        print(f"{ellipsis()} and {hidden} not shown: {_where(output)} has them all")
    if report.was_cut:
        print(f"{ellipsis()} marks a cut: {_where(output)} has the full text")
    print(f"{_counted(outcomes) or 'no agents'} in {duration:.1f} s; {tell_usage(usage)}")


def _where(output: Path | None) -> str:
    return "--output DIR or --json" if output is None else one_line(str(output))


def rows_shown(outcomes: Sequence[AnyOutcome], most: int = ROWS) -> list[AnyOutcome]:
    """Return at most so many outcomes, in their order: those that did not complete come first."""
    if len(outcomes) <= most:
        return list(outcomes)
    first = sorted(range(len(outcomes)), key=lambda n: (isinstance(outcomes[n], Completed), n))
    return [outcomes[n] for n in sorted(first[:most])]


def _counted(outcomes: Sequence[AnyOutcome]) -> str:
    counts = Counter(map(state_of, outcomes))
    return ", ".join(
        f"{counts[state]:,} {state}" for state in ("completed", "failed", "aborted") if counts[state]
    )


class _Table:
    """The table of outcomes in a width. What is not an answer keeps its room; answers get the rest."""

    def __init__(self, outcomes: Sequence[AnyOutcome], width: int) -> None:
        self.was_cut = False
        self._outcomes = outcomes
        self._names = [encodable(one_line(outcome.name)) for outcome in outcomes]
        figures = [
            fitted("agent", [str(outcome.agent_id) for outcome in outcomes]),
            Column("outcome", len("completed")),
            fitted("seconds", [f"{outcome.duration:.2f}" for outcome in outcomes]),
            fitted("tokens", [tokens(outcome.usage) for outcome in outcomes]),
            fitted("cost", [money(outcome.usage) for outcome in outcomes]),
        ]
        self._used = [True, True, True, *(any(map(tell, _usages(outcomes))) for tell in (tokens, money))]
        kept = [column for column, used in zip(figures, self._used, strict=True) if used]
        room = width - width_of_all(kept)
        # Where there is too little room for a name and a bit of an answer, the answer has lines of its own.
        self._below = room < NAME_AT_LEAST + 2 + ANSWER_AT_LEAST
        most = max(NAME_AT_LEAST, room - (0 if self._below else 2 + ANSWER_AT_LEAST))
        longest = max(map(width_of, ("name", *self._names)))
        name = Column("name", min(longest, most))
        self._answer = width - 4 if self._below else room - name.width - 2
        self._columns = [kept[0], name, *kept[1:]]

    def lines(self) -> Iterator[Text]:
        """Yield the lines, the heading first."""
        answer = [] if self._below else [Column("answer", self._answer)]
        yield heading([*self._columns, *answer])
        for outcome, name in zip(self._outcomes, self._names, strict=True):
            yield from self._lines_of(outcome, name)

    def _lines_of(self, outcome: AnyOutcome, name: str) -> Iterator[Text]:
        state = state_of(outcome)
        told = [
            str(outcome.agent_id),
            state,
            f"{outcome.duration:.2f}",
            tokens(outcome.usage),
            money(outcome.usage),
        ]
        figures = [cell for cell, used in zip(told, self._used, strict=True) if used]
        names = self._cut_lines(name, self._columns[1].width, LINES_OF_NAME)
        answer = self._answer_lines(outcome)
        beside = [] if self._below else answer
        for n, (part, text) in enumerate(zip_longest(names, beside or [""], fillvalue="")):
            cells = [figures[0], part, *figures[1:]] if n == 0 else ["", part, *[""] * (len(figures) - 1)]
            yield self._line(cells, text, COLOURS[state])
        for text in answer if self._below else ():
            yield row_of([Column("", 2), Column("", self._answer)], ["", text])

    def _line(self, cells: Sequence[str], answer: str, colour: str) -> Text:
        columns, styles = list(self._columns), ["", "", colour, *[""] * (len(cells) - 3)]
        if not self._below:
            columns.append(Column("answer", self._answer))
            return row_of(columns, [*cells, answer], [*styles, ""])
        return row_of(columns, cells, styles)

    def _answer_lines(self, outcome: AnyOutcome) -> list[str]:
        if not isinstance(outcome, Completed):
            return self._cut_lines(encodable(one_line(reason_of(outcome))), self._answer, LINES_OF_REASON)
        text = f"{_stop_of(outcome)}{result_text(outcome).strip()}"
        first, more, _ = text.partition("\n")
        # A whole answer of many megabytes is not looked at for the sake of a line.
        line = encodable(one_line(first[: 4 * self._answer + 4]))
        if not more and width_of(line) <= self._answer:
            return [line]
        self.was_cut = True
        return [cut(f"{line} {ellipsis()}", self._answer)]

    def _cut_lines(self, text: str, width: int, most: int) -> list[str]:
        # Whatever is behind that has no room in any case, and an error's text may be a megabyte.
        lines = pieces(text[: LETTERS_IN_A_COLUMN * width * most + 1], width)
        if len(lines) > most:
            self.was_cut = True
            lines = [*lines[: most - 1], cut("".join(lines[most - 1 : most + 1]), width)]
        return lines


def _stop_of(outcome: Completed[Any]) -> str:
    """Tell the limit at which an agent gave its answer, if it was one."""
    limit = outcome.value.stopped_by if isinstance(outcome.value, AgentResult) else None
    return "" if limit is None else f"(at its limit: {limit}) "


def _usages(outcomes: Sequence[AnyOutcome]) -> list[TokenUsage]:
    return [outcome.usage for outcome in outcomes]


def result_text(outcome: AnyOutcome) -> str:
    """Return what an agent answered, as text; empty if it did not complete."""
    if not isinstance(outcome, Completed):
        return ""
    value = outcome.value
    if isinstance(value, AgentResult):
        return value.text
    try:
        return "" if value is None else str(value)
    except Exception:  # a stranger's value
        return shown(value)


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
        document["stopped_by"] = value.stopped_by
    return document
