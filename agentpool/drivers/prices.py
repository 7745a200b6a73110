"""What models cost, and what else the drivers have to know of them: a dated table, yours on top."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import attrs

from agentpool._core.errors import Finding, ManifestError
from agentpool._core.manifest import parse_toml, read_text
from agentpool._core.usage import TokenUsage

_PER_TOKEN = 1e-6  # prices are written down for a million tokens
_NUMBERS = ("input", "output", "cache_read", "cache_write", "cache_write_1h")
_LONG = ("above", "input", "output")
# what providers append to a model's name for one snapshot of it: -2025-08-07, -20251001, -latest
_SNAPSHOT = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|latest)$")


@attrs.frozen
class LongContext:
    """The surcharge on requests with long inputs.

    Attributes:
      above: the number of input tokens from which on it holds for the whole request.
      input: how many times more an input token costs then, cached or not.
      output: how many times more an output token costs then.
    """

    above: int
    input: float = 1.0
    output: float = 1.0


@attrs.frozen
class ModelPrice:
    """What is known of one model; prices in USD per million tokens.

    Attributes:
      input, output: the price of a token.
      cache_read, cache_write: the price of an input token that came from, or went into, the
        provider's prompt cache; None means that it costs as much as any other.
      cache_write_1h: the price of one that is kept there for an hour; None means that of `cache_write`.
      context_window: tokens of a request and its answer together; None if unknown.
      long: the surcharge on long inputs, if there is one.
    """

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    context_window: int | None = None
    long: LongContext | None = None

    def cost(self, usage: TokenUsage) -> float:
        """Return what `usage` of one call costs in USD."""
        plain = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        read = self.input if self.cache_read is None else self.cache_read
        write = self.input if self.cache_write is None else self.cache_write
        for_long = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
        dearer = 0.0 if self.cache_write_1h is None else self.cache_write_1h - write
        of_input = (
            max(plain, 0) * self.input + usage.cache_read_tokens * read + usage.cache_write_tokens * write
        ) + for_long * dearer
        of_output = usage.output_tokens * self.output
        if self.long is not None and usage.input_tokens > self.long.above:
            of_input *= self.long.input
            of_output *= self.long.output
        return (of_input + of_output) * _PER_TOKEN


@attrs.frozen
class PriceTable:
    """Prices by provider and model.

    Attributes:
      date: the day on which they were put together; None if the file does not say.
      models: what is known, by `(provider, model)`.
    """

    date: date | None = None
    models: Mapping[tuple[str, str], ModelPrice] = attrs.field(factory=dict)

    @classmethod
    def builtin(cls) -> PriceTable:
        """Return the table that comes with the package."""
        return _builtin()

    @classmethod
    def from_toml(cls, text: str, *, source: str = "<string>") -> PriceTable:
        """Read a table from the text of a TOML file.

        Raises:
          ManifestError: if something in it is wrong; it names every place at once.
        """
        return _Reader(source).table(parse_toml(text, source))

    @classmethod
    def load(cls, path: str | Path) -> PriceTable:
        """Read a file of your own prices, which win over those of the package entry by entry.

        Blocks on the file, briefly.

        Raises:
          ManifestError: if the file cannot be read, or something in it is wrong.
        """
        text = read_text(path, Path.read_bytes)
        return cls.builtin().overridden_by(cls.from_toml(text, source=str(path)))

    def overridden_by(self, other: PriceTable) -> PriceTable:
        """Return a table with the entries of both, in which those of `other` win."""
        return PriceTable(date=other.date or self.date, models={**self.models, **other.models})

    def find(self, provider: str, model: str) -> ModelPrice | None:
        """Return what is known of a model, under its own name, without its date, or under `*`."""
        for name in (model, _SNAPSHOT.sub("", model), "*"):
            price = self.models.get((provider, name))
            if price is not None:
                return price
        return None


class _Reader:
    """Reads one price file, and collects what is wrong in it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.findings: list[Finding] = []

    def wrong(self, key: str, problem: str, fix: str) -> None:
        self.findings.append(Finding(self.source, key, problem, fix))

    def table(self, data: Mapping[str, Any]) -> PriceTable:
        day = data.get("date")
        if day is not None and type(day) is not date:
            self.wrong("date", f"{day!r} is not a date", "Write it as date = 2026-01-31, without quotes.")
            day = None
        models: dict[tuple[str, str], ModelPrice] = {}
        for provider, entries in data.items():
            if provider == "date":
                continue
            if not isinstance(entries, dict):
                self.wrong(
                    provider, "it is not a table", f"Write prices below [{provider}], one model a line."
                )
                continue
            for model, entry in entries.items():
                price = self.price(f"{provider}.{model!r}", entry)
                if price is not None:
                    models[provider, model] = price
        if self.findings:
            raise ManifestError(self.findings)
        return PriceTable(date=day, models=models)

    def price(self, key: str, entry: object) -> ModelPrice | None:
        if not isinstance(entry, dict):
            self.wrong(key, "it is not a table", "Write { input = 1.0, output = 2.0 }.")
            return None
        before = len(self.findings)
        for name in ("input", "output"):
            if name not in entry:
                self.wrong(
                    f"{key}.{name}", "it is missing", f"Say how many USD a million {name} tokens cost."
                )
        values: dict[str, Any] = {}
        for name, value in entry.items():
            values[name] = self.value(f"{key}.{name}", name, value)
        return ModelPrice(**values) if len(self.findings) == before else None

    def value(self, key: str, name: str, value: object) -> object:
        if name in _NUMBERS:
            return self.number(key, value)
        if name == "context_window":
            return self.whole(key, value)
        if name == "long":
            return self.long(key, value)
        known = ", ".join(attribute.name for attribute in attrs.fields(ModelPrice))
        self.wrong(key, "there is no such key", f"Use one of {known}.")
        return None

    def number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            self.wrong(key, f"{value!r} is not a price", "Write a number of USD, 0 or more.")
            return 0.0
        return float(value)

    def whole(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.wrong(key, f"{value!r} is not a number of tokens", "Write a whole number, 1 or more.")
            return 1
        return value

    def long(self, key: str, value: object) -> LongContext | None:
        if not isinstance(value, dict) or "above" not in value or set(value) - set(_LONG):
            self.wrong(
                key, f"{value!r} is not a surcharge", "Write { above = 200000, input = 2.0, output = 1.5 }."
            )
            return None
        return LongContext(
            above=self.whole(f"{key}.above", value["above"]),
            input=self.number(f"{key}.input", value.get("input", 1.0)),
            output=self.number(f"{key}.output", value.get("output", 1.0)),
        )


@cache
def _builtin() -> PriceTable:
    text = resources.files("agentpool.drivers").joinpath("_prices.toml").read_text(encoding="utf-8")
    return PriceTable.from_toml(text, source="_prices.toml")
