"""The processes of servers: started with a clean environment, ended with all that they started.

Where the system allows it, each has a supervisor between it and the pool: whatever the pool dies of, the
server and all that it started end then. Elsewhere a server that ignores the end of its input outlives a pool
that is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import trio

from agentpool._core.errors import McpServerError
from agentpool._core.mcp import INHERITED, filled
from agentpool._core.mcp_servers import McpServer
from agentpool.tools._services import Service, can_supervise

MARK = "AGENTPOOL_MCP_PROCESS"
"""A variable that a server's process and all that it starts have: by it they are found again."""

ERRORS_KEPT = 4096
"""So many bytes of what a server wrote on standard error are kept."""

ENDING_TIME = 1.0
"""So many seconds a server has to end when its input was closed, and once more when it was told to."""


def environment_of(server: McpServer, environment: dict[str, str]) -> dict[str, str]:
    """Return the environment of a server's process: a few variables of ours, and those of `env`.

    Raises:
      McpServerError: if a variable is not there that `env` names.
    """
    try:
        own = filled(server.env, environment)
    except ValueError as error:
        raise McpServerError(server.name, f"{error}, which its env names") from None
    return {**{name: environment[name] for name in INHERITED if name in environment}, **own}


@attrs.define(eq=False)
class Child:
    """A server's process.

    Attributes:
      process: it, below a supervisor where that is possible.
      mark: what stands in the environment of all that it started.
    """

    process: Service | trio.Process
    mark: str
    _errors: bytearray = attrs.field(factory=bytearray)

    @classmethod
    async def started(cls, server: McpServer) -> Child:
        """Start the program of a server, in a process group of its own.

        Raises:
          McpServerError: if it cannot be started.
        """
        mark = uuid.uuid4().hex
        environment = {**environment_of(server, dict(os.environ)), MARK: mark}
        start = Service.started if can_supervise() else _started_alone
        try:
            process = await start(server.command, environment, server.cwd, ENDING_TIME)
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            # Where the directory is at fault, it is what the error names.
            at_fault = getattr(error, "filename", None)
            where = f" in {server.cwd!r}" if at_fault and at_fault == server.cwd else ""
            raise McpServerError(server.name, f"cannot start {server.command[0]!r}{where}: {said}") from error
        return cls(process, mark)

    async def read_errors(self) -> None:
        """Read what it writes on standard error, and keep the end of it."""
        stream = self.process.stderr
        assert stream is not None
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            async for chunk in stream:
                self._errors += chunk
                del self._errors[:-ERRORS_KEPT]

    def told(self) -> str:
        """Return how it ended, and what it said last."""
        code = self.process.returncode
        if code is None:
            ended = (isinstance(self.process, Service) and self.process.problem) or "it closed its output"
        else:
            ended = f"signal {-code} ended it" if code < 0 else f"it ended with exit code {code}"
        last = self._errors.decode("utf-8", "replace").strip().splitlines()[-5:]
        return f"{ended}; it wrote last: {' | '.join(last)[-1000:]}" if last else ended

    async def end(self, *, at_once: bool) -> None:
        """Have it end, and everything that it started: by closing its input, by SIGTERM, by SIGKILL.

        Args:
          at_once: whether it has no time to end by itself.
        """
        process = self.process
        try:
            if isinstance(process, Service):
                await process.end(at_once=at_once)
                if process.is_abandoned:
                    await self._kill_all(process)
            else:
                await self._end_alone(process, at_once=at_once)
        finally:
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    await trio.aclose_forcefully(stream)

    async def _end_alone(self, process: trio.Process, *, at_once: bool) -> None:
        """Have a process end that has no supervisor."""
        if process.stdin is not None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                await process.stdin.aclose()
        if not at_once:
            with trio.move_on_after(ENDING_TIME):
                await process.wait()
        if self._signal(process, signal.SIGTERM) and not at_once:
            with trio.move_on_after(ENDING_TIME):
                while self._are_alive(process):  # noqa: ASYNC110 - nothing tells of their end
                    await trio.sleep(0.02)
        await self._kill_all(process)
        with trio.move_on_after(ENDING_TIME):
            await process.wait()

    async def _kill_all(self, process: Service | trio.Process) -> None:
        for _ in range(20):  # what is being started as we look is found the next time
            if not self._signal(process, signal.SIGKILL):
                break
            await trio.sleep(0.01)

    def _are_alive(self, process: trio.Process) -> bool:
        return self._signal(process, 0)

    def _signal(self, process: Service | trio.Process, number: int) -> bool:
        """Send a signal to all of them; return whether there was anybody."""
        reached = False
        if isinstance(process, trio.Process) and process.poll() is None:  # else it would look alive
            with suppress(ProcessLookupError, PermissionError):
                process.send_signal(number)
                reached = True
        for pid in (*_in_group(process.pid), *_marked(self.mark)):
            if pid != process.pid or isinstance(process, Service):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
                    reached = True
        if (
            not _pids() and sys.platform != "win32"
        ):  # nothing tells who they are; who has left the group stays
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
                reached = True
        return reached


def _in_group(group: int) -> list[int]:
    """Return the processes of a process group that are not dead; empty where there is no /proc."""
    return [pid for pid in _pids() if _group_of(pid) == group]


def _group_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return int(fields[2]) if len(fields) > 2 and fields[0] not in "ZX" else 0


def _marked(mark: str) -> list[int]:
    """Return the processes whose environment holds a mark, also those that have left the group."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for pid in _pids():
        with suppress(OSError):  # of other users, or gone
            if wanted in Path(f"/proc/{pid}/environ").read_bytes() and _group_of(pid):
                found.append(pid)
    return found


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


async def _started_alone(
    command: Sequence[str], environment: Mapping[str, str], cwd: str | None, _: float
) -> trio.Process:
    return await trio.lowlevel.open_process(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=cwd,
        start_new_session=True,
    )
