"""What servers say when they do not answer: their words, and the error that these stand for.

The table `RULES` is data: the first rule that fits decides. To teach it the words of another
server, add them to the row of their kind, and the server's answer to the tests' corpus.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

import attrs

from agentpool._core.errors import (
    ContentRefusedError,
    ContextTooLongError,
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    OverloadedError,
    RateLimitedError,
    RequestRejectedError,
)

LONGEST_TEXT = 2000
"""So many characters of a server's words are kept."""


@attrs.frozen
class Refusal:
    """What a server said when it did not answer.

    Attributes:
      status: the HTTP status; None if it came inside of a stream.
      text: the server's words.
      code: its own names for what is wrong, such as `context_length_exceeded`.
      parameter: the name of the parameter that it does not like, if it says so.
      retry_after: seconds to wait, if it said so.
      resets_in: seconds until a quota that is used up is whole again, which it tells in passing.
      begun: whether a part of an answer had come before, which may have to be paid.
    """

    status: int | None
    text: str
    code: str = ""
    parameter: str = ""
    retry_after: float | None = None
    resets_in: float | None = None
    begun: bool = False


# -- words ----------------------------------------------------------------------------


def refusal_of(
    body: object, status: int | None, headers: Mapping[str, str] | None = None, *, begun: bool = False
) -> Refusal:
    """Read the body of an error, whatever a server made of it.

    Args:
      body: JSON data, or text that was none.
      status: the HTTP status; None inside of a stream.
      headers: of the answer, names in lower case.
      begun: whether a part of an answer had come before.
    """
    inner = _inner(body)
    text, code, parameter = words_of(inner)
    if not text:
        text = "an error without words" if status is None else f"HTTP status {status} without words"
    heads = (headers or {}, _headers_in(inner))
    hints = (retry_after_seconds(heads[0]), _delay_in(inner), retry_after_seconds(heads[1]))
    hint = next(filter(None, hints), 0.0 if 0.0 in hints else None)
    resets = next((wait for head in heads if (wait := reset_seconds(head)) is not None), None)
    return Refusal(
        _status(status, inner),
        text[:LONGEST_TEXT],
        code,
        parameter,
        hint,
        resets,
        begun,
    )


def _inner(body: object) -> object:
    """Return the part of a body that says what is wrong; several layers may be around it."""
    for _ in range(4):
        if isinstance(body, list) and body:
            body = body[0]
        elif isinstance(body, dict) and body.get("error") and not isinstance(body["error"], bool):
            inner = body["error"]
            if isinstance(inner, str):
                return {**body, "message": inner}
            body = inner
        elif isinstance(body, dict) and isinstance(body.get("errors"), list) and body["errors"]:
            body = body["errors"]
        elif isinstance(body, dict) and isinstance(body.get("base_resp"), dict):
            body = body["base_resp"]
        else:
            break
    return body


def words_of(inner: object) -> tuple[str, str, str]:
    """Return the words of an error, the server's names for it, and the parameter that it names."""
    if isinstance(inner, str):
        return _told_of_text(inner), "", ""
    if not isinstance(inner, dict):
        return ("" if inner is None else str(inner)), "", ""
    names = ("code", "type", "status", "status_code", "error_type", "__type", "error_code", "reason")
    codes = [str(inner[name]) for name in names if isinstance(inner.get(name), str | int) and inner[name]]
    nested = inner.get("innererror")
    if isinstance(nested, dict) and nested.get("code"):
        codes.append(str(nested["code"]))
    raw = _mapping(inner.get("metadata")).get("raw")
    places = ("message", "detail", "msg", "error_description", "error_msg", "status_msg")
    text, parameter = _said(next((inner[name] for name in places if inner.get(name)), None))
    if isinstance(raw, str) and raw and raw not in text:
        text = f"{text} ({raw})" if text else raw  # a router hides the provider's words there
    param = inner.get("param")
    if isinstance(param, str) and " " in param.strip():
        text = f"{text}: {param}" if text else param  # some servers say there what is wrong
    elif isinstance(param, str):
        parameter = param
    return text, " ".join(dict.fromkeys(codes)), parameter


