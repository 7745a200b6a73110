"""Programs that the tests of agents on a Ray cluster run inside of one. Each line of output is an event.

python ray_programs.py ADDRESS PROGRAM [ARGUMENT ...]
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio

from agentpool import AgentContext, TokenUsage, open_agent_pool, placed
from agentpool._core.errors import AgentPoolError
from agentpool._core.grants import EVERYTHING
from agentpool._core.placing import Ended, Start
from agentpool._remote.codec import SentError, record_from_bytes, record_to_bytes
from agentpool._remote.facts import AgentFacts, WorkerSetup
from agentpool._remote.model_facts import ModelFacts
from agentpool.abc import Transport, Workers
from agentpool.ray import RayPlacement

FACTS = AgentFacts(
    name="agent",
    parent_id=0,
    depth=1,
    root_id=1,
    life=0,
    is_watched=False,
    is_held_up=False,
    is_closing=False,
    is_draining=False,
    max_concurrent=100,
    models=ModelFacts(
        driver=None,
        budget=None,
        has_quota=False,
        memory=None,
        memory_text="None",
        journal_path=None,
        secrets=(),
        usage=TokenUsage(),
        limit=EVERYTHING,
    ),
)
SETUP = pickle.dumps(WorkerSetup(name="1", lease=10.0, seed=1))


def tell(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def told() -> dict[str, Any]:
    """What the test says next."""
    said: dict[str, Any] = json.loads(sys.stdin.readline() or "{}")
    return said


def _read(path: str) -> str:
    return Path(path).read_text()


class Head:
    """As much of a head as these programs need: it counts its requests."""

    def __init__(self, workers: Workers, transport: Transport) -> None:
        self._workers = workers
        self.transport = transport
        self.posts = 0
        self.ack = 0
        self.agents = 0

    async def post(self, *records: bytes) -> None:
        await self.transport.post(self.posts + 1, records)
        self.posts += 1

    async def pull(self, wait: float = 1.0) -> list[Any]:
        pulled = await self.transport.pull(self.ack, 1000, wait)
        assert pulled.number == self.ack + 1
        self.ack = pulled.number
        return [record_from_bytes(data) for data in pulled.records]

    async def start(self, agent: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self.agents += 1
        facts = attrs.evolve(FACTS, name=f"agent-{self.agents}", root_id=self.agents)
        work = self._workers.dumps((agent, args))
        await self.post(record_to_bytes(Start(self.agents, pickle.dumps(facts), work)))

    async def run(self, agent: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run an agent there that asks nothing of its pool, and return what it returns."""
        await self.start(agent, *args)
        while True:
            for record in await self.pull():
                if isinstance(record, Ended):
                    result = pickle.loads(record.result)
                    assert not isinstance(result, SentError), result
                    return pickle.loads(result)


@asynccontextmanager
async def head(address: str, *, setup: bytes = SETUP, **options: Any) -> AsyncIterator[Head]:
    async with RayPlacement(address=address, **{"cpus": 0, "workers": 1, **options}).open() as workers:
        yield Head(workers, await workers.start(setup))


async def pid_of(ctx: AgentContext) -> int:
    return os.getpid()


async def state_of(ctx: AgentContext) -> dict[str, Any]:
    status = _read("/proc/self/status")
    return {
        "pid": os.getpid(),
        "is_main": threading.current_thread() is threading.main_thread(),
        "kib": int(re.findall(r"VmRSS:\s+(\d+)", status)[0]),
    }


# -- agents --------------------------------------------------------------------------------------------


async def agents(address: str) -> None:
    """An agent by its name, one of `__main__`, one within a function; many records at once."""
    async with head(address) as there:
        state = await there.run(state_of)
        tell("state", here=os.getpid(), **state)
        factor = 3

        async def within(ctx: AgentContext, number: int) -> int:
            return factor * number

        tell("within", value=await there.run(within, 7))
        # Far above what Ray carries inside of a call, so that it goes through the object store, both ways.
        data = os.urandom(3_000_000)

        async def back(ctx: AgentContext, given: bytes) -> bytes:
            return given

        tell("large", same=await there.run(back, data) == data)
    tell("done", threads=[thread.name for thread in threading.enumerate()])


async def numbers(address: str) -> None:
    """A post that comes twice is done once, a reply that was not acknowledged comes again."""
    async with head(address) as there:
        await there.start(pid_of)
        record = record_to_bytes(Start(1, b"", b""))  # would fail, were it taken
        await there.transport.post(1, [record])
        first = await there.transport.pull(0, 1000, 10)
        again = await there.transport.pull(0, 1000, 10)
        tell("replies", count=len(first.records), number=first.number, same=first == again)
        # A pull that waits is answered when a newer one comes.
        async with trio.open_nursery() as nursery:
            started = time.monotonic()
            nursery.start_soon(there.transport.pull, first.number, 1000, 60)
            await trio.sleep(0.2)
            await there.transport.pull(first.number, 1000, 0.1)
        tell("superseded", seconds=time.monotonic() - started)


# -- ends ----------------------------------------------------------------------------------------------


