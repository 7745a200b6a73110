"""The proof of the pool: random programs, cancel sweeps, the mutation gate."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from agentpool._kernel.scope import Scope
from agentpool.testing import attempt

from . import run_seed
from .__main__ import main
from ._actor import run_program
from ._draw import draw_program
from ._fleet import SHARES, run_campaign
from ._mutants import MUTANTS, Mutant, hunt
from ._programs import PROFILES, Profile, Program
from ._runs import WITHOUT_DETECTION, run_once
from ._scenarios import run_sweeps
from ._shrink import kind_of, shrink
from ._world import World

ROOT = Path(__file__).parents[2]
RUNS = int(os.environ.get("AGENTPOOL_CAMPAIGN_RUNS", "8000"))


def test_random_programs_break_no_promise() -> None:
    report = run_campaign(RUNS)
    assert not report.violations, str(report)
    assert sum(report.runs.values()) >= RUNS


def test_cancelling_every_scenario_at_every_step_breaks_no_promise() -> None:
    report = run_sweeps(range(2))
    assert not report.problems, str(report)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGALRM")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_a_rule_that_is_broken_on_purpose_is_seen_to_be(mutant: Mutant) -> None:
    catch = hunt(mutant)
    assert catch.problem, str(catch)


def test_a_mutant_of_something_that_is_not_there_is_refused() -> None:
    with pytest.raises(LookupError, match=r"replaces no_such_thing of .*say where the rule is kept now"):
        Mutant("a rule", trio, "no_such_thing", lambda original: original, "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGALRM")
@pytest.mark.parametrize("error", [AttributeError, KeyError, AssertionError, RuntimeError])
def test_a_mutant_whose_code_breaks_down_is_not_caught(error: type[Exception]) -> None:
    def broken(_original: object) -> object:
        def breaks(*_args: object, **_kwargs: object) -> None:
            raise error("broken code")

        return breaks

    catch = hunt(Mutant("a rule", Scope, "join_all", broken, "", ("trees",)), most_runs=30)
    assert (catch.problem, catch.runs) == ("", 30)
    assert catch.wrecks > 3
    assert error.__name__ in str(catch)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGALRM")
def test_another_problem_than_that_of_the_rule_is_no_catch() -> None:
    lending = next(mutant for mutant in MUTANTS if mutant.name == "rest")
    assert hunt(lending, most_runs=20).problem
    assert not hunt(attrs.evolve(lending, seen_as="something else"), most_runs=20).problem


NEWER = {
    "untidy",
    "tools",
    "inputs",
    "resized",
    "inner",
    "readers",
    "houses",
    "services",
    "threads",
    "placed",
}


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGALRM")
@pytest.mark.parametrize("world", sorted(NEWER))
def test_each_newer_world_sees_a_rule_broken_that_no_other_sees(world: str) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.profiles == (world,))
    others = tuple(profile for profile in SHARES if profile != world and profile not in NEWER)
    catch = hunt(attrs.evolve(mutant, seen_as="", profiles=others), most_runs=200)
    assert (catch.problem, catch.wrecks) == ("", 0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGALRM")
def test_a_hunt_ends_when_its_time_is_up() -> None:
    harmless = Mutant("a rule", Scope, "join_all", lambda original: original, "")
    catch = hunt(harmless, most_seconds=0.2)
    assert not catch.problem
    assert catch.runs < 1000


def test_the_same_seed_gives_the_same_run() -> None:
    for profile in SHARES.keys() - {"threads"}:  # whose order the operating system decides
        assert run_seed(profile, 5) == run_seed(profile, 5)


def test_every_operation_of_every_profile_occurs() -> None:
    for profile in PROFILES.values():
        wanted = {name for name, weight in {**profile.agent_ops, **profile.body_ops}.items() if weight}
        seen: set[str] = set()

        def note(ops: tuple[object, ...], seen: set[str] = seen) -> None:
            for op in ops:
                assert isinstance(op, tuple)
                seen.add(op[0])
                for argument in op:
                    if isinstance(argument, tuple):
                        note(argument if argument and isinstance(argument[0], tuple) else (argument,))

        for seed in range(1000):
            program = draw_program(seed, profile)
            note(program.body)
            for script in program.scripts:
                note(script.ops)
        assert wanted <= seen


INDEPENDENT = Profile(
    agent_ops={
        "spawn": 8,
        "result": 4,
        "wait": 4,
        "join_next": 3,
        "join_all": 3,
        "map": 2,
        "fan_out": 2,
        "both": 2,
        "sleep": 4,
        "compute": 3,
        "fail": 1,
    },
    body_ops={"spawn": 1},
    scripts=5,
    length=5,
)


def test_agents_that_a_fault_does_not_touch_end_as_without_it() -> None:
    for seed in range(300):
        scripts = draw_program(seed, INDEPENDENT).scripts
        program = Program(2, 32, body=(("spawn", 0, None, None),) * 4, scripts=scripts, most_agents=10_000)
        quiet, struck = World(program), World(program)
        attempt(partial(run_program, quiet), seed)
        step = random.Random(seed).randint(1, 100)

        def on_step(now: int, _sim: object, world: World = struck, step: int = step) -> None:
            if now == step and world.owned.get(0):
                world.owned[0][0].abort("the fault")

        attempt(partial(run_program, struck), seed, on_step=on_step)
        for before, after in zip(quiet.owned[0][1:], struck.owned[0][1:], strict=True):
            assert type(before.outcome) is type(after.outcome), (
                f"seed {seed}: {before.outcome} {after.outcome}"
            )


def test_trees_hang_when_nobody_lends() -> None:
    lending = next(mutant for mutant in MUTANTS if mutant.name == "rest")
    with lending.applied():
        verdicts = [run_seed("trees", seed) for seed in range(20)]
    hangs = [verdict for verdict in verdicts if any("hang" in problem for problem in verdict.problems)]
    assert len(hangs) >= 5


def test_without_detection_a_deadlock_hangs() -> None:
    alarmed = next(seed for seed in range(100) if run_seed("waits", seed).alarms)
    program = draw_program(alarmed, PROFILES["waits"])
    run, _world = run_once(program, alarmed, WITHOUT_DETECTION)
    assert "virtual seconds" in str(run.error)


def test_a_program_that_fails_is_made_small() -> None:
    lending = next(mutant for mutant in MUTANTS if mutant.name == "rest")

    def hangs(program: object) -> bool:
        run, _world = run_once(program, 1)  # type: ignore[arg-type]
        return "virtual seconds" in str(run.error)

    with lending.applied():
        program = draw_program(1, PROFILES["trees"])
        assert hangs(program)
        small = shrink(program, hangs)
    size = sum(len(script.ops) for script in small.scripts) + len(small.body)
    assert size < sum(len(script.ops) for script in program.scripts) + len(program.body)
    assert kind_of("agent 17 was aborted (by 3)") == kind_of("agent 2 was aborted (by 5)")


def test_the_command_line_runs_a_campaign_and_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", "40", "--jobs", "1"]) == 0
    assert "0 violations" in capsys.readouterr().out
    assert main(["--profile", "trees", "--seed", "3"]) == 0
    assert "all is well" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--seed", "3"])


DIGESTS = """
import hashlib, sys
from tests.campaign._draw import draw_program
from tests.campaign._programs import PROFILES
from tests.campaign._runs import run_once
from tests.campaign._models import run_fleet

