"""Anthropic's messages and OpenAI's responses: what is sent, and what odd answers become."""

from __future__ import annotations

import copy
import random
from typing import Any

import corpus_messages
import corpus_responses
import pytest
from corpus_chat import Odd
from test_corpus_chat import LOOK, QUESTION, check

from agentpool import (
    AssistantMessage,
    Completion,
    CompletionRequest,
    Document,
    Image,
    MalformedReplyError,
    ProviderData,
    RequestRejectedError,
    Text,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.encoding import encodable_message
from agentpool._core.messages import ReasoningDelta, TextDelta
from agentpool.drivers._dialect import Dialect, RefusedInStreamError
from agentpool.drivers._encoding import encoded
from agentpool.drivers._fitting import Question, schema_instruction
from agentpool.drivers._learning import Lessons, learned
from agentpool.drivers._messages import MessagesDialect
from agentpool.drivers._refusals import Refusal
from agentpool.drivers._responses import ResponsesDialect
from agentpool.drivers._schemas import closed_schema

CLAUDE: Dialect = MessagesDialect()
RESPONSES: Dialect = ResponsesDialect()

WHOLE = [(CLAUDE, odd) for odd in corpus_messages.WHOLE] + [
    (RESPONSES, odd) for odd in corpus_responses.WHOLE
]
STREAMS = [(CLAUDE, odd) for odd in corpus_messages.STREAMS] + [
    (RESPONSES, odd) for odd in corpus_responses.STREAMS
]


def name_of(value: Any) -> str:
    return value.why if isinstance(value, Odd) else type(value).__name__


@pytest.mark.parametrize(("dialect", "odd"), WHOLE, ids=name_of)
def test_a_whole_answer(dialect: Dialect, odd: Odd) -> None:
    check(odd, lambda: dialect.completion(odd.came, QUESTION))


@pytest.mark.parametrize(("dialect", "odd"), STREAMS, ids=name_of)
def test_a_stream(dialect: Dialect, odd: Odd) -> None:
    deltas: list[str] = []

    def read() -> Completion:
        reader = dialect.reader(QUESTION)
        for piece in odd.came:
            deltas.extend(delta.text for delta in reader.feed(piece, "") if isinstance(delta, TextDelta))
        return reader.completion()

    completion = check(odd, read)
    if completion is not None and deltas:
        assert "".join(deltas) == completion.text


def thoughts_of(dialect: Dialect, *events: Any) -> tuple[str, str]:
    """Return the thoughts as they were streamed, and as the whole answer has them."""
    reader = dialect.reader(QUESTION)
    streamed = [
        delta.text
        for event in events
        for delta in reader.feed(event, "")
        if isinstance(delta, ReasoningDelta)
    ]
    return "".join(streamed), reader.completion().reasoning


def test_parts_of_a_thought_stand_apart_in_a_stream_as_in_the_whole() -> None:
    """hermes-agent#81911, goai#125."""

    def piece(text: str, index: int, item: str = "rs") -> dict[str, Any]:
        return corpus_responses.piece(
            "reasoning_summary_text.delta", item_id=item, summary_index=index, delta=text
        )

    def thought(*texts: str) -> dict[str, Any]:
        return {
            **corpus_responses.THOUGHT,
            "summary": [{"type": "summary_text", "text": text} for text in texts],
        }

    end = corpus_responses.done(
        corpus_responses.whole(thought("**a**", "**b**"), thought("c"), corpus_responses.said("d"))
    )
    streamed, whole = thoughts_of(
        RESPONSES, piece("**", 0), piece("a**", 0), piece("**b**", 1), piece("c", 0, "rt"), end
    )
    assert streamed == whole == "**a**\n\n**b**\n\nc"
    blocks = [
        corpus_messages.begin({"type": "thinking", "thinking": ""}),
        corpus_messages.delta("thinking_delta", thinking="a"),
        corpus_messages.delta("thinking_delta", thinking="b"),
        corpus_messages.begin({"type": "thinking", "thinking": "c"}, 1),
        corpus_messages.delta("thinking_delta", 1, thinking="d"),
    ]
    streamed, whole = thoughts_of(CLAUDE, *blocks, corpus_messages.end(), corpus_messages.STOP)
    assert streamed == whole == "ab\n\ncd"


def test_a_thought_that_is_streamed_twice_is_heard_once() -> None:
    """halogen-flash-server#67: as a summary and as itself."""
    pieces = [
        corpus_responses.piece(f"reasoning_{kind}.delta", item_id="rs", delta=text)
        for text in ("h", "m")
        for kind in ("text", "summary_text")
    ]
    end = corpus_responses.done(corpus_responses.whole(corpus_responses.THOUGHT, corpus_responses.said("a")))
    assert thoughts_of(RESPONSES, *pieces, end) == ("hm", "hm")


# -- answers changed at random ----------------------------------------------------------------------

WRONG = (None, "", 0, -1, 1.5, True, [], {}, "x", [None], ["x"], {"a": 1}, [[]], [{}], {"type": "text"})


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all that is in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [place for key, item in inner for place in places(item, (*here, key))]
    return [here, *found] if here else found


def changed(value: Any, chance: random.Random) -> Any:
    """Return a value of which some parts are missing, doubled, or something else."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        somewhere = places(value)
        if not somewhere:
            break
        *way, last = chance.choice(somewhere)
        table = value
        for key in way:
            table = table[key]
        change = chance.random()
        if change < 0.2:
            del table[last]
        elif change < 0.4 and isinstance(table, list):
            table.insert(last, copy.deepcopy(table[last]))
        else:
            table[last] = copy.deepcopy(chance.choice(WRONG))
    return value


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dialect", [CLAUDE, RESPONSES], ids=name_of)
def test_whatever_comes_is_an_answer_that_can_go_back_or_an_error(dialect: Dialect, seed: int) -> None:
    chance = random.Random(seed)
    whole = [odd for of, odd in WHOLE if of is dialect]
    streams = [odd for of, odd in STREAMS if of is dialect]
    for _ in range(500):
        came = changed(chance.choice(streams if chance.random() < 0.5 else whole).came, chance)
        try:
            if isinstance(came, list):
                reader = dialect.reader(QUESTION)
                for piece in came:
                    list(reader.feed(piece, ""))
                completion = reader.completion()
            else:
                completion = dialect.completion(came, QUESTION)
        except (MalformedReplyError, RefusedInStreamError):
            continue
        results = [result(call.id) for call in completion.tool_calls]
        body = sent(
            dialect,
            UserMessage("a"),
            completion.message,
            *results,
            UserMessage("b"),
            tools=[LOOK],
            reasoning=2000,
        )
        encoded(body)


def test_a_text_of_a_response_in_the_place_of_its_parts_goes_back() -> None:
    item = {"type": "message", "content": "hi"}
    came = RESPONSES.completion(corpus_responses.whole(corpus_responses.THOUGHT, item), QUESTION)
    items = sent(RESPONSES, UserMessage("a"), came.message, UserMessage("b"))["input"]
    assert items[1:3] == [corpus_responses.THOUGHT, item]


# -- what is sent -------------------------------------------------------------------------------


def sent(dialect: Dialect, *messages: Any, lessons: Lessons | None = None, **more: Any) -> dict[str, Any]:
    question = Question(CompletionRequest(messages=messages, **more), "m", lessons or Lessons())
    return dialect.body(question, streaming=False)


def called(*ids: str, data: Any = None, provider: str = "anthropic") -> AssistantMessage:
    kept = None if data is None else ProviderData(provider, "m", data)
    return AssistantMessage("", [ToolCall(id, "look", {"a": 1}) for id in ids], "", kept)


def result(id: str, content: Any = "done", *, is_error: bool = False) -> ToolMessage:
    return ToolMessage(id, "look", ToolResult(content, is_error))


THOUGHT = corpus_messages.THOUGHT
PICTURE = Image(b"x", "image/png")
FILES = (
    Text("see"),
    PICTURE,
    Image(url="https://h/a.png"),
    Document(b"text", "text/plain", name="a.txt"),
    Document(b"%PDF", "application/pdf"),
    Document(url="https://h/a.pdf"),
    Document(b"x", "application/zip"),
)


def test_claude_is_asked_with_cache_points_on_prompt_tools_and_the_last_turns() -> None:
    body = sent(
        CLAUDE, UserMessage("a"), called("1"), result("1"), called("2"), result("2"), system="s", tools=[LOOK]
    )
    point = {"cache_control": {"type": "ephemeral"}}
    assert body["system"] == [{"type": "text", "text": "s", **point}]
    assert body["tools"][-1]["cache_control"] == point["cache_control"]
    marked = ["cache_control" in block for message in body["messages"] for block in message["content"]]
    assert marked == [False, False, True, False, True]
    assert str(body).count("ephemeral") == 4  # more than four are refused


@pytest.mark.parametrize("plain", ["switched off", "learned"])
def test_claude_without_cache_points(plain: str) -> None:
    lessons = Lessons(traits=frozenset({"no_cache_points"}) if plain == "learned" else frozenset())
    body = sent(
        MessagesDialect(cache=plain == "learned"), UserMessage("a"), system="s", tools=[LOOK], lessons=lessons
    )
    assert "cache_control" not in str(body)
    assert body["system"] == "s"


def test_the_path_of_claude_depends_on_the_address() -> None:
    assert MessagesDialect("/v1").path(QUESTION, streaming=True) == "/v1/messages"
    assert MessagesDialect("").path(QUESTION, streaming=False) == "/messages"


def test_signed_thoughts_go_back_unchanged_and_in_their_place() -> None:
    kept = [THOUGHT, {"type": "text", "text": "a"}, {"type": "tool_use"}, THOUGHT, {"type": "tool_use"}]
    message = AssistantMessage(
        "a", [ToolCall("1", "look"), ToolCall("1", "look")], "", ProviderData("anthropic", "m", kept)
    )
    said = sent(CLAUDE, UserMessage("q"), message, result("1"), result("1"))["messages"][1]["content"]
    assert [block["type"] for block in said] == ["thinking", "text", "tool_use", "thinking", "tool_use"]
    assert said[0] == THOUGHT
    assert said[2]["id"] != said[4]["id"]


def test_thoughts_come_first_where_the_message_is_no_longer_as_it_was() -> None:
    kept = [{"type": "text", "text": "other"}, THOUGHT, {"type": "tool_use"}]
    message = AssistantMessage("a", [ToolCall("1", "look")], "", ProviderData("anthropic", "m", kept))
    said = sent(CLAUDE, UserMessage("q"), message, result("1"))["messages"][1]["content"]
    assert [block["type"] for block in said] == ["thinking", "text", "tool_use"]


def test_claude_gets_results_before_what_is_said_and_no_empty_text() -> None:
    body = sent(
        CLAUDE,
        UserMessage("a"),
        UserMessage(" "),
        called("1", "2"),
        result("1", (Text("one"), PICTURE)),
        result("2", " "),
        UserMessage("b"),
    )
    first, _, last = body["messages"]
    assert [block["text"] for block in first["content"]] == ["a"]
    assert [block["type"] for block in last["content"]] == ["tool_result", "tool_result", "text"]
    assert [block["type"] for block in last["content"][0]["content"]] == ["text", "image"]
    assert last["content"][1] == {"type": "tool_result", "tool_use_id": "2"}


@pytest.mark.parametrize("content", ["", " ", (Text(" "),), (Text(""), Text(""))])
def test_a_result_that_is_an_error_says_something(content: Any) -> None:
    """The API refuses an error with an empty content (sample-multi-agent-orchestration#15 at Bedrock)."""
    body = sent(MessagesDialect(cache=False), called("1"), result("1", content, is_error=True))
    assert body["messages"][-1]["content"][0]["content"] == "an error without words"
    body = sent(MessagesDialect(cache=False), called("1"), result("1", content))
    assert "content" not in body["messages"][-1]["content"][0]


def test_a_system_prompt_of_white_space_is_none_for_claude() -> None:
    assert "system" not in sent(CLAUDE, UserMessage("a"), system=" \n")


def test_what_claude_goes_on_from_does_not_end_in_white_space() -> None:
    """langchain#35071, opencode#1295."""
    kept = [THOUGHT, {"type": "text", "text": "so far \n"}]
    signed = AssistantMessage("so far \n", (), "hm", ProviderData("anthropic", "m", kept))
    for message in (AssistantMessage("so far \n"), signed):
        said = sent(CLAUDE, UserMessage("a"), message)["messages"][-1]["content"]
        assert said[-1] == {"type": "text", "text": "so far"}
        between = sent(CLAUDE, UserMessage("a"), message, UserMessage("b"))["messages"][1]["content"]
        assert between[-1]["text"] == "so far \n"
    assert kept[1]["text"] == "so far \n"


def test_a_model_that_does_not_go_on_from_its_own_words_is_asked_to() -> None:
    """ericc-ch/copilot-api#261, llxprt-code#3695."""
    lessons = Lessons(traits=frozenset({"user_last"}))
    messages = sent(CLAUDE, UserMessage("a"), AssistantMessage("so "), lessons=lessons)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == [{"type": "text", "text": "so "}]
    assert len(sent(CLAUDE, UserMessage("a"), lessons=lessons)["messages"]) == 1


def test_no_budget_for_thoughts_within_calls_of_another_model() -> None:
    """opencode#3077, kilocode#5219: the API wants a thought before the last calls."""
    unthought = [UserMessage("a"), called("1"), result("1")]
    thought = [UserMessage("a"), called("1", data=[THOUGHT, {"type": "tool_use"}]), result("1")]
    lost = Lessons(traits=frozenset({"no_thoughts"}))
    for messages, lessons, thinks in (
        (unthought, None, False),
        ([*unthought, UserMessage("b")], None, False),
        (thought, None, True),
        (thought, lost, False),
        ([*unthought, AssistantMessage("done"), UserMessage("b")], None, True),
        ([UserMessage("a"), AssistantMessage("so")], None, False),
        ([result("1")], None, True),  # nobody asked for it: it is told as text
    ):
        body = sent(CLAUDE, *messages, reasoning=2000, temperature=0.5, lessons=lessons)
        assert ("thinking" in body) is thinks
        assert ("temperature" in body) is not thinks
    assert sent(CLAUDE, *unthought, reasoning="low")["thinking"] == {"type": "adaptive"}


def test_thoughts_that_the_server_does_not_take_back_are_left_out() -> None:
    """opencode#48637, claude-code#10627; openai/codex#8145, bifrost#5892."""
    lost = Lessons(traits=frozenset({"no_thoughts"}))
    search = corpus_messages.SEARCH
    kept = [THOUGHT, search, corpus_messages.HIDDEN, {"type": "tool_use"}]
    said = sent(CLAUDE, UserMessage("q"), called("1", data=kept), result("1"), lessons=lost)["messages"][1]
    assert [block["type"] for block in said["content"]] == ["server_tool_use", "tool_use"]
    data = [corpus_responses.THOUGHT, {"type": "function_call"}]
    message = called("1", data=data, provider="openai-responses")
    items = sent(RESPONSES, UserMessage("q"), message, result("1"), lessons=lost)["input"]
    assert [item.get("type") for item in items] == [None, "function_call", "function_call_output"]


def answered(*content: Any, stop: str = "tool_use", **more: Any) -> AssistantMessage:
    """Return what the model said as it comes out of an answer."""
    return CLAUDE.completion(corpus_messages.whole(list(content), stop, **more), QUESTION).message


def kinds(messages: Any) -> list[list[str]]:
    return [[block["type"] for block in message["content"]] for message in messages]


def test_no_files_in_a_result_that_is_an_error() -> None:
    """vellum-assistant#18387: the API takes nothing but text there, so they stand behind the results."""
    body = sent(
        MessagesDialect(cache=False),
        UserMessage("a"),
        called("1", "2"),
        result("1", (Text("no"), PICTURE), is_error=True),
        result("2", (Text("yes"), PICTURE)),
    )
    content = body["messages"][-1]["content"]
    assert [block["type"] for block in content] == ["tool_result", "tool_result", "image"]
    assert content[0]["content"] == "no\n[image/png, 1 bytes]"
    items = sent(RESPONSES, UserMessage("a"), called("1"), result("1", (PICTURE,), is_error=True))["input"]
    assert items[-1]["output"][0] == {"type": "input_text", "text": "Error:"}
    assert items[-1]["output"][1]["type"] == "input_image"


@pytest.mark.parametrize(
    "last", [corpus_messages.THOUGHT, corpus_messages.HIDDEN, {"type": "thinking", "thinking": "h"}]
)
def test_an_answer_does_not_end_with_a_thought(last: Any) -> None:
    """forgecode#2107, forgecode#3071, hermes-agent#16921: the API refuses it, from then on for ever."""
    message = answered(corpus_messages.text("a"), last, stop="max_tokens")
    assert kinds(sent(CLAUDE, UserMessage("q"), message, UserMessage("go"))["messages"]) == [
        ["text"],
        ["text"],
        ["text"],
    ]
    message = answered(THOUGHT, last, stop="max_tokens")
    assert kinds(sent(CLAUDE, UserMessage("q"), message, UserMessage("go"))["messages"]) == [["text", "text"]]


SEARCH, FOUND = corpus_messages.SEARCH, corpus_messages.FOUND


def test_a_paused_answer_goes_back_as_it_came_and_what_followed_stands_behind_it() -> None:
    """gsd-2#2870, laravel/ai#493."""
    paused = answered(THOUGHT, corpus_messages.text("so "), SEARCH, stop="pause_turn")
    asked = sent(CLAUDE, UserMessage("q"), paused, reasoning=2000)
    assert asked["messages"][1]["content"] == [THOUGHT, {"type": "text", "text": "so "}, SEARCH]
    assert asked["thinking"]["type"] == "enabled"
    more = answered(FOUND, corpus_messages.text("it is"), corpus_messages.use({"a": 1}))
    whole = [UserMessage("q"), paused, more, result("a")]
    said = sent(CLAUDE, *whole)["messages"][1]["content"]
    assert [block["type"] for block in said] == [
        *["thinking", "text", "server_tool_use"],
        *["web_search_tool_result", "text", "tool_use"],
    ]
    last = answered(corpus_messages.text("done"), stop="end_turn")
    other = answered(THOUGHT, corpus_messages.text("so "), {**SEARCH, "id": "t"}, stop="pause_turn")
    said = sent(CLAUDE, *whole, other, last, UserMessage("b"))["messages"][3]["content"]
    assert [block["type"] for block in said] == ["thinking", "text", "text"]


def test_half_of_a_pair_in_a_text_moves_no_thought() -> None:
    """The loop mends the text of a message, the provider's own blocks are mended on their way out."""
    broken = "smile \ud83d"
    message = encodable_message(answered(corpus_messages.text(broken), THOUGHT, corpus_messages.use({})))
    said = sent(CLAUDE, UserMessage("q"), message, result("a"))["messages"][1]["content"]
    assert [block["type"] for block in said] == ["text", "thinking", "tool_use"]
    items = (corpus_responses.THOUGHT, corpus_responses.said(broken))
    thought = RESPONSES.completion(corpus_responses.whole(*items), QUESTION).message
    body = sent(RESPONSES, UserMessage("q"), encodable_message(thought), UserMessage("b"))
    assert body["input"][1] == corpus_responses.THOUGHT
    encoded(body)


def test_a_call_that_the_provider_runs_goes_back_with_its_result_only() -> None:
    """gsd-2#2870, anthropic-sdk-python#1339: the API refuses the one without the other."""
    cut = answered(corpus_messages.text("a"), SEARCH, stop="max_tokens")
    assert kinds(sent(CLAUDE, UserMessage("q"), cut, UserMessage("go"))["messages"])[1] == ["text"]
    # It runs later, if it was wished for beside calls of ours (vellum-assistant#40137).
    beside = answered(SEARCH, corpus_messages.use({}))
    messages = [UserMessage("q"), beside, result("a")]
    assert kinds(sent(CLAUDE, *messages)["messages"])[1] == ["server_tool_use", "tool_use"]
    later = answered(FOUND, corpus_messages.text("b"), stop="end_turn")
    assert kinds(sent(CLAUDE, *messages, later, UserMessage("c"))["messages"])[1::2] == [
        ["server_tool_use", "tool_use"],
        ["web_search_tool_result", "text"],
    ]
    # The turn of the call may have been dropped.
    assert kinds(sent(CLAUDE, UserMessage("q"), later, UserMessage("c"))["messages"])[1] == ["text"]


def test_a_program_of_the_models_gets_its_container_and_its_results() -> None:
    """ggcode#2566, anthropic-sdk-python#1150, anthropic-sdk-typescript#1114, defog#270."""
    caller = {"type": "code_execution_20250825", "tool_id": "s"}
    program = {"type": "server_tool_use", "id": "s", "name": "code_execution", "input": {"code": "x"}}
    call = {**corpus_messages.use({"a": 1}), "caller": caller}
    made = answered(program, call, container={"id": "box", "expires_at": "2026-01-01T00:00:00Z"})
    body = sent(CLAUDE, UserMessage("q"), made, result("a"))
    assert body["container"] == "box"
    assert body["messages"][1]["content"] == [program, call]
    own = Question(
        CompletionRequest(messages=[UserMessage("q"), made, result("a")]),
        "m",
        own=frozenset({"container.skills"}),
    )
    assert CLAUDE.body(own, streaming=False)["container"] == {"id": "box"}
    # Another question, another container; and of a program that was dropped nothing is said.
    done = answered(corpus_messages.text("b"), stop="end_turn")
    assert "container" not in sent(CLAUDE, UserMessage("q"), made, result("a"), done, UserMessage("n"))
    second = answered({**call, "id": "b"}, container=None)
    said = sent(CLAUDE, UserMessage("q"), second, result("b"))["messages"][1]["content"]
    assert "caller" not in said[0]
    assert answered({**call, "caller": {"type": "direct"}}).provider_data is None


def test_a_users_own_cache_point_takes_the_place_of_ours() -> None:
    """sub2api#176, zeph#1568: four are taken at the most."""
    request = CompletionRequest(messages=[UserMessage("a")], system="s", tools=[LOOK])
    for name in ("cache_control", "cache_control.type"):
        body = CLAUDE.body(Question(request, "m", own=frozenset({name})), streaming=False)
        assert "cache_control" not in str(body)


def test_a_tool_without_a_description_says_none() -> None:
    body = sent(CLAUDE, UserMessage("a"), tools=[ToolDefinition("look", " ", {"type": "object"})])
    assert "description" not in body["tools"][0]


def test_a_budget_of_thoughts_stays_below_the_limit_that_was_learned() -> None:
    capped = Lessons(capped={"max_tokens": 2000})
    body = sent(CLAUDE, UserMessage("a"), reasoning=3000, max_tokens=4000, lessons=capped)
    assert body["thinking"]["budget_tokens"] == 1999


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]}

