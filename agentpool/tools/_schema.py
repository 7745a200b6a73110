"""What pydantic and docstring-parser are for: imported when a tool is first described or called."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs
import pydantic
import pydantic_core
from pydantic.json_schema import GenerateJsonSchema

from agentpool.tools._docstring import Described, read_docstring
from agentpool.tools._hints import described, table

_MAX_PROBLEMS = 20
_MAX_SHOWN = 80  # characters of a wrong value that are shown to the model


@attrs.frozen
class Parameter:
    """One argument that a model may give: its type hint, and its default if it has one."""

    hint: Any
    required: bool
    default: Any = ...  # there is none


@attrs.frozen
class Compiled:
    """A tool's arguments: the schema that the model sees, and the check of what it gives.

    Attributes:
      description: the docstring without its arguments.
      input_schema: the JSON schema of the arguments.
      validate: returns the arguments as the hints want them, or raises `invalid`.
      mended: returns the arguments as they were meant, if an `invalid` shows a habit of models.
      explain: says in words what an `invalid` found.
      as_json: returns checked arguments as JSON data; what JSON cannot say as a text.
    """

    description: str
    input_schema: Mapping[str, Any]
    validate: Callable[[Mapping[str, Any]], dict[str, Any]]
    mended: Callable[[Mapping[str, Any], pydantic.ValidationError], dict[str, Any] | None]
    explain: Callable[[pydantic.ValidationError], str]
    as_json: Callable[[Mapping[str, Any]], dict[str, Any]]
    invalid: type[pydantic.ValidationError] = pydantic.ValidationError


def compile_tool(
    name: str, parameters: Mapping[str, Parameter], doc: str | None, hidden: Collection[str] = ()
) -> Compiled:
    """Build the schema and the check for a tool's arguments, once per tool.

    Args:
      name: the tool's name.
      parameters: what the model may give.
      doc: the docstring, if there is one.
      hidden: the function's other parameters, which the docstring may describe.

    Raises:
      TypeError: if a hint has no JSON schema.
    """
    said = read_docstring(doc, parameters, hidden) if doc else Described("", {})
    try:
        fields = {key: described(p.hint, default=p.default) for key, p in parameters.items()}
        optional = frozenset(key for key, p in parameters.items() if not p.required)
        adapter: pydantic.TypeAdapter[dict[str, Any]] = pydantic.TypeAdapter(
            table("Arguments", fields, optional)
        )
        schema = adapter.json_schema(schema_generator=_JsonSchema)
    except Exception as error:  # a hint may be of any class, whose hooks run here
        raise TypeError(
            f"tool {name!r} has an argument that cannot be described to a model: "
            f"{getattr(error, 'message', error)}; "
            "use types that JSON can carry (a context is recognised by its annotation or the name `ctx`)"
        ) from error

    def explain(error: pydantic.ValidationError) -> str:
        return _explain(name, list(parameters), error)

    def mended(arguments: Mapping[str, Any], error: pydantic.ValidationError) -> dict[str, Any] | None:
        return _mended(arguments, error, optional)

    _complete(schema, parameters, said.arguments)
    _check_defaults(schema)
    return Compiled(said.text, schema, adapter.validator.validate_python, mended, explain, _as_json)


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = pydantic_core.to_jsonable_python(values, fallback=_plain, inf_nan_mode="strings")
    return data


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
    return str(value)


def _complete(
    schema: dict[str, Any], parameters: Mapping[str, Parameter], described: Mapping[str, str]
) -> None:
    """Add what the docstring and the defaults say; take out titles, which only repeat the names."""
    schema.pop("title", None)
    for key, entry in schema.setdefault("properties", {}).items():
        entry.pop("title", None)
        if key in described:
            entry.setdefault("description", described[key])
        parameter = parameters[key]
        if not parameter.required and parameter.default is not None:
            try:
                entry.setdefault("default", pydantic_core.to_jsonable_python(parameter.default))
            except (pydantic_core.PydanticSerializationError, ValueError):
                pass  # the schema only shows it; Python's own default is what counts


class _JsonSchema(GenerateJsonSchema):
    """A default that JSON cannot carry is not shown, and nobody has to be warned of that."""

    ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})  # type: ignore[assignment]


def _check_defaults(node: Any) -> None:
    """Take out, everywhere in a schema, the defaults that are no JSON: NaN, infinity, huge numbers."""
    if isinstance(node, dict):
        if "default" in node and not _is_json(node["default"]):
            del node["default"]
        node = list(node.values())
    for below in node if isinstance(node, list) else ():
        _check_defaults(below)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


# -- habits of models ----------------------------------------------------------------


def _mended(
    arguments: Mapping[str, Any], error: pydantic.ValidationError, optional: Collection[str]
) -> dict[str, Any] | None:
    """Return the arguments without two habits of models, None if they have neither.

    `null` for what may be left out is left out, if the hint does not want it. An array or an object
    that was written as a text is read.
    """
    wrong = {problem["loc"][0] for problem in error.errors(include_url=False) if problem["loc"]}
    mended = {
        key: _unwrapped(value) if key in wrong else value
        for key, value in arguments.items()
        if not (key in wrong and key in optional and value is None)
    }
    return None if mended == arguments else mended


def _unwrapped(value: object) -> object:
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


# -- problems, in words -------------------------------------------------------------


def _explain(name: str, names: list[str], error: pydantic.ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False)
    lines = [f"- {_problem(problem, names)}" for problem in problems[:_MAX_PROBLEMS]]
    if len(problems) > _MAX_PROBLEMS:
        lines.append(f"- and {len(problems) - _MAX_PROBLEMS} more")
    return "\n".join([f"{name} was not called, because its arguments are wrong:", *lines])


def _problem(problem: Any, names: list[str]) -> str:
    path = _path(problem["loc"])
    if problem["type"] == "missing":
        return f"{path}: is missing"
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
        return f"{path}: is no argument of this tool; {_suggest(path, names)}"
    words = problem["msg"].removeprefix("Input ")
    return f"{path}: {words[:1].lower()}{words[1:]} (got {_shown(problem['input'])})"


def _path(loc: tuple[int | str, ...]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return path.removeprefix(".") or "the arguments"


def _suggest(given: str, names: list[str]) -> str:
    close = difflib.get_close_matches(given, names, 1)
    if close:
        return f"did you mean {close[0]}?"
    return f"its arguments are: {', '.join(names)}" if names else "it takes none"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
