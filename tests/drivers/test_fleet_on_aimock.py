"""Whole fleets and pools of agents on a provider that nobody here wrote, over the wire."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aimock as counterpart
import attrs
import pydantic
import pytest
import trio
import trio.testing
from aimock import Aimock
from models import DRIVERS, Make
from rawserver import answer, raw_server

from agentpool import (
    AgentHandle,
    AgentManifest,
    AgentPool,
    Completed,
    CompletionFinished,
    ContentRefusedError,
    ContextTooLongError,
    DriverUnavailableError,
    Event,
    Failed,
    GovernedDriver,
    MalformedReplyError,
    ModelSettings,
    OpenAIDriver,
    OverloadedError,
    PrivacyTier,
    RateLimitedError,
    RequestRejectedError,
    RetryingDriver,
    RoutingDriver,
    SpawnConfig,
    TextDeltaReceived,
    TokenUsage,
    open_agent_pool,
)

pytest.importorskip("httpx2", reason="the extra http is not installed")

TOOL_FLEET = Path(__file__).with_name("tool_fleet")
REVIEW = Path(__file__).parents[2] / "examples" / "docs-review"
CHECKS = ("check_links", "check_headings", "find_todos", "find_long_lines", "count_words")
PAGES = {
    "good.md": "# Good\n\nThree words here.\n",
    "bad.md": "# Bad\n\n### Too deep\n\nSee [nothing](nowhere.md). TODO: fix it.\n",
}
CANARY = "sk-canary-4f1c77a09be2"


# -- a fleet of agents with tools ------------------------------------------------------


def call(name: str, id: str, **arguments: Any) -> dict[str, Any]:
    return {"id": id, "name": name, "arguments": arguments}


def usage(prompt: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def says(match: dict[str, Any], *calls: dict[str, Any], text: str = "") -> dict[str, Any]:
    response: dict[str, Any] = {"usage": usage(1000, 100)}
    if text:
        response["content"] = text
    if calls:
        response["toolCalls"] = calls
    return {"match": match, "response": response}


def script() -> dict[str, Any]:
    """What the models of the fleet say, found by what they are told."""
    fixtures = []
    for name in PAGES:
        path = f"docs/{name}"
        message = json.dumps({"path": path, "words": 3, "links": [f"seen in {name}"]})
        fixtures += [
            says({"toolCallId": f"remember-{name}"}, text=f"{path} can be read."),
            says(
                {"toolCallId": f"count_words-{name}"},
                call("send_message", f"send-{name}", to="editor", content=message),
                call("remember", f"remember-{name}", content=message),
            ),
            says(
                {"systemMessage": "You review one Markdown file", "userMessage": name},
                *[call(check, f"{check}-{name}", path=path) for check in CHECKS],
            ),
        ]
    report = "# Review\n\n" + "".join(f"- {name}\n" for name in PAGES)
    return {
        "fixtures": [
            *fixtures,
            says({"toolCallId": "write"}, text="Wrote the report."),
            says(
                {"toolResultContains": "no more messages"},
                call("write_file", "write", path="report.md", content=report),
            ),
            says({"systemMessage": "You are the editor"}, {"name": "receive_message", "arguments": {}}),
        ]
    }


@pytest.fixture
def reviewing(tmp_path: Path) -> Iterator[Aimock]:
    """A provider that plays the fleet's models."""
    file = tmp_path / "fixtures.json"
    file.write_text(json.dumps(script()))
    with counterpart.running(file) as server:
        yield server


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """The fleet, with pages to review."""
    folder = tmp_path / "review"
    shutil.copytree(TOOL_FLEET, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").mkdir()
    for name, text in PAGES.items():
        (folder / "docs" / name).write_text(text, "utf-8")
    return folder / "fleet.toml"


def agentpool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentpool.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"AGENTPOOL_API_KEY": CANARY, "OPENAI_API_KEY": CANARY[::-1]},
    )


