"""Rules for tool calls: which patterns mean which calls, and what is not passed by another spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from agentpool import AgentManifest, ApprovalRequest, ApprovalRules, Approved, Denied, ManifestError, ToolCall
from agentpool._core.approval import (
    CallPattern,
    CallView,
    PatternError,
    Ruling,
    call_hash,
    decision_from_data,
    decision_to_data,
    idle_patterns,
    parse_pattern,
    ruling_on,
)
from agentpool._core.messages import ToolDefinition
from agentpool._core.readings import MOST_FOLDERS, may_fit, must_fit, text_of_value
from agentpool.fleet.schema import manifest_schema


def verdict(rules: ApprovalRules, name: str, given: Mapping[str, Any], **view: Any) -> str:
    return ruling_on(CallView(name, given, **view), [rules]).verdict


# -- which rule decides ---------------------------------------------------------------

MIXED = ApprovalRules(
    deny=("run(command=rm *)",),
    ask=("run(command=git *)", "write"),
    allow=("run(command=*)",),
    default="deny",
)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("run", {"command": "rm -rf /"}, "deny"),
        ("run", {"command": "git push"}, "ask"),
        ("run", {"command": "git push; rm x"}, "deny"),
        ("run", {"command": "ls"}, "allow"),
        ("write", {}, "ask"),
        ("read", {}, "deny"),
    ],
)
def test_deny_comes_before_ask_and_ask_before_allow(name: str, given: dict[str, Any], expected: str) -> None:
    assert verdict(MIXED, name, given, taken=given) == expected


def test_a_ruling_tells_the_rule_as_it_stands_in_a_manifest() -> None:
    view = CallView("write", {"path": "é"}, {"path": "é"})
    ask = ApprovalRules(ask=('write(path="é")',))
    assert ruling_on(view, [ask]) == Ruling("ask", 'ask = "write(path=\\"é\\")"')
    assert ruling_on(view, [ApprovalRules(default="deny")]) == Ruling("deny", 'default = "deny"')
    assert ruling_on(view, []) == Ruling("allow", "")


def test_of_several_rules_the_strictest_counts() -> None:
    view = CallView("write", {}, {})
    allow, ask, deny = ApprovalRules(), ApprovalRules(ask=("write",)), ApprovalRules(default="deny")
    assert ruling_on(view, [allow, deny, ask]).verdict == "deny"
    assert ruling_on(view, [allow, ask]).verdict == "ask"


def test_rules_that_let_everything_through_are_none() -> None:
    assert not ApprovalRules()
    assert not AgentManifest(name="x").approval
    assert all((ApprovalRules(ask=("x",)), ApprovalRules(deny=("x",)), ApprovalRules(default="ask")))


# -- patterns -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("write", CallPattern("write")),
        ("  mcp_* ", CallPattern("mcp_*")),
        ("run(command=git push*)", CallPattern("run", (("command", "git push*"),))),
        ('run (a="x, ""y"" )", b= two words )', CallPattern("run", (("a", 'x, "y" )'), ("b", "two words")))),
        ("run(a=)", CallPattern("run", (("a", ""),))),
        ("run(a=(x)*)", CallPattern("run", (("a", "(x)*"),))),
    ],
)
def test_patterns_are_read(text: str, pattern: CallPattern) -> None:
    assert parse_pattern(text) == pattern


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("two words", "no pattern of tool calls"),
        ("run(", "no pattern of tool calls"),
        ("=x", "no pattern of tool calls"),
        ("run()", "names no argument"),
        ("run( )", "names no argument"),
        ("run(command)", "no argument with its text"),
        ("run(a=x,)", "no argument with its text"),
        ('run(a="x)', "no argument with its text"),
        ("run(a*=x)", "no argument with its text"),
        ("run(a=1, a=2)", "names the argument 'a' twice"),
        ("run(a=" + "**/" * (MOST_FOLDERS + 1) + ")", "holds more than 4"),
    ],
)
def test_what_is_no_pattern_is_told(text: str, problem: str) -> None:
    with pytest.raises(PatternError) as caught:
        parse_pattern(text)
    assert problem in caught.value.args[0]
    assert caught.value.args[1]
    with pytest.raises(ManifestError, match=r"approval\.deny\[0\]"):
        AgentManifest.from_toml(f"name = 'x'\n[approval]\ndeny = ['''{text}''']\n")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("allow = ['a']", "approval.allow: has no effect"),
        ("ask = ['a', 'a']", "has no effect: ask holds the same pattern"),
        ("deny = ['a']\nask = ['a']", "approval.ask[0]: has no effect: deny holds the same pattern"),
        ("deny = ['']", "approval.deny[0]"),
        ("deny = [3]", "approval.deny[0]"),
        ("default = 'never'", "approval.default"),
        ("forbid = ['a']", "approval.forbid"),
    ],
)
def test_rules_that_say_nothing_or_are_none_are_told(table: str, problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        AgentManifest.from_toml(f"name = 'x'\n[approval]\n{table}\n")
    assert problem in str(caught.value)


def test_a_manifest_holds_its_rules() -> None:
    text = "name = 'x'\n[approval]\nask = ['a', 'b(c=d*)']\nallow = ['e']\ndefault = 'deny'\n"
    expected = ApprovalRules(ask=("a", "b(c=d*)"), allow=("e",), default="deny")
    assert AgentManifest.from_toml(text).approval == expected


def test_the_schema_of_manifests_knows_patterns() -> None:
    schema = manifest_schema()
    pattern = schema["$defs"]["ApprovalRules"]["properties"]["ask"]["items"]["pattern"]
    for text in ("write", "run(command=git push*)"):
        assert re.search(pattern, text)
    for text in ("two words", "run(", ""):
        assert not re.search(pattern, text)


def tool_of(name: str, *arguments: str, **schema: Any) -> ToolDefinition:
    properties = {each: {"type": "string"} for each in arguments}
    return ToolDefinition(name, "", {"type": "object", "properties": properties, **schema})


def test_patterns_that_fit_no_tool_are_found() -> None:
    tools = [tool_of("write", "path", additionalProperties=False), tool_of("mcp_go", "a")]
    rules = ApprovalRules(
        deny=("wirte", "write(pth=x)", "*", "mcp_*(anything=x)", "*(path=x)"), ask=("rm(x=y)",)
    )
    found = list(idle_patterns(rules, tools))
    assert [key for key, _, _ in found] == ["approval.deny[0]", "approval.deny[1]", "approval.ask[0]"]
    assert "no tool that 'wirte' names" in found[0][1]
    assert "write" in found[0][2]
    assert "takes 'pth'" in found[1][1]
    assert "path" in found[1][2]
    # `*` names every tool of an agent that has none.
    assert list(idle_patterns(ApprovalRules(ask=("*",)), [])) == []
    assert list(idle_patterns(ApprovalRules(ask=("*(a=b)",)), []))


# -- what fits ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("*", ""),
        ("a?c", "abc"),
        ("a*c", "ac"),
        ("a*b*c", "a1b2b3c"),
        ("**", "anything"),
        ("a.c", "a.c"),
        ("[a]", "[a]"),
        ("x\\y", "x\\y"),
        ("docs/**/x", "docs/x"),
        ("docs/**/x", "docs/a/b/x"),
        ("3", 3),
        ("3", 3.0),
        ("3.5", 3.5),
        ("true", True),
        ("null", None),
        ("", ""),
        ("[]", []),
        ("{}", {}),
        ("a\nb*", "a\nb\nc"),
    ],
)
def test_what_a_pattern_means_fits_both_ways(pattern: str, value: Any) -> None:
    assert may_fit(pattern, value)
    if "\n" not in pattern:
        assert must_fit(pattern, value)


@pytest.mark.parametrize(
    ("pattern", "value"),
    [("a?c", "ac"), ("a.c", "abc"), ("a*b*c", "acb"), ("docs/**/x", "docs/ax"), ("3", 4), ("a", ["b"])],
)
def test_what_a_pattern_does_not_mean_fits_no_way(pattern: str, value: Any) -> None:
    assert not may_fit(pattern, value)
    assert not must_fit(pattern, value)


SAME_COMMAND = [
    "RM -rf x",
    "rm  -rf\tx",
    " rm -rf x ",
    "r\u200bm -rf x",
    "\uff52\uff4d -rf x",  # letters of full width
    "r''m -rf x",
    'r"m" -rf x',
    "\\rm -rf x",
    "cd y && rm -rf x",
    "true; rm -rf x",
    "true\nrm -rf x",
    "true | rm -rf x",
    "echo $(rm -rf x)",
    "echo `rm -rf x`",
    "(rm -rf x)",
    "cat <(rm -rf x)",
    "a & rm -rf x",
    "/bin/rm -rf x",
    "sudo rm -rf x",
    "LC_ALL=C sudo env A=b '/usr/bin/rm' -rf x",
    "if true; then rm -rf x; fi",
    '["rm -rf x"]',
    '{"command": "rm -rf x"}',
    '[["rm -rf x"], 3]',
]


@pytest.mark.parametrize("command", SAME_COMMAND)
def test_a_rule_is_not_passed_by_another_spelling(command: str) -> None:
    rules = ApprovalRules(deny=("run(command=rm *)",))
    assert verdict(rules, "run", {"command": command}, taken={"command": command}) == "deny"


def test_what_stands_before_a_program_is_part_of_a_permission() -> None:
    rules = ApprovalRules(allow=("run(command=sudo ls *)",), default="ask")
    assert verdict(rules, "run", {"command": "sudo ls x"}, taken={}) == "allow"
    deny = ApprovalRules(deny=("write(path=key)",))
    assert verdict(deny, "write", {"path": "secret/key"}, taken={}) == "allow"
    assert verdict(ApprovalRules(deny=("run(command=sudo)",)), "run", {"command": "sudo"}, taken={}) == "deny"


@pytest.mark.parametrize("command", [*SAME_COMMAND, "git log > /etc/passwd", "git log 2>&1evil", "GIT log"])
def test_a_permission_is_not_won_by_another_spelling(command: str) -> None:
    rules = ApprovalRules(allow=("run(command=git *)",), default="ask")
    assert verdict(rules, "run", {"command": f"git {command}"}, taken={"command": command}) == "ask"


@pytest.mark.parametrize(
    "command",
    ["git log", "git log && git status", "git log 2>&1", "git log 2>&1 | git x", "git commit -m 'a'"],
)
def test_a_permission_is_for_each_command_of_a_line(command: str) -> None:
    rules = ApprovalRules(allow=("run(command=git *)",), default="ask")
    assert verdict(rules, "run", {"command": command}, taken={"command": command}) == "allow"


def test_quotes_count_in_a_permission() -> None:
    rules = ApprovalRules(allow=('run(command="echo ""*""")',), default="ask")
    for command, expected in (('echo "a"; echo "b"', "allow"), ('echo "a"; echo b "c"', "ask")):
        assert verdict(rules, "run", {"command": command}, taken={}) == expected


