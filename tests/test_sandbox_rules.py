"""What is decided about commands: which may run, what they see, what is told of their end."""

from __future__ import annotations

import shlex
import struct

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentpool import AgentManifest, CommandLimits, ManifestError
from agentpool._core.capability import NetworkCapability, PrivacyTier
from agentpool._core.commands import (
    Captured,
    CommandError,
    Ending,
    command_argv,
    output_text,
    split_command,
    told_ending,
    told_status,
)
from agentpool._core.sandboxing import (
    Arrangement,
    Mount,
    Roots,
    bwrap_arguments,
    in_order,
    is_within,
    narrowed_sandbox,
    network_of,
    outermost,
)
from agentpool._core.syscalls import system_call_filter

# -- a command without a shell ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ls", ["ls"]),
        ("  ls\t-l  ", ["ls", "-l"]),
        ("git log '--format=%H; rm x' a\\ b", ["git", "log", "--format=%H; rm x", "a b"]),
        ('echo "a \\" \\\\ \\$ \\n" \'\'', ["echo", 'a " \\ $ \\n', ""]),
        ('grep -E "^a|b$"'.replace("$", "\\$"), ["grep", "-E", "^a|b$"]),
        ("git show HEAD~1 a#b", ["git", "show", "HEAD~1", "a#b"]),
        ("a''b\"c\"d", ["abcd"]),
    ],
)
def test_words_are_those_of_a_shell(line: str, words: list[str]) -> None:
    assert split_command(line) == words


@pytest.mark.parametrize(
    "line",
    [
        "ls | sh",
        "ls;id",
        "ls && id",
        "ls & id",
        "ls > x",
        "ls < x",
        "ls $(id)",
        "ls `id`",
        "ls $HOME",
        'ls "$(id)"',
        'ls "`id`"',
        "ls\nid",
        "ls\rid",
        "(ls)",
        "ls *.md",
        "ls a?",
        "ls [ab]",
        "ls {a,b}",
        "ls ~",
        "ls # all",
        "ls 'a",
        'ls "a',
        'ls "a\\',
        "ls \\",
        "ls \\\nid",
        "",
        " \t ",
    ],
)
def test_what_needs_a_shell_is_refused_and_not_handed_on(line: str) -> None:
    with pytest.raises(CommandError):
        command_argv(line, ["ls"])


@given(st.text(alphabet="ab'\"\\ \t;|&<>()$`*?[{~#\n=é", max_size=12))
@example("a\\")
@example('"\\')
def test_what_is_accepted_has_the_words_that_a_shell_sees(line: str) -> None:
    try:
        words = split_command(line)
    except CommandError:
        return
    assert words == shlex.split(line)


@pytest.mark.parametrize(
    "line",
    [
        "env ls",
        "sh -c ls",
        "./ls",
        "/bin/ls",
        "A=1 ls",
        "LD_PRELOAD=./x.so ls",
        "ls.evil",
        "LS",
        "'ls x'",
        "''",
        "-- ls",
    ],
)
def test_only_a_name_that_is_allowed_is_started(line: str) -> None:
    with pytest.raises(CommandError, match="is not among the commands that this agent may run: git, ls"):
        command_argv(line, ["ls", "git"])
    with pytest.raises(CommandError, match="may run: none"):
        command_argv("ls", [])


def test_with_a_star_the_line_is_for_a_shell() -> None:
    assert command_argv("ls | wc -l; echo '", ["git", "*"]) == ["sh", "-c", "ls | wc -l; echo '"]
    assert command_argv("git status", ["git"]) == ["git", "status"]
    for broken in ("a\0b", "a\ud800", "", " \n"):
        with pytest.raises(CommandError):
            command_argv(broken, ["*"])


# -- what it wrote -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\r\nb\n", "a\nb\n"),
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07x \x1b]8;;http://x\x1b\\link \x1b(B \x1b7.", "red x link  ."),
        (b"10%\r50%\r100%\r\ndone", "100%\ndone"),
        (b"caf\xc3\xa9 \xff\xfe", "café \\xff\\xfe"),
        (b"nul \x00 bell \x07 back \x08", "nul \\x00 bell \\x07 back \\x08"),
        ("\u202eevil\u2028".encode(), "\\u202eevil\\u2028"),
        (b"\x1bP1$r\x1b\\q", "q"),
        (b"\xe2\x82", "\\xe2\\x82"),
    ],
)
def test_an_output_is_plain_text(data: bytes, text: str) -> None:
    assert output_text(Captured(data, b"", len(data))) == text


