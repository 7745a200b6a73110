"""Feeds a tape through the loop again: without a driver, without tools, without time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from agentpool._core.effects import Act, Acted, Effect, Finish, Halt, IllegalObservationError, Observation
from agentpool._core.errors import ReplayMismatchError
from agentpool._core.loop import advance, begin
from agentpool._core.messages import ToolCall, ToolResult
from agentpool._core.outputs import OutputSpec
from agentpool._core.past import PastLoop
from agentpool._core.schemas import schema_output
from agentpool._core.states import LoopState
from agentpool._core.tapes import RecordedLoop
from agentpool._loop.observed import observation_from_data
from agentpool._objects import UnreadableDataError, found_again, object_from_data


@attrs.frozen
class ReplayedStep:
    """One step of a run of the loop.

    Attributes:
      number: counts the steps, from 1.
      state: where the run stood before it.
      effect: what the loop wanted done.
      observation: what came of it; None of the last step, whose effect is the end, or of what the tape
        does not tell any more.
    """

    number: int
    state: LoopState
    effect: Effect
    observation: Observation | None


def replay(recorded: RecordedLoop, name: str) -> Iterator[ReplayedStep]:
    """Yield the steps of a run of the loop, as its tape has them.

    Args:
      recorded: the tape.
      name: of the agent, for errors.

    Raises:
      ReplayMismatchError: if the tape does not tell how the run began, or what it tells makes no sense to
        this loop; with the step.
    """
    begun = recorded.loop.begun
    if begun is None:
        raise _mismatch(recorded, name, 0, "the journal does not tell how its loop began")
    try:
        state, effect = _begin(begun)
    except (UnreadableDataError, ValueError, TypeError, KeyError) as error:
        raise _mismatch(recorded, name, 0, f"its loop cannot begin: {error}") from error
    reader = _Reader(recorded)
    number = 0
    while True:
        number += 1
        try:
            observation = None if isinstance(effect, (Finish, Halt)) else reader.next_of(effect)
        except UnreadableDataError as error:
            raise _mismatch(recorded, name, number, str(error)) from error
        except _OtherCallError as error:
            raise _mismatch(recorded, name, number, str(error)) from error
        yield ReplayedStep(number, state, effect, observation)
        if observation is None:
            return
        try:
            state, effect = advance(state, observation)
        except IllegalObservationError as error:
            raise _mismatch(recorded, name, number, str(error)) from error


def _begin(begun: Any) -> tuple[LoopState, Effect]:
    values = {
        key: object_from_data(begun[key])
        for key in ("manifest", "query", "history", "tools", "context_window", "output_retries")
    }
    return begin(
        values["manifest"],
        values["query"],
        values["history"],
        tools=values["tools"],
        context_window=values["context_window"],
        output=_output(begun["output_type"], values["manifest"], values["output_retries"]),
        handoffs=begun.get("handoffs", ()),
        collects=begun.get("collects", False),
    )


def _output(output_type: str | None, manifest: Any, retries: int) -> OutputSpec | None:
    if output_type is not None:
        found = found_again(output_type)
        if found is str:
            return None
        from agentpool._loop.output import output_spec  # needs pydantic

        return output_spec(found, retries)
    schema = manifest.model.output_schema
    return None if schema is None else schema_output(schema, retries)


class _OtherCallError(Exception):
    """The loop wishes for another tool call than the tape tells of."""


class _Reader:
    """Reads one tape from its beginning to its end."""

    def __init__(self, recorded: RecordedLoop) -> None:
        self._agent_id = recorded.agent_id
        self._loop: PastLoop = recorded.loop
        self._read = 0
        self._calls = 0

    def next_of(self, effect: Effect) -> Observation | None:
        """Return what an effect came to; None if the tape does not tell."""
        observed = self._loop.observed
        data = observed[self._read] if self._read < len(observed) else None
        if isinstance(effect, Act) and (data is None or data["is"] != "idled"):
            first = self._calls
            results = self._results_of(effect)
            if None in results:
                return None
            return Acted([each for each in results if each is not None], self._made_of(effect, first))
        if data is None:
            return None
        self._read += 1
        return observation_from_data(
            data, self._agent_id, object_from_data, lambda: self._idle_results(effect)
        )

    def _idle_results(self, effect: Effect) -> Sequence[ToolResult | None]:
        return self._results_of(effect) if isinstance(effect, Act) else ()

    def _made_of(self, effect: Act, first: int) -> dict[int, ToolCall | None]:
        """Return what was called in the place of what the model had said."""
        made: dict[int, ToolCall | None] = {}
        for index in range(len(effect.calls)):
            data = self._loop.calls[first + index].made
            if data is not None:
                made[index] = object_from_data(data[0]) if data else None
        return made

    def _results_of(self, effect: Act) -> list[ToolResult | None]:
        results: list[ToolResult | None] = []
        for call in effect.calls:
            past = self._loop.calls.get(self._calls)
            self._calls += 1
            if past is not None and past.call["$object"][1]["name"] != call.name:
                raise _OtherCallError(f"it calls {call.name!r} now, and called another tool then")
            known = past is not None and past.result is not None
            results.append(object_from_data(past.result) if past is not None and known else None)
        return results


def _mismatch(recorded: RecordedLoop, name: str, step: int, problem: str) -> ReplayMismatchError:
    return ReplayMismatchError(recorded.agent_id, name, f"step {step} of its loop", problem)
