"""A client that nobody here wrote: npm's @modelcontextprotocol/inspector, by its command line.

It is installed once, outside of the repository, into the directory that `AGENTPOOL_TEST_CACHE` names
(else the user's cache). Where there is no npm, the tests that need it are skipped, unless
`AGENTPOOL_REQUIRE_MCP_SERVERS` is set: then they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import attrs
import pytest

VERSION = "2.12.0"
SECONDS = 60


def installed() -> Path:
    """Return the directory of the package, which is installed if it is not there yet."""
    home = Path(os.environ.get("AGENTPOOL_TEST_CACHE") or Path.home() / ".cache" / "agentpool-tests")
    place = home / f"inspector-{VERSION}"
    package = place / "node_modules" / "@modelcontextprotocol" / "inspector"
    if not package.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        fresh = tempfile.mkdtemp(dir=home)  # renamed when complete: another run may do the same now
        wanted = f"@modelcontextprotocol/inspector@{VERSION}"
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", fresh, wanted]
        subprocess.run(command, check=True, capture_output=True, timeout=240)
        try:
            os.rename(fresh, place)
        except OSError:
            shutil.rmtree(fresh)
    return package


@attrs.frozen
class Inspector:
    """The inspector's command line."""

    script: Path
    home: Path

    @classmethod
    def found(cls, home: Path) -> Inspector:
        """Return it, with a home directory of its own; skips the test where it cannot be had."""
        try:
            script = installed() / "clients" / "launcher" / "build" / "index.js"
            subprocess.run(["node", "--version"], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            if os.environ.get("AGENTPOOL_REQUIRE_MCP_SERVERS"):
                raise
            pytest.skip(
                f"the MCP inspector cannot be run here (it needs node, npm and its registry): {error}"
            )
        return cls(script, home)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it once."""
        return subprocess.run(
            ["node", str(self.script), "--cli", *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**os.environ, "HOME": str(self.home)},
        )