UNION = {
    "description": "Look.",
    "anyOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": "a"}, "x": {"type": "string"}},
            "required": ["kind", "x"],
        },
        {
            "type": "object",
            "properties": {"kind": {"const": "b"}, "y": {"type": "string"}},
            "required": ["kind", "y"],
        },
    ],
}


@pytest.mark.parametrize("dialect", [CLAUDE, RESPONSES], ids=name_of)
@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "object"}, {"type": "object", "properties": {}}),
        ({"properties": {}}, {"type": "object", "properties": {}}),
        (
            UNION,
            {
                "type": "object",
                "description": 'Look. (give one of these sets of properties: [["x"], ["y"]])',
                "properties": {
                    "kind": {"anyOf": [{"enum": ["a"]}, {"enum": ["b"]}]},
                    "x": {"type": "string"},
                    "y": {"type": "string"},
                },
                "required": ["kind"],
            },
        ),
        (
            {
                "$ref": "#/$defs/A",
                "$defs": {"A": {"type": "object", "properties": {"a": {}}, "required": ["a"]}},
            },
            {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        ),
        (
            {
                "type": "object",
                "properties": {"a": {}, "b": {}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            },
            {
                "type": "object",
                "description": '(give one of these sets of properties: [["a"], ["b"]])',
                "properties": {"a": {}, "b": {}},
            },
        ),
        (
            {"oneOf": [{"properties": {"a": {"const": value}}} for value in (1, 2, 3, 3)]},
            {"type": "object", "properties": {"a": {"anyOf": [{"enum": [1]}, {"enum": [2]}, {"enum": [3]}]}}},
        ),
        ({"type": "object", "not": {}, "properties": {}}, {"type": "object", "properties": {}}),
    ],
)
def test_no_alternatives_on_top_of_the_schema_of_a_tool(dialect: Dialect, schema: Any, expected: Any) -> None:
    """opencode#38616, cantinarr#497: one such tool, and the whole request is refused."""
    body = sent(dialect, UserMessage("a"), tools=[ToolDefinition("look", "Look.", schema)])
    tool = body["tools"][0]
    assert tool.get("input_schema", tool.get("parameters")) == expected


