"""Map-reduce over files: one agent counts the words of each file, one adds them up.

python examples/map_reduce.py FOLDER
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import trio

from agentpool import AgentContext, open_agent_pool


async def count_words(ctx: AgentContext, path: Path) -> Counter[str]:
    text = await trio.Path(path).read_text("utf-8")
    return Counter(word.strip(".,:;()`*").lower() for word in text.split())


async def add_up(ctx: AgentContext, paths: list[Path]) -> Counter[str]:
    """Read the files with at most `max_concurrent` agents, adding each count as it comes."""
    total: Counter[str] = Counter()
    async with ctx.as_completed(count_words, paths) as counts:
        async for outcome in counts:
            total += outcome.unwrap()
    return total


async def main(paths: list[Path]) -> None:
    async with open_agent_pool(max_concurrent=8) as pool:
        reducer = await pool.spawn(add_up, paths)
        for word, count in (await reducer.result()).most_common(10):
            print(f"{count:6} {word}")


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    trio.run(main, sorted(folder.rglob("*.md")))
