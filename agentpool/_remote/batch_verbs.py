"""What the head performs for agents in workers that run many agents in one call."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeAlias

from agentpool._kernel.protection import protect_module
from agentpool._remote.codec import outcome_to_bytes

if TYPE_CHECKING:
    from agentpool._core.outcomes import AnyOutcome
    from agentpool._remote.proxy import Call, Proxy, ToldVerbs, Verbs

Given: TypeAlias = "tuple[Collection[Any] | None, int | None]"
"""The items of a batch: a collection, or the number of an input that the worker reads."""


def _bytes_of(call: Call, outcome: AnyOutcome) -> bytes:
    return outcome_to_bytes(call.proxy.way.dumps, outcome)


def _items_of(call: Call, given: Given) -> Any:
    items, feed = given
    return items if feed is None else call.proxy.batches.input(feed)


async def map(call: Call, agent: Any, given: Given, name: str | None, timeout: float | None) -> list[bytes]:
    """Run an agent for each item."""
    agent = call.models.restored(agent)
    try:
        outcomes = await call.ctx.map(agent, _items_of(call, given), name=name, timeout=timeout)
    finally:
        call.proxy.batches.drop_input(given[1])
    return [_bytes_of(call, outcome) for outcome in outcomes]


async def race(call: Call, agents: tuple[Any, ...]) -> bytes:
    """Run several agents until the first has completed."""
    return _bytes_of(call, await call.ctx.race(*[call.models.restored(agent) for agent in agents]))


async def vote(call: Call, agent: Any, args: tuple[Any, ...], n: int, quorum: int | None) -> list[bytes]:
    """Run an agent several times until a quorum agrees; the caller counts the same outcomes again."""
    verdict = await call.ctx.vote(call.models.restored(agent), *args, n=n, quorum=quorum)
    return [_bytes_of(call, outcome) for outcome in verdict.outcomes]


# -- blocks ------------------------------------------------------------------------------------


async def open_batch(call: Call, agent: Any, given: Given, name: str | None, timeout: float | None) -> int:
    """Open a block in which an agent runs for each item; returns its number."""
    agent = call.models.restored(agent)
    try:
        block: Any = call.ctx.as_completed(agent, _items_of(call, given), name=name, timeout=timeout)
        await call.proxy.batches.open(call.number, block, is_fed=given[1] is not None)
    except BaseException:
        call.proxy.batches.drop_input(given[1])
        raise
    return call.number


async def open_vote(call: Call, agent: Any, args: tuple[Any, ...], n: int) -> int:
    """Open the block of a vote that is counted in the worker; returns its number."""
    block: Any = call.ctx.open_vote(call.models.restored(agent), args, n)
    await call.proxy.batches.open(call.number, block, is_fed=False)
    return call.number


async def next_outcome(call: Call, number: int) -> bytes | None:
    """Take the next outcome in a block."""
    outcome = await call.proxy.batches.block(number).next_outcome()
    return None if outcome is None else _bytes_of(call, outcome)


async def leave_batch(call: Call, number: int, feed: int | None) -> None:
    """Leave a block: its agents are aborted, and awaited."""
    batches = call.proxy.batches
    try:
        await batches.left(number)
    finally:
        batches.drop_input(feed)


def abandon_batch(proxy: Proxy, number: int) -> None:
    """Abort the agents of a block, which is about to be left."""
    proxy.batches.block(number).abandon()


def decide_batch(proxy: Proxy, number: int) -> None:
    """The outcomes that were taken in a block are enough."""
    proxy.batches.block(number).decide()


def item(proxy: Proxy, number: int, kind: str, value: Any) -> None:
    """The next item of an input, the end of them, or nothing but that it has failed."""
    proxy.batches.came(number, kind, value)


BATCH_VERBS: Verbs = {
    each.__name__: each for each in (map, race, vote, open_batch, open_vote, next_outcome, leave_batch)
}
"""What an agent waits for, by its name."""

BATCH_TOLD: ToldVerbs = {each.__name__: each for each in (abandon_batch, decide_batch, item)}
"""What an agent does not wait for, by its name."""

protect_module(globals())
