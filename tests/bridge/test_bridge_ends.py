"""How bridges end in ways that nobody planned: loops that are closed, coroutines that are thrown away."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from queue import Empty
from typing import Any

import outcome
import pytest
import trio
from bridge_kit import check_books, double, nothing_left, run_asyncio, sleeping

from agentpool import Aborted, AgentContext, open_agent_pool
from agentpool.bridge import (
    AsyncioAgentContext,
    AsyncioAgentPool,
    asyncio_agent,
    open_agent_pool_asyncio,
    open_agent_pool_blocking,
)
from agentpool.bridge._calls import Call
from agentpool.bridge._host import Host
from agentpool.bridge._threads import Mailbox


async def sleep_there(ctx: AsyncioAgentContext) -> None:
    await asyncio.sleep(1_000_000)


async def numbers() -> AsyncIterator[int]:
    for number in range(1_000_000):
        yield number
        await asyncio.sleep(0)


def test_a_pool_whose_loop_is_closed_around_it_is_cancelled_and_its_thread_ends() -> None:
    pools: list[AsyncioAgentPool] = []

    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=5) as pool:
            await pool.spawn(sleeping)
            await pool.spawn(asyncio_agent(sleep_there))
            await asyncio.sleep(0.01)
            pools.append(pool)
            await asyncio.sleep(1_000_000)

    with nothing_left():
        loop = asyncio.new_event_loop()
        coroutine = main()

        async def begin() -> None:
            task = loop.create_task(coroutine)
            while not pools:
                await asyncio.sleep(0.001)
            task._log_destroy_pending = False  # type: ignore[attr-defined]

        loop.run_until_complete(begin())
        loop.close()
        coroutine.close()
        gc.collect()
        for thread in threading.enumerate():
            if thread.name == "agentpool":
                thread.join(30)
    check_books(pools[0])
    assert {type(handle) for handle in (pools[0]._host.pool.statistics().stuck)} == set()


def test_an_input_whose_loop_is_closed_has_failed() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:

            async def elsewhere() -> None:
                """A loop that is left while its input is in use."""
                block = pool.as_completed(double, numbers())
                done = await block.__aenter__()
                await anext(done)

            def run_elsewhere() -> None:
                loop = asyncio.new_event_loop()
                loop.run_until_complete(elsewhere())
                for task in asyncio.all_tasks(loop):
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                loop.close()

            await asyncio.to_thread(run_elsewhere)
            gc.collect()
            await pool.join_all()

    run_asyncio(main)


def test_a_failure_beside_a_cancellation_comes_out_and_the_cancellation_comes_next() -> None:
    async def unclean(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in its cleanup")

    async def main() -> None:
        seen: list[str] = []

        async def work() -> None:
            try:
                async with open_agent_pool_asyncio(max_concurrent=5) as pool:
                    await pool.spawn(unclean)
                    await asyncio.sleep(0.01)
                    inside.set()  # and then it waits at its end
            except BaseExceptionGroup as group:
                seen.append(str(group.exceptions[0]))
            await asyncio.sleep(1_000_000)

        inside = asyncio.Event()
        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["in its cleanup"]

    run_asyncio(main)


def test_a_block_that_is_cancelled_as_something_fatal_ends_it_stays_cancelled() -> None:
    class Stop(BaseException):
        pass

    async def stopping(ctx: AgentContext) -> None:
        raise Stop

    async def main() -> None:
        caught: list[str] = []

        async def work() -> None:
            try:
                async with open_agent_pool_asyncio(max_concurrent=5) as pool:
                    await pool.spawn(stopping)
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel("by somebody else")
                    await asyncio.sleep(1_000_000)
            except Stop:
                caught.append("stop")
            await asyncio.sleep(1_000_000)

        for _ in range(30):
            caught.clear()
            task = asyncio.create_task(work())
            with pytest.raises(asyncio.CancelledError):
                await task
            assert caught in ([], ["stop"])

    run_asyncio(main)


def test_an_abort_while_the_loop_of_the_pool_is_opened() -> None:
    async def there(ctx: AsyncioAgentContext) -> None:
        await asyncio.sleep(1_000_000)

    async def main() -> None:
        for rounds in range(60):
            async with open_agent_pool(max_concurrent=5) as pool:
                handles = [await pool.spawn(asyncio_agent(there)) for _ in range(3)]
                for _ in range(rounds % 20):
                    await trio.lowlevel.checkpoint()
                for handle in handles:
                    handle.abort("at once")
                assert {type(await handle.wait()) for handle in handles} == {Aborted}

    with nothing_left():
        trio.run(main)


def test_an_abort_before_the_first_step_over_there() -> None:
    ran: list[int] = []

    async def there(ctx: AsyncioAgentContext) -> None:
        ran.append(1)
        await asyncio.sleep(1_000_000)

    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=50) as pool:
            for _ in range(50):
                handle = await pool.spawn(asyncio_agent(there))
                handle.abort("at once")
                assert isinstance(await handle.wait(), Aborted)

    run_asyncio(main)


PROGRAM = """
import signal, sys, threading, time, trio
from contextlib import asynccontextmanager
from agentpool.bridge import open_agent_pool_blocking

