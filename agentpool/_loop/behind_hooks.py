"""Puts the calls of a run behind hooks; loaded by the first run that has any."""

from __future__ import annotations

from collections.abc import Sequence

from agentpool import abc
from agentpool._loop.hooked_models import HookedModelCalls
from agentpool._loop.hooked_tools import HookedToolCalls
from agentpool._loop.hooks import layers_of
from agentpool._loop.model_calls import ModelCalls
from agentpool._loop.tool_calls import ToolCalls
from agentpool.tools._kept import KeptResults, kept_within
from agentpool.tools._redact import Redact
from agentpool.tools._registry import MAX_RESULT_CHARS


def behind_hooks(
    hooks: Sequence[abc.Hooks], asking: ModelCalls, calls: ToolCalls
) -> tuple[ModelCalls, ToolCalls]:
    """Return the model calls and the tool calls of a run, as they go through hooks.

    Outside of them all stands what keeps results that are too long, unless one of them does so. One that was
    given stands outside of what takes secrets out: what it keeps it writes into files.
    """
    hooks = _with_keeping_outside(hooks)
    if not any(isinstance(each, KeptResults) for each in hooks) and (keeping := kept_by_default(calls)):
        hooks = (keeping, *hooks)
    ctx, is_told, tape = asking.ctx, asking.is_told, calls.tape
    if layers := layers_of(hooks, "model"):
        asking = HookedModelCalls(ctx, asking.driver, is_told=is_told, layers=layers, tape=tape)
    if layers := layers_of(hooks, "tool"):
        calls = HookedToolCalls(ctx, calls.tools, calls.gate, tape, is_told=is_told, layers=layers)
    return asking, calls


def _with_keeping_outside(hooks: Sequence[abc.Hooks]) -> Sequence[abc.Hooks]:
    """Return the hooks with each `KeptResults` outside of the outermost `Redact`, else as they were."""
    first = next((n for n, each in enumerate(hooks) if isinstance(each, Redact)), len(hooks))
    inside = hooks[first:]
    keeping = [each for each in inside if isinstance(each, KeptResults)]
    if not keeping:
        return hooks
    return (*hooks[:first], *keeping, *(each for each in inside if not isinstance(each, KeptResults)))


def kept_by_default(calls: ToolCalls) -> KeptResults | None:
    """Return what keeps the results that the tools of a run would cut; None for an agent without tools."""
    if calls.tools is None:
        return None
    return kept_within(getattr(calls.tools, "max_result_chars", MAX_RESULT_CHARS))
