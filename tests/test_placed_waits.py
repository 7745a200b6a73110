"""What the head has to know of waits that code in a worker may end by itself; and misuse of verbs there."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio

from agentpool import AgentContext, AgentPool, open_agent_pool, placed
from agentpool._core.events import DeadlockSuspected
from agentpool.testing import InProcessPlacement, simulate

WAYS: dict[str, Any] = {
    "in place": lambda: None,
    "good": InProcessPlacement,
    "lossy": lambda: InProcessPlacement(loss=0.1, delay=0.1),
}


def came_to(program: Any, way: str, cap: int) -> tuple[Any, list[str]]:
    """Run a program; return what it came to, and the names of the events."""

    async def main() -> Any:
        with trio.fail_after(500):
            async with open_agent_pool(max_concurrent=cap, placement=WAYS[way]()) as pool:
                return await program(pool)

    run = simulate(main, seed=1)
    return run.unwrap(), [type(event).__name__ for event in run.log]


# -- deadlines -----------------------------------------------------------------------------------------


async def asks_for_a_while(ctx: AgentContext) -> str:
    to: Any = "well?"
    while to == "well?":  # which nobody answers
        to = (await ctx.receive()).content
    with trio.move_on_after(5):
        await ctx.ask(to, "well?")
    return "late"


async def two_that_ask_each_other(pool: AgentPool) -> Any:
    one, two = [await pool.spawn(placed(asks_for_a_while)) for _ in range(2)]
    await pool.send(one.id, two.id)
    await pool.send(two.id, one.id)
    # The other one may see the end of the one that gave up first.
    return {type(getattr(await each.wait(), "error", None)).__name__ for each in (one, two)}


@pytest.mark.parametrize("cap", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_a_wait_under_a_narrower_deadline_is_only_suspected(way: str, cap: int) -> None:
    found, events = came_to(two_that_ask_each_other, way, cap)
    assert "NoneType" in found
    assert found <= {"NoneType", "UnknownAgentError"}
    assert DeadlockSuspected.__name__ in events


async def receives_for_a_while(ctx: AgentContext) -> str:
    with trio.move_on_after(3):
        await ctx.receive()
    return "late"


async def a_drained_receiver(pool: AgentPool) -> Any:
    handle = await pool.spawn(placed(receives_for_a_while))
    await trio.sleep(1)
    await pool.drain()
    return (await handle.wait()).unwrap()


@pytest.mark.parametrize("cap", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_an_inbox_does_not_end_under_a_narrower_deadline(way: str, cap: int) -> None:
    assert came_to(a_drained_receiver, way, cap)[0] == "late"


async def asks_its_parent(ctx: AgentContext, parent: int) -> None:
    with trio.move_on_after(60):
        await ctx.ask(parent, "well?")


async def waits_for_such_a_child(ctx: AgentContext) -> None:
    await (await ctx.spawn(placed(asks_its_parent), ctx.id)).result()


async def a_wider_deadline(pool: AgentPool) -> Any:
    return await (await pool.spawn(placed(waits_for_such_a_child), timeout=30)).wait()


@pytest.mark.parametrize("way", WAYS)
def test_a_deadline_that_is_wider_than_the_agents_own_does_not_count(way: str) -> None:
    outcome = came_to(a_wider_deadline, way, 1)[0]  # which of the two is told depends on who was first
    assert "DeadlockError" in repr(outcome)


# -- tasks that the pool does not know ---------------------------------------------------------------------


async def asks_beside_a_task(ctx: AgentContext, to: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 20)
        await ctx.ask(to, "well?")


async def waits_for_who_asks_beside_a_task(ctx: AgentContext) -> None:
    await (await ctx.spawn(placed(asks_beside_a_task), ctx.id)).result()


async def an_unknown_task(pool: AgentPool) -> Any:
    return await (await pool.spawn(placed(waits_for_who_asks_beside_a_task))).wait()


@pytest.mark.parametrize("cap", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_a_deadlock_is_told_when_the_last_unknown_task_has_ended(way: str, cap: int) -> None:
    outcome = came_to(an_unknown_task, way, cap)[0]
    assert "DeadlockError" in repr(outcome)
    assert 20 <= outcome.duration < 30


async def receives_beside_a_pool(ctx: AgentContext) -> str:
    async def works(inner: AgentContext) -> None:
        await trio.sleep(3)
        scope.cancel()

    async with open_agent_pool(max_concurrent=2) as pool:
        with trio.CancelScope() as scope:
            await pool.spawn(works)
            await ctx.receive()
    return "cancelled"


async def a_pool_in_a_worker(pool: AgentPool) -> Any:
    handle = await pool.spawn(placed(receives_beside_a_pool))
    await trio.sleep(1)
    await pool.drain()
    return (await handle.wait()).unwrap()


@pytest.mark.parametrize("way", WAYS)
def test_an_inbox_does_not_end_beside_a_pool_of_the_agents_own(way: str) -> None:
    assert came_to(a_pool_in_a_worker, way, 1)[0] == "cancelled"


# -- misuse ------------------------------------------------------------------------------------------------


async def misuses(ctx: AgentContext) -> list[str]:
    message = await ctx.receive()
    calls: list[Any] = [
        lambda: ctx.subscribe(3),  # type: ignore[arg-type]
        lambda: ctx.unsubscribe(3),  # type: ignore[arg-type]
        lambda: ctx.reply("no message", 1),  # type: ignore[arg-type]
        lambda: ctx.reply(attrs.evolve(message, to=99), 1),
    ]
    found = []
    for call in calls:
        try:
            call()
        except Exception as error:
            found.append(repr(error))
    return found


async def one_that_misuses(pool: AgentPool) -> Any:
    handle = await pool.spawn(placed(misuses))
    await pool.send(handle.id, "hello")
    return (await handle.wait()).unwrap()


def test_misuse_is_told_where_it_happens_in_the_same_words() -> None:
    here = came_to(one_that_misuses, "in place", 1)[0]
    assert len(here) == 4
    assert came_to(one_that_misuses, "good", 1)[0] == here
