"""A run's directory: what was asked for, on what it ran, what was measured, and the stages that are behind it.

A run is a sequence of named stages, none inside another: an evaluation, the training of an adapter. What a
stage found is a record (`adaptive_jax.runs.records`) under checkpoints/, with the lines that it logged. A run that goes on
takes it from there instead of computing it anew, and puts metrics.jsonl together again, so that each line is in it once.

Where a run has several processes, all of them go through its stages together, and process 0 alone reads and writes files.
"""

import dataclasses
import fcntl
import functools
import json
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from adaptive_jax.digest import tree_digest
from adaptive_jax.parallel import on_main_process
from adaptive_jax.runs.checkpoints import CHECKPOINTS, Checkpoints
from adaptive_jax.runs.fingerprint import Fingerprint, FingerprintMismatch, check_fingerprint, check_processes
from adaptive_jax.runs.machine import environment
from adaptive_jax.runs.records import (
    DamagedRecord,
    NotWritten,
    Record,
    named_leaves,
    read_manifest,
    replace_leaves,
)
from adaptive_jax.runs.stopping import Stop, Stopped
from adaptive_jax.runs.sums import SUMS, Sums

log = logging.getLogger(__name__)

LOCK = ".lock"
METRICS = "metrics.jsonl"

Metrics = dict[str, Any]


class State(Protocol):
    """A pytree of all that decides how a loop goes on."""

    @property
    def update(self) -> int: ...


StateT = TypeVar("StateT", bound=State)


