"""W1 and W2 with Ray, by the wall clock, because its work is spread over processes."""

from __future__ import annotations

import time
from typing import Any

import ray

AT_ONCE = 100
SENDERS = 10
"""Ray starts a process for each actor, so fewer than elsewhere."""


def _up() -> None:
    if not ray.is_initialized():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


@ray.remote
def _agent(number: int) -> int:
    return number


def spawn(size: int) -> dict[str, float]:
    _up()
    ray.get([_agent.remote(number) for number in range(4)])
    start = time.perf_counter()
    total, numbers = 0, iter(range(size))
    running = [_agent.remote(number) for number, _ in zip(numbers, range(AT_ONCE), strict=False)]
    while running:
        done, running = ray.wait(running, num_returns=1)
        total += ray.get(done[0])
        number = next(numbers, None)
        if number is not None:
            running.append(_agent.remote(number))
    return {"us": (time.perf_counter() - start) / size * 1e6}


@ray.remote(num_cpus=0)
class _Echo:
    def take(self, number: int) -> int:
        return number


@ray.remote(num_cpus=0)
class _Sender:
    def send(self, count: int, to: Any) -> None:
        for number in range(count):
            ray.get(to.take.remote(number))


def _senders(size: int, senders: int, messages: int) -> dict[str, float]:
    _up()
    echo = _Echo.remote()
    actors = [_Sender.remote() for _ in range(senders)]
    ray.get([actor.send.remote(1, echo) for actor in actors])
    start = time.perf_counter()
    ray.get([actor.send.remote(size // messages // senders, echo) for actor in actors])
    return {"us": (time.perf_counter() - start) / size * 1e6}


def ping_pong(size: int) -> dict[str, float]:
    """A request and its reply count as two messages."""
    return _senders(size, 1, 2)


def fan_in(size: int) -> dict[str, float]:
    return _senders(size, SENDERS, 1)
