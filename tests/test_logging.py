"""What a program sees through Python's `logging`: which records there are, and which agent each names.

The reports in the comments are of users of other systems: what they found there is tried here.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import logging.config
import logging.handlers
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from pool_kit import failing, forever, pool_of, server, sleeper, value

from agentpool import (
    AgentContext,
    AgentFailedError,
    AgentLogFilter,
    AgentManifest,
    AgentPool,
    ApprovalRequest,
    Approved,
    Budget,
    Completed,
    Completion,
    GovernedDriver,
    MessageRouter,
    ModelSettings,
    OverloadedError,
    RateLimitedError,
    RestartPolicy,
    RetryingDriver,
    RoutingDriver,
    ScriptedDriver,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    ToolError,
    tool,
)
from agentpool.testing import simulate

PROGRAM = logging.getLogger("test.program")
MANIFEST = AgentManifest(name="clerk", model=ModelSettings())
SECRET_WORDS = "the words of the user"


class Collector(logging.Handler):
    """Keeps records, as a program's handler would."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def lines(self, level: int = logging.DEBUG) -> list[str]:
        return [record.getMessage() for record in self.records if record.levelno >= level]


@contextlib.contextmanager
def collecting(level: int = logging.DEBUG, *, filtered: bool = True) -> Iterator[Collector]:
    """A handler at the root logger."""
    handler, root = Collector(), logging.getLogger()
    if filtered:
        handler.addFilter(AgentLogFilter())
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def agents_of(records: list[Any], logger: str) -> list[tuple[int, str]]:
    return [(one.agent_id, one.agent_name) for one in records if one.name.startswith(logger)]


# -- quiet by default ------------------------------------------------------------------------------


def run_program(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)


A_FAILURE = """
import logging, trio, agentpool
async def bad(ctx):
    raise ValueError("bad")
async def main():
    async with agentpool.open_agent_pool(max_concurrent=1) as pool:
        await (await pool.spawn(bad)).wait()
"""