def test_a_cut_is_told_and_splits_no_character() -> None:
    text = output_text(Captured("é1€".encode()[:-1], "€2é".encode()[1:], 1000))
    assert text == "é1\n[cut: 994 of 1,000 bytes are left out here]\n2é"
    whole = output_text(Captured("1é".encode(), b"2", 1000))
    assert whole == "1é\n[cut: 996 of 1,000 bytes are left out here]\n2"
    assert output_text(Captured(b"ab", b"cd", 4)) == "abcd"
    assert output_text(Captured("€".encode()[:2], b"", 2)) == "\\xe2\\x82"


@given(st.text(alphabet="aé€😀", max_size=30), st.integers(0, 60), st.integers(0, 60))
def test_what_is_kept_of_a_text_is_text(text: str, head: int, tail: int) -> None:
    data = text.encode()
    captured = Captured(data[:head], data[max(head, len(data) - tail) :], len(data))
    assert "\\" not in output_text(captured)


def test_bytes_that_are_no_text_are_kept_at_a_cut_too() -> None:
    lone = b"\x80\x80\x80\x80"
    assert output_text(Captured(lone, b"\xff", 99)).startswith("\\x80\\x80\\x80\\x80\n[cut: 94 of 99")
    assert output_text(Captured(b"\xf0\x9f\x98", b"", 99)).startswith("\n[cut: 99 of 99")
    assert output_text(Captured(b"a\xc3", b"", 99)).startswith("a\n[cut: 98 of 99")


# -- how it ended ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (Ending("ended", 0), ""),
        (Ending("ended", 3), "exit status 3"),
        (Ending("ended", 127), "exit status 127 (there is no such command)"),
        (Ending("ended", -9), "killed by SIGKILL, perhaps for its memory"),
        (Ending("ended", 137), "exit status 137: killed by SIGKILL, perhaps for its memory"),
        (Ending("ended", 153), "exit status 153: killed by SIGXFSZ: a file that it wrote became too large"),
        (Ending("ended", 190), "exit status 190: killed by signal 62"),
        (Ending("ended", 255), "exit status 255"),
        (Ending("ended", None), "ended, but its exit status is not known"),
        (Ending("timeout", -9), "stopped: it did not end within L; all its processes were killed"),
        (Ending("memory"), "killed: it needed more than L of memory"),
        (Ending("processes"), "killed: it had more than L processes"),
        (Ending("output"), "killed: it wrote more than L"),
        (Ending("closed"), "stopped"),
        (Ending("setup", problem="no bwrap"), "it could not be started: no bwrap"),
        (Ending("setup"), "it could not be started: nobody knows why"),
        (
            Ending("ended", 0, survivors=2),
            "(2 of its processes hang in the kernel and could not be killed yet)",
        ),
    ],
)
def test_an_end_is_told_in_words(ending: Ending, told: str) -> None:
    assert told_ending(ending, "L") == told
    assert ending.is_success == (ending.why == "ended" and ending.status == 0)


@given(st.integers(-70, 256))
def test_every_status_has_words(status: int) -> None:
    assert told_status(status)


# -- what it sees ------------------------------------------------------------------------------------

BARE = Arrangement("/usr/bin/bwrap")


def arguments(mounts: list[Mount], arrangement: Arrangement = BARE, **options: object) -> list[str]:
    given = {"command": ["true"], "cwd": "/tmp", "network": False, "tmp_bytes": 5, **options}
    return bwrap_arguments(arrangement, mounts, **given)[0]  # type: ignore[arg-type]


def test_the_arguments_of_bubblewrap_are_exactly_these() -> None:
    mounts = [
        Mount("write", "/home/u/x", "/home/u/x"),
        Mount("read", "/usr", "/usr"),
        Mount("link", "/bin", "usr/bin"),
        Mount("data", "/etc/passwd", "root"),
        Mount("tmp", "/tmp"),
        Mount("proc", "/proc"),
        Mount("dev", "/dev"),
    ]
    argv, data = bwrap_arguments(
        BARE, mounts, command=["ls", "-l"], cwd="/home/u/x", network=False, tmp_bytes=77
    )
    assert data == ["root", system_call_filter()]
    assert " ".join(argv).replace("\0", "%") == (
        "/usr/bin/bwrap --die-with-parent --new-session --unshare-pid --unshare-ipc --unshare-uts "
        "--unshare-cgroup-try --hostname sandbox --unshare-net --unshare-user --disable-userns "
        "--cap-drop ALL --ro-bind /usr /usr --symlink usr/bin /bin --perms 1777 --size 77 --tmpfs /tmp "
        "--proc /proc --dev /dev --perms 0755 --dir /etc --perms 0755 --dir /home "
        "--perms 0444 --ro-bind-data %data:0 /etc/passwd --perms 0755 --dir /home/u "
        "--bind /home/u/x /home/u/x --remount-ro /proc --remount-ro /dev --remount-ro / --seccomp %data:1 "
        "--chdir /home/u/x --json-status-fd %status --block-fd %block -- ls -l"
    )


