"""`LocalDriver` with a real model in the process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
import trio
from smollm import TOOLS_TEMPLATE, weights

from agentpool import (
    AgentManifest,
    AssistantMessage,
    Completion,
    CompletionRequest,
    ContextTooLongError,
    LocalDriver,
    ModelAgent,
    ModelSettings,
    PrivacyTier,
    ReasoningDelta,
    RequestRejectedError,
    TextDelta,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
    open_agent_pool,
    open_driver,
)
from agentpool.drivers._grammar import answer_grammar
from agentpool.testing import check_driver

WEIGHTS = weights()

WEATHER = ToolDefinition(
    "get_weather",
    "Tells the weather of a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
TIME = attrs.evolve(WEATHER, name="get_time", description="Tells the time in a city.")
NUMBER = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}
ECHO = (
    'Repeat this text:\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Berlin"}}\n</tool_call>'
)


def open_model(**settings: object) -> LocalDriver:
    given: dict[str, object] = {"context_window": 1024, "slots": 2, **settings}
    return LocalDriver(WEIGHTS, **given)  # type: ignore[arg-type]


def ask(text: str, **settings: object) -> CompletionRequest:
    given: dict[str, object] = {"max_tokens": 24, "temperature": 0.0, **settings}
    return CompletionRequest(messages=(UserMessage(text),), **given)  # type: ignore[arg-type]


def endless(text: str = "Tell a story.", **settings: object) -> CompletionRequest:
    return ask(text, max_tokens=900, options={"ignore_eos": True}, **settings)


async def streamed(driver: LocalDriver, request: CompletionRequest) -> tuple[list[str], Completion]:
    async with driver.stream(request) as stream:
        parts = [part async for part in stream]
    whole = parts.pop()
    assert isinstance(whole, Completion)
    assert all(isinstance(part, TextDelta) for part in parts)
    return [part.text for part in parts if isinstance(part, TextDelta)], whole


# -- answers ----------------------------------------------------------------------------


async def test_an_answer_its_usage_and_what_the_driver_says_of_itself() -> None:
    async with open_model() as driver:
        assert driver.privacy is PrivacyTier.SOVEREIGN
        assert "not loaded yet" in repr(driver)
        answer = await driver.complete(ask("Say hello."))
        assert answer.text
        assert answer.served_model == WEIGHTS.stem
        assert answer.response_id
        assert 0 < answer.usage.output_tokens <= 24
        assert answer.usage.input_tokens > 10
        assert driver.estimate_cost(answer.usage) == answer.usage.cost_usd == 0
        again = await driver.complete(ask("Say hello."))
        assert again.text == answer.text
        assert again.usage.input_tokens == answer.usage.input_tokens
        assert 0 < again.usage.cache_read_tokens < again.usage.input_tokens
        assert "loaded)" in repr(driver)
    assert "closed" in repr(driver)


def test_the_context_window_is_the_models() -> None:
    assert LocalDriver(WEIGHTS).context_window == 8192
    assert LocalDriver(str(WEIGHTS), context_window=500).context_window == 500
    with pytest.raises(ValueError, match="at most 8192, for which the model was made"):
        LocalDriver(WEIGHTS, context_window=8193)


async def test_a_stream_gives_the_text_in_pieces() -> None:
    async with open_model() as driver:
        pieces, whole = await streamed(driver, ask("Count to ten."))
        assert len(pieces) > 5
        assert "".join(pieces) == whole.text
        assert whole.stop_reason == "max_tokens" or whole.usage.output_tokens < 24


async def test_it_passes_the_kit() -> None:
    made: list[LocalDriver] = []

    def make() -> LocalDriver:
        made.append(open_model())
        return made[-1]

    await check_driver(make, request=ask("Say hello.", max_tokens=8))
    for driver in made:
        await driver.aclose()


async def test_stop_strings_limits_and_options_are_kept() -> None:
    letters = {"grammar": 'root ::= "abc STOP def"'}
    async with open_model() as driver:
        stopped = await driver.complete(ask("?", stop=("STOP",), options=letters))
        assert (stopped.text, stopped.stop_reason) == ("abc ", "end_turn")
        cut = await driver.complete(attrs.evolve(endless(), max_tokens=3))
        assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)
        request = ask("Tell a story.", temperature=1.5, options={"seed": 7, "n": 3})
        first, second = await driver.complete(request), await driver.complete(request)
        other = await driver.complete(attrs.evolve(request, options={"seed": 8}))
        assert first.text == second.text != other.text


SIGNS = "🎉é漢字👍🏽Ж"


async def test_half_characters_never_leave_the_driver() -> None:
    async with open_model() as driver:
        request = ask("?", options={"grammar": f'root ::= "{SIGNS}"'}, max_tokens=60)
        pieces, whole = await streamed(driver, request)
        assert "".join(pieces) == whole.text == SIGNS
        assert whole.usage.output_tokens > len(SIGNS)  # so some are of several tokens
        for tokens in range(1, whole.usage.output_tokens, 3):
            cut = await driver.complete(attrs.evolve(request, max_tokens=tokens))
            assert SIGNS.startswith(cut.text)


async def test_what_strangers_put_into_a_request_can_be_sent() -> None:
    call = ToolCall("1", "get_weather", {"city": "\ud83d", "n": float("nan")})
    messages = (
        UserMessage("Half a \ud83d sign."),
        UserMessage("Two in a row."),
        AssistantMessage("", (call,)),
        ToolMessage("1", "get_weather", ToolResult("\udc00", is_error=True)),
    )
    async with open_model() as driver:
        answer = await driver.complete(CompletionRequest(messages=messages, max_tokens=3, tools=(WEATHER,)))
        assert answer.usage.output_tokens


# -- tools and schemas --------------------------------------------------------------------


@pytest.mark.parametrize("template", ["", TOOLS_TEMPLATE], ids=["without tools", "with tools"])
async def test_a_call_that_must_be_made_is_made(template: str) -> None:
    async with open_model(chat_template=template) as driver:
        request = ask("Weather in Rome?", tools=(WEATHER, TIME), max_tokens=40)
        request = attrs.evolve(request, parallel_tool_calls=False)
        some = await driver.complete(attrs.evolve(request, tool_choice="required"))
        (call,) = some.tool_calls
        assert call.name in ("get_weather", "get_time")
        assert set(call.input) == {"city"}
        assert (some.text, some.stop_reason) == ("", "tool_use")
        named = await driver.complete(attrs.evolve(request, tool_choice="get_time"))
        assert [call.name for call in named.tool_calls] == ["get_time"]
        none = await driver.complete(attrs.evolve(request, tool_choice="none", max_tokens=5))
        assert none.tool_calls == ()
        assert none.text


@pytest.mark.parametrize("template", ["", TOOLS_TEMPLATE], ids=["without tools", "with tools"])
async def test_a_call_that_the_model_chooses_is_read(template: str) -> None:
    async with open_model(chat_template=template) as driver:
        request = ask(ECHO, tools=(WEATHER,), parallel_tool_calls=False, max_tokens=60)
        pieces, whole = await streamed(driver, request)
        assert [(call.name, call.input) for call in whole.tool_calls] == [("get_weather", {"city": "Berlin"})]
        assert whole.stop_reason == "tool_use"
        assert "<" not in "".join(pieces)


async def test_several_calls_side_by_side() -> None:
    async with open_model() as driver:
        request = ask("Weather in Rome and Oslo?", tools=(WEATHER,), tool_choice="required", max_tokens=80)
        answer = await driver.complete(attrs.evolve(request, options={"ignore_eos": True}))
        assert len(answer.tool_calls) > 1
        assert len({call.id for call in answer.tool_calls}) == len(answer.tool_calls)
        assert answer.stop_reason == "max_tokens"  # the last one was cut off, and is not there


async def test_a_grammar_of_many_tools_is_kept() -> None:
    """llama.cpp's own grammars end at 60 tools or so."""
    schema = {"properties": {f"p{n}": {"enum": [f"value {n} {k}" for k in range(9)]} for n in range(9)}}
    many = tuple(ToolDefinition(f"tool_{n}", "Does it.", schema) for n in range(120))
    grammar = {"grammar": answer_grammar(many, forced=True, parallel=False)}
    assert len(grammar["grammar"]) > 100_000
    async with open_model() as driver:
        answer = await driver.complete(ask("?", options=grammar, max_tokens=12))
    assert answer.text.startswith('<tool_call>\n{"name": "tool_')


