from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpool.abc import Memory, MemoryFragment
from agentpool.memory import InMemory
from agentpool.memory._words import terms_of


def contents(fragments: Sequence[MemoryFragment]) -> list[str]:
    return [fragment.content for fragment in fragments]


async def test_what_has_more_of_the_querys_words_comes_first() -> None:
    memory = InMemory()
    for text in ("red door", "the red door is open", "a window", "open window, red frame"):
        await memory.remember(text)
    found = await memory.recall("Open RED door?")
    assert contents(found) == ["the red door is open", "open window, red frame", "red door"]
    assert [fragment.relevance for fragment in found] == [1, 2 / 3, 2 / 3]


async def test_the_most_recent_comes_first_among_equals() -> None:
    memory = InMemory()
    for n in range(4):
        await memory.remember(f"door {n}")
    assert contents(await memory.recall("door", limit=3)) == ["door 3", "door 2", "door 1"]


async def test_the_clock_says_what_is_recent() -> None:
    times = iter([30.0, 10.0, 20.0])
    memory = InMemory(clock=lambda: next(times))
    for text in ("door a", "door b", "door c"):
        await memory.remember(text)
    assert contents(await memory.recall("door")) == ["door a", "door c", "door b"]
    assert contents(await memory.recall("door", since=20)) == ["door a", "door c"]


async def test_virtual_time_may_be_the_clock(autojump_clock: trio.testing.MockClock) -> None:
    memory = InMemory(clock=trio.current_time)
    await memory.remember("door early")
    await trio.sleep(60)
    await memory.remember("door late")
    assert contents(await memory.recall("door", since=trio.current_time() - 1)) == ["door late"]


async def test_a_fragment_tells_who_kept_what_and_when() -> None:
    memory = InMemory()
    first = await memory.remember("the door", source="tool", agent_id=7)
    second = await memory.remember("no match")
    assert (first, second) == (1, 2)
    assert await memory.recall("door") == (MemoryFragment(1, "the door", "tool", 7, 1.0, 1.0),)
    (other,) = await memory.recall("match")
    assert (other.source, other.agent_id, other.created_at) == ("user", 0, 2.0)


async def test_filters_leave_out_what_does_not_fit() -> None:
    memory = InMemory()
    await memory.remember("door a", source="tool", agent_id=1)
    await memory.remember("door b", source="user", agent_id=1)
    await memory.remember("door c", source="tool", agent_id=2)
    assert contents(await memory.recall("door", source="tool")) == ["door c", "door a"]
    assert contents(await memory.recall("door", agent_id=1)) == ["door b", "door a"]
    assert contents(await memory.recall("door", source="tool", agent_id=1)) == ["door a"]
    assert contents(await memory.recall("door", since=2)) == ["door c", "door b"]
    assert await memory.recall("door", source="nothing") == ()


async def test_a_query_finds_whole_words_of_any_script() -> None:
    memory = InMemory()
    await memory.remember("Straße nach Zürich, über 9000")
    await memory.remember("東京 タワー")
    assert len(await memory.recall("STRASSE")) == 1
    assert len(await memory.recall("Zu\N{COMBINING DIAERESIS}rich")) == 1
    assert len(await memory.recall("9000")) == 1
    assert len(await memory.recall("東京")) == 1
    assert await memory.recall("Zür") == ()
    assert await memory.recall("?! ...") == ()
    assert await memory.recall("") == ()


async def test_a_limit_is_zero_or_more() -> None:
    memory = InMemory()
    await memory.remember("door")
    assert await memory.recall("door", limit=0) == ()
    with pytest.raises(ValueError, match="limit is -1"):
        await memory.recall("door", limit=-1)


async def test_what_is_forgotten_is_not_found() -> None:
    memory = InMemory()
    first = await memory.remember("red door")
    await memory.remember("red window")
    assert await memory.forget(first) is True
    assert await memory.forget(first) is False
    assert contents(await memory.recall("red door")) == ["red window"]
    assert await memory.recall("door") == ()
    assert len(memory) == 1
    assert await memory.remember("new") == 3


async def test_values_are_kept_under_keys() -> None:
    memory = InMemory()
    assert await memory.get("a") is None
    assert await memory.get("a", 5) == 5
    await memory.set("a", None)
    assert await memory.get("a", 5) is None
    await memory.set("a", [1])
    assert await memory.get("a") == [1]
    assert repr(memory) == "<InMemory: 0 fragments, 1 values>"


async def test_past_its_capacity_the_oldest_is_dropped() -> None:
    memory = InMemory(capacity=2)
    for n in range(4):
        await memory.remember(f"door {n}")
    assert contents(await memory.recall("door")) == ["door 3", "door 2"]
    assert await memory.recall("0") == ()
    assert len(memory) == 2
    with pytest.raises(ValueError, match="capacity is 0"):
        InMemory(capacity=0)


async def test_a_cancelled_call_changes_nothing() -> None:
    memory = InMemory()
    await memory.remember("door")
    for call in (
        lambda: memory.remember("window"),
        lambda: memory.recall("door"),
        lambda: memory.set("a", 1),
        lambda: memory.get("a"),
        lambda: memory.forget(1),
    ):
        with trio.CancelScope() as scope:
            scope.cancel()
            await call()
        assert scope.cancelled_caught
    assert len(memory) == 1
    assert await memory.get("a") is None


def test_it_is_a_memory() -> None:
    assert isinstance(InMemory(), Memory)


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=4)


@settings(deadline=None)
@given(
    texts=st.lists(WORDS, max_size=8),
    query=WORDS,
    forgotten=st.sets(st.integers(1, 8)),
    limit=st.integers(0, 9),
)
def test_the_index_finds_what_a_look_at_every_text_finds(
    texts: list[list[str]], query: list[str], forgotten: set[int], limit: int
) -> None:
    async def main() -> None:
        memory = InMemory()
        for words in texts:
            await memory.remember(" ".join(words))
        for fragment_id in forgotten:
            await memory.forget(fragment_id)
        found = await memory.recall(" ".join(query), limit=limit)
        scores = {
            number: len(terms_of(" ".join(query)) & set(words))
            for number, words in enumerate(texts, 1)
            if number not in forgotten
        }
        ranked = sorted((n for n in scores if scores[n]), key=lambda n: (-scores[n], -n))
        assert [fragment.id for fragment in found] == ranked[:limit]

    trio.run(main)


async def test_recalling_from_many_is_quick() -> None:
    memory = InMemory()
    for n in range(10_000):
        await memory.remember(f"common word{n % 100} number{n}")
    few = InMemory()
    for n in range(100):
        await few.remember(f"common word{n} number{n}")

    async def measure(memory: InMemory, count: int) -> float:
        start = time.process_time()
        for n in range(20):
            assert len(await memory.recall(f"word{n} number{n}")) == count
        return time.process_time() - start

    times = [(await measure(memory, 5), await measure(few, 1)) for _ in range(3)]
    # A look at every text would take 100 times as long; it is about four, for more is found.
    assert min(many for many, _ in times) < 20 * min(one for _, one in times)


async def test_forgetting_everything_leaves_nothing_behind() -> None:
    memory = InMemory(capacity=1)
    for n in range(3):
        await memory.remember(f"common word{n}")
    await memory.forget(3)
    assert memory._with_word == {}
