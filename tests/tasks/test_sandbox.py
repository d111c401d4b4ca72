"""The attack suite in every tier this machine holds: no attack may escape, earn reward, or leave anything behind."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from adaptive_jax.tasks import sandbox
from adaptive_jax.tasks.code import same_output
from adaptive_jax.tasks.sandbox import Limits, Outcome, SandboxUnavailable, Tier, choose_tier, run, tiers
from tests.tasks.attacks import ATTACKS, EXPECTED, PRELUDE
from tests.tasks.processes import LIGHT_PACKAGE, alive, children, wait_until

HELD = [tier for tier, complaint in tiers().items() if not complaint]
LIMITS = Limits(seconds=1, megabytes=512, file_megabytes=4, tasks=32)


@dataclass
class World:
    """What there is to attack."""

    folder: Path
    victim: subprocess.Popen[bytes]
    order: dict[str, object]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)  # only the sandbox is in the way
        yield from populated(Path(folder))


def populated(folder: Path) -> Iterator[World]:
    (folder / "secret").write_text(EXPECTED)
    (folder / "secret").chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as internet, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "socket"))
        unix.listen()
        with subprocess.Popen(["sleep", "1000"]) as victim:
            order = {
                "parent": os.getpid(),
                "victim": victim.pid,
                "folder": str(folder),
                "secret": str(folder / "secret"),
                "socket": str(folder / "socket"),
                "port": internet.getsockname()[1],
            }
            yield World(folder, victim, order)
            victim.kill()


@pytest.fixture(scope="module", params=HELD)
def tier(request: pytest.FixtureRequest) -> Tier:
    return request.param


@pytest.fixture(scope="module")
def outcomes(tier: Tier, world: World) -> dict[str, Outcome]:
    """Every attack once, two at a time, next to honest programs."""
    files_before = sorted(os.listdir("/proc/self/fd"))
    stdin = json.dumps(world.order).encode()
    honest = ["while True:\n    try: print(int(input()) * 2)\n    except EOFError: break"] * len(ATTACKS)
    with ThreadPoolExecutor(2) as executor:
        attacks = executor.map(lambda program: run(PRELUDE + program, stdin, tier, LIMITS), [p for _, p in ATTACKS.values()])
        neighbours = [executor.submit(run, program, b"21\n4\n", tier, LIMITS) for program in honest[::4]]
        found = dict(zip(ATTACKS, attacks, strict=True))
    assert [neighbour.result() for neighbour in neighbours] == [Outcome("finished", b"42\n8\n", "exit status 0")] * len(
        neighbours
    )
    assert sorted(os.listdir("/proc/self/fd")) == files_before
    return found


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_held_and_earns_nothing(outcomes: dict[str, Outcome], attack: str) -> None:
    outcome = outcomes[attack]
    assert outcome.status in ATTACKS[attack][0].split()
    assert b"ESCAPED" not in outcome.output
    assert len(outcome.output) <= LIMITS.file_megabytes << 20
    assert not same_output(outcome.output, EXPECTED)


EMPTIES = {
    "while it is opened for reading": "os.open(path, os.O_RDONLY | os.O_TRUNC)",
    "while it is opened for neither": "os.open(path, 3 | os.O_TRUNC)",
    "while it is opened for writing": "os.open(path, os.O_WRONLY | os.O_TRUNC)",
    "by its name": "os.truncate(path, 0)",
    "by a descriptor for reading": "os.ftruncate(os.open(path, os.O_RDONLY), 0)",
}
MARKS = {
    "times": "os.utime(path, (1, 1))",
    "times of a descriptor": "os.utime(os.open(path, os.O_RDONLY), (1, 1))",
    "mode": "os.chmod(path, 0o600)",
    "attribute": "os.setxattr(path, 'user.mark', b'1')",
    "lock": "import fcntl; fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)",
    "record lock": "import fcntl; fcntl.lockf(os.open(path, os.O_RDWR), fcntl.LOCK_EX)",
    "new name": "os.link(path, path + ' too')",
    "removal": "os.unlink(path)",
}


@pytest.mark.parametrize("way", EMPTIES | MARKS)
def test_a_file_that_may_be_read_stays_as_it_is(tier: Tier, way: str) -> None:
    program = f"import os\npath = input()\n{(EMPTIES | MARKS)[way]}"
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        shown = Path(folder, "shown")
        shown.write_text("as it is")
        shown.chmod(0o666)
        before = shown.stat()
        read = run("print(open(input()).read())", str(shown).encode(), tier, LIMITS, [str(shown)])
        assert read.output == b"as it is\n"
        assert run(program, str(shown).encode(), tier, LIMITS, [str(shown)]).status == "failed"
        after = shown.stat()
        assert shown.read_text() == "as it is"
        assert (after.st_mtime_ns, after.st_ctime_ns, after.st_mode) == (before.st_mtime_ns, before.st_ctime_ns, before.st_mode)
        assert os.listdir(folder) == ["shown"]


@pytest.mark.parametrize("way", ["while it is opened for reading", "while it is opened for neither", "by its name"])
def test_emptying_a_file_is_real(way: str, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.write_text("as it is")
    run(f"import os\npath = input()\n{EMPTIES[way]}", str(shown).encode(), "none", LIMITS)
    assert shown.read_text() == ""


def test_no_two_runs_have_one_user_whatever_their_processes() -> None:
    order = f"""{LIGHT_PACKAGE}
