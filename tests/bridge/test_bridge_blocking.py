"""Pools in programs without an event loop: scripts, threads, notebooks."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import trio
from anyio.from_thread import start_blocking_portal
from bridge_kit import check_books, double, echo, failing, nothing_left, sleeping

from agentpool import (
    Aborted,
    AgentContext,
    AgentFailedError,
    AgentFinished,
    AgentManifest,
    AgentSpawned,
    AgentStarted,
    Budget,
    Completed,
    Completion,
    CompletionRequest,
    DeadlockError,
    Failed,
    HookContext,
    Hooks,
    ModelAgent,
    PoolClosedError,
    PoolFullError,
    RestartPolicy,
    ScriptedDriver,
    SpawnConfig,
    SqliteJournal,
    UnhandledAgentErrors,
    UnknownAgentError,
)
from agentpool.bridge import (
    BlockingAgentPool,
    open_agent_pool_asyncio,
    open_agent_pool_blocking,
    resume_agent_pool_asyncio,
    resume_agent_pool_blocking,
)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


variable: ContextVar[str] = ContextVar("variable", default="nothing")


async def read_variable(ctx: AgentContext) -> str:
    return variable.get()


# -- the verbs ------------------------------------------------------------------------------------------


def test_an_agent_is_spawned_awaited_and_looked_at() -> None:
    with open_agent_pool_blocking(max_concurrent=2) as pool:
        handle = pool.spawn(double, 21, name="doubler")
        assert handle.name == "doubler"
        assert handle.result() == 42
        assert isinstance(handle.wait(), Completed)
        assert handle.status == "completed"
        assert isinstance(handle.outcome, Completed)
        assert (pool.active_count, pool.statistics().spawned) == (0, 1)
        assert "BlockingAgentHandle of agent 1 (doubler), completed" in repr(handle)
        assert "0 agents" in repr(pool)
    check_books(pool)
    assert pool.statistics().ended == 1
    assert handle.outcome.unwrap() == 42


def test_the_verbs_for_many_agents() -> None:
    with open_agent_pool_blocking(max_concurrent=2) as pool:
        assert [o.unwrap() for o in pool.map(double, range(5))] == [0, 2, 4, 6, 8]
        handles = pool.fan_out([lambda ctx: double(ctx, 1), lambda ctx: double(ctx, 2)])
        assert [handle.result() for handle in handles] == [2, 4]
        assert pool.race(lambda ctx: double(ctx, 3), sleeping).unwrap() == 6
        verdict = pool.vote(double, 2, n=3, quorum=2)
        assert (verdict.winner, verdict.agreed) == (4, True)
        with pool.as_completed(double, range(5)) as done:
            assert sorted(outcome.unwrap() for outcome in done) == [0, 2, 4, 6, 8]
        pool.spawn(double, 1)
        pool.spawn(double, 2)
        first = pool.join_next()
        assert isinstance(first, Completed)
        assert len(pool.join_all()) == 1
        assert pool.join_next() is None
    check_books(pool)


def test_messages_questions_and_names() -> None:
    with open_agent_pool_blocking(max_concurrent=2) as pool:
        server = pool.spawn(echo, name="echo")
        assert pool.find("echo") == server.id
        assert pool.ask("echo", "hello") == "hello"
        pool.send(server.id, "one")
        pool.send_nowait(server.id, "two")
        with pytest.raises(UnknownAgentError):
            pool.send(99, "nobody")
        with pytest.raises(UnknownAgentError):
            pool.find("nobody")
        assert pool.closing is False
        assert pool.drain() == []
        assert pool.draining
        assert server.result() == 3
    check_books(pool)


def test_what_does_not_wait() -> None:
    with open_agent_pool_blocking(max_concurrent=1) as pool:
        handle = pool.spawn_nowait(sleeping)
        with pytest.raises(PoolFullError):
            pool.spawn_nowait(double, 1)
        pool.max_concurrent = 2
        assert pool.max_concurrent == 2
        assert pool.spawn_nowait(double, 1).result() == 2
        handle.abort("enough")
        outcome = handle.wait()
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "enough"
        handle.abort("again")
        pool.spawn(sleeping)
        pool.abort_all("all")
        assert [type(outcome) for outcome in pool.join_all().values()] == [Aborted]
        with pytest.raises(ValueError, match="max_concurrent"):
            pool.max_concurrent = 0
    check_books(pool)


def test_restarts_and_time_limits_of_agents_are_those_of_any_pool() -> None:
    lives: list[int] = []

    async def agent(ctx: AgentContext) -> str:
        lives.append(1)
        if len(lives) < 3:
            raise ValueError("again")
        return "done"

    with open_agent_pool_blocking(max_concurrent=1) as pool:
        policy = RestartPolicy("transient", max_restarts=5)
        assert pool.spawn(agent, restart=policy).result() == "done"
        outcome = pool.spawn(sleeping, timeout=0.01).wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, TimeoutError)


def test_events_come_in_order_and_end_with_the_pool() -> None:
    with open_agent_pool_blocking(max_concurrent=1) as pool:
        with pool.events() as events:
            pool.spawn(double, 1).wait()
            seen = [next(events) for _ in range(3)]
            with pytest.raises(TimeoutError):
                events.next(timeout=0.01)
        assert list(events) == []
        subscription = pool.events()
        with subscription as late:
            assert late.statistics().buffered == 0
            assert "BlockingEvents" in repr(late)
        with pytest.raises(RuntimeError, match="for one block"), subscription:
            pass
        with pytest.raises(ValueError, match="max_buffer"), pool.events(max_buffer=0):
            pass
    assert [type(event) for event in seen] == [AgentSpawned, AgentStarted, AgentFinished]


def test_events_that_a_reader_has_not_taken_when_the_pool_ends_can_still_be_read() -> None:
    with open_agent_pool_blocking(max_concurrent=1) as pool:
        manager = pool.events()
        events = manager.__enter__()
        pool.spawn(double, 1).wait()
    assert [type(event) for event in events] == [AgentSpawned, AgentStarted, AgentFinished]
    manager.__exit__(None, None, None)


def test_a_reader_in_another_thread_sees_every_event_and_the_end() -> None:
    def read(pool: BlockingAgentPool, ready: threading.Event) -> int:
        with pool.events(max_buffer=100_000) as events:
            ready.set()
            return sum(1 for event in events if isinstance(event, AgentFinished))

    with ThreadPoolExecutor(1) as threads:
        with open_agent_pool_blocking(max_concurrent=10) as pool:
            ready = threading.Event()
            reader = threads.submit(read, pool, ready)
            ready.wait()
            pool.map(double, range(1000))
        assert reader.result() == 1000


# -- time limits ----------------------------------------------------------------------------------------


def test_a_wait_that_is_not_over_in_time_takes_nothing() -> None:
    with open_agent_pool_blocking(max_concurrent=1, inbox_capacity=1) as pool:
        handle = pool.spawn(sleeping)
        waits: list[Callable[[], object]] = [
            lambda: handle.wait(timeout=0.01),
            lambda: handle.result(timeout=0),
            lambda: pool.join_next(timeout=0.01),
            lambda: pool.join_all(timeout=0.01),
            lambda: pool.ask(handle.id, "?", timeout=0.01),
        ]
        for wait in waits:
            with pytest.raises(TimeoutError, match="not over within"):
                wait()
        with pytest.raises(TimeoutError):
            pool.send(handle.id, "no room", timeout=0.01)
        handle.abort()
        assert isinstance(pool.join_next(timeout=30), Aborted)
    check_books(pool)


def test_an_outcome_that_comes_as_the_time_is_up_is_handed_out_once() -> None:
    lot = random.Random(2)
    got = 0
    with open_agent_pool_blocking(max_concurrent=5) as pool:
        for _ in range(400):
            pool.spawn(sleeping, 0.001 * lot.random())
            try:
                got += pool.join_next(timeout=0.001 * lot.random()) is not None
            except TimeoutError:
                pass
        rest = len(pool.join_all())
    assert got + rest == 400
    assert got
    assert rest


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_a_time_limit_that_makes_no_sense_is_refused(timeout: Any) -> None:
    with open_agent_pool_blocking(max_concurrent=1) as pool:
        with pytest.raises((TypeError, ValueError), match="timeout must be"):
            pool.join_next(timeout=timeout)


# -- how the block is left ------------------------------------------------------------------------------


def test_leaving_the_block_waits_for_every_agent() -> None:
    ended: list[int] = []

    async def agent(ctx: AgentContext, number: int) -> None:
        await trio.sleep(0.05)
        ended.append(number)

    with open_agent_pool_blocking(max_concurrent=50) as pool:
        for number in range(100):
            pool.spawn(agent, number)
    assert sorted(ended) == list(range(100))
    check_books(pool)


def test_an_exception_of_the_block_aborts_the_agents_and_comes_out_as_it_is() -> None:
    error = KeyError("mine")
    cleaned: list[int] = []

    async def agent(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
            cleaned.append(ctx.id)

    with pytest.raises(KeyError) as caught:
        with open_agent_pool_blocking(max_concurrent=5) as pool:
            for _ in range(5):
                pool.spawn(agent)
            pool.spawn_nowait  # noqa: B018
            trio_files_come_after = error
            raise trio_files_come_after
    assert caught.value is error
    assert len(cleaned) == 5
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert files == [__file__]
    check_books(pool)


def test_failures_that_nobody_looked_at_come_out_together() -> None:
    with pytest.raises(UnhandledAgentErrors) as caught:
        with open_agent_pool_blocking(max_concurrent=2) as pool:
            pool.spawn(failing, ValueError("one"))
            pool.spawn(failing, KeyError("two"))
    assert {type(error) for error in caught.value.exceptions} == {ValueError, KeyError}


def test_failures_are_noted_on_the_exception_of_the_block() -> None:
    with pytest.raises(KeyError) as caught:
        with open_agent_pool_blocking(max_concurrent=2) as pool:
            handle = pool.spawn(failing, ValueError("agent's own"))
            while handle.status != "failed":
                pass
            raise KeyError("mine")
    assert any("agent's own" in text for text in caught.value.__notes__)


def test_what_is_fatal_leaves_the_pool_unwrapped() -> None:
    with pytest.raises(SystemExit) as caught:
        with open_agent_pool_blocking(max_concurrent=2) as pool:
            pool.spawn(sleeping)
            handle = pool.spawn(failing, SystemExit(3))
            handle.wait()
    assert caught.value.code == 3
    check_books(pool)


def test_a_failure_is_looked_at_through_its_handle() -> None:
    with open_agent_pool_blocking(max_concurrent=2) as pool:
        handle = pool.spawn(failing)
        with pytest.raises(AgentFailedError) as caught:
            handle.result()
        assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("arguments", [{"max_concurrent": 0}, {"max_concurrent": 1, "driver": 7}])
def test_wrong_arguments_are_refused_and_leave_no_thread(arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match="must be"):
        with open_agent_pool_blocking(**arguments):
            pass


def test_a_block_is_for_once() -> None:
    block = open_agent_pool_blocking(max_concurrent=1)
    with block:
        pass
    with pytest.raises(RuntimeError, match="open another"), block:
        pass


def test_verbs_after_the_end_say_so() -> None:
    with open_agent_pool_blocking(max_concurrent=1) as pool:
        handle = pool.spawn(double, 1)
    with pytest.raises(PoolClosedError):
        pool.spawn(double, 1)
    with pytest.raises(PoolClosedError):
        pool.join_all()
    handle.abort()
    pool.abort_all()
    assert pool.active_count == 0
    assert pool.dead_letters == ()


def test_a_call_of_an_agent_to_its_own_pool_from_outside_is_refused() -> None:
    """It would block the thread in which it would be performed."""
    with open_agent_pool_blocking(max_concurrent=1) as pool:

        async def agent(ctx: AgentContext) -> None:
            pool.spawn(double, 1)

        outcome = pool.spawn(agent).wait()
        assert isinstance(outcome, Failed)
        with pytest.raises(RuntimeError, match="the context that it is given"):
            raise outcome.error


async def test_a_program_on_trio_is_told_what_to_open() -> None:
    with pytest.raises(RuntimeError, match="open_agent_pool"):
        with open_agent_pool_blocking(max_concurrent=1):
            pass


# -- inputs ---------------------------------------------------------------------------------------------


class Input(Iterator[int]):
    """Notes in which thread its items are taken."""

    def __init__(self, count: int) -> None:
        self.threads: set[threading.Thread] = set()
        self.taken = 0
        self._count = count

    def __next__(self) -> int:
        self.threads.add(threading.current_thread())
        if self.taken == self._count:
            raise StopIteration
        self.taken += 1
        return self.taken


def test_an_input_is_taken_from_in_the_calling_thread() -> None:
    with open_agent_pool_blocking(max_concurrent=2) as pool:
        items = Input(5)
        assert [o.unwrap() for o in pool.map(double, items)] == [2, 4, 6, 8, 10]
        with pool.as_completed(double, more := Input(5)) as done:
            assert len(list(done)) == 5
    assert items.threads == more.threads == {threading.current_thread()}


def test_an_endless_input_is_taken_from_as_slots_become_free() -> None:
    items = Input(1_000_000)
    with open_agent_pool_blocking(max_concurrent=2) as pool:
        with pool.as_completed(double, items) as done:
            for _ in range(10):
                next(done)
    assert 10 <= items.taken <= 15
    check_books(pool)


def test_what_an_input_raises_comes_out_and_the_agents_are_aborted() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with open_agent_pool_blocking(max_concurrent=2) as pool:
        with pytest.raises(LookupError, match="no more"):
            pool.map(sleeping, items())
        with pytest.raises(LookupError), pool.as_completed(sleeping, items()) as done:
            list(done)
        assert pool.active_count == 0


def test_an_asynchronous_input_is_taken_from_on_trio() -> None:
    async def items() -> AsyncIterator[int]:
        for number in range(3):
            await trio.sleep(0)
            yield number

    with open_agent_pool_blocking(max_concurrent=2) as pool:
        assert [o.unwrap() for o in pool.map(double, items())] == [0, 2, 4]


def test_leaving_a_block_of_outcomes_early_ends_its_agents() -> None:
    with open_agent_pool_blocking(max_concurrent=3) as pool:
        with pytest.raises(KeyError, match="mine"):
            with pool.as_completed(sleeping, [0.0, 1_000.0, 1_000.0]) as done:
                next(done)
                raise KeyError("mine")
        assert pool.active_count == 0
    check_books(pool)


def test_what_is_no_input_is_refused() -> None:
    with open_agent_pool_blocking(max_concurrent=1) as pool:
        with pytest.raises(TypeError, match="items must be"):
            pool.map(double, 7)  # type: ignore[arg-type]


# -- threads --------------------------------------------------------------------------------------------


def test_a_thousand_agents_from_twenty_threads() -> None:
    def work(pool: BlockingAgentPool, seed: int) -> int:
        lot = random.Random(seed)
        total = 0
        for number in range(50):
            handle = pool.spawn(double, number)
            if lot.random() < 0.3:
                handle.abort("at random")
            total += isinstance(handle.wait(), Completed | Aborted)
        return total

    with ThreadPoolExecutor(20) as threads:
        with open_agent_pool_blocking(max_concurrent=7) as pool:
            totals = [threads.submit(work, pool, seed) for seed in range(20)]
            assert sum(total.result() for total in totals) == 1000
    check_books(pool)
    assert pool.statistics().spawned == 1000


def test_a_pool_that_ends_while_other_threads_wait_lets_them_go() -> None:
    begun = threading.Barrier(5)

    def work(pool: BlockingAgentPool) -> str:
        begun.wait()
        try:
            while True:
                pool.spawn(sleeping, 0.001)
                pool.join_next()
        except PoolClosedError:
            return "closed"

    with ThreadPoolExecutor(4) as threads:
        with open_agent_pool_blocking(max_concurrent=2) as pool:
            waiting = [threads.submit(work, pool) for _ in range(4)]
            begun.wait()
        assert [one.result(timeout=30) for one in waiting] == ["closed"] * 4
    check_books(pool)


def test_an_agent_sees_the_context_variables_of_whoever_spawned_it() -> None:
    def work(pool: BlockingAgentPool, number: int) -> str:
        variable.set(f"thread {number}")
        return pool.spawn(read_variable).result()

    with open_agent_pool_blocking(max_concurrent=2) as pool, ThreadPoolExecutor(4) as threads:
        values = [threads.submit(work, pool, number).result() for number in range(4)]
        assert values == [f"thread {number}" for number in range(4)]
        assert variable.get() == "nothing"


def test_several_pools_live_side_by_side() -> None:
    with (
        open_agent_pool_blocking(max_concurrent=1) as one,
        open_agent_pool_blocking(max_concurrent=1) as other,
    ):
        assert one.spawn(double, 1).result() == 2
        assert other.spawn(double, 2).result() == 4


def test_a_tool_thread_that_uses_the_pool_lends_the_slot_of_its_agent() -> None:
    """Nested under a cap of one: it would wait for a slot that its own agent holds."""
    with open_agent_pool_blocking(max_concurrent=1) as pool:

        def in_thread(depth: int) -> int:
            if depth == 0:
                return 0
            assert [o.unwrap() for o in pool.map(double, iter([1, 2]))] == [2, 4]
            with pytest.raises(RuntimeError, match="use map"):
                pool.as_completed(double, [1])
            assert pool.statistics().running <= 1
            return 1 + pool.spawn(agent, depth - 1).result(timeout=30)

        async def agent(ctx: AgentContext, depth: int) -> int:
            return await trio.to_thread.run_sync(in_thread, depth)

        assert pool.spawn(agent, 5).result(timeout=60) == 5

        def too_long() -> str:
            handle = pool.spawn(sleeping)
            with pytest.raises(TimeoutError):
                handle.wait(timeout=0.01)
            handle.abort()
            return type(handle.wait()).__name__

        async def impatient(ctx: AgentContext) -> str:
            return await trio.to_thread.run_sync(too_long)

        pool.max_concurrent = 2  # its child holds the other one
        assert pool.spawn(impatient).result(timeout=30) == "Aborted"
    check_books(pool)


# -- portals, drivers, memories ---------------------------------------------------------------------------


class Opened:
    """A driver that is opened, and notes where."""

    def __init__(self) -> None:
        self.told: list[tuple[str, threading.Thread]] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ScriptedDriver]:
        self.told.append(("opened", threading.current_thread()))
        yield ScriptedDriver(["one", "two"])
        self.told.append(("closed", threading.current_thread()))


MANIFEST = AgentManifest(name="writer")


def test_a_driver_is_opened_and_closed_in_the_thread_of_the_pool() -> None:
    opened = Opened()
    with open_agent_pool_blocking(opened.open(), max_concurrent=1, budget=Budget(calls=2)) as pool:
        result = pool.spawn(SpawnConfig(MANIFEST, "write")).result()
        assert result.text == "one"
        assert pool.map(ModelAgent(MANIFEST), ["more"])[0].unwrap().text == "two"
    assert [what for what, _ in opened.told] == ["opened", "closed"]
    assert len({thread for _, thread in opened.told}) == 1
    assert opened.told[0][1] is not threading.current_thread()


def test_a_driver_that_cannot_be_opened_says_why() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[ScriptedDriver]:
        raise OSError("no such server")
        yield

    with pytest.raises(OSError, match="no such server"), open_agent_pool_blocking(broken(), max_concurrent=1):
        pass


def test_what_a_driver_raises_as_it_is_closed_comes_out() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[ScriptedDriver]:
        yield ScriptedDriver([])
        raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"), open_agent_pool_blocking(broken(), max_concurrent=1):
        pass


def test_pools_may_share_a_thread_and_a_driver_that_is_open_there() -> None:
    class Shared(ScriptedDriver):
        closed = 0

        async def __aenter__(self) -> Shared:
            return self

        async def __aexit__(self, *_: object) -> None:
            self.closed += 1

    async def thread_of(ctx: AgentContext) -> threading.Thread:
        return threading.current_thread()

    driver = Shared(["one", "two"])
    with start_blocking_portal("trio") as portal, portal.wrap_async_context_manager(driver):
        threads = set()
        for text in ("one", "two"):
            with open_agent_pool_blocking(driver, max_concurrent=1, portal=portal) as pool:
                assert pool.spawn(SpawnConfig(MANIFEST, "write")).result().text == text
                threads.add(pool.spawn(thread_of).result())
        with pytest.raises(SystemExit), open_agent_pool_blocking(max_concurrent=1, portal=portal) as pool:
            pool.spawn(failing, SystemExit(1)).wait()
        # What is fatal in one pool leaves the others in the thread alone.
        with open_agent_pool_blocking(max_concurrent=1, portal=portal) as pool:
            assert pool.spawn(double, 1).result() == 2
        assert driver.closed == 0
    assert driver.closed == 1
    assert len(threads) == 1


def test_a_portal_that_is_stopped_first_ends_the_pool() -> None:
    with start_blocking_portal("trio") as portal:
        with pytest.raises(PoolClosedError, match="portal"):
            with open_agent_pool_blocking(max_concurrent=1, portal=portal) as pool:
                handle = pool.spawn(sleeping)
                portal.call(portal.stop, True)
                assert isinstance(handle.outcome, Aborted) or handle.status != "completed"
    check_books(pool)


def test_a_portal_of_asyncio_is_refused() -> None:
    with start_blocking_portal("asyncio") as portal:
        with pytest.raises(RuntimeError, match="has to run on trio"):
            with open_agent_pool_blocking(max_concurrent=1, portal=portal):
                pass
    with pytest.raises(TypeError, match="start_blocking_portal"):
        open_agent_pool_blocking(max_concurrent=1, portal="trio")  # type: ignore[arg-type]


def test_a_pool_with_a_journal_is_resumed_as_any_is(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with open_agent_pool_blocking(max_concurrent=1, journal=SqliteJournal(path)) as pool:
        assert pool.spawn(double, 21).result() == 42
        assert pool.resumed == []

    with resume_agent_pool_blocking(path) as pool:
        assert [handle.result() for handle in pool.resumed] == [42]

    async def look() -> list[Any]:
        async with resume_agent_pool_asyncio(path) as pool:
            return [await handle for handle in pool.resumed]

    assert asyncio.run(look()) == [42]


class Shouting(Hooks):
    """Has models answer loudly."""

    async def after_model_call(
        self, ctx: HookContext, request: CompletionRequest, completion: Completion
    ) -> Completion:
        return Completion(completion.text.upper())


def test_hooks_stand_around_the_calls_of_a_pool_in_every_way_in(tmp_path: Path) -> None:
    path, agent = tmp_path / "run.db", SpawnConfig(AgentManifest(name="a"), "go")
    hooks = [Shouting()]

    async def on_asyncio() -> str:
        async with open_agent_pool_asyncio(
            ScriptedDriver(["hello"]), max_concurrent=1, hooks=hooks, journal=SqliteJournal(path)
        ) as pool:
            return (await (await pool.spawn(agent)).result()).text

    assert asyncio.run(on_asyncio()) == "HELLO"
    with open_agent_pool_blocking(ScriptedDriver(["hello"]), max_concurrent=1, hooks=hooks) as pool:
        assert pool.spawn(agent).result().text == "HELLO"
    with resume_agent_pool_blocking(path, ScriptedDriver(["again"]), hooks=hooks) as pool:
        assert pool.spawn(agent).result().text == "AGAIN"

    async def resumed() -> str:
        async with resume_agent_pool_asyncio(path, ScriptedDriver(["again"]), hooks=hooks) as pool:
            return (await (await pool.spawn(agent)).result()).text

    assert asyncio.run(resumed()) == "AGAIN"


# -- Ctrl-C -----------------------------------------------------------------------------------------------

PROGRAM = """
import signal, sys, threading, time, trio
from agentpool.bridge import open_agent_pool_blocking

