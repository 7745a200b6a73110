"""What the campaign found in the pool, each as the smallest program that showed it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio

from agentpool import (
    Aborted,
    AgentTimeoutError,
    Completed,
    DeadlockError,
    Failed,
    RestartPolicy,
    open_agent_pool,
)
from agentpool.testing import explore


async def asks_its_parent(ctx: Any) -> str:
    try:
        return str(await ctx.ask(ctx.parent_id, "question"))
    except DeadlockError:
        return "deadlock"


def test_an_end_that_closes_two_cycles_breaks_both() -> None:
    """Profile waits, seed 12: the second child waited for ever."""

    async def parent(ctx: Any) -> None:
        for _ in range(2):
            await ctx.spawn(asks_its_parent)

    async def main() -> None:
        async with open_agent_pool(max_concurrent=16) as pool:
            await pool.spawn(parent)

    explore(main, 30, max_seconds=100)


def test_unknown_tasks_that_have_ended_do_not_keep_a_server_from_its_end() -> None:
    """Profile full, seed 156: the inbox of an agent never ended, because its unknown task had."""

    async def server(ctx: Any) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
            try:
                await ctx.receive()
            except trio.EndOfChannel:
                return "ended"
        raise AssertionError

    async def main() -> None:
        async with open_agent_pool(max_concurrent=2) as pool:
            handle = await pool.spawn(server)
            await trio.sleep(1)
        assert isinstance(handle.outcome, Completed)

    explore(main, 30, max_seconds=100)


def test_an_agent_that_starts_in_the_task_of_another_can_be_aborted() -> None:
    """Profile hasty, seed 98: the abort was lost, and the agent ran to its own end."""

    async def quick(ctx: Any) -> None:
        await trio.lowlevel.checkpoint()

    async def slow(ctx: Any) -> None:
        await trio.sleep(50)

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1) as pool:
            await pool.spawn(quick)
            handle = await pool.spawn(slow)
            handle.abort("enough")
            outcome = await handle.wait()
            assert isinstance(outcome, Aborted)
            assert trio.current_time() == 0

    explore(main, 30, max_seconds=100)


def test_a_timeout_ends_an_agent_that_waits_for_the_slot_of_its_restart() -> None:
    """Profile phoenix, seed 707: it ended when it got the slot, long after its time."""

    async def fails(ctx: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError

    async def holds_the_slot(ctx: Any) -> None:
        await trio.sleep(20)

    async def main() -> None:
        policy = RestartPolicy("transient", max_restarts=100, within=1000, backoff=0.1)
        async with open_agent_pool(max_concurrent=1) as pool:
            handle = await pool.spawn(fails, timeout=1.0, restart=policy)
            await pool.spawn(holds_the_slot)
            outcome = await handle.wait()
            assert isinstance(outcome, Failed)
            assert isinstance(outcome.error, AgentTimeoutError)
            assert trio.current_time() <= 1.0 + 1e-6

    explore(main, 30, max_seconds=100)


def test_a_join_whose_last_hopeful_child_ends_is_judged_again() -> None:
    """Profile rare, seed 300977: the end of a child left only hopeless ones, and nobody looked."""

    async def quick(ctx: Any) -> None:
        await trio.sleep(5)

    async def parent(ctx: Any, box: list[Any]) -> None:
        box.append(await ctx.spawn(quick))
        await ctx.spawn(asks_its_parent)
        try:
            await ctx.join_next()
        except DeadlockError:
            pass

    async def takes_the_outcome(ctx: Any, box: list[Any]) -> None:
        await trio.sleep(1)
        await box[0].wait()

    async def main() -> None:
        box: list[Any] = []
        async with open_agent_pool(max_concurrent=16) as pool:
            await pool.spawn(parent, box)
            await pool.spawn(takes_the_outcome, box)

    explore(main, 30, max_seconds=100)


def test_a_join_beside_a_map_is_judged_again_when_a_child_ends() -> None:
    """Profile rare, seed 303065."""

    async def grandchild(ctx: Any, root: int) -> None:
        await trio.sleep(2)
        try:
            await ctx.ask(root, "question")
        except DeadlockError:
            pass

    async def child(ctx: Any, is_quick: bool) -> None:
        if is_quick:
            await trio.sleep(5)
        else:
            await ctx.map(grandchild, [ctx.parent_id])

    async def root(ctx: Any) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(ctx.join_next)
            await ctx.map(child, [True, False])

    async def main() -> None:
        async with open_agent_pool(max_concurrent=16) as pool:
            handle = await pool.spawn(root)
            await handle.wait()

    explore(main, 30, max_seconds=100)


async def _with_a_task(items: int) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 50)
        for item in range(items):
            yield item


def test_an_input_whose_nursery_has_tasks_may_be_left_early() -> None:
    """Profile inputs, seed 16: `GeneratorExit` and `Cancelled` in a group ended the pool as fatal."""

    async def agent(ctx: Any, item: int) -> int:
        await trio.sleep(1)
        return item

    async def main() -> None:
        async with open_agent_pool(max_concurrent=2) as pool:
            async with pool.as_completed(agent, _with_a_task(5)) as done:
                async for _outcome in done:
                    break
            with trio.move_on_after(0.5) as scope:
                await pool.map(agent, _with_a_task(5))
            assert scope.cancelled_caught
            assert len(await pool.map(agent, _with_a_task(2))) == 2

    explore(main, 30, max_seconds=100)
