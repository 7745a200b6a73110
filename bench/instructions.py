"""Counts the instructions of the hot paths under valgrind, and compares them with a baseline.

    python -m bench.instructions             compare; exit status 1 on a regression above 5 %
    python -m bench.instructions --update    write the baseline of this Python and trio

Time is too noisy for a check in CI, counts are not: over repeated runs they differ by less than
0.1 %. Each path runs at two sizes in processes of their own, and the difference of the counts,
for each thing that the larger run does more, leaves out whatever happens once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINE = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.05

PATHS: dict[str, tuple[str, int, int, int]] = {
    # name: (target, smaller size, larger size, things done at size 1)
    "spawn to outcome": ("w1_agentpool:spawn_and_join", 200, 600, 1),
    "send to receive": ("w2_agentpool:ping_pong", 200, 1_000, 1),
    "one turn": ("w3_agentpool:turns", 10, 40, 11),
}

# The garbage collector's runs depend on what else was allocated, and trio shuffles its run queue:
# both are taken out, so that the same program gives the same count.
_PROGRAM = """
import gc, sys
from bench.child import load
contender = load(sys.argv[1])
import trio
trio._core._run._r.seed(0)
gc.disable()
contender(int(sys.argv[2]))
"""


def count(target: str, size: int) -> int:
    """Return how many instructions a process executes that runs `target` at `size`.

    Raises:
      RuntimeError: if the program fails.
    """
    command = [
        # It counts as callgrind does, in half of the time.
        *("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
        *(sys.executable, "-c", _PROGRAM, target, str(size)),
    ]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    collected = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or collected is None:
        raise RuntimeError(f"{target} under valgrind: exit status {done.returncode}\n{done.stderr}")
    return int(collected[1].replace(",", ""))


def _compile(target: str) -> None:
    """Run a target once without counting: whoever imports a module first compiles it to bytecode."""
    command = [sys.executable, "-c", _PROGRAM, target, "1"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)


def count_all(names: Sequence[str] = tuple(PATHS)) -> dict[str, int]:
    """Return the instructions per thing of each path; two processes run at a time."""
    for name in names:
        _compile(PATHS[name][0])
    runs = [(name, PATHS[name][0], size) for name in names for size in PATHS[name][1:3]]
    with ThreadPoolExecutor(max_workers=2) as threads:
        counts = list(threads.map(lambda run: count(run[1], run[2]), runs))
    result = {}
    for name, small, large in zip(names, counts[::2], counts[1::2], strict=True):
        _, small_size, large_size, things = PATHS[name]
        result[name] = round((large - small) / ((large_size - small_size) * things))
    return result


def surroundings() -> str:
    """Name what counts depend on besides our own code."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, trio {version('trio')}, {platform.machine()}"


def judge(counts: Mapping[str, int], baseline: Mapping[str, int]) -> tuple[list[str], bool]:
    """Return a line for each path, and whether none of them has grown by more than the tolerance."""
    lines = []
    good = True
    for name, now in counts.items():
        before = baseline.get(name)
        if before is None:
            lines.append(f"{name}: {now:,} instructions, no baseline; run with --update")
            continue
        within = now <= before * (1 + TOLERANCE)
        verdict = "ok" if within else f"REGRESSION above {TOLERANCE:.0%}"
        lines.append(f"{name}: {now:,} instructions, baseline {before:,}, {now / before - 1:+.1%}: {verdict}")
        good = good and within
    return lines, good


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare or update; return 1 on a regression, 0 also when nothing could be counted."""
    parser = argparse.ArgumentParser(prog="python -m bench.instructions")
    parser.add_argument("--update", action="store_true", help="write the baseline of this Python and trio")
    parser.add_argument("--only", action="append", choices=list(PATHS), help="one of the paths")
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        print("instruction counts skipped: valgrind is not installed (apt-get install valgrind)")
        return 0
    baselines: dict[str, dict[str, int]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    here = surroundings()
    if here not in baselines and not options.update:
        print(f"instruction counts skipped: {BASELINE.name} has no baseline for {here}; --update writes one")
        return 0
    counts = count_all(options.only or tuple(PATHS))
    if options.update:
        baselines.setdefault(here, {}).update(counts)
        BASELINE.write_text(json.dumps(baselines, indent=2, sort_keys=True) + "\n")
    lines, good = judge(counts, baselines[here])
    print(f"{here}:", *lines, sep="\n")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
