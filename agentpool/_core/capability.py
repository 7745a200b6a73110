"""What an agent may do: granted capabilities and the privacy tier, both of which only narrow."""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Iterable
from typing import TypeAlias

import attrs

from agentpool._core.hosts import HostRule, covers_host
from agentpool._core.rules import FilePath, ListOf, Text, Whole, as_texts


class PrivacyTier(enum.Enum):
    """Where an agent's words may travel to.

    `SOVEREIGN` is this machine only (loopback), `PRIVATE` adds the hosts that you run yourself,
    `STANDARD` is anywhere.
    """

    SOVEREIGN = "sovereign"
    PRIVATE = "private"
    STANDARD = "standard"

    def permits(self, other: PrivacyTier) -> bool:
        """Whether words of this tier may go to a place that keeps `other`."""
        order = [PrivacyTier.SOVEREIGN, PrivacyTier.PRIVATE, PrivacyTier.STANDARD]
        return order.index(other) <= order.index(self)


_PATHS = ListOf("The files and directories, with all that is below them", item=FilePath())
_COMMANDS = ListOf("The names of the commands; `*` is any", item=Text(blank=False))
_HOSTS = ListOf(
    "The hosts: names, `*.` and a name for those below it, addresses, networks, `localhost`, or `*` for"
    " every public one; with `:PORT` (or `:*`) for other ports than 80 and 443",
    item=HostRule(blank=False),
)
_DEPTH = Whole("How many levels of agents below itself it may have")
_AGENTS = ListOf("The names of the agents that it may spawn; `*` is any", item=Text(blank=False))


@attrs.frozen
class MemoryCapability:
    """May remember and recall."""


@attrs.frozen
class RagCapability:
    """May search documents."""


@attrs.frozen
class BrowserCapability:
    """May drive a browser."""


@attrs.frozen
class InferenceCapability:
    """May call a model as a tool."""


@attrs.frozen
class ComputeCapability:
    """May compute."""


@attrs.frozen
class MessagingCapability:
    """May send messages to other agents and receive theirs, as tools."""


@attrs.frozen
class FileReadCapability:
    """May read below these paths."""

    allowed_paths: tuple[str, ...] = attrs.field(converter=as_texts, validator=_PATHS)


@attrs.frozen
class FileWriteCapability:
    """May write below these paths."""

    allowed_paths: tuple[str, ...] = attrs.field(converter=as_texts, validator=_PATHS)


@attrs.frozen
class ShellCapability:
    """May run these commands; `*` is any."""

    allowed_commands: tuple[str, ...] = attrs.field(converter=as_texts, validator=_COMMANDS)


@attrs.frozen
class NetworkCapability:
    """May reach these hosts.

    An entry is a name, `*.example.org` for all names below one, an address, a network such as
    `10.0.0.0/8`, `localhost`, or `*` for every public host. It means the ports 80 and 443;
    `example.org:8080` means that port, and `example.org:*` all. A host whose address is not public
    needs an entry for its address as well.
    """

    allowed_hosts: tuple[str, ...] = attrs.field(converter=as_texts, validator=_HOSTS)


@attrs.frozen
class SpawnCapability:
    """May spawn agents, down to `max_depth` levels below itself: those that `agents` names; `*` is any."""

    max_depth: int = attrs.field(default=1, validator=_DEPTH)
    agents: tuple[str, ...] = attrs.field(default=("*",), converter=as_texts, validator=_AGENTS)


@attrs.frozen
class McpCapability:
    """May call `tool` (or `*`) of the MCP server named `server`."""

    server: str = attrs.field(validator=Text("The name of the MCP server", blank=False))
    tool: str = attrs.field(
        default="*", validator=Text("The name of the tool; `*` is any of the server", blank=False)
    )


Capability: TypeAlias = (
    MemoryCapability
    | RagCapability
    | BrowserCapability
    | InferenceCapability
    | ComputeCapability
    | MessagingCapability
    | FileReadCapability
    | FileWriteCapability
    | ShellCapability
    | NetworkCapability
    | SpawnCapability
    | McpCapability
)

CAPABILITY_TYPES: dict[str, type[Capability]] = {
    "memory": MemoryCapability,
    "rag": RagCapability,
    "browser": BrowserCapability,
    "inference": InferenceCapability,
    "compute": ComputeCapability,
    "messaging": MessagingCapability,
    "file_read": FileReadCapability,
    "file_write": FileWriteCapability,
    "shell": ShellCapability,
    "network": NetworkCapability,
    "spawn": SpawnCapability,
    "mcp": McpCapability,
}
"""The `type` of a `[[capabilities]]` entry, and the value it becomes."""


def grants(granted: Iterable[Capability], required: Capability | None) -> bool:
    """Whether a manifest that grants `granted` allows what needs `required`.

    A grant counts for its own type only. Every path, command or host that is required must be granted
    by one of the grants; none required means that any grant of the type will do. `*` in a grant is any
    command, server or tool, and any public host. Paths are compared as they are written, without a look
    at the disk: a path is granted by itself and by every directory above it.
    """
    if required is None:
        return True
    same = [grant for grant in granted if type(grant) is type(required)]
    if not same:
        return False
    return all(any(_covers(grant, part) for grant in same) for part in _parts(required))


def inherited(granted: Iterable[Capability]) -> tuple[Capability, ...]:
    """Return what a child may have of its parent's capabilities: one level less of spawning."""
    children: list[Capability] = []
    for grant in granted:
        if not isinstance(grant, SpawnCapability):
            children.append(grant)
        elif grant.max_depth > 1:
            children.append(attrs.evolve(grant, max_depth=grant.max_depth - 1))
    return tuple(children)


