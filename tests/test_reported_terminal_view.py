"""What users of comparable live views have reported, each tried on a real terminal or pipe.

The comments name the reports. Progress displays, agents' command lines and build tools fail in the same ways.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("cyclopts")
pytest.importorskip("fcntl")
pytest.importorskip("pyte")

import pyte
import trio
import trio.testing
from terminal_kit import Terminal, on_a_terminal

from agentpool import AgentContext, open_agent_pool
from agentpool._core import events as ev
from agentpool.cli._drivers import Drivers
from agentpool.cli._view import PlainView

pytestmark = pytest.mark.processes

AGENTS = r'''
"""What the agents of these tests do in a model's place."""

import logging
import sys
import time
from pathlib import Path

import trio

from agentpool import Completion, TokenUsage, ToolCall

HERE = Path(__file__).parent
USED = TokenUsage(900, 100, cost_usd=0.01)
GONE = trio.Event()
LOOKING = []


async def until_go():
    LOOKING.append(1)
    if len(LOOKING) == 1:  # one of them looks for the file, the others wait for it
        while not (HERE / "go").exists():
            await trio.sleep(0.01)
        GONE.set()
    await GONE.wait()


async def waits(request):
    await until_go()
    return Completion("well", usage=USED)


async def walks(request):
    await until_go()
    for _ in range(200):  # for many frames
        await trio.sleep(0.01)
    return "walked"


async def blocks(request):
    print("before it blocks", file=sys.stderr)
    while not (HERE / "go").exists():
        time.sleep(0.01)
    return "blocked"


async def spawns(request):
    if len(request.messages) > 1:
        await until_go()
        return Completion("over", usage=USED)
    if "spawn_agent" not in [tool.name for tool in request.tools]:
        await until_go()
        return Completion("looked", usage=USED)
    names = ["first", "second", "third"]
    calls = [ToolCall(name, "spawn_agent", {"query": "x", "name": name}) for name in names]
    return Completion("I ask others.", tool_calls=calls, usage=USED)


async def prints(request):
    for number in range(20_000):
        print(f"line {number}", file=sys.stderr)
    (HERE / "printed").touch()
    await until_go()
    return "printed"


async def says(request):
    print("no end of line", end="", file=sys.stderr, flush=True)
    logging.getLogger("my.tool").warning("a warning of a tool")
    print("\x1b[2J\x1b[H and more", file=sys.stderr)
    await until_go()
    return "said"
