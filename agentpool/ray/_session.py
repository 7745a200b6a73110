"""This process's connection to a Ray cluster. Ray has one for a process, so all pools share it."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import attrs
import trio

from agentpool._blocking import run_blocking, runs_inline
from agentpool._core.errors import AgentPoolError
from agentpool.ray._calls import call_ray

KNOCK_SECONDS = 10.0
"""So many seconds the control service of a cluster has to take a connection."""

OPEN_SECONDS = 60.0
"""So many seconds Ray has to connect to a cluster, or to start one. It takes one second, or ten."""

CLOSE_SECONDS = 10.0
"""So many seconds Ray has to disconnect, or to end a cluster that was started here. It takes one or two."""

_KEPT_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")


@attrs.define(eq=False)
class _Connection:
    """A connection that we opened, and how many blocks use it.

    A thread of its own opens it, waits, and closes it: the processes of a cluster that `ray.init` starts are
    killed by the kernel when the thread ends that started them (PR_SET_PDEATHSIG), and trio's threads come
    and go.
    """

    address: str | None
    runtime_env: Mapping[str, Any] | None
    users: int = 0
    error: BaseException | None = None
    _is_settled: threading.Event = attrs.field(factory=threading.Event)
    _is_over: threading.Event = attrs.field(factory=threading.Event)
    _thread: threading.Thread | None = None

    def open(self) -> None:
        """Connect, or raise what Ray raises."""
        # A daemon: should Ray hang, it does not keep the process from its end.
        self._thread = threading.Thread(target=self._hold, name="agentpool-ray", daemon=True)
        self._thread.start()
        self._is_settled.wait()
        if self.error is not None:
            self._thread.join()
            raise self.error

    def close(self) -> None:
        """Disconnect; a cluster that was started here ends. Does not wait without an end."""
        assert self._thread is not None
        self._is_over.set()
        self._thread.join(CLOSE_SECONDS)

    def _hold(self) -> None:
        with _printing_nothing():
            try:
                _connect(self.address, self.runtime_env)
            except BaseException as error:  # told to who waits for it
                self.error = error
                return
            finally:
                self._is_settled.set()
            self._is_over.wait()
            _disconnect()


_SETTINGS = {
    # Of clusters that are started here: nothing is told to the makers of Ray.
    "RAY_USAGE_STATS_ENABLED": "0",
}

_lock = threading.Lock()
_ours: _Connection | None = None
"""Guarded by `_lock`. None if there is no connection, or if it is the program's own."""


@asynccontextmanager
async def connected(address: str | None, runtime_env: Mapping[str, Any] | None) -> AsyncIterator[bool]:
    """Have this process connected to a Ray cluster within the block.

    A connection that the program itself has made is used as it is, and stays.

    Yields:
      Whether `runtime_env` holds for every worker of this process already.

    Raises:
      AgentPoolError: if there is no such cluster, or it does not fit; the text says what Ray says.

    Checkpoint: always. Cancellation: nobody waits for what Ray is doing at that moment; what it comes to is
    closed.
    """
    if runs_inline():
        raise RuntimeError("a simulation has no Ray cluster: what runs there runs in one process")
    if not _is_connected():
        await _knock(address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS"))
    try:
        with trio.fail_after(OPEN_SECONDS):
            ours = await call_ray(partial(_enter, address, runtime_env), unwanted=_leave)
    except trio.TooSlowError:
        raise AgentPoolError(f"{_where(address)}: Ray did not within {OPEN_SECONDS:g} s") from None
    try:
        yield ours is not None and ours.runtime_env == runtime_env
    finally:
        with trio.CancelScope(shield=True):
            await run_blocking(_leave, ours)


def _is_connected() -> bool:
    if _ours is not None:
        return True
    ray = sys.modules.get("ray")  # imported by the program, if it uses Ray itself
    return ray is not None and bool(ray.is_initialized())


async def _knock(address: str | None) -> None:
    """Raise if nothing listens where a cluster should be: Ray itself would try again for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        try:
            with trio.fail_after(KNOCK_SECONDS):
                stream = await trio.open_tcp_stream(host.strip("[]"), int(port))
        except trio.TooSlowError:
            text = f"{_where(address)}: nothing answers there within {KNOCK_SECONDS:g} s"
            raise AgentPoolError(text) from None
        except OSError as error:
            raise AgentPoolError(f"{_where(address)}: {error}") from error
        await stream.aclose()


def _enter(address: str | None, runtime_env: Mapping[str, Any] | None) -> _Connection | None:
    global _ours
    import ray

    with _lock:
        if _ours is None:
            if ray.is_initialized():
                return None
            connection = _Connection(address, runtime_env)
            try:
                connection.open()
            except Exception as error:
                raise AgentPoolError(f"{_where(address)}: {error}") from error
            _ours = connection
        elif address is not None and address != _ours.address:
            raise AgentPoolError(
                f"{_where(address)}: this process is connected to {_ours.address or 'another'} for another"
                " pool, and Ray has one connection for a process"
            )
        _ours.users += 1
        return _ours


def _leave(connection: _Connection | None) -> None:
    global _ours
    if connection is None:
        return  # it is the program's own
    with _lock:
        connection.users -= 1
        if connection.users == 0:
            _ours = None
            connection.close()


def _where(address: str | None) -> str:
    return "cannot connect to a Ray cluster" + ("" if address is None else f" at {address}")


def _connect(address: str | None, runtime_env: Mapping[str, Any] | None) -> None:
    with _signal_handlers_kept(), _errors_only(), _environment(_SETTINGS):
        import ray

        ray.init(
            address,
            runtime_env=None if runtime_env is None else dict(runtime_env),
            log_to_driver=False,  # what workers print is in the logs of the cluster
            include_dashboard=False,
            configure_logging=False,
        )


def _disconnect() -> None:
    import ray

    with _signal_handlers_kept():
        ray.shutdown()


@contextmanager
def _printing_nothing() -> Iterator[None]:
    """Within the block, have Ray not print into this program's output what happens in the cluster.

    It prints pages when a node dies. What a program is to know of it is the error of the agents that ran
    there. Neither `log_to_driver` nor a logger reaches these.
    """
    from ray._private import worker

    before = getattr(worker, "_worker_logs_enabled", True)
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = before


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables within the block that are not set."""
    added = [name for name in settings if name not in os.environ]
    os.environ.update({name: settings[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _errors_only() -> Iterator[None]:
    """Within the block, Ray logs errors only: how it is used here, a program's terminal need not tell."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Put the handlers of signals back that were there before the block.

    Ray's core catches SIGTERM below Python: it prints a stack, has the process killed three seconds later,
    and only then calls the handler that was there. `signal.signal` would mend it in the main thread only.
    """
    try:
        sigaction = ctypes.CDLL(None).sigaction
    except (AttributeError, OSError, TypeError):  # pragma: no cover - Windows, where Ray does none of this
        yield
        return
    kept = []
    for name in _KEPT_SIGNALS:
        action = ctypes.create_string_buffer(1024)  # larger than any `struct sigaction`
        if sigaction(int(getattr(signal, name)), None, action) == 0:
            kept.append((int(getattr(signal, name)), action))
    try:
        yield
    finally:
        for number, action in kept:
            sigaction(number, action, None)
