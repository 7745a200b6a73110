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
    first = {"one_for_one": len(children), "one_for_all": 0, "rest_for_one": ended + 1}[strategy]
    taken = [i for i in range(first, len(children)) if children[i].running and i != ended]
    # A temporary child that is taken along is gone for good.
    back = sorted([ended, *(i for i in taken if children[i].mode != "temporary")])
    return Plan(tuple(reversed(taken)), tuple(back))
