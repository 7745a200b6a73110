"""What a person has done by the live page: agents aborted, the pool drained, questions answered."""

from __future__ import annotations

import gc
from typing import Any

import attrs
import pytest
import trio

pytest.importorskip("hypercorn")
pytest.importorskip("starlette")
pytest.importorskip("httpx2")

from live_page_kit import SECONDS, Browser, cookie_of, page_of

from agentpool import (
    Aborted,
    AgentContext,
    AgentManifest,
    Answered,
    ApprovalRequest,
    ApprovalRules,
    Approved,
    AssistantMessage,
    Completed,
    Completion,
    CompletionRequest,
    Decision,
    Denied,
    Image,
    PoolClosedError,
    Question,
    ScriptedDriver,
    SpawnConfig,
    Text,
    ToolCall,
    open_agent_pool,
    tool,
)
from agentpool._core.approval import ApprovalRequest as Request
from agentpool.web import PageApprover, _approving, _requests, _transcripts
from agentpool.web._approving import AlreadyDecidedError, BadAnswerError, decision_in
from agentpool.web._watching import Watching

pytestmark = pytest.mark.processes


async def waiter(ctx: AgentContext) -> None:
    await trio.sleep_forever()


async def parent(ctx: AgentContext) -> None:
    await ctx.spawn(waiter, name="child")
    await trio.sleep_forever()


# -- abort and drain ----------------------------------------------------------------------------------


async def test_an_agent_is_aborted_with_all_below_it_and_the_others_go_on() -> None:
    async with open_agent_pool(max_concurrent=8) as pool, page_of(pool) as page, page.browser() as browser:
        one, other = await pool.spawn(parent, name="one"), await pool.spawn(parent, name="other")
        await browser.look(lambda seen: len(seen.rows) == 4)
        response = await browser.post(f"/agents/{one.id}/abort", {"reason": "it costs too much"})
        assert (response.status_code, response.content) == (204, b"")
        outcome = await one.wait()
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "it costs too much"
        await browser.look(lambda seen: len([row for row in seen.rows.values() if "ended" in row]) == 2)
        below = [row for row in browser.rows.values() if row.get("parent") == one.id]
        assert [row["state"] for row in below] == ["aborted"]
        response = await browser.post(f"/agents/{one.id}/abort", {"reason": "again"})
        assert (response.status_code, response.text) == (409, "the agent has ended")
        assert other.outcome is None
        await browser.post(f"/agents/{other.id}/abort")
        outcome = await other.wait()
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "aborted on the live page"


async def test_an_agent_that_there_is_not_cannot_be_aborted() -> None:
    async with open_agent_pool(max_concurrent=8) as pool, page_of(pool) as page, page.browser() as browser:
        for agent in ("1", "99999999999999999999999", "0", "9" * 5_000):
            assert (await browser.post(f"/agents/{agent}/abort")).status_code == 404
            assert (await browser.get(f"/agents/{agent}/transcript")).status_code == 404
        for path in ("/agents/x/abort", "/agents/-1/abort", "/agents//abort", "/agents/1/abort/"):
            assert (await browser.post(path)).status_code in (404, 307)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'"x"', 400),
        (b"{", 400),
        (b'{"reason": 3}', 400),
        (b'{"reason": "%s"}' % (b"x" * 1_001), 400),
        (b'{"reason": NaN}', 400),
        (b'{"reason": "", "more": -1e999}', 400),
        (b'{"other": NaN}', 400),
        (b"[" * 100_000, 400),
        (b"\xff\xfe", 400),
        (b'{"reason": "%s"}' % (b"x" * 1_000_000), 413),
        (b'{"reason": ""}', 204),
        ('{"reason": "große Töne"}'.encode(), 204),
    ],
)
async def test_what_is_no_request_does_nothing(body: bytes, status: int) -> None:
    async with open_agent_pool(max_concurrent=8) as pool, page_of(pool) as page, page.browser() as browser:
        handle = await pool.spawn(waiter)
        headers = {"content-type": "application/json"}
        url = f"{page.address}/agents/{handle.id}/abort"
        response = await browser.client.post(url, content=body, headers=headers)
        assert response.status_code == status, response.text
        assert (handle.outcome is None) == (status != 204) or status == 204
        handle.abort()


async def test_a_request_that_does_not_come_to_its_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_requests, "BODY_SECONDS", 0.1)
    async with open_agent_pool(max_concurrent=8) as pool, page_of(pool) as page, page.browser() as browser:
        with trio.fail_after(SECONDS / 2):
            async with await trio.open_tcp_stream("127.0.0.1", page.port) as stream:
                head = f"POST /drain HTTP/1.1\r\nhost: 127.0.0.1:{page.port}\r\n"
                head += f"content-type: application/json\r\ncookie: {cookie_of(browser)}\r\n"
                await stream.send_all(f"{head}content-length: 2\r\n\r\n{{".encode())
                assert (await stream.receive_some(12)) == b"HTTP/1.1 408"


