"""What a server refused is learned, for the model that it refused it for.

A model that takes no temperature says so in a 400. The request is made once more without it, and
later ones do without it from the start. Nothing is judged by the name of a host or a model. What
is left out is a setting that we send; never messages, tools, or the user's own `options`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import attrs

from agentpool.drivers._refusals import Refusal

Trait: TypeAlias = Literal[
    "system_in_user",
    "short_ids",
    "user_joins_tool",
    "plain_history",
    "no_strict",
    "no_cache_points",
    "plain_thinking",
    "old_schemas",
    "no_schema_with_tools",
    "unsigned_calls",
    "plain_results",
    "budget_thinking",
    "adaptive_thinking",
    "no_thoughts",
    "user_last",
    "tools_for_calls",
]
"""How a model wants its conversation:

* `system_in_user`: it knows no system role; the system prompt stands before the first user message
* `short_ids`: ids of calls have nine letters and digits
* `user_joins_tool`: what is said right after a tool's result has to stand inside of it
* `plain_history`: messages may hold nothing of the provider's own
* `no_strict`: it takes no `strict` beside a schema
* `no_cache_points`: it takes no points at which to cache
* `plain_thinking`: it thinks or does not, and takes no effort
* `old_schemas`: it takes the subset of OpenAPI for schemas, and no JSON schema
* `no_schema_with_tools`: it takes no schema for its answer where it is offered tools
* `unsigned_calls`: calls that another model made have to say that nobody signed the thoughts before
  them
* `plain_results`: files of a result stand behind it, not in it
* `budget_thinking`: how much it thinks is said as a budget in tokens
* `adaptive_thinking`: how much it thinks is left to it
* `no_thoughts`: what was thought in earlier turns does not go back, signed or encrypted as it may be
* `user_last`: it does not go on from its own words, a conversation ends with the user's
* `tools_for_calls`: calls may be in its conversation only where it is offered tools
"""


@attrs.frozen
class Lessons:
    """What is known of one model.

    Names of parameters within tables are written with dots: `options.num_ctx`.

    Attributes:
      dropped: parameters that are left out.
      renamed: parameters that have another name there.
      capped: the most that a parameter may be.
      efforts: the efforts that it knows, by the parameter that names one.
      traits: how its conversation has to be.
    """

    dropped: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = attrs.field(factory=dict)
    capped: Mapping[str, int] = attrs.field(factory=dict)
    efforts: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    traits: frozenset[Trait] = frozenset()

    def applied(self, body: dict[str, Any], own: frozenset[str]) -> dict[str, Any]:
        """Change a request's body by what was learned, and return it.

        Args:
          body: the body; the tables within it are changed, too.
          own: names that the user gave by hand, which stay as they are.
        """
        for name, most in self.capped.items():
            table, last = _place(body, name)
            if isinstance(table.get(last), int) and not is_own(name, own):
                table[last] = min(table[last], most)
        for name, known in self.efforts.items():
            table, last = _place(body, name)
            if table.get(last) in EFFORTS and not is_own(name, own):
                table[last] = _nearest(table[last], known)
        for name, other in self.renamed.items():
            if name in body and not is_own(name, own):
                body[other] = body.pop(name)
        for name in self.dropped:
            if not is_own(name, own):
                table, last = _place(body, name)
                table.pop(last, None)
        return body


NO_LESSONS = Lessons()


def names_in(options: Mapping[str, Any], within: str = "") -> frozenset[str]:
    """Return the names of all that is in a table; in tables within it with dots: `options.num_ctx`."""
    names: set[str] = set()
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            names |= names_in(value, f"{within}{name}.")
        else:
            names.add(within + name)
    return frozenset(names)


def is_own(name: str, own: frozenset[str]) -> bool:
    """Whether a user gave this parameter by hand, or something within it."""
    return name in own or any(given.startswith(f"{name}.") for given in own)


def _place(body: Mapping[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Return the table that a parameter stands in, an empty one if there is none, and its name there."""
    table: Any = body
    *path, last = name.split(".")
    for part in path:
        table = table.get(part) if isinstance(table, dict) else None
    return (table if isinstance(table, dict) else {}), last


