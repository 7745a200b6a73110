"""A memory that lasts as long as its process."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import trio

from agentpool._core.messages import AgentId
from agentpool.abc import MemoryFragment, NamespacedMemory
from agentpool.memory._checks import checked_limit, checked_trust
from agentpool.memory._words import phrases_of, terms_of


class InMemory(NamespacedMemory):
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
          capacity: how many texts are kept in each namespace; past it the oldest one is dropped. None for
            no bound.

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
        self._namespace = ""
        self._namespaces: dict[str, InMemory] = {"": self}

    def __repr__(self) -> str:
        return f"<InMemory: {len(self._fragments)} fragments, {len(self._values)} values>"

    def __len__(self) -> int:
        return len(self._fragments)

    def namespace(self, name: str) -> InMemory:
        """Return the memory of this name within this one; the shared one for `""`."""
        if name not in self._namespaces:
            inner = InMemory(clock=self._clock, capacity=self._capacity)
            inner._ids, inner._namespace, inner._namespaces = self._ids, name, self._namespaces
            self._namespaces[name] = inner
        return self._namespaces[name]

    async def remember(
        self,
        content: str,
        *,
        source: str = "user",
        agent_id: AgentId = 0,
        origin: str = "",
        trust: float | None = None,
    ) -> int:
        """Keep a text, and return the id of the new fragment, from 1 up.

        Args:
          content: the text.
          source: what kind of thing it is.
          agent_id: which agent remembers it.
          origin: where it comes from, such as an address, a file, or a run.
          trust: how far it is to be believed, from 0 to 1; 1 if the source is `user`, else 0.5, if left out.

        Raises:
          ValueError: if `trust` is not from 0 to 1.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that nothing was kept.
        """
        await trio.lowlevel.checkpoint()
        trust = checked_trust(trust, source)
        fragment_id = next(self._ids)
        created_at = float(fragment_id) if self._clock is None else self._clock()
        self._fragments[fragment_id] = MemoryFragment(
            fragment_id, content, source, agent_id, created_at, 0.0, self._namespace, origin, trust
        )
        for word in terms_of(content):
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
        min_trust: float = 0.0,
    ) -> tuple[MemoryFragment, ...]:
        """Return the fragments that have words of the query, best first.

        Args:
          query: words to look for, as whole words; a query without any finds nothing.
          limit: how many fragments at the most.
          source: only fragments of this source.
          agent_id: only fragments of this agent.
          since: only fragments created at this time (seconds on the memory's clock) or later.
          min_trust: only fragments that are to be believed at least so far.

        Raises:
          ValueError: if `limit` is negative.

        Checkpoint: always.
        """
        await trio.lowlevel.checkpoint()
        limit = checked_limit(limit)
        words = phrases_of(query)
        hits = Counter(itertools.chain.from_iterable(self._with_word.get(word, ()) for word in words))

        def fits() -> Iterator[tuple[int, float, int]]:
            for fragment_id, count in hits.items():
                fragment = self._fragments[fragment_id]
                if (
                    (source is None or fragment.source == source)
                    and (agent_id is None or fragment.agent_id == agent_id)
                    and (since is None or fragment.created_at >= since)
                    and fragment.trust >= min_trust
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
        for word in terms_of(fragment.content):
            ids = self._with_word[word]
            ids.remove(fragment_id)
            if not ids:
                del self._with_word[word]
        return True
