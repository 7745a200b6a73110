"""`agentpool show`: what is in a journal, for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome
from agentpool._core.past import PastAgent
from agentpool._core.summaries import describe, reason_of, tell_usage
from agentpool.cli._output import message_as_json
from agentpool.cli._past_runs import PastRun, lines_of
from agentpool.cli._report import outcome_as_json, result_text
from agentpool.cli._streams import printing
from agentpool.cli._text import cut, one_line

LETTERS_OF_ANSWER = 100


def show(path: Path, agent_id: AgentId | None, *, as_json: bool) -> int:
    """Print the agents of a run, or the conversation of one; return the exit code.

    Raises:
      BadInputError: if there is no such journal or agent.
    """
    run = PastRun.read(path)
    if agent_id is None:
        told = json.dumps(_document(run), indent=2, default=repr) if as_json else "\n".join(_lines(run))
    else:
        agent = run.agent(agent_id)
        told = (
            json.dumps(_agent_document(run, agent, conversation=True), indent=2, default=repr)
            if as_json
            else "\n".join(_agent_lines(run, agent))
        )
    with printing():
        print(told)
    return 0


# -- for people ----------------------------------------------------------------------------------


def _lines(run: PastRun) -> Iterator[str]:
    past = run.past
    children: dict[AgentId, list[PastAgent]] = {}
    for agent in past.agents.values():
        above = agent.parent if agent.parent in past.agents else 0
        children.setdefault(above, []).append(agent)
    todo = [(agent, 0) for agent in reversed(children.get(0, []))]
    while todo:
        agent, depth = todo.pop()
        yield "  " * depth + _line_of(run, agent)
        todo.extend((child, depth + 1) for child in reversed(children.get(agent.id, [])))
    if not past.agents:
        yield "no agent was started"
    yield from _questions(run)
    yield f"{_state_of(run)}; {past.elapsed:.1f} s of work; {tell_usage(past.usage)}{_budget_of(run)}"


def _line_of(run: PastRun, agent: PastAgent) -> str:
    outcome = run.outcome_of(agent)
    head = f"{agent.id} {one_line(agent.name)}: "
    if outcome is None:
        restarts = f", restarted {agent.life} times" if agent.life else ""
        waiting = f", {len(agent.inbox)} messages in its inbox" if agent.inbox else ""
        used = f", {tell_usage(agent.usage)}" if agent.usage.total_tokens else ""
        return f"{head}unfinished{restarts}{waiting}{used}"
    why = one_line(reason_of(outcome) or result_text(outcome))
    return f"{head}{describe(outcome)}" + (f": {cut(why, LETTERS_OF_ANSWER)}" if why else "")


def _questions(run: PastRun) -> Iterator[str]:
    for key, approval in run.past.approvals.items():
        call = approval.asked["call"]["$object"][1]
        about = f"{one_line(str(call['name']))} {one_line(json.dumps(call['input']))}"
        if approval.decided is None:
            yield f"asked: {key}: may agent {approval.asked['agent']} call {about}?"
        else:
            yield f"{'approved' if approval.decided['approved'] else 'denied'}: {key}: {about}"


def _state_of(run: PastRun) -> str:
    unfinished = sum(agent.outcome is None for agent in run.past.agents.values())
    match run.past.closed:
        case "ended":
            return "the run has ended"
        case "paused":
            return f"the run is paused, with {unfinished} unfinished agents"
        case "stopped":
            return f"the run was stopped, with {unfinished} unfinished agents"
        case _:
            return f"the run goes on, or its process died, with {unfinished} unfinished agents"


def _budget_of(run: PastRun) -> str:
    limits = run.past.run["settings"]["budget"]
    if limits is None:
        return ""
    spent = run.past.spent
    parts = [
        f"{used:,g} of {limit:,g} {name}"
        for name, limit, used in (
            ("tokens", limits["tokens"], spent.tokens),
            ("dollars", limits["cost_usd"], spent.cost / 10**12),
            ("calls", limits["calls"], spent.calls),
        )
        if limit is not None
    ]
    return "; budget: " + ", ".join(parts)


def _agent_lines(run: PastRun, agent: PastAgent) -> Iterator[str]:
    yield _line_of(run, agent)
    yield ""
    yield from lines_of(run.conversation_of(agent))


# -- for machines --------------------------------------------------------------------------------


def _document(run: PastRun) -> dict[str, Any]:
    past = run.past
    return {
        "state": past.closed or "running or died",
        "about": past.run["about"],
        "elapsed": past.elapsed,
        "usage": attrs.asdict(past.usage),
        "settings": past.run["settings"],
        "spent": {
            "tokens": past.spent.tokens,
            "cost_usd": past.spent.cost / 10**12,
            "calls": past.spent.calls,
        },
        "agents": [_agent_document(run, agent) for agent in past.agents.values()],
        "approvals": [
            {"id": key, **approval.asked, "decided": approval.decided}
            for key, approval in past.approvals.items()
        ],
    }


def _agent_document(run: PastRun, agent: PastAgent, *, conversation: bool = False) -> dict[str, Any]:
    outcome: AnyOutcome | None = run.outcome_of(agent)
    if outcome is not None:
        document = outcome_as_json(outcome)
    else:
        document = {
            "id": agent.id,
            "name": agent.name,
            "parent_id": agent.parent,
            "outcome": None,
            "restarts": agent.life,
            "usage": attrs.asdict(agent.usage),
            "inbox": len(agent.inbox),
        }
    if conversation:
        document["transcript"] = [message_as_json(each) for each in run.conversation_of(agent)]
    return document
