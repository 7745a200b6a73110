"""Structured concurrency for many language-model agents, on trio."""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING

from agentpool._agent import AgentHandle as AgentHandle
from agentpool._agent import AgentNursery as AgentNursery
from agentpool._agent import AgentStatus as AgentStatus
from agentpool._agent import StuckAgent as StuckAgent
from agentpool._context import AgentContext as AgentContext
from agentpool._context import Subscription as Subscription
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
from agentpool._core.errors import LoopHaltedError as LoopHaltedError
from agentpool._core.errors import MalformedReplyError as MalformedReplyError
from agentpool._core.errors import ManifestError as ManifestError
from agentpool._core.errors import OverloadedError as OverloadedError
from agentpool._core.errors import PoolClosedError as PoolClosedError
from agentpool._core.errors import PoolLimitError as PoolLimitError
from agentpool._core.errors import RateLimitedError as RateLimitedError
from agentpool._core.errors import RequestRejectedError as RequestRejectedError
from agentpool._core.errors import RestartLimitError as RestartLimitError
from agentpool._core.errors import ToolError as ToolError
from agentpool._core.errors import UnhandledAgentErrors as UnhandledAgentErrors
from agentpool._core.errors import UnknownAgentError as UnknownAgentError
from agentpool._core.limits import PoolLimits as PoolLimits
from agentpool._core.messages import AgentId as AgentId
from agentpool._core.messages import AgentMessage as AgentMessage
from agentpool._core.messages import AssistantMessage as AssistantMessage
from agentpool._core.messages import ChatMessage as ChatMessage
from agentpool._core.messages import Completion as Completion
from agentpool._core.messages import CompletionRequest as CompletionRequest
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
from agentpool._core.usage import TokenUsage as TokenUsage
from agentpool._events import EventSubscription as EventSubscription
from agentpool._events import Overflow as Overflow
from agentpool._events import SubscriptionStatistics as SubscriptionStatistics
from agentpool._pool import AgentPool as AgentPool
from agentpool._pool import PoolStatistics as PoolStatistics
from agentpool._pool import WaitingAgent as WaitingAgent
from agentpool._pool import open_agent_pool as open_agent_pool
from agentpool._router import DeadLetter as DeadLetter
from agentpool._router import Inbox as Inbox
from agentpool._router import InboxStatistics as InboxStatistics
from agentpool._router import MessageRouter as MessageRouter
from agentpool._router import RouterStatistics as RouterStatistics
from agentpool._scope import Verdict as Verdict
from agentpool._slots import PoolFullError as PoolFullError

if _TYPE_CHECKING:
    from agentpool._core.budget import Budget as Budget
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
    from agentpool._core.events import AgentFinished as AgentFinished
    from agentpool._core.events import AgentRestarted as AgentRestarted
    from agentpool._core.events import AgentSpawned as AgentSpawned
    from agentpool._core.events import AgentStarted as AgentStarted
    from agentpool._core.events import AgentStuck as AgentStuck
    from agentpool._core.events import BudgetWarned as BudgetWarned
    from agentpool._core.events import CompletionFinished as CompletionFinished
    from agentpool._core.events import DeadlockSuspected as DeadlockSuspected
    from agentpool._core.events import Event as Event
    from agentpool._core.events import GuardWarned as GuardWarned
    from agentpool._core.events import MessageDeadLettered as MessageDeadLettered
    from agentpool._core.events import MessageSent as MessageSent
    from agentpool._core.events import PhaseChanged as PhaseChanged
    from agentpool._core.events import TextDeltaReceived as TextDeltaReceived
    from agentpool._core.events import ToolFinished as ToolFinished
    from agentpool._core.events import ToolStarted as ToolStarted
    from agentpool._core.guard import LoopGuard as LoopGuard
    from agentpool._core.manifest import AgentManifest as AgentManifest
    from agentpool._core.manifest import McpServer as McpServer
    from agentpool._core.manifest import ModelSettings as ModelSettings
    from agentpool._core.manifest import ResourceQuota as ResourceQuota
    from agentpool._core.manifest import ScriptCall as ScriptCall
    from agentpool._core.manifest import ScriptSettings as ScriptSettings
    from agentpool._core.manifest import ScriptStep as ScriptStep
    from agentpool._fleet import FleetAgent as FleetAgent
    from agentpool._fleet import FleetFile as FleetFile
    from agentpool._runtime import SpawnConfig as SpawnConfig
    from agentpool._supervisor import ChildSpec as ChildSpec
    from agentpool._supervisor import Supervisor as Supervisor
    from agentpool.abc import Driver as Driver
    from agentpool.abc import Memory as Memory
    from agentpool.abc import MemoryFragment as MemoryFragment
    from agentpool.abc import Tool as Tool
    from agentpool.abc import ToolContext as ToolContext
    from agentpool.drivers.scripted import ScriptedDriver as ScriptedDriver
    from agentpool.memory.in_memory import InMemory as InMemory
    from agentpool.tools import ToolRegistry as ToolRegistry
    from agentpool.tools import tool as tool

