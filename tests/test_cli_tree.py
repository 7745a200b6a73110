"""Which agents are seen where there is no room for all: the tree with its folds, and how steady it is."""

from __future__ import annotations

import io
import random
import re
import time
from collections.abc import Sequence

import pytest

pytest.importorskip("cyclopts")

from agentpool._core import events as ev
from agentpool._core.approval import ApprovalRequest
from agentpool._core.messages import Completion, CompletionRequest, ToolCall
from agentpool._core.outcomes import Completed, Failed
from agentpool._core.picture import Picture
from agentpool._core.usage import TokenUsage
from agentpool.cli._frame import Frames, Size
from agentpool.cli._sums import few, price, span, tell_rates
from agentpool.cli._text import width_of
from agentpool.cli._tree import HELD, LATELY, Folded, Shown, ids_of, tree_of


class Run:
    """Events of a run that somebody writes by hand."""

    def __init__(self) -> None:
        self.picture = Picture()
        self.parents: dict[int, int] = {}
        self.now = 0.0

    def spawn(self, *names: str, parent: int = 0) -> int:
        for name in names:
            number = len(self.parents) + 1
            self.parents[number] = parent
            self.picture.take(ev.AgentSpawned(number, self.now, number, parent, name=name))
            self.picture.take(ev.AgentStarted(number, self.now, number, parent))
        return len(self.parents)

    def reason(self, agent: int, model: str = "gpt", words: str = "") -> None:
        at = (0, self.now, agent, self.parents[agent])
        self.picture.take(ev.PhaseChanged(*at, phase="reason", iteration=1))
        self.picture.take(ev.ModelCallStarted(*at, CompletionRequest(), model, "openai", "", True))
        if words:
            self.picture.take(ev.TextDeltaReceived(*at, text=words))

    def answered(self, agent: int, usage: TokenUsage) -> None:
        at = (0, self.now, agent, self.parents[agent])
        done = Completion("well", usage=usage)
        self.picture.take(ev.ModelCallFinished(*at, 0, done, None, False, 0.1, None))

    def call(self, agent: int, tool: str) -> None:
        at = (0, self.now, agent, self.parents[agent])
        self.picture.take(ev.PhaseChanged(*at, phase="act", iteration=1))
        self.picture.take(ev.ToolStarted(*at, call=ToolCall("1", tool)))

    def ask(self, agent: int, tool: str) -> None:
        request = ApprovalRequest(agent, "x", ToolCall("1", tool), {}, "a rule")
        self.picture.take(ev.ApprovalRequested(0, self.now, agent, self.parents[agent], request=request))

    def fail(self, agent: int, error: str = "no") -> None:
        parent = self.parents[agent]
        outcome = Failed(agent_id=agent, name="", parent_id=parent, error=ValueError(error), duration=1.0)
        self.picture.take(ev.AgentFinished(0, self.now, agent, parent, outcome=outcome))

    def complete(self, agent: int) -> None:
        parent = self.parents[agent]
        used = self.picture.rows[agent].usage
        outcome = Completed(agent_id=agent, name="", parent_id=parent, value="x", duration=1.0, usage=used)
        self.picture.take(ev.AgentFinished(0, self.now, agent, parent, outcome=outcome))

    def wait(self, **targets: tuple[int, ...]) -> None:
        self.picture.sample({int(key[1:]): ids for key, ids in targets.items()}, [], self.now)


def drawn(run: Run, rows: int = 24, columns: int = 80, frames: Frames | None = None) -> str:
    frames = frames or Frames(utf8())
    lines = frames.frame(run.picture, ["8 slots"], Size(rows, columns), run.now)
    return "\n".join("".join(text for text, _ in line) for line in lines)


def utf8() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), "utf-8")


def names_seen(run: Run, most: int) -> list[str]:
    return [
        line.row.name if isinstance(line, Shown) else f"+{sum(line.counts.values())}"
        for line in tree_of(run.picture, most, (), run.now)
    ]


