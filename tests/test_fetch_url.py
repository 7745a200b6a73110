"""`fetch_url`, against servers on this machine: what it reaches, what it shows, and what it takes."""

from __future__ import annotations

import gzip
import ssl
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
import trio

pytest.importorskip("httpx2")

from web_kit import Names, Web, page, redirect, site

from agentpool import AgentManifest, ScriptedDriver, SpawnConfig, open_agent_pool
from agentpool._core.capability import NetworkCapability, PrivacyTier
from agentpool._core.content import Document, Image
from agentpool.tools import build_tools
from agentpool.tools._fetching import FetchLimits, resolved

CERTIFICATE = Path(__file__).parent / "drivers" / "loopback.pem"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


# -- what is fetched -------------------------------------------------------------------


async def test_a_text_comes_as_it_is() -> None:
    async with site({"/a?b=c%20d": page("grün\n")}) as here:
        assert await Web().text(here.at("/a?b=c%20d#part")) == "grün\n"
        (head,) = here.heads
    lines = head.split("\r\n")
    assert lines[0] == "GET /a?b=c%20d HTTP/1.1"
    names = [line.partition(":")[0] for line in lines[1:] if line]
    assert names == ["Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"]
    assert f"Host: 127.0.0.1:{here.port}" in lines


async def test_a_page_comes_as_a_reader_sees_it() -> None:
    html = "<html><title>T</title><script>evil()</script><p>One <a href='/two'>two</a>.</p></html>"
    async with site({"/": page(html, "text/html; charset=utf-8")}) as here:
        assert await Web().text(here.at("/")) == f"# T\n\nOne [two]({here.at('/two')})."


async def test_pictures_and_pdfs_come_as_such() -> None:
    answers = {
        "/a.png": page(PNG, "image/png"),
        "/unsaid": page(PNG, "application/octet-stream"),
        "/a.pdf": page(b"%PDF-1.7 x", "application/pdf"),
        "/liar": page(b"<html>", "image/png"),
        "/big": page(PNG * 100, "image/png"),
        "/zip": page(b"PK\x03\x04\0", "application/zip"),
        "/bytes": page(b"a\0b", ""),
    }
    async with site(answers) as here:
        web = Web()
        assert await web.file(here.at("/a.png")) == Image(PNG, "image/png")
        assert await web.file(here.at("/unsaid")) == Image(PNG, "image/png")
        assert await web.file(here.at("/a.pdf")) == Document(b"%PDF-1.7 x", "application/pdf")
        assert "says that it is image/png, but it is not" in await web.refusal(here.at("/liar"))
        assert "is application/zip of 5 bytes" in await web.refusal(here.at("/zip"))
        assert "is application/octet-stream of 3 bytes" in await web.refusal(here.at("/bytes"))
        small = Web(limits=FetchLimits(size=1_000))
        assert "of more than 1,000 bytes" in await small.refusal(here.at("/big"))


async def test_a_long_text_is_read_in_parts() -> None:
    whole = "".join(f"{n:9}\n" for n in range(12_000))
    async with site({"/": page(whole)}) as here:
        start, found = 0, ""
        while True:
            part = await Web().text(here.at("/"), start=start)
            text, mark, note = part.rpartition("\n[characters ")
            found += text if mark else part
            if not mark:
                break
            start = int(note.rpartition("=")[2].rstrip("]"))
        assert found == whole
        assert len(here.heads) == 3
        assert "there is nothing at 200000" in await Web().refusal(here.at("/"), start=200_000)
        assert "from 0 up" in await Web().refusal(here.at("/"), start=-1)


