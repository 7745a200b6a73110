"""The agents of the fleet beside this file: plain functions, which ask a model only if there is one."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import trio
from checks import Finding, check_page, counted
from pages import Page, parse, read_page
from report import TITLE, Judgement, Review, render

from agentpool import AgentContext, AgentManifest, ModelAgent, UnknownAgentError

HERE = Path(__file__).parent
REVIEWER = ModelAgent(AgentManifest.load(HERE / "reviewer.toml"), output_type=Judgement)
EDITOR = ModelAgent(AgentManifest.load(HERE / "editor.toml"))
MOST_CHARACTERS = 60_000  # of a page, or of all findings, that a model is shown


# -- the reviewers --------------------------------------------------------------------


async def review(ctx: AgentContext, path: str, *, docs: str, report: str) -> str:
    """Review one page, and send the editor what was found.

    Args:
      ctx: the agent.
      path: the page.
      docs: the folder that is reviewed.
      report: where the editor writes to; a report of an earlier run is no page.
    """
    if await trio.to_thread.run_sync(_are_same, path, report):
        return "not reviewed: it is the report"
    try:
        return await _review(ctx, path, docs)
    except UnknownAgentError:
        return "not reviewed: the editor has ended"  # the editor's own line tells why


async def _review(ctx: AgentContext, path: str, docs: str) -> str:
    editor = ctx.find("editor")
    result = Review(path, 0, [Finding(1, "not reviewed", "its reviewer failed")])
    try:
        page, findings, text = await trio.to_thread.run_sync(_examine, Path(path), Path(docs))
        result = Review(path, page.words, findings)
        if ctx.driver is not None and text.strip():
            result = attrs.evolve(result, judgement=await _judge(ctx, path, text))
    finally:
        # Also if the model fails: this agent fails then, but what it has found is in the report.
        # A review that was cancelled is not sent: this raises then.
        await ctx.send(editor, result)
    return counted(findings)


def _are_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there, or may not be looked at
        return False


def _examine(path: Path, docs: Path) -> tuple[Page, list[Finding], str]:
    try:
        page = read_page(path)
        return page, check_page(path, page, docs), path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return parse(""), [Finding(line, "unreadable", "it is not UTF-8")], ""
    except OSError as error:
        return parse(""), [Finding(1, "unreadable", error.strerror or str(error))], ""


async def _judge(ctx: AgentContext, path: str, text: str) -> Judgement:
    """Ask the model; keep those of its quotations that are in the page."""
    cut = f" (its first {MOST_CHARACTERS:,} characters)" if len(text) > MOST_CHARACTERS else ""
    answer = await REVIEWER(ctx, f"The page {path}{cut}:\n\n{text[:MOST_CHARACTERS]}")
    words = " ".join(text.split())
    unclear = [passage for passage in answer.output.unclear if " ".join(passage.split()) in words]
    return attrs.evolve(answer.output, unclear=unclear)


# -- the editor --------------------------------------------------------------------------


async def edit(ctx: AgentContext, *, docs: str, report: str) -> str:
    """Receive the reviews until no reviewer is left, and write the report.

    Args:
      ctx: the agent.
      docs: the folder that is reviewed.
      report: where to write.

    Raises:
      FileExistsError: if something is there that is no report: whoever typed a path too much keeps it.
      OSError: if it cannot be written; that is found before anything is reviewed.
    """
    await trio.to_thread.run_sync(_claim, Path(report))
    reviews = [message.content async for message in ctx.inbox]
    summary = ""
    try:
        if ctx.driver is not None and reviews:
            summary = (await EDITOR(ctx, render(docs, reviews)[:MOST_CHARACTERS])).text
    finally:
        text = render(docs, reviews, summary)
        with trio.CancelScope(shield=True):  # what the reviewers have done must not be lost
            await trio.to_thread.run_sync(_write, Path(report), text)
    findings = [finding for each in reviews for finding in each.findings]
    return f"wrote {report}: {len(reviews)} pages, {counted(findings)}"


def _claim(path: Path) -> None:
    """Make sure that the report can be written, and that nothing but a report is written over."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
    if path.exists() and not path.is_file() and not path.is_dir():  # a terminal or a pipe
        return
    with path.open("a+b") as file:
        file.seek(0)
        if file.read(len(TITLE)) not in (b"", TITLE.encode()):
            raise FileExistsError(f"{str(path)!r} is no report. Give another path with --var report=PATH")


def _write(path: Path, text: str) -> None:
    # Names of files may be no Unicode; they are written as escapes. Encoded first, so that an error
    # does not leave an empty file.
    path.write_bytes(text.encode("utf-8", "backslashreplace"))
