"""The live page in a real browser, with the real server and a real pool behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from browser_kit import ROWS, Shown, drawn, live_pool, names_of, open_browser, open_page, until

from agentpool import Aborted, AgentContext, AgentManifest, Completion, ModelAgent, ScriptedDriver
from agentpool._core.approval import Answered, ApprovalRequest, Approved, Denied, Question
from agentpool._core.messages import ToolCall

pytestmark = pytest.mark.processes

ACTIVE = "document.activeElement"
ARMED = ".card button:not([aria-disabled])"
PRESSED = """() => {
  const sent = [], real = window.fetch;
  window.fetch = (...all) => { sent.push(all[0]); return real(...all); };
  for (const button of document.querySelectorAll(".card .buttons button")) button.click();
  window.fetch = real;
  return sent.length;
}"""
"""How many decisions the page sends when all its buttons are pressed at once."""
PRESS_WHEN_CARDS_CHANGE = f"""() => {{
  window.pressed = window.armedAfter = undefined;
  const list = document.getElementById("approvals-list");
  new MutationObserver((changes, watch) => {{
    const nodes = changes.flatMap((each) => [...each.addedNodes, ...each.removedNodes]);
    if (!nodes.some((node) => node.matches?.(".card"))) return;
    watch.disconnect();
    const main = list.querySelector(".card button.main");
    window.pressed = [({PRESSED})(), main.getAttribute("aria-disabled")];
    const came = performance.now();
    new MutationObserver((_, armed) => {{
      if (main.hasAttribute("aria-disabled")) return;
      armed.disconnect();
      window.armedAfter = performance.now() - came;
    }}).observe(main, {{attributeFilter: ["aria-disabled"]}});
  }}).observe(list, {{childList: true, subtree: true}});
}}"""
"""Has all buttons pressed in the very moment in which a card has come or gone, however busy the machine is;
tells when they take a click, too."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@contextmanager
def live(browser: Any, *, allowed: str = "", **options: Any) -> Iterator[tuple[Shown, Any]]:
    """A pool and a browser that looks at its page."""
    with live_pool(**options) as shown, open_page(browser, shown.link, allowed=allowed) as page:
        until(page, "document.getElementById('connection').textContent === 'live'")
        yield shown, page


async def waiter(ctx: AgentContext) -> None:
    await trio.sleep_forever()


async def parent(ctx: AgentContext, many: int = 2) -> None:
    for number in range(many):
        await ctx.spawn(waiter, name=f"child-{number}")
    await trio.sleep_forever()


def request(number: int = 1, tool: str = "write_file", **arguments: Any) -> ApprovalRequest:
    call = ToolCall(f"c{number}", tool, arguments or {"path": f"notes-{number}.txt", "text": "hello"})
    return ApprovalRequest.of(1, "writer", call, 'ask = "write_file"')


def question(schema: Any = None, message: str = "Which one?", url: str = "") -> ApprovalRequest:
    return request(tool="search").asking(Question("library", message, schema, url))


def test_agents_appear_are_opened_and_aborted_for_a_reason(browser: Any) -> None:
    with live(browser) as (shown, page):
        page.locator("#empty").wait_for()
        handle = shown.spawn(parent, name="boss")
        page.locator(ROWS).nth(2).wait_for()
        assert names_of(page) == ["boss", "child-0", "child-1"]
        page.locator(ROWS).first.focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Abort…").click()
        dialog = page.get_by_role("dialog", name="Abort boss?")
        dialog.wait_for()
        assert "2 agents below it" in dialog.inner_text()
        page.keyboard.type("it goes in circles")
        page.keyboard.press("Enter")
        outcome = shown.wait(handle.wait)
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "it goes in circles"
        until(page, "document.querySelector('.tree-body .what').textContent.startsWith('aborted: it goes')")
        page.get_by_role("button", name="Abort…").wait_for(state="hidden")