def _has(body: Mapping[str, Any], name: str) -> bool:
    table, last = _place(body, name)
    return last in table


def _last(name: str) -> str:
    return name.rpartition(".")[2]


_NOT_TAKEN = (
    r"not supported|unsupported|does ?n[o']t support|not permitted|not allowed|unknown|unrecogni[sz]ed"
    r"|unexpected|extra (?:inputs|fields)|extra_forbidden|not known|deprecated|no longer|not available"
    r"|not accepted|does ?n[o']t accept|cannot be used|can ?not be set|not implemented|not enabled|no such"
    r"|invalid (?:argument|field|parameter|name)|unable to|not valid|must not be|only the default|removed"
    r"|cannot find field|not recogni[sz]ed|is not a valid|incompatible|mutually exclusive|ignored"
    r"|is invalid|only works in|is only enabled|must be verified|too many states|not compatible"
    r"|may only be set|cannot both be|grammar is too large|too complex for compilation"
    r"|is unavailable|enabled only|only \S+ is allowed|cannot be combined|must be '?json_object"
    r"|invalid schema for response_format|may not be enabled|input tag 'disabled'"
    r"|input should be \W?(?:none|minimal|low|medium|high)\b"
)

_INSTEAD = r"use ['\"`]?(\w+)['\"`]? instead"
_NUMBER = r"(\d[\d,_]*)"
_MOST = (
    rf"max(?:_completion|_output)?_tokens['\"`]?:? {_NUMBER} ?> ?(?P<most>\d[\d,_]*)",
    r"range of .?max_tokens.? (?:is|should be) \[\d+, ?(?P<most>\d+)",
    r"maximum tokens you requested exceeds? the model limit of (?P<most>\d[\d,_]*)",
    r"at most (?P<most>\d[\d,_]*) (?:completion|output|new)?\s*tokens",
    (
        r"max(?:_completion|_output)?_?tokens.{0,120}(?:less than or equal to|<=|maximum (?:value )?(?:is|of)"
        r"|at most|no(?:t)? (?:greater|more) than|between \d+ and|range .{0,10}\[?\d+, ?)\W{0,3}"
        r"(?P<most>\d[\d,_]*)"
    ),
    (r"max_?output_?tokens.{0,80}range is from \d+.{0,14} to (?P<below>\d+) \(exclusive"),
)

