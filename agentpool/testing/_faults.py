"""What goes wrong, and when: fault plans for drivers, tools, journals and clocks."""

from __future__ import annotations

import enum
import math
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import trio

from agentpool._core.capability import Capability, PrivacyTier
from agentpool._core.errors import (
    DriverUnavailableError,
    MalformedReplyError,
    OverloadedError,
    RateLimitedError,
    ToolError,
)
from agentpool._core.messages import (
    Completion,
    CompletionRequest,
    StreamPart,
    ToolDefinition,
    ToolResult,
)
from agentpool._core.usage import TokenUsage
from agentpool.abc import Driver, Tool, ToolContext


class FaultKind(enum.Enum):
    """What can go wrong at a call of a driver or tool, at a record of a journal, or with the clock."""

    RATE_LIMIT = "rate_limit"
    """The driver refuses the call with `RateLimitedError`; `seconds` is its `retry_after`."""
    OVERLOAD = "overload"
    """The driver refuses the call with `OverloadedError`."""
    UNAVAILABLE = "unavailable"
    """The driver is not reached: `DriverUnavailableError`."""
    STALL = "stall"
    """The call takes `seconds` longer (`inf`: it never returns)."""
    CUT = "cut"
    """The answer begins and breaks off: some deltas, then `DriverUnavailableError`."""
    MALFORMED = "malformed"
    """The answer cannot be read: `MalformedReplyError`, after the model has done its work."""
    ERROR = "error"
    """The tool raises `ToolError`."""
    JUMP = "jump"
    """The clock jumps `seconds` ahead."""
    CRASH_BEFORE = "crash_before"
    """The process is killed when the record is appended: it is lost, with all that were not committed."""
    CRASH_AFTER = "crash_after"
    """The process is killed as soon as the record, and all before it, are kept."""
    FULL = "full"
    """The disk is full: from this record on the journal cannot be written (`JournalError`)."""


DRIVER_FAULTS = (
    FaultKind.RATE_LIMIT,
    FaultKind.OVERLOAD,
    FaultKind.UNAVAILABLE,
    FaultKind.STALL,
    FaultKind.CUT,
    FaultKind.MALFORMED,
)
TOOL_FAULTS = (FaultKind.ERROR, FaultKind.STALL)
CLOCK_FAULTS = (FaultKind.JUMP,)
JOURNAL_FAULTS = (FaultKind.CRASH_BEFORE, FaultKind.CRASH_AFTER, FaultKind.FULL)

_DEFAULT_SECONDS = {FaultKind.STALL: 60.0, FaultKind.JUMP: 60.0}


def _default_seconds(fault: Fault) -> float:
    return _DEFAULT_SECONDS.get(fault.kind, 0.0)


