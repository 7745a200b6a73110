"""Deterministic simulation for programs of agents, and kits for whoever writes a driver or a tool.

    from agentpool.testing import explore, simulate

    def test_my_agents():
        explore(main, seeds=200)

`simulate` runs a program once on virtual time, with every order decided by a seed; `explore`
searches many seeds and shrinks what it finds.
"""

from agentpool.drivers.scripted import ScriptedDriver as ScriptedDriver
from agentpool.testing._cancel import Blow as Blow
from agentpool.testing._cancel import CancelSweep as CancelSweep
from agentpool.testing._cancel import CancelSweepError as CancelSweepError
from agentpool.testing._cancel import cancel_everywhere as cancel_everywhere
from agentpool.testing._explore import Case as Case
from agentpool.testing._explore import Exploration as Exploration
from agentpool.testing._explore import ExplorationError as ExplorationError
from agentpool.testing._explore import RegressionFile as RegressionFile
from agentpool.testing._explore import explore as explore
from agentpool.testing._faults import CLOCK_FAULTS as CLOCK_FAULTS
from agentpool.testing._faults import DRIVER_FAULTS as DRIVER_FAULTS
from agentpool.testing._faults import NO_FAULTS as NO_FAULTS
from agentpool.testing._faults import TOOL_FAULTS as TOOL_FAULTS
from agentpool.testing._faults import Fault as Fault
from agentpool.testing._faults import FaultKind as FaultKind
from agentpool.testing._faults import FaultMix as FaultMix
from agentpool.testing._faults import FaultPlan as FaultPlan
from agentpool.testing._faults import FaultyDriver as FaultyDriver
from agentpool.testing._faults import FaultyTool as FaultyTool
from agentpool.testing._kits import ConformanceError as ConformanceError
from agentpool.testing._kits import StubToolContext as StubToolContext
from agentpool.testing._kits import check_driver as check_driver
from agentpool.testing._kits import check_memory as check_memory
from agentpool.testing._kits import check_tool as check_tool
from agentpool.testing._log import EventLog as EventLog
from agentpool.testing._log import Note as Note
from agentpool.testing._simulate import Main as Main
from agentpool.testing._simulate import Simulation as Simulation
from agentpool.testing._simulate import SimulationContext as SimulationContext
from agentpool.testing._simulate import SimulationHangError as SimulationHangError
from agentpool.testing._simulate import attempt as attempt
from agentpool.testing._simulate import simulate as simulate
