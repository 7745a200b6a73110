"""Results that are too long to be told: kept in files of the run, and read on by the model."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Hashable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import trio

from agentpool._blocking import run_blocking
from agentpool._core.content import Part, Text, parts_of
from agentpool._core.detection import KnownSecrets
from agentpool._core.errors import ToolError
from agentpool._core.messages import CompletionRequest, ToolCall, ToolDefinition, ToolResult, UserMessage
from agentpool._core.redaction import Redaction, restored
from agentpool._core.text import encodable
from agentpool.abc import HookContext, Hooks

FOLDER = "kept-results"
"""What models are told that the directory is called, where nobody has named one."""

_ROOM = 500
"""Characters that a shortened result has beside its head and tail."""

_NAME = re.compile(r"\d+-\d+-[0-9a-f]{16}\.txt")
_READ = "read_file"
_READ_KEPT = "read_kept_result"  # where a tool that reads something else is called `read_file`

_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)
_BINARY: int = getattr(os, "O_BINARY", 0)

_OFFSET = {"type": "integer", "minimum": 0, "description": "of a kept result: the character to begin at"}
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "the path that stands in the shortened result"},
        "offset": {"type": "integer", "minimum": 0, "description": "the character to begin at, from 0"},
        "start_line": {"type": "integer", "minimum": 1, "description": "or the line to begin at, from 1"},
        "max_lines": {"type": "integer", "minimum": 1, "description": "how many lines at the most"},
    },
    "required": ["path"],
    "additionalProperties": False,
}


def _at_least(least: int) -> Any:
    def check(_: object, attribute: attrs.Attribute[int], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{attribute.name} must be an int, not {value!r}")
        if value < least:
            raise ValueError(f"{attribute.name} must be at least {least}, not {value}")

    return check


def _as_path(directory: str | os.PathLike[str] | None) -> str | None:
    return None if directory is None else os.path.abspath(directory)


@attrs.frozen
class KeptResults(Hooks):
    """Hooks that keep tool results which are too long in files; the model is told where, and reads on.

    Every run has them from the first result on that its tools would cut: give them to say where, or how much.

    The model gets the head and the tail of such a result, and a path. `read_file` with that path reads on;
    an agent without `read_file` is shown one as soon as it has something to read, and that one reads kept
    results only. A path is known to whom it was told: an agent that is told it by another one of the same
    pool can read there too. Pictures and documents in a result stay as they are.

    With a journal the files are in a directory beside it (`run.db.kept`), and stay; without, in a temporary
    directory, made when it is needed and removed with the pool. They are for their owner alone (0600), and
    hold what the tools returned, behind the hooks that stand further inside, and behind each `Redact`: in
    whatever order both are given, this one stands outside of that. Secrets that a journal would not hold
    either (`SqliteJournal(secrets=...)`) are in no file: placeholders stand for them, and who reads on in the
    same pool gets them back; a run that is resumed does not. What cannot be written is cut as without this
    hook, and the model is told why.

    Attributes:
      directory: where each pool makes a directory of its own, which stays; None for the place told above.
      above: results with more characters than this are kept. What a registry cuts is more than its
        `max_result_chars`: this should not be above that.
      head, tail: how many characters of the beginning and the end are told.
      total: how many bytes a pool keeps; what goes beyond is cut. 0 keeps nothing: all is cut.

    Raises:
      TypeError, ValueError: if a number makes no sense, or `head` and `tail` are together above `above`.
    """

    directory: str | None = attrs.field(default=None, converter=_as_path)
    above: int = attrs.field(default=65_536, validator=_at_least(1_000), kw_only=True)
    head: int = attrs.field(default=8_000, validator=_at_least(0), kw_only=True)
    tail: int = attrs.field(default=4_000, validator=_at_least(0), kw_only=True)
    total: int = attrs.field(default=100_000_000, validator=_at_least(0), kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.head + self.tail > self.above - _ROOM:
            raise ValueError(
                f"head and tail ({self.head} + {self.tail}) are more than above ({self.above}) less {_ROOM},"
                " the room for the note between them"
            )

    async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> CompletionRequest:
        """Show the model how to read on, if there is something to read."""
        if not self.total or not request.tools:  # none in the last turn at a limit, which is for the answer
            return request
        store = await self._store_if_any(ctx)
        if store is None:
            return request
        if not store.has_for(ctx.id) and not (store.names and _tells_of(request, store)):
            return request
        tools, reader = _with_reader(request.tools)
        store.readers[ctx.id] = reader
        return attrs.evolve(request, tools=tools)

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall | ToolResult:
        """Read on in a kept result."""
        if call.name not in (_READ, _READ_KEPT) or call.problem or not self.total:
            return call
        store = await self._store_if_any(ctx)
        if store is None:
            return call
        name = store.name_of(call.input.get("path"))
        if name is not None:
            return await self._page(store, name, call.input)
        if store.readers.get(ctx.id) != call.name:
            return call
        raise ToolError("only kept results can be read: give the path that stands in a shortened result")

    async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
        """Keep a result that is too long."""
        text = _text_in(result)
        if len(text) <= self.above or not self.total:
            return result
        text = encodable(text)
        store = await self._store(ctx)
        try:
            path = await store.keep(ctx.id, text, ctx.journal_secrets)
        except OSError as error:
            why = f"[this result is too long, and could not be kept in a file: {error.strerror or error}]\n"
            return _with_text(result, why + text)
        return _with_text(result, self._told(text, path))

    def _told(self, text: str, path: str) -> str:
        left_out = len(text) - self.head - self.tail
        note = (
            f"[the result has {len(text)} characters; here are the first {self.head} and the last"
            f' {self.tail}. The whole is in {path}: read_file(path="{path}", offset={self.head}) reads on]\n'
        )
        tail = text[len(text) - self.tail :]
        return f"{note}{text[: self.head]}\n[{left_out} characters are left out here]\n{tail}"

    async def _page(self, store: _Store, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        offset, start_line, max_lines = (
            _number(arguments, key, least)
            for key, least in (("offset", 0), ("start_line", 1), ("max_lines", 1))
        )
        try:
            text = await store.read(name)
        except OSError as error:
            raise ToolError(f"the kept result {name} cannot be read: {error.strerror or error}") from error
        begin, end = _range(text, offset, start_line, max_lines)
        if begin > len(text) or (begin == len(text) and text):
            raise ToolError(f"the result has {len(text)} characters: give an offset below that")
        end = min(end, begin + self.above - _ROOM)
        note = f"\n[characters {begin} to {end} of {len(text)}; go on with offset={end}]"
        return ToolResult(text[begin:end] + (note if end < len(text) else ""))

    @property
    def _key(self) -> Hashable:
        return "agentpool.KeptResults", self.directory, self.total

    async def _store_if_any(self, ctx: HookContext) -> _Store | None:
        """Return what was kept, without opening anything for an agent that has nothing to read."""
        lasting = self.lasting(ctx.journal_path)
        if ctx.is_held(self._key) or _is_there(lasting):
            return await self._store(ctx)
        return None

    async def _store(self, ctx: HookContext) -> _Store:
        store: _Store = await ctx.hold(self._key, partial(_open_store, self, ctx.journal_path))
        return store

    def lasting(self, journal_path: str | None) -> str | None:
        """Return the directory of a run that has a journal: the same whenever it is resumed."""
        if journal_path is None:
            return None
        if self.directory is None:
            return f"{journal_path}.kept"
        return os.path.join(self.directory, f"{os.path.basename(journal_path)}.kept")


def kept_within(limit: int) -> KeptResults | None:
    """Return what keeps the results with more characters than a limit; None if a note has no room in that."""
    if limit < 1_000:
        return None
    return KeptResults(above=limit, head=min(8_000, limit // 4), tail=min(4_000, limit // 8))


# -- the files --------------------------------------------------------------------------------------


class _Store:
    """The kept results of one pool.

    Attributes:
      names: of the files.
      readers: by what name an agent's model is shown what reads them.
    """

    def __init__(self, settings: KeptResults, journal_path: str | None) -> None:
        self.names: set[str] = set()
        self._secrets: dict[str, tuple[str, ...]] = {}  # of the files that had some: never in a file
        self.readers: dict[int, str] = {}
        self._agents: set[int] = set()
        self._settings = settings
        self._journal_path = journal_path
        self._numbers = itertools.count(1)
        self._used = 0
        self._directory: str | None = None
        self._making = trio.Lock()

    @property
    def is_temporary(self) -> bool:
        """Whether its files go with the pool."""
        return self._settings.directory is None and self._journal_path is None

    def has_for(self, agent_id: int) -> bool:
        """Whether a result of an agent is there."""
        return agent_id in self._agents

    def name_of(self, path: object) -> str | None:
        """Return the name of the kept result that a path means; None if it means none."""
        if not isinstance(path, str):
            return None
        folder, name = os.path.split(path.strip().removeprefix("./"))
        if _NAME.fullmatch(name) and folder in (FOLDER, self._directory):
            return name
        return None

    # What blocks, in a thread.

    def find(self, directory: str) -> None:
        """Find what the run had kept before it was resumed."""
        with suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    self.names.add(entry.name)
                    self._agents.add(int(entry.name.partition("-")[0]))
                    self._used += entry.stat(follow_symlinks=False).st_size
            self._directory = directory
            self._numbers = itertools.count(len(self.names) + 1)

    def _made(self) -> str:
        above = self._settings.directory
        if above is not None:
            os.makedirs(above, exist_ok=True)
        lasting = self._settings.lasting(self._journal_path)
        if lasting is not None:
            with suppress(FileExistsError):
                os.mkdir(lasting, 0o700)
            if not stat.S_ISDIR(os.lstat(lasting).st_mode):
                raise NotADirectoryError(None, f"{lasting} is no directory")
            return lasting
        if above is None:
            return tempfile.mkdtemp(prefix="agentpool-kept-")
        for number in itertools.count(1):
            with suppress(FileExistsError):
                directory = os.path.join(above, f"run-{number}")
                os.mkdir(directory, 0o700)
                return directory
        raise AssertionError("unreachable")  # pragma: no cover

    def _write(self, name: str, data: bytes) -> None:
        assert self._directory is not None
        path = os.path.join(self._directory, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _CLOEXEC | _BINARY
        with open(os.open(path, flags, 0o600), "wb") as file:
            try:
                file.write(data)
                file.flush()
            except BaseException:
                with suppress(OSError):
                    os.unlink(path)
                raise

    def _read(self, name: str) -> str:
        if self._directory is None:
            raise FileNotFoundError(None, "there is no such result")
        fd = os.open(os.path.join(self._directory, name), os.O_RDONLY | _NOFOLLOW | _CLOEXEC | _BINARY)
        with open(fd, "rb") as file:
            text = file.read().decode("utf-8", "replace")
        secrets = self._secrets.get(name)
        whole: str = text if secrets is None else restored(text, secrets)
        return whole

    def remove(self) -> None:
        """Remove all of it."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    # What waits for it.

    async def keep(self, agent_id: int, text: str, known: Iterable[str] = ()) -> str:
        """Keep a text, and return the path that the model is told.

        Args:
          agent_id: whose it is.
          text: all of it.
          known: secrets, beside those that are found; none gets into the file.

        Raises:
          OSError: if it cannot be written, or there would be too much.
        """
        clean, secrets = await run_blocking(_without_secrets, text, tuple(known))
        data = clean.encode()
        if self._used + len(data) > self._settings.total:
            raise OSError(None, f"{self._settings.total} bytes is all that a pool keeps")
        self._used += len(data)
        try:
            async with self._making:
                if self._directory is None:
                    self._directory = await run_blocking(self._made)
            # Nobody guesses it; drawn from the program's own lot, so that a simulation decides it.
            name = f"{agent_id}-{next(self._numbers)}-{random.getrandbits(64):016x}.txt"
            await run_blocking(self._write, name, data)
        except BaseException:
            self._used -= len(data)
            raise
        if secrets:
            self._secrets[name] = secrets
        self.names.add(name)
        self._agents.add(agent_id)
        return f"{FOLDER if self._settings.directory is None else self._directory}/{name}"

    async def read(self, name: str) -> str:
        """Return a kept result.

        Raises:
          OSError: if it cannot be read.
        """
        return await run_blocking(self._read, name)


