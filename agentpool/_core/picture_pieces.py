"""What has changed in a picture, in pieces: so that nobody is kept busy for long by a large one."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentpool._core.messages import AgentId
from agentpool._core.picture import Arrow, Note, Picture, Span
from agentpool._core.picture_data import (
    arrow_data,
    changed_rows,
    head_data,
    newer,
    note_data,
    row_data,
    span_data,
)

PIECE = 250
"""A piece has no more agents, spans, messages and notes, of each."""


def pieces_since(picture: Picture, version: int, most: int = PIECE) -> Iterator[Mapping[str, Any]]:
    """Yield what is newer than a version, as `changes_since` does, in pieces of which there is at least one.

    The picture may change between two pieces. Whoever loses what comes behind a piece asks from its
    `version`, and misses nothing and is told nothing twice. Where all is told, so that `reset` is in the
    first piece, each but the last has the version that was asked from: it is told all of it again.

    Args:
      picture: of the run.
      version: 0 for everything. So is one that is newer than the picture, which was never told.
      most: see `PIECE`.
    """
    if 0 < version <= picture.version and version >= picture.gone_before:
        return _new_pieces(picture, version, most)
    return _all_pieces(picture, version, most)


def _new_pieces(picture: Picture, since: int, most: int) -> Iterator[Mapping[str, Any]]:
    """Yield pieces in the order of the versions, so that each is complete up to its own."""
    upto = picture.version
    agents = [(row.version, row.id) for row in changed_rows(picture, since)]
    forgotten = _gone(picture.gone, since)
    spans, arrows = list(newer(picture.spans, since)), list(newer(picture.arrows, since))
    notes = list(newer(picture.notes, since))
    lists: Mapping[str, Sequence[Any]] = {
        "agents": agents,
        "gone": forgotten,
        "spans": spans,
        "arrows": arrows,
        "notes": notes,
    }
    versions = {
        "agents": [number for number, _ in agents],
        "gone": [number for number, _ in forgotten],
        "spans": [each.version for each in spans],
        "arrows": [each.version for each in arrows],
        "notes": [each.version for each in notes],
    }
    at = dict.fromkeys(lists, 0)
    version = since
    while True:
        last = [
            versions[name][start + most - 1] for name, start in at.items() if len(lists[name]) - start > most
        ]
        version = min(last, default=upto)
        taken = {}
        for name, start in at.items():
            at[name] = bisect_right(versions[name], version, start)
            taken[name] = lists[name][start : at[name]]
        ids = [agent_id for _, agent_id in taken["agents"]]
        gone = [agent_id for _, agent_id in taken["gone"]]
        yield _piece(picture, version, ids, taken["spans"], taken["arrows"], taken["notes"], gone=gone)
        if version == upto:
            return


def _all_pieces(picture: Picture, version: int, most: int) -> Iterator[Mapping[str, Any]]:
    """Yield all there is: first the agents, in the order of their spawns, and then what tells of them."""
    upto = picture.version
    ids, spans, arrows, notes = (
        list(picture.rows),
        list(picture.spans),
        list(picture.arrows),
        list(picture.notes),
    )
    # The last piece with agents is the first with the others: so most pictures are one piece.
    first = max(0, len(ids) - 1) // most * most
    end = max(len(ids), first + max(len(spans), len(arrows), len(notes)), 1)
    for start in range(0, end, most):
        rest = slice(max(0, start - first), max(0, start - first + most))
        piece = _piece(
            picture,
            version if start + most < end else upto,
            ids[start : start + most],
            spans[rest],
            arrows[rest],
            notes[rest],
        )
        yield piece if start else {**piece, "reset": True}


def _piece(
    picture: Picture,
    version: int,
    ids: Sequence[AgentId],
    spans: Sequence[Span],
    arrows: Sequence[Arrow],
    notes: Sequence[Note],
    *,
    gone: Sequence[AgentId] = (),
) -> Mapping[str, Any]:
    began = picture.began if picture.began == picture.began else 0.0
    return {
        **head_data(picture),
        "version": version,
        # Who is not kept any more meanwhile is told as gone the next time.
        "agents": [row_data(picture.rows[each], began) for each in ids if each in picture.rows],
        "gone": list(gone),
        "spans": [span_data(span, began) for span in spans],
        "arrows": [arrow_data(arrow, began) for arrow in arrows],
        "notes": [note_data(note, began) for note in notes],
    }


def _gone(gone: deque[tuple[int, AgentId]], since: int) -> Sequence[tuple[int, AgentId]]:
    found: list[tuple[int, AgentId]] = []
    for each in reversed(gone):
        if each[0] <= since:
            break
        found.append(each)
    return found[::-1]
