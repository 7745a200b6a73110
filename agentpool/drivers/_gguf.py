"""Reading what a GGUF file says about the model in it, without loading the model."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

import attrs

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # 1 had shorter lengths, and is from the first month of the format
_MOST_TEXT = 64 * 1024 * 1024  # bytes; a longer one means that the file is no good

_MOST_ITEMS = 2**40

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT = 8
_ARRAY = 9

Value: TypeAlias = str | int | float | bool | None


class NoModelError(ValueError):
    """A path leads to no model; the text says what is there."""


@attrs.frozen
class ModelFile:
    """What is known of a model before it is loaded.

    Attributes:
      path: where it is.
      context_length: tokens that it was made for; None if the file does not say.
    """

    path: Path
    context_length: int | None


def look_at(path: Path) -> ModelFile:
    """Read the beginning of a model's file.

    Raises:
      NoModelError: if there is no file, or one that is no model.
    """
    if path.is_dir():
        raise NoModelError(f"{path} is a directory: name the .gguf file in it")
    try:
        with path.open("rb") as file:
            return ModelFile(path, _context_length(_entries(file)))
    except OSError as error:
        raise NoModelError(f"no model can be read from {path}: {error.strerror or error}") from None
    except (EOFError, RecursionError, struct.error):
        raise NoModelError(f"{path} ends within its header: it was not copied whole") from None
    except _NotGguf as problem:
        raise NoModelError(f"{path} is no GGUF file: {problem}") from None


def chat_templates(path: Path) -> Iterator[str]:
    """Yield the chat templates that a model brings along; reads past its vocabulary."""
    with path.open("rb") as file:
        for key, value in _entries(file):
            if key.startswith("tokenizer.chat_template") and isinstance(value, str):
                yield value


class _NotGguf(Exception):
    pass


def _context_length(entries: Iterator[tuple[str, Value]]) -> int | None:
    architecture = ""
    for key, value in entries:
        if key == "general.architecture":
            architecture = str(value)
        elif architecture and key == f"{architecture}.context_length" and isinstance(value, int):
            return value
        elif key == "general.type" and value in ("mmproj", "adapter"):
            raise _NotGguf(f"it holds no model but a part for one ({value})")
    return None


def _entries(file: BinaryIO) -> Iterator[tuple[str, Value]]:
    """Yield the keys and values of a header, in the file's order; an array is skipped, and is None."""
    magic = file.read(4)
    if magic != MAGIC:
        raise _NotGguf(f"it begins with {magic!r}" if magic else "it is empty")
    version, _, count = struct.unpack("<IQQ", file.read(20))
    if version not in VERSIONS:
        raise _NotGguf(f"its version is {version}, and only {VERSIONS[0]} and {VERSIONS[1]} are known")
    for _ in range(count):
        key = _text(file)
        yield key, _value(file, _number(file, "I"))


def _value(file: BinaryIO, kind: int) -> Value:
    if kind == _TEXT:
        return _text(file)
    if kind == _ARRAY:
        _skip_array(file)
        return None
    if kind not in _SCALARS:
        raise _NotGguf(f"it has a value of the unknown type {kind}")
    value: int | float | bool = struct.unpack(f"<{_SCALARS[kind]}", _exactly(file, _size(kind)))[0]
    return value


def _skip_array(file: BinaryIO) -> None:
    kind = _number(file, "I")
    count = _number(file, "Q")
    if count > _MOST_ITEMS:
        raise EOFError
    if kind in _SCALARS:
        file.seek(count * _size(kind), 1)
        return
    for _ in range(count):
        _value(file, kind)


def _text(file: BinaryIO) -> str:
    length = _number(file, "Q")
    if length > _MOST_TEXT:
        raise EOFError
    return _exactly(file, length).decode("utf-8", "replace")


def _number(file: BinaryIO, code: str) -> int:
    value: int = struct.unpack(f"<{code}", _exactly(file, struct.calcsize(code)))[0]
    return value


def _size(kind: int) -> int:
    return struct.calcsize(_SCALARS[kind])


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data
