"""W1 and W2 with autogen-core's single-threaded runtime."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    TopicId,
    TypeSubscription,
    message_handler,
)

from bench.meters import Stopwatch, cpu

AT_ONCE = 100
SENDERS = 100
RING = 1_000
TOKENS = 100

# its runtime logs each message
logging.disable(logging.CRITICAL)


@dataclass
class Number:
    value: int


@dataclass
class Start:
    count: int
    to: str


class Worker(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("worker")

    @message_handler
    async def on_number(self, message: Number, ctx: MessageContext) -> Number:
        await asyncio.sleep(0)
        return message


class Echo(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("echo")

    @message_handler
    async def on_number(self, message: Number, ctx: MessageContext) -> Number:
        return message


class Sender(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("sender")

    @message_handler
    async def on_start(self, message: Start, ctx: MessageContext) -> None:
        for number in range(message.count):
            await self.send_message(Number(number), AgentId("echo", message.to))


def spawn(size: int) -> dict[str, float]:
    """A new agent for each number, as its key; 100 requests at once."""

    async def main() -> int:
        runtime = SingleThreadedAgentRuntime()
        await Worker.register(runtime, "worker", Worker)
        runtime.start()
        total = 0

        async def take(numbers: Iterator[int]) -> None:
            nonlocal total
            for number in numbers:
                reply = await runtime.send_message(Number(number), AgentId("worker", str(number)))
                total += reply.value

        numbers = iter(range(size))
        await asyncio.gather(*(take(numbers) for _ in range(AT_ONCE)))
        await runtime.stop_when_idle()
        return total

    with cpu() as span:
        assert asyncio.run(main()) == size * (size - 1) // 2
    return {"us": span.per(size)}


def _senders(size: int, senders: int, messages: int) -> dict[str, float]:
    async def main() -> None:
        runtime = SingleThreadedAgentRuntime()
        await Echo.register(runtime, "echo", Echo)
        await Sender.register(runtime, "sender", Sender)
        runtime.start()
        await asyncio.gather(
            *(
                runtime.send_message(
                    Start(size // messages // senders, "one"), AgentId("sender", str(number))
                )
                for number in range(senders)
            )
        )
        await runtime.stop_when_idle()

    with cpu() as span:
        asyncio.run(main())
    return {"us": span.per(size)}


def ping_pong(size: int) -> dict[str, float]:
    """A request and its reply count as two messages."""
    return _senders(size, 1, 2)


def fan_in(size: int) -> dict[str, float]:
    """The empty replies, which cannot be left out, do not count."""
    return _senders(size, SENDERS, 1)


def ring(size: int) -> dict[str, float]:
    """Published to a topic of the next one; a request would nest as deep as the token goes."""
    watch = Stopwatch()
    done: list[str] = []

    class Relay(RoutedAgent):
        def __init__(self) -> None:
            super().__init__("relay")

        @message_handler
        async def on_number(self, message: Number, ctx: MessageContext) -> None:
            if message.value:
                following = str((int(self.id.key) + 1) % RING)
                await self.publish_message(Number(message.value - 1), TopicId("ring", following))
            else:
                done.append(self.id.key)
                if len(done) == TOKENS:
                    watch.stop()

    async def main() -> None:
        runtime = SingleThreadedAgentRuntime()
        await Relay.register(runtime, "relay", Relay)
        await runtime.add_subscription(TypeSubscription("ring", "relay"))
        for number in range(RING):
            await runtime.publish_message(Number(1), TopicId("ring", str(number)))
        runtime.start()
        await runtime.stop_when_idle()
        done.clear()
        for token in range(TOKENS):
            await runtime.publish_message(
                Number(size // TOKENS - 1), TopicId("ring", str(token * (RING // TOKENS)))
            )
        watch.start()
        runtime.start()
        await runtime.stop_when_idle()
        assert len(done) == TOKENS

    asyncio.run(main())
    return {"us": watch.span.per(size // TOKENS * TOKENS)}
