"""Agents on a real cluster of three nodes, of which one is lost now and then.

The cluster is shared: a test that loses a node leaves the cluster with two, and the next one begins with a
new node. The programs run at the head node. An agent writes down when it runs, in files that every node sees;
all clocks are one, since the nodes are on one machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cluster_kit import Cluster, Node, Program, open_cluster, wait_until, why_no_cluster

HERE = Path(__file__).parent
LEASE = 3.0
# An agent is cancelled when the lease is over: so long it may take on a busy machine until it has noticed.
# Less than the two seconds that the head waits beyond the lease.
NOTICE = 1.0


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    problem = "Ray is not installed" if find_spec("ray") is None else why_no_cluster()
    if problem:
        if os.environ.get("AGENTPOOL_REQUIRE_CLUSTER"):
            pytest.fail(f"a cluster is required here: {problem}")
        pytest.skip(problem)
    with open_cluster(3) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """Three nodes, which know of each other and of no other."""
    shared_cluster.complete(3)
    return shared_cluster


@dataclass(frozen=True)
class Run:
    """A run of an agent's body, as it wrote it down."""

    place: str
    process: int
    started_at: float
    last_at: float
    stopped: bool
    blocks: bool = False


def runs(directory: Path, name: str) -> list[Run]:
    """The runs of an agent, in the order of their starts; each line counts for the run of its process."""
    found: dict[int, Run] = {}
    text = (directory / name).read_text() if (directory / name).exists() else ""
    for line in text.splitlines():
        what, at, place, pid = line.split()
        process = int(pid)
        if what == "start":
            assert process not in found, f"{name} was started twice in one process"
            found[process] = Run(place, process, float(at), float(at), False)
        else:
            begun = found[process]
            blocks = begun.blocks or what == "block"
            found[process] = Run(place, process, begun.started_at, float(at), what == "stop", blocks)
    return list(found.values())


class Beating:
    """The program of `beating.py` and what its agents write."""

    def __init__(self, cluster: Cluster, program: Program, directory: Path) -> None:
        self._cluster = cluster
        self._program = program
        self._directory = directory
        self.outcomes: dict[str, dict[str, Any]] = {}

    def spawn(self, *names: str) -> dict[str, Run]:
        """Spawn agents, and wait until all of them run."""
        self._program.tell(f"spawn {' '.join(names)}")
        wait_until(
            lambda: all(runs(self._directory, name) for name in names) or self._has_ended(), "they run"
        )
        return {name: self.run_of(name) for name in names}

    def spread(self, *kinds: str) -> dict[str, Run]:
        """Spawn agents until there are some of each kind on every node; the kind begins their names.

        An agent goes where the fewest are. A worker that is long in starting gets its share when it is up.
        """
        started: dict[str, Run] = {}
        everywhere = {(kind, node.place) for kind in kinds for node in self._cluster.nodes}

        def is_spread() -> bool:
            return {(name.rpartition("-")[0], run.place) for name, run in started.items()} >= everywhere

        def spawn_more() -> bool:
            if not is_spread():
                wave = range(len(started), len(started) + 3)
                started.update(self.spawn(*(f"{kind}-{number}" for number in wave for kind in kinds)))
            return is_spread()

        for _ in range(2):
            spawn_more()
        wait_until(spawn_more, "agents run on every node", pause=0.5)
        return started

    def _has_ended(self) -> bool:
        assert self._program.process.poll() is None, self._program.report()
        return False

    def run_of(self, name: str) -> Run:
        """The run of an agent, of which it has to have one."""
        found = runs(self._directory, name)
        assert len(found) == 1, f"{name}: {found}"
        return found[0]

    def runs_of(self, name: str) -> list[Run]:
        return runs(self._directory, name)

    def release(self, *names: str) -> None:
        self._program.tell(f"send {' '.join(names)}")

    def abort(self, *names: str) -> None:
        self._program.tell(f"abort {' '.join(names)}")
        assert {outcome["kind"] for outcome in self.wait_for(*names)} == {"Aborted"}

    def wait_for(self, *names: str) -> list[dict[str, Any]]:
        """Wait until these have ended, and return their outcomes as the pool's events told them."""
        while not self.outcomes.keys() >= set(names):
            outcome = self._program.read("outcome")
            self.outcomes[outcome["name"]] = outcome
        return [self.outcomes[name] for name in names]

    def complete(self, *names: str) -> None:
        """Release agents; each of them completes, in the run that it had, with what it was sent."""
        self.release(*names)
        for outcome in self.wait_for(*names):
            assert outcome["kind"] == "Completed", outcome
            assert outcome["value"] == f"{outcome['name']}: well done"

    def finish(self) -> None:
        """Leave the pool. All agents have ended, and each has the one outcome that was told."""
        self._program.tell("end")
        kept = self._program.read("kept")["outcomes"]
        left = self._program.read("left")
        assert (left["active"], left["lost_events"]) == (0, 0)
        self._program.read("over")
        self._program.finish()
        told = [event for event in self._program.events() if event["event"] == "outcome"]
        assert sorted(event["name"] for event in told) == sorted(kept)
        for event in told:
            assert kept[event["name"]].items() <= event.items()


