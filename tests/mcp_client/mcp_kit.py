"""Servers for the tests of the MCP client: one on the Python SDK, those of npm, and one by hand.

Where there is no npm, the tests that need its servers are skipped, unless `AGENTPOOL_REQUIRE_MCP_SERVERS` is
set: then they fail.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from npm_kit import installed, needing

from agentpool import AgentManifest, Completion, McpServer, ScriptedDriver, SpawnConfig, ToolCall

HERE = Path(__file__).parent
VERSION = "2026.8.31"
PACKAGES = ("server-everything", "server-filesystem")


def npm_server(package: str) -> str:
    """Return the script of one of the servers of npm; skips the test where that is not possible."""
    with needing("npm's MCP servers", "AGENTPOOL_REQUIRE_MCP_SERVERS"):
        wanted = [f"@modelcontextprotocol/{name}@{VERSION}" for name in PACKAGES]
        modules = installed(f"mcp-servers-{VERSION}", *wanted)
    return str(modules / "@modelcontextprotocol" / package / "dist" / "index.js")


def everything(**more: Any) -> McpServer:
    return McpServer("all", "stdio", ["node", npm_server("server-everything"), "stdio"], **more)


def filesystem(root: Path, **more: Any) -> McpServer:
    return McpServer("files", "stdio", ["node", npm_server("server-filesystem"), str(root)], **more)


@attrs.frozen
class Inside:
    """What happened inside of a server on the Python SDK."""

    log: Path

    @property
    def lines(self) -> list[str]:
        return self.log.read_text("utf-8").splitlines() if self.log.exists() else []

    def pids(self) -> list[int]:
        return [int(line.split()[1]) for line in self.lines if line.startswith("started")]

    async def saw(self, text: str, seconds: float = 120.0) -> None:
        """Wait until it has seen something; the file is all that tells."""
        with trio.fail_after(seconds):
            while text not in self.lines:
                await trio.sleep(0.01)

    def stdio(self, name: str = "sdk", tools: int = 0, **more: Any) -> McpServer:
        command = [sys.executable, str(HERE / "sdk_server.py"), "stdio", str(self.log), str(tools)]
        return McpServer(name, "stdio", command, **more)

    @contextmanager
    def http(self, name: str = "web", tools: int = 0, **more: Any) -> Iterator[McpServer]:
        command = [sys.executable, str(HERE / "sdk_server.py"), "http", str(self.log), str(tools)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield McpServer(name, "streamable-http", url=f"http://127.0.0.1:{port}/mcp", **more)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]


def by_hand(*arguments: str, name: str = "hand", **more: Any) -> McpServer:
    """Return a server that speaks the protocol by hand, and breaks it as its arguments say."""
    return McpServer(name, "stdio", [sys.executable, str(HERE / "hand_server.py"), *arguments], **more)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def manifest(*servers: McpServer, tools: Sequence[str] = ("*",), **more: Any) -> AgentManifest:
    grants = [{"type": "mcp", "server": each.name, "tool": tool} for each in servers for tool in tools]
    return AgentManifest(name="a", capabilities=grants, mcp_servers=servers, **more)


def calling(server: AgentManifest, *calls: tuple[str, dict[str, Any]], query: str = "go") -> SpawnConfig[Any]:
    """Return an agent that makes these calls, one after the other, and says `done`."""
    replies = [
        Completion(tool_calls=[ToolCall(f"c{n}", name, arguments)])
        for n, (name, arguments) in enumerate(calls)
    ]
    return SpawnConfig(server, query, driver=ScriptedDriver([*replies, "done"]))


def results(value: Any) -> list[str]:
    """Return what the calls of a run came to."""
    return [message.result.text for message in value.transcript if hasattr(message, "result")]
