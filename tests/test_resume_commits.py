"""What has to be on the disk before something leaves the process: a journal whose commits take a second."""

from __future__ import annotations

from typing import Any

import trio
from journal_kit import Records, in_virtual_time
from test_resume import doubled
from test_resume_models import MANIFEST, TURNS, Model

from agentpool import Completion, CompletionRequest, ModelAgent, open_agent_pool, tool


class Slow(Records):
    """Keeps in each commit what was appended before that began."""

    async def commit(self) -> None:
        end = len(self.kept)
        if self.committed < end:
            await trio.sleep(1)
            self.committed = max(self.committed, end)


def test_what_the_program_is_given_is_on_the_disk() -> None:
    async def main() -> None:
        records = Slow()

        def ends_kept() -> int:
            return sum(record.kind == "ended" for record in records.kept[: records.committed])

        async with open_agent_pool(max_concurrent=3, journal=records) as pool:
            await pool.map(doubled, [1, 2])
            assert ends_kept() == 2
            await pool.spawn(doubled, 3)
            await pool.join_next()
            assert ends_kept() == 3
            await pool.spawn(doubled, 4)
            await pool.join_all()
            assert ends_kept() == 4
            await (await pool.spawn(doubled, 5)).wait()
            assert ends_kept() == 5

    in_virtual_time(main)


def test_what_a_model_and_a_tool_are_called_after_is_on_the_disk() -> None:
    records = Slow()
    seen: list[str] = []

    def kept(kind: str) -> int:
        return sum(record.kind == kind for record in records.kept[: records.committed])

    @tool
    async def read(name: str) -> str:
        """Read something."""
        seen.append("tool")
        assert kept("called") == sum(record.kind == "called" for record in records.kept)
        return name

    @tool
    async def pay(amount: int) -> str:
        """Pay something."""
        return str(amount)

    class Looking(Model):
        async def complete(self, request: CompletionRequest) -> Completion:
            seen.append("model")
            assert records.committed == len(records.kept)
            return await super().complete(request)

    async def main() -> Any:
        async with open_agent_pool(Looking(*TURNS), max_concurrent=1, journal=records) as pool:
            return await (await pool.spawn(ModelAgent(MANIFEST, tools=[read, pay]), "go")).result()

    assert in_virtual_time(main).text == "done: a 5 b"
    assert seen == ["model", "tool", "model", "tool", "model"]
