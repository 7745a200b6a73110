"""The way to a worker process that is a Ray actor."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import ray
import trio
from ray.exceptions import (
    ActorUnavailableError,
    ObjectLostError,
    ObjectStoreFullError,
    RayActorError,
    RayTaskError,
)

from agentpool._core.errors import AgentPoolError, WorkerLostError, WorkerUnavailableError
from agentpool.abc import Pulled
from agentpool.ray._calls import call_ray

STOP_SECONDS = 2.0
"""So many seconds a worker has to end by itself before it is killed."""

KILL_SECONDS = 5.0
"""So many seconds Ray has to take note that a worker is to be killed. It takes a millisecond."""

_INLINE_BYTES = 100_000
"""Arguments of more bytes go through Ray's object store, which blocks while it makes room for them."""


class RayTransport:
    """An `abc.Transport` over a Ray actor.

    A request is one call of the actor, and its reply the object that Ray makes of what it returned. A thread
    of Ray's says when that is there, so that no thread of ours waits. Ray never cancels a call: nobody could
    tell what became of it. Who stops waiting only forgets it.

    What was seen when a link was cut (Ray 2.60). For a second: everything is late, TCP sends it again, and
    calls that were made meanwhile come in any order. For good: no call says anything until the cluster takes
    the node for dead, which is most of a minute by default; then all of them say so at once. So whoever
    calls bounds the time.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._is_closed = False
        self.name = f"actor {actor._actor_id.hex()[:8]}"

    @property
    def is_closed(self) -> bool:
        """Whether the worker has been ended."""
        return self._is_closed

    def __repr__(self) -> str:
        return f"<RayTransport to {self.name}{', closed' if self._is_closed else ''}>"

    async def post(self, number: int, records: Sequence[bytes]) -> None:
        """Hand records to the worker; `abc.Transport.post` tells more."""
        await self.call("post", number, list(records), size=sum(map(len, records)))

    async def pull(self, ack: int, max: int, wait: float) -> Pulled:
        """Return what the worker has to tell; `abc.Transport.pull` tells more."""
        number, records = await self.call("pull", ack, max, wait)
        return Pulled(number, records)

    async def aclose(self) -> None:
        """Ask the worker to end, and kill it if it does not; `abc.Transport.aclose` tells more."""
        if not self._is_closed:
            self._is_closed = True
            with trio.CancelScope(shield=True):
                with trio.move_on_after(STOP_SECONDS), contextlib.suppress(AgentPoolError):
                    await self.call("stop")
                with trio.move_on_after(KILL_SECONDS):
                    await call_ray(partial(kill, self._actor))
        await trio.lowlevel.checkpoint()

    async def call(self, method: str, *args: Any, size: int = 0) -> Any:
        """Call a method of the actor, and return what it returns.

        Args:
          size: how many bytes the arguments have, about.

        Raises:
          WorkerUnavailableError: if Ray cannot tell whether the method was, or will be, called; or lost what
            it returned.
          WorkerLostError: if Ray says that the actor is dead, or the method raised.

        Checkpoint: always. Cancellation: the call goes on, and nobody hears of it.
        """
        remote = getattr(self._actor, method).remote
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            if size > _INLINE_BYTES:
                future = (await call_ray(partial(remote, *args))).future()
            else:
                future = remote(*args).future()
        except ObjectStoreFullError as error:
            raise WorkerUnavailableError(_reason(error)) from error
        except Exception as error:  # such as after a `ray.shutdown` of the program's own
            raise WorkerLostError(self.name, _reason(error)) from error
        try:
            await _settled(future)
            return self._result(future)
        finally:
            del future  # an error's traceback has this frame, and the future has the error

    def _result(self, future: Future[Any]) -> Any:
        error = future.exception()
        try:
            match error:
                case None:
                    return future.result()
                case ActorUnavailableError() | ObjectLostError():
                    raise WorkerUnavailableError(_reason(error)) from error
                case _:
                    raise WorkerLostError(self.name, _reason(error)) from error
        finally:
            del error, future


def kill(actor: Any) -> None:
    """Have Ray kill an actor; does not wait for its end."""
    # Without a connection (`ray.shutdown` by the program) there is no actor any more.
    with contextlib.suppress(Exception):
        ray.kill(actor)


async def _settled(future: Future[Any]) -> None:
    """Wait until Ray has said what came of a call."""
    token = trio.lowlevel.current_trio_token()
    event = trio.Event()

    def tell(_: object) -> None:  # in a thread of Ray's, or here if it is there already
        with contextlib.suppress(trio.RunFinishedError):  # nobody is left who waits
            token.run_sync_soon(event.set)

    future.add_done_callback(tell)
    await event.wait()


def _reason(error: BaseException) -> str:
    """Return what Ray says in one line, without the numbers of its own that it adds."""
    if isinstance(error, RayTaskError):  # the method raised
        return f"{type(error.cause).__name__}: {error.cause}"
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith("\t") and line.strip()]
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return lines[-1]  # of the traceback
    return " ".join(lines).partition(" Some common causes include")[0]
