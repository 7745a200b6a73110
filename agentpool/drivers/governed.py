"""A driver that keeps many agents within one provider's quota."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol, runtime_checkable

import attrs
import trio

from agentpool._core.content import text_of
from agentpool._core.errors import (
    DriverError,
    DriverUnavailableError,
    OverloadedError,
    RateLimitedError,
)
from agentpool._core.governor import GovernedCall, Governor, GovernorPolicy, GovernorStatistics
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    StreamPart,
    ToolMessage,
    UserMessage,
)
from agentpool._core.refusals import check_wait, wait_too_long
from agentpool._core.text import told
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool._logging import DRIVERS, tell
from agentpool.abc import Driver, root_agent_id, wrapped_inside
from agentpool.drivers._around import DriverAround, check_driver, open_stream

_CHARACTERS_PER_TOKEN = 4  # of English prose; code and other languages have fewer


_POLICY = GovernorPolicy()


def worst_case_tokens(request: CompletionRequest) -> int:
    """Estimate what a request counts against a quota: its text, and the longest answer."""
    characters = len(request.system) + sum(_length(message) for message in request.messages)
    return characters // _CHARACTERS_PER_TOKEN + request.max_tokens


def _length(message: ChatMessage) -> int:
    match message:
        case UserMessage(content=content):
            return len(text_of(content))
        case ToolMessage(result=result):
            return len(result.text)
        case AssistantMessage(text=text, tool_calls=calls):
            return len(text) + sum(len(call.name) + len(str(call.input)) for call in calls)


def rank_of_calling_agent() -> int:
    """Return the id of the root agent that the calling task works for; older agents have lower ids."""
    return root_agent_id.get()


@attrs.frozen
class GovernorSettings:
    """The quotas of one provider and key, and how they are kept; as for `GovernedDriver`."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_in_flight: int | None = None
    policy: GovernorPolicy = _POLICY

    def governor(self, now: float) -> Governor:
        """Return a governor that has sent nothing yet.

        Raises:
          ValueError: if a limit is not above zero.
        """
        return Governor(
            now=now,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            max_in_flight=self.max_in_flight,
            policy=self.policy,
        )


class CallAtGate(Protocol):
    """One call on its way past a gate."""

    async def start(self) -> None:
        """Wait until the call may be made.

        Raises:
          DriverError: if it may not, and will not be for long.
        """
        ...

    def answered(self, completion: Completion) -> None:
        """Book that the provider took the call."""

    async def failed(self, error: DriverError) -> bool:
        """Book a failure; return whether the call is in the queue again.

        A checkpoint only if the gate is in another process.
        """
        ...

    def broke(self, error: Exception) -> None:
        """Book an error in the middle of a stream; no other attempt can take its place."""


class Gate(Protocol):
    """What the calls of a `GovernedDriver` have to pass."""

    @property
    def settings(self) -> GovernorSettings:
        """What it keeps to."""
        ...

    def call(self, rank: int, tokens: int) -> AbstractContextManager[CallAtGate]:
        """Return a block for one call; at its end nothing of it is left at the gate."""
        ...


@runtime_checkable
class ChangesGates(Protocol):
    """What is given to `GovernedDriver.rewrapped`, and has calls pass another gate.

    So several processes keep one quota together: the calls of all pass the gate of one of them.
    """

    def gate_for(self, gate: Gate, driver: Driver) -> Gate:
        """Return the gate in the place of one that is around a driver."""
        ...


