"""Processes that may be killed: how they are started."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from typing import Any


def process_context(target: Callable[..., Any]) -> Any:
    """Return what starts processes that call `target`: ready at once where there is a server that forks.

    Not by forking this process: a child would inherit the locks of its threads.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "agentpool.testing._crashes", _module_of(target)])
    return context


def _module_of(target: Any) -> str:
    while isinstance(target, partial):
        target = target.func
    return str(getattr(target, "__module__", __name__))
