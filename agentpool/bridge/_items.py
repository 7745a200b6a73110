"""Inputs of `map` and `as_completed` that are iterated where the caller is, item by item as trio asks."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

import attrs
import outcome
import trio

PLAIN = (list, tuple, range, set, frozenset, dict, deque)
"""Iterating over these runs no code of the caller's: they are handed over as they are."""

END = object()
"""What an input gives after its last item."""


class Puller(Protocol):
    """Takes items from an input where the caller is. Called in trio's thread; returns at once."""

    def pull(self, answer: Callable[[outcome.Maybe[Any]], None]) -> None:
        """Have the next item taken, or `END`, and `answer` called with it, in any thread."""

    def close(self, closed: Callable[[outcome.Maybe[Any]], None]) -> None:
        """Take no more, and call `closed` when the input is at rest, with what it raised."""


@attrs.define(eq=False)
class _Answer:
    """Waits for what another thread has to say."""

    _token: trio.lowlevel.TrioToken = attrs.field(factory=trio.lowlevel.current_trio_token)
    _event: trio.Event = attrs.field(factory=trio.Event)
    _value: outcome.Maybe[Any] | None = None

    def give(self, value: outcome.Maybe[Any]) -> None:
        """Give the answer, in any thread."""
        self._value = value
        try:
            self._token.run_sync_soon(self._event.set)
        except trio.RunFinishedError:
            pass  # nobody is left who waits for it

    async def wait(self) -> Any:
        """Wait for it, and return or raise it."""
        await self._event.wait()
        assert self._value is not None
        return self._value.unwrap()


async def items_of(puller: Puller) -> AsyncGenerator[Any, None]:
    """Yield the items of an input on trio; closing it waits until the input is at rest."""
    try:
        while True:
            answer = _Answer()
            puller.pull(answer.give)
            item = await answer.wait()
            if item is END:
                return
            yield item
    finally:
        closed = _Answer()
        puller.close(closed.give)
        with trio.CancelScope(shield=True):
            await closed.wait()
