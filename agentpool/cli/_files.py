"""Fleet files and manifests: reading them, with what they name in modules beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from agentpool._core.errors import Finding, ManifestError
from agentpool._core.manifest import AgentManifest, parse_toml, read_text
from agentpool._loading import LoadProblem, load_callable
from agentpool.fleet.file import FleetFile
from agentpool.fleet.schema import fleet_schema, manifest_schema

SCHEMAS = {"manifest": manifest_schema, "fleet": fleet_schema}
FLEET_KEYS = {"agents", "pool", "supervisors", "vars"}


def load_fleet(path: Path, vars: Mapping[str, str]) -> FleetFile:
    """Read a fleet file with its manifests, and import the functions that they name.

    Args:
      path: the file.
      vars: what the command line gives its variables.

    Raises:
      ManifestError: with every finding of the fleet, of its manifests, and of their modules.
    """
    fleet = FleetFile.load(path, vars=vars)
    findings = [
        finding for manifest in fleet.manifests for finding in _function_findings(manifest, str(path))
    ]
    if findings:
        raise ManifestError(findings)
    return fleet


def check_file(path: Path, vars: Mapping[str, str]) -> str:
    """Read a fleet file or a manifest, and return which of the two it is.

    Args:
      path: the file.
      vars: what the command line gives the variables of a fleet; a manifest has none.

    Raises:
      ManifestError: with every finding of the file.
    """
    table = parse_toml(read_text(path, Path.read_bytes), str(path))
    if FLEET_KEYS & table.keys():
        load_fleet(path, vars)
        return "fleet"
    manifest = AgentManifest.load(path)
    if findings := list(_function_findings(manifest, str(path))):
        raise ManifestError(findings)
    return "manifest"


def _function_findings(manifest: AgentManifest, source: str) -> Iterator[Finding]:
    named = [(f"tools[{n}]", spec) for n, spec in enumerate(manifest.tools)]
    if manifest.script is not None and manifest.script.function is not None:
        named.append(("script.function", manifest.script.function))
    for key, spec in named:
        try:
            load_callable(spec, manifest.base)
        except LoadProblem as problem:
            text = f"of the manifest '{manifest.name}': {problem.problem}"
            yield Finding(source, key, text, problem.fix)