def _without_secrets(text: str, known: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Return a text with placeholders for its secrets, and these, for `restored`."""
    redaction = Redaction(KnownSecrets.of(known))
    clean: str = redaction.data(text)
    return clean, redaction.secrets


def _is_there(directory: str | None) -> bool:
    """Whether a directory is there that is no link; a look at it does not block for long."""
    return directory is not None and os.path.isdir(directory) and not os.path.islink(directory)


@asynccontextmanager
async def _open_store(settings: KeptResults, journal_path: str | None) -> AsyncIterator[_Store]:
    store = _Store(settings, journal_path)
    lasting = settings.lasting(journal_path)
    if lasting is not None and _is_there(lasting):
        await run_blocking(store.find, lasting)
    try:
        yield store
    finally:
        if store.is_temporary:
            with trio.CancelScope(shield=True):  # the holder gives it a deadline
                await run_blocking(store.remove)


# -- what the model is shown ------------------------------------------------------------------------


def _with_reader(tools: tuple[ToolDefinition, ...]) -> tuple[tuple[ToolDefinition, ...], str]:
    """Return tools of which one reads kept results, and the name of that one, if it does nothing else."""
    own = next((each for each in tools if each.name == _READ), None)
    if own is None:
        return (*tools, _reader(_READ)), _READ
    properties = own.input_schema.get("properties", {})
    if "path" not in properties:
        return (*tools, _reader(_READ_KEPT)), _READ_KEPT
    if "offset" in properties:
        return tools, ""
    schema = {**own.input_schema, "properties": {**properties, "offset": _OFFSET}}
    wider = attrs.evolve(own, input_schema=schema)
    return tuple(wider if each is own else each for each in tools), ""


def _reader(name: str) -> ToolDefinition:
    text = "Read on in a result that was too long to be shown, and was kept in a file."
    return ToolDefinition(name, text, _SCHEMA)


def _tells_of(request: CompletionRequest, store: _Store) -> bool:
    """Whether somebody has told the agent of a kept result of another one."""
    return any(
        found[0] in store.names
        for message in request.messages
        if isinstance(message, UserMessage)
        for found in _NAME.finditer(message.body)
    )


def _number(arguments: Mapping[str, Any], key: str, least: int) -> int | None:
    value = arguments.get(key)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return value
    raise ToolError(f"{key} is a whole number from {least} up, not {value!r}")


def _range(text: str, offset: int | None, start_line: int | None, max_lines: int | None) -> tuple[int, int]:
    """Return where what is asked for begins and ends."""
    begin = offset or 0
    if start_line is not None and offset is None:
        for line in range(1, start_line):
            begin = text.find("\n", begin) + 1
            if begin == 0:
                raise ToolError(f"the result has {line} lines, so that there is no line {start_line}")
    end = begin
    for _ in range(max_lines or 0):
        end = text.find("\n", end) + 1
        if end == 0:
            return begin, len(text)
    return begin, len(text) if max_lines is None else end


# -- results ----------------------------------------------------------------------------------------


def _text_in(result: ToolResult) -> str:
    if isinstance(result.content, str):
        return result.content
    return "\n".join(part.text for part in parts_of(result.content) if isinstance(part, Text))


def _with_text(result: ToolResult, text: str) -> ToolResult:
    """Return a result with another text, in the place of the first; what is no text stays."""
    if isinstance(result.content, str):
        return ToolResult(text, result.is_error)
    kept: list[Part] = []
    is_told = False
    for part in parts_of(result.content):
        if not isinstance(part, Text):
            kept.append(part)
        elif not is_told:
            kept.append(Text(text))
            is_told = True
    return ToolResult(tuple(kept), result.is_error)
