"""Links that commands of agents put in the place of what is granted to agents that are started later."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cast_kit import Cast, call, calls, scripted
from cast_kit import manifest as named
from journal_kit import Records
from pool_kit import pool_of
from sandbox_kit import ANY, manifest, on_linux, python, reading, require_sandbox, shell, writing

from agentpool import AgentManifest, FleetFile, ModelAgent, SpawnConfig, resume_agent_pool
from agentpool._core.messages import ToolCall
from agentpool._loop.granting import wanted_by
from agentpool._loop.resume import _distrust_commands
from agentpool.tools import _links, _places, _sandbox, _shell, build_tools
from agentpool.tools._links import Links, PlantedLinkError, note_paths, noted_paths

pytestmark = on_linux


@pytest.fixture(autouse=True)
def links(monkeypatch: pytest.MonkeyPatch) -> Links:
    """An account of this test alone."""
    fresh = Links()
    for module in (_links, _sandbox, _shell):
        monkeypatch.setattr(module, "links", fresh)
    return fresh


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A project that commands may write, with `data` in it, beside a secret."""
    (tmp_path / "project" / "data").mkdir(parents=True)
    (tmp_path / "project" / "data" / "a").write_text("harmless")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a").write_text("SECRET")
    return tmp_path


def plant(place: Path, target: str = "secret") -> None:
    """Do what a command can do."""
    (place / "project" / "data").rename(place / "project" / "moved")
    (place / "project" / "data").symlink_to(place / target)


def agent_for(*paths: Path | str, base: Path | None = None) -> AgentManifest:
    return named("later", reading(*paths), writing(*paths), base=base)


def granted(agent: AgentManifest) -> list[str]:
    capabilities: Any = wanted_by(agent).capabilities
    return [path for each in capabilities for path in each.allowed_paths]


async def reach(agent: AgentManifest) -> str:
    """Return all that the file tools of an agent tell of the file `a`."""
    tools, told = build_tools(agent), []
    for tool, arguments in (
        ("read_file", {"path": "a"}), ("list_files", {}), ("search_text", {"text": "S"}),
        ("write_file", {"path": "a", "content": "by the agent"}),
        ("edit_file", {"path": "a", "old": "SECRET", "new": "x"}),
    ):  # fmt: skip
        try:
            told.append((await tools.call(None, ToolCall("1", tool, arguments))).text)  # type: ignore[arg-type]
        except Exception as error:
            told.append(str(error))
    return "|".join(told)


async def assert_not_reached(place: Path, agent: AgentManifest) -> None:
    told = await reach(agent)
    assert "SECRET" not in told
    assert (place / "secret" / "a").read_text() == "SECRET"
    assert granted(agent) == [str(place / "project" / "data")] * 2
    assert os.listdir(place / "secret") == ["a"]


# -- an agent that the program starts later --------------------------------------------------------


