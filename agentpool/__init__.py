"""Structured concurrency for many language-model agents, on trio.

Every public name is listed here twice: once for type checkers, once with the module that it is
imported from when it is first asked for. So a program pays only for what it uses, and
`import agentpool` for next to nothing: the hundred attrs classes behind it cost half as much as
importing trio.
"""

import sys as _sys
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from agentpool._core.approval import Answered as Answered
    from agentpool._core.approval import ApprovalRequest as ApprovalRequest
    from agentpool._core.approval import ApprovalRules as ApprovalRules
    from agentpool._core.approval import Approved as Approved
    from agentpool._core.approval import Decision as Decision
    from agentpool._core.approval import Denied as Denied
    from agentpool._core.approval import Question as Question
    from agentpool._core.budget import Budget as Budget
    from agentpool._core.budget import BudgetAmounts as BudgetAmounts
    from agentpool._core.budget import BudgetLimits as BudgetLimits
    from agentpool._core.budget import BudgetStatistics as BudgetStatistics
    from agentpool._core.budget import Reservation as Reservation
    from agentpool._core.capability import BrowserCapability as BrowserCapability
    from agentpool._core.capability import Capability as Capability
    from agentpool._core.capability import ComputeCapability as ComputeCapability
    from agentpool._core.capability import FileReadCapability as FileReadCapability
    from agentpool._core.capability import FileWriteCapability as FileWriteCapability
    from agentpool._core.capability import InferenceCapability as InferenceCapability
    from agentpool._core.capability import McpCapability as McpCapability
    from agentpool._core.capability import MemoryCapability as MemoryCapability
    from agentpool._core.capability import MessagingCapability as MessagingCapability
    from agentpool._core.capability import NetworkCapability as NetworkCapability
    from agentpool._core.capability import PrivacyTier as PrivacyTier
    from agentpool._core.capability import RagCapability as RagCapability
    from agentpool._core.capability import ShellCapability as ShellCapability
    from agentpool._core.capability import SpawnCapability as SpawnCapability
    from agentpool._core.content import Document as Document
    from agentpool._core.content import Image as Image
    from agentpool._core.content import Text as Text
    from agentpool._core.errors import AgentAbortedError as AgentAbortedError
    from agentpool._core.errors import AgentFailedError as AgentFailedError
    from agentpool._core.errors import AgentPoolError as AgentPoolError
    from agentpool._core.errors import AgentTimeoutError as AgentTimeoutError
    from agentpool._core.errors import BudgetExceededError as BudgetExceededError
    from agentpool._core.errors import CapabilityDeniedError as CapabilityDeniedError
    from agentpool._core.errors import ContentRefusedError as ContentRefusedError
    from agentpool._core.errors import ContextTooLongError as ContextTooLongError
    from agentpool._core.errors import DeadlockError as DeadlockError
    from agentpool._core.errors import DriverError as DriverError
    from agentpool._core.errors import DriverUnavailableError as DriverUnavailableError
    from agentpool._core.errors import Finding as Finding
    from agentpool._core.errors import JournalCorruptError as JournalCorruptError
    from agentpool._core.errors import JournalError as JournalError
    from agentpool._core.errors import LeftOpenError as LeftOpenError
    from agentpool._core.errors import LoopHaltedError as LoopHaltedError
    from agentpool._core.errors import MalformedReplyError as MalformedReplyError
    from agentpool._core.errors import ManifestError as ManifestError
    from agentpool._core.errors import McpServerError as McpServerError
    from agentpool._core.errors import MemoryFileError as MemoryFileError
    from agentpool._core.errors import OverloadedError as OverloadedError
    from agentpool._core.errors import PoolClosedError as PoolClosedError
    from agentpool._core.errors import PoolLimitError as PoolLimitError
    from agentpool._core.errors import PriceUnknownError as PriceUnknownError
    from agentpool._core.errors import RateLimitedError as RateLimitedError
    from agentpool._core.errors import RemoteError as RemoteError
    from agentpool._core.errors import ReplayMismatchError as ReplayMismatchError
    from agentpool._core.errors import RequestRejectedError as RequestRejectedError
    from agentpool._core.errors import RestartLimitError as RestartLimitError
    from agentpool._core.errors import RunPausedError as RunPausedError
    from agentpool._core.errors import SessionConflictError as SessionConflictError
    from agentpool._core.errors import SessionError as SessionError
    from agentpool._core.errors import ToolError as ToolError
    from agentpool._core.errors import UnhandledAgentErrors as UnhandledAgentErrors
    from agentpool._core.errors import UnknownAgentError as UnknownAgentError
    from agentpool._core.errors import WorkerLostError as WorkerLostError
    from agentpool._core.errors import WorkerUnavailableError as WorkerUnavailableError
    from agentpool._core.events import AgentFinished as AgentFinished
    from agentpool._core.events import AgentRestarted as AgentRestarted
    from agentpool._core.events import AgentSpawned as AgentSpawned
    from agentpool._core.events import AgentStarted as AgentStarted
    from agentpool._core.events import AgentStuck as AgentStuck
    from agentpool._core.events import ApprovalDecided as ApprovalDecided
    from agentpool._core.events import ApprovalRequested as ApprovalRequested
    from agentpool._core.events import BudgetWarned as BudgetWarned
    from agentpool._core.events import CompletionFinished as CompletionFinished
    from agentpool._core.events import ContextCompacted as ContextCompacted
    from agentpool._core.events import DeadlockSuspected as DeadlockSuspected
    from agentpool._core.events import Event as Event
    from agentpool._core.events import GuardWarned as GuardWarned
    from agentpool._core.events import LoopFinished as LoopFinished
    from agentpool._core.events import MessageDeadLettered as MessageDeadLettered
    from agentpool._core.events import MessageSent as MessageSent
    from agentpool._core.events import ModelCallFinished as ModelCallFinished
    from agentpool._core.events import ModelCallStarted as ModelCallStarted
    from agentpool._core.events import PhaseChanged as PhaseChanged
    from agentpool._core.events import ReasoningDeltaReceived as ReasoningDeltaReceived
    from agentpool._core.events import TextDeltaReceived as TextDeltaReceived
    from agentpool._core.events import ToolFinished as ToolFinished
    from agentpool._core.events import ToolProgressed as ToolProgressed
    from agentpool._core.events import ToolStarted as ToolStarted
    from agentpool._core.governor import GovernorPolicy as GovernorPolicy
    from agentpool._core.grants import Grants as Grants
    from agentpool._core.guard import LoopGuard as LoopGuard
    from agentpool._core.limits import PoolLimits as PoolLimits
    from agentpool._core.manifest import AgentManifest as AgentManifest
    from agentpool._core.manifest import ModelSettings as ModelSettings
    from agentpool._core.manifest import ResourceQuota as ResourceQuota
    from agentpool._core.manifest import ScriptCall as ScriptCall
    from agentpool._core.manifest import ScriptSettings as ScriptSettings
    from agentpool._core.manifest import ScriptStep as ScriptStep
    from agentpool._core.mcp_servers import McpServer as McpServer
    from agentpool._core.messages import AgentId as AgentId
    from agentpool._core.messages import AgentMessage as AgentMessage
    from agentpool._core.messages import AssistantMessage as AssistantMessage
    from agentpool._core.messages import ChatMessage as ChatMessage
    from agentpool._core.messages import Completion as Completion
    from agentpool._core.messages import CompletionRequest as CompletionRequest
    from agentpool._core.messages import ProviderData as ProviderData
    from agentpool._core.messages import ReasoningDelta as ReasoningDelta
    from agentpool._core.messages import StopReason as StopReason
    from agentpool._core.messages import StreamPart as StreamPart
    from agentpool._core.messages import TextDelta as TextDelta
    from agentpool._core.messages import ToolCall as ToolCall
    from agentpool._core.messages import ToolDefinition as ToolDefinition
    from agentpool._core.messages import ToolMessage as ToolMessage
    from agentpool._core.messages import ToolResult as ToolResult
    from agentpool._core.messages import UserMessage as UserMessage
    from agentpool._core.outcomes import Aborted as Aborted
    from agentpool._core.outcomes import AgentOutcome as AgentOutcome
    from agentpool._core.outcomes import AgentResult as AgentResult
    from agentpool._core.outcomes import Completed as Completed
    from agentpool._core.outcomes import Failed as Failed
    from agentpool._core.restart import Backoff as Backoff
    from agentpool._core.restart import RestartMode as RestartMode
    from agentpool._core.restart import RestartPolicy as RestartPolicy
    from agentpool._core.sandboxing import CommandLimits as CommandLimits
    from agentpool._core.usage import TokenUsage as TokenUsage
    from agentpool._kernel.agent import AgentStatus as AgentStatus
    from agentpool._kernel.context import AgentContext as AgentContext
    from agentpool._kernel.context import Subscription as Subscription
    from agentpool._kernel.events import EventSubscription as EventSubscription
    from agentpool._kernel.events import Overflow as Overflow
    from agentpool._kernel.events import SubscriptionStatistics as SubscriptionStatistics
    from agentpool._kernel.handle import AgentHandle as AgentHandle
    from agentpool._kernel.inbox import Inbox as Inbox
    from agentpool._kernel.inbox import InboxStatistics as InboxStatistics
    from agentpool._kernel.log_filter import AgentLogFilter as AgentLogFilter
    from agentpool._kernel.many import Verdict as Verdict
    from agentpool._kernel.nursery import AgentNursery as AgentNursery
    from agentpool._kernel.opening import open_agent_pool as open_agent_pool
    from agentpool._kernel.placed import Placed as Placed
    from agentpool._kernel.placed import placed as placed
    from agentpool._kernel.pool import AgentPool as AgentPool
    from agentpool._kernel.router import DeadLetter as DeadLetter
    from agentpool._kernel.router import MessageRouter as MessageRouter
    from agentpool._kernel.router import RouterStatistics as RouterStatistics
    from agentpool._kernel.slots import PoolFullError as PoolFullError
    from agentpool._kernel.statistics import PoolStatistics as PoolStatistics
    from agentpool._kernel.statistics import WaitingAgent as WaitingAgent
    from agentpool._kernel.supervisor import ChildSpec as ChildSpec
    from agentpool._kernel.supervisor import Supervisor as Supervisor
    from agentpool._kernel.watcher import StuckAgent as StuckAgent
    from agentpool._loop.model_agent import ModelAgent as ModelAgent
    from agentpool._loop.model_agent import SpawnConfig as SpawnConfig
    from agentpool._loop.resume import resume_agent_pool as resume_agent_pool
    from agentpool._remote.placement import RemotePlacement as RemotePlacement
    from agentpool.abc import Approver as Approver
    from agentpool.abc import AskModel as AskModel
    from agentpool.abc import CallTool as CallTool
    from agentpool.abc import Driver as Driver
    from agentpool.abc import HookContext as HookContext
    from agentpool.abc import Hooks as Hooks
    from agentpool.abc import Journal as Journal
    from agentpool.abc import Memory as Memory
    from agentpool.abc import MemoryFragment as MemoryFragment
    from agentpool.abc import NamespacedMemory as NamespacedMemory
    from agentpool.abc import Placement as Placement
    from agentpool.abc import Pulled as Pulled
    from agentpool.abc import ResumableAgent as ResumableAgent
    from agentpool.abc import Tool as Tool
    from agentpool.abc import ToolContext as ToolContext
    from agentpool.abc import Transport as Transport
    from agentpool.abc import Workers as Workers
    from agentpool.drivers.anthropic import AnthropicDriver as AnthropicDriver
    from agentpool.drivers.gemini import GeminiDriver as GeminiDriver
    from agentpool.drivers.governed import GovernedDriver as GovernedDriver
    from agentpool.drivers.local import LocalDriver as LocalDriver
    from agentpool.drivers.named import ChosenDriver as ChosenDriver
    from agentpool.drivers.named import DriverName as DriverName
    from agentpool.drivers.named import choose_driver as choose_driver
    from agentpool.drivers.named import open_driver as open_driver
    from agentpool.drivers.named import parse_driver_name as parse_driver_name
    from agentpool.drivers.ollama import OllamaDriver as OllamaDriver
    from agentpool.drivers.openai import OpenAIDriver as OpenAIDriver
    from agentpool.drivers.prices import PriceTable as PriceTable
    from agentpool.drivers.recording import RecordingDriver as RecordingDriver
    from agentpool.drivers.recording import ReplayDriver as ReplayDriver
    from agentpool.drivers.retrying import RetryingDriver as RetryingDriver
    from agentpool.drivers.routing import RoutingDriver as RoutingDriver
    from agentpool.drivers.scripted import ScriptedDriver as ScriptedDriver
    from agentpool.fleet import FleetAgent as FleetAgent
    from agentpool.fleet import FleetFile as FleetFile
    from agentpool.fleet import FleetFunction as FleetFunction
    from agentpool.fleet import start_fleet as start_fleet
    from agentpool.journal.sqlite import SqliteJournal as SqliteJournal
    from agentpool.memory.in_memory import InMemory as InMemory
    from agentpool.memory.sqlite import SqliteMemory as SqliteMemory
    from agentpool.sessions import Conversation as Conversation
    from agentpool.sessions import Session as Session
    from agentpool.tools import FunctionTool as FunctionTool
    from agentpool.tools import ToolRegistry as ToolRegistry
    from agentpool.tools import tool as tool
    from agentpool.tools._agent_tool import as_tool as as_tool
    from agentpool.tools._build import build_tools as build_tools
    from agentpool.tools._handoff import handoff_to as handoff_to
    from agentpool.tools._host import SandboxReport as SandboxReport
    from agentpool.tools._host import sandbox_report as sandbox_report
    from agentpool.tools._kept import KeptResults as KeptResults
    from agentpool.tools._redact import Redact as Redact

