"""Rules of the kernel's journal, each broken on purpose; the crashes have to see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from agentpool._core import past as past_module
from agentpool._core.budget import Budget
from agentpool._core.past import Past, PastAgent, PastLoop
from agentpool._kernel import batch, journal, places, resuming
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.journal import PoolJournal
from agentpool._kernel.lasting import LastingScope
from agentpool._kernel.spending import Spending
from agentpool._loop.tape import Tape

from ._cases import CASES
from ._runs import Report, cut_off, program_of, run_case, run_town


@attrs.frozen
class Mutant:
    """A rule, and what breaks it.

    Attributes:
      rule: what is broken, as a sentence.
      owner, name: what is replaced.
      make: makes the replacement of the original.
    """

    rule: str
    owner: Any
    name: str
    make: Callable[[Any], Any]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the rule broken in the block."""
        original = vars(self.owner)[self.name]
        setattr(self.owner, self.name, self.make(original))
        try:
            yield
        finally:
            setattr(self.owner, self.name, original)


@attrs.frozen
class Catch:
    """What a hunt for a mutant came to: the first problem that was seen, or none."""

    mutant: Mutant
    problem: str
    crashes: int

    def __str__(self) -> str:
        if not self.problem:
            return f"SURVIVED {self.crashes} crashes: {self.mutant.rule}"
        return f"caught at crash {self.crashes}: {self.mutant.rule}\n    {self.problem[:200]}"


def _nothing(_original: Any) -> Any:
    return lambda *args, **kwargs: None


def _nothing_async(_original: Any) -> Any:
    async def nothing(*args: Any) -> None:
        return None

    return nothing


def _without(*kinds: str) -> Callable[[Any], Any]:
    """Write no records of some kinds."""

    def make(original: Any) -> Any:
        def append(self: PoolJournal, kind: Any, agent: Any, data: Any) -> None:
            if kind not in kinds:
                original(self, kind, agent, data)

        return append

    return make


def _without_operated(*kinds: str) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        def operated(self: PoolJournal, op: Any, kind: str, value: Any = None) -> None:
            if kind not in kinds:
                original(self, op, kind, value)

        return operated

    return make


def _always(value: Any) -> Callable[[Any], Any]:
    return lambda _original: property(lambda _self: value)


def _called_at_once(_original: Any) -> Any:
    async def called(self: Tape, calls: Any, made: Any = None) -> None:
        for number, call in calls:
            data = {"loop": self.key, "n": number, "call": self._encoded(call)}
            self._journal.append("called", self._op.record.id, data)

    return called


def _commit_first(_original: Any) -> Any:
    async def called(self: Tape, calls: Any, made: Any = None) -> None:
        await self._journal.commit()
        for number, call in calls:
            data = {"loop": self.key, "n": number, "call": self._encoded(call)}
            self._journal.append("called", self._op.record.id, data)

    return called


def _never_left(original: Any) -> Any:
    def next_op(of: Any) -> Any:
        op = original(of)
        return None if op is None else attrs.evolve(op, was_left=False)

    return next_op


def _other_keys(original: Any) -> Any:
    count = iter(range(10**9))

    def call_key(self: Tape, number: int) -> str:
        return f"{original(self, number)}-{next(count)}"

    return call_key


def _open_is_free(_original: Any) -> Any:
    def settle(self: Past) -> None:
        self._reserved.clear()

    return settle


def _kept_in_inbox(_original: Any) -> Any:
    def received(past: Past, record: Any) -> None:
        message = past.agents[record.agent].inbox[record.data["id"]]
        operation = past_module.Operation("receive", message, record.at)
        past._operated(record.agent, record.data, operation)

    return received


def _no_results(original: Any) -> Any:
    def of(cls: Any, past: PastAgent) -> Any:
        life = original.__func__(cls, past)
        loops = {key: PastLoop(loop.observed, {}) for key, loop in life.loops.items()}
        return attrs.evolve(life, loops=loops)

    return classmethod(of)


def _no_own_life(original: Any) -> Any:
    return lambda past, life: places.NO_PAST


def _any_life(original: Any) -> Any:
    def operated(self: Past, agent_id: Any, data: Any, operation: Any) -> None:
        agent = self.agents.get(agent_id)
        original(self, agent_id, data if agent is None else {**data, "life": agent.life}, operation)

    return operated


def _keeps_old_life(_original: Any) -> Any:
    def restarted(past: Past, record: Any) -> None:
        agent = past.agents[record.agent]
        agent.life = record.data["life"]
        agent.restarted_at.append(record.at)

    return restarted


