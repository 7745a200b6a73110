"""The loop guard: what stops an agent that goes on for too long, costs too much, or goes in circles.

It is a frozen value inside the loop's state; each of its questions is answered by a verdict.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs
from attrs.validators import ge, optional

from agentpool._core.messages import ToolCall, ToolResult
from agentpool._core.usage import NOTHING_USED, TokenUsage, UsageSum
from agentpool._core.value import value

if TYPE_CHECKING:
    from agentpool._core.manifest import ResourceQuota

LONGEST_CYCLE = 4
"""Cycles of up to this many turns are seen: A-A, A-B-A-B, up to A-B-C-D-A-B-C-D."""


Limit: TypeAlias = Literal["iterations", "tool_calls", "tokens", "cost", "idle"]
"""What bounds one run of an agent, and may end it."""


# -- verdicts ------------------------------------------------------------------


@attrs.frozen
class Allow:
    """Go on."""


@attrs.frozen
class Warn:
    """Go on, but tell the model and whoever watches."""

    reason: str


@attrs.frozen
class Block:
    """Do not run these calls; tell the model why."""

    reason: str


@attrs.frozen
class Halt:
    """Stop the agent.

    Attributes:
      reason: why, and what to do about it.
      limit: the limit that was reached; None if it is none, but the agent goes in circles.
    """

    reason: str
    limit: Limit | None = None


Verdict: TypeAlias = Allow | Warn | Block | Halt

ALLOW = Allow()


# -- what a turn did -----------------------------------------------------------

_Wish: TypeAlias = tuple[tuple[str, Mapping[str, Any] | str], ...]
"""(tool, arguments, or what is wrong with them) of each call of a turn, in order."""

_Turn: TypeAlias = tuple[_Wish, tuple[ToolResult, ...]]
"""What a turn's calls were, and what they came to."""


_NO_RUNS = (0,) * LONGEST_CYCLE


def _wish(calls: Sequence[ToolCall]) -> _Wish:
    return tuple([(call.name, call.problem or call.input) for call in calls])


@attrs.frozen(kw_only=True)
class GuardLimits:
    """The bounds of a guard.

    Attributes:
      max_iterations: model calls at the most.
      max_tool_calls: tool calls at the most; a turn that would pass it is not run at all.
      max_tokens: input and output tokens together, over all model calls; None for no bound.
      max_cost_usd: money over all model calls; None for no bound.
      warn_after: the round of a cycle from which on the model is warned.
      block_after: the round of a cycle that is not run any more; the one after it halts the agent.
    """

    max_iterations: int = attrs.field(default=20, validator=ge(1))
    max_tool_calls: int = attrs.field(default=50, validator=ge(0))
    max_tokens: int | None = attrs.field(default=None, validator=optional(ge(1)))
    max_cost_usd: float | None = attrs.field(default=None, validator=optional(ge(0)))
    warn_after: int = attrs.field(default=3, validator=ge(2))
    block_after: int = attrs.field(default=5, validator=ge(2))

    @classmethod
    def of(cls, quota: ResourceQuota) -> GuardLimits:
        """Return the bounds of a manifest's `[resources]`."""
        return _limits_of(quota)


@functools.lru_cache(maxsize=64)  # the agents of a pool have few manifests; saves each 2.3 µs
def _limits_of(quota: ResourceQuota) -> GuardLimits:
    return GuardLimits(
        max_iterations=quota.max_iterations,
        max_tool_calls=quota.max_tool_calls,
        max_tokens=quota.max_tokens_budget,
        max_cost_usd=quota.max_cost_usd,
    )


