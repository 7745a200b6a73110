"""Which of the tool calls that a model wishes for are made: by rules, and where they say so by a person."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import attrs

from agentpool import abc
from agentpool._core.approval import (
    ApprovalRequest,
    ApprovalRules,
    CallView,
    Denied,
    Ruling,
    idle_patterns,
    ruling_on,
)
from agentpool._core.errors import Finding, ManifestError, ToolError
from agentpool._core.events import ApprovalDecided
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import ToolCall, ToolDefinition, ToolResult
from agentpool._core.text import named
from agentpool._kernel.binding import Bound
from agentpool._kernel.places import keep_in_journal
from agentpool._kernel.protection import call_unprotected, protect_module
from agentpool._kernel.splitting import split_error
from agentpool._logging import LOOP, tell

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext

_in_force: ContextVar[tuple[ApprovalRules, ...]] = ContextVar("agentpool_approval_rules", default=())
"""The rules that bind whoever runs a loop here. An agent starts in the context of whoever spawned it, so
that it has those of its spawner, and can only add its own."""
keep_in_journal("approval", _in_force)


def rules_of(
    manifest: AgentManifest,
    tools: Sequence[ToolDefinition],
    missing: Iterable[str] = (),
    *,
    may_lack: bool = False,
) -> tuple[ApprovalRules, ...]:
    """Return the rules that bind a run: those in force here, and the manifest's own.

    Args:
      manifest: whose own.
      tools: what the agent has.
      missing: what it has not now: names of tools, or the beginnings of such names.
      may_lack: whether its rules may be about what it has not: it is granted less than it asks for, or had
        begun with tools that are gone since.

    Raises:
      ManifestError: if a pattern of the manifest fits no call of its tools. One that it has from its
        spawner, which may have had more tools, is passed over.
    """
    above, own = _in_force.get(), manifest.approval
    if not own or own in above:
        return above
    source = f"manifest {manifest.name!r}"
    findings = [Finding(source, *found) for found in idle_patterns(own, tools, missing)]
    if findings and not may_lack:
        raise ManifestError(findings)
    return (*above, own)


def in_force(rules: tuple[ApprovalRules, ...]) -> Bound[tuple[ApprovalRules, ...]]:
    """Have rules bind what is started within the block."""
    return Bound(_in_force, rules)


@attrs.frozen
class _Judged:
    """What the rules say of a call, and its arguments as the tool takes them, if it tells."""

    ruling: Ruling
    taken: Mapping[str, Any] | None


@attrs.frozen
class Refused:
    """What a call comes to that is not made.

    Attributes:
      is_decided: whether a rule or a person refused it; False of one that cannot be made.
    """

    result: ToolResult
    is_decided: bool = True


@attrs.frozen(eq=False)
class Gate:
    """Lets the tool calls of one run through, or refuses them.

    Attributes:
      rules: not empty.
      bases: the directory that relative paths of the agent refer to, as it is named, and as it is.
    """

    ctx: AgentContext
    tools: abc.ToolSet
    rules: tuple[ApprovalRules, ...]
    bases: tuple[str, ...]

    async def refusal(self, call: ToolCall, call_key: str | None = None) -> Refused | None:
        """Return what a call comes to that is not made; None for one that is made.

        Args:
          call: what the model wishes for.
          call_key: names the call in all the world; None without a journal.

        Waits for the approver, with the slot lent, if the rules want that. Cancellation: nothing was
        decided.
        """
        try:
            judged = self._judged(call)
        except Exception as error:
            if split_error(error).fatal is not None:
                raise
            return _not_run(f"its arguments cannot be judged: {named(error)}")
        if judged is None:
            return None
        if isinstance(judged, ToolResult):
            # Nobody is asked about a call that cannot be made: it has come to its error, as without rules.
            return Refused(judged, is_decided=False)
        ruling = judged.ruling
        if ruling.verdict == "allow":
            return None
        request = ApprovalRequest.of(self.ctx.id, self.ctx.name, call, ruling.rule, judged.taken)
        if ruling.verdict == "deny":
            denied = Denied(f"the rule {ruling.rule} forbids it")
            self.ctx.emit(ApprovalDecided, request, denied)
            tell(LOOP, logging.INFO, "a call of %s was denied by the rule %s", call.name, ruling.rule)
            return _not_run(denied.reason)
        decision = await self.ctx.ask_approver(request, call_key)
        if not isinstance(decision, Denied):
            return None
        said = f"it was denied: {decision.reason}" if decision.reason else "it was denied"
        return Refused(self.tools.shortened(_not_run(said).result))

    def _judged(self, call: ToolCall) -> _Judged | ToolResult | None:
        """Return what the rules say; a result, or None, for a call that comes to an error by itself."""
        if call.problem:
            return None
        try:
            tool = self.tools.granted(call.name)
        except ToolError:
            return None
        taken = None
        if (take := getattr(tool, "taken", None)) is not None:
            taken = call_unprotected(take, call.input)
            if isinstance(taken, ToolResult):
                return taken
        view = CallView(call.name, call.input, taken, tool.definition.input_schema, self.bases)
        return _Judged(ruling_on(view, self.rules), taken)


def gate_of(
    ctx: AgentContext, manifest: AgentManifest, tools: abc.ToolSet | None, rules: tuple[ApprovalRules, ...]
) -> Gate | None:
    """Return the gate of a run; None if there is nothing to refuse."""
    if not rules or tools is None:
        return None
    return Gate(ctx, tools, rules, _bases_of(manifest))


def _bases_of(manifest: AgentManifest) -> tuple[str, ...]:
    try:
        base = os.path.abspath(manifest.base or "")
        return tuple(dict.fromkeys((base, os.path.realpath(base))))
    except OSError:  # the current directory is gone
        return ()


def _not_run(why: str) -> Refused:
    return Refused(ToolResult(f"Not run: {why}.", is_error=True))


protect_module(globals())
