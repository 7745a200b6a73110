"""Replay: what the loop of an agent observed is fed through the pure loop again, without a model.

What is not replayed: code of functions, and what budgets would say. A loop that plain code called by a
`ModelAgent` of its own is not known to the journal, and only told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from agentpool._core.effects import (
    Act,
    Acted,
    Compact,
    Compacted,
    DriverFailed,
    Effect,
    Finish,
    Halt,
    Idled,
    IllegalObservationError,
    Observation,
    Reason,
    Recall,
    Recalled,
    Remember,
    Remembered,
    Replied,
)
from agentpool._core.loop import advance, begin
from agentpool._core.messages import AgentId, AgentMessage, ChatMessage, ToolResult
from agentpool._core.past import Data, PastAgent
from agentpool._core.records import JournalRecord
from agentpool._core.states import LoopState
from agentpool._kernel.descriptions import described_agent
from agentpool._loop.model_agent import ModelAgent, SpawnConfig
from agentpool._loop.tape import RecalledText
from agentpool._objects import UnreadableDataError, object_from_data, object_to_data


class DiffersError(Exception):
    """The loop does something else now than it did."""


class NotReplayableError(Exception):
    """An agent, or one run of its loop, cannot be replayed; the text says why."""


@attrs.define
class LoopTape:
    """What one run of the loop observed.

    Attributes:
      life: of the agent.
      key: where in its agent it stands.
      observed: what it was told, each with the position of its record.
      calls, results: its tool calls and their results, each with the position of its record, by number.
    """

    life: int
    key: str
    observed: list[tuple[int, Data]] = attrs.field(factory=list)
    calls: dict[int, tuple[int, Data]] = attrs.field(factory=dict)
    results: dict[int, tuple[int, Data]] = attrs.field(factory=dict)

    @property
    def window(self) -> int | None:
        """The context window of its driver."""
        return self.observed[0][1].get("window") if self.observed else None


def tapes_of(records: Iterable[JournalRecord], agent_id: AgentId) -> list[LoopTape]:
    """Return the tapes of an agent, of all its lives, in the order in which they began."""
    tapes: dict[tuple[int, str], LoopTape] = {}
    life = 0
    for position, record in enumerate(records):
        if record.agent != agent_id:
            continue
        data = record.data
        if record.kind == "restarted":
            life = data["life"]
        if record.kind not in ("observed", "called", "returned"):
            continue
        tape = tapes.setdefault((life, data["loop"]), LoopTape(life, data["loop"]))
        if record.kind == "observed":
            tape.observed.append((position, data))
        elif record.kind == "called":
            tape.calls[data["n"]] = (position, data["call"])
        else:
            tape.results[data["n"]] = (position, data["result"])
    return list(tapes.values())


@attrs.frozen
class Replayed:
    """One step of a replay.

    Attributes:
      effect: what the loop wanted.
      observation: what it was told; None for the last step of a loop.
      state: where the loop stood before.
      position: of the last record of what it was told; -1 for the last step.
    """

    effect: Effect
    observation: Observation | None
    state: LoopState
    position: int = -1


def begin_again(agent: PastAgent, tape: LoopTape) -> tuple[LoopState, Effect]:
    """Return how a run of the loop began.

    Raises:
      NotReplayableError: if that is not known.
    """
    if agent.work is None:
        raise NotReplayableError(f"the journal does not tell what {agent.name} is")
    try:
        made = described_agent(agent.work["agent"])
        args: Sequence[Any] = object_from_data(agent.work["args"])
    except UnreadableDataError as error:
        raise NotReplayableError(str(error)) from error
    if isinstance(made, SpawnConfig):
        bound = made
    elif isinstance(made, ModelAgent) and args:
        bound = SpawnConfig(made.manifest, args[0], history=args[1] if len(args) > 1 else ())
    else:
        raise NotReplayableError("it is a function: its code decides what comes next")
    tools = made.build_tools(None)
    allowed = () if tools is None else tools.limited_to(made.manifest).definitions()
    return begin(
        made.manifest,
        bound.query,
        bound.history,
        tools=allowed,
        context_window=tape.window,
        output=made.output_spec(),
    )


def replayed(agent: PastAgent, tape: LoopTape) -> Iterator[Replayed]:
    """Yield the steps of one run of the loop, as the loop makes them now.

    The last one has no observation: the loop has ended there, or nothing more is known of it.

    Raises:
      NotReplayableError: if the run's beginning is not known.
      DiffersError: if the loop wants something else than it did.
    """
    state, effect = begin_again(agent, tape)
    feed = _Feed(agent.id, tape)
    while True:
        found = feed.answer_to(effect)
        if found is None:
            if feed.is_left and not isinstance(effect, Act):
                raise DiffersError(f"the loop ends with {type(effect).__name__}, and its journal goes on")
            yield Replayed(effect, None, state)
            return
        position, observation = found
        yield Replayed(effect, observation, state, position)
        try:
            state, effect = advance(state, observation)
        except IllegalObservationError as error:
            raise DiffersError(str(error)) from error


@attrs.define(eq=False)
class _Feed:
    """Gives what an effect came to."""

    _agent_id: AgentId
    _tape: LoopTape
    _read: int = 0
    _numbered: int = 0

    @property
    def is_left(self) -> bool:
        """Whether there is more on the tape."""
        return self._read < len(self._tape.observed)

    def answer_to(self, effect: Effect) -> tuple[int, Observation] | None:
        if isinstance(effect, Finish | Halt):
            return None
        if isinstance(effect, Act):
            return self._acted(effect)
        if not self.is_left:
            return None
        position, data = self._tape.observed[self._read]
        if data["is"] not in _FITTING[type(effect)]:
            raise DiffersError(f"the loop comes to {type(effect).__name__} now, and had {data['is']!r} then")
        self._read += 1
        return position, self._read_back(data)

    def _acted(self, effect: Act) -> tuple[int, Observation] | None:
        numbers = range(self._numbered, self._numbered + len(effect.calls))
        self._numbered += len(effect.calls)
        results: list[ToolResult | None] = []
        positions = []
        for number, call in zip(numbers, effect.calls, strict=True):
            before = self._tape.calls.get(number)
            if before is not None and before[1] != object_to_data(call):
                raise DiffersError(f"its tool call {number + 1} is another one now: {call.name}")
            found = self._tape.results.get(number)
            results.append(None if found is None else object_from_data(found[1]))
            positions.append(-1 if found is None else found[0])
        if self.is_left and self._tape.observed[self._read][1]["is"] == "idled":
            position, data = self._tape.observed[self._read]
            self._read += 1
            return position, Idled(data["seconds"], results)
        whole = [result for result in results if result is not None]
        if len(whole) < len(results):
            return None
        return max(positions, default=-1), Acted(whole)

    def _read_back(self, data: Mapping[str, Any]) -> Observation:
        match data["is"]:
            case "recalled":
                return Recalled(
                    [RecalledText(text) for text in data["fragments"]],
                    [self._message(message) for message in data["messages"]],
                )
            case "replied":
                return Replied(object_from_data(data["completion"]))
            case "compacted":
                return Compacted(object_from_data(data["completion"]))
            case "failed":
                return DriverFailed(object_from_data(data["error"]))
            case "idled":
                return Idled(data["seconds"], ())
            case _:
                return Remembered()

    def _message(self, data: Mapping[str, Any]) -> AgentMessage:
        content = object_from_data(data["content"])
        return AgentMessage(
            data["from"], self._agent_id, content, data["id"], data["reply_to"], data["topic"]
        )


_FITTING: Mapping[type[Effect], tuple[str, ...]] = {
    Recall: ("recalled",),
    Reason: ("replied", "failed", "idled"),
    Compact: ("compacted", "failed", "idled"),
    Remember: ("remembered",),
}


def transcript_so_far(agent: PastAgent, tapes: Sequence[LoopTape]) -> Sequence[ChatMessage]:
    """Return the conversation of an agent's last run of the loop, as far as it is known.

    Raises:
      NotReplayableError, DiffersError: as `replayed`.
    """
    transcript: Sequence[ChatMessage] = ()
    if tapes:
        for step in replayed(agent, tapes[-1]):
            transcript = step.state.transcript
    return transcript
