"""Handing a conversation over: another agent goes on with it, and its answer is the run's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentpool._core.errors import Finding, ManifestError
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import ToolDefinition, ToolResult
from agentpool._core.rules import fix_for_name
from agentpool._core.text import shown
from agentpool.abc import ToolContext
from agentpool.tools._agent_tool import agent_from_data, agent_to_data
from agentpool.tools._function import tool
from agentpool.tools._shown import ShownTool
from agentpool.tools._team import MakeAgent, choice_of, one_of


@tool(idempotent=True)
def hand_off(agent: str, note: str = "") -> str:
    """Hand this conversation over to another agent, for good: it answers in your place.

    It sees all that was said so far. Call no other tool beside this one.

    Args:
      agent: which one.
      note: what it is to know or to do, beyond what was said.
    """
    raise NotImplementedError  # only its definition is used


class Handoff(ShownTool):
    """The tool `hand_off`: a call of it ends the run, and the agent that it names goes on.

    Attributes:
      hands_off: tells the loop what it is.
      manifests: of the agents that it names.
      agents: the agents, where a program gave them.
    """

    hands_off: bool = True

    def __init__(self, manifests: Sequence[AgentManifest], make: Callable[[AgentManifest], Any]) -> None:
        """Keep who may go on.

        Args:
          manifests: theirs, which differ in their names.
          make: makes the agent of one of them.
        """
        super().__init__(hand_off)
        self.manifests: tuple[AgentManifest, ...] = tuple(manifests)
        self.agents: tuple[Any, ...] = ()
        self._make = make

    def __reduce__(self) -> tuple[Any, ...]:
        return handoff_to, self.agents

    def __repr__(self) -> str:
        return f"<hand_off to {', '.join(each.name for each in self.manifests)}>"

    def described(self, plain: ToolDefinition) -> ToolDefinition:
        """Return the definition, with the agents in it."""
        return choice_of(plain, self.manifests)

    def target(self, arguments: Mapping[str, Any]) -> tuple[Any, str]:
        """Return the agent that goes on after a call that came to no error, and what it is told beside.

        Args:
          arguments: as the call was made.
        """
        taken = self.taken(arguments)  # what `call` has said, it said of these
        assert not isinstance(taken, ToolResult)
        return self._make(one_of(self.manifests, taken["agent"])), taken["note"]

    async def call(self, ctx: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Say that the conversation goes over; the loop does the rest."""
        taken = self.taken(arguments)
        if isinstance(taken, ToolResult):
            return taken
        chosen = one_of(self.manifests, taken["agent"])
        return ToolResult(f"Handed over to {chosen.name}.")

    def to_journal(self) -> Any:
        """Return what it is made from, as JSON data.

        Raises:
          NotDataError: if one of the agents cannot be made again.
        """
        return [agent_to_data(agent) for agent in self.agents]

    @classmethod
    def from_journal(cls, data: Any) -> Handoff:
        """Return the tool of which `to_journal` made this."""
        return handoff_to(*map(agent_from_data, data))


def handoff_in_team(
    manifest: AgentManifest, make_agent: MakeAgent, agents: Sequence[AgentManifest]
) -> Handoff:
    """Return the tool of an agent whose manifest names whom it hands over to.

    Raises:
      ManifestError: with a finding for each that is not there.
    """
    known = {each.name: each for each in agents}
    findings = [
        Finding(
            f"manifest {manifest.name!r}", f"handoffs[{n}]", f"there is no agent '{name}'", _fix(name, known)
        )
        for n, name in enumerate(manifest.handoffs)
        if name not in known
    ]
    if findings:
        raise ManifestError(findings)
    chosen = [known[name] for name in dict.fromkeys(manifest.handoffs)]
    return Handoff(chosen, lambda each: make_agent(each, "Go on."))


def _fix(name: str, known: Mapping[str, object]) -> str:
    if known:
        return fix_for_name(name, known)
    return "Name the agents: in a fleet as [[subagents]], in a program as ModelAgent(manifest, agents=[...])"


def handoff_to(*agents: Any) -> Handoff:
    """Make the tool `hand_off`, by which a model hands its conversation over to one of some agents.

        triage = ModelAgent(manifest, tools=[handoff_to(ModelAgent(billing), ModelAgent(refunds))])

    The run that calls it ends, and the agent that it names goes on with the whole conversation, by its
    own manifest, tools and driver, within the same task, budget and time. Its answer is the outcome. Agents
    that hand over to each other are written with `handoffs` in their manifests, and `ModelAgent(agents=...)`.

    Args:
      agents: each a `ModelAgent`.

    Raises:
      TypeError: if one of them is none.
      ValueError: if there is none, or two have the same name.
    """
    for agent in agents:
        if not isinstance(getattr(agent, "manifest", None), AgentManifest) or hasattr(agent, "query"):
            raise TypeError(f"handoff_to takes ModelAgents, not {shown(agent)}")
    known = {agent.manifest.name: agent for agent in agents}
    if not agents or len(known) < len(agents):
        raise ValueError("handoff_to takes at least one agent, and each has its own name")
    handoff = Handoff([agent.manifest for agent in agents], lambda manifest: known[manifest.name])
    handoff.agents = tuple(agents)
    return handoff