junk = [object() for _ in range(int(sys.argv[1]))]
total = hashlib.sha256()
for name, profile in PROFILES.items():
    for seed in range(15):
        run, _world = run_once(draw_program(seed, profile), seed, blow=name == "rare")
        total.update(run.log.to_bytes())
for seed in range(15):
    total.update(run_fleet(seed)[1].log.to_bytes())
print(total.hexdigest())
"""


def test_one_seed_gives_the_same_log_in_every_process() -> None:
    digests = set()
    for number in range(2):
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        command = [sys.executable, "-c", DIGESTS, str(number * 1017)]
        digests.add(
            subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True).stdout
        )
    assert len(digests) == 1


GUARANTEES = Path(__file__).parents[2] / "docs" / "guarantees.md"


def test_the_guarantees_page_names_every_rule() -> None:
    page = GUARANTEES.read_text("utf-8")
    assert [mutant.rule for mutant in MUTANTS if f"| {mutant.rule} |" not in page] == []


def test_a_promise_names_rules_that_there_are() -> None:
    promises = GUARANTEES.read_text("utf-8").partition("## What is not promised")[0]
    named = [
        " ".join(rule.split()) for rule in re.findall(r"rules? (?:\*[^*]+\*(?: and\s)?)+", promises, re.I)
    ]
    rules = {rule for each in named for rule in re.findall(r"\*([^*]+)\*", each)}
    assert rules
    assert rules <= {mutant.rule for mutant in MUTANTS}
