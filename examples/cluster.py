"""Words of files counted in worker processes: without a cluster in this program, or on one of Ray.

python examples/cluster.py FOLDER                      # the workers are within this program
python examples/cluster.py FOLDER --ray 10.0.0.1:6379  # on a cluster, where each node has the folder
python examples/cluster.py FOLDER --ray local          # on a cluster of this machine alone
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import trio

from agentpool import AgentContext, Failed, RestartPolicy, WorkerLostError, open_agent_pool, placed
from agentpool.abc import Placement

AGAIN = RestartPolicy("transient", max_restarts=2, within=3600)


async def count_words(ctx: AgentContext, path: Path) -> Counter[str]:
    """Count in a worker: what is returned is pickled, and comes back."""
    text = await trio.Path(path).read_text("utf-8", "replace")
    return Counter(word.strip(".,:;()`*").lower() for word in text.split())


async def add_up(ctx: AgentContext, paths: list[Path]) -> Counter[str]:
    """Spawn the others. It has no mark, so it runs here, beside the pool."""
    total: Counter[str] = Counter()
    for path in paths:
        # Counting twice does no harm, so a file whose worker is lost is counted again, in another one.
        await ctx.spawn(placed(count_words), path, name=path.name, restart=AGAIN)
    for outcome in (await ctx.join_all()).values():
        if isinstance(outcome, Failed) and isinstance(outcome.error, WorkerLostError):
            print(f"not counted: {outcome.name}: {outcome.error}")
        else:
            total += outcome.unwrap()
    return total


async def main(paths: list[Path], placement: Placement) -> None:
    async with open_agent_pool(max_concurrent=32, placement=placement) as pool:
        total = await (await pool.spawn(add_up, paths)).result()
    for word, count in total.most_common(10):
        print(f"{count:6} {word}")


def placement_for(address: str | None) -> Placement:
    if address is None:
        from agentpool.testing import InProcessPlacement

        return InProcessPlacement(workers=2)
    from agentpool.ray import RayPlacement

    return RayPlacement(address=address)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Count the words of the Markdown files below a folder.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster; `agentpool cluster` tells more")
    options = parser.parse_args()
    found = sorted(options.folder.resolve().rglob("*.md"))
    trio.run(main, found, placement_for(options.ray))
