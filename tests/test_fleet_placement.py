"""Fleets whose agents run in worker processes: what their files say, and where the agents run then."""

from __future__ import annotations

import importlib.util
import pickle
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import attrs
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
from agentpool.drivers.scripted import EmbeddedDriver
from agentpool.fleet.keeping import fleet_from_data, fleet_to_data
from agentpool.fleet.placing import PlacementSettings
from agentpool.fleet.schema import fleet_schema
from agentpool.testing import InProcessPlacement

AGENT = '[[agents]]\nname = "a"\nquery = "q"\nmanifest = {}\n'
PLACED = '[pool]\nplacement = "ray"\n'

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Agents of a file that no worker can import by its name."""
    (tmp_path / "work.py").write_text(
        textwrap.dedent(
            """
            async def where(ctx, query):
                return f"{query}{type(ctx).__name__}"

            class Clerk:
                async def __call__(self, ctx, query):
                    return f"{query}: {type(ctx).__name__}"

            clerk = Clerk()
            """
        )
    )
    return tmp_path


def findings_of(text: str) -> list[tuple[str, str, str]]:
    with pytest.raises(ManifestError) as caught:
        FleetFile.from_toml(text)
    return [(finding.key, finding.problem, finding.fix) for finding in caught.value.findings]


# -- what the file says -----------------------------------------------------------------


def test_a_placement_is_read_with_all_that_it_says() -> None:
    fleet = FleetFile.from_toml(
        PLACED
        + """
        [placement]
        address = "10.0.0.1:6379"
        workers = 8
        cpus = 0.5
        resources = { GPU = 1, licence = 0.5 }
        runtime_env = { env_vars = { LANG = "C" } }
        lease = 5
        start_timeout = 30
        [[agents]]
        name = "a"
        query = "q"
        manifest = {}
        [[agents]]
        name = "b"
        query = "q"
        manifest = {}
        placed = false
        """
    )
    assert fleet.pool.placement == "ray"
    assert fleet.placement == PlacementSettings(
        address="10.0.0.1:6379",
        workers=8,
        cpus=0.5,
        resources={"GPU": 1, "licence": 0.5},
        runtime_env={"env_vars": {"LANG": "C"}},
        lease=5.0,
        start_timeout=30.0,
    )
    assert [agent.placed for agent in fleet.agents] == [True, False]


def test_a_fleet_without_a_placement_has_none() -> None:
    fleet = FleetFile.from_toml(AGENT)
    assert (fleet.pool.placement, fleet.placement, fleet.make_placement()) == (None, None, None)


def test_the_name_of_a_placement_is_known_in_capitals() -> None:
    assert FleetFile.from_toml('[pool]\nplacement = "Ray"\n' + AGENT).pool.placement == "ray"


BAD = [
    (
        '[pool]\nplacement = "kubernetes"\n' + AGENT,
        [("pool.placement", "'kubernetes' is not known here", "Known are: ray")],
    ),
    (
        "[pool]\nplacement = true\n" + AGENT,
        [("pool.placement", "is a boolean, not one of ray", "Give one of ray")],
    ),
    (
        '[pool.placement]\naddress = "auto"\n' + AGENT,
        [("pool.placement", "is a table, not one of ray", "Give one of ray")],
    ),
    (
        '[placement]\naddress = "auto"\n' + AGENT,
        [("placement", "is for a pool with a 'placement'", 'placement = "ray" below [pool], or remove')],
    ),
    (
        AGENT + "placed = true",
        [("agents[0].placed", "the pool has no 'placement'", 'placement = "ray" below [pool], or remove')],
    ),
    (
        PLACED
        + AGENT
        + """placed = "no"
        [placement]
        address = "ray://10.0.0.1:10001"
        workers = 0
        cpus = -1
        lease = 1.5
        start_timeout = 0
        adress = "auto"
        [placement.resources]
        GPU = 0
        CPU = 1
        [placement.runtime_env]
        x = nan
        """,
        [
            ("agents[0].placed", "is a string, not true or false", "Give true or false"),
            ("placement.address", "is no client of it", "'10.0.0.1:6379', or 'auto'"),
            ("placement.workers", "is 0", "at least 1"),
            ("placement.cpus", "is -1", "at least 0"),
            ("placement.lease", "is 1.5", "at least 2"),
            ("placement.start_timeout", "is 0", "above 0"),
            ("placement.adress", "is an unknown key", "Did you mean 'address'?"),
            ("placement.resources.GPU", "is 0", "above 0"),
            ("placement.resources.CPU", "has a key of its own", "as 'cpus'"),
            ("placement.runtime_env.x", "is nan", "finite number"),
        ],
    ),
    (
        PLACED + AGENT + '[placement]\naddress = ""\nresources = 3',
        [
            ("placement.address", "is empty", "at least one character"),
            ("placement.resources", "is a whole number, not a table", "Give a table"),
        ],
    ),
    (
        '[pool]\nplacement = "ray"\nmax_concurrent = 0\n' + AGENT + "placed = true\n[placement]\nlease = 3",
        [("pool.max_concurrent", "is 0", "at least 1")],
    ),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_what_is_wrong_with_a_placement_is_told_with_place_and_fix(
    text: str, expected: list[tuple[str, str, str]]
) -> None:
    found = findings_of(text)
    assert sorted(key for key, *_ in found) == sorted(key for key, *_ in expected)
    for key, problem, fix in found:
        [(part, fix_part)] = [(part, fix_part) for each, part, fix_part in expected if each == key]
        assert part in problem
        assert fix_part in fix


def test_the_schema_takes_what_is_right_and_refuses_what_is_wrong() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(fleet_schema())
    good = (
        PLACED + AGENT + 'placed = false\n[placement]\naddress = "auto"\nresources = { GPU = 0.5 }\nlease = 2'
    )
    assert list(validator.iter_errors(tomllib.loads(good))) == []
    for line in (
        'address = "ray://x"',
        "workers = 0",
        "lease = 1",
        "resources = { CPU = 1 }",
        "resources = { GPU = 0 }",
        "adress = 1",
        "start_timeout = 0",
    ):
        assert not validator.is_valid(tomllib.loads(PLACED + AGENT + "[placement]\n" + line)), line


def test_a_placement_in_python_is_checked_like_one_of_a_file() -> None:
    with pytest.raises(ValueError, match="lease"):
        PlacementSettings(lease=1)
    with pytest.raises(TypeError, match="workers"):
        PlacementSettings(workers="8")  # type: ignore[arg-type]


# -- what is opened ----------------------------------------------------------------------


@needs_ray
def test_a_placement_is_made_as_the_file_says() -> None:
    from agentpool.ray import RayPlacement

    table = '[placement]\naddress = "local"\nworkers = 3\ncpus = 0.5\nlease = 4\nresources = { GPU = 1 }\n'
    more = "start_timeout = 20\nruntime_env = { env_vars = { A = 'b' } }\n"
    made = FleetFile.from_toml(PLACED + table + more + AGENT).make_placement()
    assert isinstance(made, RayPlacement)
    assert attrs.asdict(made) == {
        "address": "local",
        "workers": 3,
        "cpus": 0.5,
        "lease": 4.0,
        "resources": {"GPU": 1},
        "start_timeout": 20.0,
        "runtime_env": {"env_vars": {"A": "b"}},
        "driver": None,
    }
    # A file that says nothing means what a program means that says nothing.
    made = FleetFile.from_toml(PLACED + AGENT).make_placement()
    assert isinstance(made, RayPlacement)
    assert attrs.asdict(made) == attrs.asdict(RayPlacement())


def test_without_ray_its_pip_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_ray(monkeypatch)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'trio-agentpool\[ray\]'"):
        FleetFile.from_toml(PLACED + AGENT).make_placement()


def hide_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "agentpool.ray._placement.find_spec", lambda name: None if name == "ray" else found(name)
    )


@pytest.mark.parametrize("command", ["run", "validate"])
def test_the_command_line_names_the_pip_install(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cyclopts")
    from agentpool.cli import _app

    hide_ray(monkeypatch)
    path = tmp_path / "fleet.toml"
    path.write_text(PLACED + AGENT)
    assert _app.call([command, str(path)]) == 2
    told = capsys.readouterr().err
    assert f"{path}: pool.placement: needs Ray, which is not installed" in told
    assert "pip install 'trio-agentpool[ray]'" in told


def test_a_run_that_is_resumed_names_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cyclopts")
    from agentpool.cli._errors import BadInputError
    from agentpool.cli._run import placement_for

    hide_ray(monkeypatch)
    kept = fleet_from_data(fleet_to_data(FleetFile.from_toml(PLACED + AGENT)))
    with pytest.raises(BadInputError, match="pip install"):
        placement_for(kept)


@needs_ray
def test_an_agent_that_is_not_placed_in_a_fleet_that_is_not_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cyclopts")
    from agentpool.cli import _app

    scripted = AGENT.replace("{}", '{ script = { steps = [{ text = "x" }] } }')
    path = tmp_path / "fleet.toml"
    path.write_text(scripted + "placed = false")
    assert _app.call(["validate", str(path)]) == 0
    assert "placed: of agent 'a': has no effect: the pool has no 'placement'" in capsys.readouterr().err
    path.write_text(PLACED + scripted + "placed = false")
    assert _app.call(["validate", str(path)]) == 0
    assert capsys.readouterr().err == ""


def test_a_server_says_that_its_agents_run_in_it() -> None:
    from agentpool.mcp_server._tools import served_tools

    fleet = FleetFile.from_toml(PLACED + AGENT, served=True)
    with pytest.raises(ManifestError) as caught:
        served_tools(fleet)
    [finding] = caught.value.findings
    assert finding.key == "pool.placement"


# -- what is kept ------------------------------------------------------------------------


def test_a_journal_keeps_where_agents_run() -> None:
    fleet = FleetFile.from_toml(PLACED + "[placement]\nlease = 3\n" + AGENT + "placed = false")
    assert fleet_from_data(fleet_to_data(fleet)) == fleet


def test_a_journal_of_an_older_version_is_read() -> None:
    fleet = FleetFile.from_toml(AGENT)
    data = fleet_to_data(fleet)
    fields: Any = data
    del fields["placement"]
    for agent in fields["agents"]:
        del agent["placed"]
    assert fleet_from_data(data) == fleet


def test_a_function_of_a_file_beside_the_fleet_is_loaded_where_it_arrives(folder: Path) -> None:
    sent: list[bytes] = []
    for reference in ("work:where", "work:clerk"):
        text = f'[[agents]]\nfunction = "{reference}"\nname = "f"\nquery = "q"\ntimeout = 3\nplaced = false'
        [agent] = FleetFile.from_toml(text, base=folder).agents
        assert pickle.loads(pickle.dumps(agent)) == agent
        sent.append(pickle.dumps(agent))
    # In another process, which has loaded nothing from there.
    program = "import pickle, sys; [print(pickle.loads(each)) for each in pickle.load(sys.stdin.buffer)]"
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(sent), capture_output=True, timeout=60, check=True
    )
    assert done.stdout.decode().count("FleetFunction(name='f'") == 2


def test_an_installed_function_is_sent_by_its_name() -> None:
    import trio

    agent = FleetFunction("f", trio.sleep, "trio:sleep")
    assert pickle.loads(pickle.dumps(agent)) == agent


# -- where the agents run ------------------------------------------------------------------

FLEET = (
    PLACED
    + """
    max_concurrent = 2
    [[agents]]
    function = "work:where"
    query = "there: "
    name = "there"
    [[agents]]
    function = "work:clerk"
    query = "clerk"
    name = "clerk"
    [[agents]]
    function = "work:where"
    query = "here: "
    name = "here"
    placed = false
    [[agents]]
    name = "model"
    query = "this"
    manifest = { script = { steps = [{ text = "asked {query}" }] } }
    [[agents]]
    name = "supervised"
    query = "that"
    manifest = { script = { steps = [{ text = "asked {query}" }] } }
    [[supervisors]]
    name = "boss"
    children = ["supervised"]
    """
)


async def test_the_agents_of_a_fleet_run_in_workers_and_supervisors_at_the_head(
    folder: Path, autojump_clock: MockClock
) -> None:
    fleet = FleetFile.from_toml(FLEET, base=folder)
    placement = InProcessPlacement(2)
    ends: dict[str, Any] = {}
    async with open_agent_pool(EmbeddedDriver(), max_concurrent=2, placement=placement) as pool:
        for handle in await start_fleet(pool, fleet):
            ends[handle.name] = await handle.wait()
    assert all(isinstance(end, Completed) for end in ends.values()), ends
    assert ends["there"].value == "there: PlacedContext"
    assert ends["clerk"].value == "clerk: PlacedContext"
    assert ends["here"].value == "here: AgentContext"
    assert ends["model"].value.text == "asked this"
    assert ends["boss"].value == 0  # how often it restarted its children


async def test_without_a_placement_they_run_in_the_pool(folder: Path, autojump_clock: MockClock) -> None:
    fleet = FleetFile.from_toml(FLEET, base=folder)
    async with open_agent_pool(ScriptedDriver(["x", "y"]), max_concurrent=2) as pool:
        ends = {handle.name: await handle.wait() for handle in await start_fleet(pool, fleet)}
    there = ends["there"]
    assert isinstance(there, Completed)
    assert there.value == "there: AgentContext"


async def test_marks_are_only_set_by_fleets_with_a_placement(folder: Path, autojump_clock: MockClock) -> None:
    fleet = FleetFile.from_toml(FLEET.replace('placement = "ray"', ""), base=folder)
    placement = InProcessPlacement(2)
    async with open_agent_pool(EmbeddedDriver(), max_concurrent=2, placement=placement) as pool:
        ends = {handle.name: await handle.wait() for handle in await start_fleet(pool, fleet)}
    there = ends["there"]
    assert isinstance(there, Completed)
    assert there.value == "there: AgentContext"
    assert placement.workers == []


# -- the guide -----------------------------------------------------------------------------


def test_the_fleet_of_the_guide_is_right(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "guide" / "cluster.md"
    [text] = re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    for name in ("agents", "docs"):
        (tmp_path / name).mkdir()
    (tmp_path / "agents" / "reviewer.toml").write_text('name = "reviewer"')
    (tmp_path / "docs" / "a.md").write_text("a")
    (tmp_path / "report.py").write_text("async def write(ctx): ...")
    fleet = FleetFile.from_toml(text, base=tmp_path)
    assert [(agent.name, agent.placed) for agent in fleet.agents] == [("reviewer-1", True), ("write", False)]
    settings = PlacementSettings()
    assert fleet.placement is not None
    for name in ("cpus", "lease", "start_timeout"):  # what the guide shows is the default
        assert getattr(fleet.placement, name) == getattr(settings, name)
