"""The lines of the live view follow from the events, the pool's statistics and the governors."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest
import trio
import trio.testing

pytest.importorskip("cyclopts")

from rich.console import Console

from agentpool import (
    AgentContext,
    AgentManifest,
    Budget,
    CompletionRequest,
    OverloadedError,
    RateLimitedError,
    ScriptedDriver,
    TokenUsage,
    open_agent_pool,
)
from agentpool._core import events as ev
from agentpool._core.looks import seconds_to_next_look
from agentpool._core.outcomes import Completed
from agentpool._core.past import Past, PastAgent
from agentpool._core.picture import Picture
from agentpool._kernel.descriptions import outcome_to_data
from agentpool.cli._drivers import Drivers
from agentpool.cli._frame import Frames, Size, folded
from agentpool.cli._journals import outcome_of
from agentpool.cli._live import LiveView
from agentpool.cli._progress import kind_of
from agentpool.cli._sums import pool_parts, provider_parts, standings_of, tell_all, tell_rates
from agentpool.cli._text import width_of
from agentpool.cli._view import PlainView
from agentpool.drivers.governed import GovernedDriver
from agentpool.drivers.retrying import RetryingDriver


def picture_of(*names: str) -> Picture:
    picture = Picture()
    for number, name in enumerate(names, 1):
        picture.take(ev.AgentSpawned(number, 0.0, number, 0, name=name))
        picture.take(ev.AgentStarted(number, 0.0, number, 0))
    return picture


def texts(picture: Picture, *, width: int = 80, rows: int = 24, time: float = 1.0) -> list[str]:
    picture.sample({}, [], time)
    lines = Frames(sys.stdout).frame(picture, ["8 slots"], Size(rows, width), time)
    return ["".join(text for text, _ in line) for line in lines]


def test_a_retry_is_shown_until_the_call_is_made_again() -> None:
    picture = picture_of("a", "b")
    picture.retrying(1, "OverloadedError: \x1b[2J busy", 4.0, 1.0)
    picture.retrying(99, "nobody", 4.0, 1.0)
    _, first, second, *_ = texts(picture, width=130)
    assert re.search(r" 1  a +asks again in 3 s .*OverloadedError: \\x1b\[2J busy", first)
    _, first, *_ = texts(picture, width=80)
    assert "asks again in 3 s" in first
    assert " 2  b             running" in second
    _, first, *_ = texts(picture, time=4.5)
    assert " 1  a             running" in first


def test_no_line_is_longer_than_the_terminal_and_what_is_hidden_is_counted() -> None:
    picture = picture_of(*(f"agent-with-a-long-name-{number}-日本" for number in range(30)))
    for width in (10, 20, 40, 80, 99, 100, 200):
        for rows in (2, 3, 5, 10, 24):
            lines = texts(picture, width=width, rows=rows)
            assert len(lines) <= rows - 1
            assert [line for line in lines if width_of(line) > width] == []
    assert "30 agents: 30 running" in lines
    shown = sum("agent-with-a-long-name" in line for line in lines)
    assert f"    {30 - shown} more: {30 - shown} running" in lines


def test_the_figures_have_few_lines_however_many_there_are() -> None:
    lines = folded("word " * 1000, 80, 4)
    assert len(lines) == 4
    assert all(len(line) <= 80 for line in lines)
    assert lines[-1].endswith("...")
    assert len(folded("x" * 100, 0, 2)) == 2


async def test_very_many_waits_and_targets_are_counted() -> None:
    async def waits(ctx: AgentContext) -> None:
        await ctx.receive()

    async def parent(ctx: AgentContext) -> None:
        for number in range(20):
            await ctx.spawn(waits, name=f"child-{number}")
        await ctx.join_all()

    async with open_agent_pool(max_concurrent=50) as pool:
        await pool.spawn(parent, name="p" * 200)
        await trio.testing.wait_all_tasks_blocked()
        told = ", ".join(pool_parts(pool.statistics()))
        assert "21 waiting" in told
        assert "child-0 and child-1 and 18 more" in told
        assert " and 16 more)" in told
        assert len(told) < 500
        pool.abort_all()


class Refusing(ScriptedDriver):
    """Refuses its first call."""

    def __init__(self, error: Exception) -> None:
        super().__init__(["well"])
        self.error: Exception | None = error

    async def complete(self, request: CompletionRequest) -> Any:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return await super().complete(request)


async def test_the_providers_queue_and_pause_are_told(autojump_clock: trio.testing.MockClock) -> None:
    async with AsyncExitStack() as stack:
        drivers = Drivers(stack, None, None, print)
        assert provider_parts(drivers) == []
        governed = GovernedDriver(Refusing(RateLimitedError(retry_after=7.0)))
        drivers._governors["openai", None] = governed
        assert provider_parts(drivers) == ["openai: 0 calls under way, 0 waiting"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(governed.complete, CompletionRequest())
            await trio.testing.wait_all_tasks_blocked()
            (told,) = provider_parts(drivers)
            assert told.startswith("openai: 0 calls under way, 1 waiting, 1 refused, paused for ")


async def test_a_retry_names_its_agent(autojump_clock: trio.testing.MockClock) -> None:
    told: list[tuple[int, str, float]] = []
    async with AsyncExitStack() as stack:
        drivers = Drivers(stack, None, None, print, lambda *call: told.append(call))
        driver = RetryingDriver(
            Refusing(OverloadedError("busy")), on_retry=drivers._note_retry, base=0.5, seed=1
        )

        async def agent(ctx: AgentContext) -> str:
            return (await driver.complete(CompletionRequest())).text

        async with open_agent_pool(max_concurrent=1) as pool:
            handle = await pool.spawn(agent)
            assert await handle.result() == "well"
        await RetryingDriver(Refusing(OverloadedError()), on_retry=drivers._note_retry).complete(
            CompletionRequest()
        )  # outside of every agent: nobody's line
    ((agent_id, why, seconds),) = told
    assert (agent_id, why) == (handle.id, "OverloadedError: busy")
    assert 0 <= seconds <= 0.5


async def test_every_manifest_of_a_thousand_agents_is_complained_of_once() -> None:
    from agentpool import ManifestError

    manifest = AgentManifest(name="a")
    async with AsyncExitStack() as stack:
        with pytest.raises(ManifestError) as caught:
            await Drivers(stack, None, None, print).open_for([manifest] * 1000)
    assert len(caught.value.findings) == 1


def test_warnings_above_the_table_do_not_flood_the_screen() -> None:
    out = io.StringIO()
    view = LiveView(Console(file=out, force_terminal=False, width=80))
    for number in range(2000):
        view.take(ev.GuardWarned(number, 0.0, 1, 0, text="loops \x1b[2J [red] :warning: " * 1000))
    view.close()
    told = out.getvalue()
    assert told.count("1: warning: loops") == 100
    assert told.rstrip().endswith("2,000 warnings so far")
    assert len(told.splitlines()) < 700
    assert "\x1b" not in told
    assert "[red] :warning:" in " ".join(told.split())


async def test_a_terminal_that_goes_away_does_not_take_the_run_along(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Gone:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

        def flush(self) -> None:
            pass

        def isatty(self) -> bool:
            return True

    class Before(Gone):
        lost = False

        def write(self, text: str) -> int:
            return super().write(text) if self.lost else len(text)

    file = Before()
    view = LiveView(Console(file=file, force_terminal=True))  # type: ignore[arg-type]
    async with AsyncExitStack() as stack, open_agent_pool(max_concurrent=1) as pool:
        file.lost = True
        with trio.move_on_after(3):
            await view.keep_drawing(pool, Drivers(stack, None, None, print))
        view.tell("nobody reads this")
    view.close()


def test_frames_take_no_more_than_a_fiftieth_of_the_time() -> None:
    assert seconds_to_next_look(0.0) == seconds_to_next_look(0.005) == 0.25
    assert seconds_to_next_look(0.03) == pytest.approx(1.5)
    assert seconds_to_next_look(3.0) == 5.0


@pytest.mark.parametrize("make", [lambda: LiveView(Console(file=io.StringIO())), PlainView])
async def test_a_view_of_a_resumed_run_tells_the_sums_of_the_whole_run(
    make: Callable[[], LiveView | PlainView],
) -> None:
    def agent(id: int, parent: int, tokens: int, ended: bool) -> PastAgent:
        usage = TokenUsage(tokens, cost_usd=tokens / 1000)
        common: dict[str, Any] = {"agent_id": id, "name": f"a{id}", "parent_id": parent, "usage": usage}
        completed = Completed(**common, started_at=1.0 * id, duration=10.0 - id, restarts=0, value=None)
        outcome = outcome_to_data(completed) if ended else None
        return PastAgent(
            id, f"a{id}", parent, (parent, 0, None), {}, {}, 1.0 * id, usage=usage, outcome=outcome
        )

    # 2 and its child 3 ended at the same moment; 1 has not.
    agents = [agent(1, 0, 100, False), agent(2, 1, 20, True), agent(3, 2, 3, True)]
    past = Past(elapsed=61.0, agents={each.id: each for each in agents}, ended=[3, 2])
    view = make()
    try:
        view.goes_on(past)
        now = trio.current_time()
        view.take(ev.AgentSpawned(1, now, 1, 0, name="a1"))
        view.take(ev.AgentStarted(2, now, 1, 0))
    finally:
        view.close()
    picture = view._picture
    assert tell_all(picture, standings_of(picture)) == "3 agents: 1 running, 2 completed; 123 tokens, $0.1230"
    assert tell_rates(picture).startswith("1m00s so far")
    row = picture.rows[1]
    assert (row.usage.total_tokens, row.started_at, row.since) == (
        100,
        row.spawned_at,
        pytest.approx(now, abs=1),
    )
    assert row.spawned_at == pytest.approx(now - 60.0, abs=1)
    assert picture.rows[3].ended_at == pytest.approx(now - 51.0, abs=1)
    assert picture.rates.at(now).tokens == picture.rates.at(now).ends == 0
    outcome = outcome_of(agents[1])
    assert outcome is not None
    ended = attrs.evolve(outcome, agent_id=1, usage=TokenUsage(150, cost_usd=0.15))
    view.take(ev.AgentFinished(3, now + 1, 1, 0, ended))
    assert tell_all(picture, standings_of(picture)) == "3 agents: 3 completed; 173 tokens, $0.1730"


async def test_agents_that_were_there_before_the_view_are_seen() -> None:
    async def waits(ctx: AgentContext) -> None:
        await ctx.receive()

    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(waits, name="child")
        await ctx.join_all()

    out = io.StringIO()
    async with AsyncExitStack() as stack, open_agent_pool(max_concurrent=5) as pool:
        await pool.spawn(parent, name="resumed")
        await trio.testing.wait_all_tasks_blocked()
        view = LiveView(Console(file=out, force_terminal=True, width=250, height=24, color_system=None))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(view.keep_drawing, pool, Drivers(stack, None, None, print))
                while "0 dead letters" not in out.getvalue():
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        view.close()
        pool.abort_all()
    assert re.search(r" 1  resumed +waits for child", out.getvalue())
    assert re.search(r" 2  `-child +waits for anybody", out.getvalue())
    assert "(resumed for child, child for anybody)" in out.getvalue()


async def test_a_budget_is_told_with_its_limits() -> None:
    async with open_agent_pool(
        ScriptedDriver(["well"]), max_concurrent=1, budget=Budget(tokens=2_000_000, cost_usd=5, calls=10)
    ) as pool:
        first, *_ = pool_parts(pool.statistics())
        assert first == "budget: 0 of 2.0M tokens, $0.0000 of $5.00, 0 of 10 calls"


def test_events_are_counted_by_their_kinds() -> None:
    done = Completed(agent_id=1, name="a", parent_id=0, value="x")
    at = (1, 0.0, 1, 0)
    told = [
        kind_of(event)
        for event in (
            ev.AgentStarted(*at),
            ev.AgentFinished(*at, outcome=done),
            ev.AgentRestarted(*at, 1, done),
            ev.GuardWarned(*at, text="loops"),
        )
    ]
    assert told == ["started", "completed", "restarts", "warnings"]


async def test_a_warning_beside_a_question_is_shown_when_it_is_answered_and_a_line_at_once() -> None:
    out = io.StringIO()
    view = LiveView(Console(file=out, force_terminal=True, width=80, height=24, color_system=None))
    asked = []
    with view.asking(lambda: asked.append("again")):
        view.take(ev.GuardWarned(1, 0.0, 1, 0, text="loops"))
        view.tell("stopping")
        assert "stopping" in out.getvalue()
        assert "loops" not in out.getvalue()
    assert asked == ["again"]
    assert "warning: loops" in out.getvalue()
    view.close()


def test_what_is_printed_by_agents_stands_above_and_is_whole_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"  # type: ignore[assignment]

        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    view = LiveView(Console(stderr=True, force_terminal=True, width=80, height=24, color_system=None))
    assert (sys.stderr.encoding, sys.stderr.isatty()) == ("utf-8", True)
    print("first")
    for number in range(30_000):
        print(number, file=sys.stderr)
    with pytest.raises(TypeError, match="must be str, not bytes"):
        sys.stderr.write(b"x")  # type: ignore[arg-type]
    print("no end", end="", file=sys.stderr, flush=True)
    view.close()
    assert sys.stderr is out
    lines = out.getvalue().replace("\r\x1b[2K", "").split("\n")
    assert [line for line in lines if line.isdecimal()] == [str(number) for number in range(30_000)]
    assert any("first" in line for line in lines)
    assert any("no end" in line for line in lines)
