"""What users of comparable systems reported and only real processes show, on a cluster of one node."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from cluster_kit import Cluster, Program, open_cluster, wait_until, why_no_cluster

pytestmark = pytest.mark.processes

PROGRAM = Path(__file__).parent / "reported.py"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = why_no_cluster()
    if reason is not None:
        if os.environ.get("AGENTPOOL_REQUIRE_CLUSTER") == "1":
            pytest.fail(f"this machine cannot have a cluster, and has to: {reason}")
        pytest.skip(reason)
    with open_cluster(1) as cluster:
        yield cluster


def said(program: Program) -> list[dict[str, Any]]:
    program.finish()
    return [json.loads(line) for line in program.lines if line.startswith("{")]


def test_what_is_defined_in_the_program_itself_runs_elsewhere(cluster: Cluster) -> None:
    """ray-project/ray#7881, #14172, dask/distributed#344: functions and errors of `__main__`, closures and
    lambdas were not found at a worker, or lost their class."""
    with cluster.running(PROGRAM, "main_module") as program:
        of_class, closure, error, stubborn = said(program)
    assert (of_class["value"], of_class["same"]) == (8, True)
    assert closure["value"] == 4
    assert (error["same"], error["number"]) == (True, 7)
    assert "in own_error" in error["notes"][0]
    assert (stubborn["kind"], stubborn["text"]) == ("Stubborn", "number 7")
    assert "in own_error" in stubborn["traceback"]


def test_an_agent_that_blocks_for_less_than_the_lease_costs_nobody_anything(cluster: Cluster) -> None:
    """dask/distributed#6324, #4150, Bogdanp/dramatiq#692, repowise-dev/repowise#2120: a task that held the
    loop starved the heartbeat, and a healthy worker was killed, or its work given to another."""
    with cluster.running(PROGRAM, "short_block") as program:
        first, second, neighbour, pids = said(program)
    assert first["value"] == second["value"] == 4.0
    assert neighbour["value"] == 1.0
    assert len({each["value"] for each in pids["pids"]}) == 1


def test_an_agent_that_leaves_the_program_ends_it_at_once(cluster: Cluster) -> None:
    """dask/distributed#301, ray-project/ray#1049, #40358: `sys.exit()` in a task hung who waited for it, or
    was repeated; its worker died, and others with it."""
    with cluster.running(PROGRAM, "sys_exit") as program:
        pid = program.read("worker")["value"]
        assert program.process.wait(30) == 3, program.report()
        wait_until(lambda: not cluster.is_running(pid), "the worker has ended", 30)


def test_agents_that_kill_their_process_take_only_those_in_it_along(cluster: Cluster) -> None:
    """python/cpython#101267, dask/distributed#3196, temporalio/sdk-python#245, TkTech/chancy#94."""
    with cluster.running(PROGRAM, "dying") as program:
        rest = said(program)
    for died, after in zip(rest[::2], rest[1::2], strict=True):
        assert died["outcomes"][1]["error"] == "WorkerLostError"
        # The last one may have been started when the process was known to be gone, and so in the other one.
        ended_well = sum(each.get("value") == 1.0 for each in died["outcomes"])
        assert ended_well in (2, 3), died
        assert sum(each.get("error") == "WorkerLostError" for each in died["outcomes"]) == 4 - ended_well, (
            died
        )
        assert died["seconds"] < 15
        assert after["value"] == 0.1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_ignores_sigterm_ends_with_its_program_however_that_ends(
    cluster: Cluster, how: signal.Signals
) -> None:
    """ray-project/ray#1005, #2005, #40189, #31451, celery/django-celery#142, blacklanternsecurity/bbot#3207:
    workers outlived the program that they worked for."""
    with cluster.running(PROGRAM, "deaf_worker", str(int(how))) as program:
        pid = program.read("worker")["value"]
        assert program.process.wait(30) != 0
        wait_until(lambda: not cluster.is_running(pid), "the worker has ended", 30)