@contextmanager
def beating(cluster: Cluster, directory: Path, lease: float = LEASE) -> Iterator[Beating]:
    directory.mkdir(exist_ok=True)
    arguments = (str(directory), str(lease))
    with cluster.running(HERE / "beating.py", *arguments) as program:
        yield Beating(cluster, program, directory)


def on(node: Node, all_runs: dict[str, Run]) -> list[str]:
    """The names of the agents that run on a node."""
    return [name for name, run in all_runs.items() if run.place == node.place]


def elsewhere(node: Node, all_runs: dict[str, Run]) -> list[str]:
    return [name for name, run in all_runs.items() if run.place != node.place]


def assert_lost(beating: Beating, names: list[str]) -> float:
    """These have failed because their worker is lost, when they ran no more. Returns when the first has."""
    outcomes = beating.wait_for(*names)
    for outcome in outcomes:
        assert (outcome["kind"], outcome["error"]) == ("Failed", "WorkerLostError"), outcome
        assert beating.run_of(outcome["name"]).last_at < outcome["at"]
    return min(outcome["at"] for outcome in outcomes)


def test_agents_run_on_every_node_and_each_once(cluster: Cluster, tmp_path: Path) -> None:
    with beating(cluster, tmp_path / "beats") as program:
        started = program.spread("agent")
        assert {run.place for run in started.values()} == {node.place for node in cluster.nodes}
        assert len({run.process for run in started.values()}) == 3
        program.complete(*started)
        assert all(program.run_of(name).stopped for name in started)
        program.finish()


def test_messages_and_children_cross_nodes(cluster: Cluster) -> None:
    with cluster.running(HERE / "talking.py", "100") as program:
        assert len(set(program.read("talking")["places"])) > 1
        check_talk(program.read_many("told", 6), 100)
        left = program.read("left")
        assert (left["active"], left["dead_letters"]) == (0, 0)
        program.finish()


def check_talk(told: list[dict[str, Any]], count: int) -> None:
    """Each agent of the ring has got what the one before sent, all of it, in order and once."""
    before = {one["following"]: one["id"] for one in told}
    assert len({one["id"] for one in told} | {one["child_id"] for one in told}) == 2 * len(told)
    for one in told:
        assert one["got"] == list(range(count))
        assert one["senders"] == [before[one["id"]]]
        assert one["answer"] == count
        assert (one["child"]["value"], one["child"]["parent"]) == (2 * one["id"], one["id"])
        assert one["child"]["depth"] == 1


def test_what_is_said_while_a_cable_is_out_for_a_second_arrives_once_and_in_order(cluster: Cluster) -> None:
    with cluster.running(HERE / "talking.py", "400") as program:
        places = program.read("talking")["places"]
        node = next(node for node in cluster.nodes[1:] if node.place in places)
        cut_for_a_second(cluster, node)
        restored_at = time.monotonic()
        told = program.read_many("told", 6)
        assert max(one["at"] for one in told) > restored_at
        check_talk(told, 400)
        program.finish()


def cut_for_a_second(cluster: Cluster, node: Node) -> None:
    cluster.cut(node)
    time.sleep(1.0)  # this long is what is tested
    cluster.restore(node)


def test_agents_do_not_notice_that_a_cable_is_out_for_a_second(cluster: Cluster, tmp_path: Path) -> None:
    with beating(cluster, tmp_path / "beats") as program:
        started = program.spread("agent")
        cut_for_a_second(cluster, cluster.nodes[2])
        program.complete(*started)
        for name, run in started.items():
            ended = program.run_of(name)
            assert (ended.process, ended.stopped) == (run.process, True)
        program.finish()


