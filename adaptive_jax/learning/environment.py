"""Where prompts and rewards come from. Text lives on this side; the learner sees trajectories and numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adaptive_jax.decoding.generate import decode_texts
from adaptive_jax.decoding.prompt import Prompt, check_prompts, problem_digest
from adaptive_jax.lm.model import LM
from adaptive_jax.lm.prompts import Form, encode, render
from adaptive_jax.tasks.grading import grade_many, rewards
from adaptive_jax.tasks.problem import Problem

Cot = Literal["none", "all", "mix"]


@dataclass(frozen=True)
class Question:
    """A problem as one prompt asks it: step by step (cot), or for the answer alone."""

    problem: Problem
    cot: bool


def questions(problems: Sequence[Problem], cot: Cot) -> list[Question]:
    """How problems are asked: "all" step by step, "none" directly, "mix" half and half (our reading of mix CoT).

    Which half a problem falls into is decided by its id, so it does not depend on the order or number of problems.
    """
    if cot == "mix":
        return [Question(problem, cot=bool(problem_digest(f"cot {problem.id}")[0] % 2)) for problem in problems]
    return [Question(problem, cot=cot == "all") for problem in problems]


def prompt(lm: LM, problem: Problem, cot: bool = True, thinking: bool | None = None) -> str:
    """The text that a language model is asked to continue for a problem; see `adaptive_jax.lm.prompts.render`."""
    form: Form = "program" if problem.kind == "code" else "answer"
    return render(lm.tokenizer, problem.question, form=form, cot=cot, thinking=thinking)


class Environment:
    """Questions to a frozen language model, and the verdicts on its completions.

    Args:
        lm: the model.
        asked: Q questions.
        thinking: for chat templates that know thinking, whether it is on; None leaves their default.
    """

    def __init__(self, lm: LM, asked: Sequence[Question], *, thinking: bool | None = None):
        self.lm, self.questions = lm, list(asked)
        texts = [prompt(lm, q.problem, q.cot, thinking) for q in self.questions]
        self._tokens = [encode(lm.tokenizer, text) for text in texts]

    def check(self, budget: int) -> None:
        """Raises ValueError for a question that does not fit the model's context with a token budget of `budget`."""
        prompts = [self.prompt(index, budget) for index in range(len(self))]
        check_prompts(prompts, self.lm.config.max_positions)

    @property
    def prompt_width(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(tokens) for tokens in self._tokens)

    def __len__(self) -> int:
        return len(self.questions)

    def prompt(self, index: int, budget: int) -> Prompt:
        """Question `index` at a token budget. Its identity tells the two ways of asking a problem apart."""
        question = self.questions[index]
        identity = question.problem.id if question.cot else f"{question.problem.id}#direct"
        return Prompt(identity, self._tokens[index], budget)

    def rewards(
        self, tokens: np.ndarray, lengths: np.ndarray, asked: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rewards of completions.

        Args:
            tokens: int32 [N, T]; lengths: int [N], how many of them are judged.
            asked: int [N], the question that each completion answers.

        Returns:
            float32 [N] in {0, 1}, and bool [N]: False where the grader failed and nothing is known.
        """
        texts = decode_texts(self.lm, tokens, lengths)
        return rewards(grade_many([self.questions[i].problem for i in asked], texts))
