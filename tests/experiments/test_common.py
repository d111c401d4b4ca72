"""What experiments share: held-out problems stay out of training, whatever the data set."""

import itertools
import json
from pathlib import Path

import pytest

from adaptive_jax.tasks.problem import shared
from experiments.common import Config, Splits, load_splits


def write(path: Path, questions: list[str]) -> str:
    path.write_text("".join(json.dumps({"question": text, "answer": "1"}) + "\n" for text in questions))
    return str(path)


def texts(splits: Splits) -> list[list[str]]:
    return [[problem.question for problem in part] for part in (splits.test, splits.validation, splits.train)]


def assert_disjoint(splits: Splits) -> None:
    for left, right in itertools.combinations((splits.test, splits.validation, splits.train), 2):
        assert shared(left, right) == []
        assert not {problem.id for problem in left} & {problem.id for problem in right}


def test_the_embedded_task_is_divided_by_its_splits() -> None:
    splits = load_splits(Config(limit=300, train_limit=200))
    assert [len(part) for part in texts(splits)] == [300, 50, 200]
    assert_disjoint(splits)


def test_a_file_is_divided(tmp_path: Path) -> None:
    file = write(tmp_path / "some.jsonl", [f"Question {n}?" for n in range(30)])
    splits = load_splits(Config(dataset=file, limit=10, train_limit=8))
    test, validation, train = texts(splits)
    assert test == [f"Question {n}?" for n in range(10)]
    assert len(validation) == 2
    assert len(train) == 8
    assert_disjoint(splits)


@pytest.mark.parametrize("own_file", [False, True])
def test_what_is_evaluated_is_never_trained_on(tmp_path: Path, own_file: bool) -> None:
    """Questions that come again, in another case or with other white space, are left out of training."""
    test = [f"Question {n}?" for n in range(6)]
    others = ["QUESTION  3?", *[f"Other {n}?" for n in range(8)], " question 5?\n"]
    if own_file:
        dataset, train_dataset = write(tmp_path / "test.jsonl", test), write(tmp_path / "train.jsonl", others)
    else:
        dataset, train_dataset = write(tmp_path / "all.jsonl", test + others), None
    splits = load_splits(Config(dataset=dataset, train_dataset=train_dataset, limit=6))
    found, validation, train = texts(splits)
    assert found == test
    assert sorted(validation + train) == [f"Other {n}?" for n in range(8)]
    assert_disjoint(splits)


def test_a_question_that_comes_twice_is_not_in_two_parts(tmp_path: Path) -> None:
    file = write(tmp_path / "some.jsonl", [f"Question {n % 12}?" for n in range(36)])
    assert_disjoint(load_splits(Config(dataset=file, limit=4)))


def test_malformed_rows_stop_a_run_unless_they_may_be_skipped(tmp_path: Path) -> None:
    file = write(tmp_path / "some.jsonl", ["first?", " ", *[f"Question {n}?" for n in range(9)]])
    with pytest.raises(ValueError, match=r"some.jsonl, line 2: .*blank.*--skip-bad"):
        load_splits(Config(dataset=file, limit=4))
    assert texts(load_splits(Config(dataset=file, limit=4, skip_bad=True)))[0][:2] == ["first?", "Question 0?"]


@pytest.mark.parametrize("count", [1, 8, 11])
def test_too_few_problems_to_train_on(tmp_path: Path, count: int) -> None:
    file = write(tmp_path / "few.jsonl", [f"Question {n}?" for n in range(count)])
    with pytest.raises(ValueError, match=rf"few.jsonl has {count} problems.*--limit 8.*lower --limit"):
        load_splits(Config(dataset=file, limit=8))


def test_budgets() -> None:
    assert Config(budget=(64, 16, 64)).budgets == (16, 64)
    assert Config().budgets == (48, 64, 96)
    assert Config(model="smollm2").budgets == (256, 512, 1024)
