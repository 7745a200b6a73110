"""One page of Markdown as it is read here: its headings, links and anchors, each with its line.

markdown-it-py says what is text and what is code, a comment or a link, by the rules of CommonMark.
What is added here is what documentation uses beyond: front matter, footnotes, explicit anchors.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

MARK = "\ufffc"  # stands in a text for what is no text: code, a link, an image


class Heading(NamedTuple):
    line: int
    level: int
    title: str
    """As it is written, without its marks and without an explicit `{#id}`."""
    is_top: bool
    """Whether it stands by itself, not in a quotation or a list."""


class Link(NamedTuple):
    line: int
    target: str
    kind: Literal["link", "image"]
    is_html: bool = False


class Passage(NamedTuple):
    """A line of running text; what is code, a comment or a link in it is `MARK`."""

    line: int
    text: str
    is_whole: bool
    """Whether there is no other line in its paragraph, heading or cell."""


class Page(NamedTuple):
    headings: Sequence[Heading]
    links: Sequence[Link]
    passages: Sequence[Passage]
    ids: frozenset[str]
    """The anchors that are written down, not made of headings."""
    labels: frozenset[str]
    """Those of them that Sphinx finds from every page: `(label)=`, and `:name: label` of a directive."""
    is_complete: bool
    """Whether all of it stands here; what a generator includes may have any anchors."""
    words: int


def read_page(path: Path) -> Page:
    """Read a file. Blocks; many pages lead to the same one, so that it is kept until it changes.

    Raises:
      OSError: if it cannot be read.
      UnicodeDecodeError: if it is not in UTF-8.
    """
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4096)
def _read(path: Path, changed: int, size: int) -> Page:
    return parse(path.read_text("utf-8-sig"))


def parse(text: str) -> Page:
    """Take a page apart."""
    text = _without_front_matter(text)
    env: dict[str, dict[str, dict[str, object]]] = {}
    tokens = _parser().parse(text, env)
    collector = _Collector(text.split("\n"))
    collector.take_all(tokens)
    for reference in env.get("references", {}).values():
        collector.take_definition(reference)
    labels = frozenset(_labels(tokens))
    return Page(
        headings=collector.headings,
        links=sorted(collector.links),
        passages=collector.passages,
        ids=frozenset(collector.ids) | labels,
        labels=labels,
        is_complete=not any(map(_includes, tokens)),
        words=sum(len(passage.text.replace(MARK, " ").split()) for passage in collector.passages),
    )


# -- the parser ---------------------------------------------------------------------


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    parser.disable("text_join")  # so that an escaped bracket is told from a bracket
    parser.core.ruler.after("block", "footnotes", _forget_footnotes)
    # The targets as they are written: what is in them is for whoever looks where they lead.
    parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    return parser


def _forget_footnotes(state: StateCore) -> None:
    """Keep `[^1]: word` from being the definition of a link, which it is in CommonMark."""
    references = state.env.get("references", {})
    for label in [label for label in references if label.startswith("^")]:
        del references[label]


_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?\n)?(\1|\.\.\.)[ \t]*(\n|\Z)", re.DOTALL)


def _without_front_matter(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _FRONT_MATTER.sub(lambda match: "\n" * match[0].count("\n"), text, count=1)


# What brings text in from elsewhere: mkdocstrings, snippets, Jinja, directives of Sphinx.
_INCLUDES = re.compile(r"^\s*(:::\s+[\w.-]+\s*$|;?--8<--|\{%|\{\{|\{!)", re.MULTILINE)
_DIRECTIVES = re.compile(r"\{(include|auto|eval-rst)")


def _includes(token: Token) -> bool:
    if token.type == "fence":
        return bool(_DIRECTIVES.match(token.info.strip()))
    return token.type in ("inline", "html_block", "code_block") and bool(_INCLUDES.search(token.content))


# -- what stands in it ----------------------------------------------------------------


class _Collector:
    """Goes through the tokens of a page."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.headings: list[Heading] = []
        self.links: list[Link] = []
        self.passages: list[Passage] = []
        self.ids: set[str] = set()
        self._lines = lines
        self._block = (0, 0)  # the lines of the innermost block whose lines are known

    def take_all(self, tokens: Sequence[Token]) -> None:
        for token, before in zip(tokens, [None, *tokens], strict=False):
            if token.map is not None:
                self._block = (token.map[0], token.map[1])
            if token.type == "html_block":
                self._take_html(token.content, self._block[0])
            elif token.type == "inline":
                self.ids |= {match[1] for match in _ID.finditer(token.content)}
                self._take_inline(token.children or [])
                if before is not None and before.type == "heading_open":
                    self._take_heading(token, before)

    def _take_heading(self, token: Token, opened: Token) -> None:
        level, is_top = int(opened.tag[1:]), opened.level == 0
        self.headings.append(Heading(self._block[0] + 1, level, _title(token), is_top))

    def _take_inline(self, children: Sequence[Token]) -> None:
        line, texts = self._block[0], [""]
        starts = [line]
        for child, behind in zip(children, [*children[1:], None], strict=False):
            if child.type in ("softbreak", "hardbreak"):
                line += 1
                texts.append("")
                starts.append(line)
            elif child.type == "text":
                texts[-1] += child.content
            elif child.type == "link_open" and child.markup != "autolink":
                target = str(child.attrs.get("href", ""))
                is_empty = behind is not None and behind.type == "link_close"
                if target or not is_empty:  # `[](){#id}` is the way to set an anchor
                    line = self._take_link(target, "link", line)
            elif child.type == "image":
                line = self._take_link(str(child.attrs.get("src", "")), "image", line)
            elif child.type == "html_inline":
                self._take_html(child.content, line)
            texts[-1] += MARK if child.type not in _PLAIN else ""
        for start, text in zip(starts, texts, strict=True):
            self.passages.append(Passage(start + 1, text, len(texts) == 1))

    def _take_link(self, target: str, kind: Literal["link", "image"], line: int) -> int:
        """Keep a link if its target stands in this block, and return its line.

        One whose target stands elsewhere is a reference: it is looked at where it is defined.
        """
        found = self._line_of(target, line)
        if found is None and target:
            return line
        self.links.append(Link((line if found is None else found) + 1, target, kind))
        return line if found is None else found

    def _line_of(self, target: str, line: int) -> int | None:
        """Find the line of a target: code that is broken over lines hides how many they were."""
        written = _escapable(target)
        for number in range(line, self._block[1]):
            if written.search(self._lines[number]):
                return number
        return None

    def take_definition(self, reference: dict[str, object]) -> None:
        lines = reference.get("map")
        assert isinstance(lines, list)
        self._block = (lines[0], lines[1])
        line = self._line_of(str(reference["href"]), lines[0])
        self.links.append(Link((lines[0] if line is None else line) + 1, str(reference["href"]), "link"))

    def _take_html(self, text: str, line: int) -> None:
        parser = _Html()
        parser.feed(text)
        parser.close()
        self.ids |= parser.ids
        for offset, target, kind in parser.targets:
            self.links.append(Link(line + offset, target, kind, is_html=True))
        for offset, level, title in parser.headings:
            self.headings.append(Heading(line + offset, level, title, is_top=True))


