from __future__ import annotations

import subprocess
import sys

import agentpool.testing

PUBLIC = """
BLOWS Blow CLOCK_FAULTS CancelSweep CancelSweepError Case ConformanceError CrashProgram CrashSweep
CrashSweepError DRIVER_FAULTS EventLog Exploration ExplorationError Fault FaultKind FaultMix FaultPlan
FaultyDriver FaultyJournal FaultyTool InProcessPlacement InProcessWorker JOURNAL_FAULTS Main MakeJournal
NO_FAULTS Note PoolInstrument RegressionFile ScriptedDriver Simulation SimulationContext SimulationHangError
StubToolContext TOOL_FAULTS attempt cancel_everywhere check_driver check_journal check_memory check_tool
crash_everywhere explore instrumented kill_this_process simulate
""".split()  # noqa: SIM905


def test_these_are_the_public_names_and_each_is_there() -> None:
    names = {name for name in dir(agentpool.testing) if not name.startswith("_")}
    assert set(PUBLIC) <= names
    assert set(agentpool.testing.__all__) == set(PUBLIC)  # type: ignore[attr-defined]
    for name in PUBLIC:
        value = getattr(agentpool.testing, name)
        assert not getattr(value, "__module__", "").startswith("agentpool.testing._")


def test_the_plugin_costs_a_session_that_simulates_nothing_next_to_nothing() -> None:
    source = "import sys, agentpool.testing.pytest_plugin; print('trio' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "False"
