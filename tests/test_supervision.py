"""Supervisors follow Erlang/OTP's rules; restart policies start an agent afresh in its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from agentpool import (
    AgentContext,
    AgentFinished,
    AgentHandle,
    AgentRestarted,
    AgentTimeoutError,
    Backoff,
    ChildSpec,
    Completed,
    Failed,
    PoolClosedError,
    PoolLimitError,
    PoolLimits,
    RestartLimitError,
    RestartPolicy,
    Supervisor,
    UnknownAgentError,
    open_agent_pool,
)
from agentpool._core.restart import Intensity
from agentpool._core.supervision import Child, Plan, comes_back, plan_restart
from agentpool.testing import cancel_everywhere, simulate

Path = tuple[int, ...]
Mode = Literal["permanent", "transient", "temporary"]
Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
STRATEGIES: list[Strategy] = ["one_for_one", "one_for_all", "rest_for_one"]
MODES: list[Mode] = ["permanent", "transient", "temporary"]

# -- a model of OTP's supervisor --------------------------------------------------------------


@attrs.frozen
class Leaf:
    mode: Mode


@attrs.frozen
class Node:
    mode: Mode
    strategy: Strategy
    max_restarts: int
    within: float
    children: tuple[Leaf | Node, ...]


@attrs.define
class Log:
    """What happened to the children of each supervisor, and when."""

    of: defaultdict[Path, list[tuple[str, int, float]]] = attrs.field(factory=lambda: defaultdict(list))

    def add(self, kind: str, path: Path, time: float) -> None:
        self.of[path[:-1]].append((kind, path[-1], time))


class Model:
    """A supervisor as in stdlib's supervisor.erl, which ends when no child runs."""

    def __init__(self, node: Node, path: Path, log: Log, above: Model | None) -> None:
        self.node, self.path, self.log, self.above = node, path, log, above
        self.alive: dict[int, Model | None] = {}
        self.deleted: set[int] = set()
        self.recent: list[float] = []
        self.restarts = 0
        self.result: str | None = None

    def start(self, now: float) -> None:
        for i in range(len(self.node.children)):
            self.start_child(i, now)

    def start_child(self, i: int, now: float) -> None:
        spec = self.node.children[i]
        self.log.add("start", (*self.path, i), now)
        self.alive[i] = None
        if isinstance(spec, Node):
            below = self.alive[i] = Model(spec, (*self.path, i), self.log, self)
            below.start(now)

    def stop_child(self, i: int, now: float) -> None:
        below = self.alive.pop(i)
        if below is not None:
            below.terminate(now)
        self.log.add("stop", (*self.path, i), now)
        if self.node.children[i].mode == "temporary":
            self.deleted.add(i)

    def terminate(self, now: float) -> None:
        for i in sorted(self.alive, reverse=True):
            self.stop_child(i, now)

    def child_ended(self, i: int, *, well: bool, now: float) -> None:
        del self.alive[i]
        self.log.add("stop", (*self.path, i), now)
        mode = self.node.children[i].mode
        if mode == "temporary":
            self.deleted.add(i)
        elif mode == "permanent" or not well:
            self.recent = [now, *(then for then in self.recent if now <= then + self.node.within)]
            if len(self.recent) > self.node.max_restarts:
                self.terminate(now)
                self.end("gave up", well=False, now=now)
                return
            self.restarts += 1
            self.restart(i, now)
        if not self.alive:
            self.end("returned", well=True, now=now)

    def restart(self, i: int, now: float) -> None:
        affected = {
            "one_for_one": [i],
            "one_for_all": list(range(len(self.node.children))),
            "rest_for_one": [j for j in range(len(self.node.children)) if j >= i],
        }[self.node.strategy]
        for j in reversed(affected):
            if j in self.alive:
                self.stop_child(j, now)
        for j in affected:
            if j not in self.deleted:
                self.start_child(j, now)

    def end(self, result: str, *, well: bool, now: float) -> None:
        self.result = result
        if self.above is not None:
            self.above.child_ended(self.path[-1], well=well, now=now)

    def leaves(self) -> Iterator[tuple[Path, Model]]:
        for i, below in sorted(self.alive.items()):
            if below is None:
                yield (*self.path, i), self
            else:
                yield from below.leaves()


Happening = tuple[float, int, str]


