"""What the library says about values of strangers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from agentpool import AgentContext, Failed, LeftOpenError, open_agent_pool
from agentpool._core.text import MOST, named, note, shown, told
from agentpool._kernel import life
from agentpool._kernel.splitting import split_error
from tests.pool_kit import failing, forever, pool_of, sleeper, value


class Rude(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_a_value_is_shown_by_its_repr_cut_and_whatever_that_raises() -> None:
    assert shown("a") == "'a'"
    assert len(shown("a" * 1000)) == MOST + 3
    assert shown(Rude()) == "<Rude whose repr raises RuntimeError>"


def test_a_group_is_told_by_what_it_holds() -> None:
    one, two = ValueError("a"), KeyError("b")
    assert named(one) == "ValueError: a"
    assert named(ValueError()) == "ValueError"
    assert named(one, by_text=ValueError) == "a"
    assert named(ValueError(), by_text=ValueError) == "ValueError"
    of_nursery = ExceptionGroup("Exceptions from Trio nursery", [one, ExceptionGroup("mine", [two, one])])
    mine = "ExceptionGroup: mine (2 sub-exceptions): KeyError: 'b'"
    assert named(of_nursery) == f"ValueError: a; {mine}; ValueError: a"
    assert named(of_nursery, by_text=ValueError) == f"a; {mine}; a"
    errors = [OSError(n) for n in (0, 1, 2, 3, 4, 5, 6, 0)]
    many = BaseExceptionGroup("unhandled errors in a TaskGroup", errors)
    assert named(many) == "; ".join(f"OSError: {n}" for n in range(5)) + "; and 2 more"


def test_a_group_that_lies_or_is_too_deep_is_told_by_its_type() -> None:
    class Lies(ExceptionGroup[Exception]):
        @property
        def exceptions(self) -> Any:
            raise SystemExit(3)

    assert named(Lies("x", [ValueError("a")])) == "Lies"
    deep: Exception = ValueError("a")
    for _ in range(5000):
        deep = ExceptionGroup("Exceptions from Trio nursery", [deep])
    assert named(deep) == "ExceptionGroup"


async def test_a_parent_whose_error_has_no_repr_takes_nobody_along(autojump_clock: Any) -> None:
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
async def test_what_a_body_leaves_open_is_its_own_failure(what: str, autojump_clock: Any) -> None:
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


async def test_the_error_of_a_body_that_left_something_open_stays_and_tells_of_it(
    autojump_clock: Any,
) -> None:
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


class Fatal(BaseException):
    """What no `except Exception` catches."""


class Ruder(Exception):
    def __repr__(self) -> str:
        raise Fatal

    __str__ = __repr__

    def add_note(self, text: str) -> None:
        raise Fatal


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int = 1


class OddNotes(Exception):
    __notes__ = 5  # type: ignore[assignment]


class NoAttributes(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise Fatal

    @property
    def __dict__(self) -> Any:
        raise Fatal


def test_a_text_that_raises_what_is_no_exception_is_told_all_the_same() -> None:
    assert shown(Ruder()) == "<Ruder whose repr raises Fatal>"
    assert told(Ruder()) == "<Ruder whose text raises Fatal>"


@pytest.mark.parametrize("error", [Ruder(), Frozen(), OddNotes()])
def test_an_exception_that_takes_no_notes_gets_them_all_the_same(error: Exception) -> None:
    note(error, "one")
    note(error, "two")
    assert error.__notes__ == ["one", "two"]


def test_an_exception_that_takes_nothing_at_all_is_left_alone() -> None:
    error = NoAttributes()
    note(error, "lost")
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("error", [Ruder, Frozen, OddNotes, NoAttributes])
async def test_the_blocks_own_error_comes_out_whatever_its_texts_raise(
    error: type[Exception], autojump_clock: Any
) -> None:
    with pytest.raises(error):  # the block itself: `contextmanager` writes to what passes through
        async with open_agent_pool(max_concurrent=3) as pool:
            await pool.spawn(failing)
            await pool.spawn(forever)
            await trio.sleep(1)
            raise error


async def test_a_failure_that_nobody_looked_at_is_told_on_a_frozen_error(autojump_clock: Any) -> None:
    with pytest.raises(Frozen) as caught:
        async with open_agent_pool(max_concurrent=2) as pool:
            await pool.spawn(failing, ValueError("beside"))
            await trio.sleep(1)
            raise Frozen
    assert "ValueError('beside')" in caught.value.__notes__[0]


class BaseGroup(BaseExceptionGroup[BaseException]):
    """A group of a class of its own that is no `Exception`, whatever is in it."""

    def derive(self, excs: Sequence[BaseException]) -> Any:
        return BaseGroup(self.message, excs)


class FrozenGroup(BaseGroup):
    def __setattr__(self, name: str, value: object) -> None:
        raise Fatal


class OtherGroup(BaseGroup):
    def derive(self, excs: Sequence[BaseException]) -> Any:
        return ExceptionGroup(self.message, [KeyError("another")])


class RaisingGroup(BaseGroup):
    __notes__ = 5  # type: ignore[assignment]

    def derive(self, excs: Sequence[BaseException]) -> Any:
        raise Fatal


class HidingGroup(BaseGroup):
    @property
    def exceptions(self) -> Any:
        raise Fatal

    def derive(self, excs: Sequence[BaseException]) -> Any:
        return excs[0]


GROUPS = [BaseGroup, FrozenGroup, OtherGroup, RaisingGroup, HidingGroup]


@pytest.mark.parametrize("group", GROUPS)
async def test_a_parent_that_fails_with_a_strange_group_takes_nobody_along(
    group: type[BaseGroup], autojump_clock: Any
) -> None:
    lost = ValueError("lost")

    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(forever)
        await trio.sleep(1)
        raise group("strange", [group("inner", [lost])])

    async with pool_of(3) as pool:
        outcome = await (await pool.spawn(parent)).wait()
        assert isinstance(outcome, Failed)
        assert pool.active_count == 0
    error = outcome.error
    assert isinstance(error, ExceptionGroup)
    (inner,) = error.exceptions
    assert isinstance(inner, ExceptionGroup)
    assert inner.exceptions == (lost,)
    assert error.__traceback__ is not None


def test_a_group_of_an_own_class_that_derives_well_stays_of_that_class() -> None:
    class Good(ExceptionGroup[Exception]):
        def derive(self, excs: Sequence[Any]) -> Any:
            return Good(self.message, excs)

    group = Good("own", [ValueError("kept"), MemoryError()])
    group.add_note("its note")
    ordinary = split_error(group).ordinary
    assert isinstance(ordinary, Good)
    assert ordinary.__notes__ == ["its note"]


class Proxy:
    """An agent whose attributes are not to be had, as with a proxy that is not bound."""

    def __getattr__(self, name: str) -> Any:
        raise Fatal

    async def __call__(self, ctx: AgentContext) -> object:
        return ctx.budget


@pytest.mark.parametrize("cap", [1, 2])
async def test_an_agent_without_attributes_is_started_and_breaks_nobody_elses_end(
    cap: int, autojump_clock: Any
) -> None:
    async with pool_of(cap) as pool:
        other = await pool.spawn(sleeper, 1, "well")
        proxy = await pool.spawn(Proxy())
        assert await proxy.result() is None
        assert proxy.name == "Proxy"
        assert await other.result() == "well"


async def test_a_bug_of_the_library_in_an_agents_end_ends_the_pool_and_comes_out(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    bug = AssertionError("a bug")

    def breaks(error: BaseException) -> None:
        raise bug

    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(forever)
        await trio.sleep(1)
        monkeypatch.setattr(life, "split_error", breaks)
        raise ValueError

    with pytest.raises(AssertionError) as caught:
        async with pool_of(3) as pool:
            await pool.spawn(parent)
            await pool.spawn(forever)
    assert caught.value is bug
