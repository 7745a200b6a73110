"""A town of more than twenty agents that do whatever agents can do, and come to one result only."""

from __future__ import annotations

from random import Random
from typing import Any

import trio

from agentpool import (
    AgentContext,
    AgentFailedError,
    AgentManifest,
    AssistantMessage,
    Budget,
    ChildSpec,
    Completed,
    Completion,
    CompletionRequest,
    Driver,
    ModelAgent,
    RestartPolicy,
    Supervisor,
    TokenUsage,
    ToolCall,
    ToolError,
    ToolMessage,
    UserMessage,
    open_agent_pool,
    resume_agent_pool,
    tool,
)
from agentpool.abc import Journal

from ._world import plain, world

USED = 110
BUDGET = 10_000_000


class Model(Driver):
    """Answers by nothing but what it is asked, so that every run of the town gets the same answers."""

    context_window = 100_000

    def estimate_cost(self, usage: TokenUsage) -> float:
        return usage.total_tokens * 1e-6

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(0.001)
        turn = sum(isinstance(message, AssistantMessage) for message in request.messages)
        query = next(str(m.content) for m in request.messages if isinstance(m, UserMessage))
        world().do(f"model {USED} {query} {turn}")
        usage = TokenUsage(100, 10)
        calls = script_of(query, turn)
        if calls:
            return Completion("", calls, usage=usage)
        told = [m for m in request.messages if isinstance(m, ToolMessage) and m.call_id[0] != "o"]
        return Completion(
            f"{query}: " + " ".join(str(message.result.content) for message in told), usage=usage
        )


def script_of(query: str, turn: int) -> tuple[ToolCall, ...]:
    """Return which tools the model calls; ids of calls that are made once at most begin with `o`."""
    of = query.split()[1]
    match query.split()[0], turn:
        case "study", 0:
            return (
                ToolCall("a1", "look", {"what": f"{of} 1"}),
                ToolCall("k1", "pay", {"what": f"{of} 2"}),
                ToolCall("o1", "post", {"what": f"{of} 3"}),
            )
        case "study", 1:
            return (ToolCall("a2", "consult", {"what": of}), ToolCall("k2", "pay", {"what": f"{of} 4"}))
        case "study", 2:
            return (ToolCall("o2", "post", {"what": f"{of} 5"}),)
        case "send", 0:
            return (ToolCall("o1", "dispatch", {"what": of}),)
        case "lead", 0:
            return (ToolCall("a1", "delegate", {"what": of}), ToolCall("a2", "look", {"what": of}))
        case "random", _ if turn < int(of) % 4:
            return random_calls(Random(f"{query} {turn}"))
        case "note", 0:
            return (ToolCall("a1", "look", {"what": of}), ToolCall("a2", "entrust", {"what": of}))
    return ()


def random_calls(rng: Random) -> tuple[ToolCall, ...]:
    """Return some calls for a turn; never the same twice, which a guard would see as going in circles."""
    names = {"look": "a", "pay": "k", "post": "o", "delegate": "a", "entrust": "a", "breaks": "a"}
    drawn = [rng.choice(list(names)) for _ in range(rng.randint(1, 3))]
    return tuple(
        ToolCall(f"{names[name]}{number}", name, {"what": f"{rng.randint(0, 10**6)}"})
        for number, name in enumerate(drawn)
    )


@tool(idempotent=True)
async def look(ctx: AgentContext, what: str) -> str:
    """Look at something."""
    world().do(f"again look {ctx.name} {what}")
    await trio.sleep(0.002)
    return f"seen {what}"


@tool(idempotent=True)
async def pay(ctx: AgentContext, what: str) -> str:
    """Pay for something; the bank knows the key."""
    key = ctx.call_key.partition("-")[2]  # what comes before it is the run's
    world().do(f"keyed {key} {ctx.name} {what}")
    await trio.sleep(0.001)
    return f"paid {what}"


