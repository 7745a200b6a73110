"""Making a program that breaks a promise small: fewer operations, fewer scripts, small numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from ._programs import Op, Program, Script


def kind_of(problem: str) -> str:
    """What two problems have in common that are the same but for who and how many."""
    return re.sub(r"[^a-z ]+", "", problem.lower())[:24]


def shrink(program: Program, still_fails: Callable[[Program], bool], most_runs: int = 2000) -> Program:
    """Return a smaller program that still fails."""
    runs = 0
    is_smaller = True
    while is_smaller and runs < most_runs:
        is_smaller = False
        for candidate in _smaller(program):
            runs += 1
            if still_fails(candidate):
                program, is_smaller = candidate, True
                break
            if runs >= most_runs:
                break
    return program


def _smaller(program: Program) -> Iterator[Program]:
    for ops in _smaller_ops(program.body, may_unwrap=False):
        yield attrs.evolve(program, body=ops)
    for number, script in enumerate(program.scripts):
        for ops in _smaller_ops(script.ops):
            scripts = list(program.scripts)
            scripts[number] = Script(ops, script.careful)
            yield attrs.evolve(program, scripts=tuple(scripts))
    simple: dict[str, Any] = {"max_concurrent": 16, "inbox_capacity": 32, "depth": 16, "descendants": 1000}
    for name, value in simple.items():
        if getattr(program, name) != value:
            yield attrs.evolve(program, **{name: value})


def _smaller_ops(ops: tuple[Op, ...], *, may_unwrap: bool = True) -> Iterator[tuple[Op, ...]]:
    if len(ops) > 3:
        yield ops[: len(ops) // 2]
        yield ops[len(ops) // 2 :]
    for index in range(len(ops)):
        yield ops[:index] + ops[index + 1 :]
    for index, op in enumerate(ops):
        for smaller in _smaller_op(op, may_unwrap):
            yield (*ops[:index], *smaller, *ops[index + 1 :])


def _smaller_op(op: Op, may_unwrap: bool) -> Iterator[tuple[Op, ...]]:
    """Yield what may stand in the place of an operation: its insides, or itself with less in them.

    Without its deadline, what the body of a pool waits for might never come.
    """
    for position, argument in enumerate(op):
        if isinstance(argument, tuple) and argument and isinstance(argument[0], tuple):
            if may_unwrap:
                yield argument
            for inner in _smaller_ops(argument):
                if inner:
                    yield ((*op[:position], inner, *op[position + 1 :]),)
        elif isinstance(argument, int) and argument > 0 and position == 2 and op[0] != "as_completed":
            yield ((*op[:position], argument - 1, *op[position + 1 :]),)
