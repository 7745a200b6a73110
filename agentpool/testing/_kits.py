"""Conformance kits: whether a driver, a memory or a tool keeps the promises of `agentpool.abc`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import attrs
import trio
import trio.testing

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import DriverError, ToolError, UnknownAgentError
from agentpool._core.messages import (
    AgentMessage,
    Completion,
    CompletionRequest,
    ReasoningDelta,
    TextDelta,
    ToolResult,
    UserMessage,
)
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool.abc import Driver, Memory, MemoryFragment, NamespacedMemory, Tool

T = TypeVar("T")

Factory: TypeAlias = Callable[[], T] | Callable[[], Awaitable[T]]
"""Makes a fresh object for each check; sync or async."""

# Longer than anything that is checked should take, on whichever clock the check runs.
_PATIENCE = 60.0


class ConformanceError(AssertionError):
    """A driver, memory or tool breaks a promise; the text says which, and what was seen."""


def _require(condition: object, sentence: str) -> None:
    if not condition:
        raise ConformanceError(sentence)


async def _made(factory: Factory[T]) -> T:
    made: Any = factory()
    value: T = await made if inspect.isawaitable(made) else made
    return value


async def _in_time(what: str, call: Callable[[], Awaitable[T]]) -> T:
    """Await a call that has to end."""
    with trio.move_on_after(_PATIENCE):
        return await call()
    raise ConformanceError(f"{what} did not end within {_PATIENCE:g} seconds")


async def _checkpointing(what: str, call: Callable[[], Awaitable[T]]) -> T:
    """Await a call that has to end in time and pass a checkpoint, even if it raises."""
    try:
        with trio.testing.assert_checkpoints():
            return await _in_time(what, call)
    except AssertionError as error:
        if isinstance(error, ConformanceError) or str(error) != "assert_checkpoints block did not yield!":
            raise
        raise ConformanceError(
            f"{what} returned without a checkpoint, so that a loop around it starves the others;"
            " await trio.lowlevel.checkpoint() where nothing else is awaited"
        ) from None


async def _cancelled(what: str, call: Callable[[], Awaitable[Any]]) -> None:
    """Await a call in a cancelled scope, where it has to give up at once."""
    with trio.move_on_after(_PATIENCE) as patience:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await call()
            except Exception as error:
                raise ConformanceError(
                    f"{what}, when cancelled, raised {error!r} and not trio.Cancelled"
                ) from error
        _require(
            scope.cancelled_caught, f"{what} went on although it was cancelled; it swallows trio.Cancelled"
        )
    _require(
        not patience.cancelled_caught, f"{what} did not end within {_PATIENCE:g} seconds of being cancelled"
    )


# -- drivers -------------------------------------------------------------------


async def check_driver(
    factory: Factory[Driver],
    *,
    request: CompletionRequest | None = None,
    concurrency: int = 4,
) -> None:
    """Check that a driver keeps what `agentpool.abc.Driver` promises.

    Each check makes a driver of its own, so that one that answers from a list starts afresh.

    Args:
      factory: makes the driver; sync or async. It has to answer at least one request.
      request: what it is asked; "Say hello." if left out.
      concurrency: how many tasks ask one driver at once.

    Raises:
      ConformanceError: that says which promise was broken.

    Checkpoint: always. Cancellation: the check ends, what it made is dropped.
    """
    asked = CompletionRequest(messages=(UserMessage("Say hello."),)) if request is None else request
    _check_driver_attributes(await _made(factory))
    await _check_complete(await _made(factory), asked)
    await _check_stream(await _made(factory), asked)
    await _check_stream_left_early(await _made(factory), asked)
    await _check_driver_concurrency(await _made(factory), asked, concurrency)
    await _check_driver_cancelled(await _made(factory), asked)


def _check_driver_attributes(driver: Driver) -> None:
    name = type(driver).__name__
    _require(isinstance(driver, Driver), f"{name} is no Driver: derive from agentpool.abc.Driver")
    window = driver.context_window
    _require(
        window is None or (isinstance(window, int) and window > 0),
        f"{name}.context_window is {window!r}; it has to be a number of tokens above 0, or None if unknown",
    )
    _require(
        isinstance(driver.privacy, PrivacyTier),
        f"{name}.privacy is {driver.privacy!r}; it has to be a PrivacyTier",
    )
    for usage in (NO_USAGE, TokenUsage(input_tokens=1000, output_tokens=1000)):
        cost = driver.estimate_cost(usage)
        _require(
            cost is None or (isinstance(cost, int | float) and cost >= 0),
            f"{name}.estimate_cost({usage}) is {cost!r}; it has to be an amount in USD, or None if unknown",
        )


def _check_completion(what: str, completion: object) -> None:
    _require(isinstance(completion, Completion), f"{what} gave {completion!r} and not a Completion")
    assert isinstance(completion, Completion)
    _require(isinstance(completion.text, str), f"{what} gave a text of type {type(completion.text).__name__}")
    _require(
        isinstance(completion.usage, TokenUsage),
        f"{what} gave a usage of type {type(completion.usage).__name__}",
    )
    counts = (completion.usage.input_tokens, completion.usage.output_tokens)
    _require(min(counts) >= 0, f"{what} gave a negative usage, {completion.usage}")
    ids = [call.id for call in completion.tool_calls]
    _require(len(set(ids)) == len(ids), f"{what} gave two tool calls the same id: {ids}")
    for call in completion.tool_calls:
        _require(call.id and call.name, f"{what} gave a tool call without an id or a name: {call}")
        _require(
            isinstance(call.input, Mapping),
            f"{what} gave {call.name} an input that is no mapping: {call.input!r}",
        )
    if completion.tool_calls and completion.stop_reason == "end_turn":
        raise ConformanceError(f"{what} gave tool calls with the stop reason end_turn; it should be tool_use")


async def _check_complete(driver: Driver, request: CompletionRequest) -> None:
    before = repr(request)
    _check_completion("complete()", await _checkpointing("complete()", lambda: driver.complete(request)))
    _require(repr(request) == before, "complete() changed the request, which other calls share")


async def _check_stream(driver: Driver, request: CompletionRequest) -> None:
    async def read() -> list[Any]:
        async with driver.stream(request) as stream:
            return [part async for part in stream]

    parts = await _in_time("stream()", read)
    _require(parts, "stream() ended without anything; its last part has to be the whole Completion")
    *deltas, last = parts
    _check_completion("the last part of stream()", last)
    for part in deltas:
        _require(
            isinstance(part, TextDelta | ReasoningDelta),
            f"stream() gave {part!r} before its end; only TextDelta and ReasoningDelta may come there",
        )
    said = [delta.text for delta in deltas if isinstance(delta, TextDelta)]
    text = "".join(said)
    _require(
        not said or text == last.text,
        f"the deltas of stream() are {text!r} together, but its completion says {last.text!r}",
    )


async def _check_stream_left_early(driver: Driver, request: CompletionRequest) -> None:
    async def peek() -> None:
        async with driver.stream(request) as stream:
            async for _part in stream:
                break

    await _in_time("stream(), left after its first part,", peek)


async def _check_driver_concurrency(driver: Driver, request: CompletionRequest, concurrency: int) -> None:
    async def ask() -> None:
        try:
            completion = await _checkpointing("complete()", lambda: driver.complete(request))
        except DriverError:
            pass  # a refusal of its own kind is an answer too
        else:
            _check_completion("complete(), called from many tasks at once,", completion)

    async with _flat_nursery() as nursery:
        for _ in range(concurrency):
            nursery.start_soon(ask)


async def _check_driver_cancelled(driver: Driver, request: CompletionRequest) -> None:
    async def read() -> None:
        async with driver.stream(request) as stream:
            async for _part in stream:
                pass

    await _cancelled("complete()", lambda: driver.complete(request))
    await _cancelled("stream()", read)


class _flat_nursery:  # reads as trio.open_nursery
    """A nursery out of which a `ConformanceError` comes by itself, not in a group."""

    async def __aenter__(self) -> trio.Nursery:
        self._manager = trio.open_nursery()
        return await self._manager.__aenter__()

    async def __aexit__(self, *exc: Any) -> bool | None:
        try:
            return await self._manager.__aexit__(*exc)
        except* ConformanceError as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            found = error
        raise found


# -- memories ------------------------------------------------------------------


async def check_memory(factory: Factory[Memory]) -> None:
    """Check that a memory keeps what `agentpool.abc.Memory` promises.

    Args:
      factory: makes an empty memory for each check; sync or async.

    Raises:
      ConformanceError: that says which promise was broken.

    Checkpoint: always. Cancellation: the check ends, what it made is dropped.
    """
    memory = await _made(factory)
    _require(
        isinstance(memory, Memory),
        f"{type(memory).__name__} is no Memory: a method of the protocol is missing",
    )
    await _check_remember_and_recall(memory)
    await _check_order_of_recall(await _made(factory))
    await _check_filters(await _made(factory))
    await _check_keys(await _made(factory))
    await _check_forget(await _made(factory))
    await _check_memory_concurrency(await _made(factory))
    await _check_memory_cancelled(await _made(factory))
    memory = await _made(factory)
    if isinstance(memory, NamespacedMemory):
        await _check_namespaces(memory)
        await _check_trust(await _made(factory))


def _contents(fragments: Iterable[MemoryFragment]) -> list[str]:
    return [fragment.content for fragment in fragments]


# What models write, and what means something to search engines, databases and encoders.
_HOSTILE = (
    "",
    "   ",
    '"quoted AND OR NOT* (',
    "a'b; DROP TABLE x",
    "NOT",
    "AND AND",
    "NEAR(a b, 2)",
    "^a -b +c *",
    "a:b {c}",
    '"',
    "\\",
    "%_",
    "a\0b",
    "\ud83d",
    "\u202e\ufeff",
    "🍜",
    "x" * 100_000,
    "word " * 10_000,
    " ".join(f"w{number}" for number in range(5_000)),
)


async def _check_remember_and_recall(memory: Memory) -> None:
    _require(not await memory.recall("anything"), "recall() found something in an empty memory")
    text = "Übergrößenträger eat 日本 noodles 🍜"
    first = await memory.remember(text, source="tool", agent_id=7)
    second = await memory.remember("the capital of Peru is Lima")
    _require(first != second, f"remember() gave two fragments the same id, {first!r}")
    found = await memory.recall("noodles")
    _require(
        _contents(found) == [text],
        f"recall('noodles') gave {_contents(found)} and not the one text with that word",
    )
    fragment = found[0]
    _require(isinstance(fragment, MemoryFragment), f"recall() gave {fragment!r} and not a MemoryFragment")
    for name, wanted in [("id", first), ("source", "tool"), ("agent_id", 7)]:
        got = getattr(fragment, name)
        _require(got == wanted, f"a fragment was remembered with {name}={wanted!r} and recalled with {got!r}")
    _require(
        0 <= fragment.relevance <= 1, f"recall() gave a relevance of {fragment.relevance}, outside 0 to 1"
    )
    for awkward in _HOSTILE:
        await memory.recall(awkward)  # must not raise: queries come from models
    for query in ("NOT noodles", "noodles AND", "- noodles *", "NEAR ( noodles", "OR NOODLES ^"):
        found = await memory.recall(query)
        _require(_contents(found) == [text], f"recall({query!r}) gave {_contents(found)}: a query is text")


async def _check_order_of_recall(memory: Memory) -> None:
    older = await memory.remember("alpha beta")
    await trio.lowlevel.checkpoint()
    newer = await memory.remember("beta alpha")
    both = await memory.remember("alpha beta gamma delta")
    found = [fragment.id for fragment in await memory.recall("alpha beta gamma delta")]
    _require(
        found[:1] == [both], "recall() did not put the fragment first that holds every word of the query"
    )
    found = [fragment.id for fragment in await memory.recall("alpha beta") if fragment.id != both]
    _require(found == [newer, older], "recall() did not put the more recent of two equal fragments first")
    equal = [await memory.remember("omega") for _ in range(20)]
    found = [fragment.id for fragment in await memory.recall("omega", limit=20)]
    _require(
        found == equal[::-1], f"recall() gave 20 equal fragments as {found}, and not the most recent first"
    )
    limited = await memory.recall("alpha", limit=2)
    _require(len(limited) == 2, f"recall(limit=2) gave {len(limited)} fragments of 3 that fit")
    relevances = [fragment.relevance for fragment in await memory.recall("alpha beta gamma")]
    _require(
        relevances == sorted(relevances, reverse=True), f"recall() gave relevances out of order: {relevances}"
    )


async def _check_filters(memory: Memory) -> None:
    await memory.remember("pears of one", source="user", agent_id=1)
    await memory.remember("pears of two", source="tool", agent_id=2)
    by_source = _contents(await memory.recall("pears", source="tool"))
    _require(by_source == ["pears of two"], f"recall(source='tool') gave {by_source}")
    by_agent = _contents(await memory.recall("pears", agent_id=1))
    _require(by_agent == ["pears of one"], f"recall(agent_id=1) gave {by_agent}")
    everything = await memory.recall("pears")
    _require(len(everything) == 2, f"recall() without a filter gave {len(everything)} fragments of 2")
    latest = max(fragment.created_at for fragment in everything)
    since = await memory.recall("pears", since=latest + 1)
    _require(not since, "recall(since=...) gave a fragment that is older than that")
    _require(
        len(await memory.recall("pears", since=latest)) >= 1, "recall(since=t) left out what was created at t"
    )


async def _check_keys(memory: Memory) -> None:
    missing = object()
    _require(
        await memory.get("key") is None, "get() of a key that was never set gave something else than None"
    )
    _require(
        await memory.get("key", missing) is missing,
        "get(key, default) of an unknown key did not give the default",
    )
    for value in ("text", 17, 1.5, True, None, ["a", {"b": 1}], "日本"):
        await memory.set("key", value)
        got = await memory.get("key", missing)
        _require(got == value, f"set('key', {value!r}) and then get('key') gave {got!r}")
    await memory.set("other", 1)
    _require(await memory.get("key") == "日本", "set() of one key changed another")


async def _check_forget(memory: Memory) -> None:
    kept = await memory.remember("plums to keep")
    dropped = await memory.remember("plums to drop")
    _require(await memory.forget(dropped) is True, "forget() of a fragment did not return True")
    _require(
        await memory.forget(dropped) is False, "forget() of a fragment that is gone did not return False"
    )
    left = [fragment.id for fragment in await memory.recall("plums")]
    _require(left == [kept], f"after forget({dropped}), recall() gave the fragments {left} and not [{kept}]")
    again = await memory.remember("plums anew")
    _require(again not in (kept, dropped), f"remember() used the id {again} for a second time")


async def _check_memory_concurrency(memory: Memory) -> None:
    ids: list[int] = []

    async def work(number: int) -> None:
        ids.append(await memory.remember(f"figs {number}"))
        await memory.set(f"key {number}", number)
        await memory.recall("figs")

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(work, number)
    _require(len(set(ids)) == 10, f"10 tasks that remember at once got {len(set(ids))} different ids")
    found = await memory.recall("figs", limit=20)
    _require(len(found) == 10, f"of 10 texts that were remembered at once {len(found)} were recalled")
    for number in range(10):
        _require(await memory.get(f"key {number}") == number, "a value that was set beside others was lost")


async def _check_memory_cancelled(memory: Memory) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await memory.remember("perhaps")
        await memory.recall("perhaps")
        await memory.set("key", 1)
    await memory.remember("still here")  # a cancelled call must not have broken it
    _require(
        await memory.recall("here"), "after a call was cancelled, remember() and recall() no longer worked"
    )


async def _check_namespaces(shared: NamespacedMemory) -> None:
    one, two = shared.namespace("one"), shared.namespace("two")
    ids = [await memory.remember("limes are green") for memory in (shared, one, two)]
    _require(len(set(ids)) == 3, f"three namespaces gave their fragments the ids {ids}, not three")
    for memory, name, wanted in ((shared, "", ids[0]), (one, "one", ids[1]), (two, "two", ids[2])):
        found = await memory.recall("limes")
        got = [fragment.id for fragment in found]
        _require(got == [wanted], f"recall() in the namespace {name!r} gave {got}, and its own is {wanted}")
        _require(
            found[0].namespace == name,
            f"a fragment of the namespace {name!r} says that it is of {found[0].namespace!r}",
        )
        await memory.set("key", name)
    for memory, name in ((shared, ""), (one, "one"), (two, "two")):
        got_value = await memory.get("key")
        _require(got_value == name, f"the namespace {name!r} has the value {got_value!r} of another")
    _require(await two.forget(ids[1]) is False, "forget() dropped a fragment of another namespace")
    again = [fragment.id for fragment in await shared.namespace("one").recall("limes")]
    _require(again == [ids[1]], f"namespace('one') for a second time recalled {again}, not {[ids[1]]}")


async def _check_trust(memory: Memory) -> None:
    assert isinstance(memory, NamespacedMemory)
    await memory.remember("dates by a page", source="tool", origin="https://example.org/page", trust=0.2)
    await memory.remember("dates by a tool", source="tool")
    await memory.remember("dates by a user")
    trusts = {fragment.content: fragment.trust for fragment in await memory.recall("dates")}
    wanted = {"dates by a page": 0.2, "dates by a tool": 0.5, "dates by a user": 1.0}
    _require(trusts == wanted, f"recall() gave the trusts {trusts}, and not {wanted}")
    (page,) = await memory.recall("page")
    _require(page.origin == "https://example.org/page", f"a fragment's origin came back as {page.origin!r}")
    believed = sorted(_contents(await memory.recall("dates", min_trust=0.5)))
    _require(believed == ["dates by a tool", "dates by a user"], f"recall(min_trust=0.5) gave {believed}")


# -- tools ---------------------------------------------------------------------


@attrs.define(eq=False)
class StubToolContext:
    """A `ToolContext` without a pool: what a tool sends is kept, and what it receives is given.

    Attributes:
      id, name, depth: of the agent that the tool believes to be called by.
      memory: its memory, if any.
      inbox: what `receive` hands out, first to last.
      sent: what was sent, as `(to, content)` pairs.
      spawned: what was spawned, as `(agent, args)` pairs; nothing runs.
    """

    id: int = 1
    name: str = "stub"
    depth: int = 0
    memory: Memory | None = None
    inbox: list[AgentMessage] = attrs.field(factory=list)
    sent: list[tuple[int, Any]] = attrs.field(factory=list)
    spawned: list[tuple[Any, tuple[Any, ...]]] = attrs.field(factory=list)

    async def send(self, to: int, content: Any) -> None:
        """Keep a message in `sent`."""
        await trio.lowlevel.checkpoint()
        self.sent.append((to, content))

    async def receive(self) -> AgentMessage:
        """Return the next message of `inbox`; `trio.EndOfChannel` if there is none."""
        await trio.lowlevel.checkpoint()
        if not self.inbox:
            raise trio.EndOfChannel
        return self.inbox.pop(0)

    def receive_nowait(self) -> AgentMessage:
        """Return the next message of `inbox`; `trio.WouldBlock` if there is none."""
        if not self.inbox:
            raise trio.WouldBlock
        return self.inbox.pop(0)

    def find(self, name: str) -> int:
        """Nobody is known by name."""
        raise UnknownAgentError(0, f"there is no live agent named {name!r}")

    async def spawn(
        self,
        agent: Any,
        /,
        *args: Any,
        name: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Keep an agent in `spawned`; there is no handle."""
        await trio.lowlevel.checkpoint()
        self.spawned.append((agent, args))

    spawn_for_model = spawn


