from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from agentpool import InMemory
from agentpool._core.errors import OverloadedError, ToolError, UnknownAgentError
from agentpool._core.messages import (
    AgentMessage,
    Completion,
    CompletionRequest,
    StreamPart,
    TextDelta,
    ToolCall,
    ToolDefinition,
    ToolResult,
)
from agentpool._core.usage import TokenUsage
from agentpool.abc import Driver, MemoryFragment
from agentpool.testing import ConformanceError, StubToolContext, check_driver, check_memory, check_tool

# -- drivers


class GoodDriver(Driver):
    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        return Completion("hello", usage=TokenUsage(1, 2))


class OneAnswer(GoodDriver):
    def __init__(self) -> None:
        self.asked = False

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        if self.asked:
            raise OverloadedError
        self.asked = True
        return Completion("hello")


async def test_a_good_driver_passes(autojump_clock: object) -> None:
    await check_driver(GoodDriver)
    await check_driver(OneAnswer)


async def test_a_factory_may_be_async(autojump_clock: object) -> None:
    async def factory() -> Driver:
        await trio.lowlevel.checkpoint()
        return GoodDriver()

    await check_driver(factory)


class NoCheckpoint(Driver):
    async def complete(self, request: CompletionRequest) -> Completion:
        return Completion("hello")


class ReturnsText(Driver):
    async def complete(self, request: CompletionRequest) -> Any:
        await trio.lowlevel.checkpoint()
        return "hello"


class Hangs(Driver):
    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep_forever()
        raise AssertionError


class Swallows(Driver):
    async def complete(self, request: CompletionRequest) -> Completion:
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            pass
        return Completion("hello")


class Translates(Driver):
    async def complete(self, request: CompletionRequest) -> Completion:
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            raise OSError("gone") from error
        return Completion("hello")


class OneAtATime(Driver):
    def __init__(self) -> None:
        self.busy = False

    async def complete(self, request: CompletionRequest) -> Completion:
        if self.busy:
            await trio.lowlevel.checkpoint()
            return Completion(None)  # type: ignore[arg-type]
        self.busy = True
        await trio.lowlevel.checkpoint()
        self.busy = False
        return Completion("hello")


class TwinCalls(GoodDriver):
    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        return Completion(tool_calls=(ToolCall("1", "a"), ToolCall("1", "b")))


class WrongReason(GoodDriver):
    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        return Completion(tool_calls=(ToolCall("1", "a"),), stop_reason="end_turn")


class Impatient(GoodDriver):
    context_window = 0


class Pays(GoodDriver):
    def estimate_cost(self, usage: TokenUsage) -> float | None:
        return -1.0


class Anywhere(GoodDriver):
    privacy = "standard"  # type: ignore[assignment]


class _Streaming(GoodDriver):
    parts: tuple[Any, ...] = ()

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:  # type: ignore[override]
        async def generate() -> AsyncIterator[StreamPart]:
            for part in self.parts:
                await trio.lowlevel.checkpoint()
                yield part
            await trio.lowlevel.checkpoint()

        async with aclosing(generate()) as iterator:
            yield iterator


class EmptyStream(_Streaming):
    pass


class Unfinished(_Streaming):
    parts = (TextDelta("hel"),)


class OtherWords(_Streaming):
    parts = (TextDelta("hel"), Completion("hello"))


class CompletionTwice(_Streaming):
    parts = (Completion("hello"), Completion("hello"))


@pytest.mark.parametrize(
    ("driver", "sentence"),
    [
        (NoCheckpoint, "returned without a checkpoint"),
        (ReturnsText, "gave 'hello' and not a Completion"),
        (Hangs, "did not end within 60 seconds"),
        (Swallows, "swallows trio.Cancelled"),
        (Translates, "raised OSError.* and not trio.Cancelled"),
        (OneAtATime, "called from many tasks at once, gave a text of type NoneType"),
        (TwinCalls, "two tool calls the same id"),
        (WrongReason, "should be tool_use"),
        (Impatient, "context_window is 0"),
        (Pays, "estimate_cost.* is -1.0"),
        (Anywhere, "privacy is 'standard'"),
        (EmptyStream, "ended without anything"),
        (Unfinished, "the last part of stream.* not a Completion"),
        (OtherWords, "deltas of stream.* are 'hel' together"),
        (CompletionTwice, "only TextDelta and ReasoningDelta may come there"),
    ],
)
async def test_a_bad_driver_is_told_what_is_wrong(
    autojump_clock: object, driver: type[Driver], sentence: str
) -> None:
    with pytest.raises(ConformanceError, match=sentence):
        await check_driver(driver)


