"""A waiting agent lends its slot: trees of agents end under every limit, and nobody starves."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio
from pool_kit import Running, pool_of, server, sleeper, value
from trio.testing import MockClock

from agentpool import (
    Aborted,
    AgentContext,
    AgentTimeoutError,
    Failed,
    UnknownAgentError,
    open_agent_pool,
)
from agentpool._core.turns import WOKEN_IN_A_ROW
from agentpool._kernel.activity import Activity

# -- random trees ------------------------------------------------------------------------------------


class Tree:
    """A random tree of agents that wait for each other in every way there is."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.running = Running()
        self.left = self.random.choice([3, 8, 20, 40])
        self.ended = 0
        self.started = 0

    async def work(self) -> None:
        with self.running:
            # Even a checkpoint lets others show that they run beside us.
            await trio.lowlevel.checkpoint()
            if self.random.random() < 0.2:
                await trio.sleep(self.random.choice([0.1, 1]))

    async def node(self, ctx: AgentContext, depth: int) -> int:
        self.started += 1
        await self.work()
        random = self.random
        width = random.randint(0, 5) if depth else 0
        width = min(width, max(self.left, 0))
        self.left -= width
        done = 1
        if width:
            way = random.choice(self.WAYS)
            done += await way(self, ctx, depth - 1, width)
        await self.work()
        self.ended += 1
        return done

    async def by_result(self, ctx: AgentContext, depth: int, width: int) -> int:
        handles = [await ctx.spawn(self.node, depth) for _ in range(width)]
        self.random.shuffle(handles)
        done = 0
        for handle in handles:
            done += await handle.result()
            await self.work()
        return done

    async def by_join_all(self, ctx: AgentContext, depth: int, width: int) -> int:
        for _ in range(width):
            await ctx.spawn(self.node, depth)
        return sum(outcome.unwrap() for outcome in (await ctx.join_all()).values())

    async def by_join_next(self, ctx: AgentContext, depth: int, width: int) -> int:
        for _ in range(width):
            await ctx.spawn(self.node, depth)
        done = 0
        while (outcome := await ctx.join_next()) is not None:
            done += outcome.unwrap()
        return done

    async def by_map(self, ctx: AgentContext, depth: int, width: int) -> int:
        items = [depth] * width
        given: Any = items if self.random.random() < 0.5 else iter(items)
        return sum(outcome.unwrap() for outcome in await ctx.map(self.node, given))

    async def by_as_completed(self, ctx: AgentContext, depth: int, width: int) -> int:
        done = 0
        given: Any = [depth] * width
        async with ctx.as_completed(self.node, given if width % 2 else iter(given)) as outcomes:
            async for outcome in outcomes:
                done += outcome.unwrap()
                await self.work()
        return done

    async def by_ask(self, ctx: AgentContext, depth: int, width: int) -> int:
        async def answering(child: AgentContext) -> None:
            async for message in child.inbox:
                child.reply(message, await self.node(child, depth))
                return

        done = 0
        for _ in range(width):
            handle = await ctx.spawn(answering)
            done += await ctx.ask(handle.id, "how many?")
        await ctx.join_all()
        return done

    async def by_report(self, ctx: AgentContext, depth: int, width: int) -> int:
        async def reporting(child: AgentContext) -> None:
            # More messages than the inbox holds: some of them wait for room.
            for _ in range(3):
                await child.send(child.parent_id, 0)
            await child.send(child.parent_id, await self.node(child, depth))

        for _ in range(width):
            await ctx.spawn(reporting)
        done = 0
        for _ in range(4 * width):
            done += (await ctx.receive()).content
            await self.work()
        await ctx.join_all()
        return done

    async def by_nursery(self, ctx: AgentContext, depth: int, width: int) -> int:
        done = 0

        async def one() -> None:
            nonlocal done
            done += await (await ctx.spawn(self.node, depth)).result()
            await trio.lowlevel.checkpoint()

        async with ctx.open_nursery() as nursery:
            for _ in range(width):
                nursery.start_soon(one)
        return done

    async def by_leaving(self, ctx: AgentContext, depth: int, width: int) -> int:
        for _ in range(width):
            await ctx.spawn(self.node, depth)
        return 0

    WAYS = (
        by_result,
        by_join_all,
        by_join_next,
        by_map,
        by_as_completed,
        by_ask,
        by_report,
        by_nursery,
        by_leaving,
    )

    async def run(self, slots: int) -> int:
        async with open_agent_pool(max_concurrent=slots, inbox_capacity=self.random.randint(1, 4)) as pool:
            handle = await pool.spawn(self.node, self.random.randint(1, 8))
        assert pool._books().problems() == []
        assert handle.outcome is not None
        return handle.outcome.unwrap()  # type: ignore[no-any-return]


