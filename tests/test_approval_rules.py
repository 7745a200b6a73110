"""Which tool calls rules allow, ask about and deny: what is decided before anybody is asked."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agentpool import AgentManifest, ApprovalRequest, ApprovalRules, Approved, Denied, ManifestError, ToolCall
from agentpool._core.approval import (
    CallPattern,
    CallView,
    PatternError,
    PatternRule,
    Verdict,
    call_hash,
    decision_from_data,
    decision_to_data,
    idle_patterns,
    parse_pattern,
    ruling_on,
)
from agentpool._core.messages import AgentId, ToolDefinition
from agentpool._core.readings import may_fit, must_fit, text_of_value

BASES = ("/work/here", "/real/here")


def verdict_on(rules: ApprovalRules, name: str = "run", bases: tuple[str, ...] = (), **given: Any) -> Verdict:
    return ruling_on(CallView(name, given, bases=bases), [rules]).verdict


# -- which rule decides ---------------------------------------------------------------


def test_deny_comes_before_ask_before_allow_before_the_default() -> None:
    rules = ApprovalRules(deny=("a*",), ask=("ab*",), allow=("abc", "z"), default="ask")
    assert [verdict_on(rules, name) for name in ("abc", "z", "other")] == ["deny", "allow", "ask"]
    assert verdict_on(ApprovalRules(ask=("a*",), allow=("ab",), default="deny"), "ab") == "ask"
    assert verdict_on(ApprovalRules(allow=("ab",), default="deny"), "ab") == "allow"
    assert verdict_on(ApprovalRules(default="deny"), "ab") == "deny"
    assert verdict_on(ApprovalRules(), "ab") == "allow"


def test_the_strictest_of_several_rules_counts_and_is_named() -> None:
    call = CallView("run", {})
    lax, asks, strict = ApprovalRules(), ApprovalRules(ask=("run",)), ApprovalRules(default="deny")
    assert ruling_on(call, []).verdict == "allow"
    assert ruling_on(call, [lax, asks]).rule == 'ask = "run"'
    assert ruling_on(call, [lax, asks, strict]).rule == 'default = "deny"'
    assert ruling_on(call, [strict, asks]).verdict == "deny"


def test_rules_are_true_if_some_call_is_not_simply_made() -> None:
    assert not ApprovalRules()
    with pytest.raises(ValueError, match="allow: has no effect"):
        ApprovalRules(allow=("run",), default="allow")
    assert ApprovalRules(ask=("run",))
    assert ApprovalRules(deny=("run",))
    assert ApprovalRules(default="ask")


# -- patterns -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("run", CallPattern("run")),
        (" mcp_* ", CallPattern("mcp_*")),
        ("run(command=git push*)", CallPattern("run", (("command", "git push*"),))),
        ("run (a = x , b=)", CallPattern("run", (("a", "x"), ("b", "")))),
        ('run(a="x, ""y"")", b=z)', CallPattern("run", (("a", 'x, "y")'), ("b", "z")))),
        ("run(a=f(x))", CallPattern("run", (("a", "f(x)"),))),
    ],
)
def test_a_pattern_names_a_tool_and_its_arguments(text: str, pattern: CallPattern) -> None:
    assert parse_pattern(text) == pattern


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("run it", "is no pattern of tool calls"),
        ("run(", "is no pattern of tool calls"),
        ("(a=b)", "is no pattern of tool calls"),
        ("run()", "names no argument in its brackets"),
        ("run(git push)", "is no argument with its text"),
        ("run(a=b,)", "is no argument with its text"),
        ('run(a="b)', "is no argument with its text"),
        ('run(a=b"c)', "is no argument with its text"),
        ("run(*=b)", "is no argument with its text"),
        ("run(a=b, a=c)", "names the argument 'a' twice"),
        ("run(a=**/b/**/c/**/d/**/e/**/f)", r"holds more than 4 `\*\*/`"),
    ],
)
def test_what_is_no_pattern_is_told_with_how_to_write_it(text: str, problem: str) -> None:
    with pytest.raises(PatternError, match=problem) as caught:
        parse_pattern(text)
    assert len(caught.value.args) == 2


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        ("git push*", "git push origin", True),
        ("git push*", "git pull", False),
        ("*push*force*", "git push --force", True),
        ("*force*push*", "git push --force", False),
        ("***", "anything", True),
        ("a*a", "a", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("docs/**/x.md", "docs/x.md", True),
        ("docs/**/x.md", "docs/a/b/x.md", True),
        ("docs/**/x.md", "docsx.md", False),
        ("a.c", "abc", False),
        ("5", 5, True),
        ("5", 5.0, True),
        ("5.5", 5.5, True),
        ("true", True, True),
        ("null", None, True),
        ("[]", [], True),
        ("", "", True),
        ("é*", "é!", True),
    ],
)
def test_a_pattern_fits_a_value(pattern: str, value: Any, fits: bool) -> None:
    assert may_fit(pattern, value) is fits
    assert must_fit(pattern, value) is fits


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("rm *", "RM -rf x"),  # capitals
        ("rm *", "  rm \t -rf x"),  # spaces
        ("rm *", "cd x && rm y"),  # further commands
        ("rm *", "cd x; rm y"),
        ("rm *", "cd x\nrm y"),
        ("rm *", "echo $(rm y)"),
        ("rm *", "echo `rm y`"),
        ("rm *", "'rm' y"),  # quotes
        ("rm *", "r\\m y"),
        ("rm *", "\uff52\uff4d y"),  # letters that look alike
        ("rm *", "r\u200bm y"),  # marks that take no room
        ("rm *", "r\x00m y"),
        ("rm *", ["ls", "rm y"]),  # values inside of others
        ("rm *", {"first": [{"then": "rm y"}]}),
        ("rm *", {"rm y": 1}),  # a key
        ("rm *", '["rm y"]'),  # JSON in a text
        ("5", "5.0"),  # another way to write a number
        ("5", " 5 "),
        ("5", "[5]"),
        ("docs/key", "docs/../docs/./key"),
        ("docs/key", "docs\\key"),
        ("key", "docs//../key"),
    ],
)
def test_another_spelling_passes_no_rule_that_restricts(pattern: str, value: Any) -> None:
    assert may_fit(pattern, value)
    assert not must_fit(pattern, value) or text_of_value(value).strip() == value


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("git *", "git log; rm x"),
        ("git *", "git log && rm x"),
        ("git *", "git log $(rm x)"),
        ("git *", "GIT log"),
        ("docs/*", "docs/../key"),
        ("docs/*", ["docs/a", "key"]),
        ("docs/*", {"key": "docs/a"}),
        ("git log*", "git \u200blog"),
    ],
)
def test_a_rule_that_permits_means_every_reading(pattern: str, value: Any) -> None:
    assert not must_fit(pattern, value)


def test_a_pattern_of_several_commands_permits_as_many_of_them() -> None:
    assert must_fit("cd * && make*", "cd x && make all")
    assert not must_fit("cd * && make*", "cd x && rm y && make all")
    assert not must_fit("cd * && make*", "cd x && rm y")


def test_a_text_that_is_nearly_json_is_a_text() -> None:
    assert may_fit("[rm*", "[rm")
    assert not may_fit("rm*", "[rm")
    assert not may_fit("rm", "[" * 100_000)
    assert may_fit("[1,2]", [1, 2])
    assert not may_fit("6", "5")
    assert not may_fit("6", "[5]")


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("/work/here/key", "key", True),
        ("/real/here/key", "key", True),  # by the other name of the directory
        ("/work/here/key", "../here/key", True),
        ("/work/key", "../key", True),
        ("/etc/*", "//etc/passwd", True),
        ("/etc/*", "../../etc/passwd", True),
        ("key", "/work/here/key", True),
        ("key", "/real/here/key", True),
        ("../key", "/work/key", True),
        (".", "/work/here", True),
        ("key", "/other/key", False),
        ("C:/key", "C:\\x\\..\\key", True),
        ("key", "C:/key", False),
    ],
)
def test_a_path_is_what_it_leads_to(pattern: str, path: str, fits: bool) -> None:
    assert may_fit(pattern, path, BASES) is fits


def test_a_directory_is_the_same_by_each_of_its_names() -> None:
    assert may_fit("/real/here/key", "/work/here/key", BASES)
    assert may_fit("/work/here/key", "/real/here/x/../key", BASES)
    assert may_fit("/real/here/key", "../../work/here/key", BASES)
    assert not may_fit("/real/other", "/work/other", BASES)
    assert must_fit("/work/here/*", "/work/here/key", BASES)


def test_a_permitted_path_is_below_by_all_names_of_the_directory() -> None:
    assert must_fit("docs/*", "docs/a", BASES)
    assert not must_fit("docs/*", "/work/here/docs/a", BASES)  # as the model gave it, it is another text
    assert not must_fit("docs/*", "docs/../../x", BASES)
    assert not must_fit("/work/here/*", "/work/here/../key", BASES)


# -- calls ----------------------------------------------------------------------------

SCHEMA = {"properties": {"force": {"default": True}, "name": {}, "odd": 1}}


def test_arguments_are_compared_as_given_and_as_taken() -> None:
    rules = ApprovalRules(deny=("run(count=5)",))
    assert ruling_on(CallView("run", {"count": "five"}, {"count": 5}), [rules]).verdict == "deny"
    assert ruling_on(CallView("run", {"count": 5}, {"count": 6}), [rules]).verdict == "deny"
    assert ruling_on(CallView("run", {}, {"count": 5}), [rules]).verdict == "deny"
    assert ruling_on(CallView("run", {}, {"count": 6}), [rules]).verdict == "allow"
    allows = ApprovalRules(allow=("run(count=5)",), default="deny")
    assert ruling_on(CallView("run", {"count": 5}, {"count": 5}), [allows]).verdict == "allow"
    assert ruling_on(CallView("run", {"count": 5}, {"count": 6}), [allows]).verdict == "deny"


def test_an_argument_that_cannot_be_known_may_be_anything() -> None:
    rules = ApprovalRules(deny=("run(force=true)",))
    named, odd = ApprovalRules(deny=("run(name=x)",)), ApprovalRules(deny=("run(odd=x)",))
    told, untold = CallView("run", {}, {}), CallView("run", {}, None, SCHEMA)
    assert ruling_on(told, [rules]).verdict == "allow"  # it is missing, and the tool says so
    assert ruling_on(untold, [rules]).verdict == "deny"  # by the default of its schema
    assert ruling_on(CallView("run", {"force": False}, None, SCHEMA), [rules]).verdict == "allow"
    assert ruling_on(untold, [named]).verdict == "deny"
    assert ruling_on(untold, [odd]).verdict == "deny"
    assert ruling_on(CallView("run", {}, None, {"properties": 1}), [rules]).verdict == "deny"


def test_an_argument_that_is_missing_permits_nothing() -> None:
    rules = ApprovalRules(allow=("run(path=docs/*)",), default="deny")
    assert verdict_on(rules) == "deny"
    assert verdict_on(rules, path=None) == "deny"
    assert verdict_on(rules, path="docs/a") == "allow"
    assert verdict_on(rules, path="docs/a", also="x") == "allow"
    assert verdict_on(rules, "other", path="docs/a") == "deny"


def test_all_arguments_of_a_pattern_have_to_fit() -> None:
    rules = ApprovalRules(deny=("run(a=1, b=2)",))
    assert verdict_on(rules, a=1, b=2) == "deny"
    assert verdict_on(rules, a=1, b=3) == "allow"


# -- in a manifest --------------------------------------------------------------------


def findings_of(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ManifestError) as caught:
        AgentManifest.from_toml('name = "a"\n[approval]\n' + text)
    return [(finding.key, f"{finding.problem}. {finding.fix}") for finding in caught.value.findings]


def test_a_manifest_holds_rules() -> None:
    text = 'name = "a"\n[approval]\ndeny = ["rm"]\nask = ["run(a=b)"]\nallow = ["look"]\ndefault = "ask"'
    rules = AgentManifest.from_toml(text).approval
    assert rules == ApprovalRules(deny=("rm",), ask=("run(a=b)",), allow=("look",), default="ask")
    assert not AgentManifest(name="a").approval


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        ('asks = ["x"]', "approval.asks", "ask"),
        ('default = "maybe"', "approval.default", "deny"),
        ('ask = ["run it"]', "approval.ask[0]", "is no pattern of tool calls"),
        ('deny = ["ok", "run()"]', "approval.deny[1]", "names no argument"),
        ('ask = [""]', "approval.ask[0]", ""),
        ("ask = [5]", "approval.ask[0]", ""),
        ('allow = ["x"]', "approval.allow", "has no effect"),
        ('ask = ["x"]\ndeny = ["x"]', "approval.ask[0]", "deny holds the same pattern"),
        ('ask = ["x", "x"]', "approval.ask[1]", "ask holds the same pattern"),
    ],
)
def test_what_is_wrong_in_the_rules_is_found(text: str, key: str, told: str) -> None:
    ((found, words),) = findings_of(text)
    assert found == key
    assert told in words


def test_what_is_wrong_is_found_all_at_once() -> None:
    assert len(findings_of('deny = ["run(", 5, 5]\nask = ["run()"]')) == 4


def test_an_editor_is_told_what_is_no_pattern() -> None:
    pattern = PatternRule("").schema({})["pattern"]
    assert isinstance(pattern, str)
    assert re.search(pattern, "run(a=b)")
    assert not re.search(pattern, "run it")


TOOLS = (
    ToolDefinition("run", "", {"properties": {"command": {}}, "additionalProperties": False}),
    ToolDefinition("open", "", {"properties": {"path": {}}}),
)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("run", None),
        ("r*", None),
        ("*", None),
        ("run(command=x)", None),
        ("open(other=x)", None),
        ("*(other=x)", None),
        ("rum", "the agent has no tool that 'rum' names"),
        ("run(comand=x)", "no tool that 'run' names takes 'comand'"),
    ],
)
def test_a_pattern_that_fits_no_call_of_the_tools_is_found(pattern: str, problem: str | None) -> None:
    found = list(idle_patterns(ApprovalRules(ask=(pattern,)), TOOLS))
    if problem is None:
        assert not found
    else:
        ((key, told, fix),) = found
        assert key == "approval.ask[0]"
        assert problem in told
        assert fix


@pytest.mark.parametrize(
    ("pattern", "is_idle"),
    [
        ("mcp__files__read", False),
        ("MCP__Files__read", False),
        ("mcp__files__read(path=a)", False),
        ("mcp_*", False),
        ("mcp__files__*", False),
        ("*delete*", False),
        ("?cp__files__read", False),
        ("read_old", False),
        ("mcp__other__*", True),
        ("mcp__file", True),
        ("read_new", True),
        ("rum", True),
        ("run(comand=x)", True),
    ],
)
def test_a_pattern_about_what_is_not_there_now_is_not_wrong(pattern: str, is_idle: bool) -> None:
    rules = ApprovalRules(ask=(pattern,))
    assert bool(list(idle_patterns(rules, TOOLS, ["mcp__files__", "read_old"]))) == is_idle


def test_a_star_names_every_tool_also_where_there_is_none() -> None:
    assert not list(idle_patterns(ApprovalRules(deny=("*",)), ()))
    assert list(idle_patterns(ApprovalRules(deny=("*(a=b)",)), ()))


# -- what is asked, and what is answered -----------------------------------------------


def test_a_hash_stands_for_one_call() -> None:
    one = call_hash(ToolCall("1", "run", {"a": 1, "b": 2}))
    assert one == call_hash(ToolCall("1", "run", {"b": 2, "a": 1}))
    others = [
        ToolCall("2", "run", {"a": 1, "b": 2}),
        ToolCall("1", "ran", {"a": 1, "b": 2}),
        ToolCall("1", "run", {"a": "1", "b": 2}),
        ToolCall("1", "run", {"a": 1}),
    ]
    assert len({one, *map(call_hash, others)}) == 5


def test_a_request_holds_a_copy_and_its_key_stands_for_the_call() -> None:
    call = ToolCall("1", "run", {"a": ["x"]})
    request = ApprovalRequest.of(AgentId(1), "a", call, 'ask = "run"')
    call.input["a"].append("y")
    assert request.call.input == {"a": ["x"]}
    assert len(request.key("k")) == 12
    assert request.key("k") != request.key("other")


@pytest.mark.parametrize("decision", [Approved(), Denied(), Denied("why")])
def test_a_decision_comes_out_of_a_journal_as_it_went_in(decision: Approved | Denied) -> None:
    assert decision_from_data(decision_to_data("k", decision)) == decision


def test_a_reason_is_a_text() -> None:
    with pytest.raises(TypeError):
        Denied(5)  # type: ignore[arg-type]
