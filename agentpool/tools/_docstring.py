"""Docstrings of tools: what is said of each argument, and the rest, of which a model needs all.

Sections of arguments are found and mended here, because people write them in more ways than the
parsers of documentation take: no blank line above, entries that are not indented, several lines
without indentation, dashes for colons. What is in a mended section of NumPy's, Sphinx's or Epydoc's
style is then read by docstring-parser. It does not read Google's, whose colons it takes too literally.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import attrs

_ARGUMENTS = (
    "args|arguments|arg|argument|params|parameters|parameter|kwargs"
    "|keyword args|keyword arguments|other parameters"
)
_SECTIONS = (
    "returns?|yields?|receives|raises|warns|warnings?|see also|notes?|references|examples?|attributes|methods"
)
_HEADER = re.compile(rf"([#*_ ]*)({_ARGUMENTS}|raises)[*_]*(:?)[*_ ]*", re.IGNORECASE)
_UNDERLINED = re.compile(rf" *({_ARGUMENTS}|{_SECTIONS}):? *", re.IGNORECASE)
_UNDERLINE = re.compile(r" *[-=~]{3,} *")
_FIELD = re.compile(
    r" *([:@])(param|parameter|arg|argument|key|keyword|kwarg|type|raises?|except|exception|returns?|rtype)\b"
    r"([^:\n]*)(:?)(.*)"
)
_NO_SUBJECT = ("rtype", "raise", "raises", "except", "exception")  # a model is told nothing of these
_EXCEPTION = re.compile(r"[\w.]+( *:.*)?")

# An entry of Google's style: a bullet, names in Markdown's marks; after a type in brackets, a colon or dash.
_NAME = r"[`*]*[^\W\d]\w*[`*]*"
_NAMES = re.compile(rf"(?:[-*+•] +)?({_NAME}(?: *[,/] *{_NAME})*)")
_SEPARATOR = re.compile(r"[`*]* *(?:[:：]|(?<= )[-–—]{1,2}(?= |$)|$)[`*]* *")  # noqa: RUF001
_PAIRS = {"(": ")", "[": "]", "{": "}"}

Entry: TypeAlias = Callable[[str], bool]


@attrs.frozen
class Described:
    """What a docstring says.

    Attributes:
      text: all but the arguments, and the errors, which a model is told of when they come.
      arguments: what is said of each argument.
    """

    text: str
    arguments: Mapping[str, str]


def read_docstring(doc: str, names: Collection[str], hidden: Collection[str] = ()) -> Described:
    """Read a docstring of Google's, NumPy's, Sphinx's or Epydoc's style, or of a mixture.

    A section of arguments in which none is named that there is stays a part of the text.

    Args:
      doc: the docstring, without the indentation of the source.
      names: the arguments that a model may give.
      hidden: the other parameters, of which a model is told nothing.
    """
    reader = _Reader(doc.expandtabs().splitlines(), frozenset(names), frozenset((*hidden, "self", "cls")))
    reader.read()
    text = re.sub(r"\n(?: *\n){2,}", "\n\n", "\n".join(reader.text)).strip()
    return Described(text, reader.arguments())


@attrs.define(eq=False)
class _Reader:
    """Goes through the lines once."""

    lines: list[str]
    names: frozenset[str]
    hidden: frozenset[str]
    text: list[str] = attrs.field(factory=list)
    fields: dict[str, list[str]] = attrs.field(factory=lambda: {":": [], "@": []})
    described: dict[str, str] = attrs.field(factory=dict)
    at: int = 0

    def read(self) -> None:
        sections = (self._field, self._numpy, self._google)
        while self.at < len(self.lines):
            if self._is_nested() or not any(section(self.lines[self.at]) for section in sections):
                self.text.append(self.lines[self.at])
                self.at += 1

    def _is_nested(self) -> bool:
        """Tell whether the line belongs to an example or a note, whose header stands above it."""
        indent = _indent(self.lines[self.at])
        above = (line for line in reversed(self.lines[: self.at]) if line.strip() and _indent(line) < indent)
        header = next(above, "").rstrip() if indent else ""
        return header.endswith(":") and _HEADER.fullmatch(header) is None

    def arguments(self) -> dict[str, str]:
        fields = [pair for mark, lines in self.fields.items() for pair in _parsed("\n".join(lines), mark)]
        self._describe(fields)
        return self.described

    def _describe(self, pairs: Iterable[tuple[str, str]]) -> None:
        for names, text in pairs:
            for name in _split(names):
                if name in self.names and text:
                    self.described.setdefault(name, text)

    def _is_known(self, names: str) -> bool:
        known = self.names | self.hidden
        return any(name in known for name in _split(names))

    # -- the styles: each cuts its section out, if there is one here

    def _field(self, line: str) -> bool:
        match = _FIELD.fullmatch(line)
        if match is None or not (match[4] or match[1] == "@"):
            return False
        mark, word, subject, _, rest = match.groups()
        if word in ("return", "returns"):
            self.text.append(f"Returns: {subject.strip()}{rest.strip()}".rstrip())
            self.at += 1
            return True
        if word not in _NO_SUBJECT:
            subject, rest = self._subject(subject, rest, colon=bool(match[4]))
            if not self._is_known(subject.rpartition(" ")[2]):
                return False
        lines = self._taken(self.at + 1, _indent(line), lambda other: False)
        if word not in _NO_SUBJECT:
            name = subject.rpartition(" ")[2]  # the type before it says what the hint says
            self.fields[mark] += [f"{mark}{word} {name}: {rest.strip()}", *lines]
        return True

    def _subject(self, subject: str, rest: str, *, colon: bool) -> tuple[str, str]:
        """Return type and name, and the text of a field; `@param {kind} name - text` is known too."""
        subject = re.sub(r"^\s*\{[^}]*\}", "", subject).strip()
        if colon and self._is_known(subject.rpartition(" ")[2]):
            return subject, rest
        name, _, text = subject.partition(" ")
        return name, f"{text.strip().removeprefix('-')}{':' if colon else ''}{rest}"

    def _numpy(self, line: str) -> bool:
        following = self.lines[self.at + 1] if self.at + 1 < len(self.lines) else ""
        match = _UNDERLINED.fullmatch(line)
        if match is None or not _UNDERLINE.fullmatch(following):
            return False
        header, indent = match[1].lower(), _indent(line)
        if header == "raises":
            self._taken(self.at + 2, indent, _is_exception, loose=False)
        elif not re.fullmatch(_ARGUMENTS, header) or not self._has_entry(self.at + 2):
            self.text.append(f"{line.rstrip(': ')}:")  # the line below it is for people's eyes
            self.at += 2
        elif self._is_indented(self.at + 2, indent):
            self._take_google(self.at + 2, indent)
        else:
            lines = self._taken(self.at + 2, indent, self._is_entry)
            self._describe(_parsed("\n".join(["Parameters", "----------", *lines]), "-"))
        return True

    def _google(self, line: str) -> bool:
        match = _HEADER.fullmatch(line)
        if match is None or not (match[3] or match[1].strip()):
            return False
        if match[2].lower() == "raises":
            self._taken(self.at + 1, _indent(line), lambda other: False, loose=False)
        elif _FIELD.fullmatch(_first(self.lines[self.at + 1 :])):
            self.at += 1  # it stands above fields, which describe themselves
        elif self._has_entry(self.at + 1):
            self._take_google(self.at + 1, _indent(line))
        else:
            return False
        return True

    def _take_google(self, start: int, indent: int) -> None:
        # Below entries that are indented, a line that is not is none of theirs.
        lines = self._taken(start, indent, self._is_entry, loose=not self._is_indented(start, indent))
        self._describe(self._google_entries(lines))

    def _is_indented(self, start: int, indent: int) -> bool:
        return _indent(_first(self.lines[start:])) > indent

    def _has_entry(self, start: int) -> bool:
        """Tell whether a section describes an argument that there is."""
        first = _first(self.lines[start:])
        if self._is_entry(first):
            return True
        section = itertools.takewhile(lambda line: not line.strip() or _indent(line) > 0, self.lines[start:])
        return any(_indent(line) == _indent(first) and self._is_entry(line) for line in section)

    def _is_entry(self, line: str) -> bool:
        head = _head(line)
        return head is not None and self._is_known(head[0])

    def _taken(self, start: int, indent: int, is_entry: Entry, *, loose: bool = True) -> list[str]:
        """Take the lines of a section that begins at `start`, and go on behind it.

        To it belongs what is indented, each entry, and (if loose) each line that follows one of these
        without a blank line between: it is returned with an indentation, as it was meant.
        """
        taken: list[str] = []
        margin = _margin(self.lines[start:], indent, is_entry)
        for line in self.lines[start:]:
            is_blank = not line.strip()
            after_blank = bool(taken) and not taken[-1].strip()
            if is_blank or _indent(line) > indent or is_entry(line):
                taken.append(line[min(margin, _indent(line)) :] if is_entry(line) else line)
            elif not loose or after_blank or _is_header(self.lines, start + len(taken)):
                break
            else:
                taken.append(f"    {line}")
        self.at = start + len(taken)
        self.text.append("")  # what stood around it was no paragraph
        return taken

    def _google_entries(self, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield the names and the text of each entry; deeper lines belong to the entry above them."""
        margin = min(_indent(line) for line in lines if self._is_entry(line))
        heads = [n for n, line in enumerate(lines) if _indent(line) <= margin and self._is_entry(line)]
        self.text += _dedented(lines[: heads[0]])  # of an argument that there is not, or of all
        for start, end in zip(heads, [*heads[1:], len(lines)], strict=True):
            names, kind, text = _head(lines[start]) or ("", "", "")
            below = _dedented(lines[start + 1 : end])
            yield names, _with_kind("\n".join([text, *below]).strip(), kind)