closed = []

@asynccontextmanager
async def slow():
    try:
        print("ready", flush=True)
        await trio.sleep_forever()
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
        closed.append(1)

try:
    with open_agent_pool_blocking(slow(), max_concurrent=1):
        print("never")
except KeyboardInterrupt:
    print("pressed", len(closed), threading.active_count(), flush=True)
    sys.exit(130)
"""


def test_ctrl_c_while_a_driver_is_opened_breaks_that_off() -> None:
    command = [sys.executable, "-X", "dev", "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "pressed 1 1\n", "")


def test_ctrl_c_in_the_middle_of_a_call_cancels_it_and_waits_for_its_end() -> None:
    """Wherever it strikes: before trio was asked, after that, and in the wait."""
    steps: list[str] = []

    def wait() -> BaseException | None:
        steps.append("wait")
        if len(steps) < 5:
            raise KeyboardInterrupt(len(steps))
        return TimeoutError("later")

    ended_by = Mailbox(Host(Any, None, None, None)).insist(wait, lambda: steps.append("cancel"))
    assert steps == ["wait", "cancel", "wait", "cancel", "wait"]
    assert isinstance(ended_by, KeyboardInterrupt)

    with open_agent_pool_blocking(max_concurrent=1) as pool:
        begun: list[int] = []

        async def begin() -> None:
            begun.append(1)
            await trio.sleep(0.01)

        mailbox = Mailbox(pool._host)
        call: Call[None] = Call(begin, (), mailbox.tell)
        for _ in range(3):  # as after a Ctrl-C of which nobody knows whether trio was asked
            pool._host.post(call)
        assert mailbox.wait_until(lambda: call.ended, list) is None
        assert begun == [1]
        assert call.result == outcome.Value(None)


SLOW_TO_REST = """
import time, trio
from agentpool import DeadlockError
from agentpool.bridge import _threads, open_agent_pool_blocking

async def listening(ctx):
    try:
        await ctx.receive_for_model()
    except DeadlockError:
        return "nobody"

plain = _threads.Mailbox._get

def slow(mailbox, timeout):
    time.sleep(0.05)  # trio has looked by now, and sleeps
    return plain(mailbox, timeout)

_threads.Mailbox._get = slow
with open_agent_pool_blocking(max_concurrent=1) as pool:
    print(pool.spawn(listening).result())
