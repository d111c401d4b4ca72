"""Worker processes for work that may hang or die, each killable without harm to the others.

Graders and reward functions run on text that a model wrote: they can hang, recurse to death or eat all memory. So each job runs
in a process of its own, with limits that the worker's script sets. The processes start when first needed, serve many jobs, and
end with this process however it ends: their stdin closes.

A worker reads a job as a JSON line and writes its reply as a JSON line. Its first reply is "ready", or what went wrong.
"""

import json
import logging
import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import RawIOBase
from typing import Any, Literal, cast

log = logging.getLogger(__name__)

START = 30.0  # seconds of wall time for the start of a worker
DEATHS = 3  # workers that one job may kill before it is given up
FAILED_STARTS = 2  # in a row, of workers that say why, end by themselves or never get ready
KILLED_STARTS = 20  # in a row, of workers that something else kills: it may be over soon


@dataclass(frozen=True)
class Failure:
    """Why a job has no reply.

    Attributes:
        reason: "timeout", it ran out of time; "death", it killed `DEATHS` workers; "start", no worker could start.
        detail: in words.
    """

    reason: Literal["timeout", "death", "start"]
    detail: str


class _Worker:
    """One process and the job it is busy with. Its first reply tells that it is ready."""

    def __init__(self, command: Sequence[str], setup: str):
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=null, start_new_session=True)
        self._requests, self.replies = cast(RawIOBase, self._process.stdin), cast(RawIOBase, self._process.stdout)
        self.ready = False
        self.job: int | None = None
        self.deadline = time.monotonic() + START
        self._write(setup)

    def send(self, job: int, request: Any, patience: float) -> None:
        self.job, self.deadline = job, time.monotonic() + patience
        self._write(json.dumps(request) + "\n")

    def _write(self, text: str) -> None:
        content = memoryview(text.encode())
        with suppress(BrokenPipeError):  # it has just died; the next event is its end of file
            while content:
                content = content[self._requests.write(content) :]

    def receive(self) -> Any:
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
        """Kills the process and what it has started, and reaps it; its exit status."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:  # closes the pipes and waits
            return self._process.wait()


class Pool:
    """At most `size` workers; `replies` may be called from any thread.

    With at least two workers a poisonous job holds up one of them and the others go on.

    Args:
        command: starts a worker.
        patience: seconds of wall time for one job.
        size: how many workers; by default as many as CPUs, from 2 to 8.
        setup: what a worker reads before its first job: text that ends with a line feed, or none.
    """

    def __init__(self, command: Sequence[str], patience: float, *, size: int | None = None, setup: str = ""):
        self._command, self._patience, self._setup = command, patience, setup
        self._size = size or max(2, min(8, os.cpu_count() or 2))
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()

    def replies(self, requests: Sequence[Any]) -> list[Any]:
        """The reply to each request, in order, or a `Failure`. An accidental death of a worker costs only another try."""
        with self._lock:
            try:
                return self._run(requests)
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

    def _run(self, requests: Sequence[Any]) -> list[Any]:
        replies: list[Any] = [None] * len(requests)
        waiting = deque(range(len(requests)))
        deaths = [0] * len(requests)
        failed = killed = 0  # starts since a worker was last ready
        while waiting or any(worker.job is not None for worker in self._workers):
            for worker in [worker for worker in self._workers if worker.idle and worker.ended()]:
                self._drop(worker)  # no job is to blame
            missing = min(self._size, len(waiting)) - sum(worker.job is None for worker in self._workers)
            for _ in range(min(missing, self._size - len(self._workers))):
                self._workers.append(_Worker(self._command, self._setup))
            for worker in self._workers:
                if worker.idle and waiting:
                    job = waiting.popleft()
                    worker.send(job, requests[job], self._patience)
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
                        failure = Failure("start", str(reply or "it died or took too long"))
                        log.error("%s did not start: %s", " ".join(self._command[:4]), failure.detail)
                        self._end()
                        return [failure if found is None else found for found in replies]
                    continue
                job, worker.job = cast(int, worker.job), None
                if reply is not None:
                    replies[job] = reply
                    continue
                deaths[job] += 1
                late, status = worker.deadline <= time.monotonic(), self._drop(worker)
                # a kill by the CPU limit, or by us for the wall limit, is final; another death may be an accident
                if status == -signal.SIGXCPU or late:
                    replies[job] = Failure("timeout", "it ran out of time")
                elif deaths[job] < DEATHS:
                    waiting.appendleft(job)
                else:
                    how = f"signal {-status}" if status < 0 else f"exit status {status}"
                    replies[job] = Failure("death", f"it ended its process {DEATHS} times, the last time by {how}")
        return replies

    def _drop(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        return worker.end()

    def _events(self) -> list[tuple[_Worker, Any]]:
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
