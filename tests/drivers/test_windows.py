"""How much a model can read is asked of servers that tell it, once, and only if it is of use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from rawserver import RawServer, answer, raw_server
from trio.testing import MockClock

from agentpool import (
    CompletionRequest,
    ContextTooLongError,
    GeminiDriver,
    OllamaDriver,
    OpenAIDriver,
    PriceTable,
    UserMessage,
)
from agentpool.drivers._http_driver import HttpDriver
from agentpool.drivers._windows import (
    Room,
    room_in,
    root_of,
    window_in_list,
    window_in_props,
    window_of_a_model,
    window_when_loaded,
    window_when_shown,
)

SHORT = CompletionRequest(messages=[UserMessage("hi")])
LONG = CompletionRequest(messages=[UserMessage("word " * 4000)])


@pytest.mark.parametrize(
    ("why", "data", "window"),
    [
        ("vLLM and SGLang", {"data": [{"id": "m", "max_model_len": 32768}]}, 32768),
        ("among others", {"data": [{"id": "n", "max_model_len": 1}, {"id": "m", "max_model_len": 2}]}, 2),
        (
            "OpenRouter",
            {"data": [{"id": "m", "context_length": 9, "top_provider": {"context_length": 7}}]},
            7,
        ),
        ("OpenRouter, null", {"data": [{"id": "m", "context_length": 9, "top_provider": None}]}, 9),
        ("a provider only", {"data": [{"id": "m", "top_provider": {"context_length": 7}}]}, 7),
        ("Groq", {"data": [{"id": "m", "context_window": 131072}]}, 131072),
        ("Mistral", {"data": [{"id": "m", "max_context_length": 32768}]}, 32768),
        (
            "LM Studio: loaded, not possible (ahwurm/localharness#13)",
            {"data": [{"id": "m", "loaded_context_length": 4096, "max_context_length": 131072}]},
            4096,
        ),
        (
            "LM Studio's newer list (lmstudio-ai/lmstudio-bug-tracker#2139)",
            {
                "models": [
                    {
                        "key": "m",
                        "max_context_length": 131072,
                        "loaded_instances": [
                            {"config": {"context_length": 8192}},
                            {"config": {"context_length": 4096}},
                            {},
                        ],
                    }
                ]
            },
            4096,
        ),
        (
            "llama.cpp: what it allocated, not what was trained (1ay1/agentty#49)",
            {"data": [{"id": "m", "meta": {"n_ctx": 8192, "n_ctx_train": 40960}}]},
            8192,
        ),
        ("llama.cpp of before", {"data": [{"id": "m", "meta": {"n_ctx_train": 40960}}]}, 0),
        ("the only one, under another name", {"data": [{"id": "/models/x.gguf", "max_model_len": 5}]}, 5),
        ("not among several", {"data": [{"id": "a", "max_model_len": 5}, {"id": "b"}]}, 0),
        ("a single model", {"id": "m", "max_model_len": 5}, 5),
        ("no numbers", {"data": [{"id": "m", "max_model_len": "many", "context_length": -1}]}, 0),
        ("OpenAI", {"data": [{"id": "m", "object": "model"}, {"id": "n"}]}, 0),
        ("an error", {"error": "Unexpected endpoint"}, 0),
        ("nothing", {}, 0),
        ("null", {"data": None}, 0),
    ],
)
def test_lists_of_models(why: str, data: dict[str, Any], window: int) -> None:
    assert window_in_list(data, "m") == window


@pytest.mark.parametrize(
    ("data", "window"),
    [
        ({"default_generation_settings": {"n_ctx": 4096}}, 4096),
        ({"n_ctx": 2048}, 2048),
        ({"default_generation_settings": {"n_ctx": 0}}, 0),  # a router that has loaded nothing yet
        ({"error": "no"}, 0),
    ],
)
def test_props_of_llama_cpp(data: dict[str, Any], window: int) -> None:
    assert window_in_props(data, "m") == window


@pytest.mark.parametrize(
    ("models", "window"),
    [
        ([{"name": "m", "model": "m", "context_length": 4096}], 4096),
        ([{"name": "m:latest", "context_length": 4096}], 4096),
        ([{"name": "n", "context_length": 4096}], 0),
        ([{"name": "m"}], 0),
        (None, 0),
    ],
)
def test_what_ollama_has_loaded(models: Any, window: int) -> None:
    assert window_when_loaded({"models": models}, "m") == window


@pytest.mark.parametrize(
    ("data", "window"),
    [
        ({"parameters": 'stop "<x>"\nnum_ctx                        8192\ntemperature 1'}, 8192),
        ({"parameters": "num_ctx 8192", "model_info": {"llama.context_length": 131072}}, 8192),
        ({"model_info": {"general.name": "x", "qwen3.context_length": 40960}}, 40960),
        ({"model_info": {}, "parameters": None}, 0),
        ({}, 0),
    ],
)
def test_what_ollama_shows_of_a_model(data: dict[str, Any], window: int) -> None:
    assert window_when_shown(data, "m") == window


def test_what_gemini_and_anthropic_say_of_a_model() -> None:
    assert window_of_a_model({"name": "models/m", "inputTokenLimit": 1048576}, "m") == 1048576
    assert window_of_a_model({"id": "m", "max_input_tokens": 200000}, "m") == 200000
    assert window_of_a_model({"id": "m"}, "m") == 0


@pytest.mark.parametrize(
    "base", ["http://h", "http://h/v1", "http://h/v1/", "http://h/openai/v1", "http://h/v1beta"]
)
def test_the_root_of_a_server(base: str) -> None:
    assert root_of(base) == "http://h"
    assert root_of("http://h/api/v1/x") == "http://h/api/v1/x"


CHAT = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]}
OLLAMA = {"message": {"content": "x"}, "done": True}
GEMINI = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]}

Make = Callable[..., HttpDriver]
KINDS: dict[str, tuple[Make, dict[str, Any]]] = {
    "openai": (lambda url, **more: OpenAIDriver("m", base_url=f"{url}/v1?k=v", api_key="", **more), CHAT),
    "ollama": (lambda url, **more: OllamaDriver("m", base_url=url, api_key="", **more), OLLAMA),
    "gemini": (lambda url, **more: GeminiDriver("m", base_url=url, api_key="", **more), GEMINI),
}
EMPTY: dict[str, Any] = {"data": [{"id": "a"}, {"id": "b"}]}
SERVERS: list[tuple[str, str, dict[str, Any]]] = [
    ("openai", "GET /v1/models?k=v", {"data": [{"id": "m", "max_model_len": 7000}]}),
    ("openai", "GET /props?k=v&model=m", {"default_generation_settings": {"n_ctx": 7000}}),
    ("openai", "GET /api/v0/models?k=v", {"data": [{"id": "m", "loaded_context_length": 7000}]}),
    ("ollama", "GET /api/ps", {"models": [{"name": "m", "context_length": 7000}]}),
    ("ollama", "POST /api/show", {"parameters": "num_ctx 7000"}),
    ("gemini", "GET /v1beta/models/m", {"inputTokenLimit": 7000}),
]


def asked(server: RawServer) -> list[str]:
    """Return the method and path of each request."""
    return [" ".join(head.split()[:2]) for head, _ in server.requests]


def is_call(line: str) -> bool:
    return line.startswith("POST") and "/api/show" not in line


@pytest.mark.parametrize(("kind", "place", "told"), SERVERS)
async def test_it_is_asked_before_the_first_long_request(kind: str, place: str, told: dict[str, Any]) -> None:
    make, reply = KINDS[kind]

    def answers(head: str, body: Any) -> bytes:
        line = " ".join(head.split()[:2])
        return answer(200, reply if is_call(line) else told if line == place else EMPTY)

    async with raw_server(answers) as server, make(server.url) as driver:
        await driver.complete(SHORT)
        assert driver.context_window is None
        assert len(server.requests) == 1
        await driver.complete(LONG)
        lines = asked(server)
        assert driver.context_window == 7000
        assert lines[-2] == place
        assert is_call(lines[-1])
        await driver.complete(LONG)
        assert len(server.requests) == len(lines) + 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("told", [answer(404, {}), answer(200, b"<html>"), answer(200, b"[]"), b""])
async def test_a_server_that_does_not_tell_is_asked_once(kind: str, told: bytes) -> None:
    make, reply = KINDS[kind]

    def answers(head: str, body: Any) -> bytes:
        return answer(200, reply) if is_call(" ".join(head.split()[:2])) else told

    async with raw_server(answers) as server, make(server.url) as driver:
        await driver.complete(LONG)
        first = len(server.requests)
        await driver.complete(LONG)
        assert len(server.requests) == first + 1
        assert driver.context_window is None


@pytest.mark.parametrize("kind", KINDS)
async def test_it_is_not_asked_where_it_is_known(kind: str) -> None:
    make, reply = KINDS[kind]
    table = PriceTable.from_toml(f"[{kind}]\nm = {{ input = 1, output = 1, context_window = 9000 }}")
    async with raw_server(answer(200, reply)) as server:
        for more in ({"context_window": 9000}, {"prices": table}):
            async with make(server.url, **more) as driver:
                await driver.complete(LONG)
                assert driver.context_window == 9000
    assert len(server.requests) == 2


async def test_a_server_that_is_silent_is_waited_for_briefly(autojump_clock: MockClock) -> None:
    """Time jumps as far as somebody waits: what is measured is how long the driver is ready to wait."""
    async with raw_server(b"", stay=True) as server:
        async with OpenAIDriver("m", base_url=server.url, api_key="") as driver:
            await driver._ready()
            before = trio.current_time()
            await driver._look_for_window(LONG)
            assert trio.current_time() - before == pytest.approx(2.0)
            assert driver.context_window is None


async def test_each_model_has_its_own() -> None:
    models = {"data": [{"id": "m", "max_model_len": 7000}, {"id": "n", "max_model_len": 8000}]}

    def answers(head: str, body: Any) -> bytes:
        return answer(200, CHAT if head.startswith("POST") else models)

    async with raw_server(answers) as server:
        async with OpenAIDriver("m", base_url=server.url, api_key="") as driver:
            await driver.complete(CompletionRequest("n", LONG.messages))
            assert driver.context_window is None
            await driver.complete(LONG)
            assert driver.context_window == 7000
    assert [line.split()[0] for line in asked(server)] == ["GET", "POST", "GET", "POST"]


# -- what a refusal tells ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "window", "given"),
    [
        (  # ogx-ai/ogx#4534, vllm-project/vllm#20409
            "This model's maximum context length is 6048 tokens. However, you requested 6616 tokens"
            " (568 in the"
            " messages, 6048 in the completion). Please reduce the length of the messages or completion.",
            6048,
            568,
        ),
        (
            "This model's maximum context length is 4,096 tokens. However, you requested 4200"
            " tokens (100 in the"
            " messages, 20 in the functions, and 4080 in the completion).",
            4096,
            120,
        ),
        (  # vllm-project/vllm#42474
            "This model's maximum context length is 128000 tokens. However, you requested 65535"
            " output tokens and"
            " your prompt contains at least 62466 input tokens, for a total of at least 128001 tokens.",
            128000,
            62466,
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum"
            " context length is"
            " 2048 tokens and your request has 50 input tokens (4096 > 2048 - 50).",
            2048,
            50,
        ),
        (
            "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a"
            " total of 9000 tokens: 5000 tokens from the input messages and 4000 tokens for the completion.",
            8192,
            5000,
        ),
        (
            "This endpoint's maximum context length is 131072 tokens. However, you requested about"
            " 140000 tokens"
            " (8000 of text input, 400 of tool input, 131600 in the output).",
            131072,
            8400,
        ),
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8192. Given: 5000 `inputs`"
            " tokens and 4000 `max_new_tokens`",
            8192,
            5000,
        ),
        (
            "input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000, decrease"
            " input length"
            " or `max_tokens` and try again",
            200000,
            190000,
        ),
    ],
)
def test_the_room_that_a_refusal_tells(text: str, window: int, given: int) -> None:
    assert room_in(text) == Room(window, given)


@pytest.mark.parametrize(
    "text",
    ["prompt is too long", "maximum context length is 8 tokens", "5 input tokens", "context limit: a + b"],
)
def test_refusals_that_tell_of_no_room(text: str) -> None:
    assert room_in(text) is None


async def test_a_short_request_to_a_small_model_is_given_a_shorter_answer() -> None:
    """vllm-project/vllm#33418: the length of the answer, which nobody had thought of, fails every request."""

    def reply(head: str, body: Any) -> bytes:
        given = 500
        if given + body["max_tokens"] > 4096:
            words = (
                "This model's maximum context length is 4096 tokens. However, you requested"
                f" {given + body['max_tokens']} tokens ({given} in the messages, {body['max_tokens']} in the"
                " completion). Please reduce the length of the messages or completion."
            )
            return answer(400, {"object": "error", "message": words, "code": 400})
        said = {"role": "assistant", "content": "ok"}
        return answer(200, {"choices": [{"index": 0, "message": said, "finish_reason": "stop"}]})

    async with raw_server(reply) as server:
        async with OpenAIDriver("m", base_url=f"{server.url}/v1", api_key="") as driver:
            for longest in (4096, 100_000):
                request = CompletionRequest(messages=[UserMessage("hi")], max_tokens=longest)
                assert (await driver.complete(request)).text == "ok"
                assert server.requests[-1][1]["max_tokens"] == 3596
            assert driver.context_window == 4096  # so that the next agent knows
            assert (
                await driver.complete(CompletionRequest(messages=[UserMessage("hi")], max_tokens=9))
            ).text == "ok"
            assert server.requests[-1][1]["max_tokens"] == 9
            # What the user gave by hand is not made less.
            own = CompletionRequest(messages=[UserMessage("hi")], options={"max_tokens": 4000})
            with pytest.raises(ContextTooLongError):
                await driver.complete(own)


async def test_a_request_that_leaves_no_room_for_an_answer_is_too_long() -> None:
    words = (
        "This model's maximum context length is 4096 tokens. However, you requested 7900 tokens (3900 in the"
        " messages, 4000 in the completion)."
    )
    async with raw_server(answer(400, {"message": words})) as server:
        async with OpenAIDriver("m", base_url=f"{server.url}/v1", api_key="") as driver:
            with pytest.raises(ContextTooLongError):
                await driver.complete(CompletionRequest(messages=[UserMessage("hi")], max_tokens=4000))
        assert len(server.requests) == 1
