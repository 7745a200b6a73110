"""Variables of a fleet file: where they stand, what they are, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentpool import AgentManifest, FleetAgent, FleetFile, FleetFunction, ManifestError

F = "fleet.toml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("fleets/docs/a.md", "notes/b.md", "notes/[x]/c.md", "notes/.git/d.md", "fleets/m.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("name = 'm'\n" if name.endswith("toml") else "")
    (tmp_path / "fleets/agents.py").write_text("async def look(ctx, query, **args): pass\n")
    return tmp_path


def load(folder: Path, text: str, /, **vars: str) -> FleetFile:
    (folder / "fleets/fleet.toml").write_text(text)
    return FleetFile.load("fleets/fleet.toml", vars=vars)


def findings(folder: Path, text: str, /, **vars: str) -> list[tuple[str, str, str]]:
    with pytest.raises(ManifestError) as caught:
        load(folder, text, **vars)
    return [(f.key, f.problem, f.fix) for f in caught.value.findings]


@pytest.fixture(autouse=True)
def in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


EVERYWHERE = """
[vars]
team = "red"
kind = { default = "m", description = "which manifest" }

[[agents]]
name = "{team}-one"
manifest = "{kind}.toml"
query = "Are you {name} of {team}? {{}}"

[[agents]]
name = "{team}-two"
query = "q"
[agents.manifest]
description = "named by the entry"

[[agents]]
name = "{team}"
function = "agents:look"
query = "{path}"
args = { teams = ["{team}", { of = "{path}" }], count = 2 }
for_each = "docs/*.md"

