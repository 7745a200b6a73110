"""The file tools: they reach what lies below a granted root, and nothing else."""

from __future__ import annotations

import codecs
import fnmatch
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from agentpool._core.capability import FileReadCapability, FileWriteCapability
from agentpool._core.errors import CapabilityDeniedError, ToolError
from agentpool.tools._function import tool

MAX_FILE_BYTES = 10_000_000
"""Larger files are neither read, searched nor written."""

MAX_READ_CHARS = 60_000  # below a registry's limit, so that the note about the rest survives
MAX_NAMES = 1_000
MAX_MATCHES = 200
MAX_LINE_CHARS = 300
MAX_VISITED = 100_000  # entries that a walk looks at, granted or not
MAX_ALTERNATIVES = 64  # that the braces of a pattern may stand for

# What would break a list of names, or hide in it: controls, separators of lines, undecodable bytes.
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# Windows has none of these; there a path is checked and then opened by its name.
_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_DIRECTORY: int = getattr(os, "O_DIRECTORY", 0)
_NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)  # opening a pipe must not wait for its other end
_CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)
_BINARY: int = getattr(os, "O_BINARY", 0)
_HAS_DIR_FD = os.open in os.supports_dir_fd and bool(_NOFOLLOW and _DIRECTORY)


# -- paths --------------------------------------------------------------------------


@attrs.frozen
class _Place:
    """A real path below the real path of a root; neither holds a link."""

    root: str
    parts: tuple[str, ...]
    name: str  # what the model calls it

    @property
    def path(self) -> str:
        return os.path.join(self.root, *self.parts)


class Roots:
    """The directories (or single files) that an agent may reach, and the names of what is in them.

    A name is relative to the root. Where there are several, it begins with the root as the manifest
    has it, relative to the manifest's directory. A path is understood in the same way; relative to
    the manifest's directory and absolute paths are understood too, if they lead below a root.
    """

    def __init__(self, allowed_paths: Sequence[str], base: Path | None) -> None:
        self._base = os.path.abspath(base or ".")
        self._roots = tuple(
            dict.fromkeys(os.path.join(self._base, os.fspath(path)) for path in allowed_paths)
        )

    def __str__(self) -> str:
        return ", ".join(map(self._label, self._roots)) or "nothing"

    def find(self, path: str) -> _Place:
        """Return the place that a path means, whether or not there is something.

        Raises:
          CapabilityDeniedError: if it lies outside of every root, or is reached through a link that
            leads out.
          ToolError: if it cannot be a path.
        """
        readings = _readings(path)
        if len(readings) > 1:
            path = next(filter(self._exists, readings), path)
        return self._find(path)

    def _exists(self, path: str) -> bool:
        try:
            return os.path.lexists(self._find(path).path)
        except (CapabilityDeniedError, ToolError):
            return False

    def _find(self, path: str) -> _Place:
        if "\0" in path:
            raise ToolError("a path cannot hold a NUL character")
        try:
            in_base = self.locate(os.path.join(self._base, path))
            in_roots = [] if os.path.isabs(path) else self._in_roots(path)
        except (OSError, ValueError) as error:
            raise ToolError(f"{path!r} cannot be a path: {error}") from error
        place = self._choose(in_base, in_roots)
        if place is None:
            raise CapabilityDeniedError(f"{path!r} is outside of what this agent may reach, which is: {self}")
        return place

    def _in_roots(self, path: str) -> list[_Place]:
        folders = [root for root in self._roots if not os.path.isfile(root)]
        return [place for root in folders if (place := self.locate(os.path.join(root, path)))]

    def _choose(self, in_base: _Place | None, in_roots: list[_Place]) -> _Place | None:
        """Choose what exists; for something new, what has a directory to be in."""
        if len(self._roots) > 1:
            found = next((place for place in in_roots if os.path.lexists(place.path)), None)
            return found if in_base is None else in_base
        places = [*in_roots, in_base] if in_base else in_roots
        found = next((place for place in places if os.path.lexists(place.path)), None)
        ready = next((place for place in places if os.path.isdir(os.path.dirname(place.path))), None)
        return found or ready or in_base or next(iter(places), None)

    def find_all(self, path: str) -> list[_Place]:
        """Return the places that a path means: every root if it is `.` or empty.

        Raises:
          CapabilityDeniedError, ToolError: as `find`.
        """
        if path in ("", ".", "./"):
            return [place for root in self._roots if (place := self.locate(root))]
        return [self.find(path)]

    def locate(self, path: str) -> _Place | None:
        """Return where a path really leads to; None if that is below no root."""
        real = os.path.realpath(path)
        for root in self._roots:
            real_root = os.path.realpath(root)
            below = _below(real, real_root)
            if below is not None:
                return _Place(real_root, below, self._name(real_root, below))
        return None

    def _name(self, real_root: str, parts: tuple[str, ...]) -> str:
        name = "/".join(parts)
        if len(self._roots) < 2 and (parts or not os.path.isfile(real_root)):
            return name or "."
        label = next(self._label(root) for root in self._roots if os.path.realpath(root) == real_root)
        return f"{label}/{name}" if name else label

    def _label(self, root: str) -> str:
        return Path(os.path.relpath(root, self._base)).as_posix()