def test_nothing_is_printed_by_a_program_that_sets_no_logging_up() -> None:
    done = run_program(A_FAILURE + "trio.run(main)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_module_touches_the_root_logger_or_a_level() -> None:
    # microsoft/agent-framework#2242, davebshow/gremlinclient#5, MITHaystack/digital_rf#112: an import, or the
    # first thing logged, set the root logger up, and `basicConfig` of the program did nothing any more.
    # WSH032/fastapi-proxy-lib#45: `logging.debug(...)` does so by itself.
    done = run_program(
        A_FAILURE + "import pkgutil, importlib\n"
        "for found in pkgutil.walk_packages(agentpool.__path__, 'agentpool.'):\n"
        # Ray sets the root logger up as it is imported.
        "    if not {'pytest_plugin', '__main__', 'ray'} & set(found.name.split('.')):\n"
        "        try: importlib.import_module(found.name)\n"
        "        except ImportError: pass\n"
        "trio.run(main)\n"
        "root = logging.getLogger()\n"
        "assert (root.handlers, root.level) == ([], logging.WARNING), root.handlers\n"
        "assert logging.getLogRecordFactory() is logging.LogRecord\n"
        "names = [name for name in logging.root.manager.loggerDict if name.startswith('agentpool')]\n"
        "ours = [logging.getLogger(name) for name in names]\n"
        "assert ours and all(logger.level == 0 and logger.propagate for logger in ours)\n"
        "logging.basicConfig(format='%(name)s: %(message)s')\n"
        "trio.run(main)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        line for line in done.stderr.splitlines() if line.startswith("agentpool.agents: agent 1 (bad) failed")
    ]
    assert len(done.stderr.splitlines()) == 1  # valory-xyz/open-aea#914: every line came twice


def test_a_configuration_by_dict_names_the_filter() -> None:
    done = run_program(
        "import logging.config\n"
        + A_FAILURE
        + "logging.config.dictConfig({'version': 1, 'disable_existing_loggers': False,\n"
        "  'filters': {'agent': {'()': 'agentpool.AgentLogFilter'}},\n"
        "  'formatters': {'f': {'format': '[%(agent_id)s %(agent_name)s] %(message)s'}},\n"
        "  'handlers': {'h': {'class': 'logging.StreamHandler', 'filters': ['agent'], 'formatter': 'f'}},\n"
        "  'root': {'handlers': ['h'], 'level': 'INFO'}})\n"
        "trio.run(main)\n"
        "logging.warning('the program')"
    )
    assert done.stderr.startswith("[1 bad] agent 1 (bad) failed after")
    assert done.stderr.endswith("[0 ] the program\n")


# -- what is told of agents ---------------------------------------------------------------------------


async def test_each_end_of_an_agent_has_a_level_of_its_own(autojump_clock: Any) -> None:
    with collecting() as seen:
        async with pool_of(4) as pool:
            await pool.spawn(value, name="good")
            await pool.spawn(failing, ValueError("no"), name="bad")
            slow = await pool.spawn(forever, name="slow")
            await trio.testing.wait_all_tasks_blocked()
            slow.abort("enough")
            await pool.join_all()
    assert [(one.levelname, one.getMessage()) for one in seen.records if "started" not in one.msg] == [
        ("DEBUG", "agent 1 (good) completed after 0.000 s"),
        ("WARNING", "agent 2 (bad) failed after 0.000 s: ValueError('no')"),
        ("INFO", "agent 3 (slow) was aborted after 0.000 s: enough"),
    ]
    assert {name for _, name in agents_of(seen.records, "agentpool")} == {"good", "bad", "slow"}


async def test_children_name_their_parent() -> None:
    # mozilla-ai/any-agent#142: of several agents only the main one was in the log.
    async def parent(ctx: AgentContext) -> None:
        await (await ctx.spawn(value, name="child")).wait()

    with collecting() as seen:
        async with pool_of(1) as pool:
            await (await pool.spawn(parent)).wait()
    assert "agent 2 (child) started, spawned by agent 1" in seen.lines()


async def test_the_traceback_of_a_failure_is_there_for_who_debugs(autojump_clock: Any) -> None:
    # Azure/WALinuxAgent#640: a generic "crashed" without a traceback.
    for level, has_one in ((logging.WARNING, False), (logging.DEBUG, True)):
        with collecting(level) as seen:
            async with pool_of(1) as pool:
                await (await pool.spawn(failing)).wait()
        (failed,) = (one for one in seen.records if one.levelno == logging.WARNING)
        assert (failed.exc_info is not None) is has_one
        if has_one:
            assert "in failing" in "".join(traceback.format_exception(failed.exc_info[1]))


async def test_a_restart_tells_why_and_when(autojump_clock: Any) -> None:
    failures = iter([ValueError("once"), None])

    async def shaky(ctx: AgentContext) -> None:
        if (error := next(failures)) is not None:
            raise error

    with collecting(logging.INFO) as seen:
        async with pool_of(1, seed=1) as pool:
            await (await pool.spawn(shaky, restart=RestartPolicy())).wait()
    (line,) = seen.lines()
    assert line.startswith("agent 1 (shaky) failed, and is restarted (number 1) in ")
    assert line.endswith(" s: ValueError('once')")


async def test_a_server_that_is_started_afresh_after_a_good_end_is_no_warning(autojump_clock: Any) -> None:
    with collecting(logging.INFO) as seen:
        async with pool_of(1) as pool:
            handle = await pool.spawn(value, restart=RestartPolicy(mode="always", max_restarts=1))
            await trio.sleep(100)
            handle.abort()
    (record, *_) = seen.records
    assert (record.levelname, record.getMessage()[:42]) == (
        "INFO",
        "agent 1 (value) completed, and is restarte",
    )


async def test_an_agent_that_swallows_its_abort_is_an_error(autojump_clock: Any) -> None:
    async def stubborn(ctx: AgentContext) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    with collecting(logging.ERROR) as seen:
        async with pool_of(1) as pool:
            handle = await pool.spawn(stubborn)
            await trio.testing.wait_all_tasks_blocked()
            handle.abort()
            await handle.wait()
    (line,) = seen.lines()
    assert line.startswith("agent 1 (stubborn) swallows cancellation, shields itself from it or blocks")
    assert "in test_an_agent_that_swallows_its_abort_is_an_error.<locals>.stubborn" in line
    assert agents_of(seen.records, "agentpool") == [(1, "stubborn")]


async def test_agents_that_wait_for_each_other_under_a_deadline_are_a_warning(autojump_clock: Any) -> None:
    async def asker(ctx: AgentContext, other: int) -> None:
        with trio.move_on_after(10):
            await trio.sleep(1)
            await ctx.ask(other, "?")

    with collecting(logging.WARNING) as seen:
        async with pool_of(2) as pool:
            await pool.spawn(asker, 2)
            await pool.spawn(asker, 1)
    assert any(line.endswith(("ends it: 2 -> 1 -> 2", "ends it: 1 -> 2 -> 1")) for line in seen.lines())


async def test_dead_letters_are_information_without_their_content(autojump_clock: Any) -> None:
    async def deaf(ctx: AgentContext) -> None:
        await trio.sleep(1)

    async def sender(ctx: AgentContext) -> None:
        await ctx.send(1, SECRET_WORDS)

    with collecting(logging.INFO) as seen:
        async with pool_of(2) as pool:
            await pool.spawn(deaf)
            pool.send_nowait(1, SECRET_WORDS)
            await pool.spawn(sender)
    letters = [one for one in seen.records if one.name == "agentpool.messages"]
    assert [one.levelname for one in letters] == ["INFO", "INFO"]
    assert letters[0].getMessage().startswith("message 1 from the program to agent 1 is a dead letter (")
    assert letters[1].getMessage().startswith("message 2 from agent 2 to agent 1 is a dead letter (")
    assert SECRET_WORDS not in str([vars(one) for one in seen.records])


def test_a_router_alone_tells_nothing() -> None:
    async def main() -> None:
        router = MessageRouter(1)
        router.register(1)
        router.unregister(1)

    with collecting() as seen:
        trio.run(main)
    assert seen.lines() == []


# -- agents that ask a model ------------------------------------------------------------------------------


@tool
async def explode(what: str) -> str:
    """Fail."""
    raise KeyError(what)


@tool
async def decline(what: str) -> str:
    """Say no."""
    raise ToolError("not today")


@tool(timeout=1)
async def dawdle(what: str) -> str:
    """Take too long."""
    await trio.sleep_forever()
    return what


def calling(name: str, **arguments: Any) -> Completion:
    return Completion(
        tool_calls=(ToolCall("c1", name, arguments or {"what": "x"}),), usage=TokenUsage(100, 20)
    )


async def asked(*replies: Any, manifest: AgentManifest = MANIFEST, **options: Any) -> Any:
    """Run a model agent with three tools; return its outcome."""
    async with pool_of(1, **options) as pool:
        driver = ScriptedDriver(replies)
        agent = SpawnConfig(manifest, SECRET_WORDS, tools=[explode, decline, dawdle], driver=driver)
        return await (await pool.spawn(agent)).wait()


async def test_a_run_tells_its_calls_to_who_debugs_and_no_words_of_them(autojump_clock: Any) -> None:
    with collecting() as seen:
        await asked(calling("decline", what="whispered"), "the words of the model")
    lines = [one.getMessage() for one in seen.records if one.name == "agentpool.loop"]
    assert lines == [
        "the model answered 1 messages after 0.000 s: 100 tokens in, 20 out, 1 tool calls, tool_use",
        "the tool decline failed: ToolError('not today')",
        "the tool decline ended after 0.000 s",
        "the model answered 3 messages after 0.000 s: 0 tokens in, 0 out, 0 tool calls, end_turn",
    ]
    everything = str([vars(one) for one in seen.records])
    assert SECRET_WORDS not in everything
    assert "whispered" not in everything
    assert "the words of the model" not in everything
    assert set(agents_of(seen.records, "agentpool")) == {(1, "clerk")}


@pytest.mark.parametrize(
    ("name", "level", "line"),
    [
        ("explode", "WARNING", "the tool explode failed: KeyError('x')"),
        ("decline", "INFO", "the tool decline failed: ToolError('not today')"),
        ("dawdle", "WARNING", "the tool dawdle was stopped after 1 s"),
        ("evil\nERROR root: all is lost", "INFO", "the tool 'evil\\nERROR root: all is lost' failed: "),
    ],
)
async def test_a_tool_that_fails_is_told(name: str, level: str, line: str, autojump_clock: Any) -> None:
    # crewAIInc/crewAI#6262, modelcontextprotocol/python-sdk#3363, livekit/agents#923: the model was told, and
    # whoever ran the program saw neither the error nor where it came from.
    with collecting(logging.INFO) as seen:
        await asked(calling(name), "well")
    (record,) = seen.records
    assert record.levelname == level
    assert record.getMessage().startswith(line)


async def test_where_a_tool_failed_is_in_the_record_of_who_debugs() -> None:
    with collecting() as seen:
        await asked(calling("explode"), "well")
    (record,) = (one for one in seen.records if "explode failed" in one.getMessage())
    assert "raise KeyError(what)" in "".join(traceback.format_exception(record.exc_info[1]))


async def test_a_budget_that_refuses_is_a_warning(autojump_clock: Any) -> None:
    with collecting(logging.WARNING) as seen:
        await asked("well", budget=Budget(calls=0))
    assert seen.lines()[0].startswith("a model call of agent 1 (clerk) was not made: BudgetExceededError")


async def test_a_loop_that_repeats_itself_is_a_warning(autojump_clock: Any) -> None:
    with collecting(logging.WARNING) as seen:
        await asked(*[calling("decline")] * 3, "well")
    assert "the loop guard: You repeated the same call of decline" in "\n".join(seen.lines())


ASKING = AgentManifest.from_toml('name = "clerk"\n[approval]\nask = ["decline"]\ndeny = ["explode"]\n')


async def yes(request: ApprovalRequest) -> Approved:
    return Approved()


async def test_what_a_person_decides_is_information(autojump_clock: Any) -> None:
    with collecting(logging.INFO) as seen:
        await asked(calling("decline"), calling("explode"), "well", manifest=ASKING, approver=yes)
        await asked(calling("decline"), "well", manifest=ASKING)
    lines = [line for line in seen.lines() if "failed" not in line]
    assert lines[:2] == [
        "agent 1 (clerk) waits for the approval of a call of decline",
        "a call of decline by agent 1 (clerk) was approved",
    ]
    assert lines[2].startswith("a call of explode was denied by the rule")
    assert lines[3:] == ["a call of decline by agent 1 (clerk) was denied"]


async def test_a_context_window_that_was_full_is_information(autojump_clock: Any) -> None:
    manifest = AgentManifest.from_toml('name = "clerk"\n[model]\ncontext_window = 700\nmax_tokens = 100\n')
    long = "word " * 150
    with collecting(logging.INFO) as seen:
        await asked(
            *[calling("decline", what=f"{long} {number}") for number in range(4)], "well", manifest=manifest
        )
    assert any(line.startswith("the context window was full: the ") for line in seen.lines())
    assert long not in str(seen.lines())


# -- drivers ------------------------------------------------------------------------------------------


async def test_a_call_that_is_made_again_tells_why_and_for_whom(autojump_clock: Any) -> None:
    # airbytehq/airbyte#11701: the error was not in the line of the retry. charmbracelet/crush#3024: with
    # retries that nobody saw, users took a slow answer for one that was not tried again.
    inner = ScriptedDriver([RateLimitedError("quota", retry_after=7.0), "well"])
    with collecting(logging.WARNING) as seen:
        async with pool_of(1, driver=RetryingDriver(inner, seed=1)) as pool:
            await (await pool.spawn(SpawnConfig(MANIFEST, "?"))).wait()
    (record,) = seen.records
    assert record.getMessage().startswith("attempt 1 failed: RateLimitedError(")
    assert "the next is made in 7." in record.getMessage()
    assert (record.name, record.agent_id, record.agent_name) == ("agentpool.drivers", 1, "clerk")


async def test_a_route_that_fails_and_a_provider_that_is_busy_are_told(autojump_clock: Any) -> None:
    busy = GovernedDriver(
        ScriptedDriver([OverloadedError("busy"), RateLimitedError("again", retry_after=1e6)])
    )
    with collecting(logging.WARNING) as seen:
        async with pool_of(1, driver=RoutingDriver(busy, ScriptedDriver(["well"]))) as pool:
            await (await pool.spawn(SpawnConfig(MANIFEST, "?"))).wait()
    first, second, third = seen.lines()
    assert first.startswith("the provider refused a call, and all calls are held back: OverloadedError(")
    assert second.startswith("the provider refused a call, and all calls are held back: RateLimitedError(")
    assert third.startswith("the route ")
    assert "did not answer: RateLimitedError" in third


# -- whose record it is ------------------------------------------------------------------------------------


async def logging_agent(ctx: AgentContext, seconds: float = 0) -> None:
    PROGRAM.info("before")
    await trio.sleep(seconds)
    PROGRAM.info("after")


async def test_what_the_programs_own_code_logs_names_its_agent(autojump_clock: Any) -> None:
    # fetchai/agents-aea#1327: loggers did not tell agents apart that ran in one process.
    with collecting(logging.INFO) as seen:
        async with pool_of(3) as pool:
            PROGRAM.info("the block")
            for number in range(3):
                await pool.spawn(logging_agent, 3 - number, name=f"n{number}")
            await pool.join_all()
    assert agents_of(seen.records, "test") == [
        (0, ""),
        *[(1, "n0"), (2, "n1"), (3, "n2")],
        *[(3, "n2"), (2, "n1"), (1, "n0")],
    ]


async def test_tools_threads_and_tasks_of_an_agent_name_it_and_inner_pools_their_own() -> None:
    # dabapps/django-log-request-id#63, bobbui/json-logging-python#60, slackapi/bolt-python#1267: records out
    # of worker threads had no id. bytedance/deer-flow#3902: nor had those of a library's own threads.
    @tool
    def in_thread(what: str) -> str:
        """Log."""
        PROGRAM.info("tool thread")
        trio.from_thread.run_sync(PROGRAM.info, "back in trio")
        trio.run(in_another_run)
        return what

    async def in_another_run() -> None:
        PROGRAM.info("another run")

    @tool
    async def in_task(what: str) -> str:
        """Log."""
        PROGRAM.info("tool task")
        return what

    async def inner(ctx: AgentContext) -> None:
        PROGRAM.info("inner agent")

    async def outer(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(in_another_run)
        async with trio.open_nursery() as own:
            own.start_soon(in_another_run)
        async with pool_of(1) as pool:
            PROGRAM.info("outer agent")
            await (await pool.spawn(inner, name="inside")).wait()
        await trio.to_thread.run_sync(PROGRAM.info, "thread")
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: context.run(PROGRAM.info, "own thread, own context"))
        thread.start()
        await trio.to_thread.run_sync(thread.join)

    with collecting(logging.INFO) as seen:
        async with pool_of(2) as pool:
            driver = ScriptedDriver([calling("in_thread"), calling("in_task"), "well"])
            agent = SpawnConfig(MANIFEST, "?", tools=[in_thread, in_task], driver=driver)
            await (await pool.spawn(agent)).wait()
            assert set(agents_of(seen.records, "test")) == {(1, "clerk")}
            assert len(agents_of(seen.records, "test")) == 4
            seen.records.clear()
            await (await pool.spawn(outer, name="outside")).wait()
    assert [(one.agent_name, one.getMessage()) for one in seen.records] == [
        ("outside", "another run"),
        ("outside", "another run"),
        ("outside", "outer agent"),
        ("inside", "inner agent"),
        ("outside", "thread"),
        ("outside", "own thread, own context"),
    ]


async def test_a_task_of_the_program_is_nobodys_also_if_an_agent_started_it(autojump_clock: Any) -> None:
    """As a pool of connections starts one for whoever comes first: it serves all, and outlives that agent."""
    with collecting(logging.INFO) as seen:
        async with trio.open_nursery() as nursery:

            async def starter(ctx: AgentContext) -> None:
                nursery.start_soon(background)

            async def background() -> None:
                PROGRAM.info("for everybody")

            async with pool_of(1) as pool:
                await pool.spawn(starter)
    assert agents_of(seen.records, "test") == [(0, "")]


async def test_a_record_keeps_the_agent_that_the_program_gave_it() -> None:
    async def agent(ctx: AgentContext) -> None:
        PROGRAM.info("own", extra={"agent_id": 77, "agent_name": "mine"})
        PROGRAM.info("half", extra={"agent_id": 77})
        PROGRAM.info("other half", extra={"agent_name": "mine"})

    with collecting(logging.INFO) as seen:
        async with pool_of(1) as pool:
            await pool.spawn(agent)
    assert agents_of(seen.records, "test") == [(77, "mine"), (77, ""), (1, "mine")]


def test_the_filter_can_also_drop_the_records_of_others() -> None:
    record = logging.makeLogRecord({"name": "elsewhere"})
    assert AgentLogFilter().filter(record)
    assert not AgentLogFilter("agentpool").filter(record)


async def test_the_librarys_own_records_need_no_filter() -> None:
    with collecting(filtered=False) as seen:
        await asked(calling("explode"), "well")
    assert set(agents_of(seen.records, "agentpool")) == {(1, "clerk")}


async def test_a_name_cannot_forge_lines(autojump_clock: Any) -> None:
    name = "x\nCRITICAL root: all is lost"
    with collecting() as seen:
        async with pool_of(1) as pool:
            await pool.spawn(logging_agent, name=name)
            await (await pool.spawn(failing, ValueError("a\nb"), name="y" * 1000)).wait()
    assert seen.records
    assert not any("\n" in one.getMessage() or "\n" in one.agent_name for one in seen.records)
    assert max(len(one.agent_name) for one in seen.records) < 400


async def test_a_queue_keeps_the_agent_and_the_programs_own_fields(autojump_clock: Any) -> None:
    # hynek/structlog#462: context that was looked up in the thread that writes was that thread's.
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="-")

    def with_request(record: Any) -> bool:
        record.request = request.get()
        return True

    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    written = Collector()
    handler = logging.handlers.QueueHandler(waiting)
    handler.addFilter(AgentLogFilter())
    handler.addFilter(with_request)
    listener = logging.handlers.QueueListener(waiting, written)
    logging.getLogger("agentpool").addHandler(handler)
    listener.start()
    try:
        async with pool_of(2) as pool:
            for name in ("r1", "r2"):
                request.set(name)
                await pool.spawn(failing, name=name)
            request.set("block")
            await pool.join_all()
    finally:
        logging.getLogger("agentpool").removeHandler(handler)
        listener.stop()
    assert sorted((one.agent_name, one.request) for one in written.records) == [("r1", "r1"), ("r2", "r2")]


