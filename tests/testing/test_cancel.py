from __future__ import annotations

from typing import Any

import pytest
import trio

from agentpool import open_agent_pool
from agentpool._core.events import AgentFinished
from agentpool._core.outcomes import Aborted
from agentpool._kernel.inbox import Inbox
from agentpool.testing import (
    CancelSweepError,
    SimulationContext,
    SimulationHangError,
    attempt,
    cancel_everywhere,
    simulate,
)


async def worker(ctx: Any) -> str:
    await trio.sleep(1)
    return "done"


async def pair() -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        first = await pool.spawn(worker)
        await pool.spawn(worker)
        await first.wait()


async def with_body(sim: SimulationContext) -> None:
    async with open_agent_pool(max_concurrent=1) as pool:
        with sim.body():
            await pool.spawn(worker)
            await pool.join_all()


def test_a_sound_program_is_struck_at_every_step() -> None:
    steps = simulate(pair).steps
    sweep = cancel_everywhere(pair)
    assert sweep.steps == (steps,)
    assert sweep.runs == 1 + 4 * steps


def test_the_body_is_struck_too_where_it_is_marked() -> None:
    steps = simulate(with_body).steps
    assert cancel_everywhere(with_body).runs == 1 + 5 * steps


def test_steps_and_blows_can_be_chosen() -> None:
    assert cancel_everywhere(pair, steps=[3, 4], blows=["abort all"]).runs == 3


def test_a_blow_falls_between_two_steps() -> None:
    def outcomes_when_struck_at(step: int) -> list[Any]:
        def strike(now: int, sim: SimulationContext) -> None:
            if now == step:
                sim.pools[0].abort_all("struck")

        log = attempt(pair, on_step=strike).log
        return [event.outcome for event in log.of(AgentFinished)]

    outcomes = [
        outcome for step in range(5, simulate(pair).steps) for outcome in outcomes_when_struck_at(step)
    ]
    assert any(isinstance(outcome, Aborted) and outcome.reason == "struck" for outcome in outcomes)


def test_an_error_that_nobody_may_expect_is_a_find() -> None:
    async def main() -> None:
        try:
            await pair()
        except trio.Cancelled:
            raise LookupError("it was cancelled") from None

    with pytest.raises(CancelSweepError) as caught:
        cancel_everywhere(main, seed=3)
    error = caught.value
    assert error.blow == "cancel around"
    assert "LookupError('it was cancelled') came out of the program" in str(error)
    assert f"cancel_everywhere(main, seed=3, steps=[{error.step}], blows=['cancel around'])" in str(error)
    with pytest.raises(CancelSweepError):
        cancel_everywhere(main, seed=3, steps=[error.step], blows=["cancel around"])
    assert cancel_everywhere(main, seed=3, expected=(LookupError,)).runs > 10


def test_what_the_program_raises_when_left_alone_is_expected() -> None:
    async def main() -> None:
        await pair()
        raise ExceptionGroup("", [LookupError()])

    assert cancel_everywhere(main).runs > 10


def test_what_an_agent_failed_with_is_expected() -> None:
    async def touchy(ctx: Any) -> None:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            raise ValueError("cleanup failed") from None

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1) as pool:
            await pool.spawn(touchy)

    assert cancel_everywhere(main).runs > 10


def test_a_program_that_hangs_when_it_is_struck_is_a_find() -> None:
    async def stubborn(ctx: Any) -> None:
        try:
            await trio.sleep(1)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(10**9)

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1) as pool:
            handle = await pool.spawn(stubborn)
            with trio.move_on_after(0.5):
                await handle.wait()

    with pytest.raises((CancelSweepError, SimulationHangError), match="did not end"):
        cancel_everywhere(main, max_seconds=100)


def test_a_program_that_hangs_by_itself_is_not_swept() -> None:
    async def main() -> None:
        await trio.sleep_forever()

    with pytest.raises(SimulationHangError):
        cancel_everywhere(main)


def test_books_that_are_wrong_are_a_find(monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(self: Inbox, reason: str, close: Any = Inbox.close) -> None:
        while self.fill:
            self.fill -= 1
            self._channel[1].receive_nowait()  # type: ignore[index]
        close(self, reason)

    async def deaf(ctx: Any) -> None:
        await trio.sleep(1)

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1) as pool:
            handle = await pool.spawn(deaf)
            await pool.send(handle.id, "lost")

    assert cancel_everywhere(main).runs > 10
    monkeypatch.setattr(Inbox, "close", lossy)
    with pytest.raises(CancelSweepError, match="even when it was left alone"):
        cancel_everywhere(main)


def test_reservations_that_are_left_are_a_find() -> None:
    from agentpool import Budget

    async def main() -> None:
        budget = Budget(tokens=100)
        budget.reserve(tokens=10)
        async with open_agent_pool(max_concurrent=1, budget=budget) as pool:
            await pool.spawn(worker)

    with pytest.raises(CancelSweepError, match="10 tokens are still reserved"):
        cancel_everywhere(main)