def test_a_fleet_with_tools_runs_on_a_model(reviewing: Aimock, fleet: Path) -> None:
    pytest.importorskip("cyclopts")
    driver = f"openai+{reviewing.url}/v1:gpt-5-mini"
    done = agentpool("run", fleet, "--driver", driver, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert [agent["outcome"] for agent in document["agents"]] == ["completed"] * 3
    assert [agent["text"] for agent in document["agents"][1:]] == [
        "docs/bad.md can be read.",
        "docs/good.md can be read.",
    ]
    assert (fleet.parent / "report.md").read_text() == "# Review\n\n- good.md\n- bad.md\n"
    # What was used is told while it runs, for each agent at its end, and for all together.
    calls = len(reviewing.journal())
    assert document["usage"]["input_tokens"] == 1000 * calls
    assert document["usage"]["cost_usd"] == pytest.approx(
        sum(a["usage"]["cost_usd"] for a in document["agents"])
    )
    assert document["usage"]["cost_usd"] > 0
    assert done.stderr.count("3,300 tokens, $0.") == 2
    assert told_to(reviewing, "bad.md", "find_todos") == [
        "line 5: unfinished: See [nothing](nowhere.md). TODO: fix it."
    ]
    # The server was given the key, and nobody else.
    assert all(entry["headers"].get("authorization") for entry in reviewing.journal())
    assert CANARY not in done.stdout + done.stderr + (fleet.parent / "report.md").read_text()


def told_to(server: Aimock, page: str, tool: str) -> Any:
    """Return the result of a tool that a model was told."""
    for entry in server.journal():
        for message in entry["body"]["messages"]:
            if message.get("tool_call_id") == f"{tool}-{page}":
                return json.loads(message["content"])
    return None


def test_the_docs_review_has_judgements_and_a_summary_of_a_model(fleet: Path, tmp_path: Path) -> None:
    pytest.importorskip("cyclopts")
    judgement = {"clarity": 3, "reason": "It is short.", "unclear": ["Three words here."]}
    fixtures = [
        says({"systemMessage": "You judge how clear"}, text=json.dumps(judgement)),
        says({"systemMessage": "You are given the report"}, text="Repair bad.md first."),
    ]
    file = tmp_path / "judging.json"
    file.write_text(json.dumps({"fixtures": fixtures}))
    report = tmp_path / "report.md"
    variables = (f"--var=docs={fleet.parent / 'docs'}", f"--var=report={report}")
    with counterpart.running(file) as server:
        driver = f"openai+{server.url}/v1:gpt-5-mini"
        done = agentpool("run", REVIEW / "fleet.toml", "--driver", driver, "--json", *variables)
        bodies = [entry["body"] for entry in server.journal()]
    assert done.returncode == 0, done.stdout + done.stderr
    text = report.read_text()
    assert text.splitlines()[4] == "Repair bad.md first."
    assert text.count("- clarity 3 of 5: It is short.") == 2
    assert text.count("- unclear: Three words here.") == 1  # the other page does not have these words
    # The provider is told what an answer has to be; what was used counts on the agents that asked.
    assert sum("fits this schema" in body["messages"][0]["content"] for body in bodies) == 2
    agents = json.loads(done.stdout)["agents"]
    assert [agent["usage"]["input_tokens"] for agent in agents] == [1000, 1000, 1000]


def test_a_provider_that_refuses_the_key_is_told_without_showing_it(fleet: Path, tmp_path: Path) -> None:
    pytest.importorskip("cyclopts")
    file = tmp_path / "refusing.json"
    error = {"message": f"Incorrect API key provided: {CANARY}", "type": "authentication_error"}
    file.write_text(json.dumps({"fixtures": [{"match": {}, "response": {"error": error, "status": 401}}]}))
    with counterpart.running(file) as server:
        for extra in ((), ("--json",)):
            done = agentpool("run", fleet, "--driver", f"openai+{server.url}/v1:gpt-5-mini", *extra)
            assert done.returncode == 1
            assert "Incorrect API key provided: [redacted]" in done.stdout + done.stderr
            assert CANARY not in done.stdout + done.stderr


# -- agents on each driver ------------------------------------------------------------


async def gather(pool: AgentPool, stack: AsyncExitStack, nursery: trio.Nursery) -> list[Event]:
    """Return a list that the pool's events are put into."""
    told: list[Event] = []
    events = await stack.enter_async_context(pool.events(max_buffer=10_000))

    async def take() -> None:
        async for event in events:
            told.append(event)

    nursery.start_soon(take)
    return told


PLAIN = AgentManifest(name="plain")


async def test_deltas_are_told_as_they_stream_in(make: Make, aimock: Aimock) -> None:
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        driver = await stack.enter_async_context(make(aimock.url))
        pool = await stack.enter_async_context(
            open_agent_pool(RetryingDriver(GovernedDriver(driver)), max_concurrent=2)
        )
        told = await gather(pool, stack, nursery)
        handle: AgentHandle[Any] = await pool.spawn(SpawnConfig(PLAIN, "plain"))
        result = await handle.result()
        await trio.testing.wait_all_tasks_blocked()
        deltas = [event.text for event in told if isinstance(event, TextDeltaReceived)]
        (finished,) = [event for event in told if isinstance(event, CompletionFinished)]
        assert len(deltas) > 2
        assert "".join(deltas) == result.text
        assert result.usage == finished.usage
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("rate limited", RateLimitedError),
        ("overloaded", OverloadedError),
        ("server error", DriverUnavailableError),
        ("wrong key", RequestRejectedError),
        ("too long", ContextTooLongError),
        ("cut in the middle", MalformedReplyError),
    ],
)
async def test_what_goes_wrong_is_how_the_agent_failed(
    make: Make, aimock: Aimock, query: str, kind: type[Exception]
) -> None:
    async with make(aimock.url) as driver, open_agent_pool(driver, max_concurrent=1) as pool:
        async with pool.events():  # so that answers are streamed
            handle = await pool.spawn(SpawnConfig(PLAIN, query))
            outcome = await handle.wait()
        assert isinstance(outcome, Failed)
        assert type(outcome.error) is kind, repr(outcome.error)
        assert outcome.usage == TokenUsage()


