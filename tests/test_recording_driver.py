"""A cassette: what was recorded is played back, and no secret is in it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from agentpool import AgentManifest, AgentResult, ModelSettings, SpawnConfig, open_agent_pool
from agentpool._core.capability import PrivacyTier
from agentpool._core.content import text_of
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
    ChatMessage,
    Completion,
    CompletionRequest,
    ProviderData,
    ReasoningDelta,
    StreamPart,
    TextDelta,
    UserMessage,
)
from agentpool._core.usage import TokenUsage
from agentpool.abc import Driver
from agentpool.drivers.recording import RecordingDriver, ReplayDriver
from agentpool.drivers.retrying import RetryingDriver
from agentpool.drivers.scripted import ScriptedDriver

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
    assert isinstance(last, UserMessage)
    return text_of(last.content)


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
    completion = Completion("abc 1", usage=TokenUsage(3, 2, cost_usd=0.25))
    assert replayed == [TextDelta("ab"), TextDelta("c 1"), completion]


class Pieces(Driver):
    """Streams an answer in pieces that are told."""

    context_window: int | None = 3000

    def __init__(self, *pieces: StreamPart, answer: Completion) -> None:
        self.pieces = [*pieces, answer]

    async def complete(self, request: CompletionRequest) -> Completion:
        raise NotImplementedError

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        async def parts() -> AsyncGenerator[StreamPart, None]:
            for piece in self.pieces:
                await trio.lowlevel.checkpoint()
                yield piece

        async with aclosing(parts()) as iterator:
            yield iterator


async def test_a_stream_replays_in_the_pieces_in_which_it_came(path: Path) -> None:
    pieces = (
        ReasoningDelta("h"),
        TextDelta("a"),
        ReasoningDelta("m"),
        TextDelta("\U0001f600"),
        TextDelta("c"),
    )
    answer = Completion("a\U0001f600c", reasoning="hm", provider_data=ProviderData("p", "m", [{"sig": "x"}]))
    await streamed(RecordingDriver(Pieces(*pieces, answer=answer), path), ask("a"))
    assert await streamed(ReplayDriver(path), ask("a")) == [*pieces, answer]
    assert await ReplayDriver(path).complete(ask("a")) == answer


async def test_pieces_that_are_not_those_of_the_answer_do_not_count(path: Path) -> None:
    """A driver may tidy its answer at the end; a secret of the replay may be longer."""
    pieces, answer = (TextDelta("a "), TextDelta("b ")), Completion("a b")
    await streamed(RecordingDriver(Pieces(*pieces, answer=answer), path), ask("a"))
    assert await streamed(ReplayDriver(path), ask("a")) == [TextDelta("a b"), answer]


async def test_an_agent_measures_its_requests_by_the_window_of_the_driver_that_was_recorded(
    path: Path,
) -> None:
    class Small(Echo):
        context_window = 3000

    async def run(driver: Driver) -> AgentResult[str]:
        manifest = AgentManifest(name="a", model=ModelSettings(max_tokens=4000))
        async with open_agent_pool(driver, max_concurrent=1) as pool:
            return await (await pool.spawn(SpawnConfig(manifest, "q"))).result()

    recorded = await run(RecordingDriver(Small(), path))
    assert json.loads((await trio.Path(path).read_text()).splitlines()[1])["request"]["max_tokens"] == 1500
    assert await run(ReplayDriver(path)) == recorded
    assert ReplayDriver(path).context_window == 3000
    assert ReplayDriver(path.with_name("none")).context_window is None


async def test_a_driver_that_knows_no_window_is_recorded_too(path: Path) -> None:
    class Bare:
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.lowlevel.checkpoint()
            return Completion("a")

    await RecordingDriver(Bare(), path).complete(ask("a"))  # type: ignore[arg-type]
    replay = ReplayDriver(path)
    assert (await replay.complete(ask("a"))).text == "a"
    assert replay.context_window is None
    (await trio.Path(path).write_text('{"agentpool_cassette": 1}\n'))
    assert ReplayDriver(path).context_window is None


async def test_reasoning_streams_before_the_text_in_a_replay(path: Path) -> None:
    answer = Completion("done", reasoning="let me see", usage=TokenUsage(3, 2, 1))
    await RecordingDriver(ScriptedDriver([answer]), path).complete(ask("a"))
    assert await streamed(ReplayDriver(path), ask("a")) == [
        ReasoningDelta("let me see"),
        TextDelta("done"),
        answer,
    ]


async def test_a_stream_that_is_left_early_is_not_recorded(path: Path) -> None:
    async with RecordingDriver(Echo(), path).stream(ask("a")) as parts:
        await anext(parts)
    assert not await trio.Path(path).exists()


@pytest.mark.parametrize(
    "error",
    [
        RateLimitedError("slow", retry_after=2.5),
        DriverUnavailableError("cut", may_have_cost=True),
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
        assert vars(caught.value) == vars(error)
        assert caught.value.may_have_cost is error.may_have_cost


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
    with pytest.raises(
        RequestRejectedError, match=r"holds no answer to this request; .*other.*record it again"
    ):
        await replay.complete(ask("other"))
    await replay.complete(ask("a"))
    with pytest.raises(
        RequestRejectedError, match="holds only 1 answer to this request, and it has been given"
    ):
        await replay.complete(ask("a"))


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


# -- secrets ----------------------------------------------------------------------


async def test_no_secret_gets_into_a_cassette_and_it_plays_where_there_are_others(
    path: Path, canary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RequestRejectedError(f"the key {canary} is wrong")
    recorder = RecordingDriver(Echo(error), path, secrets=["hunter22"])
    request = ask(f"my key is {canary}, hunter22, sk-abcdefghij1234")
    with pytest.raises(RequestRejectedError):
        await recorder.complete(request)
    assert (await recorder.complete(request)).text == f"{words(request)} 1"
    content = await trio.Path(path).read_text()
    for secret in (canary, "hunter22", "sk-abcdefghij1234"):
        assert secret not in content
    monkeypatch.setenv("SOME_PROVIDER_API_KEY", "another-key-of-another-machine")
    replay = ReplayDriver(path, secrets=["hunter22"])
    elsewhere = ask("my key is another-key-of-another-machine, hunter22, sk-zzzzzzzz9zzzzz")
    with pytest.raises(RequestRejectedError, match=re.escape("the key [redacted-1] is wrong")):
        await replay.complete(elsewhere)
    assert (await replay.complete(elsewhere)).text == f"{words(elsewhere)} 1"
    with pytest.raises(RequestRejectedError) as caught:
        await replay.complete(ask("another-key-of-another-machine"))
    assert "another-key" not in str(caught.value)


async def test_ordinary_words_stay_what_they_are(path: Path) -> None:
    texts = ["Explain pk_customer_id", "Explain pk_invoice_number", "I have a basic understanding of trio."]
    recorder = RecordingDriver(Echo(), path)
    for text in texts:
        await recorder.complete(ask(text))
    replay = ReplayDriver(path)
    for number, text in reversed(list(enumerate(texts, 1))):
        assert (await replay.complete(ask(text))).text == f"{text} {number}"


ONE, TWO = "sk-aaaa1111bbbb2222", "sk-cccc3333dddd4444"


async def test_requests_that_differ_in_a_secret_only_have_answers_of_their_own(path: Path) -> None:
    recorder = RecordingDriver(Echo(), path)
    for secret in (ONE, TWO, ONE):
        await recorder.complete(ask(f"whose is {secret}?"))
    replay = ReplayDriver(path)
    answers = [(await replay.complete(ask(f"whose is {secret}?"))).text for secret in (TWO, ONE, ONE)]
    assert answers == [f"whose is {TWO}? 2", f"whose is {ONE}? 1", f"whose is {ONE}? 3"]
    with pytest.raises(RequestRejectedError, match="holds only 3 answers to this request"):
        await replay.complete(ask(f"whose is {TWO}?"))


async def test_an_answer_to_a_request_with_another_secret_is_not_given(path: Path) -> None:
    recorder = RecordingDriver(Echo(), path)
    for secret in (ONE, ONE):
        await recorder.complete(ask(f"whose is {secret}?"))
    replay = ReplayDriver(path)
    await replay.complete(ask(f"whose is {ONE}?"))
    with pytest.raises(RequestRejectedError, match="with another secret only"):
        await replay.complete(ask(f"whose is {TWO}?"))


async def test_elsewhere_secrets_are_told_apart_from_their_first_use_on(path: Path) -> None:
    """What another program recorded, with ids that mean nothing here."""
    recorder = RecordingDriver(Echo(), path)
    for secret in (ONE, TWO, TWO, ONE):
        await recorder.complete(ask(f"whose is {secret}?"))
    lines = [json.loads(line) for line in (await trio.Path(path).read_text()).splitlines()]
    # The first two were recorded by one program, the others by another.
    for line, foreign in zip(lines[1:], ["p:1", "p:2", "q:1", "q:2"], strict=True):
        line["secrets"] = [foreign]
    await trio.Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    replay = ReplayDriver(path)
    mine, yours = "sk-eeee5555ffff6666", "sk-gggg7777hhhh8888"
    numbers = [
        (await replay.complete(ask(f"whose is {secret}?"))).text[-1] for secret in (mine, mine, yours, yours)
    ]
    assert numbers == ["1", "3", "2", "4"]


async def test_requests_that_speak_of_placeholders_differ_by_them(path: Path) -> None:
    recorder = RecordingDriver(Echo(), path)
    for text in ("what is [redacted]?", "what is [redacted-2]?"):
        await recorder.complete(ask(text))
    replay = ReplayDriver(path)
    assert (await replay.complete(ask("what is [redacted-2]?"))).text == "what is [redacted-2]? 2"
    assert (await replay.complete(ask("what is [redacted]?"))).text == "what is [redacted]? 1"


async def test_a_secret_of_the_environment_is_found_by_the_name_of_its_variable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRST_TOKEN", "first0first1")
    monkeypatch.setenv("OTHER_TOKEN", "other0other1")
    recorder = RecordingDriver(Echo(), path)
    await recorder.complete(ask("of first0first1"))
    await recorder.complete(ask("of other0other1"))
    monkeypatch.setenv("FIRST_TOKEN", "once9again8")
    monkeypatch.setenv("OTHER_TOKEN", "and7another6")
    replay = ReplayDriver(path)
    assert (await replay.complete(ask("of and7another6"))).text == "of and7another6 2"
    assert (await replay.complete(ask("of once9again8"))).text == "of once9again8 1"


async def test_a_conversation_with_secrets_plays_where_there_are_others(path: Path) -> None:
    """The model makes a secret up, which then stands in the requests, before one that the user tells."""

    async def converse(driver: Driver, told: str) -> list[str]:
        messages: list[ChatMessage] = [UserMessage("make me a key")]
        texts = []
        for text in ("mine is " + told, "which are equal?"):
            answer = await driver.complete(CompletionRequest(messages=messages))
            texts.append(answer.text)
            messages += [answer.message, UserMessage(text)]
        return [*texts, (await driver.complete(CompletionRequest(messages=messages))).text]

    answers = [f"take {ONE}", f"{TWO} is not {ONE}", f"{ONE}, {TWO}"]
    assert await converse(RecordingDriver(ScriptedDriver(answers), path), TWO) == answers
    other = "sk-eeee5555ffff6666"
    assert await converse(ReplayDriver(path), other) == [
        "take [redacted-1]",
        f"{other} is not [redacted-1]",
        f"[redacted-1], {other}",
    ]


def test_a_replay_stays_on_this_machine(path: Path) -> None:
    assert ReplayDriver(path).privacy is PrivacyTier.SOVEREIGN
    assert repr(ReplayDriver("x.jsonl")) == "<ReplayDriver of 'x.jsonl'>"


@pytest.mark.parametrize("content", ["name = 'a'\n", '{"agentpool": 1}\n', "\ufefftext"])
async def test_a_file_that_is_no_cassette_is_not_replaced(tmp_path: Path, content: str) -> None:
    """A path in the wrong place must not cost anybody a file, nor an answer of the model."""
    path = tmp_path / "fleet.toml"
    path.write_text(content, "utf-8")
    model = ScriptedDriver(["Paris."])
    recorder = RecordingDriver(model, path)
    with pytest.raises(ValueError, match=r"fleet\.toml is no cassette, so it is not replaced"):
        await recorder.complete(CompletionRequest())
    assert path.read_text("utf-8") == content
    assert model.requests == []


@pytest.mark.parametrize(
    "content", ["", '{"agentpool_c', '{"agentpool_cassette": 1}\n', '\ufeff{"agentpool_cassette": 1}\n']
)
async def test_a_cassette_is_replaced_also_if_its_beginning_was_cut_off(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(content, "utf-8")
    await RecordingDriver(ScriptedDriver(["Paris."]), path).complete(CompletionRequest())
    assert (await ReplayDriver(path).complete(CompletionRequest())).text == "Paris."