@tool
async def post(ctx: AgentContext, what: str) -> str:
    """Post something."""
    world().do(f"once post {ctx.name} {what}")
    await trio.sleep(0.001)
    return f"posted {what}"


@tool(idempotent=True)
async def consult(ctx: AgentContext, what: str) -> str:
    """Ask the archive."""
    answer = await ctx.ask("archive", what)
    return f"archive says {answer}"


@tool(idempotent=True)
async def delegate(ctx: AgentContext, what: str) -> str:
    """Have a child do it."""
    handle = await ctx.spawn(ModelAgent(SCHOLAR, tools=TOOLS), f"note {what}-child", name=f"{what}-child")
    return (await handle.result()).text


@tool(idempotent=True)
async def entrust(ctx: AgentContext, what: str) -> str:
    """Have a child do it, and do not wait for it."""
    await ctx.spawn(errand, what)
    return f"entrusted {what}"


@tool
async def dispatch(ctx: AgentContext, what: str) -> str:
    """Have a child do it, and be slow; what is done once at most."""
    await ctx.spawn(errand, what)
    await trio.sleep(0.01)
    return f"dispatched {what}"


async def errand(ctx: AgentContext, what: str) -> str:
    await trio.sleep(0.05)
    return await ctx.step("run", run_errand, what)


async def run_errand(what: str) -> str:
    world().do(f"errand {what}")
    await trio.lowlevel.checkpoint()
    return what


@tool(idempotent=True)
async def breaks(what: str) -> str:
    """Fail."""
    raise ToolError(f"{what} is broken")


TOOLS = [breaks, entrust, dispatch, look, pay, post, consult, delegate]
SCHOLAR = AgentManifest(name="scholar")


# -- functions ---------------------------------------------------------------------------------


async def archive(ctx: AgentContext) -> int:
    """Answers questions, until it is told to stop."""
    answered = 0
    async for message in ctx.inbox:
        if message.content == "stop":
            break
        value = await ctx.step("find", find, message.content)
        ctx.reply(message, value)
        answered += 1
    return answered


async def find(what: str) -> str:
    world().do(f"again find {what}")
    await trio.lowlevel.checkpoint()
    return what[::-1]


async def reader(ctx: AgentContext, number: int) -> list[str]:
    ctx.subscribe("news")
    await ctx.send("mayor", ("reads", number))
    return [(await ctx.receive()).content for _ in range(2)]


async def stubborn(ctx: AgentContext) -> str:
    """Dies of its first messages, and is started afresh."""
    message = await ctx.receive()
    if message.content == "die":
        await ctx.step("last words", find, "adieu")
        raise ValueError("as it was told")
    return message.content


async def clerk(ctx: AgentContext, number: int) -> str:
    """One of a supervisor's children."""
    done = []
    await ctx.send("mayor", ("up", number))
    while True:
        message = await ctx.receive()
        match message.content:
            case "fail":
                raise RuntimeError(f"clerk {number} failed")
            case "end":
                return " ".join(done)
            case work:
                done.append(work)
                await ctx.send("mayor", ("done", number, work))


async def double(ctx: AgentContext, number: int) -> int:
    await trio.sleep(0.01 * (3 - number))
    return await ctx.step("double", times_two, number)


async def times_two(number: int) -> int:
    world().do(f"again double {number}")
    await trio.lowlevel.checkpoint()
    return 2 * number


async def quick(ctx: AgentContext) -> str:
    await trio.sleep(0.01)
    return "quick"


async def slow(ctx: AgentContext) -> str:
    await trio.sleep(1000)
    return "slow"


async def failing(ctx: AgentContext) -> None:
    await trio.sleep(0.001)
    raise LookupError("nothing is there")


