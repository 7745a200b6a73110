"""What is measured, at which size, and the goals: data only."""

# ruff: noqa: RUF001  (tables are for people: × and –)

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contender:
    """A function of this package that does one workload once.

    Attributes:
      label: as the table shows it; unique within its workload.
      target: `module:function`; it takes a size and returns figures by their names.
      size: of a measured run.
      warm_up: size of the run before it in the same process; 0 for none.
      tiny: a size for the smoke test.
      environment: what a peer's environment holds, as `smolagents` or `langgraph+langchain`; empty
        for the ordinary environment.
      peer: only on request.
      once: measured in the first round only, because it takes long or hardly varies.
    """

    label: str
    target: str
    size: int
    warm_up: int = 0
    tiny: int = 10
    environment: str = ""
    peer: bool = False
    once: bool = False

    @property
    def ours(self) -> bool:
        return self.label.startswith("agentpool")


@dataclass(frozen=True)
class Goal:
    """`metric` of `label` is at most `at_most` times that of `of`, or at most `at_most` itself."""

    label: str
    metric: str
    at_most: float
    of: str = ""


@dataclass(frozen=True)
class Workload:
    """A table: contenders down, metrics across.

    `metrics` maps the names of figures to their headings; `floor` is what ratios refer to.
    """

    name: str
    title: str
    metrics: dict[str, str]
    contenders: tuple[Contender, ...]
    floor: str = ""
    goals: tuple[Goal, ...] = field(default=())


def _w1() -> Workload:
    def contender(label: str, target: str, **options: object) -> Contender:
        return Contender(label, target, 10_000, 500, 200, **options)  # type: ignore[arg-type]

    return Workload(
        "W1",
        "Spawn and join: 10,000 agents that make one checkpoint each, 100 at once",
        {"us": "µs per agent", "kb": "KB per queued item"},
        (
            contender("trio: 100 workers", "w1_floors:workers"),
            contender("trio: a finishing task starts the next", "w1_floors:next_starts"),
            contender("trio: limiter (floor)", "w1_floors:limiter"),
            contender("agentpool: map", "w1_agentpool:map_"),
            contender("agentpool: as_completed", "w1_agentpool:as_completed"),
            contender("agentpool: spawn + join_next", "w1_agentpool:spawn_and_join"),
            Contender("agentpool: 100,000 items queued", "w1_agentpool:queued", 100_000, 0, 1_000, once=True),
            contender("aiometer on trio", "peer_aiometer:spawn", environment="aiometer", peer=True),
            contender(
                "autogen-core send_message", "peer_autogen:spawn", environment="autogen-core", peer=True
            ),
            Contender("Ray tasks (wall clock)", "peer_ray:spawn", 2_000, 200, 20, "ray", peer=True),
        ),
        floor="trio: limiter (floor)",
        goals=(
            Goal("agentpool: map", "us", 0.65, "trio: limiter (floor)"),
            Goal("agentpool: as_completed", "us", 0.65, "trio: limiter (floor)"),
            Goal("agentpool: spawn + join_next", "us", 0.95, "trio: limiter (floor)"),
            Goal("agentpool: 100,000 items queued", "kb", 0.3),
            Goal("agentpool: map", "us", 1.0, "aiometer on trio"),
            Goal("agentpool: map", "us", 1 / 8, "autogen-core send_message"),
            Goal("agentpool: map", "us", 1 / 30, "Ray tasks (wall clock)"),
        ),
    )


def _w2(what: str, function: str, *, ring: bool = False) -> Workload:
    floor = "trio: channels behind a dict (floor)"
    tiny = 1_000
    return Workload(
        f"W2 {function.replace('_', '-')}",
        f"Messages by id, inboxes of 32: {what}",
        {"us": "µs per message"},
        (
            Contender(floor, f"w2_floors:{function}", 20_000, 2_000, tiny),
            Contender("agentpool", f"w2_agentpool:{function}", 20_000, 2_000, tiny),
            Contender("anyio streams on trio", f"peer_anyio:{function}", 20_000, 2_000, tiny, peer=True),
            Contender(
                "autogen-core", f"peer_autogen:{function}", 5_000, 1_000, tiny, "autogen-core", peer=True
            ),
            *(
                ()
                if ring
                else (
                    Contender(
                        "Ray actors (wall clock)", f"peer_ray:{function}", 1_000, 200, 200, "ray", peer=True
                    ),
                )
            ),
        ),
        floor=floor,
        goals=(
            Goal("agentpool", "us", 2.0 if ring else 1.5, floor),
            Goal("agentpool", "us", 1 / 8, "autogen-core"),
        ),
    )


