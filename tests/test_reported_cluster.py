"""What users of comparable systems reported of work on other processes and machines, in its situation here.

Each test names the report. What went wrong there is looked at as a kind, varied where that makes sense.
"""

from __future__ import annotations

import dataclasses
import gc
import pickle
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import attrs
import pytest
import trio
from pool_kit import Running, pool_of, server, sleeper, value

from agentpool import (
    Aborted,
    AgentContext,
    AgentFinished,
    AgentManifest,
    AgentPool,
    AgentPoolError,
    Completed,
    Completion,
    DeadlockError,
    Failed,
    ModelAgent,
    ModelCallFinished,
    ModelCallStarted,
    RemoteError,
    RestartPolicy,
    TokenUsage,
    UnknownAgentError,
    WorkerLostError,
    placed,
)
from agentpool._remote.codec import outcome_from_bytes, outcome_to_bytes
from agentpool.abc import Driver, Placement, Pulled, Transport, Workers
from agentpool.testing import InProcessPlacement, simulate

# -- errors and values between processes -----------------------------------------------------------


class NeedsTwo(Exception):
    """Cannot be made again of its `args`."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"status {status}: {body}")
        self.status = status


class NeedsKeywords(Exception):
    """As the errors of the SDKs of models."""

    def __init__(self, message: str, *, response: object, body: object) -> None:
        super().__init__(message)
        self.response, self.body = response, body


class AsksWhatItGets(Exception):
    def __init__(self, stuff: Any) -> None:
        super().__init__(stuff.two)


class HoldsALock(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class WithoutText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class RaisesWhenSent(Exception):
    def __reduce__(self) -> Any:
        raise ValueError("not me")


class BecomesANumber(Exception):
    def __reduce__(self) -> Any:
        return int, (3,)


class EndsWhoLoadsIt(Exception):
    """As one whose module is a script that ends with `sys.exit(main())`."""

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class EndsWhoSendsIt(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(3)


class Two:
    two = 2


@attrs.frozen(auto_exc=True)
class FrozenError(Exception):
    number: int


@dataclasses.dataclass(frozen=True)
class FrozenDataError(Exception):
    number: int


UNLOADABLE = [
    NeedsTwo(404, "gone"),
    NeedsKeywords("overloaded", response=None, body=None),
    AsksWhatItGets(Two()),
    FrozenDataError(3),
    HoldsALock("locked"),
    RaisesWhenSent("shy"),
    BecomesANumber("three"),
    EndsWhoLoadsIt("script"),
    EndsWhoSendsIt("script"),
    type("Local", (Exception,), {})("local"),
]


E = TypeVar("E", bound=BaseException)


def facts() -> dict[str, Any]:
    return {
        "agent_id": 3,
        "name": "a",
        "parent_id": 0,
        "usage": TokenUsage(),
        "started_at": 1.0,
        "duration": 2.0,
        "restarts": 0,
    }


def brought(error: BaseException) -> BaseException:
    """The error of an agent at a worker, as the head has it."""
    outcome = outcome_from_bytes(outcome_to_bytes(pickle.dumps, Failed(**facts(), error=error)), "worker 1")
    assert isinstance(outcome, Failed)
    return outcome.error


def raised(error: E, cause: BaseException | None = None) -> E:
    try:
        raise error from cause
    except type(error):
        return error


@pytest.mark.parametrize("error", UNLOADABLE, ids=lambda error: type(error).__name__)
def test_an_error_that_cannot_be_loaded_is_told_with_type_text_and_traceback(error: Exception) -> None:
    """python/cpython#103061, #79492, agronholm/pythonfutures#30, celery/celery#2943, Parsl/parsl#546,
    ray-project/ray#20830, ray-project/llm-applications#91: it killed or hung whoever waited for results,
    or another error hid it."""
    told = brought(raised(error))
    assert isinstance(told, RemoteError)
    assert (told.type_name, told.text) == (type(error).__qualname__, str(error))
    assert "in raised\n    raise error from cause" in told.traceback
    assert str(error) in str(told)


@pytest.mark.parametrize("error", [FrozenError(3), StopIteration(3), GeneratorExit()])
def test_a_strange_error_that_can_be_loaded_is_itself_with_its_traceback(error: BaseException) -> None:
    """ray-project/ray#60301, run-house/kubetorch#721: it crashed the caller, or had no traceback."""
    told = brought(raised(error, KeyError("why")))
    assert type(told) is type(error)
    assert told.args == error.args
    assert isinstance(told.__cause__, KeyError)
    (note,) = told.__notes__
    assert note.startswith("raised in worker 1:\n")
    assert "in raised\n    raise error from cause" in note


def test_an_error_without_a_text_arrives() -> None:
    """ray-project/ray#4149: telling of the error raised, and nothing was told."""
    told = brought(raised(WithoutText()))
    assert type(told) is WithoutText