async def test_schemas_that_the_grammar_cannot_say_do_not_lift_it() -> None:
    """llama.cpp goes on without a word, and without the grammar."""
    properties = {
        "a": {"type": "string", "pattern": "(?=x)x", "maxLength": 2},
        "b": {"$ref": "#/$defs/nowhere", "type": "integer", "minimum": 0, "maximum": 3},
        "c": {"type": "string", "format": "no-such-format", "maxLength": 2},
        "d": {"not": {"type": "string"}, "type": "boolean"},
        "e": {"$ref": "#/$defs/here"},
        "f": {"type": "string", "pattern": "(", "maxLength": 2},
    }
    schema = {
        "$defs": {"here": {"enum": ["x"]}},
        "properties": properties,
        "additionalProperties": False,
        "required": list(properties),
    }
    odd = ToolDefinition("odd", "Odd.", schema)
    async with open_model() as driver:
        request = ask("Call it.", tools=(odd,), tool_choice="odd", parallel_tool_calls=False, max_tokens=90)
        answer = await driver.complete(request)
    (call,) = answer.tool_calls
    assert call.input.keys() == properties.keys()
    assert call.input["e"] == "x"


@pytest.mark.parametrize("template", ["", TOOLS_TEMPLATE], ids=["without tools", "with tools"])
@pytest.mark.parametrize("tools", [(), (WEATHER,)], ids=["alone", "beside tools"])
async def test_an_answer_fits_its_schema(template: str, tools: tuple[ToolDefinition, ...]) -> None:
    async with open_model(chat_template=template) as driver:
        request = ask("Choose a number.", tools=tools, output_schema=NUMBER, max_tokens=60)
        answer = await driver.complete(attrs.evolve(request, temperature=1.0, options={"seed": 3}))
    if answer.tool_calls:
        assert tools
    else:
        assert json.loads(answer.text)["n"] in range(10)


