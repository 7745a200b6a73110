"""The memory of a run: a file that the user named, or one that ends with the run."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import trio

from agentpool._core.errors import MemoryFileError
from agentpool.abc import Memory
from agentpool.cli._errors import BadInputError
from agentpool.memory.in_memory import InMemory


async def open_memory(stack: AsyncExitStack, path: str | Path | None) -> Memory:
    """Return the memory at a path, open for as long as the stack; without one, a memory of this run.

    Raises:
      BadInputError: if the file cannot be used; nothing has run then.
    """
    if path is None:
        return InMemory()
    from agentpool.memory.sqlite import SqliteMemory

    try:
        return await stack.enter_async_context(SqliteMemory(await trio.Path(path).expanduser()))
    except (MemoryFileError, ValueError) as error:
        raise BadInputError(str(error)) from error
