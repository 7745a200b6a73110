"""A run that is resumed: agents that are functions, and what they do by the verbs of their contexts."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from journal_kit import Records, after_each_cut, in_virtual_time, resumed, run

from agentpool import (
    Aborted,
    AgentContext,
    AgentFailedError,
    AgentTimeoutError,
    Budget,
    ChildSpec,
    Completed,
    Failed,
    JournalCorruptError,
    JournalError,
    PoolFullError,
    ReplayMismatchError,
    RestartLimitError,
    RestartPolicy,
    Supervisor,
    UnknownAgentError,
    open_agent_pool,
    resume_agent_pool,
)
from agentpool._core.records import JournalRecord

# -- the verbs ---------------------------------------------------------------------------------


async def doubled(ctx: AgentContext, number: int) -> int:
    return 2 * number


async def worker(ctx: AgentContext, number: int) -> int:
    message = await ctx.receive()
    assert isinstance(message.content, int)
    await ctx.send(message.sender, message.content * number)
    return number


async def echo(ctx: AgentContext) -> str:
    async for message in ctx.inbox:
        ctx.reply(message, message.content.upper())
    return "closed"


async def talker(ctx: AgentContext) -> Any:
    workers = [await ctx.spawn(worker, number, name=f"worker {number}") for number in range(1, 4)]
    for each in workers:
        await ctx.send(each.id, 10)
    got = sorted([(await ctx.receive()).content for _ in workers])
    service = await ctx.spawn(echo, name="echo")
    answers = [await ctx.ask("echo", "one"), await ctx.ask(service.id, "two")]
    joined = [await each.result() for each in workers]
    service.abort()
    last = await service.wait()
    return got, answers, joined, type(last).__name__


def test_messages_questions_and_children_go_on_wherever_a_run_was_cut_off() -> None:
    expected, records = after_each_cut(talker)
    assert expected == ([10, 20, 30], ["ONE", "TWO"], [1, 2, 3], "Aborted")
    assert {record.kind for record in records} >= {"run", "spawned", "sent", "received", "replied", "ended"}


async def many(ctx: AgentContext) -> Any:
    outcomes = await ctx.map(doubled, [1, 2, 3])
    mapped = [outcome.unwrap() for outcome in outcomes]
    taken = []
    async with ctx.as_completed(doubled, [4, 5, 6]) as completed:
        async for outcome in completed:
            taken.append(outcome.unwrap())
    for number in (7, 8):
        await ctx.spawn(doubled, number)
    one = await ctx.join_next()
    assert one is not None
    rest = await ctx.join_all()
    none = await ctx.join_next()
    return mapped, sorted(taken), one.unwrap() + sum(each.unwrap() for each in rest.values()), none


async def slow(ctx: AgentContext, seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


def test_batches_and_joins_go_on() -> None:
    expected, _ = after_each_cut(many)
    assert expected == ([2, 4, 6], [8, 10, 12], 30, None)


async def taking_in_order(ctx: AgentContext) -> list[float]:
    order = []
    async with ctx.as_completed(slow, [3, 1, 2]) as completed:
        async for outcome in completed:
            order.append(outcome.unwrap())
            await ctx.step("note", as_it_is, outcome.unwrap())
    return order


async def as_it_is(value: Any) -> Any:
    return value


def test_outcomes_are_taken_in_the_order_in_which_they_were() -> None:
    assert after_each_cut(taking_in_order, max_concurrent=4)[0] == [1, 2, 3]


async def racing(ctx: AgentContext) -> Any:
    return await ctx.race(lambda ctx: slow(ctx, 5), lambda ctx: slow(ctx, 1), lambda ctx: failing(ctx))


async def failing(ctx: AgentContext) -> None:
    raise ValueError("odd")


async def hearing(ctx: AgentContext, news: int) -> list[Any]:
    with ctx.subscribe("news"):
        await ctx.send(ctx.parent_id, "ready")
        got = [(await ctx.receive()).content for _ in range(news)]
    ctx.unsubscribe("news")
    return got


async def publishing(ctx: AgentContext) -> Any:
    hearers = [await ctx.spawn(hearing, 3, name=f"hearer {number}") for number in range(3)]
    for _ in hearers:
        await ctx.receive()
    counts = [await ctx.publish("news", 1), await ctx.publish("news", "two"), await ctx.broadcast((3,))]
    return counts, [await each.result() for each in hearers]


def test_topics_go_on_and_each_subscriber_gets_each_message_once() -> None:
    expected, records = after_each_cut(publishing, max_concurrent=4)
    assert expected == ([3, 3, 3], [[1, "two", (3,)]] * 3)
    assert [record.data["on"] for record in records if record.kind == "listened"].count(True) == 3


async def with_tasks(ctx: AgentContext) -> list[int]:
    found: list[int] = []

    async def task(number: int) -> None:
        handle = await ctx.spawn(doubled, number)
        found.append(await handle.result())

    async def begun(task_status: trio.TaskStatus[int]) -> None:
        handle = await ctx.spawn(doubled, 50)
        task_status.started(await handle.result())

    async with ctx.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(task, number)
        found.append(await nursery.start(begun))
    last = await ctx.spawn(doubled, 4)
    return [*sorted(found), await last.result()]


def test_tasks_of_an_agent_go_on_each_by_itself() -> None:
    assert after_each_cut(with_tasks, max_concurrent=5)[0] == [0, 2, 4, 100, 8]


async def without_waiting(ctx: AgentContext) -> Any:
    with pytest.raises(PoolFullError):
        ctx.spawn_nowait(echo)
    with pytest.raises(trio.WouldBlock):
        ctx.receive_nowait()
    ctx.send_nowait(ctx.id, "to itself")
    with pytest.raises(trio.WouldBlock):
        ctx.send_nowait(ctx.id, "too much")
    message = ctx.receive_nowait()
    with pytest.raises(trio.WouldBlock):
        ctx.receive_nowait()
    with pytest.raises(UnknownAgentError):
        await ctx.send(99, "nobody")
    return message.content, await ctx.step("end", as_it_is, 1)


async def spawning_at_once(ctx: AgentContext) -> Any:
    handle = ctx.spawn_nowait(doubled, 4)
    return await handle.result()


def test_what_could_not_be_done_at_once_could_not_be_done() -> None:
    expected, _ = after_each_cut(without_waiting, max_concurrent=1, inbox_capacity=1)
    assert expected == ("to itself", 1)
    assert after_each_cut(spawning_at_once)[0] == 8


# -- steps -------------------------------------------------------------------------------------

DONE: list[str] = []


async def done(what: str) -> str:
    DONE.append(what)
    return what.upper()


async def broken(what: str) -> None:
    DONE.append(what)
    raise ValueError(what)


async def stepping(ctx: AgentContext) -> Any:
    first = await ctx.step("first", done, "one")
    with pytest.raises(ValueError, match="two"):
        await ctx.step("second", broken, "two")

    async def with_a_child() -> int:
        handle = await ctx.spawn(doubled, 21)
        return await handle.result()

    third = await ctx.step("third", with_a_child)
    handle = await ctx.spawn(doubled, 1)
    return first, third, await handle.result()


def test_a_step_is_done_once_and_an_error_of_one_comes_again() -> None:
    expected, records = after_each_cut(stepping, between=DONE.clear)
    assert expected == ("ONE", 42, 2)
    done_before = [record for record in records if record.data.get("kind") == "step first"]
    end = records.index(done_before[0]) + 1
    DONE.clear()
    assert resumed(records[:end])[0].unwrap() == expected
    assert DONE == ["two"]
    DONE.clear()
    resumed(records[: end - 1])
    assert DONE == ["one", "two"]


async def unkept_step(ctx: AgentContext) -> str:
    try:
        await ctx.step("lock", as_it_is, trio.Lock())
    except TypeError as error:
        return str(error)
    return "kept"


def test_a_step_whose_result_cannot_be_kept_says_what_to_return() -> None:
    text = run(unkept_step)[0].unwrap()
    assert "what the step 'lock' returned cannot be kept in the journal" in text
    assert "attrs" in text


async def test_without_a_journal_a_step_is_a_call() -> None:
    async def stepping_alone(ctx: AgentContext) -> Any:
        return await ctx.step("first", done, "one"), ctx.current_time() <= trio.current_time()

    async with open_agent_pool(max_concurrent=1) as pool:
        handle = await pool.spawn(stepping_alone)
        assert await handle.result() == ("ONE", True)
        assert pool.resumed == ()


# -- restarts and supervision ------------------------------------------------------------------


async def flaky(ctx: AgentContext) -> int:
    attempts = await ctx.receive()
    if attempts.content < 3:
        await ctx.send(ctx.id, attempts.content + 1)
        raise ValueError(f"attempt {attempts.content}")
    return int(attempts.content)


async def restarting(ctx: AgentContext) -> int:
    handle = await ctx.spawn(flaky, restart=RestartPolicy(max_restarts=2, within=60, backoff=1))
    await ctx.send(handle.id, 1)
    return await handle.result()


def test_restarts_are_counted_on() -> None:
    expected, records = after_each_cut(restarting)
    assert expected == 3
    assert [record.data["life"] for record in records if record.kind == "restarted"] == [1, 2]


def test_restarts_before_a_crash_count_after_it() -> None:
    async def always(ctx: AgentContext) -> int:
        handle = await ctx.spawn(failing, restart=RestartPolicy(max_restarts=2, within=60))
        outcome = await handle.wait()
        assert isinstance(outcome, Failed)
        return outcome.restarts

    expected, records = run(always)
    assert expected.unwrap() == 2
    ends = [n for n, record in enumerate(records.kept, 1) if record.kind == "restarted"]
    for end in ends:
        outcome, _ = resumed(records.kept[:end], agents={"first": always})
        assert outcome.unwrap() == 2


async def supervising(ctx: AgentContext) -> Any:
    supervisor = Supervisor([ChildSpec(flaky, name="flaky", mode="transient")], max_restarts=2, within=9.0)
    handle = await ctx.spawn(supervisor)
    await ctx.send("flaky", 1)
    await trio.sleep(1)
    await ctx.send("flaky", 2)
    await trio.sleep(1)
    await ctx.send("flaky", 3)
    return await handle.result()


async def told_its_attempt(ctx: AgentContext) -> int:
    attempt = (await ctx.receive()).content
    if attempt < 3:
        raise ValueError(f"attempt {attempt}")
    return int(attempt)


def slowly_failing(seconds: float) -> Any:
    return Supervisor(
        [ChildSpec(failing_after, args=(seconds,), name="failing", mode="transient")],
        max_restarts=2,
        within=5.0,
        name="house",
    )


async def failing_after(ctx: AgentContext, seconds: float) -> None:
    await trio.sleep(seconds)
    raise ValueError("slowly")


def test_a_supervisor_that_is_resumed_counts_restarts_when_they_were() -> None:
    async def for_a_while(ctx: AgentContext) -> str:
        handle = await ctx.spawn(slowly_failing(4.0))
        with trio.move_on_after(30):
            await handle.wait()
        outcome = handle.outcome
        handle.abort()
        return type(outcome).__name__

    outcome, records = run(for_a_while)
    assert outcome.unwrap() == "NoneType"
    late = next(n for n, record in enumerate(records.kept, 1) if record.at > 25)
    # Six children have ended by then: all at once they would have been too many.
    again, _ = resumed(records.kept[:late], agents={"first": for_a_while})
    assert again.unwrap() == "NoneType"


def test_a_supervisor_is_found_again_by_itself() -> None:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=2, journal=records) as pool:
            await pool.spawn(slowly_failing(1.0))
            await trio.sleep(0.5)
            raise KeyError("left")

    with pytest.raises(KeyError):
        in_virtual_time(main)
    outcome, _ = resumed(records.kept)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, RestartLimitError)


# -- what cannot be resumed --------------------------------------------------------------------


def cut_behind(records: Records, kind: str, agent: int | None = None) -> list[JournalRecord]:
    """Return the records up to the first one that tells that."""
    for end, record in enumerate(records.kept, 1):
        if record.kind == kind and agent in (None, record.agent):
            return records.kept[:end]
    raise AssertionError(kind)


def test_an_agent_that_does_something_else_is_named_with_its_step() -> None:
    _, records = run(talker)

    async def other(ctx: AgentContext) -> None:
        await ctx.send(ctx.id, "hello")

    outcome, _ = resumed(cut_behind(records, "received"), agents={"first": other})
    with pytest.raises(AgentFailedError) as caught:
        outcome.unwrap()
    error = caught.value.__cause__
    assert isinstance(error, ReplayMismatchError)
    assert (error.agent_id, error.name, error.step) == (1, "first", "operation 0")
    assert "does `send` now, where its journal tells of `spawn`" in str(error)


def test_a_child_of_another_name_is_refused() -> None:
    _, records = run(talker)

    async def other(ctx: AgentContext) -> None:
        await ctx.spawn(worker, 1, name="somebody else")

    outcome, _ = resumed(cut_behind(records, "received"), agents={"first": other})
    assert isinstance(outcome.error, ReplayMismatchError)
    assert "it spawns 'somebody else' now, and spawned 'worker 1'" in str(outcome.error)


def test_an_agent_that_is_not_found_by_its_name_says_how_to_give_it() -> None:
    async def inner(ctx: AgentContext) -> int:
        return await (await ctx.spawn(doubled, 2)).result()

    outcome, records = run(inner)
    assert outcome.unwrap() == 4
    kept = cut_behind(records, "spawned", 2)
    with pytest.raises(ReplayMismatchError, match=r"define it at the top of a module, or give it as agents="):
        resumed(kept)
    assert resumed(kept, agents={"first": inner})[0].unwrap() == 4


def test_a_child_that_is_not_spawned_again_is_aborted_at_its_parents_end() -> None:
    _, records = run(talker)

    async def lazy(ctx: AgentContext) -> str:
        return "nothing to do"

    kept = cut_behind(records, "sent")
    outcome, again = resumed(kept, agents={"first": lazy})
    assert outcome.unwrap() == "nothing to do"
    assert [record.data["aborted"] for record in again.of_kind("ended") if record.agent > 1] == [
        "the agent that had spawned it ended without doing so again"
    ] * 3


async def returning(ctx: AgentContext, what: Any) -> Any:
    return trio.Lock() if what == "lock" else what


def test_a_value_that_could_not_be_kept_is_a_failure_when_it_is_asked_for_again() -> None:
    outcome, records = run(returning, "lock")
    assert isinstance(outcome.unwrap(), trio.Lock)
    outcome, _ = resumed(records.kept)
    assert isinstance(outcome, Failed)
    assert "could not be kept: return data" in str(outcome.error)


@attrs.frozen
class Point:
    x: int
    y: float = math.nan


@pytest.mark.parametrize("value", [(1, [2, {"three": {4}}]), Point(1, 2.0), b"bytes", None, {"$x": 1}])
def test_values_come_back_as_they_were(value: Any) -> None:
    outcome, records = run(returning, value)
    again, _ = resumed(records.kept)
    assert isinstance(again, Completed)
    assert again.value == value
    assert attrs.evolve(again, value=None, started_at=0, duration=0) == attrs.evolve(
        outcome, value=None, started_at=0, duration=0
    )


def test_an_argument_that_cannot_be_kept_is_refused_and_nobody_is_started() -> None:
    async def main() -> None:
        records = Records()
        async with open_agent_pool(max_concurrent=1, journal=records) as pool:
            with pytest.raises(TypeError, match=r"the arguments of returning cannot be kept in the journal"):
                await pool.spawn(returning, trio.Lock())
            assert pool.statistics().spawned == 0
        assert not records.of_kind("spawned")

    in_virtual_time(main)


def test_a_message_that_cannot_be_kept_is_refused_and_not_delivered() -> None:
    async def main() -> None:
        records = Records()
        async with open_agent_pool(max_concurrent=1, journal=records) as pool:
            handle = await pool.spawn(echo)
            with pytest.raises(TypeError, match=r"the content of a message cannot be kept"):
                await pool.send(handle.id, trio.Lock())
            handle.abort()
        assert not records.of_kind("sent")

    in_virtual_time(main)


# -- the journal itself ------------------------------------------------------------------------


def test_a_journal_that_holds_a_run_is_no_place_for_a_new_one() -> None:
    _, records = run(doubled, 1)

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1, journal=records):
            raise AssertionError("opened")

    with pytest.raises(JournalError, match="holds a run already: resume it"):
        in_virtual_time(main)
    assert not records.is_open


def test_a_journal_without_a_run_cannot_be_resumed() -> None:
    with pytest.raises(JournalError, match="holds no run"):
        resumed([])


def test_records_that_do_not_fit_are_damage() -> None:
    _, records = run(doubled, 1)
    kept = [record for record in records.kept if record.kind != "spawned"]
    with pytest.raises(JournalCorruptError, match=r"record 2 \(ended\) does not fit"):
        resumed(kept)


@pytest.mark.parametrize("given", ["run.db", Records, 3])
async def test_what_is_no_journal_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"journal must be a journal such as SqliteJournal\(path\)"):
        open_agent_pool(max_concurrent=1, journal=given)


def test_a_journal_that_cannot_be_written_ends_the_run_before_anything_else_is_done() -> None:
    DONE.clear()

    async def two_steps(ctx: AgentContext) -> None:
        await ctx.step("first", done, "one")
        await ctx.step("second", done, "two")

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1, journal=Records(broken_after=2)) as pool:
            await pool.spawn(two_steps)

    with pytest.raises(JournalError, match="the disk is full"):
        in_virtual_time(main)
    assert DONE == ["one"]


def test_a_journal_that_cannot_be_written_at_its_end_is_told() -> None:
    async def main() -> None:
        journal = Records()

        async def aclose() -> None:
            raise JournalError("no room for the rest")

        journal.aclose = aclose  # type: ignore[method-assign]
        async with open_agent_pool(max_concurrent=1, journal=journal) as pool:
            await pool.spawn(doubled, 1)

    with pytest.raises(JournalError, match="no room for the rest"):
        in_virtual_time(main)


# -- how a run is left -------------------------------------------------------------------------


async def sleeping(ctx: AgentContext, seconds: float) -> float:
    await ctx.step("sleep", trio.sleep, seconds)
    return seconds


def left_early(how: str) -> Records:
    """Return the journal of a run of two agents that was left after five seconds, when one had ended."""
    records = Records()

    async def main() -> None:
        with trio.move_on_after(5 if how == "cancelled" else math.inf):
            async with open_agent_pool(max_concurrent=3, journal=records) as pool:
                await pool.spawn(sleeping, 2)
                await pool.spawn(sleeping, 20)
                if how == "drained":
                    await pool.drain(grace=5)
                await trio.sleep(5)
                if how == "raised":
                    raise KeyError("left")

    if how == "raised":
        with pytest.raises(KeyError):
            in_virtual_time(main)
    else:
        in_virtual_time(main)
    return records


@pytest.mark.parametrize("how", ["raised", "cancelled", "drained"])
def test_agents_of_a_run_that_is_left_early_go_on_when_it_is_resumed(how: str) -> None:
    records = left_early(how)
    assert [record.agent for record in records.of_kind("ended")] == [1]
    assert records.kept[-1].data == {"how": "stopped"}

    async def again() -> Any:
        began = trio.current_time()
        async with resume_agent_pool(records) as pool:
            outcomes = await pool.join_all()
            return [outcome.unwrap() for outcome in outcomes.values()], trio.current_time() - began

    assert in_virtual_time(again) == ([2, 20], 20)
    assert records.kept[-1].data == {"how": "ended"}


def test_who_is_aborted_has_ended() -> None:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=3, journal=records) as pool:
            handle = await pool.spawn(sleeping, 2)
            handle.abort("not needed")

    in_virtual_time(main)
    outcome, _ = resumed(records.kept)
    assert isinstance(outcome, Aborted)
    assert outcome.reason == "not needed"


# -- time and budgets --------------------------------------------------------------------------


def test_a_time_limit_goes_on_without_the_time_between() -> None:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=3, journal=records) as pool:
            await pool.spawn(sleeping, 60, timeout=10)
            await trio.sleep(7)
            raise KeyError("left")

    with pytest.raises(KeyError):
        in_virtual_time(main)

    async def again() -> Any:
        await trio.sleep(1000)
        began = trio.current_time()
        async with resume_agent_pool(records) as pool:
            (outcome,) = (await pool.join_all()).values()
            return outcome, trio.current_time() - began

    outcome, seconds = in_virtual_time(again)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, AgentTimeoutError)
    assert seconds == pytest.approx(3)


def test_a_pool_is_opened_as_it_was_and_as_it_is_said() -> None:
    async def first(ctx: AgentContext) -> None:
        return None

    _, records = run(first, max_concurrent=7, inbox_capacity=3, budget=Budget(tokens=100, calls=5))

    async def look(**settings: Any) -> Any:
        async with resume_agent_pool(Records(records.kept), agents={"first": first}, **settings) as pool:
            budget = pool._state.means.budget
            return pool.max_concurrent, pool.router.inbox_capacity, budget and budget.limit

    async def main() -> Any:
        before = await look()
        return before, await look(max_concurrent=2, inbox_capacity=9, budget=Budget(cost_usd=1.0))

    before, after = in_virtual_time(main)
    assert before[:2] == (7, 3)
    assert (before[2].tokens, before[2].cost_usd, before[2].calls) == (100, None, 5)
    assert after[:2] == (2, 9)
    assert after[2].cost_usd == 1.0


# -- what is rare ------------------------------------------------------------------------------


async def giving_up(ctx: AgentContext) -> Any:
    deaf = await ctx.spawn(hearing_late, name="late")
    with trio.move_on_after(1) as receiving:
        await ctx.receive()
    with trio.move_on_after(1) as asking:
        await ctx.ask(deaf.id, "question")
    early = await ctx.step("note", as_it_is, (receiving.cancelled_caught, asking.cancelled_caught))
    return early, await deaf.result(), await ctx.step("end", as_it_is, 1)


async def hearing_late(ctx: AgentContext) -> str:
    message = await ctx.receive()
    await ctx.step("wait", trio.sleep, 5)
    ctx.reply(message, "late")
    return "answered"


def test_what_was_cancelled_is_cancelled_again_and_a_late_answer_changes_nothing() -> None:
    expected, records = after_each_cut(giving_up)
    assert expected == ((True, True), "answered", 1)
    (left,) = [record for record in records if record.data.get("kind") == "left"]
    assert left.data["value"] == 1


async def by_a_partial(ctx: AgentContext) -> int:
    handle = await ctx.spawn(partial(doubled, number=4))
    return await handle.result()


def test_partials_are_found_again() -> None:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1, journal=records) as pool:
            await pool.spawn(partial(sleeping, seconds=3), name="first")
            raise KeyError("left")

    with pytest.raises(KeyError):
        in_virtual_time(main)
    assert resumed(records.kept)[0].unwrap() == 3
    assert after_each_cut(by_a_partial)[0] == 8


def changed(kept: list[JournalRecord], kind: str, **data: Any) -> list[JournalRecord]:
    """Return the records with other data in those that tell that."""
    return [
        attrs.evolve(record, data={**record.data, **data}) if record.kind == kind else record
        for record in kept
    ]


GONE = {"$object": ["nowhere:Gone", {}]}


@pytest.mark.parametrize(
    "agent", [{"function": "test_resume:gone"}, {"kind": "journal_kit:Records", "data": {}}]
)
def test_an_agent_that_is_not_there_any_more_is_named(agent: Any) -> None:
    _, records = run(sleeping, 3)
    kept = changed(cut_behind(records, "spawned"), "spawned", work={"agent": agent, "args": []})
    with pytest.raises(ReplayMismatchError, match=r"agent 1 \(first\), its spawn: "):
        resumed(kept)


def test_what_an_agent_was_given_and_cannot_be_read_is_named() -> None:
    _, records = run(sleeping, 3)
    kept = cut_behind(records, "spawned")
    work = {**kept[-1].data["work"], "args": {"$tuple": [GONE]}}
    with pytest.raises(ReplayMismatchError, match=r"its arguments: nowhere:Gone is not there"):
        resumed(changed(kept, "spawned", work=work))
    _, records = run(stepping)
    ends = [end for end, record in enumerate(records.kept, 1) if record.data.get("kind") == "step first"]
    outcome, _ = resumed(changed(records.kept[: ends[0]], "operated", value=GONE))
    assert isinstance(outcome.error, ReplayMismatchError)
    assert "what it came to cannot be read: nowhere:Gone" in str(outcome.error)


def test_an_inbox_that_cannot_be_read_is_named() -> None:
    _, records = run(without_waiting, max_concurrent=1, inbox_capacity=1)
    kept = changed(cut_behind(records, "sent"), "sent", content=GONE)
    with pytest.raises(ReplayMismatchError, match=r"its inbox: nowhere:Gone is not there"):
        resumed(kept)


def test_an_answer_that_comes_before_its_asker_is_back_is_kept_for_it() -> None:
    async def asking(ctx: AgentContext) -> Any:
        return await ctx.ask("echo", "hello")

    records = Records()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1, journal=records) as pool:
            service = await pool.spawn(hearing_late, name="echo")
            asker = await pool.spawn(asking, name="asking")
            await asker.wait()
            await service.wait()

    in_virtual_time(main)
    (step,) = [end for end, record in enumerate(records.kept, 1) if record.data.get("kind") == "step wait"]
    again = Records(records.kept[:step])

    async def once_more() -> Any:
        async with resume_agent_pool(again, agents={"asking": asking}) as pool:
            return [await handle.result() for handle in pool.resumed]

    assert in_virtual_time(once_more) == ["answered", "late"]


def test_agents_that_an_agent_had_spawned_on_the_pool_outlive_it_and_go_on() -> None:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=2, journal=records) as pool:

            async def on_the_pool(ctx: AgentContext) -> int:
                handle = await pool.spawn(sleeping, 30, name="outliving")
                return handle.id

            await pool.spawn(on_the_pool, name="first")
            await trio.sleep(5)
            raise KeyError("left")

    with pytest.raises(KeyError):
        in_virtual_time(main)

    async def again() -> Any:
        async with resume_agent_pool(Records(records.kept)) as pool:
            handles = [handle.name for handle in pool.resumed]
            return handles, [outcome.unwrap() for outcome in (await pool.join_all()).values()]

    assert in_virtual_time(again) == (["first"], [2, 30])


async def failing_at_first(ctx: AgentContext, marker: str) -> Any:
    handle = await ctx.spawn(doubled, len(marker))
    await handle.result()
    if ctx.inbox.fill == 0:
        await ctx.send(ctx.id, "again")
        raise ValueError("the first life")
    return [outcome.unwrap() for outcome in (await ctx.join_all()).values()]


async def restarted_parent(ctx: AgentContext) -> Any:
    handle = await ctx.spawn(failing_at_first, "xyz", restart=RestartPolicy(max_restarts=1))
    return await handle.result()


def test_outcomes_of_an_earlier_life_are_none_of_the_next() -> None:
    assert after_each_cut(restarted_parent)[0] == []


async def odd_joins(ctx: AgentContext) -> Any:
    for number in (1, 2):
        await ctx.spawn(doubled, number)
    await ctx.join_all()
    return await ctx.step("end", as_it_is, 1)


def test_an_outcome_that_is_not_there_to_be_taken_again_is_a_mismatch() -> None:
    _, records = run(odd_joins)
    ends = [end for end, record in enumerate(records.kept, 1) if record.data.get("kind") == "step end"]
    kept = records.kept[: ends[0]]
    operated = [
        attrs.evolve(record, data={**record.data, "value": [1]})
        if record.data.get("kind") == "join_all"
        else record
        for record in kept
    ]
    outcome, _ = resumed(operated)
    assert isinstance(outcome.error, ReplayMismatchError)
    assert "it got the outcome of agent 1, which is not there to be taken now" in str(outcome.error)


def test_batches_of_another_agent_are_a_mismatch() -> None:
    _, records = run(taking_in_order, max_concurrent=4)
    takes = [end for end, record in enumerate(records.kept, 1) if record.data.get("kind") == "take"]
    kept = [
        attrs.evolve(record, data={**record.data, "value": 1})
        if record.data.get("kind") == "take"
        else record
        for record in records.kept[: takes[0]]
    ]
    outcome, _ = resumed(kept)
    assert isinstance(outcome.error, ReplayMismatchError)
    assert "agent 1 is not one of its agents any more" in str(outcome.error)


def test_whoever_watches_is_told_of_agents_that_go_on() -> None:
    _, records = run(talker)

    async def again() -> Any:
        seen = []
        async with resume_agent_pool(Records(cut_behind(records, "received"))) as pool:
            async with pool.events() as events:
                await pool.resumed[0].wait()
            async for event in events:
                seen.append(type(event).__name__)
        return seen

    assert "AgentSpawned" in in_virtual_time(again)


def test_a_journal_whose_records_cannot_be_appended_ends_the_run() -> None:
    class Broken(Records):
        def append(self, record: JournalRecord) -> None:
            if record.kind == "ended":
                raise JournalError("no more")
            super().append(record)

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1, journal=Broken()) as pool:
            await pool.spawn(doubled, 1)

    with pytest.raises(JournalError, match="no more"):
        in_virtual_time(main)


def test_verbs_of_another_pool_have_no_keys_in_this_ones_journal() -> None:
    inner_records = Records()

    async def with_a_pool(ctx: AgentContext) -> Any:
        async with open_agent_pool(max_concurrent=1, journal=inner_records) as pool:
            handle = await pool.spawn(doubled, 3)
            return await handle.result()

    outcome, records = run(with_a_pool)
    assert outcome.unwrap() == 6
    assert [record.data["by"] for record in inner_records.of_kind("spawned")] == [0]
    assert len(records.of_kind("spawned")) == 1


def test_a_step_of_a_task_that_the_pool_does_not_know_is_refused() -> None:
    async def with_strangers(ctx: AgentContext) -> Any:
        async def stranger() -> None:
            ctx.send_nowait(ctx.id, "from a stranger")
            with pytest.raises(RuntimeError, match="a task that its pool does not know"):
                await ctx.step("nothing", as_it_is, 1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stranger)
        return (await ctx.receive()).content

    outcome, _ = run(with_strangers)
    assert outcome.unwrap() == "from a stranger"


def spawning_on_its_pool(again: bool) -> Any:
    """Return an agent that spawns one on the pool; resumed, it may not do so."""

    async def spawning(ctx: AgentContext) -> None:
        if again:
            await POOLS[-1].spawn(sleeping, 30, name="outliving")
        await ctx.step("wait", trio.sleep, 10)

    return spawning


POOLS: list[Any] = []


def of_a_pool_that_is_left() -> list[JournalRecord]:
    records = Records()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=2, journal=records) as pool:
            POOLS.append(pool)
            await pool.spawn(spawning_on_its_pool(again=True), name="first")
            await trio.sleep(5)
            raise KeyError("left")

    with pytest.raises(KeyError):
        in_virtual_time(main)
    return records.kept


def test_who_is_not_spawned_again_on_the_pool_is_aborted_too() -> None:
    kept = of_a_pool_that_is_left()

    async def again(spawns: bool) -> Any:
        records = Records(kept)
        agents = {"first": spawning_on_its_pool(spawns)}
        async with resume_agent_pool(records, agents=agents) as pool:
            POOLS.append(pool)
            await pool.resumed[0].wait()
        return [(record.agent, record.data.get("aborted")) for record in records.of_kind("ended")]

    assert in_virtual_time(lambda: again(True)) == [(1, None), (2, None)]
    (_, (agent, reason)) = in_virtual_time(lambda: again(False))
    assert agent == 2
    assert reason == "the agent that had spawned it ended without doing so again"


def test_a_pool_that_is_left_before_all_were_spawned_again_ends() -> None:
    kept = of_a_pool_that_is_left()

    async def waiting(ctx: AgentContext) -> None:
        await trio.sleep(50)

    async def again() -> None:
        async with resume_agent_pool(Records(kept), agents={"first": waiting}):
            raise KeyError("left again")

    with pytest.raises(KeyError, match="left again"):
        in_virtual_time(again)


async def taught(ctx: AgentContext) -> None:
    """Answers the second question; the first life fails with the first."""
    message = await ctx.receive()
    await ctx.step("wait", trio.sleep, 5)
    if ctx.id == 3:
        raise ValueError("the first life")
    ctx.reply(message, f"from {ctx.id}")


async def asking_by_name(ctx: AgentContext) -> Any:
    house = await ctx.spawn(Supervisor([ChildSpec(taught, name="taught", mode="transient")]), name="house")
    answer = await ctx.ask("taught", "?")
    await house.wait()
    with pytest.raises(UnknownAgentError):
        await ctx.ask(3, "too late")
    return answer


def test_a_question_to_a_name_outlives_a_crash_of_its_asker_and_of_its_service() -> None:
    assert after_each_cut(asking_by_name)[0] == "from 4"


async def asking_by_id(ctx: AgentContext) -> Any:
    service = await ctx.spawn(taught, name="taught")
    other = await ctx.spawn(taught, name="failing")
    try:
        await ctx.ask(other.id, "?")
    except UnknownAgentError as error:
        await other.wait()
        return str(error), service.abort()
    return "answered"


def test_a_question_to_an_id_whose_agent_fails_after_the_crash_is_an_error() -> None:
    assert after_each_cut(asking_by_id)[0] == ("agent 3 has ended without a reply", None)


async def with_a_child_in_a_step(ctx: AgentContext) -> Any:
    async def by_a_child() -> Any:
        return await (await ctx.spawn(quick_child)).result()

    return [await ctx.step("by a child", by_a_child), await ctx.join_next()]


async def quick_child(ctx: AgentContext) -> str:
    return "quick"


def test_a_child_whose_outcome_a_step_took_is_handed_out_by_no_join_after_it() -> None:
    expected, _ = after_each_cut(with_a_child_in_a_step)
    assert expected == ["quick", None]