def test_a_dialog_that_is_left_does_nothing(browser: Any) -> None:
    with live(browser) as (shown, page):
        handle = shown.spawn(waiter, name="one")
        page.locator(ROWS).first.click()
        for leave in ("Escape", "Enter"):  # Cancel has the focus where nothing is to be typed
            page.locator("#drain").click()
            page.locator("#ask").wait_for()
            page.keyboard.press(leave)
            page.locator("#ask").wait_for(state="hidden")
            assert page.evaluate(f"{ACTIVE}.id") == "drain"
        assert not shown.pool.draining
        assert handle.outcome is None


def test_the_pool_is_drained_after_it_was_confirmed(browser: Any) -> None:
    with live(browser) as (shown, page):
        shown.spawn(waiter, name="one")
        page.locator("#drain").click()
        page.get_by_role("button", name="Drain the pool", exact=True).click()
        until(page, "document.getElementById('state').textContent === 'draining'")
        assert shown.pool.draining
        assert page.locator("#drain").is_disabled()


def test_who_drains_a_run_with_a_journal_is_told_that_agents_at_work_are_stopped(browser: Any) -> None:
    with live(browser) as (shown, page):
        page.locator("#drain").click()
        assert "go on to their end" in page.locator("#ask").inner_text()
        shown._page.watching.leaves = True
        page.reload()
        page.locator("#drain").click()
        assert "also the agents at work are stopped" in page.locator("#ask").inner_text()


def test_a_call_is_approved_and_the_focus_goes_where_nothing_is_approved_by_accident(browser: Any) -> None:
    with live(browser) as (shown, page):
        shown.spawn(waiter, name="writer")
        first, second = shown.ask(request(1)), shown.ask(request(2))
        cards = page.locator(".card")
        cards.nth(1).wait_for()
        until(page, "document.title.startsWith('(2) ')")
        assert page.get_by_role("heading", name="Approvals (2)").is_visible()
        assert "writer wants to call write_file" in cards.first.inner_text()
        assert "notes-1.txt" in cards.first.inner_text()
        assert 'Rule: ask = "write_file"' in cards.first.inner_text()
        until(page, f"document.querySelectorAll('{ARMED}').length >= 4")
        cards.first.get_by_role("button", name="Approve").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        cards.nth(1).wait_for(state="detached")
        until(page, f"{ACTIVE}.tagName === 'H3'")
        page.keyboard.press("Enter")
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        assert shown.decided(first) == [Approved()]
        assert second == []
        page.get_by_label(re.compile("Reason for denying")).fill("not this file")
        page.get_by_label(re.compile("Reason for denying")).press("Enter")  # decides nothing
        cards.first.get_by_role("button", name="Deny").click()
        page.locator("#approvals-none").wait_for()
        until(page, f"{ACTIVE}.id === 'approvals-heading'")
        assert shown.decided(second) == [Denied("not this file")]
        until(page, "document.title.startsWith('running')")


def test_a_button_that_has_just_come_under_the_pointer_takes_no_click(browser: Any) -> None:
    with live(browser) as (shown, page):
        shown.spawn(waiter, name="writer")
        # As soon as it is there, and again when another card has gone from above it.
        page.evaluate(PRESS_WHEN_CARDS_CHANGE)
        first = shown.ask(request(1))
        until(page, "window.pressed")
        assert page.evaluate("window.pressed") == [0, "true"]
        until(page, "window.armedAfter")
        assert page.evaluate("window.armedAfter") > 100  # half a second, without what drawing took
        second = shown.ask(request(2))
        page.locator(".card").nth(1).wait_for()
        until(page, f"document.querySelectorAll('{ARMED}').length >= 4")
        box = page.locator(".card button.main").first.bounding_box()
        page.evaluate(PRESS_WHEN_CARDS_CHANGE)
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        page.mouse.up()
        until(page, "window.pressed")
        assert page.evaluate("window.pressed") == [0, "true"]  # the second of a double click
        drawn(page)
        assert shown.decided(first) == [Approved()]
        assert second == []


