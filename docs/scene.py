"""The run that the pictures show: a lead has researchers work for it, who ask a librarian.

Its models follow a script, whose answers take as long as those of a model. So nobody needs a key.
"""

from __future__ import annotations

from pathlib import Path

FLEET = """
[pool]
max_concurrent = 5

[pool.budget]
cost_usd = 1.0

[[agents]]
name = "lead"
query = "Write a report on the moons of Jupiter."
[agents.manifest]
name = "lead"
tools = ["script:write_report"]
approval = { ask = ["write_report"] }
[agents.manifest.script]
function = "script:lead"
[[agents.manifest.capabilities]]
type = "spawn"
max_depth = 1
agents = ["researcher"]
[[agents.manifest.capabilities]]
type = "messaging"

[[agents]]
name = "librarian"
query = "Answer what the researchers ask."
[agents.manifest]
name = "librarian"
capabilities = ["messaging"]
[agents.manifest.script]
function = "script:librarian"

[[subagents]]
[subagents.manifest]
name = "researcher"
tools = ["script:read_page"]
capabilities = ["messaging"]
[subagents.manifest.script]
function = "script:researcher"
"""

SCRIPT = '''
import re
from random import Random

import trio

from agentpool import AssistantMessage, Completion, CompletionRequest, TokenUsage, ToolCall, ToolMessage
from agentpool import UserMessage, tool

MOONS = ["Io", "Europa", "Ganymede", "Callisto", "Amalthea", "Himalia"]
dice = Random(7)


@tool
async def read_page(title: str) -> str:
    """Read a page of the encyclopedia."""
    await trio.sleep(dice.uniform(0.3, 0.9))
    return f"{title} is a moon of Jupiter."


@tool
async def write_report(path: str, text: str) -> str:
    """Write the report."""
    return f"{len(text)} letters written to {path}"


async def answer(request: CompletionRequest, text: str, *calls: ToolCall) -> Completion:
    await trio.sleep(dice.uniform(0.5, 1.6))
    given, taken = 400 + 300 * len(request.messages), dice.randrange(40, 160)
    return Completion(text, calls, usage=TokenUsage(given, taken, cost_usd=given * 3e-6 + taken * 15e-6))


def results(request: CompletionRequest) -> list[ToolMessage]:
    return [message for message in request.messages if isinstance(message, ToolMessage)]


async def lead(request: CompletionRequest) -> Completion:
    done = results(request)
    if not done:
        calls = [
            ToolCall(moon, "start_agent", {"agent": "researcher", "query": moon, "name": moon.lower()})
            for moon in MOONS
        ]
        return await answer(request, "Six moons, six researchers.", *calls)
    if len(done) == len(MOONS):
        return await answer(request, "Now I wait for what they find.", ToolCall("w", "wait_agents", {}))
    if len(done) == len(MOONS) + 1:
        report = "\\n".join(f"{moon}: a moon of Jupiter, found by Galileo." for moon in MOONS)
        told = {"path": "report.md", "text": report}
        return await answer(request, "All have answered.", ToolCall("r", "write_report", told))
    return await answer(request, "The report on six moons is written.")


async def researcher(request: CompletionRequest) -> Completion:
    done = results(request)
    moon = request.messages[0].content
    if not done:
        call = ToolCall("1", "read_page", {"title": moon})
        return await answer(request, f"First the page on {moon}.", call)
    if len(done) == 1:
        told = {"to": "librarian", "question": f"Who found {moon}, and when?"}
        return await answer(request, "The page does not say who found it.", ToolCall("2", "ask_agent", told))
    return await answer(request, f"{moon} was found by Galileo in 1610.")


async def librarian(request: CompletionRequest) -> Completion:
    asked, answered = [], set()
    for message in request.messages:
        if isinstance(message, AssistantMessage):
            answered |= {call.input.get("message_id") for call in message.tool_calls}
        else:
            text = message.content if isinstance(message, UserMessage) else message.result.text
            asked += map(int, re.findall(r'<message from="\\d+" id="(\\d+)"', text))
    waiting = [number for number in asked if number not in answered]
    if waiting:
        told = {"message_id": waiting[0], "content": "Galileo, in 1610."}
        call = ToolCall(str(waiting[0]), "reply_message", told)
        return await answer(request, "That is in volume three.", call)
    if len(asked) == len(MOONS):
        return await answer(request, "All questions are answered.")
    return await answer(request, "", ToolCall(f"r{len(asked)}", "receive_message", {}))
'''


def write_scene(directory: Path) -> Path:
    """Write the files of the run, and return its fleet file."""
    (directory / "script.py").write_text(SCRIPT)
    fleet = directory / "fleet.toml"
    fleet.write_text(FLEET)
    return fleet