def run_model(root: Node, happenings: list[Happening]) -> tuple[Log, Model, list[tuple[float, Path, str]]]:
    """Tell what OTP would do, and which child each happening was about."""
    log = Log()
    model = Model(root, (), log, None)
    model.start(0.0)
    told = []
    now = 0.0
    for gap, choice, how in happenings:
        now += gap
        leaves = list(model.leaves())
        if not leaves:
            break
        path, owner = leaves[choice % len(leaves)]
        told.append((now, path, how))
        owner.child_ended(path[-1], well=how == "return", now=now)
    if model.result is None:
        model.terminate(now + 1)
    return log, model, told


# -- the same with agents ---------------------------------------------------------------------


def agent_of(spec: Leaf | Node, path: Path, log: Log, ids: dict[Path, int]) -> Callable[..., Awaitable[Any]]:
    body = supervisor_of(spec, path, log, ids) if isinstance(spec, Node) else worker

    async def logged(ctx: AgentContext) -> Any:
        if path:
            log.add("start", path, trio.current_time())
        ids[path] = ctx.id
        try:
            return await body(ctx)
        finally:
            if path:
                log.add("stop", path, trio.current_time())

    return logged


async def worker(ctx: AgentContext) -> None:
    order = (await ctx.receive()).content
    if order == "raise":
        raise ValueError("as told")
    if order == "abort":
        AgentHandle(ctx._agent).abort("as told")
        await trio.sleep_forever()


def supervisor_of(node: Node, path: Path, log: Log, ids: dict[Path, int]) -> Supervisor:
    return Supervisor(
        [
            ChildSpec(agent_of(child, (*path, i), log, ids), mode=child.mode)
            for i, child in enumerate(node.children)
        ],
        strategy=node.strategy,
        max_restarts=node.max_restarts,
        within=node.within,
    )


async def run_agents(
    root: Node, slots: int, told: list[tuple[float, Path, str]]
) -> tuple[Log, Completed[int] | Failed | Any]:
    log = Log()
    ids: dict[Path, int] = {}
    async with open_agent_pool(max_concurrent=slots) as pool:
        handle = await pool.spawn(agent_of(root, (), log, ids))
        for time, path, how in told:
            await trio.sleep(time - trio.current_time())
            await pool.send(ids[path], how)
        await trio.sleep(1)
        handle.abort("the end")
        return log, await handle.wait()


def leaves() -> st.SearchStrategy[Leaf]:
    return st.builds(Leaf, st.sampled_from(MODES))


def nodes(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Node]:
    return st.builds(
        Node,
        st.sampled_from(MODES),
        st.sampled_from(STRATEGIES),
        st.integers(0, 4),
        st.sampled_from([1.0, 2.0, 5.0]),
        st.lists(children, min_size=1, max_size=4).map(tuple),
    )


# Times are halves, so that the borders of periods are met exactly.
HAPPENINGS = st.lists(
    st.tuples(
        st.sampled_from([0.5, 1.0, 2.0, 2.5]),
        st.integers(0, 11),
        st.sampled_from(["return", "raise", "raise", "abort"]),
    ),
    max_size=10,
)


def assert_as_in_otp(root: Node, slots: int, happenings: list[Happening]) -> None:
    expected, model, told = run_model(root, happenings)
    log, outcome = trio.run(run_agents, root, slots, told, clock=MockClock(autojump_threshold=0))
    assert log.of == expected.of
    match model.result:
        case "returned":
            assert outcome.unwrap() == model.restarts
        case "gave up":
            assert isinstance(outcome.error, RestartLimitError)
        case _:
            assert outcome.reason == "the end"


@settings(max_examples=150, deadline=None)
@given(nodes(leaves()), st.integers(1, 5), HAPPENINGS)
def test_a_supervisor_does_what_otp_does(root: Node, slots: int, happenings: list[Happening]) -> None:
    assert_as_in_otp(root, slots, happenings)


@settings(max_examples=100, deadline=None)
@given(nodes(st.one_of(leaves(), nodes(st.one_of(leaves(), nodes(leaves()))))), st.integers(1, 5), HAPPENINGS)
def test_supervisors_of_supervisors_do_what_otp_does(
    root: Node, slots: int, happenings: list[Happening]
) -> None:
    assert_as_in_otp(root, slots, happenings)


# -- the rules, one by one --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "well", "back"),
    [
        ("permanent", True, True),
        ("permanent", False, True),
        ("transient", True, False),
        ("transient", False, True),
        ("temporary", True, False),
        ("temporary", False, False),
    ],
)
def test_the_mode_says_whether_a_child_comes_back(mode: Mode, well: bool, back: bool) -> None:
    assert comes_back(mode, ended_well=well) is back


