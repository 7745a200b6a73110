"""At a limit of its own an agent fails with its transcript, or gives its answer in one last turn."""

from __future__ import annotations

import random
import typing
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
from pool_kit import pool_of

from agentpool import AgentContext, Driver, SpawnConfig, tool
from agentpool._core.effects import (
    Act,
    Acted,
    DriverFailed,
    Effect,
    Finish,
    Halt,
    Idled,
    Observation,
    Reason,
    Recall,
    Recalled,
    Remember,
    Remembered,
    Replied,
)
from agentpool._core.errors import (
    BudgetExceededError,
    ContentRefusedError,
    ContextTooLongError,
    LoopHaltedError,
    MalformedReplyError,
    PriceUnknownError,
)
from agentpool._core.landing import fitted
from agentpool._core.loop import advance, begin
from agentpool._core.manifest import AgentManifest, ModelSettings, ResourceQuota
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.outputs import OutputSpec, Parsed, Problems
from agentpool._core.states import LoopState
from agentpool._core.transcript import Transcript, messages_tokens, repaired, request_tokens
from agentpool._core.usage import TokenUsage
from agentpool._core.window import Window

USAGE = TokenUsage(10, 5)
LOOK = ToolDefinition("look", "Looks.", {"type": "object", "properties": {"n": {"type": "integer"}}})


def landing(max_tokens: int = 4096, **resources: Any) -> AgentManifest:
    quota = ResourceQuota(on_limit="answer", **resources)
    return AgentManifest(name="a", model=ModelSettings(max_tokens=max_tokens), resources=quota)


def call(n: int = 1) -> ToolCall:
    return ToolCall(f"call-{n}", "look", {"n": n})


def calling(*calls: ToolCall, **more: Any) -> Replied:
    return Replied(Completion("", calls, usage=more.pop("usage", USAGE), **more))


def saying(text: str, **more: Any) -> Replied:
    return Replied(Completion(text, usage=USAGE, **more))


def acted(*texts: str) -> Acted:
    return Acted([ToolResult(text) for text in texts])


def run(manifest: AgentManifest, *observations: Observation, **options: Any) -> tuple[LoopState, Effect]:
    state, effect = begin(manifest, "do it", tools=[LOOK], **options)
    for observation in observations:
        state, effect = advance(state, observation)
    return state, effect


def last(manifest: AgentManifest, *observations: Observation, **options: Any) -> Effect:
    return run(manifest, *observations, **options)[1]


def request_after(manifest: AgentManifest, *observations: Observation, **options: Any) -> CompletionRequest:
    effect = last(manifest, *observations, **options)
    assert isinstance(effect, Reason)
    return effect.request


def error_after(manifest: AgentManifest, *observations: Observation, **options: Any) -> Exception:
    effect = last(manifest, *observations, **options)
    assert isinstance(effect, Halt)
    assert repaired(effect.transcript) == list(effect.transcript)
    return effect.error


def note_of(request: CompletionRequest) -> str:
    message = request.messages[-1]
    assert isinstance(message, UserMessage)
    assert message.kind == "note"
    return message.body


def assert_last(request: CompletionRequest) -> None:
    """It is a last turn: no tools, and the model is told why."""
    assert request.tools == ()
    assert request.tool_choice is None
    assert "Give your whole final answer now" in note_of(request)


