"""The directory of a rollout: Parquet shards, and a manifest that tells which of them are done.

    rows/shard-00000.parquet  the rows, in a folder that pandas, polars, DuckDB and datasets read as a whole; the same files and
                              bytes however often the rollout was killed and gone on with
    manifest.json             what was asked, fingerprints, versions, and rows, bytes and SHA-256 of each finished shard
    manifest-2-of-8.json      the same of one of several jobs that share the directory; their union is the rollout

A shard is written under another name and renamed once it is on disk, then it enters the manifest, which is replaced as a whole.
So whenever the process is killed, what the manifests name is there, and all else is made again.
"""

import functools
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from adaptive_jax.runs.directory import locked, plain
from adaptive_jax.runs.fingerprint import Fingerprint, FingerprintMismatch, differences
from adaptive_jax.runs.machine import environment
from adaptive_jax.runs.records import DamagedRecord, NewerRecord, NotWritten, file_digest, read_signed, signed, sync

log = logging.getLogger(__name__)

FORMAT = 1
ROWS = "rows"


class Shards:
    """The shards of one job, to be finished one after the other; a context manager, which holds the job's lock.

    Args:
        directory: made if missing; jobs that share it work at different shards.
        count: shards of the whole rollout.
        job: this job's number and how many there are; it has every shard whose number is `job[0]` modulo `job[1]`.
        asked: what was asked for, for the reader of the manifest.
        fingerprint: what decides the rows.

    Attributes:
        todo: numbers of this job's shards that are not finished.

    Raises:
        FingerprintMismatch: shards that are there were made with something else; they are left as they are.
        NewerRecord: a manifest is of a newer version.
        BlockingIOError: the same job is at work there.
        NotWritten: the directory cannot be written.
    """

    def __init__(self, directory: Path, count: int, job: tuple[int, int], asked: Mapping[str, Any], fingerprint: Fingerprint):
        self.directory, self._count = directory, count
        self._content: dict[str, Any] = {
            "format": FORMAT,
            "asked": plain(asked),
            "fingerprint": plain(fingerprint),
            "total": count,
        }
        self._content["environment"] = environment()
        number, jobs = job
        self._label = "" if jobs == 1 else f"-{number}-of-{jobs}"
        self._manifest = directory / f"manifest{self._label}.json"
        try:
            (directory / ROWS).mkdir(parents=True, exist_ok=True)
            self._lock = locked(directory, f".lock{self._label}", "--out")
        except BlockingIOError:
            raise
        except OSError as error:
            raise NotWritten(f"--out {directory} cannot be written: {error.strerror}") from error
        try:
            recorded = self._recorded()
            for left in (directory / ROWS).glob(f".partial{self._label}-shard-*"):
                left.unlink()  # of a killed process
            own = range(number, count, jobs)
            self._done = {shard: recorded[shard] for shard in own if shard in recorded and self._sound(shard, recorded[shard])}
            self.todo = [shard for shard in own if shard not in self._done]
            self._save()
        except BaseException:
            os.close(self._lock)
            raise

    def finish(self, shard: int, rows: pa.Table) -> None:
        """Write a shard. Raises NotWritten where the disk is full; finished shards are as they were then."""
        file = self._file(shard)
        self._write(file, functools.partial(parquet.write_table, rows, compression="zstd"))
        self._done[shard] = {"rows": rows.num_rows, "bytes": file.stat().st_size, "sha256": file_digest(file)}
        self._save()

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._lock)

    def _recorded(self) -> dict[int, dict[str, Any]]:
        """The finished shards of all manifests in the directory."""
        recorded: dict[int, dict[str, Any]] = {}
        numbers = {self._file(shard).name: shard for shard in range(self._count)}
        # This job's own comes last: where a shard was made anew on a device that gives other bits, it alone knows the new file.
        for manifest in sorted(self.directory.glob("manifest*.json"), key=lambda path: (path == self._manifest, path.name)):
            try:
                content = read_signed(manifest)
            except DamagedRecord as error:
                log.warning("%s; its shards are made anew", error)
                continue
            if content.get("format") != FORMAT:
                raise NewerRecord(
                    f"{manifest} is of format {content.get('format')}: take a newer adaptive_jax, or another --out"
                )
            if differ := differences(content["fingerprint"], self._content["fingerprint"]):
                raise FingerprintMismatch(
                    f"the rollout in {self.directory} was made with something else: {'; '.join(differ.values())}. Nothing was "
                    "changed; give what it was made with, or another --out"
                )
            recorded |= {numbers[name]: entry for name, entry in content["shards"].items()}
        return recorded

    def _sound(self, shard: int, entry: Mapping[str, Any]) -> bool:
        file = self._file(shard)
        if file.is_file() and file_digest(file) == entry["sha256"]:
            return True
        log.warning("%s is %s; it is made anew", file, "damaged: its SHA-256 differs" if file.exists() else "missing")
        return False

    def _file(self, shard: int) -> Path:
        return self.directory / ROWS / f"shard-{shard:05d}.parquet"

    def _save(self) -> None:
        shards = {self._file(shard).name: entry for shard, entry in sorted(self._done.items())}
        text = signed({**self._content, "shards": shards})
        self._write(self._manifest, lambda path: Path(path).write_text(text))

    def _write(self, file: Path, write: Callable[[Path], Any]) -> None:
        partial = file.with_name(f".partial{self._label}-{file.name}")
        try:
            write(partial)
            sync(partial)
            os.replace(partial, file)
            sync(file.parent)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise NotWritten(
                f"{file} could not be written: {error.strerror or error}. What was finished is kept; the same command goes on"
            ) from error
