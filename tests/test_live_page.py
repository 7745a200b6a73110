"""The live page's server on real sockets: what a browser is told, and what it may have done."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, suppress

import pytest
import trio
import trio.testing

pytest.importorskip("hypercorn")
pytest.importorskip("starlette")
pytest.importorskip("httpx2")

import httpx2
from live_page_kit import SECONDS, Browser, NoRoomError, Page, cookie_of, events_in, page_of, started_page

from agentpool import AgentContext, open_agent_pool
from agentpool._core import picture_pieces
from agentpool.web import _serve, _streams, serve_live_page

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


async def test_a_wait_of_which_no_event_tells_is_seen_to_begin_and_to_end() -> None:
    go = trio.Event()

    async def child(ctx: AgentContext) -> None:
        await go.wait()

    async def boss(ctx: AgentContext) -> None:
        handle = await ctx.spawn(child, name="child")
        await handle.wait()
        await trio.sleep_forever()

    async with open_agent_pool(max_concurrent=4) as pool, page_of(pool) as page, page.browser() as browser:
        handle = await pool.spawn(boss, name="boss")
        await browser.look(lambda seen: seen.named("boss").get("kind") == "waiting")
        assert browser.named("boss")["blocked_on"] == [browser.named("child")["id"]]
        go.set()
        await browser.look(lambda seen: seen.named("boss").get("kind") == "running")
        handle.abort()


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


# -- connections that are lost -------------------------------------------------------------------


async def test_a_browser_that_is_cut_off_anywhere_knows_in_the_end_what_the_others_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut after each number of bytes, also within an event: nothing is missing, and nothing comes twice."""
    monkeypatch.setattr(picture_pieces.pieces_since, "__defaults__", (3,))  # many pieces

    async def teller(ctx: AgentContext, to: int) -> None:
        for _ in range(3):
            await ctx.send(to, "hello")
            await ctx.send(to, "again")
            await trio.sleep(0.002)

    async def listener(ctx: AgentContext) -> None:
        async for _ in ctx.inbox:
            pass

    async with trio.open_nursery() as nursery:
        with trio.fail_after(2 * SECONDS):
            async with open_agent_pool(max_concurrent=10) as pool:
                page = await started_page(nursery, pool)
                async with page.browser() as cut_one:
                    for number in range(8):
                        to = await pool.spawn(listener, name=f"listener {number}")
                        await pool.spawn(teller, to.id, name=f"teller {number}")
                        await cut_after(cut_one, 300 * number)
                    await pool.drain(grace=5)
            await cut_one.client.aclose()
            async with httpx2.AsyncClient(cookies=cut_one.client.cookies) as client:
                cut_one.client = client
                size = 100
                while cut_one.exit is None:
                    await cut_after(cut_one, size)
                    size += 137
                late = Browser(page.address, client)
                await late.look()
        nursery.cancel_scope.cancel()
    assert len(late.arrows) == 48
    assert late.pieces > 10
    assert late.rows == cut_one.rows
    assert sorted(map(str, late.spans)) == sorted(map(str, cut_one.spans))
    assert sorted(map(str, late.arrows)) == sorted(map(str, cut_one.arrows))
    assert late.notes == cut_one.notes


async def cut_after(browser: Browser, size: int) -> None:
    """Have a browser look until so many bytes came, or it hears nothing new; then its connection is lost."""
    headers = {} if browser.seen is None else {"last-event-id": browser.seen}
    taken = b""
    url = browser.address + "/events"
    async with browser.client.stream("GET", url, headers=headers, timeout=SECONDS) as response:
        with trio.move_on_after(0.5):
            async for data in response.aiter_raw():
                taken += data
                if len(taken) > size:
                    break
    for told in events_in(taken[: size + 1]):
        browser.take(told)


