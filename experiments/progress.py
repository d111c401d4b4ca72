"""Progress lines of long stages."""

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

from adaptive_jax import parallel
from adaptive_jax.runs.stopping import Stop

log = logging.getLogger(__name__)


class Progress:
    """One progress line with the time left, or on a console that is none a log line every ten seconds; a context manager.

    Args:
        label: what is being done.
        total: how much of it there is.
        stop: looked at with every report: where the run has been asked to stop, `Stopped` is raised.
    """

    def __init__(self, label: str, total: int, stop: Stop):
        self._label, self._total, self._stop = label, total, stop
        self._first: tuple[float, int] | None = None  # time and count of the first report; what is before it is compilation
        self._told = time.monotonic()
        self._bar = tqdm(
            total=total,
            desc=label,
            leave=False,
            disable=not (sys.stderr.isatty() and parallel.is_main_process()),
            bar_format="{desc}: {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left {postfix}",
            dynamic_ncols=True,
        )

    def at_least(self, done: int, note: str = "") -> None:
        """So much is done."""
        self._stop.check()
        now = time.monotonic()
        if not self._bar.disable:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif self._first is None:
            self._first = now, done
        elif now - self._told >= 10.0 and done > self._first[1]:
            self._told = now
            left = (now - self._first[0]) / (done - self._first[1]) * (self._total - done)
            log.info("%s: %d of %d, %s left %s", self._label, done, self._total, tqdm.format_interval(left), note)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
