"""The bench's programs run, and its judgements are right; how fast anything is, is not tested here."""

# ruff: noqa: RUF001  (the tables have × and –)

from __future__ import annotations

import gc
import json
import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

# `bench` is no part of the package; appended, so that an installed agentpool comes first
sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench import flame, instructions, runner
from bench.child import load
from bench.plan import GROWTH, WORKLOADS, Contender, Goal, Growth, Workload


def needs(contender: Contender) -> str | None:
    """Return the module of an extra that it needs, which the session for `once` does not have."""
    if contender.target.endswith("command_line"):
        return "cyclopts"
    return "httpx2" if contender.target.startswith("w8:") else None


ORDINARY = [
    pytest.param(
        contender,
        id=f"{workload.name} {contender.label}",
        marks=[] if needs(contender) else pytest.mark.once,
    )
    for workload in WORKLOADS
    for contender in workload.contenders
    if not contender.peer
]


@pytest.mark.parametrize("contender", ORDINARY)
def test_each_contender_gives_the_figures_of_its_table(contender: Contender) -> None:
    module = needs(contender)
    if module is not None:
        pytest.importorskip(module)
    figures = load(contender.target)(contender.tiny)
    wanted = {
        metric for workload in WORKLOADS if contender in workload.contenders for metric in workload.metrics
    }
    assert wanted & set(figures)
    assert all(math.isfinite(figure) for figure in figures.values())


