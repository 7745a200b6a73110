"""A server on standard input and output: one client, which started the process.

Standard output is the protocol's alone: what agents, modules and programs print goes to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._kernel.pool import AgentPool
from agentpool.fleet.file import FleetFile
from agentpool.fleet.start import DriverOf
from agentpool.mcp_server._approving import ClientApprover
from agentpool.mcp_server._extra import check_extra
from agentpool.mcp_server._tools import served_tools

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.shared.message import SessionMessage

MOST_BYTES = 4 * 1024 * 1024
"""A line of more bytes is answered with an error, and not kept; the same as for a request over HTTP."""
_LAST_WORDS = 1.0  # seconds to write what is left when the client has gone
_READ = 64 * 1024
_WRITE = 4096  # a pipe that is writable takes so much without blocking (PIPE_BUF on Linux)


@attrs.frozen
class StdioClaim:
    """The descriptors of what were standard input and output."""

    stdin: int
    stdout: int


@contextmanager
def claim_stdio() -> Iterator[StdioClaim]:
    """Keep standard input and output for a server while the block runs.

    What is printed goes to standard error, also by programs that agents start; who reads standard input
    finds its end. Claim them before modules are imported that might print. Afterwards all is as it was.

    Raises:
      OSError: if standard input or output is closed.
    """
    with ExitStack() as stack:
        stdout = _moved(stack, 1, 2)
        stdin = _moved(stack, 0, None)
        if sys.stdout is not None and sys.stderr is not None:
            stack.callback(sys.stdout.flush)  # before it is ours again: somebody may have kept it
            stack.enter_context(redirect_stdout(sys.stderr))
        yield StdioClaim(stdin, stdout)


def _moved(stack: ExitStack, number: int, other: int | None) -> int:
    """Return another number for a descriptor, whose own leads elsewhere until the stack is closed."""
    kept = os.dup(number)
    stack.callback(os.close, kept)
    try:
        target = os.open(os.devnull, os.O_RDWR) if other is None else os.dup(other)
    except OSError:  # there is no standard error
        target = os.open(os.devnull, os.O_RDWR)
    os.dup2(target, number)
    os.close(target)
    stack.callback(os.dup2, kept, number)
    return kept


async def serve_agents_stdio(
    pool: AgentPool,
    fleet: FleetFile,
    *,
    driver_of: DriverOf | None = None,
    timeout: float | None = None,
    approver: ClientApprover | None = None,
    claim: StdioClaim | None = None,
) -> None:
    """Serve the agents of a fleet as MCP tools to the client that started this process, until it goes.

    Each call of a tool spawns its agent in the pool, waiting for a slot. A call that the client cancels
    aborts its agent, with all that it spawned. Revisions 2025-11-25 and 2026-07-28 are understood, and
    those before.

    Args:
      pool: where the agents run.
      fleet: what was read. Its `[pool]` is for whoever opens the pool; supervisors have no meaning here.
      driver_of: gives the driver of a manifest's agent, or None for the pool's; left out, all ask the
        pool's.
      timeout: seconds that no call may pass, whatever the file allows.
      approver: the pool's approver, which asks the client; left out, nobody here is asked.
      claim: what `claim_stdio` gave; left out, it is claimed here.

    Raises:
      ManifestError: if the arguments of a function cannot be told to a client.
      ModuleNotFoundError: if the extra `mcp` is not installed.

    Checkpoint: always. Cancellation: the agents of all calls are aborted and awaited; the client is told
    that the connection is closed.
    """
    check_extra()
    tools = served_tools(fleet, driver_of, timeout)
    if claim is None:
        with claim_stdio() as claim:
            await _serve(pool, tools, approver, claim)
    else:
        await _serve(pool, tools, approver, claim)


async def _serve(pool: AgentPool, tools: Any, approver: ClientApprover | None, claim: StdioClaim) -> None:
    import anyio

    from agentpool.mcp_server._requests import serving

    incoming, read_stream = anyio.create_memory_object_stream[Any](0)
    write_stream, outgoing = anyio.create_memory_object_stream[Any](0)
    async with serving(pool, tools, approver) as server, trio.open_nursery() as nursery:
        errors = write_stream.clone()
        nursery.start_soon(_read, claim.stdin, incoming, errors)
        # It ends when nobody is left who writes; a client that reads no more ends the server.
        nursery.start_soon(_write, claim.stdout, outgoing, nursery.cancel_scope)
        await server.run(read_stream, write_stream, server.create_initialization_options())
        # The client has closed standard input, but may still read what is being written.
        nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORDS


# -- reading -----------------------------------------------------------------------------


async def _read(
    fd: int,
    incoming: MemoryObjectSendStream[SessionMessage | Exception],
    errors: MemoryObjectSendStream[SessionMessage],
) -> None:
    from mcp.shared.message import SessionMessage

    async with incoming, errors, aclosing(lines_of(fd)) as lines:
        async for line in lines:
            if line is not None and not line.strip():
                continue
            message = _parsed(line)
            if isinstance(message, SessionMessage):
                await incoming.send(message)
            else:
                await errors.send(_problem(*message))


def _parsed(line: bytes | None) -> SessionMessage | tuple[int, str, str | int | None]:
    """Return the message of a line, or the code and the text of what is wrong with it, and whose it is."""
    import mcp_types as types
    import pydantic_core
    from mcp.shared.message import SessionMessage
    from pydantic import ValidationError

    if line is None:
        return types.INVALID_REQUEST, f"a message has more than {MOST_BYTES:,} bytes", None
    try:
        data = pydantic_core.from_json(line)
    except (ValueError, RecursionError) as error:
        return types.PARSE_ERROR, f"a line is no JSON: {error}", None
    is_request = isinstance(data, dict) and "method" in data and "id" in data
    # Who waits for an answer with its id would not know one without it.
    own = data["id"] if is_request and isinstance(data["id"], str | int) else None
    if is_request and (own is None or isinstance(own, bool)):
        # The SDK would take it for a notification, which nobody answers.
        return types.INVALID_REQUEST, "the id of a request is a whole number or a text", None
    try:
        return SessionMessage(types.jsonrpc_message_adapter.validate_python(data, by_name=False))
    except ValidationError:
        return types.INVALID_REQUEST, "a line is no request, notification or response of JSON-RPC 2.0", own


def _problem(code: int, text: str, number: str | int | None) -> SessionMessage:
    import mcp_types as types
    from mcp.shared.message import SessionMessage

    error = types.ErrorData(code=code, message=text)
    return SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=number, error=error))


async def lines_of(fd: int, most: int = MOST_BYTES) -> AsyncGenerator[bytes | None, None]:
    """Yield the lines of a descriptor without their ends; None for one that is longer than `most` bytes.

    No more than that is kept of it.
    """
    kept = bytearray()
    is_too_long = False
    while data := await _some_of(fd):
        first, *others = data.split(b"\n")
        kept += first
        for more in others:
            yield None if is_too_long or len(kept) > most else bytes(kept)
            kept, is_too_long = bytearray(more), False
        if len(kept) > most:
            kept, is_too_long = bytearray(), True
    if kept:
        yield bytes(kept)


async def _some_of(fd: int) -> bytes:
    """Read what there is, waiting for it; nothing at the end.

    The descriptor stays a blocking one: its flags are shared with whoever has it too.
    """
    try:
        if sys.platform != "win32":
            await trio.lowlevel.wait_readable(fd)
            return os.read(fd, _READ)
    except PermissionError:  # a file: it can be read at all times
        await trio.lowlevel.checkpoint()
        return os.read(fd, _READ)
    except OSError:
        return b""
    return await trio.to_thread.run_sync(os.read, fd, _READ, abandon_on_cancel=True)


# -- writing -----------------------------------------------------------------------------


async def _write(
    fd: int, outgoing: MemoryObjectReceiveStream[SessionMessage], scope: trio.CancelScope
) -> None:
    async with outgoing:
        async for message in outgoing:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            try:
                await _write_all(fd, text.encode() + b"\n")
            except OSError:
                scope.cancel("the client reads no more")
                return


async def _write_all(fd: int, data: bytes) -> None:
    """Write all of it, waiting for room.

    Cancellation: some of it may have been written.
    """
    rest = memoryview(data)
    while rest:
        try:
            if sys.platform != "win32":
                await trio.lowlevel.wait_writable(fd)
            else:
                await trio.lowlevel.checkpoint()
        except PermissionError:  # a file
            await trio.lowlevel.checkpoint()
        rest = rest[os.write(fd, rest[:_WRITE]) :]
