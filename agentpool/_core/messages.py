"""The values that travel: between agents, and between an agent and its model."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from agentpool._core.content import Content, as_content, text_of
from agentpool._core.sound_schemas import sound_schema
from agentpool._core.text import shown
from agentpool._core.usage import NO_USAGE, TokenUsage

AgentId: TypeAlias = int
"""From 1 up, never reused within a pool; 0 is the supervisor, whoever holds the pool."""

SUPERVISOR: AgentId = 0


# Where there are no slots: a frozen value with many of them takes twice as long to make.
@attrs.frozen(slots=False)
class AgentMessage:
    """A message between two agents of a pool.

    Attributes:
      sender: who sent it; a pool's router sets it, so that it cannot be forged.
      to: whom it is for.
      content: any object; agents of one pool share memory, so do not change it after sending.
      id: set by the router, unique within it.
      reply_to: the id of the message that this one answers.
      topic: the topic it was published on, if it was.
      is_question: whether its sender waits for a reply; set by the router.
    """

    sender: AgentId = SUPERVISOR
    to: AgentId = SUPERVISOR
    content: Any = None
    id: int = 0
    reply_to: int | None = None
    topic: str | None = None
    is_question: bool = False


# -- between an agent and its model -------------------------------------------

StopReason: TypeAlias = Literal[
    "end_turn", "tool_use", "max_tokens", "stop_sequence", "refusal", "pause_turn"
]
"""Why an answer stopped; after `pause_turn` the model goes on when it is sent the answer so far."""


@attrs.frozen
class ProviderData:
    """What only one provider understands, and wants back unchanged: signed thinking, reasoning items.

    It is kept in transcripts, recordings and journals, and goes back only to the driver that made it.

    Attributes:
      provider: which dialect it belongs to, such as `anthropic`.
      model: the model that said it.
      data: JSON data, which nobody but the driver reads.
    """

    provider: str
    model: str
    data: Any = attrs.field(repr=False)


@attrs.frozen
class ToolCall:
    """A model's wish to have a tool called.

    Attributes:
      id: the model's name for this call; the result carries it.
      name: the tool's name.
      input: the arguments as the model gave them, not yet validated.
      provider_data: what the provider hung on the call and wants back.
      problem: why the arguments could not be read, as the model is told; then `input` is empty, and
        the call is not run. Empty if all is well.
    """

    id: str
    name: str
    input: Mapping[str, Any] = attrs.field(factory=dict)
    provider_data: ProviderData | None = None
    problem: str = ""


@attrs.frozen
class ToolResult:
    """What a tool call came to, as the model is told: text, or parts of which some are files.

    Raises:
      TypeError: if `content` is neither text nor parts.
    """

    content: Content = attrs.field(converter=as_content)
    is_error: bool = False

    @property
    def text(self) -> str:
        """The content as text; a line stands for each picture and document."""
        return text_of(self.content)


@attrs.frozen(slots=False)
class ToolDefinition:
    """A tool as a model sees it: its name, what it does, and the JSON schema of its arguments."""

    name: str
    description: str
    input_schema: Mapping[str, Any]

    @functools.cached_property
    def schema_text(self) -> str:
        """The schema as text, by which its length is estimated; each agent asks for it anew."""
        return repr(self.input_schema)

    @functools.cached_property
    def sound_schema(self) -> Mapping[str, Any]:
        """The schema, made well-formed; a tool is offered in each request."""
        return sound_schema(self.input_schema)


# `tuple` itself, as a converter, would leave type checkers with a type variable.
def _calls(values: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    return tuple(values)


def _definitions(values: Iterable[ToolDefinition]) -> tuple[ToolDefinition, ...]:
    return tuple(values)


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


def _whole_content(message: UserMessage) -> str:
    return text_of(message.content)


@attrs.frozen
class UserMessage:
    """Something said to the model.

    Attributes:
      content: what the model reads: text, or parts of which some are files.
      kind: what it is: the agent's `query`, a `message` of another agent, what memory gave
        (`recall`), a `note` of the loop itself, or the `summary` of what came before.
      body: the bare text, where `content` says more around it (who sent it, for instance);
        left out, it is the text of `content`. A script's placeholders show this.
      kept: of a summary: how many messages before it, other summaries not counted, it does not sum up,
        so that the model is shown them beside it.

    Raises:
      TypeError: if `content` is neither text nor parts.
    """

    content: Content = attrs.field(converter=as_content)
    kind: Literal["query", "message", "recall", "note", "summary"] = "query"
    body: str = attrs.field(default=attrs.Factory(_whole_content, takes_self=True))
    kept: int = 0


@attrs.frozen
class AssistantMessage:
    """Something that the model said, with the tool calls it wished for.

    Attributes:
      text: what it said.
      tool_calls: the calls that it wished for.
      reasoning: what it thought before, where the provider tells that.
      provider_data: what the provider wants back with this message.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = attrs.field(default=(), converter=_calls)
    reasoning: str = ""
    provider_data: ProviderData | None = None


