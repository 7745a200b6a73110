from __future__ import annotations

import gc
from collections.abc import Iterator
from importlib.util import find_spec

import aimock as counterpart
import pytest
from models import DRIVERS, Make

# Without the extra `http` there is nothing of these to test; the pure parts of the dialects are tested.
collect_ignore = (
    []
    if find_spec("httpx2")
    else [
        "test_agents_on_chat.py",
        "test_agents_on_claude.py",
        "test_agents_on_gemini.py",
        "test_first_mistakes.py",
        "test_gemini_body.py",
        "test_http.py",
        "test_odd_streams.py",
        "test_ollama_body.py",
        "test_sending.py",
        "test_windows.py",
    ]
)


@pytest.fixture(scope="session")
def aimock() -> Iterator[counterpart.Aimock]:
    """The mock of all providers, one for the whole run."""
    with counterpart.running() as server:
        yield server


@pytest.fixture(params=list(DRIVERS))
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a driver for the server at an address; the test runs once for each driver."""
    return DRIVERS[request.param]


@pytest.fixture(autouse=True, scope="module")
def _collected() -> Iterator[None]:
    """What the tests of a file leave behind is found in that file."""
    yield
    gc.collect()
