"""What a manifest asks for, in words that can be compared with those of another one."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from agentpool._core.capability import (
    Capability,
    FileReadCapability,
    FileWriteCapability,
    Grants,
    narrowed,
)
from agentpool._core.manifest import AgentManifest


def resolved(manifest: AgentManifest) -> tuple[Capability, ...]:
    """Return the capabilities of a manifest; paths are absolute, and without links. Blocks on the disk.

    A path that leads through a link would else be taken for one below a directory of the parent's, though
    what it leads to lies elsewhere.
    """
    if not manifest.capabilities:
        return ()
    return tuple(_resolved(each, manifest.base) for each in manifest.capabilities)


def _resolved(capability: Capability, base: Path | None) -> Capability:
    if not isinstance(capability, FileReadCapability | FileWriteCapability):
        return capability
    paths = [real for path in capability.allowed_paths if (real := _real(os.path.join(base or "", path)))]
    return attrs.evolve(capability, allowed_paths=paths)


def _real(path: str) -> str | None:
    try:
        return Path(os.path.realpath(path)).as_posix()  # on Windows too, since grants are compared with `/`
    except (OSError, ValueError):
        return None  # the current directory is gone, or it can be no path: there is nothing to grant


def withheld(manifest: AgentManifest, grants: Grants) -> str:
    """Say what of a manifest's wishes is not granted, for a log."""
    asked = resolved(manifest)
    kept = narrowed(grants.capabilities, asked)
    missing = [str(each) for each in asked if each not in kept]
    tier = [] if grants.privacy is manifest.privacy else [f"privacy {manifest.privacy.value}"]
    return ", ".join([*missing, *tier])
