"""What `LocalDriver` is made of, without a model."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from agentpool import (
    AssistantMessage,
    Completion,
    CompletionRequest,
    ContextTooLongError,
    Document,
    DriverUnavailableError,
    Image,
    LocalDriver,
    MalformedReplyError,
    RequestRejectedError,
    Text,
    TextDelta,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
    open_driver,
)
from agentpool._blocking import start_blocking
from agentpool.drivers._gguf import NoModelError, chat_templates, look_at
from agentpool.drivers._grammar import answer_grammar
from agentpool.drivers._local_answer import Answer, split_calls
from agentpool.drivers._local_prompt import Prompt, prompt_of
from agentpool.drivers.named import DriverName, choose_driver, parse_driver_name, placed_driver_name
from agentpool.testing import simulate

# -- files ------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def header(*entries: bytes, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(entries)) + b"".join(entries)


ARCHITECTURE = entry("general.architecture", 8, text("llama"))
WINDOW = entry("llama.context_length", 4, struct.pack("<I", 2048))
WORDS = entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b"))
SCORES = entry("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 3) + bytes(12))
TEMPLATE = entry("tokenizer.chat_template", 8, text("{{ tools }}"))
ANOTHER = entry("tokenizer.chat_template.tool_use", 8, text("{{ more }}"))


def test_a_file_tells_how_much_its_model_can_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(header(ARCHITECTURE, WORDS, SCORES, WINDOW, TEMPLATE, ANOTHER))
    assert look_at(path).context_length == 2048
    assert list(chat_templates(path)) == ["{{ tools }}", "{{ more }}"]
    path.write_bytes(header(ARCHITECTURE))
    assert look_at(path).context_length is None


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is no GGUF file: it is empty"),
        (b"PK\x03\x04 and so on", r"is no GGUF file: it begins with b'PK"),
        (b"GGUF\x03\x00", "ends within its header"),
        (header(ARCHITECTURE, WINDOW)[:-2], "ends within its header"),
        (header(version=1), "its version is 1, and only 2 and 3 are known"),
        (header(entry("a", 99, b"")), "a value of the unknown type 99"),
        (header(text("a") + struct.pack("<IIQ", 9, 10, 2**64 - 1)), "ends within its header"),
        (
            header(text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 2000),
            "ends within its header",
        ),
        (header(struct.pack("<Q", 2**60)), "ends within its header"),
        (header(entry("general.type", 8, text("mmproj"))), r"no model but a part for one \(mmproj\)"),
    ],
)
def test_a_file_that_is_no_model_is_told_before_any_work(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(NoModelError, match=told):
        look_at(path)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        LocalDriver(path)


def test_a_path_that_leads_to_no_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"nothing\.gguf: No such file"):
        LocalDriver(tmp_path / "nothing.gguf")
    with pytest.raises(ValueError, match="is a directory: name the"):
        LocalDriver(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/nothing.gguf")):
        LocalDriver("~/nothing.gguf")


def test_a_missing_package_names_the_pip_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(header(ARCHITECTURE, WINDOW))
    monkeypatch.setattr("agentpool.drivers.local.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'trio-agentpool[local]'")):
        LocalDriver(path)


@pytest.mark.parametrize("name", ["context_window", "slots", "threads", "batch"])
def test_arguments_that_cannot_be_right(name: str) -> None:
    for value, error in ((0, ValueError), (-1, ValueError), (True, TypeError), ("2", TypeError)):
        with pytest.raises(error, match=f"{name} must be"):
            LocalDriver("m.gguf", **{name: value})  # type: ignore[arg-type]


# -- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("local:m.gguf", "m.gguf"),
        (" local:/a/b c/m (1).gguf\n", "/a/b c/m (1).gguf"),
        ("local: ~/m.gguf", "~/m.gguf"),
        ("local:C:\\models\\m.gguf", "C:\\models\\m.gguf"),
        ("local:http://x", "http://x"),
        ("local:a@b:c.gguf", "a@b:c.gguf"),
    ],
)
def test_a_path_in_a_name_may_be_any(written: str, path: str) -> None:
    name = parse_driver_name(written)
    assert name == DriverName("local", path)
    assert parse_driver_name(str(name)) == name


@pytest.mark.parametrize("text", ["local", "local:", "local: ", "local:\0", "local+http://h:m"])
def test_a_name_without_a_path_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"write local:FILE\.gguf"):
        parse_driver_name(text)


def test_a_path_in_a_file_is_relative_to_that_file() -> None:
    base = Path("/fleet")
    assert placed_driver_name("local:m.gguf", base) == "local:/fleet/m.gguf"
    assert placed_driver_name(" local: a b.gguf", base) == "local:/fleet/a b.gguf"
    assert placed_driver_name("local:/m.gguf", base) == "local:/m.gguf"
    for kept in ("local:~/m.gguf", "local:", "openai:m", "auto"):
        assert placed_driver_name(kept, base) == kept
    assert placed_driver_name("local:m.gguf", None) == "local:m.gguf"


async def test_auto_never_takes_a_model_in_the_process(tmp_path: Path) -> None:
    choice = await choose_driver(env={"OLLAMA_HOST": "127.0.0.1:9", "LOCAL_API_KEY": "x"})
    assert choice.name.provider == "scripted"


async def test_a_name_of_no_file_is_told_on_opening(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        async with open_driver(f"local:{tmp_path}/m.gguf", resilient=True):
            raise AssertionError  # pragma: no cover


# -- what is asked ---------------------------------------------------------------------------

LOOK = ToolDefinition("look", "Looks.", {"properties": {"at": {"type": "string"}}})
HEAR = ToolDefinition("hear", "Hears.", {"type": "object"})
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


def asked(*messages: Any, **settings: Any) -> CompletionRequest:
    return CompletionRequest(messages=messages or (UserMessage("Hi"),), **settings)


def body(request: CompletionRequest, *, knows_tools: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(prompt_of(request, "m", knows_tools=knows_tools).body)
    return found


def test_a_plain_request() -> None:
    request = asked(system="Be kind.", max_tokens=9, temperature=0.5, stop=("END",), options={"top_k": 3})
    found = body(request)
    assert found["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
    ]
    assert (found["max_tokens"], found["temperature"], found["stop"], found["top_k"]) == (9, 0.5, ["END"], 3)
    assert found["stream"] is found["return_progress"] is True
    assert "temperature" not in body(asked())


def test_what_would_break_the_stream_cannot_be_asked_for() -> None:
    found = body(asked(options={"n": 4, "stream": False, "stream_options": None}))
    assert (found["n"], found["stream"], found["stream_options"]) == (1, True, {"include_usage": True})


def test_a_template_that_knows_tools_is_given_them() -> None:
    found = body(asked(tools=(LOOK,)))
    assert [each["function"]["name"] for each in found["tools"]] == ["look"]
    assert "grammar" not in found
    assert "tools" not in body(asked(tools=(LOOK,), tool_choice="none"))


@pytest.mark.parametrize(
    ("settings", "knows_tools"),
    [
        ({}, False),
        ({"tool_choice": "required"}, True),
        ({"tool_choice": "look"}, True),
        ({"output_schema": SCHEMA}, True),
    ],
)
def test_else_they_are_told_in_words_and_by_a_grammar(settings: dict[str, Any], knows_tools: bool) -> None:
    found = body(asked(tools=(LOOK, HEAR), system="Be kind.", **settings), knows_tools=knows_tools)
    assert "tools" not in found
    assert "response_format" not in found
    system = found["messages"][0]["content"]
    assert system.startswith("Be kind.\n\n")
    assert '"name": "look", "description": "Looks."' in system
    assert ("hear" in system) is (settings.get("tool_choice") != "look")
    assert '\\"name\\": \\"look\\"' in found["grammar"]
    assert found["chat_template_kwargs"] == {"enable_thinking": False}


def test_an_unknown_tool_cannot_be_chosen_but_some_tool_is_called() -> None:
    prompt = prompt_of(asked(tools=(LOOK,), tool_choice="nope"), "m", knows_tools=True)
    assert not prompt.forced
    assert not prompt_of(asked(tool_choice="required"), "m", knows_tools=True).forced


def test_calls_and_results_are_text_for_a_template_that_knows_none() -> None:
    messages = (
        UserMessage("Look and hear."),
        AssistantMessage("Well.", (ToolCall("1", "look", {"at": "é"}), ToolCall("2", "hear"))),
        ToolMessage("1", "look", ToolResult("a tree")),
        ToolMessage("2", "hear", ToolResult("nothing", is_error=True)),
        UserMessage("And?"),
    )
    said = body(asked(*messages), knows_tools=False)["messages"]
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert said[1]["content"] == (
        'Well.\n<tool_call>\n{"name": "look", "arguments": {"at": "é"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "hear", "arguments": {}}\n</tool_call>'
    )
    assert said[2]["content"] == (
        "<tool_response>\na tree\n</tool_response>\n\n"
        "<tool_response>\nError: nothing\n</tool_response>\n\nAnd?"
    )
    native = body(asked(*messages))["messages"]
    assert [message["role"] for message in native] == ["user", "assistant", "tool", "tool", "user"]


def test_pictures_are_lines_of_text_and_text_documents_are_read() -> None:
    content = (Text("See:"), Image(b"abc", "image/png"), Document(b"hello", "text/plain", name="a.txt"))
    messages = (
        UserMessage(content),
        AssistantMessage("", (ToolCall("1", "look"),)),
        ToolMessage("1", "look", ToolResult((Image(url="https://x/y.png"),))),
    )
    said = body(asked(*messages))["messages"]
    assert said[0]["content"] == "See:\n[image/png, 3 bytes]\na.txt:\nhello"
    assert said[2]["content"] == "[image, https://x/y.png]"


def test_how_much_it_thinks() -> None:
    def kwargs(**settings: Any) -> Any:
        return body(asked(**settings)).get("chat_template_kwargs")

    assert kwargs() is None
    assert kwargs(reasoning=0) == kwargs(reasoning="none") == {"enable_thinking": False}
    assert kwargs(reasoning="low") == {"enable_thinking": True, "reasoning_effort": "low"}
    given = {"chat_template_kwargs": {"enable_thinking": False, "x": 1}}
    assert kwargs(reasoning="low", options=given) == {
        "enable_thinking": False,
        "reasoning_effort": "low",
        "x": 1,
    }
    assert body(asked(reasoning=100))["thinking_budget_tokens"] == 100
    assert "reasoning_effort" not in body(asked(reasoning="low"))


def test_a_schema_is_sent_and_told() -> None:
    found = body(asked(output_schema=SCHEMA))
    assert found["response_format"]["json_schema"]["schema"]["properties"] == SCHEMA["properties"]
    assert '"integer"' in found["messages"][0]["content"]


# -- grammars ------------------------------------------------------------------------------------


def test_a_grammar_of_calls_text_and_json() -> None:
    free = answer_grammar((LOOK, HEAR), forced=False, parallel=True)
    assert "start: TEXT | call+\n" in free
    assert "call: call_0 | call_1\n" in free
    assert '"type": "object", "properties": {"at"' in free
    assert "start: call\n" in answer_grammar((LOOK,), forced=True, parallel=False)
    typed = answer_grammar((LOOK,), forced=False, parallel=False, output_schema=SCHEMA)
    assert "start: output | call\n" in typed
    assert '"n": {"type": "integer"}' in typed


def test_what_no_grammar_can_say_is_left_out_of_it() -> None:
    schema = {
        "properties": {
            "pattern": {"type": "string", "pattern": r"(?<!a)b"},
            "a": {"pattern": r"(a)\1"},
            "b": {"pattern": "["},
            "c": {"pattern": "^[a-z]+$"},
            "d": {"$ref": "#/$defs/a~1b"},
            "e": {"$ref": "#/$defs/nope"},
            "f": {"$ref": "https://example.org/x"},
            "g": {"anyOf": [{"$ref": "#"}, {"$ref": "#/properties/a/pattern/x"}]},
        },
        "$defs": {"a/b": {"enum": [1]}},
    }
    lines = answer_grammar((attrs.evolve(LOOK, input_schema=schema),), forced=True, parallel=False).split(
        "\n"
    )
    (line,) = [line for line in lines if line.startswith("arguments_0")]
    found = json.loads(line.removeprefix("arguments_0: %json "))
    assert found["x-guidance"]["lenient"] is True
    assert found["properties"] == {
        "pattern": {"type": "string"},
        "a": {},
        "b": {},
        "c": {"pattern": "^[a-z]+$"},
        "d": {"$ref": "#/$defs/a~1b"},
        "e": {},
        "f": {},
        "g": {"anyOf": [{"$ref": "#"}, {}]},
    }


# -- answers ----------------------------------------------------------------------------------------


def read(chunks: Iterable[dict[str, Any]], request: CompletionRequest | None = None, **settings: Any) -> Any:
    prompt = prompt_of(request or asked(tools=(LOOK,)), "m", knows_tools=False)
    answer = Answer(attrs.evolve(prompt, **settings))
    parts = [part for chunk in chunks for part in answer.read(chunk)]
    parts += answer.end()
    return "".join(part.text for part in parts[:-1] if isinstance(part, TextDelta)), parts[-1]


def said(*pieces: str, finish: str | None = "stop") -> list[dict[str, Any]]:
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    last = [{"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}] if finish else []
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
    return [*chunks, *last, {"choices": [], "usage": usage}]


CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>\n'


@pytest.mark.parametrize("size", [1, 2, 5, 11, 1000])
def test_calls_in_the_text_are_held_back_however_it_is_cut(size: int) -> None:
    whole = "Well <to be sure>. " + CALL + CALL
    shown, answer = read(said(*(whole[at : at + size] for at in range(0, len(whole), size))))
    assert shown == answer.text == "Well <to be sure>. "
    assert [(call.name, call.input) for call in answer.tool_calls] == [("look", {"at": "x"})] * 2
    assert len({call.id for call in answer.tool_calls}) == 2
    assert answer.stop_reason == "tool_use"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (5, 3)
    assert answer.usage.cache_read_tokens == 2


def test_the_end_of_a_text_is_not_kept_back() -> None:
    shown, answer = read(said("is 1 <", "tool_"))
    assert shown == answer.text == "is 1 <tool_"


def test_a_call_that_was_cut_off_is_not_there() -> None:
    shown, answer = read(said("Well.", CALL, CALL[:30], finish="length"))
    assert (shown, answer.text, answer.stop_reason) == ("Well.", "Well.", "max_tokens")
    assert len(answer.tool_calls) == 1


@pytest.mark.parametrize(
    ("text", "rest", "names", "problem"),
    [
        ("<tool_call>nothing", "<tool_call>nothing", [], ""),
        ("<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", [], ""),
        ('<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', [], ""),
        ('<tool_call>{"name": "look"}', "", ["look"], ""),
        ('<tool_call>{"name": "look", "arguments": [1]}</tool_call>', "", ["look"], "are an array"),
        ('<tool_call>{"name": "look", "arguments": {"a": }</tool_call>', "", ["look"], "are not JSON"),
        ('<tool_call>{"name": "look", "arguments": "{}"}</tool_call>after', "after", ["look"], ""),
    ],
)
def test_calls_that_are_odd(text: str, rest: str, names: list[str], problem: str) -> None:
    left, calls = split_calls(text, is_cut=False)
    assert (left, [call.name for call in calls]) == (rest, names)
    assert all(problem in call.problem for call in calls)


def test_an_answer_that_had_to_be_a_call_and_is_none_is_an_error() -> None:
    with pytest.raises(RequestRejectedError, match="did not hold the answer to a tool call"):
        read(said("Well."), forced=True)
    _, cut = read(said("<tool_c", finish="length"), forced=True)
    assert cut.stop_reason == "max_tokens"


def test_errors_of_llama() -> None:
    long = {"code": 400, "message": "the request exceeds the available context size", "type": "x"}
    for told, error in (
        (long, ContextTooLongError),
        ({"code": 500, "message": "Context size has been exceeded.", "type": "y"}, ContextTooLongError),
        ({"code": 400, "message": "no", "type": "invalid_request_error"}, RequestRejectedError),
        ({"code": 500, "message": "oh", "type": "server_error"}, DriverUnavailableError),
    ):
        with pytest.raises(error):
            read([{"error": told}])
    with pytest.raises(MalformedReplyError):
        read(said("Well.", finish=None))
    with pytest.raises(MalformedReplyError):
        read(said("Well.", finish="surprise"))


def test_calls_that_llama_read_itself() -> None:
    pieces = [{"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"at"'}}]
    more = [{"index": 0, "function": {"arguments": ': "x"}'}}]
    chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": calls}}]} for calls in (pieces, more)]
    prompt = prompt_of(asked(tools=(LOOK,)), "m", knows_tools=True)
    assert isinstance(prompt, Prompt)
    answer = Answer(prompt)
    for chunk in [*chunks, *said(finish="tool_calls")]:
        assert list(answer.read(chunk)) == []
    (whole,) = answer.end()
    assert isinstance(whole, Completion)
    assert whole.tool_calls == (ToolCall("a", "look", {"at": "x"}),)


# -- threads beside a task ---------------------------------------------------------------------------


async def _note(heard: list[str]) -> None:
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def work() -> None:
        token.run_sync_soon(heard.append, "worked")

    def end() -> None:
        heard.append("ended")
        ended.set()

    await start_blocking(work, end)
    with trio.fail_after(5):
        await ended.wait()


async def test_a_thread_beside_a_task_tells_when_it_has_ended() -> None:
    heard: list[str] = []
    await _note(heard)
    assert heard == ["worked", "ended"]


def test_in_a_simulation_there_is_no_thread() -> None:
    heard: list[str] = []

    async def main(context: Any) -> None:
        await _note(heard)

    simulate(main, seed=1)
    assert heard == ["worked", "ended"]
