"""Takes the pictures of the live page: `python docs/page_pictures.py`

The command runs with `--web`, Chromium looks at the page, and what stands there is the picture. Nothing is
painted by hand. It needs Chromium and playwright.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from scene import write_scene

STATIC = Path(__file__).parent / "_static"
SIZE = {"width": 1280, "height": 760}
LINK = re.compile(r"http://127\.0\.0\.1:\d+/\?token=\S+")


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """Run the scene with the page and a journal; the value is the page's link."""
    command = [sys.executable, "-m", "agentpool", "run", str(write_scene(directory))]
    command += ["--web", "--stay", "--journal", str(directory / "run.db")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        link = None
        while link is None:
            line = process.stderr.readline()
            if not line:
                raise SystemExit("the run ended before it told its page")
            link = LINK.search(line)
        yield link[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def look(page: Any, directory: Path) -> None:
    """Take the pictures, while the run goes on."""
    page.get_by_role("row", name=re.compile("himalia")).wait_for()
    page.wait_for_function("() => document.body.innerText.includes('waits for librarian')")
    page.wait_for_timeout(2_500)  # so that there is a timeline to look at
    page.screenshot(path=STATIC / "page.png")
    page.get_by_role("row", name=re.compile("^librarian")).click()
    page.get_by_text("reply_message").first.wait_for()
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=STATIC / "page-details.png")
    approve = page.get_by_role("button", name=re.compile("Approve"))
    approve.wait_for(timeout=60_000)
    page.emulate_media(color_scheme="light")
    page.screenshot(path=STATIC / "page-approval.png")
    page.wait_for_timeout(600)  # a button that has just appeared takes no click
    approve.click()
    page.wait_for_function("() => /ended|completed/.test(document.title + document.body.innerText)")


def main() -> None:
    """Run the scene, and take the pictures."""
    browser_path = shutil.which("chromium")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=options)
        with running(Path(name)) as link:
            page = browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
            page.goto(link)
            look(page, Path(name))
        browser.close()


if __name__ == "__main__":
    main()
