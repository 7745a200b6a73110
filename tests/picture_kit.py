"""What the tests of the picture share: events in a row, a client that applies batches, what lanes hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs

from agentpool import AgentPool
from agentpool._core import events as ev
from agentpool._core.approval import ApprovalRequest
from agentpool._core.messages import AgentMessage, Completion, CompletionRequest, ToolCall, ToolResult
from agentpool._core.outcomes import Aborted, Completed, Failed
from agentpool._core.picture import SHORTEST_SPAN, AgentRow, Picture
from agentpool._core.picture_data import changes_since
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool.testing import PoolInstrument


class Told:
    """A picture, and the events that it is told, one after the other."""

    def __init__(self, picture: Picture | None = None, time: float = 100.0) -> None:
        self.picture = Picture() if picture is None else picture
        self.time = time
        self.seq = 0
        self.parents: dict[int, int] = {}

    def event(self, kind: type[Any], agent_id: int, *own: Any, after: float = 0.0) -> Any:
        self.time += after
        self.seq += 1
        return kind(self.seq, self.time, agent_id, self.parents.get(agent_id, 0), *own)

    def tell(self, kind: type[Any], agent_id: int, *own: Any, after: float = 0.0) -> int:
        """Tell an event that comes so many seconds after the last one; return its number."""
        self.picture.take(self.event(kind, agent_id, *own, after=after))
        return self.seq

    def row(self, agent_id: int) -> AgentRow:
        return self.picture.rows[agent_id]

    def spawn(self, agent_id: int, parent_id: int = 0, name: str = "", *, starts: bool = True) -> AgentRow:
        self.parents[agent_id] = parent_id
        self.tell(ev.AgentSpawned, agent_id, name or f"a{agent_id}")
        if starts:
            self.tell(ev.AgentStarted, agent_id)
        return self.row(agent_id)

    def asks_model(self, agent_id: int, model: str = "m", after: float = 0.0, provider: str = "p") -> int:
        request = CompletionRequest(model=model, messages=())
        return self.tell(ev.ModelCallStarted, agent_id, request, model, provider, "", False, after=after)

    def answers(
        self,
        agent_id: int,
        started: int,
        text: str = "",
        usage: TokenUsage = NO_USAGE,
        *,
        error: Exception | None = None,
        after: float = 0.0,
    ) -> None:
        completion = Completion(text, usage=usage) if error is None else None
        self.tell(ev.ModelCallFinished, agent_id, started, completion, error, False, after, None, after=after)

    def phase(self, agent_id: int, phase: str, iteration: int = 1, after: float = 0.0) -> None:
        self.tell(ev.PhaseChanged, agent_id, phase, iteration, after=after)

    def sends(self, sender: int, to: int, number: int = 1, after: float = 0.0, **kind: Any) -> None:
        self.tell(ev.MessageSent, sender, AgentMessage(sender, to, "x", number, **kind), after=after)

    def starts_tool(self, agent_id: int, name: str, id: str = "", after: float = 0.0) -> ToolCall:
        made = ToolCall(id or name, name)
        self.tell(ev.ToolStarted, agent_id, made, after=after)
        return made

    def ends_tool(self, agent_id: int, made: ToolCall, after: float = 0.0) -> None:
        self.tell(ev.ToolFinished, agent_id, made, ToolResult("ok"), after, after=after)

    def ends(
        self,
        agent_id: int,
        how: str = "completed",
        why: Any = None,
        usage: TokenUsage | None = None,
        after: float = 0.0,
    ) -> None:
        row = self.picture.rows.get(agent_id)
        used = usage if usage is not None else NO_USAGE if row is None else row.usage
        outcome = outcome_of(agent_id, self.parents.get(agent_id, 0), how, why, used)
        self.tell(ev.AgentFinished, agent_id, outcome, after=after)

    def sample(
        self, waiting: Mapping[int, tuple[int, ...]] | None = None, *stuck: int, after: float = 0.0
    ) -> None:
        self.time += after
        self.picture.sample(waiting or {}, stuck, self.time)

    def lane(self, agent_id: int) -> list[tuple[Any, ...]]:
        """The spans of an agent, in seconds since the first event; what is empty is left out."""
        began = self.picture.began
        return [
            tuple(
                part
                for part in (
                    span.kind,
                    round(span.start - began, 6),
                    round(span.end - began, 6),
                    span.detail,
                    span.blocked_on,
                )
                if part not in ("", ())
            )
            for span in self.picture.spans
            if span.agent == agent_id
        ]


def outcome_of(
    agent_id: int, parent_id: int, how: str = "completed", why: Any = None, usage: TokenUsage = NO_USAGE
) -> Any:
    facts: dict[str, Any] = {
        "agent_id": agent_id,
        "name": f"a{agent_id}",
        "parent_id": parent_id,
        "usage": usage,
        "duration": 0.5,
    }
    if how == "completed":
        return Completed(**facts, value=None)
    if how == "failed":
        return Failed(**facts, error=why or ValueError("no"))
    return Aborted(**facts, reason=why)


def request_of(agent_id: int, tool: str, id: str = "", **arguments: Any) -> ApprovalRequest:
    return ApprovalRequest.of(agent_id, f"a{agent_id}", ToolCall(id or tool, tool, arguments), "ask")


class Client:
    """Has what it was told, as a page in a browser has."""

    def __init__(self) -> None:
        self.version = 0
        self.forget()

    def forget(self) -> None:
        self.agents: dict[int, Any] = {}
        self.spans: list[Any] = []
        self.arrows: list[Any] = []
        self.notes: list[Any] = []
        self.totals: Any = None
        self.dropped: Any = None

    def ask(self, picture: Picture) -> Mapping[str, Any]:
        told = json.loads(json.dumps(changes_since(picture, self.version), allow_nan=False))
        assert told["version"] >= self.version
        if told.get("reset"):
            self.forget()
        self.version = told["version"]
        self.agents.update((each["id"], each) for each in told["agents"])
        for agent_id in told["gone"]:
            self.agents.pop(agent_id, None)
        self.spans += told["spans"]
        self.arrows += told["arrows"]
        self.notes += told["notes"]
        self.totals, self.dropped = told["totals"], told["dropped"]
        return told  # type: ignore[no-any-return]


def check_lanes(picture: Picture, slack: float = 1e-9) -> None:
    """The spans of a lane follow upon each other without overlap or gap, from the spawn to the end.

    Only where no span was dropped.
    """
    assert not picture.spans_dropped
    lanes: dict[int, list[Any]] = {}
    for span in picture.spans:
        lanes.setdefault(span.agent, []).append(span)
    for row in picture.rows.values():
        at = row.spawned_at
        for span in lanes.get(row.id, ()):
            assert abs(span.start - at) <= slack, (row.name, span, at)
            assert span.end >= span.start
            at = span.end
        if row.ended_at is None:
            assert abs(row.since - at) <= slack
        else:
            assert row.kind is None
            assert 0 <= row.ended_at - at < SHORTEST_SPAN


@attrs.define(eq=False, kw_only=True)
class Pictures(PoolInstrument):
    """Draws a picture of each pool, and compares its sums with the pool's own books when that has ended.

    Who waits for whom is sampled after each so many events, so that lanes are drawn with waits too.
    """

    every: int = 5
    pictures: list[Picture] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    tools: Counter[int] = attrs.field(factory=Counter)

    def pool_opened(self, pool: AgentPool) -> None:
        """Begin a picture."""
        picture, books = Picture(), Counter[str]()
        self.pictures.append(picture)
        before = pool.statistics()

        def show(event: ev.Event) -> None:
            books["tools"] += isinstance(event, ev.ToolStarted)
            if isinstance(event, ev.MessageDeadLettered):
                books["dead letters of the program"] += event.message.to == 0
            picture.take(event)
            if event.seq % self.every == 0:
                now = pool.statistics()
                stuck = [each.id for each in now.stuck]
                picture.sample({each.id: each.waits_for for each in now.waiting}, stuck, event.time)

        def ended() -> None:
            self.problems += differences(picture, pool, books)
            check_lanes(picture)
            assert before.spawned == 0

        pool._state.events.tap(show, ended)


def differences(picture: Picture, pool: AgentPool, books: Mapping[str, int]) -> list[str]:
    """Return where the sums of a picture and the books of its pool differ."""
    now, rows = pool.statistics(), picture.rows.values()
    money = picture.usage.cost_usd, now.usage.cost_usd
    same = {
        "usage": (attrs.evolve(picture.usage, cost_usd=0.0), attrs.evolve(now.usage, cost_usd=0.0)),
        "money": (round(money[0], 9), round(money[1], 9)),
        "usage of rows": (
            sum(row.usage.total_tokens for row in rows),
            now.usage.total_tokens,
        ),
        "spawned": (len(rows) + picture.forgotten, now.spawned),
        "ended": (sum(picture.ends.values()), now.ended),
        "ended rows": (sum(row.has_ended for row in rows), now.ended),
        "sent": (len(picture.arrows) + picture.arrows_dropped, now.messages_sent),
        "dead letters": (
            sum(row.dead_letters for row in rows) + books["dead letters of the program"],
            now.dead_letters,
        ),
        "tools": (sum(row.tool_calls for row in rows), books["tools"]),
        "left over": ([row for row in rows if row.calls or row.asking or row.asked or row.is_stuck], []),
    }
    changes = Client()
    changes.ask(picture)
    return [f"{name}: {one} is not {other}" for name, (one, other) in same.items() if one != other]
