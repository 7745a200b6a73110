"""A real Ray cluster on one machine: each node in a network namespace of its own, joined by a bridge.

Everything lives in one container that the test makes with `unshare`: a namespace of process ids, of mounts
and of the network. The bridge is in the container's own network namespace; each node has a further one. Ray
listens on every address, so it is reached from nowhere else. The container's first process waits for the
end of its standard input. When that comes, which is also when the tests are killed, the kernel ends every
process of the container, and with them go the namespaces. The files of Ray are in a file system in memory
that the container mounts over /dev/shm, and go as well. So nothing is left, whatever happens to the tests.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Ends when nobody can write to its input any more. Orphans become its children: it lets the kernel reap them.
FIRST_PROCESS = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.buffer.read()
"""

# Tells the members of the cluster whenever it is asked.
OBSERVER = """
import json, sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
for _ in sys.stdin:
    members = sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"])
    print(json.dumps({"event": "members", "addresses": members}), flush=True)
"""

# How long a step may take that takes a second or two on an idle machine.
PATIENCE = 120.0

# By default the control service asks each node every 3 s, waits 10 s for the answer, and takes the node for
# dead after 5 failures: most of a minute in which it goes on placing actors there. These are 1 s, 1 s and 3.
# They change how soon Ray stops using a node, not what a pool may conclude from it.
HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
OBJECT_STORE_BYTES = 80_000_000  # Ray refuses less than 75 MiB


class ClusterUnavailableError(Exception):
    """This machine cannot have such a cluster; the text says why."""


