"""The campaign's command line: `python -m tests.campaign --runs 200000`."""

from __future__ import annotations

import argparse
import sys

from ._fleet import SHARES, run_campaign
from ._mutants import run_gate
from ._runs import run_seed
from ._scenarios import run_sweeps


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign, print its figures, and return 1 if it found anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--runs", type=int, default=16_000, help="how many programs (default: 16000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes (default: 2)")
    parser.add_argument("--profile", choices=list(SHARES), help="only programs of this kind")
    parser.add_argument("--seed", type=int, help="make one run of --profile again, and show it")
    parser.add_argument(
        "--sweeps", type=int, default=0, help="cancel sweeps, under so many seeds (default: 0)"
    )
    parser.add_argument("--gate", action="store_true", help="break each rule in turn, and show what sees it")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        if options.profile is None:
            parser.error("--seed needs --profile: the same seed makes another program in each")
        verdict = run_seed(options.profile, options.seed)
        print("\n".join(verdict.problems) or "all is well")
        return 1 if verdict.problems else 0
    if options.gate:
        return _show_gate()
    shares = SHARES if options.profile is None else {options.profile: 1}
    report = run_campaign(options.runs, first=options.first, jobs=options.jobs, shares=shares)
    print(report, flush=True)
    sweeps = run_sweeps(range(options.sweeps), jobs=options.jobs)
    if options.sweeps:
        print(sweeps)
    return 1 if report.violations or sweeps.problems else 0


def _show_gate() -> int:
    """Hunt every mutant, and print a line for each; return 1 if one survives."""
    survivors = 0
    for catch in run_gate():
        survivors += not catch.problem
        print(catch, flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