_HOMES = {
    "agentpool._kernel.agent": """
        AgentStatus
    """,
    "agentpool._kernel.handle": """
        AgentHandle
    """,
    "agentpool._kernel.watcher": """
        StuckAgent
    """,
    "agentpool._kernel.context": """
        AgentContext Subscription
    """,
    "agentpool._core.approval": """
        Answered ApprovalRequest ApprovalRules Approved Decision Denied Question
    """,
    "agentpool._core.budget": """
        Budget BudgetAmounts BudgetLimits BudgetStatistics Reservation
    """,
    "agentpool._core.capability": """
        BrowserCapability Capability ComputeCapability FileReadCapability FileWriteCapability
        InferenceCapability McpCapability MemoryCapability MessagingCapability NetworkCapability PrivacyTier
        RagCapability ShellCapability SpawnCapability
    """,
    "agentpool._core.content": """
        Document Image Text
    """,
    "agentpool._core.errors": """
        AgentAbortedError AgentFailedError AgentPoolError AgentTimeoutError BudgetExceededError
        CapabilityDeniedError ContentRefusedError ContextTooLongError DeadlockError DriverError
        DriverUnavailableError Finding JournalCorruptError JournalError LeftOpenError LoopHaltedError
        MalformedReplyError ManifestError McpServerError MemoryFileError OverloadedError PoolClosedError
        PoolLimitError PriceUnknownError RateLimitedError ReplayMismatchError RequestRejectedError
        RemoteError RestartLimitError RunPausedError SessionConflictError SessionError ToolError
        UnhandledAgentErrors UnknownAgentError WorkerLostError WorkerUnavailableError
    """,
    "agentpool._core.events": """
        AgentFinished AgentRestarted AgentSpawned AgentStarted AgentStuck ApprovalDecided ApprovalRequested
        BudgetWarned CompletionFinished ContextCompacted DeadlockSuspected Event GuardWarned
        LoopFinished MessageDeadLettered MessageSent ModelCallFinished ModelCallStarted PhaseChanged
        ReasoningDeltaReceived TextDeltaReceived ToolFinished ToolProgressed
        ToolStarted
    """,
    "agentpool._core.governor": """
        GovernorPolicy
    """,
    "agentpool._core.grants": "Grants",
    "agentpool._core.guard": """
        LoopGuard
    """,
    "agentpool._core.limits": """
        PoolLimits
    """,
    "agentpool._core.manifest": """
        AgentManifest ModelSettings ResourceQuota ScriptCall ScriptSettings ScriptStep
    """,
    "agentpool._core.mcp_servers": "McpServer",
    "agentpool._core.messages": """
        AgentId AgentMessage AssistantMessage ChatMessage Completion CompletionRequest ProviderData
        ReasoningDelta StopReason StreamPart TextDelta ToolCall ToolDefinition ToolMessage ToolResult
        UserMessage
    """,
    "agentpool._core.outcomes": """
        Aborted AgentOutcome AgentResult Completed Failed
    """,
    "agentpool._core.restart": """
        Backoff RestartMode RestartPolicy
    """,
    "agentpool._core.sandboxing": """
        CommandLimits
    """,
    "agentpool._core.usage": """
        TokenUsage
    """,
    "agentpool._kernel.events": """
        EventSubscription Overflow SubscriptionStatistics
    """,
    "agentpool._loop.model_agent": """
        ModelAgent SpawnConfig
    """,
    "agentpool._kernel.log_filter": """
        AgentLogFilter
    """,
    "agentpool._kernel.many": """
        Verdict
    """,
    "agentpool._kernel.nursery": """
        AgentNursery
    """,
    "agentpool._kernel.opening": """
        open_agent_pool
    """,
    "agentpool._kernel.placed": """
        Placed placed
    """,
    "agentpool._kernel.pool": """
        AgentPool
    """,
    "agentpool._loop.resume": """
        resume_agent_pool
    """,
    "agentpool._kernel.statistics": """
        PoolStatistics WaitingAgent
    """,
    "agentpool._kernel.inbox": """
        Inbox InboxStatistics
    """,
    "agentpool._kernel.router": """
        DeadLetter MessageRouter RouterStatistics
    """,
    "agentpool._kernel.slots": """
        PoolFullError
    """,
    "agentpool._kernel.supervisor": """
        ChildSpec Supervisor
    """,
    "agentpool._remote.placement": """
        RemotePlacement
    """,
    "agentpool.abc": """
        Approver AskModel CallTool Driver HookContext Hooks Journal Memory MemoryFragment NamespacedMemory
        Placement Pulled ResumableAgent Tool ToolContext Transport Workers
    """,
    "agentpool.journal.sqlite": """
        SqliteJournal
    """,
    "agentpool.drivers.anthropic": """
        AnthropicDriver
    """,
    "agentpool.drivers.governed": """
        GovernedDriver
    """,
    "agentpool.drivers.local": """
        LocalDriver
    """,
    "agentpool.drivers.named": """
        ChosenDriver DriverName choose_driver open_driver parse_driver_name
    """,
    "agentpool.drivers.gemini": """
        GeminiDriver
    """,
    "agentpool.drivers.ollama": """
        OllamaDriver
    """,
    "agentpool.drivers.openai": """
        OpenAIDriver
    """,
    "agentpool.drivers.prices": """
        PriceTable
    """,
    "agentpool.drivers.recording": """
        RecordingDriver ReplayDriver
    """,
    "agentpool.drivers.retrying": """
        RetryingDriver
    """,
    "agentpool.drivers.routing": """
        RoutingDriver
    """,
    "agentpool.drivers.scripted": """
        ScriptedDriver
    """,
    "agentpool.fleet": """
        FleetAgent FleetFile FleetFunction start_fleet
    """,
    "agentpool.memory.in_memory": """
        InMemory
    """,
    "agentpool.memory.sqlite": """
        SqliteMemory
    """,
    "agentpool.sessions": """
        Conversation Session
    """,
    "agentpool.tools": """
        FunctionTool ToolRegistry tool
    """,
    "agentpool.tools._agent_tool": """
        as_tool
    """,
    "agentpool.tools._handoff": """
        handoff_to
    """,
    "agentpool.tools._build": """
        build_tools
    """,
    "agentpool.tools._kept": """
        KeptResults
    """,
    "agentpool.tools._redact": """
        Redact
    """,
    "agentpool.tools._host": """
        SandboxReport sandbox_report
    """,
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


if not _TYPE_CHECKING:  # with it, no misspelt name would be noticed
    # For `from agentpool import *`, which imports everything. Type checkers know no computed `__all__`.
    globals()["__all__"] = sorted(_HOME_OF)

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        _import_module(_HOME_OF[name])
        _publish()
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})


def _publish() -> None:
    """Make the names of the modules that are loaded by now ours.

    Tracebacks and documentation then show `agentpool.AgentPool`, and not the file that it happens
    to be defined in.
    """
    for name, home in _HOME_OF.items():
        module = _sys.modules.get(home)
        if name in globals() or not hasattr(module, name):
            continue
        value = globals()[name] = getattr(module, name)
        if getattr(value, "__module__", "").startswith("agentpool."):
            try:
                value.__module__ = __name__
            except (AttributeError, TypeError):
                pass  # a union of types
