"""The promises of the pool hold for agents that run in workers: the same program comes to the same.

Each program here is run without a placement, where its marked agents run in place, and then with workers:
over a good way, and over one that loses a tenth of the requests and of the replies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from pool_kit import LONG

from agentpool import (
    AgentAbortedError,
    AgentContext,
    AgentFailedError,
    AgentManifest,
    AgentPool,
    ChildSpec,
    Completed,
    Completion,
    DeadlockError,
    Failed,
    RestartPolicy,
    ScriptedDriver,
    SpawnConfig,
    Supervisor,
    ToolCall,
    UnhandledAgentErrors,
    UnknownAgentError,
    open_agent_pool,
)
from agentpool._core.errors import WorkerLostError
from agentpool._kernel.placed import placed
from agentpool.testing import InProcessPlacement, cancel_everywhere, simulate
from agentpool.testing._simulate import SimulationContext

Program = Callable[[AgentPool], Awaitable[Any]]

WAYS: dict[str, Callable[[], InProcessPlacement | None]] = {
    "good": InProcessPlacement,
    "lossy": lambda: InProcessPlacement(loss=0.1, delay=0.1),
}


def told(outcome: Any) -> tuple[Any, ...]:
    """What of an outcome is the same wherever its agent ran."""
    match outcome:
        case Completed():
            return "completed", outcome.agent_id, outcome.name, outcome.value
        case Failed():
            return "failed", outcome.agent_id, outcome.name, repr(outcome.error)
        case _:
            return "aborted", outcome.agent_id, outcome.name, outcome.reason


async def came_to(program: Program, placement: InProcessPlacement | None, cap: int, **options: Any) -> Any:
    """What a program returned or raised, and the books of its pool are right."""
    pool: AgentPool | None = None
    try:
        with trio.fail_after(LONG):
            async with open_agent_pool(max_concurrent=cap, placement=placement, **options) as pool:
                found = await program(pool)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        found = repr(error)
    finally:
        if pool is not None:
            assert pool._books().problems() == []
    return found


def compared(program: Program, way: str, cap: int = 2, **options: Any) -> Any:
    """Run a program in place and over a way, and return what both came to."""
    here = simulate(lambda: came_to(program, None, cap, **options)).unwrap()
    there = simulate(lambda: came_to(program, WAYS[way](), cap, **options), 1).unwrap()
    assert there == here
    return here


# -- agents ------------------------------------------------------------------------------------------


async def value(ctx: AgentContext, what: Any = None) -> Any:
    return what


async def waits(ctx: AgentContext, seconds: float, what: Any = None) -> Any:
    await trio.sleep(seconds)
    return what


async def forever(ctx: AgentContext) -> None:
    await trio.sleep_forever()


async def fails(ctx: AgentContext, what: str = "planned") -> None:
    raise ValueError(what)


async def tree(ctx: AgentContext, depth: int, here: bool = False) -> int:
    """Sum up what two children come to, one of them at the head if asked for."""
    if not depth:
        return 1
    one = await ctx.spawn(placed(tree), depth - 1, here)
    two = await ctx.spawn(tree if here else placed(tree), depth - 1, here)
    return await one.result() + await two.result()


async def server(ctx: AgentContext) -> list[Any]:
    got = []
    async for message in ctx.inbox:
        got.append(message.content)
        ctx.reply(message, ("answer", message.content))
    return got


async def asks(ctx: AgentContext, to: int, count: int) -> list[Any]:
    return [await ctx.ask(to, number) for number in range(count)]


async def tells(ctx: AgentContext, to: int, count: int) -> None:
    for number in range(count):
        await ctx.send(to, number)


# -- capacity ----------------------------------------------------------------------------------------


async def a_tree(pool: AgentPool) -> Any:
    return await (await pool.spawn(placed(tree), 3)).result()


async def a_mixed_tree(pool: AgentPool) -> Any:
    return await (await pool.spawn(placed(tree), 3, True)).result()


async def a_conversation(pool: AgentPool) -> Any:
    to = await pool.spawn(placed(server))
    return await (await pool.spawn(placed(asks), to.id, 5)).result()


async def waits_for_all(ctx: AgentContext) -> Any:
    for number in range(4):
        await ctx.spawn(placed(value), number)
    return sorted(outcome.value for outcome in (await ctx.join_all()).values())


async def a_join(pool: AgentPool) -> Any:
    return await (await pool.spawn(placed(waits_for_all))).result()


async def two_tasks(ctx: AgentContext) -> Any:
    found = []

    async def get(number: int) -> None:
        found.append(await (await ctx.spawn(placed(value), number)).result())

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(get, 1)
        nursery.start_soon(get, 2)
    return sorted(found)


async def an_agent_with_two_tasks(pool: AgentPool) -> Any:
    return await (await pool.spawn(placed(two_tasks))).result()


async def a_full_inbox(pool: AgentPool) -> Any:
    to = await pool.spawn(placed(server))
    for _ in range(2):
        await (await pool.spawn(placed(tells), to.id, 6)).result()
    return None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cap", [1, 2])
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (a_tree, 8),
        (a_mixed_tree, 8),
        (a_conversation, [("answer", number) for number in range(5)]),
        (a_join, [0, 1, 2, 3]),
        (an_agent_with_two_tasks, [1, 2]),
        (a_full_inbox, None),
    ],
)
def test_agents_that_wait_for_each_other_end_under_every_number_of_slots(
    program: Program, expected: Any, cap: int, way: str
) -> None:
    assert compared(program, way, cap, inbox_capacity=1) == expected


running: list[int] = []
"""How many agents computed, each time that one did; only the memory of workers is shared."""

now: set[int] = set()


async def computes(ctx: AgentContext, to: int) -> None:
    for number in range(3):
        now.add(ctx.id)
        running.append(len(now))
        await trio.sleep(0.3)
        now.discard(ctx.id)
        await ctx.ask(to, number)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cap", [1, 2])
def test_no_more_agents_run_than_there_are_slots(cap: int, way: str) -> None:
    async def program(pool: AgentPool) -> Any:
        to = await pool.spawn(placed(server))
        for _ in range(5):
            await pool.spawn(placed(computes), to.id)

    running.clear()
    compared(program, way, cap)
    assert max(running) == cap
    assert not now


async def answered_while_it_rests(ctx: AgentContext, to: int) -> None:
    """One task is answered while the other one begins to wait, so that word of both crosses."""

    async def sends_and_computes() -> None:
        await ctx.send(to, "word")
        await computing(ctx.id)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(sends_and_computes)
        await trio.sleep(0.05)
        with trio.move_on_after(5):
            await ctx.receive()


async def computing(agent: int) -> None:
    now.add(agent)
    running.append(len(now))
    await trio.sleep(1)
    running.append(len(now))
    now.discard(agent)


@pytest.mark.parametrize("seed", range(10))
def test_an_agent_that_is_answered_while_its_rest_is_told_keeps_its_slot(seed: int) -> None:
    async def program(pool: AgentPool) -> Any:
        to = await pool.spawn(placed(server))
        for _ in range(3):
            await pool.spawn(placed(answered_while_it_rests), to.id)

    running.clear()
    simulate(lambda: came_to(program, InProcessPlacement(delay=0.2), 1), seed)
    assert len(running) == 6
    assert max(running) == 1


# -- outcomes ----------------------------------------------------------------------------------------


async def every_outcome(pool: AgentPool) -> Any:
    handles = [
        await pool.spawn(placed(value), 7),
        await pool.spawn(placed(fails)),
        await pool.spawn(placed(forever)),
        await pool.spawn(placed(forever), timeout=3),
        await pool.spawn(placed(waits), 1.0, {"a": [1]}, name="anna"),
    ]
    handles[2].abort("enough")
    return [told(await handle.wait()) for handle in handles]


async def ignores_a_failure(ctx: AgentContext) -> str:
    await ctx.spawn(placed(fails))
    return "kept"


async def a_failure_below(pool: AgentPool) -> Any:
    outcome = await (await pool.spawn(placed(ignores_a_failure))).wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ExceptionGroup)
    return told(outcome), getattr(outcome.error, "value", None)


async def looks_at_a_failure(ctx: AgentContext) -> Any:
    handle = await ctx.spawn(placed(fails))
    found = [told(await handle.wait())]
    try:
        await (await ctx.spawn(placed(fails), "again")).result()
    except AgentFailedError as error:
        found.append(repr(error))
    aborted = await ctx.spawn(placed(forever))
    aborted.abort("by the parent")
    try:
        await aborted.result()
    except AgentAbortedError as error:
        found.append(repr(error))
    return found, handle.status, await ctx.join_next()


async def failures_that_were_looked_at(pool: AgentPool) -> Any:
    return told(await (await pool.spawn(placed(looks_at_a_failure))).wait())


async def joins_once(ctx: AgentContext) -> Any:
    handles = [await ctx.spawn(placed(waits), number * 2.0, number) for number in (2, 1, 3)]
    await handles[0].wait()
    outcomes = [await ctx.join_next(), await ctx.join_next(), await ctx.join_next()]
    return [outcome and outcome.value for outcome in outcomes]


async def joins_hand_out_once(pool: AgentPool) -> Any:
    return told(await (await pool.spawn(placed(joins_once))).wait())


async def nobody_looks(pool: AgentPool) -> Any:
    await pool.spawn(placed(fails), "unseen")


async def the_body_raises(pool: AgentPool) -> Any:
    await pool.spawn(placed(forever))
    await pool.spawn(placed(fails))
    await trio.sleep(1)
    raise LookupError("the body")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "program",
    [
        every_outcome,
        a_failure_below,
        failures_that_were_looked_at,
        joins_hand_out_once,
        nobody_looks,
        the_body_raises,
    ],
)
def test_outcomes_are_those_that_agents_have_in_place(program: Program, way: str) -> None:
    compared(program, way, 8)


def test_a_failure_that_nobody_looked_at_comes_out_of_the_pool() -> None:
    async def main() -> None:
        with pytest.raises(UnhandledAgentErrors) as caught:
            async with open_agent_pool(max_concurrent=1, placement=InProcessPlacement()) as pool:
                await pool.spawn(placed(fails))
        (error,) = caught.value.exceptions
        assert repr(error) == "ValueError('planned')"

    simulate(main)


# -- isolation ---------------------------------------------------------------------------------------


async def leaves(ctx: AgentContext, what: str) -> Any:
    opened: Any
    match what:
        case "scope":
            opened = trio.CancelScope(deadline=trio.current_time() + 1)
            opened.__enter__()
        case "shield":
            opened = trio.CancelScope(shield=True)
            opened.__enter__()
        case "nursery":
            opened = trio.open_nursery()
            (await opened.__aenter__()).start_soon(trio.sleep_forever)
        case _:
            opened = _generator()
            await opened.__anext__()
    left.append(opened)


async def _generator() -> Any:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        yield 1


left: list[Any] = []


@pytest.mark.parametrize("what", ["scope", "shield", "nursery", "generator"])
@pytest.mark.filterwarnings("ignore:agent .* left open:RuntimeWarning")
def test_what_an_agent_leaves_open_in_a_worker_is_its_own_failure(what: str) -> None:
    async def main() -> Any:
        placement = InProcessPlacement(1)
        async with open_agent_pool(max_concurrent=4, placement=placement) as pool:
            neighbour = await pool.spawn(placed(waits), 5.0, "well")
            outcome = await (await pool.spawn(placed(leaves), what)).wait()
            after = await (await pool.spawn(placed(waits), 5.0, "well")).wait()
            assert (await neighbour.result(), told(after)[3]) == ("well", "well")
            assert len(placement.workers) == 1
            return told(outcome)

    async def in_place() -> Any:
        async with open_agent_pool(max_concurrent=4) as pool:
            neighbour = await pool.spawn(waits, 5.0, "well")
            outcome = await (await pool.spawn(leaves, what)).wait()
            await neighbour.wait()
            return told(outcome)

    left.clear()
    there, here = simulate(main).unwrap(), simulate(in_place).unwrap()
    assert there[0] == here[0]
    assert "LeftOpenError" in there[3]


# -- fatal exceptions --------------------------------------------------------------------------------


async def exits(ctx: AgentContext, kind: type[BaseException]) -> None:
    await trio.sleep(1)
    raise kind(3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, MemoryError])
def test_a_fatal_exception_leaves_the_pool_unwrapped(kind: type[BaseException], way: str) -> None:
    async def main() -> None:
        with pytest.raises(kind) as caught:
            async with open_agent_pool(max_concurrent=4, placement=WAYS[way]()) as pool:
                await pool.spawn(placed(forever))
                await pool.spawn(placed(exits), kind)
                await trio.sleep_forever()
        assert type(caught.value) is kind
        assert caught.value.args == (3,)

    simulate(main)


# -- quiescence --------------------------------------------------------------------------------------


async def last_words(ctx: AgentContext, to: int) -> int:
    count = 0
    async for _message in ctx.inbox:
        count += 1
    await ctx.send(to, "bye")
    return count


async def servers_end(pool: AgentPool) -> Any:
    older = await pool.spawn(placed(server))
    younger = await pool.spawn(placed(last_words), older.id)
    here = await pool.spawn(server)
    await pool.send(younger.id, "one")
    await pool.send(here.id, "two")
    return older, younger, here


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cap", [1, 3])
def test_servers_end_without_a_poison_pill(cap: int, way: str) -> None:
    async def main() -> None:
        async with open_agent_pool(max_concurrent=cap, placement=WAYS[way]()) as pool:
            handles = await servers_end(pool)
        assert [handle.outcome.value for handle in handles] == [["bye"], 1, ["two"]]

    simulate(main)


async def drains(pool: AgentPool) -> Any:
    handles = [await pool.spawn(placed(server)), await pool.spawn(placed(waits), 2.0, "in time")]
    survivors = await pool.drain(grace=30)
    return len(survivors), [told(await handle.wait()) for handle in handles]


async def drains_hard(pool: AgentPool) -> Any:
    handles = [await pool.spawn(placed(forever)) for _ in range(3)]
    survivors = await pool.drain(grace=5)
    return len(survivors), [told(await handle.wait()) for handle in handles]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("program", [drains, drains_hard])
def test_a_drain_lets_agents_end_and_aborts_those_that_do_not(program: Program, way: str) -> None:
    compared(program, way, 3)


# -- deadlocks ---------------------------------------------------------------------------------------


async def asks_back(ctx: AgentContext) -> str:
    """Wait for an id, and ask whoever has it, who does the same."""
    other = "question"
    while other == "question":  # which nobody answers
        other = (await ctx.receive()).content
    try:
        return str(await ctx.ask(other, "question"))
    except (DeadlockError, UnknownAgentError) as error:
        return type(error).__name__


async def a_ring(pool: AgentPool, agents: list[Any]) -> Any:
    """Whoever closes the ring is told so, and the others see that he ends."""
    ring = [await pool.spawn(agent) for agent in agents]
    for one, other in zip(ring, [*ring[1:], ring[0]], strict=True):
        await pool.send(one.id, other.id)
    return sorted([told(await one.wait())[3] for one in ring])


async def a_placed_ring(pool: AgentPool) -> Any:
    return await a_ring(pool, [placed(asks_back)] * 3)


async def a_mixed_ring(pool: AgentPool) -> Any:
    return await a_ring(pool, [placed(asks_back), asks_back, placed(asks_back), asks_back])


async def waits_for_its_parent(ctx: AgentContext, parent: int) -> str:
    await trio.sleep(30)  # the parent waits by then, wherever both run: who comes last is told
    try:
        await ctx.ask(parent, "well?")
    except DeadlockError as error:
        return repr(error)
    return "no deadlock"


async def waits_for_its_child(ctx: AgentContext) -> Any:
    return await (await ctx.spawn(placed(waits_for_its_parent), ctx.id)).result()


async def a_child_that_asks_its_parent(pool: AgentPool) -> Any:
    return told(await (await pool.spawn(placed(waits_for_its_child))).wait())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cap", [1, 8])
@pytest.mark.parametrize("program", [a_placed_ring, a_mixed_ring])
def test_a_deadlock_is_told(program: Program, cap: int, way: str) -> None:
    assert "DeadlockError" in str(compared(program, way, cap))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cap", [1, 8])
def test_a_deadlock_is_told_to_whoever_closes_it(cap: int, way: str) -> None:
    # Parent or child: on the way one of the two waits later, and it is not always the same as in place.
    run = simulate(lambda: came_to(a_child_that_asks_its_parent, WAYS[way](), cap))
    assert "DeadlockError" in str(run.unwrap())


# -- messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_what_is_left_in_an_inbox_is_dead_letters(way: str) -> None:
    async def program(pool: AgentPool) -> Any:
        one = await pool.spawn(placed(waits), 20.0)
        await (await pool.spawn(placed(tells), one.id, 3)).wait()
        await one.wait()
        statistics = pool.statistics()
        with pytest.raises(UnknownAgentError):
            await pool.send(one.id, "late")
        return [letter.message.content for letter in pool.dead_letters], statistics.dead_letters

    assert compared(program, way) == ([0, 1, 2], 3)


async def impatient(ctx: AgentContext, to: int) -> list[Any]:
    """Waits that are given up on time: for messages, replies, outcomes."""
    found: list[Any] = []
    begun = trio.current_time()
    with trio.move_on_after(2):
        found.append(await ctx.receive())
    with trio.move_on_after(2):
        found.append(await ctx.ask(to, "question"))
    child = await ctx.spawn(placed(forever))
    with trio.move_on_after(2):
        found.append(await child.wait())
    child.abort("no more")
    found.append(trio.current_time() - begun < 20)
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cap", [3, 8])
def test_timeouts_inside_an_agent_end_its_waits(cap: int, way: str) -> None:
    async def program(pool: AgentPool) -> Any:
        silent = await pool.spawn(placed(forever))
        found = told(await (await pool.spawn(placed(impatient), silent.id)).wait())
        silent.abort("over")
        return found

    assert compared(program, way, cap)[3] == [True]


async def takes_for(ctx: AgentContext, rounds: int) -> list[Any]:
    """Receive under deadlines that pass again and again."""
    got = []
    for _ in range(rounds):
        with trio.move_on_after(0.05):
            got.append((await ctx.receive()).content)
    return got


async def tells_slowly(ctx: AgentContext, to: int, count: int) -> list[int]:
    delivered = []
    for number in range(count):
        with trio.move_on_after(0.07):
            await ctx.send(to, number)
            delivered.append(number)
        await trio.sleep(0.03)
    return delivered


@pytest.mark.parametrize("seed", range(10))
def test_what_was_delivered_and_what_was_taken_agree_though_both_are_cut_short(seed: int) -> None:
    async def main() -> None:
        placement = InProcessPlacement(loss=0.1, delay=0.1)
        async with open_agent_pool(max_concurrent=4, placement=placement, inbox_capacity=1) as pool:
            to = await pool.spawn(placed(takes_for), 60)
            by = await pool.spawn(placed(tells_slowly), to.id, 20)
            got, delivered = await to.result(), []
            outcome = await by.wait()
            dead = [letter.message.content for letter in pool.dead_letters]
            if isinstance(outcome, Completed):
                delivered = outcome.value
                assert got + dead == delivered

    simulate(main, seed)


# -- restarts, supervisors ---------------------------------------------------------------------------


async def counts(ctx: AgentContext, to: int) -> str:
    """Fail until it has taken three messages, one in each life."""
    if (await ctx.receive()).content < 2:
        raise ValueError("again")
    return "done"


async def restarts(pool: AgentPool) -> Any:
    policy = RestartPolicy("transient", max_restarts=5, within=1000)
    one = await pool.spawn(placed(counts), 0, restart=policy)
    for number in range(3):
        await pool.send(one.id, number)
    outcome = await one.wait()
    return told(outcome), outcome.restarts


async def fails_later(ctx: AgentContext) -> None:
    await trio.sleep(1)
    raise ValueError("child")


async def a_supervisor(pool: AgentPool) -> Any:
    children = [ChildSpec(placed(fails_later), mode="transient"), ChildSpec(placed(forever))]
    supervisor = Supervisor(children, strategy="one_for_all", max_restarts=2, within=1000)
    outcome = await (await pool.spawn(supervisor)).wait()
    assert isinstance(outcome, Failed)
    return type(outcome.error).__name__


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("program", [restarts, a_supervisor])
def test_agents_are_restarted(program: Program, way: str) -> None:
    compared(program, way, 4)


@pytest.mark.parametrize("how", ["kill", "cut"])
def test_a_lost_worker_restarts_its_agents_only_by_policy(how: str) -> None:
    async def main() -> None:
        placement = InProcessPlacement(1, lease=4)
        async with open_agent_pool(max_concurrent=4, placement=placement) as pool:
            one = await pool.spawn(placed(waits), 30.0, "one")
            policy = RestartPolicy("transient", max_restarts=1, within=1000)
            two = await pool.spawn(placed(waits), 30.0, "two", restart=policy)
            await trio.sleep(3)
            getattr(placement.workers[0], how)()
            lost = await one.wait()
            assert isinstance(lost, Failed)
            assert isinstance(lost.error, WorkerLostError)
            again = await two.wait()
            assert (told(again)[3], again.restarts) == ("two", 1)

    simulate(main)


# -- aborting ----------------------------------------------------------------------------------------


async def has_a_child(ctx: AgentContext) -> None:
    await ctx.spawn(placed(forever), name="child")
    await trio.sleep_forever()


async def aborts(pool: AgentPool) -> Any:
    parent = await pool.spawn(placed(has_a_child))
    await trio.sleep(3)
    parent.abort("enough")
    found = [told(await parent.wait())]
    failing = await pool.spawn(placed(fails_with_a_child))
    found.append(told(await failing.wait()))
    for _ in range(2):
        await pool.spawn(placed(forever))
    pool.abort_all("all of you")
    found.extend(sorted(told(each) for each in (await pool.join_all()).values()))
    return found


async def fails_with_a_child(ctx: AgentContext) -> None:
    await ctx.spawn(placed(forever))
    raise ValueError("parent")


@pytest.mark.parametrize("way", WAYS)
def test_aborts_reach_children_and_reasons_travel(way: str) -> None:
    compared(aborts, way, 4)


# -- events ------------------------------------------------------------------------------------------


async def busy(pool: AgentPool) -> Any:
    to = await pool.spawn(placed(server))
    await (await pool.spawn(placed(asks), to.id, 2)).wait()
    await (await pool.spawn(placed(tree), 1)).wait()
    await (await pool.spawn(placed(fails))).wait()


def test_events_come_as_they_do_in_place() -> None:
    def seen(placement: InProcessPlacement | None) -> dict[int, list[str]]:
        run = simulate(lambda: came_to(busy, placement, 1))
        found: dict[int, list[str]] = {}
        for event in run.log:
            found.setdefault(event.agent_id, []).append(type(event).__name__)
        return found

    assert seen(InProcessPlacement()) == seen(None)
    assert seen(InProcessPlacement(loss=0.1)) == seen(None)


async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.mark.parametrize("way", WAYS)
def test_events_of_a_model_agent_come_as_they_do_in_place(way: str) -> None:
    def seen(placement: InProcessPlacement | None) -> list[str]:
        async def main() -> None:
            driver = ScriptedDriver(
                [Completion(tool_calls=(ToolCall("1", "add", {"a": 1, "b": 2}),)), "three"]
            )
            async with open_agent_pool(driver, max_concurrent=1, placement=placement) as pool:
                config = SpawnConfig(AgentManifest(name="adds", capabilities=()), "1+2?", tools=[add])
                handle = await pool.spawn(placed(config))
                assert (await handle.result()).text == "three"

        return [type(event).__name__ for event in simulate(main).log]

    assert seen(WAYS[way]()) == seen(None)


# -- cancelled at every step -------------------------------------------------------------------------


async def small_tree(pool: AgentPool) -> None:
    await (await pool.spawn(placed(tree), 1, True)).wait()


async def small_talk(pool: AgentPool) -> None:
    to = await pool.spawn(placed(server))
    await (await pool.spawn(placed(asks), to.id, 1)).wait()


async def waits_with_a_child(ctx: AgentContext) -> None:
    await ctx.spawn(placed(waits), 4.0)
    await trio.sleep(4)


async def small_loss(pool: AgentPool) -> None:
    one = await pool.spawn(placed(waits), 4.0)
    two = await pool.spawn(placed(waits_with_a_child))
    await trio.sleep(1)
    placements[-1].workers[0].kill()
    placements[-1].workers[1].cut()
    await one.wait()
    await two.wait()


placements: list[InProcessPlacement] = []


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("program", [small_tree, small_talk, small_loss])
def test_whatever_is_cancelled_whenever_the_books_are_right(program: Program, loss: float) -> None:
    async def main(sim: SimulationContext) -> None:
        placements.append(InProcessPlacement(lease=2, loss=loss))
        async with open_agent_pool(max_concurrent=1, placement=placements[-1]) as pool:
            with sim.body():
                await program(pool)

    steps = range(1, 150, 10)
    sweep = cancel_everywhere(main, steps=steps)
    assert sweep.runs == 1 + 5 * len(steps)


# -- told, and not waited for ------------------------------------------------------------------------------


async def subscribes_late(ctx: AgentContext) -> str:
    async for _ in ctx.inbox:
        pass
    ctx.subscribe("too late")  # nothing can come any more
    await trio.sleep(1)
    return "ended well"


async def exits_late(ctx: AgentContext) -> None:
    async for _ in ctx.inbox:
        pass
    ctx.subscribe("too late")
    raise SystemExit(3)


async def test_a_subscription_that_comes_too_late_costs_nothing(autojump_clock: Any) -> None:
    async with open_agent_pool(max_concurrent=2, placement=InProcessPlacement()) as pool:
        handle = await pool.spawn(placed(subscribes_late))
    assert (await handle.wait()).unwrap() == "ended well"


async def test_what_an_agent_tells_too_late_hides_no_exit(autojump_clock: Any) -> None:
    with pytest.raises(SystemExit):
        async with open_agent_pool(max_concurrent=2, placement=InProcessPlacement()) as pool:
            await pool.spawn(placed(exits_late))
