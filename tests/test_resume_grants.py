"""An agent that is resumed may do what it might do before, and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from journal_kit import Records, after_each_cut, in_virtual_time, resumed, run

from agentpool import (
    AgentContext,
    AgentManifest,
    AgentPool,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Driver,
    MessagingCapability,
    ModelAgent,
    ModelSettings,
    SpawnCapability,
    ToolCall,
    open_agent_pool,
    resume_agent_pool,
    tool,
)
from agentpool._core.capability import Capability
from agentpool._core.records import JournalRecord

SEEN: list[Any] = []
CONTEXTS: list[AgentContext] = []


class Model(Driver):
    """Calls each of its tools once that is told in its system prompt, and then tells that it is done."""

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(1)
        turn = sum(isinstance(message, AssistantMessage) for message in request.messages)
        names = request.system.split()
        return Completion(tool_calls=(ToolCall(f"c{turn}", names[turn], {}),)) if turn < len(names) else DONE


DONE = Completion("done")


def agent(name: str, *capabilities: Any, tools: Any) -> ModelAgent[str]:
    model = ModelSettings(system_prompt=" ".join(each.name for each in tools))
    return ModelAgent(AgentManifest(name=name, model=model, capabilities=capabilities), tools=tools)


@tool(idempotent=True)
async def look(ctx: AgentContext) -> str:
    """Tell what the agent may do."""
    SEEN.append(ctx.grants)
    return str(ctx.grants)


WIDE = agent("wide", "memory", "messaging", {"type": "spawn", "max_depth": 9}, tools=[look])


async def middle(ctx: AgentContext) -> Any:
    await trio.sleep(1)
    return (await (await ctx.spawn(WIDE, "q")).result()).text


@tool(idempotent=True)
async def hand_on(ctx: AgentContext) -> str:
    """Have another one do it."""
    return str(await (await ctx.spawn(middle)).result())


@tool
async def hand_on_once(ctx: AgentContext) -> str:
    """Have another one do it, and be not called again."""
    return str(await (await ctx.spawn(middle)).result())


GRANTED: tuple[Capability, ...] = (MessagingCapability(), SpawnCapability(1))


def test_wherever_a_run_is_cut_off_a_child_may_do_the_same_afterwards() -> None:
    SEEN.clear()
    parent = agent("parent", "messaging", {"type": "spawn", "max_depth": 3}, tools=[hand_on])
    text, _ = after_each_cut(parent, "q", driver=Model, same=lambda outcome: outcome.unwrap().text)
    assert text == "done"
    assert set(SEEN) == {GRANTED}


def test_a_child_whose_spawner_is_not_run_again_may_do_the_same() -> None:
    """Its tool call is not made again, and what it had started goes on."""
    SEEN.clear()
    parent = agent("parent", "messaging", {"type": "spawn", "max_depth": 3}, tools=[hand_on_once])
    outcome, records = run(parent, "q", driver=Model())
    assert outcome.unwrap().text == "done"
    for end in range(2, len(records.kept)):
        if any(record.kind == "spawned" for record in records.kept[:end]):
            resumed(records.kept[:end], driver=Model())
    assert len(SEEN) > 2
    assert set(SEEN) == {GRANTED}


@tool(idempotent=True)
async def lend_scope(ctx: AgentContext) -> str:
    """Let somebody else start children of the agent."""
    CONTEXTS.append(ctx)
    await trio.sleep(100)
    return "lent"


async def late(ctx: AgentContext) -> None:
    """Start the one whose scope is lent, which takes a while each time."""
    await trio.sleep(20)
    await (await ctx.spawn(agent("lender", "messaging", SpawnCapability(3), tools=[lend_scope]), "q")).wait()


async def stranger(ctx: AgentContext) -> None:
    """Start a child of somebody else, and end."""
    await trio.sleep(30)
    await CONTEXTS[0].spawn(WIDE, "q")


def test_a_child_that_is_back_before_its_parent_may_do_no_more() -> None:
    SEEN.clear()
    CONTEXTS.clear()
    records = Records()

    async def main() -> None:
        async with open_agent_pool(Model(), journal=records, max_concurrent=5) as pool:
            handles = [await pool.spawn(late), await pool.spawn(stranger)]
            for handle in handles:
                await handle.wait()

    in_virtual_time(main)
    assert [(MessagingCapability(), SpawnCapability(2))] == SEEN
    spawned = [n for n, record in enumerate(records.kept) if record.kind == "spawned"]
    ended = next(n for n, record in enumerate(records.kept) if record.kind == "ended")
    assert len(spawned) == 4
    assert ended > spawned[-1]
    SEEN.clear()

    async def go_on() -> None:
        async with resume_agent_pool(Records(records.kept[: ended + 1]), Model()) as pool:
            await pool.join_all()

    in_virtual_time(go_on)
    assert [(MessagingCapability(), SpawnCapability(2))] == SEEN


POOLS: list[AgentPool] = []


@tool(idempotent=True)
async def wait(ctx: AgentContext) -> str:
    """Be at work for longer than whoever started it."""
    await trio.sleep(10)
    return "waited"


SLOW = agent("slow", "memory", "messaging", SpawnCapability(9), tools=[wait, look])


@tool(idempotent=True)
async def hand_to_the_pool(ctx: AgentContext) -> str:
    """Have the pool start another one, and do not wait."""
    await POOLS[-1].spawn(SLOW, "q")
    return "started"


def test_what_a_tool_call_started_on_the_pool_may_do_no_more_when_the_caller_has_ended() -> None:
    SEEN.clear()
    records = Records()

    async def main() -> None:
        async with open_agent_pool(Model(), journal=records, max_concurrent=5) as pool:
            POOLS.append(pool)
            parent = agent("parent", "messaging", SpawnCapability(3), tools=[hand_to_the_pool])
            await (await pool.spawn(parent, "q")).wait()
            await trio.sleep(0.5)
            ends.append(len(records.kept))
            await pool.join_all()

    ends: list[int] = []
    in_virtual_time(main)
    assert [(MessagingCapability(), SpawnCapability(2))] == SEEN
    SEEN.clear()

    async def go_on() -> None:
        async with resume_agent_pool(Records(records.kept[: ends[0]]), Model()) as pool:
            await pool.join_all()

    in_virtual_time(go_on)
    assert [(MessagingCapability(), SpawnCapability(2))] == SEEN


def test_below_an_agent_that_cannot_be_made_again_nothing_is_granted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    SEEN.clear()
    CONTEXTS.clear()
    records = Records()

    async def main() -> None:
        async with open_agent_pool(Model(), journal=records, max_concurrent=5) as pool:
            for handle in [await pool.spawn(late), await pool.spawn(stranger)]:
                await handle.wait()

    in_virtual_time(main)
    SEEN.clear()
    ended = next(n for n, record in enumerate(records.kept) if record.kind == "ended")
    kept = [
        JournalRecord(each.kind, each.agent, json.loads(json.dumps(each.data).replace(KIND, GONE)), each.at)
        if each.kind == "spawned" and '"lender"' in json.dumps(each.data)
        else each
        for each in records.kept[: ended + 1]
    ]
    assert kept != records.kept[: ended + 1]

    async def go_on() -> None:
        async with resume_agent_pool(Records(kept), Model()) as pool:
            await pool.join_all()

    in_virtual_time(go_on)
    assert SEEN == []
    assert "the privacy of agent 'wide' is sovereign" in caplog.text  # so that it asked no model


KIND, GONE = '"kind": "agentpool:ModelAgent"', '"kind": "nowhere_any_more:ModelAgent"'
