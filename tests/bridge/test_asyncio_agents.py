"""Functions that are written for asyncio run as agents of a pool."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
import sniffio
import trio
from bridge_kit import check_books, double, nothing_left, run_asyncio, sleeping
from pool_kit import Running

from agentpool import (
    Aborted,
    AgentContext,
    AgentManifest,
    AgentTimeoutError,
    ApprovalRequest,
    Approved,
    Budget,
    BudgetExceededError,
    Completed,
    Completion,
    CompletionRequest,
    DeadlockError,
    Decision,
    Failed,
    InMemory,
    LeftOpenError,
    PoolFullError,
    ScriptedDriver,
    SpawnConfig,
    SqliteJournal,
    TokenUsage,
    ToolCall,
    UnhandledAgentErrors,
    UnknownAgentError,
    UserMessage,
    open_agent_pool,
    resume_agent_pool,
    tool,
)
from agentpool.bridge import (
    AsyncioAgentContext,
    AsyncioAgentPool,
    _job,
    asyncio_agent,
    asyncio_function,
    open_agent_pool_asyncio,
    open_agent_pool_blocking,
)
from agentpool.testing import simulate

variable: ContextVar[str] = ContextVar("variable", default="nothing")
LIMIT = 60.0

Program = Callable[[Any], Awaitable[None]]


def on_trio(program: Program, max_concurrent: int = 2, **options: Any) -> None:
    """Run it with a pool of a program on trio: asyncio has a thread of the pool's own."""

    async def main() -> None:
        limit = trio.CancelScope(deadline=trio.current_time() + LIMIT)
        try:
            with limit:
                async with open_agent_pool(max_concurrent=max_concurrent, **options) as pool:
                    await program(pool)
        finally:
            # Also if something else came out: it would hide that nothing but the limit ended the program.
            assert not limit.cancel_called, "the program hangs"
        assert pool._books().problems() == []

    with nothing_left():
        trio.run(main)


def on_asyncio(program: Program, max_concurrent: int = 2, **options: Any) -> None:
    """Run it with a pool of a program on asyncio: the functions run in its loop."""

    async def main() -> AsyncioAgentPool:
        async with open_agent_pool_asyncio(max_concurrent=max_concurrent, **options) as pool:
            await program(pool)
        return pool

    check_books(run_asyncio(main))


both = pytest.mark.parametrize("run", [on_trio, on_asyncio])


async def where(ctx: AsyncioAgentContext) -> tuple[threading.Thread, asyncio.AbstractEventLoop]:
    await asyncio.sleep(0)
    return threading.current_thread(), asyncio.get_running_loop()


async def sleep_there(ctx: AsyncioAgentContext, seconds: float = 1_000_000) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def sleep_a_bit(ctx: AsyncioAgentContext, number: int) -> int:
    await asyncio.sleep(0.001 * number)
    return number


# -- where they run -------------------------------------------------------------------------------------


def test_in_a_program_on_asyncio_they_run_in_its_loop() -> None:
    async def program(pool: Any) -> None:
        thread, loop = await (await pool.spawn(asyncio_agent(where))).result()
        assert thread is threading.current_thread()
        assert loop is asyncio.get_running_loop()

        async def parent(ctx: AgentContext) -> Any:
            return await (await ctx.spawn(asyncio_agent(where))).result()

        assert (await (await pool.spawn(parent)).result())[1] is loop

    on_asyncio(program)


def test_elsewhere_all_those_of_a_pool_share_one_loop_until_its_end() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def program(pool: Any) -> None:
        for _ in range(3):
            thread, loop = await (await pool.spawn(asyncio_agent(where))).result()
            assert thread.name == "agentpool asyncio"
            loops.append(loop)
            assert not loop.is_closed()

    on_trio(program)
    assert len(set(loops)) == 1
    assert loops[0].is_closed()