def test_names_of_properties_that_claude_does_not_take_are_replaced_on_the_way() -> None:
    """appstore-connect-mcp#2, composio#3500, n8n#30590: one such name, and the whole request is refused."""
    long = "x" * 70
    names = ["filter[id]", "filter(id)", "filter_id_", "$top", long, "плохо", "fine"]
    schema = {
        "type": "object",
        "properties": {name: {"type": "string", "description": name} for name in names},
        "required": ["$top", "fine"],
    }
    tools = [
        ToolDefinition("look", "Look.", schema),
        ToolDefinition("other", "Other.", {"properties": {"$": {}}}),
    ]
    request = CompletionRequest(messages=[UserMessage("a")], tools=tools)
    question = Question(request, "m", Lessons())
    sent_tools = MessagesDialect(cache=False).body(question, streaming=False)["tools"]
    properties = sent_tools[0]["input_schema"]["properties"]
    safe = {item["description"]: name for name, item in properties.items()}
    assert list(safe.values()) == [
        "filter_id__2",
        "filter_id__3",
        "filter_id_",
        "_top",
        "x" * 56,
        "_____",
        "fine",
    ]
    assert sent_tools[0]["input_schema"]["required"] == ["_top", "fine"]
    assert sent_tools[1]["input_schema"] == {"type": "object", "properties": {"_": {}}}
    given = {name: f"for {own}" for own, name in safe.items()}
    came = corpus_messages.whole([corpus_messages.use({**given, "odd": 1})], "tool_use")
    (call,) = CLAUDE.completion(came, question).tool_calls
    assert dict(call.input) == {**{name: f"for {name}" for name in names}, "odd": 1}


