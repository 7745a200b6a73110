"""Fleet files: which agents they make, and what is said about wrong ones."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpool import Completed, open_agent_pool, start_fleet
from agentpool._core.errors import ManifestError
from agentpool._core.manifest import AgentManifest
from agentpool.fleet.file import (
    BudgetSettings,
    FleetAgent,
    FleetFile,
    PoolSettings,
    RestartSettings,
    SupervisorSettings,
)
from agentpool.fleet.schema import fleet_schema

REVIEWER = 'name = "reviewer"\n[[capabilities]]\ntype = "file_read"\nallowed_paths = ["../docs"]\n'

FULL = """
[pool]
max_concurrent = 4
driver = "scripted"
inbox_capacity = 16
budget = { tokens = 100_000, cost_usd = 1, calls = 50 }

[[agents]]
manifest = "agents/reviewer.toml"
for_each = "docs/**/*.md"
query = "Review {path} as {name} {{}}"
timeout = 30
restart = { mode = "Always", max_restarts = 3, within = 60, backoff = 0.5 }

[[agents]]
name = "editor"
query = "Edit"
[agents.manifest]
description = "in the entry"

[[agents]]
manifest = "agents/reviewer.toml"
name = "voter"
count = 2
query = "Vote, {name}"

[[supervisors]]
name = "all"
strategy = "one_for_all"
max_restarts = 0
within = 10
children = ["editor", "voter", "reviewer-2"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("docs/b.md", "docs/a/c.md", "docs/a/{x}.txt", "docs/dir.md/z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/reviewer.toml").write_text(REVIEWER)
    return tmp_path


def findings_of(text: str, folder: Path) -> list[tuple[str, str, str, str]]:
    with pytest.raises(ManifestError) as caught:
        FleetFile.from_toml(text, source="fleet.toml", base=folder)
    return [(f.source, f.key, f.problem, f.fix) for f in caught.value.findings]


# -- good files -------------------------------------------------------------------


def test_a_fleet_is_loaded_with_its_agents_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "fleet.toml").write_text(FULL)
    fleet = FleetFile.load(folder / "fleet.toml")
    assert fleet.pool == PoolSettings(
        max_concurrent=4,
        driver="scripted",
        inbox_capacity=16,
        budget=BudgetSettings(tokens=100_000, cost_usd=1.0, calls=50),
    )
    reviewer = AgentManifest.load(folder / "agents/reviewer.toml")
    editor = AgentManifest(name="editor", description="in the entry", base=folder)
    restart = RestartSettings(mode="always", max_restarts=3, within=60.0, backoff=0.5)
    assert fleet.agents == (
        FleetAgent("reviewer-1", reviewer, "Review docs/a/c.md as reviewer-1 {}", 30.0, restart),
        FleetAgent("reviewer-2", reviewer, "Review docs/b.md as reviewer-2 {}", 30.0, restart),
        FleetAgent("editor", editor, "Edit"),
        FleetAgent("voter-1", reviewer, "Vote, voter-1"),
        FleetAgent("voter-2", reviewer, "Vote, voter-2"),
    )
    assert fleet.supervisors == (
        SupervisorSettings(
            "all",
            ["editor", "voter-1", "voter-2", "reviewer-2"],
            strategy="one_for_all",
            max_restarts=0,
            within=10.0,
        ),
    )
    assert fleet.base == folder
    monkeypatch.chdir(folder)
    assert FleetFile.load("fleet.toml") == fleet
    assert [agent.query for agent in FleetFile.from_toml(FULL).agents] == [a.query for a in fleet.agents]


def test_what_a_fleet_leaves_out_has_its_default() -> None:
    fleet = FleetFile.from_toml('agents = [{ manifest = { name = "a" }, query = "q" }]')
    assert fleet.pool == PoolSettings(max_concurrent=8, driver=None, inbox_capacity=32, budget=None)
    assert fleet == FleetFile(agents=[FleetAgent("a", AgentManifest(name="a"), "q")])
    assert (RestartSettings().mode, SupervisorSettings("s", ["a"]).strategy) == ("on_failure", "one_for_one")
    assert (SupervisorSettings("s", ["a"]).max_restarts, SupervisorSettings("s", ["a"]).within) == (1, 5.0)


def test_restart_modes_have_the_names_of_otp_too() -> None:
    text = 'agents = [{ manifest = { name = "a" }, query = "q", restart = { mode = "permanent" } }]'
    [agent] = FleetFile.from_toml(text).agents
    assert agent.restart == RestartSettings(mode="always") == RestartSettings(mode="permanent")


