"""What users of comparable systems reported about compaction, put to ours.

Each test names the reports that it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from pool_kit import pool_of

from agentpool import (
    AgentContext,
    AgentManifest,
    AgentResult,
    ChatMessage,
    Completion,
    CompletionRequest,
    ContextTooLongError,
    Driver,
    ModelSettings,
    RequestRejectedError,
    ResourceQuota,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    ToolMessage,
    UserMessage,
    tool,
)
from agentpool._core.transcript import checked_history, request_tokens


def is_for_a_summary(request: CompletionRequest) -> bool:
    last = request.messages[-1]
    return isinstance(last, UserMessage) and "will be taken out" in str(last.content)


class Strict(Driver):
    """A provider that refuses what real ones refuse: too many tokens, calls without results, results without.

    Attributes:
      window: how many tokens it takes, answer included.
      density: how many tokens it counts for each that is estimated.
      summarize: what it answers when it is to sum up.
      wish: the calls of a turn.
    """

    def __init__(
        self,
        turns: int,
        *,
        window: int = 2_000,
        told_window: int | None = 2_000,
        density: float = 1,
        summarize: Callable[[CompletionRequest], Completion] = lambda request: Completion("So far, so good."),
        wish: Callable[[int], Sequence[ToolCall]] = lambda n: [ToolCall(f"call-{n}", "look", {"n": n})],
        output_tokens: int = 5,
    ) -> None:
        self.turns, self.window, self.density, self.output_tokens = turns, window, density, output_tokens
        self.context_window = told_window  # type: ignore[assignment]
        self.summarize, self.wish = summarize, wish
        self.requests: list[CompletionRequest] = []
        self.summaries: list[CompletionRequest] = []
        self.too_long: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        try:
            checked_history(list(request.messages))
        except ValueError as error:
            raise RequestRejectedError(str(error)) from error
        if not isinstance(request.messages[0], UserMessage):
            raise RequestRejectedError("the first message must be the user's")
        tokens = int(request_tokens(request) * self.density)
        if tokens + request.max_tokens > self.window:
            self.too_long.append(request)
            raise ContextTooLongError(f"{tokens} + {request.max_tokens} > {self.window}")
        usage = TokenUsage(tokens, self.output_tokens)
        if is_for_a_summary(request):
            self.summaries.append(request)
            answer = self.summarize(request)
            return Completion(answer.text, answer.tool_calls, usage=usage)
        self.requests.append(request)
        if len(self.requests) > self.turns:
            return Completion("Done.", usage=usage)
        return Completion("", self.wish(len(self.requests)), usage=usage)


@tool
async def look(n: int, size: int = 200) -> str:
    """Look at a file."""
    return f"{n}: " + "word " * size


async def result_of(driver: Strict, query: str = "Count the files.", **model: Any) -> AgentResult[str]:
    settings = {"max_tokens": 400, "compaction": "summary", **model}
    manifest = AgentManifest(
        name="a",
        model=ModelSettings(**settings),
        resources=ResourceQuota(max_iterations=60, max_tool_calls=99),
    )
    async with pool_of(1, driver=driver) as pool:
        result = await (await pool.spawn(SpawnConfig(manifest, query, tools=[look]))).result()
    checked_history(list(result.transcript))
    return result


def text_of(messages: Sequence[ChatMessage]) -> str:
    return "\n".join(str(message) for message in messages)


# -- docker/docker-agent#2235, anomalyco/opencode#27924, #48828, Kilo-Org/kilocode#13983: again and again


@pytest.mark.parametrize("text", ["", "word " * 1_000], ids=["empty", "longer than before"])
async def test_summaries_that_are_of_no_use_are_few(text: str) -> None:
    driver = Strict(12, summarize=lambda request: Completion(text))
    result = await result_of(driver)
    assert result.text == "Done."
    assert 0 < len(driver.summaries) <= len(driver.requests)


async def test_a_query_that_fills_the_window_costs_no_summary_in_each_turn() -> None:
    """What cannot get shorter is no reason to try so again and again."""
    driver = Strict(12, wish=lambda n: [ToolCall(f"call-{n}", "look", {"n": n, "size": 5})])
    result = await result_of(driver, "word " * 950)
    assert result.text == "Done."
    assert len(driver.summaries) <= 2


# -- anomalyco/opencode#50233: a window that is hardly longer than an answer


async def test_a_window_that_is_hardly_longer_than_an_answer_can_be_used() -> None:
    driver = Strict(
        8, window=1_200, told_window=1_200, wish=lambda n: [ToolCall(f"c{n}", "look", {"n": n, "size": 60})]
    )
    result = await result_of(driver, max_tokens=1_100)
    assert result.text == "Done."
    assert driver.too_long == []
    assert len(driver.summaries) <= 8


# -- anthropics/claude-code#8178 and #2119, google-gemini/gemini-cli#16516: too long to be summed up


async def test_the_request_for_a_summary_fits_its_window() -> None:
    driver = Strict(20)
    await result_of(driver)
    assert driver.summaries
    assert driver.too_long == []


async def test_a_result_that_no_window_holds_is_no_dead_end() -> None:
    """google-gemini/gemini-cli#12115: from then on every request fails."""
    sizes = {1: 100, 2: 5_000, 3: 100, 4: 9_000}
    driver = Strict(6, wish=lambda n: [ToolCall(f"c{n}", "look", {"n": n, "size": sizes.get(n, 100)})])
    result = await result_of(driver)
    assert result.text == "Done."
    assert driver.too_long == []


