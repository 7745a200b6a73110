"""Run llama.cpp's HTTP server: `llama_server.py MODEL PORT KEY [TEMPLATE]`.

It prints its address, and ends when its standard input does.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import xllamacpp

SLOTS = 4
WINDOW = 512


def main(model: str, port: str, key: str, template: str = "") -> None:
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = SLOTS * WINDOW
    params.n_parallel = SLOTS
    params.n_batch = params.n_ubatch = 64
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) - 1)
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.api_keys = [key]
    params.warmup = False
    params.verbosity = -1
    if template:
        params.chat_template = template
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


main(*sys.argv[1:])