def test_children_stand_below_their_parent() -> None:
    run = Run()
    run.spawn("a", "b")
    run.spawn("a1", parent=1)
    run.spawn("b1", parent=2)
    run.spawn("a11", parent=3)
    run.spawn("a2", parent=1)
    names = [line.split("  ")[1].strip() for line in drawn(run).splitlines()[1:7]]
    assert names == ["a", "├─a1", "│ └─a11", "└─a2", "b", "└─b1"]


def test_a_terminal_without_box_lines_has_a_tree_of_ascii() -> None:
    run = Run()
    run.spawn("a")
    run.spawn("a1", parent=1)
    run.spawn("a11", parent=2)
    run.spawn("a2 naïve", parent=1)
    run.reason(4, words="x" * 200)
    text = drawn(run, frames=Frames(io.TextIOWrapper(io.BytesIO(), "ascii")))
    assert text.isascii()
    for name in ("|-a1", "| `-a11", r"`-a2 na\xefve"):
        assert name in text
    assert "...xxx" in text


def test_who_needs_a_person_or_has_failed_or_works_is_seen_and_the_rest_is_folded_with_sums() -> None:
    run = Run()
    run.spawn(*(f"w{number}" for number in range(1, 101)))
    run.now = 10.0
    run.wait(**{f"_{number}": () for number in range(1, 101)})
    run.now = 20.0
    run.answered(99, TokenUsage(1_000_000, 200_000, cost_usd=3.4))
    run.ask(50, "wipe")
    run.fail(60)
    run.picture.sample({n: () for n in range(1, 101) if n not in (50, 60, 70)}, [71], run.now)
    run.reason(70)
    assert names_seen(run, 6) == ["w1", "w50", "w60", "w70", "w71", "+95"]
    *_, last = tree_of(run.picture, 6, (), run.now)
    assert last == Folded((), {"waiting": 95}, 1_200_000, 3.4)
    text = drawn(run, rows=14)
    assert re.search(r"^ +\d+ more: \d+ waiting; 1\.2M tokens, \$3\.40$", text, re.MULTILINE)
    assert re.search(r"50  w50 +waits for approval of wipe", text)
    assert re.search(r"60  w60 +failed: ValueError: no", text)
    assert re.search(r"71  w71 +stuck: waits for anybody", text)


def test_each_of_those_seen_stands_below_those_it_descends_from() -> None:
    run = Run()
    for top in range(10):
        parent = run.spawn(f"top{top}")
        for middle in range(5):
            run.spawn(f"m{top}.{middle}", parent=parent)
    run.spawn("deep", parent=9)  # below m1.1
    run.ask(run.spawn("deeper", parent=run.spawn("between", parent=9)), "wipe")
    names = names_seen(run, 12)
    places = [names.index(name) for name in ("top1", "m1.1", "between", "deeper")]
    assert places == sorted(places)


def test_where_there_is_no_room_for_those_between_a_line_says_so() -> None:
    run = Run()
    parent = 0
    for number in range(50):
        parent = run.spawn(f"level{number}", parent=parent)
    run.ask(50, "wipe")
    text = drawn(run, rows=12)
    assert re.search(r"50 +.*waits for approval", text)
    assert "…level" in text
    hidden = sum(int(number) for number in re.findall(r"(\d+) more:", text))
    assert hidden + len(re.findall(r"^ *\d+ .*level", text, re.MULTILINE)) == 50


def test_news_leave_room_for_those_who_work() -> None:
    run = Run()
    run.spawn(*(f"w{number}" for number in range(1, 101)))
    for number in range(1, 80):
        run.fail(number)
    names = names_seen(run, 12)
    assert sum(int(name[1:]) < 80 for name in names[:-1]) == 3
    assert sum(int(name[1:]) >= 80 for name in names[:-1]) == 8


def test_a_failure_of_long_ago_is_no_news() -> None:
    run = Run()
    run.spawn("failed", *(f"w{number}" for number in range(2, 20)))
    run.fail(1)
    assert "failed" in names_seen(run, 4)
    run.now = LATELY + 1.0
    assert "failed" not in names_seen(run, 4)


def test_of_those_who_have_ended_the_latest_are_seen() -> None:
    run = Run()
    run.spawn(*(f"w{number}" for number in range(1, 21)))
    for number in range(20, 0, -1):
        run.now += HELD + 1.0
        run.complete(number)
    assert names_seen(run, 4) == ["w1", "w2", "w3", "+17"]