@pytest.mark.parametrize(
    ("strategy", "plan"),
    [
        ("one_for_one", Plan((), (1,))),
        ("one_for_all", Plan((4, 2), (0, 1, 2, 3))),
        ("rest_for_one", Plan((4, 2), (1, 2, 3))),
    ],
)
def test_the_strategy_says_who_shares_the_fate_of_a_child(strategy: Strategy, plan: Plan) -> None:
    children = [
        Child("transient", running=False),
        Child("permanent", running=False),  # the one that ended
        Child("permanent"),
        Child("transient", running=False),
        Child("temporary"),
    ]
    assert plan_restart(strategy, children, 1) == plan


def test_a_restart_at_the_very_end_of_the_period_still_counts() -> None:
    once = Intensity(1, 5.0).restart(10.0)
    assert once is not None
    assert once.restart(15.0) is None
    later = once.restart(15.5)
    assert later is not None
    assert later.recent == (15.5,)


# -- supervisors, seen from outside -----------------------------------------------------------


async def server(ctx: AgentContext) -> int:
    """Answer questions with the number of those before; break at a bad one."""
    count = 0
    async for message in ctx.inbox:
        if message.content == "break":
            raise ValueError("broken")
        ctx.reply(message, count)
        count += 1
    return count


async def test_supervised_servers_go_home_when_the_block_of_the_pool_has_ended(
    autojump_clock: MockClock,
) -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        handle = await pool.spawn(Supervisor([ChildSpec(server, name="s"), ChildSpec(server, name="t")]))
        await trio.sleep(1)
        await pool.send(pool.find("s"), "break")
        await trio.sleep(1)
        assert await pool.ask(pool.find("s"), "?") == 0
        assert await pool.ask(pool.find("s"), "?") == 1
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == 1


async def test_a_server_that_fails_after_the_block_has_ended_still_comes_back(
    autojump_clock: MockClock,
) -> None:
    async def client(ctx: AgentContext) -> int:
        with pytest.raises(UnknownAgentError):
            await ctx.ask(ctx.find("server"), "break")
        await trio.sleep(1)
        return int(await ctx.ask(ctx.find("server"), "?"))

    async with open_agent_pool(max_concurrent=2) as pool:
        supervisor = await pool.spawn(Supervisor([server]))
        asker = await pool.spawn(client)
    assert asker.outcome is not None
    assert asker.outcome.unwrap() == 0
    assert supervisor.outcome is not None
    assert supervisor.outcome.unwrap() == 1


async def test_nobody_comes_back_while_the_pool_drains_and_the_failure_is_told(
    autojump_clock: MockClock,
) -> None:
    finished = []

    async def slow(ctx: AgentContext) -> None:
        await trio.sleep(3)
        finished.append(ctx.name)

    async def fails(ctx: AgentContext) -> None:
        await trio.sleep(1)
        raise ValueError("while draining")

    async with open_agent_pool(max_concurrent=4) as pool:
        handle = await pool.spawn(Supervisor([slow, fails, fails], strategy="one_for_all"))
        await trio.sleep(0.5)
        assert await pool.drain() == []
        error = handle.outcome and handle.outcome.error  # type: ignore[union-attr]
    assert finished == ["slow"]  # it was at work, and was not stopped for its sibling's sake
    assert isinstance(error, PoolClosedError)
    assert "fails" in str(error)
    assert repr(error.__cause__) == "ValueError('while draining')"


async def test_an_aborted_child_is_not_missed_while_the_pool_drains(autojump_clock: MockClock) -> None:
    async def aborts_itself(ctx: AgentContext) -> None:
        await trio.sleep(1)
        AgentHandle(ctx._agent).abort()
        await trio.sleep_forever()

    async with open_agent_pool(max_concurrent=4) as pool:
        handle = await pool.spawn(Supervisor([aborts_itself]))
        await trio.sleep(0.5)
        await pool.drain()
        assert await handle.result() == 0


