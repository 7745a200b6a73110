"""The half of an actor that sends, asks, receives and answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any

import trio

from agentpool._core.errors import (
    UnknownAgentError,
)
from agentpool.testing._scheduler import schedule_points

from ._trouble import Planned as Planned
from ._trouble import leaves as leaves
from ._world import World


class Talks:
    """The half of an actor that has to do with messages.

    Attributes:
      world, scope, ctx: as of the actor.
      question: what it was asked last, until it has replied.
    """

    world: World
    scope: Any
    ctx: Any
    question: Any

    @property
    def id(self) -> int:
        """The id of the agent; 0 for the body of a pool."""
        raise NotImplementedError

    def _waiting_for(self, *targets: int) -> AbstractContextManager[None]:
        raise NotImplementedError

    async def do_sleep(self, seconds: float) -> None:
        """Do something that the pool knows nothing of."""
        raise NotImplementedError

    def _recipient(self, index: int) -> int:
        ids = [handle.id for handle in self.world.handles if handle.id != self.id]
        return ids[index % len(ids)] if ids else 1

    @asynccontextmanager
    async def _sending(self, content: Any, *, ask: bool = False) -> AsyncIterator[None]:
        points = schedule_points()
        try:
            yield
        except BaseException:
            # A question that was delivered may go unanswered; one that was refused at once was not.
            if ask and schedule_points() != points:
                self.world.maybe.add(content)
            else:
                self.world.unsent.add(content)
            raise
        else:
            self.world.sent.append(content)

    async def do_send(self, index: int) -> None:
        content = ("say", self.id, self.world.token())
        to = self._recipient(index)
        async with self._sending(content):
            with self._waiting_for(to):
                await self.scope.send(to, content)

    async def do_pool_send(self, index: int) -> None:
        """The pool's own verb, which has to know who calls it."""
        content = ("say", self.id, self.world.token())
        to = self._recipient(index)
        async with self._sending(content):
            with self._waiting_for(to):
                await self.world.pool.send(to, content)

    async def do_send_nowait(self, index: int) -> None:
        content = ("say", self.id, self.world.token())
        async with self._sending(content):
            self.scope.send_nowait(self._recipient(index), content)
        await trio.lowlevel.checkpoint()

    async def do_tell_and_work(self, index: int) -> None:
        """Wake somebody, and keep the slot that he needs."""
        await self.do_send_nowait(index)
        await self.do_sleep(1.0)

    async def do_ask(self, index: int) -> None:
        content = ("ask", self.id, self.world.token())
        to = self._recipient(index)
        try:
            async with self._sending(content, ask=True):
                with self._waiting_for(to):
                    answer = await self.scope.ask(to, content)
        except UnknownAgentError as error:
            # Who was told of a restart may still have waited for his slot.
            if "restarted" not in str(error):
                self.world.answered[content] = trio.current_time()
            raise
        else:
            self.world.answered[content] = trio.current_time()
        if answer != ("answer", content):
            self.world.problem(f"the question {content} got the answer {answer}")

    async def do_chat(self, index: int) -> None:
        """Ask the same agent again and again, so that the two of them are woken all the time."""
        for _ in range(12):
            await self.do_ask(index)

    async def do_broadcast(self) -> None:
        await self.scope.broadcast(("all", self.id, self.world.token()))

    async def do_subscribe(self, topic: int) -> None:
        self.ctx.subscribe(f"topic {topic % 2}")
        await trio.lowlevel.checkpoint()

    async def do_publish(self, topic: int) -> None:
        await self.ctx.publish(f"topic {topic % 2}", ("topic", self.id, self.world.token()))

    def _got(self, message: Any) -> None:
        if message.to != self.id:
            self.world.problem(f"agent {self.id} received a message to {message.to}")
        if message.content[0] in ("say", "ask", "all", "topic") and message.content[1] != message.sender:
            self.world.problem(f"a message of {message.content[1]} says that {message.sender} sent it")
        self.world.received.append((self.id, message.content))
        if message.content[0] == "ask":
            self.question = message
            self.world.questions.append(message)
            self.world.taken[message.content] = (self.id, trio.current_time())

    @contextmanager
    def _receiving(self) -> Iterator[None]:
        self.world.receiving.add(self.id)
        try:
            yield
        finally:
            self.world.receiving.discard(self.id)

    def _inbox_ended(self) -> None:
        """The youngest receiver comes first, so that its last words to an older one still arrive."""
        world = self.world
        if self.id in world.told:
            return
        world.told.add(self.id)
        if world.outsiders:
            return  # they give work to whom they like
        others = world.receiving - world.told - world.aborts.keys()
        younger = [other for other in others if other > self.id]
        busy = [agent for agent, count in world.busy.items() if count and agent not in world.aborts]
        if busy and not world.several and not world.wholesale:
            world.problem(f"the inbox of agent {self.id} ended while {busy} were at work")
        if younger and not world.several and not world.wholesale:
            world.problem(f"the inbox of agent {self.id} ended while {younger} were receiving")

    async def do_receive(self) -> None:
        with self._receiving():
            try:
                message = await self.ctx.receive()
            except trio.EndOfChannel:
                self._inbox_ended()
                raise
        self._got(message)

    async def do_receive_nowait(self) -> None:
        try:
            self._got(self.ctx.receive_nowait())
        finally:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def do_reply(self) -> None:
        if self.question is not None:
            question, self.question = self.question, None
            self.ctx.reply(question, ("answer", question.content))
        await trio.lowlevel.checkpoint()

    async def do_serve(self) -> None:
        while True:
            try:
                await self.do_receive()
            except trio.EndOfChannel:
                return
            await self.do_reply()

    async def do_meddle(self) -> None:
        """Only the recipient of a question may answer it."""
        for question in self.world.questions:
            if question.to != self.id:
                try:
                    self.ctx.reply(question, "meddled")
                except ValueError:
                    break
                self.world.problem(f"agent {self.id} answered a question to {question.to}")
        await trio.lowlevel.checkpoint()

    async def do_stray(self) -> None:
        """A task that the pool does not know must not wait for it."""

        async def stray() -> None:
            try:
                with trio.move_on_after(0):
                    await self.ctx.receive()
            except RuntimeError as error:
                if "ctx.open_nursery" in str(error):
                    return
            except trio.EndOfChannel:
                pass
            self.world.problem("a task that the pool does not know waited for a message")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stray)
