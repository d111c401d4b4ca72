"""Attacks on the sandbox, in every tier this machine holds: none may escape, earn reward, or leave anything behind.

Each attack is a program that prints ESCAPED if it got what it wanted. It is told on stdin what there is to attack.
"""

import json
import os
import signal
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

HELD = [tier for tier, complaint in tiers().items() if not complaint]
EXPECTED = "EXPECTED 7f3a9c"
LIMITS = Limits(seconds=1, megabytes=512, file_megabytes=4, tasks=32)

# name -> (how it may end, program); `order` is what it was told
ATTACKS = {
    "endless loop": ("timeout", "while True: pass"),
    "sleep": ("timeout", "import time; time.sleep(1000)"),
    "fork bomb": (
        "timeout",
        """
while True:
    try:
        if os.fork(): print('ESCAPED', flush=True)
    except OSError: pass""",
    ),
    "thread bomb": (
        "failed timeout",
        """
import threading, time
threading.stack_size(32768)
for started in range(1000):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    if started > 100: print('ESCAPED', flush=True)""",
    ),
    "memory hog": ("failed", "hog = [bytearray(1 << 20) for _ in range(600)]; print('ESCAPED')"),
    "scratch folder fill": (
        "failed",
        """
for n in range(64):
    with open(f'/tmp/fill{n}', 'wb') as file: file.write(bytes(1 << 20))
print('ESCAPED')""",
    ),
    "descriptor exhaustion": ("failed", "files = [os.dup(0) for _ in range(200)]; print('ESCAPED')"),
    "stdout flood": ("failed timeout", "while True: print('x' * 100_000)"),
    "stderr flood": ("timeout", "while True: os.write(2, b'x' * 100_000)"),
    "deep recursion": ("failed timeout", "import sys; sys.setrecursionlimit(10**9)\ndef f(n): return f([n])\nf(0)"),
    "huge power": ("timeout failed", "print(9 ** 9 ** 9)"),
    "segmentation fault": ("failed", "import ctypes; ctypes.string_at(0)"),
    "ignored signals": (
        "timeout",
        """
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, signal.SIG_IGN)
while True: pass""",
    ),
    "daemonised grandchild": ("failed", "os.fork() or (os.setsid(), os.fork()); print('ESCAPED')"),
    "another program": ("failed", "import subprocess; subprocess.run(['/bin/true']); print('ESCAPED')"),
    "exec": ("failed", "os.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])"),
    "kill the parent": ("failed", "os.kill(order['parent'], 9); print('ESCAPED')"),
    "kill everyone": ("failed", "os.kill(-1, 9); print('ESCAPED')"),
    "kill a neighbour": ("failed", "os.kill(order['victim'], 9); print('ESCAPED')"),
    "signal the parent through a pipe": (
        "failed",
        "import fcntl; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, order['parent']); print('ESCAPED')",
    ),
    "trace a neighbour": (
        "finished",
        "import ctypes; print('ESCAPED' if ctypes.CDLL(None).ptrace(16, order['victim'], 0, 0) == 0 else 'held')",
    ),
    "outlive the parent": (
        "finished",
        "import ctypes; print('ESCAPED' if ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0 else 'held')",
    ),
    "raise its own limits": (
        "failed",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (-1, -1)); print('ESCAPED')",
    ),
    "another's limits": (
        "failed",
        "import resource; resource.prlimit(order['victim'], resource.RLIMIT_CPU, (1, 1)); print('ESCAPED')",
    ),
    "become root": ("failed", "os.setuid(0); print('ESCAPED')"),
    "new user namespace": (
        "finished",
        "import ctypes; print('ESCAPED' if ctypes.CDLL(None).unshare(1 << 28) == 0 else 'held')",
    ),
    "mount": (
        "finished",
        "import ctypes; print('ESCAPED' if ctypes.CDLL(None).mount(b'a', b'/tmp', b'tmpfs', 0, 0) == 0 else 'held')",
    ),
    "read /proc/1": ("failed", "print('ESCAPED', open('/proc/1/environ', 'rb').read())"),
    "read the parent's memory": ("failed", "open(f\"/proc/{order['parent']}/mem\", 'rb'); print('ESCAPED')"),
    "read /etc/shadow": ("failed", "print('ESCAPED', open('/etc/shadow').read())"),
    "read a neighbour's file": ("failed", "print('ESCAPED', open(order['secret']).read())"),
    "symbolic link": ("failed", "os.symlink(order['secret'], '/tmp/link'); print('ESCAPED', open('/tmp/link').read())"),
    "climb out": ("failed", "print('ESCAPED', open('/tmp/../../..' + order['secret']).read())"),
    "open by handle": (
        "finished",
        "import ctypes; print('ESCAPED' if ctypes.CDLL(None).open_by_handle_at(0, bytes(16), 0) >= 0 else ctypes.get_errno())",
    ),
    "inherited descriptors": (
        "finished",
        """
for file in range(3, 4096):
    try: print('ESCAPED', file, os.fstat(file))
    except OSError: pass""",
    ),
    "write outside": ("failed", "open(order['folder'] + '/left behind', 'w').write('here'); print('ESCAPED')"),
    "overwrite": ("failed", "open(order['secret'], 'a').write('here'); print('ESCAPED')"),
    "delete": ("failed", "os.unlink(order['secret']); print('ESCAPED')"),
    "internet socket": (
        "failed",
        "import socket; socket.create_connection(('127.0.0.1', order['port'])); print('ESCAPED')",
    ),
    "unix socket": ("failed", "import socket; socket.socket(socket.AF_UNIX).connect(order['socket']); print('ESCAPED')"),
    "abstract unix socket": ("failed", "import socket; socket.socket(socket.AF_UNIX).bind('\\0meet'); print('ESCAPED')"),
    "environment": ("finished", "print('ESCAPED' if os.environ else 'held')"),
    "find the expected output": (
        "finished",
        """
import gc, sys
def search(text):
    if bytes.fromhex('45585045435445442037').decode() in text: print('ESCAPED', text)
frame = sys._getframe()
while frame:
    search(repr(frame.f_locals)); search(repr(frame.f_globals)); frame = frame.f_back
for thing in gc.get_objects():
    if isinstance(thing, (str, bytes, list, tuple, dict)): search(repr(thing))
for module in list(sys.modules.values()): search(repr(vars(module)))
for file in range(64):
    try: search(os.pread(file, 1 << 20, 0).decode(errors='replace'))
    except OSError: pass
for folder in ('.', '/tmp', '/dev/shm', '/proc/self/fd'):
    try: names = os.listdir(folder)
    except OSError: continue
    for name in names:
        try: search(open(f'{folder}/{name}', errors='replace').read())
        except (OSError, ValueError): pass""",
    ),
    "replace the checker": (
        "finished",
        """
import builtins, json, sys
class Equal(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
builtins.str = builtins.bytes = Equal
json.loads = json.dumps = lambda *a, **k: 'correct'
for module in list(sys.modules.values()):
    for name in ('grade', 'grade_many', 'judge_many', 'same_output', 'run'):
        setattr(module, name, lambda *a, **k: True)
print(Equal('anything'))""",
    ),
    "early exit": ("finished", "import sys; sys.exit(0)"),
    "earlier exit": ("finished", "os._exit(0)"),
    "invalid UTF-8": ("finished", "os.write(1, bytes(range(128, 256)))"),
    "NUL": ("finished", "print('\\0' * 10)"),
    "closed files": ("finished", "os.close(0); os.close(1)"),
    "every candidate": ("finished", "for n in range(1 << 16): print(f'EXPECTED {n:06x}')"),
}
PRELUDE = "import os, json\norder = json.loads(input())\n"


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
    assert sandboxed_children(os.getpid()) == []