def test_a_pattern_may_lead_out_of_the_folder_and_name_files_with_braces(folder: Path) -> None:
    text = """
    [[agents]]
    manifest = "reviewer.toml"
    for_each = "../docs/a/*.txt"
    count = 2
    query = "{path}"
    """
    fleet = FleetFile.from_toml(text, base=folder / "agents")
    assert [(agent.name, agent.query) for agent in fleet.agents] == [
        ("reviewer-1", "../docs/a/{x}.txt"),
        ("reviewer-2", "../docs/a/{x}.txt"),
    ]


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50))
def test_count_makes_as_many_agents_each_with_its_own_name(first: int, second: int) -> None:
    entries = [{"name": "a", "count": first}, {"name": "b", "count": second}]
    text = "".join(
        f'[[agents]]\nmanifest = {{}}\nquery = "q"\nname = "{e["name"]}"\ncount = {e["count"]}\n'
        for e in entries
    )
    names = [agent.name for agent in FleetFile.from_toml(text).agents]
    assert len(set(names)) == len(names) == first + second
    assert names[0] == ("a" if first == 1 else "a-1")


# -- bad files ---------------------------------------------------------------------

F = "fleet.toml"
AGENT = '[[agents]]\nmanifest = { name = "a" }\nquery = "q"\n'

