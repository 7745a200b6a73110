"""What a supervisor does when a child ends: Erlang/OTP's rules, as decisions over plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import attrs

from agentpool._core.restart import RestartMode

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]


@attrs.frozen
class Child:
    """A child of a supervisor, as the rules see it.

    Attributes:
      mode: whether it comes back when it ends.
      running: whether it runs at the moment.
    """

    mode: RestartMode
    running: bool = True


@attrs.frozen
class Plan:
    """What to do about the end of a child.

    Attributes:
      stop: positions of children to end, in this order: those that started last go first.
      start: positions of children to start afterwards, in this order.
    """

    stop: tuple[int, ...] = ()
    start: tuple[int, ...] = ()


def comes_back(mode: RestartMode, *, ended_well: bool) -> bool:
    """Whether a child that ended so is to be restarted."""
    return mode == "permanent" or (mode == "transient" and not ended_well)


def plan_restart(strategy: Strategy, children: Sequence[Child], ended: int) -> Plan:
    """Return what the restart of a child takes with it.

    Args:
      strategy: which siblings share the fate of the child.
      children: all of them in the order of their first start; the ended one does not run.
      ended: the position of the child that ended and comes back.
    """
    first, last = {
        "one_for_one": (ended, ended),
        "one_for_all": (0, len(children) - 1),
        "rest_for_one": (ended, len(children) - 1),
    }[strategy]
    taken = range(first, last + 1)
    # A sibling that had ended well starts again with the others, as in OTP: only temporary children,
    # stopped or ended, are gone for good.
    return Plan(
        stop=tuple(i for i in reversed(taken) if children[i].running),
        start=tuple(i for i in taken if children[i].mode != "temporary"),
    )
