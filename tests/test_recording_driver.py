"""A cassette: what was recorded is played back, and no secret is in it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from agentpool._core.capability import PrivacyTier
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
from agentpool._core.messages import (
    AssistantMessage,
    Completion,
    CompletionRequest,
    StreamPart,
    TextDelta,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.usage import TokenUsage
from agentpool.abc import Driver
from agentpool.drivers.recording import RecordingDriver, ReplayDriver, redact
from agentpool.drivers.retrying import RetryingDriver

CANARY = "canary-4711-do-not-print"


class Echo(Driver):
    """Answers with the last message and a number that counts up; or raises what it is given."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.count = 0

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        self.count += 1
        return Completion(f"{words(request)} {self.count}", usage=TokenUsage(3, 2, cost_usd=0.25))

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        async def parts() -> AsyncGenerator[StreamPart, None]:
            completion = await self.complete(request)
            yield TextDelta(completion.text[:2])
            if self.errors:
                raise self.errors.pop(0)
            yield TextDelta(completion.text[2:])
            yield completion

        async with aclosing(parts()) as iterator:
            yield iterator


def words(request: CompletionRequest) -> str:
    last = request.messages[-1]
    return last.content if isinstance(last, UserMessage) else ""


def ask(text: str) -> CompletionRequest:
    return CompletionRequest(model="m", messages=[UserMessage(text)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tapes" / "cassette.jsonl"


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SOME_PROVIDER_API_KEY", CANARY)
    return CANARY


async def streamed(driver: Driver, request: CompletionRequest) -> list[StreamPart]:
    async with driver.stream(request) as parts:
        return [part async for part in parts]


RICH_REQUEST = CompletionRequest(
    model="m",
    system="be brief",
    messages=[
        UserMessage("hello"),
        AssistantMessage("let me see", (ToolCall("1", "look", {"at": ["a", 1, None]}),)),
        ToolMessage("1", "look", ToolResult("nothing", is_error=True)),
    ],
    tools=(ToolDefinition("look", "looks", {"type": "object"}),),
    stop=("END",),
)
RICH_COMPLETION = Completion(
    "done", (ToolCall("2", "look", {"deep": {"er": True}}),), "tool_use", TokenUsage(1, 2, 3, 4, 0.125)
)


async def test_what_was_recorded_is_played_back_as_it_was(path: Path) -> None:
    class Rich(Driver):
        async def complete(self, request: CompletionRequest) -> Completion:
            return RICH_COMPLETION

    recorder = RecordingDriver(Rich(), path)
    assert await recorder.complete(RICH_REQUEST) == RICH_COMPLETION
    assert await ReplayDriver(path).complete(RICH_REQUEST) == RICH_COMPLETION


async def test_the_order_of_asking_does_not_matter_but_for_equal_requests(path: Path) -> None:
    recorder = RecordingDriver(Echo(), path)
    async with trio.open_nursery() as nursery:
        for text in "abcde":
            nursery.start_soon(recorder.complete, ask(text))
    again = [(await recorder.complete(ask("a"))).text for _ in range(2)]
    replay = ReplayDriver(path)
    assert replay.remaining is None
    texts = [(await replay.complete(ask(text))).text for text in "edcbaaa"]
    assert [text[0] for text in texts] == list("edcbaaa")
    assert texts[-2:] == again
    assert replay.remaining == 0


async def test_a_stream_is_recorded_whole_and_played_back(path: Path) -> None:
    recorder = RecordingDriver(Echo(), path)
    assert [type(part) for part in await streamed(recorder, ask("abc"))] == [TextDelta, TextDelta, Completion]
    replayed = await streamed(ReplayDriver(path), ask("abc"))
    assert replayed == [TextDelta("abc 1"), Completion("abc 1", usage=TokenUsage(3, 2, cost_usd=0.25))]


@pytest.mark.parametrize(
    "error",
    [
        RateLimitedError("slow", retry_after=2.5),
        OverloadedError("busy"),
        DriverUnavailableError("down"),
        RequestRejectedError("bad"),
        ContentRefusedError("no"),
        MalformedReplyError("cut"),
        ContextTooLongError("long"),
        DriverError("odd"),
    ],
)
async def test_errors_are_recorded_and_raised_again(path: Path, error: DriverError) -> None:
    recorder = RecordingDriver(Echo(error, error), path)
    with pytest.raises(type(error)):
        await recorder.complete(ask("a"))
    with pytest.raises(type(error)):
        await streamed(recorder, ask("a"))
    replay = ReplayDriver(path)
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            await replay.complete(ask("a"))
        assert str(caught.value) == str(error)
        assert getattr(caught.value, "retry_after", None) == getattr(error, "retry_after", None)


async def test_an_error_in_the_middle_of_a_stream_is_recorded(path: Path) -> None:
    async with RecordingDriver(Echo(), path).stream(ask("a")) as parts:
        await anext(parts)
    inside = Echo()
    async with RecordingDriver(inside, path).stream(ask("a")) as parts:
        await anext(parts)
        inside.errors = [DriverUnavailableError("cut")]
        with pytest.raises(DriverUnavailableError):
            await anext(parts)
    with pytest.raises(DriverUnavailableError, match="cut"):
        await ReplayDriver(path).complete(ask("a"))


async def test_an_error_of_a_drivers_own_is_played_back_as_the_nearest_kind(path: Path) -> None:
    class Odd(OverloadedError):
        pass

    with pytest.raises(Odd):
        await RecordingDriver(Echo(Odd("busy", retry_after=1)), path).complete(ask("a"))
    with pytest.raises(OverloadedError, match="busy"):
        await ReplayDriver(path).complete(ask("a"))


async def test_retries_around_a_recorder_are_played_back_in_their_order(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    await RetryingDriver(RecordingDriver(Echo(OverloadedError()), path)).complete(ask("a"))
    assert (await RetryingDriver(ReplayDriver(path)).complete(ask("a"))).text == "a 1"


async def test_a_request_that_was_not_recorded_is_an_error_that_tells_the_fix(path: Path) -> None:
    await RecordingDriver(Echo(), path).complete(ask("a"))
    replay = ReplayDriver(path)
    with pytest.raises(RequestRejectedError, match=r"holds no answer to this .*other.*record it again"):
        await replay.complete(ask("other"))
    await replay.complete(ask("a"))
    with pytest.raises(RequestRejectedError, match="holds only 1 answers"):
        await replay.complete(ask("a"))


# -- secrets ----------------------------------------------------------------------


async def test_no_secret_gets_into_a_cassette_and_it_plays_where_there_are_others(
    path: Path, canary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RequestRejectedError(f"the key {canary} is wrong")
    recorder = RecordingDriver(Echo(error), path, secrets=["hunter22"])
    request = ask(f"my key is {canary}, hunter22, sk-abcdefghij1234")
    with pytest.raises(RequestRejectedError):
        await recorder.complete(request)
    await recorder.complete(request)
    content = await trio.Path(path).read_text()
    for secret in (canary, "hunter22", "sk-abcdefghij1234"):
        assert secret not in content
    monkeypatch.setenv("SOME_PROVIDER_API_KEY", "another-key-of-another-machine")
    replay = ReplayDriver(path, secrets=["hunter22"])
    elsewhere = ask("my key is another-key-of-another-machine, hunter22, sk-zzzzzzzzzzzzzz")
    with pytest.raises(RequestRejectedError):
        await replay.complete(elsewhere)
    assert "[redacted]" in (await replay.complete(elsewhere)).text
    with pytest.raises(RequestRejectedError) as caught:
        await replay.complete(ask("another-key-of-another-machine"))
    assert "another-key" not in str(caught.value)


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefgh12345678",
        "sk-ant-api03-abcdefgh_1234",
        "ghp_abcdefghijklmnop1234",
        "github_pat_abcdefghijklmnop1234",
        "xoxb-1234-abcdefgh",
        "AKIAABCDEFGHIJKLMNOP",
        "AIzaabcdefghijklmnopqrstuvwxyz0123456",
        "hf_abcdefghijklmnop1234",
        "eyJhbGciOiJI.eyJzdWIiOiIx.abcdef",
        "Bearer abcdefgh12345678",
        "Authorization: abcd1234",
        'x-api-key": "abcd1234',
        "password=abcd1234",
    ],
)
def test_what_looks_like_a_secret_is_redacted(secret: str) -> None:
    text = redact(f"before {secret} after")
    assert secret not in text
    assert "abcd" not in text
    assert text.startswith("before ")
    assert text.endswith(" after")


def test_ordinary_text_is_not_redacted() -> None:
    text = "The basic idea: a risk-free task-oriented desk, keys and tokens, 1024 of them."
    assert redact(text) == text


# -- the file ----------------------------------------------------------------------


async def test_a_new_recording_takes_the_place_of_an_older_one(path: Path) -> None:
    await RecordingDriver(Echo(), path).complete(ask("a"))
    await RecordingDriver(Echo(), path).complete(ask("b"))
    replay = ReplayDriver(path)
    await replay.complete(ask("b"))
    assert replay.remaining == 0


async def test_append_adds_to_an_older_recording_and_cuts_a_torn_tail(path: Path) -> None:
    await RecordingDriver(Echo(), path, append=True).complete(ask("a"))
    with path.open("a") as file:
        file.write('{"key": "tor')
    await RecordingDriver(Echo(), path, append=True).complete(ask("b"))
    replay = ReplayDriver(path)
    for text in "ab":
        await replay.complete(ask(text))
    assert replay.remaining == 0


async def test_a_torn_tail_is_left_out(path: Path) -> None:
    recorder = RecordingDriver(Echo(), path)
    for text in "ab":
        await recorder.complete(ask(text))
    whole = await trio.Path(path).read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in (last, last + 1, len(whole) - 1):
        await trio.Path(path).write_bytes(whole[:cut])
        replay = ReplayDriver(path)
        await replay.complete(ask("a"))
        assert replay.remaining == 0


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", 0),
        ("{", 1),
        ("hello\n", 1),
        ('{"agentpool_cassette": 99}\n', 1),
        ("[]\n", 1),
        ('{"agentpool_cassette": 1}\nnonsense\n', 2),
        ('{"agentpool_cassette": 1}\n{"key": "a"}\n', 2),
        ('{"agentpool_cassette": 1}\n{"key": "a", "completion": {"text": ""}}\n', 2),
        ('{"agentpool_cassette": 1}\n{"key": "a", "error": {"kind": "Odd"}}\n', 2),
    ],
)
async def test_what_is_no_cassette_is_an_error_with_its_line(tmp_path: Path, content: str, line: int) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text(content)
    if not content:
        with pytest.raises(RequestRejectedError, match="no answer"):
            await ReplayDriver(path).complete(ask("a"))
        return
    with pytest.raises(ValueError, match=rf"odd.jsonl, line {line}: not a"):
        await ReplayDriver(path).complete(ask("a"))


