"""What is decided about MCP servers: names, what is shown of a tool, whether it has changed, when to wait.

A server is somebody else's program, and so is every word that it says. Names are made fit, texts and
schemas are bounded, and a definition stands only as long as it is the one that was approved.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs

from agentpool._core.capability import PrivacyTier
from agentpool._core.messages import ToolDefinition
from agentpool._core.text import encodable

PREFIX = "mcp__"
"""With this the names of all tools of MCP servers begin."""

LONGEST_NAME = 64
"""So many letters a tool's name has at the most, which is what providers take."""

MOST_TOOLS = 1000
"""So many tools of a server are taken."""

LONGEST_DESCRIPTION = 4096
"""So many letters of a tool's description the model is shown."""

LONGEST_SCHEMA = 65_536
"""So many letters the schema of a tool may have, as JSON."""

DEEPEST_SCHEMA = 40
"""So deep the schema of a tool may be nested."""

# -- names ----------------------------------------------------------------------------

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


def tool_name(server: str, tool: str) -> str:
    """Return the name under which a model knows a tool: `mcp__server__tool`.

    No two tools have the same: a name that had to be changed, or could be taken apart in two ways, ends
    with letters that stand for the whole of it.
    """
    parts = [_UNFIT.sub("_", part) for part in (server, tool)]
    name = f"{PREFIX}{parts[0]}__{parts[1]}"
    is_plain = parts == [server, tool] and server and tool and not server.endswith("_")
    if is_plain and "__" not in server and not tool.startswith("_") and len(name) <= LONGEST_NAME:
        return name
    digits = hashlib.sha256(json.dumps([server, tool]).encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9]}_{digits}"


def beginning_of_names(server: str) -> str:
    """Return what the names of all tools of a server begin with, also of those that had to be changed."""
    return f"{PREFIX}{_UNFIT.sub('_', server)}__"[: LONGEST_NAME - 9]


# -- definitions ----------------------------------------------------------------------

# Letters that are not seen and that a model reads nevertheless: tags, and what turns the direction of text.
_HIDDEN = re.compile("[\U000e0000-\U000e007f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")


def seen(text: str) -> str:
    """Return a text without letters that a person would not see."""
    return _HIDDEN.sub("", encodable(text))


@attrs.frozen
class McpDefinition:
    """A tool as its server describes it.

    Attributes:
      name: the server's own name for it.
      description: what it does, in the words of the server.
      input_schema: the JSON schema of its arguments.
      annotations: hints, such as `idempotentHint`.
    """

    name: str
    description: str
    input_schema: Mapping[str, Any] = attrs.field(hash=False)
    annotations: Mapping[str, Any] = attrs.field(factory=dict, hash=False)

    @property
    def digest(self) -> str:
        """What stands for all of it: another one is another tool."""
        told = [self.name, self.description, self.input_schema, self.annotations]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def is_idempotent(self) -> bool:
        """Whether the server says that a call may be made again."""
        return self.annotations.get("idempotentHint") is True

    def problem(self) -> str:
        """Return why it cannot be shown to a model; empty if it can."""
        if not self.name.strip():
            return "it has no name"
        if len(self.name) > 256:
            return f"its name has {len(self.name):,} letters, and 256 are the limit"
        if depth_of(self.input_schema) > DEEPEST_SCHEMA:
            return f"its schema is nested deeper than {DEEPEST_SCHEMA} levels"
        size = len(json.dumps(self.input_schema))
        if size > LONGEST_SCHEMA:
            return f"its schema has {size:,} letters, and {LONGEST_SCHEMA:,} are the limit"
        return ""

    def shown(self, server: str) -> ToolDefinition:
        """Return it as a model is shown it."""
        text = seen(self.description)
        if len(text) > LONGEST_DESCRIPTION:
            text = f"{text[:LONGEST_DESCRIPTION]} [cut: the description has {len(text):,} letters]"
        schema = self.input_schema if self.input_schema.get("type") == "object" else _AN_OBJECT
        return ToolDefinition(tool_name(server, self.name), text or self.name, _seen_in(schema))


