"""OpenTelemetry: what happens in a pool as spans and metrics. Needs `pip install 'trio-agentpool[otel]'`."""

from agentpool.telemetry._block import trace_pool as trace_pool

trace_pool.__module__ = __name__

__all__ = ["trace_pool"]