async def test_a_provider_that_knows_its_window_alone_is_believed() -> None:
    """google-gemini/gemini-cli#14766: errors about tokens, but compaction declines."""
    driver = Strict(20, told_window=None)
    result = await result_of(driver)
    assert result.text == "Done."
    assert driver.summaries
    assert all(not is_for_a_summary(request) for request in driver.too_long)


# -- google-gemini/gemini-cli#5432 and #7047, minpeter/pss-runtime#255: longer after than before


async def test_a_summary_that_is_longer_than_what_it_sums_up_is_not_taken() -> None:
    driver = Strict(12, summarize=lambda request: Completion(text_of(request.messages) * 2))
    await result_of(driver)
    assert driver.too_long == []
    assert not any("will be taken out" in text_of(request.messages) for request in driver.requests)


# -- google-gemini/gemini-cli#8183: an answer longer than the model can give


async def test_a_summary_asks_for_no_longer_answer_than_the_agent_may() -> None:
    driver = Strict(20, window=64_000, told_window=64_000, wish=lambda n: [
        ToolCall(f"c{n}", "look", {"n": n, "size": 6_000})
    ])  # fmt: skip
    await result_of(driver, max_tokens=300)
    assert driver.summaries
    assert {request.max_tokens for request in driver.summaries} == {300}
    driver = Strict(20, window=64_000, told_window=64_000, wish=lambda n: [
        ToolCall(f"c{n}", "look", {"n": n, "size": 6_000})
    ])  # fmt: skip
    await result_of(driver, max_tokens=20_000)
    assert {request.max_tokens for request in driver.summaries} == {4_096}


# -- openai/codex#36642, langchain-ai/langmem#77 and #111: what was asked is gone


@pytest.mark.parametrize("text", ["", "So far, so good."])
async def test_what_was_asked_is_in_each_request(text: str) -> None:
    driver = Strict(12, summarize=lambda request: Completion(text))
    await result_of(driver, "Count the red files.")
    for request in [*driver.requests, *driver.summaries]:
        assert "Count the red files." in text_of(request.messages)


