"""A real service: starlette under uvicorn on a loopback socket, with a pool for each request."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from ways_in import no_thread_is_left

from agentpool import AgentContext, Completed, Failed
from agentpool.bridge import AsyncioAgentContext, asyncio_agent

EXAMPLE = Path(__file__).parents[2] / "examples" / "service" / "app.py"
LIMIT = 30.0


def _load_example() -> Any:
    spec = importlib.util.spec_from_file_location("example_service", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


service = _load_example()


class Seen:
    """What happened in the agents of a service, told to the test's thread."""

    def __init__(self) -> None:
        self.begun = self.ended = self.finished = self.peak = 0
        self.outcomes: dict[str, Any] = {}
        self._changed = threading.Condition()

    def add(self, **more: int) -> None:
        with self._changed:
            for name, number in more.items():
                setattr(self, name, getattr(self, name) + number)
            self.peak = max(self.peak, self.begun - self.ended)
            self._changed.notify_all()

    def wait_for(self, is_so: Callable[[Seen], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: is_so(self), timeout=LIMIT), vars(self)


async def double(ctx: AgentContext, number: int) -> int:
    await trio.sleep(0)
    return 2 * number


@asyncio_agent
async def double_there(ctx: AsyncioAgentContext, number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def hanging(seen: Seen) -> tuple[Any, Any]:
    """Two agents that never end, one on trio and one on asyncio; each needs a moment to clean up."""

    async def on_trio(ctx: AgentContext) -> None:
        seen.add(begun=1)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            seen.add(ended=1)

    @asyncio_agent
    async def on_asyncio(ctx: AsyncioAgentContext) -> None:
        seen.add(begun=1)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            seen.add(ended=1)

    return on_trio, on_asyncio


def app_of(seen: Seen) -> Starlette:
    """A service with all kinds of requests."""

    async def work(request: Request) -> Response:
        number = int(request.query_params["n"])
        async with service.while_connected(request), service.pool_of(request) as pool:
            here = await pool.map(double, range(number))
            there = await pool.map(double_there, range(number))
        return JSONResponse([outcome.unwrap() for outcome in (*here, *there)])

    async def fail(request: Request) -> Response:
        async def bad(ctx: AgentContext) -> None:
            await trio.sleep(0)
            raise LookupError("no such thing")

        async with service.pool_of(request) as pool:
            handles = [await pool.spawn(agent, *args) for agent, *args in ((double, 1), (bad,), (double, 2))]
            for handle in handles:
                seen.outcomes[str(handle.id)] = await handle.wait()
            results = [await handle.result() for handle in handles]  # raises
        return JSONResponse(results)

    async def hang(request: Request) -> Response:
        try:
            async with service.while_connected(request), service.pool_of(request) as pool:
                for agent in hanging(seen):
                    await pool.spawn(agent)
                await pool.join_all()
            return Response("never")
        except service.ClientGone:
            return Response(status_code=499)
        finally:
            seen.add(finished=1)

    async def hang_deaf(request: Request) -> Response:
        """One that does not look whether its client is there: only the server's end ends it."""
        try:
            async with service.pool_of(request) as pool:
                for agent in hanging(seen):
                    await pool.spawn(agent)
                await pool.join_all()
            return Response("never")
        finally:
            seen.add(finished=1)

    async def drip(request: Request) -> Response:
        """Sends much, so that its generator stands at a `yield` when the client goes away."""

        async def lines() -> AsyncGenerator[str, None]:
            try:
                async with service.pool_of(request) as pool:
                    for agent in hanging(seen):
                        await pool.spawn(agent)
                    while True:
                        yield "drop " * 20_000
                        await asyncio.sleep(0)  # uvicorn's `send` does not wait when nobody is there
            finally:
                seen.add(finished=1)

        return service.Lines(lines())

    async def silent(request: Request) -> Response:
        """Streams, and has nothing to send for the time being."""

        async def lines() -> AsyncGenerator[str, None]:
            try:
                yield "begun\n"
                async with service.pool_of(request) as pool:
                    for agent in hanging(seen):
                        await pool.spawn(agent)
                    await pool.join_all()
            finally:
                seen.add(finished=1)

        return service.Lines(lines())

    paths = {
        "/work": work,
        "/fail": fail,
        "/hang": hang,
        "/deaf": hang_deaf,
        "/drip": drip,
        "/silent": silent,
    }
    app = Starlette(
        routes=[Route(path, handler) for path, handler in paths.items()], lifespan=service.lifespan
    )
    app.state.driver = ""
    return app


class Server:
    """A server in a thread of its own, until the block is left."""

    def __init__(self, seen: Seen) -> None:
        self.left: set[Any] = set()
        self.is_done = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listener.getsockname()[1]
        config = uvicorn.Config(app_of(seen), log_config=None, timeout_graceful_shutdown=0, lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="service")

    def _run(self) -> None:
        async def main() -> None:
            await self._server.serve(sockets=[self._listener])
            # uvicorn does not wait for the requests that it cancels; whoever has them be run does.
            deadline = time.monotonic() + LIMIT
            while (left := asyncio.all_tasks() - {asyncio.current_task()}) and time.monotonic() < deadline:
                await asyncio.wait(left, timeout=0.1)
            self.left = left
            self.is_done.set()
            # Nor for connections with something unsent, before their clients close them.
            while self._server.server_state.connections and time.monotonic() < deadline:
                await asyncio.sleep(0.005)

        asyncio.run(main())

    def __enter__(self) -> Server:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, connections: Sequence[socket.socket] = ()) -> None:
        """Stop, and let clients close their connections when every request has ended."""
        self._server.should_exit = True
        assert self.is_done.wait(LIMIT)
        for connection in connections:
            connection.close()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        self._listener.close()
        assert self.left == set()

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def open(self, path: str) -> socket.socket:
        """Ask, and leave the answer unread."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        return connection


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def server(seen: Seen) -> Iterator[Server]:
    with no_thread_is_left():
        with Server(seen) as server:
            yield server


# -- requests ------------------------------------------------------------------------------------


def test_each_request_has_a_pool_of_its_own(server: Server) -> None:
    assert server.get("/work?n=3") == (200, "[0,2,4,0,2,4]")
    assert server.get("/work?n=1") == (200, "[0,0]")


def test_fifty_requests_at_once(server: Server) -> None:
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(server.get, [f"/work?n={number}" for number in range(50)]))
    assert answers == [
        (200, json.dumps([2 * one for one in range(number)] * 2, separators=(",", ":")))
        for number in range(50)
    ]


def test_a_failure_is_a_500_and_the_outcomes_of_the_siblings_are_kept(
    server: Server, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    status, _ = server.get("/fail")
    assert status == 500
    first, second, third = seen.outcomes.values()
    assert (first.unwrap(), third.unwrap()) == (2, 4)
    assert isinstance(second, Failed)
    assert isinstance(second.error, LookupError)
    assert server.get("/work?n=1")[0] == 200
    (told,) = (record for record in caplog.records if record.name == "uvicorn.error")
    assert told.exc_info is not None
    assert "no such thing" in str(told.exc_info[1].__cause__)  # type: ignore[union-attr]


# -- clients that go away ------------------------------------------------------------------------


# NousResearch/hermes-agent#3427, BerriAI/litellm#3341, BerriAI/litellm#31499, coder/agentapi#233,
# cognizant-ai-lab/neuro-san#1344: the client was gone, and its agents went on for nobody.
@pytest.mark.parametrize("path", ["/hang", "/silent", "/drip"])
def test_a_client_that_goes_away_before_or_in_the_answer_ends_its_agents(
    path: str, server: Server, seen: Seen
) -> None:
    connection = server.open(path)
    seen.wait_for(lambda seen: seen.begun == 2)
    if path != "/hang":
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    connection.close()
    seen.wait_for(lambda seen: seen.finished == 1)
    assert seen.ended == 2
    assert server.get("/work?n=1")[0] == 200


def test_of_fifty_clients_those_that_go_away_take_nobody_with_them(server: Server, seen: Seen) -> None:
    connections = [server.open("/hang") for _ in range(20)]
    seen.wait_for(lambda seen: seen.begun == 40)
    with ThreadPoolExecutor(30) as threads:
        answers = threads.map(server.get, ["/work?n=5"] * 30)
        for connection in connections:
            connection.close()
        assert {status for status, _ in answers} == {200}
    seen.wait_for(lambda seen: seen.finished == 20)
    assert seen.ended == 40


# -- the end of the server -----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/hang", "/deaf", "/silent", "/drip"])
def test_a_server_that_is_stopped_while_requests_run_leaves_nothing(path: str, seen: Seen) -> None:
    with no_thread_is_left():
        with Server(seen) as server:
            connections = [server.open(path) for _ in range(5)]
            seen.wait_for(lambda seen: seen.begun == 10)
            server.stop(connections)
    assert (seen.ended, seen.finished) == (10, 5)


# -- the example ---------------------------------------------------------------------------------


@contextlib.contextmanager
def running_example() -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, str(EXAMPLE), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline()
        assert "http://127.0.0.1:" in address
        yield process, int(address.split(":")[2].split("/")[0])
    finally:
        process.kill()
        process.wait(LIMIT)
        if process.stdout is not None:
            process.stdout.close()


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_the_example_answers_and_ends_when_it_is_told_to() -> None:
    with running_example() as (process, port):
        status, text = get(port, "/ask?question=tea")
        assert status == 200
        assert [one["expert"] for one in json.loads(text)] == ["optimist", "sceptic", "historian"]
        status, text = get(port, "/ask?question=overload")
        assert status == 500
        assert [("error" in one) for one in json.loads(text)] == [False, True, False]
        status, text = get(port, "/follow?question=tea")
        lines = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]
        assert (status, len(lines)) == (200, 6)
        assert {line["expert"] for line in lines if "answer" in line} == {"optimist", "sceptic", "historian"}
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=LIMIT)
        assert "Traceback" not in said


def test_what_the_example_tells_of_an_outcome() -> None:
    done = Completed(agent_id=1, name="optimist", parent_id=0, value=type("R", (), {"text": "yes"})())
    failed = Failed(agent_id=2, name="sceptic", parent_id=0, error=ValueError("no"))
    assert service.as_json(done) == {"expert": "optimist", "answer": "yes"}
    assert service.as_json(failed) == {"expert": "sceptic", "error": "ValueError: no"}