def test_libraries_that_run_on_both_find_asyncio_there_and_trio_here() -> None:
    async def there(ctx: AsyncioAgentContext) -> list[str]:
        await anyio.sleep(0)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        handle = await ctx.spawn(here)
        return [sniffio.current_async_library(), *await handle]

    async def here(ctx: AgentContext) -> list[str]:
        await anyio.sleep(0)
        return [sniffio.current_async_library(), await asyncio_function(inside)()]

    async def inside() -> str:
        return sniffio.current_async_library()

    async def program(pool: Any) -> None:
        assert await (await pool.spawn(asyncio_agent(there))).result() == ["asyncio", "trio", "asyncio"]

    on_trio(program)
    on_asyncio(program)
    with open_agent_pool_blocking(max_concurrent=2) as pool:
        assert pool.spawn(asyncio_agent(there)).result() == ["asyncio", "trio", "asyncio"]

    async def main() -> None:
        async with open_agent_pool(max_concurrent=2) as pool:
            await program(pool)

    anyio.run(main, backend="trio")  # which says so in a context variable


@both
def test_it_starts_in_the_context_variables_of_its_spawner(run: Callable[..., None]) -> None:
    async def read(ctx: AsyncioAgentContext) -> str:
        return variable.get()

    async def parent(ctx: AsyncioAgentContext) -> str:
        variable.set("parent")
        return await (await ctx.spawn(asyncio_agent(read)))

    async def program(pool: Any) -> None:
        variable.set("program")
        assert await (await pool.spawn(asyncio_agent(read))).result() == "program"
        assert await (await pool.spawn(asyncio_agent(parent))).result() == "parent"
        assert variable.get() == "program"

    run(program)


def test_it_is_an_agent_like_any_other() -> None:
    async def program(pool: Any) -> None:
        agent = asyncio_agent(sleep_there)
        assert "sleep_there" in repr(agent)
        handle = await pool.spawn(agent, 0)
        assert handle.name == "sleep_there"
        assert isinstance(await handle.wait(), Completed)
        assert [o.unwrap() for o in await pool.map(agent, [0, 0.001])] == [0, 0.001]

    on_trio(program)
    for wrong in (7, sleep_there, AsyncioAgentContext):
        if wrong is sleep_there:
            continue
        with pytest.raises(TypeError):
            asyncio_agent(wrong)  # type: ignore[arg-type]


@both
def test_a_function_that_is_not_asynchronous_is_told_so(run: Callable[..., None]) -> None:
    def plain(ctx: AsyncioAgentContext) -> int:
        return 7

    async def program(pool: Any) -> None:
        outcome = await (await pool.spawn(asyncio_agent(plain))).wait()  # type: ignore[arg-type]
        assert isinstance(outcome, Failed)
        assert "is no async function: it returned 7" in str(outcome.error)

    run(program)


# -- outcomes -------------------------------------------------------------------------------------------


@both
def test_what_it_raises_is_its_outcome_and_touches_nobody(run: Callable[..., None]) -> None:
    error = ValueError("mine")

    async def raising(ctx: AsyncioAgentContext) -> None:
        await asyncio.sleep(0)
        raise error

    async def program(pool: Any) -> None:
        neighbour = await pool.spawn(asyncio_agent(sleep_there), 0.05)
        outcome = await (await pool.spawn(asyncio_agent(raising))).wait()
        assert isinstance(outcome, Failed)
        assert outcome.error is error
        assert isinstance(await neighbour.wait(), Completed)

    run(program)


@both
def test_the_cap_holds(run: Callable[..., None]) -> None:
    running = Running()

    async def work(ctx: AsyncioAgentContext, number: int) -> int:
        with running:
            await asyncio.sleep(0.001)
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0.001))
        return number

    async def program(pool: Any) -> None:
        outcomes = await pool.map(asyncio_agent(work), range(60))
        assert [outcome.unwrap() for outcome in outcomes] == list(range(60))

    run(program, 3)
    assert running.peak == 3


