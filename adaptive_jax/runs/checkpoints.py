"""The checkpoints of one stage of a run: numbered records, of which the newest few are kept."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_jax.runs.records import DamagedRecord, Record, discard_record, read_record, write_record

log = logging.getLogger(__name__)

KEEP = 3


class Checkpoints:
    """Numbered records in a directory.

    Args:
        directory: made with the first record.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    def paths(self) -> list[Path]:
        """The records' directories, oldest first, sound or not."""
        if not self.directory.is_dir():
            return []
        return sorted((path for path in self.directory.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))

    def save(self, number: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Write record `number`, then remove those that are not needed any more.

        Raises:
            NotWritten: it could not be written; the records before it are as they were.
        """
        written = self.directory / f"{number:06d}"
        write_record(written, arrays, facts)
        paths = self.paths()
        own = paths.index(written) + 1
        for path in (*paths[: max(own - KEEP, 0)], *paths[own:]):  # whoever is behind a record has found it damaged
            discard_record(path)
        for leftover in self.directory.glob(".*"):  # of processes that were killed while they saved
            shutil.rmtree(leftover)

    def newest(self) -> tuple[int, Record] | None:
        """Number and content of the newest sound record; damaged ones are told of in the log.

        Raises:
            NewerRecord: one was written by a newer version.
        """
        return next(self._sound(), None)

    def _sound(self) -> Iterator[tuple[int, Record]]:
        paths = self.paths()
        for age, path in enumerate(reversed(paths)):
            try:
                record = read_record(path)
            except DamagedRecord as error:
                older = len(paths) - age - 1
                then = "going back to the one before it" if older else "there is none before it: starting this stage anew"
                log.error("DAMAGED CHECKPOINT: %s; %s", error, then)
            else:
                yield int(path.name), record
