"""Manifests: what files and arguments become, and what is said about wrong ones."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentpool._core import capability as cap
from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import ManifestError
from agentpool._core.manifest import (
    AgentManifest,
    McpServer,
    ModelSettings,
    ResourceQuota,
    ScriptCall,
    ScriptSettings,
    ScriptStep,
)
from agentpool._core.rules import Report, Rule, fix_for_name, join_key
from agentpool._core.templates import (
    Placeholder,
    TemplateError,
    map_strings,
    parse_template,
    render_template,
)
from agentpool.fleet.schema import manifest_schema

FULL = """
name = "reviewer"
version = "0.2.0"
description = "Reviews pages"
privacy = "Private"
tools = ["checks:check_links", "more.checks:words"]

[model]
driver = "openai:gpt-5"
model_path = "models/small.gguf"
remote_model = "gpt-5"
max_tokens = 2048
temperature = 1
system_prompt = "You review pages."
context_window = 8192
stop = ["END"]

[resources]
max_iterations = 30
max_tool_calls = 100
max_cost_usd = 0.5
max_tokens_budget = 100_000

[[capabilities]]
type = "memory"

[[capabilities]]
type = "file_read"
allowed_paths = ["docs", "/srv/pages"]

[[capabilities]]
type = "shell"
allowed_commands = ["wc"]

[[capabilities]]
type = "network"
allowed_hosts = ["*"]

[[capabilities]]
type = "spawn"
max_depth = 2

[[capabilities]]
type = "mcp"
server = "code"
tool = "find"

[[script.steps]]
calls = [
  { tool = "read_file", input = { path = "{query}", deep = [{ a = "{messages}" }] }, save_as = "page" },
]

