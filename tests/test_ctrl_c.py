"""Ctrl-C strikes anywhere: the program ends, and the books are right. See also `ctrl_c_kit`."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from pool_kit import forever, pool_of, value
from trio.lowlevel import currently_ki_protected

import agentpool._kernel
from agentpool import (
    Aborted,
    AgentContext,
    AgentManifest,
    Completion,
    ScriptedDriver,
    SpawnConfig,
    ToolCall,
    ToolRegistry,
    open_agent_pool,
    tool,
)
from agentpool._kernel import protection

KIT = Path(__file__).with_name("ctrl_c_kit.py")


def test_ctrl_c_at_random_lines_of_the_library_ends_the_program_with_its_books_right() -> None:
    command = [sys.executable, str(KIT), "--strikes", "40", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "strikes in" in done.stdout
    assert "0 went wrong" in done.stdout


def test_every_function_of_the_kernel_says_whether_ctrl_c_may_strike_in_it() -> None:
    marks = trio._core._ki._CODE_KI_PROTECTION_STATUS_WMAP  # type: ignore[attr-defined]
    unprotected = set()
    count = 0
    for info in pkgutil.iter_modules(agentpool._kernel.__path__, "agentpool._kernel."):
        module = importlib.import_module(info.name)
        if module is protection:
            continue
        for function in protection.functions_of(vars(module)):
            count += 1
            try:
                is_protected = marks[function.__code__]
            except KeyError:
                pytest.fail(f"{info.name}.{function.__qualname__} is not marked: see protect_module")
            if not is_protected:
                unprotected.add(function.__qualname__)
    assert count > 200
    assert not unprotected  # users' code is called through those of `protection`


@contextmanager
def pressed() -> Iterator[None]:
    """Expects the Ctrl-C that is pressed inside, as it is."""
    with pytest.raises(KeyboardInterrupt):
        yield


@contextmanager
def ctrl_c_as_in_a_program() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_code_of_the_user_can_be_interrupted_wherever_the_pool_runs_it() -> None:
    seen: dict[str, bool] = {}

    def look(where: str) -> None:
        seen[where] = currently_ki_protected()

    @tool(quick=True)
    def quick() -> str:
        """Look."""
        look("tool")
        return "looked"

    async def task() -> None:
        look("task of an agent")

    async def started(task_status: trio.TaskStatus[None]) -> None:
        look("started task of an agent")
        task_status.started()

    def build(manifest: Any) -> ToolRegistry:
        look("tool_builder")
        return ToolRegistry([quick])

    async def agent(ctx: AgentContext) -> None:
        look("agent")
        async with ctx.open_nursery() as nursery:
            look("block of a nursery")
            nursery.start_soon(task)
            await nursery.start(started)

    def items() -> Iterator[int]:
        look("items")
        yield 1

    async def async_items() -> Any:
        look("async items")
        yield 1

    def key(choice: int) -> int:
        look("key of a vote")
        return choice

    async def main() -> None:
        driver = ScriptedDriver([Completion("", (ToolCall("1", "quick", {}),)), "Done."])
        async with open_agent_pool(driver, max_concurrent=2, tool_builder=build) as pool:
            look("block of the pool")
            await (await pool.spawn(agent)).result()
            await (await pool.spawn(SpawnConfig(AgentManifest(name="a"), "Look."))).result()
            await pool.map(value, items())
            await pool.map(value, async_items())
            async with pool.as_completed(value, items()) as outcomes:
                async for _ in outcomes:
                    look("block of as_completed")
            await pool.vote(value, 1, n=1, key=key)

    with ctrl_c_as_in_a_program():
        trio.run(main)
    assert len(seen) == 11
    assert not any(seen.values()), seen


@pytest.mark.parametrize("where", ["agent", "task", "block", "items"])
def test_ctrl_c_in_code_of_the_user_comes_out_as_it_is_and_aborts_the_others(where: str) -> None:
    handles: list[Any] = []

    def press() -> None:
        signal.raise_signal(signal.SIGINT)

    async def presses(ctx: AgentContext) -> None:
        press()

    async def in_a_task(ctx: AgentContext) -> None:
        async def task() -> None:
            press()

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(task)

    def items() -> Iterator[int]:
        yield 1
        press()

    async def main() -> None:
        async with pool_of(3) as pool:
            handles.append(await pool.spawn(forever))
            match where:
                case "agent":
                    await pool.spawn(presses)
                case "task":
                    await pool.spawn(in_a_task)
                case "block":
                    press()
                case _:
                    await pool.map(value, items())
            await trio.sleep_forever()

    with ctrl_c_as_in_a_program(), pressed():
        trio.run(main)
    assert isinstance(handles[0].outcome, Aborted)


# -- Ctrl-C in the main task, which waits in the library -------------------------------------------


def run_pressed(main: Any) -> BaseException:
    """Run a program on virtual time; Ctrl-C is pressed at second 1, and once more at second 2."""

    async def presses() -> None:
        for _ in range(2):
            await trio.sleep(1)
            signal.raise_signal(signal.SIGINT)  # a system task is protected, so that the main task gets it

    async def program() -> None:
        trio.lowlevel.spawn_system_task(presses)
        await main()

    clock = trio.testing.MockClock(autojump_threshold=0)
    with ctrl_c_as_in_a_program(), pytest.raises(KeyboardInterrupt) as caught:
        trio.run(program, clock=clock)
    return caught.value


async def slow_to_end(ctx: AgentContext) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)


@pytest.mark.parametrize("agent", [forever, slow_to_end])
def test_ctrl_c_ends_a_block_that_waits_at_its_end(agent: Any) -> None:
    handles: list[Any] = []

    async def main() -> None:
        async with pool_of(2) as pool:
            handles.append(await pool.spawn(agent))
            handles.append(await pool.spawn(forever))

    run_pressed(main)
    assert [handle.outcome.reason for handle in handles] == ["Ctrl-C was pressed"] * 2


def test_ctrl_c_while_an_error_leaves_the_pool_tells_of_that_error() -> None:
    async def main() -> None:
        async with pool_of(2) as pool:
            await pool.spawn(slow_to_end)
            await trio.sleep(0.5)
            raise ValueError("of the block")

    pressed = run_pressed(main)
    assert pressed.__notes__ == ["Ctrl-C was pressed while ValueError('of the block') left the pool"]


@pytest.mark.parametrize("verb", ["wait", "map", "as_completed", "race", "join_all", "receive events"])
def test_ctrl_c_ends_every_wait_of_the_block(verb: str) -> None:
    handles: list[Any] = []

    async def main() -> None:
        async with pool_of(3) as pool:
            handles.append(await pool.spawn(forever))
            match verb:
                case "wait":
                    await handles[0].wait()
                case "map":
                    await pool.map(lambda ctx, _: forever(ctx), [1, 2, 3])
                case "as_completed":
                    async with pool.as_completed(lambda ctx, _: forever(ctx), iter([1, 2])) as outcomes:
                        async for _ in outcomes:
                            pass
                case "race":
                    await pool.race(forever, forever)
                case "join_all":
                    await pool.join_all()
                case _:
                    async with pool.events() as events:
                        async for _ in events:
                            pass

    run_pressed(main)
    assert isinstance(handles[0].outcome, Aborted)


@trio.lowlevel.enable_ki_protection
def press_here() -> None:
    """Press Ctrl-C where it may not strike, so that it comes at the next checkpoint."""
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("error", [None, ValueError("of the block")])
@pytest.mark.parametrize("items", [[1, 2, 3], itertools.repeat(1)])
def test_ctrl_c_just_before_a_block_of_as_completed_is_left_comes_out_as_it_is(
    items: Any, error: Exception | None
) -> None:
    handles: list[Any] = []

    async def main() -> None:
        async with pool_of(3) as pool:
            handles.append(await pool.spawn(forever))
            async with pool.as_completed(lambda ctx, _: forever(ctx), items):
                await trio.sleep(0.5)
                press_here()
                if error is not None:
                    raise error

    pressed = run_pressed(main)
    assert isinstance(handles[0].outcome, Aborted)
    text = "".join(traceback.format_exception(pressed))
    assert ("of the block" in text) is (error is not None)
    notes = "".join(getattr(pressed, "__notes__", ()))
    if not isinstance(items, list):  # Ctrl-C comes while the block waits for the feeder
        assert ("ValueError('of the block') left the block" in notes) is (error is not None)
    assert "None" not in notes


def test_ctrl_c_just_before_a_pool_is_left_hides_no_failure() -> None:
    async def fails(ctx: AgentContext) -> None:
        raise ValueError("of an agent")

    async def main() -> None:
        async with pool_of(3) as pool:
            await pool.spawn(fails)
            await trio.sleep(0.5)
            press_here()

    assert "of an agent" in "".join(traceback.format_exception(run_pressed(main)))
