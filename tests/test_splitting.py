"""Exceptions are split into what was cancelled, what is fatal, and what is an ordinary failure."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pool_kit import pool_of

from agentpool import AgentContext, Failed, LeftOpenError
from agentpool._core.text import told
from agentpool._kernel.leftovers import run_in_context
from agentpool._kernel.splitting import in_full, split_error


class Stubborn(BaseExceptionGroup[BaseException]):
    """A group of somebody's own, which cannot be made anew."""

    def derive(self, excs: object) -> Stubborn:
        raise RuntimeError("not this one")


def test_a_group_that_cannot_be_made_anew_becomes_a_plain_one_with_its_notes() -> None:
    group = Stubborn("several", [ValueError("ordinary"), SystemExit(3)])
    group.add_note("a note")
    parts = split_error(group)
    assert isinstance(parts.fatal, SystemExit)
    assert parts.ordinary is not None
    assert type(parts.ordinary) is ExceptionGroup
    assert [repr(error) for error in parts.ordinary.exceptions] == ["ValueError('ordinary')"]
    assert parts.ordinary.__notes__ == ["a note"]
    assert parts.fatal.__notes__ == ["raised together with ValueError('ordinary')"]


def test_a_group_without_anything_fatal_stays_the_very_same() -> None:
    group = ExceptionGroup("several", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])])
    assert split_error(group).ordinary is group


def test_text_of_an_exception_whose_text_raises() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert told(ValueError("said")) == "said"
    assert told(Mute()) == "<Mute whose text raises ZeroDivisionError>"


def test_a_coroutine_in_a_context_of_its_own_is_closed_with_what_runs_it() -> None:
    import contextvars

    closed: list[str] = []

    async def inner() -> None:
        try:
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        finally:
            closed.append("inner")

    async def outer() -> None:
        await run_in_context(contextvars.copy_context(), inner())

    coroutine = outer()
    coroutine.send(None)
    coroutine.close()
    assert closed == ["inner"]


async def test_a_task_that_fails_and_leaves_something_open_keeps_its_error_with_a_note() -> None:
    async def task() -> None:
        trio.CancelScope(shield=True).__enter__()
        raise ValueError("of the task")

    async def agent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(task)

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    assert isinstance(outcome, Failed)
    (error,) = outcome.error.exceptions  # type: ignore[attr-defined]
    assert type(error) is ValueError
    assert "a cancel scope that shields left open" in error.__notes__[0]


async def test_a_task_that_leaves_something_open_fails_its_agent() -> None:
    async def task() -> None:
        trio.CancelScope().__enter__()

    async def agent(ctx: AgentContext) -> int:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(task)
        return ctx.max_concurrent

    async with pool_of(2) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    with pytest.RaisesGroup(LeftOpenError):
        raise outcome.error  # type: ignore[union-attr]


async def test_an_agent_knows_how_many_run_at_once() -> None:
    async def agent(ctx: AgentContext) -> int:
        return ctx.max_concurrent

    async with pool_of(7) as pool:
        assert await (await pool.spawn(agent)).result() == 7


def test_a_chain_is_told_up_to_its_fifth_link() -> None:
    error = ValueError(0)
    for number in range(1, 9):
        above = ValueError(number)
        above.__context__ = error
        error = above
    assert in_full(error) == ", from ".join(f"ValueError({number})" for number in (8, 7, 6, 5, 4))


def test_what_is_no_failure_is_not_told_of_a_chain() -> None:
    error = ValueError("only")
    error.__context__ = GeneratorExit()
    assert in_full(error) == "ValueError('only')"
    error.__context__ = KeyError("hidden")
    error.__suppress_context__ = True
    assert in_full(error) == "ValueError('only')"


class NotesRaise(Exception):
    @property
    def __notes__(self) -> Any:
        raise SystemExit


def test_notes_are_told_and_those_that_cannot_be_had_are_not() -> None:
    error = ValueError("noted")
    error.add_note("one")
    error.__notes__.append(2)  # type: ignore[arg-type]
    assert in_full(error) == "ValueError('noted') (one)"
    assert in_full(NotesRaise()) == "NotesRaise()"
