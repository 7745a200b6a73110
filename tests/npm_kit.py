"""Counterparts that nobody here wrote, from npm.

Each is installed once, outside of the repository, into the directory that `AGENTPOOL_TEST_CACHE` names
(else the user's cache).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SECONDS = 240


def installed(name: str, *packages: str) -> Path:
    """Return the `node_modules` with these packages, which are installed if they are not there yet.

    Args:
      name: of the directory in the cache; with the version, so that another version gets another one.
      packages: as npm knows them, with their versions.
    """
    home = Path(os.environ.get("AGENTPOOL_TEST_CACHE") or Path.home() / ".cache" / "agentpool-tests")
    place = home / name
    if not place.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        fresh = tempfile.mkdtemp(dir=home)  # renamed when complete: another run may do the same now
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", fresh, *packages]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
        try:
            os.rename(fresh, place)
        except OSError:
            shutil.rmtree(fresh)
    return place / "node_modules"


@contextmanager
def needing(what: str, variable: str) -> Iterator[None]:
    """Skip the test if what is done in the block cannot be done here; with the variable set it fails."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        if os.environ.get(variable):
            raise
        pytest.skip(f"{what} cannot be run here (it needs node, npm and its registry): {error}")
