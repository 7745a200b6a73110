"""A run that is resumed: the program's own verbs, streams, descriptions of agents, and what is rare."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from journal_kit import Records, in_virtual_time, resumed, run
from test_resume import doubled, failing
from test_resume_models import MANIFEST, TOOLS, TURNS, USED, Model, behind, read

from agentpool import (
    AgentContext,
    AgentManifest,
    AgentNursery,
    Budget,
    Completion,
    CompletionRequest,
    Driver,
    Failed,
    FleetFunction,
    ModelAgent,
    ModelSettings,
    ReplayMismatchError,
    RestartPolicy,
    SpawnConfig,
    StreamPart,
    TextDelta,
    ToolCall,
    open_agent_pool,
    resume_agent_pool,
)
from agentpool._core.tapes import loops_of
from agentpool._kernel.descriptions import described_agent, description_of
from agentpool._loop.replaying import replay


def test_what_the_program_is_given_is_written_before() -> None:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=3, journal=records) as pool:
            outcomes = await pool.map(doubled, [1, 2])
            assert records.committed == len(records.kept)
            for number in (3, 4, 5):
                await pool.spawn(doubled, number)
            one = await pool.join_next()
            assert records.committed == len(records.kept)
            rest = await pool.join_all()
            assert records.committed == len(records.kept)
            handle = pool.spawn_nowait(doubled, 6)
            pool.send_nowait(handle.id, "unread")
            last = await handle.wait()
            assert records.committed == len(records.kept)
            assert one is not None
            assert [each.unwrap() for each in (*outcomes, one, *rest.values(), last)] == [2, 4, 6, 8, 10, 12]

    in_virtual_time(main)

    async def again() -> Any:
        async with resume_agent_pool(Records(records.kept)) as pool:
            return sorted(handle.outcome.unwrap() for handle in pool.resumed if handle.outcome is not None)

    assert in_virtual_time(again) == [2, 4, 6, 8, 10, 12]


def test_an_agent_that_has_ended_is_written_though_nobody_waits_for_that() -> None:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1, journal=records) as pool:
            await pool.spawn(doubled, 1)
            await trio.sleep(1)
            assert records.of_kind("ended")
            assert records.committed == len(records.kept)

    in_virtual_time(main)


class Streaming(Model):
    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        completion = await self.complete(request)

        async def parts() -> AsyncIterator[StreamPart]:
            yield TextDelta(completion.text)
            yield completion

        yield parts()


def test_a_streamed_answer_is_written_as_any() -> None:
    records = Records()

    async def main() -> str:
        async with open_agent_pool(
            Streaming(*TURNS), max_concurrent=1, journal=records, budget=Budget(tokens=10_000)
        ) as pool:
            async with pool.events():
                handle = await pool.spawn(ModelAgent(MANIFEST, tools=TOOLS), "go", name="first")
                return (await handle.result()).text

    text = in_virtual_time(main)
    assert len(records.of_kind("reserved")) == len(records.of_kind("settled")) == 3
    outcome, _ = resumed(behind(records, "observed", 2), driver=Model(*TURNS))
    assert outcome.unwrap().text == text


# -- descriptions --------------------------------------------------------------------------------


@attrs.frozen
class Answer:
    text: str


@pytest.mark.parametrize(
    "agent",
    [
        ModelAgent(MANIFEST, tools=TOOLS),
        ModelAgent(MANIFEST, output_type=Answer, output_retries=1),
        SpawnConfig(MANIFEST, "go", tools=[read]),
        FleetFunction("double", doubled, "test_resume:doubled", args={"number": 3}),
    ],
)
def test_agents_are_made_again_from_what_a_journal_keeps(agent: Any) -> None:
    again = described_agent(description_of(agent))
    assert again == agent
    assert again.name == agent.name


def test_what_cannot_be_found_again_is_not_described() -> None:
    async def inner(ctx: AgentContext) -> None:
        return None

    async def plain(x: int) -> int:
        return x

    class Inner:
        pass

    assert description_of(inner) is None
    assert description_of(ModelAgent(MANIFEST, driver=Model())) is None
    assert description_of(ModelAgent(MANIFEST, tools=[plain])) is None
    assert description_of(ModelAgent(MANIFEST, output_type=Inner)) is None
    assert description_of(FleetFunction("inner", inner, "here:inner")) is None


async def plain_tool(x: int) -> int:
    """Return it."""
    return x


def test_a_plain_function_is_found_again_as_a_tool() -> None:
    agent = described_agent(description_of(ModelAgent(MANIFEST, tools=[plain_tool])))
    assert [each.name for each in agent.tools] == ["plain_tool"]


@pytest.mark.parametrize("approver", [3, Driver])
async def test_what_is_no_approver_is_refused(approver: Any) -> None:
    with pytest.raises(TypeError, match="approver must be an async function of an ApprovalRequest"):
        open_agent_pool(max_concurrent=1, approver=approver)


# -- tapes ---------------------------------------------------------------------------------------


def test_another_manifest_of_a_model_that_a_function_asks_is_named() -> None:
    async def boss(ctx: AgentContext, model: str = "one") -> str:
        manifest = AgentManifest(name="asked", model=ModelSettings(system_prompt=model))
        return (await ModelAgent(manifest)(ctx, "go")).text

    async def other(ctx: AgentContext) -> str:
        return await boss(ctx, "two")

    _, records = run(boss, driver=Model(TURNS[-1]))
    outcome, _ = resumed(behind(records, "observed"), driver=Model(TURNS[-1]), agents={"first": other})
    assert isinstance(outcome.error, ReplayMismatchError)
    assert "its loop has another manifest now than it had then" in str(outcome.error)


def test_a_model_that_is_asked_outside_of_the_agent_is_not_on_its_tape() -> None:
    async def waiting(ctx: AgentContext) -> None:
        CONTEXTS.append(ctx)
        await ctx.receive()

    CONTEXTS: list[AgentContext] = []
    records = Records()

    async def main() -> str:
        async with open_agent_pool(Model(TURNS[-1]), max_concurrent=2, journal=records) as pool:
            handle = await pool.spawn(waiting)
            await trio.testing.wait_all_tasks_blocked()
            result = await ModelAgent(MANIFEST)(CONTEXTS[0], "go")
            await pool.send(handle.id, "done")
            return result.text

    assert in_virtual_time(main) == "done: "
    assert not records.of_kind("observed")


def test_calls_that_cannot_be_made_anyway_are_made_again() -> None:
    wrong = ToolCall("1", "read", {}, problem="these arguments are no JSON")
    turns = (Completion(tool_calls=(wrong, ToolCall("2", "nothing", {})), usage=USED), TURNS[-1])
    for tools in (TOOLS, []):
        agent = ModelAgent(MANIFEST, tools=tools)
        whole, records = run(agent, "go", driver=Model(*turns))
        outcome, _ = resumed(behind(records, "called", 2), driver=Model(*turns))
        assert outcome.unwrap().text == whole.unwrap().text


async def restarting_model(ctx: AgentContext) -> Any:
    handle = await ctx.spawn(
        ModelAgent(MANIFEST, tools=TOOLS), "go", restart=RestartPolicy(max_restarts=1), name="model"
    )
    return await handle.wait()


class FailingOnce(Model):
    """Fails at the second turn of the first life."""

    failed = False

    async def complete(self, request: CompletionRequest) -> Completion:
        if len(request.messages) > 1 and not FailingOnce.failed:
            FailingOnce.failed = True
            raise ValueError("odd")
        return await super().complete(request)


def test_each_life_has_a_tape_of_its_own() -> None:
    FailingOnce.failed = False
    outcome, records = run(restarting_model, driver=FailingOnce(*TURNS))
    assert not isinstance(outcome.unwrap(), Failed)
    loops = loops_of(records.kept, 2)
    assert [(each.life, each.key) for each in loops] == [(0, "0"), (1, "0")]
    assert [len(list(replay(each, "model"))) for each in loops][1] > 5
    assert loops_of(records.kept, 1) == []


def test_a_child_of_a_nursery_of_the_agent_is_no_stranger() -> None:
    async def boss(ctx: AgentContext) -> Any:
        results: list[Any] = []

        async def ask(query: str) -> None:
            results.append((await ModelAgent(MANIFEST)(ctx, query)).text)

        nursery: AgentNursery
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(ask, "one")
            nursery.start_soon(ask, "two")
        return results

    outcome, records = run(boss, driver=Model(TURNS[-1]))
    assert outcome.unwrap() == ["done: ", "done: "]
    assert sorted({record.data["loop"] for record in records.of_kind("begun")}) == ["0/0", "1/0"]
    assert resumed(records.kept[:-3], driver=Model(TURNS[-1]), agents={"first": boss})[0].unwrap()


def test_the_failure_of_a_child_that_ended_before_is_handed_out() -> None:
    async def boss(ctx: AgentContext) -> str:
        handle = await ctx.spawn(failing)
        await ctx.step("wait", trio.sleep, 5)
        return type(await handle.wait()).__name__

    _, records = run(boss)
    kept = behind(records, "ended")
    assert resumed(kept, agents={"first": boss})[0].unwrap() == "Failed"


def test_an_agent_that_is_given_again_has_the_arguments_that_it_had() -> None:
    @attrs.frozen
    class Adding:
        more: int

        async def __call__(self, ctx: AgentContext, number: int) -> int:
            return number + self.more

    _, records = run(Adding(1), 4)
    kept = behind(records, "spawned")
    assert resumed(kept, agents={"first": Adding(2)})[0].unwrap() == 6
    with pytest.raises(ReplayMismatchError, match="give it as agents="):
        resumed(kept)
