"""The anchors that generators of sites make of headings."""

from __future__ import annotations

import re
import unicodedata

JOINERS = "\u200c\u200d"  # inside of words of some scripts, and of emoji


def github_slug(title: str) -> str:
    """Return the anchor that GitHub gives a heading: words keep accents, vowel signs and joiners."""
    kept = [letter for letter in title.lower() if letter in "- " + JOINERS or _is_of_word(letter)]
    return "".join(kept).replace(" ", "-")


def github_slug_of_text(title: str) -> str:
    """Return what others make of a heading that begins with an image: its space is not kept."""
    return github_slug(title.strip())


def slugger_slug(title: str) -> str:
    """Return the anchor of what follows GitHub without the joiners, as JavaScript's sluggers do."""
    return github_slug(title.strip().translate(dict.fromkeys(map(ord, JOINERS))))


def gitlab_slug(title: str) -> str:
    """Return the anchor that GitLab gives a heading, and MkDocs if it is told to keep all letters."""
    return re.sub("-+", "-", github_slug(title.strip()))


def letters_slug(title: str) -> str:
    """Return the anchor of generators that know letters and digits, and no marks of other scripts."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def _is_of_word(letter: str) -> bool:
    """Whether Unicode says that words consist of such: letters, marks, digits, connectors."""
    category = unicodedata.category(letter)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc")


def python_slug(title: str) -> str:
    """Return the anchor that Python-Markdown gives a heading."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
