"""What a command sees, reaches and may run, with real processes."""

# ruff: noqa: ASYNC230, ASYNC240  (small files, in tests)

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from sandbox_kit import (
    ANY,
    call,
    manifest,
    on_linux,
    python,
    reading,
    require_sandbox,
    shell,
    small,
    writing,
)

from agentpool import (
    AgentManifest,
    SandboxReport,
    ScriptedDriver,
    SpawnConfig,
    open_agent_pool,
    sandbox_report,
)
from agentpool._core.messages import Completion, CompletionRequest, ToolCall, ToolMessage, ToolResult
from agentpool._core.sandboxing import Arrangement
from agentpool.tools import _host, _shell, build_tools

pytestmark = [on_linux, pytest.mark.processes]


@pytest.fixture
def _sandbox() -> None:
    require_sandbox()


in_sandbox = pytest.mark.usefixtures("_sandbox")


def tree(folder: Path) -> dict[str, Any]:
    """Everything below a folder: names, kinds, contents."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        held = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(path)] = (stat.S_IFMT(status.st_mode), held, os.readlink(path) if path.is_symlink() else "")
    return found


# -- the tools that there are ---------------------------------------------------------------------------


def test_tools_are_there_only_if_they_are_granted() -> None:
    def names(*capabilities: Any) -> set[str]:
        agent = AgentManifest(name="a", capabilities=capabilities)
        return {each.name for each in build_tools(agent).definitions()}

    assert names() == set()
    assert names("messaging") & {"run_shell", "run_python"} == set()
    assert names(ANY) == {"run_shell"}
    assert names("compute") == {"run_python"}


def test_the_description_tells_what_the_agent_may_do() -> None:
    def told(*capabilities: Any, **keys: Any) -> str:
        (definition,) = build_tools(AgentManifest(name="a", capabilities=capabilities, **keys)).definitions()
        return definition.description

    some = told({"type": "shell", "allowed_commands": ["ls", "git"]})
    assert "There is no shell" in some
    assert "The commands are: git, ls." in some
    assert "The command is a line for `sh`" in told(ANY)
    assert "a sandbox with no network" in told(ANY)
    assert "without a sandbox" in told(ANY, sandbox="none")
    assert "20 seconds and 256 MiB" in told("compute", commands=small())


def test_a_call_is_not_made_again_after_a_crash() -> None:
    for tool in build_tools(manifest()):
        assert not getattr(tool, "idempotent", True)


# -- what a command sees --------------------------------------------------------------------------------


@in_sandbox
async def test_of_this_machine_it_sees_the_system_and_what_is_granted(tmp_path: Path) -> None:
    (tmp_path / "granted").mkdir()
    (tmp_path / "granted" / "file").write_text("here")
    (tmp_path / "other").mkdir()
    agent = manifest(ANY, reading(tmp_path / "granted"))
    result = await shell(
        agent, f"ls -A {tmp_path}; cat {tmp_path}/granted/file; ls -A /root /home /run /var/lib /sys"
    )
    lines = result.text.splitlines()
    assert lines[:2] == ["granted", "here" + lines[1][4:]]
    assert result.text.count("No such file or directory") == 5
    assert (await shell(agent, "pwd")).text == str(tmp_path / "granted")
    assert (await shell(manifest(), "pwd; ls -A")).text == "/tmp"


@in_sandbox
async def test_the_environment_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTPOOL_TEST_SECRET", "s3cret")
    for text in (
        (await shell(manifest(), "env")).text,
        (await python(manifest(), "import os; print(os.environ)")).text,
    ):
        assert "s3cret" not in text
        assert "PATH" in text
    names = {line.partition("=")[0] for line in (await shell(manifest(), "env")).text.splitlines()}
    assert names == {
        *("PATH", "HOME", "TMPDIR", "LANG", "TERM", "PAGER", "GIT_PAGER", "GIT_TERMINAL_PROMPT"),
        *("PYTHONUNBUFFERED", "PWD"),
    }


@in_sandbox
async def test_no_file_of_the_pool_is_open_in_it(tmp_path: Path) -> None:
    with open(tmp_path / "open", "w") as file:
        os.set_inheritable(file.fileno(), True)
        code = """