def _below(path: str, root: str) -> tuple[str, ...] | None:
    if path == root:
        return ()
    prefix = root if root.endswith(os.sep) else root + os.sep
    return tuple(path[len(prefix) :].split(os.sep)) if path.startswith(prefix) else None


def shown(name: str) -> str:
    """Return a name as the model is told it: on one line, as a string of JSON where it is odd."""
    return json.dumps(name) if _ODD.search(name) else name


def _readings(path: str) -> list[str]:
    """Return what a path may mean: as it is written, as `shown` writes odd names, without white space."""
    bare = path.strip()
    readings = [path, bare, bare.strip("`'\"")]
    if bare.startswith('"'):
        with suppress(ValueError):
            readings.insert(1, json.loads(bare))
    return [reading for reading in dict.fromkeys(readings) if reading]


# -- opening what was found -----------------------------------------------------------


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Say in words what the system refuses."""
    try:
        yield
    except FileNotFoundError:
        raise ToolError(f"there is no file {name!r}") from None
    except IsADirectoryError:
        raise ToolError(f"{name!r} is a directory") from None
    except OSError as error:
        raise ToolError(f"{name!r} cannot be used: {error.strerror or error}") from error


@contextmanager
def _directory(root: str, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """Open a directory by walking down from its root, following no link.

    A path is resolved first, so it holds no link; if one has been put there since, this refuses it.
    """
    if create:
        os.makedirs(root, exist_ok=True)
    fd = os.open(root, os.O_RDONLY | _DIRECTORY | _CLOEXEC)
    try:
        for part in parts:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
            below = os.open(part, os.O_RDONLY | _DIRECTORY | _NOFOLLOW | _CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def _open_file(place: _Place) -> int:
    flags = os.O_RDONLY | _NONBLOCK | _CLOEXEC | _BINARY
    if not place.parts:  # the root is a single file
        return os.open(place.root, flags | _NOFOLLOW)
    if _HAS_DIR_FD:
        with _directory(place.root, place.parts[:-1]) as fd:
            return os.open(place.parts[-1], flags | _NOFOLLOW, dir_fd=fd)
    fd = os.open(place.path, flags)  # pragma: no cover
    if os.path.realpath(place.path) != place.path:  # pragma: no cover
        os.close(fd)
        raise OSError("it changed while it was opened")
    return fd  # pragma: no cover


def _read_bytes(place: _Place) -> bytes:
    fd = _open_file(place)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise ToolError(f"{place.name!r} is a directory; list_files shows what is in it")
        if not stat.S_ISREG(status.st_mode):
            raise ToolError(f"{place.name!r} is no ordinary file")
        if status.st_size > MAX_FILE_BYTES:
            raise ToolError(f"{place.name!r} has {status.st_size} bytes; {MAX_FILE_BYTES} are the limit")
        with open(fd, "rb", closefd=False) as file:
            return file.read(MAX_FILE_BYTES)
    finally:
        os.close(fd)


def _decode(data: bytes, name: str) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what Windows calls Unicode
        with suppress(UnicodeDecodeError):
            text = data.decode("utf-16")
            if "\0" not in text:
                return text
    if b"\0" in data[:8192]:
        raise ToolError(f"{name!r} is a binary file, not text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ToolError(f"{name!r} is not UTF-8 text: byte {data[error.start]:#04x} in line {line}") from None


def _write_bytes(place: _Place, data: bytes) -> None:
    if not place.parts:
        _replace(os.path.dirname(place.root), os.path.basename(place.root), data, None)
    elif _HAS_DIR_FD:
        with _directory(place.root, place.parts[:-1], create=True) as fd:
            _replace("", place.parts[-1], data, fd)
    else:  # pragma: no cover
        os.makedirs(os.path.dirname(place.path), exist_ok=True)
        _replace(os.path.dirname(place.path), place.parts[-1], data, None)


def _replace(directory: str, name: str, data: bytes, fd: int | None) -> None:
    """Write a file beside the other one, and put it in its place: readers see the old or the new."""
    target = os.path.join(directory, name)
    temporary = os.path.join(directory, f".{os.urandom(8).hex()}.agentpool-tmp")
    mode = _mode(target, fd)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _CLOEXEC | _BINARY
    try:
        with open(os.open(temporary, flags, 0o666, dir_fd=fd), "wb") as file:
            file.write(data)
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
        os.replace(temporary, target, src_dir_fd=fd, dst_dir_fd=fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=fd)
        raise


def _mode(target: str, fd: int | None) -> int | None:
    try:
        status = os.stat(target, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no ordinary file")
    return stat.S_IMODE(status.st_mode)


# -- walking ---------------------------------------------------------------------------


def _walk(roots: Roots, place: _Place, hidden: bool) -> Iterator[_Place]:
    """Yield the files of a directory, by name; links to directories are not followed.

    What is hidden (a name that begins with a dot) is left out, unless `hidden`. A link to a file
    counts if its target lies below a root.
    """
    if os.path.isfile(place.path):
        yield place
        return
    visited = 0
    for directory, folders, files in os.walk(place.path):
        folders[:] = sorted(folder for folder in folders if hidden or not folder.startswith("."))
        below = _below(directory, place.path) or ()
        for file in sorted(files):
            visited += 1
            if visited > MAX_VISITED:
                raise ToolError(f"{place.name!r} holds more than {MAX_VISITED} files; look further below it")
            found = None if file.startswith(".") and not hidden else _file(roots, place, (*below, file))
            if found is not None:
                yield found


def _file(roots: Roots, place: _Place, below: tuple[str, ...]) -> _Place | None:
    path = os.path.join(place.path, *below)
    name = "/".join(below if place.name == "." else (place.name, *below))
    found: _Place | None = _Place(place.root, (*place.parts, *below), name)
    if os.path.islink(path) and (found := roots.locate(path)) is not None:
        found = attrs.evolve(found, name=name)
    return found if found is not None and os.path.isfile(found.path) else None


def glob_matcher(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether a name fits a glob.

    `*`, `?` and `[...]` stay within one part of the name, `**` is any number of parts, and
    `{a,b}` is either. A pattern without a slash fits the last part, in every directory; one that
    ends with a slash fits all that is below. A part that begins with a dot is fitted only by one that
    does. The name that is written like the pattern fits, too. Takes time in proportion to the length
    of name and pattern, whatever they are.

    Raises:
      ToolError: if braces stand for more than `MAX_ALTERNATIVES` patterns.
    """
    pattern = pattern.strip().replace("\\", "/") or "**"
    whole = pattern.removeprefix("./").lstrip("/")
    fits = [_matcher(each) for each in dict.fromkeys((whole, *_alternatives(whole)))]
    return lambda name: name == whole or any(match(name) for match in fits)


