"""Two kinds of agents in one pool: plain functions, and an agent that asks a model.

The model follows a script, so that no key is needed.
"""

import trio

from agentpool import AgentContext, AgentManifest, ModelAgent, ScriptedDriver, open_agent_pool


async def greeter(ctx: AgentContext, name: str) -> str:
    return f"Hello, {name}, I am agent {ctx.id}."


async def main() -> None:
    async with open_agent_pool(ScriptedDriver(["Paris."]), max_concurrent=10) as pool:
        for outcome in await pool.map(greeter, ["Ada", "Grace"]):
            print(outcome.unwrap())
        geographer = ModelAgent(AgentManifest(name="geographer"))
        handle = await pool.spawn(geographer, "What is the capital of France?")
        print((await handle.result()).text)


if __name__ == "__main__":
    trio.run(main)