TURN = (calling(call()), acted("1"), Recalled())
AT_ITERATIONS = (landing(max_iterations=1), (Recalled(), *TURN))
AT_TOOL_CALLS = (landing(max_tool_calls=1), (Recalled(), calling(call(1), call(2))))
AT_TOKENS = (
    landing(max_tokens_budget=1000),
    (Recalled(), calling(call(), usage=TokenUsage(30, 700)), acted("1"), Recalled()),
)
AT_COST = (
    landing(max_cost_usd=0.5),
    (Recalled(), calling(call(), usage=TokenUsage(1, 1, cost_usd=0.5)), acted("1"), Recalled()),
)
AT_IDLE_MODEL = (landing(), (Recalled(), Idled(30)))
AT_IDLE_TOOLS = (landing(), (Recalled(), calling(call(1), call(2)), Idled(30, [ToolResult("1"), None])))
LIMITS: dict[str, tuple[AgentManifest, Sequence[Observation]]] = {
    "iterations": AT_ITERATIONS,
    "tool_calls": AT_TOOL_CALLS,
    "tokens": AT_TOKENS,
    "cost": AT_COST,
    "idle model": AT_IDLE_MODEL,
    "idle tools": AT_IDLE_TOOLS,
}
EACH = pytest.mark.parametrize("at", LIMITS)


@EACH
def test_at_a_limit_it_gives_its_answer(at: str) -> None:
    manifest, observations = LIMITS[at]
    request = request_after(manifest, *observations)
    assert_last(request)
    finish = last(manifest, *observations, saying("this far I came"))
    assert isinstance(finish, Finish)
    assert finish.result.text == finish.result.output == "this far I came"
    assert finish.result.stopped_by == at.partition(" ")[0]
    assert finish.result.transcript[-1] == AssistantMessage("this far I came")
    assert repaired(finish.result.transcript) == list(finish.result.transcript)


@EACH
def test_by_default_it_fails_with_its_transcript(at: str) -> None:
    manifest, observations = LIMITS[at]
    quota = attrs.evolve(manifest.resources, on_limit="fail")
    if at == "tokens":  # nothing is kept back: it goes further
        observations = (*observations[:1], calling(call(), usage=TokenUsage(500, 500)), *observations[2:])
    error = error_after(attrs.evolve(manifest, resources=quota), *observations)
    assert isinstance(error, LoopHaltedError)
    assert error.limit == at.partition(" ")[0]
    assert error.transcript[0] == UserMessage("do it")
    assert error.usage is not None


def test_who_ends_before_a_limit_was_stopped_by_none() -> None:
    finish = last(landing(), Recalled(), saying("done"))
    assert isinstance(finish, Finish)
    assert finish.result.stopped_by is None


def test_the_last_turn_comes_beside_the_turns_that_are_allowed() -> None:
    state, effect = run(landing(max_iterations=2), Recalled(), *TURN)
    assert isinstance(effect, Reason)
    assert effect.request.tools == (LOOK,)
    state, effect = run(landing(max_iterations=2), Recalled(), *TURN, *TURN)
    assert isinstance(effect, Reason)
    assert_last(effect.request)
    assert state.iteration == 3


def test_calls_that_were_wished_for_at_the_limit_are_not_run() -> None:
    request = request_after(*AT_TOOL_CALLS[:1], *AT_TOOL_CALLS[1])
    results = [message for message in request.messages if isinstance(message, ToolMessage)]
    assert [result.call_id for result in results] == ["call-1", "call-2"]
    assert all(result.result.text.startswith("Not run: ") and result.result.is_error for result in results)


def test_what_had_ended_when_nothing_more_was_heard_has_its_result() -> None:
    request = request_after(*AT_IDLE_TOOLS[:1], *AT_IDLE_TOOLS[1])
    one, two = [message.result for message in request.messages if isinstance(message, ToolMessage)]
    assert one == ToolResult("1")
    assert two.is_error
    assert "nothing was heard for 30 s" in two.text


