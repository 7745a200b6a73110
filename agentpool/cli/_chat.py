"""`agentpool chat`: one agent and a person at a terminal, or one query from a pipe."""

from __future__ import annotations

import io
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import attrs
import trio

from agentpool._core.errors import SessionError
from agentpool._core.events import AgentFinished
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import SUPERVISOR, ToolCall
from agentpool._core.outcomes import Aborted, AgentResult, AnyOutcome, Completed
from agentpool._core.summaries import reason_of
from agentpool._kernel.context import AgentContext
from agentpool._kernel.events import EventSubscription
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.opening import open_agent_pool
from agentpool._kernel.pool import AgentPool
from agentpool._kernel.versions import SeenVersions
from agentpool._loop.model_agent import ModelAgent
from agentpool.abc import HookContext, Hooks
from agentpool.cli._asking import TerminalApprover, can_ask
from agentpool.cli._chat_view import ChatView
from agentpool.cli._drivers import Drivers, tools_with
from agentpool.cli._errors import BadInputError
from agentpool.cli._files import load_manifest
from agentpool.cli._kept import Kept, default_file, interrupted, queries_of
from agentpool.cli._listening import Conversations
from agentpool.cli._memory import open_memory
from agentpool.cli._otel import exporting, traced
from agentpool.cli._prompt import LeftError, Prompt, read_all
from agentpool.cli._signals import ChatSignals
from agentpool.cli._streams import say
from agentpool.cli._warnings import telling_warnings
from agentpool.sessions import Session

MOST_AGENTS = 16
"""So many agents run at once: the one that is talked to, and those that it spawns."""
EVENTS_KEPT = 10_000
INTERRUPTED = "interrupted"
HELP = (
    "/help       this list",
    "/reset      begin a new conversation; the old one is kept if it has a name",
    "/sessions   the conversations of the file",
    "/exit       end; so do Ctrl-D, and Ctrl-C twice at an empty prompt",
    'several lines: begin and end them with """; pasted lines stay together by themselves',
    "Ctrl-C stops an answer; what was said of it stays in the conversation",
    "a space before / sends a line that begins with one",
)


@attrs.frozen(kw_only=True)
class ChatOptions:
    """The options of `agentpool chat`."""

    driver: str | None = None
    session: str | None = None
    sessions: Path | None = None
    memory: Path | None = None
    timeout: float | None = None
    quiet: bool = False
    otel: bool = False


def chat(path: Path, options: ChatOptions) -> int:
    """Talk with the agent of a manifest; return the exit code.

    Raises:
      ManifestError: if the file is wrong.
      BadInputError: if a driver cannot be opened, the file of sessions cannot be read, or there is
        nothing to ask.
      OutputLostError: if standard output is closed or full; the turn has come to its end.
    """
    manifest = load_manifest(path)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # what is no text in its encoding may come by a pipe
    asked = None if sys.stdin is not None and sys.stdin.isatty() else read_all(BadInputError)
    view = ChatView(options.quiet)
    with exporting(options.otel):
        code = trio.run(_chat, manifest, options, view, asked)
    if view.lost is not None and code < 128:
        raise view.lost
    return code


def _kept(options: ChatOptions, view: ChatView) -> Kept:
    if options.session is None:
        if options.sessions is not None:
            raise BadInputError("--sessions is a file of conversations. Name one with --session NAME")
        return Kept(None, "", view.tell)
    return Kept(Session(options.sessions or default_file()), options.session, view.tell)


async def _chat(manifest: AgentManifest, options: ChatOptions, view: ChatView, asked: str | None) -> int:
    async with AsyncExitStack() as stack:
        kept = _kept(options, view)
        try:
            await kept.load()
        except (SessionError, ValueError) as error:
            raise BadInputError(f"--session: {error}") from error
        stack.enter_context(telling_warnings(view.tell))
        drivers = Drivers(stack, options.driver, None, view.tell, view.retrying)
        drivers.conversations = Conversations()
        await drivers.open_for([manifest])
        memory = await open_memory(stack, options.memory)
        pool = await stack.enter_async_context(
            open_agent_pool(
                max_concurrent=MOST_AGENTS,
                memory=memory,
                tool_builder=partial(tools_with, drivers, None),
                approver=TerminalApprover(view) if can_ask() else None,
            )
        )
        await stack.enter_async_context(traced(pool, options.otel))
        events = await stack.enter_async_context(pool.events(max_buffer=EVENTS_KEPT))
        one = OneConversation()
        agent = ModelAgent(manifest, driver=drivers.get(manifest), hooks=[one])
        chat = _Chat(pool, events, agent, one, drivers.conversations, kept, view, options.timeout)
        with chat.signals.handling():
            return await (chat.talk() if asked is None else chat.ask_once(asked))


