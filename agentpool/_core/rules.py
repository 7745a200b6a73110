"""What the values of files and of keyword arguments may be: each rule is stated once.

A rule is the attrs validator of its field, so it guards keyword construction; it reads what a TOML
file holds for that field, so it finds a file's problems; and it gives the field's JSON schema. A
class of fields with rules is a table of a file.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import attrs

from agentpool._core.errors import Finding

Schema: TypeAlias = dict[str, Any]


MOST_WHOLE = 2**63 - 1
"""The largest whole number that TOML promises; databases and servers have no larger ones either."""

NAMES_SHOWN = 30
"""So many known names are told to whoever wrote an unknown one; a fleet may have thousands."""

# -- problems -------------------------------------------------------------------


@attrs.frozen
class Problem:
    """One thing that is wrong with a value.

    Attributes:
      key: the path of the value's key.
      text: what is wrong.
      fix: what to do about it.
      error: what a keyword argument with this problem raises.
    """

    key: str
    text: str
    fix: str
    error: type[ValueError] | type[TypeError] = ValueError

    def raised(self) -> ValueError | TypeError:
        """Return the exception for a wrong argument."""
        return self.error(f"{self.key}: {self.text}. {self.fix}")


@attrs.define(eq=False)
class Report:
    """Collects the problems of one file, or of one argument.

    Attributes:
      from_file: whether values are as TOML has them (tables, arrays, strings), not yet ours.
      base: the directory that relative paths of the file refer to.
    """

    from_file: bool = True
    base: Path | None = None
    problems: list[Problem] = attrs.field(factory=list)

    def add(self, key: str, text: str, fix: str) -> Any:
        """Note that a value is wrong; return what stands for it from now on."""
        self.problems.append(Problem(key, text, fix))
        return UNREADABLE

    def add_type(self, key: str, value: object, wanted: str, fix: str = "") -> Any:
        """Note that a value is of the wrong type; return what stands for it from now on."""
        text = f"is {_type_name(value)}, not {wanted}"
        self.problems.append(Problem(key, text, fix or f"Give {wanted}", TypeError))
        return UNREADABLE

    def findings(self, source: str) -> list[Finding]:
        """Return the problems as findings in the file `source`."""
        return [Finding(source, problem.key, problem.text, problem.fix) for problem in self.problems]


class _Unreadable:
    """Stands for a value that was given but is wrong, so that the rest can still be judged.

    It is false, empty, and all its attributes are like it; being given, it is not None.
    """

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __getattr__(self, name: str) -> _Unreadable:
        return self


UNREADABLE: Any = _Unreadable()

_TYPE_NAMES = {
    bool: "a boolean",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "an array",
    tuple: "an array",
    dict: "a table",
    type(None): "None",
}


def _type_name(value: object) -> str:
    return _TYPE_NAMES.get(type(value), f"a {type(value).__name__}")


def join_key(key: str, part: str | int) -> str:
    """Return the path of a key below `key`, such as `agents[2].name`."""
    if isinstance(part, int):
        return f"{key}[{part}]"
    name = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else repr(part)
    return f"{key}.{name}" if key else name


def fix_for_name(name: str, known: Iterable[str]) -> str:
    """Say what to write instead of an unknown name: the closest known one, or which there are."""
    import difflib  # only errors need it

    names = {known_name.lower(): known_name for known_name in known}
    close = difflib.get_close_matches(name.lower(), names, n=1)
    if close:
        return f"Did you mean '{names[close[0]]}'?"
    if not names:
        return "Remove it"
    few = list(names.values())[:NAMES_SHOWN]
    more = f" and {len(names) - len(few):,} more" if len(names) > len(few) else ""
    return f"Known are: {', '.join(few)}{more}"


# -- rules ----------------------------------------------------------------------


# Rules are plain classes: as attrs classes they made importing this module take 10 ms instead of 5.
class Rule:
    """What one value may be. Rules do not change.

    Args:
      doc: what the value means.
      optional: whether a keyword argument may be None; in a file the key is left out.
    """

    def __init__(self, doc: str = "", *, optional: bool = False) -> None:
        self.doc = doc
        self.optional = optional

    def __call__(self, instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        """Validate a keyword argument, as attrs asks for it."""
        if value is None and self.optional:
            return
        report = Report(from_file=False)
        self.read(value, f"{type(instance).__name__}.{attribute.name}", report)
        if report.problems:
            raise report.problems[0].raised()

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the value that a file's `value` stands for; report what is wrong with it."""
        raise NotImplementedError

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the JSON schema of what a file may hold; shared parts go to `defs`."""
        raise NotImplementedError


# Line breaks and controls of terminals; scripts need the other format characters, as emoji do.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def _fix_for_text(value: object, report: Report) -> str:
    """Say how a date, a number or a boolean of a file becomes the text that was meant."""
    written = "true" if value is True else "false" if value is False else str(_brief(value))
    is_scalar = isinstance(value, bool | int | float) or hasattr(value, "isoformat")  # a date or a time
    return f'Give a string: "{written}"' if is_scalar and report.from_file else ""


def _brief(value: object) -> object:
    return "..." if isinstance(value, int) and value.bit_length() > 128 else value


class Text(Rule):
    """A string.

    Args:
      doc: what the value means.
      blank: whether it may be empty, or white space only.
      one_line: whether it has to do without line breaks and control characters.
      optional: as for `Rule`.
    """

    def __init__(
        self, doc: str = "", *, blank: bool = True, one_line: bool = False, optional: bool = False
    ) -> None:
        super().__init__(doc, optional=optional)
        self.blank = blank
        self.one_line = one_line

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the string."""
        if not isinstance(value, str):
            return report.add_type(key, value, "a string", _fix_for_text(value, report))
        if not self.blank and not value.strip():
            return report.add(key, "is empty", "Give at least one character, or leave the key out")
        if self.one_line and _CONTROLS.search(value):
            return report.add(key, "holds a line break or control character", "Write it on one line")
        if broken := _SURROGATES.search(value):
            problem = (
                f"holds half of a character ({ascii(broken[0])[1:-1]}), which no file and no request can"
            )
            return report.add(key, problem, "Write the whole character, or take it out")
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of a string."""
        return {"type": "string"} if self.blank else {"type": "string", "pattern": r"\S"}


_ANY_TEXT = Text()


class FilePath(Rule):
    """A path; in a file it is relative to that file.

    Args:
      doc, optional: as for every rule.
      home: whether `~` at its beginning is kept, for whoever opens the file: the home directory.
    """

    def __init__(self, doc: str = "", *, optional: bool = False, home: bool = False) -> None:
        super().__init__(doc, optional=optional)
        self.home = home

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the path, made absolute if it comes from a file in a known place."""
        if not isinstance(value, str):
            return report.add_type(key, value, "a path")
        if not value or "\0" in value:
            return report.add(key, f"{value!r} is no path", "Give the path of a file or directory")
        if report.base is None or (self.home and value.startswith("~")):
            return value
        return str(report.base / value)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of a path."""
        return {"type": "string", "minLength": 1}


class Reference(Rule):
    """The name of a function in a module, `module:function`."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the reference."""
        if not isinstance(value, str):
            return report.add_type(key, value, "a string 'module:function'")
        module, _, function = value.partition(":")
        if not all(name.isidentifier() for name in (*module.split("."), function)):
            return report.add(key, f"{value!r} names no function", "Write it as 'module:function'")
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of a reference."""
        return {"type": "string", "pattern": r"^[^\s:]+:[^\s:]+$"}


class Whole(Rule):
    """A whole number, from `at_least` to `at_most`."""

    def __init__(
        self, doc: str = "", *, at_least: int = 1, at_most: int | None = None, optional: bool = False
    ) -> None:
        super().__init__(doc, optional=optional)
        self.at_least = at_least
        self.at_most = at_most

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the number; a boolean is none."""
        if not isinstance(value, int) or isinstance(value, bool):
            return report.add_type(key, value, "a whole number")
        most = MOST_WHOLE if self.at_most is None else self.at_most
        if value > most:
            return report.add(key, f"is {_shown(value)}", f"Give a whole number of at most {most}")
        if value < self.at_least:
            return report.add(key, f"is {_shown(value)}", f"Give a whole number of at least {self.at_least}")
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of a whole number."""
        high: Schema = {} if self.at_most is None else {"maximum": self.at_most}
        return {"type": "integer", "minimum": self.at_least, **high}


class Number(Rule):
    """A finite number, from `at_least` (or above `above`) to `at_most`."""

    def __init__(
        self,
        doc: str = "",
        *,
        at_least: float = 0,
        above: float | None = None,
        at_most: float | None = None,
        optional: bool = False,
    ) -> None:
        super().__init__(doc, optional=optional)
        self.at_least = at_least
        self.above = above
        self.at_most = at_most

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the number as a float; a boolean is none."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return report.add_type(key, value, "a number")
        number = _as_float(value)
        if not (math.isfinite(number) and self._in_range(number)):
            return report.add(key, f"is {_shown(value)}", f"Give a number {self._range()}")
        return number

    def _in_range(self, number: float) -> bool:
        above = number >= self.at_least if self.above is None else number > self.above
        return above and (self.at_most is None or number <= self.at_most)

    def _range(self) -> str:
        if self.at_most is not None:
            return f"from {self.at_least:g} to {self.at_most:g}"
        return f"of at least {self.at_least:g}" if self.above is None else f"above {self.above:g}"

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of a number in this range."""
        low: Schema = {"minimum": self.at_least} if self.above is None else {"exclusiveMinimum": self.above}
        high: Schema = {} if self.at_most is None else {"maximum": self.at_most}
        return {"type": "number", **low, **high}


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number that no float can hold
        return math.inf


