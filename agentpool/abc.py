"""The extension points: what a driver, a tool, a memory, an approver, a hook and an agent that describes
itself have to be.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, runtime_checkable

import attrs

from agentpool._core.approval import ApprovalRequest, Decision
from agentpool._core.capability import Capability, PrivacyTier
from agentpool._core.grants import Grants
from agentpool._core.messages import (
    SUPERVISOR,
    AgentId,
    AgentMessage,
    Completion,
    CompletionRequest,
    ReasoningDelta,
    StreamPart,
    TextDelta,
    ToolCall,
    ToolDefinition,
    ToolResult,
)
from agentpool._core.records import JournalRecord
from agentpool._core.usage import TokenUsage

if TYPE_CHECKING:
    from agentpool._core.manifest import AgentManifest


@runtime_checkable
class Driver(Protocol):
    """Gives access to a model.

    Derive from this class to get the defaults; only `complete` has to be written. Agents call one
    driver from many tasks at once.

    A driver may have two things more. `bind(manifest)` returns the driver that one agent is to use,
    such as one that follows its script. `metered = False` says that an answer without any usage
    really used nothing; otherwise a budget books the worst case of such a call.

    Attributes:
      context_window: how many tokens a request and its answer may have together; None if unknown.
      privacy: where words go that this driver is given.
    """

    context_window: int | None = None
    privacy: PrivacyTier = PrivacyTier.STANDARD

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the model, and return its whole answer.

        Raises:
          DriverError: one of its kinds; what the HTTP library raised, if that is why, is its cause.

        Checkpoint: always. Cancellation: the connection is closed, nothing is left behind.
        """
        ...

    def stream(self, request: CompletionRequest) -> AbstractAsyncContextManager[AsyncIterator[StreamPart]]:
        """Ask the model, and get its answer in pieces.

        The block's value iterates over `TextDelta` and `ReasoningDelta` values and ends with the
        whole `Completion`.
        Leaving the block early closes the connection.
        """
        return _stream_of_one(self, request)

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        """Return what `usage` costs in USD; 0 is free, None means that the price is not known."""
        return 0.0


@runtime_checkable
class WrapsDriver(Protocol):
    """A driver that has its requests answered by others, such as one that retries or chooses.

    A pool counts each call of a driver that talks to a model by itself, each attempt and each
    fallback. A wrapper that has this method is taken apart for that; one that has not is counted
    from outside, as if it made one call for each request.
    """

    def rewrapped(self, wrap: Callable[[Driver], Driver]) -> Driver:
        """Return this driver around what `wrap` makes of each driver inside, at every depth.

        Counters and limits are shared with this one.
        """
        ...


def wrapped_inside(driver: Driver, wrap: Callable[[Driver], Driver]) -> Driver:
    """Return a driver with each innermost one in it wrapped; itself wrapped if it holds none."""
    # Not `isinstance`, which takes 20 µs with a protocol, for each agent.
    rewrapped: Callable[[Callable[[Driver], Driver]], Driver] | None = getattr(driver, "rewrapped", None)
    return wrap(driver) if rewrapped is None else rewrapped(wrap)


@asynccontextmanager
async def _stream_of_one(
    driver: Driver, request: CompletionRequest
) -> AsyncIterator[AsyncIterator[StreamPart]]:
    completion = await driver.complete(request)

    async def parts() -> AsyncIterator[StreamPart]:
        if completion.reasoning:
            yield ReasoningDelta(completion.reasoning)
        if completion.text:
            yield TextDelta(completion.text)
        yield completion

    iterator = parts()
    try:
        yield iterator
    finally:
        await iterator.aclose()  # type: ignore[attr-defined]


def usual_trust(source: str) -> float:
    """Return how far a text is to be believed if nothing is said: 1 from a user, 0.5 from anything else.

    What models and tools wrote may hold what a page or a mail told them to write.
    """
    return 1.0 if source == "user" else 0.5