async def killed(address: str) -> None:
    """A worker that is killed is lost, and what is asked of it hears of it."""
    async with head(address) as there:
        tell("worker", pid=await there.run(pid_of))
        started = time.monotonic()
        try:
            while True:
                await there.pull()
        except AgentPoolError as error:
            tell("lost", kind=type(error).__name__, text=str(error), seconds=time.monotonic() - started)
        try:
            await there.post(b"")
        except AgentPoolError as error:
            tell("lost", kind=type(error).__name__, text=str(error), seconds=time.monotonic() - started)


async def ends(address: str, how: str) -> None:
    """A worker ends: closed, closed by who is cancelled, with its block, with what it cannot be told."""
    async with head(address) as there:
        tell("worker", pid=await there.run(pid_of))
        match how:
            case "closed":
                started = time.monotonic()
                await there.transport.aclose()
                await there.transport.aclose()
                tell("closed", seconds=time.monotonic() - started)
            case "cancelled":
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await there.transport.aclose()
                tell("closed", cancelled=scope.cancelled_caught)
            case "broken":
                try:
                    await there.transport.post(5, [b"out of order"])
                except AgentPoolError as error:
                    tell("error", kind=type(error).__name__, text=str(error))
        tell("over")
        await trio.to_thread.run_sync(told)


async def stuck(ctx: AgentContext, how: str) -> None:
    match how:
        case "waits":
            await trio.sleep_forever()
        case "cleanup":
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep_forever()
        case "sleeps":
            time.sleep(600)  # noqa: ASYNC251  (it is about agents that do such things)
        case "regex":
            re.match("(a+)+$", "a" * 60 + "b")  # holds the interpreter's lock for longer than anybody waits
        case "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)


async def unheard(address: str, how: str) -> None:
    """A worker whose head says no more ends by its lease, whatever its agent does."""
    setup = pickle.dumps(WorkerSetup(name="1", lease=2.0, seed=1))
    async with head(address, setup=setup) as there:
        pid = await there.run(pid_of)
        posted = time.monotonic()
        with suppress(AgentPoolError):  # nothing over there may answer any more
            await there.start(stuck, how)
        tell("worker", pid=pid)
        await _until_gone(pid)
        tell("gone", seconds=time.monotonic() - posted)


async def _until_gone(pid: int) -> None:
    """Wait for the end of a process of this machine, without asking it anything."""
    while True:
        try:
            state = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        await trio.sleep(0.02)


async def crashed(address: str) -> None:
    """A worker whose trio program dies exits, and the head hears of it."""
    async with head(address) as there:
        pid = await there.run(pid_of)
        await there.post(b"no record")  # its program makes no sense of it
        try:
            while True:
                await there.pull()
        except AgentPoolError as error:
            tell("lost", kind=type(error).__name__, text=str(error))
        await _until_gone(pid)
        tell("gone")


# -- what a program keeps ------------------------------------------------------------------------------


async def forgotten(address: str) -> None:
    """Calls that nobody waits for any more leave nothing to the garbage collector, and no warning."""
    async with head(address) as there:
        await there.run(pid_of)
        with trio.move_on_after(0.05):
            await there.transport.pull(there.ack, 1000, 0.3)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        for _ in range(20):
            with trio.move_on_after(0.01):
                await there.transport.pull(there.ack, 1000, 0.3)
        await there.transport.aclose()
        for _ in range(5):
            try:
                await there.post(b"")
            except AgentPoolError:
                pass
        gc.collect()
        kinds = {type(each).__name__ for each in gc.garbage}
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        tell("garbage", kinds=sorted(kinds))


async def signals(address: str, number: str) -> None:
    """Signals and variables are the program's own, before, while and after it is connected."""
    os.environ.pop("RAY_USAGE_STATS_ENABLED", None)
    caught: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    async with head(address) as there:
        await there.run(pid_of)
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep(0.05)
        tell("caught", numbers=caught)
        # Had Ray's own handler been called, the process would be killed by an alarm in three seconds.
        tell("alarm", seconds=signal.alarm(0))
        if number != "none":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            tell("ready")
            os.kill(os.getpid(), int(number))
            await trio.sleep_forever()
    os.kill(os.getpid(), signal.SIGTERM)
    await trio.sleep(0.05)
    tell("caught", numbers=caught)
    tell("environment", usage=os.environ.get("RAY_USAGE_STATS_ENABLED"))


async def own_ray(address: str) -> None:
    """A program that has called `ray.init` itself stays connected as it was."""
    import ray

    ray.init(address, log_to_driver=False, configure_logging=False)
    async with head("10.1.1.1:1", runtime_env={"env_vars": {"SEEN": "yes"}}) as there:

        async def seen(ctx: AgentContext) -> str | None:
            return os.environ.get("SEEN")

        tell("inside", value=await there.run(seen))
    tell("after", connected=ray.is_initialized())
    ray.shutdown()


