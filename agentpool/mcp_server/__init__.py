"""A fleet's agents as tools of an MCP server, over standard input and output, or over HTTP."""

from agentpool.mcp_server._approving import ClientApprover as ClientApprover
from agentpool.mcp_server._guard import checked_token as checked_token
from agentpool.mcp_server._http import serve_agents_http as serve_agents_http
from agentpool.mcp_server._stdio import StdioClaim as StdioClaim
from agentpool.mcp_server._stdio import claim_stdio as claim_stdio
from agentpool.mcp_server._stdio import serve_agents_stdio as serve_agents_stdio
