"""Takes secrets out of what belongs together, and puts them back.

Each secret has a placeholder of its own, numbered in the order in which they appear: `[redacted-1]`,
`[redacted-2]`. So texts that say the same of other secrets become the same text, and no two secrets of
one text become one. What is a secret, `detection.py` says; what is one at one place is one everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from agentpool._core.data import text_of_bytes, to_data
from agentpool._core.detection import PLACEHOLDER, KnownSecrets, Span, is_secret_under, spans_of


def is_placeholder(text: str) -> bool:
    """Return whether a text is what stands in the place of a secret."""
    return PLACEHOLDER.fullmatch(text) is not None


def has_placeholder(data: Any) -> bool:
    """Return whether there is a placeholder in the texts of JSON data."""
    if isinstance(data, str):
        return PLACEHOLDER.search(data) is not None
    if isinstance(data, Mapping):
        return any(has_placeholder(key) or has_placeholder(item) for key, item in data.items())
    return isinstance(data, list | tuple) and any(map(has_placeholder, data))


@attrs.define(eq=False)
class Redaction:
    """Takes the secrets out of a request, and then out of its answer.

    A placeholder that stands in a text already counts as a secret, whose text it is: so the numbers
    stay in the order of appearance when an answer that was played back is a part of a request.
    """

    _known: KnownSecrets
    _found: set[str] = attrs.field(factory=set, init=False)
    _found_again: KnownSecrets = attrs.field(factory=KnownSecrets, init=False)
    _numbers: dict[str, int] = attrs.field(factory=dict, init=False)
    _spans: dict[str, list[Span]] = attrs.field(factory=dict, init=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What was taken out until now; the first is number 1."""
        return tuple(self._numbers)

    def data(self, data: Any) -> Any:
        """Return JSON data with placeholders for its secrets; of bytes those are looked at that are text.

        Args:
          data: what `data.to_data` returns.
        """
        # Twice: `the key 1f2e3d4c` alone tells nothing, but `api_key=1f2e3d4c` may come later.
        found = self._found.union(self._secrets_in(data, ""))
        if found != self._found:
            self._found = found
            self._found_again = KnownSecrets.of(found, {})
        return self._clean(data, "")

    def _secrets_in(self, data: Any, name: str) -> Iterator[str]:
        if isinstance(data, str):
            for start, end in self._spans_in(data, name):
                if not is_placeholder(data[start:end]):
                    yield data[start:end]
        elif isinstance(data, list):
            for item in data:
                yield from self._secrets_in(item, name)
        elif (content := text_of_bytes(data)) is not None:
            yield from self._secrets_in(content, name)
        elif isinstance(data, dict):
            for key, value in data.items():
                yield from self._secrets_in(key, "")
                yield from self._secrets_in(value, key)

    def _spans_in(self, text: str, name: str) -> list[Span]:
        if is_secret_under(name, text):
            return [(0, len(text))]
        if text not in self._spans:
            self._spans[text] = list(spans_of(text))
        return self._spans[text]

    def _clean(self, data: Any, name: str) -> Any:
        if isinstance(data, str):
            known, again = self._known.spans(data), self._found_again.spans(data)
            return self._replaced(data, merged_spans([*self._spans_in(data, name), *known, *again]))
        if isinstance(data, list):
            return [self._clean(item, name) for item in data]
        if (content := text_of_bytes(data)) is not None:
            return to_data(self._clean(content, name).encode())
        if isinstance(data, dict):
            # Equal dicts have equal numbers, in whatever order they were made.
            clean = {key: (self._clean(key, ""), self._clean(data[key], key)) for key in sorted(data)}
            return dict(clean[key] for key in data)
        return data

    def _replaced(self, text: str, spans: Iterable[Span]) -> str:
        pieces, done = [], 0
        for start, end in spans:
            number = self._numbers.setdefault(text[start:end], len(self._numbers) + 1)
            pieces += [text[done:start], f"[redacted-{number}]"]
            done = end
        return "".join(pieces) + text[done:]


def merged_spans(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield spans in their order; those that overlap are one."""
    last: Span | None = None
    for start, end in sorted(spans):
        if last is not None and start < last[1]:
            last = last[0], max(last[1], end)
            continue
        if last is not None:
            yield last
        last = start, end
    if last is not None:
        yield last


def restored(data: Any, secrets: tuple[str, ...]) -> Any:
    """Return redacted data with these secrets in the place of their placeholders."""

    def secret_of(match: re.Match[str]) -> str:
        number = int(match[0].strip("[]").rpartition("-")[2])
        return secrets[number - 1] if number <= len(secrets) else match[0]

    if isinstance(data, str):
        return re.sub(r"\[redacted-[1-9]\d{0,8}\]", secret_of, data)
    if isinstance(data, list):
        return [restored(item, secrets) for item in data]
    if isinstance(data, dict):
        return {restored(key, secrets): restored(value, secrets) for key, value in data.items()}
    return data


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without these secrets, those of the environment, and what looks like one."""
    clean: str = Redaction(KnownSecrets.of(secrets)).data(text)
    return clean
