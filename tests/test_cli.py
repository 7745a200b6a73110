"""The command line, mostly as processes of its own: exit codes, signals, what is printed where."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

pytest.importorskip("cyclopts")

from agentpool import (
    AgentContext,
    AgentManifest,
    CompletionRequest,
    ModelSettings,
    ScriptSettings,
    ScriptStep,
    open_agent_pool,
)
from agentpool.cli import _app
from agentpool.cli._drivers import Drivers
from agentpool.cli._sums import pool_parts
from agentpool.cli._view import SilentView
from agentpool.drivers.retrying import RetryingDriver

AGENTS = '''
"""What the agents of these tests do in a model's place, and their tools."""

import logging
import os
import sys
import time
from pathlib import Path

import trio

from agentpool import Completion, TokenUsage

HERE = Path(__file__).parent


def answer(request):
    return Completion("well\\nand good", usage=TokenUsage(1000, 234))


def fail(request):
    raise ValueError("no [bold] such note")


async def hang(request):
    (HERE / "started").touch()
    await trio.sleep_forever()


async def wait_for_go(request):
    (HERE / "started").touch()
    while not (HERE / "go").exists():
        await trio.sleep(0.01)
    return "gone"


def block(request):
    (HERE / "started").touch()
    time.sleep(30)


def leave(request):
    raise SystemExit(3)


def log(request):
    logging.getLogger("agents").info("h\\udcffm")
    logging.getLogger("agents").debug("not this")
    return "well"


def fail_once(request):
    if (HERE / "failed").exists():
        return "better"
    (HERE / "failed").touch()
    raise ValueError("the first time")


def tell_cpu_time(request):
    return f"{time.process_time()}"
