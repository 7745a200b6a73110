"""What runs a random program: its agents and the body of its pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import trio

from agentpool._core.budget import Budget
from agentpool._core.errors import (
    AgentAbortedError,
    AgentFailedError,
    DeadlockError,
)
from agentpool._core.limits import PoolLimits
from agentpool._core.outcomes import Completed
from agentpool._core.restart import RestartPolicy
from agentpool._kernel.opening import open_agent_pool
from agentpool._kernel.supervisor import ChildSpec, Supervisor

from ._houses import Houses, beside_outsiders
from ._programs import VAGUE, Op, Script
from ._readers import Reads
from ._talk import Talks
from ._trouble import Planned as Planned
from ._trouble import Trouble
from ._trouble import leaves as leaves
from ._world import World, is_expected, spawner_mark


async def script_agent(ctx: Any, world: World, number: int, mark: int) -> tuple[str, int]:
    """An agent that follows a script."""
    script = world.program.scripts[number]
    # A restarted body goes on in the context that the first one has changed.
    if ctx.id not in world.started and spawner_mark.get() != mark:
        world.problem(f"agent {ctx.id} started with the mark {spawner_mark.get()} and not {mark}")
    world.started.add(ctx.id)
    world.returned.discard(ctx.id)
    try:
        await Actor(world, script, ctx, ctx).run(script.ops)
    except Exception:
        world.raised_at[ctx.id] = trio.current_time()
        raise
    world.returned.add(ctx.id)
    return ("done", number)


@attrs.define(eq=False, slots=False)
class Actor(Talks, Trouble, Reads, Houses):
    """One agent, or the body of the pool, at work on its operations.

    A task of the program's own that uses the pool (`is_outside`) is taken for the body, but that
    nobody waits for it.
    """

    world: World
    script: Script
    scope: Any
    ctx: Any = None
    handles: list[Any] = attrs.field(factory=list)
    question: Any = None
    is_outside: bool = False
    fetched: set[int] = attrs.field(factory=set, init=False)
    kept: list[Any] = attrs.field(factory=list, init=False)
    deadline: float = attrs.field(factory=trio.current_effective_deadline, init=False)

    @property
    def id(self) -> int:
        return 0 if self.ctx is None else int(self.ctx.id)

    def _is_narrow(self) -> bool:
        """Whether a deadline of its own ends the agent's wait; one that has passed has not yet."""
        return trio.current_time() < trio.current_effective_deadline() < self.deadline

    def item_agent(self, number: int) -> Any:
        return _Item(self.world, number, self._arguments(number)[2])

    async def run(self, ops: Sequence[Op]) -> None:
        for op in ops:
            try:
                await self.perform(op)
            except Exception as error:
                self.world.raised(error, agent=self.id, narrow=self._is_narrow())
                if not (self.script.careful and is_expected(error)):
                    raise
                if any(isinstance(leaf, Planned) for leaf in leaves(error)):
                    raise

    @contextmanager
    def _waiting_for(self, *targets: int) -> Iterator[None]:
        waits = self.world.waiting.setdefault(self.id, [])
        entry = set(targets)
        waits.append(entry)
        try:
            yield
        except DeadlockError as alarm:
            # The error comes out when the agent has its slot, so that the check is made here.
            self.world.raised(alarm, agent=self.id, narrow=self._is_narrow())
            raise
        finally:
            waits.remove(entry)

    async def perform(self, op: Op) -> None:
        name, *arguments = op
        is_vague = name in VAGUE
        self.world.vague[self.id] += is_vague
        try:
            await getattr(self, f"do_{name}")(*arguments)
        except DeadlockError as alarm:
            self.world.raised(alarm, agent=self.id, narrow=self._is_narrow())
            raise
        finally:
            self.world.vague[self.id] -= is_vague

    # -- passing time -----------------------------------------------------------------------

    async def do_step(self) -> None:
        await trio.lowlevel.checkpoint()

    async def do_sleep(self, seconds: float) -> None:
        """Do something that the pool knows nothing of."""
        is_seen = not self.is_outside
        self.world.busy[self.id] += is_seen
        try:
            await trio.sleep(seconds)
        finally:
            self.world.busy[self.id] -= is_seen

    async def do_compute(self) -> None:
        """Run code over several steps, and count who else does."""
        world = self.world
        if trio.current_effective_deadline() <= trio.current_time():
            await trio.lowlevel.checkpoint()  # being cancelled: it unwinds without a slot
            return
        world.computing[self.id] = world.computing.get(self.id, 0) + 1
        running = sum(1 for agent, count in world.computing.items() if count and agent)
        if running > world.cap:
            world.problem(f"{running} agents ran at once, but max_concurrent is {world.cap}")
        try:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
        finally:
            world.computing[self.id] -= 1

    async def do_look(self) -> None:
        statistics = self.world.pool.statistics()
        repr(statistics)
        repr(self.world.pool)
        await trio.lowlevel.checkpoint()

    async def do_fail(self) -> None:
        if self.ctx is None:
            self.world.body_failed = self.world.wholesale = True
        raise Planned(f"agent {self.id}")

    async def do_exit(self) -> None:
        self.world.fatal = self.world.wholesale = True
        raise SystemExit(3)

    async def do_cancel(self) -> None:
        """The body is cancelled, by a scope of its own that ends with it."""
        with trio.CancelScope() as scope:
            scope.cancel()
            await self.run((("join_all",),))

    # -- children ------------------------------------------------------------------------------

    def _arguments(self, number: int) -> tuple[Any, ...]:
        self.world.marks += 1
        spawner_mark.set(self.world.marks)
        return (self.world, number, self.world.marks)

    def _keep(self, *handles: Any) -> None:
        self.world.owned.setdefault(self.id, []).extend(handles)
        self.handles.extend(handles)
        self.world.handles.extend(handles)

    def _may_spawn(self) -> None:
        if self.world.drained:
            self.world.problem(f"agent {self.id} spawned while the pool drained")

    async def do_spawn(self, number: int, limit: float | None = None, restart: str | None = None) -> None:
        if self.world.room():
            policy = None if restart is None else RestartPolicy(restart, max_restarts=2, within=1000)
            handle = await self.scope.spawn(
                script_agent, *self._arguments(number), timeout=limit, restart=policy
            )
            if limit is not None:
                self.world.timeouts[handle.id] = limit
            if policy is not None:
                self.world.restarting.add(handle.id)
            self._keep(handle)

    async def do_spawn_nowait(self, number: int) -> None:
        if self.world.room():
            handle = self.scope.spawn_nowait(script_agent, *self._arguments(number))
            self._may_spawn()
            self._keep(handle)
        await trio.lowlevel.checkpoint()

    async def do_fan_out(self, number: int, count: int) -> None:
        agents = []
        mark = self._arguments(number)[2]
        for _ in range(count):
            if self.world.room():
                agents.append(_Bound(self.world, number, mark))
        self._keep(*await self.scope.fan_out(agents))

    async def do_map(self, number: int, count: int) -> None:
        items = [index for index in range(count) if self.world.room()]
        mark = self._arguments(number)[2]
        outcomes = await self.scope.map(_Item(self.world, number, mark), items)
        if len(outcomes) != len(items):
            self.world.problem(f"map gave {len(outcomes)} outcomes for {len(items)} items")
        values = [outcome.value[2] if isinstance(outcome, Completed) else None for outcome in outcomes]
        if any(value not in (None, item) for value, item in zip(values, items, strict=False)):
            self.world.problem(f"map gave the values {values} for the items {items}")

    async def do_as_completed(self, number: int, count: int, take: int) -> None:
        items = [index for index in range(count) if self.world.room()]
        mark = self._arguments(number)[2]
        taken = 0
        async with self.scope.as_completed(_Item(self.world, number, mark), items) as done:
            async for _outcome in done:
                taken += 1
                if taken == take:
                    break
        if taken < min(take, len(items)):
            self.world.problem(f"as_completed ended after {taken} outcomes of {len(items)}")

    async def do_race(self, number: int, count: int) -> None:
        mark = self._arguments(number)[2]
        agents = [_Bound(self.world, number, mark) for _ in range(count) if self.world.room()]
        if agents:
            await self.scope.race(*agents)

    async def do_vote(self, number: int, count: int) -> None:
        mark = self._arguments(number)[2]
        if self.world.room():
            self.world.spawned += count
            await self.scope.vote(_Bound(self.world, number, mark), n=count, quorum=count // 2 + 1)

    async def do_supervise(self, number: int, count: int, strategy: str) -> None:
        mark = self._arguments(number)[2]
        children = [
            ChildSpec(_Bound(self.world, number, mark), mode="transient")
            for _ in range(count)
            if self.world.room()
        ]
        if children and self.world.room():
            supervisor = Supervisor(children, strategy=strategy, max_restarts=2, within=1000)  # type: ignore[arg-type]
            handle = await self.scope.spawn(supervisor)
            self.world.supervisors.add(handle.id)
            self._keep(handle)

    async def do_result(self, index: int) -> None:
        if self.handles:
            handle = self.handles[index % len(self.handles)]
            with self._waiting_for(handle.id):
                try:
                    await handle.result()
                except (AgentFailedError, AgentAbortedError):
                    self._fetched(handle.id)
                    raise
            self._fetched(handle.id)

    async def do_wait(self, index: int) -> None:
        if self.handles:
            handle = self.handles[index % len(self.handles)]
            with self._waiting_for(handle.id):
                outcome = await handle.wait()
            self._fetched(handle.id)
            if outcome is not handle.outcome:
                self.world.problem(f"wait() gave {outcome!r}, the handle has {handle.outcome!r}")

    async def do_wait_any(self, index: int) -> None:
        """Wait for somebody else's child, and so take its outcome from the joins."""
        others = [handle for handle in self.world.handles if handle.id != self.id]
        if others:
            handle = others[index % len(others)]
            with self._waiting_for(handle.id):
                await handle.wait()
            self._looked_at(handle.id)

    async def do_join_next(self) -> None:
        outcome = await self.scope.join_next()
        if self.handles and outcome is not None and outcome.parent_id != self.id:
            self.world.problem(f"join_next of agent {self.id} gave {outcome!r}, which is no child of it")
        if outcome is not None:
            self._joined([outcome.agent_id])

    async def do_join_all(self) -> None:
        self._joined(list(await self.scope.join_all()))

    def _joined(self, ids: list[int]) -> None:
        before = self.world.joined.setdefault(self.id, [])
        for agent_id in ids:
            self._looked_at(agent_id)
            if agent_id in self.fetched and self.id not in self.world.several:
                self.world.problem(
                    f"a join of agent {self.id} handed out {agent_id}, which a handle had taken"
                )
            if agent_id in before:
                self.world.problem(f"a join of agent {self.id} handed out {agent_id} twice")
            before.append(agent_id)

    def _fetched(self, agent_id: int) -> None:
        self.fetched.add(agent_id)
        self._looked_at(agent_id)

    def _looked_at(self, agent_id: int) -> None:
        self.world.looked.add(agent_id)

    def _abort(self, handles: Sequence[Any], index: int) -> None:
        if handles:
            handle = handles[index % len(handles)]
            reason = f"by {self.id}"
            self._mark_abort(handle, reason)
            handle.abort(reason)

    def _mark_abort(self, handle: Any, reason: str) -> None:
        if handle.status not in ("completed", "failed", "aborted"):
            self.world.aborts.setdefault(handle.id, (trio.current_time(), reason))

    async def do_abort(self, index: int) -> None:
        self._abort(self.handles, index)
        await trio.lowlevel.checkpoint()

    async def do_abort_any(self, index: int) -> None:
        self._abort(self.world.handles, index)
        await trio.lowlevel.checkpoint()

    async def do_abort_all(self) -> None:
        self.world.wholesale = True
        for handle in self.world.handles:
            self._mark_abort(handle, "all of you")
        self.world.pool.abort_all("all of you")
        await trio.lowlevel.checkpoint()

    async def do_drain(self, grace: float) -> None:
        self.world.wholesale = True
        self.world.drained = True
        survivors = await self.world.pool.drain(grace)
        if survivors:
            self.world.problem(f"drain left {survivors}")

    async def do_limit(self, count: int) -> None:
        # Those who run go on, so that more than the new number may run for a while.
        self.world.cap = max(self.world.cap, count)
        self.world.pool.max_concurrent = count
        await trio.lowlevel.checkpoint()

    # -- around other operations ---------------------------------------------------------------------

    async def do_within(self, seconds: float, ops: Sequence[Op]) -> None:
        with trio.move_on_after(seconds):
            await self.run(ops)

    async def do_both(self, first: Sequence[Op], second: Sequence[Op]) -> None:
        self.world.several.add(self.id)
        async with self.ctx.open_nursery() as nursery:
            nursery.start_soon(self.run, first)
            await self.run(second)

    async def do_unknown(self, seconds: float, op: Op) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, seconds)
            await self.run((op,))

    async def do_reserve(self, tokens: int, ops: Sequence[Op]) -> None:
        if self.ctx is None or self.ctx.budget is None:
            return
        reservation = self.ctx.budget.reserve(tokens=tokens)
        try:
            await self.run(ops)
        except BaseException:
            reservation.release()
            raise
        reservation.settle(tokens=tokens // 2)


@attrs.frozen
class _Bound:
    """A script as an agent without arguments."""

    world: World
    number: int
    mark: int
    name: str = "bound"

    async def __call__(self, ctx: Any) -> tuple[str, int]:
        return await script_agent(ctx, self.world, self.number, self.mark)


@attrs.frozen
class _Item:
    """A script as an agent for items."""

    world: World
    number: int
    mark: int
    name: str = "item"

    async def __call__(self, ctx: Any, item: int) -> tuple[str, int, int]:
        return (*await script_agent(ctx, self.world, self.number, self.mark), item)


async def run_program(world: World, **options: Any) -> None:
    """Open a pool and let the program's body do its operations in it."""
    if world.program.has_outside:
        await beside_outsiders(world, lambda: _run_pool(world, **options))
    else:
        await _run_pool(world, **options)


async def _run_pool(world: World, **options: Any) -> None:
    program = world.program
    world.cap = program.max_concurrent
    async with open_agent_pool(
        max_concurrent=program.max_concurrent,
        inbox_capacity=program.inbox_capacity,
        limits=PoolLimits(depth=program.depth, descendants=program.descendants),
        budget=Budget(tokens=10_000),
        **options,
    ) as pool:
        world.pool = pool
        try:
            await Actor(world, Script(program.body), pool).run(program.body)
        except BaseException as error:
            world.body_error = error
            raise
