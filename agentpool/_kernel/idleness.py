"""How long an agent may go without any sign of life: one deadline, which each sign moves on.

It is a limit of the agent, as its `timeout` is: it does not count as a deadline by which a wait of the
agent would end by itself. Otherwise agents that wait for each other would be told so only when it has
passed, and a pool could not end before.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import inf
from types import TracebackType

import attrs
import trio

from agentpool._kernel.protection import protect_module

_limits: dict[Hashable, list[IdleLimit]] = {}
"""The open limits of each agent; mostly one, more if its code runs several loops side by side."""


@attrs.define(eq=False)
class IdleLimit:
    """Cancels what runs in its `with` block once nothing was heard for so many seconds.

    Attributes:
      agent: whose limit it is.
      seconds: how long nothing may be heard.
    """

    agent: Hashable
    seconds: float
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _pauses: int = 0

    def heard(self) -> None:
        """Something was heard: the time begins anew."""
        self._scope.deadline = inf if self._pauses else trio.current_time() + self.seconds

    def pause(self) -> None:
        """Nothing will be heard, and that is as it should be, until `go_on` is called as often."""
        self._pauses += 1
        self.heard()

    def go_on(self) -> None:
        """The time begins anew, unless somebody else has paused it."""
        self._pauses -= 1
        self.heard()

    @property
    def deadline(self) -> float:
        """When it passes, on trio's clock."""
        return self._scope.deadline

    def __enter__(self) -> IdleLimit:
        self.heard()
        self._scope.__enter__()
        _limits.setdefault(self.agent, []).append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        others = _limits[self.agent]
        others.remove(self)
        if not others:
            del _limits[self.agent]
        return self._scope.__exit__(kind, error, trace)


def is_idle_deadline(agent: Hashable, deadline: float) -> bool:
    """Whether a deadline is that of an idle limit of the agent."""
    return bool(_limits) and any(limit.deadline == deadline for limit in _limits.get(agent, ()))


def heard_of(agent: Hashable) -> None:
    """Move on the idle limits of an agent, if it has any."""
    if _limits:
        for limit in _limits.get(agent, ()):
            limit.heard()


def idle_limits_of(agents: Iterable[Hashable]) -> list[IdleLimit]:
    """Return the open idle limits of some agents."""
    return [limit for agent in agents for limit in _limits.get(agent, ())] if _limits else []


protect_module(globals())
