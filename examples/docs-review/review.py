"""The agents of the fleet beside this file: plain functions, which ask a model only if there is one."""

from __future__ import annotations

from pathlib import Path

import attrs
import trio
from checks import Finding, check_page, counted
from pages import Page, parse, read_page
from report import Judgement, Review, render

from agentpool import AgentContext, AgentManifest, ModelAgent

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
    result = Review(path, 0, [Finding(1, "not reviewed", "its reviewer failed")])
    try:
        page, findings, text = await trio.to_thread.run_sync(_examine, Path(path), Path(docs))
        result = Review(path, page.words, findings)
        if ctx.driver is not None and text.strip():
            result = attrs.evolve(result, judgement=await _judge(ctx, path, text))
    finally:
        # Also if the model fails: this agent fails then, but what it has found is in the report.
        # A review that was cancelled is not sent: this raises then.
        await ctx.send(ctx.find("editor"), result)
    return counted(findings)


def _are_same(path: str, other: str) -> bool:
    return Path(other).exists() and Path(path).samefile(other)


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
    """
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


def _write(path: Path, text: str) -> None:
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
    path.write_text(text, "utf-8")
