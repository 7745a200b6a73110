"""Tool calls that need a person are put to the client whose call the agent works on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._core.approval import ApprovalRequest, Approved, Decision, Denied
from agentpool._core.text import encodable

if TYPE_CHECKING:
    from agentpool.mcp_server._calls import Call, Calls

NOBODY = Denied("it needs the approval of a person, and the client cannot ask one")
ARGUMENTS_SHOWN = 4_000
"""So many characters of the arguments are shown: of longer ones the beginning and the end."""

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "approve": {"type": "boolean", "title": "Make this call", "default": False},
        "reason": {"type": "string", "title": "If not: why, for the model"},
    },
    "required": ["approve"],
}


@attrs.define(eq=False)
class ClientApprover:
    """An approver that asks the client of the call for which an agent works, by elicitation.

    Give it to the pool and to the server: `open_agent_pool(..., approver=approver)` and
    `serve_agents_stdio(pool, fleet, approver=approver)`. A call is denied if its client cannot ask a
    person, and if its agent works for no call of a client.
    """

    _calls: Calls | None = None

    def serve(self, calls: Calls) -> None:
        """Ask the clients of these calls from now on.

        Raises:
          RuntimeError: if it asks those of another server already.
        """
        if self._calls is not None:
            raise RuntimeError("this ClientApprover is used by a server already; each needs its own")
        self._calls = calls

    async def __call__(self, request: ApprovalRequest, /) -> Decision:
        """Ask the client.

        Cancellation: the question is withdrawn.
        """
        call = None if self._calls is None else await self._calls.call_of(request.agent_id)
        if call is None or call.ask is None:
            await trio.lowlevel.checkpoint()
            return NOBODY
        return await call.ask(request)


def question(request: ApprovalRequest) -> str:
    """Return what a person is shown: who wants to call what, with which arguments, and why it is asked."""
    arguments = json.dumps(request.arguments, ensure_ascii=False, indent=1, default=str)
    if len(arguments) > ARGUMENTS_SHOWN:
        half = ARGUMENTS_SHOWN // 2
        left_out = len(arguments) - 2 * half
        arguments = f"{arguments[:half]}\n... {left_out:,} characters ...\n{arguments[-half:]}"
    who = f"Agent {request.agent_name!r} wants to call {request.call.name!r}, because of {request.rule}."
    return encodable(f"{who}\n{arguments}")


def decision_in(action: str, content: Mapping[str, Any] | None) -> Decision:
    """Return what a person decided by an answer to an elicitation; all but a clear yes denies."""
    if action != "accept":
        return Denied("the person did not approve of it")
    given = content or {}
    if given.get("approve") is True:
        return Approved()
    reason = given.get("reason")
    return Denied(reason if isinstance(reason, str) and reason else "the person did not approve of it")


@attrs.define(eq=False)
class _Question:
    request: ApprovalRequest
    is_sent: bool = False
    answered: trio.Event = attrs.field(factory=trio.Event)
    decision: Decision = NOBODY


@attrs.define(eq=False)
class Rounds:
    """Asks a client of 2026-07-28, which servers send no requests: it is asked by the answer to its call.

    The agent waits meanwhile, and the client makes the call again with what the person said.

    Attributes:
      open: the questions that have no answer yet, by their keys.
    """

    _call: Call
    open: dict[str, _Question] = attrs.field(factory=dict)
    _count: int = 0

    async def __call__(self, request: ApprovalRequest, /) -> Decision:
        """Have the question asked, and wait for the answer."""
        self._count += 1
        key = f"approval-{self._count}"
        asked = self.open[key] = _Question(request)
        self._call.is_asked.set()
        try:
            await asked.answered.wait()
        finally:
            self.open.pop(key, None)
        return asked.decision

    def send(self) -> Mapping[str, ApprovalRequest]:
        """Return the questions that the client is asked now, by their keys."""
        for asked in self.open.values():
            asked.is_sent = True
        return {key: asked.request for key, asked in self.open.items()}

    def answer(self, answers: Mapping[str, Any]) -> None:
        """Take in what the client says; a question that it was asked and has not answered is denied."""
        self._call.is_asked = trio.Event()
        for key, asked in self.open.items():
            if not asked.is_sent:  # it came up while the client was asked others
                self._call.is_asked.set()
                continue
            said = answers.get(key)
            action = getattr(said, "action", "cancel")
            asked.decision = decision_in(action, getattr(said, "content", None))
            asked.answered.set()
