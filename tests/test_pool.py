"""Spawning, capacity, outcomes, handles, messages straight after spawn, statistics."""

from __future__ import annotations

import contextvars
import subprocess
import sys
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from pool_kit import Running, collector, failing, forever, pool_of, server, sleeper, value

from agentpool import (
    Aborted,
    AgentAbortedError,
    AgentContext,
    AgentFailedError,
    AgentTimeoutError,
    Budget,
    Completed,
    Failed,
    InMemory,
    PoolClosedError,
    PoolFullError,
    RestartPolicy,
    ScriptedDriver,
    TokenUsage,
    open_agent_pool,
)

# -- what a pool is opened with ----------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0, -1])
async def test_a_pool_without_slots_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="max_concurrent must be at least 1"):
        async with open_agent_pool(max_concurrent=wrong):
            pass


@pytest.mark.parametrize("wrong", [1.5, True, "2", None])
async def test_a_number_of_slots_that_is_no_int_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="max_concurrent must be an int"):
        async with open_agent_pool(max_concurrent=wrong):
            pass


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (True, TypeError), ("3", TypeError)])
async def test_an_inbox_capacity_that_makes_no_sense_is_refused(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="inbox_capacity"):
        async with open_agent_pool(max_concurrent=1, inbox_capacity=wrong):
            pass


async def test_a_pool_that_was_not_opened_says_how() -> None:
    """Each slip that leaves out `async with`, or one of its two words."""
    block: Any = open_agent_pool(max_concurrent=1)
    how = r"open it with `async with open_agent_pool\(\.\.\.\) as pool:`"
    with pytest.raises(AttributeError, match=f"a pool that is not open has no 'spawn'; {how}"):
        block.spawn  # noqa: B018
    assert not hasattr(block, "map")
    with pytest.raises(TypeError, match=f"a pool is not awaited; {how}"):
        await block
    with pytest.raises(TypeError, match=f"`async with` instead of `with`; {how}"):
        with block:
            pass
    with pytest.raises(TypeError, match=f"nothing to iterate over; {how}"):
        list(block)
    with pytest.raises(TypeError, match=f"nothing to iterate over; {how}"):
        async for _ in block:
            pass
    async with block as pool:
        assert pool.active_count == 0


async def test_agents_see_the_means_of_their_pool() -> None:
    driver, memory, budget = ScriptedDriver(["x"]), InMemory(), Budget(calls=3)

    async def agent(ctx: AgentContext) -> None:
        assert (ctx.driver, ctx.memory, ctx.budget) == (driver, memory, budget)
        assert (ctx.id, ctx.name, ctx.parent_id, ctx.depth) == (1, "me", 0, 0)
        assert ctx.tools is None
        assert "running" in repr(ctx)

    async with pool_of(1, driver=driver, memory=memory, budget=budget) as pool:
        await (await pool.spawn(agent, name="me")).result()


# -- spawn -----------------------------------------------------------------------------------------


async def test_ids_count_up_from_1_and_are_never_used_again() -> None:
    async with pool_of(1) as pool:
        ids = []
        for _ in range(5):
            handle = await pool.spawn(value)
            await handle.wait()
            ids.append(handle.id)
    assert ids == [1, 2, 3, 4, 5]


async def test_an_agent_gets_its_arguments() -> None:
    async def agent(ctx: AgentContext, a: int, b: str) -> tuple[int, str]:
        return a, b

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent, 1, "b")).result() == (1, "b")


async def test_any_async_callable_is_an_agent() -> None:
    class Agent:
        name = "callable"

        async def __call__(self, ctx: AgentContext) -> str:
            return ctx.name

        async def method(self, ctx: AgentContext) -> str:
            return ctx.name

    async with pool_of(3) as pool:
        assert await (await pool.spawn(Agent())).result() == "callable"
        assert await (await pool.spawn(Agent().method)).result() == "method"
        assert await (await pool.spawn(partial(value, what=3))).result() == 3
        assert (await pool.spawn(partial(partial(value), what=3))).name == "value"
        assert (await pool.spawn(value, name="own")).name == "own"
        await pool.join_all()


