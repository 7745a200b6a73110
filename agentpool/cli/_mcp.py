"""`agentpool mcp`: the agents of a fleet as tools of an MCP server."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import attrs
import trio

from agentpool._core.errors import UnhandledAgentErrors
from agentpool._core.messages import AgentId
from agentpool._kernel.opening import open_agent_pool
from agentpool._kernel.pool import AgentPool
from agentpool.cli._drivers import Drivers, pool_driver_name, tools_with
from agentpool.cli._errors import BadInputError
from agentpool.cli._files import load_fleet
from agentpool.cli._memory import open_memory
from agentpool.cli._otel import exporting, traced
from agentpool.cli._run import budget_of
from agentpool.cli._signals import SignalCounter
from agentpool.cli._streams import complain, say
from agentpool.cli._text import listed, one_line
from agentpool.cli._warnings import telling_warnings
from agentpool.fleet.file import FleetFile
from agentpool.mcp_server import (
    ClientApprover,
    StdioClaim,
    claim_stdio,
    serve_agents_http,
    serve_agents_stdio,
)
from agentpool.mcp_server._extra import check_extra
from agentpool.mcp_server._tools import served_tools

GRACE = 8.0
"""Seconds that agents have to end when the server does; then the process ends without them."""


@attrs.frozen(kw_only=True)
class McpOptions:
    """The options of `agentpool mcp`.

    Attributes:
      address: host and port for HTTP; None for standard input and output.
      token: what clients give over HTTP; None for nothing.
    """

    driver: str | None = None
    max_concurrent: int | None = None
    timeout: float | None = None
    memory: Path | None = None
    vars: Mapping[str, str] = attrs.field(factory=dict)
    address: tuple[str, int] | None = None
    token: str | None = None
    otel: bool = False


def serve_fleet(path: Path, options: McpOptions) -> int:
    """Serve a fleet file until the client goes or a signal comes; return the exit code.

    Raises:
      ManifestError: if a file is wrong.
      BadInputError: if a driver cannot be opened, or the address cannot be served.
    """
    # Before the modules of the fleet are imported: they may print.
    with claim_stdio() if options.address is None else nullcontext() as claim:
        fleet = load_fleet(path, options.vars, served=True)
        _check(fleet, options)
        for supervisor in fleet.supervisors:
            say(
                one_line(f"agentpool: warning: supervisor {supervisor.name!r} is not used: agents are called")
            )
        signals = SignalCounter()
        with exporting(options.otel), _deadline(signals) as begin_end:
            trio.run(_perform, fleet, options, claim, signals, begin_end)
    return signals.exit_code or 0


def _check(fleet: FleetFile, options: McpOptions) -> None:
    """Refuse what cannot be served before anything is opened."""
    try:
        check_extra(*([] if options.address is None else ["hypercorn"]))
    except ModuleNotFoundError as error:
        raise BadInputError(str(error)) from error
    served_tools(fleet)


async def _perform(
    fleet: FleetFile,
    options: McpOptions,
    claim: StdioClaim | None,
    signals: SignalCounter,
    begin_end: threading.Event,
) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(telling_warnings(_tell))
        drivers = Drivers(stack, options.driver, pool_driver_name(fleet), _tell, _retrying)
        await drivers.open_for(fleet.manifests, functions=bool(fleet.functions))
        memory = await open_memory(stack, options.memory or fleet.pool.memory)
        approver = ClientApprover()
        opened = open_agent_pool(
            drivers.get_for_functions(),
            max_concurrent=options.max_concurrent or fleet.pool.max_concurrent,
            memory=memory,
            tool_builder=partial(tools_with, drivers, fleet.subagents or None),
            inbox_capacity=fleet.pool.inbox_capacity,
            budget=budget_of(fleet),
            approver=approver,
        )
        scope = trio.CancelScope()
        try:
            with signals.handling(partial(_stop, scope), partial(_stop, scope)), scope:
                async with opened as pool, _ending(pool, begin_end), traced(pool, options.otel):
                    await _serve(pool, fleet, drivers, options, claim, approver)
        except UnhandledAgentErrors:
            pass  # their clients were told
        finally:
            begin_end.set()


def _stop(scope: trio.CancelScope) -> None:
    scope.cancel("a signal came")


@asynccontextmanager
async def _ending(pool: AgentPool, begin_end: threading.Event) -> AsyncIterator[None]:
    """Abort what runs at the end of the block."""
    try:
        yield
    finally:
        begin_end.set()
        pool.abort_all("the server ends")


async def _serve(
    pool: AgentPool,
    fleet: FleetFile,
    drivers: Drivers,
    options: McpOptions,
    claim: StdioClaim | None,
    approver: ClientApprover,
) -> None:
    if options.address is None:
        await serve_agents_stdio(
            pool, fleet, driver_of=drivers.get, timeout=options.timeout, approver=approver, claim=claim
        )
        return
    host, port = options.address
    try:
        await serve_agents_http(
            pool,
            fleet,
            host=host,
            port=port,
            token=options.token,
            driver_of=drivers.get,
            timeout=options.timeout,
            approver=approver,
            task_status=_Listening(fleet),
        )
    except OSError as error:  # of the address; what happens later comes out of a nursery, in a group
        raise BadInputError(f"--http {host}:{port}: {error.strerror or error}") from error


@attrs.frozen
class _Listening(trio.TaskStatus[str]):
    """Says where the tools are, when they are there."""

    fleet: FleetFile

    def started(self, value: str | None = None) -> None:
        """Say it."""
        names = [agent.name for agent in self.fleet.agents]
        say(one_line(f"agentpool: {len(names)} tools at {value}: {listed(names)}"))


def _tell(line: str) -> None:
    say(one_line(f"agentpool: {line}"))


def _retrying(agent_id: AgentId, why: str, seconds: float) -> None:
    say(one_line(f"agentpool: agent {agent_id} asks its model again in {seconds:.0f} s: {why}"))


@contextmanager
def _deadline(signals: SignalCounter) -> Iterator[threading.Event]:
    """Yield an event that is set when the end begins: then the block ends within `GRACE` seconds.

    By a thread, because an agent may block the event loop.
    """
    begin_end, has_ended = threading.Event(), threading.Event()

    def watch() -> None:
        begin_end.wait()
        if not has_ended.wait(GRACE):  # pragma: no cover - the process ends without a word to coverage
            complain([f"agents have not ended {GRACE:g} s after they were aborted; they are left behind"])
            os._exit(signals.exit_code or 1)

    thread = threading.Thread(target=watch, name="agentpool mcp deadline", daemon=True)
    thread.start()
    try:
        yield begin_end
    finally:
        has_ended.set()
        begin_end.set()
        thread.join()


# -- options -----------------------------------------------------------------------------


def parse_address(text: str | None) -> tuple[str, int] | None:
    """Return the host and the port that `--http` gives.

    Raises:
      BadInputError: if they are not written as HOST:PORT.
    """
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise BadInputError(f"--http {text!r} is no address. Write HOST:PORT, such as 127.0.0.1:8000")
    return host, int(port)


def read_token(path: Path | None, address: tuple[str, int] | None) -> str | None:
    """Return what `--token-file` holds.

    Raises:
      BadInputError: if it cannot be read, can be guessed, or is missing where others reach the address.
    """
    from agentpool.mcp_server import checked_token

    if address is None:
        if path is not None:
            raise BadInputError("--token-file is for HTTP: give --http HOST:PORT with it")
        return None
    try:
        return checked_token(None if path is None else path.read_text("utf-8").strip(), address[0])
    except OSError as error:
        raise BadInputError(f"--token-file {path}: {error.strerror or error}") from error
    except ValueError as error:
        if path is None:
            raise BadInputError(f"--http: {error}. A token is given with --token-file FILE") from error
        raise BadInputError(f"--token-file {path}: {error}") from error