def _shown(value: float) -> str:
    # str() refuses whole numbers of more than 4300 digits.
    huge = isinstance(value, int) and value.bit_length() > 128
    return "a number of more than 38 digits" if huge else str(value)


class Choice(Rule):
    """One of a few names; in a file capitals, `-` and `_` make no difference.

    Args:
      doc: what the value means.
      values: the names, and the value that each stands for.
      optional: as for `Rule`.
    """

    def __init__(self, doc: str = "", *, values: Mapping[str, Any], optional: bool = False) -> None:
        super().__init__(doc, optional=optional)
        self.values = values

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the value that the name stands for."""
        if not report.from_file and any(value is known or value == known for known in self.values.values()):
            return value
        if not isinstance(value, str):
            return report.add_type(key, value, f"one of {', '.join(self.values)}")
        for name, known in self.values.items():
            if report.from_file and fold_name(name) == fold_name(value):
                return known
        return report.add(key, f"{value!r} is not known here", fix_for_name(value, self.values))

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of the names, however they are capitalized."""
        return names_schema(self.values)


def choice(*names: str) -> dict[str, str]:
    """Return the values of a `Choice` between strings that stand for themselves."""
    return {name: name for name in names}


def fold_name(name: str) -> str:
    """Return a name without the differences that files do not make: FileRead is file_read."""
    return name.lower().replace("_", "").replace("-", "")