async def test_an_agent_without_any_name_is_called_after_its_class() -> None:
    class Nameless:
        name = 3

        async def __call__(self, ctx: AgentContext) -> None:
            pass

    async with pool_of(1) as pool:
        assert (await pool.spawn(Nameless())).name == "Nameless"


async def test_a_coroutine_in_place_of_an_agent_is_refused_with_the_fix() -> None:
    async with pool_of(1) as pool:
        with pytest.raises(TypeError, match=r"spawn\(agent, argument\)"):
            await pool.spawn(value(None))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="async callable"):
            await pool.spawn(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"name": 3}, TypeError),
        ({"restart": "always"}, TypeError),
    ],
)
async def test_options_that_make_no_sense_are_refused_and_start_nothing(
    options: dict[str, Any], error: type[Exception]
) -> None:
    async with pool_of(1) as pool:
        with pytest.raises(error, match=next(iter(options))):
            await pool.spawn(value, **options)
        with pytest.raises(error, match=next(iter(options))):
            pool.spawn_nowait(value, **options)
        assert pool.statistics().spawned == 0


async def test_a_plain_function_in_place_of_an_agent_is_a_failure_of_that_agent() -> None:
    def agent(ctx: AgentContext) -> int:
        return 3

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent)).wait()  # type: ignore[arg-type]
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, TypeError)


async def test_spawn_nowait_raises_pool_full_error_which_is_a_would_block() -> None:
    async with pool_of(1) as pool:
        handle = pool.spawn_nowait(forever)
        with pytest.raises(PoolFullError, match="all 1 slots") as caught:
            pool.spawn_nowait(forever)
        assert isinstance(caught.value, trio.WouldBlock)
        assert pool.statistics().spawned == 1
        handle.abort()


async def test_spawn_nowait_does_not_overtake_those_who_wait_for_a_slot(autojump_clock: Any) -> None:
    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        pool.spawn_nowait(sleeper, 1)
        nursery.start_soon(pool.spawn, sleeper, 1)
        await trio.testing.wait_all_tasks_blocked()
        pool.max_concurrent = 2
        assert pool.active_count == 2
        with pytest.raises(PoolFullError):
            pool.spawn_nowait(value)


