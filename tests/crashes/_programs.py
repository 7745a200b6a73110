"""Random programs for runs that are cut off: as data, and what runs them.

A tidy program comes to one result only, whatever the order in which its agents run, so that a run that
was resumed can be compared with one that was not. An untidy one has time limits, aborts and failures at
any time; of it there must be no contradiction between what an agent saw before a crash and after it.
"""

from __future__ import annotations

from random import Random
from typing import Any, TypeAlias

import trio

from agentpool import (
    AgentContext,
    AgentManifest,
    AgentPoolError,
    ChildSpec,
    ModelAgent,
    RestartPolicy,
    Supervisor,
)

from ._town import TOOLS, archive, stubborn
from ._world import plain, world

Op: TypeAlias = tuple[Any, ...]
Script: TypeAlias = tuple[Op, ...]

TIDY = {
    "step": 4,
    "pledge": 2,
    "sleep": 2,
    "child": 4,
    "map": 2,
    "race": 1,
    "completed": 2,
    "ask": 2,
    "talk": 2,
    "topic": 1,
    "tasks": 2,
    "restart": 1,
    "supervise": 1,
    "model": 4,
    "failing": 1,
    "late": 1,
    "aborted": 1,
    "joined": 2,
    "vote": 1,
    "fan_out": 1,
}
UNTIDY = {
    **TIDY,
    "within": 0,
    "abort": 4,
    "left": 3,
    "nowait": 3,
    "say": 3,
    "broadcast": 1,
    "receive": 2,
    "join": 2,
    "fail": 1,
    "abort_any": 1,
    "ask_any": 2,
    "say_now": 3,
    "look_for": 2,
    "spawn_now": 2,
}


def draw(seed: int, *, tidy: bool) -> Script:
    """Return the script of the first agent."""
    rng = Random(f"crash {seed} {tidy}")
    return _script(rng, TIDY if tidy else UNTIDY, depth=0)


def _script(rng: Random, weights: dict[str, int], depth: int) -> Script:
    length = rng.randint(1, 4 if depth else 7)
    return tuple(_op(rng, weights, depth) for _ in range(length))


def _op(rng: Random, weights: dict[str, int], depth: int) -> Op:
    kind = rng.choices(list(weights), list(weights.values()))[0]

    def inner() -> Script:
        if depth >= 3:
            return (("step", rng.randint(0, 99)), ("sleep", rng.choice([0, 0.01])))
        return _script(rng, weights, depth + 1)

    match kind:
        case "step" | "model" | "failing" | "pledge":
            return kind, rng.randint(0, 99)
        case "sleep":
            return kind, rng.choice([0, 0.001, 0.01, 0.1])
        case "child" | "left" | "spawn_now":
            return kind, inner()
        case "map" | "completed" | "tasks" | "joined" | "fan_out":
            return kind, tuple(inner() for _ in range(rng.randint(1, 3)))
        case "ask" | "talk" | "topic" | "restart" | "supervise" | "vote":
            return kind, rng.randint(1, 3)
        case "within":
            return kind, rng.choice([0, 0.001, 0.005, 0.02, 0.1]), inner()
        case "abort":
            return kind, rng.choice([0, 0, 0.001, 0.005, 0.02]), inner()
        case "say" | "abort_any" | "ask_any" | "say_now" | "look_for":
            return kind, rng.randint(0, 9)
        case _:
            return (kind,)


# -- what runs them -----------------------------------------------------------------------------

EXPECTED = (AgentPoolError, ValueError, LookupError, trio.WouldBlock, trio.Cancelled)


async def actor(ctx: AgentContext, script: Script, me: str = "1") -> list[Any]:
    """Do what a script says; return what each of its operations came to.

    Args:
      me: names it in every run; its id depends on the order in which agents are spawned.
    """
    return await _Acting(ctx, me).all_of(script, "")


async def numbered(ctx: AgentContext, item: tuple[Script, str]) -> list[Any]:
    """As `actor`, for one item of a batch."""
    return await actor(ctx, *item)


