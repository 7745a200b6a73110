"""Several pools of one agent at once, and tasks of the program's own that an agent started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._kernel.opening import open_agent_pool

from ._programs import Op

if TYPE_CHECKING:
    from ._world import World


class Houses:
    """The half of an actor that works in more than one pool, or has others use its own.

    Attributes:
      world, scope, ctx: as of the actor.
    """

    world: World
    scope: Any
    ctx: Any

    @property
    def id(self) -> int:
        """The id of the agent; 0 for the body of a pool."""
        raise NotImplementedError

    async def perform(self, op: Op) -> None:
        """Do one operation."""
        raise NotImplementedError

    async def run(self, ops: Sequence[Op]) -> None:
        """Do some operations."""
        raise NotImplementedError

    async def _inner_pool(self, inner: World, ops: Sequence[Op]) -> None:
        raise NotImplementedError

    async def do_inners(self, slots: int, pools: Sequence[Sequence[Op]], beside: Sequence[Op]) -> None:
        """Open some pools at once, each in a task of its own, and do something in the own pool meanwhile."""
        world = self.world
        inners = [inner_world(world, slots) for _ in pools]
        world.busy[self.id] += 1
        world.several.add(self.id)
        in_pools = len(pools)
        has_ended = self.id in world.told  # an inbox that has ended stays so

        async def in_pool(inner: World, ops: Sequence[Op]) -> None:
            nonlocal in_pools
            try:
                await self._inner_pool(inner, ops)
            finally:
                in_pools -= 1

        try:
            async with self.ctx.open_nursery() as nursery:
                for inner, ops in zip(inners, pools, strict=True):
                    nursery.start_soon(in_pool, inner, ops)
                try:
                    await self.run(beside)
                except trio.EndOfChannel:
                    if in_pools and not has_ended and not world.wholesale:
                        world.problem(f"the inbox of agent {self.id} ended while it was in {in_pools} pools")
                    raise
        finally:
            world.busy[self.id] -= 1
            for inner in inners:
                world.alarms.extend(inner.alarms)  # told inside, to agents that are nobody outside

    async def do_refused(self) -> None:
        """A task that the pool does not know opens no pool there: nobody could tell when the agent waits."""

        async def unknown() -> None:
            try:
                async with open_agent_pool(max_concurrent=1):
                    pass
            except RuntimeError as error:
                if "ctx.open_nursery" in str(error):
                    return
            self.world.problem(f"a task of agent {self.id} that the pool does not know opened a pool")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(unknown)

    # -- tasks of the program's own --------------------------------------------------------------

    async def do_outlive(self, ops: Sequence[Op]) -> None:
        """Start a task in a nursery of the program, which uses the pool also when this agent has ended."""
        self.world.outsiders += 1
        self.world.outside.start_soon(self._outside, ops)
        await trio.lowlevel.checkpoint()

    async def _outside(self, ops: Sequence[Op]) -> None:
        """Do operations as the program does: whoever this task was started by, it is nobody."""
        world = self.world
        actor = type(self)(world, self.script, world.pool, is_outside=True)  # type: ignore[call-arg, attr-defined]
        try:
            for op in ops:
                try:
                    await actor.perform(op)
                except RuntimeError as error:
                    world.problem(f"a task of the program was refused: {error}")
                except Exception as error:
                    world.raised(error, agent=0, narrow=False)
        finally:
            world.outsiders -= 1


def inner_world(world: World, slots: int) -> World:
    """Return the world of a pool that an agent is about to open."""
    program = attrs.evolve(world.program, max_concurrent=slots, most_agents=6, depth=16, descendants=1000)
    inner = type(world)(program, cap=slots, wholesale=True, outside=world.outside)
    world.inner.append(inner)
    return inner


async def beside_outsiders(world: World, run_pool: Callable[[], Awaitable[None]]) -> None:
    """Run a pool inside a nursery of the program's own; what the pool raises comes out as it is."""
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        world.outside = nursery
        try:
            await run_pool()
        except (Exception, SystemExit) as caught:
            error = caught
    if error is not None:
        raise error
