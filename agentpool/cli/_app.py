"""The commands, their options, and what becomes of wrong ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number

from agentpool._core.errors import ManifestError
from agentpool.cli._errors import BadInputError, OutputLostError, problems_of
from agentpool.cli._streams import complain, give_up, prepare_streams, printing
from agentpool.cli._text import one_line

BAD_INPUT = 2
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
WebPort: TypeAlias = Annotated[int | None, Parameter(validator=Number(gte=0, lte=65_535))]
Variables = Annotated[tuple[str, ...], Parameter(name="--var", negative="")]

app = cyclopts.App(
    name="agentpool",
    help="Run fleets of language-model agents under structured concurrency.",
    version=lambda: version("trio-agentpool"),
    result_action="return_value",
)


def call(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every complaint about input becomes exit code 2."""
    try:
        prepare_streams()
        command, bound, _ = app.parse_args(list(arguments), exit_on_error=False, print_error=False)
        if command in (
            run,
            resume,
            approve,
            deny,
            chat,
            mcp,
            show,
            replay,
            timeline,
            validate,
            pins,
            cluster,
            schema,
        ):
            return int(command(*bound.args, **bound.kwargs))
        with printing():  # cyclopts prints the help and the version
            command(*bound.args, **bound.kwargs)
        return 0
    except cyclopts.UnusedCliTokensError as error:
        more = ", ".join(map(repr, error.unused_tokens or ()))
        return _bad_input(f"{more}: more than the command takes. Put quotes around a path with spaces")
    except cyclopts.CycloptsError as error:
        return _bad_input(str(error))
    except (ManifestError, BadInputError) as error:
        return _bad_input(*problems_of(error))
    except OutputLostError as error:
        complain([str(error)] if str(error) else [])
        give_up(sys.stdout)
        return 1
    except SystemExit as error:
        if not isinstance(error.code, str):
            raise
        complain([error.code])  # Python would print an agent's last words as they are
        return 1
    except KeyboardInterrupt:
        return 130


def _bad_input(*problems: str) -> int:
    complain(problems)
    return BAD_INPUT


@app.command
def run(
    fleet: Path,
    /,
    *,
    driver: str | None = None,
    max_concurrent: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    timeout: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    output: str | None = None,
    memory: str | None = None,
    journal: str | None = None,
    var: Variables = (),
    log_file: str | None = None,
    log_level: LogLevel | None = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    otel: Annotated[bool, Parameter(negative="")] = False,
    web: Annotated[bool, Parameter(negative="")] = False,
    web_port: WebPort = None,
    stay: bool | None = None,
) -> int:
    """Run the agents of a fleet file until all have ended, and tell how each ended.

    The first Ctrl-C, SIGTERM or SIGHUP starts no more agents and lets the running ones finish, the
    second aborts them. The exit code is 0 if all completed, 1 if some failed or were aborted, 2 for bad
    input, 3 if a run with a journal waits for a person, 130 and 143 after signals.

    Args:
      fleet: The fleet file (TOML).
      driver: The model driver, such as openai:MODEL or auto, in place of the one in the files.
      max_concurrent: How many agents may run at once, in place of the number in the file.
      timeout: Seconds that each agent may take; it can only shorten what the file allows.
      output: An empty or new directory, for each agent's whole answer and transcript.
      memory: A file in which the agents' memory is kept from run to run, in place of the one in the file.
      journal: A new file that keeps the run, so that `agentpool resume` goes on with it after any crash. With
        it the first Ctrl-C, SIGTERM or SIGHUP stops at once: nothing of it is lost.
      var: NAME=VALUE, the value of a variable of the fleet's [vars]; may be repeated.
      log_file: A file to which a line is added for whatever happens, but no prompts and no answers.
      log_level: The least that is written there; info if it is left out, and debug tells of each model call.
      quiet: Print nothing but the failures.
      as_json: Print one JSON document on standard output, and nothing else there.
      otel: Send what happens to OpenTelemetry, to where the OTEL_* variables say.
      web: Show the run on a page for your browser; its link is printed on standard error, and lets in one
        browser of this machine. On the page agents are aborted, the run is drained and calls approved.
      web_port: The port of the page; a free one if it is left out.
      stay: Have the page stay after the run, until Ctrl-C; so it does on a terminal if this is left out.
    """
    from agentpool.cli._log_file import logging_into
    from agentpool.cli._run import RunOptions, run_fleet
    from agentpool.cli._vars import parse_directory, parse_file, parse_vars
    from agentpool.cli._web import web_options

    options = RunOptions(
        driver=driver,
        max_concurrent=max_concurrent,
        timeout=timeout,
        output=None if output is None else parse_directory("--output", output),
        memory=None if memory is None else parse_file("--memory", memory),
        journal=None if journal is None else parse_file("--journal", journal),
        vars=parse_vars(var),
        quiet=quiet,
        as_json=as_json,
        otel=otel,
        web=web_options(web, web_port, stay),
    )
    with logging_into(log_file, log_level):
        return run_fleet(fleet, options)


