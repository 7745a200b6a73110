"""From JSON data to the bytes of a request, whatever strangers put into it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from agentpool._core.text import encodable


def encoded(data: Any) -> bytes:
    """Return JSON data as UTF-8.

    Half of a surrogate pair becomes U+FFFD, NaN and infinity become null, keys that are no text
    become one, and what JSON does not know becomes its `str`: a conversation that holds such a thing
    can be sent nevertheless. The common case is tried first, and costs nothing more.
    """
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError):
        mended = _mended(data, 0)
        return json.dumps(mended, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


_DEEPEST = 200


def _mended(data: Any, depth: int) -> Any:
    if isinstance(data, str):
        return encodable(data)
    if isinstance(data, bool) or data is None or isinstance(data, int):
        return data
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if depth >= _DEEPEST:
        return "..."
    if isinstance(data, Mapping):
        return {encodable(str(key)): _mended(value, depth + 1) for key, value in data.items()}
    if isinstance(data, list | tuple | set | frozenset):
        return [_mended(item, depth + 1) for item in data]
    return encodable(str(data))