[[script.steps]]
text = "{{{page}}} {results[0]}"
"""


def findings_of(text: str, **options: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(ManifestError) as caught:
        AgentManifest.from_toml(text, **options)
    return [(finding.key, finding.problem, finding.fix) for finding in caught.value.findings]


# -- good files -------------------------------------------------------------------


def test_a_models_path_in_the_home_directory_is_not_below_the_file(tmp_path: Path) -> None:
    manifest = AgentManifest.from_toml('name = "a"\n[model]\nmodel_path = "~/m.gguf"', base=tmp_path)
    assert manifest.model.model_path == "~/m.gguf"


def test_a_file_with_every_key_becomes_a_manifest(tmp_path: Path) -> None:
    manifest = AgentManifest.from_toml(FULL, base=tmp_path)
    assert manifest == AgentManifest(
        name="reviewer",
        version="0.2.0",
        description="Reviews pages",
        privacy="private",
        tools=["checks:check_links", "more.checks:words"],
        model=ModelSettings(
            driver="openai:gpt-5",
            model_path=str(tmp_path / "models/small.gguf"),
            remote_model="gpt-5",
            max_tokens=2048,
            temperature=1.0,
            system_prompt="You review pages.",
            context_window=8192,
            stop=["END"],
        ),
        resources=ResourceQuota(
            max_iterations=30, max_tool_calls=100, max_cost_usd=0.5, max_tokens_budget=100_000
        ),
        capabilities=[
            cap.MemoryCapability(),
            cap.FileReadCapability([str(tmp_path / "docs"), "/srv/pages"]),
            cap.ShellCapability(["wc"]),
            cap.NetworkCapability(["*"]),
            cap.SpawnCapability(2),
            cap.McpCapability("code", "find"),
        ],
        script=ScriptSettings(
            [
                ScriptStep(
                    calls=[
                        ScriptCall(
                            "read_file", {"path": "{query}", "deep": [{"a": "{messages}"}]}, save_as="page"
                        )
                    ]
                ),
                ScriptStep("{{{page}}} {results[0]}"),
            ]
        ),
        base=tmp_path,
    )
    assert isinstance(hash(manifest), int)


def test_what_a_file_leaves_out_has_its_default() -> None:
    manifest = AgentManifest.from_toml('name = "a"')
    assert manifest == AgentManifest(name="a")
    assert (manifest.resources.max_iterations, manifest.resources.max_tool_calls) == (20, 50)
    assert (manifest.model.max_tokens, manifest.model.temperature) == (4096, None)
    assert manifest.resources.max_cost_usd is None
    assert manifest.privacy is PrivacyTier.STANDARD
    assert manifest.base is None


@pytest.mark.parametrize("temperature", ["0", "0.0", "2", "2.0"])
def test_the_ends_of_a_range_belong_to_it(temperature: str) -> None:
    text = f'name = "a"\n[model]\ntemperature = {temperature}'
    assert AgentManifest.from_toml(text).model.temperature == float(temperature)


@pytest.mark.parametrize("name", ["Sovereign", "sovereign", "SOVEREIGN"])
def test_privacy_may_be_written_in_capitals(name: str) -> None:
    assert AgentManifest.from_toml(f'name = "a"\nprivacy = "{name}"').privacy is PrivacyTier.SOVEREIGN
    assert AgentManifest(name="a", privacy=name).privacy is PrivacyTier.SOVEREIGN  # type: ignore[arg-type]


def test_capabilities_may_be_bare_names() -> None:
    text = (
        'name = "a"\ncapabilities = ["Rag", "Memory", "spawn", {type = "FileWrite", allowed_paths = ["out"]}]'
    )
    assert AgentManifest.from_toml(text).capabilities == (
        cap.RagCapability(),
        cap.MemoryCapability(),
        cap.SpawnCapability(1),
        cap.FileWriteCapability(["out"]),
    )


def test_a_cost_of_zero_is_a_budget_of_nothing_and_not_unlimited() -> None:
    text = 'name = "a"\n[resources]\nmax_cost_usd = 0.0'
    assert AgentManifest.from_toml(text).resources.max_cost_usd == 0.0


@pytest.mark.parametrize(
    "text",
    [
        '[resources]\nmax_iterations = 20\ncapabilities = ["Rag", "Browser"]\nprivacy = "Sovereign"',
        '[model]\nprivacy = "Sovereign"\n[[capabilities]]\ntype = "rag"\n[[capabilities]]\ntype = "browser"',
        '[[capabilities]]\ntype = "rag"\n[[capabilities]]\ntype = "browser"\nprivacy = "Sovereign"',
    ],
)
def test_keys_of_the_predecessors_files_count_although_they_stand_below_another_header(text: str) -> None:
    manifest = AgentManifest.from_toml('name = "a"\n' + text)
    assert manifest.privacy is PrivacyTier.SOVEREIGN
    assert manifest.capabilities == (cap.RagCapability(), cap.BrowserCapability())


def test_a_key_below_another_header_is_told_of_where_it_stands() -> None:
    assert findings_of('name = "a"\n[model]\nprivacy = "secret"')[0][0] == "model.privacy"
    assert [
        key for key, *_ in findings_of('name = "a"\nprivacy = "private"\n[model]\nprivacy = "standard"')
    ] == ["model.privacy"]
    [(key, _, _)] = findings_of(
        'name = "a"\nprivacy = "private"\n[[mcp_servers]]\nname = 1\ntransport = "stdio"'
    )[:1]
    assert key == "mcp_servers[0].name"


@pytest.mark.parametrize("name", ["streamable-http", "streamable_http", "http"])
def test_the_transport_over_http_has_several_spellings(name: Any) -> None:
    assert McpServer("a", name, url="http://127.0.0.1").transport == "streamable-http"


def test_of_very_many_known_names_only_some_are_told() -> None:
    assert fix_for_name("xyz", ["a", "b"]) == "Known are: a, b"
    told = fix_for_name("xyz", [f"agent-{number}" for number in range(2000)])
    assert told.endswith("agent-28, agent-29 and 1,970 more")


def test_a_file_names_a_local_model_to_be_had_elsewhere() -> None:
    text = 'name = "a"\n[model]\nmodel_repo = "x/y"\nmodel_quantization = "q4"'
    assert AgentManifest.from_toml(text).model.model_repo == "x/y"


def test_a_manifest_is_loaded_with_its_paths_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agents" / "a.toml"
    path.parent.mkdir()
    path.write_text(
        '\ufeffname = "ä"\r\ncapabilities = [{ type = "file_read", allowed_paths = [".", "/abs"] }]'
        '\r\n[model]\r\nmodel_path = "m.gguf"',
        "utf-8",
    )
    monkeypatch.chdir(tmp_path)
    manifest = AgentManifest.load("agents/a.toml")
    assert manifest == AgentManifest.load(path)
    assert manifest.name == "ä"
    assert manifest.base == path.parent
    assert manifest.model.model_path == str(path.parent / "m.gguf")
    assert manifest.capabilities == (cap.FileReadCapability([str(path.parent), "/abs"]),)


# -- bad files ---------------------------------------------------------------------

BAD = [
    ("", [("name", "is missing", "Give The agent's name")]),
    ("name = 3", [("name", "is a whole number, not a string", "Give a string")]),
    ('name = " "', [("name", "is empty", "Give at least one character")]),
    ('name = "a\\nb"', [("name", "holds a line break", "Write it on one line")]),
    ('name = "a"\nnmae = "b"', [("nmae", "is an unknown key", "Did you mean 'name'?")]),
    ('name = "a"\n"x y" = 1', [("'x y'", "is an unknown key", "Known are: name, version")]),
    ('name = "a"\nmodel = 3', [("model", "is a whole number, not a table", "Give a table")]),
    (
        'name = "a"\nprivacy = "secret"',
        [("privacy", "'secret' is not known", "Known are: sovereign, private")],
    ),
    ('name = "a"\nprivacy = "privat"', [("privacy", "'privat' is not known", "Did you mean 'private'?")]),
    ('name = "a"\nprivacy = 1', [("privacy", "is a whole number, not one of sovereign", "Give one of")]),
    (
        'name = "a"\ntools = ["checks", "a:b:c", "a.:b", 3]',
        [
            ("tools[0]", "'checks' names no function", "Write it as 'module:function'"),
            ("tools[1]", "'a:b:c' names no function", "Write it as 'module:function'"),
            ("tools[2]", "'a.:b' names no function", "Write it as 'module:function'"),
            ("tools[3]", "is a whole number, not a string 'module:function'", "Give a string"),
        ],
    ),
    ('name = "a"\ntools = "a:b"', [("tools", "is a string, not an array", "Give an array")]),
    (
        """
        name = "a"
        [model]
        max_token = 1
        max_tokens = 0
        temperature = 2.1
        context_window = -1
        stop = [1]
        model_path = ""
        driver = ""
        system_prompt = 2020-01-01
        """,
        [
            ("model.max_token", "is an unknown key", "Did you mean 'max_tokens'?"),
            ("model.max_tokens", "is 0", "at least 1"),
            ("model.temperature", "is 2.1", "Give a number from 0 to 2"),
            ("model.context_window", "is -1", "at least 1"),
            ("model.stop[0]", "is a whole number, not a string", "Give a string"),
            ("model.model_path", "'' is no path", "Give the path"),
            ("model.driver", "is empty", "leave the key out"),
            ("model.system_prompt", "is a date, not a string", "Give a string"),
        ],
    ),
    ('name = "a"\n[model]\nmodel_path = "a\\u0000"', [("model.model_path", "is no path", "Give the path")]),
    (
        'name = "a"\n[model]\nmodel_path = 3',
        [("model.model_path", "is a whole number, not a path", "Give a")],
    ),
    (
        'name = "a"\n[model]\nmodel_path = "a"\nmodel_repo = "b"',
        [("model.model_repo", "stands beside 'model_path'", "only one")],
    ),
    ('name = "a"\n[model]\ntemperature = nan', [("model.temperature", "is nan", "from 0 to 2")]),
    ('name = "a"\n[model]\ntemperature = -0.1', [("model.temperature", "is -0.1", "from 0 to 2")]),
    (
        'name = "a"\n[model]\ntemperature = true',
        [("model.temperature", "is a boolean, not a number", "a number")],
    ),
    ('name = "a"\n[model]\nmax_tokens = true', [("model.max_tokens", "is a boolean", "Give a whole number")]),
    (
        'name = "a"\n[model]\nmax_tokens = 1.0',
        [("model.max_tokens", "is a number, not a whole", "Give a whole")],
    ),
    (
        """
        name = "a"
        [resources]
        max_iterations = 0
        max_tool_calls = -5
        max_cost_usd = -0.01
        max_tokens_budget = 0
        """,
        [
            ("resources.max_iterations", "is 0", "at least 1"),
            ("resources.max_tool_calls", "is -5", "at least 1"),
            ("resources.max_cost_usd", "is -0.01", "of at least 0"),
            ("resources.max_tokens_budget", "is 0", "at least 1"),
        ],
    ),
    ('name = "a"\n[resources]\nmax_cost_usd = inf', [("resources.max_cost_usd", "is inf", "of at least 0")]),
    (
        f'name = "a"\n[resources]\nmax_cost_usd = 1{"0" * 400}\nmax_iterations = -1{"0" * 400}',
        [
            ("resources.max_cost_usd", "more than 38 digits", "of at least 0"),
            ("resources.max_iterations", "more than 38 digits", "at least 1"),
        ],
    ),
    (
        """
        name = "a"
        capabilities = [
          "Ragg",
          7,
          { allowed_paths = ["."] },
          { type = 7 },
          { type = "shel" },
          "shell",
          { type = "shell", allowed_commands = "ls" },
          { type = "file_read", allowed_paths = ["", 1], allowed_path = [] },
          { type = "spawn", max_depth = 0 },
          { type = "mcp" },
          { type = "memory", size = 1 },
        ]
        """,
        [
            ("capabilities[0]", "'Ragg' is no capability", "Did you mean 'rag'?"),
            ("capabilities[1]", "is a whole number, not a table with a 'type'", "Give a table"),
            ("capabilities[2].type", "is missing", "Give one of memory, rag"),
            ("capabilities[3].type", "is a whole number", "the name of a capability"),
            ("capabilities[4].type", "'shel' is no capability", "Did you mean 'shell'?"),
            ("capabilities[5].allowed_commands", "is missing", "Give The names of the commands"),
            ("capabilities[6].allowed_commands", "is a string, not an array", "Give an array"),
            ("capabilities[7].allowed_paths[0]", "'' is no path", "Give the path"),
            ("capabilities[7].allowed_paths[1]", "is a whole number, not a path", "Give a path"),
            ("capabilities[7].allowed_path", "is an unknown key", "Did you mean 'allowed_paths'?"),
            ("capabilities[8].max_depth", "is 0", "at least 1"),
            ("capabilities[9].server", "is missing", "Give The name of the MCP server"),
            ("capabilities[10].size", "is an unknown key", "Remove it"),
        ],
    ),
    ('name = "a"\ncapabilities = "rag"', [("capabilities", "is a string, not an array", "Give an array")]),
    (
        """
        name = "a"
        [[mcp_servers]]
        name = "x"
        transport = "stdio"
        [[mcp_servers]]
        name = "x"
        transport = "HTTP"
        [[mcp_servers]]
        name = "y"
        transport = "https"
        [[mcp_servers]]
        name = "z"
        transport = "Web-Socket"
        """,
        [
            ("mcp_servers[0].command", "is missing: stdio starts a program", '["program"'),
            ("mcp_servers[1].url", "is missing: streamable-http connects", "Give the server's URL"),
            ("mcp_servers[2].transport", "'https' is not known here", "Did you mean 'http'?"),
            ("mcp_servers[3].transport", "'Web-Socket' is gone from MCP", "Use streamable-http"),
            ("mcp_servers[1].name", "'x' is the name of an earlier server", "Use another name"),
        ],
    ),
    (
        'name = "a"\n[[mcp_servers]]\nname = "x"\ntransport = "sse"\nurl = "https://example.org"',
        [
            ("mcp_servers[0].transport", "'sse' is gone from MCP", "Use streamable-http"),
        ],
    ),
    (
        """
        name = "a"
        [[mcp_servers]]
        name = "x"
        transport = "stdio"
        command = [""]
        url = "https://example.org"
        headers = { A = "b" }
        auth = "oauth"
        capabilities = []
        [[mcp_servers]]
        name = "y"
        transport = "http"
        url = "ftp://example.org"
        command = ["x"]
        env = { A = 1 }
        cwd = ""
        timeout = 0
        max_result_bytes = 10
        auth = "basic"
        required = "no"
        [[mcp_servers]]
        name = "z"
        transport = "http"
        url = "http://me:secret@example.org"
        headers = { A = "b\\nc", "D" = "e" }
        token = "x"
        [[mcp_servers]]
        name = "u"
        transport = "http"
        url = "http://[::1"
        headers = 1
        """,
        [
            ("mcp_servers[0].url", "has no meaning for stdio", "Remove it"),
            ("mcp_servers[0].headers", "has no meaning for stdio", "Remove it"),
            ("mcp_servers[0].auth", "has no meaning for stdio", "Remove it"),
            ("mcp_servers[0].capabilities", "takes no tool", "leave it out"),
            ("mcp_servers[0].command[0]", "is empty", "name of a program"),
            ("mcp_servers[1].env.A", "is a whole number, not a string", "Give a string"),
            ("mcp_servers[1].cwd", "'' is no path", "Give the path"),
            ("mcp_servers[1].timeout", "is 0", "above 0"),
            ("mcp_servers[1].max_result_bytes", "is 10", "at least 1024"),
            ("mcp_servers[1].auth", "'basic' is not known here", "oauth"),
            ("mcp_servers[1].required", "is a string, not true or false", "Give true or false"),
            ("mcp_servers[1].url", "ftp is no address of the web", "https://HOST/PATH"),
            ("mcp_servers[1].command", "has no meaning for streamable-http", "Remove it"),
            ("mcp_servers[1].env", "has no meaning for streamable-http", "Remove it"),
            ("mcp_servers[1].cwd", "has no meaning for streamable-http", "Remove it"),
            ("mcp_servers[2].headers.A", "holds a line break", "Write it on one line"),
            ("mcp_servers[2].token", "is an unknown key", "headers, auth"),
            ("mcp_servers[2].url", "carries a user name or password", "headers"),
            ("mcp_servers[3].headers", "is a whole number, not a table", "Give a table"),
            ("mcp_servers[3].url", "is no address", "https://HOST/PATH"),
        ],
    ),
    (
        'name = "a"\nmcp_servers = [1]',
        [
            ("mcp_servers[0]", "is a whole number, not a table", "Give a table"),
        ],
    ),
    (
        """
        name = "a"
        privacy = "Sovereign"
        [model]
        remote_model = "gpt"
        temperature = 3
        [[mcp_servers]]
        name = "x"
        transport = "stdio"
        command = ["x"]
        [[mcp_servers]]
        name = "y"
        transport = "streamable_http"
        url = "https://example.org"
        [[mcp_servers]]
        name = ""
        transport = "http"
        """,
        [
            ("model.temperature", "is 3", "from 0 to 2"),
            ("mcp_servers[2].name", "is empty", "Give at least"),
            ("mcp_servers[2].url", "is missing", "Give the server's URL"),
            ("model.remote_model", "a sovereign agent asks no remote model", "choose another 'privacy'"),
            ("mcp_servers[1].url", "reaches no server over the network", "Use stdio"),
        ],
    ),
    (
        'name = "a"\n[script]',
        [("script", "has neither 'steps' nor 'function'", "Give 'steps' or 'function'")],
    ),
    (
        'name = "a"\n[script]\nsteps = 1',
        [("script.steps", "is a whole number, not an array", "Give an array")],
    ),
    (
        'name = "a"\n[script]\nsteps = [{ text = "x" }]\nfunction = "a:b"',
        [("script.function", "stands beside 'steps'", "Give either 'steps' or 'function'")],
    ),
    (
        """
        name = "a"
        [script]
        steps = [
          { text = "{qery} {results[0]} {results} {query[0]} {page}" },
          { text = 1 },
          { text = "", calls = [{ tool = "x" }] },
          { calls = [1, { input = 1 }, { tool = "" , save_as = "results"}, { tool = "x", save_as = "1a" }] },
          { calls = [
            { tool = "x", save_as = "page", input = { a = { "b c" = ["{page}", "}", 1] }, n = nan } },
          ] },
          { calls = [{ tool = "x", save_as = "page", input = { "{x}" = 2020-01-01, d = [true, inf] } }] },
          { text = "{page} {results[5]}" },
          {},
        ]
        """,
        [
            ("script.steps[1].text", "is a whole number, not a string", "Give a string"),
            ("script.steps[2].calls", "stands beside 'text'", "Give either 'text' or 'calls'"),
            ("script.steps[3].calls[0]", "is a whole number, not a table", "Give a table"),
            ("script.steps[3].calls[1].input", "is a whole number, not a table", "Give a table"),
            ("script.steps[3].calls[1].tool", "is missing", "Give The name of the tool"),
            ("script.steps[3].calls[2].tool", "is empty", "Give at least one"),
            ("script.steps[3].calls[2].save_as", "'results' has a meaning of its own", "Use another name"),
            ("script.steps[3].calls[3].save_as", "'1a' cannot be the name of a placeholder", "Use letters"),
            ("script.steps[4].calls[0].input.n", "is nan", "Give a finite number"),
            ("script.steps[5].calls[0].input.'{x}'", "is a date, not a string, number", "Give a string"),
            ("script.steps[5].calls[0].input.d[1]", "is inf", "Give a finite number"),
            ("script.steps[7]", "has neither 'text' nor 'calls'", "Give 'text' or 'calls'"),
            ("script.steps[0].text", "{qery} is no placeholder here", "Did you mean 'query'?"),
            ("script.steps[0].text", "{results[0]} comes too early: 0 calls", "Count from 0"),
            ("script.steps[0].text", "{results} does not say which", "Write {results[0]}"),
            ("script.steps[0].text", "{query[0]} is no placeholder here", "Write {{ and }}"),
            ("script.steps[0].text", "{page} is no placeholder here", "Known are: query, messages"),
            ("script.steps[4].calls[0].input.a.'b c'[0]", "{page} is no placeholder here", "Known are"),
            ("script.steps[4].calls[0].input.a.'b c'[1]", "the '}' at character 1", "Write {{ and }}"),
            ("script.steps[5].calls[0].save_as", "'page' is the result of steps[4].calls[0]", "another"),
        ],
    ),
    ('name = "a"\nname = = "b"', [("", "is not TOML: Invalid value (at line 2, column 8)", "syntax")]),
    ("\nname = ", [("", "is not TOML: Invalid value (at line 2, the end of the text)", "syntax")]),
    ('name = "a"\nx = 1' + "0" * 5000, [("", "is not TOML: Exceeds the limit", "syntax")]),
    ("name = " + "[" * 100_000, [("", "is nested too deeply", "syntax")]),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_bad_file_is_told_of_with_place_and_fix(text: str, expected: list[tuple[str, str, str]]) -> None:
    with pytest.raises(ManifestError) as caught:
        AgentManifest.from_toml(text, source="bad.toml")
    findings = caught.value.findings
    assert [finding.key for finding in findings] == [key for key, _, _ in expected]
    for finding, (_, problem, fix) in zip(findings, expected, strict=True):
        assert finding.source == "bad.toml"
        assert problem in finding.problem
        assert fix in finding.fix
        assert str(finding) in str(caught.value)


def refuse(path: Path) -> bytes:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("seed = 7", "options = { seed = 7 }"),
        ("top_p = 0.5", "Write it into the options"),
        ("model = 'gpt-5'", "driver = 'openai:MODEL'"),
        ("base_url = 'http://h'", "driver = 'openai+http://HOST:PORT/v1:MODEL'"),
        ("api_key = 'sk'", "AGENTPOOL_API_KEY"),
        ("timeout = 5", "[[agents]]"),
        ("headers = {}", "docs/guide/models.md"),
        ("max_completion_tokens = 5", "Did you mean 'max_tokens'?"),
    ],
)
def test_a_setting_of_another_library_is_told_its_place(line: str, fix: str) -> None:
    with pytest.raises(ManifestError) as caught:
        AgentManifest.from_toml(f"name = 'a'\n[model]\n{line}")
    (finding,) = caught.value.findings
    assert finding.problem == "is an unknown key"
    assert fix in finding.fix


def test_a_file_that_cannot_be_read_is_a_finding_too(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b'name = "a"\n# \xff\n')
    for path, problem in [
        (tmp_path / "none.toml", "there is no such file"),
        (tmp_path, "is a directory"),
        (bad, "is not UTF-8 (line 2, byte 13)"),
        (tmp_path / "a\0b", "cannot be read: embedded null byte"),
    ]:
        with pytest.raises(ManifestError) as caught:
            AgentManifest.load(path)
        [finding] = caught.value.findings
        assert (finding.source, finding.key, finding.problem) == (str(path), "", problem)
        assert finding.fix
    with pytest.raises(ManifestError, match="cannot be read: Permission denied"):
        AgentManifest.load("x.toml", read=refuse)


# -- arguments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AgentManifest(name=""), ValueError, "AgentManifest.name: is empty"),
        (lambda: AgentManifest(name=3), TypeError, "AgentManifest.name: is a whole number"),  # type: ignore[arg-type]
        (lambda: AgentManifest(name="a", privacy="x"), ValueError, "AgentManifest.privacy: 'x'"),  # type: ignore[arg-type]
        (lambda: AgentManifest(name="a", privacy=None), TypeError, "is None, not one of"),  # type: ignore[arg-type]
        (lambda: AgentManifest(name="a", model={}), TypeError, "is a table, not a ModelSettings"),  # type: ignore[arg-type]
        (
            lambda: AgentManifest(name="a", capabilities=[7]),
            TypeError,
            r"\[0\]: is a whole number, not a capability, or the name of one",
        ),  # type: ignore[list-item]
        (
            lambda: AgentManifest(name="a", capabilities=["messagin"]),
            ValueError,
            "'messagin' is no capability. Did you mean 'messaging'",
        ),
        (lambda: AgentManifest(name="a", capabilities=["shell"]), ValueError, "allowed_commands: is missing"),
        (
            lambda: AgentManifest(name="a", capabilities=[{"max_depth": 2}]),
            ValueError,
            r"capabilities\[0\].type: is missing",
        ),
        (
            lambda: AgentManifest(name="a", capabilities="rag"),
            TypeError,
            "capabilities: is a string, not an array",
        ),
        (lambda: AgentManifest(name="a", tools="a:b"), TypeError, "tools: is a string"),
        (lambda: AgentManifest(name="a", tools=3), TypeError, "tools: is a whole number"),  # type: ignore[arg-type]
        (
            lambda: AgentManifest(
                name="a", privacy=PrivacyTier.SOVEREIGN, model=ModelSettings(remote_model="x")
            ),
            ValueError,
            "AgentManifest.model.remote_model: a sovereign agent",
        ),
        (lambda: ModelSettings(max_tokens=0), ValueError, "ModelSettings.max_tokens: is 0"),
        (lambda: ModelSettings(max_tokens=True), TypeError, "ModelSettings.max_tokens: is a boolean"),
        (lambda: ModelSettings(temperature=math.nan), ValueError, "temperature: is nan"),
        (lambda: ModelSettings(model_path="a", model_repo="b"), ValueError, "ModelSettings.model_repo"),
        (lambda: ResourceQuota(max_iterations=0), ValueError, "max_iterations"),
        (lambda: McpServer("a", "stdio"), ValueError, "McpServer.command"),
        (lambda: McpServer("a", "sse", url="x"), ValueError, "'sse' is gone from MCP"),  # type: ignore[arg-type]
        (lambda: McpServer("a", 1, url="x"), TypeError, "McpServer.transport"),  # type: ignore[arg-type]
        (lambda: McpServer("a", "stdio", ["x"], auth="oauth"), ValueError, "McpServer.auth: has no meaning"),
        (lambda: McpServer("a", "STDIO", ["x"]), ValueError, "McpServer.transport"),  # type: ignore[arg-type]
        (lambda: ScriptSettings(), ValueError, "ScriptSettings: has neither"),
        (lambda: ScriptStep("a", [ScriptCall("b")]), ValueError, "ScriptStep.calls"),
        (lambda: ScriptCall("b", save_as="query"), ValueError, "ScriptCall.save_as"),
        (lambda: cap.FileReadCapability("/etc"), TypeError, "allowed_paths: is a string"),
        (lambda: cap.SpawnCapability(0), ValueError, "SpawnCapability.max_depth"),
        (lambda: cap.McpCapability(""), ValueError, "McpCapability.server"),
    ],
)
def test_a_wrong_argument_raises_with_its_name(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        AgentManifest(name="a").name = "b"  # type: ignore[misc]


# -- round trips ----------------------------------------------------------------------


def as_toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        pairs = (f"{as_toml(str(key))} = {as_toml(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return repr(value)


def as_document(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{as_toml(key)} = {as_toml(value)}" for key, value in table.items())


NOT_IN_FILES = {"base", "has_real_paths"}


def written(manifest: AgentManifest) -> dict[str, Any]:
    """A manifest as the table that a file would have for it."""
    kinds = {cls: name for name, cls in cap.CAPABILITY_TYPES.items()}

    def plain(value: Any) -> Any:
        if isinstance(value, PrivacyTier):
            return value.value
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        if not attrs.has(type(value)):
            return value
        kind = {"type": kinds[type(value)]} if type(value) in kinds else {}
        names = {field.name for field in attrs.fields(type(value))} - NOT_IN_FILES
        keys = {name: plain(getattr(value, name)) for name in names}
        return {
            **kind,
            **{
                key: item
                for key, item in keys.items()
                if item is not None and (item != [] or key.startswith("allowed"))
            },
        }

    table: dict[str, Any] = plain(manifest)
    return table


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
words = st.text("abc-_/*.", min_size=1, max_size=5)
counts = st.integers(1, 10**9)
json_values = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
manifests = st.builds(
    AgentManifest,
    name=words,
    description=texts,
    privacy=st.sampled_from(PrivacyTier),
    model=st.builds(
        ModelSettings,
        max_tokens=counts,
        temperature=st.floats(0, 2),
        system_prompt=texts,
        context_window=st.none() | counts,
        stop=st.lists(texts, max_size=2),
    ),
    resources=st.builds(ResourceQuota, max_iterations=counts, max_cost_usd=st.none() | st.floats(0, 1e9)),
    capabilities=st.lists(
        st.sampled_from([cap.RagCapability(), cap.MemoryCapability()])
        | st.builds(cap.FileReadCapability, st.lists(words, max_size=2))
        | st.builds(cap.ShellCapability, st.lists(words, max_size=2))
        | st.builds(cap.SpawnCapability, counts)
        | st.builds(cap.McpCapability, words),
        max_size=3,
    ),
    script=st.none()
    | st.builds(
        ScriptSettings,
        st.lists(
            st.builds(ScriptStep, texts.map(lambda text: text.replace("{", "{{").replace("}", "}}")))
            | st.builds(
                ScriptStep,
                calls=st.lists(
                    st.builds(ScriptCall, words, st.dictionaries(texts, json_values, max_size=2)),
                    min_size=1,
                    max_size=2,
                ),
            ),
            min_size=1,
            max_size=3,
        ),
    ),
)


@settings(deadline=None)
@given(manifests)
def test_a_manifest_that_is_written_to_a_file_is_read_as_the_same(manifest: AgentManifest) -> None:
    table = written(manifest)
    assert AgentManifest.from_toml(as_document(table)) == manifest


wild = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.sampled_from([field.name for field in attrs.fields(AgentManifest)]), st.data())
@example("script", None)
def test_whatever_a_key_holds_there_is_a_manifest_or_findings_that_name_the_key(name: str, data: Any) -> None:
    table = tomllib.loads(FULL)
    value = {"steps": [{}]} if data is None else data.draw(wild | st.sampled_from(list(table.values())))
    report = Report()
    from agentpool._core.rules import read_table

    manifest = read_table(AgentManifest, {**table, name: value}, "", report)
    assert isinstance(manifest, AgentManifest) or report.problems
    keys = {problem.key.partition(".")[0].partition("[")[0] for problem in report.problems}
    # A changed privacy may forbid what stands in other tables.
    assert keys <= {name, "model", "mcp_servers", "privacy", "capabilities"}


# -- the JSON schema --------------------------------------------------------------------


def test_the_schema_takes_good_files_and_refuses_bad_ones() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = manifest_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(tomllib.loads(FULL))) == []
    good = 'name = "a"\ncapabilities = ["Rag", "SPAWN"]\nprivacy = "SOVEREIGN"\nscript = {function = "a:b"}'
    assert list(validator.iter_errors(tomllib.loads(good))) == []
    # Dates are no JSON, and what several keys are together is not in the schema.
    beyond = (
        "remote_model",
        "model_repo",
        "transport",
        "script",
        "path",
        "\\n",
        "2020",
        '"x y"',
        "= nan",
        "1.0",
        "inf",
    )
    for text, _ in BAD[:-4]:
        if not any(part in text for part in beyond):
            assert not validator.is_valid(tomllib.loads(text)), text


@settings(deadline=None)
@given(manifests)
def test_the_schema_takes_whatever_a_manifest_is_written_as(manifest: AgentManifest) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(manifest_schema())
    assert list(validator.iter_errors(written(manifest))) == []


def test_the_schema_describes_every_key_with_its_default() -> None:
    schema = manifest_schema()
    fields = {field.name for field in attrs.fields(AgentManifest)} - NOT_IN_FILES
    assert set(schema["properties"]) == fields
    tables = [schema, *schema["$defs"].values()]
    for table in tables:
        assert table["description"]
        assert all(rule["description"] for key, rule in table["properties"].items() if key != "type")
    assert schema["$defs"]["ResourceQuota"]["properties"]["max_iterations"]["default"] == 20
    json.dumps(schema)


# -- placeholders -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ("{a}", (Placeholder("a"),)),
        ("x{results[12]}y", ("x", Placeholder("results", 12), "y")),
        ("{{{a}}}", ("{", Placeholder("a"), "}")),
        ("{{a}}", ("{", "a", "}")),
    ],
)
def test_a_text_is_split_into_literal_parts_and_placeholders(text: str, parts: tuple[Any, ...]) -> None:
    assert parse_template(text) == parts


@pytest.mark.parametrize(
    ("text", "position"), [("a{", 2), ("}", 1), ("{a b}", 1), ("{a}}", 4), ("{a[x]}", 1)]
)
def test_a_single_brace_is_an_error_that_says_where(text: str, position: int) -> None:
    with pytest.raises(TemplateError, match=f"at character {position}"):
        parse_template(text)


def test_what_is_filled_in_is_not_looked_at_again() -> None:
    assert render_template("{a} {{a}} {b[1]}", {"a": "{b}", "b": ["x", "{a}"]}) == "{b} {a} {a}"


@pytest.mark.parametrize("text", ["{x}", "{a[0]}", "{b}", "{b[2]}", "{x[0]}"])
def test_a_placeholder_without_a_value_is_an_error(text: str) -> None:
    with pytest.raises(LookupError, match="has no value"):
        render_template(text, {"a": "1", "b": ["1", "2"]})


@settings(deadline=None)
@given(texts)
def test_doubled_braces_give_back_any_text(text: str) -> None:
    assert render_template(text.replace("{", "{{").replace("}", "}}"), {}) == text


def test_the_strings_of_an_input_are_changed_at_any_depth_and_its_keys_are_not() -> None:
    value = {"a": ["x", 1, {"b": ("y",)}], "c": None}
    assert map_strings(value, str.upper) == {"a": ["X", 1, {"b": ["Y"]}], "c": None}


# -- the rest --------------------------------------------------------------------------------


def test_a_rule_by_itself_says_nothing() -> None:
    with pytest.raises(NotImplementedError):
        Rule().read(1, "", Report())
    with pytest.raises(NotImplementedError):
        Rule().schema({})


def test_a_fix_names_what_is_known() -> None:
    assert fix_for_name("x", []) == "Remove it"
    assert join_key("", "a.b") == "'a.b'"


def test_manifests_need_no_third_party_package_but_attrs() -> None:
    code = "import sys, agentpool._core.manifest; print('\\n'.join(sys.modules))"
    env = {**os.environ, "COVERAGE_PROCESS_START": ""}
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    loaded = set(names.stdout.split())
    assert not loaded & {"cattrs", "pydantic", "jsonschema", "trio", "anyio", "rich"}


def test_capabilities_are_named_in_python_as_in_a_file() -> None:
    manifest = AgentManifest(
        name="a", capabilities=["messaging", {"type": "spawn", "max_depth": 2}, cap.RagCapability(), "Memory"]
    )
    assert manifest.capabilities == (
        cap.MessagingCapability(),
        cap.SpawnCapability(2),
        cap.RagCapability(),
        cap.MemoryCapability(),
    )


def test_what_a_request_can_say_is_said_in_a_manifest() -> None:
    manifest = AgentManifest.from_toml(
        'name = "a"\n[model]\ntool_choice = "required"\nparallel_tool_calls = false\nreasoning = 2000\n'
        'options = { seed = 7 }\n[model.output_schema]\ntype = "object"\n'
    )
    model = manifest.model
    assert (model.tool_choice, model.parallel_tool_calls, model.reasoning) == ("required", False, 2000)
    assert model.options == {"seed": 7}
    assert model.output_schema == {"type": "object"}
    assert AgentManifest.from_toml('name = "a"\n[model]\nreasoning = "high"\n').model.reasoning == "high"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("reasoning = true", "a boolean, not a string or a whole number"),
        ("reasoning = 1.5", "a number, not a string or a whole number"),
        ("reasoning = -1", "a whole number of at least 0"),
        ('reasoning = " "', "is empty"),
        ('parallel_tool_calls = "no"', "a string, not true or false"),
        ("tool_choice = 3", "a whole number, not a string"),
    ],
)
def test_wrong_model_settings_are_told(line: str, told: str) -> None:
    with pytest.raises(ManifestError) as caught:
        AgentManifest.from_toml(f'name = "a"\n[model]\n{line}\n')
    assert told in str(caught.value)