def _said(said: Any) -> tuple[str, str]:
    """Return a message as text, and the parameter that it names; validators give lists of problems."""
    if isinstance(said, str):
        if said.startswith("{"):  # one server's error inside of another's message
            inside = _json(said)
            if isinstance(inside, dict):
                text, _, parameter = words_of(_inner(inside))
                return (text or said), parameter
        return said, ""
    if isinstance(said, dict):
        text, _, parameter = words_of(_inner(said))
        return text or json.dumps(said, default=str), parameter
    if isinstance(said, list):
        problems = [_problem(item) for item in said[:5]]
        texts = "; ".join(text for text, _ in problems)
        return texts, next((parameter for _, parameter in problems if parameter), "")
    return ("" if said is None else str(said)), ""


def _problem(item: Any) -> tuple[str, str]:
    if not isinstance(item, dict):
        return str(item), ""
    place = item.get("loc")
    parts = [str(part) for part in place if part != "body"] if isinstance(place, list | tuple) else []
    text = str(item.get("msg") or item.get("message") or item)
    return (f"{'.'.join(parts)}: {text}" if parts else text), (".".join(parts) if parts else "")


def _told_of_text(text: str) -> str:
    """Return a body that is no JSON in a few words; of a web page its title."""
    text = text.strip()
    if not is_page(text):
        return text
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
    name = " ".join(title[1].split())[:200] if title else ""
    return f"a web page (HTML){f' with the title {name!r}' if name else ''}"


def is_page(text: str) -> bool:
    """Whether a text is a web page."""
    return text.lstrip()[:15].lower().startswith(("<!doctype html", "<html", "<head"))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _status(status: int | None, inner: object) -> int | None:
    """Return the status that counts: a gateway's 200, or a stream, hides the one in its words."""
    if status is not None and status >= 300:
        return status
    found = _mapping(inner)
    for name in ("code", "status", "status_code", "http_status", "StatusCode"):
        value = found.get(name)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return None


# -- waits -----------------------------------------------------------------------------


def retry_after_seconds(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Return how long a server asks us to wait, or None if it does not say.

    Args:
      headers: of its answer; names in lower case.
      now: seconds since 1970, for a wait that is given as a date; left out, the clock is read.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    return _wait(headers.get("retry-after"), now)


_RESET = re.compile(r"rate-?limit-(?:.+-)?reset\b")


def reset_seconds(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Return when a quota is whole again that is used up, as `x-ratelimit-reset-tokens` and its like say.

    Several quotas may be told of; those of which something remains do not count, unless it is the only one.

    Args:
      headers: of an answer; names in lower case.
      now: seconds since 1970, for a moment; left out, the clock is read.
    """
    told = {name: _wait(value, now) for name, value in headers.items() if _RESET.search(name)}
    waits = {name: wait for name, wait in told.items() if wait is not None}
    empty = [wait for name, wait in waits.items() if _number(headers.get(_remaining(name))) == 0]
    return max(empty, default=None) if empty or len(waits) != 1 else next(iter(waits.values()))


def _remaining(name: str) -> str:
    return name.replace("reset", "remaining")


def _headers_in(inner: object) -> Mapping[str, str]:
    """Return the headers of another server that a router puts into the body of its error."""
    found = _mapping(_mapping(_mapping(inner).get("metadata")).get("headers"))
    return {str(name).lower(): str(value) for name, value in found.items()}


_YEARS = 1e9  # seconds: what is longer is a moment, seconds since 1970 ...
_MILLENNIA = 1e12  # ... or milliseconds


def _wait(text: str | None, now: float | None) -> float | None:
    """Read a wait: seconds, `1m30s`, or a moment as a date or as seconds or milliseconds since 1970."""
    if text is None:
        return None
    seconds = _number(text)
    if seconds is None:
        seconds = _duration(text)
    if seconds is not None and seconds < _YEARS:
        return seconds
    moment = _moment(text) if seconds is None else seconds / 1000 if seconds >= _MILLENNIA else seconds
    return None if moment is None else max(0.0, moment - (time.time() if now is None else now))


def _moment(text: str) -> float | None:
    """Read a date as HTTP writes it, or as ISO 8601 does; return seconds since 1970."""
    from datetime import UTC, datetime  # mostly a wait is a number
    from email.utils import parsedate_to_datetime

    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            date = read(text.strip())
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (TypeError, ValueError, OverflowError):
            continue
    return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None  # `nan` is neither


_ONE = (
    r"\d+(?:\.\d+)?\s*"
    r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
)
_SPAN = rf"{_ONE}(?:(?:\s*,|\s+and)?\s*{_ONE})*"
_IN_WORDS = rf"(?:try again|retry|come back|wait|available|reset\w*)\D{{0,30}}?(?<![-\d.])({_SPAN})"
_PARTS = r"(\d+(?:\.\d+)?)\s*(ms|mil|s|m|h|d)"
_UNITS = {"ms": 0.001, "mil": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _delay_in(inner: object) -> float | None:
    """Return the wait that the body of an error gives: Google's `RetryInfo`, or a number in its words."""
    found = _mapping(inner)
    details = found.get("details")
    for detail in details if isinstance(details, list) else ():
        of_quota = _mapping(_mapping(detail).get("metadata")).get("quotaResetDelay")
        delay = _duration(_mapping(detail).get("retryDelay") or of_quota)
        if delay is not None:
            return delay
    for name in ("retry_after", "retry_after_seconds"):
        value = found.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _number(str(value))
    match = re.search(_IN_WORDS, words_of(inner)[0].lower())
    return None if match is None else _duration(match[1])


def _duration(text: object) -> float | None:
    """Read `26s`, `1m30.5s`, `250ms` or `1 minute and 5 seconds`."""
    if not isinstance(text, str) or re.fullmatch(_SPAN, text.strip().lower()) is None:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PARTS, text.lower()))


