"""Typed answers: the JSON schema of a type, and how an answer becomes a value of it.

Loaded when the first typed answer is asked for, since it needs pydantic.
"""

from __future__ import annotations

import functools
import types
from typing import Annotated, Any, Union, get_args, get_origin

import attrs
import pydantic

from agentpool._core.answers import first_fit
from agentpool._core.outputs import OutputSpec, Parsed, Problems


def output_spec(output_type: Any, retries: int) -> OutputSpec:
    """Return what an answer has to be so that it becomes an `output_type`.

    Raises:
      TypeError: if neither pydantic nor attrs knows how to make such a value from JSON.
    """
    try:
        hash(output_type)
    except TypeError:
        adapter, schema = _read(output_type)
    else:
        adapter, schema = _read_once(output_type)

    def read(text: str) -> Parsed | Problems:
        try:
            return Parsed(adapter.validate_json(text))
        except pydantic.ValidationError as error:
            return Problems(tuple(_told(problem) for problem in error.errors(include_url=False)))

    return OutputSpec(schema, lambda text: first_fit(text, read), retries)


def _read(output_type: Any) -> tuple[pydantic.TypeAdapter[Any], dict[str, Any]]:
    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(_readable(output_type))
        return adapter, adapter.json_schema()
    except (pydantic.errors.PydanticUserError, pydantic.errors.PydanticInvalidForJsonSchema) as error:
        raise TypeError(
            f"output_type {output_type!r} cannot be read from JSON: use a pydantic model, an attrs class,"
            " a dataclass, or types such as list[str]"
        ) from error


@functools.lru_cache(maxsize=128)
def _read_once(output_type: Any) -> tuple[pydantic.TypeAdapter[Any], dict[str, Any]]:
    """A thousand agents share the milliseconds that pydantic takes to read a type."""
    return _read(output_type)


def _told(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


# -- attrs classes, which pydantic does not know ---------------------------------------


def _readable(kind: Any) -> Any:
    """Return a type that pydantic knows, and that becomes the same values."""
    if isinstance(kind, type) and attrs.has(kind) and not isinstance(kind, types.GenericAlias):
        return _model_of(kind)
    arguments = get_args(kind)
    readable = tuple(map(_readable, arguments))
    if readable == arguments:
        return kind
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return Union[readable]  # noqa: UP007 - built from a tuple
    if origin is Annotated:
        return Annotated[(readable[0], *kind.__metadata__)]
    assert origin is not None  # it has arguments
    return origin[readable]


def _model_of(kind: type[Any]) -> Any:
    """Return a pydantic model with the fields of an attrs class, which is turned into one after it."""
    attrs.resolve_types(kind)
    names: dict[str, str] = {}
    fields: dict[str, Any] = {}
    for field in attrs.fields(kind):
        if field.init:
            names[field.name] = field.alias or field.name
            fields[names[field.name]] = (_readable(field.type or Any), _default_of(field))
    config = pydantic.ConfigDict(extra="forbid", title=kind.__name__)
    model = pydantic.create_model(kind.__name__, __config__=config, **fields)

    def build(read: pydantic.BaseModel) -> Any:
        # What was left out is left to the class: its defaults may be factories that look at it.
        given = {alias: getattr(read, alias) for alias in read.model_fields_set}
        try:
            return kind(**given)
        except TypeError as error:
            raise ValueError(str(error)) from error

    return Annotated[model, pydantic.AfterValidator(build)]


def _default_of(field: attrs.Attribute[Any]) -> Any:
    if field.default is attrs.NOTHING:
        return ...
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        return pydantic.Field(default_factory=lambda: None)
    return field.default