class RunDirectory:
    """A directory with config.json, environment.json, metrics.jsonl and checkpoints, readable at every moment of the run.

    Its files have their sums in sums.json (`adaptive_jax.runs.sums`), or in the manifests of records.

    Args:
        path: the directory; made if missing. With checkpoints in it, the run in it goes on.
        config: what was asked for; a dataclass.
        fingerprint: what decides the run's numbers.
        resume: start a run without any checkpoint anew, where its directory exists.
        allowed: fields of the fingerprint that may differ from those of the run that goes on.
        on_line: called in process 0 with every line of metrics.jsonl, those of earlier processes included.

    Attributes:
        stop: whether the run has been asked to stop; stages look at it.
        seconds: that each stage took, in the order in which this process came to them; what earlier processes saved counts.

    Raises:
        FileExistsError: there is a run in the directory that cannot go on.
        BlockingIOError: another process is at work in it.
        FingerprintMismatch, NewerRecord: its checkpoints were made with something else, or by a newer version; or the run's
            processes differ in what they were started with.
        OSError: it cannot be written. In all these cases, what is in the directory stays as it is.
    """

    def __init__(
        self,
        path: Path,
        config: Any,
        fingerprint: Fingerprint,
        *,
        resume: bool = False,
        allowed: Collection[str] = (),
        on_line: Callable[[Metrics], None] | None = None,
    ):
        self.path, self.fingerprint, self.stop = path, plain(fingerprint), Stop()
        self.seconds: dict[str, float] = {}
        self._opened, self._inside = time.monotonic(), 0.0  # seconds of this process inside stages
        self._on_line = on_line
        self._lines: list[Metrics] = []  # what the present stage has logged
        self._files: _Files | None = None  # process 0 has them

        def open_files() -> None:
            self._files = _Files(path, config, self.fingerprint, resume, allowed)

        check_processes(self.fingerprint)
        on_main_process(open_files)

    def stage(self, name: str, compute: Callable[[], Mapping[str, np.ndarray]], *, inputs: Any = None) -> dict[str, np.ndarray]:
        """A stage that is computed in one go: what `compute` returns, or returned when the run was here before.

        Args:
            name: tells the run's stages apart.
            compute: what to do; may call `log`, and `stop.check` where it may be stopped.
            inputs: a pytree of arrays that the result depends on besides the fingerprint, such as a trained policy.

        Raises:
            Stopped: the run has been asked to stop; what was computed meanwhile is not kept.
            NotWritten: the result cannot be saved.
        """
        checkpoints, digest = (
            Checkpoints.of(self.path, name),
            on_main_process(lambda: tree_digest(inputs)),
        )  # all compute anew, or none does
        found = on_main_process(checkpoints.newest)
        if found is not None and found[1].facts.get("inputs") == digest:
            self._log_again(found[1])
            self.seconds[name] = found[1].facts.get("seconds", 0.0)
            return found[1].arrays
        if found is not None:
            log.warning("%s: what it depends on has changed; computing it anew", name)
        self.stop.agree()
        self._lines, start = [], time.monotonic()
        result = {key: np.asarray(value) for key, value in compute().items()}
        self.stop.agree()
        self.seconds[name] = time.monotonic() - start
        self._inside += self.seconds[name]

        def saved() -> dict[str, np.ndarray]:
            self._save(checkpoints, 0, result, self._facts(name, inputs=digest))
            return result

        return on_main_process(saved)  # of several processes, all go on with the result that is on disk

    def loop(
        self, name: str, start: StateT, steps: Callable[[StateT], Iterator[tuple[StateT, Metrics]]], *, every: int
    ) -> tuple[StateT, list[Metrics]]:
        """A stage of many steps: the last state, and the metrics of all steps, those of earlier processes included.

        Args:
            name: tells the run's stages apart.
            start: the state before the first step.
            steps: given a state, yields each later one with the metrics of the step there, which are logged.
            every: steps between two checkpoints; the last state is saved, too.

        Raises:
            Stopped: the run has been asked to stop; the last state reached before that is saved.
            NotWritten: a checkpoint cannot be saved.
            FingerprintMismatch: the newest sound checkpoint is not one of such a state.
        """
        checkpoints, state, self._lines = Checkpoints.of(self.path, name), start, []
        earlier, start_here = 0.0, time.monotonic()
        if (found := on_main_process(checkpoints.newest)) is not None:
            number, record = found
            try:
                state = replace_leaves(start, record.arrays)
            except ValueError as error:
                raise FingerprintMismatch(f"{checkpoints.directory}, checkpoint {number}: {error}") from error
            self._log_again(record)
            earlier = record.facts.get("seconds", 0.0)
            log.info("%s: going on from checkpoint %d", name, number)
        saved = state.update

        def save() -> None:
            nonlocal saved
            self.seconds[name] = earlier + time.monotonic() - start_here
            if state.update != saved:
                on_main_process(lambda: self._save(checkpoints, state.update, named_leaves(state), self._facts(name)))
                saved = state.update

        try:
            self.stop.agree()
            for reached, metrics in steps(state):
                self.stop.agree()  # a step that was under way may have met graders that Ctrl-C ended, too
                state = reached
                self.log(**metrics)
                if state.update % every == 0:
                    save()
        except Stopped:
            save()
            raise
        save()
        self._inside += self.seconds[name] - earlier
        lines, self._lines = self._lines, []
        return state, lines

    @property
    def seconds_between(self) -> float:
        """That this process has spent outside of stages since it opened the directory."""
        return time.monotonic() - self._opened - self._inside

    def log(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl; it has left the process when this returns.

        A stage keeps the lines that it logs. What is logged between stages is logged by every process that comes there.
        """
        line = plain(metrics)
        self._lines.append(line)
        self._append(line)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file of the run, whole or not at all."""
        self.write_text(name, _json(content))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the run, whole or not at all."""
        self.write_file(name, lambda path: path.write_text(text))

    def write_file(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file of the run, whole or not at all, by a function that writes it to a given path."""
        if self._files is not None:
            self._files.write(name, write)

    def close(self, folders: Iterable[str] = ()) -> None:
        """Let go of the directory.

        Args:
            folders: those of it into which others, such as trackers, have written; they are done.
        """
        if self._files is not None:
            self._files.close(folders)

    def _save(self, checkpoints: Checkpoints, number: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Save a checkpoint of a stage; for process 0."""
        assert self._files is not None
        checkpoints.save(number, arrays, facts)
        self._files.has_stage(checkpoints.directory.name)

    def _facts(self, stage: str, **others: Any) -> dict[str, Any]:
        return {
            "stage": stage,
            **others,
            "seconds": self.seconds[stage],
            "fingerprint": self.fingerprint,
            "metrics": self._lines,
        }

    def _log_again(self, record: Record) -> None:
        self._lines = record.facts["metrics"]
        for line in self._lines:
            self._append(line)

    def _append(self, line: Metrics) -> None:
        if self._files is not None:
            self._files.append(line)
            if self._on_line is not None:
                self._on_line(line)


class _Files:
    """The open files of a run's directory, and its lock; see `RunDirectory`."""

    def __init__(self, path: Path, config: Any, fingerprint: Fingerprint, resume: bool, allowed: Collection[str]):
        self._path, machine = path, environment()
        checkpoints = path / CHECKPOINTS
        if (path / "config.json").exists() and not checkpoints.is_dir():
            raise FileExistsError(f"{path} holds a run already, and one that cannot go on: choose another --run-dir")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = locked(path, LOCK, "--run-dir")
        except BlockingIOError:
            raise
        except OSError as error:
            reason = "it is no directory" if isinstance(error, FileExistsError) else error.strerror
            raise OSError(f"{path} cannot be written ({reason}): choose another --run-dir") from error
        try:
            stages = _check(path, fingerprint, allowed)
            if stages:
                log.info("going on with the run in %s: checkpoints of %d stages are there", path, len(stages))
            elif (path / "config.json").exists() and not resume:
                raise FileExistsError(
                    f"{path} holds a run already, without a checkpoint: choose another --run-dir, or start it anew by --resume"
                )
            checkpoints.mkdir(exist_ok=True)
            self._sums = Sums(path, METRICS)
            for name, content in (("config.json", dataclasses.asdict(config)), ("environment.json", machine)):
                self.write(name, functools.partial(Path.write_text, data=_json(content)))
            self._sums.begin(stages)
            self._metrics = (path / METRICS).open("wb", buffering=0)
        except BaseException:
            os.close(self._lock)
            raise

    def append(self, line: Metrics) -> None:
        """Add a line to metrics.jsonl."""
        content = (json.dumps(line) + "\n").encode()
        try:
            written = self._metrics.write(content)
        except OSError as error:
            raise NotWritten(f"{self._metrics.name} could not be written: {error.strerror}") from error
        if written != len(content):
            raise NotWritten(f"{self._metrics.name} could not be written: the disk is full")
        self._sums.grown(content)

    def write(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file, whole or not at all, by a function that writes it to a given path."""
        file = self._path / name
        partial = file.with_name(f".partial-{name}")
        try:
            partial.unlink(missing_ok=True)  # what a killed process left, or a link to somewhere else
            write(partial)
            self._sums.replace(name, partial)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise NotWritten(f"{file} could not be written: {error.strerror}") from error

    def has_stage(self, name: str) -> None:
        """A stage has a checkpoint, in the folder of that name."""
        try:
            self._sums.stage(name)
        except OSError as error:
            raise NotWritten(f"{self._path / SUMS} could not be written: {error.strerror}") from error

    def close(self, folders: Iterable[str]) -> None:
        """Close all of them, and take the sums of those in folders that others have written."""
        with suppress(OSError):  # where the disk is full, it has been told
            for folder in folders:
                self._sums.folder(folder)
            self._sums.save()
        self._metrics.close()
        os.close(self._lock)


def _check(path: Path, fingerprint: Fingerprint, allowed: Collection[str]) -> list[str]:
    """The folders of those stages of the run in a directory that have a checkpoint; all must have this fingerprint."""
    stages = []
    for directory in sorted((path / CHECKPOINTS).glob("*/")):
        paths = Checkpoints(directory).paths()
        if paths:
            stages.append(directory.name)
        for found in paths:
            try:
                recorded = read_manifest(found)["facts"].get("fingerprint")
            except DamagedRecord:
                continue  # told of when the stage is reached
            if type(recorded) is dict:  # else that is told of, too
                check_fingerprint(f"the run in {path}", recorded, fingerprint, allowed)
    return stages


def _json(content: Any) -> str:
    return json.dumps(plain(content), indent=2) + "\n"


def read_metrics(path: Path) -> list[Metrics]:
    """The lines of a run's metrics.jsonl; one that is only half written does not count."""
    lines = (path / METRICS).read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def plain(value: Any) -> Any:
    """JSON's own types: NumPy scalars and arrays, paths and tuples become them; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def locked(path: Path, name: str, flag: str) -> int:
    """A descriptor that holds the directory's lock of that name until it is closed, or the process ends, however it does.

    Raises:
        BlockingIOError: another process holds it; the message tells which, and that `flag` chooses another directory.
    """
    descriptor = os.open(path / name, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise BlockingIOError(f"{path} is in use by {owner}: wait for it, or choose another {flag}") from error
    except OSError as error:  # as on some network file systems
        log.warning("%s cannot be locked (%s): see that no other process works in it", path, error.strerror)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor
