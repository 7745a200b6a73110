"""Hooks, as one run of the loop has them: which there are, and how a call goes through them.

    outermost hook: before, around -> next hook: before, around -> ... -> the call itself
                    after          <-            after          <- ... <-

Which methods the classes of hooks have is looked at once for a run. A call that has none around it does
not come here.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import attrs

from agentpool import abc
from agentpool._core.errors import Finding, ManifestError
from agentpool._core.manifest import AgentManifest
from agentpool._core.text import note, shown, told
from agentpool._kernel.leftovers import run_in_context, run_tidily, told_of
from agentpool._kernel.protection import await_unprotected, call_unprotected, protect_module
from agentpool._loading import LoadProblem, load_object
from agentpool._objects import NotDataError, found_again, object_from_data, object_to_data, reference_of

Method = Callable[..., Any]

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
T = TypeVar("T")


@attrs.frozen(eq=False)
class Layer:
    """One hook, as it stands around calls of one kind; a method that its class does not have is None."""

    hook: abc.Hooks
    before: Method | None
    around: Method | None
    after: Method | None


def layers_of(hooks: Iterable[abc.Hooks], kind: Literal["model", "tool"]) -> tuple[Layer, ...]:
    """Return those hooks that stand around calls of a kind, the outermost first."""
    layers = []
    for hook in hooks:
        own = [_own(hook, f"{when}_{kind}_call") for when in ("before", "around", "after")]
        if any(method is not None for method in own):
            layers.append(Layer(hook, *own))
    return tuple(layers)


def _own(hook: abc.Hooks, name: str) -> Method | None:
    method: Method = getattr(hook, name)
    return None if getattr(method, "__func__", method) is getattr(abc.Hooks, name) else method


def load_hooks(manifest: AgentManifest) -> tuple[abc.Hooks, ...]:
    """Return the hooks that a manifest names. Imports their modules, and so blocks on the disk.

    A class is called without arguments; a new object for each run.

    Raises:
      ManifestError: with a finding for each one that cannot be had.
    """
    hooks: list[abc.Hooks] = []
    findings: list[Finding] = []
    for n, spec in enumerate(manifest.hooks):
        try:
            hooks.append(_loaded(spec, manifest.base))
        except LoadProblem as error:
            findings.append(Finding(f"manifest {manifest.name!r}", f"hooks[{n}]", error.problem, error.fix))
    if findings:
        raise ManifestError(findings)
    return tuple(hooks)


def _loaded(spec: str, base: Path | None) -> abc.Hooks:
    found, _ = load_object(spec, base)
    if isinstance(found, type) and issubclass(found, abc.Hooks):
        try:
            return call_unprotected(found)  # type: ignore[no-any-return]
        except Exception as error:
            problem = f"{spec} cannot be made without arguments: {told(error)}"
            raise LoadProblem(problem, "Name an object that is made at the top of its module") from error
    if isinstance(found, abc.Hooks):
        return found
    fix = "Name a class that derives from agentpool.Hooks, or an object of one"
    raise LoadProblem(f"{spec} is no hook, but {shown(found)}", fix)


# -- in a journal -----------------------------------------------------------------------------------


def hook_to_data(hook: abc.Hooks, agent: str) -> Any:
    """Return a hook as JSON data: its fields, or, for an object without any, its class.

    Raises:
      NotDataError: if it has something that is no data, or its class is not found by its name.
    """
    reference = reference_of(type(hook))
    if reference is not None and not attrs.has(type(hook)) and not vars(hook):
        return reference
    try:
        return object_to_data(hook)
    except NotDataError as error:
        raise NotDataError(
            f"agent {agent!r} has the hook {shown(hook)}, which a journal cannot keep ({error}): write its"
            " class with attrs at the top of a module, or give it to the pool"
        ) from error


def hook_from_data(data: Any) -> abc.Hooks:
    """Return the hook of which `hook_to_data` made this."""
    hook: abc.Hooks = found_again(data)() if isinstance(data, str) else object_from_data(data)
    return hook


# -- a call -----------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Passage(Generic[Asked, Answer]):
    """How one call goes through hooks.

    Attributes:
      ctx: the agent.
      layers: the hooks, the outermost first.
      asked, answer: the types of what is asked, and of what comes of it.
      make: makes the call itself.
      check: raises for something asked that a hook may not ask for; gets what it was given, and that.
      contained: makes an answer of what was raised, or raises it again; None lets it through.
    """

    ctx: Any
    layers: tuple[Layer, ...]
    asked: type[Asked]
    answer: type[Answer]
    make: Callable[[Asked], Awaitable[Answer]]
    check: Callable[[Asked, Asked], None]
    contained: Callable[[BaseException], Answer] | None = None

    async def through(self, asked: Asked, depth: int = 0) -> Answer:
        """Return what something asked comes to behind the hooks from a depth on."""
        if depth == len(self.layers):
            return await self.make(asked)
        try:
            return await self._through_layer(asked, depth)
        except BaseException as error:
            if self.contained is None:
                raise
            return self.contained(error)

    async def _through_layer(self, asked: Asked, depth: int) -> Answer:
        layer = self.layers[depth]
        if layer.before is not None:
            changed = await self._returned(layer.before, asked)
            if isinstance(changed, self.answer):
                return changed
            asked = self._checked(layer.before, asked, changed)
        if layer.around is None:
            answer = await self.through(asked, depth + 1)
        else:
            answer = await self._around(layer.around, asked, depth)
        if layer.after is None:
            return answer
        return self._answer(layer.after, await self._returned(layer.after, asked, answer))

    async def _around(self, method: Method, asked: Asked, depth: int) -> Answer:
        inner = _Inner(self, method, asked, depth + 1)
        try:
            # What the driver raised comes through here: it is not the hook's.
            return self._answer(method, await _called(method, self.ctx, asked, inner))
        finally:
            inner.is_over = True

    async def _returned(self, method: Method, *args: Any) -> Any:
        try:
            return await _called(method, self.ctx, *args)
        except Exception as error:
            note(error, f"raised by the hook {told_method(method)}")
            raise

    def _answer(self, method: Method, value: object) -> Answer:
        if isinstance(value, self.answer):
            return value
        raise self._wrong(method, value, self.answer.__name__)

    def _checked(self, method: Method, given: Asked, value: object) -> Asked:
        if value is given:
            return given
        if not isinstance(value, self.asked):
            raise self._wrong(method, value, f"{self.asked.__name__} or a {self.answer.__name__}")
        self.check_asked(method, given, value)
        return value

    def check_asked(self, method: Method, given: Asked, value: Asked) -> None:
        """Raise `ValueError`, which names the hook, for something that it may not ask for."""
        try:
            self.check(given, value)
        except ValueError as error:
            raise ValueError(f"the hook {told_method(method)} {error}") from error

    def _wrong(self, method: Method, value: object, wanted: str) -> TypeError:
        forgotten = "; it has no `return` for this case" if value is None else ""
        name = told_method(method)
        return TypeError(f"the hook {name} has to return a {wanted}, not {shown(value)}{forgotten}")


class _Inner:
    """What `around_...` gets to go on with; it can be called until that has returned."""

    def __init__(self, passage: Passage[Any, Any], method: Method, given: Any, depth: int) -> None:
        self._passage = passage
        self._method = method
        self._given = given
        self._depth = depth
        self.is_over = False

    async def __call__(self, asked: Any) -> Any:
        kind = self._passage.asked
        if self.is_over:
            name = told_method(self._method)
            raise RuntimeError(f"the hook {name} has returned: what it was given to call makes no more calls")
        if not isinstance(asked, kind):
            name = told_method(self._method)
            raise TypeError(f"the hook {name} has to call with a {kind.__name__}, not {shown(asked)}")
        if asked is not self._given:
            self._passage.check_asked(self._method, self._given, asked)
        return await self._passage.through(asked, self._depth)


async def _called(method: Method, *args: Any) -> Any:
    returned = call_unprotected(method, *args)
    if not isinstance(returned, Awaitable):
        name = getattr(method, "__name__", "the method")
        raise TypeError(f"the hook {told_method(method)} is not async: write `async def {name}`")
    return await await_unprotected(lambda: returned)


def told_method(method: Method) -> str:
    """Return what a method of a hook is called in errors."""
    hook, name = getattr(method, "__self__", None), getattr(method, "__name__", None)
    return f"{type(hook).__name__}.{shown(method) if name is None else name}"


async def apart(run: Callable[[], Awaitable[T]], whose: str) -> T:
    """Run hooks so that nothing of them stays on the task: no variable, no scope, no nursery.

    Args:
      run: calls them, and what they stand around.
      whose: for the error about what was left open.
    """
    coro: Any = run()
    context = contextvars.copy_context()
    value, raised, left_open = await run_tidily(run_in_context, (context, coro))
    try:
        if raised is None and left_open:
            raised = RuntimeError(f"the hooks of {whose}: {told_of(left_open)}")
        if raised is not None:
            raise raised
        return value  # type: ignore[return-value]  # it is there if nothing was raised
    finally:
        del raised  # its traceback holds this frame


protect_module(globals())
