"""Runs contenders in fresh processes, in turn, round after round, and shows medians and ratios.

python -m bench                                 the table
python -m bench --write                         the same, and docs/performance.md
python -m bench --only W3 --rounds 3            a part, quickly
python -m bench --peers                         other libraries too, in environments of their own
"""

# ruff: noqa: RUF001  (tables are for people: × and –)

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.plan import GROWTH, WORKLOADS, Contender, Goal, Growth, Workload

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
PAGE = Path("docs/performance.md")

Figures = dict[str, dict[str, list[float]]]
"""Contender's label → metric → one figure a round."""


# -- running --------------------------------------------------------------------


def run_child(
    target: str, size: int, warm_up: int = 0, python: str = sys.executable
) -> dict[str, float] | str:
    """Return a contender's figures from a process of its own, or the last line of its error."""
    command = [python, "-m", "bench.child", target, str(size), str(warm_up)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
    except subprocess.TimeoutExpired:
        return "took more than 300 s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(
    workload: Workload, contenders: Sequence[Contender], rounds: int, pythons: dict[str, str]
) -> tuple[Figures, dict[str, str]]:
    """Run every contender once a round; a contender that fails is left out of later rounds."""
    figures: Figures = {}
    failures: dict[str, str] = {}
    for number in range(rounds):
        for contender in contenders:
            if contender.label in failures or (contender.once and number):
                continue
            python = pythons.get(contender.environment, sys.executable)
            result = run_child(contender.target, contender.size, contender.warm_up, python)
            if isinstance(result, str):
                failures[contender.label] = result
                continue
            for metric, figure in result.items():
                figures.setdefault(contender.label, {}).setdefault(metric, []).append(figure)
    return figures, failures


def peers_python(environment: str, folder: Path) -> str:
    """Make an environment for one peer, and return its interpreter."""
    home = folder / environment
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", *environment.split("+"), "trio"], check=True
        )
    return str(python)


# -- judging --------------------------------------------------------------------


def median(figures: Figures, label: str, metric: str) -> float | None:
    """Return the median of a contender's rounds, None if it was not measured."""
    values = figures.get(label, {}).get(metric)
    return statistics.median(values) if values else None


def judge(goal: Goal, figures: Figures) -> tuple[float, bool] | None:
    """Return the figure or ratio that a goal speaks of, and whether it is met."""
    value = median(figures, goal.label, goal.metric)
    base = median(figures, goal.of, goal.metric) if goal.of else 1.0
    if value is None or not base:
        return None
    # a hair of tolerance for sums of floats, none for slowness
    return value / base, value / base <= goal.at_most + 1e-9


def slope(figures: Sequence[tuple[int, float]]) -> float:
    """Return the exponent with which the whole cost grows: 1 is linear, from cost per agent by size."""
    (small, first), *_, (large, last) = figures
    return 1 + math.log(last / first) / math.log(large / small)


# -- showing --------------------------------------------------------------------


def number(value: float) -> str:
    """Show three digits that mean something."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def goal_text(goal: Goal, figures: Figures) -> str | None:
    """Say whether a goal is met, None if it was not measured."""
    verdict = judge(goal, figures)
    if verdict is None:
        return None
    value, met = verdict
    mark = "met" if met else "**missed**"
    if goal.at_most < 0.5 and goal.of:
        return f"{number(1 / value)} × faster than {goal.of}, goal {number(1 / goal.at_most)} ×: {mark}"
    against = f" × {goal.of}" if goal.of else ""
    return f"{number(value)}{against}, goal {number(goal.at_most)}: {mark}"


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def workload_lines(workload: Workload, figures: Figures, failures: dict[str, str]) -> list[str]:
    """Show one workload as a Markdown table, its goals below."""
    lines = [f"## {workload.name}: {workload.title}", ""]
    metrics = [m for m in workload.metrics if any(m in measured for measured in figures.values())]
    header = ["contender"]
    for metric in metrics:
        header += [workload.metrics[metric], "min – max", "× floor"]
    lines += [row(header), row(["---"] + ["---:"] * (len(header) - 1))]
    for label, measured in figures.items():
        cells = [label]
        for metric in metrics:
            values = measured.get(metric)
            if not values:
                cells += ["", "", ""]
                continue
            middle = statistics.median(values)
            floor = median(figures, workload.floor, metric)
            spread = f"{number(min(values))} – {number(max(values))}" if len(values) > 1 else ""
            cells += [number(middle), spread, f"{middle / floor:.2f}" if floor else ""]
        lines.append(row(cells))
    lines.append("")
    lines += [
        f"- {goal.label}: {text}" for goal in workload.goals if (text := goal_text(goal, figures)) is not None
    ]
    lines += [f"- {label}: not measured: {why}" for label, why in failures.items()]
    return [*lines, ""]


def growth_lines(results: Sequence[tuple[Growth, list[tuple[int, float]], str]]) -> list[str]:
    """Show growth: cost per agent by size, and the exponent of the whole cost."""
    sizes = sorted({size for _, figures, _ in results for size, _ in figures})
    lines = [
        "## Growth",
        "",
        "µs per agent by the number of agents, measured once each. The exponent tells how the whole",
        "cost grows: 1 is linear, n log n is 1.1 over these sizes.",
        "",
        row(["contender", *(f"{size:,}" for size in sizes), "largest / smallest", "exponent", "goal"]),
        row(["---"] + ["---:"] * (len(sizes) + 2) + ["---"]),
    ]
    for growth, figures, failure in results:
        by_size = dict(figures)
        cells = [growth.label, *(number(by_size[size]) if size in by_size else "" for size in sizes)]
        if len(figures) > 1:
            ratio = figures[-1][1] / figures[0][1]
            goal = ""
            if growth.at_most is not None:
                goal = f"{growth.at_most}: " + ("met" if ratio <= growth.at_most else "**missed**")
            cells += [f"{ratio:.2f}", f"{slope(figures):.2f}", goal]
        else:
            cells += ["", "", failure]
        lines.append(row(cells))
    return [*lines, ""]


def preamble(command: str, rounds: int, seconds: float) -> list[str]:
    """Say what was measured on what, and how to do it again."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("trio-agentpool", "trio", "attrs")
    )
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return [
        "# Performance",
        "",
        "This page says how much CPU time and memory agentpool needs for its own work, beside hand-written",
        "trio code that does the same (the *floor*). A call of a model takes much longer: compare these",
        "microseconds with its seconds. The goals are the project's own; those that are missed are marked.",
        "",
        "The page is written by this command:",
        "",
        "```",
        command,
        "```",
        "",
        f"{today}; {platform.python_implementation()} {platform.python_version()}, {versions};",
        f"{platform.machine()}, {os.cpu_count()} cores; {rounds} rounds in {seconds:.0f} s.",
        "",
        "Each contender runs in a fresh process, in turn, round after round. Figures are medians of CPU",
        "time of the process, or of wall clock time where a heading says so. Compare only the ratios",
        "within one run: the same code differs by half from run to run. The floors are written by hand in",
        "trio, each for its one benchmark, and are in `bench/`.",
        "",
    ]


