"""What is decided about MCP servers, without any: names, hashes, bounds, pauses, places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from agentpool import (
    AgentContext,
    AgentFinished,
    AgentManifest,
    Answered,
    Completion,
    Decision,
    Denied,
    ManifestError,
    McpServer,
    PrivacyTier,
    ToolCall,
    ToolProgressed,
    open_agent_pool,
)
from agentpool._core.approval import ApprovalRequest, Question
from agentpool._core.deferring import (
    FIND_TOOLS,
    best_of,
    is_finding,
    searched,
    split_tools,
    wanted,
    wanted_before,
    words_of,
)
from agentpool._core.effects import Act, Acted, Reason, Recalled, Replied
from agentpool._core.loop import advance, begin
from agentpool._core.manifest import usable_servers
from agentpool._core.mcp import (
    DEEPEST_SCHEMA,
    Flood,
    McpDefinition,
    Restarts,
    ServerPins,
    beginning_of_names,
    depth_of,
    filled,
    is_loopback_url,
    leaves,
    listing_of,
    pins_from_text,
    pins_to_text,
    problem_of_url,
    tier_of,
    tool_name,
    variables_in,
)
from agentpool._core.messages import AssistantMessage, ToolDefinition, ToolMessage, ToolResult

# -- names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "tool", "name"),
    [
        ("files", "read_file", "mcp__files__read_file"),
        ("a-b", "C-d", "mcp__a-b__C-d"),
        ("files", "read.file", "mcp__files__read_file_"),
        ("f s", "x", "mcp__f_s__x_"),
        ("a__b", "c", "mcp__a__b__c_"),
        ("a", "_c", "mcp__a___c_"),
        ("a_", "c", "mcp__a___c_"),
        ("ü", "", "mcp______"),
    ],
)
def test_a_tools_name_tells_its_server_and_the_tool(server: str, tool: str, name: str) -> None:
    made = tool_name(server, tool)
    assert made.startswith(beginning_of_names(server))
    assert made.startswith(name)
    assert len(made) - len(name) in (0, 8)
    assert (len(made) == len(name)) == (not name.endswith("_"))


texts = st.text("ab_-. \u00e9", max_size=40)


@given(st.tuples(texts, texts), st.tuples(texts, texts))
def test_no_two_tools_have_one_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    names = tool_name(*one), tool_name(*other)
    assert (names[0] == names[1]) == (one == other)
    assert all(len(name) <= 64 and name.isascii() and name.replace("-", "_").isidentifier() for name in names)


# -- definitions ------------------------------------------------------------------------------


def of(name: str = "go", text: str = "Go.", **more: Any) -> McpDefinition:
    return McpDefinition(name, text, more.pop("schema", {"type": "object"}), **more)


def test_every_part_of_a_definition_counts_for_its_hash() -> None:
    different = [
        of(),
        of("go2"),
        of(text="Go!"),
        of(schema={"type": "object", "properties": {}}),
        of(annotations={"idempotentHint": True}),
    ]
    assert len({each.digest for each in different}) == len(different)
    assert of(schema={"a": 1, "b": 2}).digest == of(schema={"b": 2, "a": 1}).digest


def test_only_the_hint_for_it_makes_a_tool_idempotent() -> None:
    assert of(annotations={"idempotentHint": True}).is_idempotent
    for hints in ({}, {"readOnlyHint": True}, {"idempotentHint": "yes"}):
        assert not of(annotations=hints).is_idempotent


def nested(levels: int) -> Any:
    value: Any = {"type": "object"}
    for n in range(levels):
        value = {"a": value} if n % 2 else [value]
    return value


def test_what_cannot_be_shown_says_why() -> None:
    assert depth_of(7) == 0
    assert depth_of(nested(9)) == 10
    assert of().problem() == ""
    assert "no name" in of(" ").problem()
    assert "300 letters" in of("x" * 300).problem()
    assert f"deeper than {DEEPEST_SCHEMA}" in of(schema={"a": nested(DEEPEST_SCHEMA)}).problem()
    assert "65,536 are the limit" in of(schema={"a": "x" * 70_000}).problem()


def test_a_model_is_shown_nothing_that_a_person_does_not_see() -> None:
    hidden = of(text="Add.\U000e0049\u202e\ud800", schema={"type": "object", "x": ["a\u200bb", 1]}).shown("s")
    assert hidden.description == "Add.\ufffd"
    assert hidden.input_schema == {"type": "object", "x": ["ab", 1]}
    assert of(text="").shown("s").description == "go"
    assert of(schema={"type": "array"}).shown("s").input_schema == {"type": "object"}
    assert "[cut: the description has 9,000 letters]" in of(text="x" * 9000).shown("s").description


def test_a_listing_takes_each_name_once_and_a_thousand_tools() -> None:
    listing = listing_of(
        [of(), of(text="Another."), of("bad", schema=nested(60)), *(of(f"t{n}") for n in range(1000))]
    )
    assert len(listing.tools) == 1000
    assert listing.tools["go"].description == "Go."
    assert [problem.split(":")[0] for problem in listing.problems] == [
        "'go'",
        "'bad'",
        "more than 1,000 tools",
    ]


# -- pins -----------------------------------------------------------------------------------------


def test_pins_tell_what_is_new_has_changed_or_is_gone() -> None:
    pins = ServerPins.of(listing_of([of("a"), of("b"), of("c")]))
    now = listing_of([of("a"), of("b", "Else."), of("d")])
    assert pins.problem(of("a")) == ""
    assert list(pins.differences(now)) == [
        "b has changed since it was approved",
        "d is new since the server was approved",
        "c is gone",
    ]
    assert pins_from_text(pins_to_text({"x": pins, "a": ServerPins()})) == {"x": pins, "a": ServerPins()}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"mcp_servers": []}', '{"mcp_servers": {"a": {"b": 1}}}', "[" * 9999]
)
def test_what_is_no_file_of_pins_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no file of pins|Expecting"):
        pins_from_text(text)


# -- floods and restarts ------------------------------------------------------------------------------


def test_a_flood_is_many_at_once_or_many_for_long() -> None:
    flood = Flood(at_once=10, a_second=5.0)
    assert [flood.take(0.0) for _ in range(11)] == [False] * 10 + [True]
    slow = Flood(at_once=10, a_second=5.0)
    assert not any(slow.take(n / 5) for n in range(1000))
    fast = Flood(at_once=10, a_second=5.0)
    assert any(fast.take(n / 10) for n in range(100))


def test_a_server_is_started_again_later_each_time_and_then_not_for_a_while() -> None:
    restarts = Restarts()
    assert restarts.delay(0.0) == 0.0
    delays = []
    for _ in range(4):
        restarts.failed(10.0)
        delays.append(restarts.delay(10.0))
    assert delays == [0.25, 0.5, 1.0, 2.0]
    assert restarts.delay(11.5) == 0.5
    restarts.failed(12.0)
    assert restarts.delay(12.0) is None
    assert restarts.again_in(12.0) == 58.0
    assert restarts.delay(70.5) == 0.0  # the four at 10 are forgotten, and the pause after that at 12 is over


# -- places ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "tier"),
    [
        ("127.0.0.1", "sovereign"),
        ("127.9.9.9", "sovereign"),
        ("::1", "sovereign"),
        ("::ffff:127.0.0.1", "sovereign"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("::ffff:192.168.1.1", "private"),
        ("169.254.169.254", "standard"),
        ("0.0.0.0", "standard"),
        ("192.0.2.7", "standard"),
        ("8.8.8.8", "standard"),
        ("fe80::1%eth0", "standard"),
        ("2001:4860::8888", "standard"),
    ],
)
def test_where_an_address_is(address: str, tier: str) -> None:
    assert tier_of(address) is PrivacyTier(tier)


def test_which_addresses_of_the_web_are_this_machine() -> None:
    for url in ("http://localhost:80/x", "https://127.0.0.1", "http://[::1]:9/"):
        assert is_loopback_url(url)
    for url in ("http://localhost.example.org", "http://10.0.0.1", "http://[::1", "nonsense"):
        assert not is_loopback_url(url)
    assert problem_of_url(" https://example.org:8080/mcp ") == ""
    assert problem_of_url("http://a:99999") != ""
    assert problem_of_url("example.org/mcp") == "it is no address of the web"


def test_variables_of_the_environment_are_filled_in() -> None:
    assert variables_in("a ${B} $C ${D_1}${}") == ["B", "D_1"]
    assert filled({"x": "a ${B}", "y": "$B {B}"}, {"B": "${C}"}) == {"x": "a ${C}", "y": "$B {B}"}
    with pytest.raises(ValueError, match="the environment has no B, C"):
        filled({"x": "${B} ${C} ${B}"}, {})


def test_the_leaves_of_groups() -> None:
    a, b, c = ValueError(), KeyError(), OSError()
    assert list(leaves([ExceptionGroup("", [a, ExceptionGroup("", [b])]), c])) == [a, b, c]


# -- manifests and approvals --------------------------------------------------------------------------------


def test_a_server_is_usable_if_something_of_it_is_granted() -> None:
    one, other = McpServer("one", "stdio", ["x"]), McpServer("other", "stdio", ["x"])

    def usable(*capabilities: Any) -> list[str]:
        manifest = AgentManifest(name="a", capabilities=capabilities, mcp_servers=[one, other])
        return [each.name for each in usable_servers(manifest)]

    assert usable() == []
    assert usable("memory") == []
    assert usable({"type": "mcp", "server": "one", "tool": "go"}) == ["one"]
    assert usable({"type": "mcp", "server": "*"}) == ["one", "other"]


def test_secrets_of_a_server_are_not_printed() -> None:
    server = McpServer("x", "http", url="http://a", headers={"Authorization": "Bearer secret"})
    assert "secret" not in repr(server)


def test_a_question_is_put_about_a_call_and_an_answer_is_a_table() -> None:
    request = ApprovalRequest.of(1, "a", ToolCall("", "go", {"x": 1}), "because")
    asking = request.asking(Question("s", "m"))
    assert asking.question == Question("s", "m")
    assert asking.arguments == {"x": 1}
    with pytest.raises(TypeError, match="content must be a mapping"):
        Answered([1])  # type: ignore[arg-type]


# -- deferred tools --------------------------------------------------------------------


def tools_of(count: int, *more: str) -> list[ToolDefinition]:
    topics = ["weather", "trains", "music", "cooking", "chess"]
    own = [
        ToolDefinition(f"mcp__s__{topics[n % 5]}_{n}", f"Tells about {topics[n % 5]} number {n}.", {})
        for n in range(count)
    ]
    return [*(ToolDefinition(name, "Own.", {}) for name in more), *own]


def test_up_to_forty_tools_are_shown_and_of_more_none() -> None:
    tools = tools_of(40, "read_file")
    assert split_tools(tools) == (tuple(tools), ())
    shown, hidden = split_tools(tools_of(41, "read_file"))
    assert [each.name for each in shown] == ["read_file", "find_tools"]
    assert len(hidden) == 41


def test_words_are_found_as_people_write_them() -> None:
    assert words_of("readFile reads_ALL files") == ["read", "file", "read", "all", "file"]


def test_the_best_fitting_tools_come_first() -> None:
    tools = [
        ToolDefinition("mcp__git__create_branch", "Makes a new branch.", {}),
        ToolDefinition("mcp__git__list_commits", "Lists the commits of a branch.", {}),
        ToolDefinition("mcp__mail__send", "Sends a mail to somebody.", {}),
    ]
    assert best_of(tools, "new branch")[0] == "mcp__git__create_branch"
    assert best_of(tools, "send mails") == ["mcp__mail__send"]
    assert best_of(tools, "mcp__git__list_commits")[0] == "mcp__git__list_commits"
    assert best_of(tools, "list_commits")[0] == "mcp__git__list_commits"
    assert best_of(tools, "quantum") == []
    assert len(best_of(tools_of(50), "tells about")) == 8


def test_a_search_answers_in_words() -> None:
    tools = [*tools_of(50), ToolDefinition("mcp__s__long", "word " * 200, {})]
    result, names = searched(tools, ToolCall("1", "find_tools", {"query": "music number 7"}))
    assert "mcp__s__music_7" in names
    assert "- mcp__s__music_7: Tells about music number 7." in result.text
    assert searched(tools, ToolCall("1", "find_tools", {"query": "word"}))[0].text.endswith("word  ...")
    assert (
        searched(tools, ToolCall("1", "find_tools", {"query": "zzz"}))[0].text
        == "No tool of 51 fits. Try other words."
    )
    for bad in ({}, {"query": " "}, {"query": 7}):
        assert searched(tools, ToolCall("1", "find_tools", bad))[0].is_error
    broken = ToolCall("1", "find_tools", {}, problem="cannot be read")
    assert searched(tools, broken)[0] == ToolResult("cannot be read", is_error=True)


def test_what_was_found_or_called_is_wanted_but_not_what_failed() -> None:
    tools = tools_of(50)
    find = ToolCall("1", "find_tools", {"query": "music number 7"})
    assert is_finding(find)
    assert "mcp__s__music_7" in wanted(tools, [find])
    said = AssistantMessage(
        "", (find, ToolCall("2", "mcp__s__chess_4", {}), ToolCall("3", "mcp__s__chess_9", {}))
    )
    history = [
        said,
        ToolMessage("1", "find_tools", ToolResult("...")),
        ToolMessage("2", "mcp__s__chess_4", ToolResult("x")),
        ToolMessage("3", "mcp__s__chess_9", ToolResult("x", is_error=True)),
    ]
    names = wanted_before(tools, history)
    assert {"mcp__s__music_7", "mcp__s__chess_4"} <= names
    assert "mcp__s__chess_9" not in names


def test_the_loop_shows_what_was_found_and_counts_its_tokens() -> None:
    manifest = AgentManifest(name="a")
    state, _ = begin(manifest, "q", tools=tools_of(60, "own"), context_window=100_000)
    state, effect = advance(state, Recalled((), ()))
    assert isinstance(effect, Reason)
    assert [each.name for each in effect.request.tools] == ["own", "find_tools"]
    frame, room = state.plan.frame, state.plan.room
    assert room is not None
    calls = (
        ToolCall("1", "find_tools", {"query": "music number 7"}),
        ToolCall("2", "own", {}),
        ToolCall("3", "find_tools", {"query": "zzz"}),
    )
    state, effect = advance(state, Replied(Completion(tool_calls=calls)))
    assert [call.name for call in effect.calls] == ["own"]  # type: ignore[union-attr]
    state, effect = advance(state, Acted((ToolResult("done"),)))
    state, effect = advance(state, Recalled((), ()))
    assert isinstance(effect, Reason)
    shown = [each.name for each in effect.request.tools]
    assert "mcp__s__music_7" in shown
    assert state.plan.frame > frame
    assert state.plan.room is not None
    assert state.plan.room + state.plan.frame == room + frame
    results = [m.result.text for m in effect.request.messages if isinstance(m, ToolMessage)]
    assert results[1:] == ["done", "No tool of 60 fits. Try other words."]
    # Only searches: nothing is run, and what is shown already is not shown twice.
    again = Completion(tool_calls=[ToolCall("4", "find_tools", {"query": "music number 7"})])
    state, effect = advance(state, Replied(again))
    state, effect = advance(state, Recalled((), ()))
    assert isinstance(effect, Reason)
    assert [each.name for each in effect.request.tools] == shown


def test_without_a_window_there_is_no_room_to_count() -> None:
    state, _ = begin(AgentManifest(name="a"), "q", tools=tools_of(60))
    assert state.plan.showing(["mcp__s__music_7"]).room is None


def test_a_tool_that_has_to_be_called_first_is_shown() -> None:
    from agentpool import ModelSettings

    manifest = AgentManifest(name="a", model=ModelSettings(tool_choice="mcp__s__music_7"))
    state, _ = begin(manifest, "q", tools=tools_of(60))
    assert [each.name for each in state.plan.tools] == ["find_tools", "mcp__s__music_7"]


def test_a_tool_with_the_name_of_the_search_is_refused_where_there_is_one() -> None:
    mine = ToolDefinition(FIND_TOOLS.name, "Mine.", {})
    begin(AgentManifest(name="a"), "q", tools=[mine, *tools_of(3)])
    with pytest.raises(ManifestError, match="'find_tools' of the loop's own"):
        begin(AgentManifest(name="a"), "q", tools=[mine, *tools_of(60)])


def after_calls(
    manifest: AgentManifest, tools: Sequence[ToolDefinition], *names: str, handoffs: Sequence[str] = ()
) -> tuple[list[str], Any]:
    """Have a model call tools; return which of them run, and the state when each came to its own name."""
    state, _ = begin(manifest, "q", tools=tools, handoffs=handoffs)
    state, _ = advance(state, Recalled((), ()))
    calls = [ToolCall(str(n), name, {"query": "chess"}) for n, name in enumerate(names)]
    state, effect = advance(state, Replied(Completion(tool_calls=calls)))
    run = [call.name for call in effect.calls] if isinstance(effect, Act) else []
    if run:
        state, _ = advance(state, Acted([ToolResult(name) for name in run]))
    return run, [m.result.text for m in state.transcript if isinstance(m, ToolMessage)]


def test_a_search_stays_the_loops_own_when_there_is_nothing_to_find_any_more() -> None:
    """A run that is resumed while a server is away has fewer tools, and is to come to the same calls."""
    manifest = AgentManifest(name="a", mcp_servers=[McpServer("s", "stdio", ["x"])])
    run, results = after_calls(manifest, tools_of(3), "mcp__s__music_1", "find_tools", "mcp__s__chess_2")
    assert run == ["mcp__s__music_1", "mcp__s__chess_2"]
    assert results[1] == "There are no other tools than those that you are shown."
    run, results = after_calls(AgentManifest(name="a"), tools_of(3), "find_tools")
    assert run == ["find_tools"]  # which comes to an error: there is no such tool
    mine = ToolDefinition(FIND_TOOLS.name, "Mine.", {})
    run, results = after_calls(manifest, [mine, *tools_of(3)], "find_tools")
    assert (run, results) == (["find_tools"], ["find_tools"])


def test_of_two_handoffs_beside_a_search_one_counts() -> None:
    run, results = after_calls(
        AgentManifest(name="a"), tools_of(60, "x", "y"), "find_tools", "x", "y", handoffs=["x", "y"]
    )
    assert run == ["x", "y"]
    assert results[1] == "x"
    assert results[2] != "y"


def test_both_kinds_of_own_calls_go_together() -> None:
    from agentpool import ModelSettings

    manifest = AgentManifest(name="a", model=ModelSettings(compaction="summary"))
    state, _ = begin(manifest, "q", tools=tools_of(60), context_window=100_000)
    state, _ = advance(state, Recalled((), ()))
    calls = [ToolCall("1", "pin_fact", {"fact": "f"}), ToolCall("2", "find_tools", {"query": "chess"})]
    state, _ = advance(state, Replied(Completion(tool_calls=calls)))
    state, effect = advance(state, Recalled((), ()))
    assert isinstance(effect, Reason)
    said = [m.result.text for m in effect.request.messages if isinstance(m, ToolMessage)]
    assert said[0] == "Pinned as 1."
    assert said[1].startswith("You may call these")


# -- in a pool, without servers ---------------------------------------------------------


async def test_what_a_tool_tells_of_its_progress_is_an_event_and_a_sign_of_life(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def agent(ctx: AgentContext) -> str:
        with ctx.open_idle_limit(2.0) as limit:
            for n in range(4):
                await trio.sleep(1.5)
                ctx.progressed("go", n, 4, f"at {n}")
            return "alive"
        return f"idle at {limit.deadline}"

    told = []
    async with open_agent_pool(max_concurrent=1) as pool, pool.events() as events:
        handle = await pool.spawn(agent)
        async for event in events:
            if isinstance(event, ToolProgressed):
                told.append((event.tool, event.progress, event.total, event.message))
            if isinstance(event, AgentFinished):
                break
        assert await handle.result() == "alive"
    assert told == [("go", n, 4, f"at {n}") for n in range(4)]


@pytest.mark.parametrize("has_question", [False, True])
async def test_an_answer_stands_where_there_was_a_question(has_question: bool) -> None:
    async def approver(_: ApprovalRequest) -> Decision:
        return Answered({"a": 1})

    async def agent(ctx: AgentContext) -> Decision:
        request = ApprovalRequest.of(ctx.id, ctx.name, ToolCall("", "go", {}), "because")
        return await ctx.ask_approver(request.asking(Question("s", "m")) if has_question else request)

    async with open_agent_pool(max_concurrent=1, approver=approver) as pool:
        decision = await (await pool.spawn(agent)).result()
    if has_question:
        assert decision == Answered({"a": 1})
    else:
        assert isinstance(decision, Denied)
        assert "Approved() or Denied(reason) is wanted" in decision.reason
