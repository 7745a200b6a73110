"""What this machine can do to hold a command: tried for real, once in a process."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs

from agentpool._core.commands import Ending
from agentpool._core.sandboxing import MEBIBYTE, Arrangement, CommandLimits, Mount, bwrap_arguments
from agentpool.tools._processes import Job, run_job_blocking

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INSTALL = (
    'install it (apt-get install bubblewrap, dnf install bubblewrap), or write sandbox = "none" into the'
    " manifest, by which its commands may do whatever the pool may"
)

ALLOW = (
    "allow them (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns; a container"
    ' may need options of its own), or write sandbox = "none" into the manifest, by which its commands may'
    " do whatever the pool may"
)

ProcessBound: TypeAlias = Literal["cgroup", "user namespace", "another user", "watched"]
MemoryBound: TypeAlias = Literal["cgroup", "watched"]

# -- what a sandbox shows of the system ------------------------------------------------

_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_STORES = ("/usr", "/nix/store", "/gnu/store")
_ETC = (
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "pki/ca-trust",
    "pki/tls/certs",
    "protocols",
    "services",
    "ssl/certs",  # and not ssl/private
    "ssl/openssl.cnf",
    "terminfo",
)
_ETC_OF_NETWORK = ("gai.conf", "host.conf", "hosts", "resolv.conf")


def system_mounts(network: bool, user: int) -> list[Mount]:
    """Return what every sandbox has: programs and libraries, a few files of `/etc`, empty directories.

    Args:
      network: whether the files by which hosts are found are among them.
      user: the number of the user in the sandbox.
    """
    names = [*_ETC, *(_ETC_OF_NETWORK if network else ())]
    return [
        *(Mount("read", store, store) for store in _STORES if os.path.isdir(store)),
        *_of_merged_usr(),
        *(_shown(f"/etc/{name}") for name in names if os.path.exists(f"/etc/{name}")),
        Mount("data", "/etc/passwd", f"agent:x:{user}:{user}:agent:/tmp:/bin/sh\n"),
        Mount("data", "/etc/group", f"agent:x:{user}:\n"),
        *([] if network else [Mount("data", "/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n")]),
        Mount("tmp", "/tmp"),
        Mount("link", "/var/tmp", "/tmp"),
        Mount("proc", "/proc"),
        Mount("dev", "/dev"),
        Mount("tmp", "/dev/shm"),
    ]


def _of_merged_usr() -> Iterator[Mount]:
    for path in _SYSTEM:
        if os.path.islink(path):
            yield Mount("link", path, os.readlink(path))
        elif os.path.isdir(path):
            yield Mount("read", path, path)


def _shown(path: str) -> Mount:
    return Mount("read", path, os.path.realpath(path))  # links of /etc lead to where the sandbox has nothing


# -- control groups -----------------------------------------------------------------------


@attrs.frozen
class ControlGroup:
    """Where control groups can be made.

    Attributes:
      parent: the directory below which they are made.
      controllers: what they can bound, `pids` and perhaps `memory`.
    """

    parent: str
    controllers: tuple[str, ...]

    def job_group(self, limits: CommandLimits, slack: int) -> Mapping[str, Any]:
        """Return the group of one command.

        Args:
          limits: those of the command.
          slack: how many processes there are that are none of the command's.
        """
        files = {"pids.max": str(limits.processes + slack)}
        if "memory" in self.controllers:
            files["memory.max"] = str(limits.memory_mb * MEBIBYTE)
            files["memory.swap.max"] = "0"
            files["memory.oom.group"] = "1"
        return {"parent": self.parent, "limits": files}


def control_groups(cgroup: str, mountinfo: str) -> Iterator[ControlGroup]:
    """Yield where groups that bound processes might be made, best first.

    In version 2 that is a directory above the pool's own, which hands its controllers down; a group that
    holds processes cannot. In version 1 it is the pool's own group.

    Args:
      cgroup: the text of /proc/self/cgroup.
      mountinfo: the text of /proc/self/mountinfo.
    """
    lines = [line.split(":", 2) for line in cgroup.splitlines()]
    own = {parts[1]: parts[2] for parts in lines if len(parts) == 3}
    for point, root, kind, options in _cgroup_mounts(mountinfo):
        if kind == "cgroup2" and "" in own:
            yield from _groups_above(point, _below(own[""], root))
        elif kind == "cgroup" and "pids" in options:
            names = next((names for names in own if "pids" in names.split(",")), None)
            if names is not None:
                yield ControlGroup(os.path.normpath(point + _below(own[names], root)), ("pids",))


def _cgroup_mounts(mountinfo: str) -> list[tuple[str, str, str, list[str]]]:
    found = []
    for line in mountinfo.splitlines():
        before, _, behind = line.partition(" - ")
        parts, kind = before.split(), behind.split()
        if len(parts) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
            found.append((parts[4], parts[3], kind[0], kind[2].split(",")))
    return sorted(found, key=lambda each: each[2], reverse=True)  # version 2 first


def _below(path: str, root: str) -> str:
    path = path.removeprefix(root) if root != "/" else path
    return "" if path == "/" else path


def _groups_above(point: str, own: str) -> Iterator[ControlGroup]:
    path = own
    while True:
        try:
            control = Path(f"{point}{path}/cgroup.subtree_control").read_text().split()
        except OSError:
            control = []
        if "pids" in control:
            yield ControlGroup(point + path, tuple(name for name in ("pids", "memory") if name in control))
        if path in ("", "/"):
            return
        path = os.path.dirname(path).rstrip("/")


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


# -- what works -------------------------------------------------------------------------------


@attrs.frozen
class SandboxReport:
    """What holds commands on this machine, found by trying it.

    Attributes:
      works: whether commands can be run in bubblewrap.
      problem: why not, and what can be done; empty if it works.
      version: the version of bubblewrap; empty if there is none.
      processes: what bounds their number: a `cgroup`; the `user namespace`, in which the processes of the
        sandbox are counted apart; `another user`, which commands of root are then run as, so that they
        write only what anybody may; or they are `watched`, counted ten times a second, and killed.
      memory: what bounds their memory: a `cgroup`, or a limit for each process, and their sum is `watched`
        ten times a second.
      user_namespace: whether commands have no privilege of root's even if the pool runs as root.
    """

    works: bool
    problem: str = ""
    version: str = ""
    processes: ProcessBound = "watched"
    memory: MemoryBound = "watched"
    user_namespace: bool = False
    arrangement: Arrangement | None = attrs.field(default=None, repr=False)
    group: ControlGroup | None = attrs.field(default=None, repr=False)

    def __str__(self) -> str:
        if not self.works:
            return f"no sandbox: {self.problem}"
        return (
            f"bubblewrap {self.version}; processes bounded by: {self.processes}; "
            f"memory bounded by: {self.memory}; user namespace: {'yes' if self.user_namespace else 'no'}"
        )


@functools.cache
def sandbox_report() -> SandboxReport:
    """Return what holds commands on this machine.

    The first call tries it with real processes, and blocks for as long as they take, mostly half a
    second; what was found counts for the rest of this process.
    """
    if not sys.platform.startswith("linux"):
        return SandboxReport(False, "commands can be run on Linux only")
    group = _working_group()
    bwrap = shutil.which("bwrap", path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    if bwrap is None:
        return attrs.evolve(_without(group), problem=f"there is no bubblewrap (bwrap) here; {INSTALL}")
    version = _version_of(bwrap)
    opened = "--ro-bind-fd " in _said(bwrap, "--help")  # some distributions have it in older versions, too
    said = ""
    for arrangement in _arrangements(bwrap, version, group, opened):
        ending = _try(arrangement, group)
        if ending.is_success:
            return _found(arrangement, group, ".".join(map(str, version)))
        said = said or ending.problem
    problem = f"bubblewrap does not work here ({said.strip()[-300:]}): user namespaces may be forbidden"
    return attrs.evolve(_without(group), problem=f"{problem}; {ALLOW}")


def _without(group: ControlGroup | None) -> SandboxReport:
    bounds: ProcessBound = "watched" if group is None else "cgroup"
    has_memory = group is not None and "memory" in group.controllers
    return SandboxReport(False, processes=bounds, memory="cgroup" if has_memory else "watched", group=group)


def _found(arrangement: Arrangement, group: ControlGroup | None, version: str) -> SandboxReport:
    processes: ProcessBound = "watched"
    if group is not None:
        processes = "cgroup"
    elif arrangement.setpriv:
        processes = "another user"
    elif arrangement.userns and os.geteuid() != 0:
        processes = "user namespace"  # the kernel does not count what root forks
    has_memory = group is not None and "memory" in group.controllers
    return SandboxReport(
        True,
        version=version,
        processes=processes,
        memory="cgroup" if has_memory else "watched",
        user_namespace=arrangement.userns,
        arrangement=arrangement,
        group=group,
    )


def _working_group() -> ControlGroup | None:
    for group in control_groups(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo")):
        if os.access(group.parent, os.W_OK):
            job = Job(
                argv=["true"],
                env={"PATH": SYSTEM_PATH},
                cwd="/",
                timeout=10,
                is_bwrap=False,
                groups=[group.job_group(CommandLimits(), 4)],
            )
            if _ran(job).is_success:
                return group
    return None


def _version_of(bwrap: str) -> tuple[int, ...]:
    said = _said(bwrap, "--version")
    return tuple(int(part) for part in re.findall(r"\d+", said)[:3]) or (0,)


def _said(bwrap: str, option: str) -> str:
    try:
        return subprocess.run([bwrap, option], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _arrangements(
    bwrap: str, version: tuple[int, ...], group: ControlGroup | None, opened: bool
) -> Iterator[Arrangement]:
    """Yield what may work, best first."""
    filtered = sys.byteorder == "little" and os.path.exists("/proc/sys/kernel/seccomp/actions_avail")
    known = functools.partial(Arrangement, bwrap, sized=version >= (0, 7), opened=opened, filtered=filtered)
    setpriv = shutil.which("setpriv", path=SYSTEM_PATH)
    if os.geteuid() == 0 and group is None and setpriv is not None:
        # A namespace of users holds one user, so that there is none to change to.
        yield known(userns=False, no_more_userns=False, setpriv=setpriv)
    if version >= (0, 8):
        yield known()
    yield known(no_more_userns=False)
    # For root, and for a bwrap that is setuid.
    yield known(userns=False, no_more_userns=False)


def _try(arrangement: Arrangement, group: ControlGroup | None) -> Ending:
    user = FIRST_USER if arrangement.setpriv else os.geteuid()
    argv, data = bwrap_arguments(
        arrangement,
        system_mounts(False, user),
        command=["true"],
        cwd="/tmp",
        network=False,
        tmp_bytes=MEBIBYTE,
        user=user,
    )
    groups = [] if group is None else [group.job_group(CommandLimits(), 4)]
    return _ran(Job(argv=argv, env={"PATH": SYSTEM_PATH}, timeout=10, data=data, groups=groups))


FIRST_USER = 1_900_000_000
"""From here on are the numbers of the users that root's commands are run as; distributions give out none."""


def _ran(job: Job) -> Ending:
    try:
        return run_job_blocking(job)[1]
    except OSError as error:
        return Ending("setup", problem=str(error))