async def test_a_pool_that_drains_in_the_middle_of_a_restart_gets_no_more_children(
    autojump_clock: MockClock,
) -> None:
    starts = []

    async def slow_to_stop(ctx: AgentContext) -> None:
        starts.append(ctx.name)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    async def fails(ctx: AgentContext) -> None:
        starts.append(ctx.name)
        await trio.sleep(1)
        raise ValueError("once")

    async with open_agent_pool(max_concurrent=4) as pool:
        handle = await pool.spawn(Supervisor([slow_to_stop, fails], strategy="one_for_all"))
        await trio.sleep(1.5)
        await pool.drain()
        assert isinstance(handle.outcome, Failed)
        assert isinstance(handle.outcome.error, PoolClosedError)
    assert starts == ["slow_to_stop", "fails"]


def logging(log: list[str], name: str, cleanup: float = 0.0) -> ChildSpec:
    async def child(ctx: AgentContext) -> None:
        log.append(f"{name} starts")
        try:
            await ctx.receive()
            raise ValueError(name)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(cleanup)
            log.append(f"{name} ends at {trio.current_time():g}")

    return ChildSpec(child, name=name)


async def test_an_aborted_supervisor_stops_its_children_one_by_one_the_last_started_first(
    autojump_clock: MockClock,
) -> None:
    log: list[str] = []
    children = [logging(log, "a"), logging(log, "b", cleanup=2), logging(log, "c", cleanup=1)]
    async with open_agent_pool(max_concurrent=2) as pool:
        handle = await pool.spawn(Supervisor(children))
        async with pool.events() as events:
            await trio.sleep(1)
            handle.abort("enough")
            outcome = await handle.wait()
            ended = [event async for event in _up_to(events, 4) if isinstance(event, AgentFinished)]
    assert outcome.reason == "enough"  # type: ignore[union-attr]
    assert log == ["a starts", "b starts", "c starts", "c ends at 2", "b ends at 4", "a ends at 4"]
    assert [(event.outcome.name, event.outcome.reason) for event in ended] == [  # type: ignore[union-attr]
        ("c", "enough"),
        ("b", "enough"),
        ("a", "enough"),
        ("supervisor", "enough"),
    ]


async def _up_to(events: Any, count: int) -> Any:
    async for event in events:
        yield event
        count -= isinstance(event, AgentFinished)
        if not count:
            return


async def test_a_child_that_is_slow_to_stop_holds_up_the_others_for_five_seconds(
    autojump_clock: MockClock,
) -> None:
    log: list[str] = []
    async with open_agent_pool(max_concurrent=2) as pool:
        handle = await pool.spawn(Supervisor([logging(log, "a"), logging(log, "b", cleanup=8)]))
        await trio.sleep(1)
        handle.abort()
        await handle.wait()
    assert log[2:] == ["a ends at 6", "b ends at 9"]


async def test_two_lives_of_a_child_never_overlap(autojump_clock: MockClock) -> None:
    log: list[str] = []
    children = [logging(log, "a"), logging(log, "b", cleanup=8)]
    async with open_agent_pool(max_concurrent=2) as pool:
        await pool.spawn(Supervisor(children, strategy="one_for_all"))
        await trio.sleep(1)
        await pool.send(pool.find("a"), "break")
        await trio.sleep(20)
        pool.abort_all()
    assert log[2:6] == ["a ends at 1", "b ends at 9", "a starts", "b starts"]


async def test_an_abort_in_the_middle_of_a_restart_goes_on_where_that_stood(
    autojump_clock: MockClock,
) -> None:
    log: list[str] = []
    children = [logging(log, "a"), logging(log, "b"), logging(log, "c", cleanup=2), logging(log, "d")]
    async with open_agent_pool(max_concurrent=2) as pool:
        handle = await pool.spawn(Supervisor(children, strategy="rest_for_one"))
        await trio.sleep(1)
        await pool.send(pool.find("b"), "break")
        await trio.sleep(1)  # c is being stopped
        handle.abort()
        await handle.wait()
    assert log[4:] == ["b ends at 1", "d ends at 1", "c ends at 3", "a ends at 3"]


async def test_a_cancelled_scope_around_the_pool_ends_supervisor_and_children(
    autojump_clock: MockClock,
) -> None:
    log: list[str] = []
    with trio.move_on_after(1) as scope:
        async with open_agent_pool(max_concurrent=2) as pool:
            await pool.spawn(Supervisor([logging(log, "a"), logging(log, "b")]))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert sorted(log[2:]) == ["a ends at 1", "b ends at 1"]