'''
COMMAND = [sys.executable, "-m", "agentpool", "run"]
FRAME = re.compile(r"^\d[\d,]* agents?: ", re.MULTILINE)


def fleet(folder: Path, function: str, *names: str, count: int = 1, rest: str = "") -> list[str]:
    (folder / "agents.py").write_text(AGENTS, "utf-8")
    entries = [
        f'[[agents]]\nname = "{name}"\nquery = "?"\ncount = {count}\n'
        f'[agents.manifest]\nscript.function = "agents:{function}"\n{rest}\n'
        for name in names or [function]
    ]
    path = folder / "fleet.toml"
    path.write_text("[pool]\nmax_concurrent = 5000\n" + "\n".join(entries), "utf-8")
    return [*COMMAND, str(path)]


def go(folder: Path) -> None:
    (folder / "go").touch()


def seen_by_a_person(terminal: Terminal, rows: int, columns: int) -> pyte.HistoryScreen:
    """Return what another terminal shows that got the same bytes; it knows letters of two columns."""
    screen = pyte.HistoryScreen(columns, rows, history=100_000)
    pyte.ByteStream(screen).feed(terminal.raw)
    return screen


def lines_of(screen: pyte.HistoryScreen) -> list[str]:
    return [line.rstrip() for line in screen.display]


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (50, 200), (6, 80)])
def test_more_agents_than_lines_scroll_nothing_away(tmp_path: Path, rows: int, columns: int) -> None:
    # anthropics/claude-code#10772, docker/compose#10256, docker/compose#9500
    with on_a_terminal(fleet(tmp_path, "waits", count=1000), rows=rows, columns=columns) as terminal:
        terminal.read_until(lambda text: "1,000 agents: 1,000 reasoning" in text, 60)
        frames = terminal.raw.count(b"reasoning\r\n")
        terminal.read_until(lambda _: terminal.raw.count(b"1,000 reasoning") > frames + 3, 60)
        screen = seen_by_a_person(terminal, rows, columns)
        assert len(screen.history.top) == 0
        text = "\n".join(lines_of(screen))
        assert len(FRAME.findall(text)) == 1
        assert re.search(r"^ +\d+ more: \d+ reasoning", text, re.MULTILINE)
        go(tmp_path)
        assert terminal.read_to_the_end() == 0


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (50, 200)])
def test_a_tree_of_more_agents_than_lines_is_folded_below_each_parent(
    tmp_path: Path, rows: int, columns: int
) -> None:
    # docker/compose#10256, with agents that spawn agents
    command = fleet(tmp_path, "spawns", "boss", count=250, rest='capabilities = ["spawn"]')
    with on_a_terminal(command, rows=rows, columns=columns) as terminal:
        terminal.read_until(
            lambda text: "1,000 agents: 750 reasoning, 250 waiting; 250.0k tokens" in text, 90
        )
        frames = terminal.raw.count(b"1,000 agents: ")
        terminal.read_until(lambda _: terminal.raw.count(b"1,000 agents: ") > frames + 1, 60)
        screen = seen_by_a_person(terminal, rows, columns)
        go(tmp_path)
        assert terminal.read_to_the_end() == 0
    text = "\n".join(lines_of(screen))
    assert len(screen.history.top) == 0
    assert re.search(r"^ +\d+  boss-\d+ +waits for ", text, re.MULTILINE)
    assert re.search(r"└─(first|second|third|\d more: \d reasoning)", text)
    shown = len(re.findall(r"^ +\d+  (boss|[├└]─)", text, re.MULTILINE))
    folded = sum(int(number.replace(",", "")) for number in re.findall(r"([\d,]+) more: ", text))
    assert shown + folded == 1000


def test_a_terminal_that_is_resized_while_agents_work_shows_one_frame_of_the_new_size(tmp_path: Path) -> None:
    # google-gemini/gemini-cli#6410, Textualize/rich#1024
    with on_a_terminal(fleet(tmp_path, "waits", count=100), rows=40, columns=120) as terminal:
        terminal.read_until(lambda text: "100 agents: 100 reasoning" in text, 60)
        terminal.resize(24, 200)
        terminal.read_until(lambda text: "in/out" in text and "100 agents" in text, 60)
        terminal.resize(24, 200)  # the frame before it was one of the old size, in part
        terminal.read_until(lambda text: len(FRAME.findall(text)) >= 1, 60)
        frames = terminal.raw.count(b"100 reasoning")
        terminal.read_until(lambda _: terminal.raw.count(b"100 reasoning") > frames + 3, 60)
        assert len(FRAME.findall(terminal.screen.text)) == 1
        assert len(terminal.screen.lines) <= 24
        go(tmp_path)
        assert terminal.read_to_the_end() == 0


def test_what_stood_on_the_terminal_before_the_run_is_still_there(tmp_path: Path) -> None:
    # anthropics/claude-code#41965
    command = fleet(tmp_path, "waits", count=30)
    shell = ["sh", "-c", f"seq 1000 1100; exec {' '.join(command)}"]
    with on_a_terminal(shell) as terminal:
        terminal.read_until(lambda text: "30 agents: 30 reasoning" in text, 60)
        go(tmp_path)
        assert terminal.read_to_the_end() == 0
    for sequence in (b"\x1b[2J", b"\x1b[3J", b"\x1b[H", b"\x1b[?1049h", b"\x1b[?47h", b"\x1bc"):
        assert sequence not in terminal.raw
    screen = seen_by_a_person(terminal, 24, 80)
    above = ["".join(line[x].data for x in range(80)).rstrip() for line in screen.history.top]
    assert [line for line in [*above, *lines_of(screen)] if line.isdecimal()] == [
        str(number) for number in range(1000, 1101)
    ]


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"TERM": "xterm", "CI": "true"}])
def test_a_log_has_lines_and_no_sequences(tmp_path: Path, environment: Mapping[str, str]) -> None:
    # docker/compose#3770, docker/compose#4780, docker-archive/compose-cli#1853, artsy/hokusai#354
    go(tmp_path)
    done = subprocess.run(
        fleet(tmp_path, "waits", count=1000),
        capture_output=True,
        timeout=100,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0
    told = done.stderr.decode().splitlines()
    assert "\x1b" not in done.stderr.decode()
    assert "\r" not in done.stderr.decode()
    assert "waits-1: started as agent 1" in told
    assert "1,000 completed so far" in told
    assert len(told) < 250


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGQUIT])
def test_the_cursor_is_there_whatever_ends_the_program(tmp_path: Path, number: signal.Signals) -> None:
    # manrajgrover/halo#41, p-e-w/ternimal#14, briandowns/spinner#122
    with on_a_terminal(fleet(tmp_path, "waits", count=30)) as terminal:
        terminal.read_until(lambda text: "30 agents: 30 reasoning" in text, 60)
        terminal.process.send_signal(number)
        go(tmp_path)
        assert terminal.read_to_the_end() != 0
    assert not seen_by_a_person(terminal, 24, 80).cursor.hidden


WIDE = "日本語の係"
EMOJI = "👩‍🚀 crew 🖼️"


@pytest.mark.parametrize("columns", [80, 120])
def test_letters_of_two_columns_move_no_column_and_break_no_line(tmp_path: Path, columns: int) -> None:
    # Mpdreamz/shellprogressbar#52, ctongfei/progressbar#75, console-rs/indicatif#611, craigfe/progress#55
    command = fleet(tmp_path, "waits", WIDE, WIDE + "長い名前" * 9, "plain", "한국어")
    environment = {"PYTHONUTF8": "1"}
    with on_a_terminal(command, columns=columns, environment=environment) as terminal:
        terminal.read_until(lambda text: "4 agents: 4 reasoning" in text, 60)
        terminal.read_until(lambda text: "dead letters" in text, 60)
        lines = lines_of(seen_by_a_person(terminal, 24, columns))
        go(tmp_path)
        assert terminal.read_to_the_end() == 0
    (heading,) = (number for number, line in enumerate(lines) if line.startswith("id "))
    rows = [line for line in lines[heading:] if re.match(r" \d  \S", line)]
    assert len(rows) == 4
    assert any(WIDE in row.replace(" ", "") for row in rows)
    doing = lines[heading].index("doing")
    # The screen gives a wide letter two places, of which the second is empty.
    for row in rows:
        padded = "".join(letter + ("\0" if 0x2E80 <= ord(letter) < 0xFFFF else "") for letter in row)
        assert padded[doing:].startswith("reasoning"), row


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
)
def test_a_terminal_without_box_lines_has_a_tree_all_the_same(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    # AnswerDotAI/fastprogress#37, Rockhopper-Technologies/enlighten#13, rsalmei/alive-progress#15,
    # mcdonc/klangk#861
    if environment.get("LC_ALL"):  # Python makes UTF-8 of the C locale, unless it is told not to
        environment = {**environment, "PYTHONCOERCECLOCALE": "0"}
    command = fleet(tmp_path, "spawns", "boss", rest='capabilities = ["spawn"]')
    with on_a_terminal(command, encoding="latin-1", environment=environment) as terminal:
        terminal.read_until(lambda text: re.search(r"^ +\d  \|-first +reasoning", text, re.MULTILINE), 60)
        terminal.read_until(lambda text: re.search(r"^ +\d  `-third +reasoning", text, re.MULTILINE), 60)
        go(tmp_path)
        assert terminal.read_to_the_end() == 0
    assert terminal.screen.strange == []
    assert terminal.raw.isascii()


def test_a_hundred_thousand_prints_do_not_cost_a_hundred_thousand_frames(tmp_path: Path) -> None:
    # kotet/progress#47, wagoodman/bashful#17
    with on_a_terminal(fleet(tmp_path, "prints", count=5)) as terminal:
        began = time.monotonic()
        terminal.read_until(lambda text: "5 agents: " in text and (tmp_path / "printed").exists(), 100)
        go(tmp_path)
        assert terminal.read_to_the_end() == 0
        lasted = time.monotonic() - began
    frames = terminal.raw.count(b"5 agents: ")
    # Each print that waits for the terminal may draw once more; with a frame for each there were 100,000.
    assert frames < 20 * lasted + 50
    text = terminal.raw.replace(b"\r", b"")
    assert text.count(b"\nline 19999\n") >= 4
    assert text.count(b"line 12345\n") == 5


def test_a_terminal_that_was_stopped_stops_no_agent(tmp_path: Path) -> None:
    # uber-archive/cpustat#2, microsoft/vscode#84927, vscodenpa/testissues#13099
    out = tmp_path / "out"
    command = [*fleet(tmp_path, "walks", "one"), "--output", str(out)]
    with on_a_terminal(command) as terminal:
        terminal.read_until(lambda text: "1 agent: 1 reasoning" in text, 60)
        terminal.type(CTRL_S)
        go(tmp_path)
        end = time.monotonic() + 60
        while not (out / "1-one.txt").exists():
            assert time.monotonic() < end, "the agent was stopped too"
            time.sleep(0.05)
        terminal.type(CTRL_Q)
        assert terminal.read_to_the_end() == 0
    assert "1 completed" in terminal.screen.text


CTRL_S, CTRL_Q = "\x13", "\x11"


async def test_a_log_tells_that_an_overnight_run_lives(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    # pulumi/pulumi#794, pulumi/pulumi#1602, dart-lang/build#641
    view = PlainView()

    async def steps(ctx: AgentContext) -> None:
        for number in range(8 * 360):
            await trio.sleep(10)
            view.take(ev.PhaseChanged(number, trio.current_time(), ctx.id, 0, phase="act", iteration=number))

    async with open_agent_pool(max_concurrent=1) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(view.keep_drawing, pool, Drivers.__new__(Drivers))
        view.take(ev.AgentSpawned(1, trio.current_time(), 1, 0, name="night"))
        handle = await pool.spawn(steps, name="night")
        await handle.wait()
        nursery.cancel_scope.cancel()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("1 agent: 1 ")
    assert "; 30s so far" in lines[0]
    assert 120 < len(lines) < 160  # each 30 seconds at first, each five minutes in the end
    assert "; 7h5" in lines[-1]


async def test_a_log_of_a_run_that_hangs_is_told_so_rarely(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    # facebook/rocksdb#9201: what is printed without progress hides that something hangs
    view = PlainView()
    async with open_agent_pool(max_concurrent=1) as pool:
        view.take(ev.AgentSpawned(1, trio.current_time(), 1, 0, name="hangs"))
        with trio.move_on_after(3600):
            await view.keep_drawing(pool, Drivers.__new__(Drivers))
    lines = capsys.readouterr().err.splitlines()
    assert 10 <= len(lines) <= 13


def test_what_agents_print_and_log_stands_above_the_tree(tmp_path: Path) -> None:
    # sashiko-dev/sashiko#501, notatallshaw/nab#712, jina-ai/serve#3500, sourcefrog/conserve#52
    with on_a_terminal(fleet(tmp_path, "says")) as terminal:
        terminal.read_until(lambda text: "a warning of a tool" in text and "says " in text, 60)
        terminal.read_until(lambda text: "1 agent: 1 reasoning" in text and "and more" in text, 60)
        lines = lines_of(seen_by_a_person(terminal, 24, 80))
        go(tmp_path)
        assert terminal.read_to_the_end() == 0
    assert terminal.screen.strange == []
    places = [
        next(number for number, line in enumerate(lines) if text in line)
        for text in ("a warning of a tool", "and more", "id ", "1 agent: 1 reasoning")
    ]
    assert places == sorted(places)
    assert len(FRAME.findall("\n".join(lines))) == 1


def test_what_an_agent_prints_before_it_blocks_everything_is_seen_while_it_does(tmp_path: Path) -> None:
    # ruarai/CompilePal#183
    with on_a_terminal(fleet(tmp_path, "blocks")) as terminal:
        terminal.read_until(lambda text: "before it blocks" in text, 60)
        go(tmp_path)
        assert terminal.read_to_the_end() == 0
    assert terminal.screen.strange == []


@pytest.mark.parametrize(
    ("rows", "columns"), [(0, 0), (1, 1), (3, 20), (1, 200), (500, 1), (24, 3), (2, 80), (24, 12)]
)
def test_terminals_of_strange_sizes_are_no_error(tmp_path: Path, rows: int, columns: int) -> None:
    # evmar/n2#63, curl/curl#4818, nushell/reedline#1055, sympy/sympy#8482
    with on_a_terminal(fleet(tmp_path, "waits", count=30), rows=rows, columns=columns) as terminal:
        terminal.screen.columns, terminal.screen.rows = columns or 80, rows or 24
        shown = "…" if columns in (1, 3) else "30 a"
        terminal.read_until(lambda text: shown in text, 60)
        go(tmp_path)
        assert terminal.read_to_the_end() == 0
    assert b"Traceback" not in terminal.raw


def test_without_colours_everything_is_told_in_words(tmp_path: Path) -> None:
    # ducaale/xh#102, ionescu007/SpecuCheck#17
    environment = {"NO_COLOR": "1", "PYTHONUTF8": "1"}
    command = fleet(tmp_path, "spawns", "boss", rest='capabilities = ["spawn"]')
    with on_a_terminal(command, environment=environment, columns=100) as terminal:
        terminal.read_until(lambda text: re.search(r"1  boss +waits for \S+ and \S+ and 1 more", text), 60)
        terminal.read_until(lambda text: re.search(r"\d  └─third +reasoning", text), 60)
        go(tmp_path)
        assert terminal.read_to_the_end() == 0
    assert not re.search(rb"\x1b\[[0-9;]*(3[0-7]|9[0-7]|4[0-7]|38)[0-9;]*m", terminal.raw)


@pytest.mark.parametrize("environment", [{"TTY_INTERACTIVE": "0"}, {"TTY_COMPATIBLE": "0"}, {"TERM": "dumb"}])
def test_a_terminal_that_is_said_to_be_none_gets_lines_and_no_frames(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    # docker-archive/compose-cli#1598: frames that are printed one below the other
    go(tmp_path)
    with on_a_terminal(fleet(tmp_path, "waits"), environment=environment) as terminal:
        assert terminal.read_to_the_end() == 0
    assert b"waits: started as agent 1" in terminal.raw
    assert b"\x1b[2K" not in terminal.raw
    assert not FRAME.search(terminal.screen.text)


def test_a_pipe_in_the_middle_gets_the_report_and_the_terminal_the_tree(tmp_path: Path) -> None:
    # docker/compose#13074, docker/compose#4780
    report = tmp_path / "report.txt"
    with (
        report.open("wb") as file,
        on_a_terminal(fleet(tmp_path, "waits", count=3), stdout=file.fileno()) as terminal,
    ):
        terminal.read_until(lambda text: "3 agents: 3 reasoning" in text, 60)
        go(tmp_path)
        assert terminal.read_to_the_end() == 0
    assert "3 completed" in report.read_text()
    assert b"\x1b" not in report.read_bytes()
