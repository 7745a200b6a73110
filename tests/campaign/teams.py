"""Random teams: models start, ask, message, wait for, stop and hand over to each other, behind hooks.

A model calls what tools it is shown, at random and often wrongly; hooks around it change, refuse and repeat
calls, and start agents of their own; faults, blows from outside, small budgets and few slots come on top.
Whatever happens, the pool ends, every agent has one outcome, every call one result, and the provider has
billed what was booked; and no agent may do what its parent may not.

    python -m tests.campaign.teams --seeds 20000
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import trio

from agentpool import (
    AgentManifest,
    AgentPoolError,
    Budget,
    Completion,
    CompletionRequest,
    Driver,
    DriverError,
    FileReadCapability,
    Hooks,
    MessagingCapability,
    ModelAgent,
    ModelSettings,
    PoolLimitError,
    PoolLimits,
    PrivacyTier,
    ResourceQuota,
    ShellCapability,
    SpawnCapability,
    TokenUsage,
    ToolCall,
    ToolError,
    ToolResult,
    UnhandledAgentErrors,
    as_tool,
    open_agent_pool,
)
from agentpool._core.capability import Capability, grants, inherited
from agentpool._core.events import AgentFinished, AgentSpawned
from agentpool.abc import AskModel, CallTool
from agentpool.testing._books import problems_in_books
from agentpool.testing._cancel import BLOWS, strike
from agentpool.testing._faults import DRIVER_FAULTS, NO_FAULTS, FaultMix
from agentpool.testing._simulate import Simulation, SimulationContext, SimulationHangError, attempt

from ._models import _incomplete, _overspent, _transcript
from ._trouble import leaves

NAMES = ("lead", "north", "south", "east")


class Trouble(Exception):
    """What a hook raises of its own."""


_EXPECTED = (AgentPoolError, DriverError, UnhandledAgentErrors, Trouble)

_MIX = FaultMix(
    most=3,
    targets={"driver": DRIVER_FAULTS, "clock": FaultMix().targets["clock"]},
    calls=30,
)


@attrs.frozen
class Plan:
    """A pool of teams.

    Attributes:
      leads: how many agents the pool's body spawns.
      max_concurrent, inbox: of the pool.
      tokens, calls: the pool's budget.
      limits: of the pool.
      eager: how likely a model is to call tools.
      hooked: how likely a hook is to do something.
      ending: what the body does in the end.
      has_faults: whether drivers fail and the clock jumps.
      is_struck: whether something is aborted or cancelled from outside.
    """

    leads: int
    max_concurrent: int
    inbox: int
    tokens: int | None
    calls: int | None
    limits: PoolLimits
    eager: float
    hooked: float
    ending: str
    has_faults: bool
    is_struck: bool


def draw_plan(seed: int) -> Plan:
    """Return the plan of a seed: always the same one."""
    rng = random.Random(f"agentpool team {seed}")
    return Plan(
        leads=rng.randint(1, 3),
        max_concurrent=rng.choice([1, 1, 2, 3]),
        inbox=rng.choice([1, 2, 32]),
        tokens=rng.choice([None, None, 40_000, 120_000]),
        calls=rng.choice([None, None, None, 8, 40]),
        limits=PoolLimits(
            depth=rng.choice([2, 16, 16]),
            alive=rng.choice([4, 10, 100]),
            model_spawns=rng.choice([3, 10, 30]),
            tool_calls=rng.choice([3, 100, 100]),
        ),
        eager=rng.choice([0.7, 0.85, 0.95]),
        hooked=rng.choice([0.0, 0.05, 0.2]),
        ending=rng.choice([*["wait"] * 6, "drain", "drain", "drain at once", "abort all", "raise", "narrow"]),
        has_faults=rng.random() < 0.3,
        is_struck=rng.random() < 0.3,
    )


# -- who there is ------------------------------------------------------------------------------------

_GRANTS: tuple[Capability, ...] = (
    SpawnCapability(3),
    SpawnCapability(1, ("north", "south")),
    SpawnCapability(2, ("east", "lead")),
    MessagingCapability(),
    MessagingCapability(),
    FileReadCapability(("/srv/a", "/srv/b")),
    FileReadCapability(("/srv/a/x",)),
    ShellCapability(("ls", "cat")),
    ShellCapability(("*",)),
)


def draw_team(rng: random.Random, hook: Hooks | None) -> ModelAgent[Any]:
    """Return an agent whose team are agents that may spawn, and hand over to, each other."""
    manifests = [_manifest(rng, name) for name in NAMES]
    extra = [as_tool(ModelAgent(_manifest(rng, "adviser", ())), name="advise")] if rng.random() < 0.5 else []
    members = [ModelAgent(each, tools=extra) for each in manifests]
    lead = attrs.evolve(manifests[0], capabilities=(SpawnCapability(3), *manifests[0].capabilities))
    return ModelAgent(lead, agents=members, tools=extra, hooks=[] if hook is None else [hook])


def _manifest(rng: random.Random, name: str, others: Sequence[str] = NAMES[1:]) -> AgentManifest:
    resources = ResourceQuota(
        max_iterations=rng.choice([3, 8, 15]),
        max_tool_calls=rng.choice([6, 40]),
        idle=rng.choice([None, None, None, 15.0]),
        max_tokens_budget=rng.choice([None, None, None, 12_000]),
        on_limit=rng.choice(["answer", "fail"]),
    )
    return AgentManifest(
        name=name,
        model=ModelSettings(max_tokens=100),
        resources=resources,
        capabilities=rng.sample(_GRANTS, rng.randint(1, 6)),
        privacy=rng.choice([PrivacyTier.STANDARD, PrivacyTier.STANDARD, PrivacyTier.SOVEREIGN]),
        handoffs=rng.sample(others, min(len(others), rng.choice([0, 0, 1, 2]))),
    )


# -- the model ---------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Provider(Driver):
    """Calls what tools it is shown, and bills what it did."""

    sim: SimulationContext
    eager: float
    privacy: PrivacyTier = PrivacyTier.SOVEREIGN
    billed: int = 0
    begun: int = 0

    def estimate_cost(self, usage: TokenUsage) -> float:
        return usage.total_tokens * 1e-6

    async def complete(self, request: CompletionRequest) -> Completion:
        rng = self.sim.random
        self.begun += 1
        await trio.sleep(rng.choice([0, 0, 1, 3]))
        usage = TokenUsage(rng.randint(1, 10), rng.randint(1, 50))
        self.billed += usage.total_tokens
        shown = {tool.name: tool for tool in request.tools if tool.name in KNOWN}
        if not shown or rng.random() > self.eager:
            return Completion(rng.choice(["done", "done", "done", "hm", ""]), usage=usage)
        names = [_chosen(rng, shown) for _ in range(rng.randint(1, 3))]
        text = str(request.messages[-6:])
        calls = [
            ToolCall(f"{rng.getrandbits(48):x}", name, drawn_input(rng, name, shown.get(name), text))
            for name in names
        ]
        return Completion(tool_calls=calls, usage=usage)


KNOWN = {
    "spawn_agent": 2,
    "start_agent": 5,
    "message_agent": 2,
    "wait_agents": 4,
    "stop_agent": 1,
    "hand_off": 1,
    "advise": 1,
    "send_message": 2,
    "receive_message": 1,
    "ask_agent": 2,
    "reply_message": 2,
}
"""The tools that models call, each with its weight."""


def _chosen(rng: random.Random, shown: Mapping[str, Any]) -> str:
    if rng.random() < 0.03:
        return "unknown"
    return rng.choices(list(shown), [KNOWN[name] for name in shown])[0]


def drawn_input(rng: random.Random, name: str, tool: Any = None, text: str = "") -> dict[str, Any]:
    """Return arguments of a call: mostly right ones, of what its definition and the messages tell."""
    if rng.random() < 0.05:
        return {"nonsense": 1}
    ids = [int(each) for each in re.findall(r"agent (?:id=\\?\")?(\d+)", text)]
    whom = rng.choice([*ids, *ids, 1, 2, "north", "3", "a b", 99])
    questions = [int(each) for each in re.findall(r"id=\\?\"(\d+)\\?\" reply=", text)]
    known = [] if tool is None else tool.input_schema["properties"].get("agent", {}).get("enum", [])
    agent = rng.choice([*known, *known, *NAMES])
    seconds = rng.choice([None, None, 0, 2, 30])
    match name:
        case "spawn_agent" | "start_agent":
            given = {"agent": agent, "query": "work", "name": rng.choice([None, None, "3", "a b", "twin"])}
        case "message_agent":
            given = {"agent": whom, "content": "hello"}
        case "wait_agents":
            some = rng.choice([None, None, [whom], [whom, 2]])
            given = {"agents": some, "mode": rng.choice(["all", "any"]), "timeout": seconds}
        case "stop_agent":
            given = {"agent": whom, "reason": rng.choice(["", "late"])}
        case "hand_off":
            given = {"agent": agent, "note": "go on"}
        case "advise":
            given = {"query": "what now?"}
        case "send_message":
            given = {"to": whom, "content": "hello"}
        case "receive_message":
            given = {"timeout": seconds}
        case "ask_agent":
            given = {"to": whom, "question": "well?", "timeout": rng.choice([None, None, 5])}
        case "reply_message":
            given = {"message_id": rng.choice([*questions, *questions, 1]), "content": "so"}
        case _:
            given = {}
    return {key: value for key, value in given.items() if value is not None}


# -- hooks -------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Meddler(Hooks):
    """Changes, refuses, repeats and delays calls, and starts agents; and notes what each agent may do."""

    sim: SimulationContext
    share: float
    seen: dict[int, Any] = attrs.field(factory=dict)

    def acts(self) -> bool:
        return self.sim.random.random() < self.share

    async def before_model_call(self, ctx: Any, request: CompletionRequest) -> CompletionRequest | Completion:
        await trio.lowlevel.checkpoint()
        self.seen[ctx.id] = ctx
        if not self.acts():
            return request
        match self.sim.random.randrange(5):
            case 0:
                return Completion("enough", usage=TokenUsage(1000, 1000))
            case 1:
                raise Trouble("refused")
            case 2:
                await trio.sleep(2)
            case 3:
                names = [tool.name for tool in request.tools]
                if names:
                    name = self.sim.random.choice(names)
                    made = ToolCall(
                        f"h{self.sim.random.getrandbits(48):x}", name, drawn_input(self.sim.random, name)
                    )
                    return Completion(tool_calls=[made])
        return attrs.evolve(request, max_tokens=min(request.max_tokens, 90))

    async def around_model_call(self, ctx: Any, request: CompletionRequest, call: AskModel) -> Completion:
        if not self.acts():
            return await call(request)
        match self.sim.random.randrange(4):
            case 0:
                try:
                    return await call(request)
                except Exception:
                    return await call(request)
            case 1:
                await call(request)
                return await call(request)
            case 2:
                with trio.move_on_after(1):
                    return await call(request)
                return Completion("too slow")
            case _:
                handle = await ctx.spawn(_helper)
                await handle.wait()
                return await call(request)

    async def before_tool_call(self, ctx: Any, call: ToolCall) -> ToolCall | ToolResult:
        await trio.lowlevel.checkpoint()
        if not self.acts():
            return call
        match self.sim.random.randrange(5):
            case 0:
                return ToolResult("no", is_error=self.sim.random.random() < 0.5)
            case 1:
                raise ToolError("refused")
            case 2:
                raise Trouble("a hook's own fault")
            case 3:
                name = self.sim.random.choice(
                    ["start_agent", "wait_agents", "hand_off", "stop_agent", "gone"]
                )
                return attrs.evolve(call, name=name, input=drawn_input(self.sim.random, name))
            case _:
                return attrs.evolve(call, input=drawn_input(self.sim.random, call.name))

    async def around_tool_call(self, ctx: Any, call: ToolCall, proceed: CallTool) -> ToolResult:
        if not self.acts():
            return await proceed(call)
        match self.sim.random.randrange(4):
            case 0:
                await proceed(call)
                return await proceed(call)
            case 1:
                with trio.move_on_after(1):
                    return await proceed(call)
                return ToolResult("too slow", is_error=True)
            case 2:
                result = await proceed(call)
                return await proceed(call) if result.is_error else result
            case _:
                await ctx.spawn(_helper)
                return await proceed(call)

    async def after_tool_call(self, ctx: Any, call: ToolCall, result: ToolResult) -> ToolResult:
        await trio.lowlevel.checkpoint()
        if not self.acts():
            return result
        if self.sim.random.random() < 0.3:
            raise Trouble("afterwards")
        return attrs.evolve(result, is_error=not result.is_error)


async def _helper(ctx: Any) -> str:
    await trio.sleep(1)
    return "helped"


# -- a run -------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Books:
    """What is looked at when the run has ended."""

    provider: Provider | None = None
    hooks: Meddler | None = None
    budget: Budget | None = None
    may: list[str] = attrs.field(factory=list)


def run_team(seed: int) -> tuple[list[str], Simulation[Any]]:
    """Run the teams of a seed, and return what was wrong."""
    plan = draw_plan(seed)
    rng = random.Random(f"agentpool blow {seed}")
    step, kind = rng.randint(1, 800), rng.choice(BLOWS)
    books = Books()

    async def main(sim: SimulationContext) -> None:
        await _run(plan, sim, books)

    def on_step(now: int, context: SimulationContext) -> None:
        if plan.is_struck and now == step:
            strike(kind, context, rng)

    faults = _MIX.draw(seed) if plan.has_faults else NO_FAULTS
    run = attempt(main, seed, plan=faults, max_seconds=20_000, max_steps=200_000, on_step=on_step)
    return list(_problems(run, books, plan)), run


async def _run(plan: Plan, sim: SimulationContext, books: Books) -> None:
    books.provider = Provider(sim, plan.eager)
    books.hooks = hooks = Meddler(sim, plan.hooked)
    books.budget = budget = Budget(tokens=plan.tokens, calls=plan.calls)
    async with open_agent_pool(
        sim.driver(books.provider) if plan.has_faults else books.provider,
        max_concurrent=plan.max_concurrent,
        inbox_capacity=plan.inbox,
        budget=budget,
        limits=plan.limits,
        hooks=[hooks],
    ) as pool:
        try:
            with sim.body():
                handles = []
                for _ in range(plan.leads):
                    inner = hooks if sim.random.random() < 0.3 else None
                    try:
                        handles.append(
                            await pool.spawn(
                                draw_team(sim.random, inner),
                                "go",
                                timeout=sim.random.choice([None, None, 40.0]),
                            )
                        )
                    except PoolLimitError:
                        break
                await _end(plan.ending, pool, handles, sim)
        finally:
            if books.hooks is not None:
                books.may += _wider_than_parents(books.hooks.seen)


async def _end(ending: str, pool: Any, handles: Sequence[Any], sim: SimulationContext) -> None:
    await trio.sleep(sim.random.choice([0, 3, 20]))
    match ending:
        case "drain":
            await pool.drain(grace=20)
        case "drain at once":
            await pool.drain(grace=0)
        case "abort all":
            pool.abort_all("enough")
        case "raise":
            raise Trouble("the body")
        case "narrow":
            pool.max_concurrent = 1
            await trio.sleep(3)
            sim.random.choice(handles).abort("one") if handles else None
            pool.max_concurrent = 4
    for handle in handles:
        await handle.wait()


# -- what is checked ---------------------------------------------------------------------------------


def _wider_than_parents(seen: dict[int, Any]) -> Iterator[str]:
    for agent_id, ctx in seen.items():
        parent = seen.get(ctx.parent_id)
        if parent is None or parent.grants is None:
            continue
        above = inherited(parent.grants)
        if ctx.grants is None:
            yield f"agent {agent_id} may do everything, and its parent may not"
            continue
        for each in ctx.grants:
            if not grants(above, each):
                yield f"agent {agent_id} may do {each}, and its parent {parent.id} only {above}"
        if not parent.privacy.permits(ctx.privacy):
            yield f"agent {agent_id} is {ctx.privacy}, and its parent {parent.privacy}"


def _problems(run: Simulation[Any], books: Books, plan: Plan) -> Iterator[str]:
    if isinstance(run.error, SimulationHangError):
        yield f"hang: {run.error}"
        return
    if run.error is not None:
        odd = [leaf for leaf in leaves(run.error) if not isinstance(leaf, _EXPECTED)]
        if odd:
            yield f"the pool ended with {odd!r}"
    yield from run.left_behind
    yield from books.may
    started = Counter(event.agent_id for event in run.log.of(AgentSpawned))
    ended = Counter(event.agent_id for event in run.log.of(AgentFinished))
    if set(started) - set(ended) or any(count > 1 for count in ended.values()):
        yield f"started {sorted(started)}, and ended {sorted(ended.elements())}"
    for event in run.log.of(AgentFinished):
        yield from _incomplete(event.agent_id, _transcript(event.outcome))
        error = getattr(event.outcome, "error", None)
        if getattr(error, "value", None) is not None:
            yield f"agent {event.agent_id} answered, and failed: {error!r}"
        for leaf in leaves(error) if error is not None else ():
            if not isinstance(leaf, _EXPECTED) or isinstance(leaf, ToolError):
                yield f"agent {event.agent_id} failed with {leaf!r}"
    for pool in run.pools:
        yield from problems_in_books(pool)
        yield from _overspent(pool)
    yield from _bill(run, books, plan)


def _bill(run: Simulation[Any], books: Books, plan: Plan) -> Iterator[str]:
    provider, budget = books.provider, books.budget
    if provider is None or budget is None:
        return
    spent = budget.spent
    used = sum(event.outcome.usage.total_tokens for event in run.log.of(AgentFinished))
    # Where tokens have no limit, nothing is set aside for a call that fails.
    if plan.tokens is not None and spent.tokens < provider.billed:
        yield f"{provider.billed} tokens were billed, and {spent.tokens} booked"
    if not plan.has_faults and used != provider.billed:
        yield f"{provider.billed} tokens were billed, and the outcomes tell of {used}"
    if not plan.has_faults and spent.calls != provider.begun:
        yield f"{provider.begun} calls were begun, and {spent.calls} booked"


def main() -> int:
    """Run the teams from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    bad = 0
    spawned: Counter[str] = Counter()
    for seed in range(options.first, options.first + options.seeds):
        problems, run = run_team(seed)
        for event in run.log.of(AgentFinished):
            spawned[type(event.outcome).__name__] += 1
        spawned["pools"] += 1
        spawned["steps"] += run.steps
        for problem in problems:
            bad += 1
            print(f"seed {seed}: {problem[:1500]}", flush=True)
    print(f"{options.seeds} seeds, {bad} problems; {dict(spawned)}")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
