"""Variables of a fleet file: `[vars]` declares them, `--var` gives them values, texts use them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs

from agentpool._core.manifest import placeholder_problems
from agentpool._core.rules import (
    UNREADABLE,
    Choice,
    Problem,
    Report,
    Rule,
    Schema,
    Table,
    TableOf,
    Text,
    choice,
    fix_for_name,
    join_key,
    read_table,
)
from agentpool._core.templates import Placeholder, TemplateError, parse_template, render_template

VariableType: TypeAlias = Literal["text", "path"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = {"name": "an agent's name", "path": "a file of 'for_each'"}


@attrs.frozen(kw_only=True)
class VariableSettings(Table):
    """A variable of `[vars]`."""

    default: str | None = attrs.field(
        default=None,
        validator=Text("Its value where `--var` gives none; without it `--var` has to", optional=True),
    )
    type: VariableType = attrs.field(
        default="text",
        validator=Choice(
            "What it is; a default path is relative to this file, one of `--var` to the current directory",
            values=choice("text", "path"),
        ),
    )
    description: str = attrs.field(default="", validator=Text("What it is for, for people"))


class VariablesRule(Rule):
    """The table `[vars]`: for each name its default, or a table of settings."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the variables that can be told; one that is wrong is there, but unreadable."""
        if not isinstance(value, Mapping):
            return report.add_type(key, value, "a table")
        return {name: self._variable(name, item, join_key(key, name), report) for name, item in value.items()}

    def _variable(self, name: str, value: Any, key: str, report: Report) -> Any:
        if isinstance(value, VariableSettings):
            return value
        if not _NAME.fullmatch(name):
            fix = "Use letters, digits and '_', not beginning with a digit"
            return report.add(key, f"{name!r} cannot be the name of a variable", fix)
        if name in _RESERVED:
            return report.add(key, f"{{{name}}} is {_RESERVED[name]} already", "Use another name")
        if isinstance(value, str):
            return VariableSettings(default=value)
        if not isinstance(value, Mapping):
            return report.add_type(key, value, "a string or a table")
        return read_table(VariableSettings, value, key, report)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of the table."""
        table = TableOf(cls=VariableSettings).schema(defs)
        one = {"oneOf": [{"type": "string"}, table]}
        names = {"pattern": f"^{_NAME.pattern}$", "not": {"enum": list(_RESERVED)}}
        return {"type": "object", "propertyNames": names, "additionalProperties": one}


@attrs.define(eq=False)
class Variables:
    """The variables of one fleet file and their values.

    Attributes:
      report: takes the problems.
      values: of each variable; what stands for a value that is not known is `UNREADABLE`.
      paths: the names of those that are paths.
      used: the names that stand somewhere in the file.
      complete: whether all names could be told.
    """

    report: Report
    values: dict[str, Any] = attrs.field(factory=dict)
    paths: set[str] = attrs.field(factory=set)
    used: set[str] = attrs.field(factory=set)
    complete: bool = True

    @classmethod
    def of(cls, declared: Any, given: Mapping[str, str], directory: Path, report: Report) -> Variables:
        """Give each variable that a file declares its value, and report what is wrong.

        Args:
          declared: what was read of `[vars]`.
          given: what `--var` says.
          directory: that of the file, which default paths are relative to.
          report: takes the problems.
        """
        self = cls(report, complete=declared is not UNREADABLE)
        settings: Mapping[str, Any] = declared if self.complete else {}
        for name, setting in settings.items():
            key = join_key("vars", name)
            self.values[name] = self._value(key, name, setting, given, directory)
            if isinstance(setting, VariableSettings) and setting.type == "path":
                self.paths.add(name)
        for name in given:
            if name not in settings and self.complete:
                fix = fix_for_name(name, settings) if settings else "This file has no [vars]: leave it out"
                report.add(join_key("vars", name), "is given a value, but there is no such variable", fix)
        return self

    def _value(self, key: str, name: str, setting: Any, given: Mapping[str, str], directory: Path) -> Any:
        if not isinstance(setting, VariableSettings):
            return UNREADABLE
        value = given.get(name, setting.default)
        if value is None:
            told = f" ({setting.description})" if setting.description else ""
            return self.report.add(key, "has no value", f"Give it one with --var {name}=VALUE{told}")
        if setting.type == "text":
            return value
        if not value or "\0" in value:
            return self.report.add(key, f"{value!r} is no path", "Give the path of a file or directory")
        value = os.path.expanduser(value)  # a shell leaves the ~ of `--var name=~/path` as it is
        return value if name in given else _seen_from_here(directory, value)

    # -- texts that use them

    def check(self, key: str, text: str, *more: str, paths: bool = True) -> bool:
        """Report each placeholder of a text that has no meaning; return whether there was none.

        Args:
          key: where the text stands.
          text: the text.
          more: the names that have a value beside the variables.
          paths: whether a variable that is a path may stand in it.
        """
        problems = list(self._problems(key, text, more, paths))
        for problem in problems:
            self.report.add(problem.key, problem.text, problem.fix)
        return not problems

    def _problems(self, key: str, text: str, more: Sequence[str], paths: bool) -> Iterator[Problem]:
        names = [*more, *self.values]
        try:
            parts = [part for part in parse_template(text) if isinstance(part, Placeholder)]
        except TemplateError:
            parts = []
        self.used.update(part.name for part in parts)
        unknown = [part for part in parts if part.name not in names]
        if not unknown or self.complete:
            yield from placeholder_problems(key, text, names)
        for part in parts:
            if not paths and part.name in self.paths:
                yield Problem(
                    key,
                    f"{part} is a path, which is not relative to this file",
                    f"Write it at the beginning, as in {part}/**/*.md",
                )

    def fill(self, text: str, **more: str) -> Any:
        """Return a text that `check` found right, filled; `UNREADABLE` if a variable has no value."""
        values = {**self.values, **more}
        names = [part.name for part in parse_template(text) if isinstance(part, Placeholder)]
        known = all(isinstance(values.get(name), str) for name in names)
        return render_template(text, values) if known else UNREADABLE

    def report_unused(self) -> None:
        """Report the variables that stand nowhere in the file."""
        for name in self.values:
            if name not in self.used:
                fix = f"Write {{{name}}} where its value is to stand, or remove it"
                self.report.add(join_key("vars", name), "is used nowhere", fix)


def _seen_from_here(directory: Path, path: str) -> str:
    """Return a path that is relative to a directory as seen from the current one, without `..` in it."""
    joined = os.path.join(directory, path)
    plain = os.path.normpath(joined)
    # Behind a symbolic link `..` is not what it looks like.
    return plain if os.path.realpath(plain) == os.path.realpath(joined) else joined