@both
def test_a_deadline_cancels_it_over_there(run: Callable[..., None]) -> None:
    ended: list[str] = []

    async def work(ctx: AsyncioAgentContext) -> None:
        async def tick() -> None:
            try:
                while True:
                    await asyncio.sleep(0.001)
            finally:
                ended.append("task")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(tick())
                await asyncio.sleep(1_000_000)
        finally:
            ended.append("function")

    async def program(pool: Any) -> None:
        await (await pool.spawn(asyncio_agent(where))).result()  # its loop runs before the time does
        outcome = await (await pool.spawn(asyncio_agent(work), timeout=0.5)).wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, AgentTimeoutError)
        assert sorted(ended) == ["function", "task"]

    run(program)


@both
def test_an_abort_waits_until_it_has_cleaned_up(run: Callable[..., None]) -> None:
    cleaned: list[int] = []
    begun: list[int] = []

    async def work(ctx: AsyncioAgentContext) -> None:
        begun.append(ctx.id)
        try:
            await asyncio.sleep(1_000_000)
        finally:
            await asyncio.sleep(0.05)
            cleaned.append(ctx.id)

    async def program(pool: Any) -> None:
        handles = [await pool.spawn(asyncio_agent(work)) for _ in range(2)]
        await until(begun, 2)
        for handle in handles:
            handle.abort("enough")
        outcomes = [await handle.wait() for handle in handles]
        assert [type(outcome) for outcome in outcomes] == [Aborted, Aborted]
        assert len(cleaned) == 2

    run(program)


async def until(begun: list[Any], count: int = 1) -> None:
    """Wait, on trio or on asyncio, until something was noted."""
    while len(begun) < count:
        await anyio.sleep(0.001)


@both
def test_one_that_goes_on_after_its_cancellation_is_cancelled_again(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_job, "CLEANUP_TIME", 0.02)
    monkeypatch.setattr(_job, "AGAIN", 0.01)
    calls: list[int] = []

    async def stubborn(ctx: AsyncioAgentContext) -> None:
        while len(calls) < 5:
            try:
                await asyncio.sleep(1_000_000)
            except asyncio.CancelledError:
                calls.append(1)
        await asyncio.sleep(1_000_000)

    async def program(pool: Any) -> None:
        await (await pool.spawn(asyncio_agent(where))).result()  # its loop runs before the time does
        outcome = await (await pool.spawn(asyncio_agent(stubborn), timeout=0.5)).wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, AgentTimeoutError)
        assert len(calls) == 5

    run(program)


@both
def test_one_that_returns_a_value_though_it_was_cancelled_has_completed(run: Callable[..., None]) -> None:
    begun: list[int] = []

    async def landing(ctx: AsyncioAgentContext) -> str:
        begun.append(1)
        try:
            await asyncio.sleep(1_000_000)
        except asyncio.CancelledError:
            return "landed"
        return "never"

    async def program(pool: Any) -> None:
        handle = await pool.spawn(asyncio_agent(landing))
        await until(begun)
        handle.abort()
        assert await handle.result() == "landed"

    run(program)


@both
def test_tasks_that_it_leaves_running_end_with_it(run: Callable[..., None]) -> None:
    ended: list[str] = []
    kept: list[asyncio.Task[None]] = []

    async def background() -> None:
        try:
            await asyncio.sleep(1_000_000)
        finally:
            await asyncio.sleep(0.01)
            ended.append("background")

    async def work(ctx: AsyncioAgentContext) -> str:
        kept.append(asyncio.create_task(background()))
        await asyncio.sleep(0)
        return "done"

    async def program(pool: Any) -> None:
        assert await (await pool.spawn(asyncio_agent(work))).result() == "done"
        assert ended == ["background"]

    run(program)


def test_what_a_task_raises_that_it_left_running_is_told_by_the_loop() -> None:
    told: list[Any] = []
    kept: list[asyncio.Task[None]] = []

    async def background() -> None:
        try:
            await asyncio.sleep(1_000_000)
        finally:
            raise ValueError("left")

    async def work(ctx: AsyncioAgentContext) -> None:
        kept.append(asyncio.create_task(background()))
        await asyncio.sleep(0)

    async def program(pool: Any) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        await (await pool.spawn(asyncio_agent(work))).result()

    on_asyncio(program)
    assert [str(context["exception"]) for context in told] == ["left"]


