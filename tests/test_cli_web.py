"""`agentpool run --web` in real processes: the link, the buttons, questions, signals, and how long it is."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

pytest.importorskip("cyclopts")
pytest.importorskip("hypercorn")
pytest.importorskip("starlette")
pytest.importorskip("fcntl")
pytest.importorskip("httpx2")

import httpx2
from live_page_kit import SECONDS, Browser
from terminal_kit import Terminal, on_a_terminal

from agentpool.cli import _app

pytestmark = pytest.mark.processes

AGENTS = r'''
"""Models that wait for a file, ask for a call, or answer; and a tool."""

from pathlib import Path

import trio

from agentpool import Completion, TokenUsage, ToolCall, ToolMessage, tool

HERE = Path(__file__).parent


def answer(request):
    return "well"


def fail(request):
    raise ValueError("no such note")


async def wait_for_go(request):
    (HERE / "started").touch()
    while not (HERE / "go").exists():
        await trio.sleep(0.01)
    return "gone"


async def leave(request):
    await wait_for_go(request)
    raise SystemExit(7)


async def hang(request):
    await trio.sleep_forever()


def ask_once(request):
    return Completion("well", usage=TokenUsage(1000, 234))


async def ask_twice(request):
    if len(request.messages) == 1:
        return Completion("once", [ToolCall("1", "nothing", {})], usage=TokenUsage(90, 10))
    return Completion(await wait_for_go(request), usage=TokenUsage(10, 1))


def careful(request):
    told = [each.result.text for each in request.messages if isinstance(each, ToolMessage)]
    return told[0] if told else Completion(tool_calls=[ToolCall("1", "wipe", {"what": "the disk"})])


@tool
def wipe(what: str) -> str:
    """Wipe something."""
    return f"wiped {what}"
'''
COMMAND = [sys.executable, "-m", "agentpool"]
LINK = re.compile(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+")


def fleet(folder: Path, *functions: str, slots: int = 4) -> Path:
    """A fleet with an agent for each function of the module above."""
    (folder / "agents.py").write_text(AGENTS, "utf-8")
    agents = [
        f'[[agents]]\nname = "{name}"\nquery = "?"\n[agents.manifest]\nname = "{name}"\n'
        f'tools = ["agents:wipe"]\nscript.function = "agents:{name}"\napproval.ask = ["wipe"]\n'
        for name in functions
    ]
    path = folder / "fleet.toml"
    path.write_text(f"[pool]\nmax_concurrent = {slots}\n" + "\n".join(agents), "utf-8")
    return path


@attrs.define(eq=False)
class Run:
    """A process, and what it has said on standard error so far."""

    process: trio.Process
    said: str = ""

    async def says(self, pattern: str | re.Pattern[str], number: int = 1) -> str:
        """Wait until standard error has so many matches; return the last of them."""
        with trio.fail_after(SECONDS):
            while len(found := re.findall(pattern, self.said)) < number:
                assert self.process.stderr is not None
                more = await self.process.stderr.receive_some()
                assert more, self.said
                self.said += more.decode()
        text: str = found[number - 1]
        return text

    async def ends(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what is on standard output."""
        out = b""

        async def read_out() -> None:
            nonlocal out
            assert self.process.stdout is not None
            async for more in self.process.stdout:
                out += more

        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_out)
                assert self.process.stderr is not None
                async for more in self.process.stderr:
                    self.said += more.decode()
            code = await self.process.wait()
        return code, out.decode()

    @asynccontextmanager
    async def browser(self, number: int = 1) -> AsyncIterator[Browser]:
        """A browser that has come by the link."""
        async with browser_at(await self.says(LINK, number)) as browser:
            yield browser


@asynccontextmanager
async def browser_at(link: str) -> AsyncIterator[Browser]:
    async with httpx2.AsyncClient(timeout=SECONDS) as client:
        response = await client.get(link)
        assert response.status_code == 303, response.text
        yield Browser(link.partition("/?")[0], client)


