from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpool._core.guard import ALLOW, Allow, Block, GuardLimits, Halt, LoopGuard, Verdict, Warn
from agentpool._core.manifest import ResourceQuota
from agentpool._core.messages import ToolCall, ToolResult
from agentpool._core.usage import TokenUsage

ENDLESS = GuardLimits(max_tool_calls=10_000)


def call(name: str) -> ToolCall:
    return ToolCall("id", name, {"of": name})


def verdicts(turns: Iterable[tuple[str, str]], limits: GuardLimits = ENDLESS) -> list[Verdict]:
    """Run turns of one call each, given as (tool, result), until one halts."""
    guard, seen = LoopGuard(limits), list[Verdict]()
    for name, result in turns:
        seen.append(guard.before_act([call(name)]))
        match seen[-1]:
            case Halt():
                return seen
            case Block():
                guard = guard.after_block([call(name)])
            case _:
                guard = guard.after_act([call(name)], [ToolResult(result)])
    return seen


def kinds(seen: Iterable[Verdict]) -> str:
    """Return the first letter of each verdict."""
    return "".join(type(verdict).__name__[0] for verdict in seen)


def cycle_of(names: str) -> Iterable[tuple[str, str]]:
    return itertools.islice(((name, "same") for name in itertools.cycle(names)), 100)


# -- quotas


def test_so_many_model_calls_are_allowed() -> None:
    guard = LoopGuard(GuardLimits(max_iterations=2))
    for _ in range(2):
        assert guard.before_reason() == Allow()
        guard = guard.after_reason(TokenUsage(1, 1))
    verdict = guard.before_reason()
    assert isinstance(verdict, Halt)
    assert "max_iterations" in verdict.reason
    assert guard.usage == TokenUsage(2, 2)


def test_so_many_tokens_are_allowed() -> None:
    guard = LoopGuard(GuardLimits(max_tokens=10))
    assert guard.tokens_left == 10
    guard = guard.after_reason(TokenUsage(6, 3))
    assert (guard.before_reason(), guard.tokens_left) == (ALLOW, 1)
    guard = guard.after_reason(TokenUsage(1, 1))
    verdict = guard.before_reason()
    assert isinstance(verdict, Halt)
    assert "max_tokens_budget" in verdict.reason
    assert guard.tokens_left == 0
    assert LoopGuard().tokens_left is None


def test_so_much_money_is_allowed() -> None:
    guard = LoopGuard(GuardLimits(max_cost_usd=0.5)).after_reason(TokenUsage(cost_usd=0.4))
    assert guard.before_reason() == ALLOW
    verdict = guard.after_reason(TokenUsage(cost_usd=0.1)).before_reason()
    assert isinstance(verdict, Halt)
    assert "max_cost_usd" in verdict.reason


def test_no_money_at_all_still_allows_free_models() -> None:
    guard = LoopGuard(GuardLimits(max_cost_usd=0))
    assert guard.after_reason(TokenUsage(9, 9)).before_reason() == ALLOW
    assert isinstance(guard.after_reason(TokenUsage(cost_usd=0.01)).before_reason(), Halt)


def test_so_many_tool_calls_are_allowed() -> None:
    guard = LoopGuard(GuardLimits(max_tool_calls=3)).after_act([call("a"), call("b")], [ToolResult("")] * 2)
    assert guard.tool_calls == 2
    assert guard.before_act([call("c")]) == ALLOW
    verdict = guard.before_act([call("c"), call("d")])
    assert isinstance(verdict, Halt)
    assert "max_tool_calls" in verdict.reason


def test_the_bounds_come_from_the_manifest() -> None:
    quota = ResourceQuota(max_iterations=1, max_tool_calls=2, max_tokens_budget=3, max_cost_usd=4.0)
    limits = GuardLimits.of(quota)
    assert limits == GuardLimits(max_iterations=1, max_tool_calls=2, max_tokens=3, max_cost_usd=4.0)


@pytest.mark.parametrize("name", ["max_iterations", "max_tokens", "warn_after", "block_after"])
def test_a_bound_of_zero_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        GuardLimits(**{name: 0})


