"""What comes into a conversation: parts, text that cannot be encoded, calls that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import pytest
from pool_kit import pool_of

from agentpool import (
    AgentManifest,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Document,
    Failed,
    FileReadCapability,
    Image,
    InMemory,
    LoopHaltedError,
    ManifestError,
    ModelAgent,
    ModelSettings,
    ScriptedDriver,
    SpawnConfig,
    Text,
    TokenUsage,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
    tool,
)
from agentpool._core.effects import Act, Acted, Effect, Observation, Reason, Recall, Recalled, Replied
from agentpool._core.encoding import encodable_message, encodable_result
from agentpool._core.loop import advance, begin
from agentpool._core.messages import AgentMessage, ProviderData
from agentpool._core.text import encodable
from agentpool._core.transcript import IMAGE_TOKENS, request_tokens
from agentpool.abc import MemoryFragment

PLAIN = AgentManifest(name="plain")
MINDFUL = AgentManifest(name="mindful", capabilities=["memory"])
USAGE = TokenUsage(10, 5)
PICTURE = Image(b"\x89PNG", "image/png")
LONE, FIT = "smile \ud83d", "smile \ufffd"


def calling(*calls: ToolCall) -> Completion:
    return Completion("", calls, usage=USAGE)


def answer_of(message: Any) -> ToolResult:
    assert isinstance(message, ToolMessage)
    return message.result


def last(manifest: AgentManifest, *observations: Observation, query: Any = "do it", **options: Any) -> Effect:
    state, effect = begin(manifest, query, **options)
    for observation in observations:
        state, effect = advance(state, observation)
    return effect


def request_after(manifest: AgentManifest, *observations: Observation, **options: Any) -> CompletionRequest:
    effect = last(manifest, *observations, **options)
    assert isinstance(effect, Reason)
    return effect.request


async def result_of(config: SpawnConfig[Any], driver: ScriptedDriver, **options: Any) -> Any:
    async with pool_of(1, driver=driver, **options) as pool:
        return await (await pool.spawn(config)).result()


# -- queries of parts


async def test_a_query_may_be_parts(autojump_clock: Any) -> None:
    driver = ScriptedDriver(["A cat.", "Two.", "A file.", "A cat."])
    parts = ["What is this?", PICTURE, Document(b"%PDF", "application/pdf", name="a.pdf")]
    await result_of(SpawnConfig(PLAIN, parts), driver)
    await result_of(SpawnConfig(PLAIN, (part for part in parts)), driver)
    await result_of(SpawnConfig(PLAIN, PICTURE), driver)
    async with pool_of(1, driver=driver) as pool:
        (outcome,) = await pool.map(ModelAgent(PLAIN), [Text("What?")])
    assert outcome.unwrap().transcript[0] == UserMessage((Text("What?"),))
    whole = UserMessage((Text("What is this?"), *parts[1:]))  # type: ignore[arg-type]
    assert [request.messages[0] for request in driver.requests[:3]] == [whole, whole, UserMessage((PICTURE,))]


async def test_memory_and_scripts_get_the_text_of_a_query(autojump_clock: Any) -> None:
    effect = begin(MINDFUL, (Text("What is this?"), PICTURE))[1]
    assert effect == Recall("What is this?\n[image/png, 4 bytes]")
    manifest = AgentManifest.from_toml('name = "a"\n[script]\nsteps = [{text = "You asked: {query}"}]')
    driver = ScriptedDriver.for_manifest(manifest)
    result = await result_of(SpawnConfig(manifest, [Text("What is this?"), PICTURE]), driver)
    assert result.text == "You asked: What is this?\n[image/png, 4 bytes]"


def test_a_picture_in_a_query_is_counted() -> None:
    request = request_after(PLAIN, Recalled(), query=(PICTURE,))
    assert request_tokens(request) > IMAGE_TOKENS


@pytest.mark.parametrize("query", [None, 3, b"bytes", {"text": "a"}, ["a", 3], [b"a"]])
async def test_what_is_neither_text_nor_parts_is_no_query(query: Any, autojump_clock: Any) -> None:
    with pytest.raises(TypeError, match=r"query must be a string, not .*; or parts"):
        SpawnConfig(PLAIN, query)
    async with pool_of(1, driver=ScriptedDriver(["x"])) as pool:
        outcome = await (await pool.spawn(ModelAgent(PLAIN), query)).wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TypeError)


# -- text that cannot be encoded


@pytest.mark.parametrize(
    ("text", "fit"),
    [
        ("", ""),
        ("plain", "plain"),
        ("ä€😀", "ä€😀"),
        (LONE, FIT),
        ("\ud83d\ude00", "😀"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("a\udcffb", "a\ufffdb"),
        ("\ud83d\ud83d\ude00ä", "\ufffd😀ä"),
    ],
)
def test_text_becomes_fit_to_be_encoded(text: str, fit: str) -> None:
    assert encodable(text) == fit
    assert encodable(text).encode().decode() == fit


def encoded(request: CompletionRequest) -> None:
    """Whatever is said in a request can be encoded."""
    repr(request.messages).encode()
    assert "\\ud" not in repr(tuple(request.messages))


def test_queries_history_memory_and_messages_are_made_fit() -> None:
    data = ProviderData("a", "b", {})
    history = [
        UserMessage((Text(LONE), PICTURE), body=LONE),
        AssistantMessage(LONE, (ToolCall("\ud83d", LONE, {LONE: [LONE, 1, {"a": LONE}]}),), LONE, data),
        ToolMessage("\ud83d", LONE, ToolResult((Text(LONE), PICTURE), is_error=True)),
    ]
    messages = [AgentMessage(3, 4, LONE, 1), AgentMessage(3, 4, {"a": LONE}, 2, topic=LONE)]
    manifest = attrs.evolve(MINDFUL, model=ModelSettings(system_prompt="kind"))
    heard = Recalled([MemoryFragment(1, LONE)], messages)
    request = request_after(manifest, heard, query=LONE, history=history)
    encoded(request)
    assert request.system == "kind"
    assert request.messages[1] == AssistantMessage(
        FIT, (ToolCall("\ufffd", FIT, {FIT: [FIT, 1, {"a": FIT}]}),), FIT, data
    )
    assert request.messages[2] == ToolMessage("\ufffd", FIT, ToolResult((Text(FIT), PICTURE), is_error=True))
    assert request.messages[3] == UserMessage(FIT)
    assert begin(MINDFUL, LONE)[1] == Recall(FIT)


def test_answers_and_results_are_made_fit() -> None:
    said = Completion(LONE, [ToolCall("1", "echo", {"text": LONE})], usage=USAGE, reasoning=LONE)
    effect = last(PLAIN, Recalled(), Replied(said))
    assert effect == Act((ToolCall("1", "echo", {"text": FIT}),))
    request = request_after(PLAIN, Recalled(), Replied(said), Acted([ToolResult(LONE)]), Recalled())
    encoded(request)
    assert request.messages[1] == AssistantMessage(FIT, (ToolCall("1", "echo", {"text": FIT}),), FIT)
    assert answer_of(request.messages[2]) == ToolResult(FIT)


def test_what_is_fit_already_is_left_as_it_is() -> None:
    for result in (ToolResult("a"), ToolResult("ä"), ToolResult((Text("ä"), PICTURE))):
        assert encodable_result(result) == result
    for message in (
        AssistantMessage("a", (ToolCall("1", "b", {"c": "ä"}),)),
        AssistantMessage("ä\\ud83d", (ToolCall("1", "b", {"c": "\\ud83d"}),)),
    ):
        assert encodable_message(message) == message


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """A directory with a file whose name is Latin-1."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("x", "utf-8")
    return tmp_path


