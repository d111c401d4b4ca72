"""Stopping on request: SIGTERM and Ctrl-C ask, the run stops where it may, and a second Ctrl-C ends it at once."""

import os
import signal
import threading
import time
from types import TracebackType
from typing import Any

import jax

from adaptive_jax.parallel import Stopped, ask_to_stop, largest, leave_together, stop_requested

__all__ = ["SIGNALS", "Stop", "Stopped"]

LOOK_EVERY = 1.0  # seconds between two questions whether another process has been asked to stop
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a run has been asked to stop; as a context manager it listens to SIGINT and SIGTERM meanwhile.

    A thread listens, since Python's own handlers wait until a compilation or a chunk of decoding has ended, and the second
    Ctrl-C must not.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._looked = 0.0
        self._before: dict[int, Any] = {}

    def check(self) -> None:
        """Raises Stopped if the run, in any of its processes, has been asked to stop.

        Of several processes each stops where it next checks, or where it waits for another (`parallel.meet`).
        """
        if jax.process_count() == 1:
            if self._asked is not None:
                raise Stopped(self._asked)
        elif (now := time.monotonic()) - self._looked >= LOOK_EVERY:
            self._looked = now
            if requested := stop_requested():
                raise Stopped(requested)

    def agree(self) -> None:
        """Raises Stopped in all processes if one of them has been asked to stop; all must call it."""
        if asked := int(largest(self._asked or 0)):
            raise Stopped(asked)

    def __enter__(self) -> "Stop":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as in a background job
                self._before[number] = signal.signal(number, lambda number, frame: None)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.set_wakeup_fd(self._wakeup)
        while self._before:
            signal.signal(*self._before.popitem())
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)
        if kind is not None and issubclass(kind, Stopped):
            leave_together()

    def _listen(self) -> None:
        while received := os.read(self._reader, 1):
            number = received[0]
            if number not in SIGNALS:
                continue
            if self._asked is None:
                self._asked = number
                _tell("stopping: saving first; a second Ctrl-C ends this at once, and what is not saved is computed again\n")
                ask_to_stop(number)
            elif number == signal.SIGINT:
                _tell("ended at once\n")
                os._exit(128 + number)


def _tell(text: str) -> None:
    """Past every buffer: the main thread may be in the middle of writing."""
    os.write(2, text.encode())
