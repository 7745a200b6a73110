"""The page with 10,000 agents: input is answered within 100 ms, also while everything changes."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser_kit import (
    ROWS,
    SECONDS,
    Drawing,
    drawn,
    file_data,
    large_picture,
    open_browser,
    open_file,
    open_page,
    until,
)

from agentpool._core.picture import Picture
from agentpool._core.picture_data import changes_since
from agentpool.web._page import page_html, page_policy

pytestmark = pytest.mark.processes

AGENTS = 10_000
ANSWERED_MS = 100.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def large() -> Picture:
    return large_picture(AGENTS, 20)


# In the page: the time from an input until the frame that answers it has been drawn; and long tasks.
MEASURE = """() => {
  window.answered = {};
  if (window.longTasks) { window.longTasks.length = 0; return; }
  const note = (what, began) => requestAnimationFrame(() => {
    const {port1, port2} = new MessageChannel();
    port1.onmessage = () => (window.answered[what] ||= []).push(performance.now() - began);
    port2.postMessage(null);
  });
  for (const kind of ["keydown", "pointerdown", "wheel", "input"]) {
    addEventListener(kind, (event) => note(kind, event.timeStamp), {capture: true, passive: true});
  }
  window.longTasks = [];
  new PerformanceObserver((list) => {
    for (const each of list.getEntries()) window.longTasks.push(each.duration);
  }).observe({type: "longtask", buffered: false});
}"""


def use(page: Any, rounds: int = 8, row: int = 5) -> dict[str, list[float]]:
    """Do what a person does, and return how long each kind of input took to be answered, in ms."""
    page.evaluate(MEASURE)
    box = page.locator("#scroll").bounding_box()
    for number in range(rounds):
        page.locator(ROWS).nth(row).click(position={"x": 150, "y": 10})
        for key in ("ArrowDown", "PageDown", "End", "Home", "ArrowLeft", "ArrowRight"):
            page.keyboard.press(key)
        page.mouse.move(box["x"] + 150, box["y"] + 200)
        page.mouse.wheel(0, 4000)
        page.locator("#search").focus()
        page.keyboard.type(f"{number}")
        page.keyboard.press("Backspace")
        page.locator("#timeline").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("+" if number % 2 else "-")
    drawn(page)
    told: dict[str, list[float]] = page.evaluate("window.answered")
    tasks: list[float] = page.evaluate("window.longTasks")
    for kind, times in told.items():
        ordered = sorted(times)
        print(
            f"{kind}: {len(times)} inputs, median {statistics.median(times):.0f} ms,"
            f" 95 % within {ordered[int(len(ordered) * 0.95)]:.0f} ms, at most {ordered[-1]:.0f} ms"
        )
    print(f"long tasks: {len(tasks)}, at most {max(tasks, default=0):.0f} ms")
    return told


def answers_in_time(page: Any, rounds: int = 8, row: int = 5) -> None:
    """Half of the inputs of each kind are answered in time; on a machine that is busy, at the third try."""
    for tries_left in (2, 1, 0):
        told = use(page, rounds, row)
        assert set(told) == {"keydown", "pointerdown", "wheel", "input"}
        late = {kind: times for kind, times in told.items() if statistics.median(times) >= ANSWERED_MS}
        if not late:
            return
        assert tries_left, late


def test_ten_thousand_agents_answer_at_once(browser: Any, large: Picture, tmp_path: Path) -> None:
    assert len(large.spans) >= 200_000
    with open_file(browser, tmp_path, file_data(large)) as page:
        page.locator("#unfold-all").click()
        until(page, f"document.getElementById('tree').getAttribute('aria-rowcount') === '{AGENTS + 1}'")
        answers_in_time(page)


def test_a_lane_of_a_hundred_thousand_spans_is_drawn_in_a_moment(browser: Any, tmp_path: Path) -> None:
    drawing = Drawing()
    agent = drawing.spawn("busy")
    for turn in range(50_000):
        for phase in ("reason", "act"):
            drawing.time += 0.01
            drawing.phase(agent, phase, turn)
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        page.locator(ROWS).first.wait_for()
        page.locator(ROWS).first.click()
        page.locator("#agent summary").first.click()
        page.locator("#timeline").focus()
        answers_in_time(page, 4, 0)
        page.locator("#timeline").focus()
        page.keyboard.press("0")
        drawn(page)
        box = page.locator("#timeline").bounding_box()
        page.mouse.move(box["x"] + 200, page.locator(ROWS).first.bounding_box()["y"] + 10)
        assert "spans are here: zoom in" in page.locator("#tip").inner_text()


class Stand(ThreadingHTTPServer):
    """A server that changes everything four times a second: more than a pool ever does."""

    daemon_threads = True

    def __init__(self, picture: Picture) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.first = changes_since(picture, 0)
        self.left = threading.Event()
        self.rounds = 0


class _Handler(BaseHTTPRequestHandler):
    server: Stand

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/":
            body = page_html({"live": True, "title": "large", "run": "r"}).encode()
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-security-policy", page_policy())
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        if self.path != "/events":
            self.send_header("content-length", "15")
            self.end_headers()
            self.wfile.write(b'{"messages":[]}')
            return
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            self._tell()
        except OSError:
            pass

    def _tell(self) -> None:
        first, version = self.server.first, 1
        rows = [dict(row) for row in first["agents"]]
        for key in ("spans", "arrows"):
            for start in range(0, len(first[key]), 2000):
                self._send(version, {"reset": start == 0 and key == "spans", "time": first["time"],
                                     "agents": rows if not start and key == "spans" else [],
                                     key: first[key][start : start + 2000]})  # fmt: skip
        self._send(version, {"totals": first["totals"], "time": first["time"]})
        moment = first["time"]
        while not self.server.left.wait(0.25):
            self.server.rounds += 1
            version, moment = version + 1, moment + 0.25
            for number, row in enumerate(rows):
                row["tokens"] = row.get("tokens", 0) + 10
                row["words"] = f"word {version} of {number}"
                if "ended" not in row:
                    row.update(kind="reasoning" if version % 2 else "acting", since=moment, turn=version)
            for start in range(0, len(rows), 500):
                piece = rows[start : start + 500]
                spans = [
                    [row["id"], "reasoning", moment - 0.25, moment] for row in piece if "ended" not in row
                ]
                self._send(version, {"agents": piece, "spans": spans, "time": moment})

    def _send(self, version: int, data: Any) -> None:
        self.wfile.write(f"event: changes\nid: r-{version}\ndata: {json.dumps(data)}\n\n".encode())


@contextmanager
def stand(picture: Picture) -> Iterator[Stand]:
    server = Stand(picture)
    thread = threading.Thread(target=server.serve_forever, name="stand")
    thread.start()
    try:
        yield server
    finally:
        server.left.set()
        server.shutdown()
        thread.join(SECONDS)
        server.server_close()


def test_input_is_answered_while_ten_thousand_rows_change_four_times_a_second(
    browser: Any, large: Picture
) -> None:
    with stand(large) as server, open_page(browser, f"http://127.0.0.1:{server.server_port}/") as page:
        page.locator("#unfold-all").click()
        until(page, f"document.getElementById('found').textContent.endsWith(' of {AGENTS:,} shown')")
        page.locator("#unfold-all").click()
        until(page, f"document.getElementById('tree').getAttribute('aria-rowcount') === '{AGENTS + 1}'")
        before, began = server.rounds, time.monotonic()
        answers_in_time(page)
        print(
            f"{(server.rounds - before) / (time.monotonic() - began):.1f} batches of {AGENTS:,} rows a second"
        )
        assert server.rounds > before
        # And it shows what is new.
        until(page, "document.querySelector('.tree-body').innerText.includes('word ')")
