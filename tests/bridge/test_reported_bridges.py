"""What users of other systems reported about event loops, threads and cancellation, tried on pools.

Each test names the reports whose situation it puts a pool into.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
import trio
from anyio.from_thread import start_blocking_portal
from bridge_kit import LIMIT, check_books, double, failing, nothing_left, run_asyncio, sleeping
from ways_in import both_ways, from_asyncio

from agentpool import (
    Aborted,
    AgentContext,
    AgentFailedError,
    AgentLogFilter,
    AgentManifest,
    AgentTimeoutError,
    Completed,
    Completion,
    DeadlockError,
    Failed,
    PoolClosedError,
    ScriptedDriver,
    SpawnConfig,
    ToolCall,
    UnknownAgentError,
    tool,
)
from agentpool.bridge import (
    AsyncioAgentContext,
    BlockingAgentPool,
    asyncio_agent,
    asyncio_function,
    open_agent_pool_asyncio,
    open_agent_pool_blocking,
)

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with nothing_left():
        yield


def answers_of(pool: BlockingAgentPool) -> list[int]:
    return [outcome.unwrap() for outcome in pool.map(double, range(3))]


# -- synchronous calls where a loop runs ---------------------------------------------------------


# pydantic/pydantic-ai#144, pydantic/pydantic-ai#3014, jupyter/notebook#4312, ipython/ipython#11338: in a
# notebook a loop runs already, and `run_sync` said "This event loop is already running".
@pytest.mark.parametrize("times", [1, 3])
def test_a_cell_of_a_notebook_may_block_although_a_loop_runs(times: int) -> None:
    async def cell() -> list[list[int]]:
        results = []
        for _ in range(times):
            with open_agent_pool_blocking(max_concurrent=2) as pool:  # blocks the loop meanwhile
                results.append(answers_of(pool))
        return results

    assert run_asyncio(cell) == [[0, 2, 4]] * times


def test_a_cell_of_a_notebook_that_uses_the_pool_of_an_earlier_cell() -> None:
    """A pool that one cell opens and another closes: the cells are tasks of their own."""
    stack = contextlib.ExitStack()

    async def first() -> BlockingAgentPool:
        return stack.enter_context(open_agent_pool_blocking(max_concurrent=2))

    async def second(pool: BlockingAgentPool) -> list[int]:
        return answers_of(pool)

    async def notebook() -> list[int]:
        pool = await asyncio.create_task(first())
        answers = await asyncio.create_task(second(pool))
        stack.close()
        return answers

    assert run_asyncio(notebook) == [0, 2, 4]


# crewAIInc/crewAI#5788, griptape-ai/griptape-nodes-engine#4469: who blocked the loop's own thread until
# something ran in that loop waited for ever.
def test_blocking_the_loop_of_an_asyncio_pool_for_its_quick_verbs_is_no_deadlock() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            handles = [pool.spawn_nowait(sleeping) for _ in range(2)]
            assert pool.statistics().running == 2
            pool.abort_all("enough")
            outcomes = [await handle.wait() for handle in handles]
            assert [type(outcome) for outcome in outcomes] == [Aborted, Aborted]

    run_asyncio(main)


# pydantic/pydantic-ai#3899: a tool in a thread called the blocking function again, and froze.
@pytest.mark.parametrize("cap", [1, 2])
def test_a_tool_in_a_thread_may_use_the_pool_it_works_for(cap: int) -> None:
    with open_agent_pool_blocking(max_concurrent=cap) as pool:

        @tool
        def delegate(number: int) -> int:
            """Have another agent work, and wait for it."""
            return pool.spawn(double, number).result()

        driver = ScriptedDriver([Completion(tool_calls=(ToolCall("1", "delegate", {"number": 21}),)), "done"])
        agent = SpawnConfig(AgentManifest(name="boss"), "?", tools=[delegate], driver=driver)
        assert pool.spawn(agent).result().text == "done"
        assert driver.requests[1].messages[-1].result.text == "42"  # type: ignore[union-attr]
    check_books(pool)


@pytest.mark.parametrize("cap", [1, 2])
def test_a_tool_in_a_thread_may_open_a_pool_of_its_own(cap: int) -> None:
    @tool
    def delegate(number: int) -> list[int]:
        """Have agents of another pool work."""
        with open_agent_pool_blocking(max_concurrent=1) as inner:
            return answers_of(inner)

    with open_agent_pool_blocking(max_concurrent=cap) as pool:
        driver = ScriptedDriver([Completion(tool_calls=(ToolCall("1", "delegate", {"number": 1}),)), "done"])
        agent = SpawnConfig(AgentManifest(name="boss"), "?", tools=[delegate], driver=driver)
        assert pool.spawn(agent).result().text == "done"
        assert driver.requests[1].messages[-1].result.text == "[0,2,4]"  # type: ignore[union-attr]


# -- one loop after the other --------------------------------------------------------------------


# encode/httpx#2473, agentspan-ai/agentspan#318, conductor-oss/python-sdk#507: what was kept from one
# `asyncio.run` for the next was bound to the closed loop of the first.
def test_agents_and_functions_serve_one_loop_after_the_other() -> None:
    @asyncio_agent
    async def agent(ctx: AsyncioAgentContext, number: int) -> int:
        await asyncio.sleep(0)
        return number

    async def main() -> list[int]:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            return [outcome.unwrap() for outcome in await pool.map(agent, range(3))]

    assert [run_asyncio(main) for _ in range(3)] == [[0, 1, 2]] * 3
    for _ in range(2):
        with open_agent_pool_blocking(max_concurrent=2) as pool:
            assert [outcome.unwrap() for outcome in pool.map(agent, range(3))] == [0, 1, 2]


# pydantic/pydantic-ai#6849: the thread's current loop was one that had been closed.
def test_a_closed_loop_of_the_thread_is_in_nobodys_way() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.close()
    try:

        @asyncio_agent
        async def agent(ctx: AsyncioAgentContext) -> str:
            return "well"

        with open_agent_pool_blocking(max_concurrent=1) as pool:
            assert pool.spawn(agent).result() == "well"
    finally:
        asyncio.set_event_loop(None)


# encode/httpx#2058, langchain-ai/langchain#15220: workers in threads, each with a loop of its own, shared
# what belongs to one.
def test_threads_with_loops_of_their_own_share_a_pool_of_the_program() -> None:
    @asyncio_agent
    async def agent(ctx: AsyncioAgentContext, number: int) -> int:
        await asyncio.sleep(0)
        return number

    with open_agent_pool_blocking(max_concurrent=3) as pool:

        def worker(number: int) -> int:
            async def main() -> int:
                return await asyncio.to_thread(lambda: pool.spawn(agent, number).result())

            return asyncio.run(main())

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert list(threads.map(worker, range(24))) == list(range(24))


def test_threads_with_loops_of_their_own_each_have_a_pool_in_one_portal() -> None:
    @asyncio_agent
    async def agent(ctx: AsyncioAgentContext, number: int) -> tuple[int, int]:
        return number, threading.get_ident()

    with start_blocking_portal("trio") as portal:

        def worker(number: int) -> bool:
            async def main() -> bool:
                async with open_agent_pool_asyncio(max_concurrent=2, portal=portal) as pool:
                    outcomes = await pool.map(agent, [number] * 3)
                return all(one.unwrap() == (number, threading.get_ident()) for one in outcomes)

            return asyncio.run(main())

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert all(threads.map(worker, range(16)))


# -- context variables ---------------------------------------------------------------------------


# run-llama/llama_index#21555, strands-agents/harness-sdk#1146, NousResearch/hermes-agent#28759,
# pydantic/pydantic-ai#1576: variables were lost on the way into the thread of a synchronous tool or call.
def test_variables_reach_agents_and_tools_on_every_way() -> None:
    seen: dict[str, str] = {}

    @tool
    def in_thread(what: str) -> str:
        """Note the variable."""
        seen[what] = VARIABLE.get()
        return what

    @tool
    async def on_trio(what: str) -> str:
        """Note the variable."""
        seen[what] = VARIABLE.get()
        return what

    @asyncio_function
    async def noted(what: str) -> str:
        seen[what] = VARIABLE.get()
        seen[f"{what}, in a thread"] = await asyncio.to_thread(VARIABLE.get)
        return what

    @tool
    async def on_asyncio(what: str) -> str:
        """Note the variable."""
        return await noted(what)

    @asyncio_agent
    async def there(ctx: AsyncioAgentContext) -> None:
        seen["agent on asyncio"] = VARIABLE.get()
        await (await ctx.spawn(here)).result()

    async def here(ctx: AgentContext) -> None:
        seen["agent on trio"] = VARIABLE.get()

    calls = [
        ToolCall(str(n), name, {"what": name})
        for n, name in enumerate(("in_thread", "on_trio", "on_asyncio"))
    ]

    def model() -> Any:
        driver = ScriptedDriver([Completion(tool_calls=tuple(calls)), "done"])
        tools = [in_thread, on_trio, on_asyncio]
        return SpawnConfig(AgentManifest(name="model"), "?", tools=tools, driver=driver)

    async def main() -> None:
        VARIABLE.set("mine")
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            for agent in (there, model()):
                await (await pool.spawn(agent)).result()

    def blocking() -> None:
        VARIABLE.set("mine")
        with open_agent_pool_blocking(max_concurrent=2) as pool:
            for agent in (there, model()):
                pool.spawn(agent).result()

    for way in (lambda: run_asyncio(main), lambda: contextvars.copy_context().run(blocking)):
        seen.clear()
        way()
        assert len(seen) == 6
        assert set(seen.values()) == {"mine"}


# dabapps/django-log-request-id#63 and others: records out of threads and tasks told nobody's id.
def test_log_records_of_agents_on_asyncio_name_them() -> None:
    seen: list[Any] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    logger, handler = logging.getLogger("test.there"), Collector()
    handler.addFilter(AgentLogFilter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    @asyncio_agent
    async def there(ctx: AsyncioAgentContext) -> None:
        logger.info("task")
        await asyncio.gather(asyncio.to_thread(logger.info, "thread"), child())

    async def child() -> None:
        logger.info("child task")

    async def main() -> None:
        logger.info("program")
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            await (await pool.spawn(there, name="clerk")).result()
            logger.info("block")

    try:
        run_asyncio(main)
        with open_agent_pool_blocking(max_concurrent=2) as pool:
            pool.spawn(there, name="clerk").result()
    finally:
        logger.removeHandler(handler)
    named = {(record.getMessage(), record.agent_name) for record in seen}
    assert named == {
        ("program", ""),
        ("block", ""),
        ("task", "clerk"),
        ("thread", "clerk"),
        ("child task", "clerk"),
    }
    assert len(seen) == 8


# -- cancellation --------------------------------------------------------------------------------


# python/cpython#76362, openai/frontier-evals#167: a `return` in a `finally`, or an `except` too wide,
# swallowed the cancellation, and the run went on, or counted as a good one.
@both_ways
@pytest.mark.parametrize("how", ["finally", "except", "gather"])
@pytest.mark.parametrize("goes_on", [False, True], ids=["returns", "goes on"])
def test_a_swallowed_deadline_makes_a_good_end_only_of_a_body_that_returns(
    run: Any, how: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentpool.bridge._job.CLEANUP_TIME", 0.05)

    async def swallow() -> None:
        if how == "gather":  # which does not swallow it, whatever it was told
            await asyncio.gather(asyncio.Event().wait(), return_exceptions=True)
        elif how == "except":
            with contextlib.suppress(BaseException):
                await asyncio.Event().wait()
        else:
            await return_in_finally()

    async def return_in_finally() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            return  # noqa: B012

    @asyncio_agent
    async def agent(ctx: AsyncioAgentContext) -> str:
        await swallow()
        if goes_on:
            await asyncio.Event().wait()
        return "swallowed"

    async def body(pool: Any) -> Any:
        return await (await pool.spawn(agent, timeout=0.1)).wait()

    outcome = run(body, max_concurrent=1)
    if how == "gather" or goes_on:
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, AgentTimeoutError)
    else:
        assert outcome.unwrap() == "swallowed"


# vstorm-co/subagents-pydantic-ai#66: one that swallowed its cancellation held the parent up for ever, and a
# cancellation from outside was taken for its own.
def test_an_agent_that_swallows_one_cancellation_ends_and_so_does_its_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentpool.bridge._job.CLEANUP_TIME", 0.05)
    monkeypatch.setattr("agentpool.bridge._job.AGAIN", 0.01)
    swallowed = 0

    @asyncio_agent
    async def stubborn(ctx: AsyncioAgentContext) -> None:
        nonlocal swallowed
        begun.set()
        while swallowed < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    async def main() -> str:
        task = asyncio.create_task(serve())
        await begun.wait()
        task.cancel("stop")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert task.cancelled()
        return str(caught.value.args[0])

    begun = asyncio.Event()

    async def serve() -> None:
        async with open_agent_pool_asyncio(max_concurrent=1) as pool:
            await pool.spawn(stubborn)
            await asyncio.Event().wait()

    assert run_asyncio(main) == "stop"
    assert swallowed == 3


# HKUDS/nanobot#1072, HKUDS/nanobot#2239: a cancelled tool took the agent with it, or was made a result, and
# then a real cancellation was one too.
def test_a_tool_on_asyncio_that_is_too_slow_is_a_result_and_an_abort_is_none() -> None:
    @asyncio_function
    async def never() -> str:
        await asyncio.Event().wait()
        return "never"

    @tool(timeout=0.05)
    async def slow() -> str:
        """Take too long."""
        return await never()

    @tool(timeout=None)
    async def slower() -> str:
        """Take for ever."""
        begun.set()
        return await never()

    begun = threading.Event()

    def calls(name: str) -> Completion:
        return Completion(tool_calls=(ToolCall(name, name, {}),))

    driver = ScriptedDriver([calls("slow"), calls("slower")])
    with open_agent_pool_blocking(max_concurrent=1) as pool:
        agent = SpawnConfig(AgentManifest(name="model"), "?", tools=[slow, slower], driver=driver)
        handle = pool.spawn(agent)
        assert begun.wait(LIMIT)
        assert "did not end within 0.05 s" in driver.requests[1].messages[-1].result.text  # type: ignore[union-attr]
        handle.abort("enough")
        outcome = handle.wait()
    assert isinstance(outcome, Aborted)
    assert outcome.reason == "enough"


# agronholm/anyio#199: a task that awaited a bare future of asyncio's was never cancelled.
@both_ways
def test_an_agent_that_awaits_a_bare_future_ends_with_its_deadline(run: Any) -> None:
    @asyncio_agent
    async def agent(ctx: AsyncioAgentContext) -> None:
        await asyncio.get_running_loop().create_future()

    async def body(pool: Any) -> Any:
        return await (await pool.spawn(agent, timeout=0.05)).wait()

    outcome = run(body, max_concurrent=1)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, AgentTimeoutError)


# python-trio/trio-asyncio#161: one that was cancelled before its first step stayed pending for ever.
# agronholm/anyio#1011: a cancellation in the moment of the start did nothing.
@both_ways
def test_agents_that_are_aborted_at_once_end(run: Any) -> None:
    @asyncio_agent
    async def agent(ctx: AsyncioAgentContext) -> None:
        await asyncio.Event().wait()

    async def body(pool: Any) -> Any:
        for number in range(100):
            handle = await pool.spawn(agent)
            for _ in range(number % 5):
                if run is from_asyncio:
                    await asyncio.sleep(0)
                else:
                    await trio.sleep(0)
            handle.abort("at once")
        return await pool.join_all()

    outcomes = run(body, max_concurrent=10)
    assert len(outcomes) == 100
    assert {type(outcome) for outcome in outcomes.values()} == {Aborted}


# python-trio/trio-asyncio#89: cancelled from trio, the loop was not closed, and the program hung.
# python-trio/trio-asyncio#115: an error beside the loop was silenced, and the program hung.
# python-trio/trio-asyncio#56: leaving with a task in the background ended in "Event loop is closed".
@pytest.mark.parametrize("how", ["deadline", "error", "background"])
def test_a_program_on_trio_that_ends_ends_its_loop(how: str) -> None:
    ended: list[str] = []

    @asyncio_agent
    async def agent(ctx: AsyncioAgentContext) -> None:
        async def background() -> None:
            begun.set()
            try:
                await ctx.receive()
            finally:
                ended.append("background")

        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        if how != "background":
            await task

    begun = threading.Event()

    async def main() -> None:
        from agentpool import open_agent_pool

        with trio.move_on_after(0.1 if how == "deadline" else LIMIT):
            async with open_agent_pool(max_concurrent=3) as pool:
                await pool.spawn(agent)
                await trio.to_thread.run_sync(begun.wait)
                if how == "error":
                    raise LookupError("the program")
                if how == "deadline":
                    await trio.sleep_forever()

    if how == "error":
        with pytest.raises(LookupError, match="the program"):
            trio.run(main)
    else:
        trio.run(main)
    assert ended == ["background"]


# -- waiting for what was cancelled --------------------------------------------------------------


# agronholm/anyio#1013: after `portal.stop()`, cancelling a future of it did nothing.
# agronholm/anyio#195: leaving did not stop the portal. agentuniverse-ai/agentUniverse#3257: the waiting
# thread was not told that the operation had been cancelled, and waited for ever.
def test_threads_that_wait_are_told_when_the_pool_is_over() -> None:
    told: list[str] = []
    waiting = threading.Barrier(6)

    def wait_for(pool: BlockingAgentPool, number: int) -> None:
        waiting.wait()
        try:
            if number % 2:
                pool.spawn(double, 1)
            else:
                pool.join_all()
        except PoolClosedError:
            told.append("closed")
        else:
            told.append("done")

    with pytest.raises(LookupError):
        with open_agent_pool_blocking(max_concurrent=1) as pool:
            pool.spawn(sleeping)
            threads = [threading.Thread(target=wait_for, args=(pool, number)) for number in range(5)]
            for thread in threads:
                thread.start()
            waiting.wait()
            raise LookupError("out")
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert len(told) == 5
    check_books(pool)


# agronholm/anyio#575: `concurrent.futures.wait` was not told of the cancellation of what it waited for.
def test_futures_around_blocking_verbs_end_with_the_pool() -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        with open_agent_pool_blocking(max_concurrent=4) as pool:
            handles = [pool.spawn(sleeping) for _ in range(4)]
            futures = [threads.submit(handle.result) for handle in handles]
            pool.abort_all("enough")
            done, rest = concurrent.futures.wait(futures, timeout=LIMIT)
    assert not rest
    assert {type(future.exception()).__name__ for future in done} == {"AgentAbortedError"}


# agronholm/anyio#532, aristoteleo/PantheonOS#7: Ctrl-C did not reach what a portal ran, or took two presses.
CTRL_C = r"""
import threading, os, signal, time, trio
from agentpool.bridge import open_agent_pool_blocking, asyncio_agent
import asyncio