async def test_a_child_that_cannot_be_started_stops_those_before_it(autojump_clock: MockClock) -> None:
    log: list[str] = []
    children = [logging(log, "a"), logging(log, "b", cleanup=1), logging(log, "c")]
    async with open_agent_pool(max_concurrent=2, limits=PoolLimits(descendants=2)) as pool:
        handle = await pool.spawn(Supervisor(children))
        outcome = await handle.wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, PoolLimitError)
    assert log[-2:] == ["b ends at 1", "a ends at 1"]


async def test_children_that_fail_at_their_first_step_bring_the_supervisor_down_at_once(
    autojump_clock: MockClock,
) -> None:
    lives = []

    async def stillborn(ctx: AgentContext) -> None:
        lives.append(ctx.id)
        raise OSError("no such place")

    async with open_agent_pool(max_concurrent=1) as pool:
        outcome = await (await pool.spawn(Supervisor([stillborn, server], max_restarts=3))).wait()
        assert trio.current_time() == 0
    assert isinstance(outcome, Failed)
    assert str(outcome.error) == "child stillborn ended again: more than 3 restarts within 5 seconds"
    assert isinstance(outcome.error.__cause__, OSError)
    assert len(lives) == 4


async def test_too_many_good_ends_of_a_permanent_child_are_too_many_as_well(
    autojump_clock: MockClock,
) -> None:
    async def quick(ctx: AgentContext) -> None:
        pass

    async with open_agent_pool(max_concurrent=1) as pool:
        outcome = await (await pool.spawn(Supervisor([quick]))).wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, RestartLimitError)
    assert outcome.error.__cause__ is None


async def test_children_without_a_name_are_called_like_their_agents(autojump_clock: MockClock) -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        inner = Supervisor([server], name="inner")
        handle = await pool.spawn(Supervisor([inner, ChildSpec(worker, name="w")]))
        await trio.sleep(1)
        assert handle.name == "supervisor"
        assert {pool.find(name) for name in ("inner", "w", "server")} == {2, 3, 4}
        pool.abort_all()


async def test_two_children_with_one_name_are_told_apart_by_their_ids_only(autojump_clock: MockClock) -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        await pool.spawn(Supervisor([server, server]))
        await trio.sleep(1)
        with pytest.raises(UnknownAgentError, match="2 live agents are called 'server'"):
            pool.find("server")


async def test_a_child_gets_its_arguments_at_each_start_and_its_time_limit(autojump_clock: MockClock) -> None:
    seen = []

    async def child(ctx: AgentContext, *args: Any) -> None:
        seen.append((*args, trio.current_time()))
        await trio.sleep_forever()

    async with open_agent_pool(max_concurrent=1) as pool:
        spec = ChildSpec(child, ("x", 1), mode="on_failure", timeout=2)
        outcome = await (await pool.spawn(Supervisor([spec]))).wait()
    assert seen == [("x", 1, 0), ("x", 1, 2)]
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error.__cause__, TimeoutError)


async def test_a_child_that_waits_for_its_supervisor_can_be_stopped(autojump_clock: MockClock) -> None:
    async def asks_above(ctx: AgentContext) -> None:
        await ctx.ask(ctx.parent_id, "may I?")

    async def fails_once(ctx: AgentContext) -> None:
        await trio.sleep(1)
        if ctx.id == 3:
            raise ValueError("once")

    async with open_agent_pool(max_concurrent=2) as pool:
        children = [ChildSpec(asks_above, mode="temporary"), ChildSpec(fails_once, mode="transient")]
        assert await (await pool.spawn(Supervisor(children, strategy="one_for_all"))).result() == 1


async def test_a_supervisor_may_itself_be_restarted_by_a_policy(autojump_clock: MockClock) -> None:
    lives = []

    async def fails_twice(ctx: AgentContext) -> None:
        lives.append(ctx.parent_id)
        if len(lives) < 3:
            raise ValueError("again")

    async with open_agent_pool(max_concurrent=1) as pool:
        supervisor = Supervisor([ChildSpec(fails_twice, mode="transient")], max_restarts=0)
        handle = await pool.spawn(supervisor, restart=RestartPolicy(max_restarts=2))
        outcome = await handle.wait()
    assert (outcome.unwrap(), outcome.restarts, lives) == (0, 2, [1, 1, 1])


# -- at every step ----


async def breaks_once_and_cleans_up(ctx: AgentContext) -> None:
    try:
        async for message in ctx.inbox:
            if message.content == "break":
                raise ValueError("broken")
            ctx.reply(message, "fine")
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)


