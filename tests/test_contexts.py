"""Context variables: what one life, one tool call or one agent sets, the next does not see."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import pytest
from pool_kit import pool_of

from agentpool import (
    AgentContext,
    AgentManifest,
    Completion,
    RestartPolicy,
    ScriptedDriver,
    SpawnConfig,
    Supervisor,
    ToolCall,
    ToolRegistry,
    tool,
)

mark: ContextVar[str] = ContextVar("mark", default="nobody's")


@pytest.mark.parametrize("supervised", [False, True])
async def test_each_life_starts_in_the_context_of_the_spawner(supervised: bool, autojump_clock: Any) -> None:
    seen: list[str] = []

    async def lives_twice(ctx: AgentContext) -> None:
        seen.append(mark.get())
        mark.set(f"life {len(seen)}")
        if len(seen) < 3:
            raise ValueError("life")

    mark.set("the spawner's")
    async with pool_of(2) as pool:
        if supervised:
            handle = await pool.spawn(Supervisor([lives_twice], max_restarts=5))
        else:
            handle = await pool.spawn(lives_twice, restart=RestartPolicy(max_restarts=5))
        await handle.wait()
    assert len(seen) >= 3  # a supervisor restarts a child that ended well too
    assert set(seen) == {"the spawner's"}
    assert mark.get() == "the spawner's"


@pytest.mark.parametrize("calls", ["one after the other", "side by side"])
async def test_what_a_tool_call_sets_no_other_call_sees(calls: str, autojump_clock: Any) -> None:
    seen: list[str] = []

    @tool(quick=True)
    def look() -> str:
        """Look, and leave a mark."""
        seen.append(mark.get())
        mark.set("a call's")
        return "looked"

    two = [ToolCall("1", "look", {}), ToolCall("2", "look", {})]
    answers = [[Completion("", (two[0],)), Completion("", (two[1],))], [Completion("", tuple(two))]]
    driver = ScriptedDriver([*answers[calls == "side by side"], "Done."])
    mark.set("the spawner's")
    async with pool_of(1, driver=driver, tool_builder=lambda _: ToolRegistry([look])) as pool:
        await (await pool.spawn(SpawnConfig(AgentManifest(name="looker"), "Look."))).result()
    assert seen == ["the spawner's"] * 2
