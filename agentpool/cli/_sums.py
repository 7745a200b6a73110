"""A run in few lines: how many agents do what, what they use and how fast, and the pool's figures."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from agentpool._core.messages import AgentId
from agentpool._core.picture import BLOCKERS_KEPT, AgentRow, Picture
from agentpool._kernel.live_agents import told_so_far
from agentpool.cli._text import cut, listed, one_line

if TYPE_CHECKING:
    from agentpool._core.budget import BudgetStatistics
    from agentpool._kernel.inbox import InboxStatistics
    from agentpool._kernel.pool import AgentPool
    from agentpool._kernel.statistics import PoolStatistics
    from agentpool.cli._drivers import Drivers

WAITS_SHOWN = 5
STANDINGS = (
    "approval",
    "stuck",
    "failed",
    "retrying",
    "reasoning",
    "acting",
    "perceiving",
    "running",
    "waiting",
    "starting",
    "completed",
    "aborted",
)
"""What agents may be at, what needs somebody first; kinds of spans, ends, and `stuck`."""
_WORDS: Mapping[str, str] = {"approval": "waiting for approval"}


def standing_of(row: AgentRow) -> str:
    """Return what an agent is at, one of `STANDINGS`."""
    if row.ended_at is not None:
        return row.state
    if row.is_stuck:
        return "stuck"
    return row.kind or "running"


def tell_standings(counts: Mapping[str, int]) -> str:
    """Tell how many agents are at what; what nobody is at is left out."""
    return ", ".join(f"{counts[each]:,} {_WORDS.get(each, each)}" for each in STANDINGS if counts.get(each))


def standings_of(picture: Picture) -> Counter[str]:
    """Count what all agents are at, those that are not kept any more included."""
    counts = Counter(standing_of(row) for row in picture.rows.values() if row.ended_at is None)
    counts.update(picture.ends)
    return counts


def tell_all(picture: Picture, counts: Mapping[str, int]) -> str:
    """Tell how many agents there are, what they are at, and what was used."""
    number = len(picture.rows) + picture.forgotten
    agents = f"{number:,} agent{'' if number == 1 else 's'}"
    used = tell_used(picture.usage.total_tokens, picture.usage.cost_usd)
    return f"{agents}: {tell_standings(counts) or 'none yet'}{f'; {used}' if used else ''}"


def tell_rates(picture: Picture) -> str:
    """Tell for how long the run goes on, and how fast it has gone lately."""
    rate = picture.rates.at(picture.time)
    parts = (
        [f"{few(rate.tokens)} tokens/s, {_decimal(rate.calls)} calls/s"] if picture.usage.total_tokens else []
    )
    if picture.usage.cost_usd:
        parts.append(f"{price(rate.cost_usd * 60)}/min")
    if rate.ends:
        parts.append(f"{_decimal(rate.ends)} agents/s end")
    lasted = 0.0 if math.isnan(picture.began) else picture.time - picture.began
    return ", ".join([f"{span(lasted)} so far", *parts])


def tell_used(tokens: int, cost_usd: float) -> str:
    """Tell tokens and money; empty if there is neither."""
    parts = [f"{few(tokens)} tokens"] if tokens else []
    return ", ".join([*parts, *([price(cost_usd)] if cost_usd else [])])


def begin_with(picture: Picture, pool: AgentPool) -> None:
    """Take in the agents that are there already, such as those of a run that is resumed."""
    known = set(picture.rows)
    for event in told_so_far(pool):
        if event.agent_id not in known:
            picture.take(event)


def sample(picture: Picture, now: PoolStatistics, time: float) -> None:
    """Take into a picture what no event tells: who waits for whom, and who is stuck."""
    picture.sample({who.id: who.waits_for for who in now.waiting}, [agent.id for agent in now.stuck], time)


# -- the pool ----------------------------------------------------------------------


def pool_parts(now: PoolStatistics, rows: Mapping[AgentId, AgentRow] | None = None) -> list[str]:
    """Tell how many agents run, wait and for whom, and how many letters are dead.

    Args:
      now: the figures of the pool.
      rows: of agents, some of which are waited for and do not wait themselves.
    """
    first = now.waiting[:WAITS_SHOWN]
    wanted = {target for who in first for target in who.waits_for[:2]}
    names = {who.id: who.name for who in now.waiting if who.id in wanted}
    names |= {target: rows[target].name for target in wanted if rows and target in rows}
    waits = [f"{_short(who.name)} for {tell_targets(who.waits_for, names)}" for who in first]
    more = len(now.waiting) - WAITS_SHOWN
    told = f" ({', '.join(waits)}{f' and {more:,} more' if more > 0 else ''})" if waits else ""
    parts = [
        f"{now.running} running in {now.max_concurrent} slots",
        f"{now.lent} lent",
        f"{now.queued} queued",
        f"{now.backing_off} backing off",
        f"{now.waiting_to_start} to start",
        f"{now.messages_sent:,} messages",
        _tell_inboxes(now.inboxes.values()),
        f"{now.dead_letters} dead letters",
        f"{len(now.waiting)} waiting{told}",
    ]
    if now.budget is not None:
        parts.insert(0, _tell_budget(now.budget))
    if now.stuck:
        parts.append(f"stuck: {listed([agent.name for agent in now.stuck], WAITS_SHOWN)}")
    return parts


def provider_parts(drivers: Drivers) -> list[str]:
    """Tell of each provider how many calls are under way and wait for its quota, and for how long."""
    parts = []
    for provider, now in drivers.statistics():
        text = f"{provider}: {now.in_flight} calls under way, {now.waiting} waiting"
        if now.refused:
            text += f", {now.refused} refused"
        if now.pause:
            text += f", paused for {now.pause:.0f} s"
        if now.circuit != "closed":
            text += f", circuit {now.circuit.replace('_', ' ')}"
        parts.append(text)
    return parts


def _tell_budget(budget: BudgetStatistics) -> str:
    limit, spent = budget.limit, budget.spent
    parts = []
    if limit.tokens is not None:
        parts.append(f"{few(spent.tokens)} of {few(limit.tokens)} tokens")
    if limit.cost_usd is not None:
        parts.append(f"{price(spent.cost_usd)} of {price(limit.cost_usd)}")
    if limit.calls is not None:
        parts.append(f"{few(spent.calls)} of {few(limit.calls)} calls")
    waits = f" ({budget.waiting} calls wait for it)" if budget.waiting else ""
    return f"budget: {', '.join(parts)}{waits}"


def _tell_inboxes(inboxes: Collection[InboxStatistics]) -> str:
    if not inboxes:
        return "no inboxes"
    fill = sum(inbox.fill for inbox in inboxes)
    fullest = max(inboxes, key=lambda inbox: inbox.peak)
    return f"{fill} in inboxes (at most {fullest.peak} of {fullest.capacity} in one so far)"


def tell_targets(targets: Collection[AgentId], names: Mapping[AgentId, str]) -> str:
    """Name the first agents of those that somebody waits for."""
    few_names = [_short(names.get(target, str(target))) for target in list(targets)[:2]]
    more = len(targets) - len(few_names)
    # A picture keeps only the first of very many.
    or_more = " or more" if len(targets) == BLOCKERS_KEPT else " more"
    return " and ".join([*few_names, *([f"{more:,}{or_more}"] if more else [])]) or "anybody"


def _short(name: str) -> str:
    return cut(one_line(name), 30, sys.stderr)


# -- numbers that take little room -----------------------------------------------------


def few(number: float) -> str:
    """Tell a number in at most six columns, such as `9,999`, `12.3k` or `4.5M`."""
    if number < 9_999.5:
        return f"{number:,.0f}"
    for size, letter in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        if number < size * 999.95:
            return f"{number / size:.1f}{letter}"
    return f"{number / 1e12:,.1f}T"


def price(usd: float) -> str:
    """Tell US dollars, in at most seven columns below ten thousand of them."""
    if usd < 0.99995:
        return f"${usd:.4f}"
    return f"${usd:,.2f}" if usd < 999.995 else f"${usd:,.0f}"


def span(seconds: float) -> str:
    """Tell a time in at most six columns: `9.9s`, `59s`, `59m59s`, `23h59m` or `99d23h`."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86_400}d{whole // 3600 % 24:02}h"


def _decimal(number: float) -> str:
    return f"{number:.1f}" if number < 99.95 else few(number)
