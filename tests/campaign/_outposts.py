"""Random programs whose agents run in workers, which lose requests and replies and are killed and cut off."""

from __future__ import annotations

import itertools
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import attrs
import trio

from agentpool._core.errors import (
    AgentAbortedError,
    AgentFailedError,
    AgentTimeoutError,
    DeadlockError,
    PoolClosedError,
    UnknownAgentError,
    WorkerLostError,
    WorkerUnavailableError,
)
from agentpool._core.events import AgentFinished, AgentSpawned, MessageDeadLettered
from agentpool._core.outcomes import Completed, Failed
from agentpool._core.restart import RestartPolicy
from agentpool._kernel.opening import open_agent_pool
from agentpool._kernel.placed import placed
from agentpool.testing import InProcessPlacement
from agentpool.testing._books import problems_in_books
from agentpool.testing._cancel import BLOWS, strike
from agentpool.testing._simulate import Simulation, SimulationContext, SimulationHangError, attempt

from ._trouble import Planned, leaves

LOSS = 0.1
"""How likely each request is lost, and each reply."""

_EXPECTED = (
    Planned,
    AgentAbortedError,
    AgentFailedError,
    AgentTimeoutError,
    DeadlockError,
    PoolClosedError,
    UnknownAgentError,
    WorkerLostError,
    trio.EndOfChannel,
)

_OUTPOSTS: WeakValueDictionary[int, Outpost] = WeakValueDictionary()
_numbers = itertools.count()

_OPS = {
    "send": 8,
    "ask": 5,
    "receive": 5,
    "serve": 4,
    "spawn": 10,
    "wait": 4,
    "join_next": 3,
    "join_all": 2,
    "map": 1,
    "compute": 5,
    "sleep": 4,
    "within": 5,
    "both": 2,
    "abort": 2,
    "publish": 1,
    "subscribe": 1,
    "broadcast": 1,
    "leave": 1,
    "fail": 1,
}


_OF_A_BODY = (
    "spawn",
    "send",
    "ask",
    "sleep",
    "within",
    "abort",
    "map",
    "wait",
    "join_next",
    "join_all",
    "fail",
)


def _outpost(number: int) -> Outpost:
    return _OUTPOSTS[number]


@attrs.define(eq=False, weakref_slot=True)
class Outpost:
    """What a run knows. Pickled, it stays the same one: only its workers' memory is not their own.

    Attributes:
      rng: decides what everybody does.
      troubled: whether workers are killed and cut off, so that some are lost.
      struck: whether agents may end for a reason of which this knows nothing.
      bodies: how often the body of each agent has begun.
      worker_of: the worker in which an agent's last body began; None at the head.
      returned, raised: how bodies ended, by agent, all of their ends.
      sent, refused: contents whose sending returned, or raised; `asked` those of questions.
      received: who got which content, in order.
      several: agents that had several tasks.
      computing: who runs code just now.
      fatal: whether an agent raised SystemExit.
    """

    rng: random.Random
    troubled: bool
    struck: bool = False
    cap: int = 1
    pool: Any = None
    placement: Any = None
    number: int = attrs.field(factory=lambda: next(_numbers))
    tokens: int = 0
    spawned: int = 0
    ids: list[int] = attrs.field(factory=list)
    bodies: Counter[int] = attrs.field(factory=Counter)
    worker_of: dict[int, Any] = attrs.field(factory=dict)
    living: dict[int, Any] = attrs.field(factory=dict)
    orphaned: set[int] = attrs.field(factory=set)
    returned: Counter[int] = attrs.field(factory=Counter)
    raised: Counter[int] = attrs.field(factory=Counter)
    sent: list[tuple[int, Any]] = attrs.field(factory=list)
    refused: list[tuple[int, Any]] = attrs.field(factory=list)
    received: list[tuple[int, Any]] = attrs.field(factory=list)
    several: set[int] = attrs.field(factory=set)
    left: set[int] = attrs.field(factory=set)
    computing: Counter[int] = attrs.field(factory=Counter)
    fatal: bool = False
    alarms: int = 0
    problems: list[str] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        _OUTPOSTS[self.number] = self

    def __reduce__(self) -> Any:
        return _outpost, (self.number,)

    def token(self) -> int:
        """Return another number each time."""
        self.tokens += 1
        return self.tokens

    def record(self, agent_id: int) -> Any:
        """Return the pool's own record of an agent; None once it has its outcome."""
        return self.pool._state.records.get(agent_id)


