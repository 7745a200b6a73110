"""`--output`, closed and full standard streams, `validate`, and the environments that we are started in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio

pytest.importorskip("cyclopts")

from test_cli import call, fleet, read_until, running

from agentpool import (
    Aborted,
    AgentManifest,
    AgentResult,
    AssistantMessage,
    Completed,
    Completion,
    CompletionRequest,
    Failed,
    LoopHaltedError,
    ScriptedDriver,
    SpawnConfig,
    StreamPart,
    ToolCall,
    ToolMessage,
    ToolRegistry,
    ToolResult,
    UserMessage,
    open_agent_pool,
    tool,
)
from agentpool.cli import _app
from agentpool.cli._errors import BadInputError
from agentpool.cli._listening import Conversations, ListeningDriver
from agentpool.cli._output import OutputDirectory, files_of, stem_of

pytestmark = pytest.mark.processes

COMMAND = [sys.executable, "-m", "agentpool"]


# -- --output ---------------------------------------------------------------------------------


def outcome(agent_id: int = 1, name: str = "a", value: object = "well") -> Completed[object]:
    return Completed(agent_id=agent_id, name=name, parent_id=0, value=value, duration=0.5)


def test_each_agents_answer_and_transcript_are_written(tmp_path: Path) -> None:
    path = fleet(tmp_path, "fail", "answer")
    out = tmp_path / "new" / "out"
    done = call("run", path, "--output", out)
    assert done.returncode == 1
    assert done.stdout.endswith(f"answers and transcripts: {out}\n")
    assert all(line == line.rstrip() for line in done.stdout.splitlines())
    assert sorted(file.name for file in out.iterdir()) == ["1-fail.json", "2-answer.json", "2-answer.txt"]
    assert (out / "2-answer.txt").read_text() == "well\nand good"
    answered = json.loads((out / "2-answer.json").read_text())
    assert [message["role"] for message in answered["transcript"]] == ["user", "assistant"]
    failed = json.loads((out / "1-fail.json").read_text())
    assert (failed["outcome"], failed["error"]) == ("failed", "ValueError: no [bold] such note")
    assert [message["content"] for message in failed["transcript"]] == ["?"]
    again = call("run", path, "--output", out)
    assert again.returncode == 2
    assert f"{str(out)!r} is not empty" in again.stderr
    assert "started" not in again.stderr


def test_agents_below_a_supervisor_and_aborted_ones_are_written_too(tmp_path: Path) -> None:
    path = fleet(tmp_path, "answer", "hang")
    path.write_text(f'{path.read_text()}[[supervisors]]\nname = "boss"\nchildren = ["answer", "hang"]\n')
    out = tmp_path / "out"
    with running(path, "--json", "--output", str(out)) as process:
        process.send_signal(signal.SIGTERM)
        read_until(process, "no more agents start")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    files = {file.name for file in out.iterdir()}
    assert files == {"1-boss.json", "2-answer.json", "2-answer.txt", "3-hang.json"}
    hung = json.loads((out / "3-hang.json").read_text())
    assert (hung["outcome"], hung["reason"]) == ("aborted", "stopped by a second signal")
    assert [message["content"] for message in hung["transcript"]] == ["?"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("reviewer", "7-reviewer"),
        ("../../etc/passwd", "7-etc_passwd"),
        ("a/b\\c:d*e", "7-a_b_c_d_e"),
        ("日本", "7"),
        (".", "7"),
        ("CON", "7-CON"),
        ("x" * 300, "7-" + "x" * 60),
        ("\x1b[2J", "7-2J"),
    ],
)
def test_a_files_name_is_safe_whatever_the_agent_is_called(name: str, stem: str) -> None:
    assert stem_of(outcome(7, name)) == stem


def test_names_that_differ_in_what_files_cannot_say_do_not_meet(tmp_path: Path) -> None:
    directory = OutputDirectory.prepare(tmp_path / "out")
    for number, name in enumerate(("a/b", "a b", "A_B", "a_b"), 1):
        directory.write(outcome(number, name, name))
    texts = {file.read_text() for file in (tmp_path / "out").glob("*.txt")}
    assert texts == {"a/b", "a b", "A_B", "a_b"}
    assert directory.lost == []


def test_a_transcript_is_written_with_every_kind_of_message() -> None:
    said = [
        UserMessage("?"),
        AssistantMessage("let me see", (ToolCall("1", "look", {"at": object}),)),
        ToolMessage("1", "look", ToolResult("\ud800 nothing", is_error=True)),
        AssistantMessage("none"),
    ]
    result: Any = AgentResult("none \ud800", "none", outcome().usage, 2, 1, said)
    files = dict(files_of(outcome(value=result)))
    assert files["1-a.txt"] == "none \ud800"
    written = json.loads(files["1-a.json"])
    assert [message["role"] for message in written["transcript"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert written["transcript"][2]["is_error"] is True
    halted = Failed(agent_id=1, name="a", parent_id=0, error=LoopHaltedError("enough", transcript=said))
    ((_, text),) = files_of(halted)
    assert len(json.loads(text)["transcript"]) == 4
    ((_, text),) = files_of(Aborted(agent_id=1, name="a", parent_id=0, reason="enough"))
    assert json.loads(text)["reason"] == "enough"


def test_a_lone_surrogate_does_not_lose_an_answer(tmp_path: Path) -> None:
    directory = OutputDirectory.prepare(tmp_path / "out")
    directory.write(outcome(value="a \ud800 b"))
    assert (tmp_path / "out" / "1-a.txt").read_text("utf-8") == "a \\ud800 b"


@pytest.mark.parametrize("where", ["file", "file/below", "x" * 300, "nul\0"])
def test_a_directory_that_cannot_be_had_is_told_of_before_anything_runs(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match=r"--output: .*[Gg]ive (a|another) directory"):
        OutputDirectory.prepare(tmp_path / where)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="may write everywhere")
def test_a_directory_without_permission_is_told_of_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(BadInputError, match="Permission denied"):
        OutputDirectory.prepare(tmp_path / "out")


def test_what_could_not_be_written_is_told_with_its_place(tmp_path: Path) -> None:
    directory = OutputDirectory.prepare(tmp_path / "out")
    (tmp_path / "out").rmdir()
    directory.write(outcome())
    directory.write(outcome())
    place = tmp_path / "out"
    assert directory.lost == [
        f"{place / '1-a.txt'}: No such file or directory",
        f"{place / '1-a.json'}: No such file or directory",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_full_disk_makes_the_exit_code_1_and_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    path = fleet(tmp_path, "answer")
    text = (tmp_path / "agents.py").read_text().replace('"well\\nand good"', '"x" * 100_000')
    (tmp_path / "agents.py").write_text(text)
    out = tmp_path / "out"
    # The limit stands for the disk: no file may become longer than this.
    limit = "import resource, sys, os; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
    program = f"{limit} os.execv(sys.executable, [sys.executable, '-m', 'agentpool', *sys.argv[1:]])"
    command = [sys.executable, "-c", program, "run", str(path), "--output", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert f"agentpool: not written: {out / '1-answer.txt'}: File too large" in done.stderr
    assert list(out.iterdir()) == []
    document = json.loads(done.stdout)
    assert document["exit_code"] == 1
    assert len(document["not_written"]) == 2
    assert document["agents"][0]["outcome"] == "completed"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_disk_that_is_full_at_the_start_is_told_of_before_anything_runs(tmp_path: Path) -> None:
    path = fleet(tmp_path, "hang")  # it would write a file, and never end
    limit = "import resource, sys, os; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
    program = f"{limit} os.execv(sys.executable, [sys.executable, '-B', '-m', 'agentpool', *sys.argv[1:]])"
    command = [sys.executable, "-c", program, "run", str(path), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot be written to: File too large. Give another directory" in done.stderr
    assert not (tmp_path / "started").exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_the_directory_is_not_made_for_a_run_that_is_refused(tmp_path: Path) -> None:
    path = fleet(tmp_path, "answer")
    assert _app.call(["run", str(path), "--driver", "nope:x", "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


async def test_the_conversation_of_an_agent_that_fails_later_is_kept() -> None:
    class Streaming(ScriptedDriver):
        @asynccontextmanager
        async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
            async with super().stream(request) as parts:
                yield parts

    call = Completion(tool_calls=[ToolCall("1", "look", {})])
    for kind, observed in ((ScriptedDriver, False), (ScriptedDriver, True), (Streaming, True)):
        conversations = Conversations()
        driver = ListeningDriver(kind([call, ValueError("cut off")]), conversations)
        async with open_agent_pool(driver, max_concurrent=1) as pool:
            # With a reader, answers are streamed.
            async with pool.events() if observed else nullcontext():
                handle = await pool.spawn(SpawnConfig(AgentManifest(name="a"), "?"))
                await handle.wait()
        roles = [type(message).__name__ for message in conversations.take(handle.id)]
        assert roles == ["UserMessage", "AssistantMessage", "ToolMessage"]
        assert conversations.take(handle.id) == ()


@pytest.mark.parametrize("observed", [False, True])
async def test_an_answer_is_kept_of_an_agent_that_is_aborted_after_it(observed: bool) -> None:
    begun = trio.Event()

    @tool
    async def look() -> str:
        """Look for ever."""
        begun.set()
        await trio.sleep_forever()
        raise AssertionError

    conversations = Conversations()
    script = ScriptedDriver([Completion("I look.", tool_calls=[ToolCall("1", "look", {})])])
    driver = ListeningDriver(script, conversations)
    registry = ToolRegistry([look])
    async with open_agent_pool(driver, max_concurrent=1, tool_builder=lambda _: registry) as pool:
        async with pool.events() if observed else nullcontext():
            handle = await pool.spawn(SpawnConfig(AgentManifest(name="a"), "?"))
            await begun.wait()
            handle.abort("enough")
            await handle.wait()
    asked, answered = conversations.take(handle.id)
    assert isinstance(asked, UserMessage)
    assert isinstance(answered, AssistantMessage)
    assert (answered.text, len(answered.tool_calls)) == ("I look.", 1)


# -- standard output that is closed, or full ------------------------------------------------------

MODES = [
    ("run", "FLEET"),
    ("run", "FLEET", "--json"),
    ("validate", "FLEET"),
    ("schema",),
    ("schema", "fleet"),
    ("--help",),
    ("run", "--help"),
    ("--version",),
]


def call_with(stdout: int, tmp_path: Path, mode: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    path = str(fleet(tmp_path, "answer"))
    command = [*COMMAND, *(path if word == "FLEET" else word for word in mode)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False)


@pytest.mark.parametrize("mode", MODES)
def test_a_reader_that_has_gone_is_exit_code_1_and_nothing_else(
    tmp_path: Path, mode: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = call_with(writing, tmp_path, mode)
    finally:
        os.close(writing)
    assert done.returncode == 1
    for word in ("Traceback", "Exception ignored", "Broken"):
        assert word not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("mode", MODES)
def test_a_full_disk_below_standard_output_is_told_of(tmp_path: Path, mode: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = call_with(full.fileno(), tmp_path, mode)
    assert done.returncode == 1
    assert "agentpool: standard output: No space left on device" in done.stderr
    for word in ("Traceback", "Exception ignored"):
        assert word not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the shell is another one")
@pytest.mark.parametrize("mode", MODES)
def test_without_standard_output_nothing_is_done(tmp_path: Path, mode: tuple[str, ...]) -> None:
    path = str(fleet(tmp_path, "answer"))
    words = [path if word == "FLEET" else word for word in mode]
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *words]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("agentpool: standard output is closed")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="the shell is another one")
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_run_whose_progress_nobody_can_read_goes_on(tmp_path: Path, redirection: str) -> None:
    path = fleet(tmp_path, "answer", "fail")
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, "run", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1  # of the agent that fails
    assert [agent["outcome"] for agent in json.loads(done.stdout)["agents"]] == ["completed", "failed"]


# -- validate ---------------------------------------------------------------------------------------

BAD = {
    "driver": ('[model]\ndriver = "nope:x"', "'nope:x' is not the name of a driver"),
    "key": ('[model]\ndriver = "openai:x"', "OPENAI_API_KEY"),
    "tool": ('tools = ["own:nope"]\n[script]\nsteps = [{text = "x"}]', "the module 'own' has no 'nope'"),
    "hints": ('tools = ["own:unclear"]\n[script]\nsteps = [{text = "x"}]', "own:unclear cannot be a tool"),
    "twice": (
        'tools = ["own:read_file"]\ncapabilities = [{type = "file_read", allowed_paths = ["."]}]\n'
        '[script]\nsteps = [{text = "x"}]',
        "there are two tools named 'read_file'",
    ),
    "function": ('[script]\nfunction = "own:nope"', "the module 'own' has no 'nope'"),
    "nothing": ("", "the agent has neither a driver nor a script"),
    "grant": (
        'capabilities = ["rag"]\n[script]\nsteps = [{text = "x"}]',
        "capabilities[0]: of the manifest 'a': no tool of this agent needs the capability 'rag'",
    ),
    "local": (
        '[model]\nmodel_path = "m.gguf"\n[script]\nsteps = [{text = "x"}]',
        "m.gguf: No such file or directory",
    ),
    "local of the pool": ("", "/fleet-of-models/m.gguf: No such file or directory"),
    "fetched": (
        '[model]\nmodel_repo = "org/m"\n[script]\nsteps = [{text = "x"}]',
        "model.model_repo: of the manifest 'a': no driver of the command line fetches a model",
    ),
}
OWN = '''
"""Functions that manifests name."""
from agentpool import BrowserCapability
from agentpool.tools import tool


def read_file(path: str) -> str:
    """Read."""
    return path


def unclear(x) -> str:
    """Have an argument without a hint."""
    return x


@tool(capability=BrowserCapability())
def ls() -> str:
    """List."""
    return ""
'''


def write_fleet(folder: Path, manifest: str, extra: str = "", pool: str = "") -> Path:
    (folder / "own.py").write_text(OWN)
    (folder / "agent.toml").write_text(f'name = "a"\n{manifest}\n')
    path = folder / "fleet.toml"
    path.write_text(f'[pool]\n{pool}\n[[agents]]\nmanifest = "agent.toml"\nquery = "?"\n{extra}\n')
    return path


@pytest.mark.parametrize("case", BAD)
def test_validate_refuses_what_run_refuses_in_the_same_words(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if case == "key":
        pytest.importorskip("openai")
    manifest, problem = BAD[case]
    folder = tmp_path / "fleet-of-models"
    folder.mkdir()
    pool = 'driver = "local:m.gguf"' if case == "local of the pool" else ""
    path = write_fleet(folder, manifest, pool=pool)
    assert _app.call(["run", str(path)]) == 2
    told = capsys.readouterr()
    assert problem in told.err
    assert _app.call(["validate", str(path)]) == 2
    again = capsys.readouterr()
    assert again.err == told.err
    assert again.out == ""


def test_validate_takes_the_driver_that_run_will_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_fleet(tmp_path, "")
    assert _app.call(["validate", str(path)]) == 2
    assert _app.call(["validate", str(path), "--driver", "ollama:x"]) == (0 if _has("httpx2") else 2)
    assert _app.call(["validate", str(tmp_path / "agent.toml")]) == 0
    assert _app.call(["validate", str(tmp_path / "agent.toml"), "--driver", "nope:x"]) == 2


def _has(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def test_a_capability_that_a_tool_of_ones_own_needs_is_no_empty_grant(tmp_path: Path) -> None:
    grant = '[[capabilities]]\ntype = "browser"\n[script]\nsteps = [{text = "x"}]'
    path = write_fleet(tmp_path, f'tools = ["own:ls"]\n{grant}')
    assert _app.call(["validate", str(path)]) == 0
    assert _app.call(["validate", str(write_fleet(tmp_path, grant))]) == 2


IDLE = {
    "script": (
        '[model]\ndriver = "ollama:x"\n[script]\nsteps = [{text = "x"}]',
        "",
        "",
        "script: of the mani",
    ),
    "driver": (
        '[model]\ndriver = "scripted"\n[script]\nsteps = [{text = "x"}]',
        "",
        'driver = "auto"',
        "pool.driver: has no effect: every manifest names a driver",
    ),
    "path": (
        '[model]\ndriver = "scripted"\nmodel_path = "m.gguf"\n[script]\nsteps = [{text = "x"}]',
        "",
        "",
        "model.model_path: of the manifest 'a': has no effect: scripted is asked",
    ),
    "never": (
        '[script]\nsteps = [{text = "x"}]',
        'restart = { mode = "never", max_restarts = 9 }',
        "",
        "max_restarts has no effect with the mode 'never'",
    ),
    "supervised": (
        '[script]\nsteps = [{text = "x"}]',
        'restart = { within = 9, backoff = 1 }\n[[supervisors]]\nname = "boss"\nchildren = ["a"]',
        "",
        "within, backoff has no effect below the supervisor 'boss'",
    ),
    "sandbox": (
        'sandbox = "none"\n[script]\nsteps = [{text = "x"}]',
        "",
        "",
        "sandbox: of the manifest 'a': has no effect: the agent may run no commands",
    ),
    "command": (
        '[script]\nsteps = [{text = "x"}]\n'
        '[[capabilities]]\ntype = "shell"\nallowed_commands = ["ls", "git status"]',
        "",
        "",
        "allowed_commands[1]: of the manifest 'a': has no effect: 'git status' names no program",
    ),
    "commands": (
        '[script]\nsteps = [{text = "x"}]\n[commands]\ntimeout = 5',
        "",
        "",
        "commands: of the manifest 'a': has no effect: the agent may run no commands",
    ),
    "call": (
        '[script]\nsteps = [{calls = [{tool = "read_fil"}]}]\n'
        '[[capabilities]]\ntype = "file_read"\nallowed_paths = ["."]',
        "",
        "",
        "script.steps[0].calls[0].tool: of the manifest 'a': the agent has no tool 'read_fil'. Did you mean",
    ),
}


@pytest.mark.parametrize("case", IDLE)
def test_validate_warns_of_what_has_no_effect(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, extra, pool, warning = IDLE[case]
    if case == "script":
        pytest.importorskip("ollama")
    path = write_fleet(tmp_path, manifest, extra, pool)
    assert _app.call(["validate", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("agentpool: warning: ")
    assert warning in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == f"{path}: a valid fleet\n"


def test_what_stands_in_a_file_is_not_obeyed_by_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = tmp_path / "e\x1b[2Jvil.toml"
    evil.write_text('name = "a"\n"k\\u001b[31m" = 1\nversion = "[red]"\nprivacy = "\\u202e"\n')
    assert _app.call(["validate", str(evil)]) == 2
    captured = capsys.readouterr()
    assert "\x1b" not in captured.err
    assert "\u202e" not in captured.err
    assert r"e\x1b[2Jvil.toml" in captured.err
    evil.write_text('name = "a"\n')
    assert _app.call(["validate", str(evil)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/e\\x1b[2Jvil.toml: a valid manifest\n"


def test_the_last_words_of_an_agent_that_exits_are_not_obeyed_either(tmp_path: Path) -> None:
    path = fleet(tmp_path, "leave")
    text = (tmp_path / "agents.py").read_text().replace("SystemExit(3)", r'SystemExit("over \x1b[2J")')
    (tmp_path / "agents.py").write_text(text)
    done = call("run", path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == r"agentpool: over \x1b[2J"


# -- how we are started -----------------------------------------------------------------------------


def test_python_m_agentpool_is_agentpool() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: agentpool COMMAND")


def test_python_m_agentpool_without_the_extra_says_what_to_install(tmp_path: Path) -> None:
    for name in ("cyclopts", "rich"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('gone', name={name!r})\n")
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [*COMMAND, "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert done.returncode == 2
        assert done.stderr.startswith(f"agentpool: {name} is missing; run: pip install '")
        assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such shell")
def test_a_signal_that_was_ignored_at_the_start_stays_ignored_and_the_other_drains(tmp_path: Path) -> None:
    path = fleet(tmp_path, "wait_for_go", "answer", head="max_concurrent = 1")
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *COMMAND, "run", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            read_until(process, "started as agent 1")
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
            read_until(process, "no more agents start")
            (tmp_path / "go").touch()
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 143  # not 130: SIGINT was not heard
    assert "not started: answer" in out


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such shell")
def test_an_empty_environment_is_enough(tmp_path: Path) -> None:
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "PATH") if name in os.environ}
    done = subprocess.run(
        [*COMMAND, "run", str(fleet(tmp_path, "answer"))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=kept,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "1 completed" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("options", [(), ("--json",), ("--quiet",)])
def test_output_that_cannot_be_encoded_is_replaced_on_a_pipe_too(
    tmp_path: Path, encoding: str, options: tuple[str, ...]
) -> None:
    path = fleet(tmp_path, "answer", "fail")
    text = (tmp_path / "agents.py").read_text()
    text = text.replace("well\\nand good", "日本 \\ud800").replace("no [bold] such note", "日本 \\udfff ☃")
    (tmp_path / "agents.py").write_text(text, "utf-8")
    done = subprocess.run(
        [*COMMAND, "run", str(path), *options],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"ValueError: \\u65e5\\u672c \\udfff \\u2603" in done.stderr
    if not options:
        assert b"\\u65e5\\u672c \\ufffd" in done.stdout  # the loop made the answer fit


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_the_name_of_a_valid_file_that_cannot_be_encoded_is_escaped(tmp_path: Path, encoding: str) -> None:
    path = fleet(tmp_path, "answer").rename(tmp_path / "名.toml")
    done = subprocess.run(
        [*COMMAND, "validate", str(path)],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"},
    )
    assert done.returncode == 0, done.stderr
    assert b"\\u540d.toml" in done.stdout
