"""What the editor does when no model is asked: receive until nobody is left, write, and say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from agentpool import Completion, CompletionRequest, ToolCall, ToolMessage, UserMessage

CHECKS = {
    "links": "Broken links",
    "headings": "Headings",
    "todos": "Unfinished",
    "long_lines": "Long lines",
}


def next_step(request: CompletionRequest) -> Completion:
    """Answer in the editor's place: the conversation so far tells what comes next."""
    last = request.messages[-1]
    if not isinstance(last, ToolMessage):
        return Completion(tool_calls=[ToolCall("receive-1", "receive_message")])
    reviews = [review for message in request.messages for review in _reviews_in(message)]
    if last.name == "write_file":
        return Completion(f"Wrote report.md: {len(reviews)} files reviewed.")
    if any(_reviews_in(last)):
        return Completion(tool_calls=[ToolCall(f"receive-{len(request.messages)}", "receive_message")])
    # A result without a review is the end: nobody is left who could send one.
    return Completion(
        tool_calls=[ToolCall("write", "write_file", {"path": "report.md", "content": render(reviews)})]
    )


def _reviews_in(message: object) -> Iterator[dict[str, Any]]:
    """Yield the reviewers' JSON objects in a message, wherever in its text they stand."""
    match message:
        case ToolMessage(name="receive_message"):
            text = message.result.content
        case UserMessage():
            text = message.content
        case _:
            return
    start = text.find('{"path"')
    while start >= 0:
        review, end = json.JSONDecoder().raw_decode(text, start)
        yield review
        start = text.find('{"path"', end)


def render(reviews: list[dict[str, Any]]) -> str:
    """Write the report: a table of all files, and below it what was found in each."""
    reviews = sorted(reviews, key=lambda review: review["path"])
    lines = [
        "# Review of the documentation",
        "",
        f"{len(reviews)} files, {sum(review['words'] for review in reviews)} words, "
        f"{sum(_count(review) for review in reviews)} findings.",
        "",
        "| file | words | findings |",
        "|---|---:|---:|",
        *(f"| {review['path']} | {review['words']} | {_count(review)} |" for review in reviews),
    ]
    for review in reviews:
        if _count(review):
            lines += ["", f"## {review['path']}"]
        for check, title in CHECKS.items():
            if review[check]:
                lines += ["", f"{title}:", "", *(f"- {finding}" for finding in review[check])]
    return "\n".join(lines) + "\n"


def _count(review: dict[str, Any]) -> int:
    return sum(len(review[check]) for check in CHECKS)