_LAZY = {
    "AgentFinished": "agentpool._core.events",
    "AgentManifest": "agentpool._core.manifest",
    "AgentRestarted": "agentpool._core.events",
    "AgentSpawned": "agentpool._core.events",
    "AgentStarted": "agentpool._core.events",
    "AgentStuck": "agentpool._core.events",
    "BrowserCapability": "agentpool._core.capability",
    "Budget": "agentpool._core.budget",
    "BudgetWarned": "agentpool._core.events",
    "Capability": "agentpool._core.capability",
    "ChildSpec": "agentpool._supervisor",
    "CompletionFinished": "agentpool._core.events",
    "ComputeCapability": "agentpool._core.capability",
    "DeadlockSuspected": "agentpool._core.events",
    "Driver": "agentpool.abc",
    "Event": "agentpool._core.events",
    "FileReadCapability": "agentpool._core.capability",
    "FileWriteCapability": "agentpool._core.capability",
    "FleetAgent": "agentpool._fleet",
    "FleetFile": "agentpool._fleet",
    "GuardWarned": "agentpool._core.events",
    "InMemory": "agentpool.memory.in_memory",
    "InferenceCapability": "agentpool._core.capability",
    "LoopGuard": "agentpool._core.guard",
    "McpCapability": "agentpool._core.capability",
    "McpServer": "agentpool._core.manifest",
    "Memory": "agentpool.abc",
    "MemoryCapability": "agentpool._core.capability",
    "MemoryFragment": "agentpool.abc",
    "MessageDeadLettered": "agentpool._core.events",
    "MessageSent": "agentpool._core.events",
    "MessagingCapability": "agentpool._core.capability",
    "ModelSettings": "agentpool._core.manifest",
    "NetworkCapability": "agentpool._core.capability",
    "PhaseChanged": "agentpool._core.events",
    "PrivacyTier": "agentpool._core.capability",
    "RagCapability": "agentpool._core.capability",
    "Reservation": "agentpool._core.budget",
    "ResourceQuota": "agentpool._core.manifest",
    "ScriptCall": "agentpool._core.manifest",
    "ScriptSettings": "agentpool._core.manifest",
    "ScriptStep": "agentpool._core.manifest",
    "ScriptedDriver": "agentpool.drivers.scripted",
    "ShellCapability": "agentpool._core.capability",
    "SpawnCapability": "agentpool._core.capability",
    "SpawnConfig": "agentpool._runtime",
    "Supervisor": "agentpool._supervisor",
    "TextDeltaReceived": "agentpool._core.events",
    "Tool": "agentpool.abc",
    "ToolContext": "agentpool.abc",
    "ToolFinished": "agentpool._core.events",
    "ToolRegistry": "agentpool.tools",
    "ToolStarted": "agentpool._core.events",
    "tool": "agentpool.tools",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first asked for: what a program does not use costs it nothing."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = value = getattr(import_module(_LAZY[name]), name)
    _put_module_right(value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


def _put_module_right(value: object) -> None:
    """Show `agentpool.AgentPool`, not the file that it happens to be defined in."""
    if getattr(value, "__module__", "").startswith("agentpool."):
        try:
            value.__module__ = __name__
        except (AttributeError, TypeError):
            pass  # a union of types


for _value in list(globals().values()):
    _put_module_right(_value)
del _value