@pytest.mark.once
@pytest.mark.parametrize(
    ("target", "size"),
    [
        ("w1_agentpool:map_", 300),
        ("w1_agentpool:spawn_and_join", 300),
        ("w2_agentpool:ping_pong", 300),
        ("w2_agentpool:fan_in", 3_000),
        ("w4_agentpool:agents", 300),
        ("w5_agentpool:asleep", 300),
        ("w5_agentpool:receiving", 300),
    ],
)
def test_next_to_nothing_is_left_to_the_cyclic_collector(
    target: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cycle through each wait made a shutdown of 10,000 agents take twice the time."""
    contender = load(target)
    contender(100)
    collect = gc.collect
    monkeypatch.setattr(gc, "collect", lambda: 0)  # the contender's own, before it measures
    collect()
    gc.disable()
    try:
        contender(size)
        assert collect() < size
    finally:
        gc.enable()


def test_goals_name_contenders_and_metrics_of_their_workload() -> None:
    for workload in WORKLOADS:
        labels = [contender.label for contender in workload.contenders]
        assert len(set(labels)) == len(labels)
        assert workload.floor in {"", *labels}
        for goal in workload.goals:
            assert goal.label in labels
            assert goal.of in {"", *labels}
            assert goal.metric in workload.metrics


def test_growth_measures_what_the_workloads_measure() -> None:
    targets = {contender.target for workload in WORKLOADS for contender in workload.contenders}
    assert {growth.target for growth in GROWTH} <= targets


def test_instruction_counts_measure_what_the_workloads_measure() -> None:
    targets = {contender.target for workload in WORKLOADS for contender in workload.contenders}
    assert {target for target, *_ in instructions.PATHS.values()} <= targets


TABLE = Workload(
    "T",
    "a table",
    {"us": "µs each"},
    (Contender("floor", "none:none", 1), Contender("ours", "none:none", 1)),
    floor="floor",
    goals=(Goal("ours", "us", 1.5, "floor"), Goal("ours", "us", 20), Goal("ours", "us", 0.1, "peer")),
)
FIGURES = {"floor": {"us": [10.0, 11.0, 30.0]}, "ours": {"us": [15.0, 22.0, 23.0]}, "peer": {"us": [330.0]}}


def test_goals_are_judged_by_medians() -> None:
    ratio, absolute, faster = (runner.judge(goal, FIGURES) for goal in TABLE.goals)
    assert ratio == (2.0, False)
    assert absolute == (22.0, False)
    assert faster == (pytest.approx(1 / 15), True)
    assert runner.judge(Goal("ours", "us", 1.0, "absent"), FIGURES) is None


def test_a_table_shows_ratios_goals_and_what_could_not_be_measured() -> None:
    text = "\n".join(runner.workload_lines(TABLE, FIGURES, {"other": "ImportError: no other"}))
    assert "| ours | 22.0 | 15.0 – 23.0 | 2.00 |" in text
    assert "- ours: 2.00 × floor, goal 1.50: **missed**" in text
    assert "- ours: 15.0 × faster than peer, goal 10.0 ×: met" in text
    assert "- other: not measured: ImportError: no other" in text


def test_growth_is_shown_with_its_exponent() -> None:
    growth = Growth("linear", "none:none", (1_000, 100_000), at_most=1.25)
    steep = Growth("quadratic", "none:none", (1_000, 100_000), at_most=1.25)
    text = "\n".join(
        runner.growth_lines(
            [
                (growth, [(1_000, 10.0), (100_000, 10.0)], ""),
                (steep, [(1_000, 10.0), (100_000, 1_000.0)], ""),
            ]
        )
    )
    assert "| linear | 10.0 | 10.0 | 1.00 | 1.00 | 1.25: met |" in text
    assert "| quadratic | 10.0 | 1,000 | 100.00 | 2.00 | 1.25: **missed** |" in text


def test_a_contender_that_fails_is_reported_by_the_last_line_of_its_error() -> None:
    assert runner.run_child("absent:function", 1) == "ModuleNotFoundError: No module named 'bench.absent'"


def test_a_contender_runs_in_a_process_of_its_own() -> None:
    figures = runner.run_child("w2_floors:ping_pong", 100)
    assert isinstance(figures, dict)
    assert figures["us"] > 0


def test_counts_may_grow_by_five_per_cent() -> None:
    lines, good = instructions.judge({"spawn": 1_050, "send": 900}, {"spawn": 1_000, "send": 1_000})
    assert good
    assert lines == [
        "spawn: 1,050 instructions, baseline 1,000, +5.0%: ok",
        "send: 900 instructions, baseline 1,000, -10.0%: ok",
    ]
    lines, good = instructions.judge({"spawn": 1_051}, {"spawn": 1_000})
    assert not good
    assert "REGRESSION" in lines[0]


def test_counting_is_skipped_with_a_word_where_valgrind_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(instructions.shutil, "which", lambda name: None)
    assert instructions.main([]) == 0
    assert "valgrind is not installed" in capsys.readouterr().out


def test_counting_is_skipped_with_a_word_where_no_baseline_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    baseline = tmp_path / "instructions.json"
    baseline.write_text(json.dumps({"another Python": {}}))
    monkeypatch.setattr(instructions.shutil, "which", lambda name: "/usr/bin/valgrind")
    monkeypatch.setattr(instructions, "BASELINE", baseline)
    assert instructions.main([]) == 0
    assert f"no baseline for {instructions.surroundings()}" in capsys.readouterr().out


def test_a_flame_graph_is_well_formed_and_as_wide_as_its_samples() -> None:
    root = flame.Node("all")
    root.add(["trio._core._run:unrolled_run", "agentpool._kernel.pool:AgentPool.<locals>"])
    root.add(["trio._core._run:unrolled_run"])
    drawing = ElementTree.fromstring(flame.draw(root, "One & all", "the command"))
    boxes = drawing.findall("{http://www.w3.org/2000/svg}g")
    titles = [box[0].text for box in boxes]
    widths = [float(box[1].attrib["width"]) for box in boxes]
    assert titles == [
        "all: 100.0%",
        "trio._core._run:unrolled_run: 100.0%",
        "agentpool._kernel.pool:AgentPool.<locals>: 50.0%",
    ]
    assert widths == [1199.5, 1199.5, 599.5]


@pytest.mark.processes
def test_what_being_watched_costs_is_measured_on_a_terminal(tmp_path: Path) -> None:
    pytest.importorskip("cyclopts")
    pytest.importorskip("pty")
    from bench import seen

    seen.write_fleet(tmp_path, 2)
    cpu, wall, half, most = seen.cost(tmp_path, (24, 80))
    assert 0 < cpu < wall
    assert half <= most
