"""`[[subagents]]` of fleet files: read, checked, spawned, handed over to, and kept in journals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cast_kit import Cast, call, last_result, scripted
from pool_kit import pool_of

from agentpool import FleetFile, ManifestError, build_tools, start_fleet
from agentpool.fleet.keeping import fleet_from_data, fleet_to_data

FLEET = """
[[agents]]
query = "go"
[agents.manifest]
name = "lead"
handoffs = ["closer"]
capabilities = [{ type = "spawn", agents = ["helper"] }]
model = { system_prompt = "lead" }

[[subagents]]
name = "helper"
description = "Helps a lot."
manifest = "helper.toml"

[[subagents]]
[subagents.manifest]
name = "closer"
model = { system_prompt = "closer" }
handoffs = ["closer"]
"""
HELPER = 'name = "other"\ndescription = "Helps."\nmodel = { system_prompt = "helper" }\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "helper.toml").write_text(HELPER)
    (tmp_path / "fleet.toml").write_text(FLEET)
    return tmp_path


def findings_of(text: str, base: Path) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        FleetFile.from_toml(text, source="fleet.toml", base=base)
    return [str(finding) for finding in caught.value.findings]


def test_they_are_read_with_the_names_that_models_use(folder: Path) -> None:
    fleet = FleetFile.load(folder / "fleet.toml")
    assert [agent.name for agent in fleet.agents] == ["lead"]
    assert [(each.name, each.description) for each in fleet.subagents] == [
        ("helper", "Helps a lot."),
        ("closer", ""),
    ]
    assert [each.name for each in fleet.manifests] == ["lead", "helper", "closer"]
    again = fleet_from_data(fleet_to_data(fleet))
    assert again == fleet
    assert again.subagents[0] is again.manifests[1]
    old = fleet_to_data(fleet)
    del old["subagents"]
    assert fleet_from_data(old).subagents == ()


async def test_models_of_a_fleet_spawn_and_hand_over_to_them(folder: Path) -> None:
    fleet = FleetFile.load(folder / "fleet.toml")
    cast = Cast(
        lead=scripted(call("spawn_agent", agent="helper", query="q"), call("hand_off", agent="closer")),
        helper=lambda turn: f"for {turn.query}",
        closer=lambda turn: f"closed: {turn.results[0]}",
    )
    async with pool_of(2, driver=cast) as pool:
        (handle,) = await start_fleet(pool, fleet)
        result: Any = await handle.result()
    assert (result.text, result.handed_over) == ("closed: for q", ("closer",))
    # Of the two it may spawn only one, and hand over only to the other.
    tools = cast.turns_of("lead")[0].tools
    assert tools["spawn_agent"].input_schema["properties"]["agent"]["enum"] == ["helper"]
    assert tools["hand_off"].input_schema["properties"]["agent"]["enum"] == ["closer"]


async def test_each_asks_its_own_driver(folder: Path) -> None:
    fleet = FleetFile.load(folder / "fleet.toml")
    lead = Cast(lead=scripted(call("spawn_agent", agent="helper", query="q"), last_result))
    helper = Cast(helper=lambda turn: "helped")
    async with pool_of(1) as pool:
        (handle,) = await start_fleet(
            pool, fleet, driver_of=lambda manifest: {"lead": lead, "helper": helper}.get(manifest.name)
        )
        assert (await handle.result()).text == "helped"


def test_a_name_that_is_nobodys_is_found_where_it_stands(folder: Path) -> None:
    wrong = FLEET.replace('agents = ["helper"]', 'agents = ["helpr", "*"]').replace(
        'handoffs = ["closer"]\ncap', 'handoffs = ["clsoer"]\ncap'
    )
    assert findings_of(wrong, folder) == [
        "fleet.toml: subagents: the manifest 'lead' names the agent 'clsoer', which is not there."
        " Did you mean 'closer'?",
        "fleet.toml: subagents: the manifest 'lead' names the agent 'helpr', which is not there."
        " Did you mean 'helper'?",
    ]
    alone = FLEET.partition("[[subagents]]")[0]
    assert findings_of(alone, folder)[0].endswith("Add it: [[subagents]] with name = 'closer'")


def test_two_need_two_names(folder: Path) -> None:
    twice = FLEET + '\n[[subagents]]\nname = "helper"\nmanifest = "helper.toml"\n'
    told = "'helper' is the name of subagents[0] already. Give each its own 'name'"
    assert findings_of(twice, folder) == [f"fleet.toml: subagents[2].name: {told}"]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ('name = "x"', "subagents[2].manifest: is missing"),
        ('manifest = "no.toml"', "subagents[2].manifest: "),
        ("manifest = 3", "subagents[2].manifest: is a whole number, not a path or a table"),
        ('manifest = "helper.toml"\nname = "{who}"', "subagents[2].name: "),
        ('manifest = "helper.toml"\nquery = "q"', "subagents[2].query: is an unknown key"),
    ],
)
def test_a_wrong_entry_is_told(folder: Path, entry: str, told: str) -> None:
    found = findings_of(f"{FLEET}\n[[subagents]]\n{entry}\n", folder)
    assert any(told in each for each in found), found
    assert "subagents: is no" not in found[0]


def test_a_table_of_the_wrong_kind_is_told(folder: Path) -> None:
    text = 'subagents = 3\nagents = [{ manifest = "helper.toml", query = "q" }]'
    assert "subagents: is a whole number" in findings_of(text, folder)[0]


def test_a_fleet_without_them_is_as_before(folder: Path) -> None:
    spawning = 'capabilities = [{ type = "spawn", agents = ["*"] }]'
    text = f'[[agents]]\nmanifest = {{ name = "a", {spawning} }}\nquery = "q"'
    fleet = FleetFile.from_toml(text, base=folder)
    assert fleet.subagents == ()
    tools = build_tools(fleet.manifests[0], make_agent=lambda manifest, query: None)
    spawn = next(each for each in tools.definitions() if each.name == "spawn_agent")
    assert "agent" not in spawn.input_schema["properties"]


# -- on the command line -------------------------------------------------------------------------

SCRIPTED = """
[[agents]]
query = "go"
[agents.manifest]
name = "lead"
handoffs = ["closer"]
capabilities = ["spawn"]
[agents.manifest.script]
steps = [
    { calls = [{ tool = "start_agent", input = { agent = "helper", query = "a b" } }] },
    { calls = [{ tool = "wait_agents", input = {}, save_as = "found" }] },
    { calls = [{ tool = "hand_off", input = { agent = "closer", note = "{found}" } }] },
]

