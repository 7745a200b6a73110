"""Agents in workers outlive a crash as those do that run in place: what they do there is in the journal."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from journal_kit import Records, in_virtual_time, is_begun

from agentpool import (
    AgentContext,
    AgentManifest,
    ApprovalRequest,
    ApprovalRules,
    Approved,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Decision,
    Driver,
    ModelAgent,
    ModelSettings,
    RestartPolicy,
    RunPausedError,
    SpawnConfig,
    SqliteJournal,
    TokenUsage,
    ToolCall,
    ToolMessage,
    open_agent_pool,
    placed,
    resume_agent_pool,
    tool,
)
from agentpool._core.records import JournalRecord
from agentpool.abc import Journal
from agentpool.testing import InProcessPlacement, crash_everywhere

EFFECTS: list[str] = []
USED = TokenUsage(100, 10)


# -- programs ------------------------------------------------------------------------------------------


async def effect(name: str) -> str:
    EFFECTS.append(name)
    await trio.sleep(1)
    return f"did {name}"


async def broken(name: str) -> str:
    EFFECTS.append(name)
    raise KeyError(name)


async def twice(ctx: AgentContext, x: int) -> int:
    await trio.sleep(x)
    return 2 * x


async def stepping(ctx: AgentContext) -> list[Any]:
    """Steps, one of which raises, and one that does something by the agent's verbs."""
    found: list[Any] = [await ctx.step("a", effect, "a")]
    try:
        await ctx.step("b", broken, "b")
    except KeyError as error:
        found.append(repr(error))

    async def by_verbs() -> int:
        return await (await ctx.spawn(placed(twice), 3)).result()

    found.append(await ctx.step("c", by_verbs))
    found.append(await ctx.step("d", effect, "d"))
    return found


async def echo(ctx: AgentContext) -> str:
    ctx.subscribe("news")
    heard = []
    async for message in ctx.inbox:
        if message.is_question:
            ctx.reply(message, f"re {message.content}")
        heard.append(message.content)
        if message.content == "stop":
            return ", ".join(map(str, heard))
    raise AssertionError("nobody said stop")


async def talking(ctx: AgentContext) -> list[Any]:
    """Messages of all kinds between agents in workers."""
    handle = await ctx.spawn(placed(echo), name="echo")
    found: list[Any] = [await ctx.ask("echo", "one"), await ctx.ask(handle.id, "two")]
    await ctx.send(handle.id, "three")
    found.append(await ctx.broadcast("four"))
    found.append(await ctx.publish("news", "five"))
    with trio.move_on_after(2):
        await ctx.receive()
    found.append(await ctx.step("e", effect, "e"))
    await ctx.send("echo", "stop")
    found.append(await handle.result())
    found.append((await handle.wait()).name)
    return found


async def with_tasks(ctx: AgentContext) -> list[Any]:
    """Tasks that run side by side, each with steps, children and messages."""
    found: dict[str, Any] = {}

    async def one(name: str, seconds: int) -> None:
        await trio.sleep(seconds)
        first = await ctx.step(name, effect, name)
        handle = await ctx.spawn(placed(twice), seconds)
        found[name] = [first, await handle.result(), await ctx.step(f"{name}2", effect, f"{name}2")]

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(one, "x", 3)
        nursery.start_soon(one, "y", 1)
        await ctx.step("z", effect, "z")
    return [found["x"], found["y"], getattr(await ctx.join_next(), "name", None)]


async def items() -> Any:
    for number in (3, 1, 4):
        await trio.sleep(1)
        yield number


async def with_batches(ctx: AgentContext) -> list[Any]:
    """All verbs that run many agents."""
    found: list[Any] = [[outcome.unwrap() for outcome in await ctx.map(placed(twice), [3, 1])]]
    found.append([outcome.unwrap() for outcome in await ctx.map(placed(twice), items())])
    async with ctx.as_completed(placed(twice), items()) as done:
        found.append(sorted([outcome.unwrap() async for outcome in done]))
    block = ctx.as_completed(placed(twice), [1, 4])
    found.append(await ctx.step("f", effect, "f"))
    async with block as done:
        found.append((await anext(done)).unwrap())
    found.append((await ctx.race(placed(stepless), placed(slow))).unwrap())
    found.append((await ctx.vote(placed(voter), n=3)).winner)
    found.append((await ctx.vote(placed(voter), n=3, key=str)).winner)
    handles = await ctx.fan_out([placed(stepless), placed(stepless)])
    found.append([(await handle.wait()).unwrap() for handle in handles])
    found.append(sorted(outcome.unwrap() for outcome in (await ctx.join_all()).values()))
    return found


