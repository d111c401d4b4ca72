"""Problems of another distribution: none that is trained on, none of another kind, and told apart from others."""

import json
from pathlib import Path

import numpy as np
import pytest

import adaptive_jax as aj
from experiments.asking import asked_digest
from experiments.splits import TransferConfig, load_splits, parts_of

LM = aj.load_lm("tiny")


def write(path: Path, problems: list[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"question": text, "answer": answer}) + "\n" for text, answer in problems))
    return str(path)


def config(evaluated: str | None = None, **flags: int) -> TransferConfig:
    return TransferConfig(limit=6, train_limit=8, eval_dataset=evaluated, **flags)  # type: ignore[arg-type]


def test_parts_are_told_apart_by_name(tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", [(f"Compute {n}+{n}.", str(2 * n)) for n in range(9)])
    for some, names in ((config(), []), (config(other), [other])):
        splits = load_splits(some)
        parts = parts_of(some, splits)
        assert list(parts) == ["training", "validation", "arithmetic", *names]
        assert [parts["training"], parts["validation"], parts["arithmetic"]] == [splits.train, splits.validation, splits.test]
    assert [problem.answer for problem in parts[other]] == ["0", "2", "4", "6", "8", "10"]


def test_what_is_trained_on_is_not_evaluated(tmp_path: Path) -> None:
    splits = load_splits(config())
    for part, seen in (("train", splits.train), ("validation", splits.validation)):
        other = write(tmp_path / f"{part}.jsonl", [("New?", "1"), (seen[0].question.upper(), "2")])
        with pytest.raises(ValueError, match=rf"--eval-dataset .*{part}.jsonl shares 1 problems with those trained on"):
            parts_of(config(other), splits)
    with pytest.raises(ValueError, match="--eval-dataset arithmetic is --dataset, which is evaluated anyway"):
        parts_of(config("arithmetic"), splits)
    with pytest.raises(ValueError, match="--eval-dataset programs holds programming problems"):
        parts_of(config("programs"), splits)


def test_the_digest_tells_questions_and_answers_apart(tmp_path: Path) -> None:
    sets = [[("A?", "1"), ("B?", "2")], [("A?", "1"), ("B?", "3")], [("A?", "1"), ("C?", "2")], [("A?", "1")]]
    digests = []
    for number, problems in enumerate(sets):
        found = aj.load_problems(write(tmp_path / f"{number}.jsonl", problems))
        digests.append(tuple(asked_digest(config(seed=number).environment(LM, found, ["all"], completions=1))))
    assert len(set(digests)) == len(sets)
    again = asked_digest(config().environment(LM, aj.load_problems(str(tmp_path / "0.jsonl")), ["all"], completions=1))
    np.testing.assert_array_equal(again, digests[0])


def test_questions_are_asked_in_each_way_and_must_fit(tmp_path: Path) -> None:
    found = aj.load_problems(write(tmp_path / "some.jsonl", [("A?", "1"), ("B?", "2")]))
    both = config().environment(LM, found, ["all", "none"], completions=1)
    assert [(question.problem.answer, question.cot) for question in both.questions] == [
        ("1", True),
        ("2", True),
        ("1", False),
        ("2", False),
    ]
    with pytest.raises(ValueError, match="token budget of 1024 do not fit the model's context of 1024"):
        TransferConfig(budget=(1024,)).environment(LM, found, ["all"], completions=1)
