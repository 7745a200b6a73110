"""How an agent is started, and what can be one: arguments are refused with how to fix them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, TypeGuard

import attrs

from agentpool._core.restart import RestartPolicy
from agentpool._core.text import shown
from agentpool._kernel.protection import protect_module
from agentpool.abc import DescribedAgent, Hooks


@attrs.frozen
class SpawnOptions:
    """How an agent is started.

    Attributes:
      name: its name; None takes the agent's own.
      timeout: seconds from its start to its end, restarts included; None for no limit of its own.
      restart: whether and how it is started afresh when it ends.
    """

    name: str | None = None
    timeout: float | None = None
    restart: RestartPolicy | None = None

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` for values that make no sense."""
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name must be a string, not {shown(self.name)}")
        if self.restart is not None and not isinstance(self.restart, RestartPolicy):
            raise TypeError(f"restart must be a RestartPolicy, not {shown(self.restart)}")
        if self.timeout is None:
            return
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, (int, float)):
            raise TypeError(f"timeout must be a number of seconds, not {shown(self.timeout)}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {self.timeout}")


def check_agent(agent: Any) -> None:
    """Refuse what cannot be an agent, with the fix."""
    if callable(agent):
        if not isinstance(agent, type):
            return
        raise TypeError(f"an agent is an async callable, not the class {agent.__name__}: give an instance")
    if is_coroutine(agent):
        raise TypeError(
            "an agent is an async function, not the coroutine that a call of it makes: "
            "write spawn(agent, argument), not spawn(agent(argument))"
        )
    if type(agent).__name__ == "AgentManifest":
        raise TypeError("a manifest is no agent: write spawn(SpawnConfig(manifest, query))")
    raise TypeError(f"an agent is an async callable that takes a context, not {shown(agent)}")


def check_agents(agents: Iterable[object]) -> None:
    """Refuse all of them if one cannot be an agent."""
    errors = []
    for agent in agents:
        try:
            check_agent(agent)
        except TypeError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def checked_hooks(hooks: object) -> tuple[Hooks, ...]:
    """Return hooks in their order; refuse what is none, with the fix."""
    if isinstance(hooks, Hooks | str) or not isinstance(hooks, Iterable):
        fix = "; write it in brackets" if isinstance(hooks, Hooks) else ""
        raise TypeError(f"hooks must be a list of Hooks, not {shown(hooks)}{fix}")
    given = tuple(hooks)
    for each in given:
        if not isinstance(each, Hooks):
            is_class = isinstance(each, type) and issubclass(each, Hooks)
            fix = f"; write {each.__name__}(...)" if is_class else "; derive its class from agentpool.Hooks"
            raise TypeError(f"hooks must be objects of classes of Hooks, not {shown(each)}{fix}")
    return given


def is_coroutine(value: Any) -> bool:
    if hasattr(value, "close") and hasattr(value, "cr_frame"):
        value.close()  # it will never be awaited
        return True
    return False


def is_described(agent: object) -> TypeGuard[DescribedAgent]:
    """Whether an agent tells more of itself than a plain function does.

    `isinstance` would say it too, but takes 10 µs for a protocol; it is asked once for each agent.
    """
    try:
        return hasattr(agent, "build_tools") and hasattr(agent, "quota")
    except BaseException:  # as `name_of`
        return False


def name_of(agent: Any) -> str:
    """What an agent is called when nobody gave it a name."""
    # Asked in the step that starts it, mostly by another agent that frees a slot: a proxy which has no
    # attributes yet, or a property that raises, may not break that.
    try:
        while isinstance(agent, partial):
            agent = agent.func
        name = getattr(agent, "__name__", None) or getattr(agent, "name", None)
    except BaseException:
        name = None
    return name if isinstance(name, str) else type(agent).__name__


_PLAIN = SpawnOptions()


def options_of(
    name: str | None = None, timeout: float | None = None, restart: RestartPolicy | None = None
) -> SpawnOptions:
    """The options of a spawn, checked; agents without any share one value."""
    if name is None and timeout is None and restart is None:
        return _PLAIN
    options = SpawnOptions(name, timeout, restart)
    options.check()
    return options


protect_module(globals())
