"""One page of Markdown as it is read here: its headings, links and anchors, each with its line.

markdown-it-py says what is text and what is code, a comment or a link, by the rules of CommonMark.
What is added here is what documentation uses beyond: front matter, footnotes, explicit anchors, math,
admonitions and tabs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, reference
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from slugs import github_slug, github_slug_of_text, gitlab_slug, letters_slug, python_slug, slugger_slug

MARK = "\ufffc"  # stands in a text for what is no text: code, a link, an image


class Heading(NamedTuple):
    line: int
    level: int
    title: str
    """As it is written, without its marks and without an explicit `{#id}`; an image leaves a space."""
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
    text = with_blocks_quoted(_without_front_matter(text))
    env: dict[str, dict[str, dict[str, object]]] = {}
    tokens = _parser().parse(text, env)
    collector = _Collector(text.split("\n"))
    collector.take_all(tokens)
    for definition in env.get("references", {}).values():
        collector.take_definition(definition)
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
    parser.block.ruler.at("reference", _take_definition)
    parser.block.ruler.before("fence", "math", _take_math_block, {"alt": ["paragraph", "reference"]})
    parser.inline.ruler.before("escape", "math", _take_math)
    # The targets as they are written: what is in them is for whoever looks where they lead.
    parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    return parser


def _take_definition(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Take the definition of a link; `[^1]: word` is a footnote, and in CommonMark such a definition."""
    begin = state.bMarks[start] + state.tShift[start]
    return not state.src.startswith("[^", begin) and reference(state, start, end, silent)


def _take_math_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Take what stands between two lines `$$` as it is, also what would be a list."""
    if state.getLines(start, start + 1, 0, False).strip() != "$$":
        return False
    for line in range(start + 1, end):
        if state.getLines(line, line + 1, 0, False).rstrip().endswith("$$"):
            if not silent:
                state.push("math_block", "", 0).map = [start, line + 1]
                state.line = line + 1
            return True
    return False


# `$x$`, without a space inside of its marks, so that two prices are none; and `$$x$$`.
_MATH = re.compile(r"\$\$.+?\$\$|\$(?![\s$])(?:\\.|[^$\\])*?(?<!\s)\$(?![\w$])", re.DOTALL)


def _take_math(state: StateInline, silent: bool) -> bool:
    """Take math as it stands: its brackets are no links."""
    found = _MATH.match(state.src, state.pos) if state.src[state.pos] == "$" else None
    if found is None:
        return False
    if not silent:
        state.push("math", "", 0).content = found[0]
    state.pos = found.end()
    return True


_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?\n)?(\1|\.\.\.)[ \t]*(\n|\Z)", re.DOTALL)


def _without_front_matter(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _FRONT_MATTER.sub(lambda match: "\n" * match[0].count("\n"), text, count=1)


# `!!! note`, `??? tip "Title"` and `=== "Tab"` of MkDocs: what is indented below them is in them.
_BLOCK = re.compile(r"( *)(?:!!!|\?\?\?\+?|===[!+]?)[ \t]+[\w\"].*")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")


def with_blocks_quoted(text: str) -> str:
    """Write the indented blocks of MkDocs as quotations, which CommonMark knows; lines stay lines.

    CommonMark takes them for code: their links would not be seen, nor their anchors.
    """
    if not re.search(r"(?m)^ *(!!!|\?\?\?|===)", text):
        return text
    return "\n".join(_quoted(text.split("\n")))


def _quoted(lines: Iterable[str]) -> Iterator[str]:
    insides: list[int] = []  # where the text of each open block begins, the innermost one last
    fence = ""
    for line in lines:
        line = line.expandtabs(4)
        while insides and line[: insides[-1]].strip():  # an empty line ends nothing
            insides.pop()
            fence = ""
        begun = insides[-1] if insides else 0
        before = [0, *insides]
        marks = [" " * (inside - start - 4) + "> " for start, inside in zip(before, insides, strict=False)]
        line = line[begun:]
        yield "".join(marks) + line
        if fence:
            fence = "" if line.strip().startswith(fence) and not line.strip(" " + fence[0]) else fence
        elif opened := _FENCE.match(line):
            fence = opened[1]
        elif block := _BLOCK.fullmatch(line):
            insides.append(begun + len(block[1]) + 4)


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
            if token.type == "fence":
                self.ids |= {match[1] for match in _ID.finditer(token.info)}
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
            elif child.type == "math":
                line += child.content.count("\n")
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
        if child.type in ("text", "text_special", "code_inline", "math"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return _ATTRIBUTES.sub("", "".join(parts)).rstrip()


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

    Headings have those that GitHub and GitLab make, and those of Python-Markdown, which MkDocs uses:
    they differ where marks of punctuation stand between words, in how equal headings are counted, and
    in which letters they keep.
    """
    found = set(page.ids)
    for slug_of in (github_slug, github_slug_of_text, slugger_slug, gitlab_slug, letters_slug):
        found |= set(_slugs(page, slug_of, "-"))
    for slug_of in (python_slug, gitlab_slug):
        found |= set(_slugs(page, slug_of, "_"))
    return found


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