class GovernedDriver(DriverAround):
    """Starts the calls of all agents so that one provider's quota is used, and not passed.

    Make one for each provider and key, and share it: quotas hold for a key, not for an agent.
    `share` puts the same governor around another model of the same key.

    Calls wait here for requests and tokens per minute and for calls in flight. When the provider
    refuses one (429, 529), all pause together for as long as it says, the rate goes down to what
    was accepted lately, and comes up again step by step; the refused call goes back to its place in
    the queue. If it asks for more than `GovernorPolicy.longest_wait` seconds, as for a daily quota,
    the refused call and all that wait get the error at once. After several failures in a row
    (unavailable) the circuit opens: calls are refused at once, until one of them probes the
    provider again.

    Calls of older root agents come first, so that what was begun is finished; no call is overtaken
    by one that came more than `GovernorPolicy.aging` seconds later.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_in_flight: int | None = None,
        policy: GovernorPolicy = _POLICY,
        count_tokens: Callable[[CompletionRequest], int] = worst_case_tokens,
        rank: Callable[[], int] = rank_of_calling_agent,
    ) -> None:
        """Put a governor around a driver.

        Args:
          driver: makes the calls. A `RetryingDriver` belongs around this one, not inside.
          requests_per_minute: the quota; None if it is not known, then it is found.
          tokens_per_minute: the quota; None for none.
          max_in_flight: how many calls may be under way at once; None for no limit.
          policy: how to react to refusals and failures, and who comes first.
          count_tokens: estimates what a request counts against the quota; the real usage puts it
            right afterwards.
          rank: called by each call; lower ranks come first among those that came at about the
            same time. By default the root agent's id.

        Raises:
          ValueError: if a limit is not above zero.
        """
        super().__init__(driver)
        self._line = GovernorLine(
            GovernorSettings(requests_per_minute, tokens_per_minute, max_in_flight, policy)
        )
        self._gate: Gate = self._line
        self._count_tokens = count_tokens if tokens_per_minute is not None else _no_tokens
        self._rank = rank

    def share(self, driver: Driver) -> GovernedDriver:
        """Return another driver under the same governor: another model of the same provider and key."""
        check_driver(driver)
        return self._put_around(driver)

    def rewrapped(self, wrap: Callable[[Driver], Driver]) -> GovernedDriver:
        """Return this driver around what `wrap` makes of those inside, under the same governor.

        If `wrap` is one of those that `ChangesGates` tells of, calls pass the gate that it has for them.
        """
        twin = self._put_around(wrapped_inside(self._driver, wrap))
        if isinstance(wrap, ChangesGates):
            twin._gate = wrap.gate_for(self._gate, self._driver)
        return twin

    def statistics(self) -> GovernorStatistics:
        """Return a snapshot; call it inside `trio.run`."""
        return self._line.governor.statistics(trio.current_time())

    async def complete(self, request: CompletionRequest) -> Completion:
        """Wait for the quota, then ask the driver inside.

        Raises:
          DriverUnavailableError: at once while the circuit is open; or from the driver inside.
          RateLimitedError, OverloadedError: after several tries; at once while the provider wants a
            wait of more than `longest_wait`, with what is left of it as `retry_after`.
          DriverError: what else the driver inside raises.

        Checkpoint: as the driver inside. Cancellation: leaves the queue, or ends the call; the
          quota of a call that was sent counts as used.
        """
        with self._gate.call(self._rank(), self._count_tokens(request)) as call:
            while True:
                await call.start()
                try:
                    completion = await self._driver.complete(request)
                except DriverError as error:
                    if not await call.failed(error):
                        check_wait(error, self._gate.settings.policy.longest_wait)
                        raise
                else:
                    call.answered(completion)
                    return completion

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        """Wait for the quota, then ask the driver inside; the call is in flight until its end.

        Raises:
          DriverError: as `complete`; after the first part, whatever the stream raises.
        """
        with self._gate.call(self._rank(), self._count_tokens(request)) as call:
            while True:
                await call.start()
                async with AsyncExitStack() as stack:
                    try:
                        parts = await open_stream(
                            stack, self._driver, request, on_error=call.broke, on_part=_books_end(call)
                        )
                    except DriverError as error:
                        if not await call.failed(error):
                            check_wait(error, self._gate.settings.policy.longest_wait)
                            raise
                    else:
                        yield parts
                        return


def _no_tokens(request: CompletionRequest) -> int:
    return 0


@attrs.define(eq=False)
class _Sleeper:
    """A call that waits, and until when it sleeps if nothing wakes it."""

    until: float
    event: trio.Event = attrs.field(factory=trio.Event)


class GovernorLine:
    """The governor, and the tasks that wait for it.

    Only the first in line sleeps with a deadline; it is woken when that comes too late, and
    whoever leaves the first place, by whatever way, wakes the next.
    """

    def __init__(self, settings: GovernorSettings) -> None:
        settings.governor(0.0)  # for its errors; the real one needs a clock, which the first call has
        self.settings = settings
        self._governor: Governor | None = None
        self._sleepers: dict[GovernedCall, _Sleeper] = {}
        self.last_failure = ""  # why the provider was unavailable; a text, so that no traceback is held
        self.last_refusal: DriverError = RateLimitedError()  # likewise: never raised

    @property
    def governor(self) -> Governor:
        """It decides; made by the first call."""
        if self._governor is None:
            self._governor = self.settings.governor(trio.current_time())
        return self._governor

    def call(self, rank: int, tokens: int) -> CallInLine:
        """Queue a call; a block, as `Gate.call`."""
        return CallInLine(self, self.governor.arrive(trio.current_time(), rank=rank, tokens=tokens))

    async def wait_turn(self, call: GovernedCall) -> None:
        """Sleep until the call is decided."""
        self.serve()
        while call.state == "waiting":
            mine = self.governor.first() is call
            sleeper = _Sleeper(self.governor.next_at(trio.current_time()) if mine else math.inf)
            self._sleepers[call] = sleeper
            try:
                with trio.move_on_at(sleeper.until):
                    await sleeper.event.wait()
            finally:
                del self._sleepers[call]
            self.serve()

    def serve(self) -> None:
        """Have everything decided that can be, and wake whom it concerns."""
        now = trio.current_time()
        for call in self.governor.decide(now):
            if call in self._sleepers:
                self._sleepers[call].event.set()
        first = self.governor.first()
        sleeper = self._sleepers.get(first) if first is not None else None
        if sleeper is not None and sleeper.until > self.governor.next_at(now):
            sleeper.event.set()


class CallInLine:
    """One call on its way through the line, for a `with` block; at its end nothing of it is left."""

    def __init__(self, line: GovernorLine, call: GovernedCall) -> None:
        self._line = line
        self._call = call

    def __enter__(self) -> CallInLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.governor.leave(self._call)
        self._line.serve()

    async def start(self) -> None:
        """Wait until the call may be made."""
        await self._line.wait_turn(self._call)
        if self._call.state == "turned_away":
            raise self._why_turned_away(trio.current_time())

    def _why_turned_away(self, now: float) -> DriverError:
        governor = self._line.governor
        if left := governor.barred_for(now):
            return wait_too_long(self._line.last_refusal, left, governor.policy.longest_wait)
        return DriverUnavailableError(
            f"the provider failed several times in a row ({self._line.last_failure}); calls are refused"
            f" here without asking it for another {governor.circuit_probed_in(now):.1f} seconds"
        )

    def answered(self, completion: Completion) -> None:
        """Book that the provider took the call."""
        self.used(completion.usage)

    def used(self, usage: TokenUsage) -> None:
        """Book that the provider took the call, and what it used."""
        tokens = None if usage == NO_USAGE else usage.total_tokens
        self._line.governor.answered(self._call, trio.current_time(), tokens)

    async def failed(self, error: DriverError) -> bool:
        """Book a failure; return whether the call is in the queue again. Not a checkpoint."""
        return self._book(error, requeue=True)

    def _book(self, error: DriverError, *, requeue: bool) -> bool:
        governor, now = self._line.governor, trio.current_time()
        queued = False
        match error:
            case RateLimitedError() | OverloadedError():
                kind = OverloadedError if isinstance(error, OverloadedError) else RateLimitedError
                self._line.last_refusal = kind(told(error))
                queued = governor.refused(self._call, now, retry_after=error.retry_after, requeue=requeue)
                text = "the provider refused a call, and all calls are held back: %s"
                tell(DRIVERS, logging.WARNING, text, error)
            case DriverUnavailableError():
                self._line.last_failure = told(error)
                governor.unavailable(self._call, now)
            case _:
                governor.answered(self._call, now)
        return queued

    def broke(self, error: Exception) -> None:
        """Book an error in the middle of a stream; no other attempt can take its place."""
        if isinstance(error, DriverError):
            self._book(error, requeue=False)


def _books_end(call: CallAtGate) -> Callable[[StreamPart], None]:
    """Return what books the end of a stream when it goes by."""

    def passed(part: StreamPart) -> None:
        if isinstance(part, Completion):
            call.answered(part)

    return passed