async def test_an_error_of_the_server_is_told_with_its_words() -> None:
    answers = {
        "/gone": page("<p>It <b>went</b></p>" + "x" * 9_000, "text/html", "410 Gone"),
        "/odd": page("", "", "799 Odd"),
        "/same": page("", status="304 Not Modified"),
        "/nowhere": page("", status="302 Found"),
        "/empty": b"HTTP/1.1 204 No Content\r\n\r\n",
    }
    async with site(answers) as here:
        web = Web()
        told = await web.refusal(here.at("/gone"))
        assert told.startswith(f"{here.at('/gone')} answered 410 Gone\n\nIt went")
        assert len(told) < 2_200
        assert await web.refusal(here.at("/odd")) == f"{here.at('/odd')} answered 799 an unknown status"
        assert "answered 304 Not Modified" in await web.refusal(here.at("/same"))
        assert "answered 302 Found" in await web.refusal(here.at("/nowhere"))
        assert await web.text(here.at("/empty")) == "[the answer is empty (status 204)]"


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("grün".encode("latin-1"), "text/plain; charset=ISO-8859-1", "grün"),
        ("€".encode("cp1252"), "text/plain; charset=latin1", "€"),  # as browsers read it
        ("日本".encode("shift_jis"), "text/plain;charset='Shift_JIS'", "日本"),
        ("日本".encode("euc_jp"), "text/html; charset=EUC-JP", "日本"),
        ("привет".encode("cp1251"), "text/html", "привет"),  # by its meta tag
        ("grün".encode("utf-16"), "text/plain", "grün"),
        (b"\xef\xbb\xbfx", "text/plain; charset=latin-1", "x"),  # a mark says more than a header
        ("grün".encode("latin-1"), "text/plain", "grün"),
        (b"a\xffb", "text/plain; charset=utf-8", "a\ufffdb"),
        (b"abc", "text/plain; charset=zip", "abc"),
        (b"abc-", "text/plain; charset=punycode", "abc-"),
        (b"abc", "text/plain; charset=no such thing", "abc"),
        (b'{"a": 1}', "application/vnd.api+json", '{"a": 1}'),
        (b"plain", "", "plain"),
    ],
)
async def test_a_text_is_read_in_its_encoding(body: bytes, content_type: str, text: str) -> None:
    if "html" in content_type:
        body = b"<meta charset=windows-1251><p>" + body
    async with site({"/": page(body, content_type)}) as here:
        assert await Web().text(here.at("/")) == text


@pytest.mark.parametrize("encoding", ["gzip", "X-GZIP", "deflate", "raw deflate", "identity", "gzip members"])
async def test_a_packed_answer_is_unpacked(encoding: str) -> None:
    text = b"text " * 20_000
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(text),
        "X-GZIP": gzip.compress(text),
        "deflate": zlib.compress(text),
        "raw deflate": raw.compress(text) + raw.flush(),
        "identity": text,
        "gzip members": gzip.compress(text[:999]) + gzip.compress(text[999:]) + b"\0\0padding",
    }[encoding]
    header = encoding.removeprefix("raw ").removesuffix(" members")
    async with site({"/": page(packed, Content_Encoding=header)}) as here:
        parts = [await Web().text(here.at("/"), start=start) for start in (0, 50_000)]
    assert parts == [text.decode()[:50_000] + "\n[characters 0 to 50000 of 100000; go on with start=50000]",
                     text.decode()[50_000:]]  # fmt: skip


async def test_what_cannot_be_unpacked_is_an_error() -> None:
    answers = {
        "/br": page(b"x", Content_Encoding="br"),
        "/twice": page(gzip.compress(gzip.compress(b"x")), Content_Encoding="gzip, gzip"),
        "/broken": page(b"\x1f\x8bxxxxxxxx", Content_Encoding="gzip"),
        "/broken2": page(b"no deflate", Content_Encoding="deflate"),
    }
    async with site(answers) as here:
        assert "packed as 'br'" in await Web().refusal(here.at("/br"))
        assert "packed as 'gzip, gzip'" in await Web().refusal(here.at("/twice"))
        assert "cannot be unpacked" in await Web().refusal(here.at("/broken"))
        assert "cannot be unpacked" in await Web().refusal(here.at("/broken2"))


# -- how much, and how long --------------------------------------------------------------


