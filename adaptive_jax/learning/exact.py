"""A token adapter by the exact gradient of its expected Pass@B, where answers are short: nothing is drawn in training.

REINFORCE estimates the gradient of the expected reward from draws. Where the chance p of a right completion can be summed
(`adaptive_jax.evaluation.chances`), the expected Pass@B of a question is 1 - (1 - p)^B, and its gradient follows by
differentiation. That is not the paper's method, which learns from rewards of draws; it shows what there is to be learnt.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float32, Int32

from adaptive_jax.evaluation.chances import RightSteps
from adaptive_jax.learning.constant import constant_token_adapter
from adaptive_jax.learning.reinforce import Metrics
from adaptive_jax.learning.train import adam
from adaptive_jax.policies.token import TokenAdapter


@dataclass(frozen=True)
class ExactSettings:
    """How an adapter is fitted.

    Attributes:
        updates: steps of Adam, each on all questions.
        samples: B; what grows is the expected Pass@B.
        learning_rate: of Adam.
        validate_every: updates between two validations.
    """

    updates: int = 300
    samples: int = 1
    learning_rate: float = 1e-3
    validate_every: int = 10


class _Steps(NamedTuple):
    """`RightSteps` on the device, seen through an adapter's features."""

    features: Float[Array, "steps features"]
    drawn: Float32[Array, "steps actions"]
    completion: Int32[Array, " steps"]
    question: Int32[Array, " completions"]


def fit_exactly(
    adapter: TokenAdapter, known: Sequence[RightSteps], settings: ExactSettings, *, validation: Sequence[RightSteps]
) -> tuple[TokenAdapter, list[Metrics]]:
    """Fit an adapter to questions whose right completions are known.

    Args:
        adapter: where to start; its actions are those of the steps.
        known: the questions to learn from, at each token budget.
        settings: see `ExactSettings`.
        validation: other questions, at each token budget.

    Returns:
        The adapter as it was when it validated best, or the best action alone where it was never above that; and for every
        validation the update, the expected Pass@B of the training questions and that of the validation questions.
    """
    own, watched = ([_steps(adapter, steps) for steps in part] for part in (known, validation))
    counts = [tuple(steps.questions for steps in part) for part in (known, validation)]
    actions = range(len(adapter.actions))
    alone = [np.mean([expected(steps.alone(action), settings.samples) for steps in validation]) for action in actions]
    kept, best = constant_token_adapter(adapter, int(np.argmax(alone))), float(max(alone))
    optimizer = adam(settings.learning_rate)
    state, history = optimizer.init(adapter.params), []
    for update in range(1, settings.updates + 1):
        adapter, state, reached = _update(adapter, state, own, counts[0], settings.samples, settings.learning_rate)
        if update % settings.validate_every == 0 or update == settings.updates:
            reward = float(_reached(adapter, watched, counts[1], settings.samples))
            history.append({"update": update, "reward": float(reached), "validation_reward": reward})
            if reward > best:
                kept, best = adapter, reward
    return kept, history


def expected(chances: Float[np.ndarray, " questions"], samples: int) -> float:
    """The expected Pass@B of questions, in the mean."""
    return float(np.mean(1.0 - (1.0 - chances) ** samples))


def _steps(adapter: TokenAdapter, steps: RightSteps) -> _Steps:
    features = adapter.features(steps.observation())
    return _Steps(features, jnp.asarray(steps.drawn), jnp.asarray(steps.completion), jnp.asarray(steps.question))


def _pass_at(adapter: TokenAdapter, parts: list[_Steps], questions: tuple[int, ...], samples: int) -> Float32[Array, ""]:
    reached = []
    for steps, count in zip(parts, questions, strict=True):
        chosen = jax.nn.softmax(adapter.logits(steps.features), axis=-1)
        step = jnp.log(jnp.maximum(jnp.sum(chosen * steps.drawn, axis=-1), 1e-30))
        whole = jnp.exp(jax.ops.segment_sum(step, steps.completion, len(steps.question)))
        chance = jnp.minimum(jax.ops.segment_sum(whole, steps.question, count), 1.0)
        reached.append(jnp.mean(1.0 - (1.0 - chance) ** samples))
    return jnp.mean(jnp.stack(reached))


_reached = jax.jit(_pass_at, static_argnums=(2, 3))


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _update(
    adapter: TokenAdapter,
    state: optax.OptState,
    parts: list[_Steps],
    questions: tuple[int, ...],
    samples: int,
    learning_rate: float,
) -> tuple[TokenAdapter, optax.OptState, Float32[Array, ""]]:
    def loss(params: nnx.State) -> Float32[Array, ""]:
        return -_pass_at(dataclasses.replace(adapter, params=params), parts, questions, samples)

    value, gradients = jax.value_and_grad(loss)(adapter.params)
    updates, state = adam(learning_rate).update(gradients, state, adapter.params)
    return dataclasses.replace(adapter, params=optax.apply_updates(adapter.params, updates)), state, -value