@asynccontextmanager
async def running(*arguments: object, command: list[str] = COMMAND) -> AsyncIterator[Run]:
    pipe = subprocess.PIPE
    process = await trio.lowlevel.open_process(
        [*command, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    run = Run(process)
    try:
        yield run
    except BaseException:
        print(run.said)
        raise
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            await stream.aclose()


# -- while it runs ----------------------------------------------------------------------------------


async def test_the_run_is_seen_and_its_report_printed_as_ever(tmp_path: Path) -> None:
    path = fleet(tmp_path, "answer", "wait_for_go")
    async with running("run", path, "--web") as run, run.browser() as browser:
        page = await browser.get("/")
        assert "fleet.toml" in page.text
        await browser.look(lambda seen: seen.named("answer").get("state") == "completed")
        (tmp_path / "go").touch()
        await browser.look()
        assert browser.exit == "2 completed; exit code 0"
        assert browser.named("wait_for_go")["state"] == "completed"
        code, out = await run.ends()
    assert code == 0
    assert "2 completed" in out
    assert "stays" not in run.said  # nobody sits at a terminal


async def test_an_agent_that_is_aborted_on_the_page_is_told_in_the_report(tmp_path: Path) -> None:
    async with running("run", fleet(tmp_path, "hang", "answer"), "--web", "--json") as run:
        async with run.browser() as browser:
            await browser.look(lambda seen: seen.named("hang").get("phase"))
            agent = browser.named("hang")["id"]
            response = await browser.post(f"/agents/{agent}/abort", {"reason": "it hangs"})
            assert response.status_code == 204
            await browser.look()
            assert browser.exit == "1 completed, 1 aborted; exit code 1"
        code, out = await run.ends()
    assert code == 1
    document = json.loads(out)  # nothing else is on standard output
    assert {each["name"]: each["outcome"] for each in document["agents"]} == {
        "hang": "aborted",
        "answer": "completed",
    }
    assert "it hangs" in out


async def test_the_exit_code_that_the_page_tells_counts_files_that_could_not_be_written(
    tmp_path: Path,
) -> None:
    path, out = fleet(tmp_path, "wait_for_go"), tmp_path / "out"
    async with running("run", path, "--web", "--output", out) as run, run.browser() as browser:
        await browser.look(lambda seen: seen.named("wait_for_go").get("phase"))
        out.rmdir()
        (tmp_path / "go").touch()
        await browser.look()
        assert browser.exit == "1 completed; exit code 1"
        assert (await run.ends())[0] == 1


async def test_the_page_tells_no_exit_code_where_an_agent_ends_the_process(tmp_path: Path) -> None:
    async with running("run", fleet(tmp_path, "leave"), "--web") as run, run.browser() as browser:
        await browser.look(lambda seen: seen.named("leave").get("phase"))
        (tmp_path / "go").touch()
        await browser.look()
        assert browser.exit is not None
        assert browser.exit.endswith("; the run broke off: SystemExit: 7")
        assert (await run.ends())[0] == 7


@pytest.mark.parametrize("then", ["finishes", "is aborted"])
async def test_drain_on_the_page_is_the_first_ctrl_c(then: str, tmp_path: Path) -> None:
    path = fleet(tmp_path, "wait_for_go", "answer", slots=1)
    async with running("run", path, "--web", "--web-port", 0) as run, run.browser() as browser:
        await browser.look(lambda seen: seen.named("wait_for_go").get("phase"))
        for _ in range(3):  # who presses again is no second Ctrl-C
            assert (await browser.post("/drain")).status_code == 204
        await run.says("stopping: no more agents start")
        await browser.look(lambda seen: seen.latest.get("pool", {}).get("draining"))
        if then == "finishes":
            (tmp_path / "go").touch()
        else:
            run.process.send_signal(signal.SIGINT)
        code, out = await run.ends()
    assert code == 130
    assert "not started: answer" in out
    assert ("1 completed" if then == "finishes" else "1 aborted") in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_do_what_they_do_without_a_page(number: int, tmp_path: Path) -> None:
    path = fleet(tmp_path, "hang")
    async with running("run", path, "--web", "--stay") as run, run.browser() as browser:
        await browser.look(lambda seen: seen.named("hang").get("phase"))
        run.process.send_signal(number)
        await browser.look(lambda seen: seen.latest.get("pool", {}).get("draining"))
        run.process.send_signal(number)
        await browser.look()
        assert browser.exit == f"0 completed, 1 aborted; exit code {128 + number}"
        if number == signal.SIGINT:  # asked for: Ctrl-C ended the run, and not the looking at it
            await run.says("stays until Ctrl-C")
            assert (await browser.get("/")).status_code == 200
            run.process.send_signal(signal.SIGINT)
        code, out = await run.ends()
    assert code == 128 + number
    assert "1 aborted" in out


async def test_a_question_is_answered_on_the_page_where_there_is_no_terminal(tmp_path: Path) -> None:
    async with running("run", fleet(tmp_path, "careful"), "--web", "--quiet") as run:
        async with run.browser() as browser:
            await browser.look(lambda seen: seen.approvals)
            [asked] = browser.approvals
            assert asked["arguments"] == {"what": "the disk"}
            await browser.post(f"/approvals/{asked['hash']}", {"approve": True})
            await browser.look()
        code, out = await run.ends()
    assert (code, out) == (0, "")
    assert len(run.said.splitlines()) == 2  # the link, and what it is


async def test_a_new_link_is_on_the_terminal_for_who_comes_too_late(tmp_path: Path) -> None:
    async with running("run", fleet(tmp_path, "wait_for_go"), "--web", "--quiet") as run:
        async with run.browser():
            async with httpx2.AsyncClient() as late:
                response = await late.get(await run.says(LINK))
                assert response.status_code == 403
            async with run.browser(2) as second:
                await second.look(lambda seen: seen.named("wait_for_go"))
        (tmp_path / "go").touch()
        assert (await run.ends())[0] == 0


# -- a terminal beside it ---------------------------------------------------------------------------


async def read_until(terminal: Terminal, *words: str) -> None:
    def seen(text: str) -> bool:
        return all(word in " ".join(text.split()) for word in words)

    await trio.to_thread.run_sync(terminal.read_until, seen)


def link_on(terminal: Terminal) -> str:
    found = LINK.search(terminal.screen.text)
    assert found is not None
    return found[0]


@pytest.mark.parametrize("where", ["page", "terminal"])
async def test_a_question_is_asked_on_both_and_the_first_answer_counts(where: str, tmp_path: Path) -> None:
    path = fleet(tmp_path, "careful")
    with on_a_terminal([*COMMAND, "run", str(path), "--web", "--no-stay"]) as terminal:
        await read_until(terminal, "Make this call?")
        async with browser_at(link_on(terminal)) as browser:
            await browser.look(lambda seen: seen.approvals)
            [asked] = browser.approvals
            if where == "page":
                await browser.post(f"/approvals/{asked['hash']}", {"approve": True})
                await read_until(terminal, "(the question is withdrawn)")
            else:
                terminal.type("y\n")
                await browser.look()
                response = None
                try:
                    response = await browser.post(f"/approvals/{asked['hash']}", {"approve": False})
                except httpx2.TransportError:
                    pass  # the run is over
                assert response is None or response.status_code == 409
            code = await trio.to_thread.run_sync(terminal.read_to_the_end)
    assert code == 0
    assert "wiped the disk" in terminal.screen.text
    assert terminal.screen.strange == []


async def test_on_a_terminal_the_link_fits_into_a_line_and_the_page_stays(tmp_path: Path) -> None:
    path = fleet(tmp_path, "answer", "fail")
    with on_a_terminal([*COMMAND, "run", str(path), "--web"]) as terminal:
        await read_until(terminal, "1 failed", "stays until Ctrl-C")
        assert any(LINK.fullmatch(line.strip()) for line in terminal.screen.text.splitlines())
        async with browser_at(link_on(terminal)) as browser:
            await browser.look()
            assert browser.exit == "1 completed, 1 failed; exit code 1"
            agent = browser.named("answer")["id"]
            messages = (await browser.get(f"/agents/{agent}/transcript")).json()["messages"]
            assert [each["text"] for each in messages] == ["?", "well"]
        terminal.process.send_signal(signal.SIGINT)
        assert await trio.to_thread.run_sync(terminal.read_to_the_end) == 1
    assert "Traceback" not in terminal.screen.text


# -- afterwards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_page_that_stays_ends_with_a_signal_and_the_exit_code_is_the_runs(
    number: int, tmp_path: Path
) -> None:
    async with running("run", fleet(tmp_path, "fail"), "--web", "--stay", "--json") as run:
        async with run.browser() as browser:
            await run.says("the live page stays until Ctrl-C")
            await browser.look()
            async with browser.events():  # somebody looks
                run.process.send_signal(number)
                code, out = await run.ends()
    assert code == 1
    assert json.loads(out)["exit_code"] == 1


async def test_the_report_is_printed_at_once_and_not_when_the_page_ends(tmp_path: Path) -> None:
    async with running("run", fleet(tmp_path, "answer"), "--web", "--stay") as run:
        await run.says("stays until Ctrl-C")
        out = b""
        with trio.fail_after(SECONDS):
            while b"1 completed" not in out:
                assert run.process.stdout is not None
                out += await run.process.stdout.receive_some()
        run.process.send_signal(signal.SIGTERM)
        assert (await run.ends())[0] == 0


async def test_a_browser_that_came_during_the_run_still_reads_when_the_page_stays(tmp_path: Path) -> None:
    async with running("run", fleet(tmp_path, "wait_for_go"), "--web", "--stay") as run:
        async with run.browser() as browser:
            await browser.look(lambda seen: seen.named("wait_for_go"))
            (tmp_path / "go").touch()
            await browser.look()
            await run.says("stays until Ctrl-C")
            resets = browser.resets
            browser.exit = None
            await browser.look()
            assert browser.resets == resets  # it went on from where it was
            agent = browser.named("wait_for_go")["id"]
            assert len((await browser.get(f"/agents/{agent}/transcript")).json()["messages"]) == 2
            assert (await browser.post("/drain")).status_code == 409
        run.process.send_signal(signal.SIGTERM)
        assert (await run.ends())[0] == 0


# -- with a journal -----------------------------------------------------------------------------------


async def test_a_run_with_a_journal_is_drained_by_leaving_it_and_goes_on_with_a_page(tmp_path: Path) -> None:
    path, journal = fleet(tmp_path, "answer", "wait_for_go"), tmp_path / "run.db"
    async with running("run", path, "--web", "--journal", journal) as run, run.browser() as browser:
        await browser.look(
            lambda seen: seen.named("wait_for_go").get("phase") and seen.named("answer").get("ended")
        )
        assert '"leaves":true' in (await browser.get("/")).text  # the page says so before it is done
        await browser.post("/drain")
        await browser.look()
        assert browser.exit is not None
        assert "it can be resumed" in browser.exit
        code, _ = await run.ends()
    assert code == 130
    async with running("resume", journal, "--web", "--json") as run, run.browser() as browser:
        await browser.look(lambda seen: seen.named("wait_for_go"))
        (tmp_path / "go").touch()
        await browser.look()
        code, out = await run.ends()
    assert code == 0
    assert {each["name"]: each["outcome"] for each in json.loads(out)["agents"]} == {
        "answer": "completed",
        "wait_for_go": "completed",
    }


async def test_the_sums_of_a_resumed_run_are_those_of_the_whole_run(tmp_path: Path) -> None:
    path, journal = fleet(tmp_path, "ask_once", "ask_twice"), tmp_path / "run.db"
    async with running("run", path, "--web", "--journal", journal) as run, run.browser() as browser:
        await browser.look(
            lambda seen: seen.named("ask_twice").get("turn") == 2 and seen.named("ask_once").get("ended")
        )
        before = browser.latest["totals"]
        assert (before["tokens"], before["completed"]) == (1234 + 100, 1)
        run.process.kill()
        await run.process.wait()
    async with running("resume", journal, "--web", "--json") as run, run.browser() as browser:
        await browser.look(lambda seen: seen.named("ask_twice").get("phase"))
        agent = browser.named("ask_twice")
        assert (browser.latest["totals"]["tokens"], browser.latest["totals"]["completed"]) == (1234 + 100, 1)
        assert browser.latest["totals"]["rates"]["tokens"] == 0
        assert agent["tokens"] == 100
        assert agent["started"] == agent["spawned"] < agent["since"]
        (tmp_path / "go").touch()
        await browser.look()
        code, out = await run.ends()
        assert code == 0
        assert json.loads(out)["usage"]["output_tokens"] == 234 + 10 + 1
        assert (browser.latest["totals"]["tokens"], browser.latest["totals"]["completed"]) == (
            1234 + 100 + 11,
            2,
        )
        assert browser.named("ask_twice")["tokens"] == 111


async def test_the_terminal_tells_the_sums_of_the_whole_run_when_it_is_resumed(tmp_path: Path) -> None:
    path, journal = fleet(tmp_path, "ask_once", "ask_twice"), tmp_path / "run.db"
    async with running("run", path, "--journal", journal) as run:
        await run.says("ask_once: completed")
        with trio.fail_after(SECONDS):
            while not (tmp_path / "started").exists():
                await trio.sleep(0.01)
        run.process.kill()
        await run.process.wait()
    with on_a_terminal([*COMMAND, "resume", str(journal)]) as terminal:
        await read_until(terminal, "2 agents: ", "1 completed; 1,334 tokens")
        (tmp_path / "go").touch()
        assert await trio.to_thread.run_sync(terminal.read_to_the_end) == 0
    assert "1,345 tokens" in terminal.screen.text


async def test_a_run_that_has_ended_is_told_again_without_a_page(tmp_path: Path) -> None:
    journal = tmp_path / "run.db"
    async with running("run", fleet(tmp_path, "answer"), "--journal", journal) as run:
        assert (await run.ends())[0] == 0
    async with running("resume", journal, "--web", "--stay") as run:
        assert (await run.ends())[0] == 0
    assert LINK.search(run.said) is None


async def test_a_killed_run_goes_on_with_a_page_at_the_same_port(tmp_path: Path) -> None:
    journal = tmp_path / "run.db"
    path = fleet(tmp_path, "wait_for_go")
    async with running("run", path, "--web", "--journal", journal) as run, run.browser() as browser:
        await browser.look(lambda seen: seen.named("wait_for_go").get("phase"))
        run.process.kill()
        await run.process.wait()
        port = browser.address.rpartition(":")[2]
        async with running("resume", journal, "--web", "--web-port", port) as again:
            link = await again.says(LINK)
            assert f":{port}/" in link
            assert (await browser.client.get(link)).status_code == 303  # the old cookie is worth nothing
            await browser.look(lambda seen: seen.named("wait_for_go").get("phase"))
            assert browser.resets >= 2
            (tmp_path / "go").touch()
            await browser.look()
            assert (await again.ends())[0] == 0


# -- what is refused ----------------------------------------------------------------------------------


async def test_a_port_in_use_is_told_before_anything_is_run(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with running("run", fleet(tmp_path, "wait_for_go"), "--web", "--web-port", port) as run:
            assert await run.ends() == (2, "")
    assert f"--web-port {port}: Address already in use" in run.said
    assert not (tmp_path / "started").exists()


async def test_without_the_extra_it_is_said_what_to_install_before_anything_is_run(tmp_path: Path) -> None:
    program = "import sys; sys.modules['hypercorn'] = None; from agentpool.cli import main; main()"
    command = [sys.executable, "-c", program]
    async with running("run", fleet(tmp_path, "wait_for_go"), "--web", command=command) as run:
        assert await run.ends() == (2, "")
    assert "pip install 'trio-agentpool[web]'" in run.said
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--web-port", "8080"], "--web-port is about the live page: give --web with it"),
        (["--stay"], "--stay is about the live page"),
        (["--no-stay"], "--stay is about the live page"),
        (["--web", "--web-port", "65536"], "--web-port"),
        (["--web", "--web-port", "-1"], "--web-port"),
    ],
)
def test_options_that_make_no_sense_are_told(
    options: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _app.call(["run", str(fleet(tmp_path, "answer")), *options]) == 2
    assert complaint in capsys.readouterr().err


BROKEN = """
import sys
import agentpool.web._watching as watching
from agentpool.cli import main

def broken(*_):
    raise ZeroDivisionError("of the page")

{what} = broken
main()
"""


@pytest.mark.parametrize(
    "what",
    [f"watching.Watching.{name}" for name in ("begin", "_look", "_take", "since", "watch", "end")],
)
async def test_a_page_that_breaks_down_does_nothing_to_the_run(what: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BROKEN.format(what=what)]
    log = tmp_path / "run.log"
    path = fleet(tmp_path, "answer", "wait_for_go")
    async with running("run", path, "--web", "--log-file", log, command=command) as run:
        async with run.browser() as browser:
            assert (await browser.get("/")).status_code == 200
            for _ in range(3):
                try:
                    await browser.get("/events", timeout=1)
                except httpx2.TransportError:
                    pass
            (tmp_path / "go").touch()
            code, out = await run.ends()
    assert code == 0
    assert "2 completed" in out
    assert run.said.count("the live page broke down") == 1
    assert "ZeroDivisionError: of the page" in run.said
    assert "of the page" in log.read_text("utf-8")
