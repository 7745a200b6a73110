"""A tool call that a model wrote as text is no answer, and is not run."""

from __future__ import annotations

import pytest

from agentpool._core.spoken import spoken_call

TOOLS = ("look", "get-it")


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>',
        'I look.\n<tool_call>{"name": "look", "arguments": {"a": 1}}</tool_call>\n',
        '<think>Hm.</think><tool_call>{"name": "look", "arguments": {}}',  # jundot/omlx#3153
        "<tool_call>\n<function=look>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
        '<function=get-it>{"a": 1}</function>',
        '<function_call>{"name": "look"}</function_call>',
        '<|python_tag|>{"name": "look", "parameters": {}}',
        "<|python_tag|>look.call(a=1)",
        '[TOOL_CALLS][{"name": "look", "arguments": {}}]',
        '[TOOL_CALLS]look{"a": 1}',
        '<minimax:tool_call>\n<invoke name="look">\n</invoke>\n</minimax:tool_call>',
        "<|tool▁calls▁begin|><|tool▁call▁begin|>function<|tool▁sep|>look\n{}<|tool▁call▁end|>",
        "<|tool▁calls▁begin|>".replace("|", "\uff5c") + "look {}",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>{}",
    ],
)
def test_marks_of_templates_are_seen(text: str) -> None:
    assert spoken_call(text, TOOLS) == "marked"


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "look", "arguments": {"a": 1}}',  # NousResearch/hermes-agent#107125
        ' {"name": "look", "parameters": {}}\n',
        '```json\n{"name": "look", "arguments": {}}\n```',  # jyjeanne/crustly#39
        '[{"name": "look", "arguments": {}}, {"name": "get-it", "arguments": {}}]',
        '{"id": "a", "type": "function", "function": {"name": "look", "arguments": {}}}',
    ],
)
def test_bare_calls_are_seen(text: str) -> None:
    assert spoken_call(text, TOOLS) == "bare"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is 3.",
        "Write <tool_call> and then look (as the page says)",
        'The page says <tool_call>{"name": "look", "arguments": {}}</tool_call>, which I did not do.',
        'An example: `<tool_call>{"name": "look", "arguments": {}}</tool_call>`',
        'An example:\n```\n<tool_call>{"name": "look", "arguments": {}}</tool_call>\n```',
        '<tool_call>{"name": "another", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "another", "arguments": {}}' + " " * 400 + "look</tool_call>",
        '{"text": "<tool_call>{look"}',
        '{"name": "look", "arguments": {}, "why": "it is a plan"}',
        '{"name": "look", "age": 7}',
        '{"name": "look", "arguments": "none"}',
        '{"name": "look"}',
        '{"name": "another", "arguments": {}}',
        '{"function": "look"}',
        "[]",
        "[1]",
        "{look}",
        "f(x)",
        "[" * 100_000 + "]",
        "```" + "\n" * 100_000 + "x```",
    ],
)
def test_all_else_is_an_answer(text: str) -> None:
    assert spoken_call(text, TOOLS) == ""
    assert spoken_call(text, ()) == ""