[[supervisors]]
name = "boss-{team}"
children = ["{team}-one", "{team}"]
"""


def test_a_variable_stands_in_names_paths_queries_arguments_and_children(folder: Path) -> None:
    fleet = load(folder, EVERYWHERE)
    one, two, look = fleet.agents
    assert isinstance(one, FleetAgent)
    assert (one.name, one.manifest.name, one.query) == ("red-one", "m", "Are you red-one of red? {}")
    assert isinstance(two, FleetAgent)
    assert two.manifest == AgentManifest(
        name="red-two", description="named by the entry", base=folder / "fleets"
    )
    assert isinstance(look, FleetFunction)
    assert (look.name, look.query) == ("red-1", "docs/a.md")
    assert look.args == {"teams": ["red", {"of": "docs/a.md"}], "count": 2}
    (boss,) = fleet.supervisors
    assert (boss.name, boss.children) == ("boss-red", ("red-one", "red-1"))


def test_a_value_from_outside_takes_the_place_of_the_default(folder: Path) -> None:
    names = [agent.name for agent in load(folder, EVERYWHERE, team="{blue}").agents]
    assert names == ["{blue}-one", "{blue}-two", "{blue}-1"]


LOOK = '[[agents]]\nfunction = "agents:look"\nquery = "{path}"\n'


def pages(folder: Path, extra: str, variable: str, /, **vars: str) -> list[Any]:
    return [agent.query for agent in load(folder, f"{variable}\n{LOOK}{extra}", **vars).agents]


DOCS = 'vars.docs = { type = "path", default = "docs" }'
EACH = 'for_each = "{docs}/**/*.md"'


def test_a_path_in_the_file_is_relative_to_it_and_one_from_outside_to_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pages(folder, EACH, DOCS) == ["fleets/docs/a.md"]
    assert pages(folder, EACH, 'vars.docs = { type = "Path", default = "../notes/[x]" }') == [
        "notes/[x]/c.md"
    ]
    assert pages(folder, EACH, DOCS, docs="notes/[x]") == ["notes/[x]/c.md"]
    assert pages(folder, EACH, DOCS, docs=str(folder / "notes/[x]")) == [f"{folder}/notes/[x]/c.md"]
    monkeypatch.chdir(folder / "notes")
    (folder / "fleets/fleet.toml").write_text(f"{DOCS}\n{LOOK}{EACH}")
    assert [agent.query for agent in FleetFile.load("../fleets/fleet.toml").agents] == ["../fleets/docs/a.md"]
    assert [agent.query for agent in FleetFile.load("../fleets/fleet.toml", vars={"docs": "."}).agents] == [
        ".git/d.md",
        "[x]/c.md",
        "b.md",
    ]


def test_the_default_of_a_path_leads_through_links_where_they_lead(folder: Path) -> None:
    (folder / "far/away").mkdir(parents=True)
    (folder / "far/e.md").write_text("")
    (folder / "fleets/link").symlink_to(folder / "far/away")
    assert pages(folder, EACH, 'vars.docs = { type = "path", default = "link/.." }') == [
        "fleets/link/../e.md"
    ]


def test_files_and_directories_are_passed_over_by_their_names(folder: Path) -> None:
    extra = f'{EACH}\nexclude = [".*", "c.md"]'
    assert pages(folder, extra, DOCS, docs="notes") == ["notes/b.md"]
    told = findings(folder, f'{DOCS}\n{LOOK}{EACH}\nexclude = ["*.md"]', docs="notes")
    assert told == [
        (
            "agents[0].for_each",
            "'notes/**/*.md' matches only files that 'exclude' passes over",
            "Check the pattern, and the path that --var docs gives",
        )
    ]


def test_a_text_in_a_pattern_is_no_pattern_itself(folder: Path) -> None:
    (folder / "fleets/docs/[b].md").write_text("")
    assert pages(folder, 'for_each = "docs/{page}.md"', 'vars.page = "[b]"') == ["docs/[b].md"]


def test_a_manifest_may_be_below_a_path(folder: Path) -> None:
    text = 'vars.at = { type = "path" }\n[[agents]]\nmanifest = "{at}/m.toml"\nquery = "q"\n'
    assert [manifest.name for manifest in load(folder, text, at="fleets").manifests] == ["m"]
    assert findings(folder, text, at="nowhere")[0][:2] == (
        "agents[0].manifest",
        "'nowhere/m.toml' does not exist",
    )


A = '[[agents]]\nmanifest = { name = "a" }\nquery = "q"\n'

BAD: list[tuple[str, dict[str, str], list[tuple[str, str, str]]]] = [
    ("vars = 3\n" + A, {}, [("vars", "is a whole number", "Give a table")]),
    (
        'vars = 3\n[[agents]]\nmanifest = { name = "a" }\nquery = "{x} {"\n',
        {"x": "1"},
        [
            ("vars", "is a whole number", "Give a table"),
            ("agents[0].query", "the '{' at character 5", "Write {{"),
        ],
    ),
    ('vars = 3\n[[agents]]\nmanifest = { name = "a" }\nquery = "{x}"\n', {}, [("vars", "is a", "Give")]),
    (
        "vars = { a = 3, 'b-c' = '', name = 'x', path = 'x', d = { defualt = '' }, e = { type = 'x' } }\n"
        + A,
        {},
        [
            ("vars.a", "is a whole number, not a string or a table", "Give a string or a table"),
            ("vars.b-c", "'b-c' cannot be the name", "letters"),
            ("vars.name", "{name} is an agent's name already", "another name"),
            ("vars.path", "{path} is a file of 'for_each' already", "another name"),
            ("vars.d.defualt", "is an unknown key", "Did you mean 'default'?"),
            ("vars.e.type", "'x' is not known here", "Known are: text, path"),
        ],
    ),
    (
        'vars.who = "x"\n[[agents]]\nmanifest = { name = "a" }\nquery = "{woh}"\nname = "{hwo}"\n',
        {},
        [
            ("agents[0].query", "{woh} is no placeholder here", "Did you mean 'who'?"),
            ("agents[0].name", "{hwo} is no placeholder here", "Did you mean 'who'?"),
        ],
    ),
    ('vars.x = "1"\n' + A, {}, [("vars.x", "is used nowhere", "Write {x} where")]),
    (
        'vars.docs = "1"\n[[agents]]\nmanifest = { name = "a" }\nquery = "{docs}"\n',
        {"dcos": "2"},
        [("vars.dcos", "is given a value, but there is no such variable", "Did you mean 'docs'?")],
    ),
    (A, {"x": ""}, [("vars.x", "there is no such variable", "This file has no [vars]")]),
    (
        'vars.who = { description = "whom to ask" }\n[[agents]]\nmanifest = { name = "{who}" }\n'
        'name = "{who}"\nquery = "{who}"\n',
        {},
        [("vars.who", "has no value", "--var who=VALUE (whom to ask)")],
    ),
    (
        'vars.who = {}\n[[agents]]\nmanifest = { name = "a" }\nquery = "{who}"\nname = "{who}"\n'
        '[[supervisors]]\nname = "boss"\nchildren = ["{who}", "{nobody}"]\n',
        {},
        [
            ("vars.who", "has no value", "--var who=VALUE"),
            ("supervisors[0].children[1]", "{nobody} is no placeholder", "{{"),
        ],
    ),
    (
        'vars.who = ""\n[[agents]]\nmanifest = { name = "a" }\nquery = "{who}"\nname = "{who}"\n',
        {"who": "\n"},
        [("agents[0].query", "is empty", "Give at least one"), ("agents[0].name", "is empty", "Give")],
    ),
    (
        'vars.who = ""\n[[agents]]\nmanifest = { name = "a" }\nquery = "q"\nname = "{who}"\n',
        {"who": "a\nb"},
        [("agents[0].name", "holds a line break", "on one line")],
    ),
    (f"{DOCS}\n{LOOK}{EACH}\n", {"docs": ""}, [("vars.docs", "'' is no path", "Give the path")]),
    (f"{DOCS}\n{LOOK}{EACH}\n", {"docs": "a\0b"}, [("vars.docs", "is no path", "Give the path")]),
    (
        f"{DOCS}\n{LOOK}{EACH}\n",
        {"docs": "nowhere"},
        [("agents[0].for_each", "there is no directory 'nowhere'", "--var docs=PATH")],
    ),
    (
        f"{DOCS}\n{LOOK}{EACH}\n",
        {"docs": "notes/b.md"},
        [("agents[0].for_each", "'notes/b.md' is a file, not a directory", "--var docs=PATH")],
    ),
    (
        f"{DOCS}\n{LOOK}{EACH}\n",
        {"docs": "x" * 300},
        [("agents[0].for_each", "cannot be read: File name too long", "--var docs=PATH")],
    ),
    (
        f"{DOCS}\n{LOOK}for_each = '{{docs}}/*.rst'\n",
        {"docs": "notes"},
        [("agents[0].for_each", "'notes/*.rst' matches no file", "the path that --var docs gives")],
    ),
    (
        f"{DOCS}\n{LOOK}for_each = '{{docs}}/**x/*.md'\n",
        {"docs": "notes"},
        [("agents[0].for_each", "notes/**x/*.md", "")],
    ),
    (
        f"{DOCS}\n{LOOK}for_each = 'x/{{docs}}/*.md'\n",
        {},
        [("agents[0].for_each", "{docs} is a path, which is not relative", "as in {docs}/**/*.md")],
    ),
    (
        f"{DOCS}\n{LOOK}for_each = '{{docs}}x/*.md'\n",
        {},
        [("agents[0].for_each", "{docs} is a path, which is not relative", "as in {docs}/**/*.md")],
    ),
    (
        f"{LOOK}for_each = 'docs/*.{{md,txt}}'\n",
        {},
        [("agents[0].for_each", "belongs to no placeholder", "there are no placeholders here")],
    ),
    (
        '[[agents]]\nmanifest = "{x"\nquery = "q"\n',
        {},
        [("agents[0].manifest", "belongs to no placeholder", "there are no placeholders here")],
    ),
    (
        'vars.x = {}\n[[agents]]\nmanifest = "{x}"\nquery = "q"\n',
        {},
        [("vars.x", "has no value", "--var x=VALUE")],
    ),
    (
        'vars.x = {}\n[[agents]]\nfunction = "agents:look"\nquery = "q"\nfor_each = "{x}/*.md"\n',
        {},
        [("vars.x", "has no value", "--var x=VALUE")],
    ),
    (
        f'vars.x = {{ type = "path" }}\n{LOOK}for_each = "{{x}}/*.md"\n',
        {},
        [("vars.x", "has no value", "--var x=VALUE")],
    ),
]


@pytest.mark.parametrize(("text", "vars", "expected"), BAD)
def test_a_bad_variable_is_told_of_with_place_and_fix(
    text: str, vars: dict[str, str], expected: list[tuple[str, str, str]], folder: Path
) -> None:
    found = findings(folder, text, **vars)
    assert [key for key, *_ in found] == [key for key, *_ in expected]
    for (_, problem, fix), (_, part, fix_part) in zip(found, expected, strict=True):
        assert part in problem
        assert fix_part in fix


@pytest.mark.parametrize("vars", [3, "a=b", {"a": 1}, {1: "a"}, {"a": Path("b")}])
def test_values_that_are_no_strings_are_refused(vars: Any) -> None:
    with pytest.raises(TypeError, match="vars must be a mapping of names to strings"):
        FleetFile.from_toml(A, vars=vars)


def test_a_fleet_that_came_from_no_file_knows_paths_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{DOCS}\n[[agents]]\nmanifest = {{ name = 'a' }}\nquery = '{{path}}'\n{EACH}\n"
    assert [agent.query for agent in FleetFile.from_toml(text, vars={"docs": "fleets"}).agents] == [
        "fleets/docs/a.md"
    ]
    monkeypatch.chdir("fleets")
    assert [agent.query for agent in FleetFile.from_toml(text).agents] == ["docs/a.md"]