def test_the_causes_of_an_error_arrive_each_as_far_as_it_can() -> None:
    """dask/distributed#2530, #3158, cloudpipe/cloudpickle#248: `raise ... from ...` lost what it was from."""
    first = raised(KeyError("first"))
    second = raised(NeedsTwo(500, "second"), first)
    told = brought(raised(ValueError("third"), second))
    assert type(told) is ValueError
    assert isinstance(told.__cause__, RemoteError)
    assert told.__cause__.text == "status 500: second"
    assert isinstance(told.__cause__.__cause__, KeyError)
    assert "KeyError: 'first'" in told.__notes__[0]
    assert "NeedsTwo: status 500: second" in told.__notes__[0]


def test_an_error_that_is_its_own_cause_arrives() -> None:
    error, other = ValueError("a"), ValueError("b")
    error.__cause__, other.__cause__ = other, error
    assert str(brought(error)) == "a"


def test_one_part_of_a_group_that_cannot_be_loaded_leaves_the_others_what_they_are() -> None:
    """dask/distributed#173, argilla-io/distilabel#543: what cannot be loaded took with it what can; `except*`
    found nothing."""
    inner = ExceptionGroup("inner", [raised(OSError(2, "gone")), raised(NeedsTwo(1, "x"))])
    group = ExceptionGroup("tasks", [raised(ValueError("v")), inner])
    group.add_note("of three tasks")
    told = brought(raised(group))
    assert isinstance(told, ExceptionGroup)
    assert told.message == "tasks"
    found, rest = told.split((ValueError, OSError))
    assert found is not None
    assert rest is not None
    assert [type(each) for each in found.exceptions] == [ValueError, ExceptionGroup]
    (lost,) = rest.exceptions[0].exceptions
    assert isinstance(lost, RemoteError)
    assert lost.type_name == "NeedsTwo"
    assert told.__notes__[0] == "of three tasks"