async def test_spawn_waits_for_a_slot(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        for _ in range(6):
            await pool.spawn(sleeper, 1)
        assert trio.current_time() == 2
    assert trio.current_time() == 3


async def test_a_cancelled_spawn_starts_nothing(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        pool.spawn_nowait(sleeper, 10)
        with trio.move_on_after(1) as scope:
            await pool.spawn(value)
        assert scope.cancelled_caught
        assert pool.statistics().waiting_to_start == 0
        await trio.sleep(20)
        assert pool.statistics().spawned == 1


async def test_every_waiting_verb_is_a_checkpoint_and_does_nothing_when_cancelled() -> None:
    async with pool_of(3) as pool:
        handle = await pool.spawn(server)
        ended = await pool.spawn(value)
        await trio.testing.wait_all_tasks_blocked()
        before = pool.statistics()
        for verb in (
            lambda: pool.spawn(value),
            lambda: pool.fan_out([value]),
            lambda: pool.send(handle.id, 1),
            lambda: pool.ask(handle.id, 1),
            lambda: pool.join_next(),
            lambda: pool.join_all(),
            lambda: ended.wait(),
            lambda: pool.map(value, [1]),
        ):
            with trio.CancelScope() as scope:
                scope.cancel()
                await verb()
            assert scope.cancelled_caught
        after = pool.statistics()
        assert after.messages_sent == 0
        assert attrs.evolve(after, spawned=0, ended=0) == attrs.evolve(before, spawned=0, ended=0)
        assert (await pool.join_next()) == ended.outcome


@pytest.mark.parametrize("verb", ["spawn", "send", "wait", "join_next", "join_all", "map", "fan_out"])
async def test_verbs_that_need_not_wait_are_checkpoints_too(verb: str) -> None:
    async with pool_of(3) as pool:
        box = await pool.spawn(server)
        handle = await pool.spawn(value)
        await trio.testing.wait_all_tasks_blocked()
        with trio.testing.assert_checkpoints():
            if verb == "spawn":
                await pool.spawn(value)
            elif verb == "fan_out":
                await pool.fan_out([])
            elif verb == "send":
                await pool.send(box.id, 1)
            elif verb == "wait":
                await handle.wait()
            elif verb == "join_next":
                await pool.join_next()
            elif verb == "map":
                assert await pool.map(value, []) == []
            else:
                box.abort()
                with trio.CancelScope(shield=True):
                    await box.wait()
                await pool.join_all()


# -- capacity --------------------------------------------------------------------------------------


async def test_ten_thousand_agents_never_run_more_than_max_concurrent_at_once(autojump_clock: Any) -> None:
    running = Running()

    async def agent(ctx: AgentContext) -> int:
        with running:
            await trio.sleep(1)
            return ctx.id

    async with pool_of(100) as pool:
        handles = await pool.fan_out([agent] * 10_000)
        outcomes = await pool.join_all()
    assert running.peak == 100
    assert sorted(outcomes) == [handle.id for handle in handles] == list(range(1, 10_001))
    assert all(outcome.unwrap() == agent_id for agent_id, outcome in outcomes.items())


async def test_a_slot_is_free_when_its_agent_ends_though_nobody_has_joined_it() -> None:
    async with pool_of(1) as pool:
        await pool.spawn(value)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().running == 0
        pool.spawn_nowait(value)


async def test_max_concurrent_raised_starts_at_once_who_waits(autojump_clock: Any) -> None:
    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(pool.spawn, sleeper, 5)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.active_count == 1
        pool.max_concurrent = 3
        assert pool.max_concurrent == 3
        assert pool.active_count == 3


@pytest.mark.parametrize("lowered", [1, 2])
async def test_max_concurrent_lowered_takes_effect_as_agents_end_or_wait(
    lowered: int, autojump_clock: Any
) -> None:
    running = Running()

    async def agent(ctx: AgentContext) -> None:
        with running:
            await trio.sleep(1)

    async with pool_of(4) as pool:
        await pool.fan_out([agent] * 4)
        await trio.sleep(0)
        pool.max_concurrent = lowered
        assert pool.statistics().running == 4
        await trio.sleep(1)
        running.peak = 0
        await pool.map(lambda ctx, _: agent(ctx), range(6))
    assert running.peak == lowered


async def test_a_lowered_limit_holds_for_woken_agents_too(autojump_clock: Any) -> None:
    running = Running()

    async def agent(ctx: AgentContext) -> None:
        await ctx.receive()
        with running:
            await trio.sleep(1)

    async with pool_of(4) as pool:
        handles = await pool.fan_out([agent] * 4)
        await trio.testing.wait_all_tasks_blocked()
        pool.max_concurrent = 1
        for handle in handles:
            pool.send_nowait(handle.id, "go")
    assert running.peak == 1
    assert trio.current_time() == 4


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (1.0, TypeError), (True, TypeError)])
async def test_max_concurrent_set_to_nonsense_is_refused(wrong: Any, error: type[Exception]) -> None:
    async with pool_of(2) as pool:
        with pytest.raises(error):
            pool.max_concurrent = wrong
        assert pool.max_concurrent == 2


# -- outcomes and handles --------------------------------------------------------------------------


