"""One run of a program on virtual time, whose every order a seed decides."""

from __future__ import annotations

import inspect
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeAlias, TypeVar

import attrs
import trio
import trio.testing

from agentpool import _blocking
from agentpool._core.errors import AgentPoolError
from agentpool._kernel.instrument import instrumented
from agentpool.abc import Driver, Tool
from agentpool.testing._faults import NO_FAULTS, Fault, FaultPlan, FaultyDriver, FaultyTool
from agentpool.testing._log import EventLog, Note
from agentpool.testing._scheduler import SeededScheduler, break_waits, scheduling
from agentpool.testing._watch import Watcher, stacks_of_tasks, tasks_below

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Main: TypeAlias = Callable[[], Awaitable[T]] | Callable[["SimulationContext"], Awaitable[T]]
"""A program to simulate: an async function of nothing, or of its `SimulationContext`."""

DAY = 86_400.0

# What a program may take for its cleanup once it was cancelled because it did not end.
_STEPS_TO_UNWIND = 10_000


class SimulationHangError(AgentPoolError):
    """A simulated program did not end: nothing could ever wake it, or it went round in circles.

    Attributes:
      stacks: where each task stood, as lines of text.
    """

    def __init__(self, reason: str, stacks: str = "") -> None:
        self.stacks = stacks
        super().__init__(reason)

    def __str__(self) -> str:
        return f"{self.args[0]}\n{self.stacks}" if self.stacks else str(self.args[0])


@attrs.define(eq=False)
class SimulationContext:
    """What a simulated program is given of its simulation, if it takes a parameter.

    Attributes:
      seed: decides the order of everything.
      plan: which faults happen.
      size: how large the program should be, such as its number of agents; what shrinking makes smaller.
      random: a generator for the program's own choices, seeded by `seed`.
      log: what has happened so far.
      pools: every pool that was opened, in order.
      outer_scope: the scope around the whole program, which `cancel_everywhere` cancels.
      body_scope: the scope that `body` entered, if it did.
    """

    seed: int
    plan: FaultPlan = NO_FAULTS
    size: int = 1
    random: random.Random = attrs.field(init=False)
    log: EventLog = attrs.field(factory=EventLog, init=False)
    pools: list[Any] = attrs.field(factory=list, init=False)
    outer_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    body_scope: trio.CancelScope | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.random = random.Random(f"agentpool program {self.seed}")

    def driver(self, driver: Driver, name: str = "driver") -> FaultyDriver:
        """Return `driver` with the plan's faults for the target `name`."""
        return FaultyDriver(driver, self.plan, name)

    def tool(self, tool: Tool, name: str = "tool") -> FaultyTool:
        """Return `tool` with the plan's faults for the target `name`."""
        return FaultyTool(tool, self.plan, name)

    @contextmanager
    def body(self) -> Iterator[None]:
        """Mark what `cancel_everywhere` cancels as the body: use it inside the pool's block."""
        self.body_scope = trio.CancelScope()
        with self.body_scope:
            yield

    def note(self, text: str) -> None:
        """Write a line of the program's own into the log."""
        self.log.append(Note(trio.current_time(), text))