@both
def test_one_whose_task_somebody_else_cancels_has_failed(run: Callable[..., None]) -> None:
    async def work(ctx: AsyncioAgentContext) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def program(pool: Any) -> None:
        outcome = await (await pool.spawn(asyncio_agent(work))).wait()
        assert isinstance(outcome, Failed)
        assert "not by its pool" in str(outcome.error)

    run(program)


@both
def test_what_is_fatal_in_it_leaves_the_pool_unwrapped(run: Callable[..., None]) -> None:
    async def work(ctx: AsyncioAgentContext) -> None:
        await asyncio.sleep(0)
        raise SystemExit(3)

    async def program(pool: Any) -> None:
        await pool.spawn(asyncio_agent(sleep_there))
        await (await pool.spawn(asyncio_agent(work))).wait()
        await anyio.sleep_forever()

    with pytest.raises(SystemExit) as caught:
        run(program)
    assert caught.value.code == 3


def test_a_task_of_it_that_asks_the_program_to_exit_ends_a_pool_on_trio() -> None:
    async def exiting() -> None:
        raise SystemExit(3)

    async def work(ctx: AsyncioAgentContext) -> None:
        task = asyncio.create_task(exiting())
        await asyncio.sleep(1_000_000)
        await task

    async def program(pool: Any) -> None:
        await pool.spawn(asyncio_agent(work))
        await trio.sleep_forever()

    with pytest.raises(SystemExit) as caught:
        on_trio(program)
    assert caught.value.code == 3
    del caught  # its traceback holds the task, whose error asyncio tells of when it is collected: here
    gc.collect()


# -- messages, children, slots ----------------------------------------------------------------------------


async def serve(ctx: AsyncioAgentContext) -> int:
    count = 0
    async for message in ctx.inbox:
        count += 1
        ctx.reply(message, (ctx.id, message.content))
    return count


@both
def test_it_sends_receives_asks_and_replies(run: Callable[..., None]) -> None:
    async def client(ctx: AsyncioAgentContext, server: int) -> list[Any]:
        ctx.subscribe("news")
        answers = [await ctx.ask(server, number) for number in range(3)]
        await ctx.send(ctx.id, "to myself")
        await ctx.send_nowait(ctx.id, "more")
        received = [(await ctx.receive()).content, (await ctx.receive_nowait()).content]
        with pytest.raises(trio.WouldBlock):
            await ctx.receive_nowait()
        assert await ctx.find("server") == server
        with pytest.raises(UnknownAgentError):
            await ctx.send(99, "nobody")
        with pytest.raises(ValueError, match="cannot reply"):
            ctx.reply(AgentMessage(to=99), "?")
        assert await ctx.publish("news", 1) == 0
        assert await ctx.broadcast("all") == 1
        ctx.unsubscribe("news")
        return [answers, received, repr(ctx.inbox)]

    from agentpool import AgentMessage

    async def program(pool: Any) -> None:
        server = await pool.spawn(asyncio_agent(serve), name="server")
        answers, received, inbox = await (await pool.spawn(asyncio_agent(client), server.id)).result()
        assert answers == [(server.id, number) for number in range(3)]
        assert received == ["to myself", "more"]
        assert inbox == "<AsyncioInbox of agent 2>"

    run(program)


@both
def test_a_server_on_asyncio_ends_with_the_pool(run: Callable[..., None]) -> None:
    values: list[Any] = []

    async def program(pool: Any) -> None:
        values.append(await pool.spawn(asyncio_agent(serve), name="server"))
        assert await pool.ask("server", "hello") == (1, "hello")

    run(program)
    assert values[0].outcome.unwrap() == 1


