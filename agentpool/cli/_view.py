"""How a run is shown while it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from agentpool._core import events as ev
from agentpool._core.messages import AgentId
from agentpool._core.picture import Picture
from agentpool.cli._progress import LONGEST_LINE, FewLines, kind_of, told
from agentpool.cli._quiet import Quiet
from agentpool.cli._streams import say
from agentpool.cli._sums import begin_with, sample, standings_of, tell_all, tell_rates
from agentpool.cli._tables import can_draw
from agentpool.cli._text import cut, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpool._core.past import Past
    from agentpool._kernel.pool import AgentPool
    from agentpool.cli._drivers import Drivers


def choose_view(*, quiet: bool) -> View:
    """Return a live tree on a terminal, lines elsewhere, and nothing if that is asked for."""
    if quiet:
        return SilentView()
    if sys.stderr is not None and sys.stderr.isatty() and can_draw():
        from rich.console import Console

        from agentpool.cli._live import LiveView

        console = Console(stderr=True)
        if console.is_terminal and console.is_interactive:  # variables may say that it is neither
            return LiveView(console)
    return PlainView()


class View(Protocol):
    """Shows a run while it goes on."""

    def goes_on(self, past: Past) -> None:
        """Take in what the run had come to before it was resumed; nothing else was taken in yet."""
        ...

    def take(self, event: ev.Event) -> None:
        """Take an event in."""
        ...

    def tell(self, line: str) -> None:
        """Show a line that is no event's."""
        ...

    def retrying(self, agent_id: AgentId, why: str, seconds: float) -> None:
        """Take in that a model call of an agent failed, and will be made again."""
        ...

    async def keep_drawing(self, pool: AgentPool, drivers: Drivers) -> None:
        """Draw until cancelled."""
        ...

    def asking(self, again: Callable[[], None]) -> AbstractContextManager[None]:
        """Leave the terminal to somebody who asks, for as long as the block runs.

        What events tell meanwhile is shown afterwards. A line that is no event's is shown at once, and
        then `again` is called, which prints the question once more.
        """
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


@attrs.define(eq=False)
class SilentView:
    """Shows nothing."""

    def goes_on(self, past: Past) -> None:
        """Drop it."""

    def take(self, event: ev.Event) -> None:
        """Drop the event."""

    def tell(self, line: str) -> None:
        """Drop the line."""

    def retrying(self, agent_id: AgentId, why: str, seconds: float) -> None:
        """Drop it."""

    async def keep_drawing(self, pool: AgentPool, drivers: Drivers) -> None:
        """Do nothing until cancelled."""
        await trio.sleep_forever()

    def asking(self, again: Callable[[], None]) -> AbstractContextManager[None]:
        """Do nothing: nothing is printed anyway."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing."""


SECONDS_BETWEEN_SUMS = 30.0
"""At first; later a twentieth of the time that the run has taken."""
MOST_SECONDS_BETWEEN_SUMS = 300.0


@attrs.define(eq=False)
class PlainView:
    """Prints a line for each start, end, retry and warning, on standard error; very many are counted.

    From time to time it prints a line of sums, so that a log tells how far the run is, and that it lives.
    """

    # Nobody asks for its timeline.
    _picture: Picture = attrs.field(factory=lambda: Picture(spans_kept=0, arrows_kept=0))
    _lines: FewLines = attrs.field(factory=FewLines)
    _quiet: Quiet = attrs.field(factory=Quiet)

    def goes_on(self, past: Past) -> None:
        """Have the sums be those of the whole run."""
        from agentpool.cli._journals import take_in_past

        take_in_past(self._picture, past, trio.current_time())

    def take(self, event: ev.Event) -> None:
        """Print the event's line, if it has one."""
        line = told(self._picture, event)
        if line is not None:
            self._tell_few(kind_of(event), line)

    def tell(self, line: str) -> None:
        """Print a line."""
        if self._quiet.is_asking:
            say("")  # the question stands on a line that has not ended
        say(cut(one_line(line), LONGEST_LINE, sys.stderr))
        self._quiet.ask_again()

    def retrying(self, agent_id: AgentId, why: str, seconds: float) -> None:
        """Print a line."""
        now = trio.current_time()
        self._picture.retrying(agent_id, why, now + seconds, now)
        row = self._picture.rows.get(agent_id)
        name = str(agent_id) if row is None else row.name
        self._tell_few("retries", f"{name}: asks again in {seconds:.1f} s: {why}")

    async def keep_drawing(self, pool: AgentPool, drivers: Drivers) -> None:
        """Print a line of sums from time to time, until cancelled."""
        began = printed = trio.current_time()
        begin_with(self._picture, pool)
        version = -1
        while True:
            now = trio.current_time()
            every = min(MOST_SECONDS_BETWEEN_SUMS, max(SECONDS_BETWEEN_SUMS, (now - began) / 20))
            await trio.sleep(every)
            # A run in which nothing happens is told of as well, but rarely.
            has_changed = self._picture.version != version
            is_due = has_changed or trio.current_time() - printed >= MOST_SECONDS_BETWEEN_SUMS
            if not is_due or self._quiet.is_asking:
                continue
            self.tell(self._sums(pool))
            version, printed = self._picture.version, trio.current_time()

    @contextmanager
    def asking(self, again: Callable[[], None]) -> Iterator[None]:
        """Keep the lines of events back, and print them afterwards."""
        kept: list[str] = []
        try:
            with self._quiet.asking(again, kept):
                yield
        finally:
            for line in kept:
                self.tell(line)

    def close(self) -> None:
        """Do nothing."""

    def _sums(self, pool: AgentPool) -> str:
        sample(self._picture, pool.statistics(), trio.current_time())
        return f"{tell_all(self._picture, standings_of(self._picture))}; {tell_rates(self._picture)}"

    def _tell_few(self, kind: str, line: str) -> None:
        few = self._lines.next(kind, line)
        if few is not None and not self._quiet.keeps(few):
            self.tell(few)