async def test_a_drained_pool_starts_no_more_agents_and_lets_the_others_finish() -> None:
    go = trio.Event()

    async def works(ctx: AgentContext) -> str:
        await go.wait()
        return "done"

    async with open_agent_pool(max_concurrent=8) as pool, page_of(pool) as page, page.browser() as browser:
        handle = await pool.spawn(works, name="works")
        await browser.look(lambda seen: seen.latest.get("pool", {}).get("draining") is False)
        for _ in range(3):
            assert (await browser.post("/drain")).status_code == 204
        await browser.look(lambda seen: seen.latest["pool"]["draining"])
        with pytest.raises(PoolClosedError):
            await pool.spawn(works)
        assert handle.outcome is None
        go.set()
        assert isinstance(await handle.wait(), Completed)


# -- questions -----------------------------------------------------------------------------------------


@tool
def wipe(what: str) -> str:
    """Wipe something."""
    return f"wiped {what}"


def wiping(*whats: str) -> ScriptedDriver:
    """A model that wants these wiped, in one turn, and then says how that went."""

    def answer(request: CompletionRequest) -> Any:
        told = [each.result.text for each in request.messages if hasattr(each, "result")]
        if told:
            return "; ".join(told)
        return Completion(
            tool_calls=[ToolCall(str(n), "wipe", {"what": what}) for n, what in enumerate(whats)]
        )

    return ScriptedDriver(answer)


CAREFUL = AgentManifest(name="careful", tools=(f"{__name__}:wipe",), approval=ApprovalRules(ask=("wipe",)))


async def asked(browser: Browser, number: int) -> list[Any]:
    """Look until so many questions are open."""
    await browser.look(lambda seen: len(seen.approvals) == number)
    return browser.approvals


async def test_questions_are_answered_on_the_page_and_the_first_answer_counts() -> None:
    approver = PageApprover()
    async with open_agent_pool(wiping("disk", "cup"), max_concurrent=8, approver=approver) as pool:
        async with page_of(pool, approver=approver) as page, page.browser() as browser:
            handle = await pool.spawn(SpawnConfig(CAREFUL, "wipe them"))
            first, second = await asked(browser, 2)
            assert first["name"] == "careful"
            assert first["agent"] == handle.id
            assert (first["tool"], first["arguments"]) == ("wipe", {"what": "disk"})
            assert first["rule"] == 'ask = "wipe"'
            answers = [{"approve": True}, {"approve": False, "reason": "too late"}]
            statuses = [
                (await browser.post(f"/approvals/{first['hash']}", answer)).status_code for answer in answers
            ]
            assert statuses == [204, 409]
            assert len(await asked(browser, 1)) == 1
            answer = {"approve": False, "reason": "I drink from it"}
            assert (await browser.post(f"/approvals/{second['hash']}", answer)).status_code == 204
            result = await handle.result()
            assert "wiped disk" in result.text
            assert "I drink from it" in result.text
            assert (await browser.post(f"/approvals/{second['hash']}", answer)).status_code == 409
            assert (await browser.post("/approvals/1-nope", answer)).status_code == 404


async def test_two_agents_that_ask_the_same_are_two_questions() -> None:
    approver = PageApprover()
    async with open_agent_pool(wiping("disk"), max_concurrent=8, approver=approver) as pool:
        async with page_of(pool, approver=approver) as page, page.browser() as browser:
            handles = [await pool.spawn(SpawnConfig(CAREFUL, "wipe it")) for _ in range(2)]
            for each in await asked(browser, 2):
                yes = each["agent"] == handles[0].id
                answer = {"approve": yes}
                assert (await browser.post(f"/approvals/{each['hash']}", answer)).status_code == 204
            assert "wiped disk" in (await handles[0].result()).text
            assert "wiped disk" not in (await handles[1].result()).text


async def test_a_question_of_an_agent_that_is_aborted_is_withdrawn() -> None:
    approver = PageApprover()
    async with open_agent_pool(wiping("disk"), max_concurrent=8, approver=approver) as pool:
        async with page_of(pool, approver=approver) as page, page.browser() as browser:
            handle = await pool.spawn(SpawnConfig(CAREFUL, "wipe it"))
            [question] = await asked(browser, 1)
            await browser.post(f"/agents/{handle.id}/abort")
            assert await asked(browser, 0) == []
            response = await browser.post(f"/approvals/{question['hash']}", {"approve": True})
            assert response.status_code == 409
            assert "withdrawn" in response.text


