"""Fleets that are started in a pool: in the order of the file, restarted and supervised as it says."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from agentpool import (
    AgentFinished,
    AgentManifest,
    Completed,
    Completion,
    CompletionRequest,
    Failed,
    FleetFile,
    RestartLimitError,
    ScriptedDriver,
    open_agent_pool,
    start_fleet,
)
from agentpool.abc import Driver


class Moody(Driver):
    """Fails so often with each query, and answers then; `order` tells who was asked."""

    def __init__(self, **failures: int) -> None:
        self.failures = failures
        self.order: list[str] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        query = str(request.messages[-1].content)
        self.order.append(query)
        if self.failures.get(query, 0) > 0:
            self.failures[query] -= 1
            raise ValueError(f"{query} fails")
        return Completion(f"{query} answers")


def fleet(*names: str, extra: str = "", **more: str) -> FleetFile:
    """A fleet with an agent of each name, whose query is its name."""
    agents = [
        f'[[agents]]\nname = "{name}"\nquery = "{{name}}"\nmanifest = {{}}\n{more.get(name, "")}\n'
        for name in names
    ]
    return FleetFile.from_toml("\n".join(agents) + extra)


def supervisor(children: str, **settings: object) -> str:
    rows = "\n".join(f"{key} = {value!r}" for key, value in settings.items())
    return f'[[supervisors]]\nname = "boss"\nchildren = {children}\n{rows}\n'


async def run(fleet: FleetFile, driver: Moody, slots: int = 1, **options: Any) -> dict[str, Any]:
    """Run a fleet; return the last outcome of each agent by its name."""
    ends: dict[str, Any] = {}
    async with open_agent_pool(driver, max_concurrent=slots) as pool:
        async with pool.events() as events:
            for handle in await start_fleet(pool, fleet, **options):
                await handle.wait()
            assert pool.active_count == 0
            seen = pool.statistics().ended
            async for event in events:
                if isinstance(event, AgentFinished):
                    ends[event.outcome.name] = event.outcome
                    seen -= 1
                    if not seen:
                        break
    return ends


async def test_agents_start_in_the_order_of_the_file(autojump_clock: MockClock) -> None:
    driver = Moody()
    ends = await run(fleet("a", "b", "c"), driver)
    assert driver.order == ["a", "b", "c"]
    assert [end.unwrap().text for end in ends.values()] == ["a answers", "b answers", "c answers"]


async def test_an_agent_is_restarted_as_its_table_says(autojump_clock: MockClock) -> None:
    table = "restart = { mode = 'on_failure', max_restarts = 2, within = 60, backoff = 1.0 }"
    ends = await run(fleet("a", "b", a=table, b=table), Moody(a=2, b=3), slots=2)
    assert (ends["a"].unwrap().text, ends["a"].restarts, ends["a"].duration) == ("a answers", 2, 3.0)
    assert isinstance(ends["b"], Failed)
    assert ends["b"].restarts == 2


async def test_supervised_agents_are_started_by_their_supervisor_where_the_first_stands(
    autojump_clock: MockClock,
) -> None:
    driver = Moody()
    ends = await run(fleet("a", "b", "c", "d", extra=supervisor("['d', 'b']")), driver)
    assert driver.order.index("d") < driver.order.index("b")
    assert ends["boss"].agent_id == 2
    assert ends["boss"].unwrap() == 0
    assert ends["b"].parent_id == ends["d"].parent_id == ends["boss"].agent_id


async def test_a_supervised_agent_that_failed_comes_back(autojump_clock: MockClock) -> None:
    ends = await run(fleet("a", "b", extra=supervisor("['a', 'b']", max_restarts=2)), Moody(a=2))
    assert ends["a"].unwrap().text == "a answers"
    assert ends["boss"].unwrap() == 2


@pytest.mark.parametrize(("strategy", "asked"), [("one_for_one", 1), ("rest_for_one", 2), ("one_for_all", 2)])
async def test_the_strategy_of_the_file_rules(strategy: str, asked: int, autojump_clock: MockClock) -> None:
    driver = Moody(a=1)
    ends = await run(fleet("a", "b", extra=supervisor("['a', 'b']", strategy=strategy)), driver)
    assert ends["boss"].unwrap() == 1
    assert driver.order.count("a") == 2
    assert driver.order.count("b") in (asked, asked - 1)  # it may be stopped before it asks


async def test_a_supervisor_gives_up_as_its_table_says(autojump_clock: MockClock) -> None:
    ends = await run(fleet("a", extra=supervisor("['a']", max_restarts=3, within=60.0)), Moody(a=9))
    assert isinstance(ends["boss"], Failed)
    assert isinstance(ends["boss"].error, RestartLimitError)
    assert str(ends["boss"].error.__cause__) == "a fails"


@pytest.mark.parametrize(("mode", "restarts"), [("never", 0), ("on_failure", 1)])
async def test_the_mode_of_a_supervised_agent_rules(
    mode: str, restarts: int, autojump_clock: MockClock
) -> None:
    table = f"restart = {{ mode = '{mode}' }}"
    ends = await run(fleet("a", a=table, extra=supervisor("['a']")), Moody(a=1))
    assert ends["boss"].unwrap() == restarts
    assert isinstance(ends["a"], Failed if mode == "never" else Completed)


async def test_a_timeout_holds_for_each_agent_and_can_only_be_shortened(autojump_clock: MockClock) -> None:
    class Slow(Moody):
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.sleep(10)
            return await super().complete(request)

    file = fleet(
        "a", "b", a="timeout = 5", b="timeout = 15\nrestart = { mode = 'never' }", extra=supervisor("['b']")
    )
    ends = await run(file, Slow(), slots=3)
    assert ends["a"].error.timeout == 5
    assert isinstance(ends["b"], Completed)
    ends = await run(file, Slow(), slots=3, timeout=7)
    assert ends["a"].error.timeout == 5
    assert ends["b"].error.timeout == 7


async def test_each_agent_can_have_a_driver_of_its_own(autojump_clock: MockClock) -> None:
    def driver_of(manifest: AgentManifest) -> Driver | None:
        return ScriptedDriver([f"scripted for {manifest.name}"]) if manifest.name != "c" else None

    file = fleet("a", "b", "c", extra=supervisor("['b']"))
    ends = await run(file, Moody(), driver_of=driver_of)
    texts = [ends[name].unwrap().text for name in "abc"]
    assert texts == ["scripted for a", "scripted for b", "c answers"]
