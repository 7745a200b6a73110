"""The commands, their options, and what becomes of wrong ones."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number

from agentpool._core.errors import ManifestError
from agentpool.cli._errors import BadInputError

BAD_INPUT = 2
Variables = Annotated[tuple[str, ...], Parameter(name="--var", negative="")]

app = cyclopts.App(
    name="agentpool",
    help="Run fleets of language-model agents under structured concurrency.",
    version=lambda: version("agentpool"),
    result_action="return_value",
)


def call(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every complaint about input becomes exit code 2."""
    try:
        return app(list(arguments), exit_on_error=False, print_error=False) or 0
    except cyclopts.CycloptsError as error:
        return _complain(str(error))
    except ManifestError as error:
        return _complain(*map(str, error.findings))
    except BadInputError as error:
        return _complain(str(error))
    except BrokenPipeError:
        # Whoever read our output has gone: nothing more can be told. What is left in the buffers goes
        # nowhere; else Python flushes it once more at its end, fails, and exits with 120.
        with open(os.devnull, "w") as nowhere:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nowhere.fileno(), stream.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _complain(*problems: str) -> int:
    for problem in problems:
        print(f"agentpool: {problem}", file=sys.stderr)
    return BAD_INPUT


@app.command
def run(
    fleet: Path,
    /,
    *,
    driver: str | None = None,
    max_concurrent: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    timeout: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    var: Variables = (),
    quiet: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Run the agents of a fleet file until all have ended, and tell how each ended.

    The first Ctrl-C or SIGTERM starts no more agents and lets the running ones finish, the second
    aborts them. The exit code is 0 if all completed, 1 if some failed or were aborted, 2 for bad
    input, 130 and 143 after signals.

    Args:
      fleet: The fleet file (TOML).
      driver: The model driver, such as openai:MODEL or auto, in place of the one in the files.
      max_concurrent: How many agents may run at once, in place of the number in the file.
      timeout: Seconds that each agent may take; it can only shorten what the file allows.
      var: NAME=VALUE, the value of a variable of the fleet's [vars]; may be repeated.
      quiet: Print nothing but the failures.
      as_json: Print one JSON document on standard output, and nothing else there.
    """
    from agentpool.cli._run import RunOptions, run_fleet
    from agentpool.cli._vars import parse_vars

    options = RunOptions(
        driver=driver,
        max_concurrent=max_concurrent,
        timeout=timeout,
        vars=parse_vars(var),
        quiet=quiet,
        as_json=as_json,
    )
    return run_fleet(fleet, options)


@app.command
def validate(file: Path, /, *files: Path, var: Variables = ()) -> int:
    """Check fleet and manifest files, and print every problem of all of them with its fix.

    Args:
      file: A fleet file or a manifest.
      files: More of them.
      var: NAME=VALUE, the value of a variable of the fleets' [vars]; may be repeated.
    """
    from agentpool.cli._files import check_file
    from agentpool.cli._vars import parse_vars

    vars = parse_vars(var)
    kinds: set[str] = set()
    problems = 0
    for path in (file, *files):
        try:
            kind = check_file(path, vars)
        except ManifestError as error:
            problems += len(error.findings)
            _complain(*map(str, error.findings))
        else:
            kinds.add(kind)
            print(f"{path}: a valid {kind}")
    if vars and kinds == {"manifest"} and not problems:
        problems += 1
        _complain("--var is for fleets, and no file is one. Leave it out")
    return BAD_INPUT if problems else 0


@app.command
def schema(kind: Literal["manifest", "fleet"] | None = None, /) -> int:
    """Print the JSON schema of a manifest, of a fleet file, or of both in one object.

    Args:
      kind: Which file; both if it is left out.
    """
    from agentpool.cli._files import SCHEMAS

    schemas = {name: make() for name, make in SCHEMAS.items()}
    print(json.dumps(schemas[kind] if kind else schemas, indent=2))
    return 0