@pytest.mark.parametrize(
    "value",
    [
        lambda: 3,
        threading.Lock(),
        (each for each in "ab"),
        EndsWhoLoadsIt(),
        EndsWhoSendsIt(),
        RaisesWhenSent(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_result_that_cannot_be_brought_fails_its_agent_with_words(value: Any) -> None:
    """python/cpython#74734, #116685, noxdafox/pebble#146: the caller waited for ever."""
    outcome = outcome_from_bytes(
        outcome_to_bytes(pickle.dumps, Completed(**facts(), value=value)), "worker 1"
    )
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, RemoteError)
    assert outcome.error.text.startswith("what agent 3 (a) returned cannot be ")


@pytest.mark.parametrize("value", [ValueError("a value"), b"bytes", None, Failed(**facts(), error=OSError())])
def test_a_result_that_looks_like_something_else_is_a_result(value: Any) -> None:
    outcome = outcome_from_bytes(
        outcome_to_bytes(pickle.dumps, Completed(**facts(), value=value)), "worker 1"
    )
    assert isinstance(outcome, Completed)
    assert type(outcome.value) is type(value)


# -- the placement of these tests ------------------------------------------------------------------


@attrs.define(eq=False)
class Weather:
    """What happens to the requests and replies of a worker, beside the faults of its placement.

    Attributes:
      bytes_per_second: how fast they travel; None for no time.
      swallowed: how many replies to pulls are lost without a word.
      refused: whether requests of one kind are said to be in vain, while the worker lives.
    """

    bytes_per_second: float | None = None
    swallowed: int = 0
    refused: str = ""

    async def travel(self, size: int) -> None:
        if self.bytes_per_second is not None:
            await trio.sleep(size / self.bytes_per_second)


@attrs.define(eq=False)
class InWeather:
    """A transport through it."""

    inner: Transport
    weather: Weather

    async def post(self, number: int, records: Sequence[bytes]) -> None:
        await self.weather.travel(sum(map(len, records)))
        if self.weather.refused == "post":
            raise WorkerLostError("1", "it has no such method")
        await self.inner.post(number, records)

    async def pull(self, ack: int, max: int, wait: float) -> Pulled:
        if self.weather.refused == "pull":
            raise WorkerLostError("1", "it has no such method")
        pulled = await self.inner.pull(ack, max, wait)
        await self.weather.travel(sum(map(len, pulled.records)))
        if self.weather.swallowed:
            self.weather.swallowed -= 1
            await trio.sleep_forever()
        return pulled

    async def aclose(self) -> None:
        await self.inner.aclose()


class RoughPlacement(InProcessPlacement):
    """Whose way has weather."""

    def __init__(self, workers: int = 1, weather: Weather | None = None, **options: Any) -> None:
        super().__init__(workers, **options)
        self.weather = Weather() if weather is None else weather

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Workers]:
        async with super().open() as workers:
            yield RoughWorkers(workers, self.weather)


class RoughWorkers:
    def __init__(self, inner: Workers, weather: Weather) -> None:
        self.count = inner.count
        self.inner = inner
        self.weather = weather

    async def start(self, setup: bytes) -> Transport:
        return InWeather(await self.inner.start(setup), self.weather)

    def dumps(self, value: Any) -> bytes:
        return self.inner.dumps(value)


# What the agents of these tests do where others see it; their workers share the memory of the test.
SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()


def placed_pool(slots: int, placement: Placement, **options: Any) -> AbstractAsyncContextManager[AgentPool]:
    return pool_of(slots, placement=placement, **options)


async def outcome_of(pool: AgentPool, agent: Any, *args: Any, **options: Any) -> Any:
    return await (await pool.spawn(placed(agent), *args, **options)).wait()


def error_in(outcome: Any) -> Exception:
    assert isinstance(outcome, Failed)
    return outcome.error


async def ticking(ctx: AgentContext, seconds: float) -> float:
    """Says each second that it runs."""
    SEEN.append((ctx.id, "began", trio.current_time()))
    try:
        with trio.move_on_after(seconds):
            while True:
                SEEN.append((ctx.id, "runs", trio.current_time()))
                await trio.sleep(1)
        return seconds
    finally:
        SEEN.append((ctx.id, "ended", trio.current_time()))


def times(agent_id: int, what: str) -> list[float]:
    return [time for who, did, time in SEEN if (who, did) == (agent_id, what)]


# -- run twice, split brain, lost workers ----------------------------------------------------------


async def counting(ctx: AgentContext, number: int) -> int:
    SEEN.append(number)
    await trio.sleep(0.5)
    return number


@pytest.mark.parametrize("seed", range(3))
def test_with_requests_and_replies_lost_each_agent_runs_once(seed: int) -> None:
    """ray-project/ray#44212, #46705, celery/celery#5935, #3270, Bogdanp/dramatiq#431: a call whose reply was
    lost was made again."""

    async def main() -> None:
        placement = InProcessPlacement(3, loss=0.3, delay=0.2)
        async with placed_pool(10, placement) as pool:
            outcomes = await pool.map(placed(counting), range(30))
            assert [outcome.unwrap() for outcome in outcomes] == list(range(30))
        assert sorted(SEEN) == list(range(30))

    simulate(main, seed=seed)


async def test_long_work_without_a_word_is_not_begun_again(autojump_clock: Any) -> None:
    """langchain-ai/langgraph#7417, apache/airflow#13747: a call of three minutes was taken for lost."""
    async with placed_pool(2, InProcessPlacement(1)) as pool:
        outcome = await outcome_of(pool, sleeper, 10_000, "done")
        assert outcome.unwrap() == "done"
        assert (outcome.restarts, pool.active_count) == (0, 0)


async def test_a_worker_that_is_cut_off_has_ended_its_agents_when_they_are_begun_elsewhere(
    autojump_clock: Any,
) -> None:
    """akka/akka-core#25632, #24696, ray-project/ray#52322, temporalio/sdk-python#1048,
    PrefectHQ/prefect#16459: what was taken for dead ran on beside what had replaced it."""
    placement = InProcessPlacement(1)
    async with placed_pool(2, placement) as pool:
        policy = RestartPolicy(max_restarts=1, within=1000)
        agent = await pool.spawn(placed(ticking), 30.0, restart=policy)
        await trio.sleep(5)
        placement.workers[0].cut()
        await trio.sleep(8)
        assert agent.status == "running"
        outcome = await agent.wait()
    assert (outcome.unwrap(), outcome.restarts) == (30.0, 1)
    (first, second), ended = times(agent.id, "began"), times(agent.id, "ended")
    assert first < ended[0] < second < ended[1]
    assert 5 + placement.lease < second < 5 + placement.lease + 5


async def test_a_cut_that_is_shorter_than_the_lease_is_nothing_to_the_agents(autojump_clock: Any) -> None:
    """dask/distributed#5078, #6361, microsoft/durabletask-python#175, ablative-io/aion#69: after a cut a
    worker was not heard any more, or its results were, twice."""
    placement = InProcessPlacement(1)
    async with placed_pool(20, placement) as pool:
        agents = [await pool.spawn(placed(ticking), 3.0 + number) for number in range(10)]
        for _ in range(3):
            await trio.sleep(1)
            placement.workers[0].cut()
            await trio.sleep(4)
            placement.workers[0].restore()
        outcomes = [await agent.wait() for agent in agents]
    assert [outcome.unwrap() for outcome in outcomes] == [3.0 + number for number in range(10)]
    assert all(len(times(agent.id, "began")) == 1 for agent in agents)
    assert len(placement.workers) == 1


async def test_a_reply_that_is_lost_without_a_word_costs_no_worker(autojump_clock: Any) -> None:
    """ray-project/ray#28562: a node that was late once was taken for dead, with all its actors."""
    weather = Weather()
    for lease in (2.0, 3.0, 10.0):
        async with placed_pool(2, RoughPlacement(1, weather, lease=lease)) as pool:
            agent = await pool.spawn(placed(sleeper), 60, "done")
            for _ in range(10):
                weather.swallowed = 1
                await trio.sleep(5)
            assert (await agent.wait()).unwrap() == "done"


async def test_a_killed_worker_fails_its_agents_and_nobody_else(autojump_clock: Any) -> None:
    """python/cpython#101267, temporalio/sdk-python#245, agronholm/apscheduler#362, TkTech/chancy#94,
    dask/distributed#1110, #4152: the pool was broken for ever, all futures shared an exception, or hung."""
    placement = InProcessPlacement(2)
    async with placed_pool(6, placement) as pool:
        agents = [await pool.spawn(placed(sleeper), 20, number) for number in range(6)]
        await trio.sleep(1)
        placement.workers[0].kill()
        outcomes = [await agent.wait() for agent in agents]
        errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failed)]
        assert len(errors) == len({id(error) for error in errors}) == 3
        assert all(isinstance(error, WorkerLostError) for error in errors)
        assert [o.value for o in outcomes if isinstance(o, Completed)] == [
            number for number, o in enumerate(outcomes) if not isinstance(o, Failed)
        ]
        assert pool.active_count == 0
        more = await pool.map(placed(value), range(8))
        assert [outcome.unwrap() for outcome in more] == list(range(8))
    assert len(placement.workers) == 3


