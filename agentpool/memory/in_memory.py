"""A memory that lasts as long as its process."""

from __future__ import annotations

import heapq
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import trio

from agentpool._core.messages import AgentId
from agentpool.abc import Memory, MemoryFragment

_WORD = re.compile(r"\w+")


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text: letters, digits and `_` of any script, case folded."""
    return frozenset(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


class InMemory(Memory):
    """Keeps texts and values in this process; an index of words makes recalling quick.

    What is recalled has at least one word of the query. More of the query's words come first, and
    the most recent among equals; `relevance` is the share of the query's words that a text has.

    All of it is done between two checkpoints, so that agents never see half a change.
    """

    def __init__(self, *, clock: Callable[[], float] | None = None, capacity: int | None = None) -> None:
        """Make an empty memory.

        Args:
          clock: gives `created_at`, such as `time.time` or `trio.current_time`. Without one the
            fragments are counted, so that `since` still compares what is earlier and later, and
            one seed gives one result.
          capacity: how many texts are kept; past it the oldest one is dropped. None for no bound.

        Raises:
          ValueError: if `capacity` is below 1.
        """
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity is {capacity}; give at least 1, or None for no bound")
        self._clock = clock
        self._capacity = capacity
        self._ids = itertools.count(1)
        self._fragments: dict[int, MemoryFragment] = {}  # in the order of their ids
        self._with_word: dict[str, set[int]] = {}  # word -> the ids of the fragments that have it
        self._values: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<InMemory: {len(self._fragments)} fragments, {len(self._values)} values>"

    def __len__(self) -> int:
        return len(self._fragments)

    async def remember(self, content: str, *, source: str = "user", agent_id: AgentId = 0) -> int:
        """Keep a text, and return the id of the new fragment, from 1 up.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that nothing was kept.
        """
        await trio.lowlevel.checkpoint()
        fragment_id = next(self._ids)
        created_at = float(fragment_id) if self._clock is None else self._clock()
        self._fragments[fragment_id] = MemoryFragment(fragment_id, content, source, agent_id, created_at)
        for word in words_of(content):
            self._with_word.setdefault(word, set()).add(fragment_id)
        if self._capacity is not None and len(self._fragments) > self._capacity:
            self._drop(next(iter(self._fragments)))
        return fragment_id

    async def recall(
        self,
        query: str,
        *,
        limit: int = 5,
        source: str | None = None,
        agent_id: AgentId | None = None,
        since: float | None = None,
    ) -> tuple[MemoryFragment, ...]:
        """Return the fragments that have words of the query, best first.

        Args:
          query: words to look for, as whole words; a query without any finds nothing.
          limit: how many fragments at the most.
          source: only fragments of this source.
          agent_id: only fragments of this agent.
          since: only fragments created at this time (seconds on the memory's clock) or later.

        Raises:
          ValueError: if `limit` is negative.

        Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        if limit < 0:
            raise ValueError(f"limit is {limit}; give 0 or more")
        words = words_of(query)
        hits = Counter(itertools.chain.from_iterable(self._with_word.get(word, ()) for word in words))

        def fits() -> Iterator[tuple[int, float, int]]:
            for fragment_id, count in hits.items():
                fragment = self._fragments[fragment_id]
                if (
                    (source is None or fragment.source == source)
                    and (agent_id is None or fragment.agent_id == agent_id)
                    and (since is None or fragment.created_at >= since)
                ):
                    yield count, fragment.created_at, fragment_id

        best = heapq.nlargest(limit, fits())
        return tuple(
            attrs.evolve(self._fragments[fragment_id], relevance=count / len(words))
            for count, _, fragment_id in best
        )

    async def set(self, key: str, value: Any) -> None:
        """Keep a value under a key, in the place of what was there.

        Checkpoint: always. Cancellation: atomic.
        """
        await trio.lowlevel.checkpoint()
        self._values[key] = value

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value under a key, or `default`.

        Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        return self._values.get(key, default)

    async def forget(self, fragment_id: int) -> bool:
        """Drop a fragment; return whether there was one.

        Checkpoint: always. Cancellation: atomic.
        """
        await trio.lowlevel.checkpoint()
        return self._drop(fragment_id)

    def _drop(self, fragment_id: int) -> bool:
        fragment = self._fragments.pop(fragment_id, None)
        if fragment is None:
            return False
        for word in words_of(fragment.content):
            ids = self._with_word[word]
            ids.remove(fragment_id)
            if not ids:
                del self._with_word[word]
        return True
