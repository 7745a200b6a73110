from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

HEAD = """
import pytest
import trio

async def race(sim):
    order = []

    async def one(number):
        await trio.lowlevel.checkpoint()
        order.append(number)
        sim.note(f"task {number}")

    async with trio.open_nursery() as nursery:
        for number in range(sim.size):
            nursery.start_soon(one, number)
    return order
"""

FRAGILE = """
@pytest.mark.agent_simulation(seeds=50, size=4)
async def test_order(simulation):
    assert (await race(simulation))[0] != 2
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    return pytester


def run(project: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    project.makepyfile(HEAD + source)
    plugin = () if _is_installed() else ("-p", "agentpool.testing.pytest_plugin")
    return project.runpytest_inprocess(*plugin, "--strict-markers", *arguments)


def _is_installed() -> bool:
    from importlib.metadata import entry_points

    return "agentpool" in entry_points(group="pytest11").names


def test_a_failure_reports_seed_plan_and_size_and_how_to_run_it_again(project: pytest.Pytester) -> None:
    result = run(project, FRAGILE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*agentpool simulation*",
            "seed: *",
            "plan: ''",
            "size: 3",
            "or with: pytest '*::test_order' --agentpool-seed=* --agentpool-size=3",
            "  Note(*task 2*",
        ]
    )


def test_what_failed_is_kept_beside_the_configuration_and_tried_first(project: pytest.Pytester) -> None:
    run(project, FRAGILE).assert_outcomes(failed=1)
    seeds = Path(project.path / ".agentpool-seeds").read_text()
    assert '"size": 3' in seeds
    result = run(project, FRAGILE)
    result.stdout.fnmatch_lines(["*found in run 1 *"])
    assert Path(project.path / ".agentpool-seeds").read_text() == seeds


def test_one_case_is_run_again_by_its_options(project: pytest.Pytester) -> None:
    source = """
@pytest.mark.agent_simulation(seeds=50, size=4)
async def test_shows(simulation):
    print("seed", simulation.seed, "size", simulation.size, "plan", simulation.plan)
"""
    options = ("--agentpool-seed=7", "--agentpool-plan=driver:1:cut", "--agentpool-size=2")
    result = run(project, source, "-s", *options)
    result.assert_outcomes(passed=1)
    assert str(result.stdout).count("seed 7 size 2 plan driver:1:cut") == 1
    assert not (project.path / ".agentpool-seeds").exists()


def test_it_works_beside_pytest_trio(project: pytest.Pytester) -> None:
    source = """
@pytest.mark.agent_simulation(20)
async def test_simulated():
    await trio.sleep(1000)
    assert trio.current_time() == 1000

async def test_of_pytest_trio(autojump_clock):
    await trio.sleep(10)

def test_plain():
    pass

@pytest.mark.agent_simulation(seeds=range(3))
@pytest.mark.parametrize("number", [1, 2])
async def test_with_fixtures(number, tmp_path, simulation):
    assert number in (1, 2) and tmp_path.exists() and simulation.seed < 3
"""
    run(project, source).assert_outcomes(passed=5)


def test_seeds_of_its_own_are_all_tried(project: pytest.Pytester) -> None:
    source = """
seen = []

@pytest.mark.agent_simulation(seeds=[3, 5, 8])
async def test_seeds(simulation):
    seen.append(simulation.seed)

def test_after():
    assert seen == [3, 5, 8]
"""
    run(project, source).assert_outcomes(passed=2)


def test_a_sync_test_cannot_be_simulated(project: pytest.Pytester) -> None:
    source = """
@pytest.mark.agent_simulation
def test_sync():
    pass
"""
    result = run(project, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*is marked agent_simulation but is not an async function*"])


def test_a_plan_that_cannot_be_read_is_refused_before_anything_runs(project: pytest.Pytester) -> None:
    result = run(project, FRAGILE, "--agentpool-plan=nonsense")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--agentpool-plan: 'nonsense' is not a fault*"])


def test_the_file_of_failing_cases_can_be_moved_or_left_out(project: pytest.Pytester) -> None:
    run(project, FRAGILE, "-o", "agentpool_seeds_file=other").assert_outcomes(failed=1)
    assert (project.path / "other").exists()
    run(project, FRAGILE, "-o", "agentpool_seeds_file=").assert_outcomes(failed=1)
    assert not (project.path / ".agentpool-seeds").exists()