def test_pictures_for_claude_are_what_they_are() -> None:
    """hermes-agent#55432, claude-code#8184, home-assistant/core#167208."""
    jpeg, webp = b"\xff\xd8\xff\xe0", b"RIFF\n\x00\x00\x00WEBPVP8 "
    pictures = (
        Image(jpeg, "image/jpg"),
        Image(jpeg, "image/png"),
        Image(b"?", "image/jpg"),
        Image(b"\x89PNG\r\n", "image/x-icon"),
        Image(b"GIF89a", "image/gif"),
        Image(webp, "application/octet-stream"),
        Image(b"BM", "image/bmp"),
        Image(b"<svg/>", "image/svg+xml"),
    )
    for results in (False, True):
        messages = [called("1"), result("1", pictures)] if results else [UserMessage(pictures)]
        blocks = sent(MessagesDialect(cache=False), *messages)["messages"][-1]["content"]
        blocks = blocks[0]["content"] if results else blocks
        assert [block.get("source", {}).get("media_type", block.get("text")) for block in blocks] == [
            *["image/jpeg"] * 3,
            "image/png",
            "image/gif",
            "image/webp",
            "[image/bmp, 2 bytes]",
            "[image/svg+xml, 6 bytes]",
        ]


def test_ids_of_calls_for_a_response_are_short_and_its_items_have_none_of_theirs() -> None:
    """9router#393, dsh-plugin-subscriptions#29; nodetool#4252."""
    long = "codex_mcp__" + "x" * 80
    call, output = sent(RESPONSES, UserMessage("a"), called(long), result(long))["input"][1:]
    assert call["call_id"] == output["call_id"]
    assert len(call["call_id"]) <= 64
    assert "id" not in call


