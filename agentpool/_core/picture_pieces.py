"""What has changed in a picture, in pieces: so that nobody is kept busy for long by a large one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentpool._core.picture import Picture
from agentpool._core.picture_data import (
    arrow_data,
    changed_rows,
    head_data,
    newer,
    note_data,
    row_data,
    span_data,
)

PIECE = 500
"""A piece has no more agents, spans, messages and notes together."""


def pieces_since(picture: Picture, version: int, most: int = PIECE) -> Iterator[Mapping[str, Any]]:
    """Yield what is newer than a version, as `changes_since` does, in pieces of which there is at least one.

    The picture may change between two pieces. Only the last one has the version to ask from next time: the
    others have the one that was asked from, so that whoever is interrupted begins anew. `reset` is in the
    first one, also where everything was asked for.

    Args:
      picture: of the run.
      version: 0 for everything. So is one that is newer than the picture, which was never told.
      most: see `PIECE`.
    """
    since = 0 if version < picture.gone_before or version > picture.version else version
    upto = picture.version
    began = picture.began if picture.began == picture.began else 0.0
    lists: Mapping[str, Sequence[Any]] = {
        "agents": [row.id for row in changed_rows(picture, since)],
        "gone": [agent_id for _, agent_id in _after(picture.gone, since)] if since else [],
        "spans": list(newer(picture.spans, since)),
        "arrows": list(newer(picture.arrows, since)),
        "notes": list(newer(picture.notes, since)),
    }
    left = sum(map(len, lists.values()))
    at = dict.fromkeys(lists, 0)
    is_first = True
    while is_first or left:
        room = most
        taken: dict[str, Sequence[Any]] = {}
        for name, items in lists.items():
            taken[name] = items[at[name] : at[name] + room]
            at[name] += len(taken[name])
            room -= len(taken[name])
        left -= most - room
        yield {
            **head_data(picture),
            "version": version if left else upto,
            **({"reset": True} if is_first and not since else {}),
            # Who is not kept any more meanwhile is told as gone the next time.
            "agents": [
                row_data(picture.rows[each], began) for each in taken["agents"] if each in picture.rows
            ],
            "gone": list(taken["gone"]),
            "spans": [span_data(span, began) for span in taken["spans"]],
            "arrows": [arrow_data(arrow, began) for arrow in taken["arrows"]],
            "notes": [note_data(note, began) for note in taken["notes"]],
        }
        is_first = False


def _after(gone: deque[tuple[int, int]], since: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for each in reversed(gone):
        if each[0] <= since:
            break
        found.append(each)
    return found[::-1]
