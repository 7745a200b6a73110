"""What a manifest asks for, in words that can be compared with those of another one."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from agentpool._core.capability import (
    Capability,
    FileReadCapability,
    FileWriteCapability,
)
from agentpool._core.grants import Grants
from agentpool._core.manifest import AgentManifest


def wanted_by(manifest: AgentManifest) -> Grants:
    """Return what a manifest asks for; paths are absolute, and without links. Blocks on the disk.

    A path that leads through a link would else be taken for one below a directory of the parent's, though
    what it leads to lies elsewhere. One with a link that a command of an agent may have made stays as it is.
    """
    asked = tuple(_resolved(each, manifest) for each in manifest.capabilities)
    return Grants(asked, manifest.privacy, manifest.sandbox, manifest.commands)


def _resolved(capability: Capability, manifest: AgentManifest) -> Capability:
    if not isinstance(capability, FileReadCapability | FileWriteCapability):
        return capability
    paths = [real for path in capability.allowed_paths if (real := _real(path, manifest))]
    return attrs.evolve(capability, allowed_paths=paths)


def _real(path: str, manifest: AgentManifest) -> str | None:
    from agentpool.tools._links import real_root  # who asks for no files needs none

    try:
        whole = os.path.abspath(os.path.join(manifest.base or "", path))
        # A link that has come since it was resolved leads nowhere.
        real = whole if manifest.has_real_paths else real_root(whole)
        return Path(real).as_posix()  # on Windows too, since grants are compared with `/`
    except (OSError, ValueError):
        return None  # the current directory is gone, or it can be no path: there is nothing to grant


def withheld(manifest: AgentManifest, grants: Grants) -> str:
    """Say what of a manifest's wishes is not granted, for a log."""
    asked = wanted_by(manifest)
    missing = [str(each) for each in asked.capabilities or () if each not in (grants.capabilities or ())]
    if grants.privacy is not manifest.privacy:
        missing.append(f"privacy {manifest.privacy.value}")
    if grants.sandbox != manifest.sandbox:
        missing.append(f"sandbox {manifest.sandbox}")
    if grants.commands != manifest.commands:
        missing.append(str(manifest.commands))
    return ", ".join(missing)