def test_what_claude_takes_of_a_schema_is_told_in_words_else() -> None:
    """req_llm#302, laravel/ai#715, memorize-everything#93: such keywords are refused."""
    schema = {
        "type": "object",
        "properties": {
            "score": {"type": "integer", "minimum": 1, "maximum": 10, "description": "How good."},
            "tags": {"type": "array", "items": {"type": "string", "minLength": 2}, "minItems": 3},
            "some": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "day": {"type": "string", "format": "date"},
            "color": {"type": "string", "format": "color"},
            "code": {"type": "string", "pattern": "[a-z]+"},
            "word": {"type": "string", "pattern": "(?=a)b"},
            "either": {"oneOf": [{"type": "string"}, {"type": "null"}]},
        },
    }
    body = sent(CLAUDE, UserMessage("a"), output_schema=schema)
    assert body["output_config"]["format"]["schema"]["properties"] == {
        "score": {"type": "integer", "description": "How good. (at least 1, at most 10)"},
        "tags": {
            "type": "array",
            "items": {"type": "string", "description": "(at least 2 characters)"},
            "description": "(at least 3 items)",
        },
        "some": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "day": {"type": "string", "format": "date"},
        "color": {"type": "string", "description": '(format "color")'},
        "code": {"type": "string", "pattern": "[a-z]+"},
        "word": {"type": "string", "description": '(matches "(?=a)b")'},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    }


