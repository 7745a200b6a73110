"""A hostile client of a served fleet does nothing that is not granted, and the server goes on.

Each row of `CLIENT_TRICKS` is played in a world of its own, on a server with two agents: one whose model does
what the client tells it to, and a function with an argument that the fleet has fixed.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

pytest.importorskip("mcp")
pytest.importorskip("hypercorn")

from captured_kit import CANARY, GRANTED_WORD, Network, Obedient, World, harm, manifest, network, world
from mcp_server_kit import LEGACY, MODERN, Lines, Raw, call_params, function_agent, served_lines, served_url
from tricks import CLIENT_TRICKS, HTTP_TRICKS, REACHING, ClientTrick

from agentpool import (
    AgentContext,
    AgentManifest,
    AgentPool,
    FleetAgent,
    FleetFile,
    InMemory,
    PrivacyTier,
    open_agent_pool,
)

pytestmark = pytest.mark.processes

TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def servers() -> Iterator[Network]:
    with network() as started:
        yield started


@attrs.define(eq=False)
class Client:
    """What a client was told."""

    heard: list[str] = attrs.field(factory=list)

    def hears(self, message: Any) -> None:
        self.heard.append(json.dumps(message, ensure_ascii=False))


async def look(ctx: AgentContext, root: str, times: int = 1) -> str:
    """Tell what stands in the files of the directory."""
    return times * "\n".join(path.read_text() for path in sorted(Path(root).glob("*.txt")))  # noqa: ASYNC240


async def neighbour(ctx: AgentContext) -> None:
    """Another agent of the pool, which no client may call."""
    await trio.sleep_forever()


@asynccontextmanager
async def serving(
    place: World, of: AgentManifest, *, is_fixed: bool = True
) -> AsyncIterator[tuple[AgentPool, FleetFile]]:
    fixed = function_agent(look, args={"root": str(place.granted)} if is_fixed else {})
    async with open_agent_pool(Obedient(), max_concurrent=4, memory=InMemory()) as pool:
        await pool.spawn(neighbour, name="neighbour")
        yield pool, FleetFile(agents=[FleetAgent("captured", of, None), fixed])
        pool.abort_all("the client is done")


async def answer(lines: Lines, number: int) -> Any:
    """The answer to a message, or the error of one that could not be read as far as its id."""
    while True:
        message = await lines.receive()
        assert message is not None
        if message.get("id") in (number, None) and "method" not in message:
            return message


async def attack(place: World, trick: ClientTrick, of: AgentManifest) -> Client:
    """Play a row over standard input and output; return what the client heard."""
    client = Client()
    async with serving(place, of) as (pool, fleet), served_lines(pool, fleet) as (lines, _):
        await lines.initialize()
        for number, message in enumerate(trick.messages(place), 10):
            if isinstance(message, bytes):
                await lines.send(message)
            else:
                await lines.send({**message, "id": number})
                client.hears(await answer(lines, number))
        # What is granted works as before.
        granted = json.dumps([{"tool": "read_file", "arguments": {"path": "granted/a.txt"}}])
        for number, (name, arguments) in enumerate([("look", {}), ("captured", {"query": granted})], 5):
            await lines.call(LEGACY, number, name, arguments)
            told = await lines.answer_to(number)
            client.hears(told)
            assert GRANTED_WORD in str(told), told
    return client


@pytest.mark.parametrize("trick", [pytest.param(each, id=each.name) for each in CLIENT_TRICKS])
async def test_a_hostile_client_does_nothing_that_is_not_granted(
    trick: ClientTrick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: Network
) -> None:
    monkeypatch.setenv("CAPTURED_SECRET", CANARY)
    monkeypatch.chdir(tmp_path)
    place = world(tmp_path / "world", servers)
    before = place.snapshot()
    client = await attack(place, trick, manifest(place))
    assert harm(place, before, client) == []


@pytest.mark.parametrize("name", ["reads", "reads by a link", "writes", "writes by a link", "fetches"])
async def test_harm_by_a_client_would_be_seen(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: Network
) -> None:
    """The same queries, of an agent that may do everything."""
    monkeypatch.setenv("CAPTURED_SECRET", CANARY)
    place = world(tmp_path / "world", servers)
    (trick,) = (each for each in CLIENT_TRICKS if each.name == f"a query of which the model {name}")
    assert name in REACHING
    wide = AgentManifest(
        name="captured",
        base=place.root,
        privacy=PrivacyTier.STANDARD,
        capabilities=[
            {"type": "file_read", "allowed_paths": ["/"]},
            {"type": "file_write", "allowed_paths": ["/"]},
            {"type": "network", "allowed_hosts": ["127.0.0.1:*", "127.0.0.0/8:*"]},
        ],
    )
    before = place.snapshot()
    assert harm(place, before, await attack(place, trick, wide))


async def test_harm_by_an_argument_that_is_not_fixed_would_be_seen(tmp_path: Path, servers: Network) -> None:
    place = world(tmp_path / "world", servers)
    (trick,) = (each for each in CLIENT_TRICKS if each.name == "other values for what the fleet has fixed")
    client = Client()
    before = place.snapshot()
    async with serving(place, manifest(place), is_fixed=False) as (pool, fleet):
        async with served_lines(pool, fleet) as (lines, _):
            await lines.initialize()
            await lines.send({**trick.messages(place)[0], "id": 10})
            client.hears(await answer(lines, 10))
    assert harm(place, before, client)


@pytest.mark.parametrize("how", HTTP_TRICKS)
async def test_who_has_no_token_or_comes_from_elsewhere_is_not_let_in(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: Network
) -> None:
    monkeypatch.chdir(tmp_path)
    place = world(tmp_path / "world", servers)
    before = place.snapshot()
    client = Client()
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call_params(MODERN, "look")}
    body = json.dumps(message).encode()
    told_too = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": "look"}
    async with serving(place, manifest(place)) as (pool, fleet):
        async with served_url(pool, fleet, token=TOKEN) as url:
            status, told = await Raw(url).status(body, **{**told_too, **HTTP_TRICKS[how]})
            assert status in (401, 403, 404, 421), told
            client.hears(told)
            # The same with the token, and nothing else, is answered.
            status, told = await Raw(url).status(body, **told_too, authorization=f"Bearer {TOKEN}")
            assert (status, GRANTED_WORD in told) == (200, True)
    assert GRANTED_WORD not in str(client.heard)
    assert harm(place, before, client) == []