import os
for n in range(256):
    try:
        os.fstat(n)
        print(n, os.readlink(f"/proc/self/fd/{n}"))
    except OSError:
        pass
"""
        lines = (await python(manifest(), code)).text.splitlines()
    assert lines[0] == "0 /dev/null"
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    assert all("pipe:" in line for line in lines[1:])


@in_sandbox
async def test_it_sees_no_process_but_its_own() -> None:
    text = (
        await shell(manifest(), "for p in /proc/[0-9]*; do readlink $p/root $p/exe; done; ls -d /proc/[0-9]*")
    ).text
    assert "/proc/1\n" in text + "\n"
    assert len([line for line in text.splitlines() if line.startswith("/proc/")]) < 8
    assert f"/proc/{os.getpid()}\n" not in text


@in_sandbox
async def test_it_reaches_no_socket_of_this_machine(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as named,
    ):
        abstract.bind(f"\0agentpool-{os.getpid()}")
        abstract.listen()
        named.bind(str(tmp_path / "docker.sock"))
        named.listen()
        code = f"""
import socket
for family, address in [
    (socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]})),
    (socket.AF_INET, ("192.0.2.1", 80)),
    (socket.AF_UNIX, "\\0agentpool-{os.getpid()}"),
    (socket.AF_UNIX, {str(tmp_path / "docker.sock")!r}),
]:
    try:
        socket.socket(family).connect(address)
        print("reached", address)
    except OSError as error:
        print("refused")
print([name for _, name in socket.if_nameindex()])
"""
        text = (await python(manifest(), code)).text
    assert text == "refused\nrefused\nrefused\nrefused\n['lo']"


KERNEL = """
import ctypes, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
first = {"x86_64": 248, "aarch64": 217, "riscv64": 217}[platform.machine()]  # add_key, request_key, keyctl
rings = 425
for number, *arguments in (
    (first, b"user", b"x", b"y", 1, -3),
    (first + 1, b"user", b"x", None, 0),
    (first + 2, 0, -3, 0),
    (rings, 1, None),
):
    print(libc.syscall(number, *arguments), ctypes.get_errno())
for family in (40, socket.AF_UNIX, socket.AF_INET):
    try:
        print(socket.socket(family).family.name)
    except OSError as error:
        print(error.errno)
"""


@in_sandbox
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64", "riscv64"), reason="nothing is known of its system calls"
)
async def test_what_no_namespace_keeps_apart_is_refused_by_the_kernel() -> None:
    """The keys of the kernel: opencontainers/runc#453, flatpak/flatpak#299. What leads to the host of a
    virtual machine: containerd/containerd#7442, trpc-group/trpc-agent-go#2426.
    """
    report = sandbox_report()
    assert report.arrangement is not None
    if not report.arrangement.filtered:
        pytest.skip("this kernel refuses no system calls")
    refused = f"-1 {errno.EPERM}"
    told = (await python(manifest(), KERNEL)).text.splitlines()
    assert told == [*[refused] * 4, str(errno.EAFNOSUPPORT), "AF_UNIX", "AF_INET"]


@in_sandbox
async def test_with_the_network_for_all_hosts_it_reaches_them() -> None:
    network = {"type": "network", "allowed_hosts": ["*"]}
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = ("127.0.0.1", server.getsockname()[1])
        code = f"import socket; socket.create_connection({address}); print('reached')"
        assert (await python(manifest("compute", network), code)).text == "reached"
        some = {"type": "network", "allowed_hosts": ["127.0.0.1"]}
        assert (await python(manifest("compute", some), code)).is_error
        assert (await python(manifest("compute", network, privacy="private"), code)).is_error


@in_sandbox
async def test_no_file_of_proc_can_be_written_though_the_pool_runs_as_root() -> None:
    # bubblewrap 0.8 leaves /proc/sys to root's number, and with it the program that the machine runs for
    # each core dump: a way out of the sandbox. Nothing is written here: opening it is what is refused.
    code = """
