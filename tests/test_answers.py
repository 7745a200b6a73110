"""The JSON of a typed answer is found where it stands, and nothing else is taken for it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from agentpool._core.answers import first_fit, without_thoughts
from agentpool._core.outputs import Parsed, Problems

ULM = '{"name": "Ulm", "inhabitants": 129000}'
BONN = '{"name": "Bonn", "inhabitants": 330000}'


def city(text: str) -> Parsed | Problems:
    """Read a city: an object with a name and a number of inhabitants."""
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError):
        return Problems(("no JSON",))
    if not isinstance(data, dict):
        return Problems((f"no object: {data}",))
    missing = tuple(name for name in ("name", "inhabitants") if name not in data)
    return Problems(missing) if missing else Parsed(data["name"])


def number(text: str) -> Parsed | Problems:
    return Parsed(int(text)) if text.isdecimal() else Problems((text,))


@pytest.mark.parametrize(
    "text",
    [
        ULM,
        f"\ufeff{ULM}\n",
        f"<think>\nUlm has {{about}} 129000.\n</think>\n\n{ULM}",
        f"<thinking>{BONN}? No.</thinking>{ULM}",
        f"<Reasoning effort='high'>a</Reasoning>\n<think>b</think> {ULM}",
        f"First I thought of {BONN}, but no.\n</think>\n{ULM}",
        f"<think> It is {BONN}? No: {ULM}",
        f"<think>a</think>b</think>{ULM}",
        f"Here it is:\n```json\n{ULM}\n```\nAnything else?",
        f"```\n{ULM}```",
        f"~~~\n{ULM}\n~~~",
        f"```json\n{BONN}\n```\nor better\n```json\n{ULM}\n```",
        f'```json\n{BONN}\n```\n```json\n{{"no": "city"}}\n```\nfinally\n```\n{ULM}\n```',
        f'```python\nprint({{"a": 1}})\n```\n{ULM}',
        f"In the set {{a, b}} of [1] there is {ULM}; see [2, 3].",
        f'{{"note": 1}} {ULM} {{"sources": []}}',
        f"{BONN}\n{ULM}",
        f"{ULM}}}",
        f'The answer is {ULM} and not {{"name": "Bonn", "inhab',
        f'It said {{"x": NaN}} and {ULM}.',
        f"```json\n{ULM}",
    ],
)
def test_an_answer_is_found(text: str) -> None:
    assert first_fit(text, city) == Parsed("Ulm")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"name": "```py\\nx\\n```", "inhabitants": 1}', "```py\nx\n```"),
        ('```json\n{"name": "```py\\nx\\n```", "inhabitants": 1}\n```', "```py\nx\n```"),
        ('Here: {"name": "<b></think></b>", "inhabitants": 1}', "<b></think></b>"),
        ('<think>a</think> {"name": "</think>", "inhabitants": 1}', "</think>"),
        ('<think>a</think> Here: {"name": "</think>", "inhabitants": 1} it is', "</think>"),
    ],
)
def test_marks_within_a_string_are_a_part_of_it(text: str, name: str) -> None:
    assert first_fit(text, city) == Parsed(name)


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{ULM}</think>",
        f"<think>{ULM}</think> I do not know.",
        f"{ULM}</think> I do not know.",
        f'{{"best": {ULM}}}',
        f"[{ULM}]",
        f'{{"best": {ULM}, oops}}',
        f'{{"worst": 1, "best": {ULM}',
        '{"name": "Ulm", "inhabitants": 129000,}',
        "{'name': 'Ulm', 'inhabitants': 129000}",
        "nothing",
        "",
        "[" * 5000,
        f"{'[' * 5000} {ULM}",
        "[" + "9" * 5000 + "]",
    ],
    ids=lambda text: text[:30],
)
def test_what_is_thought_or_a_part_of_something_else_is_not_taken(text: str) -> None:
    assert isinstance(first_fit(text, city), Problems)


def test_the_problems_are_those_of_the_json_that_is_there() -> None:
    assert first_fit('Here: {"name": "Ulm"} it is', city) == Problems(("inhabitants",))
    assert first_fit('{"name": "Ulm"}', city) == Problems(("inhabitants",))
    assert first_fit('[1, {"name": "Ulm"}]', city) == Problems(("no object: [1, {'name': 'Ulm'}]",))
    assert first_fit("It is Ulm.", city) == Problems(("no JSON",))


def test_other_json_than_objects_stands_alone() -> None:
    assert first_fit("<think>one and two</think>\n3", number) == Parsed(3)
    assert first_fit("It is\n```\n3\n```", number) == Parsed(3)
    assert first_fit("3 or 4", number) == Problems(("3 or 4",))


def test_what_follows_the_thoughts() -> None:
    assert without_thoughts("<think>a</think> b ") == "b"
    assert without_thoughts("a </think> b") == "b"
    assert without_thoughts("<thought>b") == "b"
    assert without_thoughts("a <think>b") == "a <think>b"
    assert without_thoughts("a") == "a"


@pytest.mark.parametrize(
    "part",
    ["[", '{"a":', "</think>", "<think>", "<think></think>", "```\n", '["x', "{}</think>", "[1,1,1,1,1,1,1,"],
)
def test_a_long_answer_takes_no_quadratic_time(part: str) -> None:
    def seconds(count: int) -> float:
        started = time.perf_counter()
        assert isinstance(first_fit(part * count, city), Problems)
        return time.perf_counter() - started

    # 16 times the text: in quadratic time 256 times as long. A tenth of a second is noise.
    assert seconds(64_000) < 80 * seconds(4_000) + 0.1
