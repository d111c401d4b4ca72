"""Solutions that are shown as examples: the graders must find them right."""

import pytest

from adaptive_jax.tasks.grading import grade_many
from adaptive_jax.tasks.loading import as_problem, load_problems
from adaptive_jax.tasks.solutions import solved

ROWS = [
    {"id": "1", "question": "Two pens and two?", "answer": "There are 2 + 2 = <<2+2=4>>4 pens.\n#### 4"},
    {"id": "2", "problem": "A half?", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
    {"id": "3", "question": "3 + 4?", "answer": 7, "solution": "3 + 4 is 7."},
]


def test_solutions_are_right_in_both_ways() -> None:
    problems = [as_problem(row) for row in ROWS] + load_problems("programs", split="train", limit=3)
    for cot in (True, False):
        texts = [solved(problem, cot=cot) for problem in problems]
        assert grade_many(problems, texts, allow_unsandboxed=True) == ["correct"] * len(problems)
        assert (texts[0], texts[2]) == (
            ("There are 2 + 2 = 4 pens. \\boxed{4}", "3 + 4 is 7. \\boxed{7}") if cot else ("\\boxed{4}", "\\boxed{7}")
        )


def test_a_problem_without_a_solution_is_named() -> None:
    problem = as_problem({"id": "bare", "question": "2 + 2?", "answer": 4})
    assert solved(problem, cot=False) == "\\boxed{4}"
    with pytest.raises(ValueError, match="'bare' has no solution to show as an example: give its row a field 'solution'"):
        solved(problem, cot=True)
