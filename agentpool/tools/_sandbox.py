"""What one agent's commands may reach, as jobs for a supervisor."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from agentpool._core.capability import FileReadCapability, FileWriteCapability
from agentpool._core.errors import CapabilityDeniedError, ToolError
from agentpool._core.manifest import AgentManifest
from agentpool._core.sandboxing import (
    MEBIBYTE,
    CommandLimits,
    Mount,
    Roots,
    SandboxKind,
    bwrap_arguments,
    is_within,
    network_of,
    outermost,
)
from agentpool.tools._host import FIRST_USER, SYSTEM_PATH, SandboxReport, system_mounts
from agentpool.tools._links import PlantedLinkError, links
from agentpool.tools._processes import Job

_users = itertools.count()

# -- the granted roots -------------------------------------------------------------------


def find_roots(
    read: Iterable[str], write: Iterable[str], base: Path | None, *, follows_links: bool = True
) -> Roots:
    """Return the real paths of granted roots.

    A root that is reached through a directory that a command may write to is a part of that one, and
    not looked up by itself: the command may have put a link in its place.

    Args:
      read: the paths that may be read.
      write: those that may be written.
      base: the directory that relative ones are relative to.
      follows_links: whether links in them are followed; else a path with one is missing.
    """
    top = os.path.abspath(base or ".")
    writable = [os.path.abspath(os.path.join(top, path)) for path in write]
    readable = [os.path.abspath(os.path.join(top, path)) for path in read]
    resolved = {path: _resolved(path, follows_links) for path in (*writable, *readable)}
    missing = [path for path, place in resolved.items() if place is None]
    real = {path: place for path in writable if (place := resolved[path]) is not None}
    trusted = [
        place
        for path, place in real.items()
        if not _is_reached_through(path, [other for name, other in real.items() if name != path])
    ]
    found = outermost(trusted)
    read_only = [
        place
        for path in readable
        if (place := resolved[path]) is not None and not _is_reached_through(path, found)
    ]
    return Roots(outermost(read_only, found), found, tuple(missing))


def _resolved(path: str, follows_links: bool) -> str | None:
    """Return the real path of a root; None of one that is not there, or whose links are not followed."""
    if not os.path.exists(path):
        return None
    if not follows_links:
        return path if os.path.realpath(path) == path else None
    try:
        return links.real(path)
    except PlantedLinkError:
        return None


def _is_reached_through(path: str, roots: Sequence[str]) -> bool:
    return any(is_within(os.path.realpath(above), roots) for above in Path(path).parents)


# -- the sandbox of one agent ---------------------------------------------------------------


@attrs.frozen
class Sandbox:
    """How the commands of one agent are run.

    Attributes:
      kind: `bubblewrap`, or `none`.
      read: the paths that may be read, as the manifest has them.
      write: those that may be written.
      base: the manifest's directory.
      limits: how much one command may use.
      network: whether it has the network.
      network_told: that in words.
      follows_links: whether links in these paths are followed; not where the pool has resolved them.
    """

    kind: SandboxKind
    read: tuple[str, ...]
    write: tuple[str, ...]
    base: Path | None
    limits: CommandLimits
    network: bool
    network_told: str
    follows_links: bool = True

    @classmethod
    def of(cls, manifest: AgentManifest) -> Sandbox:
        """Return the sandbox that a manifest tells of."""
        granted = manifest.capabilities
        network, told = network_of(granted, manifest.privacy)
        return cls(
            manifest.sandbox,
            _paths(manifest, FileReadCapability),
            _paths(manifest, FileWriteCapability),
            manifest.base,
            manifest.commands,
            network,
            told,
            not manifest.has_real_paths,
        )

    def roots(self) -> Roots:
        """Return what is there of the granted paths. Blocks on the disk."""
        return find_roots(self.read, self.write, self.base, follows_links=self.follows_links)

    def directory(self, cwd: str | None, roots: Roots) -> str | None:
        """Return the directory in which a command begins; None for one of its own. Blocks on the disk.

        Args:
          cwd: absolute, or relative to the manifest's directory or to a root; None for the first root.
          roots: what it may reach.

        Raises:
          ToolError: if it is no directory.
          CapabilityDeniedError: if it is outside of the roots.
        """
        if cwd == "/tmp":
            return None
        if cwd is None or cwd.strip() in ("", "."):
            return next((root for root in roots if os.path.isdir(root)), None)
        if "\0" in cwd:
            raise ToolError("a directory cannot hold a NUL character")
        tops = (os.path.abspath(self.base or "."), *roots)
        try:
            places = [os.path.realpath(os.path.join(top, cwd)) for top in tops]
        except (OSError, ValueError) as error:
            raise ToolError(f"{cwd!r} cannot be a directory: {error}") from error
        reached = [place for place in places if is_within(place, roots)]
        if not reached:
            known = ", ".join(roots) or "nothing but /tmp"
            raise CapabilityDeniedError(f"{cwd!r} is outside of what this agent may reach, which is: {known}")
        found = next((place for place in reached if os.path.isdir(place)), None)
        if found is None:
            raise ToolError(f"{cwd!r} is no directory")
        return found

    def job(
        self,
        report: SandboxReport,
        command: Sequence[str],
        *,
        roots: Roots,
        cwd: str | None,
        timeout: float,
        code: str | None = None,
    ) -> Job:
        """Return the job that runs a command. Blocks on the disk.

        Args:
          report: what works on this machine.
          command: the program and its arguments; `CODE` in it stands for the file of `code`.
          roots: what it may reach.
          cwd: where it begins; None for a directory of its own.
          timeout: seconds.
          code: the text of a Python program.

        Raises:
          ToolError: if there is no sandbox, and the manifest asks for one.
        """
        if self.kind == "none":
            return self._bare_job(report, command, cwd, timeout, code)
        if report.arrangement is None:
            raise ToolError(f"no command can be run: {report.problem}")
        user = FIRST_USER + _next_user() if report.arrangement.setpriv else os.geteuid()
        mounts = [*system_mounts(self.network, user), *self._granted(roots)]
        python = python_mounts()  # looked at before the first command, which may be one of a shell
        if code is not None:
            mounts += [*python, Mount("data", _CODE_PATH, code)]
        argv, data = bwrap_arguments(
            report.arrangement,
            mounts,
            command=[_CODE_PATH if word == CODE else word for word in command],
            cwd=cwd or "/tmp",
            network=self.network,
            tmp_bytes=self.limits.file_mb * MEBIBYTE,
            user=user,
        )
        return Job(
            argv=argv,
            env=_environment("/tmp"),
            timeout=timeout,
            data=data,
            rlimits=self._rlimits(report),
            inner_rlimits={"RLIMIT_NPROC": self.limits.processes + _OWN_PROCESSES},
            groups=[] if report.group is None else [report.group.job_group(self.limits, _OWN_PROCESSES)],
            watched=self._watched(report),
        )

    def _bare_job(
        self, report: SandboxReport, command: Sequence[str], cwd: str | None, timeout: float, code: str | None
    ) -> Job:
        return Job(
            argv=[f"\0folder/{_CODE_NAME}" if word == CODE else word for word in command],
            env=_environment("\0folder"),
            cwd=cwd,
            timeout=timeout,
            is_bwrap=False,
            files={} if code is None else {_CODE_NAME: code},
            rlimits=self._rlimits(report),
            groups=[] if report.group is None else [report.group.job_group(self.limits, 1)],
            watched=self._watched(report),
        )

    def _granted(self, roots: Roots) -> list[Mount]:
        return [
            *(Mount("read", path, path, is_guarded=True) for path in roots.read),
            *(Mount("write", path, path, is_guarded=True) for path in roots.write),
        ]

    def _rlimits(self, report: SandboxReport) -> Mapping[str, int]:
        memory = {} if report.memory == "cgroup" else {"RLIMIT_DATA": self.limits.memory_mb * MEBIBYTE}
        return {
            "RLIMIT_CORE": 0,
            "RLIMIT_CPU": self.limits.cpu_seconds,
            "RLIMIT_FSIZE": self.limits.file_mb * MEBIBYTE,
            "RLIMIT_NOFILE": 4096,
            **memory,
        }

    def _watched(self, report: SandboxReport) -> Mapping[str, int]:
        watched: dict[str, int] = {}
        if report.memory != "cgroup":
            watched["memory"] = self.limits.memory_mb * MEBIBYTE
        if report.processes == "watched" or (self.kind == "none" and report.processes != "cgroup"):
            watched["processes"] = self.limits.processes + _OWN_PROCESSES
        return watched


def _paths(
    manifest: AgentManifest, kind: type[FileReadCapability] | type[FileWriteCapability]
) -> tuple[str, ...]:
    return tuple(
        path for each in manifest.capabilities if isinstance(each, kind) for path in each.allowed_paths
    )


CODE = "\0code"
"""Stands in a command for the path of the program that it is given."""

_CODE_NAME = "program.py"
_CODE_PATH = f"/dev/{_CODE_NAME}"  # no grant brings this machine's /dev: nothing is made in a directory of it
_OWN_PROCESSES = 3  # bubblewrap, the first process of its namespace, and the shell or the program itself


def _next_user() -> int:
    """Return a number that no command has that runs at the same time, also of another pool."""
    return (os.getpid() * 512 + next(_users) % 512) % 200_000_000


def _environment(home: str) -> dict[str, str]:
    """Return the whole environment of a command: nothing of the pool's."""
    return {
        "PATH": SYSTEM_PATH,
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        "PYTHONUNBUFFERED": "1",
    }


# -- Python -----------------------------------------------------------------------------------


def python_command() -> list[str]:
    """Return how the pool's own Python runs a program, apart from its user's settings.

    Raises:
      ToolError: if it is not known where it is.
    """
    if not sys.executable:
        raise ToolError("it is not known where the Python of this program is")
    return [sys.executable, "-I", "-u", "-X", "utf8", CODE]


@functools.cache
def python_mounts() -> Sequence[Mount]:
    """Return what the pool's own Python consists of, where it is not a part of the system.

    Looked at once: where it lies in a project, a command may put links in its place.
    """
    paths = dict.fromkeys(_python_paths())
    return tuple(Mount("read", path, os.path.realpath(path), is_guarded=True) for path in paths)


def _python_paths() -> Iterator[str]:
    for prefix in (sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix):
        # Not the whole of it: an environment may have been made in the directory of a project.
        for name in ("bin", "lib", "lib64", "include", "pyvenv.cfg"):
            path = os.path.join(prefix, name)
            if os.path.exists(path) and not is_within(path, ("/usr", "/bin", "/lib", "/lib64")):
                yield path
