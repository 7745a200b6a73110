"""The tools by which agents remember, and talk to each other."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from typing import Any

import trio

from agentpool._core.capability import MemoryCapability, MessagingCapability
from agentpool._core.content import text_of
from agentpool._core.errors import DeadlockError, ToolError
from agentpool._core.messages import AgentId, AgentMessage
from agentpool._core.perceiving import perceived
from agentpool.abc import Memory, ToolContext
from agentpool.tools._function import tool
from agentpool.tools._outcomes import told_to_the_model

MAX_RECALLED = 50


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


# They wait for others, however long they take: the loop's limit for a tool is not meant for them.
# It would hide from the pool that agents wait for each other. They may be called again after a crash: what
# a call had done by its agent's verbs is in the journal, and is not done twice.
@tool(capability=MessagingCapability(), timeout=math.inf, idempotent=True)
async def send_message(ctx: ToolContext, to: int | str, content: str) -> str:
    """Send a message to another agent; waits while its inbox is full, or while it is started again.

    Args:
      to: the id of the agent, or its name.
      content: what to tell it.
    """
    whom = _recipient(to)
    with told_to_the_model():
        # By name and not by the id that has it now: the message reaches the next life of a service.
        await ctx.send(whom, content)
    return f"sent to {to}" if isinstance(whom, str) else f"sent to agent {to}"


def _recipient(to: int | str) -> AgentId | str:
    return int(to) if isinstance(to, int) or to.isdecimal() else to


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


@tool(capability=MessagingCapability(), timeout=math.inf, idempotent=True)
async def ask_agent(ctx: ToolContext, to: int | str, question: str, timeout: float | None = None) -> Any:
    """Ask another agent something, and wait for its reply.

    It has to reply to the message: its final answer is none.

    Args:
      to: the id of the agent, or its name.
      question: what to ask it.
      timeout: seconds to wait at the most; left out, until it replies or ends.
    """
    if timeout is not None and not 0 < timeout < math.inf:
        raise ToolError("timeout is a number of seconds above 0")
    with told_to_the_model():
        if timeout is None:
            try:
                return await ctx.ask(_recipient(to), question)
            except DeadlockError as error:
                hint = "Nothing was asked. If it waits for your reply, give that first, with reply_message"
                raise ToolError(f"{error}. {hint}") from error
        with trio.move_on_after(timeout):
            return await ctx.ask(_recipient(to), question)
    raise ToolError(f"no reply from {to} within {timeout:g} seconds; the question may have been read")


@tool(capability=MessagingCapability(), idempotent=True)
async def reply_message(ctx: ToolContext, message_id: int, content: str) -> str:
    """Reply to a message whose sender waits for that: one that says reply="awaited".

    Args:
      message_id: the id of the message.
      content: what to reply.
    """
    await trio.lowlevel.checkpoint()
    with told_to_the_model():
        # Of an agent in another process than its pool, the pool has to be asked.
        head = getattr(ctx, "head", None)
        message = ctx.question(message_id) if head is None else await head.question(message_id)
        ctx.reply(message, content)
    return f"replied to agent {message.sender}" if message.sender else "replied"
