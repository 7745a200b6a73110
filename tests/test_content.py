"""Content: text, and parts of which some are pictures or documents."""

from __future__ import annotations

import pytest

from agentpool import Document, Image, Text, ToolMessage, ToolResult, UserMessage
from agentpool._core.content import as_content, parts_of, text_of, with_text
from agentpool._core.transcript import (
    IMAGE_TOKENS,
    MESSAGE_OVERHEAD,
    content_tokens,
    message_tokens,
)

PICTURE = Image(b"\x89PNG", "IMAGE/png ")
PAPER = Document(b"%PDF-1.7", "application/pdf", name="report.pdf")


def test_an_image_has_bytes_with_a_clean_media_type_or_an_address() -> None:
    assert PICTURE.media_type == "image/png"
    assert Image(url="https://example.org/a.png").media_type == ""
    assert repr(PICTURE) == "Image(data=<4 bytes>, media_type='image/png', url='')"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Image(), "needs its bytes .* but neither is given"),
        (lambda: Image(b"a", "image/png", "https://x"), "but both are given"),
        (lambda: Image(b"a"), "needs their media type, such as 'image/png', not ''"),
        (lambda: Document(b"a", "pdf"), "needs their media type, such as 'application/pdf', not 'pdf'"),
    ],
)
def test_a_file_that_is_none_is_told_what_it_lacks(make: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()  # type: ignore[operator]


def test_an_address_that_holds_the_bytes_is_taken_for_them() -> None:
    """Switchyard#470: providers that take bytes refuse such an address."""
    assert Image(url="data:image/png;base64,iVBORw==") == PICTURE
    assert Image(url="DATA:IMAGE/PNG;charset=x;BASE64,iVBORw%3D%3D") == PICTURE
    paper = Document(url="data:application/octet-stream,%25PDF-1.7", media_type="application/pdf")
    assert (paper.data, paper.media_type, paper.url) == (b"%PDF-1.7", "application/pdf", "")


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,", "data:,x", "data:image/png;base64,a", "data:image/png"]
)
def test_an_address_without_bytes_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"neither is given|needs their media type|cannot be read"):
        Image(url=url)


def test_bytes_are_bytes() -> None:
    with pytest.raises(TypeError, match=r"Image\.data must be bytes, not str"):
        Image("abc", "image/png")  # type: ignore[arg-type]


def test_content_is_made_of_what_people_give() -> None:
    assert as_content("hello") == "hello"
    assert as_content(PICTURE) == (PICTURE,)
    assert as_content(["see:", PICTURE]) == (Text("see:"), PICTURE)
    assert UserMessage(["see:", PICTURE]).content == (Text("see:"), PICTURE)  # type: ignore[arg-type]
    assert ToolResult(PAPER).content == (PAPER,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "content must be .* not a NoneType"),
        (b"x", "content must be .* not a bytes"),
        ({"type": "text"}, "content must be .* not a dict"),
        ([1], "a part of content must be .* not a int"),
    ],
)
def test_what_is_no_content_is_refused(given: object, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        as_content(given)


def test_content_as_text_has_a_line_for_each_file() -> None:
    content = (Text("two files"), PICTURE, PAPER, Image(url="https://x/y.png"))
    assert text_of(content).splitlines() == [
        "two files",
        "[image/png, 4 bytes]",
        "[report.pdf, application/pdf, 8 bytes]",
        "[image, https://x/y.png]",
    ]
    assert UserMessage(content).body == text_of(content)
    assert ToolResult(content).text == text_of(content)
    assert text_of("as it is") == "as it is"


def test_text_is_put_around_content() -> None:
    assert with_text("b", "a", "c") == "abc"
    assert with_text((PICTURE,), "a") == (Text("a"), PICTURE)
    assert with_text((PICTURE,), after="c") == (PICTURE, Text("c"))


def test_content_as_parts() -> None:
    assert parts_of("") == ()
    assert parts_of("a") == (Text("a"),)
    assert parts_of((PICTURE,)) == (PICTURE,)


def test_tokens_of_files_are_estimated() -> None:
    assert content_tokens((Text("12345678"), PICTURE)) == 2 + IMAGE_TOKENS
    assert content_tokens((Document(b"x" * 400, "text/plain"),)) == 100
    assert content_tokens((PAPER,)) == IMAGE_TOKENS
    assert content_tokens((Document(b"x" * 100_000, "application/pdf"),)) == 2500
    assert message_tokens(ToolMessage("1", "look", ToolResult((PICTURE,)))) == MESSAGE_OVERHEAD + IMAGE_TOKENS