_AN_OBJECT: Mapping[str, Any] = {"type": "object"}


def _seen_in(value: Any) -> Any:
    if isinstance(value, str):
        return seen(value)
    if isinstance(value, Mapping):
        return {key: _seen_in(item) for key, item in value.items()}
    return [_seen_in(item) for item in value] if isinstance(value, list) else value


def depth_of(value: Any) -> int:
    """Return how deep JSON data is nested; a value by itself is 0 deep."""
    deepest, todo = 0, [(value, 0)]
    while todo:
        each, depth = todo.pop()
        deepest = max(deepest, depth)
        if isinstance(each, Mapping):
            todo += [(item, depth + 1) for item in each.values()]
        elif isinstance(each, list):
            todo += [(item, depth + 1) for item in each]
    return deepest


@attrs.frozen
class Listing:
    """The tools of a server that can be used, and why others cannot.

    Attributes:
      tools: by the server's own names, in its order.
      problems: of those that are left out.
    """

    tools: Mapping[str, McpDefinition] = attrs.field(factory=dict)
    problems: tuple[str, ...] = ()


def listing_of(definitions: Iterable[McpDefinition]) -> Listing:
    """Return what can be used of what a server lists."""
    tools: dict[str, McpDefinition] = {}
    problems: list[str] = []
    for each in definitions:
        problem = each.problem() or ("there is one of that name before it" if each.name in tools else "")
        if not problem and len(tools) >= MOST_TOOLS:
            problems.append(f"more than {MOST_TOOLS:,} tools: the others are left out")
            break
        if problem:
            problems.append(f"{each.name[:80]!a}: {problem}")
        else:
            tools[each.name] = each
    return Listing(tools, tuple(problems))


# -- pins -----------------------------------------------------------------------------


@attrs.frozen
class ServerPins:
    """What was approved of a server: the digest of each tool.

    Attributes:
      digests: by the tools' own names.
    """

    digests: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, listing: Listing) -> ServerPins:
        """Return the pins by which all of a listing is approved."""
        return cls({name: each.digest for name, each in listing.tools.items()})

    def problem(self, definition: McpDefinition) -> str:
        """Return why a tool may not be called; empty if it is as it was approved."""
        known = self.digests.get(definition.name)
        if known == definition.digest:
            return ""
        return (
            "is new since the server was approved" if known is None else "has changed since it was approved"
        )

    def differences(self, listing: Listing) -> Iterator[str]:
        """Yield a line for each tool that is new, has changed, or is gone."""
        for name, each in listing.tools.items():
            if problem := self.problem(each):
                yield f"{name} {problem}"
        for name in self.digests:
            if name not in listing.tools:
                yield f"{name} is gone"


def pins_to_text(pins: Mapping[str, ServerPins]) -> str:
    """Return the text of a file of pins."""
    data = {name: dict(sorted(each.digests.items())) for name, each in sorted(pins.items())}
    return json.dumps({"mcp_servers": data}, indent=2) + "\n"


def pins_from_text(text: str) -> dict[str, ServerPins]:
    """Return the pins of which `pins_to_text` made this.

    Raises:
      ValueError: if it is no such text.
    """
    try:
        data = json.loads(text)
    except RecursionError:
        data = None
    servers = data.get("mcp_servers") if isinstance(data, dict) else None
    if not isinstance(servers, dict) or not all(map(_are_digests, servers.values())):
        raise ValueError('is no file of pins: {"mcp_servers": {SERVER: {TOOL: DIGEST}}} is wanted')
    return {name: ServerPins(digests) for name, digests in servers.items()}


