"""Adapters come back from disk as they were, and are found by name."""

import dataclasses
import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Observation
from adaptive_jax.lm.model import load_lm
from adaptive_jax.policies.sequence import Pooling
from adaptive_jax.policies.token import Inputs, TokenAdapter, token_adapter
from adaptive_jax.runs.adapters import MAIN, Adapter, load_adapter, save_adapter
from adaptive_jax.runs.fingerprint import FingerprintMismatch, model_fingerprint
from adaptive_jax.runs.portable import DamagedRecord, NewerRecord, read_portable, read_signed, signed, write_portable
from adaptive_jax.runs.records import named_leaves, read_manifest, write_record
from tests.policies.adapters import random_adapter, random_sequence_adapter, small_adapter
from tests.runs.damage import files, flip

HIDDEN = 6


def bits(adapter: TokenAdapter) -> list[tuple[np.dtype, bytes]]:
    return [(leaf.dtype, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(adapter)]


def save_as_earlier(directory: Path, adapter: Adapter, **changed: object) -> None:
    """As earlier versions saved adapters: a record, by orbax. Fields that are changed to None are left out."""
    save_adapter(directory, adapter)
    facts = read_portable(directory)[0] | changed
    write_record(directory, named_leaves(adapter.params), {key: value for key, value in facts.items() if value is not None})


def test_what_is_told_of_an_adapter_is_kept(tmp_path: Path) -> None:
    row = {"metric": "pass@1", "cot": "none", "budget": 48, "value": np.float32(0.5), "ci95": np.mean([0.25]), "n": np.int64(9)}
    save_adapter(tmp_path / "a", small_adapter(HIDDEN), trained={"dataset": "mine"}, results=[row], license="mit")
    told = read_portable(tmp_path / "a")[0]
    assert (told["trained"], told["license"]) == ({"dataset": "mine"}, "mit")
    assert told["results"] == [{**row, "value": 0.5, "ci95": 0.25, "n": 9}]
    with pytest.raises(ValueError, match="row 0 of results has no 'cot'; a row has metric, cot, budget, value, ci95, n"):
        save_adapter(tmp_path / "b", small_adapter(HIDDEN), results=[{"metric": "pass@1"}])
    with pytest.raises(ValueError, match="are JSON, which has no PosixPath"):
        save_adapter(tmp_path / "b", small_adapter(HIDDEN), trained={"dataset": tmp_path})
    assert not (tmp_path / "b").exists()


def save(run: Path, name: str, adapter: TokenAdapter) -> None:
    save_adapter(run / "adapters" / name, adapter)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with adapters of several methods and seeds; weights differ by seed."""
    path = tmp_path_factory.mktemp("run")
    for inputs in get_args(Inputs):
        save(path, f"{inputs}-seed0", random_adapter(HIDDEN, inputs))
    for seed in (10, 9):
        save(path, f"{MAIN}-seed{seed}", random_adapter(HIDDEN, seed=seed))
    return path


@pytest.mark.parametrize("inputs", get_args(Inputs))
def test_an_adapter_comes_back_bit_for_bit(run: Path, inputs: Inputs) -> None:
    adapter, loaded = random_adapter(HIDDEN, inputs), load_adapter(run, method=inputs)
    assert bits(loaded) == bits(adapter)
    assert jax.tree.structure(loaded) == jax.tree.structure(adapter)  # static fields included: nothing is compiled anew


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("sees_samples", [True, False])
def test_a_sequence_adapter_comes_back_bit_for_bit(tmp_path: Path, pooling: Pooling, sees_samples: bool) -> None:
    adapter = random_sequence_adapter(HIDDEN, pooling, sees_samples=sees_samples)
    if sees_samples:
        adapter = adapter.replace(held=(1, -1, 0, -1, -1, -1, -1, 2))
    save_adapter(tmp_path / "one", adapter)
    loaded = load_adapter(tmp_path / "one")
    assert bits(loaded) == bits(adapter)
    assert jax.tree.structure(loaded) == jax.tree.structure(adapter)


def test_the_action_space_comes_back(tmp_path: Path) -> None:
    settings = [SamplingParams(0.7, 0, 0.9, 0.0), SamplingParams(1 / 3, 40, 1.0, 0.05), SamplingParams(0.0)]
    adapter = token_adapter(HIDDEN, actions=SamplingParams.stack(settings), width=8, budget_scale=1000)
    save_adapter(tmp_path / "three", adapter)
    loaded = load_adapter(tmp_path / "three")
    assert bits(loaded) == bits(adapter)
    assert jax.tree.structure(loaded) == jax.tree.structure(adapter)
    description = json.loads((tmp_path / "three" / "adapter_config.json").read_text())
    assert description["hidden_size"] == HIDDEN
    assert description["actions"]["top_k"] == [0, 40, 0]


def test_method_and_seed_choose(run: Path) -> None:
    for seed in (9, 10):
        assert bits(load_adapter(run, seed=seed)) == bits(random_adapter(HIDDEN, seed=seed))
        assert bits(load_adapter(run / "adapters" / f"{MAIN}-seed{seed}")) == bits(random_adapter(HIDDEN, seed=seed))
    assert bits(load_adapter(str(run))) == bits(random_adapter(HIDDEN, seed=9))  # the first seed, by its number


def test_what_is_not_there_is_told_with_what_is(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'sequence'.*has: entropy-seed0, .*hidden-seed0, token-"):
        load_adapter(run, method="sequence")
    with pytest.raises(FileNotFoundError, match=r"seed 3.*token-adapter-budget-seed9"):
        load_adapter(run, seed=3)
    with pytest.raises(FileNotFoundError, match=r"nothing here; there is no such directory"):
        load_adapter(tmp_path / "nothing here")
    with pytest.raises(FileNotFoundError, match=r"no adapter.*; it has: none"):
        load_adapter(tmp_path)


def test_a_portable_adapter_is_two_files_that_are_read_without_jax(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", random_adapter(HIDDEN), load_lm("tiny"))
    assert sorted(path.name for path in files(tmp_path)) == ["adapter.safetensors", "adapter_config.json"]
    program = """
import sys
from pathlib import Path
from adaptive_jax.runs.portable import read_portable
description, arrays = read_portable(Path(sys.argv[1]))
assert not {"jax", "flax", "torch", "orbax"} & {*sys.modules}
print(description["base_model"], description["budget_encoding"], *sorted(arrays), float(arrays["first.kernel"].sum()))
"""
    told = subprocess.run([sys.executable, "-c", program, tmp_path / "a"], capture_output=True, text=True, check=True).stdout
    first = np.asarray(random_adapter(HIDDEN).params["first"]["kernel"][...])
    names = "first.bias first.kernel last.bias last.kernel second.bias second.kernel"
    assert told == f"tiny two-hot {names} {float(first.sum())}\n"


def test_an_adapter_of_before_the_portable_form_is_loaded(tmp_path: Path) -> None:
    save_as_earlier(tmp_path / "adapters" / f"{MAIN}-seed0", random_adapter(HIDDEN))
    assert bits(load_adapter(tmp_path)) == bits(random_adapter(HIDDEN))


def test_other_files_may_lie_beside_an_adapter_but_not_in_a_run(tmp_path: Path) -> None:
    save(tmp_path, f"{MAIN}-seed0", random_adapter(HIDDEN))
    inside = tmp_path / "adapters" / f"{MAIN}-seed0"
    (inside / "README.md").write_text("a model card")
    with pytest.raises(DamagedRecord, match=r"README.md is no part of this adapter"):
        load_adapter(tmp_path)
    assert bits(load_adapter(inside.rename(tmp_path / "mine"))) == bits(random_adapter(HIDDEN))


@pytest.mark.parametrize("earlier", [False, True])
def test_damage_is_found(tmp_path: Path, earlier: bool) -> None:
    """One bit in every file in turn; orbax would restore most of them as other numbers."""
    (save_as_earlier if earlier else save_adapter)(tmp_path / "adapters" / f"{MAIN}-seed0", random_adapter(HIDDEN))
    for file in files(tmp_path):
        flip(file, 8 * file.stat().st_size // 2)
        with pytest.raises(DamagedRecord, match=file.name):
            load_adapter(tmp_path)
        flip(file, 8 * file.stat().st_size // 2)
    assert bits(load_adapter(tmp_path)) == bits(random_adapter(HIDDEN))


def test_exchanged_adapters_are_found(tmp_path: Path) -> None:
    """In the run; out of it, an adapter may have any name. Those of before names were kept are taken as they are."""
    mine, other = (tmp_path / "adapters" / f"{MAIN}-seed{seed}" for seed in (0, 1))
    for seed, directory in enumerate((mine, other)):
        save_adapter(directory, random_adapter(HIDDEN, seed=seed))
    mine.rename(tmp_path / "aside")
    other.rename(mine)
    (tmp_path / "aside").rename(other)
    for seed, (directory, name) in enumerate(((mine, other.name), (other, mine.name))):
        for ask in (lambda seed=seed: load_adapter(tmp_path, seed=seed), lambda path=directory: load_adapter(path)):
            with pytest.raises(DamagedRecord, match=rf"{directory} holds what was written as {name}: it was renamed or exchan"):
                ask()
    assert bits(load_adapter(shutil.copytree(mine, tmp_path / "copied"))) == bits(random_adapter(HIDDEN, seed=1))
    save_as_earlier(mine, random_adapter(HIDDEN, seed=1), name=None)
    assert bits(load_adapter(tmp_path)) == bits(random_adapter(HIDDEN, seed=1))


def test_an_adapter_of_before_the_budget_was_centred_acts_as_it_did(tmp_path: Path) -> None:
    save_as_earlier(tmp_path / "a", random_adapter(HIDDEN, encoding="shares"), budget_encoding=None)
    adapter = load_adapter(tmp_path / "a")
    remaining, unseen = jnp.asarray([16, 64], jnp.int32), jnp.ones(2)
    seen = adapter.features(Observation(jnp.ones((2, HIDDEN)), remaining, remaining, remaining, unseen, unseen))
    np.testing.assert_allclose(seen[:, HIDDEN:], [[0.25, np.log(17) / np.log(65)], [1.0, 1.0]], rtol=1e-6)


LIES: list[tuple[str, object]] = [
    *itertools.product(["hidden_size", "width"], [10**9, 0, -1, 2**31, 6.0, True, "6", None, [6]]),
    *itertools.product(["budget_scale", "samples_scale"], [0, 8.0, None]),
    *itertools.product(["kind", "inputs", "pooling", "sees_samples"], [None, "both ends", 1, {"a": 1}, []]),
    ("fingerprint", None),
    *itertools.product(["held"], [None, "x", [0], [True] * 8, [9] * 8, [-2] * 8]),
    *itertools.product(["actions"], [None, [], {}, {"temperature": []}, {"temperature": 1.0}, {"heat": [1.0]}, {"top_k": "x"}]),
    ("actions", {"temperature": [0.0]}),
    ("actions", {"temperature": [float("nan")] * 4}),
    ("actions", {"temperature": [0.0, 1.0], "top_p": [1.0]}),
    ("actions", {"top_k": [2**40] * 4}),
]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("adapter", [random_adapter(HIDDEN), random_sequence_adapter(HIDDEN, "both", sees_samples=True)])
def test_forged_fields_are_refused_by_name(tmp_path: Path, adapter: Adapter, earlier: bool) -> None:
    """All sums agree. An array of such a size as it tells of would not fit into memory."""
    (save_as_earlier if earlier else save_adapter)(tmp_path / "a", adapter)
    file = tmp_path / "a" / ("manifest.json" if earlier else "adapter_config.json")
    content = read_manifest(tmp_path / "a") if earlier else read_signed(file)
    facts = content["facts"] if earlier else content
    lies = [(field, value) for field, value in LIES if field in facts]
    assert len(lies) > len(LIES) - 20
    for field, value in lies:
        forged = facts | {field: value}
        file.write_text(signed(content | {"facts": forged} if earlier else forged))
        with pytest.raises(DamagedRecord, match=rf"a/{file.name}: (the )?'({field}|arrays)' "):
            load_adapter(tmp_path / "a")


def test_a_forged_file_of_a_portable_adapter_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", random_adapter(HIDDEN))
    file = tmp_path / "a" / "adapter_config.json"
    content = read_signed(file)
    for field, value in [("format", "1"), ("format", True), ("weights", None), ("weights", {"bytes": 3, "sha256": 0})]:
        file.write_text(signed(content | {field: value}))
        with pytest.raises(DamagedRecord, match=f"adapter_config.json: '{field}' cannot be"):
            load_adapter(tmp_path / "a")
    file.write_text(signed(content | {"format": 2}))
    with pytest.raises(NewerRecord, match=r"has format 2, .*: update adaptive_jax"):
        load_adapter(tmp_path / "a")
    junk = b"no safetensors"
    (tmp_path / "a" / "adapter.safetensors").write_bytes(junk)
    weights = {"bytes": len(junk), "sha256": hashlib.sha256(junk).hexdigest()}
    file.write_text(signed(content | {"weights": weights}))
    with pytest.raises(DamagedRecord, match=r"adapter.safetensors cannot be read: "):
        load_adapter(tmp_path / "a")


def test_parameters_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", random_adapter(HIDDEN))
    description, arrays = read_portable(tmp_path / "a")
    arrays = {name: array.copy() for name, array in arrays.items()}
    arrays["last.bias"][1] = np.nan
    write_portable(tmp_path / "a", arrays, description)
    with pytest.raises(DamagedRecord, match=r"a: last.bias holds values that are not finite"):
        load_adapter(tmp_path / "a")


def test_an_adapter_knows_its_model(tmp_path: Path) -> None:
    lm = load_lm("tiny")
    own = random_adapter(lm.config.hidden_size)
    save_adapter(tmp_path / "own", own, fingerprint=model_fingerprint(lm) | {"seed": 3})
    assert bits(load_adapter(tmp_path / "own", lm=lm)) == bits(own)
    other = dataclasses.replace(lm, params=jax.tree.map(lambda leaf: leaf * 2, lm.params), stop_ids=(1,))
    with pytest.raises(FingerprintMismatch, match=r"own was made.*weights was \"float32 \w+\" and is.*tokenizer was"):
        load_adapter(tmp_path / "own", lm=other)
    with pytest.raises(FingerprintMismatch, match=r"--allow-changed tokenizer goes on$"):
        load_adapter(tmp_path / "own", lm=other, allow_changed=["weights"])
    load_adapter(tmp_path / "own", lm=other, allow_changed=["weights", "tokenizer"])
    save_adapter(tmp_path / "narrow", random_adapter(HIDDEN), fingerprint=model_fingerprint(lm))
    with pytest.raises(FingerprintMismatch, match="narrow belongs to a model of hidden size 6, and 'tiny' has 96: load the"):
        load_adapter(tmp_path / "narrow", lm=lm, allow_changed=["weights", "tokenizer"])
