"""What the tests of the page share: Debian's Chromium, steered by playwright, and runs to show in it.

playwright's interface without `async` is used: a test of the page is a plain function, and a pool that is
shown to it runs in a thread of its own.
"""

from __future__ import annotations

import itertools
import os
import queue
import shutil
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from agentpool import AgentPool, open_agent_pool
from agentpool._core import events as ev
from agentpool._core.approval import ApprovalRequest
from agentpool._core.messages import ToolCall
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.picture import Picture
from agentpool._core.picture_data import changes_since
from agentpool._core.usage import NO_USAGE
from agentpool._serving.listening import listener_on
from agentpool.web._page import page_html

SECONDS = 30.0
"""Within so many seconds the page shows what is waited for, also on a busy machine."""

LONGEST = 120
"""So many seconds a test looks at a page at the most."""

WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 390, "height": 844}

ROWS = ".tree-body .row"


def require_browser() -> str:
    """Return the browser's path. Skip the test if there is none.

    Fail it instead if `AGENTPOOL_REQUIRE_BROWSER` is set.
    """
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    problem = "" if found else "no Chromium is installed"
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        problem = "playwright is not installed"
    if problem:
        if os.environ.get("AGENTPOOL_REQUIRE_BROWSER"):
            pytest.fail(f"a browser is required here: {problem}")
        pytest.skip(problem)
    assert found is not None
    return found