async def test_the_version_is_taken_from_the_header_before_the_address() -> None:
    async with open_agent_pool(max_concurrent=4) as pool, page_of(pool) as page, page.browser() as browser:
        handle = await pool.spawn(waiter, name="one")
        await browser.look(lambda seen: seen.named("one"))
        first = browser.seen
        assert first is not None
        run = first.rpartition("-")[0]
        second = await pool.spawn(waiter, name="two")
        await browser.look(lambda seen: seen.named("two"))
        assert browser.resets == 1
        # A tab that was opened with `since`, and comes back by itself: it has "two" already.
        browser.rows.clear()
        await browser.look(lambda seen: True, path=f"/events?since={first}")
        assert browser.rows == {}
        for wrong in (f"{run}-999999", "another-3", "nonsense", f"{run}-", f"{run}-x", f"{run}--1", "-"):
            browser.seen = wrong
            resets = browser.resets
            await browser.look(lambda seen: seen.named("one") and seen.named("two"))
            assert browser.resets == resets + 1, wrong
        browser.seen = None
        browser.rows.clear()
        resets = browser.resets
        await browser.look(lambda seen: seen.named("two"), path=f"/events?since={first}")
        assert browser.resets == resets
        handle.abort()
        second.abort()


async def test_a_browser_begins_anew_when_another_run_answers_at_its_address() -> None:
    async with open_agent_pool(max_concurrent=4) as pool:
        handle = await pool.spawn(waiter, name="first run")
        async with page_of(pool) as page, page.browser() as browser:
            await browser.look(lambda seen: seen.named("first run"))
            port = page.port
        handle.abort()
    async with open_agent_pool(max_concurrent=4) as pool:
        handle = await pool.spawn(waiter, name="second run")
        async with page_of(pool, port=port) as page:
            response = await browser_again(browser, page)
            assert response == 303
            await browser.look(lambda seen: seen.named("second run"))
            assert not browser.named("first run")
            assert browser.resets == 2
            await browser.client.aclose()
        handle.abort()


async def browser_again(browser: Browser, page: Page) -> int:
    """Have a browser whose window was kept open come by the link of another run."""
    browser.client = httpx2.AsyncClient(cookies=browser.client.cookies, timeout=SECONDS)
    assert (await browser.get("/")).status_code == 403
    return (await browser.client.get(page.link)).status_code


async def test_a_browser_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serve, "SEND_SECONDS", 0.3)
    monkeypatch.setattr(_streams, "MOST_STREAMS", 1)
    async with open_agent_pool(max_concurrent=2_000) as pool, page_of(pool) as page:
        # More than the buffers of a connection take.
        handles = [await pool.spawn(waiter, name="n" * 10_000) for _ in range(1_500)]
        async with page.browser() as browser:
            async with await trio.open_tcp_stream("127.0.0.1", page.port) as stream:
                head = f"GET /events HTTP/1.1\r\nhost: 127.0.0.1:{page.port}\r\n"
                await stream.send_all(f"{head}cookie: {cookie_of(browser)}\r\n\r\n".encode())
                assert (await stream.receive_some(12)) == b"HTTP/1.1 200"
                assert (await browser.get("/events")).status_code == 503  # the only place is taken
                with trio.fail_after(SECONDS):
                    while len(browser.rows) < 1_500:
                        with suppress(NoRoomError):
                            await browser.look(lambda seen: len(seen.rows) == 1_500)
        for handle in handles:
            handle.abort()


class StartLost(trio.TaskStatus[str]):
    """Ctrl-C comes at the very moment at which the page has started."""

    def started(self, value: str | None = None) -> None:
        raise KeyboardInterrupt


async def test_a_page_that_is_interrupted_as_it_starts_does_not_go_on_for_ever() -> None:
    async with open_agent_pool(max_concurrent=4) as pool:
        with trio.move_on_after(2) as scope:
            with pytest.raises(BaseExceptionGroup) as raised:
                await serve_live_page(pool, task_status=StartLost())
            assert raised.group_contains(KeyboardInterrupt)
        assert not scope.cancelled_caught


# -- many tabs ---------------------------------------------------------------------------------------


async def test_many_tabs_of_one_browser_take_turns_and_leave_it_connections() -> None:
    """A browser has six connections to a server at the most: with more streams, no button would work."""
    async with open_agent_pool(max_concurrent=4) as pool, page_of(pool) as page, page.browser() as browser:
        handle = await pool.spawn(waiter, name="waiter")
        limits = httpx2.Limits(max_connections=6)
        async with httpx2.AsyncClient(cookies=browser.client.cookies, limits=limits, timeout=SECONDS) as six:
            tabs = [Browser(page.address, six) for _ in range(12)]
            done = 0

            async def look(tab: Browser) -> None:
                nonlocal done
                await tab.look(lambda seen: seen.named("waiter"))
                await tab.look(lambda seen: seen.named("waiter").get("state") == "aborted")
                done += 1

            async with trio.open_nursery() as nursery:
                for tab in tabs:
                    nursery.start_soon(look, tab)
                with trio.fail_after(SECONDS):
                    while not all(tab.rows for tab in tabs):
                        await trio.sleep(0.01)
                clicked = Browser(page.address, six)
                assert (await clicked.post(f"/agents/{handle.id}/abort")).status_code == 204
            assert done == 12


