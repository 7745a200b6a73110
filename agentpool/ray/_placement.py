"""`RayPlacement`: agents run in worker processes on a Ray cluster."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import attrs

from agentpool._core.text import shown
from agentpool._remote.placement import SHORTEST_LEASE, RemotePlacement

if TYPE_CHECKING:
    from agentpool.abc import Workers

_NEEDS = (
    "a placement on a Ray cluster needs Ray, which is not installed: pip install 'trio-agentpool[ray]'"
    " (in a clone: pip install '.[ray]')"
)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text_or_none(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{field.name} must be a string, not {shown(value)}")


def _check_address(instance: object, field: attrs.Attribute[Any], value: str | None) -> None:
    _text_or_none(instance, field, value)
    if value is not None and "://" in value:
        raise ValueError(
            f"address must be that of a cluster's GCS (10.0.0.1:6379), 'auto' or 'local', not {value}:"
            " the head of a pool takes part in the cluster, and is no client of it"
        )


def _check_workers(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"workers must be a number of processes, not {shown(value)}")
    if value < 1:
        raise ValueError(f"workers must be at least 1, not {value}")


def _check_cpus(_: object, field: attrs.Attribute[Any], value: Any) -> None:
    if not _is_number(value):
        raise TypeError(f"cpus must be a number, not {shown(value)}")
    if value < 0:
        raise ValueError(f"cpus must be at least 0, not {value}")


def _check_resources(_: object, field: attrs.Attribute[Any], value: Mapping[str, Any]) -> None:
    for name, amount in value.items():
        if not isinstance(name, str) or not _is_number(amount):
            raise TypeError(f"resources must be names with numbers, not {shown(name)}: {shown(amount)}")
        if name == "CPU":
            raise ValueError("resources must not have CPU: the number of processors is given as cpus")
        if amount <= 0:
            raise ValueError(f"resources must have amounts above 0, not {name}: {amount}")


def _check_runtime_env(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"runtime_env must be a dictionary, not {shown(value)}")


def _check_lease(_: object, field: attrs.Attribute[Any], value: Any) -> None:
    if not _is_number(value):
        raise TypeError(f"lease must be a number of seconds, not {shown(value)}")
    if value < SHORTEST_LEASE:
        raise ValueError(f"lease must be at least {SHORTEST_LEASE:g} seconds, not {value}")


def _check_start_timeout(_: object, field: attrs.Attribute[Any], value: Any) -> None:
    if not _is_number(value):
        raise TypeError(f"start_timeout must be a number of seconds, not {shown(value)}")
    if value <= 0:
        raise ValueError(f"start_timeout must be above 0 seconds, not {value}")


def _check_driver(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, str) and not callable(value):
        raise TypeError(
            f"driver must be a driver's name, or a function that returns an async context manager around a"
            f" driver, not {shown(value)}"
        )


def _copied(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"resources must be a dictionary, not {shown(value)}")
    return dict(value)


@attrs.frozen(kw_only=True, eq=False)
class RayPlacement(RemotePlacement):
    """Runs those agents of a pool that are marked for placement (`placed`) in processes on a Ray cluster.

    It is given to the pool::

        async with open_agent_pool(driver, max_concurrent=1000, placement=RayPlacement()) as pool:
            await pool.map(placed(agent), items)

    The pool stays where it is: capacity, budgets, messages and outcomes are those of the program that opened
    it, the head, and so is its journal. Ray starts the worker processes, spread over the nodes of the
    cluster, and ends them; they are actors of the head's job, so none survives it. On each node there have to
    be the same versions of Python, Ray and agentpool, and what the agents import, as the head has. What is
    defined in the head's `__main__`, and functions within functions, travel by value, everything else by its
    name.

    Ray's processes listen on every address of their machines, and who reaches them may run code there: let
    the machines of a cluster reach each other only.

    Ray ends a program at once that has not reached the control service of its cluster (GCS) for a minute; the
    variable `RAY_gcs_rpc_server_reconnect_timeout_s` of the environment says for how many seconds.

    Attributes:
      address: of the cluster, as `ray.init` takes it: `"10.0.0.1:6379"`, `"auto"`, or `"local"` for a new
        one on this machine, that ends with the last pool that uses it. None takes what `RAY_ADDRESS` says,
        else a cluster that runs on this machine, else a new one. A program that has called `ray.init` itself
        stays connected as it is, and `address` is not looked at.
      workers: how many worker processes; None for as many as the cluster has processors, when the first
        agent is placed, for `cpus` each.
      cpus: how many processors Ray sets aside for each of them; may be 0, or a part of one. A worker's agents
        are tasks of one thread, so that more than one is of use only for what it starts itself.
      resources: what Ray sets aside for each of them beside, as `{"GPU": 1}` or what nodes were given by
        `ray start --resources`. `memory` is in bytes.
      runtime_env: what Ray prepares on the nodes before a worker is started there: `ray.init` tells what it
        may hold.
      lease: seconds, at least 2. A worker that has not heard of the head for so long cancels its agents, and
        ends. Until then, and two seconds more, the agents of a worker that was lost have no outcome.
      start_timeout: seconds in which a worker has to be up, or its agents fail.
      driver: what each worker opens to make its model calls itself: a function without arguments that
        returns an async context manager around a driver, or a name as `open_driver` takes it. None has the
        head make them. Either way they are kept within the pool's budgets and rate limits.

    Raises:
      ModuleNotFoundError: if Ray is not installed; it names the `pip install`.
      TypeError, ValueError: if an argument is wrong.
    """

    address: str | None = attrs.field(default=None, validator=_check_address)
    workers: int | None = attrs.field(default=None, validator=_check_workers)
    cpus: float = attrs.field(default=1, validator=_check_cpus)
    resources: Mapping[str, float] = attrs.field(factory=dict, converter=_copied, validator=_check_resources)
    runtime_env: Mapping[str, Any] | None = attrs.field(default=None, validator=_check_runtime_env)
    lease: float = attrs.field(default=10.0, validator=_check_lease)
    start_timeout: float = attrs.field(default=60.0, validator=_check_start_timeout)
    driver: Callable[[], AbstractAsyncContextManager[Any]] | str | None = attrs.field(
        default=None, validator=_check_driver
    )

    def __attrs_post_init__(self) -> None:
        # Ray itself is imported when the first agent is placed: it takes a third of a second.
        if find_spec("ray") is None:
            raise ModuleNotFoundError(_NEEDS, name="ray")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Workers]:
        """Connect to the cluster, and return the block in which worker processes can be started.

        Raises:
          AgentPoolError: if there is no cluster, or Ray cannot join it; the text says what Ray says.

        Checkpoint: always. Cancellation: no process is left, though Ray may take a moment more to end one.
        """
        from agentpool.ray._session import connected
        from agentpool.ray._workers import RayWorkers

        async with connected(self.address, self.runtime_env) as has_runtime_env:
            workers = await RayWorkers.create(
                self.workers,
                cpus=self.cpus,
                resources=self.resources,
                runtime_env=None if has_runtime_env else self.runtime_env,
                lease=self.lease,
                start_timeout=self.start_timeout,
            )
            try:
                yield workers
            finally:
                await workers.aclose()
