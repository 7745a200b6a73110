"""Mutants of the rules on agents that wait from threads."""

from __future__ import annotations

from typing import Any

import trio

from agentpool import _blocking
from agentpool._kernel import activity as _activity
from agentpool._kernel import current as _current
from agentpool._kernel import wait as _wait

from ._houses import by_the_hint
from ._hunt import Mutant

_STILL = "hang: nothing moved"


def _lends_nothing(_original: Any) -> Any:
    return lambda task: None


def _goes_on_without_token(_original: Any) -> Any:
    async def take_back(self: Any) -> None:
        self._is_lent = False

    return take_back


def _keeps_token(original: Any) -> Any:
    def release(self: Any, borrower: object) -> None:
        """Gives it back only while it is lent."""

    return release


def _shields(original: Any) -> Any:
    async def park(self: Any, call: Any, undo: Any) -> Any:
        with trio.CancelScope(shield=True):
            return await original(self, call, undo)

    return park


def _slot_without_asking(original: Any) -> Any:
    """Who was woken goes on without a slot."""

    def ask_for_slot(self: Any, wait: Any) -> None:
        self.active += 1
        wait.resume()

    return ask_for_slot


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a thread that waits lends its token", _wait, "lendable_call", _lends_nothing, _STILL, ("threads",)
    ),
    Mutant(
        "a thread goes on only with a token",
        _blocking.ThreadCall,
        "take_back",
        _goes_on_without_token,
        r"\d+ threads were at work, but the limiter",
        ("threads",),
    ),
    Mutant(
        "tokens of threads come back",
        _blocking.ThreadCall,
        "release_on_behalf_of",
        _keeps_token,
        _STILL + r"|\d+ threads of trio are still borrowed",
        ("threads",),
    ),
    Mutant(
        "a thread goes on only with a slot",
        _activity.Activity,
        "_ask_for_slot",
        _slot_without_asking,
        r"\d+ agents ran at once in threads",
        ("threads",),
    ),
    Mutant(
        "an abort ends who waits from a thread",
        _wait.Wait,
        "_park_without_thread",
        _shields,
        r"agent \d+ was aborted in a thread, and went on",
        ("threads",),
    ),
    Mutant(
        "a run of trio in a thread is nobody's",
        _current,
        "_owner",
        by_the_hint,
        r"in a run of trio in a thread: it was refused",
        ("threads",),
    ),
)
