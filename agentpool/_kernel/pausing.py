"""A run that waits for a person who is not there: it ends as paused when nothing else is left to do."""

from __future__ import annotations

from typing import cast

import trio

from agentpool._core.approval import ApprovalRequest, Decision
from agentpool._core.errors import RunPausedError
from agentpool._kernel._trio_private import call_soon, effective_deadline_in, effective_deadline_of
from agentpool._kernel.protection import protect_module
from agentpool._kernel.state import PoolState
from agentpool._kernel.wait import Wait, Waiter, waits_outside


class OpenQuestionWait(Wait):
    """A wait that somebody outside of the pool will end: while it lasts, the work is not over."""

    @property
    def is_uncertain(self) -> bool:
        """Whether an agent that waits so is not at its end, though everybody in its pool waits."""
        return True


class Pause(trio.abc.Instrument):
    """Ends the pool with `RunPausedError` as soon as all that is left of it waits.

    Attributes:
      has_ended_it: whether it has ended the pool.

    It looks whenever trio is about to sleep, as long as something is asked: only then can all be at rest.
    """

    def __init__(self, state: PoolState) -> None:
        self._state = state
        self._asked: dict[str, ApprovalRequest] = {}
        self.has_ended_it = False

    async def wait_with(self, key: str, request: ApprovalRequest, waiter: Waiter | None) -> Decision:
        """Wait for the end of the pool, or for what cancels the agent before it: nobody ever decides.

        Args:
          key: under which the request is decided.
        """
        if not self._asked:
            trio.lowlevel.add_instrument(self)
        self._asked[key] = request
        try:
            return cast("Decision", await OpenQuestionWait(waiter).park(lambda _: None))
        finally:
            del self._asked[key]
            if not self._asked:
                trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """Look whether anything is left to do (called by trio)."""
        if self._is_at_rest():
            # An instrument must not wake tasks: trio has decided already how long it sleeps.
            call_soon(self._end)

    def _end(self) -> None:
        if self._is_at_rest():
            self.has_ended_it = True
            self._state.fatal_error(RunPausedError(self._asked))

    def _is_at_rest(self) -> bool:
        state = self._state
        if not self._asked or state.fatal is not None or state.judge.idle < len(state.judge.agents):
            return False
        # An agent whose wait ends by itself, or in another pool, goes on.
        waits = (wait for agent in state.judge.agents for wait in agent.waits)
        if any(wait.ends_by_itself or wait.looks_elsewhere for wait in waits):
            return False
        return state.body_ended or self._block_waits()

    def _block_waits(self) -> bool:
        """Whether the pool's block waits for agents, too, with no time limit of its own; else it goes on."""
        nursery = self._state.parts.nursery
        wait = waits_outside.get(nursery.parent_task)
        if wait is None or wait.happened:
            return False
        return effective_deadline_of(nursery.parent_task) >= effective_deadline_in(nursery)


protect_module(globals())
