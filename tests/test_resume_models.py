"""A run that is resumed: agents that ask a model, their tools, their budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from journal_kit import Records, after_each_cut, in_virtual_time, resumed, run

from agentpool import (
    AgentContext,
    AgentManifest,
    AssistantMessage,
    Budget,
    BudgetExceededError,
    Completed,
    Completion,
    CompletionRequest,
    Driver,
    DriverUnavailableError,
    Failed,
    InMemory,
    MemoryCapability,
    MessagingCapability,
    ModelAgent,
    RateLimitedError,
    ReplayMismatchError,
    ResourceQuota,
    SpawnCapability,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    ToolMessage,
    ToolRegistry,
    open_agent_pool,
    resume_agent_pool,
    tool,
)
from agentpool._core.records import JournalRecord
from agentpool._core.transcript import UNKNOWN_RESULT

USED = TokenUsage(100, 10)
EFFECTS: list[str] = []


class Model(Driver):
    """Answers by how many turns there were: an answer, or the error that is raised."""

    context_window = 100_000

    def __init__(self, *answers: Completion | Exception) -> None:
        self.answers = answers
        self.asked = 0

    def estimate_cost(self, usage: TokenUsage) -> float:
        return usage.total_tokens * 1e-6

    async def complete(self, request: CompletionRequest) -> Completion:
        self.asked += 1
        await trio.sleep(1)
        turn = sum(isinstance(message, AssistantMessage) for message in request.messages)
        answer = self.answers[turn]
        if isinstance(answer, Exception):
            raise answer
        results = [message.result.content for message in request.messages if isinstance(message, ToolMessage)]
        if answer.text == "results":
            return Completion(f"done: {' '.join(map(str, results))}", usage=USED)
        return answer


def calls(*each: ToolCall) -> Completion:
    return Completion(tool_calls=each, usage=USED)


LAST = Completion("results")


@tool(idempotent=True)
async def read(ctx: AgentContext, name: str) -> str:
    """Read something."""
    EFFECTS.append(f"read {name}")
    await trio.sleep(1)
    return f"text of {name}"


@tool
async def pay(ctx: AgentContext, amount: int) -> str:
    """Pay, once for each key."""
    EFFECTS.append(f"pay {ctx.call_key}")
    await trio.sleep(1)
    return f"paid {amount}"


@tool
async def launch(ctx: AgentContext, what: str) -> str:
    """Launch, which must not happen twice."""
    EFFECTS.append(f"launch {what}")
    await trio.sleep(1)
    return f"launched {what}"


TOOLS = [read, pay, launch]
MANIFEST = AgentManifest(name="model")
TURNS = (
    calls(ToolCall("1", "read", {"name": "a"}), ToolCall("2", "pay", {"amount": 5})),
    calls(ToolCall("3", "read", {"name": "b"})),
    LAST,
)


def text_of(outcome: Any) -> str:
    text: str = outcome.unwrap().text
    return text


def test_a_model_agent_goes_on_from_what_it_had_observed() -> None:
    agent = ModelAgent(MANIFEST, tools=TOOLS)
    expected, records = after_each_cut(
        agent, "go", driver=lambda: Model(*TURNS), same=text_of, between=EFFECTS.clear
    )
    assert expected == "done: text of a paid 5 text of b"
    kinds = [record.data["is"] for record in records if record.kind == "observed"]
    assert kinds == ["recalled", "replied", "recalled", "replied", "recalled", "replied"]


def test_its_whole_result_is_the_same() -> None:
    agent = SpawnConfig(MANIFEST, "go", tools=TOOLS)
    whole, records = run(agent, driver=Model(*TURNS))
    for end in range(3, len(records.kept) + 1):
        outcome, again = resumed(records.kept[:end], driver=Model(*TURNS))
        assert outcome.unwrap().transcript == whole.unwrap().transcript
        assert outcome.unwrap().usage == whole.unwrap().usage
        assert outcome.usage.total_tokens >= whole.usage.total_tokens
        assert len(again.of_kind("observed")) == len(records.of_kind("observed"))


def test_no_model_call_that_had_ended_is_made_again() -> None:
    agent = ModelAgent(MANIFEST, tools=TOOLS)
    _, records = run(agent, "go", driver=Model(*TURNS))
    for end, record in enumerate(records.kept, 1):
        if record.kind == "observed" and record.data["is"] == "replied":
            model = Model(*TURNS)
            resumed(records.kept[:end], driver=model)
            answered = [each.data["is"] for each in records.kept[:end] if each.kind == "observed"]
            assert model.asked == 3 - answered.count("replied")


def behind(records: Records, kind: str, number: int = 1) -> list[JournalRecord]:
    """Return the records up to the n-th that tells that."""
    ends = [end for end, record in enumerate(records.kept, 1) if record.kind == kind]
    return records.kept[: ends[number - 1]]


def test_a_call_whose_result_is_not_known_is_made_again_only_if_its_tool_allows_that() -> None:
    turns = (
        calls(
            ToolCall("1", "read", {"name": "a"}),
            ToolCall("2", "pay", {"amount": 5}),
            ToolCall("3", "launch", {"what": "rocket"}),
            ToolCall("4", "nothing", {}),
        ),
        LAST,
    )
    EFFECTS.clear()
    agent = ModelAgent(MANIFEST, tools=TOOLS)
    _, records = run(agent, "go", driver=Model(*turns))
    first = list(EFFECTS)
    EFFECTS.clear()
    outcome, again = resumed(behind(records, "called", 4), driver=Model(*turns))
    assert sorted(EFFECTS) == sorted(effect for effect in first if "launch" not in effect)
    assert f"text of a paid 5 {UNKNOWN_RESULT.content} there is no tool 'nothing'" in text_of(outcome)
    (told,) = [record for record in again.of_kind("returned") if record.data["n"] == 2]
    assert "unknown" in str(told.data["result"])


def test_a_call_with_a_placeholder_for_a_secret_is_not_made_again() -> None:
    turns = (calls(ToolCall("1", "read", {"name": ["x", {"key": "[redacted-1]"}]})), LAST)

    @tool(idempotent=True)
    async def read_all(ctx: AgentContext, name: list[Any]) -> str:
        raise AssertionError("called")

    agent = ModelAgent(MANIFEST, tools=TOOLS)
    _, records = run(agent, "go", driver=Model(*turns))
    outcome, _ = resumed(behind(records, "called"), driver=Model(*turns))
    assert UNKNOWN_RESULT.content in text_of(outcome)


def test_a_call_whose_tool_is_gone_may_have_happened_and_one_of_what_never_was_has_not() -> None:
    """Such as the tool of a server that is away now. What never was is told as it would have been."""
    turns = (calls(ToolCall("1", "read", {"name": "a"}), ToolCall("2", "invented", {})), LAST)
    all_of_them, fewer = ToolRegistry(TOOLS), ToolRegistry([pay, launch])
    _, records = run(ModelAgent(MANIFEST), "go", driver=Model(*turns), tool_builder=lambda _: all_of_them)
    EFFECTS.clear()
    cut = behind(records, "called", 2)
    outcome, _ = resumed(cut, driver=Model(*turns), tool_builder=lambda _: fewer)
    assert text_of(outcome).startswith(f"done: {UNKNOWN_RESULT.text} there is no tool 'invented'")
    assert EFFECTS == []


def test_a_key_names_one_call_of_one_agent_and_stays() -> None:
    turns = (calls(ToolCall("1", "pay", {"amount": 1}), ToolCall("2", "pay", {"amount": 1})), LAST)

    async def two(ctx: AgentContext) -> Any:
        agent = ModelAgent(MANIFEST, tools=TOOLS)
        await ctx.map(agent, ["one", "two"])
        await agent(ctx, "three")

    EFFECTS.clear()
    _, records = run(two, driver=Model(*turns))
    keys = set(EFFECTS)
    assert len(keys) == len(EFFECTS) == 6
    EFFECTS.clear()
    for end in range(len(records.kept) - 5, 4, -3):
        resumed(records.kept[:end], driver=Model(*turns), agents={"first": two})
    assert set(EFFECTS) == keys


async def test_without_a_journal_each_call_has_a_key_of_its_own_and_code_that_is_no_call_none() -> None:
    turns = (calls(ToolCall("1", "pay", {"amount": 1}), ToolCall("2", "pay", {"amount": 1})), LAST)
    asked = []

    @tool
    async def twice(ctx: AgentContext) -> str:
        """Ask twice."""
        asked.append(ctx.call_key == ctx.call_key)
        handle = await ctx.spawn(child)
        return str(await handle.result())

    async def child(ctx: AgentContext) -> str:
        with pytest.raises(RuntimeError, match="none runs here"):
            _ = ctx.call_key
        return "none"

    async with open_agent_pool(Model(*turns), max_concurrent=1) as pool:
        EFFECTS.clear()
        handle = await pool.spawn(ModelAgent(MANIFEST, tools=TOOLS), "go")
        await handle.wait()
    assert len(set(EFFECTS)) == 2
    once = (calls(ToolCall("1", "twice", {})), LAST)
    async with open_agent_pool(Model(*once), max_concurrent=1) as pool:
        outcome = await (await pool.spawn(ModelAgent(MANIFEST, tools=[twice]), "go")).wait()
    assert text_of(outcome) == "done: none"
    assert asked == [True]


def test_which_tools_may_be_called_again() -> None:
    @tool(idempotent=False)
    async def declared(ctx: AgentContext) -> str:
        return ctx.call_key

    assert [each.idempotent for each in (read, pay, launch, declared)] == [True, True, False, False]


# -- what a model does by the agent's verbs ----------------------------------------------------

TALKING = AgentManifest(name="talking", capabilities=(MessagingCapability(), SpawnCapability(max_depth=1)))


class Talking(Driver):
    """The first agent spawns one and writes to it; the child waits for a message."""

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(1)
        said = [message for message in request.messages if isinstance(message, AssistantMessage)]
        results = [str(m.result.content) for m in request.messages if isinstance(m, ToolMessage)]
        if "child" in str(request.messages[0].content if hasattr(request.messages[0], "content") else ""):
            return Completion("child is done", usage=USED)
        if not said:
            spawns = [ToolCall(str(n), "spawn_agent", {"query": f"child {n}"}) for n in range(2)]
            return Completion(tool_calls=tuple(spawns), usage=USED)
        return Completion(" and ".join(results), usage=USED)


def test_agents_that_a_model_had_spawned_are_spawned_once() -> None:
    expected, records = after_each_cut(
        ModelAgent(TALKING), "go", driver=Talking, same=text_of, max_concurrent=2
    )
    assert expected == "child is done and child is done"
    assert sum(record.kind == "spawned" for record in records) == 3


@tool
async def hire(ctx: AgentContext, query: str) -> str:
    """Start an agent, and do not wait for it."""
    await ctx.spawn(ModelAgent(MANIFEST), query, name="hired")
    await trio.sleep(1)
    return "hired"


class Hiring(Driver):
    async def complete(self, request: CompletionRequest) -> Completion:
        query = request.messages[0]
        is_hired = not isinstance(query, (AssistantMessage, ToolMessage)) and "hired" in str(query.content)
        await trio.sleep(20 if is_hired else 1)
        if is_hired:
            return Completion("worked", usage=USED)
        turns = sum(isinstance(message, AssistantMessage) for message in request.messages)
        return LAST if turns else calls(ToolCall("1", "hire", {"query": "hired"}))


def test_a_child_of_a_call_that_is_not_made_again_goes_on() -> None:
    async def boss(ctx: AgentContext) -> Any:
        result = await ModelAgent(MANIFEST, tools=[hire])(ctx, "go")
        (child,) = (await ctx.join_all()).values()
        return result.text, type(child).__name__, child.unwrap().text

    outcome, records = run(boss, driver=Hiring())
    assert outcome.unwrap() == ("results", "Completed", "worked")
    spawned = next(n for n, record in enumerate(records.kept, 1) if record.agent == 2)
    # Between the spawn and the end of the call: nobody knows what became of the call.
    again, _ = resumed(records.kept[:spawned], driver=Hiring(), agents={"first": boss})
    assert again.unwrap() == ("results", "Completed", "worked")
    # When the call had ended, and the child lived.
    later = behind(records, "returned")
    again, _ = resumed(later, driver=Hiring(), agents={"first": boss})
    assert again.unwrap() == ("results", "Completed", "worked")


def test_a_child_of_such_a_call_that_cannot_be_found_is_aborted_with_the_reason() -> None:
    @tool
    async def hire_inner(ctx: AgentContext, query: str) -> str:
        """Start an agent that nobody finds again."""

        async def inner(ctx: AgentContext) -> None:
            await trio.sleep(50)

        await ctx.spawn(inner)
        await trio.sleep(1)
        return "hired"

    async def boss(ctx: AgentContext) -> Any:
        result = await ModelAgent(MANIFEST, tools=[hire_inner])(ctx, "go")
        (child,) = (await ctx.join_all()).values()
        return result.text, child

    class HiringInner(Hiring):
        async def complete(self, request: CompletionRequest) -> Completion:
            answer = await super().complete(request)
            each = tuple(ToolCall(c.id, "hire_inner", c.input) for c in answer.tool_calls)
            return Completion(answer.text, each, usage=USED)

    _, records = run(boss, driver=HiringInner())
    spawned = next(n for n, record in enumerate(records.kept, 1) if record.agent == 2)
    outcome, _ = resumed(records.kept[:spawned], driver=HiringInner(), agents={"first": boss})
    _, child = outcome.unwrap()
    assert "define it at the top of a module" in child.reason


# -- messages, memory, errors ------------------------------------------------------------------


async def told_meanwhile(ctx: AgentContext) -> Any:
    handle = await ctx.spawn(ModelAgent(MANIFEST, tools=TOOLS), "go")
    await ctx.send(handle.id, "first")
    await ctx.step("wait", trio.sleep, 1.5)
    await ctx.send(handle.id, {"second": 2})
    result = await handle.result()
    return [message.content for message in result.transcript if getattr(message, "kind", "") == "message"]


def test_messages_that_a_model_was_told_are_in_its_transcript_once() -> None:
    expected, _ = after_each_cut(told_meanwhile, driver=lambda: Model(*TURNS))
    assert len(expected) == 2
    assert "first" in expected[0]
    assert '{"second": 2}' in expected[1]


def test_what_memory_gave_is_told_again() -> None:
    mindful = AgentManifest(name="mindful", capabilities=(MemoryCapability(),))

    async def main(records: Records, opened: Callable[..., Any], **settings: Any) -> Any:
        memory = InMemory()
        await memory.remember("the go of things")
        async with opened(records, memory=memory, **settings) as pool:
            handle = pool.resumed[0] if pool.resumed else await pool.spawn(ModelAgent(mindful), "go")
            return await handle.result()

    def begun(records: Records, memory: Any) -> Any:
        return open_agent_pool(Model(LAST), max_concurrent=1, memory=memory, journal=records)

    def gone_on(records: Records, memory: Any) -> Any:
        return resume_agent_pool(records, Model(LAST), memory=memory)

    records = Records()
    whole = in_virtual_time(lambda: main(records, begun))
    assert "the go of things" in str(whole.transcript)
    for number in range(1, 4):
        kept = behind(records, "observed", number)
        again = in_virtual_time(lambda kept=kept: main(Records(kept), gone_on))
        assert again.transcript == whole.transcript
    assert records.of_kind("observed")[-1].data["is"] == "remembered"


@pytest.mark.parametrize(
    "error",
    [RateLimitedError("slow down", retry_after=3.0), DriverUnavailableError("gone", may_have_cost=True)],
)
def test_an_error_of_the_driver_is_the_same_error(error: Exception) -> None:
    whole, records = run(ModelAgent(MANIFEST), "go", driver=Model(error))
    assert isinstance(whole, Failed)
    for kept in (records.kept, behind(records, "observed", 2)):
        outcome, _ = resumed(kept, driver=Model(error))
        assert isinstance(outcome, Failed)
        assert type(outcome.error) is type(error)
        assert str(outcome.error) == str(error)
        assert vars(outcome.error) == vars(error)


def test_another_manifest_is_refused_with_the_agent_and_its_step() -> None:
    async def boss(ctx: AgentContext, query: str = "go") -> Any:
        return await (await ctx.spawn(SpawnConfig(MANIFEST, "go"))).wait()

    async def other(ctx: AgentContext) -> Any:
        return await (await ctx.spawn(SpawnConfig(MANIFEST, "another question"))).wait()

    _, records = run(boss, driver=Model(LAST))
    outcome, _ = resumed(behind(records, "observed"), driver=Model(LAST), agents={"first": other})
    assert isinstance(outcome.error, ReplayMismatchError)
    assert (outcome.error.agent_id, outcome.error.step) == (2, "its spawn")


def test_a_loop_that_comes_to_something_else_is_refused() -> None:
    agent = ModelAgent(MANIFEST, tools=TOOLS)
    _, records = run(agent, "go", driver=Model(*TURNS))
    kept = behind(records, "observed", 3)

    def changed(is_what: str, to: str) -> list[JournalRecord]:

        return [
            attrs.evolve(record, data={**record.data, "is": to})
            if record.data.get("is") == is_what
            else record
            for record in kept
        ]

    outcome, _ = resumed(changed("replied", "remembered"), driver=Model(*TURNS))
    assert isinstance(outcome.error, ReplayMismatchError)
    assert "its loop comes to Reason now, and had 'remembered' then" in str(outcome.error)
    # A tool call that is another one.
    _, records = run(agent, "go", driver=Model(*TURNS))

    called = [
        attrs.evolve(record, data={**record.data, "call": {"other": 1}})
        if record.kind == "called"
        else record
        for record in behind(records, "called", 2)
    ]
    outcome, _ = resumed(called, driver=Model(*TURNS))
    assert isinstance(outcome.error, ReplayMismatchError)
    assert "its tool call 0 is another one now: read" in str(outcome.error)


IDLE = AgentManifest(name="idle", resources=ResourceQuota(idle=5.0))


@tool(idempotent=True)
async def stall(ctx: AgentContext, seconds: float) -> str:
    """Do nothing for a while."""
    await trio.sleep(seconds)
    return f"{seconds:g} s"


def test_what_nothing_was_heard_of_is_told_in_the_same_way() -> None:
    turns = (
        calls(ToolCall("1", "stall", {"seconds": 1.0}), ToolCall("2", "stall", {"seconds": 90.0})),
        LAST,
    )
    agent = ModelAgent(IDLE, tools=[stall])
    whole, records = run(agent, "go", driver=Model(*turns))
    idled = [record for record in records.of_kind("observed") if record.data["is"] == "idled"]
    assert len(idled) == 1
    kept = records.kept[: records.kept.index(idled[0]) + 1]
    outcome, _ = resumed(kept, driver=Model(*turns))
    assert type(outcome) is type(whole)
    if isinstance(whole, Completed):
        assert outcome.unwrap().transcript == whole.unwrap().transcript
    else:
        assert str(outcome.error) == str(whole.error)


def test_a_model_that_is_not_heard_of_is_told_in_the_same_way() -> None:
    class Silent(Model):
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.sleep(100)
            raise AssertionError("heard")

    whole, records = run(ModelAgent(IDLE), "go", driver=Silent())
    outcome, _ = resumed(behind(records, "observed", 2), driver=Silent())
    assert str(outcome.error) == str(whole.error)


# -- budgets -----------------------------------------------------------------------------------


def spent_of(kept: list[JournalRecord], **settings: Any) -> Any:
    """Resume a run, and return what is spent at its beginning and at its end."""

    async def main() -> Any:
        async with resume_agent_pool(Records(kept), Model(*TURNS), **settings) as pool:
            budget = pool._state.means.budget
            assert budget is not None
            before = budget.spent
            outcome = await pool.resumed[0].wait()
            return before, budget.spent, outcome

    return in_virtual_time(main)


def test_what_was_spent_stays_spent_and_what_was_under_way_counts_with_its_worst_case() -> None:
    agent = ModelAgent(MANIFEST, tools=TOOLS)
    _, records = run(agent, "go", driver=Model(*TURNS), budget=Budget(tokens=100_000, cost_usd=1.0, calls=9))
    assert [record.data["took"][:1] for record in records.of_kind("settled")] == [[110]] * 3
    before, after, _ = spent_of(behind(records, "settled", 2))
    assert before.tokens == 220
    assert before.cost_usd == pytest.approx(220e-6)
    assert before.calls == 2
    assert after.calls == 4  # the answer of the second was not observed: it is asked for again, and paid
    assert spent_of(behind(records, "observed", 4))[1].calls == 3
    before, after, _ = spent_of(behind(records, "reserved", 2))
    reserved = records.of_kind("reserved")[1].data["took"]
    assert before.tokens == 110 + reserved[0] > 4000
    assert before.calls == 2
    # Resumed a second time, it is counted once.
    _, again = resumed(behind(records, "reserved", 2), driver=Model(*TURNS))
    cut = again.kept[: [record.kind for record in again.kept].index("resumed") + 1]
    assert spent_of(cut)[0] == before


def test_an_agents_own_quota_survives_and_so_do_those_above() -> None:
    quota = AgentManifest(name="quota", resources=ResourceQuota(max_tokens_budget=6000))
    agent = ModelAgent(quota, tools=TOOLS)

    async def two(ctx: AgentContext) -> Any:
        outcomes = await ctx.map(agent, ["one", "two"])
        return [type(outcome).__name__ for outcome in outcomes]

    settings: dict[str, Any] = {"budget": Budget(tokens=30_000)}
    _, records = run(two, driver=Model(*TURNS), **settings)
    for number in range(1, len(records.of_kind("reserved")) + 1):
        kept = behind(records, "reserved", number)

        async def main(kept: list[JournalRecord] = kept) -> Any:
            async with resume_agent_pool(Records(kept), Model(*TURNS), agents={"first": two}) as pool:
                budget = pool._state.means.budget
                assert budget is not None
                await pool.resumed[0].wait()
                return budget.spent.tokens

        assert in_virtual_time(main) <= 30_000
    # Three crashes during the same call, and the agent's own quota has no room for its fourth attempt.
    kept = behind(records, "reserved")
    for _ in range(3):
        _, again = resumed(kept, driver=Model(*TURNS), agents={"first": two})
        mine = [record.agent for record in again.of_kind("reserved")]
        if len(mine) <= len([record for record in kept if record.kind == "reserved"]):
            break
        kept = behind(again, "reserved", len([record for record in kept if record.kind == "reserved"]) + 1)
    outcome, _ = resumed(kept, driver=Model(*TURNS), agents={"first": two})
    assert "Failed" in outcome.unwrap()


def test_a_budget_that_was_passed_fails_in_the_same_way() -> None:
    agent = ModelAgent(MANIFEST, tools=TOOLS)
    whole, records = run(agent, "go", driver=Model(*TURNS), budget=Budget(calls=2))
    assert isinstance(whole, Failed)
    assert isinstance(whole.error, BudgetExceededError)
    observed = [n for n, record in enumerate(records.kept, 1) if record.data.get("is") == "failed"]
    outcome, _ = resumed(records.kept[: observed[0]], driver=Model(*TURNS))
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, BudgetExceededError)
    assert outcome.error.transcript == whole.error.transcript
    assert outcome.error.usage == whole.error.usage


def test_a_run_without_a_budget_gets_one_that_knows_what_was_used() -> None:
    _, records = run(ModelAgent(MANIFEST, tools=TOOLS), "go", driver=Model(*TURNS))
    before, after, outcome = spent_of(behind(records, "settled", 2), budget=Budget(calls=2))
    assert (before.tokens, before.calls, after.calls) == (220, 2, 2)
    assert isinstance(outcome, Failed)


def test_a_call_that_failed_without_a_cost_is_given_back() -> None:
    agent = ModelAgent(MANIFEST)
    _, records = run(agent, "go", driver=Model(RateLimitedError("no")), budget=Budget(tokens=50_000))
    (settled,) = records.of_kind("settled")
    assert settled.data["took"] == [0, 0, 0]
