"""A task of an agent that fails while a sibling waits on under a shield: who is left is judged again."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from agentpool import AgentContext, Failed, open_agent_pool


async def serves(ctx: AgentContext) -> str:
    async for _ in ctx.inbox:
        raise AssertionError("nobody writes to it")
    return "ended"


async def fails_beside_a_shielded_wait(ctx: AgentContext, outcomes: list[Any]) -> None:
    server = await ctx.spawn(serves)

    async def waits() -> None:
        with trio.CancelScope(shield=True):
            outcomes.append(await server.result())

    async def fails() -> None:
        await trio.sleep(1)
        raise ValueError("the task failed")

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(waits)
        nursery.start_soon(fails)


@pytest.mark.parametrize("max_concurrent", [1, 5])
async def test_quiescence_is_seen_when_only_a_shielded_wait_is_left_of_a_failing_agent(
    autojump_clock: Any, max_concurrent: int
) -> None:
    outcomes: list[Any] = []
    with trio.fail_after(100), pytest.RaisesGroup(pytest.RaisesGroup(ValueError)):
        async with open_agent_pool(max_concurrent=max_concurrent) as pool:
            handle = await pool.spawn(fails_beside_a_shielded_wait, outcomes)
    assert outcomes == ["ended"]
    assert trio.current_time() == 1
    assert isinstance(handle.outcome, Failed)
    assert isinstance(handle.outcome.error, ExceptionGroup)