async def test_what_the_model_thinks_is_apart_from_what_it_says() -> None:
    thinking = TOOLS_TEMPLATE + "{# <think> </think> enable_thinking #}"
    grammar = {"grammar": 'root ::= "<think>\\nso so\\n</think>\\n\\nhello"'}
    async with open_model(chat_template=thinking) as driver:
        async with driver.stream(ask("?", options=grammar, max_tokens=40)) as stream:
            parts = [part async for part in stream]
    whole = parts[-1]
    assert isinstance(whole, Completion)
    assert (whole.reasoning, whole.text) == ("so so", "hello")
    assert "".join(part.text for part in parts if isinstance(part, TextDelta)) == "hello"
    assert any(isinstance(part, ReasoningDelta) for part in parts)


# -- limits and errors -----------------------------------------------------------------------


async def test_a_request_that_is_too_long_is_told_as_that() -> None:
    async with open_model(context_window=256) as driver:
        with pytest.raises(ContextTooLongError, match="exceeds the available context size"):
            await driver.complete(ask("hello " * 600))
        with pytest.raises(ContextTooLongError):
            async with driver.stream(ask("hello " * 600)):
                raise AssertionError("it is known on entering")  # pragma: no cover
        assert (await driver.complete(ask("Say hello."))).text
        filled = await driver.complete(endless())
        assert filled.stop_reason == "max_tokens"
        assert filled.usage.total_tokens <= 256