def _run_tree(seed: int, slots: int, seconds: float = 10_000) -> Tree:
    tree = Tree(seed)

    async def main() -> None:
        with trio.fail_after(seconds):
            await tree.run(slots)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return tree


@pytest.mark.parametrize("slots", range(1, 17))
def test_random_trees_end_under_every_limit_and_never_run_more_agents(slots: int) -> None:
    # 1,000 seeds over the 16 limits.
    for seed in range(slots, 1000, 16):
        tree = _run_tree(seed, slots)
        assert tree.ended == tree.started >= 1
        assert tree.running.peak <= slots


def _keep_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch lending off: nobody may take the slot of an agent that waits, which goes on with it."""

    rest = Activity.rest

    def keep(self: Activity, **judging: bool) -> None:
        holds, self.holds = self.holds, False
        rest(self, **judging)
        self.holds = holds

    monkeypatch.setattr(Activity, "rest", keep)


def test_the_same_trees_hang_when_waiting_agents_keep_their_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = range(1, 1000, 16)
    sizes = {seed: _run_tree(seed, 1).started for seed in seeds}
    _keep_slots(monkeypatch)
    hung = 0
    for seed in seeds:
        if sizes[seed] == 1:
            _run_tree(seed, 1)  # nobody waits for anybody
            continue
        with pytest.raises(trio.TooSlowError):
            _run_tree(seed, 1)
        hung += 1
    assert hung > 40
    for seed in seeds:
        # With a slot for each agent nobody has to lend: it is the lending that they miss.
        assert _run_tree(seed, 200).started >= 1


# -- who goes first --------------------------------------------------------------------------------------


async def test_woken_agents_go_before_new_ones_but_after_eight_in_a_row_one_starts(
    autojump_clock: Any,
) -> None:
    order: list[str] = []

    async def old(ctx: AgentContext) -> None:
        await ctx.receive()
        order.append("woken")
        await trio.lowlevel.checkpoint()

    async def new(ctx: AgentContext) -> None:
        order.append("new")
        await trio.lowlevel.checkpoint()

    async def holder(ctx: AgentContext) -> None:
        await trio.sleep(1)

    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        handles = [await pool.spawn(old) for _ in range(30)]
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(holder)
        for _ in range(10):
            nursery.start_soon(pool.spawn, new)
        await trio.testing.wait_all_tasks_blocked()
        for handle in handles:
            pool.send_nowait(handle.id, "go")
        await trio.sleep(5)
    assert WOKEN_IN_A_ROW == 8
    expected = ((["woken"] * 8 + ["new"]) * 3) + ["woken"] * 6 + ["new"] * 7
    assert order == expected


async def test_woken_agents_go_in_the_order_in_which_they_were_woken(autojump_clock: Any) -> None:
    order: list[int] = []

    async def old(ctx: AgentContext) -> None:
        await ctx.receive()
        order.append(ctx.id)
        await trio.lowlevel.checkpoint()

    async with pool_of(1) as pool:
        handles = [await pool.spawn(old) for _ in range(10)]
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(sleeper, 1)
        shuffled = [handle.id for handle in handles]
        Random(3).shuffle(shuffled)
        for agent_id in shuffled:
            pool.send_nowait(agent_id, "go")
    assert order == shuffled


async def test_two_agents_in_ping_pong_do_not_keep_a_third_from_starting(autojump_clock: Any) -> None:
    hops = 0
    stop = False

    async def player(ctx: AgentContext) -> None:
        nonlocal hops
        async for message in ctx.inbox:
            hops += 1
            if stop or hops > 20_000:
                return
            await ctx.send(message.content, ctx.id)

    async def third(ctx: AgentContext) -> int:
        nonlocal stop
        stop = True
        return hops

    async with pool_of(1) as pool:
        a, b = await pool.fan_out([player, player])
        await trio.testing.wait_all_tasks_blocked()
        pool.send_nowait(a.id, b.id)
        assert await (await pool.spawn(third)).result() < 20


async def test_the_first_of_many_agents_finish_early(autojump_clock: Any) -> None:
    # Four turns each, of a second: 200 agents on 8 slots, whose turns are waits for a model.
    async def model(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            ctx.reply(message, None)

    async def agent(ctx: AgentContext, model_id: int) -> float:
        for _ in range(4):
            await trio.sleep(1)
            await ctx.ask(model_id, "turn")
        return trio.current_time()

    async def mean(slots: int) -> float:
        start = trio.current_time()
        async with pool_of(slots) as pool:
            model_id = (await pool.spawn(model)).id
            outcomes = await pool.map(agent, [model_id] * 200)
        return sum(outcome.unwrap() - start for outcome in outcomes) / 200

    async def one_after_the_other() -> float:
        # The same work, all agents alive from the beginning and taking turns fairly.
        start = trio.current_time()
        limiter = trio.CapacityLimiter(8)
        ends = []

        async def one() -> None:
            for _ in range(4):
                async with limiter:
                    await trio.sleep(1)
            ends.append(trio.current_time() - start)

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(one)
        return sum(ends) / 200

    lent = await mean(8)
    assert lent <= await one_after_the_other()
    assert lent < 65


# -- what ends a wait, and what the code needs to go on ------------------------------------------------


async def test_an_aborted_agent_that_was_woken_unwinds_without_a_slot(autojump_clock: Any) -> None:
    ends = []

    async def waiter(ctx: AgentContext) -> None:
        try:
            await ctx.receive()
            await trio.sleep(0)
        finally:
            ends.append(trio.current_time())

    async with pool_of(1) as pool:
        handle = await pool.spawn(waiter)
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(sleeper, 100)
        pool.send_nowait(handle.id, "woken, without a slot")
        await trio.sleep(1)
        handle.abort()
        assert isinstance(await handle.wait(), Aborted)
    assert ends == [1]


@pytest.mark.parametrize("how", ["deadline", "parent", "around", "body"])
@pytest.mark.parametrize("inner", [False, True])
async def test_an_agent_that_is_cancelled_unwinds_on_time_whoever_holds_the_slots(
    how: str, inner: bool, autojump_clock: Any
) -> None:
    ends = []

    async def waiter(ctx: AgentContext) -> None:
        try:
            # The inner timeout comes first, so that trio has asked once already.
            with trio.move_on_after(1 if inner else 50):
                await ctx.receive()
            await trio.sleep(0)
        finally:
            ends.append(trio.current_time())

    async def parent(ctx: AgentContext) -> None:
        await (await ctx.spawn(waiter, timeout=2 if how == "deadline" else None)).wait()

    async def busy(ctx: AgentContext) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    with trio.move_on_after(2 if how == "around" else 1000):
        try:
            async with pool_of(1) as pool:
                handle = await pool.spawn(parent)
                await trio.testing.wait_all_tasks_blocked()
                await pool.spawn(busy)
                await trio.sleep(2 if how != "around" else 200)
                if how == "parent":
                    handle.abort()
                if how == "body":
                    raise KeyError
                await handle.wait()
        except KeyError:
            pass
    assert ends == [2]


async def test_a_message_that_woke_an_agent_is_not_lost_to_an_inner_timeout(autojump_clock: Any) -> None:
    async def waiter(ctx: AgentContext) -> Any:
        with trio.move_on_after(5):
            return (await ctx.receive()).content, trio.current_time()
        return None

    async with pool_of(1) as pool:
        handle = await pool.spawn(waiter)
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(sleeper, 10)
        await trio.sleep(1)
        pool.send_nowait(handle.id, "x")
        assert await handle.result() == ("x", 10)


@pytest.mark.parametrize("happened", [True, False])
async def test_a_timeout_that_passes_while_an_agent_waits_for_its_slot_ends_it_on_time(
    happened: bool, autojump_clock: Any
) -> None:
    async def waiter(ctx: AgentContext) -> None:
        with trio.move_on_after(1):
            await ctx.receive()
        await trio.sleep_forever()

    async with pool_of(1) as pool:
        handle = await pool.spawn(waiter, timeout=5)
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(sleeper, 100)
        await trio.sleep(0.5)
        if happened:
            pool.send_nowait(handle.id, "x")
        outcome = await handle.wait()
        assert trio.current_time() == 5
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, AgentTimeoutError)


async def test_a_spawn_at_one_slot_lends_the_slot_that_its_child_needs(autojump_clock: Any) -> None:
    async def chain(ctx: AgentContext, n: int) -> int:
        return 0 if n == 0 else 1 + await (await ctx.spawn(chain, n - 1)).result()

    async with pool_of(1) as pool:
        assert await (await pool.spawn(chain, 16)).result() == 16


async def test_a_spawn_that_is_cancelled_after_the_child_has_started_returns_its_handle(
    autojump_clock: Any,
) -> None:
    async def parent(ctx: AgentContext) -> Any:
        handle = None
        with trio.move_on_after(1) as scope:
            handle = await ctx.spawn(sleeper, 5, "child")
        assert handle is not None
        assert not scope.cancelled_caught
        return await handle.result()

    async with pool_of(1) as pool:
        assert await (await pool.spawn(parent)).result() == "child"


async def test_an_aborted_agent_whose_child_has_started_ends_with_it(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> Any:
        await ctx.spawn(sleeper, 50)
        await ctx.join_all()

    async with pool_of(1) as pool:
        handle = await pool.spawn(parent)
        await trio.sleep(1)
        handle.abort("x")
        assert isinstance(await handle.wait(), Aborted)
        assert trio.current_time() == 1
        assert pool.statistics().ended == 2


async def test_a_timeout_around_ask_ends_the_wait_and_the_reply_is_a_dead_letter(autojump_clock: Any) -> None:
    async def slow(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            await trio.sleep(10)
            ctx.reply(message, "late")

    async def asker(ctx: AgentContext, to: int) -> str:
        with trio.move_on_after(2):
            await ctx.ask(to, "?")
        return "gave up"

    async with pool_of(1) as pool:
        slow_one = await pool.spawn(slow)
        assert await (await pool.spawn(asker, slow_one.id)).result() == "gave up"
    assert [letter.message.content for letter in pool.dead_letters] == ["late"]


async def test_a_slot_freed_by_an_end_goes_to_who_waits(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        first = await pool.spawn(sleeper, 1)
        second = await pool.spawn(sleeper, 1)
        assert first.outcome is not None
        assert second.status in ("starting", "running")
        assert trio.current_time() == 1


async def test_sends_to_a_full_inbox_lend_the_slot(autojump_clock: Any) -> None:
    async def reader(ctx: AgentContext) -> list[int]:
        return [message.content async for message in ctx.inbox]

    async def writer(ctx: AgentContext, to: int) -> None:
        for i in range(10):
            await ctx.send(to, i)

    async with pool_of(1, inbox_capacity=1) as pool:
        to = await pool.spawn(reader)
        await pool.spawn(writer, to.id)
    assert to.outcome is not None
    assert to.outcome.unwrap() == list(range(10))


async def test_cancelled_and_refused_waits_leave_the_books_in_order(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext, other: int) -> None:
        for verb in (lambda: ctx.receive(), lambda: ctx.ask(other, 1), lambda: ctx.send(other, 1)):
            for seconds in (0, 0.5):
                with trio.move_on_after(seconds):
                    await verb()
        with pytest.raises(UnknownAgentError):
            await ctx.ask(99, 1)

    async def deaf(ctx: AgentContext) -> None:
        await trio.sleep(20)

    async with pool_of(2, inbox_capacity=1) as pool:
        other = await pool.spawn(deaf)
        await pool.spawn(agent, other.id)
        await pool.spawn(server)
        await pool.spawn(value)


async def test_who_is_not_cancelled_himself_goes_on_waiting_for_his_slot_when_others_are_looked_after(
    autojump_clock: Any,
) -> None:
    ends = []

    async def waiter(ctx: AgentContext) -> None:
        try:
            with trio.move_on_after(1):
                await ctx.receive()
            await trio.lowlevel.checkpoint()
            ends.append((ctx.id, "went on", trio.current_time()))
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)
            ends.append((ctx.id, "ended", trio.current_time()))

    async with pool_of(1) as pool:
        await pool.spawn(waiter)
        second = await pool.spawn(waiter)
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(sleeper, 20)
        await trio.sleep(2)
        assert pool._books().left["cut_off"] == 2
        second.abort()
        # Somebody looks after those who were aborted: at 7 the second one is reported as stuck.
        await trio.sleep(6)
        assert [agent.id for agent in pool.statistics().stuck] == [2]
        assert pool._books().left["cut_off"] == 1
    assert ends == [(2, "ended", 12), (1, "went on", 20), (1, "ended", 30)]


async def test_all_tasks_of_an_agent_whose_time_is_over_go_on_without_a_slot(mock_clock: Any) -> None:
    ends = []

    async def receiver(ctx: AgentContext) -> None:
        try:
            await ctx.receive()
            await trio.lowlevel.checkpoint()
        finally:
            ends.append(trio.current_time())

    async def agent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(receiver, ctx)
            nursery.start_soon(receiver, ctx)

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent, timeout=5)
        await trio.testing.wait_all_tasks_blocked()
        busy = await pool.spawn(sleeper, 100)
        pool.send_nowait(handle.id, "woken, without a slot")
        await trio.testing.wait_all_tasks_blocked()
        assert ends == []
        mock_clock.jump(10)
        pool.send_nowait(handle.id, "too late")  # before trio sees that the time is over
        outcome = await handle.wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, AgentTimeoutError)
        assert ends == [10, 10]
        busy.abort()
