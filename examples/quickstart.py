"""Agents as plain functions, and as a manifest, in one pool."""

import trio

from agentpool import AgentContext, AgentManifest, ScriptedDriver, SpawnConfig, open_agent_pool


async def greeter(ctx: AgentContext, name: str) -> str:
    return f"Hello, {name}, I am agent {ctx.id}."


async def main() -> None:
    async with open_agent_pool(ScriptedDriver(["Paris."]), max_concurrent=10) as pool:
        for outcome in await pool.map(greeter, ["Ada", "Grace"]):
            print(outcome.unwrap())
        geographer = AgentManifest(name="geographer")
        handle = await pool.spawn(SpawnConfig(geographer, "What is the capital of France?"))
        print((await handle.result()).text)


if __name__ == "__main__":
    trio.run(main)
