"""The live view: the tree of agents and the pool's figures, drawn on a terminal while a fleet runs.

Frames are made on the pool's thread, which takes a few milliseconds, and written on another: a terminal that
takes nothing for a while, such as one that was stopped with Ctrl-S, stops no agent. What agents print goes
above the tree with the next frame, so that printing costs them no drawing.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

import attrs
import trio

from agentpool._core import events as ev
from agentpool._core.looks import seconds_to_next_look
from agentpool._core.messages import AgentId
from agentpool._core.picture import Picture
from agentpool.cli._frame import Frames, Piece, Size
from agentpool.cli._progress import LONGEST_LINE, FewLines, kind_of, told
from agentpool.cli._quiet import Quiet
from agentpool.cli._sums import begin_with, pool_parts, provider_parts, sample
from agentpool.cli._text import cut, encodable, one_line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.text import Text

    from agentpool._core.past import Past
    from agentpool._kernel.pool import AgentPool
    from agentpool.cli._drivers import Drivers

LINES_ABOVE = 10_000
"""So many printed lines wait for the next frame; whoever prints more waits until they are written."""
SECONDS_UNSEEN = 0.5
"""After so long what was printed is seen even if no frame comes, because an agent keeps the thread busy."""


class LiveView:
    """Draws the agents and the pool's figures on a terminal, at most four times a second.

    The size of the terminal is asked for each frame, and a frame is never larger: what has no room is
    counted.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        # Nobody asks for its timeline.
        self._picture = Picture(spans_kept=0, arrows_kept=0)
        self._frames = Frames(cast("TextIO", console.file))
        self._lines = FewLines()
        self._quiet = Quiet()
        self._gone = False
        self._above: deque[Text] = deque()
        self._terminal = threading.RLock()  # held by the thread that writes
        self._is_coming = False  # whether a timer will write what is to stand above
        self._last: _Drawing | None = None
        self._is_open = False
        self._replaced: list[tuple[str, TextIO, _Above]] = []
        self._live = self._started()

    def _started(self) -> Live:
        from rich.live import Live

        live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        live.start()
        # A cursor that is not hidden cannot be left hidden: by Ctrl-Z, Ctrl-\\ or a kill.
        self._console.show_cursor()
        self._last = None
        self._is_open = True
        for name in ("stdout", "stderr"):
            file: TextIO | None = getattr(sys, name)
            # Standard output may be somebody's file: only what goes to the terminal is drawn around.
            if file is not None and not isinstance(file, _Above) and file.isatty():
                above = _Above(file, self._print)
                setattr(sys, name, above)
                self._replaced.append((name, file, above))
        return live

    def goes_on(self, past: Past) -> None:
        """Have the tree and the sums be those of the whole run."""
        from agentpool.cli._journals import take_in_past

        take_in_past(self._picture, past, trio.current_time())

    def take(self, event: ev.Event) -> None:
        """Take the event in; warnings stay on the screen above the tree."""
        line = told(self._picture, event)
        if line is None or isinstance(event, (ev.AgentStarted, ev.AgentFinished)):
            return
        few = self._lines.next(kind_of(event), line)
        if few is not None and not self._quiet.keeps(few):
            self.tell(few)

    def tell(self, line: str) -> None:
        """Put a line above the tree."""
        from rich.text import Text

        if self._gone:
            return
        # A text, not a string: in a string rich would look for markup and for names of emoji.
        file = cast("TextIO", self._console.file)
        self._above.append(Text(cut(encodable(one_line(line), file), LONGEST_LINE, file), style="yellow"))
        if self._quiet.is_asking:
            self._say_above_question()
        elif self._last is None:  # nobody knows when the first frame comes: a model may still be loading
            self._write_above()
        else:
            self._have_written()

    def _say_above_question(self) -> None:
        try:
            self._console.print()  # the question stands on a line that has not ended
            self._put_above()
            self._quiet.ask_again()
        except OSError:
            self._gone = True

    @contextmanager
    def asking(self, again: Callable[[], None]) -> Iterator[None]:
        """Take the tree off the terminal, and draw a new one below what was said there."""
        self.close()
        kept: list[str] = []
        try:
            with self._quiet.asking(again, kept):
                yield
        finally:
            try:
                self._live = self._started()
            except OSError:
                self._gone = True
            for line in kept:
                self.tell(line)

    def retrying(self, agent_id: AgentId, why: str, seconds: float) -> None:
        """Have the agent's line say so until the call is made again."""
        now = trio.current_time()
        self._picture.retrying(agent_id, why, now + seconds, now)

    async def keep_drawing(self, pool: AgentPool, drivers: Drivers) -> None:
        """Draw a frame, wait, and so on until cancelled, or until the terminal has gone."""
        begin_with(self._picture, pool)
        limiter = trio.CapacityLimiter(1)  # not the one of the agents' threads
        while not self._gone:
            taken = 0.0
            if not self._quiet.is_asking:
                began = time.thread_time()
                drawing = self._drawing(pool, drivers)
                taken = time.thread_time() - began
                taken += await trio.to_thread.run_sync(
                    self._draw, drawing, abandon_on_cancel=True, limiter=limiter
                )
            await trio.sleep(seconds_to_next_look(taken))
        await trio.sleep_forever()

    def close(self) -> None:
        """Take the tree off the terminal, and write what is to stand above it."""
        with self._terminal:
            if not self._is_open:
                return
            self._is_open = False
            for name, file, above in self._replaced:
                if getattr(sys, name) is above:
                    setattr(sys, name, file)
                above.end()
            self._replaced.clear()
            try:
                if not self._gone:
                    self._put_above()
                self._live.stop()
            except OSError:
                self._gone = True

    # -- frames ------------------------------------------------------------------------

    def _drawing(self, pool: AgentPool, drivers: Drivers) -> _Drawing:
        time_now, now = trio.current_time(), pool.statistics()
        sample(self._picture, now, time_now)
        figures = [*pool_parts(now, self._picture.rows), *provider_parts(drivers)]
        size = self._console.size
        return _Drawing(self._frames.frame(self._picture, figures, Size(size.height, size.width), time_now))

    def _draw(self, drawing: _Drawing) -> float:
        """Write a frame; return how many seconds of the processor that took. Runs in a thread."""
        began = time.thread_time()
        with self._terminal:
            if self._is_open and (self._above or drawing != self._last):
                try:
                    with self._console:  # so that it is written at once
                        self._put_above()
                        self._live.update(drawing, refresh=True)
                except OSError:
                    self._gone = True
                self._last = drawing
        return time.thread_time() - began

    # -- what stands above -------------------------------------------------------------

    def _print(self, lines: Sequence[str]) -> None:
        """Have lines that somebody has printed stand above the tree. Any thread may call it."""
        from rich.text import Text

        self._above.extend(map(Text.from_ansi, lines))
        self._have_written()

    def _have_written(self) -> None:
        """See to it that what is to stand above is written soon: with the next frame, if there are frames."""
        if len(self._above) > LINES_ABOVE:
            self._write_above()
        elif not self._is_coming:
            self._is_coming = True
            timer = threading.Timer(SECONDS_UNSEEN, self._write_above)
            timer.daemon = True
            timer.start()

    def _write_above(self) -> None:
        """Write what is to stand above the tree, unless a frame has done so. Runs in any thread."""
        self._is_coming = False
        with self._terminal:
            try:
                if not self._gone:
                    self._put_above()
            except OSError:
                self._gone = True

    def _put_above(self) -> None:
        from rich.text import Text

        lines: list[Text] = []
        while self._above:
            lines.append(self._above.popleft())
        if lines:
            self._console.print(Text("\n").join(lines))


