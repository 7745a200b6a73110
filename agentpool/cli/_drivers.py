"""Which driver each agent of a fleet asks, and how these drivers are opened and shared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack

import attrs

from agentpool._core.errors import Finding, ManifestError
from agentpool._core.manifest import AgentManifest
from agentpool.abc import Driver
from agentpool.cli._errors import BadInputError
from agentpool.drivers.governed import GovernedDriver
from agentpool.drivers.named import DriverName, choose_driver, open_driver, parse_driver_name
from agentpool.drivers.retrying import RetryingDriver
from agentpool.drivers.scripted import EmbeddedDriver


@attrs.define(eq=False)
class Drivers:
    """The drivers of a run. Each is opened once and shared; `stack` closes them.

    Attributes:
      chosen: the driver that the command line names, for all agents.
      default: the driver of agents whose manifest names none.
      tell: shows a line to the user.
    """

    stack: AsyncExitStack
    chosen: str | None
    default: str | None
    tell: Callable[[str], None]
    _opened: dict[str, Driver | None] = attrs.field(factory=dict)
    _governors: dict[tuple[str, str | None], GovernedDriver] = attrs.field(factory=dict)
    _embedded: EmbeddedDriver = attrs.field(factory=EmbeddedDriver)

    async def open_for(self, manifests: Iterable[AgentManifest]) -> None:
        """Open what these agents need.

        Raises:
          BadInputError: if a driver's name is wrong, its key is not set, or its SDK is not installed.
          ManifestError: if agents have neither a driver nor a script.
        """
        findings: list[Finding] = []
        for manifest in manifests:
            name = self._name_for(manifest)
            if name is not None and name not in self._opened:
                self._opened[name] = await self._open(name)
            if manifest.script is None and (name is None or self._opened[name] is None):
                findings.append(_nothing_to_follow(manifest))
        if findings:
            raise ManifestError(findings)

    async def open_chosen(self) -> Driver | None:
        """Open the driver of agents that have no manifest; None if none is named, or `scripted`.

        Raises:
          BadInputError: as `open_for`.
        """
        name = self.chosen or self.default
        if name is None:
            return None
        if name not in self._opened:
            self._opened[name] = await self._open(name)
        return self._opened[name]

    def get(self, manifest: AgentManifest) -> Driver:
        """Return the driver of an agent; without one that was named, it follows its script."""
        name = self._name_for(manifest)
        driver = None if name is None else self._opened.get(name)
        return self._embedded.bind(manifest) if driver is None else driver

    def _name_for(self, manifest: AgentManifest) -> str | None:
        return self.chosen or manifest.model.driver or self.default

    async def _open(self, text: str) -> Driver | None:
        try:
            name = parse_driver_name(text)
            if name.provider == "auto":
                choice = await choose_driver()
                self.tell(f"driver: {choice}")
                name = choice.name
            driver = await self.stack.enter_async_context(open_driver(name))
        except (ValueError, ModuleNotFoundError) as error:
            raise BadInputError(str(error)) from error
        return None if driver is None else RetryingDriver(self._governed(name, driver))

    def _governed(self, name: DriverName, driver: Driver) -> GovernedDriver:
        """Put a driver under the governor of its provider and key."""
        account = (name.provider, name.base_url)
        if account in self._governors:
            return self._governors[account].share(driver)
        self._governors[account] = governed = GovernedDriver(driver)
        return governed


def _nothing_to_follow(manifest: AgentManifest) -> Finding:
    return Finding(
        f"manifest {manifest.name!r}",
        "script",
        "the agent has neither a driver nor a script",
        "Name a driver with --driver, in [model] or in the fleet's [pool], or give it a [script]",
    )
