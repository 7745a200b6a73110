"""ctx.open_nursery: several tasks of one agent, which lend its slot together."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pool_kit import Running, collector, pool_of, server, sleeper, value

from agentpool import AgentContext, Completed, DeadlockError, Failed, PoolFullError


async def test_tasks_of_the_nursery_may_wait_in_pool_operations(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext, box: int) -> list[Any]:
        found = []

        async def ask(what: int) -> None:
            found.append(await ctx.ask(box, what))

        async with ctx.open_nursery() as nursery:
            for i in range(3):
                nursery.start_soon(ask, i)
        return sorted(found)

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent, (await pool.spawn(server)).id)
        assert await handle.result() == [0, 1, 2]


async def test_the_slot_is_lent_only_when_every_task_waits(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)
            message = await ctx.receive()
            assert message.content == "x"
            await trio.sleep(3)

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().running == 1
        await trio.sleep(6)
        assert pool.statistics().running == 0
        pool.send_nowait(handle.id, "x")
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().running == 1


async def test_an_agent_whose_block_waits_for_tasks_that_wait_lends_its_slot(autojump_clock: Any) -> None:
    running = Running()

    async def child(ctx: AgentContext) -> None:
        with running:
            await trio.sleep(1)

    async def agent(ctx: AgentContext) -> int:
        async def one() -> None:
            await (await ctx.spawn(child)).wait()

        async with ctx.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)
        with running:
            await trio.sleep(1)
        return 3

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent)).result() == 3
    assert running.peak == 1
    assert trio.current_time() == 5


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("slots", [1, 2])
async def test_two_agents_with_nurseries_never_run_beside_each_other_with_one_slot(
    seed: int, slots: int, autojump_clock: Any
) -> None:
    from random import Random

    random = Random(seed)
    inside: dict[int, int] = {}
    peak = 0

    async def work(ctx: AgentContext, kind: int, depth: int) -> None:
        nonlocal peak
        for _ in range(3):
            inside[ctx.id] = inside.get(ctx.id, 0) + 1
            peak = max(peak, sum(1 for count in inside.values() if count))
            await trio.sleep(random.choice([0, 0.1, 1]))
            inside[ctx.id] -= 1
            if depth < 2 and kind % 3 == 0:
                await (await ctx.spawn(agent, depth + 1)).wait()
            elif kind % 3 == 1:
                with trio.move_on_after(random.choice([0, 0.3])):
                    await ctx.receive()
            else:
                await ctx.map(sleeper_counted, [0.1])

    async def sleeper_counted(ctx: AgentContext, seconds: float) -> None:
        nonlocal peak
        inside[ctx.id] = 1
        peak = max(peak, sum(1 for count in inside.values() if count))
        await trio.sleep(seconds)
        inside[ctx.id] = 0

    async def agent(ctx: AgentContext, depth: int) -> None:
        async with ctx.open_nursery() as nursery:
            for _ in range(random.randint(1, 3)):
                nursery.start_soon(work, ctx, random.randint(0, 5), depth)
            if random.random() < 0.5:
                await work(ctx, random.randint(0, 5), depth)

    async with pool_of(slots) as pool:
        for _ in range(2):
            await pool.spawn(agent, 0)
        await pool.join_all()
    assert peak == slots


async def test_a_failing_task_cancels_its_siblings_and_fails_the_agent(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        async def bad() -> None:
            await trio.sleep(1)
            raise ValueError

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(bad)
            nursery.start_soon(ctx.receive)
            await ctx.receive()

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ExceptionGroup)
    assert [type(error) for error in outcome.error.exceptions] == [ValueError]


async def test_after_a_failed_nursery_the_agent_lends_its_slot_as_before(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> str:
        async def bad() -> None:
            raise ValueError

        with pytest.RaisesGroup(ValueError):
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(bad)
                nursery.start_soon(ctx.receive)
        return str((await ctx.receive()).content)

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().running == 0
        pool.send_nowait(handle.id, "x")
        assert await handle.result() == "x"


@pytest.mark.parametrize("who", ["block", "task"])
async def test_siblings_that_clean_up_in_pool_operations_lend_the_slot(who: str, autojump_clock: Any) -> None:
    async def child(ctx: AgentContext) -> int:
        await ctx.receive()
        return 1

    async def agent(ctx: AgentContext) -> None:
        handle = await ctx.spawn(child)
        await trio.sleep(0)

        async def clean() -> None:
            with trio.CancelScope(shield=True):
                await handle.wait()

        async def bad() -> None:
            await trio.sleep(1)
            ctx.send_nowait(handle.id, "go")
            raise ValueError

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(clean)
            if who == "task":
                nursery.start_soon(bad)
            else:
                await bad()

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent)).wait()
        assert isinstance(outcome, Failed)
        assert trio.current_time() < 5


async def test_cancelling_the_nursery_ends_its_tasks_and_the_block_goes_on(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> str:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(ctx.receive)
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep(1)
            assert len(nursery.child_tasks) == 2
            nursery.cancel_scope.cancel()
        return str((await ctx.receive()).content)

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.sleep(2)
        pool.send_nowait(handle.id, "x")
        assert await handle.result() == "x"


# -- start ---------------------------------------------------------------------------------------------


async def test_a_task_that_is_started_may_wait_before_it_says_so(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> Any:
        async def task(*, task_status: Any) -> None:
            task_status.started(await (await ctx.spawn(value, 3)).result())

        async with ctx.open_nursery() as nursery:
            return await nursery.start(task)

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent)).result() == 3


async def test_a_task_goes_on_after_it_has_started() -> None:
    async def agent(ctx: AgentContext) -> Any:
        got = []

        async def task(what: int, *, task_status: Any) -> None:
            task_status.started(what)
            got.append((await ctx.receive()).content)

        async with ctx.open_nursery() as nursery:
            assert await nursery.start(task, 7, name="it") == 7
        return got

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().running == 0
        pool.send_nowait(handle.id, "x")
        assert await handle.result() == ["x"]


@pytest.mark.parametrize("how", ["fails", "closed"])
async def test_a_start_that_fails_leaves_nothing_behind(how: str, autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> list[Any]:
        async def bad(*, task_status: Any) -> None:
            raise ValueError("not started")

        async with ctx.open_nursery() as nursery:
            if how == "fails":
                with pytest.raises(ValueError, match="not started"):
                    await nursery.start(bad)
        if how == "closed":
            with pytest.raises(RuntimeError):
                await nursery.start(bad)
            with pytest.raises(RuntimeError):
                nursery.start_soon(trio.sleep, 0)
        return [message.content async for message in ctx.inbox]

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().running == 0
    assert isinstance(handle.outcome, Completed)


async def test_a_start_that_is_cancelled_leaves_nothing_behind(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> list[Any]:
        async def slow(*, task_status: Any) -> None:
            await ctx.receive()

        async with ctx.open_nursery() as nursery:
            with trio.move_on_after(1) as scope:
                await nursery.start(slow)
            assert scope.cancelled_caught
        return [message.content async for message in ctx.inbox]

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.sleep(2)
        assert pool.statistics().running == 0
        pool.send_nowait(handle.id, "x")
    assert isinstance(handle.outcome, Completed)
    assert handle.outcome.value == ["x"]


async def test_a_task_that_somebody_else_starts_is_the_agents(autojump_clock: Any) -> None:
    box: list[Any] = []

    async def agent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            box.extend([ctx, nursery])
            await trio.sleep(2)

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.sleep(1)
        box[1].start_soon(box[0].receive)
        await trio.sleep(0.5)
        pool.send_nowait(handle.id, 1)
        assert isinstance(await handle.wait(), Completed)


async def test_a_task_started_while_the_agent_is_at_rest_waits_for_the_slot(autojump_clock: Any) -> None:
    box: list[Any] = []
    running = Running()

    async def agent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            box.append(nursery)
            await ctx.receive()

    async def busy(ctx: AgentContext) -> None:
        with running:
            await trio.sleep(10)

    async def task() -> None:
        with running:
            await trio.sleep(1)

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(busy)
        await trio.sleep(1)
        box[0].start_soon(task)
        box[0].start_soon(task)
        await trio.sleep(1)
        assert running.now == 1
        pool.send_nowait(handle.id, "end")
        await handle.wait()
        assert trio.current_time() == 11


async def test_a_task_that_somebody_else_starts_has_the_slot_that_nobody_wanted(autojump_clock: Any) -> None:
    box: list[Any] = []

    async def agent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            box.append(nursery)
            await ctx.receive()

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().running == 0
        box[0].start_soon(trio.sleep, 5)
        await trio.sleep(1)
        assert pool.statistics().running == 1
        with pytest.raises(PoolFullError):
            pool.spawn_nowait(value)
        pool.send_nowait(handle.id, "end")
        assert isinstance(await handle.wait(), Completed)
        assert trio.current_time() == 5


async def test_a_block_that_has_ended_waits_for_a_start_that_fails(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> list[Any]:
        async def bad(*, task_status: Any) -> None:
            await trio.sleep(1)
            raise ValueError("not started")

        async def starting(nursery: Any) -> None:
            with pytest.raises(ValueError, match="not started"):
                await nursery.start(bad)

        async with ctx.open_nursery() as outer:
            async with ctx.open_nursery() as inner:
                outer.start_soon(starting, inner)
                await trio.sleep(0.5)
            assert trio.current_time() == 1
        return [message.content async for message in ctx.inbox]

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.sleep(2)
        assert pool.statistics().running == 0
        pool.send_nowait(handle.id, "x")
    assert isinstance(handle.outcome, Completed)
    assert handle.outcome.value == ["x"]


async def test_a_waiting_task_of_a_nursery_that_is_cancelled_before_its_slot_came(
    autojump_clock: Any,
) -> None:
    box: list[Any] = []
    ran = []

    async def agent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            box.append(nursery)
            await ctx.receive()

    async def task() -> None:
        ran.append("first step")
        await trio.sleep(0)
        raise AssertionError("it was cancelled")

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(sleeper, 10)
        box[0].start_soon(task)
        await trio.sleep(1)
        box[0].cancel_scope.cancel()
        assert isinstance(await handle.wait(), Completed)
    assert ran == ["first step"]


async def test_nurseries_nest(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> int:
        count = 0

        async def leaf() -> None:
            nonlocal count
            await (await ctx.spawn(value)).wait()
            count += 1

        async def branch() -> None:
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(leaf)
                nursery.start_soon(leaf)

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(branch)
            await branch()
        return count

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent)).result() == 4


async def test_abort_ends_all_tasks_without_a_slot(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(ctx.receive)
            nursery.start_soon(ctx.ask, 1, "x")
            await ctx.receive()

    async def silent(ctx: AgentContext) -> None:
        await ctx.receive()
        await trio.sleep(50)

    async with pool_of(1) as pool:
        await pool.spawn(silent)
        handle = await pool.spawn(agent)
        await trio.sleep(1)
        assert pool.statistics().running == 1
        handle.abort("enough")
        outcome = await handle.wait()
        assert trio.current_time() == 1
        assert outcome.reason == "enough"  # type: ignore[union-attr]


async def test_an_agent_with_several_tasks_is_at_rest_when_all_of_them_are(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> list[Any]:
        got = []

        async def receive() -> None:
            async for message in ctx.inbox:
                got.append(message.content)

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(receive)
            nursery.start_soon(receive)
        return got

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        pool.send_nowait(handle.id, 1)
        pool.send_nowait(handle.id, 2)
    assert isinstance(handle.outcome, Completed)
    assert sorted(handle.outcome.value) == [1, 2]


async def test_the_end_of_a_task_that_leaves_only_hopeless_waits_is_a_deadlock(autojump_clock: Any) -> None:
    async def child(ctx: AgentContext) -> None:
        await ctx.ask(ctx.parent_id, "?")

    async def agent(ctx: AgentContext) -> None:
        handle = await ctx.spawn(child)
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)
            await handle.result()

    async with pool_of(2) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    assert trio.current_time() == 5
    assert isinstance(outcome, Failed)


async def test_a_cycle_through_one_task_is_none_while_another_task_works(autojump_clock: Any) -> None:
    async def child(ctx: AgentContext) -> Any:
        return await ctx.ask(ctx.parent_id, "?")

    async def agent(ctx: AgentContext) -> Any:
        handle = await ctx.spawn(child)

        async def answer() -> None:
            message = await ctx.receive()
            await trio.sleep(1)
            ctx.reply(message, "!")

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(answer)
            return await handle.result()

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent)).result() == "!"


async def test_a_task_that_waits_for_its_own_agent_is_deadlocked_when_nothing_else_runs() -> None:
    handles: list[Any] = []

    async def agent(ctx: AgentContext) -> Any:
        async def wait() -> None:
            await handles[0].wait()

        with pytest.RaisesGroup(DeadlockError):
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(wait)
        return "told"

    async with pool_of(1) as pool:
        handles.append(pool.spawn_nowait(agent))
        assert await handles[0].result() == "told"


async def test_the_nursery_behaves_as_trios_when_the_block_raises() -> None:
    async def agent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(ctx.receive)
            raise KeyError("mine")

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ExceptionGroup)
    assert isinstance(outcome.error.exceptions[0], KeyError)


async def test_as_completed_of_an_agent_pulls_its_input_in_a_known_task(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> Any:
        found = []
        async with ctx.as_completed(value, (message.content for message in [])) as done:
            assert [outcome async for outcome in done] == []

        async def contents() -> Any:
            async for message in ctx.inbox:
                yield message.content

        async with ctx.as_completed(value, contents()) as done:
            async for outcome in done:
                found.append(outcome.unwrap())
        return found

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        for i in range(3):
            pool.send_nowait(handle.id, i)
    assert isinstance(handle.outcome, Completed)
    assert handle.outcome.value == [0, 1, 2]


async def test_a_collector_beside_a_sender_in_one_agent(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext, to: int) -> None:
        async with ctx.open_nursery() as nursery:
            for i in range(10):
                nursery.start_soon(ctx.send, to, i)

    async with pool_of(1, inbox_capacity=1) as pool:
        sink = await pool.spawn(collector)
        await pool.spawn(agent, sink.id)
    assert sink.outcome is not None
    assert sorted(sink.outcome.unwrap()) == list(range(10))