def test_a_permission_for_several_commands_is_for_those_in_their_order() -> None:
    rules = ApprovalRules(allow=("run(command=cd * && make *)",), default="ask")
    for command, expected in (
        ("cd x && make y", "allow"),
        ("make y && cd x", "ask"),
        ("cd x && rm y", "ask"),
    ):
        assert verdict(rules, "run", {"command": command}, taken={"command": command}) == expected


HOME = ("/home/me/work", "/srv/real")


@pytest.mark.parametrize(
    "path",
    [
        "secret/key",
        "./secret/key",
        "docs/../secret/key",
        "secret//key",
        "SECRET/key",
        "secret\\key",
        "/home/me/work/secret/key",
        "//home/me/work/secret/key",
        "/srv/real/secret/key",
        "/home/me/work/../work/secret/key",
        "../work/secret/key",
    ],
)
def test_a_path_is_the_same_however_it_is_written(path: str) -> None:
    rules = ApprovalRules(deny=("write(path=secret/*)",))
    assert verdict(rules, "write", {"path": path}, taken={"path": path}, bases=HOME) == "deny"
    absolute = ApprovalRules(deny=("write(path=/home/me/work/secret/*)", "write(path=/srv/real/secret/*)"))
    assert verdict(absolute, "write", {"path": path}, taken={"path": path}, bases=HOME) == "deny"


