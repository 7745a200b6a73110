"""What a program gives a driver: checked at once, so that a mistake is told where it was made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agentpool._core.capability import PrivacyTier
from agentpool.drivers.prices import PriceTable

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check_whole(name: str, value: object) -> None:
    """Check a count of at least one.

    Raises:
      TypeError, ValueError: if it is none; the text has the argument's name.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value!r}")


def check_timeout(value: object) -> None:
    """Check a number of seconds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"timeout must be a number of seconds, not {value!r}")
    if not value > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {value!r}")


def check_kinds(privacy: object, prices: object, client: object) -> None:
    """Check that these are what they are called, or None."""
    if privacy is not None and not isinstance(privacy, PrivacyTier):
        raise TypeError(f"privacy must be a PrivacyTier, such as PrivacyTier.PRIVATE, not {privacy!r}")
    if prices is not None and not isinstance(prices, PriceTable):
        raise TypeError(f"prices must be a PriceTable, such as PriceTable.load(path), not {prices!r}")
    # Not by its class: a client may be one of another version, or around one.
    if client is not None and not all(hasattr(client, name) for name in ("build_request", "send", "aclose")):
        raise TypeError(f"client must be an httpx2.AsyncClient, not {client!r}")


def checked_table(name: str, value: object) -> dict[str, Any]:
    """Return a copy of a mapping with texts as its keys; of None an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name} must be a mapping from names to values, not a {type(value).__name__}")
    return dict(value)


def checked_headers(headers: object) -> dict[str, str]:
    """Return headers with their names in lower case; values are not shown, since they may be secrets."""
    checked: dict[str, str] = {}
    for name, value in checked_table("headers", headers).items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header: give letters, digits and hyphens")
        if not isinstance(value, str) or any(not " " <= character <= "~" for character in value):
            raise ValueError(f"the header {name!r} has a value that cannot be sent: give printable ASCII")
        checked[name.lower()] = value.strip()
    return checked
