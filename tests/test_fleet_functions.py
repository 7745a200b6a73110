"""Agents of a fleet that are Python functions: how they are named, called, and refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from agentpool import (
    Completed,
    FleetFile,
    FleetFunction,
    ManifestError,
    ScriptedDriver,
    open_agent_pool,
    start_fleet,
)
from agentpool.fleet.file import RestartSettings

MODULE = """
import functools

from agentpool import AgentManifest, ModelAgent


async def nothing(ctx):
    return ctx.name


async def asked(ctx, query):
    return f"{ctx.name} was asked {query}"


async def told(ctx, query, *, pages, strict=False):
    pages.append("seen")
    if strict and len(pages) < 9 and not lives:
        lives.append(1)
        raise ValueError("the first life")
    return query, pages


lives = []


async def edit(ctx):
    return sorted([message.content async for message in ctx.inbox])


async def write(ctx, query):
    await ctx.send(ctx.find("editor"), query)


async def ask_model(ctx, query):
    return (await ctx.driver.complete(query)).text


def plain(ctx):
    return 1


async def stream(ctx):
    yield 1


class Callable:
    async def __call__(self, ctx, query):
        return f"called with {query}"


async def odd(ctx):
    return "odd"


odd.__signature__ = "none that anybody could read"
made = Callable()
half = functools.partial(asked, query="bound")
model = ModelAgent(AgentManifest(name="model"))
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents.py").write_text(MODULE)
    return tmp_path


def fleet(folder: Path, text: str, **options: Any) -> FleetFile:
    return FleetFile.from_toml(text, source="fleet.toml", base=folder, **options)


def entry(function: str, rest: str = "") -> str:
    return f'[[agents]]\nfunction = "agents:{function}"\n{rest}\n'


async def values(fleet: FleetFile, driver: Any = None) -> dict[str, Any]:
    """Run a fleet, and return what each agent returned."""
    async with open_agent_pool(driver, max_concurrent=1) as pool:
        handles = await start_fleet(pool, fleet)
    return {handle.name: handle.outcome.unwrap() for handle in handles if handle.outcome}


# -- good ones --------------------------------------------------------------------------


def test_a_function_is_an_agent_beside_those_of_manifests(folder: Path) -> None:
    text = entry("asked", 'query = "Who is {name}?"\ncount = 2\ntimeout = 3\nrestart = {}') + (
        '[[agents]]\nmanifest = { name = "m" }\nquery = "q"\n'
    )
    one, two, model = fleet(folder, text).agents
    assert isinstance(one, FleetFunction)
    assert (one.name, one.reference, one.query, one.args) == (
        "asked-1",
        "agents:asked",
        "Who is asked-1?",
        {},
    )
    assert (one.timeout, one.restart) == (3.0, RestartSettings())
    assert (two.name, two.query) == ("asked-2", "Who is asked-2?")
    assert fleet(folder, text).agents[0] == one
    assert [manifest.name for manifest in fleet(folder, text).manifests] == ["m"]
    assert not isinstance(model, FleetFunction)


async def test_a_function_gets_its_context_its_query_and_its_arguments(
    folder: Path, autojump_clock: MockClock
) -> None:
    text = (
        entry("nothing")
        + entry("asked", 'query = "that"\nname = "b"')
        + entry("told", 'query = "{name}"\nargs = { pages = ["{name}.md", 1], strict = false }')
        + entry("made", 'query = "q"')
        + entry("half")
        + entry("odd")
        + entry("model", 'query = "q"')
    )
    found = await values(fleet(folder, text), ScriptedDriver(["the model"]))
    assert found.pop("model").text == "the model"
    assert found == {
        "nothing": "nothing",
        "b": "b was asked that",
        "told": ("told", ["told.md", 1, "seen"]),
        "made": "called with q",
        "half": "half was asked bound",
        "odd": "odd",
    }


async def test_functions_write_to_each_other_by_name(folder: Path, autojump_clock: MockClock) -> None:
    text = entry("edit", 'name = "editor"') + entry("write", 'count = 3\nquery = "from {name}"')
    found = await values(fleet(folder, text))
    assert found["editor"] == ["from write-1", "from write-2", "from write-3"]


