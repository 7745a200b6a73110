"""What crashes showed: each once as a test of its own."""

from __future__ import annotations

from typing import Any

import trio

from agentpool import AgentContext
from tests.crashes._oracle import crashes_of, problems_of, resumed, run
from tests.crashes._town import main


async def prompt(ctx: AgentContext) -> str:
    await trio.sleep(ctx.id)
    return "done"


async def voter(ctx: AgentContext) -> Any:
    return (await ctx.vote(prompt, n=3, quorum=2)).winner


def after_every_crash(root: Any, *args: Any) -> None:
    """Check that a program comes to the same wherever it is cut off."""

    async def program(journal: Any, is_resumed: bool) -> Any:
        return await main(journal, is_resumed, root, *args)

    whole = run(program)
    for crash in crashes_of(whole):
        assert problems_of(whole, resumed(program, whole, crash)) == [], crash


def test_a_child_that_a_decided_vote_leaves_is_aborted_whenever_it_was_spawned() -> None:
    after_every_crash(voter)


async def too_long(ctx: AgentContext) -> None:
    await trio.sleep(1000)


async def late_riser(ctx: AgentContext) -> str:
    """Spawns somebody whose time is over before it does so again."""
    await trio.sleep(5)
    handle = await ctx.spawn(too_long, timeout=1)
    return type((await handle.wait()).error).__name__  # type: ignore[union-attr]


def test_a_child_whose_time_is_over_before_its_parent_spawns_it_again_has_timed_out() -> None:
    after_every_crash(late_riser)


async def late_mapper(ctx: AgentContext) -> list[str]:
    await trio.sleep(5)
    found = []
    async with ctx.as_completed(slow_with_limit, range(2)) as done:
        async for outcome in done:
            found.append(outcome.unwrap())
    return sorted(found)


async def slow_with_limit(ctx: AgentContext, number: int) -> str:
    return await late_riser(ctx)


def test_batches_take_children_whose_time_is_over() -> None:
    after_every_crash(late_mapper)
