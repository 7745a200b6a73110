"""The processes of MCP servers when their pool, or the process that watches them, is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

pytest.importorskip("mcp")

from mcp_kit import Inside, by_hand, is_alive, kill

from agentpool import McpServer, McpServerError
from agentpool.tools import _processes, _services
from agentpool.tools.mcp import _processes as mcp_processes
from agentpool.tools.mcp import open_server

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not _services.can_supervise(), reason="needs what Linux has"),
]

ROOT = Path(__file__).parent.parent.parent
HAND = Path(__file__).with_name("hand_server.py")

POOL = """
import os
import sys
import time
import trio
from agentpool import AgentContext, McpServer, open_agent_pool
from agentpool.bridge import open_agent_pool_blocking
from agentpool.tools.mcp import open_server

way, ready, *command = sys.argv[1:]

async def agent(ctx: AgentContext) -> None:
    async with open_server(McpServer("hand", "stdio", command)) as server:
        assert (await server.call("go")).text == "call 1"
        if way == "forked" and os.fork() == 0:  # which has all that is open here
            time.sleep(20)
            os._exit(0)
        open(ready, "w").close()
        await trio.sleep_forever()

async def main():
    async with open_agent_pool(max_concurrent=1) as pool:
        await (await pool.spawn(agent)).wait()

if way != "blocking":
    trio.run(main)
else:
    with open_agent_pool_blocking(max_concurrent=1) as pool:
        pool.spawn(agent).wait()
"""


@contextmanager
def pool_process(way: str, folder: Path, *tricks: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real pool, in a process of its own, with a server that has answered once."""
    program, ready = folder / "pool.py", folder / "ready"
    program.write_text(POOL)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), way, str(ready), sys.executable, str(HAND), *tricks]
    with subprocess.Popen(command, env=env) as process:
        try:
            until(ready.exists)
            yield process
        finally:
            process.kill()


