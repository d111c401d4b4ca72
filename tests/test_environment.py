"""Questions and verdicts of the embedded model."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any

import numpy as np
import pytest

from adaptive_jax import parallel
from adaptive_jax.environment import Cot, Environment, questions
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.lm.prompts import render
from adaptive_jax.tasks.loading import load_problems
from adaptive_jax.tasks.problem import Problem

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
    environment = Environment(lm, PROBLEMS[:20], cot)
    assert asked(environment) == [render(lm.tokenizer, q.problem.question, cot=q.cot) for q in chosen[:20]]
    assert environment.prompt_width == max(len(environment.prompt(i, 9).tokens) for i in range(20))


def test_examples_stand_before_every_question(lm: LM) -> None:
    worked = dataclasses.replace(PROBLEMS[9], metadata={"solution": "It is easy."})
    shown = {True: f"It is easy. \\boxed{{{worked.answer}}}", False: f"\\boxed{{{worked.answer}}}"}
    expected = [
        render(lm.tokenizer, q.problem.question, cot=q.cot, examples=[(worked.question, shown[q.cot])])
        for q in questions(PROBLEMS[:4], "mix")
    ]
    assert asked(Environment(lm, PROBLEMS[:4], "mix", examples=[worked])) == expected
    with pytest.raises(ValueError, match=r"has no solution to show as an example: give its row a field 'solution'"):
        Environment(lm, PROBLEMS[:1], "all", examples=[dataclasses.replace(PROBLEMS[1], metadata={})])


def test_prompts_of_ones_own(lm: LM) -> None:
    both = Environment(lm, PROBLEMS[:1], ["all", "none"], prompt=lambda problem, cot: f"{problem.id} {cot}")
    assert asked(both) == [f"{PROBLEMS[0].id} True", f"{PROBLEMS[0].id} False"]
    assert asked(Environment(lm, PROBLEMS[:1], prompt=lambda problem: problem.question)) == [PROBLEMS[0].question]


def test_the_mix_is_half_and_half_whatever_the_order() -> None:
    def ways(problems: Sequence) -> dict[str, bool]:
        return {question.problem.id: question.cot for question in questions(problems, "mix")}

    whole = ways(PROBLEMS)
    assert abs(sum(whole.values()) - 200) < 4 * 10  # four standard deviations
    assert ways(PROBLEMS[::-1]) == whole
    assert ways(PROBLEMS[100:200]).items() <= whole.items()


def test_a_cache_larger_than_the_memory_is_refused(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    environment, budget, rows = Environment(lm, PROBLEMS[:10], "all"), 24, 40
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
    environment = Environment(lm, PROBLEMS[:2], ["all", "none"])
    assert len({environment.prompt(index, 5).id for index in range(4)}) == 4
    assert environment.prompt(2, 5).budget == 5


def test_verdicts_of_the_tokens_that_are_judged(lm: LM) -> None:
    environment = Environment(lm, PROBLEMS[:2], "none")
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
    grades = environment.grades(tokens, lengths, asked)
    assert [grade.verdict for grade in grades] == expected
    assert [grade.value for grade in grades] == [float(verdict == "correct") for verdict in expected]


def test_completions_are_graded_as_they_end_and_at_every_cut(lm: LM) -> None:
    environment = Environment(lm, PROBLEMS[:2], "none")
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
    environment = Environment(lm, PROBLEMS[:1], "none")

    def broken(*_: Any) -> list[str]:
        raise OSError("no more processes")

    monkeypatch.setattr(environment, "grades", broken)
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
    environment = Environment(lm, [PROBLEMS[1], long], "all")
    with pytest.raises(ValueError, match=r"'a long one'.*context of 1024"):
        environment.check(9)
    Environment(lm, PROBLEMS[:2], "all").check(900)


def test_rewards_of_ones_own(lm: LM) -> None:
    def reward(problem: Problem, text: str) -> float:
        return {"a": 1.0, "b": 0.25}[text] if problem.id == PROBLEMS[0].id else float("nan")

    environment = Environment(lm, PROBLEMS[:2], reward=reward)
    ids = {letter: lm.tokenizer.encode(letter, add_special_tokens=False) for letter in "abc"}
    tokens = np.array([ids["a"], ids["b"], ids["c"], ids["a"]], np.int32)
    with environment.grading(np.array([0, 0, 0, 1])) as grading:
        grading.add(np.arange(4), tokens, np.ones(4, np.int32))
        values, known = grading.rewards()
    assert grading.verdicts()[:, 0].tolist() == ["correct", "wrong", "error", "error"]
    assert values[:2, 0].tolist() == [1.0, 0.25]
    assert known[:, 0].tolist() == [True, True, False, False]


def test_what_follows_a_stop_text_is_not_judged(lm: LM) -> None:
    tokens = np.array([lm.tokenizer.encode("1\n2", add_special_tokens=False)], np.int32)
    environment = Environment(lm, PROBLEMS[:1], reward=lambda problem, text: text == "1", stop=["\n"])
    assert environment.grades(tokens, np.array([tokens.shape[1]]), [0])[0].verdict == "correct"
