"""The tape of one run of the loop: what it observes is written before it is acted on, and found again.

The loop is pure, so that the same observations lead to the same effects. A run that is resumed is fed what
its tape holds, and goes on from there. Of tool calls the tape holds each one's beginning and each one's
result: those that have both are not made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs

from agentpool._core.effects import (
    Act,
    Collect,
    Compact,
    Effect,
    Observation,
    Reason,
    Recall,
    Remember,
)
from agentpool._core.messages import ToolCall, ToolResult
from agentpool._core.past import PastCall, PastLoop
from agentpool._core.redaction import has_placeholder
from agentpool._kernel.agent_journal import AgentJournal
from agentpool._kernel.places import Op, Place, place_here
from agentpool._kernel.protection import protect_module
from agentpool._loop.observed import observation_from_data, observation_to_data

MadeData: TypeAlias = Sequence[Any]
"""What is called in the place of what a model said: a call as data, or nothing."""


NOTHING_SEEN: Mapping[str, str] = MappingProxyType({})


@attrs.define(eq=False)
class Tape:
    """Writes what one run of the loop observes, and gives what it had observed before.

    Attributes:
      key: where in its agent the run stands.
    """

    _journal: AgentJournal
    _op: Op
    _place: Place
    _past: PastLoop
    _read: int = 0
    _numbered: int = 0
    _collected: int = 0
    _is_replayed: bool = False
    _observed: int = 0

    @classmethod
    def of(cls, journal: AgentJournal) -> Tape | None:
        """Return the tape of a run that the calling task begins; None if no agent of the journal runs it."""
        place, op = place_here(), journal.draw()
        if place is None or op is None:
            return None
        return cls(journal, op, place, place.past.loops.get(op.key) or PastLoop())

    @property
    def key(self) -> str:
        """Where in its agent the run stands."""
        return self._op.key

    @property
    def has_begun(self) -> bool:
        """Whether the run had begun before its agent was resumed."""
        return self._past.begun is not None

    def begin(self, begun: Mapping[str, Any]) -> None:
        """Write what the run begins with, or compare it with what it began with.

        Args:
          begun: `of_run` made it.

        Raises:
          ReplayMismatchError: if its manifest, its query or its history is another one than it was.
        """
        data = {name: self._encoded(each) for name, each in begun.items()}
        before = self._past.begun
        if before is None:
            self._journal.append("begun", self._op.record.id, {"loop": self.key, **data})
            return
        for name in ("manifest", "query", "history"):
            if not _is_same(before[name], data[name]):
                raise self._mismatch(f"its loop has another {name} now than it had then")

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
        self._collected += kind == "collected"
        self._observed += 1
        self._is_replayed = True
        decode = partial(self._journal.decoded, op=self._op)
        agent_id = self._op.record.id
        return observation_from_data(data, agent_id, decode, lambda: self._results_of(effect))

    def _results_of(self, effect: Effect) -> Sequence[ToolResult | None]:
        if not isinstance(effect, Act):
            return ()
        return [self._result_of(call) for _, call in self.numbered(effect.calls)]

    def observed(self, observation: Observation) -> None:
        """Write what an effect came to."""
        self._is_replayed = False
        self._observed += 1
        data = observation_to_data(observation, self._encoded)
        if data is not None:
            self._journal.append("observed", self._op.record.id, {"loop": self.key, **data})

    def place_of_hooks(self, *, is_over: bool = False) -> Place:
        """Return the place of what hooks around a model call do with their agent's verbs.

        Args:
          is_over: whether it is the one that was observed last, and not the next.
        """
        return self._place.inside(f"{self.key}m{self._observed - is_over}")

    # -- tool calls --------------------------------------------------------------------------------

    def numbered(self, calls: Sequence[ToolCall]) -> list[tuple[int, PastCall | None]]:
        """Number the calls of a turn, and return what is known of each."""
        first = self._numbered
        self._numbered += len(calls)
        known = [(first + index, self._past.calls.get(first + index)) for index in range(len(calls))]
        for call, (number, past) in zip(calls, known, strict=True):
            if past is not None and not _is_same(past.call, self._encoded(call)):
                raise self._mismatch(f"its tool call {number} is another one now: {call.name}")
        return known

    async def called(self, calls: Iterable[tuple[int, ToolCall]], made: MadeData | None = None) -> None:
        """Write that tool calls begin, and wait until that, and all before it, is kept.

        Args:
          calls: their numbers, and what the model said.
          made: what `made_to_data` gave, if another call is made in the place of one.

        Raises:
          JournalError: if it cannot be written.

        Checkpoint: as `AgentJournal.commit`.
        """
        for number, call in calls:
            data = {"loop": self.key, "n": number, "call": self._encoded(call)}
            self._journal.append("called", self._op.record.id, _with(data, made))
        await self._journal.commit()

    def has_lost_secret(self, call: ToolCall) -> bool:
        """Whether a call came out of the journal, where it lost a secret, so that it cannot be made."""
        return self._is_replayed and has_placeholder(call.input)

    def had_tool(self, name: str) -> bool:
        """Whether the run had a tool of a name when it began, before it was resumed."""
        begun = self._past.begun
        if begun is None:
            return False
        return any(each.name == name for each in self._journal.decoded(begun["tools"], self._op))

    def call_key(self, number: int) -> str:
        """Return what names a call in all the world; it is the same whenever the call is made again."""
        return f"{self._journal.run_id}-{self._op.record.id}-{self._op.life}-{self.key}t{number}"

    def place_of_call(self, number: int) -> Place:
        """Return the place of what a tool call does with its agent's verbs."""
        return self._place.inside(f"{self.key}t{number}")

    def place_of_collecting(self) -> Place:
        """Return the place of what waits for the agents that the model started."""
        self._collected += 1
        return self._place.inside(f"{self.key}tc{self._collected}")

    def returned(
        self,
        number: int,
        result: ToolResult,
        made: MadeData | None = None,
        seen: Mapping[str, str] = NOTHING_SEEN,
    ) -> None:
        """Write what a tool call came to.

        Args:
          number: which one of the run.
          result: what it came to.
          made: as for `called`.
          seen: the versions that the agent has seen of things, as far as they were not told before.
        """
        data = {"loop": self.key, "n": number, "result": self._encoded(result)}
        if seen:
            data["seen"] = dict(seen)
        self._journal.append("returned", self._op.record.id, _with(data, made))

    def made_to_data(self, call: ToolCall | None) -> MadeData:
        """Return what is called in the place of what a model said, as records tell it."""
        return [] if call is None else [self._encoded(call)]

    def made_of(self, call: PastCall) -> ToolCall | None:
        """Return what was called in the place of what the model had said; None if nothing was.

        Raises:
          ReplayMismatchError: if it cannot be read any more.
        """
        made = [self._journal.decoded(each, self._op) for each in call.made or ()]
        return made[0] if made else None

    def not_made(self, number: int, call: ToolCall, result: ToolResult) -> None:
        """Write what a tool call came to that never began: in one step, so that no crash parts the two."""
        data = {"loop": self.key, "n": number, "call": self._encoded(call)}
        self._journal.append("called", self._op.record.id, data)
        self.returned(number, result, [])

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


def _with(data: dict[str, Any], made: MadeData | None) -> dict[str, Any]:
    return data if made is None else {**data, "made": list(made)}


def _is_same(then: Any, now: Any) -> bool:
    """Whether values, as data, are the same; each record has placeholders of its own for secrets."""
    if then == now:
        return True
    if isinstance(then, dict) and isinstance(now, dict):
        return then.keys() == now.keys() and all(_is_same(then[key], now[key]) for key in then)
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(_is_same, then, now))
    return has_placeholder(then) or has_placeholder(now)


_FITTING: dict[type[Effect], tuple[str, ...]] = {
    Recall: ("recalled",),
    Reason: ("replied", "failed", "idled"),
    Compact: ("compacted", "failed", "idled"),
    Act: ("idled",),
    Collect: ("collected",),
    Remember: ("remembered",),
}


protect_module(globals())