@pytest.mark.parametrize("way", ["post", "pull"])
async def test_a_worker_that_answers_one_way_only_is_lost_in_bounded_time(
    way: str, autojump_clock: Any
) -> None:
    """dask/distributed#3196, #4001: scheduler and worker each took the other for busy, for ever."""
    weather = Weather()
    placement = RoughPlacement(1, weather)
    async with placed_pool(2, placement) as pool:
        agent = await pool.spawn(placed(ticking), 1e6)
        await trio.sleep(5)
        weather.refused = way
        agent_of_then = await pool.spawn(placed(value), 3)
        for each in (agent, agent_of_then):
            assert isinstance(error_in(await each.wait()), WorkerLostError)
        assert trio.current_time() < 5 + placement.lease + 5
        assert times(agent.id, "ended")[0] < trio.current_time()


async def test_the_outcome_that_came_before_the_loss_stays(autojump_clock: Any) -> None:
    """apache/airflow#12396, PrefectHQ/prefect#18653: what had completed was found dead, and failed."""
    placement = InProcessPlacement(1)
    async with placed_pool(3, placement) as pool, pool.events() as events:
        agent = await pool.spawn(placed(sleeper), 1, "done")
        other = await pool.spawn(placed(sleeper), 100)
        assert (await agent.wait()).unwrap() == "done"
        placement.workers[0].kill()
        assert isinstance(error_in(await other.wait()), WorkerLostError)
        assert agent.outcome is not None
        assert agent.outcome.unwrap() == "done"
    finished = [event.agent_id async for event in events if isinstance(event, AgentFinished)]
    assert finished == [agent.id, other.id]  # apache/airflow#51969, #32289: found dead twice


async def test_a_lost_worker_gives_its_slots_back_and_is_not_retried_unasked(autojump_clock: Any) -> None:
    """PrefectHQ/prefect#16746, ray-project/ray#2635, #40358: its runs held the limit, or were made again."""
    placement = InProcessPlacement(1)
    async with placed_pool(1, placement) as pool:
        agent = await pool.spawn(placed(ticking), 1000.0)
        await trio.sleep(2)
        placement.workers[0].kill()
        assert (await outcome_of(pool, value, "next")).unwrap() == "next"
        assert isinstance(error_in(await agent.wait()), WorkerLostError)
    assert len(times(agent.id, "began")) == 1


class NoPlacement(InProcessPlacement):
    """Whose workers cannot be started, the first ones at least."""

    failures = 1

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Workers]:
        async with super().open() as workers:
            yield NoWorkers(workers, self)


class NoWorkers(RoughWorkers):
    def __init__(self, inner: Workers, placement: NoPlacement) -> None:
        super().__init__(inner, Weather())
        self.placement = placement

    async def start(self, setup: bytes) -> Transport:
        if self.placement.failures:
            self.placement.failures -= 1
            await trio.sleep(3)
            raise AgentPoolError("no node has a processor to spare; ask for less")
        return await super().start(setup)


async def test_where_no_worker_can_be_started_an_agent_fails_with_the_reason(autojump_clock: Any) -> None:
    """ray-project/ray#6612, #19501, #2541: calls of an actor that could not be made hung, without a word."""
    placement = NoPlacement(1)
    async with placed_pool(1, placement) as pool:
        error = error_in(await outcome_of(pool, value, 1))
        assert isinstance(error, AgentPoolError)
        assert "ask for less" in str(error)
        assert (await outcome_of(pool, value, 2)).unwrap() == 2


# -- what one agent does to its neighbours ---------------------------------------------------------


async def raising(ctx: AgentContext, error: BaseException) -> None:
    await trio.sleep(1)
    raise error


async def leaving(ctx: AgentContext) -> None:
    await trio.sleep(1)
    sys.exit(3)


