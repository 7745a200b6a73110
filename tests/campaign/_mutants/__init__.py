"""The mutation gate: each rule of the pool has a patch that breaks it, and the campaign must see it.

A campaign that finds nothing proves little unless it would find something. So every rule that
agentpool promises is broken here in turn, in one small place, and the random programs are run
until the oracle that watches over this very rule objects. A mutant that survives shows a rule that
nobody watches. That a run of broken code breaks down proves nothing: it is no catch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import (
    _capacity,
    _deadlocks,
    _ends,
    _houses,
    _messages,
    _outcomes,
    _outposts,
    _readers,
    _running,
    _services,
    _threads,
)
from ._hunt import Catch as Catch
from ._hunt import Mutant as Mutant
from ._hunt import hunt as hunt

MUTANTS: tuple[Mutant, ...] = (
    *_capacity.MUTANTS,
    *_outcomes.MUTANTS,
    *_ends.MUTANTS,
    *_messages.MUTANTS,
    *_deadlocks.MUTANTS,
    *_running.MUTANTS,
    *_readers.MUTANTS,
    *_houses.MUTANTS,
    *_services.MUTANTS,
    *_threads.MUTANTS,
    *_outposts.MUTANTS,
)


def run_gate(mutants: Sequence[Mutant] = MUTANTS, most_runs: int = 3000) -> Iterator[Catch]:
    """Hunt every mutant, and yield what became of it."""
    for mutant in mutants:
        yield hunt(mutant, most_runs)