async def test_what_is_no_driver_is_said_so() -> None:
    with pytest.raises(ConformanceError, match="is no Driver"):
        await check_driver(lambda: object())  # type: ignore[arg-type,return-value]


# -- memories


@attrs.define(eq=False)
class Shelf:
    """A memory that keeps every promise, unless it was told to break one."""

    flaw: str = ""
    fragments: list[MemoryFragment] = attrs.field(factory=list)
    values: dict[str, Any] = attrs.field(factory=dict)
    issued: int = 0

    async def _step(self) -> None:
        await trio.lowlevel.checkpoint()

    async def remember(self, content: str, *, source: str = "user", agent_id: int = 0) -> int:
        await self._step()
        if self.flaw != "same ids":
            self.issued += 1
        number = len(self.fragments) if self.flaw == "ids used again" else self.issued
        self.fragments.append(MemoryFragment(number, content, source, agent_id, trio.current_time()))
        return number

    async def recall(
        self,
        query: str,
        *,
        limit: int = 5,
        source: str | None = None,
        agent_id: int | None = None,
        since: float | None = None,
    ) -> Sequence[MemoryFragment]:
        await self._step()
        words = set(query.lower().split())
        if self.flaw == "awkward queries" and '"' in query:
            raise ValueError(query)

        def score(fragment: MemoryFragment) -> float:
            return len(words & set(fragment.content.lower().split())) / max(1, len(words))

        fitting = [
            attrs.evolve(fragment, relevance=score(fragment) * (2 if self.flaw == "relevance" else 1))
            for fragment in (self.fragments if self.flaw == "oldest first" else reversed(self.fragments))
            if (score(fragment) or self.flaw == "recalls all")
            and (source is None or fragment.source == source or self.flaw == "source ignored")
            and (agent_id is None or fragment.agent_id == agent_id or self.flaw == "agent ignored")
            and (since is None or fragment.created_at >= since or self.flaw == "since ignored")
        ]
        fitting.sort(key=lambda fragment: -fragment.relevance)
        return fitting if self.flaw == "limit ignored" else fitting[:limit]

    async def set(self, key: str, value: Any) -> None:
        await self._step()
        self.values["" if self.flaw == "one key" else key] = str(value) if self.flaw == "as text" else value

    async def get(self, key: str, default: Any = None) -> Any:
        await self._step()
        return self.values.get("" if self.flaw == "one key" else key, default)

    async def forget(self, fragment_id: int) -> bool:
        await self._step()
        if self.flaw == "forgets nothing":
            return True
        before = len(self.fragments)
        self.fragments = [fragment for fragment in self.fragments if fragment.id != fragment_id]
        return len(self.fragments) < before


async def test_a_good_memory_passes(autojump_clock: object) -> None:
    await check_memory(Shelf)


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ("same ids", "the same id"),
        ("ids used again", "the same id|used the id"),
        ("recalls all", "and not the one text with that word"),
        ("oldest first", "the more recent of two equal"),
        ("relevance", "a relevance of 2.0, outside 0 to 1"),
        ("limit ignored", r"recall\(limit=2\) gave 3"),
        ("source ignored", "recall.source='tool'. gave"),
        ("agent ignored", "recall.agent_id=1. gave"),
        ("since ignored", "older than that"),
        ("as text", r"set\('key', 17\) and then get\('key'\) gave '17'"),
        ("one key", "changed another"),
        ("forgets nothing", "fragment that is gone did not return False"),
    ],
)
async def test_a_bad_memory_is_told_what_is_wrong(autojump_clock: object, flaw: str, sentence: str) -> None:
    with pytest.raises(ConformanceError, match=sentence):
        await check_memory(lambda: Shelf(flaw))


async def test_a_memory_that_chokes_on_a_query_shows_its_error(autojump_clock: object) -> None:
    with pytest.raises(ValueError, match="quoted"):
        await check_memory(lambda: Shelf("awkward queries"))


class Cabinet(InMemory):
    """A memory with namespaces that keeps every promise, unless it was told to break one."""

    flaw = ""

    def namespace(self, name: str) -> InMemory:
        match self.flaw:
            case "one for all":
                return self
            case "anew":
                self._namespaces.pop(name, None)
            case "ids of its own":
                inner = super().namespace(name)
                inner._ids = itertools.count(1)
                return inner
        return super().namespace(name)

    async def remember(self, content: str, **given: Any) -> int:
        if self.flaw == "trusts everyone":
            given["trust"] = 1.0
        if self.flaw == "forgets the origin":
            given["origin"] = ""
        return await super().remember(content, **given)

    async def recall(self, query: str, *, min_trust: float = 0.0, **given: Any) -> Any:
        least = 0.0 if self.flaw == "min_trust ignored" else min_trust
        found = await super().recall(query, min_trust=least, **given)
        return found[::-1] if self.flaw == "equals shuffled" and len(found) == 20 else found