def _w3() -> tuple[Workload, Workload]:
    floor = "trio: all duties by hand (floor “full”)"
    # label: (requirements, joined by +; module; how many times faster we are to be)
    others = {
        "smolagents": ("smolagents", "peer_smolagents", 10),
        "autogen-agentchat": ("autogen-agentchat+autogen-ext", "peer_autogen_agentchat", 15),
        "openai-agents": ("openai-agents", "peer_openai_agents", 35),
        "pydantic-ai": ("pydantic-ai-slim", "peer_pydantic_ai", 35),
        "langgraph": ("langgraph+langchain", "peer_langgraph", 35),
    }
    turn = Workload(
        "W3 turn",
        "One turn of the loop: 10 calls of `add(a: int, b: int) -> int`, then an answer; model in memory",
        {"us": "µs per turn"},
        (
            Contender("trio: bare loop", "w3_floors:bare", 1_000, 50, 5),
            Contender(floor, "w3_floors:full", 1_000, 50, 5),
            Contender("agentpool", "w3_agentpool:turns", 1_000, 50, 5),
            Contender("agentpool: agents of 500 turns", "w3_agentpool:long_turns", 1_000, 50, 5),
            *(
                Contender(label, f"{module}:turns", 30, 3, 2, requirements, peer=True)
                for label, (requirements, module, _) in others.items()
            ),
        ),
        floor=floor,
        goals=(
            Goal("agentpool", "us", 1.9, floor),
            Goal("agentpool: agents of 500 turns", "us", 1.1, "agentpool"),
            *(Goal("agentpool", "us", 1 / times, label) for label, (_, _, times) in others.items()),
        ),
    )
    crowd = Workload(
        "W3 crowd",
        "1,000 agents at once, a model that takes 50 ms",
        {"wall": "× ideal wall clock", "kb": "KB per running agent"},
        (
            Contender("trio: bare loop", "w3_floors:bare_crowd", 1_000, 50, 20),
            Contender(floor, "w3_floors:full_crowd", 1_000, 50, 20),
            Contender("agentpool", "w3_agentpool:crowd", 1_000, 50, 20),
        ),
        floor=floor,
        goals=(Goal("agentpool", "wall", 1.7), Goal("agentpool", "kb", 20)),
    )
    return turn, crowd


def _w4() -> Workload:
    floor = "trio: task and channel (floor)"
    return Workload(
        "W4",
        "Alive and waiting: start, a message and its reply, end; 10,000 agents alive at once",
        {"us": "µs per agent", "kb": "KB per waiting agent"},
        (
            Contender(floor, "w4_floors:tasks", 10_000, 100, 50),
            Contender("agentpool", "w4_agentpool:agents", 10_000, 100, 50),
        ),
        floor=floor,
        goals=(Goal("agentpool", "us", 2.3, floor), Goal("agentpool", "kb", 7)),
    )


def _w5() -> Workload:
    floor = "trio: one nursery (floor)"
    return Workload(
        "W5",
        "Shutdown: from `abort_all` to the last outcome, 10,000 agents alive",
        {"ms": "ms"},
        (
            Contender(floor, "w5_floors:nursery", 10_000, 100, 50),
            Contender("trio: a scope each", "w5_floors:nursery_and_scopes", 10_000, 100, 50),
            Contender("agentpool: no child, no inbox in use", "w5_agentpool:asleep", 10_000, 100, 50),
            Contender("agentpool: each receives", "w5_agentpool:receiving", 10_000, 100, 50),
            Contender("agentpool: families of ten", "w5_agentpool:families", 10_000, 100, 50),
        ),
        floor=floor,
        goals=(
            Goal("agentpool: no child, no inbox in use", "ms", 2.0, floor),
            Goal("agentpool: each receives", "ms", 3.0, floor),
            Goal("agentpool: families of ten", "ms", 3.0, floor),
        ),
    )


def _w6() -> Workload:
    floor = "trio: the emitters' checkpoints (floor)"
    return Workload(
        "W6",
        "Events: 100 emitters, 50,000 events",
        {"us": "µs per event", "lost": "% lost"},
        (
            Contender(floor, "w6_floors:checkpoints", 50_000, 1_000, 500),
            Contender("trio: a shared list, 8 readers", "w6_floors:shared_log_8", 50_000, 1_000, 500),
            Contender("agentpool: emit, no subscriber", "w6_agentpool:unobserved", 50_000, 1_000, 500),
            Contender("agentpool: 1 reader", "w6_agentpool:one_reader", 50_000, 1_000, 500),
            Contender("agentpool: 8 readers", "w6_agentpool:eight_readers", 50_000, 1_000, 500),
            Contender(
                "agentpool: 1 reader and a slow one", "w6_agentpool:one_fast_one_slow", 50_000, 1_000, 500
            ),
        ),
        floor=floor,
        goals=(
            Goal("agentpool: emit, no subscriber", "us", 0.2),
            Goal("agentpool: 8 readers", "us", 2.5, floor),
            Goal("agentpool: 8 readers", "lost", 0),
            Goal("agentpool: 1 reader and a slow one", "us", 1.1, "agentpool: 1 reader"),
        ),
    )