def until(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def end(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            kill(pid)


@pytest.mark.parametrize("way", ["trio", "blocking", "forked"])
def test_no_server_outlives_a_pool_that_is_killed_however_deaf_it_is(way: str, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pool_process(way, tmp_path, "family", "stubborn", f"pids={pids}") as process:
        family = [int(pid) for pid in pids.read_text().split()]
        try:
            assert len(family) == 3
            assert all(map(is_alive, family))
            began = time.monotonic()
            process.send_signal(signal.SIGKILL)
            process.wait()
            until(lambda: not any(map(is_alive, family)), 5)
            assert time.monotonic() - began < 1.8  # 0.7 s on a machine that has nothing else to do
        finally:
            end(family)


def test_a_server_of_a_killed_pool_may_still_end_by_itself(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with pool_process("trio", tmp_path, f"bye={said}") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(said.exists)


# -- when the process that watches it is killed -------------------------------------------------------


def _watched_by(pid: int) -> int:
    """Return the process that watches a server."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_server_whose_watcher_is_killed_ends_and_is_started_again(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with open_server(by_hand("family", "stubborn", f"pids={pids}")) as server:
        family = [int(pid) for pid in pids.read_text().split()]
        watcher = _watched_by(family[0])
        assert b"_supervisor.py" in Path(f"/proc/{watcher}/cmdline").read_bytes()  # noqa: ASYNC240
        kill(watcher)
        with trio.fail_after(120):
            while True:
                try:
                    assert (await server.call("go")).text == "call 1"
                    break
                except McpServerError as error:
                    assert "the process that watches it died" in str(error)  # noqa: PT017
        with trio.fail_after(60):  # the next one may be there before the last one is gone
            while any(map(is_alive, family)):
                await trio.sleep(0.01)
        family = [int(pid) for pid in pids.read_text().split()]
    assert not any(map(is_alive, family))


# -- what a supervisor does beside that --------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the supervisor run as a module, so that coverage sees it."""
    command = [sys.executable, "-c", "from agentpool.tools._supervisor import main; main()"]
    options = _processes.supervisor_options()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    monkeypatch.setattr(_processes, "supervisor_command", lambda: command)
    monkeypatch.setattr(_processes, "supervisor_options", lambda: {**options, "env": env})


@pytest.mark.usefixtures("measured")
async def test_a_supervisor_does_its_work_also_as_a_module(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with open_server(by_hand("family", "stubborn", f"pids={pids}")) as server:
        assert (await server.call("go")).text == "call 1"
    assert not any(map(is_alive, map(int, pids.read_text().split())))
    with pytest.raises(McpServerError, match="a message of more than"):
        async with open_server(by_hand("long-line", "stubborn", max_result_bytes=2000)) as server:
            await server.call("go")
    async with open_server(by_hand("die")) as server:
        with pytest.raises(McpServerError, match="exit code 3; it wrote last: these are the last words"):
            await server.call("go")


async def test_no_zombie_stays_of_what_a_server_leaves_behind(tmp_path: Path) -> None:
    inside = Inside(tmp_path / "log")
    async with open_server(by_hand("orphans", f"pid={inside.log}")) as server:
        await server.call("go")
        watcher = _watched_by(inside.pids()[0])
        children = Path(f"/proc/{watcher}/task/{watcher}/children")
        with trio.fail_after(120):
            while children.read_text().split() != [str(inside.pids()[0])]:  # noqa: ASYNC240
                await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("command", "cwd", "told"),
    [
        (["/etc/passwd"], None, "cannot start '/etc/passwd': Permission denied"),
        (["true"], "/no/such/directory", "cannot start 'true' in '/no/such/directory': No such file"),
        (["no-such-program-anywhere"], None, "cannot start 'no-such-.*: No such file or directory"),
    ],
)
async def test_what_cannot_be_started_is_told(command: list[str], cwd: str | None, told: str) -> None:
    with pytest.raises(McpServerError, match=told):
        async with open_server(McpServer("x", "stdio", command, cwd=cwd)):
            pass


async def test_a_watcher_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_processes, "supervisor_command", lambda: ["/nowhere/python"])
    with pytest.raises(McpServerError, match=r"cannot start .*No such file"):
        async with open_server(by_hand()):
            pass
    monkeypatch.setattr(_processes, "supervisor_command", lambda: ["false"])
    with pytest.raises(McpServerError, match=r"cannot start .*the process that watches it died"):
        async with open_server(by_hand()):
            pass


async def test_who_is_cancelled_while_it_starts_leaves_no_process(tmp_path: Path) -> None:
    open_files = len(os.listdir("/proc/self/fd"))
    inside = Inside(tmp_path / "log")
    for delay in (0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08):
        with trio.move_on_after(delay):
            command = [sys.executable, str(HAND), f"pid={inside.log}"]
            service = await _services.Service.started(command, dict(os.environ), None, 1.0)
            try:
                await trio.sleep_forever()
            finally:
                await service._discard()
        assert not any(map(is_alive, inside.pids()))
    assert len(os.listdir("/proc/self/fd")) <= open_files + 1


# -- where there is no supervisor ----------------------------------------------------------------------


@pytest.mark.parametrize("has_proc", [True, False])
async def test_without_a_watcher_a_server_ends_with_its_pool_as_well(
    has_proc: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_processes, "can_supervise", lambda: False)
    if not has_proc:  # then those are found that stayed in its process group
        monkeypatch.setattr(mcp_processes, "_pids", list)
    pids = tmp_path / "pids"
    async with open_server(by_hand("family", "stubborn", f"pids={pids}")) as server:
        assert (await server.call("go")).text == "call 1"
        own, far, near = [int(pid) for pid in pids.read_text().split()]
        assert _watched_by(own) == os.getpid()
    assert not is_alive(own)
    assert not is_alive(near)
    assert is_alive(far) != has_proc
    end([far])


def test_where_the_kernel_is_too_old_there_is_no_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError("Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert not _services.can_supervise()
    monkeypatch.delattr(os, "pidfd_open")
    assert not _services.can_supervise()