async def test_a_good_memory_with_namespaces_passes() -> None:
    await check_memory(Cabinet)


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ("one for all", r"recall\(\) in the namespace '' gave"),
        ("anew", "for a second time recalled"),
        ("ids of its own", "gave their fragments the ids"),
        ("trusts everyone", r"recall\(\) gave the trusts"),
        ("forgets the origin", "origin came back as ''"),
        ("min_trust ignored", r"recall\(min_trust=0.5\) gave"),
        ("equals shuffled", "20 equal fragments"),
    ],
)
async def test_a_bad_memory_with_namespaces_is_told_what_is_wrong(flaw: str, sentence: str) -> None:
    kind = type("Flawed", (Cabinet,), {"flaw": flaw})
    with pytest.raises(ConformanceError, match=sentence):
        await check_memory(kind)


# -- tools


@attrs.define(eq=False)
class Double:
    """A tool that keeps every promise, unless it was told to break one."""

    flaw: str = ""
    name: str = "double"
    description: str = "Doubles a number."
    schema: Any = attrs.field(factory=lambda: {"type": "object"})
    timeout: float | None = 10.0
    capability: None = None

    @property
    def definition(self) -> ToolDefinition:
        return ToolDefinition(self.name, self.description, self.schema)

    async def call(self, ctx: Any, arguments: Mapping[str, Any]) -> Any:
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            if self.flaw == "translates":
                raise OSError from None
            raise
        number = arguments.get("number")
        if not isinstance(number, int):
            match self.flaw:
                case "takes all":
                    return ToolResult("0")
                case "raises":
                    raise TypeError(number)
                case "wordless":
                    return ToolResult("", is_error=True)
                case "wordless error":
                    raise ToolError
                case "tool error":
                    raise ToolError("give a number")
                case _:
                    return ToolResult("give a number", is_error=True)
        if self.flaw == "changes arguments":
            arguments["seen"] = True  # type: ignore[index]
        if self.flaw == "fails":
            raise ZeroDivisionError
        if self.flaw == "refuses":
            return ToolResult("no", is_error=True)
        return number * 2 if self.flaw == "plain" else ToolResult(str(number * 2))


@pytest.mark.parametrize("flaw", ["", "tool error"])
async def test_a_good_tool_passes(autojump_clock: object, flaw: str) -> None:
    await check_tool(Double(flaw), good=[{"number": 2}], bad=[{}, {"number": "x"}])


@pytest.mark.parametrize(
    ("tool", "sentence"),
    [
        (Double("plain"), "returned 4 and not a ToolResult"),
        (Double("fails"), "good arguments .* and raised ZeroDivisionError"),
        (Double("refuses"), "good arguments .* and refused: no"),
        (Double("takes all"), "took the bad arguments"),
        (Double("raises"), "bad arguments .* and raised TypeError"),
        (Double("wordless"), "without a word"),
        (Double("wordless error"), "without a word"),
        (Double("changes arguments"), "changed its arguments"),
        (Double("translates"), "when cancelled, raised OSError"),
        (Double(name="two words"), "is no name for a tool"),
        (Double(description=" "), "has no description"),
        (Double(schema={"type": "object", "x": object()}), "is no JSON"),
        (Double(schema={"type": "array"}), "has the type 'array'"),
        (Double(timeout=0), "timeout of double is 0"),
    ],
)
async def test_a_bad_tool_is_told_what_is_wrong(autojump_clock: object, tool: Any, sentence: str) -> None:
    with pytest.raises(ConformanceError, match=sentence):
        await check_tool(tool, good=[{"number": 2}], bad=[{"number": "x"}])


async def test_a_tool_needs_good_arguments_to_be_checked_with() -> None:
    with pytest.raises(ValueError, match="at least one"):
        await check_tool(Double(), good=[])


async def test_what_is_no_tool_is_said_so() -> None:
    with pytest.raises(ConformanceError, match="is no Tool"):
        await check_tool(object(), good=[{}])  # type: ignore[arg-type]


async def test_the_stub_context_keeps_what_a_tool_does_with_it() -> None:
    message = AgentMessage(content="hi")
    ctx = StubToolContext(inbox=[message, message])
    await ctx.send(3, "x")
    await ctx.spawn(print, 1)
    assert await ctx.receive() == ctx.receive_nowait() == message
    with pytest.raises(trio.WouldBlock):
        ctx.receive_nowait()
    with pytest.raises(trio.EndOfChannel):
        await ctx.receive()
    with pytest.raises(UnknownAgentError, match="anna"):
        ctx.find("anna")
    assert (ctx.sent, ctx.spawned) == ([(3, "x")], [(print, (1,))])
