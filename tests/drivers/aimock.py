"""A counterpart that nobody here wrote: npm's @copilotkit/aimock, which speaks every provider's language.

It is installed once, outside of the repository, into the directory that `AGENTPOOL_TEST_CACHE` names
(else the user's cache). Where there is no npm, the tests that need it are skipped, unless
`AGENTPOOL_REQUIRE_AIMOCK` is set: then they fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

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


def installed() -> Path:
    """Return the directory of the package, which is installed if it is not there yet."""
    home = Path(os.environ.get("AGENTPOOL_TEST_CACHE") or Path.home() / ".cache" / "agentpool-tests")
    place = home / f"aimock-{VERSION}"
    package = place / "node_modules" / "@copilotkit" / "aimock"
    if not package.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        fresh = tempfile.mkdtemp(dir=home)  # renamed when complete: another run may do the same now
        command = [
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--prefix",
            fresh,
            f"@copilotkit/aimock@{VERSION}",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        try:
            os.rename(fresh, place)
        except OSError:
            shutil.rmtree(fresh)
    return package


@contextmanager
def running(fixtures: Path = FIXTURES) -> Iterator[Aimock]:
    """Run the server on a free port of loopback; skips the test where that is not possible."""
    try:
        script = installed() / "dist" / "cli.js"
        command = ["node", str(script), "--port", "0", "--fixtures", str(fixtures), "--journal-max", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        if os.environ.get("AGENTPOOL_REQUIRE_AIMOCK"):
            raise
        pytest.skip(
            f"@copilotkit/aimock cannot be run here (it needs node, npm and the npm registry): {error}"
        )
    try:
        yield Aimock(_address(server))
    finally:
        server.terminate()
        server.communicate(timeout=10)


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        found = re.search(r"listening on (http://\S+)", line)
        if found:
            return found[1]
    raise RuntimeError("aimock ended without having listened")
