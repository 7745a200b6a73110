"""What the head performs for agents that run in workers: messages, children, joins, time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agentpool._core.errors import UnknownAgentError
from agentpool._core.messages import AgentId, AgentMessage
from agentpool._kernel.protection import protect_module
from agentpool._remote.batch_verbs import BATCH_TOLD, BATCH_VERBS
from agentpool._remote.journal_verbs import JOURNAL_TOLD, JOURNAL_VERBS
from agentpool._remote.model_verbs import MODEL_TOLD, MODEL_VERBS

if TYPE_CHECKING:
    from agentpool._core.restart import RestartPolicy
    from agentpool._kernel.places import Op
    from agentpool._remote.proxy import Call, Known, Proxy, ToldVerbs, Verbs

# -- messages ----------------------------------------------------------------------------------


async def send(call: Call, to: AgentId | str, content: Any) -> None:
    """Deliver a message."""
    await call.ctx.send(to, content)


async def ask(call: Call, to: AgentId | str, content: Any) -> Any:
    """Deliver a question, and return the reply."""
    return await call.ctx.ask(to, content)


async def receive(call: Call, unless_silent: bool) -> AgentMessage:
    """Take the oldest message."""
    return await (call.ctx.receive_for_model() if unless_silent else call.ctx.receive())


async def take_all(call: Call) -> Sequence[AgentMessage]:
    """Take what has arrived."""
    inbox = call.ctx.inbox
    return inbox.take_all() if inbox.fill else ()


async def broadcast(call: Call, content: Any) -> int:
    """Send the same to every other agent."""
    return await call.ctx.broadcast(content)


async def publish(call: Call, topic: str, content: Any) -> int:
    """Send something to the subscribers of a topic."""
    return await call.ctx.publish(topic, content)


async def question(call: Call, message_id: int) -> AgentMessage:
    """Return a question whose sender waits."""
    return call.ctx.question(message_id)


async def find(call: Call, name: str) -> AgentId:
    """Return the id of the agent of a name."""
    return call.ctx.find(name)


def reply(proxy: Proxy, message: AgentMessage, content: Any) -> None:
    """Answer a question."""
    proxy.ctx.reply(message, content)


def subscribe(proxy: Proxy, topic: str) -> None:
    """Subscribe to a topic; of no effect if the agent's inbox has ended, which it could not know."""
    with suppress(UnknownAgentError):
        proxy.ctx.subscribe(topic)


def unsubscribe(proxy: Proxy, topic: str) -> None:
    """Undo it."""
    proxy.ctx.unsubscribe(topic)


# -- children ----------------------------------------------------------------------------------


async def spawn(
    call: Call,
    agent: Any,
    args: tuple[Any, ...],
    name: str | None,
    timeout: float | None,
    restart: RestartPolicy | None,
) -> Known:
    """Start a child of the agent, waiting for a slot."""
    agent = call.models.restored(agent)
    return call.proxy.known(await call.ctx.spawn(agent, *args, name=name, timeout=timeout, restart=restart))


async def spawn_nowait(
    call: Call,
    agent: Any,
    args: tuple[Any, ...],
    name: str | None,
    timeout: float | None,
    restart: RestartPolicy | None,
) -> Known:
    """Start a child of the agent in a free slot."""
    agent = call.models.restored(agent)
    return call.proxy.known(call.ctx.spawn_nowait(agent, *args, name=name, timeout=timeout, restart=restart))


async def spawn_for_model(
    call: Call, agent: Any, args: tuple[Any, ...], name: str | None, timeout: float | None
) -> Known:
    """Start a child that a model asked for."""
    agent = call.models.restored(agent)
    return call.proxy.known(await call.ctx.spawn_for_model(agent, *args, name=name, timeout=timeout))


async def wait(call: Call, child: AgentId) -> bytes | None:
    """Wait for the end of a child; None if its outcome was handed out before."""
    proxy = call.proxy
    if child in proxy.handles:
        return proxy.hand_out(await proxy.handles[child].wait())
    journal = call.ctx._state.journal
    if journal is not None:

        async def waited(op: Op | None) -> None:
            journal.operated(op, "wait", child)

        await journal.perform("wait", waited, _nothing)
    return None


async def _nothing(value: object, op: Op) -> None:
    """It was waited for before, and is not here to be waited for."""


async def join_next(call: Call) -> bytes | None:
    """Wait for the next child to end."""
    outcome = await call.ctx.join_next()
    return None if outcome is None else call.proxy.hand_out(outcome)


async def join_all(call: Call) -> list[bytes]:
    """Wait until no child is left."""
    return [call.proxy.hand_out(outcome) for outcome in (await call.ctx.join_all()).values()]


def abort_child(proxy: Proxy, child: AgentId, reason: str | None) -> None:
    """Abort a child; harmless if its outcome was handed out."""
    handle = proxy.handles.get(child)
    if handle is not None:
        handle.abort(reason)


def seen(proxy: Proxy, child: AgentId) -> None:
    """The outcome of a child, which was pushed, has been looked at."""
    proxy.ctx._agent.children.see(child)


def abort_all(proxy: Proxy, reason: str | None) -> None:
    """Abort all children."""
    proxy.ctx.abort_all(reason)


# -- events ------------------------------------------------------------------------------------


async def wait_for_subscribers(call: Call) -> None:
    """Wait for slow subscribers."""
    await call.ctx.wait_for_subscribers()


def _by_name(*functions: Callable[..., Any]) -> Mapping[str, Any]:
    return {each.__name__: each for each in functions}


VERBS: Verbs = {
    **MODEL_VERBS,
    **BATCH_VERBS,
    **JOURNAL_VERBS,
    **_by_name(
        send,
        ask,
        receive,
        take_all,
        broadcast,
        publish,
        question,
        find,
        spawn,
        spawn_nowait,
        spawn_for_model,
        wait,
        join_next,
        join_all,
        wait_for_subscribers,
    ),
}
"""What an agent waits for, by its name."""

TOLD_VERBS: ToldVerbs = {
    **MODEL_TOLD,
    **BATCH_TOLD,
    **JOURNAL_TOLD,
    **_by_name(reply, subscribe, unsubscribe, abort_child, seen, abort_all),
}
"""What an agent does not wait for, by its name."""

protect_module(globals())
