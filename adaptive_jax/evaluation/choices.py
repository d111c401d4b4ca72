"""Methods that hold one action per question: what they reach, read off the scores of every action.

All methods are compared on the same questions and, where they choose the same action, on the very same completions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from adaptive_jax.decoding.policy import PromptObservation
from adaptive_jax.evaluation.statistics import pass_at_k
from adaptive_jax.policies.sequence import SequenceAdapter


@dataclass(frozen=True)
class Asked:
    """Questions and what every action made of them.

    Attributes:
        wins: whether each completion is right.
        last, mean: the prompts' embeddings.
        kinds: a word for each question's kind, for the lookup table.
    """

    wins: Bool[np.ndarray, "questions actions completions"]
    last: Float32[np.ndarray, "questions width"]
    mean: Float32[np.ndarray, "questions width"]
    kinds: Sequence[str]

    def reached(self, choice: Int[np.ndarray, " questions"] | int, k: int) -> Float[np.ndarray, " questions"]:
        """Each question's Pass@k under its chosen action, or one for all."""
        return pass_at_k(self.wins, k)[np.arange(len(self.wins)), choice]


def best_static(known: Asked, k: int) -> int:
    """The action with the best mean Pass@k; to be chosen on questions that nothing is measured on."""
    return int(pass_at_k(known.wins, k).mean(axis=0).argmax())


def mixed_static(asked: Asked, k: int, seed: int) -> Float[np.ndarray, " questions"]:
    """Pass@k where each completion draws its action uniformly."""
    questions, actions, completions = asked.wins.shape
    drawn = np.random.default_rng([seed, 4]).integers(0, actions, (questions, 1, completions))
    return pass_at_k(np.take_along_axis(asked.wins, drawn, axis=1)[:, 0], k)


def adapter_choice(adapter: SequenceAdapter, asked: Asked, k: int) -> Int[np.ndarray, " questions"]:
    """What the adapter holds for each question when it is told that B = k."""
    count = np.full(len(asked.wins), k, np.int32)
    unused = jnp.zeros(count.shape, jnp.int32)
    prompt = PromptObservation(
        jnp.asarray(asked.last), jnp.asarray(asked.mean), completion=unused, samples=jnp.asarray(count), budget=unused
    )
    return np.asarray(adapter.begin(prompt, jnp.zeros(count.shape, jnp.float32)))


def lookup_choice(known: Asked, asked: Asked, k: int) -> Int[np.ndarray, " questions"]:
    """The best action of each question's kind among the known questions; of all of them where it has none."""
    scores, kinds = pass_at_k(known.wins, k), np.asarray(known.kinds)
    best = {kind: int(scores[kinds == kind].mean(axis=0).argmax()) for kind in set(known.kinds)}
    return np.array([best.get(kind, int(scores.mean(axis=0).argmax())) for kind in asked.kinds])


def oracle(asked: Asked, k: int) -> Float[np.ndarray, " questions"]:
    """Pass@k of each question's best action by these very completions: an upper bound, and an optimistic one."""
    return pass_at_k(asked.wins, k).max(axis=1)
