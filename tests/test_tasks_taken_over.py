"""An agent that starts in the task of one that has ended is an agent of its own all the same."""

from __future__ import annotations

from contextvars import ContextVar

import pytest
import trio

from agentpool import AgentContext, open_agent_pool

_mark: ContextVar[str] = ContextVar("_mark", default="untouched")


async def marks(ctx: AgentContext, number: int) -> tuple[str, str]:
    """Tell what was there, and leave something behind."""
    there = _mark.get()
    _mark.set(f"left by {number}")
    await trio.lowlevel.checkpoint()
    return there, trio.lowlevel.current_task().name


@pytest.mark.parametrize("max_concurrent", [1, 3])
async def test_agents_of_a_map_do_not_see_what_the_ones_before_them_set(max_concurrent: int) -> None:
    async with open_agent_pool(max_concurrent=max_concurrent) as pool:
        outcomes = await pool.map(marks, range(20))
    assert {outcome.unwrap()[0] for outcome in outcomes} == {"untouched"}


async def test_agents_spawned_one_after_the_other_see_only_what_their_spawner_set() -> None:
    async with open_agent_pool(max_concurrent=2) as pool:
        for number in range(5):
            _mark.set(f"set by the body, {number}")
            handle = await pool.spawn(marks, number, name=f"agent {number}")
            assert await handle.result() == (f"set by the body, {number}", f"agent {number}")
