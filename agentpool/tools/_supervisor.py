"""The process that stands between a pool and a command, and outlives the pool by the time it takes to kill.

It is run by its path, as a program of its own with one thread. It reads what to start from its standard
input, marshalled behind its length in four bytes, and ends the command when that input ends: a pipe closes
whatever its writer died of. A pool cannot do this by itself. The kernel's signal for a parent's death
follows the thread that forked, and the pool's threads come and go; this process has one.

Each command waits for its start. So nothing of the package is imported here, and of the standard library
only what is written in C or small: with `json`, `signal`, `contextlib`, `shutil` and `typing` it took 67 ms
of a processor, without them 20.

Standard output gets one line when no process of the command is left: why it ended, its status, whether it was
started, how many of its processes could not be killed, and what went wrong. The command's output goes to
standard error, together with what this program has to say if it fails.

A command that has `streams` is a service: it lives as long as its pool wants it, which talks to it by these
descriptors; only its standard error is this program's. Lines before the last one tell that it was started,
and that it has ended. A byte on standard input says that it is to end: `e` by itself if it can, `k` at once.
"""

from __future__ import annotations

import ctypes
import errno
import marshal
import os
import resource
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

WATCH_SECONDS = 0.1
"""How often the processes and their memory are counted where the kernel does not bound them."""

KILL_SECONDS = 8.0
"""How long processes have to be gone after SIGKILL; what hangs in the kernel may take longer."""

