"""A key in the environment comes out nowhere: not in what is printed, told, logged, raised or recorded."""

from __future__ import annotations

import io
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest
import trio
from rawserver import answer, raw_server, sse

from agentpool import (
    AgentManifest,
    AgentPool,
    Driver,
    Event,
    Failed,
    RecordingDriver,
    SpawnConfig,
    UnhandledAgentErrors,
    open_agent_pool,
    open_driver,
)
from agentpool.drivers.named import DriverName

pytest.importorskip("httpx2", reason="the extra http is not installed")

CANARY = "sk-canary-5b1d0c7e9f2a"
PLAIN = AgentManifest(name="plain")


@pytest.fixture(autouse=True)
def _canary(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
        "OLLAMA_API_KEY",
        "AGENTPOOL_API_KEY",
    ):
        monkeypatch.setenv(name, CANARY)


def told(head: str) -> str:
    """Return what the server was sent as its key, as a provider might repeat it."""
    return next(line for line in head.splitlines() if CANARY in line)


def refusal(status: int) -> Any:
    def reply(head: str, body: Any) -> bytes:
        return answer(status, {"error": {"message": f"bad: {told(head)}", "type": "x", "code": told(head)}})

    return reply


def broken_stream(head: str, body: Any) -> bytes:
    start = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return (
        start + sse({"type": "error", "error": {"message": told(head), "type": "server_error"}}) + b"data: {"
    )


def rubbish(head: str, body: Any) -> bytes:
    return answer(200, f"<html>{told(head)}</html>".encode())


def strange_error(head: str, body: Any) -> bytes:
    return b"HTTP/1.1 400 " + told(head).encode() + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def cut_header(head: str, body: Any) -> bytes:
    return f"HTTP/1.1 {told(head)}\r\n".encode()


REPLIES = {
    "401": refusal(401),
    "400": refusal(400),
    "500": refusal(500),
    "broken stream": broken_stream,
    "rubbish": rubbish,
    "strange error": strange_error,
    "cut header": cut_header,
}


async def gather(pool: AgentPool, into: list[Event], *, task_status: Any) -> None:
    async with pool.events(max_buffer=10_000) as events:
        task_status.started()
        async for event in events:
            into.append(event)


async def failing(driver: Driver) -> UnhandledAgentErrors:
    """Return what comes out of a pool whose agent failed unseen; nobody looks, so nothing is streamed."""
    with pytest.raises(UnhandledAgentErrors) as caught:
        async with open_agent_pool(driver, max_concurrent=1) as pool:
            await pool.spawn(SpawnConfig(PLAIN, "hi"))
    return caught.value


def told_of(value: Any) -> str:
    """Return everything that an exception tells, and those behind it, with the locals of its frames."""
    parts = [repr(value), str(value), repr(getattr(value, "__dict__", ""))]
    if isinstance(value, BaseException):
        told = traceback.TracebackException.from_exception(value, capture_locals=True)
        parts += list(told.format()) + traceback.format_exception(value)
        for other in (value.__cause__, value.__context__, *getattr(value, "exceptions", ())):
            if other is not None:
                parts.append(told_of(other))
    return "\n".join(parts)


@pytest.mark.parametrize("kind", list(REPLIES))
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "ollama"])
async def test_a_key_comes_out_nowhere(
    provider: Any, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    out = io.StringIO()
    cassette = tmp_path / "cassette.jsonl"
    async with raw_server(REPLIES[kind]) as server:
        url = f"{server.url}/v1" if provider == "openai" else server.url
        async with open_driver(DriverName(provider, "some-model", url)) as driver:
            assert driver is not None
            recording = RecordingDriver(driver, cassette)
            raised = await failing(recording)
            async with trio.open_nursery() as nursery:
                async with open_agent_pool(recording, max_concurrent=1) as pool:
                    await nursery.start(gather, pool, events)
                    outcome = await (await pool.spawn(SpawnConfig(PLAIN, "hi"))).wait()
                    print(driver, recording, pool, outcome, file=out)
    assert told(server.requests[0][0])  # it was sent
    assert isinstance(outcome, Failed)
    seen = {
        "outcome": repr(outcome),
        "error": told_of(outcome.error),
        "raised": told_of(raised),
        "events": "\n".join(map(repr, events)),
        "logs": "\n".join(record.getMessage() for record in caplog.records) + caplog.text,
        "output": out.getvalue(),
        "cassette": cassette.read_text(),
        "driver": repr(vars(driver)),
    }
    if kind == "strange error":
        del seen["logs"]  # httpx logs the words of a status line, whatever they are
    assert [name for name, text in seen.items() if CANARY in text] == []