@both
def test_what_it_is(run: Callable[..., None]) -> None:
    async def work(ctx: AsyncioAgentContext) -> None:
        assert (ctx.id, ctx.name, ctx.parent_id, ctx.depth) == (1, "work", 0, 0)
        assert (ctx.max_concurrent, ctx.budget, ctx.driver, ctx.memory) == (2, None, None, None)
        assert (ctx.closing, ctx.draining) == (False, False)
        assert repr(ctx) == "<AsyncioAgentContext of agent 1 (work)>"
        ctx.add_usage(TokenUsage(3, 4))
        assert ctx.usage == TokenUsage(3, 4)

    async def program(pool: Any) -> None:
        outcome = await (await pool.spawn(asyncio_agent(work))).wait()
        outcome.unwrap()
        assert outcome.usage == TokenUsage(3, 4)

    run(program)


@both
def test_a_tree_that_waits_for_its_children_ends_under_a_cap_of_one(run: Callable[..., None]) -> None:
    async def there(ctx: AsyncioAgentContext, depth: int) -> int:
        if depth == 0:
            return 1
        children = [await ctx.spawn(asyncio_agent(there), depth - 1), await ctx.spawn(here, depth - 1)]
        return sum([await child for child in children])

    async def here(ctx: AgentContext, depth: int) -> int:
        if depth == 0:
            return 1
        outcomes = await ctx.map(asyncio_agent(there), [depth - 1] * 2)
        return sum(outcome.unwrap() for outcome in outcomes)

    async def program(pool: Any) -> None:
        assert await (await pool.spawn(asyncio_agent(there), 4)).result() == 16

    run(program, 1)


@both
@pytest.mark.parametrize("how", ["gather", "group", "wait", "detached"])
def test_tasks_that_wait_side_by_side_lend_the_slot(run: Callable[..., None], how: str) -> None:
    """Nested under a cap of one, where none of the children could start else."""

    async def child(ctx: AsyncioAgentContext, number: int) -> int:
        await asyncio.sleep(0.001)
        return number

    async def parent(ctx: AsyncioAgentContext) -> int:
        async def ask_child(number: int) -> int:
            return await (await ctx.spawn(asyncio_agent(child), number))

        if how == "gather":
            return sum(await asyncio.gather(*map(ask_child, range(4))))
        if how == "group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask_child(number)) for number in range(4)]
            return sum(task.result() for task in tasks)
        tasks = [asyncio.create_task(ask_child(number)) for number in range(4)]
        if how == "wait":
            await asyncio.wait(tasks)
            return sum(task.result() for task in tasks)
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
        return sum(task.result() for task in tasks)

    async def program(pool: Any) -> None:
        assert await (await pool.spawn(asyncio_agent(parent))).result() == 6

    run(program, 1)


@both
def test_the_slot_is_not_lent_while_a_task_that_has_used_a_verb_runs(run: Callable[..., None]) -> None:
    running = Running()

    async def busy(ctx: AsyncioAgentContext) -> None:
        async def works() -> None:
            await ctx.send(ctx.id, "a verb, so that the pool knows the task")
            with running:
                await asyncio.sleep(0.05)

        async def waits() -> None:
            while (await ctx.receive()).content != "end":
                pass

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(waits())
            await group.create_task(works())
            await ctx.send(ctx.id, "end")
            await waiting

    async def other(ctx: AsyncioAgentContext, number: int) -> None:
        with running:
            await asyncio.sleep(0.001)

    async def program(pool: Any) -> None:
        await pool.spawn(asyncio_agent(busy))
        outcomes = await pool.map(asyncio_agent(other), range(20))
        for outcome in [*outcomes, *(await pool.join_all()).values()]:
            outcome.unwrap()

    run(program, 1)
    assert running.peak == 1