async def test_an_endless_answer_is_cut() -> None:
    async def endless(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 10_000)

    async with site({"/": endless}) as here:
        text = await Web(limits=FetchLimits(size=30_000)).text(here.at("/"))
        assert text == "x" * 30_000 + "\n[cut: only the first 30,000 bytes were fetched]"
        with trio.fail_after(5):
            await here.closed.wait()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_is_unpacked_only_as_far_as_the_limit(encoding: str) -> None:
    pack = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join([*(pack.compress(bytes([120]) * 1_000_000) for _ in range(200)), pack.flush()])
    assert len(bomb) < 200_000_000 / 500
    async with site({"/": page(bomb, Content_Encoding=encoding)}) as here:
        await Web().refusal(here.at("/nothing"))  # imports what it needs
        tracemalloc.start()
        text = await Web(limits=FetchLimits(size=40_000)).text(here.at("/"))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 3_000_000
    assert text == "x" * 40_000 + "\n[cut: only the first 40,000 bytes were fetched]"


async def test_what_unpacks_to_nothing_has_an_end_too() -> None:
    async def endless(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
        nothing = gzip.compress(b"")
        while True:
            await stream.send_all(nothing * 500)

    async with site({"/": endless}) as here:
        assert "is empty" in await Web(limits=FetchLimits(size=100_000)).text(here.at("/"))


async def test_a_server_that_drips_is_left_in_time() -> None:
    async def drip(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            await stream.send_all(b"x")
            await trio.sleep(0.02)

    async def drip_headers(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        while True:
            await stream.send_all(b"X: y\r\n")
            await trio.sleep(0.02)

    async def drip_hints(stream: trio.abc.Stream) -> None:
        while True:
            await stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await trio.sleep(0.02)

    async def silent(stream: trio.abc.Stream) -> None:
        await stream.receive_some(1)

    answers = {"/body": drip, "/head": drip_headers, "/hints": drip_hints, "/silent": silent}
    async with site(answers) as here:
        for path in answers:
            with trio.fail_after(5):
                told = await Web(limits=FetchLimits(seconds=0.3)).refusal(here.at(path))
            assert told == f"{here.at(path)} took longer than 0.3 seconds"


async def test_a_name_and_a_connection_have_their_own_time() -> None:
    async def never(name: str, port: int) -> list[str]:
        await trio.sleep_forever()
        raise AssertionError

    limits = FetchLimits(seconds=5, connect_seconds=0.1)
    web = Web(["slow.test:*"], names=never, limits=limits)  # type: ignore[arg-type]
    assert "was not found in time" in await web.refusal("http://slow.test:1/")
    # A listener whose backlog is full does not answer a connection.
    with trio.socket.socket() as full:
        await full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        callers = [trio.socket.socket() for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for caller in callers:
                nursery.start_soon(caller.connect, ("127.0.0.1", port))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert "no connection in time" in await Web(limits=limits).refusal(f"http://127.0.0.1:{port}/")
            nursery.cancel_scope.cancel()
        for caller in callers:
            caller.close()


async def test_what_breaks_off_is_an_error_and_no_answer() -> None:
    answers = {
        "/short": page("x").replace(b"Content-Length: 1", b"Content-Length: 10"),
        "/chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "/none": b"",
        "/noise": b"SSH-2.0-OpenSSH_9\r\n",
        "/long head": b"",
        "/long": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
        "/both": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    }
    async with site(answers) as here:
        for path in ("/short", "/chunks", "/none", "/noise", "/long", "/both"):
            assert "cannot be fetched: RemoteProtocolError" in await Web().refusal(here.at(path)), path
    assert "cannot be fetched: ConnectError" in await Web().refusal(here.at("/"))  # the server has gone


async def test_more_than_the_length_that_was_said_is_left_alone() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nsmuggled"
    async with site({"/": answer}) as here:
        assert await Web().text(here.at("/")) == "ok"


async def test_cancelling_closes_the_connection() -> None:
    asked = trio.Event()
    hung_up = trio.Event()

    async def wait(stream: trio.abc.Stream) -> None:
        asked.set()
        await stream.receive_some(1)
        hung_up.set()

    async with site({"/": wait}) as here, trio.open_nursery() as nursery:
        nursery.start_soon(Web().text, here.at("/"))
        await asked.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.fail_after(5):
            await hung_up.wait()


# -- redirects ---------------------------------------------------------------------------


async def test_redirects_are_followed_and_the_last_address_is_told() -> None:
    async with site({}) as here:
        here.answers |= {
            "/1": redirect("/2", "301 Moved Permanently"),
            "/2": redirect("3 3?x=1#part", "307 Temporary Redirect"),
            "/3%203?x=1": redirect(here.at("/4"), "308 Permanent Redirect"),
            "/4": redirect("//" + here.at("/5").partition("//")[2], "303 See Other"),
            "/5": page("end"),
        }
        assert await Web().text(here.at("/1")) == f"end\n[from {here.at('/5')}]"


async def test_redirects_have_an_end() -> None:
    async with site({"/": redirect("/"), **{f"/{n}": redirect(f"/{n + 1}") for n in range(9)}}) as here:
        assert "redirects more than 5 times" in await Web().refusal(here.at("/"))
        assert len(here.heads) == 6
        assert "at last to" in await Web().refusal(here.at("/0"))


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.2:{port}/secret",
        "http://[::ffff:127.0.0.2]:{port}/secret",
        "http://2130706434:{port}/secret",
        "http://localhost:{port}/secret",
        "http://other.test:{port}/secret",
        "https://user:pw@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}@127.0.0.2:{port}/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "ftp://127.0.0.1/x",
        "data:text/html,x",
        "http:///x",
        "http:/x",
        "http:x",
        "http://127.0.0.1:99999/",
        "/a\\b",
        "http://[::1",
    ],
)
async def test_each_redirect_is_checked_like_the_first_address(location: str) -> None:
    names = Names.of(other_test="127.0.0.1")
    async with site({}) as here:
        here.answers["/"] = redirect(location.replace("{port}", str(here.port)))
        here.answers["/secret"] = page("SECRET")
        told = await Web(names=names).refusal(here.at("/"))
        assert told.startswith(f"{here.at('/')} redirects to ")
        assert len(here.heads) == 1
        assert names.asked == []


# -- which addresses -----------------------------------------------------------------------


async def test_a_name_needs_a_grant_before_it_is_even_asked_for() -> None:
    names = Names.of(a_test="127.0.0.1")
    async with site({"/": page("a")}) as here:
        assert await Web(["a.test:*", "127.0.0.1:*"], names).text(here.at("/", "a.test")) == "a"
        assert f"Host: a.test:{here.port}\r\n" in here.heads[0]
        told = await Web(["a.test:*", "127.0.0.1:*"], names).refusal(here.at("/", "secret.b.test"))
        assert told == (
            f"port {here.port} of the host 'secret.b.test' is outside of what this agent may reach,"
            " which is: a.test, any port, 127.0.0.1, any port"
        )
    assert names.asked == ["a.test"]


async def test_a_name_that_leads_to_this_machine_or_network_is_refused() -> None:
    addresses = "127.0.0.1 10.1.2.3 169.254.169.254 ::1 fe80::1 fd00::1 0.0.0.0 100.64.0.1 ::ffff:127.0.0.1"
    for address in [*addresses.split(), "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1", "168.63.129.16"]:
        told = await Web(["*", "*:*"], Names.of(a_test=address)).refusal("http://a.test/")
        assert "is not a public one is outside of what this agent may reach" in told, address


async def test_one_bad_address_of_a_name_refuses_it() -> None:
    names = Names({"a.test": [["127.0.0.1", "127.0.0.2"]]})
    async with site({"/": page("a")}) as here:
        told = await Web(["a.test:*", "127.0.0.1:*"], names).refusal(here.at("/", "a.test"))
        assert "127.0.0.2" in told
        assert here.heads == []


async def test_what_was_checked_is_connected_whatever_the_name_says_a_moment_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*args: object, **kwargs: object) -> Any:
        raise AssertionError("the name was resolved again")

    names = Names({"a.test": [["127.0.0.1"], ["127.0.0.2"]]})
    web = Web(["a.test:*", "127.0.0.1:*"], names)
    async with site({"/": page("public")}) as here:
        with monkeypatch.context() as patch:
            patch.setattr(trio.socket, "getaddrinfo", never)
            assert await web.text(here.at("/", "a.test")) == "public"
        assert names.asked == ["a.test"]
        assert "127.0.0.2" in await web.refusal(here.at("/", "a.test"))
        assert len(here.heads) == 1


async def test_a_redirect_to_the_same_name_is_resolved_and_checked_again() -> None:
    names = Names({"a.test": [["127.0.0.1"], ["127.0.0.2"]]})
    async with site({"/": redirect("/secret"), "/secret": page("SECRET")}) as here:
        told = await Web(["a.test:*", "127.0.0.1:*"], names).refusal(here.at("/", "a.test"))
        assert "redirects to" in told
        assert "127.0.0.2" in told
        assert len(here.heads) == 1


async def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    names = Names({"a.test": [["127.0.0.3", "127.0.0.1"]]})
    async with site({"/": page("a")}) as here:
        assert await Web(["a.test:*", "127.0.0.0/8:*"], names).text(here.at("/", "a.test")) == "a"


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://0x7f.1:{port}/", "http://127.1:{port}/",
        "http://0177.0.0.1:{port}/", "http://127.0.0.1.:{port}/", "http://[::ffff:7f00:1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/", "http://１２７.０.０.１:{port}/", "http://127。0。0。1:{port}/",  # noqa: RUF001
        " HTTP://127.0.0.1:{port}/\n",
    ],
)  # fmt: skip
async def test_every_spelling_of_an_address_is_that_address(url: str) -> None:
    async with site({"/": page("here")}) as here:
        url = url.replace("{port}", str(here.port))
        assert (await Web().text(url)).startswith("here")
        assert f"\r\nHost: 127.0.0.1:{here.port}\r\n" in here.heads[0]
        told = await Web(["*", "*:*"]).refusal(url)
        assert "'127.0.0.1' is outside of what this agent may reach" in told
        assert len(here.heads) == 1