async def test_a_function_has_the_driver_of_the_pool(folder: Path, autojump_clock: MockClock) -> None:
    found = await values(fleet(folder, entry("ask_model", 'query = "q"')), ScriptedDriver(["well"]))
    assert found == {"ask_model": "well"}


@pytest.mark.parametrize("supervised", [False, True])
async def test_a_restarted_function_finds_its_arguments_as_they_were(
    folder: Path, supervised: bool, autojump_clock: MockClock
) -> None:
    more = "restart = { mode = 'on_failure' }"
    text = entry("told", f'query = "q"\nargs = {{ pages = [], strict = true }}\n{more}')
    if supervised:
        text += '[[supervisors]]\nname = "boss"\nchildren = ["told"]\n'
    async with open_agent_pool(max_concurrent=1) as pool:
        (handle,) = await start_fleet(pool, fleet(folder, text))
        outcome = await handle.wait()
    assert isinstance(outcome, Completed)
    assert outcome.value == (1 if supervised else ("q", ["seen"]))


def test_an_installed_module_is_found_where_none_stands_beside_the_file(folder: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        fleet(folder, '[[agents]]\nfunction = "json:loads"\n')
    assert "is not async" in str(caught.value)


# -- bad ones ------------------------------------------------------------------------------

BAD = [
    ('function = "agent:nothing"', "function", "there is no module 'agent'", "Put agent.py beside the fleet"),
    ('function = "agents:nothin"', "function", "has no 'nothin'", "Did you mean 'nothing'?"),
    ('function = "agents"', "function", "'agents' names no function", "'module:function'"),
    ("function = 3", "function", "is a whole number", "Give a string"),
    ('function = "agents:plain"', "function", "is not async", "async def plain(ctx"),
    ('function = "agents:stream"', "function", "is an async generator", "`yield`"),
    ('function = "agents:Callable"', "function", "is a class", "Name an async function"),
    ('function = "agents:number"', "function", "is a int", "Name a function"),
    (
        'function = "broken:f"',
        "function",
        "ZeroDivisionError: division by zero (line 2 of broken.py)",
        "Fix the module",
    ),
    ('function = "agents:asked"', "function", "missing a required argument: 'query'", "asked(ctx)"),
    ('function = "agents:nothing"\nquery = "q"', "function", "too many positional", "nothing(ctx, query)"),
    (
        'function = "agents:nothing"\nargs = { page = 1 }',
        "function",
        "unexpected keyword argument 'page'",
        "nothing(ctx, page=...)",
    ),
    ('function = "agents:nothing"\nmanifest = "m.toml"', "function", "stands beside 'manifest'", "either"),
    ("", "", "has neither 'manifest' nor 'function'", "Give 'manifest' or 'function'"),
    ('manifest = { name = "a" }', "query", "is missing", "Give What it is asked"),
    ('manifest = { name = "a" }\nquery = "q"\nargs = { a = 1 }', "args", "are for a function", "'query'"),
    (
        'manifest = { name = "a" }\nquery = "q"\ntools = []',
        "tools",
        "is a key of manifests",
        "in the manifest",
    ),
    ('function = "agents:nothing"\ntools = []', "tools", "a function has none", "Remove it"),
    ('function = "agents:nothing"\nmodel = {}', "model", "a function has none", "ctx.driver"),
    ('function = "agents:nothing"\nqery = "q"', "qery", "is an unknown key", "Did you mean 'query'?"),
    ('function = "agents:nothing"\nargs = 3', "args", "is a whole number", "Give a table"),
    (
        'function = "agents:told"\nquery = "q"\nargs.pages = ["{x}"]',
        "args.pages[0]",
        "{x} is no",
        "{{ and }}",
    ),
    ('function = "agents:nothing"\nexclude = ["a"]', "exclude", "is for 'for_each'", "Remove it"),
]


@pytest.mark.parametrize(("text", "key", "problem", "fix"), BAD)
def test_a_function_that_is_no_agent_is_told_of_with_place_and_fix(
    text: str, key: str, problem: str, fix: str, folder: Path
) -> None:
    (folder / "broken.py").write_text("\n1 / 0\n")
    with pytest.raises(ManifestError) as caught:
        fleet(folder, f"[[agents]]\n{text}\n")
    (finding,) = caught.value.findings
    assert (finding.source, finding.key) == ("fleet.toml", f"agents[0].{key}".rstrip("."))
    assert problem in finding.problem
    assert fix in finding.fix


def test_what_is_wrong_with_functions_comes_with_everything_else(folder: Path) -> None:
    text = (
        entry("plain")
        + entry("nothing", "query = ''")
        + '[[agents]]\nmanifest = "none.toml"\nquery = "{"\n[pool]\nmax_concurrent = 0\n'
    )
    with pytest.raises(ManifestError) as caught:
        fleet(folder, text)
    assert [finding.key for finding in caught.value.findings] == [
        "agents[1].query",
        "pool.max_concurrent",
        "agents[0].function",
        "agents[2].manifest",
        "agents[2].query",
    ]


async def test_the_guide_s_way_to_say_a_list_holds(folder: Path, autojump_clock: MockClock) -> None:
    loaded = fleet(folder, entry("nothing"))
    async with open_agent_pool(max_concurrent=1) as pool:
        (agent,) = loaded.agents
        assert isinstance(agent, FleetFunction)
        handle = await pool.spawn(agent, name=agent.name)
        assert await handle.result() == "nothing"


# -- several modules --------------------------------------------------------------------------

REVIEWS = """
import attrs


@attrs.frozen
class Review:
    page: str


async def review(ctx, query):
    await ctx.send(ctx.find("editor"), Review(query))
"""

REPORT = """
from reviews import Review


async def edit(ctx):
    return [message.content.page async for message in ctx.inbox if isinstance(message.content, Review)]
"""

TWO = """
[[agents]]
name = "editor"
function = "report:edit"
[[agents]]
function = "reviews:review"
query = "a.md"
"""


@pytest.mark.parametrize("order", ["report first", "reviews first"])
@pytest.mark.parametrize("on_path", [False, True])
async def test_modules_beside_a_fleet_share_their_classes(
    order: str, on_path: bool, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reviews.py").write_text(REVIEWS)
    (tmp_path / "report.py").write_text(REPORT)
    if on_path:
        monkeypatch.syspath_prepend(str(tmp_path))
    if order == "reviews first":
        fleet(tmp_path, '[[agents]]\nfunction = "reviews:review"\nquery = "q"\n')
    try:
        found = await values(fleet(tmp_path, TWO))
        assert found["editor"] == ["a.md"]
        assert ("reviews" in sys.modules) == on_path
    finally:
        for name in ("reviews", "report"):
            sys.modules.pop(name, None)


def test_each_directory_has_modules_of_its_own_and_other_names_stay_as_they_are(tmp_path: Path) -> None:
    taken = sys.modules["json"]
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "shared.py").write_text(f"NAME = {name!r}\n")
        (folder / "json.py").write_text("from shared import NAME\nasync def f(ctx):\n    return NAME\n")
        (folder / "user.py").write_text("import json, shared\nasync def g(ctx):\n    return json.NAME\n")
    names = []
    for name in ("a", "b"):
        text = '[[agents]]\nfunction = "json:f"\n[[agents]]\nfunction = "user:g"\n'
        for agent in fleet(tmp_path / name, text).agents:
            assert isinstance(agent, FleetFunction)
            names.append(agent.function.__globals__.get("NAME") or agent.function.__globals__["json"].NAME)
    assert names == ["a", "a", "b", "b"]
    assert sys.modules["json"] is taken
    assert "shared" not in sys.modules


def test_a_neighbour_that_was_changed_is_imported_again(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text("X = 1\n")
    for n, name in enumerate(("one", "two"), start=1):
        (tmp_path / f"{name}.py").write_text("from shared import X\nasync def f(ctx): ...\n")
        (agent,) = fleet(tmp_path, f'[[agents]]\nfunction = "{name}:f"\n').agents
        assert isinstance(agent, FleetFunction)
        assert agent.function.__globals__["X"] == n
        (tmp_path / "shared.py").write_text("X = 2  # longer\n")


def test_a_module_that_failed_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("import two\nasync def f(ctx): ...\n")
    (tmp_path / "two.py").write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ManifestError, match="ZeroDivisionError"):
            fleet(tmp_path, '[[agents]]\nfunction = "one:f"\n')
    (tmp_path / "two.py").write_text("import one\n")
    fleet(tmp_path, '[[agents]]\nfunction = "one:f"\n')
