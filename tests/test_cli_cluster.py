"""`agentpool cluster`: a page of text that tells how a cluster is started."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytest.importorskip("cyclopts")
pytest.importorskip("rich")

from agentpool import FleetFile
from agentpool.cli import _app
from agentpool.cli._cluster import PAGE, lines_of_page


def test_a_pipe_gets_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert _app.call(["cluster"]) == 0
    assert capsys.readouterr() == (PAGE, "")


def test_a_terminal_gets_headings_that_stand_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert _app.call(["cluster"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b[1mTOKENS\x1b[0m" in printed
    assert re.sub(r"\x1b\[[0-9;]*m", "", printed) == PAGE


def test_the_page_fits_a_terminal_of_80_columns_and_has_headings() -> None:
    assert max(map(len, PAGE.splitlines())) < 80
    assert [line for line, is_heading in lines_of_page() if is_heading] == [
        "AGENTS ON A RAY CLUSTER",
        "BEFORE THE FIRST NODE",
        "START AND END",
        "WHO MAY DO WHAT",
        "ADDRESSES AND PORTS",
        "TOKENS",
        "TLS",
        "MORE",
    ]


def test_the_command_takes_nothing_and_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert _app.call(["cluster", "start"]) == 2
    assert "start" in capsys.readouterr().err
    assert _app.call(["--help"]) == 0
    assert re.search(r"\bcluster\b", capsys.readouterr().out)


def test_the_fleet_on_the_page_is_one() -> None:
    table = re.search(r"    \[pool\]\n(    .*\n)+", PAGE)
    assert table is not None
    text = table[0] + '[[agents]]\nname = "a"\nquery = "q"\nmanifest = {}\n'
    fleet = FleetFile.from_toml(text)
    assert fleet.placement is not None
    assert fleet.placement.address == "10.0.0.1:6379"


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_ray_has_the_options_and_commands_of_the_page() -> None:
    """Asked of the one that is installed: another may have others."""

    def help_of(command: str) -> str:
        program = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", program, command, "--help"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    start, token = help_of("start"), help_of("get-auth-token")
    for option in set(re.findall(r"--[a-z][a-z-]+", PAGE)):
        assert option in (token if option == "--generate" else start), option
    assert "~/.ray/auth_token" in token
