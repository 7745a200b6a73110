"""Calls of tools: each is an agent of the pool, which its client hears of and may cancel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import trio

from agentpool._core.errors import PoolClosedError, PoolLimitError
from agentpool._core.events import AgentFinished, Event, PhaseChanged
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.opening import root_of
from agentpool._kernel.pool import AgentPool
from agentpool._kernel.slots import PoolFullError
from agentpool.abc import Approver
from agentpool.mcp_server._progress import SECONDS_BETWEEN, line_of, one_line
from agentpool.mcp_server._tools import AgentTool, Body

MOST_CALLS = 1_000
"""So many calls may run or wait for a slot at once; one more is an error at once."""
CLEANUP_SECONDS = 5.0
"""So long a call that was cancelled waits for its agent to end; the pool goes on waiting for it."""
_TURNS = 10
CANCELLED = "the client cancelled the call, or has gone"

Tell = Callable[[float, str], Awaitable[None]]
"""Sends a client a number that grows, and a line."""


class RefusedError(Exception):
    """No agent was spawned for a call; the text says why."""


@attrs.define(eq=False)
class Teller:
    """Tells a client what its agent does, at most every `SECONDS_BETWEEN` seconds.

    It keeps one line, the newest: no agent waits for a client that reads slowly.

    Invariant: `_count` grows with each line that was noted, so that the numbers a client gets grow too.
    """

    _tell: Tell
    _count: int = 0
    _line: str | None = None
    _noted: trio.Event = attrs.field(factory=trio.Event)

    def note(self, line: str) -> None:
        """Have a line told when it is time."""
        self._count += 1
        self._line = line
        self._noted.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._noted.wait()
            self._noted = trio.Event()
            line, self._line = self._line, None
            if line is not None:
                await self._tell(float(self._count), one_line(line))
                await trio.sleep(SECONDS_BETWEEN)


@attrs.define(eq=False)
class Call:
    """A call that is under way.

    Attributes:
      tool: what is called.
      teller: tells the client; None if it does not want to hear.
      ask: asks its client about a tool call; None if it cannot be asked.
      turns: for each agent that works on it, the turn that it is in.
      is_asked: set when its client has to be asked before the agent goes on.
    """

    tool: AgentTool
    teller: Teller | None = None
    ask: Approver | None = None
    is_asked: trio.Event = attrs.field(factory=trio.Event)
    turns: dict[AgentId, int] = attrs.field(factory=dict)

    def hear(self, event: Event, root: AgentId) -> None:
        """Take in an event of the call's agent, or of one that works for it."""
        if isinstance(event, PhaseChanged):
            self.turns[event.agent_id] = event.iteration
        elif isinstance(event, AgentFinished):
            self.turns.pop(event.agent_id, None)
        if self.teller is None:
            return
        line = line_of(event, self.turns.get(event.agent_id, 0))
        if line is not None:
            whose = "" if event.agent_id == root else f"agent {event.agent_id}: "
            self.teller.note(f"{whose}{line}")


@attrs.define(eq=False)
class Calls:
    """The calls that are under way in a pool. One reader of the pool's events serves all of them."""

    pool: AgentPool
    tools: Mapping[str, AgentTool]
    _calls: dict[AgentId, Call] = attrs.field(factory=dict)
    _count: int = 0  # of calls that run or wait for a slot
    _spawning: int = 0  # of those that wait for a slot

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand the pool's events to the calls that they are about, until cancelled."""
        async with self.pool.events(max_buffer=4096, overflow="drop_oldest") as events:
            task_status.started()
            async for event in events:
                root = root_of(self.pool, event.agent_id)
                call = self._calls.get(root)
                if call is not None:
                    call.hear(event, root)

    async def call_of(self, agent_id: AgentId) -> Call | None:
        """Return the call that an agent works for; None if it works for none.

        An agent that got its slot may ask before the task that waited for the slot has heard of it: that
        task is at most `_TURNS` turns of the scheduler behind.
        """
        for _ in range(_TURNS):
            call = self._calls.get(root_of(self.pool, agent_id))
            if call is not None or not self._spawning:
                return call
            await trio.lowlevel.checkpoint()
        return None

    async def spawn(self, call: Call, arguments: Mapping[str, Any]) -> AgentHandle[Any]:
        """Spawn the agent of a call, waiting for a slot.

        Raises:
          WrongArgumentsError: if the arguments are wrong.
          RefusedError: if there are too many calls, or the pool takes no more agents.

        Cancellation: nothing was spawned.
        """
        body = call.tool.begin(arguments)
        if self._count >= MOST_CALLS:
            raise RefusedError(f"{MOST_CALLS:,} calls are under way already. Try again later")
        self._count += 1
        try:
            handle = await self._spawned(call, body)
        except BaseException as error:
            self._count -= 1
            if isinstance(error, PoolClosedError):
                raise RefusedError("the server is ending: it starts no more agents") from error
            if isinstance(error, PoolLimitError):
                raise RefusedError(str(error)) from error
            raise
        return handle

    async def _spawned(self, call: Call, body: Body) -> AgentHandle[Any]:
        tool = call.tool
        options: dict[str, Any] = {
            "name": tool.agent_name,
            "timeout": tool.timeout,
            "restart": tool.restart,
        }
        try:
            handle = self.pool.spawn_nowait(body, **options)
        except PoolFullError:
            if call.teller is not None:
                call.teller.note("waits for a slot: as many agents run as may")
            self._spawning += 1
            try:
                handle = await self.pool.spawn(body, **options)
            finally:
                self._spawning -= 1
        self._calls[handle.id] = call
        return handle

    async def wait(self, call: Call, handle: AgentHandle[Any]) -> AnyOutcome | None:
        """Return how the agent of a call ended; None if its client has to be asked something before.

        Cancellation: the agent is aborted, with all that it spawned, and awaited for `CLEANUP_SECONDS`.
        """
        outcome: AnyOutcome | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_asked, call, nursery.cancel_scope)
                outcome = await handle.wait()
                nursery.cancel_scope.cancel("the agent has ended")
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            await self.abort(handle, CANCELLED)
            raise
        if outcome is not None:
            self._forget(handle)
        return outcome

    async def abort(self, handle: AgentHandle[Any], reason: str) -> None:
        """Abort the agent of a call, and wait for its end, but not longer than `CLEANUP_SECONDS`."""
        handle.abort(reason)
        with trio.move_on_after(CLEANUP_SECONDS, shield=True):
            await handle.wait()
        self._forget(handle)

    def _forget(self, handle: AgentHandle[Any]) -> None:
        if self._calls.pop(handle.id, None) is not None:
            self._count -= 1


async def _until_asked(call: Call, scope: trio.CancelScope) -> None:
    await call.is_asked.wait()
    scope.cancel("the client is asked")