# -- lines ---------------------------------------------------------------------------


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _first(lines: Iterable[str]) -> str:
    """Return the first line that holds something."""
    return next((line for line in lines if line.strip()), "")


def _margin(lines: Sequence[str], indent: int, is_entry: Entry) -> int:
    """Return how far the first entry is indented."""
    first = _first(lines)
    return _indent(first) if is_entry(first) else indent


def _dedented(lines: Sequence[str]) -> list[str]:
    margin = min((_indent(line) for line in lines if line.strip()), default=0)
    return [line[margin:].rstrip() for line in lines]


def _is_header(lines: Sequence[str], at: int) -> bool:
    underlined = at + 1 < len(lines) and bool(_UNDERLINE.fullmatch(lines[at + 1]))
    named = re.fullmatch(rf"[#*_ ]*({_ARGUMENTS}|{_SECTIONS})[*_]*:.*", lines[at], re.IGNORECASE)
    return underlined or named is not None or _FIELD.fullmatch(lines[at]) is not None


def _is_exception(line: str) -> bool:
    return _EXCEPTION.fullmatch(line.strip()) is not None


# -- entries -------------------------------------------------------------------------


def _head(line: str) -> tuple[str, str, str] | None:
    """Split `names (type): text`; None if it is not that. A type may hold brackets and colons."""
    line = line.strip()
    match = _NAMES.match(line)
    if match is None:
        return None
    kind, rest = _bracketed(line[match.end() :])
    separator = _SEPARATOR.match(rest)
    return (match[1], kind, rest[separator.end() :]) if separator else None


