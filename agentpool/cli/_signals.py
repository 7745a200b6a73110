"""What the first, the second and the third signal do to a run, and what signals do to a chat."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import attrs
import trio

_LOOK_EVERY = 0.25  # seconds

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
    is_first_of_page: bool = False
    """Whether the first was none, but the button on the live page."""
    _drain: Callable[[], object] | None = None

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
        self._drain = drain

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

    def press(self) -> None:
        """Do what the first Ctrl-C does; nothing if that, or another signal, came before."""
        if self.first is None and self._drain is not None:
            self.first, self.count, self.is_first_of_page = signal.SIGINT, 1, True
            self._drain()


@attrs.define(eq=False)
class ChatSignals:
    """What Ctrl-C, SIGTERM and SIGHUP do to a chat.

    At the prompt Ctrl-C raises `KeyboardInterrupt` out of the reading, and the others end the chat. While
    an answer is under way, Ctrl-C aborts it; the others let it come to its end and abort it if they come
    again. The third signal during one answer ends the process: nothing gentler was heard.
    """

    ended_by: int | None = None
    """The signal that ends the chat; None as long as there was none."""
    is_interrupted: bool = False
    """Whether Ctrl-C came during the latest answer."""
    _at_prompt: bool = False
    _abort: Callable[[int], object] | None = None
    _count: int = 0

    @property
    def exit_code(self) -> int | None:
        """128 and the number of the signal that ended the chat; None if none did."""
        return None if self.ended_by is None else 128 + self.ended_by

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Within the block, have the signals do this. One that was ignored stays ignored."""
        token = trio.lowlevel.current_trio_token()

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._at_prompt:
                self._interrupt(number)
            self._count += 1
            if self._count > 2:  # pragma: no cover - the process ends without a word to coverage
                os._exit(128 + number)
            if number == signal.SIGINT:
                self.is_interrupted = True
            elif self.ended_by is None:
                self.ended_by = number
                if self._count == 1:
                    return
            if self._abort is not None:
                token.run_sync_soon(self._abort, self._count)

        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, on_signal) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int) -> NoReturn:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        self.ended_by = number
        raise EOFError

    @contextmanager
    def prompting(self) -> Iterator[None]:
        """Within the block, which reads what a person types, signals raise.

        Raises:
          EOFError: if a signal has ended the chat before.
        """
        self._at_prompt = True
        try:
            if self.ended_by is not None:
                raise EOFError
            with _heard_while_reading():
                yield
        finally:
            self._at_prompt = False

    @contextmanager
    def answering(self, abort: Callable[[int], object]) -> Iterator[None]:
        """Within the block, in which an answer is under way, signals abort it.

        Args:
          abort: is told how many signals there were.
        """
        self._count, self._abort, self.is_interrupted = 0, abort, False
        try:
            yield
        finally:
            self._abort = None


@contextmanager
def _heard_while_reading() -> Iterator[None]:
    """Have Python look for signals from time to time while a line is read.

    It does so when a signal ends the waiting for a key. One that comes in the moment before the waiting
    begins, or that another thread is given, would be heard after the next key.
    """
    if not hasattr(signal, "setitimer"):  # pragma: no cover - Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_EVERY, _LOOK_EVERY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
