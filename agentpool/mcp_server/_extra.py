"""What has to be installed."""

from __future__ import annotations

from importlib.util import find_spec


def check_extra(*modules: str) -> None:
    """Refuse to serve without the SDK.

    Args:
      modules: what is needed beside the SDK.

    Raises:
      ModuleNotFoundError: with what to install.
    """
    for module in ("mcp", *modules):
        if find_spec(module) is None:
            extra = "mcp" if module == "mcp" else "mcp-http"
            raise ModuleNotFoundError(
                f"an MCP server needs {module}, which is missing: pip install 'trio-agentpool[{extra}]'",
                name=module,
            )
