"""A pool's block: how it is opened, and everything that has to happen before it is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from math import inf
from random import Random, getrandbits
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from agentpool._core.budget import Budget
from agentpool._core.errors import JournalError, UnhandledAgentErrors
from agentpool._core.limits import PoolLimits
from agentpool._core.messages import SUPERVISOR, AgentId
from agentpool._core.text import note, shown
from agentpool._kernel import instrument
from agentpool._kernel.activity import Activity
from agentpool._kernel.agent import CANCELLED_OUTSIDE
from agentpool._kernel.context import AgentContext
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.leftovers import when_left_open
from agentpool._kernel.life import note_on
from agentpool._kernel.log_filter import name_agents_in_own_records
from agentpool._kernel.options import checked_hooks
from agentpool._kernel.pool import AgentPool, checked_count
from agentpool._kernel.protection import protect_module
from agentpool._kernel.splitting import in_full, is_only_cancelled, raise_as_it_is, split_error
from agentpool._kernel.state import Beside, Means, PoolState, Settings

if TYPE_CHECKING:
    from agentpool._core.records import JournalRecord
    from agentpool._kernel.keeping import Keeping
    from agentpool.abc import Approver, Driver, Hooks, Journal, Memory, Placement, ToolBuilder


def _check_means(
    driver: object, memory: object, tool_builder: object, approver: object, limits: object
) -> None:
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            "a pool runs on trio: start the program with trio.run(main); elsewhere open it with "
            "open_agent_pool_asyncio or open_agent_pool_blocking from agentpool.bridge"
        )
    if driver is not None and (isinstance(driver, type) or not hasattr(driver, "complete")):
        fix = "; it needs `complete`"
        if isinstance(driver, str):
            fix = f"; open it first: async with open_driver({shown(driver)}) as driver"
        raise TypeError(f"driver must be a model driver, not {shown(driver)}{fix}")
    if memory is not None and (isinstance(memory, type) or not hasattr(memory, "recall")):
        raise TypeError(f"memory must be a memory such as InMemory(), not {shown(memory)}")
    if tool_builder is not None and not callable(tool_builder):
        raise TypeError(f"tool_builder must be a function of a manifest, not {shown(tool_builder)}")
    if approver is not None and (isinstance(approver, type) or not callable(approver)):
        raise TypeError(f"approver must be an async function of an ApprovalRequest, not {shown(approver)}")
    if not isinstance(limits, PoolLimits):
        raise TypeError(f"limits must be PoolLimits(...), not {shown(limits)}")


def _checked_budget(budget: Budget | None) -> Budget | None:
    if budget is not None and not hasattr(budget, "reserve"):
        raise TypeError(
            f"budget must be a Budget, such as Budget(tokens={shown(budget)}), not {shown(budget)}"
        )
    return budget


def _checked_journal(journal: Journal) -> Journal:
    if isinstance(journal, type) or not hasattr(journal, "append"):
        fix = "; write SqliteJournal(path)" if isinstance(journal, str | os.PathLike) else ""
        raise TypeError(f"journal must be a journal such as SqliteJournal(path), not {shown(journal)}{fix}")
    return journal


def _checked_placement(placement: Placement | None) -> Placement | None:
    if placement is not None and (isinstance(placement, type) or not hasattr(placement, "run")):
        fix = "; write agentpool.ray.RayPlacement()" if isinstance(placement, str) else ""
        raise TypeError(f"placement must be a placement such as RayPlacement(), not {shown(placement)}{fix}")
    return placement


def _beside(journal: Journal | None) -> Beside:
    path = getattr(journal, "path", None)
    file = os.path.abspath(path) if isinstance(path, str | os.PathLike) else None
    return Beside(file, lambda: tuple(getattr(journal, "secrets", ())))


def open_agent_pool(
    driver: Driver | None = None,
    *,
    max_concurrent: int,
    memory: Memory | None = None,
    tool_builder: ToolBuilder | None = None,
    inbox_capacity: int = 32,
    budget: Budget | None = None,
    approver: Approver | None = None,
    journal: Journal | None = None,
    hooks: Iterable[Hooks] = (),
    placement: Placement | None = None,
    limits: PoolLimits = PoolLimits(),  # noqa: B008  (frozen)
    seed: int | None = None,
) -> AbstractAsyncContextManager[AgentPool]:
    """Open a pool of agents; leaving the block waits for every one of them.

    Args:
      driver: sends the agents' requests to a model; agents that are plain functions need none.
      max_concurrent: how many agents run at once, at least 1. Agents that wait in a pool
        operation do not count, they lend their slots.
      memory: shared by the agents.
      tool_builder: makes the tools of an agent from its manifest; left out, the built-in tools
        that the manifest grants and its own `tools`.
      inbox_capacity: how many messages an inbox holds before senders wait.
      budget: what the model calls of the pool may use together.
      approver: decides about the tool calls that rules of a manifest send to a person. Without one they are
        denied, or, with a journal, the run is paused.
      journal: keeps what happens, so that the run can go on after a crash, with `resume_agent_pool`. It
        is opened and closed with the pool.
      hooks: stand around the model calls and tool calls of the agents that run the loop.
      placement: where agents run that are marked with `placed`, such as on the machines of a cluster.
        Left out, they run here. What they do there is kept in the journal as if they ran here.
      limits: further limits, such as on the depth of trees of agents.
      seed: of the jitter in the pauses before restarts; random if left out.

    Raises:
      TypeError, ValueError: if an argument makes no sense.
      RunPausedError: if nobody is there who could decide about a tool call, the pool has a journal, and
        nothing else is left to do. The run is resumed with the decision.
      JournalError: if the journal holds a run already, or cannot be opened or written.
      UnhandledAgentErrors: at the end, if the block raised nothing, and an agent failed whose outcome
        was not looked at. A block that raised aborts the agents, and its exception is raised unchanged.

    Cancellation: aborts the agents and waits for them; failures that were not looked at are raised
    together with it, in a group.
    """
    _check_means(driver, memory, tool_builder, approver, limits)
    settings = Settings(
        checked_count("max_concurrent", max_concurrent),
        checked_count("inbox_capacity", inbox_capacity),
        _checked_budget(budget),
    )
    keeping = None
    if journal is not None:
        from agentpool._kernel.keeping import Keeping  # who has no journal needs none

        keeping = Keeping(_checked_journal(journal))
    around = checked_hooks(hooks)
    means = Means(
        driver, memory, tool_builder, None, approver, around, _beside(journal), _checked_placement(placement)
    )
    return OpenPool(settings, keeping, _parts(means, limits, seed))


def go_on_with_pool(
    journal: Journal,
    driver: Driver | None = None,
    *,
    max_concurrent: int | None = None,
    memory: Memory | None = None,
    tool_builder: ToolBuilder | None = None,
    inbox_capacity: int | None = None,
    budget: Budget | None = None,
    approver: Approver | None = None,
    agents: Mapping[str, Callable[..., Any]] | None = None,
    hooks: Iterable[Hooks] = (),
    placement: Placement | None = None,
    limits: PoolLimits = PoolLimits(),  # noqa: B008  (frozen)
    seed: int | None = None,
    heed: Callable[[Sequence[JournalRecord]], object] | None = None,
) -> AbstractAsyncContextManager[AgentPool]:
    """As `open_agent_pool`, for a journal that holds a run; `resume_agent_pool` tells of it.

    Args:
      heed: is told what the journal holds, before any agent of it is made again.
    """
    _check_means(driver, memory, tool_builder, approver, limits)
    settings = Settings(
        None if max_concurrent is None else checked_count("max_concurrent", max_concurrent),
        None if inbox_capacity is None else checked_count("inbox_capacity", inbox_capacity),
        _checked_budget(budget),
    )
    from agentpool._kernel.keeping import Keeping

    found = dict(agents or {})
    keeping = Keeping(
        _checked_journal(journal), is_resumed=True, finder=lambda agent: found.get(agent.name), heed=heed
    )
    around = checked_hooks(hooks)
    means = Means(
        driver, memory, tool_builder, None, approver, around, _beside(journal), _checked_placement(placement)
    )
    return OpenPool(settings, keeping, _parts(means, limits, seed))


def _parts(means: Means, limits: PoolLimits, seed: int | None) -> dict[str, Any]:
    return {
        "means": means,
        "limits": limits,
        "make_context": AgentContext,
        # Drawn from the program's own lot, so that a simulation decides it too.
        "random": Random(getrandbits(64) if seed is None else seed),
    }


async def written(pool: AgentPool) -> None:
    """Wait until a pool's journal has what has happened so far; that it cannot be written ends the pool.

    Checkpoint: unless everything is written. Cancellation: leaves nothing behind.
    """
    journal = pool._state.journal
    assert journal is not None
    with suppress(JournalError):
        await journal.commit()


def root_of(pool: AgentPool, agent_id: AgentId) -> AgentId:
    """Return the oldest ancestor of a live agent below its pool, or the agent itself; 0 if it has ended."""
    record = pool._state.records.get(agent_id)
    return SUPERVISOR if record is None else record.root_id


_HOW_TO_OPEN = "open it with `async with open_agent_pool(...) as pool:`"


class OpenPool(AbstractAsyncContextManager[AgentPool]):
    """The block of a pool.

    Not a generator with `asynccontextmanager`: that writes to exceptions, which those of frozen
    classes do not allow, and code of its own runs there that Ctrl-C may interrupt.
    """

    def __init__(self, settings: Settings, keeping: Keeping | None, parts: Mapping[str, Any]) -> None:
        name_agents_in_own_records()
        self._settings = settings
        self._keeping = keeping
        self._parts = parts
        self._watch: Callable[[AgentPool], object] | None = None
        self._state: PoolState | None = None
        self._opener: Activity | None = None
        self._nurseries = trio.open_nursery()

    def tell_about(self, about: Mapping[str, Any]) -> None:
        """Have the first record of a new journal tell this too: JSON data, such as the fleet of the run."""
        assert self._keeping is not None
        self._keeping.about = about

    def watch_with(self, watch: Callable[[AgentPool], object]) -> None:
        """Have this called with the pool before anything happens in it: agents of a journal begin at once."""
        self._watch = watch

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a pool that is not open has no {name!r}; {_HOW_TO_OPEN}", name=name, obj=self)

    def __await__(self) -> NoReturn:
        raise TypeError(f"a pool is not awaited; {_HOW_TO_OPEN}")

    def __iter__(self) -> NoReturn:
        raise TypeError(f"a pool that is not open has nothing to iterate over; {_HOW_TO_OPEN}")

    def __aiter__(self) -> NoReturn:
        raise TypeError(f"a pool that is not open has nothing to iterate over; {_HOW_TO_OPEN}")

    def __enter__(self) -> NoReturn:
        raise TypeError(f"a pool needs `async with` instead of `with`; {_HOW_TO_OPEN}")

    def __exit__(self, *_: object) -> None:
        """Python looks for it before `__enter__`, which raises."""

    async def __aenter__(self) -> AgentPool:
        if self._state is not None:
            raise RuntimeError("a pool is for one block: call open_agent_pool again")
        opener = self._opener = waiting_agent()
        keeping, settings = self._keeping, self._settings
        if keeping is not None:
            settings = await keeping.open(settings)
        nursery = await self._nurseries.__aenter__()
        state = self._state = PoolState(
            settings,
            nursery,
            detect_deadlocks=instrument.detects_deadlocks(),
            **self._parts,
        )
        pool = AgentPool(state, None)
        nursery.start_soon(state.parts.watcher.run, name="agentpool watcher")
        if opener is not None:
            # Its tasks are agents, not unknown tasks of the agent that opens the pool.
            opener.know_nursery(nursery, of_pool=True)
        when_left_open(nursery, state)
        try:
            if self._watch is not None:
                self._watch(pool)
            if keeping is not None:
                await keeping.begin(state, settings)
            instrument.tell_of(pool)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise  # pragma: no cover - the line above has raised it
        return pool

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = self._state
        assert state is not None
        try:
            pressed = await self._end(state, error)
            if pressed is not None:
                if error is not None:
                    note(pressed, f"Ctrl-C was pressed while {in_full(error)} left the pool")
                error = pressed
            await self._close(state)
            await _leave(state, error)
        finally:
            del error, state

    async def _end(self, state: PoolState, error: BaseException | None) -> BaseException | None:
        """Wait for every agent; return the Ctrl-C that was pressed meanwhile."""
        try:
            if error is not None:
                if state.journal is not None:
                    state.journal.is_leaving = True
                is_cancelled = is_only_cancelled(error) and trio.current_effective_deadline() == -inf
                reason = f"the block of the pool raised {shown(error)}"
                AgentPool(state, None).abort_all(CANCELLED_OUTSIDE if is_cancelled else reason)
            return await _ended(state, self._opener)
        except BaseException as broken:
            # A bug of ours. No task may be left: the watcher sleeps under a shield.
            state.parts.nursery.cancel_scope.cancel("the pool broke down")
            await self._close(state)
            raise broken
        finally:
            del error

    async def _close(self, state: PoolState) -> None:
        """Nobody is left but the watcher, who goes home now."""
        nursery = state.parts.nursery
        # Everybody has an outcome by now; what is left is the watcher's way home. Were it cancelled here, a
        # good end would become a bad one, and what the agents raised would be hidden by it.
        nursery.cancel_scope.shield = True  # do not be cancelled any more
        state.close()
        try:
            await self._nurseries.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            # Only Ctrl-C, which the nursery keeps for its end.
            state.fatal = state.fatal or split_error(group).fatal
            if state.fatal is None:
                raise
        if self._keeping is not None:
            await self._keeping.close(state)
        if self._opener is not None:
            self._opener.forget_nursery(nursery)


async def _ended(state: PoolState, waiter: Activity | None) -> BaseException | None:
    """Wait for every agent, whatever is cancelled; return the Ctrl-C that was pressed meanwhile."""
    pressed: BaseException | None = None
    state.body_ended = True
    state.judge.end_work()
    # Again and again: Ctrl-C ends the wait and not the agents, and while a body ends it may spawn.
    while state.root.live:
        try:
            await state.root.wait_for_all(waiter, lambda: None, cancellable=False)
        except KeyboardInterrupt as error:
            pressed = pressed or error
            AgentPool(state, None).abort_all("Ctrl-C was pressed")
    state.stop_starting("the pool has ended")
    return pressed


async def _leave(state: PoolState, error: BaseException | None) -> None:
    """Raise what has to come out of the block: nothing is lost, nothing raised twice."""
    failures = [*state.root.failures(), *state.parts.holder.failures]
    # What no pool contains comes first, then what the block raised, then failures nobody looked at.
    if state.fatal is not None:
        if error is not None and error is not state.fatal and not is_only_cancelled(error):
            note(state.fatal, f"the block of the pool raised {in_full(error)}")
        _raise(state.fatal, failures)
    if error is None:
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException as raised:  # Ctrl-C too, so that it hides no failure
            error = raised
    if failures and (error is None or isinstance(error, GeneratorExit)):
        # A generator that is closed is left like one that has ended: who closes it swallows a note.
        raise UnhandledAgentErrors("agents failed, and nobody looked at their outcomes", failures)
    if error is None:
        return
    if failures and is_only_cancelled(error):
        # A note would be lost with the cancellation, which a scope outside swallows.
        raise BaseExceptionGroup("the pool was cancelled, and agents failed", [error, *failures])
    _raise(error, failures)


def _raise(error: BaseException, failures: Sequence[Exception]) -> NoReturn:
    if failures:
        note(error, note_on(failures))
    try:
        raise_as_it_is(error)
    finally:
        del error


protect_module(globals())