def _positive(fault: Fault, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 1:
        raise ValueError(f"calls are counted from 1, not {value}")


@attrs.frozen(order=False)
class Fault:
    """One thing that goes wrong.

    Attributes:
      target: `driver`, `tool`, `journal`, `clock`, or the name that a faulty driver, tool or journal was
        given.
      call: at which call it happens, counted from 1 (for the clock: at which scheduler step; for a
        journal: at which record of this process).
      kind: what happens.
      seconds: how long a stall or jump is, in virtual seconds; 60 if left out.
    """

    target: str
    call: int = attrs.field(validator=_positive)
    kind: FaultKind = attrs.field(converter=FaultKind)
    seconds: float = attrs.field(default=attrs.Factory(_default_seconds, takes_self=True))

    def __str__(self) -> str:
        length = "" if self.seconds == _default_seconds(self) else f"={self.seconds!r}"
        return f"{self.target}:{self.call}:{self.kind.value}{length}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read what `str` wrote, such as `driver:3:rate_limit` or `clock:120:jump=30`.

        Raises:
          ValueError: if it cannot be read.
        """
        try:
            target, call, what = text.strip().rsplit(":", 2)
            kind, _, seconds = what.partition("=")
            if not target:
                raise ValueError("the target is missing")
            return cls(target, int(call), FaultKind(kind), *([float(seconds)] if seconds else []))
        except ValueError as error:
            kinds = ", ".join(kind.value for kind in FaultKind)
            raise ValueError(
                f"{text!r} is not a fault: {error}. Write target:call:kind or target:call:kind=seconds,"
                f" such as driver:3:rate_limit; kinds are {kinds}"
            ) from None


def _tuple_of_faults(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    return tuple(faults)


@attrs.frozen
class FaultPlan:
    """Which faults happen in a run. A value: it compares, prints, parses and shrinks.

    `str(plan)` is what `FaultPlan.parse` reads, and what `--agentpool-plan` takes.
    """

    faults: tuple[Fault, ...] = attrs.field(default=(), converter=_tuple_of_faults)

    def __str__(self) -> str:
        return ",".join(str(fault) for fault in self.faults)

    def __bool__(self) -> bool:
        return bool(self.faults)

    @classmethod
    def parse(cls, text: str) -> FaultPlan:
        """Read a plan: faults as `Fault.parse` reads them, separated by commas; empty is none.

        Raises:
          ValueError: if it cannot be read.
        """
        return cls(tuple(Fault.parse(part) for part in text.split(",") if part.strip()))

    def at(self, target: str, call: int) -> Fault | None:
        """Return the fault that this call of `target` meets, if any; the first one counts."""
        for fault in self.faults:
            if fault.target == target and fault.call == call:
                return fault
        return None

    def smaller(self) -> Iterator[FaultPlan]:
        """Yield plans that do less harm, the smallest first: what shrinking tries."""
        count = len(self.faults)
        if count > 1:
            yield from (FaultPlan((fault,)) for fault in self.faults)
            yield FaultPlan(self.faults[: count // 2])
            yield FaultPlan(self.faults[count // 2 :])
        for index in range(count):
            yield FaultPlan(self.faults[:index] + self.faults[index + 1 :])
        for index, fault in enumerate(self.faults):
            for call in sorted({1, fault.call // 2, fault.call - 1}):
                if 1 <= call < fault.call:
                    sooner = attrs.evolve(fault, call=call)
                    yield FaultPlan((*self.faults[:index], sooner, *self.faults[index + 1 :]))


NO_FAULTS = FaultPlan()


@attrs.frozen
class FaultMix:
    """From which plans are drawn.

    Attributes:
      most: how many faults a plan has at the most; some have fewer, some none.
      targets: the kinds of fault of each target.
      calls: faults hit one of the first `calls` calls of a driver or tool.
      steps: clock faults hit one of the first `steps` scheduler steps.
      seconds: stalls and jumps last up to this long.
    """

    most: int = 3
    targets: Mapping[str, Sequence[FaultKind]] = attrs.field(
        factory=lambda: {"driver": DRIVER_FAULTS, "tool": TOOL_FAULTS, "clock": CLOCK_FAULTS}
    )
    calls: int = 10
    steps: int = 200
    seconds: float = 120.0

    def draw(self, seed: int) -> FaultPlan:
        """Return the plan of a seed: always the same one."""
        rng = random.Random(f"agentpool faults {seed}")
        faults = [self._draw_one(rng) for _ in range(rng.randint(0, self.most))]
        return FaultPlan(tuple(sorted(faults, key=str)))

    def _draw_one(self, rng: random.Random) -> Fault:
        target = rng.choice(list(self.targets))
        kind = rng.choice(list(self.targets[target]))
        call = rng.randint(1, self.steps if target == "clock" else self.calls)
        if kind in _DEFAULT_SECONDS:
            return Fault(target, call, kind, float(rng.randint(1, max(1, int(self.seconds)))))
        return Fault(target, call, kind)


async def _stall(seconds: float) -> None:
    if seconds == math.inf:
        await trio.sleep_forever()
    await trio.sleep(seconds)


@attrs.define(eq=False)
class FaultyDriver(Driver):
    """A driver around a driver, whose calls go wrong as a plan says.

    Args:
      driver: answers what does not go wrong.
      plan: its faults whose target is `name`.
      name: `driver` unless a program has several.
    """

    _driver: Driver
    _plan: FaultPlan
    name: str = "driver"
    calls: int = attrs.field(default=0, init=False)

    @property
    def context_window(self) -> int | None:  # type: ignore[override]
        """That of the driver inside."""
        return self._driver.context_window

    @property
    def privacy(self) -> PrivacyTier:  # type: ignore[override]
        """That of the driver inside."""
        return self._driver.privacy

    @property
    def metered(self) -> bool:
        """What the driver inside says."""
        return bool(getattr(self._driver, "metered", True))

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        """Return what the driver inside says."""
        return self._driver.estimate_cost(usage)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the driver inside, unless the plan has a fault for this call.

        Checkpoint: always. Cancellation: as the driver inside.
        """
        fault = await self._begin()
        completion = await self._driver.complete(request)
        _spoil(fault)
        return completion

    def stream(self, request: CompletionRequest) -> AbstractAsyncContextManager[AsyncIterator[StreamPart]]:
        """Ask the driver inside and hand on its deltas, unless the plan has a fault for this call."""
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        fault = await self._begin()
        async with self._driver.stream(request) as parts:
            yield _FaultyParts(parts, fault)

    async def _begin(self) -> Fault | None:
        self.calls += 1
        fault = self._plan.at(self.name, self.calls)
        if fault is None:
            return None
        if fault.kind is FaultKind.STALL:
            await _stall(fault.seconds)
        refusal = _refusal(fault)
        if refusal is not None:
            await trio.lowlevel.checkpoint()
            raise refusal
        return fault


def _refusal(fault: Fault) -> Exception | None:
    match fault.kind:
        case FaultKind.RATE_LIMIT:
            return RateLimitedError(f"fault {fault}", retry_after=fault.seconds or None)
        case FaultKind.OVERLOAD:
            return OverloadedError(f"fault {fault}")
        case FaultKind.UNAVAILABLE:
            return DriverUnavailableError(f"fault {fault}")
        case FaultKind.ERROR:
            return ToolError(f"fault {fault}")
        case _:
            return None


def _spoil(fault: Fault | None) -> None:
    if fault is not None and fault.kind is FaultKind.CUT:
        text = f"fault {fault}: the connection was cut in the middle of the answer"
        raise DriverUnavailableError(text, may_have_cost=True)
    if fault is not None and fault.kind is FaultKind.MALFORMED:
        raise MalformedReplyError(f"fault {fault}: the answer cannot be read")


@attrs.define(eq=False)
class _FaultyParts:
    """Hands on deltas; a fault comes in the place of the completion, or in the middle of a text."""

    _parts: AsyncIterator[StreamPart]
    _fault: Fault | None
    _is_cut: bool = attrs.field(default=False, init=False)

    def __aiter__(self) -> _FaultyParts:
        return self

    async def __anext__(self) -> StreamPart:
        part = await self._parts.__anext__()
        if self._is_cut or isinstance(part, Completion):
            _spoil(self._fault)
        elif self._fault is not None and self._fault.kind is FaultKind.CUT:
            self._is_cut = True
            return type(part)(part.text[: len(part.text) // 2])
        return part


@attrs.define(eq=False)
class FaultyTool:
    """A tool around a tool, whose calls go wrong as a plan says.

    Args:
      tool: does what does not go wrong.
      plan: its faults whose target is `name`.
      name: `tool` unless a program has several.
    """

    _tool: Tool
    _plan: FaultPlan
    name: str = "tool"
    calls: int = attrs.field(default=0, init=False)

    @property
    def definition(self) -> ToolDefinition:
        """That of the tool inside."""
        return self._tool.definition

    @property
    def capability(self) -> Capability | None:
        """That of the tool inside."""
        return self._tool.capability

    @property
    def timeout(self) -> float | None:
        """That of the tool inside."""
        return self._tool.timeout

    async def call(self, ctx: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Call the tool inside, unless the plan has a fault for this call.

        Raises:
          ToolError: if the plan says so.

        Checkpoint: as the tool inside. Cancellation: as the tool inside.
        """
        self.calls += 1
        fault = self._plan.at(self.name, self.calls)
        if fault is not None:
            if fault.kind is FaultKind.STALL:
                await _stall(fault.seconds)
            refusal = _refusal(fault)
            if refusal is not None:
                raise refusal
        return await self._tool.call(ctx, arguments)