async def test_a_page_without_an_approver_asks_nothing() -> None:
    async with open_agent_pool(max_concurrent=8) as pool, page_of(pool) as page, page.browser() as browser:
        await browser.look(lambda seen: seen.latest)
        assert browser.approvals == []
        assert (await browser.post("/approvals/1-x", {"approve": True})).status_code == 404


FORM = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Rome", "Oslo"]},
        "nights": {"type": "integer", "minimum": 1},
    },
    "required": ["city"],
}


def request_with(question: Question | None) -> ApprovalRequest:
    request = Request.of(1, "a", ToolCall("1", "book", {}), "rule")
    return request if question is None else request.asking(question)


@pytest.mark.parametrize(
    ("answer", "decision"),
    [
        ({"approve": True, "content": {"city": "Rome"}}, Answered({"city": "Rome"})),
        (
            {"approve": True, "content": {"city": "Oslo", "nights": 2}},
            Answered({"city": "Oslo", "nights": 2}),
        ),
        ({"approve": False, "reason": "no"}, Denied("no")),
        ({"approve": False}, Denied("")),
        ({"approve": True}, "form"),
        ({"approve": True, "content": []}, "form"),
        ({"approve": True, "content": {}}, "city"),
        ({"approve": True, "content": {"city": "Bonn"}}, "city: must be one of"),
        ({"approve": True, "content": {"city": "Rome", "nights": 0}}, "nights"),
        ({"approve": True, "content": {"city": "Rome", "nights": "2"}}, "nights"),
        ({"approve": True, "content": {"city": "Rome", "card": "4111"}}, "card"),
        ({"approve": "yes", "content": {"city": "Rome"}}, "approve"),
        ({}, "approve"),
    ],
)
def test_a_form_has_to_be_filled_in_as_its_server_wants_it(answer: dict[str, Any], decision: Any) -> None:
    request = request_with(Question("travel", "Where to?", FORM))
    if isinstance(decision, str):
        with pytest.raises(BadAnswerError, match=decision):
            decision_in(request, answer)
    else:
        assert decision_in(request, answer) == decision


@pytest.mark.parametrize(
    "field",
    [
        5,
        {"type": "colour"},
        {"type": "string", "minLength": "x"},
        {"$ref": "#/properties/city"},
        {"$ref": "#/nowhere"},
        {"enum": 3},
    ],
)
def test_a_form_that_makes_no_sense_can_only_be_declined(field: Any) -> None:
    """Its server wrote it: no error of it is one of the page, or one that says that nobody asks."""
    request = request_with(Question("travel", "Where to?", {"type": "object", "properties": {"city": field}}))
    with pytest.raises(BadAnswerError, match="makes no sense"):
        decision_in(request, {"approve": True, "content": {"city": "Rome"}})
    assert decision_in(request, {"approve": False}) == Denied("")


def test_no_pattern_of_a_server_stops_the_pool() -> None:
    """Python's `re` takes years for some; the server looks at what it is told by itself."""
    types = pytest.importorskip("mcp_types")
    from agentpool.tools.mcp._asking import question_of, result_for

    text = {"type": "string", "pattern": "(a+)+$", "maxLength": 30}
    schema = {"type": "object", "properties": {"pattern": text}, "allOf": [{"properties": {"pattern": text}}]}
    question = question_of("evil", types.ElicitRequestFormParams(message="?", requested_schema=schema))
    content = {"pattern": "aab"}
    assert decision_in(request_with(question), {"approve": True, "content": content}) == Answered(content)
    assert result_for(question, content).content == content
    with pytest.raises(BadAnswerError, match="pattern"):
        decision_in(request_with(question), {"approve": True, "content": {"pattern": "a" * 31}})


@pytest.mark.parametrize("question", [None, Question("travel", "Log in", None, "https://example.com/")])
@pytest.mark.parametrize(
    ("answer", "decision"),
    [
        ({"approve": True}, Approved()),
        ({"approve": False, "reason": "why"}, Denied("why")),
        ({"approve": True, "content": {}}, "content"),
        ({"approve": False, "reason": 3}, "reason"),
        ({"approve": 1}, "approve"),
        ({"approve": True, "colour": "red"}, "colour"),
    ],
)
def test_a_call_is_approved_or_not(answer: dict[str, Any], decision: Any, question: Question | None) -> None:
    request = request_with(question)
    if isinstance(decision, str):
        with pytest.raises(BadAnswerError, match=decision):
            decision_in(request, answer)
    else:
        assert decision_in(request, answer) == decision


