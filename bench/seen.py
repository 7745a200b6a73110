"""What being watched costs a run: `python -m bench.seen [AGENTS]` prints a table.

The same fleet runs with `--quiet`, with its standard error piped, and with the live view on pseudo-terminals:
agents that all work at once, each with a few turns of a model that takes its time. What counts is the time of
the processor, and by how much the agents' own sleeps end too late. Figures are medians of several rounds.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from statistics import median

ROUNDS = 5
AGENTS = '''
import atexit, json, random, time
from pathlib import Path
import trio
from agentpool import Completion, TokenUsage, ToolCall

LATE = []
RANDOM = random.Random(1)


async def model(request):
    seconds = RANDOM.uniform(0.5, 1.5)
    due = time.perf_counter() + seconds
    await trio.sleep(seconds)
    LATE.append(time.perf_counter() - due)
    used = TokenUsage(1000, 100, cost_usd=0.001)
    if len(request.messages) > 8:
        return Completion("This is what I found, in a sentence of some length.", usage=used)
    return Completion("I look.", tool_calls=[ToolCall(str(len(request.messages)), "look")], usage=used)


async def look() -> str:
    """Look."""
    await trio.sleep(0.1)
    return "seen"


@atexit.register
def write():
    LATE.sort()
    figures = [LATE[len(LATE) // 2], LATE[len(LATE) * 99 // 100]]
    Path(__file__).with_name("late.json").write_text(json.dumps(figures))
'''
FLEET = """
[pool]
max_concurrent = {agents}
[[agents]]
name = "agent"
query = "?"
count = {agents}
[agents.manifest]
tools = ["agents:look"]
script.function = "agents:model"
"""


def cost(folder: Path, size: tuple[int, int] | None, *options: str) -> tuple[float, float, float, float]:
    """Return seconds of the processor and on the clock, and by how many ms sleeps were late: half, and 99 %.

    Args:
      folder: where the fleet is.
      size: lines and columns of the terminal that standard error is; None for a pipe.
      options: of `agentpool run`.
    """
    if size is None:
        ours, theirs = os.pipe()
    else:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    reader = threading.Thread(target=_read_all, args=[ours])
    reader.start()
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "agentpool", "run", str(folder / "fleet.toml"), *options],
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "PYTHONHASHSEED": "0"},
    )
    os.close(theirs)
    _, status, used = os.wait4(process.pid, 0)
    lasted = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    os.close(ours)
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    half, most = json.loads((folder / "late.json").read_text())
    return used.ru_utime + used.ru_stime, lasted, half * 1e3, most * 1e3


def _read_all(file: int) -> None:
    try:
        while os.read(file, 65_536):
            pass
    except OSError:  # how the end of a pseudo-terminal shows
        pass


def write_fleet(folder: Path, agents: int) -> None:
    """Write a fleet of so many agents."""
    (folder / "agents.py").write_text(AGENTS)
    (folder / "fleet.toml").write_text(FLEET.format(agents=agents))


def main() -> int:
    """Print the table."""
    agents = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    ways: dict[str, tuple[tuple[int, int] | None, tuple[str, ...]]] = {
        "--quiet": (None, ("--quiet",)),
        "piped": (None, ()),
        "terminal of 80x24": ((24, 80), ()),
        "terminal of 200x50": ((50, 200), ()),
    }
    figures: dict[str, list[tuple[float, float, float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_fleet(folder, agents)
        for _ in range(ROUNDS):
            for way, (size, options) in ways.items():
                figures[way].append(cost(folder, size, *options))
    print(f"{agents:,} agents, {ROUNDS} rounds: medians")
    print(f"{'':20} {'CPU s':>8} {'wall s':>8} {'late ms':>8} {'99 %':>8}")
    for way, rounds in figures.items():
        cpu, wall, half, most = (median(column) for column in zip(*rounds, strict=True))
        print(f"{way:20} {cpu:8.2f} {wall:8.2f} {half:8.2f} {most:8.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
