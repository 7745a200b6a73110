"""A cassette as a file: any number of writers, killed ones among them, and what editors do to it."""

from __future__ import annotations

import json
import subprocess
import sys
from io import FileIO
from pathlib import Path

import pytest
import trio
import trio.testing

from agentpool._core.content import text_of
from agentpool._core.errors import RequestRejectedError
from agentpool._core.messages import Completion, CompletionRequest, UserMessage
from agentpool.abc import Driver
from agentpool.drivers import _tape
from agentpool.drivers.recording import RecordingDriver, ReplayDriver
from agentpool.drivers.scripted import ScriptedDriver

if sys.platform != "win32":
    import fcntl


class Echo(Driver):
    """Answers with the last message and a number that counts up."""

    def __init__(self) -> None:
        self.count = 0

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        self.count += 1
        return Completion(f"{words(request)} {self.count}")


def words(request: CompletionRequest) -> str:
    last = request.messages[-1]
    assert isinstance(last, UserMessage)
    return text_of(last.content)


def ask(text: str) -> CompletionRequest:
    return CompletionRequest(model="m", messages=[UserMessage(text)])


async def played(path: Path, texts: str) -> None:
    """Check that a cassette holds the answers to these requests, in whatever order, and no others."""
    replay = ReplayDriver(path)
    for text in texts:
        await replay.complete(ask(text))
    assert replay.remaining == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tapes" / "cassette.jsonl"


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
    for cut in (last, last + 1, len(whole) - 2):
        await trio.Path(path).write_bytes(whole[:cut])
        replay = ReplayDriver(path)
        await replay.complete(ask("a"))
        assert replay.remaining == 0


async def test_a_last_line_that_lacks_only_its_line_break_counts(path: Path) -> None:
    recorder = RecordingDriver(Echo(), path, append=True)
    await recorder.complete(ask("a"))
    await trio.Path(path).write_bytes((await trio.Path(path).read_bytes()).rstrip())
    await ReplayDriver(path).complete(ask("a"))
    await recorder.complete(ask("b"))
    await played(path, "ab")


@pytest.mark.parametrize("content", ["", "{", '{"agentpool_cassette": 1}', '{"agentpool_cassette": 1}\n'])
async def test_a_cassette_may_end_after_any_part_of_its_first_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text(content)
    with pytest.raises(RequestRejectedError, match="holds no answer at all"):
        await ReplayDriver(path).complete(ask("a"))
    await RecordingDriver(Echo(), path, append=True).complete(ask("a"))
    await played(path, "a")


HEADER = '{"agentpool_cassette": 1}\n'


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("hello\n", 1),
        ("hello", 1),
        ('{"agentpool_cassette": 99}\n', 1),
        ("[]\n", 1),
        (f"{HEADER}nonsense\n", 2),
        (f"{HEADER}[]\n", 2),
        (HEADER + '{"completion": {"text": ""}}\n', 2),
        (HEADER + '{"request": [], "completion": {"text": ""}}\n', 2),
        (HEADER + '{"request": {}}\n', 2),
        (HEADER + '{"request": {}, "completion": {"words": ""}}\n', 2),
        (HEADER + '{"request": {}, "completion": []}\n', 2),
        (HEADER + '{"request": {}, "error": {"kind": "Odd"}}\n', 2),
    ],
)
async def test_what_is_no_cassette_is_an_error_with_its_line_and_is_not_added_to(
    tmp_path: Path, content: str, line: int
) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text(content)
    told = rf"odd.jsonl, line {line}: not a"
    with pytest.raises(ValueError, match=told):
        await ReplayDriver(path).complete(ask("a"))
    inside = Echo()
    recorder = RecordingDriver(inside, path, append=True)
    with pytest.raises(ValueError, match=told):
        await recorder.complete(ask("a"))
    with pytest.raises(ValueError, match=told):
        async with recorder.stream(ask("a")):
            pass
    assert inside.count == 0
    assert path.read_text() == content


async def test_what_editors_and_merges_do_to_a_cassette_does_no_harm(path: Path) -> None:
    await RecordingDriver(Echo(), path).complete(ask("a"))
    content = await trio.Path(path).read_bytes()
    await trio.Path(path).write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n") + b"\r\n" + content)
    await played(path, "aa")


# -- several writers ---------------------------------------------------------------


async def test_two_recorders_of_one_program_take_nothing_from_each_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    (path.parent / "link").symlink_to(path)
    monkeypatch.chdir(path.parent)
    recorders = [RecordingDriver(Echo(), where) for where in (path, path.name, path.parent / "link")]
    for text in "ab":
        for recorder in recorders:
            await recorder.complete(ask(text))
    late = RecordingDriver(Echo(), path)
    await late.complete(ask("c"))
    await played(path, "aaabbbc")


async def test_answers_of_many_recorders_that_come_together_are_all_written(path: Path) -> None:
    recorders = [RecordingDriver(Echo(), path, append=append) for append in (True, False) * 5]
    async with trio.open_nursery() as nursery:
        for recorder in recorders:
            for text in "abcde":
                nursery.start_soon(recorder.complete, ask(text))
    await played(path, "abcde" * 10)