BAD: list[tuple[str, list[tuple[str, str, str, str]]]] = [
    ("", [(F, "agents", "is missing", "Give The agents")]),
    ("agents = []", [(F, "agents", "is empty", "Give at least 1")]),
    ("agents = 3", [(F, "agents", "is a whole number, not an array", "Give an array")]),
    ("agents = [3]", [(F, "agents[0]", "is a whole number, not a table", "Give a table")]),
    ("x = = 1", [(F, "", "is not TOML: Invalid value (at line 1, column 5)", "syntax")]),
    (
        AGENT + "[pol]\n[pool]\nmax_concurrent = 0\ndriver = ''\ninbox_capacity = 0\nmax_concurent = 1",
        [
            (F, "pol", "is an unknown key", "Did you mean 'pool'?"),
            (F, "pool.max_concurrent", "is 0", "at least 1"),
            (F, "pool.driver", "is empty", "leave the key out"),
            (F, "pool.inbox_capacity", "is 0", "at least 1"),
            (F, "pool.max_concurent", "is an unknown key", "Did you mean 'max_concurrent'?"),
        ],
    ),
    (
        AGENT + "[pool.budget]\ntokens = 0\ncost_usd = -1\ncalls = true\ntoken = 1",
        [
            (F, "pool.budget.tokens", "is 0", "at least 1"),
            (F, "pool.budget.cost_usd", "is -1", "at least 0"),
            (F, "pool.budget.calls", "is a boolean", "Give a whole number"),
            (F, "pool.budget.token", "is an unknown key", "Did you mean 'tokens'?"),
        ],
    ),
    (
        """
        [[agents]]
        manifest = ""
        [[agents]]
        query = " "
        manifest = 3
        name = "x\\n"
        count = 0
        timeout = 0
        for_each = 3
        restart = { mode = "sometimes", max_restarts = -1, within = 0, backoff = -1 }
        [[agents]]
        query = "q"
        name = 3
        count = 1_000_001
        timeout = inf
        manifest = { temperature = 1 }
        for_each = ""
        """,
        [
            (F, "agents[0].manifest", "is empty", "Give the path"),
            (F, "agents[0].query", "is missing", "Give What it is asked"),
            (F, "agents[1].query", "is empty", "Give at least one"),
            (F, "agents[1].manifest", "is a whole number, not a path or a table", "Give a path or a table"),
            (F, "agents[1].name", "holds a line break", "on one line"),
            (F, "agents[1].count", "is 0", "at least 1"),
            (F, "agents[1].timeout", "is 0", "Give a number above 0"),
            (F, "agents[1].for_each", "is a whole number", "Give a string"),
            (
                F,
                "agents[1].restart.mode",
                "'sometimes' is not known",
                "Known are: on_failure, always, never, ",
            ),
            (F, "agents[1].restart.max_restarts", "is -1", "at least 0"),
            (F, "agents[1].restart.within", "is 0", "above 0"),
            (F, "agents[1].restart.backoff", "is -1", "of at least 0"),
            (F, "agents[2].name", "is a whole number", "Give a string"),
            (F, "agents[2].count", "is 1000001", "at most 1000000"),
            (F, "agents[2].timeout", "is inf", "above 0"),
            (F, "agents[2].manifest.temperature", "is an unknown key", "Known are"),
            (F, "agents[2].for_each", "is empty", "leave the key out"),
        ],
    ),
    (
        """
        [[agents]]
        manifest = { name = "a" }
        query = "{path} {name} { {nam}"
        [[agents]]
        manifest = { name = "b" }
        query = "{path} {name} {nam}"
        [[agents]]
        manifest = { name = "c" }
        query = "{path} {results[0]}"
        for_each = "docs/*.md"
        """,
        [
            (F, "agents[0].query", "the '{' at character 15 belongs to no placeholder", "Write {{ and }}"),
            (F, "agents[1].query", "{path} is no placeholder here", "Write {{ and }}"),
            (F, "agents[1].query", "{nam} is no placeholder here", "Did you mean 'name'?"),
            (F, "agents[2].query", "{results[0]} is no placeholder here", "Write {{ and }}"),
        ],
    ),
    (
        """
        [[agents]]
        manifest = { name = "a" }
        query = "q"
        for_each = "docs/*.rst"
        [[agents]]
        manifest = { name = "b" }
        query = "q"
        for_each = "/docs/*.md"
        [[agents]]
        manifest = { name = "c" }
        query = "q"
        for_each = "docs/**x/*.md"
        [[agents]]
        manifest = { name = "d" }
        query = "q"
        for_each = "."
        """,
        [
            (F, "agents[0].for_each", "'docs/*.rst' matches no file", "relative to the fleet file"),
            (
                F,
                "agents[1].for_each",
                "'/docs/*.md' is no pattern of files",
                "Write it relative to the fleet file",
            ),
            (F, "agents[2].for_each", "docs/**x/*.md", "fleet file"),
            (F, "agents[3].for_each", "'.' ", "fleet file"),
        ],
    ),
    (
        """
        [[agents]]
        manifest = "none.toml"
        query = "q"
        [[agents]]
        manifest = "docs"
        query = "q"
        [[agents]]
        manifest = "docs/b.md/x"
        query = "q"
        [[agents]]
        manifest = "a\\u0000b"
        query = "q"
        """,
        [
            (F, "agents[0].manifest", "none.toml' does not exist", "relative to the fleet file"),
            (F, "agents[1].manifest", "docs' is a directory", "Check the path"),
            (F, "agents[2].manifest", "x' does not exist", "Check the path"),
            (F, "agents[3].manifest", "cannot be read: embedded null byte", "Check the path"),
        ],
    ),
    (
        """
        [[agents]]
        manifest = { name = "a" }
        query = "q"
        count = 2
        [[agents]]
        manifest = { name = "a-2" }
        query = "q"
        [[agents]]
        manifest = "agents/reviewer.toml"
        query = "q"
        [[agents]]
        manifest = "agents/reviewer.toml"
        query = "q"
        [[supervisors]]
        name = "reviewer"
        children = ["a-1"]
        """,
        [
            (F, "agents[1].name", "'a-2' is the name of agents[0] already", "its own 'name'"),
            (F, "agents[3].name", "'reviewer' is the name of agents[2] already", "its own 'name'"),
            (F, "supervisors[0].name", "'reviewer' is the name of agents[2] already", "its own 'name'"),
        ],
    ),
    (
        AGENT
        + """
        [[agents]]
        manifest = { name = "editor" }
        query = "q"
        [[supervisors]]
        name = "s"
        children = ["a", "editr", "a", "s", 3]
        [[supervisors]]
        name = "t"
        strategy = "one_for_al"
        max_restarts = -1
        within = -1
        children = ["a"]
        [[supervisors]]
        children = []
        """,
        [
            (F, "supervisors[0].children[4]", "is a whole number, not a string", "Give a string"),
            (F, "supervisors[1].strategy", "'one_for_al' is not known here", "Did you mean 'one_for_all'?"),
            (F, "supervisors[1].max_restarts", "is -1", "at least 0"),
            (F, "supervisors[1].within", "is -1", "above 0"),
            (F, "supervisors[2].children", "is empty", "at least 1"),
            (F, "supervisors[2].name", "is missing", "Give The supervisor's name"),
            (F, "supervisors[0].children[1]", "there is no agent 'editr'", "Did you mean 'editor'?"),
            (F, "supervisors[0].children[2]", "'a' is a child of supervisors[0] already", "Name it once"),
            (F, "supervisors[0].children[3]", "there is no agent 's'", "Known are: a, editor"),
            (F, "supervisors[1].children[0]", "'a' is a child of supervisors[0] already", "Name it once"),
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_bad_fleet_is_told_of_with_place_and_fix(
    text: str, expected: list[tuple[str, str, str, str]], folder: Path
) -> None:
    found = findings_of(text, folder)
    assert [(source, key) for source, key, *_ in found] == [(source, key) for source, key, *_ in expected]
    for (_, _, problem, fix), (_, _, part, fix_part) in zip(found, expected, strict=True):
        assert part in problem
        assert fix_part in fix


def test_the_findings_of_every_manifest_come_with_those_of_the_fleet(folder: Path) -> None:
    (folder / "agents/bad.toml").write_text('name = "bad"\n[resources]\nmax_iterations = 0\nx = 1')
    (folder / "agents/syntax.toml").write_text("name = \n")
    (folder / "agents/latin.toml").write_bytes(b'name = "\xe4"')
    text = """
    [pool]
    max_concurrent = -1
    [[agents]]
    manifest = "agents/bad.toml"
    query = "{"
    [[agents]]
    manifest = "agents/bad.toml"
    query = "told of once"
    name = "other"
    [[agents]]
    manifest = "agents/syntax.toml"
    query = "q"
    [[agents]]
    manifest = "agents/latin.toml"
    query = "q"
    [[agents]]
    query = "q"
    [agents.manifest]
    name = "inline"
    privacy = "sovereign"
    model = { max_tokens = 0, remote_model = "x" }
    [[supervisors]]
    name = "s"
    children = ["may be that of a manifest that cannot be read"]
    """
    assert [(source, key) for source, key, *_ in findings_of(text, folder)] == [
        (F, "pool.max_concurrent"),
        (F, "agents[4].manifest.model.max_tokens"),
        (F, "agents[4].manifest.model.remote_model"),
        (F, "agents[0].query"),
        (str(folder / "agents/bad.toml"), "resources.max_iterations"),
        (str(folder / "agents/bad.toml"), "resources.x"),
        (str(folder / "agents/syntax.toml"), ""),
        (str(folder / "agents/latin.toml"), ""),
    ]


def test_a_fleet_file_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        FleetFile.load(tmp_path / "none.toml")
    [finding] = caught.value.findings
    assert (finding.source, finding.problem) == (str(tmp_path / "none.toml"), "there is no such file")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: PoolSettings(max_concurrent=0), ValueError),
        (lambda: PoolSettings(max_concurrent=True), TypeError),
        (lambda: PoolSettings(budget={}), TypeError),  # type: ignore[arg-type]
        (lambda: RestartSettings(mode="x"), ValueError),
        (lambda: RestartSettings(mode=1), TypeError),  # type: ignore[arg-type]
        (lambda: SupervisorSettings("s", []), ValueError),
        (lambda: SupervisorSettings("s", "abc"), TypeError),
    ],
)
def test_a_wrong_argument_raises(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


# -- the JSON schema --------------------------------------------------------------------


def test_the_schema_takes_good_files_and_refuses_bad_ones() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = fleet_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(tomllib.loads(FULL))) == []
    json.dumps(schema)
    # What stands in other files or in other keys is not in the schema.
    beyond = ("for_each", "= =", "none.toml", "reviewer.toml")
    for text, _ in BAD:
        if not any(part in text for part in beyond) and "{nam}" not in text:
            assert not validator.is_valid(tomllib.loads(text)), text


