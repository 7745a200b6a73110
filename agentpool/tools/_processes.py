"""Runs a command below a supervisor, and keeps what it writes within bounds."""

from __future__ import annotations

import marshal
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast, get_args

import attrs
import trio

from agentpool._blocking import run_blocking
from agentpool._core.commands import Captured, Ending, Why
from agentpool._core.errors import ToolError

SUPERVISOR = Path(__file__).with_name("_supervisor.py")


def group_path(parent: str, supervisor: int) -> str:
    """Return where a supervisor makes a control group."""
    return os.path.join(parent, f"agentpool-{supervisor}")


KEPT_BYTES = 24_000
"""So much of the beginning of an output is kept, and so much of its end."""

MOST_BYTES = 64 * 1024 * 1024
"""Who writes more is killed: nobody reads it, and a pipe that is emptied costs the pool its time."""

CLEAN_UP_SECONDS = 15.0  # more than the supervisor takes to give up
_PIECE = 65_536


@attrs.frozen(kw_only=True)
class Job:
    """One command, as a supervisor is told of it.

    Attributes:
      argv: the program and its arguments; what begins with a NUL stands for something that only the
        supervisor knows.
      env: its whole environment.
      cwd: where it is started; None for a folder of its own, which is removed after it.
      timeout: seconds that it may take.
      is_bwrap: whether the program is bubblewrap.
      data: what is in the files that bubblewrap is given by descriptors.
      files: the names and texts of files in the folder of its own.
      rlimits: limits of each process, by the names of the module `resource`.
      inner_rlimits: those that count in the sandbox only.
      groups: the control groups to make, each with its `parent` and its `limits`.
      folder: the folder of its own, where it is not in a sandbox.
      watched: what nothing but the supervisor looks after, `memory` in bytes and `processes`.
      streams: the descriptors that are the standard input and output of a command that its pool talks to;
        none of one that has nothing to read.
      patience: seconds that such a command has to end when it is not wanted any more, and once more when it
        was told to.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str | None = "/"
    timeout: float = 60.0
    is_bwrap: bool = True
    data: Sequence[str | bytes] = ()
    files: Mapping[str, str] = attrs.field(factory=dict)
    rlimits: Mapping[str, int] = attrs.field(factory=dict)
    inner_rlimits: Mapping[str, int] = attrs.field(factory=dict)
    groups: Sequence[Mapping[str, Any]] = ()
    watched: Mapping[str, int] = attrs.field(factory=dict)
    streams: Sequence[int] = ()
    patience: float = 0.0
    folder: str = attrs.field(init=False, factory=lambda: f"/tmp/agentpool-{os.urandom(8).hex()}")

    def encode(self) -> bytes:
        """Return what the supervisor reads."""
        told = attrs.asdict(self, value_serializer=_plain)
        told |= {"parent": os.getpid(), "folder": "" if self.is_bwrap or self.streams else self.folder}
        data = marshal.dumps(told, 4)  # quicker to import than json, for a process that starts each time
        return len(data).to_bytes(4, "big") + data


def _plain(instance: object, field: object, value: Any) -> Any:
    """Return what can be marshalled."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def supervisor_options() -> dict[str, Any]:
    """Return how a supervisor is started."""
    # A session of its own: Ctrl-C in the terminal is for the pool, which then ends it.
    names = ("LD_LIBRARY_PATH",)  # which its Python may need to start
    env = {name: os.environ[name] for name in names if name in os.environ}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return {**pipes, "cwd": "/", "env": env, "start_new_session": True}


def supervisor_command() -> list[str]:
    """Return what is started as a supervisor."""
    return [sys.executable, "-I", "-S", str(SUPERVISOR)]


def ending_of(told: bytes, output: bytes) -> Ending:
    """Return how it ended, of what the supervisor told."""
    text = output.decode("utf-8", "backslashreplace").strip()
    found = _TOLD.fullmatch(told.decode("utf-8", "replace"))
    if found is None:
        return Ending("setup", problem=f"the process that watches it died. {text[-2000:]}".strip())
    why = cast("Why", found["why"])
    if why == "ended" and found["started"] == "0":
        return Ending("setup", problem=text or f"bubblewrap ended with {found['status']}")
    status = None if found["status"] == "-" else int(found["status"])
    return Ending(why, status, found["problem"], int(found["survivors"]))


