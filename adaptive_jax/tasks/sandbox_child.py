"""The first lines of a sandboxed process: it gives up its rights one by one, then becomes the program.

Run as a script with one argument, the number of an open file that holds the settings as JSON (see `sandbox._settings`).
Once every restriction holds it writes "ready" over them, closes the file, and executes the program in a fresh
`__main__`. The settings hold the program and its limits; the expected output is never in this process.
"""

import builtins
import ctypes
import json
import os
import resource
import struct
import sys
import types

_PDEATHSIG, _KEEPCAPS, _SECCOMP, _NO_NEW_PRIVS = 1, 8, 22, 38  # options of prctl(2)
_SECCOMP_FILTER = 2
_SIGKILL = 9

_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3, _DAC_READ_SEARCH = 0x20080522, 2
# the same numbers on every architecture
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION = 1  # a flag
_LANDLOCK_FILE_RIGHTS = (13, 14, 15)  # how many there are in the versions up to that which knows truncation
_WRITE_FILE, _READ_FILE, _READ_DIR = 2, 4, 8

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: object) -> int:
    # every argument as a full register: the C functions are variadic
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = getattr(_libc, function)(*words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function} {arguments}: {os.strerror(number)}")
    return result


def _confine_files(readable: list, devices: list) -> None:
    """Landlock: nothing but `readable` can be opened, and only for reading; `devices` also for writing."""
    version = _call("syscall", _LANDLOCK_CREATE, 0, 0, _LANDLOCK_VERSION)
    count = _LANDLOCK_FILE_RIGHTS[min(version, len(_LANDLOCK_FILE_RIGHTS)) - 1]
    rights = struct.pack("Q", (1 << count) - 1)
    rules = _call("syscall", _LANDLOCK_CREATE, rights, len(rights), 0)
    for path in [*readable, *devices]:
        below = os.open(path, os.O_PATH | os.O_CLOEXEC)
        right = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0) | (_WRITE_FILE if path in devices else 0)
        _call("syscall", _LANDLOCK_ADD, rules, 1, struct.pack("=Qi", right, below), 0)
        os.close(below)
    _call("syscall", _LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def _drop_root(uid: int) -> None:
    """Becomes `uid`, with no capability but one: to read what only root may.

    Python may live in a private folder (under /root); what can be reached at all is up to Landlock or the mounts.
    """
    _call("prctl", _KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kept = 1 << _DAC_READ_SEARCH
    header, sets = struct.pack("Ii", _CAPABILITY_VERSION_3, 0), struct.pack("6I", kept, kept, 0, 0, 0, 0)
    _call("syscall", _CAPSET[os.uname().machine], header, sets)


def _die_with(parent: int) -> None:
    _call("prctl", _PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _confine_calls(bpf: bytes) -> None:
    program = ctypes.create_string_buffer(bpf, len(bpf))
    header = struct.pack("HxxxxxxP", len(bpf) // 8, ctypes.addressof(program))  # struct sock_fprog
    _call("prctl", _SECCOMP, _SECCOMP_FILTER, header, 0, 0)


def _restrict(settings: dict) -> None:
    """In this order: every step needs a right that a later one takes away."""
    if "bpf" in settings:
        _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    if "readable" in settings:
        _confine_files(settings["readable"], settings["devices"])
    if "uid" in settings:
        _drop_root(settings["uid"])
    for name, value in settings["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if "parent" in settings:
        _die_with(settings["parent"])
    os.environ.clear()
    if "bpf" in settings:
        _confine_calls(bytes.fromhex(settings["bpf"]))


def main(file: int) -> None:
    settings = json.loads(os.pread(file, os.fstat(file).st_size, 0))
    silence = os.open(os.devnull, os.O_WRONLY)
    _restrict(settings)
    os.pwrite(file, b"ready\n", 0)
    os.dup2(silence, 2)  # up to here, stderr tells the parent what failed
    os.closerange(3, 64)
    # what the site module would add; it is not loaded, as it looks into the user's files
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(settings["program"], "<program>", "exec"), program.__dict__)


if __name__ == "__main__":
    main(int(sys.argv[1]))
