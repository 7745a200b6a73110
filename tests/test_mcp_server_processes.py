"""`agentpool mcp` as a process: two clients of other make, what is printed, signals, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

pytest.importorskip("mcp")
pytest.importorskip("hypercorn")
pytest.importorskip("cyclopts")

from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError
from mcp_inspector import Inspector
from mcp_server_kit import LEGACY, MODERN, text_of

from agentpool.cli import _app
from agentpool.mcp_server import _extra

pytestmark = pytest.mark.processes

SECONDS = 60.0
MODULE = '''
"""Agents, which print wherever one can."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import trio

print("imported")
os.write(1, b"a module writes\\n")
HERE = Path(__file__).parent


async def loud(ctx, text: str) -> str:
    """Print."""
    print("printed")
    sys.__stdout__.write("by the stream that Python keeps\\n")
    sys.__stdout__.flush()
    os.write(1, b"by the number\\n")
    subprocess.run([sys.executable, "-c", "print('by a child', input() if 0 else '')"], check=True)
    logging.getLogger("loud").warning("logged")
    print("not flushed", end="")
    return f"{text}, {sys.stdin.read()!r}"


async def slow(ctx) -> str:
    (HERE / "begun").touch()
    try:
        await trio.sleep_forever()
    finally:
        (HERE / "ended").write_text(ctx.name)


async def stubborn(ctx) -> str:
    (HERE / "begun").touch()
    while True:
        with trio.CancelScope(shield=True):
            await trio.sleep(3600)
