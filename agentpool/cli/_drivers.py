"""Which driver each agent of a fleet asks, and how these drivers are opened and shared."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import attrs

from agentpool._core.errors import Finding, ManifestError
from agentpool._core.governor import GovernorStatistics
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import AgentId, Completion, CompletionRequest, StreamPart
from agentpool._core.text import told
from agentpool._kernel.current import current_agent
from agentpool._loop.model_agent import SpawnConfig
from agentpool.abc import Driver, wrapped_inside
from agentpool.cli._errors import BadInputError
from agentpool.cli._listening import Conversations, ListeningDriver
from agentpool.drivers._around import DriverAround
from agentpool.drivers.governed import GovernedDriver
from agentpool.drivers.named import (
    DriverName,
    choose_driver,
    open_driver,
    parse_driver_name,
    placed_driver_name,
)
from agentpool.drivers.retrying import Retry, RetryingDriver
from agentpool.drivers.scripted import EmbeddedDriver
from agentpool.fleet.file import FleetFile
from agentpool.tools import ToolRegistry, build_tools


def _nothing(agent_id: AgentId, why: str, seconds: float) -> None:
    pass


@attrs.define(eq=False)
class Drivers:
    """The drivers of a run. Each is opened once and shared; `stack` closes them.

    Attributes:
      chosen: the driver that the command line names, for all agents.
      default: the driver of agents whose manifest names none.
      tell: shows a line to the user.
      retrying: shows that a model call failed, with the id of the agent that makes it again after so
        many seconds.
      conversations: takes what the agents ask and are answered; None if nobody wants it.
    """

    stack: AsyncExitStack
    chosen: str | None
    default: str | None
    tell: Callable[[str], None]
    retrying: Callable[[AgentId, str, float], None] = _nothing
    conversations: Conversations | None = None
    _opened: dict[str, Driver | None] = attrs.field(factory=dict)
    _windows: dict[str, int] = attrs.field(factory=dict)
    _governors: dict[tuple[str, str | None], GovernedDriver] = attrs.field(factory=dict)
    _embedded: EmbeddedDriver = attrs.field(factory=EmbeddedDriver)

    async def open_for(self, manifests: Iterable[AgentManifest], *, functions: bool = False) -> None:
        """Open what these agents need.

        Args:
          manifests: those of the agents that have one.
          functions: whether there are agents without one, which ask the driver that is named for all.

        Raises:
          BadInputError: if a driver's name is wrong, its key is not set, or its SDK is not installed.
          ManifestError: if agents have neither a driver nor a script.
        """
        findings: list[Finding] = []
        problems: dict[str, str] = {}
        # Each manifest once, also if a thousand agents have it.
        distinct = list({id(manifest): manifest for manifest in manifests}.values())
        self._note_windows(distinct)
        for manifest in distinct:
            name = self._name_for(manifest)
            await self._try_to_open(name, problems)
            if manifest.script is None and (name is None or self._opened.get(name, self) is None):
                findings.append(_nothing_to_follow(manifest))
        if functions:
            await self._try_to_open(self.chosen or self.default, problems)
        if problems:
            raise BadInputError(*problems.values(), *map(str, findings))
        if findings:
            raise ManifestError(findings)

    def _note_windows(self, manifests: Iterable[AgentManifest]) -> None:
        """Note how much the agents of a local model want to give it to read: it is loaded once for all."""
        for manifest in manifests:
            name, window = self._name_for(manifest), manifest.model.context_window
            if name is not None and window is not None:
                self._windows[name] = max(window, self._windows.get(name, 0))

    async def _try_to_open(self, name: str | None, problems: dict[str, str]) -> None:
        if name is None or name in self._opened or name in problems:
            return
        try:
            self._opened[name] = await self._open(name)
        except (ValueError, ModuleNotFoundError) as error:
            problems[name] = str(error)

    def get_for_functions(self) -> Driver | None:
        """Return the driver of agents that have no manifest; None if none is named, or `scripted`."""
        opened = self._opened.get(self.chosen or self.default or "")
        return None if opened is None else self._heard(opened)

    def get(self, manifest: AgentManifest) -> Driver:
        """Return the driver of an agent; without one that was named, it follows its script."""
        name = self._name_for(manifest)
        opened = None if name is None else self._opened.get(name)
        return self._heard(self._embedded.bind(manifest) if opened is None else opened)

    def _heard(self, driver: Driver) -> Driver:
        return driver if self.conversations is None else ListeningDriver(driver, self.conversations)

    def _name_for(self, manifest: AgentManifest) -> str | None:
        return self.chosen or driver_name_in(manifest) or self.default

    async def _open(self, text: str) -> Driver | None:
        name = parse_driver_name(text)
        if name.provider == "auto":
            choice = await choose_driver()
            self.tell(f"driver: {choice}")
            name = choice.name
        driver = await self.stack.enter_async_context(
            open_driver(name, context_window=self._windows.get(text))
        )
        if driver is None:
            return None
        return RetryingDriver(self._governed(name, driver), on_retry=self._note_retry)

    def _note_retry(self, retry: Retry) -> None:
        agent = current_agent()
        if agent is not None:
            why = f"{type(retry.error).__name__}: {told(retry.error)}"
            self.retrying(agent.id, why, retry.delay)

    def statistics(self) -> list[tuple[str, GovernorStatistics]]:
        """Return for each provider, by its name, how its calls stand; call it inside `trio.run`."""
        return [
            (provider if url is None else f"{provider} at {url}", governed.statistics())
            for (provider, url), governed in self._governors.items()
        ]

    def _governed(self, name: DriverName, driver: Driver) -> GovernedDriver:
        """Put a driver under the governor of its provider and key."""
        account = (name.provider, name.base_url)
        if account in self._governors:
            return self._governors[account].share(driver)
        self._governors[account] = governed = GovernedDriver(driver)
        return governed


class FleetDriver(DriverAround):
    """The one driver of a pool with a journal, which gives each agent its own.

    Agents that carry their drivers could not be made again from a journal.

    Attributes:
      only_binds: whether agents that have no manifest have no driver.
    """

    def __init__(self, drivers: Drivers) -> None:
        for_functions = drivers.get_for_functions()
        super().__init__(for_functions or EmbeddedDriver())
        self.only_binds = for_functions is None
        self._drivers = drivers
        self._wrap: Callable[[Driver], Driver] | None = None

    def bind(self, manifest: AgentManifest) -> Driver:
        """Return the driver of an agent."""
        driver = self._drivers.get(manifest)
        return driver if self._wrap is None else wrapped_inside(driver, self._wrap)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the driver of agents that have no manifest.

        Raises:
          DriverError: as that; RequestRejectedError if there is none.

        Checkpoint, cancellation: as the driver inside.
        """
        return await self._driver.complete(request)

    def stream(self, request: CompletionRequest) -> AbstractAsyncContextManager[AsyncIterator[StreamPart]]:
        """Ask the driver of agents that have no manifest, in pieces."""
        return self._driver.stream(request)

    def rewrapped(self, wrap: Callable[[Driver], Driver]) -> FleetDriver:
        """Return this driver around what `wrap` makes of each driver inside."""
        copied = copy.copy(self)
        copied._driver, copied._wrap = wrapped_inside(self._driver, wrap), wrap
        return copied


