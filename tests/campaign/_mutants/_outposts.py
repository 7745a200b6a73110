"""Mutants of the rules on the way to workers, and on the proxies of the agents that run there."""

from __future__ import annotations

from typing import Any

import trio

from agentpool._core import wire as _wire
from agentpool._core.placing import Withdrawn
from agentpool._remote import link as _link
from agentpool._remote import proxy as _proxy
from agentpool._remote import runtime as _runtime
from agentpool._remote import worker_line as _worker_line

from ._hunt import HANG, Mutant, nothing


def _takes_all(_original: Any) -> Any:
    def take(self: Any, number: int, records: Any) -> Any:
        self.number = max(self.number, number)
        return records

    return take


def _forgets_its_reply(original: Any) -> Any:
    def reply(self: Any, *args: Any, **options: Any) -> Any:
        self._reply = ()
        return original(self, *args, **options)

    return reply


def _without_lease(_original: Any) -> Any:
    async def until_lost(self: Any) -> str:
        while self._gone is None and self._patience.lost_at - self._lease > trio.current_time():
            await trio.sleep(0.1)
        return "it is lost"

    return until_lost


def _undoes_what_happened(original: Any) -> Any:
    def answer(self: Any, record: Any) -> None:
        wait = self._waits.get(record.call)
        if wait is not None and wait.asked_to_cancel:
            record = Withdrawn(record.agent, record.call)
        original(self, record)

    return answer


_PLACED = ("placed",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a post that comes twice is done once",
        _wire.Intake,
        "take",
        _takes_all,
        r"agent \d+ began|a second body|the message|agent \d+ has|agent \d+ returned|hang",
        _PLACED,
    ),
    Mutant(
        "a reply is kept until it is acknowledged",
        _wire.Outgoing,
        "reply",
        _forgets_its_reply,
        HANG,
        _PLACED,
    ),
    Mutant(
        "no worker is lost before its lease has run out",
        _link.Link,
        "_until_lost",
        _without_lease,
        r"agent \d+ runs though it has its outcome|a second body|agent \d+ has .*Lost",
        _PLACED,
    ),
    Mutant(
        "what happened is not withdrawn",
        _worker_line.WorkerLine,
        "_answer",
        _undoes_what_happened,
        r"sending .* raised, but it was delivered|the message .* was sent, and neither",
        _PLACED,
    ),
    Mutant(
        "who waits over there lends its slot",
        _runtime.Runtime,
        "_rested",
        nothing,
        HANG,
        _PLACED,
    ),
    Mutant(
        "an aborted agent is told so where it runs",
        _proxy,
        "Abort",
        lambda original: lambda agent, reason: original(-1, reason),
        HANG,
        _PLACED,
    ),
)
