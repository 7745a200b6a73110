"""Which recorded answer belongs to a request.

A request is found by what it says, without its secrets: two that differ in anything else never share
a key. Two that differ in a secret alone have one key, so that a cassette plays where the secrets are
others. They are told apart by ids: a recorded secret has one, and a secret of the playing program is
taken for the same one from its first use on.

The id of a secret is the name of the environment variable that holds it, or `program:number`. Such
an id cannot be told from another program's for the same secret, so each program's are matched by
themselves.
"""

from __future__ import annotations

import hashlib
import json
import secrets as random
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from agentpool._core.data import canonical, completion_from_data, to_data
from agentpool._core.detection import KnownSecrets
from agentpool._core.errors import DriverError
from agentpool._core.messages import Completion, CompletionRequest
from agentpool._core.redaction import Redaction, is_placeholder, restored

_OF_THIS_PROGRAM = random.token_bytes(16)
_SHOWN = 60
_MOST_DIFFERENCES = 3


def id_of(secret: str, known: KnownSecrets) -> str:
    """Return what stands in a cassette for a secret: nobody can find the secret by it."""
    if is_placeholder(secret):
        return secret
    return known.names.get(secret) or f"{_digest('')}:{_digest(secret)}"


def _digest(text: str) -> str:
    given = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(given, key=_OF_THIS_PROGRAM, digest_size=6).hexdigest()


def _program_of(recorded_id: str) -> str:
    return recorded_id.rpartition(":")[0]


@attrs.frozen
class Asked:
    """A request without its secrets.

    Attributes:
      data: the request as JSON data.
      key: equal for requests that differ in nothing but secrets.
      secrets: the secrets that were in it, in the order of their numbers.
      ids: what stands in a cassette for them.
    """

    data: dict[str, Any]
    key: str
    secrets: tuple[str, ...] = attrs.field(repr=False)
    ids: tuple[str, ...]

    @classmethod
    def of(cls, request: CompletionRequest, redaction: Redaction, known: KnownSecrets) -> Asked:
        """Take the secrets out of a request."""
        data = redaction.data(to_data(request))
        found = redaction.secrets
        return cls(data, canonical(data), found, tuple(id_of(secret, known) for secret in found))


@attrs.frozen
class Recorded:
    """A request with what came of it, as a cassette holds them.

    Attributes:
      line: where it stands in the file.
      data: the request as JSON data.
      ids: what stands for its secrets.
      answer: what came of it; a completion has placeholders for secrets.
      window: the context window that the driver had for it, by which agents measure their requests.
      parts: how many characters each piece of a stream had; those of reasoning are below zero.
    """

    line: int
    data: dict[str, Any]
    ids: tuple[str, ...]
    answer: Completion | DriverError
    window: int | None = None
    parts: tuple[int, ...] = ()


