from __future__ import annotations

import functools
import inspect
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ForwardRef, Literal

import attrs
import pydantic
import pytest
import trio

from agentpool._core.capability import (
    Capability,
    FileReadCapability,
    FileWriteCapability,
    McpCapability,
    MemoryCapability,
    MessagingCapability,
    NetworkCapability,
    PrivacyTier,
    ShellCapability,
    SpawnCapability,
    grants,
    inherited,
)
from agentpool._core.content import Image, Text
from agentpool._core.errors import CapabilityDeniedError, ManifestError, ToolError
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import ToolCall, ToolDefinition, ToolResult
from agentpool._loading import LoadProblem, load_callable
from agentpool.abc import Tool, ToolContext
from agentpool.tools import FunctionTool, ToolRegistry, load_tools, tool

if TYPE_CHECKING:
    from agentpool import AgentContext

CTX: Any = object()


async def ask(registry: ToolRegistry, name: str, **arguments: Any) -> ToolResult:
    return await registry.call(CTX, ToolCall("1", name, arguments))


# -- what the model sees ------------------------------------------------------------


@tool(quick=True)
def add(a: int, b: int = 3) -> int:
    """Add two numbers.

    It does so exactly.

    Args:
      a: the first one
      b: the second one
    """
    return a + b


def test_a_tool_is_described_by_its_hints_and_docstring() -> None:
    assert add.definition == ToolDefinition(
        "add",
        "Add two numbers.\n\nIt does so exactly.",
        {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "the first one"},
                "b": {"type": "integer", "description": "the second one", "default": 3},
            },
            "required": ["a"],
            "additionalProperties": False,
        },
    )


def test_a_tool_is_still_the_function() -> None:
    assert add(1, b=2) == 3
    assert add.__name__ == "add"
    assert (add.__doc__ or "").startswith("Add two")
    assert list(inspect.signature(add).parameters) == ["a", "b"]
    assert isinstance(add, Tool)
    assert repr(add) == "<tool 'add'>"


def test_options_are_kept_and_override_the_function() -> None:
    @tool(name="sum-up", description="Sum.", capability=MemoryCapability(), timeout=2.5)
    def anything(a: int) -> int:
        """Ignored.

        Args:
          a: still described
        """
        return a

    assert (anything.name, anything.timeout, anything.quick) == ("sum-up", 2.5, False)
    assert anything.capability == MemoryCapability()
    assert anything.definition.name == "sum-up"
    assert anything.definition.description == "Sum."
    assert anything.definition.input_schema["properties"]["a"]["description"] == "still described"


def test_options_may_be_given_beside_the_function() -> None:
    made = tool(lambda: "x", name="x", timeout=math.inf)
    assert (made.name, made.timeout) == ("x", math.inf)


class Color(Enum):
    RED = "red"


class Point(pydantic.BaseModel):
    x: int
    y: int = 0


def test_rich_types_become_schemas() -> None:
    @tool
    def draw(
        points: list[Point],
        color: Color = Color.RED,
        style: Literal["solid", "dotted"] | None = None,
        width: Annotated[int, pydantic.Field(ge=1, description="in pixels")] = 1,
        *,
        sentinel: Mapping[str, Any] = attrs.field(default=object()),
    ) -> None: ...

    properties = draw.definition.input_schema["properties"]
    assert properties["points"]["type"] == "array"
    assert properties["color"]["default"] == "red"
    assert "default" not in properties["style"]
    assert properties["width"] == {
        "type": "integer", "minimum": 1, "description": "in pixels", "default": 1
    }  # fmt: skip
    assert "default" not in properties["sentinel"]
    assert draw.definition.input_schema["required"] == ["points"]


def test_a_tool_without_docstring_or_arguments_is_described_too() -> None:
    @tool
    def ping() -> None: ...

    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    assert ping.definition == ToolDefinition("ping", "", schema)


# -- the context --------------------------------------------------------------------


class Marked:
    __agentpool_context__ = True


