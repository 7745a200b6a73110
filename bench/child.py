"""Runs one contender once, in a process of its own, and prints its figures as JSON.

    python -m bench.child MODULE:FUNCTION SIZE WARM_UP_SIZE

Standard library only, so that what is imported beside the contender does not colour its figures.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable


def load(target: str) -> Callable[[int], dict[str, float]]:
    """Return the function that `module:function` names within this package."""
    module, _, function = target.partition(":")
    contender: Callable[[int], dict[str, float]] = getattr(
        importlib.import_module(f"bench.{module}"), function
    )
    return contender


def main() -> None:
    target, size, warm_up = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    contender = load(target)
    if warm_up:
        contender(warm_up)
    print(json.dumps(contender(size)))


if __name__ == "__main__":
    main()
