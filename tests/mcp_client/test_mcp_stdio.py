"""MCP servers over stdio: those of npm, one on the Python SDK, and one that breaks the protocol."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
import trio

pytest.importorskip("mcp")

from mcp_kit import Inside, by_hand, everything, filesystem, is_alive, kill

from agentpool import Image, McpServer, McpServerError, ToolError
from agentpool.tools.mcp import open_server

pytestmark = pytest.mark.processes


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    return Inside(tmp_path / "log")


# -- servers that others wrote --------------------------------------------------------


async def test_the_everything_server_lists_calls_and_tells_how_far_it_is() -> None:
    told: list[tuple[float, float | None, str]] = []
    async with open_server(everything()) as server:
        assert server.version == "2025-11-25"
        assert "mcp__all__get-sum" in [each.definition.name for each in server.tools]
        assert (await server.call("get-sum", {"a": 2, "b": 3})).text == "The sum of 2 and 3 is 5."
        picture = await server.call("get-tiny-image")
        assert any(isinstance(part, Image) for part in picture.content)
        result = await server.call(
            "trigger-long-running-operation",
            {"duration": 0.2, "steps": 4},
            progress=lambda *each: told.append(each),
        )
        assert "completed" in result.text
        assert [each[:2] for each in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert "demo://resource" in await server.list_resources()
        assert (
            "architecture"
            in (await server.read_resource("demo://resource/static/document/architecture.md")).text
        )
        assert "args-prompt (city, state?)" in await server.list_prompts()
        assert "Paris" in (await server.get_prompt("args-prompt", {"city": "Paris"})).text
        links = await server.call("get-resource-links", {"count": 2})
        assert "[resource demo://" in links.text


async def test_the_filesystem_server_reads_what_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "note.txt").write_text("kept\n")
    (tmp_path / "out.txt").write_text("secret")
    async with open_server(filesystem(tmp_path / "in")) as server:
        got = await server.call("read_text_file", {"path": str(tmp_path / "in" / "note.txt")})
        assert got.text == "kept\n"
        assert not got.is_error
        refused = await server.call("read_text_file", {"path": str(tmp_path / "out.txt")})
        assert refused.is_error
        assert "denied" in refused.text


# -- the server on the Python SDK -------------------------------------------------------


async def test_a_server_of_the_new_revision_is_called_and_its_errors_are_results(inside: Inside) -> None:
    async with open_server(inside.stdio()) as server:
        assert server.version == "2026-07-28"
        assert (
            await server.call("echo", {"text": "héllo \u2028 \U0001f600"})
        ).text == "héllo \u2028 \U0001f600"
        failed = await server.call("fail")
        assert failed.is_error
        assert "fail" in failed.text
        wrong = await server.call("echo", {"txt": 1})
        assert wrong.is_error
        assert (await server.call("picture")).content == (Image(b"\x89PNG\r\n\x1a\n1234", "image/png"),)
        with pytest.raises(ToolError, match="no tool 'nothing'"):
            await server.call("nothing")
        assert "water the flowers" in (await server.read_resource("memo://today")).text
        assert "Greet Ann kindly" in (await server.get_prompt("greeting", {"name": "Ann"})).text
        with pytest.raises(ToolError, match="read 'memo://never'"):
            await server.read_resource("memo://never")


async def test_calls_side_by_side_each_get_their_own_answer(inside: Inside) -> None:
    got: dict[int, str] = {}

    async def call(n: int) -> None:
        got[n] = (await server.call("echo", {"text": f"text {n}"})).text

    async with open_server(inside.stdio()) as server:
        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(call, n)
    assert got == {n: f"text {n}" for n in range(50)}


async def test_cancelling_a_call_is_seen_inside_the_server_which_goes_on(inside: Inside) -> None:
    async with open_server(inside.stdio()) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.call, "slow", {"seconds": 30})
            await inside.saw("slow began")
            nursery.cancel_scope.cancel()
        await inside.saw("slow was cancelled")
        assert (await server.call("echo", {"text": "on"})).text == "on"


async def test_a_call_that_takes_too_long_is_an_error_and_is_cancelled_inside(inside: Inside) -> None:
    async with open_server(inside.stdio(timeout=0.5)) as server:
        with pytest.raises(ToolError, match=r"call 'slow': no answer within 0\.5 s"):
            await server.call("slow", {"seconds": 30})
        await inside.saw("slow was cancelled")
        assert (await server.call("echo", {"text": "on"})).text == "on"


async def test_the_process_has_a_clean_environment(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("MY_TOKEN", "t0k$en")
    place = str(tmp_path.resolve())  # noqa: ASYNC240
    server = inside.stdio(env={"TOKEN": "Bearer ${MY_TOKEN}", "PLAIN": "$x {y}"}, cwd=str(tmp_path))
    assert "MY_TOKEN" not in repr(server)
    async with open_server(server) as opened:
        there = json.loads((await opened.call("environment")).text)
        assert (await opened.call("whereabouts")).text == place
    assert there["TOKEN"] == "Bearer t0k$en"
    assert there["PLAIN"] == "$x {y}"
    assert there["PATH"] == os.environ["PATH"]
    assert set(there) - {"TOKEN", "PLAIN", "AGENTPOOL_MCP_PROCESS"} <= {
        "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TMP", "TEMP", "TZ"
    }  # fmt: skip


async def test_a_variable_that_is_not_there_is_told(inside: Inside) -> None:
    with pytest.raises(McpServerError, match="the environment has no NEVER_SET, which its env names"):
        async with open_server(inside.stdio(env={"A": "${NEVER_SET}"})):
            pass


async def test_a_directory_that_is_not_there_is_told(inside: Inside, tmp_path: Path) -> None:
    server = inside.stdio(cwd=str(tmp_path / "gone"))
    with pytest.raises(McpServerError, match=r"cannot start .* in '.*gone': No such file or directory"):
        async with open_server(server):
            pass
    server = McpServer("x", "stdio", ["no-such-program"], cwd=str(tmp_path))
    with pytest.raises(McpServerError, match="cannot start 'no-such-program': No such file or directory"):
        async with open_server(server):
            pass


async def test_a_server_that_dies_in_a_call_is_an_error_and_is_started_again(inside: Inside) -> None:
    async with open_server(inside.stdio()) as server:
        with pytest.raises(McpServerError) as caught:
            await server.call("die", {"code": 3})
        said = str(caught.value)
        assert "ended with exit code 3" in said
        assert "first words | last words" in said
        assert "Whether the call happened is not known" in said
        assert inside.lines.count("died") == 1  # it is not called again
        assert (await server.call("echo", {"text": "back"})).text == "back"
    assert len(inside.pids()) == 2
    assert not any(map(is_alive, inside.pids()))


async def test_a_server_that_is_killed_between_calls_is_started_again(inside: Inside) -> None:
    async with open_server(by_hand(f"pid={inside.log}")) as server:
        (pid,) = inside.pids()
        kill(pid)
        with trio.fail_after(120):
            while True:
                try:
                    assert (await server.call("go")).text == "call 1"
                    break
                except McpServerError as error:
                    told = str(error)
                    assert "signal 9" in told
    assert len(inside.pids()) == 2


async def test_a_server_that_dies_again_and_again_is_left_alone(inside: Inside) -> None:
    async with open_server(by_hand("die", f"log={inside.log}")) as server:
        for _ in range(5):
            with pytest.raises(McpServerError, match="exit code 3"):
                await server.call("go")
        began = time.monotonic()
        with pytest.raises(
            McpServerError, match=r"failed 5 times within 60 s, .*exit code 3.*tried again in"
        ):
            await server.call("go")
        assert time.monotonic() - began < 0.5
    assert inside.lines.count("tools/call") == 5


# -- one that cannot be had ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["/no/such/program"], "cannot start '/no/such/program': No such file or directory"),
        ([sys.executable, "-c", "import sys; sys.exit('no config file')"], "exit code 1.*no config file"),
        ([sys.executable, "-c", "print('Usage: x')"], "exit code 0"),
    ],
)
async def test_a_server_that_cannot_be_started_is_told_with_its_last_words(
    command: list[str], told: str
) -> None:
    with pytest.raises(McpServerError, match=told) as caught:
        async with open_server(McpServer("broken", "stdio", command)):
            pass
    assert caught.value.server == "broken"
    assert "'broken'" in str(caught.value)


async def test_a_server_that_never_answers_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(McpServerError, match="did not answer within 30 s"):
        async with open_server(by_hand("hangs", name="h")):
            pass
    assert trio.current_time() - began < 120


@pytest.mark.parametrize("trick", ["dies-at-discover"])
async def test_a_server_of_before_that_dies_of_the_question_is_asked_the_old_way(trick: str) -> None:
    async with open_server(by_hand(trick)) as server:
        assert server.version == "2025-11-25"
        assert (await server.call("go")).text == "call 1"


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18"])
async def test_servers_of_old_revisions_are_spoken_to(version: str) -> None:
    async with open_server(by_hand(f"version={version}")) as server:
        assert server.version == version
        assert (await server.call("go")).text == "call 1"


async def test_a_revision_that_nobody_knows_is_refused() -> None:
    with pytest.raises(McpServerError, match="1999-01-01"):
        async with open_server(by_hand("version=1999-01-01")):
            pass


# -- servers that say too much --------------------------------------------------------------


@pytest.mark.parametrize(
    ("trick", "told"),
    [
        ("long-line", "a message of more than 1,048,576 bytes"),
        ("notices", "too many notifications"),
        ("pings", "too many requests"),
        ("answers", "answers that nobody asked for"),
        ("garbage-flood", "lines that are no messages"),
    ],
)
async def test_a_flood_is_cut_off_and_the_server_ended(trick: str, told: str) -> None:
    async with open_server(by_hand(trick, max_result_bytes=1024 * 1024)) as server:
        before = _memory()
        began = time.monotonic()
        with pytest.raises(McpServerError, match=told):
            await server.call("go")
        assert time.monotonic() - began < 60  # half of the call's own limit: machines may be busy
        assert _memory() - before < 64 * 1024 * 1024


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_a_long_answer_within_the_limit_comes_whole(inside: Inside) -> None:
    async with open_server(inside.stdio(max_result_bytes=3_000_000)) as server:
        assert len((await server.call("big", {"size": 1_400_000})).text) == 1_400_000
        with pytest.raises(McpServerError, match="max_result_bytes allows more"):
            await server.call("big", {"size": 3_000_000})


async def test_what_a_server_prints_beside_messages_is_passed_over() -> None:
    async with open_server(by_hand("chatty", "noisy-errors")) as server:
        assert (await server.call("go")).text == "call 1"


async def test_lists_are_bounded() -> None:
    async with open_server(by_hand("many-tools")) as server:
        assert len(server.tools) == 1000
    with pytest.raises(McpServerError, match="more than 100 pages"):
        async with open_server(by_hand("endless-pages")):
            pass
    async with open_server(by_hand("same-page")) as server:
        assert [each.own.name for each in server.tools] == ["go"]


async def test_one_bad_tool_does_not_cost_the_others() -> None:
    async with open_server(by_hand("bad-tools")) as server:
        shown = {each.own.name: each.definition for each in server.tools}
    assert list(shown) == ["go", "no-schema", "odd schema", "bad-output", "y" * 100, "wordy", "hidden"]
    names = [each.name for each in shown.values()]
    assert all(len(name) <= 64 and name.replace("-", "_").isidentifier() for name in names)
    assert shown["odd schema"].input_schema == {"properties": {"a": {"type": "string"}}, "type": "object"}
    assert len(shown["wordy"].description) < 4200
    assert shown["hidden"].description == "Add."


async def test_progress_comes_in_order_and_of_the_own_call_only() -> None:
    told: list[float] = []
    async with open_server(by_hand("progress")) as server:
        await server.call("go", progress=lambda done, *_: told.append(done))
    assert told == list(range(1, 1001))


async def test_errors_of_the_protocol_are_told() -> None:
    async with open_server(by_hand("error")) as server:
        with pytest.raises(ToolError, match="call 'go': not today"):
            await server.call("go")
    async with open_server(by_hand("bad-answer")) as server:
        with pytest.raises(ToolError, match="answer breaks the protocol: content"):
            await server.call("go")


async def test_sampling_is_not_offered() -> None:
    async with open_server(by_hand("asks-sampling")) as server:
        assert "Sampling not supported" in (await server.call("go")).text


# -- the end --------------------------------------------------------------------------------


async def test_a_server_and_all_that_it_started_are_gone_with_the_block(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    began = time.monotonic()
    async with open_server(by_hand("family", "stubborn", f"pids={pids}")) as server:
        assert (await server.call("go")).text == "call 1"
        family = [int(pid) for pid in pids.read_text().split()]
        assert all(map(is_alive, family))
    assert not any(map(is_alive, family))
    assert time.monotonic() - began < 8


async def test_nothing_is_left_when_the_block_is_cancelled_while_it_opens(inside: Inside) -> None:
    before = _children()  # such as the servers of other tests
    with trio.move_on_after(30) as scope:
        async with trio.open_nursery() as nursery:

            async def opening() -> None:
                async with open_server(by_hand("hangs", f"log={inside.log}")):
                    pass

            nursery.start_soon(opening)
            await inside.saw("initialize")
            scope.cancel()
    assert _children() <= before


def _children() -> set[str]:
    """Return the processes that this one started and that are alive."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(os.getpid()) and fields[0] != "Z":
            found.add(pid)
    return found
