"""What is used of hypercorn's inside: a new version of it that lacks something is named here, and by what."""

from __future__ import annotations

import inspect
import logging
import os
import re
import socket
from contextlib import suppress

import pytest
import trio
import trio.testing

pytest.importorskip("hypercorn")

from agentpool._serving.limits import Door
from agentpool._serving.listening import Connection, listen, listener_on


def test_what_is_used_of_hypercorn_is_there() -> None:
    """Its public `serve` is not used: `_serving/listening.py` says why. If this fails, look there."""
    from hypercorn.config import Config
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import ConnectionState
    from hypercorn.utils import wrap_app

    for name in (
        "include_server_header",
        "errorlog",
        "h11_max_incomplete_size",
        "read_timeout",
        "keep_alive_timeout",
        "wsgi_max_body_size",
    ):
        assert hasattr(Config(), name), name
    parameters = list(inspect.signature(TCPServer.__init__).parameters)
    assert parameters == ["self", "app", "config", "context", "state", "stream"]
    assert inspect.iscoroutinefunction(TCPServer.run)
    assert list(inspect.signature(WorkerContext.__init__).parameters)[1:] == ["max_requests"]
    assert list(inspect.signature(wrap_app).parameters) == ["app", "wsgi_max_body_size", "mode"]
    ConnectionState({})


async def test_an_application_is_served_as_asgi_and_not_told_of_a_lifespan() -> None:
    scopes: list[str] = []

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        scopes.append(f"{scope['type']} {scope['http_version']} {scope['path']}")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok", "more_body": False})

    listener = listener_on("127.0.0.1", 0)
    port = listener.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, app, listener, logging.getLogger("agentpool.web"))
        with trio.fail_after(20):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                for _ in range(2):  # on one connection
                    await stream.send_all(b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n")
                    data = b""
                    while not data.endswith(b"\r\n\r\nok"):
                        data += await stream.receive_some()
                    assert data.startswith(b"HTTP/1.1 200")
                    assert b"hypercorn" not in data
        nursery.cancel_scope.cancel()
    assert scopes == ["http 1.1 /a"] * 2


def test_no_more_is_used_of_a_stream_than_our_connection_has() -> None:
    import hypercorn.trio.tcp_server as module

    used = set(re.findall(r"self\.stream\.(\w+)", inspect.getsource(module)))
    of_tls = {"do_handshake", "selected_alpn_protocol", "transport_stream"}
    assert used - of_tls <= set(dir(Connection))
    assert {"send_all", "receive_some", "aclose"} <= used


async def test_a_process_without_files_left_says_once_that_clients_wait_and_then_serves_them(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    tried = trio.Event()

    tries = 0
    accept = trio.SocketListener.accept

    async def counted(self: trio.SocketListener) -> trio.SocketStream:
        nonlocal tries
        tries += 1
        if tries == 4:
            tried.set()
        return await accept(self)

    monkeypatch.setattr(trio.SocketListener, "accept", counted)

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"here")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    listener = listener_on("127.0.0.1", 0)
    port = listener.getsockname()[1]
    held: list[int] = []
    client = socket.socket()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                Door(trio.SocketListener(trio.socket.from_stdlib_socket(listener))).serve, serve
            )
            await trio.testing.wait_all_tasks_blocked()
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(listener.fileno(), client.fileno()) + 50, hard))
            try:
                with suppress(OSError):
                    while True:
                        held.append(os.open(os.devnull, os.O_RDONLY))
                client.connect(("127.0.0.1", port))
                await tried.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for each in held:
                    os.close(each)
            assert await trio.to_thread.run_sync(client.recv, 100) == b"here"
            nursery.cancel_scope.cancel()
    client.close()
    assert [record.getMessage() for record in caplog.records] == ["clients have to wait: Too many open files"]