def why_no_cluster() -> str | None:
    """Why this machine cannot have a cluster, or None. Tries the namespaces; does not start Ray."""
    if sys.platform != "linux":
        return "network namespaces exist on Linux only"
    missing = [name for name in ("unshare", "nsenter", "ip", "mount") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    try:
        with _open_container() as container:
            container.run("ip", "link", "add", "probe", "type", "bridge")
    except ClusterUnavailableError as error:
        return str(error)
    return None


@dataclass
class Program:
    """A program in the container. It prints one JSON object a line, each with its `event`."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _came: queue.Queue[dict[str, Any] | None] = field(default_factory=queue.Queue)
    _readers: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        for target in (self._read_lines, self._read_errors):
            reader = threading.Thread(target=target, daemon=True)
            reader.start()
            self._readers.append(reader)

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("{"):
                self._came.put(json.loads(line))
        self._came.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def read(self, event: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """The next line of this event. Those before it are passed over.

        Raises:
          AssertionError: if the program ends without it, or it does not come in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                came = self._came.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {event!r} in {timeout} s\n{self.report()}") from None
            if came is None:
                self._came.put(None)
                raise AssertionError(f"the program ended without {event!r}\n{self.report()}")
            if came["event"] == event:
                return came

    def events(self) -> list[dict[str, Any]]:
        """All that it has printed."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def read_many(self, event: str, count: int, timeout: float = PATIENCE) -> list[dict[str, Any]]:
        """The next lines of this event, as many as asked for."""
        deadline = time.monotonic() + timeout
        return [self.read(event, deadline - time.monotonic()) for _ in range(count)]

    def tell(self, line: str) -> None:
        """Write a line to the program's standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def finish(self, timeout: float = PATIENCE) -> None:
        """Wait for the end of the program, which has to be a good one."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the program does not end\n{self.report()}") from None
        for reader in self._readers:
            reader.join(timeout)
        assert self.process.returncode == 0, self.report()

    def end(self) -> None:
        """End it by force if it runs, and close what leads to it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:  # what was told to it last, and it did not read
                pass

    def report(self) -> str:
        """What it printed."""
        return f"-- output\n{''.join(self.lines)}-- errors\n{''.join(self.errors[-60:])}"


def _processes() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            yield int(name)


def _status(pid: int, key: str) -> list[str]:
    """The words of a line of a process's status; none if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    found = [line.split()[1:] for line in text.splitlines() if line.startswith(f"{key}:")]
    return found[0] if found else []


def _namespace(pid: int, kind: str) -> str | None:
    """Which namespace a process is in, or None if it has ended or belongs to somebody else."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return None


class _Container:
    def __init__(self) -> None:
        self.ordinary = os.geteuid() != 0
        user = ["--user", "--map-root-user"] if self.ordinary else []
        kinds = ["--net", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child"]
        command = ["unshare", *user, *kinds, sys.executable, "-I", "-S", "-c", FIRST_PROCESS]
        self._outer = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests
        )
        assert self._outer.stdout is not None
        assert self._outer.stderr is not None
        if self._outer.stdout.readline() != "ready\n":
            self._outer.wait()
            reason = self._outer.stderr.read().strip()
            self.close()
            raise ClusterUnavailableError(f"no namespaces of our own: {reason}")
        parent = str(self._outer.pid)
        (self.first,) = (pid for pid in _processes() if _status(pid, "PPid") == [parent])
        self._pids = _namespace(self.first, "pid")

    def entering(self, network_of: int) -> list[str]:
        """The start of a command that runs in the container, in the network of a process of it."""
        user = ["--user", "--preserve-credentials"] if self.ordinary else []
        # The mounts are those of the first process. A network is entered by the process that holds it.
        place = ["--target", str(self.first), *user, "--pid", "--mount"]
        return ["nsenter", *place, f"--net=/proc/{network_of}/ns/net", "--"]

    def run(self, *command: str) -> None:
        """Run a short command in the container's own network, where the bridge is."""
        done = subprocess.run(
            [*self.entering(self.first), *command], capture_output=True, text=True, timeout=PATIENCE
        )
        if done.returncode != 0:
            raise ClusterUnavailableError(f"{' '.join(command)}: {done.stderr.strip()}")

    def start(self, command: Sequence[str], network_of: int, **options: Any) -> Program:
        return Program(
            subprocess.Popen(
                [*self.entering(network_of), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                **options,
            )
        )

    def find(self, inner: int) -> int | None:
        """The id that a process of the container has outside, by its id inside. None if it has ended."""
        for pid in _processes():
            if _status(pid, "NSpid")[-1:] == [str(inner)] and _namespace(pid, "pid") == self._pids:
                return pid
        return None

    def close(self) -> None:
        """End every process of the container, and wait until they have ended."""
        assert self._outer.stdin is not None
        self._outer.stdin.close()
        try:
            self._outer.wait(PATIENCE)
        finally:
            if self._outer.poll() is None:
                self._outer.kill()  # it takes the first process with it, and that one all others
                self._outer.wait()
            for stream in (self._outer.stdout, self._outer.stderr):
                assert stream is not None
                stream.close()


@contextmanager
def _open_container() -> Iterator[_Container]:
    container = _Container()
    try:
        yield container
    finally:
        container.close()


@dataclass(eq=False)
class Node:
    """A machine of the cluster."""

    number: int
    address: str
    holder: Program
    network_of: int  # the process that holds its network namespace
    place: str  # that namespace, as a process in it finds it at /proc/self/ns/net
    ray: Program | None = None

    @property
    def port(self) -> str:
        """The bridge's end of its cable."""
        return f"port{self.number}"


class Cluster:
    """Nodes and what can happen to them. `nodes[0]` is the head: programs run there."""

    def __init__(self, container: _Container, settings: dict[str, str]) -> None:
        self._container = container
        self._started = 0
        self._observer: Program | None = None
        self.nodes: list[Node] = []
        # A proxy leads out of the container, and there is no way out. What Ray is told is told here.
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RAY_") and not name.lower().endswith("_proxy")
        }
        self._environment |= {
            "PYTHONUNBUFFERED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            # A token of our own: without it the head would ask for the one that the user may have in a file.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            **HEALTH_CHECKS,
            **settings,
        }
        container.run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
        container.run("ip", "link", "add", "bridge", "type", "bridge")
        container.run("ip", "link", "set", "bridge", "up")

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def address(self) -> str:
        """Where Ray's control service is: `RayPlacement(address=...)`."""
        return f"{self.head.address}:6379"

    def add_nodes(self, count: int = 1) -> list[Node]:
        """Start further nodes side by side, and wait until they are members."""
        nodes = [self._plug_in() for _ in range(count)]
        for node in nodes:
            self._start_ray(node)
        for node in nodes:
            self._wait_for_ray(node)
        return nodes

    def add_node(self) -> Node:
        """Start a further node, and wait until it is a member."""
        (node,) = self.add_nodes()
        return node

    def complete(self, count: int) -> list[Node]:
        """Add nodes until there are so many, and wait until these are the members, and no other."""
        if len(self.nodes) < count:
            self.add_nodes(count - len(self.nodes))
        wanted = sorted(node.address for node in self.nodes)
        wait_until(lambda: self.members() == wanted, f"the members of the cluster are {wanted}")
        return list(self.nodes)

    def members(self) -> list[str]:
        """The addresses of the nodes that Ray's control service takes for alive."""
        if self._observer is None:
            command = [sys.executable, "-c", OBSERVER, self.address]
            self._observer = self._container.start(command, self.head.network_of, env=self._environment)
        self._observer.tell("members?")
        return self._observer.read("members")["addresses"]

    def _plug_in(self) -> Node:
        """Make a machine without anything on it, with an address and a cable to the bridge."""
        self._started += 1
        number = self._started
        # It ends when its input does. The shell's id is the one that `cat` goes on with.
        script = 'ip link set lo up && echo \'{"event": "network", "pid": \'$$\'}\' && exec cat'
        holder = self._container.start(["unshare", "--net", "--", "sh", "-c", script], self._container.first)
        inner = holder.read("network")["pid"]
        network_of = self._container.find(inner)
        assert network_of is not None
        place = _namespace(network_of, "net")
        assert place is not None
        node = Node(number, f"10.77.0.{number}", holder, network_of, place)
        self.nodes.append(node)
        run = self._container.run
        run("ip", "link", "add", node.port, "type", "veth", "peer", "name", "eth0", "netns", str(inner))
        run("ip", "link", "set", node.port, "master", "bridge", "up")
        inside = ["nsenter", f"--net=/proc/{inner}/ns/net", "--", "ip"]
        run(*inside, "address", "add", f"{node.address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        # Ray asks which of its addresses leads out, also where nothing is out there.
        run(*inside, "route", "add", "default", "dev", "eth0")
        return node

    def _start_ray(self, node: Node) -> None:
        first = node is self.head
        role = (
            ["--head", "--port=6379", "--include-dashboard=false"] if first else [f"--address={self.address}"]
        )
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            *role,
            "--block",
            "--disable-usage-stats",
        ]
        command += [f"--node-ip-address={node.address}", "--num-cpus=1", "--include-log-monitor=false"]
        command += [f"--temp-dir=/dev/shm/{node.number}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        # Not measured: Ray's own processes would be slow, and those that run agents are killed in the end.
        environment = {n: value for n, value in self._environment.items() if not n.startswith("COVERAGE_")}
        node.ray = self._container.start(command, node.network_of, env=environment)

    def _wait_for_ray(self, node: Node) -> None:
        assert node.ray is not None
        deadline = time.monotonic() + PATIENCE
        while not any("Ray runtime started" in line for line in node.ray.lines):
            if node.ray.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Ray does not start at node {node.number}\n{node.ray.report()}")
            time.sleep(0.02)

    def cut(self, node: Node) -> None:
        """Take the cable out: from now on nothing gets to the node or from it, and nobody is told."""
        self._container.run("ip", "link", "set", node.port, "down")

    def restore(self, node: Node) -> None:
        """Put the cable back."""
        self._container.run("ip", "link", "set", node.port, "up")

    def kill_node(self, node: Node) -> None:
        """Kill every process of a node at once. Its sockets are closed, which the others see."""
        while pids := self.processes(node):
            for pid in pids:
                _kill(pid)
        self._forget(node)

    def switch_off(self, node: Node) -> None:
        """Cut a node and kill its processes: it goes without a word, as a machine without power does."""
        self.cut(node)
        self.kill_node(node)

    def _forget(self, node: Node) -> None:
        """Take away a machine on which nothing runs any more."""
        assert node.holder.process.stdin is not None
        node.holder.process.stdin.close()
        for program in (node.ray, node.holder):
            if program is not None:
                program.process.wait(PATIENCE)
                program.end()
        self.nodes.remove(node)

    def processes(self, node: Node) -> list[int]:
        """The ids that the processes of a node have outside the container. They may end at any time."""
        # A process that is about to end, and has no files any more, still has a namespace.
        return [
            pid
            for pid in _processes()
            if pid != node.network_of
            and _namespace(pid, "net") == node.place
            and _status(pid, "State")[:1] != ["Z"]
        ]

    def kill_process(self, inner: int) -> None:
        """Kill a process by the id that it has inside the container, as a program told it."""
        pid = self._container.find(inner)
        assert pid is not None, f"process {inner} has ended"
        _kill(pid)

    def is_running(self, inner: int) -> bool:
        """Whether a process runs, by the id that it has inside the container."""
        pid = self._container.find(inner)
        return pid is not None and _status(pid, "State")[:1] != ["Z"]

    @contextmanager
    def running(self, program: Path, *arguments: str, at: Node | None = None) -> Iterator[Program]:
        """Run a Python program at the head, or at another node. It is ended when the block is left.

        Its first argument is the address of the cluster.
        """
        where = self.head if at is None else at
        command = [sys.executable, str(program), self.address, *arguments]
        started = self._container.start(command, where.network_of, env=self._environment)
        try:
            yield started
        finally:
            started.end()

    def logs(self, node: Node) -> Path:
        """Where Ray writes its logs at a node, as a path that leads there from outside."""
        return Path(f"/proc/{self._container.first}/root/dev/shm/{node.number}/session_latest/logs")

    def close(self) -> None:
        """Close what leads to the nodes. Their processes end with the container."""
        if self._observer is not None:
            self._observer.end()
        for node in list(self.nodes):
            if node.holder.process.stdin is not None:
                node.holder.process.stdin.close()
            for program in (node.ray, node.holder):
                if program is not None:
                    program.end()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@contextmanager
def open_cluster(nodes: int = 3, settings: dict[str, str] | None = None) -> Iterator[Cluster]:
    """A cluster of so many nodes, the head among them. `settings` are variables that Ray reads.

    Raises:
      ClusterUnavailableError: if this machine allows no namespaces.
    """
    with _open_container() as container:
        cluster = Cluster(container, settings or {})
        try:
            cluster.add_nodes(1)
            cluster.add_nodes(nodes - 1)
            yield cluster
        finally:
            cluster.close()


def wait_until(
    condition: Callable[[], object], what: str, timeout: float = PATIENCE, pause: float = 0.02
) -> None:
    """Look again and again until something is so."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {timeout} s: {what}")
        time.sleep(pause)
