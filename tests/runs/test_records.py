"""Records come back bit for bit, or not at all: damage of every kind is found, and dying at any moment does no harm."""

import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adaptive_jax.digest import tree_digest
from adaptive_jax.runs import records
from adaptive_jax.runs.records import (
    DamagedRecord,
    NewerRecord,
    NotWritten,
    named_leaves,
    read_manifest,
    read_record,
    replace_leaves,
    write_record,
)
from tests.policies.adapters import random_adapter
from tests.runs.damage import files, flip

RNG = np.random.default_rng(0)
ARRAYS = {
    "float32": RNG.normal(size=(3, 5)).astype(np.float32),
    "special": np.array([0.0, -0.0, np.nan, -np.inf, 1e-45], np.float32),
    "bfloat16": RNG.normal(size=7).astype(jnp.bfloat16),
    "scalar": np.array(7, np.int64),
    "bool": np.array([True, False]),
    "uint32": np.array([2**32 - 1], np.uint32),
    "empty": np.zeros((0, 3), np.float32),
}
FACTS = {"name": "père", "numbers": [1, 0.1, 1e-300, None], "nested": {"deep": [True]}}


def bits(arrays: dict[str, np.ndarray]) -> dict[str, tuple[np.dtype, tuple[int, ...], bytes]]:
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("records") / "000001"
    write_record(directory, ARRAYS, FACTS)
    return directory


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "000001"))


def test_a_record_comes_back_bit_for_bit(written: Path) -> None:
    record = read_record(written)
    assert bits(record.arrays) == bits(ARRAYS)
    assert record.facts == FACTS
    assert [path.name for path in written.parent.iterdir()] == ["000001"]


def test_a_record_without_arrays(tmp_path: Path) -> None:
    write_record(tmp_path / "facts", {}, FACTS)
    assert read_record(tmp_path / "facts") == records.Record({}, FACTS)


def test_a_record_takes_the_place_of_another(copy: Path) -> None:
    write_record(copy, {"other": np.arange(3)}, {})
    record = read_record(copy)
    assert (list(record.arrays), record.facts) == (["other"], {})


def test_one_bit_in_any_file_is_found(copy: Path) -> None:
    """Orbax alone restores most of these without a word."""
    found = files(copy)
    assert len(found) > 5
    for file in found:
        for bit in (0, 8 * file.stat().st_size - 1, int(RNG.integers(8 * file.stat().st_size))):
            if bit < 0:
                continue
            flip(file, bit)
            with pytest.raises(DamagedRecord, match=re.escape(f"{file} is not what was written")):
                read_record(copy)
            flip(file, bit)
    assert bits(read_record(copy).arrays) == bits(ARRAYS)


def test_every_bit_of_a_manifest_counts(tmp_path: Path) -> None:
    """Format, names, white space: whatever it is, it is damage, and never a newer version."""
    write_record(tmp_path / "small", {}, {"a": 1})
    manifest = tmp_path / "small" / "manifest.json"
    for bit in range(8 * manifest.stat().st_size):
        flip(manifest, bit)
        with pytest.raises(DamagedRecord):
            read_manifest(tmp_path / "small")
        flip(manifest, bit)


