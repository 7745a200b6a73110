"""From the events of a pool to its spans.

    invoke_workflow                 the pool
      invoke_agent NAME             an agent, inside of whatever was current where it was spawned
        turn N                      one pass of its loop
          chat MODEL                one model call: each attempt, each fallback
          execute_tool NAME         one tool call
          approve NAME              the wait for a decision on a tool call

Each event is taken in the step in which it happens, where it happens: so none is ever missed, and a span
is the current one before the code runs that it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer

from agentpool._core import events as ev
from agentpool._core.approval import Denied
from agentpool._core.messages import SUPERVISOR, AgentId
from agentpool._core.outcomes import Aborted, AgentResult, AnyOutcome, Completed, Failed
from agentpool._core.text import told
from agentpool._kernel.pool import AgentPool
from agentpool._kernel.state import PoolState
from agentpool.telemetry import _attributes as said
from agentpool.telemetry._contents import (
    contents_of_answer,
    contents_of_call,
    contents_of_request,
    contents_of_result,
    contents_of_text,
)
from agentpool.telemetry._ending import SpanEnder
from agentpool.telemetry._log import warn_once
from agentpool.telemetry._metrics import Instruments
from agentpool.telemetry._nodes import Kind, Node, is_ours

_open_traces: WeakKeyDictionary[PoolState, list[Node]] = WeakKeyDictionary()
"""The spans of pools that are open: more than one where a pool is traced more than once."""


def _outside_of(traces: Sequence[Node]) -> Span:
    """Return the current span; where it is that of another trace of the same pool, what was so before it.

    Each trace is a tree of its own: the other's spans may go to another provider.
    """
    current = trace.get_current_span()
    for root in reversed(traces):
        if current is root.span:
            current = root.before
    return current


class PoolTrace:
    """The spans of one pool, and its share in the metrics.

    Args:
      pool: whose events it is shown.
      tracer: makes the spans.
      instruments: what is counted.
      ender: ends the spans.
      wall_clock: makes nanoseconds of the time of trio's clock.
      contents: whether what was said is sent too.
    """

    def __init__(
        self,
        pool: AgentPool,
        tracer: Tracer,
        instruments: Instruments,
        ender: SpanEnder,
        wall_clock: Callable[[float], int],
        *,
        contents: bool,
    ) -> None:
        self._pool = pool
        self._tracer = tracer
        self._instruments = instruments
        self._ender = ender
        self._wall_clock = wall_clock
        self._contents = contents
        self._key = otel_context.create_key("agentpool-node")
        self._spawned: dict[AgentId, tuple[str, float]] = {}
        self._agents: dict[AgentId, Node] = {}
        self._open: dict[object, Node] = {}
        self._root: Node | None = None
        self._entered: Node | None = None
        self._outside: Span = trace.INVALID_SPAN
        self._take: dict[type[ev.Event], Callable[[Any], None]] = {
            ev.AgentSpawned: self._agent_spawned,
            ev.AgentStarted: self._agent_started,
            ev.AgentRestarted: self._agent_restarted,
            ev.AgentFinished: self._agent_finished,
            ev.PhaseChanged: self._phase_changed,
            ev.LoopFinished: self._loop_finished,
            ev.ModelCallStarted: self._call_started,
            ev.ModelCallFinished: self._call_finished,
            ev.ToolStarted: self._tool_started,
            ev.ToolFinished: self._tool_finished,
            ev.ApprovalRequested: self._approval_requested,
            ev.ApprovalDecided: self._approval_decided,
            ev.ContextCompacted: self._compacted,
            ev.MessageSent: self._message_sent,
            ev.MessageDeadLettered: self._message_dead_lettered,
            ev.BudgetWarned: self._warned,
            ev.GuardWarned: self._warned,
            ev.DeadlockSuspected: self._deadlock_suspected,
            ev.AgentStuck: self._agent_stuck,
        }

    def show(self, event: ev.Event) -> None:
        """Take an event. Never raises: what goes wrong here is no business of the agent's."""
        take = self._take.get(type(event))
        if take is None or self._root is None:
            return
        try:
            take(event)
        except Exception as error:
            warn_once(f"{type(event).__name__} could not be traced", error)

    # -- the pool ------------------------------------------------------------------------------------

    def open(self, time: float) -> None:
        """Begin the pool's span, inside of the current one."""
        others = _open_traces.setdefault(self._pool._state, [])
        self._outside = _outside_of(others)
        attributes: said.Attributes = {
            "gen_ai.operation.name": "invoke_workflow",
            "agentpool.max_concurrent": self._pool.max_concurrent,
        }
        context = trace.set_span_in_context(self._outside)
        at = self._wall_clock(time)
        span = self._tracer.start_span("invoke_workflow", context, attributes=attributes, start_time=at)
        self._root = Node("pool", SUPERVISOR, span, None, "pool", at)
        others.append(self._root)
        self._instruments.pools.add(self._pool)
        for record in self._pool._state.records.values():
            if record.tasks:
                self._agent_of(record.id)
            else:
                self._spawned[record.id] = (record.name, record.started_at)

    @property
    def is_open(self) -> bool:
        """Whether the pool's span has begun, and not ended."""
        return self._root is not None

    def enter(self) -> None:
        """Make the pool's span the current one, for whoever calls this; nothing if the pool has ended."""
        self._entered = self._root
        if self._entered is not None:
            self._entered.enter(self._key)

    def leave(self) -> None:
        """Make that the current span again which was so before `enter`."""
        entered, self._entered = self._entered, None
        if entered is not None:
            entered.leave(self._key)

    def close(self, time: float, error: BaseException | None = None) -> None:
        """End the pool's span, and before it all that is still open; harmless if repeated.

        Args:
          time: on trio's clock.
          error: what the block raised.
        """
        root, self._root = self._root, None
        if root is None:
            return
        self._instruments.pools.discard(self._pool)
        _open_traces[self._pool._state].remove(root)
        at = self._wall_clock(time)
        for node in reversed(self._agents.values()):
            self._end(node, at, said.NOT_ENDED)
        self._agents.clear()
        self._spawned.clear()
        statistics = self._pool.statistics()
        root.span.set_attributes(
            {
                "agentpool.agents.spawned": statistics.spawned,
                "agentpool.messages.sent": statistics.messages_sent,
                "agentpool.messages.dead_lettered": statistics.dead_letters,
                "agentpool.usage.input_tokens": statistics.usage.input_tokens,
                "agentpool.usage.output_tokens": statistics.usage.output_tokens,
                "agentpool.usage.cost_usd": statistics.usage.cost_usd,
            }
        )
        kind = None
        if error is not None:
            kind = said.error_type(error) if isinstance(error, Exception) else said.CANCELLED
        self._end(root, at, kind, error=error)

    # -- agents --------------------------------------------------------------------------------------

    def _agent_spawned(self, event: ev.AgentSpawned) -> None:
        # Whoever frees a slot may start the agent of another: the context is the wrong one here.
        self._spawned[event.agent_id] = (event.name, event.time)

    def _agent_started(self, event: ev.AgentStarted) -> None:
        node = self._agents.get(event.agent_id)
        if node is None:
            name, at = self._spawned.pop(event.agent_id, ("", event.time))
            node = self._start_agent(event.agent_id, name or "agent", event.parent_id, at)
        node.enter(self._key)

    def _start_agent(self, agent_id: AgentId, name: str, parent_id: AgentId, time: float) -> Node:
        """Begin the span of an agent, in the context of whoever spawned it."""
        root = self._root
        assert root is not None
        context = otel_context.get_current()
        current = trace.get_current_span(context)
        links: list[Link] = []
        if not self._is_of_user(context, current):
            spawner = otel_context.get_value(self._key, context)
            above = spawner if isinstance(spawner, Node) else root
            context = trace.set_span_in_context(above.span, context)
        elif current.get_span_context().trace_id != root.span.get_span_context().trace_id:
            links = [Link(root.span.get_span_context(), {"agentpool.link": "pool"})]
        attributes = said.attributes_of_agent(agent_id, name, parent_id)
        return self._add_agent(agent_id, f"invoke_agent {name}", context, time, attributes, links)

    def _add_agent(
        self,
        agent_id: AgentId,
        name: str,
        context: Context,
        time: float,
        attributes: said.Attributes,
        links: Sequence[Link] = (),
    ) -> Node:
        at = self._wall_clock(time)
        span = self._tracer.start_span(name, context, attributes=attributes, links=links, start_time=at)
        node = self._agents[agent_id] = Node("agent", agent_id, span, self._root, ("agent", agent_id), at)
        return node

    def _agent_of(self, agent_id: AgentId, outcome: AnyOutcome | None = None) -> Node:
        """Return the span of an agent; begun now for one that ran before the block of `trace_pool` did."""
        root = self._root
        assert root is not None
        if agent_id == SUPERVISOR:
            return root
        node = self._agents.get(agent_id)
        if node is not None:
            return node
        self._spawned.pop(agent_id, None)
        of: Any = self._pool._state.records.get(agent_id) or outcome
        if of is None:
            return root
        attributes = {**said.attributes_of_agent(agent_id, of.name, of.parent_id), "agentpool.is_late": True}
        parent = self._agents.get(of.parent_id, root)
        context = trace.set_span_in_context(parent.span, Context())
        return self._add_agent(agent_id, f"invoke_agent {of.name}", context, of.started_at, attributes)

    def _agent_restarted(self, event: ev.AgentRestarted) -> None:
        node = self._agent_of(event.agent_id)
        self._end_below(node, self._wall_clock(event.time), said.CANCELLED)
        attributes: said.Attributes = {"agentpool.restarts": event.restarts}
        kind = said.error_type_of_outcome(event.outcome)
        if kind is not None:
            attributes["error.type"] = kind
        self._note(node, "agentpool.restarted", attributes, event.time)
        self._instruments.restarts.add(1)

    def _agent_finished(self, event: ev.AgentFinished) -> None:
        outcome = event.outcome
        node = self._agent_of(event.agent_id, outcome)
        self._agents.pop(event.agent_id, None)
        kind = said.error_type_of_outcome(outcome)
        error = outcome.error if isinstance(outcome, Failed) else None
        if node.span.is_recording():
            node.span.set_attributes(said.attributes_of_outcome(outcome))
            if self._contents:
                self._add_contents_of(node.span, outcome)
        self._end(node, self._wall_clock(event.time), kind, error=error)
        metric = {"agentpool.outcome": type(outcome).__name__.lower()}
        if kind is not None:
            metric["error.type"] = kind
        self._instruments.agent_seconds.record(max(0.0, outcome.duration), metric)

    def _add_contents_of(self, span: Span, outcome: AnyOutcome) -> None:
        if isinstance(outcome, Aborted) and outcome.reason:
            span.set_attributes(contents_of_text("agentpool.abort_reason", outcome.reason))
        elif isinstance(outcome, Completed) and isinstance(outcome.value, AgentResult):
            span.set_attributes(contents_of_text("agentpool.answer", outcome.value.text))

    def _agent_stuck(self, event: ev.AgentStuck) -> None:
        self._note(self._agent_of(event.agent_id), "agentpool.stuck", {}, event.time)

    # -- turns ---------------------------------------------------------------------------------------

    def _phase_changed(self, event: ev.PhaseChanged) -> None:
        here = self._here(event.agent_id)
        if here.kind == "turn":
            if here.number == event.iteration:
                return
            self._end(here, self._wall_clock(event.time))
            here.leave(self._key)
        turn = self._start(
            "turn",
            ("turn", event.seq),
            f"turn {event.iteration}",
            event,
            {"agentpool.turn": event.iteration},
        )
        turn.number = event.iteration
        turn.offered = here.offered
        turn.enter(self._key)

    def _loop_finished(self, event: ev.LoopFinished) -> None:
        here = self._here(event.agent_id)
        if here.kind == "turn":
            self._end(here, self._wall_clock(event.time))
            here.leave(self._key)

    # -- model calls ---------------------------------------------------------------------------------

    def _call_started(self, event: ev.ModelCallStarted) -> None:
        above = self._here(event.agent_id)
        above.attempts = above.attempts + 1 if above.request is event.request else 1
        if above.request is not event.request:
            above.request = event.request
            above.offered = frozenset(each.name for each in event.request.tools)
        metric = said.metric_attributes_of_call(event)
        attributes = {**metric, **said.attributes_of_call(event, above.attempts)}
        name = f"chat {event.model}" if event.model else "chat"
        node = self._start("call", ("call", event.seq), name, event, attributes, SpanKind.CLIENT)
        node.metric = metric
        agent = self._agent_of(event.agent_id)
        if not agent.metric:
            agent.metric = {"gen_ai.provider.name": metric["gen_ai.provider.name"]}
            if agent.agent_id != SUPERVISOR:
                agent.span.set_attributes(agent.metric)
        if self._contents and node.span.is_recording():
            node.span.set_attributes(contents_of_request(event.request))
        node.enter(self._key)

    def _call_finished(self, event: ev.ModelCallFinished) -> None:
        node = self._open.get(("call", event.started))
        if node is None:
            return
        kind = None
        if event.completion is None:
            kind = said.CANCELLED if event.error is None else said.error_type(event.error)
        metric = node.metric if kind is None else {**node.metric, "error.type": kind}
        if event.completion is not None:
            answer = said.attributes_of_answer(event.completion)
            if "gen_ai.response.model" in answer:
                metric = {**metric, "gen_ai.response.model": answer["gen_ai.response.model"]}
            self._instruments.count_tokens(event.completion.usage, metric)
            if self._contents:
                (reason,) = answer["gen_ai.response.finish_reasons"]
                answer.update(contents_of_answer(event.completion, reason))
            node.span.set_attributes(answer)
        if event.first_part is not None:
            node.span.set_attribute("gen_ai.response.time_to_first_chunk", event.first_part)
            self._instruments.first_part_seconds.record(event.first_part, metric)
        self._instruments.call_seconds.record(event.duration, metric)
        self._end(node, self._wall_clock(event.time), kind, error=event.error)
        node.leave(self._key)

    def _compacted(self, event: ev.ContextCompacted) -> None:
        here = self._here(event.agent_id)
        self._note(here, "agentpool.context_compacted", said.attributes_of_compaction(event), event.time)

    # -- tool calls ----------------------------------------------------------------------------------

    def _tool_started(self, event: ev.ToolStarted) -> None:
        call = event.call
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": call.name,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": call.id,
        }
        above = self._here(event.agent_id)
        # A model may make names up, and each would be a series of its own in the metrics.
        name = call.name if call.name in above.offered else "_OTHER"
        node = self._start("tool", ("tool", id(call)), f"execute_tool {call.name}", event, attributes)
        node.request = call  # kept, so that its `id` stays its own
        node.metric = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
        if self._contents and node.span.is_recording():
            node.span.set_attributes(contents_of_call(call))
        node.enter(self._key)

    def _tool_finished(self, event: ev.ToolFinished) -> None:
        node = self._open.get(("tool", id(event.call)))
        if node is None:
            return
        if self._contents and node.span.is_recording():
            node.span.set_attributes(contents_of_result(event.result))
        kind = "tool_error" if event.result.is_error else None
        metric = node.metric if kind is None else {**node.metric, "error.type": kind}
        self._instruments.tool_seconds.record(max(0.0, event.duration), metric)
        self._end(node, self._wall_clock(event.time), kind)
        node.leave(self._key)

    def _approval_requested(self, event: ev.ApprovalRequested) -> None:
        call = event.request.call
        attributes = {
            "gen_ai.tool.name": call.name,
            "gen_ai.tool.call.id": call.id,
        }
        key = ("approval", id(event.request))
        node = self._start("approval", key, f"approve {call.name}", event, attributes)
        node.request = event.request

    def _approval_decided(self, event: ev.ApprovalDecided) -> None:
        decision = "denied" if isinstance(event.decision, Denied) else "approved"
        node = self._open.get(("approval", id(event.request)))
        attributes = {"agentpool.decision": decision}
        if node is None:  # a rule decided, or it was decided before
            attributes["gen_ai.tool.name"] = event.request.call.name
            self._note(self._here(event.agent_id), "agentpool.approval_decided", attributes, event.time)
            return
        node.span.set_attributes(attributes)
        at = self._wall_clock(event.time)
        self._instruments.approval_seconds.record(max(0, at - node.started_at) / 1e9, attributes)
        self._end(node, at)

    # -- messages ------------------------------------------------------------------------------------

    def _message_sent(self, event: ev.MessageSent) -> None:
        message = event.message
        kind = "message"
        if message.reply_to is not None:
            kind = "reply"
        elif message.topic is not None:
            kind = "topic"
        self._instruments.messages.add(1, {"agentpool.message.kind": kind})
        to = self._agent_of(message.to)
        if not to.span.is_recording():
            return
        context = otel_context.get_current()
        current = trace.get_current_span(context)
        source = current if self._is_of_user(context, current) else self._here(message.sender).span
        to.span.add_link(
            source.get_span_context(),
            {
                "agentpool.link": kind,
                "agentpool.message.id": message.id,
                "agentpool.message.from": message.sender,
            },
        )

    def _message_dead_lettered(self, event: ev.MessageDeadLettered) -> None:
        self._instruments.dead_letters.add(1)
        message = event.message
        attributes = {"agentpool.message.id": message.id, "agentpool.message.to": message.to}
        sender = self._agents.get(message.sender, self._root)
        assert sender is not None
        self._note(sender, "agentpool.dead_letter", attributes, event.time)

    # -- warnings ------------------------------------------------------------------------------------

    def _warned(self, event: ev.BudgetWarned | ev.GuardWarned) -> None:
        name = "agentpool.budget_warned" if isinstance(event, ev.BudgetWarned) else "agentpool.guard_warned"
        attributes = contents_of_text("agentpool.text", event.text) if self._contents else {}
        self._note(self._here(event.agent_id), name, attributes, event.time)

    def _deadlock_suspected(self, event: ev.DeadlockSuspected) -> None:
        attributes = {"agentpool.path": list(event.path)}
        self._note(self._agent_of(event.agent_id), "agentpool.deadlock_suspected", attributes, event.time)

    # -- the tree ------------------------------------------------------------------------------------

    def _is_of_user(self, context: Context, current: Span) -> bool:
        """Whether the current span is one that was begun inside of ours, or elsewhere, by somebody else."""
        if not current.get_span_context().is_valid or current is self._outside:
            return False
        return not is_ours(context, current)

    def _here(self, agent_id: AgentId) -> Node:
        """Return the innermost span of an agent that is open where the current event happens."""
        node = otel_context.get_value(self._key)
        while isinstance(node, Node) and not (node.is_open and node.agent_id == agent_id):
            node = node.above if node.agent_id == agent_id else None
        return node if isinstance(node, Node) else self._agent_of(agent_id)

    def _start(
        self,
        kind: Kind,
        key: object,
        name: str,
        event: ev.Event,
        attributes: said.Attributes,
        span_kind: SpanKind = SpanKind.INTERNAL,
    ) -> Node:
        """Begin a span inside of what is open where the event happens, or of a user's span in that."""
        above = self._here(event.agent_id)
        context = otel_context.get_current()
        is_inside = otel_context.get_value(self._key, context) is above
        if not (is_inside and self._is_of_user(context, trace.get_current_span(context))):
            context = trace.set_span_in_context(above.span, context)
        at = self._wall_clock(event.time)
        span = self._tracer.start_span(name, context, span_kind, attributes, start_time=at)
        node = Node(kind, event.agent_id, span, above, key, at)
        above.below[key] = self._open[key] = node
        return node

    def _end(
        self, node: Node, at: int, kind: str | None = None, *, error: BaseException | None = None
    ) -> None:
        """End a span, and before it those inside of it.

        Args:
          at: when, in nanoseconds.
          kind: what went wrong, in few words; None if nothing did.
          error: what was raised; its text is sent with the contents only.
        """
        if not node.is_open:
            return
        node.is_open = False
        self._end_below(node, at, said.NOT_ENDED if kind == said.NOT_ENDED else said.CANCELLED)
        self._open.pop(node.key, None)
        if node.above is not None:
            node.above.below.pop(node.key, None)
        if kind is not None:
            node.span.set_attribute("error.type", kind)
            node.span.set_status(Status(StatusCode.ERROR, kind))
            if error is not None and self._contents:
                node.span.set_attributes(contents_of_text("agentpool.error", told(error)))
        self._ender.end(node.span, max(at, node.started_at))

    def _end_below(self, node: Node, at: int, kind: str) -> None:
        for inner in tuple(node.below.values()):
            # What a turn ends with is what was in it: a turn itself went no wrong way.
            self._end(inner, at, kind)

    def _note(self, node: Node, name: str, attributes: said.Attributes, time: float) -> None:
        if node.span.is_recording():
            node.span.add_event(name, attributes, self._wall_clock(time))
