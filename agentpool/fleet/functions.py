"""Agents that a fleet file names as `module:function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agentpool._loading import LoadProblem, load_callable

BESIDE = "the fleet file"


def load_function(reference: str, base: Path | None) -> Callable[..., Any]:
    """Import an agent's function: from a module beside the fleet file, or an installed one.

    Raises:
      LoadProblem: if there is no such function, its module fails to import, or it is not async.
    """
    function, _ = load_callable(reference, base, beside=BESIDE)
    problem = _why_no_agent(function)
    if problem is not None:
        text, fix = problem
        raise LoadProblem(f"'{reference}' {text}", fix)
    return function


def _why_no_agent(function: Callable[..., Any]) -> tuple[str, str] | None:
    if inspect.isclass(function):
        return "is a class", "Name an async function, or an object that can be called like one"
    if inspect.isasyncgenfunction(function):
        return "is an async generator", "Take the `yield` out: an agent returns one value"
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
        return None
    name = getattr(function, "__name__", "it")
    fix = f"Write `async def {name}(ctx, ...)`; what blocks goes into trio.to_thread.run_sync"
    return "is not async", fix


def check_call(
    function: Callable[..., Any],
    reference: str,
    query: str | None,
    args: Mapping[str, Any],
    *,
    whole: bool = True,
) -> None:
    """Refuse a function that does not take what the file gives it.

    Args:
      function: what was loaded.
      reference: what the file calls it.
      query: what it gets after its context; None for nothing.
      args: what it gets by name.
      whole: whether that is all that it gets.

    Raises:
      LoadProblem: with how it is called.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a callable of an extension module may have none
        return
    given = [] if query is None else [query]
    try:
        (signature.bind if whole else signature.bind_partial)(None, *given, **args)
    except TypeError as error:
        call = ", ".join(["ctx", *(["query"] if given else []), *(f"{name}=..." for name in args)])
        name = reference.partition(":")[2]
        raise LoadProblem(
            f"'{reference}' does not take what it is given: {error}",
            f"It is called as {name}({call}), and defined as {name}{signature}: "
            "change it, or 'query' and 'args' here",
        ) from None