async def stepless(ctx: AgentContext) -> str:
    await trio.sleep(1)
    return "quick"


async def voter(ctx: AgentContext) -> str:
    await trio.sleep(ctx.id)  # so that the order in which they end is known
    return "aye"


async def slow(ctx: AgentContext) -> str:
    await trio.sleep(50)
    return "slow"


async def timed(ctx: AgentContext) -> bool:
    """What it decides by time is decided again, though its step is not done again."""
    await ctx.step("g", effect, "g")
    begun = ctx.current_time()
    await ctx.step("h", effect, "h")
    return 1 <= ctx.current_time() - begun < 10


async def failing_once(ctx: AgentContext) -> str:
    """Its second life is another one."""
    await ctx.step("i", effect, "i")
    if (await ctx.receive()).content == "fail":
        await trio.sleep(1)
        raise RuntimeError("once more")
    return await ctx.step("j", effect, "j")


async def restarting(ctx: AgentContext) -> list[Any]:
    handle = await ctx.spawn(placed(failing_once), restart=RestartPolicy("transient"))
    await ctx.send(handle.id, "fail")
    await ctx.send(handle.id, "do not")
    return [await handle.result(), (await handle.wait()).restarts]


PROGRAMS = [stepping, talking, with_tasks, with_batches, timed, restarting]


# -- runs ----------------------------------------------------------------------------------------------


def somewhere(seed: int = 1, **settings: Any) -> InProcessPlacement:
    return InProcessPlacement(seed=seed, **settings)


def run(
    agent: Callable[..., Awaitable[Any]],
    kept: Sequence[JournalRecord] = (),
    *,
    placement: InProcessPlacement | None,
    driver: Driver | None = None,
    approver: Any = None,
) -> tuple[Any, Records]:
    """Run an agent, or go on with what a journal holds of that; return its value and the journal."""
    records = Records(kept)
    EFFECTS.clear()

    async def main() -> Any:
        settings: Any = {"placement": placement, "approver": approver}
        opened = (
            resume_agent_pool(records, driver, **settings)
            if kept
            else open_agent_pool(driver, max_concurrent=4, journal=records, **settings)
        )
        async with opened as pool:
            handle = pool.resumed[0] if pool.resumed else await pool.spawn(placed(agent), name="first")
            return (await handle.wait()).unwrap()

    return in_virtual_time(main), records


def told(records: Records) -> list[Any]:
    """What a journal tells, but for times and the run's own name."""
    found = []
    for record in records.kept:
        data = dict(record.data)
        data.pop("id", None) if record.kind == "run" else None
        if record.kind == "ended":
            data["duration"] = None
        found.append((record.agent, record.kind, json.dumps(data, sort_keys=True)))
    return sorted(found)  # two that do something at the same moment do so in either order


@pytest.mark.parametrize("agent", PROGRAMS, ids=lambda each: each.__name__)
def test_the_same_program_writes_the_same_in_place_and_in_workers(agent: Any) -> None:
    here, in_place = run(agent, placement=None)
    there, in_workers = run(agent, placement=somewhere())
    assert there == here
    assert told(in_workers) == told(in_place)


def done_in(records: Sequence[JournalRecord]) -> set[tuple[int, int, str]]:
    return {
        (each.agent, each.data["life"], each.data["key"])
        for each in records
        if each.kind == "operated" and each.data["kind"] != "take"  # written again where it is taken again
    }


IN_PLACE, IN_WORKERS, LOSSY = "in place", "in workers", "over a way that loses a tenth"


def where(name: str, seed: int) -> InProcessPlacement | None:
    if name == IN_PLACE:
        return None
    return somewhere(seed, loss=0.1, delay=0.02) if name == LOSSY else somewhere(seed)


