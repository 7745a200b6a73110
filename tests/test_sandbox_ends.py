"""How commands end: in time, with every process of theirs, also when their pool is killed."""

from __future__ import annotations

import marshal
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from sandbox_kit import (
    living,
    manifest,
    on_linux,
    python,
    require_sandbox,
    shell,
    sleeping,
    small,
    token,
    until,
    until_blocking,
    writing,
)

from agentpool import AgentContext, AgentManifest, CommandLimits, open_agent_pool, sandbox_report
from agentpool._core.commands import Ending
from agentpool._core.outcomes import Aborted
from agentpool.bridge import open_agent_pool_blocking
from agentpool.tools import _processes, _shell, build_tools
from agentpool.tools._sandbox import Sandbox

pytestmark = [on_linux, pytest.mark.processes]

ROOT = Path(__file__).parent.parent


@pytest.fixture(params=["bubblewrap", "none"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "bubblewrap":
        require_sandbox()
    return str(request.param)


def agent(kind: str, *, folder: Path | None = None, **limits: int) -> AgentManifest:
    granted = () if folder is None else (writing(folder),)
    any_command = {"type": "shell", "allowed_commands": ["*"]}
    return manifest(any_command, "compute", *granted, sandbox=kind, commands=small(**limits))


# What tries to outlive its end: in the background, in a session of its own, deaf to signals, without a
# parent, with its output closed. Each sleeps for a mark.
HARDY = """
sleep {mark} &
setsid sleep {mark} &
setsid sh -c 'trap "" TERM HUP INT; sleep {mark}; sleep {mark}' &
(setsid sh -c 'sleep {mark} >/dev/null 2>&1 & sleep {mark} &' &)
nohup sleep {mark} > /dev/null 2>&1 &
exec_without_output() {{ exec sleep {mark} > /dev/null 2>&1; }}
exec_without_output &
"""


COUNTED = """
import os, time
forked = 0
try:
    while forked < 60:
        if os.fork() == 0:
            time.sleep(9)
            os._exit(0)
        forked += 1
finally:
    print(forked, flush=True)
"""


# -- by itself -------------------------------------------------------------------------------------


async def test_what_it_left_in_the_background_ends_with_it(kind: str) -> None:
    mark = token()
    result = await shell(agent(kind), HARDY.format(mark=mark) + "\nsleep 0.2; echo ready; exit 5")
    assert result.text == "ready\n[exit status 5]"
    assert living(mark) == []


@pytest.mark.parametrize("end", ["exit 0", "sleep 30"])
async def test_without_a_control_group_every_process_is_found_as_well(
    kind: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = attrs.evolve(sandbox_report(), group=None, processes="watched", memory="watched")
    monkeypatch.setattr(_shell, "sandbox_report", lambda: report)
    mark = token()
    await shell(agent(kind, timeout=1), HARDY.format(mark=mark) + end)
    assert living(mark) == []


async def test_no_fork_goes_past_the_limit_where_a_control_group_bounds_them(kind: str) -> None:
    if sandbox_report().processes != "cgroup":
        pytest.skip("no control group can be made here")
    result = await python(agent(kind, processes=30), COUNTED)
    assert "BlockingIOError" in result.text
    assert 20 <= int(result.text.split()[0]) <= 33


async def test_it_gets_no_input_and_so_does_not_wait_for_any(kind: str) -> None:
    result = await shell(agent(kind), 'read answer; echo "<$answer>"; cat; tty')
    assert result.text.startswith("<>\nnot a tty")


async def test_it_is_told_which_signal_killed_it(kind: str) -> None:
    assert "SIGSEGV" in (await shell(agent(kind), "kill -SEGV $$")).text
    assert "SIGKILL" in (await python(agent(kind), "import os; os.kill(os.getpid(), 9)")).text


# -- at a limit ------------------------------------------------------------------------------------


async def test_at_its_time_limit_it_is_killed_however_hardy(kind: str) -> None:
    mark = token()
    deaf = f"trap '' TERM HUP INT QUIT; {HARDY.format(mark=mark)} echo begun; while :; do sleep {mark}; done"
    started = trio.current_time()
    result = await shell(agent(kind, timeout=1), deaf)
    assert trio.current_time() - started < 10
    assert result.is_error
    assert result.text == "begun\n[stopped: it did not end within 1 seconds; all its processes were killed]"
    assert living(mark) == []
    result = await shell(agent(kind), f"sleep {mark}", timeout=1)
    assert "within 1 seconds" in result.text
    for wrong in (0, -1, 21, 60_000):
        assert "from 1 to 20" in (await shell(agent(kind), "true", timeout=wrong)).text


async def test_endless_output_is_cut_and_the_writer_killed(kind: str) -> None:
    mark = token()
    result = await shell(agent(kind), f"sleep {mark} & yes this is the line")
    assert result.is_error
    assert len(result.text) < 3 * _processes.KEPT_BYTES
    assert result.text.startswith("this is the line\n")
    assert "[cut: " in result.text
    assert result.text.endswith("[killed: it wrote more than 64 MiB]")
    assert living(mark) == []


async def test_of_much_output_the_beginning_and_the_end_are_kept(kind: str) -> None:
    result = await python(agent(kind), "for n in range(200_000): print(n)")
    lines = result.text.splitlines()
    assert (lines[0], lines[-1]) == ("0", "199999")
    assert not result.is_error
    cut = next(line for line in lines if line.startswith("[cut: "))
    assert cut == "[cut: 1,240,890 of 1,288,890 bytes are left out here]"


async def test_memory_is_bounded(kind: str) -> None:
    mark = token()
    one = "x = bytearray(1_000_000_000); print(len(x))"
    result = await python(agent(kind), one)
    assert result.is_error
    assert "MemoryError" in result.text or "memory" in result.text
    # Many processes with a little each, and shared memory, which no limit of a process counts.
    many = f"""
import os, subprocess, time
subprocess.Popen(["sleep", "{mark}"])
for n in range(8):
    if os.fork() == 0:
        held = bytearray(os.urandom(1)) * 80_000_000
        time.sleep(30)
time.sleep(30)
"""
    shared = """
import mmap, time
held = mmap.mmap(-1, 600_000_000)
for n in range(600):
    held.write(b"x" * 1_000_000)
time.sleep(30)
"""
    for code in (many, shared):
        result = await python(agent(kind), code)
        assert result.is_error
        assert result.text == "[killed: it needed more than 256 MiB of memory]"
    assert living(mark) == []


async def test_pages_that_processes_share_are_counted_once(kind: str) -> None:
    code = """
import os, time
held = b"x" * 100_000_000
children = [os.fork() for _ in range(5)] if (first := os.getpid()) else []
if os.getpid() != first:
    time.sleep(1)
    os._exit(0)
time.sleep(1)
print("done")
"""
    # The children of the first fork fork too: 32 processes of 100 MB each, which are the same 100 MB.
    assert (await python(agent(kind), code)).text == "done"


FORK_BOMB = """
import os, sys, time
def bomb():
    end = time.monotonic() + 20
    while time.monotonic() < end:  # harmless on failure: it ends by itself
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)
bomb()
"""


async def test_a_fork_bomb_harms_nobody(kind: str) -> None:
    async with trio.open_nursery() as nursery:
        result: Any = None

        async def explode() -> None:
            nonlocal result
            result = await python(agent(kind, timeout=3, processes=40), marked)

        mark = token()
        argv = ["python", "-I", "-c", FORK_BOMB, mark]  # known by it, and no other test's
        marked = f"import os, sys; os.execv(sys.executable, {argv!r})"
        nursery.start_soon(explode)
        # Others go on meanwhile.
        for _ in range(3):
            assert (await shell(agent(kind), "echo fine")).text == "fine"
    assert result.is_error
    assert "within 3 seconds" in result.text or "processes" in result.text
    assert living(mark) == []


async def test_a_file_cannot_fill_the_disk(kind: str, tmp_path: Path) -> None:
    result = await shell(agent(kind, folder=tmp_path, file_mb=2), "dd if=/dev/zero of=big bs=1M count=50")
    assert result.is_error
    assert (tmp_path / "big").stat().st_size == 2 * 1024 * 1024
    result = await shell(agent(kind, folder=tmp_path, cpu_seconds=1), "while :; do :; done")
    assert result.is_error
    assert "SIGXCPU" in result.text or "SIGKILL" in result.text


# -- when nobody waits any more ------------------------------------------------------------------------


async def test_a_cancelled_call_leaves_no_process(kind: str) -> None:
    mark = token()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell, agent(kind), HARDY.format(mark=mark) + f"sleep {mark}")
            await until(lambda: sleeping(mark) >= 7)
            scope.cancel()
            cancelled = trio.current_time()
    assert living(mark) == []
    assert trio.current_time() - cancelled < 8


async def test_a_call_that_is_cancelled_at_once_leaves_nothing(kind: str) -> None:
    mark = token()
    await shell(agent(kind), "true")  # what is tried once has been tried
    for delay in (0, 0.001, 0.01, 0.03, 0.06):
        with trio.move_on_after(delay):
            await shell(agent(kind), f"sleep {mark}")
        assert living(mark) == []


async def test_an_aborted_agent_takes_its_commands_along_and_nobody_elses(kind: str) -> None:
    mine, other = token(), token()

    async def run(ctx: AgentContext, mark: str) -> None:
        await shell(agent(kind), HARDY.format(mark=mark) + f"sleep {mark}")

    async with open_agent_pool(max_concurrent=2) as pool:
        handles = [await pool.spawn(run, mark) for mark in (mine, other)]
        await until(lambda: sleeping(mine) >= 7 and sleeping(other) >= 7)
        handles[0].abort("enough")
        assert isinstance(await handles[0].wait(), Aborted)
        assert living(mine) == []
        assert sleeping(other) >= 7
        pool.abort_all("the end")
    assert living(other) == []


async def test_the_loops_own_limit_for_a_tool_is_not_meant_for_commands() -> None:
    require_sandbox()
    tools = {each.definition.name: each for each in build_tools(manifest())}
    assert {tool.timeout for tool in tools.values()} == {float("inf")}


def test_a_pool_in_another_thread_runs_commands_too(kind: str) -> None:
    mark = token()

    async def run(ctx: AgentContext) -> str:
        return (await shell(agent(kind), f"sleep {mark} & echo done")).text

    with open_agent_pool_blocking(max_concurrent=1) as pool:
        assert pool.spawn(run).result() == "done"
    assert living(mark) == []


@pytest.mark.once
def test_a_command_outlives_the_thread_that_started_it() -> None:
    """A worker thread of trio's ends after 10 idle seconds, and what the kernel does for a parent's death
    goes by threads."""
    require_sandbox()

    async def main() -> str:
        return (await shell(agent("bubblewrap"), "sleep 13; echo still here")).text

    assert trio.run(main) == "still here"


# -- when the pool is killed ---------------------------------------------------------------------------

POOL = """
import sys
import trio
from agentpool import AgentManifest, ScriptedDriver, SpawnConfig, open_agent_pool
from agentpool._core.messages import Completion, ToolCall
from agentpool.bridge import open_agent_pool_blocking

kind, way, command = sys.argv[1:]
any_command = {"type": "shell", "allowed_commands": ["*"]}
agent = AgentManifest(name="a", capabilities=[any_command], sandbox=kind)
driver = ScriptedDriver([Completion(tool_calls=[ToolCall("1", "run_shell", {"command": command})]), "done"])

async def main():
    async with open_agent_pool(driver, max_concurrent=1) as pool:
        await (await pool.spawn(SpawnConfig(agent, "go"))).wait()

if way == "trio":
    trio.run(main)
else:
    with open_agent_pool_blocking(driver, max_concurrent=1) as pool:
        pool.spawn(SpawnConfig(agent, "go")).wait()
"""


@contextmanager
def pool_process(kind: str, way: str, command: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real pool, in a process of its own, with a model that runs one command."""
    program = folder / "pool.py"
    program.write_text(POOL)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(program), kind, way, command], env=env) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("way", ["trio", "blocking"])
def test_nothing_outlives_a_pool_that_is_killed(kind: str, way: str, tmp_path: Path) -> None:
    mark = token()
    known = groups_of_the_dead()
    command = f"trap '' TERM HUP INT; {HARDY.format(mark=mark)} while :; do sleep {mark}; done"
    with pool_process(kind, way, command, tmp_path) as process:
        until_blocking(lambda: sleeping(mark) >= 8)
        folder = folder_of(mark)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until_blocking(lambda: not living(mark))
    until_blocking(lambda: folder == "/tmp" or not os.path.exists(folder))
    until_blocking(lambda: groups_of_the_dead() <= known)


def folder_of(mark: str) -> str:
    """The folder of its own that a command has, as what sleeps for a mark knows it."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(b"sleep\0" + mark.encode()):
                found = re.search(rb"TMPDIR=([^\0]*)", path.with_name("environ").read_bytes())
                assert found is not None
                return found[1].decode()
    raise AssertionError("nothing sleeps for it")


def groups_of_the_dead() -> set[str]:
    """The control groups that are left of supervisors which have ended."""
    group = sandbox_report().group
    names = [] if group is None else os.listdir(group.parent)
    made = [name for name in names if name.startswith("agentpool-")]
    return {name for name in made if not os.path.exists(f"/proc/{name.partition('-')[2]}")}


def test_nothing_is_left_of_what_a_killed_pool_was_just_starting(kind: str, tmp_path: Path) -> None:
    mark = token()
    with pool_process(kind, "trio", f"sleep {mark}", tmp_path) as process:
        until_blocking(lambda: any("_supervisor.py" in line for line in _children_of(process.pid)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        until_blocking(lambda: not living(mark))


def _children_of(pid: int) -> list[str]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found.append(Path(f"/proc/{child}/cmdline").read_bytes().decode())
    return found


@pytest.mark.parametrize("has_group", [True, False])
async def test_a_supervisor_that_is_killed_takes_the_command_along(
    kind: str, has_group: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = token()
    known = groups_of_the_dead()
    results = []
    report = sandbox_report()
    if not has_group:
        report = attrs.evolve(report, group=None, processes="watched", memory="watched")
    elif report.group is None:
        pytest.skip("no control group can be made here")
    monkeypatch.setattr(_shell, "sandbox_report", lambda: report)
    # Without sandbox and control group nobody knows of what has left the command.
    others = HARDY.format(mark=mark) if has_group or kind == "bubblewrap" else ""

    async def run() -> None:
        results.append(await shell(agent(kind), f"{others} exec sleep {mark}"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await until(lambda: sleeping(mark) >= (8 if others else 1))
        folder = folder_of(mark)
        (supervisor,) = _supervisors()
        os.kill(supervisor, signal.SIGKILL)
    assert results[0].is_error
    assert "the process that watches it died" in results[0].text
    await until(lambda: not living(mark))
    await until(lambda: groups_of_the_dead() <= known)
    assert folder == "/tmp" or not os.path.exists(folder)  # noqa: ASYNC240


def _supervisors() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"_supervisor.py" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


# -- the supervisor ------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have the supervisor run as a module, so that coverage sees it."""
    command = [sys.executable, "-c", "from agentpool.tools._supervisor import main; main()"]
    options = _processes.supervisor_options()

    def options_of_tests() -> dict[str, Any]:
        return {**options, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "cwd": str(ROOT)}

    monkeypatch.setattr(_processes, "supervisor_command", lambda: command)
    monkeypatch.setattr(_processes, "supervisor_options", options_of_tests)
    return lambda: None


@pytest.mark.usefixtures("measured")
async def test_a_supervisor_does_its_work_also_as_a_module(kind: str, tmp_path: Path) -> None:
    mark = token()
    assert (await shell(agent(kind), HARDY.format(mark=mark) + "exit 5")).text == "[exit status 5]"
    assert "within 1 seconds" in (await shell(agent(kind, timeout=1), f"sleep {mark}")).text
    with trio.move_on_after(1):
        await shell(agent(kind), f"sleep {mark}")
    assert living(mark) == []
    many = "import os, time\nfor n in range(4):\n  if os.fork() == 0: held = bytearray(90_000_000)\n"
    assert "memory" in (await python(agent(kind), many + "time.sleep(9)")).text
    assert (await python(agent(kind, folder=tmp_path), "print(1)")).text == "1"


def job(**options: Any) -> _processes.Job:
    usual = {"argv": ["true"], "env": {"PATH": "/usr/bin:/bin"}, "is_bwrap": False, "cwd": None}
    return _processes.Job(**{**usual, **options})


@pytest.mark.usefixtures("measured")
async def test_what_cannot_be_started_is_told() -> None:
    _, ending = await _processes.run_job(job(argv=["/nowhere/x"]))
    assert ending.problem == "there is no program '/nowhere/x'"
    _, ending = await _processes.run_job(job(cwd="/nowhere"))
    assert ending.problem.startswith("the directory cannot be entered: ")
    _, ending = await _processes.run_job(job(argv=["/etc/passwd"]))
    assert "Permission denied" in ending.problem
    _, ending = await _processes.run_job(job(groups=[{"parent": "/nowhere", "limits": {}}]))
    assert ending.why == "setup"
    assert "/nowhere" in ending.problem
    _, ending = await _processes.run_job(
        job(watched={"processes": 3}, argv=["sh", "-c", "sleep 9 & sleep 9 & sleep 9 & wait"])
    )
    assert ending == Ending("processes", -9)


async def test_a_machine_that_starts_no_process_is_an_error_of_the_tool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    result = await shell(agent("none"), "true")
    assert result.is_error
    assert "no process can be started" in result.text


def test_a_supervisor_without_a_pool_does_nothing() -> None:
    command = [sys.executable, "-I", "-S", str(_processes.SUPERVISOR)]
    for given in (b"", b"\0\0", b"\0\0\0\x09N"):
        done = subprocess.run(command, input=given, capture_output=True, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    mark = token()
    for parent in (1, 2**22 + 1):  # one that is there, and one that is not any more
        told = {**marshal.loads(job(argv=["sleep", mark]).encode()[4:]), "parent": parent}
        data = marshal.dumps(told)
        orphan = len(data).to_bytes(4, "big") + data
        done = subprocess.run(command, input=orphan, capture_output=True, timeout=30)
        assert (done.returncode, done.stdout, living(mark)) == (0, b"", [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_who_is_not_root_is_bounded_in_a_user_namespace() -> None:
    """The kernel counts the processes of a user namespace apart from all others of the same user."""
    require_sandbox()
    for program in ("/usr/bin/python3", "/usr/bin/setpriv"):
        if not os.access(program, os.X_OK):
            pytest.skip(f"there is no {program}, which everybody may run")
    sandbox = Sandbox.of(manifest(commands=CommandLimits(timeout=10, processes=20)))
    command = ["/usr/bin/python3", "-I", "-c", COUNTED]
    made = sandbox.job(sandbox_report(), command, roots=sandbox.roots(), cwd=None, timeout=10)
    nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "/usr/bin/python3",
        "-I",
        "-S",
        "-c",
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*nobody, _processes.SUPERVISOR.read_text()], **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(attrs.evolve(made, groups=()).encode())
        process.stdin.flush()
        output, told = process.stderr.read().decode(), process.stdout.read().decode()
        process.stdin.close()
    assert told.startswith("ended "), output
    assert "BlockingIOError" in output
    found = re.search(r"(?m)^\d+$", output)
    assert found is not None, output
    assert 15 <= int(found[0]) <= 23, output
