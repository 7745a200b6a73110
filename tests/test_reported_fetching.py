"""What people reported of the fetch tools of other agents, in their situations."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import pytest
import trio

pytest.importorskip("httpx2")

import httpcore2
from web_kit import Names, Web, page, redirect, site

from agentpool.tools import _connecting
from agentpool.tools._fetching import FetchLimits
from agentpool.tools._pages import readable

EVERYTHING = ["*", "*:*"]


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
async def test_a_public_page_that_redirects_inside_reaches_nobody(status: str) -> None:
    """openswarm-ai/openswarm#47, modelcontextprotocol/servers#4492, zcaceres/fetch-mcp#45."""
    async with site({"/secret": page("SECRET")}, host="127.0.0.2") as inside, site({}) as here:
        here.answers["/"] = redirect(inside.at("/secret", "127.0.0.2"), status)
        here.answers["/chain"] = redirect("/")
        for path in ("/", "/chain"):
            told = await Web(["127.0.0.1:*"]).refusal(here.at(path))
            assert "redirects to" in told
            assert "SECRET" not in told
        assert inside.heads == []


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "100.100.100.200",
        "[::ffff:100.100.100.200]", "192.0.0.192", "168.63.129.16", "[64:ff9b::a9fe:a9fe]", "2852039166",
        "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518",
    ],
)  # fmt: skip
async def test_a_clouds_metadata_is_not_reached_by_any_address(host: str) -> None:
    """egoist/fetch-mcp#3, StacklokLabs/gofetch#156, use-agent-os/agent-os#941 (Alibaba's 100.100.100.200)."""
    told = await Web(EVERYTHING).refusal(f"http://{host}/latest/meta-data/")
    assert "outside of what this agent may reach" in told


async def test_a_name_that_changes_between_two_looks_is_looked_at_once() -> None:
    """MUBA-M1KU/Cekgu#294 (rbndr.us), DenchHQ/DenchClaw#8, gagan114662/openbot#11."""
    names = Names({"7f000001.rbndr.test": [["127.0.0.1"], ["127.0.0.2"]] * 3})
    async with site({"/": page("SECRET")}, host="127.0.0.2") as inside:
        async with site({"/": page("public")}) as here:
            web = Web(["*.rbndr.test:*", "127.0.0.1:*"], names)
            answers = [(await web.result(here.at("/", "7f000001.rbndr.test"))).text for _ in range(4)]
        assert answers[0::2] == ["public", "public"]
        assert all("127.0.0.2 is not a public one" in answer for answer in answers[1::2])
        assert inside.heads == []


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "::1"]]
)
async def test_a_name_with_good_and_bad_addresses_is_bad(addresses: list[str]) -> None:
    """Doezer/Questarr#385: only the first address was looked at."""
    async with site({"/": page("x")}) as here:
        web = Web(["a.test:*", "127.0.0.1:*"], Names({"a.test": [addresses]}))
        assert "is not a public one" in await web.refusal(here.at("/", "a.test"))
        assert here.heads == []


@pytest.mark.parametrize(
    "host",
    ["2130706433", "[::ffff:7f00:1]", "[::ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:0001]",
     "[::127.0.0.1]", "127.1", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
     "[2001:0:7f00:1::]", "0", "0.0.0.0",
     "[::]", "127.0.0.1.", "017700000001", "0x7f.0.0.1", "①②⑦.⓪.⓪.①", "[::1]"],
)  # fmt: skip
async def test_no_spelling_of_this_machine_is_public(host: str) -> None:
    """Decimal, octal, hexadecimal, mapped, embedded.

    nodetool-ai/nodetool#4787, Manavarya09/design-extract#49, felippe-regazio/ssrfcheck#11,
    google/adk-python#6486, 567-labs/instructor#2659.
    """
    assert "outside of what this agent may reach" in await Web(EVERYTHING).refusal(f"http://{host}/")


