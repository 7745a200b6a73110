"""Pages of the web as text: their characters, and what of HTML a reader sees.

Written for what strangers send: each step takes time in proportion to the page, whatever it holds.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator
from urllib.parse import urljoin

import attrs

from agentpool._blocking import check_cancelled


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What the web's texts are in; Python knows more, of which some are no encodings, and some are slow.
_CODECS = _words(
    "utf-8 ascii iso8859-1 iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8"
    " iso8859-9 iso8859-10 iso8859-13 iso8859-14 iso8859-15 iso8859-16 cp1250 cp1251 cp1252 cp1253"
    " cp1254 cp1255 cp1256 cp1257 cp1258 cp866 cp874 koi8-r koi8-u mac-roman mac-cyrillic gbk gb2312"
    " gb18030 big5 big5hkscs euc_jp shift_jis cp932 iso2022_jp euc_kr cp949 utf-16 utf-16-le utf-16-be"
    " utf-32"
)
_AS_IN_BROWSERS = {"ascii": "cp1252", "iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_META = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,1000}?(?:charset|encoding)\s{0,20}=\s{0,20}["']?\s{0,20}([\w.:-]{1,40})""",
    re.I,
)
_PRESCAN = 4_096

# -- characters ---------------------------------------------------------------------


def text_of_bytes(data: bytes, charset: str, *, is_cut: bool = False) -> str:
    """Return the text of an answer: by its mark, its header, what it says itself, or as UTF-8.

    What cannot be read is replaced, never an error: a page with one wrong byte is still a page. So are NUL
    characters, which some providers refuse.

    Args:
      data: the bytes.
      charset: what the header says, maybe nothing.
      is_cut: whether they end anywhere, maybe in the middle of a character.
    """
    return _characters(data, charset, is_cut).removeprefix("\ufeff").replace("\0", "\ufffd")


def _characters(data: bytes, charset: str, is_cut: bool) -> str:
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return data.decode(codec, "replace")
    known = _codec(charset) or _codec_in(data[:_PRESCAN])
    if known is None:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            known = "utf-8" if is_cut and error.reason == "unexpected end of data" else "cp1252"
    return data.decode(known, "replace")


def _codec_in(head: bytes) -> str | None:
    found = _META.search(head)
    codec = _codec(found[1].decode("ascii")) if found is not None and found[1].isascii() else None
    # Who can read the word is not in front of UTF-16.
    return "utf-8" if codec is not None and codec.startswith(("utf-16", "utf-32")) else codec


def _codec(charset: str) -> str | None:
    try:
        name = codecs.lookup(charset.strip(" \"'")).name if charset else ""
    except (LookupError, ValueError):
        return None
    name = _AS_IN_BROWSERS.get(name, name)
    return name if name in _CODECS else None


# -- HTML ---------------------------------------------------------------------------

_STOP = re.compile("[>\"']")
_NAME = re.compile(r"/?([a-zA-Z][^\s/>]*)")
_ATTRIBUTE = re.compile(r"""([^\s=/>"']+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s>"']*))?""")
_SPACE = re.compile(r"[ \t\n\r\f]+")
_NO_NUMBER = re.compile(r"&#[0-9]{100,};?")  # of a character; Python reads no such numbers

# What holds no text for readers, and ends at its own end tag only.
_SKIPPED = _words("script style template svg iframe object noembed noframes")
_BLOCKS = _words(
    "address article aside blockquote body details dd div dl dt fieldset figcaption figure footer form"
    " h1 h2 h3 h4 h5 h6 header hr html main nav ol p pre section summary table title tbody thead ul"
)
_LINES = _words("br li tr option")
_STARTS = {"li": "- ", **{f"h{n}": f"{'#' * n} " for n in range(1, 7)}, "title": "# "}


@attrs.frozen
class _Tag:
    name: str
    is_end: bool
    rest: str


def _tokens(page: str) -> Iterator[str | _Tag]:
    """Yield the texts and tags of a page, without comments and what is skipped."""
    at = 0
    while (found := page.find("<", at)) >= 0:
        named = _NAME.match(page, found + 1)
        if named is None and page[found + 1 : found + 2] not in ("!", "?"):
            yield page[at : found + 1]
            at = found + 1
            continue
        yield page[at:found]
        if named is None:
            at = _after_comment(page, found)
            continue
        end = _end_of_tag(page, named.end())
        tag = _Tag(named[1].lower(), page[found + 1] == "/", page[named.end() : end])
        yield tag
        at = end + 1
        if tag.name in _SKIPPED and not tag.is_end:
            at = _after_skipped(page, at, tag.name)
    yield page[at:]


