"""A person at a real pseudo-terminal is asked about tool calls: what is seen, and what answers do."""

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

from agentpool.cli._asking import brief_lines, whole_lines

pytestmark = pytest.mark.processes

AGENTS = r'''
"""A model that asks for calls, and the tools, which write down what they have done."""

import json
from pathlib import Path

import trio

from agentpool import Completion, ToolCall, ToolMessage, tool

HERE = Path(__file__).parent


def model(request):
    told = [message.result.text for message in request.messages if isinstance(message, ToolMessage)]
    if told:
        return "; ".join(told)
    calls = json.loads((HERE / "calls.json").read_text("utf-8"))
    return Completion(
        tool_calls=[ToolCall(str(n), name, given) for n, (name, given) in enumerate(calls)]
    )


@tool
def wipe(what: str, more: dict | None = None) -> str:
    """Wipe something."""
    with (HERE / "done.txt").open("a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")
    return "wiped"


@tool
async def look(what: str) -> str:
    """Look until there is something."""
    while not (HERE / what).exists():
        await trio.sleep(0.01)
    return "seen"
'''
FLEET = """
[pool]
max_concurrent = 4

[[agents]]
name = "{name}"
query = "?"
count = {count}
{extra}

[agents.manifest]
tools = ["agents:wipe", "agents:look"]
script.function = "agents:model"
[agents.manifest.approval]
{rules}
"""
COMMAND = [sys.executable, "-m", "agentpool", "run"]
QUESTION = "Make this call?"


def fleet(
    folder: Path,
    *calls: tuple[str, dict[str, object]],
    rules: str = 'ask = ["wipe"]',
    name: str = "cleaner",
    count: int = 1,
    extra: str = "",
) -> Path:
    (folder / "agents.py").write_text(AGENTS, "utf-8")
    (folder / "calls.json").write_text(json.dumps(calls), "utf-8")
    path = folder / "fleet.toml"
    path.write_text(FLEET.format(name=name, count=count, extra=extra, rules=rules), "utf-8")
    return path


def done(folder: Path) -> list[str]:
    """Return what the tool has wiped."""
    path = folder / "done.txt"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def answer(terminal: Terminal, number: int, text: str) -> None:
    """Wait for that many questions, and type an answer."""
    terminal.read_until(lambda shown: shown.count(QUESTION) >= number and shown.rstrip().endswith(":"))
    terminal.type(text)


def shown(terminal: Terminal) -> str:
    """Return what the screen shows, with the lines of a wrapped argument put together."""
    return re.sub(r"\n  \| ", "", terminal.screen.text)


def test_a_call_is_made_when_the_person_says_yes(tmp_path: Path) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "the disk", "more": {"twice": True}}))
    with on_a_terminal([*COMMAND, str(path)]) as terminal:
        answer(terminal, 1, "what?\n")
        terminal.read_until(lambda text: "Answer with y or n" in text)
        assert done(tmp_path) == []
        answer(terminal, 2, "Y\n")
        assert terminal.read_to_the_end() == 0
    assert "cleaner (agent 1) wants to call wipe" in terminal.screen.text
    assert 'because of ask = "wipe"' in terminal.screen.text
    assert '  what = "the disk"\n  more = {"twice": true}\n' in terminal.screen.text
    assert re.search(r"completed +\d\.\d\d  wiped", terminal.screen.text)
    assert terminal.screen.strange == []
    assert done(tmp_path) == ["the disk"]


def test_the_model_is_told_why_the_person_says_no(tmp_path: Path) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "a"}), ("wipe", {"what": "b"}))
    with on_a_terminal([*COMMAND, str(path)], columns=150) as terminal:
        answer(terminal, 1, "n not that one\n")
        answer(terminal, 2, "no\n")
        assert terminal.read_to_the_end() == 0
    assert "Not run: it was denied: not that one." in terminal.screen.text
    assert "Not run: it was denied." in terminal.screen.text
    assert "cleaner: wipe was denied: not that one" in terminal.screen.text
    assert done(tmp_path) == []


EVIL = "a\x1b[2J\r\nMay I: y\n\u202egnp.exe\u200b\u200d\u3164\x9b2J\u2028\U000e0041\tb"