def test_buttons_that_move_because_the_head_grows_take_no_click(browser: Any) -> None:
    with live(browser) as (shown, page):
        shown.spawn(waiter, name="writer")
        first = shown.ask(request(1))
        page.locator(".card").wait_for()
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        page.evaluate(
            """() => new Promise((done) => {
              const watch = new MutationObserver(() => done(true)), more = document.createElement("p");
              watch.observe(document.querySelector(".card .main"), {attributeFilter: ["aria-disabled"]});
              more.style.height = more.style.minWidth = "90px";
              document.querySelector(".head").append(more);
            })"""
        )
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        page.locator(".card button.main").click()
        page.locator("#approvals-none").wait_for()
        assert shown.decided(first) == [Approved()]


def test_what_is_decided_elsewhere_is_told_and_an_error_stands_beside_its_card(browser: Any) -> None:
    with live(browser, allowed="409") as (shown, page):
        shown.spawn(waiter, name="writer")
        decisions = shown.ask(request(1))
        page.locator(".card").wait_for()
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        # Decided in the moment in which the page still shows it.
        page.evaluate(
            """() => { const real = window.fetch; window.fetch = (...all) => new Promise((done) => {
            window.go = () => { window.fetch = real; done(real(...all)); }; }); }"""
        )
        page.locator(".card button.main").click()
        key = shown.do(shown.approver.asked)[0]["hash"]
        shown.do(shown.approver.decide, key, {"approve": False, "reason": "by another"})
        page.locator(".card").wait_for(state="detached")
        until(page, "document.getElementById('approvals-said').textContent.includes('decided elsewhere')")
        page.evaluate("() => window.go()")
        drawn(page)
        assert shown.decided(decisions) == [Denied("by another")]


def test_hidden_characters_of_arguments_are_seen(browser: Any) -> None:
    hidden = "rm \u202e/ fr-\u2066a\u2069 \u200bend\u00a0x\x07\ty \U000e0041 \ufe0f"
    with live(browser) as (shown, page):
        shown.spawn(waiter, name="writer")
        shown.ask(request(command=hidden, count=5, **{"na\u200bme": ["\u202ea"], "big": "x\n" * 5000}))
        card = page.locator(".card")
        card.wait_for()
        texts = card.locator(".text").all_text_contents()
        assert texts[0] == ("rm \\u202e/ fr-\\u2066a\\u2069 \\u200bend\\u00a0x\\u0007\\ty \\u{e0041} \\ufe0f")
        assert texts[1] == "5"
        assert texts[2] == '[\n  "\\u202ea"\n]'
        assert "na\\u200bme" in card.inner_text()
        assert "characters of the arguments are not shown yet" in card.inner_text()
        card.get_by_role("button", name=re.compile("Show all")).click()
        assert card.locator(".text").nth(3).text_content() == "x\n" * 5000
        assert "not shown yet" not in card.inner_text()