def test_a_killed_worker_takes_its_agents_with_it_and_no_other(cluster: Cluster, tmp_path: Path) -> None:
    with beating(cluster, tmp_path / "beats") as program:
        started = program.spread("agent", "agent-again")
        node = cluster.nodes[1]
        lost = [name for name in on(node, started) if "again" not in name]
        again = [name for name in on(node, started) if "again" in name]
        (process,) = {run.process for name, run in started.items() if name in lost}
        cluster.kill_process(process)
        declared_at = assert_lost(program, lost)
        # Who has a policy to be restarted runs again, in another process, after the loss was sure.
        wait_until(lambda: all(len(program.runs_of(name)) == 2 for name in again), "they run again")
        for name in again:
            first, second = program.runs_of(name)
            assert first.process == process
            assert first.last_at < declared_at <= second.started_at
        program.spawn("later")
        program.complete(*elsewhere(node, started), *again, "later")
        assert [program.outcomes[name]["restarts"] for name in again] == [1] * len(again)
        assert {program.outcomes[name]["restarts"] for name in elsewhere(node, started)} == {0}
        program.finish()


def test_no_agent_on_a_node_that_is_cut_off_runs_past_its_lease(cluster: Cluster, tmp_path: Path) -> None:
    with beating(cluster, tmp_path / "beats") as program:
        started = program.spread("agent")
        node = cluster.nodes[2]
        lost = on(node, started)
        cluster.cut(node)
        cut_at = time.monotonic()
        assert_lost(program, lost)
        for name in lost:
            run = program.run_of(name)
            assert run.stopped  # cancelled, as an abort would have done it
            assert cut_at - 1.0 < run.last_at < cut_at + LEASE + NOTICE
        # The cable comes back: nothing of what was lost does.
        cluster.restore(node)
        program.complete(*elsewhere(node, started))
        before = {name: program.run_of(name) for name in lost}
        cluster.kill_node(node)
        cluster.complete(3)
        fresh = program.spread("fresh")  # on the node that came too
        program.complete(*fresh)
        assert {name: program.run_of(name) for name in lost} == before
        program.finish()


def test_an_agent_that_cannot_be_cancelled_ends_with_its_lease(cluster: Cluster, tmp_path: Path) -> None:
    with beating(cluster, tmp_path / "beats") as program:
        started = program.spread("agent", "stubborn")
        node = cluster.nodes[1]
        lost = on(node, started)
        stubborn = next(name for name in lost if name.startswith("stubborn"))
        program.release(stubborn)
        wait_until(lambda: program.run_of(stubborn).blocks, "it blocks its worker")
        cluster.cut(node)
        assert_lost(program, lost)
        run = program.run_of(stubborn)
        assert not run.stopped
        assert not cluster.is_running(run.process)
        cluster.kill_node(node)
        quick = [name for name in elsewhere(node, started) if not name.startswith("stubborn")]
        program.complete(*quick)
        program.abort(*(name for name in elsewhere(node, started) if name not in quick))
        program.finish()


@pytest.mark.parametrize("silently", [False, True], ids=["processes killed", "switched off"])
def test_a_lost_node_takes_its_agents_with_it_and_no_other(
    cluster: Cluster, tmp_path: Path, silently: bool
) -> None:
    with beating(cluster, tmp_path / "beats") as program:
        started = program.spread("agent")
        node = cluster.nodes[1]
        lost = on(node, started)
        if silently:
            cluster.switch_off(node)
        else:
            cluster.kill_node(node)
        assert_lost(program, lost)
        cluster.complete(3)
        fresh = program.spread("fresh")  # on the node that came too
        program.complete(*elsewhere(node, started), *fresh)
        program.finish()


def test_the_agents_of_a_head_that_was_killed_end_by_their_lease(cluster: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "beats"
    with beating(cluster, directory) as program:
        started = program.spread("agent")
    killed_at = time.monotonic()
    processes = {run.process for run in started.values()}
    wait_until(lambda: not any(cluster.is_running(process) for process in processes), "the workers end")
    for name in started:
        (run,) = runs(directory, name)
        assert run.last_at < killed_at + LEASE + NOTICE
