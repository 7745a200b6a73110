"""Damage to the files of a journal, as disks and people do it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import trio

from agentpool import JournalCorruptError, JournalError
from agentpool._core.records import JournalRecord
from agentpool.journal import SqliteJournal, read_journal

SUFFIXES = ("", "-wal", "-shm")


def damage(data: bytes, rng: Random) -> bytes:
    """Return bytes with something cut, zeroed, flipped or put elsewhere."""
    if not data:
        return data
    at = rng.randrange(len(data))
    length = rng.choice([1, 1, 2, 8, 100, 512, 4096])
    match rng.choice(["cut", "zero", "flip", "flip", "flip", "noise", "copy"]):
        case "cut":
            return data[:at]
        case "zero":
            return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]
        case "flip":
            changed = bytearray(data)
            for _ in range(rng.choice([1, 1, 1, 3])):
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case "noise":
            return data[:at] + rng.randbytes(len(data[at : at + length])) + data[at + length :]
        case _:
            other = rng.randrange(len(data))
            piece = data[other : other + length]
            return data[:at] + piece + data[at + len(piece) :]


def files_of(path: Path) -> dict[str, bytes]:
    """Return the files of a journal, by their suffixes."""
    found = {suffix: path.with_name(path.name + suffix) for suffix in SUFFIXES}
    return {suffix: file.read_bytes() for suffix, file in found.items() if file.exists()}


def written(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the files of a journal into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for suffix, data in files.items():
        (folder / f"run.db{suffix}").write_bytes(data)
    return folder / "run.db"


async def opened(path: Path) -> list[JournalRecord]:
    """Return what a journal holds when it is opened to be written."""
    journal = SqliteJournal(path)
    records = await journal.open()
    await journal.aclose()
    return list(records)


def problems_of_damage(
    files: dict[str, bytes], whole: list[JournalRecord], folder: Path, seed: int
) -> Iterator[str]:
    """Damage a journal, and look at what is read of it: a beginning, or that it is damaged."""
    rng = Random(f"damage {seed}")
    suffix = rng.choice(sorted(files))
    damaged = {**files, suffix: damage(files[suffix], rng)}
    for how in ("read", "open"):
        path = written(folder, damaged)
        try:
            found = list(read_journal(path)) if how == "read" else trio.run(opened, path)
        except JournalCorruptError:
            continue
        except JournalError as error:
            # Another version is named: who flips a bit of the version has made it one.
            if "is a journal of version" not in str(error):
                yield f"{how}, damage {seed} to {suffix or 'the file'}: {error!r}"
        except Exception as error:
            yield f"{how}, damage {seed} to {suffix or 'the file'}: {error!r}"
        else:
            if found != whole[: len(found)]:
                yield f"{how}, damage {seed} to {suffix or 'the file'}: {len(found)} other records"
