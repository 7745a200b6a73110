"""A pytest plugin: `@pytest.mark.agent_simulation` runs an async test under many seeds.

The test is run by `agentpool.testing.explore`, not by pytest-trio, and both work side by side. A
failure is reported with its seed, plan and size after shrinking; `--agentpool-seed`,
`--agentpool-plan` and `--agentpool-size` run exactly that again. What failed once is kept in the
file `.agentpool-seeds` beside pytest's configuration and tried first from then on.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agentpool.testing import SimulationContext

MARKER = "agent_simulation"
REGRESSIONS = ".agentpool-seeds"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the setting."""
    group = parser.getgroup("agentpool", "simulated agents")
    group.addoption("--agentpool-seed", type=int, metavar="N", help="run simulations with this seed only")
    group.addoption(
        "--agentpool-plan",
        metavar="PLAN",
        help="run simulations with these faults only, such as driver:1:rate_limit,clock:40:jump=30",
    )
    group.addoption("--agentpool-size", type=int, metavar="N", help="run simulations with this size only")
    parser.addini(
        "agentpool_seeds_file",
        f"where failing cases are kept (default: {REGRESSIONS}); empty for nowhere",
        default=REGRESSIONS,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and refuse a plan that cannot be read before anything runs."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(seeds=100, *, faults=None, size=1, max_seconds=86400, max_steps=1000000):"
        " simulate an async test under many seeds; `faults` is a FaultMix, `seeds` a number or an iterable",
    )
    text = config.getoption("--agentpool-plan")
    if text is not None:
        from agentpool.testing import FaultPlan

        try:
            FaultPlan.parse(text)
        except ValueError as error:
            raise pytest.UsageError(f"--agentpool-plan: {error}") from None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take marked tests away from pytest-trio, whose `trio_mode` claims every async test."""
    for item in items:
        if item.get_closest_marker(MARKER) is not None:
            item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "trio"]


@pytest.fixture
def simulation() -> Any:
    """The `SimulationContext` of the run under way, in a test with the marker `agent_simulation`."""
    return _PLACE


_PLACE = object()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """Explore a marked test; leave every other one to whoever runs it."""
    marker = pyfuncitem.get_closest_marker(MARKER)
    if marker is None:
        return None
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        pytest.fail(f"{pyfuncitem.nodeid} is marked {MARKER} but is not an async function", pytrace=False)
    from agentpool.testing import ExplorationError

    try:
        _explore(pyfuncitem, marker)
    except ExplorationError as error:
        pyfuncitem.add_report_section("call", "agentpool simulation", _report(pyfuncitem, error))
        raise
    return True


def _explore(item: pytest.Function, marker: pytest.Mark) -> None:
    from agentpool.testing import FaultPlan, explore

    options: dict[str, Any] = dict(marker.kwargs)
    if marker.args:
        (options["seeds"],) = marker.args
    seed, plan, size = (item.config.getoption(f"--agentpool-{name}") for name in ("seed", "plan", "size"))
    if seed is not None:
        options["seeds"] = [seed]
    if plan is not None:
        options["plan"] = FaultPlan.parse(plan)
        options["faults"] = None
    if size is not None:
        options["size"] = size
    if seed is None and plan is None and size is None:
        options["regressions"] = _regressions(item.config)
    else:
        # Asked for one case, so show that one and nothing smaller.
        options["shrinking_runs"] = 0
    explore(_main(item), name=item.nodeid, **options)


def _regressions(config: pytest.Config) -> Path | None:
    name = str(config.getini("agentpool_seeds_file"))
    return config.rootpath / name if name else None


def _main(item: pytest.Function) -> Callable[[SimulationContext], Awaitable[Any]]:
    arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}

    async def main(context: SimulationContext) -> Any:
        given = {name: context if value is _PLACE else value for name, value in arguments.items()}
        return await item.obj(**given)

    return main


def _report(item: pytest.Item, error: Any) -> str:
    plan = f" --agentpool-plan={str(error.plan)!r}" if error.plan else ""
    size = f" --agentpool-size={error.size}" if error.size != 1 else ""
    again = f"pytest {item.nodeid!r} --agentpool-seed={error.seed}{plan}{size}"
    tail = error.simulation.log.lines[-20:]
    log = ["the last events:", *(f"  {line}" for line in tail)] if tail else []
    return "\n".join([str(error), f"or with: {again}", *log])
