"""Small programs of every kind, each of which is cancelled at every step it takes."""

from __future__ import annotations

import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from agentpool import (
    AgentManifest,
    AgentPool,
    AgentPoolError,
    Budget,
    ChildSpec,
    Completion,
    RestartPolicy,
    ScriptedDriver,
    SpawnConfig,
    Supervisor,
    TokenUsage,
    ToolCall,
    ToolRegistry,
    open_agent_pool,
    tool,
)
from agentpool.testing._cancel import CancelSweepError, cancel_everywhere
from agentpool.testing._simulate import SimulationContext

Scenario = Callable[[SimulationContext], Awaitable[None]]


@asynccontextmanager
async def _pool(sim: SimulationContext, max_concurrent: int = 2, **options: Any) -> AsyncIterator[AgentPool]:
    async with open_agent_pool(max_concurrent=max_concurrent, **options) as pool:
        with sim.body():
            yield pool


async def _worker(ctx: Any, steps: int = 2) -> int:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    await trio.sleep(0.1)
    return int(ctx.id)


async def _failing(ctx: Any) -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("planned")


async def _server(ctx: Any) -> int:
    count = 0
    async for message in ctx.inbox:
        count += 1
        if message.content == "question":
            ctx.reply(message, "answer")
    return count


async def joins(sim: SimulationContext) -> None:
    """Spawn more than fit, take some outcomes one by one and the rest together."""
    async with _pool(sim) as pool:
        for _ in range(4):
            await pool.spawn(_worker)
        await pool.join_next()
        await pool.join_all()


async def failures(sim: SimulationContext) -> None:
    """Failures that are looked at, and others that are not."""
    async with _pool(sim) as pool:
        seen = await pool.spawn(_failing)
        await pool.spawn(_failing)
        await pool.spawn(_worker)
        await seen.wait()


async def tree(sim: SimulationContext) -> None:
    """Parents that wait for children with one slot."""

    async def parent(ctx: Any, depth: int) -> int:
        if depth == 0:
            return await _worker(ctx)
        children = [await ctx.spawn(parent, depth - 1) for _ in range(2)]
        return sum([await child.result() for child in children])

    async with _pool(sim, 1) as pool:
        root = await pool.spawn(parent, 2)
        await root.wait()


async def conversation(sim: SimulationContext) -> None:
    """Two agents that ask a server, and one that fills an inbox."""

    async def asker(ctx: Any, server: int) -> None:
        for _ in range(2):
            await ctx.ask(server, "question")

    async def teller(ctx: Any, server: int) -> None:
        for number in range(4):
            await ctx.send(server, number)

    async with _pool(sim, 1, inbox_capacity=1) as pool:
        server = await pool.spawn(_server)
        for agent in (asker, teller, asker):
            await pool.spawn(agent, server.id)


async def deadlock(sim: SimulationContext) -> None:
    """Agents that ask each other in a ring."""

    async def asker(ctx: Any) -> str:
        other = await ctx.receive()
        try:
            return str(await ctx.ask(other.content, "question"))
        except AgentPoolError:
            return "no answer"

    async with _pool(sim) as pool:
        ring = [await pool.spawn(asker) for _ in range(3)]
        for agent, following in zip(ring, [*ring[1:], ring[0]], strict=True):
            await pool.send(agent.id, following.id)


async def many(sim: SimulationContext) -> None:
    """Map, race, vote and as_completed, one after the other."""

    async def item_worker(ctx: Any, item: int) -> int:
        await trio.sleep(item / 10)
        return item

    async def racer(ctx: Any) -> int:
        return await item_worker(ctx, ctx.id % 3)

    async with _pool(sim) as pool:
        await pool.map(item_worker, [2, 1, 3])
        async with pool.as_completed(item_worker, [1, 2, 3]) as done:
            async for _outcome in done:
                break
        await pool.race(racer, racer)
        await pool.vote(racer, n=3, quorum=2, key=lambda value: value > 0)


async def restarts(sim: SimulationContext) -> None:
    """An agent that fails twice and is asked meanwhile."""
    starts: list[int] = []

    async def moody(ctx: Any) -> None:
        starts.append(ctx.id)
        message = await ctx.receive()
        if len(starts) <= 2:
            raise ValueError("planned")
        ctx.reply(message, "at last")

    async def asker(ctx: Any, server: int) -> None:
        for _ in range(3):
            try:
                await ctx.ask(server, "question")
            except AgentPoolError:
                await trio.lowlevel.checkpoint()

    async with _pool(sim) as pool:
        server = await pool.spawn(
            moody, restart=RestartPolicy("transient", max_restarts=3, within=5, backoff=0.1)
        )
        await pool.spawn(asker, server.id)


