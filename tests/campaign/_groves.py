"""Random trees of agents that wait from threads, as data."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cached_property

import attrs


@attrs.frozen
class Node:
    """What an agent of a tree does, and those below it.

    Attributes:
      number: counts the nodes of a program.
      where: in which thread it works; a key of `_threads.PLACES`.
      verb: how it waits for its children; a key of `_threads.VERBS`.
    """

    number: int
    where: str
    verb: str
    children: tuple[Node, ...] = ()

    def walk(self) -> Iterator[Node]:
        """Yield this node and those below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def size(self) -> int:
        """How many nodes there are from here on."""
        return sum(1 for _ in self.walk())


@attrs.frozen
class Grove:
    """A program of trees.

    Attributes:
      trees: their roots.
      max_concurrent: of the pool.
      threads, own: tokens of trio's thread limiter, and of one of the program's own.
      blow: after so many steps of agents somebody strikes; 0 for never.
      kind: how: "one" agent is aborted, "all" are, or the scope "around" the pool is cancelled.
      seed: of the programs in runs of their own.
    """

    trees: tuple[Node, ...]
    max_concurrent: int
    threads: int
    own: int
    blow: int
    kind: str
    seed: int

    @cached_property
    def nodes(self) -> dict[int, Node]:
        """Every node by its number."""
        return {node.number: node for tree in self.trees for node in tree.walk()}


_VERBS = ("results", "join_all", "join_next", "ask", "nursery")
_LEAVES = ("plain", "body", "body", "tool", "deep", "own", "listen", "listen", "run")
_INNER = ("plain", "body", "body", "tool", "tool", "deep")


def draw_grove(seed: int) -> Grove:
    """Return the program of a seed: always the same one."""
    rng = random.Random(f"agentpool grove {seed}")
    count = 0

    def node(levels: int) -> Node:
        nonlocal count
        count += 1
        number = count
        width = rng.randint(1, 3) if levels and count < 14 else 0
        where = rng.choice(_INNER if width else _LEAVES)
        return Node(number, where, rng.choice(_VERBS), tuple(node(levels - 1) for _ in range(width)))

    trees = tuple(node(rng.randint(0, 3)) for _ in range(rng.randint(1, 4)))
    return Grove(
        trees,
        max_concurrent=rng.choice([1, 1, 2, 4]),
        threads=rng.choice([1, 1, 2, 3, 4]),
        own=rng.choice([1, 2, 4]),
        blow=rng.choice([0, 0, 0, rng.randint(1, 20)]),
        kind=rng.choice(["one", "one", "all", "around"]),
        seed=seed,
    )