async def test_a_handle_tells_how_its_agent_does_and_how_it_ended(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> int:
        await ctx.receive()
        await trio.sleep(1)
        return 3

    async with pool_of(1) as pool:
        handle = pool.spawn_nowait(agent, name="it")
        assert (handle.id, handle.name, handle.status, handle.outcome) == (1, "it", "starting", None)
        await trio.testing.wait_all_tasks_blocked()
        assert handle.status == "waiting"
        assert "agent 1 (it), waiting" in repr(handle)
        pool.send_nowait(1, "go")
        await trio.testing.wait_all_tasks_blocked()
        assert handle.status == "running"
        outcome = await handle.wait()
        assert handle.status == "completed"
        assert outcome is handle.outcome
        assert isinstance(outcome, Completed)
        assert (outcome.agent_id, outcome.name, outcome.parent_id) == (1, "it", 0)
        assert (outcome.value, outcome.started_at, outcome.duration, outcome.restarts) == (3, 0, 1, 0)
        assert await handle.result() == outcome.unwrap() == 3


async def test_a_parent_whose_body_ended_is_ending_until_its_children_have_ended(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(sleeper, 5)

    async with pool_of(2) as pool:
        handle = await pool.spawn(parent)
        await trio.sleep(1)
        assert handle.status == "ending"


async def test_result_raises_from_the_original_and_wait_never_does() -> None:
    error = ValueError("mine")
    async with pool_of(2) as pool:
        handle = await pool.spawn(failing, error)
        outcome = await handle.wait()
        assert isinstance(outcome, Failed)
        assert outcome.error is error
        assert handle.status == "failed"
        for raising in (handle.result,):
            with pytest.raises(AgentFailedError, match=r"agent 1 \(failing\) failed: ValueError") as caught:
                await raising()
            assert caught.value.__cause__ is error
        with pytest.raises(AgentFailedError):
            outcome.unwrap()


async def test_an_aborted_agent_ends_with_the_reason() -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(forever)
        handle.abort("not needed")
        outcome = await handle.wait()
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "not needed"
        assert handle.status == "aborted"
        with pytest.raises(AgentAbortedError, match="was aborted: not needed"):
            await handle.result()
        handle.abort("again")
        assert handle.outcome == outcome


async def test_any_number_of_tasks_may_wait_for_the_same_agent(autojump_clock: Any) -> None:
    seen = []
    async with pool_of(1) as pool:
        handle = await pool.spawn(sleeper, 1, "x")

        async def look() -> None:
            seen.append(await handle.result())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(look)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.5) as scope:
                await handle.wait()
            assert scope.cancelled_caught
    assert seen == ["x"] * 3


async def test_a_handle_can_be_asked_after_the_pool_has_ended() -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(value, 3)
    assert await handle.result() == 3
    handle.abort("too late")
    assert handle.status == "completed"


async def test_outcomes_are_frozen() -> None:
    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(value, 3)).wait()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        outcome.value = 4  # type: ignore[union-attr, misc]


async def test_usage_is_in_the_outcome_however_the_agent_ends() -> None:
    async def agent(ctx: AgentContext, error: Exception | None) -> None:
        ctx.add_usage(TokenUsage(3, 4))
        ctx.add_usage(TokenUsage(1, 1))
        assert ctx.usage == TokenUsage(4, 5)
        if error is None:
            await trio.sleep_forever()
        raise error

    async with pool_of(2) as pool:
        failed = await pool.spawn(agent, ValueError())
        aborted = await pool.spawn(agent, None)
        await trio.testing.wait_all_tasks_blocked()
        aborted.abort()
        assert (await failed.wait()).usage == (await aborted.wait()).usage == TokenUsage(4, 5)
        assert pool.statistics().usage == TokenUsage(8, 10)


@pytest.mark.parametrize("seed", range(5))
async def test_every_id_yields_exactly_one_outcome_whatever_is_cancelled(
    seed: int, autojump_clock: Any
) -> None:
    from random import Random

    random = Random(seed)
    async with pool_of(3) as pool:
        handles = await pool.fan_out([partial(sleeper, seconds=random.uniform(0, 9)) for _ in range(3)])
        for _ in range(20):
            with trio.move_on_after(random.uniform(0, 1)):
                handles.append(await pool.spawn(sleeper, random.uniform(0, 3)))
            random.choice(handles).abort()
        taken = []
        while (outcome := await pool.join_next()) is not None:
            taken.append(outcome.agent_id)
            with trio.move_on_after(random.uniform(0, 0.2)):
                more = await pool.join_next()
                if more is not None:
                    taken.append(more.agent_id)
    assert sorted(taken) == [handle.id for handle in handles] == list(range(1, len(handles) + 1))


# -- time limits -------------------------------------------------------------------------------------


async def test_a_timeout_is_a_failure_that_is_a_timeout_error_too(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(forever, timeout=2.5, name="slow")
        outcome = await handle.wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, AgentTimeoutError)
        assert isinstance(outcome.error, TimeoutError)
        assert str(outcome.error) == "agent 1 (slow) did not end within 2.5 seconds"
        assert outcome.duration == 2.5


