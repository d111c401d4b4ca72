"""The sums of a run's own files, in sums.json: size and SHA-256 of each as it was written.

    {"sha256": of all this, "files": {"results.json": [[2048, "9f2c..."]], "metrics.jsonl": [[512, "03ab..."]]}}

They hold at every moment, even where the process is killed: while a file is replaced, the sums of the old one and the new one
are there, null for none. A log that grows has the sum of its beginning, as long as it was when the sums were last written.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from adaptive_jax.runs.records import DamagedRecord, file_digest, read_signed, signed

log = logging.getLogger(__name__)

SUMS = "sums.json"

Sum = tuple[int, str] | None  # bytes and SHA-256, in hexadecimal; None where there is no file


class Sums:
    """Keeps the sums of a run's files, for the one process that writes them.

    Args:
        run: the directory; the sums that are there are taken over.
        growing: the name of a log, to which lines are appended.

    Raises:
        OSError: they cannot be written; so do all methods.
    """

    def __init__(self, run: Path, growing: str):
        self._run, self._growing = run, growing
        self._size, self._digest = 0, hashlib.sha256()  # of the log
        try:
            self._files = read_sums(run)
        except DamagedRecord as error:
            log.warning("%s; making a new one", error)
            self._files = {}

    def replace(self, name: str, partial: Path) -> None:
        """Put a file in the place of the one called `name`, if there is one."""
        file, new = self._run / name, _sum(partial)
        self._files[name] = [new, *self._files.get(name, [_sum(file)])]
        self.save()
        os.replace(partial, file)
        self._files[name] = [new]
        self.save()

    def begin(self) -> None:
        """The log is about to be emptied, or made."""
        self._files[self._growing] = [None]
        self.save()

    def grown(self, content: bytes) -> None:
        """The log has got longer."""
        self._size += len(content)
        self._digest.update(content)
        self._files[self._growing] = [(self._size, self._digest.hexdigest())]

    def save(self) -> None:
        """Write the sums."""
        partial = self._run / f".partial-{SUMS}"
        try:
            partial.write_text(signed({"files": self._files}))
            os.replace(partial, self._run / SUMS)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def read_sums(run: Path) -> dict[str, list[Sum]]:
    """The sums of a run's files, by name: each file has one of those that are given for it.

    Raises:
        DamagedRecord: sums.json is not what was written.
    """
    if not (run / SUMS).exists():  # the run is of a time when none were kept
        return {}
    files = read_signed(run / SUMS).get("files", {})
    try:
        return {name: [sum_ and (int(sum_[0]), str(sum_[1])) for sum_ in sums] for name, sums in files.items()}
    except (AttributeError, TypeError, ValueError, LookupError) as error:
        raise DamagedRecord(f"{run / SUMS}: 'files' must give lists of size and SHA-256 by name") from error


def check_files(run: Path, growing: str) -> Iterator[tuple[str, int, str | None]]:
    """Name of each file that has a sum, how many bytes of it have none, and what is wrong with it.

    Args:
        run: the directory.
        growing: the name of the log, which may be longer than its sum says.

    Raises:
        DamagedRecord: sums.json is not what was written.
    """
    for name, sums in read_sums(run).items():
        file = run / name
        if not file.exists():
            yield name, 0, None if None in sums else f"{file} is missing"
        elif not file.is_file():
            yield name, 0, f"{file} is no file"
        elif name == growing:
            size, digest = next(iter(sums), None) or (0, hashlib.sha256().hexdigest())
            content = file.read_bytes()
            sound = len(content) >= size and hashlib.sha256(content[:size]).hexdigest() == digest
            yield name, max(len(content) - size, 0), None if sound else _told(file)
        else:
            yield name, 0, None if _sum(file) in sums else _told(file)


def _told(file: Path) -> str:
    return f"{file} is not what was written: its size or SHA-256 differs"


def _sum(file: Path) -> Sum:
    return (file.stat().st_size, file_digest(file)) if file.is_file() else None