# -- handlers that misbehave -------------------------------------------------------------------------------


class Raising(logging.Handler):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def handle(self, record: logging.LogRecord) -> bool:  # as a filter does that raises
        raise self.error


@contextlib.contextmanager
def added(handler: logging.Handler, level: int = logging.DEBUG) -> Iterator[None]:
    logger = logging.getLogger("agentpool")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


async def everything_that_is_told() -> None:
    """A pool in which most of what is told happens; its books are looked at when it is left."""

    async def asker(ctx: AgentContext, other: str) -> None:
        with trio.move_on_after(1):
            await trio.sleep(0.1)
            await ctx.ask(ctx.find(other), "?")

    async def nested(ctx: AgentContext) -> None:
        await ctx.spawn(failing, name="child")

    async with pool_of(2) as pool:
        pool.send_nowait((await pool.spawn(sleeper, 1)).id, "unread")
        await pool.spawn(failing, restart=RestartPolicy(max_restarts=2))
        await pool.spawn(nested)
        helper = await pool.spawn(server)
        assert await pool.ask(helper.id, "hello") == "hello"
        slow = await pool.spawn(forever)
        slow.abort("enough")
        helper.abort()
        await pool.join_all()
        pool.spawn_nowait(asker, "other", name="one")
        pool.spawn_nowait(asker, "one", name="other")
        agent = SpawnConfig(
            MANIFEST, "?", tools=[explode], driver=ScriptedDriver([calling("explode"), "well"])
        )
        model = await pool.spawn(agent)
        assert isinstance(await model.wait(), Completed)
        assert len(await pool.join_all()) == 2


