"""The command line on real pseudo-terminals: what a person sees, at several sizes and encodings."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cyclopts")
pytest.importorskip("fcntl")

from terminal_kit import Terminal, on_a_terminal

pytestmark = pytest.mark.processes

AGENTS = r'''
"""What the agents of these tests do in a model's place."""

import sys
from pathlib import Path

import trio

HERE = Path(__file__).parent
RED = "\x1b[31mred\x1b[0m"


def long(request):
    return "word " * 500


def evil(request):
    return f"{RED} \x1b]0;title\x07 \x9b2J \x7f \u202egnp.exe [bold]markup[/bold] :warning:"


def evil_error(request):
    raise ValueError(f"{RED} \x1b[2J\x1b[H [red]x[/] \u2066hidden")


def foreign(request):
    return "日本語 naïve"


def well(request):
    return "well"


GONE = trio.Event()
LOOKING = []


async def wait_for_go(request):
    LOOKING.append(request)
    if len(LOOKING) == 1:  # one of them looks for the file, the others wait for it
        while not (HERE / "go").exists():
            await trio.sleep(0.01)
        GONE.set()
    await GONE.wait()
    return "gone"
'''
COMMAND = [sys.executable, "-m", "agentpool", "run"]


def fleet(folder: Path, *functions: str, pool: str = "max_concurrent = 8", extra: str = "") -> Path:
    (folder / "agents.py").write_text(AGENTS, "utf-8")
    entries = [
        f'[[agents]]\nname = "{name}"\nquery = "?"\n{extra}\n'
        f'[agents.manifest.script]\nfunction = "agents:{name}"\n'
        for name in functions
    ]
    path = folder / "fleet.toml"
    path.write_text(f"[pool]\n{pool}\n" + "\n".join(entries), "utf-8")
    return path


def final_table(terminal: Terminal) -> list[str]:
    lines = terminal.screen.text.rstrip().splitlines()
    (first,) = [n for n, line in enumerate(lines) if re.match(r" *agent +name +outcome +seconds", line)]
    return lines[first:]


def check_screen(terminal: Terminal) -> None:
    """Nothing came that a terminal would obey but what the view itself sends, and nothing wrapped."""
    assert terminal.screen.strange == []
    assert terminal.screen.wrapped == 0


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (50, 200)])
def test_the_final_table_is_readable_whatever_the_answers_are(
    tmp_path: Path, rows: int, columns: int
) -> None:
    path = fleet(tmp_path, "long", "evil", "evil_error", "foreign", "well")
    with on_a_terminal([*COMMAND, str(path)], rows=rows, columns=columns) as terminal:
        assert terminal.read_to_the_end() == 1
    check_screen(terminal)
    table = final_table(terminal)
    rows_of = {
        row[2]: row
        for row in (re.match(r" +(\d+)  (\S+) +(\w+) +(\d+\.\d\d)  (.*)", line) for line in table)
        if row
    }
    assert {name: row[3] for name, row in rows_of.items()} == {
        "long": "completed",
        "evil": "completed",
        "evil_error": "failed",
        "foreign": "completed",
        "well": "completed",
    }
    assert rows_of["long"][5].endswith("…")
    assert rows_of["well"][5] == "well"
    assert r"\x1b[31mred\x1b[0m \x1b]0;title\x07" in rows_of["evil"][5]
    assert r"ValueError: \x1b[31mred" in rows_of["evil_error"][5]
    if columns == 200:
        assert r"\x9b2J \x7f \u202egnp.exe [bold]markup[/bold] :warning:" in rows_of["evil"][5]
        assert r"\x1b[2J\x1b[H [red]x[/] \u2066hidden" in rows_of["evil_error"][5]
    assert "--output DIR or --json" in terminal.screen.text
    assert table[-1].startswith("4 completed, 1 failed in ")


def test_long_names_are_whole_beside_long_answers(tmp_path: Path) -> None:
    name = "-".join(f"part{number}" for number in range(12))
    path = fleet(tmp_path, "long")
    path.write_text(path.read_text().replace('name = "long"', f'name = "{name}"'))
    with on_a_terminal([*COMMAND, str(path)]) as terminal:
        assert terminal.read_to_the_end() == 0
    check_screen(terminal)
    _, *rows = final_table(terminal)
    width = rows[0].index("  completed") - 7
    assert "".join(row[7 : 7 + width].strip() for row in rows[:4]).startswith(name)


def test_in_a_narrow_terminal_answers_have_lines_of_their_own(tmp_path: Path) -> None:
    with on_a_terminal([*COMMAND, str(fleet(tmp_path, "well", "long"))], columns=48) as terminal:
        assert terminal.read_to_the_end() == 0
    assert terminal.screen.strange == []
    table = "\n".join(final_table(terminal))
    assert re.search(r"1  well +completed +\d\.\d\d\n +well\n", table)
    assert re.search(r"2  long +completed +\d\.\d\d\n +word word .*…\n", table)


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (50, 200)])
def test_two_thousand_agents_fit_the_screen_and_are_counted(tmp_path: Path, rows: int, columns: int) -> None:
    path = fleet(tmp_path, "wait_for_go", pool="max_concurrent = 2000", extra="count = 2000")
    with on_a_terminal([*COMMAND, str(path)], rows=rows, columns=columns) as terminal:
        terminal.read_until(
            lambda text: re.search(r"2,000 agents: 2,000 reasoning\n", text) and "dead letters" in text
        )
        assert len(terminal.screen.lines) <= rows
        hidden = re.search(r"^ +([\d,]+) more: [\d,]+ reasoning$", terminal.screen.text, re.MULTILINE)
        assert hidden is not None
        shown = len(re.findall(r"^ +\d+  wait_for_go-\d+ ", terminal.screen.text, re.MULTILINE))
        assert shown + int(hidden[1].replace(",", "")) == 2000
        (tmp_path / "go").touch()
        assert terminal.read_to_the_end() == 0
    check_screen(terminal)
    table = final_table(terminal)
    assert len(table) < 50
    assert "… and 1,960 completed not shown: --output DIR or --json has them all" in table
    assert table[-1].startswith("2,000 completed in ")


def test_the_names_of_agents_that_were_not_started_are_few(tmp_path: Path) -> None:
    path = fleet(tmp_path, "wait_for_go", pool="max_concurrent = 1", extra="count = 2000")
    with on_a_terminal([*COMMAND, str(path)]) as terminal:
        terminal.read_until(lambda text: "wait_for_go-1 " in text)
        terminal.process.send_signal(signal.SIGTERM)
        terminal.read_until(lambda text: "no more agents start" in text)
        (tmp_path / "go").touch()
        assert terminal.read_to_the_end() == 143
    assert re.search(
        r"not started: wait_for_go-2, wait_for_go-3, .* and 1,989 more",
        terminal.screen.text.replace("\n", ""),
    )
    assert len(terminal.screen.lines) < 30


def test_a_terminal_that_is_closed_loses_no_answer_of_what_is_at_work(tmp_path: Path) -> None:
    path = fleet(tmp_path, "wait_for_go")
    out = tmp_path / "out"
    with on_a_terminal([*COMMAND, str(path), "--output", str(out)]) as terminal:
        terminal.read_until(lambda text: "wait_for_go" in text)
        terminal.close()
        # Its process is told by the kernel only if the terminal is its own; that it is not, here.
        terminal.process.send_signal(signal.SIGHUP)
        (tmp_path / "go").touch()
        assert terminal.process.wait(timeout=60) in (1, 129)  # there is nobody to print to
    assert (out / "1-wait_for_go.txt").read_text() == "gone"


def test_the_live_table_follows_the_size_of_the_terminal(tmp_path: Path) -> None:
    path = fleet(tmp_path, "wait_for_go", pool="max_concurrent = 60", extra="count = 60")
    with on_a_terminal([*COMMAND, str(path)], rows=50, columns=200) as terminal:
        terminal.read_until(lambda text: "wait_for_go-40 " in text and "0 dead letters" in text)
        for rows, columns in ((24, 80), (10, 40), (40, 120)):
            terminal.resize(rows, columns)
            # The frame after the first one of this size is whole, whatever the change left behind.
            terminal.read_until(lambda text: text.count("60 agents:") >= 1)
            terminal.resize(rows, columns)
            terminal.read_until(lambda text: re.search(r"60 agents: [\s\S]*in 60 slots", text))
            assert terminal.screen.wrapped == 0
            assert len(terminal.screen.lines) <= rows
        (tmp_path / "go").touch()
        assert terminal.read_to_the_end() == 0


PARENT_AND_CHILD = '''
from pathlib import Path