import os
def opened(path):
    try:
        os.close(os.open(path, os.O_WRONLY))
        return True
    except OSError:
        return False
files = [os.path.join(top, name) for top, _, names in os.walk("/proc") for name in names]
print([path for path in files if not path.split("/")[2].isdigit() and opened(path)])
"""
    assert (await python(manifest(), code)).text == "[]"


MODES = """
import os
paths = ["/proc/1/fd/0", "/proc/self/fd/0", "/proc/1/exe", "/proc/self/exe"]
paths += [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")]
for path in (*paths, 0):
    try:
        os.chmod(path, os.stat(path).st_mode & 0o777)  # as it is: on failure nothing is harmed
        print(path, "was changed")
    except OSError:
        pass
os.utime("/proc/1/exe", (1, 1)) if os.stat("/proc/1/exe").st_uid == os.geteuid() else None
print(os.read(0, 1), open("/dev/null", "w").write("x"), open("/dev/zero", "rb").read(1))
"""


@in_sandbox
async def test_files_that_are_in_use_outside_keep_their_modes_though_the_pool_is_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """containers/bubblewrap#313 (CVE-2019-5736): the sandbox's own program, by /proc/1/exe.
    Mic92/tribuchet#60: devices of the machine; two builders were found with a /dev/null of 0555.
    """
    arrangement = _host.sandbox_report().arrangement
    assert arrangement is not None
    bwrap = Path(shutil.copy(arrangement.bwrap, tmp_path / "bwrap"))
    bwrap.chmod(0o755)
    own = attrs.evolve(_host.sandbox_report(), arrangement=attrs.evolve(arrangement, bwrap=str(bwrap)))
    monkeypatch.setattr(_shell, "sandbox_report", lambda: own)
    before, null = bwrap.stat(), os.stat("/dev/null")
    text = (await python(manifest(), MODES)).text
    assert (bwrap.stat().st_mode, bwrap.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    # Its own copy of the program is its own, and so is who may not make a mount.
    changed = [line for line in text.splitlines()[:-1] if not line.startswith("/proc/1/exe")]
    assert text.splitlines()[-1] == "b'' 1 b'\\x00'"
    if _may_mount() or os.geteuid() != null.st_uid:
        assert changed == []


@in_sandbox
@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="there is no directory in /dev")
async def test_a_directory_below_dev_can_be_granted() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        text = (await shell(manifest(ANY, writing(folder)), "echo new > file; cat file; ls /dev/shm")).text
        assert text == f"new\n{Path(folder).name}"
        assert (Path(folder) / "file").read_text() == "new\n"


def _may_mount() -> bool:
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x20000) != 0)"
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


@in_sandbox
async def test_it_has_no_privilege_and_cannot_get_one() -> None:
    text = (await shell(manifest(), "grep -E '^(CapPrm|CapEff|CapAmb|NoNewPrivs)' /proc/self/status")).text
    assert [line.split()[1] for line in text.splitlines()] == ["0" * 16, "0" * 16, "0" * 16, "1"]
    # In a namespace of users of its own it would have all of them, and more of the kernel to try.
    for trick in ("unshare -U true", "mount -t tmpfs x /tmp", "chroot / true", "mknod /tmp/x b 8 0"):
        assert (await shell(manifest(), trick)).is_error, trick


# -- what it may change ---------------------------------------------------------------------------------


@in_sandbox
async def test_it_writes_where_it_may_write_and_nowhere_else(tmp_path: Path) -> None:
    for name in ("read", "write", "none"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("old")
    agent = manifest(ANY, reading(tmp_path / "read"), writing(tmp_path / "write"))
    before = {name: tree(tmp_path / name) for name in ("read", "none")}
    text = (
        await shell(
            agent,
            f"cd {tmp_path}/write; echo new > new; cat old; "
            f"echo new > ../read/new; rm ../read/old; echo new > ../none/new; echo new > ../new; "
            "echo new > /usr/new; echo new > /etc/new; echo new > /new; echo new > /dev/new; "
            "echo gone > /tmp/new; cat /tmp/new",
        )
    ).text
    assert text.startswith("old")
    assert text.endswith("gone")
    assert {name: tree(tmp_path / name) for name in ("read", "none")} == before
    assert (tmp_path / "write" / "new").read_text() == "new\n"
    assert not (tmp_path / "new").exists()
    assert not any(os.path.exists(f"/{place}new") for place in ("usr/", "etc/", "", "dev/", "tmp/"))
    assert "No such file" in (await shell(agent, "cat /tmp/new")).text


ESCAPES = [
    "cat {secret}",
    "cat {inside}/../outside/secret",
    "ln -s {secret} link; cat link",
    "ln {secret} hard; cat hard",
    "ln -s / root; cat root{secret}",
    "cat /proc/1/root{secret} /proc/self/root{secret}",
    "cat /proc/*/environ /proc/*/cwd/secret",
    "find / -name secret -exec cat {{}} + 2>/dev/null",
    "cd /; cat $(find . -name 'secre?' 2>/dev/null) < /dev/null",
    "cp -r {outside} . ; cat outside/secret",
    "tar cf - {outside} | tar xf - -O",
    "mount --bind {outside} . && cat secret",
    "unshare -Urm sh -c 'mount -t proc proc /proc; cat /proc/1/root{secret}'",
    "echo x > {secret}",
    "mkdir -p {outside}; echo x > {outside}/new",
    "mv {inside} {inside}2",
    "rm -rf {inside}/../outside",
    "chmod 777 {outside}",
    "python3 -c 'import os; os.open(\"{outside}\", os.O_RDONLY); print(1)'",
    "git init -q . ; git -c core.pager='cat {secret}' -p log",
    "env -i /bin/sh -c 'cat {secret}'",
    "echo cat {secret} | xargs -I x sh -c x",
    "(setsid sh -c 'until cat {secret} > copy; do sleep 0.01; done' &) ; sleep 0.2; cat copy",
    "exec 3<{secret}; cat <&3",
    "nsenter -t 1 -m cat {secret}",
    "debugfs -R 'cat {secret}' /dev/sda; cat /dev/mem /dev/kmsg",
]


@in_sandbox
async def test_tricks_reach_nothing_that_was_not_granted(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret").write_text("the-secret-words")
    before = tree(outside)
    agent = manifest(ANY, writing(inside), commands=small(timeout=10))
    places = {"secret": outside / "secret", "outside": outside, "inside": inside}
    seen: dict[str, str] = {}

    async def try_out(trick: str) -> None:
        seen[trick] = (await shell(agent, trick.format(**places))).text

    async with trio.open_nursery() as nursery:
        for trick in ESCAPES:
            nursery.start_soon(try_out, trick)
    assert [trick for trick, text in seen.items() if "the-secret-words" in text] == []
    assert tree(outside) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "outside"]
    for path in inside.rglob("*"):
        assert path.is_symlink() or not path.is_file() or b"the-secret-words" not in path.read_bytes()


@in_sandbox
async def test_a_link_that_takes_the_place_of_a_root_leads_nowhere(tmp_path: Path) -> None:
    """A command that may write to a project cannot widen a grant that lies in it."""
    (tmp_path / "project" / "docs").mkdir(parents=True)
    (tmp_path / "secret").write_text("the-secret-words")
    agent = manifest(ANY, writing(tmp_path / "project"), reading(tmp_path / "project" / "docs"))
    both = manifest(ANY, writing(tmp_path / "project", tmp_path / "project" / "docs"))
    await shell(agent, f"rmdir docs; ln -s {tmp_path} docs")
    for each in (agent, both):
        text = (await shell(each, f"cat {tmp_path}/secret docs/secret")).text
        assert "the-secret-words" not in text


@in_sandbox
async def test_a_root_that_is_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("text")
    (tmp_path / "link").symlink_to("real")
    agent = AgentManifest.from_toml(
        'name = "a"\n[[capabilities]]\ntype = "shell"\nallowed_commands = ["*"]\n'
        '[[capabilities]]\ntype = "file_read"\nallowed_paths = ["link", "nowhere"]',
        base=tmp_path,
    )
    result = await shell(agent, "pwd; cat file")
    assert result.text.splitlines() == [
        str(tmp_path / "real"),
        "text",
        f"[not there, and so not in the sandbox: {tmp_path / 'nowhere'}]",
    ]


@in_sandbox
async def test_grants_of_the_whole_system_work_too() -> None:
    for granted in (reading("/"), reading("/etc", "/usr", "/proc", "/dev"), reading("/etc/hostname")):
        result = await call(
            manifest(ANY, "compute", granted), "run_python", code="print(open('/etc/passwd').read()[:5])"
        )
        assert result.text in ("agent", "root:")


@in_sandbox
async def test_cwd_is_a_directory_that_is_granted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("")
    agent = manifest(ANY, reading(tmp_path / "a"))
    assert (await shell(agent, "pwd", cwd="b")).text == str(tmp_path / "a" / "b")
    assert (await shell(agent, "pwd", cwd=str(tmp_path / "a" / "b"))).text == str(tmp_path / "a" / "b")
    assert (await shell(agent, "pwd", cwd="/tmp")).text == "/tmp"
    assert (await shell(agent, "pwd", cwd=".")).text == str(tmp_path / "a")
    assert (await shell(agent, "pwd", cwd="b/..")).text == str(tmp_path / "a")
    (tmp_path / "a" / "out").symlink_to("..")
    assert "is no directory" in (await shell(agent, "pwd", cwd="file")).text
    assert "NUL" in (await shell(agent, "pwd", cwd="a\0b")).text
    assert "cannot be a directory" in (await shell(agent, "pwd", cwd="\ud800")).text
    for outside in ("..", "/", str(tmp_path), "out", "nowhere/../../.."):
        assert "outside of what this agent may reach" in (await shell(agent, "pwd", cwd=outside)).text


# -- which commands -------------------------------------------------------------------------------------


@in_sandbox
async def test_of_named_commands_only_those_are_started(tmp_path: Path) -> None:
    (tmp_path / "a; echo b").write_text("text")
    agent = manifest({"type": "shell", "allowed_commands": ["cat", "nope"]}, reading(tmp_path))
    assert (await shell(agent, "cat 'a; echo b'")).text == "text"
    assert "not among the commands" in (await shell(agent, "ls")).text
    assert "needs a shell" in (await shell(agent, "cat x; ls")).text
    result = await shell(agent, "nope")
    assert result.is_error
    assert "nope" in result.text
    assert "No such file or directory" in result.text
    other = manifest({"type": "shell", "allowed_commands": ["./cat", "sh"]}, reading(tmp_path))
    assert (await shell(other, "sh -c 'echo started by sh'")).text == "started by sh"


@in_sandbox
async def test_an_allowed_name_is_the_systems_program_and_not_one_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "ls").write_text("#!/bin/sh\necho mine\n")
    (tmp_path / "ls").chmod(0o755)
    agent = manifest({"type": "shell", "allowed_commands": ["ls"]}, writing(tmp_path))
    assert (await shell(agent, "ls")).text == "ls"
    assert (await shell(attrs.evolve(agent, sandbox="none"), "ls")).text == "ls"


def test_rules_of_approval_see_the_arguments_as_they_are_taken() -> None:
    tool = build_tools(manifest()).get("run_shell")
    assert isinstance(tool, _shell.DescribedTool)
    assert tool.taken({"command": "ls"}) == {"command": "ls", "timeout": None, "cwd": None}
    assert isinstance(tool.taken({"command": 3}), ToolResult)


# -- Python ---------------------------------------------------------------------------------------------


@in_sandbox
async def test_python_is_the_pools_own_and_keeps_nothing() -> None:
    result = await python(manifest(), "import attrs, sys\nx = 1\nprint(attrs.__file__, sys.flags.isolated)")
    assert result.text == f"{attrs.__file__} 1"
    result = await python(manifest(), "print('before')\nprint(x)")
    assert result.is_error
    assert result.text.startswith("before\nTraceback")
    assert "    print(x)" in result.text
    assert result.text.endswith("NameError: name 'x' is not defined\n[exit status 1]")
    assert (await python(manifest(), "")).text == "[no output]"
    assert "EOFError" in (await python(manifest(), "input()")).text
    assert "not valid text" in (await python(manifest(), "'\ud800'")).text
    assert (await python(manifest(), "print('é', '\\0' == chr(0))")).text == "é True"


@in_sandbox
async def test_a_module_in_the_directory_is_not_imported_in_the_place_of_anothers(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('mine')")
    agent = manifest("compute", writing(tmp_path))
    assert (await python(agent, "import json; print(json.dumps(1))")).text == "1"


# -- without a sandbox ----------------------------------------------------------------------------------


async def test_without_a_sandbox_it_is_a_command_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTPOOL_TEST_SECRET", "s3cret")
    agent = manifest(ANY, "compute", writing(tmp_path), sandbox="none")
    text = (await shell(agent, "pwd; env; echo new > file; ls -d $TMPDIR; echo x > $TMPDIR/x")).text
    assert text.startswith(str(tmp_path))
    assert "s3cret" not in text
    assert (tmp_path / "file").read_text() == "new\n"
    folder = text.splitlines()[-1]
    assert folder.startswith("/tmp/agentpool-")
    assert not os.path.exists(folder)
    assert (await python(agent, "import sys; print(1 + 1, sys.flags.isolated)")).text == "2 1"
    bare = manifest(ANY, sandbox="none")
    assert (await shell(bare, "pwd")).text.startswith("/tmp/agentpool-")
    some = manifest({"type": "shell", "allowed_commands": ["nope"]}, sandbox="none")
    assert (await shell(some, "nope")).text == "[it could not be started: there is no program 'nope']"


@pytest.fixture
def fresh_report() -> Any:
    _host.sandbox_report.cache_clear()
    yield
    _host.sandbox_report.cache_clear()


@pytest.mark.usefixtures("fresh_report")
async def test_without_bubblewrap_nothing_is_run_and_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_host, "SYSTEM_PATH", str(tmp_path))
    result = await shell(manifest(ANY, writing(tmp_path)), f"touch {tmp_path}/ran")
    assert result.is_error
    assert "there is no bubblewrap (bwrap) here; install it" in result.text
    assert 'sandbox = "none"' in result.text
    assert not (tmp_path / "ran").exists()
    assert str(_host.sandbox_report()).startswith("no sandbox: there is no bubblewrap")


@pytest.mark.usefixtures("fresh_report")
async def test_a_bubblewrap_that_does_not_work_is_found_by_trying_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/calls\n"
        '[ "$1" = --version ] && echo "bubblewrap 0.9.1" && exit\n'
        "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for _ in range(2):
        result = await shell(manifest(ANY, writing(tmp_path)), f"touch {tmp_path}/ran")
        assert result.is_error
        assert "setting up uid map: Permission denied" in result.text
        assert "user namespaces may be forbidden" in result.text
    calls = (tmp_path / "calls").read_text().count("x")
    await shell(manifest(), "true")
    assert (tmp_path / "calls").read_text().count("x") == calls
    assert not (tmp_path / "ran").exists()


# -- how processes are bounded --------------------------------------------------------------------------

V1 = """12:pids:/user.slice/a
4:memory,cpu:/x
0::/user.slice
"""
V1_MOUNTS = """31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
39 31 0:36 / {top}/pids rw,relatime - cgroup cgroup rw,pids
35 31 0:36 / {top}/memory rw - cgroup cgroup rw,memory
41 31 0:38 / {top}/unified rw,relatime - cgroup2 cgroup2 rw
garbage
"""


def test_where_control_groups_can_be_made_is_read_from_proc(tmp_path: Path) -> None:
    unified = tmp_path / "unified"
    (unified / "user.slice").mkdir(parents=True)
    mounts = V1_MOUNTS.format(top=tmp_path)
    assert list(_host.control_groups(V1, mounts)) == [
        _host.ControlGroup(f"{tmp_path}/pids/user.slice/a", ("pids",))
    ]
    (unified / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (unified / "user.slice" / "cgroup.subtree_control").write_text("pids\n")
    found = list(_host.control_groups(V1, mounts))
    assert [(group.parent, group.controllers) for group in found[:2]] == [
        (f"{unified}/user.slice", ("pids",)),
        (str(unified), ("pids", "memory")),
    ]
    assert list(_host.control_groups("", mounts)) == []
    # In a container the root of the mount is the container's own group.
    inside = mounts.replace(f"/ {tmp_path}/pids", f"/user.slice {tmp_path}/pids")
    assert f"{tmp_path}/pids/a" in [group.parent for group in _host.control_groups(V1, inside)]
    limits = found[1].job_group(small(), 3)["limits"]
    assert limits == {
        "pids.max": "51",
        "memory.max": str(256 * 1024 * 1024),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
    }
    assert found[0].job_group(small(), 0)["limits"] == {"pids.max": "48"}


@in_sandbox
def test_the_report_says_which_bound_holds() -> None:
    report = _host.sandbox_report()
    assert report is _host.sandbox_report()
    assert f"processes bounded by: {report.processes}" in str(report)
    assert report.works
    assert report.version


FORK_BOMB = """
import os, time
forked = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        forked += 1
except OSError as error:
    print(forked, error)
"""


@in_sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user's number to run as")
async def test_root_without_control_groups_is_bounded_as_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrangement = Arrangement(
        "/usr/bin/bwrap", userns=False, no_more_userns=False, setpriv="/usr/bin/setpriv"
    )
    assert _host._try(arrangement, None).is_success
    report = _host._found(arrangement, None, "0.8.0")
    assert report.processes == "another user"
    monkeypatch.setattr(_shell, "sandbox_report", lambda: report)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    agent = manifest(ANY, "compute", writing(tmp_path / "open"), commands=small(processes=20))
    text = (await shell(agent, "id -u; echo new > file; cat file; grep CapEff /proc/self/status")).text
    assert int(text.split()[0]) >= _host.FIRST_USER
    assert text.split()[1:] == ["new", "CapEff:", "0" * 16]
    result = await python(agent, FORK_BOMB)
    forked, _, why = result.text.partition(" ")
    assert 5 < int(forked) <= 22
    assert "Resource temporarily unavailable" in why


@in_sandbox
async def test_what_the_kernel_does_not_bound_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _host.sandbox_report()
    assert found.arrangement is not None
    report = SandboxReport(True, arrangement=found.arrangement, version=found.version)
    monkeypatch.setattr(_shell, "sandbox_report", lambda: report)
    code = "import os, time\nfor n in range(100):\n  if os.fork() == 0: time.sleep(60)\ntime.sleep(60)"
    agent = manifest("compute", commands=small(processes=30))
    result = await python(agent, code)
    assert result.is_error
    assert "killed: it had more than 30 processes" in result.text or "Resource temporarily" in result.text


# -- in a pool ------------------------------------------------------------------------------------------


@in_sandbox
async def test_a_model_runs_commands_in_its_pool(tmp_path: Path) -> None:
    seen: list[CompletionRequest] = []

    class Driver(ScriptedDriver):
        async def complete(self, request: CompletionRequest) -> Completion:
            seen.append(request)
            return await super().complete(request)

    calls = [
        ToolCall("1", "run_shell", {"command": "echo one; exit 3"}),
        ToolCall("2", "run_python", {"code": "print(6 * 7)"}),
    ]
    driver = Driver([Completion(tool_calls=calls), "done"])
    agent = manifest(ANY, "compute", writing(tmp_path))
    async with open_agent_pool(driver, max_concurrent=1) as pool:
        handle = await pool.spawn(SpawnConfig(agent, "go"))
        assert (await handle.result()).text == "done"
    results = [message.result for message in seen[1].messages if isinstance(message, ToolMessage)]
    assert results == [ToolResult("one\n[exit status 3]", is_error=True), ToolResult("42")]
