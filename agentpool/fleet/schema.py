"""JSON schemas of the files, made from the rules by which they are read."""

from __future__ import annotations

from agentpool._core.manifest import AgentManifest
from agentpool._core.rules import Schema, table_schema
from agentpool.fleet.tables import FleetTable

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def manifest_schema() -> Schema:
    """Return the JSON schema (2020-12) of an agent's manifest."""
    return _schema_of(AgentManifest, "agentpool manifest")


def fleet_schema() -> Schema:
    """Return the JSON schema (2020-12) of a fleet file."""
    return _schema_of(FleetTable, "agentpool fleet file")


def _schema_of(cls: type, title: str) -> Schema:
    defs: dict[str, Schema] = {}
    schema = table_schema(cls, defs)
    return {"$schema": _DIALECT, "title": title, **schema, "$defs": defs}