class _Acting:
    def __init__(self, ctx: AgentContext, me: str) -> None:
        self.ctx = ctx
        self.me = me

    def _items(self, path: str, scripts: tuple[Script, ...]) -> list[tuple[Script, str]]:
        return [(script, f"{self.me}.{path}-{number}") for number, script in enumerate(scripts)]

    async def all_of(self, script: Script, path: str) -> list[Any]:
        seen = []
        for number, op in enumerate(script):
            here = f"{path}{number}"
            found = plain(await getattr(self, op[0])(here, *op[1:]))
            world().do(f"note {self.me}|{here} {found!r}")
            seen.append(found)
        return seen

    async def step(self, path: str, number: int) -> Any:
        return await self.ctx.step(f"step {number}", look_up, f"{self.me}|{path} {number}")

    async def pledge(self, path: str, number: int) -> None:
        """Do something outside by what a step came to, which is never the same twice."""
        drawn = await self.ctx.step("draw", draw_lot)
        world().do(f"pledge {self.me}|{path} {drawn}")

    async def sleep(self, path: str, seconds: float) -> None:
        await trio.sleep(seconds)

    async def child(self, path: str, script: Script) -> Any:
        return await _told(await self.ctx.spawn(actor, script, f"{self.me}.{path}"))

    async def map(self, path: str, scripts: tuple[Script, ...]) -> Any:
        return [_how(outcome) for outcome in await self.ctx.map(numbered, self._items(path, scripts))]

    async def fan_out(self, path: str, scripts: tuple[Script, ...]) -> Any:
        handles = [await self.ctx.spawn(numbered, item) for item in self._items(path, scripts)]
        return [await _told(handle) for handle in handles]

    async def race(self, path: str) -> Any:
        return _how(await self.ctx.race(ready, late))

    async def vote(self, path: str, count: int) -> Any:
        verdict = await self.ctx.vote(ready, n=count)
        return verdict.winner

    async def completed(self, path: str, scripts: tuple[Script, ...]) -> Any:
        found = []
        async with self.ctx.as_completed(numbered, self._items(path, scripts)) as done:
            async for outcome in done:
                world().do(f"note {self.me}|{path}-taken/{len(found)} {_how(outcome)!r}")
                found.append(_how(outcome))
        return sorted(found, key=repr)

    async def joined(self, path: str, scripts: tuple[Script, ...]) -> Any:
        for item in self._items(path, scripts):
            await self.ctx.spawn(numbered, item)
        found = [_how(await self.ctx.join_next()) for _ in scripts[1:]]
        rest = await self.ctx.join_all()
        return sorted([*found, *map(_how, rest.values())], key=repr)

    async def ask(self, path: str, count: int) -> Any:
        handle = await self.ctx.spawn(archive)
        answers = [await self.ctx.ask(handle.id, f"{path} {number}") for number in range(count)]
        await self.ctx.send(handle.id, "stop")
        return [answers, await _told(handle)]

    async def talk(self, path: str, count: int) -> Any:
        handles = [await self.ctx.spawn(talker, number) for number in range(count)]
        heard = sorted([(await self.ctx.receive()).content for _ in handles], key=repr)
        return [heard, [await _told(handle) for handle in handles]]

    async def topic(self, path: str, count: int) -> Any:
        handles = [await self.ctx.spawn(listener, f"{self.me} {path}") for _ in range(count)]
        for _ in handles:
            await self.ctx.receive()
        reached = await self.ctx.publish(f"{self.me} {path}", path)
        return [reached, [await _told(handle) for handle in handles]]

    async def tasks(self, path: str, scripts: tuple[Script, ...]) -> Any:
        found: dict[int, Any] = {}

        async def one(number: int, script: Script) -> None:
            try:
                found[number] = await self.all_of(
                    tuple(op for op in script if op[0] in _ALONE), f"{path}/{number}/"
                )
            except EXPECTED as error:
                if isinstance(error, trio.Cancelled):
                    raise
                found[number] = plain(error)

        async with self.ctx.open_nursery() as nursery:
            for number, script in enumerate(scripts):
                nursery.start_soon(one, number, script)
        return [found[number] for number in sorted(found)]

    async def restart(self, path: str, fails: int) -> Any:
        policy = RestartPolicy("on_failure", max_restarts=5)
        handle = await self.ctx.spawn(stubborn, restart=policy)
        for content in [*["die"] * fails, "live"]:
            await self.ctx.send(handle.id, content)
        outcome = await handle.wait()
        return [_how(outcome), outcome.restarts]

    async def supervise(self, path: str, fails: int) -> Any:
        spec = ChildSpec(frail, (self.ctx.id, path), name=f"frail {self.me} {path}", mode="on_failure")
        handle = await self.ctx.spawn(Supervisor([spec], max_restarts=9, within=10_000))
        for content in [*["fail"] * fails, "end"]:
            child = (await self.ctx.receive()).sender
            await self.ctx.send(child, content)
        return await _told(handle)

    async def model(self, path: str, number: int) -> Any:
        outcome = await (
            await self.ctx.spawn(ModelAgent(SCHOLAR, tools=TOOLS), f"random {number} {self.me}.{path}")
        ).wait()
        return _how(outcome)

    async def failing(self, path: str, number: int) -> Any:
        return await _told(await self.ctx.spawn(fails, number))

    async def late(self, path: str) -> Any:
        return type((await (await self.ctx.spawn(late, timeout=0.5)).wait()).error).__name__  # type: ignore[union-attr]

    async def aborted(self, path: str) -> Any:
        handle = await self.ctx.spawn(late)
        handle.abort("not needed")
        return await _told(handle)

    # -- untidy ----------------------------------------------------------------------------------

    async def within(self, path: str, seconds: float, script: Script) -> Any:
        with trio.move_on_after(seconds):
            return await self._trying(script, f"{path}/")
        return "too late"

    async def _trying(self, script: Script, path: str) -> Any:
        try:
            return await self.all_of(script, path)
        except EXPECTED as error:
            if isinstance(error, trio.Cancelled):
                raise
            return plain(error)

    async def abort(self, path: str, seconds: float, script: Script) -> Any:
        handle = await self.ctx.spawn(actor, script, f"{self.me}.{path}")
        await trio.sleep(seconds)
        handle.abort(path)
        return await _told(handle)

    async def left(self, path: str, script: Script) -> Any:
        return (await self.ctx.spawn(trying, script, f"{self.me}.{path}")).id

    async def nowait(self, path: str) -> Any:
        try:
            message = self.ctx.receive_nowait()
        except trio.WouldBlock:
            return "nothing"
        return plain(message.content)

    async def say(self, path: str, to: int) -> Any:
        try:
            with trio.move_on_after(0.05):
                await self.ctx.send(to or 1, f"{self.me}|{path}")
                return "said"
        except AgentPoolError as error:
            return plain(error)[0]
        return "no room"

    async def say_now(self, path: str, to: int) -> Any:
        try:
            self.ctx.send_nowait(to or 1, f"{self.me}|{path}")
        except (AgentPoolError, trio.WouldBlock) as error:
            return plain(error)[0]
        return "said"

    async def look_for(self, path: str, number: int) -> Any:
        try:
            return self.ctx.find("scholar" if number % 2 else "trying")
        except AgentPoolError as error:
            return plain(error)[0]

    async def spawn_now(self, path: str, script: Script) -> Any:
        try:
            return self.ctx.spawn_nowait(trying, script, f"{self.me}.{path}").id
        except (AgentPoolError, trio.WouldBlock) as error:
            return plain(error)[0]

    async def ask_any(self, path: str, to: int) -> Any:
        try:
            with trio.move_on_after(0.05):
                return await self.ctx.ask(to or 1, f"{self.me}|{path}")
        except AgentPoolError as error:
            return plain(error)[0]
        return "no answer"

    async def broadcast(self, path: str) -> Any:
        with trio.move_on_after(0.05):
            return await self.ctx.broadcast(path)
        return "no room"

    async def receive(self, path: str) -> Any:
        with trio.move_on_after(0.01):
            return plain((await self.ctx.receive()).content)
        return "nothing"

    async def join(self, path: str) -> Any:
        with trio.move_on_after(0.01):
            outcome = await self.ctx.join_next()
            return None if outcome is None else _how(outcome)
        return "nobody"

    async def fail(self, path: str) -> Any:
        raise LookupError(path)

    async def abort_any(self, path: str, number: int) -> Any:
        self.ctx.abort_all(path)


