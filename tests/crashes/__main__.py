"""The crashes' command line: `python -m tests.crashes --runs 500 --kills 1000 --records --gate`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from . import _town
from ._kills import kill_at_random, kill_at_records
from ._mutants import run_gate
from ._runs import run_random


def main(arguments: list[str] | None = None) -> int:
    """Crash whatever was asked for, print the figures, and return 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashes", description=__doc__)
    parser.add_argument("--runs", type=int, default=0, help="random programs, with several crashes each")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--kills", type=int, default=0, help="kills of a process at random times")
    parser.add_argument("--records", action="store_true", help="kill the town at each of its records")
    parser.add_argument("--gate", action="store_true", help="break each rule in turn, and show what sees it")
    options = parser.parse_args(arguments)
    is_bad = False
    if options.runs:
        runs = run_random(options.first, options.runs)
        print(runs, flush=True)
        is_bad |= bool(runs.problems)
    with tempfile.TemporaryDirectory() as folder:
        if options.records:
            kills = kill_at_records(_town.main, Path(folder))
            print(f"at each record: {kills}", flush=True)
            is_bad |= bool(kills.problems)
    with tempfile.TemporaryDirectory() as folder:
        if options.kills:
            kills = kill_at_random(_town.main, Path(folder), options.kills, longest=0.3)
            print(f"at random: {kills}", flush=True)
            is_bad |= bool(kills.problems)
    if options.gate:
        for catch in run_gate():
            print(catch, flush=True)
            is_bad |= not catch.problem
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
