"""Programs that live as long as their pool, which talks to them: each below a supervisor of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import attrs
import trio

from agentpool.tools import _processes

_PIECE = 4096
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


def can_supervise() -> bool:
    """Whether this system has what a supervisor needs; that is Linux since 5.3, with /proc."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return os.path.exists("/proc/self/stat")


@attrs.define(eq=False)
class Service:
    """A program below a supervisor, which ends it, and all that it started, also when this process dies.

    Attributes:
      stdin, stdout, stderr: the other ends of its streams.
      pid: its process; 0 before it was started.
      returncode: how it ended; None if it has not, or nobody could tell.
      problem: why it could not be started, or is not known how it ended.
    """

    stdin: trio.abc.SendStream
    stdout: trio.abc.ReceiveStream
    stderr: trio.abc.ReceiveStream
    _control: trio.abc.SendStream
    _reports: trio.abc.ReceiveStream
    _supervisor: trio.Process
    pid: int = attrs.field(default=0, init=False)
    returncode: int | None = attrs.field(default=None, init=False)
    problem: str = attrs.field(default="", init=False)
    _told: bytearray = attrs.field(factory=bytearray, init=False)
    _is_told_all: bool = attrs.field(default=False, init=False)
    _reading: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    @classmethod
    async def started(
        cls, argv: Sequence[str], env: Mapping[str, str], cwd: str | None, patience: float
    ) -> Service:
        """Start a program.

        Args:
          argv: the program and its arguments.
          env: its whole environment.
          cwd: where it is started; None for where this process is.
          patience: seconds that it has to end when it is not wanted any more, and once more when it was told
            to.

        Raises:
          OSError: if it cannot be started.
          ValueError: if an argument or a variable has a NUL.

        Checkpoint: always. Cancellation: what was started is killed.
        """
        if any("\0" in text for text in (*argv, *env, *env.values())):
            raise ValueError("a NUL in an argument or a variable")
        service, streams = await cls._with_supervisor(cwd)
        job = _processes.Job(
            argv=argv, env=env, cwd=".", timeout=0, is_bwrap=False, streams=streams, patience=patience
        )
        try:
            with suppress(*_GONE):  # it died: then it tells nothing
                await service._control.send_all(job.encode())
            await service._hear(lambda: service.pid != 0)
        except BaseException:
            await service._discard()
            raise
        if not service.pid:
            await service._discard()
            raise OSError(service.problem)
        return service

    @classmethod
    async def _with_supervisor(cls, cwd: str | None) -> tuple[Service, tuple[int, int]]:
        """Start a supervisor; return it with the numbers that the program's streams have there."""
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        # The program has the standard error of its supervisor, so that this one's last words are read, too.
        options = {**_processes.supervisor_options(), "cwd": cwd, "pass_fds": (theirs_in, theirs_out)}
        try:
            process = await trio.lowlevel.open_process(_processes.supervisor_command(), **options)
        except BaseException:
            os.close(ours_in)
            os.close(ours_out)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        service = cls(
            trio.lowlevel.FdStream(ours_in),
            trio.lowlevel.FdStream(ours_out),
            process.stderr,
            process.stdin,
            process.stdout,
            process,
        )
        return service, (theirs_in, theirs_out)

    async def _discard(self) -> None:
        with trio.CancelScope(shield=True):
            await self.end(at_once=True)
            for stream in (self.stdout, self.stderr):
                await trio.aclose_forcefully(stream)

    @property
    def is_abandoned(self) -> bool:
        """Whether its supervisor died before it could end all that it started."""
        return self._is_told_all and bool(self.pid and self.problem)

    async def wait(self) -> None:
        """Wait until it has ended, or nobody can tell any more.

        Checkpoint: always. Cancellation: others may wait as well.
        """
        await self._hear(lambda: self.returncode is not None)

    async def end(self, *, at_once: bool) -> None:
        """Have it end, and everything that it started: by closing its input, by SIGTERM, by SIGKILL.

        Args:
          at_once: whether it has no time to end by itself.

        Checkpoint: always. Cancellation: it is ended nevertheless, and nobody waits for that.
        """
        try:
            with suppress(*_GONE):
                await self.stdin.aclose()
            with suppress(*_GONE):
                await self._control.send_all(b"k" if at_once else b"e")
        finally:
            await trio.aclose_forcefully(self._control)
        await self._supervisor.wait()
        await self._hear(lambda: False)
        await self._reports.aclose()

    async def _hear(self, is_enough: Callable[[], bool]) -> None:
        """Read what the supervisor tells until that is enough, or all."""
        await trio.lowlevel.checkpoint()
        async with self._reading:
            while not is_enough() and not self._is_told_all:
                piece = await self._reports.receive_some(_PIECE)
                self._told += piece
                self._understand(is_all=not piece)

    def _understand(self, *, is_all: bool) -> None:
        *lines, rest = self._told.split(b"\n")
        for line in lines:
            what, _, number = line.partition(b" ")
            if what == b"started":
                self.pid = int(number)
            else:
                self.returncode = int(number)
        self._told = rest
        if is_all:
            self._is_told_all = True
            ending = _processes.ending_of(bytes(rest), b"")
            self.problem = ending.problem
            if self.returncode is None and self.pid:
                self.returncode = ending.status
