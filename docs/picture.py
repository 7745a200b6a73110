"""Draws `_static/run.svg`: a terminal while `agentpool run` is at work. `python docs/picture.py`

The command runs in a terminal of its own, and what stands on the screen after some seconds is the picture.
Nothing is painted by hand. The agents follow a script, whose answers take as long as those of a model.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text
from scene import write_scene

PICTURE = Path(__file__).parent / "_static" / "run.svg"
COLUMNS, LINES = 100, 26
SECONDS = 4.6


def run_on_screen(command: list[str], directory: str) -> str:
    """Return what the command has written to its terminal after some seconds."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, cwd=directory, env=environment
    )
    os.close(slave)
    written = b""
    first = None
    while first is None or time.monotonic() < first + SECONDS:
        if select.select([master], [], [], 0.05)[0]:
            try:
                written += os.read(master, 65536)
            except OSError:
                break  # the command has ended
            first = first or time.monotonic()
    process.kill()
    process.wait()
    os.close(master)
    return written.decode()


def screen_of(written: str) -> list[str]:
    """Return the lines that stand on the screen: the little of a terminal that a live table needs."""
    lines, row = [""], 0
    for part in re.split(r"(\r|\n|\x1b\[\??[0-9;]*[A-Za-ln-z])", written):
        if part == "\r":
            continue  # the line is written anew, or erased first
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.startswith("\x1b[") and part.endswith("A"):
            row = max(0, row - int(part[2:-1] or 1))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b[?"):
            lines[row] += part
    return lines


def main() -> None:
    """Run the fleet, and draw the screen."""
    with tempfile.TemporaryDirectory() as directory:
        write_scene(Path(directory))
        written = run_on_screen([sys.executable, "-m", "agentpool", "run", "fleet.toml"], directory)
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text.from_markup("[green]$[/] agentpool run fleet.toml"))
    for line in screen_of(written):
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title="agentpool", unique_id="run")
    # The fonts that it names are fetched from elsewhere: whoever looks at the picture is not to do that.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
