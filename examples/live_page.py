"""A program with a live page: watch its agents, approve what they want to do, abort them.

Three clerks each write a letter, and may send it only when a person agrees, on the page. The model here is
made up; nothing is asked over the network. The program ends when all letters are sent or refused.

pip install '.[web]'
python examples/live_page.py
"""

from __future__ import annotations

import random
from functools import partial

import trio

from agentpool import (
    AgentManifest,
    ApprovalRules,
    Completed,
    Completion,
    CompletionRequest,
    ModelAgent,
    ScriptedDriver,
    TokenUsage,
    ToolCall,
    ToolMessage,
    UserMessage,
    open_agent_pool,
    tool,
)
from agentpool.web import PageApprover, serve_live_page

CUSTOMERS = ["Ada", "Grace", "Katherine"]
dice = random.Random(7)


@tool
async def send_letter(to: str, text: str) -> str:
    """Send a letter.

    Args:
      to: the customer.
      text: what it says.
    """
    await trio.sleep(dice.uniform(0.1, 0.3))
    return f"sent to {to}"


async def model(request: CompletionRequest) -> Completion:
    """Write a letter, and tell what became of it."""
    await trio.sleep(dice.uniform(0.3, 1.0))
    usage = TokenUsage(input_tokens=300, output_tokens=dice.randrange(40, 90))
    match request.messages[-1]:
        case UserMessage(content=customer):
            letter = {"to": customer, "text": f"Dear {customer},\nyour order has left our house."}
            return Completion("The letter is written.", [ToolCall("1", "send_letter", letter)], usage=usage)
        case ToolMessage(result=result):
            return Completion("not sent" if result.is_error else result.text, usage=usage)
    return Completion("Nothing is to be done.", usage=usage)


async def main() -> None:
    approver = PageApprover()
    clerk = ModelAgent(
        AgentManifest(name="clerk", approval=ApprovalRules(ask=["send_letter"])), tools=[send_letter]
    )
    # The page is served in a nursery around the pool, which would wait for it otherwise.
    async with trio.open_nursery() as nursery:
        async with open_agent_pool(ScriptedDriver(model), max_concurrent=2, approver=approver) as pool:
            serve = partial(serve_live_page, title="letters", approver=approver)
            link = await nursery.start(serve, pool)
            print(f"open {link}", flush=True)
            outcomes = await pool.map(clerk, CUSTOMERS)
        nursery.cancel_scope.cancel()
    for customer, outcome in zip(CUSTOMERS, outcomes, strict=True):
        print(f"{customer}: {outcome.value.text if isinstance(outcome, Completed) else outcome}")


trio.run(main)
