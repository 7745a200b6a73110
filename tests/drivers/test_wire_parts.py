from __future__ import annotations

from email.utils import formatdate

import pytest

from agentpool._core.errors import (
    ContentRefusedError,
    ContextTooLongError,
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    OverloadedError,
    RateLimitedError,
    RequestRejectedError,
)
from agentpool._core.messages import StopReason, ToolCall
from agentpool._core.usage import NO_USAGE
from agentpool.drivers._wire import (
    CallAssembler,
    Refusal,
    Secret,
    completion_of,
    error_of,
    is_loopback,
    retry_after_seconds,
    words_of,
)

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": formatdate(NOW + 20, usegmt=True)}, 20.0),
        ({"retry-after": formatdate(NOW - 20, usegmt=True)}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
    ],
)
def test_the_wait_that_a_provider_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, now=NOW) == seconds


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refusal(400, "no"), RequestRejectedError),
        (Refusal(401, "no"), RequestRejectedError),
        (Refusal(402, "no"), RequestRejectedError),
        (Refusal(403, "no"), RequestRejectedError),
        (Refusal(404, "no such model"), RequestRejectedError),
        (Refusal(308, "moved"), RequestRejectedError),
        (Refusal(413, "too large"), ContextTooLongError),
        (Refusal(400, "prompt is too long: 300000 tokens > 200000 maximum"), ContextTooLongError),
        (Refusal(400, "no", "context_length_exceeded invalid_request_error"), ContextTooLongError),
        (Refusal(400, "no", "content_filter"), ContentRefusedError),
        (Refusal(429, "no"), RateLimitedError),
        (Refusal(429, "the context window is shared", "rate_limit"), RateLimitedError),
        (Refusal(429, "no", "insufficient_quota"), RequestRejectedError),
        (Refusal(400, "Your credit balance is too low"), RequestRejectedError),
        (Refusal(408, "no"), DriverUnavailableError),
        (Refusal(500, "no"), DriverUnavailableError),
        (Refusal(504, "no"), DriverUnavailableError),
        (Refusal(503, "no"), OverloadedError),
        (Refusal(529, "no"), OverloadedError),
        (Refusal(200, "no", "rate_limit_error"), RateLimitedError),
        (Refusal(None, "no", "overloaded_error"), OverloadedError),
        (Refusal(None, "no", "invalid_request_error"), RequestRejectedError),
        (Refusal(None, "no", "api_error"), DriverUnavailableError),
    ],
)
def test_what_a_refusal_stands_for(refusal: Refusal, kind: type[DriverError]) -> None:
    assert type(error_of(refusal)) is kind


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c"}}, ("m", "c t")),
        ({"message": "m", "code": 5}, ("m", "5")),
        ({"error": "m"}, ("m", "")),
        ("m", ("m", "")),
        ("", ("otherwise", "")),
        (None, ("otherwise", "")),
        ({"error": None}, ("otherwise", "")),
        ({"detail": []}, ("otherwise", "")),
    ],
)
def test_the_words_of_a_provider_are_found_in_any_body(body: object, words: tuple[str, str]) -> None:
    assert words_of(body, "otherwise") == words


def test_loopback_is_known_by_its_address() -> None:
    here = ["http://127.0.0.1", "http://127.8.8.8:1/v1", "https://localhost:2", "http://[::1]/"]
    there = ["http://0.0.0.0", "http://localhost.example.com", "http://127.0.0.1.nip.io", "http://[fe80::1]"]
    assert all(map(is_loopback, here))
    assert not any(map(is_loopback, there))


def test_calls_come_in_the_order_in_which_they_began() -> None:
    assembler = CallAssembler()
    assembler.add(1, id="b", name="second")
    assembler.add(0, id="a", name="first")
    assembler.add(1, arguments='{"x": ')
    assembler.add(0, arguments="")
    assembler.add(1, arguments="1}")
    assert assembler.calls(truncated=False) == (ToolCall("b", "second", {"x": 1}), ToolCall("a", "first", {}))


def test_a_name_and_an_id_may_come_late_and_a_missing_id_is_made_up() -> None:
    assembler = CallAssembler()
    assembler.add(0, arguments="{}")
    assembler.add(0, id="a", name="look")
    assembler.add(1, name="look")
    first, second = assembler.calls(truncated=False)
    assert (first.id, first.name) == ("a", "look")
    assert second.id.startswith("call_")


def test_a_call_without_a_name_cannot_be_read() -> None:
    assembler = CallAssembler()
    assembler.add(0, id="a", arguments="{}")
    with pytest.raises(MalformedReplyError, match="without a name"):
        assembler.calls(truncated=False)
    assert assembler.calls(truncated=True) == ()


def test_only_the_last_call_may_be_cut_off() -> None:
    assembler = CallAssembler()
    assembler.add(0, id="a", name="look", arguments="{")
    assembler.add(1, id="b", name="look", arguments="{}")
    with pytest.raises(MalformedReplyError):
        assembler.calls(truncated=True)


@pytest.mark.parametrize(
    ("said", "calls", "stop"),
    [
        ("end_turn", 1, "tool_use"),
        ("tool_use", 0, "end_turn"),
        ("stop_sequence", 0, "stop_sequence"),
        ("max_tokens", 1, "max_tokens"),
        ("refusal", 0, "refusal"),
    ],
)
def test_the_stop_reason_agrees_with_the_content(said: StopReason, calls: int, stop: StopReason) -> None:
    completion = completion_of("x", (ToolCall("a", "look"),) * calls, said, NO_USAGE)
    assert completion.stop_reason == stop


def test_a_key_is_taken_out_of_everything() -> None:
    secret = Secret("sk-123456")
    value = {"a sk-123456": ["x sk-123456 y", (b"sk-123456", 3)]}
    assert secret.redact(value) == {"a [redacted]": ["x [redacted] y", (b"[redacted]", 3)]}
    assert "123456" not in repr(secret)
    assert Secret("").redact("abc") == "abc"


def test_exceptions_are_cleaned_along_their_causes_but_not_beyond() -> None:
    mine = ValueError("sk-123456 of somebody else")
    deep = KeyError("sk-123456")
    deep.__context__ = mine
    deep.add_note("see sk-123456")
    top = ExceptionGroup("group", [OSError(5, "sk-123456")])
    top.__cause__ = deep
    deep.__cause__ = top  # a cycle
    Secret("sk-123456").scrub(top, up_to=mine)
    assert "123456" not in repr(top) + repr(deep) + str(deep.__notes__)
    assert "123456" in str(mine)