_TOLD = re.compile(
    rf"(?P<why>{'|'.join(get_args(Why))}) (?P<status>-|-?\d+) (?P<started>[01])"
    r" (?P<survivors>\d+) (?P<problem>.*)",
    re.DOTALL,
)


class _Reader:
    """Reads an output to its end, and keeps its beginning and its end."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._size = 0
        self.ended = trio.Event()

    @property
    def captured(self) -> Captured:
        return Captured(bytes(self._head), bytes(self._tail[-KEPT_BYTES:]), self._size)

    @property
    def is_too_much(self) -> bool:
        return self._size > MOST_BYTES

    def take(self, piece: bytes) -> None:
        self._size += len(piece)
        room = KEPT_BYTES - len(self._head)
        self._head += piece[:room] if room > 0 else b""
        self._tail += piece[max(room, 0) :]
        if len(self._tail) > 4 * KEPT_BYTES:  # now and then, so that each byte is moved once or twice
            del self._tail[:-KEPT_BYTES]

    async def read(self, stream: trio.abc.ReceiveStream, at_limit: trio.abc.AsyncResource) -> None:
        """Read until the end, or until it is too much; then close `at_limit`."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while not self.is_too_much and (piece := await stream.receive_some(_PIECE)):
                self.take(bytes(piece))
        if self.is_too_much:
            await at_limit.aclose()
        self.ended.set()


async def run_job(job: Job) -> tuple[Captured, Ending]:
    """Run a command until none of its processes is left.

    Raises:
      ToolError: if the supervisor cannot be started.

    Checkpoint: always. Cancellation: every process of the command is killed, and waited for, for a few
    seconds at the most; what it wrote is lost.
    """
    try:
        process = await trio.lowlevel.open_process(supervisor_command(), **supervisor_options())
    except OSError as error:
        raise ToolError(f"no process can be started: {error}") from error
    reader = _Reader()
    try:
        told = await _attend(process, job, reader)
    finally:
        with trio.move_on_after(CLEAN_UP_SECONDS, shield=True):
            await _end(process)
            if process.returncode != 0:
                await _end_groups([group_path(group["parent"], process.pid) for group in job.groups])
                await run_blocking(shutil.rmtree, job.folder, True)
    captured = reader.captured
    ending = ending_of(told, captured.head + captured.tail)
    return captured, attrs.evolve(ending, why="output") if reader.is_too_much else ending


async def _attend(process: trio.Process, job: Job, reader: _Reader) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    told = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.read, process.stderr, process.stdin)
        with suppress(trio.BrokenResourceError):  # it died: there is nothing to be told then
            await process.stdin.send_all(job.encode())
        while piece := await process.stdout.receive_some(_PIECE):
            told += piece
        # Nobody is left who could write, unless the kernel holds a process that was killed.
        with trio.move_on_after(1):
            await reader.ended.wait()
        nursery.cancel_scope.cancel()
    return bytes(told)


async def _end(process: trio.Process) -> None:
    """Have the supervisor kill what is left, and wait for it."""
    streams = (process.stdin, process.stdout, process.stderr)
    try:
        if process.stdin is not None:
            await process.stdin.aclose()
        with trio.move_on_after(CLEAN_UP_SECONDS - 2):
            await process.wait()
        if process.returncode is None:
            process.kill()  # the kernel kills the command with it
            await process.wait()
    finally:
        for stream in streams:
            if stream is not None:
                await trio.aclose_forcefully(stream)


async def _end_groups(paths: Sequence[str]) -> None:
    """Do what a supervisor has left that was killed: kill what is in its control groups, and remove them."""
    for _ in range(100):
        paths = [path for path in paths if not _is_removed(path)]
        if not paths:
            return
        await trio.sleep(0.01)


def _is_removed(path: str) -> bool:
    with suppress(OSError, ValueError):
        for line in Path(path, "cgroup.procs").read_text().split():
            os.kill(int(line), signal.SIGKILL)
    with suppress(OSError):
        os.rmdir(path)
    return not os.path.exists(path)


def run_job_blocking(job: Job) -> tuple[bytes, Ending]:
    """Run a command that writes little, and return what it wrote; for trying what works here. Blocks.

    Raises:
      OSError: if the supervisor cannot be started.
    """
    with subprocess.Popen(supervisor_command(), **supervisor_options()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write(job.encode())
            process.stdin.flush()
            output = process.stderr.read()
            told = process.stdout.read()
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
    return output, ending_of(told, output)