@attrs.frozen
class MemoryFragment:
    """Something remembered.

    Attributes:
      id: names it for `Memory.forget`.
      content: the text.
      source: what kind of thing it is, such as `conversation`, `tool` or `user`.
      agent_id: which agent remembered it.
      created_at: seconds on the memory's clock.
      relevance: how well it fits the query that recalled it, from 0 to 1.
      namespace: the name of the memory in which it is; `""` is the shared one.
      origin: where it comes from, such as an address, a file, or a run.
      trust: how far it is to be believed, from 0 to 1; `usual_trust` of its source if left out.
    """

    id: int
    content: str
    source: str = "user"
    agent_id: AgentId = 0
    created_at: float = 0.0
    relevance: float = 0.0
    namespace: str = ""
    origin: str = ""
    trust: float = attrs.Factory(lambda fragment: usual_trust(fragment.source), takes_self=True)


@runtime_checkable
class Memory(Protocol):
    """Keeps what agents remember; shared by the agents of a pool."""

    async def remember(self, content: str, *, source: str = "user", agent_id: AgentId = 0) -> int:
        """Keep a text, and return the id of the new fragment."""
        ...

    async def recall(
        self,
        query: str,
        *,
        limit: int = 5,
        source: str | None = None,
        agent_id: AgentId | None = None,
        since: float | None = None,
    ) -> Sequence[MemoryFragment]:
        """Return the fragments that fit the query, best first; the most recent first among equals.

        Args:
          query: words to look for.
          limit: how many fragments at the most.
          source: only fragments of this source.
          agent_id: only fragments of this agent.
          since: only fragments created at this time (seconds on the memory's clock) or later.
        """
        ...

    async def set(self, key: str, value: Any) -> None:
        """Keep a value under a key, in the place of what was there."""
        ...

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value under a key, or `default`."""
        ...

    async def forget(self, fragment_id: int) -> bool:
        """Drop a fragment; return whether there was one."""
        ...


@runtime_checkable
class NamespacedMemory(Memory, Protocol):
    """A memory that holds others, each with a name, and knows where a text comes from.

    The memory itself is the shared one. Texts and values of a namespace are seen in it alone; ids are given
    once in all of them.
    """

    def namespace(self, name: str) -> NamespacedMemory:
        """Return the memory of this name; the shared one for `""`. The same name gives the same texts."""
        ...

    async def remember(
        self,
        content: str,
        *,
        source: str = "user",
        agent_id: AgentId = 0,
        origin: str = "",
        trust: float | None = None,
    ) -> int:
        """Keep a text, and return the id of the new fragment.

        Args:
          content: the text.
          source: what kind of thing it is.
          agent_id: which agent remembers it.
          origin: where it comes from, such as an address, a file, or a run.
          trust: how far it is to be believed, from 0 to 1; `usual_trust` if left out.
        """
        ...

    async def recall(
        self,
        query: str,
        *,
        limit: int = 5,
        source: str | None = None,
        agent_id: AgentId | None = None,
        since: float | None = None,
        min_trust: float = 0.0,
    ) -> Sequence[MemoryFragment]:
        """Return the fragments that fit the query, as `Memory.recall` does.

        Args:
          query, limit, source, agent_id, since: as there.
          min_trust: only fragments that are to be believed at least so far.
        """
        ...


@runtime_checkable
class Journal(Protocol):
    """Keeps what happened in a run, in the order in which it happened.

    What is kept after a crash is always a beginning of what was appended: a record is never there
    without those before it.

    A journal may have two things more: `path`, the file that it is in, and `secrets`, the texts that must not
    get into it; nor do they get into other files of its run.
    """

    async def open(self) -> Sequence[JournalRecord]:
        """Have the journal for oneself, and return what it holds; nothing for a new one.

        Raises:
          JournalError: if somebody else writes to it, or it cannot be opened or read.
        """
        ...

    def append(self, record: JournalRecord) -> None:
        """Have a record kept after all that were appended before; does not block.

        Raises:
          JournalError: if the journal could not be written before.
        """
        ...

    async def commit(self) -> None:
        """Wait until everything that was appended would outlive this process.

        Raises:
          JournalError: if it could not be written.
        """
        ...

    async def aclose(self) -> None:
        """Keep what is left, and let the journal go; harmless if it is not open."""
        ...


class ToolContext(Protocol):
    """What a tool may use of the agent that calls it; every `AgentContext` is one."""

    @property
    def id(self) -> AgentId:
        """The agent's id."""
        ...

    @property
    def name(self) -> str:
        """The agent's name."""
        ...

    @property
    def depth(self) -> int:
        """How many agents stand between it and the pool."""
        ...

    @property
    def memory(self) -> Memory | None:
        """The pool's memory."""
        ...

    @property
    def call_key(self) -> str:
        """What names the call that runs, also when it is made again after a crash."""
        ...

    def find(self, name: str) -> AgentId:
        """Return the id of the live agent with a name, or raise `UnknownAgentError`."""
        ...

    async def send(self, to: AgentId | str, content: Any) -> None:
        """Deliver a message to an id or a name, waiting for room."""
        ...

    def receive(self) -> Coroutine[Any, Any, AgentMessage]:
        """Take the oldest message, waiting for one."""
        ...

    def receive_for_model(self) -> Coroutine[Any, Any, AgentMessage]:
        """As `receive`; raises `DeadlockError` when nobody is left who could ever write to the agent."""
        ...

    def receive_nowait(self) -> AgentMessage:
        """Take the oldest message, or raise `trio.WouldBlock`."""
        ...

    async def ask(self, to: AgentId | str, content: Any) -> Any:
        """Deliver a question to an id or a name, and return the content of its reply."""
        ...

    def question(self, message_id: int) -> AgentMessage:
        """Return the message of that id, if its sender waits for a reply of the agent."""
        ...

    def reply(self, message: AgentMessage, content: Any) -> None:
        """Answer a question that the agent received."""
        ...

    def open_nursery(self) -> AbstractAsyncContextManager[Any]:
        """Open a nursery for more tasks of the agent, which may use its waiting verbs."""
        ...

    async def spawn(
        self, agent: Any, /, *args: Any, name: str | None = None, timeout: float | None = None
    ) -> Any:
        """Start a child of the agent, and return its handle."""
        ...

    async def spawn_for_model(
        self, agent: Any, /, *args: Any, name: str | None = None, timeout: float | None = None
    ) -> Any:
        """As `spawn`, for a child that a model asked for: `PoolLimits` bounds how many there may be."""
        ...