'''


def fleet(folder: Path, *functions: str, head: str = "max_concurrent = 4", extra: str = "") -> Path:
    """Write a fleet with an agent for each function of the module above, named after it."""
    (folder / "agents.py").write_text(AGENTS)
    agents = [
        f'[[agents]]\nname = "{name}"\nquery = "?"\n{extra}\n'
        f'[agents.manifest]\nname = "{name}"\n[agents.manifest.script]\nfunction = "agents:{name}"\n'
        for name in functions
    ]
    path = folder / "fleet.toml"
    path.write_text(f"[pool]\n{head}\n" + "\n".join(agents))
    return path


COMMAND = [sys.executable, "-m", "agentpool.cli"]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


# -- options ---------------------------------------------------------------------------


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert _app.call(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("trio-agentpool")


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentpool", "--version"], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, call("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nope"], "nope"),
        (["run"], "FLEET"),
        (["run", "fleet.toml", "--nope"], "--nope"),
        (["run", "fleet.toml", "--max-concurrent", "0"], "--max-concurrent"),
        (["run", "fleet.toml", "--max-concurrent", "two"], "--max-concurrent"),
        (["run", "fleet.toml", "--timeout", "0"], "--timeout"),
        (["run", "nowhere.toml"], "nowhere.toml: there is no such file"),
        (["validate"], "FILE"),
        (["schema", "nope"], "nope"),
    ],
)
def test_wrong_options_are_told_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _app.call(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("agentpool: ")
    assert complaint in captured.err
    assert captured.err.count("\n") == 1


def test_a_missing_extra_is_named_with_its_installation() -> None:
    program = "import sys; sys.modules['cyclopts'] = None; from agentpool.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr == (
        "agentpool: cyclopts is missing; run: pip install 'trio-agentpool[cli]'"
        " (in a clone: pip install '.[cli]')\n"
    )


# -- validate and schema ------------------------------------------------------------------


def test_validate_names_every_problem_of_every_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = fleet(tmp_path, "answer")
    manifest = tmp_path / "agent.toml"
    manifest.write_text('name = "a"\n')
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "b"\ncolour = "red"\ntools = ["agents:nope"]\n[model]\ntemperature = 3\n')
    unknown = tmp_path / "unknown.toml"
    unknown.write_text('name = "b"\ntools = ["agents:answers"]\n')
    assert _app.call(["validate", str(good), str(manifest), str(bad), str(unknown)]) == 2
    captured = capsys.readouterr()
    assert captured.out == f"{good}: a valid fleet\n{manifest}: a valid manifest\n"
    lines = captured.err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [str(bad), str(bad), str(unknown)]
    for word in ("colour", "model.temperature", "tools[0]"):
        assert word in captured.err
    assert _app.call(["validate", str(good)]) == 0


def test_schema_prints_one_schema_or_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert _app.call(["schema"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert set(both) == {"manifest", "fleet"}
    assert _app.call(["schema", "fleet"]) == 0
    assert json.loads(capsys.readouterr().out) == both["fleet"]


# -- run -------------------------------------------------------------------------------------


def test_a_run_prints_lines_while_it_goes_and_a_table_at_its_end(tmp_path: Path) -> None:
    done = call("run", fleet(tmp_path, "answer"))
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines[0] == "answer: started as agent 1"
    assert re.fullmatch(r"answer: completed in \d+\.\d\d s, 1,234 tokens", lines[1])
    assert re.search(r"1 +answer +completed +\d+\.\d\d +1,234 +well", done.stdout)
    assert re.search(r"1 completed in \d+\.\d s; 1,234 tokens\n$", done.stdout)
    assert "\x1b" not in done.stdout + done.stderr


def test_one_failure_makes_the_exit_code_1_and_leaves_the_others_alone(tmp_path: Path) -> None:
    done = call("run", fleet(tmp_path, "fail", "answer"), "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["exit_code"] == 1
    failed, answered = document["agents"]
    assert (failed["id"], failed["name"], failed["outcome"]) == (1, "fail", "failed")
    assert failed["error"] == "ValueError: no [bold] such note"
    assert (answered["outcome"], answered["text"]) == ("completed", "well\nand good")
    assert document["usage"]["input_tokens"] == answered["usage"]["input_tokens"] == 1000


def test_a_log_file_tells_whose_each_line_is_and_is_added_to(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    for _ in range(2):
        done = call("run", fleet(tmp_path, "fail", "answer", "log"), "--log-file", log, "--quiet")
        assert done.returncode == 1
        assert "agent 1 (fail)" not in done.stderr
    lines = [line.split(" ", 2)[2] for line in log.read_text().splitlines()]
    failed = [line for line in lines if "failed" in line]
    assert [line[:61] for line in failed] == [
        "WARNING agentpool.agents [1 fail] agent 1 (fail) failed after"
    ] * 2
    assert lines.count("INFO agents [3 log] h\\udcffm") == 2
    assert "well" not in log.read_text()
    call("run", fleet(tmp_path, "answer"), "--log-file", log, "--log-level", "debug")
    assert "agentpool.loop [1 answer] the model answered 1 messages after" in log.read_text()


@pytest.mark.parametrize("options", [("--log-file", "no/such/folder/run.log"), ("--log-level", "debug")])
def test_a_log_file_that_cannot_be_is_bad_input(options: tuple[str, str], tmp_path: Path) -> None:
    done = call("run", fleet(tmp_path, "answer"), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--log-file" in done.stderr


def test_a_quiet_run_prints_nothing_but_failures(tmp_path: Path) -> None:
    done = call("run", fleet(tmp_path, "fail", "answer"), "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"fail: failed in \S+ s: ValueError: no \[bold\] such note\n", done.stderr)


def test_a_hanging_agent_fails_when_its_time_is_over(tmp_path: Path) -> None:
    done = call("run", fleet(tmp_path, "hang", "answer", extra="timeout = 0.1"), "--json")
    assert done.returncode == 1
    hung, answered = json.loads(done.stdout)["agents"]
    assert hung["error"].startswith("AgentTimeoutError: ")
    assert answered["outcome"] == "completed"


def test_the_limit_at_which_an_agent_gave_its_answer_is_told(tmp_path: Path) -> None:
    (tmp_path / "noter.toml").write_text(
        """
name = "noter"
capabilities = ["memory"]
[resources]
max_iterations = 1
on_limit = "answer"
[script]
steps = [{ calls = [{ tool = "remember", input = { content = "one" } }] }, { text = "I came to one." }]
"""
    )
    path = tmp_path / "fleet.toml"
    path.write_text('[pool]\nmax_concurrent = 1\n[[agents]]\nmanifest = "noter.toml"\nquery = "Note all."\n')
    done = call("run", path)
    assert done.returncode == 0, done.stderr
    assert "(at its limit: iterations) I came to one." in done.stdout
    (noter,) = json.loads(call("run", path, "--json").stdout)["agents"]
    assert (noter["text"], noter["stopped_by"]) == ("I came to one.", "iterations")


def remembering_fleet(folder: Path, head: str = "") -> Path:
    """Write a fleet whose agent remembers a text, and tells what it recalls."""
    folder.mkdir(exist_ok=True)
    (folder / "noter.toml").write_text(
        """
name = "noter"
capabilities = ["memory"]
[script]
steps = [
  { calls = [{ tool = "recall", input = { query = "visits" } }] },
  { calls = [{ tool = "remember", input = { content = "{query} visits" } }] },
  { text = "I knew: {results[0]}" },
]
"""
    )
    path = folder / "fleet.toml"
    path.write_text(f'[pool]\n{head}\n[[agents]]\nmanifest = "noter.toml"\nquery = "Ada"\n')
    return path


def answer_of(*arguments: object) -> str:
    done = call("run", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    (agent,) = json.loads(done.stdout)["agents"]
    return str(agent["text"])


def test_a_fleet_remembers_from_run_to_run_in_a_file(tmp_path: Path) -> None:
    path = remembering_fleet(tmp_path)
    nothing, known = "I knew: nothing was remembered that has these words", "I knew: - Ada visits (agent 1)"
    assert [answer_of(path), answer_of(path)] == [nothing] * 2
    option = ("--memory", tmp_path / "new" / "one.db")
    assert [answer_of(path, *option), answer_of(path, *option)] == [nothing, known]
    path = remembering_fleet(tmp_path / "in file", 'memory = "two.db"')
    assert [answer_of(path), answer_of(path)] == [nothing, known]
    assert (path.parent / "two.db").is_file()  # relative to the fleet file
    assert answer_of(path, *option).startswith(known)


def test_a_memory_that_cannot_be_used_is_told_before_anything_runs(tmp_path: Path) -> None:
    path = remembering_fleet(tmp_path)
    (tmp_path / "notes.txt").write_text("Dear diary, " * 100)
    done = call("run", path, "--memory", tmp_path / "notes.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"the memory {tmp_path / 'notes.txt'} cannot be used: file is not a database" in done.stderr
    assert "Traceback" not in done.stderr
    done = call("run", path, "--memory", "")
    assert done.returncode == 2
    assert "--memory is empty. Give the path of a file" in done.stderr


def test_the_option_timeout_shortens_what_the_file_allows(tmp_path: Path) -> None:
    done = call("run", fleet(tmp_path, "hang", extra="timeout = 20"), "--timeout", "0.1", "--json")
    assert done.returncode == 1
    (hung,) = json.loads(done.stdout)["agents"]
    assert hung["error"].startswith("AgentTimeoutError: ")


def test_an_agent_that_exits_ends_the_process_with_its_code(tmp_path: Path) -> None:
    done = call("run", fleet(tmp_path, "hang", "leave"))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_an_agent_with_a_restart_policy_is_started_again(tmp_path: Path) -> None:
    done = call("run", fleet(tmp_path, "fail_once", extra="restart = { max_restarts = 1 }"), "--json")
    assert done.returncode == 0
    (agent,) = json.loads(done.stdout)["agents"]
    assert (agent["text"], agent["restarts"]) == ("better", 1)
    assert "fail_once: restarted (1) after it failed" in done.stderr


def test_a_supervisor_of_a_fleet_restarts_its_children(tmp_path: Path) -> None:
    path = fleet(tmp_path, "fail_once", "answer")
    path.write_text(f'{path.read_text()}[[supervisors]]\nname = "boss"\nchildren = ["fail_once"]\n')
    done = call("run", path, "--json")
    assert done.returncode == 0, done.stderr
    agents = {agent["name"]: agent for agent in json.loads(done.stdout)["agents"]}
    assert set(agents) == {"boss", "fail_once", "answer"}
    assert agents["fail_once"]["text"] == "better"
    assert agents["fail_once"]["parent_id"] == agents["boss"]["id"]


def test_a_supervised_agent_that_is_not_to_come_back_makes_the_exit_code_1(tmp_path: Path) -> None:
    path = fleet(tmp_path, "fail", "answer", extra="restart = { mode = 'never' }")
    path.write_text(f'{path.read_text()}[[supervisors]]\nname = "boss"\nchildren = ["fail", "answer"]\n')
    done = call("run", path)
    assert done.returncode == 1
    for row in (r"1 +boss +completed", r"2 +fail +failed .*no \[bold\] such note", r"3 +answer +completed"):
        assert re.search(row, done.stdout)
    assert "2 completed, 1 failed" in done.stdout


def test_a_supervisor_that_gives_up_tells_why(tmp_path: Path) -> None:
    path = fleet(tmp_path, "fail", "hang")
    path.write_text(f'{path.read_text()}[[supervisors]]\nname = "boss"\nchildren = ["fail", "hang"]\n')
    done = call("run", path, "--json")
    assert done.returncode == 1
    agents = {agent["name"]: agent for agent in json.loads(done.stdout)["agents"]}
    assert agents["boss"]["error"].startswith("RestartLimitError: child fail ended again")
    assert agents["fail"]["error"] == "ValueError: no [bold] such note"
    assert (agents["hang"]["outcome"], agents["hang"]["reason"]) == ("aborted", "its supervisor gave up")


def test_an_agent_without_a_driver_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[[agents]]\nname = "a"\nquery = "?"\nmanifest = {}\n')
    done = call("run", path)
    assert done.returncode == 2
    assert "--driver" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_driver_that_does_not_exist_is_bad_input(tmp_path: Path) -> None:
    done = call("run", fleet(tmp_path, "answer"), "--driver", "nope:nothing")
    assert done.returncode == 2
    assert "nope" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_output_that_nobody_reads_any_more_is_no_traceback(tmp_path: Path, options: tuple[str, ...]) -> None:
    command = [*COMMAND, "run", str(fleet(tmp_path, "answer")), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process:
        assert "Traceback" not in process.stderr.read()
        assert process.wait(30) == 1


def test_the_first_agent_runs_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("COVERAGE_", "PYTHONDONTWRITEBYTECODE")):  # they would make the start slower
            monkeypatch.delenv(name)
    path = fleet(tmp_path, "tell_cpu_time")
    plain = [sys.executable, "-c", "import time, trio; print(time.process_time())"]
    first_agent, trio_alone = [], []
    for _ in range(4):  # in turn: both see the same machine, which may be slow or busy
        trio_alone.append(float(subprocess.check_output(plain)))
        first_agent.append(float(json.loads(call("run", path, "--json").stdout)["agents"][0]["text"]))
    # It is about 3, and up to 4.1 on a busy machine. With the modules of a model's client it would be 8.
    assert min(first_agent) < 5 * min(trio_alone)


def test_ctrl_c_while_files_are_read_ends_with_130(tmp_path: Path) -> None:
    path = fleet(tmp_path, "answer")
    with (tmp_path / "agents.py").open("a") as module:
        module.write("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    done = call("run", path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_variable_of_the_command_line_reaches_the_agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("async def echo(ctx, query):\n    return query\n")
    path = tmp_path / "fleet.toml"
    path.write_text('vars.a = "1"\nvars.b = "2"\n[[agents]]\nfunction = "agents:echo"\nquery = "{a} {b}"\n')
    done = call("run", path, "--var", "a=x=y", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["agents"][0]["text"] == "x=y 2"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["a"], "--var 'a' does not name a variable. Write --var NAME=VALUE"),
        (["=a"], "--var '=a' does not name a variable. Write --var NAME=VALUE"),
        (["a b=c"], "--var 'a b=c' does not name a variable. Write --var NAME=VALUE"),
        (["a=1", "a=2"], "--var a is given twice. Give it once"),
        (["b=1"], "vars.b: is given a value, but there is no such variable. Did you mean 'bb'?"),
    ],
)
@pytest.mark.parametrize("command", ["run", "validate"])
def test_a_wrong_variable_is_bad_input(
    command: str, given: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('vars.bb = ""\n[[agents]]\nname = "a{bb}"\nmanifest = {}\nquery = "q"\n')
    options = [option for text in given for option in ("--var", text)]
    assert _app.call([command, str(path), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert complaint in captured.err


def test_validate_checks_a_fleet_with_the_variables_that_run_will_get(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(
        'vars.docs.type = "path"\n[[agents]]\nmanifest = { name = "a", script.steps = [{ text = "ok" }] }\n'
        'query = "{path}"\nfor_each = "{docs}/*.md"\n'
    )
    (tmp_path / "a.md").write_text("")
    assert _app.call(["validate", str(path)]) == 2
    assert "vars.docs: has no value. Give it one with --var docs=VALUE" in capsys.readouterr().err
    assert _app.call(["validate", str(path), f"--var=docs={tmp_path}"]) == 0
    assert _app.call(["validate", str(path), f"--var=docs={tmp_path}/none"]) == 2
    manifest = tmp_path / "m.toml"
    manifest.write_text('name = "m"\n')
    assert _app.call(["validate", str(manifest), str(path), f"--var=docs={tmp_path}"]) == 0
    capsys.readouterr()
    assert _app.call(["validate", str(manifest), "--var=docs=x"]) == 2
    assert capsys.readouterr().err == "agentpool: --var is for fleets, and no file is one. Leave it out\n"


def test_functions_ask_the_driver_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("async def tell(ctx):\n    return repr(ctx.driver)\n")
    path = tmp_path / "fleet.toml"
    path.write_text('[[agents]]\nfunction = "agents:tell"\n')
    for options, told in (([], "None"), (["--driver=scripted"], "None"), (["--driver=nope:x"], "")):
        done = call("run", path, "--json", *options)
        if told:
            assert json.loads(done.stdout)["agents"][0]["text"] == told
        else:
            assert (done.returncode, done.stderr.count("\n")) == (2, 1)
            assert done.stderr == call("validate", path, *options).stderr


async def test_the_chosen_driver_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httpx2")
    name = "openai+http://127.0.0.1:9/v1:m"
    async with AsyncExitStack() as stack:
        drivers = Drivers(stack, name, None, lambda line: None)
        await drivers.open_for([AgentManifest(name="a")])
        assert drivers.get_for_functions() is drivers.get(AgentManifest(name="b"))
        for default in (None, name):
            drivers = Drivers(stack, None, default, lambda line: None)
            await drivers.open_for([], functions=True)
            assert (drivers.get_for_functions() is None) is (default is None)


# -- drivers -----------------------------------------------------------------------------------


async def test_models_of_one_server_share_its_governor() -> None:
    pytest.importorskip("httpx2")
    told: list[str] = []
    manifests = [
        AgentManifest(name=model, model=ModelSettings(driver=f"openai+http://127.0.0.1:9/v1:{model}"))
        for model in ("a", "b", "a")
    ]
    async with AsyncExitStack() as stack:
        drivers = Drivers(stack, None, None, told.append)
        await drivers.open_for(manifests)
        one, other, again = map(drivers.get, manifests)
        assert one is again
        assert one is not other
        assert isinstance(one, RetryingDriver)
        assert len(drivers._governors) == 1
    assert told == []


async def test_what_auto_comes_to_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    told: list[str] = []
    script = ScriptSettings(steps=[ScriptStep(text="well")])
    manifest = AgentManifest(name="a", script=script)
    async with AsyncExitStack() as stack:
        drivers = Drivers(stack, "auto", None, told.append)
        await drivers.open_for([manifest])
        assert (await drivers.get(manifest).complete(CompletionRequest())).text == "well"
    assert len(told) == 1
    assert told[0].startswith("driver: scripted (no key is set")


# -- signals -----------------------------------------------------------------------------------


@contextmanager
def running(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A run that has started its first agent."""
    command = [*COMMAND, "run", str(path), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: (path.parent / "started").exists() or process.poll() is not None)
            yield process
        finally:
            process.kill()


def wait_until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the process ended without a word of {text!r}")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_first_signal_lets_running_agents_finish_and_starts_no_more(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = fleet(tmp_path, "wait_for_go", "answer", head="max_concurrent = 1")
    with running(path, "--json") as process:
        process.send_signal(number)
        read_until(process, "no more agents start")
        (tmp_path / "go").touch()
        out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    document = json.loads(out)
    assert document["exit_code"] == code
    assert [(agent["name"], agent["outcome"]) for agent in document["agents"]] == [
        ("wait_for_go", "completed")
    ]
    assert document["not_started"] == ["answer"]


def test_the_second_signal_aborts(tmp_path: Path) -> None:
    with running(fleet(tmp_path, "hang"), "--json") as process:
        process.send_signal(signal.SIGTERM)
        read_until(process, "no more agents start")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    (hung,) = json.loads(out)["agents"]
    assert hung["outcome"] == "aborted"
    assert hung["reason"] == "stopped by a second signal"


def test_what_was_aborted_and_what_never_started_is_told_in_the_table_too(tmp_path: Path) -> None:
    with running(fleet(tmp_path, "hang", "answer", head="max_concurrent = 1")) as process:
        process.send_signal(signal.SIGTERM)
        read_until(process, "no more agents start")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert re.search(r"1 +hang +aborted +\d+\.\d\d +stopped by a second signal", out)
    assert out.endswith("not started: answer\n")


def test_the_second_signal_aborts_supervised_agents_too(tmp_path: Path) -> None:
    path = fleet(tmp_path, "answer", "hang")
    path.write_text(f'{path.read_text()}[[supervisors]]\nname = "boss"\nchildren = ["answer", "hang"]\n')
    with running(path, "--json") as process:
        process.send_signal(signal.SIGINT)
        read_until(process, "no more agents start")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    agents = {agent["name"]: agent for agent in json.loads(out)["agents"]}
    assert agents["answer"]["outcome"] == "completed"
    for name in ("boss", "hang"):
        assert agents[name]["reason"] == "stopped by a second signal"


def test_the_third_signal_ends_a_process_that_is_blocked(tmp_path: Path) -> None:
    path = fleet(tmp_path, "block")
    text = (tmp_path / "agents.py").read_text().replace("def block", "async def block")
    (tmp_path / "agents.py").write_text(text)
    with running(path) as process:
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)  # equal signals that come at once are delivered once
        assert process.wait(10) == 130


# -- on a terminal --------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_on_a_terminal_a_table_shows_the_agents_while_they_run(tmp_path: Path) -> None:
    import pty

    path = fleet(tmp_path, "wait_for_go", "answer")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    command = [*COMMAND, "run", str(path)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = ""
    stopped = False
    try:
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    seen += os.read(ours, 65536).decode(errors="replace")
                except OSError:  # the other side has been closed
                    break
            if "wait_for_go" in seen and "completed" in seen and not stopped:
                process.send_signal(signal.SIGINT)
                stopped = True
            if "stopping: no more agents start" in seen:
                (tmp_path / "go").touch()
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    table, _, rest = seen.rpartition("\x1b[?25h")  # written once more when the table is gone
    assert "wait_for_go" in table
    assert "dead letters" in table
    assert "2 completed" in rest


async def test_the_pools_figures_say_who_waits_and_for_whom() -> None:
    async def waits(ctx: AgentContext) -> None:
        await ctx.receive()

    async def parent(ctx: AgentContext) -> None:
        await (await ctx.spawn(waits, name="child")).wait()

    async with open_agent_pool(max_concurrent=3) as pool:
        await pool.spawn(parent, name="parent")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(5):
            await pool.spawn(waits, name=f"w{number}")
        await trio.testing.wait_all_tasks_blocked()
        assert ", ".join(pool_parts(pool.statistics())) == (
            "0 running in 3 slots, 7 lent, 0 queued, 0 backing off, 0 to start,"
            " 0 messages, 0 in inboxes (at most 0 of 32 in one so far), 0 dead letters, 7 waiting"
            " (parent for child, child for anybody, w0 for anybody, w1 for anybody, w2 for anybody"
            " and 2 more)"
        )
        pool.abort_all()


def test_a_silent_view_drops_what_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    SilentView().tell("something")
    assert capsys.readouterr() == ("", "")
