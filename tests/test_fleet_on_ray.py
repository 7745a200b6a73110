"""`agentpool run` and `resume` with fleets whose agents run on a real Ray cluster; the guide's example."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("cyclopts")

from cluster_kit import Cluster, open_cluster, why_no_cluster

pytestmark = pytest.mark.processes

COMMANDS = Path(__file__).parent / "ray_commands.py"
EXAMPLE = Path(__file__).parent.parent / "examples" / "cluster.py"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = why_no_cluster()
    if reason is not None:
        if os.environ.get("AGENTPOOL_REQUIRE_CLUSTER") == "1":
            pytest.fail(f"this machine cannot have a cluster, and has to: {reason}")
        pytest.skip(reason)
    with open_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def fleet(cluster: Cluster, tmp_path: Path) -> Path:
    """A fleet of agents of all kinds; its functions stand in a file beside it."""
    (tmp_path / "work.py").write_text(
        textwrap.dedent(
            """
            import os
            from pathlib import Path

            import trio

            async def where(ctx, query):
                return f"{query} {os.getpid()} {type(ctx).__name__}"

            async def gone_once(ctx, query):
                been = Path(query)
                if not been.exists():
                    been.touch()
                    os._exit(1)
                return "came back"
            """
        )
    )
    path = tmp_path / "fleet.toml"
    path.write_text(
        textwrap.dedent(
            f"""
            [pool]
            placement = "ray"
            max_concurrent = 4
            [placement]
            address = "{cluster.address}"
            workers = 2
            lease = 3
            [[agents]]
            function = "work:where"
            name = "there"
            query = "there"
            count = 3
            [[agents]]
            function = "work:where"
            name = "here"
            query = "here"
            placed = false
            [[agents]]
            name = "model"
            query = "fleet.toml"
            [agents.manifest]
            capabilities = [{{ type = "file_read", allowed_paths = ["."] }}]
            [agents.manifest.script]
            steps = [
                {{ calls = [{{ tool = "read_file", input = {{ path = "{{query}}" }} }}] }},
                {{ text = "I have read {{query}}" }},
            ]
            """
        )
    )
    return path


def printed(cluster: Cluster, *arguments: str) -> str:
    """Run Python with these arguments at the head, to its good end; return what it printed."""
    with cluster.running(COMMANDS, *arguments) as program:
        ended = program.read("ended", 120)
        program.finish()
    assert ended["code"] == 0, f"{ended['output']}\n{ended['errors']}"
    output: str = ended["output"]
    return output


def report_of(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(printed(cluster, "-m", "agentpool", *arguments, "--json"))
    return report


def values_of(report: dict[str, Any]) -> dict[str, str]:
    return {agent["name"]: agent.get("value", agent.get("text", agent)) for agent in report["agents"]}


def test_the_agents_of_a_fleet_run_in_workers_of_a_cluster(cluster: Cluster, fleet: Path) -> None:
    report = report_of(cluster, "run", str(fleet))
    assert report["exit_code"] == 0
    values = values_of(report)
    places = {name: value.split()[1:] for name, value in values.items() if "here" in name}
    here, context = places.pop("here")
    assert context == "AgentContext"
    assert {context for _, context in places.values()} == {"PlacedContext"}
    assert here not in {process for process, _ in places.values()}
    assert "I have read fleet.toml" in str(values["model"])


def test_a_run_that_lost_a_worker_goes_on_elsewhere(cluster: Cluster, fleet: Path) -> None:
    been = fleet.with_name("been")
    alone, _, _ = fleet.read_text().partition("[[agents]]")  # an agent beside it would be lost with it
    restart = "restart = { max_restarts = 2 }"
    fleet.write_text(f'{alone}[[agents]]\nfunction = "work:gone_once"\nquery = "{been}"\n{restart}\n')
    report = report_of(cluster, "run", str(fleet))
    assert (report["exit_code"], values_of(report)["gone_once"]) == (0, "came back")


def test_words_are_counted_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.md").write_text("often " * number + "once\n")
    output = printed(cluster, str(EXAMPLE), str(tmp_path), "--ray", cluster.address)
    assert [line.split() for line in output.splitlines()] == [["10", "often"], ["5", "once"]]