EPILOGUE = """\
## Where the time goes

One spawn, from `spawn` to its outcome:

![Flame graph of one spawn](_static/flame-spawn.svg)

One turn of the agent loop:

![Flame graph of one turn](_static/flame-turn.svg)

Both are drawn by `python -m bench.flame`.

## How CI sees a regression

`python -m bench.instructions` counts the instructions of one spawn, one message and one turn under
valgrind, and fails when one of them has grown by more than 5 % against `bench/instructions.json`.
Counts repeat within 0.1 %, also on a busy machine; times do not.

## Many agents alive at once

The cost that grows with the number of live agents is that of Python's cyclic garbage collector, which
visits all live objects again and again. A program that holds tens of thousands of agents can exclude
the objects that it has set up from collection:

```python
import gc

gc.collect()
gc.freeze()
```

agentpool does not do that by itself, since it concerns the whole process.
"""


# -- the command ------------------------------------------------------------------


def measure_growth(growth: Growth) -> tuple[Growth, list[tuple[int, float]], str]:
    """Run one contender at each of its sizes."""
    figures: list[tuple[int, float]] = []
    for size in growth.sizes:
        result = run_child(growth.target, size, 200)
        if isinstance(result, str):
            return growth, figures, result
        figures.append((size, result[growth.metric]))
    return growth, figures, ""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--only", action="append", default=[], help="workloads whose name starts so, or 'growth'"
    )
    parser.add_argument(
        "--peers", action="store_true", help="other libraries too (makes environments for them)"
    )
    parser.add_argument(
        "--environments", type=Path, default=ROOT / "build" / "bench", help="where those are made"
    )
    parser.add_argument(
        "--write", type=Path, nargs="?", const=PAGE, help=f"write the page, to {PAGE} or this file"
    )
    parser.add_argument("--strict", action="store_true", help="exit status 1 if a goal is missed")
    return parser.parse_args(arguments)


def wanted(name: str, only: Sequence[str]) -> bool:
    return not only or any(name.lower().startswith(prefix.lower()) for prefix in only)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; return 1 if `--strict` and a goal is missed, else 0."""
    options = parse(arguments)
    start = time.monotonic()
    lines: list[str] = []

    def show(more: list[str]) -> None:
        lines.extend(more)
        print("\n".join(more), flush=True)

    for workload in WORKLOADS:
        if not wanted(workload.name, options.only):
            continue
        contenders = [contender for contender in workload.contenders if options.peers or not contender.peer]
        environments = {contender.environment for contender in contenders if contender.environment}
        pythons = {name: peers_python(name, options.environments) for name in sorted(environments)}
        show(workload_lines(workload, *measure(workload, contenders, options.rounds, pythons)))
    if wanted("growth", options.only):
        show(growth_lines([measure_growth(growth) for growth in GROWTH]))
    if options.write:
        command = "nox -s bench_peers" if options.peers else "nox -s bench"
        text = "\n".join([*preamble(command, options.rounds, time.monotonic() - start), *lines, EPILOGUE])
        options.write.write_text(text)
    missed = sum(line.count("**missed**") for line in lines)
    print(f"{missed} goals missed, {time.monotonic() - start:.0f} s", file=sys.stderr)
    return 1 if options.strict and missed else 0