def test_who_ended_unseen_is_no_news() -> None:
    run = Run()
    run.spawn("done", *(f"w{number}" for number in range(2, 20)))
    run.wait(**{f"_{number}": () for number in range(2, 20)})
    run.complete(1)
    assert "done" not in names_seen(run, 4)


def test_who_works_far_down_is_seen_below_those_next_above_it() -> None:
    run = Run()
    parent = 0
    for number in range(30):
        parent = run.spawn(f"a{number}", parent=parent)
    run.wait(**{f"_{number}": () for number in range(1, 30)})
    assert {"a27", "a28", "a29"} <= set(names_seen(run, 16))


def test_lines_stay_while_agents_work_and_wait_in_turns() -> None:
    run = Run()
    run.spawn(*(f"w{number}" for number in range(1, 1001)))
    chance = random.Random(1)
    seen: frozenset[int] = frozenset()
    changes = 0
    for _ in range(40):
        run.now += 0.25
        run.picture.sample({n: () for n in range(1, 1001) if chance.random() < 0.5}, [], run.now)
        now_seen = ids_of(tree_of(run.picture, 20, seen, run.now))
        changes += len(seen - now_seen)
        seen = now_seen
    assert changes == 0


def test_who_has_ended_keeps_its_line_for_some_seconds_unless_others_work() -> None:
    run = Run()
    run.spawn("done", "works")
    run.spawn(*(f"w{number}" for number in range(1, 50)))
    run.wait(**{f"_{number}": () for number in range(3, 52)})
    seen = ids_of(tree_of(run.picture, 4, (), run.now))
    assert {1, 2} <= seen
    run.now = HELD + 1.0
    run.complete(1)
    assert 1 in ids_of(tree_of(run.picture, 4, seen, run.now + HELD - 0.1))
    assert 1 not in ids_of(tree_of(run.picture, 4, seen, run.now + HELD + 0.1))


def test_a_single_agent_is_not_folded_where_its_fold_would_take_as_much_room() -> None:
    run = Run()
    for _ in range(4):
        parent = run.spawn("p")
        run.spawn("c", parent=parent)
    run.spawn("x", "y", "z")
    for line in tree_of(run.picture, 9, (), run.now):
        assert isinstance(line, Shown) or sum(line.counts.values()) > 1


@pytest.mark.parametrize("seed", range(20))
def test_all_are_shown_or_counted_and_no_line_is_too_many(seed: int) -> None:
    chance = random.Random(seed)
    run = Run()
    for number in range(1, chance.choice([30, 300, 1500])):
        run.now = number / 100
        run.spawn(f"a{number}" + "日本" * chance.randint(0, 3), parent=chance.randint(0, len(run.parents)))
        act = chance.choice([run.reason, run.complete, run.fail, lambda n: run.ask(n, "x"), lambda n: None])
        act(chance.randint(1, number))
    frames = Frames(utf8())
    for _ in range(5):
        most = chance.randint(1, 40)
        lines = tree_of(run.picture, most, (), run.now)
        assert len(lines) <= most
        agents = [line for line in lines if isinstance(line, Shown)]
        folded = sum(sum(line.counts.values()) for line in lines if isinstance(line, Folded))
        if most > 1:
            assert len(agents) + folded == len(run.parents)
        size = Size(chance.randint(1, 60), chance.randint(1, 220))
        text = drawn(run, size.rows, size.columns, frames).splitlines()
        assert len(text) <= max(1, size.rows - 1)
        assert [line for line in text if width_of(line) > size.columns] == []


def test_agents_whose_parents_nobody_heard_of_stand_at_the_top() -> None:
    picture = Picture()
    for number in range(100, 130):
        picture.take(ev.AgentSpawned(number, 0.0, number, number - 50, name=f"a{number}"))
    lines = tree_of(picture, 5, (), 0.0)
    assert len(lines) == 5
    assert isinstance(lines[-1], Folded)
    assert sum(lines[-1].counts.values()) == 26