def test_missing_and_shortened_files_are_found(copy: Path) -> None:
    for file in files(copy):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(DamagedRecord, match=re.escape(f"{file} is missing")):
            read_record(copy)
        file.write_bytes(content)
        for kept in {0, len(content) // 2, len(content) - 1} - {-1, len(content)}:
            os.truncate(file, kept)
            with pytest.raises(DamagedRecord, match=re.escape(str(file))):
                read_record(copy)
            file.write_bytes(content)
    assert read_record(copy).facts == FACTS


def test_files_that_cannot_be_read_are_told(copy: Path) -> None:
    """Links to themselves, which stand for what a broken disk does."""
    for file in files(copy):
        content = file.read_bytes()
        file.unlink()
        file.symlink_to(file.name)
        with pytest.raises(DamagedRecord, match=rf"{re.escape(str(file))} cannot be read: Too many levels"):
            read_record(copy)
        file.unlink()
        file.write_bytes(content)


def test_foreign_files_are_found(copy: Path) -> None:
    for place in (copy / "notes.txt", copy / "arrays" / "d" / "0123"):
        place.write_text("not mine")
        with pytest.raises(DamagedRecord, match=re.escape(f"{place} is no part")):
            read_record(copy)
        place.unlink()
    shutil.rmtree(copy)
    with pytest.raises(DamagedRecord, match="missing"):
        read_record(copy)


def test_arrays_of_another_record_are_found(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another dtype, where every file is what its manifest says."""
    original = records.signed

    def lie(content: dict[str, Any]) -> str:
        content["arrays"]["float32"][0] = "float64"
        return original(content)

    with monkeypatch.context() as patch:
        patch.setattr(records, "signed", lie)
        write_record(copy, ARRAYS, FACTS)
    with pytest.raises(DamagedRecord, match="other shapes or dtypes"):
        read_record(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "1"),
        ("facts", []),
        ("arrays", None),
        ("arrays", {"float32": ["float32", [-1]]}),
        ("arrays", {"float32": ["float33", [3]]}),
        ("arrays", {"float32": ["float32", 3]}),
        ("arrays", {"float32": ["float32", [2**40, 2**30]]}),
        ("files", {"arrays": [1]}),
    ],
)
def test_a_forged_manifest_is_refused_by_its_field(copy: Path, field: str, value: object) -> None:
    """Its own sum agrees; nothing is made of the sizes that it tells of."""
    content = read_manifest(copy)
    (copy / "manifest.json").write_text(records.signed(content | {field: value}))
    with pytest.raises(DamagedRecord, match=rf"manifest.json: '{field}' "):
        read_record(copy)


def test_a_newer_format_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(records, "FORMAT", records.FORMAT + 1)
        write_record(copy, {}, {})
    with pytest.raises(NewerRecord, match=r"000001 was written in format 2 by a newer version.*update adaptive_jax"):
        read_record(copy)


class Killed(BaseException):
    """No `except Exception` sees it, and no cleaning up follows."""


@pytest.mark.parametrize("function", ["os.fsync", "os.rename", "shutil.rmtree", "pathlib.Path.write_text"])
def test_dying_while_writing_leaves_the_old_or_the_new(function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable = eval(function, {"os": os, "shutil": shutil, "pathlib": __import__("pathlib")})
    seen = set()
    for moment in range(100):
        directory = tmp_path / str(moment) / "record"
        write_record(directory, {}, {"which": "old"})
        calls = iter(range(100))

        def dying(*operands: Any, calls: Iterator[int] = calls, moment: int = moment, **options: Any) -> Any:
            if next(calls) == moment:
                raise Killed
            return original(*operands, **options)

        with monkeypatch.context() as patch:
            patch.setattr(function, dying)
            try:
                write_record(directory, {}, {"which": "new"})
            except Killed:
                pass
            else:
                break
        seen.add(read_record(directory).facts["which"] if directory.exists() else "none")
        write_record(directory, {}, {"which": "new"})
        assert read_record(directory).facts["which"] == "new"
    assert moment > 0
    assert seen <= {"old", "new", "none"}
    assert "old" in seen


@contextmanager
def small_files() -> Iterator[None]:
    """Every write beyond 300 bytes of a file fails, for orbax's own threads, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("old", [None, {"a": np.arange(3)}])
def test_a_full_disk_is_told_and_leaves_what_was_there(
    old: dict[str, np.ndarray] | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "record"
    if old is not None:
        write_record(directory, old, {})
    before = sorted(tmp_path.iterdir())
    with small_files(), pytest.raises(NotWritten, match=r"record could not be written: File too large$"):
        write_record(directory, {"a": RNG.normal(size=10_000)}, {})
    assert sorted(tmp_path.iterdir()) == before
    assert capfd.readouterr() == ("", "")
    if old is not None:
        assert bits(read_record(directory).arrays) == bits(old)


def test_a_pytree_comes_back_with_its_kinds_of_leaves() -> None:
    adapter = random_adapter(6)
    tree = {"adapter": adapter, "state": optax.adam(1e-3).init(adapter.params), "update": 3, "host": np.arange(3)}
    arrays = {
        name: array if "actions" in name else array + np.ones((), array.dtype) for name, array in named_leaves(tree).items()
    }
    back = replace_leaves(tree, arrays)
    assert bits(named_leaves(back)) == bits(arrays)
    assert (type(back["update"]), back["update"], type(back["host"])) == (int, 4, np.ndarray)
    assert back["adapter"].inputs == adapter.inputs


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((2, 3), np.float64)}, r"a is float64 \(2, 3\) in the checkpoint, and float32 \(2, 3\) here"),
        ({"a": np.zeros((3, 2), np.float32)}, r"a is float32 \(3, 2\)"),
        ({}, r"\['a'\] are in one of"),
        ({"a": np.zeros((2, 3), np.float32), "b": np.zeros(1)}, r"\['b'\] are in one of"),
    ],
)
def test_nothing_is_cast_and_nothing_left_out(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace_leaves({"a": jnp.zeros((2, 3))}, arrays)


def test_digests_tell_trees_apart() -> None:
    a = np.arange(6, dtype=np.int32)
    b = np.where(a == 5, 6, a).astype(np.int32)
    trees = [{"a": a}, {"a": b}, {"b": a}, {"a": a.reshape(2, 3)}, {"a": a.view(np.uint32)}, {"a": a, "b": a}, {"a": [a]}, None]
    assert len({tree_digest(tree) for tree in trees}) == len(trees)
    assert tree_digest({"a": jnp.asarray(a)}) == tree_digest({"a": a})
    assert tree_digest({"a": a.reshape(2, 3).T}) == tree_digest({"a": np.array([[0, 3], [1, 4], [2, 5]], np.int32)})


def test_a_manifest_reads_well(written: Path) -> None:
    manifest = json.loads((written / "manifest.json").read_text())
    assert manifest["arrays"]["bfloat16"] == ["bfloat16", [7]]
    assert set(manifest["files"]) == {path.relative_to(written).as_posix() for path in files(written)} - {"manifest.json"}