def names_schema(names: Iterable[str]) -> Schema:
    """Return the schema of names as `fold_name` takes them; `enum` is there for editors."""
    names = list(names)
    pattern = "|".join("[-_]*".join(map(_any_case, fold_name(name))) for name in names)
    return {"type": "string", "anyOf": [{"enum": names}, {"pattern": f"^({pattern})$"}]}


def _any_case(letter: str) -> str:
    return f"[{letter}{letter.upper()}]"


class Switch(Rule):
    """True or false."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the boolean."""
        return value if isinstance(value, bool) else report.add_type(key, value, "true or false")

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of a boolean."""
        return {"type": "boolean"}


class TextOrWhole(Rule):
    """A string, or a whole number from 0 up."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the string or the number."""
        rule = self._text if isinstance(value, str) else self._whole
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return rule.read(value, key, report)
        return report.add_type(key, value, "a string or a whole number")

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of both."""
        return {"anyOf": [self._text.schema(defs), self._whole.schema(defs)]}

    _text = Text(blank=False)
    _whole = Whole(at_least=0)


class Json(Rule):
    """A table of anything that JSON can say: strings, finite numbers, booleans, arrays, tables."""

    takes_null = False

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the table as it is."""
        if not isinstance(value, Mapping):
            return report.add_type(key, value, "a table")
        self._check(value, key, report)
        return value

    def _check(self, value: Any, key: str, report: Report) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            report.add(key, f"is {value}", "Give a finite number")
        elif isinstance(value, int) and not -MOST_WHOLE - 1 <= value <= MOST_WHOLE:
            fix = f"Give a whole number of at most {MOST_WHOLE}, or write it in quotes"
            report.add(key, f"is {_shown(value)}", fix)
        elif isinstance(value, str) and _SURROGATES.search(value):
            _ANY_TEXT.read(value, key, report)
        elif isinstance(value, Mapping):
            for name, item in value.items():
                self._check(item, join_key(key, str(name)), report)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self._check(item, join_key(key, index), report)
        elif not (isinstance(value, str | int | float) or (value is None and self.takes_null)):
            wanted = "a string, number, boolean, array or table"
            report.add_type(key, value, wanted, _fix_for_text(value, report))

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of any table."""
        return {"type": "object"}


class ListOf(Rule):
    """An array of `at_least` so many items, all of which keep one rule."""

    def __init__(self, doc: str = "", *, item: Rule, at_least: int = 0, optional: bool = False) -> None:
        super().__init__(doc, optional=optional)
        self.item = item
        self.at_least = at_least

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the items as a tuple."""
        if not isinstance(value, list | tuple):
            return report.add_type(key, value, "an array", self._fix_for(value, key, report))
        if len(value) < self.at_least:
            return report.add(key, "is empty", f"Give at least {self.at_least}")
        return tuple(self.item.read(item, join_key(key, n), report) for n, item in enumerate(value))

    @staticmethod
    def _fix_for(value: object, key: str, report: Report) -> str:
        if isinstance(value, Mapping) and report.from_file:
            return f"Give an array: write [[{key}]] for [{key}]"
        return "Give an array: put it in brackets" if isinstance(value, str) and report.from_file else ""

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of the array."""
        size = {"minItems": self.at_least} if self.at_least else {}
        return {"type": "array", "items": self.item.schema(defs), **size}


def as_texts(value: Iterable[str]) -> tuple[str, ...]:
    """Make a tuple of strings, as `as_tuple` does."""
    return as_tuple(value)


def as_tuple(value: Iterable[Any]) -> tuple[Any, ...]:
    """Make a tuple of a list or another iterable, for attrs; the rule refuses what is left.

    A string is left as it is: the tuple of its characters is never what was meant.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return value  # type: ignore[return-value]
    return tuple(value)


