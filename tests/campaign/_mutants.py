"""The mutation gate: each rule of the pool has a patch that breaks it, and the campaign must see it.

A campaign that finds nothing proves little unless it would find something. So every rule that
agentpool promises is broken here in turn, in one small place, and the random programs are run
until the oracle that watches over this very rule objects. A mutant that survives shows a rule that
nobody watches. That a run of broken code breaks down proves nothing: it is no catch.
"""

from __future__ import annotations

import gc
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import outcome
import trio

from agentpool._core import budget as budget_module
from agentpool._core import loop, restart, waits
from agentpool._core.errors import DeadlockError
from agentpool._core.events import AgentFinished
from agentpool._core.outcomes import Aborted, AnyOutcome
from agentpool._kernel import activity as _activity
from agentpool._kernel import agent as _agent
from agentpool._kernel import children as _children
from agentpool._kernel import judge as _judge
from agentpool._kernel import life as _life
from agentpool._kernel import log as _log
from agentpool._kernel import many as _many
from agentpool._kernel import pool as _pool
from agentpool._kernel import scope as _scope
from agentpool._kernel import slots as _slots
from agentpool._kernel import state as _state
from agentpool._kernel import wait as _wait
from agentpool._kernel.inbox import Inbox
from agentpool._kernel.router import MessageRouter
from agentpool._loop import tool_calls as _tool_calls

from ._runs import run_seed
from ._world import Planned

Make = Callable[[Any], Any]
"""From what is there to what stands in its place."""


@attrs.frozen
class Mutant:
    """A rule, and a patch that breaks it.

    Attributes:
      rule: the rule, in a few words.
      owner, name: what is replaced: an attribute of a class or module.
      make: makes the replacement from the original.
      seen_as: what the oracle of this rule says, as a pattern that its text begins with.
      profiles: which programs are run, in turn.

    Raises:
      LookupError: if there is nothing of that name to replace.
    """

    rule: str
    owner: Any
    name: str
    make: Make
    seen_as: str
    profiles: tuple[str, ...] = ("full", "rare", "waits")

    def __attrs_post_init__(self) -> None:
        if self.name not in self.owner.__dict__:
            raise LookupError(
                f"the mutant of {self.rule!r} replaces {self.name} of {self.owner!r}, which has none:"
                " say where the rule is kept now"
            )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Break the rule while the block runs."""
        original = self.owner.__dict__[self.name]
        setattr(self.owner, self.name, self.make(original))
        try:
            yield
        finally:
            setattr(self.owner, self.name, original)


@attrs.frozen
class Catch:
    """What became of a mutant.

    Attributes:
      runs: how many runs it took to see it, or how many did not.
      problem: what the oracle said; empty if it survived.
      seconds: how long that took.
      wrecks, wreck: how many runs broke down, which counts for nothing, and what the first one said.
    """

    mutant: Mutant
    runs: int
    problem: str
    seconds: float
    wrecks: int = 0
    wreck: str = ""

    def __str__(self) -> str:
        if not self.problem:
            wrecks = f" ({self.wrecks} broke down: {self.wreck[:100]})" if self.wrecks else ""
            return f"SURVIVED {self.runs:5} runs in {self.seconds:.0f} s  {self.mutant.rule}{wrecks}"
        return f"caught in {self.runs:5} runs  {self.mutant.rule}: {self.problem.splitlines()[0][:100]}"


def hunt(mutant: Mutant, most_runs: int = 3000, most_seconds: float = 30.0) -> Catch:
    """Run programs with a broken rule until the oracle of that rule objects, or the time is up."""
    begun = time.perf_counter()
    catch = Catch(mutant, 0, "", 0.0)
    with mutant.applied(), _quiet_wreckage():
        while not catch.problem and catch.runs < most_runs and catch.seconds < most_seconds:
            profile = mutant.profiles[catch.runs % len(mutant.profiles)]
            problems = _run_in_time(profile, catch.runs // len(mutant.profiles))
            catch = attrs.evolve(
                _looked_at(catch, problems), runs=catch.runs + 1, seconds=time.perf_counter() - begun
            )
    return catch


# What a run says whose code is broken, and not just its rule.
_WRECK = re.compile(
    r"the run broke down|an observer|\b(Attribute|Key|Index|Type|Name|Assertion|UnboundLocal|Runtime|Timeout"
    r"|TrioInternal|BusyResource|AlreadyUsed)Error\("
)


def _looked_at(catch: Catch, problems: Sequence[str]) -> Catch:
    """Take the problem that shows the rule broken; a run that broke down shows nothing."""
    wreck = next(filter(None, map(_WRECK.search, problems)), None)
    if wreck is not None:
        said = wreck.string[wreck.start() :].splitlines()[0]
        return attrs.evolve(catch, wrecks=catch.wrecks + 1, wreck=catch.wreck or said)
    seen = next((problem for problem in problems if re.match(catch.mutant.seen_as, problem)), "")
    return attrs.evolve(catch, problem=seen)


@contextmanager
def _quiet_wreckage() -> Iterator[None]:
    """Keep quiet about what is left of runs that had to be torn down in the middle."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
        for _ in range(3):  # what is finalized may hold on to more
            gc.collect()
    finally:
        sys.unraisablehook = before