async def check_tool(
    tool: Tool,
    *,
    good: Sequence[Mapping[str, Any]],
    bad: Sequence[Mapping[str, Any]] = (),
    context: Any = None,
) -> None:
    """Check that a tool keeps what `agentpool.abc.Tool` promises.

    Args:
      tool: the tool.
      good: arguments with which it succeeds, at least one set of them.
      bad: arguments that it has to refuse, as an error result or a `ToolError`.
      context: the agent that calls it; a `StubToolContext` if left out.

    Raises:
      ConformanceError: that says which promise was broken.
      ValueError: if `good` is empty.

    Checkpoint: always. Cancellation: the call under way is cancelled.
    """
    if not good:
        raise ValueError("give check_tool at least one set of good arguments")
    ctx = StubToolContext() if context is None else context
    _check_definition(tool)
    for arguments in good:
        await _check_good(tool, ctx, arguments)
    for arguments in bad:
        await _check_bad(tool, ctx, arguments)
    await _check_tool_cancelled(tool, ctx, good[0])


def _check_definition(tool: Tool) -> None:
    _require(isinstance(tool, Tool), f"{tool!r} is no Tool: a member of the protocol is missing")
    definition = tool.definition
    name = definition.name
    is_name = (
        bool(name)
        and len(name) <= 64
        and all(char.isascii() and (char.isalnum() or char in "_-") for char in name)
    )
    _require(is_name, f"{name!r} is no name for a tool: providers take up to 64 letters, digits, _ and -")
    _require(
        definition.description.strip(), f"{name} has no description, so that no model knows when to call it"
    )
    try:
        json.dumps(definition.input_schema)
    except (TypeError, ValueError) as error:
        raise ConformanceError(f"the input schema of {name} is no JSON: {error}") from error
    kind = definition.input_schema.get("type")
    _require(
        kind == "object", f"the input schema of {name} has the type {kind!r}; providers take only 'object'"
    )
    limit = tool.timeout
    _require(limit is None or limit > 0, f"the timeout of {name} is {limit!r}; it has to be above 0, or None")