def test_what_commands_may_put_links_in_the_place_of_is_given_as_it_was_opened() -> None:
    mounts = [Mount(kind, f"/a/{kind}", f"/b/{kind}", is_guarded=True) for kind in ("read", "write")]
    told = " ".join(arguments(mounts)).replace("\0", "%")
    assert "--ro-bind-fd %opened:/a/read%/b/read /a/read --bind-fd %opened:/a/write%/b/write /a/write" in told
    old = " ".join(arguments(mounts, Arrangement("b", opened=False)))
    assert "--ro-bind /b/read /a/read --bind /b/write /a/write" in old


def test_the_network_is_there_only_if_it_is_given() -> None:
    assert "--unshare-net" in arguments([])
    assert "--unshare-net" not in arguments([], network=True)


def test_what_a_machine_cannot_do_is_not_asked_of_it() -> None:
    old = arguments(
        [Mount("tmp", "/tmp")], Arrangement("b", no_more_userns=False, sized=False, filtered=False)
    )
    assert "--seccomp" not in old
    assert "--disable-userns" not in old
    assert "--size" not in old
    root = arguments([], Arrangement("b", userns=False, setpriv="/usr/bin/setpriv"), user=77)
    assert "--unshare-user" not in root
    assert root[-7:] == [
        "--",
        "/usr/bin/setpriv",
        "--reuid=77",
        "--regid=77",
        "--clear-groups",
        "--",
        "true",
    ]
    assert root[root.index("--cap-drop") :][:6] == [
        "--cap-drop",
        "ALL",
        "--cap-add",
        "CAP_SETUID",
        "--cap-add",
        "CAP_SETGID",
    ]


def test_a_directory_stands_before_what_is_in_it() -> None:
    mounts = [
        Mount("read", "/a/b/c", "/x"),
        Mount("tmp", "/a"),
        Mount("write", "/", "/"),
        Mount("data", "/a/b/file", "t"),
    ]
    assert [mount.at for mount in in_order(mounts)] == ["/", "/a", "/a/b", "/a/b/c", "/a/b/file"]
    assert "--remount-ro / --" not in " ".join(arguments(mounts))
    inner = [Mount("dir", "/a/b"), Mount("tmp", "/a")]
    assert [mount.kind for mount in in_order([*inner, Mount("data", "/a/b/f", "")])] == ["tmp", "dir", "data"]


def test_a_grant_brings_neither_the_machines_proc_nor_its_devices() -> None:
    mounts = [Mount("proc", "/proc"), Mount("dev", "/dev"), Mount("tmp", "/tmp")]
    granted = [Mount("write", path, path) for path in ("/proc", "/dev", "/tmp")]
    assert [(each.kind, each.at) for each in in_order([*mounts, *granted])] == [
        ("proc", "/proc"),
        ("dev", "/dev"),
        ("write", "/tmp"),
    ]


def test_in_what_is_shown_of_the_machine_nothing_is_made() -> None:
    mounts = [
        Mount("read", "/", "/"),
        Mount("link", "/bin", "usr/bin"),
        Mount("data", "/etc/passwd", "x"),
        Mount("read", "/etc/localtime", "/usr/share/zoneinfo/UTC"),
        Mount("read", "/usr", "/usr"),
        Mount("write", "/home/u", "/home/u"),
        Mount("tmp", "/tmp"),
        Mount("dev", "/dev"),
        Mount("data", "/dev/program.py", "x"),
    ]
    assert [(each.kind, each.at) for each in in_order(mounts)] == [
        ("read", "/"),
        ("read", "/usr"),
        ("tmp", "/tmp"),
        ("dev", "/dev"),
        ("write", "/home/u"),
        ("data", "/dev/program.py"),
    ]


def test_a_path_is_within_itself_and_within_what_is_above() -> None:
    assert is_within("/a/b", ["/a"])
    assert is_within("/a", ["/x", "/a"])
    assert is_within("/a", ["/"])
    assert not is_within("/ab", ["/a"])
    assert not is_within("/a/../b", ["/a"])
    assert outermost(["/a/b", "/a", "/ab", "/a", "/c/d"], above=["/c"]) == ("/a", "/ab")
    assert list(Roots(("/r",), ("/w",))) == ["/w", "/r"]


# -- what a manifest says -------------------------------------------------------------------------------


def test_a_sandbox_is_given_up_only_in_so_many_words() -> None:
    assert AgentManifest.from_toml('name = "a"').sandbox == "bubblewrap"
    assert AgentManifest.from_toml('name = "a"\nsandbox = "none"').sandbox == "none"
    assert AgentManifest(name="a", sandbox="none").sandbox == "none"
    for wrong in ('"off"', "false", '""', "{}"):
        with pytest.raises(ManifestError, match="sandbox"):
            AgentManifest.from_toml(f'name = "a"\nsandbox = {wrong}')
    # Below a header it is a key of that table, and no choice that was made by mistake.
    with pytest.raises(ManifestError, match=r"resources\.sandbox: is an unknown key"):
        AgentManifest.from_toml('name = "a"\n[resources]\nsandbox = "none"')


