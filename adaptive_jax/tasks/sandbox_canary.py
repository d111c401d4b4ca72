"""The program a sandbox must hold before it is trusted: it tries what a sandboxed program must not be able to do.

It reads {"secret": path, "shown": path, "folder": path, "parent": pid, "megabytes", "tasks"} from stdin, runs inside the
sandbox like any other program, and prints the list of what it could do. `_working` is the other half: what must still be
possible.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Callable


def _read_file(order: dict) -> None:
    with open(order["secret"]) as file:
        file.read()


def _write_file(order: dict) -> None:
    with open(os.path.join(order["folder"], "left behind"), "w") as file:
        file.write("here")


def _empty_a_readable_file(order: dict) -> None:
    os.close(os.open(order["shown"], os.O_RDONLY | os.O_TRUNC))


def _open_internet_socket(order: dict) -> None:
    socket.socket(socket.AF_INET).close()


def _open_unix_socket(order: dict) -> None:
    socket.socket(socket.AF_UNIX).close()


def _start_process(order: dict) -> None:
    if os.fork() == 0:
        os._exit(0)


def _signal_parent(order: dict) -> None:
    os.kill(order["parent"], 0)


def _use_much_memory(order: dict) -> None:
    bytearray(order["megabytes"] << 20)


def _start_many_threads(order: dict) -> None:
    threading.stack_size(1 << 16)
    done = threading.Event()
    threads = []
    try:
        for _ in range(order["tasks"] + 8):
            threads.append(threading.Thread(target=done.wait))
            threads[-1].start()
    finally:
        done.set()


def _inherit_open_files(order: dict) -> None:
    if not any(map(_is_open, range(3, 64))):
        raise OSError("none is open")


def _see_environment(order: dict) -> None:
    if not os.environ:
        raise OSError("it is empty")


def _be_root(order: dict) -> None:
    os.setuid(0)


def _is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


def _succeeds(attempt: Callable[[dict], None], order: dict) -> bool:
    try:
        attempt(order)
    except (OSError, MemoryError, RuntimeError):
        return False
    return True


def _working(shown: str) -> None:
    """What programs need: the standard library, a thread, the null device, files that they are shown."""
    import decimal
    import fractions
    import heapq
    import random

    thread = threading.Thread(target=lambda: (decimal, fractions, heapq, random))
    thread.start()
    thread.join()
    with open(os.devnull, "w") as nowhere, open(shown) as file:
        nowhere.write(file.read())


_ATTEMPTS = [
    _read_file,
    _write_file,
    _empty_a_readable_file,
    _open_internet_socket,
    _open_unix_socket,
    _start_process,
    _signal_parent,
    _use_much_memory,
    _inherit_open_files,
    _see_environment,
    _be_root,
    _start_many_threads,
]

if __name__ == "__main__":
    _order = json.loads(sys.stdin.read())
    _working(_order["shown"])
    print(json.dumps([attempt.__name__.strip("_").replace("_", " ") for attempt in _ATTEMPTS if _succeeds(attempt, _order)]))
