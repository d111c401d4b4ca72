"""Looking at processes from outside, and starting light ones."""

import time
from collections.abc import Callable
from pathlib import Path

import adaptive_jax

# Code that makes the package's modules importable without running its __init__, which loads JAX.
LIGHT_PACKAGE = f"""
import sys, types
package = sys.modules["adaptive_jax"] = types.ModuleType("adaptive_jax")
package.__path__ = {list(adaptive_jax.__path__)!r}
"""


def children(script: str, *parents: int) -> list[int]:
    """Ids of the processes whose command line mentions `script` and whose parent is one of `parents`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (process / "status").read_text(), (process / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if script.encode() in command and any(f"\nPPid:\t{parent}\n" in status for parent in parents):
            found.append(int(process.name))
    return found


def alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def wait_until(condition: Callable[[], object]) -> None:
    """Returns as soon as the condition holds; fails after a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen within a minute"
        time.sleep(0.02)
