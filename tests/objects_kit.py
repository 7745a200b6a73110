"""Classes of which tests make values; a journal finds classes that stand at the top of a module."""

from __future__ import annotations

import dataclasses
import enum
import functools
from typing import Any, NamedTuple

import attrs
import pydantic


class Colour(enum.Enum):
    RED = 1
    ALSO_RED = 1
    BLUE = "blue"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


@attrs.frozen
class Point:
    x: Any
    y: Any = 0


@attrs.define
class Private:
    _hidden: Any
    shown: Any = attrs.field(alias="told", default=None)
    computed: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.shown is not None:
            self.computed = ("computed", self.shown)


@attrs.define(slots=False)
class Open:
    x: Any

    @functools.cached_property
    def lock(self) -> object:
        return object()


@attrs.frozen(cache_hash=True)
class Hashed:
    x: str


@attrs.frozen(cache_hash=True, slots=False)
class HashedDict:
    x: str


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: Any
    tags: frozenset[str] = frozenset()


@dataclasses.dataclass
class WithMore:
    x: Any
    unset: Any = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.twice = [self.x, self.x]


@dataclasses.dataclass
class Guarded:
    """A field whose place in the class is a property's."""

    amount: Any

    def __setattr__(self, name: str, value: Any) -> None:
        raise AssertionError("nothing of the class is called")


def _set(self: Guarded, value: Any) -> None:
    raise AssertionError("no setter is called")


Guarded.amount = property(lambda self: self.__dict__["_amount"], _set)


class Pair(NamedTuple):
    left: Any
    right: Any = None


class ShyPair(Pair):
    def __new__(cls, *args: Any) -> ShyPair:
        raise AssertionError("nothing of the class is called")


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    x: Any
    y: Any = pydantic.Field(default=0, alias="why")
    _kept: Any = pydantic.PrivateAttr(default=3)

    @functools.cached_property
    def lock(self) -> object:
        return object()


class Listed(list[int]):
    pass


@dataclasses.dataclass
class FieldsOnADict(dict[str, int]):
    x: int = 0


class Plain:
    pass


# -- exceptions


class KeywordsOnlyError(Exception):
    def __init__(self, *, code: int, of: Any = None) -> None:
        self.code = code
        self.of = of
        super().__init__(f"code {code}")


class TwoToOneError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class RudeError(Exception):
    """Raises wherever it is asked."""

    def __str__(self) -> str:
        raise ValueError("no text")

    def __reduce__(self) -> Any:
        raise ValueError("no parts")

    @property
    def args(self) -> Any:
        raise ValueError("no arguments")

    @property
    def answer(self) -> Any:
        raise ValueError("no answer")


class ReducedToTextError(Exception):
    def __reduce__(self) -> Any:
        return "a name"


class SlotError(Exception):
    __slots__ = ("code", "empty")

    def __init__(self, code: Any) -> None:
        self.code = code
        super().__init__(code)


@attrs.define
class FieldsError(Exception):
    x: Any


class NewError(Exception):
    def __new__(cls, *args: Any) -> NewError:
        if args != ("made",):
            raise AssertionError("nothing of the class is called")
        return super().__new__(cls, *args)


class PathError(OSError):
    pass


class ManyErrors(ExceptionGroup[Exception]):
    def __new__(cls, errors: list[Exception]) -> ManyErrors:
        return super().__new__(cls, "many", errors)

    def derive(self, excs: Any) -> Any:
        return ManyErrors(list(excs))