_TRAITS: tuple[tuple[Trait, str], ...] = (
    (
        "system_in_user",
        (
            r"system role|role\W{0,4}system\W{0,3}(?:is |was )?(?:not|un)"
            r"|developer instruction is not enabled"
            r"|unexpected role\W{0,3}system|does not support\W{0,3}(?:the )?\W?(?:system|developer)\W"
            r"|system (?:message|prompt|instruction)s? (?:is|are) not"
            r"|only user.{0,40}roles? (?:are|is) (?:supported|allowed)"
            r"|roles? must be (?:one of )?\W{0,3}user"
            r"|\brole: input should be \W?user\W{1,2}or\W{1,2}assistant"
        ),
    ),
    (
        "short_ids",
        r"tool[ _]?call[ _]?id.{0,120}(?:length of 9|\{9\}|9 (?:alphanumeric )?characters)",
    ),
    (
        "user_joins_tool",
        (
            r"unexpected role\W{0,3}user\W{0,3}after role\W{0,3}tool"
            r"|after .{0,12}tool.{0,30}(?:must|should) (?:be|come)"
        ),
    ),
    (
        "plain_history",
        (
            r"(?:reasoning_content|reasoning_details|extra_content|reasoning(?!\.))\W.{0,60}"
            r"(?:not permitted|not allowed|not supported|unknown|unrecogni[sz]ed|unexpected|forbidden)"
            r"|(?:unknown|unrecogni[sz]ed|unexpected|extra).{0,40}"
            r"\b(?:reasoning_content|reasoning_details|extra_content)"
        ),
    ),
    (
        "adaptive_thinking",  # before the other, which its words could be taken for
        r"thinking\.type[.\w]*\W{0,4}enabled.{0,40}not supported|use .{0,4}thinking\.type[.\w]*.{0,6}adaptive"
        r"|budget_tokens.{0,60}(?:not supported|not permitted|deprecated|removed)",
    ),
    (
        "budget_thinking",
        r"adaptive.{0,60}(?:not supported|not available|unknown|does not support|invalid)"
        r"|(?:not support|unsupported|unknown|invalid).{0,40}adaptive"
        r"|input tag 'adaptive'",
    ),
    ("user_last", r"assistant message prefill|must end with a user message"),
    (
        "tools_for_calls",
        r"toolconfig field must be defined|(?:tool_use|tool_result)\W.{0,30}blocks must define \W?tools"
        r"|tool calling without .?tools",
    ),
    (
        "no_thoughts",
        r"invalid \W?signature|thinking\.signature\W.{0,20}(?:required|invalid)"
        r"|redacted_thinking\W{1,3}blocks .{0,60}cannot be modified"
        r"|encrypted content .{0,200}(?:could not|cannot) be (?:verified|decrypted)|invalid_encrypted_content"
        r"|\breasoning\W{1,3}was provided without|cannot determine type of \W?item"
        r"|items are not persisted when|encrypted_content\W{1,3}was not issued"
        r"|could not decrypt .{0,20}encrypted_content"
        r"|parameter\W{1,3}input\[\d+\]\.(?:status|summary|encrypted_content|phase)"
        r"|parameter\W{1,3}input\[\d+\]\.content\[\d+\]\.(?:annotations|logprobs)"
        r"|final position cannot contain \W?thinking",
    ),
    (
        "no_cache_points",
        r"cache_control.{0,60}(?:not|extra|unknown)|(?:unknown|extra).{0,40}cache_control"
        r"|maximum of \d+ blocks with cache_control",
    ),
    (
        "plain_thinking",
        (r"\bthink value\b.{0,40}not supported|invalid think value"),
    ),
    (
        "old_schemas",
        (
            r"(?:parameters|response)_?json_?schema.{0,120}"
            r"(?:cannot find field|unknown|not supported|unrecogni[sz]ed|invalid)"
            r"|(?:unknown|unrecogni[sz]ed|invalid).{0,60}(?:parameters|response)_?json_?schema"
        ),
    ),
    ("unsigned_calls", (r"missing a thought_?signature")),
    (
        "plain_results",
        (
            r"unknown name \W?parts\W.{0,60}function_?response"
            r"|function_?response\W{0,3}parts\W{0,3}.{0,20}not (?:supported|enabled)"
            r"|multi-?modal function response.{0,60}not (?:supported|enabled)"
        ),
    ),
    (
        "no_schema_with_tools",
        (
            r"(?:function calling|tool use|tools?\b).{0,40}(?:response mime type|json mode|response_?schema)"
            r".{0,60}(?:unsupported|not supported)"
            r"|json_?(?:mode|schema|object).{0,12}cannot be combined with .?(?:tool|function)"
            r"|json mode cannot be combined with .?(?:tool|function)"
            r"|tools\W{0,3} (?:is|are) incompatible with \W?response_format"
        ),
    ),
    (
        "no_strict",
        r"\bstrict\b.{0,60}(?:not|unknown|unexpected|extra)|(?:unknown|unexpected).{0,60}\bstrict\b",
    ),
)


