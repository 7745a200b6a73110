"""One signature is enough for spawn: what mypy and pyright make of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

GOOD = """
from __future__ import annotations

from functools import partial

from typing import assert_never, assert_type

from attrs import frozen

from agentpool import (
    Aborted, AgentContext, AgentHandle, AgentOutcome, AgentPool, AgentResult, SpawnConfig, AgentManifest,
    ChildSpec, Completed, Completion, CompletionRequest, Failed, ModelAgent, ScriptedDriver, Supervisor,
    Verdict,
)
from agentpool.bridge import (
    AsyncioAgentContext, AsyncioAgentHandle, AsyncioAgentPool, BlockingAgentHandle, BlockingAgentPool,
    asyncio_agent, asyncio_function,
)


@frozen
class Answer:
    number: int


async def no_arguments(ctx: AgentContext) -> int:
    return 1


async def two_arguments(ctx: AgentContext, a: int, b: str) -> bytes:
    return b""


class Agent:
    async def __call__(self, ctx: AgentContext, a: int) -> str:
        return ""

    async def method(self, ctx: AgentContext) -> float:
        return 1.0


async def there(ctx: AsyncioAgentContext, a: int) -> list[int]:
    assert_type(await (await ctx.spawn(two_arguments, 1, "b")), bytes)
    assert_type(await ctx.map(no_argument_but_one, [1]), list[AgentOutcome[int]])
    return [a]


async def no_argument_but_one(ctx: AgentContext, a: int) -> int:
    return a


def use_blocking(pool: BlockingAgentPool) -> None:
    assert_type(pool.spawn(two_arguments, 1, "b"), BlockingAgentHandle[bytes])
    assert_type(pool.spawn(asyncio_agent(there), 1).result(), list[int])
    assert_type(pool.map(no_argument_but_one, [1]), list[AgentOutcome[int]])
    assert_type(pool.race(no_arguments), AgentOutcome[int])
    with pool.as_completed(no_argument_but_one, [1]) as done:
        for outcome in done:
            assert_type(outcome, AgentOutcome[int])


async def use_asyncio(pool: AsyncioAgentPool) -> None:
    assert_type(await pool.spawn(two_arguments, 1, "b"), AsyncioAgentHandle[bytes])
    assert_type(await (await pool.spawn(asyncio_agent(there), 1)), list[int])
    assert_type(await pool.map(no_argument_but_one, [1]), list[AgentOutcome[int]])
    assert_type(await asyncio_function(plain)("a"), int)
    async with pool.as_completed(no_argument_but_one, [1]) as done:
        async for outcome in done:
            assert_type(outcome, AgentOutcome[int])


async def plain(a: str) -> int:
    return len(a)


async def use(pool: AgentPool, ctx: AgentContext) -> None:
    assert_type(await pool.spawn(no_arguments), AgentHandle[int])
    assert_type(await pool.spawn(no_arguments, name="x", timeout=3), AgentHandle[int])
    assert_type(await pool.spawn(two_arguments, 1, "b"), AgentHandle[bytes])
    assert_type(await (await ctx.spawn(two_arguments, 1, "b")).result(), bytes)
    assert_type(pool.spawn_nowait(Agent(), 3), AgentHandle[str])
    assert_type(await pool.spawn(Agent().method), AgentHandle[float])
    bound = partial(two_arguments, b="b")
    handle = await pool.spawn(bound, 1)
    assert_type(await handle.result(), bytes)
    config = SpawnConfig(AgentManifest(name="m"), "query")
    assert_type((await (await pool.spawn(config)).result()).text, str)
    outcomes = await pool.map(Agent(), [1, 2])
    assert_type(outcomes, list[AgentOutcome[str]])
    assert_type(await pool.race(no_arguments, no_arguments), AgentOutcome[int])
    assert_type(await pool.vote(two_arguments, 1, "b", n=3), Verdict[bytes])
    async with ctx.as_completed(Agent(), [1]) as done:
        async for outcome in done:
            assert_type(outcome, AgentOutcome[str])
            match outcome:
                case Completed(value=value):
                    assert_type(value, str)
                case Failed(error=error):
                    assert_type(error, BaseException)
                case Aborted(reason=reason):
                    assert_type(reason, str | None)
                case _:
                    assert_never(outcome)
    assert_type([one.value for one in outcomes if isinstance(one, Completed)], list[str])
    verdict = await ctx.vote(two_arguments, 1, "b", n=3, key=lambda value: value[:1])
    if verdict.winner is not None:
        assert_type(verdict.winner, bytes)
    match await pool.join_next():
        case None:
            pass
        case Completed() as completed:
            print(completed.value)
        case Failed() | Aborted() as other:
            print(other.duration)
    model = ModelAgent(AgentManifest(name="m"), output_type=Answer)
    answers = await pool.map(model, ["a", "b"])
    assert_type([one.value.output for one in answers if isinstance(one, Completed)], list[Answer])
    voted = await pool.vote(model, "a", n=3)
    assert_type(None if voted.winner is None else voted.winner.output, Answer | None)
    supervisor = await pool.spawn(Supervisor([no_arguments, ChildSpec(two_arguments, (1, "b"))]))
    assert_type(await supervisor.result(), int)
    AgentManifest(name="m", capabilities=["messaging", {"type": "spawn", "max_depth": 2}])


async def asynchronous(request: CompletionRequest) -> Completion:
    return Completion("x")


ScriptedDriver(lambda request: request.model or "x")
ScriptedDriver(asynchronous)
"""

BAD = """
from agentpool import AgentContext, AgentPool


async def agent(ctx: AgentContext, a: int) -> bytes:
    return b""


async def use(pool: AgentPool) -> None:
    await pool.spawn(agent, "not an int")  # line 10
    await pool.spawn(agent)  # line 11
    await pool.spawn(agent(3))  # line 12
    await pool.map(agent, ["not an int"])  # line 13
    text: str = await (await pool.spawn(agent, 1)).result()  # line 14
"""


def _check(checker: str, folder: Path, text: str) -> tuple[int, str]:
    file = folder / "use_spawn.py"
    file.write_text(text)
    if checker == "mypy":
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--cache-dir",
            str(folder.parent / "mypy"),
            str(file),
        ]
    else:
        if shutil.which("pyright") is None and not (Path(sys.executable).parent / "pyright").exists():
            pytest.skip("pyright is not installed")
        command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_spawn_map_race_and_vote_are_typed(checker: str, tmp_path: Path) -> None:
    pytest.importorskip(checker)
    code, output = _check(checker, tmp_path, GOOD)
    assert code == 0, output


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_wrong_arguments_are_found(checker: str, tmp_path: Path) -> None:
    pytest.importorskip(checker)
    code, output = _check(checker, tmp_path, BAD)
    assert code == 1, output
    for line in range(10, 15):
        assert f"use_spawn.py:{line}:" in output, (line, output)
