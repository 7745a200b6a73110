"""The blocks in which the code of an agent in a worker runs many agents, as the head keeps them open."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import trio

from agentpool._core.outcomes import AnyOutcome
from agentpool._kernel.protection import protect_module
from agentpool._kernel.wait import OwnTaskWait

if TYPE_CHECKING:
    from types import TracebackType

    from agentpool._kernel.context import AgentContext


class Owner(Protocol):
    """The proxy whose code has opened a block.

    Attributes:
      ctx: its context.
    """

    ctx: AgentContext

    def want_item(self, feed: int) -> None:
        """Have the worker read the next item of an input."""

    def start_task(self, task: Callable[[], Awaitable[object]], name: str) -> None:
        """Start a task of the agent that outlives the call that starts it."""


class InputFailedError(Exception):
    """Reading an input has failed in the worker, where the error is. Never gets to users."""


class ReadInput(AsyncIterator[Any]):
    """An input that is read in the worker, one item at a time, as it is wanted here."""

    def __init__(self, proxy: Owner, number: int) -> None:
        self._proxy = proxy
        self._number = number
        self._come: deque[tuple[str, Any]] = deque()
        self._wait: OwnTaskWait | None = None

    async def __anext__(self) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._proxy.want_item(self._number)
        if not self._come:
            # Without a slot, as whatever reads an input: it is heard at once, whoever holds the slots.
            self._wait = OwnTaskWait(self._proxy.ctx._agent, needs_slot=False)
            await self._wait.park(self._left)
        kind, value = self._come.popleft()
        if kind == "item":
            return value
        if kind == "end":
            raise StopAsyncIteration
        raise InputFailedError

    def _left(self, _: object) -> None:
        self._wait = None

    def came(self, kind: str, value: Any) -> None:
        """An item, or the end of them, or nothing but that it has failed."""
        self._come.append((kind, value))
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.wake()


class Block(Protocol):
    """What is kept open."""

    async def __aenter__(self) -> AsyncIterator[AnyOutcome]: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    def decide(self) -> None: ...

    def abandon(self) -> None: ...


class KeptBlock:
    """A block that a task of the proxy keeps open, between the calls of the code that has opened it."""

    def __init__(self, proxy: Owner, block: Block, *, is_fed: bool) -> None:
        """Begin.

        Args:
          is_fed: whether the worker reads its input, which ends with the code that reads.
        """
        self._proxy = proxy
        self._block = block
        self._is_fed = is_fed
        self._outcomes: AsyncIterator[AnyOutcome] | None = None
        self._error: Exception | None = None
        self._opened = trio.Event()
        self._keeper: OwnTaskWait | None = None
        self._leaver: OwnTaskWait | None = None
        self._is_left = False
        self._is_let_be = False
        self._has_ended = False

    async def open(self) -> None:
        """Open it.

        Raises:
          Exception: what entering the block raises.

        Checkpoint: always. Cancellation: `Cancelled` means that it was not opened.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._proxy.start_task(self._keep, f"block of agent {self._proxy.ctx.id}")
        with trio.CancelScope(shield=True):
            await self._opened.wait()
        if self._outcomes is None:
            assert self._error is not None
            raise self._error

    async def _keep(self) -> None:
        with trio.CancelScope(shield=True):
            try:
                self._outcomes = await self._block.__aenter__()
                self._opened.set()
                if not self._is_left:
                    # Without a slot: agents that are let be may hold them all.
                    self._keeper = OwnTaskWait(self._proxy.ctx._agent, needs_slot=False)
                    await self._keeper.park(None)
                if not self._is_let_be:
                    await self._block.__aexit__(None, None, None)
            except Exception as error:
                self._error = error
            finally:
                self._opened.set()
                self._has_ended = True
                if self._leaver is not None:
                    self._leaver.wake()

    async def next_outcome(self) -> AnyOutcome | None:
        """Take the next outcome; None at the end."""
        assert self._outcomes is not None
        return await anext(self._outcomes, None)

    def decide(self) -> None:
        """The outcomes so far are enough."""
        self._block.decide()

    def abandon(self) -> None:
        """Start no more agents, and abort those that live."""
        self._block.abandon()

    def leave(self) -> None:
        """Begin to leave it; harmless if repeated."""
        if self._keeper is not None:
            self._block.abandon()  # its task may wait for the slot that one of them holds
        self._go_on()

    def _go_on(self) -> None:
        self._is_left = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.wake()

    def code_ended(self) -> None:
        """The code that has opened it has ended, and never left it.

        As in place: agents that need no input of it are children as others are, and live on.
        """
        self._is_let_be = not self._is_fed
        if self._is_fed:
            self.leave()
        else:
            self._go_on()

    async def left(self) -> None:
        """Leave it, and wait for that.

        Raises:
          Exception: what leaving the block raises.
        """
        self.leave()
        if not self._has_ended:
            self._leaver = OwnTaskWait(self._proxy.ctx._agent)
            await self._leaver.park(None)
        error, self._error = self._error, None
        if error is not None:
            raise error


class HeadBatches:
    """What an agent's code in a worker has open: blocks, and inputs that it reads."""

    def __init__(self, proxy: Owner) -> None:
        self._proxy = proxy
        self._inputs: dict[int, ReadInput] = {}
        self._blocks: dict[int, KeptBlock] = {}

    def input(self, number: int) -> ReadInput:
        """Return an input that the worker reads for the head."""
        found = self._inputs[number] = ReadInput(self._proxy, number)
        return found

    def came(self, number: int, kind: str, value: Any) -> None:
        """An item has come; nothing happens if nobody wants it any more."""
        found = self._inputs.get(number)
        if found is not None:
            found.came(kind, value)

    def drop_input(self, number: int | None) -> None:
        """Nobody wants more of an input; None is none."""
        self._inputs.pop(number or 0, None)

    async def open(self, number: int, block: Block, *, is_fed: bool) -> None:
        """Keep a block open under a number; raises what entering it does."""
        # Known before it is open: the code may be lost meanwhile.
        kept = self._blocks[number] = KeptBlock(self._proxy, block, is_fed=is_fed)
        try:
            await kept.open()
        except BaseException:
            del self._blocks[number]
            raise

    def block(self, number: int) -> KeptBlock:
        """Return a block."""
        return self._blocks[number]

    async def left(self, number: int) -> None:
        """Leave a block, and wait for that; raises what leaving it does."""
        await self._blocks.pop(number).left()

    def close(self) -> None:
        """The agent's code has ended."""
        for kept in self._blocks.values():
            kept.code_ended()


protect_module(globals())
