"""The conversation of a chat, and where it is kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import TypeGuard

import attrs

from agentpool._core.content import Content
from agentpool._core.errors import SessionConflictError, SessionError
from agentpool._core.messages import AssistantMessage, ChatMessage, ToolMessage, UserMessage
from agentpool._core.transcript import repaired
from agentpool.sessions import Session

INTERRUPTED = "The user stopped this answer before its end."


@attrs.define(eq=False)
class Kept:
    """The conversation so far; in a file too, if it has a name.

    Attributes:
      messages: what was said.
      session: the file; None if nothing is kept.
      name: the conversation's name there.
      tell: shows a line to the person.
      problem: why the latest turn is not in the file; empty if it is.
    """

    session: Session | None
    name: str
    tell: Callable[[str], None]
    messages: Sequence[ChatMessage] = ()
    problem: str = ""

    async def load(self) -> None:
        """Fetch what was said before.

        Raises:
          SessionError: if the file cannot be read.
        """
        if self.session is not None:
            self.messages = await self.session.history(self.name)

    async def go_on(self, transcript: Sequence[ChatMessage]) -> None:
        """Take in a turn. If another program went on with the conversation, ours gets another name."""
        self.messages = transcript
        self.problem = ""
        if self.session is None:
            return
        try:
            await self._append(self.session, transcript)
        except SessionError as error:  # with the next turn it is tried again
            self.problem = f"not kept: {error}"
            self.tell(self.problem)

    async def _append(self, session: Session, transcript: Sequence[ChatMessage]) -> None:
        while True:
            try:
                await session.append(self.name, transcript)
                return
            except SessionConflictError:
                old, self.name = self.name, await self._free_name(session)
                self.tell(f"another program went on with {old!r}: this chat is kept as {self.name!r}")

    async def reset(self) -> None:
        """Begin anew; what was said before stays in the file, under another name."""
        if self.session is not None and self.messages and not self.problem:
            try:
                other = await self._free_name(self.session)
                await self.session.rename(self.name, other)
            except SessionError as error:
                self.tell(f"nothing is changed: {error}")
                return
            self.tell(f"what was said before is kept as {other!r}")
        self.messages = ()
        self.tell("a new conversation begins")

    async def _free_name(self, session: Session) -> str:
        taken = {each.name for each in await session.conversations()}
        return next(name for number in count(2) if (name := f"{self.name[:190]}-{number}") not in taken)

    async def names(self) -> None:
        """Tell which conversations the file has."""
        if self.session is None:
            self.tell("nothing is kept: begin with --session NAME")
            return
        try:
            listed = await self.session.conversations()
        except SessionError as error:
            self.tell(str(error))
            return
        for each in listed:
            mark = ", this one" if each.name == self.name else ""
            self.tell(f"{each.name}: {each.messages} messages{mark}")
        if not listed:
            self.tell("there is no conversation yet")


def queries_of(messages: Iterable[ChatMessage]) -> list[str]:
    """Return what a person has asked before."""
    return [message.body for message in messages if _is_query(message)]


def _is_query(message: ChatMessage) -> TypeGuard[UserMessage]:
    return isinstance(message, UserMessage) and message.kind == "query"


def interrupted(
    history: Sequence[ChatMessage],
    query: Content,
    heard: Sequence[ChatMessage],
    results: Iterable[ToolMessage],
    partial: str,
) -> list[ChatMessage]:
    """Return the conversation after an answer that was stopped, so that a model can go on with it.

    What was done stays known: each call with its result, or with one that says that it is unknown.

    Args:
      history: the conversation before.
      query: what was asked.
      heard: the messages of the last model call, and its answer if it came to one.
      results: of the tool calls that ended.
      partial: what the model had said of the answer that was stopped.
    """
    begins = [index for index, message in enumerate(heard) if _is_query(message)]
    turn: list[ChatMessage] = list(heard[begins[-1] :]) if begins else [UserMessage(query)]
    last = turn[-1]
    if isinstance(last, AssistantMessage):
        by_id = {result.call_id: result.result for result in results}
        # Under the model's own name for it, whatever a hook has called in its place.
        turn += [
            ToolMessage(call.id, call.name, by_id[call.id]) for call in last.tool_calls if call.id in by_id
        ]
    if partial.strip():
        turn.append(AssistantMessage(partial))
    return repaired([*history, *turn, UserMessage(INTERRUPTED, kind="note")])


def default_file() -> Path:
    """Return where conversations are kept if the command line does not say it."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "agentpool" / "sessions.db"
