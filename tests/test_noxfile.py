"""How the checks install what they need, on machines that are not ours."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nox")
pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent


def list_sessions(tmp_path: Path, uv: str) -> subprocess.CompletedProcess[str]:
    """Read the noxfile where `uv` is a script of these lines; it tells what it was given in `told`."""
    if sys.platform == "win32":
        pytest.skip("needs a shell")
    fake = tmp_path / "uv"
    fake.write_text(f"#!/bin/sh\nenv > '{tmp_path}/told'\n{uv}\n")
    fake.chmod(0o755)
    # Not the Python of an environment that may have a uv of its own beside it.
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("UV_", "VIRTUAL_ENV", "NOX"))
    }
    environment |= {
        "PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(site.getsitepackages()),
    }
    return subprocess.run(
        [python, "-m", "nox", "--list", "-f", ROOT / "noxfile.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=environment,
    )


def test_pip_is_used_where_uv_does_not_reach_the_index(tmp_path: Path) -> None:
    done = list_sessions(tmp_path, "echo 'invalid peer certificate: UnknownIssuer' >&2; exit 2")
    assert "nox: uv does not reach the package index, so pip is used" in done.stderr
    assert "(invalid peer certificate: UnknownIssuer)" in done.stderr


def test_uv_uses_the_certificates_of_the_system(tmp_path: Path) -> None:
    done = list_sessions(tmp_path, "exit 0")
    assert "pip is used" not in done.stderr
    told = (tmp_path / "told").read_text().splitlines()
    assert {"UV_SYSTEM_CERTS=true", "UV_NATIVE_TLS=true"} <= set(told)
