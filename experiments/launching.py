"""How an experiment starts from the command line: its flags, its log lines, and how it ends where they cannot be used."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import tyro
from tqdm import tqdm

from adaptive_jax import parallel
from adaptive_jax.tasks.sandbox import SandboxUnavailable


class _TqdmHandler(logging.Handler):
    """Writes log lines above a progress line instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


_CONSOLE = _TqdmHandler()
ConfigT = TypeVar("ConfigT")

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended


def launch(main: Callable[[ConfigT], object], config: type[ConfigT], description: str | None) -> None:
    """Run an experiment from the command line.

    Log lines go to standard output. Ctrl-C ends it with status 130.
    """
    for name in ("adaptive_jax", "experiments"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(_CONSOLE)
        logger.propagate = False
    try:
        with exit_on_usage_error():
            chosen = tyro.cli(config, description=description)
            if getattr(chosen, "distributed", False):
                parallel.connect()
                if not parallel.is_main_process():
                    _CONSOLE.setLevel(logging.WARNING)
        main(chosen)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


@contextmanager
def exit_on_usage_error() -> Iterator[None]:
    """Around whatever depends on what the user asked for: an error there is a line that says what to mend, and status 2."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError, SandboxUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
