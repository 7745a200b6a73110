"""Operations of the newer worlds: what is left open, strange inputs, other slots, inner pools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import trio

from agentpool._kernel.opening import open_agent_pool

from ._houses import inner_world
from ._programs import Op, Script

if TYPE_CHECKING:
    from ._world import World


class Planned(Exception):
    """What scripts raise on purpose."""


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions of a group and of those inside it; a single one stands for itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


class Trouble:
    """The half of an actor that gives a pool trouble.

    Attributes:
      world, scope, ctx: as of the actor.
      kept: what was left open, so that the collector does not close it.
    """

    world: World
    scope: Any
    ctx: Any
    kept: list[Any]

    @property
    def id(self) -> int:
        """The id of the agent; 0 for the body of a pool."""
        raise NotImplementedError

    def item_agent(self, number: int) -> Any:
        """Return a script as an agent for items."""
        raise NotImplementedError

    # -- what is left open ----------------------------------------------------------------------

    async def do_leave(self, kind: str) -> None:
        """Open something and never leave it; the last thing that an agent does."""
        self.world.left.add(self.id)
        self.kept.append(await leave_open(kind))
        await trio.lowlevel.checkpoint()

    # -- inputs ---------------------------------------------------------------------------------------

    async def do_feed(self, verb: str, number: int, count: int, how: str) -> None:
        """Run a script for each item of an input that has tasks of its own, or that raises."""
        try:
            await self._feed(verb, self.item_agent(number), count, how)
        except BaseException as error:
            if self.ctx is None and any(isinstance(leaf, Planned) for leaf in leaves(error)):
                self.world.wholesale = True
                if isinstance(error, Exception):
                    self.world.body_failed = True
                else:  # beside the cancellation of the block, which a scope around takes out of the group
                    self.world.input_failed = True
            raise

    async def _feed(self, verb: str, agent: Any, count: int, how: str) -> None:
        items = self._input(count, how)
        if verb == "map":
            await self.scope.map(agent, items)
            self._input_ended(count, how)
            return
        taken = 0
        async with self.scope.as_completed(agent, items) as done:
            async for _outcome in done:
                taken += 1
                if verb == "leave early":
                    return
        self._input_ended(count, how)

    def _input_ended(self, count: int, how: str) -> None:
        # A fatal exception ends the pool, and is not raised where the outcomes are taken.
        if how in ("planned", "group"):
            self.world.problem(f"what an input raised ({how}, after {count} items) did not come out")

    async def _input(self, count: int, how: str) -> AsyncIterator[int]:
        if how == "nursery":
            async with trio.open_nursery() as nursery:
                sender, receiver = trio.open_memory_channel[int](0)
                nursery.start_soon(_produce, sender, count)
                nursery.start_soon(trio.sleep, 0.5)
                async for item in receiver:
                    if self.world.room():
                        yield item
            return
        for item in range(count):
            await trio.lowlevel.checkpoint()
            if self.world.room():
                yield item
        match how:
            case "planned":
                raise Planned("the input")
            case "group":
                raise ExceptionGroup("the input", [Planned("one"), Planned("two")])
            case "fatal" | "fatal group":
                self.world.fatal = self.world.wholesale = True
                if how == "fatal":
                    raise SystemExit(3)
                raise BaseExceptionGroup("the input", [SystemExit(3), Planned("beside it")])

    # -- slots ------------------------------------------------------------------------------------------

    async def do_resize(self, count: int) -> None:
        """Change how many agents run at once; who waits for a slot that is there has it now."""
        world = self.world
        # Those who run go on, so that more than the new number may run for a while.
        world.cap = max(world.cap, count)
        world.pool.max_concurrent = count
        seen = world.pool.statistics()
        if seen.max_concurrent != count:
            world.problem(f"max_concurrent was set to {count} and is {seen.max_concurrent}")
        if seen.waiting_to_start and seen.running < count:
            world.problem(
                f"{seen.waiting_to_start} agents wait to start, though only {seen.running} of {count} run"
            )
        await trio.lowlevel.checkpoint()

    # -- inner pools -----------------------------------------------------------------------------------

    async def do_inner(self, slots: int, ops: Sequence[Op], in_nursery: bool) -> None:
        """Open a pool of one's own, here or in a task of one's own, and let scripts run in it."""
        world = self.world
        inner = inner_world(world, slots)
        world.busy[self.id] += 1  # it is at work, although it waits
        try:
            if not in_nursery or self.ctx is None:
                await self._inner_pool(inner, ops)
                return
            world.several.add(self.id)
            async with self.ctx.open_nursery() as nursery:
                nursery.start_soon(self._inner_pool, inner, ops)
        finally:
            world.busy[self.id] -= 1
            world.alarms.extend(inner.alarms)  # told inside, to agents that are nobody outside

    async def _inner_pool(self, inner: World, ops: Sequence[Op]) -> None:
        actor: Any = type(self)
        async with open_agent_pool(
            max_concurrent=inner.program.max_concurrent, inbox_capacity=inner.program.inbox_capacity
        ) as pool:
            inner.pool = pool
            await actor(inner, Script(tuple(ops)), pool).run(ops)


async def leave_open(kind: str) -> Any:
    """Open something on the calling task; return what has to be kept from the collector."""
    match kind:
        case "nursery":
            manager = trio.open_nursery()
            nursery = await manager.__aenter__()
            nursery.start_soon(trio.sleep_forever)
            return manager
        case "generator":
            generator = _inside_a_scope()
            await anext(generator)
            return generator
        case _:
            scope = trio.CancelScope(shield=kind == "shield")
            if kind == "deadline":
                scope.deadline = trio.current_time() + 0.5
            scope.__enter__()
            return scope


async def _inside_a_scope() -> AsyncIterator[int]:
    # Not by `with`: trio closes the generator when the run ends, in a task that is not inside the scope.
    trio.move_on_after(0.5).__enter__()
    yield 1
    yield 2


async def _produce(sender: trio.MemorySendChannel[int], count: int) -> None:
    with sender:
        for item in range(count):
            await sender.send(item)
