"""Which tool calls are made, which are refused, and which a person is asked about.

A manifest has three lists of patterns, and a default. Deny wins over ask, ask over allow, and that over
the default. Several rules apply to one call where an agent was started by another: the strictest
verdict is the one that counts.

What is compared are the arguments as the model gave them, and as the tool takes them (defaults filled
in, texts read as the numbers that they stand for); `readings` tells how.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import attrs

from agentpool._core.messages import AgentId, ToolCall, ToolDefinition
from agentpool._core.readings import MOST_FOLDERS, may_fit, must_fit
from agentpool._core.rules import (
    Choice,
    ListOf,
    Problem,
    Report,
    Schema,
    Table,
    Text,
    as_texts,
    choice,
    fix_for_name,
)

# -- patterns of calls ----------------------------------------------------------------

_CALL = re.compile(r"([^\s()=,\"]+)\s*(?:\((.*)\))?", re.DOTALL)
_ARGUMENT = re.compile(r'\s*([^\s=,"()*?]+)\s*=\s*("(?:[^"]|"")*"|[^,"]*)\s*(,|$)', re.DOTALL)
_EXAMPLE = 'Write "tool", or "tool(argument=text*)" such as "run_command(command=git push*)"'


class PatternError(ValueError):
    """A text is no pattern of calls. Its arguments are the problem and the fix."""


@attrs.frozen
class CallPattern:
    """Some calls: those of the tools whose name fits, with arguments that fit.

    Attributes:
      tool: a pattern for the name of the tool.
      arguments: the names of arguments, and a pattern for the value of each.
    """

    tool: str
    arguments: tuple[tuple[str, str], ...] = ()

    def restricts(self, call: CallView) -> bool:
        """Whether a call may be one of these, in any way to read it."""
        return may_fit(self.tool, call.name) and all(
            call.may_have(name, pattern) for name, pattern in self.arguments
        )

    def permits(self, call: CallView) -> bool:
        """Whether a call is one of these, in every way to read it."""
        return must_fit(self.tool, call.name) and all(
            call.must_have(name, pattern) for name, pattern in self.arguments
        )


@functools.lru_cache(maxsize=1024)
def parse_pattern(text: str) -> CallPattern:
    """Read a pattern such as `write_file` or `run_command(command=git push*, cwd="a, b")`.

    Raises:
      PatternError: if it is none.
    """
    found = _CALL.fullmatch(text.strip())
    if found is None:
        raise PatternError(f"{text!r} is no pattern of tool calls", _EXAMPLE)
    tool, inside = found[1], found[2]
    arguments = () if inside is None else tuple(_arguments_in(inside))
    for part in (tool, *(pattern for _, pattern in arguments)):
        if part.count("**/") > MOST_FOLDERS:
            raise PatternError(f"{part!r} holds more than {MOST_FOLDERS} `**/`", "Write * for some of them")
    return CallPattern(tool, arguments)


def _arguments_in(text: str) -> Iterator[tuple[str, str]]:
    if not text.strip():
        raise PatternError("names no argument in its brackets", "Leave the brackets out: that is every call")
    seen: set[str] = set()
    position, more = 0, True
    while more:
        found = _ARGUMENT.match(text, position)
        if found is None:
            rest = text[position:].strip()
            fix = 'Write argument=text; a text with a comma or " stands in ", and a " in it twice'
            raise PatternError(f"{rest!r} is no argument with its text", fix)
        name, pattern = found[1], found[2].rstrip()
        if name in seen:
            raise PatternError(f"names the argument {name!r} twice", "Write two patterns")
        seen.add(name)
        yield name, pattern[1:-1].replace('""', '"') if pattern.startswith('"') else pattern
        position, more = found.end(), bool(found[3])


class PatternRule(Text):
    """A pattern of tool calls."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the pattern as it is written."""
        before = len(report.problems)
        super().read(value, key, report)
        if len(report.problems) == before:
            try:
                parse_pattern(value)
            except PatternError as error:
                return report.add(key, *error.args)
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of a pattern."""
        return {"type": "string", "pattern": r"^\s*[^\s()=,\"]+\s*(\([\s\S]*\))?\s*$"}


# -- the rules of a manifest -----------------------------------------------------------

Verdict: TypeAlias = Literal["allow", "ask", "deny"]
_STRICTEST_FIRST: tuple[Verdict, ...] = ("deny", "ask", "allow")


def _patterns(doc: str) -> ListOf:
    return ListOf(doc, item=PatternRule(blank=False, one_line=True))


@attrs.frozen(kw_only=True)
class ApprovalRules(Table):
    """Which tool calls of an agent are made, refused, or put to a person.

    A pattern is the name of a tool, such as `write_file` or `mcp_*`, or also tells of arguments, as
    `run_command(command=git push*)` does: `*` is any text, `?` one character, `**/` any number of
    folders.
    """

    allow: tuple[str, ...] = attrs.field(
        default=(), converter=as_texts, validator=_patterns("Calls that are made, where `default` is another")
    )
    ask: tuple[str, ...] = attrs.field(
        default=(), converter=as_texts, validator=_patterns("Calls that a person is asked about")
    )
    deny: tuple[str, ...] = attrs.field(
        default=(), converter=as_texts, validator=_patterns("Calls that are refused, whatever else is said")
    )
    default: Verdict = attrs.field(
        default="allow",
        validator=Choice("What becomes of a call that no pattern names", values=choice(*get_args(Verdict))),
    )

    def __bool__(self) -> bool:
        """Whether some call is not simply made."""
        return bool(self.ask or self.deny or self.default != "allow")

    @classmethod
    def conflicts(cls, values: Any) -> Iterator[Problem]:
        """Yield what never has an effect, and would look like a limit or a permission."""
        if values.allow and values.default == "allow":
            problem = "has no effect: calls that no pattern names are made as well"
            yield Problem("allow", problem, 'Give default = "ask" or "deny", or remove it')
        stricter: dict[str, str] = {}
        for name in _STRICTEST_FIRST:
            for n, pattern in enumerate(getattr(values, name)):
                if pattern in stricter:
                    problem = f"has no effect: {stricter[pattern]} holds the same pattern"
                    yield Problem(f"{name}[{n}]", problem, "Remove one")
                elif isinstance(pattern, str):
                    stricter[pattern] = name


# -- a call, as rules see it -----------------------------------------------------------


@attrs.frozen
class CallView:
    """A call as it is compared.

    Attributes:
      name: the tool.
      given: the arguments as the model gave them.
      taken: the arguments as the tool takes them, with all defaults; None if it does not tell.
      schema: of the arguments, for a tool that does not tell.
      bases: the directory that relative paths refer to, by all of its names.
    """

    name: str
    given: Mapping[str, Any]
    taken: Mapping[str, Any] | None = None
    schema: Mapping[str, Any] = attrs.field(factory=dict)
    bases: tuple[str, ...] = ()

    def may_have(self, name: str, pattern: str) -> bool:
        """Whether an argument fits in any reading. One that cannot be known does."""
        values = self._values(name)
        if not values:
            return self.taken is None
        return any(may_fit(pattern, value, self.bases) for value in values)

    def must_have(self, name: str, pattern: str) -> bool:
        """Whether an argument is there and fits in every reading."""
        values = self._values(name)
        return bool(values) and all(must_fit(pattern, value, self.bases) for value in values)

    def _values(self, name: str) -> list[Any]:
        values = [each[name] for each in (self.given, self.taken or {}) if name in each]
        if values or self.taken is not None:
            return values
        described = _properties(self.schema).get(name)
        return [described["default"]] if isinstance(described, Mapping) and "default" in described else []


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


@attrs.frozen
class Ruling:
    """What the rules say of a call.

    Attributes:
      rule: the one that decided, as it stands in a manifest.
    """

    verdict: Verdict
    rule: str


def ruling_on(call: CallView, rules: Iterable[ApprovalRules]) -> Ruling:
    """Return the strictest thing that any of these rules says of a call; `allow` without any."""
    rulings = [_ruling(call, each) for each in rules]
    return min(
        rulings, key=lambda ruling: _STRICTEST_FIRST.index(ruling.verdict), default=Ruling("allow", "")
    )


def _ruling(call: CallView, rules: ApprovalRules) -> Ruling:
    for verdict in _STRICTEST_FIRST:
        patterns: Sequence[str] = getattr(rules, verdict)
        for text in patterns:
            pattern = parse_pattern(text)
            if pattern.permits(call) if verdict == "allow" else pattern.restricts(call):
                return Ruling(verdict, f"{verdict} = {json.dumps(text, ensure_ascii=False)}")
    return Ruling(rules.default, f'default = "{rules.default}"')


def idle_patterns(
    rules: ApprovalRules, tools: Sequence[ToolDefinition], missing: Iterable[str] = ()
) -> Iterator[tuple[str, str, str]]:
    """Yield the key, the problem and the fix of each pattern that fits no call of these tools.

    A `*` alone names every tool, also where there is none.

    Args:
      rules: whose patterns.
      tools: what there is.
      missing: the names of tools that are not there now, or the beginnings of such names. A rule about
        one of them is not wrong: who took it away because of this would have no rule when the tool is
        back.
    """
    missing = tuple(missing)
    for verdict in _STRICTEST_FIRST:
        for n, text in enumerate(getattr(rules, verdict)):
            pattern = parse_pattern(text)
            problem = _problem_of(pattern, tools)
            if problem is not None and not any(_may_name(pattern.tool, each) for each in missing):
                yield (f"approval.{verdict}[{n}]", *problem)


def _may_name(pattern: str, beginning: str) -> bool:
    """Whether a pattern may fit a name that begins so; capitals make no difference."""
    fixed, *rest = re.split(r"[*?]", pattern.casefold(), maxsplit=1)
    beginning = beginning.casefold()
    return fixed.startswith(beginning) or (bool(rest) and beginning.startswith(fixed))


def _problem_of(pattern: CallPattern, tools: Sequence[ToolDefinition]) -> tuple[str, str] | None:
    named = [each for each in tools if may_fit(pattern.tool, each.name)]
    if not named and pattern != CallPattern("*"):
        names = [each.name for each in tools]
        problem = f"the agent has no tool that {pattern.tool!r} names: it says nothing"
        return problem, fix_for_name(pattern.tool, names)
    for name, _ in pattern.arguments:
        if not any(_takes(each, name) for each in named):
            known = [key for each in named for key in _properties(each.input_schema)]
            return f"no tool that {pattern.tool!r} names takes {name!r}", fix_for_name(name, known)
    return None


def _takes(each: ToolDefinition, name: str) -> bool:
    """Whether a tool may be given an argument; one that says nothing of others takes them."""
    return (
        name in _properties(each.input_schema) or each.input_schema.get("additionalProperties") is not False
    )


# -- what is asked, and what is answered -----------------------------------------------


def call_hash(call: ToolCall) -> str:
    """Return what tells a call from every other: 64 digits over its id, its tool and its arguments.

    A number and the text of it differ; the order of keys does not count.
    """
    data = [call.id, call.name, call.input]
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@attrs.frozen
class Question:
    """What an MCP server wants to know from a person, in the middle of a call.

    Attributes:
      server: whose question it is; a person should see it, since nobody else vouches for the rest.
      message: the question, in the words of the server.
      schema: the JSON schema of a form that is to be filled in, an object of plain values; None for none.
      url: a page that the person is to open; empty for none.
    """

    server: str
    message: str
    schema: Mapping[str, Any] | None = None
    url: str = ""


@attrs.frozen
class ApprovalRequest:
    """A tool call that a person is asked about.

    Attributes:
      agent_id, agent_name: whose model wishes for the call.
      call: its id, the tool's name and the arguments as the model gave them; a copy, so that what is
        called stays what was asked about.
      taken: the arguments as the tool takes them, checked and with all defaults; None if it does not
        tell.
      rule: why it is asked, as it stands in a manifest, such as `ask = "write_file"`.
      hash: stands for this exact call, and no other.
      question: what the call's server wants to know, if the call is under way; None if it is to be
        approved.
    """

    agent_id: AgentId
    agent_name: str
    call: ToolCall
    rule: str
    hash: str
    taken: Mapping[str, Any] | None = None
    question: Question | None = None

    @classmethod
    def of(
        cls,
        agent_id: AgentId,
        agent_name: str,
        call: ToolCall,
        rule: str,
        taken: Mapping[str, Any] | None = None,
    ) -> ApprovalRequest:
        """Return the request for a call."""
        copied = ToolCall(call.id, call.name, copy.deepcopy(dict(call.input)))
        return cls(agent_id, agent_name, copied, rule, call_hash(call), copy.deepcopy(taken))

    def asking(self, question: Question) -> ApprovalRequest:
        """Return the request that puts a question about the call, which is under way."""
        return attrs.evolve(self, question=question)

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What a person should see: the arguments with which the tool works, else those of the model."""
        if self.taken is None:
            return self.call.input
        given_first = {name: self.taken[name] for name in self.call.input if name in self.taken}
        return {**given_first, **self.taken}

    def key(self, call_key: str) -> str:
        """Return the id under which it is decided: it stands for this call of this run, and its arguments.

        Args:
          call_key: names the call in all the world.
        """
        return hashlib.sha256(f"{call_key} {self.hash}".encode()).hexdigest()[:12]


@attrs.frozen
class Approved:
    """The call may be made, once."""


@attrs.frozen
class Denied:
    """The call is not made.

    Attributes:
      reason: what the model is told; empty for no reason.
    """

    reason: str = attrs.field(default="", validator=attrs.validators.instance_of(str))


def _is_mapping(_: object, __: object, value: object) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"content must be a mapping of names to values, not {value!r}")


@attrs.frozen
class Answered:
    """The answer to the `question` of a request.

    Attributes:
      content: the form, filled in.
    """

    content: Mapping[str, Any] = attrs.field(validator=_is_mapping)


Decision: TypeAlias = Approved | Denied | Answered
"""What an approver answers."""


def decision_to_data(key: str, decision: Decision) -> dict[str, Any]:
    """Return a decision as a journal keeps it, under the id of what was asked."""
    reason = decision.reason if isinstance(decision, Denied) else ""
    return {"hash": key, "approved": isinstance(decision, Approved), "reason": reason}


def decision_from_data(data: Mapping[str, Any]) -> Decision:
    """Return the decision of which `decision_to_data` made this."""
    return Approved() if data["approved"] else Denied(data["reason"])
