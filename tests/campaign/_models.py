"""Random pools of agents that ask a model: tools side by side, faults, budgets, children, messages."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import trio

from agentpool import (
    AgentManifest,
    Budget,
    BudgetExceededError,
    Completed,
    Completion,
    CompletionRequest,
    DriverError,
    Failed,
    LoopHaltedError,
    ModelSettings,
    ResourceQuota,
    ScriptedDriver,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    ToolError,
    ToolRegistry,
    UnhandledAgentErrors,
    open_agent_pool,
    tool,
)
from agentpool._core.events import AgentFinished
from agentpool._core.messages import AssistantMessage, ToolMessage
from agentpool.testing._books import problems_in_books
from agentpool.testing._cancel import BLOWS, strike
from agentpool.testing._faults import DRIVER_FAULTS, TOOL_FAULTS, FaultMix
from agentpool.testing._simulate import Simulation, SimulationContext, SimulationHangError, attempt

from ._draw import LEFT_OPEN
from ._trouble import leave_open, leaves

_EXPECTED = (DriverError, BudgetExceededError, LoopHaltedError, ToolError, UnhandledAgentErrors)

_MIX = FaultMix(
    most=4,
    targets={"driver": DRIVER_FAULTS, "ponder": TOOL_FAULTS, "clock": FaultMix().targets["clock"]},
    calls=12,
)


@attrs.frozen
class Fleet:
    """A pool of agents that ask a model.

    Attributes:
      agents: how many.
      max_concurrent: of the pool.
      tokens, calls: the pool's budget.
      eager: how likely the model is to call tools.
      tools: the names that it calls.
      lands: whether an agent gives its answer at a limit.
      idle: for how many seconds an agent may go without a sign of life.
    """

    agents: int
    max_concurrent: int
    tokens: int | None
    calls: int | None
    eager: float
    tools: tuple[str, ...]
    lands: bool
    idle: float | None


def draw_fleet(seed: int, *, untidy: bool = False) -> Fleet:
    """Return the fleet of a seed: always the same one; `untidy` gives it a tool that leaves things open."""
    rng = random.Random(f"agentpool fleet {seed}")
    return Fleet(
        agents=rng.randint(1, 5),
        max_concurrent=rng.choice([1, 2, 4]),
        tokens=rng.choice([None, None, 9000, 30_000]),
        calls=rng.choice([None, None, 6, 20]),
        eager=rng.choice([0.3, 0.6, 0.8]),
        tools=(*_TOOL_NAMES, "leave", "leave") if untidy else _TOOL_NAMES,
        lands=rng.random() < 0.5,
        idle=rng.choice([None, None, 1.0, 30.0]),
    )


def run_fleet(seed: int, *, untidy: bool = False) -> tuple[list[str], Simulation[Any]]:
    """Run the fleet of a seed, with faults and a blow from outside, and return what was wrong."""
    fleet = draw_fleet(seed, untidy=untidy)
    rng = random.Random(f"agentpool blow {seed}")
    step, kind, is_struck = rng.randint(1, 300), rng.choice(BLOWS), rng.random() < 0.5

    async def main(sim: SimulationContext) -> None:
        await _run(fleet, sim)

    def on_step(now: int, context: SimulationContext) -> None:
        if is_struck and now == step:
            strike(kind, context, rng)

    run = attempt(main, seed, plan=_MIX.draw(seed), max_seconds=10_000, max_steps=60_000, on_step=on_step)
    return list(_problems(run)), run


async def _run(fleet: Fleet, sim: SimulationContext) -> None:
    manifest = AgentManifest(
        name="model",
        model=ModelSettings(max_tokens=1000),
        resources=ResourceQuota(
            max_iterations=6,
            max_tool_calls=12,
            idle=fleet.idle,
            on_limit="answer" if fleet.lands else "fail",
        ),
    )

    def answer(request: CompletionRequest) -> Completion:
        usage = TokenUsage(input_tokens=10, output_tokens=sim.random.randint(1, 50))
        if sim.random.random() > fleet.eager:
            return Completion("done", usage=usage)
        names = [sim.random.choice(fleet.tools) for _ in range(sim.random.randint(1, 3))]
        calls = [ToolCall(f"{sim.random.getrandbits(40):x}", name, {"number": 1}) for name in names]
        return Completion(tool_calls=calls, usage=usage)

    def endless() -> Iterator[Any]:
        while True:
            yield answer

    driver = sim.driver(ScriptedDriver(endless()))
    ponder = sim.tool(_ponder, "ponder")
    registry = ToolRegistry([ponder, _count, _break, _tell, _delegate, _leave])
    budget = Budget(tokens=fleet.tokens, calls=fleet.calls)
    async with open_agent_pool(
        driver, max_concurrent=fleet.max_concurrent, budget=budget, tool_builder=lambda _manifest: registry
    ) as pool:
        for number in range(fleet.agents):
            await pool.spawn(SpawnConfig(manifest, f"query {number}"))


@tool(name="ponder")
async def _ponder(number: int) -> str:
    """Think for a while."""
    await trio.sleep(number)
    return "thought"


@tool(name="count")
def _count(number: int) -> str:
    """Count, in a thread."""
    return str(sum(range(number)))


@tool(name="break")
async def _break(number: int) -> str:
    """Go wrong."""
    await trio.lowlevel.checkpoint()
    raise ToolError("broken")


@tool(name="tell")
async def _tell(ctx: Any, number: int) -> str:
    """Tell another agent."""
    try:
        await ctx.send(max(1, ctx.id - 1), "hello")
    except Exception as error:
        raise ToolError(str(error)) from error
    return "told"


@tool(name="delegate")
async def _delegate(ctx: Any, number: int) -> str:
    """Have a child do it."""
    handle = await ctx.spawn(_child)
    return str(await handle.result())


@tool(name="leave")
async def _leave(ctx: Any, number: int) -> str:
    """Leave something open."""
    _kept.append(await leave_open(LEFT_OPEN[ctx.id % len(LEFT_OPEN)]))
    return "left"


# Keeps from the collector what the tools of the run left open.
_kept: deque[Any] = deque(maxlen=1000)


async def _child(ctx: Any) -> str:
    await trio.sleep(0.5)
    return "child"


_TOOL_NAMES = ("ponder", "count", "break", "tell", "delegate", "unknown")


def _problems(run: Simulation[Any]) -> Iterator[str]:
    if isinstance(run.error, SimulationHangError):
        yield f"hang: {run.error}"
        return
    if run.error is not None:
        odd = [leaf for leaf in leaves(run.error) if not isinstance(leaf, _EXPECTED)]
        if odd:
            yield f"the pool ended with {odd}"
    yield from run.left_behind
    for event in run.log.of(AgentFinished):
        yield from _incomplete(event.agent_id, _transcript(event.outcome))
    for pool in run.pools:
        yield from problems_in_books(pool)
        yield from _overspent(pool)


def _transcript(outcome: Any) -> Sequence[Any]:
    if isinstance(outcome, Completed):
        return getattr(outcome.value, "transcript", ())
    if isinstance(outcome, Failed):
        return getattr(outcome.error, "transcript", ())
    return ()


def _incomplete(agent_id: int, transcript: Sequence[Any]) -> Iterator[str]:
    """Every tool call has exactly one result, after it."""
    asked: Counter[str] = Counter()
    for message in transcript:
        if isinstance(message, AssistantMessage):
            if any(asked.values()):
                yield f"agent {agent_id}: the model went on before {+asked} had a result"
            asked.update(call.id for call in message.tool_calls)
        elif isinstance(message, ToolMessage):
            asked[message.call_id] -= 1
            if message.name == "leave" and not message.result.is_error:
                yield f"agent {agent_id}: the call {message.call_id} left something open, and is no error"
            if asked[message.call_id] < 0:
                yield f"agent {agent_id}: the call {message.call_id} has a result too many"
    if any(count > 0 for count in asked.values()):
        yield f"agent {agent_id}: its transcript ends with calls that have no result: {+asked}"


def _overspent(pool: Any) -> Iterator[str]:
    statistics = pool._state.means.budget.statistics()
    for name in ("tokens", "calls"):
        limit, spent = getattr(statistics.limit, name), getattr(statistics.spent, name)
        if limit is not None and spent > limit:
            yield f"{spent} {name} were spent of a budget of {limit}"
