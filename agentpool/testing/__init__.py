"""Deterministic simulation for programs of agents, and kits for whoever writes a driver, a tool or a journal.

    from agentpool.testing import explore, simulate

    def test_my_agents():
        explore(main, seeds=200)

`simulate` runs a program once on virtual time, with every order decided by a seed; `explore`
searches many seeds and shrinks what it finds; `crash_everywhere` kills a program with a journal wherever it
writes, and has it go on. An instrument of your own, `instrumented(PoolInstrument())`,
sees every pool that a run opens.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from agentpool._kernel.instrument import PoolInstrument as PoolInstrument
    from agentpool._kernel.instrument import instrumented as instrumented
    from agentpool.drivers.scripted import ScriptedDriver as ScriptedDriver
    from agentpool.testing._cancel import BLOWS as BLOWS
    from agentpool.testing._cancel import Blow as Blow
    from agentpool.testing._cancel import CancelSweep as CancelSweep
    from agentpool.testing._cancel import CancelSweepError as CancelSweepError
    from agentpool.testing._cancel import cancel_everywhere as cancel_everywhere
    from agentpool.testing._crashes import CrashProgram as CrashProgram
    from agentpool.testing._crashes import CrashSweep as CrashSweep
    from agentpool.testing._crashes import CrashSweepError as CrashSweepError
    from agentpool.testing._crashes import FaultyJournal as FaultyJournal
    from agentpool.testing._crashes import crash_everywhere as crash_everywhere
    from agentpool.testing._crashes import kill_this_process as kill_this_process
    from agentpool.testing._explore import Case as Case
    from agentpool.testing._explore import Exploration as Exploration
    from agentpool.testing._explore import ExplorationError as ExplorationError
    from agentpool.testing._explore import RegressionFile as RegressionFile
    from agentpool.testing._explore import explore as explore
    from agentpool.testing._faults import CLOCK_FAULTS as CLOCK_FAULTS
    from agentpool.testing._faults import DRIVER_FAULTS as DRIVER_FAULTS
    from agentpool.testing._faults import JOURNAL_FAULTS as JOURNAL_FAULTS
    from agentpool.testing._faults import NO_FAULTS as NO_FAULTS
    from agentpool.testing._faults import TOOL_FAULTS as TOOL_FAULTS
    from agentpool.testing._faults import Fault as Fault
    from agentpool.testing._faults import FaultKind as FaultKind
    from agentpool.testing._faults import FaultMix as FaultMix
    from agentpool.testing._faults import FaultPlan as FaultPlan
    from agentpool.testing._faults import FaultyDriver as FaultyDriver
    from agentpool.testing._faults import FaultyTool as FaultyTool
    from agentpool.testing._journal_kit import MakeJournal as MakeJournal
    from agentpool.testing._journal_kit import check_journal as check_journal
    from agentpool.testing._kits import ConformanceError as ConformanceError
    from agentpool.testing._kits import StubToolContext as StubToolContext
    from agentpool.testing._kits import check_driver as check_driver
    from agentpool.testing._kits import check_memory as check_memory
    from agentpool.testing._kits import check_tool as check_tool
    from agentpool.testing._log import EventLog as EventLog
    from agentpool.testing._log import Note as Note
    from agentpool.testing._placement import InProcessPlacement as InProcessPlacement
    from agentpool.testing._placement import InProcessWorker as InProcessWorker
    from agentpool.testing._simulate import Main as Main
    from agentpool.testing._simulate import Simulation as Simulation
    from agentpool.testing._simulate import SimulationContext as SimulationContext
    from agentpool.testing._simulate import SimulationHangError as SimulationHangError
    from agentpool.testing._simulate import attempt as attempt
    from agentpool.testing._simulate import simulate as simulate

# Pytest loads the plugin of this package at every start, in projects that simulate nothing too.
_HOMES = {
    "agentpool._kernel.instrument": """
        PoolInstrument instrumented
    """,
    "agentpool.drivers.scripted": """
        ScriptedDriver
    """,
    "agentpool.testing._cancel": """
        BLOWS Blow CancelSweep CancelSweepError cancel_everywhere
    """,
    "agentpool.testing._crashes": """
        CrashProgram CrashSweep CrashSweepError FaultyJournal crash_everywhere kill_this_process
    """,
    "agentpool.testing._explore": """
        Case Exploration ExplorationError RegressionFile explore
    """,
    "agentpool.testing._faults": """
        CLOCK_FAULTS DRIVER_FAULTS Fault FaultKind FaultMix FaultPlan FaultyDriver FaultyTool JOURNAL_FAULTS
        NO_FAULTS TOOL_FAULTS
    """,
    "agentpool.testing._journal_kit": """
        MakeJournal check_journal
    """,
    "agentpool.testing._kits": """
        ConformanceError StubToolContext check_driver check_memory check_tool
    """,
    "agentpool.testing._log": """
        EventLog Note
    """,
    "agentpool.testing._placement": """
        InProcessPlacement InProcessWorker
    """,
    "agentpool.testing._simulate": """
        Main Simulation SimulationContext SimulationHangError attempt simulate
    """,
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


if not _TYPE_CHECKING:
    globals()["__all__"] = sorted(_HOME_OF)

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(_HOME_OF[name]), name)
        if getattr(value, "__module__", "").startswith((f"{__name__}._", "agentpool._")):
            try:
                value.__module__ = __name__
            except (AttributeError, TypeError):
                pass  # a union of types
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
