"""A worker process on a real Ray cluster of one node: how it is reached, how it ends, what it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from cluster_kit import Cluster, Program, open_cluster, wait_until, why_no_cluster

pytestmark = pytest.mark.processes

PROGRAMS = Path(__file__).parent / "ray_programs.py"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = why_no_cluster()
    if reason is not None:
        if os.environ.get("AGENTPOOL_REQUIRE_CLUSTER") == "1":
            pytest.fail(f"this machine cannot have a cluster, and has to: {reason}")
        pytest.skip(reason)
    with open_cluster(1) as cluster:
        yield cluster


def events(cluster: Cluster, *arguments: str) -> list[dict[str, Any]]:
    """Run a program to its end, which prints nothing but its events, and has nothing to complain of."""
    with cluster.running(PROGRAMS, *arguments) as program:
        program.finish()
        assert program.errors == []
        assert all(line.startswith("{") for line in program.lines), program.report()
        return [json.loads(line) for line in program.lines]


def finish(program: Program) -> list[dict[str, Any]]:
    program.tell("{}")
    program.finish()
    assert program.errors == []
    return [json.loads(line) for line in program.lines]


def test_agents_run_in_another_process_in_a_thread_of_their_own(cluster: Cluster) -> None:
    state, within, large, done = events(cluster, "agents")
    assert state["pid"] != state["here"]
    assert not state["is_main"]
    assert within["value"] == 21
    assert large["same"]
    assert not [name for name in done["threads"] if "agentpool" in name or "ray" in name.lower()]


def test_what_comes_twice_is_done_once_and_what_was_lost_comes_again(cluster: Cluster) -> None:
    replies, superseded = events(cluster, "numbers")
    assert replies == {"event": "replies", "count": 1, "number": 1, "same": True}
    assert superseded["seconds"] < 10


# -- ends ----------------------------------------------------------------------------------------------


def test_of_a_worker_that_is_killed_the_head_hears_at_once(cluster: Cluster) -> None:
    with cluster.running(PROGRAMS, "killed") as program:
        cluster.kill_process(program.read("worker")["pid"])
        program.finish()
        assert program.errors == []
        worker, *lost = map(json.loads, program.lines)  # Ray would print a page about it here
        assert [each["kind"] for each in lost] == ["WorkerLostError"] * 2
        assert "its worker process has died" in lost[0]["text"]
        assert "\n" not in lost[0]["text"]
        assert all(each["seconds"] < 10 for each in lost)
        assert not cluster.is_running(worker["pid"])


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_a_worker_that_is_closed_has_ended_also_by_who_is_cancelled(cluster: Cluster, how: str) -> None:
    with cluster.running(PROGRAMS, "ends", how) as program:
        pid = program.read("worker")["pid"]
        closed = program.read("closed")
        program.read("over")
        _wait_for_end(cluster, pid)
        finish(program)
    assert closed.get("cancelled", True)
    assert closed.get("seconds", 0) < 5


def test_workers_end_with_the_block_in_which_they_were_started(cluster: Cluster) -> None:
    with cluster.running(PROGRAMS, "ends", "left") as program:
        pid = program.read("worker")["pid"]
        program.read("over")
        assert cluster.is_running(pid)
        finish(program)
        _wait_for_end(cluster, pid)


def test_what_a_worker_cannot_make_sense_of_is_told(cluster: Cluster) -> None:
    with cluster.running(PROGRAMS, "ends", "broken") as program:
        error = program.read("error")
        program.read("over")
        finish(program)
    assert error["kind"] == "WorkerLostError"
    assert "post 5 has come, and the one after 1 is missing" in error["text"]


def test_a_worker_whose_program_dies_exits_and_the_head_hears_of_it(cluster: Cluster) -> None:
    lost, _gone = events(cluster, "crashed")
    assert lost["kind"] == "WorkerLostError"


@pytest.mark.parametrize(
    ("how", "within"),
    [
        ("waits", 2.9),  # it ends when its agents have ended
        ("cleanup", 3.5),  # the watchdog exits the process
        ("sleeps", 3.5),
        ("regex", 3.9),  # no Python thread runs: faulthandler, or the kernel
        ("stopped", 3.9),  # no thread runs at all: the kernel
    ],
)
def test_a_worker_that_does_not_hear_of_its_head_ends_whatever_its_agent_does(
    cluster: Cluster, how: str, within: float
) -> None:
    """The lease is 2 s, and the head declares the loss at 4 s."""
    _worker, gone = events(cluster, "unheard", how)
    assert 1.5 < gone["seconds"] < within


def _wait_for_end(cluster: Cluster, pid: int) -> None:
    wait_until(lambda: not cluster.is_running(pid), f"process {pid} has ended", 20)


# -- what a program keeps ------------------------------------------------------------------------------


def test_calls_that_nobody_waits_for_any_more_leave_no_garbage(cluster: Cluster) -> None:
    (garbage,) = events(cluster, "forgotten")
    assert not {"Future", "ObjectRef", "RayTransport", "Event", "Cancelled"} & set(garbage["kinds"])
    assert not [kind for kind in garbage["kinds"] if kind.endswith(("Error", "traceback", "frame"))]


def test_signals_stay_the_program_s_own(cluster: Cluster) -> None:
    caught, alarm, after, environment = events(cluster, "signals", "none")
    assert caught["numbers"] == [signal.SIGTERM]
    assert alarm["seconds"] == 0
    assert after["numbers"] == [signal.SIGTERM] * 2
    assert environment["usage"] is None


def test_sigterm_ends_a_program_that_does_not_catch_it(cluster: Cluster) -> None:
    with cluster.running(PROGRAMS, "signals", str(int(signal.SIGTERM))) as program:
        program.read("ready")
        program.process.wait(20)
        assert program.process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
        assert program.errors == []


def test_ctrl_c_ends_a_program_as_it_does_without_ray(cluster: Cluster) -> None:
    with cluster.running(PROGRAMS, "signals", str(int(signal.SIGINT))) as program:
        program.read("ready")
        program.process.wait(20)
        report = program.report()
    assert "KeyboardInterrupt" in report
    assert "SIGTERM" not in report


def test_a_program_that_called_ray_init_itself_stays_connected(cluster: Cluster) -> None:
    inside, after = events(cluster, "own_ray")
    assert inside["value"] == "yes"
    assert after["connected"]


def test_two_pools_share_the_connection_and_the_last_ends_it(cluster: Cluster) -> None:
    both, one, refused, none = events(cluster, "shared")
    assert len(set(both["pids"])) == 2
    assert one["connected"]
    assert one["pid"] == both["pids"][0]
    assert "Ray has one connection for a process" in refused["text"]
    assert not none["connected"]


def test_a_cluster_of_this_machine_lives_as_long_as_the_block(cluster: Cluster) -> None:
    worker, left = events(cluster, "local")
    assert worker["count"] >= 1
    assert left["count"] == 0


def test_without_the_control_service_of_its_cluster_a_program_ends_in_order(cluster: Cluster) -> None:
    """Calls of Ray that need the service wait without an end then; nodes end after 5 s here, not a minute."""
    with open_cluster(1, {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}) as other:
        with other.running(PROGRAMS, "without_gcs") as program:
            program.read("ready")
            (service,) = (pid for pid in other.processes(other.head) if _runs(pid, "gcs_server"))
            os.kill(service, signal.SIGKILL)
            lost = program.read("lost")
            refused = program.read("no more")
            closed = program.read("closed")
            program.process.wait(60)  # Ray writes to its errors meanwhile
            assert program.process.returncode == 0, program.report()
    assert lost["error"] == "WorkerLostError"
    assert "the cluster does not answer" in refused["error"]
    assert refused["seconds"] < 20
    assert closed["seconds"] < 40


def _runs(pid: int, name: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(name.encode())
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- what does not start -------------------------------------------------------------------------------


def refusal(cluster: Cluster, *arguments: str) -> str:
    (refused,) = events(cluster, *arguments)
    assert refused["event"] == "refused"
    text: str = refused["text"]
    return text


def test_a_worker_for_which_no_node_has_room_says_what_there_is(cluster: Cluster) -> None:
    options = {"cpus": 3, "resources": {"special": 2}, "start_timeout": 1.5}
    text = refusal(cluster, "refused", json.dumps(options))
    assert "no worker process was up within 1.5 s" in text
    assert "One needs 3 CPU, 2 special; " in text
    assert "1 CPU, 0 special of 1 CPU, 0 special are free on 1 nodes" in text
    assert "cpus=" in text


def test_a_node_without_agentpool_is_told_of(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "agentpool").mkdir()
    (tmp_path / "agentpool" / "__init__.py").touch()
    options = {"runtime_env": {"env_vars": {"PYTHONPATH": str(tmp_path)}}}
    text = refusal(cluster, "refused", json.dumps(options))
    assert "ModuleNotFoundError: No module named 'agentpool." in text
    assert "runtime_env=" in text
    assert len(text) < 500


def test_a_node_with_another_version_is_told_of(cluster: Cluster, tmp_path: Path) -> None:
    facts = tmp_path / "trio_agentpool-99.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: trio-agentpool\nVersion: 99.0\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    options = {"runtime_env": {"env_vars": {"PYTHONPATH": path}}}
    text = refusal(cluster, "refused", json.dumps(options))
    assert re.search(r"do not fit the head: agentpool 99\.0 there, \S+ here", text)


def test_what_a_worker_is_told_at_its_start_and_cannot_load_is_told_of(cluster: Cluster) -> None:
    assert "WorkerWhatt" in refusal(cluster, "unloadable")


def test_a_start_that_is_cancelled_leaves_nothing(cluster: Cluster) -> None:
    cancelled, following = events(cluster, "cancelled_start")
    assert cancelled["caught"]
    assert following["pid"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "10.77.0.99:6379", "nobody.invalid:6379"])
def test_no_cluster_at_an_address_is_an_error_that_names_it(cluster: Cluster, address: str) -> None:
    assert f"cannot connect to a Ray cluster at {address}: " in refusal(cluster, "unreachable", address)