@app.command
def resume(
    journal: Path,
    /,
    *,
    driver: str | None = None,
    max_concurrent: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    timeout: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    output: str | None = None,
    memory: str | None = None,
    log_file: str | None = None,
    log_level: LogLevel | None = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    otel: Annotated[bool, Parameter(negative="")] = False,
    web: Annotated[bool, Parameter(negative="")] = False,
    web_port: WebPort = None,
    stay: bool | None = None,
) -> int:
    """Go on with a run that `agentpool run --journal` began, after a crash, a signal or a decision.

    What had ended is not done again. The report is that of a run without interruption, and so is the
    exit code. Of a run that has ended, the report is printed again.

    Args:
      journal: The file of the run.
      driver: The model driver, in place of the one that the run had.
      max_concurrent: How many agents may run at once, in place of the number that the run had.
      timeout: Seconds that each agent that was not started yet may take, in place of those that the run had.
      output: An empty or new directory, for the whole answer and transcript of each agent that ends.
      memory: A file in which the agents' memory is, in place of the one that the run had.
      log_file: A file to which a line is added for whatever happens, but no prompts and no answers.
      log_level: The least that is written there; info if it is left out, and debug tells of each model call.
      quiet: Print nothing but the failures.
      as_json: Print one JSON document on standard output, and nothing else there.
      otel: Send what happens to OpenTelemetry, to where the OTEL_* variables say.
      web: Show the run on a page for your browser; its link is printed on standard error, and lets in one
        browser of this machine. On the page agents are aborted, the run is drained and calls approved.
      web_port: The port of the page; a free one if it is left out.
      stay: Have the page stay after the run, until Ctrl-C; so it does on a terminal if this is left out.
    """
    from agentpool.cli._log_file import logging_into
    from agentpool.cli._resume import resume_run
    from agentpool.cli._run import RunOptions
    from agentpool.cli._vars import parse_directory, parse_file
    from agentpool.cli._web import web_options

    options = RunOptions(
        driver=driver,
        max_concurrent=max_concurrent,
        timeout=timeout,
        output=None if output is None else parse_directory("--output", output),
        memory=None if memory is None else parse_file("--memory", memory),
        quiet=quiet,
        as_json=as_json,
        otel=otel,
        web=web_options(web, web_port, stay),
    )
    with logging_into(log_file, log_level):
        return resume_run(journal, options)


