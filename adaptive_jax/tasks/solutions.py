r"""Solved problems as text: what a model would have written, for the examples that stand before a question."""

import re
from collections.abc import Mapping

from adaptive_jax.tasks.maths import last_box
from adaptive_jax.tasks.problem import Problem

PYTHON_3 = 3  # CodeContests' number for the language
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's annotations of its sums


def solved(problem: Problem, *, cot: bool) -> str:
    r"""The solution of a problem as a completion that its grader finds correct.

    Step by step it is the row's `solution`, or for GSM8K its `answer`; directly it is the answer in `\boxed{}`, for texts the
    answer alone. A program comes from `solution` in both cases.

    Raises:
        ValueError: the problem's row has no such field; the message says which.
    """
    if problem.kind == "code":
        return f"```python\n{_solution(problem).strip()}\n```"
    if problem.kind in ("instructions", "reasoning_gym"):
        answer = problem.answer or _solution(problem)
        return f"Answer: {answer}" if cot and problem.kind == "reasoning_gym" else answer
    box = rf"\boxed{{{problem.answer}}}"
    if not cot:
        return box
    if problem.hash_answer:
        working = _CALCULATOR.sub("", str(problem.metadata["answer"])).rpartition("####")[0].strip()
        return f"{working} {box}".strip()
    working = _solution(problem).strip()
    return working if last_box(working) else f"{working} {box}"


def _solution(problem: Problem) -> str:
    solution = problem.metadata.get("solution")
    published = problem.metadata.get("solutions")
    if solution is None and isinstance(published, Mapping) and PYTHON_3 in published.get("language", ()):
        solution = published["solution"][list(published["language"]).index(PYTHON_3)]
    if not isinstance(solution, str) or not solution.strip():
        raise ValueError(
            f"problem {problem.id!r} has no solution to show as an example: give its row a field 'solution', ask for the "
            "answer alone (cot none), or show no examples"
        )
    return solution
