"""Arguments that make no sense are refused at once, in words that tell the fix."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from trio.testing import MockClock

import agentpool
from agentpool import (
    AgentContext,
    AgentManifest,
    AgentMessage,
    AgentPool,
    Failed,
    FleetFile,
    RestartPolicy,
    ScriptedDriver,
    SpawnConfig,
    Supervisor,
    UnhandledAgentErrors,
    UnknownAgentError,
    open_agent_pool,
    start_fleet,
)

Anything = Any  # what the type checker would refuse


async def agent(ctx: AgentContext, *args: object) -> tuple[object, ...]:
    return args


async def server(ctx: AgentContext) -> None:
    async for message in ctx.inbox:
        ctx.reply(message, message.content)


def sync(ctx: AgentContext) -> int:
    return 3


async def generator(ctx: AgentContext) -> AsyncIterator[int]:
    yield 1


def coroutine() -> Any:
    """A coroutine that warns if nobody awaits or closes it."""
    return agent(None)  # type: ignore[arg-type]


async def finished(result: Any) -> Any:
    """Await what a verb returned, if it is one that waits."""
    return await result if isinstance(result, Awaitable) else result


# -- opening a pool ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_concurrent", "inbox_capacity"])
@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (0, ValueError, "must be at least 1, not 0"),
        (-1, ValueError, "must be at least 1, not -1"),
        (True, TypeError, "must be an int, not True"),
        (2.5, TypeError, "must be an int, not 2.5"),
        ("3", TypeError, "must be an int, not '3'"),
        (math.inf, TypeError, "must be an int, not inf"),
    ],
)
async def test_counts_are_whole_numbers_above_0(
    name: str, value: Anything, error: type[Exception], says: str
) -> None:
    arguments: dict[str, Any] = {"max_concurrent": 1, name: value}
    with pytest.raises(error, match=f"^{name} {says}$"):
        async with open_agent_pool(**arguments):
            pass


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("driver", "scripted", "open_driver"),
        ("driver", ScriptedDriver, "`complete`"),
        ("memory", 3, r"InMemory\(\)"),
        ("tool_builder", [], "function of a manifest"),
        ("budget", 100, r"Budget\(tokens=100\)"),
        ("limits", 5, "PoolLimits"),
    ],
)
async def test_means_of_the_wrong_kind_are_refused(name: str, value: Anything, says: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be .*{says}"):
        async with open_agent_pool(max_concurrent=1, **{name: value}):
            pass


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
async def test_the_number_of_slots_stays_as_it_was(value: Anything, error: type[Exception]) -> None:
    async with open_agent_pool(max_concurrent=2) as pool:
        with pytest.raises(error, match="max_concurrent"):
            pool.max_concurrent = value
        assert pool.max_concurrent == 2


def test_a_pool_under_asyncio_says_that_it_needs_trio() -> None:
    async def main() -> None:
        async with open_agent_pool(max_concurrent=1):
            pass

    with pytest.raises(RuntimeError, match=r"trio\.run\(main\)"):
        asyncio.run(main())


# -- what is no agent ----------------------------------------------------------------------------------


async def iterate(pool: AgentPool, agent: Anything, items: Anything) -> None:
    async with pool.as_completed(agent, items) as done:
        async for _ in done:
            pass


STARTS: dict[str, Callable[[AgentPool, Any], Any]] = {
    "spawn": lambda pool, agent: pool.spawn(agent),
    "spawn_nowait": lambda pool, agent: pool.spawn_nowait(agent),
    "fan_out": lambda pool, agent: pool.fan_out([server, agent]),
    "map": lambda pool, agent: pool.map(agent, [1]),
    "as_completed": lambda pool, agent: iterate(pool, agent, [1]),
    "race": lambda pool, agent: pool.race(server, agent),
    "vote": lambda pool, agent: pool.vote(agent, n=1),
}


@pytest.mark.parametrize("verb", STARTS)
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (coroutine, r"write spawn\(agent, argument\), not spawn\(agent\(argument\)\)"),
        (lambda: None, "async callable that takes a context, not None"),
        (lambda: 3, "async callable that takes a context, not 3"),
        (lambda: Supervisor, "the class Supervisor: give an instance"),
        (lambda: AgentManifest(name="x"), r"SpawnConfig\(manifest, query\)"),
    ],
)
async def test_what_is_no_agent_starts_nothing(verb: str, make: Callable[[], Any], says: str) -> None:
    async with open_agent_pool(max_concurrent=3) as pool:
        with pytest.raises(TypeError, match=says):
            await finished(STARTS[verb](pool, make()))
        assert pool.statistics().spawned == 0


async def test_every_coroutine_in_a_list_is_closed() -> None:
    async with open_agent_pool(max_concurrent=3) as pool:
        with pytest.raises(TypeError, match="coroutine"):
            await pool.fan_out([coroutine(), coroutine()])


@pytest.mark.parametrize("wrong", [sync, lambda ctx: None, generator, partial(sync)])
async def test_the_outcome_of_a_function_that_is_not_async_says_so(wrong: Anything) -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        outcome = await (await pool.spawn(wrong)).wait()
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is TypeError
    assert "is no async function, and an agent has to be one" in str(outcome.error)
    assert isinstance(outcome.error.__cause__, TypeError)


async def test_an_agent_without_a_parameter_for_its_context_is_told_of_it() -> None:
    async def forgot() -> None:
        pass

    async with open_agent_pool(max_concurrent=1) as pool:
        outcome = await (await pool.spawn(forgot)).wait()  # type: ignore[arg-type]
    assert isinstance(outcome, Failed)
    assert "takes 0 positional arguments" in str(outcome.error)
    assert "the first parameter of an agent is its context: `async def agent(ctx, ...)`" in str(outcome.error)
    assert isinstance(outcome.error.__cause__, TypeError)


async def test_an_agent_that_is_given_one_argument_too_few_is_told_of_it() -> None:
    async def add(ctx: AgentContext, a: int, b: int) -> int:
        return a + b

    async with open_agent_pool(max_concurrent=1) as pool:
        outcome = await (await pool.spawn(add, 1)).wait()  # type: ignore[call-arg]
    assert isinstance(outcome, Failed)
    assert "missing 1 required positional argument: 'b'" in str(outcome.error)
    assert "and then come the arguments of spawn" in str(outcome.error)


async def test_code_that_needs_asyncio_is_told_to_use_trio() -> None:
    async def sleeps(ctx: AgentContext) -> None:
        await asyncio.sleep(1)

    async with open_agent_pool(max_concurrent=1) as pool:
        outcome = await (await pool.spawn(sleeps)).wait()
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is RuntimeError
    assert "trio.sleep" in outcome.error.__notes__[0]


async def test_the_own_runtime_errors_of_an_agent_are_left_as_they_are() -> None:
    async def fails(ctx: AgentContext) -> None:
        raise RuntimeError("no")

    async with open_agent_pool(max_concurrent=1) as pool:
        outcome = await (await pool.spawn(fails)).wait()
    assert isinstance(outcome, Failed)
    assert not hasattr(outcome.error, "__notes__")


async def test_a_name_in_the_place_of_a_driver_is_told_how_it_is_opened() -> None:
    with pytest.raises(TypeError, match=r"async with open_driver\('openai:m'\) as driver"):
        async with open_agent_pool("openai:m", max_concurrent=1):  # type: ignore[arg-type]
            pass


async def test_the_own_type_errors_of_an_agent_are_left_as_they_are() -> None:
    async def awaits_a_number(ctx: AgentContext) -> None:
        await 3  # type: ignore[misc]

    async with open_agent_pool(max_concurrent=1) as pool:
        outcome = await (await pool.spawn(awaits_a_number)).wait()
    assert isinstance(outcome, Failed)
    assert "async function" not in str(outcome.error)
    assert not hasattr(outcome.error, "__notes__")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"timeout": 0}, ValueError, "timeout must be above 0 seconds, not 0"),
        ({"timeout": -1}, ValueError, "timeout must be above 0 seconds, not -1"),
        ({"timeout": math.nan}, ValueError, "timeout must be above 0 seconds, not nan"),
        ({"timeout": "5"}, TypeError, "timeout must be a number of seconds, not '5'"),
        ({"timeout": True}, TypeError, "timeout must be a number of seconds, not True"),
        ({"name": 3}, TypeError, "name must be a string, not 3"),
        ({"restart": "always"}, TypeError, "restart must be a RestartPolicy, not 'always'"),
        ({"restart": RestartPolicy}, TypeError, "restart must be a RestartPolicy"),
        ({"retries": 3}, TypeError, "retries"),
    ],
)
async def test_wrong_options_of_a_spawn_start_nothing(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        with pytest.raises(error, match=says):
            await pool.spawn(agent, **options)
        with pytest.raises(error, match=says):
            pool.spawn_nowait(agent, **options)
        if "restart" not in options:
            with pytest.raises(error, match=says):
                await pool.map(agent, [1], **options)
        assert pool.statistics().spawned == 0


async def test_an_endless_timeout_is_no_timeout() -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        assert await (await pool.spawn(agent, 1, timeout=math.inf)).result() == (1,)


# -- several at once -----------------------------------------------------------------------------------


async def test_items_that_cannot_be_iterated_over_are_refused() -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        for wrong, says in ((3, "not 3$"), (generator, "call it, to get its items")):
            with pytest.raises(TypeError, match=f"^items must be an iterable or an async iterable.*{says}"):
                await pool.map(agent, wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=says):
                pool.as_completed(agent, wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^configs must be a list of agents, not <function agent"):
            await pool.fan_out(agent)  # type: ignore[arg-type]


async def test_a_sequence_of_the_old_kind_can_be_iterated_over() -> None:
    class Old:
        def __getitem__(self, index: int) -> int:
            return range(3)[index]

    async with open_agent_pool(max_concurrent=1) as pool:
        outcomes = await pool.map(agent, Old())  # type: ignore[arg-type]
        assert [outcome.unwrap() for outcome in outcomes] == [(0,), (1,), (2,)]


async def test_a_race_of_nobody_and_votes_that_cannot_be_won_are_refused() -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        with pytest.raises(ValueError, match="at least one agent"):
            await pool.race()
        with pytest.raises(ValueError, match="1 <= quorum <= n, not n=0"):
            await pool.vote(agent, n=0)
        with pytest.raises(ValueError, match="1 <= quorum <= n, not quorum=4 and n=3"):
            await pool.vote(agent, n=3, quorum=4)
        for wrong in (True, 2.5, "3"):
            with pytest.raises(TypeError, match=r"^n must be an int"):
                await pool.vote(agent, n=wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"^quorum must be an int"):
                await pool.vote(agent, n=3, quorum=wrong)  # type: ignore[arg-type]


# -- messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["send", "send_nowait", "ask"])
async def test_a_recipient_that_is_no_id_is_refused_with_the_fix(verb: str) -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        handle = await pool.spawn(server)
        wrongs: list[tuple[Any, str]] = [
            (handle, "give its `id`"),
            (None, "not None$"),
        ]
        for wrong, says in wrongs:
            with pytest.raises(TypeError, match=f"^`to` must be the id of an agent.*{says}"):
                await finished(getattr(pool, verb)(wrong, "hello"))
        with pytest.raises(TypeError, match=r"^`to` must be the id of an agent.*find\('server'\)"):
            pool.router.send_nowait(AgentMessage(to="server"))  # type: ignore[arg-type]
        assert pool.statistics().messages_sent == 0


async def test_only_messages_are_replied_to(autojump_clock: MockClock) -> None:
    async def replies(ctx: AgentContext) -> None:
        ctx.reply("hello", 1)  # type: ignore[arg-type]

    async with open_agent_pool(max_concurrent=1) as pool:
        outcome = await (await pool.spawn(replies)).wait()
    assert isinstance(outcome, Failed)
    assert str(outcome.error) == "reply takes the message that is answered, and the answer, not 'hello'"


async def test_a_name_that_several_bear_finds_nobody_and_tells_some_of_their_ids() -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        with pytest.raises(UnknownAgentError, match="no live agent is called 'server'"):
            pool.find("server")
        with pytest.raises(TypeError, match="name must be a string, not 1"):
            pool.find(1)  # type: ignore[arg-type]
        await pool.fan_out([server] * 2)
        with pytest.raises(UnknownAgentError, match=r"2 live agents .*\[1, 2\]$"):
            pool.find("server")
        await pool.fan_out([server] * 20)
        with pytest.raises(UnknownAgentError, match=r"22 live agents .* 9, 10, \.\.\.\]$"):
            pool.find("server")


# -- other tasks, other verbs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [(coroutine, r"write start_soon\(function, argument\)"), (lambda: 3, "and its arguments, not 3")],
)
async def test_a_nursery_of_an_agent_takes_functions(make: Callable[[], Any], says: str) -> None:
    async def parent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            with pytest.raises(TypeError, match=says):
                nursery.start_soon(make())

    async with open_agent_pool(max_concurrent=1) as pool:
        await (await pool.spawn(parent)).result()


@pytest.mark.parametrize(
    ("grace", "error"), [(-1, ValueError), (math.nan, ValueError), ("5", TypeError), (None, TypeError)]
)
async def test_a_wrong_grace_does_not_drain(grace: Anything, error: type[Exception]) -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        with pytest.raises(error, match=r"^grace must be"):
            await pool.drain(grace)
        assert await (await pool.spawn(agent)).result() == ()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("a.toml", "?"), TypeError, r"not 'a.toml'; read it with AgentManifest.load\('a.toml'\)"),
        ((3, "?"), TypeError, "manifest must be an AgentManifest, not 3$"),
        ((AgentManifest(name="x"), 3), TypeError, "query must be a string, not 3"),
    ],
)
def test_a_spawn_config_is_of_a_manifest_and_a_query(
    arguments: tuple[Any, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        SpawnConfig(*arguments)


@pytest.mark.parametrize(("retries", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_retries_of_an_output_are_counted(retries: Anything, error: type[Exception]) -> None:
    with pytest.raises(error, match="output_retries must be"):
        SpawnConfig(AgentManifest(name="x"), "?", output_retries=retries)


async def test_a_fleet_is_read_before_it_is_started() -> None:
    fleet = FleetFile.from_toml('[[agents]]\nmanifest = { name = "a" }\nquery = "?"')
    async with open_agent_pool(max_concurrent=1) as pool:
        with pytest.raises(TypeError, match=r"read a file with FleetFile.load\(path\)"):
            await start_fleet(pool, "fleet.toml")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="timeout must be above 0"):
            await start_fleet(pool, fleet, timeout=0)


async def test_an_agent_without_a_driver_says_where_one_is_given() -> None:
    with pytest.RaisesGroup(agentpool.RequestRejectedError) as caught:
        async with open_agent_pool(max_concurrent=1) as pool:
            await pool.spawn(SpawnConfig(AgentManifest(name="x"), "?"))
    assert isinstance(caught.value, UnhandledAgentErrors)
    assert "open_agent_pool(driver" in str(caught.value.exceptions[0])