async def test_recorders_that_were_made_before_either_has_written_take_nothing_from_each_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in two programs: they know nothing of each other."""
    await RecordingDriver(Echo(), path).complete(ask("o"))
    one = RecordingDriver(Echo(), path)
    monkeypatch.setattr(_tape, "_tapes", {})
    two = RecordingDriver(Echo(), path)
    for text in "ab":
        await one.complete(ask(text))
        await two.complete(ask(text))
    await played(path, "aabb")


async def test_recorders_in_several_threads_take_nothing_from_each_other(path: Path) -> None:
    recorders = [RecordingDriver(Echo(), path) for _ in range(5)]

    def record(recorder: RecordingDriver, text: str) -> None:
        async def main() -> None:
            for _ in range(5):
                await recorder.complete(ask(text))

        trio.run(main)

    async with trio.open_nursery() as nursery:
        for recorder, text in zip(recorders, "abcde", strict=True):
            nursery.start_soon(trio.to_thread.run_sync, record, recorder, text)
    await played(path, "abcde" * 5)


CHILD = """
import sys, trio
from agentpool import CompletionRequest, RecordingDriver, ScriptedDriver, UserMessage

async def main(name, path):
    driver = RecordingDriver(ScriptedDriver(["y" * 100_000] * 1000), path, append=True)
    for number in range(1000):
        await driver.complete(CompletionRequest(messages=[UserMessage(f"{name} {number}")]))
        print(number, flush=True)
        sys.stdin.readline()

trio.run(main, *sys.argv[1:])
"""


def start(name: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, name, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_that_write_side_by_side_and_are_killed_lose_nothing(path: Path) -> None:
    """Lines are longer than a buffer. Each process is killed at some moment after its tenth answer."""
    children = {name: start(name, path) for name in "pqr"}
    told = dict.fromkeys(children, 0)
    for _ in range(10):
        for name, child in children.items():
            assert child.stdout is not None
            assert child.stdin is not None
            told[name] = int(child.stdout.readline()) + 1
            child.stdin.write("\n")
            child.stdin.flush()
    for child in children.values():
        child.kill()
        child.communicate()

    async def check() -> None:
        await RecordingDriver(ScriptedDriver(["at last"]), path, append=True).complete(ask("s"))
        replay = ReplayDriver(path)
        for name, count in told.items():
            for number in range(count):
                request = CompletionRequest(messages=[UserMessage(f"{name} {number}")])
                assert len((await replay.complete(request)).text) == 100_000
        assert (await replay.complete(ask("s"))).text == "at last"

    trio.run(check)
    assert told == {"p": 10, "q": 10, "r": 10}


@pytest.mark.parametrize("torn", [1, 100, 70_000, 200_000])
async def test_a_part_of_a_line_is_cut_off_before_the_next_is_written(path: Path, torn: int) -> None:
    recorder = RecordingDriver(Echo(), path)
    await recorder.complete(ask("a"))
    with path.open("a") as file:
        file.write(('{"request": {"model": "' + "x" * torn)[:torn])
    await recorder.complete(ask("b"))
    await played(path, "ab")


async def test_a_cancellation_while_another_writer_has_the_file_loses_no_answer(path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("the lock is another one")
    recorder = RecordingDriver(Echo(), path)
    await recorder.complete(ask("a"))
    answers = []

    async def ask_once() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            answers.append(await recorder.complete(ask("b")))

    scopes: list[trio.CancelScope] = []
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_once)
            nursery.start_soon(ask_once)
            await trio.testing.wait_all_tasks_blocked()
            for scope in scopes:
                scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert answers == []
            fcntl.flock(file, fcntl.LOCK_UN)
    assert sorted(answer.text for answer in answers) == ["b 2", "b 3"]
    await played(path, "abb")


async def test_a_file_that_is_deleted_while_it_is_waited_for_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "win32":
        pytest.skip("an open file cannot be deleted there")
    recorder = RecordingDriver(Echo(), path)
    await recorder.complete(ask("a"))
    lock, times = _tape.lock, []

    def delete_at_first(file: FileIO) -> None:
        lock(file)
        times.append(1)
        if len(times) == 1:
            path.unlink()

    monkeypatch.setattr(_tape, "lock", delete_at_first)
    await recorder.complete(ask("b"))
    await played(path, "b")
    assert len(times) == 2


FULL = """
import resource, signal, sys, trio
from agentpool import CompletionRequest, RecordingDriver, ScriptedDriver, UserMessage

async def main(path):
    driver = RecordingDriver(ScriptedDriver(["one", "y" * 100_000]), path)
    for text in "ab":
        try:
            await driver.complete(CompletionRequest(model="m", messages=[UserMessage(text)]))
        except OSError as error:
            print(text, type(error).__name__)

resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
trio.run(main, sys.argv[1])
"""


async def test_a_line_for_which_there_is_no_room_is_an_error_and_leaves_nothing_behind(path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("there is no limit to set")
    done = await trio.run_process([sys.executable, "-c", FULL, str(path)], capture_stdout=True)
    assert done.stdout.split() == [b"b", b"OSError"]
    content = await trio.Path(path).read_bytes()
    assert (len(content.splitlines()), content[-1:]) == (2, b"\n")
    await RecordingDriver(Echo(), path, append=True).complete(ask("c"))
    await played(path, "ac")


def test_who_writes_has_the_file_for_itself(path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("the lock is another one")
    path.parent.mkdir()
    with path.open("wb") as other:
        with _tape._locked(path):
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await ReplayDriver(tmp_path / "nowhere").complete(ask("a"))


async def test_a_cassette_is_json_lines_that_people_can_read(path: Path) -> None:
    await RecordingDriver(Echo(), path).complete(ask("hello"))
    header, entry = map(json.loads, (await trio.Path(path).read_text()).splitlines())
    assert header == {"agentpool_cassette": 1}
    assert entry["request"]["messages"] == [{"role": "user", "content": "hello"}]
    assert entry["completion"]["text"] == "hello 1"


async def test_answers_that_come_together_are_all_written(path: Path) -> None:
    recorder = RecordingDriver(Echo(), path)
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(recorder.complete, ask(str(number)))
    assert len((await trio.Path(path).read_text()).splitlines()) == 51
