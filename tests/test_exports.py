"""The public face: which names there are, and what importing them costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import agentpool

PUBLIC = """
Aborted AgentAbortedError AgentContext AgentFailedError AgentFinished AgentHandle AgentId AgentLogFilter
AgentManifest AgentMessage AgentNursery AgentOutcome AgentPool AgentPoolError AgentRestarted AgentResult
AgentSpawned AgentStarted AgentStatus AgentStuck AgentTimeoutError Answered AnthropicDriver ApprovalDecided
ApprovalRequest ApprovalRequested ApprovalRules Approved Approver AskModel AssistantMessage Backoff
BrowserCapability Budget BudgetAmounts BudgetExceededError BudgetLimits BudgetStatistics BudgetWarned
CallTool Capability CapabilityDeniedError ChatMessage ChildSpec ChosenDriver CommandLimits Completed
Completion CompletionFinished CompletionRequest ComputeCapability ContentRefusedError ContextCompacted
ContextTooLongError Conversation DeadLetter DeadlockError DeadlockSuspected Decision Denied Document Driver
DriverError DriverName DriverUnavailableError Event EventSubscription Failed FileReadCapability
FileWriteCapability Finding FleetAgent FleetFile FleetFunction FunctionTool GeminiDriver GovernedDriver
GovernorPolicy Grants GuardWarned HookContext Hooks Image InMemory Inbox InboxStatistics InferenceCapability
Journal JournalCorruptError JournalError KeptResults LeftOpenError LocalDriver LoopFinished LoopGuard
LoopHaltedError MalformedReplyError ManifestError McpCapability McpServer McpServerError Memory
MemoryCapability MemoryFileError MemoryFragment MessageDeadLettered MessageRouter MessageSent
MessagingCapability ModelAgent ModelCallFinished ModelCallStarted ModelSettings NamespacedMemory
NetworkCapability OllamaDriver OpenAIDriver Overflow OverloadedError PhaseChanged Placed Placement
PoolClosedError PoolFullError PoolLimitError PoolLimits PoolStatistics PriceTable PriceUnknownError
PrivacyTier ProviderData Pulled Question RagCapability RateLimitedError ReasoningDelta
ReasoningDeltaReceived RecordingDriver Redact RemoteError RemotePlacement ReplayDriver ReplayMismatchError
RequestRejectedError Reservation ResourceQuota RestartLimitError RestartMode RestartPolicy ResumableAgent
RetryingDriver RouterStatistics RoutingDriver RunPausedError SandboxReport ScriptCall ScriptSettings
ScriptStep ScriptedDriver Session SessionConflictError SessionError ShellCapability SpawnCapability
SpawnConfig SqliteJournal SqliteMemory StopReason StreamPart StuckAgent Subscription SubscriptionStatistics
Supervisor Text TextDelta TextDeltaReceived TokenUsage Tool ToolCall ToolContext ToolDefinition ToolError
ToolFinished ToolMessage ToolProgressed ToolRegistry ToolResult ToolStarted Transport UnhandledAgentErrors
UnknownAgentError UserMessage Verdict WaitingAgent WorkerLostError WorkerUnavailableError Workers as_tool
build_tools choose_driver handoff_to open_agent_pool open_driver parse_driver_name placed resume_agent_pool
sandbox_report start_fleet tool
"""


def test_a_star_import_brings_every_public_name() -> None:
    names = run("from agentpool import *; print(*[name for name in dir() if name[0] != '_'])")
    assert sorted(names.split()) == sorted(PUBLIC.split())


# What a user of the library may never need, or has not installed.
LAZY = [
    "httpx2", "httpx", "openai", "anthropic", "ollama",
    "pydantic", "cattrs", "docstring_parser", "rich", "cyclopts",
    "sqlite3", "pytest", "hypothesis", "asyncio", "opentelemetry",
]  # fmt: skip


def test_every_public_name_is_listed_here_and_nothing_else_is_public() -> None:
    names = {name for name in dir(agentpool) if not name.startswith("_")}
    modules = {name for name in names if isinstance(getattr(agentpool, name), type(sys))}
    assert sorted(names - modules) == sorted(PUBLIC.split())


def test_type_checkers_see_the_same_names_as_programs() -> None:
    tree = ast.parse(Path(agentpool.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: node.module for node in imports for alias in node.names} == agentpool._HOME_OF


def test_every_public_name_is_in_the_reference() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reference.md").read_text("utf-8")
    named = set(re.findall(r"(?:auto\w+:: |^\| `)(\w+)", page, re.MULTILINE))
    assert named >= set(PUBLIC.split())


def test_public_names_say_that_they_are_public() -> None:
    hidden = {
        name: getattr(agentpool, name).__module__
        for name in PUBLIC.split()
        if "._" in (getattr(getattr(agentpool, name), "__module__", None) or "")
    }
    assert not hidden


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_library_imports_nothing_that_can_wait() -> None:
    loaded = run(
        "import trio, sys; before = set(sys.modules); import agentpool; print(*set(sys.modules) - before)"
    )
    assert set(loaded.split()).isdisjoint(LAZY)


def test_importing_the_library_costs_at_most_half_as_much_again_as_trio() -> None:
    program = (
        "import time; start = time.process_time(); import trio; middle = time.process_time();"
        "import agentpool; print((time.process_time() - start) / (middle - start))"
    )
    assert min(float(run(program)) for _ in range(5)) <= 1.5