async def test_what_arrived_last_is_not_summed_away() -> None:
    driver = Strict(14)

    async def boss(ctx: AgentContext) -> str:
        manifest = AgentManifest(
            name="a", model=ModelSettings(max_tokens=400, compaction="summary", context_window=2_000)
        )
        worker = await ctx.spawn(SpawnConfig(manifest, "Count the files.", tools=[look]))
        await ctx.send(worker.id, "Only those of May.")
        return (await worker.result()).text

    async with pool_of(2, driver=driver) as pool:
        assert await (await pool.spawn(boss)).result() == "Done."
    assert driver.summaries
    told = ["Only those of May." in text_of(request.messages) for request in driver.requests]
    assert all(told[told.index(True) :])


# -- earendil-works/pi#4570, langchain-ai/langmem#112, #126, HKUDS/OpenHarness#191: a result without its call


async def test_no_result_is_left_without_its_call_after_many_compactions() -> None:
    driver = Strict(
        30, wish=lambda n: [ToolCall(f"c{n}-{k}", "look", {"n": n, "size": 90}) for k in range(1 + n % 3)]
    )
    result = await result_of(driver)  # the provider would have refused
    assert result.text == "Done."
    assert len(driver.summaries) > 3
    ids = [message.call_id for message in result.transcript if isinstance(message, ToolMessage)]
    assert len(ids) == len(set(ids)) == sum(1 + n % 3 for n in range(1, 31))


async def test_providers_that_use_an_id_again_are_no_trouble() -> None:
    driver = Strict(20, wish=lambda n: [ToolCall("call_0", "look", {"n": n})])
    assert (await result_of(driver)).text == "Done."


# -- langchain-ai/langmem#118, anthropics/claude-code#33212, lvndry/jazz#596: the summary before is forgotten


async def test_each_summary_is_made_from_the_one_before() -> None:
    count = iter(range(1, 99))
    driver = Strict(30, summarize=lambda request: Completion(f"This is summary {next(count)}."))
    await result_of(driver)
    assert len(driver.summaries) > 2
    for number, request in enumerate(driver.summaries[1:], start=1):
        assert f"This is summary {number}." in text_of(request.messages)
    shown = text_of(driver.requests[-1].messages)
    assert shown.count("This is summary") == 2  # the newest one alone: its content and its body


# -- cline/cline#14195, cloudflare/agents#1593: the provider counts more than the estimate


@pytest.mark.parametrize("density", [1.3, 1.6, 2.0, 2.5])
async def test_dense_text_does_not_get_stuck(density: float) -> None:
    driver = Strict(20, density=density, told_window=2_000)
    result = await result_of(driver, max_tokens=300)
    assert result.text == "Done."
    assert driver.summaries


# -- letta-ai/letta#3242: what the model says is counted as what it reads


async def test_long_answers_alone_make_no_compaction() -> None:
    driver = Strict(5, wish=lambda n: [ToolCall(f"c{n}", "look", {"n": n, "size": 5})], output_tokens=90_000)
    await result_of(driver)
    assert driver.summaries == []


# -- anthropics/claude-code#94197: each compaction makes the provider's cache forget everything


async def test_what_is_before_the_summary_stays_as_it_was() -> None:
    driver = Strict(20)
    await result_of(driver, system_prompt="You count files. " * 10)
    every = [*driver.requests, *driver.summaries]
    assert all(request.tools == every[0].tools for request in every)
    assert len({(request.system, request.messages[0]) for request in every}) == 1
    for summary in driver.summaries:
        read = list(summary.messages[:-1])
        assert any(list(request.messages[: len(read)]) == read for request in driver.requests)


# -- anthropics/claude-code#9796 and #24792: rules are forgotten after compaction


async def test_what_was_pinned_is_a_rule_for_ever() -> None:
    def wish(n: int) -> Sequence[ToolCall]:
        if n == 1:
            return [ToolCall("p1", "pin_fact", {"fact": "Use httpie, never curl."})]
        return [ToolCall(f"c{n}", "look", {"n": n})]

    for text in ["So far, so good.", ""]:
        driver = Strict(20, wish=wish, summarize=lambda request, text=text: Completion(text))  # type: ignore[misc]
        await result_of(driver)
        assert driver.summaries
        assert all("Use httpie, never curl." in text_of(each.messages) for each in driver.requests[1:])