async def test_the_timeout_counts_from_the_start_and_not_from_the_call_of_spawn(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        pool.spawn_nowait(sleeper, 10)
        handle = await pool.spawn(sleeper, 3, "done", timeout=5)
        assert await handle.result() == "done"


async def test_an_agent_that_ends_well_after_its_deadline_has_completed(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        return "late"

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent, timeout=1)).result() == "late"


# -- isolation ---------------------------------------------------------------------------------------


async def test_the_failure_of_an_agent_touches_nobody_else(autojump_clock: Any) -> None:
    async with pool_of(3) as pool:
        first = await pool.spawn(sleeper, 2, 1)
        bad = await pool.spawn(failing)
        last = await pool.spawn(sleeper, 2, 2)
        assert isinstance((await bad.wait()), Failed)
        assert (await first.result(), await last.result()) == (1, 2)


# -- who waits -----------------------------------------------------------------------------------------


async def test_a_waiting_verb_in_an_unknown_task_names_open_nursery() -> None:
    errors = []

    async def agent(ctx: AgentContext, pool: Any, other: Any) -> None:
        async def attempt(verb: Any, *args: Any) -> None:
            try:
                await verb(*args)
            except RuntimeError as error:
                errors.append(str(error))

        async with trio.open_nursery() as nursery:
            for verb, *args in (
                (ctx.receive,),
                (ctx.send, other.id, 1),
                (ctx.ask, other.id, 1),
                (ctx.spawn, value),
                (ctx.join_next,),
                (ctx.join_all,),
                (other.wait,),
                (other.result,),
                (ctx.map, value, [1]),
                (ctx.race, value),
                (pool.spawn, value),
                (pool.ask, other.id, 1),
                (pool.join_next,),
                (ctx.fan_out, [value]),
                (ctx.broadcast, 1),
            ):
                nursery.start_soon(attempt, verb, *args)

    async with pool_of(2) as pool:
        other = await pool.spawn(server)
        await (await pool.spawn(agent, pool, other)).result()
    assert len(errors) == 15
    assert all("ctx.open_nursery()" in error and "agent 2 (agent)" in error for error in errors)
    assert other.outcome is not None
    assert other.outcome.unwrap() == []


_POOL_IN_UNKNOWN_TASK = """
import trio
from agentpool import open_agent_pool
async def agent(ctx):
    async def inner():
        async with open_agent_pool(max_concurrent=1):
            pass
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inner)
async def main():
    async with open_agent_pool(max_concurrent=1) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    print(outcome.error.exceptions[0])
trio.run(main)
"""


def test_a_pool_that_is_opened_in_an_unknown_task_is_refused() -> None:
    # In a process of its own: what is promised not to happen cannot be cancelled.
    done = subprocess.run(
        [sys.executable, "-c", _POOL_IN_UNKNOWN_TASK], capture_output=True, text=True, timeout=60
    )
    assert "ctx.open_nursery" in done.stdout


async def test_an_agent_receives_from_its_own_inbox_only() -> None:
    async def agent(ctx: AgentContext, other: Any) -> None:
        with pytest.raises(RuntimeError, match="only the tasks of agent 1"):
            await other.receive()
        with pytest.raises(RuntimeError, match="only the tasks of agent 1"):
            async with other.open_nursery():
                pass

    contexts = []

    async def keeper(ctx: AgentContext) -> None:
        contexts.append(ctx)
        async for _ in ctx.inbox:
            pass

    async with pool_of(2) as pool:
        await pool.spawn(keeper)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="only the tasks of agent 1"):
            await contexts[0].receive()
        await (await pool.spawn(agent, contexts[0])).result()


# -- context variables ---------------------------------------------------------------------------------

_var: contextvars.ContextVar[str] = contextvars.ContextVar("_var", default="none")


async def _look(ctx: AgentContext, *_: Any) -> str:
    return _var.get()


