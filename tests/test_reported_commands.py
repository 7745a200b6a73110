"""What users of other systems reported of their shell tools, code executors and sandboxes, tried here."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from sandbox_kit import (
    living,
    manifest,
    on_linux,
    python,
    reading,
    require_sandbox,
    shell,
    sleeping,
    small,
    token,
    until,
    writing,
)

from agentpool import AgentManifest
from agentpool.tools import _processes

pytestmark = [on_linux, pytest.mark.processes]


@pytest.fixture(params=["bubblewrap", "none"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "bubblewrap":
        require_sandbox()
    return str(request.param)


def agent(kind: str, *capabilities: Any, **limits: int) -> AgentManifest:
    any_command = {"type": "shell", "allowed_commands": ["*"]}
    return manifest(any_command, "compute", *capabilities, sandbox=kind, commands=small(**limits))


# -- background processes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "left",
    [
        "(while :; do echo more; sleep 0.01; done) &",  # it goes on writing: anomalyco/opencode#22012, #42524
        "sleep {mark} </dev/null >/dev/null &",  # a silent one that holds a descriptor: #48414
        "setsid nohup sleep {mark} & disown 2>/dev/null;",  # one that left the group: #47350
        "(trap '' TERM; sleep {mark}; sleep {mark}) &",  # one that is deaf to SIGTERM: earendil-works/pi#9460
        "python3 -m http.server 0 > /dev/null 2>&1 &",  # coder/xum#41, turnstonelabs/turnstone#816
    ],
)
async def test_what_stays_in_the_background_holds_no_call_back(kind: str, left: str) -> None:
    mark = token()
    started = time.monotonic()
    result = await shell(agent(kind), f": {mark}; {left.format(mark=mark)} sleep 0.1; echo foreground done")
    assert "foreground done" in result.text
    assert not result.is_error
    assert time.monotonic() - started < 10
    assert living(mark) == []


# -- what is left after the end -------------------------------------------------------------------------


async def test_a_timeout_ends_what_the_shell_has_started(kind: str) -> None:
    """SWE-agent/mini-swe-agent#826, anthropics/claude-code#84647, openai/codex#5229: a Python program that
    a shell had started went on after the timeout, as a child of init."""
    mark = token()
    code = f"import subprocess, sys; subprocess.run(['sleep', '{mark}'])"
    result = await shell(agent(kind, timeout=1), f'python3 -c "{code}"; true')
    assert "did not end within 1 seconds" in result.text
    assert living(mark) == []


async def test_nothing_is_written_after_the_call_was_given_up(kind: str, tmp_path: Path) -> None:
    """lsdefine/GenericAgent#797: a grandchild wrote a file after the tool had told of its timeout."""
    code = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2); open('{tmp_path}/late', 'w')"])
time.sleep(30)
"""
    assert (await python(agent(kind, writing(tmp_path), timeout=1), code)).is_error
    await trio.sleep(1.5)  # longer than what would write has left
    assert not (tmp_path / "late").exists()


async def test_an_interrupted_turn_ends_its_command(kind: str) -> None:
    """openai/codex#7985, #27758, #42717, #25772; langchain-ai/deepagents#5907."""
    mark = token()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell, agent(kind), f"sh -c 'sleep {mark} & wait'")
        await until(lambda: sleeping(mark))
        nursery.cancel_scope.cancel()
    assert living(mark) == []


async def test_a_search_that_takes_all_memory_is_ended(kind: str) -> None:
    """anthropics/claude-code#84647: an orphaned grep reached 20 GB."""
    result = await shell(agent(kind, timeout=15), "head -c 3G /dev/zero | grep -a x")
    assert result.is_error
    assert "memory" in result.text


# -- output ---------------------------------------------------------------------------------------------


