"""Drivers that need no model: they follow a script."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, overload

import attrs
import trio

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import Finding, ManifestError, RequestRejectedError
from agentpool._core.manifest import AgentManifest, ScriptSettings, ScriptStep
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from agentpool._core.templates import map_strings, render_template
from agentpool._core.text import shown
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool.abc import Driver

Answer: TypeAlias = str | Completion | BaseException | type[BaseException]
Reply: TypeAlias = Answer | Callable[[CompletionRequest], Answer | Awaitable[Answer]]
"""One reply of a `ScriptedDriver`: an answer, or a function of the request that makes one."""


class _Source(Protocol):
    """Says what comes next."""

    def next_reply(self, request: CompletionRequest) -> Reply: ...


class ScriptedDriver(Driver):
    """Answers with what it was given, in order, to whoever asks; or by a function.

    Attributes:
      metered: false, since a reply without a usage used nothing; a budget books that.
      requests: every request that was made of it, in the order they were made; a driver that
        `embedded` binds keeps none.
    """

    privacy = PrivacyTier.SOVEREIGN
    metered = False

    def __init__(
        self,
        replies: Iterable[Reply] | Callable[[CompletionRequest], Answer | Awaitable[Answer]] = (),
        *,
        usage: TokenUsage = NO_USAGE,
        context_window: int | None = None,
    ) -> None:
        """Keep the replies.

        Args:
          replies: texts, completions, exceptions to raise, or functions (sync or async) from a
            request to one of these; also an endless iterator, which is asked as it goes. One
            function instead of a list makes every reply.
          usage: what a reply used that is only a text.
          context_window: the window that agents are to keep to.

        Raises:
          TypeError: if `replies` is neither a list nor a function.
        """
        self._setup(_Function(replies) if callable(replies) else _Queue(replies), usage)
        self.context_window = context_window

    def _setup(self, source: _Source, usage: TokenUsage = NO_USAGE, *, record: bool = True) -> None:
        self._source = source
        self._usage = usage
        self._record = record
        self.requests: list[CompletionRequest] = []

    @classmethod
    def for_manifest(cls, manifest: AgentManifest) -> ScriptedDriver:
        """Return a driver that follows the `[script]` of a manifest.

        It keeps nothing between requests: what comes next follows from the conversation, so that
        one driver serves many agents of this manifest at once. Blocks while it imports the module
        of a `function`.

        Raises:
          ManifestError: if the manifest has no script, or its function cannot be loaded.
        """
        return cls._following(manifest, record=True)

    @classmethod
    def _following(cls, manifest: AgentManifest, *, record: bool) -> ScriptedDriver:
        driver = cls.__new__(cls)
        driver._setup(_follow(manifest), record=record)
        return driver

    @staticmethod
    def embedded() -> EmbeddedDriver:
        """Return the driver of a pool whose agents each follow the script of their own manifest."""
        return EmbeddedDriver()

    async def complete(self, request: CompletionRequest) -> Completion:
        """Answer with the next reply.

        Raises:
          RequestRejectedError: if there is no reply left.
          BaseException: what was scripted.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that no reply was taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._record:
            self.requests.append(request)
        reply: Any = self._source.next_reply(request)
        await trio.lowlevel.cancel_shielded_checkpoint()
        if callable(reply) and not isinstance(reply, type):
            reply = reply(request)
            if isinstance(reply, Awaitable):
                reply = await reply
        if isinstance(reply, str):
            return Completion(reply, usage=self._usage)
        if isinstance(reply, Completion):
            return reply
        if isinstance(reply, BaseException) or (isinstance(reply, type) and issubclass(reply, BaseException)):
            raise reply
        raise TypeError(
            f"a scripted reply is {reply!r}; give a str, a Completion, an exception or a function"
        )


class _Queue:
    """Replies that are handed out once each."""

    def __init__(self, replies: Iterable[Reply]) -> None:
        if isinstance(replies, str):
            raise TypeError(f"replies is one text; give a list of replies, such as [{shown(replies)}]")
        if not isinstance(replies, Iterable):
            raise TypeError(f"replies must be a list of replies, or a function, not {shown(replies)}")
        self._replies = iter(replies)
        self._count = 0

    def next_reply(self, request: CompletionRequest) -> Reply:
        try:
            reply = next(self._replies)
        except StopIteration:
            raise RequestRejectedError(
                f"there were {self._count} scripted replies and all were used; "
                "this is one request more: script another reply, or find out who asks once too often"
            ) from None
        self._count += 1
        return reply


# -- the script of a manifest ------------------------------------------------------


