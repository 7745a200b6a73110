"""What calls cost is told and booked, however they end: answered, refused, failed or cancelled."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from models import KEY, Make
from rawserver import answer, raw_server

from agentpool import (
    AgentContext,
    AgentManifest,
    Budget,
    CompletionRequest,
    Driver,
    DriverError,
    DriverUnavailableError,
    GovernedDriver,
    MalformedReplyError,
    ModelSettings,
    OverloadedError,
    RetryingDriver,
    ScriptedDriver,
    SpawnConfig,
    TokenUsage,
    UserMessage,
    open_agent_pool,
    open_driver,
)
from agentpool.drivers.openai import OpenAIDriver

pytest.importorskip("httpx2", reason="the extra http is not installed")

HI = CompletionRequest(messages=[UserMessage("hi")])
PLAIN = AgentManifest(name="plain", model=ModelSettings(max_tokens=100))
WORST = 100 + 16 + 8 + 2


async def error_of(driver: Driver) -> DriverError:
    with pytest.raises(DriverError) as caught:
        await driver.complete(HI)
    return caught.value


# -- failures over the wire -----------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 413, 429, 500, 503, 529])
async def test_a_provider_that_refuses_charges_nothing(make: Make, status: int) -> None:
    async with raw_server(answer(status, {"error": {"message": "no"}})) as server, make(server.url) as driver:
        assert not (await error_of(driver)).may_have_cost


async def test_nobody_there_charges_nothing(make: Make) -> None:
    async with make("http://127.0.0.1:9") as driver:
        error = await error_of(driver)
    assert type(error) is DriverUnavailableError
    assert not error.may_have_cost


async def test_silence_may_have_cost(make: Make) -> None:
    async with raw_server(b"", stay=True) as server, make(server.url) as driver:
        driver.timeout = 0.2
        error = await error_of(driver)
    assert type(error) is DriverUnavailableError
    assert error.may_have_cost


async def test_an_answer_that_cannot_be_read_may_have_cost(make: Make) -> None:
    async with raw_server(answer(200, b"<html>")) as server, make(server.url) as driver:
        error = await error_of(driver)
    assert type(error) is MalformedReplyError
    assert error.may_have_cost


async def test_a_call_that_was_cut_is_booked_with_its_worst_case() -> None:
    budget = Budget(tokens=1000)
    arrived = trio.Event()

    def reply(head: str, body: Any) -> bytes:
        arrived.set()
        return b""

    async with raw_server(reply, stay=True) as server:
        driver = OpenAIDriver("m", base_url=f"{server.url}/v1", api_key=KEY, timeout=60)
        async with driver, open_agent_pool(driver, max_concurrent=1, budget=budget) as pool:
            handle = await pool.spawn(SpawnConfig(PLAIN, "hi"))
            await arrived.wait()
            handle.abort()
            outcome = await handle.wait()
        await server.hung_up.wait()
    assert outcome.usage == TokenUsage()
    assert (budget.spent.tokens, budget.spent.calls, budget.reserved.tokens) == (WORST, 1, 0)


async def test_a_server_that_does_not_count_is_not_free() -> None:
    message = {"role": "assistant", "content": "Hello."}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    budget = Budget(tokens=1000)
    async with raw_server(answer(200, {"id": "x", "choices": [choice]})) as server:
        driver = OpenAIDriver("m", base_url=f"{server.url}/v1", api_key=KEY)
        async with driver, open_agent_pool(RetryingDriver(driver), max_concurrent=1, budget=budget) as pool:
            result = await (await pool.spawn(SpawnConfig(PLAIN, "hi"))).result()
    assert result.text == "Hello."
    assert result.usage == TokenUsage()
    assert budget.spent.tokens == WORST


# -- several attempts ----------------------------------------------------------------


async def test_retries_that_fail_tell_whether_any_attempt_may_have_cost(autojump_clock: Any) -> None:
    free, paid = OverloadedError(), MalformedReplyError("cut")
    for replies, cost in (([free, free], False), ([paid, free], True), ([free, paid], True)):
        error = await error_of(RetryingDriver(ScriptedDriver([*replies]), attempts=2))
        assert error.may_have_cost is cost
        free.may_have_cost = False


async def test_a_deadline_that_passes_in_an_attempt_may_have_cost(autojump_clock: Any) -> None:
    async def never(_: CompletionRequest) -> str:
        await trio.sleep(math.inf)
        return ""

    late = RetryingDriver(ScriptedDriver([never]), deadline=5)
    assert (await error_of(late)).may_have_cost
    between = RetryingDriver(ScriptedDriver([OverloadedError(retry_after=60)]), deadline=5)
    assert not (await error_of(between)).may_have_cost


# -- drivers for many agents ----------------------------------------------------------


async def test_a_driver_that_is_opened_resilient_is_governed_and_retried() -> None:
    name = "openai+http://127.0.0.1:9/v1:m"
    async with open_driver(name, env={}, resilient=True) as driver, open_driver(name, env={}) as bare:
        assert isinstance(driver, RetryingDriver)
        assert repr(driver).startswith("<RetryingDriver around <GovernedDriver around <OpenAIDriver m at")
        assert isinstance(bare, OpenAIDriver)


async def test_a_governor_serves_older_root_agents_first(autojump_clock: Any) -> None:
    """Children count as the root agent that they work for."""
    order: list[str] = []

    async def reply(request: CompletionRequest) -> str:
        order.append(request.messages[0].content)  # type: ignore[union-attr]
        await trio.sleep(1)
        return "x"

    async def root(ctx: AgentContext, name: str, before: float) -> None:
        await trio.sleep(before)
        await ctx.fan_out([SpawnConfig(PLAIN, f"{name}{n}") for n in range(2)])
        await ctx.join_all()

    driver = GovernedDriver(ScriptedDriver([reply] * 5), max_in_flight=1)
    async with open_agent_pool(driver, max_concurrent=9) as pool:
        older = await pool.spawn(root, "older", 0.2)
        younger = await pool.spawn(root, "younger", 0.1)
        await pool.spawn(SpawnConfig(PLAIN, "first"))
        await older.wait()
        await younger.wait()
    assert order == ["first", "older0", "older1", "younger0", "younger1"]


# -- the command line -------------------------------------------------------------------


def test_the_command_line_sums_the_usage_of_children_too(tmp_path: Path) -> None:
    pytest.importorskip("cyclopts")
    (tmp_path / "steps.py").write_text(
        "from agentpool import Completion, TokenUsage, ToolCall, ToolMessage\n"
        "USAGE = TokenUsage(100, 10, cost_usd=0.25)\n"
        "def step(request):\n"
        "    if request.messages[0].content == 'help' or isinstance(request.messages[-1], ToolMessage):\n"
        "        return Completion('done', usage=USAGE)\n"
        "    return Completion('', [ToolCall('1', 'spawn_agent', {'query': 'help'})], usage=USAGE)\n"
    )
    (tmp_path / "a.toml").write_text(
        'name = "a"\ncapabilities = [{ type = "spawn", max_depth = 1 }]\n[script]\nfunction = "steps:step"\n'
    )
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(
        '[pool]\nmax_concurrent = 1\n\n[[agents]]\nname = "a"\nmanifest = "a.toml"\nquery = "go"\n'
    )

    def run(*options: str) -> str:
        command = [sys.executable, "-m", "agentpool.cli", "run", str(fleet), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    document = json.loads(run("--json"))
    assert document["agents"][0]["usage"]["input_tokens"] == 200
    assert document["usage"]["input_tokens"] == 300
    assert document["usage"]["cost_usd"] == 0.75
    shown = run()
    assert "220" in shown
    assert "330 tokens, $0.7500" in shown
