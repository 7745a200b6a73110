"""`--otel`: what happens is sent to OpenTelemetry, as the standard OTEL_* variables say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from importlib.metadata import entry_points
from typing import Any

from agentpool._kernel.pool import AgentPool
from agentpool.cli._errors import BadInputError

_INSTALL = "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@contextmanager
def exporting(is_wanted: bool) -> Iterator[None]:
    """Have an SDK of OpenTelemetry export while the block runs; what is left is sent at its end.

    It is that of the whole process, so that the spans of tools go the same way.

    Raises:
      BadInputError: if the SDK or an exporter is not installed, or a variable asks for one that is not known.
    """
    if not is_wanted or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield
        return
    providers = _set_up()
    try:
        with _incoming():
            yield
    finally:
        for provider in providers:
            provider.shutdown()


def traced(pool: AgentPool, is_wanted: bool) -> AbstractAsyncContextManager[None]:
    """Return the block in which a pool is traced; one that does nothing if that is not wanted."""
    if not is_wanted:
        return nullcontext()
    from agentpool.telemetry import trace_pool

    captured = os.environ.get(_CAPTURE, "").strip().lower()
    return trace_pool(pool, contents=captured in ("true", "1", "span_only", "span_and_event"))


def _set_up() -> list[Any]:
    try:
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise BadInputError(f"--otel needs the SDK of OpenTelemetry: {_INSTALL}") from error
    span_exporters, metric_exporters = _exporters_of("traces"), _exporters_of("metrics")
    resource = _resource()
    tracers = TracerProvider(resource=resource)
    for exporter in span_exporters:
        tracers.add_span_processor(BatchSpanProcessor(exporter()))
    readers = [PeriodicExportingMetricReader(exporter()) for exporter in metric_exporters]
    meters = MeterProvider(readers, resource)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    return [tracers, meters]


def _resource() -> Any:
    from opentelemetry.sdk.resources import Resource

    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    return Resource.create({} if named else {"service.name": "agentpool"})


def _exporters_of(signal: str) -> list[Any]:
    """Return the classes of exporters that the environment asks for.

    Args:
      signal: `traces` or `metrics`.
    """
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    names = [name.strip() for name in os.environ.get(variable, "otlp").split(",")]
    return [_exporter(signal, name or "otlp", variable) for name in names if name != "none"]


def _exporter(signal: str, name: str, variable: str) -> Any:
    asked_by = f"{variable}={name}"
    if name == "otlp":
        specific = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
        protocol = os.environ.get(specific) or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        protocol = protocol or "http/protobuf"
        if protocol not in _PROTOCOLS:
            known = " or ".join(_PROTOCOLS)
            raise BadInputError(f"OTEL_EXPORTER_OTLP_PROTOCOL must be {known}, not {protocol!r}")
        name, asked_by = _PROTOCOLS[protocol], f"the protocol {protocol}"
    found = list(entry_points(group=f"opentelemetry_{signal}_exporter", name=name))
    try:
        return found[0].load()
    except (IndexError, ImportError) as error:
        package = f"opentelemetry-exporter-{name.replace('_', '-')}"
        fix = _INSTALL if name == "otlp_proto_http" else f"pip install {package}"
        raise BadInputError(f"--otel has no exporter for {asked_by}: {fix}") from error


@contextmanager
def _incoming() -> Iterator[None]:
    """Begin inside of the span that called, if the environment names one by TRACEPARENT."""
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {
        name.lower(): os.environ[name] for name in ("TRACEPARENT", "TRACESTATE") if os.environ.get(name)
    }
    token = context.attach(TraceContextTextMapPropagator().extract(carrier))
    try:
        yield
    finally:
        context.detach(token)