async def test_half_an_emoji_ends_no_agent(strange: Path) -> None:
    @tool(quick=True)
    def cut() -> str:
        """Return a text that ends in half of a pair."""
        return LONE

    @tool(quick=True)
    def fails() -> str:
        """Fail on a file with a strange name."""
        raise OSError(f"no such file: {LONE}")

    manifest = AgentManifest(name="a", capabilities=[FileReadCapability([str(strange)]), "memory"])
    calls = [ToolCall("1", "cut"), ToolCall("2", "fails"), ToolCall("3", "list_files")]
    driver = ScriptedDriver([calling(*calls), LONE])
    memory = InMemory()
    result = await result_of(SpawnConfig(manifest, LONE, tools=[cut, fails]), driver, memory=memory)
    assert result.text == FIT
    repr(result).encode()
    assert "\ud83d" not in str(result.transcript)
    results = [message.result.text for message in result.transcript if isinstance(message, ToolMessage)]
    assert results[0] == FIT
    assert FIT in results[1]
    assert "caf" in results[2]
    (kept,) = await memory.recall("smile")
    assert kept.content == FIT


# -- calls whose arguments could not be read

BAD_CALL = ToolCall("1", "write", problem='the arguments are no JSON: {"text": "one"')


async def test_a_call_that_cannot_be_read_is_told_to_the_model_and_not_run(autojump_clock: Any) -> None:
    ran: list[str] = []

    @tool
    async def write(text: str = "") -> str:
        """Write."""
        ran.append(text)
        return "written"

    good = ToolCall("2", "write", {"text": "two"})
    driver = ScriptedDriver([calling(BAD_CALL, good), "done"])
    result = await result_of(SpawnConfig(PLAIN, "go", tools=[write]), driver)
    assert result.text == "done"
    assert ran == ["two"]
    bad, well = [answer_of(message) for message in driver.requests[1].messages[2:4]]
    assert bad == ToolResult(BAD_CALL.problem, is_error=True)
    assert well == ToolResult("written")


