"""Type hints as pydantic takes them: what it cannot describe by itself is given a shape that it can."""

from __future__ import annotations

import collections.abc
import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin

import attrs
import pydantic
import pydantic_core
from typing_extensions import Doc, TypedDict

_typed_dict: Any = TypedDict  # type checkers want its fields to be written out


def described(hint: Any, *, default: Any = ...) -> Any:
    """Return a hint that pydantic can describe and check.

    Classes of attrs are checked field by field, and `typing.TypedDict` is understood by each Python.
    A text in `Annotated` is its description. A default of None means that None may be given, too.
    """
    if default is None:
        hint = _or_none(hint)
    return _Rewriting().of(hint)


def table(name: str, fields: Mapping[str, Any], optional: frozenset[str]) -> Any:
    """Return a `TypedDict` of fields, some of which may be left out; others than these may not be given."""
    hints = {key: NotRequired[hint] if key in optional else hint for key, hint in fields.items()}
    shape = _typed_dict(name, hints)
    shape.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    return shape


@attrs.frozen(eq=False)
class _Shape:
    """Stands in `Annotated` beside a class, and says how pydantic makes a value of it."""

    cls: type
    shapes: Mapping[type, Any]  # complete by the time that pydantic asks
    make: Callable[..., Any]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: pydantic.GetCoreSchemaHandler
    ) -> pydantic_core.CoreSchema:
        inner = handler.generate_schema(self.shapes[self.cls])
        return pydantic_core.core_schema.no_info_after_validator_function(self._made, inner)

    def _made(self, values: dict[str, Any]) -> Any:
        try:
            return self.make(**values)
        except TypeError as error:  # pydantic tells the model of a ValueError
            raise ValueError(str(error)) from error


class _Rewriting:
    def __init__(self) -> None:
        self._shapes: dict[type, Any] = {}

    def of(self, hint: Any) -> Any:
        origin, args = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return Annotated[(self.of(args[0]), *_told(args[1:]))]
        if isinstance(hint, typing.NewType):
            inner = self.of(hint.__supertype__)
            return hint if inner is hint.__supertype__ else inner
        if origin in (Union, types.UnionType):
            return Union[tuple(map(self.of, args))]  # noqa: UP007
        if isinstance(hint, types.GenericAlias) or hasattr(hint, "copy_with"):
            return self._generic(hint, args)
        return self._class(hint) if isinstance(hint, type) and origin is None else hint

    def _generic(self, hint: Any, args: tuple[Any, ...]) -> Any:
        if get_origin(hint) in (typing.Literal, collections.abc.Callable):
            return hint  # their arguments are no hints
        new = tuple(map(self.of, args))
        if new == args:
            return hint
        return hint.copy_with(new) if hasattr(hint, "copy_with") else types.GenericAlias(hint.__origin__, new)

    def _class(self, cls: type) -> Any:
        if hasattr(cls, "__get_pydantic_core_schema__") or hasattr(cls, "__pydantic_validator__"):
            return cls
        if attrs.has(cls):
            return self._shaped(cls, _attrs_fields, cls)
        if sys.version_info < (3, 12) and typing.is_typeddict(cls):
            return self._shaped(cls, _typed_dict_fields, dict)
        return self._dataclass(cls) if dataclasses.is_dataclass(cls) else cls

    def _shaped(
        self, cls: type, fields: Callable[[type], tuple[dict[str, Any], frozenset[str]]], make: Any
    ) -> Any:
        if cls not in self._shapes:
            self._shapes[cls] = None  # for a class that holds itself
            hints, optional = fields(cls)
            told = {key: self.of(hint) for key, hint in hints.items()}
            self._shapes[cls] = table(cls.__name__, told, optional)
        return Annotated[cls, _Shape(cls, self._shapes, make)]

    def _dataclass(self, cls: type) -> Any:
        """Leave it to pydantic, unless a field holds what pydantic does not know."""
        if cls not in self._shapes:
            self._shapes[cls] = None
            hints, optional = _dataclass_fields(cls)
            told = {key: self.of(hint) for key, hint in hints.items()}
            self._shapes[cls] = None if told == hints else table(cls.__name__, told, optional)
        return cls if self._shapes[cls] is None else Annotated[cls, _Shape(cls, self._shapes, cls)]


def _attrs_fields(cls: Any) -> tuple[dict[str, Any], frozenset[str]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = [field for field in attrs.fields(cls) if field.init]
    optional = frozenset(field.alias or "" for field in fields if field.default is not attrs.NOTHING)
    return {field.alias or "": hints.get(field.name, Any) for field in fields}, optional


def _typed_dict_fields(cls: type) -> tuple[dict[str, Any], frozenset[str]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    optional: set[str] = set(getattr(cls, "__optional_keys__", ()))
    for key, hint in hints.items():  # where hints are texts, Python did not see these words
        if get_origin(hint) in (NotRequired, Required):
            hints[key] = get_args(hint)[0]
            (optional.add if get_origin(hint) is NotRequired else optional.discard)(key)
    return hints, frozenset(optional)


def _dataclass_fields(cls: Any) -> tuple[dict[str, Any], frozenset[str]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    missing = dataclasses.MISSING
    optional = frozenset(
        field.name for field in fields if field.default is not missing or field.default_factory is not missing
    )
    return {field.name: hints[field.name] for field in fields}, optional


def _told(metadata: tuple[Any, ...]) -> tuple[Any, ...]:
    """Turn a text in `Annotated` into a description, as other libraries read it."""
    texts = [
        item if isinstance(item, str) else item.documentation
        for item in metadata
        if isinstance(item, str | Doc)
    ]
    is_told = any(getattr(item, "description", None) for item in metadata)
    rest = tuple(item for item in metadata if not isinstance(item, str | Doc))
    return (*rest, pydantic.Field(description=" ".join(texts))) if texts and not is_told else metadata


def _or_none(hint: Any) -> Any:
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        return Annotated[(_or_none(inner), *metadata)]
    if hint in (Any, None) or type(None) in get_args(hint) or None in get_args(hint):
        return hint
    return hint | None if isinstance(hint, type) else Union[hint, None]  # noqa: UP007
