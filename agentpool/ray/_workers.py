"""Starts worker processes as actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import attrs
import ray
import trio
from ray import cloudpickle

from agentpool._core.errors import AgentPoolError, WorkerLostError, WorkerUnavailableError
from agentpool.ray._actor import Versions, WorkerActor
from agentpool.ray._calls import call_ray
from agentpool.ray._transport import RayTransport, kill

PAUSE = 0.05
"""So many seconds pass before a call is made again of which it is not known whether it arrived."""

_INSTALL = ". Install the same on every node as where the pool is, or have Ray do it with runtime_env="

LOOK_SECONDS = 5.0
"""So many seconds the cluster has to tell what it consists of, for the text of an error."""


@attrs.define(eq=False)
class RayWorkers:
    """An `abc.Workers` on the Ray cluster to which this process is connected.

    Attributes:
      count: how many worker processes are wanted.
    """

    count: int
    _options: Mapping[str, Any]
    _lease: float
    _start_timeout: float
    _started: set[RayTransport] = attrs.field(factory=set)

    @classmethod
    async def create(
        cls,
        count: int | None,
        *,
        cpus: float,
        resources: Mapping[str, float],
        runtime_env: Mapping[str, Any] | None,
        lease: float,
        start_timeout: float,
    ) -> RayWorkers:
        """Return what starts them; none is started yet.

        Args:
          count: None for as many as the cluster has processors for now.

        The others are those of `RayPlacement`.
        """
        if count is None:
            total = await call_ray(ray.cluster_resources)
            count = max(int(total.get("CPU", 1) // (cpus or 1)), 1)
        options: dict[str, Any] = {
            "num_cpus": cpus,
            "num_gpus": resources.get("GPU", 0),
            "memory": resources.get("memory"),
            "resources": {name: n for name, n in resources.items() if name not in ("GPU", "memory")},
            "runtime_env": None if runtime_env is None else dict(runtime_env),
            "max_concurrency": 4,  # post, pull, a pull that it supersedes, stop
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD",
        }
        return cls(count, options, lease, start_timeout)

    def dumps(self, value: Any) -> bytes:
        """Pickle a value; functions of `__main__`, and those within functions, by value."""
        return cast("bytes", cloudpickle.dumps(value))  # pyright: ignore[reportPrivateImportUsage]

    async def start(self, setup: bytes) -> RayTransport:
        """Start a worker process, and wait until its trio program runs; `abc.Workers.start` tells more."""
        transport: RayTransport | None = None
        try:
            with trio.fail_after(self._start_timeout):
                transport = RayTransport(await call_ray(self._create, unwanted=kill))
                # Those that were lost are closed by whoever has lost them.
                self._started = {each for each in self._started if not each.is_closed}
                self._started.add(transport)
                _check(await _repeated(transport, "greet"))
                await _repeated(transport, "run", setup)
                return transport
        except trio.TooSlowError:
            await self._end(transport)
            raise AgentPoolError(await self._why_none()) from None
        except WorkerLostError as error:
            await self._end(transport)
            hint = _INSTALL if "ModuleNotFoundError" in error.reason else ""
            raise AgentPoolError(
                f"no worker process could be started on the Ray cluster: {error.reason}{hint}"
            ) from error
        except BaseException:
            await self._end(transport)
            raise

    async def aclose(self) -> None:
        """End the workers that are still there."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for transport in tuple(self._started):
                    nursery.start_soon(self._end, transport)

    async def _end(self, transport: RayTransport | None) -> None:
        if transport is not None:
            self._started.discard(transport)
            with trio.CancelScope(shield=True):
                await transport.aclose()

    def _create(self) -> Any:
        # An actor is the job's that makes it: it ends when the head does.
        return ray.remote(WorkerActor).options(**self._options).remote()

    async def _why_none(self) -> str:
        given = self._options
        asked = {"CPU": given["num_cpus"], "GPU": given["num_gpus"], **given["resources"]}
        asked["memory"] = given["memory"] or 0
        text = (
            f"no worker process was up within {self._start_timeout:g} s on the Ray cluster."
            f" One needs {_amounts(asked, asked)}; "
        )
        with trio.move_on_after(LOOK_SECONDS):
            cluster = await call_ray(_look)
            return (
                f"{text}{_amounts(cluster.free, asked)} of {_amounts(cluster.total, asked)} are free on"
                f" {cluster.nodes} nodes, and no node has more than {_amounts(cluster.most, asked)}."
                " Ask for less with cpus=, resources= or workers=, or give it more time with start_timeout="
            )
        return f"{text}the cluster does not answer"


@attrs.frozen
class _Cluster:
    """What a cluster has: in all, of that free, and the most of each on one node."""

    total: Mapping[str, float]
    free: Mapping[str, float]
    most: Mapping[str, float]
    nodes: int


def _look() -> _Cluster:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    names = {name for node in nodes for name in node}
    return _Cluster(
        ray.cluster_resources(),
        ray.available_resources(),
        {name: max(node.get(name, 0) for node in nodes) for name in names},
        len(nodes),
    )


async def _repeated(transport: RayTransport, method: str, *args: Any) -> Any:
    """Call a method that does the same however often it is called."""
    while True:
        try:
            return await transport.call(method, *args, size=sum(map(len, args)))
        except WorkerUnavailableError:
            await trio.sleep(PAUSE)


def _check(theirs: Versions) -> None:
    ours = Versions.here()
    different = [
        f"{name} {there} there, {here} here"
        for (name, there), here in zip(attrs.asdict(theirs).items(), attrs.astuple(ours), strict=True)
        if there != here
    ]
    if different:
        raise AgentPoolError(
            f"the worker processes on the Ray cluster do not fit the head: {', '.join(different)}{_INSTALL}"
        )


def _amounts(amounts: Mapping[str, float], asked: Mapping[str, float]) -> str:
    told = [f"{amounts.get(name, 0):g} {name}" for name, amount in asked.items() if amount]
    return ", ".join(told) or "nothing"