async def test_what_llama_refuses_is_no_answer() -> None:
    async with open_model() as driver:
        for options in ({"grammar": "root ::= nowhere"}, {"temperature": "hot"}, {"messages": 3}):
            with pytest.raises(RequestRejectedError):
                await driver.complete(ask("?", options=options))
        with pytest.raises(RequestRejectedError, match=r"\$ref"):
            await driver.complete(ask("?", output_schema={"properties": {"a": {"$ref": "#/nowhere"}}}))
        assert (await driver.complete(ask("Say hello."))).text


async def test_a_file_that_was_not_copied_whole(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    with WEIGHTS.open("rb") as file:
        path.write_bytes(file.read(4_000_000))
    async with LocalDriver(path, context_window=256) as driver:
        with pytest.raises(RequestRejectedError, match="cannot load"):
            await driver.complete(ask("?"))
        path.write_bytes(WEIGHTS.read_bytes())
        assert (await driver.complete(ask("Say hello."))).text


# -- many, and the end ---------------------------------------------------------------------------


async def test_more_calls_than_slots_take_turns() -> None:
    finished: list[int] = []
    async with open_model(slots=2) as driver:

        async def one(number: int) -> None:
            answer = await driver.complete(ask(f"Say {number}.", max_tokens=8))
            assert answer.usage.output_tokens
            finished.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(one, number)
    assert sorted(finished) == list(range(6))


async def test_eight_agents_at_once() -> None:
    manifest = AgentManifest(
        name="a",
        privacy="sovereign",
        model=ModelSettings(max_tokens=20, temperature=0.0),
    )
    agent = ModelAgent(manifest, output_type=bool)
    async with open_model(slots=4, context_window=512) as driver:
        async with open_agent_pool(driver, max_concurrent=8) as pool:
            outcomes = await pool.map(agent, [f"Is {n} much?" for n in range(8)])
    assert all(isinstance(outcome.unwrap().output, bool) for outcome in outcomes)
    assert all(outcome.usage.output_tokens > 0 for outcome in outcomes)


async def test_a_cancelled_call_stops_the_model() -> None:
    """Ten calls of 900 tokens each, left after three, take less than one of them would."""
    async with open_model(slots=1) as driver:
        started = time.perf_counter()
        answer = await driver.complete(attrs.evolve(endless(), max_tokens=60))
        whole = (time.perf_counter() - started) * 900 / answer.usage.output_tokens
        left = []
        for number in range(10):
            started = time.perf_counter()
            with trio.CancelScope() as scope:
                async with driver.stream(endless(f"Tell a story of {number}.")) as stream:
                    for _ in range(3):
                        await anext(stream)
                    scope.cancel()
                    await trio.sleep_forever()
            assert scope.cancelled_caught
            left.append(time.perf_counter() - started)
        assert sum(left) < whole
        assert (await driver.complete(ask("Say hello."))).text  # the only slot is free


async def test_a_call_is_stopped_while_its_prompt_is_read() -> None:
    async with open_model(slots=1, batch=16) as driver:
        await driver.complete(ask("Say hello."))
        long = ask("".join(f"{number} " for number in range(100, 150)))
        started = time.perf_counter()
        await driver.complete(attrs.evolve(long, max_tokens=1))
        whole = time.perf_counter() - started
        other = ask("".join(f"{number} " for number in range(200, 250)))
        started = time.perf_counter()
        with trio.move_on_after(whole / 8) as scope:
            await driver.complete(other)
        assert scope.cancelled_caught
        assert time.perf_counter() - started < whole / 2


async def test_a_cancelled_wait_for_a_slot_takes_none() -> None:
    async with open_model(slots=1) as driver:
        async with driver.stream(endless()) as stream:
            await anext(stream)
            with trio.move_on_after(0.05) as scope:
                await driver.complete(ask("Say hello."))
            assert scope.cancelled_caught
            await anext(stream)
        assert (await driver.complete(ask("Say hello."))).text


async def test_two_drivers_side_by_side() -> None:
    async with open_model() as one, open_model() as other:
        async with one.stream(endless()) as stream:
            await anext(stream)
            assert (await other.complete(ask("Say hello."))).text
            await other.aclose()
            for _ in range(5):
                await anext(stream)


async def test_closing_ends_what_is_under_way() -> None:
    ended: list[str] = []
    async with open_model(slots=1) as driver:
        await driver.complete(ask("Say hello."))

        async def one(name: str) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await driver.complete(endless())
            ended.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "answering")
            nursery.start_soon(one, "waiting for a slot")
            await trio.sleep(0.1)
            await driver.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await driver.complete(ask("Say hello."))
    assert sorted(ended) == ["answering", "waiting for a slot"]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, str(WEIGHTS), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


