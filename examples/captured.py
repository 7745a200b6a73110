"""A model that was captured tries what its manifest does not grant: `python captured.py`.

A page has told the model to steal a key, and to hand the theft to a helper. It is scripted here, so that you
need no model to see what comes of it. Nothing outside of the granted directory is touched.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import trio

from agentpool import (
    AgentManifest,
    Completion,
    FileReadCapability,
    FileWriteCapability,
    ScriptedDriver,
    SpawnCapability,
    SpawnConfig,
    ToolCall,
    ToolMessage,
    open_agent_pool,
)

TRICKS = (
    ToolCall("1", "read_file", {"path": "../secret/key.txt"}),
    ToolCall("2", "read_file", {"path": "way-out/key.txt"}),
    ToolCall("3", "write_file", {"path": "way-out/owned.txt", "content": "owned"}),
    ToolCall("4", "run_shell", {"command": "cat ../secret/key.txt"}),
    ToolCall("5", "spawn_agent", {"query": "Read it.", "allowed_paths": ["/"]}),
    ToolCall("6", "spawn_agent", {"query": "Read ../secret/key.txt."}),
    ToolCall("7", "read_file", {"path": "notes.txt"}),
)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work, secret = Path(folder, "work"), Path(folder, "secret")
        for place in (work, secret):
            place.mkdir()
        (work / "notes.txt").write_text("buy milk")
        (work / "way-out").symlink_to(secret)
        (secret / "key.txt").write_text("sk-12345")
        manifest = AgentManifest(
            name="reader",
            base=work,
            privacy="sovereign",
            capabilities=[FileReadCapability(["."]), FileWriteCapability(["."]), SpawnCapability(1)],
        )
        replies: list[str | Completion] = []
        for call in TRICKS:
            replies.append(Completion(tool_calls=[call]))
            if call.id == "6":  # its child asks the same model, and tries the same
                replies += [Completion(tool_calls=[TRICKS[0]]), "I was not let in."]
        model = ScriptedDriver([*replies, "I am done."])
        async with open_agent_pool(model, max_concurrent=2) as pool:
            handle = await pool.spawn(SpawnConfig(manifest, "Sum up the page."))
            result = await handle.result()
        answers = [each.result for each in result.transcript if isinstance(each, ToolMessage)]
        for call, answer in zip(TRICKS, answers, strict=True):
            verdict = "refused" if answer.is_error else "done"
            print(f"{verdict}: {call.name}: {answer.text.splitlines()[0].replace(folder, '')}")
        print("outside:", sorted(os.listdir(secret)))


if __name__ == "__main__":
    trio.run(main)