def _w7() -> Workload:
    return Workload(
        "W7",
        "The rest",
        {"ms": "ms"},
        (
            Contender("import trio", "w7:import_trio", 1),
            Contender("agentpool: import", "w7:import_agentpool", 1),
            Contender("agentpool: from agentpool import open_agent_pool", "w7:import_pool", 1),
            Contender(
                "agentpool: statistics() of 10,000 agents", "w7:statistics", 10_000, tiny=100, once=True
            ),
            Contender(
                "agentpool: statistics() of 10,000 agents that wait",
                "w7:statistics_of_waiting",
                10_000,
                tiny=100,
                once=True,
            ),
            Contender("agentpool: command line to the first agent", "w7:command_line", 1),
        ),
        floor="import trio",
        goals=(
            Goal("agentpool: import", "ms", 1.5, "import trio"),
            Goal("agentpool: from agentpool import open_agent_pool", "ms", 1.7, "import trio"),
            Goal("agentpool: statistics() of 10,000 agents", "ms", 5),
            Goal("agentpool: statistics() of 10,000 agents that wait", "ms", 20),
            Goal("agentpool: command line to the first agent", "ms", 600),
        ),
    )


def _w7_journal() -> tuple[Workload, Workload]:
    kept = ("agentpool: 20 agents at once", "agentpool: 100 agents at once")
    cpu = Workload(
        "W7 journal",
        "What a journal adds to a turn of W3, for each observation, JSON and file counted",
        {"us": "µs per observation"},
        (
            Contender("agentpool: one agent at a time", "w7_journal:one_at_once", 100, 10, 2),
            Contender(kept[0], "w7_journal:twenty_at_once", 200, 20, 2),
            Contender(kept[1], "w7_journal:hundred_at_once", 300, 20, 2),
        ),
        floor=kept[0],
        goals=tuple(Goal(label, "us", 60) for label in kept),
    )
    wall = Workload(
        "W7 journal delay",
        "A turn with a model that takes 50 ms, with a journal and without",
        {"ms": "ms per turn"},
        (
            Contender("agentpool: one agent, no journal", "w7_journal:turn_without", 1, 1, 1),
            Contender("agentpool: one agent", "w7_journal:turn", 1, 1, 1),
            Contender("agentpool: 100 agents, no journal", "w7_journal:turn_without", 100, 20, 2),
            Contender("agentpool: 100 agents", "w7_journal:turn", 100, 20, 2),
            Contender(
                "agentpool: 100 agents in step, no journal", "w7_journal:turn_in_step_without", 100, 20, 2
            ),
            Contender("agentpool: 100 agents in step", "w7_journal:turn_in_step", 100, 20, 2),
        ),
        floor="agentpool: one agent, no journal",
        goals=(
            Goal("agentpool: one agent", "ms", 1.03, "agentpool: one agent, no journal"),
            Goal("agentpool: 100 agents", "ms", 1.1, "agentpool: 100 agents, no journal"),
        ),
    )
    return cpu, wall


def _w8() -> tuple[Workload, ...]:
    floor = "httpx2 alone (floor)"
    peers = {
        "OpenAI's SDK alone": ("openai", "sdk"),
        "pydantic-ai": ("pydantic-ai-slim[openai]", "pydantic_ai"),
        "langchain-openai": ("langchain-openai", "langchain"),
    }

    def others(kind: str, size: int) -> tuple[Contender, ...]:
        return tuple(
            Contender(label, f"peer_w8:{name}_{kind}", size, 0, 20, requirements, peer=True)
            for label, (requirements, name) in peers.items()
        )

    return (
        Workload(
            "W8 plain",
            "A call over the wire: CPU of the client on loopback, 20 at once, with retries, a governor and a"
            " budget",
            {"ms": "ms per call"},
            (
                Contender(floor, "w8:floor_plain", 1_000, 0, 20),
                Contender("agentpool", "w8:agentpool_plain", 1_000, 0, 20),
                Contender("agentpool: model agents of ten turns", "w8:agentpool_turns", 1_000, 0, 20),
                *others("plain", 400),
            ),
            floor=floor,
            goals=(Goal("agentpool", "ms", 1.5, floor),),
        ),
        Workload(
            "W8 stream",
            "The same, streamed in 50 pieces; agentpool: model agents of ten turns, each piece an event that"
            " is read",
            {"ms": "ms per call"},
            (
                Contender(floor, "w8:floor_stream", 400, 0, 20),
                Contender("agentpool", "w8:agentpool_stream", 400, 0, 20),
                *others("stream", 100),
            ),
            floor=floor,
            goals=(Goal("agentpool", "ms", 1.6, floor),),
        ),
        Workload(
            "W8 setup",
            "Import, first client, first answer",
            {"s": "s"},
            (Contender(floor, "w8:floor_setup", 1), Contender("agentpool", "w8:agentpool_setup", 1)),
            floor=floor,
            goals=(Goal("agentpool", "s", 0.25),),
        ),
        Workload(
            "W8 crowd",
            "1,000 agents of 10 calls each over real connections; no socket is left",
            {"ms": "ms per call"},
            (
                Contender(floor, "w8:floor_crowd", 1_000, 0, 20, once=True),
                Contender("agentpool", "w8:agentpool_crowd", 1_000, 0, 20, once=True),
            ),
            floor=floor,
            goals=(Goal("agentpool", "ms", 1.5, floor),),
        ),
    )


