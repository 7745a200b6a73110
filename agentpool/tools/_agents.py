"""The tools by which agents remember, talk to each other, and spawn others."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, assert_never

import attrs
import trio

from agentpool._core.capability import MemoryCapability, MessagingCapability, SpawnCapability, inherited
from agentpool._core.content import text_of
from agentpool._core.errors import AgentPoolError, DeadlockError, ToolError
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import AgentMessage, ToolResult
from agentpool._core.outcomes import Aborted, AgentOutcome, AgentResult, Completed, Failed
from agentpool._core.perceiving import perceived
from agentpool.abc import Memory, ToolContext
from agentpool.tools._function import tool

MAX_RECALLED = 50


@contextmanager
def _told_to_the_model() -> Iterator[None]:
    """Give the model the words of what a pool refuses, without the name of the exception's class."""
    try:
        yield
    except AgentPoolError as error:
        raise ToolError(str(error)) from error


# -- memory -------------------------------------------------------------------------


@tool(capability=MemoryCapability())
async def remember(ctx: ToolContext, content: str) -> str:
    """Keep a text, so that this and other agents can recall it later.

    Args:
      content: what to keep; one fact in words that somebody would search for.
    """
    fragment_id = await _memory(ctx).remember(content, source="tool", agent_id=ctx.id)
    return f"remembered as {fragment_id}"


@tool(capability=MemoryCapability(), idempotent=True)
async def recall(ctx: ToolContext, query: str, limit: int = 5) -> str:
    """Recall what was remembered, by this agent or another one, best first.

    Args:
      query: words to look for.
      limit: how many texts at the most.
    """
    if not 1 <= limit <= MAX_RECALLED:
        raise ToolError(f"limit is from 1 to {MAX_RECALLED}")
    fragments = await _memory(ctx).recall(query, limit=limit)
    lines = [f"- {fragment.content} (agent {fragment.agent_id})" for fragment in fragments]
    return "\n".join(lines) or "nothing was remembered that has these words"


def _memory(ctx: ToolContext) -> Memory:
    if ctx.memory is None:
        raise ToolError("this pool has no memory")
    return ctx.memory


# -- messages -----------------------------------------------------------------------


# The two wait for others, however long they take: the loop's limit for a tool is not meant for them.
# It would hide from the pool that agents wait for each other. They may be called again after a crash: what
# a call had done by its agent's verbs is in the journal, and is not done twice.
@tool(capability=MessagingCapability(), timeout=math.inf, idempotent=True)
async def send_message(ctx: ToolContext, to: int | str, content: str) -> str:
    """Send a message to another agent; waits while its inbox is full, or while it is started again.

    Args:
      to: the id of the agent, or its name.
      content: what to tell it.
    """
    is_id = isinstance(to, int) or to.isdecimal()
    with _told_to_the_model():
        # By name and not by the id that has it now: the message reaches the next life of a service.
        await ctx.send(int(to) if is_id else to, content)
    return f"sent to agent {to}" if is_id else f"sent to {to}"


@tool(capability=MessagingCapability(), timeout=math.inf, idempotent=True)
async def receive_message(ctx: ToolContext, timeout: float | None = None) -> str:
    """Wait for the next message from another agent, and show it with the id of its sender.

    Args:
      timeout: seconds to wait at the most; left out, until there is one or none can come any more.
    """
    if timeout is not None and not 0 <= timeout < math.inf:
        raise ToolError("timeout is a number of seconds from 0 up")
    if timeout is None:
        try:
            return await _receive(ctx.receive_for_model())
        except DeadlockError as error:
            raise ToolError("no message can come: everybody who could write to you waits") from error
    with trio.move_on_after(timeout):
        return await _receive(ctx.receive())
    return f"no message within {timeout:g} seconds"


async def _receive(message: Awaitable[AgentMessage]) -> str:
    try:
        return text_of(perceived((), (await message,))[0].content)
    except trio.EndOfChannel:
        return "no more messages: the pool is ending"


# -- children -----------------------------------------------------------------------


class AgentSpawner:
    """`spawn_agent`: a child with the manifest of its parent, narrowed.

    The child may spawn one level less than its parent; at the last level it has no such tool.
    """

    def __init__(self, manifest: AgentManifest, make_agent: Callable[[AgentManifest, str], Any]) -> None:
        """Keep what children are made from.

        Args:
          manifest: the parent's manifest.
          make_agent: makes an agent of a manifest and a query, as `SpawnConfig` does.
        """
        self._child = attrs.evolve(manifest, capabilities=inherited(manifest.capabilities))
        self._make_agent = make_agent

    @tool(capability=SpawnCapability(), timeout=math.inf, idempotent=True)
    async def spawn_agent(self, ctx: ToolContext, query: str, name: str | None = None) -> ToolResult:
        """Have another agent like yourself work on a question, wait for it, and get its answer.

        Calls of this tool in one turn work side by side.

        Args:
          query: what it is to do; it knows nothing of this conversation.
          name: a name for it.
        """
        with _told_to_the_model():
            handle = await ctx.spawn_for_model(self._make_agent(self._child, query), name=name)
            try:
                outcome: AgentOutcome[Any] = await handle.wait()
            except BaseException:
                handle.abort("the agent that asked for it stopped waiting")
                raise
        return _result_of(outcome)


def _result_of(outcome: AgentOutcome[Any]) -> ToolResult:
    who = f"agent {outcome.agent_id} ({outcome.name})"
    match outcome:
        case Completed(value=AgentResult(text, stopped_by=None)):
            return ToolResult(text)
        case Completed(value=AgentResult(text, stopped_by=limit)):
            # Else what is unfinished would look like a whole answer.
            return ToolResult(f"{text}\n\n({who} was stopped at its limit ({limit}): it may be incomplete.)")
        case Completed():
            return ToolResult(str(outcome.value))
        case Failed():
            error = outcome.error
            return ToolResult(f"{who} failed: {type(error).__name__}: {error}", is_error=True)
        case Aborted():
            return ToolResult(f"{who} was aborted: {outcome.reason or 'no reason given'}", is_error=True)
        case _:
            assert_never(outcome)
