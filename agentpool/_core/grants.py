"""What an agent may do, as a whole: its capabilities, its privacy, and what its commands are kept in."""

from __future__ import annotations

import attrs

from agentpool._core.capability import Capability, PrivacyTier, inherited, narrowed
from agentpool._core.sandboxing import CommandLimits, SandboxKind, narrowed_sandbox


@attrs.frozen
class Grants:
    """What an agent may do. The defaults are the program itself, which may do everything.

    Attributes:
      capabilities: what it is granted; None for everything.
      privacy: where its words may travel to.
      sandbox: what its commands run in.
      commands: how much each of them may use; None for no limit.
    """

    capabilities: tuple[Capability, ...] | None = None
    privacy: PrivacyTier = PrivacyTier.STANDARD
    sandbox: SandboxKind = "none"
    commands: CommandLimits | None = None

    def below(self) -> Grants:
        """Return what a child may have at the most: one level less of spawning."""
        if self.capabilities is None:
            return self
        return attrs.evolve(self, capabilities=inherited(self.capabilities))

    def within(self, above: Grants) -> Grants:
        """Return what both grant."""
        return Grants(
            _capabilities_of_both(self.capabilities, above.capabilities),
            self.privacy if above.privacy.permits(self.privacy) else above.privacy,
            narrowed_sandbox(above.sandbox, self.sandbox),
            _limits_of_both(self.commands, above.commands),
        )


EVERYTHING = Grants()
"""What the program itself may do, and agents of plain code that it starts."""

NOTHING = Grants((), PrivacyTier.SOVEREIGN, "bubblewrap", CommandLimits())


def _capabilities_of_both(
    own: tuple[Capability, ...] | None, above: tuple[Capability, ...] | None
) -> tuple[Capability, ...] | None:
    if own is None or above is None:
        return above if own is None else own
    return narrowed(above, own)


def _limits_of_both(own: CommandLimits | None, above: CommandLimits | None) -> CommandLimits | None:
    if own is None or above is None:
        return above if own is None else own
    return own.narrowed(above)
