"""`agentpool show`: what a journal tells of a run, also while the run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from agentpool._core.errors import ManifestError
from agentpool._core.messages import AssistantMessage, ChatMessage, ToolMessage
from agentpool._core.outcomes import AnyOutcome
from agentpool._core.past import Past, PastAgent
from agentpool._core.text import told
from agentpool._loop.replaying import DiffersError, NotReplayableError, tapes_of, transcript_so_far
from agentpool.cli._approve import asked_of
from agentpool.cli._journals import KeptRun, outcome_of, read_run
from agentpool.cli._output import message_as_json, transcript_of
from agentpool.cli._progress import reason_of, state_of, tell_usage
from agentpool.cli._report import outcome_as_json, result_text
from agentpool.cli._text import cut, one_line, safe

LONGEST = 160


def show_run(path: Path, as_json: bool) -> int:
    """Print the tree of agents of a run; return the exit code.

    Raises:
      BadInputError: if the journal cannot be read.
    """
    kept = read_run(path)
    if as_json:
        print(json.dumps(_run_as_json(kept), indent=2, default=repr))
        return 0
    past = kept.past
    fleet = kept.about.get("path")
    print(one_line(f"{path}: {_how(past)}, {past.elapsed:.1f} s" + (f", fleet {fleet}" if fleet else "")))
    for depth, agent in _tree(past):
        print(cut("  " * depth + one_line(_line(agent)), LONGEST))
    for line in _asked_lines(past):
        print(line)
    print(f"{tell_usage(past.usage)}{_budget(past)}")
    return 0


def _how(past: Past) -> str:
    is_open = any(agent.outcome is None for agent in past.agents.values())
    if past.closed == "ended" and not is_open:
        return "ended"
    return {"paused": "paused", "stopped": "stopped"}.get(past.closed, "at work, or its process died")


def _tree(past: Past) -> Iterator[tuple[int, PastAgent]]:
    below: dict[int, list[PastAgent]] = {}
    for agent in past.agents.values():
        below.setdefault(agent.parent, []).append(agent)
    waiting = [(0, agent) for agent in reversed(below.get(0, ()))]
    while waiting:  # trees may be deeper than Python's stack
        depth, agent = waiting.pop()
        yield depth, agent
        waiting += [(depth + 1, child) for child in reversed(below.get(agent.id, ()))]


def _line(agent: PastAgent) -> str:
    outcome = outcome_of(agent)
    used = tell_usage(agent.usage if outcome is None else outcome.usage)
    restarts = f", {agent.life} restarts" if agent.life else ""
    if outcome is None:
        waiting = f", {len(agent.inbox)} messages in its inbox" if agent.inbox else ""
        return f"{agent.id} {agent.name}: not ended{restarts}{waiting}; {used}"
    return f"{agent.id} {agent.name}: {state_of(outcome)}{restarts}; {used}; {_why(outcome)}"


def _why(outcome: AnyOutcome) -> str:
    if state_of(outcome) != "completed":
        return reason_of(outcome)
    return result_text(outcome).strip().partition("\n")[0]


def _asked_lines(past: Past) -> Iterator[str]:
    for key, approval in past.approvals.items():
        agent = past.agents.get(approval.asked["agent"])
        text = asked_of(key, approval, "" if agent is None else agent.name)
        if approval.decided is None:
            yield f"asked: {text}"
        elif agent is not None and agent.outcome is None:
            yield f"{'approved' if approval.decided['approved'] else 'denied'}: {text}"
    for question, (asker, _, _) in past.questions.items():
        yield f"agent {asker} waits for the answer to its question {question}"


def _budget(past: Past) -> str:
    limit = past.run["settings"]["budget"]
    if limit is None:
        return ""
    spent = {"tokens": past.spent.tokens, "cost_usd": past.spent.cost / 1e12, "calls": past.spent.calls}
    parts = [f"{spent[key]:g} of {most:g} {key}" for key, most in limit.items() if most is not None]
    return f"; budget: {', '.join(parts)} spent" if parts else ""


def _run_as_json(kept: KeptRun) -> dict[str, Any]:
    past = kept.past
    return {
        "journal": str(kept.path),
        "fleet": kept.about.get("path"),
        "state": _how(past),
        "duration": past.elapsed,
        "usage": attrs.asdict(past.usage),
        "budget": past.run["settings"]["budget"],
        "spent": attrs.asdict(past.spent),
        "agents": [_agent_as_json(agent) for agent in past.agents.values()],
        "asked": [
            {"id": key, **approval.asked, "decided": approval.decided}
            for key, approval in past.approvals.items()
        ],
    }


def _agent_as_json(agent: PastAgent) -> dict[str, Any]:
    outcome = outcome_of(agent)
    if outcome is not None:
        return outcome_as_json(outcome)
    return {
        "id": agent.id,
        "name": agent.name,
        "parent_id": agent.parent,
        "outcome": None,
        "restarts": agent.life,
        "usage": attrs.asdict(agent.usage),
        "inbox": len(agent.inbox),
    }


# -- one agent -------------------------------------------------------------------------


def show_agent(path: Path, agent_id: int, as_json: bool) -> int:
    """Print the conversation of an agent, also of one that has not ended; return the exit code.

    Raises:
      BadInputError: if the journal cannot be read, or has no such agent.
    """
    kept = read_run(path)
    agent = kept.agent(agent_id)
    transcript, problem = _transcript(kept, agent)
    if as_json:
        document = _agent_as_json(agent) | {"transcript": [message_as_json(each) for each in transcript]}
        print(json.dumps(document | ({"problem": problem} if problem else {}), indent=2, default=repr))
        return 0
    print(one_line(_line(agent)))
    for message in transcript:
        for line in _lines_of(message):
            print(line)
    if problem:
        print(one_line(f"no conversation: {problem}"))
    return 0


def _transcript(kept: KeptRun, agent: PastAgent) -> tuple[Sequence[ChatMessage], str]:
    """Return the conversation of an agent, and why there is none."""
    outcome = outcome_of(agent)
    found = () if outcome is None else transcript_of(outcome)
    if found:
        return found, ""
    try:
        return transcript_so_far(agent, tapes_of(kept.records, agent.id)), ""
    except (DiffersError, NotReplayableError) as error:
        return (), str(error)
    except (ManifestError, ValueError, TypeError, KeyError) as error:
        return (), f"it cannot be made again: {told(error)}"


def _lines_of(message: ChatMessage) -> Iterator[str]:
    document = message_as_json(message)
    match message:
        case AssistantMessage():
            if message.text:
                yield from _said("assistant", message.text)
            for call in message.tool_calls:
                yield from _said("call", f"{call.name}({json.dumps(call.input, default=repr)})")
        case ToolMessage():
            sign = " (error)" if message.result.is_error else ""
            yield from _said(f"{message.name}{sign}", document["content"])
        case _:
            yield from _said("user", document["content"])


def _said(who: str, text: str) -> Iterator[str]:
    first, *rest = safe(text).split("\n")
    yield f"{one_line(who)}: {first}"
    for line in rest:
        yield f"    {line}"