class Panic(BaseException):
    """As a library in Rust raises."""


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError(), Panic()]
)
@pytest.mark.parametrize("where", ["placed", "in place"])
async def test_what_no_pool_contains_comes_out_at_the_head_at_once(
    error: BaseException, where: str, autojump_clock: Any
) -> None:
    """dask/distributed#301, ray-project/ray#1049, #40358: `sys.exit()` in a task hung its caller, was
    repeated, or ended the worker and others with it."""
    placement = InProcessPlacement(1)
    with pytest.raises(type(error)) as caught:
        async with placed_pool(2, placement if where == "placed" else None) as pool:
            await pool.spawn(placed(ticking), 100.0)
            await pool.spawn(placed(raising), error)
            await trio.sleep_forever()
    assert caught.value.args == error.args
    assert trio.current_time() < 1.5
    assert times(1, "ended") != []
    assert all(worker.crash is None for worker in placement.workers)


async def failing_badly(ctx: AgentContext) -> None:
    raise NeedsTwo(1, "x")


async def test_failures_leave_nothing_in_a_worker(autojump_clock: Any) -> None:
    """ray-project/ray#47274, #31421, #19905: a worker kept what had ended, and grew."""

    def left() -> int:
        gc.collect()
        kept = [type(each).__name__ for each in gc.get_objects()]
        return sum(
            map(kept.count, ("NeedsTwo", "RemoteError", "AgentRecord", "WorkerLine", "Proxy", "SentError"))
        )

    async with placed_pool(4, InProcessPlacement(1)) as pool:
        counts = []
        for number in range(30):
            assert type(error_in(await outcome_of(pool, failing_badly))) is RemoteError
            if number in (9, 29):
                await trio.sleep(2)
                counts.append(left())
    assert counts[0] == counts[1]


@pytest.mark.parametrize("what", [threading.Lock(), (each for each in "ab"), RaisesWhenSent()])
async def test_what_cannot_be_sent_fails_its_agent_at_once_and_with_words(
    what: Any, autojump_clock: Any
) -> None:
    """python/cpython#74734, #116685, noxdafox/pebble#146: an argument that cannot be pickled hung all."""
    async with placed_pool(2, InProcessPlacement(1)) as pool:
        error = error_in(await outcome_of(pool, value, what))
        assert type(error) is TypeError
        assert str(error).startswith(
            "agent 1 (value), or what it is given, cannot be sent to another process: "
        )
        assert (await outcome_of(pool, value, 3)).unwrap() == 3


class CannotBeLoaded:
    def __reduce__(self) -> Any:
        return cannot_be_loaded, ()


def cannot_be_loaded() -> None:
    raise ModuleNotFoundError("No module named 'only_at_the_head'", name="only_at_the_head")


async def test_what_cannot_be_loaded_over_there_fails_its_agent_and_not_the_worker(
    autojump_clock: Any,
) -> None:
    """dask/distributed#344, #7797, #924, ray-project/ray#7881: a module that only the caller had drowned the
    worker in errors."""
    placement = InProcessPlacement(1)
    async with placed_pool(3, placement) as pool:
        other = await pool.spawn(placed(sleeper), 5, "done")
        for what in (CannotBeLoaded(), EndsWhoLoadsIt()):
            error = error_in(await outcome_of(pool, value, what))
            assert isinstance(error, RemoteError)
            assert "cannot be loaded" in str(error)
        assert "No module named 'only_at_the_head'" in str(
            error_in(await outcome_of(pool, value, CannotBeLoaded()))
        )
        assert (await other.wait()).unwrap() == "done"
    assert len(placement.workers) == 1


async def receiving(ctx: AgentContext, count: int) -> list[Any]:
    got: list[Any] = []
    while len(got) < count:
        try:
            got.append((await ctx.receive()).content)
        except (RemoteError, TypeError) as error:
            got.append(type(error).__name__)
    return got


async def test_a_message_that_cannot_be_brought_is_one_error_of_who_receives_it(autojump_clock: Any) -> None:
    """celery/celery#2943, microsoft/autogen#5549: it ended the process that all messages go through."""
    async with placed_pool(3, InProcessPlacement(2)) as pool:
        agent = await pool.spawn(placed(receiving), 4)
        for content in ("first", CannotBeLoaded(), threading.Lock(), "last"):
            await pool.send(agent.id, content)
        assert (await agent.wait()).unwrap() == ["first", "RemoteError", "TypeError", "last"]


async def answering_badly(ctx: AgentContext, answer: Any) -> None:
    message = await ctx.receive()
    ctx.reply(message, answer())


@pytest.mark.parametrize("answer", [threading.Lock, CannotBeLoaded])
async def test_an_answer_that_cannot_be_brought_leaves_nobody_waiting(
    answer: Any, autojump_clock: Any
) -> None:
    """microsoft/autogen#6140, #4034: an error in a worker was logged there, and who had asked waited."""
    async with placed_pool(3, InProcessPlacement(1)) as pool:
        agent = await pool.spawn(placed(answering_badly), answer)
        with pytest.raises(UnknownAgentError):
            await pool.ask(agent.id, "question")
        assert isinstance(error_in(await agent.wait()), TypeError | RemoteError)