import os
from adaptive_jax.tasks import sandbox
os.getpid = lambda: 7  # both begin at the same number
with sandbox._free_user() as user:
    print(user, flush=True)
    input()
"""
    users, processes = set(), []
    for _ in range(3):
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen([sys.executable, "-c", order], stdin=pipe, stdout=pipe, text=True))
        assert processes[-1].stdout is not None
        users.add(int(processes[-1].stdout.readline()))
    assert len(users) == 3
    for process in processes:
        process.communicate("\n")
    with subprocess.Popen([sys.executable, "-c", order], stdin=pipe, stdout=pipe, text=True) as later:
        assert int(later.communicate("\n")[0]) in users  # they are free again


@pytest.mark.parametrize("end", ["os._exit(1)", "os._exit(137)", "os.abort()", "os._exit(0)"])
def test_how_a_program_ends_counts_whatever_it_wrote(tier: Tier, end: str) -> None:
    outcome = run(f"import os\nprint(42, flush=True)\n{end}", b"", tier, LIMITS)
    expected = {"os._exit(137)": "timeout", "os._exit(0)": "finished"}.get(end, "failed")
    assert (outcome.status, outcome.output) == (expected, b"42\n")


@pytest.mark.parametrize(
    "attack",
    [
        "read a neighbour's file",
        "climb out",
        "another program",
        "exec",
        "daemonised grandchild",
        "internet socket",
        "unix socket",
        "abstract unix socket",
        "signal the parent through a pipe",
    ],
)
def test_the_attack_is_real(world: World, attack: str) -> None:
    outcome = run(PRELUDE + ATTACKS[attack][1], json.dumps(world.order).encode(), "none", LIMITS)
    assert b"ESCAPED" in outcome.output


def test_an_expected_output_in_reach_would_be_found(tier: Tier, world: World) -> None:
    leak = json.dumps(world.order | {"leak": EXPECTED}).encode()
    assert b"ESCAPED" in run(PRELUDE + ATTACKS["find the expected output"][1], leak, tier, LIMITS).output


@pytest.mark.usefixtures("outcomes")
def test_the_machine_is_as_it_was(world: World) -> None:
    assert world.victim.poll() is None
    assert sorted(path.name for path in world.folder.iterdir()) == ["secret", "socket"]
    assert (world.folder / "secret").read_text() == EXPECTED
    assert not Path("/tmp/link").is_symlink()
    assert not list(Path("/tmp").glob("fill*"))
    assert children("sandbox_child.py", os.getpid(), 1) == []


def test_where_the_package_lies_in_a_readable_folder_what_is_beside_it_is_readable(tmp_path: Path) -> None:
    """As after `pip install` without a virtual environment."""
    package = tmp_path / "lib" / "python3" / "site-packages" / "adaptive_jax"
    (package / "tasks").mkdir(parents=True)
    others = {tmp_path / "lib" / "libc.so", tmp_path / "lib" / "python3" / "heapq.py", package / "learning"}
    for path in others:
        path.touch()
    (tmp_path / "lib64").symlink_to("lib")
    (tmp_path / "lib" / "again").symlink_to(".")  # leads round in circles
    assert set(sandbox._without(tmp_path / "lib", package / "tasks")) == others
    assert {path.resolve() for path in sandbox._without(tmp_path / "lib64", package / "tasks")} == others
    assert sandbox._without(package / "learning", package / "tasks") == [package / "learning"]
    assert sandbox._without(package / "tasks", package / "tasks") == []


def test_honest_programs_run(tier: Tier) -> None:
    program = """