[[subagents]]
[subagents.manifest]
name = "helper"
script = { steps = [{ text = "helped with {query}" }] }

[[subagents]]
[subagents.manifest]
name = "closer"
script = { steps = [{ text = "closed" }] }
"""


@pytest.mark.processes
@pytest.mark.parametrize("journal", [False, True])
def test_the_command_line_runs_them(tmp_path: Path, journal: bool) -> None:
    pytest.importorskip("cyclopts")
    (tmp_path / "fleet.toml").write_text(SCRIPTED)
    command = [sys.executable, "-m", "agentpool.cli"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    checked = run("validate", "fleet.toml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    ran = run("run", "fleet.toml", "--output", "out", *(["--journal", "run.db"] if journal else []))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "out" / "1-lead.txt").read_text().strip() == "closed"
    (tmp_path / "wrong.toml").write_text(SCRIPTED.replace('handoffs = ["closer"]', 'handoffs = ["nobody"]'))
    wrong = run("validate", "wrong.toml")
    assert wrong.returncode != 0
    assert "names the agent 'nobody', which is not there" in " ".join((wrong.stdout + wrong.stderr).split())
    (tmp_path / "alone.toml").write_text('name = "lead"\nhandoffs = ["closer"]\n')
    assert run("validate", "alone.toml").returncode == 0