ORPHANED_SECONDS = 0.3
"""So long a service has to end when its pool has died, and once more when it was told to."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PAGE = resource.getpagesize()
_libc = ctypes.CDLL(None, use_errno=True)

# As Linux numbers them on the processors that Python runs on.
_SIGKILL, _SIGSTOP, _SIGTERM = 9, 19, 15
_IGNORED = (1, 2, 13, 15)  # SIGHUP, SIGINT, SIGPIPE, SIGTERM
_SIG_DFL, _SIG_IGN = 0, 1
_S_IFMT, _S_IFLNK = 0o170000, 0o120000
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MOUNT_SETATTR = 442  # since Linux 5.12; the same on all processors
_AT_FDCWD, _MOUNT_ATTR_RDONLY = -100, 1
_DEVICES = (b"/dev/null", b"/dev/zero", b"/dev/full", b"/dev/random", b"/dev/urandom", b"/dev/tty")

_OPENED = "\0opened:"  # begins an argument that is the descriptor of a path, which stands behind a NUL


class _Suppressed:
    """As `contextlib.suppress`, which takes 15 ms to import."""

    def __init__(self, *errors: type[Exception]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._errors)


def _handle(signals: Iterable[int], how: int) -> None:
    for number in signals:
        _libc.signal(number, ctypes.c_void_p(how))


def main() -> None:
    """Run the command that standard input tells of, and tell how it ended."""
    _handle(_IGNORED, _SIG_IGN)
    spec = _read_spec()
    if spec is None:
        return  # the pool was gone before it had said what to do
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        parent = os.pidfd_open(spec["parent"])
    except OSError:
        return
    if os.getppid() != spec["parent"]:
        return
    run = _Service(spec, parent) if spec["streams"] else _Run(spec, parent)
    _tell(run.to_its_end())


def _read_spec() -> Any:
    size = _read_exactly(4)
    data = _read_exactly(int.from_bytes(size, "big")) if size else b""
    return marshal.loads(data) if data else None


def _read_exactly(count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            return b""
        data += piece
    return data


def _tell(text: str) -> None:
    with _Suppressed(BrokenPipeError):  # nobody is left who wants to know
        os.write(1, text.encode("utf-8", "replace"))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


class _Run:
    """One command, from its start until none of its processes is left."""

    def __init__(self, spec: Any, parent: int) -> None:
        self._spec = spec
        self._parent = parent
        self._groups: list[str] = []
        self._child = 0
        self._status: int | None = None
        self._problem = ""
        self._bwrap_said = b""
        self._is_out_of_memory = False
        self._folder: str | None = None
        self._program: int | None = None

    def to_its_end(self) -> str:
        """Start it, watch it, kill what is left of it, and return how it ended."""
        why = "setup"
        try:
            self._start()
            if not self._problem:
                why = self._watch()
        except OSError as error:
            self._problem = str(error)
        finally:
            left = self._kill_all()
        self._read_bwrap()
        why = "memory" if self._is_out_of_memory else why
        if self._folder is not None:
            _remove_tree(self._folder)
        # bubblewrap tells of an exit code only if it had come as far as to start the command.
        started = b'"exit-code"' in self._bwrap_said or not self._spec["is_bwrap"]
        status = "-" if self._status is None else self._status
        return f"{why} {status} {int(started)} {left} {self._problem}"

    # -- starting ----------------------------------------------------------------------

    def _start(self) -> None:
        spec = self._spec
        self._folder = folder = self._private_folder() if spec["folder"] else None
        fds = {f"\0data:{n}": self._memory_file(text) for n, text in enumerate(spec["data"])}
        fds |= {text: _opened(text.rpartition("\0")[2]) for text in spec["argv"] if text.startswith(_OPENED)}
        self._status_fd, status = os.pipe()
        block, self._block_fd = os.pipe()
        error_fd, error = os.pipe()
        fds |= {"\0status": status, "\0block": block}
        self._make_groups()
        argv = [_filled(text, fds, folder) for text in spec["argv"]]
        env = {name: _filled(text, fds, folder) for name, text in spec["env"].items()}
        self._program = _copied(argv[0]) if spec["is_bwrap"] else None
        self._child = os.fork()
        if self._child == 0:
            self._become(argv, env, [*fds.values()] if spec["is_bwrap"] else [], error, folder)
        for fd in (error, *fds.values(), *spec["streams"]):
            os.close(fd)
        self._problem = os.read(error_fd, 4096).decode("utf-8", "replace")
        if not self._problem and spec["is_bwrap"]:
            self._let_go()

    def _private_folder(self) -> str:
        folder: str = self._spec["folder"]
        os.mkdir(folder, 0o700)
        for name, text in self._spec["files"].items():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(text.encode())
        return folder

    def _memory_file(self, text: str | bytes) -> int:
        fd = os.memfd_create("agentpool")
        os.write(fd, text if isinstance(text, bytes) else text.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def _make_groups(self) -> None:
        """Make the control groups, with their limits; they are removed when nothing is left in them."""
        for group in self._spec["groups"]:
            path = os.path.join(group["parent"], f"agentpool-{os.getpid()}")
            with _Suppressed(FileExistsError):  # of a process of this number that was killed
                os.mkdir(path)
            self._groups.append(path)
            for name, text in group["limits"].items():
                with _Suppressed(FileNotFoundError):  # such as memory.swap.max without swap
                    _write(os.path.join(path, name), text)

    def _become(
        self, argv: list[str], env: dict[str, str], kept: list[int], error: int, folder: str | None
    ) -> None:
        """In the forked child: be the command. Does not return."""
        spec = self._spec
        try:
            os.setsid()
            _handle(_IGNORED, _SIG_DFL)
            _prctl(_PR_SET_PDEATHSIG, _SIGKILL)  # kept by exec, where it gains no privilege
            for path in self._groups:
                _write(os.path.join(path, "cgroup.procs"), "0")
            for name, value in spec["rlimits"].items():
                _limit(0, name, value)
            if spec["is_bwrap"]:
                _guard_devices()
            self._go_to(folder if spec["cwd"] is None and folder is not None else spec["cwd"] or "/")
            self._connect()
            for fd in kept:
                os.set_inheritable(fd, True)
            if self._program is not None:
                with _Suppressed(OSError):  # a system may forbid what is in memory only
                    os.execve(self._program, argv, env)
            os.execvpe(argv[0], argv, env)
        except BaseException as problem:
            os.write(error, self._what_is_wrong(problem, argv).encode("utf-8", "replace"))
        finally:
            os._exit(127)

    def _what_is_wrong(self, problem: BaseException, argv: list[str]) -> str:
        return f"there is no program {argv[0]!r}" if isinstance(problem, FileNotFoundError) else str(problem)

    def _connect(self) -> None:
        """Give the command its standard input and output."""
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)

    def _go_to(self, folder: str) -> None:
        try:
            os.chdir(folder)
        except OSError as error:
            raise OSError(f"the directory cannot be entered: {error}") from error

    def _let_go(self) -> None:
        """Limit the first process of the sandbox, which waits for that, and let it go on.

        Only now is there the user namespace in which its processes are counted, apart from all others
        of the same user.
        """
        while b"\n" not in self._bwrap_said:
            ready, _, _ = select.select([self._status_fd, 0, self._parent], [], [])
            piece = os.read(self._status_fd, 4096) if self._status_fd in ready else b""
            if not piece:
                return  # it failed, and told why in the output; or nobody is left who wants it
            self._bwrap_said += piece
        # { "child-pid": 123, "cgroup-namespace": 4026531835, ... }
        first = int(self._bwrap_said.partition(b'"child-pid":')[2].replace(b"}", b",").partition(b",")[0])
        for name, value in self._spec["inner_rlimits"].items():
            _limit(first, name, value)
        with _Suppressed(BrokenPipeError):
            os.write(self._block_fd, b".")

    def _read_bwrap(self) -> None:
        if self._spec["is_bwrap"] and self._child:
            os.set_blocking(self._status_fd, False)
            with _Suppressed(BlockingIOError):
                while piece := os.read(self._status_fd, 4096):
                    self._bwrap_said += piece

    # -- watching ------------------------------------------------------------------------

    def _watch(self) -> str:
        """Wait for the end; return why it came."""
        poll = select.poll()
        child = os.pidfd_open(self._child)
        for fd in (0, self._parent, child):
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + self._spec["timeout"]
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout"
            ready = {fd for fd, _ in poll.poll(1000 * min(left, WATCH_SECONDS))}
            if child in ready:
                self._reap()
                return "ended"
            if ready:
                return "closed"
            over = self._is_over()
            if over:
                return over

    def _is_over(self) -> str:
        """Return which limit is passed of those that nothing but this process watches."""
        watched = self._spec["watched"]
        if not watched:
            return ""
        pids = self._tree()
        if len(pids) > watched.get("processes", len(pids)):
            return "processes"
        # Pages that several share are counted for each by the first; the second takes longer.
        if "memory" in watched and all(
            sum(map(look, pids)) > watched["memory"] for look in (_resident, _proportional)
        ):
            return "memory"
        return ""

    def _was_out_of_memory(self) -> bool:
        for path in self._groups:
            with _Suppressed(OSError), open(os.path.join(path, "memory.events")) as file:
                return any(line.startswith("oom_kill ") and line.strip() != "oom_kill 0" for line in file)
        return False

    # -- killing ---------------------------------------------------------------------------

    def _kill_all(self) -> int:
        """Kill every process of the command until none is left; return how many are.

        This process adopts those whose parents have ended, so that they are below it wherever they went.
        What is stopped starts no others: first all are stopped, then all are killed.
        """
        if not self._child:
            return 0
        deadline = time.monotonic() + KILL_SECONDS
        pause = 0.001
        while pids := self._tree() | self._members():
            if time.monotonic() > deadline:
                break
            self._signal_growing(pids)
            self._reap()
            time.sleep(pause)
            pause = min(0.05, 2 * pause)
            self._reap()
            for path in self._groups:  # Not before: a shell that cannot fork writes that into the output.
                with _Suppressed(OSError):
                    _write(os.path.join(path, "pids.max"), "0")
        self._is_out_of_memory = self._was_out_of_memory()
        for path in self._groups:
            _remove(path)
        return len(pids)

    def _signal_growing(self, pids: set[int]) -> None:
        for _ in range(20):
            _signal_each(pids, _SIGSTOP)
            more = self._tree() | self._members()
            if more <= pids:
                break
            pids |= more
        _signal_each(pids, _SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child:
                self._status = os.waitstatus_to_exitcode(status)

    def _tree(self) -> set[int]:
        """Return all processes below this one, zombies not counted."""
        children: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if name.isdecimal():
                parent, state = _parent_and_state(name)
                if state != "Z":
                    children.setdefault(parent, []).append(int(name))
                elif parent:  # the children of a zombie are its own until it is reaped
                    children.setdefault(parent, [])
        found: set[int] = set()
        todo = [os.getpid()]
        while todo:
            below = children.get(todo.pop(), [])
            found.update(below)
            todo += below
        return found

    def _members(self) -> set[int]:
        found: set[int] = set()
        for path in self._groups:
            with _Suppressed(OSError), open(os.path.join(path, "cgroup.procs")) as file:
                found.update(int(line) for line in file)
        return found - {os.getpid(), 0}


class _Service(_Run):
    """One command that lives as long as its pool wants it."""

    def _start(self) -> None:
        for fd in self._spec["streams"]:
            os.set_inheritable(fd, False)  # what it has under another number, it would hold open
        super()._start()

    def _what_is_wrong(self, problem: BaseException, argv: list[str]) -> str:
        return (isinstance(problem, OSError) and problem.strerror) or str(problem)

    def _connect(self) -> None:
        for number, fd in enumerate(self._spec["streams"]):
            os.dup2(fd, number)

    def _watch(self) -> str:
        """Wait until nobody wants it any more, and have it end by itself if it does."""
        child = os.pidfd_open(self._child)
        _tell(f"started {self._child}\n")
        # Who loses its parent becomes a child of this process, and none may stay a zombie for so long.
        # Imported here: it takes 5 ms, which nobody need wait for.
        import signal

        signal.signal(signal.SIGCHLD, lambda *_: self._reap())
        self._reap()
        poll = select.poll()
        for fd in (0, self._parent, child):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if ready != {child}:
                # A pool that dies closes its end of the pipe a moment before it is dead; but who was forked
                # off it may have that end, too.
                told = os.read(0, 1) if 0 in ready else b""
                patience = {b"e": self._spec["patience"], b"k": 0.0}
                self._have_ended(patience.get(told, ORPHANED_SECONDS))
                return "closed"
            poll.unregister(child)
            self._reap()
            _tell(f"ended {self._status}\n")

    def _have_ended(self, seconds: float) -> None:
        """Wait for its end, since its input is closed; then tell all of them to end, and wait for that."""
        if not seconds:
            return
        _wait(lambda: self._status is not None, seconds)
        _signal_each(self._tree(), _SIGTERM)
        _wait(lambda: not self._tree(), seconds)


def _wait(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)


def _filled(text: str, fds: dict[str, int], folder: str | None) -> str:
    """Put in what is known only here: the numbers of descriptors, and the private folder."""
    if text in fds:
        return str(fds[text])
    return text.replace("\0folder", folder) if folder is not None else text


def _opened(path: str) -> int:
    """Open a path for its place only, following no link.

    That was resolved before, and what it led to may be granted. A link that somebody has put there since then
    leads elsewhere.
    """
    *above, name = [part for part in path.split("/") if part] or ["."]
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        for part in above:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=fd)
    except OSError as error:
        raise OSError(
            f"what is granted at {path} is not there any more: {os.strerror(error.errno or 0)}"
        ) from error
    finally:
        os.close(fd)
    if os.fstat(found).st_mode & _S_IFMT == _S_IFLNK:
        raise OSError(f"what is granted at {path} is not there any more: it is a link now")
    return found


def _copied(program: str) -> int | None:
    """Copy the program of bubblewrap into memory, and open that; None if there is no need.

    In the sandbox it is /proc/1/exe, where its owner could change its mode, for the whole machine.
    """
    status = os.stat(program)
    if status.st_uid != os.geteuid() or status.st_mode & 0o6000:
        return None
    with open(program, "rb") as file:
        data = file.read()
    if not data.startswith(b"\x7fELF"):
        return None  # a script is read again by its name
    fd = os.memfd_create("bwrap")
    try:
        with open(fd, "wb", closefd=False) as copy:
            copy.write(data)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)  # what is open for writing cannot be executed
    finally:
        os.close(fd)


def _guard_devices() -> None:
    """Have what bubblewrap shows of /dev on mounts that cannot be written, if this process may.

    Devices can be used all the same. But they are this machine's, and a command of root could change their
    modes for everybody.
    """
    if os.geteuid() != 0 or _libc.unshare(_CLONE_NEWNS) != 0:
        return
    flags = ctypes.c_ulong
    if _libc.mount(None, b"/", None, flags(_MS_REC | _MS_PRIVATE), None) != 0:
        return  # what is mounted here would be seen elsewhere, too
    read_only = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(read_only))
    for path in _DEVICES:
        _libc.mount(path, path, None, flags(_MS_BIND), None)
        _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, path, 0, ctypes.byref(read_only), size)


def _limit(pid: int, name: str, value: int) -> None:
    """Lower a limit of a process; one that is lower already stays."""
    which = getattr(resource, name)
    _, hard = resource.prlimit(pid, which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.prlimit(pid, which, (value, value))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    for _ in range(20):
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                return
            time.sleep(0.01)
        else:
            return


def _remove_tree(folder: str) -> None:
    for top, folders, files in os.walk(folder, topdown=False):
        for name in (*folders, *files):
            path = os.path.join(top, name)
            with _Suppressed(OSError):
                os.rmdir(path) if name in folders and not os.path.islink(path) else os.unlink(path)
    with _Suppressed(OSError):
        os.rmdir(folder)


def _signal_each(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with _Suppressed(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _parent_and_state(pid: str) -> tuple[int, str]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Behind the name, which stands in brackets and may hold some itself.
            state, parent, *_ = file.read().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return 0, "Z"
    return int(parent), state.decode()


def _resident(pid: int) -> int:
    with _Suppressed(OSError, ValueError, IndexError), open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    with _Suppressed(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    return 0


if __name__ == "__main__":
    main()