def test_the_form_of_a_question_is_filled_in_and_checked(browser: Any) -> None:
    schema = {
        "type": "object",
        "required": ["name", "size", "kind"],
        "properties": {
            "name": {
                "type": "string",
                "title": "Your name",
                "minLength": 2,
                "description": "<b>Who</b> asks",
            },
            "size": {"type": "integer", "minimum": 1, "maximum": 5},
            "ratio": {"type": "number", "default": 0.5},
            "kind": {"type": "string", "enum": ["a", "b"], "enumNames": ["Alpha", "Beta"]},
            "sure": {"type": "boolean", "default": True},
            "note": {"type": "string"},
            "mail": {"type": "string", "format": "email"},
            "many": {"type": "array", "items": {"type": "string", "enum": ["x", "y", "z"]}},
        },
    }
    with live(browser) as (shown, page):
        shown.spawn(waiter, name="writer")
        decisions = shown.ask(question(schema, "<img src=x onerror=alert(1)> Which one?"))
        card = page.locator(".card")
        card.wait_for()
        assert "library asks writer" in card.inner_text()
        assert "<img src=x onerror=alert(1)> Which one?" in card.inner_text()
        assert "<b>Who</b> asks" in card.inner_text()
        assert card.locator("img, b").count() == 0
        send = card.get_by_role("button", name="Send the answer")
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        send.click()
        until(page, f"{ACTIVE}.getAttribute('aria-invalid') === 'true'")
        assert card.locator(".problem:visible").all_inner_texts() == ["This has to be filled in."] * 3
        card.get_by_label("Your name (required)").fill("J")
        card.get_by_label("size (required)").fill("2.5")
        card.get_by_label("kind (required)").select_option(label="Beta")
        card.get_by_label("mail").fill("nobody")
        send.click()
        problems = card.locator(".problem:visible").all_inner_texts()
        assert problems[:2] == ["At least 2 characters.", "This has to be a whole number."]
        assert len(problems) == 3
        card.get_by_label("Your name (required)").fill("Jo")
        card.get_by_label("size (required)").fill("3")
        card.get_by_label("mail").fill("jo@example.org")
        card.get_by_label("y", exact=True).check()
        send.click()
        page.locator("#approvals-none").wait_for()
        assert shown.decided(decisions) == [
            Answered(
                {
                    "name": "Jo",
                    "size": 3,
                    "ratio": 0.5,
                    "kind": "b",
                    "sure": True,
                    "mail": "jo@example.org",
                    "many": ["y"],
                }
            )
        ]


def test_a_link_of_a_question_is_text_with_its_host_and_a_form_without_fields_is_sent(browser: Any) -> None:
    with live(browser) as (shown, page):
        shown.spawn(waiter, name="writer")
        url = "https://library.example.org@evil.example.net/login"
        first = shown.ask(question(url=url))
        card = page.locator(".card")
        card.wait_for()
        assert "a page of evil.example.net" in card.inner_text()
        assert url in card.inner_text()
        assert card.locator("a").count() == 0
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        card.get_by_role("button", name="Decline").click()
        page.locator("#approvals-none").wait_for()
        assert shown.decided(first) == [Denied("")]
        second = shown.ask(question({"type": "object", "properties": {}}))
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        card.get_by_role("button", name="Send the answer").click()
        page.locator("#approvals-none").wait_for()
        assert shown.decided(second) == [Answered({})]


def test_what_the_server_does_not_take_is_told_beside_the_card(browser: Any) -> None:
    with live(browser, allowed="400") as (shown, page):
        shown.spawn(waiter, name="writer")
        schema = {"type": "object", "properties": {"word": {"type": "string", "pattern": "^a+$"}}}
        decisions = shown.ask(question(schema))
        page.locator(".card").wait_for()
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        page.get_by_label("word").fill("bbb")
        page.get_by_role("button", name="Send the answer").click()
        problem = page.locator(".card > form > .problem")
        problem.wait_for()
        assert problem.inner_text()
        assert decisions == []
        page.get_by_label("word").fill("aaa")
        page.get_by_role("button", name="Send the answer").click()
        page.locator("#approvals-none").wait_for()
        assert shown.decided(decisions) == [Answered({"word": "aaa"})]


def test_a_decision_without_a_connection_is_not_lost_silently(browser: Any) -> None:
    with live(browser, allowed="Failed to load resource") as (shown, page):
        shown.spawn(waiter, name="writer")
        decisions = shown.ask(request(1))
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        shown.cut()
        page.locator(".card button.main").click()
        problem = page.locator(".card > form > .problem")
        until(
            page,
            "document.querySelector('.card > form > .problem')"
            ".textContent.includes('probably nothing was sent')",
        )
        assert problem.is_visible()
        assert decisions == []
        shown.serve()
        until(page, "document.getElementById('connection').textContent === 'live'")
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        page.locator(".card button.main").click()
        page.locator("#approvals-none").wait_for()
        assert shown.decided(decisions) == [Approved()]


