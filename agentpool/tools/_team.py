"""The tools by which a model has other agents work for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import attrs
import trio

from agentpool._core.capability import SpawnCapability, grants, inherited
from agentpool._core.errors import DeadlockError, ToolError, UnknownAgentError
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import AgentId, ToolDefinition, ToolResult
from agentpool._core.outcomes import AgentOutcome
from agentpool._core.text import shown
from agentpool.abc import Tool, ToolContext
from agentpool.tools._function import FunctionTool, tool
from agentpool.tools._outcomes import block, block_of, result_of, told_to_the_model
from agentpool.tools._shown import ShownTool, with_choice

MakeAgent = Callable[[AgentManifest, str], Any]
"""Makes an agent of a manifest and a query, as `SpawnConfig` does."""

MAX_DESCRIPTION = 300
"""So many characters of a manifest's description are told to a model that may spawn its agent."""

STOP_SECONDS = 10.0
"""So long `stop_agent` waits for the end of an agent that it has stopped."""

# Any grant of the kind will do for the tools; whom it names is looked at for each agent.
MAY_SPAWN = SpawnCapability(1, ())


def spawnable(manifest: AgentManifest, agents: Iterable[AgentManifest] | None) -> list[AgentManifest]:
    """Return the agents that a manifest may spawn: those of a team that it is granted, or its own kind.

    Args:
      manifest: that of the agent which spawns.
      agents: its team; None if there is none.
    """
    granted = manifest.capabilities
    if not grants(granted, MAY_SPAWN):
        return []
    if agents is None:
        return [attrs.evolve(manifest, capabilities=inherited(granted))]
    return [each for each in agents if grants(granted, SpawnCapability(1, (each.name,)))]


def choice_of(plain: ToolDefinition, agents: Sequence[AgentManifest]) -> ToolDefinition:
    """Return the definition of a tool that takes an `agent`, with the names of those that there are."""
    lines = [f"- {each.name}: {_short(each.description)}".removesuffix(": ") for each in agents]
    told = "\n".join(["The agents:", *lines])
    return with_choice(plain, "agent", [each.name for each in agents], told)


def _short(description: str) -> str:
    said = " ".join(description.split())
    return said if len(said) <= MAX_DESCRIPTION else f"{said[: MAX_DESCRIPTION - 3].rstrip()}..."


def one_of(agents: Sequence[AgentManifest], name: str) -> AgentManifest:
    """Return the agent of a name; also of one whose capitals, spaces and quotes a model got wrong.

    Raises:
      ToolError: if there is none.
    """
    found = [each for each in agents if each.name == name]
    found = found or [each for each in agents if _letters(each.name) == _letters(name)]
    if len(found) == 1:
        return found[0]
    raise ToolError(
        f"there is no agent {shown(name)} to choose; there are: {', '.join(e.name for e in agents)}"
    )


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


class TeamTool(ShownTool):
    """A tool of a team, as the model sees it: with the names and descriptions of the agents."""

    def __init__(self, plain: FunctionTool[..., Any], agents: Sequence[AgentManifest] | None) -> None:
        """Keep what is called.

        Args:
          plain: does it.
          agents: those that its argument `agent` chooses from; None if it has no such argument.
        """
        super().__init__(plain)
        self._agents = agents

    def __repr__(self) -> str:
        return repr(self._plain)

    def described(self, plain: ToolDefinition) -> ToolDefinition:
        """Return the definition, with the agents in it."""
        return plain if self._agents is None else choice_of(plain, self._agents)


class Starter(TeamTool):
    """`start_agent`, which answers for those that it started when its agent is resumed, or ends."""

    def __init__(
        self,
        plain: FunctionTool[..., Any],
        agents: Sequence[AgentManifest] | None,
        started: StartedAgents,
    ) -> None:
        super().__init__(plain, agents)
        self.adopt = started.adopt
        self.collect = started.collect
        self.let_go = started.let_go


# -- those that were started --------------------------------------------------------


