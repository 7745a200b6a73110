"""Which waits can never end: the wait-for graph, as a decision over plain values.

An agent is *blocked* when all of its tasks wait; each of these waits is an edge to the agents
that could end it. An agent that is not blocked, or that waits for something which the graph does
not hold (a message, a slot, a deadline), is *live*: it may still do anything. A blocked agent is
live as soon as one of its edges may end, so what is hopeless is the complement of the smallest
set that contains the live agents and is closed under that rule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Generic, TypeAlias, TypeVar

import attrs

A = TypeVar("A", bound=Hashable)
"""Whatever stands for an agent."""


@attrs.frozen
class WaitEdge(Generic[A]):
    """One wait of a blocked agent.

    Attributes:
      targets: the agents whose progress could end it.
      needs_all: whether all of them have to come to an end (`join_all`), or any of them.
    """

    targets: Collection[A]
    needs_all: bool = False


EdgesOf: TypeAlias = Callable[[A], Sequence[WaitEdge[A]] | None]
"""The edges of an agent, one for each of its waits; None for an agent that is live by itself."""


def hopeless_cycle(start: A, edges_of: EdgesOf[A]) -> tuple[A, ...]:
    """Return a cycle that makes the waits of `start` hopeless; empty if none does.

    It begins with `start` if `start` lies on one. Else it is one that `start` leads to: several waits
    may become hopeless in one step, and each of them is judged for itself.
    """
    if _soon_live(start, edges_of):
        return ()
    graph = _reachable(start, edges_of)
    live = _live(graph, edges_of)
    if start in live:
        return ()
    return _cycle(start, graph, live)


def _soon_live(start: A, edges_of: EdgesOf[A]) -> bool:
    """Whether a chain of single waits ends at a live agent: the ordinary case, without a graph."""
    seen = set()
    agent = start
    while agent not in seen:
        seen.add(agent)
        edges = edges_of(agent)
        if edges is None:
            return True
        if len(edges) != 1 or (edges[0].needs_all and len(edges[0].targets) > 1):
            return False
        targets = edges[0].targets
        for target in targets:
            if edges_of(target) is None:
                return True
        if len(targets) != 1:
            return False
        (agent,) = targets
    return False


def _reachable(start: A, edges_of: EdgesOf[A]) -> dict[A, Sequence[WaitEdge[A]]]:
    """A blocked agent, and those that it waits for, directly or not."""
    edges = edges_of(start)
    assert edges is not None
    graph = {start: edges}
    todo = [start]
    while todo:
        for edge in graph[todo.pop()]:
            for target in edge.targets:
                if target in graph:
                    continue
                edges = edges_of(target)
                if edges is not None:
                    graph[target] = edges
                    todo.append(target)
    return graph


def _live(graph: dict[A, Sequence[WaitEdge[A]]], edges_of: EdgesOf[A]) -> set[A]:
    """The agents of the graph that may still go on: the smallest set closed under the rule."""
    waited_for_by: dict[A, list[A]] = {}
    for agent, edges in graph.items():
        for edge in edges:
            for target in edge.targets:
                waited_for_by.setdefault(target, []).append(agent)
    live = {target for target in waited_for_by if target not in graph}
    todo = list(graph)
    while todo:
        agent = todo.pop()
        if agent in live or not any(_may_end(edge, live) for edge in graph[agent]):
            continue
        live.add(agent)
        todo.extend(waited_for_by.get(agent, ()))
    return live


def _may_end(edge: WaitEdge[A], live: set[A]) -> bool:
    meets = all if edge.needs_all else any
    return meets(target in live for target in edge.targets)


def _cycle(start: A, graph: dict[A, Sequence[WaitEdge[A]]], live: set[A]) -> tuple[A, ...]:
    """The shortest cycle through `start`, or through the nearest agent that lies on one."""
    way, reached = _way_back(start, graph, live)
    for agent in () if way else reached[1:]:
        way, _ = _way_back(agent, graph, live)
        if way:
            break
    return way or tuple(reached)  # who waits for nobody at all is hopeless without a cycle


def _way_back(
    start: A, graph: dict[A, Sequence[WaitEdge[A]]], live: set[A]
) -> tuple[tuple[A, ...], Sequence[A]]:
    """The shortest way from `start` back to itself through hopeless agents, and whom it leads to."""
    came_from: dict[A, A] = {}
    todo = [start]
    for agent in todo:
        for edge in graph[agent]:
            for target in edge.targets:
                if target == start:
                    return _way(start, agent, came_from), todo
                if target not in live and target not in came_from:
                    came_from[target] = agent
                    todo.append(target)
    return (), todo


def _way(start: A, last: A, came_from: dict[A, A]) -> tuple[A, ...]:
    way = [last]
    while way[-1] != start:
        way.append(came_from[way[-1]])
    return tuple(reversed(way))
