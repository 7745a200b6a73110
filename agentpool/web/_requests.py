"""What the live page asks of the server, and what it wants done."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from agentpool._core.plain_json import plain_json
from agentpool._core.transcript_data import message_data
from agentpool._serving.names import Receive, Scope, Send
from agentpool.web._approving import AlreadyDecidedError, BadAnswerError
from agentpool.web._page import page_html
from agentpool.web._streams import Streams
from agentpool.web._watching import RunOverError, Watching

SESSION = "agentpool.session"
"""The key of a browser's session in a request's scope."""
MOST_BODY = 1_000_000
"""So many bytes what is sent to us may have."""
BODY_SECONDS = 10.0
"""It has to be here after so long."""
LONGEST_REASON = 1_000
PIECE = 200_000
"""Of a transcript so many letters are written down between two checkpoints."""

_ABORTED = "aborted on the live page"


class _RefusedError(Exception):
    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text


@attrs.define(eq=False)
class Requests:
    """Answers the requests of browsers that were let in."""

    watching: Watching
    streams: Streams

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/events", _Endpoint(self.events)),
                Route("/agents/{agent:int}/transcript", self.transcript),
                Route("/agents/{agent:int}/abort", self.abort, methods=["POST"]),
                Route("/drain", self.drain, methods=["POST"]),
                Route("/approvals/{key}", self.approval, methods=["POST"]),
            ],
            exception_handlers={_RefusedError: _refused},
        )

    async def page(self, request: Request) -> Response:
        """The document."""
        watching = self.watching
        data = {"live": True, "title": watching.title, "run": watching.id, "leaves": watching.leaves}
        return HTMLResponse(page_html(data))

    async def events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What happens, as server-sent events."""
        request = Request(scope)
        # A browser that comes back by itself sends the address that it began with.
        seen = request.headers.get("last-event-id") or request.query_params.get("since")
        version = self.watching.version_in(seen)
        if not await self.streams.serve(scope[SESSION], version, receive, send):
            text = "too many tabs have this page open; close some"
            refused = PlainTextResponse(text, 503, headers={"retry-after": "5"})
            await refused(scope, receive, send)

    async def transcript(self, request: Request) -> Response:
        """The conversation of an agent, as its model was asked last, and what came after."""
        agent_id = request.path_params["agent"]
        if agent_id not in self.watching.picture.rows:
            raise _RefusedError(404, "there is no such agent, or it ended long ago")
        version, messages = self.watching.transcripts.of(agent_id)
        written: list[str] = []
        letters = 0
        for message in messages:
            written.append(plain_json(message_data(message)))
            letters += len(written[-1])
            if letters > PIECE:
                letters = 0
                await trio.lowlevel.checkpoint()  # agents go on
        head = f'{{"agent":{agent_id},"version":{version},"messages":['
        return Response(f"{head}{','.join(written)}]}}", media_type="application/json")

    async def abort(self, request: Request) -> Response:
        """End an agent, and all below it."""
        data = await _data_of(request)
        reason = data.get("reason") or _ABORTED
        if not isinstance(reason, str) or len(reason) > LONGEST_REASON:
            raise _RefusedError(400, f'"reason" must be a text of at most {LONGEST_REASON:,} characters')
        try:
            self.watching.abort(request.path_params["agent"], reason)
        except KeyError:
            raise _RefusedError(404, "there is no such agent, or it ended long ago") from None
        except RunOverError as error:
            raise _RefusedError(409, str(error)) from None
        return Response(status_code=204)

    async def drain(self, request: Request) -> Response:
        """Start no more agents."""
        await _data_of(request)
        try:
            self.watching.drain_pool()
        except RunOverError as error:
            raise _RefusedError(409, str(error)) from None
        return Response(status_code=204)

    async def approval(self, request: Request) -> Response:
        """Answer what a person is asked."""
        data = await _data_of(request)
        approver = self.watching.approver
        try:
            if approver is None:
                raise KeyError
            approver.decide(request.path_params["key"], data)
        except KeyError:
            raise _RefusedError(404, "nobody asks this") from None
        except AlreadyDecidedError:
            raise _RefusedError(409, "it was decided before, or the question was withdrawn") from None
        except BadAnswerError as error:
            raise _RefusedError(400, str(error)) from None
        return Response(status_code=204)


@attrs.define(eq=False)
class _Endpoint:
    """What Starlette takes for an application, and not for a function of a request."""

    _serve: Callable[[Scope, Receive, Send], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(scope, receive, send)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, _RefusedError)
    return PlainTextResponse(error.text, error.status)


async def _data_of(request: Request) -> Mapping[str, Any]:
    """Return the JSON object that a request brings."""
    body = bytearray()
    has_more = True
    with trio.move_on_after(BODY_SECONDS) as scope:
        while has_more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise _RefusedError(400, "the request did not come to its end")
            body += message.get("body", b"")
            has_more = message.get("more_body", False)
            if len(body) > MOST_BODY:
                raise _RefusedError(413, f"a request has at most {MOST_BODY:,} bytes")
    if scope.cancelled_caught:
        raise _RefusedError(408, "the request did not come to its end")
    try:
        data = json.loads(body, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, f"the request is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise _RefusedError(400, "the request must be a JSON object")
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    if math.isfinite(number := float(text)):
        return number
    raise ValueError(f"{text} is too large")
