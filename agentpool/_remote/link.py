"""The head's end of the way to one worker: what is sent, what is pulled, and when the worker is lost."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, TypeVar

import trio

from agentpool._core.errors import RemoteError, WorkerLostError, WorkerUnavailableError
from agentpool._core.events import ModelCallFinished
from agentpool._core.placing import Down, Happened, Heard, Up
from agentpool._core.text import shown
from agentpool._core.wire import Outbox, Patience, Replies
from agentpool._kernel.protection import protect_module
from agentpool._logging import WORKERS, tell
from agentpool._remote.codec import (
    Dumps,
    SentError,
    SentEvent,
    received,
    received_error,
    record_from_bytes,
    record_to_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpool._core.messages import AgentId
    from agentpool._remote.proxy import Proxy
    from agentpool.abc import Pulled, Transport

T = TypeVar("T")

MOST_RECORDS = 512
"""So many records travel in one request, or one reply."""

MOST_BYTES = 4_000_000
"""A request with so many bytes takes no more records, though one record may be longer."""

LONGEST_PULL = 1.0
"""So many seconds a worker keeps a pull that it has nothing to tell for, at the most, and a quarter of its
lease. So the lease outlasts a reply that is lost.
"""

LOOK_EVERY = 1.0
"""So many seconds pass between two looks for what has changed in the pool."""

PAUSE = 0.05
"""So many seconds pass before a request is made again of which it is not known whether it arrived."""


class Link:
    """The way to one worker, and the proxies of the agents that run there.

    Attributes:
      name: names the worker.
      dumps: pickles what users made, for it.
      proxies: of the agents that run there.
      lost: why it is lost; None while it is not.
      failing: set when it is lost, or as good as lost: it will not be heard of again.
      heard_at: when it answered last, on trio's clock.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        dumps: Dumps,
        lease: float,
        patience: Patience,
        told: Callable[[dict[int, int], Sequence[SentEvent]], object],
        look: Callable[[], object],
    ) -> None:
        """Begin.

        Args:
          lease: of the worker, in seconds.
          patience: decides when it is lost.
          told: hands events on to those who subscribe; is given the `seq` of the model calls that have begun,
            by that at the worker.
          look: called about once a second, or more often; looks what there is to tell all workers.
        """
        self.name = name
        self.dumps = dumps
        self.proxies: dict[AgentId, Proxy] = {}
        self.lost: str | None = None
        self.failing = trio.Event()
        self.heard_at: float = trio.current_time()
        self._transport = transport
        self._outbox = Outbox()
        self._replies = Replies()
        self._patience = patience
        self._lease = lease
        self._longest_pull = min(LONGEST_PULL, lease / 4)
        self._overdue_at = 0.0
        self._begun: dict[int, int] = {}
        self._told = told
        self._look = look
        self._to_post = trio.Event()
        self._gone: str | None = None
        self._look_at = -inf

    def __repr__(self) -> str:
        state = f"lost: {self.lost}" if self.lost is not None else f"{len(self.proxies)} agents"
        return f"<Link to worker {self.name}, {state}>"

    def send(self, record: Down) -> int:
        """Have a record sent; does not wait. Nothing is sent to a worker that is lost.

        Returns:
          Its number, for `may_have_arrived`.
        """
        if self.lost is None:
            self._outbox.put(record_to_bytes(record))
            self._to_post.set()
        return self._outbox.count

    def may_have_arrived(self, number: int) -> bool:
        """Whether a record was sent, so that the worker may have got it."""
        return number <= self._outbox.taken

    async def run(self) -> None:
        """Carry records both ways until the worker is lost, or this is cancelled, which ends the worker."""
        reason = "its pool has ended"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._post)
                nursery.start_soon(self._pull)
                nursery.start_soon(self._beat)
                reason = await self._until_lost()
                told = "worker %s is lost with %d agents: %s"
                tell(WORKERS, logging.WARNING, told, self.name, len(self.proxies), reason)
                nursery.cancel_scope.cancel(reason)
        finally:
            self.lost = reason
            self.failing.set()
            for proxy in list(self.proxies.values()):
                proxy.lost(reason)
            with trio.CancelScope(shield=True):
                await self._transport.aclose()

    async def _until_lost(self) -> str:
        """Return why the worker is lost, when no code of it can run any more."""
        while (at := self._patience.lost_at) > trio.current_time():  # noqa: ASYNC110  (it moves)
            await trio.sleep_until(at)
        return self._gone or "nothing was heard of it for too long"

    # -- asking ------------------------------------------------------------------------------------

    def _give_up(self, reason: str) -> None:
        """Nothing more is to be had of it. Its agents wait for the end of its lease all the same."""
        self._gone = self._gone or reason
        self.failing.set()

    async def _ask(self, seconds: float, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request until it is answered. It is the same each time, so that it is done once."""
        if self._gone is None:
            self._patience.asked(trio.current_time())
        while True:
            if self._gone is not None:
                # It may be cut off and run on over there: its time has to pass. Nothing new is asked, also
                # not the other way, or it would never be over.
                await trio.sleep_forever()
            try:
                with trio.fail_after(seconds):
                    answer = await request()
            except WorkerLostError as error:
                self._give_up(error.reason)
            except WorkerUnavailableError:
                await trio.sleep(PAUSE)
            except trio.TooSlowError:
                # It may be long, or the way slow: one that is cut short each time never arrives.
                seconds *= 2
                await trio.sleep(PAUSE)
            except Exception as error:  # a transport that does not keep to what it promises
                self._give_up(f"its transport raised {shown(error)}")
            else:
                self.heard_at = trio.current_time()
                return answer

    async def _post(self) -> None:
        while True:
            self._to_post = trio.Event()
            while (batch := self._outbox.next_post(MOST_RECORDS, MOST_BYTES)) is not None:
                number, records = batch
                await self._ask(self._lease / 2, lambda n=number, r=records: self._transport.post(n, r))  # type: ignore[misc]
                self._outbox.posted(number)
            await self._to_post.wait()

    async def _pull(self) -> None:
        def pull() -> Awaitable[Pulled]:
            self._overdue_at = trio.current_time() + 2 * self._longest_pull
            return self._transport.pull(self._replies.ack, MOST_RECORDS, self._longest_pull)

        while True:
            pulled = await self._ask(self._longest_pull + self._lease / 2, pull)
            try:
                for data in self._replies.take(pulled.number, pulled.records):
                    self._take(record_from_bytes(data))
            except Exception as error:  # it is not what we take it for, such as another version
                self._give_up(f"it sent what makes no sense: {shown(error)}")
            if trio.current_time() >= self._look_at:
                self._look_at = trio.current_time() + LOOK_EVERY
                self._look()
                for proxy in list(self.proxies.values()):
                    proxy.push_ended()

    async def _beat(self) -> None:
        """Ask something new as long as a reply is overdue, which may be a long one that is still on its way.

        The worker would hear nothing new of the head meanwhile, and end.
        """
        while True:
            await trio.sleep(self._longest_pull)
            if trio.current_time() > self._overdue_at and not len(self._outbox):
                self.send(Heard(0))

    def _event(self, agent: AgentId, seq: int, kind: type, own: tuple[object, ...]) -> SentEvent:
        if kind is not ModelCallFinished:  # the one that has errors in it
            return agent, seq, kind, own
        where = f"worker {self.name}"
        loaded = [received_error(each, where) if isinstance(each, SentError) else each for each in own]
        return agent, seq, kind, tuple(loaded)

    def _take(self, record: Up) -> None:
        if isinstance(record, Happened):
            # What a provider's class cannot be loaded for is missing then, but nobody dies of it.
            with suppress(RemoteError):
                self._told(self._begun, [self._event(*each) for each in received(record.events, "events")])
            self.send(Heard(1))
            return
        proxy = self.proxies.get(record.agent)
        if proxy is not None:
            proxy.take(record)


protect_module(globals())