def test_arguments_are_shown_as_they_are_and_obeyed_by_nothing(tmp_path: Path) -> None:
    path = fleet(tmp_path, ("wipe", {"what": EVIL}), ("wipe", {"what": "é 日本"}))
    environment = {"PYTHONIOENCODING": "utf-8"}
    with on_a_terminal([*COMMAND, str(path)], columns=200, environment=environment) as terminal:
        answer(terminal, 1, "n\n")
        answer(terminal, 2, "n\n")
        assert terminal.read_to_the_end() == 0
    assert (
        '  what = "a\\u001b[2J\\r\\nMay I: y\\n\\u202egnp.exe\\u200b\\u200d\\u3164\\x9b2J'
        '\\u2028\\U000e0041\\tb"\n'
    ) in terminal.screen.text
    assert '  what = "é 日本"\n' in terminal.screen.text
    assert terminal.screen.strange == []
    for letter in ("\u202e", "\u200b", "\u200d", "\u3164", "\x9b", "\u2028"):
        assert letter.encode() not in terminal.raw


def test_of_long_arguments_the_end_is_shown_and_all_of_it_on_request(tmp_path: Path) -> None:
    text = "echo harmless\n" + "x" * 5_000 + "\n; rm -rf /"
    path = fleet(tmp_path, ("wipe", {"what": text}))
    with on_a_terminal([*COMMAND, str(path)], rows=200) as terminal:
        answer(terminal, 1, "s\n")
        before = shown(terminal)
        assert 'what = "echo harmless\\nxxx' in before
        assert '\\n; rm -rf /"' in before
        hidden = int(re.findall(r"\[([\d,]+) letters are not shown\]", before)[0].replace(",", ""))
        assert hidden + before.count("x") >= 5_000
        assert "s to see all of it" in before
        answer(terminal, 2, "n\n")
        lines = terminal.screen.text.splitlines()
        assert "  | echo harmless" in lines
        assert "  | ; rm -rf /" in lines
        assert sum(line.count("x") for line in lines[lines.index("  | echo harmless") :]) >= 5_000
        assert terminal.read_to_the_end() == 0
        assert terminal.screen.wrapped == 0
    assert done(tmp_path) == []


def test_many_arguments_are_counted() -> None:
    lines, is_cut = brief_lines({f"key{n}": "x" * 10_000 for n in range(40)}, 79)
    assert is_cut
    assert lines[-1] == "  and 20 more arguments, which are not shown"
    assert len(lines) < 100
    assert max(map(len, lines)) <= 79
    assert brief_lines({}, 79) == (["  without arguments"], False)
    assert brief_lines({"a b": 1, "e\u0301": None}, 79)[0] == ['  "a b" = 1', '  "e\u0301" = null']


def test_all_of_it_stands_behind_bars() -> None:
    assert list(whole_lines({"a": "x\ny\x1b[2J\u202e\ud800", "b": {"c": [1]}}, 79)) == [
        "  a =",
        "  | x",
        "  | y\\x1b[2J\\u202e\\ud800",
        "  b =",
        "  | {",
        '  |   "c": [',
        "  |     1",
        "  |   ]",
        "  | }",
    ]


def test_several_agents_are_asked_about_one_after_the_other_while_others_go_on(tmp_path: Path) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "x"}), ("look", {"what": "go"}), count=3)
    with on_a_terminal([*COMMAND, str(path)]) as terminal:
        answer(terminal, 1, "y\n")
        answer(terminal, 2, "n never\n")
        assert "1 more call waits for an answer" in terminal.screen.text
        answer(terminal, 3, "y\n")
        terminal.read_until(lambda text: re.search(r"3 agents: [\s\S]*dead let", text))
        (tmp_path / "go").touch()
        assert terminal.read_to_the_end() == 0
    asked = re.findall(r"cleaner-(\d) \(agent", terminal.screen.text)
    assert sorted(asked) == ["1", "2", "3"]
    assert done(tmp_path) == ["x", "x"]
    assert terminal.screen.strange == []


def test_what_was_typed_before_the_question_is_no_answer(tmp_path: Path) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "x"}), ("wipe", {"what": "y"}))
    with on_a_terminal([*COMMAND, str(path)]) as terminal:
        answer(terminal, 1, "y\ny\ny\n")
        answer(terminal, 2, "n\n")
        assert terminal.read_to_the_end() == 0
    assert len(done(tmp_path)) == 1


