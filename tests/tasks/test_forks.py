"""The tasks of the embedded model `fork`: what is right, what the training text holds, and that splits share nothing."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from adaptive_jax.tasks import fork_programs, forks
from adaptive_jax.tasks.code import judge_many
from adaptive_jax.tasks.grading import grade
from adaptive_jax.tasks.problem import Problem, shared

DRAWS = 400


def chain(problem: Problem) -> str:
    return problem.id.partition("/")[2]


def one_of(kind: str) -> Problem:
    return next(problem for problem in forks.problems("validation") if forks.kind_of(chain(problem)) == kind)


def named_first(problem: Problem) -> bool:
    return forks.choices(chain(problem))[0] == int(problem.answer)


def boxed(problem: Problem, cot: bool, rng: np.random.Generator) -> list[str]:
    """The boxed answers of many solutions, "" where there is none."""
    texts = [forks.solution(chain(problem), cot, rng) for _ in range(DRAWS)]
    return [found[1] if (found := re.search(r"\\boxed\{(\d)\}$", text)) else "" for text in texts]


@pytest.mark.parametrize("task", [forks, fork_programs])
def test_splits_share_no_problem(task: Any) -> None:
    splits = {name: task.problems(name) for name in forks.SPLITS}
    assert sum(map(len, splits.values())) == {forks: 9 * 9**3, fork_programs: 26**3}[task]
    assert not shared(splits["test"], splits["train"] + splits["validation"])
    assert not shared(splits["validation"], splits["train"])
    shares = Counter(forks.kind_of(chain(problem)) for problem in splits["train"])
    for kind, share in forks.SHARES.items():
        assert abs(shares[kind] / len(splits["train"]) - share) < 0.02


@pytest.mark.parametrize("task", [forks, fork_programs])
def test_bad_splits_and_limits(task: Any) -> None:
    with pytest.raises(ValueError, match="split 'dev'"):
        task.problems("dev")
    with pytest.raises(ValueError, match="limit 0"):
        task.problems("test", 0)


def test_answers_are_sums_and_totals_are_digits() -> None:
    for problem in forks.problems("test"):
        parts = chain(problem).replace("-", "+-").split("+")
        totals = np.cumsum([int(part) for part in parts])
        assert problem.answer == str(eval(chain(problem)))
        assert totals.min() >= 0
        assert totals.max() <= 9
        assert grade(problem, problem.metadata["solution"]) == "correct"


def test_which_choice_is_right_follows_from_the_kind_or_from_chance() -> None:
    first: dict[str, list[bool]] = {kind: [] for kind in forks.KINDS}
    for problem in forks.problems("train"):
        named = re.fullmatch(r".*: (\d) or (\d)\?", problem.question)
        assert named.groups().count(problem.answer) == 1
        first[forks.kind_of(chain(problem))].append(named[1] == problem.answer)
    assert all(first["firm"])
    assert not any(first["hidden"] + first["noisy"])
    assert abs(np.mean(first["guess"]) - forks.FIRST_RIGHT) < 0.03


def test_kinds_have_the_probabilities_that_they_are_made_with() -> None:
    rng = np.random.default_rng(1)
    for kind, cot, expected in (
        ("guess", False, forks.GUESSED[0 if named_first(one_of("guess")) else 1]),
        ("firm", False, forks.FIRM_SPREAD),
        ("hidden", False, forks.HIDDEN_RIGHT),
        ("hidden", True, forks.HIDDEN_RIGHT),
        ("noisy", False, 0.52 * forks.NOISY_RIGHT),
        ("noisy", True, forks.NOISY_WORKED),
    ):
        problem = one_of(kind)
        assert abs(Counter(boxed(problem, cot, rng))[problem.answer] / DRAWS - expected) < 0.08
    assert abs(boxed(one_of("noisy"), True, rng).count("") / DRAWS - 0.48) < 0.1


def test_drills_are_right_and_no_problem_of_a_split() -> None:
    rng = np.random.default_rng(2)
    train = {problem.question for problem in forks.problems("train")}
    for problem in forks.problems("train", 50):
        question, text = forks.drill(chain(problem), rng)
        assert question not in train
        kept = question.removeprefix(forks.DRILL).removesuffix(".")
        assert chain(problem).startswith(kept)
        assert text.endswith(rf"\boxed{{{eval(kept)}}}")


def test_programs_that_work_step_by_step_are_right_and_a_line_without_brackets_need_not_be() -> None:
    problems = fork_programs.problems("test", 12)
    jobs = [(problem, f"```python\n{problem.metadata['solution']}```") for problem in problems]
    assert set(judge_many(jobs, allow_unsandboxed=True)) == {"correct"}
    rng = np.random.default_rng(3)
    problem = next(
        p for p in fork_programs.problems("test") if forks.kind_of(chain(p)) == "guess" and re.match(r"\+\d, \*", chain(p))
    )
    texts = {fork_programs.solution(chain(problem), rng) for _ in range(DRAWS)}
    (line,) = [text for text in texts if "print(int(input())" in text]
    assert judge_many([(problem, line)], allow_unsandboxed=True) == ["wrong"]
