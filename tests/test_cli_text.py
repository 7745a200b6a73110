"""Text of strangers that the command line prints: nothing of it is obeyed, and its width is known."""

from __future__ import annotations

import io
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cyclopts")

from agentpool import Aborted, Completed, Failed, TokenUsage
from agentpool._core.usage import NO_USAGE
from agentpool.cli import _streams
from agentpool.cli._report import ROWS, print_outcomes, result_text, rows_shown
from agentpool.cli._tables import can_draw
from agentpool.cli._text import cut, encodable, listed, one_line, pieces, safe, width_of
from agentpool.cli._view import PlainView


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 日本 👍", "plain ä 日本 👍"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x00\x07\x08\r\x7f", r"\x00\x07\x08\r\x7f"),
        ("\x85\x9b2J\x9d", r"\x85\x9b2J\x9d"),
        ("a\u202eb\u2066c\u200fd", r"a\u202eb\u2066c\u200fd"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\ufeffa\u200bb\U000e0041", r"\ufeffa\u200bb\U000e0041"),
        ("\ud800", r"\ud800"),
        ("no\xa0break", "no\xa0break"),
        ("नि\u200dक", "नि\u200dक"),
    ],
)
def test_what_a_terminal_would_obey_is_written_as_an_escape(text: str, shown: str) -> None:
    assert safe(text) == shown


@given(st.text())
def test_nothing_that_is_printed_can_move_a_cursor(text: str) -> None:
    line = one_line(text)
    categories = {unicodedata.category(letter) for letter in line if letter not in "\u200c\u200d"}
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    line.encode()


@given(st.text(), st.integers(1, 30))
def test_a_cut_text_and_its_pieces_have_their_width(text: str, width: int) -> None:
    line = one_line(text)
    assert width_of(cut(line, width)) <= width
    parts = pieces(line, width)
    assert "".join(parts) == line
    assert all(width_of(part) <= max(width, 2) for part in parts)


def test_of_many_names_only_some_are_listed() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([f"agent-{n}" for n in range(2000)], 2) == "agent-0, agent-1 and 1,998 more"
    assert len(listed(["x" * 500])) == 60


def test_a_text_is_shown_as_the_stream_will_write_it() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "latin-1")
    assert encodable("näive …", stream) == "näive \\u2026"
    assert cut("a" * 20, 10, stream) == "a" * 7 + "..."


@pytest.mark.parametrize(
    ("term", "drawn"), [("xterm-256color", True), ("dumb", False), ("UNKNOWN", False), ("", False)]
)
def test_nothing_is_drawn_where_the_cursor_cannot_move(
    term: str, drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    assert can_draw() is drawn


# -- the table -----------------------------------------------------------------------------


class Wild:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def completed(agent_id: int, name: str, value: object, usage: TokenUsage = NO_USAGE) -> Completed[object]:
    return Completed(agent_id=agent_id, name=name, parent_id=0, value=value, duration=12345.678, usage=usage)


def test_a_value_whose_text_raises_is_told_of() -> None:
    assert result_text(completed(1, "a", Wild())).startswith("<")
    assert result_text(completed(1, "a", None)) == ""


@pytest.mark.parametrize("columns", [80, 200, 60, 30])
def test_names_outcomes_and_usage_never_shrink(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    usage = TokenUsage(123_456_789, 1, cost_usd=1234.5)
    outcomes = [
        completed(123456, "a-name-of-thirty-letters-000001", "long " * 1000, usage),
        Failed(agent_id=2, name="日本" * 8, parent_id=0, error=ValueError("why " * 200), duration=1.0),
        Aborted(agent_id=3, name="[red]x[/]", parent_id=0, reason="enough", duration=1.0),
        completed(4, "\x1b[2Jevil", Wild()),
    ]
    print_outcomes(outcomes, usage, 1.0)
    out = capsys.readouterr().out
    lines = out.splitlines()
    if columns >= 80:
        assert all(width_of(line) <= columns for line in lines[:-1])
    for whole in ("123456  ", "completed  12345.68  123,456,790  $1234.5000", "failed", "aborted"):
        assert whole in out
    assert "[red]x[/]" in out
    assert r"\x1b[2Jevil" in out.replace("\n", "").replace("       ", "")
    assert "\x1b" not in out
    assert lines[-1] == "2 completed, 1 failed, 1 aborted in 1.0 s; 123,456,790 tokens, $1234.5000"


def test_failures_have_a_line_before_answers_have() -> None:
    many = [completed(n, f"a{n}", "x") for n in range(100)]
    bad = Failed(agent_id=100, name="bad", parent_id=0, error=ValueError(), duration=1.0)
    rows = rows_shown([*many, bad])
    assert len(rows) == ROWS
    assert rows[-1] is bad
    assert rows[:-1] == many[: ROWS - 1]


def test_no_agents_are_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_outcomes([], TokenUsage(), 0.0)
    assert capsys.readouterr().out == "no agents in 0.0 s; 0 tokens\n"


# -- lines ------------------------------------------------------------------------------------


async def test_two_thousand_lines_of_a_kind_become_few(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    for number in range(2000):
        view.retrying(number, "busy\x1b[2J", 1.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 119
    assert lines[0] == r"0: asks again in 1.0 s: busy\x1b[2J"
    assert lines[-1] == "2,000 retries so far"


def test_a_line_is_not_endless(capsys: pytest.CaptureFixture[str]) -> None:
    PlainView().tell("x" * 100_000)
    assert len(capsys.readouterr().err) < 500


def test_very_many_problems_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    _streams.complain([f"problem {n}" for n in range(2000)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 51
    assert lines[-1] == "agentpool: and 1,950 more problems"


def test_without_standard_error_lines_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    _streams.complain(["something"])
    _streams.give_up(None)
