"""The first result of a run that is too long.

A run has no hooks for such results until there is one: so others pay nothing for them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import attrs

from agentpool._core.messages import ToolCall, ToolResult
from agentpool._kernel.protection import protect_module

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext
    from agentpool._loop.run import Run

KEPT_BY_DEFAULT = ("agentpool.KeptResults", None, 100_000_000)
"""Under this key a pool holds the results that are kept where nobody has said how."""


@attrs.define(eq=False)
class TooLong:
    """Keeps a result that was cut, and has its run keep those that come.

    Attributes:
      run: set once it is there.
    """

    _ctx: AgentContext
    run: Run | None = None

    async def told(self, call: ToolCall, whole: ToolResult) -> ToolResult:
        """Return what the model is told of a result that is too long; that itself if it is not kept.

        Checkpoint: if it is kept. Cancellation: it may be kept, and nobody is told.
        """
        from agentpool._loop.behind_hooks import behind_hooks, kept_by_default

        run = self.run
        assert run is not None  # it has begun
        keeping = kept_by_default(run.tools)
        if keeping is None:
            return whole
        run.go_on_with(*behind_hooks([keeping], run.model, run.tools))
        return await keeping.after_tool_call(self._ctx, call, whole)


def has_kept(ctx: AgentContext) -> bool:
    """Whether results were kept in this pool, or in its run before that was resumed."""
    if ctx.is_held(KEPT_BY_DEFAULT):
        return True
    journal: Any = ctx.journal_path
    return journal is not None and os.path.isdir(f"{journal}.kept")


protect_module(globals())