async def test_localhost_is_this_machine_whatever_a_resolver_says() -> None:
    names = Names.of(localhost="10.0.0.1")
    async with site({"/": page("here")}) as here:
        for host in ("localhost", "LOCALHOST.", "127.0.0.1"):
            assert (await Web(["localhost:*"], names).text(here.at("/", host))).startswith("here")
        assert "outside" in await Web(["*:*"], names).refusal(here.at("/", "localhost"))
        assert "outside" in await Web(["localhost"], names).refusal(here.at("/"))  # another port
    assert names.asked == []


async def test_ports_other_than_the_usual_ones_need_a_grant() -> None:
    names = Names.of(a_test="127.0.0.1")
    async with site({"/": page("a")}) as here:
        url = here.at("/", "a.test")
        assert "outside" in await Web(["a.test", "127.0.0.1:*"], names).refusal(url)
        assert "outside" in await Web(["a.test:*", "127.0.0.1"], names).refusal(url)
        assert "outside" in await Web([f"a.test:{here.port + 1}", "127.0.0.1:*"], names).refusal(url)
        assert await Web([f"a.test:{here.port}", f"127.0.0.1:{here.port}"], names).text(url) == "a"


async def test_a_privacy_tier_keeps_words_at_home() -> None:
    names = Names.of(far_test="93.184.215.14", near_test="10.0.0.9", here_test="127.0.0.1")
    allowed = ["*:*", "10.0.0.0/8:*", "localhost:*"]
    for tier, refused in (
        (PrivacyTier.SOVEREIGN, ["far.test", "near.test", "93.184.215.14", "10.0.0.9", "[2606:2800::1]"]),
        (PrivacyTier.PRIVATE, ["far.test", "93.184.215.14", "[2606:2800::1]"]),
    ):
        for host in refused:
            told = await Web(allowed, names, privacy=tier).refusal(f"http://{host}:1/")
            assert "outside of the privacy tier" in told, (tier, host)
            assert tier.value in told
        async with site({"/": page("here")}) as here:
            web = Web(allowed, names, privacy=tier)
            assert await web.text(here.at("/", "here.test")) == "here"
            assert await web.text(here.at("/", "localhost")) == "here"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "is no URL"),
        ("example.org/x", "write https://HOST/PATH"),
        ("file:///etc/passwd", "only http:// and https://"),
        ("javascript:alert(1)", "is no URL"),
        ("http://user@127.0.0.1/", "names a user"),
        ("http://127.0.0.1\\@evil.test/", "holds '\\\\'"),
        ("http://127.0.0.1/a\tb", "holds '\\t'"),
        ("http://127.0.0.1/a\nHost: x", "holds '\\n'"),
        ("http://127.0.0.1 /", "holds ' '"),
        ("http://%31%32%37.0.0.1/", "no IPv4 address"),
        ("http://127.0.0.1%00.evil.test/", "no name of a host"),
        ("http://127.0.0.256/", "no IPv4 address"),
        ("http://1.2.3.4.5/", "no IPv4 address"),
        ("http://08.1/", "no IPv4 address"),
        ("http://4294967296/", "no IPv4 address"),
        ("http://0x/", "outside"),
        ("http://[fe80::1%25eth0]/", "no IPv6 address"),
        ("http://[fe80::1%eth0]/", "no IPv6 address"),
        ("http://[::1]x/", "cannot be read"),
        ("http://[::1/", "cannot be read"),
        ("http://[127.0.0.1/", "cannot be read"),
        ("http://a..b/", "no name of a host"),
        ("http://-a.test/", "no name of a host"),
        ("http://" + "a." * 150 + "test/", "no name of a host"),
        ("http://\u2066.test/", "no name of a host"),
        ("http://a.test:port/", "port 'port' does not exist"),
        ("http://a.test:0/", "port '0' does not exist"),
        ("http://a.test:\u0661/", "does not exist"),
        ("http://a.test/" + "x" * 9_000, "8192 are the limit"),
        ("http://a.test/\ud800", "surrogates not allowed"),
    ],
)
async def test_what_is_no_plain_url_is_refused_in_words(url: str, told: str) -> None:
    names = Names({})
    assert told in await Web(["*:*"], names).refusal(url)
    assert names.asked == []