ASKING = """
import os, signal, sys, trio
from agentpool import CompletionRequest, LocalDriver, UserMessage

async def main():
    driver = LocalDriver(sys.argv[1], context_window=512, slots=1)
    answer = await driver.complete(CompletionRequest(messages=(UserMessage("Hi"),), max_tokens=4))
    print("answered", os.environ.get("OMP_WAIT_POLICY"), flush=True)
    {rest}

trio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_and_sigterm_stay_the_programs() -> None:
    done = run(ASKING.format(rest="signal.raise_signal(signal.SIGINT); await trio.sleep(5)"))
    assert "KeyboardInterrupt" in done.stderr
    assert done.stdout == "answered None\n"
    done = run(ASKING.format(rest="os.kill(os.getpid(), signal.SIGTERM); await trio.sleep(5)"))
    assert done.returncode == -15


def test_a_program_that_closes_nothing_ends() -> None:
    done = run(ASKING.format(rest="pass"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "answered None\n", "")


async def test_the_event_loop_goes_on_while_the_model_thinks() -> None:
    async with open_model() as driver:
        await driver.complete(ask("Say hello."))
        moments: list[float] = []

        async def tick() -> None:
            while True:
                moments.append(time.perf_counter())
                await trio.sleep(0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            started = time.perf_counter()
            await driver.complete(attrs.evolve(endless(), max_tokens=60))
            took = time.perf_counter() - started
            nursery.cancel_scope.cancel()
        assert max(after - before for before, after in pairwise(moments)) < took / 4


# -- by name ---------------------------------------------------------------------------------


async def test_a_driver_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "my models"
    place.mkdir()
    (place / "small one.gguf").symlink_to(WEIGHTS)
    monkeypatch.setenv("HOME", str(tmp_path))
    async with open_driver("local: ~/my models/small one.gguf", context_window=300) as driver:
        assert isinstance(driver, LocalDriver)
        assert driver.context_window == 300
        assert (await driver.complete(ask("Say hello."))).text


FLEET = """
[pool]
max_concurrent = 2
[[agents]]
manifest = "agents/one.toml"
query = "Say hello."
[[agents]]
manifest = "agents/other.toml"
query = "Say goodbye."
"""


SHORT = """options = {grammar = 'root ::= "yes"'}\n"""


def test_the_command_line_runs_agents_of_a_model_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = pytest.importorskip("agentpool.cli._app", exc_type=ImportError)
    opened: list[LocalDriver] = []
    make: Callable[..., None] = LocalDriver.__init__

    def noted(self: LocalDriver, *args: object, **settings: object) -> None:
        make(self, *args, **settings)
        opened.append(self)

    monkeypatch.setattr(LocalDriver, "__init__", noted)
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "m.gguf").symlink_to(WEIGHTS)
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    (agents / "one.toml").write_text(
        'name = "one"\nprivacy = "sovereign"\n'
        '[model]\nmodel_path = "m.gguf"\nmax_tokens = 20\ncontext_window = 400\n' + SHORT
    )
    (agents / "other.toml").write_text(
        'name = "other"\n[model]\ndriver = "local:m.gguf"\nmax_tokens = 20\ncontext_window = 700\n' + SHORT
    )
    assert app.call(["validate", str(path)]) == 0
    opened.clear()
    code = app.call(["run", str(path)])
    told = capsys.readouterr()
    assert code == 0, told
    assert "yes" in told.out
    assert [driver.context_window for driver in opened] == [700]  # once for both
