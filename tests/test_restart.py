"""Restarts: same id, inbox and handle, a fresh body."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pool_kit import Running, forever, pool_of, server, sleeper, value

from agentpool import (
    Aborted,
    AgentContext,
    AgentRestarted,
    Backoff,
    Completed,
    Failed,
    RestartPolicy,
    UnhandledAgentErrors,
    UnknownAgentError,
    open_agent_pool,
)


def _fails(times: int, log: list[Any]) -> Any:
    async def agent(ctx: AgentContext) -> str:
        log.append((ctx.id, trio.current_time()))
        if len(log) <= times:
            raise ValueError(len(log))
        return "well"

    return agent


async def test_a_transient_agent_is_started_afresh_when_it_fails(autojump_clock: Any) -> None:
    log: list[Any] = []
    async with pool_of(1) as pool:
        handle = await pool.spawn(_fails(2, log), restart=RestartPolicy(max_restarts=5))
        outcome = await handle.wait()
    assert isinstance(outcome, Completed)
    assert (outcome.value, outcome.restarts, outcome.agent_id) == ("well", 2, 1)
    assert [agent_id for agent_id, _ in log] == [1, 1, 1]


async def test_one_failure_too_many_is_the_outcome(autojump_clock: Any) -> None:
    log: list[Any] = []
    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(_fails(9, log), restart=RestartPolicy(max_restarts=3))).wait()
    assert isinstance(outcome, Failed)
    assert outcome.error.args == (4,)
    assert (len(log), outcome.restarts) == (4, 3)


async def test_restarts_that_are_long_ago_do_not_count(autojump_clock: Any) -> None:
    log: list[Any] = []

    async def agent(ctx: AgentContext) -> str:
        log.append(1)
        await trio.sleep(10)
        if len(log) < 8:
            raise ValueError
        return "well"

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent, restart=RestartPolicy(max_restarts=1, within=5))).wait()
    assert isinstance(outcome, Completed)
    assert outcome.restarts == 7


@pytest.mark.parametrize(("mode", "restarts"), [("permanent", 2), ("transient", 0), ("temporary", 0)])
async def test_only_a_permanent_agent_is_restarted_when_it_ended_well(mode: Any, restarts: int) -> None:
    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(value, 1, restart=RestartPolicy(mode, max_restarts=2))).wait()
        assert (type(outcome), outcome.restarts) == (Completed, restarts)


async def test_a_temporary_agent_is_never_restarted() -> None:
    log: list[Any] = []
    async with pool_of(1) as pool:
        await (await pool.spawn(_fails(1, log), restart=RestartPolicy("temporary", 5))).wait()
    assert len(log) == 1


async def test_backoff_doubles_and_the_agent_has_no_slot_meanwhile(autojump_clock: Any) -> None:
    log: list[Any] = []
    async with pool_of(1) as pool:
        handle = await pool.spawn(
            _fails(3, log), restart=RestartPolicy(max_restarts=5, within=100, backoff=Backoff(2, 5))
        )
        await trio.sleep(1)
        assert pool.statistics().running == 0
        assert await (await pool.spawn(value, "meanwhile")).result() == "meanwhile"
        await handle.wait()
    assert [at for _, at in log] == [0, 2, 6, 11]


async def test_the_jitter_is_drawn_from_the_seed_of_the_pool() -> None:
    from trio.testing import MockClock

    async def main(seed: int, log: list[Any]) -> None:
        async with open_agent_pool(max_concurrent=1, seed=seed) as pool:
            policy = RestartPolicy(max_restarts=9, within=1000, backoff=Backoff(8, jitter=0.5))
            await (await pool.spawn(_fails(3, log), restart=policy)).wait()

    import threading

    logs: list[list[Any]] = [[], [], []]

    def run() -> None:
        for seed, log in zip((1, 1, 2), logs, strict=True):
            trio.run(main, seed, log, clock=MockClock(autojump_threshold=0))

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        await trio.sleep(0.005)
    assert logs[0] == logs[1] != logs[2]
    assert all(4 <= log[1][1] <= 8 for log in logs)


async def test_after_the_backoff_the_agent_waits_for_a_slot(autojump_clock: Any) -> None:
    running = Running()
    log: list[Any] = []

    async def agent(ctx: AgentContext) -> None:
        with running:
            log.append(trio.current_time())
            await trio.sleep(1)
            if len(log) == 1:
                raise ValueError

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent, restart=RestartPolicy(backoff=2.0))
        await pool.spawn(sleeper, 20)
        await handle.wait()
    assert log == [0, 21]


async def test_messages_in_the_inbox_are_kept_for_the_next_body(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> list[Any]:
        got = []
        async for message in ctx.inbox:
            if message.content == "die":
                raise ValueError
            got.append(message.content)
        return got

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent, restart=RestartPolicy(backoff=3.0))
        for content in ("lost with its body", "die", "kept"):
            pool.send_nowait(handle.id, content)
        await trio.sleep(1)
        pool.send_nowait(handle.id, "sent meanwhile")
    assert isinstance(handle.outcome, Completed)
    assert handle.outcome.value == ["kept", "sent meanwhile"]


async def test_who_asked_a_body_that_took_the_question_is_told_and_others_are_answered(
    autojump_clock: Any,
) -> None:
    results = []

    async def agent(ctx: AgentContext) -> None:
        message = await ctx.receive()
        if message.content == "die":
            raise ValueError
        ctx.reply(message, "answer")

    async def asker(ctx: AgentContext, to: int, what: str) -> None:
        try:
            results.append(await ctx.ask(to, what))
        except UnknownAgentError as error:
            results.append(str(error))

    async with pool_of(3) as pool:
        handle = await pool.spawn(agent, restart=RestartPolicy(backoff=2.0))
        await pool.spawn(asker, handle.id, "die")
        await pool.spawn(asker, handle.id, "?")
    assert results == ["agent 1 was restarted without a reply", "answer"]


async def test_children_of_a_failed_body_are_gone_before_the_next_one_starts(autojump_clock: Any) -> None:
    bodies = 0
    alive = Running()

    async def child(ctx: AgentContext) -> None:
        with alive:
            await trio.sleep(5 if bodies > 1 else 1000)

    async def parent(ctx: AgentContext) -> int:
        nonlocal bodies
        bodies += 1
        assert alive.now == 0
        assert await ctx.join_next() is None
        await ctx.spawn(child)
        await trio.sleep(1)
        if bodies == 1:
            raise ValueError
        return bodies

    async with pool_of(3) as pool:
        assert await (await pool.spawn(parent, restart=RestartPolicy())).result() == 2


async def test_failures_that_a_body_ignored_make_it_fail_and_restart(autojump_clock: Any) -> None:
    bodies = 0

    async def child(ctx: AgentContext) -> None:
        raise KeyError

    async def parent(ctx: AgentContext) -> str:
        nonlocal bodies
        bodies += 1
        if bodies == 1:
            await ctx.spawn(child)
        return "well"

    async with pool_of(2) as pool:
        assert await (await pool.spawn(parent, restart=RestartPolicy())).result() == "well"
    assert bodies == 2


@pytest.mark.parametrize("when", ["body", "backoff", "slot"])
async def test_an_aborted_agent_is_not_restarted(when: str, autojump_clock: Any) -> None:
    bodies = 0

    async def agent(ctx: AgentContext) -> None:
        nonlocal bodies
        bodies += 1
        if when == "body":
            await trio.sleep_forever()
        raise ValueError

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent, restart=RestartPolicy("permanent", 5, backoff=5.0))
        if when == "slot":
            await pool.spawn(sleeper, 100)
        await trio.sleep(10 if when == "slot" else 1)
        at = trio.current_time()
        handle.abort("enough")
        outcome = await handle.wait()
        assert trio.current_time() == at
    assert isinstance(outcome, Aborted)
    assert outcome.reason == "enough"
    assert bodies == 1


@pytest.mark.parametrize("where", ["backoff", "slot"])
async def test_a_timeout_counts_over_restarts(where: str, autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        raise ValueError

    async with pool_of(1) as pool:
        handle = await pool.spawn(
            agent, timeout=7, restart=RestartPolicy(max_restarts=5, backoff=5.0 if where == "slot" else 50.0)
        )
        if where == "slot":
            await pool.spawn(sleeper, 100)
        outcome = await handle.wait()
        assert trio.current_time() == 7
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TimeoutError)


async def test_an_agent_whose_timeout_passed_is_not_restarted(autojump_clock: Any) -> None:
    bodies = []

    async def agent(ctx: AgentContext) -> None:
        bodies.append(1)
        await trio.sleep_forever()

    async with pool_of(1) as pool:
        await (await pool.spawn(agent, timeout=3, restart=RestartPolicy("permanent", 5))).wait()
    assert bodies == [1]


async def test_a_cancelled_pool_ends_a_backoff(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        raise ValueError

    with trio.move_on_after(3):
        async with pool_of(1) as pool:
            handle = await pool.spawn(agent, restart=RestartPolicy(backoff=50.0))
            await trio.sleep_forever()
    assert trio.current_time() == 3
    assert isinstance(handle.outcome, Aborted)


async def test_a_fatal_exception_is_not_restarted() -> None:
    bodies = []

    async def agent(ctx: AgentContext) -> None:
        bodies.append(1)
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with pool_of(1) as pool:
            await pool.spawn(agent, restart=RestartPolicy("permanent", 5))
    assert bodies == [1]


async def test_a_permanent_server_that_was_told_the_end_stays_ended() -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(server, restart=RestartPolicy("permanent", 50))
    assert isinstance(handle.outcome, Completed)
    assert handle.outcome.restarts == 0


@pytest.mark.parametrize("mode", ["permanent", "transient"])
async def test_an_agent_that_fails_after_it_was_told_the_end_is_not_restarted(mode: Any) -> None:
    bodies: list[int] = []

    async def agent(ctx: AgentContext) -> None:
        bodies.append(ctx.id)
        async for _ in ctx.inbox:
            pass
        raise KeyError("at the end")

    with pytest.raises(UnhandledAgentErrors):
        async with pool_of(1) as pool:
            handle = await pool.spawn(agent, restart=RestartPolicy(mode, 5))
            pool.send_nowait(handle.id, "taken before the end")
    assert isinstance(handle.outcome, Failed)
    assert isinstance(handle.outcome.error, KeyError)
    assert handle.outcome.restarts == 0
    assert bodies == [handle.id]


async def test_an_agent_that_fails_before_it_is_told_the_end_is_restarted_though_the_block_has_ended(
    autojump_clock: Any,
) -> None:
    bodies: list[int] = []

    async def agent(ctx: AgentContext) -> str:
        bodies.append(ctx.id)
        await trio.sleep(1)
        if len(bodies) == 1:
            raise KeyError("not yet told")
        return "well"

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent, restart=RestartPolicy())
    assert isinstance(handle.outcome, Completed)
    assert handle.outcome.restarts == 1


async def test_an_agent_that_let_the_end_of_its_inbox_raise_is_not_restarted() -> None:
    bodies: list[int] = []

    async def agent(ctx: AgentContext) -> None:
        bodies.append(ctx.id)
        await ctx.receive()

    async def watcher(ctx: AgentContext) -> Any:
        return await (await ctx.spawn(agent, restart=RestartPolicy("permanent", 5))).wait()

    async with pool_of(2) as pool:
        handle = await pool.spawn(watcher)
    assert isinstance(handle.outcome, Completed)
    assert isinstance(handle.outcome.value, Failed)
    assert isinstance(handle.outcome.value.error, trio.EndOfChannel)
    assert len(bodies) == 1


async def test_restarts_are_told_as_events(autojump_clock: Any) -> None:
    events: list[Any] = []

    async def watch(pool: Any) -> None:
        async with pool.events() as stream:
            async for event in stream:
                if isinstance(event, AgentRestarted):
                    events.append((event.agent_id, event.restarts, type(event.outcome)))

    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            nursery.start_soon(watch, pool)
            await trio.testing.wait_all_tasks_blocked()
            await (await pool.spawn(_fails(2, []), restart=RestartPolicy(max_restarts=5))).wait()
    assert events == [(1, 1, Failed), (1, 2, Failed)]


async def test_a_restarted_agent_can_be_aborted_and_so_can_who_takes_its_slot(autojump_clock: Any) -> None:
    # Those who are started in the slot of another must not inherit a scope that has been left.
    log: list[Any] = []
    async with pool_of(1) as pool, trio.open_nursery() as nursery:

        async def slow(ctx: AgentContext) -> None:
            log.append(1)
            await trio.sleep(2)
            if len(log) == 1:
                raise ValueError

        async def mapping() -> None:
            with trio.move_on_after(20):
                await pool.map(lambda ctx, _: forever(ctx), [1, 2])

        await pool.spawn(slow, restart=RestartPolicy())
        nursery.start_soon(mapping)
        await trio.sleep(10)
        assert pool.statistics().spawned == 2
        pool.abort_all("now")
        await trio.sleep(1)
        assert pool.statistics().ended == 2 or pool.statistics().ended == 3
    assert trio.current_time() == 20


async def test_usage_adds_up_over_bodies() -> None:
    from agentpool import TokenUsage

    bodies = []

    async def agent(ctx: AgentContext) -> None:
        ctx.add_usage(TokenUsage(1, 2))
        bodies.append(1)
        if len(bodies) == 1:
            raise ValueError

    async with pool_of(1) as pool:
        assert (await (await pool.spawn(agent, restart=RestartPolicy())).wait()).usage == TokenUsage(2, 4)


@pytest.mark.parametrize("seed", range(10))
async def test_random_restarts_keep_the_limit(seed: int, autojump_clock: Any) -> None:
    from random import Random

    random = Random(seed)
    running = Running()

    async def agent(ctx: AgentContext, n: int) -> int:
        with running:
            await trio.sleep(random.random())
            if random.random() < 0.5:
                raise ValueError
            return n

    async with pool_of(2) as pool:
        policy = RestartPolicy(max_restarts=50, backoff=Backoff(random.choice([0, 0.1]), 1, 0.5))
        handles = []
        for n in range(8):
            handles.append(await pool.spawn(agent, n, restart=policy))
        assert [await handle.result() for handle in handles] == list(range(8))
    assert running.peak <= 2
