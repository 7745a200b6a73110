"""Journals of this version, kept as text: `python -m tests.crashes._journals` writes them anew.

Each is a run that was cut off: whoever changes what records hold sees here whether they are still read.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from agentpool._core.records import RECORDS, SCHEMA_VERSION, JournalRecord
from agentpool.testing import NO_FAULTS

from . import _cases, _town
from ._kills import run_simulated
from ._oracle import Main, run
from ._runs import program_of

FOLDER = Path(__file__).with_name("journals")

PROGRAMS: dict[str, Main] = {
    "town": _town.main,
    "random": program_of(6, tidy=True),
    **{
        case.__name__: _cases.program_of_case(case)
        for case in (_cases.dispatcher, _cases.patient, _cases.looker)
    },
}


def path_of(name: str) -> Path:
    """Return where the journal of a program is kept."""
    return FOLDER / f"version{SCHEMA_VERSION}-{name}.jsonl"


def read(name: str) -> tuple[Any, list[JournalRecord]]:
    """Return what a program comes to, and the journal of a whole run of it."""
    first, *rest = path_of(name).read_text("utf-8").splitlines()
    return json.loads(first), [JournalRecord(**json.loads(line)) for line in rest]


def write(name: str) -> None:
    """Run a program, and keep its journal."""
    ran = run(PROGRAMS[name])
    lines = [ran.result[0], *map(attrs.asdict, ran.tape.kept)]
    FOLDER.mkdir(exist_ok=True)
    path_of(name).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def as_sql(path: Path) -> str:
    """Return the file of a journal as SQL, which makes it again."""
    with closing(sqlite3.connect(path)) as connection:
        pragmas = [
            f"PRAGMA {name} = {connection.execute(f'PRAGMA {name}').fetchone()[0]};"
            for name in ("application_id", "user_version")
        ]
        return "\n".join([*pragmas, *connection.iterdump()]) + "\n"


SQL = FOLDER / f"version{SCHEMA_VERSION}-patient.sql"


def write_sql() -> None:
    """Keep the file of a journal as SQL."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.db"
        run_simulated(PROGRAMS["patient"], path, NO_FAULTS, 0)
        SQL.write_text(as_sql(path), "utf-8")


def kinds_kept() -> set[str]:
    """Return the kinds of the records that are kept."""
    return {record.kind for name in PROGRAMS for record in read(name)[1]}


UNUSED = {"asked", "decided", "resumed"}
"""Kinds that no program here has: approvals, and runs that went on."""

if __name__ == "__main__":
    for each in PROGRAMS:
        write(each)
    write_sql()
    print(sorted(set(RECORDS) - kinds_kept()))
