"""The document of the page, without a browser: it is whole, and nothing gets out of its data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agentpool._core.picture import Picture
from agentpool._core.picture_data import changes_since
from agentpool.web._page import PIECE, page_html, page_policy

WEB = Path(__file__).parent.parent / "agentpool" / "web"


class Reader(HTMLParser):
    """Collects the scripts and styles of a document, and what else could run or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], str]] = []
        self.problems: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.elements.append((tag, named, ""))
        if named.get("id"):
            self.ids.append(named["id"] or "")
        for name, value in attrs:
            if name.startswith("on") or name == "style" or name == "srcdoc":
                self.problems.append(f"{tag} {name}")
            if name in ("src", "href", "action") and not (value or "").startswith(("#", "data:")):
                self.problems.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", {}, ""))

    def handle_data(self, data: str) -> None:
        if self.elements:
            tag, named, before = self.elements[-1]
            self.elements[-1] = (tag, named, before + data)


def read(document: str) -> Reader:
    reader = Reader()
    reader.feed(document)
    return reader


def told(document: str) -> dict[str, Any]:
    """The data that a document holds, put together again."""
    scripts = [
        (named, json.loads(text)) for tag, named, text in read(document).elements if _is_data(tag, named)
    ]
    whole = next(data for named, data in scripts if named.get("id") == "run")
    pieces = [data for named, data in scripts if named.get("class") == "changes"]
    if pieces:
        whole["changes"] = {**pieces[0]}
        for piece in pieces[1:]:
            for key, items in piece.items():
                whole["changes"][key] = [*whole["changes"][key], *items]
    transcripts = {named["data-agent"]: data for named, data in scripts if named.get("class") == "transcript"}
    return {**whole, **({"transcripts": transcripts} if transcripts else {})}


def _is_data(tag: str, named: dict[str, str | None]) -> bool:
    return tag == "script" and named.get("type") == "application/json"


def test_the_document_has_no_handlers_no_styles_in_attributes_and_loads_nothing() -> None:
    reader = read(page_html({"live": True, "title": "run", "run": "r"}))
    assert reader.problems == []
    assert len(reader.ids) == len(set(reader.ids))
    script = (WEB / "page.js").read_text("utf-8")
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
    ):
        assert forbidden not in script, forbidden
    for forbidden in ("confirm(", "alert(", "prompt(", 'setAttribute("style"'):
        assert not re.search(rf"(?<![\w.]){re.escape(forbidden)}", script), forbidden
    assert not re.search(r"</(script|style)|<!--", script)
    assert "</style" not in (WEB / "page.css").read_text("utf-8")
    assert "url(" not in (WEB / "page.css").read_text("utf-8")


def test_every_name_that_the_script_looks_for_is_in_the_document() -> None:
    ids = set(read(page_html({"live": True, "title": "run", "run": "r"})).ids)
    asked = set(re.findall(r"\$\(\"([\w-]+)\"\)", (WEB / "page.js").read_text("utf-8")))
    assert asked - ids == set()


def test_the_policy_has_the_hashes_of_the_script_and_the_style() -> None:
    reader = read(page_html({"live": True, "title": "run", "run": "r"}))
    for wanted, directive in (("script", "script-src"), ("style", "style-src")):
        texts = [text for tag, named, text in reader.elements if tag == wanted and not _is_data(tag, named)]
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert len(hashes) == 1
        assert f"{directive} 'sha256-{hashes[0]}'" in page_policy()
    policies = [named["content"] for tag, named, _ in reader.elements if named.get("http-equiv")]
    assert policies == [page_policy()]
    assert "unsafe" not in page_policy()


@pytest.mark.parametrize(
    "text",
    [
        "</script><script>alert(1)</script>",
        "<!-- <script>",
        "]]>&amp;&lt;",
        "<!-- put: script -->",
        "\u2028\u2029\x00\x1b\r\n",
        "\ud83d \udc00",
        "\\u003c/script>",
        "x" * 1_000_000,
    ],
)
def test_what_is_said_comes_out_as_it_went_in(text: str) -> None:
    data = {
        "live": False,
        "title": text,
        "changes": {**changes_since(Picture(), 0), "notes": [[0.0, 1, text]]},
        "transcripts": {"1": [{"role": "user", "text": text}]},
    }
    document = page_html(data)
    document.encode("utf-8")
    assert told(document) == json.loads(json.dumps(data))
    assert len([1 for tag, named, _ in read(document).elements if tag == "script" and not named]) == 1


def test_a_long_run_is_in_pieces_and_nothing_of_it_is_missing() -> None:
    changes = {
        "version": 9,
        "agents": [{"id": number} for number in range(PIECE + 1)],
        "spans": [[number, "acting", 0, 1] for number in range(3 * PIECE)],
        "arrows": [],
        "notes": [],
        "gone": [],
    }
    document = page_html({"live": False, "title": "run", "changes": changes})
    assert document.count('class="changes"') == 1 + 1 + 2
    assert told(document)["changes"] == changes


def test_numbers_that_are_none_do_not_break_the_document() -> None:
    call = {"id": "1", "name": "f", "input": {"x": float("nan"), "y": [float("inf")]}}
    data = {"live": False, "title": "", "transcripts": {"1": [{"role": "assistant", "calls": [call]}]}}
    assert told(page_html(data))["transcripts"]["1"][0]["calls"][0]["input"] == {"x": None, "y": [None]}