def _worker_here(outpost: Outpost) -> Any:
    """Return the worker whose program the calling task belongs to; None at the head."""
    task: Any = trio.lowlevel.current_task()
    while task is not None:
        if task.name.startswith("worker ") and task.name[7:].isdigit():
            return outpost.placement.workers[int(task.name[7:]) - 1]
        task = None if task.parent_nursery is None else task.parent_nursery.parent_task
    return None


async def agent(ctx: Any, outpost: Outpost, depth: int, item: Any = None) -> tuple[str, int]:
    """Do this and that, as the dice say."""
    outpost.bodies[ctx.id] += 1
    life = outpost.bodies[ctx.id]
    worker = outpost.worker_of[ctx.id] = _worker_here(outpost)
    if ctx.id in outpost.living:
        outpost.problems.append(f"a second body of agent {ctx.id} began while the first one runs")
    outpost.living[ctx.id] = worker
    member = Member(outpost, ctx, depth, life)
    try:
        await member.run(outpost.rng.randint(1, 6))
        member.check()
    except Exception:
        outpost.raised[ctx.id] += 1
        raise
    else:
        outpost.returned[ctx.id] += 1
        return ("done", ctx.id)
    finally:
        if worker is not None and not worker.is_running:
            outpost.orphaned.add(ctx.id)
        member.check()
        outpost.living.pop(ctx.id, None)


