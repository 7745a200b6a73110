"""`agentpool timeline`: a page, or a trace, of a run that is in a journal."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

pytest.importorskip("cyclopts")

from browser_kit import open_browser, open_page
from journal_kit import in_virtual_time

from agentpool import (
    AgentContext,
    AgentManifest,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Driver,
    ModelAgent,
    SqliteJournal,
    TokenUsage,
    ToolCall,
    open_agent_pool,
    tool,
)
from agentpool.cli import _timeline
from agentpool.cli._app import call

USED = TokenUsage(100, 10)
STRANGE = "</script><script>alert(1)</script><!-- \ud800 \x1b[31m é"


@tool
async def look(what: str) -> str:
    """Look."""
    await trio.sleep(1)
    return f"saw {what}"


class Model(Driver):
    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(2)
        if any(isinstance(message, AssistantMessage) for message in request.messages):
            return Completion(f"forty-two {STRANGE}", usage=USED)
        return Completion("let me see", (ToolCall("1", "look", {"what": "a secret thing"}),), usage=USED)


WORKER = ModelAgent(AgentManifest(name="worker"), tools=[look])


async def boss(ctx: AgentContext, question: str) -> None:
    await ctx.map(WORKER, [question, "another question"])


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return made(tmp_path / "run.db")


def made(path: Path, question: str = STRANGE) -> Path:
    async def main() -> None:
        async with open_agent_pool(Model(), max_concurrent=5, journal=SqliteJournal(path)) as pool:
            await (await pool.spawn(boss, question, name="boss")).wait()

    in_virtual_time(main)
    return path


def data_of(page: str) -> dict[str, Any]:
    """What is in a page, as data."""
    head = re.search(r'<script id="run" type="application/json">(.*?)</script>', page, re.S)
    assert head is not None
    data: dict[str, Any] = json.loads(head[1])
    changes: dict[str, Any] = {}
    for piece in re.findall(r'<script class="changes" type="application/json">(.*?)</script>', page, re.S):
        for key, value in json.loads(piece).items():
            changes[key] = changes.get(key, []) + value if isinstance(value, list) else value
    data["changes"] = changes
    pattern = r'<script class="transcript" data-agent="(\d+)" type="application/json">(.*?)</script>'
    data["transcripts"] = {agent: json.loads(text) for agent, text in re.findall(pattern, page, re.S)}
    return data


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


# -- what is written -----------------------------------------------------------------------------


def test_a_page_is_written_beside_the_journal(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["timeline", str(journal)]) == 0
    page = journal.with_name("run.html")
    assert re.fullmatch(
        rf"{re.escape(str(page))}: 3 agents, 5\.0 s; [\d.,]+ (MB|bytes)\n", capsys.readouterr().out
    )
    data = data_of(page.read_text(encoding="utf-8"))
    assert (data["live"], data["title"], data["exit"]) == (False, "run.db", "ended")
    assert [row["name"] for row in data["changes"]["agents"]] == ["boss", "worker", "worker"]
    assert [2, "reasoning", 0.0, 2.0] in data["changes"]["spans"]
    assert [1, "waiting", 0.0, 5.0, "", [2, 3]] in data["changes"]["spans"]
    assert data["transcripts"].keys() == {"2", "3"}
    first = data["transcripts"]["2"]
    assert [message["role"] for message in first] == ["user", "assistant", "tool", "assistant"]
    assert first[1]["calls"][0]["input"] == {"what": "a secret thing"}
    assert first[3]["text"].startswith("forty-two </script><script>alert(1)</script>")


def test_the_same_journal_gives_the_same_file_byte_for_byte(journal: Path, tmp_path: Path) -> None:
    for format in ("html", "chrome"):
        one, other = tmp_path / "one", tmp_path / "other"
        for path in (one, other):
            assert call(["timeline", str(journal), "--format", format, "-o", str(path), "--force"]) == 0
        assert one.read_bytes() == other.read_bytes()


def test_a_trace_is_written(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["timeline", str(journal), "--format", "chrome"]) == 0
    trace = journal.with_name("run.trace.json")
    assert str(trace) in capsys.readouterr().out
    document = json.loads(trace.read_text(encoding="ascii"))
    assert {event["ph"] for event in document["traceEvents"]} == {"M", "X", "C"}


def test_it_is_for_its_owner_alone(journal: Path) -> None:
    assert call(["timeline", str(journal)]) == 0
    assert stat.S_IMODE(journal.with_name("run.html").stat().st_mode) == 0o600
    assert sorted(os.listdir(journal.parent)) == ["run.db", "run.html"]


def test_without_transcripts_there_are_names_times_and_numbers_alone(journal: Path) -> None:
    for format in ("html", "chrome"):
        path = journal.with_name(format)
        options = ["--no-transcripts", "--format", format, "-o", str(path)]
        assert call(["timeline", str(journal), *options]) == 0
        text = path.read_text(encoding="utf-8")
        assert "secret" not in text
        assert "forty-two" not in text
        assert "worker" in text
    assert call(["timeline", str(journal)]) == 0
    assert "a secret thing" in journal.with_name("run.html").read_text(encoding="utf-8")


def test_long_texts_are_cut_in_the_middle(tmp_path: Path) -> None:
    journal = made(tmp_path / "run.db", "begin" + "x" * 50_000 + "end")
    for limit, left_out in ((None, "30,008"), ("1000", "49,008")):
        options = [] if limit is None else ["--text-limit", limit]
        assert call(["timeline", str(journal), "--force", *options]) == 0
        text = data_of(journal.with_name("run.html").read_text())["transcripts"]["2"][0]["text"]
        assert text.startswith("beginxxx")
        assert text.endswith("xxxend")
        assert f"[{left_out} characters are not shown]" in text


def test_transcripts_beyond_the_largest_page_are_left_out_and_that_is_told(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_timeline, "LARGEST", 100)
    assert call(["timeline", str(journal)]) == 0
    assert data_of(journal.with_name("run.html").read_text())["transcripts"].keys() == {"2"}
    assert "the transcripts of 1 agents are not in the page" in told(capsys)


def test_all_conversations_of_an_agent_are_there(tmp_path: Path) -> None:
    async def twice(ctx: AgentContext) -> None:
        await WORKER(ctx, "first")
        await WORKER(ctx, "second")

    async def main() -> None:
        async with open_agent_pool(
            Model(), max_concurrent=2, journal=SqliteJournal(tmp_path / "run.db")
        ) as pool:
            await (await pool.spawn(twice)).wait()

    in_virtual_time(main)
    assert call(["timeline", str(tmp_path / "run.db")]) == 0
    (messages,) = data_of((tmp_path / "run.html").read_text())["transcripts"].values()
    notes = [message["text"] for message in messages if message.get("kind") == "note"]
    assert notes == ["(conversation 0)", "(conversation 1)"]
    assert len(messages) == 10


# -- where it is written -------------------------------------------------------------------------


def test_a_file_that_is_there_is_not_replaced_unless_that_is_said(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = journal.with_name("run.html")
    page.write_text("mine")
    assert call(["timeline", str(journal)]) == 2
    assert "is there already. Replace it with --force, or give another file with -o FILE" in told(capsys)
    assert page.read_text() == "mine"
    assert call(["timeline", str(journal), "--force"]) == 0
    assert data_of(page.read_text())["title"] == "run.db"


def test_a_file_that_somebody_makes_meanwhile_is_not_replaced(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = journal.with_name("run.html")
    real = _timeline.past_picture

    def slow(*args: Any, **options: Any) -> Any:
        page.write_text("mine")
        return real(*args, **options)

    monkeypatch.setattr(_timeline, "past_picture", slow)
    assert call(["timeline", str(journal)]) == 2
    assert "is there already" in told(capsys)
    assert page.read_text() == "mine"
    assert sorted(os.listdir(journal.parent)) == ["run.db", "run.html"]


def test_where_links_cannot_be_made_it_is_renamed(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert call(["timeline", str(journal)]) == 0
    assert data_of(journal.with_name("run.html").read_text())["title"] == "run.db"


def test_the_journal_itself_is_never_replaced(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = journal.read_bytes()
    link = journal.with_name("link.html")
    link.symlink_to(journal)
    for target in (journal, link):
        assert call(["timeline", str(journal), "-o", str(target), "--force"]) == 2
        assert "is the journal itself" in told(capsys)
    assert journal.read_bytes() == before


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("", "--output is empty"),
        (".", "is a directory"),
        ("no/such/directory/run.html", "cannot be written: No such file or directory"),
        ("x" * 300, "cannot be written: File name too long"),
        ("a\0b", "cannot be written"),
    ],
)
def test_where_nothing_can_be_written(
    journal: Path,
    target: str,
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(journal.parent)
    assert call(["timeline", str(journal), "-o", target]) == 2
    assert problem in told(capsys)
    assert os.listdir(journal.parent) == ["run.db"]


def test_a_full_disk_leaves_nothing_behind(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_timeline, "_write_parts", full)
    assert call(["timeline", str(journal)]) == 2
    assert "cannot be written: No space left on device" in told(capsys)
    assert os.listdir(journal.parent) == ["run.db"]


def test_devices_are_written_to(journal: Path) -> None:
    assert call(["timeline", str(journal), "-o", "/dev/null"]) == 0
    assert call(["timeline", str(journal), "-o", "/dev/full"]) == 2
    assert not Path("/dev/null").is_file()


def test_a_pipe_whose_reader_goes_away_is_no_crash(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = journal.with_name("pipe")
    os.mkfifo(pipe)
    with subprocess.Popen(["head", "-c", "10", str(pipe)], stdout=subprocess.PIPE) as reader:
        assert call(["timeline", str(journal), "-o", str(pipe)]) == 1
        assert reader.communicate(timeout=60)[0] == b"<!DOCTYPE "
    assert told(capsys) == ""
    assert pipe.exists()


def test_where_a_link_leads_to_is_replaced(journal: Path) -> None:
    page, link = journal.with_name("page.html"), journal.with_name("link.html")
    page.write_text("old")
    link.symlink_to(page)
    assert call(["timeline", str(journal), "-o", str(link), "--force"]) == 0
    assert link.is_symlink()
    assert data_of(page.read_text())["title"] == "run.db"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "agentpool", "timeline", *arguments],
        capture_output=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_a_link_that_leads_nowhere_is_there(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = journal.with_name("run.html")
    link.symlink_to(journal.with_name("nowhere.html"))
    assert call(["timeline", str(journal)]) == 2
    assert "is there already" in told(capsys)
    assert link.is_symlink()


def test_standard_output_gets_the_page_alone_as_utf_8(journal: Path) -> None:
    assert call(["timeline", str(journal)]) == 0
    done = run(str(journal), "-o", "-", PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == journal.with_name("run.html").read_bytes()


def test_a_terminal_is_not_given_a_page(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call(["timeline", str(journal), "--output", "-"]) == 2
    assert "standard output is a terminal. Send it to a file (> FILE)" in told(capsys)


def test_a_reader_that_goes_away_is_no_crash(journal: Path) -> None:
    command = f"{sys.executable} -m agentpool timeline {journal} -o - | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=120)
    assert len(done.stdout) == 10
    assert b"Traceback" not in done.stderr


# -- journals ------------------------------------------------------------------------------------


def test_journals_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, empty, other = tmp_path / "text.db", tmp_path / "empty.db", tmp_path / "other.db"
    text.write_text("no journal at all, but some text that is long enough")
    empty.touch()
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE x (y)")
    connection.close()
    for path, problem in (
        (tmp_path / "none.db", "there is no journal"),
        (tmp_path, "is a directory"),
        (text, "is damaged"),
        (empty, "holds no run"),
        (other, "no journal"),
    ):
        assert call(["timeline", str(path), "-o", str(tmp_path / "out.html")]) == 2
        assert problem in told(capsys)
    assert not (tmp_path / "out.html").exists()


def test_a_journal_of_another_version(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(journal) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert call(["timeline", str(journal)]) == 2
    assert "is a journal of version 99" in told(capsys)


def test_a_run_that_is_under_way(tmp_path: Path) -> None:
    journal = tmp_path / "run.db"
    codes: list[int] = []

    @tool(name="look")
    async def draw(what: str) -> str:
        """Draw the run, of which the beginning of this call is on the disk by now."""
        codes.append(call(["timeline", str(journal)]))
        return ""

    async def main() -> None:
        async with open_agent_pool(Model(), max_concurrent=5, journal=SqliteJournal(journal)) as pool:
            await pool.spawn(ModelAgent(AgentManifest(name="worker"), tools=[draw]), "go")

    in_virtual_time(main)
    assert codes == [0]
    data = data_of((tmp_path / "run.html").read_text())
    assert data["exit"] == "unfinished: it goes on, or its process died"
    (worker,) = data["changes"]["agents"]
    assert (worker["kind"], worker["since"], worker["detail"]) == ("acting", 2.0, "look")
    assert data["changes"]["notes"][-1][2].startswith("the journal ends here")
    assert [message["role"] for message in data["transcripts"]["1"]] == ["user"]


def test_a_tape_that_cannot_be_read_is_told_and_the_rest_is_there(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = _timeline.all_loops

    def without_beginnings(records: Any) -> Mapping[int, Any]:
        loops = real(records)
        for each in loops.values():
            each[0].loop.begun = None
        return loops

    monkeypatch.setattr(_timeline, "all_loops", without_beginnings)
    assert call(["timeline", str(journal)]) == 0
    assert "a transcript cannot be read, and those of 1 more agents: " in told(capsys)
    data = data_of(journal.with_name("run.html").read_text())
    assert data["transcripts"] == {}
    assert len(data["changes"]["agents"]) == 3


def test_very_many_agents_are_told_to_be_left_out(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = _timeline.Picture
    monkeypatch.setattr(_timeline, "Picture", lambda: real(ended_kept=1, spans_kept=2))
    assert call(["timeline", str(journal)]) == 0
    assert "; the first 2 agents are not in it; the first 5 spans are not in it" in capsys.readouterr().out


def test_a_name_of_a_journal_that_is_strange(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = made(tmp_path / "a <script>\x1b[31m b.db")
    assert call(["timeline", str(journal)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    (page,) = tmp_path.glob("*.html")
    assert data_of(page.read_text())["title"] == "a <script>\\x1b[31m b.db"


@pytest.mark.parametrize("name", ["x" * 250 + ".html", "\N{GRINNING FACE}" * 62 + ".html"])
def test_names_of_files_may_be_as_long_as_names_may_be(journal: Path, name: str) -> None:
    target = journal.with_name(name)
    assert call(["timeline", str(journal), "-o", str(target)]) == 0
    assert data_of(target.read_text())["title"] == "run.db"


# -- in a browser --------------------------------------------------------------------------------


@pytest.mark.processes
def test_the_page_opens_as_a_file_and_asks_nobody_for_anything(journal: Path) -> None:
    assert call(["timeline", str(journal)]) == 0
    page_file = journal.with_name("run.html")
    asked: list[str] = []
    with open_browser() as browser, open_page(browser, "about:blank") as page:
        page.on("request", lambda request: asked.append(request.url))
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(page_file.as_uri())
        page.get_by_text("worker").first.wait_for()
        page.get_by_text("worker").first.click()
        page.get_by_text("forty-two </script><script>alert(1)").first.wait_for()
        assert dialogs == []
    assert asked == [page_file.as_uri()]
