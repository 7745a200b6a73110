"""Tool calls that need a person are asked about on the live page."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from agentpool._core.approval import Answered, ApprovalRequest, Approved, Decision, Denied
from agentpool._core.picture_data import approval_data
from agentpool._core.schemas import problems_of
from agentpool._core.text import named

DECIDED_KEPT = 10_000
"""So many questions that are closed are told from those that there never were."""


class BadAnswerError(ValueError):
    """An answer is none to its question."""


class AlreadyDecidedError(Exception):
    """A question was answered before, or withdrawn."""


@attrs.define(eq=False)
class _Open:
    request: ApprovalRequest
    answered: trio.Event = attrs.field(factory=trio.Event)
    decision: Decision | None = None


@attrs.define(eq=False)
class PageApprover:
    """An approver whose questions are answered on the live page.

    Give it to the pool and to the page: `open_agent_pool(..., approver=approver)` and
    `serve_live_page(pool, approver=approver)`. Each question waits for as long as a person takes, also while
    no browser has the page open. The first answer counts.
    """

    _open: dict[str, _Open] = attrs.field(factory=dict)
    _closed: OrderedDict[str, None] = attrs.field(factory=OrderedDict)
    _count: int = 0
    _version: int = 0
    _listeners: list[Callable[[], object]] = attrs.field(factory=list)

    async def __call__(self, request: ApprovalRequest, /) -> Decision:
        """Ask about a call.

        Checkpoint: always. Cancellation: the question is withdrawn.
        """
        self._count += 1
        key = f"{self._count}-{request.hash[:16]}"  # two agents may make calls of the same hash
        asked = self._open[key] = _Open(request)
        self._change()
        try:
            await asked.answered.wait()
        finally:
            del self._open[key]
            self._change()
            self._closed[key] = None
            if len(self._closed) > DECIDED_KEPT:
                self._closed.popitem(last=False)
        assert asked.decision is not None
        return asked.decision

    def _change(self) -> None:
        self._version += 1
        for listener in self._listeners:
            listener()

    def listen(self, listener: Callable[[], object]) -> None:
        """Have this called whenever `version` has changed."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], object]) -> None:
        """Have it called no more."""
        self._listeners.remove(listener)

    @property
    def version(self) -> int:
        """Counts up when a question is asked, answered or withdrawn."""
        return self._version

    @property
    def count(self) -> int:
        """How many questions are open."""
        return len(self._open)

    def asked(self) -> Sequence[Mapping[str, Any]]:
        """Return the questions that have no answer, as JSON data; see `approval_data`."""
        return [
            {**approval_data(asked.request), "hash": key}
            for key, asked in self._open.items()
            if asked.decision is None
        ]

    def decide(self, key: str, answer: Mapping[str, Any]) -> None:
        """Answer a question.

        Args:
          key: the `hash` of what was asked.
          answer: `approve`, and perhaps `reason` or `content`.

        Raises:
          KeyError: if there never was such a question.
          AlreadyDecidedError: if it was answered before, or withdrawn.
          BadAnswerError: if it is no answer to this question.
        """
        asked = self._open.get(key)
        if asked is None and key not in self._closed:
            raise KeyError(key)
        if asked is None or asked.decision is not None:
            raise AlreadyDecidedError(key)
        asked.decision = decision_in(asked.request, answer)
        asked.answered.set()  # first: whatever becomes of those who listen, the answer counts
        self._change()


def decision_in(request: ApprovalRequest, answer: Mapping[str, Any]) -> Decision:
    """Return the decision that an answer is.

    Raises:
      BadAnswerError: if it is none, or a form that is not filled in as its schema wants it.
    """
    wrong = answer.keys() - {"approve", "reason", "content"}
    if wrong:
        raise BadAnswerError(f"an answer has no {', '.join(sorted(map(repr, wrong)))}")
    approve, reason, content = answer.get("approve"), answer.get("reason", ""), answer.get("content")
    if not isinstance(approve, bool):
        raise BadAnswerError('"approve" must be true or false')
    if not isinstance(reason, str):
        raise BadAnswerError('"reason" must be a text')
    if not approve:
        return Denied(reason)
    schema = None if request.question is None else request.question.schema
    if schema is None:
        if content is not None:
            raise BadAnswerError('"content" is for a question with a form')
        return Approved()
    if not isinstance(content, Mapping):
        raise BadAnswerError('the question has a form: "content" must be an object')
    properties = schema.get("properties")
    unknown = content.keys() - (properties if isinstance(properties, Mapping) else {}).keys()
    problems = [f"the form has no {name!r}" for name in sorted(unknown)]
    try:
        problems += problems_of(content, schema)
    except Exception as error:  # a server wrote the schema, and nobody has looked at it
        raise BadAnswerError(f"the form makes no sense: {named(error)}") from None
    if problems:
        raise BadAnswerError("; ".join(problems))
    return Answered(content)