def test_limits_of_commands_are_checked() -> None:
    limits = AgentManifest.from_toml('name = "a"\n[commands]\ntimeout = 5\nmemory_mb = 64').commands
    assert limits == CommandLimits(timeout=5, memory_mb=64)
    with pytest.raises(ManifestError) as error:
        AgentManifest.from_toml(
            'name = "a"\n[commands]\ntimeout = 0\nmemory_mb = 3\nprocesses = "many"\ncpu = 3'
        )
    assert [finding.key for finding in error.value.findings] == [
        "commands.timeout",
        "commands.memory_mb",
        "commands.processes",
        "commands.cpu",
    ]
    assert all(finding.fix for finding in error.value.findings)


def test_a_child_may_use_no_more_than_its_parent() -> None:
    parent, child = CommandLimits(timeout=5, memory_mb=500), CommandLimits(timeout=9, memory_mb=64)
    assert parent.narrowed(child) == CommandLimits(timeout=5, memory_mb=64) == child.narrowed(parent)
    assert all(getattr(CommandLimits(), each.name) > 1 for each in attrs.fields(CommandLimits))
    assert narrowed_sandbox("none", "none") == "none"
    for pair in (("none", "bubblewrap"), ("bubblewrap", "none"), ("bubblewrap", "bubblewrap")):
        assert narrowed_sandbox(*pair) == "bubblewrap"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hosts", "privacy", "network", "told"),
    [
        ([], PrivacyTier.STANDARD, False, "no network"),
        (["example.org"], PrivacyTier.STANDARD, False, "no network (it can be given for all hosts only"),
        (["a", "*"], PrivacyTier.STANDARD, True, "the network of this machine"),
        (["*"], PrivacyTier.PRIVATE, False, "no network, since the agent's words are private"),
        (["*"], PrivacyTier.SOVEREIGN, False, "no network, since the agent's words are sovereign"),
    ],
)
def test_the_network_is_for_all_hosts_or_none(
    hosts: list[str], privacy: PrivacyTier, network: bool, told: str
) -> None:
    given = [NetworkCapability(hosts)] if hosts else []
    assert network_of(given, privacy)[0] is network
    assert network_of(given, privacy)[1].startswith(told)


# -- what it may ask of the kernel -----------------------------------------------------------------------

X86_64, X86, ARM_64, ARM, RISC_V, PPC = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028, 0xC00000F3, 0xC0000015
ALLOWED, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x50001, 0x50026, 0x50061
INET, VSOCK = 2, 40


def answered(architecture: int, number: int, argument: int = 0) -> int:
    """Run the filter as the kernel does."""
    told = struct.pack("=IIQQ", number, architecture, 0, argument)
    program = list(struct.iter_unpack("=HBBI", system_call_filter()))
    at = loaded = 0
    while True:
        code, if_so, if_not, value = program[at]
        at += 1
        match code:
            case 0x20:
                (loaded,) = struct.unpack_from("=I", told, value)
            case 0x15:
                at += if_so if loaded == value else if_not
            case 0x35:
                at += if_so if loaded >= value else if_not
            case 0x06:
                return int(value)


@pytest.mark.parametrize(
    ("architecture", "keys", "socket"),
    [(X86_64, 248, 41), (X86, 286, 359), (ARM_64, 217, 198), (ARM, 309, 281), (RISC_V, 217, 198)],
)
def test_keys_rings_and_the_host_of_a_machine_are_refused(architecture: int, keys: int, socket: int) -> None:
    for number in (keys, keys + 1, keys + 2, 425):
        assert answered(architecture, number) == EPERM
    assert answered(architecture, socket, VSOCK) == EAFNOSUPPORT
    assert answered(architecture, socket, VSOCK | 1 << 32) == EAFNOSUPPORT  # the kernel looks at an int
    assert answered(architecture, socket, INET) == ALLOWED
    for number in (0, 1, keys - 1, keys + 3, socket - 1, socket + 1, 424, 426, 435):
        assert answered(architecture, number, VSOCK) == ALLOWED


def test_no_other_table_of_the_same_machine_leads_around_that() -> None:
    assert answered(X86_64, 0x40000000 | 250) == ENOSYS
    assert answered(X86_64, 0x40000000 | 41, VSOCK) == ENOSYS
    assert answered(X86, 102) == ENOSYS  # `socketcall`, whose arguments cannot be looked at
    assert answered(PPC, 250) == ALLOWED  # nothing is known of it
