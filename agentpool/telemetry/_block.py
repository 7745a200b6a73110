"""`trace_pool`: the block in which a pool is traced."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from agentpool._blocking import run_blocking
from agentpool._core.text import shown
from agentpool._kernel.pool import AgentPool

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from agentpool._kernel.log import Tap
    from agentpool.telemetry._ending import SpanEnder
    from agentpool.telemetry._tree import PoolTrace

EXPORT_SECONDS = 5.0
"""How long the end of the block waits for an exporter that blocks."""

_NEEDS = (
    "telemetry needs OpenTelemetry, which is not installed: pip install 'trio-agentpool[otel]'"
    " (in a clone: pip install '.[otel]')"
)


def trace_pool(
    pool: AgentPool,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    contents: bool = False,
) -> AbstractAsyncContextManager[None]:
    """Have what happens in a pool told to OpenTelemetry, as spans and metrics, while the block runs.

    The pool, its agents, their turns, model calls and tool calls are spans, by the GenAI semantic
    conventions. The pool's span begins and ends with the block, inside of the span that was current
    before. An agent's span is inside of the one that was current where it was spawned. What the code of
    an agent or a tool starts is inside of its span.

    Agents that have not ended when the block is left are ended in the trace, and marked by
    `error.type = "not_ended"`: wait for them inside of it, or leave it after the pool.

    Nothing that goes wrong here reaches the pool: it is logged, by `agentpool.telemetry`.

    Args:
      pool: an open pool.
      tracer_provider: where spans go; that of the process if left out.
      meter_provider: where metrics go; that of the process if left out.
      contents: whether what was said is sent too: prompts, answers, arguments and results of tools, and
        the texts of errors. Known secrets are taken out.

    Raises:
      ModuleNotFoundError: if OpenTelemetry is not installed; it names the `pip install`.
      TypeError: if `pool` is no pool.

    Checkpoint: only if spans have to be waited for at the end, which takes 5 seconds at the most.
    """
    if not isinstance(pool, AgentPool):
        raise TypeError(f"pool must be an open AgentPool, not {shown(pool)}")
    try:
        import opentelemetry.trace  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_NEEDS, name="opentelemetry") from error
    return _Traced(pool, tracer_provider, meter_provider, contents)


class _Traced(AbstractAsyncContextManager[None]):
    """The block of `trace_pool`. No generator: the current span would be held over its `yield`."""

    def __init__(
        self,
        pool: AgentPool,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        contents: bool,
    ) -> None:
        self._pool = pool
        self._providers = (tracer_provider, meter_provider)
        self._contents = bool(contents)
        self._trace: PoolTrace | None = None
        self._ender: SpanEnder | None = None
        self._tap: Tap | None = None

    async def __aenter__(self) -> None:
        if self._trace is not None:
            raise RuntimeError("a trace is for one block: call trace_pool() again")
        self._ender, self._trace = _trace_of(self._pool, *self._providers, self._contents)
        self._trace.open(trio.current_time())
        self._tap = self._pool._state.events.tap(self._trace.show, self._close)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._trace is not None
        assert self._tap is not None
        assert self._ender is not None
        self._pool._state.events.untap(self._tap)
        self._close(error)
        self._trace.leave()
        # Nearly always it is done: trio's clock, which may be a virtual one, is not to go on for it.
        if not self._ender.wait(0.05):
            with trio.CancelScope(shield=True):
                await run_blocking(self._ender.wait, EXPORT_SECONDS)
        _complain(self._ender)

    def _close(self, error: BaseException | None = None) -> None:
        assert self._trace is not None
        self._trace.close(trio.current_time(), error)


def _trace_of(
    pool: AgentPool,
    tracer_provider: TracerProvider | None,
    meter_provider: MeterProvider | None,
    contents: bool,
) -> tuple[SpanEnder, PoolTrace]:
    from importlib.metadata import version

    from opentelemetry import metrics, trace

    from agentpool.telemetry._attributes import SCHEMA_URL
    from agentpool.telemetry._ending import SpanEnder
    from agentpool.telemetry._metrics import instruments_of
    from agentpool.telemetry._tree import PoolTrace

    traces = tracer_provider or trace.get_tracer_provider()
    tracer = traces.get_tracer("agentpool", version("trio-agentpool"), SCHEMA_URL)
    instruments = instruments_of(meter_provider or metrics.get_meter_provider())
    ender = SpanEnder()
    # Once: trio's clock may be a virtual one, on which time goes by as it likes.
    began, now = time.time_ns(), trio.current_time()

    def wall_clock(at: float) -> int:
        return began + round((at - now) * 1e9)

    return ender, PoolTrace(pool, tracer, instruments, ender, wall_clock, contents=contents)


def _complain(ender: SpanEnder) -> None:
    from agentpool.telemetry._log import logger

    if not ender.wait(0):
        logger.warning(
            "spans are still being exported %g s after the end of the trace: put a BatchSpanProcessor"
            " before an exporter that is slow",
            EXPORT_SECONDS,
        )
    if ender.dropped:
        logger.warning("%d spans were dropped, because their exporter blocks", ender.dropped)