@attrs.define(eq=False)
class Member:
    """One agent, or the body of the pool, for which `scope` is the pool and `depth` 0."""

    outpost: Outpost
    scope: Any
    depth: int
    life: int = 1
    handles: list[Any] = attrs.field(factory=list)
    kept: list[Any] = attrs.field(factory=list)

    @property
    def id(self) -> int:
        """The agent's id; 0 for the body."""
        return 0 if self.depth == 0 else int(self.scope.id)

    def check(self) -> None:
        """See that an agent runs only as long as it has no outcome, in its last life."""
        if self.id and self.outpost.record(self.id) is None:
            self.outpost.problems.append(f"agent {self.id} runs though it has its outcome")
        if self.id and self.outpost.bodies[self.id] != self.life:
            self.outpost.problems.append(f"life {self.life} of agent {self.id} runs beside a later one")

    async def run(self, count: int, nesting: int = 0) -> None:
        """Do so many things, and live on after errors that may be."""
        rng = self.outpost.rng
        for _ in range(count):
            self.check()
            names = [
                name
                for name in _OPS
                if not (name in ("spawn", "map") and self.depth >= 4)
                and not (self.depth == 0 and name not in _OF_A_BODY)
                and not (name in ("within", "both") and nesting >= 2)
                and not (name == "leave" and nesting)
            ]
            name = rng.choices(names, [_OPS[name] for name in names])[0]
            try:
                await self.perform(name, nesting)
            except Exception as error:
                self.outpost.alarms += isinstance(error, DeadlockError)
                if not all(isinstance(leaf, _EXPECTED) for leaf in leaves(error)):
                    self.outpost.problems.append(f"{name} of agent {self.id} raised {error!r}")
                if isinstance(error, Planned) or rng.random() < 0.15:
                    raise

    async def perform(self, name: str, nesting: int) -> None:
        """Do one thing."""
        outpost, rng, scope = self.outpost, self.outpost.rng, self.scope
        match name:
            case "send":
                await self.sending("say", scope.send)
            case "ask":
                content, answer = await self.sending("ask", scope.ask)
                if content is not None and answer != ("answer", content):
                    outpost.problems.append(f"the question {content} got the answer {answer}")
            case "receive":
                await self.receive()
            case "serve":
                for _ in range(rng.choice([2, 1000])):
                    await self.receive()
            case "spawn":
                await self.spawn()
            case "map":
                await self.map()
            case "wait" if self.handles:
                handle = rng.choice(self.handles)
                outcome = await handle.wait()
                if outcome.agent_id != handle.id:
                    outpost.problems.append(f"the handle {handle.id} gave {outcome!r}")
            case "join_next":
                await scope.join_next()
            case "join_all":
                await scope.join_all()
            case "compute":
                await self.compute()
            case "sleep":
                await trio.sleep(rng.choice([0.0, 0.1, 0.5, 3.0]))
            case "within":
                with trio.move_on_after(rng.choice([0.0, 0.1, 0.5, 1.0, 4.0])):
                    await self.run(rng.randint(1, 3), nesting + 1)
            case "both":
                outpost.several.add(self.id)
                async with scope.open_nursery() as nursery:
                    nursery.start_soon(self.run, 2, nesting + 1)
                    await self.run(2, nesting + 1)
            case "abort" if self.handles:
                outpost.struck = True
                rng.choice(self.handles).abort("by the dice")
            case "publish":
                await scope.publish("topic", ("topic", self.id, outpost.token()))
            case "subscribe":
                scope.subscribe("topic")
            case "broadcast":
                await scope.broadcast(("all", self.id, outpost.token()))
            case "leave":
                outpost.left.add(self.id)
                opened = trio.CancelScope()
                opened.__enter__()
                self.kept.append(opened)
            case "fail":
                if rng.random() < 0.03:
                    outpost.fatal = True
                    raise SystemExit(3)
                raise Planned(f"agent {self.id}")
        await trio.lowlevel.checkpoint()

    async def sending(self, kind: str, verb: Any) -> tuple[Any, Any]:
        """Send or ask somebody something, and note what became of it."""
        outpost = self.outpost
        others = [other for other in outpost.ids if other != self.id]
        if not others:
            return None, None
        to = outpost.rng.choice(others)
        content = (kind, self.id, outpost.token())
        try:
            answer = await verb(to, content)
        except BaseException:
            outpost.refused.append((self.id, content))
            raise
        outpost.sent.append((self.id, content))
        return content, answer

    async def receive(self) -> None:
        """Receive a message, and answer it if it is a question, most of the time."""
        outpost = self.outpost
        message = await self.scope.receive()
        outpost.received.append((self.id, message.content))
        self.check()
        if message.content[0] == "ask" and outpost.rng.random() < 0.9:
            self.scope.reply(message, ("answer", message.content))

    async def spawn(self) -> None:
        """Spawn an agent, which runs in a worker most of the time."""
        outpost, rng = self.outpost, self.outpost.rng
        if outpost.spawned >= 25:
            return
        outpost.spawned += 1
        restart = RestartPolicy("transient", max_restarts=2, within=1000) if rng.random() < 0.15 else None
        handle = await self.scope.spawn(
            placed(agent) if rng.random() < 0.75 else agent,
            outpost,
            self.depth + 1,
            timeout=rng.choice([None, None, None, None, 0.5, 3.0]),
            restart=restart,
        )
        self.handles.append(handle)
        outpost.ids.append(handle.id)

    async def map(self) -> None:
        """Run agents for items."""
        outpost = self.outpost
        count = outpost.rng.randint(0, 3)
        outpost.spawned += count
        runner = placed(_Item(outpost, self.depth + 1))
        outcomes = await self.scope.map(runner, list(range(count)))
        if len(outcomes) != count:
            outpost.problems.append(f"map gave {len(outcomes)} outcomes for {count} items")

    async def compute(self) -> None:
        """Run code over several steps, and count who else does."""
        outpost = self.outpost
        if trio.current_effective_deadline() <= trio.current_time():
            await trio.lowlevel.checkpoint()  # being cancelled: it unwinds without a slot
            return
        with self.counted():
            running = [each for each, count in outpost.computing.items() if count and self.has_slot(each)]
            if len(running) > outpost.cap:
                outpost.problems.append(f"{running} ran at once, but max_concurrent is {outpost.cap}")
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            await trio.sleep(outpost.rng.choice([0.0, 0.0, 0.3, 1.0]))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count as running."""
        self.outpost.computing[self.id] += 1
        try:
            yield
        finally:
            self.outpost.computing[self.id] -= 1

    def has_slot(self, agent_id: int) -> bool:
        """Whether it needs a slot for what it does: not while it is being cancelled."""
        record = self.outpost.record(agent_id)
        return record is not None and not record.scope.cancel_called


@attrs.frozen
class _Item:
    """An agent for items."""

    outpost: Outpost
    depth: int
    name: str = "item"

    async def __call__(self, ctx: Any, item: int) -> tuple[str, int]:
        return await agent(ctx, self.outpost, self.depth, item)


async def _run(outpost: Outpost, sim: SimulationContext) -> None:
    rng = outpost.rng
    outpost.cap = rng.choice([1, 1, 2, 3, 8])
    outpost.placement = InProcessPlacement(
        rng.choice([1, 2, 3]), lease=rng.choice([6.0, 10.0]), loss=LOSS, delay=rng.choice([0.0, 0.0, 0.2])
    )
    async with (
        trio.open_nursery() as nursery,
        open_agent_pool(
            max_concurrent=outpost.cap,
            inbox_capacity=rng.choice([1, 2, 32]),
            placement=outpost.placement,
        ) as pool,
    ):
        outpost.pool = pool
        if outpost.troubled:
            nursery.start_soon(_trouble, outpost)
        with sim.body():
            member = Member(outpost, pool, 0)
            for _ in range(rng.randint(2, 4)):
                await member.spawn()
            for _ in range(rng.randint(1, 5)):
                with trio.move_on_after(4.0):
                    try:
                        await member.run(1)
                    except (*_EXPECTED, ExceptionGroup) as error:
                        outpost.alarms += isinstance(error, DeadlockError)


async def _trouble(outpost: Outpost) -> None:
    """Kill workers, and cut them off for a while or for good."""
    rng = outpost.rng
    for _ in range(rng.randint(1, 2)):
        await trio.sleep(rng.choice([0.0, 0.1, 0.6, 2.0, 5.0]))
        running = [worker for worker in outpost.placement.workers if worker.is_running]
        if running:
            worker = rng.choice(running)
            match rng.randrange(4):
                case 0 | 1:
                    outpost.orphaned.update(id for id, where in outpost.living.items() if where is worker)
                    worker.kill()
                case 2:
                    worker.cut()
                    await trio.sleep(rng.choice([0.5, 1.0, 3.0]))
                    worker.restore()
                case _:
                    worker.cut()


def run_outpost(seed: int) -> tuple[list[str], Simulation[Any], Outpost]:
    """Make the run of a seed; return what was wrong, the run, and what it knows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "agent .* left open", RuntimeWarning)
        run, outpost = _made(seed)
    return list(_problems(outpost, run)), run, outpost


