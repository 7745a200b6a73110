"""A client that nobody here wrote: npm's @modelcontextprotocol/inspector, by its command line.

Where there is no npm, the tests that need it are skipped, unless
`AGENTPOOL_REQUIRE_MCP_SERVERS` is set: then they fail.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import attrs
from npm_kit import installed, needing

VERSION = "2.12.0"
SECONDS = 60


@attrs.frozen
class Inspector:
    """The inspector's command line."""

    script: Path
    home: Path

    @classmethod
    def found(cls, home: Path) -> Inspector:
        """Return it, with a home directory of its own; skips the test where it cannot be had."""
        with needing("the MCP inspector", "AGENTPOOL_REQUIRE_MCP_SERVERS"):
            modules = installed(f"inspector-{VERSION}", f"@modelcontextprotocol/inspector@{VERSION}")
            subprocess.run(["node", "--version"], check=True, capture_output=True, timeout=SECONDS)
        script = (
            modules / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"
        )
        return cls(script, home)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it once."""
        return subprocess.run(
            ["node", str(self.script), "--cli", "--connect-timeout", str(1000 * SECONDS), *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**os.environ, "HOME": str(self.home)},
        )
