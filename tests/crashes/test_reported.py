"""Situations in which other systems that resume were reported to go wrong; each names the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from agentpool import (
    AgentContext,
    AgentManifest,
    JournalError,
    ModelAgent,
    RestartPolicy,
    open_agent_pool,
    resume_agent_pool,
)
from agentpool.abc import Journal
from agentpool.journal import SqliteJournal

from . import _town
from ._oracle import crashes_of, problems_of, resumed, run
from ._runs import Report, run_case
from ._world import plain

pytestmark = pytest.mark.long


def after_every_crash(case: Any) -> None:
    report = Report()
    run_case(case, report)
    assert report.problems == []
    assert report.crashes > 5


async def early_and_late(ctx: AgentContext) -> None:
    assert ctx.parent_id is not None
    await trio.sleep(1)
    await ctx.send(ctx.parent_id, "early")
    await trio.sleep(60)
    await ctx.send(ctx.parent_id, "late")


async def timer_that_lost(ctx: AgentContext) -> list[Any]:
    await ctx.spawn(early_and_late)
    seen: list[Any] = []
    with trio.move_on_after(30):
        seen.append((await ctx.receive()).content)
    seen.append((await ctx.receive()).content)  # when the timer would have fired long ago
    return seen


def test_a_timer_that_lost_against_an_event_loses_again() -> None:
    # Azure/azure-functions-durable-extension#680, azure-functions-durable-python#348
    after_every_crash(timer_that_lost)


async def overlapping(ctx: AgentContext) -> list[Any]:
    """Two tasks of which one does what the other has come to."""
    state, seen = ["running"], list[Any]()

    async def wait_for_work() -> None:
        await (await ctx.spawn(_town.quick)).result()
        state[0] = "stopped"

    async def wait_for_messages() -> None:
        await ctx.receive()
        if state[0] == "stopped":
            seen.append(await ctx.step("again", _town.find, "again"))

    await ctx.spawn(early_and_late)
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(wait_for_messages)
        nursery.start_soon(wait_for_work)
    return [*seen, (await ctx.receive()).content]


@pytest.mark.parametrize("seed", range(4))
def test_tasks_see_what_others_came_to_in_the_order_in_which_they_did(seed: int) -> None:
    # temporalio/sdk-python#673
    async def program(journal: Journal, is_resumed: bool) -> Any:
        return await _town.main(journal, is_resumed, overlapping)

    whole = run(program, seed=seed)
    for crash in crashes_of(whole):
        for order in range(4):
            assert problems_of(whole, resumed(program, whole, crash, order)) == [], (crash, order)


async def picky(ctx: AgentContext) -> list[Any]:
    """Takes one message in each life, and asks for another life."""
    taken = (await ctx.receive()).content
    await ctx.step("keep", _town.find, str(taken))
    if taken != 4:
        raise ValueError("one more life")
    return [taken]


async def flooder(ctx: AgentContext) -> Any:
    handle = await ctx.spawn(picky, restart=RestartPolicy("on_failure", max_restarts=9))
    for number in range(5):
        ctx.send_nowait(handle.id, number)
    outcome = await handle.wait()
    return [plain(outcome.unwrap()), outcome.restarts]


def test_messages_that_wait_are_there_in_the_next_life() -> None:
    # dapr/dapr#8277, dapr/dapr#6799, microsoft/durabletask-dotnet#387
    after_every_crash(flooder)


async def counted(ctx: AgentContext) -> Any:
    manifest = AgentManifest.from_toml(
        'name = "scholar"\n[resources]\nmax_iterations = 4\nmax_tool_calls = 6'
    )
    await ctx.spawn(_town.archive, name="archive")
    result = await ModelAgent(manifest, tools=_town.TOOLS)(ctx, "study A")
    await ctx.send("archive", "stop")
    return [result.text, result.iterations, result.tool_calls, result.usage.total_tokens]


def test_a_limit_counts_a_turn_once_that_a_crash_cut_off() -> None:
    # prashar32/riskkernel#63: a step that was cut off counted twice against the limit
    after_every_crash(counted)


def test_one_slot_is_enough_to_go_on_from_anywhere() -> None:
    # dbos-inc/dbos-transact-py#805: a recovered workflow kept the one slot of its queue
    async def program(journal: Journal, is_resumed: bool) -> Any:
        return await _town.main(journal, is_resumed, max_concurrent=1)

    whole = run(program)
    for crash in [crash for crash in crashes_of(whole) if crash.kept][::4]:
        assert problems_of(whole, resumed(program, whole, crash)) == [], crash


async def test_a_run_that_still_works_is_not_resumed_by_another(tmp_path: Path) -> None:
    # dbos-inc/dbos-transact-java#491: recovery took a workflow over that was running
    path = tmp_path / "run.db"
    async with open_agent_pool(max_concurrent=1, journal=SqliteJournal(path)) as pool:
        handle = await pool.spawn(_town.quick)
        with pytest.raises(JournalError, match="another process writes to the journal"):
            async with resume_agent_pool(path):
                raise AssertionError("two would go on with one run")
        assert await handle.result() == "quick"


async def test_a_journal_has_room_for_many_at_once(tmp_path: Path) -> None:
    # langchain-ai/langgraph#8136: many writers met `database is locked`
    async with open_agent_pool(max_concurrent=100, journal=SqliteJournal(tmp_path / "run.db")) as pool:
        outcomes = await pool.map(_town.double, [1] * 200)
    assert [outcome.unwrap() for outcome in outcomes] == [2] * 200
