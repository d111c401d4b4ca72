"""Questions and verdicts of the embedded model."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any

import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax import parallel
from adaptive_jax.learning.environment import Cot, Environment, Question, questions
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.lm.prompts import render
from adaptive_jax.tasks.loading import load_problems

PROBLEMS = load_problems("arithmetic", split="train", limit=400)


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_lm("tiny")


def asked(environment: Environment) -> list[str]:
    return [environment.lm.tokenizer.decode(environment.prompt(i, 9).tokens) for i in range(len(environment))]


@pytest.mark.parametrize(("cot", "expected"), [("all", {True}), ("none", {False}), ("mix", {True, False})])
def test_how_problems_are_asked(lm: LM, cot: Cot, expected: set[bool]) -> None:
    chosen = questions(PROBLEMS, cot)
    assert [question.problem for question in chosen] == PROBLEMS
    assert {question.cot for question in chosen} == expected
    environment = Environment(lm, chosen[:20])
    assert asked(environment) == [render(lm.tokenizer, q.problem.question, cot=q.cot) for q in chosen[:20]]
    assert environment.prompt_width == max(len(environment.prompt(i, 9).tokens) for i in range(20))


def test_an_example_stands_before_every_question(lm: LM) -> None:
    chosen = questions(PROBLEMS[:4], "mix")
    expected = [render(lm.tokenizer, q.problem.question, cot=q.cot, example=True) for q in chosen]
    assert asked(Environment(lm, chosen, example=True)) == expected
    assert aj.prompt(lm, PROBLEMS[0], cot=chosen[0].cot, example=True) == expected[0]


def test_the_mix_is_half_and_half_whatever_the_order() -> None:
    def ways(problems: Sequence) -> dict[str, bool]:
        return {question.problem.id: question.cot for question in questions(problems, "mix")}

    whole = ways(PROBLEMS)
    assert abs(sum(whole.values()) - 200) < 4 * 10  # four standard deviations
    assert ways(PROBLEMS[::-1]) == whole
    assert ways(PROBLEMS[100:200]).items() <= whole.items()


def test_a_cache_larger_than_the_memory_is_refused(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    environment, budget, rows = Environment(lm, questions(PROBLEMS[:10], "all")), 24, 40
    config = lm.config
    columns = environment.prompt_width + budget
    size = rows * columns * config.num_layers * 2 * config.num_kv_heads * config.head_dim * 4  # keys and values, float32
    monkeypatch.setattr(parallel, "machine_memory", lambda: size)
    environment.check(budget, rows=rows, completions=4)
    environment.check(budget, rows=rows * 1000, completions=4)  # 40 completions need no more rows
    monkeypatch.setattr(parallel, "machine_memory", lambda: size - 1)
    with pytest.raises(ValueError, match=r"a cache of 40 rows would take .* GiB, and there are .* GiB: lower --rows"):
        environment.check(budget, rows=rows, completions=4)


def test_the_two_ways_of_asking_a_problem_have_draws_of_their_own(lm: LM) -> None:
    environment = Environment(lm, [Question(PROBLEMS[0], True), Question(PROBLEMS[0], False), Question(PROBLEMS[1], True)])
    assert len({environment.prompt(index, 5).id for index in range(3)}) == 3
    assert environment.prompt(2, 5).budget == 5


def test_verdicts_of_the_tokens_that_are_judged(lm: LM) -> None:
    environment = Environment(lm, questions(PROBLEMS[:2], "none"))
    answers = [lm.tokenizer.encode(rf"\boxed{{{p.answer}}}", add_special_tokens=False) for p in PROBLEMS[:2]]
    wrong = lm.tokenizer.encode(r"\boxed{77}", add_special_tokens=False)
    rows = [(answers[0], 0), (answers[1], 1), (answers[1], 1), (answers[0] + wrong, 0), (answers[0] + wrong, 0), (wrong, 1)]
    tokens = np.zeros((6, 20), np.int32)
    for row, (ids, _) in enumerate(rows):
        tokens[row, : len(ids)] = ids
    lengths = np.array([len(ids) for ids, _ in rows])
    lengths[2] -= 1  # the brace is not closed yet
    lengths[4] = len(answers[0])
    asked = np.array([index for _, index in rows])
    expected = ["correct", "correct", "wrong", "wrong", "correct", "wrong"]
    assert environment.verdicts(tokens, lengths, asked) == expected


def test_completions_are_graded_as_they_end_and_at_every_cut(lm: LM) -> None:
    environment = Environment(lm, questions(PROBLEMS[:2], "none"))
    answers = [lm.tokenizer.encode(rf"\boxed{{{p.answer}}}", add_special_tokens=False) for p in PROBLEMS[:2]]
    wrong = lm.tokenizer.encode(r"\boxed{77}", add_special_tokens=False)
    texts = [answers[0] + wrong, answers[1], wrong]
    tokens = np.zeros((3, 20), np.int32)
    for row, ids in enumerate(texts):
        tokens[row, : len(ids)] = ids
    lengths = np.array([len(ids) for ids in texts])
    cuts = [2, len(answers[0]), 20]
    with environment.grading(np.array([0, 1, 1]), cuts) as grading:
        for numbers in ([2], [0, 1]):
            grading.add(np.array(numbers), tokens[numbers], lengths[numbers])
        found = grading.verdicts()
    assert found[0].tolist() == ["wrong", "correct", "wrong"]
    assert found[1, 2] == "correct"
    assert found[2, 2] == "wrong"
    with environment.grading(np.array([0, 1, 1])) as grading:
        grading.add(np.arange(3), tokens, lengths)
        assert grading.verdicts().tolist() == [["wrong"], ["correct"], ["wrong"]]


def test_what_the_grader_raises_is_not_lost(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Environment(lm, questions(PROBLEMS[:1], "none"))

    def broken(*_: Any) -> list[str]:
        raise OSError("no more processes")

    monkeypatch.setattr(environment, "verdicts", broken)
    with environment.grading(np.zeros(1, int)) as grading:
        ended = np.arange(1), np.zeros((1, 3), np.int32), np.array([3])
        grading.add(*ended)
        wait(grading._pending)
        with pytest.raises(OSError, match="no more processes"):
            grading.add(*ended)
    with environment.grading(np.zeros(1, int)) as grading:
        grading.add(*ended)
        with pytest.raises(OSError, match="no more processes"):
            grading.verdicts()


def test_a_question_that_does_not_fit_is_named(lm: LM) -> None:
    long = dataclasses.replace(PROBLEMS[0], id="a long one", question="1+" * 600)
    environment = Environment(lm, questions([PROBLEMS[1], long], "all"))
    with pytest.raises(ValueError, match=r"'a long one'.*context of 1024"):
        environment.check(9)
    Environment(lm, questions(PROBLEMS[:2], "all")).check(900)