# A broken rule may make a step of the scheduler last for ever, where no virtual time limit helps.
_SECONDS_PER_RUN = 3.0


def _run_in_time(profile: str, seed: int) -> Sequence[str]:
    def ring(_signal: int, _frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    # It rings again, because trio keeps to itself what is raised while it calls an instrument.
    signal.setitimer(signal.ITIMER_REAL, _SECONDS_PER_RUN, 0.1)
    try:
        return run_seed(profile, seed).problems
    except Exception as error:
        return [f"the run broke down: {error!r}"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def nothing(_original: Any) -> Any:
    """A function that does nothing in the place of one that does."""

    def idle(*_args: Any, **_kwargs: Any) -> None:
        return None

    return idle


async def _nothing_async(*_args: Any, **_kwargs: Any) -> None:
    await trio.lowlevel.checkpoint()


# -- capacity ----------------------------------------------------------------------------------


def _go_on_without_slot(original: Any) -> Any:
    def ask_for_slot(self: Any, wait: Any) -> None:
        self.active += 1
        wait.resume()

    return ask_for_slot


def _keep_slot(original: Any) -> Any:
    def rest(self: Any, **judging: bool) -> None:
        holds, self.holds = self.holds, False
        original(self, **judging)
        self.holds = holds

    return rest


def _raise_after_the_fact(original: Any) -> Any:
    def abort(self: Any, raise_cancel: Any) -> Any:
        if self.happened:
            self._result = outcome.capture(raise_cancel)
        return original(self, raise_cancel)

    return abort


def _forget_to_undo(original: Any) -> Any:
    """A wait that was cancelled stays in its queue, and what it waited for goes to it."""

    def abort(self: Any, raise_cancel: Any) -> Any:
        if not self.happened and self.undo is not None:
            self.undo = lambda wait: None
            self._interrupted = True  # nobody who finds it there wakes its task a second time
        return original(self, raise_cancel)

    return abort


def _keep_tokens(original: Any) -> Any:
    def give_back(self: Any, holder: Any) -> None:
        if holder.ended:
            self.hand_out()
        else:
            original(self, holder)

    return give_back


# -- outcomes and joins ----------------------------------------------------------------------------


def _lose_aborted(original: Any) -> Any:
    def ended(self: Any, outcome: Any, **kwargs: Any) -> None:
        if not isinstance(outcome, Aborted):
            original(self, outcome, **kwargs)

    return ended


def _hand_out_twice(original: Any) -> Any:
    return lambda self, agent_id: self.see(agent_id)


def _consume_early(original: Any) -> Any:
    async def join_all(self: Any) -> dict[int, AnyOutcome]:
        outcomes: dict[int, AnyOutcome] = {}
        while (one := await self.join_next()) is not None:
            outcomes[one.agent_id] = one
        return outcomes

    return join_all


def _reversed_map(original: Any) -> Any:
    async def backwards(self: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return list(reversed(await original(self, *args, **kwargs)))

    return backwards


def _always_aborted(original: Any) -> Any:
    def completed(self: Any, value: Any) -> Any:
        return self.cancelled() if self.aborted else original(self, value)

    return completed


def _abort_siblings(original: Any) -> Any:
    def failed(self: Any, error: BaseException) -> Any:
        for sibling in list(self.home.live.values()):
            if sibling is not self:
                sibling.abort("a sibling failed")
        return original(self, error)

    return failed


def _nothing_is_fatal(original: Any) -> Any:
    def split(error: BaseException) -> Any:
        parts = original(error)
        return parts if parts.fatal is None else attrs.evolve(parts, fatal=None, ordinary=Planned("tamed"))

    return split


# -- the end of a pool --------------------------------------------------------------------------------


def _swallow_failures(original: Any) -> Any:
    async def leave(state: Any, error: BaseException | None) -> None:
        state.root.failures()
        await original(state, error)

    return leave


def _wrap_error(original: Any) -> Any:
    async def leave(state: Any, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            error = ExceptionGroup("wrapped", [error])
        await original(state, error)

    return leave


def _judge_too_early(original: Any) -> Any:
    def judge_rest(self: Any) -> None:
        idle, self.idle = self.idle, 1_000_000
        try:
            original(self)
        finally:
            self.idle = idle

    return judge_rest


def _oldest_first(original: Any) -> Any:
    def pop(heap: list[Any]) -> Any:
        largest = max(heap)
        heap.remove(largest)
        return largest

    return pop


# -- children and limits ---------------------------------------------------------------------------------


def _leave_children(original: Any) -> Any:
    async def wait_for_all(self: Any, waiter: Any, value: Any, **kwargs: Any) -> Any:
        if kwargs.get("needs_slot", True):
            return await original(self, waiter, value, **kwargs)
        return await _nothing_async()

    return wait_for_all


def _own_context(original: Any) -> Any:
    def start(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "context": None})

    return start


def _no_limits(original: Any) -> Any:
    def admit(self: Any, home: Any, **kwargs: Any) -> None:
        limits, self.limits = self.limits, attrs.evolve(self.limits, depth=10**9, descendants=10**9)
        try:
            original(self, home, **kwargs)
        finally:
            self.limits = limits

    return admit


def _no_timeout(original: Any) -> Any:
    def start(*args: Any, **kwargs: Any) -> Any:
        record = original(*args, **kwargs)
        record.deadline = record.scope.deadline = float("inf")
        return record

    return start


# -- messages -------------------------------------------------------------------------------------------


def _last_message_first(original: Any) -> Any:
    def take(self: Any) -> Any:
        messages = [self._channel[1].receive_nowait() for _ in range(self.fill)]
        for message in (messages[-1], *messages[:-1]):
            self._channel[0].send_nowait(message)
        return original(self)

    return take


def _twice(original: Any) -> Any:
    def offer(self: Any, message: Any) -> bool:
        return bool(original(self, message)) and (
            self.fill + 1 > self.capacity or bool(original(self, message))
        )

    return offer


def _drop_at_end(original: Any) -> Any:
    def close(self: Any, reason: str) -> None:
        while self.fill:
            self.fill -= 1
            self._channel[1].receive_nowait()
        original(self, reason)

    return close


def _strand_senders(original: Any) -> Any:
    def close(self: Any, reason: str) -> None:
        self._senders = None
        original(self, reason)

    return close


def _supervisor_sends(original: Any) -> Any:
    return lambda self, message: 0


def _ask_for_ever(original: Any) -> Any:
    def fail_asks_to(self: Any, agent_id: int, reason: str, *, taken_only: bool) -> None:
        if taken_only:
            original(self, agent_id, reason, taken_only=True)

    return fail_asks_to


def _ask_across_restarts(original: Any) -> Any:
    def fail_asks_to(self: Any, agent_id: int, reason: str, *, taken_only: bool) -> None:
        if not taken_only:
            original(self, agent_id, reason, taken_only=False)

    return fail_asks_to


def _anyone_replies(original: Any) -> Any:
    return lambda self, replier, message, content: original(self, message.to, message, content)


def _lose_late_replies(original: Any) -> Any:
    def bury(self: Any, message: Any, reason: str) -> None:
        if message.reply_to is None:
            original(self, message, reason)

    return bury


# -- deadlocks -------------------------------------------------------------------------------------------


def _ignore_deadlines(original: Any) -> Any:
    return lambda self, waiter, task: False


def _all_are_certain(original: Any) -> Any:
    return lambda wait: True


def _any_edge(original: Any) -> Any:
    def may_end(edge: Any, live: Any) -> bool:
        return any(target in live for target in edge.targets)

    return may_end


def _wrong_path(original: Any) -> Any:
    def check(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            original(self, *args, **kwargs)
        except DeadlockError as error:
            raise DeadlockError([path + 1 for path in error.path]) from None

    return check


def _only_one_cycle(original: Any) -> Any:
    def task_ended(self: Any, waiter: Any) -> None:
        wait_class: Any = _wait.Wait
        withdraw = wait_class.withdraw
        told: list[Any] = []

        def once(wait: Any, error: BaseException) -> None:
            if told:
                raise _Enough
            told.append(wait)
            withdraw(wait, error)

        wait_class.withdraw = once
        try:
            original(self, waiter)
        except _Enough:
            pass
        finally:
            wait_class.withdraw = withdraw

    return task_ended


class _Enough(Exception):
    pass


# -- aborting, restarts, budgets, the loop -------------------------------------------------------------------


def _spare_the_unstarted(original: Any) -> Any:
    def abort(self: Any, reason: str | None) -> None:
        if self.tasks:
            original(self, reason)

    return abort


def _abort_family(original: Any) -> Any:
    def abort(self: Any, reason: str | None) -> None:
        original(self, reason)
        for sibling in list(self.home.live.values()):
            if sibling is not self and not sibling.aborted:
                sibling.abort(reason)

    return abort


def _no_reason(original: Any) -> Any:
    return lambda self, reason: original(self, "aborted")


def _restart_for_ever(original: Any) -> Any:
    def again(self: Any, now: float) -> Any:
        return self if len(self.recent) > 50 else attrs.evolve(self, recent=(*self.recent, now))

    return again


def _wrong_call(original: Any) -> Any:
    return lambda call_id, name, result: original("another call", name, result)


def _no_room_needed(original: Any) -> Any:
    return lambda self, *args, **kwargs: None


def _keep_reserved(original: Any) -> Any:
    def give_back(self: Any, reserved: Any, spent: Any) -> None:
        original(self, (0, 0, 0), spent)

    return give_back


def _sleepy_is_cancelled(original: Any) -> Any:
    return lambda self: self.pool.watcher.outside_cancelled


def _without_end(original: Any) -> Any:
    def emit(self: Any, kind: type[Any], *args: Any) -> None:
        if kind is not AgentFinished or args[0] % 7:
            original(self, kind, *args)

    return emit


def _tell_of_nothing(original: Any) -> Any:
    async def close(mark: Any, error: BaseException | None) -> Any:
        rest, _left_open = await original(mark, error)
        return rest, ()

    return close


def _only_agents_are_fatal(original: Any) -> Any:
    def fatal_error(self: Any, error: BaseException, who: str = "an agent") -> None:
        if "input" not in who:
            original(self, error, who)

    return fatal_error


def _remember_only(original: Any) -> Any:
    """What is set is what is read, and no slot comes or goes by it."""
    wanted: dict[Any, int] = {}

    def change(self: Any, value: int) -> None:
        wanted[self._state] = value

    return property(lambda self: wanted.get(self._state, original.fget(self)), change)


def _looks_nowhere(original: Any) -> Any:
    return property(lambda self: False)


_TREES = ("trees", "full")
_RARE = ("rare", "full")

HANG = "hang: the program did not end within"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "at most max_concurrent agents run",
        _activity.Activity,
        "_ask_for_slot",
        _go_on_without_slot,
        r"\d+ agents ran at once",
        _TREES,
    ),
    Mutant(
        "a waiting agent lends its slot",
        _activity.Activity,
        "rest",
        _keep_slot,
        HANG,
        _TREES,
    ),
    Mutant(
        "what happened raises no Cancelled",
        _wait.Wait,
        "_abort",
        _raise_after_the_fact,
        r"the message .* was sent, and received 0 times and buried 0 times",
        ("hasty",),
    ),
    Mutant(
        "Cancelled means that nothing happened",
        _wait.Wait,
        "_abort",
        _forget_to_undo,
        r"sending .* raised, but it was delivered|the message .* was sent, and received 0",
        ("hasty",),
    ),
    Mutant(
        "a cancelled agent unwinds without a slot",
        _activity.Activity,
        "is_cancelled",
        _sleepy_is_cancelled,
        r"agent \d+ was aborted \(.*\) at .* and ended at",
        ("hasty",),
    ),
    Mutant(
        "slots come back",
        _slots.Slots,
        "give_back",
        _keep_tokens,
        r"slots_held is \d+, not 0",
    ),
    Mutant(
        "unknown tasks may not wait",
        _activity.Activity,
        "knows",
        lambda _: lambda self, task: True,
        r"a task that the pool does not know waited",
    ),
    Mutant(
        "every id yields an outcome",
        _children.Children,
        "ended",
        _lose_aborted,
        HANG,
    ),
    Mutant(
        "an outcome is handed out once",
        _children.Children,
        "take",
        _hand_out_twice,
        r"a join of agent \d+ handed out \d+",
    ),
    Mutant(
        "a cancelled join consumes nothing",
        _scope.Scope,
        "join_all",
        _consume_early,
        r"\d+ ended well although nobody looked",
        ("rare", "hasty"),
    ),
    Mutant(
        "map keeps the order of its items",
        _many.ManyScope,
        "map",
        _reversed_map,
        r"map gave the values",
    ),
    Mutant(
        "how a body ended decides its outcome",
        _agent.AgentRecord,
        "completed",
        _always_aborted,
        r"agent \d+ returned, but its outcome is Aborted",
    ),
    Mutant(
        "a failure touches nobody else",
        _agent.AgentRecord,
        "failed",
        _abort_siblings,
        r"agent \d+ was aborted \(a sibling failed\), and nobody meant it",
    ),
    Mutant(
        "fatal exceptions leave the pool",
        _life,
        "split_error",
        _nothing_is_fatal,
        r"an agent raised SystemExit, but the pool ended with",
        _RARE,
    ),
    Mutant(
        "failures nobody saw come out",
        _pool,
        "_leave",
        _swallow_failures,
        r"0 ended well although nobody looked",
    ),
    Mutant(
        "the body's exception comes out as it is",
        _pool,
        "_leave",
        _wrap_error,
        r"the body raised, but the pool ended with",
        _RARE,
    ),
    Mutant(
        "quiescence ends the servers",
        _judge.Judge,
        "judge_rest",
        nothing,
        HANG,
    ),
    Mutant(
        "quiescence waits for everybody",
        _judge.Judge,
        "judge_rest",
        _judge_too_early,
        r"the inbox of agent \d+ ended while",
    ),
    Mutant(
        "the youngest receiver ends first",
        _judge,
        "heappop",
        _oldest_first,
        r"the inbox of agent \d+ ended while .* were receiving",
    ),
    Mutant(
        "an agent ends after its children",
        _children.Children,
        "wait_for_all",
        _leave_children,
        r"agent \d+ ended before its child",
    ),
    Mutant(
        "the children of a failed agent are aborted",
        _life,
        "_abort_children",
        nothing,
        r"agent \d+ raised at .* and ended at",
    ),
    Mutant(
        "limits on depth and descendants hold",
        _state.PoolState,
        "admit",
        _no_limits,
        r"agents spawned \d+ agents under a limit|an agent of depth \d+ was spawned",
    ),
    Mutant(
        "a child starts in its spawner's context",
        _life,
        "start",
        _own_context,
        r"agent \d+ started with the mark",
    ),
    Mutant(
        "a timeout ends an agent on time",
        _life,
        "start",
        _no_timeout,
        r"agent \d+ ran for .* s under a timeout",
    ),
    Mutant(
        "messages keep their order",
        Inbox,
        "_take",
        _last_message_first,
        r"agent \d+ received .* after a later message",
    ),
    Mutant(
        "a message arrives once",
        Inbox,
        "offer",
        _twice,
        r"the message .* was received \d+ times",
    ),
    Mutant(
        "what is left becomes dead letters",
        Inbox,
        "close",
        _drop_at_end,
        r"the message .* was sent, and received 0 times and buried 0 times",
    ),
    Mutant(
        "senders to an agent that ends are told",
        Inbox,
        "close",
        _strand_senders,
        HANG,
    ),
    Mutant(
        "a sender cannot be forged",
        MessageRouter,
        "_sender",
        _supervisor_sends,
        r"a message of \d+ says that \d+ sent it",
    ),
    Mutant(
        "askers of an agent that ends are told",
        MessageRouter,
        "fail_asks_to",
        _ask_for_ever,
        HANG,
    ),
    Mutant(
        "askers of a restarted agent are told",
        MessageRouter,
        "fail_asks_to",
        _ask_across_restarts,
        r"agent \d+ was restarted with the question",
        ("phoenix",),
    ),
    Mutant(
        "only the recipient replies",
        MessageRouter,
        "reply",
        _anyone_replies,
        r"agent \d+ answered a question to",
    ),
    Mutant(
        "late replies are dead letters",
        MessageRouter,
        "bury",
        _lose_late_replies,
        r"\d+ messages were sent, but \d+ received and \d+ buried",
    ),
    Mutant(
        "a wait that closes a cycle is refused",
        _judge.Judge,
        "check",
        nothing,
        HANG,
        ("waits",),
    ),
    Mutant(
        "an end that closes a cycle is seen",
        _judge.Judge,
        "judge_again",
        nothing,
        HANG,
        ("waits",),
    ),
    Mutant(
        "every cycle that an end closes is seen",
        _judge.Judge,
        "judge_again",
        _only_one_cycle,
        HANG,
        ("waits",),
    ),
    Mutant(
        "a join that loses a child is judged again",
        _children.Children,
        "_lost_hope",
        nothing,
        HANG,
        ("joins",),
    ),
    Mutant(
        "a wait with a deadline is not hopeless",
        _judge.Judge,
        "_ends_by_itself",
        _ignore_deadlines,
        r"DeadlockError\(.* was raised under a deadline",
    ),
    Mutant(
        "waits of others with a deadline neither",
        _judge,
        "_certain",
        _all_are_certain,
        r"DeadlockError\(.*: agent \d+ waits for .*, not for|DeadlockError\(.* was raised under a deadline",
    ),
    Mutant(
        "join_all is hopeless by one of its targets",
        waits,
        "_may_end",
        _any_edge,
        HANG,
        ("waits",),
    ),
    Mutant(
        "a deadlock names its agents",
        _judge.Judge,
        "check",
        _wrong_path,
        r"DeadlockError\(.* was raised in agent|DeadlockError\(.*: agent \d+ waits for",
        ("waits",),
    ),
    Mutant(
        "abort reaches agents before their first step",
        _agent.AgentRecord,
        "abort",
        _spare_the_unstarted,
        r"agent \d+ was aborted \(.*\) at .* and ended at",
    ),
    Mutant(
        "abort touches nobody but children",
        _agent.AgentRecord,
        "abort",
        _abort_family,
        r"agent \d+ was aborted \(.*\), and nobody meant it",
    ),
    Mutant(
        "reasons travel into outcomes",
        _agent.AgentRecord,
        "abort",
        _no_reason,
        r"agent \d+ was aborted for 'aborted', but was told",
    ),
    Mutant(
        "abort_all aborts",
        _scope.Scope,
        "abort_all",
        nothing,
        r"agent \d+ was aborted \(all of you\) at .* and ended at",
        _RARE,
    ),
    Mutant(
        "a draining pool starts nobody",
        _state.PoolState,
        "stop_starting",
        nothing,
        r"agent \d+ spawned while the pool drained",
        _RARE,
    ),
    Mutant(
        "restarts are bounded",
        restart.Intensity,
        "restart",
        _restart_for_ever,
        r"agent \d+ was restarted more often than twice",
    ),
    Mutant(
        "every finished agent is told",
        _log.EventLog,
        "emit",
        _without_end,
        r"spawned and finished events do not match",
    ),
    Mutant(
        "every tool call has its result",
        loop,
        "ToolMessage",
        _wrong_call,
        r"agent \d+: ",
        ("models",),
    ),
    Mutant(
        "budgets are not passed",
        budget_module.Budget,
        "_lacks",
        _no_room_needed,
        r"\d+ \w+ were spent of a budget",
        ("models",),
    ),
    Mutant(
        "reservations are given back",
        budget_module.Budget,
        "_give_back",
        _keep_reserved,
        r"\d+ \w+ are still reserved",
        ("models", "full"),
    ),
    Mutant(
        "what an agent leaves open is its failure",
        _life,
        "close_leftovers",
        _tell_of_nothing,
        r"agent \d+ left something open",
        ("untidy",),
    ),
    Mutant(
        "what a tool call leaves open is its error",
        _tool_calls,
        "close_leftovers",
        _tell_of_nothing,
        r"agent \d+: the call \w+ left something open",
        ("tools",),
    ),
    Mutant(
        "fatal exceptions of an input leave the pool",
        _state.PoolState,
        "fatal_error",
        _only_agents_are_fatal,
        r"an agent raised SystemExit, but the pool ended with None",
        ("inputs",),
    ),
    Mutant(
        "more slots are given out at once",
        _pool.AgentPool,
        "max_concurrent",
        _remember_only,
        r"\d+ agents wait to start, though only \d+ of \d+ run",
        ("resized",),
    ),
    Mutant(
        "who works in a pool of its own is not at its end",
        _judge.Wait,  # type: ignore[attr-defined]
        "looks_elsewhere",
        _looks_nowhere,
        r"the inbox of agent \d+ ended while",
        ("inner",),
    ),
)


def run_gate(mutants: Sequence[Mutant] = MUTANTS, most_runs: int = 3000) -> Iterator[Catch]:
    """Hunt every mutant, and yield what became of it."""
    for mutant in mutants:
        yield hunt(mutant, most_runs)
