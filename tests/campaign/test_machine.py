"""A hypothesis state machine over a live pool, which runs as a guest of the machine's own loop."""

from __future__ import annotations

import queue
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import outcome
import trio
import trio.testing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from agentpool import Aborted, Completed, Failed, UnhandledAgentErrors, open_agent_pool

INBOX = 2


class GuestLoop:
    """Runs trio beside a host that calls it: each `do` comes back when everybody waits again."""

    def __init__(self, main: Callable[[], Awaitable[None]]) -> None:
        self._callbacks: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._outcome: outcome.Outcome[None] | None = None
        self.token: trio.lowlevel.TrioToken | None = None
        self.nursery: trio.Nursery | None = None
        self.clock = trio.testing.MockClock()

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                self.token = trio.lowlevel.current_trio_token()
                await main()

        trio.lowlevel.start_guest_run(
            run,
            run_sync_soon_threadsafe=self._callbacks.put,
            done_callback=self._done,
            host_uses_signal_set_wakeup_fd=True,
            clock=self.clock,
        )
        self._pump(lambda: self.token is not None)
        self.settle()

    def _done(self, result: outcome.Outcome[None]) -> None:
        self._outcome = result

    def _pump(self, is_enough: Callable[[], bool]) -> None:
        while not is_enough():
            self._callbacks.get(timeout=10)()

    def settle(self) -> None:
        """Let trio run until every task waits."""
        settled: list[bool] = []

        async def wait() -> None:
            await trio.testing.wait_all_tasks_blocked()
            settled.append(True)

        self.start(wait)
        self._pump(lambda: bool(settled) or self._outcome is not None)

    def start(self, fn: Callable[..., Awaitable[object]], *args: Any) -> None:
        assert self.token is not None
        assert self.nursery is not None
        self.token.run_sync_soon(self.nursery.start_soon, fn, *args)

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call a function in trio, and let everything settle that follows from it."""
        results: list[outcome.Outcome[Any]] = []
        assert self.token is not None
        self.token.run_sync_soon(lambda: results.append(outcome.capture(fn, *args)))
        self._pump(lambda: bool(results))
        self.settle()
        return results[0].unwrap()

    def finish(self) -> None:
        """Wait for the end of `main`, and raise what it raised."""
        self._pump(lambda: self._outcome is not None)
        assert self._outcome is not None
        self._outcome.unwrap()


class PoolMachine(RuleBasedStateMachine):
    """Spawns agents that do as they are told, and knows what has to become of them."""

    agents = Bundle("agents")

    def __init__(self) -> None:
        super().__init__()
        self.leave = trio.Event()
        self.orders: dict[int, trio.MemorySendChannel[tuple[str, Any]]] = {}
        self.handles: dict[int, Any] = {}
        self.fates: dict[int, tuple[type, Any]] = {}
        self.most = 2
        self.pool: Any = None
        self.asked = 0
        self.loop = GuestLoop(self._main)

    async def _main(self) -> None:
        try:
            async with open_agent_pool(max_concurrent=self.most, inbox_capacity=INBOX) as pool:
                self.pool = pool
                await self.leave.wait()
        except* UnhandledAgentErrors:
            pass

    async def _agent(self, ctx: Any, orders: trio.MemoryReceiveChannel[tuple[str, Any]]) -> Any:
        async for order, argument in orders:
            match order:
                case "finish":
                    return argument
                case "fail":
                    raise ValueError(argument)
                case "send":
                    with suppress(trio.WouldBlock):
                        ctx.send_nowait(*argument)
                case "receive":
                    await ctx.receive()
                case _:
                    raise AssertionError(order)

    async def _spawn(self) -> None:
        sender, receiver = trio.open_memory_channel[tuple[str, Any]](100)
        handle = await self.pool.spawn(self._agent, receiver)
        self.orders[handle.id] = sender
        self.handles[handle.id] = handle

    def _is_free(self, agent: int) -> bool:
        """Whether the agent takes orders: it has not ended, waits for no message, and has a slot."""
        return agent in self.orders and agent not in self.fates and self.handles[agent].status == "running"

    def _order(self, agent: int, order: str, argument: Any = None) -> None:
        self.loop.call(self.orders[agent].send_nowait, (order, argument))

    @rule(target=agents)
    def spawn(self) -> Any:
        self.asked += 1
        self.loop.start(self._spawn)
        self.loop.settle()
        return multiple(self.asked)

    @rule(agent=agents, value=st.integers())
    def finish(self, agent: int, value: int) -> None:
        if self._is_free(agent):
            self.fates[agent] = (Completed, value)
            self._order(agent, "finish", value)

    @rule(agent=agents)
    def fail(self, agent: int) -> None:
        if self._is_free(agent):
            self.fates[agent] = (Failed, None)
            self._order(agent, "fail")

    @rule(agent=agents)
    def abort(self, agent: int) -> None:
        if agent in self.handles:
            self.fates.setdefault(agent, (Aborted, None))
            self.loop.call(self.handles[agent].abort, "told to")

    @rule(agent=agents, to=agents)
    def send(self, agent: int, to: int) -> None:
        if self._is_free(agent) and to in self.handles and to not in self.fates and to != agent:
            before = self.loop.call(self.pool.statistics)
            has_room = before.inboxes[to].fill < INBOX
            self._order(agent, "send", (to, "hello"))
            assert self.loop.call(self.pool.statistics).messages_sent == before.messages_sent + has_room

    @rule(agent=agents)
    def receive(self, agent: int) -> None:
        if self._is_free(agent):
            fill = self.loop.call(self.pool.statistics).inboxes[agent].fill
            self._order(agent, "receive")
            assert self.handles[agent].status == ("running" if fill else "waiting")

    @rule(most=st.integers(1, 4))
    def change_slots(self, most: int) -> None:
        self.most = most
        self.loop.call(setattr, self.pool, "max_concurrent", most)

    @rule(seconds=st.floats(0, 100))
    def pass_time(self, seconds: float) -> None:
        self.loop.clock.jump(seconds)
        self.loop.settle()

    @rule()
    def abort_all(self) -> None:
        for agent in self.handles:
            self.fates.setdefault(agent, (Aborted, None))
        self.loop.call(self.pool.abort_all, "everybody")

    @invariant()
    def outcomes_are_as_told(self) -> None:
        for agent, handle in self.handles.items():
            if agent not in self.fates:
                assert handle.outcome is None
                continue
            kind, value = self.fates[agent]
            assert type(handle.outcome) is kind
            if kind is Completed:
                assert handle.outcome.value == value

    @invariant()
    def statistics_add_up(self) -> None:
        now = self.loop.call(self.pool.statistics)
        assert now.spawned == len(self.handles)
        assert now.ended == len(self.fates)
        assert now.waiting_to_start == self.asked - len(self.handles)
        assert self.pool.active_count == now.spawned - now.ended
        in_inboxes = sum(inbox.fill for inbox in now.inboxes.values())
        assert now.messages_sent == now.messages_received + now.dead_letters + in_inboxes
        # Nobody waits for a slot while one is free.
        assert not (now.waiting_to_start or now.queued) or now.running >= self.most

    def teardown(self) -> None:
        # Spawns that still wait for a slot get one by and by: whoever lives is told to go.
        for _ in range(self.asked + 1):
            self.loop.call(self.pool.abort_all, "the end")
        self.loop.call(self.leave.set)
        self.loop.finish()
        assert self.pool._books().problems() == []


PoolMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestPoolMachine = PoolMachine.TestCase
