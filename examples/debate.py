"""A debate: two agents argue in turns, and a judge asks each for an argument and decides.

It runs on a scripted driver. With another driver for `open_agent_pool` the same debate runs on a model.
"""

from __future__ import annotations

import trio

from agentpool import (
    AgentContext,
    AgentHandle,
    AgentManifest,
    ModelSettings,
    ScriptedDriver,
    SpawnConfig,
    open_agent_pool,
)

QUESTION = "Should a library for agents own its event loop?"


def manifest(name: str, system_prompt: str) -> AgentManifest:
    return AgentManifest(name=name, model=ModelSettings(system_prompt=system_prompt))


async def debater(ctx: AgentContext, side: str) -> int:
    """Answer each question with an argument for one side, until no agent is left that could ask."""
    speaker = manifest(side, f"You argue {side} the motion, in one sentence.")
    answers = 0
    async for message in ctx.inbox:
        child = await ctx.spawn(SpawnConfig(speaker, message.content), name=f"{side}-{answers + 1}")
        ctx.reply(message, (await child.result()).text)
        answers += 1
    return answers


async def judge(ctx: AgentContext, rounds: int, sides: list[AgentHandle[int]]) -> str:
    said = QUESTION
    for _ in range(rounds):
        for side in sides:
            argument = await ctx.ask(side.id, said)
            said += f"\n{side.name}: {argument}"
    verdict = await ctx.spawn(SpawnConfig(manifest("judge", "You decide who argued better."), said))
    return f"{said}\nVerdict: {(await verdict.result()).text}"


async def main() -> None:
    driver = ScriptedDriver(
        [
            "Two loops in one process cannot share a deadline.",
            "A program has one loop already.",
            "Then the library can run on that one, as a block.",
            "So it owns nothing, which was my point.",
            "The side against the motion, by the other's own words.",
        ]
    )
    # One slot is enough: an agent that waits for an answer lends its slot to the agent that gives it.
    async with open_agent_pool(driver, max_concurrent=1) as pool:
        sides = [await pool.spawn(debater, side, name=side) for side in ("for", "against")]
        decision = await pool.spawn(judge, 2, sides, name="judge")
        print(await decision.result())


if __name__ == "__main__":
    trio.run(main)
