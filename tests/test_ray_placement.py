"""What `RayPlacement` is told; a worker's program and its watchdog in this process. No cluster is needed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest
import trio
import trio.testing

pytest.importorskip("ray")

from agentpool import RemotePlacement
from agentpool._core.errors import AgentPoolError
from agentpool.ray import RayPlacement, _placement
from agentpool.ray._calls import call_ray
from agentpool.ray._watchdog import GRACE, KernelTimer
from agentpool.testing import simulate

LONG = 20.0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"address": 6379}, TypeError, "address must be a string"),
        ({"address": "ray://10.0.0.1:10001"}, ValueError, "not ray://10.0.0.1:10001"),
        ({"workers": 0}, ValueError, "workers must be at least 1, not 0"),
        ({"workers": 1.5}, TypeError, "workers must be a number of processes"),
        ({"workers": True}, TypeError, "workers must be a number of processes"),
        ({"cpus": -1}, ValueError, "cpus must be at least 0, not -1"),
        ({"cpus": "2"}, TypeError, "cpus must be a number"),
        ({"cpus": float("inf")}, TypeError, "cpus must be a number"),
        ({"resources": ["GPU"]}, TypeError, "resources must be a dictionary"),
        ({"resources": {"GPU": "1"}}, TypeError, "resources must be names with numbers"),
        ({"resources": {"CPU": 1}}, ValueError, "given as cpus"),
        ({"resources": {"GPU": 0}}, ValueError, "amounts above 0, not GPU: 0"),
        ({"runtime_env": "env"}, TypeError, "runtime_env must be a dictionary"),
        ({"lease": 1.9}, ValueError, "lease must be at least 2 seconds, not 1.9"),
        ({"lease": None}, TypeError, "lease must be a number of seconds"),
        ({"start_timeout": 0}, ValueError, "start_timeout must be above 0 seconds, not 0"),
        ({"start_timeout": "1m"}, TypeError, "start_timeout must be a number of seconds"),
        ({"driver": 5}, TypeError, "driver must be a driver's name, or a function"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text.replace("(", r"\(")):
        RayPlacement(**arguments)


def test_a_placement_keeps_what_it_is_told_and_is_one_that_pools_know() -> None:
    resources = {"GPU": 1.0}
    placement = RayPlacement(address="auto", resources=resources, driver="openai:gpt-5", lease=2)
    resources["GPU"] = 4.0
    assert isinstance(placement, RemotePlacement)
    assert placement.resources == {"GPU": 1.0}
    assert (placement.driver, placement.lease) == ("openai:gpt-5", 2)
    assert placement != RayPlacement(address="auto")
    assert {placement: 1}  # each has workers of its own


def test_without_ray_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_placement, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'trio-agentpool\[ray\]'"):
        RayPlacement()


def test_ray_is_imported_when_it_is_used_and_not_before() -> None:
    code = "import sys; from agentpool.ray import RayPlacement; RayPlacement(); print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_simulation_has_no_cluster() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="a simulation has no Ray cluster"):
            async with RayPlacement().open():
                pass

    simulate(main, seed=1)


# -- calls that block ----------------------------------------------------------------------------------


async def test_what_a_call_came_to_that_was_left_is_not_kept() -> None:
    go, unwanted = threading.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()
    dropped: list[int] = []

    def blocks() -> int:
        go.wait(LONG)
        return 7

    def drop(value: int) -> None:
        dropped.append(value)
        token.run_sync_soon(unwanted.set)

    with trio.move_on_after(0.05) as scope:
        await call_ray(blocks, unwanted=drop)
    assert scope.cancelled_caught
    assert dropped == []
    go.set()
    with trio.fail_after(LONG):
        await unwanted.wait()
    assert dropped == [7]


async def test_a_call_that_is_left_as_it_is_done_is_not_kept_either() -> None:
    go, done, unwanted = threading.Event(), threading.Event(), threading.Event()

    def blocks() -> int:
        go.wait(LONG)
        return 7

    def call_it() -> int:
        try:
            return blocks()
        finally:
            done.set()

    async with trio.open_nursery() as nursery:

        async def call() -> None:
            await call_ray(call_it, unwanted=lambda value: unwanted.set())

        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        # Trio does not run meanwhile, so that it has not heard of the result when the call is cancelled.
        go.set()
        assert done.wait(LONG)
        time.sleep(0.05)  # noqa: ASYNC251
        nursery.cancel_scope.cancel()
    assert unwanted.wait(LONG)


async def test_a_call_that_raises_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        await call_ray(lambda: 1 // 0)


# -- the program of a worker ---------------------------------------------------------------------------


# A worker ends its process, if need be without asking Python: so each has one of its own here too.
IN_A_PROCESS = """
import pickle, sys, threading, time
from agentpool._remote.facts import WorkerSetup
from agentpool.ray._actor import Program, Versions, WorkerActor, lease_clock
from agentpool.ray._watchdog import Watchdog

