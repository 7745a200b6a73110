"""The campaign: random pool programs, run under a seeded scheduler, with oracles over each run.

    python -m tests.campaign --runs 200000

is how agentpool proves its own promises. `run_seed` makes one of its runs again.
"""

from ._runs import Verdict as Verdict
from ._runs import run_seed as run_seed
