"""What the commands that look into a journal share: reading it, finding an agent, showing a conversation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import attrs

from agentpool._core.content import text_of
from agentpool._core.errors import JournalError, ReplayMismatchError
from agentpool._core.messages import AgentId, AssistantMessage, ChatMessage, ToolMessage, UserMessage
from agentpool._core.outcomes import AnyOutcome
from agentpool._core.past import Past, PastAgent, past_of
from agentpool._core.records import JournalRecord
from agentpool._core.tapes import RecordedLoop, loops_of
from agentpool._kernel.descriptions import outcome_from_data
from agentpool._loop.replaying import replay
from agentpool.cli._errors import BadInputError
from agentpool.cli._text import listed, one_line, safe
from agentpool.journal import read_journal


@attrs.frozen
class PastRun:
    """A run, as its journal tells of it."""

    path: Path
    records: Sequence[JournalRecord]
    past: Past

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a journal, also one that is being written.

        Raises:
          BadInputError: if there is none, it is damaged, or it holds no run.
        """
        where = one_line(str(path))
        if path.is_dir():
            raise BadInputError(f"{where} is a directory. Give the journal of a run, such as run.db")
        try:
            records = read_journal(path)
            past = past_of(records)
        except FileNotFoundError:
            raise BadInputError(
                f"there is no journal {where}. `agentpool run FLEET --journal {where}` makes one"
            ) from None
        except (JournalError, ValueError, OSError) as error:
            raise BadInputError(one_line(str(error))) from None
        if not records:
            raise BadInputError(f"{where} holds no run: nothing had begun")
        return cls(path, records, past)

    def agent(self, agent_id: AgentId) -> PastAgent:
        """Return an agent of the run.

        Raises:
          BadInputError: if it has none of that id.
        """
        agent = self.past.agents.get(agent_id)
        if agent is None:
            known = listed([f"{each.id} ({each.name})" for each in self.past.agents.values()])
            raise BadInputError(f"the run has no agent {agent_id}. It has {known or 'none'}")
        return agent

    def outcome_of(self, agent: PastAgent) -> AnyOutcome | None:
        """Return how an agent ended; None if it has not."""
        if agent.outcome is None:
            return None
        return outcome_from_data(agent.outcome, agent.id, agent.name, agent.parent, agent.spawned_at)

    def loops_of(self, agent: PastAgent) -> list[RecordedLoop]:
        """Return the runs of the loop of an agent; empty for one that asks no model."""
        return loops_of(self.records, agent.id)

    def conversation_of(self, agent: PastAgent) -> Sequence[ChatMessage]:
        """Return the conversation of an agent's last run of the loop, as far as its journal tells.

        Raises:
          BadInputError: if it had none, or its tape cannot be fed through this loop.
        """
        loops = self.loops_of(agent)
        if not loops:
            raise BadInputError(
                f"agent {agent.id} ({one_line(agent.name)}) asked no model, and has no transcript"
            )
        try:
            return conversation_in(loops[-1], agent.name)
        except ReplayMismatchError as error:
            raise BadInputError(one_line(str(error))) from None


def conversation_in(loop: RecordedLoop, name: str) -> Sequence[ChatMessage]:
    """Return the conversation of a run of the loop, as far as its journal tells.

    Args:
      loop: the tape.
      name: of the agent, for errors.

    Raises:
      ReplayMismatchError: if the tape cannot be fed through this loop.
    """
    last = deque(replay(loop, name), maxlen=1).pop()
    return last.state.transcript


def lines_of(conversation: Sequence[ChatMessage]) -> Iterator[str]:
    """Yield a conversation as lines of text, safe on a terminal."""
    for message in conversation:
        match message:
            case UserMessage():
                yield from _block(message.kind, text_of(message.content))
            case AssistantMessage():
                yield from _block("model", message.text)
                for call in message.tool_calls:
                    yield f"  calls {one_line(call.name)} {one_line(str(dict(call.input)))}"
            case ToolMessage():
                head = "error" if message.result.is_error else "result"
                yield from _block(f"{head} of {one_line(message.name)}", message.result.text)


def _block(head: str, text: str) -> Iterator[str]:
    lines = safe(text).splitlines() or [""]
    if len(lines) == 1:
        yield f"{head}: {lines[0]}".rstrip()
        return
    yield f"{head}:"
    for line in lines:
        yield f"  {line}".rstrip()
