"""What users of other live dashboards, inspectors and dev servers have reported, on the live page."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

pytest.importorskip("hypercorn")
pytest.importorskip("starlette")
pytest.importorskip("httpx2")

import httpx2
from live_page_kit import SECONDS, Browser, cookie_of, page_of, started_page

from agentpool import (
    AgentContext,
    AgentManifest,
    ApprovalRules,
    Completion,
    ScriptedDriver,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    ToolMessage,
    open_agent_pool,
    tool,
)
from agentpool._core.looks import seconds_to_next_look
from agentpool._core.picture import Picture
from agentpool.web import PageApprover, _streams, _watching

pytestmark = pytest.mark.processes


async def waiter(ctx: AgentContext) -> None:
    await trio.sleep_forever()


@tool
def wipe(what: str) -> str:
    """Wipe something."""
    return f"wiped {what}"


def careful(number: int) -> SpawnConfig[Any]:
    manifest = AgentManifest(
        name=f"careful {number}", tools=(f"{__name__}:wipe",), approval=ApprovalRules(ask=("wipe",))
    )
    return SpawnConfig(manifest, "wipe it")


def wiping() -> ScriptedDriver:
    def answer(request: Any) -> Any:
        told = [each.result.text for each in request.messages if isinstance(each, ToolMessage)]
        return told[-1] if told else Completion(tool_calls=[ToolCall("1", "wipe", {"what": "disk"})])

    return ScriptedDriver(answer)


# freenet/freenet-core#5213, wildware-uk/agent-dashboard#19, stripe-archive/timberlake#6: each tab holds a
# stream, a browser has six connections, and the seventh request hangs without an error.
@pytest.mark.parametrize("tabs", [6, 7, 20])
async def test_with_many_tabs_open_the_next_page_and_every_button_still_answer(tabs: int) -> None:
    async with open_agent_pool(max_concurrent=2) as pool, page_of(pool) as page, page.browser() as browser:
        handle = await pool.spawn(waiter, name="waiter")
        limits = httpx2.Limits(max_connections=6)
        async with httpx2.AsyncClient(cookies=browser.client.cookies, limits=limits, timeout=SECONDS) as six:
            opened = [Browser(page.address, six) for _ in range(tabs)]
            async with trio.open_nursery() as nursery:
                for tab in opened:
                    nursery.start_soon(tab.look, lambda seen: seen.named("waiter").get("ended"))
                last = Browser(page.address, six)
                with trio.fail_after(SECONDS / 2):
                    assert (await last.get("/")).status_code == 200
                    assert (await last.get(f"/agents/{handle.id}/transcript")).status_code == 200
                    assert (await last.post(f"/agents/{handle.id}/abort")).status_code == 204


# modelcontextprotocol/inspector#1161 (the hole behind CVE-2025-49596 again), notebooklm-py#1869: a rebound
# name sends requests of its own origin, of which GETs have no Origin at all; only Host tells.
@pytest.mark.parametrize("origin", [None, "http://evil.example:{port}", "http://127.0.0.1:{port}"])
@pytest.mark.parametrize("path", ["/", "/?token={token}", "/events", "/agents/1/transcript"])
async def test_a_rebound_name_reads_nothing_and_uses_no_link_up(path: str, origin: str | None) -> None:
    async with open_agent_pool(max_concurrent=2) as pool, page_of(pool) as page:
        headers = {"host": f"evil.example:{page.port}"}
        if origin is not None:
            headers["origin"] = origin.format(port=page.port)
        async with httpx2.AsyncClient() as rebound:
            url = page.address + path.format(token=page.token)
            response = await rebound.get(url, headers=headers)
            assert response.status_code == 421
            assert page.token not in response.text
        async with page.browser():  # by the first link, which is good still
            assert page.links == []


# vitejs/vite, CVE-2025-24010 (raulfdm/raulmelo-studio#2813); vercel/next.js, CVE-2025-48068: any site could
# send requests to the dev server, read the answers, and open a WebSocket.
async def test_another_site_neither_reads_nor_acts_in_the_browser_of_a_person_who_is_in() -> None:
    async with open_agent_pool(max_concurrent=2) as pool, page_of(pool) as page, page.browser() as browser:
        handle = await pool.spawn(waiter)
        site = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
        for path in ("/events", f"/agents/{handle.id}/transcript"):
            response = await browser.get(path, headers=site)
            assert response.status_code == 403
            assert not any(name.startswith("access-control") for name in response.headers)
        preflight = await browser.client.request(
            "OPTIONS", f"{page.address}/drain", headers={**site, "access-control-request-method": "POST"}
        )
        assert preflight.status_code == 403
        assert not any(name.startswith("access-control") for name in preflight.headers)
        # What needs no preflight: a form, and a text.
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            response = await browser.client.post(
                f"{page.address}/agents/{handle.id}/abort", content=b"{}", headers={"content-type": kind}
            )
            assert response.status_code == 415
        assert handle.outcome is None
        assert not pool.draining
        handle.abort()


# jupyter-server/jupyter_server#1566: a cookie stays good when the server was started again.
async def test_a_cookie_is_worth_nothing_to_the_next_run_at_the_same_port() -> None:
    async with open_agent_pool(max_concurrent=2) as pool:
        async with page_of(pool) as page, page.browser() as browser:
            cookies, port = browser.client.cookies, page.port
        async with page_of(pool, port=port) as page, httpx2.AsyncClient(cookies=cookies) as client:
            for path in ("/", "/events"):
                assert (await client.get(page.address + path)).status_code == 403


# wisdom-framework/wisdom#185, catapult-project/catapult#3474: a NaN in the data, and the dashboard is blank.
async def test_numbers_that_are_none_do_not_blank_the_page() -> None:
    odd = Completion(
        tool_calls=[ToolCall("1", "wipe", {"what": "x", "odd": [float("nan"), float("-inf")]})],
        usage=TokenUsage(1, 1, cost_usd=0.1),
    )
    approver = PageApprover()
    driver = ScriptedDriver(
        lambda request: "done" if any(isinstance(m, ToolMessage) for m in request.messages) else odd
    )
    async with open_agent_pool(driver, max_concurrent=2, approver=approver) as pool:
        async with page_of(pool, approver=approver) as page, page.browser() as browser:
            handle = await pool.spawn(careful(1))
            await browser.look(lambda seen: seen.approvals or seen.named("careful 1").get("ended"))
            response = await browser.get(f"/agents/{handle.id}/transcript")
            json.loads(response.text, parse_constant=lambda name: pytest.fail(name))
            handle.abort()


# Agenta-AI/agenta#6823, tinyhumansai/opencompany#843, chatml/chatml#1087: questions are gone after a
# reload or a lost connection, or shown though they are closed.
async def test_open_questions_are_there_for_whoever_comes_and_closed_ones_are_not() -> None:
    approver = PageApprover()
    async with open_agent_pool(wiping(), max_concurrent=8, approver=approver) as pool:
        handles = [await pool.spawn(careful(number)) for number in range(3)]  # nobody looks yet
        await trio.testing.wait_all_tasks_blocked()
        async with page_of(pool, approver=approver) as page, page.browser() as browser:
            for _ in range(3):  # a reload forgets all, a lost connection nothing
                fresh = Browser(page.address, browser.client)
                await fresh.look(lambda seen: len(seen.approvals) == 3)
                again = Browser(page.address, browser.client, seen=fresh.seen)
                await again.look(lambda seen: len(seen.approvals) == 3)
            first, second, third = sorted(fresh.approvals, key=lambda each: each["agent"])
            await browser.post(f"/approvals/{first['hash']}", {"approve": True})
            handles[1].abort()
            await handles[0].wait()
            await handles[1].wait()
            again = Browser(page.address, browser.client, seen=fresh.seen)
            await again.look(lambda seen: seen.latest)
            assert [each["hash"] for each in again.approvals] == [third["hash"]]
            for each in (first, second):
                response = await browser.post(f"/approvals/{each['hash']}", {"approve": True})
                assert response.status_code == 409
            await browser.post(f"/approvals/{third['hash']}", {"approve": False, "reason": "no"})


# Agenta-AI/agenta#5160, anthropics/claude-code#63022, nesquena/hermes-webui#241: the button only changes what
# is shown, and the agent goes on asking its model and calling tools.
async def test_the_stop_button_stops_the_agent_what_is_below_it_and_its_model_calls() -> None:
    calls = 0

    async def endless(request: Any) -> Any:
        nonlocal calls
        calls += 1
        await trio.sleep(0)
        return Completion(tool_calls=[ToolCall(str(calls), "wipe", {"what": str(calls)})])

    async def leads(ctx: AgentContext) -> None:
        manifest = AgentManifest(name="endless", tools=(f"{__name__}:wipe",))
        await ctx.spawn(SpawnConfig(manifest, "go on", driver=ScriptedDriver(endless)))
        await trio.sleep_forever()

    async with open_agent_pool(max_concurrent=8) as pool, page_of(pool) as page, page.browser() as browser:
        handle = await pool.spawn(leads, name="leads")
        await browser.look(lambda seen: seen.named("endless").get("calls", 0) > 0)
        assert (await browser.post(f"/agents/{handle.id}/abort")).status_code == 204
        await handle.wait()
        before = calls
        await browser.look(lambda seen: seen.named("endless").get("state") in ("aborted", "failed"))
        assert calls == before
        assert pool.active_count == 0


# The same: who cannot be stopped is not shown as stopped.
async def test_an_agent_that_does_not_let_itself_be_stopped_is_shown_as_stuck() -> None:
    done = trio.Event()

    async def stubborn(ctx: AgentContext) -> None:
        with trio.CancelScope(shield=True):
            await done.wait()

    async with open_agent_pool(max_concurrent=8) as pool, page_of(pool) as page, page.browser() as browser:
        handle = await pool.spawn(stubborn, name="stubborn")
        await browser.look(lambda seen: seen.named("stubborn").get("started") is not None)
        assert (await browser.post(f"/agents/{handle.id}/abort")).status_code == 204
        await browser.look(lambda seen: seen.latest["pool"]["running"] + seen.latest["pool"]["lent"] >= 0)
        assert "ended" not in browser.named("stubborn")
        done.set()
        await browser.look(lambda seen: "ended" in seen.named("stubborn"))


# esengine/DeepSeek-Reasonix#3064, Wave-RF/WaveHouse#226: a stream in which nothing happens is cut on the way.
async def test_nobody_on_the_way_takes_a_silent_stream_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _streams.KEEP_ALIVE <= 20  # of common proxies the most impatient waits 30 seconds
    monkeypatch.setattr(_streams, "KEEP_ALIVE", 0.05)
    async with open_agent_pool(max_concurrent=2) as pool, page_of(pool) as page, page.browser() as browser:
        async with browser.client.stream("GET", f"{page.address}/events") as response:
            assert response.headers["x-accel-buffering"] == "no"
            assert response.headers["content-type"].startswith("text/event-stream")
            assert "content-encoding" not in response.headers
            data = b""
            with trio.fail_after(SECONDS):
                async for more in response.aiter_raw():
                    data += more
                    if data.count(b": still here\n\n") == 3:
                        break


# dask/distributed#6103: looking at the dashboard halts the scheduler. ray-project/ray#22621, #20624: all is
# sent again and again.
async def test_looking_costs_a_small_share_of_the_time_and_sends_what_is_new() -> None:
    async with (
        open_agent_pool(max_concurrent=3_000) as pool,
        page_of(pool) as page,
        page.browser() as browser,
    ):
        handles = [await pool.spawn(waiter, name=f"agent {number}") for number in range(2_000)]
        await browser.look(lambda seen: len(seen.rows) == 2_000)
        handles[0].abort()
        told: list[int] = []

        def enough(seen: Browser) -> bool:
            told.append(len(seen.latest["agents"]))
            return "ended" in seen.rows[handles[0].id]

        await browser.look(enough)
        assert sum(told) < 50
        for handle in handles:
            handle.abort()
    assert seconds_to_next_look(0.05) >= 50 * 0.05


# emdash-cms/emdash#3298, NiffirgkcaJ/all-in-one-clipboard#41, lowdefy/lowdefy#2375: what only looks at a link
# uses it up.
@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", {}),
        ("GET", {"sec-purpose": "prefetch"}),
        ("GET", {"sec-purpose": "prefetch;anonymous-client-ip"}),
        ("GET", {"purpose": "prefetch"}),
        ("GET", {"purpose": "preview"}),
        ("OPTIONS", {}),
        ("POST", {"content-type": "application/json"}),
    ],
)
async def test_a_link_is_used_up_by_a_person_only(method: str, headers: dict[str, str]) -> None:
    async with open_agent_pool(max_concurrent=2) as pool, page_of(pool) as page:
        async with httpx2.AsyncClient() as looks:
            response = await looks.request(method, page.link, headers=headers)
            assert response.status_code in (403, 405)
            assert "set-cookie" not in response.headers
            assert (await looks.get(page.link)).status_code == 303


# polarsource/polar#3100, modelcontextprotocol/python-sdk#514: an open stream, and the server does not end.
async def test_open_tabs_do_not_hold_up_the_end() -> None:
    async with open_agent_pool(max_concurrent=2) as pool:
        async with trio.open_nursery() as nursery:
            page = await started_page(nursery, pool)
            async with page.browser() as browser, browser.events(), browser.events():
                with trio.fail_after(5):
                    nursery.cancel_scope.cancel()
                    with trio.CancelScope(shield=True):
                        await trio.lowlevel.checkpoint()


# cakephp/docs#6398, remix-auth#232, manyfold3d/manyfold#3294: a strict cookie is not sent after the
# redirect of a link that another site's page has, and one is sent round in circles.
async def test_who_comes_from_another_site_is_not_sent_round_in_circles() -> None:
    async with open_agent_pool(max_concurrent=2) as pool, page_of(pool) as page:
        async with httpx2.AsyncClient() as client:
            seen = []
            for site in ("cross-site", "cross-site", "same-origin"):
                path = page.link if not seen else f"{page.address}/"
                kept = client.cookies
                if site == "cross-site":
                    client.cookies = httpx2.Cookies()
                response = await client.get(path, headers={"sec-fetch-site": site})
                seen.append(response.status_code)
                client.cookies = client.cookies if response.status_code == 303 else kept
                if response.status_code == 303:
                    let_in = client.cookies
                client.cookies = let_in
            assert seen == [303, 200, 200]
            assert '"live"' in response.text


# anomalyco/opencode#25657, feder-cr/invisible_playwright_mcp#1263, EventSource/eventsource#27: after a lost
# connection events are missing, or come again, or the id that one began with is taken.
async def test_after_each_lost_connection_it_goes_on_where_it_was() -> None:
    async with open_agent_pool(max_concurrent=40) as pool, page_of(pool) as page, page.browser() as browser:
        handles = []
        begun: str | None = None
        for number in range(12):
            handles.append(await pool.spawn(waiter, name=f"agent {number}"))
            path = "/events" if begun is None else f"/events?since={begun}"
            await browser.look(lambda seen, n=number: seen.named(f"agent {n}"), path=path)
            begun = begun or browser.seen
        assert browser.resets == 1
        for handle in handles:
            handle.abort()
        await browser.look(lambda seen: all("ended" in row for row in seen.rows.values()))
        fresh = Browser(page.address, browser.client)
        await fresh.look(
            lambda seen: len(seen.rows) == 12 and all("ended" in row for row in seen.rows.values())
        )
        assert sorted(map(str, fresh.spans)) == sorted(map(str, browser.spans))
        assert fresh.rows == browser.rows


# mythal/boluo#155: what a client missed was thrown away meanwhile, and it takes what follows for all.
# ray-project/ray#22027: the dashboard keeps everything for ever.
async def test_who_slept_for_longer_than_things_are_kept_is_told_all_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_watching, "Picture", partial(Picture, ended_kept=5))

    async def quick(ctx: AgentContext) -> None:
        pass

    async with open_agent_pool(max_concurrent=4) as pool, page_of(pool) as page, page.browser() as browser:
        first = await pool.spawn(waiter, name="first")
        await browser.look(lambda seen: seen.named("first"))
        for number in range(30):
            await (await pool.spawn(quick, name=f"quick {number}")).wait()
        awake = Browser(page.address, browser.client)
        await awake.look(lambda seen: "ended" in seen.named("quick 29"))
        await browser.look(lambda seen: "ended" in seen.named("quick 29"))
        assert browser.resets == 2
        assert browser.rows.keys() == awake.rows.keys()
        assert len(browser.rows) == 6
        first.abort()


# openhab/openhab-core#287, mcmonkeyprojects/SwarmUI#799: cookies of other servers of the machine make the
# head of a request too large.
async def test_large_cookies_of_other_ports_keep_nobody_out() -> None:
    async with open_agent_pool(max_concurrent=2) as pool, page_of(pool) as page, page.browser() as browser:
        others = "; ".join(f"app{number}={'x' * 4_000}" for number in range(10))
        async with httpx2.AsyncClient() as client:
            headers = {"cookie": f"{others}; {cookie_of(browser)}"}
            assert (await client.get(f"{page.address}/", headers=headers)).status_code == 200


# ollioddi/crowdsec-local-dashboard#13: who is not let in is redirected, and EventSource tries again for ever.
async def test_a_stream_for_a_stranger_is_refused_so_that_browsers_stop_trying() -> None:
    async with open_agent_pool(max_concurrent=2) as pool, page_of(pool) as page:
        async with httpx2.AsyncClient() as stranger:
            response = await stranger.get(f"{page.address}/events")
            assert response.status_code == 403
            assert not response.headers["content-type"].startswith("text/event-stream")
