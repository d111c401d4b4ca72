import sys

import pytest

from adaptive_jax.tasks import reasoning
from adaptive_jax.tasks.loading import load_problems
from adaptive_jax.tasks.problem import normalise_question, shared

SUM = "reasoning_gym:chain_sum?min_terms=2&max_terms=2&max_digits=1"


def test_splits_share_no_question_even_where_a_generator_has_few() -> None:
    parts = {split: load_problems(SUM, split=split, limit=40) for split in reasoning.SPLITS}
    assert all(len({normalise_question(p.question) for p in part}) == len(part) > 5 for part in parts.values())
    assert not shared(parts["train"], parts["test"] + parts["validation"])
    assert not shared(parts["validation"], parts["test"])
    assert load_problems(SUM, split="train", limit=10) == parts["train"][:10]
    assert all(p.question.count(" + ") + p.question.count(" - ") == 1 for p in parts["train"])


@pytest.mark.parametrize(
    "wrap", ["{}", "Answer: 1\nAnswer: {} ", r"so \boxed{{{}}}.", "<answer>0</answer> <answer> {} </answer>"]
)
def test_the_generator_scores_the_answer_wherever_it_stands(wrap: str) -> None:
    problem = load_problems(SUM, limit=1)[0]
    assert problem.kind == "reasoning_gym"
    assert reasoning.reward(problem, wrap.format(problem.answer)) == 1
    assert reasoning.reward(problem, wrap.format(int(problem.answer) + 100)) < 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("chain_sums", "no generator 'chain_sums'; give one of chain_sum, "),
        ("chain_sum?max_term=2", "no option 'max_term'; give one of max_terms, "),
        ("chain_sum?max_terms=two", "max_terms is 'two'; give a whole number"),
        ("chain_sum?allow_negation=yes", "allow_negation is 'yes'; give true or false"),
        ("chain_sum?max_terms", "write options as NAME"),
        ("chain_sum?min_terms=9&max_terms=2", "chain_sum refuses these options: max_terms"),
        ("chain_sum?seed=3", "no option 'seed'"),
        ("codeio", "questions differ from process to process"),
        ("fraction_simplification?styles=", "fails with these options"),
        ("time_intervals?min_date=soon", "min_date is 'soon'; "),
        *((name, "executes the answer as code") for name in reasoning.RUNS_ANSWERS),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_mend(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_problems(f"reasoning_gym:{spec}")


def test_a_generator_that_follows_the_hash_seed_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(ValueError, match="set PYTHONHASHSEED=0"):
        load_problems("reasoning_gym:ransom_note")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert len(load_problems("reasoning_gym:ransom_note", limit=2)) == 2


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ImportError, match=r"adaptive-jax\[tasks\]"):
        reasoning.load("reasoning_gym:chain_sum?max_terms=3")