def _w9() -> tuple[Workload, Workload, Workload]:
    events = (
        ("an event of no use", "ignored"),
        ("a piece of an answer", "words"),
        ("a change of phase", "phases"),
        ("a model call's event", "models"),
        ("a tool call's event", "tools"),
        ("a message", "messages"),
        ("a whole agent: spawn, start, end", "agents"),
    )
    views = (
        ("a sample, nothing new", "sample_same"),
        ("a sample, all begin to wait", "sample_all"),
        ("all agents as data", "changes_all"),
        ("all agents as JSON", "changes_all_json"),
        ("10 that changed, as JSON", "changes_few"),
    )
    return (
        Workload(
            "W9 events",
            "What is seen: an event taken into the picture of a run",
            {"us": "µs"},
            tuple(
                Contender(f"agentpool: {label}", f"w9:{name}", 100_000, 1_000, 100) for label, name in events
            ),
            floor="agentpool: an event of no use",
            goals=tuple(Goal(f"agentpool: {label}", "us", 5) for label, _ in events[:-1]),
        ),
        Workload(
            "W9 views",
            "The picture of 10,000 agents, and of 500,000 spans",
            {"ms": "ms", "bytes": "bytes per span"},
            (
                *(Contender(f"agentpool: {label}", f"w9:{name}", 10_000, 0, 100) for label, name in views),
                Contender("agentpool: 500,000 spans as data", "w9:spans", 500_000, 0, 1_000, once=True),
            ),
            floor="agentpool: a sample, nothing new",
            goals=(
                Goal("agentpool: a sample, all begin to wait", "ms", 25),
                Goal("agentpool: all agents as JSON", "ms", 100),
                Goal("agentpool: 10 that changed, as JSON", "ms", 1),
                Goal("agentpool: 500,000 spans as data", "bytes", 250),
            ),
        ),
        Workload(
            "W9 run",
            "1,000 agents of 20 turns, 100 at once, with a model that takes no time; who watches them",
            {"us": "µs per turn"},
            (
                Contender("agentpool: nobody", "w9:unseen", 1_000, 20),
                Contender("agentpool: a subscriber that never reads", "w9:dropped", 1_000, 20),
                Contender("agentpool: a subscriber that reads", "w9:read", 1_000, 20),
                Contender("agentpool: a picture, four times a second as JSON", "w9:drawn", 1_000, 20),
            ),
            floor="agentpool: nobody",
            goals=(
                Goal("agentpool: a picture, four times a second as JSON", "us", 2.5, "agentpool: nobody"),
            ),
        ),
    )


WORKLOADS: tuple[Workload, ...] = (
    _w1(),
    _w2("two agents in ping-pong", "ping_pong"),
    _w2("100 senders, one receiver", "fan_in"),
    _w2("a ring of 1,000 with 100 tokens", "ring", ring=True),
    *_w3(),
    _w4(),
    _w5(),
    _w6(),
    _w7(),
    *_w7_journal(),
    *_w8(),
    *_w9(),
)


@dataclass(frozen=True)
class Growth:
    """One contender at growing sizes; `at_most` bounds largest against smallest, per agent."""

    label: str
    target: str
    sizes: tuple[int, ...]
    metric: str = "us"
    at_most: float | None = None


SIZES = (1_000, 10_000, 100_000)

GROWTH: tuple[Growth, ...] = (
    Growth("W1 trio: limiter", "w1_floors:limiter", SIZES),
    Growth("W1 agentpool: map", "w1_agentpool:map_", SIZES, at_most=1.25),
    Growth("W1 agentpool: spawn + join_next", "w1_agentpool:spawn_and_join", SIZES, at_most=1.25),
    Growth("W4 trio: task and channel", "w4_floors:tasks", SIZES),
    Growth("W4 agentpool", "w4_agentpool:agents", SIZES),
    Growth("W5 trio: one nursery", "w5_floors:nursery", SIZES),
    Growth("W5 agentpool: each receives", "w5_agentpool:receiving", SIZES),
)
