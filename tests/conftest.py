"""What the tests do not take over from whoever starts them."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings


def pytest_configure() -> None:
    """Hear Ctrl-C even where it is ignored: under `nohup`, in a script's job in the background.

    Python installs no handler of its own then, and every process that a test starts would ignore it too.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes, and how long to find it, says how busy the machine is, and nothing of the code.
settings.register_profile(
    "agentpool", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("agentpool")
