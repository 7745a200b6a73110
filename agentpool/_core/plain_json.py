"""JSON that every browser reads, of whatever data there is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from agentpool._core.text import shown

_DEEPEST = 100
_MOST_BITS = 10_000


def plain_json(data: Any) -> str:
    """Return data as JSON in ASCII, on one line.

    Python reads and writes `NaN` and `Infinity`, which are no JSON: they become null. What is no data is
    shown as a text, and so is what is nested deeper than 100 levels.
    """
    try:
        return json.dumps(data, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(_plain(data, _DEEPEST), separators=(",", ":"), allow_nan=False)


def _plain(value: Any, levels: int) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        # Python writes no number of more than 4,300 digits.
        return value if value.bit_length() <= _MOST_BITS else shown(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if levels and isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else shown(key): _plain(each, levels - 1)
            for key, each in value.items()
        }
    if levels and isinstance(value, list | tuple):
        return [_plain(each, levels - 1) for each in value]
    return shown(value)