def narrowed(parent: tuple[Capability, ...] | None, asked: tuple[Capability, ...]) -> tuple[Capability, ...]:
    """Return what is both granted to a parent and asked for.

    What the result grants, `parent` and `asked` both grant; and a single path, command, host, tool or
    number of levels that both grant, it grants. Paths are compared as they are written, so that those
    of both have to be absolute, or relative to the same directory; those of the result hold no `..`.
    Nothing in the result is granted by another part of it, so that it does not grow from one agent to
    the next, and narrowing it by itself changes nothing.

    Args:
      parent: what the parent may do; None for the program itself, which may do everything.
      asked: what is asked for.
    """
    if parent is None:
        return asked
    both = [part for wish in asked for part in _in_both([g for g in parent if type(g) is type(wish)], wish)]
    return tuple(_without_covered(both))


def _without_covered(granted: Iterable[Capability]) -> list[Capability]:
    """Return what no other one grants as a whole; of two that grant the same, the first."""
    kept: list[Capability] = []
    for each in granted:
        if not any(_covers_whole(known, each) for known in kept):
            kept = [known for known in kept if not _covers_whole(each, known)]
            kept.append(each)
    return kept


def _covers_whole(grant: Capability, required: Capability) -> bool:
    return type(grant) is type(required) and all(_covers(grant, part) for part in _parts(required))


def _in_both(same: list[Capability], wish: Capability) -> list[Capability]:
    """Return what of a wish is granted by capabilities of its type."""
    if not same:
        return []
    match wish:
        case SpawnCapability():
            return [spawn for grant in same for spawn in _spawn_in_both(grant, wish)]
        case McpCapability():
            return [tool for grant in same for tool in _mcp_in_both(grant, wish)]
        case FileReadCapability() | FileWriteCapability() | ShellCapability() | NetworkCapability():
            return _parts_in_both(same, wish)
        case _:
            return [wish]


def _parts_in_both(same: list[Capability], wish: Capability) -> list[Capability]:
    """Return the paths or names of two sets that lie in the other one: of two that are nested, the inner."""
    kept = [part for part in _parts(wish) if any(_covers(grant, part) for grant in same)]
    for part in (part for grant in same for part in _parts(grant)):
        if _covers(wish, part) and not any(_covers(known, part) for known in kept):
            kept.append(part)
    items = [item for part in kept for item in _items(part)]
    if not items:
        return []
    if isinstance(wish, FileReadCapability | FileWriteCapability):
        items = list(map(posixpath.normpath, items))
    return [type(wish)(tuple(dict.fromkeys(items)))]  # type: ignore[arg-type, call-arg]


def _items(part: Capability) -> tuple[str, ...]:
    items: tuple[str, ...] = attrs.astuple(part)[0]
    return items


def _spawn_in_both(grant: Capability, wish: SpawnCapability) -> list[SpawnCapability]:
    assert isinstance(grant, SpawnCapability)
    agents = wish.agents if "*" in grant.agents else grant.agents
    if "*" not in grant.agents and "*" not in wish.agents:
        agents = tuple(name for name in wish.agents if name in grant.agents)
    return [SpawnCapability(min(grant.max_depth, wish.max_depth), agents)] if agents else []


def _mcp_in_both(grant: Capability, wish: McpCapability) -> list[McpCapability]:
    assert isinstance(grant, McpCapability)
    pairs = ((grant.server, wish.server), (grant.tool, wish.tool))
    if any(one != other and "*" not in (one, other) for one, other in pairs):
        return []
    return [McpCapability(*(other if one == "*" else one for one, other in pairs))]


def _parts(required: Capability) -> list[Capability]:
    """Take a requirement apart, so that several grants may meet it together."""
    match required:
        case FileReadCapability(paths):
            return [FileReadCapability((path,)) for path in paths]
        case FileWriteCapability(paths):
            return [FileWriteCapability((path,)) for path in paths]
        case ShellCapability(commands):
            return [ShellCapability((command,)) for command in commands]
        case NetworkCapability(hosts):
            return [NetworkCapability((host,)) for host in hosts]
        case SpawnCapability(depth, (_, _, *_) as names):
            return [SpawnCapability(depth, (name,)) for name in names]
        case _:
            return [required]


def _covers(grant: Capability, part: Capability) -> bool:
    match grant, part:
        case (FileReadCapability(above), FileReadCapability((path,))) | (
            FileWriteCapability(above),
            FileWriteCapability((path,)),
        ):
            return any(_is_below(path, root) for root in above)
        case ShellCapability(known), ShellCapability((name,)):
            return "*" in known or name in known
        case NetworkCapability(known), NetworkCapability((host,)):
            return covers_host(known, host)
        case SpawnCapability(depth, known), SpawnCapability(needed, names):
            return depth >= needed and ("*" in known or all(name in known for name in names))
        case McpCapability(server, tool), McpCapability(wanted, name):
            return server in ("*", wanted) and tool in ("*", name)
        case _:
            return True


def _is_below(path: str, root: str) -> bool:
    path, root = posixpath.normpath(path), posixpath.normpath(root)
    if root == ".":
        return not posixpath.isabs(path) and not _climbs(path)
    prefix = root if root.endswith("/") else root + "/"
    return path == root or (path.startswith(prefix) and not _climbs(path[len(prefix) :]))


def _climbs(path: str) -> bool:
    return path.split("/", 1)[0] == ".."
