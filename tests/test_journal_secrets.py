"""Secrets in runs with a journal: none reaches the file, and a resumed run makes no call without its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from journal_kit import in_virtual_time

from agentpool import (
    AgentManifest,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Driver,
    SpawnConfig,
    SqliteJournal,
    ToolCall,
    ToolMessage,
    open_agent_pool,
    resume_agent_pool,
    tool,
)
from agentpool._core.records import JournalRecord
from agentpool._core.transcript import UNKNOWN_RESULT
from agentpool.journal import read_journal
from agentpool.journal._file import JournalFile, row_of

ONE, TWO = "sk-proj-a8Fk29xLqP0zR7vW3nT5", "ghp_Zk3Lm8Qw2Xc7Vb5Nt9Rf"
PASSWORD = "Tr0ub4dor-horse9"
DONE: list[Any] = []


@tool(idempotent=True)
async def log_in(key: str) -> str:
    """Log in."""
    DONE.append(key)
    await trio.lowlevel.checkpoint()
    return f"welcome, bearer of {key}"


class Model(Driver):
    """Logs in with two keys and a password that it was told, then tells what came of it."""

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(1)
        if any(isinstance(message, AssistantMessage) for message in request.messages):
            results = [
                message.result.content for message in request.messages if isinstance(message, ToolMessage)
            ]
            return Completion(f"done: {results}")
        keys = (ONE, TWO, PASSWORD)
        return Completion(
            f"I use {ONE}",
            tool_calls=tuple(ToolCall(str(n), "log_in", {"key": key}) for n, key in enumerate(keys)),
        )


CONFIG = SpawnConfig(AgentManifest(name="first"), f"log in; the password: {PASSWORD}", tools=[log_in])


def run(path: Path) -> str:
    async def main() -> str:
        async with open_agent_pool(Model(), max_concurrent=1, journal=SqliteJournal(path)) as pool:
            handle = await pool.spawn(CONFIG)
            return str((await handle.result()).text)

    return str(in_virtual_time(main))


def resumed(path: Path) -> str:
    async def main() -> str:
        async with resume_agent_pool(SqliteJournal(path), Model(), agents={"first": CONFIG}) as pool:
            (handle,) = pool.resumed
            return str((await handle.result()).text)

    return str(in_virtual_time(main))


def cut_off(records: Sequence[JournalRecord], path: Path) -> Path:
    file = JournalFile(path, is_durable=False)
    file.write([row_of(record) for record in records])
    file.close()
    return path


def test_no_secret_of_a_run_is_in_its_file_and_each_call_of_the_run_has_its_own(tmp_path: Path) -> None:
    DONE.clear()
    text = run(tmp_path / "run.db")
    assert ONE in text  # the run itself knows them
    assert sorted(DONE) == sorted([ONE, TWO, PASSWORD])
    held = (tmp_path / "run.db").read_bytes()
    for secret in (ONE, TWO, PASSWORD):
        assert secret.encode() not in held


def test_a_call_that_lost_its_secret_is_not_made_again_wherever_the_run_was_cut_off(tmp_path: Path) -> None:
    run(tmp_path / "run.db")
    records = read_journal(tmp_path / "run.db")
    first = next(n for n, record in enumerate(records) if record.kind == "called")
    last = max(n for n, record in enumerate(records) if record.kind == "returned")
    for end in range(first, last + 1):
        DONE.clear()
        text = resumed(cut_off(records[:end], tmp_path / f"cut {end}.db"))
        assert DONE == []
        assert str(UNKNOWN_RESULT.content) in text
        for secret in (ONE, TWO, PASSWORD):
            assert secret.encode() not in (tmp_path / f"cut {end}.db").read_bytes()
        again = read_journal(tmp_path / f"cut {end}.db")
        for second_end in range(end + 2, len(again)):
            path = cut_off(again[:second_end], tmp_path / f"cut {end} {second_end}.db")
            assert resumed(path).startswith("done: ")
    assert DONE == []


@pytest.mark.parametrize("number", [1, 150])
def test_what_was_a_secret_in_one_record_is_one_in_later_ones(number: int, tmp_path: Path) -> None:
    file = JournalFile(tmp_path / "run.db", is_durable=False)
    for n in range(number):
        file.write([row_of(JournalRecord("operated", 1, {"text": f"password: Zk{n}Lm8Qw2x"}))])
    file.write(
        [row_of(JournalRecord("operated", 1, {"x": f"Zk{number - 1}Lm8Qw2x", "text": "[redacted-4]"}))]
    )
    file.close()
    assert read_journal(tmp_path / "run.db")[-1].data["x"] == "[redacted-2]"
