"""`@tool`: a function that a model may call."""

from __future__ import annotations

import builtins
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

import attrs
import trio

from agentpool._blocking import run_blocking
from agentpool._core.capability import CAPABILITY_TYPES, Capability
from agentpool._core.messages import ToolDefinition, ToolResult
from agentpool._objects import found_again, reference_of
from agentpool.abc import ToolContext
from agentpool.tools._results import as_result, listed

if TYPE_CHECKING:
    import pydantic

    from agentpool.tools._schema import Compiled

P = ParamSpec("P")
R = TypeVar("R")

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what every provider accepts
_CONTEXTS = ("AgentContext", "ToolContext")


@overload
def tool(fn: Callable[P, R], /) -> FunctionTool[P, R]: ...
@overload
def tool(
    fn: Callable[P, R],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    capability: Capability | None = None,
    timeout: float | None = None,
    quick: bool = False,
    idempotent: bool | None = None,
) -> FunctionTool[P, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    capability: Capability | None = None,
    timeout: float | None = None,
    quick: bool = False,
    idempotent: bool | None = None,
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...
def tool(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    capability: Capability | None = None,
    timeout: float | None = None,
    quick: bool = False,
    idempotent: bool | None = None,
) -> Any:
    """Make a function into a tool that a model may call.

    The model sees the function's name, its docstring, and a JSON schema of its arguments made from
    the type hints. What the model gives is checked before the function runs; `null` for an argument
    that may be left out, and JSON in a text where an array or object is wanted, are understood. A
    parameter annotated with `AgentContext` (or `ToolContext`), or a first one named `ctx`, receives the
    context of the calling agent and is not shown. The decorated function can still be called as
    before; methods, partials and callable objects work too.

    A `str`, a `ToolResult`, or a `Text`, `Image` or `Document` goes to the model as it is, and so does
    a list that holds such parts; `None` goes as "ok", anything else as JSON, with the pictures and
    documents in it behind it. Of a generator the items are told, up to 10,000. An exception is told
    to the model as an error; raise `ToolError` where only its text should be.

    A function that is not async runs in a worker thread, and cannot be interrupted there. It must
    not call the context's methods from that thread (but through `trio.from_thread`).

    Args:
      fn: the function; leave it out to give the others and decorate with the result.
      name: in the place of the function's name; letters, digits, `_` and `-`, at most 64.
      description: in the place of the docstring's text; arguments are still described by it.
      capability: what a manifest must grant so that its agents have the tool.
      timeout: seconds that a call may take; `math.inf` for no limit, None for the loop's own.
      quick: run a function that is not async in the event loop, because it never blocks.
      idempotent: whether a call may be made again if the process died before its result was known. Of
        another one the model is told then that its result is unknown. Left out, it is one if the
        function itself reads `ctx.call_key`, which names the call for a service that does nothing twice.

    Raises:
      TypeError: if the function cannot be a tool (a hint is missing, `*args`, a generator, ...).
      ValueError: if the name or the timeout is none.
    """

    def decorate(function: Callable[..., Any]) -> FunctionTool[..., Any]:
        return FunctionTool(
            _declare(function, name, description, capability, timeout, quick, idempotent), function
        )

    return decorate if fn is None else decorate(fn)


@attrs.define(eq=False)
class _Declaration:
    """What a tool is, shared by its bound forms. `compiled` and `definition` are made when first needed."""

    function: Callable[..., Any]
    name: str
    description: str | None
    capability: Capability | None
    timeout: float | None
    quick: bool
    idempotent: bool
    is_async: bool
    is_method: bool
    context: str | None  # the parameter that receives the context
    parameters: tuple[inspect.Parameter, ...]  # those that the model gives
    names: Mapping[str, Any]  # what hints refer to that is local to a function around it
    compiled: Compiled | None = None
    definition: ToolDefinition | None = None

    def compile(self) -> Compiled:
        """Build schema and check; this imports pydantic."""
        from agentpool.tools import _schema

        hints = _resolve(self)
        fields = {
            p.name: _schema.Parameter(hints[p.name], p.default is p.empty, p.default) for p in self.parameters
        }
        hidden = _innermost_names(self.function) - fields.keys()
        compiled = _schema.compile_tool(self.name, fields, _doc(self.function), hidden)
        self.compiled = compiled
        return compiled


class FunctionTool(Generic[P, R]):
    """A function as a `Tool`; made by `tool`. Calling it calls the function.

    Attributes:
      name: the name that the model uses.
      capability: what a manifest must grant for it; None if nothing.
      timeout: seconds that a call may take; None for the loop's own limit.
      quick: whether it runs in the event loop although it is not async.
      idempotent: whether a call may be made again if nobody knows whether it had happened.
    """

    __name__: str

    def __init__(self, declaration: _Declaration, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, _innermost(function), updated=())
        self._declaration = declaration
        self._function = function
        self._bound = function is not declaration.function
        self.name: str = declaration.name
        self.capability: Capability | None = declaration.capability
        self.timeout: float | None = declaration.timeout
        self.quick: bool = declaration.quick
        self.idempotent: bool = declaration.idempotent
        self._runs_inline = (
            declaration.quick and not declaration.is_async and (self._bound or not declaration.is_method)
        )
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, unchecked."""
        return self._function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> FunctionTool[..., R]:
        """Bind a method, as a function does."""
        if instance is None or self._bound or not self._declaration.is_method:
            return self
        method: Callable[..., R] = self._function
        return FunctionTool(self._declaration, functools.partial(method, instance))

    def __repr__(self) -> str:
        return f"<tool {self.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Be found again by its name, or made again of its function: schemas are not sent."""
        declared = self._declaration
        if self._bound:
            instance = self._function.args[0]  # type: ignore[attr-defined]  # a partial, by `__get__`
            return getattr, (instance, self.__name__)
        # The main program has that name in its own process only.
        reference = None if declared.function.__module__ == "__main__" else reference_of(self)
        if reference is not None:
            return found_again, (reference,)
        options = {
            "name": declared.name,
            "description": declared.description,
            "capability": declared.capability,
            "timeout": declared.timeout,
            "quick": declared.quick,
            "idempotent": declared.idempotent,
        }
        return _tool_again, (declared.function, options, dict(declared.names))

    @property
    def definition(self) -> ToolDefinition:
        """How the model sees it. The first look imports pydantic and builds the schema.

        Raises:
          TypeError: if a hint cannot be evaluated or described to a model.
        """
        declaration = self._declaration
        if declaration.definition is None:
            compiled = declaration.compiled or declaration.compile()
            said = compiled.description if declaration.description is None else declaration.description
            declaration.definition = ToolDefinition(declaration.name, said, compiled.input_schema)
        return declaration.definition

    def taken(self, arguments: Mapping[str, Any]) -> Mapping[str, Any] | ToolResult:
        """Return the arguments as `call` takes them: checked, as JSON data, with all defaults.

        Wrong arguments give the result that `call` would give.
        """
        declaration = self._declaration
        compiled = declaration.compiled or declaration.compile()
        try:
            values = compiled.validate(arguments)
        except compiled.invalid as error:
            told = _mended(compiled, arguments, error)
            if told is None:
                return ToolResult(compiled.explain(error), is_error=True)
            values = told
        defaults = {p.name: p.default for p in declaration.parameters if p.default is not p.empty}
        return compiled.as_json({**defaults, **values})

    async def call(self, ctx: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Check the arguments and call the function.

        Wrong arguments give a result with `is_error` that names all of them. What the function
        raises comes out.

        Checkpoint: as the function does; a quick one only looks for cancellation. Cancellation:
        while a function runs in a thread it is waited for.
        """
        declaration = self._declaration
        compiled = declaration.compiled or declaration.compile()
        try:
            values = compiled.validate(arguments)
        except compiled.invalid as error:
            told = _mended(compiled, arguments, error)
            if told is None:
                return ToolResult(compiled.explain(error), is_error=True)
            values = told
        if declaration.context is not None:
            values[declaration.context] = ctx
        if self._runs_inline:  # as `_run` would, without a coroutine: 0.5 µs
            function: Callable[..., Any] = self._function
            await trio.lowlevel.checkpoint_if_cancelled()
            value = function(**values)
            value = await value if isinstance(value, CoroutineType) else value
            return as_result(value if isinstance(value, str) else listed(value))
        return as_result(await self._run(values))

    async def _run(self, values: dict[str, Any]) -> Any:
        function: Callable[..., Any] = self._function
        if self._declaration.is_method and not self._bound:
            raise TypeError(f"tool {self.name!r} is a method: take it from an instance")
        if self._declaration.is_async:
            return listed(await function(**values))
        # In the thread, because what comes out of a generator may block too.
        value = await run_blocking(lambda: listed(function(**values)))
        # A plain function may return a coroutine, as a decorated async one does.
        return listed(await value) if isinstance(value, CoroutineType) else value


def _tool_again(
    function: Callable[..., Any], options: Mapping[str, Any], names: Mapping[str, Any]
) -> FunctionTool[..., Any]:
    made: FunctionTool[..., Any] = tool(**options)(function)
    made._declaration.names = names
    return made


def _mended(
    compiled: Compiled, arguments: Mapping[str, Any], error: pydantic.ValidationError
) -> dict[str, Any] | None:
    """Return what was meant by wrong arguments; None if that is not clear, or wrong too."""
    mended = compiled.mended(arguments, error) if isinstance(arguments, Mapping) else None
    try:
        return None if mended is None else compiled.validate(mended)
    except compiled.invalid:
        return None


# -- the declaration ----------------------------------------------------------------


def _declare(
    fn: Callable[..., Any],
    name: str | None,
    description: str | None,
    capability: Capability | None,
    timeout: float | None,
    quick: bool,
    idempotent: bool | None,
) -> _Declaration:
    if not callable(fn) or isinstance(fn, type | FunctionTool):
        raise TypeError(
            f"{fn!r} cannot be made a tool; give a function (put @tool above @classmethod's function)"
        )
    inner = _innermost(fn)
    name = str(getattr(inner, "__name__", type(inner).__name__)) if name is None else name
    _check_options(name, capability, timeout)
    if any(check(target) for target in _callables(fn) for check in _GENERATORS):
        raise TypeError(f"tool {name!r} is a generator; return a list in its place")
    parameters = list(_signature(fn).parameters.values())
    is_method = bool(parameters) and _is_self(parameters[0])
    if is_method:
        del parameters[0]
    context = _find_context(name, parameters)
    fixed = fn.keywords if isinstance(fn, functools.partial) else {}
    given = tuple(p for p in parameters if p.name != context and p.name not in fixed)
    for parameter in given:
        _check_parameter(name, parameter)
    is_async = any(inspect.iscoroutinefunction(target) for target in _callables(fn))
    return _Declaration(
        fn,
        name,
        description,
        capability,
        timeout,
        quick,
        _reads_call_key(inner) if idempotent is None else idempotent,
        is_async,
        is_method,
        context,
        given,
        _local_names(fn, given),
    )


def _reads_call_key(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and "call_key" in code.co_names


_GENERATORS = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def _check_options(name: str, capability: Capability | None, timeout: float | None) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"models refuse the tool name {name!r}; give @tool(name=...) of at most 64 letters, digits, _, -"
        )
    if capability is not None and type(capability) not in CAPABILITY_TYPES.values():
        raise TypeError(
            f"the capability of tool {name!r} is {capability!r}; give one such as MemoryCapability()"
        )
    if timeout is not None and not timeout > 0:
        raise ValueError(f"the timeout of tool {name!r} is {timeout!r}; give seconds above 0")


def _check_parameter(tool_name: str, parameter: inspect.Parameter) -> None:
    where = f"parameter {parameter.name!r} of tool {tool_name!r}"
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TypeError(f"{where} takes any number of arguments, which a model cannot be told; name each one")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise TypeError(f"{where} is positional only, but models give arguments by name; take the / away")
    if parameter.annotation is parameter.empty:
        raise TypeError(f"{where} has no type hint, so that the model cannot be told what to give; add one")
    if type(parameter.default).__name__ == "FieldInfo":
        raise TypeError(f"{where} has a Field as its default; write Annotated[type, Field(...)] = default")


def _find_context(tool_name: str, parameters: list[inspect.Parameter]) -> str | None:
    found = [p.name for p in parameters if _is_context(p.annotation)]
    if not found and parameters and parameters[0].name == "ctx" and not _is_plain(parameters[0].annotation):
        found = ["ctx"]
    if len(found) > 1:
        raise TypeError(f"tool {tool_name!r} asks for the context twice ({', '.join(found)}); once is enough")
    for parameter in parameters:
        if parameter.name in found and parameter.kind is parameter.POSITIONAL_ONLY:
            _check_parameter(tool_name, parameter)
    return found[0] if found else None


def _is_context(annotation: Any) -> bool:
    """Tell by the name: the context's class is not imported here, nor perhaps by the tool's module."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return annotation.strip().strip("'\"").rpartition(".")[2] in _CONTEXTS
    if getattr(annotation, "__agentpool_context__", False):
        return True
    module = getattr(annotation, "__module__", None) or ""
    return module.partition(".")[0] == "agentpool" and getattr(annotation, "__name__", "") in _CONTEXTS


def _is_plain(annotation: Any) -> bool:
    """Tell whether it is a type of JSON's, which no context has."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return re.split(r"\W", text.strip("'\" "))[0] in ("str", "int", "float", "bool", "list", "dict")


def _is_self(parameter: inspect.Parameter) -> bool:
    return parameter.name in ("self", "cls") and parameter.annotation is parameter.empty


def _innermost(fn: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def _innermost_names(fn: Callable[..., Any]) -> set[str]:
    """Return the names of all parameters, also of those that a partial has given."""
    return set(_signature(_innermost(fn)).parameters)


def _doc(fn: Callable[..., Any]) -> str | None:
    """Return the docstring; of a callable object that of its `__call__`, else that of its class."""
    inner = _innermost(fn)
    call = _callables(fn)[-1]
    said = inspect.getdoc(call) if isinstance(call, types.FunctionType) else None
    return said or inspect.getdoc(inner)


def _callables(fn: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Return where `async def` may be written: the function, or the class of a callable object."""
    inner = _innermost(fn)
    if isinstance(inner, types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        return (inner,)
    return (inner, type(inner).__call__)


def _signature(fn: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):  # pragma: no cover
        import annotationlib

        return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(fn)


def _local_names(fn: Callable[..., Any], parameters: tuple[inspect.Parameter, ...]) -> dict[str, Any]:
    """Return what the texts of hints refer to in the functions of its module that are running.

    Under `from __future__ import annotations` that is lost when they have returned.
    """
    texts = " ".join(p.annotation for p in parameters if isinstance(p.annotation, str))
    known = _globals(fn)
    missing = {
        word for word in re.findall(r"[^\W\d]\w*", texts) if word not in known and not hasattr(builtins, word)
    }
    found: dict[str, Any] = {}
    frame = sys._getframe(1) if missing else None
    while frame is not None and missing - found.keys():
        if frame.f_globals is known:
            found = {**{word: frame.f_locals[word] for word in missing & set(frame.f_locals)}, **found}
        frame = frame.f_back
    return found


def _globals(fn: Callable[..., Any]) -> dict[str, Any]:
    inner = inspect.unwrap(_innermost(fn))
    if not hasattr(inner, "__globals__"):
        inner = inspect.unwrap(type(inner).__call__)
    return getattr(inner, "__globals__", {})


def _resolve(declaration: _Declaration) -> dict[str, Any]:
    """Evaluate the hints of the model's parameters, and of those only.

    The context's may stand under `TYPE_CHECKING`, and a return type is of no interest.
    """

    def carrier() -> None: ...

    carrier.__annotations__ = {p.name: p.annotation for p in declaration.parameters}
    names = _globals(declaration.function)
    try:
        return typing.get_type_hints(carrier, names, dict(declaration.names), include_extras=True)
    except Exception as error:
        raise TypeError(
            f"the type hints of tool {declaration.name!r} cannot be evaluated: {error}; "
            "import or define their names at the top of its module, not below TYPE_CHECKING"
        ) from error