async def test_an_answer_counts_whatever_becomes_of_those_who_show_it() -> None:
    approver = PageApprover()
    decisions: list[Decision] = []

    async def ask() -> None:
        decisions.append(await approver(request_with(None)))

    def breaks() -> None:
        raise OSError("the page broke")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        approver.listen(breaks)
        with pytest.raises(OSError, match="broke"):
            approver.decide(approver.asked()[0]["hash"], {"approve": True})
        approver.unlisten(breaks)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert decisions == [Approved()]


async def test_a_form_is_asked_and_answered_over_http() -> None:
    approver = PageApprover()
    decisions: list[Any] = []
    async with open_agent_pool(max_concurrent=8) as pool, trio.open_nursery() as nursery:
        async with page_of(pool, approver=approver) as page, page.browser() as browser:

            async def ask() -> None:
                decisions.append(await approver(request_with(Question("travel", "Where to?", FORM))))

            nursery.start_soon(ask)
            [question] = await asked(browser, 1)
            assert question["question"]["server"] == "travel"
            assert question["question"]["schema"] == FORM
            path = f"/approvals/{question['hash']}"
            response = await browser.post(path, {"approve": True, "content": {"city": "Bonn"}})
            assert response.status_code == 400
            assert response.text == 'city: must be one of "Rome", "Oslo"'
            response = await browser.post(path, {"approve": True, "content": {"city": "Rome"}})
            assert response.status_code == 204
    assert decisions == [Answered({"city": "Rome"})]


async def test_an_approver_that_outlives_its_pages_keeps_none_of_them() -> None:
    approver = PageApprover()
    for _ in range(3):
        async with open_agent_pool(max_concurrent=4, approver=approver) as pool:
            async with page_of(pool, approver=approver):
                pass
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Watching)]


async def test_many_questions_are_not_all_told_anew_for_each_that_comes() -> None:
    approver = PageApprover()
    driver = ScriptedDriver(lambda request: Completion(tool_calls=[ToolCall("1", "wipe", {"what": "disk"})]))
    async with open_agent_pool(driver, max_concurrent=800, approver=approver) as pool:
        async with page_of(pool, approver=approver) as page, page.browser() as browser:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(browser.look)
                for _ in range(800):
                    await pool.spawn(SpawnConfig(CAREFUL, "?"))
                while len(browser.approvals) < 800:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            assert browser.pieces < 110  # one for each of the first fifty, and the looks
            pool.abort_all()


async def test_questions_that_were_closed_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_approving, "DECIDED_KEPT", 1)
    approver = PageApprover()
    keys = []
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(approver, request_with(None))
            await trio.testing.wait_all_tasks_blocked()
            keys += [each["hash"] for each in approver.asked()]
            approver.decide(keys[-1], {"approve": True})
            assert approver.asked() == []
            with pytest.raises(AlreadyDecidedError):
                approver.decide(keys[-1], {"approve": True})
    with pytest.raises(KeyError):
        approver.decide(keys[0], {"approve": True})
    with pytest.raises(AlreadyDecidedError):
        approver.decide(keys[1], {"approve": True})


# -- transcripts -----------------------------------------------------------------------------------------


async def transcript(browser: Browser, agent_id: int) -> list[Any]:
    response = await browser.get(f"/agents/{agent_id}/transcript")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    data = response.json()
    assert data["agent"] == agent_id
    messages: list[Any] = data["messages"]
    return messages


async def test_a_conversation_is_read_while_it_goes_on_and_afterwards() -> None:
    approver = PageApprover()
    async with open_agent_pool(wiping("disk"), max_concurrent=8, approver=approver) as pool:
        async with page_of(pool, approver=approver) as page, page.browser() as browser:
            handle = await pool.spawn(SpawnConfig(CAREFUL, "wipe it"))
            [question] = await asked(browser, 1)
            query, answer = await transcript(browser, handle.id)
            assert (query["role"], query["text"]) == ("user", "wipe it")
            assert answer["calls"] == [{"id": "0", "name": "wipe", "input": {"what": "disk"}}]
            await browser.post(f"/approvals/{question['hash']}", {"approve": True})
            await handle.wait()
            await browser.look(lambda seen: seen.named("careful").get("state") == "completed")
            messages = await transcript(browser, handle.id)
            assert [each["role"] for each in messages] == ["user", "assistant", "tool", "assistant"]
            assert messages[2]["text"] == messages[3]["text"] == "wiped disk"


