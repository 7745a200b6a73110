"""What the tests of commands share: agents that may run them, and a look at what is left of them."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from agentpool import AgentManifest, CommandLimits, ToolContext, ToolResult, sandbox_report
from agentpool._core.messages import ToolCall
from agentpool.tools import build_tools

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="commands are run on Linux only")

ANY = {"type": "shell", "allowed_commands": ["*"]}
NO_CONTEXT = cast("ToolContext", None)

_numbers = itertools.count()


def require_sandbox() -> None:
    """Skip the test where bubblewrap does not work; fail it if `AGENTPOOL_REQUIRE_BUBBLEWRAP` is set."""
    report = sandbox_report()
    if not report.works:
        if os.environ.get("AGENTPOOL_REQUIRE_BUBBLEWRAP"):
            pytest.fail(f"bubblewrap is required here: {report.problem}")
        pytest.skip(report.problem)


def reading(*paths: Path | str) -> dict[str, Any]:
    return {"type": "file_read", "allowed_paths": [str(path) for path in paths]}


def writing(*paths: Path | str) -> dict[str, Any]:
    return {"type": "file_write", "allowed_paths": [str(path) for path in paths]}


def manifest(*capabilities: Any, **keys: Any) -> AgentManifest:
    """An agent that may run any command, unless other capabilities are given."""
    return AgentManifest(name="a", capabilities=capabilities or (ANY, "compute"), **keys)


def small(**limits: int) -> CommandLimits:
    return CommandLimits(**{"timeout": 20, "memory_mb": 256, "processes": 48, **limits})


async def call(agent: AgentManifest, tool: str, **arguments: Any) -> ToolResult:
    """Call a tool as the loop does, within a time that no command here needs."""
    with trio.fail_after(60):
        return await build_tools(agent).call(NO_CONTEXT, ToolCall("1", tool, arguments))


async def shell(agent: AgentManifest, command: str, **arguments: Any) -> ToolResult:
    return await call(agent, "run_shell", command=command, **arguments)


async def python(agent: AgentManifest, code: str, **arguments: Any) -> ToolResult:
    return await call(agent, "run_python", code=code, **arguments)


# -- processes -----------------------------------------------------------------------------------


def token() -> str:
    """A number of seconds that is no other's: what sleeps so long is known by its arguments."""
    return f"98765.{os.getpid()}{next(_numbers):04}"


def living(mark: str) -> list[str]:
    """The command lines of all processes of this machine in which a mark stands."""
    return [line for line in _command_lines() if mark in line]


def _command_lines() -> Iterator[str]:
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            yield line.replace(b"\0", b" ").decode("utf-8", "replace")


def sleeping(mark: str) -> int:
    """How many processes sleep for a mark: those which the command itself has started."""
    return sum(line.startswith(f"sleep {mark}") for line in _command_lines())


async def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something holds that processes bring about, which nothing tells of."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


def until_blocking(condition: Callable[[], object], seconds: float = 120) -> None:
    """As `until`, outside of trio."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)