# -- what is learned ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "said", "parameter", "asked", "dropped", "trait"),
    [
        (  # jetbrains-cc-gui#1003
            CLAUDE,
            '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and'
            ' "output_config.effort" to control thinking behavior.',
            "",
            {"reasoning": 2000},
            None,
            "adaptive_thinking",
        ),
        (
            CLAUDE,
            "adaptive thinking is not supported on this model",
            "",
            {"reasoning": "low"},
            None,
            "budget_thinking",
        ),
        (
            CLAUDE,
            "This model does not support the effort parameter.",
            "",
            {"reasoning": "xhigh", "output_schema": SCHEMA},
            "output_config.effort",
            None,
        ),
        (
            CLAUDE,
            "output_config.format: Extra inputs are not permitted",
            "",
            {"reasoning": "low", "output_schema": SCHEMA},
            "output_config.format",
            None,
        ),
        (
            CLAUDE,
            "output_config: Extra inputs are not permitted",
            "",
            {"reasoning": "low", "output_schema": SCHEMA},
            "output_config",
            None,
        ),
        (  # anthropic-sdk-python#1185
            CLAUDE,
            "The compiled grammar is too large, which would cause performance issues. Simplify your tool"
            " schemas or reduce the number of strict tools.",
            "",
            {"output_schema": SCHEMA},
            "output_config.format",
            None,
        ),
        (  # TanStack/ai#686
            CLAUDE,
            "Schema is too complex for compilation.",
            "",
            {"output_schema": SCHEMA},
            "output_config.format",
            None,
        ),
        (
            CLAUDE,
            "`temperature` may only be set to 1 when thinking is enabled or in adaptive mode.",
            "",
            {"temperature": 0.5},
            "temperature",
            None,
        ),
        (
            CLAUDE,
            "This model does not support assistant message prefill. The conversation must end with a user"
            " message.",
            "",
            {},
            None,
            "user_last",
        ),
        (
            CLAUDE,
            "messages.1.content.0: Invalid `signature` in `thinking` block",
            "",
            {},
            None,
            "no_thoughts",
        ),
        (
            CLAUDE,
            "messages.5.content.1: `thinking` or `redacted_thinking` blocks in the latest assistant message"
            " cannot be modified.",
            "",
            {},
            None,
            "no_thoughts",
        ),
        (
            RESPONSES,
            "The encrypted content gAAA...DQ== could not be verified.",
            "",
            {"reasoning": "low"},
            None,
            "no_thoughts",
        ),
        (
            RESPONSES,
            "Item 'rs_1' of type 'reasoning' was provided without its required following item.",
            "input",
            {},
            None,
            "no_thoughts",
        ),
        (  # llama.cpp#29159
            RESPONSES,
            "Cannot determine type of 'item'",
            "",
            {},
            None,
            "no_thoughts",
        ),
        (RESPONSES, "Encrypted content is not supported with this model.", "", {}, "include", None),
        (
            RESPONSES,
            "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.",
            "input",
            {},
            None,
            "no_thoughts",
        ),
        (  # gentle-ai#4595
            RESPONSES,
            "reasoning `encrypted_content` was not issued to this caller",
            "",
            {},
            None,
            "no_thoughts",
        ),
        (  # hermes-agent#32617
            RESPONSES,
            "Could not decrypt the provided encrypted_content. Ensure the value is the unmodified"
            " encrypted_content from a previous response.",
            "",
            {},
            None,
            "no_thoughts",
        ),
        (
            RESPONSES,
            "Unknown parameter: 'input[1].status'.",
            "input[1].status",
            {"reasoning": "low"},
            None,
            "no_thoughts",
        ),
        (
            RESPONSES,
            "Unknown parameter: 'input[1].content[0].annotations'.",
            "input[1].content[0].annotations",
            {},
            None,
            "no_thoughts",
        ),
        (  # sub2api#176, GCMP#83: a gateway has points of its own
            CLAUDE,
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
            "",
            {"temperature": 0.5},
            None,
            "no_cache_points",
        ),
        (
            CLAUDE,
            "The toolConfig field must be defined when using toolUse and toolResult content blocks.",
            "",
            {},
            None,
            "tools_for_calls",
        ),
        (
            CLAUDE,
            "Requests which include `tool_use` or `tool_result` blocks must define `tools`.",
            "",
            {},
            None,
            "tools_for_calls",
        ),
        (  # kilocode#4631
            CLAUDE,
            "When thinking is disabled, an `assistant` message in the final position cannot contain"
            " `thinking`. To use thinking blocks, enable `thinking` in your request.",
            "",
            {},
            None,
            "no_thoughts",
        ),
        (
            CLAUDE,
            "thinking: Input tag 'disabled' found using 'type' does not match any of the expected tags",
            "",
            {"reasoning": 0},
            "thinking",
            None,
        ),
        (
            RESPONSES,
            "Unsupported parameter: 'reasoning.effort' is not supported with this model.",
            "reasoning.effort",
            {"reasoning": "low"},
            "reasoning.effort",
            None,
        ),
        (
            RESPONSES,
            "Invalid schema for response_format 'answer': 'allOf' is not permitted.",
            "text.format.schema",
            {"output_schema": SCHEMA},
            "text.format",
            None,
        ),
    ],
)
def test_what_a_refusal_teaches(
    dialect: Dialect, said: str, parameter: str, asked: Any, dropped: str | None, trait: str | None
) -> None:
    body = sent(dialect, UserMessage("a"), **asked)
    refusal = Refusal(400, said, "invalid_request_error", parameter)
    lessons = learned(Lessons(), refusal, body, dialect.droppable)
    assert lessons is not None
    assert lessons.dropped == ({dropped} if dropped else set())
    assert lessons.traits == ({trait} if trait else set())


