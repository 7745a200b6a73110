"""What was reported about approval in comparable systems: each situation, put to this one."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from journal_kit import Records, in_virtual_time, resumed
from pool_kit import pool_of
from test_approval import ASK, DONE, ONE, Hiring, Model, agent_with, answering, hire, text_of

from agentpool import (
    AgentManifest,
    ApprovalRequest,
    ApprovalRules,
    Approved,
    Decision,
    Denied,
    ModelAgent,
    RunPausedError,
    ToolCall,
    open_agent_pool,
)
from agentpool._core.approval import CallView, ruling_on
from agentpool._core.records import JournalRecord


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    DONE.clear()


def verdict(command: str, **rules: Any) -> str:
    return ruling_on(CallView("run", {"command": command}), [ApprovalRules(**rules)]).verdict


@pytest.mark.parametrize(
    "command",
    [
        "something && rm -rf /foo",
        "something ; rm -rf /foo",
        "something | rm -rf /foo",
        "something || rm -rf /foo",
        "(rm -rf /foo)",
        "$(rm -rf /foo)",
    ],
)
def test_a_rule_holds_for_each_command_of_a_line(command: str) -> None:
    """anthropics/claude-code#41559: deny rules saw only the whole line."""
    assert verdict(command, deny=("run(command=rm *)",)) == "deny"
    assert verdict(command, allow=("run(command=something*)",), default="ask") == "ask"


def test_a_call_that_was_denied_in_company_is_allowed_alone() -> None:
    """anthropics/claude-code#15348: after a joined command was denied, the allowed one was denied too."""
    rules: dict[str, Any] = {"allow": ("run(command=git add runtime)",), "default": "deny"}
    assert verdict("git add runtime && git diff", **rules) == "deny"
    assert verdict("git add runtime", **rules) == "allow"


def test_flags_in_another_order_need_a_wider_rule() -> None:
    """anthropics/claude-code#18613: `rm -fr /` passes a rule for `rm -rf /`. So it does here, which the
    guide says; whoever allows by name and asks about the rest is safe."""
    assert verdict("rm -fr /", deny=("run(command=rm -rf /*)",)) == "allow"
    assert verdict("rm -fr /", deny=("run(command=rm *)",)) == "deny"
    assert verdict("rm -fr /", allow=("run(command=ls*)",), default="ask") == "ask"
    # anthropics/claude-code#92542: a program that runs another one.
    assert verdict("wrapper git add -A", deny=("run(command=git add*)",)) == "allow"
    assert verdict("wrapper git add -A", allow=("run(command=git *)",), default="ask") == "ask"


def paused_with(*calls: ToolCall, rules: ApprovalRules = ASK) -> tuple[RunPausedError, list[JournalRecord]]:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(Model(*calls), max_concurrent=1, journal=records) as pool:
            await (await pool.spawn(agent_with(rules), "go")).wait()

    with pytest.raises(RunPausedError) as caught:
        in_virtual_time(main)
    return caught.value, records.kept


def test_each_of_several_calls_has_an_id_and_gets_its_own_decision() -> None:
    """langchain-ai/langgraph#6626, #6624, #6533: the same id for all, one of them lost, answers mixed up;
    and #4397: two results for one call. Here also with equal arguments."""
    calls = [ToolCall(str(n), "wipe", {"what": "same"}) for n in range(3)]
    error, kept = paused_with(*calls)
    assert sorted(request.call.id for request in error.requests.values()) == ["0", "1", "2"]
    decided = [
        JournalRecord(
            "decided", 0, {"hash": key, "approved": request.call.id == "1", "reason": request.call.id}, 1.0
        )
        for key, request in error.requests.items()
    ]
    outcome, _ = resumed([*kept, *reversed(decided)], driver=Model(*calls))
    assert outcome.unwrap().text == ("Not run: it was denied: 0.; wiped same; Not run: it was denied: 2.")
    assert DONE == ["same"]


def test_what_had_run_beside_it_does_not_run_again_after_the_pause() -> None:
    """langchain-ai/langgraph#3126: with one tool paused, the others ran twice."""
    calls = (ONE, ToolCall("2", "wipe", {"what": "b"}))
    rules = ApprovalRules(ask=("wipe(what=a)",))
    _, kept = paused_with(*calls, rules=rules)
    assert DONE == ["b"]
    outcome, _ = resumed(kept, driver=Model(*calls), approver=answering(Approved()))
    assert outcome.unwrap().text == "wiped a; wiped b"
    assert DONE == ["b", "a"]


async def test_a_child_is_asked_about_and_its_call_is_made(autojump_clock: Any) -> None:
    """openai/openai-agents-js#680, microsoft/agent-framework#4963: approved below, and never called."""
    asked: list[ApprovalRequest] = []

    async def approver(request: ApprovalRequest) -> Decision:
        asked.append(request)
        await trio.sleep(5)
        return Approved()

    boss = ModelAgent(AgentManifest(name="boss"), tools=[hire])
    call = ToolCall("2", "look", {"what": "b"})
    async with pool_of(1, driver=Hiring(call), approver=approver) as pool:
        assert (await (await pool.spawn(boss, "go")).wait()).unwrap().text == "saw b"
    assert [request.agent_name for request in asked] == ["hired"]


async def test_the_model_is_told_that_it_was_denied_and_why(autojump_clock: Any) -> None:
    """openai/openai-agents-python#3359: the reason was dropped. microsoft/agent-framework#8503: without
    one the model could not tell, and asked again."""
    assert "denied: too risky" in await text_of(answering(Denied("too risky")))
    assert await text_of(answering(Denied())) == "Not run: it was denied."


async def test_nobody_decides_for_a_person_who_takes_days(autojump_clock: Any) -> None:
    """kirodotdev/KiroCrew#7659: after ten minutes it was denied."""
    assert await text_of(answering(Approved(), 80_000)) == "wiped a"
