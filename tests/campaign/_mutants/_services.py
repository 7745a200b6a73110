"""Mutants of the rules on names, and on the services that have them."""

from __future__ import annotations

from typing import Any

from agentpool._kernel.messaging import MessagingScope
from agentpool._kernel.names import Names

from ._hunt import HANG, Mutant, nothing


def _without_heir(original: Any) -> Any:
    return lambda self, agent_id, kept, heir: original(self, agent_id, kept, None)


def _silently(original: Any) -> Any:
    """Who waits is forgotten when nobody keeps the name any more."""

    def drop(self: Any, name: str, keeper: Any) -> None:
        waiting, self.waiting = self.waiting, {}
        try:
            original(self, name, keeper)
        finally:
            self.waiting = waiting

    return drop


def _found_once(_original: Any) -> Any:
    """A message to a name is one to who has it now."""

    async def by_name(self: Any, name: str, verb: Any) -> Any:
        return await verb(self.find(name))

    return by_name


def _left_for_ever(original: Any) -> Any:
    """What a supervisor left is never given up, so that its names seem to come again."""

    def take_over(self: Any, agent_id: int) -> None:
        if agent_id in self._left:
            self._left.pop(agent_id)

    return take_over


_CALL_FAILED = r".* called \w+, who comes again, and was told"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a question to a name outlives who has it",
        MessagingScope,
        "_by_name",
        _found_once,
        _CALL_FAILED,
        ("services",),
    ),
    Mutant(
        "a name outlives the supervisor that is started again",
        Names,
        "give_up",
        _without_heir,
        _CALL_FAILED,
        ("services",),
    ),
    Mutant(
        "who waits for a name gets who has it next",
        Names,
        "came",
        nothing,
        HANG,
        ("services",),
    ),
    Mutant(
        "who waits for a name that does not come again is told",
        Names,
        "drop",
        _silently,
        HANG,
        ("services",),
    ),
    Mutant(
        "nobody waits for what a supervisor left that is not started again",
        Names,
        "take_over",
        _left_for_ever,
        HANG,
        ("services",),
    ),
)