_ALONE = ("step", "pledge", "sleep", "child", "map", "race", "ask", "model", "failing", "late", "aborted")
"""What may be done by several tasks of an agent at once without one taking what is another's."""


def _how(outcome: Any) -> Any:
    """Return how an agent ended, without what changes from run to run."""
    if hasattr(outcome, "value"):
        return plain(getattr(outcome.value, "text", outcome.value))
    if hasattr(outcome, "error"):
        return plain(outcome.error)[0]
    return "aborted"


async def _told(handle: Any) -> Any:
    return _how(await handle.wait())


async def draw_lot() -> int:
    await trio.lowlevel.checkpoint()
    world().do("lot")
    return len(world().lines)


async def look_up(what: str) -> str:
    world().do(f"step {what}")
    await trio.lowlevel.checkpoint()
    return what


async def trying(ctx: AgentContext, script: Script, me: str) -> Any:
    return await _Acting(ctx, me)._trying(script, "")


async def talker(ctx: AgentContext, number: int) -> int:
    assert ctx.parent_id is not None
    await ctx.send(ctx.parent_id, number)
    return number


async def listener(ctx: AgentContext, topic: str) -> Any:
    ctx.subscribe(topic)
    assert ctx.parent_id is not None
    await ctx.send(ctx.parent_id, "ready")
    return (await ctx.receive()).content


async def frail(ctx: AgentContext, boss: int, path: str) -> str:
    await ctx.send(boss, path)
    if (await ctx.receive()).content == "fail":
        raise ValueError("as it was told")
    return "well"


async def ready(ctx: AgentContext) -> str:
    await trio.sleep(0.001)
    return "ready"


async def late(ctx: AgentContext) -> str:
    await trio.sleep(1000)
    return "late"


async def fails(ctx: AgentContext, number: int) -> None:
    await trio.sleep(0.001)
    raise LookupError(f"nothing at {number}")


SCHOLAR = AgentManifest(name="scholar")
