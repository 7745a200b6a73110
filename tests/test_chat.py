"""`agentpool chat`: on real pseudo-terminals with a model behind a socket, and by a pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

pytest.importorskip("cyclopts")
pytest.importorskip("fcntl")
pytest.importorskip("httpx2")

from terminal_kit import Terminal, on_a_terminal

from agentpool import AssistantMessage, ChatMessage, Session, ToolCall, ToolMessage, ToolResult, UserMessage
from agentpool.cli._chat_view import Stream
from agentpool.cli._kept import INTERRUPTED, Kept, default_file, interrupted, queries_of

pytestmark = pytest.mark.processes

COMMAND = [sys.executable, "-m", "agentpool", "chat"]
EVIL = "\x1b[31mred\x1b[0m \x9b2J \u202egnp"
TOOLS = '''
from pathlib import Path

import trio

HERE = Path(__file__).parent


def double(n: int) -> int:
    """Double a number.

    Args:
      n: a number.
    """
    return 2 * n


async def wait() -> str:
    """Wait for ever."""
    (HERE / "waits").touch()
    await trio.sleep_forever()


async def stubborn() -> str:
    """Wait, and listen to nobody."""
    (HERE / "waits").touch()
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
'''


@attrs.define(eq=False)
class Model:
    """A model behind a socket, which says what it is told by the last thing that a person said.

    Attributes:
      requests: the messages of each request.
      asked: whether there was a request.
      go: lets answers that hang come to their end.
    """

    url: str
    requests: list[list[dict[str, Any]]] = attrs.field(factory=list)
    go: threading.Event = attrs.field(factory=threading.Event)
    asked: threading.Event = attrs.field(factory=threading.Event)

    def pieces(self, messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        last = messages[-1]
        said = last["content"] if last["role"] == "user" else "result"
        if said.startswith("call "):
            name, _, given = said.removeprefix("call ").partition(" ")
            yield {"content": "Let me see. "}
            call = {"index": 0, "id": f"c{len(self.requests)}", "type": "function"}
            yield {"tool_calls": [{**call, "function": {"name": name, "arguments": given or "{}"}}]}
        elif said.startswith("hang"):
            yield {"content": "Once upon "}
            yield {"content": "a time"}
            self.go.wait(30)
            yield {"content": " there was an end."}
        elif said.startswith("evil"):
            yield {"content": EVIL + "\r"}
            yield {"content": "\nnext"}
        elif said.startswith("wide"):
            yield from ({"content": letter} for letter in "日本語" * 30)
        else:
            yield {"content": f"You said: {said.splitlines()[0]} "}
            yield {"content": f"({len(said.splitlines())} lines)."}


@pytest.fixture
def model() -> Iterator[Model]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            messages = asked["messages"]
            model.requests.append(messages)
            model.asked.set()
            if str(messages[-1]["content"]).startswith("fail"):
                body = b'{"error": {"message": "no \\u001b[2J such thing"}}'
                self.send_response(400)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            try:
                calls = False
                for delta in model.pieces(messages):
                    calls = calls or "tool_calls" in delta
                    self._say({"choices": [{"index": 0, "delta": delta}]})
                reason = "tool_calls" if calls else "stop"
                self._say({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
                self.wfile.write(b"data: [DONE]\n\n")
            except OSError:  # it was interrupted
                pass

        def _say(self, chunk: dict[str, Any]) -> None:
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            self.wfile.flush()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    model = Model(f"openai+http://127.0.0.1:{server.server_port}/v1:m")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield model
    finally:
        model.go.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def command(tmp_path: Path, model: Model) -> list[str]:
    (tmp_path / "own.py").write_text(TOOLS)
    path = tmp_path / "agent.toml"
    path.write_text(
        'name = "guide"\ntools = ["own:double", "own:wait", "own:stubborn"]\n'
        f'[model]\ndriver = "{model.url}"\n'
    )
    return [*COMMAND, str(path)]


def chatting(command: list[str], **options: Any) -> AbstractContextManager[Terminal]:
    return on_a_terminal(command, **options)


def ask(terminal: Terminal, text: str, answer: str) -> None:
    """Type a query, and wait for the answer and the prompt behind it."""
    wait_for_prompt(terminal)
    terminal.type(text + "\n")
    terminal.read_until(lambda shown: answer in shown and shown.rstrip().endswith(">>>"))


def wait_for_prompt(terminal: Terminal) -> None:
    terminal.read_until(lambda shown: shown.rstrip().endswith(">>>"))


def history_of(path: Path, name: str) -> list[ChatMessage]:
    async def main() -> list[ChatMessage]:
        return list(await Session(path).history(name))

    return trio.run(main)


def names_in(path: Path) -> dict[str, int]:
    async def main() -> dict[str, int]:
        return {each.name: each.messages for each in await Session(path).conversations()}

    return trio.run(main)


# -- a person at a terminal --------------------------------------------------------------------


def test_a_person_talks_and_the_model_knows_what_was_said(command: list[str], model: Model) -> None:
    with chatting(command) as terminal:
        ask(terminal, "hello", "You said: hello (1 lines).")
        ask(terminal, "again", "You said: again (1 lines).")
        terminal.type("\x04")
        assert terminal.read_to_the_end() == 0
    assert [len([m for m in request if m["role"] != "system"]) for request in model.requests] == [1, 3]


def test_an_answer_is_shown_as_it_comes(command: list[str], model: Model) -> None:
    with chatting(command) as terminal:
        wait_for_prompt(terminal)
        terminal.type("hang\n")
        terminal.read_until(lambda shown: "Once upon a time" in shown)
        assert "there was an end" not in terminal.screen.text
        model.go.set()
        terminal.read_until(lambda shown: "Once upon a time there was an end.\n" in shown)


@pytest.mark.parametrize(
    "text", ['"""one\ntwo\nthree"""', '"""\none\ntwo\nthree\n"""', "\x1b[200~one\ntwo\nthree\x1b[201~"]
)
def test_several_lines_are_one_query(command: list[str], model: Model, text: str) -> None:
    if text[0] == "\x1b" and "GNU" not in (pytest.importorskip("readline").__doc__ or ""):
        pytest.skip("pasted lines stay together where GNU readline is")
    with chatting(command) as terminal:
        ask(terminal, text, "You said: one (3 lines).")
    assert model.requests[-1][-1]["content"] == "one\ntwo\nthree"
    assert len(model.requests) == 1


def test_a_tool_is_shown_in_a_line(command: list[str]) -> None:
    with chatting(command) as terminal:
        ask(terminal, 'call double {"n": 21}', "You said: result")
        assert "Let me see. \n· double(n=21)\nYou said: result" in terminal.screen.text.replace(
            "see.\n", "see. \n"
        )
        ask(terminal, 'call double {"n": "x"}', "double failed:")


def test_what_a_terminal_would_obey_is_shown(command: list[str]) -> None:
    with chatting(command, columns=120) as terminal:
        ask(terminal, "evil", "next")
        assert "\\x1b[31mred\\x1b[0m \\x9b2J \\u202egnp\nnext" in terminal.screen.text
        ask(terminal, "fail", "no answer")
        assert "no \\x1b[2J such thing" in terminal.screen.text
    for sequence in ("\x1b[31m", "\x1b[2J", "\x9b", "\u202e"):
        assert sequence.encode() not in terminal.raw


def test_wide_letters_and_a_new_size_break_nothing(command: list[str], model: Model) -> None:
    with chatting(command, rows=10, columns=20) as terminal:
        ask(terminal, "wide", "語")
        terminal.resize(5, 10)
        terminal.type("\n")
        wait_for_prompt(terminal)
        terminal.type("日本語\n")
        terminal.read_until(lambda shown: model.requests[-1][-1]["content"] == "日本語")
    assert "日本語" * 30 in terminal.raw.decode().replace("\r\n", "")
    assert model.requests[-1][-1]["content"] == "日本語"


def test_an_error_of_the_model_is_told_and_the_chat_goes_on(command: list[str], model: Model) -> None:
    with chatting(command, columns=200) as terminal:
        ask(terminal, "hello", "You said: hello")
        ask(terminal, "fail", "no answer: RequestRejectedError")
        assert "The conversation is as it was before" in terminal.screen.text
        ask(terminal, "again", "You said: again")
        terminal.type("/exit\n")
        assert terminal.read_to_the_end() == 0
    said = [message["content"] for message in model.requests[-1] if message["role"] == "user"]
    assert said == ["hello", "again"]


def test_ctrl_c_stops_the_answer_and_the_model_knows_of_it(
    command: list[str], model: Model, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.db"
    with chatting([*command, "--session", "s", "--sessions", str(kept)]) as terminal:
        wait_for_prompt(terminal)
        terminal.type("hang on\n")
        terminal.read_until(lambda shown: "Once upon a time" in shown)
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(lambda shown: "interrupted; what was said so far stays" in shown)
        ask(terminal, "shorter", "You said:")
    user, partial, note = history_of(kept, "s")[:3]
    assert user == UserMessage("hang on")
    assert partial == AssistantMessage("Once upon a time")
    assert note == UserMessage(INTERRUPTED, kind="note")
    roles = [message["role"] for message in model.requests[-1]]
    assert roles[-3:] in (["user", "assistant", "user"], ["assistant", "user", "user"])
    assert "shorter" in model.requests[-1][-1]["content"]


def test_ctrl_c_while_a_tool_runs_leaves_a_conversation_that_can_be_sent(
    command: list[str], model: Model, tmp_path: Path
) -> None:
    with chatting(command) as terminal:
        wait_for_prompt(terminal)
        terminal.type("call wait\n")
        terminal.read_until(lambda shown: "wait()" in shown)
        terminal.process.send_signal(signal.SIGINT)
        ask(terminal, "and now?", "You said:")
    sent = [message for message in model.requests[-1] if message["role"] != "system"]
    assert [message["role"] for message in sent][:3] == ["user", "assistant", "tool"]
    assert sent[2]["tool_call_id"] == sent[1]["tool_calls"][0]["id"]
    assert "unknown" in sent[2]["content"]


def test_a_tool_that_listens_to_nobody_is_left_at_the_third_ctrl_c(
    command: list[str], tmp_path: Path
) -> None:
    with chatting(command) as terminal:
        wait_for_prompt(terminal)
        terminal.type("call stubborn\n")
        terminal.read_until(lambda shown: "stubborn()" in shown)
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(lambda shown: "does not end although it was aborted" in shown)
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(lambda shown: "still stopping" in shown)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.read_to_the_end() == 130


def test_ctrl_c_at_the_prompt_drops_the_line_and_twice_ends(command: list[str], model: Model) -> None:
    pytest.importorskip("readline")
    with chatting(command) as terminal:
        wait_for_prompt(terminal)
        terminal.type("never sent")
        terminal.read_until(lambda shown: "never sent" in shown)
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(lambda shown: shown.count(">>>") == 2)
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(
            lambda shown: "Ctrl-C again, or Ctrl-D, ends the chat" in shown and shown.count(">>>") == 3
        )
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.read_to_the_end() == 130
    assert model.requests == []


def test_commands(command: list[str], model: Model, tmp_path: Path) -> None:
    kept = tmp_path / "kept.db"
    with chatting([*command, "--session", "s", "--sessions", str(kept)], columns=120) as terminal:
        ask(terminal, "/help", "/reset      begin")
        ask(terminal, "/hlep", "there is no command /hlep; /help lists them")
        ask(terminal, "/sessions", "there is no conversation yet")
        ask(terminal, "/reset", "a new conversation begins")
        ask(terminal, "hello", "You said: hello")
        ask(terminal, "/sessions", "s: 2 messages, this one")
        ask(terminal, "/reset", "what was said before is kept as 's-2'")
        ask(terminal, "new", "You said: new")
        ask(terminal, " /help", "You said:  /help")
        ask(terminal, "/etc/passwd is a file", "You said: /etc/passwd is a file")
        terminal.type("/quit\n")
        assert terminal.read_to_the_end() == 0
    assert names_in(kept) == {"s": 6, "s-2": 2}
    assert len(model.requests) == 4


def test_without_a_name_nothing_is_kept(command: list[str], tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}
    with chatting(command, environment=state) as terminal:
        ask(terminal, "hello", "You said: hello")
        ask(terminal, "/sessions", "nothing is kept: begin with --session NAME")
        ask(terminal, "/reset", "a new conversation begins")
        ask(terminal, "again", "You said: again")
    assert not (tmp_path / "state").exists()
    with chatting([*command, "--session", "a"], environment=state) as terminal:
        ask(terminal, "hello", "You said: hello")
    assert names_in(tmp_path / "state" / "agentpool" / "sessions.db") == {"a": 2}


def test_another_program_that_goes_on_with_the_conversation_loses_nothing(
    command: list[str], tmp_path: Path
) -> None:
    kept = tmp_path / "kept.db"
    command = [*command, "--session", "s", "--sessions", str(kept)]
    with chatting(command) as one, chatting(command, columns=120) as other:
        wait_for_prompt(other)
        ask(one, "first", "You said: first")
        ask(other, "second", "another program went on with 's': this chat is kept as 's-2'")
        ask(other, "third", "You said: third")
    assert names_in(kept) == {"s": 2, "s-2": 4}


def test_a_conversation_that_cannot_be_kept_goes_on(command: list[str], tmp_path: Path) -> None:
    kept = tmp_path / "kept.db"
    with chatting([*command, "--session", "s", "--sessions", str(kept)], columns=200) as terminal:
        wait_for_prompt(terminal)
        for file in tmp_path.glob("kept.db*"):
            file.unlink()
        kept.mkdir()
        ask(terminal, "hello", "not kept: ")
        kept.rmdir()
        ask(terminal, "again", "You said: again")
        terminal.type("\x04")
        assert terminal.read_to_the_end() == 0
    assert names_in(kept) == {"s": 4}


def test_a_session_that_is_only_looked_at_stays(command: list[str], tmp_path: Path) -> None:
    kept = tmp_path / "kept.db"
    command = [*command, "--session", "s", "--sessions", str(kept)]
    assert piped(command, b"one").returncode == 0
    with chatting(command) as terminal:
        wait_for_prompt(terminal)
        assert "the conversation 's' has 2 messages" in terminal.screen.text
        terminal.type("\x04")
        assert terminal.read_to_the_end() == 0
    assert names_in(kept) == {"s": 2}


def test_the_arrow_fetches_what_was_asked_in_the_last_session(
    command: list[str], model: Model, tmp_path: Path
) -> None:
    pytest.importorskip("readline")
    command = [*command, "--session", "s", "--sessions", str(tmp_path / "kept.db")]
    with chatting(command) as terminal:
        ask(terminal, "hello", "You said: hello")
    with chatting(command) as terminal:
        wait_for_prompt(terminal)
        terminal.type("\x1b[A\n")
        terminal.read_until(lambda shown: "You said: hello" in shown)
    assert len(model.requests[-1]) >= 3


# -- the terminal goes away ----------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_a_signal_at_the_prompt_ends_the_chat(command: list[str], number: int, code: int) -> None:
    with chatting(command) as terminal:
        ask(terminal, "hello", "You said: hello")
        terminal.process.send_signal(number)
        assert terminal.read_to_the_end() == code


def test_a_terminal_that_is_closed_loses_no_answer(command: list[str], model: Model, tmp_path: Path) -> None:
    kept = tmp_path / "kept.db"
    with chatting([*command, "--session", "s", "--sessions", str(kept)]) as terminal:
        wait_for_prompt(terminal)
        terminal.type("hang\n")
        terminal.read_until(lambda shown: "a time" in shown)
        terminal.close()
        terminal.process.send_signal(signal.SIGHUP)
        model.go.set()
        assert terminal.process.wait(timeout=60) == 129
    assert history_of(kept, "s")[1] == AssistantMessage("Once upon a time there was an end.")


def test_a_second_sigterm_aborts_the_answer(command: list[str]) -> None:
    with chatting(command) as terminal:
        wait_for_prompt(terminal)
        terminal.type("hang\n")
        terminal.read_until(lambda shown: "a time" in shown)
        terminal.process.send_signal(signal.SIGTERM)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.read_to_the_end() == 143


def test_answers_for_a_reader_that_has_gone_end_the_chat(command: list[str], model: Model) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with chatting(command, stdout=writing) as terminal:
            wait_for_prompt(terminal)
            terminal.type("hello\n")
            assert terminal.read_to_the_end() == 1
    finally:
        os.close(writing)
    assert "Traceback" not in terminal.screen.text


# -- by a pipe -----------------------------------------------------------------------------------


def piped(command: list[str], text: bytes | None, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=text, capture_output=True, timeout=60, check=False, **options)


def test_what_is_piped_in_is_one_query(command: list[str], model: Model) -> None:
    done = piped(command, b"one\n/help\n\ntwo\n")
    assert done.stdout == b"You said: one (4 lines).\n"
    assert (done.returncode, done.stderr) == (0, b"")
    assert model.requests[0][-1]["content"] == "one\n/help\n\ntwo"


def test_pipes_go_on_with_a_conversation(command: list[str], model: Model, tmp_path: Path) -> None:
    command = [*command, "--session", "s", "--sessions", str(tmp_path / "kept.db")]
    for query in (b"one", b"two"):
        assert piped(command, query).returncode == 0
    assert [m["content"] for m in model.requests[1] if m["role"] == "user"] == ["one", "two"]


def test_a_pipe_gets_the_answer_without_what_came_before_the_tools(command: list[str]) -> None:
    done = piped(command, b'call double {"n": 21}')
    assert done.stdout == b"You said: result (1 lines).\n"
    assert b"double(n=21)" in done.stderr
    assert piped([*command, "--quiet"], b'call double {"n": 21}').stderr == b""


def test_a_query_without_an_answer_makes_the_exit_code_1(command: list[str]) -> None:
    done = piped(command, b"fail")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"no answer: RequestRejectedError" in done.stderr


@pytest.mark.parametrize("text", [b"", b" \n\n"])
def test_a_pipe_without_a_query_is_bad_input(command: list[str], text: bytes) -> None:
    done = piped(command, text)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"standard input is empty" in done.stderr


def test_bytes_that_are_no_text_are_replaced(command: list[str], model: Model) -> None:
    assert piped(command, b"caf\xe9").returncode == 0
    assert model.requests[0][-1]["content"] == "caf\ufffd"


def test_a_signal_ends_the_answer_of_a_pipe(command: list[str], model: Model) -> None:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"hang")
    process.stdin.close()
    assert model.asked.wait(30)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--sessions", "x.db"], "Name one with --session NAME"),
        (["--session", ""], "must have 1 to 200 characters"),
        (["--session", "a", "--sessions", ""], "--sessions is empty. Give the path of a file"),
        (
            ["--session", "a", "--sessions", "agent.toml"],
            "file is not a database; it is damaged or no SQLite file",
        ),
        (["--timeout", "0"], "--timeout"),
        (["--driver", "nobody:x"], "nobody"),
    ],
)
def test_bad_input_is_told(command: list[str], tmp_path: Path, arguments: list[str], told: str) -> None:
    done = piped([*command, *arguments], b"hello", cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr.decode()


def test_a_fleet_is_no_agent_to_talk_with(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[[agents]]\nname = "a"\nquery = "?"\n')
    done = piped([*COMMAND, str(path)], b"hello")
    assert done.returncode == 2
    assert b"is a fleet, and a chat is with one agent" in done.stderr


def test_a_time_limit_is_told(command: list[str]) -> None:
    done = piped([*command, "--timeout", "0.3"], b"hang")
    assert done.returncode == 1
    assert b"AgentTimeoutError" in done.stderr


# -- the parts ---------------------------------------------------------------------------------


def test_a_line_break_in_two_pieces_is_one() -> None:
    stream = Stream()
    assert [stream.feed(piece) for piece in ("a\r", "\nb\r", "c\r")] == ["a", "\nb", "\\rc"]
    assert stream.rest() == "\\r"


QUERY = UserMessage("do it")
CALLS = AssistantMessage("", (ToolCall("1", "f"), ToolCall("2", "g")))
NOTE = UserMessage(INTERRUPTED, kind="note")


def test_a_turn_that_was_stopped_keeps_what_was_done() -> None:
    first = ToolMessage("1", "f", ToolResult("done"))
    got = interrupted(
        [UserMessage("old"), AssistantMessage("older")],
        "do it",
        [UserMessage("old"), QUERY, CALLS],
        [first],
        "",
    )
    assert got[:5] == [UserMessage("old"), AssistantMessage("older"), QUERY, CALLS, first]
    unknown, note = got[5:]
    assert isinstance(unknown, ToolMessage)
    assert (unknown.call_id, unknown.result.is_error) == ("2", True)
    assert note == NOTE


def test_a_turn_that_was_stopped_at_once_keeps_its_query() -> None:
    assert interrupted([], "do it", [], [], "") == [QUERY, NOTE]


def test_the_default_file_is_among_the_users_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert default_file() == Path("/x/agentpool/sessions.db")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_file() == Path.home() / ".local/state/agentpool/sessions.db"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "C:")
    assert default_file() == Path("C:") / "agentpool" / "sessions.db"


def test_queries_are_what_a_person_has_said() -> None:
    assert queries_of([QUERY, CALLS, NOTE, UserMessage("x")]) == ["do it", "x"]


async def test_what_cannot_be_read_is_told_by_commands(tmp_path: Path) -> None:
    told: list[str] = []
    kept = Kept(Session(tmp_path), "a", told.append, (QUERY,))
    await kept.names()
    await kept.reset()
    assert kept.messages == (QUERY,)
    assert "nothing is changed" in told[1]
