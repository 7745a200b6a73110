"""`--web`: the live page of a run, which stays after its end where somebody sits at the terminal."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio
from outcome import Error, Value, acapture

from agentpool._core.approval import ApprovalRequest, Decision
from agentpool._core.messages import AgentId
from agentpool._core.text import named
from agentpool._kernel.live_agents import subscribed
from agentpool.cli._asking import NOBODY_THERE
from agentpool.cli._errors import BadInputError
from agentpool.cli._signals import SIGNALS
from agentpool.cli._streams import say

if TYPE_CHECKING:
    from agentpool._core.past import Past
    from agentpool._kernel.events import EventSubscription
    from agentpool._kernel.pool import AgentPool
    from agentpool.abc import Approver
    from agentpool.cli._drivers import Drivers
    from agentpool.web._serve import LivePage

R = TypeVar("R")

_LOG = logging.getLogger("agentpool.web")


@attrs.frozen
class WebOptions:
    """The options of the live page.

    Attributes:
      port: where it is served; 0 for a free one.
      stays: whether it is served after the run too; None where somebody sits at the terminal.
    """

    port: int = 0
    stays: bool | None = None


def web_options(web: bool, port: int | None, stay: bool | None) -> WebOptions | None:
    """Return the options of the page; None without one.

    Raises:
      BadInputError: if there are options and no page.
    """
    if web:
        return WebOptions(port or 0, stay)
    for name, value in (("--web-port", port), ("--stay", stay)):
        if value is not None:
            raise BadInputError(f"{name} is about the live page: give --web with it")
    return None


@contextmanager
def page_for(options: WebOptions | None, title: str) -> Iterator[RunPage | None]:
    """Have a page listen while the block runs, in which a run is performed; None without options.

    Raises:
      BadInputError: if the extra is not installed, or the port is in use.
    """
    if options is None:
        yield None
        return
    from agentpool.web._approving import PageApprover
    from agentpool.web._serve import LivePage
    from agentpool.web._watching import Watching

    approver = PageApprover()
    watching = Watching(title, approver)
    try:
        # The links go through the run's page, which is made around this.
        page = LivePage.open(watching, "127.0.0.1", options.port, lambda link: shown.tell_link(link))
    except ModuleNotFoundError as error:
        raise BadInputError(str(error)) from error
    except OSError as error:
        raise BadInputError(f"--web-port {options.port}: {error.strerror or error}") from error
    shown = RunPage(page, approver, options.stays)
    page.failed = shown.note_failure
    try:
        yield shown
    finally:
        page.close()


@attrs.define(eq=False)
class RunPage:
    """The live page of one run. What goes wrong with it is told once, and does nothing to the run.

    Attributes:
      tell: shows a line to the person at the terminal.
    """

    _page: LivePage
    _approver: Approver
    _stays: bool | None
    tell: Callable[[str], object] = say
    _stopped_by: int | None = None
    _has_told: bool = False
    _events: EventSubscription | None = None
    _watched: trio.Event | None = None

    def tell_link(self, link: str | None = None) -> None:
        """Show a link, on a line of its own: it has to fit into 80 columns."""
        self.tell("the live page; this link lets one browser in, once:")
        self.tell(link or self._page.entry.link())

    # -- while the run goes on --------------------------------------------------------------------

    async def show(self, perform: Callable[[], Awaitable[R]], report: Callable[[R], None]) -> R:
        """Serve the page while a run is performed, and as long as it stays; return the run's report.

        Args:
          perform: the run.
          report: prints what came of it.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve)
            # Captured, so that this nursery puts no group around it.
            ended = await acapture(perform)
            if isinstance(ended, Value):
                self.tell = say
                reported = await acapture(self._report_and_stay, partial(report, ended.value))
                ended = reported if isinstance(reported, Error) else ended
            nursery.cancel_scope.cancel("the run has ended")
        return ended.unwrap()

    async def _serve(self) -> None:
        try:
            await self._page.serve()
        except Exception as error:
            self._failed(error)

    async def _report_and_stay(self, report: Callable[[], None]) -> None:
        """Print the report; after it, serve the page until a signal comes, if it is to stay."""
        if not self.stays:
            report()
            return
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        with trio.open_signal_receiver(*heard) as signals:
            await trio.to_thread.run_sync(report)  # who reads it may be slow: `| less`
            say("the live page stays until Ctrl-C")
            async for _ in signals:
                return

    def introduce(self, tell: Callable[[str], object], *, leaves: bool) -> None:
        """Show the first link; from now on, what there is to say goes this way.

        Args:
          tell: shows a line.
          leaves: whether the button stops the agents at work, which can be resumed.
        """
        self.tell, self._page.watching.leaves = tell, leaves
        self.tell_link()

    def asking_beside(self, terminal: Approver | None) -> Approver:
        """Return an approver that asks on the page, and at the terminal if there is one."""
        return self._approver if terminal is None else EitherApprover(terminal, self._approver)

    def retries_beside(
        self, retrying: Callable[[AgentId, str, float], None]
    ) -> Callable[[AgentId, str, float], None]:
        """Return what takes in that a model call of an agent failed, and will be made again."""

        def take(agent_id: AgentId, why: str, seconds: float) -> None:
            retrying(agent_id, why, seconds)
            now = trio.current_time()
            self._page.watching.picture.retrying(agent_id, why, now + seconds, now)

        return take

    def begin(
        self, pool: AgentPool, drivers: Drivers, drain: Callable[[], object], past: Past | None
    ) -> None:
        """Subscribe to a pool in which nothing has happened yet; `watch` goes on from there.

        Raises nothing: this is called while the pool opens.

        Args:
          pool: that of the run.
          drivers: tell how the calls of each provider stand.
          drain: what the button does.
          past: what the run had come to before it was resumed.
        """
        from agentpool.web._watching import EVENTS_KEPT

        watching = self._page.watching
        watching.providers, watching.drain = drivers.statistics, drain
        events = subscribed(pool, EVENTS_KEPT)
        try:
            if past is None:
                watching.begin(pool)
            else:
                from agentpool.cli._journals import take_in_past

                watching.begin(pool, partial(take_in_past, past=past, now=trio.current_time()))
        except Exception as error:
            events.close()
            self._failed(error)
        else:
            self._events = events

    async def watch(self) -> None:
        """Watch the pool until it has ended."""
        if self._events is None:  # it could not be begun
            return
        self._watched = trio.Event()
        try:
            await self._page.watching.watch(self._events)
        except Exception as error:
            self._failed(error)
        finally:
            self._events.close()
            self._watched.set()

    async def ended(self, exit: str, is_left: bool, stopped_by: int | None) -> None:
        """Say on the page how the run ended.

        Args:
          exit: what comes of the run: its exit code, or what broke it off.
          is_left: whether it can be resumed.
          stopped_by: the signal that ended it; None if none did.
        """
        self._stopped_by = stopped_by
        if self._watched is not None:
            await self._watched.wait()
        ends = self._page.watching.picture.ends
        told = ", ".join(f"{number:,} {how}" for how, number in ends.items() if number or how == "completed")
        told += "; it can be resumed" if is_left else ""
        try:
            await self._page.tell_end(f"{told}; {exit}")
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        _LOG.error("the live page broke down", exc_info=error)
        self.note_failure(error)

    def note_failure(self, error: Exception) -> None:
        """Tell once that something is wrong with the page."""
        if not self._has_told:
            self._has_told = True
            self.tell(f"warning: the live page broke down, the run goes on: {named(error)}")

    # -- afterwards -------------------------------------------------------------------------------

    @property
    def stays(self) -> bool:
        """Whether the page is served after the run: a signal that ended it was meant for the page too."""
        if self._stopped_by is not None and not (self._stays and self._stopped_by == signal.SIGINT):
            return False
        if self._stays is None:
            return sys.stderr is not None and sys.stderr.isatty()
        return self._stays


@attrs.define(eq=False)
class EitherApprover:
    """Asks at the terminal and on the page; the first answer counts, and the other question is withdrawn."""

    _terminal: Approver
    _page: Approver

    async def __call__(self, request: ApprovalRequest, /) -> Decision:
        """Ask about a call.

        Cancellation: both questions are withdrawn.
        """
        decisions: list[Decision] = []

        async def ask(approver: Approver) -> None:
            decision = await approver(request)
            if decision is not NOBODY_THERE:  # the terminal has gone; the page is there still
                decisions.append(decision)
                nursery.cancel_scope.cancel("the question was answered")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, self._terminal)
            nursery.start_soon(ask, self._page)
        return decisions[0]