async def mayor(ctx: AgentContext) -> dict[str, Any]:
    """Has everything done, part by part."""
    found: dict[str, Any] = {}
    library = await ctx.spawn(archive, name="archive")
    readers = [await ctx.spawn(reader, number, name=f"reader {number}") for number in range(3)]
    for _ in readers:
        await ctx.receive()
    found["published"] = await ctx.publish("news", "first")
    found["lead"] = (await (await ctx.spawn(ModelAgent(SCHOLAR, tools=TOOLS), "lead L")).result()).text
    found["studies"] = [
        outcome.unwrap().text
        for outcome in await ctx.map(ModelAgent(SCHOLAR, tools=TOOLS), ["study A", "study B"])
    ]
    found["published again"] = await ctx.publish("news", "second")
    found["read"] = [await handle.result() for handle in readers]
    found["asked"] = [await ctx.ask("archive", f"question {number}") for number in range(2)]
    found["restarted"] = await restarted(ctx)
    found["supervised"] = await supervised(ctx)
    found["race"] = (await ctx.race(quick, slow)).unwrap()
    found["doubled"] = sorted(await doubled(ctx))
    failed = await ctx.spawn(failing)
    try:
        await failed.result()
    except AgentFailedError as error:
        found["failed"] = str(error.__cause__)
    found["tasks"] = await tasks(ctx)
    await ctx.send(library.id, "stop")
    found["answered"] = await library.result()
    left = await ctx.spawn(slow, name="left")
    left.abort("not needed")
    found["aborted"] = plain((await left.wait()).reason)
    found["timed out"] = type((await (await ctx.spawn(slow, timeout=0.3)).wait()).error).__name__
    found["rest"] = sorted((await ctx.join_all()).keys()) == []
    return found


async def restarted(ctx: AgentContext) -> Any:
    handle = await ctx.spawn(stubborn, name="stubborn", restart=RestartPolicy("on_failure", max_restarts=5))
    for content in ("die", "die", "live"):
        await ctx.send(handle.id, content)
    outcome = await handle.wait()
    return [plain(outcome.unwrap()), outcome.restarts]


async def supervised(ctx: AgentContext) -> Any:
    children = [ChildSpec(clerk, (number,), name=f"clerk {number}", mode="on_failure") for number in range(3)]
    handle = await ctx.spawn(Supervisor(children, max_restarts=5, within=10_000), name="office")
    heard = sorted([list((await ctx.receive()).content) for _ in children])
    for content in ("one", "fail", "two", "end"):
        for number in range(2):
            await ctx.send(f"clerk {number}", content)
            if content != "end":
                heard.append(list((await ctx.receive()).content))
    await ctx.send("clerk 2", "end")
    return [heard, await handle.result()]


async def doubled(ctx: AgentContext) -> list[int]:
    found = []
    async with ctx.as_completed(double, range(3)) as done:
        async for outcome in done:
            found.append(outcome.unwrap())
    return found


async def tasks(ctx: AgentContext) -> list[str]:
    """Tasks of the agent's own, each with a place of its own in the journal."""
    answers: dict[int, str] = {}

    async def ask(number: int) -> None:
        answers[number] = await ctx.ask("archive", f"task {number}")

    async with ctx.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(ask, number)
    return [answers[number] for number in sorted(answers)]


# -- the program --------------------------------------------------------------------------------


async def main(
    journal: Journal,
    is_resumed: bool,
    root: Any = mayor,
    *args: Any,
    timeout: float | None = None,
    max_concurrent: int = 3,
) -> tuple[Any, int, int]:
    """Run one agent with everything below it; return its result, and what was spent before and after."""
    budget = Budget(tokens=BUDGET)
    opened = (
        resume_agent_pool(journal, Model(), budget=budget)
        if is_resumed
        else open_agent_pool(Model(), max_concurrent=max_concurrent, journal=journal, budget=budget)
    )
    async with opened as pool:
        before = budget.spent.tokens
        handle = (
            pool.resumed[0] if pool.resumed else await pool.spawn(root, *args, name="mayor", timeout=timeout)
        )
        outcome = await handle.wait()
        result = outcome.value if isinstance(outcome, Completed) else getattr(outcome, "error", "aborted")
        world().do(f"pledge program|end {plain(result)!r}")
        return plain(result), before, budget.spent.tokens
