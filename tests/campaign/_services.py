"""Services that crash and are started again, and those that reach them by name.

A program of its own kind: the tree of supervisors, the crashes and the calls are drawn from the seed. In a
calm program every service comes back, whoever of those above it gave up: there no call may fail. In the
others services and supervisors give up, are aborted, wait for each other, and the pool drains: there every
call must come to an end.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Awaitable, Iterator
from typing import Any

import attrs
import trio

from agentpool._core.errors import DeadlockError, UnhandledAgentErrors, UnknownAgentError
from agentpool._core.events import MessageDeadLettered
from agentpool._core.restart import Backoff, RestartPolicy
from agentpool._kernel.opening import open_agent_pool
from agentpool._kernel.supervisor import ChildSpec, Supervisor
from agentpool.testing._books import problems_in_books
from agentpool.testing._simulate import Simulation, SimulationHangError, attempt

from ._trouble import Planned, leaves

_NAMES: tuple[str, ...] = ("anna", "bert", "cleo", "dora")
_MODES: tuple[Any, ...] = ("permanent", "permanent", "transient", "temporary")
_STRATEGIES: tuple[Any, ...] = ("one_for_one", "one_for_all", "rest_for_one")
_PLENTY = 1000


@attrs.define(eq=False)
class Town:
    """What a run knows of its calls.

    Attributes:
      rng: decides what the program is, and what its agents do.
      is_calm: whether every service comes back, so that no call may fail.
      tokens: counts contents, so that each is another one.
      sent: contents whose send by name returned.
      refused: those whose send raised, of which nothing may have arrived.
      taken: what was received, by content.
      open_calls: calls that have not come to an end.
      alarms: how many calls were told of a deadlock.
      problems: what should not have been.
    """

    rng: random.Random
    is_calm: bool
    tokens: int = 0
    sent: list[Any] = attrs.field(factory=list)
    refused: list[Any] = attrs.field(factory=list)
    taken: Counter[Any] = attrs.field(factory=Counter)
    open_calls: set[Any] = attrs.field(factory=set)
    alarms: int = 0
    problems: list[str] = attrs.field(factory=list)

    async def call(self, scope: Any, caller: str) -> None:
        """Ask or tell somebody by name, with a time limit or without."""
        rng = self.rng
        verb, name = rng.choice(["ask", "ask", "ask", "send", "send_nowait"]), rng.choice(_NAMES)
        self.tokens += 1
        content = (verb, name, self.tokens)
        limit = rng.choice([0.2, 1.0, 5.0]) if rng.random() < 0.3 else math.inf
        self.open_calls.add(content)
        try:
            with trio.move_on_after(limit):
                await self._called(scope, verb, name, content)
        except (UnknownAgentError, DeadlockError) as error:
            self.alarms += isinstance(error, DeadlockError)
            if self.is_calm and verb != "send_nowait":
                self.problems.append(f"{caller} called {name}, who comes again, and was told {error!r}")
        finally:
            self.open_calls.discard(content)

    async def _called(self, scope: Any, verb: str, name: str, content: Any) -> None:
        try:
            if verb == "ask":
                answer = await scope.ask(name, content)
                if answer != ("answer of", name, content):
                    self.problems.append(f"the question {content} got the answer {answer}")
            elif verb == "send":
                await scope.send(name, content)
            else:
                scope.send_nowait(name, content)
        except trio.WouldBlock:
            self.refused.append(content)
        except BaseException:
            if verb != "ask":  # one that was put to a life that has ended may have been delivered
                self.refused.append(content)
            raise
        else:
            self.sent.append(content)
        await trio.lowlevel.checkpoint()

    async def service(self, ctx: Any, name: str) -> None:
        """Answer questions; crash, end, be slow, call others in between."""
        rng = self.rng
        async for message in ctx.inbox:
            self.taken[message.content] += 1
            if message.content[1] != name:
                self.problems.append(f"{name} received {message.content}")
            match rng.randrange(10):
                case 0 | 1:
                    raise Planned("a service crashed")
                case 2:
                    return
                case 3:
                    await trio.sleep(rng.choice([0.1, 1.0]))
                case 4 if not self.is_calm:
                    await self.call(ctx, name)
            if message.content[0] == "ask":
                ctx.reply(message, ("answer of", name, message.content))

    async def client(self, ctx: Any, calls: int) -> None:
        """Call by name, a few times, also in tasks of its own."""
        async with ctx.open_nursery() as nursery:
            for _ in range(calls):
                if self.rng.random() < 0.3:
                    nursery.start_soon(self.call, ctx, "a task")
                else:
                    await self.call(ctx, "a client")

    # -- the tree ------------------------------------------------------------------------------------

    def children(self, names: list[str], depth: int) -> Iterator[ChildSpec]:
        """Draw who starts the services of these names: one supervisor, or some below it."""
        rng = self.rng
        while names:
            count = rng.randint(1, 2)
            taken, names = names[:count], names[count:]
            mode = "permanent" if self.is_calm else rng.choice(_MODES)
            if depth and rng.random() < 0.5:
                yield ChildSpec(self.supervisor(taken, depth - 1), mode=mode)
            else:
                for name in taken:
                    yield ChildSpec(self.service, (name,), name=name, mode=mode)

    def supervisor(self, names: list[str], depth: int, most: int | None = None) -> Supervisor:
        """Draw a supervisor of services; `most` restarts, or few."""
        restarts = self.rng.randrange(3) if most is None else most
        specs = list(self.children(list(names), depth))
        if not self.is_calm and self.rng.random() < 0.3:
            specs.insert(self.rng.randint(0, len(specs)), ChildSpec(self.client, (2,), mode="transient"))
        return Supervisor(
            specs, strategy=self.rng.choice(_STRATEGIES), max_restarts=restarts, within=10 * _PLENTY
        )

    async def start(self, pool: Any) -> list[Any]:
        """Start the services: below one supervisor or several, some of which a policy starts again."""
        rng = self.rng
        names = rng.sample(_NAMES, len(_NAMES))
        cut = rng.choice([0, 2, 3])
        handles = []
        for part in filter(None, (names[:cut], names[cut:])):
            policy = RestartPolicy(
                "permanent" if self.is_calm else "transient",
                max_restarts=_PLENTY if self.is_calm else rng.randrange(3),
                within=10 * _PLENTY,
                backoff=Backoff(rng.choice([0.0, 0.5]), 2.0),
            )
            match rng.randrange(3):
                case 0:
                    handles += [
                        await pool.spawn(self.service, name, name=name, restart=policy) for name in part
                    ]
                case 1:
                    handles.append(await pool.spawn(self.supervisor(part, 2), restart=policy))
                case _:
                    most = _PLENTY if self.is_calm else None
                    handles.append(await pool.spawn(self.supervisor(part, 3, most)))
        return handles

    async def trouble(self, pool: Any, handles: list[Any]) -> None:
        """Do something to the services, or to all."""
        rng = self.rng
        await trio.sleep(rng.choice([0.0, 0.1, 1.0, 3.0]))
        match rng.randrange(8):
            case 0:
                pool.abort_all("enough")
            case 1:
                await pool.drain(grace=rng.choice([0.0, 5.0]))
            case 2 | 3:
                rng.choice(handles).abort("trouble")
            case 4:
                await self.call(pool, "the block")


async def _run_town(town: Town) -> None:
    rng = town.rng
    try:
        async with open_agent_pool(
            max_concurrent=rng.choice([1, 1, 2, 3, 16]), inbox_capacity=rng.choice([1, 2, 32])
        ) as pool:
            handles = await town.start(pool)
            clients: list[Awaitable[Any]] = [
                (await pool.spawn(town.client, rng.randint(1, 4))).wait() for _ in range(rng.randint(1, 5))
            ]
            if town.is_calm:
                for client in clients:
                    await client
                return
            for client in clients:
                client.close()  # type: ignore[attr-defined]
            await town.trouble(pool, handles)
    except UnhandledAgentErrors as error:
        odd = [leaf for leaf in leaves(error) if not _is_planned(leaf)]
        if odd:
            town.problems.append(f"the pool ended with {odd!r}")


def _is_planned(error: BaseException) -> bool:
    """Whether a service crashed by plan, or somebody gave up because of that."""
    return isinstance(error, Planned) or type(error).__name__ in ("RestartLimitError", "PoolClosedError")


def run_town(seed: int) -> tuple[list[str], Simulation[Any], Town]:
    """Make the run of a seed; return what was wrong, the run, and what it knows."""
    rng = random.Random(f"agentpool services {seed}")
    town = Town(rng, is_calm=rng.random() < 0.5)
    run = attempt(lambda: _run_town(town), seed, max_seconds=5.0 * _PLENTY, max_steps=20_000)
    return list(_problems(town, run)), run, town


def _problems(town: Town, run: Simulation[Any]) -> Iterator[str]:
    if isinstance(run.error, SimulationHangError):
        yield f"hang: {run.error} (calls that wait: {sorted(town.open_calls)})"
        return
    if run.error is not None:
        yield f"the run broke down: {run.error!r}"
        return
    yield from town.problems
    yield from run.left_behind
    yield from (problem for pool in run.pools for problem in problems_in_books(pool))
    yield from (f"the call {content} never came to an end" for content in town.open_calls)
    dead = Counter(
        event.message.content for event in run.log.of(MessageDeadLettered) if event.message.reply_to is None
    )
    for content in town.sent:
        arrived = town.taken[content] + dead[content]
        if arrived < 1 or (arrived > 1 and content[0] != "ask"):
            yield f"the message {content} was sent by name, and arrived {arrived} times"
    for content in town.refused:
        if town.taken[content] or dead[content]:
            yield f"sending {content} by name raised, but it was delivered"