@pytest.mark.parametrize(
    "path", ["docs/../secret/key", "/docs/x", "../docs/x", "docs/..", "C:/docs/x", "docs/a/../../x"]
)
def test_a_permission_for_a_folder_is_for_what_is_in_it(path: str) -> None:
    rules = ApprovalRules(allow=("write(path=docs/*)",), default="ask")
    assert verdict(rules, "write", {"path": path}, taken={"path": path}, bases=("/home/me",)) == "ask"
    good = {"path": "docs/a/b"}
    assert verdict(rules, "write", good, taken=good, bases=("/home/me",)) == "allow"
    assert verdict(rules, "write", good, taken=good) == "allow"


def test_paths_without_a_known_base_and_on_other_drives() -> None:
    assert may_fit("secret/*", "docs/../secret/key")
    assert may_fit("*", "x", ("C:/work",))
    assert not may_fit("x/*", "D:/x/y", ("C:/work",))
    assert may_fit("D:/x/*", "D:/x/z/../y", ("C:/work",))
    assert may_fit(".", "/home/me", ("/home/me",))
    assert may_fit("../x", "/x", ("/home",))
    assert may_fit("x", "/x", ("/",))
    assert may_fit("/a/x", "/b/y/../x", ("/a", "/b"))
    assert not may_fit("/a/x", "/bb/x", ("/a", "/b"))
    assert may_fit("/a", "/b", ("/a", "/b"))


