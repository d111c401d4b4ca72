"""Records: named arrays and facts on disk, written whole or not at all, and checked bit for bit when they are read.

    000010/
      arrays/         the arrays, by orbax
      manifest.json   the facts; shape and dtype of each array; size and SHA-256 of each file; the SHA-256 of all this

Orbax restores a flipped bit as a number, and another dtype as the one that is asked for; the manifest notices both.
"""

import hashlib
import logging
import math
import os
import reprlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from adaptive_jax.digest import leaf_name
from adaptive_jax.parallel import machine_memory
from adaptive_jax.runs.portable import DamagedRecord, NewerRecord, read_signed, signed

FORMAT = 1
MANIFEST = "manifest.json"
ARRAYS = "arrays"

TreeT = TypeVar("TreeT")


class NotWritten(OSError):
    """Something could not be written, such as on a full disk; what was there before is as it was."""


@dataclass(frozen=True)
class Record:
    """What a record holds: arrays by name, and facts, which are JSON."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def write_record(directory: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Write a record, in place of the one that may be there. Killed at any moment, it leaves the old one, the new one or none.

    Raises:
        NotWritten: the disk is full, or the directory cannot be written.
    """
    with replacing(directory) as partial:
        if stored := {name: array for name, array in arrays.items() if array.size}:  # orbax refuses empty ones
            with _quiet_orbax(), _checkpointer() as checkpointer:
                checkpointer.save(partial.absolute() / ARRAYS, stored)
        content = {
            "format": FORMAT,
            "facts": facts,
            "arrays": described(arrays),
            "files": {name: [(partial / name).stat().st_size, file_digest(partial / name)] for name in files_in(partial)},
        }
        (partial / MANIFEST).write_text(signed(content))


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """An empty directory to write into, which then takes the place of `directory`.

    Killed at any moment, it leaves the old one, the new one or none.

    Raises:
        NotWritten: the disk is full, or the directory cannot be written.
    """
    partial = _hidden(directory, "partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                sync(Path(folder, name))
            sync(Path(folder))
        discard_record(directory)
        os.rename(partial, directory)
        sync(directory.parent)
    except Exception as error:  # a full disk is no OSError when tensorstore tells of it
        shutil.rmtree(partial, ignore_errors=True)
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition(" [")[0].rpartition(": ")[2]
        raise NotWritten(f"{directory} could not be written: {reason}") from error


def read_record(directory: Path) -> Record:
    """Check a record and read it.

    Raises:
        DamagedRecord, NewerRecord: see there.
    """
    manifest = check_record(directory)
    sizes = {name: math.prod(shape) * np.dtype(dtype).itemsize for name, (dtype, shape) in manifest["arrays"].items()}
    if (size := sum(sizes.values())) > (limit := machine_memory()):
        raise DamagedRecord(
            f"{directory / MANIFEST}: 'arrays' take {size / 2**30:.1f} GiB, and this machine has {limit / 2**30:.1f} GiB"
        )
    try:
        arrays = {name: np.zeros(*manifest["arrays"][name][::-1]) for name, size in sizes.items() if not size}
        if stored := {name: ocp.RestoreArgs(restore_type=np.ndarray) for name, size in sizes.items() if size}:
            with _checkpointer() as checkpointer:
                arrays |= checkpointer.restore(directory.absolute() / ARRAYS, restore_args=stored)
    except Exception as error:  # orbax and tensorstore have kinds of their own
        raise DamagedRecord(f"{directory / ARRAYS} cannot be read: {str(error).partition(' [')[0]}") from error
    if described(arrays) != manifest["arrays"]:
        raise DamagedRecord(f"{directory / ARRAYS} holds other shapes or dtypes than its manifest says")
    return Record({name: arrays[name] for name in sizes}, manifest["facts"])


def check_record(directory: Path) -> dict[str, Any]:
    """The manifest of a record, once every file has been found to be what it says.

    Raises:
        DamagedRecord: a file is missing, foreign, cut short, unreadable or changed, be it by one bit.
        NewerRecord: see there.
    """
    manifest = read_manifest(directory)
    present = set(files_in(directory)) - {MANIFEST}
    for name, (size, digest) in manifest["files"].items():
        file = directory / name
        if name not in present:
            raise DamagedRecord(f"{file} is missing")
        try:
            found = file.stat().st_size, file_digest(file)
        except OSError as error:  # as on a disk that is broken
            raise DamagedRecord(f"{file} cannot be read: {error.strerror}") from error
        if found[0] != size:
            raise DamagedRecord(f"{file} has {found[0]} bytes instead of {size}")
        if found[1] != digest:
            raise DamagedRecord(f"{file} is not what was written: its SHA-256 differs")
    if foreign := sorted(present - set(manifest["files"])):
        raise DamagedRecord(f"{directory / foreign[0]} is no part of this record")
    return manifest


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a record, itself checked; the files are not.

    Raises:
        DamagedRecord, NewerRecord: see there.
    """
    file = directory / MANIFEST
    content = read_signed(file)
    for field, sound in _MANIFEST_FIELDS.items():
        if not sound(content.get(field)):
            raise DamagedRecord(f"{file}: {field!r} cannot be {reprlib.repr(content.get(field))}")
    if content["format"] > FORMAT:
        raise NewerRecord(
            f"{directory} was written in format {content['format']} by a newer version of adaptive_jax, and this one reads "
            f"up to {FORMAT}: update adaptive_jax, or choose another --run-dir"
        )
    return content


def check_name(directory: Path, name: str | None) -> None:
    """Raises DamagedRecord where what lies in a directory was written under another name; None, as old records have, is any."""
    if name not in (None, directory.name):
        raise DamagedRecord(
            f"{directory} holds what was written as {name}: it was renamed or exchanged; give it that name again"
        )


def _is_array(entry: Any) -> bool:
    try:
        dtype, shape = entry
        return np.dtype(dtype).name == dtype and all(type(length) is int and length >= 0 for length in shape)
    except (TypeError, ValueError):
        return False


def _is_file(entry: Any) -> bool:
    return type(entry) is list and [type(value) for value in entry] == [int, str]


_MANIFEST_FIELDS: dict[str, Callable[[Any], bool]] = {
    "format": lambda value: type(value) is int,
    "facts": lambda value: type(value) is dict,
    "arrays": lambda value: type(value) is dict and all(map(_is_array, value.values())),
    "files": lambda value: type(value) is dict and all(map(_is_file, value.values())),
}


def described(arrays: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Dtype and shape of arrays, or of what has these, by name, as a manifest has them."""
    return {name: [array.dtype.name, list(array.shape)] for name, array in arrays.items()}


def discard_record(directory: Path) -> None:
    """Remove a record. Killed halfway, this leaves no half of one behind that could be taken for a damaged record."""
    discarded = _hidden(directory, "discarded")
    shutil.rmtree(discarded, ignore_errors=True)
    if directory.exists():
        os.rename(directory, discarded)
        shutil.rmtree(discarded)


def named_leaves(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a pytree on the host, by their paths in it."""
    return {name: np.asarray(leaf) for name, leaf in leaves_by_name(tree).items()}


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree as they are, by their paths in it."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def replace_leaves(tree: TreeT, arrays: Mapping[str, np.ndarray]) -> TreeT:
    """The pytree with other leaves, each of the same shape, dtype and kind (jax.Array, np.ndarray, int) as the one before.

    Raises:
        ValueError: an array is missing, one too many, or of another shape or dtype; nothing is cast.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    wanted = {leaf_name(path): leaf for path, leaf in leaves}
    if wanted.keys() != arrays.keys():
        raise ValueError(f"the arrays {sorted(wanted.keys() ^ arrays.keys())} are in one of checkpoint and program only")
    for name, leaf in wanted.items():
        own, found = np.asarray(leaf), arrays[name]
        if (own.shape, own.dtype) != (found.shape, found.dtype):
            raise ValueError(f"{name} is {found.dtype} {found.shape} in the checkpoint, and {own.dtype} {own.shape} here")
    values = [_like(leaf, arrays[name]) for name, leaf in wanted.items()]
    return jax.tree_util.tree_unflatten(structure, values)


def file_digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _checkpointer() -> ocp.Checkpointer:
    """Of this process alone: by itself, orbax waits for all processes of a job at every record."""
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Orbax prints the traces of its threads, four pages for a full disk; what happened is in the error that it raises."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _like(leaf: Any, value: np.ndarray) -> Any:
    if isinstance(leaf, jax.Array):
        return jnp.asarray(value)
    return value if isinstance(leaf, np.ndarray) else value.item()


def files_in(directory: Path) -> list[str]:
    """Paths of all that is no directory, relative to `directory`."""
    found = [Path(folder, name) for folder, _, names in os.walk(directory) for name in names]
    return sorted(path.relative_to(directory).as_posix() for path in found)


def _hidden(directory: Path, suffix: str) -> Path:
    return directory.with_name(f".{directory.name}.{suffix}")


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