# -- repetition


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("a", "AAWWBH"),
        ("ab", "AAAAAWAWABBH"),
        ("abc", "AAAAAAAAWAAWAABBBH"),
        ("abcd", "AAAAAAAAAAAWAAAWAAABBBBH"),
    ],
)
def test_a_cycle_is_warned_about_then_blocked_then_halted(names: str, expected: str) -> None:
    assert kinds(verdicts(cycle_of(names))) == expected


def test_a_cycle_of_five_is_not_seen() -> None:
    assert set(kinds(verdicts(cycle_of("abcde")))) == {"A"}


def test_polling_with_changing_results_is_allowed() -> None:
    assert set(kinds(verdicts(("poll", str(n)) for n in range(60)))) == {"A"}


def test_a_changed_result_begins_a_new_count() -> None:
    turns = [("poll", "no")] * 3 + [("poll", "yes")] + [("poll", "no")] * 3
    assert kinds(verdicts(turns)) == "AAWWAAW"


def test_other_arguments_are_another_call() -> None:
    guard = LoopGuard(ENDLESS)
    for n in range(30):
        calls = [ToolCall("id", "read", {"line": n})]
        assert guard.before_act(calls) == ALLOW
        guard = guard.after_act(calls, [ToolResult("empty")])


def test_an_error_with_the_same_text_is_another_result() -> None:
    guard = LoopGuard(ENDLESS)
    for n in range(30):
        assert guard.before_act([call("a")]) == ALLOW
        guard = guard.after_act([call("a")], [ToolResult("same", is_error=n % 2 == 0)])
        guard = guard.after_act([call(str(n))], [ToolResult("same")])


def test_calls_side_by_side_repeat_as_a_whole() -> None:
    guard, both = LoopGuard(ENDLESS), [call("a"), call("b")]
    for _ in range(4):
        guard = guard.after_act(both, [ToolResult("1"), ToolResult("2")])
    verdict = guard.before_act(both)
    assert isinstance(verdict, Block)
    assert "a and b" in verdict.reason
    assert guard.before_act([call("a")]) == ALLOW


def test_after_a_block_something_else_is_free() -> None:
    turns = [("a", "same")] * 5 + [("b", "same"), ("a", "same")]
    assert kinds(verdicts(turns)) == "AAWWBAA"


def test_the_rounds_may_be_chosen() -> None:
    limits = GuardLimits(warn_after=2, block_after=3)
    assert kinds(verdicts(cycle_of("a"), limits)) == "AWBH"
    assert kinds(verdicts(cycle_of("ab"), limits)) == "AAAWABBH"


def test_the_reasons_name_the_tools() -> None:
    seen = verdicts(cycle_of("ab"))
    warning = next(verdict for verdict in seen if isinstance(verdict, Warn))
    assert "a cycle of 2 turns (with b in it)" in warning.reason
    assert "3 times" in warning.reason


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("12")), max_size=25))
def test_a_halt_only_follows_a_cycle_that_is_there(turns: list[tuple[str, str]]) -> None:
    seen = verdicts(turns)
    rounds = [
        covered // period
        for period in range(1, 5)
        for covered in [_covered([name for name, _ in turns[: len(seen)]], period)]
    ]
    assert ("H" in kinds(seen)) <= (max(rounds) >= 6)
    assert ("B" in kinds(seen[-1:])) <= (max(rounds) >= 5)


def _covered(names: list[str], period: int) -> int:
    same = itertools.takewhile(lambda i: names[-1 - i] == names[-1 - i - period], range(len(names) - period))
    return min(len(names), period + sum(1 for _ in same))


def test_the_history_is_bounded() -> None:
    guard = LoopGuard(ENDLESS)
    for n in range(100):
        guard = guard.after_act([call(str(n))], [ToolResult("")])
    assert len(guard._turns) == 4


def test_usage_adds_up_with_usage_only() -> None:
    usage = TokenUsage(1, 2, 3, 4, 0.5)
    assert LoopGuard().after_reason(usage).after_reason(usage).usage == usage + usage
    with pytest.raises(TypeError):
        usage + 1  # type: ignore[operator]
