"""A run that is kept in a journal: what its first record tells, how it is opened, what is left of it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._core.errors import JournalError
from agentpool._core.messages import SUPERVISOR, ChatMessage
from agentpool._core.outcomes import AnyOutcome, Completed
from agentpool._core.past import Past, PastAgent
from agentpool._core.redaction import has_placeholder
from agentpool._kernel.opening import go_on_with_pool, open_agent_pool, tell_of_run
from agentpool._kernel.pool import AgentPool
from agentpool._objects import UnreadableDataError, reference_of
from agentpool.cli._drivers import DrivenConfig, Drivers
from agentpool.cli._errors import BadInputError
from agentpool.cli._past_runs import PastRun
from agentpool.cli._text import one_line
from agentpool.fleet.start import Start
from agentpool.journal import SqliteJournal, read_journal

if TYPE_CHECKING:
    from agentpool._kernel.resuming import Finder


@attrs.frozen
class KeptRun:
    """A run with a journal.

    Attributes:
      path: the journal.
      shown: the path as the user wrote it.
      about: what the run's first record tells of it.
      before: what it had come to; None for a run that begins.
      journal: writes to the file.
    """

    path: Path
    shown: str
    about: Mapping[str, Any]
    before: PastRun | None = None
    journal: SqliteJournal = attrs.field(
        init=False, default=attrs.Factory(lambda self: SqliteJournal(self.path), takes_self=True)
    )

    @classmethod
    def begin(cls, path: Path, about: Mapping[str, Any]) -> KeptRun:
        """Return a run that begins."""
        return cls(path.absolute(), str(path), about)

    def open_pool(
        self,
        starts: Sequence[Start],
        drivers: Drivers,
        settings: Mapping[str, Any],
        max_concurrent: int | None,
        **means: Any,
    ) -> AbstractAsyncContextManager[AgentPool]:
        """Return the pool of the run, to be opened: a new one, or one that goes on.

        Args:
          starts: the agents of its fleet.
          drivers: what they ask.
          settings: of a new run; another one has its own.
          max_concurrent: how many agents of a run that goes on may run at once, in place of its own number.
          means: what the agents work with, as `open_agent_pool` takes it.
        """
        driver = drivers.get_for_functions()
        if self.before is not None:
            return go_on_with_pool(
                self.journal,
                driver,
                max_concurrent=max_concurrent,
                finder=_finder(starts, drivers),
                **means,
            )
        opened = open_agent_pool(driver, journal=self.journal, **settings, **means)
        tell_of_run(opened, {**self.about, "starts": [[start.name, start.supervises] for start in starts]})
        return opened

    @property
    def elapsed(self) -> float:
        """Seconds that the run had worked before this process."""
        return self.past.elapsed

    @property
    def past(self) -> Past:
        """What the run had come to."""
        return Past() if self.before is None else self.before.past

    @property
    def is_forked(self) -> bool:
        """Whether it is the run of one agent alone, which began within another run."""
        return "forked" in self.about

    def remaining(self, starts: Sequence[Start]) -> list[Start]:
        """Return those that have still to be spawned."""
        spawned = {self.past.agents[each].name for each in self.past.roots}
        return [start for start in starts if start.name not in spawned]

    def outcomes_before(self) -> Iterator[AnyOutcome]:
        """Yield the outcomes of all agents that had ended, in the order in which they did."""
        if self.before is None:
            return
        for agent_id in self.past.ended:
            outcome = self.before.outcome_of(self.past.agents[agent_id])
            if outcome is not None:
                yield outcome

    def conversation_of(self, outcome: AnyOutcome) -> Sequence[ChatMessage]:
        """Return the conversation of an agent that had ended, where its outcome does not know it."""
        if self.before is None or isinstance(outcome, Completed):
            return ()
        try:
            return self.before.conversation_of(self.past.agents[outcome.agent_id])
        except BadInputError:  # its model was never asked
            return ()

    async def commit(self) -> None:
        """Wait until what has happened so far is in the file."""
        with suppress(JournalError):  # the pool finds that too, and ends with it
            await self.journal.commit()

    async def past_now(self) -> Past:
        """Return what the run has come to, from its file.

        Raises:
          BadInputError: if it cannot be read any more.
        """
        return (await trio.to_thread.run_sync(PastRun.read, self.path)).past

    def command(self, verb: str, *more: str) -> str:
        """Return a command for this run, as a shell takes it."""
        return command_for(verb, self.shown, *more)


def command_for(verb: str, *arguments: str) -> str:
    """Return a command as a shell takes it."""
    return one_line(shlex.join(["agentpool", verb, *arguments]))


def _finder(starts: Sequence[Start], drivers: Drivers) -> Finder:
    """Return what makes the agents of a fleet again: a journal keeps them without their drivers."""
    agents = {start.name: start.agent for start in starts}
    child = reference_of(DrivenConfig)

    def find(agent: PastAgent) -> Any:
        if agent.origin[0] == SUPERVISOR and agent.name in agents:
            return agents[agent.name]
        data = {} if agent.work is None else agent.work["agent"]
        if data.get("kind") != child:
            return None
        try:
            made: DrivenConfig = DrivenConfig.from_journal(data["data"])
        except UnreadableDataError:
            return None  # the pool finds that too, and says it
        return made.with_driver(drivers)

    return find


# -- what a journal holds --------------------------------------------------------------------------


def check_free(path: Path) -> None:
    """Refuse a file that holds something, before anything is run. Blocks on the disk.

    Raises:
      BadInputError: if it cannot be the journal of a new run.
    """
    shown = one_line(str(path))
    if path.is_dir():
        raise BadInputError(f"--journal: {shown} is a directory. Give a file in it")
    if not path.exists():
        return
    try:
        records = read_journal(path)
    except (JournalError, OSError) as error:
        raise BadInputError(f"--journal: {error}. Give a new file") from error
    if records:
        go_on = command_for("resume", str(path))
        raise BadInputError(
            f"--journal: {shown} holds a run already. Go on with it by `{go_on}`, or give a new file"
        )


def about_of(past: Past, path: Path) -> Mapping[str, Any]:
    """Return what the first record of a run tells of its fleet.

    Raises:
      BadInputError: if the run was begun by a program, and not by the command line.
    """
    about: Mapping[str, Any] = past.run.get("about", {})
    if "fleet" not in about:
        raise BadInputError(
            f"{one_line(str(path))} was written by a Python program. Go on with it there: resume_agent_pool"
        )
    return about


def given_again(
    about: Mapping[str, Any], vars: Mapping[str, str], driver: str | None
) -> tuple[Mapping[str, str], str | None]:
    """Return the variables and the driver of a run; those that held a secret have to be given again.

    Raises:
      BadInputError: if one was not.
    """
    merged = {**about["vars"], **vars}
    problems = [
        f"the value of the variable {name} was not kept, because a secret stands in it."
        f" Give it again with --var {name}=VALUE"
        for name, value in merged.items()
        if has_placeholder(value)
    ]
    name = driver or about["driver"]
    if has_placeholder(name):
        problems.append("the driver was not kept, because a secret stands in it. Give it with --driver NAME")
    if problems:
        raise BadInputError(*problems)
    return merged, name


def enter_directory(about: Mapping[str, Any]) -> None:
    """Make the directory in which a run began the current one: relative paths mean what they meant then.

    Raises:
      BadInputError: if it is not there any more.
    """
    where = about["directory"]
    try:
        os.chdir(where)
    except OSError as error:
        raise BadInputError(
            f"the run began in {one_line(where)}, which cannot be entered: {error.strerror}. Put it back"
        ) from None
