"""A model that waits for a message is told when nobody is left who could ever write one."""

from __future__ import annotations

import math
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import attrs
import outcome
import pytest
import trio
import trio.testing
from pool_kit import pool_of, server, value

from agentpool import (
    AgentContext,
    AgentHandle,
    AgentPool,
    AgentTimeoutError,
    DeadlockError,
    UnknownAgentError,
    open_agent_pool,
)
from agentpool.testing import PoolInstrument, instrumented, simulate

_enumerate = threading.enumerate

PROGRAMS = int(os.environ.get("AGENTPOOL_DEADLOCK_PROGRAMS", "200"))


@pytest.fixture
def no_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads of whoever runs these tests are not the program's."""
    there = set(_enumerate()) - {threading.current_thread()}
    monkeypatch.setattr(threading, "enumerate", lambda: [one for one in _enumerate() if one not in there])


async def listener(ctx: AgentContext) -> str:
    """As a model in `receive_message`; tells when it got what."""
    try:
        said = (await ctx.receive_for_model()).content
    except DeadlockError as error:
        said = f"nobody {error.path}"
    except trio.EndOfChannel:
        said = "the end"
    return f"{said} at {trio.current_time():g}"


def join(handle: AgentHandle[str]) -> Callable[[AgentContext], Any]:
    async def waits(ctx: AgentContext) -> str:
        return await handle.result()

    return waits