class Versions(Protocol):
    """Which versions an agent has seen of things that others change too. Safe in threads."""

    def ticket(self) -> int:
        """Return a number that tells when somebody begins to look at something: higher ones are later."""
        ...

    def seen(self, thing: str) -> str | None:
        """Return the version of a thing that the agent knows; None if it knows none."""
        ...

    def saw(self, thing: str, version: str, ticket: int | None = None) -> None:
        """Take in a version that the agent has read, or made itself; `ticket` was drawn before it looked."""
        ...


@runtime_checkable
class KnowsVersions(Protocol):
    """A context that keeps account of the versions that its agent has seen; every `AgentContext` does."""

    @property
    def versions(self) -> Versions:
        """What the agent has seen."""
        ...


@runtime_checkable
class Tool(Protocol):
    """Something that a model may call.

    A tool may have one thing more, for the rules of approval: `taken(arguments)` returns the arguments
    as `call` will take them, checked and with all defaults, or a `ToolResult` that says what is wrong
    with them. Of a tool without it the arguments are compared as the model gave them, and a rule that
    restricts an argument which is not there applies.

    Attributes:
      definition: how the model sees it.
      capability: what a manifest must grant for it; None if nothing.
      timeout: seconds that a call may take; None for the loop's default.

    A tool may have an attribute `idempotent`: True says that a call may be made again if the process died
    before its result was known; and a method `adopt(handles)`, which is given the children that a call had
    spawned when its agent is resumed and the call is not made again, each as a pair: its handle, and
    whether its outcome was taken before.
    """

    @property
    def definition(self) -> ToolDefinition:
        """How the model sees it."""
        ...

    @property
    def capability(self) -> Capability | None:
        """What a manifest must grant for it."""
        ...

    @property
    def timeout(self) -> float | None:
        """How many seconds a call may take."""
        ...

    async def call(self, ctx: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Validate the arguments and do it.

        A result with `is_error` tells the model what was wrong. An `Exception` that comes out is
        shown to the model as an error, and the agent goes on.
        """
        ...


class ToolSet(Protocol):
    """The tools of one agent; every `ToolRegistry` is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tools, granted or not."""
        ...

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name, or None."""
        ...

    def definitions(self) -> tuple[ToolDefinition, ...]:
        """Describe the tools that may be used."""
        ...

    def limited_to(self, capabilities: AgentManifest | Iterable[Capability]) -> ToolSet:
        """Return the same tools, with only those allowed that are granted here too."""
        ...

    def extended(self, tools: Iterable[Tool]) -> ToolSet:
        """Return these tools and more; `ValueError` if a name is there twice."""
        ...

    def granted(self, name: str) -> Tool:
        """Return the tool of that name; `ToolError` if there is none, or it is not granted."""
        ...

    def shortened(self, result: ToolResult) -> ToolResult:
        """Return a result as the model is shown it: what is too long is cut."""
        ...

    async def call(self, ctx: ToolContext, call: ToolCall) -> ToolResult:
        """Do what a model asked for."""
        ...


# -- approval ---------------------------------------------------------------------------


@runtime_checkable
class Approver(Protocol):
    """Decides about tool calls that the rules of a manifest send to a person; any async callable is one.

    A pool calls it for many agents at once, each time in a task of its own that is no agent's. So it
    needs no slot, and may wait for as long as a person takes. It must not block: what reads from a
    person in a thread is to be called with `abandon_on_cancel=True`, as in
    `await trio.to_thread.run_sync(input, "ok? ", abandon_on_cancel=True)`.
    """

    async def __call__(self, request: ApprovalRequest, /) -> Decision:
        """Return `Approved()` or `Denied(reason)`.

        Whatever else is returned, and an `Exception` that is raised, denies: the model is told so.
        Cancellation: nobody waits for the decision any more; the agent is ending.
        """
        ...


# -- hooks ------------------------------------------------------------------------------


class HookContext(ToolContext, Protocol):
    """What a hook may use of the agent whose calls it stands around; every `AgentContext` is one."""

    @property
    def parent_id(self) -> AgentId:
        """The id of the agent that spawned it; 0 for the supervisor."""
        ...

    @property
    def usage(self) -> TokenUsage:
        """What the agent's model calls have used so far."""
        ...

    @property
    def journal_path(self) -> str | None:
        """The file of the pool's journal; None without a journal, and for one that is in no file."""
        ...

    @property
    def journal_secrets(self) -> Sequence[str]:
        """Texts that must get into no file of the run: those that the journal was given, or found."""
        ...

    def add_usage(self, usage: TokenUsage) -> None:
        """Count on the agent what a model call of the hook used that went past the agent's driver."""
        ...

    async def hold(self, key: Hashable, open: Callable[[], AbstractAsyncContextManager[Any]]) -> Any:
        """Return something that lives as long as the pool, opened by who first asks for its key."""
        ...

    def is_held(self, key: Hashable) -> bool:
        """Whether the pool holds something under a key, so that `hold` would not open it."""
        ...


AskModel: TypeAlias = Callable[[CompletionRequest], Awaitable[Completion]]
"""Asks the model, through the hooks that stand further inside."""

CallTool: TypeAlias = Callable[[ToolCall], Awaitable[ToolResult]]
"""Makes a tool call, through the hooks that stand further inside."""


class Hooks:
    """Stands around the model calls and the tool calls of agents that run the loop.

    Derive from this class, and write those of its methods that are needed: each is a coroutine function.
    A method that a class does not have costs nothing. One object serves all agents that it is given to,
    which call it from many tasks at once; it must not keep the state of one call in itself.

    A pool's hooks (`open_agent_pool(hooks=[...])`) stand outside, then those of the manifest, then those of
    the agent (`ModelAgent(hooks=[...])`), each in the order given: the first sees a request first, and its
    answer last. Of one hook `before_` runs first, then `around_`, then `after_`.

    An exception out of a hook around a model call is the end of the run, as one of the driver is: the agent
    fails with it. One out of a hook around a tool call is that call's result, as an error of its tool is: the
    agent goes on. A value of a wrong type is such an exception, a `TypeError` that names the hook.
    Cancellation, and what is fatal, is to be let through.

    What they get is not theirs to change: return another value, as `attrs.evolve` makes it.

    Attributes:
      streams: whether subscribers see an answer's text as it arrives, before `around_model_call` and
        `after_model_call` of this hook have seen the whole. Without it they see the text that comes out of
        the hooks, in one piece; a class without these two methods holds nothing back.
    """

    streams: bool = False

    async def before_model_call(
        self, ctx: HookContext, request: CompletionRequest
    ) -> CompletionRequest | Completion:
        """Return the request that is sent; or a completion, and the model is not asked.

        Of a completion the hooks further outside are told as of any other; this hook, and those inside,
        are not.

        Raises:
          Exception: to refuse; the agent fails with it.
        """
        return request

    async def around_model_call(
        self, ctx: HookContext, request: CompletionRequest, call: AskModel
    ) -> Completion:
        """Return the answer to a request, asking by `await call(request)` as often as wanted.

        Each `call` is set aside in the budget, and counts, by itself. It raises what the driver raises,
        and `RuntimeError` once this method has returned.
        """
        return await call(request)

    async def after_model_call(
        self, ctx: HookContext, request: CompletionRequest, completion: Completion
    ) -> Completion:
        """Return the completion that the agent takes for the model's answer.

        Its usage is that of the calls that were really made, whatever it says.
        """
        return completion

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall | ToolResult:
        """Return the call that is made; or a result, and nothing is called.

        The call may have another tool and other arguments, but not another id. It has to be granted as
        any call, and the rules of approval are asked about it. Of a result the hooks further outside
        are told as of any other; this hook, and those inside, are not.

        Raises:
          ToolError: to refuse, with what the model is told.
        """
        return call

    async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
        """Return the result of a call, making it by `await proceed(call)` as often as wanted.

        Each `proceed` has the whole time limit of the tool. It returns errors of the tool as results with
        `is_error`, and raises `RuntimeError` once this method has returned.
        """
        return await proceed(call)

    async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
        """Return the result that the model is told of.

        It is whole here: what is too long is cut behind all hooks.
        """
        return result


# -- agents ---------------------------------------------------------------------------

ToolBuilder: TypeAlias = Callable[["AgentManifest"], "ToolSet | None"]
"""Makes the tools of an agent from its manifest."""

root_agent_id: ContextVar[AgentId] = ContextVar("agentpool_root_agent_id", default=SUPERVISOR)
"""The id of the root agent that the calling task works for; 0 outside of every agent.

The root agent is the oldest ancestor below the pool. The pool sets it in each task of an agent.
"""


@attrs.frozen
class AgentQuota:
    """What an agent may use, with its children. It hangs under its parent's quota.

    Attributes:
      tokens: input and output together; None for no limit of its own.
      cost_usd: US dollars; None for no limit of its own.
    """

    tokens: int | None = None
    cost_usd: float | None = None


@runtime_checkable
class ResumableAgent(Protocol):
    """An agent, made by a class at the top of a module, that a journal can keep and make again.

    A plain function needs no such thing: it is found again by its name.
    """

    def to_journal(self) -> Any:
        """Return what the agent is made from, as JSON data."""
        ...

    @classmethod
    def from_journal(cls, data: Any) -> Callable[..., Any]:
        """Return the agent of which `to_journal` made this."""
        ...


@runtime_checkable
class DescribedAgent(Protocol):
    """What a pool needs to know of an agent beyond calling it.

    A plain function is no such agent: it has the function's name, no quota and no tools.
    """

    @property
    def name(self) -> str:
        """What it is called when nobody names it."""
        ...

    @property
    def quota(self) -> AgentQuota | None:
        """What it may use; None for no limit of its own."""
        ...

    def build_tools(self, builder: ToolBuilder | None) -> ToolSet | None:
        """Return its tools, or None if it has none; called once for each agent, when they are needed.

        Args:
          builder: the pool's `tool_builder`; None for the default one.
        """
        ...


@runtime_checkable
class LimitedAgent(DescribedAgent, Protocol):
    """A described agent that asks for what it may do, as one of a manifest does.

    The pool gives it what it asks for, as far as its parent may do that. One that asks for nothing may do
    what its parent may.
    """

    @property
    def wanted(self) -> Grants:
        """What it asks for; with absolute paths, so that they can be compared with its parent's."""
        ...

    def limited_to(self, grants: Grants) -> Self:
        """Return the same agent with nothing but what is granted, which is less than it asks for.

        Its tools are those that `build_tools` of what this returns builds.
        """
        ...


# -- many machines -------------------------------------------------------------------------------------


@attrs.frozen
class Pulled:
    """What a worker had to tell.

    Attributes:
      number: of this reply, one more than that of the reply before.
      records: in the order in which they were made; may be empty.
    """

    number: int
    records: Sequence[bytes]


@runtime_checkable
class Transport(Protocol):
    """The way between the head of a pool and one worker process.

    The head asks, the worker replies. Each of the two calls is made by one task, one after the other; the two
    tasks run side by side. What was asked may be lost, or its reply: it is asked again with the same number
    then, and the worker does nothing twice.
    """

    async def post(self, number: int, records: Sequence[bytes]) -> None:
        """Hand records to the worker, in their order; the same number again means the same records.

        Raises:
          WorkerUnavailableError: if it is not known whether the worker has them.
          WorkerLostError: if the worker is gone for good.

        Checkpoint: always. Cancellation: it is not known whether the worker has them.
        """
        ...

    async def pull(self, ack: int, max: int, wait: float) -> Pulled:
        """Return what the worker has to tell, waiting for something.

        Args:
          ack: the number of the last reply that was received, 0 before the first. The worker replies with
            the number after it, with the same records as before if it had replied with that number already.
          max: how many records at the most.
          wait: seconds after which the worker replies with no records.

        Raises:
          WorkerUnavailableError: if the reply is lost.
          WorkerLostError: if the worker is gone for good.

        Checkpoint: always. Cancellation: the reply may be lost; a later call has it.
        """
        ...

    async def aclose(self) -> None:
        """End the worker process, if it is still there; does not wait for it for long.

        Checkpoint: always. Cancellation: it is ended all the same.
        """
        ...


@runtime_checkable
class Workers(Protocol):
    """Where worker processes are started; open for as long as a pool has agents that run there.

    Attributes:
      count: how many worker processes are wanted, at least 1.
    """

    count: int

    async def start(self, setup: bytes) -> Transport:
        """Start a worker process, and return the way to it once it answers.

        Args:
          setup: what it is told at its start.

        Raises:
          AgentPoolError: if none can be started; the text tells what to do.

        Checkpoint: always. Cancellation: no process is left.
        """
        ...

    def dumps(self, value: Any) -> bytes:
        """Pickle a value for a worker, also a function that cannot be imported there, as far as possible."""
        ...


@runtime_checkable
class Placement(Protocol):
    """Where the agents of a pool run that are marked for placement, with `placed`.

    Derive from `agentpool.RemotePlacement` to write one: it has `run`, and needs to know how worker processes
    are started.
    """

    async def run(self, ctx: Any, agent: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> Any:
        """Run an agent somewhere else, as the body of the agent whose context this is.

        Args:
          ctx: of the agent in the pool, which performs what the code over there asks for.
          agent, args: what was spawned.

        Returns:
          What the agent returned.

        Raises:
          WorkerLostError: if the process that ran it is gone.
          RemoteError: if something could not be brought there, or back.
          BaseException: what the agent raised.

        Cancellation: cancels the agent over there, and waits for its end.
        """
        ...
