"""A counterpart that nobody here wrote: npm's @copilotkit/aimock, which speaks every provider's language.

Where there is no npm, the tests that need it are skipped, unless
`AGENTPOOL_REQUIRE_AIMOCK` is set: then they fail.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from npm_kit import installed, needing

VERSION = "1.43.0"
FIXTURES = Path(__file__).with_name("aimock.json")


@attrs.frozen
class Aimock:
    """A running mock server."""

    url: str

    def journal(self) -> list[dict[str, Any]]:
        """Return the requests that it got so far."""
        with urllib.request.urlopen(f"{self.url}/__aimock/journal") as answer:
            entries: list[dict[str, Any]] = json.load(answer)
        return entries

    def last_body(self) -> dict[str, Any]:
        """Return what was asked last."""
        body: dict[str, Any] = self.journal()[-1]["body"]
        return body


@contextmanager
def running(fixtures: Path = FIXTURES) -> Iterator[Aimock]:
    """Run the server on a free port of loopback; skips the test where that is not possible."""
    with needing("@copilotkit/aimock", "AGENTPOOL_REQUIRE_AIMOCK"):
        modules = installed(f"aimock-{VERSION}", f"@copilotkit/aimock@{VERSION}")
        script = modules / "@copilotkit" / "aimock" / "dist" / "cli.js"
        command = ["node", str(script), "--port", "0", "--fixtures", str(fixtures), "--journal-max", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield Aimock(_address(server))
    finally:
        server.terminate()
        server.communicate(timeout=60)


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        found = re.search(r"listening on (http://\S+)", line)
        if found:
            return found[1]
    raise RuntimeError("aimock ended without having listened")
