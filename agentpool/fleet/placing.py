"""`[placement]` of a fleet file: the worker processes in which its agents run, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from agentpool._core.rules import (
    Json,
    Number,
    Report,
    Schema,
    Table,
    Text,
    Whole,
    join_key,
)

if TYPE_CHECKING:
    from agentpool.abc import Placement

PlacementKind: TypeAlias = Literal["ray"]


class _Address(Text):
    """The address of a cluster, as its nodes know it."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the text."""
        if isinstance(value, str) and "://" in value:
            problem = f"is {value!r}: this process takes part in the cluster, and is no client of it"
            return report.add(
                key, problem, "Give the address of its head, such as '10.0.0.1:6379', or 'auto'"
            )
        return super().read(value, key, report)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of such a text."""
        return {**super().schema(defs), "not": {"pattern": "://"}}


class _Amounts(Json):
    """A table of names with numbers above 0."""

    _amount = Number(above=0)

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the table as it is."""
        if not isinstance(value, Mapping):
            return report.add_type(key, value, "a table")
        for name, amount in value.items():
            self._amount.read(amount, join_key(key, str(name)), report)
        if "CPU" in value:
            report.add(
                join_key(key, "CPU"), "has a key of its own", "Give the number of processors as 'cpus'"
            )
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of the table."""
        return {
            "type": "object",
            "additionalProperties": self._amount.schema(defs),
            "propertyNames": {"not": {"const": "CPU"}},
        }


@attrs.frozen(kw_only=True)
class PlacementSettings(Table):
    """The worker processes in which the agents of a pool with a `placement` run."""

    address: str | None = attrs.field(
        default=None,
        validator=_Address(
            "Of the cluster: `10.0.0.1:6379`, `auto`, or `local` for a new one on this machine; left out,"
            " what RAY_ADDRESS says, else a cluster that runs on this machine, else a new one",
            blank=False,
            one_line=True,
            optional=True,
        ),
    )
    workers: int | None = attrs.field(
        default=None,
        validator=Whole(
            "How many worker processes; left out, as many as the cluster has processors for", optional=True
        ),
    )
    cpus: float = attrs.field(
        default=1.0, validator=Number("How many processors Ray sets aside for each worker")
    )
    resources: Mapping[str, float] = attrs.field(
        factory=dict,
        hash=False,
        validator=_Amounts("What else Ray sets aside for each worker, such as `{ GPU = 1 }`"),
    )
    runtime_env: Mapping[str, Any] = attrs.field(
        factory=dict,
        hash=False,
        validator=Json("What Ray prepares on a node before a worker starts there, such as `env_vars`"),
    )
    lease: float = attrs.field(
        default=10.0,
        validator=Number(
            "Seconds after which a worker ends itself that hears nothing of this process", at_least=2
        ),
    )
    start_timeout: float = attrs.field(
        default=60.0, validator=Number("Seconds in which a worker has to be up", above=0)
    )


def placement_of(kind: PlacementKind | None, settings: PlacementSettings | None) -> Placement | None:
    """Return where the agents of a fleet run; None if they run in this process.

    Args:
      kind: `placement` of the fleet's `[pool]`.
      settings: its `[placement]`.

    Raises:
      ModuleNotFoundError: if the extra is not installed; it names the `pip install`.
    """
    if kind is None:
        return None
    from agentpool.ray import RayPlacement

    given = PlacementSettings() if settings is None else settings
    return RayPlacement(
        address=given.address,
        workers=given.workers,
        cpus=given.cpus,
        resources=given.resources,
        runtime_env=given.runtime_env or None,
        lease=given.lease,
        start_timeout=given.start_timeout,
    )
