"""What agents that models spawn, hand over to, or call as tools may do: no more than who has them do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from cast_kit import Cast, call, last_result, manifest, scripted
from pool_kit import pool_of

from agentpool import (
    AgentContext,
    FileReadCapability,
    MemoryCapability,
    MessagingCapability,
    ModelAgent,
    PoolLimits,
    PrivacyTier,
    SpawnCapability,
    as_tool,
    handoff_to,
    tool,
)
from agentpool._core.grants import Grants
from agentpool.tools._sandbox import Sandbox, find_roots

EVERYTHING = (SpawnCapability(9), MessagingCapability(), MemoryCapability(), FileReadCapability(["/"]))
GREEDY = manifest("helper", *EVERYTHING, privacy=PrivacyTier.STANDARD)


async def ran(cast: Cast, agent: Any, **options: Any) -> Any:
    async with pool_of(2, driver=cast, **options) as pool:
        return await (await pool.spawn(agent, "go")).wait()


def ways(lead: Any) -> list[tuple[Any, Any]]:
    """Each way in which a model has another agent work, as the agent and its first call."""
    as_member = ModelAgent(attrs.evolve(lead, handoffs=["helper"]), agents=[GREEDY])
    return [
        (as_member, call("spawn_agent", agent="helper", query="x")),
        (as_member, call("start_agent", agent="helper", query="x")),
        (as_member, call("hand_off", agent="helper")),
        (ModelAgent(lead, tools=[as_tool(ModelAgent(GREEDY))]), call("helper", query="x")),
        (ModelAgent(lead, tools=[handoff_to(ModelAgent(GREEDY))]), call("hand_off", agent="helper")),
    ]


@pytest.mark.parametrize("way", range(5))
async def test_it_has_no_tool_that_the_one_above_has_not(way: int) -> None:
    lead = manifest("lead", SpawnCapability(1), MemoryCapability())
    agent, first = ways(lead)[way]
    cast = Cast(lead=scripted(first, "done"), helper=lambda turn: ",".join(sorted(turn.tools)))
    await ran(cast, agent)
    (turn,) = cast.turns_of("helper")
    spawning = {"spawn_agent", "start_agent", "message_agent", "wait_agents", "stop_agent"}
    assert {"remember", "recall"} <= set(turn.tools)
    # Who goes on with a conversation stands where the other one stood; a child is one level below.
    is_child = first[0].name != "hand_off"
    assert set(turn.tools) - spawning == {"remember", "recall"}
    assert not (is_child and spawning & set(turn.tools))


@pytest.mark.parametrize("way", range(5))
async def test_a_call_of_what_was_not_granted_comes_to_nothing(tmp_path: Path, way: int) -> None:
    (tmp_path / "key").write_text("SECRET")
    agent, first = ways(manifest("lead", SpawnCapability(1)))[way]
    steals = call("read_file", path=str(tmp_path / "key"))
    cast = Cast(lead=scripted(first, "done"), helper=scripted(*[steals] * 2, last_result))
    await ran(cast, agent)
    assert all("SECRET" not in text for turn in cast.turns_of("helper") for text in turn.results)
    assert len(cast.turns_of("helper")) >= 2


async def test_the_levels_below_come_out_of_those_of_the_parent() -> None:
    members = [GREEDY, manifest("lead", SpawnCapability(2))]
    deeper = scripted(call("spawn_agent", agent="helper", query="deeper"), last_result)
    cast = Cast(lead=deeper, helper=deeper)
    await ran(cast, ModelAgent(members[1], agents=members), limits=PoolLimits(depth=9))
    assert len([turn for turn in cast.turns_of("helper") if turn.number == 0]) == 2
    assert "spawn_agent" not in cast.turns_of("helper")[1].tools


async def test_whom_a_child_may_spawn_comes_out_of_whom_its_parent_may() -> None:
    lead = manifest("lead", SpawnCapability(3, ["helper", "other"]))
    members = [GREEDY, manifest("other"), manifest("third")]
    cast = Cast(
        lead=scripted(call("spawn_agent", agent="helper", query="x"), last_result), helper=lambda turn: "ok"
    )
    await ran(cast, ModelAgent(lead, agents=members))
    spawn = cast.turns_of("helper")[0].tools["spawn_agent"]
    assert spawn.input_schema["properties"]["agent"]["enum"] == ["helper", "other"]


@pytest.mark.parametrize("way", range(5))
async def test_words_of_a_private_agent_go_nowhere_else(way: int) -> None:
    lead = manifest("lead", SpawnCapability(1), privacy=PrivacyTier.SOVEREIGN)
    agent, first = ways(lead)[way]
    inner = Cast(lead=scripted(first, last_result))
    inner.privacy = PrivacyTier.SOVEREIGN
    outer = Cast(helper=lambda turn: "leaked")
    outer.privacy = PrivacyTier.STANDARD

    class Both(Cast):
        privacy = PrivacyTier.SOVEREIGN

        def bind(self, manifest: Any) -> Any:
            return inner if manifest.name == "lead" else outer

    await ran(Both(), agent)
    assert outer.turns == []


async def test_plain_code_gives_an_agent_what_its_own_manifest_says() -> None:
    async def plain(ctx: AgentContext, query: str) -> Any:
        return (await ModelAgent(manifest("helper", MemoryCapability()))(ctx, query)).text

    cast = Cast(helper=lambda turn: ",".join(sorted(turn.tools)))
    assert (await ran(cast, plain)).unwrap() == "recall,remember"


@pytest.mark.parametrize("asked", ["the same path", "all that is below"])
async def test_a_link_in_the_place_of_a_granted_directory_leads_a_child_nowhere(
    tmp_path: Path, asked: str
) -> None:
    """Such as a command of the parent's, or of another agent's, may make before the child is started."""
    docs, secret = tmp_path / "docs", tmp_path / "secret"
    docs.mkdir()
    secret.mkdir()
    (secret / "key").write_text("the key")
    own = FileReadCapability([str(docs)])
    lead = manifest("lead", SpawnCapability(1), own)
    wanted = own if asked == "the same path" else FileReadCapability([str(tmp_path)])

    @tool(quick=True)
    def swap() -> str:
        """Put a link in the place of the directory."""
        docs.rmdir()
        docs.symlink_to(secret)
        return "ok"

    helper = ModelAgent(manifest("helper", wanted))
    cast = Cast(
        lead=scripted(call("swap"), call("helper", query="x"), last_result),
        helper=scripted(call("read_file", path=str(docs / "key")), last_result),
    )
    outcome = await ran(cast, ModelAgent(lead, tools=[swap, as_tool(helper)]))
    assert "the key" not in outcome.value.text
    refused = {
        "the same path": "there is no tool 'read_file'",
        "all that is below": "outside of what this agent may",
    }
    assert refused[asked] in outcome.value.text


async def test_no_command_of_a_child_reaches_through_such_a_link(tmp_path: Path) -> None:
    docs, secret = tmp_path / "docs", tmp_path / "secret"
    secret.mkdir()
    docs.symlink_to(secret)
    assert find_roots([str(docs)], [], None).read == (str(secret),)
    left_out = find_roots([str(docs)], [], None, follows_links=False)
    assert (left_out.read, left_out.missing) == ((), (str(docs),))
    child = manifest("child", FileReadCapability([str(docs)])).limited_to(
        Grants((FileReadCapability([str(docs)]),))
    )
    assert Sandbox.of(child).roots().read == ()