@pytest.mark.parametrize("slots", [1, 5])
async def test_a_child_starts_in_the_context_variables_of_whoever_spawned_it(slots: int) -> None:
    async def agent(ctx: AgentContext) -> list[Any]:
        token = _var.set("agent")
        found: list[Any] = [await (await ctx.spawn(_look)).result()]
        found += [outcome.unwrap() for outcome in await ctx.map(_look, [1, 2])]
        found += [outcome.unwrap() for outcome in await ctx.map(_look, iter([1, 2]))]
        found.append((await ctx.race(_look)).unwrap())
        _var.reset(token)
        return found

    _var.set("outside")
    async with pool_of(slots) as pool:
        handle = await pool.spawn(agent)
        other = await pool.spawn(_look)
        assert await handle.result() == ["agent"] * 6
        assert await other.result() == "outside"


# -- messages straight after spawn -----------------------------------------------------------------------


async def test_two_agents_converse_from_a_message_on_that_was_sent_straight_after_spawn() -> None:
    async def talker(ctx: AgentContext, first: bool) -> list[Any]:
        heard = []
        other = (await ctx.receive()).content if first else None
        if other is not None:
            await ctx.send(other, 0)
        while len(heard) < 5:
            message = await ctx.receive()
            heard.append(message.content)
            if message.content < 9:
                await ctx.send(message.sender, message.content + 1)
        return heard

    async with pool_of(2) as pool:
        a = await pool.spawn(talker, True)
        b = await pool.spawn(talker, False)
        await pool.send(a.id, b.id)
        assert await b.result() == [0, 2, 4, 6, 8]
        assert await a.result() == [1, 3, 5, 7, 9]


async def test_messages_sent_before_the_first_step_arrive_in_order() -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(collector)
        for i in range(5):
            pool.send_nowait(handle.id, i)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == [0, 1, 2, 3, 4]


# -- pools in pools ----------------------------------------------------------------------------------


async def test_a_nested_pool_lends_the_slot_of_the_agent_that_waits_in_it(autojump_clock: Any) -> None:
    running = Running()

    async def outer(ctx: AgentContext) -> int:
        async with open_agent_pool(max_concurrent=1) as inner:
            outcomes = await inner.map(sleeper, [1, 1])
        with running:
            await trio.sleep(1)
        return len(outcomes)

    async with pool_of(1) as pool:
        outcomes = await pool.map(lambda ctx, _: outer(ctx), range(3))
    assert [outcome.unwrap() for outcome in outcomes] == [2, 2, 2]
    assert running.peak == 1
    # Each started while the one before waited in its inner pool.
    assert trio.current_time() < 9


async def test_a_server_with_a_pool_of_its_own_is_told_that_no_more_messages_come(
    autojump_clock: Any,
) -> None:
    async def outer(ctx: AgentContext) -> int:
        done = 0
        async with open_agent_pool(max_concurrent=1) as inner:
            async for message in ctx.inbox:
                done += len(await inner.map(value, range(message.content)))
        return done

    async with pool_of(2) as pool:
        handle = await pool.spawn(outer)
        pool.send_nowait(handle.id, 3)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == 3


