"""Who may see the live page, and have something done: links, cookies, names and origins, on real sockets."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

pytest.importorskip("hypercorn")
pytest.importorskip("starlette")
pytest.importorskip("httpx2")

import httpx2
from live_page_kit import SECONDS, Page, cookie_of, page_of

from agentpool import AgentContext, open_agent_pool
from agentpool.web import _entry, _serve, serve_live_page
from agentpool.web._extra import check_extra

pytestmark = pytest.mark.processes


async def waiter(ctx: AgentContext) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def a_page() -> AsyncIterator[Page]:
    """The page of a pool in which agent 1 waits."""
    async with open_agent_pool(max_concurrent=4) as pool:
        handle = await pool.spawn(waiter, name="waiter")
        async with page_of(pool) as page:
            yield page
        handle.abort()


async def raw(page: Page, head: str, body: str = "") -> tuple[int, dict[str, str], str]:
    """Send a request as it is; return the status, the headers and the text of the answer."""
    with trio.fail_after(SECONDS):
        async with await trio.open_tcp_stream("127.0.0.1", page.port) as stream:
            lines = head.replace("\n", "\r\n")
            await stream.send_all(f"{lines}\r\nconnection: close\r\n\r\n{body}".encode())
            data = b""
            while more := await stream.receive_some():
                data += more
    start, _, text = data.decode().partition("\r\n\r\n")
    first, *rest = start.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest)
    return int(first.split()[1]), headers, text


# -- links and cookies --------------------------------------------------------------------------


async def test_a_link_lets_one_browser_in_and_is_worth_nothing_afterwards() -> None:
    async with a_page() as page:
        async with page.browser(comes_in=False) as first, page.browser(comes_in=False) as second:
            response = await first.client.get(page.link)
            assert (response.status_code, response.headers["location"]) == (303, "/")
            cookie = response.headers["set-cookie"]
            assert re.fullmatch(
                rf"agentpool-{page.port}=[\w-]{{43}}; HttpOnly; SameSite=Strict; Path=/", cookie
            )
            assert (await first.get("/")).status_code == 200
            assert page.links == []
            response = await second.client.get(page.link)
            assert response.status_code == 403
            assert "has been used" in response.text
            assert "set-cookie" not in response.headers
            # Nobody is locked out: there is a new link at the terminal.
            [link] = page.links
            assert (await second.client.get(link)).status_code == 303
            assert (await second.get("/")).status_code == 200
            assert (await first.get("/")).status_code == 200


async def test_a_browser_that_is_in_may_come_by_a_used_link_again() -> None:
    async with a_page() as page, page.browser() as browser:
        response = await browser.client.get(page.link)
        assert (response.status_code, response.headers["location"]) == (303, "/")
        assert "set-cookie" not in response.headers
        assert page.links == []


STRANGE = "/?" + "&".join(["a"] * 1_000)


@pytest.mark.parametrize(
    "path", ["/events", "/agents/1/transcript", "/nope", "/?token=", "/?token=x", "/", STRANGE]
)
async def test_nothing_is_told_without_a_cookie(path: str) -> None:
    async with a_page() as page, page.browser(comes_in=False) as stranger:
        response = await stranger.get(path)
        assert response.status_code == 403
        assert "waiter" not in response.text
        cookies = {f"agentpool-{page.port}": "guessed", "agentpool": page.token}
        async with httpx2.AsyncClient(cookies=cookies) as guesser:
            assert (await guesser.get(page.address + path)).status_code == 403


@pytest.mark.parametrize("path", ["/agents/1/abort", "/drain", "/approvals/1-x"])
async def test_nothing_is_done_without_a_cookie(path: str) -> None:
    async with a_page() as page, page.browser(comes_in=False) as stranger, page.browser() as browser:
        assert (await stranger.post(path)).status_code == 403
        await browser.look(lambda seen: seen.named("waiter"))
        assert "ended" not in browser.named("waiter")


async def test_links_for_those_who_knock_are_not_told_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(_entry.time, "monotonic", lambda: now)
    async with a_page() as page, page.browser(comes_in=False) as stranger:
        for _ in range(20):
            assert (await stranger.get("/")).status_code == 403
        assert page.links == []  # the first was told a moment ago, and nobody has used it
        now += 11
        for _ in range(20):
            await stranger.get("/")
        assert page.links == [page.link]  # it is good still
        async with page.browser():
            pass
        await stranger.get("/")
        await stranger.get("/")
        assert len(page.links) == 2
        assert page.links[1] != page.link


async def test_what_only_looks_ahead_does_not_use_a_link_up() -> None:
    async with a_page() as page, page.browser(comes_in=False) as browser:
        for headers in (
            {"sec-purpose": "prefetch;prerender"},
            {"purpose": "prefetch"},
            {"x-moz": "prefetch"},
        ):
            response = await browser.client.get(page.link, headers=headers)
            assert response.status_code == 403
        assert (await browser.client.head(page.link)).status_code == 403
        assert page.links == []
        assert (await browser.client.get(page.link)).status_code == 303
        # Now anybody else who comes is told a new one.
        async with page.browser(comes_in=False) as stranger:
            assert (await stranger.get("/", headers={"purpose": "prefetch"})).status_code == 403
            assert page.links == []
            assert (await stranger.get("/")).status_code == 403
            assert len(page.links) == 1


async def test_a_link_that_is_followed_from_another_site_gets_in() -> None:
    """A browser does not send a strict cookie along with what another site has begun, also redirected."""
    async with a_page() as page:
        async with httpx2.AsyncClient() as client:
            elsewhere = {"sec-fetch-site": "cross-site"}
            response = await client.get(page.link, headers=elsewhere)
            assert response.status_code == 303
            kept, client.cookies = client.cookies, httpx2.Cookies()
            response = await client.get(page.address + "/", headers=elsewhere)
            assert response.status_code == 200
            assert '<meta http-equiv="refresh" content="0;url=/">' in response.text
            client.cookies = kept
            response = await client.get(page.address + "/", headers={"sec-fetch-site": "same-origin"})
            assert '"live"' in response.text
            assert page.links == []
            # Who has no cookie is not sent round in circles.
            client.cookies = httpx2.Cookies()
            response = await client.get(page.address + "/", headers={"sec-fetch-site": "same-origin"})
            assert response.status_code == 403


async def test_another_server_of_this_machine_may_have_set_cookies_too() -> None:
    async with a_page() as page, page.browser() as browser:
        good = cookie_of(browser)
        name = f"agentpool-{page.port}"
        cookies = [
            f"{name}=junk; {good}; _xsrf=2|a|b",
            f"agentpool-1=other; {good}",
            f"broken; =; {name}; {good}",
            f"big={'x' * 30_000}; {good}",
        ]
        for cookie in cookies:
            head = f"GET /agents/1/transcript HTTP/1.1\nhost: 127.0.0.1:{page.port}\ncookie: {cookie}"
            status, _, text = await raw(page, head)
            assert (status, json.loads(text)["agent"]) == (200, 1)


async def test_the_browser_that_came_first_leaves_when_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_entry, "MOST_SESSIONS", 2)
    async with a_page() as page, page.browser() as first, page.browser() as second, page.browser() as third:
        statuses = [(await each.get("/")).status_code for each in (first, second, third)]
        assert statuses == [403, 200, 200]


# -- names and origins --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST:{port}", 200),
        ("[::1]:{port}", 200),
        ("localhost:8080", 200),  # through a tunnel, which has another port at the other end
        ("evil.example:{port}", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.nip.io:{port}", 421),
        ("0.0.0.0:{port}", 421),
        ("user@localhost:{port}", 421),
        ("localhost:x", 421),
        ("", 421),
    ],
)
async def test_a_name_that_points_here_is_none_of_ours(host: str, status: int) -> None:
    async with a_page() as page, page.browser() as browser:
        name = host.format(port=page.port)
        head = f"GET /agents/1/transcript HTTP/1.1\nhost: {name}\ncookie: {cookie_of(browser)}"
        assert (await raw(page, head))[0] == status


async def test_a_request_without_a_name_or_with_two_is_refused() -> None:
    async with a_page() as page, page.browser() as browser:
        cookie = f"cookie: {cookie_of(browser)}"
        assert (await raw(page, f"GET / HTTP/1.0\n{cookie}"))[0] == 421
        two = f"host: 127.0.0.1:{page.port}\nhost: evil.example\n{cookie}"
        assert (await raw(page, f"GET / HTTP/1.1\n{two}"))[0] in (400, 421)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 204),
        ({"sec-fetch-site": "same-origin"}, 204),
        ({"origin": "http://127.0.0.1:{port}"}, 204),
        ({"origin": "https://127.0.0.1:{port}"}, 204),  # a proxy in front of us that has a certificate
        ({"origin": "null"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),  # another server of this machine
        ({"origin": "http://localhost:{port}"}, 403),
        ({"origin": "http://127.0.0.1:{port}.evil.example"}, 403),
        ({"origin": "file://"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:{port}"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 204),
        ({"content-type": ""}, 415),
    ],
)
async def test_pages_of_other_sites_have_nothing_done(headers: dict[str, str], status: int) -> None:
    async with a_page() as page, page.browser() as browser:
        told = {"content-type": "application/json"}
        told |= {name: value.format(port=page.port) for name, value in headers.items()}
        response = await browser.client.post(page.address + "/drain", content=b"{}", headers=told)
        assert response.status_code == status


async def test_a_second_origin_is_looked_at_too_and_names_are_the_same_in_capitals() -> None:
    async with a_page() as page, page.browser() as browser:
        ours = ("origin", f"http://LocalHost:{page.port}")
        named = [("host", f"localhost:{page.port}"), ("content-type", "application/json")]
        for more, status in ([], 204), ([("origin", "http://evil.example")], 403):
            response = await browser.client.post(
                page.address + "/drain", content=b"{}", headers=[*named, ours, *more]
            )
            assert response.status_code == status


async def test_pages_of_other_sites_read_nothing() -> None:
    async with a_page() as page, page.browser() as browser:
        for path in ("/events", "/agents/1/transcript"):
            for site in ("cross-site", "same-site"):
                response = await browser.get(path, headers={"sec-fetch-site": site})
                assert response.status_code == 403
            response = await browser.get(path, headers={"origin": "http://evil.example"})
            assert response.status_code == 403
            assert "access-control-allow-origin" not in response.headers


async def test_every_answer_has_the_headers_that_keep_it_to_us() -> None:
    async with a_page() as page, page.browser() as browser, page.browser(comes_in=False) as stranger:
        async with browser.client.stream("GET", page.address + "/events") as events:
            answers = [
                await browser.get("/"),
                await stranger.get("/"),
                await stranger.get("/events"),
                await browser.get("/agents/1/transcript"),
                await browser.get("/nope"),
                await browser.get("/drain"),
                await browser.get("/", headers={"host": "evil.example"}),
                events,
            ]
        statuses = [answer.status_code for answer in answers]
        assert statuses == [200, 403, 403, 200, 404, 405, 421, 200]
        for answer in answers:
            told = answer.headers
            assert told["cache-control"] == "no-store"
            assert told["referrer-policy"] == "no-referrer"
            assert told["x-content-type-options"] == "nosniff"
            assert told["cross-origin-resource-policy"] == "same-origin"
            assert told["cross-origin-opener-policy"] == "same-origin"
            assert "default-src 'none'" in told["content-security-policy"]
            assert "frame-ancestors 'none'" in told["content-security-policy"]
            assert "server" not in told


async def test_nothing_is_spoken_but_http() -> None:
    async with a_page() as page, page.browser() as browser:
        head = (
            f"GET /events HTTP/1.1\nhost: 127.0.0.1:{page.port}\nupgrade: websocket\n"
            f"sec-websocket-version: 13\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\n"
            f"cookie: {cookie_of(browser)}"
        )
        with trio.fail_after(SECONDS):
            async with await trio.open_tcp_stream("127.0.0.1", page.port) as stream:
                lines = head.replace("\n", "\r\n")
                await stream.send_all(f"{lines}\r\nconnection: upgrade\r\n\r\n".encode())
                assert b"101 " not in await stream.receive_some()


# -- before anything is served ---------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com"])
async def test_an_address_that_others_reach_is_refused(host: str) -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        with trio.fail_after(SECONDS), pytest.raises(ValueError, match="ssh -L"):
            await serve_live_page(pool, host=host)


async def test_a_port_in_use_is_told() -> None:
    async with open_agent_pool(max_concurrent=1) as pool, page_of(pool) as page:
        with pytest.raises(OSError, match=r"in use|Address"):
            await serve_live_page(pool, port=page.port)


async def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import agentpool.web._extra as extra

    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "starlette" else object())
    with pytest.raises(ModuleNotFoundError, match=r"starlette.*pip install 'trio-agentpool\[web\]'"):
        check_extra()
    async with open_agent_pool(max_concurrent=1) as pool:
        with pytest.raises(ModuleNotFoundError):
            await serve_live_page(pool)


async def test_a_new_link_is_printed_where_nobody_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    _serve._print_link("http://127.0.0.1:1/?token=abc")
    assert capsys.readouterr().err == "a new link to the live page: http://127.0.0.1:1/?token=abc\n"