async def asks_around(ctx: AgentContext) -> None:
    await trio.sleep(1)
    for name, content in [("a", "?"), ("b", "break"), ("a", "?"), ("b", "?")]:
        try:
            await ctx.ask(ctx.find(name), content)
        except UnknownAgentError:
            await trio.sleep(3)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("slots", [2, 3])
def test_supervisors_that_are_struck_at_any_step_leave_nothing_behind(strategy: Strategy, slots: int) -> None:
    async def main() -> None:
        servers = [ChildSpec(breaks_once_and_cleans_up, name=name) for name in ("a", "b")]
        inner = Supervisor(servers, strategy=strategy, max_restarts=2, within=60)
        outer = Supervisor([ChildSpec(inner), ChildSpec(asks_around, mode="transient")])
        async with open_agent_pool(max_concurrent=slots) as pool:
            await pool.spawn(outer)

    first_end = simulate(main).log.of(AgentFinished)[0]
    assert first_end.outcome.name == "b"  # so that there is a restart to be struck
    sweep = cancel_everywhere(main, expected=(ValueError,))
    assert sweep.runs > 100


# -- restart policies -------------------------------------------------------------------------


def failing(times: int) -> Callable[[AgentContext], Awaitable[float]]:
    lives = []

    async def agent(ctx: AgentContext) -> float:
        lives.append(ctx.id)
        if len(lives) <= times:
            raise ValueError(f"failure {len(lives)}")
        return trio.current_time()

    return agent


async def test_a_policy_starts_the_agent_afresh_with_its_id_its_inbox_and_its_handle(
    autojump_clock: MockClock,
) -> None:
    lives = []

    async def agent(ctx: AgentContext) -> list[Any]:
        lives.append(ctx.id)
        message = await ctx.receive()
        if message.content == "break":
            raise ValueError("broken")
        return [message.content, ctx.receive_nowait().content]

    async with open_agent_pool(max_concurrent=1) as pool:
        async with pool.events() as events:
            handle = await pool.spawn(agent, restart=RestartPolicy())
            for content in ("break", "one", "two"):
                pool.send_nowait(handle.id, content)
            outcome = await handle.wait()
            restarted = [e async for e in _up_to(events, 1) if isinstance(e, AgentRestarted)]
    assert outcome.unwrap() == ["one", "two"]
    assert (outcome.restarts, outcome.agent_id, lives) == (1, handle.id, [1, 1])
    (event,) = restarted
    assert (event.agent_id, event.restarts) == (1, 1)
    assert isinstance(event.outcome, Failed)


@pytest.mark.parametrize(
    ("mode", "good", "bad"), [("permanent", 2, 2), ("transient", 0, 2), ("temporary", 0, 0)]
)
async def test_the_mode_of_a_policy_says_after_which_ends_it_restarts(
    mode: Mode, good: int, bad: int, autojump_clock: MockClock
) -> None:
    async def returns(ctx: AgentContext) -> None:
        pass

    async with open_agent_pool(max_concurrent=1) as pool:
        policy = RestartPolicy(mode, max_restarts=2)
        assert (await (await pool.spawn(returns, restart=policy)).wait()).restarts == good
        outcome = await (await pool.spawn(failing(9), restart=policy)).wait()
    assert outcome.restarts == bad
    assert isinstance(outcome, Failed)
    assert str(outcome.error) == f"failure {bad + 1}"  # the last failure is the one that stands


async def test_backoff_doubles_up_to_its_maximum_and_holds_no_slot(autojump_clock: MockClock) -> None:
    async def other(ctx: AgentContext) -> float:
        return trio.current_time()

    async with open_agent_pool(max_concurrent=1) as pool:
        policy = RestartPolicy(max_restarts=9, within=60, backoff=Backoff(1, maximum=3))
        handle = await pool.spawn(failing(4), restart=policy)
        await trio.sleep(0.5)
        assert await (await pool.spawn(other)).result() == 0.5
        assert await handle.result() == 1 + 2 + 3 + 3


async def test_jitter_is_drawn_from_the_seed_of_the_pool() -> None:
    async def main(seed: int) -> float:
        async with open_agent_pool(max_concurrent=1, seed=seed) as pool:
            policy = RestartPolicy(backoff=Backoff(10, jitter=0.5))
            return await (await pool.spawn(failing(1), restart=policy)).result()

    def run(seed: int) -> float:
        return trio.run(main, seed, clock=MockClock(autojump_threshold=0))

    times = await trio.to_thread.run_sync(lambda: [run(1), run(1), run(2)])
    assert times[0] == times[1] != times[2]
    assert all(5 <= time <= 10 for time in times)


