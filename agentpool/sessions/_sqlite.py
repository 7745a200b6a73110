"""`Session`: conversations by name, in an SQLite file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from agentpool._core.messages import ChatMessage
from agentpool._core.outcomes import AgentResult
from agentpool._core.text import encodable
from agentpool._core.transcript import checked_history
from agentpool._sqlite import SqliteFile
from agentpool.sessions._file import SCHEMA, Conversations
from agentpool.sessions._file import Conversation as Conversation

T = TypeVar("T")
LONGEST_NAME = 200


class Session:
    """Keeps conversations by name in one SQLite file, which several processes may share.

    A conversation is what `history` takes: `await session.history("anna")` returns it, and
    `await session.append("anna", result)` adds what a run has said since. It is written in one piece or not
    at all, so that a turn that fails or is cancelled leaves the conversation as it was.

    The file is created for its owner alone (0600), with its folder. Secrets (keys, passwords, the values of
    such variables of the environment) do not get into it: placeholders such as `[redacted-1]` do.

    The file is opened when it is first used, and let go by `aclose`, `async with`, or when the session is
    gone. Each call is a transaction in a thread; the calls of one session follow each other.
    """

    def __init__(self, path: str | os.PathLike[str], *, secrets: Iterable[str] = ()) -> None:
        """Say where the conversations are; nothing is opened yet.

        Args:
          path: the file.
          secrets: texts that must not get into it, beside those that are found.

        Raises:
          TypeError: if an argument has a wrong type.
          ValueError: if the path is empty or `:memory:`: keep `result.transcript` to remember without a file.
        """
        if isinstance(secrets, str):
            raise TypeError("secrets must be a list of texts, not one text")
        self._file = SqliteFile(path, SCHEMA)
        self._do = Conversations(tuple(secrets))

    def __repr__(self) -> str:
        return f"Session({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """Where the conversations are."""
        return self._file.path

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let the file go; the next call opens it again.

        Checkpoint: always. Cancellation: does not stop it.
        """
        await self._file.aclose()

    async def conversations(self) -> Sequence[Conversation]:
        """Return the conversations that there are, the one that changed last first.

        Raises:
          SessionError: if the file cannot be read.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that nothing was done.
        """
        return await self._file.call(self._do.conversations, writes=False)

    async def history(self, name: str) -> Sequence[ChatMessage]:
        """Return a conversation's messages, for `history=`; none if there is no such conversation.

        Raises:
          SessionError: if the file cannot be read.
          TypeError, ValueError: if it is no name.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that nothing was done.
        """
        return await self._file.call(partial(self._do.history, _name(name)), writes=False)

    async def append(self, name: str, result: AgentResult[Any] | Sequence[ChatMessage]) -> int:
        """Add to a conversation what it does not hold yet, and create it if there is none.

        A result is appended once, however often this is called: the transcript has to begin with the
        conversation, and only the rest of it is added. So a result whose run was not given the
        conversation as its history is refused, as is one that another writer was quicker than.

        Args:
          name: the conversation.
          result: of a model agent, or a transcript: with its history, and a result for each tool call.

        Returns:
          How many messages were added.

        Raises:
          SessionConflictError: if the transcript does not go on from the conversation as it is now.
          SessionError: if the file cannot be written. Nothing was changed then.
          TypeError, ValueError: if it is no name, no transcript, or one with a call without its result.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that nothing was written.
        """
        transcript = result.transcript if isinstance(result, AgentResult) else result
        return await self._write(self._do.append, _name(name), checked_history(transcript))

    async def delete(self, name: str) -> bool:
        """Delete a conversation; return whether there was one.

        Raises:
          SessionError: if the file cannot be written.
          TypeError, ValueError: if it is no name.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that nothing was done.
        """
        return await self._write(self._do.delete, _name(name))

    async def rename(self, name: str, new_name: str) -> None:
        """Give a conversation another name.

        Raises:
          SessionError: if there is no such conversation, the new name is taken, or the file cannot be
            written.
          TypeError, ValueError: if one of them is no name.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that nothing was done.
        """
        await self._write(self._do.rename, _name(name), _name(new_name))

    async def fork(self, name: str, new_name: str, *, messages: int | None = None) -> None:
        """Copy a conversation under another name, from where both go on by themselves.

        Args:
          name: the conversation.
          new_name: that of the copy.
          messages: how many messages of it to copy, counted from the first; all if it is left out.

        Raises:
          SessionError: if there is no such conversation, the new name is taken, or the file cannot be
            written.
          TypeError, ValueError: if one of them is no name, or `messages` is negative or parts a tool call
            from its result.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that nothing was done.
        """
        if messages is not None and messages < 0:
            raise ValueError(f"messages must be at least 0, not {messages}")
        await self._write(self._do.fork, _name(name), _name(new_name), messages)

    async def _write(self, work: Callable[..., T], *args: Any) -> T:
        return await self._file.call(partial(work, *args), writes=True)


def _name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a conversation's name must be a text, not {name!r}")
    if not name.strip() or len(name) > LONGEST_NAME or encodable(name) != name:
        raise ValueError(
            f"a conversation's name must have 1 to {LONGEST_NAME} characters, all of which can be encoded,"
            f" not {name!r}"
        )
    return name
