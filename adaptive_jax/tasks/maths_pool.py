"""Worker processes that compare answers with math-verify, each killable without harm to the others.

math-verify's own time-out needs SIGALRM in the main thread, and sympy can hang, recurse to death or eat all memory; so
each comparison runs in a process of its own with kernel limits on CPU time and memory (`maths_worker`). The processes
start when first needed, serve many requests, and end with this process however it ends: their stdin closes.
"""

import atexit
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from io import RawIOBase
from pathlib import Path
from typing import cast

from adaptive_jax.tasks.problem import Verdict

log = logging.getLogger(__name__)

SECONDS = 2  # of CPU time for one comparison, rounded up; typical are 5 to 100 milliseconds
MEGABYTES = 1024
PATIENCE = 30.0  # seconds of wall time, for what uses no CPU time, and for the start of a worker
DEATHS = 3  # workers that one comparison may kill before it is given up
FAILED_STARTS = 2  # in a row, of workers that say why, end by themselves or never get ready
KILLED_STARTS = 20  # in a row, of workers that something else kills: it may be over soon


class _Worker:
    """One process and the job it is busy with. Its first reply tells that it is ready."""

    def __init__(self, command: Sequence[str]):
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=null, start_new_session=True)
        self._requests, self.replies = cast(RawIOBase, self._process.stdin), cast(RawIOBase, self._process.stdout)
        self.ready = False
        self.job: int | None = None
        self.deadline = time.monotonic() + PATIENCE

    def send(self, job: int, pair: tuple[str, str]) -> None:
        self.job, self.deadline = job, time.monotonic() + PATIENCE
        with suppress(BrokenPipeError):  # it has just died; the next event is its end of file
            self._requests.write(json.dumps(pair).encode() + b"\n")

    def receive(self) -> str | None:
        """The next reply; None if the process has ended, or talks gibberish."""
        with suppress(ValueError):
            return json.loads(self.replies.readline())
        return None

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None

    def ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> int:
        """Kills and reaps the process; its exit status."""
        self._process.kill()
        with self._process:  # closes the pipes and waits
            return self._process.wait()


class Pool:
    """At most `size` workers; `verdicts` may be called from any thread.

    With at least two workers a poisonous answer holds up one of them for `seconds` and the others go on.
    """

    def __init__(self, size: int | None = None, seconds: int = SECONDS, megabytes: int = MEGABYTES):
        self._size = size or max(2, min(8, os.cpu_count() or 2))
        script = Path(__file__).with_name("maths_worker.py")
        # -P: the script's folder, with its code.py, must not hide the standard library
        self._command = [sys.executable, "-P", str(script), str(seconds), str(megabytes)]
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """The verdict on each (gold, answer), in order.

        "timeout": the comparison ran out of time. "error": it killed `DEATHS` workers, as for lack of memory, or no worker
        could start. Any other death of a worker costs the time to try its comparison again.
        """
        with self._lock:
            try:
                return self._run(pairs)
            except BaseException:  # Ctrl-C between a request and its reply: replies would no longer match requests
                self._end()
                raise

    def close(self) -> None:
        """Ends every worker; a later call starts new ones."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        while self._workers:
            self._workers.pop().end()

    def _run(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        verdicts: list[Verdict] = ["error"] * len(pairs)
        waiting = deque(range(len(pairs)))
        deaths = [0] * len(pairs)
        failed = killed = 0  # starts since a worker was last ready
        while waiting or any(worker.job is not None for worker in self._workers):
            for worker in [worker for worker in self._workers if worker.idle and worker.ended()]:
                self._drop(worker)  # no job is to blame
            missing = min(self._size, len(waiting)) - sum(worker.job is None for worker in self._workers)
            for _ in range(min(missing, self._size - len(self._workers))):
                self._workers.append(_Worker(self._command))
            for worker in self._workers:
                if worker.idle and waiting:
                    job = waiting.popleft()
                    worker.send(job, pairs[job])
            for worker, reply in self._events():
                if not worker.ready and reply == "ready":
                    worker.ready = True
                    failed = killed = 0
                    continue
                if not worker.ready:
                    late = worker.deadline <= time.monotonic()
                    if self._drop(worker) < 0 and reply is None and not late:
                        killed += 1
                    else:
                        failed += 1
                    if failed >= FAILED_STARTS or killed >= KILLED_STARTS:
                        log.error("math-verify's worker process did not start: %s", reply or "it died or took too long")
                        self._end()
                        return verdicts
                    continue
                job, worker.job = cast(int, worker.job), None
                if reply is not None:
                    verdicts[job] = cast(Verdict, reply)
                    continue
                deaths[job] += 1
                # a kill by the CPU limit, or by us for the wall limit, is final; another death may be an accident
                if self._drop(worker) == -signal.SIGXCPU or worker.deadline <= time.monotonic():
                    verdicts[job] = "timeout"
                elif deaths[job] < DEATHS:
                    waiting.appendleft(job)
        return verdicts

    def _drop(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        return worker.end()

    def _events(self) -> list[tuple[_Worker, str | None]]:
        """Waits for workers that reply, end (None) or pass their deadline (None)."""
        active = [worker for worker in self._workers if not worker.idle]
        with selectors.DefaultSelector() as selector:
            for worker in active:
                selector.register(worker.replies, selectors.EVENT_READ, worker)
            patience = min(worker.deadline for worker in active) - time.monotonic()
            heard = {key.data for key, _ in selector.select(max(0.0, patience))}
        now = time.monotonic()
        return [
            (worker, worker.receive() if worker in heard else None)
            for worker in active
            if worker in heard or worker.deadline <= now
        ]


@cache
def shared_pool() -> Pool:
    """The pool of this process: made when first needed, closed when the interpreter ends."""
    pool = Pool()
    atexit.register(pool.close)
    return pool