async def test_who_asked_a_life_that_ended_is_told_and_later_questions_wait(
    autojump_clock: MockClock,
) -> None:
    async def breaks_once(ctx: AgentContext) -> None:
        question = await ctx.receive()
        if question.content == "break":
            await trio.sleep(1)
            raise ValueError("broken")
        ctx.reply(question, "fine")

    replies: dict[str, Any] = {}

    async def ask(ctx: AgentContext, to: int, content: str) -> None:
        try:
            replies[content] = await ctx.ask(to, content)
        except UnknownAgentError:
            replies[content] = "nobody"

    async with open_agent_pool(max_concurrent=3) as pool:
        handle = await pool.spawn(breaks_once, restart=RestartPolicy(backoff=1))
        await pool.spawn(ask, handle.id, "break")
        await trio.sleep(0.5)
        await pool.spawn(ask, handle.id, "well?")
    assert replies == {"break": "nobody", "well?": "fine"}


async def test_aborted_and_late_agents_are_not_restarted(autojump_clock: MockClock) -> None:
    policy = RestartPolicy("permanent", max_restarts=9)

    async def sleeps(ctx: AgentContext) -> None:
        await trio.sleep_forever()

    async with open_agent_pool(max_concurrent=2) as pool:
        aborted = await pool.spawn(sleeps, restart=policy)
        late = await pool.spawn(sleeps, restart=policy, timeout=1)
        await trio.sleep(0.5)
        aborted.abort("enough")
        for handle in (aborted, late):
            assert (await handle.wait()).restarts == 0
        assert handle.outcome.error.timeout == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("ended_by", ["abort", "timeout"])
async def test_an_end_in_the_middle_of_a_backoff_is_on_time(ended_by: str, autojump_clock: MockClock) -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        timeout = 5 if ended_by == "timeout" else None
        policy = RestartPolicy(backoff=30)
        handle = await pool.spawn(failing(3), restart=policy, timeout=timeout)
        await trio.sleep(5)
        if ended_by == "abort":
            handle.abort()
        await handle.wait()
        assert trio.current_time() == 5


async def test_permanent_servers_with_a_policy_go_home_when_the_block_has_ended(
    autojump_clock: MockClock,
) -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        handle = await pool.spawn(server, restart=RestartPolicy("permanent", max_restarts=9))
        assert await pool.ask(handle.id, "?") == 0
    assert handle.outcome is not None
    assert handle.outcome.unwrap() == 1