async def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await ReplayDriver(tmp_path / "nowhere").complete(ask("a"))


async def test_a_cassette_is_json_lines_that_people_can_read(path: Path) -> None:
    await RecordingDriver(Echo(), path).complete(ask("hello"))
    header, entry = map(json.loads, (await trio.Path(path).read_text()).splitlines())
    assert header == {"agentpool_cassette": 1}
    assert entry["request"]["messages"] == [{"role": "user", "content": "hello"}]
    assert entry["completion"]["text"] == "hello 1"


async def test_an_answer_that_came_is_written_and_returned_despite_a_cancellation(path: Path) -> None:
    class Cancelling(Driver):
        async def complete(self, request: CompletionRequest) -> Completion:
            scope.cancel()
            return Completion("paid for")

    with trio.CancelScope() as scope:
        assert (await RecordingDriver(Cancelling(), path).complete(ask("a"))).text == "paid for"
    assert (await ReplayDriver(path).complete(ask("a"))).text == "paid for"


async def test_a_cancelled_replay_takes_no_answer(path: Path) -> None:
    await RecordingDriver(Echo(), path).complete(ask("a"))
    replay = ReplayDriver(path)
    with trio.CancelScope() as scope:
        scope.cancel()
        await replay.complete(ask("a"))
    assert scope.cancelled_caught
    await replay.complete(ask("a"))


async def test_answers_that_come_together_are_all_written(path: Path) -> None:
    recorder = RecordingDriver(Echo(), path)
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(recorder.complete, ask(str(number)))
    assert len((await trio.Path(path).read_text()).splitlines()) == 51


def test_a_replay_stays_on_this_machine(path: Path) -> None:
    assert ReplayDriver(path).privacy is PrivacyTier.SOVEREIGN
    assert repr(ReplayDriver("x.jsonl")) == "<ReplayDriver of 'x.jsonl'>"
