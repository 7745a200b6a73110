"""Which waits can never end, as a decision over plain values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random

import pytest

from agentpool._core.waits import WaitEdge, hopeless_cycle

Graph = dict[str, Sequence[WaitEdge[str]]]


def _cycle(start: str, graph: Graph) -> tuple[str, ...]:
    return hopeless_cycle(start, graph.get)


def one(*targets: str) -> WaitEdge[str]:
    return WaitEdge(targets)


def every(*targets: str) -> WaitEdge[str]:
    return WaitEdge(targets, needs_all=True)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({}, ""),
        ({"a": [one("b")]}, ""),
        ({"a": [one("a")]}, "a"),
        ({"a": [one("b")], "b": [one("a")]}, "ab"),
        ({"a": [one("b")], "b": [one("c")], "c": [one("a")]}, "abc"),
        ({"a": [one("b")], "b": [one("c")]}, ""),
        # One of several may still help.
        ({"a": [one("b", "x")], "b": [one("a")]}, ""),
        ({"a": [one("b", "c")], "b": [one("a")], "c": [one("a")]}, "ab"),
        # Several tasks of one agent: any of them may go on.
        ({"a": [one("b"), one("x")], "b": [one("a")]}, ""),
        ({"a": [one("b"), one("c")], "b": [one("a")], "c": [one("b")]}, "ab"),
        # All have to end.
        ({"a": [every("b", "x")], "b": [one("a")]}, "ab"),
        ({"a": [every("x", "y")]}, ""),
        ({"a": [every("b")], "b": [one("x")]}, ""),
        # Nobody could ever end it, and all of nobody have ended already.
        ({"a": [one()]}, "a"),
        ({"a": [every()]}, ""),
        # The shortest way back.
        ({"a": [one("b", "c")], "b": [one("d")], "c": [one("a")], "d": [one("a")]}, "ac"),
        # A way that leads into the cycle of others: theirs is told.
        ({"a": [one("b")], "b": [one("c")], "c": [one("b")]}, "bc"),
        ({"a": [one("b")], "b": [one()]}, "ab"),
        # Live by a chain of many.
        ({"a": [one("b", "c")], "b": [one("c")], "c": [one("d", "e")], "d": [one("a")], "e": [one("x")]}, ""),
        # No edges at all: an agent without waits is blocked by something that is none of ours.
        ({"a": []}, "a"),
    ],
)
def test_hopeless_waits_are_told_from_others(graph: Graph, expected: str) -> None:
    assert "".join(_cycle("a", graph)) == expected


def _hopeless_by_definition(graph: Graph) -> set[str]:
    """The complement of the smallest set that is closed under the rule, the slow way."""
    everybody = set(graph) | {t for edges in graph.values() for edge in edges for t in edge.targets}
    live = everybody - set(graph)
    while True:
        more = {
            agent
            for agent, edges in graph.items()
            if agent not in live
            and any((all if edge.needs_all else any)(t in live for t in edge.targets) for edge in edges)
        }
        if not more:
            return everybody - live
        live |= more


def _reached(start: str, graph: Graph, hopeless: set[str]) -> set[str]:
    """Whom the waits of an agent lead to, by way of hopeless ones."""
    reached: set[str] = set()
    todo = [start]
    while todo:
        new = {t for edge in graph.get(todo.pop(), ()) for t in edge.targets if t in hopeless} - reached
        reached |= new
        todo.extend(new)
    return reached


@pytest.mark.parametrize("seed", range(20))
def test_the_decision_is_the_definition_on_random_graphs(seed: int) -> None:
    random = Random(seed)
    for _ in range(200):
        names = "abcdef"[: random.randint(1, 6)]
        graph: Graph = {
            name: [
                WaitEdge([random.choice(names) for _ in range(random.randint(0, 3))], random.random() < 0.4)
                for _ in range(random.randint(1, 2))
            ]
            for name in names
            if random.random() < 0.85
        }
        hopeless = _hopeless_by_definition(graph)
        for name in names:
            path = _cycle(name, graph)
            assert bool(path) == (name in hopeless)
            assert set(path) <= hopeless
            assert len(set(path)) == len(path)
            if not path:
                continue
            reached = _reached(name, graph, hopeless)
            on_cycles = {one for one in reached | {name} if one in _reached(one, graph, hopeless)}
            if not on_cycles:  # who waits for nobody at all is hopeless without a cycle
                assert path[0] == name
                continue
            assert path[0] in on_cycles
            assert (path[0] == name) == (name in on_cycles)
            for waiting, target in itertools.pairwise((*path, path[0])):
                assert any(target in edge.targets for edge in graph[waiting])


def test_a_long_ring_is_found_without_recursion() -> None:
    size = 5000
    graph = {i: [WaitEdge([(i + 1) % size])] for i in range(size)}
    assert hopeless_cycle(0, graph.get) == tuple(range(size))
    graph[size - 1] = [WaitEdge([size])]
    assert hopeless_cycle(0, graph.get) == ()


def test_a_wide_join_on_live_agents_is_seen_at_once() -> None:
    asked = []

    def edges_of(agent: int) -> Sequence[WaitEdge[int]] | None:
        asked.append(agent)
        return [WaitEdge(range(1, 10_000))] if agent == 0 else None

    assert hopeless_cycle(0, edges_of) == ()
    assert len(asked) < 5