def test_calls_of_before_need_tools_where_none_is_offered_any_more() -> None:
    """kibana#246943, dify#17545: Bedrock refuses the request that is to be answered without tools."""
    lessons = Lessons(traits=frozenset({"tools_for_calls"}))
    body = sent(CLAUDE, UserMessage("a"), called("1", "2"), result("1"), result("2"), lessons=lessons)
    assert body["tools"] == [{"name": "look", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == {"type": "none"}
    assert "tools" not in sent(CLAUDE, UserMessage("a"), lessons=lessons)
    assert sent(CLAUDE, UserMessage("a"), called("1"), result("1"), tools=[LOOK], lessons=lessons)["tools"][
        0
    ]["description"]


def test_a_call_is_not_forced_where_the_user_has_the_model_think() -> None:
    """oh-my-pi#341, mastra#7507: both together are refused, and what the user gave by hand stays."""
    body = {
        **sent(CLAUDE, UserMessage("a"), tools=[LOOK], tool_choice="required"),
        "thinking": {"type": "enabled"},
    }
    refusal = Refusal(400, "Thinking may not be enabled when tool_choice forces tool use.")
    lessons = learned(Lessons(), refusal, body, CLAUDE.droppable - {"thinking"})
    assert lessons is not None
    assert lessons.dropped == {"tool_choice"}


def test_a_conversation_that_claude_began_gets_a_beginning() -> None:
    body = sent(CLAUDE, AssistantMessage("a"), UserMessage("b"))
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert sent(CLAUDE, UserMessage(" "))["messages"][0]["role"] == "user"


def test_files_for_claude() -> None:
    blocks = sent(MessagesDialect(cache=False), UserMessage(FILES))["messages"][0]["content"]
    assert blocks == [
        {"type": "text", "text": "see"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}},
        {"type": "image", "source": {"type": "url", "url": "https://h/a.png"}},
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "text"},
            "title": "a.txt",
        },
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
        },
        {"type": "document", "source": {"type": "url", "url": "https://h/a.pdf"}},
        {"type": "text", "text": "[application/zip, 1 bytes]"},
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "said"),
    [
        (None, True, None),
        ("auto", True, {"type": "auto"}),
        ("required", True, {"type": "any"}),
        ("none", False, {"type": "none"}),
        ("look", True, {"type": "tool", "name": "look"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
    ],
)
def test_the_choice_of_tools_for_claude(choice: str | None, parallel: bool, said: Any) -> None:
    body = sent(CLAUDE, UserMessage("a"), tools=[LOOK], tool_choice=choice, parallel_tool_calls=parallel)
    assert body.get("tool_choice") == said


def thinking(reasoning: Any, *traits: Any, **more: Any) -> tuple[Any, Any]:
    lessons = Lessons(traits=frozenset(traits))
    body = sent(
        CLAUDE, UserMessage("a"), reasoning=reasoning, temperature=1.5, tools=[LOOK], lessons=lessons, **more
    )
    assert ("temperature" in body) is (body.get("thinking", {}).get("type") not in ("enabled", "adaptive"))
    if "temperature" in body:
        assert body["temperature"] == 1.0
    return body.get("thinking"), body.get("output_config")


def test_how_much_claude_thinks() -> None:
    adaptive = {"type": "adaptive"}
    assert thinking(None) == (None, None)
    assert thinking(0) == thinking("none") == ({"type": "disabled"}, None)
    assert thinking("low") == thinking("minimal") == (adaptive, {"effort": "low"})
    assert thinking(2000) == ({"type": "enabled", "budget_tokens": 2000}, None)
    assert thinking(10, max_tokens=4096) == ({"type": "enabled", "budget_tokens": 1024}, None)
    # Thoughts are output, and output is bounded by max_tokens.
    assert thinking(9000, max_tokens=4096) == ({"type": "enabled", "budget_tokens": 4095}, None)
    assert thinking(9000, max_tokens=1000) == (None, None)
    assert thinking("low", "budget_thinking") == ({"type": "enabled", "budget_tokens": 2048}, None)
    assert thinking("odd", "budget_thinking", max_tokens=9000)[0] == {
        "type": "enabled",
        "budget_tokens": 8192,
    }
    assert thinking(2000, "adaptive_thinking") == (adaptive, None)
    assert thinking("low", tool_choice="required") == (None, None)


def test_a_schema_for_claude() -> None:
    native = sent(CLAUDE, UserMessage("a"), output_schema=SCHEMA, reasoning="low")
    assert native["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": {**SCHEMA, "additionalProperties": False}},
    }
    for schema, lessons in (
        ({"type": "array"}, Lessons()),
        (SCHEMA, Lessons(frozenset({"output_config.format"}))),
        (SCHEMA, Lessons(frozenset({"output_config"}))),
    ):
        body = sent(CLAUDE, UserMessage("a"), output_schema=schema, lessons=lessons)
        assert "output_config" not in body
        assert body["system"][0]["text"] == schema_instruction("", schema)


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        (SCHEMA, True),
        ({"type": "object", "additionalProperties": {"type": "string"}}, False),
        ({"type": "object", "properties": {"a": {"type": "object", "additionalProperties": True}}}, False),
        (
            {
                "type": "object",
                "properties": {"a": {"anyOf": [{"type": "object", "additionalProperties": {}}, {}]}},
            },
            True,
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"items": {"type": "object", "additionalProperties": True}}},
            },
            False,
        ),
        ({"type": "string"}, False),
    ],
)
def test_which_schemas_can_be_closed(schema: dict[str, Any], closed: bool) -> None:
    assert (closed_schema(schema) is not None) is closed