@attrs.define(eq=False)
class _Started:
    """An agent that a model started.

    Attributes:
      handle: its handle.
      is_told: whether the model was told how it ended.
      waits_for_us: whether it was found to wait for the agent that started it.
    """

    handle: Any
    is_told: bool = False
    waits_for_us: bool = False

    async def hear(self) -> None:
        """Wait for its end, unless it waits for the agent that calls."""
        self.waits_for_us = False
        try:
            await self.handle.wait()
        except DeadlockError:
            self.waits_for_us = True

    async def tell(self) -> str:
        """Return how it ended, or what it is doing."""
        outcome: AgentOutcome[Any] | None = self.handle.outcome
        if outcome is not None:
            await self.handle.wait()  # so that the outcome is taken, and its journal tells that it was
            self.is_told = True
            return block_of(outcome)
        if self.waits_for_us:
            said = "It waits for you: for a reply to its message, or for room for one. See to that first."
        else:
            said = "It has not ended."
        return block(self.handle.id, self.handle.name, self.handle.status, said)


_NOT_NEEDED = "the agent that started it has ended its work"
_ALL_HEARD = "there is no agent that you started and have not heard the end of"


class StartedAgents:
    """The agents that one agent's model started and does not wait for at once."""

    def __init__(self) -> None:
        """Begin with none."""
        self._all: dict[AgentId, _Started] = {}

    def add(self, handle: Any) -> None:
        """Take in an agent that was started."""
        self._take_in(_Started(handle))

    def adopt(self, handles: Iterable[tuple[Any, bool]]) -> None:
        """Take in the agents that were started before their parent was resumed.

        Args:
          handles: each with whether the model was told how it had ended.
        """
        for handle, is_told in handles:
            self._take_in(_Started(handle, is_told))

    def _take_in(self, started: _Started) -> None:
        # In the order of their ids, and not in that in which calls of one turn came to their ends.
        self._all[started.handle.id] = started
        self._all = dict(sorted(self._all.items()))

    def find(self, which: int | str) -> _Started:
        """Return the agent of an id or a name; a number is an id, where there is one.

        Raises:
          ToolError: if there is none, or it may be several.
        """
        text = str(which).strip()
        found = [each for each in self._all.values() if each.handle.name == text]
        numbered = self._all.get(int(text)) if text.isdecimal() else None
        if numbered is not None:
            # Models call agents "1", "2", "3", whose ids are 2, 3 and 4.
            found = [numbered] if isinstance(which, int) else list(dict.fromkeys([numbered, *found]))
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(f"{each.handle.id} ({each.handle.name})" for each in found)
            raise ToolError(f"several agents that you started go by {text}: {ids}. Use their ids, as numbers")
        known = ", ".join(f"{each.handle.id} ({each.handle.name})" for each in self._all.values())
        raise ToolError(f"you have started no agent {shown(which)}; you have started: {known or 'none'}")

    def choose(self, which: Sequence[int | str] | None) -> list[_Started]:
        """Return the agents of these ids and names, each once; of None those not heard of to their ends."""
        if which is None:
            return [each for each in self._all.values() if not each.is_told]
        return list(dict.fromkeys(self.find(each) for each in which))

    async def wait(self, ctx: ToolContext, agents: Sequence[_Started], mode: str) -> None:
        """Wait until all of some agents have ended, or any; who waits for the caller is passed over."""
        if mode == "any":
            if all(each.handle.outcome is None for each in agents):
                await _first_of(ctx, agents)
            return
        for each in agents:
            await each.hear()

    async def collect(self, ctx: ToolContext, *, stop: bool) -> str:
        """Wait for all, and return what the model was not told yet; empty if there is nothing.

        Args:
          ctx: that of the agent, whose run ends.
          stop: whether those that still run are aborted.
        """
        agents = self.choose(None)
        for each in agents:
            # One that waits for an answer was told of once: nobody will give it any more.
            if stop or each.waits_for_us:
                each.handle.abort(_NOT_NEEDED)
        for each in agents:
            await each.hear()
        return await _told(agents)

    def let_go(self) -> None:
        """Abort those that have not ended. What waited for its last answer waits for nothing any more."""
        for each in self._all.values():
            each.handle.abort(_NOT_NEEDED)