import sys, threading, heapq, decimal
sys.setrecursionlimit(100_000)
threading.stack_size(64 << 20)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
def main(): print(depth(20_000), sys.stdin.read(), 'ü')
thread = threading.Thread(target=main)
thread.start()
thread.join()
if __name__ == '__main__': exit()
"""
    outcome = run(program, "straße".encode(), tier)
    assert (outcome.status, outcome.output.decode()) == ("finished", "20000 straße ü\n")


def test_the_same_program_prints_the_same(tier: Tier) -> None:
    program = "print(*{'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})"
    assert len({run(program, b"", tier).output for _ in range(4)}) == 1


def test_a_run_leaves_nothing_to_the_next(tier: Tier) -> None:
    write = "import os\ntry: open('/tmp/note', 'w').write('ESCAPED')\nexcept OSError: pass\nprint('written')"
    read = "import os\nprint(open('/tmp/note').read() if os.path.exists('/tmp/note') else 'nothing')"
    assert run(write, b"", tier).output == b"written\n"
    assert run(read, b"", tier).output == b"nothing\n"
    assert not Path("/tmp/note").exists()


def test_two_runs_at_once_do_not_see_each_other(tier: Tier) -> None:
    program = """
import os, time
me = input()
try: open('/tmp/' + me, 'w').write('x')
except OSError: pass
seen = set()
end = time.monotonic() + 1.5
while time.monotonic() < end:
    for folder, prefix in (('/tmp', 'neighbour'), ('/dev/shm', 'neighbour'), ('/proc', '')):
        try: seen.update(name for name in os.listdir(folder) if name.startswith(prefix) and name != me)
        except OSError: pass
    time.sleep(0.01)
print(sorted(seen))
"""
    with ThreadPoolExecutor(2) as executor:
        runs = [executor.submit(run, program, name.encode(), tier) for name in ("neighbour one", "neighbour two")]
    assert [future.result().output for future in runs] == [b"[]\n", b"[]\n"]


def test_a_killed_parent_leaves_no_child() -> None:
    order = f"""{LIGHT_PACKAGE}
from concurrent.futures import ThreadPoolExecutor
from adaptive_jax.tasks.sandbox import run
with ThreadPoolExecutor() as executor:
    for tier in {HELD}: executor.submit(run, 'import time; time.sleep(1000)', b'', tier)
"""
    # bubblewrap, its first process inside, and the program; and on Landlock the program alone
    size = sum({"bubblewrap": 3, "landlock": 1}[tier] for tier in HELD)
    family: set[int] = set()

    def found() -> bool:
        family.update(children("sandbox_child.py", parent.pid, *family))
        return len(family) == size

    with subprocess.Popen([sys.executable, "-c", order]) as parent:
        wait_until(found)
        time.sleep(0.5)
        parent.kill()
    wait_until(lambda: not any(map(alive, family)))


def test_a_thread_may_run_programs(tier: Tier) -> None:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run("print(1)", b"", tier)))
    thread.start()
    thread.join()
    assert outcomes[0].output == b"1\n"


def test_a_sandbox_that_cannot_be_set_up_is_a_fault(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "bpf_program", lambda: b"nonsense" * 2)
    outcome = run("print('ESCAPED')", b"", tier)
    assert (outcome.status, outcome.output) == ("fault", b"")
    assert "prctl" in outcome.detail


@pytest.mark.parametrize(
    ("hole", "complaint"),
    [
        ("seccomp", "start process"),
        ("seccomp", "open unix socket"),
        ("landlock", "read file"),
    ],
)
def test_the_canary_finds_a_hole(monkeypatch: pytest.MonkeyPatch, hole: str, complaint: str) -> None:
    if "landlock" not in HELD:
        assert tiers()["landlock"]
        return
    if hole == "seccomp":  # a filter that allows everything
        monkeypatch.setattr(sandbox, "bpf_program", lambda: bytes.fromhex("060000000000ff7f"))
    else:
        monkeypatch.setattr(sandbox, "_installation", lambda: [os.path.realpath(sys.executable), "/"])
    assert complaint in sandbox._probe("landlock")


def test_without_a_tier_programs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "tiers", lambda: {"bubblewrap": "not installed", "landlock": "too old"})
    with pytest.raises(SandboxUnavailable, match=r"bubblewrap: not installed; landlock: too old.*--allow-unsandboxed"):
        choose_tier()
    assert choose_tier(allow_unsandboxed=True) == "none"
    assert run("print(int(input()) * 2)", b"21", "none") == Outcome("finished", b"42\n", "exit status 0")


def test_the_best_tier_that_holds_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    if HELD:
        assert choose_tier() == HELD[0]
    monkeypatch.setattr(sandbox, "tiers", lambda: {"bubblewrap": "not installed", "landlock": ""})
    assert choose_tier() == choose_tier(allow_unsandboxed=True) == "landlock"
