"""The placement that runs agents in worker processes, whoever starts these."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from agentpool._core.errors import WorkerLostError
from agentpool._core.events import ModelCallFinished, ModelCallStarted
from agentpool._core.placing import Start, Watched, WorkOver
from agentpool._kernel.events import EventSubscription
from agentpool._kernel.places import NO_PAST, kept_values, place_here
from agentpool._kernel.protection import protect_module
from agentpool._remote.codec import SentEvent, sent
from agentpool._remote.crew import Crew
from agentpool._remote.facts import AgentFacts, JournalFacts, WorkerSetup
from agentpool._remote.model_verbs import HeadGovernors, HeadModels
from agentpool._remote.proxy import Proxy
from agentpool._remote.verbs import TOLD_VERBS, VERBS

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext
    from agentpool._kernel.state import PoolState
    from agentpool._remote.link import Link
    from agentpool.abc import Workers

SHORTEST_LEASE = 2.0


class RemotePlacement(ABC):
    """A placement whose agents run in worker processes; derive from it to say how these are started.

    An agent goes to the worker that has the fewest. Workers are started when the first agent comes, and end
    with the last agent of the pool.

    Attributes:
      lease: seconds, at least 2; a worker that does not hear of the head for so long ends its agents and
        itself. An agent whose worker is lost has its outcome only when this has surely happened.
      driver: what each worker opens to make its model calls: a function without arguments that returns an
        async context manager around a driver, or a text such as `open_driver` takes. None has them made at
        the head, by the pool's driver. Either way they are kept within the pool's budgets and rate limits.
    """

    lease: float = 10.0
    driver: Callable[[], AbstractAsyncContextManager[Any]] | str | None = None

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Workers]:
        """Return the block in which worker processes can be started, and at whose end none is left."""

    async def run(
        self, ctx: AgentContext, agent: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> Any:
        """Run an agent in a worker; `Placement.run` tells more."""
        held = await ctx.hold(self, partial(self._open_crew, ctx._state))
        while True:
            async with held.crew.berth() as link:
                try:
                    return await _run_in(link, held, ctx, agent, args)
                except _NotSentError:
                    pass  # nothing of it can have run: it goes to another worker

    @asynccontextmanager
    async def _open_crew(self, state: PoolState) -> AsyncIterator[_Held]:
        means = state.means
        setup = WorkerSetup(
            name="",
            lease=self.lease,
            seed=state.random.getrandbits(64),
            tool_builder=means.tool_builder,
            hooks=means.hooks,
            driver=self.driver,
        )
        async with self.open() as workers, trio.open_nursery() as nursery:
            told, news = partial(_hand_on, state), partial(_news_of, state)
            crew = Crew(workers, setup, nursery, told=told, news=news)
            crew.start_all()
            yield _Held(crew, HeadGovernors(means.driver))
            nursery.cancel_scope.cancel("the pool has ended")


class _NotSentError(Exception):
    """A worker was lost before an agent had been sent there. Never gets to users."""


class _Held:
    """What the agents of a pool share that run in workers."""

    def __init__(self, crew: Crew, governors: HeadGovernors) -> None:
        self.crew = crew
        self.governors = governors


async def _run_in(
    link: Link, held: _Held, ctx: AgentContext, agent: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
) -> Any:
    with HeadModels(ctx, held.governors) as models:
        proxy = Proxy(ctx, link, VERBS, TOLD_VERBS, models)
        number = 0

        async def start() -> None:
            # Pickled before anything is sent: what cannot be sent leaves nothing behind.
            carried = models.carried(agent)
            work = sent(link.dumps, (carried, args), f"agent {ctx.id} ({ctx.name}), or what it is given,")
            facts = _facts_of(ctx, agent, models)
            # Only a driver's prices may be of a class that has to be sent along.
            dumps = pickle.dumps if facts.models.driver is None else link.dumps
            told = sent(dumps, facts, "what an agent is told of itself")
            if link.lost is not None:
                raise _NotSentError
            link.proxies[ctx.id] = proxy
            nonlocal number
            number = link.send(Start(ctx.id, told, work))

        try:
            return await proxy.run(start)
        except WorkerLostError:
            if not link.may_have_arrived(number):
                raise _NotSentError from None
            raise
        finally:
            if link.proxies.get(ctx.id) is proxy:
                del link.proxies[ctx.id]


def _facts_of(ctx: AgentContext, agent: object, models: HeadModels) -> AgentFacts:
    record = ctx._agent
    return AgentFacts(
        name=ctx.name,
        parent_id=ctx.parent_id,
        depth=ctx.depth,
        root_id=record.root_id,
        life=record.restarts,
        is_watched=ctx.observed,
        is_held_up=_is_held_up(ctx._state),
        is_closing=ctx.closing,
        is_draining=ctx.draining,
        max_concurrent=ctx.max_concurrent,
        models=models.facts(agent),
        kept=kept_values(None),
        journal=_journal_facts(ctx._state),
    )


def _journal_facts(state: PoolState) -> JournalFacts | None:
    journal, place = state.journal, place_here()
    if journal is None or place is None:
        return None
    past = place.past
    return JournalFacts(
        run_id=journal.run_id,
        now=journal.now,
        is_resumed=past is not NO_PAST,
        operations={key: (each.kind, each.at) for key, each in past.operations.items()},
        loops=past.loops,
    )


def _news_of(state: PoolState) -> Sequence[Watched | WorkOver]:
    watched = Watched(bool(state.events.subscriptions), _is_held_up(state))
    return (watched, WorkOver(bool(state.draining))) if state.judge.work_is_over else (watched,)


def _hand_on(state: PoolState, begun: dict[int, int], events: Sequence[SentEvent]) -> None:
    """Hand events of agents on to those who subscribe; an agent waits for slow ones by itself."""
    for agent_id, seq, kind, own in events:
        record = state.records.get(agent_id)
        if record is None:
            if kind is ModelCallFinished:
                begun.pop(own[0], None)
            continue
        if kind is ModelCallStarted:
            begun[seq] = state.events.end + 1
        elif kind is ModelCallFinished:
            own = (begun.pop(own[0], 0), *own[1:])  # its `started`, as it is here
        state.events.emit(kind, agent_id, record.parent_id, *own)


def _is_held_up(state: PoolState) -> bool:
    """Whether agents have to wait for those who subscribe, when they are slow."""
    return any(
        isinstance(each, EventSubscription) and each.overflow == "block"
        for each in state.events.subscriptions
    )


protect_module(globals())