async def test_an_inner_pool_is_not_at_rest_while_an_agent_of_it_waits_for_the_outer_one(
    autojump_clock: Any,
) -> None:
    async def slow(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            await trio.sleep(3)
            ctx.reply(message, "answer")

    async def asker(ctx: AgentContext, outer: AgentContext, slow_id: int, to: int) -> None:
        await ctx.send(to, await outer.ask(slow_id, "question"))

    async def client(ctx: AgentContext, slow_id: int) -> Any:
        async with open_agent_pool(max_concurrent=2) as inner:
            sink = await inner.spawn(collector)
            await inner.spawn(asker, ctx, slow_id, sink.id)
        assert sink.outcome is not None
        return sink.outcome.unwrap()

    async with pool_of(2) as pool:
        handle = await pool.spawn(client, (await pool.spawn(slow)).id)
        assert await handle.result() == ["answer"]


async def test_an_outer_server_lives_on_while_an_agent_works_in_an_inner_pool(autojump_clock: Any) -> None:
    async def client(ctx: AgentContext, to: int) -> Any:
        async with open_agent_pool(max_concurrent=1) as inner:
            await (await inner.spawn(sleeper, 5)).wait()
        return await ctx.ask(to, "still there?")

    async with pool_of(2) as pool:
        handle = await pool.spawn(client, (await pool.spawn(server)).id)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == "still there?"


# -- what it shows -------------------------------------------------------------------------------------


async def test_statistics_show_who_runs_who_waits_and_for_whom(autojump_clock: Any) -> None:
    async def boss(ctx: AgentContext) -> None:
        handle = await ctx.spawn(sleeper, 10, name="worker")
        await handle.wait()

    async with pool_of(2, inbox_capacity=2) as pool:
        handle = await pool.spawn(boss)
        await trio.testing.wait_all_tasks_blocked()
        pool.max_concurrent = 1
        pool.send_nowait(handle.id, "x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.spawn, value)
            await trio.testing.wait_all_tasks_blocked()
            now = pool.statistics()
            assert (now.max_concurrent, now.running, now.lent, now.waiting_to_start) == (1, 1, 1, 1)
            assert [(w.id, w.name, w.waits_for) for w in now.waiting] == [(1, "boss", (2,))]
            assert (now.spawned, now.ended, now.stuck) == (2, 0, ())
            inbox = now.inboxes[handle.id]
            assert (inbox.fill, inbox.peak, inbox.capacity) == (1, 1, 2)
            assert (now.messages_sent, now.messages_received, now.dead_letters) == (1, 0, 0)
            assert pool.active_count == 2
            assert repr(pool) == "<AgentPool: 2 agents, 1 of 1 slots taken, 2 spawned>"
    after = pool.statistics()
    assert (after.running, after.lent, after.spawned, after.ended, after.dead_letters) == (0, 0, 3, 3, 1)


async def test_who_waits_for_anybody_waits_for_nobody_in_particular() -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(server)
        await trio.testing.wait_all_tasks_blocked()
        assert [w.waits_for for w in pool.statistics().waiting] == [()]
        assert pool.statistics().inboxes[handle.id].receivers_waiting == 1


async def test_an_agent_is_found_by_its_name() -> None:
    from agentpool import UnknownAgentError

    async with pool_of(3) as pool:
        handle = await pool.spawn(server, name="one")
        await pool.spawn(server, name="two")
        await pool.spawn(server, name="two")
        assert pool.find("one") == handle.id
        with pytest.raises(UnknownAgentError, match="no live agent is called 'three'"):
            pool.find("three")
        with pytest.raises(UnknownAgentError, match=r"2 live agents are called 'two'.*\[2, 3\]"):
            pool.find("two")


async def test_a_closed_pool_starts_nothing() -> None:
    async with pool_of(1) as pool:
        pass
    with pytest.raises(PoolClosedError):
        await pool.spawn(value)
    with pytest.raises(PoolClosedError):
        pool.spawn_nowait(value)
    with pytest.raises(PoolClosedError):
        await pool.map(value, [1])
    assert await pool.join_next() is None


async def test_the_quota_of_an_agent_hangs_below_the_parents() -> None:
    from agentpool.abc import AgentQuota

    class Agent:
        name = "quota"

        def __init__(self, **quota: Any) -> None:
            self.quota = AgentQuota(**quota)

        def build_tools(self, builder: Any) -> None:
            return None

        async def __call__(self, ctx: AgentContext) -> Any:
            assert ctx.budget is ctx.budget
            return ctx.budget

    async def parent(ctx: AgentContext) -> Any:
        return await (await ctx.spawn(Agent(tokens=50))).result()

    whole = Budget(tokens=100)
    async with pool_of(2, budget=whole) as pool:
        part = await (await pool.spawn(Agent(tokens=60))).result()
        part.reserve(tokens=60)
        assert await (await pool.spawn(Agent())).result() is whole
        from agentpool import BudgetExceededError

        nested = await (await pool.spawn(parent)).result()
        with pytest.raises(BudgetExceededError):
            nested.reserve(tokens=41)
    async with pool_of(2) as pool:
        assert await (await pool.spawn(Agent())).result() is None
        alone = await (await pool.spawn(Agent(cost_usd=1.0))).result()
        with pytest.raises(BudgetExceededError):
            alone.reserve(cost_usd=2.0)


async def test_tools_of_an_agent_are_built_once_from_its_manifest() -> None:
    from agentpool import AgentManifest, ToolRegistry

    built = []

    def build(manifest: AgentManifest) -> ToolRegistry:
        built.append(manifest)
        return ToolRegistry([])

    class Agent:
        name = "it"
        quota = None
        manifest = AgentManifest(name="it")

        def build_tools(self, builder: Any) -> Any:
            return builder(self.manifest)

        async def __call__(self, ctx: AgentContext) -> Any:
            return ctx.tools is ctx.tools and ctx.tools is not None

    async with pool_of(1, tool_builder=build) as pool:
        assert await (await pool.spawn(Agent())).result()
    assert built == [Agent.manifest]


async def test_restart_is_given_as_a_policy() -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(value, 3, restart=RestartPolicy())
        assert await handle.result() == 3


# -- wrong arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"driver": "ollama"},
        {"driver": ScriptedDriver},
        {"driver": 3},
        {"memory": InMemory},
        {"tool_builder": 3},
        {"limits": {"depth": 3}},
        {"budget": 1000},
    ],
)
async def test_means_that_are_none_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(wrong))):
        async with open_agent_pool(max_concurrent=1, **wrong):
            pass