"""


def test_a_thread_that_begins_to_rest_late_is_seen() -> None:
    command = [sys.executable, "-c", SLOW_TO_REST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("nobody\n", "")


def test_ctrl_c_while_it_waits_is_noted_and_strikes_when_it_is_over() -> None:
    """Pressed between any two steps: it cancels once, and what was begun is waited for."""
    mailbox = Mailbox(Host(Any, None, None, None))
    steps: list[str] = []

    def cancel() -> None:
        signal.raise_signal(signal.SIGINT)
        steps.append("cancel")

    def wait() -> BaseException | None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        steps.append("begin")
        ended_by = mailbox.wait_until(lambda: len(steps) == 2, cancel)
        signal.raise_signal(signal.SIGINT)
        return ended_by

    assert isinstance(mailbox.insist(wait, cancel), KeyboardInterrupt)
    assert steps == ["begin", "cancel"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # The next wait knows nothing of it.
    assert mailbox.insist(lambda: mailbox.wait_until(lambda: True, cancel), cancel) is None
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_just_before_a_wait_begins_is_heard() -> None:
    """Nothing ends a wait for a lock if the signal came in the instant before."""
    mailbox = Mailbox(Host(Any, None, None, None))
    cancelled: list[bool] = []

    class Deaf:
        """A queue whose first wait no signal ends."""

        plain = mailbox._queue
        has_waited = False

        def get(self, timeout: float | None = None) -> Any:
            if self.has_waited:
                return self.plain.get(timeout=timeout)
            self.has_waited = True
            signal.raise_signal(signal.SIGINT)
            assert timeout is not None, "it waits for ever"
            raise Empty

        def put(self, item: Any) -> None:
            self.plain.put(item)

        def empty(self) -> bool:
            return self.plain.empty()

    mailbox._queue = Deaf()  # type: ignore[assignment]

    def cancel() -> None:
        cancelled.append(True)
        mailbox.tell()  # as what ends does

    assert isinstance(
        mailbox.insist(lambda: mailbox.wait_until(lambda: bool(cancelled), cancel), cancel), KeyboardInterrupt
    )


def test_ctrl_c_strikes_in_an_input_that_is_iterated_meanwhile() -> None:
    mailbox = Mailbox(Host(Any, None, None, None))
    steps: list[str] = []

    def take() -> None:
        steps.append("take")
        signal.raise_signal(signal.SIGINT)
        steps.append("went on")

    mailbox.want(take)
    ended_by = mailbox.insist(
        lambda: mailbox.wait_until(lambda: len(steps) == 2, lambda: None), lambda: steps.append("cancel")
    )
    assert isinstance(ended_by, KeyboardInterrupt)
    assert steps == ["take", "cancel"]


def test_ctrl_c_after_an_item_was_taken_is_noted_again() -> None:
    mailbox = Mailbox(Host(Any, None, None, None))
    inside: list[Any] = []

    def wait() -> BaseException | None:
        mailbox.want(lambda: inside.append(signal.getsignal(signal.SIGINT)))
        ended_by = mailbox.wait_until(lambda: bool(inside), list)
        inside.append(signal.getsignal(signal.SIGINT))
        return ended_by

    assert mailbox.insist(wait, list) is None
    assert inside[0] is signal.default_int_handler
    assert inside[1] is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_programs_own_handler_of_ctrl_c_stays() -> None:
    mailbox = Mailbox(Host(Any, None, None, None))
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        own = signal.getsignal(signal.SIGINT)

        def wait() -> None:
            assert signal.getsignal(signal.SIGINT) is own
            signal.raise_signal(signal.SIGINT)

        assert mailbox.insist(wait, list) is None
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("times", [3, 30])
def test_ctrl_c_again_and_again_does_not_leave_the_pool_behind(times: int) -> None:
    program = """
import sys, threading, trio
from agentpool.bridge import open_agent_pool_blocking

async def agent(ctx):
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            print("cleaning", flush=True)
            await trio.sleep(1)

try:
    with open_agent_pool_blocking(max_concurrent=1) as pool:
        handle = pool.spawn(agent)
        print("ready", flush=True)
        handle.wait()
except KeyboardInterrupt:
    print("pressed", handle.status, threading.active_count(), flush=True)
    sys.exit(130)
"""
    command = [sys.executable, "-X", "dev", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "cleaning\n"
        for _ in range(times):
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "pressed aborted 1\n", "")


def test_a_function_that_nobody_awaits_any_more_has_no_thread_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of a pool on trio ends, whatever its tasks do."""
    from agentpool.bridge import _job

    monkeypatch.setattr(_job, "CLEANUP_TIME", 0.01)
    monkeypatch.setattr(_job, "AGAIN", 0.01)
    kept: list[Any] = []

    async def stubborn() -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(1_000_000)
            except asyncio.CancelledError:
                continue

    async def there(ctx: AsyncioAgentContext) -> None:
        kept.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1) as pool:
            await (await pool.spawn(asyncio_agent(there))).result()
            assert kept[0].done()

    with nothing_left():
        trio.run(main)