@app.command
def chat(
    manifest: Path,
    /,
    *,
    session: str | None = None,
    sessions: str | None = None,
    driver: str | None = None,
    memory: str | None = None,
    timeout: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    log_file: str | None = None,
    log_level: LogLevel | None = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
    otel: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Talk with the agent of a manifest.

    On a terminal, Ctrl-C stops an answer and not the chat; Ctrl-D ends it. What is piped in is one
    query: its answer is printed, and the exit code is 0 if there was one, else 1. Bad input is 2.

    Args:
      manifest: The agent's manifest (TOML).
      session: The name of a conversation, which is gone on with and kept.
      sessions: The file of conversations, in place of the one in your home directory.
      driver: The model driver, such as openai:MODEL or auto, in place of the one in the manifest.
      memory: A file in which the agent remembers, in place of a memory that ends with the chat.
      timeout: Seconds that each answer may take.
      log_file: A file to which a line is added for whatever happens, but no prompts and no answers.
      log_level: The least that is written there; info if it is left out, and debug tells of each model call.
      quiet: Show no tools, and nothing but answers and problems.
      otel: Send what happens to OpenTelemetry, to where the OTEL_* variables say.
    """
    from agentpool.cli._chat import ChatOptions
    from agentpool.cli._chat import chat as talk
    from agentpool.cli._log_file import logging_into
    from agentpool.cli._vars import parse_file

    options = ChatOptions(
        session=session,
        sessions=None if sessions is None else parse_file("--sessions", sessions),
        driver=driver,
        memory=None if memory is None else parse_file("--memory", memory),
        timeout=timeout,
        quiet=quiet,
        otel=otel,
    )
    with logging_into(log_file, log_level):
        return talk(manifest, options)


@app.command
def mcp(
    fleet: Path,
    /,
    *,
    http: str | None = None,
    token_file: Path | None = None,
    driver: str | None = None,
    max_concurrent: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    timeout: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    memory: str | None = None,
    var: Variables = (),
    log_file: str | None = None,
    log_level: LogLevel | None = None,
    otel: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Serve the agents of a fleet file as tools to clients of the Model Context Protocol (MCP).

    Each agent is a tool; a call runs it, and cancelling the call aborts it. On standard input and output
    it ends with 0 when the client goes. Ctrl-C, SIGTERM and SIGHUP abort what runs: 130, 143, 129. Bad
    input is 2.

    Args:
      fleet: The fleet file (TOML).
      http: HOST:PORT to serve HTTP on, in place of standard input and output; port 0 is a free one.
      token_file: A file with the token that clients over HTTP have to give. Needed where other machines
        reach the address.
      driver: The model driver, such as openai:MODEL or auto, in place of the one in the files.
      max_concurrent: How many agents may run at once, in place of the number in the file.
      timeout: Seconds that each call may take; it can only shorten what the file allows.
      memory: A file in which the agents' memory is kept, in place of the one in the file.
      var: NAME=VALUE, the value of a variable of the fleet's [vars]; may be repeated.
      log_file: A file to which a line is added for whatever happens, but no prompts and no answers.
      log_level: The least that is written there; info if it is left out, and debug tells of each model call.
      otel: Send what happens to OpenTelemetry, to where the OTEL_* variables say.
    """
    from agentpool.cli._log_file import logging_into
    from agentpool.cli._mcp import McpOptions, parse_address, read_token, serve_fleet
    from agentpool.cli._vars import parse_file, parse_vars

    address = parse_address(http)
    options = McpOptions(
        driver=driver,
        max_concurrent=max_concurrent,
        timeout=timeout,
        memory=None if memory is None else parse_file("--memory", memory),
        vars=parse_vars(var),
        address=address,
        token=read_token(token_file, address),
        otel=otel,
    )
    with logging_into(log_file, log_level):
        return serve_fleet(fleet, options)


@app.command
def show(
    journal: Path,
    /,
    *,
    agent: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Print what is in the journal of a run: its agents, how each ended and why, what is asked.

    The run may be under way.

    Args:
      journal: The journal, such as run.db.
      agent: The id of an agent, whose conversation is printed in place of that.
      as_json: Print one JSON document.
    """
    from agentpool.cli._show import show as print_run

    return print_run(journal, agent, as_json=as_json)


@app.command
def replay(
    journal: Path,
    /,
    *,
    agent: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    until: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    fork: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    into: Annotated[Path | None, Parameter(name="--journal")] = None,
) -> int:
    """Go through the steps of model agents again, from their journal: no model and no tool is called.

    The exit code is 1 if an agent comes to something else than it did.

    Args:
      journal: The journal, such as run.db.
      agent: The id of an agent; all if it is left out.
      until: The last step to print.
      fork: Begin a new run of the agent before this step, which `agentpool resume` goes on with.
      into: The journal of the new run.
    """
    from agentpool.cli._replay import fork as begin_there
    from agentpool.cli._replay import replay_run

    if fork is None:
        if into is not None:
            raise BadInputError("--journal is for a new run: give --fork STEP with it")
        return replay_run(journal, agent, until)
    if agent is None or into is None or until is not None:
        raise BadInputError("--fork needs --agent N and --journal NEW.db, and takes no --until")
    return begin_there(journal, agent, fork, into)


@app.command
def timeline(
    journal: Path,
    /,
    *,
    output: Annotated[str | None, Parameter(name=("--output", "-o"), allow_leading_hyphen=True)] = None,
    format: Literal["html", "chrome"] = "html",
    transcripts: Annotated[bool, Parameter(negative="--no-transcripts")] = True,
    text_limit: Annotated[int, Parameter(validator=Number(gte=100))] = 20_000,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Make a page, or a trace, of the journal of a run: what each agent did when, and who wrote to whom.

    The page is one file, which loads nothing from elsewhere. The run may be under way, or have crashed.

    Args:
      journal: The journal, such as run.db.
      output: The file to write, or - for standard output. Left out, it is named as the journal, with .html,
        or .trace.json for a trace.
      format: html, or chrome: a trace for https://ui.perfetto.dev, chrome://tracing and speedscope.
      transcripts: Put in what models, tools and persons said. Without it, only names, times and numbers.
      text_limit: Of a longer text of a transcript the beginning and the end are kept, so many characters.
      force: Replace the file if it is there.
    """
    from agentpool.cli._timeline import TimelineOptions, write_timeline
    from agentpool.cli._vars import parse_file

    options = TimelineOptions(
        output=None if output is None else parse_file("--output", output),
        format=format,
        transcripts=transcripts,
        text_limit=text_limit,
        force=force,
    )
    return write_timeline(journal, options)


@app.command
def approve(journal: Path, id: str, /) -> int:
    """Allow a tool call for which a run is paused; `agentpool resume` goes on with it.

    Args:
      journal: The file of the run.
      id: What `agentpool show` calls it, or its beginning.
    """
    from agentpool._core.approval import Approved
    from agentpool.cli._approve import decide

    return decide(journal, id, Approved())


@app.command
def deny(journal: Path, id: str, /, *, reason: str = "") -> int:
    """Forbid a tool call for which a run is paused; `agentpool resume` goes on, and the model is told.

    Args:
      journal: The file of the run.
      id: What `agentpool show` calls it, or its beginning.
      reason: What the model is told.
    """
    from agentpool._core.approval import Denied
    from agentpool.cli._approve import decide

    return decide(journal, id, Denied(reason))


@app.command
def validate(
    file: Path,
    /,
    *files: Path,
    driver: str | None = None,
    var: Variables = (),
    served: Annotated[bool, Parameter(name="--mcp", negative="")] = False,
) -> int:
    """Check fleet and manifest files, and print every problem of all of them with its fix.

    What `agentpool run` would refuse on this machine is refused in the same words. Nothing is run but
    the modules that the files name, which are imported. What has no effect is a warning.

    Args:
      file: A fleet file or a manifest.
      files: More of them.
      driver: The model driver that is going to be given to `agentpool run`.
      var: NAME=VALUE, the value of a variable of the fleets' [vars]; may be repeated.
      served: Check fleets for `agentpool mcp`, whose agents need no query.
    """
    from agentpool.cli._files import check_file
    from agentpool.cli._vars import parse_vars

    vars = parse_vars(var)
    kinds: set[str] = set()
    problems = 0
    for path in (file, *files):
        try:
            checked = check_file(path, driver, vars, served=served)
        except (ManifestError, BadInputError) as error:
            told = problems_of(error)
            problems += len(told)
            complain(told)
        else:
            kinds.add(checked.kind)
            complain([f"warning: {warning}" for warning in checked.warnings])
            with printing():
                print(f"{one_line(str(path))}: a valid {checked.kind}")
    if vars and kinds == {"manifest"} and not problems:
        problems += 1
        complain(["--var is for fleets, and no file is one. Leave it out"])
    return BAD_INPUT if problems else 0


@app.command
def pins(
    file: Path, /, *, accept: Annotated[bool, Parameter(negative="")] = False, var: Variables = ()
) -> int:
    """Show which tools of a file's MCP servers are not as they were approved; approve them with `--accept`.

    The servers are started. Those whose entry names a file as `pin` are looked at, and with `--accept` what
    they offer now is written there. A server with `auth = "oauth"` is logged in to, with a browser.
    The exit code is 1 if something has changed and was not accepted, or a server cannot be had.

    Args:
      file: A fleet file or a manifest.
      accept: Approve what the servers offer now.
      var: NAME=VALUE, the value of a variable of the fleet's [vars]; may be repeated.
    """
    from agentpool.cli._pins import show_pins
    from agentpool.cli._vars import parse_vars

    return show_pins(file, accept, parse_vars(var))


@app.command
def cluster() -> int:
    """Tell how a Ray cluster is started for agents: what to install, ports, tokens, TLS, who may do what.

    For fleets with `placement = "ray"`. Nothing is started.
    """
    from agentpool.cli._cluster import print_page

    with printing():
        print_page()
    return 0


@app.command
def schema(kind: Literal["manifest", "fleet"] | None = None, /) -> int:
    """Print the JSON schema of a manifest, of a fleet file, or of both in one object.

    Args:
      kind: Which file; both if it is left out.
    """
    from agentpool.cli._files import SCHEMAS

    schemas = {name: make() for name, make in SCHEMAS.items()}
    with printing():
        print(json.dumps(schemas[kind] if kind else schemas, indent=2))
    return 0
