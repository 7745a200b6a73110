"""What is wrong with a page of Markdown, as far as that can be told without understanding it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from pages import MARK, Page, Passage, anchors, parse, read_page


class Finding(NamedTuple):
    line: int
    kind: str
    about: str


def check_page(path: Path, page: Page, root: Path) -> list[Finding]:
    """Return everything that is wrong with a page. Blocks: it looks where links lead.

    Args:
      path: where it is.
      page: what it says.
      root: the folder that is reviewed.
    """
    checks = (broken_links(path, page, root), undefined_references(page, root), headings(page), marks(page))
    return sorted({finding for check in checks for finding in check})


# -- links -----------------------------------------------------------------------------------


def broken_links(path: Path, page: Page, root: Path) -> Iterator[Finding]:
    """Find links and images that lead to no file, and anchors that are not there.

    Only what is relative can be looked at: not what has a scheme or begins with `/`, whose root is
    that of a web site, and not what a template fills in.
    """
    for line, target, kind, is_html in page.links:
        if not target.strip():
            yield Finding(line, "empty link", f"`[...]({target})`")
            continue
        name, _, fragment = target.partition("#")
        name = name.partition("?")[0]
        if _leads_elsewhere(target) or (not name and not fragment):
            continue
        found = path if not name else _find(path, name, root, is_html=is_html)
        if found is None:
            yield Finding(line, f"broken {kind}", f"`{target}`")
        elif fragment and found.suffix.lower() in (".md", ".markdown") and os.path.isfile(found):
            there = page if found == path else _read(found)
            if not _is_anchor(fragment, there) and (name or fragment not in labels_below(root)):
                yield Finding(line, "broken anchor", f"`{target}`{_perhaps(fragment, there)}")


_ELSEWHERE = re.compile(
    r"[a-z][a-z0-9+.-]*:|//|/|[@~]"  # a scheme, another host, the root of a site, names of bundlers
    r"|(\.\./)+(issues|pulls?|wiki|releases|discussions|actions|compare|commits?|tree|blob|tags)(/|$)",
    re.IGNORECASE,
)


def _leads_elsewhere(target: str) -> bool:
    return bool(_ELSEWHERE.match(target) or re.search(r"[{}]|<%|\$\(", target))


def _find(path: Path, name: str, root: Path, *, is_html: bool) -> Path | None:
    """Return the file or folder that a link means; None if there is none.

    Generators of sites let a page be named as it is served: without its suffix, with `.html`, and
    as seen from a folder of its own.
    """
    for spelling in dict.fromkeys((unquote(name), name)):
        folders = [path.parent]
        if is_html or not Path(spelling).suffix:
            folders.append(path.with_suffix(""))
        for folder in folders:
            for candidate in _candidates(folder, spelling):
                # The folder of a page's own is none on the disk: `..` has to be taken out first.
                place = candidate if folder == path.parent else Path(os.path.normpath(candidate))
                if os.path.exists(place):  # also for names that are too long for a file
                    return _page_of(place)
        if spelling in labels_below(root):
            return path
    return None


def _candidates(folder: Path, name: str) -> Iterator[Path]:
    yield folder / name
    stem = name.rstrip("/")
    if stem.endswith(".html"):
        stem = stem.removesuffix(".html")
    elif Path(stem).suffix in (".md", ".markdown"):
        return
    for suffix in (".md", ".rst", ".ipynb", ".markdown"):
        yield folder / f"{stem}{suffix}"


def _page_of(path: Path) -> Path:
    """Return the page that a folder shows, if it has one."""
    for name in ("index.md", "README.md", "_index.md"):
        if os.path.isfile(path / name):
            return path / name
    return path


@lru_cache(maxsize=16)
def labels_below(root: Path) -> frozenset[str]:
    """Return the labels `(label)=` of all pages below a folder: Sphinx links to them by their names.

    They are kept for as long as the process lives.
    """
    found: set[str] = set()
    for path in root.rglob("*.md"):
        parts = path.relative_to(root).parts
        if not any(part.startswith(".") or part in ("node_modules", "site-packages") for part in parts):
            found |= _read(path).labels
    return frozenset(found)


def _read(path: Path) -> Page:
    """Return a page; an empty one of which nothing is known if it cannot be read."""
    try:
        return read_page(path)
    except (OSError, UnicodeDecodeError):
        return parse("{% its own reviewer says what is wrong with it %}")


def _is_anchor(fragment: str, page: Page) -> bool:
    wanted = {fragment, unquote(fragment), unquote(fragment).removeprefix("user-content-")}
    return not page.is_complete or bool(wanted & anchors(page)) or _is_made(fragment)


def _perhaps(fragment: str, page: Page) -> str:
    close = difflib.get_close_matches(unquote(fragment).lower(), sorted(anchors(page)), 1)
    return f", perhaps `#{close[0]}`" if close else ""


_MADE = re.compile(
    r"top|readme|:~:.*"
    r"|L\d+(C\d+)?(-L?\d+(C\d+)?)?"  # lines, as GitHub and GitLab show a file
    r"|(user-content-)?fn(ref)?(\d*|[-:].+)"  # footnotes
)


def _is_made(fragment: str) -> bool:
    """Whether an anchor is made by whatever shows the page: the top, lines, footnotes, a place in a text."""
    return bool(_MADE.fullmatch(fragment))


# A reference with both parts; before it nothing that could make it an index, as in `table[i][j]`.
_REFERENCE = re.compile(r"(?<![\w\[\])}" + MARK + r"])!?\[([^\[\]]+)\]\[([^\[\]" + MARK + r"]+)\]")
# Brackets that are meant as such: options (`[-v][FILE...]`), classes of characters (`[a-z][0-9]`), and
# numbers (`[0, 1][2, 3]`, or `[1][2]` for two sources). Either part may tell.
_BRACKETS = re.compile(r"-.*|.*\.\.\.|\^?.*(a-[fz]|A-[FZ]|0-9).*|[\d\s,;.+-]+")


def undefined_references(page: Page, root: Path) -> Iterator[Finding]:
    """Find `[text][label]` without a `[label]: target`, which is shown as it stands.

    It may be defined elsewhere if a page includes others, or a generator of sites knows more names.
    """
    if not page.is_complete or has_more_names(root):
        return
    for line, text, _ in page.passages:
        for match in _REFERENCE.finditer(text):
            if not _is_meant_otherwise(match[1], match[2]):
                yield Finding(line, "undefined reference", f"`{match[0].replace(MARK, '…')}`")


def _is_meant_otherwise(text: str, label: str) -> bool:
    if label.startswith("^"):  # a footnote
        return True
    # `package.name` is a reference to Python's documentation, which a generator resolves.
    if re.fullmatch(r"[\w.]*\w\.\w[\w.]*", label) or _BRACKETS.fullmatch(text):
        return True
    return bool(_BRACKETS.fullmatch(label)) and not label.isdecimal()


@lru_cache(maxsize=16)
def has_more_names(root: Path) -> bool:
    """Return whether the site is made with something that resolves references by itself."""
    above = list(root.resolve().parents)[:2]
    for folder in (root, *above):
        for name in ("mkdocs.yml", "mkdocs.yaml", "zensical.toml"):
            try:
                text = (folder / name).read_text("utf-8", errors="replace")
            except OSError:
                continue
            if re.search("autorefs|mkdocstrings|auto_append", text):
                return True
    return False


# -- headings and marks --------------------------------------------------------------------------


def headings(page: Page) -> Iterator[Finding]:
    """Find headings that skip a level, such as a third below a first; a page may begin with any."""
    above = None
    for line, level, title, is_top in sorted(page.headings):
        if not is_top:
            continue
        if above is not None and level > above + 1:
            yield Finding(line, "skipped heading", f"level {level} below level {above}: {title.strip()}")
        above = level


# In capitals and as a mark: with a colon or a name behind it, at the end of a sentence, or first in its
# paragraph. Who writes about such marks, or about lists of things to do, does not write them so.
_MARKS = re.compile(r"(?<![\w./#@$-])(TODO|FIXME|XXX|TBD)(?![\w/=-]|\.\w)(?P<behind>[^\n]*)")
_NOUNS = re.compile(
    r"\s*(apps?|lists?|items?|comments?|marks?|tasks?|notes?|tags?|markers?|and|or|example|api|entry|entries)\b",
    re.I,
)
_MARKED = re.compile(r"\s*(\([^)]*\))?\s*:|\(|\s*[.!)\]]*\s*$")
_UNWRITTEN = re.compile(
    r"\W*(to be (written|completed|documented|determined|defined|continued)|coming soon"
    r"|under construction|work in progress"
    r"|lorem ipsum\b.*|placeholder( text)?|(insert|your) .{1,40} here)\W*",
    re.IGNORECASE,
)


def marks(page: Page) -> Iterator[Finding]:
    """Find marks of unfinished work: TODO, FIXME, TBD, XXX, and texts that stand for a text."""
    for passage in page.passages:
        if any(_is_mark(passage, match) for match in _MARKS.finditer(passage.text)) or (
            passage.is_whole and _UNWRITTEN.fullmatch(passage.text)
        ):
            yield Finding(passage.line, "unfinished", _shortened(passage.text))


def _is_mark(passage: Passage, match: re.Match[str]) -> bool:
    before, behind = passage.text[: match.start()], match["behind"]
    if _NOUNS.match(behind):
        return False
    return match[1] == "TBD" or bool(_MARKED.match(behind)) or not before.strip(" *_([-\u2013\u2014:>\t")


def _shortened(text: str, most: int = 80) -> str:
    text = " ".join(text.replace(MARK, "…").split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def counted(findings: Iterable[Finding]) -> str:
    """Tell how many findings there are."""
    number = len(list(findings))
    return f"{number} finding{'' if number == 1 else 's'}"
