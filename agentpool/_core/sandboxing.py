"""What a command may see and use in its sandbox, as the arguments of bubblewrap.

What is there is asked of the disk elsewhere; here it is put in order.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, assert_never

import attrs

from agentpool._core.capability import NetworkCapability, PrivacyTier
from agentpool._core.rules import Problem, Table, Whole
from agentpool._core.syscalls import system_call_filter

SandboxKind: TypeAlias = Literal["bubblewrap", "none"]

MEBIBYTE = 1024 * 1024

# -- limits of a manifest ---------------------------------------------------------------


@attrs.frozen(kw_only=True)
class CommandLimits(Table):
    """How much one command of `run_shell` and `run_python` may use."""

    timeout: int = attrs.field(
        default=120, validator=Whole("How many seconds it may take; a call may ask for less", at_most=86_400)
    )
    memory_mb: int = attrs.field(
        default=1024,
        validator=Whole("How many MiB of memory its processes may have", at_least=32, at_most=1_048_576),
    )
    processes: int = attrs.field(
        default=128,
        validator=Whole("How many processes and threads it may have at once", at_most=32_768),
    )
    cpu_seconds: int = attrs.field(
        default=120,
        validator=Whole("How many seconds of a processor each of its processes may use", at_most=86_400),
    )
    file_mb: int = attrs.field(
        default=256,
        validator=Whole(
            "How many MiB each file that it writes may have, and its /tmp as a whole", at_most=1_048_576
        ),
    )

    @classmethod
    def conflicts(cls, values: Any) -> Iterator[Problem]:
        """Yield nothing: every limit stands by itself."""
        return iter(())

    def narrowed(self, other: CommandLimits) -> CommandLimits:
        """Return the lower one of each limit: what a child may use of what its parent may."""
        return CommandLimits(
            **{
                field.name: min(getattr(self, field.name), getattr(other, field.name))
                for field in attrs.fields(CommandLimits)
            }
        )


def narrowed_sandbox(parent: SandboxKind, child: SandboxKind) -> SandboxKind:
    """Return the sandbox of a child: none only if its parent has none either."""
    return "none" if parent == child == "none" else "bubblewrap"


# -- what is in the sandbox --------------------------------------------------------------


@attrs.frozen
class Mount:
    """Something at a path of the sandbox.

    Attributes:
      kind: `read` and `write` show a path of this machine, `link` is a symbolic link, `data` a file with a
        text, `tmp` an empty directory in memory, `dir` one between, `dev` and `proc` what the kernel has.
      at: where, absolute.
      source: the path that is shown, the target of the link, or the text.
      is_guarded: whether what is shown is opened first, following no link, and shown as it was opened:
        commands may put a link in its place meanwhile.
    """

    kind: Literal["read", "write", "link", "data", "tmp", "dir", "dev", "proc"]
    at: str
    source: str = ""
    is_guarded: bool = False


@attrs.frozen
class Roots:
    """Real paths that a command may reach.

    Attributes:
      read: those that it may read.
      write: those that it may read and write.
      missing: the names of those that are not there.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        return iter((*self.write, *self.read))


def is_within(path: str, roots: Iterable[str]) -> bool:
    """Whether an absolute path is one of these or lies below one, as it is written."""
    path = posixpath.normpath(path)
    return any(root == "/" or path == root or path.startswith(root + "/") for root in roots)


