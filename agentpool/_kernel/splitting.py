"""One way to tell apart what an exception says: cancelled, fatal, or an ordinary failure.

Groups may be nested thousands deep, and `BaseExceptionGroup.split` recurses: this walks them with a
stack of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import attrs
import trio

from agentpool._core.text import MOST, note, shown
from agentpool._kernel.protection import protect_module


@attrs.frozen
class Parts:
    """What an exception consists of.

    Attributes:
      cancelled: whether a `trio.Cancelled` is in it.
      fatal: the first exception that no pool may contain: every `BaseException` that is no
        `Exception`, and `MemoryError`. As it was raised, outside of any group.
      ordinary: what is left of it as a failure; the very same object if there was nothing else.
    """

    cancelled: bool
    fatal: BaseException | None
    ordinary: Exception | None


def is_fatal(error: BaseException) -> bool:
    """Whether a single exception is one that no pool may contain."""
    if isinstance(error, Exception):
        return isinstance(error, MemoryError)
    return not isinstance(error, trio.Cancelled)


def split_error(error: BaseException) -> Parts:
    """Split an exception into its parts.

    A fatal part carries notes that tell of what stood beside it in its group.
    """
    if not isinstance(error, BaseExceptionGroup):
        # The usual case, once for each agent that fails.
        if isinstance(error, trio.Cancelled):
            return Parts(True, None, None)
        if is_fatal(error):
            return Parts(False, error, None)
        assert isinstance(error, Exception)
        return Parts(False, None, error)
    leaves = list(leaves_of(error))
    cancelled = any(isinstance(leaf, trio.Cancelled) for leaf in leaves)
    fatal = [leaf for leaf in leaves if is_fatal(leaf)]
    ordinary = _without(error, {id(leaf) for leaf in leaves if not _is_ordinary(leaf)})
    if not fatal:
        return Parts(cancelled, None, ordinary)
    note_beside(fatal[0], [leaf for leaf in leaves if _is_ordinary(leaf)], "raised together with")
    note_beside(fatal[0], fatal[1:], "raised together with")
    return Parts(cancelled, fatal[0], ordinary)


def is_only_cancelled(error: BaseException) -> bool:
    """Whether a scope outside swallows the whole of it, also where a nursery has put it in a group."""
    parts = split_error(error)
    return parts.cancelled and parts.fatal is None and parts.ordinary is None


def note_beside(error: BaseException, others: Sequence[BaseException], what: str) -> None:
    """Leave a trace, on an exception that wins, of those that it hides."""
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        note(error, f"{what} {', '.join(in_full(other) for other in others[:5])}{more}")


LINKS = 5
"""So many exceptions of a chain are told."""


def in_full(error: BaseException) -> str:
    """Tell of an exception with what hangs on it: where it is only noted, this is all that is left of it.

    Those are its notes, which may stand for others, and the failures that it came from.
    """
    texts: list[str] = []
    one: BaseException | None = error
    while one is not None and len(texts) < LINKS:
        texts.append(" ".join([shown(one), *(f"({text})" for text in _notes_of(one))]))
        one = _came_from(one)
    return ", from ".join(texts)


def _notes_of(error: BaseException) -> list[str]:
    try:
        return [text[: 2 * MOST] for text in getattr(error, "__notes__", ()) if isinstance(text, str)]
    except BaseException:  # a stranger's class
        return []


def _came_from(error: BaseException) -> BaseException | None:
    cause, context, is_suppressed = (
        BaseException.__getattribute__(error, name)
        for name in ("__cause__", "__context__", "__suppress_context__")
    )
    before = context if cause is None and not is_suppressed else cause
    # What was going on when a cleanup failed is no failure: a cancellation, the end of a generator.
    return before if isinstance(before, Exception) else None


def raise_as_it_is(error: BaseException) -> NoReturn:
    """Raise an exception that was raised before, where another may be handled.

    Python makes that one its context, and would forget a failure that is its context already.
    """
    context = BaseException.__getattribute__(error, "__context__")
    try:
        raise error
    finally:
        if isinstance(context, Exception):
            BaseException.__setattr__(error, "__context__", context)  # past the class, which may be frozen
        del error, context  # their tracebacks hold this frame


def _is_ordinary(leaf: BaseException) -> bool:
    return isinstance(leaf, Exception) and not is_fatal(leaf)


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return the single exceptions of a group, in order; an exception that is no group itself."""
    leaves: list[BaseException] = []
    todo = [error]
    while todo:
        one = todo.pop()
        if isinstance(one, BaseExceptionGroup):
            todo.extend(reversed(_parts_of(one)))
        else:
            leaves.append(one)
    return leaves


def _parts_of(group: BaseExceptionGroup[BaseException]) -> tuple[BaseException, ...]:
    # Not `group.exceptions`, which a stranger's class may define anew.
    parts: tuple[BaseException, ...] = BaseExceptionGroup.exceptions.__get__(group)
    return parts


def _without(group: BaseExceptionGroup[BaseException], dropped: set[int]) -> Exception | None:
    """Return the group without some leaves, with every group inside that loses none as it is.

    What is left holds exceptions of `Exception` only, and is one itself.
    """
    kept: dict[int, Exception | None] = {}
    todo: list[tuple[BaseException, bool]] = [(group, False)]
    while todo:
        one, is_done = todo.pop()
        if not isinstance(one, BaseExceptionGroup):
            kept[id(one)] = one if isinstance(one, Exception) and id(one) not in dropped else None
        elif is_done:
            kept[id(one)] = _rebuilt(one, [kept[id(part)] for part in _parts_of(one)])
        else:
            todo.append((one, True))
            todo.extend((part, False) for part in _parts_of(one))
    return kept[id(group)]


def _rebuilt(group: BaseExceptionGroup[BaseException], parts: Sequence[Exception | None]) -> Exception | None:
    left = [part for part in parts if part is not None]
    if not left:
        return None
    if isinstance(group, Exception) and _are_same(parts, _parts_of(group)):
        return group
    made = _derived(group, left)
    _tell_the_same(made, group)
    return made


def _derived(group: BaseExceptionGroup[BaseException], left: Sequence[Exception]) -> Exception:
    """Make a group like this one of what is left.

    What `derive` of a stranger's class makes is taken only if it is a group of just that, and an
    `Exception`: one that derives from `BaseExceptionGroup` alone is none, whatever is in it.
    """
    try:
        made: object = group.derive(left)
        is_like = isinstance(made, BaseExceptionGroup) and _are_same(left, _parts_of(made))
        if is_like and isinstance(made, Exception):
            return made
    except BaseException:  # whatever it raised: it stands for nothing that went wrong
        pass
    return ExceptionGroup(BaseExceptionGroup.message.__get__(group), left)


def _are_same(parts: Sequence[BaseException | None], others: Sequence[BaseException]) -> bool:
    return len(parts) == len(others) and all(a is b for a, b in zip(parts, others, strict=True))


_STORY = ("__traceback__", "__cause__", "__context__", "__suppress_context__")
"""The last one last: to set a cause sets it too."""


def _tell_the_same(made: BaseException, group: BaseException) -> None:
    """Give a group the traceback, the cause and the notes of the one that it stands for."""
    try:
        for name in _STORY:
            # Past the class, which may be frozen.
            BaseException.__setattr__(made, name, BaseException.__getattribute__(group, name))
        for text in getattr(group, "__notes__", ()):
            note(made, text)
    except BaseException:  # a stranger's class: the exceptions inside are what counts
        pass


protect_module(globals())
