"""Whether a journal keeps the promises of `agentpool.abc.Journal`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import trio

from agentpool._core.errors import JournalError
from agentpool._core.records import RECORDS, JournalRecord
from agentpool.abc import Journal
from agentpool.testing._apart import process_context
from agentpool.testing._crashes import kill_this_process
from agentpool.testing._kits import ConformanceError, _in_time, _require

MakeJournal: TypeAlias = Callable[[str], Journal]
"""Makes the journal of a name. Of the same name it is the same one again, as if the program had been
started afresh: what it kept before is in it."""

_HARD_DATA: Sequence[Any] = (
    {"text": "ä ß 漢字 🎻 \u202e \x00 \x1b[31m \\ \" ' ; DROP TABLE records; --"},
    {"lone": "\ud800", "other": "\udfff\ud83d"},
    {"numbers": [0, -1, 2**70, 0.1, 1e-300, -0.0, 1e308]},
    {"empty": [None, True, False, "", [], {}, {"": ""}]},
    {"large": "x" * 1_000_000},
)


async def check_journal(make: MakeJournal, *, outlives_process: bool = True) -> None:
    """Check that a journal keeps what `agentpool.abc.Journal` promises.

        async def test_my_journal_conforms(tmp_path):
            await check_journal(functools.partial(my_journal_in, tmp_path))

    Args:
      make: makes the journal of a name; each check takes a name of its own. It has to be picklable, such
        as a function at the top of a module, or a `functools.partial` of one, unless:
      outlives_process: whether what was committed is there after `kill -9`. False leaves that check out,
        as for a journal in memory.

    Raises:
      ConformanceError: that says which promise was broken.

    Checkpoint: always. Cancellation: the check ends; what it wrote stays.
    """
    await _check_empty(make)
    await _check_order_and_values(make)
    await _check_appended_is_a_copy(make)
    await _check_no_data(make)
    await _check_concurrent_commits(make)
    await _check_cancelled_commit(make)
    await _check_one_at_a_time(make)
    await _check_close(make)
    if outlives_process:
        await trio.to_thread.run_sync(_check_killed, make)
        await _check_what_a_kill_left(make)


def _record(number: int, data: Any = None) -> JournalRecord:
    kinds = tuple(RECORDS)
    content = {"number": number} if data is None else data
    return JournalRecord(kinds[number % len(kinds)], number % 7, content, number / 8)


async def _opened(journal: Journal) -> Sequence[JournalRecord]:
    return await _in_time("open()", journal.open)


async def _kept(make: MakeJournal, name: str) -> list[JournalRecord]:
    """Return what a journal holds when it is opened afresh."""
    journal = make(name)
    records = await _opened(journal)
    await _in_time("aclose()", journal.aclose)
    return list(records)


def _check_same(found: Sequence[JournalRecord], expected: Sequence[JournalRecord], when: str) -> None:
    _require(
        len(found) == len(expected),
        f"{when}, the journal holds {len(found)} records, and {len(expected)} were appended",
    )
    for number, (one, other) in enumerate(zip(found, expected, strict=True), 1):
        same = (one.kind, one.agent, one.at) == (other.kind, other.agent, other.at)
        _require(
            same and json.dumps(one.data) == json.dumps(other.data),
            f"{when}, record {number} is {str(one)[:200]}, and was appended as {str(other)[:200]}",
        )


async def _check_empty(make: MakeJournal) -> None:
    journal = make("empty")
    _require(isinstance(journal, Journal), f"{journal!r} is no Journal: a member of the protocol is missing")
    _require(not await _opened(journal), "a new journal holds records that nobody appended")
    await _in_time("commit() of nothing", journal.commit)
    await _in_time("aclose()", journal.aclose)
    _require(not await _kept(make, "empty"), "a journal to which nothing was appended holds records")


async def _check_order_and_values(make: MakeJournal) -> None:
    deep: Any = "bottom"
    for _ in range(100):
        deep = [deep]
    records = [_record(number) for number in range(50)]
    records += [_record(number, data) for number, data in enumerate([*_HARD_DATA, {"deep": deep}], 50)]
    journal = make("values")
    await _opened(journal)
    for number, record in enumerate(records):
        journal.append(record)
        if number % 9 == 0:
            await _in_time("commit()", journal.commit)
    await _in_time("commit()", journal.commit)
    await _in_time("aclose()", journal.aclose)
    _check_same(await _kept(make, "values"), records, "opened again")
    more = [_record(100), _record(101)]
    journal = make("values")
    _check_same(await _opened(journal), records, "opened once more")
    for record in more:
        journal.append(record)
    await _in_time("commit()", journal.commit)
    await _in_time("aclose()", journal.aclose)
    _check_same(await _kept(make, "values"), [*records, *more], "after a second process wrote to it")


async def _check_appended_is_a_copy(make: MakeJournal) -> None:
    journal, data = make("copy"), {"list": [1]}
    await _opened(journal)
    journal.append(_record(0, data))
    data["list"].append(2)
    await _in_time("aclose()", journal.aclose)
    found = await _kept(make, "copy")
    _require(
        found and found[0].data == {"list": [1]},
        "what was appended changed in the journal when the program changed it afterwards",
    )


async def _check_no_data(make: MakeJournal) -> None:
    journal = make("no data")
    await _opened(journal)
    journal.append(_record(0))
    for data in ({"object": object()}, {"nan": float("nan")}, {"bytes": b"x"}):
        try:
            journal.append(_record(1, data))
        except (TypeError, ValueError):
            continue
        raise ConformanceError(
            f"append took {data}, which is no JSON data; it has to raise TypeError or ValueError"
        )
    journal.append(_record(2))
    await _in_time("commit()", journal.commit)
    await _in_time("aclose()", journal.aclose)
    _check_same(await _kept(make, "no data"), [_record(0), _record(2)], "after records that are no data")


async def _check_concurrent_commits(make: MakeJournal) -> None:
    journal, appended = make("concurrent"), list[JournalRecord]()
    await _opened(journal)

    async def work(task: int) -> None:
        for number in range(10):
            record = _record(task * 10 + number)
            appended.append(record)
            journal.append(record)
            await journal.commit()

    async def work_together() -> None:
        async with trio.open_nursery() as nursery:
            for task in range(20):
                nursery.start_soon(work, task)

    await _in_time("commit() beside others", work_together)
    await _in_time("aclose()", journal.aclose)
    _check_same(await _kept(make, "concurrent"), appended, "after commits side by side")


async def _check_cancelled_commit(make: MakeJournal) -> None:
    journal = make("cancelled")
    await _opened(journal)
    records = [_record(number) for number in range(30)]

    async def cancel_some() -> None:
        async with trio.open_nursery() as nursery:
            for number, record in enumerate(records):
                journal.append(record)
                scope = trio.CancelScope()
                nursery.start_soon(_commit_in, scope, journal)
                if number % 2:
                    await trio.lowlevel.checkpoint()
                if number % 3:
                    scope.cancel()

    await _in_time("commit() beside cancelled ones", cancel_some)
    await _in_time("commit() after cancelled ones", journal.commit)
    await _in_time("aclose()", journal.aclose)
    _check_same(await _kept(make, "cancelled"), records, "after cancelled commits")


async def _commit_in(scope: trio.CancelScope, journal: Journal) -> None:
    with scope:
        await journal.commit()


async def _check_one_at_a_time(make: MakeJournal) -> None:
    journal = make("shared")
    await _opened(journal)
    journal.append(_record(0))
    await _in_time("commit()", journal.commit)
    await _check_refused(make("shared").open, JournalError, "opened by a second one while it is open")
    await _check_refused(journal.open, Exception, "opened twice")
    journal.append(_record(1))
    await _in_time("aclose()", journal.aclose)
    _check_same(await _kept(make, "shared"), [_record(0), _record(1)], "after others tried to open it")


async def _check_refused(call: Callable[[], Awaitable[Any]], kind: type[Exception], what: str) -> None:
    with suppress(kind):
        await _in_time("open()", call)
        raise ConformanceError(f"the journal can be {what}; it has to raise {kind.__name__}")


async def _check_close(make: MakeJournal) -> None:
    journal = make("closed")
    await _in_time("aclose() of a journal that is not open", journal.aclose)
    await _opened(journal)
    journal.append(_record(0))
    with trio.CancelScope() as scope:
        scope.cancel()
        await _in_time("aclose() in a cancelled scope", journal.aclose)
    await _in_time("a second aclose()", journal.aclose)
    _check_same(await _kept(make, "closed"), [_record(0)], "after it was closed in a cancelled scope")


# -- what a kill leaves ----------------------------------------------------------------------------

_KILLS = 4
_COMMITTED, _APPENDED = 40, 60


def _check_killed(make: MakeJournal) -> None:
    """Have a process die that wrote to a journal, again and again to the same one."""
    context = process_context(make)
    for number in range(_KILLS):
        receiver, sender = context.Pipe(duplex=False)
        with receiver:
            process = context.Process(target=_write_and_die, args=(sender, make, number))
            process.start()
            sender.close()
            told = None
            with suppress(EOFError):
                told = receiver.recv()
            process.join()
            process.close()
        _require(told == "committed", f"a process that wrote to the journal failed: {told}")


def _write_and_die(sender: Connection, make: MakeJournal, number: int) -> None:
    try:
        trio.run(_write, sender, make, number)
    except BaseException as error:
        sender.send(repr(error))


async def _write(sender: Connection, make: MakeJournal, number: int) -> None:
    journal = make("killed")
    await journal.open()
    for each in range(_APPENDED):
        journal.append(_record(each, {"process": number, "number": each}))
        if each + 1 == _COMMITTED:
            await journal.commit()
    sender.send("committed")
    kill_this_process()


async def _check_what_a_kill_left(make: MakeJournal) -> None:
    found = await _kept(make, "killed")
    for number in range(_KILLS):
        numbers = [record.data["number"] for record in found if record.data["process"] == number]
        _require(
            numbers == list(range(len(numbers))),
            "a process was killed, and what is left of its records is no beginning of them: the journal"
            f" holds {numbers}",
        )
        _require(
            len(numbers) >= _COMMITTED,
            f"a process was killed when {_COMMITTED} records had been committed, and {len(numbers)} are left",
        )
    processes = [record.data["process"] for record in found]
    _require(
        processes == sorted(processes), "records of a later process stand before those of an earlier one"
    )