@both
def test_the_verbs_for_many_agents_under_a_cap_of_one(run: Callable[..., None]) -> None:
    async def work(ctx: AsyncioAgentContext) -> None:
        assert [o.unwrap() for o in await ctx.map(double, range(3))] == [0, 2, 4]
        assert [await handle for handle in await ctx.fan_out([lambda c: double(c, 1)] * 2)] == [2, 2]
        assert (await ctx.race(lambda c: double(c, 3), sleeping)).unwrap() == 6
        assert (await ctx.vote(double, 2, n=3)).winner == 4

        async def numbers() -> AsyncIterator[int]:
            for number in range(4):
                await asyncio.sleep(0)
                yield number

        for items in ([0, 1, 2, 3], numbers(), iter(range(4))):
            async with ctx.as_completed(asyncio_agent(sleep_a_bit), items) as done:  # type: ignore[arg-type]
                total = 0
                async for _ in done:
                    total += 1
                    assert await (await ctx.spawn(double, total)) == 2 * total
                    if total == 2:
                        break
        assert await (await ctx.spawn_nowait(double, 1)) == 2
        handle = await ctx.spawn(sleeping)
        with pytest.raises(PoolFullError):
            await ctx.spawn_nowait(double, 1)
        handle.abort()
        assert isinstance(await ctx.join_next(), Aborted)
        await ctx.spawn(sleeping)
        ctx.abort_all("enough")
        assert len(await ctx.join_all()) == 1

    async def program(pool: Any) -> None:
        await (await pool.spawn(asyncio_agent(work))).result()

    run(program, 2)


@both
def test_an_agent_that_uses_the_pool_instead_of_its_context_waits_as_an_agent(
    run: Callable[..., None],
) -> None:
    async def program(pool: Any) -> None:
        async def nested(ctx: AsyncioAgentContext, depth: int) -> int:
            if depth == 0:
                return 0
            if isinstance(pool, AsyncioAgentPool):
                with pytest.raises(RuntimeError, match=r"await ctx\.spawn_nowait"):
                    pool.spawn_nowait(double, 1)
                return 1 + await (await pool.spawn(asyncio_agent(nested), depth - 1))
            return 1 + await (await ctx.spawn(asyncio_agent(nested), depth - 1))

        assert await (await pool.spawn(asyncio_agent(nested), 4)).result() == 4

    run(program, 1)


@both
def test_agents_that_ask_each_other_are_told_of_the_deadlock(run: Callable[..., None]) -> None:
    async def asking(ctx: AsyncioAgentContext, other: int) -> str:
        try:
            await ctx.ask(other, "?")
        except (DeadlockError, UnknownAgentError) as error:
            return type(error).__name__
        return "answered"

    async def program(pool: Any) -> None:
        one = await pool.spawn(asyncio_agent(asking), 2)
        other = await pool.spawn(asyncio_agent(asking), 1)
        assert sorted([await one.result(), await other.result()]) == ["DeadlockError", "UnknownAgentError"]

    run(program)


@both
def test_verbs_of_one_that_is_being_cancelled_are_cancelled(run: Callable[..., None]) -> None:
    seen: list[str] = []
    begun: list[int] = []

    async def work(ctx: AsyncioAgentContext) -> None:
        begun.append(1)
        try:
            await ctx.receive()
        finally:
            try:
                await ctx.send(ctx.id, "last words")
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

    async def program(pool: Any) -> None:
        handle = await pool.spawn(asyncio_agent(work))
        await until(begun)
        handle.abort()
        assert isinstance(await handle.wait(), Aborted)

    run(program)
    assert seen == ["cancelled"]


@both
def test_a_verb_that_times_out_over_there_takes_nothing(run: Callable[..., None]) -> None:
    async def work(ctx: AsyncioAgentContext) -> str:
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await ctx.receive()
        await ctx.send(ctx.id, "kept")
        return str((await asyncio.wait_for(ctx.receive(), 30)).content)

    async def program(pool: Any) -> None:
        assert await (await pool.spawn(asyncio_agent(work))).result() == "kept"

    run(program, 1)


@both
def test_what_its_children_failed_with_is_its_failure(run: Callable[..., None]) -> None:
    async def bad(ctx: AsyncioAgentContext) -> None:
        raise KeyError("child")

    async def work(ctx: AsyncioAgentContext) -> str:
        await ctx.spawn(asyncio_agent(bad))
        return "value"

    async def program(pool: Any) -> None:
        outcome = await (await pool.spawn(asyncio_agent(work))).wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, UnhandledAgentErrors)

    run(program)