async def _called(tool: Tool, ctx: Any, arguments: Mapping[str, Any]) -> ToolResult:
    name = tool.definition.name
    before = repr(arguments)
    result: object = await tool.call(ctx, arguments)
    _require(repr(arguments) == before, f"{name} changed its arguments, which belong to the transcript")
    _require(isinstance(result, ToolResult), f"{name} returned {result!r} and not a ToolResult")
    assert isinstance(result, ToolResult)
    return result


async def _check_good(tool: Tool, ctx: Any, arguments: Mapping[str, Any]) -> None:
    name = tool.definition.name
    try:
        result = await _in_time(f"{name}({arguments})", lambda: _called(tool, ctx, arguments))
    except ConformanceError:
        raise
    except Exception as error:
        raise ConformanceError(
            f"{name} was given the good arguments {arguments} and raised {error!r}"
        ) from error
    _require(
        not result.is_error, f"{name} was given the good arguments {arguments} and refused: {result.text}"
    )


async def _check_bad(tool: Tool, ctx: Any, arguments: Mapping[str, Any]) -> None:
    name = tool.definition.name
    try:
        result = await _called(tool, ctx, arguments)
    except ToolError as error:
        _require(str(error).strip(), f"{name} refused the bad arguments {arguments} without a word")
    except ConformanceError:
        raise
    except Exception as error:
        raise ConformanceError(
            f"{name} was given the bad arguments {arguments} and raised {error!r};"
            " a ToolError or a result with is_error would tell the model what to fix"
        ) from error
    else:
        _require(
            result.is_error, f"{name} took the bad arguments {arguments} and answered {result.content!r}"
        )
        _require(result.text.strip(), f"{name} refused the bad arguments {arguments} without a word")


async def _check_tool_cancelled(tool: Tool, ctx: Any, arguments: Mapping[str, Any]) -> None:
    name = tool.definition.name
    with trio.move_on_after(_PATIENCE) as patience, trio.CancelScope() as scope:
        scope.cancel()
        try:
            # A tool that ends in time may also finish what it does.
            await tool.call(ctx, arguments)
        except Exception as error:
            raise ConformanceError(
                f"{name}, when cancelled, raised {error!r} and not trio.Cancelled"
            ) from error
    _require(
        not patience.cancelled_caught, f"{name} did not end within {_PATIENCE:g} seconds of being cancelled"
    )