@attrs.frozen(eq=False)
class Simulation(Generic[T_co]):
    """How one run went.

    Attributes:
      seed, plan, size: what the run was given; together they make it happen again.
      value: what the program returned; None if it raised.
      error: what it raised, or None.
      log: what its pools did, and its own notes.
      steps: how many steps its tasks took.
      duration: virtual seconds.
      pools: the pools that it opened, now ended.
      has_body: whether it marked a body with `SimulationContext.body`.
      left_behind: what lived on when the program had ended: tasks and threads, as sentences.
    """

    seed: int
    plan: FaultPlan
    size: int
    value: T_co | None
    error: BaseException | None
    log: EventLog
    steps: int
    duration: float
    pools: tuple[Any, ...] = ()
    has_body: bool = False
    left_behind: tuple[str, ...] = ()

    def unwrap(self) -> T_co:
        """Return what the program returned, or raise what it raised."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


def simulate(
    main: Main[T],
    seed: int = 0,
    *,
    plan: FaultPlan = NO_FAULTS,
    size: int = 1,
    max_seconds: float = DAY,
    max_steps: int = 1_000_000,
) -> Simulation[T]:
    """Run a program on virtual time, with every order decided by `seed`.

    The same program with the same seed, plan and size does the same thing, in every process: its
    log is the same, byte for byte. Time passes only when every task waits, and costs nothing.
    Python's `random` module is seeded too, and put back afterwards. What agentpool does in threads
    otherwise (synchronous tools, SQLite) is done inline. Threads, processes and sockets of the
    program's own are outside the simulation's reach.

    Args:
      main: an async function without parameters, or with one, the `SimulationContext`.
      seed: any integer.
      plan: the faults; clock faults happen by themselves, those of drivers and tools where the
        program wraps them with `SimulationContext.driver` and `.tool`.
      size: handed to the program as `SimulationContext.size`.
      max_seconds: after so much virtual time the program counts as hanging.
      max_steps: after so many steps of its tasks it counts as hanging, too.

    Raises:
      SimulationHangError: if it did not end.
      RuntimeError: if called inside `trio.run`, or with a trio that has changed too much.
      BaseException: whatever `main` raised, with a note that names the seed.
    """
    simulation = attempt(main, seed, plan=plan, size=size, max_seconds=max_seconds, max_steps=max_steps)
    if simulation.error is not None:
        simulation.error.add_note(f"in the simulation with {recipe(simulation)}")
    simulation.unwrap()
    return simulation


def recipe(simulation: Simulation[Any]) -> str:
    """Return the arguments that make a run happen again, as source code."""
    plan = f", plan=FaultPlan.parse({str(simulation.plan)!r})" if simulation.plan else ""
    size = f", size={simulation.size}" if simulation.size != 1 else ""
    return f"seed={simulation.seed}{plan}{size}"


def attempt(
    main: Main[T],
    seed: int = 0,
    *,
    plan: FaultPlan = NO_FAULTS,
    size: int = 1,
    max_seconds: float = DAY,
    max_steps: int = 1_000_000,
    on_step: Callable[[int, SimulationContext], None] | None = None,
) -> Simulation[T]:
    """Do as `simulate`, but keep what the program raised as `Simulation.error`.

    A `BaseException` that is no `Exception` is kept too, except for `KeyboardInterrupt`.

    Args:
      main, seed, plan, size, max_seconds, max_steps: as for `simulate`.
      on_step: called before each step of a task with its number, counted from 1, between the steps
        of two tasks; it may cancel and abort.
    """
    context = SimulationContext(seed, plan, size)
    scheduler = SeededScheduler(seed, max_steps=max_steps + _STEPS_TO_UNWIND)
    clock = trio.testing.MockClock(autojump_threshold=0)
    keeper = _Keeper(context, clock, scheduler, max_seconds, max_steps, on_step)
    before = random.getstate()
    random.seed(f"agentpool random {seed}")
    value: T | None = None
    error: BaseException | None = None
    try:
        with scheduling(scheduler) as instrument:
            value = trio.run(keeper.run, _takes_context(main), clock=clock, instruments=[instrument])
    except KeyboardInterrupt:
        raise
    except BaseException as caught:
        error = caught
    finally:
        random.setstate(before)
    error = keeper.verdict(error)
    return Simulation(
        seed,
        plan,
        size,
        value if error is None else None,
        error,
        context.log,
        keeper.steps,
        clock.current_time(),
        tuple(context.pools),
        context.body_scope is not None,
        tuple(keeper.left_behind),
    )


def _takes_context(main: Main[T]) -> Callable[[SimulationContext], Awaitable[T]]:
    """Tell an async function of nothing from one of its context, without calling it."""
    try:
        parameters = inspect.signature(main).parameters.values()
    except (TypeError, ValueError):  # a callable without a signature
        parameters = ()  # type: ignore[assignment]
    wanted = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(wanted) > 1:
        names = ", ".join(parameter.name for parameter in wanted)
        raise TypeError(f"a simulated program takes nothing, or its context; {main!r} wants {names}")
    if wanted:
        return main  # type: ignore[return-value]
    return lambda _context: main()  # type: ignore[call-arg]


def _living() -> tuple[Counter[str], Counter[str]]:
    """The tasks of the run and the threads of the process, by name."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    # Trio keeps idle worker threads for a while.
    threads = Counter(thread.name for thread in threading.enumerate() if "Trio" not in thread.name)
    return Counter(task.name for task in tasks_below(root)), threads


