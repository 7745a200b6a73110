"""What is a word, in a text that is remembered and in a query: the same, in one place."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

MOST_PHRASES = 512
"""So many different words of a query are looked for; the first ones of a longer text tell enough."""

_WORD = re.compile(r"\w+")
# Scripts that are written without spaces: Thai, Lao, Burmese, Khmer, kana, Chinese characters, and Korean,
# whose words carry endings.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af"
)


@cache
def _piece() -> re.Pattern[str]:
    """Return the pattern of a piece of a word, in a script without spaces (its group) or in another."""
    return re.compile(rf"([{_UNSPACED}]+)|[^{_UNSPACED}]+")  # takes 5 ms: not for who has ASCII alone


def words_of(text: str) -> Iterator[str]:
    """Yield the words of a text in their order, in small letters without accents.

    A word is letters, digits and `_`; in a script without spaces, each character.
    """
    for piece, is_unspaced in _pieces(text):
        if is_unspaced:
            yield from piece
        else:
            yield piece


def phrases_of(query: str) -> Sequence[str]:
    """Return what to look for, each once: a word, or two neighbours in a script without spaces."""
    phrases: dict[str, None] = {}
    for piece, is_unspaced in _pieces(query):
        if is_unspaced and len(piece) > 1:
            phrases |= dict.fromkeys(f"{a} {b}" for a, b in itertools.pairwise(piece))
        else:
            phrases[piece] = None
        if len(phrases) >= MOST_PHRASES:
            break
    return list(phrases)[:MOST_PHRASES]


def terms_of(text: str) -> frozenset[str]:
    """Return every phrase that finds a text."""
    return frozenset((*words_of(text), *_neighbours(text)))


def _neighbours(text: str) -> Iterator[str]:
    for piece, is_unspaced in _pieces(text):
        if is_unspaced:
            yield from (f"{a} {b}" for a, b in itertools.pairwise(piece))


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of the words of a text, and whether each is of a script without spaces."""
    for match in _WORD.finditer(_folded(text)):
        word = match[0]
        if word.isascii():
            yield word, False
        else:
            yield from ((piece[0], piece[1] is not None) for piece in _piece().finditer(word))


def _folded(text: str) -> str:
    """Return a text in small letters, without accents; what looks the same is the same."""
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    bare = "".join(char for char in apart if not "\u0300" <= char <= "\u036f")
    return unicodedata.normalize("NFKC", bare)