def sandboxed_children(*parents: int) -> list[int]:
    """Processes of the sandbox whose parent is one of `parents`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (process / "status").read_text(), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"sandbox_child.py" in command and any(f"\nPPid:\t{parent}\n" in status for parent in parents):
            found.append(int(process.name))
    return found


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
    for folder in ('/tmp', '/dev/shm', '/proc'):
        try: seen.update(name for name in os.listdir(folder) if name != me)
        except OSError: pass
    time.sleep(0.01)
print(sorted(seen))
"""
    with ThreadPoolExecutor(2) as executor:
        runs = [executor.submit(run, program, name.encode(), tier) for name in ("one", "two")]
    assert [future.result().output for future in runs] == [b"[]\n", b"[]\n"]


def test_a_killed_parent_leaves_no_child() -> None:
    order = f"""
from concurrent.futures import ThreadPoolExecutor
from adaptive_jax.tasks.sandbox import run
with ThreadPoolExecutor() as executor:
    for tier in {HELD}: executor.submit(run, 'import time; time.sleep(1000)', b'', tier)
"""
    # bubblewrap, its first process inside, and the program; and on Landlock the program alone
    size = sum({"bubblewrap": 3, "landlock": 1}[tier] for tier in HELD)
    with subprocess.Popen([sys.executable, "-c", order]) as parent:
        family: set[int] = set()
        end = time.monotonic() + 60
        while len(family) < size:
            assert time.monotonic() < end, "the programs did not start"
            family.update(sandboxed_children(parent.pid, *family))
            time.sleep(0.02)
        time.sleep(0.5)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while any(Path(f"/proc/{process}").exists() for process in family):
        assert time.monotonic() < end, "a child is still there"
        time.sleep(0.02)


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
