"""Messages and questions to a name: whoever has it now, or has it next."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any, Literal

import pytest
import trio
import trio.testing
from pool_kit import pool_of

from agentpool import (
    AgentContext,
    AgentManifest,
    ChildSpec,
    Completion,
    CompletionRequest,
    DeadlockError,
    ModelAgent,
    RestartPolicy,
    ScriptedDriver,
    Supervisor,
    ToolCall,
    ToolMessage,
    UnhandledAgentErrors,
    UnknownAgentError,
    open_agent_pool,
)
from agentpool.testing import SimulationContext, cancel_everywhere, simulate


async def clerk(ctx: AgentContext) -> None:
    """Answers with its id; "crash" makes it fail."""
    async for message in ctx.inbox:
        if message.content == "crash":
            raise ValueError("crashed")
        ctx.reply(message, ctx.id)


def crashing(times: int) -> Any:
    """A server that fails on as many of the questions that it takes, and answers the others."""
    left = [times]

    async def server(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            if left[0]:
                left[0] -= 1
                raise ValueError("crashed")
            ctx.reply(message, f"{message.content}, says {ctx.id}")

    return server


async def ask(ctx: AgentContext, name: str) -> Any:
    return await ctx.ask(name, "?")


async def slow_to_stop(ctx: AgentContext) -> None:
    """Keeps the supervisor waiting that stops it, for three seconds."""
    try:
        async for _ in ctx.inbox:
            pass
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(3)


def slow_restart(strategy: Literal["one_for_all", "rest_for_one"] = "one_for_all") -> Supervisor:
    """After "crash" to the clerk there is none for three seconds."""
    children = [ChildSpec(clerk), ChildSpec(slow_to_stop, mode="transient")]
    return Supervisor(children, strategy=strategy, max_restarts=3, within=60)


# -- who has the name now ----------------------------------------------------------------------


async def test_messages_go_to_who_has_the_name() -> None:
    async with pool_of(2) as pool:
        handle = await pool.spawn(clerk)
        assert await pool.ask("clerk", "?") == handle.id
        assert await (await pool.spawn(ask, "clerk")).result() == handle.id
        await pool.send("clerk", "a message")
        pool.send_nowait("clerk", "another one")
    assert pool.router.statistics().received == 6


@pytest.mark.parametrize("verb", ["ask", "send", "send_nowait"])
async def test_a_name_that_nobody_has_or_several_have_is_refused_at_once(verb: str) -> None:
    async def call(name: str) -> None:
        waits = getattr(pool, verb)(name, "?")
        if waits is not None:
            await waits

    async with pool_of(3) as pool:
        with pytest.raises(UnknownAgentError, match="no live agent is called 'clerk'"):
            await call("clerk")
        await pool.fan_out([clerk, clerk])
        with pytest.raises(
            UnknownAgentError, match=r"2 live agents are called 'clerk': use the ids \[1, 2\]"
        ):
            await call("clerk")
        await pool.fan_out([clerk] * 8)
        with pytest.raises(UnknownAgentError, match=r"10 live agents are .* the ids \[1, .*, 10\]$"):
            await call("clerk")
        await pool.spawn(clerk)
        with pytest.raises(UnknownAgentError, match=r"11 live agents are .* the ids \[1, .*, 10, \.\.\.\]$"):
            await call("clerk")


@pytest.mark.parametrize("spelled", ["Clerk", " clerk", "'clerk'", "['clerk']", "CLERK."])
async def test_a_name_that_is_spelled_otherwise_is_told(spelled: str) -> None:
    async with pool_of(3) as pool:
        await pool.spawn(clerk)
        with pytest.raises(UnknownAgentError, match=r"no live agent is called .*\. Did you mean 'clerk'\?"):
            await pool.send(spelled, "?")


async def test_a_name_that_is_only_similar_is_not_offered() -> None:
    async with pool_of(3) as pool:
        await pool.spawn(clerk, name="clerk-2")
        with pytest.raises(UnknownAgentError, match=r"no live agent is called 'clerk-1'$"):
            await pool.ask("clerk-1", "?")


async def test_a_question_to_a_name_that_closes_a_cycle_is_a_deadlock() -> None:
    async def one(ctx: AgentContext) -> None:
        message = await ctx.receive()
        with pytest.raises(DeadlockError) as caught:
            await ctx.ask("other", "?")
        assert caught.value.path == (1, 2)
        ctx.reply(message, "no")

    async def other(ctx: AgentContext) -> Any:
        return await ctx.ask("one", "?")

    async with pool_of(2) as pool:
        await pool.spawn(one)
        assert await (await pool.spawn(other)).result() == "no"


async def test_nobody_waits_for_an_agent_whose_inbox_has_ended() -> None:
    async def server(ctx: AgentContext) -> None:
        async for _ in ctx.inbox:
            pass
        await ctx.spawn(late)

    async def late(ctx: AgentContext) -> None:
        with pytest.raises(UnknownAgentError, match="no live agent is called 'server'"):
            await ctx.ask("server", "?")

    async with pool_of(1) as pool:
        await pool.spawn(server)


# -- its next life -----------------------------------------------------------------------------


async def test_a_question_is_put_to_the_next_life_of_a_restarted_agent(autojump_clock: Any) -> None:
    policy = RestartPolicy("transient", max_restarts=3, within=60, backoff=1)
    async with pool_of(2) as pool:
        handle = await pool.spawn(crashing(2), name="clerk", restart=policy)
        assert await pool.ask("clerk", "hello") == "hello, says 1"
        assert await (await pool.spawn(ask, "clerk")).result() == "?, says 1"
    assert handle.outcome is not None
    assert handle.outcome.restarts == 2
    books = pool.router.statistics()
    assert (books.sent, books.received, books.dead_letters) == (6, 6, 0)


async def test_a_question_is_put_to_the_agent_that_a_supervisor_starts_next(autojump_clock: Any) -> None:
    supervisor = Supervisor([ChildSpec(crashing(2), name="clerk")], max_restarts=3)
    async with pool_of(1) as pool:
        await pool.spawn(supervisor)
        client = await pool.spawn(ask, "clerk")
        assert await client.result() == "?, says 5"


async def test_many_clients_survive_the_crashes_of_their_service(autojump_clock: Any) -> None:
    supervisor = Supervisor([ChildSpec(crashing(7), name="clerk")], max_restarts=10)
    async with pool_of(3) as pool:
        await pool.spawn(supervisor)
        clients = await pool.fan_out([lambda ctx: ask(ctx, "clerk")] * 50)
        answers = [await client.result() for client in clients]
    assert len(answers) == 50
    books = pool.router.statistics()
    assert books.sent == books.received + books.dead_letters


async def test_a_child_can_be_asked_straight_after_its_supervisor_was_spawned() -> None:
    async with pool_of(1) as pool:
        await pool.spawn(Supervisor([clerk]))
        assert await pool.ask("clerk", "?") == 2


async def test_nobody_waits_for_the_children_of_a_supervisor_that_never_took_a_step() -> None:
    async with pool_of(1) as pool:
        supervisor = pool.spawn_nowait(Supervisor([clerk]))
        supervisor.abort()
        with pytest.raises(UnknownAgentError, match="called 'clerk'"):
            await pool.ask("clerk", "?")


async def test_a_supervisor_that_an_agent_calls_keeps_names_too() -> None:
    async def agent(ctx: AgentContext) -> None:
        await Supervisor([crashing(1)])(ctx)

    async with pool_of(1) as pool:
        await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()
        assert await pool.ask("server", "hi") == "hi, says 3"


async def test_a_sibling_may_ask_for_one_that_is_started_after_it() -> None:
    asked = []

    async def client(ctx: AgentContext) -> None:
        asked.append(await ctx.ask("clerk", "?"))

    async with pool_of(1) as pool:
        await pool.spawn(Supervisor([ChildSpec(client, mode="transient"), ChildSpec(clerk)]))
    assert asked == [3]


@pytest.mark.parametrize("verb", ["ask", "send"])
async def test_who_calls_while_nobody_has_the_name_waits_for_the_next(verb: str, autojump_clock: Any) -> None:
    async def call(ctx: AgentContext) -> float:
        await getattr(ctx, verb)("clerk", "?")
        return trio.current_time() - start

    async with pool_of(2) as pool:
        await pool.spawn(slow_restart())
        await trio.sleep(1)
        start = trio.current_time()
        await pool.send("clerk", "crash")
        await trio.sleep(1)
        callers = await pool.fan_out([call] * 2)
        assert [await caller.result() for caller in callers] == [3, 3]


async def test_a_message_that_waits_for_room_goes_to_the_next_life(autojump_clock: Any) -> None:
    got: list[str] = []

    async def busy(ctx: AgentContext) -> None:
        await trio.sleep(2)
        if not got:
            got.append("the first life takes none")
            raise ValueError("crashed")
        async for message in ctx.inbox:
            got.append(message.content)

    async with open_agent_pool(max_concurrent=2, inbox_capacity=1) as pool:
        await pool.spawn(Supervisor([busy], max_restarts=1, within=60))
        await trio.sleep(1)
        await pool.send("busy", "lost with the first life")
        await pool.send("busy", "waited for room")
    assert got == ["the first life takes none", "waited for room"]


# -- when it does not come ---------------------------------------------------------------------


async def test_the_callers_scope_bounds_the_wait(autojump_clock: Any) -> None:
    async def impatient(ctx: AgentContext, seconds: float) -> str:
        with trio.move_on_after(seconds):
            await ctx.ask("clerk", "?")
            return "answered"
        return "gave up"

    async with pool_of(2) as pool:
        await pool.spawn(slow_restart())
        await trio.sleep(1)
        await pool.send("clerk", "crash")
        await trio.sleep(1)
        clients = [await pool.spawn(impatient, seconds) for seconds in (0.5, 1, 5)]
        assert [await client.result() for client in clients] == ["gave up", "gave up", "answered"]


async def test_who_waits_is_told_when_the_supervisor_gives_up(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        supervisor = await pool.spawn(slow_restart())
        await trio.sleep(1)
        await pool.send("clerk", "crash")
        await trio.sleep(1)
        client = await pool.spawn(ask, "clerk")
        await trio.sleep(0.5)
        now = trio.current_time()
        supervisor.abort("enough")
        outcome = await client.wait()
        assert trio.current_time() == now
        with pytest.raises(UnknownAgentError, match="no live agent is called 'clerk'"):
            raise outcome.error  # type: ignore[union-attr]


async def test_who_asked_too_broken_a_service_is_told(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        supervisor = await pool.spawn(Supervisor([clerk], max_restarts=3))
        with pytest.raises(UnknownAgentError, match="no live agent is called 'clerk'"):
            await pool.ask("clerk", "crash")
        assert (await supervisor.wait()).agent_id == 1


@pytest.mark.parametrize("mode", ["temporary", "transient"])
async def test_nobody_waits_for_a_child_that_does_not_come_back(mode: Any) -> None:
    async def once(ctx: AgentContext) -> None:
        await ctx.receive()

    async with pool_of(2) as pool:
        await pool.spawn(Supervisor([ChildSpec(once, mode=mode), ChildSpec(clerk)]))
        await pool.ask("clerk", "?")
        with pytest.raises(UnknownAgentError, match="no live agent is called 'once'"):
            await pool.ask("once", "?")


async def test_a_child_that_comes_back_with_its_sibling_is_waited_for_again(autojump_clock: Any) -> None:
    async def once(ctx: AgentContext) -> None:
        ctx.reply(await ctx.receive(), ctx.id)

    async def for_good(ctx: AgentContext) -> None:
        async for _ in ctx.inbox:
            pass

    children = [
        ChildSpec(slow_to_stop),
        ChildSpec(once, mode="transient"),
        ChildSpec(for_good, mode="temporary"),
        ChildSpec(clerk),
    ]
    async with pool_of(2) as pool:
        await pool.spawn(Supervisor(children, strategy="one_for_all", max_restarts=3, within=60))
        assert await pool.ask("once", "?") == 3
        await pool.send("clerk", "crash")
        await trio.sleep(1)
        with pytest.raises(UnknownAgentError, match="called 'for_good'"):
            await pool.send("for_good", "!")
        assert await pool.ask("once", "?") > 5


async def test_one_supervisor_of_two_is_enough(autojump_clock: Any) -> None:
    async with pool_of(4) as pool:
        others = await pool.spawn(Supervisor([ChildSpec(slow_to_stop, name="clerk")]))
        await trio.sleep(1)
        others.abort("enough")
        await pool.spawn(slow_restart())
        await others.wait()
        await pool.send("clerk", "crash")
        await trio.sleep(1)
        assert await pool.ask("clerk", "?") > 0


async def test_an_agent_that_is_stopped_does_not_wait_for_one_that_is_started_after_its_end(
    autojump_clock: Any,
) -> None:
    """The supervisor waits for its end, before it starts the one that the cleanup asks for."""
    told = []

    async def asks_in_its_cleanup(ctx: AgentContext) -> None:
        try:
            async for _ in ctx.inbox:
                pass
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await ctx.ask("clerk", "?")
                except UnknownAgentError as error:
                    told.append(str(error))

    children = [ChildSpec(clerk), ChildSpec(asks_in_its_cleanup)]
    async with pool_of(2) as pool:
        await pool.spawn(Supervisor(children, strategy="one_for_all", max_restarts=3))
        await pool.send("clerk", "crash")
        await trio.sleep(1)
        assert told == ["no live agent is called 'clerk'"]
        assert await pool.ask("clerk", "?") == 4


async def test_who_waits_is_told_when_the_pool_drains(autojump_clock: Any) -> None:
    with pytest.raises(UnhandledAgentErrors):
        async with pool_of(2) as pool:
            await pool.spawn(slow_restart())
            await trio.sleep(1)
            await pool.send("clerk", "crash")
            await trio.sleep(1)
            client = await pool.spawn(ask, "clerk")
            await pool.drain()
            outcome = await client.wait()
            with pytest.raises(UnknownAgentError, match="no live agent is called 'clerk'"):
                raise outcome.error  # type: ignore[union-attr]


async def test_the_end_of_the_work_does_not_wait_for_names(autojump_clock: Any) -> None:
    async def late(ctx: AgentContext) -> None:
        await trio.sleep(10)
        await ctx.ask("clerk", "?")

    async with pool_of(1) as pool:
        await pool.spawn(Supervisor([clerk]))
        await pool.spawn(late)
    assert trio.current_time() == 10


# -- supervisors below something that starts them again --------------------------------------------


def below(supervisor: Supervisor, **options: Any) -> Supervisor:
    return Supervisor([ChildSpec(supervisor, **options)], max_restarts=3, within=60, name="above")


async def test_a_question_outlives_the_supervisor_of_the_service_below_another_one() -> None:
    """One crash too many for the inner one is a restart for the outer one."""
    inner = Supervisor([ChildSpec(crashing(2), name="clerk")], max_restarts=0)
    async with pool_of(2) as pool:
        await pool.spawn(below(inner))
        client = await pool.spawn(ask, "clerk")
        assert await pool.ask("clerk", "hello") == "hello, says 8"
        assert await client.result() == "?, says 8"


async def test_a_question_outlives_supervisors_three_deep() -> None:
    inner = Supervisor([ChildSpec(crashing(3), name="clerk")], max_restarts=0)
    middle = Supervisor([inner], max_restarts=1, within=60)
    async with pool_of(1) as pool:
        await pool.spawn(below(middle))
        assert (await pool.ask("clerk", "hello")).startswith("hello")


async def test_a_question_outlives_a_supervisor_that_a_policy_starts_again(autojump_clock: Any) -> None:
    inner = Supervisor([ChildSpec(crashing(2), name="clerk")], max_restarts=0)
    policy = RestartPolicy("transient", max_restarts=3, within=60, backoff=1)
    async with pool_of(2) as pool:
        handle = await pool.spawn(inner, restart=policy)
        assert await pool.ask("clerk", "hello") == "hello, says 4"
        assert trio.current_time() == 3
    assert handle.outcome is not None
    assert handle.outcome.restarts == 2


async def test_a_question_outlives_a_chain_whose_top_a_policy_starts_again(autojump_clock: Any) -> None:
    inner = Supervisor([ChildSpec(crashing(1), name="clerk"), ChildSpec(clerk, name="other")], max_restarts=0)
    middle = Supervisor([ChildSpec(inner), ChildSpec(slow_to_stop)], max_restarts=0)
    policy = RestartPolicy("transient", max_restarts=3, within=60, backoff=1)
    async with pool_of(2) as pool:
        await pool.spawn(middle, restart=policy)
        assert await pool.ask("other", "?") == 5
        clients = await pool.fan_out([lambda ctx: ask(ctx, "clerk")] * 3)
        assert len({await client.result() for client in clients}) == 1
        # What the first lives left is not kept beside what the second ones keep.
        await pool.send("other", "crash")
        assert (await pool.ask("clerk", "?")).startswith("?, says")


async def test_children_below_can_be_asked_before_their_supervisor_was_started() -> None:
    first = []

    async def client(ctx: AgentContext) -> None:
        first.append(await ctx.ask("clerk", "?"))

    inner = Supervisor([clerk])
    async with pool_of(1) as pool:
        await pool.spawn(Supervisor([ChildSpec(client, mode="transient"), inner]))
        assert await pool.ask("clerk", "?") == 4
    assert first == [4]


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_children_below_are_waited_for_while_a_sibling_is_restarted(
    strategy: Any, autojump_clock: Any
) -> None:
    inner = Supervisor([slow_to_stop, clerk])
    children = [ChildSpec(clerk, name="sibling"), ChildSpec(inner)]
    async with pool_of(2) as pool:
        await pool.spawn(Supervisor(children, strategy=strategy, max_restarts=3, within=60))
        first = await pool.ask("clerk", "?")
        await pool.send("sibling", "crash")
        await trio.sleep(1)
        assert await pool.ask("clerk", "?") > first


@pytest.mark.parametrize("mode", ["temporary", "transient"])
async def test_nobody_waits_for_a_child_below_that_does_not_come_back(mode: Any) -> None:
    """The outer supervisor would start it again only after an end of the inner one."""

    async def once(ctx: AgentContext) -> None:
        await ctx.receive()

    inner = Supervisor([ChildSpec(once, mode=mode), ChildSpec(clerk)])
    async with pool_of(2) as pool:
        await pool.spawn(below(inner))
        await pool.ask("clerk", "?")
        with pytest.raises(UnknownAgentError, match="no live agent is called 'once'"):
            await pool.ask("once", "?")


@pytest.mark.parametrize("stopped", ["restarts", "temporary", "aborted", "drained"])
async def test_who_waits_for_a_child_below_is_told_when_it_does_not_come(
    stopped: str, autojump_clock: Any
) -> None:
    """Whoever gives up, and wherever in the tree."""
    mode: Any = "temporary" if stopped == "temporary" else "permanent"
    inner = Supervisor([ChildSpec(clerk), ChildSpec(slow_to_stop)], max_restarts=0)
    with contextlib.suppress(UnhandledAgentErrors):
        async with pool_of(3) as pool:
            outer = await pool.spawn(Supervisor([ChildSpec(inner, mode=mode)], max_restarts=0))
            await pool.ask("clerk", "?")
            await pool.send("clerk", "crash")
            await trio.sleep(1)  # the inner one waits for its slow child, for two seconds more
            client = await pool.spawn(ask, "clerk")
            await trio.sleep(1)
            assert client.outcome is None
            if stopped == "aborted":
                outer.abort("enough")
            elif stopped == "drained":
                await pool.drain()
            outcome = await client.wait()
            assert trio.current_time() == (2 if stopped == "aborted" else 3)
            with pytest.raises(UnknownAgentError, match="no live agent is called 'clerk'"):
                raise outcome.error  # type: ignore[union-attr]


async def test_nobody_waits_for_the_children_of_a_supervisor_that_could_not_be_called() -> None:
    async with pool_of(1) as pool:
        supervisor: Any = Supervisor([clerk])
        handle = await pool.spawn(supervisor, "an argument too many")
        with pytest.raises(UnknownAgentError, match="no live agent is called 'clerk'"):
            await pool.ask("clerk", "?")
        assert "positional arguments" in str((await handle.wait()).error)


# -- models ------------------------------------------------------------------------------------


def model_that_uses(*calls: ToolCall) -> tuple[ModelAgent[str], ScriptedDriver]:
    """A model that makes calls one after the other, and answers with the result of the last one."""
    manifest = AgentManifest(name="model", capabilities=["messaging"])
    steps = iter(calls)

    def answer(request: CompletionRequest) -> Completion | str:
        for call in steps:
            return Completion(tool_calls=[call])
        last = request.messages[-1]
        assert isinstance(last, ToolMessage)
        return last.result.content

    return ModelAgent(manifest), ScriptedDriver(answer)


async def test_a_model_sends_by_name_to_the_next_life(autojump_clock: Any) -> None:
    got = []

    async def desk(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            got.append((message.content, trio.current_time()))
            if message.content == "crash":
                raise ValueError("crashed")

    children = [ChildSpec(desk), ChildSpec(slow_to_stop)]
    model, driver = model_that_uses(ToolCall("1", "send_message", {"to": "desk", "content": "hello"}))
    async with open_agent_pool(driver, max_concurrent=2) as pool:
        await pool.spawn(Supervisor(children, strategy="one_for_all", max_restarts=3, within=60))
        await pool.send("desk", "crash")
        await trio.sleep(1)
        answer = await (await pool.spawn(model, "Say hello.")).result()
    assert answer.text == "sent to desk"
    assert got == [("crash", 0), ("hello", 3)]


async def test_a_model_that_listens_hears_from_who_waits_for_a_name(autojump_clock: Any) -> None:
    """Who waits for a name may write once it has come: the model in `receive_message` is told nothing."""

    async def teller(ctx: AgentContext) -> None:
        await ctx.send("model", f"the clerk is {await ctx.ask('clerk', '?')}")

    model, driver = model_that_uses(ToolCall("1", "receive_message", {}))
    async with open_agent_pool(driver, max_concurrent=2) as pool:
        await pool.spawn(slow_restart())
        await trio.sleep(1)
        await pool.send("clerk", "crash")
        await trio.sleep(1)
        handle = await pool.spawn(model, "Listen.")
        await pool.spawn(teller)
        assert "the clerk is 6" in (await handle.result()).text
        assert trio.current_time() == 4


# -- struck at any step ------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
@pytest.mark.parametrize("slots", [1, 2])
def test_callers_by_name_that_are_struck_at_any_step_leave_nothing_behind(strategy: Any, slots: int) -> None:
    async def client(ctx: AgentContext) -> None:
        for _ in range(2):
            with trio.move_on_after(20):
                await ctx.ask("clerk", "?")
        await ctx.send("clerk", "!")

    async def main() -> None:
        children = [
            ChildSpec(client, mode="transient"),
            ChildSpec(crashing(2), name="clerk"),
            ChildSpec(slow_to_stop, mode="transient"),
        ]
        async with open_agent_pool(max_concurrent=slots, inbox_capacity=1) as pool:
            await pool.spawn(Supervisor(children, strategy=strategy, max_restarts=4, within=60))
            await pool.spawn(client)

    simulate(main)
    sweep = cancel_everywhere(main, expected=(ValueError, UnknownAgentError))
    assert sweep.runs > 100


@pytest.mark.parametrize("seed", range(60))
def test_in_any_order_every_client_gets_its_answer(seed: int) -> None:
    async def client(ctx: AgentContext) -> None:
        await trio.sleep(0)
        await ctx.ask("clerk", "?")

    async def main() -> None:
        service = Supervisor([ChildSpec(crashing(3), name="clerk")], max_restarts=5)
        async with open_agent_pool(max_concurrent=2) as pool:
            await pool.spawn(service)
            clients = await pool.fan_out([client] * 5)
            for one in clients:
                await one.result()

    simulate(main, seed=seed)


@pytest.mark.parametrize("seed", range(100))
def test_random_services_that_ask_each_other_by_name_come_to_an_end(seed: int) -> None:
    """Services fail, end, are late, ask each other; supervisors give up; pools are aborted and drain."""
    names = ["a", "b", "c"]

    async def ask_somebody(ctx: AgentContext, dice: Random) -> None:
        with trio.move_on_after(20 * dice.random()):
            try:
                await ctx.ask(dice.choice(names), "?")
                await ctx.send(dice.choice(names), "!")
            except (UnknownAgentError, DeadlockError):
                pass

    async def service(ctx: AgentContext, dice: Random) -> None:
        async for message in ctx.inbox:
            match dice.randrange(10):
                case 0 | 1:
                    raise ValueError("crashed")
                case 2:
                    return
                case 3:
                    await ask_somebody(ctx, dice)
                case 4:
                    await trio.sleep(dice.random())
            ctx.reply(message, "answer")

    async def client(ctx: AgentContext, dice: Random) -> None:
        for _ in range(3):
            await ask_somebody(ctx, dice)

    def supervisor(dice: Random) -> Supervisor:
        modes: list[Any] = ["permanent", "transient", "temporary"]
        strategies: list[Any] = ["one_for_one", "one_for_all", "rest_for_one"]
        children = [ChildSpec(service, (dice,), name=name, mode=dice.choice(modes)) for name in names]
        return Supervisor(
            children, strategy=dice.choice(strategies), max_restarts=dice.randrange(12), within=1000
        )

    async def main(sim: SimulationContext) -> None:
        dice = sim.random
        with contextlib.suppress(ExceptionGroup):  # supervisors that gave up
            async with open_agent_pool(max_concurrent=dice.randrange(1, 4), inbox_capacity=2) as pool:
                await pool.spawn(supervisor(dice))
                for _ in range(4):
                    await pool.spawn(client, dice)
                await trio.sleep(dice.random())
                match dice.randrange(6):
                    case 0:
                        pool.abort_all("enough")
                    case 1:
                        await pool.drain(grace=5)
        books = pool.router.statistics()
        assert books.sent == books.received + books.dead_letters
        assert pool.statistics().spawned == pool.statistics().ended
        assert trio.current_time() < 1000

    simulate(main, seed=seed)