async def test_what_was_printed_before_the_timeout_is_told(kind: str) -> None:
    """microsoft/autogen#3534: at a timeout the output so far was lost."""
    result = await python(agent(kind, timeout=1), "print('Hello, World!')\nimport time\ntime.sleep(10)")
    assert result.text.startswith("Hello, World!\n[stopped: ")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("printf '\\360'", "\\xf0"),  # PrimeIntellect-ai/nano-rlm#61
        ("printf 'ok \\344\\n'; exit 3", "ok \\xe4\n[exit status 3]"),  # NorthlandPositronics/Cogtrix#2298
        ("printf 'a\\000b'", "a\\x00b"),
        ("printf 'gr\\303\\274n'", "grün"),
    ],
)
async def test_what_is_no_utf_8_is_told_too(kind: str, command: str, text: str) -> None:
    assert (await shell(agent(kind), command)).text == text


async def test_of_a_long_output_the_end_is_not_lost(kind: str) -> None:
    """The-AI-Alliance/cube-harness#368, clacky-ai/openclacky#455: only the head was kept, and the summary of
    the failing tests stood at the end. griffinwork40/agent-afk#507: at 100 kB the command was killed, so that
    nobody saw its exit status."""
    result = await shell(agent(kind), "seq 1 300000; echo '== 3 failed =='; exit 1")
    assert result.text.startswith("1\n2\n")
    assert result.text.endswith("== 3 failed ==\n[exit status 1]")
    assert len(result.text) < 60_000


async def test_output_without_end_takes_no_memory_of_the_pool(kind: str) -> None:
    """aden-hive/hive#2108, chaterm/Chaterm#1857: all of it was held."""
    resident = _resident()
    result = await shell(agent(kind), "seq 1 100000000")
    assert result.text.endswith("[killed: it wrote more than 64 MiB]")
    assert _resident() - resident < 20_000_000


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_full_pipe_does_not_hang(kind: str) -> None:
    """seqeralabs/tower-agent#38: one of two pipes was full, and nobody read it."""
    code = "import sys\nfor n in range(300): sys.stderr.write('e' * 1000); sys.stdout.write('o' * 1000)"
    assert not (await python(agent(kind), code)).is_error


# -- input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "read -p 'ok to proceed? (y) ' answer",  # anomalyco/opencode#42773, westonbrown/Cyber-AutoAgent#7
        "python3",  # langchain-ai/deepagents#2427
        "cat",
        "head -1 /dev/tty",  # past standard input: HKUDS/nanobot#2323
        "git -c credential.helper= ls-remote https://user@127.0.0.1:1/x",  # google-gemini/gemini-cli#24707
    ],
)
async def test_who_asks_gets_no_answer_and_does_not_hang(kind: str, command: str) -> None:
    started = time.monotonic()
    result = await shell(agent(kind), command)
    assert "did not end within" not in result.text
    assert time.monotonic() - started < 10


# -- which commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "echo $(touch {file})",  # MladenSU/cli-mcp-server#17, #19
        "echo `touch {file}`",
        "echo a2a-safe; touch {file}",  # a2aproject/a2a-samples#636
        "echo hi && touch {file}",  # Osmantic/ODS#2450
        "echo hi\ntouch {file}",
        "$(printf touch) {file}",  # tetsuo-ai/AgenC#1334
        "echo x > {file}",  # gptme/gptme#840
        "echo x | tee {file}",  # HarperFast/harper#1924
        "A=1 touch {file}",
        "'echo;touch' {file}",
    ],
)
async def test_a_list_of_commands_is_not_got_round(kind: str, line: str, tmp_path: Path) -> None:
    echo = {"type": "shell", "allowed_commands": ["echo"]}
    one = manifest(echo, writing(tmp_path), sandbox=kind)
    assert (await shell(one, line.format(file=tmp_path / "file"))).is_error
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240


async def test_only_the_program_is_named_and_not_what_it_starts(kind: str, tmp_path: Path) -> None:
    """amd/gaia#2947: `find` was allowed, and with it `find -exec`. That a program starts others is not to be
    had by comparing names; what it starts is in the sandbox as it is itself."""
    (tmp_path / "in").mkdir()
    find = {"type": "shell", "allowed_commands": ["find"]}
    one = manifest(find, reading(tmp_path / "in"), sandbox=kind)
    await shell(one, f"find {tmp_path / 'in'} -exec touch {tmp_path}/out ';'")
    assert (tmp_path / "out").exists() == (kind == "none")