@pytest.mark.parametrize(
    ("first", "then"),
    [(IN_WORKERS, IN_WORKERS), (IN_PLACE, IN_WORKERS), (IN_WORKERS, IN_PLACE), (LOSSY, LOSSY)],
    ids=lambda each: each,
)
@pytest.mark.parametrize("agent", PROGRAMS, ids=lambda each: each.__name__)
def test_after_a_cut_at_each_record_a_run_comes_to_the_same(agent: Any, first: str, then: str) -> None:
    expected, records = run(agent, placement=where(first, 1))
    for end in range(1, len(records.kept) + 1):
        kept = records.kept[:end]
        if not is_begun(kept):
            continue
        came_to, again = run(agent, kept, placement=where(then, end))
        assert came_to == expected, f"cut off after record {end}: {kept[-1]}"
        assert not done_in(kept) & done_in(again.kept[end:])  # nothing that was done is done again


# -- model agents --------------------------------------------------------------------------------------


@tool
async def note(text: str) -> str:
    """Note something."""
    EFFECTS.append(f"note {text}")
    await trio.sleep(1)
    return f"noted {text}"


@tool(idempotent=True)
async def look(ctx: AgentContext, what: str) -> str:
    """Look at something."""
    EFFECTS.append(f"look {what}")
    child = await ctx.spawn(placed(twice), 2)
    return f"{what}: {await child.result()}, {ctx.call_key.rpartition('-')[2]}"


def called(name: str, **given: Any) -> ToolCall:
    return ToolCall(f"{name}-{len(given)}-{'-'.join(map(str, given.values()))}", name, given)


class Played(Driver):
    """Each manifest says what its turns are; the last says what the tools had said."""

    context_window = 100_000

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        turn = sum(isinstance(message, AssistantMessage) for message in request.messages)
        self.asked.append((request.system, turn))
        await trio.sleep(1)
        turns = TURNS[request.system]
        if turn < len(turns):
            return Completion(tool_calls=turns[turn], usage=USED)
        results = [str(each.result.content) for each in request.messages if isinstance(each, ToolMessage)]
        return Completion(f"{request.system}: {'; '.join(results)}", usage=USED)


TURNS: dict[str, list[tuple[ToolCall, ...]]] = {
    "worker": [
        (called("look", what="a"), called("look", what="b")),
        (called("look", what="c"),),
    ],
    "steady": [(called("look", what="a"),), (called("look", what="b"),)],
    "noter": [(called("note", text="x"),), (called("note", text="y"),)],
}


def model(name: str, **settings: Any) -> AgentManifest:
    return AgentManifest(name=name, model=ModelSettings(system_prompt=name), **settings)


WORKER = SpawnConfig(model("worker"), "begin", tools=[look])
STEADY = SpawnConfig(model("steady"), "begin", tools=[look])
NOTER = SpawnConfig(model("noter"), "begin", tools=[note])


async def models(ctx: AgentContext) -> list[str]:
    """A model agent in a worker of its own, one that code in a worker runs, and several in a batch."""
    first = await ctx.spawn(placed(WORKER))
    second = await ModelAgent(model("worker"), tools=[look])(ctx, "begin")
    third = await ctx.map(placed(ModelAgent(model("worker"), tools=[look])), ["one", "two"])
    texts = [outcome.unwrap().text for outcome in third]
    return [(await first.result()).text, second.text, *texts]


@pytest.mark.parametrize(("first", "then"), [(IN_WORKERS, IN_WORKERS), (LOSSY, IN_PLACE)])
def test_a_model_agent_is_asked_nothing_twice_that_its_journal_tells(first: str, then: str) -> None:
    expected, records = run(models, placement=where(first, 1), driver=Played())
    for end in range(1, len(records.kept) + 1):
        kept = records.kept[:end]
        if not is_begun(kept):
            continue
        driver = Played()
        came_to, again = run(models, kept, placement=where(then, end), driver=driver)
        assert came_to == expected, f"cut off after record {end}: {kept[-1]}"
        replied = [each for each in again.kept if each.kind == "observed" and each.data["is"] == "replied"]
        assert len(replied) == 12  # of four runs of the loop three turns each
        before = [each for each in kept if each.kind == "observed" and each.data["is"] == "replied"]
        assert len(driver.asked) == 12 - len(before)
        assert not done_in(kept) & done_in(again.kept[end:])


def test_a_model_agent_writes_the_same_in_place_and_in_workers() -> None:
    here, in_place = run(STEADY, placement=None, driver=Played())
    there, in_workers = run(STEADY, placement=somewhere(), driver=Played())
    assert (there.text, there.usage) == (here.text, here.usage)
    assert [each for each in told(in_workers) if each[1] != "ended"] == [
        each for each in told(in_place) if each[1] != "ended"
    ]


