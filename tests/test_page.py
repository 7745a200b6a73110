"""The page of a finished run, in a real browser: the tree, the timeline, the panel, keys, what is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from browser_kit import (
    NARROW,
    ROWS,
    Drawing,
    drawn,
    file_data,
    names_of,
    open_browser,
    open_file,
    picture_of,
    until,
)

from agentpool import AgentContext, AgentPool
from agentpool._core.picture import Picture

pytestmark = pytest.mark.processes

ACTIVE = "document.activeElement"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


async def answering(ctx: AgentContext) -> None:
    async for message in ctx.inbox:
        await trio.sleep(0.01)
        ctx.reply(message, "yes")


async def asking(ctx: AgentContext, other: int) -> None:
    for _ in range(3):
        await ctx.ask(other, "ready?")


async def failing(ctx: AgentContext) -> None:
    raise ValueError("no such file")


async def boss(ctx: AgentContext) -> None:
    helper = await ctx.spawn(answering, name="helper")
    await (await ctx.spawn(asking, helper.id, name="asker")).wait()
    await (await ctx.spawn(failing, name="unlucky")).wait()
    helper.abort("not needed any more")
    await helper.wait()


@pytest.fixture(scope="module")
def family() -> Picture:
    """A real run: a parent and three children, one of which failed and one of which was aborted."""

    async def run(pool: AgentPool) -> None:
        await (await pool.spawn(boss, name="boss")).wait()

    return picture_of(run)


def test_a_run_is_seen_with_its_agents_and_how_they_ended(
    browser: Any, family: Picture, tmp_path: Path
) -> None:
    with open_file(browser, tmp_path, file_data(family)) as page:
        page.locator(ROWS).first.wait_for()
        assert names_of(page) == ["boss", "helper", "asker", "unlucky"]
        told = page.locator(f"{ROWS} .what").all_text_contents()
        assert told == [
            "completed",
            "aborted: not needed any more",
            "completed",
            "failed: ValueError: no such file",
        ]
        until(page, "document.title === 'ended, with failures · run.db · agentpool'")
        assert "4: 2 completed, 1 failed, 1 aborted" in page.locator("#totals").inner_text()
        assert not page.locator("#drain").is_visible()
        assert not page.locator("#approvals").is_visible()


def test_an_agent_is_opened_by_the_keyboard_and_shows_facts_spans_messages_and_its_transcript(
    browser: Any, family: Picture, tmp_path: Path
) -> None:
    transcript = [
        {"role": "user", "kind": "query", "text": "Count the words."},
        {
            "role": "assistant",
            "text": "",
            "calls": [{"id": "1", "name": "count", "input": {"file": "a.txt"}}],
        },
        {"role": "tool", "name": "count", "call": "1", "text": "no such file", "error": True},
    ]
    with open_file(browser, tmp_path, file_data(family, transcripts={"3": transcript})) as page:
        page.locator(ROWS).first.wait_for()
        page.keyboard.press("Tab")
        page.evaluate("document.getElementById('search').focus()")
        page.keyboard.type("ask")
        page.keyboard.press("Enter")
        until(page, f"{ACTIVE}.view && {ACTIVE}.view.agent.name === 'asker'")
        page.keyboard.press("Enter")
        panel = page.locator("#agent")
        panel.locator("h2").wait_for()
        assert panel.locator("h2").inner_text() == "asker"
        facts = panel.locator(".facts").inner_text()
        assert "Spawned by" in facts
        assert "boss" in facts
        assert "3 sent, 3 heard" in facts
        messages = panel.locator(".message")
        assert messages.count() == 3
        assert "calls count" in messages.nth(1).inner_text()
        assert '"file": "a.txt"' in messages.nth(1).inner_text()
        assert "tool count: error" in messages.nth(2).inner_text()
        panel.get_by_text("Timeline as a table").click()
        rows = panel.get_by_role("region", name=re.compile("latest 200 spans")).get_by_role("row")
        rows.filter(has_text="waits for helper").first.wait_for()
        panel.get_by_text("Messages (6)").click()
        table = panel.get_by_role("region", name=re.compile("latest 200 messages"))
        table.get_by_role("row").nth(6).wait_for()
        assert table.get_by_role("row").count() == 7
        assert "question" in table.inner_text()
        assert "reply" in table.inner_text()
        panel.get_by_role("button", name="boss").click()
        until(page, "document.querySelector('#agent h2').textContent === 'boss'")
        assert page.locator("#search").input_value() == ""


def test_agents_of_one_name_are_told_apart_where_they_are_named(browser: Any, tmp_path: Path) -> None:
    drawing = Drawing()
    for name in ("worker", "worker", "boss"):
        drawing.spawn(name)
    drawing.time += 1
    drawing.waits(a1=[3], a3=[1, 2])
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        page.locator(ROWS).first.wait_for()
        told = page.locator(f"{ROWS} .what").all_text_contents()
        assert told == ["waits for boss", "runs", "waits for worker #1, worker #2"]


def tree_of(widths: dict[str, int]) -> Drawing:
    """Families with so many children, by the names of their parents."""
    drawing = Drawing()
    for name, many in widths.items():
        parent = drawing.spawn(name)
        for number in range(many):
            drawing.time += 0.01
            drawing.spawn(f"{name}-{number}", parent)
    drawing.time += 1
    return drawing


def test_the_keys_of_a_tree_move_fold_and_find(browser: Any, tmp_path: Path) -> None:
    drawing = tree_of({"alpha": 3, "beta": 60, "gamma": 2})
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        page.locator(ROWS).first.wait_for()
        # Beta's family is big, and folded at first.
        assert names_of(page) == [
            "alpha",
            "alpha-0",
            "alpha-1",
            "alpha-2",
            "beta",
            "gamma",
            "gamma-0",
            "gamma-1",
        ]
        assert "60 agents below" in page.locator(ROWS).nth(4).inner_text()

        def active() -> str:
            drawn(page)
            return str(page.evaluate(f"{ACTIVE}.view ? {ACTIVE}.view.agent.name : {ACTIVE}.id"))

        def press(*keys: str) -> str:
            for key in keys:
                page.keyboard.press(key)
                active()
            return active()

        page.locator(ROWS).first.focus()
        assert press("ArrowDown") == "alpha-0"
        assert press("ArrowLeft") == "alpha"
        assert press("ArrowLeft") == "alpha"
        assert page.locator(ROWS).first.get_attribute("aria-expanded") == "false"
        assert press("ArrowDown") == "beta"
        assert press("ArrowRight") == "beta"
        assert press("ArrowRight") == "beta-0"
        assert press("End") == "gamma-1"
        assert press("PageUp") != "gamma-1"
        assert press("Home") == "alpha"
        assert press("b") == "beta"
        page.wait_for_timeout(900)  # longer than letters are taken as one word
        assert press("g", "a", "m", "m", "a", "-", "1") == "gamma-1"
        assert press("Space") == "gamma-1"
        assert page.locator("#agent h2").inner_text() == "gamma-1"
        assert press("/") == "search"
        page.keyboard.type("beta-5")
        until(page, "document.getElementById('found').textContent === '11 agents found'")
        assert names_of(page)[:2] == ["beta", "beta-5"]
        assert press("ArrowDown") == "beta-5"
        assert press("/") == "search"
        assert press("Escape") == "search"
        assert press("Escape") == "beta-5"


def test_tab_comes_to_the_tree_although_its_row_was_scrolled_away(browser: Any, tmp_path: Path) -> None:
    drawing = tree_of({f"agent-{number:03}": 0 for number in range(400)})
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        page.locator(ROWS).first.wait_for()
        page.evaluate("document.getElementById('scroll').scrollTop = 6000")
        until(page, "!document.querySelector('.tree-body').innerText.includes('agent-000')")
        assert page.locator(f"{ROWS}[tabindex='0']").count() == 0
        page.locator("#view").focus()
        page.keyboard.press("Tab")
        if page.evaluate(f"{ACTIVE}.id") == "scroll":  # a place that scrolls takes the focus too
            page.keyboard.press("Tab")
        until(page, f"{ACTIVE}.view && {ACTIVE}.view.agent.name === 'agent-000'")


def test_rows_stand_in_the_document_as_they_are_seen_and_only_those_in_sight_do(
    browser: Any, tmp_path: Path
) -> None:
    drawing = tree_of({f"agent-{number:03}": 0 for number in range(400)})
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        page.locator(ROWS).first.wait_for()
        page.locator(ROWS).nth(3).click()
        for top in (5000, 4600, 200, 9000, 90):
            page.evaluate("(top) => { document.getElementById('scroll').scrollTop = top; }", top)
            drawn(page)
            numbers = [int(each.get_attribute("aria-rowindex")) for each in page.locator(ROWS).all()]
            assert numbers == sorted(numbers)
            assert len(numbers) < 60
        assert page.locator("#tree").get_attribute("aria-rowcount") == "401"
        # The row with the focus has kept it all the way.
        assert page.evaluate(f"{ACTIVE}.view.agent.name") == "agent-003"


def test_a_state_is_filtered_and_a_row_that_goes_hands_the_focus_on(browser: Any, tmp_path: Path) -> None:
    drawing = tree_of({"alpha": 3, "beta": 2})
    drawing.ends(2, "failed", "broken")
    drawing.ends(6)
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        page.locator(ROWS).first.wait_for()
        page.select_option("#filter", "failed")
        until(page, "document.getElementById('found').textContent === '1 agent found'")
        assert names_of(page) == ["alpha", "alpha-0"]
        page.select_option("#filter", "aborted")
        page.locator("#empty").wait_for()
        assert page.locator("#empty").inner_text() == "No agent fits the search and the state."
        page.select_option("#filter", "")
        page.locator(ROWS).nth(2).click()
        page.locator(ROWS).first.locator(".fold").click()
        until(page, f"{ACTIVE}.view && {ACTIVE}.view.agent.name === 'alpha'")


def lanes_are_drawn(page: Any, colours: int = 5) -> bool:
    """Whether the canvas has so many colours."""
    return bool(
        page.evaluate(
            """() => { const canvas = document.getElementById('lanes');
            const data = canvas.getContext('2d').getImageData(0, 40, canvas.width, 200).data;
            const seen = new Set();
            for (let at = 0; at < data.length; at += 4)
              seen.add(data[at] << 16 | data[at+1] << 8 | data[at+2]);
            return seen.size; }"""
        )
        >= colours
    )


def test_the_timeline_tells_its_spans_by_pointer_and_by_keys(
    browser: Any, family: Picture, tmp_path: Path
) -> None:
    with open_file(browser, tmp_path, file_data(family)) as page:
        page.locator(ROWS).nth(2).click()
        assert lanes_are_drawn(page)
        page.locator("#timeline").focus()
        page.keyboard.press("Home")
        said = page.locator("#announce-span")
        until(page, "document.getElementById('announce-span').textContent.startsWith('asker: ')")
        seen = set()
        for _ in range(12):
            page.keyboard.press("ArrowRight")
            seen.add(said.text_content())
        assert any("waits for helper" in each for each in seen), seen
        assert page.locator("#tip").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("#tip").is_visible()
        page.keyboard.press("ArrowUp")
        assert "helper: aborted" in said.text_content()
        # By pointer: somewhere on the lane of the asker there is a wait.
        area = page.locator("#timeline").bounding_box()
        row = page.locator(ROWS).nth(2).bounding_box()
        page.locator("#arrows").uncheck()
        told = set()
        for step in range(0, int(area["width"]), 12):
            page.mouse.move(area["x"] + step, row["y"] + row["height"] / 2)
            if page.locator("#tip").is_visible():
                told.add(page.locator("#tip").inner_text())
        assert any("waits for helper" in each for each in told), told
        page.locator("#arrows").check()
        for step in range(0, int(area["width"]), 2):
            page.mouse.move(area["x"] + step, row["y"])
            if page.locator("#tip").is_visible():
                told.add(page.locator("#tip").inner_text())
        assert any("question" in each and "from asker to helper" in each for each in told), told


def test_the_timeline_is_zoomed_panned_and_fitted(browser: Any, family: Picture, tmp_path: Path) -> None:
    with open_file(browser, tmp_path, file_data(family)) as page:
        page.locator(ROWS).first.wait_for()
        whole = page.locator("#fit")
        until(page, "document.getElementById('fit').getAttribute('aria-pressed') === 'true'")

        def picture() -> str:
            drawn(page)
            return str(page.evaluate("document.getElementById('lanes').toDataURL()"))

        pictures = [picture()]
        page.locator("#timeline").focus()
        for key in ("+", "Shift+ArrowRight", "-"):
            page.keyboard.press(key)
            pictures.append(picture())
            assert whole.get_attribute("aria-pressed") == "false"
        page.mouse.move(900, 300)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -200)
        page.keyboard.up("Control")
        pictures.append(picture())
        page.mouse.down()
        page.mouse.move(840, 300)
        page.mouse.up()
        pictures.append(picture())
        assert len(set(pictures)) == len(pictures)
        page.keyboard.press("0")
        page.mouse.move(10, 10)
        assert picture() == pictures[0] or whole.get_attribute("aria-pressed") == "true"


def test_the_tree_is_told_to_a_screen_reader(browser: Any, tmp_path: Path) -> None:
    drawing = tree_of({"alpha": 2, "beta": 60})
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        page.locator(ROWS).first.wait_for()
        session = page.context.new_cdp_session(page)
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]

        def found(role: str) -> list[dict[str, Any]]:
            return [
                {
                    "name": node.get("name", {}).get("value", ""),
                    **{each["name"]: each["value"].get("value") for each in node.get("properties", [])},
                }
                for node in nodes
                if not node.get("ignored") and node["role"]["value"] == role
            ]

        assert [each["name"] for each in found("treegrid")] == ["Agents"]
        rows = [each for each in found("row") if "level" in each]
        assert [each["level"] for each in rows] == [1, 2, 2, 1]
        assert [each.get("expanded") for each in rows] == [True, None, None, False]
        assert "alpha-1" in rows[2]["name"]
        assert "runs" in rows[2]["name"]
        assert [each["name"] for each in found("columnheader")][:3] == ["Name", "Doing", "Turn"]
        assert "Search agents by name" in [each["name"] for each in found("searchbox")]
        assert found("heading")[0]["name"] == "run.db"
        assert {each["name"] for each in found("tab")} == {"Agent", "Pool", "Notes"}
        for role in ("button", "combobox", "checkbox", "tab", "separator", "splitter", "application"):
            assert all(each["name"] for each in found(role)), role
        assert found("main")


def test_the_keyboard_alone_comes_everywhere_and_out_again(
    browser: Any, family: Picture, tmp_path: Path
) -> None:
    with open_file(browser, tmp_path, file_data(family)) as page:
        page.locator(ROWS).first.wait_for()
        reached: list[str] = []
        for _ in range(60):
            page.keyboard.press("Tab")
            told = page.evaluate(
                f"{ACTIVE}.id || {ACTIVE}.getAttribute('role') || {ACTIVE}.textContent.slice(0, 30)"
            )
            if told in reached and told == reached[0]:
                break
            reached.append(told)
            outline = page.evaluate(f"getComputedStyle({ACTIVE}).outlineStyle")
            assert outline != "none" or page.evaluate(f"{ACTIVE}.matches('body')"), told
        for wanted in ("theme", "keys", "search", "filter", "view", "row", "divider", "timeline", "zoom-in"):
            assert wanted in reached, (wanted, reached)
        assert "tab-agent" in reached
        order = [reached.index(each) for each in ("theme", "search", "row", "timeline", "tab-agent")]
        assert order == sorted(order)
        page.locator("#keys").focus()
        page.keyboard.press("Enter")
        page.locator("#help").wait_for()
        assert "Keys" in page.locator("#help").inner_text()
        page.keyboard.press("Escape")
        assert page.evaluate(f"{ACTIVE}.id") == "keys"
        page.locator("#divider").focus()
        before = page.locator("#divider").get_attribute("aria-valuenow")
        page.keyboard.press("ArrowLeft")
        assert page.locator("#divider").get_attribute("aria-valuenow") != before
        page.locator("#tab-agent").focus()
        page.keyboard.press("ArrowRight")
        assert page.evaluate(f"{ACTIVE}.id") == "tab-pool"
        assert page.locator("#panel-pool").is_visible()


# What is seen on what: each text has a contrast of 4.5 to its ground, each lane one of 3.
TEXTS = [
    *((ink, ground) for ink in ("ink", "soft") for ground in ("ground", "sheet", "raised", "chosen")),
    *((ink, "sheet") for ink in ("link", "good", "bad", "warn")),
    *((ink, "raised") for ink in ("bad", "warn")),
    *((ink, "chosen") for ink in ("bad", "warn")),
    ("good", "ground"),
    ("bad", "ground"),
    ("link", "ground"),
    ("bad", "bad-ground"),
    ("warn", "warn-ground"),
    ("on-button", "button"),
    ("on-danger", "danger"),
    ("ground", "ink"),
    *(
        ("on-lane", f"lane-{kind}")
        for kind in ("running", "perceiving", "reasoning", "acting", "approval", "retrying")
    ),
]
SHAPES = [
    *(
        (f"lane-{kind}", ground)
        for kind in (
            "starting",
            "running",
            "perceiving",
            "reasoning",
            "acting",
            "waiting",
            "approval",
            "retrying",
        )
        for ground in ("sheet", "chosen")
    ),
    ("edge", "sheet"),
    ("edge", "ground"),
    ("link", "sheet"),
    ("link", "raised"),
]


def luminance(colour: str) -> float:
    parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_light_and_in_dark(
    browser: Any, family: Picture, tmp_path: Path, scheme: str
) -> None:
    with open_file(browser, tmp_path, file_data(family), color_scheme=scheme) as page:
        names = sorted({name for pair in TEXTS + SHAPES for name in pair})
        colours = page.evaluate(
            """(names) => { const probe = document.createElement('span'); document.body.append(probe);
            return Object.fromEntries(names.map((name) => { probe.style.color = `var(--${name})`;
            return [name, getComputedStyle(probe).color]; })); }""",
            names,
        )
        assert (luminance(colours["sheet"]) > 0.5) == (scheme == "light")
        weak = {
            pair: round(contrast(*(colours[name] for name in pair)), 2)
            for pairs, least in ((TEXTS, 4.5), (SHAPES, 3.0))
            for pair in pairs
            if contrast(*(colours[name] for name in pair)) < least
        }
        assert weak == {}


def test_the_switch_of_the_theme_is_kept_for_the_session(
    browser: Any, family: Picture, tmp_path: Path
) -> None:
    with open_file(browser, tmp_path, file_data(family), color_scheme="light") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.locator("#theme").click()
        assert page.locator("#theme").inner_text() == "Theme: light"
        page.locator("#theme").click()
        assert page.evaluate(ground) != light
        page.reload()
        assert page.locator("#theme").inner_text() == "Theme: dark"
        assert page.evaluate(ground) != light


@pytest.mark.parametrize("width", [320, 390, 640, 1280])
def test_nothing_is_cut_off_where_there_is_little_room(
    browser: Any, family: Picture, tmp_path: Path, width: int
) -> None:
    size = {"width": width, "height": 800}
    long = "a" * 300
    with open_file(browser, tmp_path, file_data(family, title=long), viewport=size) as page:
        page.locator(ROWS).first.click()
        page.locator("#agent h2").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for name in ("#theme", "#keys", "#search", "#filter", "#view", "#tab-notes"):
            box = page.locator(name).bounding_box()
            assert box["x"] >= 0, name
            assert box["x"] + box["width"] <= width, name


def test_on_a_telephone_there_is_either_the_table_or_the_timeline(
    browser: Any, family: Picture, tmp_path: Path
) -> None:
    with open_file(browser, tmp_path, file_data(family), viewport=NARROW) as page:
        page.locator(ROWS).first.wait_for()
        assert not page.locator("#timeline").is_visible()
        page.select_option("#view", "timeline")
        assert page.locator("#timeline").is_visible()
        assert names_of(page) == ["boss", "helper", "asker", "unlucky"]
        drawn(page)
        assert lanes_are_drawn(page)
        box, lane = page.locator(ROWS).first.bounding_box(), page.locator("#timeline").bounding_box()
        assert box["x"] + box["width"] <= lane["x"] + 1


def test_forced_colours_and_paper_show_it_too(browser: Any, family: Picture, tmp_path: Path) -> None:
    with open_file(browser, tmp_path, file_data(family), forced_colors="active") as page:
        page.locator(ROWS).first.wait_for()
        drawn(page)
        assert lanes_are_drawn(page, 3)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        paper = page.locator("#paper")
        assert paper.is_visible()
        assert not page.locator("main").is_visible()
        assert paper.get_by_role("row").count() == 5
        assert "failed: ValueError: no such file" in paper.inner_text()
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert paper.locator("tr").count() == 0


def test_notes_are_a_log_with_the_way_to_the_agent(browser: Any, tmp_path: Path) -> None:
    drawing = tree_of({"alpha": 2})
    drawing.picture.note("alpha: warning: 80 % of the budget are spent", 1)
    drawing.picture.note("several events are missing")
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        page.get_by_role("tab", name="Notes (2)").click()
        drawn(page)
        notes = page.get_by_role("log").locator("li")
        assert notes.count() == 2
        assert "several events" in notes.first.inner_text()
        page.get_by_role("button", name="Show alpha").click()
        assert page.locator("#agent h2").inner_text() == "alpha"


def test_how_the_run_stood_is_seen_with_its_budget_and_providers(browser: Any, tmp_path: Path) -> None:
    pool = {
        "slots": 8,
        "running": 3,
        "messages": 5,
        "dead_letters": 2,
        "draining": False,
        "budget": {
            "limit": {"tokens": 1000, "cost": None, "calls": 10},
            "spent": {"tokens": 950, "cost": 0.1, "calls": 3},
            "remaining": {"tokens": 50, "cost": None, "calls": 7},
        },
        "providers": [
            {"name": "openai", "in_flight": 2, "waiting": 1, "refused": 4, "pause": 2.5, "circuit": "open"}
        ],
    }
    with open_file(browser, tmp_path, file_data(tree_of({"alpha": 0}).picture, pool=pool)) as page:
        page.locator(ROWS).first.wait_for()
        totals = page.locator("#totals").inner_text()
        assert "950 of 1,000" in totals
        assert "3 of 8 in use" in totals
        page.get_by_role("tab", name="Pool").click()
        drawn(page)
        panel = page.locator("#panel-pool")
        cells = panel.get_by_role("cell").all_inner_texts()
        assert cells[:8] == ["Tokens", "1,000", "950", "50", "Model calls", "10", "3", "7"]
        assert cells[8:] == ["openai", "2", "1", "4", "circuit open, pauses 2.50 s"]


HOSTILE = [
    "</script><script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<!--",
    "\u202egnp.exe",
    "\u2066\u202einvoice\u2069",
    "a\x00b\x1b[31mred",
    "lone \ud83d half",
    "tab\there\nand line",
    "x" * 5000,
    "עברית and English",
    "",
]


def test_words_of_strangers_are_only_words(browser: Any, tmp_path: Path) -> None:
    drawing = Drawing()
    for number, name in enumerate(HOSTILE):
        agent = drawing.spawn(name)
        drawing.time += 1
        drawing.phase(agent, "act")
        drawing.calls(agent, name or "tool")
        drawing.says(agent, name)
        drawing.time += 1
        drawing.phase(agent, "reason", 2)
        if number % 3 == 0:
            drawing.ends(agent, "failed", name)
        drawing.picture.note(name, agent)
    transcripts = {
        str(number + 1): [
            {"role": "user", "kind": name, "text": name},
            {"role": "assistant", "text": name, "calls": [{"id": "1", "name": name, "input": {name: name}}]},
            {"role": "tool", "name": name, "text": name, "error": True},
        ]
        for number, name in enumerate(HOSTILE)
    }
    data = file_data(drawing.picture, title=HOSTILE[0], transcripts=transcripts)
    with open_file(browser, tmp_path, data) as page:
        page.locator(ROWS).first.wait_for()
        assert page.locator(ROWS).count() == len(HOSTILE)
        for number in range(len(HOSTILE)):
            page.locator(ROWS).nth(number).click()
            shows = "(number) => document.querySelector('#agent dd')?.textContent === `#${number}`"
            until(page, shows, number + 1)
            page.locator("#agent .message").nth(2).wait_for()
            page.locator("#agent summary").first.click()
        page.get_by_role("tab", name=re.compile("Notes")).click()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("window.hit") is None
        assert page.locator("img, iframe, object, embed").count() == 0
        assert page.locator("script:not([type])").count() == 1
        names = names_of(page)
        assert names[0] == HOSTILE[0]
        assert names[3] == "\\u202egnp.exe"
        assert names[4] == "\\u2066\\u202einvoice\\u2069"
        assert names[5] == "a\\0b\\u001b[31mred"
        assert names[6] in ("lone \\ud83d half", "lone \ufffd half")
        assert names[7] == "tab here and line"
        assert len(names[8]) < 300
        assert names[9] == "עברית and English"
        assert names[10] in ("#11", "agent 11")
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", page.locator("body").inner_text())


def test_very_long_texts_fold_and_are_all_there(browser: Any, tmp_path: Path) -> None:
    drawing = tree_of({"alpha": 0})
    lines = "\n".join(f"line {number}" for number in range(100_000))
    large = "m" * 1_000_000
    transcripts = {"1": [{"role": "user", "text": lines}, {"role": "tool", "name": "read", "text": large}]}
    with open_file(browser, tmp_path, file_data(drawing.picture, transcripts=transcripts)) as page:
        page.locator(ROWS).first.click()
        message = page.locator("#agent .message").first
        message.wait_for()
        assert len(message.inner_text()) < 3000
        message.get_by_role("button").click()
        assert "50,000 more of" in message.get_by_role("button").inner_text()
        assert 50_000 < len(message.locator(".text").text_content()) < 60_000
        other = page.locator("#agent .message").nth(1)
        while other.get_by_role("button").count():
            other.get_by_role("button").click()
        assert other.locator(".text").text_content() == large


def test_what_the_file_holds_is_read_in_pieces(browser: Any, tmp_path: Path) -> None:
    drawing = Drawing()
    for number in range(25_000):
        drawing.spawn(f"agent-{number}")
    with open_file(browser, tmp_path, file_data(drawing.picture)) as page:
        until(page, "document.getElementById('tree').getAttribute('aria-rowcount') === '25001'")
        assert page.locator("script.changes").count() == 0


def test_a_file_without_agents_says_so(browser: Any, tmp_path: Path) -> None:
    with open_file(browser, tmp_path, file_data(Picture())) as page:
        page.locator("#empty").wait_for()
        assert page.locator("#empty").inner_text() == "The run had no agents."


def test_the_policy_lets_nothing_run_but_the_script_of_the_page(
    browser: Any, family: Picture, tmp_path: Path
) -> None:
    with open_file(browser, tmp_path, file_data(family), allowed="Content Security Policy") as page:
        page.locator(ROWS).first.wait_for()
        page.evaluate(
            """() => { const script = document.createElement('script'); script.textContent = 'window.hit = 1';
            document.body.append(script);
            const box = document.createElement('div');
            box.innerHTML = '<b style="color: red" onclick="window.hit = 1">x</b>';
            document.body.append(box); box.firstChild.click(); }"""
        )
        assert page.evaluate("window.hit") is None
        assert json.loads(page.locator("#run").text_content())["title"] == "run.db"
