"""What an entry of `allowed_hosts` means, which one covers which, and which addresses are public."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpool import AgentManifest, ManifestError
from agentpool._core.capability import NetworkCapability, grants
from agentpool._core.hosts import (
    HostPattern,
    allows_address,
    allows_literal,
    allows_name,
    covers_host,
    host_pattern,
    hosts_in_both,
    is_loopback,
    is_nobodys,
    is_private,
    is_public,
    plain_address,
)


def words(text: str) -> list[str]:
    return text.split()


# -- addresses ------------------------------------------------------------------

NOT_PUBLIC = words(
    "0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 169.254.169.254"
    " 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1"
    " 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16 :: ::1 ::127.0.0.1"
    " ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 64:ff9b::10.0.0.1 64:ff9b::127.0.0.1"
    " 64:ff9b:1::1 100::1 2001::1 2001:10::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1 5f00::1"
    " fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1"
)
PUBLIC = words(
    "1.1.1.1 8.8.8.8 93.184.215.14 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.0.1.1"
    " 198.20.0.1 223.255.255.255 2606:4700::1111 2a00::1 2001:4860:4860::8888 ::ffff:8.8.8.8"
    " 64:ff9b::8.8.8.8"
)


def test_only_addresses_of_the_public_internet_are_public() -> None:
    assert [text for text in NOT_PUBLIC if is_public(ipaddress.ip_address(text))] == []
    assert [text for text in PUBLIC if not is_public(ipaddress.ip_address(text))] == []


def test_private_and_loopback_addresses_are_known_in_each_spelling() -> None:
    for text in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"):
        assert is_loopback(ipaddress.ip_address(text)), text
        assert is_private(ipaddress.ip_address(text)), text
    for text in ("10.0.0.1", "192.168.0.1", "172.20.0.1", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1"):
        assert is_private(ipaddress.ip_address(text)), text
        assert not is_loopback(ipaddress.ip_address(text)), text
    for text in ("8.8.8.8", "169.254.169.254", "fe80::1", "0.0.0.0"):
        assert not is_private(ipaddress.ip_address(text)), text
    for text in ("0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "::ffff:0.0.0.0"):
        assert is_nobodys(ipaddress.ip_address(text)), text
    assert str(plain_address(ipaddress.ip_address("::ffff:1.2.3.4"))) == "1.2.3.4"
    assert str(plain_address(ipaddress.ip_address("::1"))) == "::1"


# -- entries ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("*", HostPattern("*")),
        ("*:*", HostPattern("*", any_port=True)),
        ("*:8080", HostPattern("*", port=8080)),
        ("Example.ORG.", HostPattern("example.org")),
        ("example.org:8443", HostPattern("example.org", port=8443)),
        ("*.example.org:*", HostPattern("*.example.org", any_port=True)),
        ("bücher.example", HostPattern("bücher.example")),
        ("localhost:3000", HostPattern("localhost", port=3000)),
        ("10.0.0.5", HostPattern(network=ipaddress.ip_network("10.0.0.5"))),
        ("10.0.0.0/8:*", HostPattern(network=ipaddress.ip_network("10.0.0.0/8"), any_port=True)),
        ("::1", HostPattern(network=ipaddress.ip_network("::1"))),
        ("[::1]:80", HostPattern(network=ipaddress.ip_network("::1"), port=80)),
        ("[fd00::/8]", HostPattern(network=ipaddress.ip_network("fd00::/8"))),
        ("::ffff:10.0.0.0/104", HostPattern(network=ipaddress.ip_network("10.0.0.0/8"))),
        ("fd00::1/128", HostPattern(network=ipaddress.ip_network("fd00::1"))),
    ],
)
def test_an_entry_means_a_name_or_a_network_and_ports(text: str, meant: HostPattern) -> None:
    assert host_pattern(text) == meant


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("https://example.org/path", "Write 'example.org'"),
        ("http://example.org:8080", "Write 'example.org:8080'"),
        ("https://*/", "Write '*'"),
        ("http://[bad/", "Write a name"),
        ("example.org/path", "Write a name"),
        ("user@example.org", "Write a name"),
        ("example.org:", "Write a name"),
        ("example.org:0", "Write a name"),
        ("example.org:65536", "Write a name"),
        ("a*.example.org", "Write a name"),
        ("*.", "Write a name"),
        ("10.0.0.5/8", "Write a name"),
        ("127.1", "Write a name"),
        ("0x7f000001", "Write a name"),
        ("a b", "Write a name"),
        ("  ", "at least one character"),
        (7, "Give a string"),
    ],
)
def test_what_means_no_host_is_found_with_its_place_and_a_fix(text: str | int, fix: str) -> None:
    shown = f'"{text}"' if isinstance(text, str) else text
    source = (
        f'name = "m"\n[[capabilities]]\ntype = "network"\nallowed_hosts = ["ok.test", {shown}]\n'
        '[model]\ndriver = "x:y"\n'
    )
    with pytest.raises(ManifestError) as caught:
        AgentManifest.from_toml(source)
    (finding,) = caught.value.findings
    assert finding.key == "capabilities[0].allowed_hosts[1]"
    assert fix in finding.fix


# -- what covers what -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("granted", "required", "covered"),
    [
        ("*", "a.test", True),
        ("*", "*", True),
        ("a.test", "*", False),
        ("*.a.test", "*", False),
        ("*", "*.a.test", True),
        ("*.a.test", "*.a.test", True),
        ("*.a.test", "*.b.a.test", True),
        ("*.b.a.test", "*.a.test", False),
        ("*.a.test", "b.a.test", True),
        ("*.a.test", "A.test", False),
        ("*.a.test", "ba.test", False),
        ("a.test", "A.test.", True),
        ("a.test", "b.a.test", False),
        ("a.test", "*.a.test", False),
        ("*", "localhost", False),  # it brings addresses that `*` does not
        ("*", "127.0.0.1", False),
        ("*", "10.0.0.0/8", False),
        ("*", "8.8.8.0/24", True),
        ("*", "0.0.0.0/0", False),
        ("*", "2a00::/16", True),
        ("*", "::/0", False),
        ("a.test", "8.8.8.8", False),
        ("10.0.0.0/8", "10.1.0.0/16", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.0.0/16", "10.0.0.0/8", False),
        ("10.0.0.0/8", "a.test", False),
        ("10.0.0.0/8", "fd00::1", False),
        ("fd00::/8", "fd00::1", True),
        ("fd00::/8", "10.0.0.1", False),
        ("localhost", "localhost", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("localhost", "10.0.0.1", False),
        ("127.0.0.0/8", "localhost", False),
        ("a.test", "a.test:443", True),
        ("a.test", "a.test:80", True),
        ("a.test", "a.test:8080", False),
        ("a.test", "a.test:*", False),
        ("a.test:443", "a.test", False),
        ("a.test:443", "a.test:443", True),
        ("a.test:443", "a.test:80", False),
        ("a.test:*", "a.test", True),
        ("a.test:*", "a.test:9", True),
        ("a.test:*", "a.test:*", True),
        ("*:*", "a.test:9", True),
        ("*", "a.test:9", False),
    ],
)
def test_a_grant_covers_what_reaches_nothing_more(granted: str, required: str, covered: bool) -> None:
    assert covers_host([granted], required) is covered
    assert grants([NetworkCapability([granted])], NetworkCapability([required])) is covered


HOSTS = st.sampled_from(
    words(
        "* a.test b.a.test *.a.test *.b.a.test localhost 127.0.0.1 127.0.0.0/8 10.0.0.1 10.0.0.0/8 8.8.8.8"
        " 8.8.0.0/16 0.0.0.0/0 ::1 fd00::/8 2a00::1"
    )
)
ENTRIES = st.builds(
    lambda host, port: f"[{host}]{port}" if port and host.count(":") > 1 else host + port,
    HOSTS,
    st.sampled_from(["", ":*", ":80", ":443", ":8080"]),
)
NAMES = ["a.test", "b.a.test", "c.b.a.test", "localhost", "other.test"]
ADDRESSES = [
    ipaddress.ip_address(text)
    for text in ["127.0.0.1", "127.0.0.2", "::1", "10.0.0.2", "8.8.8.8", "8.8.4.4", "9.9.9.9",
                 "fd00::1", "2a00::1", "0.0.0.0", "169.254.169.254", "::ffff:10.0.0.1"]
]  # fmt: skip


def reach(entries: list[str]) -> set[tuple[object, ...]]:
    """Return everything that a list of entries lets an agent reach, of the samples."""
    granted = [host_pattern(entry) for entry in entries]
    reached: set[tuple[object, ...]] = set()
    for port in (80, 443, 8080):
        for address in ADDRESSES:
            if allows_literal(granted, address, port):
                reached.add((address, port))
            if allows_address(granted, address, port):
                reached |= {(name, address, port) for name in NAMES if allows_name(granted, name, port)}
    return reached


@settings(max_examples=120, deadline=None)
@given(parent=st.lists(ENTRIES, max_size=4), child=st.lists(ENTRIES, max_size=3))
def test_who_is_granted_what_the_parent_covers_reaches_nothing_that_the_parent_does_not(
    parent: list[str], child: list[str]
) -> None:
    covered = [entry for entry in child if covers_host(parent, entry)]
    assert reach(covered) <= reach(parent)


@settings(max_examples=120, deadline=None)
@given(some=st.lists(ENTRIES, max_size=3), others=st.lists(ENTRIES, max_size=3))
def test_what_two_lists_have_in_common_is_what_both_reach(some: list[str], others: list[str]) -> None:
    both = list(hosts_in_both(some, others))
    in_both = reach(some) & reach(others)
    assert reach(both) <= in_both
    if not any("0.0.0.0/0" in entry for entry in (*some, *others)):
        assert reach(both) == in_both
    assert all(covers_host(some, entry) and covers_host(others, entry) for entry in both)


@pytest.mark.parametrize(
    ("some", "others", "both"),
    [
        (["*"], ["a.test:*", "localhost"], ("a.test",)),
        (["*:*"], ["a.test:8080"], ("a.test:8080",)),
        (["a.test"], ["a.test:443", "a.test:8080"], ("a.test:443",)),
        (["*.a.test:8080"], ["b.a.test"], ()),
        (["*.a.test"], ["*.b.a.test:*"], ("*.b.a.test",)),
        (["10.0.0.0/8:*"], ["10.1.0.0/16:81", "10.2.3.4"], ("10.1.0.0/16:81", "10.2.3.4/32")),
        (["[fd00::/8]:*"], ["fd00::1", "[fd00::2]:81"],
         ("fd00::1/128", "[fd00::2/128]:81")),
        (["localhost:*"], ["127.0.0.1:3000", "localhost:80"], ("127.0.0.1/32:3000", "localhost:80")),
        (["10.0.0.0/8"], ["fd00::/8", "*", "a.test"], ()),
    ],
)  # fmt: skip
def test_what_two_lists_have_in_common(some: list[str], others: list[str], both: tuple[str, ...]) -> None:
    assert hosts_in_both(some, others) == both
    assert hosts_in_both(both, both) == both


@settings(deadline=None)
@given(entries=st.lists(ENTRIES, max_size=4))
def test_nothing_but_an_entry_for_it_reaches_what_is_not_public(entries: list[str]) -> None:
    names_only = [
        entry for entry in entries if host_pattern(entry).network is None and "localhost" not in entry
    ]
    for *_, address, _ in reach(names_only):
        assert is_public(address)  # type: ignore[arg-type]
    assert not any(is_nobodys(address) for *_, address, _ in reach(entries))  # type: ignore[arg-type]


def test_a_sample_of_what_is_reached() -> None:
    assert ("a.test", ipaddress.ip_address("10.0.0.2"), 80) not in reach(["a.test"])
    assert ("a.test", ipaddress.ip_address("10.0.0.2"), 80) in reach(["a.test", "10.0.0.0/8"])
    assert ("a.test", ipaddress.ip_address("10.0.0.2"), 80) not in reach(["10.0.0.0/8"])
    assert ("a.test", ipaddress.ip_address("8.8.8.8"), 8080) not in reach(["a.test"])
    assert (ipaddress.ip_address("8.8.8.8"), 443) in reach(["*"])
    assert (ipaddress.ip_address("127.0.0.2"), 80) in reach(["localhost"])
    assert reach([]) == set()
