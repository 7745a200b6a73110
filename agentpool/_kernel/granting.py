"""What agents may do: each what it asks for, as far as its parent may do that.

An agent of plain code asks for nothing of its own: it may do what its parent may. One that the program
started may do everything, unless it asks for less. What an agent may do is found when somebody first asks,
its tools mostly, and stays the same for all of its lives.

Beside its parent there is whoever spawned it: a tool call may start an agent on the pool, or in a pool of
its own, and plain code may run the loop of a model within an agent that may do more. So what a run of the
loop may do is in a context variable, which all that it starts inherits.
"""

from __future__ import annotations

from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, TypeGuard

from agentpool._core.grants import EVERYTHING, NOTHING, Grants
from agentpool._kernel.agent import AgentRecord, Granted
from agentpool._kernel.binding import Bound
from agentpool._kernel.places import keep_in_journal
from agentpool._kernel.protection import call_unprotected, protect_module

if TYPE_CHECKING:
    from agentpool._core.capability import Capability, PrivacyTier
    from agentpool._core.past import PastAgent
    from agentpool.abc import LimitedAgent, ToolBuilder, ToolSet

_in_force: ContextVar[Grants | None] = ContextVar("agentpool_grants", default=None)
"""What the run of a loop may do on whose behalf the calling code works; None for no run."""
keep_in_journal("grants", _in_force)

in_use = False
"""Whether a loop ever ran in this process: without a look at it, each spawn costs 0.3 % more instructions."""


def are_in_use() -> None:
    """A loop runs, here or for an agent of this process elsewhere."""
    global in_use
    in_use = True


def within(grants: Grants) -> Bound[Grants | None]:
    """Have what is started within the block do no more than is granted."""
    are_in_use()
    return Bound(_in_force, grants)


def spawned_in(record: AgentRecord, context: Context | None) -> None:
    """Have an agent do no more than the loop whose tool call spawns it, in a context, or here."""
    above = _in_force.get() if context is None else context.get(_in_force)
    if above is not None:
        record.own.above = above


def granted_to(record: AgentRecord) -> Granted:
    """Return what an agent may do.

    Raises:
      Exception: what a user's agent raises that is asked what it wants.
    """
    own = record.own
    found = own.granted
    if found is None:
        # Not recursive: trees may be thousands deep.
        unasked = [record]
        parent = record.parent
        while parent is not None and parent.own.granted is None:
            unasked.append(parent)
            parent = parent.parent
        grants = EVERYTHING if parent is None or parent.own.granted is None else parent.own.granted.grants
        for each in reversed(unasked):
            found = _granted_below(grants, each)
            grants = found.grants
        assert found is not None
    return found


def limit_of(record: AgentRecord) -> Grants:
    """Return the most that an agent may do, whatever it asks for: for a process that runs it elsewhere.

    Raises:
      Exception: as `granted_to`, of its parent.
    """
    parent = record.parent
    return _limit_below(EVERYTHING if parent is None else granted_to(parent).grants, record)


def granted_below(limit: Grants, agent: object) -> Granted:
    """Return what an agent may do of which another process found the limit, by `limit_of`."""
    return _limited(agent, EVERYTHING if limit == EVERYTHING else limit)


def _limit_below(parent: Grants, record: AgentRecord) -> Grants:
    above = record.own.above
    limit = parent if parent is EVERYTHING else parent.below()
    if above is not None and above is not parent:
        limit = above.below().within(limit)
    return limit


def _granted_below(parent: Grants, record: AgentRecord) -> Granted:
    limit = _limit_below(parent, record)
    if record.resumed is not None and not record.is_spawned:
        # Not kept: when it is claimed, it may be another one.
        return _limited(_agent_of_past(record.resumed.past), limit)
    found = record.own.granted = _limited(record.work.fn, limit)
    return found


def granted_within(record: AgentRecord, agent: object) -> Granted:
    """Return what an agent may do that is run within another one, by the code that calls this."""
    granted = granted_to(record)
    if record.work.fn is agent:
        return granted
    here, limit = _in_force.get(), granted.grants
    if here is not None and here is not limit:
        limit = here.within(limit)
    return _limited(agent, limit)


class Bounded:
    """The half of a context that tells what its agent may do."""

    __slots__ = ()

    _agent: AgentRecord

    @property
    def grants(self) -> tuple[Capability, ...] | None:
        """What the agent may do: what its manifest asks for, as far as its parent may do that.

        An agent of plain code may do what its parent may. With each level there is one level less of
        spawning. None for one that may do everything, such as plain code that the program started.
        Paths are absolute, and hold no links. Blocks on the disk when it is first asked for.
        """
        return granted_to(self._agent).grants.capabilities

    @property
    def privacy(self) -> PrivacyTier:
        """Where the agent's words may travel to: the narrower tier of its manifest and of its parent."""
        return granted_to(self._agent).grants.privacy

    def granted_to(self, agent: object) -> Granted:
        """Return what an agent may do that code calls here in place of spawning it; or this agent itself."""
        return granted_within(self._agent, agent)


def tools_within(record: AgentRecord, builder: ToolBuilder | None) -> ToolSet | None:
    """Return the tools of an agent, with none that is not granted; None if it has none.

    Raises:
      Exception: what building them raises.
    """
    agent, granted = record.work.fn, granted_to(record)
    tools: ToolSet | None = call_unprotected(granted.agent.build_tools, builder)
    if tools is None or granted.grants.capabilities is None:
        return tools
    if granted.agent is agent and _is_limited(agent):
        return tools  # it has all that it asks for, in its own words: paths may be relative there
    limited: ToolSet = call_unprotected(tools.limited_to, granted.grants.capabilities)
    return limited


def _limited(agent: object, limit: Grants) -> Granted:
    if not _is_limited(agent):
        return Granted(limit, agent)
    wanted: Grants = call_unprotected(lambda: agent.wanted)
    if limit is EVERYTHING:
        return Granted(wanted, agent)
    grants = wanted.within(limit)
    return Granted(grants, agent if grants == wanted else call_unprotected(agent.limited_to, grants))


def _agent_of_past(past: PastAgent) -> object:
    """Return what an agent will run that was begun by another process and is not claimed yet.

    Its children are back before it is, and may do no more than when they were spawned.
    """
    from agentpool._kernel.descriptions import described_agent  # who has no journal needs none
    from agentpool._objects import UnreadableDataError

    described = past.work["agent"]
    try:
        return None if described is None else call_unprotected(described_agent, described)
    except UnreadableDataError:
        return _Unknown()  # nobody can claim it


class _Unknown:
    """An agent that cannot be made again."""

    wanted = NOTHING

    def limited_to(self, grants: Grants) -> object:
        raise NotImplementedError  # it asks for nothing


def _is_limited(agent: object) -> TypeGuard[LimitedAgent]:
    try:
        return hasattr(agent, "limited_to")  # not `wanted` too: that looks at the disk
    except BaseException:  # as `name_of`
        return False


protect_module(globals())