def _are_digests(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


# -- how much a server may say --------------------------------------------------------


@attrs.define(eq=False)
class Flood:
    """Counts the messages of a server that nobody asked for.

    Attributes:
      at_once: so many may come in a row.
      a_second: and so many in each second after that.
    """

    at_once: int = 10_000
    a_second: float = 1000.0
    _level: float = 0.0
    _at: float = 0.0

    def take(self, now: float) -> bool:
        """Count one; return whether it was too many."""
        self._level = max(0.0, self._level - (now - self._at) * self.a_second) + 1
        self._at = now
        return self._level > self.at_once


# -- starting again -------------------------------------------------------------------


@attrs.define(eq=False)
class Restarts:
    """When a server that died is started again: each time later, and not at all after several.

    Attributes:
      most: after so many failures `within` it is left alone until the first of them is older.
      within: seconds.
      first: how long the first restart waits, in seconds; the next ones twice as long, up to `longest`.
    """

    most: int = 5
    within: float = 60.0
    first: float = 0.25
    longest: float = 8.0
    _failures: list[float] = attrs.field(factory=list)

    def failed(self, now: float) -> None:
        """Take down that it could not be started, or died."""
        self._failures = [*self._recent(now), now]

    def delay(self, now: float) -> float | None:
        """Return how many seconds to wait from now on; None if it is not to be started."""
        self._failures = self._recent(now)
        if not self._failures:
            return 0.0
        if len(self._failures) >= self.most:
            return None
        pause = min(self.longest, self.first * 2.0 ** (len(self._failures) - 1))
        return max(0.0, self._failures[-1] + pause - now)

    def again_in(self, now: float) -> float:
        """Return in how many seconds it may be started again, of one that is not to be started."""
        return self._failures[0] + self.within - now

    def _recent(self, now: float) -> list[float]:
        return [at for at in self._failures if now - at < self.within]


# -- where words go -------------------------------------------------------------------


_OWN_NETWORKS = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)


def tier_of(address: str) -> PrivacyTier:
    """Return where an IP address is: on this machine, in a network of one's own, or anywhere."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = ip if mapped is None else mapped
    if ip.is_loopback:
        return PrivacyTier.SOVEREIGN
    is_own = any(ip in network for network in _OWN_NETWORKS if network.version == ip.version)
    return PrivacyTier.PRIVATE if is_own else PrivacyTier.STANDARD


def is_loopback_url(url: str) -> bool:
    """Whether an address of the web can only mean this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or tier_of(host) is PrivacyTier.SOVEREIGN
    except ValueError:
        return False


def problem_of_url(url: str) -> str:
    """Return what is wrong with the address of a server; empty if nothing is."""
    try:
        parts = urlsplit(url.strip())
        _ = parts.port  # is checked only when it is read
    except ValueError as error:
        return f"is no address: {error}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"{parts.scheme or 'it'} is no address of the web"
    return "carries a user name or password" if "@" in parts.netloc else ""


# -- the environment of a server ------------------------------------------------------

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TMP", "TEMP", "TZ", "SYSTEMROOT")
"""The variables of this process's environment that a server's process has; those of `env` come on top."""


def variables_in(text: str) -> list[str]:
    """Return the names of the environment's variables in a text, such as `${TOKEN}`."""
    return _VARIABLE.findall(text)


def filled(values: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return values with `${NAME}` in them filled from an environment.

    Raises:
      ValueError: with the names that are not there.
    """
    missing = [name for text in values.values() for name in variables_in(text) if name not in environment]
    if missing:
        raise ValueError(f"the environment has no {', '.join(dict.fromkeys(missing))}")
    return {key: _VARIABLE.sub(lambda found: environment[found[1]], text) for key, text in values.items()}


def leaves(parts: Sequence[BaseException]) -> Iterator[BaseException]:
    """Yield the exceptions that groups hold, at every depth."""
    for each in parts:
        if isinstance(each, BaseExceptionGroup):
            yield from leaves(each.exceptions)
        else:
            yield each
