"""`agentpool pins`: which tools of MCP servers are not as they were approved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import trio

from agentpool._core.errors import ToolError
from agentpool._core.manifest import AgentManifest, parse_toml, read_text
from agentpool._core.mcp_servers import McpServer
from agentpool.cli._errors import BadInputError
from agentpool.cli._files import FLEET_KEYS, load_fleet, load_manifest
from agentpool.cli._streams import complain, printing
from agentpool.cli._text import one_line


def show_pins(path: Path, accept: bool, vars: Mapping[str, str]) -> int:
    """Print what has changed of the servers of a file, and approve it if that is wanted.

    Raises:
      ManifestError: with every finding of the file.
      BadInputError: if no server of the file has pins, or is to be logged in to.
    """
    if FLEET_KEYS & parse_toml(read_text(path, Path.read_bytes), str(path)).keys():
        manifests = load_fleet(path, vars).manifests
    else:
        manifests = (load_manifest(path),)
    servers = {
        (server, manifest.privacy): manifest for manifest in manifests for server in manifest.mcp_servers
    }
    wanted = [key for key in servers if key[0].pin is not None or key[0].auth is not None]
    if not wanted:
        raise BadInputError(f"{path} has no MCP server with 'pin'. Give its entry one: pin = 'pins.json'")
    try:
        return max(trio.run(_show, server, servers[server, tier], accept) for server, tier in wanted)
    except ImportError as error:
        raise BadInputError(str(error)) from error


async def _show(server: McpServer, manifest: AgentManifest, accept: bool) -> int:
    from agentpool.tools.mcp import review

    name = one_line(server.name)
    try:
        found = await review(server, privacy=manifest.privacy, accept=accept)
    except ToolError as error:
        complain([str(error)])
        return 1
    with printing():
        if not found:
            print(f"{name}: as it was approved")
        for line in found:
            print(f"{name}: {one_line(line)}{' (approved now)' if accept else ''}")
    return 1 if found and not accept else 0
