"""The table `[[mcp_servers]]`: a server of tools, how it is reached, and what is taken of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import attrs

from agentpool._core.mcp import problem_of_url
from agentpool._core.rules import (
    Choice,
    FilePath,
    Json,
    ListOf,
    Number,
    Problem,
    Report,
    Schema,
    Switch,
    Table,
    Text,
    Whole,
    as_texts,
    choice,
    fold_name,
    join_key,
)

Transport: TypeAlias = Literal["stdio", "streamable-http"]

# Streamable HTTP has several spellings in the wild; capitals, - and _ make no difference in a file.
_TRANSPORTS: dict[str, Transport] = {
    "stdio": "stdio",
    "streamable-http": "streamable-http",
    "streamable_http": "streamable-http",
    "http": "streamable-http",
}
_GONE_TRANSPORTS = ("sse", "websocket")


def _as_transport(value: str) -> Transport:
    # What is no transport is left as it is: the rule refuses it in words.
    transport: Any = _TRANSPORTS.get(value, value) if isinstance(value, str) else value
    return cast(Transport, transport)


class TransportRule(Choice):
    """How an MCP server is reached. What MCP once had is told apart from what it never had."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the transport."""
        if isinstance(value, str) and fold_name(value) in _GONE_TRANSPORTS:
            fix = "Use streamable-http, which most such servers have by now, or stdio"
            return report.add(key, f"'{value}' is gone from MCP", fix)
        return super().read(value, key, report)


class TextTable(Json):
    """A table of texts, such as headers; `secret` values are not shown."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the table as it is."""
        if not isinstance(value, Mapping):
            return report.add_type(key, value, "a table")
        for name, item in value.items():
            place = join_key(key, str(name))
            if not isinstance(item, str):
                report.add_type(place, item, "a string")
            elif _UNSENDABLE.search(f"{name}{item}"):
                report.add(place, "holds a line break or another control character", "Write it on one line")
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of a table of texts."""
        return {"type": "object", "additionalProperties": {"type": "string"}}


_UNSENDABLE = re.compile(r"[\0\r\n]")


class CommandLine(ListOf):
    """A program and its arguments, each by itself: no shell takes a line apart."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the words as a tuple."""
        if isinstance(value, str) and value.strip() and report.from_file:
            words = json.dumps(value.split(), ensure_ascii=False)
            return report.add_type(key, value, "an array", f"Give the program and each argument: {words}")
        words = super().read(value, key, report)
        for number, word in enumerate(words if isinstance(words, tuple) else ()):
            if isinstance(word, str) and "\0" in word:
                report.add(join_key(key, number), "holds a NUL, which no program can get", "Leave it out")
        return words


class Variables(TextTable):
    """Variables of a process's environment."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the table as it is."""
        for name in value if isinstance(value, Mapping) else ():
            if not name or "=" in name:
                fix = 'Write NAME = "value"'
                report.add(join_key(key, str(name)), "is no name of a variable", fix)
        return super().read(value, key, report)