# -- drivers, tools, approvers, journals -------------------------------------------------------------------


@both
def test_its_driver_is_counted_and_within_the_budget(run: Callable[..., None]) -> None:
    request = CompletionRequest(model="m", messages=(UserMessage("hello"),), max_tokens=10)

    async def work(ctx: AsyncioAgentContext) -> str:
        driver = ctx.driver
        assert driver is not None
        assert (driver.context_window, driver.privacy.value) == (None, driver.privacy.value)
        assert driver.estimate_cost(TokenUsage(1, 1)) == 0
        assert "AsyncioDriver" in repr(driver)
        first = await driver.complete(request)
        async with driver.stream(request) as pieces:
            told = [piece async for piece in pieces]
        assert isinstance(told[-1], Completion)
        with pytest.raises(KeyError):
            async with driver.stream(request) as pieces:
                await anext(pieces)
                raise KeyError("mine")
        with pytest.raises(BudgetExceededError):
            await driver.complete(request)
        return first.text

    async def program(pool: Any) -> None:
        outcome = await (await pool.spawn(asyncio_agent(work))).wait()
        assert outcome.unwrap() == "one"
        assert outcome.usage.total_tokens > 0

    replies = [Completion(text, usage=TokenUsage(2, 1)) for text in ("one", "two", "three", "four")]
    run(program, 1, driver=ScriptedDriver(replies), budget=Budget(calls=3))


@both
def test_its_memory_is_that_of_the_pool(run: Callable[..., None]) -> None:
    async def work(ctx: AsyncioAgentContext) -> None:
        memory = ctx.memory
        assert memory is not None
        assert "AsyncioMemory" in repr(memory)
        number = await memory.remember("tea is green", source="conversation", agent_id=ctx.id)
        assert [found.content for found in await memory.recall("tea")] == ["tea is green"]
        assert not await memory.recall("tea", source="tool")
        await memory.set("key", 7)
        assert (await memory.get("key"), await memory.get("other", 8)) == (7, 8)
        assert await memory.forget(number)
        assert not await memory.forget(number)
        assert ctx.current_time() > 0

    async def program(pool: Any) -> None:
        await (await pool.spawn(asyncio_agent(work))).result()

    run(program, 1, memory=InMemory())


@both
def test_asyncio_functions_are_tools_and_approvers(run: Callable[..., None]) -> None:
    @tool
    @asyncio_function
    async def look_up(word: str) -> str:
        """Look a word up."""
        await asyncio.sleep(0.001)
        return f"{word} is found by {sniffio.current_async_library()}"

    @asyncio_function
    async def approve(request: ApprovalRequest) -> Decision:
        await asyncio.sleep(0)
        asked.append(request.call.name)
        return Approved()

    asked: list[str] = []
    manifest = AgentManifest.from_toml('name = "a"\n[approval]\nask = ["look_up"]\n')
    replies = [Completion(tool_calls=(ToolCall("1", "look_up", {"word": "tea"}),)), "done"]

    async def program(pool: Any) -> None:
        result = await (await pool.spawn(SpawnConfig(manifest, "?", tools=[look_up]))).result()
        assert "tea is found by asyncio" in str(result.transcript)

    run(program, 1, driver=ScriptedDriver(replies), approver=approve)
    assert asked == ["look_up"]


@both
def test_a_tool_on_asyncio_lends_the_slot_of_the_agent_that_calls_it(run: Callable[..., None]) -> None:
    async def program(pool: Any) -> None:
        if not isinstance(pool, AsyncioAgentPool):
            return

        @asyncio_function
        async def nested(depth: int) -> int:
            return 0 if depth == 0 else 1 + await (await pool.spawn(agent, depth - 1))

        async def agent(ctx: AgentContext, depth: int) -> int:
            return await nested(depth)

        assert await (await pool.spawn(agent, 4)).result() == 4

    run(program, 1)