def test_a_server_that_hangs_is_told_from_one_that_answers(browser: Any) -> None:
    with live(browser, allowed="Failed to load resource") as (shown, page):
        shown.spawn(waiter, name="writer")
        decisions = shown.ask(request(1))
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2")
        shown.cut(hangs=True)
        page.locator(".card button.main").click()
        problem = "document.querySelector('.card > form > .problem').textContent"
        until(page, f"{problem}.includes('did not answer')")
        until(page, "document.getElementById('connection').dataset.tone === 'bad'")
        until(page, "/next attempt in \\d+ s/.test(document.getElementById('connection').textContent)")
        shown.serve()  # and what hung there is answered now
        page.locator("#retry").click()
        until(page, "document.getElementById('connection').textContent === 'live'")
        until(page, f"document.querySelectorAll('{ARMED}').length >= 2 || !document.querySelector('.card')")
        if page.locator(".card").count():
            page.locator(".card button.main").click()
        page.locator("#approvals-none").wait_for()
        assert shown.decided(decisions) == [Approved()]


def test_the_stream_resumes_after_the_server_was_cut_and_nothing_is_told_twice(browser: Any) -> None:
    with live(browser, allowed="Failed to load resource") as (shown, page):
        shown.spawn(parent, name="boss")
        page.locator(ROWS).nth(2).wait_for()
        page.locator(ROWS).nth(1).click()
        page.evaluate("window.same = true")
        shown.cut()
        until(page, "document.getElementById('connection').dataset.tone === 'bad'")
        shown.spawn(waiter, name="later")
        shown.serve()
        page.locator(ROWS).nth(3).wait_for()
        assert names_of(page) == ["boss", "child-0", "child-1", "later"]
        until(page, "document.getElementById('connection').textContent === 'live'")
        assert page.evaluate("window.same")
        assert page.locator("#agent h2").inner_text() == "child-0"


def test_while_the_server_is_away_for_longer_the_page_says_when_it_tries_again(browser: Any) -> None:
    with live(browser, allowed="Failed to load resource") as (shown, page):
        shown.spawn(waiter, name="one")
        page.locator(ROWS).first.wait_for()
        shown.cut()
        words = page.locator("#connection")
        until(
            page,
            "/next attempt in \\d+ s/.test(document.getElementById('connection').textContent)",
        )
        assert words.get_attribute("data-tone") == "bad"
        assert page.locator("#retry").is_visible()
        shown.serve()
        page.locator("#retry").click()
        until(page, "document.getElementById('connection').textContent === 'live'")
        assert not page.locator("#retry").is_visible()


def test_the_end_of_the_run_stops_the_page(browser: Any) -> None:
    with live(browser) as (shown, page):
        shown.spawn(waiter, name="one")
        page.locator(ROWS).first.wait_for()
        requests: list[str] = []
        shown.ask(request(1))
        page.locator(".card").wait_for()
        shown.end("completed")
        until(page, "document.getElementById('state').textContent === 'completed'")
        page.on("request", lambda each: requests.append(each.url))
        assert "the run is over" in page.locator("#connection").inner_text()
        assert not page.locator("#drain").is_visible()
        assert page.locator(".card").count() == 0
        page.wait_for_timeout(1500)  # longer than a browser takes to come back
        assert requests == []


def test_another_run_at_the_same_address_lets_the_page_in_by_its_own_link_only(browser: Any) -> None:
    with live_pool(title="the first") as first:
        port = int(first.link.split(":")[2].split("/")[0])
        with open_page(browser, first.link, allowed="Failed to load resource") as page:
            first.spawn(waiter, name="old")
            page.locator(ROWS).first.wait_for()
            first.cut()
            with live_pool(title="the second", port=port) as second:
                second.spawn(waiter, name="new")
                until(
                    page,
                    "document.getElementById('connection').textContent.includes('does not know this page')",
                )
                assert names_of(page) == ["old"]
                page.goto(second.link)
                page.locator(ROWS).first.wait_for()
                assert names_of(page) == ["new"]
                assert page.locator("h1").inner_text() == "the second"


