"""Random teams of models behind hooks, which start, ask, stop and hand over to each other, and are cut off.

What the models and the hooks do is decided by nothing but what they are given, so that a run that is resumed
goes on as it would have gone on. But who is first may be another one after a crash: the runs are untidy.

    cd tests; python -m crashes._teams 0 300        the first program, and how many
"""

from __future__ import annotations

import random
from typing import Any

import attrs
import trio
from campaign.teams import KNOWN, draw_team, drawn_input

from agentpool import (
    AssistantMessage,
    Budget,
    Completion,
    CompletionRequest,
    Driver,
    Hooks,
    PoolLimits,
    TokenUsage,
    ToolCall,
    ToolError,
    ToolResult,
    UserMessage,
    open_agent_pool,
    resume_agent_pool,
)
from agentpool.abc import AskModel, CallTool, Journal

from ._oracle import Main
from ._runs import UNTIDY_SECONDS, Report, cut_off
from ._world import plain, world

USED = 60
BUDGET = 10_000_000


@attrs.define(eq=False)
class Model(Driver):
    """Calls what tools it is shown, as decided by its conversation."""

    seed: int
    context_window = 200_000

    async def complete(self, request: CompletionRequest) -> Completion:
        rng = random.Random(f"{self.seed} {request.system} {[str(m) for m in request.messages]}")
        await trio.sleep(rng.choice([0, 0.01, 1]))
        turn = sum(isinstance(message, AssistantMessage) for message in request.messages)
        query = next(str(m.content) for m in request.messages if isinstance(m, UserMessage))
        world().do(f"model {USED} {query} {turn}")
        usage = TokenUsage(USED - 10, 10)
        shown = {tool.name: tool for tool in request.tools if tool.name in KNOWN}
        if not shown or rng.random() < 0.2:
            return Completion(f"done {turn}", usage=usage)
        text = str(request.messages[-6:])
        calls = []
        for number in range(rng.randint(1, 2)):
            name = rng.choices(list(shown), [KNOWN[each] for each in shown])[0]
            given = drawn_input(rng, name, shown[name], text)
            if "query" in given:
                given["query"] = f"{query}/{turn}.{number}"
            calls.append(ToolCall(f"{rng.getrandbits(48):x}", name, given))
        return Completion(tool_calls=calls, usage=usage)


@attrs.frozen
class Decided(Hooks):
    """Changes, refuses and repeats calls, and starts agents, as decided by the call."""

    seed: int
    share: float

    def _drawn(self, ctx: Any, when: str, what: str) -> random.Random | None:
        rng = random.Random(f"{self.seed} {ctx.name} {when} {what}")
        return rng if rng.random() < self.share else None

    async def around_model_call(self, ctx: Any, request: CompletionRequest, call: AskModel) -> Completion:
        rng = self._drawn(ctx, "model", str(request.messages[-1]))
        if rng is None:
            return await call(request)
        match rng.randrange(3):
            case 0:
                await call(request)
            case 1:
                handle = await ctx.spawn(helper)
                await handle.wait()
            case _:
                await ctx.spawn(helper)
        return await call(request)

    async def before_tool_call(self, ctx: Any, call: ToolCall) -> ToolCall | ToolResult:
        rng = self._drawn(ctx, "before", call.id)
        await trio.lowlevel.checkpoint()
        if rng is None:
            return call
        match rng.randrange(4):
            case 0:
                return ToolResult("no", is_error=True)
            case 1:
                raise ToolError("refused")
            case 2:
                name = rng.choice([each for each in KNOWN if "query" not in call.input])
                given = drawn_input(rng, name)
                return attrs.evolve(call, name=name, input=_named(given, given.get("query", "") + call.id))
            case _:
                await ctx.spawn(helper)
                return call

    async def around_tool_call(self, ctx: Any, call: ToolCall, proceed: CallTool) -> ToolResult:
        rng = self._drawn(ctx, "around", call.id)
        if rng is None:
            return await proceed(call)
        match rng.randrange(3):
            case 0:
                await proceed(call)
                return await proceed(_again(call))
            case 1:
                result = await proceed(call)
                return attrs.evolve(result, is_error=not result.is_error)
            case _:
                await ctx.send(1, "from a hook")
                return await proceed(call)


def _named(given: dict[str, Any], query: str) -> dict[str, Any]:
    """Return arguments with a query of its own: by that the agent is known."""
    return {**given, "query": query} if "query" in given else given


def _again(call: ToolCall) -> ToolCall:
    return attrs.evolve(call, input=_named(dict(call.input), f"{call.input.get('query')}'"))


async def helper(ctx: Any) -> str:
    await trio.sleep(0.5)
    return "helped"


def program_of_team(seed: int) -> Main:
    """Return the program of a seed: one agent, with all that it starts."""
    rng = random.Random(f"agentpool team that is cut off {seed}")
    team = draw_team(rng, None)
    hooks = [Decided(seed, 0.15)] if rng.random() < 0.7 else []
    slots = rng.choice([1, 2, 3])
    limits = PoolLimits(model_spawns=rng.choice([3, 8]))

    async def main(journal: Journal, is_resumed: bool) -> Any:
        budget = Budget(tokens=BUDGET)
        opened = (
            resume_agent_pool(journal, Model(seed), budget=budget, hooks=hooks, limits=limits)
            if is_resumed
            else open_agent_pool(
                Model(seed), max_concurrent=slots, journal=journal, budget=budget, hooks=hooks, limits=limits
            )
        )
        async with opened as pool:
            before = budget.spent.tokens
            handle = (
                pool.resumed[0]
                if pool.resumed
                else await pool.spawn(team, f"go {seed}", name="first", timeout=UNTIDY_SECONDS)
            )
            outcome = await handle.wait()
            world().do(f"pledge program|end {type(outcome).__name__}")
            return plain(type(outcome).__name__), before, budget.spent.tokens

    return main


def run_teams(first: int, runs: int, *, times: int = 3) -> Report:
    """Run the teams of some seeds, each cut off several times."""
    report = Report()
    for seed in range(first, first + runs):
        cut_off(program_of_team(seed), seed, report, tidy=False, times=times, label=f"team {seed}")
    return report


if __name__ == "__main__":
    import sys

    print(run_teams(int(sys.argv[1]), int(sys.argv[2])))