@pytest.mark.processes
async def test_a_link_that_a_command_made_leads_an_agent_that_is_made_later_nowhere(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require_sandbox()
    commander = manifest(ANY, writing(place / "project"))
    assert "ok" in (await shell(commander, f"mv data moved; ln -s {place}/secret data; echo ok")).text
    later = agent_for(place / "project" / "data")
    await assert_not_reached(place, later)
    assert "may have made" in caplog.text
    assert "grant the directory itself that is meant" in caplog.text
    with_commands = manifest(ANY, reading(place / "project" / "data"))
    assert "SECRET" not in (await shell(with_commands, f"cat {place}/secret/a; ls {place}")).text


@pytest.mark.processes
@pytest.mark.parametrize("grant", [reading, writing])
async def test_a_link_that_a_command_makes_while_another_one_starts_leads_nowhere(
    place: Path, grant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BaseIntelligence/bounty-challenge#9410: what was checked was mounted later, by its name.

    As a command of the parent may do, while one of a child begins, which may reach a part of its project.
    """
    require_sandbox()
    data = place / "project" / "data"
    run_job = _shell.run_job

    async def run_job_late(job: Any) -> Any:
        plant(place)
        return await run_job(job)

    monkeypatch.setattr(_shell, "run_job", run_job_late)
    result = await shell(manifest(ANY, grant(data)), f"cat {data}/a; touch {data}/new")
    assert result.is_error
    assert "SECRET" not in result.text
    assert os.listdir(place / "secret") == ["a"]
    report = _shell.sandbox_report()
    if report.arrangement is not None and report.arrangement.opened:
        assert f"what is granted at {data} is not there any more: it is a link now" in result.text


@pytest.mark.processes
@pytest.mark.parametrize("above", ["data", "data/inner"])
async def test_what_is_gone_when_a_command_starts_is_told(
    place: Path, above: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_sandbox()
    place.joinpath("project", above).mkdir(exist_ok=True)
    run_job = _shell.run_job

    async def run_job_late(job: Any) -> Any:
        (place / "project" / "data").rename(place / "project" / "moved")
        return await run_job(job)

    monkeypatch.setattr(_shell, "run_job", run_job_late)
    result = await shell(manifest(ANY, reading(place / "project" / above)), "true")
    assert result.is_error
    assert "No such file or directory" in result.text


@pytest.mark.processes
async def test_a_link_in_the_place_of_the_pools_python_leads_nowhere(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """unslothai/unsloth#10526: a virtual environment in the project, which a command may write though it
    should not.
    """
    require_sandbox()
    lib = place / "project" / "data"
    known = _sandbox._python_paths()
    monkeypatch.setattr(_sandbox, "_python_paths", lambda: [*known, str(lib)])
    _sandbox.python_mounts.cache_clear()
    try:
        agent = manifest(ANY, "compute", writing(place / "project"))
        assert "harmless" in (await python(agent, f"print(open('{lib}/a').read())")).text
        await shell(agent, f"mv {lib} {lib}-moved; ln -s {place}/secret {lib}")
        told = (await python(agent, f"print(open('{lib}/a').read())")).text
    finally:
        _sandbox.python_mounts.cache_clear()
    assert "SECRET" not in told


@pytest.mark.processes
async def test_it_does_so_in_a_pool_too(place: Path) -> None:
    require_sandbox()
    data = place / "project" / "data"
    first = named("first", ANY, writing(place / "project"))
    lead = named("lead", reading(data), {"type": "spawn"})
    both = calls(("read_file", {"path": "a"}), ("spawn_agent", {"query": "q"}))
    cast = Cast(
        first=scripted(call("run_shell", command=f"mv data moved; ln -s {place}/secret data"), "done"),
        lead=lambda turn: (
            both
            if turn.query == "go" and not turn.results
            else call("read_file", path="a") if not turn.results else "|".join(turn.results)
        ),
    )  # fmt: skip
    async with pool_of(3, driver=cast) as pool:
        await (await pool.spawn(SpawnConfig(first, "go"))).result()
        assert data.is_symlink()
        text = (await (await pool.spawn(SpawnConfig(lead, "go"))).result()).text
    assert "SECRET" not in text
    assert "not followed: a command may have made the link" in text


async def test_one_that_was_made_before_keeps_to_what_it_was(place: Path, links: Links) -> None:
    real = place / "elsewhere"
    (place / "project" / "data").rename(real)
    (place / "project" / "data").symlink_to(real)  # by the program
    later = agent_for("project/data", base=place)
    ModelAgent(later)
    links.commands_may_write([str(place / "project")])
    assert granted(later) == [str(real)] * 2
    assert (await reach(later)).startswith("harmless|a|")
    (place / "project" / "data").unlink()
    (place / "project" / "data").symlink_to(place / "secret")  # by a command
    assert "SECRET" not in await reach(later)
    assert granted(later) == [str(place / "project" / "data")] * 2


def test_a_fleet_is_noted_when_it_is_read(place: Path, links: Links) -> None:
    plant(place, "moved-by-the-owner")
    (place / "moved-by-the-owner").mkdir()
    fleet = FleetFile.from_toml(
        '[[agents]]\nquery = "q"\nmanifest = { name = "a", capabilities = '
        '[{ type = "file_read", allowed_paths = ["project/data"] }] }',
        base=place,
    )
    (manifest,) = fleet.manifests
    links.commands_may_write([str(place / "project")])
    assert granted(manifest) == [str(place / "moved-by-the-owner")]


async def test_links_elsewhere_are_followed_whenever_they_were_made(place: Path, links: Links) -> None:
    links.commands_may_write([str(place / "project")])
    (place / "current").symlink_to("project/data")
    later = agent_for("current", base=place)
    assert granted(later) == [str(place / "project" / "data")] * 2
    assert (await reach(later)).startswith("harmless|")
    (place / "current").unlink()
    (place / "current").symlink_to("secret")  # the program's owner may do so at any time
    assert granted(later) == [str(place / "secret")] * 2


@pytest.mark.parametrize("how", ["above", "relative", "chain", "dots"])
async def test_no_way_through_such_a_link_is_followed(place: Path, links: Links, how: str) -> None:
    links.commands_may_write([str(place / "project")])
    path = "project/data"
    if how == "above":
        (place / "secret" / "in").mkdir()
        plant(place)
        path = "project/data/in"
    elif how == "relative":
        plant(place, "secret")
        (place / "project" / "data").unlink()
        (place / "project" / "data").symlink_to("../secret")
    elif how == "chain":
        (place / "outside").symlink_to("project/data")
        plant(place)
        path = "outside"
    else:
        plant(place)
        path = "project/moved/../data"
    later = agent_for(path, base=place)
    assert granted(later) == [os.path.normpath(place / path)] * 2  # noqa: ASYNC240  (looks at no disk)
    assert "SECRET" not in await reach(later)


def test_what_was_looked_at_is_what_is_granted(place: Path, links: Links, monkeypatch: Any) -> None:
    """A link that comes while a path is resolved is not followed in the end."""
    links.commands_may_write([str(place / "project")])
    read = os.readlink

    def meanwhile(path: str) -> str:
        try:
            return read(path)
        finally:
            if path.endswith("data") and not (place / "project" / "moved").exists():
                plant(place)

    monkeypatch.setattr(os, "readlink", meanwhile)
    assert granted(agent_for("project/data", base=place)) == [str(place / "project" / "data")] * 2


# -- the account -----------------------------------------------------------------------------------


def test_real_is_what_the_system_says_it_is(place: Path, links: Links) -> None:
    (place / "x" / "y").mkdir(parents=True)
    (place / "up").symlink_to("x/y/../../project")
    (place / "whole").symlink_to(place / "up" / "data")
    (place / "round").symlink_to("round")
    paths = [str(place / each) for each in ("up/data/a", "whole/a", "whole/../b", "none/../x/./y", "x//y")]
    expected = [os.path.realpath(path) for path in paths]
    assert [links.real(path) for path in paths] == expected
    links.commands_may_write([str(place / "nowhere")])
    assert [links.real(path) for path in paths] == expected
    with pytest.raises(OSError, match="symbolic links"):
        links.real(str(place / "round"))
    assert granted(agent_for("round", base=place)) == []
    assert not _links.is_planted(str(place / "round"))


def test_a_directory_that_is_gone_harms_nobody(
    place: Path, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = place / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    note_paths(agent_for("a"))
    assert noted_paths(agent_for("a")) == {}
    assert granted(agent_for("a")) == []


def test_a_path_that_has_become_a_round_is_not_trusted(place: Path, links: Links) -> None:
    (place / "link").symlink_to("project")
    links.real(str(place / "link"))
    (place / "link").unlink()
    (place / "link").symlink_to("link")
    links.commands_may_write([str(place / "project")])
    assert links.noted([str(place / "link")]) != {}
    links.distrust_noted()
    assert links.noted([str(place / "link")]) == {}


def test_what_was_resolved_before_is_noted_by_nobody(links: Links) -> None:
    note_paths(agent_for("/a").limited_to(wanted_by(agent_for("/a"))))
    assert noted_paths(agent_for("/a").limited_to(wanted_by(agent_for("/a")))) == {}


def test_the_account_is_bounded(place: Path, links: Links, monkeypatch: Any) -> None:
    monkeypatch.setattr(_links, "MOST_DIRECTORIES", 3)
    monkeypatch.setattr(_links, "MOST_NOTED", 2)
    links.commands_may_write([str(place / "gone" / str(n)) for n in range(3)])
    links.commands_may_write([str(place / "project"), str(place / "project" / "data")])
    plant(place)
    with pytest.raises(PlantedLinkError, match="is not followed"):  # what is gone is forgotten
        links.real(str(place / "project" / "data"))
    (place / "many").mkdir()
    for n in range(4):
        (place / "many" / str(n)).mkdir()
        links.commands_may_write([str(place / "many" / str(n))])
    (place / "many" / "link").symlink_to(place)
    with pytest.raises(PlantedLinkError):  # what is above stands for many
        links.real(str(place / "many" / "link"))
    for n in range(3):
        links.led(f"/{n}", "/x")
    assert links.noted(["/0", "/1", "/2"]) == {"/1": "/x", "/2": "/x"}


@pytest.mark.skipif(not _places.HAS_DIR_FD, reason="the system opens by names only")
async def test_an_agent_of_a_program_without_commands_follows_its_links(place: Path) -> None:
    plant(place)
    assert "SECRET" in await reach(agent_for("project/data", base=place))


# -- runs that are resumed -------------------------------------------------------------------------


def with_commands(place: Path, **more: Any) -> AgentManifest:
    return named("first", ANY, writing("project"), base=place, **more)


async def records_of(agent: AgentManifest) -> Records:
    records = Records()
    cast = Cast(first=lambda turn: "done", later=lambda turn: "done")
    async with pool_of(1, driver=cast, journal=records) as pool:
        await (await pool.spawn(SpawnConfig(agent, "go"))).result()
    return records


async def test_a_resumed_run_knows_what_its_commands_could_write(place: Path, links: Links) -> None:
    records = await records_of(with_commands(place))
    plant(place)
    later = agent_for("project/data", base=place)
    ModelAgent(later)  # before this process knows of the other one's commands
    assert granted(later) == [str(place / "secret")] * 2
    async with resume_agent_pool(records, Cast()):
        assert granted(later) == [str(place / "project" / "data")] * 2
        await assert_not_reached(place, later)


async def test_where_a_path_led_before_outlives_a_crash(place: Path, links: Links) -> None:
    plant(place, "elsewhere")
    (place / "elsewhere").mkdir()
    later = agent_for("project/data", base=place)
    records = [*(await records_of(with_commands(place))).kept, *(await records_of(later)).kept]
    begun = [record.data for record in records if record.kind == "begun"]
    assert [each.get("roots") for each in begun] == [
        None,
        {str(place / "project" / "data"): str(place / "elsewhere")},
    ]
    fresh = Links()
    for module in (_links, _sandbox, _shell):
        module.links = fresh  # type: ignore[attr-defined]
    _distrust_commands(records)
    assert granted(later) == [str(place / "elsewhere")] * 2
    (place / "project" / "data").unlink()
    (place / "project" / "data").symlink_to(place / "secret")
    assert granted(later) == [str(place / "project" / "data")] * 2


@pytest.mark.parametrize("make", [
    lambda place: named("first", writing("project"), base=place),
    lambda place: named("first", ANY, base=place),
    lambda place: with_commands(place, sandbox="none"),
])  # fmt: skip
async def test_who_could_put_no_link_there_is_no_reason_to_distrust_any(
    place: Path, links: Links, make: Callable[[Path], AgentManifest]
) -> None:
    _distrust_commands((await records_of(make(place))).kept)
    plant(place)
    assert granted(agent_for("project/data", base=place)) == [str(place / "secret")] * 2