def learned(
    lessons: Lessons, refusal: Refusal, body: Mapping[str, Any], droppable: frozenset[str]
) -> Lessons | None:
    """Return what a refusal teaches on top of what is known; None if it teaches nothing new.

    Args:
      lessons: what is known of the model.
      refusal: what the server said.
      body: what was sent.
      droppable: the parameters that may be left out.
    """
    if refusal.status not in (400, 404, 405, 422, 500, 501):
        return None
    said = f"{refusal.code} {refusal.text}".lower()
    if refusal.status in (404, 405, 500, 501) and not re.search(_NOT_TAKEN, said):
        return None
    more = _trait(lessons, said, body) or _cap(lessons, said, body)
    if more is not None or _most(said):
        return more
    return (
        _rename(lessons, said, refusal, body)
        or _effort(lessons, said, refusal, body, droppable)
        or _drop(lessons, said, refusal, body, droppable)
    )


def _trait(lessons: Lessons, said: str, body: Mapping[str, Any]) -> Lessons | None:
    for trait, pattern in _TRAITS:
        if trait not in lessons.traits and re.search(pattern, said):
            return attrs.evolve(lessons, traits=lessons.traits | {trait})
    return None


_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "generationConfig.maxOutputTokens")


def _cap(lessons: Lessons, said: str, body: Mapping[str, Any]) -> Lessons | None:
    name = next((name for name in _LIMITS if _has(body, name)), None)
    if name is None:
        return None
    name = {other: own for own, other in lessons.renamed.items()}.get(name, name)
    most = _most(said)
    if 0 < most < lessons.capped.get(name, _sent(lessons, name, body)):
        return attrs.evolve(lessons, capped={**lessons.capped, name: most})
    return None


def _most(said: str) -> int:
    """Return the most that an answer may have, as a server tells it; 0 if it does not."""
    match = next(filter(None, (re.search(pattern, said) for pattern in _MOST)), None)
    return 0 if match is None else _number(match)


def limit_of(body: Mapping[str, Any], own: frozenset[str]) -> int | None:
    """Return how long the answer may be that a body asks for; None if that is the user's own wish."""
    name = next((name for name in _LIMITS if _has(body, name)), None)
    return None if name is None or is_own(name, own) else _value(body, name)


def shorten(body: dict[str, Any], longest: int) -> None:
    """Ask for an answer of at most `longest` tokens, where a body asks for a longer one."""
    for name in _LIMITS:
        if _value(body, name) > longest:
            table, last = _place(body, name)
            table[last] = longest


def _value(body: Mapping[str, Any], name: str) -> int:
    table, last = _place(body, name)
    value = table.get(last)
    return value if isinstance(value, int) else 0


def _number(match: re.Match[str]) -> int:
    below = match.groupdict().get("below")
    return int(below) - 1 if below else int(re.sub(r"[,_]", "", match["most"]))


def _sent(lessons: Lessons, name: str, body: Mapping[str, Any]) -> int:
    return _value(body, lessons.renamed.get(name, name))


_RENAMES = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


def _rename(lessons: Lessons, said: str, refusal: Refusal, body: Mapping[str, Any]) -> Lessons | None:
    for name, other in _RENAMES.items():
        if name not in body or name in lessons.renamed or name in lessons.renamed.values():
            continue
        named = refusal.parameter == name or re.search(rf"\b{name}\b", said)
        instead = re.search(_INSTEAD, said)
        if named and ((instead is not None and instead[1] == other) or re.search(_NOT_TAKEN, said)):
            return attrs.evolve(lessons, renamed={**lessons.renamed, name: other})
    return None


EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""How much a model may be asked to think, from little to much."""

_EFFORT_PLACES = ("reasoning_effort", "reasoning.effort", "output_config.effort")
_TAKES_INSTEAD = r"(?:supported values are|must be one of|should be|expected one of|one of)\W(.{0,120})"


def _effort(
    lessons: Lessons, said: str, refusal: Refusal, body: Mapping[str, Any], droppable: frozenset[str]
) -> Lessons | None:
    """Learn which efforts a model knows, where it names them in the place of the one that it was given."""
    name = next((name for name in _EFFORT_PLACES if name in droppable and _has(body, name)), None)
    known = re.search(_TAKES_INSTEAD, said)
    if name is None or known is None or "effort" not in said + refusal.parameter or name in lessons.efforts:
        return None
    table, last = _place(body, name)
    efforts = tuple(effort for effort in EFFORTS if re.search(rf"\b{effort}\b", known[1]))
    if table[last] in efforts or table[last] not in EFFORTS or not efforts:
        return None
    if efforts == ("none",):
        return attrs.evolve(lessons, dropped=lessons.dropped | {name})
    return attrs.evolve(lessons, efforts={**lessons.efforts, name: efforts})


def _nearest(effort: str, known: tuple[str, ...]) -> str:
    """Return the effort nearest to a wished one, of two the greater; who wants thoughts is given some."""
    place = EFFORTS.index
    choices = [other for other in known if other != "none"] if effort != "none" else known
    return min(choices, key=lambda other: (abs(place(other) - place(effort)), -place(other)))


def _drop(
    lessons: Lessons, said: str, refusal: Refusal, body: Mapping[str, Any], droppable: frozenset[str]
) -> Lessons | None:
    if not re.search(_NOT_TAKEN, said):
        return None
    candidates = frozenset(name for name in droppable - lessons.dropped if _has(body, name))
    named = _by_parameter(refusal.parameter, droppable) or _first_named(said, droppable)
    if named is None:
        named = next(
            (name for name, words in _ALIASES if name in candidates and re.search(words, said)), None
        )
    return attrs.evolve(lessons, dropped=lessons.dropped | {named}) if named in candidates else None


def _by_parameter(parameter: str, names: frozenset[str]) -> str | None:
    """Return the name that a server gives by its place in the body: `options.stop`, `stop[0]`."""
    parts = re.split(r"[.\[]", parameter)
    places = [parameter, *(".".join(parts[:end]) for end in range(len(parts), 0, -1))]
    return next((name for name in places if name in names or name in _RENAMES), None)


def _first_named(said: str, names: frozenset[str]) -> str | None:
    """Return the name that comes first: servers say what they refuse, and then what they would take.

    Of a table and what is in it, `text` and `text.format`, the closer one.
    """
    places = {
        name: (match.start(), -len(name))
        for name in names
        if (match := re.search(_named(name.lower()), said))
    }
    return min(places, key=places.__getitem__, default=None)


def _named(name: str) -> str:
    return rf"(?<![a-z0-9_])(?:{re.escape(name)}|{re.escape(_last(name))})(?![a-z0-9_])"


_ALIASES = (
    ("response_format", r"json_schema|structured output|json mode|guided"),
    ("parallel_tool_calls", r"parallel (?:tool|function)"),
    ("tool_choice", r"tool choice|forced (?:tool|function)"),
    ("reasoning_effort", r"reasoning effort|\bthinking\b|\breasoning\b"),
    ("thinking", r"thinking|extended thinking"),
    ("output_config.format", r"grammar is too large|too complex for compilation"),
    ("include", r"encrypted content is not supported"),
    ("stop", r"stop (?:words|sequences?|strings?)"),
    ("temperature", r"sampling parameters?"),
    ("think", r"support thinking|thinking is not"),
    ("generationConfig.thinkingConfig.thinkingLevel", r"thinking[ _]level"),
    ("generationConfig.thinkingConfig.thinkingBudget", r"thinking[ _]budget|\bbudget -?\d+ is invalid"),
    ("generationConfig.thinkingConfig", r"thinking"),
    ("generationConfig.responseJsonSchema", r"too many states"),
    ("generationConfig.responseMimeType", r"json mode|response[ _]mime[ _]type|response[ _]schema"),
    ("generationConfig.stopSequences", r"stop[ _]sequences?"),
)