def test_lists_and_tables_are_meant_by_each_part() -> None:
    assert may_fit("secret", ["a", {"b": ["secret"]}])
    assert may_fit("secret", {"secret": 1})  # a key
    assert may_fit('["a","b"]', ["a", "b"])  # as a whole
    assert must_fit("a*", ["a1", "a2", {"a3": "a4"}])
    assert not must_fit("a*", ["a1", "b"])
    assert not must_fit("a*", {"b": "a"})


def test_numbers_in_texts_are_numbers() -> None:
    for text in ("7", "07", " 7 ", "7.0", "7e0", "0_7"):
        assert may_fit("7", text), text
    assert not may_fit("7", "seven")
    assert not may_fit("7", "9" * 5_000)  # more digits than Python reads
    assert may_fit("[[*", "[" * 100_000)  # no JSON: a text
    assert text_of_value(float("inf")) == "Infinity"


def test_arguments_that_are_missing() -> None:
    deny = ApprovalRules(deny=("run(mode=fast)",))
    allow = ApprovalRules(allow=("run(mode=fast)",), default="ask")
    # A tool that tells what it takes: a default counts, and what is not there is not there.
    assert verdict(deny, "run", {}, taken={"mode": "fast"}) == "deny"
    assert verdict(deny, "run", {}, taken={}) == "allow"
    assert verdict(allow, "run", {}, taken={"mode": "fast"}) == "allow"
    assert verdict(allow, "run", {}, taken={}) == "ask"
    # One that does not tell may take anything, unless its schema says what.
    assert verdict(deny, "run", {}) == "deny"
    assert verdict(allow, "run", {}) == "ask"
    schema = {"properties": {"mode": {"default": "fast"}}}
    assert verdict(deny, "run", {}, schema=schema) == "deny"
    assert verdict(allow, "run", {}, schema=schema) == "allow"
    assert verdict(deny, "run", {}, schema={"properties": {"mode": {"default": "slow"}}}) == "allow"
    odd: dict[str, Any]
    for odd in ({"properties": {"mode": {}}}, {"properties": {"mode": True}}, {"properties": []}):
        assert verdict(deny, "run", {}, schema=odd) == "deny"


