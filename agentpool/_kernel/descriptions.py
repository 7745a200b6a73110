"""What an agent runs, and how it ended, as data in a journal."""

from __future__ import annotations

from functools import partial
from typing import Any, assert_never

import attrs

from agentpool._core.errors import ReplayMismatchError
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.text import shown, told
from agentpool._core.usage import TokenUsage
from agentpool._kernel.protection import call_unprotected, protect_module
from agentpool._objects import (
    NotDataError,
    UnreadableDataError,
    error_to_data,
    found_again,
    object_from_data,
    object_to_data,
    reference_of,
)
from agentpool.abc import ResumableAgent

# -- what it runs -------------------------------------------------------------------------------


def description_of(fn: Any) -> Any:
    """Return what finds an agent again, as data; None if it cannot be found again.

    A function is found by its name, if it stands at the top of a module; an object by what it says of
    itself (`ResumableAgent`); a partial by what it is a partial of.
    """
    try:
        return call_unprotected(agent_to_data, fn)
    except NotDataError:
        return None


def agent_to_data(fn: Any) -> Any:
    """As `description_of`, for what an agent is made of.

    Raises:
      NotDataError: if it cannot be found again.
    """
    if isinstance(fn, partial):
        inner = agent_to_data(fn.func)
        return {"partial": inner, "args": object_to_data(fn.args), "keywords": object_to_data(fn.keywords)}
    kind = reference_of(type(fn))
    if kind is not None and isinstance(fn, ResumableAgent):
        return {"kind": kind, "data": fn.to_journal()}
    reference = reference_of(fn)
    if reference is None:
        raise NotDataError(f"{shown(fn)} is not found by its name: define it at the top of a module")
    return {"function": reference}


def described_agent(data: Any) -> Any:
    """Return the agent of which `description_of`, or `agent_to_data`, made this.

    Raises:
      UnreadableDataError: if it is not there any more.
    """
    if "partial" in data:
        inner = described_agent(data["partial"])
        return partial(inner, *object_from_data(data["args"]), **object_from_data(data["keywords"]))
    if "function" in data:
        return found_again(data["function"])
    kind = found_again(data["kind"])
    if not hasattr(kind, "from_journal"):
        raise UnreadableDataError(f"{data['kind']} cannot be made from a journal any more")
    return kind.from_journal(data["data"])


# -- how it ended -------------------------------------------------------------------------------


def outcome_to_data(outcome: AnyOutcome) -> dict[str, Any]:
    """Return an outcome as data, without what the journal tells elsewhere."""
    data: dict[str, Any] = {
        "duration": outcome.duration,
        "restarts": outcome.restarts,
        "usage": attrs.asdict(outcome.usage),
    }
    match outcome:
        case Completed():
            data.update(_value_to_data(outcome.value))
        case Failed():
            data["error"] = error_to_data(outcome.error)
        case Aborted():
            data["aborted"] = outcome.reason
        case _:
            assert_never(outcome)
    return data


def _value_to_data(value: Any) -> dict[str, Any]:
    try:
        return {"value": call_unprotected(object_to_data, value)}
    except BaseException as error:  # in the middle of bookkeeping: nothing of a user's may break it
        return {"unkept": f"{shown(value)} ({told(error)})"}


def outcome_from_data(
    data: Any, agent_id: AgentId, name: str, parent_id: AgentId, started_at: float
) -> AnyOutcome:
    """Return the outcome of which `outcome_to_data` made this.

    An agent whose value could not be kept, or cannot be read any more, has failed with
    `ReplayMismatchError`: it is not run again, and another value than it had is not made up.
    """
    try:
        return _outcome_from_data(data, agent_id, name, parent_id, started_at)
    except UnreadableDataError as error:
        problem = str(error)
    common = {key: data[key] for key in ("duration", "restarts")}
    mismatch = ReplayMismatchError(agent_id, name, "its outcome", problem)
    return Failed(
        agent_id=agent_id,
        name=name,
        parent_id=parent_id,
        usage=TokenUsage(**data["usage"]),
        started_at=started_at,
        error=mismatch,
        **common,
    )


def _outcome_from_data(
    data: Any, agent_id: AgentId, name: str, parent_id: AgentId, started_at: float
) -> AnyOutcome:
    common: dict[str, Any] = {
        "agent_id": agent_id,
        "name": name,
        "parent_id": parent_id,
        "usage": TokenUsage(**data["usage"]),
        "started_at": started_at,
        "duration": data["duration"],
        "restarts": data["restarts"],
    }
    if "error" in data:
        return Failed(**common, error=object_from_data(data["error"]))
    if "aborted" in data:
        return Aborted(**common, reason=data["aborted"])
    if "unkept" in data:
        raise UnreadableDataError(
            f"it returned {data['unkept']}, which could not be kept: return data, or an object of an attrs"
            " class, a dataclass or a pydantic model"
        )
    return Completed(**common, value=object_from_data(data["value"]))


protect_module(globals())