def test_a_repetition_is_no_limit() -> None:
    observations: list[Observation] = [Recalled()]
    effect = last(landing(), *observations)
    while not isinstance(effect, Halt):
        more: list[Observation] = [calling(call())]
        if isinstance(last(landing(), *observations, *more), Act):
            more.append(acted("same"))
        if isinstance(last(landing(), *observations, *more), Recall):
            more.append(Recalled())
        observations += more
        effect = last(landing(), *observations)
    assert isinstance(effect.error, LoopHaltedError)
    assert effect.error.limit is None
    assert "repeats" in effect.error.reason


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Replied(Completion(usage=USAGE)), "its last answer was empty"),
        (saying("half of", stop_reason="max_tokens"), r"its last answer was cut off at max_tokens (4096)"),
        (saying("half", stop_reason="pause_turn"), "its last answer was paused by the provider"),
        (calling(call(9)), "its last answer called tools"),
        (calling(call(9), stop_reason="max_tokens"), "its last answer called tools"),
        (saying("<function=look>{}</function>"), "its last answer was a tool call as text"),
        (Idled(7), "its last answer did not come: nothing was heard of the model for 7 s"),
    ],
)
def test_a_last_turn_without_an_answer_fails(answer: Observation, told: str) -> None:
    manifest, observations = AT_ITERATIONS
    error = error_after(manifest, *observations, answer)
    assert isinstance(error, LoopHaltedError)
    assert error.limit == "iterations"
    assert "max_iterations" in error.reason
    assert told in error.reason
    assert error.usage == (TokenUsage(20, 10) if isinstance(answer, Replied) else USAGE)
    assert error.transcript is not None


def test_a_last_answer_may_be_refused_and_its_driver_may_fail() -> None:
    manifest, observations = AT_ITERATIONS
    refused = error_after(manifest, *observations, saying("no", stop_reason="refusal"))
    assert isinstance(refused, ContentRefusedError)
    failed = MalformedReplyError("what?")
    assert error_after(manifest, *observations, DriverFailed(failed)) is failed


def number(text: str) -> Parsed | Problems:
    return Parsed(int(text)) if text.isdigit() else Problems((f"{text!r} is no number",))


def test_a_last_answer_is_typed_as_well() -> None:
    manifest, observations = AT_ITERATIONS
    output = OutputSpec({"type": "integer"}, number)
    request = request_after(manifest, *observations, output=output)
    assert request.output_schema == {"type": "integer"}
    finish = last(manifest, *observations, saying("42"), output=output)
    assert isinstance(finish, Finish)
    assert (finish.result.output, finish.result.stopped_by) == (42, "iterations")
    error = error_after(manifest, *observations, saying("many"), output=output)
    assert isinstance(error, LoopHaltedError)
    assert "did not fit its output type:\n- 'many' is no number" in error.reason


def test_an_answer_that_was_begun_is_given_anew() -> None:
    manifest = landing(max_iterations=1)
    finish = last(manifest, Recalled(), saying("One, ", stop_reason="max_tokens"), saying("One and two."))
    assert isinstance(finish, Finish)
    assert finish.result.text == "One and two."


def test_a_last_answer_is_remembered() -> None:
    manifest = attrs.evolve(landing(max_iterations=1), capabilities=("memory",))
    state, effect = run(manifest, Recalled(), *TURN, saying("done"))
    assert effect == Remember("done")
    assert isinstance(advance(state, Remembered())[1], Finish)


# -- the window


def test_a_last_request_that_is_too_long_is_tried_again_with_half_of_it() -> None:
    manifest = landing(max_iterations=3)
    turns = [each for n in range(3) for each in (calling(call(n)), acted("x" * 400), Recalled())]
    too_long = DriverFailed(ContextTooLongError("too long"))
    before = request_after(manifest, Recalled(), *turns)
    after = request_after(manifest, Recalled(), *turns, too_long)
    assert len(after.messages) < len(before.messages)
    assert_last(after)
    assert after.max_tokens == before.max_tokens
    finish = last(manifest, Recalled(), *turns, too_long, saying("done"))
    assert isinstance(finish, Finish)
    assert finish.result.stopped_by == "iterations"
    assert error_after(manifest, Recalled(), *turns, too_long, too_long) is too_long.error