def setup_of(lease=60.0):
    return pickle.dumps(WorkerSetup(name="1", lease=lease, seed=1))

"""


def run_in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", IN_A_PROCESS + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LONG)


def test_a_worker_answers_runs_and_stops() -> None:
    done = run_in_a_process("""
        actor = WorkerActor()
        assert actor.greet() == Versions.here()
        try:
            actor.post(1, [])
        except RuntimeError as error:
            print(error)
        actor.stop()  # harmless before
        actor.run(setup_of())
        actor.run(setup_of())  # as it comes when the first reply was lost
        actor.post(1, [])
        assert actor.pull(0, 10, 0.0) == (1, ())
        started = time.monotonic()
        actor.stop()
        assert time.monotonic() - started < 1.4
        print("stopped")
    """)
    assert done.stdout == "the worker has not been told to run yet\nstopped\n", done.stderr
    assert done.returncode == 0


def test_what_cannot_be_loaded_leaves_nothing_running() -> None:
    done = run_in_a_process("""
        before = threading.active_count()
        try:
            WorkerActor().run(setup_of().replace(b"WorkerSetup", b"WorkerWhatt"))
        except AttributeError:
            print(threading.active_count() - before)
    """)
    assert done.stdout == "0\n", done.stderr


def test_a_program_that_dies_exits_the_process() -> None:
    done = run_in_a_process("""
        Program(setup_of()).end.post(1, [b"no record"])
        time.sleep(60)
    """)
    assert done.returncode == 1
    assert "UnpicklingError" in done.stderr


def test_at_the_end_of_its_lease_a_program_ends_and_exits_the_process() -> None:
    started = time.monotonic()
    done = run_in_a_process("""
        Program(setup_of(lease=0.3))
        time.sleep(60)
    """)
    assert time.monotonic() - started >= 0.3
    assert done.returncode == 1
    assert "nothing was heard of the head for too long" in done.stderr


# -- the watchdog --------------------------------------------------------------------------------------


def test_the_watchdog_cancels_and_exits_when_nothing_ends() -> None:
    started = time.monotonic()
    done = run_in_a_process("""
        now = lease_clock()
        Watchdog(lambda: now + 0.2, lease_clock, lambda: print("cancelled", flush=True))
        time.sleep(60)
    """)
    assert time.monotonic() - started >= 0.2 + GRACE
    assert (done.returncode, done.stdout) == (1, "cancelled\n")


def test_a_lease_that_is_renewed_goes_on() -> None:
    done = run_in_a_process("""
        expires_at = lease_clock() + 1.0
        watchdog = Watchdog(lambda: expires_at, lease_clock, lambda: print("cancelled", flush=True))
        expires_at += 60
        time.sleep(2.5)
        watchdog.stop()
        print("alive")
    """)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


HOGS = """
import re, sys, time, faulthandler
from agentpool.ray._actor import lease_clock
from agentpool.ray._watchdog import Watchdog
if sys.argv[1] == "kernel":
    faulthandler.dump_traceback_later = lambda *args, **options: None
end = lease_clock() + 0.5
Watchdog(lambda: end, lease_clock, lambda: print("cancelled"))
re.match("(a+)+$", "a" * 60 + "b")
"""


@pytest.mark.parametrize("backstop", ["faulthandler", "kernel"])
def test_the_backstops_need_no_python(backstop: str) -> None:
    """The regular expression holds the interpreter's lock for years."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HOGS, backstop], capture_output=True, text=True, timeout=60)
    if backstop == "faulthandler":
        assert done.returncode == 1
        assert "in match\n" in done.stderr
    elif KernelTimer.create(9) is not None:
        assert done.returncode == -9
    assert time.monotonic() - started >= 0.5 + GRACE
    assert done.stdout == ""  # the watchdog itself did not get to run


async def test_errors_of_a_start_are_errors_of_the_pool() -> None:
    with pytest.raises(AgentPoolError, match=r"cannot connect to a Ray cluster at 127\.0\.0\.1:1: "):
        async with RayPlacement(address="127.0.0.1:1").open():
            pass