async def test_a_restarted_agent_has_no_children_of_its_last_life(autojump_clock: MockClock) -> None:
    lives = []

    async def parent(ctx: AgentContext) -> int:
        lives.append(ctx)
        await ctx.spawn(worker)
        if len(lives) == 1:
            raise ValueError("once")
        assert ctx is not lives[0]
        ctx.abort_all()
        return len(await ctx.join_all())

    async with open_agent_pool(max_concurrent=2) as pool:
        assert await (await pool.spawn(parent, restart=RestartPolicy())).result() == 1


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Supervisor([]), ValueError, "at least one child"),
        (lambda: Supervisor(server), TypeError, "children must be a list"),
        (lambda: Supervisor("server"), TypeError, "children must be a list"),
        (lambda: Supervisor([3]), TypeError, "async callable"),
        (lambda: Supervisor([server], strategy="one_for_two"), ValueError, "one_for_one, one_for_all, rest"),
        (lambda: Supervisor([server], max_restarts=-1), ValueError, "max_restarts must be at least 0"),
        (lambda: Supervisor([server], max_restarts=True), TypeError, "max_restarts must be an int"),
        (lambda: Supervisor([server], max_restarts=1.5), TypeError, "max_restarts must be an int"),
        (lambda: Supervisor([server], within=0), ValueError, "within must be above 0 seconds"),
        (lambda: Supervisor([server], within=float("nan")), ValueError, "within must be above 0 seconds"),
        (lambda: Supervisor([server], within="5"), TypeError, "within must be a number of seconds"),
        (lambda: Supervisor([server], name=3), TypeError, "name"),
        (lambda: ChildSpec(server, "abc"), TypeError, r"write args=\('abc',\)"),
        (lambda: ChildSpec(server, 3), TypeError, r"write args=\(3,\)"),
        (lambda: ChildSpec(server, mode="forever"), ValueError, "permanent, transient, temporary"),
        (lambda: ChildSpec(server, mode=["always"]), ValueError, "permanent, transient, temporary"),
        (lambda: ChildSpec(server, timeout=0), ValueError, "timeout must be above 0"),
        (lambda: ChildSpec(server, name=3), TypeError, "name must be a string"),
        (lambda: RestartPolicy("forever"), ValueError, "permanent, transient, temporary"),
        (lambda: RestartPolicy(max_restarts=2.5), TypeError, "max_restarts must be an int"),
        (lambda: RestartPolicy(within=0), ValueError, "within must be above 0"),
        (lambda: RestartPolicy(backoff=-1), ValueError, "initial must be at least 0"),
        (lambda: RestartPolicy(backoff="1"), TypeError, "initial must be a number"),
        (lambda: Backoff(jitter=2), ValueError, "jitter must be from 0 to 1"),
        (lambda: Backoff(jitter="x"), TypeError, "jitter must be a number from 0 to 1"),
        (lambda: Backoff(maximum=float("nan")), ValueError, "maximum must be at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_fix(
    make: Callable[[], object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize(
    ("alias", "mode"), [("always", "permanent"), ("on_failure", "transient"), ("never", "temporary")]
)
def test_the_modes_of_fleet_files_are_known_in_code_too(alias: Any, mode: Mode) -> None:
    assert RestartPolicy(alias).mode == ChildSpec(server, mode=alias).mode == mode


def test_a_backoff_grows_to_its_maximum_whatever_the_number_of_restarts() -> None:
    assert [Backoff(1, maximum=5).delay(n, 0.0) for n in (1, 2, 3, 4, 10_000)] == [1, 2, 4, 5, 5]
    assert Backoff(8, jitter=0.5).delay(1, lot=1.0) == 4
    assert Backoff().delay(3, lot=0.5) == 0


@pytest.mark.parametrize("ends", ["well", "badly"])
async def test_a_child_that_cannot_come_back_because_of_a_limit_is_the_cause_if_it_failed(
    ends: str, autojump_clock: MockClock
) -> None:
    error = ValueError("of the child")

    async def child(ctx: AgentContext) -> None:
        await trio.sleep(1)
        if ends == "badly":
            raise error

    async with open_agent_pool(max_concurrent=9, limits=PoolLimits(alive=3)) as pool:
        async with pool.events() as events:
            supervisor = await pool.spawn(Supervisor([server, child], strategy="one_for_all"))
            async for event in events:
                if isinstance(event, AgentFinished):
                    pool.spawn_nowait(server)  # in its place
                    break
        outcome = await supervisor.wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, PoolLimitError)
    assert outcome.error.__cause__ is (error if ends == "badly" else None)


@pytest.mark.parametrize("ends", ["well", "badly"])
async def test_a_time_limit_in_a_backoff_tells_of_the_failure_that_led_there(
    ends: str, autojump_clock: MockClock
) -> None:
    error = ValueError("of the life before")

    async def agent(ctx: AgentContext) -> None:
        if ends == "badly":
            raise error

    async with open_agent_pool(max_concurrent=1) as pool:
        handle = await pool.spawn(agent, timeout=5, restart=RestartPolicy("always", backoff=10))
        outcome = await handle.wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, AgentTimeoutError)
    assert outcome.error.__cause__ is (error if ends == "badly" else None)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_supervisor_in_an_agent_with_other_children_says_that_it_needs_its_own(
    fails: bool, autojump_clock: MockClock
) -> None:
    """It would take the outcomes of the others, and they those of its children."""

    async def other(ctx: AgentContext) -> None:
        await trio.sleep(1)
        if fails:
            raise ValueError("the other's")

    async def serves(ctx: AgentContext) -> None:
        await trio.sleep_forever()

    async def supervises(ctx: AgentContext) -> None:
        await ctx.spawn(other)
        await Supervisor([ChildSpec(serves)])(ctx)

    async with open_agent_pool(max_concurrent=4) as pool:
        outcome = await (await pool.spawn(supervises)).wait()
    assert isinstance(outcome, Failed)
    with pytest.raises(
        RuntimeError, match=r"agent 2 \(other\) is no child of the supervisor.*spawn the"
    ) as caught:
        raise outcome.error
    assert isinstance(caught.value.__cause__, ValueError) == fails