class OneConversation(Hooks):
    """Has each turn of a chat, which is an agent of its own, know which files were seen in those before."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._seen = SeenVersions()

    def begin_anew(self) -> None:
        """Begin another conversation."""
        self._seen = SeenVersions()

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
        """Go on with what was seen, unless it is another agent's call."""
        if isinstance(ctx, AgentContext) and ctx.parent_id == SUPERVISOR and ctx.versions is not self._seen:
            ctx.go_on_with_versions(self._seen)
        return call


@attrs.define(eq=False)
class _Chat:
    """A conversation, turn by turn."""

    _pool: AgentPool
    _events: EventSubscription
    _agent: ModelAgent[str]
    _one: OneConversation
    _heard: Conversations
    _kept: Kept
    _view: ChatView
    _timeout: float | None
    signals: ChatSignals = attrs.field(factory=ChatSignals)

    async def talk(self) -> int:
        """Ask for queries until the person leaves; return the exit code."""
        prompt = Prompt(self.signals)
        prompt.remember(queries_of(self._kept.messages))
        self._greet()
        try:
            while self._view.lost is None:
                text = prompt.read()
                if text.startswith("/") and text[1:].strip().isalpha():
                    if not await self._obey(text.strip()):
                        break
                else:
                    await self.answer(text)
        except EOFError:
            self._view.tell("")
        except LeftError:
            return 128 + signal.SIGINT
        return self.signals.exit_code or (1 if self._kept.problem else 0)

    async def ask_once(self, query: str) -> int:
        """Answer one query; return the exit code: 1 if there was no answer, or it could not be kept."""
        is_answered = await self.answer(query)
        if self.signals.exit_code is not None:
            return self.signals.exit_code
        if self.signals.is_interrupted:
            return 128 + signal.SIGINT
        return 0 if is_answered and not self._kept.problem else 1

    def _greet(self) -> None:
        if self._view.quiet:
            return
        self._view.tell(f"{self._agent.name}: /help tells what can be typed, Ctrl-D ends")
        if self._kept.session is not None:
            self._view.tell(f"the conversation {self._kept.name!r} has {len(self._kept.messages)} messages")

    async def _obey(self, command: str) -> bool:
        """Do what a command says; return whether the chat goes on."""
        match command:
            case "/exit" | "/quit":
                return False
            case "/help":
                say("\n".join(HELP))
            case "/reset":
                await self._kept.reset()
                self._one.begin_anew()
            case "/sessions":
                await self._kept.names()
            case _:
                self._view.tell(f"there is no command {command}; /help lists them")
        return True

    async def answer(self, query: str) -> bool:
        """Have a query answered, show the answer, and take it into the conversation; return whether it is."""
        before = self._kept.messages
        handle = await self._pool.spawn(self._agent, query, before, timeout=self._timeout)
        self._view.begin(handle.id)
        with self.signals.answering(partial(self._abort, handle)):
            async for event in self._events:
                self._view.take(event)
                if isinstance(event, AgentFinished) and event.agent_id == handle.id:
                    break
            outcome = await handle.wait()
        heard = self._heard.take(handle.id)
        match outcome:
            case Completed(value=result):
                self._show(result)
                await self._kept.go_on(result.transcript)
                return True
            case _ if isinstance(outcome, Aborted) and outcome.reason == INTERRUPTED:
                self._view.end(None)
                self._view.tell("interrupted; what was said so far stays in the conversation")
                view = self._view
                await self._kept.go_on(interrupted(before, query, heard, view.results, view.partial))
            case _:
                self._view.end(None)
                self._view.tell(_tell_failure(outcome))
        return False

    def _abort(self, handle: AgentHandle[AgentResult[str]], signals: int) -> None:
        handle.abort(INTERRUPTED)
        if signals > 1:
            self._view.tell("the answer is still stopping; Ctrl-C once more ends the program at once")

    def _show(self, result: AgentResult[str]) -> None:
        self._view.end(result.text)
        if result.stopped_by is not None:
            self._view.tell(f"stopped by its limit: {result.stopped_by}")


def _tell_failure(outcome: AnyOutcome) -> str:
    return f"no answer: {reason_of(outcome)}. The conversation is as it was before"
