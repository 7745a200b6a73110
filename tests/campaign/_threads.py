"""Trees of agents that wait from threads, under few threads; and pools in runs of trio in threads.

Real threads on the real clock, since virtual time would pass while a thread works. So what a seed
decides is the program and not its order, and a hang is told by nothing moving while everything
could: a watchman counts, who needs the loop and a thread of its own for each count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import attrs
import trio
import trio.testing

from agentpool import AgentContext, tool
from agentpool._blocking import run_blocking, thread_calls
from agentpool._core.outcomes import Aborted, Completed, Failed
from agentpool._kernel.opening import open_agent_pool
from agentpool.testing._books import problems_in_books

from ._actor import run_program
from ._draw import draw_program
from ._groves import Grove, Node, draw_grove
from ._programs import PROFILES
from ._trouble import leaves
from ._world import World, is_expected


@attrs.define(eq=False)
class Forest:
    """What a run of a grove knows.

    Attributes:
      own: the limiter of the program's own.
      pool, handles, scope: its pool, the agents of it, and the scope around it.
      problems: what should not have been.
      parents: who spawned whom; `doomed` those that were aborted, None standing for everybody.
      at_work: threads that run code of an agent, by limiter; guarded by `lock`.
      moved: counts whatever happens.
      steps: counts the steps of agents in the loop.
    """

    grove: Grove
    own: trio.CapacityLimiter
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    pool: Any = None
    handles: dict[int, tuple[Any, Node]] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)
    parents: dict[int, int] = attrs.field(factory=dict)
    doomed: set[int | None] = attrs.field(factory=set)
    at_work: list[tuple[str, int]] = attrs.field(factory=list)
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    moved: int = 0
    steps: int = 0

    def keep(self, handle: Any, node: Node, parent: int) -> None:
        """Note an agent; before it takes a step, since nothing waits in between."""
        self.handles[handle.id] = (handle, node)

    def is_doomed(self, agent: int) -> bool:
        """Whether an agent is being aborted, with whoever is above it."""
        while agent:
            if agent in self.doomed:
                return True
            agent = self.parents.get(agent, 0)
        return None in self.doomed

    def step(self) -> None:
        """Count a step of an agent, and strike when it is time to."""
        self.moved += 1
        self.steps += 1
        if self.steps == self.grove.blow:
            self._strike()

    def _strike(self) -> None:
        if self.grove.kind == "one":
            living = [handle for handle, _ in self.handles.values() if handle.outcome is None]
            if living:
                handle = living[self.steps % len(living)]
                self.doomed.add(handle.id)
                handle.abort("struck")
            return
        if self.grove.kind == "all":
            # Not the body, which may spawn more.
            self.doomed.update(self.pool._state.records)
            self.pool.abort_all("struck")
        else:
            self.doomed.add(None)
            self.scope.cancel()

    @contextmanager
    def working(self, agent: int, limiter: str = "default") -> Iterator[None]:
        """Mark a thread as at work for an agent, and look how many are (called in the thread)."""
        mark = (limiter, agent)
        with self.lock:
            self.moved += 1
            self.at_work.append(mark)
            # Who is being aborted unwinds without token and slot.
            agents = [(name, one) for name, one in self.at_work if not self.is_doomed(one)]
        most = self.grove.threads if limiter == "default" else self.grove.own
        threads = sum(name == limiter for name, _ in agents)
        if threads > most:
            self.problems.append(f"{threads} threads were at work, but the limiter has {most} tokens")
        distinct = {one for _, one in agents}
        if len(distinct) > self.grove.max_concurrent:
            self.problems.append(f"{len(distinct)} agents ran at once in threads")
        try:
            time.sleep(0.0003)  # others may take the interpreter, and be seen at work
            yield
        finally:
            with self.lock:
                self.moved += 1
                self.at_work.remove(mark)


_forest: ContextVar[Forest] = ContextVar("forest")


# -- what an agent does ------------------------------------------------------------------------------


async def grow(ctx: Any, node: Node, is_asked: bool = False) -> int:
    """An agent: return how many agents there are from it on."""
    forest = _forest.get()
    forest.parents[ctx.id] = ctx.parent_id
    forest.step()
    question = await ctx.receive() if is_asked else None
    count = await PLACES[node.where](ctx, node)
    forest.step()
    if question is not None:
        ctx.reply(question, count)
    return count


async def _plain(ctx: Any, node: Node) -> int:
    return 1 + await _below(ctx, node)


async def _body(ctx: Any, node: Node) -> int:
    return await run_blocking(_in_thread, ctx, node)


async def _tool(ctx: Any, node: Node) -> int:
    result = await delegate.call(ctx, {"number": node.number})
    if result.is_error:
        _forest.get().problems.append(f"the tool of agent {ctx.id} said {result.content}")
        return 0
    return int(result.text)


async def _deep(ctx: Any, node: Node) -> int:
    """A thread below a thread of the same task."""
    return await run_blocking(lambda: trio.from_thread.run(run_blocking, _in_thread, ctx, node))


async def _own(ctx: Any, node: Node) -> int:
    forest = _forest.get()

    def work() -> int:
        with forest.working(ctx.id, "own"):
            return 1

    return await trio.to_thread.run_sync(work, limiter=forest.own)


async def _listen(ctx: Any, node: Node) -> int:
    """A thread that takes messages until no more will come."""

    async def receive() -> None:
        try:
            while True:
                await ctx.receive()
        except trio.EndOfChannel:
            # It is told the end when nobody runs, so that nobody can have aborted it since.
            if _forest.get().is_doomed(ctx.id):
                _forest.get().problems.append(f"agent {ctx.id} was aborted in a thread, and went on")

    await run_blocking(trio.from_thread.run, receive)
    return 1


async def _run(ctx: Any, node: Node) -> int:
    """A run of trio in a thread, with a pool of its own."""
    forest = _forest.get()

    def in_thread() -> int:
        with forest.working(ctx.id):
            pass
        forest.problems.extend(_problems_of_run(forest.grove.seed + node.number))
        return 1

    return await trio.to_thread.run_sync(in_thread)


PLACES: dict[str, Callable[[Any, Node], Awaitable[int]]] = {
    "plain": _plain,
    "body": _body,
    "tool": _tool,
    "deep": _deep,
    "own": _own,
    "listen": _listen,
    "run": _run,
}


def _in_thread(ctx: Any, node: Node) -> int:
    forest = _forest.get()
    with forest.working(ctx.id):
        pass
    below = trio.from_thread.run(_below, ctx, node) if node.children else 0
    with forest.working(ctx.id):
        return 1 + below


@tool
def delegate(ctx: AgentContext, number: int) -> int:
    """Count the agents of a node of the tree."""
    return _in_thread(ctx, _forest.get().grove.nodes[number])


# -- how it waits for its children --------------------------------------------------------------------


async def _below(ctx: Any, node: Node) -> int:
    return await VERBS[node.verb](ctx, node.children) if node.children else 0


async def _spawned(ctx: Any, nodes: Sequence[Node], is_asked: bool = False) -> list[Any]:
    forest = _forest.get()
    handles = []
    for node in nodes:
        handles.append(await ctx.spawn(grow, node, is_asked))
        forest.keep(handles[-1], node, ctx.id)
    return handles


async def _results(ctx: Any, nodes: Sequence[Node]) -> int:
    return sum([await handle.result() for handle in await _spawned(ctx, nodes)])


async def _join_all(ctx: Any, nodes: Sequence[Node]) -> int:
    await _spawned(ctx, nodes)
    return sum([outcome.unwrap() for outcome in (await ctx.join_all()).values()])


async def _join_next(ctx: Any, nodes: Sequence[Node]) -> int:
    await _spawned(ctx, nodes)
    total = 0
    while (outcome := await ctx.join_next()) is not None:
        total += outcome.unwrap()
    return total


async def _ask(ctx: Any, nodes: Sequence[Node]) -> int:
    answers, results = [], []
    for node in nodes:  # one after the other: who is not asked yet when all wait is told the end
        (handle,) = await _spawned(ctx, (node,), is_asked=True)
        answers.append(await ctx.ask(handle.id, "how many?"))
        results.append(await handle.result())
    if answers != results:
        _forest.get().problems.append(f"agent {ctx.id} was answered {answers}, and the results are {results}")
    return sum(answers)


async def _nursery(ctx: Any, nodes: Sequence[Node]) -> int:
    """Several tasks of the agent, each of which waits from a thread of its own."""
    counts: list[int] = []

    async def wait_for(node: Node) -> None:
        counts.append(await run_blocking(trio.from_thread.run, _results, ctx, (node,)))

    async with ctx.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(wait_for, node)
    return sum(counts)


VERBS: dict[str, Callable[[Any, Sequence[Node]], Awaitable[int]]] = {
    "results": _results,
    "join_all": _join_all,
    "join_next": _join_next,
    "ask": _ask,
    "nursery": _nursery,
}


# -- a run of trio in a thread --------------------------------------------------------------------------


def _problems_of_run(seed: int) -> list[str]:
    """Run a random program in this thread, on virtual time, and say what was wrong."""
    world = World(draw_program(seed, PROFILES["trees"]))

    async def main() -> None:
        with trio.move_on_after(1000) as scope:
            await run_program(world)
        if scope.cancelled_caught:
            world.problem("it did not end")

    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    except RuntimeError as error:
        world.problem(f"it was refused: {error}")
    except Exception as error:
        if not is_expected(error):
            world.problem(f"it raised {error!r}")
    problems = [*world.problems, *(() if world.pool is None else problems_in_books(world.pool))]
    return [f"in a run of trio in a thread: {problem}" for problem in problems]


# -- a run of a grove -------------------------------------------------------------------------------------

_STILL = 40
"""After so many counts in which nothing has moved, a run hangs."""


async def _watch(forest: Forest) -> None:
    """Tell when nothing moves any more; each count has shown that the loop and threads do."""
    limiter = trio.CapacityLimiter(1)
    seen, still = -1, 0
    while still < _STILL:
        await trio.sleep(0.01)
        await trio.to_thread.run_sync(int, limiter=limiter)
        still = still + 1 if forest.moved == seen else 0
        seen = forest.moved
    forest.problems.append("hang: nothing moved, though the loop and threads did")
    forest.doomed.add(None)
    forest.scope.cancel()


async def _live(forest: Forest) -> BaseException | None:
    """Run the trees in a pool; return what that raised."""
    caught: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, forest)
        try:
            with forest.scope:
                async with open_agent_pool(max_concurrent=forest.grove.max_concurrent) as pool:
                    forest.pool = pool
                    await _spawned(_Body(pool), forest.grove.trees)
        except Exception as error:
            caught = error
        nursery.cancel_scope.cancel()
    return caught


@attrs.frozen
class _Body:
    """The body of the pool as who spawns."""

    pool: Any
    id: int = 0

    async def spawn(self, *args: Any) -> Any:
        return await self.pool.spawn(*args)


def run_grove(seed: int) -> tuple[list[str], int]:
    """Run the grove of a seed; return what was wrong, and how many agents there were."""
    grove = draw_grove(seed)
    forests: list[Forest] = []

    async def main() -> None:
        limiter = trio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = grove.threads
        forest = Forest(grove, trio.CapacityLimiter(grove.own))
        forests.append(forest)
        _forest.set(forest)
        error = await _live(forest)
        forest.problems.extend(_problems(forest, error))
        for name, one in (("trio", limiter), ("the program", forest.own)):
            if one.borrowed_tokens:
                forest.problems.append(f"{one.borrowed_tokens} threads of {name} are still borrowed")

    try:
        trio.run(main)
    except trio.TrioInternalError as error:
        return [f"the run broke down: {error.__cause__!r}"], 0
    return forests[0].problems, len(forests[0].handles)


def _problems(forest: Forest, error: BaseException | None) -> Iterator[str]:
    if forest.at_work:
        yield f"threads of agents {forest.at_work} are still at work"
    if thread_calls:
        yield f"{len(thread_calls)} calls of threads are left"
    is_struck = bool(forest.doomed)
    if error is not None and not (is_struck and is_expected(error)):
        yield f"the pool ended with {error!r}, of which {[e for e in leaves(error) if not is_expected(e)]}"
    for handle, node in forest.handles.values():
        outcome = handle.outcome
        if isinstance(outcome, Completed) and outcome.value != node.size:
            yield f"agent {handle.id} counted {outcome.value} agents of {node.size}"
        elif isinstance(outcome, Failed) and not (is_struck and is_expected(outcome.error)):
            yield f"agent {handle.id} failed with {outcome.error!r}"
        elif isinstance(outcome, Aborted) and not is_struck:
            yield f"agent {handle.id} was aborted ({outcome.reason}), and nobody meant it"
        elif outcome is None:
            yield f"agent {handle.id} has no outcome after the pool"
    yield from problems_in_books(forest.pool)
