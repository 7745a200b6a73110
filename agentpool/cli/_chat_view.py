"""A turn of a chat as a person sees it: the answer as it comes, and a line for each tool."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from agentpool._core import events as ev
from agentpool._core.messages import AgentId, ToolCall, ToolMessage
from agentpool._core.picture import Picture
from agentpool.cli._errors import OutputLostError
from agentpool.cli._progress import LONGEST_LINE, told
from agentpool.cli._streams import give_up, printing, say
from agentpool.cli._text import can_encode, cut, one_line, safe


@attrs.define
class Stream:
    """Makes pieces of text safe for a terminal; a line break may come in two pieces."""

    _held: str = ""

    def feed(self, piece: str) -> str:
        """Return what can be shown after this piece."""
        text, self._held = self._held + piece, ""
        if text.endswith("\r"):
            text, self._held = text[:-1], "\r"
        return safe(text.replace("\r\n", "\n"))

    def rest(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return safe(held)


@attrs.define(eq=False)
class ChatView:
    """Shows one agent's answers on standard output, and what else there is on standard error.

    A terminal gets an answer piece by piece, everything else gets it whole, without what the agent said
    before its tools.

    Attributes:
      partial: what the agent has said in the model call that is under way.
      results: of the agent's tool calls in this turn.
      lost: why standard output takes no more; None as long as it does.
    """

    quiet: bool
    partial: str = ""
    results: list[ToolMessage] = attrs.field(factory=list)
    lost: OutputLostError | None = None
    _agent: AgentId = 0
    _streamed: str = ""
    _stream: Stream = attrs.field(factory=Stream)
    _is_open: bool = False
    _again: Callable[[], None] | None = None
    _picture: Picture = attrs.field(factory=Picture)

    def begin(self, agent: AgentId) -> None:
        """Show the turn of an agent."""
        self._agent = agent
        self.partial = self._streamed = ""
        self.results = []
        self._picture = Picture()

    def take(self, event: ev.Event) -> None:
        """Take an event in."""
        line = told(self._picture, event)
        if event.agent_id != self._agent:
            self._note(line)
            return
        match event:
            case ev.TextDeltaReceived():
                self._add(event.text)
            case ev.CompletionFinished():
                self.partial = ""
            case ev.ToolStarted():
                self._streamed = ""
                self._note(_tell_call(event.call))
            case ev.ToolFinished():
                self.results.append(ToolMessage(event.call.id, event.call.name, event.result))
                if event.result.is_error:
                    self._note(f"{event.call.name} failed: {event.result.text}")
            case ev.AgentStarted() | ev.AgentFinished():
                pass
            case _:
                self._note(line)

    def end(self, answer: str | None) -> None:
        """End the turn: print the answer if it was not, and the line break behind it.

        Args:
          answer: the whole of it; None if the turn has failed.
        """
        self._put(self._stream.rest())
        if answer is not None and not self._streamed.strip().endswith(answer.strip()):
            self._close_line()
            self._put(safe(answer.replace("\r\n", "\n")))
        if answer is not None and not answer.strip():
            self.tell("(the answer has no text)")
        self._close_line()

    def tell(self, line: str) -> None:
        """Show a line that is no part of an answer."""
        self._say(cut(one_line(line), LONGEST_LINE, sys.stderr))

    def retrying(self, agent_id: AgentId, why: str, seconds: float) -> None:
        """Show that a model call failed, and will be made again."""
        self._note(f"asks again in {seconds:.1f} s: {why}")

    def _note(self, line: str | None) -> None:
        """Show something that is good to know, on one line of the terminal."""
        if line is None or self.quiet:
            return
        mark = "·" if can_encode("·", sys.stderr) else "-"
        self._say(cut(f"{mark} {one_line(line)}", _width(), sys.stderr))

    @contextmanager
    def asking(self, again: Callable[[], None]) -> Iterator[None]:
        """Leave the terminal to somebody who asks; behind each line that is shown then, call `again`."""
        self._close_line()
        self._again = again
        try:
            yield
        finally:
            self._again = None

    def _say(self, line: str) -> None:
        self._close_line()
        # A question stands on a line that has not ended.
        say(line if self._again is None else f"\n{line}")
        if self._again is not None:
            self._again()

    def _add(self, piece: str) -> None:
        self.partial += piece
        if sys.stdout.isatty():
            self._streamed += piece
            self._put(self._stream.feed(piece))

    def _close_line(self) -> None:
        if self._is_open:
            self._put("\n")

    def _put(self, text: str) -> None:
        """Print a piece; after standard output has failed, nothing: the turn is to come to its end."""
        if not text or self.lost is not None:
            return
        try:
            with printing():
                print(text, end="")
        except OutputLostError as error:
            self.lost = error
            give_up(sys.stdout)
        self._is_open = not text.endswith("\n")


def _tell_call(call: ToolCall) -> str:
    given = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False, default=repr)}" for name, value in call.input.items()
    )
    return f"{call.name}({given})"


def _width() -> int:
    if sys.stderr is None or not sys.stderr.isatty():
        return LONGEST_LINE
    return max(20, shutil.get_terminal_size().columns - 1)
