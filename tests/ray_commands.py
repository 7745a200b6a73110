"""Runs a Python program inside of a test's cluster, and tells of it in one event, as `cluster_kit` wants it.

python ray_commands.py ADDRESS -m agentpool run fleet.toml
"""

from __future__ import annotations

import json
import subprocess
import sys

if __name__ == "__main__":
    done = subprocess.run([sys.executable, *sys.argv[2:]], capture_output=True, text=True)
    told = {"code": done.returncode, "output": done.stdout, "errors": done.stderr}
    print(json.dumps({"event": "ended", **told}), flush=True)