cleaned = []

async def agent(ctx, number):
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
        cleaned.append(number)

def items():
    for number in range(20):
        yield number
    print("ready", flush=True)
    time.sleep(100)

try:
    with open_agent_pool_blocking(max_concurrent=50) as pool:
        for number in range(20):
            handle = pool.spawn(agent, number)
        WHERE
except KeyboardInterrupt:
    print("pressed", len(cleaned), flush=True)
    assert pool._host.pool._books().problems() == []
    assert threading.active_count() <= 2, threading.enumerate()
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("where", "cleaned"),
    [
        ("print('ready', flush=True); handle.wait()", 20),
        ("print('ready', flush=True); pool.join_all()", 20),
        ("print('ready', flush=True); time.sleep(100)", 20),
        ("print('ready', flush=True)", 20),
        ("pool.map(agent, items())", 40),
        ("print('ready', flush=True); [None for _ in iter(int, 1)]", 20),
    ],
    ids=["in a wait", "in a join", "in the program's own code", "at the end", "in an input", "in a loop"],
)
def test_ctrl_c_ends_the_pool_and_comes_out(where: str, cleaned: int) -> None:
    command = [sys.executable, "-X", "dev", "-c", PROGRAM.replace("WHERE", where)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, f"pressed {cleaned}\n", "")