@attrs.frozen
class ToolMessage:
    """The result of one tool call; each call of an `AssistantMessage` gets exactly one."""

    call_id: str
    name: str
    result: ToolResult


ChatMessage: TypeAlias = UserMessage | AssistantMessage | ToolMessage


ToolChoice: TypeAlias = str
"""`auto` (the model decides), `required` (it must call one), `none`, or the name of the tool to call."""

Reasoning: TypeAlias = str | int
"""How much a model thinks: an effort such as `low`, `medium`, `high`, or a budget in tokens; 0 is none."""


@attrs.frozen(slots=False)
class CompletionRequest:
    """One question to a model.

    Attributes:
      model: the model's name as its provider knows it; empty leaves the choice to the driver.
      messages: the conversation; immutable, and shared between the requests of one agent.
      tools: what the model may call.
      max_tokens: how many tokens the answer may have at the most.
      temperature: 0 to 2; None leaves it to the provider.
      system: the system prompt; empty means none.
      stop: strings that end the answer.
      tool_choice: `auto`, `required`, `none` or the name of a tool; None leaves it to the provider,
        which is `auto` everywhere.
      parallel_tool_calls: whether an answer may hold several calls.
      output_schema: the JSON schema that the answer's text has to fit; None for free text.
      reasoning: how much the model thinks: an effort such as `low` or `high`, or a budget in
        tokens, with 0 for none; None leaves it to the provider.
      options: what else is sent, by the provider's own names, such as `seed` or `top_p`.
    """

    model: str = ""
    messages: Sequence[ChatMessage] = ()
    tools: tuple[ToolDefinition, ...] = attrs.field(default=(), converter=_definitions)
    max_tokens: int = 4096
    temperature: float | None = None
    system: str = ""
    stop: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    output_schema: Mapping[str, Any] | None = None
    reasoning: Reasoning | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)


def _implied_stop_reason(completion: Completion) -> StopReason:
    return "tool_use" if completion.tool_calls else "end_turn"


@attrs.frozen
class Completion:
    """A model's answer.

    Attributes:
      text: what it said.
      tool_calls: the calls that it wishes for.
      stop_reason: why it stopped; left out, it follows from the content.
      usage: what the call used.
      reasoning: what it thought before it spoke, where the provider tells that.
      provider_data: what the provider wants back with this answer in later requests.
      response_id: the provider's name for this answer.
      served_model: the model that answered, as the provider calls it.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = attrs.field(default=(), converter=_calls)
    stop_reason: StopReason = attrs.field(default=attrs.Factory(_implied_stop_reason, takes_self=True))
    usage: TokenUsage = NO_USAGE
    reasoning: str = ""
    provider_data: ProviderData | None = None
    response_id: str | None = None
    served_model: str | None = None

    @property
    def message(self) -> AssistantMessage:
        """The answer as a part of the conversation."""
        return AssistantMessage(self.text, self.tool_calls, self.reasoning, self.provider_data)


@attrs.frozen
class TextDelta:
    """A piece of an answer's text, as it arrives."""

    text: str


@attrs.frozen
class ReasoningDelta:
    """A piece of what the model thinks before it answers, as it arrives."""

    text: str


StreamPart: TypeAlias = TextDelta | ReasoningDelta | Completion
"""What a driver's stream yields: deltas of text and of reasoning, and at its end the `Completion`, once."""


def check_reply(replier: AgentId, message: AgentMessage) -> None:
    """Check that an agent may reply to a message.

    Raises:
      TypeError: if it is no message.
      ValueError: if the message was not sent to the replier.
    """
    if not isinstance(message, AgentMessage):
        raise TypeError(f"reply takes the message that is answered, and the answer, not {shown(message)}")
    if message.to != replier:
        raise ValueError(
            f"agent {replier} cannot reply to message {message.id}, which was sent to agent {message.to}"
        )
