"""The checkpoints of one stage of a run: numbered records, of which the newest few are kept."""

import hashlib
import logging
import re
import reprlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_jax.runs.records import (
    MANIFEST,
    DamagedRecord,
    Record,
    check_name,
    check_record,
    discard_record,
    read_record,
    write_record,
)

log = logging.getLogger(__name__)

KEEP = 3
LONGEST_NAME = 120  # characters of a stage's folder
CHECKPOINTS = "checkpoints"
FACTS = {"stage": str, "fingerprint": dict, "metrics": list}  # what a run tells of each, besides others


class Checkpoints:
    """Numbered records in a directory.

    Args:
        directory: made with the first record.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    @classmethod
    def of(cls, run: Path, stage: str) -> "Checkpoints":
        """Those of a stage of a run."""
        return cls(run / CHECKPOINTS / _folder(stage))

    def paths(self) -> list[Path]:
        """The records' directories, oldest first, sound or not."""
        if not self.directory.is_dir():
            return []
        return sorted((path for path in self.directory.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))

    def save(self, number: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Write record `number`, with at least the `FACTS`, then remove those that are not needed any more.

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

    def check(self, path: Path) -> dict[str, Any]:
        """The facts of one of the records, once its files have been found to be what was written, and of this stage.

        Raises:
            DamagedRecord, NewerRecord: see `check_record`; or it belongs to another stage.
        """
        facts = check_record(path)["facts"]
        self._check_facts(path, facts)
        return facts

    def _check_facts(self, path: Path, facts: Mapping[str, Any]) -> None:
        for field, kind in FACTS.items():
            if type(facts.get(field)) is not kind:
                raise DamagedRecord(f"{path / MANIFEST}: {field!r} cannot be {reprlib.repr(facts.get(field))}")
        if any(type(line) is not dict for line in facts["metrics"]):
            raise DamagedRecord(f"{path / MANIFEST}: 'metrics' holds lines that are none")
        check_name(self.directory, _folder(facts["stage"]))

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
                self._check_facts(path, record.facts)
            except DamagedRecord as error:
                older = len(paths) - age - 1
                then = "going back to the one before it" if older else "there is none before it: starting this stage anew"
                log.error("DAMAGED CHECKPOINT: %s; %s", error, then)
            else:
                yield int(path.name), record


def _folder(stage: str) -> str:
    """The name of a stage's directory."""
    name = re.sub(r"[^a-z0-9.]+", "-", stage.lower()).strip("-")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(stage.encode()).hexdigest()[:8]}"  # a mixture's name; files end at 255 bytes
