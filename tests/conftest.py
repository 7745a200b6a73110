"""What the tests do not take over from whoever starts them."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Hear signals even where they are ignored: under `nohup`, in a script's job in the background.

    Python installs no handler of its own then, and every process that a test starts would ignore it too.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What has a handler is not ignored by the processes that are started; the tests themselves go on.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
