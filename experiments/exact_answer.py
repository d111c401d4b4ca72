"""A reward of 0 or 1 for short answers as plain text, where a data set's own scores are graded: Pass@k needs it.

Use it as `--reward experiments/exact_answer.py:exact`.
"""

from adaptive_jax.tasks.problem import Problem


def exact(problem: Problem, text: str) -> float:
    """1.0 where the completion is the answer and nothing else but white space around it, else 0.0."""
    return float(problem.answer is not None and text.strip() == problem.answer.strip())