@attrs.frozen
class _Drawing:
    """The lines of a frame, as rich draws them."""

    lines: Sequence[Sequence[Piece]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment
        from rich.style import Style

        for line in self.lines:
            for text, style in line:
                yield Segment(text, Style.parse(style) if style else None)
            yield Segment.line()


class _Above(io.TextIOBase):
    """Stands for a stream that goes to the terminal: its lines are put above the tree."""

    def __init__(self, file: TextIO, print: Callable[[Sequence[str]], None]) -> None:
        self._file = file
        self._print = print
        self._begun = ""
        self._lock = threading.RLock()  # a warning may be printed while something is

    # Whatever else is asked is told by the terminal's own stream.
    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._file.encoding

    @property
    def rich_proxied_file(self) -> TextIO:
        """The terminal: rich asks for it by this name, and writes to it."""
        return self._file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Take text in; whole lines are shown."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
        if lines:
            self._print(lines)
        return len(text)

    def end(self) -> None:
        """Show the line that has not ended."""
        with self._lock:
            line, self._begun = self._begun, ""
        if line:
            self._print([line])

    def flush(self) -> None:
        """Do nothing: lines are shown with the next frame."""

    def fileno(self) -> int:
        """Return the number of the terminal."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal; it is."""
        return self._file.isatty()
