"""What the library says about values of strangers."""

from __future__ import annotations

import pytest
import trio

from agentpool import AgentContext, Failed, LeftOpenError
from agentpool._core.text import MOST, shown
from agentpool._kernel.splitting import split_error
from tests.pool_kit import pool_of, value


class Rude(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_a_value_is_shown_by_its_repr_cut_and_whatever_that_raises() -> None:
    assert shown("a") == "'a'"
    assert len(shown("a" * 1000)) == MOST + 3
    assert shown(Rude()) == "<Rude whose repr raises RuntimeError>"


async def test_a_parent_whose_error_has_no_repr_takes_nobody_along() -> None:
    async def child(ctx: AgentContext) -> None:
        await trio.sleep_forever()

    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(child)
        raise Rude

    async with pool_of(3) as pool:
        outcome = await (await pool.spawn(parent)).wait()
        neighbour = await pool.spawn(value, 1)
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, Rude)
        assert await neighbour.result() == 1


@pytest.mark.parametrize("what", ["scope", "deadline", "shield", "nursery", "both"])
async def test_what_a_body_leaves_open_is_its_own_failure(what: str) -> None:
    async def leaves(ctx: AgentContext) -> None:
        if what in ("nursery", "both"):
            nursery = await trio.open_nursery().__aenter__()
            nursery.start_soon(trio.sleep_forever)
        if what != "nursery":
            seconds = 1000 if what == "deadline" else float("inf")
            trio.CancelScope(relative_deadline=seconds, shield=what == "shield").__enter__()

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(leaves)).wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, LeftOpenError)
        assert ("nursery" if what == "nursery" else "scope") in str(outcome.error)
        assert await (await pool.spawn(value, 2)).result() == 2


async def test_the_error_of_a_body_that_left_something_open_stays_and_tells_of_it() -> None:
    error = ValueError("own")

    async def leaves(ctx: AgentContext) -> None:
        await trio.open_nursery().__aenter__()
        trio.CancelScope().__enter__()
        raise error

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(leaves)).wait()
    assert isinstance(outcome, Failed)
    assert outcome.error is error
    assert "left open" in error.__notes__[0]


def test_groups_that_are_nested_deep_are_split() -> None:
    deep: BaseException = SystemExit(3)
    for _ in range(3000):
        deep = BaseExceptionGroup("deep", [deep, ValueError("beside")])
    parts = split_error(deep)
    assert isinstance(parts.fatal, SystemExit)
    assert "ValueError" in parts.fatal.__notes__[0]
    assert isinstance(parts.ordinary, ExceptionGroup)
    while parts.ordinary.exceptions:  # taken apart here: the interpreter would recurse
        inner = parts.ordinary.exceptions[0]
        if not isinstance(inner, ExceptionGroup):
            break
        parts = type(parts)(False, None, inner)


def test_an_ordinary_error_is_itself() -> None:
    error = ExceptionGroup("g", [ValueError()])
    assert split_error(error).ordinary is error
