"""What the page makes of what it is told: pieces, all told anew, and more than it keeps.

The server here is one that tells what a test has written, to bring about what the real one does seldom.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from browser_kit import ROWS, SECONDS, drawn, names_of, open_browser, open_page, until

from agentpool.web._page import page_html

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


class Teller(ThreadingHTTPServer):
    """Tells each browser that comes the next of some streams, and keeps the connection until it is cut.

    Attributes:
      streams: for each connection, pairs of an id and the data of an event.
      asked: what each connection said that it had seen.
    """

    daemon_threads = True

    def __init__(self, streams: Sequence[Sequence[tuple[str, Any]]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.streams = list(streams)
        self.asked: list[str | None] = []
        self.cut = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Teller

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        is_page = self.path == "/"
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8" if is_page else "text/event-stream")
        self.end_headers()
        if is_page:
            self.wfile.write(page_html({"live": True, "title": "run", "run": "r"}).encode())
            return
        if self.path.endswith("/transcript"):
            return
        number = len(self.server.asked)
        since = self.path.partition("?since=")[2]
        self.server.asked.append(self.headers.get("last-event-id") or since or None)
        for id, data in self.server.streams[min(number, len(self.server.streams) - 1)]:
            self.wfile.write(f"event: changes\nid: {id}\ndata: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()
        self.server.cut.wait(SECONDS)
        self.server.cut.clear()


@contextmanager
def told(browser: Any, *streams: Sequence[tuple[str, Any]]) -> Iterator[tuple[Teller, Any]]:
    server = Teller(streams)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with open_page(browser, f"http://127.0.0.1:{server.server_port}/") as page:
            yield server, page
    finally:
        server.cut.set()
        server.shutdown()
        thread.join(SECONDS)
        server.server_close()


def rows(*names: str, first: int = 1, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": first + number,
            "name": name,
            "spawned": 0.0,
            "started": 0.0,
            "kind": "running",
            "since": 9.0,
            **more,
        }
        for number, name in enumerate(names)
    ]


TOTALS = {"tokens": 0, "cost": 0, "spawned": 2, "completed": 0, "failed": 0, "aborted": 0, "rates": {}}
FIRST = {
    "reset": True,
    "time": 9.0,
    "agents": rows("one", "two"),
    "spans": [[1, "reasoning", 0.0, 1.0], [1, "acting", 1.0, 1.0, "blink"], [1, "acting", 1.0, 2.0, "shell"]],
    "arrows": [[1.5, 1, 2, 7, "question"], [1.5, 2, 1, 8, "reply"]],
    "notes": [[1.0, 1, "careful"], [1.0, 1, "very careful"]],
    "totals": TOTALS,
}
MORE = {
    "time": 9.5,
    "agents": rows("two", first=2),
    "spans": [[1, "waiting", 2.0, 3.0, "", [2]], [2, "waiting", 0.0, 3.0]],
    "arrows": [[2.5, 2, 1, 9, "message"]],
    "notes": [[2.0, 2, "careful"]],
    "totals": TOTALS,
}


def counted(page: Any) -> tuple[str, str, str]:
    """What the page has of the first agent, and of notes."""
    page.locator(ROWS).first.click()
    page.locator("#agent h2").wait_for()
    drawn(page)
    summaries = page.locator("#agent .part > summary")
    page.locator("#agent summary").nth(1).click()
    many = page.locator("#agent .part").nth(1).locator("tbody tr")
    many.first.wait_for()
    return summaries.first.inner_text(), str(many.count()), page.locator("#tab-notes").inner_text()


def test_what_came_while_the_connection_was_lost_is_told_from_where_it_was(browser: Any) -> None:
    with told(browser, [("r-1", FIRST)], [("r-2", MORE)]) as (server, page):
        page.locator(ROWS).nth(1).wait_for()
        server.cut.set()
        until(page, "document.getElementById('connection').dataset.tone === 'bad'")
        until(page, "document.getElementById('connection').textContent === 'live'")
        until(page, "document.getElementById('tab-notes').textContent === 'Notes (3)'")
        assert counted(page) == ("Timeline as a table (5)", "3", "Notes (3)")
        assert server.asked == [None, "r-1"]


def test_calls_that_took_no_time_at_the_same_moment_are_all_there(browser: Any) -> None:
    # Where time is virtual a call takes none.
    calls = [[1, "reasoning", 1.0, 1.0, "m"], [1, "acting", 1.0, 1.0, "a"], [1, "acting", 1.0, 1.0, "b"]]
    notes = [[1.0, 1, "careful"], [1.0, 1, "careful"]]
    with told(browser, [("r-1", {**FIRST, "spans": calls, "notes": notes})]) as (_, page):
        page.locator(ROWS).nth(1).wait_for()
        assert counted(page) == ("Timeline as a table (4)", "2", "Notes (2)")


def test_a_connection_that_a_person_begins_goes_on_from_where_the_last_one_was(browser: Any) -> None:
    words = rows("one", "two", words="a\u202eb")
    with told(browser, [("r-1", {**FIRST, "agents": words})], [("r-2", MORE)]) as (server, page):
        page.locator(ROWS).first.click()
        until(page, "document.querySelector('#agent').innerText.includes('a\\\\u202eb')")
        page.evaluate("document.getElementById('retry').click()")
        until(page, "document.getElementById('tab-notes').textContent === 'Notes (3)'")
        assert server.asked == [None, "r-1"]


def test_all_is_told_anew(browser: Any) -> None:
    anew = {**FIRST, "agents": rows("one", "three"), "spans": [], "arrows": [], "notes": []}
    with told(browser, [("r-1", FIRST), ("r-2", MORE)], [("r-9", anew)]) as (server, page):
        page.locator(ROWS).nth(1).wait_for()
        page.locator(ROWS).first.click()
        server.cut.set()
        until(page, "document.querySelector('.tree-body').innerText.includes('three')")
        assert names_of(page) == ["one", "three"]
        until(page, "document.getElementById('tab-notes').textContent === 'Notes'")
        until(
            page, "document.querySelector('#agent .part > summary').textContent === 'Timeline as a table (1)'"
        )
        assert page.locator("#agent h2").inner_text() == "one"


def test_agents_that_are_not_kept_any_more_go_and_their_children_stay(browser: Any) -> None:
    tree = {
        **FIRST,
        "agents": [
            *rows("boss", "gone"),
            *rows("child", first=3, parent=2),
            *rows("late", first=5, parent=4),
        ],
    }
    later = {"time": 10.0, "gone": [2], "agents": rows("late parent", first=4), "totals": TOTALS}
    with told(browser, [("r-1", tree)], [("r-2", later)]) as (server, page):
        page.locator(ROWS).nth(3).wait_for()
        assert names_of(page) == ["boss", "gone", "child", "late"]
        page.locator(ROWS).nth(1).click()
        server.cut.set()
        until(page, "!document.querySelector('.tree-body').innerText.includes('gone')")
        assert names_of(page) == ["boss", "child", "late parent", "late"]
        levels = [each.get_attribute("aria-level") for each in page.locator(ROWS).all()]
        assert levels == ["1", "1", "1", "2"]
        until(page, "!document.getElementById('agent-none').hidden")
        # Whose row went had the focus; a neighbour has it.
        until(page, "document.activeElement.view !== undefined")


def test_a_name_is_told_without_a_number_when_the_other_of_that_name_has_gone(browser: Any) -> None:
    def boss(**more: Any) -> list[dict[str, Any]]:
        return rows("boss", **(more | {"kind": "waiting", "blocked_on": [3]}))

    both = {**FIRST, "agents": [*boss(), *rows("twin", "twin", first=2)], "spans": []}
    later = {"time": 10.0, "gone": [2], "agents": boss(turn=2), "totals": TOTALS}
    with told(browser, [("r-1", both)], [("r-2", later)]) as (server, page):
        until(page, "document.querySelector('.tree-body')?.innerText.includes('waits for twin #3')")
        server.cut.set()
        until(page, "!document.querySelector('.tree-body').innerText.includes('#3')")
        assert "waits for twin" in page.locator(ROWS).first.inner_text()


def test_of_more_spans_than_are_kept_the_older_ones_go(browser: Any) -> None:
    lanes, each = 10, 1000
    stream: list[tuple[str, Any]] = [
        ("r-1", {**FIRST, "agents": rows(*map(str, range(lanes))), "spans": [], "arrows": [], "notes": []})
    ]
    for batch in range(75):
        spans = [
            [
                1 + number % lanes,
                "acting",
                round(batch + number // lanes / each, 4),
                round(batch + (number // lanes + 1) / each, 4),
            ]
            for number in range(lanes * each)
        ]
        stream.append((f"r-{batch + 2}", {"time": batch + 1.0, "spans": spans, "totals": TOTALS}))
    with told(browser, stream) as (_, page):
        until(page, "document.getElementById('elapsed').textContent >= '1:15'")
        page.locator(ROWS).first.click()
        page.locator("#agent h2").wait_for()
        drawn(page)
        kept = page.locator("#agent .part > summary").first.inner_text()
        many = int(kept.partition("(")[2].rstrip(")").replace(",", ""))
        assert 30_000 < many < 45_000
        page.locator("#timeline").focus()
        page.keyboard.press("End")
        page.keyboard.press("ArrowLeft")
        until(page, "document.getElementById('announce-span').textContent.includes('1:15.00')")


def test_a_batch_that_cannot_be_read_is_told_and_the_next_is_taken(browser: Any) -> None:
    broken = {"agents": [None]}
    with told(browser, [("r-1", FIRST), ("r-2", broken), ("r-3", {"agents": rows("three", first=3)})]) as (
        _,
        page,
    ):
        page.locator(ROWS).nth(2).wait_for()
        assert "could not be read" in page.locator("#trouble").inner_text()
        page.evaluate("document.getElementById('trouble').hidden = true")