def _alternatives(pattern: str) -> list[str]:
    """Return the patterns that braces stand for: `*.{ts,js}` is `*.ts` and `*.js`."""
    done: list[str] = []
    todo = [pattern]
    while todo:
        each = todo.pop()
        found = _BRACES.search(each)
        if found is None:
            done.append(each)
        else:
            todo += [each[: found.start()] + part + each[found.end() :] for part in found[1].split(",")]
        if len(done) + len(todo) > MAX_ALTERNATIVES:
            raise ToolError(
                f"{pattern!r} stands for more than {MAX_ALTERNATIVES} patterns; write fewer braces"
            )
    return done


_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")  # the innermost; without a comma they are letters of a name


def _matcher(pattern: str) -> Callable[[str], bool]:
    parts = [part for part in pattern.split("/") if part != "."] or ["**"]
    parts = ["**", *parts] if len(parts) == 1 else parts
    parts = [*parts[:-1], "**"] if parts[-1] == "" else parts
    # `**.md` is `**/*.md`, as people mean it; `[^a]` is `[!a]`, as shells have it.
    parts = [new for part in parts for new in (("**", part) if part[:2] == "**" != part else (part,))]
    fits = [
        None if part == "**" else re.compile(fnmatch.translate(part.replace("[^", "[!"))).match
        for part in parts
    ]

    def reachable(states: set[int]) -> set[int]:
        for state in sorted(states):
            while state < len(fits) and fits[state] is None:
                state += 1
                states.add(state)
        return states

    def matches(name: str) -> bool:
        states = reachable({0})
        for part in name.split("/"):
            after = set()
            for state in states:
                if part[0:1] == "." and not (state < len(parts) and parts[state][0:1] == "."):
                    continue
                check = fits[state] if state < len(fits) else _never
                if check is None:
                    after.add(state)
                elif check(part):
                    after.add(state + 1)
            states = reachable(after)
        return len(fits) in states

    return matches


