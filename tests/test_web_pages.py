"""Pages of the web as text: what a reader sees of them, and how long the worst of them take."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpool.tools._pages import readable, text_of_bytes

URL = "https://site.test/dir/page?x=1"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("a &lt;b&gt; &amp;amp; &eacute;&#8364;&#x41; &nosuch;", "a <b> &amp; é€A &nosuch;"),
        ("<p>one\n  two</p><p>three", "one two\n\nthree"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<b>bo</b>ld <i>and</i> so", "bold and so"),
        ("<ul><li>one</li><li><p>two</p><li>three</ul>", "- one\n- two\n\n- three"),
        ("<ul><li></li><li>two</ul>", "- two"),
        ("<h1>Big</h1>text<h3>Small</h3>", "# Big\n\ntext\n\n### Small"),
        ("<h2></h2><p>x", "x"),
        ("<table><tr><th>a<th>b</tr><tr><td>1</td><td>2</td></tr></table>", "a | b\n1 | 2"),
        ("<pre>  x\n    y</pre> z", "x\n    y\n\nz"),
        ("<p>a</p><pre>\n  x</pre>", "a\n\n\n  x"),
        ("<!-- <p>no</p> -->yes<!doctype html><?php no ?>", "yes"),
        ("<!-->still</p>-->yes", "still\n\n-->yes"),
        ("a<script>if (a < b) '</p>'</script>b<STYLE>p {}</STYLE >c<svg><text>no</text></svg>d", "abcd"),
        ("a<script>never closed <p>b", "a"),
        ("a<template><p>no</p></template><noscript>shown</noscript>", "ashown"),
        ("<a href='/x?a=1&amp;b=2'>link</a>", "[link](https://site.test/x?a=1&b=2)"),
        ("see <a href=other>this\n page</a>!", "see [this page](https://site.test/dir/other)!"),
        ("<a href='#top'>up</a> <a name=x>here</a> <a href='mailto:a@b'>mail</a>", "up here mail"),
        ("<a href='javascript:alert(1)'>x</a><a href='/e'></a>", "x"),
        ("<a href='http://[bad'>x</a>", "x"),
        ("<a href='https://a.test/'>https://a.test/</a>", "https://a.test/"),
        ("<a href=/1>one<a href=/2>two", "[one](https://site.test/1)[two](https://site.test/2)"),
        ("<p>a <a href=/1><h2>Head</h2></a>b", "a\n\n[## Head](https://site.test/1)\n\nb"),
        ("<img src=x alt='a  cat'> <img src=y> <img alt=''>", "![a cat]"),
        ("1 < 2 and 3 > 2 <3", "1 < 2 and 3 > 2 <3"),
        ('<p title="a > b">x</p>', "x"),
        ('<p title="never closed>x</p><p>y', "x\n\ny"),
        ("<p title='a' b=\"c'>x</p>", "x"),
        ("</p>a</b><", "a<"),
        ("<a", ""),
        ("", ""),
        ("<title>The &amp; title</title><body>x", "# The & title\n\nx"),
        ("a\xa0b", "a\xa0b"),
    ],
)
def test_what_a_reader_sees_of_a_page(html: str, text: str) -> None:
    assert readable(html, URL) == text


PIECES = st.sampled_from(
    ["<", ">", "/", "!", "--", "<!--", "-->", "<p", "<a href=", "<a href='x'>", "</a>", "<script>",
     "</script", "<pre>", "</pre>", '"', "'", " ", "\n", "x", "&amp;", "&", "<li>", "<td>", "<h1>",
     "=", "<svg>", "\0", "é"]
)  # fmt: skip


@given(pieces=st.lists(PIECES, max_size=30))
@settings(max_examples=400)
def test_any_soup_of_tags_is_read_without_an_error(pieces: list[str]) -> None:
    readable("".join(pieces), URL)


@given(data=st.binary(max_size=60), charset=st.sampled_from(["", "utf-8", "utf-16", "big5", "\0", "x" * 99]))
def test_any_bytes_have_a_text(data: bytes, charset: str) -> None:
    text_of_bytes(data, charset).encode()


@pytest.mark.long
@pytest.mark.parametrize(
    "piece",
    [
        "<!--", "<", "<a", "<a href='", '<a b="', '<a \'"', "<script", "<script>", "</script", "&#", "&a",
        "<a href=x>", "<p>", "<li>", "<td>", "<pre>", "<svg></svg>", "<!", "x<b>", "<a  =", " ",
        "<a href='x' " + "y " * 50, "<![CDATA[", "</", "<img alt=", "<h1></h1>",
    ],
)  # fmt: skip
def test_no_page_takes_time_out_of_proportion(piece: str) -> None:
    def seconds(size: int) -> float:
        page = piece * (size // len(piece))
        start = time.thread_time()
        readable(page, URL)
        return time.thread_time() - start

    seconds(1_000)
    # Ten times as much takes ten times as long, and would take a hundred times if it were squared.
    few, many = min(seconds(50_000) for _ in range(3)), seconds(500_000)
    assert many < max(few, 0.002) * 45


@pytest.mark.parametrize("digits", ["1" * 5_000, "1" * 4_300 + "0" * 90_000, "x" + "f" * 5_000, "9" * 20])
def test_a_number_that_is_no_characters_is_shown_as_an_unknown_one(digits: str) -> None:
    """Alir3z4/html2text#398, kurtmckee/feedparser#591: a page with such a number was an error."""
    assert readable(f"<p>a &#{digits}; b &#{digits} c", URL) == "a \ufffd b \ufffd c"
    assert readable(f"<a href='/&#{digits};'>a</a>", URL).startswith("[a](http")
    assert readable(f"<img alt='&#{digits};'>", URL) == "![\ufffd]"


def test_a_text_that_was_cut_in_a_character_is_utf8_all_the_same() -> None:
    assert text_of_bytes("aé".encode()[:-1], "", is_cut=True) == "a\ufffd"
    assert text_of_bytes("aé".encode("latin-1"), "") == "aé"
    assert text_of_bytes(b'<?xml version="1.0" encoding="ISO-8859-1"?>\xe9', "")[-1] == "é"
    assert text_of_bytes("<meta charset=utf-16>é".encode(), "")[-1] == "é"  # as browsers do
    assert text_of_bytes("é".encode("utf-32"), "") == "é"
    assert text_of_bytes(b"a\0b", "utf-8") == "a\ufffdb"