async def test_names_of_other_scripts_are_what_they_are_in_ascii() -> None:
    names = Names.of(**{"xn--bcher-kva_test": "127.0.0.1"})
    async with site({"/%C3%BC?%C3%A4": page("a")}) as here:
        for allowed in ("xn--bcher-kva.test:*", "Bücher.test:*", "*.test:*"):
            web = Web([allowed, "127.0.0.1:*"], names)
            assert (await web.text(here.at("/ü?ä", "BÜCHER.test"))).startswith("a")
        assert here.heads[0].startswith("GET /%C3%BC?%C3%A4 HTTP/1.1\r\nHost: xn--bcher-kva.test:")


async def test_a_name_without_an_address_is_told() -> None:
    assert "'no.test' has no address" in await Web(["*"], Names({})).refusal("http://no.test/")
    assert "'no.test' has no address" in await Web(["*"], Names({"no.test": [[]]})).refusal("http://no.test/")
    odd = Names.of(no_test="not an address")
    assert "'no.test' has no address" in await Web(["*"], odd).refusal("http://no.test/")


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with site({"/": page("a")}) as here:
        assert await Web().text(here.at("/")) == "a"


# -- TLS -------------------------------------------------------------------------------------


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


async def test_tls_is_checked_against_the_name_and_not_the_address() -> None:
    names = Names.of(models_example="127.0.0.1", other_example="127.0.0.1")
    allowed = ["*.example:*", "127.0.0.1:*"]
    asked: list[str | None] = []
    context = server_context()
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with site({"/": page("secret")}, context=context) as here:
        trusted = Web(allowed, names, more={"certificates": trusting})
        assert await trusted.text(here.at("/", "models.example", "https")) == "secret"
        assert asked == ["models.example"]
        told = await trusted.refusal(here.at("/", "other.example", "https"))
        assert "its certificate is not valid: Hostname mismatch" in told
        assert asked == ["models.example", "other.example"]
        told = await Web(allowed, names).refusal(here.at("/", "models.example", "https"))
        assert "its certificate is not valid: self" in told
        assert len(here.heads) == 1
        assert "cannot be fetched" in await trusted.refusal(here.at("/", "models.example", "http"))


