"""A run that is killed in the middle of the night, and goes on in the morning: python examples/overnight.py

The first process reads pages and dies. The second one resumes the journal: no page is read twice, and what
was spent of the budget stays spent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import trio

from agentpool import (
    AgentContext,
    Budget,
    Completion,
    CompletionRequest,
    ScriptedDriver,
    SqliteJournal,
    TokenUsage,
    UserMessage,
    open_agent_pool,
    resume_agent_pool,
)

PAGES = ["rivers", "mountains", "lakes", "forests"]


async def fetch(page: str) -> str:
    print(f"  fetching {page}", flush=True)
    return f"All about {page}."


async def summary_of(ctx: AgentContext, page: str) -> str:
    text = await ctx.step("fetch", fetch, page)
    if page == "lakes" and "first" in sys.argv:
        os._exit(9)  # the plug is pulled
    assert ctx.driver is not None
    answer = await ctx.driver.complete(CompletionRequest("model", (UserMessage(text),), max_tokens=100))
    return answer.text


async def librarian(ctx: AgentContext) -> list[str]:
    outcomes = await ctx.map(summary_of, PAGES)
    return [outcome.unwrap() for outcome in outcomes]


def answer(request: CompletionRequest) -> Completion:
    return Completion("A short text.", usage=TokenUsage(20, 5))


async def first_night(path: Path) -> None:
    driver = ScriptedDriver(answer)
    async with open_agent_pool(
        driver, max_concurrent=1, journal=SqliteJournal(path), budget=Budget(tokens=10_000)
    ) as pool:
        await (await pool.spawn(librarian)).result()


async def next_morning(path: Path) -> None:
    async with resume_agent_pool(path, ScriptedDriver(answer)) as pool:
        (handle,) = pool.resumed
        print(f"the report has {len(await handle.result())} parts")


def main() -> None:
    if "first" in sys.argv:
        trio.run(first_night, Path(sys.argv[-1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.db"
        print("the first night:", flush=True)
        killed = subprocess.run([sys.executable, __file__, "first", str(path)], check=False)
        print(f"it was killed: {killed.returncode}\nthe next morning:")
        trio.run(next_morning, path)


if __name__ == "__main__":
    main()
