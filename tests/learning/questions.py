"""Environments over the counting model: questions, and verdicts that are known beforehand."""

from collections.abc import Sequence
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.stop import StopTexts
from adaptive_jax.environment import Grading
from adaptive_jax.tasks.problem import Grade, Verdict
from tests.decoding.counting_lm import VOCABULARY, CountingLM, greedy_completion, successor_table

STOP = 5
SOFT_LM = SimpleNamespace(
    decoder=CountingLM(jnp.asarray(successor_table(2.5))), stop_ids=(STOP,), config=SimpleNamespace(max_positions=256)
)


class GreedyPath:
    """Questions whose right answers are what greedy decoding gives.

    Args:
        count: Q questions.
    """

    def __init__(self, count: int):
        rng = np.random.default_rng(0)
        self.lm, self.stop = SOFT_LM, StopTexts(SOFT_LM, [])
        self.prompts = [rng.integers(0, VOCABULARY, rng.integers(1, 8)).tolist() for _ in range(count)]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def prompt_width(self) -> int:
        return max(map(len, self.prompts))

    def prompt(self, index: int, budget: int) -> Prompt:
        return Prompt(str(index), self.prompts[index], budget)

    def grading(self, asked: np.ndarray, cuts: Sequence[int] | None = None) -> Grading:
        return Grading(self, asked, cuts)

    def grades(self, tokens: np.ndarray, lengths: np.ndarray, asked: np.ndarray) -> list[Grade]:
        return [Grade(verdict, float(verdict == "correct")) for verdict in self.verdicts(tokens, lengths, asked)]

    def verdicts(self, tokens: np.ndarray, lengths: np.ndarray, asked: np.ndarray) -> list[Verdict]:
        return [
            "correct" if row[:n].tolist() == greedy_completion(self.prompts[i], n, STOP) else "wrong"
            for row, n, i in zip(tokens, lengths, asked, strict=True)
        ]
