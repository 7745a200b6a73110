"""Text about values of strangers: it may not raise, and has a length that can be read."""

from __future__ import annotations

MOST = 300
"""So many characters of a value are shown."""


def shown(value: object) -> str:
    """Return `repr(value)`, cut, or what stands for it where that raises.

    Nothing that the library says may depend on a stranger's `repr`: in the middle of its
    bookkeeping an exception out of it once hung a pool for good.
    """
    try:
        text = repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= MOST else f"{text[:MOST]}..."


def note(error: BaseException, text: str) -> None:
    """Add a note to an exception, if it takes one: those of frozen classes do not."""
    try:
        error.add_note(text)
    except Exception:
        pass


def told(error: BaseException) -> str:
    """Return `str(error)`, or what stands for it where that raises."""
    try:
        return str(error)
    except Exception as raised:
        return f"<{type(error).__name__} whose text raises {type(raised).__name__}>"