@pytest.mark.parametrize("way", ["argument", "result", "message"])
async def test_what_is_larger_than_a_second_of_the_way_arrives(way: str, autojump_clock: Any) -> None:
    """ray-project/ray#7263, #24286, asynkron/protoactor-go#1114: a long message broke the connection, and all
    that went over it."""
    size = 50_000
    async with placed_pool(3, RoughPlacement(1, Weather(bytes_per_second=10_000))) as pool:
        other = await pool.spawn(placed(ticking), 100.0)
        match way:
            case "argument":
                agent = await pool.spawn(placed(length), b"x" * size)
            case "result":
                agent = await pool.spawn(placed(long_value), size)
            case _:
                agent = await pool.spawn(placed(length_of_message))
                await pool.send(agent.id, b"x" * size)
        assert (await agent.wait()).unwrap() in (size, b"x" * size)
        assert (await other.wait()).unwrap() == 100.0


async def length(ctx: AgentContext, what: bytes) -> int:
    return len(what)


async def long_value(ctx: AgentContext, size: int) -> bytes:
    return b"x" * size


async def length_of_message(ctx: AgentContext) -> int:
    return len((await ctx.receive()).content)


# -- cancellation ----------------------------------------------------------------------------------


async def cleaning(ctx: AgentContext) -> None:
    SEEN.append((ctx.id, "began", trio.current_time()))
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        SEEN.append((ctx.id, "ended", trio.current_time()))


async def test_an_aborted_agent_keeps_its_slot_until_it_has_ended_over_there(autojump_clock: Any) -> None:
    """dask/distributed#2617, #118, temporalio/sdk-python#700: what was cancelled ran on, and its worker got
    more; nobody could wait for its end."""
    async with placed_pool(1, InProcessPlacement(1)) as pool:
        agent = await pool.spawn(placed(cleaning))
        await trio.sleep(1)
        agent.abort("enough")
        assert (await outcome_of(pool, value, "next")).unwrap() == "next"
        outcome = await agent.wait()
    assert isinstance(outcome, Aborted)
    assert outcome.reason == "enough"
    assert times(agent.id, "ended") == [pytest.approx(3, abs=0.01)]


@pytest.mark.parametrize("delay", [0, 0.3])
def test_an_abort_at_any_moment_around_the_start_is_not_lost(delay: float) -> None:
    """ray-project/ray#52628, #52533, #44644: a cancel that overtook its task was lost, and the task ran."""

    async def main() -> None:
        placement = InProcessPlacement(1, loss=0.2, delay=delay)
        async with placed_pool(40, placement) as pool:
            agents = []
            for number in range(30):
                agents.append(await pool.spawn(placed(ticking), 1e6))
                with trio.move_on_after(number * delay / 10) as scope:
                    await trio.sleep_forever()
                assert scope.cancelled_caught
                agents[-1].abort()
            outcomes = [await agent.wait() for agent in agents]
            assert all(isinstance(outcome, Aborted) for outcome in outcomes)
            assert all(len(times(agent.id, "began")) == len(times(agent.id, "ended")) for agent in agents)

    for seed in range(3):
        SEEN.clear()
        simulate(main, seed=seed)


async def test_an_abort_reaches_one_agent_and_no_neighbour(autojump_clock: Any) -> None:
    """ray-project/ray#54865, celery/celery#1106: the cancel of one killed the process of others."""
    placement = InProcessPlacement(1)
    async with placed_pool(3, placement) as pool:
        first, second, third = [await pool.spawn(placed(ticking), 10.0) for _ in range(3)]
        await trio.sleep(2)
        second.abort()
        assert isinstance(await second.wait(), Aborted)
        assert (await first.wait()).unwrap() == (await third.wait()).unwrap() == 10.0
    assert len(placement.workers) == 1


async def parent_of(ctx: AgentContext, children: int, here: bool) -> None:
    for _ in range(children):
        await ctx.spawn(ticking if here else placed(ticking), 1e6)
    await trio.sleep_forever()


@pytest.mark.parametrize("here", [False, True])
async def test_an_abort_reaches_the_children_wherever_they_run(here: bool, autojump_clock: Any) -> None:
    """celery/django-celery#589, celery/celery#1592, ray-project/ray#32259: only the parent was ended, or the
    worker crashed."""
    async with placed_pool(10, InProcessPlacement(3)) as pool:
        agent = await pool.spawn(placed(parent_of), 4, here)
        await trio.sleep(2)
        agent.abort()
        assert isinstance(await agent.wait(), Aborted)
        assert pool.active_count == 0
    began = [who for who, did, _ in SEEN if did == "began"]
    assert len(began) == 4
    assert sorted(began) == sorted(who for who, did, _ in SEEN if did == "ended")


