"""`trace_pool`: the block in which a pool is traced."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, overload

import trio

from agentpool._blocking import run_blocking
from agentpool._core.text import shown
from agentpool._kernel.pool import AgentPool

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from agentpool._kernel.log import Tap
    from agentpool.bridge import AsyncioAgentPool, BlockingAgentPool
    from agentpool.telemetry._ending import SpanEnder
    from agentpool.telemetry._tree import PoolTrace

EXPORT_SECONDS = 5.0
"""How long the end of the block waits for an exporter that blocks."""

_NEEDS = (
    "telemetry needs OpenTelemetry, which is not installed: pip install 'trio-agentpool[otel]'"
    " (in a clone: pip install '.[otel]')"
)


@overload
def trace_pool(
    pool: AgentPool | AsyncioAgentPool,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    contents: bool = False,
) -> AbstractAsyncContextManager[None]: ...
@overload
def trace_pool(
    pool: BlockingAgentPool,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    contents: bool = False,
) -> AbstractContextManager[None]: ...
def trace_pool(
    pool: AgentPool | AsyncioAgentPool | BlockingAgentPool,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    contents: bool = False,
) -> AbstractAsyncContextManager[None] | AbstractContextManager[None]:
    """Have what happens in a pool told to OpenTelemetry, as spans and metrics, while the block runs.

    The pool, its agents, their turns, model calls and tool calls are spans, by the GenAI semantic
    conventions. The pool's span begins and ends with the block, inside of the span that was current
    before. An agent's span is inside of the one that was current where it was spawned. What the code of
    an agent or a tool starts is inside of its span.

    Agents that have not ended when the block is left are ended in the trace, and marked by
    `error.type = "not_ended"`: wait for them inside of it, or leave it after the pool.

    Nothing that goes wrong here reaches the pool: it is logged, by `agentpool.telemetry`.

    Args:
      pool: an open pool; for one of `open_agent_pool_blocking` the block is a plain `with`.
      tracer_provider: where spans go; that of the process if left out.
      meter_provider: where metrics go; that of the process if left out.
      contents: whether what was said is sent too: prompts, answers, arguments and results of tools, and
        the texts of errors. Known secrets are taken out.

    Raises:
      ModuleNotFoundError: if OpenTelemetry is not installed; it names the `pip install`.
      TypeError: if `pool` is no pool.

    Checkpoint: only if spans have to be waited for at the end, which takes 5 seconds at the most.
    """
    try:
        import opentelemetry.trace  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_NEEDS, name="opentelemetry") from error
    providers = (tracer_provider, meter_provider)
    if isinstance(pool, AgentPool):
        return _TracedOnTrio(_Tracing(pool, providers, bool(contents), None))
    from agentpool.bridge import AsyncioAgentPool, BlockingAgentPool  # who is on trio needs none

    if isinstance(pool, AsyncioAgentPool):
        return _TracedOnAsyncio(_Tracing(pool._pool, providers, bool(contents), pool._line.now))
    if isinstance(pool, BlockingAgentPool):
        return _TracedInThread(_Tracing(pool._pool, providers, bool(contents), pool._line.now))
    raise TypeError(f"pool must be an open AgentPool, not {shown(pool)}")


class _Tracing:
    """A trace from its beginning to its end.

    Args:
      on_trio: calls a function in the thread of the pool; None if that is the calling one.
    """

    def __init__(
        self,
        pool: AgentPool,
        providers: tuple[TracerProvider | None, MeterProvider | None],
        contents: bool,
        on_trio: Callable[[Callable[[], None]], None] | None,
    ) -> None:
        self._pool = pool
        self._providers = providers
        self._contents = contents
        self._on_trio = on_trio
        self._trace: PoolTrace | None = None
        self._ender: SpanEnder | None = None
        self._tap: Tap | None = None

    def begin(self) -> None:
        """Begin it, inside of the caller's current span; the pool's is the current one after that."""
        if self._trace is not None:
            raise RuntimeError("a trace is for one block: call trace_pool() again")
        self._call(self._open)
        assert self._trace is not None
        self._trace.enter()

    def _open(self) -> None:
        self._ender, self._trace = _trace_of(self._pool, *self._providers, self._contents)
        self._trace.open(trio.current_time())
        self._tap = self._pool._state.events.tap(self._trace.show, self._close)

    def end(self, error: BaseException | None) -> SpanEnder:
        """End it; return what may still have spans to end."""
        assert self._trace is not None
        assert self._ender is not None
        self._trace.leave()
        self._call(partial(self._close, error))
        return self._ender

    def _close(self, error: BaseException | None = None) -> None:
        assert self._trace is not None
        if self._tap is not None:
            self._pool._state.events.untap(self._tap)
        if self._trace.is_open:  # else the pool has ended before
            self._trace.close(trio.current_time(), error)

    def _call(self, fn: Callable[[], None]) -> None:
        if self._on_trio is None:
            fn()
        else:
            self._on_trio(fn)


# No generators: the current span would be held over their `yield`.


class _TracedOnTrio(AbstractAsyncContextManager[None]):
    """The block of `trace_pool` on trio."""

    def __init__(self, tracing: _Tracing) -> None:
        self._tracing = tracing

    async def __aenter__(self) -> None:
        self._tracing.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        ender = self._tracing.end(error)
        # Nearly always it is done: trio's clock, which may be a virtual one, is not to go on for it.
        if not ender.wait(0.05):
            with trio.CancelScope(shield=True):
                await run_blocking(ender.wait, EXPORT_SECONDS)
        _complain(ender)


class _TracedOnAsyncio(AbstractAsyncContextManager[None]):
    """The block of `trace_pool` on asyncio."""

    def __init__(self, tracing: _Tracing) -> None:
        self._tracing = tracing

    async def __aenter__(self) -> None:
        self._tracing.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        import asyncio

        ender = self._tracing.end(error)
        if not ender.wait(0.05):
            await asyncio.to_thread(ender.wait, EXPORT_SECONDS)
        _complain(ender)


class _TracedInThread(AbstractContextManager[None]):
    """The block of `trace_pool` in a thread without a loop."""

    def __init__(self, tracing: _Tracing) -> None:
        self._tracing = tracing

    def __enter__(self) -> None:
        self._tracing.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        ender = self._tracing.end(error)
        ender.wait(EXPORT_SECONDS)
        _complain(ender)


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