async def here(ctx):
    try:
        await trio.sleep_forever()
    finally:
        os.write(1, b"here ended\n")

@asyncio_agent
async def there(ctx):
    try:
        await asyncio.Event().wait()
    finally:
        os.write(1, b"there ended\n")

try:
    with open_agent_pool_blocking(max_concurrent=2) as pool:
        handles = [pool.spawn(agent) for agent in (here, there)]
        while pool.statistics().running < 2: pass
        time.sleep(0.05)
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        WAIT
except KeyboardInterrupt:
    print("interrupted", [handle.status for handle in handles], flush=True)
"""


@pytest.mark.parametrize("wait", ["pool.join_all()", "handles[0].wait()", "time.sleep(60)", "pass"])
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_one_ctrl_c_ends_agents_on_both_sides(wait: str) -> None:
    program = CTRL_C.replace("WAIT", wait)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT)
    lines = done.stdout.splitlines()
    assert sorted(lines[:2]) == ["here ended", "there ended"], done.stderr
    assert lines[2:] == ["interrupted ['aborted', 'aborted']"]
    assert (done.returncode, done.stderr) == (0, "")


# -- generators ----------------------------------------------------------------------------------


# google/adk-python#2196, mcp-use/mcp-use#132, langchain-ai/langchain-mcp-adapters#466: a generator that
# held a scope was left early, and closed by the collector in another task, which failed.
@both_ways
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
def test_generators_that_a_framework_leaves_open_end_with_the_agent_and_hurt_nobody(run: Any) -> None:
    closed: list[str] = []

    async def pieces() -> AsyncGenerator[int, None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(closed.append, "closed")
            async with asyncio.timeout(LIMIT):
                for number in range(10):
                    yield number

    @asyncio_agent
    async def leaves_early(ctx: AsyncioAgentContext) -> int:
        async for number in pieces():
            return number
        return -1

    @asyncio_agent
    async def neighbour(ctx: AsyncioAgentContext) -> str:
        for _ in range(20):
            await asyncio.sleep(0)
        return "well"

    async def body(pool: Any) -> Any:
        handles = [await pool.spawn(agent) for agent in (leaves_early, neighbour, leaves_early)]
        outcomes = [await handle.wait() for handle in handles]
        gc.collect()
        return outcomes

    outcomes = run(body, max_concurrent=3)
    assert [type(outcome) for outcome in outcomes] == [Completed] * 3
    assert outcomes[1].unwrap() == "well"
    assert closed == ["closed"] * 2


# BerriAI/litellm#17364: the reader of a stream left it, and the call to the provider went on.
@both_ways
def test_a_stream_of_the_pools_driver_that_is_left_early_is_closed(run: Any) -> None:
    closed = threading.Event()

    class Endless(ScriptedDriver):
        @contextlib.asynccontextmanager
        async def stream(self, request: Any) -> Any:
            async def parts() -> Any:
                from agentpool import TextDelta

                while True:
                    yield TextDelta("more")
                    await trio.sleep(0)

            try:
                async with contextlib.aclosing(parts()) as iterator:
                    yield iterator
            finally:
                closed.set()

    @asyncio_agent
    async def reader(ctx: AsyncioAgentContext) -> str:
        from agentpool import CompletionRequest, UserMessage

        assert ctx.driver is not None
        async with ctx.driver.stream(CompletionRequest(messages=[UserMessage("?")])) as parts:
            async for part in parts:
                return part.text
        return ""

    async def body(pool: Any) -> Any:
        text = await (await pool.spawn(reader)).result()
        assert closed.is_set()
        return text

    assert run(body, driver=Endless(["x"]), max_concurrent=1) == "more"


# -- failures ------------------------------------------------------------------------------------


# bolna-ai/bolna#462, supermemoryai/supermemory#786: one failed, and the tasks beside it were left pending.
def test_a_block_that_fails_leaves_no_task_pending() -> None:
    ended: list[int] = []
    begun = asyncio.Barrier(6)

    @asyncio_agent
    async def agent(ctx: AsyncioAgentContext, number: int) -> None:
        try:
            await begun.wait()
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(asyncio.Event().wait())
        finally:
            ended.append(number)

    async def main() -> None:
        with pytest.raises(AgentFailedError):
            async with open_agent_pool_asyncio(max_concurrent=10) as pool:
                for number in range(5):
                    await pool.spawn(agent, number)
                await begun.wait()
                await (await pool.spawn(failing)).result()

    run_asyncio(main)
    assert sorted(ended) == list(range(5))


# griptape-ai/griptape-nodes-engine#4469: a circle of waits over two loops hung, and nothing told of it.
@both_ways
def test_a_circle_of_waits_over_both_sides_is_told(run: Any) -> None:
    async def here(ctx: AgentContext) -> Any:
        await ctx.receive()
        return await ctx.ask("there", "?")

    @asyncio_agent
    async def there(ctx: AsyncioAgentContext) -> Any:
        await ctx.receive()
        return await ctx.ask("here", "?")

    async def body(pool: Any) -> Any:
        handles = [await pool.spawn(there, name="there"), await pool.spawn(here, name="here")]
        for handle in handles:
            with contextlib.suppress(UnknownAgentError):  # it has closed the circle, and ended
                await pool.send(handle.id, "go")
        return [await handle.wait() for handle in handles]

    errors = [outcome.error for outcome in run(body, max_concurrent=2)]
    assert {type(error) for error in errors} == {DeadlockError, UnknownAgentError}


def test_signals_are_those_of_the_main_thread() -> None:
    """A pool in a thread of its own changes no handler."""
    before = signal.getsignal(signal.SIGINT)
    with open_agent_pool_blocking(max_concurrent=1) as pool:
        assert signal.getsignal(signal.SIGINT) is before
        pool.spawn(double, 1).result()
    assert signal.getsignal(signal.SIGINT) is before