class EmbeddedDriver(Driver):
    """Stands for the scripts of all manifests: `bind` gives the driver that follows one of them."""

    privacy = PrivacyTier.SOVEREIGN
    metered = False

    def __repr__(self) -> str:
        return "<EmbeddedDriver>"

    def bind(self, manifest: AgentManifest) -> Driver:
        """Return the driver for the agents of a manifest. Blocks as `ScriptedDriver.for_manifest`.

        Raises:
          ManifestError: if the manifest has no script, or its function cannot be loaded.
        """
        return ScriptedDriver._following(manifest, record=False)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Refuse: a request does not say which manifest it comes from.

        Raises:
          RequestRejectedError: always.
        """
        await trio.lowlevel.checkpoint()
        raise RequestRejectedError(
            "the embedded driver follows scripts and answers nothing else; "
            "use `driver.bind(manifest)`, ScriptedDriver([...]), or the driver of a model"
        )


def _follow(manifest: AgentManifest) -> _Source:
    script = manifest.script
    if script is None:
        raise _script_error(
            manifest, "script", "is missing, and without it the embedded driver has nothing to say",
            "Give the manifest a [script], or name the driver of a model",
        )  # fmt: skip
    if script.function is None:
        return _Steps(manifest.name, script)
    from agentpool._loading import LoadProblem, load_callable

    try:
        return _Function(load_callable(script.function, manifest.base)[0])
    except LoadProblem as error:
        raise _script_error(manifest, "script.function", error.problem, error.fix) from error


def _script_error(manifest: AgentManifest, key: str, problem: str, fix: str) -> ManifestError:
    return ManifestError([Finding(f"manifest {manifest.name!r}", key, problem, fix)])


@attrs.frozen
class _Function:
    """A function that makes every reply."""

    function: Callable[[CompletionRequest], Answer | Awaitable[Answer]]

    def next_reply(self, request: CompletionRequest) -> Reply:
        return self.function


# The ids of scripted calls say where the script is, so that a request tells it even when its oldest
# turns were dropped to fit a context window.
_CALL_ID = re.compile(r"script-([0-9]+)-([0-9]+)")


@attrs.frozen
class _Steps:
    """A script that is a list of steps."""

    name: str
    script: ScriptSettings

    def next_reply(self, request: CompletionRequest) -> Reply:
        steps = self.script.steps
        number, conversation = _position(request.messages)
        if number >= len(steps):
            raise RequestRejectedError(
                f"the script of manifest {self.name!r} has {len(steps)} steps, and all were taken; "
                "end it with a text, or give it another step"
            )
        first_call = sum(len(step.calls) for step in steps[:number])
        values = self._values(conversation, request.messages, number, first_call)
        try:
            return _perform(steps[number], values, number, first_call)
        except LookupError as error:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise RequestRejectedError(
                f"step {number + 1} of the script of {self.name!r}: {error.args[0]}; known are {known}"
            ) from error

    def _values(
        self,
        conversation: Sequence[ChatMessage],
        messages: Sequence[ChatMessage],
        number: int,
        calls_before: int,
    ) -> dict[str, str | Sequence[str]]:
        found = {
            int(match[2]): message.result.text
            for message in conversation
            if isinstance(message, ToolMessage) and (match := _CALL_ID.fullmatch(message.call_id))
        }
        results = _Results(found, calls_before)
        values: dict[str, str | Sequence[str]] = {"query": _query(conversation)}
        values["messages"] = "\n".join(
            message.body
            for message in messages
            if isinstance(message, UserMessage) and message.kind == "message"
        )
        calls = [call for step in self.script.steps[:number] for call in step.calls]
        for n, call in enumerate(calls):
            if call.save_as is not None and n in found:
                values[call.save_as] = found[n]
        return {**values, "results": results}


def _position(messages: Sequence[ChatMessage]) -> tuple[int, Sequence[ChatMessage]]:
    """Return how many steps were taken for the current query, and the conversation since then."""
    start = 0
    for index, message in enumerate(messages):
        if isinstance(message, UserMessage) and message.kind == "query":
            start = index
    conversation = messages[start:]
    number = 0
    for message in conversation:
        if isinstance(message, AssistantMessage):
            ids = (_CALL_ID.fullmatch(call.id) for call in message.tool_calls)
            known = next((match for match in ids if match), None)
            number = number + 1 if known is None else int(known[1]) + 1
    return number, conversation


def _query(conversation: Sequence[ChatMessage]) -> str:
    first = conversation[0] if conversation else None
    return first.body if isinstance(first, UserMessage) else ""


def _perform(
    step: ScriptStep, values: Mapping[str, str | Sequence[str]], number: int, first_call: int
) -> Completion:
    if step.text is not None:
        return Completion(render_template(step.text, values))

    def fill(text: str) -> str:
        return render_template(text, values)

    calls: list[ToolCall] = []
    for n, call in enumerate(step.calls, first_call):
        arguments: Any = map_strings(call.input, fill)
        calls.append(ToolCall(f"script-{number}-{n}", call.tool, arguments))
    return Completion(tool_calls=calls)


class _Results(Sequence[str]):
    """The results of a script's calls by their numbers; some may have left the context window."""

    def __init__(self, found: Mapping[int, str], count: int) -> None:
        self._found = found
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(self._count))]
        if index not in self._found:
            raise LookupError(
                f"the result {index} is in no message any more; the context window was too small"
            )
        return self._found[index]