_PLAIN = {
    *("text", "softbreak", "hardbreak", "link_close"),
    *("em_open", "em_close", "strong_open", "strong_close", "s_open", "s_close"),
}


def _escapable(target: str) -> re.Pattern[str]:
    """Match a target as it may be written: with escapes in it."""
    return re.compile("".join(rf"(?:\\?{re.escape(letter)}|&\w+;)" for letter in target))


def _title(token: Token) -> str:
    """Return the text of a heading as it is shown."""
    parts = []
    for child in token.children or []:
        if child.type in ("text", "text_special", "code_inline"):
            parts.append(child.content)
        elif child.type == "image":
            parts.append("")
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return _ATTRIBUTES.sub("", "".join(parts)).strip()


class _Html(HTMLParser):
    """Finds anchors, targets and headings in HTML, not in its comments."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: set[str] = set()
        self.targets: list[tuple[int, str, Literal["link", "image"]]] = []
        self.headings: list[tuple[int, int, str]] = []
        self._title: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        names = (given.get("id"), given.get("name") if tag == "a" else None)
        self.ids |= {name for name in names if name}
        target = given.get({"a": "href", "img": "src"}.get(tag, ""))
        if target:
            self.targets.append((self.getpos()[0], target, "link" if tag == "a" else "image"))
        if re.fullmatch("h[1-6]", tag):
            self._title = []
            self.headings.append((self.getpos()[0], int(tag[1]), ""))

    def handle_data(self, data: str) -> None:
        if self._title is not None:
            self._title.append(data)

    def handle_endtag(self, tag: str) -> None:
        if self._title is not None and re.fullmatch("h[1-6]", tag):
            line, level, _ = self.headings[-1]
            self.headings[-1] = (line, level, " ".join("".join(self._title).split()))
            self._title = None


# -- anchors --------------------------------------------------------------------------------

# `{#id}` of many dialects, and `{: #id .class }` of Python-Markdown.
_ATTRIBUTES = re.compile(r"\s*\{(:|[^{}]*?[#.])[^{}]*\}\s*$")
_ID = re.compile(r"\{:?[^{}]*?#([^\s{}.]+)[^{}]*\}")
_LABEL = re.compile(r"^\(([^()\s]+)\)=", re.MULTILINE)
_NAME = re.compile(r"^\s*:(?:name|label): *(\S+)", re.MULTILINE)


def _labels(tokens: Iterable[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type == "inline":
            yield from _LABEL.findall(token.content)
        if token.type in ("inline", "fence"):
            yield from _NAME.findall(token.content)


def anchors(page: Page) -> set[str]:
    """Return every anchor of a page.

    Headings have those that GitHub makes, and those of Python-Markdown, which MkDocs uses: they
    differ where marks of punctuation stand between words, and in how equal headings are counted.
    """
    return {*page.ids, *_slugs(page, github_slug, "-"), *_slugs(page, python_slug, "_")}


def _slugs(page: Page, slug_of: Callable[[str], str], joint: str) -> Iterator[str]:
    taken: set[str] = set()
    for heading in sorted(page.headings):
        slug = first = slug_of(heading.title)
        number = 0
        while slug in taken:
            number += 1
            slug = f"{first}{joint}{number}"
        taken.add(slug)
        yield slug


def github_slug(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def python_slug(title: str) -> str:
    """Return the anchor that Python-Markdown gives a heading."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