def test_what_the_model_gave_counts_as_well_as_what_the_tool_takes() -> None:
    deny = ApprovalRules(deny=("pay(amount=100)",))
    assert verdict(deny, "pay", {"amount": "1e2"}, taken={"amount": 5}) == "deny"
    assert verdict(deny, "pay", {"amount": "x"}, taken={"amount": 100}) == "deny"
    allow = ApprovalRules(allow=("pay(amount=5)",), default="ask")
    assert verdict(allow, "pay", {"amount": 100}, taken={"amount": 5}) == "ask"


def test_all_arguments_of_a_pattern_must_fit() -> None:
    rules = ApprovalRules(deny=("run(a=1, b=2)",))
    for given, expected in (({"a": 1, "b": 2}, "deny"), ({"a": 1, "b": 3}, "allow"), ({"a": 1}, "allow")):
        assert verdict(rules, "run", given, taken=given) == expected


def test_tools_are_named_by_patterns() -> None:
    rules = ApprovalRules(deny=("mcp_*", "r?n"))
    for name, expected in (("mcp_x", "deny"), ("run", "deny"), ("MCP_x", "deny"), ("rn", "allow")):
        assert verdict(rules, name, {}, taken={}) == expected
    allow = ApprovalRules(allow=("mcp_*",), default="ask")
    assert verdict(allow, "MCP_x", {}, taken={}) == "ask"


def test_a_long_text_takes_no_more_than_its_length() -> None:
    text = "ab" * 200_000
    assert not may_fit("*a*b*a*b*a*b*c", text)
    assert may_fit("*" * 50 + "b", text)


# -- what is asked --------------------------------------------------------------------


def test_a_hash_is_of_the_exact_call() -> None:
    call = ToolCall("1", "run", {"a": 1, "b": [2]})
    assert call_hash(call) == call_hash(ToolCall("1", "run", {"b": [2], "a": 1}))
    for other in (
        ToolCall("2", "run", {"a": 1, "b": [2]}),
        ToolCall("1", "ran", {"a": 1, "b": [2]}),
        ToolCall("1", "run", {"a": "1", "b": [2]}),
        ToolCall("1", "run", {"a": 1, "b": [2], "c": None}),
        ToolCall("1", "run", {"a": True, "b": [2]}),
    ):
        assert call_hash(other) != call_hash(call)


def test_a_request_keeps_what_was_asked() -> None:
    given = {"a": [1]}
    taken = {"b": 0, "a": [1]}
    request = ApprovalRequest.of(3, "x", ToolCall("1", "run", given), "rule", taken)
    before = request.key("call")
    given["a"].append(2)
    taken["a"] = [1, 2]
    assert request.call.input == {"a": [1]}
    assert request.taken == {"b": 0, "a": [1]}
    assert list(request.arguments.items()) == [("a", [1]), ("b", 0)]  # the model's first
    assert request.key("call") == before != request.key("another call")
    assert ApprovalRequest.of(3, "x", ToolCall("1", "run", {"a": 1}), "rule").arguments == {"a": 1}


def test_a_decision_travels() -> None:
    for decision in (Approved(), Denied(), Denied("why")):
        assert decision_from_data(decision_to_data("key", decision)) == decision
    with pytest.raises(TypeError):
        Denied(3)  # type: ignore[arg-type]
