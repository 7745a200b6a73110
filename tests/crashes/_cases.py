"""Small programs that showed something once, each of which comes to one result only."""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from agentpool import AgentContext, ModelAgent

from . import _town
from ._oracle import Main
from ._world import world


async def prompt(ctx: AgentContext) -> str:
    await trio.sleep(ctx.id)
    return "done"


async def voter(ctx: AgentContext) -> Any:
    return (await ctx.vote(prompt, n=3, quorum=2)).winner


async def too_long(ctx: AgentContext) -> None:
    await trio.sleep(1000)


async def late_riser(ctx: AgentContext) -> str:
    """Spawns somebody whose time is over before it does so again."""
    await trio.sleep(5)
    handle = await ctx.spawn(too_long, timeout=1)
    return type((await handle.wait()).error).__name__  # type: ignore[union-attr]


async def late_mapper(ctx: AgentContext) -> list[str]:
    await trio.sleep(5)
    found = []
    async with ctx.as_completed(slow_with_limit, range(2)) as done:
        async for outcome in done:
            found.append(outcome.unwrap())
    return sorted(found)


async def slow_with_limit(ctx: AgentContext, number: int) -> str:
    return await late_riser(ctx)


async def raced(ctx: AgentContext) -> Any:
    """A race's loser is nobody's whom a join hands out."""
    winner = (await ctx.race(_town.quick, _town.slow)).unwrap()
    return [winner, list(await ctx.join_all())]


async def sweeper(ctx: AgentContext) -> str:
    """Aborts all there are, and then spawns somebody."""
    ctx.abort_all("nobody is there yet")
    handle = await ctx.spawn(_town.quick)
    return await handle.result()


async def patient(ctx: AgentContext) -> list[Any]:
    """Waits in vain for a message that comes later."""
    handle = await ctx.spawn(slow_talker, name="slow talker")
    seen: list[Any] = []
    with trio.move_on_after(1):
        seen.append((await ctx.receive()).content)
    seen.append(await ctx.step("note", _town.find, "in vain"))
    seen.append((await ctx.receive()).content)
    return [*seen, await handle.result()]


async def slow_talker(ctx: AgentContext) -> str:
    await trio.sleep(10)
    assert ctx.parent_id is not None
    await ctx.send(ctx.parent_id, "late")
    return "told"


async def looker(ctx: AgentContext) -> list[Any]:
    """Looks for somebody who is not there yet."""
    seen: list[Any] = []
    for _ in range(2):
        try:
            seen.append(ctx.find("slow talker") > 0)
        except Exception as error:
            seen.append(type(error).__name__)
        try:
            ctx.send_nowait("slow talker", "hello")
        except Exception as error:
            seen.append(type(error).__name__)
        if len(seen) < 3:
            await ctx.spawn(slow_talker, name="slow talker")
    return [*seen, (await ctx.receive()).content]


async def orderly(ctx: AgentContext) -> list[int]:
    """What it tells the world in one order it does not see in another."""
    async with ctx.as_completed(sleeper, range(4)) as done:
        number = 0
        async for outcome in done:
            drawn = await ctx.step("keep", keep, outcome.unwrap())
            world().do(f"pledge orderly|{number} {drawn}")
            number += 1
    return [number]


async def sleeper(ctx: AgentContext, number: int) -> int:
    await trio.sleep(4 - number)
    return number


async def keep(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number


async def dispatcher(ctx: AgentContext) -> str:
    """A model whose tool has a child do something, and is not made again."""
    result = await ModelAgent(_town.SCHOLAR, tools=_town.TOOLS)(ctx, "send X")
    return result.text


CASES = (
    voter,
    late_riser,
    late_mapper,
    raced,
    sweeper,
    patient,
    looker,
    orderly,
    dispatcher,
)


def program_of_case(case: Any) -> Main:
    """Return a case as a program."""
    return partial(_town.main, root=case)