async def test_a_network_that_has_ipv6_alone_reaches_the_public_by_its_gateway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """rommapp/romm#3675, PrefectHQ/fastmcp#4400: NAT64 is judged by the address that it stands for."""
    connected: list[str] = []

    class Nowhere(httpcore2.AsyncNetworkBackend):
        def __init__(self, addresses: Sequence[object]) -> None:
            connected.extend(map(str, addresses))

        async def connect_tcp(self, *args: Any, **more: Any) -> Any:
            await trio.lowlevel.checkpoint()
            raise httpcore2.ConnectError("no network in tests")

    monkeypatch.setattr(_connecting, "CheckedBackend", Nowhere)
    names = Names({"good.test": [["64:ff9b::8d5f:accd"]], "bad.test": [["64:ff9b::a00:1"]]})
    assert "no network in tests" in await Web(EVERYTHING, names).refusal("http://good.test/")
    assert "is not a public one" in await Web(EVERYTHING, names).refusal("http://bad.test/")
    assert connected == ["64:ff9b::8d5f:accd"]


async def test_chunks_without_end_and_without_a_length_are_not_collected() -> None:
    """use-agent-os/agent-os#502, andrewyng/openworker#156: the limit was applied when all was in memory."""
    sent = 0

    async def endless(stream: trio.abc.Stream) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.send_all(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            sent += 10_000

    async with site({"/": endless}) as here:
        text = await Web(limits=FetchLimits(size=100_000)).text(here.at("/"), start=99_000)
        assert text == "x" * 1_000 + "\n[cut: only the first 100,000 bytes were fetched]"
        with trio.fail_after(5):
            await here.closed.wait()
    assert sent < 20_000_000  # what fits into the buffers of both sides


async def test_a_length_that_lies_does_not_count() -> None:
    """use-agent-os/agent-os#502: `content-length: 10`, or 10 GB, and something else behind it."""
    long = page("x" * 50_000).replace(b"Content-Length: 50000", b"Content-Length: 99999999999")

    async def lies(stream: trio.abc.Stream) -> None:
        await stream.send_all(long)
        await trio.sleep_forever()

    async with site({"/": lies}) as here:
        text = await Web(limits=FetchLimits(size=20_000)).text(here.at("/"))
        assert text.endswith("[cut: only the first 20,000 bytes were fetched]")


async def test_a_small_answer_that_unpacks_to_a_large_one_is_cut() -> None:
    """node-fetch/node-fetch#348: compressed answers had no limit."""
    pack = zlib.compressobj(9, wbits=31)
    data = b"".join([pack.compress(bytes(1_000_000).replace(b"\0", b"a")) for _ in range(50)]) + pack.flush()
    async with site({"/": page(data, Content_Encoding="gzip")}) as here:
        text = await Web(limits=FetchLimits(size=100_000)).text(here.at("/"), start=99_990)
    assert text == "a" * 10 + "\n[cut: only the first 100,000 bytes were fetched]"


async def test_the_time_limit_counts_until_the_last_byte() -> None:
    """cloudflare/cloudflare-os#27, seed-hypermedia/seed#1050: it ended with the headers."""

    async def stalls(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await trio.sleep_forever()

    async def redirects_slowly(stream: trio.abc.Stream) -> None:
        await trio.sleep(0.15)
        await stream.send_all(redirect("/slow"))

    async with site({"/": stalls, "/slow": redirects_slowly}) as here:
        for path in ("/", "/slow"):
            with trio.fail_after(5):
                told = await Web(limits=FetchLimits(seconds=0.4)).refusal(here.at(path))
            assert "took longer than 0.4 seconds" in told


@pytest.mark.parametrize(
    "url",
    [
        "http://good.test:password@{here}/", "http://good.test@{here}/", "http://good.test%20@{here}/",
        "http://good.test%3A@{here}/", "http://{here}\\@good.test/", "http://{here}#@good.test/",
        "http://{here}?@good.test/", "http://good.test\t@{here}/", "http://{here}/@good.test/",
        "http://good.test:80@{here}/x", "//good.test@{here}/", "http:/\\{here}/", "http://good.test,{here}/",
        "http://good.test\u2044@{here}/", "http://good.test\uff20{here}/",
    ],
)  # fmt: skip
async def test_no_url_is_read_in_two_ways(url: str) -> None:
    """Two programs that read one address differently, of which one checks and the other fetches.

    browser-use/browser-use#1561, FerroxLabs/wayland#1243, lightpanda-io/browser#2006, DataZooDE/erpl-web#194.
    """
    async with site({"/": page("SECRET"), "/x": page("SECRET")}, host="127.0.0.2") as evil:
        names = Names.of(good_test="127.0.0.1", evil_test="127.0.0.2")
        web = Web(["good.test:*", "127.0.0.0/8:*"], names)
        await web.refusal(url.replace("{here}", f"evil.test:{evil.port}"))
        assert evil.heads == []


@pytest.mark.parametrize(
    "host",
    [
        "good.test.evil.test",
        "evilgood.test",
        "good.test-evil.test",
        "xgood.test",
        "test",
        "good.tes",
        "g.test",
    ],
)
async def test_a_grant_is_no_prefix_and_no_suffix(host: str) -> None:
    """matiasbattocchia/open-bsp-api#11: `startsWith` on the text of the URL."""
    names = Names({host: [["93.184.215.14"]]})
    for allowed in ("good.test", "*.good.test"):
        assert "outside" in await Web([allowed], names).refusal(f"http://{host}/")
    assert names.asked == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", '<meta http-equiv="Content-Type" content="text/html; charset=gb2312"><p>中文'),
        ("text/html; charset=gbk", "<p>中文"),
        ("text/html", "<html><head><meta charset='GBK'></head><p>中文"),
        ("text/html; charset=Big5", "<p>史萊姆的第一個家"),
        ("text/html", "<?xml version='1.0' encoding='euc-kr'?><p>한국어"),
        ("text/html", "<meta charset=windows-1255><p>עברית"),
        ("text/plain; charset=windows-1251", "русский"),
    ],
)
async def test_pages_in_the_encodings_of_their_countries_are_read(content_type: str, body: str) -> None:
    """firecrawl/firecrawl#1277, modelcontextprotocol/servers#3880, projectdiscovery/httpx#2201."""
    known = ("gb2312", "gbk", "big5", "euc-kr", "windows-1255", "windows-1251")
    codec = next(name for name in known if name in (content_type + body).lower())
    async with site({"/": page(body.encode(codec), content_type)}) as here:
        assert await Web().text(here.at("/")) == body.rpartition(">")[2]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        # google-gemini/gemini-cli#29360: cells of a table were one word.
        (
            "<table><tr><th>Plan</th><th>Price</th></tr><tr><td>Starter</td><td>9 EUR</td></tr></table>",
            "Plan | Price\nStarter | 9 EUR",
        ),
        # cline/cline#14172: no paragraphs, and &#x2019; as it is.
        ("<h1>Title</h1><p>It&#x2019;s one.</p>\n<p>Two.</p>", "# Title\n\nIt’s one.\n\nTwo."),  # noqa: RUF001
        # initializ/forge#307: code lost its lines.
        ("<p>Do:</p><pre><code>if x:\n    y()</code></pre>", "Do:\n\nif x:\n    y()"),
        # octos-org/octos#2306: styles, scripts and attributes with a `>` before the text.
        ('<style>.a > b {}</style><script>a = "<p>no</p>";</script><p title="a > b">rain</p>', "rain"),
        # TobiasMue91/tobiasmue91.github.io#124: words of neighbours were welded together.
        ("<nav>Home</nav><main><p>Text</p></main>", "Home\n\nText"),
        ("<select><option>One</option><option>Two</option></select>", "One\nTwo"),
    ],
)  # fmt: skip
def test_what_stands_apart_on_a_page_stands_apart_in_its_text(html: str, text: str) -> None:
    assert readable(html, "https://a.test/") == text