def test_stop_strings_of_white_space_are_not_for_claude() -> None:
    assert sent(CLAUDE, UserMessage("a"), stop=["\n", "END"])["stop_sequences"] == ["END"]
    assert "stop_sequences" not in sent(CLAUDE, UserMessage("a"), stop=["\n"])


# -- responses --------------------------------------------------------------------------------------


def test_what_a_response_is_asked_for() -> None:
    body = sent(
        RESPONSES,
        UserMessage("a"),
        system="s",
        tools=[LOOK],
        tool_choice="look",
        parallel_tool_calls=False,
        temperature=0.5,
        reasoning=0,
        output_schema={"type": "object"},
    )
    assert (body["instructions"], body["temperature"], body["store"]) == ("s", 0.5, False)
    assert body["tool_choice"] == {"type": "function", "name": "look"}
    assert body["parallel_tool_calls"] is False
    assert body["reasoning"] == {"effort": "none", "summary": "auto"}
    assert body["text"]["format"]["strict"] is True
    assert body["input"] == [{"role": "user", "content": "a"}]
    assert (
        sent(RESPONSES, UserMessage("a"), tools=[LOOK], tool_choice="required")["tool_choice"] == "required"
    )
    loose = sent(RESPONSES, UserMessage("a"), output_schema=SCHEMA)
    assert loose["text"]["format"] == {
        "type": "json_schema",
        "name": "answer",
        "schema": SCHEMA,
        "strict": False,
    }
    no_strict = Lessons(traits=frozenset({"no_strict"}))
    strict = sent(RESPONSES, UserMessage("a"), output_schema={"type": "object"}, lessons=no_strict)
    assert strict["text"]["format"]["strict"] is False
    worded = sent(
        RESPONSES, UserMessage("a"), output_schema=SCHEMA, lessons=Lessons(frozenset({"text.format"}))
    )
    assert worded["instructions"] == schema_instruction("", SCHEMA)
    assert "text" not in worded


def test_strict_is_left_out_of_tools_where_it_is_not_known() -> None:
    tools = [ToolDefinition("t", "d", {"type": "object"})]
    known = sent(RESPONSES, UserMessage("a"), tools=tools)["tools"][0]
    unknown = sent(
        RESPONSES, UserMessage("a"), tools=tools, lessons=Lessons(traits=frozenset({"no_strict"}))
    )["tools"][0]
    assert known["strict"] is False
    assert "strict" not in unknown


def test_a_response_knows_no_stop_strings() -> None:
    with pytest.raises(RequestRejectedError, match="stop strings"):
        sent(RESPONSES, UserMessage("a"), stop=["x"])


def test_thoughts_of_a_response_go_back_with_what_followed_them() -> None:
    thought, message = corpus_responses.THOUGHT, corpus_responses.said("a")
    kept = [thought, message, {"type": "function_call"}]
    said = AssistantMessage("a", [ToolCall("1", "look")], "hm", ProviderData("openai-responses", "m", kept))
    items = sent(RESPONSES, UserMessage("q"), said, result("1"))["input"]
    assert items[1:3] == [thought, message]
    assert items[3] == {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"}
    assert items[4] == {"type": "function_call_output", "call_id": "1", "output": "done"}
    for changed in (
        AssistantMessage("other", said.tool_calls, "", said.provider_data),
        AssistantMessage("a", (), "", said.provider_data),
        AssistantMessage("a", said.tool_calls, "", ProviderData("openai-responses", "other", kept)),
    ):
        assert thought not in sent(RESPONSES, UserMessage("q"), changed)["input"]


def test_files_of_a_response() -> None:
    content = sent(RESPONSES, UserMessage(FILES))["input"][0]["content"]
    assert content == [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,eA=="},
        {"type": "input_image", "detail": "auto", "image_url": "https://h/a.png"},
        {"type": "input_text", "text": "a.txt:\ntext"},
        {
            "type": "input_file",
            "filename": "document.pdf",
            "file_data": "data:application/pdf;base64,JVBERg==",
        },
        {"type": "input_file", "file_url": "https://h/a.pdf"},
        {"type": "input_text", "text": "[application/zip, 1 bytes]"},
    ]
    items = sent(
        RESPONSES,
        UserMessage(""),
        called("1", "2"),
        result("1", (PICTURE,)),
        result("2", "no", is_error=True),
        UserMessage("b"),
    )["input"]
    assert items[0] == {"role": "user", "content": ""}
    assert items[3]["output"] == [content[1]]
    assert items[4]["output"] == "Error: no"
    assert items[5] == {"role": "user", "content": "b"}