async def timeouts(sim: SimulationContext) -> None:
    """Deadlines of agents, of their waits, and of their children."""

    async def patient(ctx: Any) -> None:
        child = await ctx.spawn(_server)
        with trio.move_on_after(0.2):
            await child.wait()
        await trio.sleep(10)

    async with _pool(sim, 1) as pool:
        handles = [await pool.spawn(patient, timeout=0.5), await pool.spawn(_worker, timeout=0.05)]
        for handle in handles:
            await handle.wait()


async def nurseries(sim: SimulationContext) -> None:
    """An agent with several tasks of its own."""

    async def busy(ctx: Any, server: int) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(ctx.ask, server, "question")
            nursery.start_soon(ctx.send, server, "statement")
            child = await ctx.spawn(_worker)
            await child.wait()

    async with _pool(sim, 1) as pool:
        server = await pool.spawn(_server)
        await pool.spawn(busy, server.id)


async def topics(sim: SimulationContext) -> None:
    """Subscribers of a topic, and somebody who tells everybody."""

    async def listener(ctx: Any) -> int:
        ctx.subscribe("news")
        return await _server(ctx)

    async def speaker(ctx: Any) -> None:
        await ctx.publish("news", "first")
        await ctx.broadcast("second")

    async with _pool(sim, 1, inbox_capacity=1) as pool:
        for agent in (listener, listener, speaker):
            await pool.spawn(agent)


async def supervised(sim: SimulationContext) -> None:
    """Children that fail until their supervisor gives up."""
    starts: list[int] = []

    async def moody(ctx: Any) -> None:
        starts.append(ctx.id)
        await trio.sleep(0.1)
        if len(starts) <= 2:
            raise ValueError("planned")

    async with _pool(sim) as pool:
        children = [ChildSpec(moody, mode="transient"), ChildSpec(_server, mode="transient")]
        handle = await pool.spawn(Supervisor(children, strategy="one_for_all", max_restarts=1, within=5))
        await handle.wait()


async def draining(sim: SimulationContext) -> None:
    """A pool that is drained while agents work, wait and queue."""
    async with _pool(sim, 1) as pool:
        await pool.spawn(_server)
        await pool.spawn(_worker)
        await pool.drain(0.05)


@tool(name="ask_child")
async def _ask_child(ctx: Any) -> str:
    """Have a child work."""
    child = await ctx.spawn(_worker)
    return str(await child.result())


@tool(name="think")
async def _think() -> str:
    """Think."""
    await trio.sleep(0.1)
    return "thought"


async def models(sim: SimulationContext) -> None:
    """Agents that ask a model, under a budget, with tools side by side."""
    calls = (ToolCall("1", "ask_child"), ToolCall("2", "think"))
    usage = TokenUsage(10, 10)
    replies = [
        Completion(tool_calls=calls, usage=usage),
        Completion("one", usage=usage),
        Completion("two", usage=usage),
    ]
    registry = ToolRegistry([_ask_child, _think])
    async with _pool(
        sim,
        2,
        driver=ScriptedDriver(replies),
        budget=Budget(tokens=100_000),
        tool_builder=lambda _manifest: registry,
    ) as pool:
        await pool.spawn(SpawnConfig(AgentManifest(name="one"), "query"))
        await pool.spawn(SpawnConfig(AgentManifest(name="two"), "query"))


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        joins,
        failures,
        tree,
        conversation,
        deadlock,
        many,
        restarts,
        timeouts,
        nurseries,
        topics,
        supervised,
        draining,
        models,
    )
}


@attrs.frozen
class SweepReport:
    """What the cancel sweeps came to.

    Attributes:
      runs: of each scenario.
      problems: what was found, as texts.
    """

    runs: dict[str, int]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        each = ", ".join(f"{count:,} {name}" for name, count in self.runs.items())
        return "\n".join(
            [
                f"cancel sweeps: {sum(self.runs.values()):,} runs ({each})",
                f"  {len(self.problems)} violations",
            ]
            + [f"  {problem}" for problem in self.problems]
        )


def run_sweeps(seeds: Sequence[int] = (0,), *, jobs: int = 2) -> SweepReport:
    """Cancel every scenario at every step, under each of the seeds."""
    work = [(name, seed) for name in SCENARIOS for seed in seeds]
    if jobs == 1:
        results = [sweep(*item) for item in work]
    else:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as executor:
            results = list(executor.map(sweep, *zip(*work, strict=True)))
    runs = dict.fromkeys(SCENARIOS, 0)
    for (name, _seed), (count, _problem) in zip(work, results, strict=True):
        runs[name] += count
    return SweepReport(runs, tuple(problem for _count, problem in results if problem))


def sweep(name: str, seed: int) -> tuple[int, str]:
    """Cancel a scenario at every step; return the number of runs, and what was found."""
    try:
        return cancel_everywhere(SCENARIOS[name], seed).runs, ""
    except CancelSweepError as error:
        return error.step, f"{name}, seed {seed}: {error}"
