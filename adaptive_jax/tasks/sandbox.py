"""Running a model's Python program with as few rights as this machine can enforce.

Two tiers, each trusted only after a canary program has tried to break out of it (`tiers`):

  bubblewrap   own mount, process, network, IPC and host-name namespaces: a read-only view of the Python installation
               and the system's libraries, and a sized scratch folder; and all of the next tier but Landlock itself
  landlock     Landlock (the same files, read-only, and nothing to write to), a seccomp allow list (`sandbox_seccomp`:
               no processes, sockets or signals), no_new_privs, death with its parent

Both: CPU, memory, file size, thread and descriptor limits, an empty environment, and a user that is not root. Run by
root, a program gets a user id of its own, since RLIMIT_NPROC does nothing for root; run by others, bubblewrap adds a
user namespace. If neither holds, programs are refused, unless running them with resource limits only is allowed.

What this is: it limits accidents and reward hacking by model-written Python. It shares the host's kernel and is no
boundary against kernel exploits; under Landlock the names and sizes of files can still be found out, not their content.
"""

import errno
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from adaptive_jax.tasks.sandbox_seccomp import bpf_program

Tier = Literal["bubblewrap", "landlock", "none"]

_FOLDER = Path(__file__).parent
_DEVICES = ["/dev/null", "/dev/zero", "/dev/urandom"]
_FIRST_USER, _USERS = 61_184, 4_000
_runs = itertools.count()


class SandboxUnavailable(RuntimeError):
    """No sandbox tier holds on this machine; the message says what failed in each and how to mend it."""