async def shared(address: str) -> None:
    """Two blocks share the connection; the last ends it."""
    import ray

    async with head(address) as one:
        async with head(address, runtime_env={"env_vars": {"SEEN": "yes"}}) as two:
            tell("both", pids=[await one.run(pid_of), await two.run(pid_of)])
        tell("one", connected=ray.is_initialized(), pid=await one.run(pid_of))
        try:
            async with RayPlacement(address="10.1.1.1:1").open():
                tell("elsewhere")
        except AgentPoolError as error:
            tell("refused", text=str(error))
    tell("none", connected=ray.is_initialized())


async def forever(ctx: AgentContext) -> None:
    await trio.sleep_forever()


async def without_gcs(address: str) -> None:
    """The control service of the cluster goes away for good; the program ends in order."""
    del os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"]  # noqa: SIM112  (is for the cluster)
    placement = RayPlacement(address=address, cpus=0, workers=1, lease=2, start_timeout=5)
    async with open_agent_pool(max_concurrent=10, placement=placement) as pool:
        first = await pool.spawn(placed(forever))
        second = await pool.spawn(placed(pid_of))
        tell("ready", pid=await second.result())
        started = time.monotonic()
        outcome = await first.wait()
        tell("lost", error=type(outcome.error).__name__, seconds=time.monotonic() - started)
        started = time.monotonic()
        outcome = await (await pool.spawn(placed(pid_of))).wait()
        tell("no more", error=str(outcome.error), seconds=time.monotonic() - started)
        started = time.monotonic()
    tell("closed", seconds=time.monotonic() - started)


async def local(_: str) -> None:
    """A cluster that is started here lives as long as the block, and leaves no process."""
    import trio._core._thread_cache as threads

    threads.IDLE_TIMEOUT = 0.1  # type: ignore[misc]
    before = _children()
    async with RayPlacement(address="local", cpus=0).open() as workers:
        # Long enough for every thread of trio's to end that has nothing to do.
        await trio.sleep(0.5)
        there = Head(workers, await workers.start(SETUP))
        tell("worker", pid=await there.run(pid_of), count=workers.count)
    tell("left", count=len(_children() - before))


def _children() -> set[int]:
    found = set()
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                if f"\nPPid:\t{os.getpid()}\n" in (each / "status").read_text():
                    found.add(int(each.name))
            except (FileNotFoundError, ProcessLookupError):
                pass
    return found


# -- what does not start -------------------------------------------------------------------------------


async def refused(address: str, options: str) -> None:
    """A worker that cannot be started tells why, and leaves no actor."""
    try:
        async with head(address, **json.loads(options)):
            tell("started")
    except AgentPoolError as error:
        tell("refused", text=str(error))


async def unreachable(_: str, address: str) -> None:
    """There is no cluster at an address."""
    started = time.monotonic()
    try:
        async with RayPlacement(address=address).open():
            tell("connected")
    except AgentPoolError as error:
        tell("refused", text=str(error), seconds=time.monotonic() - started)


async def unloadable(address: str) -> None:
    """What a worker is told at its start cannot be loaded there."""
    setup = SETUP.replace(b"WorkerSetup", b"WorkerWhatt")
    try:
        async with head(address, setup=setup):
            tell("started")
    except AgentPoolError as error:
        tell("refused", text=str(error))


async def cancelled_start(address: str) -> None:
    """A start that is cancelled leaves no process."""
    async with RayPlacement(address=address, cpus=0, workers=1).open() as workers:
        with trio.move_on_after(0.05) as scope:
            await workers.start(SETUP)
        tell("cancelled", caught=scope.cancelled_caught)
        there = Head(workers, await workers.start(SETUP))
        tell("next", pid=await there.run(pid_of))


# -- how fast ------------------------------------------------------------------------------------------


async def speed(address: str) -> None:
    async with RayPlacement(address=address, cpus=0, workers=4).open() as workers:
        started = time.monotonic()
        there = Head(workers, await workers.start(SETUP))
        tell("start one", seconds=time.monotonic() - started)
        state = await there.run(state_of)
        tell("memory", kib=state["kib"])
        started = time.monotonic()
        for _ in range(500):
            await there.post()
        tell("post", milliseconds=(time.monotonic() - started) * 2)

        async def chatty(ctx: Any, count: int, size: int) -> None:
            for _ in range(count):
                ctx._host._end.put(record_to_bytes(Ended(999, b"x" * size)))

        for size in (100, 1000):
            count = 30_000
            await there.start(chatty, count, size)
            started = time.monotonic()
            got = 0
            while got < count:
                got += len(await there.pull())
            tell("pull", size=size, records_per_second=count / (time.monotonic() - started))
        started = time.monotonic()
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(workers.start, SETUP)
        tell("start eight more", seconds=time.monotonic() - started)


PROGRAMS: dict[str, Callable[..., Awaitable[None]]] = {
    each.__name__: each
    for each in (
        agents, numbers, killed, ends, unheard, crashed, forgotten, signals, own_ray, shared, without_gcs,
        local, refused, unreachable, unloadable, cancelled_start, speed,
    )
}  # fmt: skip

if __name__ == "__main__":
    warnings.simplefilter("error")
    trio.run(PROGRAMS[sys.argv[2]], sys.argv[1], *sys.argv[3:])