@contextmanager
def open_browser() -> Iterator[Any]:
    """A browser; a module's tests share one."""
    path = require_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Who is root cannot have Chromium's sandbox; what is shown here is our own page.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=options)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Any, address: str, *, allowed: str = "", **options: Any) -> Iterator[Any]:
    """The page at an address, in a window of its own. It may report no error, but those that are allowed.

    Args:
      browser: see `open_browser`.
      address: where the page is.
      allowed: an error that has this in it is expected.
      options: of the window, such as `viewport` and `color_scheme`.
    """
    with within(LONGEST):
        yield from _open_page(browser, address, allowed, options)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise in a test that takes longer: a page that never answers would hold it forever."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"it took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _open_page(browser: Any, address: str, allowed: str, options: dict[str, Any]) -> Iterator[Any]:
    errors: list[str] = []
    context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
    try:
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on(
            "console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        yield page
        told = [each for each in errors if not (allowed and allowed in each)]
        assert told == [], told
        assert not page.locator("#trouble").is_visible() or allowed
    finally:
        context.close()


_numbers = itertools.count()


@contextmanager
def open_file(browser: Any, folder: Path, data: Mapping[str, Any], **options: Any) -> Iterator[Any]:
    """The page of a run that is over, as a file."""
    path = folder / f"run-{next(_numbers)}.html"
    path.write_text(page_html(data), encoding="utf-8")
    with open_page(browser, path.as_uri(), **options) as page:
        yield page


def file_data(picture: Picture, **more: Any) -> dict[str, Any]:
    """What the file of a run holds."""
    return {"live": False, "title": "run.db", "changes": changes_since(picture, 0), "transcripts": {}, **more}


def names_of(page: Any) -> list[str]:
    """The names in the rows that are drawn, from the top."""
    return list(page.locator(f"{ROWS} .label").all_text_contents())


def until(page: Any, expression: str, argument: Any = None) -> None:
    """Wait until an expression of JavaScript holds in the page.

    It is asked from outside: the policy of the page lets nobody evaluate text inside of it.
    """
    deadline = time.monotonic() + SECONDS
    while not page.evaluate(expression, argument):
        assert time.monotonic() < deadline, (expression, page.locator("body").inner_text())
        page.wait_for_timeout(20)


def drawn(page: Any) -> None:
    """Wait until all that is known has been drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


# -- pictures --------------------------------------------------------------------------------------


@asynccontextmanager
async def watched(pool: AgentPool, picture: Picture) -> AsyncIterator[None]:
    """Take in the events of a pool and who waits for whom, until the block is left."""
    async with trio.open_nursery() as nursery:
        async with pool.events(max_buffer=100_000) as events:

            async def take() -> None:
                async for event in events:
                    picture.take(event)

            async def look() -> None:
                while True:
                    waiting = {agent.id: agent.waits_for for agent in pool.statistics().waiting}
                    picture.sample(waiting, (), trio.current_time())
                    await trio.sleep(0.002)

            nursery.start_soon(take)
            nursery.start_soon(look)
            yield
            while batch := events.next_batch_nowait():
                for event in batch:
                    picture.take(event)
        nursery.cancel_scope.cancel()


def picture_of(run: Callable[[AgentPool], Awaitable[Any]], **options: Any) -> Picture:
    """The picture of a real pool, in which something runs."""
    picture = Picture()

    async def main() -> None:
        async with open_agent_pool(**{"max_concurrent": 8, **options}) as pool, watched(pool, picture):
            await run(pool)
            await pool.join_all()

    trio.run(main)
    return picture


@attrs.define
class Drawing:
    """A picture made of events that a test thinks up, for what no short run has.

    Attributes:
      picture: with all that was told.
      time: of the next event, on trio's clock.
    """

    picture: Picture = attrs.field(factory=Picture)
    time: float = 1000.0
    _parents: dict[int, int] = attrs.field(factory=dict)
    _calls: Iterator[int] = attrs.field(factory=itertools.count)

    def spawn(self, name: str, parent: int = 0, *, starts: bool = True) -> int:
        agent_id = len(self._parents) + 1
        self._parents[agent_id] = parent
        self.picture.take(ev.AgentSpawned(0, self.time, agent_id, parent, name))
        if starts:
            self.picture.take(ev.AgentStarted(0, self.time, agent_id, parent))
        return agent_id

    def phase(self, agent_id: int, phase: Any, turn: int = 1) -> None:
        self.picture.take(ev.PhaseChanged(0, self.time, agent_id, self._parents[agent_id], phase, turn))

    def says(self, agent_id: int, text: str) -> None:
        self.picture.take(ev.TextDeltaReceived(0, self.time, agent_id, self._parents[agent_id], text))

    def calls(self, agent_id: int, tool: str) -> None:
        call = ToolCall(f"c{next(self._calls)}", tool, {})
        self.picture.take(ev.ToolStarted(0, self.time, agent_id, self._parents[agent_id], call))

    def waits(self, **waiting: Any) -> None:
        self.picture.sample({int(key[1:]): tuple(value) for key, value in waiting.items()}, (), self.time)

    def ends(self, agent_id: int, how: str = "completed", why: str = "") -> None:
        told = {
            "agent_id": agent_id,
            "name": "",
            "parent_id": self._parents[agent_id],
            "usage": NO_USAGE,
            "started_at": self.time,
            "duration": 0.0,
            "restarts": 0,
        }
        outcome: AnyOutcome
        if how == "completed":
            outcome = Completed(**told, value=None)
        elif how == "failed":
            outcome = Failed(**told, error=ValueError(why))
        else:
            outcome = Aborted(**told, reason=why)
        self.picture.take(ev.AgentFinished(0, self.time, agent_id, self._parents[agent_id], outcome))


def large_picture(agents: int = 10_000, spans: int = 20) -> Picture:
    """So many agents, in families of 1 to 100 children, each with so many spans or more."""
    drawing = Drawing()
    leaders = max(1, agents // 100)
    ids = [drawing.spawn(f"leader-{number}") for number in range(leaders)]
    for number in range(agents - leaders):
        drawing.time += 0.002
        ids.append(drawing.spawn(f"worker-{number}", ids[number % leaders]))
    for step in range(spans):
        for agent_id in ids:
            drawing.time += 0.0005
            drawing.phase(agent_id, ("perceive", "reason", "act")[(step + agent_id) % 3], step + 1)
        drawing.time += 1.0
    for agent_id in ids[:: max(2, agents // 4000)]:
        drawing.time += 0.0001
        if agent_id > leaders:
            drawing.ends(agent_id, "failed" if agent_id % 7 == 0 else "completed", "no answer")
    return drawing.picture


# -- live pages -------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Shown:
    """A pool in a thread of its own, with the live page of it.

    Attributes:
      link: lets a browser in.
      pool, approver: what is shown.
    """

    link: str
    pool: AgentPool
    approver: Any
    _token: trio.lowlevel.TrioToken
    _nursery: trio.Nursery
    _page: Any
    _serving: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _stopped: trio.Event = attrs.field(factory=trio.Event)
    _hung: socket.socket | None = None

    @property
    def _port(self) -> int:
        return int(self.link.split(":")[2].partition("/")[0])

    def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the pool's thread, and return what it returns."""
        return trio.from_thread.run_sync(function, *args, trio_token=self._token)

    def wait(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Call an async function in the pool's thread, and return what it returns."""
        return trio.from_thread.run(function, *args, trio_token=self._token)

    def spawn(self, agent: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Spawn an agent, and return its handle."""
        return self.do(partial(self.pool.spawn_nowait, agent, *args, **options))

    def link_again(self) -> str:
        """Return another link."""
        return str(self.do(self._page.entry.link))

    def ask(self, request: ApprovalRequest) -> list[Any]:
        """Ask on the page; the decision comes into the list that is returned."""
        decisions: list[Any] = []

        async def asking() -> None:
            decisions.append(await self.approver(request))

        self.do(self._nursery.start_soon, asking)
        return decisions

    def decided(self, decisions: list[Any]) -> list[Any]:
        """Wait until a decision has come to whoever asked: the page may show before that it was taken."""
        end = time.monotonic() + SECONDS
        while not decisions and time.monotonic() < end:
            self.wait(trio.lowlevel.checkpoint)
        return decisions

    def cut(self, *, hangs: bool = False) -> None:
        """Stop the server: connections are closed, and nobody gets another.

        With `hangs` connections are still taken, and nobody serves them: as those of a program that is
        stopped.
        """
        self.do(self._serving.cancel)
        self.wait(self._stopped.wait)
        self.do(self._page.close)
        if hangs:
            self._hung = self.do(listener_on, "127.0.0.1", self._port)

    def serve(self) -> None:
        """Begin to serve, or do it again at the same address."""
        if self._hung is not None:
            self._hung.close()
            self._hung = None
        if self._page._listener.fileno() < 0:
            self._page._listener = self.do(listener_on, "127.0.0.1", self._port)
        self._serving, self._stopped = trio.CancelScope(), trio.Event()

        async def serving(scope: trio.CancelScope, stopped: trio.Event) -> None:
            with scope:
                await self._page.serve()
            stopped.set()

        self.do(self._nursery.start_soon, serving, self._serving, self._stopped)

    def end(self, exit: str) -> None:
        """End the run: all agents are aborted, and the page is told how it ended."""
        self.do(self.pool.abort_all, "the run ends")
        self.wait(self.pool.join_all)
        self.wait(self._page.tell_end, exit)


@contextmanager
def live_pool(
    *, title: str = "a run", max_concurrent: int = 50, port: int = 0, **options: Any
) -> Iterator[Shown]:
    """A pool that runs until the block is left, and its page. Its agents are aborted then."""
    pytest.importorskip("hypercorn")
    pytest.importorskip("starlette")
    from agentpool.web import PageApprover
    from agentpool.web._serve import LivePage
    from agentpool.web._watching import EVENTS_KEPT, Watching

    ready: queue.Queue[Shown | BaseException] = queue.Queue()
    leave = trio.Event()

    async def watch(
        watching: Watching,
        pool: AgentPool,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with pool.events(max_buffer=EVENTS_KEPT) as events:
            watching.begin(pool)
            task_status.started()
            await watching.watch(events)

    async def main() -> None:
        approver = PageApprover()
        page = LivePage.open(Watching(title, approver), "127.0.0.1", port, lambda link: None)
        token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                async with open_agent_pool(
                    max_concurrent=max_concurrent, approver=approver, **options
                ) as pool:
                    await nursery.start(watch, page.watching, pool)
                    ready.put(Shown(page.entry.link(), pool, approver, token, nursery, page))
                    await leave.wait()
                    pool.abort_all("the test is over")
                    await pool.join_all()
                nursery.cancel_scope.cancel()
        finally:
            page.close()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            ready.put(error)
            raise

    thread = threading.Thread(target=run, name="live pool")
    thread.start()
    shown = ready.get(timeout=SECONDS)
    if isinstance(shown, BaseException):
        raise shown
    try:
        shown.serve()
        yield shown
    finally:
        if shown._hung is not None:
            shown._hung.close()
        shown.do(leave.set)
        thread.join(SECONDS)
        assert not thread.is_alive()
