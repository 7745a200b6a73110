"""`Session`: conversations by name in one file, added to once, shared by processes, without secrets."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from pool_kit import pool_of

from agentpool import (
    AgentManifest,
    AssistantMessage,
    ChatMessage,
    Document,
    Image,
    ModelAgent,
    ProviderData,
    ScriptedDriver,
    Session,
    SessionConflictError,
    SessionError,
    Text,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.data import message_from_data, to_data

QUESTION, ANSWER = UserMessage("What is it?"), AssistantMessage("It is this.")
SECRET = "sk-proj-9fK2mQ7xLw3Zt8Vb1Rc6Yd4N"


def more(n: int) -> list[ChatMessage]:
    return [UserMessage(f"question {n}"), AssistantMessage(f"answer {n}")]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "folder" / "chats.db")


MESSAGES: list[ChatMessage] = [
    UserMessage("plain"),
    UserMessage(
        (Text("look"), Image(b"\x89PNG\xff", "image/png"), Document(url="https://x/y.pdf", name="y"))
    ),
    UserMessage("From agent 3: hello", kind="message", body="hello"),
    UserMessage("half an emoji \ud83d, and \ud83d\ude00 as two halves"),
    AssistantMessage("text", (), "thought", ProviderData("anthropic", "m", {"a": [1, None, "\x00"]})),
    AssistantMessage(
        tool_calls=[
            ToolCall("1", "f", {"x": 1.5, "y": [{"z": None}]}, ProviderData("gemini", "m", "sign")),
            ToolCall("2", "g", {}, None, "no JSON"),
        ]
    ),
    ToolMessage("1", "f", ToolResult("3")),
    ToolMessage("2", "g", ToolResult([Text("x"), Image(url="https://x/y.png")], is_error=True)),
]


@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
def test_a_message_comes_back_from_json_as_it_was(message: ChatMessage) -> None:
    data = json.loads(json.dumps(to_data(message)))
    assert message_from_data(data) == message
    assert to_data(message_from_data(data)) == data


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(ValueError, match="no role 'system'"):
        message_from_data({"role": "system", "content": "x"})


async def test_a_session_is_let_go_and_opened_again(session: Session) -> None:
    async with session:
        await session.append("a", [QUESTION, ANSWER])
    assert [file.name for file in session.path.parent.iterdir()] == ["chats.db"]
    assert await session.history("a") == (QUESTION, ANSWER)


async def test_a_conversation_goes_on_in_the_next_program(session: Session) -> None:
    driver = ScriptedDriver(["Paris.", "About two million."])
    agent = ModelAgent(AgentManifest(name="guide"))
    async with pool_of(1, driver=driver) as pool:
        first = await (await pool.spawn(agent, "The capital?", await session.history("trip"))).result()
        assert await session.append("trip", first) == 2
    async with pool_of(1, driver=driver) as pool:
        history = await Session(session.path).history("trip")
        assert history == tuple(first.transcript)
        second = await (await pool.spawn(agent, "How many live there?", history)).result()
        assert await session.append("trip", second) == 2
    assert await session.history("trip") == tuple(second.transcript)
    assert len(driver.requests[1].messages) == 3


async def test_all_kinds_of_messages_are_kept(session: Session) -> None:
    await session.append("all", MESSAGES)
    kept = await session.history("all")
    assert kept == tuple(MESSAGES)


async def test_a_result_is_appended_exactly_once(session: Session) -> None:
    turn = [QUESTION, ANSWER]
    assert await session.append("a", turn) == 2
    assert await session.append("a", turn) == 0
    assert await session.append("a", [*turn, *more(2)]) == 2
    assert await session.append("a", turn) == 0  # an older one: all of it is there
    assert await session.history("a") == (QUESTION, ANSWER, *more(2))


async def test_the_second_of_two_writers_is_told_and_nothing_is_lost(session: Session) -> None:
    await session.append("a", [QUESTION, ANSWER])
    history = await session.history("a")
    await session.append("a", [*history, *more(1)])
    with pytest.raises(
        SessionConflictError, match=r"'a' has 4 messages, and .* differs from its message 2"
    ) as got:
        await session.append("a", [*history, *more(2)])
    assert got.value.name == "a"
    assert await session.history("a") == (*history, *more(1))
    await session.append("a-2", [*history, *more(2)])
    assert await session.history("a-2") == (*history, *more(2))


async def test_a_result_whose_run_was_not_given_the_history_is_refused(session: Session) -> None:
    await session.append("a", [QUESTION, ANSWER])
    with pytest.raises(SessionConflictError, match="was not the history of this run"):
        await session.append("a", more(2))


@pytest.mark.parametrize(
    ("transcript", "error"),
    [
        ([UserMessage("x"), AssistantMessage("", (ToolCall("1", "f"),))], ValueError),
        ([ToolMessage("1", "f", ToolResult("x"))], ValueError),
        (["x"], TypeError),
        ("x", TypeError),
    ],
)
async def test_what_could_not_be_sent_again_is_not_kept(
    session: Session, transcript: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await session.append("a", transcript)
    assert await session.history("a") == ()
    assert await session.conversations() == ()


async def test_conversations_are_listed_the_latest_first(session: Session) -> None:
    for name in ("a", "b", "c"):
        await session.append(name, [QUESTION, ANSWER])
    await session.append("a", [QUESTION, ANSWER, *more(1)])
    listed = await session.conversations()
    assert [(each.name, each.messages) for each in listed] == [("a", 4), ("c", 2), ("b", 2)]
    assert listed[0].created_at < listed[0].changed_at


async def test_a_conversation_is_deleted_renamed_and_forked(session: Session) -> None:
    await session.append("a", [QUESTION, ANSWER, *more(1)])
    await session.rename("a", "b")
    await session.fork("b", "c", messages=2)
    await session.fork("b", "d")
    assert await session.history("a") == ()
    assert await session.history("c") == (QUESTION, ANSWER)
    assert await session.history("d") == await session.history("b")
    assert await session.delete("b")
    assert not await session.delete("b")
    assert {each.name for each in await session.conversations()} == {"c", "d"}
    await session.append("b", [QUESTION, ANSWER])  # a new one: nothing of the old one is left
    assert await session.history("b") == (QUESTION, ANSWER)
    with closing(sqlite3.connect(session.path)) as connection:
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (2 + 4 + 2,)


async def test_no_name_is_taken_twice_and_none_is_invented(session: Session) -> None:
    await session.append("a", [QUESTION, ANSWER])
    await session.append("b", [QUESTION, ANSWER])
    for change in (session.rename, session.fork):
        with pytest.raises(SessionError, match="there is a conversation 'b' already"):
            await change("a", "b")
        with pytest.raises(SessionError, match="no conversation 'x'"):
            await change("x", "y")


async def test_a_fork_does_not_part_a_call_from_its_result(session: Session) -> None:
    call, result = AssistantMessage("", (ToolCall("1", "f"),)), ToolMessage("1", "f", ToolResult("x"))
    await session.append("a", [QUESTION, call, result, ANSWER])
    with pytest.raises(ValueError, match="messages=2 parts a tool call"):
        await session.fork("a", "b", messages=2)
    with pytest.raises(ValueError, match="at least 0"):
        await session.fork("a", "b", messages=-1)
    await session.fork("a", "b", messages=3)
    assert await session.history("b") == (QUESTION, call, result)


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "\ud800"])
async def test_what_is_no_name_is_refused(session: Session, name: str) -> None:
    with pytest.raises(ValueError, match="must have 1 to 200 characters"):
        await session.history(name)


async def test_wrong_arguments_are_told(tmp_path: Path, session: Session) -> None:
    with pytest.raises(TypeError, match="must be a text, not 7"):
        await session.history(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a list of texts"):
        Session(tmp_path / "x", secrets="abc")
    with pytest.raises(ValueError, match="is no file"):
        Session(":memory:")
    assert repr(Session("chats.db")) == "Session('chats.db')"


@pytest.mark.parametrize(
    "name", ["café", "日本語 🙂", "a'; DROP TABLE conversations; --", "a\x1b[2J\nb", "%", "../../x"]
)
async def test_a_name_is_text_and_never_syntax(session: Session, name: str) -> None:
    await session.append(name, [QUESTION, ANSWER])
    await session.append("other", more(1))
    assert await session.history(name) == (QUESTION, ANSWER)
    assert await session.delete(name)
    assert [each.name for each in await session.conversations()] == ["other"]


# -- secrets -----------------------------------------------------------------------------------


async def test_no_secret_reaches_the_file_and_the_conversation_goes_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hunter2-and-more-0815")
    own = Session(session.path, secrets=["the word of the day"])
    spoken: list[ChatMessage] = [
        UserMessage(f"My key is {SECRET}, and the word of the day."),
        AssistantMessage("", (ToolCall("1", "login", {"password": "Xk9!vR2#pQ7z"}),)),
        ToolMessage("1", "login", ToolResult("hunter2-and-more-0815")),
        AssistantMessage("Thank you."),
    ]
    await own.append("a", spoken)
    # In memory the secrets are still there; in the history they are not: both go on.
    assert await own.append("a", [*spoken, *more(1)]) == 2
    history = await own.history("a")
    assert await own.append("a", [*history, UserMessage(f"Again: {SECRET}"), ANSWER]) == 2
    assert "[redacted-1]" in str(history[0])
    for file in session.path.parent.iterdir():
        for secret in (SECRET, "word of the day", "Xk9!vR2#pQ7z", "hunter2-and-more-0815"):
            assert secret.encode() not in file.read_bytes()


async def test_what_was_no_secret_when_it_was_written_is_no_conflict_later(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = [UserMessage("Say Xk9vR2pQ7zLmT4w."), AssistantMessage("Xk9vR2pQ7zLmT4w.")]
    await session.append("a", spoken)
    history = await session.history("a")
    monkeypatch.setenv("SOME_API_KEY", "Xk9vR2pQ7zLmT4w")
    assert await session.append("a", [*history, *more(1)]) == 2


async def test_a_later_message_does_not_change_what_stands_in_an_earlier_one(session: Session) -> None:
    spoken = [UserMessage("I have tR4x9Lm2Qz here."), AssistantMessage("Well.")]
    await session.append("a", spoken)
    assert await session.append("a", [*spoken, UserMessage("password=tR4x9Lm2Qz"), ANSWER]) == 2


async def test_signed_data_that_held_a_secret_is_left_out_as_a_whole(session: Session) -> None:
    signed = ProviderData("anthropic", "m", [{"thinking": f"The key is {SECRET}.", "signature": "abc"}])
    plain = ProviderData("anthropic", "m", [{"thinking": "Hm.", "signature": "abc"}])
    spoken = [
        QUESTION,
        AssistantMessage(
            f"{SECRET}", (ToolCall("1", "f", {}, signed), ToolCall("2", "f", {}, plain)), "", signed
        ),
        ToolMessage("1", "f", ToolResult("x")),
        ToolMessage("2", "f", ToolResult("x")),
        AssistantMessage(SECRET, (), "", plain),
    ]
    await session.append("a", spoken)
    _, first, _, _, last = await session.history("a")
    assert isinstance(first, AssistantMessage)
    assert isinstance(last, AssistantMessage)
    assert first.provider_data is None
    assert [call.provider_data for call in first.tool_calls] == [None, plain]
    assert last == AssistantMessage("[redacted-1]", (), "", plain)
    assert await session.append("a", [*spoken, *more(1)]) == 2


# -- the file ----------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="no modes there")
async def test_the_file_is_for_its_owner_alone(session: Session) -> None:
    os.umask(before := os.umask(0))
    os.umask(0)
    try:
        await session.append("a", [QUESTION, ANSWER])
    finally:
        os.umask(before)
    assert stat.S_IMODE(session.path.stat().st_mode) == 0o600


async def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("x" * 5000)
    with pytest.raises(SessionError, match="file is not a database; it is damaged or no SQLite file"):
        await Session(text).append("a", [QUESTION, ANSWER])
    assert text.read_text() == "x" * 5000
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE conversations (x)")
    with pytest.raises(SessionError, match="it is an SQLite file, but no file of conversations"):
        await Session(other).conversations()
    with pytest.raises(SessionError, match=r"Is a directory|unable to open|denied"):
        await Session(tmp_path).conversations()


async def test_a_file_of_a_newer_version_is_refused(session: Session) -> None:
    await session.append("a", [QUESTION, ANSWER])
    with closing(sqlite3.connect(session.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    await session.aclose()
    with pytest.raises(SessionError, match=r"is of version 99, .* use the agentpool that made it"):
        await session.history("a")


@pytest.mark.parametrize("data", ["{", '{"role": "user"}', '{"role": "user", "content": "x", "new": 1}', "7"])
async def test_a_message_that_cannot_be_read_is_told(session: Session, data: str) -> None:
    await session.append("a", [QUESTION, ANSWER])
    with closing(sqlite3.connect(session.path)) as connection:
        connection.execute("UPDATE messages SET data = ? WHERE position = 1", (data,))
        connection.commit()
    with pytest.raises(SessionError, match="a message of the conversation 'a' cannot be read"):
        await session.history("a")
    with pytest.raises(SessionError):
        await session.append("a", [QUESTION, ANSWER, *more(1)])


async def test_a_file_that_cannot_be_written_is_told_and_can_be_read(session: Session) -> None:
    await session.append("a", [QUESTION, ANSWER])
    with closing(sqlite3.connect(session.path, isolation_level=None)) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    full = Session(session.path)
    await session.aclose()
    with pytest.MonkeyPatch.context() as patch:
        connect = sqlite3.connect

        def with_little_room(*args: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*args, **options)
            connection.execute(f"PRAGMA max_page_count = {pages}")
            return connection

        patch.setattr(sqlite3, "connect", with_little_room)
        with pytest.raises(SessionError, match="database or disk is full; make room on the disk"):
            await full.append("a", [QUESTION, ANSWER, UserMessage("x" * 100_000)])
    assert await session.history("a") == (QUESTION, ANSWER)


async def test_a_file_that_another_program_holds_is_waited_for(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.append("a", [QUESTION, ANSWER])
    monkeypatch.setattr("agentpool._sqlite.BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(session.path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert await session.history("a") == (QUESTION, ANSWER)  # who reads waits for nobody
        with pytest.raises(SessionError, match=r"database is locked; another program held it for 0\.05 s"):
            await session.append("a", [QUESTION, ANSWER, *more(1)])
    assert await session.append("a", [QUESTION, ANSWER, *more(1)]) == 2


async def test_a_new_file_that_another_program_holds_is_waited_for(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.path.parent.mkdir()
    monkeypatch.setattr("agentpool._sqlite.BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(session.path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SessionError, match="database is locked"):
            await session.append("a", [QUESTION, ANSWER])
    assert await session.append("a", [QUESTION, ANSWER]) == 2


async def test_a_write_that_is_cancelled_is_whole_or_not_there(session: Session) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await session.append("a", [QUESTION, ANSWER])
    assert len(await session.history("a")) in (0, 2)
    assert await session.append("a", [QUESTION, ANSWER, *more(1)]) in (2, 4)


WRITER = """
import sys, trio
from agentpool import AssistantMessage, Session, UserMessage

async def main():
    session = Session(sys.argv[1])
    said = []
    for n in range(12):
        said += [UserMessage(f"question {n}"), AssistantMessage(f"answer {n}")]
        await session.append(sys.argv[2], said)

print("ready", flush=True)
sys.stdin.readline()
trio.run(main)
"""


def test_processes_share_a_file_also_while_it_comes_to_be(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"writer {n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0, 0, 0]

    async def main() -> None:
        listed = await Session(path).conversations()
        assert sorted((each.name, each.messages) for each in listed) == [
            (f"writer {n}", 24) for n in range(4)
        ]

    trio.run(main)
