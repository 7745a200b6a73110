from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    CompletionRequest,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.transcript import (
    UNKNOWN_RESULT,
    Transcript,
    message_tokens,
    messages_tokens,
    repaired,
    request_tokens,
    text_tokens,
)
from agentpool._core.window import Window

A, B, C, D = (UserMessage(letter) for letter in "abcd")


def turn(name: str, size: int = 40) -> list[ChatMessage]:
    call = ToolCall(name, name)
    return [AssistantMessage("", (call,)), ToolMessage(name, name, ToolResult("x" * size))]


def window_of(messages: list[ChatMessage], query: int = 0) -> Window:
    transcript = Transcript(messages)
    return Window(transcript, messages_tokens(transcript), query)


# -- the transcript


def test_a_transcript_is_a_sequence_that_equals_a_tuple() -> None:
    transcript = Transcript([A, B]).extended([C])
    assert transcript == (A, B, C)
    assert (A, B, C) == transcript  # noqa: SIM300
    assert transcript == Transcript([A, B, C])
    assert transcript != (A, B)
    assert transcript != (A, B, D)
    assert transcript != [A, B, C]  # a list may change, as with tuples
    assert hash(transcript) == hash((A, B, C))
    assert list(transcript) == [A, B, C]
    assert transcript[0] == A
    assert transcript[-1] == C
    assert transcript[1:] == (B, C)
    assert repr(Transcript([A])) == f"Transcript([{A!r}])"


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_outside_is_an_error(index: int) -> None:
    with pytest.raises(IndexError, match="3 messages"):
        Transcript([A, B, C])[index]


def test_extending_leaves_the_shorter_one_as_it_was() -> None:
    short = Transcript([A])
    long = short.extended([B])
    assert (len(short), list(short), short[-1]) == (1, [A], A)
    with pytest.raises(IndexError):
        short[1]
    other = short.extended([C])  # a second continuation of the same transcript
    assert long == (A, B)
    assert other == (A, C)
    assert short == (A,)


def test_an_iterator_does_not_see_what_is_added_meanwhile() -> None:
    short = Transcript([A, B])
    iterator = iter(short)
    next(iterator)
    short.extended([C])
    assert list(iterator) == [B]


def test_a_transcript_cannot_be_changed_from_outside() -> None:
    given = [A]
    transcript = Transcript(given)
    given.append(B)
    assert transcript == (A,)
    with pytest.raises(TypeError):
        transcript[0] = B  # type: ignore[index]
    with pytest.raises(AttributeError):
        transcript.note = 1  # type: ignore[attr-defined]


def test_copies_and_pickles_are_equal() -> None:
    short = Transcript([A, B])
    short.extended([C])
    assert copy.copy(short) is short
    assert copy.deepcopy(short) == short
    assert pickle.loads(pickle.dumps(short)) == short


def test_extending_shares_its_list() -> None:
    first = Transcript([A])
    assert first.extended([B])._log is first._log


# -- the estimate


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("ääää", 2), ("\ud800", 1)]
)
def test_four_bytes_are_a_token(text: str, tokens: int) -> None:
    assert text_tokens(text) == tokens


def test_a_request_is_estimated_with_all_its_parts() -> None:
    call = ToolCall("1", "look", {"at": "there"})
    messages = (
        UserMessage("look there"),
        AssistantMessage("so", (call,)),
        ToolMessage("1", "look", ToolResult("seen")),
    )
    tool = ToolDefinition("look", "Looks.", {"type": "object"})
    whole = request_tokens(CompletionRequest(messages=messages, tools=(tool,), system="Be brief."))
    assert whole == (4 + 3) + (4 + 1 + 4 + 1 + 4) + (4 + 1) + (4 + 3) + (4 + 1 + 2 + 5)
    assert message_tokens(messages[0]) == 7


# -- the window