def test_a_last_request_fits_the_context_window() -> None:
    model = ModelSettings(context_window=400, max_tokens=100)
    manifest = attrs.evolve(landing(max_iterations=6), model=model)
    turns = [each for n in range(6) for each in (calling(call(n)), acted("x" * 180), Recalled())]
    request = request_after(manifest, Recalled(), *turns)
    assert_last(request)
    assert request_tokens(request) + request.max_tokens <= 400


def test_results_are_cut_where_dropping_turns_is_not_enough() -> None:
    def window(*results: str) -> Window:
        calls = tuple(call(n) for n in range(len(results)))
        messages: list[ChatMessage] = [UserMessage("do it"), AssistantMessage("", calls)]
        messages += [
            ToolMessage(each.id, each.name, ToolResult(result))
            for each, result in zip(calls, results, strict=True)
        ]
        return Window(Transcript(messages), messages_tokens(messages), 0)

    whole = window("a" * 4000, "é" * 2000, "short")
    assert fitted(whole, whole.tokens) is whole
    cut = fitted(whole, 1000)
    assert cut.tokens == messages_tokens(cut.messages)
    assert 900 < cut.tokens <= 1010  # what is short already stays
    texts = [message.result.text for message in cut.messages if isinstance(message, ToolMessage)]
    assert texts[0].startswith("aaa")
    assert texts[0].endswith(" [...]")
    assert texts[2] == "short"
    assert messages_tokens(fitted(whole, 10).messages) < 100  # nothing of the results is left
    nothing = Window(Transcript([UserMessage("x" * 4000)]), 1004, 0)
    assert fitted(nothing, 10).messages == nothing.messages


# -- money and tokens


@pytest.mark.parametrize("reasoning", ["high", 2000, None])
def test_where_there_is_little_room_the_model_does_not_think_first(reasoning: str | int | None) -> None:
    model = ModelSettings(reasoning=reasoning, max_tokens=400)
    tokens, observations = AT_TOKENS
    tight = request_after(attrs.evolve(tokens, model=model), *observations)
    assert tight.max_tokens < 400
    assert tight.reasoning == (None if reasoning is None else 0)
    iterations, observations = AT_ITERATIONS
    roomy = request_after(attrs.evolve(iterations, model=model), *observations)
    assert roomy.max_tokens == 400
    assert roomy.reasoning == reasoning


def test_small_answers_come_before_the_last_one() -> None:
    manifest = landing(max_tokens_budget=2000)
    first = request_after(manifest, Recalled())
    # Half of what is there: the last turn reads what this one says.
    assert 62 <= first.max_tokens < 1000
    free = request_after(landing(), Recalled())
    assert free.max_tokens == 4096


def test_a_budget_that_is_too_small_for_any_work_is_answered_from_at_once() -> None:
    request = request_after(landing(max_tokens_budget=100), Recalled())
    assert_last(request)
    assert "budget of tokens" in note_of(request)
    error = error_after(landing(max_tokens_budget=40), Recalled())
    assert isinstance(error, LoopHaltedError)
    assert error.reason.endswith("and a last answer found no room")


def price(usage: TokenUsage) -> float:
    return usage.input_tokens * 1e-6 + usage.output_tokens * 1e-5


def test_money_is_kept_back_for_the_last_turn() -> None:
    manifest = landing(max_tokens=1000, max_cost_usd=0.03)
    assert request_after(manifest, Recalled(), price=price).max_tokens == 1000
    spent = calling(call(), usage=TokenUsage(1000, 1000, cost_usd=0.012))
    tight = request_after(manifest, Recalled(), spent, acted("1"), Recalled(), price=price)
    assert tight.tools == (LOOK,)
    assert 530 < tight.max_tokens < 550  # what is left when the last turn has read it and says 1000
    nearly = calling(call(), usage=TokenUsage(1000, 1000, cost_usd=0.02))
    end = request_after(manifest, Recalled(), nearly, acted("1"), Recalled(), price=price)
    assert_last(end)
    assert "budget of money" in note_of(end)
    assert 0.02 + price(TokenUsage(request_tokens(end), end.max_tokens)) <= 0.03