class Shelf:
    """The answers of a cassette; each is handed out once, to the first that asks for it.

    Which secret of this program is which recorded one, it learns as it goes: an environment variable
    is the one of the same name, any other secret the one in whose place it first comes.
    """

    def __init__(self, entries: Iterable[Recorded]) -> None:
        self._entries = list(entries)
        self._left: dict[str, list[Recorded]] = {}
        for entry in self._entries:
            self._left.setdefault(canonical(entry.data), []).append(entry)
        self._recorded = {key: len(entries) for key, entries in self._left.items()}
        self._all_ids = {recorded for entry in self._entries for recorded in entry.ids}
        # The recorded id of an id of ours, for each program that recorded; no two of ours have one.
        self._same: dict[tuple[str, str], str] = {}

    @property
    def remaining(self) -> int:
        """How many answers nobody has asked for."""
        return sum(map(len, self._left.values()))

    @property
    def window(self) -> int | None:
        """The context window of the driver whose answer is the first."""
        return self._entries[0].window if self._entries else None

    def take(self, asked: Asked) -> Recorded | None:
        """Return the oldest answer to a request that is there; None if there is none."""
        left = self._left.get(asked.key, [])
        for position, entry in enumerate(left):
            same = self._same_secrets(asked.ids, entry.ids)
            if same is not None:
                self._same.update(same)
                return left.pop(position)
        return None

    def _same_secrets(
        self, live: tuple[str, ...], recorded: tuple[str, ...]
    ) -> dict[tuple[str, str], str] | None:
        """Return which secret would be which, if an entry were the answer; None if it cannot be."""
        same: dict[tuple[str, str], str] = {}
        taken = set(self._same.values())
        for ours, theirs in zip(live, recorded, strict=False):
            program = _program_of(theirs)
            meant = self._same.get((ours, program))
            if meant is None and _program_of(ours) == program and ours in self._all_ids:
                meant = ours
            if meant is None and theirs not in taken:
                meant = theirs
            if meant != theirs:
                return None
            same[ours, program] = theirs
        return same

    def missing(self, asked: Asked) -> str:
        """Return why there is no answer to a request, without any secret."""
        recorded = self._recorded.get(asked.key, 0)
        if recorded and not self._left[asked.key]:
            answers = "1 answer" if recorded == 1 else f"{recorded} answers"
            return f"holds only {answers} to this request, and it has been given"
        if recorded:
            return "holds an answer to this request with another secret only"
        if not self._entries:
            return "holds no answer at all"
        nearest = min(self._entries, key=lambda entry: _distance(entry.data, asked.data))
        told = list(differences(nearest.data, asked.data))
        more = f"; and {len(told) - _MOST_DIFFERENCES} more" if len(told) > _MOST_DIFFERENCES else ""
        return (
            f"holds no answer to this request; the nearest, in line {nearest.line}, differs in"
            f" {'; '.join(told[:_MOST_DIFFERENCES])}{more}"
        )


def with_secrets(answer: Completion, secrets: tuple[str, ...]) -> Completion:
    """Return an answer in which the request's secrets stand in the place of their placeholders."""
    return completion_from_data(restored(to_data(answer), secrets)) if secrets else answer


# -- what differs ------------------------------------------------------------------

_LEFT_OUT = object()


def _distance(recorded: dict[str, Any], asked: dict[str, Any]) -> tuple[int, int, int]:
    """Return how far two requests are from each other: by what they say, then by how much of it."""
    ours, theirs = asked.get("messages", []), recorded.get("messages", [])
    equal = sum(mine == other for mine, other in zip(ours, theirs, strict=False))
    apart = max(len(ours), len(theirs)) - equal
    fields = sum(
        recorded.get(name, _LEFT_OUT) != asked.get(name, _LEFT_OUT)
        for name in recorded.keys() | asked.keys()
        if name != "messages"
    )
    return apart + fields, apart, -_equal_beginning(json.dumps(theirs[-1:]), json.dumps(ours[-1:]))


def _equal_beginning(one: str, other: str) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def differences(recorded: Any, asked: Any, where: str = "") -> Iterator[str]:
    """Yield what differs between two redacted requests, with its place, such as `messages[2].content`."""
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for name in dict.fromkeys([*recorded, *asked]):
            place = f"{where}.{name}" if where else str(name)
            yield from differences(recorded.get(name, _LEFT_OUT), asked.get(name, _LEFT_OUT), place)
    elif isinstance(recorded, list) and isinstance(asked, list):
        for number in range(max(len(recorded), len(asked))):
            one, other = (items[number] if number < len(items) else _LEFT_OUT for items in (recorded, asked))
            yield from differences(one, other, f"{where}[{number}]")
    elif recorded is _LEFT_OUT or asked is _LEFT_OUT or canonical(recorded) != canonical(asked):
        yield f"{where} (recorded {_shown(recorded, asked)}, asked {_shown(asked, recorded)})"


def _shown(value: Any, other: Any) -> str:
    if value is _LEFT_OUT:
        return "nothing"
    text = json.dumps(value)
    start = 0
    if isinstance(value, str) and isinstance(other, str):
        start = max(0, _equal_beginning(text, json.dumps(other)) - _SHOWN // 3)
    cut = text[start : start + _SHOWN]
    return f"{'...' if start else ''}{cut}{'...' if start + _SHOWN < len(text) else ''}"