def _never(part: str) -> None:
    """Fit nothing: the pattern has come to its end."""


# -- the tools -------------------------------------------------------------------------


class FileReader:
    """`read_file`, `list_files` and `search_text` below the roots of a `FileReadCapability`."""

    def __init__(self, allowed_paths: Sequence[str], base: Path | None = None) -> None:
        self._roots = Roots(allowed_paths, base)

    @tool(capability=FileReadCapability(()), idempotent=True)
    def read_file(self, path: str, start_line: int = 1, max_lines: int | None = None) -> str:
        """Read a text file.

        Args:
          path: the file's path, as list_files names it.
          start_line: the first line to show, from 1.
          max_lines: how many lines to show at the most; left out, as many as fit.
        """
        if start_line < 1 or (max_lines is not None and max_lines < 1):
            raise ToolError("start_line and max_lines count from 1")
        place = self._roots.find(path)
        with _errors(place.name):
            text = _decode(_read_bytes(place), place.name)
        return _excerpt(text, start_line, max_lines)

    @tool(capability=FileReadCapability(()), idempotent=True)
    def list_files(self, path: str = ".", pattern: str = "**") -> str:
        """List the files below a directory, one name a line; hidden ones only if the pattern names their dot.

        Args:
          path: the directory; "." is everything.
          pattern: only files whose path below the directory fits, such as "*.{md,txt}" or "guide/**/*.md".
        """
        names: list[str] = []
        for file in self._files(path, pattern):
            if len(names) == MAX_NAMES:
                names.append(f"[cut: only the first {MAX_NAMES} files; ask for less]")
                break
            names.append(shown(file.name))
        return "\n".join(names) or f"no files fit {pattern!r} in {path!r}"

    @tool(capability=FileReadCapability(()), idempotent=True)
    def search_text(self, text: str, path: str = ".", pattern: str = "**", ignore_case: bool = False) -> str:
        """Search files for a text, and show each line that has it as `file:line: text`.

        Args:
          text: what to look for, literally.
          path: the directory or file to search; "." is everything.
          pattern: only files whose path below the directory fits, such as "*.md".
          ignore_case: whether upper and lower case are the same.
        """
        if not text:
            raise ToolError("give a text to search for")
        found: list[str] = []
        for line in self._matching_lines(text, path, pattern, ignore_case):
            if len(found) == MAX_MATCHES:
                found.append(f"[cut: only the first {MAX_MATCHES} lines; search for less]")
                break
            found.append(line)
        return "\n".join(found) or f"no line has {text!r}"

    def _files(self, path: str, pattern: str) -> Iterator[_Place]:
        hidden = re.search(r"(^|[/{,\\])\.[^./\\]", pattern) is not None
        for place in self._roots.find_all(path):
            fits = glob_matcher(pattern.removeprefix(place.path + os.sep))
            if not os.path.lexists(place.path):
                raise ToolError(f"there is no directory {place.name!r}")
            skipped = 0 if place.name == "." else len(place.name) + 1
            for file in _walk(self._roots, place, hidden):
                # Models write patterns below the directory, and below the root.
                if file == place or fits(file.name[skipped:]) or fits(file.name):
                    yield file

    def _matching_lines(self, text: str, path: str, pattern: str, ignore_case: bool) -> Iterator[str]:
        wanted = text.casefold() if ignore_case else text
        for file in self._files(path, pattern):
            try:
                content = _decode(_read_bytes(file), file.name)
            except (ToolError, OSError):
                continue  # binary, too large, gone: there is no text to search
            for number, line in enumerate(_lines(content), 1):
                if wanted in (line.casefold() if ignore_case else line):
                    yield f"{shown(file.name)}:{number}: {line.strip()[:MAX_LINE_CHARS]}"


