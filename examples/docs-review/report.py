"""The report: a table of all pages, and below it what was found in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
from checks import Finding

TITLE = "# Review of "
"""How every report begins."""


@attrs.frozen
class Judgement:
    """What a model thinks of a page.

    Attributes:
      clarity: from 1, nobody understands it, to 5, everybody does at first reading.
      reason: in a sentence.
      unclear: passages that are hard to understand, copied from the page word by word.
    """

    clarity: int = attrs.field(validator=[attrs.validators.ge(1), attrs.validators.le(5)])
    reason: str
    unclear: list[str] = attrs.Factory(list)


@attrs.frozen
class Review:
    """What one reviewer sends the editor."""

    path: str
    words: int
    findings: Sequence[Finding]
    judgement: Judgement | None = None


def render(folder: str, reviews: Sequence[Review], summary: str = "") -> str:
    """Return the report as Markdown."""
    reviews = sorted(reviews, key=lambda review: review.path)
    found = sum(len(review.findings) for review in reviews)
    words = sum(review.words for review in reviews)
    lines = [
        f"{TITLE}{_plain(folder)}",
        "",
        f"{_counted(len(reviews), 'page')}, {_counted(words, 'word')}, {_counted(found, 'finding')}.",
        *(["", summary.strip()] if summary.strip() else []),
        "",
        *_table(reviews),
    ]
    for review in reviews:
        lines += _section(review)
    return "\n".join(lines) + "\n"


def _table(reviews: Sequence[Review]) -> Iterator[str]:
    judged = any(review.judgement for review in reviews)
    yield "| page | words | findings |" + (" clarity |" if judged else "")
    yield "|---|---:|---:|" + ("---:|" if judged else "")
    for review in reviews:
        row = f"| {_plain(review.path)} | {review.words} | {len(review.findings)} |"
        clarity = "" if review.judgement is None else f"{review.judgement.clarity} of 5"
        yield row + (f" {clarity} |" if judged else "")


def _section(review: Review) -> Iterator[str]:
    if not review.findings and review.judgement is None:
        return
    yield from ("", f"## {_plain(review.path)}", "")
    for line, kind, about in review.findings:
        yield f"- line {line}: {kind}: {about}"
    if review.judgement is not None:
        yield f"- clarity {review.judgement.clarity} of 5: {_plain(review.judgement.reason)}"
        for passage in review.judgement.unclear:
            yield f"- unclear: {_plain(passage)}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _plain(text: str) -> str:
    """Return a text on one line, so that it makes no table and no heading."""
    return " ".join(text.split()).replace("|", "\\|")