# -- secrets --------------------------------------------------------------------------------------------


async def test_keys_of_the_pool_are_not_in_the_environment(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kagent-dev/kagent#1504, earendil-works/pi#7522, warpdotdev/warp#16112: `env` showed the provider's
    keys. Names that look like secrets are not all of them: nothing is handed on."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-secret")
    monkeypatch.setenv("MY_DSN", "postgres://u:the-secret@host")
    looks = "env; export -p; cat /proc/self/environ"
    if kind == "bubblewrap":
        looks += "; cat /proc/*/environ 2>/dev/null"
    text = (await shell(agent(kind), looks)).text
    assert "the-secret" not in text
    assert "PATH=" in text


# -- sandboxes ------------------------------------------------------------------------------------------


async def test_a_link_in_a_root_that_leads_out_does_not_hinder_the_sandbox(tmp_path: Path) -> None:
    """omnigent-ai/omnigent#4379, openai/codex#20716: a link in the project, also one to nowhere, kept the
    sandbox from starting."""
    require_sandbox()
    (tmp_path / "project").mkdir()
    (tmp_path / "outside").write_text("the-secret-words")
    for name, target in (("out", "../outside"), ("nowhere", "/nowhere/x"), (".git", "../..")):
        (tmp_path / "project" / name).symlink_to(target)
    result = await shell(agent("bubblewrap", writing(tmp_path / "project")), "ls -A; cat out; cat nowhere")
    assert result.text.startswith(".git\nnowhere\nout\n")
    assert "the-secret-words" not in result.text


async def test_a_link_that_a_command_makes_is_mounted_by_no_later_one(tmp_path: Path) -> None:
    """rappdw/sandy#209, mweinbach/agent-coworker#153: links in the workspace were followed when the next
    sandbox was made, and their targets could be written."""
    require_sandbox()
    (tmp_path / "home").mkdir()
    (tmp_path / "project" / "vendor").mkdir(parents=True)
    project = tmp_path / "project"
    one = agent("bubblewrap", writing(project, project / "vendor" / "link"), reading(project / "vendor"))
    await shell(one, f"ln -s {tmp_path}/home vendor/link; mv vendor v; ln -s {tmp_path}/home vendor")
    await shell(one, "echo evil > vendor/link/file; echo evil > v/link/file; echo evil > vendor/file")
    assert list((tmp_path / "home").iterdir()) == []


async def test_python_is_bounded_by_the_system_and_not_by_looking_at_the_code(kind: str) -> None:
    """huggingface/smolagents#871: a loop in a function got round the limit of operations."""
    code = "def f(a):\n  for j in range(10**9): a += j\n  return a\nf(0)"
    result = await python(agent(kind, timeout=1), code)
    assert "did not end within 1 seconds" in result.text


async def test_nothing_of_one_program_runs_in_the_pool_or_in_the_next(kind: str) -> None:
    """huggingface/smolagents#2395: an object's `__del__` ran in the host, long after the call."""
    code = "import sys\nclass A:\n  def __del__(self): print('bomb')\nkept = sys.modules['json'] = A()"
    assert (await python(agent(kind), code)).text == "bomb"
    assert (await python(agent(kind), "import json\nprint(json.dumps(1))")).text == "1"


async def test_a_program_that_is_not_there_is_told_and_starts_nothing(kind: str) -> None:
    """turnstonelabs/turnstone#816: a failing start was hidden by an error of the clean-up."""
    one = manifest({"type": "shell", "allowed_commands": ["no-such-program"]}, sandbox=kind)
    result = await shell(one, "no-such-program --version")
    assert result.is_error
    assert "it could not be started" in result.text
    assert "no-such-program" in result.text


def test_what_is_kept_is_less_than_a_registry_shows() -> None:
    from agentpool.tools import MAX_RESULT_CHARS

    assert 2 * _processes.KEPT_BYTES + 1000 < MAX_RESULT_CHARS
