"""What a parent may do and what its child asks for come to what the child may do."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool import (
    BrowserCapability,
    FileReadCapability,
    FileWriteCapability,
    McpCapability,
    MemoryCapability,
    NetworkCapability,
    PrivacyTier,
    ShellCapability,
    SpawnCapability,
)
from agentpool._core.capability import Capability, grants, inherited, narrowed
from agentpool._core.grants import EVERYTHING, Grants
from agentpool._core.sandboxing import CommandLimits

# -- everything that a small world has ---------------------------------------------------

PATHS = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/d", "/a/../d", "/a/./b", "/d/", "//a", "."]
NAMES = ["*", "git", "ls"]
HOSTS = ["*", "example.com", "localhost"]
SERVERS = ["*", "docs", "shop"]
TOOLS = ["*", "read", "buy"]
TEAM = ["*", "ann", "bob"]


def _some(names: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(names), max_size=3).map(tuple)


CAPABILITIES: st.SearchStrategy[Capability] = st.one_of(
    st.just(MemoryCapability()),
    st.just(BrowserCapability()),
    _some(PATHS).map(FileReadCapability),
    _some(PATHS).map(FileWriteCapability),
    _some(NAMES).map(ShellCapability),
    _some(HOSTS).map(NetworkCapability),
    st.builds(SpawnCapability, st.integers(1, 4), _some(TEAM)),
    st.builds(McpCapability, st.sampled_from(SERVERS), st.sampled_from(TOOLS)),
)
SETS = st.lists(CAPABILITIES, max_size=6).map(tuple)

SINGLE: list[Capability] = [
    MemoryCapability(),
    BrowserCapability(),
    *(kind((path,)) for kind in (FileReadCapability, FileWriteCapability) for path in [*PATHS, "/x", "x"]),
    *(ShellCapability((name,)) for name in [*NAMES, "rm"]),
    *(NetworkCapability((host,)) for host in [*HOSTS, "evil.example"]),
    *(SpawnCapability(depth, (name,)) for depth in range(1, 6) for name in [*TEAM, "eve"]),
    *(McpCapability(server, tool) for server in [*SERVERS, "other"] for tool in [*TOOLS, "sell"]),
]
"""Each thing of that world that a tool may need."""


def reach(granted: tuple[Capability, ...] | None) -> set[Capability]:
    return {need for need in SINGLE if granted is None or grants(granted, need)}


@given(SETS, SETS)
def test_a_child_may_do_what_both_grant_and_nothing_else(
    parent: tuple[Capability, ...], asked: tuple[Capability, ...]
) -> None:
    assert reach(narrowed(parent, asked)) == reach(parent) & reach(asked)


@given(SETS)
def test_who_asks_for_what_it_has_gets_that(asked: tuple[Capability, ...]) -> None:
    assert reach(narrowed(asked, asked)) == reach(asked)
    assert narrowed(None, asked) == asked
    once = narrowed(asked, asked)
    assert narrowed(once, once) == once


@given(SETS, SETS, SETS)
def test_the_order_in_which_it_is_narrowed_makes_no_difference(
    one: tuple[Capability, ...], two: tuple[Capability, ...], three: tuple[Capability, ...]
) -> None:
    assert reach(narrowed(one, two)) == reach(narrowed(two, one))
    assert reach(narrowed(narrowed(one, two), three)) == reach(narrowed(one, narrowed(two, three)))


@given(st.none() | SETS, st.lists(SETS, min_size=1, max_size=6))
def test_down_a_line_of_agents_each_may_do_what_its_parent_may_with_one_level_less(
    root: tuple[Capability, ...] | None, line: list[tuple[Capability, ...]]
) -> None:
    parent = root
    for asked in line:
        limit = None if parent is None else inherited(parent)
        child = narrowed(limit, asked)
        assert reach(child) <= reach(parent)
        assert reach(child) <= reach(asked)
        if parent is not None:
            assert _levels(child) <= max(_levels(parent) - 1, 0)
        parent = child


def _levels(granted: tuple[Capability, ...]) -> int:
    return max((each.max_depth for each in granted if isinstance(each, SpawnCapability)), default=0)


@given(SETS, SETS)
def test_no_path_of_a_child_climbs(parent: tuple[Capability, ...], asked: tuple[Capability, ...]) -> None:
    for each in narrowed(parent, asked):
        for item in attrs.astuple(each):
            if isinstance(each, FileReadCapability | FileWriteCapability):
                assert all(".." not in path.split("/") for path in item)
                assert item


@pytest.mark.parametrize(
    ("parent", "asked", "child"),
    [
        (FileReadCapability(["/a"]), FileReadCapability(["/a/b", "/d"]), FileReadCapability(["/a/b"])),
        (
            FileReadCapability(["/a/b", "/a/c"]),
            FileReadCapability(["/a"]),
            FileReadCapability(["/a/b", "/a/c"]),
        ),
        (FileReadCapability(["/a"]), FileReadCapability(["/a/../d"]), None),
        (FileReadCapability(["/a"]), FileReadCapability(["/ab"]), None),
        (FileReadCapability(["/a"]), FileWriteCapability(["/a"]), None),
        (FileReadCapability([]), FileReadCapability(["/a"]), None),
        (ShellCapability(["*"]), ShellCapability(["git"]), ShellCapability(["git"])),
        (ShellCapability(["git", "ls"]), ShellCapability(["*"]), ShellCapability(["git", "ls"])),
        (ShellCapability(["git"]), ShellCapability(["git -c"]), None),
        (NetworkCapability(["a.org"]), NetworkCapability(["b.org", "a.org"]), NetworkCapability(["a.org"])),
        (SpawnCapability(2), SpawnCapability(9), SpawnCapability(2)),
        (SpawnCapability(2, ["a", "b"]), SpawnCapability(1, ["b", "c"]), SpawnCapability(1, ["b"])),
        (SpawnCapability(2, ["a"]), SpawnCapability(1, ["c"]), None),
        (SpawnCapability(2, ["a"]), SpawnCapability(1), SpawnCapability(1, ["a"])),
        (McpCapability("*", "read"), McpCapability("docs", "*"), McpCapability("docs", "read")),
        (McpCapability("docs", "read"), McpCapability("shop", "read"), None),
    ],
)
def test_what_a_child_gets(parent: Capability, asked: Capability, child: Capability | None) -> None:
    assert narrowed((parent,), (asked,)) == (() if child is None else (child,))


TIERS = st.sampled_from(PrivacyTier)
LIMITS = st.builds(CommandLimits, timeout=st.integers(1, 9), processes=st.integers(1, 9))
GRANTS = st.builds(
    Grants, st.none() | SETS, TIERS, st.sampled_from(["bubblewrap", "none"]), st.none() | LIMITS
)


@given(GRANTS, GRANTS)
def test_both_halves_are_narrowed_together(one: Grants, two: Grants) -> None:
    both = one.within(two)
    assert reach(both.capabilities) == reach(one.capabilities) & reach(two.capabilities)
    assert one.privacy.permits(both.privacy)
    assert two.privacy.permits(both.privacy)
    assert both.privacy in (one.privacy, two.privacy)
    assert both.sandbox == ("none" if one.sandbox == two.sandbox == "none" else "bubblewrap")
    for each in filter(None, (one.commands, two.commands)):
        assert both.commands is not None
        assert both.commands.timeout <= each.timeout
        assert both.commands.processes <= each.processes


@given(GRANTS)
def test_the_program_takes_nothing_away(one: Grants) -> None:
    assert one.within(EVERYTHING) == one
    assert EVERYTHING.within(one) == one
    assert EVERYTHING.below() is EVERYTHING
    assert reach(one.below().capabilities) <= reach(one.capabilities)


@pytest.mark.parametrize(
    "asked",
    [
        (SpawnCapability(2, ["*", "*"]), SpawnCapability(3), SpawnCapability(1)),
        (SpawnCapability(3, ["a"]), SpawnCapability(2, ["a", "b"]), SpawnCapability(1)),
        (McpCapability("*", "read"), McpCapability("docs", "*"), McpCapability("docs", "read")),
        (FileReadCapability(["/a/b"]), FileReadCapability(["/a", "/c"])),
    ],
)
def test_what_is_narrowed_again_does_not_grow(asked: tuple[Capability, ...]) -> None:
    once = narrowed(asked, asked)
    assert len(once) <= len(asked)
    assert narrowed(once, once) == once
    assert reach(once) == reach(asked)
    for each in once:
        assert not grants([other for other in once if other is not each], each)


def test_several_grants_may_name_the_agents_that_a_model_spawns() -> None:
    granted = [SpawnCapability(1, ["clerk"]), SpawnCapability(2, ["judge"])]
    assert grants(granted, SpawnCapability(1, ["clerk", "judge"]))
    assert not grants(granted, SpawnCapability(2, ["clerk", "judge"]))
    assert not grants(granted, SpawnCapability(1, ["clerk", "cook"]))
