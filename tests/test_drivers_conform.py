"""Every driver that needs no network passes the kit that is given to those who write one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from agentpool import (
    Completion,
    CompletionRequest,
    Driver,
    GovernedDriver,
    RecordingDriver,
    ReplayDriver,
    RetryingDriver,
    RoutingDriver,
    ScriptedDriver,
    TokenUsage,
    UserMessage,
)
from agentpool.testing import NO_FAULTS, FaultyDriver, check_driver


def scripted() -> Driver:
    return ScriptedDriver(itertools.repeat(Completion("Hello.", usage=TokenUsage(3, 2))))


AROUND: dict[str, Callable[[Driver], Driver]] = {
    "scripted": lambda inner: inner,
    "retrying": lambda inner: RetryingDriver(inner),
    "routing": lambda inner: RoutingDriver(inner, scripted()),
    "governed": lambda inner: GovernedDriver(inner, requests_per_minute=6000, tokens_per_minute=1e6),
    "faulty": lambda inner: FaultyDriver(inner, NO_FAULTS),
    "all of them": lambda inner: RetryingDriver(RoutingDriver(GovernedDriver(inner)), deadline=60),
}


@pytest.mark.parametrize("kind", list(AROUND))
async def test_it_passes_the_kit(kind: str, autojump_clock: Any) -> None:
    await check_driver(lambda: AROUND[kind](scripted()))


async def test_a_recording_driver_passes_the_kit(tmp_path: Path) -> None:
    names = itertools.count()
    await check_driver(lambda: RecordingDriver(scripted(), tmp_path / f"{next(names)}.jsonl"))


async def test_a_replay_driver_passes_the_kit(tmp_path: Path) -> None:
    request = CompletionRequest(messages=(UserMessage("Say hello."),))
    recording = RecordingDriver(scripted(), tmp_path / "hello.jsonl")
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(recording.complete, request)
    await check_driver(lambda: ReplayDriver(tmp_path / "hello.jsonl"), request=request)