# What not even that has ended is kept: to collect it would run its cleanup outside of trio.
_abandoned: list[trio.lowlevel.Task | None] = []

# Each round ends the tasks that have no children, so that their parents are next.
_ROUNDS_TO_TEAR_DOWN = 20


@attrs.define(eq=False)
class _Keeper:
    """Runs the program, watches over it, and ends it when it does not end by itself."""

    context: SimulationContext
    clock: trio.testing.MockClock
    scheduler: SeededScheduler
    max_seconds: float
    max_steps: int
    on_step: Callable[[int, SimulationContext], None] | None
    hang: SimulationHangError | None = None
    steps: int = attrs.field(default=0, init=False)
    left_behind: list[str] = attrs.field(factory=list, init=False)
    jumps: dict[int, Fault] = attrs.field(init=False)
    _start: int = attrs.field(default=0, init=False)
    task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.jumps = {fault.call: fault for fault in self.context.plan.faults if fault.target == "clock"}

    async def run(self, main: Callable[[SimulationContext], Awaitable[T]]) -> T:
        _blocking.set_blocking_runner(_run_inline)
        watch_time = trio.lowlevel.spawn_system_task(self._watch_time)
        # Counting begins here, where trio's own tasks have started.
        self._start = self.scheduler.steps
        self.task = self.scheduler.main_task = trio.lowlevel.current_task()
        self.scheduler.on_step = self._step
        tasks, threads = _living()
        try:
            watcher = Watcher(pools=self.context.pools, log=self.context.log, own_task=watch_time)
            with instrumented(watcher), self.context.outer_scope:
                return await main(self.context)
        finally:
            self.scheduler.on_step = None
            if self.hang is None:
                tasks_now, threads_now = _living()
                self.left_behind += [f"a task is left: {name}" for name in (tasks_now - tasks).elements()]
                self.left_behind += [
                    f"a thread is left: {name}" for name in (threads_now - threads).elements()
                ]
        return None  # type: ignore[return-value]  # the scope was cancelled, by us or an observer

    def _step(self, absolute: int) -> None:
        step = self.steps = absolute - self._start
        jump = self.jumps.get(step)
        if jump is not None:
            self.clock.jump(jump.seconds)
        if step == self.max_steps:
            self._give_up(f"the program did not end within {self.max_steps:,} steps of its tasks")
        if self.on_step is not None:
            self.on_step(step, self.context)

    async def _watch_time(self) -> None:
        # A task of the system, because a deadline around the program could be seen from inside.
        await trio.sleep_until(self.max_seconds)
        self._give_up(f"the program did not end within {self.max_seconds:,g} virtual seconds")
        # What does not even end by being cancelled is torn down: nothing would ever wake it.
        for _ in range(_ROUNDS_TO_TEAR_DOWN):
            await trio.sleep(self.max_seconds)
            assert self.task is not None
            break_waits(self.task)
        _abandoned.append(trio.lowlevel.current_root_task())
        self.scheduler.stop()

    def _give_up(self, reason: str) -> None:
        assert self.task is not None
        self.hang = SimulationHangError(reason, stacks_of_tasks(self.task))
        self.context.outer_scope.cancel()

    def verdict(self, error: BaseException | None) -> BaseException | None:
        """Return what counts: the hang, then what an observer raised, then the program's error."""
        if self.hang is not None:
            self.hang.__cause__ = error
            return self.hang
        if self.scheduler.error is not None:
            self.scheduler.error.__cause__ = error
            return self.scheduler.error
        return error


async def _run_inline(fn: Callable[[], Any]) -> Any:
    """Do blocking work in the run's own thread, with a chance for others before and after it."""
    await trio.lowlevel.checkpoint()
    try:
        return fn()
    finally:
        await trio.lowlevel.cancel_shielded_checkpoint()