def _made(seed: int) -> tuple[Simulation[Any], Outpost]:
    rng = random.Random(f"agentpool outposts {seed}")
    outpost = Outpost(rng, troubled=rng.random() < 0.5)
    blow, step, kind = rng.random() < 0.25, rng.randint(1, 400), rng.choice(BLOWS)

    async def main(sim: SimulationContext) -> None:
        await _run(outpost, sim)

    def on_step(now: int, context: SimulationContext) -> None:
        if blow and now == step:
            outpost.struck = True
            strike(kind, context, rng)

    run = attempt(main, seed, max_seconds=1000.0, max_steps=15_000, on_step=on_step if blow else None)
    return run, outpost


def _problems(outpost: Outpost, run: Simulation[Any]) -> Iterator[str]:
    if isinstance(run.error, SimulationHangError):
        yield f"hang: {run.error}"
        return
    yield from outpost.problems
    yield from run.left_behind
    yield from (problem for pool in run.pools for problem in problems_in_books(pool))
    yield from _end(outpost, run)
    yield from _outcomes(outpost, run)
    yield from _messages(outpost, run)


def _end(outpost: Outpost, run: Simulation[Any]) -> Iterator[str]:
    found = [] if run.error is None else leaves(run.error)
    if outpost.living:
        yield f"agents {sorted(outpost.living)} run after their pool"
    is_fatal = any(isinstance(error, SystemExit) for error in found)
    if is_fatal and not outpost.fatal:
        yield "the pool raised SystemExit, but nobody did"
    if outpost.fatal and not is_fatal and not outpost.troubled:
        yield f"an agent raised SystemExit, but the pool ended with {run.error!r}"
    for error in found:
        if not is_fatal and not isinstance(error, (*_EXPECTED, trio.Cancelled)) and not outpost.left:
            yield f"the pool ended with {error!r}"
    for worker in outpost.placement.workers if outpost.placement else ():
        if worker.crash is not None and not outpost.fatal:
            yield f"the program of {worker} raised {worker.crash!r}"