def test_a_page_that_is_let_in_by_the_next_run_starts_over(browser: Any) -> None:
    with live_pool(title="the first") as first:
        port = int(first.link.split(":")[2].split("/")[0])
        with open_page(browser, first.link, allowed="Failed to load resource") as page:
            first.spawn(waiter, name="old")
            page.locator(ROWS).first.click()
            first.cut()
            with live_pool(title="the second", port=port) as second:
                second.spawn(waiter, name="new")
                other = page.context.new_page()  # the same browser, with the new cookie
                other.goto(second.link)
                other.locator(ROWS).first.wait_for()
                page.evaluate("document.getElementById('retry').click()")
                until(page, "document.querySelector('.tree-body')?.innerText.includes('new')")
                assert names_of(page) == ["new"]
                until(page, "document.querySelector('h1').textContent === 'the second'")


def test_a_transcript_grows_and_the_place_in_it_stays(browser: Any) -> None:
    more = trio.Event()

    class Slow(ScriptedDriver):
        async def complete(self, request: Any) -> Completion:
            if len(request.messages) > 2:
                await more.wait()
            return await super().complete(request)

    def ping() -> str:
        """Answer."""
        return "pong\n" * 300

    calls = [Completion(tool_calls=(ToolCall(f"c{number}", "ping", {}),)) for number in range(3)]
    driver = Slow([*calls, "All is well."])
    with live(browser, driver=driver) as (shown, page):
        agent = ModelAgent(AgentManifest(name="talker"), tools=[ping])
        shown.spawn(agent, "Say <b>something</b>.")
        page.locator(ROWS).first.click()
        messages = page.locator("#agent .message")
        messages.nth(2).wait_for()
        assert "Say <b>something</b>." in messages.first.inner_text()
        assert "calls ping" in messages.nth(1).inner_text()
        side = page.locator("#side")
        side.evaluate("(side) => { side.scrollTop = 300; }")
        place = messages.first.bounding_box()["y"]
        shown.do(more.set)
        page.locator("#agent .message", has_text="All is well.").last.wait_for()
        assert side.evaluate("(side) => side.scrollTop") > 200
        assert abs(messages.first.bounding_box()["y"] - place) < 60


def test_nothing_is_drawn_while_the_tab_is_hidden(browser: Any) -> None:
    with live(browser) as (shown, page):
        page.evaluate(
            """() => {
            Object.defineProperty(document, 'hidden', {get: () => window.away, configurable: true});
            window.away = true; document.dispatchEvent(new Event('visibilitychange')); }"""
        )
        drawn(page)  # the frame that was asked for before
        page.evaluate(
            "new MutationObserver(() => { window.drawn = (window.drawn || 0) + 1; })"
            ".observe(document.getElementById('rows'), {childList: true, subtree: true})"
        )
        shown.spawn(parent, name="boss")
        page.wait_for_timeout(1500)  # so long several batches come
        assert page.evaluate("window.drawn") is None
        page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
        page.locator(ROWS).nth(2).wait_for()


def test_a_live_page_keeps_its_policy_and_loads_nothing(browser: Any) -> None:
    with live_pool() as shown:
        context = browser.new_context()
        page = context.new_page()
        requests: list[str] = []
        page.on("request", lambda each: requests.append(each.url))
        page.goto(shown.link)
        until(page, "document.getElementById('connection').textContent === 'live'")
        address = shown.link.split("/?")[0]
        assert {
            each.removeprefix(address).partition("?")[0] for each in requests if not each.startswith("data:")
        } == {"/", "/events"}
        context.close()
