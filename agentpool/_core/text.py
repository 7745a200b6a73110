"""Text of strangers: what is told about their values, and what can be encoded of their words.

What is told about a value may not raise, and has a length that can be read. `shown`, `note` and `told`
catch everything, also what is no `Exception`: a pool calls them in the middle of its bookkeeping,
where they are kept from Ctrl-C (see `_kernel/protection.py`).
"""

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
    except BaseException as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= MOST else f"{text[:MOST]}..."


def note(error: BaseException, text: str) -> None:
    """Add a note to an exception, also to one whose class is frozen or takes none by itself."""
    try:
        error.add_note(text)
    except BaseException:
        _note_all_the_same(error, text)


def _note_all_the_same(error: BaseException, text: str) -> None:
    # Python sets a traceback so as well, past the class: a note often is all that is left of others.
    try:
        notes = BaseException.__getattribute__(error, "__dict__").get("__notes__")
        kept = notes if isinstance(notes, list | tuple) else ()
        BaseException.__setattr__(error, "__notes__", [*kept, text])
    except BaseException:
        pass


def told(error: BaseException) -> str:
    """Return `str(error)`, or what stands for it where that raises."""
    try:
        return str(error)
    except BaseException as raised:
        return f"<{type(error).__name__} whose text raises {type(raised).__name__}>"


def encodable(text: str) -> str:
    """Return text that can be encoded as UTF-8: two halves of a pair are joined, a lone one is U+FFFD.

    Halves come out of JSON (`"\\ud83d"`) that was cut, and out of names of files that are no UTF-8.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
