"""Answers compared with math-verify, in worker processes that can be killed.

math-verify's own time-out needs SIGALRM in the main thread, and sympy can hang, recurse to death or eat all memory; so each
comparison runs in a worker (`maths_worker`) with kernel limits on CPU time and memory.
"""

import atexit
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from adaptive_jax.tasks.problem import Verdict
from adaptive_jax.tasks.workers import Failure, Pool

SECONDS = 2  # of CPU time for one comparison, rounded up; typical are 5 to 100 milliseconds
MEGABYTES = 1024
PATIENCE = 30.0  # seconds of wall time, for what uses no CPU time


class MathsPool(Pool):
    """At most `size` workers, each comparison limited to `seconds` of CPU time and `megabytes` of memory."""

    def __init__(self, size: int | None = None, seconds: int = SECONDS, megabytes: int = MEGABYTES):
        script = Path(__file__).with_name("maths_worker.py")
        # -P: the script's folder, with its code.py, must not hide the standard library
        super().__init__([sys.executable, "-P", str(script), str(seconds), str(megabytes)], PATIENCE, size=size)

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """The verdict on each (gold, answer), in order.

        "timeout": the comparison ran out of time. "error": it killed several workers, as for lack of memory, or no worker
        could start.
        """
        return [_verdict(reply) for reply in self.replies(pairs)]


def _verdict(reply: Verdict | Failure) -> Verdict:
    if isinstance(reply, Failure):
        return "timeout" if reply.reason == "timeout" else "error"
    return reply


@cache
def shared_pool() -> MathsPool:
    """The pool of this process: made when first needed, closed when the interpreter ends."""
    pool = MathsPool()
    atexit.register(pool.close)
    return pool