@dataclass(frozen=True)
class Limits:
    """What one run of a program may use."""

    seconds: int = 10  # of CPU time, whatever the machine's load
    megabytes: int = 1024  # of address space
    file_megabytes: int = 16  # per file, stdout included, and for bubblewrap's scratch folder as a whole
    tasks: int = 64  # threads
    files: int = 64  # open descriptors

    @property
    def patience(self) -> float:
        """Seconds of wall time, for a program that sleeps or waits."""
        return 3.0 * self.seconds + 5.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    "finished": exit status 0. "failed": another status, or killed by a fault of its own, whatever it wrote before.
    "timeout": killed by SIGKILL, for its use of time or for the system's lack of memory; so in every tier is an exit status of
    137, by which bubblewrap and shells tell of that signal. "fault": the sandbox could not be set up; the program never ran.
    """

    status: Literal["finished", "failed", "timeout", "fault"]
    output: bytes
    detail: str = ""


@cache
def tiers() -> dict[Tier, str]:
    """The sandbox tiers, best first, with what speaks against each: "" if every probe of the canary held."""
    return {"bubblewrap": _probe("bubblewrap"), "landlock": _probe("landlock")}


def choose_tier(allow_unsandboxed: bool = False) -> Tier:
    """The best tier that holds, or "none" where none does and that is allowed.

    Raises:
      SandboxUnavailable: no tier holds.
    """
    for tier, complaint in tiers().items():
        if not complaint:
            return tier
    if allow_unsandboxed:
        return "none"
    complaints = "; ".join(f"{tier}: {complaint}" for tier, complaint in tiers().items())
    raise SandboxUnavailable(
        f"no sandbox holds on this machine ({complaints}). Install bubblewrap, use a kernel with Landlock (5.13 or "
        "newer), or accept the risk of running model-written programs without one: --allow-unsandboxed"
    )


def run(program: str, stdin: bytes, tier: Tier, limits: Limits | None = None, readable: Sequence[str] = ()) -> Outcome:
    """Runs a Python program on `stdin`, in a process that is gone when this returns.

    Only the standard library and the files `readable` are there; stderr is dropped. Safe to call from several threads, each
    of which must outlive its call: Linux ends a child when the thread that started it ends.
    """
    try:
        return _run(program, stdin, tier, limits or Limits(), [*_installation(), *readable])
    except OSError as fault:  # no descriptor, process or disk space left; no bubblewrap
        return Outcome("fault", b"", str(fault))


def _run(program: str, stdin: bytes, tier: Tier, limits: Limits, readable: Sequence[str]) -> Outcome:
    with ExitStack() as stack:
        settings, source, output, complaints = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(4))
        user = stack.enter_context(_free_user()) if tier != "none" and os.geteuid() == 0 else None
        settings.write(json.dumps(_settings(program, tier, limits, readable, user)).encode())
        settings.flush()
        source.write(stdin)
        source.seek(0)
        process = subprocess.Popen(
            _command(tier, settings.fileno(), limits, readable),
            stdin=source,
            stdout=output,
            stderr=complaints,
            pass_fds=[settings.fileno()],
            env={"PYTHONHASHSEED": "0"},  # the same program, the same output; the child clears even this
            cwd="/",
            start_new_session=True,
        )
        overdue = _wait(process, limits.patience)
        for file in (settings, output, complaints):
            file.seek(0)
        ready = settings.read(6) == b"ready\n"
        written = output.read()
        detail = complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
    detail = detail or f"exit status {process.returncode}"
    if not ready:
        return Outcome("fault", written, detail)
    # bubblewrap reports a death by signal n as 128 + n; hard CPU limits and the system's memory killer send SIGKILL
    if overdue or process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return Outcome("timeout", written, detail)
    return Outcome("failed" if process.returncode else "finished", written, detail)


def _wait(process: subprocess.Popen[bytes], patience: float) -> bool:
    """Waits for the end of a process, kills what is left of its group; whether its time was up."""
    overdue = threading.Event()

    def kill() -> None:
        overdue.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(patience, kill)
    timer.start()
    try:
        # not reaped yet, so that the process id, and the group's, cannot be another's
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    finally:
        timer.cancel()
        timer.join()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return overdue.is_set()


# What the child is told


def _settings(program: str, tier: Tier, limits: Limits, readable: Sequence[str], user: int | None) -> dict[str, object]:
    rlimits = {
        "RLIMIT_CPU": limits.seconds,
        "RLIMIT_AS": limits.megabytes << 20,
        "RLIMIT_FSIZE": limits.file_megabytes << 20,
        "RLIMIT_NOFILE": limits.files,
        "RLIMIT_CORE": 0,
    }
    settings: dict[str, object] = {"program": program, "limits": rlimits}
    if tier == "none":
        return settings
    # the kernel counts a user's tasks together; a fresh user id has none
    rlimits["RLIMIT_NPROC"] = limits.tasks + (_tasks_of(os.getuid()) if user is None else 0)
    if user is not None:
        settings["uid"] = user
    if tier == "landlock":
        settings |= {"readable": list(readable), "devices": _DEVICES, "parent": os.getpid()}
    return settings | {"bpf": bpf_program().hex()}


@contextmanager
def _free_user() -> Iterator[int]:
    """A user id that no other run on this machine has, of the range in which systemd, too, hands out ids for a moment.

    Who has bound an abstract socket of that name has it; the kernel frees it with the process, however that ends.
    """
    first = 64 * os.getpid() + next(_runs)  # rarely taken
    for number in range(_USERS):
        user = _FIRST_USER + (first + number) % _USERS
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0adaptive_jax sandbox {user}")
            except OSError as fault:
                if fault.errno != errno.EADDRINUSE:
                    raise
                continue
            yield user
            return
    raise OSError(f"all of {_USERS} user ids are taken by other sandboxes")


def _tasks_of(uid: int) -> int:
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if process.stat().st_uid == uid:
                count += len(os.listdir(process / "task"))
    return count


@cache
def _installation() -> list[str]:
    """The files Python needs: itself, its library, the system's shared libraries; never ours, where expected outputs are."""
    libraries = [Path(folder, name) for folder in ("/", "/usr", sys.base_prefix) for name in ("lib", "lib64")]
    needed = [Path(sys.executable).resolve(), *libraries]
    needed += [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    needed.append(Path("/etc/ld.so.cache"))
    visible = [part for path in dict.fromkeys(needed) if path.exists() for part in _without(path, _FOLDER.resolve())]
    return [str(path) for path in visible]


def _without(path: Path, hidden: Path) -> list[Path]:
    """`path`, or where `hidden`, a resolved path, lies below it (this package among the system's), all that is beside it."""
    if not hidden.is_relative_to(path.resolve()):
        return [path]
    if hidden.samefile(path):
        return []
    # a link to a folder above would lead round in circles
    beside = (child for child in path.iterdir() if not (child.is_symlink() and hidden.is_relative_to(child.resolve())))
    return [part for child in beside for part in _without(child, hidden)]


def _command(tier: Tier, settings: int, limits: Limits, readable: Sequence[str]) -> list[str]:
    script = str(_FOLDER / "sandbox_child.py")
    # no site module, no path entries of ours, no bytecode written, UTF-8 whatever the locale
    python = [_installation()[0], "-P", "-s", "-S", "-B", "-X", "utf8", script, str(settings)]
    if tier != "bubblewrap":
        return python
    binds = [word for path in [*readable, script] for word in ("--ro-bind", path, path)]
    binds += [word for path in _DEVICES for word in ("--dev-bind", path, path)]
    if os.geteuid() == 0:  # root's own user namespace would map back to root; the child changes to a user id instead
        kept = ("CAP_SETUID", "CAP_SETGID", "CAP_DAC_READ_SEARCH")
        rights = ["--cap-drop", "ALL", *(word for right in kept for word in ("--cap-add", right))]
    else:
        rights = ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    return [
        _bubblewrap(),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--die-with-parent", "--hostname", "sandbox"),
        *rights,
        *("--perms", "1777", "--size", str(limits.file_megabytes << 20), "--tmpfs", "/tmp"),
        *binds,
        *("--remount-ro", "/", "--chdir", "/tmp", "--"),
        *python,
    ]


def _bubblewrap() -> str:
    path = shutil.which("bwrap")
    if path is None:
        raise OSError("bwrap is not installed")
    return path


# Is it one?


def _probe(tier: Tier) -> str:
    """Runs the canary in a tier: "" if it could do none of what it tried, else what is wrong."""
    if sys.platform != "linux":
        return "it needs Linux"
    program = (_FOLDER / "sandbox_canary.py").read_text()
    limits = Limits(seconds=5, megabytes=512)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)  # the sandbox alone must stand between the canary and these files
        secret = Path(folder, "secret")
        secret.write_text("canary")
        shown = Path(folder, "shown")
        shown.write_text("canary")
        shown.chmod(0o666)
        order = {"secret": str(secret), "shown": str(shown), "folder": folder, "parent": os.getpid()}
        order |= {"megabytes": limits.megabytes, "tasks": limits.tasks}
        outcome = run(program, json.dumps(order).encode(), tier, limits, [str(shown)])
    if outcome.status != "finished":
        return f"{outcome.status}: {outcome.detail}"
    broken = json.loads(outcome.output)
    return f"the canary could {', '.join(broken)}" if broken else ""
