"""The tape of one run of the loop: what it observes is written before it is acted on, and found again.

The loop is pure, so that the same observations lead to the same effects. A run that is resumed is fed what
its tape holds, and goes on from there. Of tool calls the tape holds each one's beginning and each one's
result: those that have both are not made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, assert_never

import attrs

from agentpool._core.effects import (
    Act,
    Acted,
    Compact,
    Compacted,
    DriverFailed,
    Effect,
    Idled,
    Observation,
    Reason,
    Recall,
    Recalled,
    Remember,
    Remembered,
    Replied,
)
from agentpool._core.messages import ToolCall, ToolResult
from agentpool._core.past import PastCall, PastLoop
from agentpool._core.redaction import has_placeholder
from agentpool._kernel.journal import PoolJournal
from agentpool._kernel.places import Op, Place, place_here
from agentpool._kernel.protection import protect_module
from agentpool._objects import error_to_data


@attrs.frozen
class RecalledText:
    """What memory gave, as a tape holds it."""

    content: str


@attrs.define(eq=False)
class Tape:
    """Writes what one run of the loop observes, and gives what it had observed before.

    Attributes:
      key: where in its agent the run stands.
    """

    _journal: PoolJournal
    _op: Op
    _place: Place
    _past: PastLoop
    _window: int | None = None
    _read: int = 0
    _numbered: int = 0
    _is_begun: bool = False

    @classmethod
    def of(cls, journal: PoolJournal, window: int | None = None) -> Tape | None:
        """Return the tape of a run that the calling task begins; None if no agent of the journal runs it.

        Args:
          window: the context window of the run's driver, without which it could not be replayed.
        """
        place, op = place_here(), journal.draw()
        if place is None or op is None:
            return None
        return cls(journal, op, place, place.past.loops.get(op.key) or PastLoop(), window)

    @property
    def key(self) -> str:
        """Where in its agent the run stands."""
        return self._op.key

    # -- what was observed -------------------------------------------------------------------------

    def observed_before(self, effect: Effect) -> Observation | None:
        """Return what an effect came to before the agent was resumed; None if that is not known.

        Raises:
          ReplayMismatchError: if something else had been done then.
        """
        if self._read == len(self._past.observed):
            return None
        data = self._past.observed[self._read]
        kind = data["is"]
        if isinstance(effect, Act) and kind != "idled":
            return None  # its results are told with its calls
        if kind not in _FITTING[type(effect)]:
            raise self._mismatch(f"its loop comes to {type(effect).__name__} now, and had {kind!r} then")
        self._read += 1
        self._is_begun = True
        return self._read_back(data, effect)

    def _read_back(self, data: Any, effect: Effect) -> Observation:
        match data["is"]:
            case "recalled":
                messages = [self._journal.message_of(message, self._op) for message in data["messages"]]
                return Recalled([RecalledText(text) for text in data["fragments"]], messages)
            case "replied":
                return Replied(self._journal.decoded(data["completion"], self._op))
            case "compacted":
                return Compacted(self._journal.decoded(data["completion"], self._op))
            case "failed":
                return DriverFailed(self._journal.decoded(data["error"], self._op))
            case "idled":
                return Idled(data["seconds"], self._results_of(effect))
            case _:
                return Remembered()

    def _results_of(self, effect: Effect) -> Sequence[ToolResult | None]:
        if not isinstance(effect, Act):
            return ()
        return [self._result_of(call) for _, call in self.numbered(effect.calls)]

    def observed(self, observation: Observation) -> None:
        """Write what an effect came to."""
        data: dict[str, Any]
        match observation:
            case Recalled():
                data = {
                    "is": "recalled",
                    "fragments": [fragment.content for fragment in observation.fragments],
                    "messages": [self._journal.message_to_data(each) for each in observation.messages],
                }
            case Replied():
                data = {"is": "replied", "completion": self._encoded(observation.completion)}
            case Compacted():
                data = {"is": "compacted", "completion": self._encoded(observation.completion)}
            case DriverFailed():
                data = {"is": "failed", "error": error_to_data(observation.error)}
            case Idled():
                data = {"is": "idled", "seconds": observation.seconds}
            case Remembered():
                data = {"is": "remembered"}
            case Acted():
                return  # each result was written by itself
            case _:
                assert_never(observation)
        if not self._is_begun:
            self._is_begun = True
            data["window"] = self._window
        self._journal.append("observed", self._op.record.id, {"loop": self.key, **data})

    # -- tool calls --------------------------------------------------------------------------------

    def numbered(self, calls: Sequence[ToolCall]) -> list[tuple[int, PastCall | None]]:
        """Number the calls of a turn, and return what is known of each."""
        first = self._numbered
        self._numbered += len(calls)
        known = [(first + index, self._past.calls.get(first + index)) for index in range(len(calls))]
        for call, (number, past) in zip(calls, known, strict=True):
            if past is not None and past.call != self._encoded(call):
                raise self._mismatch(f"its tool call {number} is another one now: {call.name}")
        return known

    async def called(self, calls: Iterable[tuple[int, ToolCall]]) -> None:
        """Write that tool calls begin, and wait until that, and all before it, is kept.

        Raises:
          JournalError: if it cannot be written.

        Checkpoint: as `PoolJournal.commit`.
        """
        for number, call in calls:
            data = {"loop": self.key, "n": number, "call": self._encoded(call)}
            self._journal.append("called", self._op.record.id, data)
        await self._journal.commit()

    def holds_placeholder(self, call: ToolCall) -> bool:
        """Whether something stands in the place of a secret in a call, so that it cannot be made again."""
        return has_placeholder(call.input)

    def call_key(self, number: int) -> str:
        """Return what names a call in all the world; it is the same whenever the call is made again."""
        return f"{self._journal.run_id}-{self._op.record.id}-{self._op.life}-{self.key}t{number}"

    def place_of_call(self, number: int) -> Place:
        """Return the place of what a tool call does with its agent's verbs."""
        return self._place.inside(f"{self.key}t{number}")

    def returned(self, number: int, result: ToolResult) -> None:
        """Write what a tool call came to."""
        data = {"loop": self.key, "n": number, "result": self._encoded(result)}
        self._journal.append("returned", self._op.record.id, data)

    def result_of(self, call: PastCall) -> ToolResult:
        """Return what a tool call had come to.

        Raises:
          ReplayMismatchError: if it cannot be read any more.
        """
        result: ToolResult = self._journal.decoded(call.result, self._op)
        return result

    def _result_of(self, call: PastCall | None) -> ToolResult | None:
        return None if call is None or call.result is None else self.result_of(call)

    # -- values ------------------------------------------------------------------------------------

    def _encoded(self, value: Any) -> Any:
        return self._journal.encoded(value, "what an agent observed")

    def _mismatch(self, problem: str) -> Exception:
        return self._op.mismatch(problem)


_FITTING: dict[type[Effect], tuple[str, ...]] = {
    Recall: ("recalled",),
    Reason: ("replied", "failed", "idled"),
    Compact: ("compacted", "failed", "idled"),
    Act: ("idled",),
    Remember: ("remembered",),
}


protect_module(globals())
