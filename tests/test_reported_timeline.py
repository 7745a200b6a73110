"""What users of comparable tools reported about exported timelines, traces and reports, tried here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

pytest.importorskip("cyclopts")

from browser_kit import open_browser, open_page
from journal_kit import Records, in_virtual_time

from agentpool import (
    AgentContext,
    AgentManifest,
    ApprovalRules,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Driver,
    ModelAgent,
    RunPausedError,
    SqliteJournal,
    TokenUsage,
    ToolCall,
    open_agent_pool,
    resume_agent_pool,
    tool,
)
from agentpool._core.approval import Approved
from agentpool._core.chrome_trace import chrome_trace
from agentpool._core.past_picture import PastPicture, past_picture
from agentpool._core.picture_data import changes_since
from agentpool._core.records import JournalRecord
from agentpool._kernel.descriptions import outcome_from_data
from agentpool.cli._app import call as command
from agentpool.journal import read_journal

USED = TokenUsage(100, 10)


@tool
async def look(what: str) -> str:
    """Look."""
    await trio.sleep(len(what))
    return what


class Model(Driver):
    """Has several tools called side by side, and then says what it is told to say."""

    def __init__(self, *arguments: str, says: str = "done") -> None:
        self.arguments = arguments
        self.says = says

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(2)
        if self.arguments and not any(isinstance(each, AssistantMessage) for each in request.messages):
            calls = [ToolCall(str(n), "look", {"what": each}) for n, each in enumerate(self.arguments)]
            return Completion("", tuple(calls), usage=USED)
        return Completion(self.says, usage=USED)


WORKER = ModelAgent(AgentManifest(name="worker"), tools=[look])


def made(path: Path, driver: Driver, agent: Any = WORKER, *args: Any, name: str | None = None) -> Path:
    async def main() -> None:
        async with open_agent_pool(driver, max_concurrent=9, journal=SqliteJournal(path)) as pool:
            await (await pool.spawn(agent, *(args or ("go",)), name=name)).wait()

    in_virtual_time(main)
    return path


def trace_of(path: Path, *options: str) -> list[dict[str, Any]]:
    """Have a trace written; return its events."""
    target = path.with_suffix(".json")
    assert command(["timeline", str(path), "--format", "chrome", "-o", str(target), "--force", *options]) == 0
    events: list[dict[str, Any]] = json.loads(target.read_bytes())["traceEvents"]
    return events


def page_of(path: Path, *options: str) -> str:
    target = path.with_suffix(".html")
    assert command(["timeline", str(path), "-o", str(target), "--force", *options]) == 0
    return target.read_text(encoding="utf-8")


def past(records: Sequence[JournalRecord]) -> PastPicture:
    return past_picture(records, outcome_from_data)


def slices_by_thread(events: Sequence[Mapping[str, Any]]) -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    for event in events:
        if event["ph"] == "X":
            found.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    return found


# google/perfetto#4280, #503, #6277: slices that overlap on one thread are dropped, or drawn too long
def test_calls_that_run_side_by_side_do_not_overlap_on_a_thread(tmp_path: Path) -> None:
    events = trace_of(made(tmp_path / "run.db", Model("x", "xxx", "xx", "xxxx")))
    assert sum(event["ph"] == "X" and event["name"] == "look" for event in events) == 4
    for slices in slices_by_thread(events).values():
        ends = [end for _, end in slices]
        starts = [start for start, _ in slices]
        assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


# google/perfetto#365, Ascend/pytorch#133: absolute times give empty timelines; fractions lose precision
def test_times_are_whole_microseconds_from_the_beginning_of_the_run(tmp_path: Path) -> None:
    events = trace_of(made(tmp_path / "run.db", Model("x")))
    times = [event[key] for event in events for key in ("ts", "dur") if key in event]
    assert all(type(time) is int for time in times)
    assert (min(times), max(times)) == (0, 5_000_000)


STRANGE = 'C:\\torch\\"quoted"\n\x00\x1b[0m\ttab \u2028 \ud800 é 漢 </script>'


# pytorch/pytorch#33961, #98432, #113001, #130622: names with quotes, backslashes and controls break the JSON
def test_strange_names_arguments_and_words_are_valid_json(tmp_path: Path) -> None:
    journal = made(tmp_path / "run.db", Model(STRANGE, says=STRANGE), name=STRANGE)
    text = journal.with_suffix(".json")
    events = trace_of(journal)
    assert text.read_bytes().isascii()
    assert any("quoted" in event["args"].get("name", "") for event in events if event["ph"] == "M")
    page = page_of(journal)
    for data in re.findall(r'<script [^>]*type="application/json">(.*?)</script>', page, re.S):
        json.loads(data)


# google/trace-viewer#1088, catapult-project/catapult#4573: arrows without a slice to hang on are lost
def test_each_arrow_hangs_on_a_slice_at_both_ends(tmp_path: Path) -> None:
    async def listening(ctx: AgentContext) -> None:
        for _ in range(50):
            await ctx.receive()

    async def talking(ctx: AgentContext, _: str) -> None:
        other = await ctx.spawn(listening)
        for number in range(50):
            await ctx.send(other.id, number)

    events = trace_of(made(tmp_path / "run.db", Model(), talking))
    slices = slices_by_thread(events)
    arrows = [event for event in events if event["ph"] in "sf"]
    assert len(arrows) == 100
    for event in arrows:
        assert any(start <= event["ts"] < end for start, end in slices[event["tid"]])
    place = {(event["ph"], event["id"]): number for number, event in enumerate(events) if event["ph"] in "sf"}
    assert all(place["s", number] < place["f", number] for kind, number in place if kind == "s")


# mastra-ai/mastra#8041, future-agi/traceAI#10: what has no end is not exported, or has no time
@pytest.mark.parametrize("kind", ["begun", "called", "observed"])
def test_what_had_not_ended_when_the_process_died_is_there(tmp_path: Path, kind: str) -> None:
    kept = read_journal(made(tmp_path / "run.db", Model("x", "xx")))
    end = next(number for number, record in enumerate(kept, 1) if record.kind == kind)
    then = past([*kept[:end], JournalRecord("listened", 1, {"topic": "x", "on": True}, kept[end].at + 1)])
    document = json.loads("".join(chrome_trace(then, "run.db")))
    open_slices = [event for event in document["traceEvents"] if event.get("args", {}).get("unfinished")]
    assert open_slices
    assert all(event["dur"] > 0 for event in open_slices)
    (row,) = changes_since(then.picture, 0)["agents"]
    assert row["kind"] in ("reasoning", "acting", "perceiving")


# langfuse/langfuse#14034: a run that waits for a person is shown as an error
# langfuse/langfuse#6704: what was resumed is another trace, and neither of the two is whole
def test_a_run_that_waited_for_a_person_and_was_resumed_is_one_picture_without_errors() -> None:
    records = Records()
    careful = ModelAgent(AgentManifest(name="careful", approval=ApprovalRules(ask=("look",))), tools=[look])

    async def begin() -> None:
        async with open_agent_pool(Model("x"), max_concurrent=2, journal=records) as pool:
            await (await pool.spawn(careful, "go")).wait()

    async def yes(_: object) -> Approved:
        await trio.sleep(3)
        return Approved()

    async def go_on() -> None:
        async with resume_agent_pool(records, Model("x"), approver=yes) as pool:
            await pool.resumed[0].wait()

    with pytest.raises(RunPausedError):
        in_virtual_time(begin)
    waiting = past(records.kept).picture.rows[1]
    assert (waiting.state, waiting.kind, waiting.reason) == ("running", "approval", "")
    in_virtual_time(go_on)
    then = past(records.kept)
    (row,) = then.picture.rows.values()
    assert (row.state, row.reason) == ("completed", "")
    assert [span.kind for span in then.picture.spans if span.start < span.end] == [
        "reasoning",
        "approval",
        "acting",
        "reasoning",
    ]
    assert then.picture.time == 8.0  # two calls of the model, the person, the tool; not the time between


# gaogaotiantian/viztracer#610, #645, google/trace-viewer#298: what is too large crashes the tab
def test_a_page_with_very_long_texts_stays_small_and_says_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = made(tmp_path / "run.db", Model(says="word " * 1_000_000))
    page = page_of(journal)
    assert len(page) < 400_000
    assert "characters are not shown]" in page
    assert "MB\n" in capsys.readouterr().out


# danielpalme/ReportGenerator#75, ninoseki/arakawa#59, gkushang/cucumber-html-reporter#167: needs the Internet
def test_a_page_names_no_address_from_which_something_would_be_loaded(tmp_path: Path) -> None:
    page = page_of(made(tmp_path / "run.db", Model("x")))
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    assert not re.findall(r"@import|url\(\s*[\"']?(?:https?:)?//", page)


# vulnlog/vulnlog#197, webpack/webpack-bundle-analyzer#262, cucumber/html-formatter#408: words break out
@pytest.mark.processes
@pytest.mark.parametrize(
    "words", ["</script><script>window.broken = 1</script>", "<!-- <script> ", "]]>&lt;"]
)
def test_words_stay_words(tmp_path: Path, words: str) -> None:
    journal = made(tmp_path / "run.db", Model(says=f"it says {words}"), name=f"worker {words}")
    page_of(journal)
    with open_browser() as browser, open_page(browser, journal.with_suffix(".html").as_uri()) as page:
        page.get_by_text(f"worker {words}").first.click()
        page.get_by_text(f"it says {words}").first.wait_for()
        assert page.evaluate("window.broken") is None


# pytest-dev/pytest-html#12, villoro/html-reports#11: a lone surrogate, or the locale's encoding, is a crash
def test_a_page_is_utf_8_whatever_is_in_it(tmp_path: Path) -> None:
    journal = made(tmp_path / "run.db", Model(says="\udcff é 漢"))
    page_of(journal)
    page = journal.with_suffix(".html").read_bytes().decode("utf-8")
    (messages,) = re.findall(r'<script class="transcript"[^>]*>(.*?)</script>', page, re.S)
    assert json.loads(messages)[-1]["text"] == "\ufffd é 漢"


# microsoft/playwright#19992, #36800: a report that is shared holds passwords
def test_a_key_that_the_journal_took_out_is_in_no_page(tmp_path: Path) -> None:
    key = "ghp_Zk3Lm8Qw2Xc7Vb5Nt9Rf"
    journal = made(tmp_path / "run.db", Model(key, says=f"it is {key}"), WORKER, f"use {key}")
    for text in (page_of(journal), json.dumps(trace_of(journal))):
        assert key not in text
        assert "[redacted-" in text


# microsoft/playwright#28934, #31728: somebody wants to give a trace away, without what was said
def test_what_was_said_can_be_left_out_of_what_is_given_away(tmp_path: Path) -> None:
    journal = made(tmp_path / "run.db", Model("the diagnosis", says="the patient has"), WORKER, "Mr. Smith")
    for text in (page_of(journal, "--no-transcripts"), json.dumps(trace_of(journal, "--no-transcripts"))):
        assert not re.findall("diagnosis|patient|Smith", text)


# google/perfetto#608, google/perfetto#237: what took no time, or ended as the next began, is drawn wrongly
def test_calls_that_take_no_time_follow_each_other(tmp_path: Path) -> None:
    events = trace_of(made(tmp_path / "run.db", Model("", "", "")))
    looks = [event for event in events if event["ph"] == "X" and event["name"] == "look"]
    assert [(event["ts"], event["dur"]) for event in looks] == [(2_000_000, 0)] * 3
    assert len({event["tid"] for event in looks}) == 1
