"""Methods that hold one action per question: what they reach, read off the scores of every action.

All methods are compared on the same questions and, where they choose the same action, on the very same completions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from adaptive_jax.decoding.policy import PromptObservation
from adaptive_jax.evaluation.statistics import pass_at_k
from adaptive_jax.policies.sequence import SequenceAdapter


class Outcomes(Protocol):
    """What every action made of questions."""

    def rates(self, k: int) -> Float[np.ndarray, "questions actions"]:
        """Each question's Pass@k under each action."""
        ...

    def mixed(self, k: int, seed: int) -> Float[np.ndarray, " questions"]:
        """Each question's Pass@k where each completion draws its action uniformly."""
        ...

    def of(self, kept: Sequence[int]) -> "Outcomes":
        """Those of some of the questions."""
        ...


@dataclass(frozen=True)
class Draws:
    """Outcomes as they were drawn.

    Attributes:
        wins: whether each completion is right.
    """

    wins: Bool[np.ndarray, "questions actions completions"]

    def rates(self, k: int) -> Float[np.ndarray, "questions actions"]:
        return pass_at_k(self.wins, k)

    def mixed(self, k: int, seed: int) -> Float[np.ndarray, " questions"]:
        questions, actions, completions = self.wins.shape
        drawn = np.random.default_rng([seed, 4]).integers(0, actions, (questions, 1, completions))
        return pass_at_k(np.take_along_axis(self.wins, drawn, axis=1)[:, 0], k)

    def of(self, kept: Sequence[int]) -> "Draws":
        return Draws(self.wins[list(kept)])


@dataclass(frozen=True)
class Chances:
    """Outcomes as chances of a right completion (see `adaptive_jax.evaluation.chances`); Pass@k is 1 - (1 - chance)^k.

    Attributes:
        chances: in [0, 1].
    """

    chances: Float[np.ndarray, "questions actions"]

    def rates(self, k: int) -> Float[np.ndarray, "questions actions"]:
        return 1.0 - (1.0 - self.chances) ** k

    def mixed(self, k: int, seed: int) -> Float[np.ndarray, " questions"]:
        return 1.0 - (1.0 - self.chances.mean(axis=1)) ** k

    def of(self, kept: Sequence[int]) -> "Chances":
        return Chances(self.chances[list(kept)])


@dataclass(frozen=True)
class Asked:
    """Questions and what every action made of them.

    Attributes:
        outcomes: of every action.
        last, mean: the prompts' embeddings.
        kinds: a word for each question's kind, for the lookup table.
    """

    outcomes: Outcomes
    last: Float32[np.ndarray, "questions width"]
    mean: Float32[np.ndarray, "questions width"]
    kinds: Sequence[str]

    def reached(self, choice: Int[np.ndarray, " questions"] | int, k: int) -> Float[np.ndarray, " questions"]:
        """Each question's Pass@k under its chosen action, or one for all."""
        return self.outcomes.rates(k)[np.arange(len(self.kinds)), choice]


def best_static(known: Asked, k: int) -> int:
    """The action with the best mean Pass@k; to be chosen on questions that nothing is measured on."""
    return int(known.outcomes.rates(k).mean(axis=0).argmax())


def adapter_choice(adapter: SequenceAdapter, asked: Asked, k: int) -> Int[np.ndarray, " questions"]:
    """What the adapter holds for each question when it is told that B = k."""
    count = np.full(len(asked.kinds), k, np.int32)
    unused = jnp.zeros(count.shape, jnp.int32)
    prompt = PromptObservation(
        jnp.asarray(asked.last), jnp.asarray(asked.mean), completion=unused, samples=jnp.asarray(count), budget=unused
    )
    return np.asarray(adapter.begin(prompt, jnp.zeros(count.shape, jnp.float32)))


def lookup_choice(known: Asked, asked: Asked, k: int) -> Int[np.ndarray, " questions"]:
    """The best action of each question's kind among the known questions; of all of them where it has none."""
    scores, kinds = known.outcomes.rates(k), np.asarray(known.kinds)
    best = {kind: int(scores[kinds == kind].mean(axis=0).argmax()) for kind in set(known.kinds)}
    return np.array([best.get(kind, int(scores.mean(axis=0).argmax())) for kind in asked.kinds])


def oracle(asked: Asked, k: int) -> Float[np.ndarray, " questions"]:
    """Pass@k of each question's best action by these very outcomes: an upper bound, optimistic where they are draws."""
    return asked.outcomes.rates(k).max(axis=1)
