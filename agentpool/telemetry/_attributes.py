"""What spans say: their names and attributes, by the GenAI conventions where those have a word for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from agentpool._core.events import ContextCompacted, ModelCallStarted
from agentpool._core.messages import Completion, StopReason
from agentpool._core.outcomes import AgentResult, AnyOutcome, Completed, Failed
from agentpool._core.usage import TokenUsage

SCHEMA_URL = "https://opentelemetry.io/schemas/gen-ai/1.42.0"
"""The version of the conventions. They are a repository of their own since 1.42, which is in development."""

Attributes = dict[str, Any]

ABORTED = "aborted"
"""The `error.type` of an agent that was aborted."""
CANCELLED = "cancelled"
"""The `error.type` of a model call, a tool call and the like that ended because somebody cancelled it."""
NOT_ENDED = "not_ended"
"""The `error.type` of what was still under way when the block of `trace_pool` was left."""

_PROVIDERS = {"gemini": "gcp.gemini"}
"""What the conventions call a provider otherwise than our drivers."""

_FINISH_REASONS: Mapping[StopReason, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_call",
    "refusal": "content_filter",
}
"""What the conventions call a stop reason."""


def error_type(error: BaseException) -> str:
    """Return the class of an error; its text may hold what was said, and is not sent."""
    return type(error).__qualname__


def provider_name(provider: str) -> str:
    """Return what the conventions call a provider; of a driver of the user's own, its class."""
    return _PROVIDERS.get(provider, provider)


def attributes_of_agent(agent_id: int, name: str, parent_id: int) -> Attributes:
    """Return what is known of an agent when it starts."""
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": name,
        "gen_ai.agent.id": str(agent_id),
        "agentpool.agent.parent_id": parent_id,
    }


def attributes_of_outcome(outcome: AnyOutcome) -> Attributes:
    """Return how an agent ended. What it used has no `gen_ai` name: its model calls have told it."""
    usage = outcome.usage
    found: Attributes = {
        "agentpool.outcome": type(outcome).__name__.lower(),
        "agentpool.usage.input_tokens": usage.input_tokens,
        "agentpool.usage.output_tokens": usage.output_tokens,
        "agentpool.usage.cost_usd": usage.cost_usd,
    }
    if outcome.restarts:
        found["agentpool.restarts"] = outcome.restarts
    if isinstance(outcome, Completed) and isinstance(outcome.value, AgentResult):
        found["agentpool.turns"] = outcome.value.iterations
        if outcome.value.stopped_by is not None:
            found["agentpool.stopped_by"] = outcome.value.stopped_by
    return found


def error_type_of_outcome(outcome: AnyOutcome) -> str | None:
    """Return what went wrong; None if the agent completed."""
    if isinstance(outcome, Completed):
        return None
    return error_type(outcome.error) if isinstance(outcome, Failed) else ABORTED


def metric_attributes_of_call(event: ModelCallStarted) -> Attributes:
    """Return what spans and metrics say of a model call: nothing that differs from call to call."""
    found: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider_name(event.provider),
    }
    if event.model:
        found["gen_ai.request.model"] = event.model
    host, port = _host_and_port(event.address)
    if host:
        found["server.address"] = host
        found["server.port"] = port
    return found


def attributes_of_call(event: ModelCallStarted, attempt: int) -> Attributes:
    """Return what is known of a model call when it begins."""
    request = event.request
    found: Attributes = {
        "gen_ai.request.max_tokens": request.max_tokens,
        "agentpool.attempt": attempt,
    }
    if request.temperature is not None:
        found["gen_ai.request.temperature"] = float(request.temperature)
    if request.stop:
        found["gen_ai.request.stop_sequences"] = list(request.stop)
    if request.output_schema is not None:
        found["gen_ai.output.type"] = "json"
    if event.is_streamed:
        found["gen_ai.request.stream"] = True
    for option, kind in (("seed", int), ("top_p", float), ("top_k", float)):
        value = request.options.get(option)
        if isinstance(value, int | float):
            found[f"gen_ai.request.{option}"] = kind(value)
    return found


def attributes_of_answer(completion: Completion) -> Attributes:
    """Return what a model's answer says of itself."""
    reason = completion.stop_reason
    found: Attributes = {
        "gen_ai.response.finish_reasons": [_FINISH_REASONS.get(reason, reason)],
        **_attributes_of_usage(completion.usage),
    }
    if completion.response_id:
        found["gen_ai.response.id"] = completion.response_id
    if completion.served_model:
        found["gen_ai.response.model"] = completion.served_model
    return found


def _attributes_of_usage(usage: TokenUsage) -> Attributes:
    if not usage.total_tokens and not usage.cost_usd:
        return {}  # the server does not count
    found: Attributes = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "agentpool.cost_usd": usage.cost_usd,
    }
    for name, count in (
        ("reasoning.output_tokens", usage.reasoning_tokens),
        ("cache_read.input_tokens", usage.cache_read_tokens),
        ("cache_creation.input_tokens", usage.cache_write_tokens),
    ):
        if count:
            found[f"gen_ai.usage.{name}"] = count
    return found


def attributes_of_compaction(event: ContextCompacted) -> Attributes:
    """Return how much of a conversation the model is not shown any more."""
    return {
        "agentpool.messages": event.messages,
        "agentpool.tokens_before": event.tokens_before,
        "agentpool.tokens_after": event.tokens_after,
        "agentpool.is_summed_up": bool(event.summary),
    }


def as_json(data: Any) -> str:
    """Return data as the text of an attribute, which takes no structure."""
    return json.dumps(data, ensure_ascii=False, default=str)


def _host_and_port(address: str) -> tuple[str, int]:
    """Return where a model is; empty if that is not known. Never who asks, which an address may tell too."""
    try:
        parts = urlsplit(address)
        return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return "", 0
