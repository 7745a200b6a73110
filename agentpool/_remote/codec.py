"""Records as bytes, and what users made inside of them.

A record is pickled as a tuple of its fields. Values of users are pickled by themselves before that, so that
one that cannot be loaded spoils neither the record nor those after it.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, get_args

import attrs

from agentpool._core import placing
from agentpool._core.errors import RemoteError
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.text import note, shown, told

Dumps: TypeAlias = Callable[[Any], bytes]
R = TypeVar("R")

MOST_TEXT = 20_000
"""So many characters of a traceback travel, those at its end."""

_CLASSES: tuple[type[Any], ...] = (*get_args(placing.Down), *get_args(placing.Up))
_NUMBERS = {each: number for number, each in enumerate(_CLASSES)}
_FIELDS = {each: tuple(field.name for field in attrs.fields(each)) for each in _CLASSES}


def record_to_bytes(record: placing.Down | placing.Up) -> bytes:
    """Return a record as bytes; all in it is plain data."""
    kind = type(record)
    values = tuple([getattr(record, name) for name in _FIELDS[kind]])
    return pickle.dumps((_NUMBERS[kind], values), pickle.HIGHEST_PROTOCOL)


def record_from_bytes(data: bytes) -> Any:
    """Return the record of which `record_to_bytes` made this."""
    number, values = pickle.loads(data)
    return _CLASSES[number](*values)


# -- values ------------------------------------------------------------------------------------


def sent(dumps: Dumps, value: Any, what: str) -> bytes:
    """Return a value as bytes for another process.

    Raises:
      TypeError: if it cannot be pickled; names what it is.
    """
    try:
        return dumps(value)
    except Exception as error:
        raise TypeError(f"{what} cannot be sent to another process: {told(error)}") from error


def received(data: bytes, what: str) -> Any:
    """Return a value that another process has sent.

    Raises:
      RemoteError: if it cannot be loaded here.
    """
    try:
        return pickle.loads(data)
    except Exception as error:
        text = f"{what} cannot be loaded in this process: {told(error)}"
        raise RemoteError(type(error).__name__, text, _text_of(error)) from error


# -- errors ------------------------------------------------------------------------------------


@attrs.frozen
class SentError:
    """An exception on its way to another process.

    Attributes:
      error: pickled; None if it cannot be.
      type_name, text, traceback: what is known of it anywhere.
    """

    error: bytes | None
    type_name: str
    text: str
    traceback: str


def sent_error(dumps: Dumps, error: BaseException) -> SentError:
    """Return an exception for another process; never raises."""
    try:
        data: bytes | None = dumps(error)
    except Exception:
        data = None
    return SentError(data, type(error).__qualname__, told(error), _text_of(error))


def received_error(given: SentError, where: str) -> BaseException:
    """Return the exception that another process has sent, or a `RemoteError` that tells of it.

    Args:
      where: in which process it was raised.
    """
    error: Any = None
    if given.error is not None:
        try:
            error = pickle.loads(given.error)
        except Exception:
            error = None
    if not isinstance(error, BaseException):
        return RemoteError(given.type_name, given.text, given.traceback)
    note(error, f"raised in {where}:\n{given.traceback.rstrip()}")
    return error


def _text_of(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:
        text = shown(error)
    return text if len(text) <= MOST_TEXT else f"[...]{text[-MOST_TEXT:]}"


# -- outcomes ----------------------------------------------------------------------------------


def outcome_to_bytes(dumps: Dumps, outcome: AnyOutcome) -> bytes:
    """Return an outcome for another process; a value or an error that cannot be sent is a `RemoteError`."""
    facts = (
        outcome.agent_id,
        outcome.name,
        outcome.parent_id,
        outcome.usage,
        outcome.started_at,
        outcome.duration,
        outcome.restarts,
    )
    part: Any
    match outcome:
        case Completed():
            try:
                part = sent(dumps, outcome.value, f"what agent {outcome.agent_id} ({outcome.name}) returned")
            except TypeError as error:
                part = sent_error(dumps, RemoteError(type(outcome.value).__qualname__, str(error)))
        case Failed():
            part = sent_error(dumps, outcome.error)
        case Aborted():
            part = outcome.reason
    return pickle.dumps((facts, part), pickle.HIGHEST_PROTOCOL)


def outcome_from_bytes(data: bytes, where: str) -> AnyOutcome:
    """Return the outcome of which `outcome_to_bytes` made this."""
    facts, part = pickle.loads(data)
    names = ("agent_id", "name", "parent_id", "usage", "started_at", "duration", "restarts")
    known: dict[str, Any] = dict(zip(names, facts, strict=True))
    if isinstance(part, SentError):
        return Failed(**known, error=received_error(part, where))
    if isinstance(part, bytes):
        try:
            return Completed(**known, value=received(part, f"what agent {facts[0]} ({facts[1]}) returned"))
        except RemoteError as error:
            return Failed(**known, error=error)
    return Aborted(**known, reason=part)


# -- results -----------------------------------------------------------------------------------


@attrs.frozen
class WasCancelled:
    """The body of an agent was cancelled, and let itself be."""


RemoteResult: TypeAlias = "bytes | SentError | WasCancelled"
"""How the body of an agent ended: what it returned, pickled; what it raised; or neither."""
