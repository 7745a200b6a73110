"""Keys: checked, carried without being shown, and taken out of what servers say."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus
from weakref import WeakSet

import attrs

_SHORTEST = 6  # what is shorter is no key, and would take ordinary words out of texts
_REDACTED = "[redacted]"


class Secret:
    """A key that shows itself to nobody who only looks at it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return bool(self._value)

    def reveal(self) -> str:
        """Return the key itself, to be handed straight to whoever sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('...')"


def checked_key(key: str, where: str) -> Secret:
    """Return a key without the white space around it.

    Raises:
      ValueError: if it holds characters that no HTTP header can carry.
    """
    key = key.strip()
    for position, character in enumerate(key):
        if not "!" <= character <= "~":
            raise ValueError(
                f"{where} holds a character at position {position} that cannot be sent in a header:"
                " copy the key once more, without line breaks or quotes"
            )
    return Secret(key)


@attrs.frozen
class Redaction:
    """Takes the secrets of one driver out of texts. It shows none of them itself."""

    _secrets: tuple[Secret, ...] = attrs.field(repr=False)

    @classmethod
    def of(cls, key: Secret, query: str, headers: Iterable[str]) -> Redaction:
        """Collect what is secret: the key, and the values of a query and of the user's own headers.

        Args:
          key: the key.
          query: the query of the server's address.
          headers: the values of headers that look like credentials.
        """
        texts = {key.reveal(), *headers}
        for _, value in parse_qsl(query):
            if len(value) >= _SHORTEST_OF_QUERY:
                texts |= {value, quote(value), quote(value, safe=""), quote_plus(value)}
        known = sorted((text for text in texts if len(text) >= _SHORTEST), key=len, reverse=True)
        return cls(tuple(map(Secret, known)))

    def text(self, text: str) -> str:
        """Return a text without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret.reveal(), _REDACTED)
        return text

    def scrub(self, error: BaseException) -> BaseException:
        """Make an exception of the HTTP library safe to keep: no traceback, no request, no key.

        The frames of its traceback hold the headers that were sent, and an error that an outcome
        keeps would keep connections alive through them.
        """
        error.args = tuple(self.text(arg) if isinstance(arg, str) else None for arg in error.args)
        for name in list(getattr(error, "__dict__", ())):
            _forget(error, name)
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return error


_hidden: WeakSet[Redaction] = WeakSet()


def hide_from_log(redaction: Redaction) -> None:
    """Keep the secrets of a driver out of what httpx2 logs: it logs each address, with the query.

    They are kept out for as long as the driver exists, and also where its client is the user's own.
    """
    logging.getLogger("httpx2").addFilter(_without_secrets)  # once, however often it is added
    _hidden.add(redaction)


def _without_secrets(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_shown, record.args))
    return True


def _shown(arg: object) -> object:
    if isinstance(arg, int | float):
        return arg
    text = said = str(arg)
    for redaction in list(_hidden):
        text = redaction.text(text)
    return arg if text == said else text


_SHORTEST_OF_QUERY = 16
"""Shorter values of a query are versions and names, which errors should show."""


def _forget(error: Any, name: str) -> None:
    try:
        setattr(error, name, None)
    except (AttributeError, TypeError):
        pass  # read-only
