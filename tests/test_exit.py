"""What comes out of a pool's block: nothing is lost, and nothing raised twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from pool_kit import failing, forever, pool_of, sleeper, value

from agentpool import (
    Aborted,
    AgentContext,
    AgentFailedError,
    Completed,
    Failed,
    LeftOpenError,
    UnhandledAgentErrors,
    open_agent_pool,
)


async def test_leaving_the_block_waits_for_every_agent(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(sleeper, 7)

    async with pool_of(4) as pool:
        await pool.spawn(sleeper, 3)
        await pool.spawn(parent)
    assert trio.current_time() == 7
    assert pool.active_count == 0


async def test_failures_that_nobody_looked_at_come_out_as_one_group_in_the_order_of_their_ends(
    autojump_clock: Any,
) -> None:
    late, early = ValueError("late"), KeyError("early")
    with pytest.raises(UnhandledAgentErrors) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(failing, late, 2)
            await pool.spawn(failing, early, 1)
    assert caught.value.exceptions == (early, late)
    assert isinstance(caught.value, ExceptionGroup)
    selected, rest = caught.value.split(KeyError)
    assert isinstance(selected, UnhandledAgentErrors)
    assert isinstance(rest, UnhandledAgentErrors)


@pytest.mark.parametrize(
    "look", ["wait", "outcome", "join_next", "join_all", "result", "map", "race", "done"]
)
async def test_a_failure_that_was_looked_at_is_not_raised_again(look: str) -> None:
    async with pool_of(2) as pool:
        if look == "map":
            await pool.map(failing, [None, ValueError()])
            return
        if look == "race":
            assert isinstance(await pool.race(failing, failing), Failed)
            return
        if look == "done":
            async with pool.as_completed(failing, [None]) as done:
                assert [type(outcome) async for outcome in done] == [Failed]
            return
        handle = await pool.spawn(failing)
        await trio.testing.wait_all_tasks_blocked()
        if look == "wait":
            await handle.wait()
        elif look == "outcome":
            assert handle.outcome
        elif look == "join_next":
            await pool.join_next()
        elif look == "join_all":
            await pool.join_all()
        else:
            with pytest.raises(AgentFailedError):
                await handle.result()


async def test_looking_at_the_status_is_not_looking_at_the_failure() -> None:
    with pytest.raises(UnhandledAgentErrors):
        async with pool_of(1) as pool:
            handle = await pool.spawn(failing)
            await trio.testing.wait_all_tasks_blocked()
            assert handle.status == "failed"
            pool.statistics()


async def test_an_outcome_that_was_read_can_still_be_joined() -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(failing)
        await trio.testing.wait_all_tasks_blocked()
        assert handle.outcome is await pool.join_next()
        assert await pool.join_next() is None


async def test_aborted_agents_are_no_failures() -> None:
    async with pool_of(1) as pool:
        (await pool.spawn(forever)).abort()


async def test_the_exception_of_the_body_comes_out_as_it_is_and_agents_are_aborted() -> None:
    error = ValueError("body")
    with pytest.raises(ValueError, match="body") as caught:
        async with pool_of(1) as pool:
            handle = await pool.spawn(forever)
            raise error
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert isinstance(handle.outcome, Aborted)
    assert "ValueError('body')" in str(handle.outcome.reason)


@pytest.mark.parametrize(
    "error", [StopIteration(), StopAsyncIteration(), GeneratorExit(), KeyboardInterrupt()]
)
async def test_odd_exceptions_of_the_body_come_out_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        async with pool_of(1) as pool:
            await pool.spawn(forever)
            raise error
    assert caught.value is error


async def test_the_exception_of_the_body_counts_the_failures_nobody_looked_at_in_a_note() -> None:
    error = ValueError("body")
    with pytest.raises(ValueError, match="body"):
        async with pool_of(3) as pool:
            for _ in range(2):
                await pool.spawn(failing, KeyError("agent"))
            seen = await pool.spawn(failing)
            await seen.wait()
            raise error
    (note,) = error.__notes__
    assert note.startswith("2 failure(s)")
    assert "KeyError('agent')" in note


async def test_a_group_that_the_body_raised_comes_out_as_it_is() -> None:
    group = ExceptionGroup("mine", [ValueError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with pool_of(1):
            raise group
    assert caught.value is group


async def test_a_failure_while_cleaning_up_after_the_body_is_counted_too() -> None:
    async def agent(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("in cleanup")

    with pytest.raises(ValueError, match="body") as caught:
        async with pool_of(1) as pool:
            await pool.spawn(agent)
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError("body")
    assert "KeyError('in cleanup')" in caught.value.__notes__[0]


async def test_failures_come_out_beside_the_cancellation_of_the_body(autojump_clock: Any) -> None:
    error = ValueError("agent")
    with pytest.raises(ExceptionGroup) as caught, trio.move_on_after(5):
        async with pool_of(2) as pool:
            await pool.spawn(failing, error)
            await trio.sleep_forever()
    assert caught.value.exceptions == (error,)


async def test_failures_come_out_beside_a_cancellation_of_the_exit(autojump_clock: Any) -> None:
    error = ValueError("agent")
    with pytest.raises(ExceptionGroup) as caught, trio.move_on_after(5):
        async with pool_of(2) as pool:
            await pool.spawn(failing, error)
            handle = await pool.spawn(forever)
    assert caught.value.exceptions == (error,)
    assert isinstance(handle.outcome, Aborted)


async def test_a_cancelled_pool_without_failures_is_just_cancelled(autojump_clock: Any) -> None:
    with trio.move_on_after(5) as scope:
        async with pool_of(1) as pool:
            handle = await pool.spawn(forever)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert isinstance(handle.outcome, Aborted)
    assert "cancelled" in str(handle.outcome.reason).lower()


async def test_a_body_that_swallowed_its_cancellation_leaves_it_to_the_exit(autojump_clock: Any) -> None:
    with trio.move_on_after(1) as scope:
        async with pool_of(1) as pool:
            await pool.spawn(forever)
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
    assert scope.cancelled_caught


async def test_agents_that_complete_in_their_cleanup_have_completed(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return "anyway"
        raise AssertionError

    with trio.move_on_after(1):
        async with pool_of(1) as pool:
            handle = await pool.spawn(agent)
            await trio.sleep_forever()
    assert isinstance(handle.outcome, Completed)


# -- fatal ones ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        MemoryError(),
        GeneratorExit(),
        BaseExceptionGroup("g", [ValueError(), BaseExceptionGroup("h", [SystemExit(3)])]),
        ExceptionGroup("g", [ValueError(), MemoryError()]),
    ],
)
async def test_fatal_exceptions_leave_the_pool_unwrapped(error: BaseException, autojump_clock: Any) -> None:
    fatal = error
    while isinstance(fatal, BaseExceptionGroup):
        fatal = fatal.exceptions[-1]
    with pytest.raises(type(fatal)) as caught:
        async with pool_of(2) as pool:
            handle = await pool.spawn(failing, error)
            other = await pool.spawn(forever)
            await trio.sleep_forever()
    assert caught.value is fatal
    assert isinstance(handle.outcome, Failed)
    assert handle.outcome.error is error
    assert isinstance(other.outcome, Aborted)


async def test_a_group_without_a_fatal_exception_is_an_ordinary_failure() -> None:
    group = ExceptionGroup("g", [ValueError(), ExceptionGroup("h", [KeyError()])])
    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(failing, group)).wait()
    assert isinstance(outcome, Failed)
    assert outcome.error is group


async def test_a_fatal_exception_wins_over_failures_and_counts_them(autojump_clock: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(failing, KeyError("lost?"))
            await trio.testing.wait_all_tasks_blocked()
            await pool.spawn(failing, SystemExit(3))
            await trio.sleep_forever()
    assert caught.value.code == 3
    assert "KeyError('lost?')" in caught.value.__notes__[0]


async def test_a_fatal_exception_wins_over_the_exception_of_the_body() -> None:
    async def agent(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        async with pool_of(1) as pool:
            await pool.spawn(agent)
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError("body")
    assert isinstance(caught.value.__context__, ValueError)


@pytest.mark.parametrize("sleepers", [0, 1, 2])
async def test_what_a_fatal_exception_cancels_in_the_body_is_no_exception_of_the_body(
    sleepers: int, autojump_clock: Any
) -> None:
    """The nursery in it makes a group of the cancellations."""
    with pytest.raises(SystemExit) as caught:
        async with pool_of(1) as pool, trio.open_nursery() as nursery:
            await pool.spawn(failing, SystemExit(3))
            for _ in range(sleepers):
                nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert not hasattr(caught.value, "__notes__")


async def test_a_second_fatal_exception_is_told_in_a_note() -> None:
    async def agent(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise SystemExit(4)

    with pytest.raises(SystemExit) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(agent)
            await trio.testing.wait_all_tasks_blocked()
            await pool.spawn(failing, SystemExit(3))
    assert caught.value.code == 3
    assert "SystemExit(4)" in caught.value.__notes__[0]


async def test_one_fatal_object_that_two_agents_raise_is_told_once() -> None:
    error = SystemExit(3)
    gate = trio.Event()

    async def agent(ctx: AgentContext) -> None:
        await gate.wait()
        raise error

    with pytest.raises(SystemExit) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(agent)
            await pool.spawn(agent)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
    assert caught.value is error
    assert not hasattr(error, "__notes__")


async def test_a_fatal_exception_in_a_child_or_an_inner_pool_leaves_the_outermost_pool() -> None:
    async def outer(ctx: AgentContext, nested: bool) -> None:
        if nested:
            async with open_agent_pool(max_concurrent=1) as inner:
                await inner.spawn(failing, SystemExit(5))
        else:
            await ctx.spawn(failing, SystemExit(5))

    for nested in (False, True):
        with pytest.raises(SystemExit) as caught:
            async with pool_of(2) as pool:
                await pool.spawn(outer, nested)
        assert caught.value.code == 5


async def test_a_fatal_exception_after_the_end_of_the_body_comes_out(autojump_clock: Any) -> None:
    with pytest.raises(SystemExit):
        async with pool_of(2) as pool:
            await pool.spawn(failing, SystemExit(3), 5)
            await pool.spawn(forever)


async def test_fatal_exceptions_do_not_wait_for_what_could_go_on(autojump_clock: Any) -> None:
    with pytest.raises(SystemExit):
        async with pool_of(2) as pool:
            await pool.spawn(failing, SystemExit(3), 1)
            await pool.spawn(sleeper, 100)
    assert trio.current_time() == 1


# -- spawning at the end ------------------------------------------------------------------------------


async def test_agents_may_spawn_after_the_body_has_ended(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> int:
        await trio.sleep(1)
        return int(await (await ctx.spawn(value, 3)).result())

    async with pool_of(1) as pool:
        handle = await pool.spawn(parent)
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == 3


async def test_nobody_else_spawns_after_the_body_has_ended(autojump_clock: Any) -> None:
    from agentpool import PoolClosedError

    errors = []

    async def late(pool: Any, waits: bool) -> None:
        try:
            if not waits:
                await trio.sleep(1)
            await pool.spawn(value)
        except PoolClosedError as error:
            errors.append(str(error))

    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            await pool.spawn(sleeper, 5)
            nursery.start_soon(late, pool, False)
            nursery.start_soon(late, pool, True)
            await trio.testing.wait_all_tasks_blocked()
    assert errors == ["the block of the pool has ended"] * 2


async def test_a_pool_whose_body_does_nothing_ends() -> None:
    async with open_agent_pool(max_concurrent=1):
        pass


@pytest.mark.parametrize("when", ["before", "inside"])
async def test_a_pool_in_a_scope_that_is_cancelled_already_ends(when: str) -> None:
    with trio.CancelScope() as scope:
        if when == "before":
            scope.cancel()
        async with pool_of(1) as pool:
            handle = pool.spawn_nowait(forever)
            scope.cancel()
    assert scope.cancelled_caught
    assert isinstance(handle.outcome, Aborted)


async def test_many_unseen_failures_are_counted_and_five_of_them_shown() -> None:
    with pytest.raises(ValueError, match="body") as caught:
        async with pool_of(9) as pool:
            await pool.fan_out([failing] * 9)
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError("body")
    assert caught.value.__notes__[0].startswith("9 failure(s)")
    assert caught.value.__notes__[0].count("ValueError") == 5


def _broken(_: object, record: object) -> Any:
    raise KeyError(record)


async def test_an_agent_that_the_pool_cannot_begin_has_an_outcome_all_the_same() -> None:
    with pytest.RaisesGroup(KeyError):
        async with pool_of(1) as pool:
            pool._state.make_context = _broken
            handle = await pool.spawn(value)
    assert isinstance(handle.outcome, Failed)
    assert isinstance(handle.outcome.error, KeyError)


async def cleanup_fails(ctx: AgentContext) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("lost")


async def test_failures_come_out_beside_a_cancellation_that_a_nursery_has_put_in_a_group(
    autojump_clock: Any,
) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="lost")):
        with trio.move_on_after(1):
            async with open_agent_pool(max_concurrent=2) as pool:
                await pool.spawn(cleanup_fails)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    await trio.sleep_forever()


async def _ignores_a_failure(ctx: AgentContext) -> None:
    await ctx.spawn(failing, ValueError("lost"))
    await trio.sleep(0.5)
    raise KeyError("its own")


async def _fails_because_of_another(ctx: AgentContext) -> None:
    raise KeyError("its own") from ValueError("lost")


async def _fails_while_it_handles_another(ctx: AgentContext) -> None:
    try:
        raise ValueError("lost")
    except ValueError:
        raise KeyError("its own")  # noqa: B904


hiding = pytest.mark.parametrize(
    "agent", [_ignores_a_failure, _fails_because_of_another, _fails_while_it_handles_another]
)


@hiding
async def test_a_failure_that_is_only_noted_is_noted_with_what_hangs_on_it(
    agent: Any, autojump_clock: Any
) -> None:
    with pytest.raises(IndexError) as caught:
        async with pool_of(4) as pool:
            await pool.spawn(agent)
            await trio.sleep(1)
            raise IndexError
    assert "KeyError('its own')" in caught.value.__notes__[0]
    assert "ValueError('lost')" in caught.value.__notes__[0]


async def exits_while_it_handles_a_failure(ctx: AgentContext) -> None:
    try:
        raise ValueError("lost")
    except ValueError:
        raise SystemExit(3)  # noqa: B904


async def test_a_fatal_error_keeps_its_context_also_when_it_cancels_the_block(autojump_clock: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(exits_while_it_handles_a_failure)
            await trio.sleep_forever()
    assert repr(caught.value.__context__) == "ValueError('lost')"


async def test_of_two_fatal_errors_the_second_is_noted_with_its_context(autojump_clock: Any) -> None:
    async def exits_in_its_cleanup(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await exits_while_it_handles_a_failure(ctx)

    with pytest.raises(KeyboardInterrupt) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(exits_in_its_cleanup)
            await pool.spawn(failing, KeyboardInterrupt(), 1)
    notes = "".join(caught.value.__notes__)
    assert "SystemExit(3), from ValueError('lost')" in notes


@pytest.mark.filterwarnings("ignore:agent:RuntimeWarning")
async def test_who_leaves_something_open_and_ignores_a_failure_is_not_only_warned_of(
    autojump_clock: Any,
) -> None:
    async def leaves(ctx: AgentContext) -> None:
        await ctx.spawn(failing, ValueError("lost"))
        await trio.sleep(0.5)
        trio.CancelScope().__enter__()

    with pytest.raises(UnhandledAgentErrors) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(leaves)
    (error,) = caught.value.exceptions
    assert isinstance(error, LeftOpenError)
    assert "ValueError('lost')" in error.__notes__[0]


async def test_a_pool_in_a_generator_that_is_closed_loses_no_failure(autojump_clock: Any) -> None:
    async def in_a_pool(agent: Any) -> AsyncGenerator[int, None]:
        async with open_agent_pool(max_concurrent=2) as pool:
            await pool.spawn(agent)
            await trio.sleep(1)
            yield 1

    for agent in (failing, cleanup_fails):
        generator = in_a_pool(agent)
        await anext(generator)
        with pytest.RaisesGroup(ValueError):
            await generator.aclose()
    generator = in_a_pool(value)
    await anext(generator)
    await generator.aclose()