async def test_a_failed_agent_tells_what_its_answers_cost(aimock: Aimock) -> None:
    async with DRIVERS["chat"](aimock.url) as driver, open_agent_pool(driver, max_concurrent=1) as pool:
        outcome = await (await pool.spawn(SpawnConfig(PLAIN, "declined"))).wait()
        assert isinstance(outcome, Failed)
        assert type(outcome.error) is ContentRefusedError
        assert outcome.usage.total_tokens > 0
        assert outcome.usage.cost_usd > 0
        assert outcome.usage == pool.statistics().usage


# -- storms -----------------------------------------------------------------------------


@attrs.define(eq=False)
class Quota:
    """A provider's quota of requests: refuses what comes too fast, and says how long to wait."""

    per_second: float = 20.0
    burst: float = 20.0
    left: float = 20.0
    updated: float = 0.0
    answered: int = 0
    refused: int = 0

    def answer(self, head: str, body: Any) -> bytes:
        now = trio.current_time()
        self.left = min(self.burst, self.left + (now - self.updated) * self.per_second)
        self.updated = now
        if self.left < 1:
            self.refused += 1
            return answer(
                429, {"error": {"message": "slow down", "type": "rate_limit"}}, retry_after_ms="500"
            )
        self.left -= 1
        self.answered += 1
        message = {"role": "assistant", "content": "After all."}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return answer(
            200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage(10, 5)}
        )


def test_a_storm_of_refusals_ends_with_every_agent_answered() -> None:
    """200 agents start at once on a quota of 20 requests a second."""
    quota = Quota()

    async def main() -> None:
        async with (
            raw_server(quota.answer) as server,
            OpenAIDriver("gpt-4o", base_url=f"{server.url}/v1", api_key="none") as driver,
        ):
            governed = GovernedDriver(driver)
            async with open_agent_pool(RetryingDriver(governed), max_concurrent=200) as pool:
                handles = await pool.fan_out([SpawnConfig(PLAIN, "hi")] * 200)
                outcomes = [await handle.wait() for handle in handles]
                assert all(isinstance(outcome, Completed) for outcome in outcomes)
                assert {outcome.usage.total_tokens for outcome in outcomes} == {15}
                assert pool.statistics().usage.total_tokens == 200 * 15
            assert governed.statistics().in_flight == governed.statistics().waiting == 0

    # Time passes only while nobody has anything to do, so that a slow machine sees the same storm.
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.005))
    assert quota.answered == 200
    # All came at once, before anybody could know; afterwards they kept to what was accepted.
    assert 0 < quota.refused <= 220


# -- typed answers ------------------------------------------------------------------------


class Model(pydantic.BaseModel):
    name: str
    stars: int


@attrs.frozen
class Attrs:
    name: str
    stars: int


@dataclasses.dataclass
class Data:
    name: str
    stars: int


