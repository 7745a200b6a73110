"""`--web`: the live page of a run, which stays after its end where somebody sits at the terminal."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from agentpool._core.approval import ApprovalRequest, Decision
from agentpool._core.messages import AgentId
from agentpool.cli._asking import NOBODY_THERE
from agentpool.cli._errors import BadInputError
from agentpool.cli._signals import SIGNALS
from agentpool.cli._streams import say

if TYPE_CHECKING:
    from agentpool._kernel.pool import AgentPool
    from agentpool.abc import Approver
    from agentpool.cli._drivers import Drivers
    from agentpool.web._serve import LivePage

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
    _watched: trio.Event | None = None

    def tell_link(self, link: str | None = None) -> None:
        """Show a link, on a line of its own: it has to fit into 80 columns."""
        self.tell("the live page; this link lets one browser in, once:")
        self.tell(link or self._page.entry.link())

    # -- while the run goes on --------------------------------------------------------------------

    async def serve(self) -> None:
        """Serve the page until cancelled."""
        try:
            await self._page.serve()
        except Exception as error:
            self._failed(error)

    def begin(self, tell: Callable[[str], object]) -> None:
        """Show the first link; from now on, what there is to say goes this way."""
        self.tell = tell
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

    async def watch(
        self,
        pool: AgentPool,
        drivers: Drivers,
        drain: Callable[[], object],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Watch the pool until it has ended."""
        self._watched = trio.Event()
        watching = self._page.watching
        watching.providers, watching.drain = drivers.statistics, drain
        started = False
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(watching.watch, pool)
                started = True
                task_status.started()
        except Exception as error:
            self._failed(error)
            if not started:
                task_status.started()
        finally:
            self._watched.set()

    async def ended(self, exit_code: int, is_left: bool, stopped_by: int | None) -> None:
        """Say on the page how the run ended.

        Args:
          exit_code: of the run.
          is_left: whether it can be resumed.
          stopped_by: the signal that ended it; None if none did.
        """
        self._stopped_by = stopped_by
        if self._watched is not None:
            await self._watched.wait()
        ends = self._page.watching.picture.ends
        told = ", ".join(f"{number:,} {how}" for how, number in ends.items() if number or how == "completed")
        told += "; it can be resumed" if is_left else ""
        await self._page.tell_end(f"{told}; exit code {exit_code}")

    def _failed(self, error: Exception) -> None:
        _LOG.error("the live page broke down", exc_info=error)
        if not self._has_told:
            self._has_told = True
            self.tell(f"warning: the live page broke down, the run goes on: {type(error).__name__}: {error}")

    # -- afterwards -------------------------------------------------------------------------------

    @property
    def stays(self) -> bool:
        """Whether the page is served after the run: a signal that ended it was meant for the page too."""
        if self._stopped_by is not None and not (self._stays and self._stopped_by == signal.SIGINT):
            return False
        if self._stays is None:
            return sys.stderr is not None and sys.stderr.isatty()
        return self._stays

    def stay(self) -> None:
        """Serve the page until a signal comes, if it is to stay."""
        self.tell = say
        if self.stays:
            say("the live page stays until Ctrl-C")
            trio.run(self._serve_until_signal)

    async def _serve_until_signal(self) -> None:
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        with trio.open_signal_receiver(*heard) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.serve)
                async for _ in signals:
                    nursery.cancel_scope.cancel("a signal came")


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