async def _told(agents: Iterable[_Started]) -> str:
    return "\n".join([await each.tell() for each in agents])


async def _first_of(ctx: ToolContext, agents: Sequence[_Started]) -> None:
    async def hear(one: _Started) -> None:
        await one.hear()
        nursery.cancel_scope.cancel()

    async with ctx.open_nursery() as nursery:
        for each in agents:
            nursery.start_soon(hear, each)


# -- the tools ----------------------------------------------------------------------


class Team:
    """The tools of one agent by which its model spawns others.

    What they may do, and how many there may be, the pool decides: a child has what its manifest asks
    for, as far as its parent has that.
    """

    def __init__(
        self, manifest: AgentManifest, make_agent: MakeAgent, agents: Iterable[AgentManifest] | None = None
    ) -> None:
        """Keep what children are made from.

        Args:
          manifest: that of the agent.
          make_agent: makes an agent of a manifest and a query, as `SpawnConfig` does.
          agents: the manifests that it chooses from; None has it spawn its own kind.
        """
        self._agents = spawnable(manifest, agents)
        self._is_named = agents is not None
        self._make_agent = make_agent
        self._started = StartedAgents()

    def tools(self) -> list[Tool]:
        """Return the tools; none if there is nobody to spawn."""
        if not self._agents:
            return []
        spawn, start = (
            (self.spawn_named, self.start_named) if self._is_named else (self.spawn_agent, self.start_agent)
        )
        choice = self._agents if self._is_named else None
        return [
            TeamTool(spawn, choice),
            Starter(start, choice, self._started),
            self.message_agent,
            self.wait_agents,
            self.stop_agent,
        ]

    # They wait for others, however long they take: the loop's limit for a tool is not meant for them. They
    # may be called again after a crash: what a call had done by its agent's verbs is in the journal.

    @tool(capability=MAY_SPAWN, timeout=math.inf, idempotent=True)
    async def spawn_agent(self, ctx: ToolContext, query: str, name: str | None = None) -> ToolResult:
        """Have another agent like yourself work on a question, wait for it, and get its answer.

        Calls of this tool in one turn work side by side.

        Args:
          query: what it is to do; it knows nothing of this conversation.
          name: a name for it.
        """
        return await self._spawned(ctx, self._agents[0], query, name)

    @tool(name="spawn_agent", capability=MAY_SPAWN, timeout=math.inf, idempotent=True)
    async def spawn_named(
        self, ctx: ToolContext, agent: str, query: str, name: str | None = None
    ) -> ToolResult:
        """Have another agent work on a question, wait for it, and get its answer.

        Calls of this tool in one turn work side by side.

        Args:
          agent: which one.
          query: what it is to do; it knows nothing of this conversation.
          name: a name for it, if not its own.
        """
        return await self._spawned(ctx, one_of(self._agents, agent), query, name)

    @tool(capability=MAY_SPAWN, timeout=math.inf, idempotent=True)
    async def start_agent(self, ctx: ToolContext, query: str, name: str | None = None) -> str:
        """Have another agent like yourself begin to work on a question, and go on meanwhile.

        `wait_agents` gets its answer. Those that you did not wait for, you hear of when you give your own.

        Args:
          query: what it is to do; it knows nothing of this conversation.
          name: a name for it.
        """
        return await self._begun(ctx, self._agents[0], query, name)

    @tool(name="start_agent", capability=MAY_SPAWN, timeout=math.inf, idempotent=True)
    async def start_named(self, ctx: ToolContext, agent: str, query: str, name: str | None = None) -> str:
        """Have another agent begin to work on a question, and go on meanwhile.

        `wait_agents` gets its answer. Those that you did not wait for, you hear of when you give your own.

        Args:
          agent: which one.
          query: what it is to do; it knows nothing of this conversation.
          name: a name for it, if not its own.
        """
        return await self._begun(ctx, one_of(self._agents, agent), query, name)

    @tool(capability=MAY_SPAWN, timeout=math.inf, idempotent=True)
    async def message_agent(self, ctx: ToolContext, agent: int | str, content: str) -> str:
        """Send a message to an agent that you started; waits while its inbox is full.

        It sees the message before it thinks next.

        Args:
          agent: its id, or its name.
          content: what to tell it.
        """
        handle = self._started.find(agent).handle
        try:
            with told_to_the_model():
                await ctx.send(handle.id, content)
        except ToolError as error:
            if isinstance(error.__cause__, UnknownAgentError):
                raise ToolError(
                    f"agent {handle.id} ({handle.name}) has ended: wait_agents tells how"
                ) from error
            raise
        return f"sent to agent {handle.id} ({handle.name})"

    @tool(capability=MAY_SPAWN, timeout=math.inf, idempotent=True)
    async def wait_agents(
        self,
        ctx: ToolContext,
        agents: list[int | str] | None = None,
        mode: Literal["all", "any"] = "all",
        timeout: float | None = None,
    ) -> str:
        """Wait for agents that you started, and get their answers. A timeout of 0 tells how they are doing.

        Args:
          agents: their ids or names; left out, all whose end you have not heard of.
          mode: whether to wait for all of them, or for any one to end.
          timeout: seconds to wait at the most; left out, for as long as they take.
        """
        if timeout is not None and not 0 <= timeout < math.inf:
            raise ToolError("timeout is a number of seconds from 0 up")
        chosen = self._started.choose(agents)
        if not chosen:
            raise ToolError(_ALL_HEARD)
        if timeout is None:
            await self._started.wait(ctx, chosen, mode)
        else:
            with trio.move_on_after(timeout):
                await self._started.wait(ctx, chosen, mode)
        return await _told(chosen)

    @tool(capability=MAY_SPAWN, timeout=math.inf, idempotent=True)
    async def stop_agent(self, ctx: ToolContext, agent: int | str, reason: str = "") -> str:
        """Stop an agent that you started, with those that it has started itself, and hear how it ended.

        Args:
          agent: its id, or its name.
          reason: why; it stands in its outcome.
        """
        found = self._started.find(agent)
        told = f": {reason}" if reason.strip() else ""
        found.handle.abort(f"stopped by agent {ctx.id} ({ctx.name}){told}")
        # One that cleans up for long, or does not let itself be cancelled, holds up nobody but the end.
        with trio.move_on_after(STOP_SECONDS):
            await found.hear()
        return await found.tell()

    async def _spawned(
        self, ctx: ToolContext, manifest: AgentManifest, query: str, name: str | None
    ) -> ToolResult:
        with told_to_the_model():
            handle = await ctx.spawn_for_model(
                self._make_agent(manifest, query), name=_name_of(manifest, name)
            )
            return await answer_of(handle)

    async def _begun(self, ctx: ToolContext, manifest: AgentManifest, query: str, name: str | None) -> str:
        with told_to_the_model():
            handle = await ctx.spawn_for_model(
                self._make_agent(manifest, query), name=_name_of(manifest, name)
            )
        # Nothing waits between the start and this: an agent that runs is known.
        self._started.add(handle)
        return f"agent {handle.id} ({handle.name}) has started"


def _name_of(manifest: AgentManifest, name: str | None) -> str | None:
    """Return what a child is called: as the model wants, in one line; None for its manifest's name."""
    said = "" if name is None else " ".join(name.split())
    return said or None


async def answer_of(handle: Any) -> ToolResult:
    """Wait for a child, and return its answer, or why there is none; it is aborted if nobody waits any more.

    Raises:
      DeadlockError: if the child waits for the caller.
    """
    try:
        outcome: AgentOutcome[Any] = await handle.wait()
    except BaseException:
        # Looked at, in case it has failed meanwhile: the call that waited for it has an error of its own.
        if handle.outcome is None:
            handle.abort("the agent that asked for it stopped waiting")
        raise
    return result_of(outcome)