async def test_an_answer_is_read_as_it_streams() -> None:
    go, halfway = trio.Event(), trio.Event()

    @attrs.define(eq=False)
    class Slow(ScriptedDriver):
        def __init__(self) -> None:
            super().__init__(["never"])

        def stream(self, request: CompletionRequest) -> Any:
            from contextlib import asynccontextmanager

            from agentpool import TextDelta

            async def parts() -> Any:
                yield TextDelta("To be")
                halfway.set()
                await go.wait()
                yield TextDelta(" or not")
                yield Completion("To be or not")

            @asynccontextmanager
            async def opened() -> Any:
                source = parts()
                try:
                    yield source
                finally:
                    await source.aclose()

            return opened()

    async with open_agent_pool(Slow(), max_concurrent=8) as pool:
        async with page_of(pool) as page, page.browser() as browser:
            handle = await pool.spawn(SpawnConfig(AgentManifest(name="poet"), "speak"))
            await halfway.wait()
            await browser.look(lambda seen: seen.named("poet").get("words") == "To be")
            assert (await transcript(browser, handle.id))[-1]["text"] == "To be"
            go.set()
            await handle.wait()
            await browser.look(lambda seen: seen.named("poet").get("state") == "completed")
            assert [each["text"] for each in await transcript(browser, handle.id)] == [
                "speak",
                "To be or not",
            ]


async def test_an_agent_without_a_model_has_no_conversation() -> None:
    async with open_agent_pool(max_concurrent=8) as pool, page_of(pool) as page, page.browser() as browser:
        handle = await pool.spawn(waiter, name="plain")
        await browser.look(lambda seen: seen.named("plain"))
        assert await transcript(browser, handle.id) == []
        handle.abort()


async def test_of_agents_that_have_ended_the_latest_conversations_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_transcripts, "MOST_ENDED", 2)
    driver = ScriptedDriver(lambda request: "well")
    async with open_agent_pool(driver, max_concurrent=1) as pool:
        async with page_of(pool) as page, page.browser() as browser:
            ids = [(await pool.spawn(SpawnConfig(AgentManifest(name="a"), "?"))).id for _ in range(4)]
            await browser.look(lambda seen: len([row for row in seen.rows.values() if "ended" in row]) == 4)
            lengths = [len(await transcript(browser, each)) for each in ids]
            assert lengths == [0, 0, 2, 2]


async def test_long_conversations_of_those_that_have_ended_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transcripts, "MOST_LETTERS", 1_000)
    driver = ScriptedDriver(lambda request: Completion("w" * 600))
    async with open_agent_pool(driver, max_concurrent=1) as pool:
        async with page_of(pool) as page, page.browser() as browser:
            ids = [(await pool.spawn(SpawnConfig(AgentManifest(name="a"), "?"))).id for _ in range(3)]
            await browser.look(lambda seen: len([row for row in seen.rows.values() if "ended" in row]) == 3)
            assert [len(await transcript(browser, each)) for each in ids] == [0, 0, 2]


async def test_pictures_in_conversations_count_as_much_as_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transcripts, "MOST_LETTERS", 1_000)
    query = [Text("What is it?"), Image(b"\x89PNG\r\n\x1a\n" + bytes(600), "image/png")]
    driver = ScriptedDriver(lambda request: "a cat")
    async with open_agent_pool(driver, max_concurrent=1) as pool:
        async with page_of(pool) as page, page.browser() as browser:
            ids = [(await pool.spawn(SpawnConfig(AgentManifest(name="a"), query))).id for _ in range(3)]
            await browser.look(lambda seen: len([row for row in seen.rows.values() if "ended" in row]) == 3)
            assert [len(await transcript(browser, each)) for each in ids] == [0, 0, 2]


async def test_whatever_a_model_wrote_can_be_read() -> None:
    odd = {"n": float("nan"), "i": float("inf"), "s": "\ud800 </script> \u2028"}

    def answer(request: CompletionRequest) -> Any:
        if any(isinstance(each, AssistantMessage) for each in request.messages):
            return "\udcff"
        return Completion(tool_calls=[ToolCall("1", "wipe", odd)])

    async with open_agent_pool(ScriptedDriver(answer), max_concurrent=1) as pool:
        async with page_of(pool) as page, page.browser() as browser:
            manifest = AgentManifest(name="odd", tools=(f"{__name__}:wipe",))
            handle = await pool.spawn(SpawnConfig(manifest, "?"))
            await browser.look(lambda seen: seen.named("odd").get("ended"))
            messages = await transcript(browser, handle.id)
            given = messages[1]["calls"][0]["input"]
            assert (given["n"], given["i"]) == (None, None)
            assert given["s"].endswith(" </script> \u2028")
            assert len(messages[-1]["text"]) == 1
