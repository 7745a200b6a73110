"""Mutants of the rules on messages and questions."""

from __future__ import annotations

from typing import Any

from agentpool._kernel.inbox import Inbox
from agentpool._kernel.router import MessageRouter

from ._hunt import HANG, Mutant


def _last_message_first(original: Any) -> Any:
    def take(self: Any, *args: Any, **told: Any) -> Any:
        messages = [self._channel[1].receive_nowait() for _ in range(self.fill)]
        for message in (messages[-1], *messages[:-1]):
            self._channel[0].send_nowait(message)
        return original(self, *args, **told)

    return take


def _twice(original: Any) -> Any:
    def offer(self: Any, message: Any) -> bool:
        return bool(original(self, message)) and (
            self.fill + 1 > self.capacity or bool(original(self, message))
        )

    return offer


def _drop_at_end(original: Any) -> Any:
    def close(self: Any, reason: str) -> None:
        while self.fill:
            self.fill -= 1
            self._channel[1].receive_nowait()
        original(self, reason)

    return close


def _strand_senders(original: Any) -> Any:
    def close(self: Any, reason: str) -> None:
        self._senders = None
        original(self, reason)

    return close


def _supervisor_sends(original: Any) -> Any:
    return lambda self, message: 0


def _ask_for_ever(original: Any) -> Any:
    def fail_asks_to(self: Any, agent_id: int, reason: str, *, taken_only: bool) -> None:
        if taken_only:
            original(self, agent_id, reason, taken_only=True)

    return fail_asks_to


def _ask_across_restarts(original: Any) -> Any:
    def fail_asks_to(self: Any, agent_id: int, reason: str, *, taken_only: bool) -> None:
        if not taken_only:
            original(self, agent_id, reason, taken_only=False)

    return fail_asks_to


def _anyone_replies(original: Any) -> Any:
    return lambda self, replier, message, content: original(self, message.to, message, content)


def _lose_late_replies(original: Any) -> Any:
    def bury(self: Any, message: Any, reason: str) -> None:
        if message.reply_to is None:
            original(self, message, reason)

    return bury


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "messages keep their order",
        Inbox,
        "_take",
        _last_message_first,
        r"agent \d+ received .* after a later message",
    ),
    Mutant(
        "a message arrives once",
        Inbox,
        "offer",
        _twice,
        r"the message .* was received \d+ times",
    ),
    Mutant(
        "what is left becomes dead letters",
        Inbox,
        "close",
        _drop_at_end,
        r"the message .* was sent, and received 0 times and buried 0 times",
    ),
    Mutant(
        "senders to an agent that ends are told",
        Inbox,
        "close",
        _strand_senders,
        HANG,
    ),
    Mutant(
        "a sender cannot be forged",
        MessageRouter,
        "_sender",
        _supervisor_sends,
        r"a message of \d+ says that \d+ sent it",
    ),
    Mutant(
        "askers of an agent that ends are told",
        MessageRouter,
        "fail_asks_to",
        _ask_for_ever,
        HANG,
    ),
    Mutant(
        "askers of a restarted agent are told",
        MessageRouter,
        "fail_asks_to",
        _ask_across_restarts,
        r"agent \d+ was restarted with the question",
        ("phoenix",),
    ),
    Mutant(
        "only the recipient replies",
        MessageRouter,
        "reply",
        _anyone_replies,
        r"agent \d+ answered a question to",
    ),
    Mutant(
        "late replies are dead letters",
        MessageRouter,
        "bury",
        _lose_late_replies,
        r"\d+ messages were sent, but \d+ received and \d+ buried",
    ),
)