@value
class LoopGuard:
    """Counts what an agent does, remembers its last turns, and says what may come next.

    Repetition is a cycle over (tool, arguments, result) of whole turns, of up to 4 turns: asking
    the same again while the results change (polling) is none, A-B-A-B is one. The turn that would
    complete a cycle for the third time is warned about, from the fifth round on turns are not run,
    and the turn that would complete a sixth round halts the agent (see `GuardLimits`).

    Attributes:
      limits: the bounds.
      iterations: model calls so far.
      tool_calls: tool calls so far, without those that were not run.
    """

    limits: GuardLimits = GuardLimits()
    iterations: int = 0
    tool_calls: int = 0
    _used: UsageSum = NOTHING_USED
    _turns: tuple[_Turn, ...] = ()
    # _runs[p - 1]: how many of the last turns were the same as the one p turns before them.
    _runs: tuple[int, ...] = _NO_RUNS

    @property
    def usage(self) -> TokenUsage:
        """What the model calls used so far."""
        return self._used.usage

    # -- questions ----------------------------------------------------------

    def before_reason(self) -> Allow | Halt:
        """Whether the model may be asked once more."""
        limits, used = self.limits, self._used
        if self.iterations >= limits.max_iterations:
            return Halt(
                f"{self.iterations} turns brought no final answer, and more are not allowed:"
                " raise max_iterations under [resources] if the task needs them",
                "iterations",
            )
        if limits.max_tokens is not None and used.total_tokens >= limits.max_tokens:
            return Halt(
                f"{used.total_tokens} tokens were used of {limits.max_tokens}:"
                " raise max_tokens_budget under [resources] if the task needs more",
                "tokens",
            )
        # A bound of 0 allows models that are free.
        if limits.max_cost_usd is not None and 0 < used.cost_usd >= limits.max_cost_usd:
            return Halt(
                f"{used.cost_usd:g} USD were spent of {limits.max_cost_usd:g}:"
                " raise max_cost_usd under [resources] if the task is worth more",
                "cost",
            )
        return ALLOW

    def before_act(self, calls: Sequence[ToolCall]) -> Verdict:
        """Whether the calls of a turn may be run."""
        limits = self.limits
        if self.tool_calls + len(calls) > limits.max_tool_calls:
            return Halt(
                f"{self.tool_calls} tool calls were made and {len(calls)} more wished for, of"
                f" {limits.max_tool_calls}: raise max_tool_calls under [resources] if the task needs them",
                "tool_calls",
            )
        period, covered = self._cycle(calls)
        rounds = covered // period
        if rounds < limits.warn_after and rounds < limits.block_after:
            return ALLOW
        if rounds > limits.block_after:
            return Halt(f"it repeats {_pattern(calls, period)}, {rounds} times by now, and would not stop")
        if rounds == limits.block_after:
            return Block(
                f"Not run: you repeat {_pattern(calls, period)}, {rounds} times by now."
                " Do something else, or give your final answer."
            )
        # In the middle of a round nothing is said: it was, when the last round was complete.
        if rounds >= limits.warn_after and covered % period == 0:
            return Warn(
                f"You repeated {_pattern(calls, period)}, {rounds} times by now."
                " If nothing has changed, do something else, or give your final answer."
            )
        return ALLOW

    @property
    def tokens_left(self) -> int | None:
        """How many tokens the model may still use; None for no bound."""
        if self.limits.max_tokens is None:
            return None
        return max(0, self.limits.max_tokens - self._used.total_tokens)

    @property
    def cost_left(self) -> float | None:
        """How many US dollars the model calls may still cost; None for no bound."""
        limit = self.limits.max_cost_usd
        return None if limit is None else max(0.0, limit - self._used.cost_usd)

    # -- what happened ---------------------------------------------------------

    def after_reason(self, usage: TokenUsage) -> LoopGuard:
        """Count a model call."""
        used = self._used.plus(usage)
        return LoopGuard(self.limits, self.iterations + 1, self.tool_calls, used, self._turns, self._runs)

    def after_summary(self, usage: TokenUsage) -> LoopGuard:
        """Count a model call that summed the conversation up: it is no turn."""
        return attrs.evolve(self, used=self._used.plus(usage))

    def after_act(self, calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> LoopGuard:
        """Count and remember the calls of a turn and what they came to."""
        return self._remembered((_wish(calls), tuple(results)), self.tool_calls + len(calls))

    def after_block(self, calls: Sequence[ToolCall]) -> LoopGuard:
        """Remember calls that were blocked, as if they had brought the same once more."""
        period, _ = self._cycle(calls)
        return self._remembered(self._turns[-period], self.tool_calls)

    # -- repetition ------------------------------------------------------------

    def _cycle(self, calls: Sequence[ToolCall]) -> tuple[int, int]:
        """Return the cycle that the calls go on with: its length, and how many turns it covers.

        The one with the most rounds counts; no cycle is (1, 1).
        """
        best = (1, 1)
        if not self._turns:
            return best
        wish = _wish(calls)
        for period, turn in enumerate(reversed(self._turns), start=1):
            if turn[0] == wish:
                covered = self._runs[period - 1] + period + 1
                if covered // period > best[1] // best[0]:
                    best = (period, covered)
        return best

    def _remembered(self, turn: _Turn, tool_calls: int) -> LoopGuard:
        turns, runs = self._turns, _NO_RUNS
        if turn in turns:
            runs = tuple(
                run + 1 if period <= len(turns) and turns[-period] == turn else 0
                for period, run in enumerate(self._runs, start=1)
            )
        turns = (*turns[1 - LONGEST_CYCLE :], turn)
        return LoopGuard(self.limits, self.iterations, tool_calls, self._used, turns, runs)


def _pattern(calls: Sequence[ToolCall], period: int) -> str:
    names = " and ".join(dict.fromkeys(call.name for call in calls))
    if period == 1:
        return f"the same call of {names} with the same result"
    return f"a cycle of {period} turns (with {names} in it) with the same results"