async def test_outside_of_agents_an_asyncio_function_says_where_it_belongs() -> None:
    @asyncio_function
    async def function() -> None: ...

    with pytest.raises(RuntimeError, match="no agent calls it here"):
        await function()


def test_a_time_limit_on_trio_around_an_asyncio_function_cancels_it() -> None:
    ended: list[str] = []

    @asyncio_function
    async def function() -> None:
        try:
            await asyncio.sleep(1_000_000)
        finally:
            ended.append("ended")

    async def agent(ctx: AgentContext) -> bool:
        with trio.move_on_after(0.05) as scope:
            await function()
        return scope.cancelled_caught and ended == ["ended"]

    async def program(pool: Any) -> None:
        assert await (await pool.spawn(agent)).result()

    on_trio(program)


done: list[str] = []


async def count_step(what: str) -> str:
    await asyncio.sleep(0)
    done.append(what)
    return what


async def in_steps(ctx: AsyncioAgentContext) -> list[Any]:
    first = await ctx.step("first", count_step, "one")
    child = await (await ctx.spawn(double, 21))
    await ctx.send(ctx.id, "hello")
    message = await ctx.receive()
    if len(done) < 2:
        done.append("crash")
        raise SystemExit(1)
    return [first, child, message.content, await ctx.step("second", count_step, "two")]


def test_a_run_with_a_journal_is_resumed(tmp_path: Any) -> None:
    done.clear()

    async def begin() -> None:
        async with open_agent_pool(max_concurrent=1, journal=SqliteJournal(tmp_path / "run.db")) as pool:
            await pool.spawn(asyncio_agent(in_steps))

    with pytest.raises(SystemExit):
        trio.run(begin)

    async def go_on() -> Any:
        async with resume_agent_pool(tmp_path / "run.db") as pool:
            return await pool.resumed[0].result()

    assert trio.run(go_on) == ["one", 42, "hello", "two"]
    assert done == ["one", "crash", "two"]


def test_a_simulation_says_that_it_has_no_threads() -> None:
    async def main() -> str:
        async with open_agent_pool(max_concurrent=1) as pool:
            outcome = await (await pool.spawn(asyncio_agent(where))).wait()
            assert isinstance(outcome, Failed)
            return str(outcome.error)

    assert "which a simulation does not have" in simulate(main, seed=1).value


# -- many -------------------------------------------------------------------------------------------------


@both
def test_a_thousand_agents_that_are_aborted_at_random(run: Callable[..., None]) -> None:
    lot = random.Random(5)
    running: set[int] = set()

    async def work(ctx: AsyncioAgentContext, seconds: float) -> None:
        running.add(ctx.id)
        try:
            if seconds < 0.001:
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(seconds))
                    group.create_task(ctx.map(double, [1, 2]))  # type: ignore[arg-type]
            await asyncio.sleep(seconds)
        finally:
            running.discard(ctx.id)

    async def program(pool: Any) -> None:
        handles = []
        for _ in range(1000):
            handles.append(await pool.spawn(asyncio_agent(work), lot.random() * 0.004))
            if lot.random() < 0.3:
                lot.choice(handles).abort("at random")
        outcomes = await pool.join_all()
        assert len(outcomes) == 1000
        assert {type(outcome) for outcome in outcomes.values()} == {Completed, Aborted}
        assert running == set()

    run(program, 20)


@both
def test_what_it_leaves_open_is_the_business_of_its_own_loop(run: Callable[..., None]) -> None:
    """A generator that was not read to its end holds up nobody."""

    async def numbers() -> AsyncIterator[int]:
        async with asyncio.timeout(30):
            yield 1
            yield 2

    async def work(ctx: AsyncioAgentContext) -> int:
        async for number in numbers():
            return number
        return 0

    async def program(pool: Any) -> None:
        outcome = await (await pool.spawn(asyncio_agent(work))).wait()
        assert not isinstance(outcome, Failed) or not isinstance(outcome.error, LeftOpenError)
        assert outcome.unwrap() == 1
        gc.collect()
        await anyio.sleep(0.01)

    run(program)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield
