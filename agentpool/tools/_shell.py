"""`run_shell` and `run_python`: commands in a sandbox."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from agentpool._blocking import run_blocking
from agentpool._core.capability import Capability, ComputeCapability, ShellCapability
from agentpool._core.commands import Captured, CommandError, Ending, command_argv, output_text, told_ending
from agentpool._core.errors import ToolError
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import ToolDefinition, ToolResult
from agentpool._core.sandboxing import Roots
from agentpool.abc import Tool, ToolContext
from agentpool.tools._function import FunctionTool, tool
from agentpool.tools._host import sandbox_report
from agentpool.tools._links import links
from agentpool.tools._processes import MOST_BYTES, run_job
from agentpool.tools._sandbox import Sandbox, python_command


class CommandRunner:
    """`run_shell` and `run_python` of one agent."""

    def __init__(self, manifest: AgentManifest) -> None:
        """Keep what its commands may do.

        Args:
          manifest: what the agent is; its capabilities, `sandbox`, `commands` and `privacy` count.
        """
        self._sandbox = Sandbox.of(manifest)
        self._allowed = frozenset(
            name
            for each in manifest.capabilities
            if isinstance(each, ShellCapability)
            for name in each.allowed_commands
        )

    @property
    def shell(self) -> Tool:
        """The tool `run_shell`, with a description of what it may do."""
        kind = (
            "The command is a line for `sh`."
            if "*" in self._allowed
            else "There is no shell: no pipes, variables, patterns or redirections. The commands are: "
            + (", ".join(sorted(self._allowed)) or "none")
            + "."
        )
        return DescribedTool(self.run_shell, kind + " " + self._told())

    @property
    def python(self) -> Tool:
        """The tool `run_python`, with a description of what it may do."""
        return DescribedTool(self.run_python, self._told())

    def _told(self) -> str:
        limits = self._sandbox.limits
        where = (
            f"It runs in a sandbox with {self._sandbox.network_told}, and sees the system's programs, the"
            " directories that you may read or write, and an empty /tmp, which is gone afterwards."
            if self._sandbox.kind == "bubblewrap"
            else "It runs without a sandbox."
        )
        return f"{where} It may take {limits.timeout} seconds and {limits.memory_mb} MiB of memory."

    @tool(capability=ShellCapability(()), timeout=math.inf)
    async def run_shell(self, command: str, timeout: int | None = None, cwd: str | None = None) -> ToolResult:
        """Run a command, and show what it writes and how it ended. It gets no input.

        When it ends, whatever it has started in the background is killed.

        Args:
          command: the command.
          timeout: seconds after which it is stopped; left out, as many as it may take.
          cwd: the directory in which it is run; left out, the first one that you may write or read.
        """
        try:
            argv = command_argv(command, self._allowed)
        except CommandError as error:
            raise ToolError(str(error)) from None
        return await self._run(argv, timeout, cwd)

    @tool(capability=ComputeCapability(), timeout=math.inf)
    async def run_python(self, code: str, timeout: int | None = None, cwd: str | None = None) -> ToolResult:
        """Run a Python program, and show what it prints and how it ended. It gets no input.

        Each call is a new process: nothing is kept from one to the next but files. The value of the last
        expression is not shown; print it.

        Args:
          code: the program.
          timeout: seconds after which it is stopped; left out, as many as it may take.
          cwd: the directory in which it is run; left out, the first one that you may write or read.
        """
        try:
            code.encode()
        except UnicodeEncodeError as error:
            raise ToolError(f"the code is not valid text: {error.reason}") from None
        return await self._run(python_command(), timeout, cwd, code)

    async def _run(
        self, argv: list[str], timeout: int | None, cwd: str | None, code: str | None = None
    ) -> ToolResult:
        most = self._sandbox.limits.timeout
        if timeout is not None and not 1 <= timeout <= most:
            raise ToolError(f"timeout is a number of seconds from 1 to {most}")
        seconds = most if timeout is None else timeout

        def prepare() -> tuple[Any, Roots]:
            report = sandbox_report()
            roots = self._sandbox.roots()
            if self._sandbox.kind == "bubblewrap":  # without one it may write anywhere
                links.commands_may_write(roots.write)
            place = self._sandbox.directory(cwd, roots)
            job = self._sandbox.job(report, argv, roots=roots, cwd=place, timeout=seconds, code=code)
            return job, roots

        job, roots = await run_blocking(prepare)
        captured, ending = await run_job(job)
        return self._result(captured, ending, roots, seconds)

    def _result(self, captured: Captured, ending: Ending, roots: Roots, seconds: float) -> ToolResult:
        limits = self._sandbox.limits
        told = {
            "timeout": f"{seconds:g} seconds",
            "memory": f"{limits.memory_mb} MiB",
            "processes": f"{limits.processes}",
            "output": f"{MOST_BYTES // 1024 // 1024} MiB",
        }
        lines = []
        if ending.why != "setup" or not ending.problem:
            lines.append(output_text(captured).rstrip("\n"))
        lines.append(_bracketed(told_ending(ending, told.get(ending.why, ""))))
        if roots.missing:
            lines.append(_bracketed(f"not there, and so not in the sandbox: {', '.join(roots.missing)}"))
        text = "\n".join(line for line in lines if line)
        return ToolResult(text or "[no output]", is_error=not ending.is_success)


def _bracketed(text: str) -> str:
    return f"[{text}]" if text else ""


@attrs.frozen
class DescribedTool:
    """A tool with more in its description than its docstring knows: what one agent may do with it."""

    inner: FunctionTool[..., Any]
    more: str

    @property
    def definition(self) -> ToolDefinition:
        """How the model sees it."""
        known = self.inner.definition
        return attrs.evolve(known, description=f"{known.description}\n\n{self.more}")

    @property
    def name(self) -> str:
        """The name that the model uses."""
        return self.inner.name

    @property
    def capability(self) -> Capability | None:
        """What a manifest must grant for it."""
        return self.inner.capability

    @property
    def timeout(self) -> float | None:
        """How many seconds a call may take."""
        return self.inner.timeout

    @property
    def idempotent(self) -> bool:
        """Whether a call may be made again if nobody knows whether it had happened."""
        return self.inner.idempotent

    def taken(self, arguments: Mapping[str, Any]) -> Mapping[str, Any] | ToolResult:
        """Return the arguments as `call` takes them."""
        return self.inner.taken(arguments)

    async def call(self, ctx: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Check the arguments and do it.

        Checkpoint, cancellation: as the tool does.
        """
        return await self.inner.call(ctx, arguments)
