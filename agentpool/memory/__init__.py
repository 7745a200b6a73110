"""Memories: what agents remember, and how they recall it."""

from typing import TYPE_CHECKING, Any

from agentpool.memory.in_memory import InMemory as InMemory

if TYPE_CHECKING:
    from agentpool.memory.sqlite import SqliteMemory as SqliteMemory


def __getattr__(name: str) -> Any:
    if name == "SqliteMemory":  # SQLite is not loaded for whoever has no file
        from agentpool.memory.sqlite import SqliteMemory

        return SqliteMemory
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
