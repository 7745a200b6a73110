"""What happened in a simulation, as values that compare and as bytes that stay the same."""

from __future__ import annotations

import difflib
import enum
import hashlib
import re
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, ClassVar, TypeVar, overload

import attrs

E = TypeVar("E")

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_MAX_DEPTH = 12


def describe(value: Any, depth: int = _MAX_DEPTH) -> str:
    """Return a text for `value` that is the same in every process.

    It holds no address, follows no hash order, and says of an exception its type and arguments.
    """
    if depth == 0:
        return "..."
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, BaseException):
        return _describe_error(value, depth - 1)
    if attrs.has(type(value)) and "__eq__" in vars(type(value)):  # a value, not an identity
        return _describe_fields(value, depth - 1)
    return _describe_container(value, depth - 1)


def _describe_error(error: BaseException, depth: int) -> str:
    arguments = [describe(argument, depth) for argument in error.args]
    return f"{type(error).__name__}({', '.join(arguments)})"


def _describe_fields(value: Any, depth: int) -> str:
    fields = [
        f"{field.name}={describe(getattr(value, field.name), depth)}"
        for field in attrs.fields(type(value))
        if field.repr  # what is not printed is long, and told elsewhere
    ]
    return f"{type(value).__name__}({', '.join(fields)})"


def _describe_container(value: Any, depth: int) -> str:
    if isinstance(value, Mapping):
        pairs = [f"{describe(key, depth)}: {describe(item, depth)}" for key, item in value.items()]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, Set):
        return f"{{{', '.join(sorted(describe(item, depth) for item in value))}}}"
    if isinstance(value, tuple):
        return f"({', '.join(describe(item, depth) for item in value)})"
    if isinstance(value, Sequence):
        return f"[{', '.join(describe(item, depth) for item in value)}]"
    if isinstance(value, types.FunctionType | types.MethodType | type):
        return f"<{value.__module__}.{value.__qualname__}>"
    return _ADDRESS.sub("", repr(value))


@attrs.frozen
class Note:
    """Something that the program itself wrote into the log.

    Attributes:
      time: seconds on the simulation's clock.
      text: what it wrote.
    """

    time: float
    text: str


@attrs.define(eq=False)
class EventLog(Sequence[Any]):
    """The events of a simulation's pools and the program's own notes, in the order they happened.

    Two logs are equal when their bytes are. Entries are `agentpool` events and `Note` values.
    """

    _entries: list[Any] = attrs.field(factory=list, alias="entries")

    def append(self, entry: Any) -> None:
        """Add an entry."""
        self._entries.append(entry)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EventLog):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        return f"<EventLog of {len(self)} entries, {self.digest[:12]}>"

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def lines(self) -> list[str]:
        """One line of text for each entry."""
        return [describe(entry) for entry in self._entries]

    def to_bytes(self) -> bytes:
        """Return the log as UTF-8 text: the same bytes in every process for the same seed."""
        return "".join(f"{line}\n" for line in self.lines).encode("utf-8", "backslashreplace")

    def __bytes__(self) -> bytes:
        return self.to_bytes()

    @property
    def digest(self) -> str:
        """The SHA-256 of `to_bytes()`, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def of(self, kind: type[E]) -> list[E]:
        """Return the entries of one type, such as `AgentFinished`, in order."""
        return [entry for entry in self._entries if isinstance(entry, kind)]

    def about(self, agent_id: int) -> list[Any]:
        """Return the events of one agent, in order."""
        return [entry for entry in self._entries if getattr(entry, "agent_id", None) == agent_id]

    def diff(self, other: EventLog) -> str:
        """Return where this log and another part, as a unified diff; empty if they are equal."""
        return "\n".join(difflib.unified_diff(self.lines, other.lines, "this", "other", lineterm="", n=2))
