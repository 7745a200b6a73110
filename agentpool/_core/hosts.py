"""Which hosts a grant means, by name, address and port; and which addresses are public."""

from __future__ import annotations

import functools
import ipaddress
import itertools
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeAlias

import attrs

from agentpool._core.rules import Report, Text

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network

USUAL_PORTS = (80, 443)
"""The ports of a grant that names none."""

_NAME = re.compile(r"(\*\.)?[^\s\x00-\x20\x7f*:/?#@\[\]\\%,;]+")
_PORT = re.compile(r":(\*|[0-9]{1,5})$")
_FORMS = "Write a name (example.org), names below it (*.example.org), an address (10.0.0.5), a network"
_FORMS += (
    " (10.0.0.0/8), localhost or *, each with a port (example.org:8080) or any (:*) if it is not 80 or 443"
)

# -- addresses ------------------------------------------------------------------


def _networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# IANA's registries of special addresses, written out: what Python calls global differs by its release.
_NOT_PUBLIC = _networks(
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    "168.63.129.16/32",  # of Azure's hosts, which answer their guests there
    "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)  # fmt: skip
_PUBLIC_V6 = IPv6Network("2000::/3")  # all other ones are special
_NAT64 = IPv6Network("64:ff9b::/96")  # an IPv4 address, as networks with IPv6 alone reach it
_LOOPBACK = _networks("127.0.0.0/8", "::1/128")
_PRIVATE = _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
_NOBODY = _networks("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "ff00::/8")


def plain_address(address: IPAddress) -> IPAddress:
    """Return the address that is meant: the IPv4 one that is mapped into IPv6, and others as they are."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _judged(address: IPAddress) -> IPAddress:
    address = plain_address(address)
    if isinstance(address, IPv6Address) and address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public(address: IPAddress) -> bool:
    """Whether an address is one of the public internet: not this machine, this network, or a special one."""
    address = _judged(address)
    if isinstance(address, IPv6Address) and address not in _PUBLIC_V6:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def _is_public_network(network: IPNetwork) -> bool:
    if isinstance(network, IPv6Network) and not network.subnet_of(_PUBLIC_V6):
        return False
    return not any(each.version == network.version and each.overlaps(network) for each in _NOT_PUBLIC)


def is_loopback(address: IPAddress) -> bool:
    """Whether an address is this machine's own."""
    return _is_in(address, _LOOPBACK)


def is_private(address: IPAddress) -> bool:
    """Whether an address is this machine's, or one of a network of one's own."""
    return _is_in(address, _PRIVATE) or is_loopback(address)


def is_nobodys(address: IPAddress) -> bool:
    """Whether an address is no single host's: unspecified, broadcast or multicast."""
    return _is_in(address, _NOBODY)


def _is_in(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    address = _judged(address)
    return any(address in network for network in networks)


# -- patterns -------------------------------------------------------------------


@attrs.frozen
class HostPattern:
    """What an entry of `allowed_hosts` means: a name or a network, and ports.

    Attributes:
      name: `*`, a name, or `*.` with a name for all that are below it; empty for a network.
      network: the addresses; a single one is a network of its own.
      port: None for the usual ones.
      any_port: whether every port is meant.
    """

    name: str = ""
    network: IPNetwork | None = None
    port: int | None = None
    any_port: bool = False

    def has_port(self, port: int) -> bool:
        """Whether a port is one of those that are meant."""
        return self.any_port or (port in USUAL_PORTS if self.port is None else port == self.port)

    def has_name(self, name: str) -> bool:
        """Whether a name, in lower case, is one of those that are meant."""
        if self.name.startswith("*."):
            return name.endswith(self.name[1:])
        return name == self.name or (self.name == "*" and name != "localhost")

    def has_address(self, address: IPAddress) -> bool:
        """Whether an address is granted as such: what is not public has to be, beside its name."""
        if self.name == "localhost":
            return is_loopback(address)
        return self.network is not None and plain_address(address) in self.network

    def covers(self, other: HostPattern) -> bool:
        """Whether everything that the other pattern means is meant by this one too."""
        return self._covers_ports(other) and self._covers_hosts(other)

    def _covers_ports(self, other: HostPattern) -> bool:
        if self.any_port or other.any_port:
            return self.any_port
        if other.port is None:
            return self.port is None
        return self.has_port(other.port)

    def _covers_hosts(self, other: HostPattern) -> bool:
        if other.network is not None:
            if self.name == "localhost":
                return any(_is_within(other.network, each) for each in _LOOPBACK)
            if self.network is None:
                return self.name == "*" and _is_public_network(other.network)
            return _is_within(other.network, self.network)
        if other.name == "*":
            return self.name == "*"
        if other.name.startswith("*."):
            return self.name == "*" or (self.name.startswith("*.") and other.name.endswith(self.name[1:]))
        return self.has_name(other.name)

    def both(self, other: HostPattern) -> HostPattern | None:
        """Return what both patterns mean; None if that is nothing."""
        ports = self if other._covers_ports(self) else other
        if not (self._covers_ports(ports) and other._covers_ports(ports)):
            return None
        inner = self if other._covers_hosts(self) else other
        if not (self._covers_hosts(inner) and other._covers_hosts(inner)):
            return None
        return attrs.evolve(inner, port=ports.port, any_port=ports.any_port)

    def __str__(self) -> str:
        host = self.name or str(self.network)
        port = "*" if self.any_port else self.port
        if port is None:
            return host
        return f"[{host}]:{port}" if isinstance(self.network, IPv6Network) else f"{host}:{port}"


def _is_within(inner: IPNetwork, outer: IPNetwork) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


@functools.lru_cache(1024)
def host_pattern(text: str) -> HostPattern:
    """Return what an entry of `allowed_hosts` means.

    Raises:
      ValueError: if it means nothing.
    """
    host, port = _split_port(text)
    options: dict[str, Any] = {"any_port": port == "*", "port": int(port) if port.isdecimal() else None}
    if options["port"] is not None and not 0 < options["port"] < 65_536:
        raise ValueError(f"has the port {port}, which does not exist")
    network = _network(host.removeprefix("[").removesuffix("]"))
    if network is not None:
        return HostPattern(network=network, **options)
    name = host.lower() if host == "*." else host.lower().removesuffix(".")
    if name != "*" and (_NAME.fullmatch(name) is None or _is_number(name)):
        raise ValueError("is no name, address or network of hosts")
    return HostPattern(name, **options)


def _split_port(text: str) -> tuple[str, str]:
    """Take the port off; an IPv6 address without brackets has none."""
    found = _PORT.search(text)
    if found is None or (text.count(":") > 1 and not text.startswith("[")):
        return text, ""
    return text[: found.start()], found[1]


def _network(text: str) -> IPNetwork | None:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _is_number(name: str) -> bool:
    """Whether a name would be read as an address, such as `127.1` or `0x7f000001`."""
    last = name.rpartition(".")[2]
    return last.isdecimal() or re.fullmatch(r"0x[0-9a-f]*", last) is not None


def allows_name(granted: Iterable[HostPattern], name: str, port: int) -> bool:
    """Whether a host may be asked for by its name. Its addresses have to be allowed, too."""
    return any(pattern.has_name(name) and pattern.has_port(port) for pattern in granted)


def allows_literal(granted: Iterable[HostPattern], address: IPAddress, port: int) -> bool:
    """Whether an address may be asked for that stands in a URL itself: `*` is every public one."""
    granted = [pattern for pattern in granted if pattern.has_port(port)]
    if is_public(address) and any(pattern.name == "*" for pattern in granted):
        return True
    return not is_nobodys(address) and any(pattern.has_address(address) for pattern in granted)


def allows_address(granted: Iterable[HostPattern], address: IPAddress, port: int) -> bool:
    """Whether a name that may be asked for may have this address.

    One that is not public has to be granted as well, by an entry that says so: an address, a network or
    `localhost`. Else whoever owns a name could have it lead to the machines beside this one.
    """
    if is_nobodys(address):
        return False
    return is_public(address) or any(
        pattern.has_address(address) and pattern.has_port(port) for pattern in granted
    )


def covers_host(granted: Iterable[str], required: str) -> bool:
    """Whether one of the granted entries means all that the required one does."""
    wanted = host_pattern(required)
    return any(host_pattern(text).covers(wanted) for text in granted)


def hosts_in_both(some: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Return the entries that mean what both lists mean.

    Nothing that one of the two does not mean; and everything that both mean, but for public addresses of
    a network that is public in part, where the other list has `*`.
    """
    pairs = itertools.product(map(host_pattern, some), map(host_pattern, others))
    both = (one.both(other) for one, other in pairs)
    return tuple(dict.fromkeys(str(pattern) for pattern in both if pattern is not None))


class HostRule(Text):
    """An entry of `allowed_hosts`."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the text as it is, if it means something."""
        before = len(report.problems)
        text = super().read(value, key, report)
        if len(report.problems) == before:
            try:
                host_pattern(text)
            except ValueError as error:
                return report.add(key, f"{text!r} {error}", _fix(text))
        return text


def _fix(text: str) -> str:
    found = re.match(r"\s*[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/?#@]*@)?([^/?#\s]+)", text)
    if found is not None and _means_something(found[1]):
        return f"Write '{found[1]}'; a grant is for hosts, with all that they have"
    return _FORMS


def _means_something(text: str) -> bool:
    try:
        host_pattern(text)
    except ValueError:
        return False
    return True
