"""Results that are too long: kept in files, told as a head, a tail and a path, and read on."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from pool_kit import pool_of

from agentpool import (
    AgentManifest,
    ApprovalRules,
    Completion,
    CompletionRequest,
    Document,
    Driver,
    Hooks,
    Image,
    KeptResults,
    Redact,
    SpawnConfig,
    SqliteJournal,
    Text,
    ToolCall,
    ToolMessage,
    ToolRegistry,
    ToolResult,
    UserMessage,
    open_agent_pool,
    resume_agent_pool,
    tool,
)

LINES = "".join(f"line {n}: {'é' * 20}\n" for n in range(1, 2001))
SMALL = KeptResults(above=1_000, head=100, tail=50)
PATH = re.compile(r'path="([^"]+)", offset=(\d+)')


@tool(quick=True)
def report(length: int = 0) -> str:
    """Return much."""
    return LINES if not length else "x" * length


class Reading(Driver):
    """Does one step after the other; a step makes a completion of what was told last."""

    def __init__(self, *steps: Callable[[str], Completion]) -> None:
        self.steps = list(steps)
        self.requests: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        results = [each for each in request.messages if isinstance(each, ToolMessage)]
        told = results[-1].result.text if results else ""
        return self.steps.pop(0)(told)

    def tools_of(self, number: int) -> list[str]:
        return [each.name for each in self.requests[number].tools]


def step(name: str, **arguments: Any) -> Callable[[str], Completion]:
    return lambda told: Completion(tool_calls=[ToolCall(f"c{id(arguments)}", name, arguments)])


def read_on(told: str) -> Completion:
    found = PATH.search(told)
    assert found is not None
    arguments = {"path": found[1], "offset": int(found[2])}
    return Completion(tool_calls=[ToolCall("r1", "read_file", arguments)])


def done(told: str) -> Completion:
    return Completion("done")


def read_at(**arguments: Any) -> Callable[[str], Completion]:
    """Read the result that was told first, wherever."""

    def made(told: str) -> Completion:
        found = PATH.search(told)
        if found is not None:
            PLACES.append(found[1])
        return Completion(tool_calls=[ToolCall("r1", "read_file", {"path": PLACES[-1], **arguments})])

    return made


PLACES: list[str] = []


@pytest.fixture(autouse=True)
def in_a_temporary_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    PLACES.clear()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


MANIFEST = AgentManifest(name="a")


async def told_by(
    model: Reading,
    *hooks: Hooks,
    manifest: AgentManifest = MANIFEST,
    tools: Any = (report,),
    query: str = "go",
    **options: Any,
) -> list[ToolResult]:
    """Return what the model was told of its calls."""
    async with pool_of(1, driver=model, hooks=hooks or [SMALL], **options) as pool:
        handle = await pool.spawn(SpawnConfig(manifest, query, tools=tools))
        transcript = (await handle.wait()).unwrap().transcript
    return [each.result for each in transcript if isinstance(each, ToolMessage)]


async def test_a_long_result_is_told_as_head_tail_and_path() -> None:
    model = Reading(step("report"), done)
    (told,) = await told_by(model)
    first, rest = told.text.split("\n", 1)
    assert first.startswith(
        f"[the result has {len(LINES)} characters; here are the first 100 and the last 50."
    )
    assert re.search(r"The whole is in kept-results/1-1-[0-9a-f]{16}\.txt: read_file\(path=", first)
    assert rest.startswith(LINES[:100])
    assert rest.endswith(LINES[-50:])
    assert f"[{len(LINES) - 150} characters are left out here]" in rest


async def test_the_model_reads_on_to_the_very_end() -> None:
    steps: list[Any] = [step("report"), read_on]

    def again(told: str) -> Completion:
        found = re.search(r"go on with offset=(\d+)\]$", told)
        if found is None:
            return Completion("done")
        steps_done.append(told)
        model.steps.append(again)
        return Completion(
            tool_calls=[ToolCall("r", "read_file", {"path": PLACES[0], "offset": int(found[1])})]
        )

    def begin(told: str) -> Completion:
        found = PATH.search(told)
        assert found is not None
        PLACES.append(found[1])
        return read_on(told)

    steps_done: list[str] = []
    steps[1] = begin
    model = Reading(*steps, again)
    told = await told_by(model, KeptResults(above=10_000, head=100, tail=50), manifest=LONG_RUN)
    pages = [
        re.sub(r"\n\[characters \d+ to \d+ of \d+; go on with offset=\d+\]$", "", each.text)
        for each in told[1:]
    ]
    assert LINES[:100] + "".join(pages) == LINES
    assert len(pages) == 7


LONG_RUN = attrs.evolve(MANIFEST, resources=attrs.evolve(MANIFEST.resources, max_iterations=50))


async def test_what_is_not_too_long_is_told_as_it_is() -> None:
    (told,) = await told_by(Reading(step("report", length=1_000), done))
    assert told == ToolResult("x" * 1_000)
    (told,) = await told_by(Reading(step("report", length=1_001), done))
    assert "[the result has 1001 characters" in told.text


async def test_a_reader_is_shown_once_there_is_something_to_read_and_not_before() -> None:
    model = Reading(step("report", length=5), step("report"), done)
    await told_by(model)
    assert [model.tools_of(n) for n in range(3)] == [["report"], ["report"], ["report", "read_file"]]
    model = Reading(step("report", length=5), done)
    await told_by(model)
    assert model.tools_of(1) == ["report"]


async def test_a_reader_that_reads_files_too_says_how_it_reads_on(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("plain")
    manifest = AgentManifest(name="a", capabilities=[{"type": "file_read", "allowed_paths": [str(tmp_path)]}])
    model = Reading(step("report"), read_on, step("read_file", path="plain.txt"), done)
    told = await told_by(model, manifest=manifest)
    assert told[1].text.startswith(LINES[100:200])
    assert told[2].text == "plain"

    def schema(number: int) -> Any:
        (own,) = [each for each in model.requests[number].tools if each.name == "read_file"]
        return own.input_schema["properties"]

    assert "offset" not in schema(0)
    assert schema(1).keys() - schema(0).keys() == {"offset"}


async def test_an_agents_own_read_file_is_left_alone() -> None:
    @tool(quick=True)
    def read_file(number: int) -> str:
        """Read a numbered file."""
        return f"file {number}"

    def kept(told: str) -> Completion:
        call = read_on(told).tool_calls[0]
        return Completion(tool_calls=[attrs.evolve(call, name="read_kept_result")])

    model = Reading(step("report"), kept, step("read_file", number=3), done)
    told = await told_by(model, tools=(report, read_file))
    assert model.tools_of(1) == ["report", "read_file", "read_kept_result"]
    assert told[1].text.startswith(LINES[100:200])
    assert told[2].text == "file 3"


@pytest.mark.parametrize(
    ("arguments", "begins", "ends"),
    [
        ({"start_line": 1, "max_lines": 1}, "line 1: ", "é\n"),
        ({"start_line": 2000}, "line 2000: ", "é\n"),
        ({"start_line": 1999, "max_lines": 10}, "line 1999: ", "é\n"),
        ({"offset": len(LINES) - 1}, "\n", "\n"),
        ({"offset": "3"}, "e 1: ", "]"),
        ({}, "line 1: ", "]"),
    ],
)
async def test_a_range_is_read(arguments: dict[str, Any], begins: str, ends: str) -> None:
    told = await told_by(Reading(step("report"), read_at(**arguments), done))
    text = told[1].text.partition("\n[characters")[0] if ends != "]" else told[1].text
    assert not told[1].is_error
    assert text.startswith(begins)
    assert text.endswith(ends) or ends in text
    if "max_lines" in arguments:
        assert text.count("\n") <= arguments["max_lines"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"offset": len(LINES)}, "give an offset below that"),
        ({"offset": 10**9}, "give an offset below that"),
        ({"offset": -1}, "offset is a whole number from 0 up, not -1"),
        ({"offset": True}, "offset is a whole number from 0 up, not True"),
        ({"start_line": 0}, "start_line is a whole number from 1 up, not 0"),
        ({"max_lines": "many"}, "max_lines is a whole number from 1 up, not 'many'"),
        ({"start_line": 5000}, "so that there is no line 5000"),
    ],
)
async def test_a_range_that_is_none_is_told(arguments: dict[str, Any], problem: str) -> None:
    told = await told_by(Reading(step("report"), read_at(**arguments), done))
    assert told[1].is_error
    assert problem in told[1].text


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "kept-results/../../../etc/passwd",
        "kept-results/secret.txt",
        "../kept-results/1-1-0000000000000000.txt",
        "kept-results/1-1-0000000000000000.txt/../../x",
        "kept-results",
        "",
        None,
        3,
    ],
)
async def test_the_reader_reads_kept_results_and_nothing_else(path: Any) -> None:
    told = await told_by(Reading(step("report"), step("read_file", path=path), done))
    assert told[1].is_error
    assert told[1].text == "only kept results can be read: give the path that stands in a shortened result"


async def test_a_name_that_was_guessed_reads_nothing() -> None:
    told = await told_by(
        Reading(step("report"), step("read_file", path="kept-results/1-1-0000000000000000.txt"), done)
    )
    assert told[1].is_error
    assert "cannot be read: No such file or directory" in told[1].text


async def test_a_link_in_the_place_of_a_result_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret" * 1_000)

    def swap(told: str) -> Completion:
        (file,) = (tmp_path / "tmp").rglob("*.txt")
        file.unlink()
        file.symlink_to(tmp_path / "secret")
        return read_on(told)

    told = await told_by(Reading(step("report"), swap, done))
    assert told[1].is_error
    assert "secretsecret" not in told[1].text


async def test_files_are_for_their_owner_and_go_with_the_pool(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []

    def look(told: str) -> Completion:
        (file,) = (tmp_path / "tmp").rglob("*.txt")
        modes = [stat.S_IMODE(each.stat().st_mode) for each in (file, file.parent)]
        seen.append((*modes, len(file.read_bytes())))  # type: ignore[arg-type]
        return Completion("done")

    old = os.umask(0)
    try:
        await told_by(Reading(step("report"), look))
    finally:
        os.umask(old)
    assert seen == [(0o600, 0o700, len(LINES.encode()))]
    assert await trio.to_thread.run_sync(lambda: list((tmp_path / "tmp").iterdir())) == []


async def test_a_pool_that_keeps_nothing_makes_no_directory(tmp_path: Path) -> None:
    def look(told: str) -> Completion:
        assert list((tmp_path / "tmp").iterdir()) == []
        return Completion("done")

    await told_by(Reading(step("report", length=10), look))


async def test_a_directory_that_was_given_stays_with_one_for_each_pool(tmp_path: Path) -> None:
    hook = KeptResults(tmp_path / "kept", above=1_000, head=100, tail=50)
    for number in (1, 2):
        told = await told_by(Reading(step("report"), read_on, done), hook)
        found = PATH.search(told[0].text)
        assert found is not None
        file = Path(found[1])
        assert file.parent == tmp_path / "kept" / f"run-{number}"
        assert await trio.Path(file).read_text() == LINES
        assert told[1].text.startswith(LINES[100:200])


async def test_what_another_agent_kept_is_read_by_who_was_told_of_it() -> None:
    def tell(told: str) -> Completion:
        found = PATH.search(told)
        assert found is not None
        PLACES.append(found[1])
        return Completion("done")

    model = Reading(step("report"), tell, read_at(start_line=2, max_lines=1), done, done)
    async with pool_of(1, driver=model, hooks=[SMALL]) as pool:
        await (await pool.spawn(SpawnConfig(MANIFEST, "go", tools=[report]))).wait()
        other = await pool.spawn(SpawnConfig(MANIFEST, f"look at {PLACES[0]}", tools=[report]))
        transcript = (await other.wait()).unwrap().transcript
        stranger = await pool.spawn(SpawnConfig(MANIFEST, "go", tools=[report]))
        await stranger.wait()
    assert model.tools_of(2) == ["report", "read_file"]
    assert model.tools_of(-1) == ["report"]
    (told,) = [each.result.text for each in transcript if isinstance(each, ToolMessage)]
    assert told.startswith("line 2: ")


async def test_pools_do_not_read_from_each_other() -> None:
    inside: list[ToolResult] = []

    async def inner(told: str) -> None:
        found = PATH.search(told)
        assert found is not None
        inside.extend(await told_by(Reading(step("read_file", path=found[1]), done)))

    outer = Reading(step("report"), done)
    async with pool_of(1, driver=outer, hooks=[SMALL]) as pool:
        handle = await pool.spawn(SpawnConfig(MANIFEST, "go", tools=[report]))
        transcript = (await handle.wait()).unwrap().transcript
        (told,) = [each.result.text for each in transcript if isinstance(each, ToolMessage)]
        await inner(told)
    assert inside[0].is_error


# -- without being asked for ----------------------------------------------------------------------------


async def without_hooks(model: Reading, *, tools: Any = (report,), **options: Any) -> list[ToolResult]:
    async with pool_of(1, driver=model, **options) as pool:
        handle = await pool.spawn(SpawnConfig(MANIFEST, "go", tools=tools))
        transcript = (await handle.wait()).unwrap().transcript
    return [each.result for each in transcript if isinstance(each, ToolMessage)]


async def test_what_tools_would_cut_is_kept_in_every_pool(tmp_path: Path) -> None:
    model = Reading(step("report", length=100_000), read_on, step("report", length=70_000), done)
    told = await without_hooks(model)
    assert told[0].text.startswith(
        "[the result has 100000 characters; here are the first 8000 and the last 4000."
    )
    assert told[1].text.startswith("x" * 60_000)
    assert told[1].text.endswith("[characters 8000 to 73036 of 100000; go on with offset=73036]")
    assert "[the result has 70000 characters" in told[2].text
    assert [model.tools_of(n) for n in range(2)] == [["report"], ["report", "read_file"]]
    assert await trio.to_thread.run_sync(lambda: list((tmp_path / "tmp").iterdir())) == []


async def test_several_results_of_one_turn_are_kept() -> None:
    several = [ToolCall(f"c{n}", "report", {"length": 100_000 + n}) for n in range(3)]
    told = await without_hooks(Reading(lambda told: Completion(tool_calls=several), read_on, done))
    assert [f"has {100_000 + n} characters" in told[n].text for n in range(3)] == [True] * 3
    assert not told[3].is_error


async def test_the_limit_of_a_registry_is_the_limit() -> None:
    def builder(limit: int) -> Any:
        return lambda manifest: ToolRegistry([report], max_result_chars=limit)

    (told,) = await without_hooks(
        Reading(step("report", length=3_000), done), tools=(), tool_builder=builder(2_000)
    )
    assert "here are the first 500 and the last 250" in told.text
    (told,) = await without_hooks(
        Reading(step("report", length=3_000), done), tools=(), tool_builder=builder(999)
    )
    assert told.text.endswith("999 are the limit; ask for less]")


async def test_hooks_of_another_kind_do_not_take_it_away() -> None:
    told = await told_by(Reading(step("report", length=100_000), read_on, done), Redact())
    assert "[the result has 100000 characters" in told[0].text
    assert not told[1].is_error


async def test_a_total_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    model = Reading(step("report", length=100_000), done)
    (told,) = await told_by(model, KeptResults(total=0))
    assert told.text.endswith("65536 are the limit; ask for less]")
    assert model.tools_of(1) == ["report"]


async def test_an_agent_that_is_told_of_it_reads_on_without_hooks() -> None:
    def tell(told: str) -> Completion:
        found = PATH.search(told)
        assert found is not None
        PLACES.append(found[1])
        return Completion("done")

    model = Reading(step("report", length=100_000), tell, read_at(), done)
    async with pool_of(1, driver=model) as pool:
        await (await pool.spawn(SpawnConfig(MANIFEST, "go", tools=[report]))).wait()
        other = await pool.spawn(SpawnConfig(MANIFEST, f"look at {PLACES[0]}", tools=[report]))
        transcript = (await other.wait()).unwrap().transcript
    (told,) = [each.result for each in transcript if isinstance(each, ToolMessage)]
    assert told.text.startswith("xxx")


async def test_a_last_turn_without_tools_stays_one() -> None:
    manifest = attrs.evolve(
        MANIFEST, resources=attrs.evolve(MANIFEST.resources, max_iterations=2, on_limit="answer")
    )
    model = Reading(step("report"), step("report"), done)
    await told_by(model, manifest=manifest)
    assert [len(request.tools) for request in model.requests] == [1, 2, 0]


# -- what is in a result --------------------------------------------------------------------------------


async def test_pictures_and_documents_stay_as_they_are() -> None:
    picture, paper = Image(b"png", "image/png"), Document(b"pdf", "application/pdf")

    @tool(quick=True)
    def mixed() -> list[Any]:
        """Return several things."""
        return [picture, "a" * 900, paper, "b" * 900]

    told = await told_by(Reading(step("mixed"), read_on, done), tools=[mixed])
    assert isinstance(told[0].content, tuple)
    first, text, last = told[0].content
    assert (first, last) == (picture, paper)
    assert isinstance(text, Text)
    assert text.text.startswith("[the result has 1801 characters")
    assert told[1].text == "a" * 500 + "\n[characters 100 to 600 of 1801; go on with offset=600]"


async def test_a_long_error_is_kept_and_stays_an_error() -> None:
    @tool(quick=True)
    def fail() -> ToolResult:
        """Fail at length."""
        return ToolResult("e" * 5_000, is_error=True)

    told = await told_by(Reading(step("fail"), read_on, done), tools=[fail])
    assert told[0].is_error
    assert "[the result has 5000 characters" in told[0].text
    assert not told[1].is_error


@pytest.mark.parametrize(
    "text", ["\r\n" * 2_000, "\ud83d" + "x" * 2_000, "\0" * 2_000, "𝄞" * 2_000, "\x0c\u2028" * 900]
)
async def test_whatever_is_in_a_text_is_read_back(text: str) -> None:
    @tool(quick=True)
    def odd() -> ToolResult:
        """Return odd text."""
        return ToolResult(text)

    told = await told_by(Reading(step("odd"), read_on, done), tools=[odd])
    whole = text.replace("\ud83d", "\ufffd")
    assert told[1].text.partition("\n[characters")[0] == whole[100:600]


# -- what goes wrong ------------------------------------------------------------------------------------


async def test_what_cannot_be_written_is_cut_and_the_model_is_told_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    hook = KeptResults(tmp_path / "file", above=1_000, head=100, tail=50)
    (told,) = await told_by(Reading(step("report", length=100_000), done), hook)
    assert told.text.startswith("[this result is too long, and could not be kept in a file: ")
    assert len(told.text) == 65_536
    assert "[cut: the result has" in told.text


async def test_a_directory_that_is_gone_loses_nothing_but_what_was_in_it(tmp_path: Path) -> None:
    def remove(told: str) -> Completion:
        import shutil

        (folder,) = (tmp_path / "tmp").iterdir()
        shutil.rmtree(folder)
        return read_on(told)

    model = Reading(step("report"), remove, step("report"), done)
    told = await told_by(model)
    assert "cannot be read: No such file or directory" in told[1].text
    assert "could not be kept in a file: No such file or directory" in told[2].text
    assert LINES in told[2].text or told[2].text.startswith("[this result")


async def test_a_pool_keeps_no_more_than_it_may() -> None:
    hook = KeptResults(above=1_000, head=100, tail=50, total=3_000)
    model = Reading(
        step("report", length=2_000), step("report", length=2_000), step("report", length=1_000), done
    )
    told = await told_by(model, hook)
    assert "The whole is in" in told[0].text
    assert "could not be kept in a file: 3000 bytes is all that a pool keeps" in told[1].text
    assert "x" * 2_000 in told[1].text
    assert told[2].text == "x" * 1_000


async def test_a_full_disk_leaves_no_half_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentpool.tools import _kept

    class Full:
        """A file on a disk that is full."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *args: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:10])
            raise OSError(28, "No space left on device")

    left: list[Any] = []

    def look(told: str) -> Completion:
        left.extend((tmp_path / "tmp").rglob("*.txt"))
        return Completion("done")

    def opened(*args: Any) -> Full:
        return Full(open(*args))

    monkeypatch.setattr(_kept, "open", opened, raising=False)
    (told,) = await told_by(Reading(step("report"), look))
    assert "could not be kept in a file: No space left on device" in told.text
    assert left == []


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"above": 999}, ValueError, "above must be at least 1000, not 999"),
        ({"head": -1}, ValueError, "head must be at least 0"),
        ({"tail": "x"}, TypeError, "tail must be an int"),
        ({"total": True}, TypeError, "total must be an int"),
        ({"above": 1_000, "head": 400, "tail": 101}, ValueError, r"head and tail \(400 \+ 101\) are more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        KeptResults(**settings)


# -- beside others --------------------------------------------------------------------------------------


async def test_what_a_hook_inside_took_out_is_in_no_file(tmp_path: Path) -> None:
    @tool(quick=True)
    def leak() -> str:
        """Return a secret in much."""
        return "a" * 2_000 + " the-secret " + "b" * 2_000

    found: list[str] = []

    def look(told: str) -> Completion:
        (file,) = (tmp_path / "tmp").rglob("*.txt")
        found.append(file.read_text())
        return Completion("done")

    await told_by(Reading(step("leak"), look), SMALL, Redact(secrets=["the-secret"]), tools=[leak])
    assert "[hidden]" in found[0]
    assert "the-secret" not in found[0]


KEY = "sk-proj-a8Fk29xLqP0zR7vW3nT5"
GIVEN = "the blue moon"


@tool(quick=True)
def leak(first: str = "") -> str:
    """Return secrets in much."""
    return f"{'a' * 2_000} {KEY} and {GIVEN} {first}{'b' * 2_000}"


def leaking(manifest: AgentManifest) -> ToolRegistry:
    return ToolRegistry([leak], max_result_chars=1_500)


def whole_of(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.rglob("*") if file.is_file())


class Hiding(Redact):
    """One that a program derives."""


def look_at(place: Path, found: list[str]) -> Callable[[str], Completion]:
    def look(told: str) -> Completion:
        (file,) = place.rglob("*.txt")
        found.append(file.read_text())
        return read_at(offset=1_900, max_lines=1)(told)

    return look


@pytest.mark.parametrize("hooks", [
    [SMALL, Redact(secrets=[GIVEN])],
    [Redact(secrets=[GIVEN]), SMALL],
    [Hooks(), Redact(), Hooks(), Hiding(secrets=[GIVEN]), SMALL],
    [Redact(secrets=[GIVEN])],
])  # fmt: skip
async def test_what_redact_takes_out_is_in_no_file_in_whatever_order(tmp_path: Path, hooks: Any) -> None:
    found: list[str] = []
    model = Reading(step("leak"), look_at(tmp_path / "tmp", found), done)
    told = await told_by(model, *hooks, tools=(), tool_builder=leaking)
    assert "[hidden]" in found[0]
    for text in (found[0], *(each.text for each in told)):
        assert KEY not in text
        assert GIVEN not in text


async def test_hooks_of_an_agent_keep_outside_of_what_its_pool_redacts(tmp_path: Path) -> None:
    found: list[str] = []
    model = Reading(step("leak"), look_at(tmp_path / "tmp", found), done)
    async with pool_of(1, driver=model, hooks=[Redact(secrets=[GIVEN])]) as pool:
        await (await pool.spawn(SpawnConfig(MANIFEST, "go", tools=[leak], hooks=[SMALL]))).wait()
    assert KEY not in found[0]
    assert GIVEN not in found[0]


async def test_other_hooks_keep_their_places() -> None:
    seen: list[int] = []

    class Looking(Hooks):
        async def after_tool_call(self, ctx: Any, call: ToolCall, result: ToolResult) -> ToolResult:
            seen.append(len(result.text))
            return result

    for hooks, is_short in (([Looking(), SMALL], True), ([SMALL, Looking()], False)):
        await told_by(Reading(step("report"), done), *hooks)
        assert (seen.pop() < 1_000) == is_short
    await told_by(Reading(step("report"), done), Looking(), Redact(), Looking(), SMALL)
    assert [each < 1_000 for each in seen] == [False, True]


@pytest.mark.parametrize("hooks", [[], [SMALL]])
async def test_what_a_journal_would_not_hold_is_in_no_file_and_is_read_on(tmp_path: Path, hooks: Any) -> None:
    found: list[str] = []
    password = "Tr0ub4dor-horse9"
    model = Reading(step("leak", first=password), look_at(tmp_path / "run.db.kept", found), done)
    journal = SqliteJournal(tmp_path / "run.db", secrets=[GIVEN])
    async with pool_of(1, driver=model, hooks=hooks, journal=journal, tool_builder=leaking) as pool:
        handle = await pool.spawn(SpawnConfig(MANIFEST, f"the password: {password}"))
        transcript = (await handle.wait()).unwrap().transcript
    told = [each.result for each in transcript if isinstance(each, ToolMessage)]
    (kept,) = found
    assert "[redacted-1]" in kept
    for secret in (KEY, GIVEN, password):
        assert secret not in kept
        assert secret in told[1].text  # the model is told what the tool has returned
    data = await trio.to_thread.run_sync(lambda: whole_of(tmp_path))
    assert KEY.encode() not in data
    assert GIVEN.encode() not in data


async def test_without_a_journal_what_looks_like_a_secret_is_in_no_file_either(tmp_path: Path) -> None:
    found: list[str] = []
    model = Reading(step("leak"), look_at(tmp_path / "tmp", found), done)
    told = await told_by(model, SMALL, tools=[leak])
    assert KEY not in found[0]
    assert KEY in told[1].text


async def test_rules_of_approval_name_a_reader_only_where_there_is_one(tmp_path: Path) -> None:
    manifest = AgentManifest(name="a", approval=ApprovalRules(default="deny", allow=("report",)))
    told = await told_by(Reading(step("report"), read_on, done), manifest=manifest)
    # What it was told itself an agent may read on: no rule is needed for that.
    assert told[1].text.startswith(LINES[100:200])


# -- with a journal -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["beside", "given", "default"])
async def test_a_run_that_is_resumed_reads_what_it_had_kept(tmp_path: Path, where: str) -> None:
    journal = tmp_path / "run.db"
    given = where == "given"
    hook = KeptResults(tmp_path / "elsewhere" if given else None, above=1_000, head=100, tail=50)
    hooks = [] if where == "default" else [hook]
    length = 100_000 if where == "default" else 0
    whole = report(length)
    agent = SpawnConfig(MANIFEST, "go", tools=[report])

    class CutOff(Exception):
        pass

    class Stopping(Reading):
        async def complete(self, request: CompletionRequest) -> Completion:
            if not self.steps:
                stopped.set()
                await trio.sleep_forever()
            return await super().complete(request)

    stopped = trio.Event()
    model = Stopping(step("report", length=length))
    with pytest.raises(CutOff):
        async with open_agent_pool(
            model, max_concurrent=1, journal=SqliteJournal(journal), hooks=hooks
        ) as pool:
            await pool.spawn(agent)
            await stopped.wait()
            raise CutOff
    folder = tmp_path / "elsewhere" / "run.db.kept" if given else tmp_path / "run.db.kept"
    (file,) = await trio.to_thread.run_sync(lambda: list(folder.iterdir()))
    assert await trio.Path(file).read_text() == whole
    model = Reading(read_on, done)
    async with resume_agent_pool(journal, model, hooks=hooks) as pool:
        outcome = await pool.resumed[0].wait()
    assert model.tools_of(0) == ["report", "read_file"]
    results = [each.result.text for each in outcome.unwrap().transcript if isinstance(each, ToolMessage)]
    assert results[1].startswith(whole[8_000:8_100] if where == "default" else whole[100:200])


async def test_a_link_where_the_directory_would_be_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "run.db.kept").symlink_to(tmp_path / "other")
    told = await told_by(Reading(step("report"), done), journal=SqliteJournal(tmp_path / "run.db"))
    assert "could not be kept in a file:" in told[0].text
    assert await trio.to_thread.run_sync(lambda: list((tmp_path / "other").iterdir())) == []


async def test_the_message_of_a_user_is_no_reason_to_show_a_reader() -> None:
    model = Reading(done)
    await told_by(model, query="look at kept-results/1-1-0000000000000000.txt")
    assert model.tools_of(0) == ["report"]
    assert isinstance(model.requests[0].messages[0], UserMessage)