def test_the_oldest_whole_turns_are_dropped() -> None:
    window = window_of([A, *turn("1"), *turn("2"), *turn("3")])
    trimmed = window.trimmed(window.tokens - 1)
    assert trimmed.messages == (A, *turn("2"), *turn("3"))
    assert trimmed.tokens == messages_tokens(trimmed.messages)
    assert window.messages == (A, *turn("1"), *turn("2"), *turn("3"))


def test_the_query_the_last_words_and_the_newest_turn_stay_whatever_their_size() -> None:
    news = UserMessage("news " * 100)
    window = window_of([A, *turn("1"), news, *turn("2"), *turn("3"), *turn("4")])
    assert window.trimmed(0).messages == (A, news, *turn("4"))
    assert window.trimmed(0).query == 0


def test_an_older_conversation_goes_before_the_turns_of_the_query() -> None:
    window = window_of([A, AssistantMessage("old"), B, AssistantMessage("newer"), C, *turn("1")], query=4)
    once = window.trimmed(window.tokens - 1)
    assert once.messages == (B, AssistantMessage("newer"), C, *turn("1"))
    assert once.query == 2
    assert window.trimmed(0).messages == (C, *turn("1"))
    assert window.trimmed(0).query == 0


def test_what_is_said_to_the_model_in_several_messages_goes_in_one_piece() -> None:
    older = [B, UserMessage("and more of it"), AssistantMessage("old")]
    window = window_of([*older, A, *turn("1")], query=3)
    assert window.trimmed(window.tokens - 1).messages == (A, *turn("1"))


def test_what_is_left_begins_with_something_said_to_the_model() -> None:
    window = window_of([A, *turn("1"), *turn("2"), AssistantMessage("old"), B], query=6)
    assert window.trimmed(window.tokens - 1).messages == (B,)


def test_nothing_is_dropped_where_nothing_may_go() -> None:
    window = window_of([A, *turn("1")])
    assert window.trimmed(0) is window


messages = st.recursive(
    st.just([A]),
    lambda before: st.builds(
        lambda old, new: old + new,
        before,
        st.one_of(
            st.builds(lambda n, size: turn(str(n), size), st.integers(0, 9), st.integers(0, 200)),
            st.just([AssistantMessage("said")]),
            st.just([B]),
            st.just([B, C]),
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(messages, st.integers(0, 400), st.data())
def test_a_trimmed_window_is_always_legal(
    given_messages: list[ChatMessage], target: int, data: st.DataObject
) -> None:
    said = [i for i, message in enumerate(given_messages) if isinstance(message, UserMessage)]
    window = window_of(given_messages, data.draw(st.sampled_from(said)))
    trimmed = window.trimmed(target)
    assert trimmed.tokens == messages_tokens(trimmed.messages)
    assert trimmed.messages[trimmed.query] == given_messages[window.query]
    assert given_messages[said[-1]] in trimmed.messages
    assert isinstance(trimmed.messages[0], UserMessage)
    assert repaired(trimmed.messages) == list(trimmed.messages)  # no call without its result
    rest = iter(given_messages)
    assert all(any(message is kept for message in rest) for kept in trimmed.messages)  # the order is kept


# -- histories


def test_calls_of_a_history_without_results_get_one() -> None:
    one, two = ToolCall("1", "look"), ToolCall("2", "look")
    history = [A, AssistantMessage("", (one, two)), ToolMessage("2", "look", ToolResult("seen")), B]
    assert repaired(history) == [
        *history[:3],
        ToolMessage("1", "look", UNKNOWN_RESULT),
        B,
    ]
    assert repaired(history[:2])[2:] == [
        ToolMessage("1", "look", UNKNOWN_RESULT),
        ToolMessage("2", "look", UNKNOWN_RESULT),
    ]


def test_a_result_without_a_call_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such call waits"):
        repaired([A, ToolMessage("1", "look", ToolResult("seen"))])
    with pytest.raises(ValueError, match="no such call waits"):
        repaired([A, *turn("1"), *turn("1")[1:]])