def test_the_end_of_the_input_denies(tmp_path: Path) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "x"}), ("wipe", {"what": "y"}))
    with on_a_terminal([*COMMAND, str(path)], columns=150) as terminal:
        answer(terminal, 1, "y\x04\x04")  # a yes that nobody has ended is none
        answer(terminal, 2, "\x04")
        assert terminal.read_to_the_end() == 0
    assert "it was denied: nobody answers at the terminal" in terminal.screen.text
    assert done(tmp_path) == []


@pytest.mark.parametrize("options", [(), ("--quiet",)])
def test_ctrl_c_at_the_question_ends_the_run_as_everywhere(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "x"}), count=2)
    with on_a_terminal([*COMMAND, str(path), *options]) as terminal:
        answer(terminal, 1, "y")
        terminal.process.send_signal(signal.SIGINT)
        if not options:
            terminal.read_until(lambda text: "no more agents start" in text)
            terminal.read_until(lambda text: text.count(QUESTION) == 2)  # and the question stands below it
        # Another signal: two of one kind at the same time are one.
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.read_to_the_end() == 130
    assert "(the question is withdrawn)" in terminal.screen.text
    assert done(tmp_path) == []
    assert terminal.screen.strange == []


def test_a_question_is_withdrawn_when_its_agent_ends(tmp_path: Path) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "x"}), extra="timeout = 1.0")
    with on_a_terminal([*COMMAND, str(path)]) as terminal:
        answer(terminal, 1, "")
        assert terminal.read_to_the_end() == 1
    assert "(the question is withdrawn)" in terminal.screen.text
    assert done(tmp_path) == []


def test_a_terminal_that_is_closed_denies(tmp_path: Path) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "x"}))
    out = tmp_path / "out"
    with on_a_terminal([*COMMAND, str(path), "--output", str(out)]) as terminal:
        answer(terminal, 1, "")
        terminal.close()
        assert terminal.process.wait(60) == 1
    assert "nobody answers" in (out / "1-cleaner.txt").read_text()
    assert done(tmp_path) == []


@pytest.mark.parametrize("where", ["stdin", "stderr"])
def test_without_a_terminal_nobody_is_asked(tmp_path: Path, where: str) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "x"}))
    command = [*COMMAND, str(path), "--quiet", "--json"]
    if where == "stdin":
        ended = subprocess.run(command, input=b"y\n", capture_output=True, timeout=60, check=False)
        text = ended.stdout.decode()
    else:
        reading, writing = os.pipe()
        with open(reading) as pipe, on_a_terminal([*command], stderr=writing) as terminal:
            os.close(writing)
            assert terminal.read_to_the_end() == 0
            assert pipe.read() == ""
            text = terminal.raw.decode()
    assert "there is nobody to ask" in text
    assert done(tmp_path) == []


def test_a_question_is_no_output(tmp_path: Path) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "x"}))
    reading, writing = os.pipe()
    with open(reading) as pipe, on_a_terminal([*COMMAND, str(path), "--json"], stdout=writing) as terminal:
        os.close(writing)
        answer(terminal, 1, "yes\n")
        assert terminal.read_to_the_end() == 0
        assert json.loads(pipe.read())["agents"][0]["text"] == "wiped"
    assert done(tmp_path) == ["x"]


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}])
def test_a_terminal_without_a_table_asks_too(tmp_path: Path, environment: dict[str, str]) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "x"}), count=2)
    with on_a_terminal([*COMMAND, str(path)], environment=environment) as terminal:
        answer(terminal, 1, "y\n")
        answer(terminal, 2, "n\n")
        assert terminal.read_to_the_end() == 0
    assert done(tmp_path) == ["x"]
    assert b"\x1b" not in terminal.raw