# -- models that wait for messages which nobody can send any more -------------------------------------------


async def listening(ctx: AgentContext) -> str:
    """As a model in `receive_message`."""
    try:
        return str((await ctx.receive_for_model()).content)
    except DeadlockError:
        return "nobody"
    except trio.EndOfChannel:
        return "the end"


@pytest.fixture
def no_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads of whoever runs these tests are not the program's."""
    enumerate = threading.enumerate
    there = set(enumerate()) - {threading.current_thread()}
    monkeypatch.setattr(threading, "enumerate", lambda: [one for one in enumerate() if one not in there])


@pytest.mark.usefixtures("no_other_threads")
def test_a_model_that_waits_for_the_program_which_waits_for_it_is_told() -> None:
    with open_agent_pool_blocking(max_concurrent=2) as pool:
        handle = pool.spawn(listening)
        with pytest.raises(TimeoutError):
            handle.wait(timeout=0.05)  # the program goes on by itself then, and may write
        assert handle.result() == "nobody"
        assert pool.spawn(listening).result() == "nobody"
        pool.send(pool.spawn(listening).id, "hello")
        assert {outcome.unwrap() for outcome in pool.join_all().values()} == {"hello"}
        pool.spawn(listening)
    check_books(pool)


@pytest.mark.usefixtures("no_other_threads")
def test_a_model_is_not_told_while_another_thread_may_write() -> None:
    def write() -> None:
        waits.wait()
        pool.send("listener", "from the other thread")

    with open_agent_pool_blocking(max_concurrent=2) as pool, ThreadPoolExecutor(1) as threads:
        for _ in range(100):
            waits = threading.Event()
            writing = threads.submit(write)
            handle = pool.spawn(listening, name="listener")
            waits.set()
            assert handle.result() == "from the other thread"
            writing.result()
