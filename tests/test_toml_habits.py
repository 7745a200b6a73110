"""TOML files as editors and people write them: read as they are meant, or told of with place and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentpool import AgentManifest, FleetAgent, FleetFile, ManifestError, McpServer
from agentpool._core.manifest import ModelSettings, ScriptSettings, parse_toml
from agentpool._core.rules import MOST_WHOLE
from agentpool.drivers.prices import PriceTable

BOM = "\ufeff"


def finding_of(data: bytes | str, path: Path) -> tuple[str, str, str]:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(ManifestError) as caught:
        AgentManifest.load(path)
    [finding] = caught.value.findings
    return finding.key, finding.problem, finding.fix


@pytest.mark.parametrize("mark", ["", BOM, BOM * 2])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_marks_and_line_ends_make_no_difference(tmp_path: Path, mark: str, end: str) -> None:
    path = tmp_path / "a.toml"
    lines = ['name = "a"', "[model]", 'system_prompt = """', "one", 'two"""', ""]
    path.write_bytes((mark + end.join(lines)).encode())
    assert AgentManifest.load(path).model.system_prompt == "one\ntwo"


def test_a_text_with_a_byte_order_mark_is_read() -> None:
    assert AgentManifest.from_toml(f'{BOM}name = "a"').name == "a"
    fleet = f'{BOM}[[agents]]\r\nmanifest = {{ name = "v" }}\r\nquery = "q"\r\n'
    assert [agent.name for agent in FleetFile.from_toml(fleet).agents] == ["v"]


def test_a_file_of_prices_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(f'{BOM}[openai]\n"m" = {{ input = 1.0, output = 2.0 }}\n', encoding="utf-8")
    price = PriceTable.load(path).find("openai", "m")
    assert price is not None
    path.write_text("[openai", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"prices\.toml: is not TOML: .*line 1"):
        PriceTable.load(path)


@pytest.mark.parametrize("name", ["Prüfer", "検査　係", "می‌خواهم", "👩‍💻", "é", "a\u00a0b"])
def test_names_of_each_script_are_taken(name: str) -> None:
    assert AgentManifest.from_toml(f'name = "{name}"').name == name
    assert AgentManifest(name=name).name == name


@pytest.mark.parametrize("odd", ["\n", "\x1b", "\x85", "\u2028", "\u202e", "\u2066"])
def test_names_with_controls_are_refused(odd: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        AgentManifest(name=f"a{odd}b")


@pytest.mark.parametrize(
    ("data", "key", "problem", "fix"),
    [
        ('name = "a"'.encode("utf-16"), "", "is not UTF-8 (it is UTF-16)", "UTF-8"),
        ('name = "ü"'.encode("latin-1"), "", "is not UTF-8 (line 1, byte 8)", "UTF-8"),
        ('name = "a"\nname = "b"\n', "", "is not TOML: Cannot overwrite a value (at line 2", "keep one"),
        (
            'name = "a"\n[model]\n[model]\n',
            "",
            "is not TOML: Cannot declare ('model',) twice (at line 3",
            "one header",
        ),
        ('name = "a"\r[model]\r', "", "line 1, column 1", "syntax"),
        (f'name = "a"\n{BOM}[model]', "", "line 2, column 1", "byte order mark at line 2, column 1"),
        ('name = "C:\\Users"', "", "line 1", "backslash"),
        ("name = “a”", "", "line 1, column 8", "straight quotes"),
        ('name = "\\ud83d"', "", "not a Unicode scalar value (at line 1", "backslash"),
        ("name = a b", "", "line 1, column 8", "syntax"),
        ('name = "a', "", "line 1, the end of the text", "syntax"),
        ("name = 2026-01-31\n", "name", "is a date, not a string", 'Give a string: "2026-01-31"'),
        ("name = 12:00:00\n", "name", "is a time, not a string", 'Give a string: "12:00:00"'),
        ("name = true\n", "name", "is a boolean, not a string", 'Give a string: "true"'),
        ("name = false\n", "name", "is a boolean, not a string", 'Give a string: "false"'),
        ("name = 1.5\n", "name", "is a number, not a string", 'Give a string: "1.5"'),
        ("name = 0x" + "f" * 9000, "name", "is a whole number, not a string", 'Give a string: "..."'),
        ("name = []", "name", "is an array, not a string", "Give a string"),
        (
            'name = "a"\n[[model]]\nmax_tokens = 1',
            "model",
            "is an array, not a table",
            "write [model] for [[model]]",
        ),
        ('name = "a"\nmodel = []', "model", "is an array, not a table", "Give a table"),
        ('name = "a"\n[tools]\n', "tools", "is a table, not an array", "write [[tools]] for [tools]"),
        ('name = "a"\ntools = "x:y"', "tools", "is a string, not an array", "in brackets"),
        ('name = "a"\ntools = 1', "tools", "is a whole number, not an array", "Give an array"),
        ('name = "a"\nmodel.temperature = inf', "model.temperature", "is inf", "Give a number"),
        ('name = "a"\nresources.max_cost_usd = nan', "resources.max_cost_usd", "is nan", "Give a number"),
        ('name = "a"\nmodel.max_tokens = true', "model.max_tokens", "is a boolean", "whole number"),
        (
            f'name = "a"\nmodel.max_tokens = {2**63}',
            "model.max_tokens",
            f"is {2**63}",
            f"at most {MOST_WHOLE}",
        ),
        (
            'name = "a"\nmodel.max_tokens = 0x' + "f" * 9000,
            "model.max_tokens",
            "more than 38 digits",
            "at most",
        ),
        (
            'name = "a"\n[model]\nmax_tokens = ' + "9" * 5000,
            "",
            "is not TOML: Exceeds the limit of 4,300 digits by one number (at line 3, column 14)",
            "smaller number",
        ),
    ],
)
def test_what_cannot_be_meant_is_told_with_place_and_fix(
    tmp_path: Path, data: bytes | str, key: str, problem: str, fix: str
) -> None:
    found = finding_of(data, tmp_path / "a.toml")
    assert (found[0], problem in found[1], fix in found[2]) == (key, True, True), found


def test_halves_of_characters_are_refused_wherever_a_text_is() -> None:
    with pytest.raises(ManifestError, match=r"name: holds half of a character \(\\ud83d\)"):
        AgentManifest.from_toml('name = "\ud83d"')
    with pytest.raises(ValueError, match="half of a character"):
        ModelSettings(system_prompt="a\udc00")


def test_values_that_json_cannot_carry_are_refused_in_tables_of_anything() -> None:
    step = '[[script.steps]]\ncalls = [{ tool = "f", input = { x = %s } }]\n[[script.steps]]\ntext = "done"\n'
    for value, problem in [
        (str(2**64), f"is {2**64}"),
        ("2026-01-01", "is a date"),
        ("nan", "is nan"),
        ('"\ud83d"', "half of a character"),
    ]:
        with pytest.raises(ManifestError) as caught:
            AgentManifest.from_toml('name = "a"\n' + step % value)
        [finding] = caught.value.findings
        assert finding.key == "script.steps[0].calls[0].input.x"
        assert problem in finding.problem
    assert isinstance(AgentManifest.from_toml('name = "a"\n' + step % MOST_WHOLE).script, ScriptSettings)


def test_a_value_error_that_is_none_of_toml_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import tomllib

    def loads(text: str) -> Any:
        raise ValueError("month must be in 1..12")  # as older versions of Python say it

    monkeypatch.setattr(tomllib, "loads", loads)
    with pytest.raises(ManifestError, match=r"is not TOML: month must be in 1\.\.12. Fix the value"):
        parse_toml("x = 2026-13-01", "a.toml")


SERVER = 'name = "a"\n[[mcp_servers]]\nname = "x"\ntransport = "stdio"\n'


@pytest.mark.parametrize(
    ("text", "key", "problem", "fix"),
    [
        ('command = "npx -y it"', "command", "is a string, not an array", '["npx", "-y", "it"]'),
        ('command = " "', "command", "is a string, not an array", "in brackets"),
        ('command = ["npx"]\nargs = ["-y", "it"]', "args", "has no place of its own", "command = ["),
        ('command = ["npx"]\narg = ["-y", "it"]', "arg", "is an unknown key", "command"),
        ('command = ["a", "b\\u0000c"]', "command[1]", "holds a NUL", "Leave it out"),
        ('command = ["a"]\nenv = { "A=B" = "c" }', "env.'A=B'", "is no name of a variable", 'NAME = "value"'),
        ('command = ["a"]\nenv = { "" = "c" }', 'env.""', "is no name of a variable", 'NAME = "value"'),
    ],
)
def test_what_the_files_of_other_programs_say_of_servers(
    tmp_path: Path, text: str, key: str, problem: str, fix: str
) -> None:
    found = finding_of(SERVER + text, tmp_path / "a.toml")
    assert (problem in found[1], fix in found[2]) == (True, True), found
    assert found[0].startswith("mcp_servers[0].")


def test_a_command_of_a_program_is_no_line_either() -> None:
    with pytest.raises(TypeError, match=r"McpServer\.command: is a string, not an array\. Give an array"):
        McpServer("x", "stdio", "npx -y it")


def test_a_server_starts_where_its_file_is(tmp_path: Path) -> None:
    text = f'{SERVER}command = ["python3", "server.py"]\n'
    (tmp_path / "a.toml").write_text(text, encoding="utf-8")
    [server] = AgentManifest.load(tmp_path / "a.toml").mcp_servers
    assert server.cwd == str(tmp_path)
    (tmp_path / "a.toml").write_text(f'{text}cwd = "sub"\n', encoding="utf-8")
    [server] = AgentManifest.load(tmp_path / "a.toml").mcp_servers
    assert server.cwd == str(tmp_path / "sub")
    [server] = AgentManifest.from_toml(text).mcp_servers
    assert server.cwd is None  # a text that is in no file: where the pool is
    fleet = '[[agents]]\nquery = "q"\nmanifest = "b.toml"\n' + text.partition("\n")[2]
    (tmp_path / "fleet.toml").write_text(fleet, encoding="utf-8")
    granted = 'name = "b"\n[[capabilities]]\ntype = "mcp"\nserver = "x"\n'
    (tmp_path / "b.toml").write_text(granted, encoding="utf-8")
    [agent] = FleetFile.load(tmp_path / "fleet.toml").agents
    assert isinstance(agent, FleetAgent)
    assert [each.cwd for each in agent.manifest.mcp_servers] == [str(tmp_path)]


def test_keys_of_a_manifest_in_a_fleet_are_told_apart() -> None:
    def told(text: str) -> list[str]:
        with pytest.raises(ManifestError) as caught:
            FleetFile.from_toml(text)
        return [f"{found.key}: {found.problem}. {found.fix}" for found in caught.value.findings]

    name, capabilities, agents = told('name = "a"\n[[capabilities]]\ntype = "compute"\n')
    assert name.startswith("name: is a key of manifests, and this is to be a fleet. Name the manifest in")
    assert capabilities.startswith("capabilities: is a key of manifests")
    assert agents.startswith("agents: is missing")
    (hooks,) = told('hooks = ["a:b"]\n[[agents]]\nmanifest = { name = "v" }\nquery = "q"\n')
    assert hooks == "hooks: is a key of manifests, not of fleets. Write it in the manifest"
    (typo,) = told('pol = 1\n[[agents]]\nmanifest = { name = "v" }\nquery = "q"\n')
    assert typo == "pol: is an unknown key. Did you mean 'pool'?"