def test_the_schema_names_every_key() -> None:
    defs = fleet_schema()["$defs"]
    for cls in (PoolSettings, BudgetSettings, RestartSettings, SupervisorSettings):
        assert set(defs[cls.__name__]["properties"]) == {field.name for field in attrs.fields(cls)}


# -- the guide --------------------------------------------------------------------------


def test_the_files_of_the_guide_are_right(folder: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "guide" / "files.md"
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    manifest, script, fleet, functions, variables = blocks
    (folder / "agents/reviewer.toml").write_text(manifest)
    (folder / "agents/scripted.toml").write_text('name = "a"\n' + script)
    AgentManifest.load(folder / "agents/scripted.toml")
    assert len(FleetFile.from_toml(fleet, base=folder).agents) == 5
    (folder / "agents/fleet.toml").write_text(variables)
    named = FleetFile.load(folder / "agents/fleet.toml", vars={"team": "blue"}).agents
    assert [agent.name for agent in named] == ["blue-reviewer-1", "blue-reviewer-2"]
    assert named[1].query == f"Team blue reviews {folder}/docs/b.md"
    (code,) = re.findall(r"```python\n(import trio.*?)```", page.read_text("utf-8"), re.DOTALL)
    (folder / "review.py").write_text(code)
    (folder / "docs/b.md").write_text("TODO, FIXME and TODO")

    async def run() -> object:
        async with open_agent_pool(max_concurrent=1) as pool:
            editor, *_ = await start_fleet(pool, FleetFile.from_toml(functions, base=folder))
        return editor.outcome

    outcome = trio.run(run)
    assert isinstance(outcome, Completed)
    assert outcome.value == "3 marks in 2 files"
