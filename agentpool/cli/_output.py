"""`--output`: a directory with each agent's whole answer and transcript."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, assert_never

import attrs

from agentpool._core.content import text_of
from agentpool._core.errors import BudgetExceededError, LoopHaltedError
from agentpool._core.messages import AgentId, AssistantMessage, ChatMessage, ToolMessage, UserMessage
from agentpool._core.outcomes import AgentResult, AnyOutcome, Completed, Failed
from agentpool.cli._errors import BadInputError
from agentpool.cli._listening import Conversations
from agentpool.cli._report import outcome_as_json, result_text

LETTERS_OF_NAME = 60
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]+")


@attrs.define(eq=False)
class OutputDirectory:
    """Where the answers of a run go, as each agent ends.

    An agent has `3-name.json` (how it ended, why, what it used, its transcript) and, if it answered,
    `3-name.txt` with the answer as it is. A file is there whole or not at all. The number is the
    agent's id, which no other agent of the run has, so that no two names can meet in one file.

    Attributes:
      conversations: of the agents that have not ended.
      lost: what could not be written, and why.
    """

    path: Path
    conversations: Conversations = attrs.field(factory=Conversations)
    lost: list[str] = attrs.field(factory=list)
    _seen: set[AgentId] = attrs.field(factory=set)

    @classmethod
    def prepare(cls, path: Path) -> OutputDirectory:
        """Make the directory, or take one that is there and empty, and try to write to it.

        Raises:
          BadInputError: if it holds something, or cannot be made or written to.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise BadInputError(
                    f"--output: {str(path)!r} is not empty. Give a new directory, so that the files of two"
                    " runs are not mixed"
                )
            write_whole(path / "trial", "x")
            (path / "trial").unlink()
        except FileExistsError:
            raise BadInputError(f"--output: {str(path)!r} is a file. Give a directory") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise BadInputError(
                f"--output: {str(path)!r} cannot be written to: {reason}. Give another directory"
            ) from None
        return cls(Path(os.path.abspath(path)))  # an agent may change the current directory

    def write(self, outcome: AnyOutcome) -> None:
        """Write the files of an agent that has ended, once. Blocks on the disk, and raises nothing."""
        if outcome.agent_id in self._seen:
            return
        self._seen.add(outcome.agent_id)
        for name, text in files_of(outcome, self.conversations.take(outcome.agent_id)):
            try:
                write_whole(self.path / name, text)
            except OSError as error:
                self.lost.append(f"{self.path / name}: {error.strerror or error}")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever finds a part of it under its name.

    Lone surrogates, which UTF-8 cannot say, are written as escapes.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def files_of(outcome: AnyOutcome, heard: Sequence[ChatMessage] = ()) -> Iterator[tuple[str, str]]:
    """Yield the names of an agent's files, and what is in them.

    Args:
      outcome: how it ended.
      heard: its conversation as its model saw it, where the outcome does not know it.
    """
    stem = stem_of(outcome)
    if isinstance(outcome, Completed):
        yield f"{stem}.txt", result_text(outcome)
    transcript = [message_as_json(each) for each in _transcript(outcome) or heard]
    document = outcome_as_json(outcome) | {"transcript": transcript}
    yield f"{stem}.json", json.dumps(document, indent=2, default=repr)


def stem_of(outcome: AnyOutcome) -> str:
    """Return the name of an agent's files without their ending, safe on every file system."""
    plain = _NOT_PLAIN.sub("_", outcome.name)[:LETTERS_OF_NAME].strip("_")
    return f"{outcome.agent_id}-{plain}" if plain else str(outcome.agent_id)


def _transcript(outcome: AnyOutcome) -> Sequence[ChatMessage]:
    """Return the conversation, as far as the outcome knows it."""
    match outcome:
        case Completed(value=AgentResult() as result):
            return result.transcript
        case Failed(error=LoopHaltedError() | BudgetExceededError() as error):
            return error.transcript
        case _:
            return ()


def message_as_json(message: ChatMessage) -> dict[str, Any]:
    """Return a message of a conversation as data for machines."""
    match message:
        case UserMessage():
            return {"role": "user", "kind": message.kind, "content": text_of(message.content)}
        case AssistantMessage():
            calls = [{"id": call.id, "name": call.name, "input": call.input} for call in message.tool_calls]
            return {"role": "assistant", "text": message.text, "tool_calls": calls}
        case ToolMessage():
            result = message.result
            return {
                "role": "tool",
                "call_id": message.call_id,
                "name": message.name,
                "content": result.text,
                "is_error": result.is_error,
            }
        case _:
            assert_never(message)