def test_at_80_columns_the_last_words_stand_on_a_line_of_their_own_if_there_is_room() -> None:
    run = Run()
    run.spawn("a", "b")
    run.reason(1, words="first \x1b[2J\nthen this is the end")
    lines = drawn(run).splitlines()
    assert re.match(r" 1  a +reasoning", lines[1])
    assert lines[2] == r"      first \x1b[2J then this is the end"
    run.complete(1)
    assert drawn(run).splitlines()[2] == lines[2]


def test_at_80_columns_the_end_of_what_is_said_stands_where_it_is_told_what_an_agent_does() -> None:
    run = Run()
    run.spawn(*(f"w{number}" for number in range(30)))
    run.reason(1, words="The beginning, and much more, and then this is the end")
    assert re.search(r"^ 1  w0 +says ….*and then this is the end ", drawn(run), re.MULTILINE)
    run.fail(1, "it begins with what is wrong and goes on for much longer than there is room")
    assert re.search(r"^ 1  w0 +failed: ValueError: it begins with w", drawn(run), re.MULTILINE)


def test_wide_terminals_have_more_columns() -> None:
    run = Run()
    run.spawn("a")
    run.reason(1, model="gpt-5.2", words="the last words")
    run.answered(1, TokenUsage(1000, 234, cost_usd=0.5))

    def titles(columns: int) -> Sequence[str]:
        return re.split(" {2,}", drawn(run, columns=columns).splitlines()[0].strip())

    assert titles(80) == ["id", "agent", "doing", "turn", "tokens", "cost", "time"]
    assert titles(120) == ["id", "agent", "doing", "turn", "tools", "tokens", "cost", "time", "last words"]
    wide = [
        "id",
        "agent",
        "doing",
        "model",
        "turn",
        "tools",
        "in/out",
        "tokens",
        "cost",
        "time",
        "last words",
    ]
    assert titles(160) == titles(200) == wide
    assert titles(40) == ["id", "agent", "doing", "time"]
    assert titles(20) == ["agent", "doing"]
    assert re.search(r"gpt-5.2 .*the last words", drawn(run, columns=200))


def test_nothing_is_told_by_colour_alone() -> None:
    run = Run()
    run.spawn("asks", "fails", "ends", "works", "calls", "again")
    run.ask(1, "wipe")
    run.fail(2)
    run.complete(3)
    run.reason(4)
    run.call(5, "read_file")
    run.picture.retrying(6, "busy", 9.0, 0.0)
    text = drawn(run, columns=100)
    for said in (
        "waits for approval of wipe",
        "failed",
        "completed",
        "reasoning",
        "calls read_file",
        "asks again in",
    ):
        assert said in text


def test_numbers_take_little_room() -> None:
    assert [few(n) for n in (0, 9_999, 12_345, 999_949, 999_960, 4.5e6, 7e9, 3e15)] == (
        ["0", "9,999", "12.3k", "999.9k", "1.0M", "4.5M", "7.0G", "3,000.0T"]
    )
    assert [price(n) for n in (0.00001, 0.5, 0.99999, 12.3, 999.99, 1234.5)] == (
        ["$0.0000", "$0.5000", "$1.00", "$12.30", "$999.99", "$1,234"]
    )
    assert [span(n) for n in (-1, 9.9, 9.96, 59.4, 59.6, 3599, 3600, 86_399, 200_000)] == (
        ["0.0s", "9.9s", "10s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "2d07h"]
    )


def test_rates_are_told() -> None:
    run = Run()
    assert tell_rates(run.picture) == "0.0s so far"
    run.spawn("a")
    run.now = 2.0
    run.answered(1, TokenUsage(1500, 500, cost_usd=0.01))
    run.complete(1)
    run.picture.sample({}, [], 10.0)
    assert tell_rates(run.picture) == "10s so far, 250 tokens/s, 0.1 calls/s, $0.0750/min, 0.1 agents/s end"


def test_a_frame_of_ten_thousand_agents_takes_milliseconds() -> None:
    run = Run()
    for number in range(10_000):
        run.spawn(f"a{number}", parent=number // 7)
    frames = Frames(utf8())
    taken = []
    for _ in range(5):
        began = time.thread_time()
        drawn(run, 50, 200, frames)
        taken.append(time.thread_time() - began)
    assert min(taken) < 0.1  # a fifth of that where it was measured
