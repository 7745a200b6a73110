"""Mutants of the rules on the end of a pool."""

from __future__ import annotations

from typing import Any

import attrs

from agentpool._kernel import judge as _judge
from agentpool._kernel import life as _life
from agentpool._kernel import opening as _opening
from agentpool._kernel import state as _state

from .._world import Planned
from ._hunt import HANG, Mutant, nothing


def _nothing_is_fatal(original: Any) -> Any:
    def split(error: BaseException) -> Any:
        parts = original(error)
        return parts if parts.fatal is None else attrs.evolve(parts, fatal=None, ordinary=Planned("tamed"))

    return split


def _swallow_failures(original: Any) -> Any:
    async def leave(state: Any, error: BaseException | None) -> None:
        state.root.failures()
        await original(state, error)

    return leave


def _wrap_error(original: Any) -> Any:
    async def leave(state: Any, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            error = ExceptionGroup("wrapped", [error])
        await original(state, error)

    return leave


def _judge_too_early(original: Any) -> Any:
    def judge_rest(self: Any) -> None:
        idle, self.idle = self.idle, 1_000_000
        try:
            original(self)
        finally:
            self.idle = idle

    return judge_rest


def _oldest_first(original: Any) -> Any:
    def pop(heap: list[Any]) -> Any:
        largest = max(heap)
        heap.remove(largest)
        return largest

    return pop


def _only_agents_are_fatal(original: Any) -> Any:
    def fatal_error(self: Any, error: BaseException, who: str = "an agent") -> None:
        if "input" not in who:
            original(self, error, who)

    return fatal_error


def _looks_nowhere(original: Any) -> Any:
    return property(lambda self: False)


_RARE = ("rare", "full")

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "fatal exceptions leave the pool",
        _life,
        "split_error",
        _nothing_is_fatal,
        r"an agent raised SystemExit, but the pool ended with",
        _RARE,
    ),
    Mutant(
        "failures nobody saw come out",
        _opening,
        "_leave",
        _swallow_failures,
        r"0 ended well although nobody looked",
    ),
    Mutant(
        "the body's exception comes out as it is",
        _opening,
        "_leave",
        _wrap_error,
        r"the body raised, but the pool ended with",
        _RARE,
    ),
    Mutant(
        "quiescence ends the servers",
        _judge.Judge,
        "judge_rest",
        nothing,
        HANG,
    ),
    Mutant(
        "quiescence waits for everybody",
        _judge.Judge,
        "judge_rest",
        _judge_too_early,
        r"the inbox of agent \d+ ended while",
    ),
    Mutant(
        "the youngest receiver ends first",
        _judge,
        "heappop",
        _oldest_first,
        r"the inbox of agent \d+ ended while .* were receiving",
    ),
    Mutant(
        "a draining pool starts nobody",
        _state.PoolState,
        "stop_starting",
        nothing,
        r"agent \d+ spawned while the pool drained",
        _RARE,
    ),
    Mutant(
        "fatal exceptions of an input leave the pool",
        _state.PoolState,
        "fatal_error",
        _only_agents_are_fatal,
        r"an agent raised SystemExit, but the pool ended with None",
        ("inputs",),
    ),
    Mutant(
        "who works in a pool of its own is not at its end",
        _judge.Wait,  # type: ignore[attr-defined]
        "looks_elsewhere",
        _looks_nowhere,
        r"the inbox of agent \d+ ended while",
        ("inner",),
    ),
)