async def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    names = Names.of(models_example="127.0.0.1")
    async with site({"/": page("plain")}) as plain, site({}, context=server_context()) as secure:
        secure.answers["/"] = redirect(plain.at("/", "models.example"))
        plain.answers["/up"] = redirect(secure.at("/end", "models.example", "https"))
        secure.answers["/end"] = page("end")
        web = Web(["*.example:*", "127.0.0.1:*"], names, more={"certificates": trusting})
        assert "is not encrypted" in await web.refusal(secure.at("/", "models.example", "https"))
        assert plain.heads == []
        assert (await web.text(plain.at("/up", "models.example"))).startswith("end\n[from https://")


# -- as a tool -------------------------------------------------------------------------------


async def test_fetches_beside_each_other_share_nothing() -> None:
    async with site({"/a": page("a", Set_Cookie="id=1"), "/b": page("b")}) as here:
        web = Web()
        texts: list[str] = []

        async def fetch(path: str) -> None:
            texts.append(await web.text(here.at(path)))

        async with trio.open_nursery() as nursery:
            for path in "/a", "/b", "/a", "/b":
                nursery.start_soon(fetch, path)
        await fetch("/a")
        assert sorted(texts) == ["a", "a", "a", "b", "b"]
        assert len(here.heads) == 5
        assert not any("cookie" in head.lower() for head in here.heads)