'''
FLEET = """
[pool]
max_concurrent = 2

[vars]
whom = "world"

[[agents]]
function = "work:loud"

[[agents]]
function = "work:slow"

[[agents]]
function = "work:stubborn"

[[agents]]
name = "greeter"
query = "{whom}"
[agents.manifest]
description = "Greets."
script = { steps = [{ text = "Hello {query}" }] }
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(MODULE)
    file = tmp_path / "fleet.toml"
    file.write_text(FLEET)
    return file


def command(fleet: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "agentpool.cli", "mcp", str(fleet), *options]


@contextmanager
def process(fleet: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command(fleet, *options), stdin=pipe, stdout=pipe, stderr=pipe, text=True) as one:
        try:
            yield one
        finally:
            one.kill()


def wait_for(file: Path) -> None:
    end = time.monotonic() + SECONDS
    while not file.exists():
        assert time.monotonic() < end, f"{file} is not there"
        time.sleep(0.01)


def call(name: str) -> str:
    """A handshake and a call, as lines."""
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    messages = [
        {"id": 0, "method": "initialize", "params": about},
        {"method": "notifications/initialized"},
        {"id": 1, "method": "tools/call", "params": {"name": name, "arguments": {}}},
    ]
    return "".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages)


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_the_sdk_s_client_over_stdio(fleet: Path, era: str) -> None:
    parameters = StdioServerParameters(
        command=sys.executable,
        args=[*command(fleet)[1:], "--var", "whom=you"],
        env={**os.environ},
        cwd=str(fleet.parent),
    )
    with trio.fail_after(SECONDS):
        async with Client(stdio_client(parameters), mode=era) as client:  # type: ignore[arg-type]
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == ["loud", "slow", "stubborn", "greeter"]
            assert text_of(await client.call_tool("greeter", {})) == "Hello you"
            assert text_of(await client.call_tool("loud", {"text": "here"})) == "here, ''"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call_tool, "slow", {})
                while not (fleet.parent / "begun").exists():
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            while not (fleet.parent / "ended").exists():
                await trio.sleep(0.01)


def test_standard_output_is_the_protocol_s_alone(fleet: Path) -> None:
    """espressif/esp-idf#19087, mcp-hangar/mcp-hangar#563, hurttlocker/o8#1541: prints, logs, modules, and
    what programs print."""
    given = call("loud").replace('"arguments": {}', '"arguments": {"text": "a"}')
    with process(fleet) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(given)
        server.stdin.flush()
        lines = [server.stdout.readline() for _ in range(2)]
        out, errors = server.communicate(timeout=SECONDS)  # it closes standard input
    assert out == ""
    assert [json.loads(line)["id"] for line in lines] == [0, 1]
    assert server.returncode == 0
    for text in ("imported", "a module writes", "printed", "Python keeps", "by the number", "by a child"):
        assert text in errors
    assert "logged" in errors
    assert "not flushed" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("end", "code"),
    [(None, 0), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
    ids=["closed", "SIGTERM", "Ctrl-C"],
)
def test_the_end_of_the_process_cleans_up_what_runs(fleet: Path, end: int | None, code: int) -> None:
    """cyanheads/mcp-ts-core#321, themotionmachine/OmniFocus-MCP#55."""
    with process(fleet) as server:
        assert server.stdin is not None
        server.stdin.write(call("slow"))
        server.stdin.flush()
        wait_for(fleet.parent / "begun")
        if end is None:
            server.stdin.close()
        else:
            server.send_signal(end)
        assert server.wait(timeout=SECONDS) == code
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()
    assert (fleet.parent / "ended").read_text() == "slow"


@pytest.mark.once
def test_agents_that_do_not_end_do_not_keep_the_process(fleet: Path) -> None:
    with process(fleet) as server:
        assert server.stdin is not None
        server.stdin.write(call("stubborn"))
        server.stdin.flush()
        wait_for(fleet.parent / "begun")
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=SECONDS) == 143
        assert server.stderr is not None
        assert "agents have not ended 8 s after they were aborted" in server.stderr.read()


def test_the_inspector_over_stdio(fleet: Path, tmp_path: Path) -> None:
    inspector = Inspector.found(tmp_path)
    done = inspector.run(*command(fleet), "--method", "tools/call", "--tool-name", "greeter")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["content"] == [{"type": "text", "text": "Hello world"}]


def test_the_inspector_and_the_sdk_over_http_until_ctrl_c(fleet: Path, tmp_path: Path) -> None:
    inspector = Inspector.found(tmp_path)
    token = tmp_path / "token"
    token.write_text("a-token-of-enough-letters\n")
    with process(fleet, "--http", "127.0.0.1:0", "--token-file", str(token)) as server:
        assert server.stderr is not None
        line = ""
        while "tools at" not in line:
            line = server.stderr.readline()
            assert line
        found = re.search(r"4 tools at (http://127\.0\.0\.1:\d+/mcp): loud, slow, stubborn", line)
        assert found is not None
        with_token = ("--header", "Authorization: Bearer a-token-of-enough-letters")
        done = inspector.run(found[1], *with_token, "--method", "tools/list", "--strict")
        assert done.returncode == 0, done.stderr
        assert [tool["name"] for tool in json.loads(done.stdout)["tools"]][-1] == "greeter"
        done = inspector.run(found[1], *with_token, "--method", "tools/call", "--tool-name", "greeter")
        assert json.loads(done.stdout)["content"][0]["text"] == "Hello world"
        trio.run(_interrupted_while_connected, found[1], server, fleet.parent)
        assert server.wait(timeout=SECONDS) == 130
        assert "Traceback" not in server.stderr.read()
    assert (fleet.parent / "ended").read_text() == "slow"


async def _interrupted_while_connected(url: str, server: subprocess.Popen[str], place: Path) -> None:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    headers = {"Authorization": "Bearer a-token-of-enough-letters"}
    with trio.fail_after(SECONDS):
        async with httpx2.AsyncClient(headers=headers, timeout=SECONDS) as http:
            async with Client(streamable_http_client(url, http_client=http), mode=LEGACY) as client:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_called_until_the_end, client)
                    while not (place / "begun").exists():
                        await trio.sleep(0.01)
                    server.send_signal(signal.SIGINT)
                    await trio.to_thread.run_sync(server.wait)
                    nursery.cancel_scope.cancel()


async def _called_until_the_end(client: Client) -> None:
    with pytest.raises(MCPError, match=r"ended without a response|Connection closed"):
        await client.call_tool("slow", {})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--http", "8000"], "--http '8000' is no address. Write HOST:PORT"),
        (["--http", ":8000"], "--http ':8000' is no address"),
        (["--http", "localhost:70000"], "is no address"),
        (["--http", "0.0.0.0:0"], "other machines reach 0.0.0.0"),
        (["--token-file", "token"], "--token-file is for HTTP"),
        (["--http", "localhost:0", "--token-file", "nowhere"], "--token-file nowhere: No such file"),
        (["--http", "localhost:0", "--token-file", "short"], "--token-file short: a token needs at least 16"),
        (["--http", "192.0.2.1:0", "--token-file", "token"], "--http 192.0.2.1:0: "),
        (["--driver", "nobody:x"], "nobody"),
    ],
)
def test_bad_input_is_told_and_nothing_is_served(
    fleet: Path,
    options: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(fleet.parent)
    Path("token").write_text("a-token-of-enough-letters")
    Path("short").write_text("short")
    monkeypatch.setattr(sys, "path", [*sys.path])
    over_http = options if "--http" in options else ["--http", "127.0.0.1:0", *options]
    if "--token-file" in options and "--http" not in options:
        over_http = options
    assert _app.call(["mcp", "fleet.toml", *over_http]) == 2
    assert told in capsys.readouterr().err


def test_a_missing_extra_is_told_with_what_to_install(
    fleet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(fleet.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(_extra, "find_spec", lambda name: None if name == "hypercorn" else name)
    assert _app.call(["mcp", "fleet.toml", "--http", "127.0.0.1:0"]) == 2
    assert "hypercorn, which is missing: pip install 'trio-agentpool[mcp-http]'" in capsys.readouterr().err
    monkeypatch.setattr(_extra, "find_spec", lambda name: None)
    assert _app.call(["mcp", "fleet.toml", "--http", "127.0.0.1:0"]) == 2
    assert "needs mcp, which is missing: pip install 'trio-agentpool[mcp]'" in capsys.readouterr().err


def test_a_fleet_that_is_served_is_validated_as_such(
    fleet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(fleet.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert _app.call(["validate", "--mcp", "fleet.toml"]) == 0
    assert "a valid fleet" in capsys.readouterr().out
    assert _app.call(["validate", "fleet.toml"]) == 2
    assert "does not take what it is given" in capsys.readouterr().err


def test_functions_that_cannot_be_told_to_clients_are_found_before_anything_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("untold.py").write_text("async def guess(ctx, what): ...\n")
    Path("fleet.toml").write_text('[[agents]]\nfunction = "untold:guess"\n')
    assert _app.call(["mcp", "fleet.toml", "--http", "127.0.0.1:0"]) == 2
    told = capsys.readouterr().err
    assert _app.call(["validate", "--mcp", "fleet.toml"]) == 2
    assert capsys.readouterr().err == told
    assert "agent 'guess'" in told
    assert "parameter 'what'" in told
    assert "has no type hint" in told