async def test_a_handler_that_raises_changes_nothing_and_is_shown(
    autojump_clock: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with added(Raising(OSError("disk full"))):
        await everything_that_is_told()
    assert "--- agentpool: logging failed ---" in (said := capsys.readouterr().err)
    assert "disk full" in said
    monkeypatch.setattr(logging, "raiseExceptions", False)  # how a program in production has it
    with added(Raising(OSError("disk full"))):
        await everything_that_is_told()
    assert capsys.readouterr().err == ""


async def test_not_even_standard_error_has_to_be_there(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone:
        def write(self, _: str) -> None:
            raise BrokenPipeError

    for stream in (None, Gone()):
        monkeypatch.setattr(sys, "stderr", stream)
        with added(Raising(OSError("disk full"))):
            await everything_that_is_told()


async def test_a_handler_may_use_the_pool(autojump_clock: Any) -> None:
    """It is called when the step is over: it finds every agent alive with everything, or ended with it."""
    live: list[int] = []

    class Using(logging.Handler):
        pool: AgentPool

        def emit(self, record: logging.LogRecord) -> None:
            if "failed" in record.getMessage():
                live.append(self.pool.active_count)
                assert bad.outcome is not None
                self.pool.abort_all("the log says that one failed")
                with contextlib.suppress(Exception):
                    self.pool.spawn_nowait(value)

    handler = Using()
    with added(handler):
        async with pool_of(2) as pool:
            handler.pool = pool
            bad = await pool.spawn(failing)
            await pool.spawn(forever)
            outcomes = await pool.join_all()
    assert live[0] == 1
    assert outcomes[2].reason == "the log says that one failed"  # type: ignore[union-attr]


@pytest.mark.parametrize("agent", [failing, forever, value])
async def test_a_handler_that_ends_the_program_ends_it(agent: Any, autojump_clock: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        with added(Raising(SystemExit(7))):
            async with pool_of(2) as pool:
                await pool.spawn(agent)
                await pool.spawn(forever)
                await trio.sleep(1)
                pool.abort_all()
    assert caught.value.code == 7


async def test_what_comes_when_the_pool_has_ended_is_shown(
    autojump_clock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with added(Raising(SystemExit(7))):
        async with pool_of(1) as pool:
            state = pool._state
        record = type("Ended", (), {"id": 1, "name": "late", "restarts": 0})()
        state.events.reports.refused(record, ValueError("late"))
        await trio.lowlevel.checkpoint()
    assert "SystemExit: 7" in capsys.readouterr().err


async def test_a_handler_that_blocks_delays_and_breaks_nothing() -> None:
    # kirodotdev/KiroCrew#6631: a slow disk held the event loop; that is what QueueHandler is for.
    class Slow(logging.Handler):
        calls = 0

        def emit(self, record: logging.LogRecord) -> None:
            self.calls += 1
            threading.Event().wait(0.01)

    handler = Slow()
    with added(handler):
        async with pool_of(4) as pool:
            outcomes = await pool.map(value, range(10))
    assert [outcome.unwrap() for outcome in outcomes] == list(range(10))
    assert handler.calls == 20


# -- what it costs ------------------------------------------------------------------------------------


def test_a_simulation_is_the_same_with_and_without_somebody_who_listens() -> None:
    async def main() -> None:
        await everything_that_is_told()

    quiet = simulate(main, seed=5)
    with collecting() as seen:
        loud = simulate(main, seed=5)
    assert seen.records
    assert str(quiet) == str(loud)


async def test_levels_can_be_changed_while_a_pool_runs() -> None:
    logger = logging.getLogger("agentpool")
    with collecting(logging.WARNING) as seen:
        async with pool_of(1) as pool:
            await (await pool.spawn(value)).wait()
            logger.setLevel(logging.DEBUG)
            try:
                await (await pool.spawn(value)).wait()
            finally:
                logger.setLevel(logging.NOTSET)
            await (await pool.spawn(value)).wait()
    assert [line.split(" after ")[0] for line in seen.lines()] == [
        "agent 2 (value) started",
        "agent 2 (value) completed",
    ]


def test_an_error_that_is_logged_is_not_kept(tmp_path: Path) -> None:
    """Nothing of a pool holds on to what it told."""
    import gc
    import weakref

    class Mine(Exception):
        pass

    refs: list[Any] = []

    async def bad(ctx: AgentContext) -> None:
        error = Mine()
        refs.append(weakref.ref(error))
        raise error

    async def main() -> None:
        async with pool_of(1) as pool:
            handle = await pool.spawn(bad)
            with pytest.raises(AgentFailedError):
                await handle.result()

    trio.run(main)
    gc.collect()
    assert refs[0]() is None