Subagents = Sequence[AgentManifest] | None
"""The agents that a model may spawn; None lets it spawn its own kind."""


def plain_tools(subagents: Subagents, manifest: AgentManifest) -> ToolRegistry:
    """Return an agent's tools; the agents that it spawns ask the pool's driver."""
    return build_tools(manifest, make_agent=SpawnConfig, agents=subagents)


def tools_with(drivers: Drivers, subagents: Subagents, manifest: AgentManifest) -> ToolRegistry:
    """Return an agent's tools; the agents that it spawns ask the drivers that they are to ask."""

    def child(manifest: AgentManifest, query: str) -> SpawnConfig[str]:
        return SpawnConfig(manifest, query, driver=drivers.get(manifest))

    return build_tools(manifest, make_agent=child, agents=subagents)


def driver_name_in(manifest: AgentManifest) -> str | None:
    """Return the driver that a manifest names; None if it names none."""
    model = manifest.model
    if model.driver is not None:
        return placed_driver_name(model.driver, manifest.base)
    return None if model.model_path is None else f"local:{model.model_path}"


def pool_driver_name(fleet: FleetFile) -> str | None:
    """Return the driver that a fleet names for its pool; None if it names none."""
    return None if fleet.pool.driver is None else placed_driver_name(fleet.pool.driver, fleet.base)


def _nothing_to_follow(manifest: AgentManifest) -> Finding:
    return Finding(
        f"manifest {manifest.name!r}",
        "script",
        "the agent has neither a driver nor a script",
        "Name a driver with --driver, in [model] or in the fleet's [pool], or give it a [script]",
    )