async def test_as_many_tabs_as_may_be_told_do_not_take_turns() -> None:
    async with open_agent_pool(max_concurrent=4) as pool, page_of(pool) as page, page.browser() as browser:
        handle = await pool.spawn(waiter, name="waiter")
        tabs = [Browser(page.address, browser.client) for _ in range(_streams.MOST_OF_SESSION)]
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(tab.events()) for tab in tabs]
            for tab, events in zip(tabs, opened, strict=True):
                while not tab.rows:
                    tab.take(await anext(events))
            handle.abort()
            for tab, events in zip(tabs, opened, strict=True):
                while not tab.named("waiter").get("ended"):
                    tab.take(await anext(events))


async def test_fifty_browsers_see_the_same() -> None:
    async with open_agent_pool(max_concurrent=4) as pool, page_of(pool) as page, AsyncExitStack() as stack:
        browsers = [await stack.enter_async_context(page.browser()) for _ in range(50)]
        handle = await pool.spawn(parent, name="parent")
        async with trio.open_nursery() as nursery:
            for browser in browsers:
                nursery.start_soon(browser.look, lambda seen: seen.named("child").get("state") == "aborted")
            for browser in browsers:
                await browser_knows(browser, "child")
            handle.abort()
        assert all(browser.rows == browsers[0].rows for browser in browsers)


async def test_there_may_be_no_more_tabs_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_streams, "MOST_STREAMS", 2)
    async with open_agent_pool(max_concurrent=4) as pool, page_of(pool) as page, page.browser() as browser:
        async with browser.events(), browser.events():
            response = await browser.get("/events")
            assert response.status_code == 503
            assert "too many tabs" in response.text
            assert int(response.headers["retry-after"]) >= 1
        assert (await browser.get("/")).status_code == 200


async def test_a_silent_run_says_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_streams, "KEEP_ALIVE", 0.05)
    async with open_agent_pool(max_concurrent=4) as pool, page_of(pool) as page, page.browser() as browser:
        data = b""
        async with browser.client.stream("GET", page.address + "/events") as response:
            with trio.fail_after(SECONDS):
                async for more in response.aiter_raw():
                    data += more
                    if data.count(b"\n: still here\n\n") >= 3:
                        break
        assert data.startswith(b"retry: 1000\n\nevent: changes\n")


async def test_ten_thousand_agents_are_told_in_pieces_and_the_pool_goes_on_between_them() -> None:
    longest = 0.0

    async def beat(scope: trio.CancelScope) -> None:
        """Measure how long others keep the thread: in its own time, not that of a busy machine."""
        nonlocal longest
        with scope:
            while True:
                before = time.thread_time()
                await trio.lowlevel.checkpoint()
                longest = max(longest, time.thread_time() - before)

    opened = open_agent_pool(max_concurrent=10_000)
    async with opened as pool, page_of(pool) as page, page.browser() as browser:
        handles = [await pool.spawn(waiter, name=f"agent {number}") for number in range(10_000)]
        await browser.look(lambda seen: len(seen.rows) == 10_000)
        data = b""
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(beat, scope)
            async with browser.client.stream("GET", page.address + "/events") as response:
                with trio.fail_after(SECONDS):
                    async for more in response.aiter_raw():
                        data += more
                        if data.endswith(b"\n\n") and b'"pool":' in data[-2_000:]:
                            break
            scope.cancel()
        pieces = [told.data for told in events_in(data)]
        assert sum(len(piece["agents"]) for piece in pieces) >= 10_000
        assert max(len(piece["agents"]) for piece in pieces) <= picture_pieces.PIECE
        assert longest < 0.5  # one sample of so many takes some 30 ms; at once, all this takes a second
        for handle in handles:
            handle.abort()
