"""When a run that waits for a person ends as paused, and when something else is left to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from journal_kit import Records, in_virtual_time

from agentpool import (
    Aborted,
    AgentContext,
    AgentManifest,
    AgentPool,
    ApprovalRules,
    Completion,
    CompletionRequest,
    Driver,
    ModelAgent,
    RunPausedError,
    TokenUsage,
    ToolCall,
    open_agent_pool,
    tool,
)


@tool(quick=True)
def wipe(what: str) -> str:
    """Wipe something."""
    raise AssertionError("nobody has approved that")


ONE = ToolCall("1", "wipe", {"what": "a"})
CAREFUL = ModelAgent(AgentManifest(name="careful", approval=ApprovalRules(ask=("wipe",))), tools=[wipe])


class Model(Driver):
    """Wishes for one call."""

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        return Completion(tool_calls=(ONE,), usage=TokenUsage(1, 1))


def test_a_run_is_not_paused_while_an_agent_works_in_a_pool_of_its_own() -> None:
    seen: list[str] = []

    async def inner(ctx: AgentContext) -> None:
        await trio.sleep(50)
        seen.append("inner")

    async def outer(ctx: AgentContext) -> None:
        async with open_agent_pool(max_concurrent=1) as pool:
            await (await pool.spawn(inner)).wait()
        seen.append("outer")

    async def main() -> None:
        async with open_agent_pool(Model(), max_concurrent=2, journal=Records()) as pool:
            await pool.spawn(CAREFUL, "go")
            await pool.spawn(outer)

    with pytest.raises(RunPausedError):
        in_virtual_time(main)
    assert seen == ["inner", "outer"]


def test_a_run_is_not_paused_while_its_block_waits_for_something_else() -> None:
    seen: list[str] = []

    async def main() -> None:
        async with open_agent_pool(Model(), max_concurrent=1, journal=Records()) as pool:
            handle = await pool.spawn(CAREFUL, "go")
            await trio.sleep(50)
            assert pool.statistics().lent == 1
            seen.append("slept")
            await handle.wait()
            seen.append("never")

    with pytest.raises(RunPausedError) as caught:
        in_virtual_time(main)
    assert seen == ["slept"]
    assert [each.call for each in caught.value.requests.values()] == [ONE]


class AtRest(trio.abc.Instrument):
    """Does something as soon as a pool rests, before the pool itself looks at it again."""

    def __init__(self, pool: AgentPool, act: Callable[[], object]) -> None:
        self.pool = pool
        self.act = act
        self.token = trio.lowlevel.current_trio_token()

    def before_io_wait(self, timeout: float) -> None:
        if self.pool.statistics().lent:
            self.token.run_sync_soon(self.act)
            trio.lowlevel.remove_instrument(self)


def test_an_abort_in_the_last_moment_is_no_pause() -> None:
    async def main() -> bool:
        async with open_agent_pool(Model(), max_concurrent=1, journal=Records()) as pool:
            handle = await pool.spawn(CAREFUL, "go")
            trio.lowlevel.add_instrument(AtRest(pool, handle.abort))
            return isinstance(await handle.wait(), Aborted)
        raise AssertionError

    assert in_virtual_time(main)