async def test_a_burst_of_aborts_leaves_a_worker_that_works(autojump_clock: Any) -> None:
    """celery/celery#5169, ray-project/ray#47585, #37943: it froze, or its counters never came down."""
    async with placed_pool(300, InProcessPlacement(2)) as pool:
        agents = [await pool.spawn(placed(ticking), 1e6) for _ in range(200)]
        await trio.sleep(1)
        for agent in agents[::2]:
            agent.abort()
        pool.abort_all("all")
        outcomes = [await agent.wait() for agent in agents]
        assert all(isinstance(outcome, Aborted) for outcome in outcomes)
        assert pool.active_count == 0
        assert (await outcome_of(pool, value, "next")).unwrap() == "next"


async def test_leaving_the_pool_ends_what_runs_elsewhere_and_waits_for_it(autojump_clock: Any) -> None:
    """ray-project/ray#31451, #4699, python/cpython#125886: after Ctrl-C workers went on, or took the next."""
    placement = InProcessPlacement(2)
    with trio.move_on_after(3):
        async with placed_pool(4, placement) as pool:
            for _ in range(4):
                await pool.spawn(placed(cleaning))
            await pool.spawn(placed(cleaning))  # waits for a slot
    assert [time for _, did, time in SEEN if did == "ended"] == [pytest.approx(5, abs=0.01)] * 4
    assert sum(did == "began" for _, did, _ in SEEN) == 4
    assert not any(worker.is_running for worker in placement.workers)


async def test_leaving_the_pool_does_not_hang_on_a_worker_that_answers_no_more(autojump_clock: Any) -> None:
    """ray-project/ray#29431, #44836: the shutdown waited for ever."""
    placement = InProcessPlacement(2)
    with trio.move_on_after(3):
        async with placed_pool(2, placement) as pool:
            handles = [await pool.spawn(placed(cleaning)) for _ in range(2)]
            await trio.sleep(2)
            for worker in placement.workers:
                worker.cut()
            await trio.sleep_forever()
    # They were about to end by the cancellation, and have.
    assert [type(handle.outcome) for handle in handles] == [Aborted, Aborted]
    assert trio.current_time() < 3 + placement.lease + 5
    assert not any(worker.is_running for worker in placement.workers)


# -- waits, order, limits --------------------------------------------------------------------------


async def nested(ctx: AgentContext, depth: int) -> int:
    if depth == 0:
        return 0
    return 1 + await (await ctx.spawn(placed(nested), depth - 1)).result()


async def test_nested_agents_do_not_lock_up_under_a_limit(autojump_clock: Any) -> None:
    """ray-project/ray#231, #3644: each waited in its worker for one that had none."""
    async with placed_pool(1, InProcessPlacement(2)) as pool:
        assert (await outcome_of(pool, nested, 6)).unwrap() == 6


RUNNING = Running()


async def fanning(ctx: AgentContext, depth: int) -> int:
    with RUNNING:
        await trio.sleep(1)
    if depth == 0:
        return 1
    children = [await ctx.spawn(placed(fanning), depth - 1) for _ in range(3)]
    total = sum([await child.result() for child in children])
    with RUNNING:
        await trio.sleep(1)
    return total


async def test_lent_slots_let_no_more_run_than_the_limit_says(autojump_clock: Any) -> None:
    """ray-project/ray#1273, #12686: what lent its place went on beside who had it."""
    RUNNING.peak = 0
    async with placed_pool(3, InProcessPlacement(2)) as pool:
        assert (await outcome_of(pool, fanning, 3)).unwrap() == 27
    assert RUNNING.peak == 3


async def asking(ctx: AgentContext, other: int | None) -> Any:
    if other is None:
        other = (await ctx.receive()).content
    return await ctx.ask(other, "question")


async def test_agents_of_two_workers_that_ask_each_other_are_told_so(autojump_clock: Any) -> None:
    async with placed_pool(2, InProcessPlacement(2)) as pool:
        first = await pool.spawn(placed(asking), None)
        second = await pool.spawn(placed(asking), first.id)
        await pool.send(first.id, second.id)
        errors = {type(error_in(await each.wait())) for each in (first, second)}
    assert errors == {DeadlockError, UnknownAgentError}


async def talking(ctx: AgentContext, to: int, count: int) -> None:
    for number in range(count):
        await ctx.send(to, (ctx.id, number))


@pytest.mark.parametrize("seed", range(3))
def test_messages_keep_their_order_though_requests_are_lost_and_late(seed: int) -> None:
    """ray-project/ray#52833, #51904, #11683: after a reconnect calls came in another order, or one was waited
    for that never came."""

    async def main() -> None:
        placement = InProcessPlacement(3, loss=0.2, delay=0.1)
        async with placed_pool(10, placement, inbox_capacity=3) as pool:
            reader = await pool.spawn(placed(receiving), 80)
            writers = [await pool.spawn(placed(talking), reader.id, 20) for _ in range(4)]
            got = (await reader.wait()).unwrap()
        for writer in writers:
            assert [n for who, n in got if who == writer.id] == list(range(20))

    simulate(main, seed=seed)


