"""What a dialect is: the form in which one kind of server is asked, and answers.

A dialect is pure: from a `Question` to a body, and from what came back to a `Completion`. To add
one, write these four methods and a `StreamReader`, and a small driver class that says where its
servers are and how they are given the key (see `openai.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

from agentpool._core.messages import Completion, ReasoningDelta, TextDelta
from agentpool.drivers._fitting import Question

Delta: TypeAlias = TextDelta | ReasoningDelta


class StreamReader(Protocol):
    """Reads one streamed answer."""

    @property
    def is_done(self) -> bool:
        """Whether nothing more can come that matters."""
        ...

    def feed(self, data: Any, name: str) -> Iterable[Delta]:
        """Take one record, as JSON data, and return what it adds to the answer.

        Args:
          data: the record.
          name: the event's name, where the server names its events.

        Raises:
          RefusedInStreamError: if it is an error.
          MalformedReplyError: if it cannot be read.
        """
        ...

    def completion(self) -> Completion:
        """Return the whole answer, without its price.

        Raises:
          MalformedReplyError: if it is not whole.
        """
        ...


class Dialect(Protocol):
    """The form in which one kind of server is asked, and answers."""

    framing: Literal["sse", "lines"]
    """How streamed records are told apart."""
    droppable: frozenset[str]
    """The parameters of a body that may be left out if a server does not take them."""

    def path(self, question: Question, *, streaming: bool) -> str:
        """Return where to send the question, below the server's address; it may have a query."""
        ...

    def body(self, question: Question, *, streaming: bool) -> dict[str, Any]:
        """Return the body of the request, before what was learned of the model is applied."""
        ...

    def completion(self, data: Mapping[str, Any], question: Question) -> Completion:
        """Read a whole answer, without its price.

        Raises:
          RefusedInStreamError: if it is an error in the clothes of an answer.
          MalformedReplyError: if it cannot be read.
        """
        ...

    def reader(self, question: Question) -> StreamReader:
        """Return a reader for one streamed answer."""
        ...


class RefusedInStreamError(Exception):
    """A server said within an answer that it does not answer; `body` is what it said."""

    def __init__(self, body: object) -> None:
        self.body = body
        super().__init__("refused within an answer")