def test_nothing_is_kept_back_where_nobody_knows_the_price() -> None:
    manifest = landing(max_cost_usd=0.03)
    assert request_after(manifest, Recalled(), price=lambda _: None).max_tokens == 4096
    assert request_after(manifest, Recalled()).max_tokens == 4096
    free = landing(max_cost_usd=0)
    assert request_after(free, Recalled(), price=lambda _: 0.0).max_tokens == 4096


def refused(resource: str, limit: float, left: float) -> DriverFailed:
    return DriverFailed(
        BudgetExceededError(resource, limit=limit, spent=limit - left, reserved=0, needed=limit)
    )


def test_it_lands_where_its_children_used_its_own_budget_up() -> None:
    manifest = landing(max_tokens_budget=10_000)
    request = request_after(manifest, Recalled(), refused("tokens", 10_000, 500))
    assert_last(request)
    assert request_tokens(request) + request.max_tokens <= 500
    finish = last(manifest, Recalled(), refused("tokens", 10_000, 500), saying("done"))
    assert isinstance(finish, Finish)
    assert finish.result.stopped_by == "tokens"
    again = refused("tokens", 10_000, 300)
    shorter = request_after(manifest, Recalled(), refused("tokens", 10_000, 500), again)
    assert shorter.max_tokens == request.max_tokens // 2
    assert_last(shorter)
    assert isinstance(last(manifest, Recalled(), refused("tokens", 10_000, 500), *[again] * 3), Reason)
    assert error_after(manifest, Recalled(), refused("tokens", 10_000, 500), *[again] * 4) is again.error
    money = landing(max_cost_usd=0.5)
    request = request_after(money, Recalled(), refused("cost_usd", 0.5, 0.001), price=price)
    assert_last(request)
    assert price(TokenUsage(request_tokens(request), request.max_tokens)) <= 0.001
    error = error_after(money, Recalled(), refused("cost_usd", 0.5, 0.000001), price=price)
    assert "a last answer found no room" in str(error)


def test_a_budget_of_others_is_no_limit_of_its_own() -> None:
    for manifest, failed in [
        (landing(max_tokens_budget=10_000), refused("tokens", 20_000, 500)),
        (landing(), refused("tokens", 20_000, 500)),
        (landing(), refused("cost_usd", 1, 0.1)),
        (landing(), refused("calls", 1, 0)),
        (landing(max_cost_usd=0.5), DriverFailed(PriceUnknownError(limit=0.5))),
        (AgentManifest(name="a", resources=ResourceQuota(max_tokens_budget=9)), refused("tokens", 9, 1)),
    ]:
        observations = (Recalled(), failed) if manifest.resources.max_tokens_budget != 9 else ()
        if observations:
            assert error_after(manifest, *observations) is failed.error
    failing = AgentManifest(name="a", resources=ResourceQuota(max_tokens_budget=10_000))
    own = refused("tokens", 10_000, 500)
    assert error_after(failing, Recalled(), own) is own.error


def test_a_call_that_was_lost_may_have_used_its_worst_case() -> None:
    manifest = landing(max_tokens_budget=3000)
    _, effect = run(manifest, Recalled())
    assert isinstance(effect, Reason)
    worst = effect.input_tokens + effect.request.max_tokens
    request = request_after(manifest, Recalled(), Idled(30))
    assert_last(request)
    assert worst + request_tokens(request) + request.max_tokens <= 3000
    assert request.max_tokens >= 3000 // 8


def test_a_call_that_was_lost_may_have_cost_its_worst_case() -> None:
    manifest = landing(max_tokens=1000, max_cost_usd=0.021)
    _, effect = run(manifest, Recalled(), price=price)
    assert isinstance(effect, Reason)
    worst = price(TokenUsage(effect.input_tokens, effect.request.max_tokens))
    request = request_after(manifest, Recalled(), Idled(30), price=price)
    assert worst + price(TokenUsage(request_tokens(request), request.max_tokens)) <= 0.021


