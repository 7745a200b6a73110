"""What the first, the second and the third signal do to a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import attrs
import trio

# The terminal that is closed sends SIGHUP; Windows has no such signal.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@attrs.define(eq=False)
class SignalCounter:
    """Counts Ctrl-C, SIGTERM and SIGHUP: the first drains, the second aborts, the third ends the process.

    The third is for agents that block the event loop, where nothing gentler could be heard.
    """

    first: int | None = None
    """The number of the first signal that came; it decides the exit code."""
    count: int = 0

    @property
    def exit_code(self) -> int | None:
        """128 and the number of the first signal; None if there was none."""
        return None if self.first is None else 128 + self.first

    @contextmanager
    def handling(self, drain: Callable[[], object], abort: Callable[[], object]) -> Iterator[None]:
        """Within the block, have the signals call `drain` and `abort` in the event loop.

        A signal that was ignored when the process started stays ignored.
        """
        token = trio.lowlevel.current_trio_token()

        def on_signal(number: int, frame: FrameType | None) -> None:
            self.count += 1
            if self.first is None:
                self.first = number
                token.run_sync_soon(drain)
            elif self.count == 2:
                token.run_sync_soon(abort)
            else:  # pragma: no cover - the process ends without a word to coverage
                os._exit(128 + self.first)

        # Whoever started us with a signal ignored (`nohup`, a script's job in the background) means it.
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, on_signal) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
