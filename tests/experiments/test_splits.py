"""Held-out problems stay out of training, those of --eval-dataset too; each part of an experiment is what its flags say."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax.tasks.problem import shared
from experiments.asking import asked_digest
from experiments.splits import Splits, TransferConfig, load_splits, parts_of

LM = aj.load_lm("tiny")


def write(path: Path, problems: list[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"question": text, "answer": answer}) + "\n" for text, answer in problems))
    return str(path)


def config(evaluated: str | None = None, **flags: int) -> TransferConfig:
    return TransferConfig(dataset="arithmetic", limit=6, train_limit=8, eval_dataset=evaluated, **flags)  # type: ignore[arg-type]


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


# How problems are divided


def asked(path: Path, questions: list[str]) -> str:
    path.write_text("".join(json.dumps({"question": text, "answer": "1"}) + "\n" for text in questions))
    return str(path)


def texts(splits: Splits) -> list[list[str]]:
    return [[problem.question for problem in part] for part in (splits.test, splits.validation, splits.train)]


def assert_disjoint(splits: Splits) -> None:
    for left, right in itertools.combinations((splits.test, splits.validation, splits.train), 2):
        assert shared(left, right) == []
        assert not {problem.id for problem in left} & {problem.id for problem in right}


def test_the_embedded_task_is_divided_by_its_splits() -> None:
    splits = load_splits(TransferConfig(limit=300, train_limit=200))
    assert [len(part) for part in texts(splits)] == [300, 50, 200]
    assert_disjoint(splits)


def test_a_file_is_divided(tmp_path: Path) -> None:
    file = asked(tmp_path / "some.jsonl", [f"Question {n}?" for n in range(30)])
    splits = load_splits(TransferConfig(dataset=file, limit=10, train_limit=8))
    test, validation, train = texts(splits)
    assert test == [f"Question {n}?" for n in range(10)]
    assert len(validation) == 2
    assert len(train) == 8
    assert_disjoint(splits)


def test_problems_that_are_passed_over_are_in_no_part(tmp_path: Path) -> None:
    every = load_splits(TransferConfig(limit=50, train_limit=200))
    later = load_splits(TransferConfig(limit=20, skip=30, train_limit=200))
    assert texts(later) == [texts(every)[0][30:], *texts(every)[1:]]
    file = asked(tmp_path / "some.jsonl", [f"Question {n}?" for n in range(30)])
    test, validation, train = texts(load_splits(TransferConfig(dataset=file, limit=5, skip=7, train_limit=10)))
    assert test == [f"Question {n}?" for n in range(7, 12)]
    assert validation + train == [f"Question {n}?" for n in range(12, 24)]


@pytest.mark.parametrize("own_file", [False, True])
def test_what_is_evaluated_is_never_trained_on(tmp_path: Path, own_file: bool) -> None:
    """Questions that come again, in another case or with other white space, are left out of training."""
    test = [f"Question {n}?" for n in range(6)]
    others = ["QUESTION  3?", *[f"Other {n}?" for n in range(8)], " question 5?\n"]
    if own_file:
        dataset, train_dataset = asked(tmp_path / "test.jsonl", test), asked(tmp_path / "train.jsonl", others)
    else:
        dataset, train_dataset = asked(tmp_path / "all.jsonl", test + others), None
    splits = load_splits(TransferConfig(dataset=dataset, train_dataset=train_dataset, limit=6))
    found, validation, train = texts(splits)
    assert found == test
    assert sorted(validation + train) == [f"Other {n}?" for n in range(8)]
    assert_disjoint(splits)


def test_a_question_that_comes_twice_is_not_in_two_parts(tmp_path: Path) -> None:
    file = asked(tmp_path / "some.jsonl", [f"Question {n % 12}?" for n in range(36)])
    assert_disjoint(load_splits(TransferConfig(dataset=file, limit=4)))


def test_malformed_rows_stop_a_run_unless_they_may_be_skipped(tmp_path: Path) -> None:
    file = asked(tmp_path / "some.jsonl", ["first?", " ", *[f"Question {n}?" for n in range(9)]])
    with pytest.raises(ValueError, match=r"some.jsonl, line 2: .*blank.*--skip-bad"):
        load_splits(TransferConfig(dataset=file, limit=4))
    assert texts(load_splits(TransferConfig(dataset=file, limit=4, skip_bad=True)))[0][:2] == ["first?", "Question 0?"]


@pytest.mark.parametrize("count", [1, 8, 11])
def test_too_few_problems_to_train_on(tmp_path: Path, count: int) -> None:
    file = asked(tmp_path / "few.jsonl", [f"Question {n}?" for n in range(count)])
    with pytest.raises(ValueError, match=rf"few.jsonl has {count} problems.*--skip 0 and --limit 8.*lower them"):
        load_splits(TransferConfig(dataset=file, limit=8))
    other = asked(tmp_path / "other.jsonl", [f"Other {n}?" for n in range(3)])
    with pytest.raises(ValueError, match=rf"--train-dataset {other} has 3 problems.*larger one"):
        load_splits(TransferConfig(dataset=file, train_dataset=other, limit=8))


def test_what_is_wrong_is_named_by_its_flag(tmp_path: Path) -> None:
    file = asked(tmp_path / "some.jsonl", [f"Question {n}?" for n in range(40)])
    with pytest.raises(ValueError, match=r"--skip 1300: --dataset forks has no problem .*give less"):
        load_splits(TransferConfig(dataset="forks", skip=1300, limit=8))
    with pytest.raises(ValueError, match="--train-dataset fork_programs holds programming problems"):
        load_splits(TransferConfig(dataset=file, train_dataset="fork_programs", limit=8))


def test_examples_are_neither_trained_on_nor_evaluated(tmp_path: Path) -> None:
    for dataset in ("arithmetic", asked(tmp_path / "some.jsonl", [f"Question {n}?" for n in range(40)])):
        splits = load_splits(TransferConfig(dataset=dataset, limit=6, train_limit=8, examples=3, cot="none"))
        assert [len(part) for part in (splits.examples, splits.train, splits.test)] == [3, 8, 6]
        assert_disjoint(splits)
        assert not shared(splits.examples, splits.test + splits.validation + splits.train)


def test_answers_are_not_needed_where_a_reward_judges(tmp_path: Path) -> None:
    file = tmp_path / "open.jsonl"
    file.write_text("".join(json.dumps({"question": f"Write {n} words."}) + "\n" for n in range(20)))
    (tmp_path / "mine.py").write_text("def reward(problem, text):\n    return 1.0\n")
    with pytest.raises(ValueError, match="no field 'answer'"):
        load_splits(TransferConfig(dataset=str(file), limit=4))
    splits = load_splits(TransferConfig(dataset=str(file), limit=4, reward=f"{tmp_path}/mine.py:reward"))
    assert [problem.answer for problem in splits.test] == [""] * 4


def test_a_mixture_has_equal_parts_in_turn_and_each_question_the_examples_of_its_own(tmp_path: Path) -> None:
    letters = write(tmp_path / "letters.jsonl", [(f"Which letter is number {n}?", chr(96 + n)) for n in range(1, 27)])
    mixed = TransferConfig(dataset=f"arithmetic + {letters}", limit=5, train_limit=9, examples=2, cot="none")
    splits = load_splits(mixed)
    alone = [
        load_splits(TransferConfig(dataset=name, limit=limit, train_limit=trained, examples=2, cot="none"))
        for name, limit, trained in (("arithmetic", 3, 5), (letters, 2, 4))
    ]
    for name in ("test", "validation", "train", "examples"):
        first, second = (getattr(part, name) for part in alone)
        found = getattr(splits, name)
        assert [problem.question for problem in found[::2]][: len(second)] == [problem.question for problem in first][
            : len(second)
        ]
        assert {problem.question for problem in found} == {problem.question for problem in [*first, *second]}
        assert len({problem.id for problem in found}) == len(found) == len(first) + len(second)
    assert [problem.id[:2] for problem in splits.test] == ["0/", "1/", "0/", "1/", "0/"]
    environment = mixed.environment(LM, splits.test, ["none"], examples=splits.examples, completions=1)
    for number, problem in enumerate(splits.test):
        text = LM.tokenizer.decode(environment.prompt(number, 8).tokens)
        assert text.count("Which letter") == (3 if problem.id[0] == "1" else 0)
        assert text.count("boxed{") == 3 + 2


def test_a_mixture_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--limit 1: give at least 2, one for each data set"):
        load_splits(TransferConfig(dataset="arithmetic + instructions", limit=1))
    ours = write(tmp_path / "ours.jsonl", [(f"What is {n}?", str(n)) for n in range(20)])
    theirs = write(tmp_path / "theirs.jsonl", [(f"What is {n}?", str(n)) for n in range(19, -1, -1)])
    with pytest.raises(ValueError, match=r"--dataset .*: 4 problems of one data set are those of another's other split"):
        load_splits(TransferConfig(dataset=f"{ours} + {theirs}", limit=4, train_limit=40))
    with pytest.raises(ValueError, match="--train-dataset does not go with a mixture"):
        load_splits(TransferConfig(dataset=f"{ours} + {theirs}", train_dataset="arithmetic"))
