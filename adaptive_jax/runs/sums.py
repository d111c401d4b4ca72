"""The sums of a run's own files, in sums.json: size and SHA-256 of each as it was written.

    {"sha256": of all this, "files": {"results.json": [[2048, "9f2c..."]], "metrics.jsonl": [[512, "03ab..."]]},
     "stages": ["training-seed-0"]}

They hold at every moment, even where the process is killed: while a file is replaced, the sums of the old one and the new one
are there, null for none. A log that grows has the sum of its beginning, as long as it was when the sums were last written. What
trackers write into folders of the run has sums once they are done with it. Stages are the folders of those with a checkpoint.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from adaptive_jax.runs.records import DamagedRecord, file_digest, read_signed, signed

log = logging.getLogger(__name__)

SUMS = "sums.json"
PROGRAM_LOG = ".log"  # of a tracker's own program: its beginning has a sum; what it adds after the run is no result

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
            self._files, self._stages = read_sums(run)
        except DamagedRecord as error:
            log.warning("%s; making a new one", error)
            self._files, self._stages = {}, set()

    def replace(self, name: str, partial: Path) -> None:
        """Put a file in the place of the one called `name`, if there is one."""
        file, new = self._run / name, _sum(partial)
        self._files[name] = [new, *self._files.get(name, [_sum(file)])]
        self.save()
        os.replace(partial, file)
        self._files[name] = [new]
        self.save()

    def begin(self, stages: Iterable[str]) -> None:
        """The log is about to be emptied, or made, trackers may write, and these stages have a checkpoint."""
        self._files = {name: sums for name, sums in self._files.items() if "/" not in name}
        self._files[self._growing] = [None]
        self._stages = set(stages)
        self.save()

    def stage(self, name: str) -> None:
        """A stage has a checkpoint."""
        if name not in self._stages:
            self._stages.add(name)
            self.save()

    def folder(self, name: str) -> None:
        """Nothing is written into a folder of the run any more; it need not be there."""
        for file in (self._run / name).rglob("*"):
            if file.is_file():
                self._files[file.relative_to(self._run).as_posix()] = [_sum(file)]

    def grown(self, content: bytes) -> None:
        """The log has got longer."""
        self._size += len(content)
        self._digest.update(content)
        self._files[self._growing] = [(self._size, self._digest.hexdigest())]

    def save(self) -> None:
        """Write the sums."""
        partial = self._run / f".partial-{SUMS}"
        try:
            partial.write_text(signed({"files": self._files, "stages": sorted(self._stages)}))
            os.replace(partial, self._run / SUMS)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def read_sums(run: Path) -> tuple[dict[str, list[Sum]], set[str]]:
    """The sums of a run's files, by name: each file has one of those that are given for it. And the stages with a checkpoint.

    Raises:
        DamagedRecord: sums.json is not what was written.
    """
    if not (run / SUMS).exists():  # the run is of a time when none were kept
        return {}, set()
    content = read_signed(run / SUMS)
    try:
        files = content.get("files", {}).items()
        sums = {name: [one and (int(one[0]), str(one[1])) for one in several] for name, several in files}
        return sums, set(map(str, content.get("stages", ())))
    except (AttributeError, TypeError, ValueError, LookupError) as error:
        raise DamagedRecord(f"{run / SUMS}: 'files' must give lists of size and SHA-256 by name, 'stages' be a list") from error


def check_files(run: Path, growing: str) -> Iterator[tuple[str, int, str | None]]:
    """Name of each file that has a sum, how many bytes of it have none, and what is wrong with it.

    Args:
        run: the directory.
        growing: the name of the log, which may be longer than its sum says.

    Raises:
        DamagedRecord: sums.json is not what was written.
    """
    for name, sums in read_sums(run)[0].items():
        file = run / name
        if not file.exists():
            yield name, 0, None if None in sums else f"{file} is missing"
        elif not file.is_file():
            yield name, 0, f"{file} is no file"
        elif name == growing or file.suffix == PROGRAM_LOG:
            size, digest = next(iter(sums), None) or (0, hashlib.sha256().hexdigest())
            content = file.read_bytes()
            sound = len(content) >= size and hashlib.sha256(content[:size]).hexdigest() == digest
            more = max(len(content) - size, 0) if name == growing else 0
            yield name, more, None if sound else _told(file)
        else:
            yield name, 0, None if _sum(file) in sums else _told(file)


def _told(file: Path) -> str:
    return f"{file} is not what was written: its size or SHA-256 differs"


def _sum(file: Path) -> Sum:
    return (file.stat().st_size, file_digest(file)) if file.is_file() else None