@pytest.mark.parametrize("seed", range(150))
def test_a_provider_that_counts_as_we_do_is_never_paid_more_than_the_budget(seed: int) -> None:
    """Whatever the model says and its tools bring, the last turn finds room for its answer."""
    dice = random.Random(seed)
    budget, max_tokens = dice.choice([1000, 3000, 20_000]), dice.choice([50, 400, 4096])
    manifest = landing(max_tokens, max_tokens_budget=budget, max_iterations=1000, max_tool_calls=10_000)
    state, effect = begin(manifest, "do it" * dice.randrange(20), tools=[LOOK])
    turns = 0
    while not isinstance(effect, Finish | Halt):
        observation: Observation
        if isinstance(effect, Reason):
            request = effect.request
            turns += 1
            said = Completion("final") if not request.tools else _wish(dice, turns, request.max_tokens)
            size = messages_tokens([said.message])
            assert size <= request.max_tokens
            usage = TokenUsage(request_tokens(request), size)
            observation = Replied(attrs.evolve(said, usage=usage))
        elif isinstance(effect, Act):
            observation = acted(*["y" * dice.choice([10, 1000, 30_000]) for _ in effect.calls])
        else:
            observation = Recalled()
        state, effect = advance(state, observation)
    assert isinstance(effect, Finish)
    result = typing.cast("Any", effect.result)
    assert result.stopped_by == "tokens"
    assert result.usage.total_tokens <= budget


def _wish(dice: random.Random, turn: int, most: int) -> Completion:
    """Call some tools, with a text that may fill what is left of the answer."""
    calls = [ToolCall(f"{turn}-{n}", "look", {"n": turn}) for n in range(dice.choice([1, 1, 2]))]
    while messages_tokens([AssistantMessage("", tuple(calls))]) > most:
        calls.pop()
    room = most - messages_tokens([AssistantMessage("", tuple(calls))])
    return Completion(
        "x" * 4 * dice.choice([0, room // 2, room]) or ("" if calls else "x"), calls, "tool_use"
    )


# -- in a pool


class Honest(Driver):
    """Counts as we do; calls tools for as long as it has some, and then needs 60 tokens for its answer."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.turns = 0

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        self.turns += 1
        if request.tools:
            said = _wish(self.dice, self.turns, request.max_tokens)
        elif request.max_tokens < 60:
            said = Completion("x" * 4 * max(0, request.max_tokens - 4), stop_reason="max_tokens")
        else:
            said = Completion("final " * 37)
        usage = TokenUsage(request_tokens(request), messages_tokens([said.message]))
        return attrs.evolve(said, usage=usage)

    def estimate_cost(self, usage: TokenUsage) -> float:
        return price(usage)


@tool(name="look")
async def look(ctx: AgentContext, n: int = 0) -> str:
    """Bring something of a length that only it knows."""
    return "y" * random.Random(n).choice([10, 1000, 30_000])


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("resource", ["tokens", "cost"])
async def test_in_a_pool_the_last_turn_has_room_in_the_agents_own_budget(
    resource: str, seed: int, autojump_clock: Any
) -> None:
    tokens = [1000, 3000, 20_000][seed % 3]
    quota: dict[str, Any] = (
        {"max_tokens_budget": tokens} if resource == "tokens" else {"max_cost_usd": tokens * 1e-5}
    )
    manifest = landing(400, max_iterations=1000, max_tool_calls=10_000, **quota)
    async with pool_of(1, driver=Honest(seed)) as pool:
        handle = await pool.spawn(SpawnConfig(manifest, "do it", tools=[look]))
        result = await handle.result()
    assert result.stopped_by == resource
    assert result.text.startswith("final")
    assert (
        result.usage.total_tokens <= tokens
        if resource == "tokens"
        else result.usage.cost_usd <= tokens * 1e-5
    )