async def test_calls_that_can_never_be_read_are_stopped_by_the_guard(autojump_clock: Any) -> None:
    driver = ScriptedDriver(lambda request: calling(attrs.evolve(BAD_CALL, id=str(len(request.messages)))))
    async with pool_of(1, driver=driver) as pool:
        outcome = await (await pool.spawn(SpawnConfig(PLAIN, "go"))).wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, LoopHaltedError)
    assert "repeats the same call of write" in outcome.error.reason
    assert len(driver.requests) == 6


async def test_the_call_that_is_right_at_last_is_no_repetition_of_the_mistakes(autojump_clock: Any) -> None:
    @tool
    async def write() -> str:
        """Write."""
        return "written"

    mistakes = [calling(attrs.evolve(BAD_CALL, id=str(n))) for n in range(4)]
    driver = ScriptedDriver([*mistakes, calling(ToolCall("5", "write")), "done"])
    result = await result_of(SpawnConfig(PLAIN, "go", tools=[write]), driver)
    assert answer_of(result.transcript[-2]) == ToolResult("written")


async def test_different_mistakes_are_no_repetition(autojump_clock: Any) -> None:
    driver = ScriptedDriver(
        [calling(ToolCall(str(n), "write", problem=f"mistake {n}")) for n in range(10)] + ["done"]
    )
    assert (await result_of(SpawnConfig(PLAIN, "go"), driver)).text == "done"


# -- answers that were cut off within a call


async def test_half_a_call_is_neither_run_nor_sent_back(autojump_clock: Any) -> None:
    """Drivers leave a call out whose arguments were cut; what looks whole may have been cut as well."""
    ran: list[str] = []

    @tool
    async def write(text: str = "") -> str:
        """Write."""
        ran.append(text)
        return "written"

    whole = ToolCall("2", "write", {"text": "a"})
    for calls in ([], [whole]):
        driver = ScriptedDriver([Completion("", calls, "max_tokens", USAGE), "done"])
        result = await result_of(SpawnConfig(PLAIN, "go", tools=[write]), driver)
        assert result.text == "done"
        assert ran == []
        told = driver.requests[1].messages[1:]
        if calls:
            assert answer_of(told[1]).is_error
            assert answer_of(told[1]).text.startswith("Not run: the answer was cut off")
        else:
            (note,) = told
            assert isinstance(note, UserMessage)
            assert "before it had said anything that can be used" in note.body


# -- which tool is to be called

LOOK, WRITE = [ToolDefinition(name, name, {"type": "object"}) for name in ("look", "write")]


def choosing(choice: str | None) -> AgentManifest:
    return AgentManifest(name="chooser", model=ModelSettings(tool_choice=choice))


def choices(choice: str | None, *calls: ToolCall, tools: Any = (LOOK, WRITE)) -> list[str | None]:
    """What the requests say, before and after each of these calls."""
    observations: list[Observation] = [Recalled()]
    said = [request_after(choosing(choice), *observations, tools=tools).tool_choice]
    for call in calls:
        observations += [Replied(calling(call)), Acted([ToolResult("x")]), Recalled()]
        said.append(request_after(choosing(choice), *observations, tools=tools).tool_choice)
    return said