# -- errors -----------------------------------------------------------------------------

_BAD_REQUEST = (400, 404, 413, 422, 500, 501, None)


@attrs.frozen
class Rule:
    """A row of the table: what the words of one kind of refusal look like, and what they mean.

    Attributes:
      kind: the error.
      words: a pattern for the server's names and words, in lower case.
      statuses: the statuses for which it holds; none for all. None is one inside of a stream.
      with_hint: whether it holds only if the server says when to come back.
    """

    kind: type[DriverError]
    words: str
    statuses: tuple[int | None, ...] = ()
    with_hint: bool = False


def _words(*parts: str) -> str:
    # Compiled when the first refusal comes: that takes 5 ms, which no start should cost.
    return "|".join(parts)


RULES = (
    Rule(
        MalformedReplyError,  # first, since what the model wrote is quoted, which may hold any words
        _words(
            r"tool_use_failed",
            r"json_validate_failed",
            r"(?:error|failed to) pars(?:e|ing) (?:the )?(?:tool|function)[ _]?call",
            r"failed to (?:call a function|generate json)",
        ),
        (400, 422, 500, None),
    ),
    Rule(
        RateLimitedError,  # before the rule on length: limits per minute speak of too many tokens, too
        _words(
            r"per[ _]?(?:minute|second|hour|day)",
            r"\b[tr]p[mdhs]\b",
            r"rate[ _-]?limit",
            r"too many requests",
        ),
        (429,),
    ),
    Rule(
        ContextTooLongError,
        _words(
            r"context_length_exceeded",
            r"exceed_context_size",
            r"context[ _-]?(?:length|window|limit|size)",
            r"context shift is disabled",
            r"maximum context",
            r"context the overflows",
            r"prompt (?:is )?too (?:long|large)",
            r"input (?:is )?too long",
            r"(?:input|prompt) length .{0,40}exceeds",
            r"(?:input|prompt) (?:token count|tokens).{0,60}exceed",
            r"longer than the maximum model length",
            r"max(?:imum)?[ _-]?(?:model|prompt|sequence|input)[ _-]?(?:length|len|tokens)",
            r"maximum number of (?:input )?tokens",
            r"too many (?:input |total )?tokens",
            r"too large for model with",
            r"tokens? .{0,12}\+ .?max_(?:new_)?tokens",
            r"reduce the length of the (?:messages|prompt|input)",
            r"string_above_max_length",
            r"request_too_large",
            r"payload too large",
            r"input validation error: .?inputs.? (?:tokens|must have less)",
        ),
        _BAD_REQUEST,
    ),
    Rule(ContextTooLongError, _words(""), (413,)),
    Rule(
        ContentRefusedError,
        _words(
            r"content[ _]?filter",
            r"content[ _]?(?:management[ _])?policy",
            r"content_policy",
            r"responsibleaipolicy",
            r"invalid_prompt",
            r"moderation",
            r"data_inspection_failed",
            r"prohibited_content",
            r"safety (?:system|reasons|settings)",
            r"usage polic(?:y|ies)",
            r"blocked by .{0,40}(?:safety|guardrail|policy)",
            r"guardrail",
            r"sensitive (?:words|content|information)",
            r"new_sensitive",
        ),
        (400, 403, 422, 451, 500, None),
    ),
    Rule(RateLimitedError, _words(r"quota", r"limit", r"exhausted"), (429, 403), with_hint=True),
    Rule(
        RequestRejectedError,  # a 429 that no waiting ends
        _words(
            r"insufficient[ _](?:quota|balance|credit|funds)",
            r"billing",
            r"credit balance",
            r"(?:no|out of|not enough|insufficient|more) credits?",
            r"exceeded your current quota",
            r"payment",
            r"arrears",
            r"account .{0,30}(?:suspended|deactivated|disabled)",
            r"spending limit",
            r"budget has been exceeded",
            r"quota exceeded for .{0,30}free",
        ),
    ),
    Rule(RateLimitedError, _words(""), (429,)),
    Rule(
        RateLimitedError,
        _words(r"rate[ _-]?limit", r"too many requests", r"resource[ _]?exhausted", r"throttl"),
        (400, 403, 500, 502, 503, None),
    ),
    Rule(
        OverloadedError,
        _words(
            r"overloaded",
            r"slow_down",
            r"capacity",
            r"server is busy",
            r"model_overloaded",
            r"busy",
            r"loading model",
            r"queue is full",
            r"no (?:available|healthy) (?:server|upstream|instance|channel)",
        ),
        (500, 502, 503, 529, None),
    ),
    Rule(OverloadedError, _words(""), (503, 529)),
    Rule(DriverUnavailableError, _words(""), (408, 409, 425, 460, 499)),
    Rule(
        RequestRejectedError,
        _words(
            r"invalid",
            r"authenticat",
            r"unauthorized",
            r"auth credentials",
            r"permission",
            r"forbidden",
            r"not[ _]?found",
            r"unsupported",
            r"does not exist",
            r"api key",
            r"login fail",
            r"bad[ _]?request",
        ),
        (None,),
    ),
)
"""The first rule whose status and words fit says what a refusal is; without one the status does."""


def error_of(refusal: Refusal) -> DriverError:
    """Return the error of our tree that a refusal stands for."""
    said = f"{refusal.code} {refusal.text}".lower()
    for rule in RULES:
        if rule.statuses and refusal.status not in rule.statuses:
            continue
        if rule.with_hint and refusal.retry_after is None:
            continue
        if re.search(rule.words, said):
            return _made(rule.kind, refusal)
    status = refusal.status
    if status is None or status >= 500:
        return _made(DriverUnavailableError, refusal)
    return _made(RequestRejectedError, refusal)


def _made(kind: type[DriverError], refusal: Refusal) -> DriverError:
    if issubclass(kind, RateLimitedError | OverloadedError):
        wait = refusal.resets_in if refusal.retry_after is None else refusal.retry_after
        error: DriverError = kind(refusal.text, retry_after=wait)
    else:
        error = kind(refusal.text)
    if refusal.begun and error.retryable:
        error.may_have_cost = True
    return error