# -- tables ---------------------------------------------------------------------


class Table:
    """What several keys of a table may be together. Keys with rules are fields of a subclass."""

    __slots__ = ()

    exactly_one: ClassVar[tuple[str, ...]] = ()
    """Keys of which exactly one is given."""

    goes_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """For a key of `exactly_one`, the keys that must be given beside it."""

    @classmethod
    def prepare(cls, table: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Return a file's table as it is to be read, and where keys were found that have moved."""
        return table, {}

    @classmethod
    def unknown(cls, name: str, table: Mapping[str, Any]) -> tuple[str, str]:
        """Return what to say about a key of a file's table that is none, and its fix."""
        return _unknown(cls, name)

    @classmethod
    def conflicts(cls, values: Any) -> Iterator[Problem]:
        """Yield what is wrong between keys; wrong values are `UNREADABLE` here."""
        return iter(())

    @classmethod
    def build(cls, values: Mapping[str, Any], report: Report) -> Any:
        """Make the value from the keys that a file gave."""
        return cls(**values)

    def __attrs_post_init__(self) -> None:
        """Refuse keyword arguments that do not go together."""
        for problem in _all_conflicts(type(self), self):
            raise attrs.evolve(problem, key=f"{type(self).__name__}.{problem.key}".rstrip(".")).raised()


class _Draft:
    """The keys of a table before it is known whether they can be one."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)


def _all_conflicts(cls: type[Table], values: Any) -> Iterator[Problem]:
    if cls.exactly_one:
        given = [name for name in cls.exactly_one if not _is_left_out(getattr(values, name))]
        names = " or ".join(f"'{name}'" for name in cls.exactly_one)
        if not given:
            yield Problem("", f"has neither {names.replace(' or ', ' nor ')}", f"Give {names}")
        elif len(given) > 1:
            yield Problem(given[1], f"stands beside '{given[0]}'", f"Give either {names}")
        else:
            for name in cls.goes_with.get(given[0], ()):
                if _is_left_out(getattr(values, name)):
                    yield Problem(name, "is missing", _fix_for_missing(cls, name))
    yield from cls.conflicts(values)


def _is_left_out(value: object) -> bool:
    return value is None or value == ()


@functools.cache
def fields_with_rules(cls: type) -> Mapping[str, tuple[attrs.Attribute[Any], Rule]]:
    """Return the keys of a table: the fields whose validator is a rule."""
    return {
        field.name: (field, field.validator)
        for field in attrs.fields(cls)
        if isinstance(field.validator, Rule)
    }


def read_table(cls: type, value: Any, key: str, report: Report) -> Any:
    """Return the `cls` that a file's table stands for; report everything that is wrong with it."""
    if not isinstance(value, Mapping):
        is_array = isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
        fix = f"Give a table: write [{key}] for [[{key}]]" if is_array and report.from_file else ""
        return report.add_type(key, value, "a table", fix)
    before = len(report.problems)
    table, moved = cls.prepare(value) if issubclass(cls, Table) else (value, {})
    values = _read_keys(cls, table, moved, key, report)
    if issubclass(cls, Table):
        draft = _Draft(_with_defaults(cls, values))
        for problem in _all_conflicts(cls, draft):
            report.problems.append(attrs.evolve(problem, key=_below(key, problem.key)))
        return draft if len(report.problems) > before else cls.build(values, report)
    return UNREADABLE if len(report.problems) > before else cls(**values)


def _below(key: str, part: str) -> str:
    return f"{key}.{part}" if key and part else key or part


def _read_keys(
    cls: type, table: Mapping[str, Any], moved: Mapping[str, str], key: str, report: Report
) -> dict[str, Any]:
    rules = fields_with_rules(cls)
    values: dict[str, Any] = {}
    for name, value in table.items():
        place = _below(key, moved[name]) if name in moved else join_key(key, name)
        if name in rules:
            values[name] = rules[name][1].read(value, place, report)
        else:
            report.add(place, *(cls.unknown(name, table) if issubclass(cls, Table) else _unknown(cls, name)))
    for name, (field, _) in rules.items():
        if field.default is attrs.NOTHING and name not in values:
            values[name] = report.add(join_key(key, name), "is missing", _fix_for_missing(cls, name))
    return values


def _unknown(cls: type, name: str) -> tuple[str, str]:
    return "is an unknown key", fix_for_name(name, fields_with_rules(cls))


def _fix_for_missing(cls: type, name: str) -> str:
    doc = fields_with_rules(cls)[name][1].doc
    return f"Give {doc.partition(';')[0].rstrip('.')}"


def _with_defaults(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {name: _default(field) for name, (field, _) in fields_with_rules(cls).items()}
    return {**defaults, **values}


def _default(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


class TableOf(Rule):
    """A table of keys with rules, and the attrs class that it becomes."""

    def __init__(self, doc: str = "", *, cls: type, optional: bool = False) -> None:
        super().__init__(doc, optional=optional)
        self.cls = cls

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the instance of the class."""
        if report.from_file:
            return read_table(self.cls, value, key, report)
        return value if isinstance(value, self.cls) else report.add_type(key, value, f"a {self.cls.__name__}")

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return a reference to the schema of the class."""
        defs[self.cls.__name__] = table_schema(self.cls, defs)
        return {"$ref": f"#/$defs/{self.cls.__name__}"}


def table_schema(cls: type, defs: dict[str, Schema], **constants: str) -> Schema:
    """Return the JSON schema of a table, made from the rules of its keys.

    Args:
      cls: the class that the table becomes.
      defs: where the schemas of the tables inside go.
      **constants: keys with the only value that each may have.
    """
    rules = fields_with_rules(cls)
    keys: Schema = {name: names_schema([value]) for name, value in constants.items()}
    for name, (field, rule) in rules.items():
        keys[name] = {**rule.schema(defs), "description": rule.doc, **_schema_default(field)}
    required = [*constants, *(name for name, (field, _) in rules.items() if field.default is attrs.NOTHING)]
    one_of: Sequence[Sequence[str]] = ()
    if issubclass(cls, Table):
        one_of = [[name, *cls.goes_with.get(name, ())] for name in cls.exactly_one]
    return {
        "type": "object",
        "description": (cls.__doc__ or "").partition("\n")[0],
        "properties": keys,
        **({"required": required} if required else {}),
        **({"oneOf": [{"required": names} for names in one_of]} if one_of else {}),
        "additionalProperties": False,
    }


def _schema_default(field: attrs.Attribute[Any]) -> Schema:
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return {"default": default} if isinstance(default, str | int | float | list) else {}
