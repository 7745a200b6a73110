"""Servers of tools that are reached over the Model Context Protocol; needs the extra `mcp`.

Agents get the tools of the servers of their manifests by themselves. A program opens a server with
`open_server`.
"""

from __future__ import annotations

try:
    import mcp as _mcp  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "MCP servers need an extra: pip install 'trio-agentpool[mcp]'", name=_error.name
    ) from _error

from agentpool._core.mcp_servers import McpServer as McpServer
from agentpool.tools.mcp._oauth import TokenFile as TokenFile
from agentpool.tools.mcp._oauth import oauth as oauth
from agentpool.tools.mcp._server import OpenServer as OpenServer
from agentpool.tools.mcp._server import open_server as open_server
from agentpool.tools.mcp._server import review as review
from agentpool.tools.mcp._tools import McpTool as McpTool
from agentpool.tools.mcp._tools import open_tools as open_tools