def outermost(paths: Iterable[str], above: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the paths that lie neither below another of them nor below one of `above`."""
    found: list[str] = []
    for path in sorted(set(paths)):  # what lies below a path comes behind it
        if not is_within(path, (*above, *found)):
            found.append(path)
    return tuple(found)


def in_order(mounts: Iterable[Mount]) -> list[Mount]:
    """Return mounts so that none hides another: those of the directories above come first.

    Of two at one path the later one counts, but that `/proc` and `/dev` are never this machine's.
    """
    chosen: dict[str, Mount] = {}
    for mount in mounts:
        if mount.at not in ("/proc", "/dev") or mount.kind not in ("read", "write"):
            chosen[mount.at] = mount
    found = [each for each in (*chosen.values(), *_between(chosen)) if not _is_there_already(each, chosen)]
    return sorted(found, key=lambda mount: (mount.at != "/", mount.at.count("/")))


def _is_there_already(mount: Mount, mounts: Mapping[str, Mount]) -> bool:
    """Whether a mount lies in a part of this machine that is shown, and so nothing is to be made there."""
    if mount.kind in ("proc", "dev", "tmp", "write") or mount.at == mount.source:
        return False  # the same part may be there with other rights, such as `/usr` in a `/` to write to
    above = mount.at
    while above != "/":
        above = posixpath.dirname(above)
        if above in mounts:
            return mounts[above].kind in ("read", "write")
    return False


def _between(mounts: Mapping[str, Mount]) -> Iterator[Mount]:
    """Yield the directories above mounts that are none: bubblewrap itself makes some for root only."""
    made: set[str] = set()
    for at in mounts:
        above = posixpath.dirname(at)
        while above != "/" and above not in mounts and above not in made:
            made.add(above)
            above = posixpath.dirname(above)
    yield from (Mount("dir", at) for at in sorted(made))


# -- the arguments of bubblewrap -----------------------------------------------------------


@attrs.frozen
class Arrangement:
    """How this machine can be made to hold a command.

    Attributes:
      bwrap: the path of bubblewrap's program.
      userns: whether the command gets a user namespace of its own, in which it has no privilege.
      no_more_userns: whether it is kept from making others.
      sized: whether bubblewrap can bound the size of `/tmp`.
      opened: whether bubblewrap can be given what is opened already, in the place of its path.
      filtered: whether the kernel can refuse system calls.
      setpriv: the program that gives up root's identity, where processes are bounded by another user's
        number; empty elsewhere.
    """

    bwrap: str
    userns: bool = True
    no_more_userns: bool = True
    sized: bool = True
    opened: bool = True
    filtered: bool = True
    setpriv: str = ""


STATUS, BLOCK = "\0status", "\0block"
"""Stand in arguments for descriptors that only the process knows which starts bubblewrap."""

OPENED = "\0opened:"
"""Begins what stands for the descriptor of an opened path, which follows behind its place and a NUL."""


def bwrap_arguments(
    arrangement: Arrangement,
    mounts: Sequence[Mount],
    *,
    command: Sequence[str],
    cwd: str,
    network: bool,
    tmp_bytes: int,
    user: int = 0,
) -> tuple[list[str], list[str | bytes]]:
    """Return how bubblewrap is called, and the texts of the files that are given to it by descriptors.

    Args:
      arrangement: what works on this machine.
      mounts: what the command sees.
      command: the program in the sandbox and its arguments.
      cwd: where it begins.
      network: whether it has this machine's network.
      tmp_bytes: how much its directories in memory may hold.
      user: the number of the user that it becomes with `setpriv`.
    """
    data: list[str | bytes] = []
    argv = [arrangement.bwrap, "--die-with-parent", "--new-session"]
    argv += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    argv += ["--hostname", "sandbox"]
    argv += [] if network else ["--unshare-net"]
    if arrangement.userns:
        argv += ["--unshare-user"] + (["--disable-userns"] if arrangement.no_more_userns else [])
    argv += ["--cap-drop", "ALL"]
    if arrangement.setpriv:
        argv += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    size = ["--size", str(tmp_bytes)] if arrangement.sized else []
    for mount in in_order(mounts):
        argv += _mount_arguments(mount, data, size, arrangement.opened)
    # Root's number alone may write to /proc/sys, such as to the name of the program that is run for a core
    # dump on this machine. What bubblewrap does against it by itself misses the directories there.
    argv += ["--remount-ro", "/proc", "--remount-ro", "/dev"]
    if not any(mount.kind == "write" and mount.at == "/" for mount in mounts):
        argv += ["--remount-ro", "/"]  # a directory in memory, without a bound
    if arrangement.filtered:
        argv += ["--seccomp", _by_descriptor(system_call_filter(), data)]
    argv += ["--chdir", cwd, "--json-status-fd", STATUS, "--block-fd", BLOCK, "--"]
    if arrangement.setpriv:
        argv += [arrangement.setpriv, f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
    return [*argv, *command], data


def _by_descriptor(text: str | bytes, data: list[str | bytes]) -> str:
    data.append(text)
    return f"\0data:{len(data) - 1}"


def _mount_arguments(mount: Mount, data: list[str | bytes], size: list[str], opened: bool) -> list[str]:
    match mount.kind:
        case "read" | "write" if mount.is_guarded and opened:
            option = "--ro-bind-fd" if mount.kind == "read" else "--bind-fd"
            return [option, f"{OPENED}{mount.at}\0{mount.source}", mount.at]
        case "read":
            return ["--ro-bind", mount.source, mount.at]
        case "write":
            return ["--bind", mount.source, mount.at]
        case "link":
            return ["--symlink", mount.source, mount.at]
        case "tmp":
            return ["--perms", "1777", *size, "--tmpfs", mount.at]
        case "data":
            return ["--perms", "0444", "--ro-bind-data", _by_descriptor(mount.source, data), mount.at]
        case "dir":
            return ["--perms", "0755", "--dir", mount.at]
        case "dev" | "proc":
            return [f"--{mount.kind}", mount.at]
        case _:
            assert_never(mount.kind)


# -- network ---------------------------------------------------------------------------------


def network_of(capabilities: Iterable[object], privacy: PrivacyTier) -> tuple[bool, str]:
    """Return whether a command has the network, and in words why not.

    A sandbox has all of it or nothing: which hosts are reached cannot be told from outside.
    """
    hosts = {
        host for each in capabilities if isinstance(each, NetworkCapability) for host in each.allowed_hosts
    }
    if "*" not in hosts:
        some = " (it can be given for all hosts only, not for some)" if hosts else ""
        return False, f"no network{some}"
    if privacy is not PrivacyTier.STANDARD:
        return False, f"no network, since the agent's words are {privacy.value}"
    return True, "the network of this machine"