async def test_answers_reach_who_asked_though_all_number_their_questions_alike(autojump_clock: Any) -> None:
    """microsoft/autogen#7016: answers were kept by the number of the question alone."""
    async with placed_pool(12, InProcessPlacement(3)) as pool:
        servers = [await pool.spawn(placed(server)) for _ in range(2)]
        agents = [await pool.spawn(placed(asking_often), servers[n % 2].id) for n in range(8)]
        assert [(await agent.wait()).unwrap() for agent in agents] == [
            [(agent.id, n) for n in range(9)] for agent in agents
        ]


async def asking_often(ctx: AgentContext, other: int) -> list[Any]:
    got: list[Any] = [None] * 9

    async def ask(number: int) -> None:
        got[number] = await ctx.ask(other, (ctx.id, number))

    async with ctx.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(ask, number)
    return got


async def pouring(ctx: AgentContext, to: int) -> int:
    """Sends until it has to wait for three seconds."""
    count = 0
    while True:
        with trio.move_on_after(3) as scope:
            await ctx.send(to, count)
        if scope.cancelled_caught:
            return count
        count += 1


async def test_a_slow_reader_holds_up_who_writes_from_another_machine(autojump_clock: Any) -> None:
    """dask/distributed#641, ray-project/ray#22339, #40753, faststream-community/zMQTT#33: between two bounded
    queues was one without a bound."""
    async with placed_pool(3, InProcessPlacement(2), inbox_capacity=5) as pool:
        reader = await pool.spawn(placed(sleeper), 100)
        writer = await pool.spawn(placed(pouring), reader.id)
        assert (await writer.wait()).unwrap() == 5


async def test_a_message_that_is_sent_right_after_the_start_arrives(autojump_clock: Any) -> None:
    """dask/dask#4811: the first messages were lost, or stuck, depending on who was up first."""
    async with placed_pool(3, InProcessPlacement(2, delay=1.0)) as pool:
        agents = [await pool.spawn(placed(receiving), 1) for _ in range(3)]
        for agent in agents:
            await pool.send(agent.id, agent.id)
        assert [(await agent.wait()).unwrap() for agent in agents] == [[agent.id] for agent in agents]


async def answering_once(ctx: AgentContext, content: Any) -> None:
    ctx.reply(await ctx.receive(), content)


async def test_what_an_agent_does_last_is_done(autojump_clock: Any) -> None:
    """microsoft/autogen#4034: what was told right before the end of a worker's runtime never left it."""
    async with placed_pool(2, InProcessPlacement(1)) as pool:
        for number in range(5):
            agent = await pool.spawn(placed(answering_once), number)
            assert await pool.ask(agent.id, "question") == number


# -- model calls, events ---------------------------------------------------------------------------


class Overloaded(Driver):
    """A driver whose errors are of a class that cannot be brought from one process to another."""

    async def complete(self, request: Any) -> Completion:
        await trio.sleep(1)
        if "fail" in repr(request.messages):
            raise NeedsKeywords("overloaded", response=None, body=None)
        return Completion("fine", usage=TokenUsage(input_tokens=2, output_tokens=1))


@asynccontextmanager
async def opened() -> AsyncIterator[Driver]:
    yield Overloaded()


@pytest.mark.parametrize("where", ["head", "worker"])
async def test_an_error_of_a_model_that_cannot_be_brought_is_that_of_one_agent(
    where: str, autojump_clock: Any
) -> None:
    """ray-project/llm-applications#91, #55878: an error of an SDK, whose class needs its response, ended in a
    riddle; ray-project/ray#2260: the workers had no key."""
    model = ModelAgent(AgentManifest(name="model"))
    placement = InProcessPlacement(1, driver=opened if where == "worker" else None)
    async with placed_pool(3, placement, driver=Overloaded()) as pool, pool.events() as events:
        agents = [await pool.spawn(placed(model), query) for query in ("answer", "fail", "answer")]
        outcomes = [await agent.wait() for agent in agents]
    assert [outcome.unwrap().text for outcome in outcomes[::2]] == ["fine", "fine"]
    error = error_in(outcomes[1])
    assert isinstance(error, RemoteError)
    assert (error.type_name, error.text) == ("NeedsKeywords", "overloaded")
    begun: dict[int, int] = {}
    failed = []
    async for event in events:
        if isinstance(event, ModelCallStarted):
            begun[event.seq] = event.agent_id
        elif isinstance(event, ModelCallFinished):
            assert begun.pop(event.started) == event.agent_id
            if event.error is not None:
                failed.append((event.agent_id, str(event.error).partition("\n")[0].rpartition(": ")[2]))
    assert begun == {}
    assert failed == [(agents[1].id, "overloaded")]
    assert len(placement.workers) == 1
