"""MCP servers in fleet files and on the command line."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from agentpool import Answered, Approved, Denied, FleetFile, ManifestError, Question
from agentpool.fleet import FleetAgent

HAND = str(Path(__file__).parent / "hand_server.py")

FLEET = """
[[mcp_servers]]
name = "hand"
transport = "stdio"
command = {command}
pin = "pins.json"

[[mcp_servers]]
name = "web"
transport = "http"
url = "https://example.org/mcp"

[[agents]]
query = "q"
[agents.manifest]
name = "one"
capabilities = [{{ type = "mcp", server = "hand" }}]
script = {{ steps = [{{ calls = [{{ tool = "mcp__hand__go" }}] }}, {{ text = "{{results[0]}}" }}] }}
[agents.manifest.approval]
allow = ["mcp__hand__go"]
default = "deny"

[[agents]]
query = "q"
[agents.manifest]
name = "two"
capabilities = [{{ type = "mcp", server = "*" }}]
mcp_servers = [{{ name = "web", transport = "http", url = "http://localhost/mine" }}]
script = {{ steps = [{{ text = "nothing" }}] }}

[[agents]]
query = "q"
[agents.manifest]
name = "three"
script = {{ steps = [{{ text = "nothing" }}] }}
"""


def fleet(*arguments: str, text: str = FLEET) -> str:
    return text.format(command=json.dumps([sys.executable, HAND, *arguments]))


def test_a_fleets_servers_are_those_of_the_agents_that_are_granted_them() -> None:
    read = FleetFile.from_toml(fleet().replace('name = "web"\ntransport', 'name = "web2"\ntransport', 1))
    servers = {
        agent.name: [(each.name, each.url) for each in agent.manifest.mcp_servers]
        for agent in read.agents
        if isinstance(agent, FleetAgent)
    }
    assert servers == {
        "one": [("hand", None)],
        "two": [("web", "http://localhost/mine"), ("hand", None), ("web2", "https://example.org/mcp")],
        "three": [],
    }
    assert len(read.manifests) == 3


@pytest.mark.parametrize(
    ("change", "key", "problem"),
    [
        (('server = "*"', 'server = "hand"'), "mcp_servers[1]", "no manifest of the fleet grants"),
        (('name = "web"', 'name = "hand"'), "mcp_servers[1].name", "is the name of an earlier server"),
        (('name = "one"', 'name = "one"\nprivacy = "sovereign"'), "", ""),
        (
            ('name = "two"', 'name = "two"\nprivacy = "sovereign"'),
            "mcp_servers",
            "cannot be had by the agent 'two'",
        ),
        (('transport = "stdio"', 'transport = "sse"'), "mcp_servers[0].transport", "is gone from MCP"),
    ],
)
def test_what_is_wrong_with_a_fleets_servers_is_told(change: tuple[str, str], key: str, problem: str) -> None:
    text = fleet().replace('mcp_servers = [{ name = "web"', 'mcp_servers = [{ name = "web3"')
    text = text.replace(*change, 1)
    if not key:
        FleetFile.from_toml(text)
        return
    with pytest.raises(ManifestError) as caught:
        FleetFile.from_toml(text)
    assert any(found.key == key and problem in found.problem for found in caught.value.findings)


# -- the command line ---------------------------------------------------------------------


def cli(*arguments: object) -> int:
    pytest.importorskip("cyclopts")
    from agentpool.cli._app import call

    return call([str(each) for each in arguments])


def one_agent(*arguments: str) -> str:
    head, _, rest = fleet(*arguments).partition('[[mcp_servers]]\nname = "web"')
    return head + "[[agents]]" + rest.partition("[[agents]]")[2].partition("[[agents]]")[0]


def test_validate_takes_servers_and_tells_of_what_has_no_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(one_agent())
    assert cli("validate", path) == 0
    assert "a valid fleet" in capsys.readouterr().out
    manifest = tmp_path / "manifest.toml"
    server = '[[mcp_servers]]\nname = "x"\ntransport = "stdio"\ncommand = ["x"]\n'
    manifest.write_text(f'name = "a"\n{server}')
    assert cli("validate", manifest) == 2
    assert "mcp_servers[0]: of the manifest 'a': the agent is granted none" in capsys.readouterr().err
    manifest.write_text(f'name = "a"\ncapabilities = [{{ type = "mcp", server = "y" }}]\n{server}')
    assert cli("validate", manifest) == 2
    assert "there is no MCP server 'y'" in capsys.readouterr().err


@pytest.mark.processes
def test_pins_are_shown_accepted_and_kept_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mcp")
    path, definition = tmp_path / "fleet.toml", tmp_path / "definition.json"
    path.write_text(one_agent(f"definition={definition}"))
    assert cli("pins", path) == 1
    assert "hand: go is new since the server was approved" in capsys.readouterr().out
    assert cli("pins", path, "--accept") == 0
    assert cli("pins", path) == 0
    assert "hand: as it was approved" in capsys.readouterr().out
    assert cli("run", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["agents"][0]["text"] == "call 1"
    changed = [{"name": "go", "description": "Else.", "inputSchema": {"type": "object"}}]
    definition.write_text(json.dumps(changed))
    assert cli("pins", path) == 1
    assert "hand: go has changed since it was approved" in capsys.readouterr().out
    assert cli("run", path, "--json") == 0
    said = capsys.readouterr()
    assert "Not called: the tool 'go' of MCP server 'hand' has changed since it was approved" in said.out
    refused = "the tool 'go' of MCP server hand has changed since it was approved; agentpool pins shows"
    assert said.err.count(f"warning: {refused} what is new, and approves it") == 1
    assert cli("pins", path, "--accept") == 0
    capsys.readouterr()
    assert cli("run", path, "--json") == 0


@pytest.mark.processes
def test_pins_tell_of_a_server_that_cannot_be_had_and_of_a_file_without_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mcp")
    path = tmp_path / "fleet.toml"
    path.write_text(one_agent("die-at-start"))
    assert cli("pins", path) == 1
    assert "exit code 4" in capsys.readouterr().err
    path.write_text(one_agent().replace('pin = "pins.json"', ""))
    assert cli("pins", path) == 2
    assert "has no MCP server with 'pin'" in capsys.readouterr().err


def test_validate_knows_that_patterns_may_name_tools_of_servers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.toml"
    rules = 'allow = ["mcp__hand__go"]\ndefault = "deny"'
    path.write_text(one_agent().replace(rules, 'ask = ["*delete*", "read_mcp_resource"]'))
    assert cli("validate", path) == 0
    path.write_text(one_agent().replace(rules, 'ask = ["mcp__hnad__go"]'))
    assert cli("validate", path) == 2
    assert "no tool that 'mcp__hnad__go' names" in capsys.readouterr().err


@pytest.mark.processes
@pytest.mark.parametrize("pattern", ["mcp__hand__go", "mcp__*", "*go(a=b)", "get_mcp_prompt"])
def test_rules_about_a_server_that_is_not_there_fail_nobody(
    pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mcp")
    path = tmp_path / "fleet.toml"
    text = one_agent("die-at-start").replace('pin = "pins.json"', "required = false")
    path.write_text(text.replace('allow = ["mcp__hand__go"]', f'ask = ["{pattern}"]'))
    assert cli("run", path) == 0, capsys.readouterr().err
    path.write_text(text.replace('allow = ["mcp__hand__go"]', 'ask = ["mcp__hnad__go"]'))
    assert cli("run", path) == 2


@pytest.mark.processes
def test_a_run_tells_once_of_a_server_that_it_goes_on_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mcp")
    path = tmp_path / "fleet.toml"
    text = one_agent("die-at-start").replace('pin = "pins.json"', "required = false")
    path.write_text(text.replace('query = "q"', 'query = "q"\ncount = 3'))
    assert cli("run", path) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "an agent goes on without the tools of a server" in line]) == 1
    assert not logging.getLogger("agentpool.mcp").handlers
    assert cli("run", path, "--quiet") == 0
    assert "warning" not in capsys.readouterr().err


# -- questions at the terminal ---------------------------------------------------------------

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "title": "Your name", "minLength": 2},
        "count": {"type": "integer", "default": 2},
        "kind": {"type": "string", "enum": ["tea", "coffee"]},
        "sure": {"type": "boolean"},
        "price": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "sure"],
}


@pytest.mark.parametrize(
    ("schema", "lines", "decision"),
    [
        (
            SCHEMA,
            ["y", "", "A", "Ann", "", "milk", "tea", "perhaps", "y", "1.5", "a, b"],
            Answered(
                {"name": "Ann", "count": 2, "kind": "tea", "sure": True, "price": 1.5, "tags": ["a", "b"]}
            ),
        ),
        (
            SCHEMA,
            ["yes", "Ann", "7", "", "no", "x", "", ""],
            Answered({"name": "Ann", "count": 7, "sure": False}),
        ),
        (SCHEMA, ["n"], Denied()),
        (SCHEMA, [], None),
        (SCHEMA, ["y"], None),
        (None, ["y"], Approved()),
        (None, ["no"], Denied()),
        (
            {"type": "object", "properties": {str(n): {} for n in range(31)}},
            ["y"],
            Denied("a form of more than 30 fields"),
        ),
        ({"type": "object"}, ["y"], Answered({})),
    ],
)
async def test_a_form_is_asked_for_line_by_line(schema: Any, lines: list[str], decision: Any) -> None:
    from agentpool.cli._forms import filled_in

    told: list[str] = []

    async def ask(_: str) -> str | None:
        return lines.pop(0) if lines else None

    question = Question("s", "m", schema, "" if schema else "https://example.org/x")
    assert await filled_in(question, ask, told.append) == decision
    assert lines == []
    if schema is None:
        assert told == ["the page: https://example.org/x"]