def test_a_pool_outside_of_trio_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"trio\.run"):
        open_agent_pool(max_concurrent=1).__aenter__().send(None)  # type: ignore[attr-defined]


async def test_wrong_arguments_of_the_verbs_are_refused_with_the_fix() -> None:
    from agentpool import AgentManifest

    class Agent:
        async def __call__(self, ctx: AgentContext) -> None: ...

    async with pool_of(1) as pool:
        handle = await pool.spawn(server)
        with pytest.raises(TypeError, match="give an instance"):
            await pool.spawn(Agent)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="give an instance"):
            pool.as_completed(Agent, [1])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="SpawnConfig"):
            await pool.spawn(AgentManifest(name="m"))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="`id`"):
            await pool.send(handle, "x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be the id"):
            pool.send_nowait(1.5, "x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="list of agents"):
            await pool.fan_out(3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="n must be an int"):
            await pool.vote(value, n="3")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="name must be a string"):
            pool.find(3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="iterable"):
            await pool.map(value, 3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="call it"):
            await pool.map(value, lambda: [1])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="grace"):
            await pool.drain("10")  # type: ignore[arg-type]
        assert pool.statistics().spawned == 1


async def test_wrong_arguments_inside_an_agent_are_refused_with_the_fix() -> None:
    async def task() -> None: ...

    async def agent(ctx: AgentContext) -> str:
        with pytest.raises(TypeError, match="reply takes the message"):
            ctx.reply("content", "answer")  # type: ignore[arg-type]
        async with ctx.open_nursery() as nursery:
            with pytest.raises(TypeError, match=r"start_soon\(function, argument\)"):
                nursery.start_soon(task())  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="async function and its arguments"):
                nursery.start_soon(3)  # type: ignore[arg-type]
        return "fine"

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent)).result() == "fine"


async def test_an_agent_that_takes_other_arguments_is_told_how_it_is_called() -> None:
    async def agent() -> None: ...

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent)).wait()  # type: ignore[arg-type]
        assert isinstance(outcome, Failed)
        assert "the first parameter of an agent is its context" in str(outcome.error)


async def test_what_a_pool_and_a_context_tell_about_their_state(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> tuple[bool, bool]:
        return ctx.closing, ctx.draining

    async with pool_of(1) as pool:
        assert (pool.closing, pool.draining) == (False, False)
        assert await (await pool.spawn(agent)).result() == (False, False)
        await pool.drain(1)
        assert (pool.closing, pool.draining) == (True, True)


async def test_books_that_do_not_add_up_are_told_in_words() -> None:
    async with pool_of(1) as pool:
        books = attrs.evolve(pool._books(), issued=2, sent=3, left={"waits": 4, "idle": 0})
    assert books.problems() == [
        "2 ids were given out, but 0 outcomes recorded",
        "3 messages were sent, but 0 received and 0 buried",
        "waits is 4, not 0",
    ]
