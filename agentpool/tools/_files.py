"""The file tools: they reach what lies below a granted root, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agentpool._blocking import run_blocking
from agentpool._core.capability import FileReadCapability, FileWriteCapability
from agentpool._core.errors import CapabilityDeniedError, ToolError
from agentpool.abc import ToolContext, Versions
from agentpool.tools._editing import edited
from agentpool.tools._function import tool
from agentpool.tools._lines import decoded
from agentpool.tools._places import Place, Roots, open_regular, opened_parent, shown, told_errors
from agentpool.tools._reading import read_opened, seen_excerpt
from agentpool.tools._searching import files_below, matching_lines
from agentpool.tools._versions import Sight, versions_of
from agentpool.tools._writing import alone_with, refuse_if_large, replace, state_of, status_of, write_text

MAX_NAMES = 1_000
MAX_MATCHES = 200
_EDIT_TRIES = 3


class FileReader:
    """`read_file`, `list_files` and `search_text` below the roots of a `FileReadCapability`."""

    def __init__(
        self, allowed_paths: Sequence[str], base: Path | None = None, *, follows_links: bool = True
    ) -> None:
        self._roots = Roots(allowed_paths, base, follows_links=follows_links)

    @property
    def roots(self) -> Roots:
        """What may be read."""
        return self._roots

    @tool(capability=FileReadCapability(()), idempotent=True)
    async def read_file(
        self,
        ctx: ToolContext,
        path: str,
        start_line: int = 1,
        max_lines: int | None = None,
        start_column: int = 1,
    ) -> str:
        """Read a text file.

        Args:
          path: the file's path, as list_files names it.
          start_line: the first line to show, from 1.
          max_lines: how many lines to show at the most; left out, as many as fit.
          start_column: the first character of start_line to show, from 1; for lines that are very long.
        """
        versions = versions_of(ctx)
        ticket = None if versions is None else versions.ticket()
        text, place, data = await run_blocking(
            seen_excerpt, self._roots, path, start_line, max_lines, start_column
        )
        if versions is not None:  # here, where it is on its way to the model
            Sight(place, versions).saw(data, ticket)
        return text

    @tool(capability=FileReadCapability(()), idempotent=True)
    def list_files(self, path: str = ".", pattern: str = "**") -> str:
        """List the files below a directory, one name a line; hidden ones only if the pattern names their dot.

        Args:
          path: the directory; "." is everything.
          pattern: only files whose path below the directory fits, such as "*.{md,txt}" or "guide/**/*.md".
        """
        names: list[str] = []
        for file in files_below(self._roots, path, pattern):
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
        for line in matching_lines(self._roots, text, path, pattern, ignore_case):
            if len(found) == MAX_MATCHES:
                found.append(f"[cut: only the first {MAX_MATCHES} lines; search for less]")
                break
            found.append(line)
        return "\n".join(found) or f"no line has {text!r}"


class FileWriter:
    """`write_file` below the roots of a `FileWriteCapability`.

    What its agent may read as well it overwrites only as the agent knows it. Who may only write could not
    look at what is new, and is to learn nothing of it.
    """

    def __init__(
        self,
        allowed_paths: Sequence[str],
        base: Path | None = None,
        *,
        follows_links: bool = True,
        readable: Roots | None = None,
    ) -> None:
        self._roots = Roots(allowed_paths, base, follows_links=follows_links)
        self._readable = readable

    @property
    def roots(self) -> Roots:
        """What may be written."""
        return self._roots

    @tool(capability=FileWriteCapability(()), idempotent=True)
    async def write_file(self, ctx: ToolContext, path: str, content: str) -> str:
        """Write a text file, in the place of what is there; missing directories are made.

        What is there keeps its encoding, and line breaks of Windows. A file that somebody else has changed
        since you read it has to be read again first.

        Args:
          path: the file's path.
          content: the whole text of the file.
        """
        return await run_blocking(self._written, versions_of(ctx), path, content)

    def _written(self, versions: Versions | None, path: str, content: str) -> str:
        place = self._roots.find(path)
        if path.endswith(("/", os.sep)):
            raise ToolError(f"{path!r} names a directory; give the name of a file")
        with told_errors(place.name):
            try:
                size, kept = write_text(place, content, self._sight(place, versions))
            except UnicodeEncodeError as error:
                raise ToolError(f"the content is not valid text: {error.reason}") from None
        return f"wrote {shown(place.name)} ({size} bytes{f', with {kept}' if kept else ''})"

    def _sight(self, place: Place, versions: Versions | None) -> Sight:
        is_read = self._readable is not None and self._readable.locate(place.path) is not None
        return Sight(place, versions if is_read else None)


class FileEditor:
    """`edit_file`, for what may be read and written.

    Who may only write a file is not to learn what it holds, and the errors of an edit tell of that.
    """

    def __init__(self, readable: Roots, writable: Roots) -> None:
        self._readable = readable
        self._writable = writable

    # Not idempotent: what was replaced may hold what is looked for, and would be replaced again.
    @tool(capability=FileWriteCapability(()))
    async def edit_file(
        self, ctx: ToolContext, path: str, old: str, new: str, replace_all: bool = False
    ) -> str:
        r"""Replace a text in a file by another one, exactly as they are given.

        Both are plain text without line numbers or patterns. The file keeps its encoding and line breaks. A
        file that somebody else has changed since you read it has to be read again first.

        Args:
          path: the file's path, as list_files names it.
          old: the text to replace, with its white space; it has to be in the file once.
          new: the text to put in its place.
          replace_all: replace old wherever it is in the file.
        """
        return await run_blocking(self._edited, versions_of(ctx), path, (old, new, replace_all))

    def _edited(self, versions: Versions | None, path: str, change: tuple[str, str, bool]) -> str:
        place = self._place(path)
        sight = Sight(place, versions)
        with told_errors(place.name), alone_with(place), opened_parent(place) as (name, dir_fd):
            for _ in range(_EDIT_TRIES):
                done = self._edit(sight, name, dir_fd, change)
                if done is not None:
                    return done
        raise ToolError(f"{place.told} is being changed by somebody else; try again")

    def _place(self, path: str) -> Place:
        """Find the file as it is read, or as it was written, and see that it may be both."""
        try:
            place = self._readable.find(path)
        except CapabilityDeniedError:
            place = None
        if place is None or not os.path.lexists(place.path):
            written = self._writable.find(path)
            place = self._readable.locate(written.path)
            if place is None:
                raise CapabilityDeniedError(
                    f"{path!r} may be written, but not read, and an edit needs both; what may be read is:"
                    f" {self._readable}"
                )
        if self._writable.locate(place.path) is None:
            raise CapabilityDeniedError(
                f"{path!r} may be read, but not written; what may be written is: {self._writable}"
            )
        return place

    def _edit(self, sight: Sight, name: str, dir_fd: int | None, change: tuple[str, str, bool]) -> str | None:
        """Edit the file once; None if it was changed meanwhile, by another program."""
        place, is_known = sight.place, sight.is_known
        fd, before = open_regular(place, name, dir_fd)
        try:
            data = read_opened(place, fd, before)
        finally:
            os.close(fd)
        sight.refuse_unseen(data)
        file = decoded(data, place.told)
        old, new, replace_all = change
        result = edited(file.text, old, new, replace_all=replace_all, name=place.told)
        try:
            changed = file.encoded(result.text)
        except UnicodeEncodeError as error:
            raise ToolError(f"new is not valid text: {error.reason}") from None
        refuse_if_large(changed, f"{place.told} after the edit")
        now = status_of(name, dir_fd)
        if now is None or state_of(now) != state_of(before):
            return None
        replace(name, changed, dir_fd, now)
        if is_known:  # of a file that it has not read it knows but the place that it has changed
            sight.saw(changed)
        return f"edited {shown(place.name)}, {result.told()}"