def _after_comment(page: str, start: int) -> int:
    is_comment = page.startswith("<!--", start)
    end = page.find("-->" if is_comment else ">", start + 2)
    return len(page) if end < 0 else end + (3 if is_comment else 1)


def _end_of_tag(page: str, at: int) -> int:
    """Return where a tag's `>` is, not counting those in quotes.

    A quote that is never closed is a letter: there is one of each kind at the most, the last one, so
    that looking for its end does not take more and more time.
    """
    while (found := _STOP.search(page, at)) is not None:
        if found[0] == ">":
            return found.start()
        closed = page.find(found[0], found.end())
        at = found.end() if closed < 0 else closed + 1
    return len(page)


def _after_skipped(page: str, at: int, name: str) -> int:
    found = re.compile(f"</{name}[\\s/>]", re.I).search(page, at)
    return len(page) if found is None else found.start()


def readable(page: str, url: str) -> str:
    """Return what a reader sees of a page, with headings, items and links as in Markdown.

    Scripts, styles and comments are left out. Links are whole addresses.

    Args:
      page: the HTML.
      url: where it is from.
    """
    out = _Writer(url)
    for n, token in enumerate(_tokens(page)):
        if n % 1_000 == 0:
            check_cancelled()
        if isinstance(token, str):
            out.text(_unescaped(token))
        else:
            out.tag(token)
    return out.told()


class _Writer:
    """Puts a page's words into lines."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._parts: list[str] = []
        self._breaks = 0  # that come before the next word
        self._space = False  # before the next word
        self._pre = 0
        self._link: tuple[str, int] | None = None  # its address, and where its words begin

    def text(self, text: str) -> None:
        if self._pre:
            self._put(text)
            return
        words = _SPACE.sub(" ", text)
        if words.startswith(" "):
            self._space = True
        if words.strip(" "):
            self._put(words.strip(" "))
            self._space = words.endswith(" ")

    def tag(self, tag: _Tag) -> None:
        if tag.name == "pre":
            self._pre = max(0, self._pre + (-1 if tag.is_end else 1))
        if tag.name == "a":
            self._end_link()
            if not tag.is_end:
                self._begin_link(tag)
        elif tag.name == "img":
            self._put_image(tag)
        elif tag.name in ("td", "th"):
            if not tag.is_end and self._parts and not self._breaks:
                self._put(" | ")
        elif tag.name in _BLOCKS or tag.name in _LINES:
            self._begin_line(tag)

    def _begin_line(self, tag: _Tag) -> None:
        if tag.name in _STARTS and self._is_at_start():
            self._parts.pop()  # an item or a heading without words is none
        self._breaks = max(self._breaks, 2 if tag.name in _BLOCKS else 1)
        if not tag.is_end and tag.name in _STARTS:
            self._put(_STARTS[tag.name])

    def _is_at_start(self) -> bool:
        return bool(self._parts) and self._parts[-1] in _STARTS.values()

    def _put(self, text: str) -> None:
        if self._breaks:
            if self._parts and not self._is_at_start():  # a paragraph in an item stands behind its bullet
                self._parts.append("\n" * self._breaks)
            self._breaks = 0
        elif self._space and self._parts and not self._parts[-1].endswith((" ", "\n")):
            self._parts.append(" ")
        self._space = False
        self._parts.append(text)

    def _begin_link(self, tag: _Tag) -> None:
        self._link = (_attribute(tag.rest, "href"), len(self._parts))

    def _end_link(self) -> None:
        if self._link is None:
            return
        href, start = self._link
        self._link = None
        words = "".join(self._parts[start:]).strip()
        if not words or not href or href.startswith("#"):
            return
        try:
            whole = urljoin(self._url, href)
        except ValueError:
            return
        if whole.lower().startswith(("http://", "https://")) and whole != words:
            # The mark goes before the link's first word, behind the breaks and the space before it.
            at = next(n for n in range(start, len(self._parts)) if self._parts[n].strip())
            self._parts[at] = "[" + self._parts[at]
            self._parts.append(f"]({whole})")

    def _put_image(self, tag: _Tag) -> None:
        alt = _SPACE.sub(" ", _attribute(tag.rest, "alt")).strip()
        if alt:
            self._put(f"![{alt}]")

    def told(self) -> str:
        self._end_link()
        return "".join(self._parts).strip()


def _attribute(rest: str, name: str) -> str:
    for n, found in enumerate(_ATTRIBUTE.finditer(rest)):
        if n > 100:
            break
        if found[1].lower() == name:
            return _unescaped((found[2] or "").strip("\"'")).strip()
    return ""


def _unescaped(text: str) -> str:
    return html.unescape(_NO_NUMBER.sub("\ufffd", text))