def test_a_manifest_that_grants_a_network_has_the_tool() -> None:
    assert build_tools(AgentManifest(name="m", capabilities=[NetworkCapability(["*"])])).names == (
        "fetch_url",
    )


async def test_without_httpx_the_model_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpcore2", None)
    told = await Web().refusal("http://127.0.0.1:1/")
    assert "pip install 'trio-agentpool[http]'" in told


async def test_an_agent_fetches_what_its_manifest_grants(tmp_path: Path) -> None:
    async with site({"/": page("the page")}) as here:
        (tmp_path / "m.toml").write_text(
            f"""
            name = "m"
            privacy = "sovereign"
            capabilities = [{{ type = "network", allowed_hosts = ["localhost:{here.port}"] }}]
            [script]
            steps = [
                {{ calls = [{{ tool = "fetch_url", input = {{ url = "{here.at("/", "localhost")}" }} }},
                            {{ tool = "fetch_url", input = {{ url = "https://example.org/" }} }}] }},
                {{ text = "{{results[0]}}|{{results[1]}}" }},
            ]
            """
        )
        manifest = AgentManifest.load(tmp_path / "m.toml")
        async with open_agent_pool(ScriptedDriver.for_manifest(manifest), max_concurrent=1) as pool:
            said = (await (await pool.spawn(SpawnConfig(manifest, "x"))).result()).text
    assert said.startswith("the page|port 443 of the host 'example.org' is outside")


async def test_names_are_looked_up_by_trio_where_nothing_else_is_given() -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            await trio.lowlevel.checkpoint()
            if host != b"a.test":
                raise OSError("Name or service not known")
            return [(2, 1, 6, "", ("127.0.0.1", port)), (2, 1, 6, "", ("127.0.0.1", port))]

        async def getnameinfo(self, *args: Any) -> Any:
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(Resolver())
    async with site({"/": page("a")}) as here:
        web = Web(["*.test:*", "127.0.0.1:*"], names=resolved)  # type: ignore[arg-type]
        assert await web.text(here.at("/", "a.test")) == "a"
        assert "'b.test' has no address" in await web.refusal(here.at("/", "b.test"))
        assert len(here.heads) == 1


async def test_an_entry_that_no_url_can_have_grants_nothing() -> None:
    assert "outside" in await Web(["\u2066.test", "*.\u2066"]).refusal("http://a.test/")


async def test_a_redirect_may_be_written_in_latin_1_or_utf_8() -> None:
    async with site({"/%C3%BC": page("end")}) as here:
        for location in ("/ü".encode("latin-1"), "/ü".encode()):
            here.answers["/"] = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n" % location
            assert (await Web().text(here.at("/"))).startswith("end\n[from ")


async def test_what_a_server_forgot_to_say_is_seen() -> None:
    answers = {"/pdf": page(b"%PDF-1.4", ""), "/html": page("<!DOCTYPE html><p>x", "binary/octet-stream")}
    async with site(answers) as here:
        assert await Web().file(here.at("/pdf")) == Document(b"%PDF-1.4", "application/pdf")
        assert await Web().text(here.at("/html")) == "x"