async def test_the_context_is_given_and_not_shown() -> None:
    @tool(quick=True)
    def named(ctx, a: int) -> bool:  # type: ignore[no-untyped-def]
        return ctx is CTX

    @tool(quick=True)
    def by_string(a: int, who: AgentContext) -> bool:
        return who is CTX

    @tool(quick=True)
    def by_quoted(a: int, *, who: agentpool.abc.ToolContext) -> bool:  # type: ignore[name-defined]  # noqa: F821
        return who is CTX

    def by_class(a: int, who: Any) -> bool:
        return who is CTX

    by_class.__annotations__["who"] = ToolContext

    def by_mark(a: int, who: Any) -> bool:
        return who is CTX

    by_mark.__annotations__["who"] = Marked

    def by_reference(a: int, who: Any) -> bool:
        return who is CTX

    by_reference.__annotations__["who"] = ForwardRef("AgentContext")  # as Python 3.14 gives it
    registry = ToolRegistry([named, by_string, by_quoted, by_class, by_mark, by_reference])
    for definition in registry.definitions():
        assert list(definition.input_schema["properties"]) == ["a"]
        assert await ask(registry, definition.name, a=1) == ToolResult("true")


async def test_the_model_cannot_forge_the_context() -> None:
    @tool
    async def who(ctx: ToolContext) -> str:
        return "called"

    result = await ask(ToolRegistry([who]), "who", ctx="me")
    assert result.is_error
    assert "ctx: is no argument of this tool; it takes none" in result.content


# -- mistakes in a declaration ------------------------------------------------------


def no_hint(a) -> None: ...  # type: ignore[no-untyped-def]
def any_number(*args: int) -> None: ...
def any_names(**kwargs: int) -> None: ...
def by_position(a: int, /) -> None: ...
def context_by_position(ctx: ToolContext, /) -> None: ...
def two_contexts(ctx: ToolContext, other: AgentContext) -> None: ...
def pydantic_default(a: int = pydantic.Field(3)) -> None: ...
def generator(a: int) -> Any:
    yield a


async def async_generator(a: int) -> Any:
    yield a