@pytest.fixture(scope="module")
def typing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    """A model that answers wrongly at first, and then as it was told."""
    file = tmp_path_factory.mktemp("typing") / "fixtures.json"
    wrong = {"name": 3, "stars": "many"}
    fixtures = [
        says({"userMessage": "does not fit", "systemMessage": '"array"'}, text="[1, 2, 3]"),
        says({"userMessage": "does not fit"}, text='```json\n{"name": "Ann", "stars": 5}\n```'),
        says({"userMessage": "never"}, text="I would rather not."),
        says({}, text=json.dumps(wrong)),
    ]
    fixtures.insert(0, says({"userMessage": "does not fit", "systemMessage": "stubborn"}, text="No."))
    file.write_text(json.dumps({"fixtures": fixtures}))
    with counterpart.running(file) as server:
        yield server


@pytest.mark.parametrize(
    ("output_type", "value", "problems"),
    [
        (Model, Model(name="Ann", stars=5), ("name", "stars")),
        (Attrs, Attrs("Ann", 5), ("name", "stars")),
        (Data, Data("Ann", 5), ("name", "stars")),
        (list[int], [1, 2, 3], ("array",)),
    ],
)
async def test_a_typed_answer_is_corrected_by_the_model(
    make: Make, typing: Aimock, output_type: Any, value: object, problems: tuple[str, ...]
) -> None:
    async with make(typing.url) as driver, open_agent_pool(driver, max_concurrent=1) as pool:
        handle = await pool.spawn(SpawnConfig(PLAIN, "Who?", output_type=output_type))
        result = await handle.result()
    assert result.output == value
    assert type(result.output) is type(value)
    assert result.iterations == 2
    assert result.usage.total_tokens == (0 if driver.provider == "ollama" else 2200)
    (note,) = [message.content for message in result.transcript if "does not fit" in str(message)]
    assert all(problem in note for problem in problems)  # all of them at once


async def test_an_answer_that_stays_wrong_is_a_failure_with_its_price(typing: Aimock) -> None:
    stubborn = AgentManifest(name="stubborn", model=ModelSettings(system_prompt="You are stubborn."))
    async with DRIVERS["chat"](typing.url) as driver, open_agent_pool(driver, max_concurrent=1) as pool:
        config = SpawnConfig(stubborn, "Who?", output_type=Model, output_retries=3)
        outcome = await (await pool.spawn(config)).wait()
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is MalformedReplyError
    assert "also after 3 corrections" in str(outcome.error)
    assert outcome.usage.total_tokens == 4 * 1100


# -- privacy --------------------------------------------------------------------------------


async def test_a_sovereign_agent_reaches_this_machine_and_no_other(aimock: Aimock) -> None:
    sovereign = AgentManifest(name="secretive", privacy=PrivacyTier.SOVEREIGN)
    elsewhere = OpenAIDriver("gpt-4o", base_url="https://models.example/v1", api_key="none")
    async with DRIVERS["chat"](aimock.url) as here, elsewhere:
        for driver in (here, RetryingDriver(GovernedDriver(here)), RoutingDriver(elsewhere, here)):
            async with open_agent_pool(driver, max_concurrent=1) as pool:
                handle = await pool.spawn(SpawnConfig(sovereign, "plain"))
                assert (await handle.result()).text.startswith("Hello")
        for driver in (elsewhere, RetryingDriver(GovernedDriver(elsewhere)), RoutingDriver(elsewhere)):
            async with open_agent_pool(driver, max_concurrent=1) as pool:
                outcome = await (await pool.spawn(SpawnConfig(sovereign, "plain"))).wait()
                assert isinstance(outcome, Failed)
                assert type(outcome.error) is RequestRejectedError
                assert "sovereign" in str(outcome.error)


def test_the_command_line_keeps_sovereign_words_here_too(tmp_path: Path) -> None:
    pytest.importorskip("cyclopts")
    (tmp_path / "a.toml").write_text('name = "a"\nprivacy = "sovereign"\n')
    (tmp_path / "fleet.toml").write_text(
        '[pool]\nmax_concurrent = 1\n\n[[agents]]\nname = "a"\nmanifest = "a.toml"\nquery = "hi"\n'
    )
    done = agentpool("run", tmp_path / "fleet.toml", "--driver", "openai+https://models.example/v1:m")
    assert done.returncode == 1
    assert "the privacy of agent 'a' is sovereign" in done.stderr