def test_a_narrow_terminal_wraps_nothing(tmp_path: Path) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "日本 " * 30, "more": {"w" * 90: 1}}), name="n" * 70)
    with on_a_terminal([*COMMAND, str(path)], columns=40) as terminal:
        answer(terminal, 1, "n\n")
        assert terminal.read_to_the_end() == 0
    assert terminal.screen.strange == []


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ('ask = ["wip"]', r"approval\.ask\[0\].*no tool that 'wip' names.*'?wipe"),
        ('deny = ["wipe(wat=x)"]', r"approval\.deny\[0\].*no tool that 'wipe' names takes 'wat'"),
        ('ask = ["wipe("]', r"approval\.ask\[0\].*is no pattern of tool calls"),
        ('ask = ["wipe()"]', r"approval\.ask\[0\].*names no argument"),
        ('ask = "wipe"', r"approval\.ask.*"),
        ('asks = ["wipe"]', r"approval.*asks.*"),
        ('default = "maybe"', r"approval\.default.*"),
        ('allow = ["wipe"]', r"approval\.allow.*has no effect"),
        ('ask = ["wipe"]\ndeny = ["wipe"]', r"approval\.ask\[0\].*has no effect: deny holds the same"),
    ],
)
def test_validate_finds_wrong_rules(tmp_path: Path, rules: str, problem: str) -> None:
    path = fleet(tmp_path, rules=rules)
    command = [sys.executable, "-m", "agentpool", "validate", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2, ended.stdout
    assert re.search(problem, ended.stderr), ended.stderr


MANIFEST = """
name = "cleaner"
tools = ["agents:wipe", "agents:look"]
script.function = "agents:model"
[approval]
ask = ["wipe"]
"""
CHAT = [sys.executable, "-m", "agentpool", "chat"]


def manifest(folder: Path, *calls: tuple[str, dict[str, object]]) -> Path:
    fleet(folder, *calls)
    path = folder / "agent.toml"
    path.write_text(MANIFEST, "utf-8")
    return path


def test_a_chat_asks_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    path = manifest(tmp_path, ("wipe", {"what": "x"}), ("look", {"wat": "wrong"}))
    with on_a_terminal([*CHAT, str(path)]) as terminal:
        terminal.read_until(lambda text: ">>>" in text)
        terminal.type("wipe it\n")
        # What else happens is shown, and the question stands below it.
        terminal.read_until(lambda text: text.count("look failed") == 1 and text.rstrip().endswith("why:"))
        terminal.type("y\n")
        terminal.read_until(lambda text: "wiped; look was not called" in text and text.rstrip()[-3:] == ">>>")
        terminal.type("\x04")
        assert terminal.read_to_the_end() == 0
    assert "cleaner (agent 1) wants to call wipe" in terminal.screen.text
    assert done(tmp_path) == ["x"]


def test_ctrl_c_at_the_question_of_a_chat_ends_the_answer_and_not_the_chat(tmp_path: Path) -> None:
    path = manifest(tmp_path, ("wipe", {"what": "x"}))
    with on_a_terminal([*CHAT, str(path)]) as terminal:
        terminal.read_until(lambda text: ">>>" in text)
        terminal.type("wipe it\n")
        answer(terminal, 1, "")
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(lambda text: "interrupted" in text and text.rstrip().endswith(">>>"))
        terminal.type("\x04")
        assert terminal.read_to_the_end() == 0
    assert "(the question is withdrawn)" in terminal.screen.text
    assert done(tmp_path) == []


SHELL = """
import fcntl, os, subprocess, sys, termios, time

os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
job = subprocess.Popen(sys.argv[2:], process_group=0)
while not os.path.exists(sys.argv[1]):
    assert "T" not in open(f"/proc/{job.pid}/stat").read().split()[2], "the job was stopped"
    time.sleep(0.01)
os.tcsetpgrp(0, job.pid)
sys.exit(job.wait())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_job_in_the_background_asks_when_it_is_fetched_to_the_front(tmp_path: Path) -> None:
    path = fleet(tmp_path, ("wipe", {"what": "x"}))
    shell = [sys.executable, "-c", SHELL, str(tmp_path / "front"), *COMMAND, str(path)]
    with on_a_terminal(shell, environment={"TERM": "dumb"}) as terminal:
        terminal.read_until(lambda text: "started as agent 1" in text)
        assert QUESTION not in terminal.screen.text
        (tmp_path / "front").touch()
        answer(terminal, 1, "y\n")
        assert terminal.read_to_the_end() == 0
    assert done(tmp_path) == ["x"]
