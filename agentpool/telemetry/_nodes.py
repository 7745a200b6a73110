"""A span that was begun, where it stands in the tree, and how it is made the current one."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import attrs
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from agentpool._core.messages import AgentId

Kind: TypeAlias = Literal["pool", "agent", "turn", "call", "tool", "approval"]

_LAST = otel_context.create_key("agentpool-span")
"""The span that a trace of a pool made current last. If the current one is another, it is the user's."""


@attrs.define(eq=False)
class Node:
    """A span that was begun.

    Attributes:
      agent_id: whose it is; 0 for the pool's.
      above: inside which of ours it is; ended before that one is.
      key: names it among those that are open.
      started_at: in nanoseconds.
      below: what is open inside of it, agents left out: they end by themselves.
      number: of a turn.
      request: of the last model call inside, by which attempts are counted.
      attempts: how often that was asked.
      offered: the names of the tools that the model was offered.
      metric: what metrics say of it.
      before: what was current when it became so.
    """

    kind: Kind
    agent_id: AgentId
    span: Span
    above: Node | None
    key: object
    started_at: int
    below: dict[object, Node] = attrs.field(factory=dict)
    is_open: bool = True
    number: int = 0
    request: object = None
    attempts: int = 0
    offered: frozenset[str] = frozenset()
    metric: dict[str, Any] = attrs.field(factory=dict)
    before: Span = trace.INVALID_SPAN
    _is_before_ours: bool = False

    def enter(self, key: str) -> None:
        """Make its span the current one, in the context variables in which this is called.

        Without a token to be given back: whoever leaves may be in another context, where a token is an
        error, and that context ends by itself.

        Args:
          key: that of the trace, under which its innermost node is found.
        """
        context = otel_context.get_current()
        self.before = trace.get_current_span(context)
        self._is_before_ours = is_ours(context, self.before)
        _attach(context, key, self, self.span, is_ours=True)

    def leave(self, key: str) -> None:
        """Make that the current one which was so before; nothing if another has become it since."""
        context = otel_context.get_current()
        if otel_context.get_value(key, context) is not self:
            return
        if trace.get_current_span(context) is not self.span:  # another trace of the same pool has gone on
            otel_context.attach(otel_context.set_value(key, self.above, context))
        elif self._is_before_ours and self.above is not None:
            # Not what was so before: it may be one of another trace, which has ended.
            _attach(context, key, self.above, self.above.span, is_ours=True)
        else:
            _attach(context, key, self.above, self.before, is_ours=self._is_before_ours)


def _attach(context: Context, key: str, node: Node | None, span: Span, *, is_ours: bool) -> None:
    context = trace.set_span_in_context(span, context)
    context = otel_context.set_value(key, node, context)
    otel_context.attach(otel_context.set_value(_LAST, span, context) if is_ours else context)


def is_ours(context: Context, span: Span) -> bool:
    """Whether the current span of a context was made by the trace of a pool."""
    return otel_context.get_value(_LAST, context) is span
