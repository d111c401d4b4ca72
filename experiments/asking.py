"""How an experiment asks its questions and what it rewards: its flags for that, and the environments behind them."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptive_jax.decoding.prompt import problem_digest
from adaptive_jax.environment import Cot, Environment
from adaptive_jax.lm.model import LM
from adaptive_jax.lm.template import QuestionTemplate
from adaptive_jax.runs.fingerprint import DIGITS, Fingerprint, problems_fingerprint
from adaptive_jax.tasks.problem import Problem
from adaptive_jax.tasks.rewards import RewardFunction, load_reward
from experiments.config import Config

COMPONENT = "mixture_component"  # the field of `Problem.metadata` that names a problem's data set in a mixture


@dataclass(frozen=True)
class AskingConfig(Config):
    r"""Flags of every experiment that asks questions.

    Attributes:
        reward: FILE.py:FUNCTION, which takes a problem and the text of a completion and returns a reward from 0 to 1; the
            answers of the data set are not needed then.
        examples: so many solved training problems are shown before each question, as earlier turns of the chat; of a mixture,
            those of the question's data set.
        template: a Jinja file that words a question; it knows question, id, metadata and cot.
        apply_chat_template: whether questions and examples are turns of the model's chat template, where it has one, or plain
            text: "Question:", "Answer:", or what --template says.
        stop: a completion ends where its text first contains one of these; \n and \t stand for a line feed and a tab.
        thinking: for chat templates that know thinking, whether it is on.
    """

    reward: str | None = None
    examples: int = 0
    template: Path | None = None
    apply_chat_template: bool = True
    stop: tuple[str, ...] = ()
    thinking: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "examples")
        if not all(self.stop):
            raise ValueError("--stop: an empty text, which every completion contains; leave it out")

    @functools.cached_property
    def _reward(self) -> tuple[RewardFunction, str] | None:
        return None if self.reward is None else load_reward(self.reward)

    @functools.cached_property
    def _template(self) -> str | None:
        if self.template is None:
            return None
        try:
            return self.template.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--template {self.template}: {error}; give a text file") from error

    @property
    def sources(self) -> Fingerprint:
        template = self._template and hashlib.sha256(self._template.encode()).hexdigest()[:DIGITS]
        return {"reward-source": self._reward and self._reward[1], "template-source": template}

    def environment(
        self,
        lm: LM,
        problems: Sequence[Problem],
        cot: Cot | Sequence[Cot],
        *,
        examples: Sequence[Problem] = (),
        completions: int,
        allow_unsandboxed: bool = False,
    ) -> Environment:
        """The problems, asked as the flags say, each of which is to get at most so many completions at once.

        Raises:
            ValueError, OSError: a flag that can't be followed, or see `Environment.check`, with the largest token budget.
        """
        prompt, shown = None, functools.partial(_examples_for, examples)
        if self._template is not None:
            name = f"--template {self.template}"
            prompt = QuestionTemplate(self._template, name, lm.tokenizer, examples=shown, thinking=self.thinking)
        found = Environment(
            lm,
            problems,
            cot,
            reward=self._reward and self._reward[0],
            prompt=prompt,
            examples=shown,
            stop=[text.replace("\\n", "\n").replace("\\t", "\t") for text in self.stop],
            thinking=self.thinking,
            allow_unsandboxed=allow_unsandboxed,
        )
        found.check(max(self.budgets), rows=self.rows, completions=completions)
        return found


def _examples_for(examples: Sequence[Problem], problem: Problem) -> Sequence[Problem]:
    """Those of the problem's own data set in a mixture."""
    own = [example for example in examples if example.metadata.get(COMPONENT) == problem.metadata.get(COMPONENT)]
    return own or examples


def asked_digest(environment: Environment) -> np.ndarray:
    """uint32 [2], tells the problems of --eval-dataset, which the run's fingerprint knows by name only, from others."""
    return problem_digest(problems_fingerprint([question.problem for question in environment.questions]))
