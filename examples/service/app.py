"""A web service on asyncio whose requests are answered by a pool of agents.

    pip install starlette uvicorn
    python examples/service/app.py --port 8000
    curl 'http://127.0.0.1:8000/ask?question=Is+tea+healthy'
    curl 'http://127.0.0.1:8000/follow?question=Is+tea+healthy'

Without more it needs no key: the model is made up. `--driver openai:MODEL` asks a real one.

Each request has a pool of its own, in one thread that they share. A client that goes away, and a server
that is stopped, cancel the request's pool, and with it every agent, model call and tool.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    aclosing,
    asynccontextmanager,
    nullcontext,
    suppress,
)

import uvicorn
from anyio.from_thread import start_blocking_portal
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from agentpool import (
    AgentFinished,
    AgentManifest,
    AgentOutcome,
    AgentResult,
    AgentSpawned,
    Completed,
    CompletionRequest,
    Driver,
    Failed,
    ModelAgent,
    ModelSettings,
    ScriptedDriver,
    open_driver,
    parse_driver_name,
)
from agentpool.bridge import AsyncioAgentPool, open_agent_pool_asyncio

EXPERTS = ("optimist", "sceptic", "historian")


def made_up(request: CompletionRequest) -> str:
    """Answer in the place of a model."""
    question = str(getattr(request.messages[-1], "content", ""))
    if "overload" in question and "sceptic" in request.system:
        raise RuntimeError("the sceptic has had enough")
    return f"{request.system.rstrip('.')} says: it depends"


def expert(name: str) -> ModelAgent[str]:
    """A model agent with a view of its own."""
    return ModelAgent(AgentManifest(name=name, model=ModelSettings(system_prompt=f"The {name}.")))


def as_json(outcome: AgentOutcome[AgentResult[str]]) -> dict[str, str]:
    """What the client is told of an agent, also of one that failed."""
    match outcome:
        case Completed(value=result):
            return {"expert": outcome.name, "answer": result.text}
        case Failed(error=error):
            return {"expert": outcome.name, "error": f"{type(error).__name__}: {error}"}
        case _:
            return {"expert": outcome.name, "error": "aborted"}


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """One thread for all pools, and one driver with its connections, for as long as the server runs."""
    stack = ExitStack()
    try:
        portal = stack.enter_context(start_blocking_portal("trio"))
        driver: AbstractAsyncContextManager[Driver | None] = nullcontext(ScriptedDriver(made_up))
        if app.state.driver:
            driver = open_driver(parse_driver_name(app.state.driver))
        app.state.portal = portal
        app.state.shared = stack.enter_context(portal.wrap_async_context_manager(driver))
        yield
    finally:
        # In another thread: it waits for pools that are still ending, and these for tasks of this loop.
        await asyncio.to_thread(stack.close)


def pool_of(request: Request) -> AbstractAsyncContextManager[AsyncioAgentPool]:
    """The pool of one request."""
    state = request.app.state
    return open_agent_pool_asyncio(state.shared, max_concurrent=3, portal=state.portal)


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the client goes away. A server does not do that by itself.

    Raises:
      ClientGone: if it went away; what was in the block has ended.
    """
    task = asyncio.current_task()
    assert task is not None
    await request.body()
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        # Not if the server has cancelled the task too, as it does when it is stopped.
        if gone and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])


async def ask(request: Request) -> Response:
    """Ask all experts at once, within ten seconds; what one fails with does not lose the others' answers."""
    question = request.query_params.get("question", "")
    try:
        async with while_connected(request), pool_of(request) as pool:
            handles = [await pool.spawn(expert(name), question, timeout=10) for name in EXPERTS]
            outcomes = [await handle.wait() for handle in handles]
    except ClientGone:
        return Response(status_code=499)
    good = all(isinstance(outcome, Completed) for outcome in outcomes)
    return JSONResponse([as_json(outcome) for outcome in outcomes], status_code=200 if good else 500)


class Lines(StreamingResponse):
    """Sends what a generator yields, and closes it at once, whatever ends it.

    Starlette cancels the task that sends when the client goes away. A generator that stands at a `yield`
    would not hear of it, and its pool would go on until the garbage collector comes.
    """

    def __init__(self, lines: AsyncGenerator[str, None]) -> None:
        super().__init__(lines, media_type="text/event-stream")
        self._lines = lines

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._lines):
            await super().stream_response(send)


async def follow(request: Request) -> Response:
    """As `ask`, but the client is told what happens while it happens, as server-sent events."""
    return Lines(lines_of(request))


async def lines_of(request: Request) -> AsyncGenerator[str, None]:
    """One line for each agent that starts or ends."""
    question = request.query_params.get("question", "")
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(pool_of(request))
        events = await stack.enter_async_context(pool.events())
        handles = [await pool.spawn(expert(name), question, timeout=10) for name in EXPERTS]
        running = len(handles)
        async for event in events:
            match event:
                case AgentSpawned():
                    yield f"data: {json.dumps({'expert': event.name, 'status': 'started'})}\n\n"
                case AgentFinished():
                    running -= 1
                    outcome = await handles[event.agent_id - 1].wait()
                    yield f"data: {json.dumps(as_json(outcome))}\n\n"
            if not running:
                break


def make_app(driver: str = "") -> Starlette:
    """The service."""
    app = Starlette(routes=[Route("/ask", ask), Route("/follow", follow)], lifespan=lifespan)
    app.state.driver = driver
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0 takes one that is free")
    parser.add_argument("--driver", default="", help="such as openai:MODEL; a made-up model if left out")
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", options.port)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/ask?question=...", flush=True)
        config = uvicorn.Config(make_app(options.driver), log_level="warning", timeout_graceful_shutdown=5)
        with suppress(KeyboardInterrupt):  # uvicorn has ended by it, and raises it once more
            uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