import trio

from agentpool import Completion, ToolCall

HERE = Path(__file__).parent


def answer(request):
    if len(request.messages) > 1:
        return "over"
    if "spawn_agent" in [tool.name for tool in request.tools]:
        return Completion(tool_calls=[ToolCall("1", "spawn_agent", {"query": "x", "name": "child"})])
    return Completion(tool_calls=[ToolCall("1", "look_around")])


async def look_around() -> str:
    """Look around."""
    while not (HERE / "go").exists():
        await trio.sleep(0.01)
    return "gone"
'''


def test_the_live_table_tells_what_agents_wait_for(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PARENT_AND_CHILD)
    path = tmp_path / "fleet.toml"
    path.write_text(
        """
        [[agents]]
        name = "asker"
        query = "?"
        [agents.manifest]
        capabilities = ["spawn"]
        tools = ["own:look_around"]
        script.function = "own:answer"
        """
    )
    with on_a_terminal([*COMMAND, str(path)]) as terminal:
        terminal.read_until(lambda text: re.search(r"1  asker +waits for child", text))
        terminal.read_until(lambda text: re.search(r"2  └─child +calls look_around", text))
        (tmp_path / "go").touch()
        assert terminal.read_to_the_end() == 0
    check_screen(terminal)


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with on_a_terminal([*COMMAND, str(fleet(tmp_path, "well"))], environment=environment) as terminal:
        assert terminal.read_to_the_end() == 0
    assert b"well: started as agent 1" in terminal.raw
    assert b"\x1b" not in terminal.raw


def test_no_color_is_obeyed(tmp_path: Path) -> None:
    path = fleet(tmp_path, "well", "evil_error")
    with on_a_terminal([*COMMAND, str(path)], environment={"NO_COLOR": "1"}) as terminal:
        assert terminal.read_to_the_end() == 1
    assert not re.search(rb"\x1b\[[0-9;]*3[0-7]m", terminal.raw)
    assert terminal.screen.strange == []


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_the_terminals_encoding_lacks_is_replaced(tmp_path: Path, encoding: str) -> None:
    path = fleet(tmp_path, "foreign", "long")
    environment = {"PYTHONIOENCODING": encoding}
    with on_a_terminal(
        [*COMMAND, str(path)], encoding="latin-1", environment=environment, columns=100
    ) as terminal:
        assert terminal.read_to_the_end() == 0
    check_screen(terminal)
    expected = (
        "\\u65e5\\u672c\\u8a9e na\xefve" if encoding == "latin-1" else "\\u65e5\\u672c\\u8a9e na\\xefve"
    )
    assert expected in terminal.screen.text
    assert re.search(r"word w?\.\.\.$", terminal.screen.text, re.MULTILINE)


def test_a_reader_of_standard_output_that_has_gone_makes_the_exit_code_1_beside_a_live_table(
    tmp_path: Path,
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with on_a_terminal([*COMMAND, str(fleet(tmp_path, "well"))], stdout=writing) as terminal:
            assert terminal.read_to_the_end() == 1
    finally:
        os.close(writing)
    for word in ("Traceback", "Exception ignored", "BrokenPipe"):
        assert word not in terminal.screen.text


def test_a_terminal_of_no_size_is_no_error(tmp_path: Path) -> None:
    with on_a_terminal([*COMMAND, str(fleet(tmp_path, "well", "long"))], rows=0, columns=0) as terminal:
        terminal.screen.columns, terminal.screen.rows = 80, 24
        assert terminal.read_to_the_end() == 0


def test_json_on_a_terminal_keeps_what_json_keeps(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, str(fleet(tmp_path, "evil")), "--json"], capture_output=True, timeout=60, check=False
    )
    (agent,) = json.loads(done.stdout)["agents"]
    assert agent["text"].startswith("\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J")
    assert done.stdout.isascii()
