"""Agents of a fleet that are Python functions: how they are named, called, and refused."""

from __future__ import annotations

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
    ('function = "broken:f"', "function", "failed to import: ZeroDivisionError", "Fix the module"),
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
    (folder / "broken.py").write_text("1 / 0\n")
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
