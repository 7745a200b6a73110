"""The metrics: one set of instruments for each provider, which all traced pools of the process share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

from agentpool._core.usage import TokenUsage
from agentpool._kernel.pool import AgentPool
from agentpool.telemetry._attributes import SCHEMA_URL, Attributes

_SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_LONG_SECONDS = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2]
_TOKENS = [4**power for power in range(14)]
"""The boundaries that the conventions ask for."""


class Instruments:
    """The instruments of one meter.

    Attributes:
      pools: those that are traced now; what they hold at the time of a collection is summed up.
    """

    def __init__(self, meter: Meter) -> None:
        self.pools: set[AgentPool] = set()

        def seconds(name: str, about: str, bounds: list[float] = _SECONDS) -> Histogram:
            return meter.create_histogram(
                name, unit="s", description=about, explicit_bucket_boundaries_advisory=bounds
            )

        self.call_seconds = seconds("gen_ai.client.operation.duration", "How long model calls take.")
        self.first_part_seconds = seconds(
            "gen_ai.client.operation.time_to_first_chunk",
            "How long the first piece of a streamed answer takes.",
        )
        self.tool_seconds = seconds("gen_ai.execute_tool.duration", "How long tool calls take.")
        self.agent_seconds = seconds(
            "gen_ai.invoke_agent.duration", "How long agents live, from spawn to outcome.", _LONG_SECONDS
        )
        self.approval_seconds = seconds(
            "agentpool.approval.duration",
            "How long agents wait for a decision on a tool call.",
            _LONG_SECONDS,
        )
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self.cost = meter.create_counter(
            "agentpool.cost", "{USD}", "What model calls cost, where it is known."
        )
        self.messages = meter.create_counter(
            "agentpool.messages.sent", "{message}", "Messages that came into an inbox."
        )
        self.dead_letters = meter.create_counter(
            "agentpool.messages.dead_lettered", "{message}", "Messages that nobody will receive."
        )
        self.restarts = meter.create_counter(
            "agentpool.agent.restarts", "{restart}", "Restarts by a restart policy."
        )
        self._create_observed(meter)

    def _create_observed(self, meter: Meter) -> None:
        for name, unit, about, read in _OBSERVED:
            meter.create_observable_up_down_counter(name, [self._sum_of(read)], unit, about)
        meter.create_observable_up_down_counter(
            "agentpool.slots.waiting",
            [self._observe_waiting],
            "{agent}",
            "Agents that wait for a slot: to start, or to go on.",
        )

    def count_tokens(self, usage: TokenUsage, attributes: Attributes) -> None:
        """Count what one model call used. One that was not counted by its server says nothing."""
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            if count:
                self.tokens.record(count, {**attributes, "gen_ai.token.type": kind})
        if usage.cost_usd:
            self.cost.add(usage.cost_usd, attributes)

    def _sum_of(self, read: Callable[[AgentPool], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(sum(map(read, tuple(self.pools))))]

        return observe

    def _observe_waiting(self, _: CallbackOptions) -> Iterable[Observation]:
        pools = tuple(self.pools)
        starting = sum(pool._state.slots.waiting_to_start for pool in pools)
        woken = sum(
            record.standing == "queued" for pool in pools for record in tuple(pool._state.records.values())
        )
        return [
            Observation(starting, {"agentpool.waiting": "start"}),
            Observation(woken, {"agentpool.waiting": "go_on"}),
        ]


# They are read in the thread of whoever collects: plain numbers only.


def _in_inboxes(pool: AgentPool) -> int:
    router = pool.router
    return max(0, router.sent - router.received - router.dead_letter_count)


_OBSERVED: tuple[tuple[str, str, str, Callable[[AgentPool], int]], ...] = (
    ("agentpool.pools", "{pool}", "Traced pools that are open.", lambda pool: 1),
    ("agentpool.agents", "{agent}", "Agents that have not ended.", lambda pool: pool.active_count),
    ("agentpool.slots.limit", "{slot}", "How many agents may run at once.", lambda pool: pool.max_concurrent),
    ("agentpool.slots.used", "{slot}", "Agents that run.", lambda pool: pool._state.slots.taken),
    ("agentpool.inbox.messages", "{message}", "Messages that wait in inboxes.", _in_inboxes),
)

_of_providers: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()


def instruments_of(provider: MeterProvider) -> Instruments:
    """Return the instruments of a provider; made once, because what observes can never be taken back."""
    found: Any = _of_providers.get(provider)
    if found is None:
        meter = provider.get_meter("agentpool", version("trio-agentpool"), SCHEMA_URL)
        found = _of_providers[provider] = Instruments(meter)
    return found  # type: ignore[no-any-return]
