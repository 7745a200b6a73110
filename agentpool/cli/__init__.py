"""The command line. Nothing here is imported by the library."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    try:
        from agentpool.cli import _app

        code = _app.call(sys.argv[1:])  # rich is imported by then where it is first needed
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("cyclopts", "rich"):
            raise
        fix = "pip install 'trio-agentpool[cli]' (in a clone: pip install '.[cli]')"
        print(f"agentpool: {error.name} is missing; run: {fix}", file=sys.stderr)
        sys.exit(2)
    sys.exit(code)