async def _first_done(self: Any) -> Any:
    return None


MUTANTS = (
    Mutant("a message that was taken is told", PoolJournal, "received", _nothing),
    Mutant("a message that is sent is told", PoolJournal, "sent", _nothing),
    Mutant("an answer is told", PoolJournal, "replied", _nothing),
    Mutant("an answer waits for an asker that is not there yet", PoolJournal, "keep_answer", _always(None)),
    Mutant("an outcome is told", PoolJournal, "ended", _nothing),
    Mutant(
        "an outcome that was taken is told", PoolJournal, "operated", _without_operated("join", "join_all")
    ),
    Mutant("the outcome of a handle is told", PoolJournal, "operated", _without_operated("wait")),
    Mutant("which outcome a batch gave is told", PoolJournal, "operated", _without_operated("take")),
    Mutant("who gets a message is decided once", PoolJournal, "operated", _without_operated("recipients")),
    Mutant("what an operation raised is told", PoolJournal, "operated", _without_operated("error")),
    Mutant("a restart is told", PoolJournal, "append", _without("restarted")),
    Mutant("a topic is told", PoolJournal, "append", _without("listened")),
    Mutant("what a loop observed is told", PoolJournal, "append", _without("observed")),
    Mutant("a tool call's beginning is told", PoolJournal, "append", _without("called")),
    Mutant("a model call's worst case is told", PoolJournal, "append", _without("reserved")),
    Mutant("what a model call took is told", PoolJournal, "append", _without("settled")),
    Mutant("a spawn is told", PoolJournal, "append", _without("spawned")),
    Mutant("a tool call is kept before it is made", Tape, "called", _called_at_once),
    Mutant("a tool call is told before it is kept", Tape, "called", _commit_first),
    Mutant("a model call's worst case is kept before it is made", Spending, "kept", _nothing_async),
    Mutant("what is handed out is kept before", PoolJournal, "commit_shielded", _nothing_async),
    Mutant("everything is kept before it is acted on", PoolJournal, "commit", _nothing_async),
    Mutant("calls that were under way count as spent", Past, "settle_what_is_open", _open_is_free),
    Mutant("what was spent stays spent", Budget, "begin_with", _nothing),
    Mutant("what was left is left again", journal, "next_op", _never_left),
    Mutant("a call that is made again has its key", Tape, "call_key", _other_keys),
    Mutant("a tool call's result is found again", places.PastLife, "of", _no_results),
    Mutant("what a life had done is found again", journal, "life_of", _no_own_life),
    Mutant("what another life did is another's", past_module, "_restarted", _keeps_old_life),
    Mutant("a message that was taken is not taken again", past_module, "_received", _kept_in_inbox),
    Mutant("a batch's outcomes are the batch's", PastAgent, "is_of_batch", _always(False)),
    Mutant("who is not spawned yet is not aborted with the others", AgentRecord, "is_spawned", _always(True)),
    Mutant(
        "a batch gives its outcomes in their order", batch.Batch, "_next_as_before", lambda _: _first_done
    ),
    Mutant("children of a call that is not made again go on", LastingScope, "adopt_children_of", _nothing),
    Mutant("outcomes from before are handed out", resuming, "_outcome_put_back", _nothing),
)

_TAKERS = {"_restarted": "restarted", "_received": "received"}


@contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """Break a rule; the fold finds its functions in a table."""
    with mutant.applied():
        kind = _TAKERS.get(mutant.name) if mutant.owner is past_module else None
        if kind is None:
            yield
            return
        table: Any = past_module._TAKERS
        original = table[kind]
        table[kind] = vars(past_module)[mutant.name]
        try:
            yield
        finally:
            table[kind] = original


def hunt(mutant: Mutant, programs: int = 60) -> Catch:
    """Crash programs with a rule broken until something is seen."""
    report = Report()
    with broken(mutant):
        for case in CASES:
            run_case(case, report)
        for number in range(programs):
            if number in (0, 20):
                run_town(number, report, every=5)
            tidy = number % 2 == 0
            try:
                cut_off(program_of(number, tidy=tidy), number, report, tidy=tidy, label=f"seed {number}")
            except Exception as error:
                report.problems.append(f"seed {number}: {error!r}")
            seen = [problem for problem in report.problems if "without any crash" not in problem]
            if seen:
                return Catch(mutant, seen[0], report.crashes)
    return Catch(mutant, "", report.crashes)


def run_gate() -> Iterator[Catch]:
    """Hunt every mutant."""
    return map(hunt, MUTANTS)