WAYS: dict[str, Callable[[AgentPool, AgentHandle[str]], Any]] = {
    "result": lambda pool, handle: handle.result(),
    "wait": lambda pool, handle: handle.wait(),
    "join_next": lambda pool, handle: pool.join_next(),
    "join_all": lambda pool, handle: pool.join_all(),
    "race": lambda pool, handle: pool.race(join(handle)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cap", [1, 2])
async def test_it_is_told_at_once_when_the_program_waits_for_it(
    way: str, cap: int, autojump_clock: Any
) -> None:
    async with pool_of(cap) as pool:
        handle = await pool.spawn(listener)
        await trio.sleep(3)  # the program may still write
        await WAYS[way](pool, handle)
        assert handle.outcome is not None
        assert handle.outcome.unwrap() == "nobody (1, 0) at 3"


async def test_many_are_told_one_after_the_other_the_youngest_first(autojump_clock: Any) -> None:
    told: list[int] = []

    async def one(ctx: AgentContext, _: int) -> None:
        await listener(ctx)
        told.append(ctx.id)

    async with pool_of(2) as pool:
        await pool.map(one, range(3))
    assert told == [3, 2, 1]


async def test_what_the_first_does_when_told_comes_before_the_next_is_told(autojump_clock: Any) -> None:
    async def writes(ctx: AgentContext) -> None:
        await listener(ctx)
        await ctx.send(1, "last words")

    async with pool_of(2) as pool:
        first = await pool.spawn(listener)
        await pool.spawn(writes)
        assert await first.result() == "last words at 0"


async def test_a_server_that_waits_writes_to_nobody(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        await pool.spawn(server)
        assert await (await pool.spawn(listener)).result() == "nobody (2, 0) at 0"


async def test_the_parent_that_waits_for_its_child_writes_to_nobody(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> str:
        return await (await ctx.spawn(listener)).result()

    async with pool_of(1) as pool:
        assert await (await pool.spawn(parent)).result() == "nobody (2, 0) at 0"


async def test_agents_that_end_write_no_more(autojump_clock: Any) -> None:
    async def sleeps(ctx: AgentContext) -> None:
        await trio.sleep(5)

    async with pool_of(2) as pool:
        await pool.spawn(sleeps)
        assert await (await pool.spawn(listener)).result() == "nobody (2, 0) at 5"


async def test_at_the_end_of_the_block_it_is_the_end_of_the_inbox(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == "the end at 0"


async def test_a_router_alone_tells_nobody(autojump_clock: Any) -> None:
    from agentpool import MessageRouter

    inbox = MessageRouter().register(1)
    with trio.move_on_after(5) as scope:
        await inbox.receive(unless_silent=True)
    assert scope.cancelled_caught


# -- at random -----------------------------------------------------------------------------------------


Steps = list[tuple[Any, ...]]


def _drawn(lot: Random, *, of_program: bool) -> Steps:
    agents = range(1, 5)
    steps: Steps = []
    for _ in range(lot.randint(1, 4)):
        pause, limit, agent = lot.randint(1, 9), lot.randint(1, 9), lot.choice(agents)
        own: Steps = [("listen",), ("listen",), ("receive", limit)]
        programs: Steps = [("wait", agent), ("wait", agent), ("wait", agent, limit)]
        steps.append(lot.choice([("sleep", pause), ("send", agent), *(programs if of_program else own)]))
    return steps


@attrs.define
class _Ran:
    """How a program went: whether it ended, which waits were told that nobody writes, which got something."""

    ended: bool = False
    told: list[tuple[int, int]] = attrs.field(factory=list)
    heard: list[tuple[int, int]] = attrs.field(factory=list)


async def _random_program(seed: int, ran: _Ran) -> None:
    lot = Random(seed)
    handles: dict[int, AgentHandle[Any]] = {}

    async def run(steps: Steps, pool: AgentPool, ctx: AgentContext | None = None) -> None:
        for number, step in enumerate(steps):
            with trio.move_on_after(step[2] if len(step) > 2 else math.inf):
                match step:
                    case "sleep", seconds:
                        await trio.sleep(seconds)
                    case "send", to:
                        with suppress(UnknownAgentError):
                            await pool.send(to, "a message")
                    case "wait", agent, *_:
                        await handles[agent].wait()
                    case "receive", seconds:
                        assert ctx is not None
                        with trio.move_on_after(seconds), suppress(trio.EndOfChannel):
                            await ctx.receive()
                    case ("listen",):
                        assert ctx is not None
                        said = await listener(ctx)
                        found = {"n": ran.told, "a": ran.heard}.get(said[0])
                        if found is not None:
                            found.append((ctx.id, number))

    async def agent(ctx: AgentContext, steps: Steps, pool: AgentPool) -> None:
        await run(steps, pool, ctx)

    async def program() -> None:
        async with open_agent_pool(max_concurrent=2) as pool:
            for number in range(1, 5):
                timeout = lot.choice([None, None, None, 12])
                handle = await pool.spawn(agent, _drawn(lot, of_program=False), pool, timeout=timeout)
                handles[number] = handle
            async with trio.open_nursery() as nursery:
                for _ in range(lot.randint(1, 2)):
                    nursery.start_soon(run, _drawn(lot, of_program=True), pool)

    with trio.move_on_after(1000) as hangs:
        try:
            await program()
        except* AgentTimeoutError:
            pass  # the time of some agents is over before they have ended: that is no failure here
    ran.ended = not hangs.cancelled_caught


def _run(seed: int, *, detects: bool) -> _Ran:
    ran = _Ran()

    async def main() -> None:
        with instrumented(PoolInstrument(detects_deadlocks=detects)):
            await _random_program(seed, ran)

    simulate(main, seed)  # the order of the tasks too is the same with the detector and without
    return ran


def test_in_random_programs_none_is_told_that_hears_something_without_the_detector() -> None:
    alarms = hangs = 0
    for seed in range(PROGRAMS):
        ran, alone = _run(seed, detects=True), _run(seed, detects=False)
        assert ran.ended, seed
        # Up to the first alarm the two are the same.
        assert not ran.told or ran.told[0] not in alone.heard, seed
        assert ran.told or alone.ended, seed
        alarms += bool(ran.told)
        hangs += not alone.ended
    assert 0.1 < hangs / PROGRAMS <= alarms / PROGRAMS < 0.9


# -- somebody may still write ---------------------------------------------------------------------


async def _later(seconds: float, pool: AgentPool) -> None:
    await trio.sleep(seconds)
    await pool.send(1, "later")


async def test_another_task_of_the_program_may_write(autojump_clock: Any) -> None:
    async with pool_of(2) as pool, trio.open_nursery() as nursery:
        handle = await pool.spawn(listener)
        nursery.start_soon(_later, 7, pool)
        assert await handle.result() == "later at 7"


async def test_a_task_in_a_nursery_around_the_pool_may_write(autojump_clock: Any) -> None:
    async with trio.open_nursery() as nursery, pool_of(2) as pool:
        handle = await pool.spawn(listener)
        nursery.start_soon(_later, 7, pool)
        assert await handle.result() == "later at 7"


async def test_a_system_task_may_write(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
        trio.lowlevel.spawn_system_task(_later, 7, pool)
        assert await handle.result() == "later at 7"


async def test_when_the_last_other_task_has_ended_it_is_told(autojump_clock: Any) -> None:
    async with trio.open_nursery() as nursery, pool_of(2) as pool:
        nursery.start_soon(trio.sleep, 4)
        assert await (await pool.spawn(listener)).result() == "nobody (1, 0) at 4"


async def test_tasks_of_the_program_that_all_wait_write_to_nobody(autojump_clock: Any) -> None:
    said: list[str] = []

    async def waits(handle: AgentHandle[str]) -> None:
        said.append(await handle.result())

    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits, handle)
            nursery.start_soon(waits, handle)
    assert said == ["nobody (1, 0) at 0"] * 2


async def test_the_program_may_write_when_its_own_time_limit_has_passed(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
        with trio.move_on_after(6):
            await handle.wait()
        await pool.send(handle.id, "out of patience")
        assert await handle.result() == "out of patience at 6"


async def test_an_agent_may_write_when_its_own_time_limit_has_passed(autojump_clock: Any) -> None:
    async def impatient(ctx: AgentContext) -> None:
        with trio.move_on_after(6):
            await ctx.receive()
        await ctx.send(1, "out of patience")

    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
        await pool.spawn(impatient)
        assert await handle.result() == "out of patience at 6"


async def test_the_program_may_write_when_the_time_of_another_agent_is_over(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
        timer = await pool.spawn(server, timeout=6)
        await timer.wait()
        await pool.send(handle.id, "the timer has gone off")
        assert await handle.result() == "the timer has gone off at 6"


async def test_an_agent_that_is_aborted_may_write_while_it_cleans_up(autojump_clock: Any) -> None:
    async def cleans_up(ctx: AgentContext, other: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 9):
                await ctx.receive()
            with trio.CancelScope(shield=True):
                await ctx.send(other, "last words")

    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
        cleaner = await pool.spawn(cleans_up, handle.id)
        await trio.sleep(1)
        cleaner.abort()
        assert await handle.result() == "last words at 10"


async def test_a_task_that_an_agent_started_in_a_nursery_of_its_own_may_write(autojump_clock: Any) -> None:
    async def starts(ctx: AgentContext) -> None:
        async def later() -> None:
            await trio.sleep(7)
            ctx.send_nowait(1, "later")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(later)
            await ctx.receive()

    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
        other = await pool.spawn(starts)
        assert await handle.result() == "later at 7"
        other.abort()


async def test_the_agents_of_another_pool_may_write(autojump_clock: Any) -> None:
    async def elsewhere(ctx: AgentContext, pool: AgentPool) -> None:
        await trio.sleep(7)
        await pool.send(1, "later")

    async with pool_of(2) as other, pool_of(2) as pool:
        await other.spawn(elsewhere, pool)
        assert await (await pool.spawn(listener)).result() == "later at 7"


async def test_a_thread_may_write() -> None:
    token = trio.lowlevel.current_trio_token()
    go = threading.Event()
    async with pool_of(2) as pool:

        def write() -> None:
            go.wait()
            token.run_sync_soon(pool.send_nowait, 1, "from a thread")

        thread = threading.Thread(target=write)
        handle = await pool.spawn(listener)
        thread.start()
        threading.Timer(0.05, go.set).start()
        assert (await handle.result()).startswith("from a thread")
        thread.join()


async def test_what_a_thread_has_called_before_its_end_comes_first(autojump_clock: Any) -> None:
    token = trio.lowlevel.current_trio_token()
    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
        await trio.testing.wait_all_tasks_blocked()
        thread = threading.Thread(target=token.run_sync_soon, args=(pool.send_nowait, 1, "from a thread"))
        thread.start()
        thread.join()
        assert await handle.result() == "from a thread at 0"


class _CallsOnce(trio.abc.Instrument):
    """Calls something in the run when all of its tasks sleep, as a thread would."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def before_io_wait(self, timeout: float) -> None:
        trio.lowlevel.remove_instrument(self)
        trio.lowlevel.current_trio_token().run_sync_soon(self._call)


async def test_a_call_that_waits_for_its_turn_may_write(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
        await trio.testing.wait_all_tasks_blocked()
        # After the pool's own look, in the same step.
        trio.lowlevel.add_instrument(_CallsOnce(lambda: pool.send_nowait(1, "called")))
        assert await handle.result() == "called at 0"


async def test_a_thread_without_a_token_writes_to_nobody(autojump_clock: Any) -> None:
    """As that of a profiler, or of a test runner: it cannot call into the run."""
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        async with pool_of(2) as pool:
            assert await (await pool.spawn(listener)).result() == "nobody (1, 0) at 0"
    finally:
        go.set()
        thread.join()


def test_a_run_in_a_thread_of_its_own_is_told_too() -> None:
    """Ctrl-C, which strikes the main thread there, writes to nobody."""
    said: list[str] = []

    async def main() -> None:
        async with pool_of(2) as pool:
            said.append(await (await pool.spawn(listener, timeout=5)).result())

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    thread.join()
    assert said[0].startswith("nobody (1, 0)")


async def test_a_thread_of_trios_that_has_nothing_to_do_writes_to_nobody(
    autojump_clock: Any, no_other_threads: None
) -> None:
    await trio.to_thread.run_sync(int)
    async with pool_of(2) as pool:
        assert await (await pool.spawn(listener)).result() == "nobody (1, 0) at 0"


async def test_a_handler_of_a_signal_may_write(no_other_threads: None) -> None:
    async with pool_of(2) as pool:

        def write(*_: object) -> None:
            trio.lowlevel.current_trio_token().run_sync_soon(pool.send_nowait, 1, "from a handler")

        before = signal.signal(signal.SIGALRM, write)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            handle = await pool.spawn(listener)
            assert (await handle.result()).startswith("from a handler")
        finally:
            signal.signal(signal.SIGALRM, before)


def test_a_host_loop_may_write(no_other_threads: None) -> None:
    """The run is a guest: what the host does runs in the same thread."""
    todo: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    ended: list[outcome.Outcome[str]] = []
    listening: list[tuple[trio.lowlevel.TrioToken, AgentPool]] = []

    async def main() -> str:
        async with pool_of(2) as pool:
            handle = await pool.spawn(listener)
            listening.append((trio.lowlevel.current_trio_token(), pool))
            return await handle.result()

    trio.lowlevel.start_guest_run(main, run_sync_soon_threadsafe=todo.put, done_callback=ended.append)
    while not ended:
        try:
            todo.get(timeout=0.1 if listening else 10)()
        except queue.Empty:  # the run sleeps, and the host goes on
            token, pool = listening.pop()
            token.run_sync_soon(pool.send_nowait, 1, "from the host")
    assert ended[0].unwrap().startswith("from the host")


async def test_without_the_detector_nobody_is_told(autojump_clock: Any) -> None:
    with instrumented(PoolInstrument(detects_deadlocks=False)):
        async with pool_of(2) as pool:
            handle = await pool.spawn(listener)
            with trio.move_on_after(50) as scope:
                await handle.wait()
            assert scope.cancelled_caught
            await pool.send(handle.id, "hello")


WHOLE = """
import trio
from agentpool import AgentManifest, Completion, MessagingCapability, ModelAgent, ScriptedDriver, ToolCall
from agentpool import open_agent_pool

async def main():
    driver = ScriptedDriver([Completion("", (ToolCall("1", "receive_message", {}),)), "Nobody wrote."])
    agent = ModelAgent(AgentManifest(name="lonely", capabilities=[MessagingCapability()]))
    async with open_agent_pool(driver, max_concurrent=1) as pool:
        await trio.to_thread.run_sync(int)
        result = await (await pool.spawn(agent, "wait for a message")).result()
    print(result.text, result.transcript[-2].result.content)

trio.run(main)
"""


def test_a_whole_program_is_told() -> None:
    """Here nobody but the program's own threads and handlers is there."""
    run = subprocess.run([sys.executable, "-c", WHOLE], capture_output=True, text=True, timeout=60)
    assert "Nobody wrote." in run.stdout, run
    assert "no message can come: everybody who could write to you waits" in run.stdout


async def test_who_got_a_message_is_watched_no_more(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        handle = await pool.spawn(listener)
        await trio.sleep(1)
        await pool.send(handle.id, "hello")
        assert await handle.result() == "hello at 1"
        await trio.sleep(1)
        assert await (await pool.spawn(value, 5)).result() == 5
