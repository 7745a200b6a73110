"""Whose turn it is, as a table: what came in, in which order it goes."""

from __future__ import annotations

from collections import deque

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool._core.turns import WOKEN_IN_A_ROW, Turns


@attrs.define(eq=False)
class Someone:
    name: str
    withdrawn: bool = False


def turns_of(arrivals: str) -> tuple[Turns[Someone], dict[str, Someone]]:
    """`w1 n1 -w1 !`: a woken one, a start, one that withdraws, a start that did not wait."""
    turns: Turns[Someone] = Turns()
    everybody: dict[str, Someone] = {}
    for word in arrivals.split():
        if word == "!":
            turns.started()
        elif word == ">":
            turns.next()
        elif word.startswith("-"):
            everybody[word[1:]].withdrawn = True
        else:
            someone = everybody[word] = Someone(word)
            (turns.wait_woken if word[0] == "w" else turns.wait_new)(someone)
    return turns, everybody


def order_of(turns: Turns[Someone]) -> str:
    names = []
    while (someone := turns.next()) is not None:
        names.append(someone.name)
    return " ".join(names)


WOKEN = [f"w{i}" for i in range(1, 20)]


@pytest.mark.parametrize(
    ("arrivals", "order"),
    [
        ("", ""),
        ("n1", "n1"),
        ("w1", "w1"),
        ("n1 n2 n3", "n1 n2 n3"),
        ("w1 w2 w3", "w1 w2 w3"),
        ("n1 w1", "w1 n1"),
        ("n1 w1 n2 w2", "w1 w2 n1 n2"),
        # After eight woken ones that went before a start that waited, one start goes first.
        (" ".join([*WOKEN[:10], "n1", "n2"]), " ".join([*WOKEN[:8], "n1", "w9", "w10", "n2"])),
        (" ".join([*WOKEN[:8], "n1"]), " ".join([*WOKEN[:8], "n1"])),
        (" ".join([*WOKEN[:9], "n1"]), " ".join([*WOKEN[:8], "n1", "w9"])),
        # Woken ones that went while no start waited do not count.
        (" ".join(["w1", "w2", ">", ">", "n1", *WOKEN[2:11]]), " ".join([*WOKEN[2:10], "n1", "w11"])),
        # A start that did not wait ends a row as well.
        (
            " ".join(["n1", *WOKEN[:4], ">", ">", ">", ">", "!", *WOKEN[4:13]]),
            " ".join([*WOKEN[4:12], "n1", "w13"]),
        ),
        # Who has withdrawn is passed over, and takes nobody's turn.
        ("w1 w2 -w1", "w2"),
        ("n1 n2 -n1", "n2"),
        ("n1 -n1", ""),
        ("w1 n1 -w1 -n1", ""),
        (" ".join([*WOKEN[:9], "n1", "n2", "-n1"]), " ".join([*WOKEN[:8], "n2", "w9"])),
        (" ".join([*WOKEN[:9], "n1", "-n1"]), " ".join(WOKEN[:9])),
    ],
)
def test_the_order_is(arrivals: str, order: str) -> None:
    turns, _ = turns_of(arrivals)
    assert order_of(turns) == order
    assert not turns


def test_starts_that_have_withdrawn_do_not_pile_up_while_no_slot_gets_free() -> None:
    turns: Turns[Someone] = Turns()
    for i in range(10_000):
        turns.wait_new(Someone(str(i), withdrawn=True))
    assert len(turns._new) <= 66
    assert turns.new == 0


def test_starts_can_be_taken_out_at_once() -> None:
    turns, everybody = turns_of("n1 w1 n2 n3 -n2")
    assert turns.new == 2
    assert turns.drop_new() == [everybody["n1"], everybody["n3"]]
    assert (turns.new, order_of(turns)) == (0, "w1")


@given(st.lists(st.sampled_from(["w", "n", ">", "-"]), max_size=80))
def test_nobody_is_lost_and_nobody_starves(words: list[str]) -> None:
    turns: Turns[Someone] = Turns()
    waiting: dict[str, deque[Someone]] = {"w": deque(), "n": deque()}
    in_a_row = 0
    for i, word in enumerate([*words, *[">"] * 80]):
        queue = waiting.get(word)
        if queue is not None:
            someone = Someone(f"{word}{i}")
            queue.append(someone)
            (turns.wait_woken if word == "w" else turns.wait_new)(someone)
        elif word == "-":
            both = [*waiting["w"], *waiting["n"]]
            if both:
                both[i % len(both)].withdrawn = True
                for queue in waiting.values():
                    for someone in [one for one in queue if one.withdrawn]:
                        queue.remove(someone)
        else:
            got = turns.next()
            if got is None:
                assert not any(waiting.values())
                continue
            kind = got.name[0]
            assert waiting[kind].popleft() is got
            assert kind == "w" or not waiting["w"] or in_a_row == WOKEN_IN_A_ROW
            in_a_row = in_a_row + 1 if kind == "w" and waiting["n"] else 0
            assert in_a_row <= WOKEN_IN_A_ROW
    assert not any(waiting.values())
