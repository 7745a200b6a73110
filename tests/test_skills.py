"""Skills: found, listed, read on demand, and nothing beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cast_kit import Cast, call, last_result, manifest, scripted
from pool_kit import pool_of

from agentpool import AgentManifest, ManifestError, ModelAgent, SpawnCapability, ToolCall, build_tools
from agentpool._core.skills import SkillError, SkillHead, listed_skills, skill_head
from agentpool.tools._skills import MAX_HEAD_BYTES

needs_links = pytest.mark.skipif(not hasattr(os, "symlink"), reason="the system has no links")


def skill(where: Path, name: str, text: str | None = None, *, file: str = "SKILL.md") -> Path:
    directory = where / name
    directory.mkdir(parents=True, exist_ok=True)
    said = f"---\nname: {name}\ndescription: About {name}.\n---\n# {name}\n" if text is None else text
    (directory / file).write_bytes(said.encode())
    return directory


def with_skills(base: Path, *paths: str, **fields: Any) -> AgentManifest:
    return manifest("m", base=base, skills=paths, **fields)


async def read(agent: AgentManifest, **arguments: Any) -> str:
    result = await build_tools(agent).call(None, ToolCall("1", "read_skill", arguments))  # type: ignore[arg-type]
    return result.text


def findings_of(agent: AgentManifest) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        build_tools(agent)
    return [str(finding) for finding in caught.value.findings]


# -- the front matter ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "description"),
    [
        ("Plain text.", "Plain text."),
        ("Use when: a PR is open, or #42 fails", "Use when: a PR is open, or #42 fails"),
        ('it\'s "so" # a comment', 'it\'s "so"'),
        ('"Quoted: \\"yes\\" \\u00e9 # no comment"', 'Quoted: "yes" é # no comment'),
        ('"a \\x escape"', "a \\x escape"),
        ("'It''s: so' # a comment", "It's: so"),
        ("'no end", "'no end"),
        ('"no end', '"no end'),
        ("|\n  Line one.\n\n  Line two: more", "Line one. Line two: more"),
        (">-\n  Folded\n  text # no comment", "Folded text # no comment"),
        (">2 # a comment\n  Folded\n  text", "Folded text"),
        ("\n  On the next\n  lines: here", "On the next lines: here"),
        ("begins\n  and goes on # till here\n  ends", "begins and goes on ends"),
        ('"begins\n  and goes on"', "begins and goes on"),
        ("технический обзор 🙂", "технический обзор 🙂"),
    ],
)
def test_descriptions_are_read_as_people_write_them(written: str, description: str) -> None:
    for ends in ("\n", "\r\n", "\r"):
        text = f"\ufeff---\nname: x\ndescription: {written}\nlicense: MIT\n---  \nbody: no\n"
        assert skill_head(text.replace("\n", ends)) == SkillHead("x", description)


def test_other_keys_may_be_anything() -> None:
    text = (
        "---\n# a comment\nallowed-tools: [Read, Write]\nmetadata:\n  name: inner\n  description: no\n"
        "list:\n  - name: no\n\"name\": 'x'\ndescription : outer\n- loose\n...\nname: body\n"
    )
    assert skill_head(text) == SkillHead("x", "outer")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# Title\n", ": there is no front matter in its first line. Begin the file with '---'"),
        ("", ": there is no front matter in its first line"),
        ("---\nname: x\n", ": its front matter has no end. Write a line '---' behind it"),
        ("---\ndescription: d\n---\n", "name: is missing. Write 'name: ...' between the two lines '---'"),
        ("---\nname: x\n---\n", "description: is missing"),
        ("---\nname: x\ndescription: # nothing\n---\n", "description: is empty"),
        ("---\nname: ''\ndescription: d\n---\n", "name: is empty"),
    ],
)
def test_what_is_missing_is_told(text: str, told: str) -> None:
    with pytest.raises(SkillError) as caught:
        skill_head(text)
    assert str(caught.value).startswith(told)


def test_the_list_of_skills_is_bounded() -> None:
    heads = [SkillHead(f"s{n}", "long " * 400) for n in range(200)]
    listed = listed_skills(heads)
    assert len(listed) < 20_000
    assert all(f"- s{n}: long" in listed for n in range(200))
    assert listed_skills(heads[:1]).endswith("...")
    assert len(listed_skills(heads[:1])) < 1_100


# -- finding them --------------------------------------------------------------------------------


async def test_skills_are_listed_and_read_on_demand(tmp_path: Path) -> None:
    review = skill(tmp_path / "skills", "review")
    (review / "scripts").mkdir()
    (review / "scripts" / "run.py").write_text("print(1)\n")
    skill(tmp_path / "skills", "deploy")
    alone = skill(tmp_path, "alone", file="skill.md")
    agent = with_skills(tmp_path, "skills", str(alone))
    (definition,) = build_tools(agent).definitions()
    assert definition.description.endswith(
        "The skills:\n- deploy: About deploy.\n- review: About review.\n- alone: About alone."
    )
    assert definition.input_schema["properties"]["name"]["enum"] == ["deploy", "review", "alone"]
    said = await read(agent, name="review")
    assert said.startswith("---\nname: review\n")
    assert said.endswith("\n\n[other files of this skill]\n- scripts/run.py")
    assert "print(1)" in await read(agent, name="review", file="scripts/run.py")
    assert "[other files" not in await read(agent, name="alone")
    assert await read(agent, name="reviwe") == "there is no skill 'reviwe'; there are: deploy, review, alone"
    assert "# review" in await read(agent, name="review", start_line=5)


@pytest.mark.parametrize(
    "file", ["../deploy/SKILL.md", "../../secret", "/etc/passwd", "a\0b", "missing.md", "."]
)
async def test_nothing_beside_a_skill_is_read(tmp_path: Path, file: str) -> None:
    skill(tmp_path / "skills", "review")
    skill(tmp_path / "skills", "deploy")
    (tmp_path / "secret").write_text("SECRET")
    said = await read(with_skills(tmp_path, "skills"), name="review", file=file)
    assert "SECRET" not in said
    assert "deploy.\n" not in said
    assert "root:" not in said


@needs_links
async def test_links_lead_into_a_skill_and_not_out_of_it(tmp_path: Path) -> None:
    review = skill(tmp_path / "elsewhere", "review")
    (tmp_path / "secret").write_text("SECRET")
    (tmp_path / "skills").mkdir()
    (tmp_path / "skills" / "review").symlink_to(review)  # whoever owns the directory put it there
    (review / "out").symlink_to(tmp_path / "secret")
    agent = with_skills(tmp_path, "skills")
    assert "# review" in await read(agent, name="review")
    assert "SECRET" not in await read(agent, name="review", file="out")


def test_what_is_wrong_with_skills_is_told_where_it_is_all_at_once(tmp_path: Path) -> None:
    skill(tmp_path / "bad", "one", "no front matter")
    two = skill(tmp_path / "bad", "two", "---\nname: good\ndescription: d\n---\n")
    skill(tmp_path / "good", "good")
    skill(tmp_path / "latin", "latin")
    (tmp_path / "latin" / "latin" / "SKILL.md").write_bytes(b"---\nname: caf\xe9\n---\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    found = findings_of(with_skills(tmp_path, "good", "bad", "missing", "empty", "file", "latin"))
    one, name, missing, empty, file, latin = found
    assert one.startswith(f"{tmp_path}/bad/one/SKILL.md: there is no front matter")
    taken = f"'good' is the name of the skill in {tmp_path}/good/good already"
    assert name.startswith(f"{two}/SKILL.md: name: {taken}")
    assert missing.startswith("manifest 'm': skills[2]: 'missing' cannot be read: No such file or directory")
    assert empty.startswith("manifest 'm': skills[3]: there is no skill in 'empty'. A skill is a directory")
    assert file.startswith("manifest 'm': skills[4]: 'file' cannot be read: Not a directory")
    assert latin.startswith(f"{tmp_path}/latin/latin/SKILL.md: is not UTF-8")


def test_the_same_directory_twice_is_one(tmp_path: Path) -> None:
    skill(tmp_path / "skills", "review")
    agent = with_skills(tmp_path, "skills", "skills/review")
    assert build_tools(agent).definitions()[0].input_schema["properties"]["name"]["enum"] == ["review"]


def test_only_the_beginning_of_a_skill_is_read_to_list_it(tmp_path: Path) -> None:
    body = "é" * MAX_HEAD_BYTES
    skill(tmp_path, "long", f"---\nname: long\ndescription: d\n---\n{body}")
    assert build_tools(with_skills(tmp_path, ".")).names == ("read_skill",)
    skill(tmp_path, "long", f"---\nname: long\ndescription: {body}\n---\n")
    assert "its front matter has no end" in findings_of(with_skills(tmp_path, "."))[0]
    (tmp_path / "long" / "SKILL.md").unlink()
    (tmp_path / "long" / "SKILL.md").mkdir()
    assert "there is no skill in '.'" in findings_of(with_skills(tmp_path, "."))[0]
    assert "is no file" in findings_of(with_skills(tmp_path, "long"))[0]


def test_a_manifest_file_names_them_relative_to_itself(tmp_path: Path) -> None:
    skill(tmp_path / "skills", "review")
    (tmp_path / "m.toml").write_text('name = "m"\nskills = ["skills"]\n')
    loaded = AgentManifest.load(tmp_path / "m.toml")
    assert loaded.skills == (str(tmp_path / "skills"),)
    assert build_tools(loaded).names == ("read_skill",)
    with pytest.raises(ManifestError, match=r"skills\[0\]: is a whole number, not a path"):
        AgentManifest.from_toml('name = "m"\nskills = [3]')


async def test_a_model_reads_a_skill_and_its_team_has_its_own(tmp_path: Path) -> None:
    skill(tmp_path / "skills", "review")
    lead = manifest("lead", SpawnCapability(), skills=["skills"], base=tmp_path)
    cast = Cast(
        lead=scripted(
            call("read_skill", name="review"), call("spawn_agent", agent="helper", query="x"), last_result
        ),
        helper=lambda turn: str(sorted(turn.tools)),
    )
    async with pool_of(1, driver=cast) as pool:
        handle = await pool.spawn(ModelAgent(lead, agents=[manifest("helper")]), "go")
        assert (await handle.result()).text == "[]"
    assert "# review" in cast.turns_of("lead")[1].results[0]


def test_the_command_line_tells_which_skill_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cyclopts")
    from agentpool.cli._app import call

    for name in ("one", "two"):
        (tmp_path / "skills" / name).mkdir(parents=True)
        (tmp_path / "skills" / name / "SKILL.md").write_text("Just do it.")
    path = tmp_path / "fleet.toml"
    one = '[[agents]]\nname = "{0}"\nquery = "q"\nmanifest = {{ skills = ["skills", "none"] }}\n'
    path.write_text(one.format("a") + one.format("b"))
    assert call(["validate", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    for name in ("one", "two"):
        file = tmp_path / "skills" / name / "SKILL.md"
        assert sum(f"{file}: there is no front matter" in line for line in said) == 1
    for name in "ab":  # what is wrong in a manifest is told of each
        assert any(f"{path}: skills[1]: of the manifest '{name}'" in line for line in said)
