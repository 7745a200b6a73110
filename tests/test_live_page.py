"""The live page's server on real sockets: what a browser is told, and what it may have done."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

pytest.importorskip("hypercorn")
pytest.importorskip("starlette")

from live_page_kit import SECONDS, Browser, page_of, started_page

from agentpool import AgentContext, open_agent_pool

pytestmark = pytest.mark.processes


async def waiter(ctx: AgentContext) -> None:
    await trio.sleep_forever()


async def parent(ctx: AgentContext) -> None:
    await ctx.spawn(waiter, name="child")
    await trio.sleep_forever()


async def browser_knows(browser: Browser, name: str) -> None:
    """Wait until a browser that looks has been told of an agent."""
    with trio.fail_after(SECONDS):
        while not browser.named(name):
            await trio.sleep(0.01)


async def test_a_browser_sees_the_agents_come_and_go() -> None:
    async with open_agent_pool(max_concurrent=4) as pool, page_of(pool, title="a run") as page:
        async with page.browser() as browser:
            handle = await pool.spawn(parent, name="parent")
            await browser.look(lambda seen: seen.named("child").get("started") is not None)
            assert browser.named("child")["parent"] == handle.id
            assert browser.latest["pool"]["slots"] == 4
            assert browser.resets == 1
            handle.abort("enough")
            await browser.look(lambda seen: seen.named("child").get("state") == "aborted")
            assert browser.named("parent")["reason"] == "enough"
            assert browser.resets == 1


async def test_the_page_is_one_document_that_loads_nothing() -> None:
    async with open_agent_pool(max_concurrent=4) as pool, page_of(pool, title="<b>my & run</b>") as page:
        async with page.browser() as browser:
            response = await browser.get("/")
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/html; charset=utf-8"
            assert "<b>my" not in response.text
            assert '"live":true' in response.text.replace(" ", "")
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "connect-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy


async def test_agents_that_were_there_before_the_page_are_seen() -> None:
    async with open_agent_pool(max_concurrent=4) as pool:
        handle = await pool.spawn(parent, name="parent")
        await trio.testing.wait_all_tasks_blocked()
        async with page_of(pool) as page, page.browser() as browser:
            await browser.look(lambda seen: seen.named("child"))
            assert browser.named("child")["parent"] == handle.id
            assert "state" not in browser.named("parent")  # it runs
        handle.abort()


async def test_the_end_of_the_run_is_told_and_all_stays_there_to_be_seen() -> None:
    async def quick(ctx: AgentContext) -> str:
        return "done"

    async with trio.open_nursery() as nursery:
        with trio.fail_after(SECONDS):
            async with open_agent_pool(max_concurrent=4) as pool:
                page = await started_page(nursery, pool)
                async with page.browser() as early:
                    handle = await pool.spawn(quick, name="quick")
                    await early.look(lambda seen: seen.named("quick").get("state") == "completed")
                    assert early.exit is None
            async with page.browser() as late:
                await late.look()
                assert late.named("quick")["state"] == "completed"
                assert late.exit == "the pool has ended"
                assert (await late.post(f"/agents/{handle.id}/abort")).status_code == 409
                assert (await late.post("/drain")).status_code == 409
                assert (await late.get(f"/agents/{handle.id}/transcript")).json()["messages"] == []
        nursery.cancel_scope.cancel()


async def test_who_looks_is_told_of_the_end_also_when_the_server_ends_at_once() -> None:
    seen = trio.Event()

    async def look(browser: Browser) -> None:
        await browser.look()
        seen.set()

    async with trio.open_nursery() as looking:
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            async with open_agent_pool(max_concurrent=4) as pool:
                page = await started_page(nursery, pool)
                browser = await stack.enter_async_context(page.browser())
                looking.start_soon(look, browser)
                handle = await pool.spawn(waiter, name="last")
                await browser_knows(browser, "last")
                handle.abort()
            nursery.cancel_scope.cancel()
            with trio.fail_after(SECONDS):
                with trio.CancelScope(shield=True):
                    await seen.wait()
        assert browser.exit == "the pool has ended"
        assert browser.named("last")["state"] == "aborted"
