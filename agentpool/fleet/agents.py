"""The agents of a fleet that was read: those of manifests, and those that are Python functions."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from agentpool._core.manifest import AgentManifest
from agentpool._loading import directory_of
from agentpool.fleet.functions import load_function
from agentpool.fleet.tables import RestartSettings

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext


@attrs.frozen
class FleetAgent:
    """One agent of a fleet: `SpawnConfig(manifest, query)`, with its name and its limits.

    Attributes:
      name: unique within the fleet.
      query: what it is asked; None if the file gives none, which only a fleet that is served may do.
      timeout: seconds, or None.
      placed: whether it runs where the pool's placement says, if it has one.
    """

    name: str
    manifest: AgentManifest
    query: str | None
    timeout: float | None = None
    restart: RestartSettings | None = None
    placed: bool = True


@attrs.frozen
class FleetFunction:
    """One agent of a fleet that is a Python function, with its name, its arguments and its limits.

    It is an agent itself: `await pool.spawn(fleet_function, name=fleet_function.name)`.

    Attributes:
      name: unique within the fleet.
      function: what was loaded: an async callable that takes a context.
      reference: what the file calls it, `module:function`.
      query: what it gets after its context; None if the file gives no query.
      args: what it gets by name.
      timeout: seconds, or None.
      placed: whether it runs where the pool's placement says, if it has one.
    """

    name: str
    function: Callable[..., Awaitable[Any]]
    reference: str
    query: str | None = None
    args: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    timeout: float | None = None
    restart: RestartSettings | None = None
    placed: bool = True

    def __call__(self, ctx: AgentContext) -> Awaitable[Any]:
        """Call the function: `function(ctx, query, **args)`, without the query if there is none."""
        # A restarted agent must not find what its last life did to a list.
        args = copy.deepcopy(dict(self.args))
        return self.function(ctx, **args) if self.query is None else self.function(ctx, self.query, **args)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it. A function of a file beside the fleet's is loaded from that file again."""
        directory = directory_of(self.reference, self.function)
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        if directory is not None:
            del fields["function"]
        return _made_again, (type(self), fields, directory)

    def to_journal(self) -> Any:
        """Return what it is made from, as JSON data.

        Raises:
          NotDataError: if the function cannot be found again by its name.
        """
        from agentpool._objects import NotDataError, object_to_data, reference_of

        function = reference_of(self.function)
        if function is None:
            raise NotDataError(f"the function {self.reference} cannot be imported again by its name")
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        return object_to_data({**fields, "args": dict(self.args), "function": function})

    @classmethod
    def from_journal(cls, data: Any) -> FleetFunction:
        """Return the agent of which `to_journal` made this."""
        from agentpool._objects import found_again, object_from_data

        fields = object_from_data(data)
        return cls(**{**fields, "function": found_again(fields["function"])})


def _made_again(cls: type[FleetFunction], fields: dict[str, Any], directory: str | None) -> FleetFunction:
    if directory is None:
        return cls(**fields)
    return cls(**fields, function=load_function(fields["reference"], Path(directory)))


AnyFleetAgent: TypeAlias = FleetAgent | FleetFunction
