from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from agentpool._core.errors import ManifestError
from agentpool._core.usage import TokenUsage
from agentpool.drivers.prices import LongContext, ModelPrice, PriceTable

MILLION = 1_000_000


def test_the_table_of_the_package_has_a_date_and_its_prices_make_sense() -> None:
    table = PriceTable.builtin()
    assert table.date is not None
    assert table.date >= date(2026, 10, 1)
    for (provider, model), price in table.models.items():
        if provider == "ollama":
            continue
        assert 0 < price.input < price.output, model
        assert price.cache_read is None or price.cache_read < price.input, model
        assert price.cache_write is None or price.cache_write > price.input, model
        assert (price.cache_write_1h is not None) is (provider == "anthropic"), model


def test_a_model_is_found_with_its_date_behind_its_name() -> None:
    table = PriceTable.builtin()
    for dated, name in (
        ("gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("gpt-4o-latest", "gpt-4o"),
    ):
        provider = "openai" if name.startswith("gpt") else "anthropic"
        assert table.find(provider, dated) == table.find(provider, name) is not None


def test_a_model_that_is_not_listed_has_no_price_also_if_its_name_begins_like_another() -> None:
    table = PriceTable.builtin()
    assert table.find("openai", "gpt-5-ultra") is None
    assert table.find("anthropic", "gpt-5") is None


def test_what_runs_under_ollama_is_free() -> None:
    price = PriceTable.builtin().find("ollama", "anything")
    assert price is not None
    assert price.cost(TokenUsage(MILLION, MILLION)) == 0.0


def test_cached_tokens_have_prices_of_their_own() -> None:
    price = ModelPrice(input=2.0, output=10.0, cache_read=0.5, cache_write=3.0)
    usage = TokenUsage(MILLION, MILLION, cache_read_tokens=MILLION // 2, cache_write_tokens=MILLION // 4)
    assert price.cost(usage) == pytest.approx(0.25 * 2 + 0.5 * 0.5 + 0.25 * 3 + 10)


def test_what_is_cached_for_an_hour_has_a_price_of_its_own() -> None:
    """pi#5737, oh-my-pi#6876, claude-powerline#104: it was taken for what is cached for five minutes."""
    price = PriceTable.builtin().find("anthropic", "claude-opus-4-8")
    assert price is not None
    usage = TokenUsage(MILLION, cache_write_tokens=MILLION, cache_write_1h_tokens=400_000)
    assert price.cost(usage) == pytest.approx(0.6 * 6.25 + 0.4 * 10)
    assert ModelPrice(2.0, 10.0, cache_write=3.0).cost(usage) == pytest.approx(3)
    odd = TokenUsage(MILLION, cache_write_tokens=MILLION, cache_write_1h_tokens=2 * MILLION)
    assert price.cost(odd) == pytest.approx(10)


def test_cached_tokens_without_a_price_cost_what_others_do() -> None:
    usage = TokenUsage(MILLION, 0, cache_read_tokens=MILLION // 2, cache_write_tokens=MILLION // 4)
    assert ModelPrice(input=2.0, output=10.0).cost(usage) == pytest.approx(2.0)


def test_a_long_input_makes_the_whole_request_dearer() -> None:
    price = ModelPrice(input=2.0, output=10.0, long=LongContext(above=MILLION, input=2.0, output=1.5))
    assert price.cost(TokenUsage(MILLION, MILLION)) == pytest.approx(2 + 10)
    assert price.cost(TokenUsage(MILLION + 1, MILLION)) == pytest.approx(4 + 15, rel=1e-5)


def test_a_file_of_your_own_wins_entry_by_entry(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(
        'date = 2027-01-01\n[openai]\n"gpt-5" = { input = 1, output = 2 }\nmine = { input = 3, output = 4 }\n'
    )
    table = PriceTable.load(path)
    assert table.date == date(2027, 1, 1)
    assert table.find("openai", "gpt-5") == ModelPrice(1.0, 2.0)
    assert table.find("openai", "gpt-5-mini") == PriceTable.builtin().find("openai", "gpt-5-mini")


def test_a_file_without_a_date_keeps_that_of_the_package() -> None:
    table = PriceTable.builtin().overridden_by(PriceTable.from_toml(""))
    assert table.date == PriceTable.builtin().date


def test_every_mistake_of_a_file_is_told_at_once_with_its_place() -> None:
    text = """
    date = "2026-01-01"
    openai = 3
    [anthropic]
    a = 1
    b = { input = -1, output = true, speed = 3 }
    c = { input = 1, output = 2, context_window = 0, long = { over = 1 } }
    d = { input = 1, output = 2, long = { above = 1.5, input = nan } }
    """
    with pytest.raises(ManifestError) as caught:
        PriceTable.from_toml(text, source="mine.toml")
    places = [finding.key for finding in caught.value.findings]
    assert places == [
        "date",
        "openai",
        "anthropic.'a'",
        "anthropic.'b'.input",
        "anthropic.'b'.output",
        "anthropic.'b'.speed",
        "anthropic.'c'.context_window",
        "anthropic.'c'.long",
        "anthropic.'d'.long.above",
        "anthropic.'d'.long.input",
    ]
    assert str(caught.value).count("mine.toml: ") == len(places)
    assert all(finding.fix for finding in caught.value.findings)


def test_a_price_that_is_missing_is_named() -> None:
    with pytest.raises(ManifestError, match=r"openai.'m'.output: it is missing"):
        PriceTable.from_toml("[openai]\nm = { input = 1 }")


def test_a_file_that_cannot_be_read_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.toml: there is no such file"):
        PriceTable.load(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match=r"bad\.toml"):
        PriceTable.load(bad)
    bad.write_text("= 3")
    with pytest.raises(ManifestError, match="not TOML"):
        PriceTable.load(bad)