@attrs.frozen
class McpServer(Table):
    """A server of tools that is reached over the Model Context Protocol."""

    name: str = attrs.field(
        validator=Text("A name, for capabilities to refer to", blank=False, one_line=True)
    )
    transport: Transport = attrs.field(
        converter=_as_transport,
        validator=TransportRule(
            "How it is reached; stdio starts a process, streamable-http uses the network",
            values=_TRANSPORTS,
        ),
    )
    command: tuple[str, ...] = attrs.field(
        default=(),
        converter=as_texts,
        validator=CommandLine("The program that stdio starts, and its arguments", item=Text()),
    )
    url: str | None = attrs.field(
        default=None, validator=Text("Where streamable-http connects to", blank=False, optional=True)
    )
    capabilities: tuple[str, ...] = attrs.field(
        default=("*",),
        converter=as_texts,
        validator=ListOf(
            "The names of its tools that are taken, of those that the agent is granted; `*` is any",
            item=Text(blank=False),
        ),
    )
    env: Mapping[str, str] = attrs.field(
        factory=dict,
        hash=False,
        repr=False,
        kw_only=True,
        validator=Variables(
            "Variables for the environment of stdio's process; `${NAME}` in a value is a variable of ours"
        ),
    )
    cwd: str | None = attrs.field(
        default=None,
        kw_only=True,
        validator=FilePath("The directory in which stdio starts the program", optional=True),
    )
    headers: Mapping[str, str] = attrs.field(
        factory=dict,
        hash=False,
        repr=False,
        kw_only=True,
        validator=TextTable(
            "Headers that go with each request of streamable-http; `${NAME}` in a value is a variable of our"
            " environment"
        ),
    )
    auth: Literal["oauth"] | None = attrs.field(
        default=None,
        kw_only=True,
        validator=Choice(
            "How streamable-http shows who asks, if not by `headers`", values=choice("oauth"), optional=True
        ),
    )
    timeout: float = attrs.field(
        default=120.0, kw_only=True, validator=Number("Seconds that a call may take", above=0)
    )
    start_timeout: float = attrs.field(
        default=30.0,
        kw_only=True,
        validator=Number("Seconds that the server has to be there and to list its tools", above=0),
    )
    max_result_bytes: int = attrs.field(
        default=4 * 1024 * 1024,
        kw_only=True,
        validator=Whole("How long a message of the server may be, in bytes", at_least=1024),
    )
    pin: str | None = attrs.field(
        default=None,
        kw_only=True,
        validator=FilePath(
            "A file that keeps what was approved of its tools: one that has changed is refused",
            optional=True,
        ),
    )
    required: bool = attrs.field(
        default=True,
        kw_only=True,
        validator=Switch("Whether an agent fails that cannot have its tools, or goes on without them"),
    )

    @classmethod
    def unknown(cls, name: str, table: Mapping[str, Any]) -> tuple[str, str]:
        """Return what to say about a key that is none; `args` is one in the files of other programs."""
        if fold_name(name) in ("args", "arguments"):
            fix = 'Write them behind the program: command = ["program", "argument"]'
            return "has no place of its own", fix
        return super().unknown(name, table)

    @classmethod
    def build(cls, values: Mapping[str, Any], report: Report) -> McpServer:
        """Make the server: one of a file starts in the file's directory, if nothing else is said."""
        if report.base is not None and values["transport"] == "stdio":
            values = {"cwd": str(report.base), **values}
        return cls(**values)

    @classmethod
    def conflicts(cls, values: Any) -> Iterator[Problem]:
        """Yield a problem if the transport does not know where to go, and for keys of the other one."""
        if values.transport == "stdio":
            if values.command == ():
                fix = 'Give it as ["program", "argument"]'
                yield Problem("command", "is missing: stdio starts a program", fix)
            yield from _out_of_place(values, "stdio", ("url", "headers", "auth"))
        elif values.transport == "streamable-http":
            if values.url is None:
                yield Problem(
                    "url", f"is missing: {values.transport} connects to one", "Give the server's URL"
                )
            elif isinstance(values.url, str) and (problem := problem_of_url(values.url)):
                yield Problem("url", problem, "Write https://HOST/PATH; what is secret goes into 'headers'")
            yield from _out_of_place(values, "streamable-http", ("command", "env", "cwd"))
        if values.capabilities == ():
            yield Problem("capabilities", "takes no tool of the server", "Name some, or leave it out")
        if isinstance(values.command, tuple) and "" in values.command[:1]:
            yield Problem("command[0]", "is empty", "Give the name of a program")


def _out_of_place(values: Any, transport: str, keys: Sequence[str]) -> Iterator[Problem]:
    for key in keys:
        if getattr(values, key) not in (None, (), {}):
            yield Problem(key, f"has no meaning for {transport}", "Remove it, or change the 'transport'")


def problems_of_names(servers: Sequence[Any]) -> Iterator[Problem]:
    """Yield a problem for each of `mcp_servers` that has the name of an earlier one."""
    seen: set[object] = set()
    for n, server in enumerate(servers):
        if isinstance(server.name, str) and server.name in seen:
            problem = f"'{server.name}' is the name of an earlier server already"
            yield Problem(f"mcp_servers[{n}].name", problem, "Use another name")
        seen.add(server.name)
