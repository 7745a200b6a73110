"""Tools: functions that a model may call, and the built-in ones.

`@tool` makes one of a function, a `ToolRegistry` holds those of an agent, and `build_tools` puts
together what a manifest grants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpool.tools._function import FunctionTool as FunctionTool
from agentpool.tools._function import tool as tool
from agentpool.tools._registry import MAX_RESULT_CHARS as MAX_RESULT_CHARS
from agentpool.tools._registry import ToolRegistry as ToolRegistry

if TYPE_CHECKING:
    from agentpool.tools._build import build_tools as build_tools
    from agentpool.tools._build import builtin_tools as builtin_tools
    from agentpool.tools._build import load_tools as load_tools

_BUILD = ("build_tools", "builtin_tools", "load_tools")


def __getattr__(name: str) -> Any:
    """Import the built-in tools when they are first asked for: plain agents never need them."""
    if name in _BUILD:
        from agentpool.tools import _build

        return getattr(_build, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
