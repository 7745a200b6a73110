"""Landing: the last turn of an agent that reached a limit, and the room that is kept back for it.

The last turn has no tools. It reads what the turn before it read, what that turn said, what its calls
came to, and a note; and it answers. So before each turn it is asked whether its worst case leaves that
much: a turn that does not is not begun, and the last one takes its place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping

from agentpool._core.content import text_of
from agentpool._core.guard import Halt, Limit, LoopGuard
from agentpool._core.messages import ChatMessage, ToolMessage, ToolResult, UserMessage
from agentpool._core.perceiving import as_note
from agentpool._core.plan import Plan
from agentpool._core.transcript import (
    MESSAGE_OVERHEAD,
    Transcript,
    message_tokens,
    messages_tokens,
    text_tokens,
)
from agentpool._core.usage import TokenUsage
from agentpool._core.value import value
from agentpool._core.window import Window


@value
class Landing:
    """A last turn.

    Attributes:
      limit: which limit was reached.
      reason: what the agent fails with if this turn brings no answer.
      max_tokens: how many tokens the answer may have.
    """

    limit: Limit
    reason: str
    max_tokens: int


_WHY: Mapping[Limit, str] = {
    "iterations": "You have taken all the turns that you may take.",
    "tool_calls": "You may make no more tool calls than you have made.",
    "tokens": "Your budget of tokens is nearly used up.",
    "cost": "Your budget of money is nearly used up.",
    "idle": "For too long nothing happened, so that your work was stopped.",
}


def landing_note(limit: Limit) -> UserMessage:
    """Return what the model is told before its last turn."""
    return as_note(
        f"{_WHY[limit]} No tool can be called any more. Give your whole final answer now, from what you"
        " know by now, and say what is missing in it."
    )


NOTE_TOKENS = max(message_tokens(landing_note(limit)) for limit in _WHY)


def kept_back(plan: Plan, tokens: int, max_tokens: int) -> TokenUsage:
    """Return what the last turn may use if it comes after a turn of so many tokens.

    The tools are counted as if they were sent again: that is a little to spare.

    Args:
      tokens: what that turn reads.
      max_tokens: what that turn says at the most.
    """
    return TokenUsage(tokens + max_tokens + NOTE_TOKENS, plan.last_answer)


def longest_answer(plan: Plan, guard: LoopGuard, tokens: int) -> int | Halt:
    """Return how long the answer to a request may be, or why there is no room for one.

    Args:
      tokens: the estimate of the request.
    """
    most, left = plan.max_tokens, guard.tokens_left
    if left is not None:
        left -= tokens
        if plan.lands:
            # The last turn reads what this one says, so that it counts twice.
            left = (left - kept_back(plan, tokens, 0).total_tokens) // 2
        most = min(most, left)
        if most < plan.shortest_answer:
            return Halt(_no_tokens_left(guard, tokens), "tokens")
    money = guard.cost_left
    if plan.lands and money is not None:

        def cost(answer: int) -> float:
            return plan.cost(TokenUsage(tokens, answer)) + plan.cost(kept_back(plan, tokens, answer))

        most = _affordable(most, cost, money)
        if most < plan.shortest_answer:
            return Halt(_no_money_left(guard), "cost")
    return most


def _affordable(most: int, cost: Callable[[int], float], money: float) -> int:
    """Return how long an answer may be, up to `most`, for this money; a longer one costs more."""
    if cost(most) <= money:
        return most
    return max(0, bisect_right(range(most), money, key=cost) - 1)


def _no_tokens_left(guard: LoopGuard, tokens: int) -> str:
    return (
        f"{guard.usage.total_tokens} tokens were used of {guard.limits.max_tokens}, and the next request"
        f" has about {tokens}: raise max_tokens_budget under [resources] if the task needs more"
    )


def _no_money_left(guard: LoopGuard) -> str:
    return (
        f"{guard.usage.cost_usd:g} USD were spent of {guard.limits.max_cost_usd:g}, and one more turn may"
        " cost what is left: raise max_cost_usd under [resources] if the task is worth more"
    )


def worst_case(plan: Plan, guard: LoopGuard, tokens: int) -> TokenUsage:
    """Return what a request that brought no answer may have used."""
    longest = longest_answer(plan, guard, tokens)
    answer = plan.max_tokens if isinstance(longest, Halt) else longest  # prices may have changed
    return TokenUsage(tokens, answer, cost_usd=plan.cost(TokenUsage(tokens, answer)))


# -- the last request ---------------------------------------------------------------


def landing_room(plan: Plan, guard: LoopGuard, lost: TokenUsage) -> int | None:
    """Return how many tokens the messages of the last request may have; None for no bound."""
    room = plan.room
    if guard.tokens_left is not None:
        left = guard.tokens_left - lost.total_tokens - plan.last_answer - plan.frame
        room = left if room is None else min(room, left)
    return room


def last_answer(plan: Plan, guard: LoopGuard, tokens: int, lost: TokenUsage) -> int:
    """Return how long the answer of the last turn may be; 0 or less if there is no room.

    Args:
      tokens: the estimate of its request.
      lost: what a call may have used of which nothing is known.
    """
    most = plan.max_tokens
    if guard.tokens_left is not None:
        most = min(most, guard.tokens_left - lost.total_tokens - tokens)
    if guard.cost_left is not None and most > 0:
        money = guard.cost_left - lost.cost_usd
        most = _affordable(most, lambda answer: plan.cost(TokenUsage(tokens, answer)), money)
    return most


def last_request(
    plan: Plan, guard: LoopGuard, window: Window, excess: int, lost: TokenUsage
) -> tuple[Window, int]:
    """Return what the last request shows, and how long its answer may be; less than 1 if there is no room.

    Args:
      window: what it would show if there were room for all.
      excess: by how many tokens the requests are longer than their estimates.
      lost: what a call may have used of which nothing is known.
    """
    room = landing_room(plan, guard, lost)
    if room is not None:
        window = fitted(window, room - excess)
    while True:
        longest = last_answer(plan, guard, plan.frame + window.tokens + excess, lost)
        if longest >= plan.last_answer:
            return window, longest
        # What is read costs as well.
        shorter = fitted(window, window.tokens // 2)
        if shorter.tokens >= window.tokens:
            return window, longest
        window = shorter


_CUT = " [...]"


def fitted(window: Window, room: int) -> Window:
    """Return a window of at most `room` tokens, if that can be had.

    The oldest turns go first. What is left of it too much are results of tools: they are cut, each
    by the same share.
    """
    if window.tokens > room:
        window = window.trimmed(room)
    return shortened(window, room)


def shortened(window: Window, room: int) -> Window:
    """Return the window with the results of tools cut, each by the same share, so that it fits if it can."""
    if window.tokens <= room:
        return window
    results = sum(message_tokens(message) for message in window.messages if isinstance(message, ToolMessage))
    share = max(0.0, 1 - (window.tokens - room) / results) if results else 0.0
    messages = [_shortened(message, share) for message in window.messages]
    return Window(Transcript(messages), messages_tokens(messages), window.query, window.pins)


def _shortened(message: ChatMessage, share: float) -> ChatMessage:
    if not isinstance(message, ToolMessage):
        return message
    text = text_of(message.result.content)
    size = int(message_tokens(message) * share) - text_tokens(_CUT) - MESSAGE_OVERHEAD
    # A token is taken for four bytes.
    short = text.encode()[: max(0, 4 * size)].decode("utf-8", "ignore") + _CUT
    cut = ToolMessage(message.call_id, message.name, ToolResult(short, message.result.is_error))
    return cut if message_tokens(cut) < message_tokens(message) else message
