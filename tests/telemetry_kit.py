"""What the tests of telemetry share: the spans and metrics of a run, as they come out of a real SDK."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class _Open(SpanProcessor):
    """Counts the spans that were begun and not ended."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.started = 0

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.started += 1
        self.names[id(span)] = span.name
        self._kept = [*getattr(self, "_kept", []), span][-10_000:]

    def on_end(self, span: ReadableSpan) -> None:
        for kept in self._kept:
            if kept.get_span_context().span_id == span.get_span_context().span_id:
                self.names.pop(id(kept), None)


class Recorded:
    """Where the spans and metrics of a test go."""

    def __init__(self, *, counts_open: bool = True) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.open = _Open()
        if counts_open:
            self.tracers.add_span_processor(self.open)
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("the test's own")

    @property
    def options(self) -> dict[str, Any]:
        """What `trace_pool` is given."""
        return {"tracer_provider": self.tracers, "meter_provider": self.meters}

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def parent_of(self, span: ReadableSpan) -> str | None:
        """The name of the span around one; None for one that has none."""
        if span.parent is None:
            return None
        return {each.context.span_id: each.name for each in self.spans if each.context}[span.parent.span_id]

    def path(self, name: str) -> str:
        """The names of a span and all around it, the outermost first."""
        by_id = {span.context.span_id: span for span in self.spans if span.context}
        names, span = [name], self.named(name)[0]
        while span.parent is not None and span.parent.span_id in by_id:
            span = by_id[span.parent.span_id]
            names.append(span.name)
        return " / ".join(reversed(names))

    def tree(self) -> list[str]:
        """The spans as an indented outline, in the order in which they began."""
        below: dict[int | None, list[ReadableSpan]] = {}
        for span in self.spans:
            below.setdefault(None if span.parent is None else span.parent.span_id, []).append(span)
        lines: list[str] = []

        def show(parent: int | None, depth: int) -> None:
            for span in sorted(below.get(parent, []), key=lambda each: each.start_time or 0):
                lines.append("  " * depth + span.name)
                assert span.context is not None
                show(span.context.span_id, depth + 1)

        show(None, 0)
        return lines

    def problems(self) -> list[str]:
        """What no trace of a run may have, in words."""
        found = [f"{name} was never ended" for name in self.open.names.values()]
        ids = {span.context.span_id: span for span in self.spans if span.context}
        roots = [span for span in self.spans if span.parent is None]
        if len(roots) != 1:
            found.append(f"{len(roots)} roots: {[span.name for span in roots]}")
        if len({span.context.trace_id for span in self.spans if span.context}) > 1:
            found.append("more than one trace")
        for span in self.spans:
            assert span.start_time is not None
            assert span.end_time is not None
            if span.end_time < span.start_time:
                found.append(f"{span.name} ended before it began")
            if span.parent is not None and span.parent.span_id not in ids:
                found.append(f"{span.name} has a parent that is not there")
        return found

    def metrics(self) -> Mapping[str, list[tuple[dict[str, Any], Any]]]:
        """The points of each metric: their attributes, and the sum, or the count of a histogram."""
        data = self.reader.get_metrics_data()
        found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = [
                        (
                            dict(point.attributes or {}),
                            point.value if hasattr(point, "value") else point.count,
                        )
                        for point in metric.data.data_points
                    ]
        return found


def texts_of(spans: Sequence[ReadableSpan]) -> str:
    """Everything that spans say: attributes, status, events and links."""
    return "\n".join(span.to_json() for span in spans)


class Blocked(InMemorySpanExporter):
    """An exporter that blocks until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def export(self, spans: Any) -> Any:
        self.let_go.wait(30)
        return super().export(spans)
