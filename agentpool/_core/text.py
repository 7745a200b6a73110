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


_OF_NURSERIES = ("Exceptions from Trio nursery", "unhandled errors in a TaskGroup")
_MOST_PARTS = 5


def named(error: BaseException, *, by_text: type[BaseException] | tuple[()] = ()) -> str:
    """Return the type of an error and its text; of a group, those of what it holds.

    What is raised inside of a nursery comes out in a group, whose own text tells only how many there were.

    Args:
      error: the error.
      by_text: a type of errors of which only the text is told, if there is one.
    """
    if isinstance(error, BaseExceptionGroup):
        try:
            return _named_parts(error, by_text)
        except BaseException:  # a stranger's class, or nested too deeply
            return type(error).__name__
    text = told(error)
    if isinstance(error, by_text) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _named_parts(error: BaseExceptionGroup[BaseException], by_text: type[BaseException] | tuple[()]) -> str:
    parts = list(dict.fromkeys(named(each, by_text=by_text) for each in error.exceptions))
    more = f"; and {len(parts) - _MOST_PARTS} more" if len(parts) > _MOST_PARTS else ""
    inside = "; ".join(parts[:_MOST_PARTS]) + more
    return inside if error.message in _OF_NURSERIES else f"{type(error).__name__}: {told(error)}: {inside}"


def brief(text: object, most: int) -> str:
    """Return text that can be encoded, cut to so many characters; what is no text is shown.

    For what is kept of many agents, or told again and again: the text of an error may be a megabyte.
    """
    if not isinstance(text, str):
        text = shown(text)
    return encodable(text if len(text) <= most else f"{text[: most - 3]}...")


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
