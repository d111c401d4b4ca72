"""A fingerprint changes with what decides the numbers, and with nothing else."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.runs import fingerprint
from adaptive_jax.runs.fingerprint import (
    FingerprintMismatch,
    check_fingerprint,
    check_processes,
    code_fingerprint,
    model_fingerprint,
    problems_fingerprint,
)
from adaptive_jax.tasks.problem import Case, Problem


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_lm("tiny")


def changed(left: dict[str, object], right: dict[str, object]) -> set[str]:
    return {field for field in left | right if left.get(field) != right.get(field)}


def test_one_weight_counts(lm: LM) -> None:
    before = model_fingerprint(lm)
    assert before == model_fingerprint(load_lm("tiny"))
    assert before["weights"].startswith("float32 ")
    leaves, structure = jax.tree.flatten(lm.params)
    leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].add(1e-3)
    other = dataclasses.replace(lm, params=jax.tree.unflatten(structure, leaves))
    assert changed(before, model_fingerprint(other)) == {"weights"}


def test_factors_for_long_texts_count(lm: LM) -> None:
    """The same weights compute something else with them."""
    rope = dataclasses.replace(lm.config.rope, long=True)
    other = dataclasses.replace(lm, config=dataclasses.replace(lm.config, rope=rope))
    assert changed(model_fingerprint(lm), model_fingerprint(other)) == {"rope"}


def test_the_tokenizer_counts_with_template_and_stop_tokens(lm: LM) -> None:
    before = model_fingerprint(lm)
    others = [dataclasses.replace(lm, stop_ids=(1, 2, 3))]
    for change in (lambda t: t.add_tokens(["<new>"]), lambda t: setattr(t, "chat_template", "{{ messages }}")):
        others.append(load_lm("tiny"))
        change(others[-1].tokenizer)
    for other in others:
        assert changed(before, model_fingerprint(other)) == {"tokenizer"}


def test_problems_count_with_all_that_they_are() -> None:
    problems = [Problem("a", "1+1?", "2"), Problem("b", "write it", "", "code", tests=(Case("1", "2"),))]
    variants = [problems, problems[::-1], problems[:1]]
    for change in ({"id": "c"}, {"question": "1+2?"}, {"answer": "3"}, {"kind": "integer"}, {"hash_answer": True}):
        variants.append([dataclasses.replace(problems[0], **change), problems[1]])
    variants.append([problems[0], dataclasses.replace(problems[1], tests=(Case("1", "3"),))])
    assert len({problems_fingerprint(variant) for variant in variants}) == len(variants)
    assert problems_fingerprint(problems).startswith("2 problems ")
    assert problems_fingerprint([Problem("a", "\ud800", "")])  # half a surrogate pair, as in broken JSON files


def test_the_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "PACKAGE", tmp_path / "library")
    library, experiment = tmp_path / "library" / "sub" / "a.py", tmp_path / "own" / "b.py"
    for file in (library, experiment):
        file.parent.mkdir(parents=True)
        file.write_text("x = 1\n")
    (tmp_path / "library" / "a.txt").write_text("no code")
    found = [code_fingerprint(tmp_path / "own")]
    (tmp_path / "library" / "a.txt").write_text("still none")
    assert code_fingerprint(tmp_path / "own") == found[0]
    for file in (library, experiment):
        file.write_text("x = 2\n")
        found.append(code_fingerprint(tmp_path / "own"))
        assert changed(found[-2], found[-1]) == {"code"}
    library.rename(library.with_name("c.py"))
    assert changed(found[-1], code_fingerprint(tmp_path / "own")) == {"code"}
    assert found[0]["device"] == jax.devices()[0].device_kind


def test_a_difference_is_told_with_both_values_and_its_flag() -> None:
    recorded, present = {"updates": 60, "code": "a", "seed": 0}, {"updates": 100, "code": "b", "seed": 0}
    check_fingerprint("it", recorded, recorded, ())
    with pytest.raises(
        FingerprintMismatch, match=r"it was made.*updates was 60 and is 100; code was \"a\" and is \"b\""
    ) as told:
        check_fingerprint("it", recorded, present, ())
    assert str(told.value).endswith("--allow-changed updates code goes on")
    with pytest.raises(FingerprintMismatch, match=r"--allow-changed code goes on$"):
        check_fingerprint("it", recorded, present, ["updates"])
    check_fingerprint("it", recorded, present, ["code", "updates"])


def test_a_field_that_one_of_them_has_not_differs() -> None:
    with pytest.raises(FingerprintMismatch, match="new was absent and is null"):
        check_fingerprint("it", {}, {"new": None}, ())
    with pytest.raises(FingerprintMismatch, match="old was 1 and is absent"):
        check_fingerprint("it", {"old": 1}, {}, ())


def test_only_fields_can_be_allowed() -> None:
    with pytest.raises(FingerprintMismatch, match="--allow-changed cod: no such field; there are code, seed"):
        check_fingerprint("it", {"code": 1}, {"code": 1, "seed": 2}, ["cod"])


def test_processes_that_were_started_with_different_things_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    check_processes({"seed": 0})
    others = [{"seed": 0}, {"seed": 1, "limit": 8}]
    own = [{"fingerprint": np.frombuffer(json.dumps(one).encode(), np.uint8)} for one in others]
    monkeypatch.setattr(fingerprint, "exchange", lambda mine: [mine, *own])
    with pytest.raises(FingerprintMismatch, match=r"process 2 .* process 0: seed 1 instead of 0; limit 8 instead of absent\. "):
        check_processes({"seed": 0})