def test_a_call_that_may_have_happened_is_not_made_again() -> None:
    _, records = run(NOTER, placement=somewhere(), driver=Played())
    began = next(number for number, each in enumerate(records.kept, 1) if each.kind == "called")
    result, _ = run(NOTER, records.kept[:began], placement=somewhere(), driver=Played())
    assert EFFECTS == ["note y"]
    assert result.text.startswith("noter: ")
    assert result.text.endswith("noted y")
    assert "noted x" not in result.text


def test_a_run_is_paused_and_resumed_with_the_decision() -> None:
    careful = model("noter", approval=ApprovalRules(ask=("note",)))
    agent = SpawnConfig(careful, "begin", tools=[note])
    records = Records()

    async def asking() -> None:
        settings: Any = {"placement": somewhere(), "journal": records}
        async with open_agent_pool(Played(), max_concurrent=2, **settings) as pool:
            await (await pool.spawn(placed(agent))).wait()

    EFFECTS.clear()
    with pytest.raises(RunPausedError):
        in_virtual_time(asking)
    assert EFFECTS == []
    assert [each.kind for each in records.kept].count("asked") == 1

    async def person(request: ApprovalRequest) -> Decision:
        return Approved()

    for placement in (somewhere(), None):
        result, _ = run(agent, records.kept, placement=placement, driver=Played(), approver=person)
        assert result.text == "noter: noted x; noted y"
        assert EFFECTS == ["note x", "note y"]


async def test_a_worker_that_is_lost_ends_the_life_and_the_next_one_starts_afresh() -> None:
    records, placement = Records(), InProcessPlacement(1, seed=1)
    EFFECTS.clear()
    async with open_agent_pool(max_concurrent=2, journal=records, placement=placement) as pool:
        handle = await pool.spawn(placed(noting), restart=RestartPolicy("transient"))
        while "late" not in EFFECTS:
            await trio.sleep(0.01)
        placement.workers[0].kill()
        outcome = await handle.wait()
    assert outcome.unwrap() == ["did early", "did late"]
    assert outcome.restarts == 1
    assert [each.data["life"] for each in records.of_kind("operated")] == [0, 1, 1]


async def noting(ctx: AgentContext) -> list[str]:
    return [await ctx.step("early", effect, "early"), await ctx.step("late", effect, "late")]


# -- killed --------------------------------------------------------------------------------------------


async def whole(journal: Journal, is_resumed: bool) -> Any:
    driver, placement = Played(), somewhere(loss=0.1, delay=0.02)
    opened = (
        resume_agent_pool(journal, driver, placement=placement)
        if is_resumed
        else open_agent_pool(driver, max_concurrent=4, journal=journal, placement=placement)
    )
    async with opened as pool:
        handle = pool.resumed[0] if pool.resumed else await pool.spawn(placed(all_together))
        return await handle.result()


async def all_together(ctx: AgentContext) -> list[Any]:
    return [await each(ctx) for each in (stepping, talking, with_tasks, with_batches, models)]


@pytest.mark.processes
def test_a_head_that_is_killed_anywhere_comes_to_the_same() -> None:
    sweep = crash_everywhere(whole, most=6)
    assert sweep.crashes == 6


async def test_a_run_of_a_file_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    async with open_agent_pool(
        max_concurrent=1, journal=SqliteJournal(path), placement=InProcessPlacement()
    ) as pool:
        await pool.spawn(placed(twice), 0)
    async with resume_agent_pool(path, placement=InProcessPlacement()) as pool:
        [outcome] = (await pool.join_all()).values()
    assert outcome.unwrap() == 0


def test_what_cannot_be_sent_is_what_the_operation_came_to(tmp_path: Path) -> None:
    expected, records = run(unsendable, placement=somewhere())
    assert expected.startswith("what is given to spawn cannot be sent")
    for then in (IN_WORKERS, IN_PLACE):
        came_to, _ = run(unsendable, records.kept[:-2], placement=where(then, 2))
        assert came_to == expected


async def unsendable(ctx: AgentContext) -> str:
    try:
        await ctx.spawn(lambda ctx: twice(ctx, 1))
    except TypeError as error:
        return str(error)
    return "sent"
