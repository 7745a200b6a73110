"""W3, one turn of the loop: 10 calls of `add(a: int, b: int) -> int`, then an answer; the model in memory.

`bare` is the least that calls a model and a tool in turn. `full` has the duties of a library,
without a library: typed messages, checked arguments, contained tool errors, a guard, usage,
events, a time limit on each call of model and tool, a budget, and a pure machine that decides.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
import trio
from pydantic_core import SchemaValidator, ValidationError, core_schema

from bench.meters import cpu, peak_kb, resident_kb

CALLS = 10
TURNS = CALLS + 1
MODEL_SECONDS = 0.05
TIME_LIMIT = 60.0


def add(a: int, b: int) -> int:
    return a + b


# -- the least ----------------------------------------------------------------


async def bare_model(messages: list[object], seconds: float) -> tuple[str, dict[str, int] | None]:
    if seconds:
        await trio.sleep(seconds)
    else:
        await trio.lowlevel.checkpoint()
    turn = len(messages) // 2
    return ("", {"a": turn, "b": 1}) if turn < CALLS else ("done", None)


async def bare_agent(seconds: float = 0) -> str:
    messages: list[object] = ["add"]
    while True:
        text, arguments = await bare_model(messages, seconds)
        if arguments is None:
            return text
        messages += (arguments, add(**arguments))


# -- all duties ---------------------------------------------------------------


@attrs.frozen
class Usage:
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


@attrs.frozen
class Call:
    id: str
    name: str
    input: Mapping[str, Any]


@attrs.frozen
class Said:
    text: str


@attrs.frozen
class Answered:
    text: str
    calls: tuple[Call, ...]


@attrs.frozen
class Returned:
    call_id: str
    content: str
    is_error: bool


Message = Said | Answered | Returned


@attrs.frozen
class Request:
    messages: Sequence[Message]
    max_tokens: int


@attrs.frozen
class Reply:
    text: str
    calls: tuple[Call, ...]
    usage: Usage


@attrs.frozen
class State:
    iterations: int
    tool_calls: int
    usage: Usage
    seen: tuple[tuple[str, str, str], ...]
    transcript: list[Message]
    pending: tuple[Call, ...] = ()


@attrs.frozen
class Reason:
    request: Request


@attrs.frozen
class Act:
    calls: tuple[Call, ...]


@attrs.frozen
class Finish:
    text: str


@attrs.frozen
class Halt:
    reason: str


Effect = Reason | Act | Finish | Halt
MAX_ITERATIONS, MAX_TOOL_CALLS, MAX_TOKENS = 20, 50, 4096
REMEMBERED, REPEATS = 6, 3


def begin(query: str) -> tuple[State, Effect]:
    transcript: list[Message] = [Said(query)]
    return State(0, 0, Usage(), (), transcript), Reason(Request(transcript, MAX_TOKENS))


def advance(state: State, observation: Reply | tuple[Returned, ...]) -> tuple[State, Effect]:
    transcript = state.transcript
    if isinstance(observation, Reply):
        transcript.append(Answered(observation.text, observation.calls))
        state = State(
            state.iterations + 1,
            state.tool_calls + len(observation.calls),
            state.usage + observation.usage,
            state.seen,
            transcript,
            observation.calls,
        )
        if not observation.calls:
            return state, Finish(observation.text)
        if state.iterations >= MAX_ITERATIONS or state.tool_calls > MAX_TOOL_CALLS:
            return state, Halt("too many")
        return state, Act(observation.calls)
    transcript.extend(observation)
    seen = state.seen
    for call, returned in zip(state.pending, observation, strict=True):
        deed = (call.name, repr(call.input), returned.content)
        if seen.count(deed) >= REPEATS:
            return state, Halt("repetition")
        seen = (*seen[1 - REMEMBERED :], deed)
    state = State(state.iterations, state.tool_calls, state.usage, seen, transcript)
    return state, Reason(Request(transcript, MAX_TOKENS))


REPLIES = [
    *(Reply("", (Call(f"call-{turn}", "add", {"a": turn, "b": 1}),), Usage(10, 5)) for turn in range(CALLS)),
    Reply("done", (), Usage(10, 5)),
]


async def model(request: Request, seconds: float) -> Reply:
    if seconds:
        await trio.sleep(seconds)
    else:
        await trio.lowlevel.checkpoint()
    return REPLIES[len(request.messages) // 2]


_arguments = SchemaValidator(
    core_schema.arguments_schema(
        [
            core_schema.arguments_parameter("a", core_schema.int_schema()),
            core_schema.arguments_parameter("b", core_schema.int_schema()),
        ]
    )
)


async def add_tool(arguments: Mapping[str, Any]) -> str:
    args, kwargs = _arguments.validate_python(arguments)
    return str(add(*args, **kwargs))


@attrs.define(eq=False)
class Allowance:
    """Tokens, reserved before a call and settled after it, along the chain of parents."""

    limit: int
    parent: Allowance | None = None
    held: int = 0

    def change(self, tokens: int) -> None:
        level: Allowance | None = self
        while level is not None:
            if level.held + tokens > level.limit:
                raise RuntimeError("over the budget")
            level = level.parent
        level = self
        while level is not None:
            level.held += tokens
            level = level.parent


@attrs.define(eq=False)
class Shell:
    """Performs the effects of one agent."""

    allowance: Allowance
    seconds: float = 0
    observers: list[Callable[[str, object], None]] = attrs.field(factory=list)

    async def run(self, query: str) -> str:
        state, effect = begin(query)
        while True:
            self.emit("phase", effect)
            if isinstance(effect, Reason):
                state, effect = advance(state, await self.reason(effect.request))
            elif isinstance(effect, Act):
                state, effect = advance(state, await self.act(effect.calls))
            elif isinstance(effect, Finish):
                return effect.text
            else:
                raise RuntimeError(effect.reason)

    def emit(self, kind: str, value: object) -> None:
        for observer in self.observers:
            observer(kind, value)

    async def reason(self, request: Request) -> Reply:
        self.allowance.change(request.max_tokens)
        used = 0
        try:
            # by hand: trio.fail_after does the same for twice the price
            with trio.CancelScope(deadline=trio.current_time() + TIME_LIMIT) as scope:
                reply = await model(request, self.seconds)
            if scope.cancelled_caught:
                raise trio.TooSlowError
            used = reply.usage.input_tokens + reply.usage.output_tokens
        finally:
            self.allowance.change(used - request.max_tokens)
        self.emit("completion", reply)
        return reply

    async def act(self, calls: tuple[Call, ...]) -> tuple[Returned, ...]:
        if len(calls) == 1:
            return (await self.call(calls[0]),)
        raise NotImplementedError("this workload calls one tool a turn")

    async def call(self, call: Call) -> Returned:
        self.emit("tool started", call)
        try:
            with trio.CancelScope(deadline=trio.current_time() + TIME_LIMIT) as scope:
                returned = Returned(call.id, await TOOLS[call.name](call.input), False)
            if scope.cancelled_caught:
                raise trio.TooSlowError
        except (KeyError, ValidationError, trio.TooSlowError) as error:
            returned = Returned(call.id, str(error), True)
        except Exception as error:
            returned = Returned(call.id, f"{call.name} failed: {error}", True)
        self.emit("tool finished", returned)
        return returned


TOOLS: dict[str, Callable[[Mapping[str, Any]], Awaitable[str]]] = {"add": add_tool}


# -- contenders ---------------------------------------------------------------


def _measure_turns(agent: Callable[[], Awaitable[str]], size: int) -> dict[str, float]:
    """Run `size` agents, each in a task of its own, ten at once."""

    async def some(numbers: Sequence[int]) -> None:
        for _ in numbers:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(agent)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for lane in range(10):
                nursery.start_soon(some, range(lane, size, 10))

    with cpu() as span:
        trio.run(main)
    return {"us": span.per(size * TURNS)}


def bare(size: int) -> dict[str, float]:
    return _measure_turns(bare_agent, size)


def full(size: int) -> dict[str, float]:
    pool_allowance = Allowance(10**12)
    return _measure_turns(lambda: Shell(Allowance(10**9, pool_allowance)).run("add"), size)


def _measure_crowd(agent: Callable[[], Awaitable[str]], size: int) -> dict[str, float]:
    """Run `size` agents at once, with a model that takes 50 ms; compare with the ideal wall clock."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                nursery.start_soon(agent)

    before = resident_kb()
    start = time.perf_counter()
    trio.run(main)
    elapsed = time.perf_counter() - start
    return {"wall": elapsed / (TURNS * MODEL_SECONDS), "kb": (peak_kb() - before) / size}


def bare_crowd(size: int) -> dict[str, float]:
    return _measure_crowd(lambda: bare_agent(MODEL_SECONDS), size)


def full_crowd(size: int) -> dict[str, float]:
    pool_allowance = Allowance(10**12)
    return _measure_crowd(lambda: Shell(Allowance(10**9, pool_allowance), MODEL_SECONDS).run("add"), size)
