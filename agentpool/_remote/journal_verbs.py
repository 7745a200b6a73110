"""What the head does for agents in workers that are to outlive a crash: it alone has the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.protection import protect_module
from agentpool._kernel.resuming import adopt, spawned_at

if TYPE_CHECKING:
    from agentpool._core.records import RecordKind
    from agentpool._kernel.journal import PoolJournal
    from agentpool._kernel.places import Op
    from agentpool._remote.proxy import Call, Known, Proxy, ToldVerbs, Verbs


def _journal_of(proxy: Proxy) -> PoolJournal:
    journal = proxy.ctx._state.journal
    assert journal is not None
    return journal


async def commit(call: Call) -> None:
    """Wait until everything that the agent has told is written."""
    await _journal_of(call.proxy).commit()


async def begin_step(call: Call, kind: str) -> tuple[Any] | None:
    """Return what a step had come to, as data; None if it is to be done now, all before it being written."""
    journal = _journal_of(call.proxy)

    async def run(op: Op | None) -> None:
        await journal.commit()

    async def restore(data: Any, op: Op) -> tuple[Any]:
        return (data,)

    return await journal.perform(kind, run, restore)


async def raise_type_error(call: Call, text: str) -> None:
    """Have an operation come to an error that the worker had found before it came up here."""

    async def run(op: Op | None) -> NoReturn:
        raise TypeError(text)

    async def restore(data: Any, op: Op) -> NoReturn:
        raise AssertionError("an error is raised where it is found")  # pragma: no cover

    await _journal_of(call.proxy).perform("error", run, restore)


async def adopt_children(call: Call, path: str) -> None:
    """Have the children go on that code at a place had spawned, which does not run again."""
    await trio.lowlevel.checkpoint()
    adopt(call.ctx._state, call.ctx._agent, path)


async def children_of(call: Call, path: str) -> Sequence[tuple[Known, bool]]:
    """Return the children that such code had spawned, each with whether its outcome is known already."""
    await trio.lowlevel.checkpoint()
    found = spawned_at(call.ctx._state, call.ctx._agent, path)
    return [(call.proxy.known(AgentHandle(child)), is_taken) for child, is_taken in found]


def write(proxy: Proxy, kind: RecordKind, data: Mapping[str, Any]) -> None:
    """Write what the agent's code has observed."""
    _journal_of(proxy).append(kind, proxy.ctx.id, data)


def task_opened(proxy: Proxy, path: str) -> None:
    """A task of the agent's code stands somewhere from now on."""
    place = proxy.place_at(path)
    assert place is not None
    place.past.turns.opened(path)


def task_closed(proxy: Proxy, path: str) -> None:
    """The task that stood there has ended."""
    place = proxy.place_at(path)
    assert place is not None
    place.past.turns.closed(path)


JOURNAL_VERBS: Verbs = {
    each.__name__: each for each in (commit, begin_step, raise_type_error, adopt_children, children_of)
}
"""What an agent waits for, by its name."""

JOURNAL_TOLD: ToldVerbs = {each.__name__: each for each in (write, task_opened, task_closed)}
"""What an agent does not wait for, by its name."""

protect_module(globals())