def _bracketed(text: str) -> tuple[str, str]:
    """Return what stands in the brackets that a text begins with, and what comes behind them."""
    start = _indent(text)
    open_ones: list[str] = []
    for n, letter in enumerate(text[start:], start):
        if letter in _PAIRS:
            open_ones.append(_PAIRS[letter])
        elif open_ones and letter == open_ones[-1]:
            open_ones.pop()
        if not open_ones:
            return (text[start + 1 : n], text[n + 1 :]) if letter in _PAIRS.values() else ("", text)
    return "", text


def _split(names: str) -> list[str]:
    return [name.strip(" `*") for name in re.split("[,/]", names)]


def _with_kind(text: str, kind: str | None) -> str:
    """Add what the type says, if that is more than a type: the hint tells that already."""
    kind = re.sub(r",? *\b(optional|defaults?\b.*)", "", kind or "", flags=re.IGNORECASE | re.DOTALL).strip(
        " ,"
    )
    says_more = re.search(r"[{'\"\d<>]", kind) and kind not in text
    return f"{text} ({kind})".strip() if says_more else text


def _parsed(text: str, mark: str) -> Iterator[tuple[str, str]]:
    """Read a mended section with docstring-parser."""
    if not text:
        return
    import docstring_parser

    styles = docstring_parser.DocstringStyle
    style = {":": styles.REST, "@": styles.EPYDOC, "-": styles.NUMPYDOC}[mark]
    for param in docstring_parser.parse(text, style).params:
        said, kind = (param.description or "").strip(), param.type_name or ""
        # `name: what it means`, below a line of dashes, has its meaning where NumPy's style has the type.
        yield param.arg_name, _with_kind(said, kind) if said or " " not in kind else kind
