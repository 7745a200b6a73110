"""Tool calls that a person decides about, in a run that is paused and resumed."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import trio
from journal_kit import Records, in_virtual_time, resumed, run

from agentpool import (
    AgentContext,
    AgentHandle,
    AgentManifest,
    AgentPool,
    ApprovalRequest,
    ApprovalRules,
    Approved,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Decision,
    Denied,
    Driver,
    ModelAgent,
    RunPausedError,
    TokenUsage,
    ToolCall,
    ToolMessage,
    open_agent_pool,
    resume_agent_pool,
    tool,
)
from agentpool._core.records import JournalRecord

USED = TokenUsage(100, 10)
DONE: list[str] = []
ASKED: list[str] = []


class Model(Driver):
    """Asks for these calls once, and then tells what they came to."""

    def __init__(self, *calls: ToolCall) -> None:
        self.calls = calls

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(1)
        if not any(isinstance(message, AssistantMessage) for message in request.messages):
            return Completion(tool_calls=self.calls, usage=USED)
        told = [str(each.result.content) for each in request.messages if isinstance(each, ToolMessage)]
        return Completion("; ".join(told), usage=USED)


@tool
async def wipe(what: str) -> str:
    """Wipe something."""
    DONE.append(f"wipe {what}")
    await trio.sleep(1)
    return f"wiped {what}"


@tool(idempotent=True)
async def look(what: str) -> str:
    """Look at something."""
    DONE.append(f"look {what}")
    return f"saw {what}"


RULES = ApprovalRules(ask=("wipe",))
AGENT = ModelAgent(AgentManifest(name="careful", approval=RULES), tools=[wipe, look])
CALLS = (
    ToolCall("1", "wipe", {"what": "a"}),
    ToolCall("2", "look", {"what": "b"}),
    ToolCall("3", "wipe", {"what": "c"}),
)


async def only_a(request: ApprovalRequest) -> Decision:
    ASKED.append(request.call.input["what"])
    await trio.sleep(5)
    return Approved() if request.call.input["what"] == "a" else Denied("not that one")


def text_of(outcome: Any) -> str:
    text: str = outcome.unwrap().text
    return text


def forget() -> None:
    DONE.clear()
    ASKED.clear()


def paused(kept: list[JournalRecord] | None = None) -> tuple[RunPausedError, Records]:
    """Run, or resume, without anybody who could decide; return how that ended, and the journal."""
    records = Records(kept or [])

    async def main() -> None:
        if kept is None:
            async with open_agent_pool(Model(*CALLS), max_concurrent=2, journal=records) as pool:
                await (await pool.spawn(AGENT, "go", name="first")).wait()
        else:
            async with resume_agent_pool(records, Model(*CALLS)) as pool:
                await pool.resumed[0].wait()

    with pytest.raises(RunPausedError) as caught:
        in_virtual_time(main)
    return caught.value, records


def key_of(error: RunPausedError, what: str) -> str:
    """Return the id under which it is decided whether that may be wiped."""
    return next(key for key, request in error.requests.items() if request.call.input["what"] == what)


def test_what_was_decided_is_not_asked_again() -> None:
    forget()
    whole, records = run(AGENT, "go", driver=Model(*CALLS), approver=only_a)
    expected = "wiped a; saw b; Not run: it was denied: not that one."
    assert text_of(whole) == expected
    decided = [end for end, record in enumerate(records.kept, 1) if record.kind == "decided"]
    assert len(decided) == 2
    for end in range(4, len(records.kept) + 1):
        forget()
        outcome, _ = resumed(records.kept[:end], driver=Model(*CALLS), approver=only_a)
        assert len(ASKED) == 2 - sum(each <= end for each in decided)
        text = text_of(outcome)
        if "unknown" not in text:
            assert text == expected


def test_without_anybody_to_decide_a_run_ends_as_paused_when_nothing_else_is_left_to_do() -> None:
    forget()
    error, records = paused()
    assert DONE == ["look b"]
    assert sorted(request.call.input["what"] for request in error.requests.values()) == ["a", "c"]
    assert all(key in str(error) for key in error.requests)
    assert [record.data["hash"] for record in records.of_kind("asked")] == list(error.requests)
    assert not records.of_kind("ended")
    assert records.kept[-1].data == {"how": "paused"}
    # Once more: it is asked the same, and that is written once.
    again, later = paused(records.kept)
    assert again.requests.keys() == error.requests.keys()
    assert len(later.of_kind("asked")) == 2


def test_a_paused_run_goes_on_with_the_decision() -> None:
    error, records = paused()
    first, second = (key_of(error, what) for what in "ac")
    kept = [
        *records.kept,
        JournalRecord("decided", 0, {"hash": first, "approved": False, "reason": "never"}, 9.0),
        JournalRecord("decided", 0, {"hash": second, "approved": True, "reason": ""}, 9.0),
    ]
    forget()
    outcome, _ = resumed(kept, driver=Model(*CALLS))
    assert text_of(outcome) == "Not run: it was denied: never.; saw b; wiped c"
    assert DONE == ["wipe c"]
    # One decision only: the other one is asked still.
    forget()
    again, _ = paused(kept[:-1])
    assert list(again.requests) == [second]
    # And whoever resumes it may decide.
    outcome, _ = resumed(records.kept, driver=Model(*CALLS), approver=only_a)
    assert text_of(outcome) == "wiped a; saw b; Not run: it was denied: not that one."


def test_a_decision_is_bound_to_the_call() -> None:
    error, records = paused()
    first = key_of(error, "a")
    decision = JournalRecord("decided", 0, {"hash": first, "approved": True, "reason": ""}, 9.0)

    def other(record: JournalRecord) -> JournalRecord:
        if record.data.get("is") != "replied":
            return record
        text = json.dumps(record.data).replace('"what": "a"', '"what": "everything"')
        return attrs.evolve(record, data=json.loads(text))

    forget()
    again, _ = paused([*map(other, records.kept), decision])
    assert len(again.requests) == 2
    assert first not in again.requests
    assert DONE == []


def test_others_go_on_before_the_run_is_paused() -> None:
    forget()
    records = Records()
    seen = []

    async def working(ctx: AgentContext) -> None:
        await trio.sleep(50)
        seen.append("worked")

    async def main() -> None:
        async with open_agent_pool(Model(*CALLS), max_concurrent=2, journal=records) as pool:
            await pool.spawn(AGENT, "go")
            await pool.spawn(working)
            await trio.sleep(100)
            seen.append("the block went on")

    with pytest.raises(RunPausedError):
        in_virtual_time(main)
    assert seen == ["worked", "the block went on"]
    assert len(records.of_kind("ended")) == 1


def test_an_agent_that_is_aborted_while_it_asks_is_asked_about_no_more() -> None:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(Model(*CALLS), max_concurrent=2, journal=records) as pool:
            handle = await pool.spawn(AGENT, "go", timeout=20)
            other = await pool.spawn(AGENT, "go")
            await trio.sleep(10)
            other.abort()
            await trio.sleep(20)
            assert handle.status == "failed"
            await handle.wait()

    in_virtual_time(main)
    assert len(records.of_kind("ended")) == 2


@tool
async def hire(ctx: AgentContext, what: str) -> str:
    """Hire somebody who has no rules of his own."""
    await ctx.spawn(ModelAgent(AgentManifest(name="hired"), tools=[wipe]), what, name="hired")
    return "hired"


class Hiring(Driver):
    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(1)
        turns = sum(isinstance(message, AssistantMessage) for message in request.messages)
        is_hired = "wipe it" in str(request.messages[0])
        if turns:
            if not is_hired:
                await trio.sleep(30)
            return Completion("done", usage=USED)
        call = ToolCall("1", "wipe" if is_hired else "hire", {"what": "wipe it"})
        return Completion(tool_calls=(call,), usage=USED)


def test_rules_bind_children_also_when_their_parent_does_not_spawn_them_again() -> None:
    boss = ModelAgent(
        AgentManifest(name="boss", approval=ApprovalRules(deny=("wipe",), default="allow")),
        tools=[hire, wipe],
    )
    forget()
    _, records = run(boss, "go", driver=Hiring())
    assert DONE == []
    spawned = next(end for end, record in enumerate(records.kept, 1) if record.agent == 2)
    for end in range(spawned, len(records.kept)):
        resumed(records.kept[:end], driver=Hiring())
    assert DONE == []


def test_a_run_with_an_approver_goes_on_wherever_it_was_cut_off() -> None:
    agent = ModelAgent(AgentManifest(name="looking", approval=ApprovalRules(ask=("look",))), tools=[look])

    async def yes(request: ApprovalRequest) -> Decision:
        return Approved()

    async def boss(ctx: AgentContext) -> str:
        return (await agent(ctx, "go")).text

    calls = (ToolCall("1", "look", {"what": "x"}), ToolCall("2", "look", {"what": "y"}))
    _, records = run(boss, driver=Model(*calls), approver=yes)
    for end in range(3, len(records.kept)):
        outcome, _ = resumed(records.kept[:end], driver=Model(*calls), approver=yes, agents={"first": boss})
        assert outcome.unwrap() == "saw x; saw y"


class AbortsAtRest(trio.abc.Instrument):
    """Aborts an agent in the moment in which nothing is left to do, before the pool is paused."""

    def __init__(self, pool: AgentPool, handle: AgentHandle[Any]) -> None:
        self.pool = pool
        self.handle = handle
        self.aborted = 0

    def before_io_wait(self, timeout: float) -> None:
        if self.pool.statistics().waiting and not self.aborted:
            self.aborted += 1
            trio.lowlevel.current_trio_token().run_sync_soon(self.handle.abort)


def test_a_run_is_not_paused_if_there_is_something_to_do_after_all() -> None:
    records = Records()

    async def main() -> str:
        async with open_agent_pool(Model(*CALLS), max_concurrent=2, journal=records) as pool:
            handle = await pool.spawn(AGENT, "go")
            early = AbortsAtRest(pool, handle)
            trio.lowlevel.add_instrument(early)
            await handle.wait()
            assert early.aborted
            return handle.status

    assert in_virtual_time(main) == "aborted"
    assert len(records.of_kind("asked")) == 2


@pytest.mark.parametrize("where", ["agent", "block"])
def test_a_run_is_not_paused_while_a_time_limit_may_still_let_it_go_on(where: str) -> None:
    seen = []

    async def patient(ctx: AgentContext) -> None:
        with trio.move_on_after(60):
            await ctx.receive()
        seen.append("went on")

    async def main() -> None:
        async with open_agent_pool(Model(*CALLS), max_concurrent=2, journal=Records()) as pool:
            handle = await pool.spawn(AGENT, "go")
            if where == "agent":
                await pool.spawn(patient)
                await handle.wait()
            with trio.move_on_after(60):
                await handle.wait()
            seen.append("went on")

    with pytest.raises(RunPausedError):
        in_virtual_time(main)
    assert seen == ["went on"]


POOLS: list[Any] = []


@tool
async def hire_outside(ctx: AgentContext, what: str) -> str:
    """Hire somebody who outlives whoever hires him."""
    await POOLS[-1].spawn(ModelAgent(AgentManifest(name="hired"), tools=[wipe]), "wipe it", name="hired")
    return "hired"


class HiringOutside(Driver):
    async def complete(self, request: CompletionRequest) -> Completion:
        is_hired = "wipe it" in str(request.messages[0])
        await trio.sleep(50 if is_hired else 1)
        if any(isinstance(message, AssistantMessage) for message in request.messages):
            return Completion("done", usage=USED)
        return Completion(
            tool_calls=(ToolCall("1", "wipe" if is_hired else "hire_outside", {"what": "x"}),), usage=USED
        )


def test_rules_bind_an_agent_whose_spawner_had_ended_before_the_crash() -> None:
    forget()
    records = Records()
    rules = ApprovalRules(deny=("wipe",), default="allow")
    boss = ModelAgent(AgentManifest(name="boss", approval=rules), tools=[hire_outside, wipe])

    async def main() -> None:
        async with open_agent_pool(HiringOutside(), max_concurrent=2, journal=records) as pool:
            POOLS.append(pool)
            await (await pool.spawn(boss, "go")).wait()
            raise KeyError("left")

    with pytest.raises(KeyError):
        in_virtual_time(main)

    async def again() -> None:
        async with resume_agent_pool(Records(records.kept), HiringOutside()) as pool:
            await pool.join_all()

    in_virtual_time(again)
    assert DONE == []
