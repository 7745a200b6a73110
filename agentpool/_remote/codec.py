"""Records as bytes, and what users made inside of them.

A record is pickled as a tuple of its fields. Values of users are pickled by themselves before that, so that
one that cannot be loaded spoils neither the record nor those after it.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeGuard, TypeVar, get_args

import attrs

from agentpool._core import placing
from agentpool._core.errors import RemoteError
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.text import note, shown, told

Dumps: TypeAlias = Callable[[Any], bytes]
R = TypeVar("R")

MOST_TEXT = 20_000
"""So many characters of a traceback travel, those at its end."""

MOST_ERRORS = 100
"""So many errors travel with one: those in its group, and its causes."""

# A module that is imported to load a value may be a script that ends with `sys.exit(main())`. A real
# KeyboardInterrupt is no matter of the value.
_RAISED_BY_VALUES = (Exception, SystemExit)

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
    except _RAISED_BY_VALUES as error:
        raise TypeError(f"{what} cannot be sent to another process: {told(error)}") from error


def received(data: bytes, what: str) -> Any:
    """Return a value that another process has sent.

    Raises:
      RemoteError: if it cannot be loaded here.
    """
    try:
        return pickle.loads(data)
    except _RAISED_BY_VALUES as error:
        text = f"{what} cannot be loaded in this process: {told(error)}"
        raise RemoteError(type(error).__name__, text, _text_of(error)) from error


# -- errors ------------------------------------------------------------------------------------


@attrs.frozen
class SentError:
    """An exception on its way to another process.

    Attributes:
      error: pickled; None if it cannot be, and for a group that is sent as its parts.
      type_name, text, traceback: what is known of it anywhere.
      parts: what an `ExceptionGroup` holds; `text` is its message then, and `notes` are its notes.
      cause: its `__cause__`, which pickle leaves behind.
    """

    error: bytes | None
    type_name: str
    text: str
    traceback: str
    parts: tuple[SentError, ...] = ()
    notes: tuple[str, ...] = ()
    cause: SentError | None = None


def sent_error(dumps: Dumps, error: BaseException) -> SentError:
    """Return an exception for another process; never raises."""
    return _sent_error(dumps, error, iter(range(MOST_ERRORS)))


def _sent_error(dumps: Dumps, error: BaseException, left: Iterator[int]) -> SentError:
    name, trace = type(error).__qualname__, _text_of(error)
    if next(left, None) is None:
        return SentError(_pickled(dumps, error), name, told(error), trace)
    given = error.__cause__
    cause = None if given is None else _sent_error(dumps, given, left)
    if not _is_plain_group(error):
        return SentError(_pickled(dumps, error), name, told(error), trace, cause=cause)
    # One part that cannot be loaded would take the others with it, which `except*` looks for.
    parts = tuple([_sent_error(dumps, part, left) for part in error.exceptions])
    notes = tuple([each for each in getattr(error, "__notes__", ()) if isinstance(each, str)])
    return SentError(None, name, error.message, trace, parts, notes, cause)


def _is_plain_group(error: BaseException) -> TypeGuard[BaseExceptionGroup[BaseException]]:
    return type(error) in (ExceptionGroup, BaseExceptionGroup)


def _pickled(dumps: Dumps, error: BaseException) -> bytes | None:
    try:
        return dumps(error)
    except _RAISED_BY_VALUES:
        return None


def received_error(given: SentError, where: str) -> BaseException:
    """Return the exception that another process has sent, or a `RemoteError` that tells of it.

    Of a group each part that can be loaded is itself.

    Args:
      where: in which process it was raised.
    """
    error = _loaded(given, where)
    if error is None:
        error = RemoteError(given.type_name, given.text, given.traceback)
    else:
        note(error, f"raised in {where}:\n{given.traceback.rstrip()}")
    if given.cause is not None:
        # Past a class that is frozen.
        BaseException.__setattr__(error, "__cause__", received_error(given.cause, where))
    return error


def _loaded(given: SentError, where: str) -> BaseException | None:
    if given.parts:
        group = BaseExceptionGroup(given.text, [received_error(part, where) for part in given.parts])
        for each in given.notes:
            group.add_note(each)
        return group
    if given.error is None:
        return None
    try:
        error = pickle.loads(given.error)
    except _RAISED_BY_VALUES:
        return None
    return error if isinstance(error, BaseException) else None


def _text_of(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:
        text = shown(error)
    return text if len(text) <= MOST_TEXT else f"[...]{text[-MOST_TEXT:]}"


# -- events ------------------------------------------------------------------------------------

SentEvent: TypeAlias = tuple[AgentId, int, type, tuple[Any, ...]]
"""Whose it is, its `seq` at the worker, its class, and its own fields, of which an error is a `SentError`."""

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