def _outcomes(outpost: Outpost, run: Simulation[Any]) -> Iterator[str]:
    spawned = Counter(event.agent_id for event in run.log.of(AgentSpawned))
    finished = Counter(event.agent_id for event in run.log.of(AgentFinished))
    if spawned != finished or any(count > 1 for count in spawned.values()):
        yield f"spawned and finished events do not match: {spawned} and {finished}"
    for event in run.log.of(AgentFinished):
        outcome, agent_id = event.outcome, event.agent_id
        if outpost.bodies[agent_id] > outcome.restarts + 1:
            begun = outpost.bodies[agent_id]
            yield f"agent {agent_id} began {begun} times, and was restarted {outcome.restarts}"
        is_well = 1 <= outpost.returned[agent_id] <= outcome.restarts + 1
        if isinstance(outcome, Completed) and not (is_well and outcome.value == ("done", agent_id)):
            yield f"agent {agent_id} returned {outpost.returned[agent_id]} times, and has {outcome!r}"
        error = outcome.error if isinstance(outcome, Failed) else None
        if isinstance(error, WorkerUnavailableError):
            yield f"agent {agent_id} found no worker: {error!r}"
        if isinstance(error, WorkerLostError):
            worker = outpost.worker_of.get(agent_id)
            if not (outpost.troubled or outpost.fatal):
                yield f"agent {agent_id} has {outcome!r}, though no worker was lost"
            elif worker is not None and worker.is_running:
                yield f"agent {agent_id} has {outcome!r}, and {worker} runs"
        is_own = agent_id in outpost.orphaned and not outcome.restarts and not outpost.returned[agent_id]
        if is_own and isinstance(outcome, Completed):
            yield f"the worker of agent {agent_id} was lost, and it has {outcome!r}"
        is_quiet = not (outpost.troubled or outpost.struck or outpost.fatal or agent_id in outpost.left)
        if is_quiet and isinstance(error, WorkerLostError):
            yield f"agent {agent_id} has {outcome!r}"


def _messages(outpost: Outpost, run: Simulation[Any]) -> Iterator[str]:
    dead = Counter(
        event.message.content for event in run.log.of(MessageDeadLettered) if event.message.reply_to is None
    )
    received = Counter((content) for _, content in outpost.received)
    has_lost = (
        any(
            isinstance(e.outcome, Failed) and isinstance(e.outcome.error, WorkerLostError)
            for e in run.log.of(AgentFinished)
        )
        or outpost.orphaned
        or outpost.fatal
        or outpost.troubled
    )
    for _, content in [*outpost.sent, *outpost.refused]:
        if received[content] + dead[content] > 1:
            yield f"the message {content} arrived {received[content]} + {dead[content]} times"
    for _, content in outpost.sent:
        if received[content] + dead[content] < 1 and not has_lost:
            yield f"the message {content} was sent, and neither received nor buried"
    for _, content in outpost.refused:
        if content[0] == "say" and (received[content] or dead[content]) and not has_lost:
            yield f"sending {content} raised, but it was delivered"
    last: dict[tuple[int, int], int] = {}
    for receiver, (kind, sender, token) in outpost.received:
        if kind in ("say", "ask") and not {sender, receiver} & outpost.several:
            if last.get((sender, receiver), 0) > token:
                yield f"agent {receiver} received {token} after a later message of agent {sender}"
            last[sender, receiver] = token