@pytest.mark.parametrize(
    ("function", "fix"),
    [
        (no_hint, "'a' of tool 'no_hint' has no type hint, .*; add one"),
        (any_number, "'args' .* name each one"),
        (any_names, "'kwargs' .* name each one"),
        (by_position, "take the / away"),
        (context_by_position, "take the / away"),
        (two_contexts, r"asks for the context twice \(ctx, other\)"),
        (pydantic_default, "write Annotated"),
        (generator, "is a generator; return a list"),
        (async_generator, "is a generator; return a list"),
        (Point, "cannot be made a tool"),
        (add, "cannot be made a tool"),
        (3, "cannot be made a tool"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_when_it_is_declared(function: Any, fix: str) -> None:
    with pytest.raises(TypeError, match=fix):
        tool(function)


@pytest.mark.parametrize("name", ["", "a b", "ü", "a.b", "x" * 65, "a\n"])
def test_a_name_that_models_refuse_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="models refuse the tool name"):
        tool(name=name)(lambda: 1)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(ValueError, match="give @tool"):
        tool(lambda: 1)


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_a_timeout_is_above_zero(timeout: float) -> None:
    with pytest.raises(ValueError, match="give seconds above 0"):
        tool(timeout=timeout)(no_hint)


@pytest.mark.parametrize("capability", ["memory", MemoryCapability])
def test_a_capability_is_a_value(capability: Any) -> None:
    with pytest.raises(TypeError, match="give one such as"):
        tool(capability=capability)(no_hint)


def test_hints_that_cannot_be_evaluated_say_so_at_the_first_look() -> None:
    @tool
    def lost(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"type hints of tool 'lost' cannot be evaluated: .*Nowhere"):
        _ = lost.definition


class Opaque: ...


def test_hints_that_have_no_schema_say_so() -> None:
    @tool
    def opaque(a: Opaque) -> None: ...

    @tool
    def callback(a: Callable[[], None]) -> None: ...

    for each in (opaque, callback):
        with pytest.raises(TypeError, match="cannot be described to a model"):
            _ = each.definition


# -- calls --------------------------------------------------------------------------


async def test_all_problems_are_told_at_once_with_their_paths() -> None:
    @tool(quick=True)
    def draw(points: list[Point], name: str, width: int = 1) -> None:
        raise AssertionError("was called")

    result = await ask(ToolRegistry([draw]), "draw", points=[{"x": 1}, {"x": "a"}], widht=3, width="y" * 100)
    assert result.is_error
    lines = result.content.splitlines()
    assert lines[0] == "draw was not called, because its arguments are wrong:"
    assert lines[1].startswith("- points[1].x: should be a valid integer, unable to parse")
    assert lines[1].endswith('(got "a")')
    assert "- name: is missing" in lines
    assert lines[3].startswith("- width: should be")
    assert lines[3].endswith("...)")
    assert lines[4] == "- widht: is no argument of this tool; did you mean width?"


async def test_an_unknown_argument_is_answered_with_the_known_ones() -> None:
    result = await ask(ToolRegistry([add]), "add", a=1, zzz=1)
    assert "zzz: is no argument of this tool; its arguments are: a, b" in result.content


async def test_very_many_problems_are_counted() -> None:
    @tool
    def many(items: list[int]) -> None: ...

    result = await ask(ToolRegistry([many]), "many", items=["x"] * 30)
    assert result.content.endswith("- and 10 more")


async def test_arguments_that_are_no_table_are_a_problem() -> None:
    call: Any = ToolCall("1", "add", "a=1")  # type: ignore[arg-type]
    result = await ToolRegistry([add]).call(CTX, call)
    assert result.is_error
    assert "the arguments: should be a valid dictionary" in result.content


async def test_results_are_told_as_text() -> None:
    @attrs.frozen
    class Found:
        line: int
        color: Color

    results: dict[str, Any] = {
        "text": "x",
        "nothing": None,
        "whole": ToolResult("bad", is_error=True),
        "number": 5,
        "list": ["ü", None, True],
        "model": Point(x=1),
        "attrs": [Found(1, Color.RED)],
        "bytes": b"\xff",
    }

    @tool(quick=True)
    def give(which: str) -> Any:
        return results[which]

    registry = ToolRegistry([give])
    told = {which: await ask(registry, "give", which=which) for which in results}
    assert told.pop("whole") == ToolResult("bad", is_error=True)
    assert {which: result.content for which, result in told.items()} == {
        "text": "x",
        "nothing": "ok",
        "number": "5",
        "list": '["ü",null,true]',
        "model": '{"x":1,"y":0}',
        "attrs": '[{"line":1,"color":"red"}]',
        "bytes": '"_w=="',
    }


async def test_a_result_that_json_cannot_carry_is_the_tools_error() -> None:
    @tool(quick=True)
    def give() -> Any:
        return object()

    with pytest.raises(TypeError, match="returned a object that JSON cannot carry"):
        await ask(ToolRegistry([give]), "give")


async def test_sync_tools_run_in_a_thread_unless_they_are_quick() -> None:
    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    registry = ToolRegistry([tool(where, name="slow"), tool(where, name="fast", quick=True)])
    assert (await ask(registry, "slow")).content == "false"
    assert (await ask(registry, "fast")).content == "true"


async def test_a_quick_tool_is_not_called_by_a_cancelled_task() -> None:
    called: list[int] = []

    @tool(quick=True)
    def note() -> None:
        called.append(1)

    with trio.CancelScope() as scope:
        scope.cancel()
        await ask(ToolRegistry([note]), "note")
    assert scope.cancelled_caught
    assert not called


async def test_methods_partials_and_callable_objects_are_tools() -> None:
    class Counter:
        def __init__(self, start: int) -> None:
            self.value = start

        @tool(quick=True)
        def count(self, by: int) -> int:
            """Count."""
            self.value += by
            return self.value

        async def __call__(self, by: int) -> int:
            return self.value * by

        def plain(self, by: int) -> int:
            return self.value - by

        @staticmethod
        @tool(quick=True)
        def free(by: int) -> int:
            return by

    async def power(base: int, exponent: int) -> int:
        """Raise."""
        return int(base**exponent)

    counter = Counter(10)
    registry = ToolRegistry([counter.count, counter.plain, counter.free])
    registry.register(tool(counter, name="multiply"))
    registry.register(tool(functools.partial(power, exponent=3)))
    assert counter.count(1) == 11
    assert Counter(0).count is not Counter(0).count
    assert (await ask(registry, "count", by=5)).content == "16"
    assert (await ask(registry, "plain", by=6)).content == "10"
    assert (await ask(registry, "free", by=6)).content == "6"
    assert (await ask(registry, "multiply", by=2)).content == "32"
    assert (await ask(registry, "power", base=2)).content == "8"
    assert (await ask(registry, "power", base=2, exponent=2)).is_error
    power_tool = registry.get("power")
    assert power_tool is not None
    assert power_tool.definition.description == "Raise."
    with pytest.raises(TypeError, match="take it from an instance"):
        await ask(ToolRegistry([Counter.count]), "count", by=1)


def counted(function: Callable[..., Any]) -> Any:
    return functools.lru_cache(function)


@counted
def cached(a: int) -> int:
    """Cached."""
    return a


async def test_wrapped_functions_keep_their_hints() -> None:
    registry = ToolRegistry([cached])
    assert (await ask(registry, "cached", a=4)).content == "4"
    assert registry.definitions()[0].description == "Cached."


async def test_a_decorator_around_an_async_function_is_awaited() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @tool(quick=True)
    @logged
    async def later(a: int) -> int:
        await trio.lowlevel.checkpoint()
        return a

    assert (await ask(ToolRegistry([later]), "later", a=4)).content == "4"


# -- the registry -------------------------------------------------------------------


@tool(quick=True, capability=MemoryCapability())
def guarded() -> str:
    return "done"


def test_names_are_unique() -> None:
    registry = ToolRegistry([add])
    with pytest.raises(ValueError, match="there are two tools named 'add'"):
        registry.register(add)
    assert registry.names == ("add",)


def test_a_registry_shows_what_it_holds() -> None:
    registry = ToolRegistry()
    assert repr(registry) == "<ToolRegistry: empty>"
    assert registry.register(add) is add
    assert registry.get("add") is add
    assert registry.get("sub") is None
    assert "add" in registry
    assert list(registry) == [add]
    assert len(registry) == 1
    assert repr(registry) == "<ToolRegistry: add>"


def test_register_decorates_plain_functions() -> None:
    registry = ToolRegistry()

    @registry.register
    def plain(a: int) -> int:
        return a

    assert plain(1) == 1
    assert isinstance(registry.get("plain"), FunctionTool)


async def test_tools_of_other_kinds_are_tools_too() -> None:
    class Echo:
        definition = ToolDefinition("echo", "Echo.", {"type": "object"})
        capability = None
        timeout = None

        async def call(self, ctx: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
            return ToolResult(repr(dict(arguments)))

    registry = ToolRegistry([Echo()])
    assert registry.names == ("echo",)
    assert (await ask(registry, "echo", a=1)).content == "{'a': 1}"


async def test_only_what_is_granted_is_shown_and_called() -> None:
    manifest = AgentManifest(name="m", capabilities=[MemoryCapability()])
    registry = ToolRegistry([add, guarded])
    assert [d.name for d in registry.definitions()] == ["add", "guarded"]
    assert [d.name for d in registry.definitions(())] == ["add"]
    assert [d.name for d in registry.definitions(manifest)] == ["add", "guarded"]
    limited = ToolRegistry([add, guarded], capabilities=())
    assert [d.name for d in limited.definitions()] == ["add"]
    with pytest.raises(CapabilityDeniedError, match="guarded needs MemoryCapability"):
        await ask(limited, "guarded")
    assert (await ask(registry.limited_to(manifest), "guarded")).content == "done"


async def test_limits_only_narrow() -> None:
    limited = ToolRegistry([guarded], capabilities=()).limited_to([MemoryCapability()])
    assert limited.definitions([MemoryCapability()]) == ()
    with pytest.raises(CapabilityDeniedError):
        await ask(limited, "guarded")


async def test_an_unknown_tool_is_answered_with_the_known_ones() -> None:
    registry = ToolRegistry([add, guarded], capabilities=())
    assert await ask(registry, "ad") == ToolResult(
        "there is no tool 'ad'; did you mean 'add'? the tools are: add", is_error=True
    )
    assert (await ask(registry, "zzz")).content == "there is no tool 'zzz'; the tools are: add"
    assert (await ask(ToolRegistry(), "x")).content == "there is no tool 'x'; this agent has no tools"


async def test_of_a_tool_that_is_refused_the_reason_is_told() -> None:
    registry = ToolRegistry([add]).extended([], {"gone": "it was refused", "add": "never told", "x": ""})
    for each in (registry, registry.limited_to([]), registry.extended([], {"y": "z"})):
        assert await ask(each, "gone") == ToolResult("it was refused", is_error=True)
        assert [one.name for one in each.definitions()] == ["add"]
        assert "gone" not in each
        assert (await ask(each, "add", a=1)).content != "never told"
        assert (await ask(each, "x")).content == "there is no tool 'x'; the tools are: add"


async def test_a_tool_error_is_told_and_other_exceptions_come_out() -> None:
    @tool(quick=True)
    def fail(how: str) -> None:
        raise ToolError("not today") if how == "told" else KeyError("bug")

    registry = ToolRegistry([fail])
    assert await ask(registry, "fail", how="told") == ToolResult("not today", is_error=True)
    with pytest.raises(KeyError):
        await ask(registry, "fail", how="bug")


async def test_a_long_result_is_cut_with_a_note() -> None:
    @tool(quick=True)
    def long(size: int) -> str:
        return "x" * size

    registry = ToolRegistry([long], max_result_chars=300)
    assert (await ask(registry, "long", size=300)).content == "x" * 300
    cut = (await ask(registry.limited_to(()), "long", size=301)).content
    assert len(cut) == 300
    assert cut.endswith("[cut: the result has 301 characters, and 300 are the limit; ask for less]")
    assert registry.max_result_chars == 300
    with pytest.raises(ValueError, match="at least 200"):
        ToolRegistry(max_result_chars=199)


# -- capabilities -------------------------------------------------------------------


def test_words_may_go_to_places_that_are_as_private() -> None:
    tiers = [PrivacyTier.SOVEREIGN, PrivacyTier.PRIVATE, PrivacyTier.STANDARD]
    for n, tier in enumerate(tiers):
        assert [tier.permits(other) for other in tiers] == [m <= n for m in range(3)]


@pytest.mark.parametrize(
    ("granted", "required", "answer"),
    [
        ([], None, True),
        ([], MemoryCapability(), False),
        ([MemoryCapability()], MemoryCapability(), True),
        ([MessagingCapability()], MemoryCapability(), False),
        ([FileReadCapability(["docs"])], FileReadCapability([]), True),
        ([FileReadCapability(["docs"])], FileWriteCapability([]), False),
        ([FileReadCapability(["docs"])], FileReadCapability(["docs/a", "docs"]), True),
        ([FileReadCapability(["docs"])], FileReadCapability(["docs/../a"]), False),
        ([FileReadCapability(["docs"])], FileReadCapability(["docs2"]), False),
        ([FileReadCapability(["."])], FileReadCapability(["a/b"]), True),
        ([FileReadCapability(["."])], FileReadCapability(["../a"]), False),
        ([FileReadCapability(["."])], FileReadCapability(["/a"]), False),
        ([FileReadCapability([".."])], FileReadCapability(["../a"]), True),
        ([FileReadCapability([".."])], FileReadCapability(["../../a"]), False),
        ([FileWriteCapability(["/"])], FileWriteCapability(["/a"]), True),
        ([ShellCapability(["ls"]), ShellCapability(["cat"])], ShellCapability(["ls", "cat"]), True),
        ([ShellCapability(["ls"])], ShellCapability(["ls", "rm"]), False),
        ([ShellCapability(["*"])], ShellCapability(["rm"]), True),
        ([NetworkCapability(["a.org"])], NetworkCapability(["a.org"]), True),
        ([NetworkCapability(["a.org"])], NetworkCapability(["*"]), False),
        ([SpawnCapability(2)], SpawnCapability(2), True),
        ([SpawnCapability(1)], SpawnCapability(2), False),
        ([McpCapability("s")], McpCapability("s", "t"), True),
        ([McpCapability("s", "t")], McpCapability("s"), False),
        ([McpCapability("s", "t")], McpCapability("r", "t"), False),
    ],
)
def test_grants(granted: list[Capability], required: Capability | None, answer: bool) -> None:
    assert grants(granted, required) is answer


def test_children_inherit_one_level_less_of_spawning() -> None:
    granted = (MemoryCapability(), SpawnCapability(2))
    assert inherited(granted) == (MemoryCapability(), SpawnCapability(1))
    assert inherited(inherited(granted)) == (MemoryCapability(),)


def test_one_text_is_no_list_of_paths() -> None:
    with pytest.raises((TypeError, ValueError)):
        FileReadCapability("docs")


# -- tools that a manifest names ----------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


async def test_tools_are_loaded_from_a_module_beside_the_manifest(tmp_path: Path) -> None:
    write(
        tmp_path / "checks.py",
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "import helpers\n"
        "from agentpool.tools import tool\n"
        "@dataclasses.dataclass\n"
        "class At:\n    line: int\n"
        "def plain(at: At) -> int:\n    return at.line + helpers.ONE\n"
        "@tool(name='other', quick=True)\n"
        "def decorated(a: int) -> int:\n    return a\n",
    )
    write(tmp_path / "helpers.py", "ONE = 1\n")
    before = list(sys.path)
    tools = load_tools(["checks:plain", "checks:decorated"], tmp_path)
    assert [each.name for each in tools] == ["plain", "other"]
    assert (await ask(ToolRegistry(tools), "plain", at={"line": 4})).content == "5"
    assert sys.path == before
    assert "helpers" not in sys.modules
    assert "checks" not in sys.modules
    assert load_tools(["checks:plain"], str(tmp_path))[0] is tools[0]


def test_two_manifests_may_each_have_modules_of_the_same_name(tmp_path: Path) -> None:
    for folder in "ab":
        write(tmp_path / folder / "checks.py", "from helpers import WHO\ndef who() -> str:\n    return WHO\n")
        write(tmp_path / folder / "helpers.py", f"WHO = {folder!r}\n")
    a, b = (load_tools(["checks:who"], tmp_path / folder)[0] for folder in "ab")
    assert (a(), b()) == ("a", "b")


def test_a_changed_module_is_loaded_afresh(tmp_path: Path) -> None:
    for value in ("1", "2", "3"):  # within a second and of one size, as bytecode caches mistake it
        write(tmp_path / "checks.py", f"def value() -> int:\n    return {value}\n")
        assert load_tools(["checks:value"], tmp_path)[0]() == int(value)


def test_a_module_may_be_a_package_and_dotted(tmp_path: Path) -> None:
    write(tmp_path / "kit" / "__init__.py", "from .deep import three\n")
    write(tmp_path / "kit" / "deep.py", "def three() -> int:\n    return 3\n")
    assert [t() for t in load_tools(["kit:three"], tmp_path)] == [3]
    assert [t() for t in load_tools(["kit.deep:three"], tmp_path)] == [3]


def test_a_package_that_a_module_imports_is_forgotten_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path / "some_kit" / "__init__.py", "")
    write(tmp_path / "some_kit" / "deep.py", "X = 1\n")
    write(tmp_path / "checks.py", "import json, some_kit.deep\ndef f() -> int:\n    return some_kit.deep.X\n")
    assert load_tools(["checks:f"], tmp_path)[0]() == 1
    assert not [name for name in sys.modules if name.startswith("some_kit")]
    assert "json" in sys.modules


def test_a_directory_that_is_on_the_path_keeps_its_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path / "kept_by_everybody.py", "")
    write(tmp_path / "checks.py", "import kept_by_everybody\ndef f() -> None: ...\n")
    load_tools(["checks:f"], tmp_path)
    assert sys.modules.pop("kept_by_everybody")


def test_installed_modules_are_found_after_those_beside_the_manifest() -> None:
    function, module = load_callable("json:dumps", None)
    assert function is module.__dict__["dumps"]


def test_every_problem_of_a_manifests_tools_comes_at_once(tmp_path: Path) -> None:
    write(tmp_path / "checks.py", "X = 1\ndef good() -> int:\n    return 1\ndef bad(a): ...\n")
    write(tmp_path / "broken.py", "import no_such_module_anywhere\n")
    write(tmp_path / "exits.py", "raise SystemExit(3)\n")
    write(tmp_path / "typo.py", "def f(:\n")
    write(tmp_path / "empty.py", "")
    with pytest.raises(ManifestError) as caught:
        load_tools(
            [
                "checks:good", "checks:god", "checks:X", "checks:bad", "checks:good", "nowhere:f",
                "broken:f", "exits:f", "typo:f", "empty:f", "no colon", "checks:zzz", "json:f",
            ],
            tmp_path,
            source="agent.toml",
        )  # fmt: skip
    said = {finding.key: f"{finding.problem}. {finding.fix}" for finding in caught.value.findings}
    assert {finding.source for finding in caught.value.findings} == {"agent.toml"}
    assert list(said) == [f"tools[{n}]" for n in range(1, 13)]
    for key, text in {
        1: "has no 'god'. Did you mean 'good'?",
        2: "'X' of the module 'checks' is a int",
        3: "parameter 'a' of tool 'bad' has no type hint",
        4: "there is a tool named 'good' before it",
        5: f"there is no module 'nowhere' in {tmp_path}. Put nowhere.py beside the manifest",
        6: "ModuleNotFoundError: No module named 'no_such_module_anywhere' (line 1 of broken.py)",
        7: "SystemExit: 3",
        8: "SyntaxError: invalid syntax",
        9: "has no 'f'. It defines no function at all",
        10: "'no colon' does not name a function",
        11: "has no 'zzz'. It has: good, bad",
        12: "the module 'json' has no 'f'",
    }.items():
        assert text in said[f"tools[{key}]"]


def test_a_name_is_looked_for_among_those_that_a_module_loads_late(tmp_path: Path) -> None:
    with pytest.raises(LoadProblem, match=r"'agentpool' has no 'Redcat'\. Did you mean 'Redact'\?"):
        load_callable("agentpool:Redcat", None)
    write(tmp_path / "many.py", "".join(f"def f{n:02}(): pass\n" for n in range(60)))
    with pytest.raises(LoadProblem, match=r"It has: f00, .*, f39, \.\.\.$"):
        load_callable("many:zzzzzz", tmp_path)


def test_an_installed_module_that_fails_to_import_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "fails_to_import.py", "1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        LoadProblem, match=r"ZeroDivisionError: division by zero \(line 1 of fails_to_import.py\)"
    ):
        load_callable("fails_to_import:f", None)
    with pytest.raises(LoadProblem, match=r"there is no module 'surely_nowhere'. Put"):
        load_callable("surely_nowhere:f", None)


def test_declaring_tools_imports_no_pydantic() -> None:
    code = (
        "import sys\n"
        "from agentpool.tools import tool, ToolRegistry\n"
        "registry = ToolRegistry([tool(lambda: 1, name='x')])\n"
        "assert not {'pydantic', 'docstring_parser', 'pydantic_core'} & set(sys.modules)\n"
        "registry.definitions()\n"
        "assert 'pydantic' in sys.modules\n"
        "import agentpool.tools\n"
        "assert agentpool.tools.build_tools\n"
        "try: agentpool.tools.nothing\n"
        "except AttributeError: pass\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_of_a_result_with_pictures_only_the_texts_are_cut() -> None:
    picture = Image(b"1234", "image/png")
    registry = ToolRegistry([], max_result_chars=200)
    short = ToolResult((Text("a" * 100), picture, Text("b" * 100)))
    assert registry.shortened(short) is short
    cut = registry.shortened(ToolResult((Text("a" * 150), picture, Text("b" * 150), Text("c" * 9)), True))
    assert cut.is_error
    first, second, third = cut.content
    assert (first, second) == (Text("a" * 150), picture)
    assert isinstance(third, Text)
    assert third.text.endswith("[cut: the result has 309 characters, and 200 are the limit; ask for less]")