def test_a_forced_choice_holds_until_it_was_made() -> None:
    look, write = ToolCall("1", "look"), ToolCall("2", "write")
    broken = ToolCall("3", "look", problem="no JSON")
    assert choices("required", look, write) == ["required", "auto", "auto"]
    assert choices("required", broken, look) == ["required", "required", "auto"]
    assert choices("look", write, broken, look, write) == ["look", "look", "look", "auto", "auto"]
    assert choices("none", look) == ["none", "none"]
    assert choices("auto", look) == ["auto", "auto"]
    assert choices(None, look) == [None, None]


def test_without_tools_there_is_no_choice() -> None:
    assert choices("auto", tools=()) == choices("none", tools=()) == [None]


@pytest.mark.parametrize(
    ("choice", "tools", "told"),
    [
        ("lok", (LOOK, WRITE), r"model.tool_choice: 'lok' is no tool of this agent. .*look"),
        ("look", (), r"model.tool_choice: 'look' is no tool of this agent"),
        ("required", (), r"model.tool_choice: 'required' cannot be kept: the agent has no tools"),
    ],
)
def test_a_choice_that_nobody_has_is_an_error(choice: str, tools: Any, told: str) -> None:
    with pytest.raises(ManifestError, match=f"manifest 'chooser': {told}"):
        begin(choosing(choice), "do it", tools=tools)


@pytest.mark.parametrize(
    ("choice", "tools", "missing", "asked"),
    [
        ("look", (WRITE,), ["look"], "auto"),
        ("look", (), ["look"], None),
        ("look", (WRITE,), ["x", "lo"], "auto"),
        ("look", (LOOK,), ["look"], "look"),
        ("required", (), ["x"], None),
        ("required", (LOOK,), ["x"], "required"),
    ],
)
def test_a_choice_that_nobody_has_now_is_not_kept(
    choice: str, tools: Any, missing: list[str], asked: str | None
) -> None:
    state, _ = begin(choosing(choice), "do it", tools=tools, missing=missing)
    assert state.plan.tool_choice == asked


def test_a_choice_with_a_slip_is_an_error_also_where_others_are_missing() -> None:
    with pytest.raises(ManifestError, match="'lok' is no tool of this agent"):
        begin(choosing("lok"), "do it", tools=(WRITE,), missing=["look", "x"])


# -- a schema in the manifest


async def test_an_answer_fits_the_schema_of_its_manifest(autojump_clock: Any) -> None:
    schema = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    manifest = AgentManifest(name="a", model=ModelSettings(output_schema=schema))
    driver = ScriptedDriver(['{"name": 1}', '<think>{"name": 2}?</think>Here: {"name": "Ulm"}'])
    result = await result_of(SpawnConfig(manifest, "A city?"), driver)
    assert result.output == {"name": "Ulm"}
    assert result.text.endswith('{"name": "Ulm"}')
    assert [request.output_schema for request in driver.requests] == [schema, schema]
    assert '"required": ["name"]' in driver.requests[0].system
    note = driver.requests[1].messages[-1]
    assert isinstance(note, UserMessage)
    assert "- name: must be of type string, not integer" in note.body


async def test_an_output_type_comes_before_the_schema_of_the_manifest(autojump_clock: Any) -> None:
    manifest = AgentManifest(name="a", model=ModelSettings(output_schema={"type": "object"}))
    driver = ScriptedDriver(["[1, 2]", "text"])
    typed = await result_of(SpawnConfig(manifest, "go", output_type=list[int]), driver)
    assert typed.output == [1, 2]
    text = await result_of(SpawnConfig(manifest, "go", output_type=str), driver)
    assert text.output == "text"
    assert driver.requests[1].output_schema is None
    config = SpawnConfig(manifest, "go", output_retries=0)
    async with pool_of(1, driver=ScriptedDriver(["[1]"])) as pool:
        outcome = await (await pool.spawn(config)).wait()
    assert isinstance(outcome, Failed)
    assert "must be of type object, not array" in str(outcome.error)