def _lines(text: str) -> list[str]:
    """Split a text where editors and grep do, and not at form feeds and separators as `splitlines`."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _excerpt(text: str, start: int, count: int | None) -> str:
    if start == 1 and count is None and len(text) <= MAX_READ_CHARS:
        return text
    lines = _lines(text)
    if start > max(len(lines), 1):
        raise ToolError(f"the file has {len(lines)} lines, so that there is no line {start}")
    shown: list[str] = []
    size = 0
    for line in lines[start - 1 : None if count is None else start - 1 + count]:
        size += len(line)
        if size > MAX_READ_CHARS:
            break
        shown.append(line)
    if not shown and lines:  # one line that is too long by itself
        shown = [lines[start - 1][:MAX_READ_CHARS] + "[the line goes on]\n"]
    end = start - 1 + len(shown)
    note = (
        ""
        if end >= len(lines)
        else f"[lines {start} to {end} of {len(lines)}; go on with start_line={end + 1}]"
    )
    return "".join(shown) + note


class FileWriter:
    """`write_file` below the roots of a `FileWriteCapability`."""

    def __init__(self, allowed_paths: Sequence[str], base: Path | None = None) -> None:
        self._roots = Roots(allowed_paths, base)

    @tool(capability=FileWriteCapability(()), idempotent=True)
    def write_file(self, path: str, content: str) -> str:
        """Write a text file, in the place of what is there; missing directories are made.

        Args:
          path: the file's path.
          content: the whole text of the file.
        """
        try:
            data = content.encode()
        except UnicodeEncodeError as error:
            raise ToolError(f"the content is not valid text: {error.reason}") from None
        if len(data) > MAX_FILE_BYTES:
            raise ToolError(f"the content has {len(data)} bytes; {MAX_FILE_BYTES} are the limit")
        place = self._roots.find(path)
        if path.endswith(("/", os.sep)):
            raise ToolError(f"{path!r} names a directory; give the name of a file")
        with _errors(place.name):
            _write_bytes(place, data)
        return f"wrote {shown(place.name)} ({len(data)} bytes)"
