"""REINFORCE with a leave-one-out baseline, from binary rewards, on stored features: the gradient never meets the LM."""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from adaptive_jax.parallel import summed

Metrics = dict[str, Any]  # what an update or a validation measured, by name


class LearntPolicy(Protocol):
    """A policy whose action probabilities can be recomputed from features."""

    @property
    def params(self) -> nnx.State: ...

    def logits(self, features: Float[Array, "*batch features"]) -> Float32[Array, "*batch actions"]: ...

    def replace(self, **changes: Any) -> "LearntPolicy": ...


@struct.dataclass
class Decisions:
    """A batch of decisions, padding included.

    Attributes:
        features: what the policy chose from.
        actions: what it chose.
        advantages: of the completion that the decision belongs to.
        weight: 1 for decisions, 0 for padding.
    """

    features: Float[Array, "decisions features"]
    actions: Int32[Array, " decisions"]
    advantages: Float32[Array, " decisions"]
    weight: Float32[Array, " decisions"]


def leave_one_out(
    rewards: Float[np.ndarray, "prompts group"], valid: Bool[np.ndarray, "prompts group"] | None = None
) -> Float32[np.ndarray, "prompts group"]:
    """Advantage of each completion: its reward minus the mean reward of the others of its group.

    Source: arXiv 2402.14740 eq. 6 (RLOO); a group is the completions of one prompt at one token budget.

    Args:
        rewards: of the completions.
        valid: completions whose reward is unknown (the grader failed) neither count nor get an advantage.

    Returns:
        0 where a group has no other valid completion.
    """
    valid = np.ones(rewards.shape, bool) if valid is None else valid
    known = np.where(valid, rewards, 0.0)
    others = valid.sum(axis=1, keepdims=True) - 1
    baseline = (known.sum(axis=1, keepdims=True) - known) / np.maximum(others, 1)
    return np.where(valid & (others > 0), known - baseline, 0.0).astype(np.float32)


def pass_advantages(
    rewards: Float[np.ndarray, "prompts group"], valid: Bool[np.ndarray, "prompts group"], samples: int
) -> Float32[np.ndarray, "prompts group"]:
    """Advantage of each completion where the reward is Pass@B: whether any of B completions of a prompt is right.

    The expected Pass@B of the B completions of its group that include it, less that of B of the others, both over all subsets:
    with c right ones among the m - 1 others, the first is 1 for a right completion and 1 - C(m-1-c, B-1) / C(m-1, B-1) for a
    wrong one, the second 1 - C(m-1-c, B) / C(m-1, B). The others' subsets know nothing of the completion, so they are a
    baseline, and the gradient is that of Pass@B divided by B, without bias. For B = 1 this is `leave_one_out`. The estimate of
    Pass@B is that of arXiv 2107.03374, eq. 1; its use as a token-level reward is ours.

    Args:
        rewards: in {0, 1}.
        valid: see `leave_one_out`.
        samples: the sampling budget B, less than the group.

    Returns:
        0 where a completion has fewer than B other valid ones.

    Raises:
        ValueError: B is below 1, or not less than the group.
    """
    group = rewards.shape[1]
    if not 1 <= samples < group:
        raise ValueError(f"Pass@{samples} as a reward needs 1 to G - 1 samples: a prompt has G = {group} completions")
    if samples == 1:
        return leave_one_out(rewards, valid)

    def missed(others: int, right: int, drawn: int) -> float:
        """The chance that `drawn` of the others are all wrong."""
        return math.comb(max(others - right, 0), drawn) / math.comb(others, drawn) if others >= drawn else 0.0

    table = np.zeros((2, group, group), np.float32)  # [is it right, others, right others]
    for others in range(samples, group):
        for right in range(others + 1):
            beyond = missed(others, right, samples)
            table[:, others, right] = beyond - missed(others, right, samples - 1), beyond
    solved = valid & (rewards > 0)
    others = valid.sum(axis=1, keepdims=True) - valid
    right = solved.sum(axis=1, keepdims=True) - solved
    return np.where(valid, table[solved.astype(int), others, right], 0.0).astype(np.float32)


def pad_decisions(
    features: Float[np.ndarray, "decisions features"],
    actions: Int[np.ndarray, " decisions"],
    advantages: Float[np.ndarray, " decisions"],
) -> Decisions:
    """A batch padded to the next power of two, so that few shapes are compiled."""
    count = len(actions)
    size = 1 << max(count - 1, 0).bit_length()
    pad = size - count
    return Decisions(
        features=jnp.asarray(np.pad(features, ((0, pad), (0, 0)))),
        actions=jnp.asarray(np.pad(actions, (0, pad)), jnp.int32),
        advantages=jnp.asarray(np.pad(advantages, (0, pad)), jnp.float32),
        weight=jnp.asarray(np.arange(size) < count, jnp.float32),
    )


def reinforce_loss(
    params: nnx.State,
    policy: LearntPolicy,
    batch: Decisions,
    entropy_bonus: jax.Array,
    clip: float | None = None,
    axis: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """-(sum over decisions of advantage * log pi(action) + bonus * H(pi)) / (number of decisions).

    Source: REINFORCE (Williams 1992), summed over decisions and divided by their number, not by a padded length. With `clip`,
    log pi(action) gives way to the clipped ratio to the policy that drew the actions: min(r A, clip(r, 1 - clip, 1 + clip) A),
    r = pi(action) / pi_drew(action) (arXiv 1707.06347, eq. 7). At the policy that drew, both have the same gradient.

    Args:
        params: where the loss is taken.
        policy: the policy that drew the actions.
        batch, entropy_bonus: see above.
        clip: epsilon of the ratio; None follows REINFORCE itself.
        axis: see `guarded_update`.

    Returns:
        The loss, float32 scalar, and metrics: the policy's mean entropy in nats and its mean action probabilities [A]; where
        the batch is split over devices (see `guarded_update`), the part of this device's decisions in them.
    """
    chex.assert_rank([batch.features, batch.actions], [2, 1])
    chex.assert_equal_shape([batch.actions, batch.advantages, batch.weight])
    log_probability = jax.nn.log_softmax(policy.replace(params=params).logits(batch.features), axis=-1)
    chosen = jnp.take_along_axis(log_probability, batch.actions[:, None], axis=-1)[:, 0]
    probability = jnp.exp(log_probability)
    entropy = -jnp.sum(probability * log_probability, axis=-1)
    count = jnp.maximum(summed(jnp.sum(batch.weight), axis), 1.0)
    followed = batch.advantages * chosen
    if clip is not None:
        drew = jax.nn.log_softmax(policy.logits(batch.features), axis=-1)
        ratio = jnp.exp(chosen - jnp.take_along_axis(drew, batch.actions[:, None], axis=-1)[:, 0])
        followed = jnp.minimum(ratio * batch.advantages, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * batch.advantages)
    loss = -jnp.sum(batch.weight * (followed + entropy_bonus * entropy)) / count
    metrics = {
        "policy_entropy": jnp.sum(batch.weight * entropy) / count,
        "action_probabilities": jnp.sum(batch.weight[:, None] * probability, axis=0) / count,
    }
    return loss, metrics


def guarded_update(
    loss_of: Callable[[nnx.State], tuple[jax.Array, dict[str, jax.Array]]],
    policy: LearntPolicy,
    opt_state: optax.OptState,
    taught: jax.Array,
    optimizer: optax.GradientTransformation,
    epochs: int = 1,
    axis: str | None = None,
) -> tuple[LearntPolicy, optax.OptState, dict[str, jax.Array]]:
    """Steps of an optimiser; one whose loss or gradient is not finite leaves policy and optimiser as they were.

    Args:
        loss_of: parameters to a loss and metrics.
        taught: float32 scalar, above 0 where the batch teaches anything; else nothing is followed, momentum included.
        epochs: how many steps.
        axis: where a batch is split over devices, the axis over which losses, metrics and gradients are summed.

    Returns:
        policy, optimiser state, and the metrics of the first step, with "loss" and "gradient_norm", means over the steps, and
        "applied" (bool), whether all were finite.
    """
    (taught,) = summed((taught,), axis)

    def step(learner: tuple[nnx.State, optax.OptState], _: None) -> tuple[Any, dict[str, jax.Array]]:
        params, state = learner
        (loss, metrics), gradients = summed(jax.value_and_grad(loss_of, has_aux=True)(params), axis)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, new_state = optimizer.update(gradients, state, params)
        new_params = optax.apply_updates(params, updates)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(finite & (taught > 0), a, b), new, old)

        metrics |= {"loss": loss, "gradient_norm": norm, "applied": finite}
        return (keep(new_params, params), keep(new_state, state)), metrics

    (params, opt_state), steps = jax.lax.scan(step, (policy.params, opt_state), None, length=epochs)
    metrics = {name: value[0] for name, value in steps.items()}
    metrics |= {name: jnp.mean(steps[name]) for name in ("loss", "gradient_norm")}
    return policy.replace(params=params), opt_state, metrics | {"applied": jnp.all(steps["applied"])}


@functools.partial(jax.jit, static_argnames=("optimizer", "epochs", "clip", "axis"))
def reinforce_update(
    policy: LearntPolicy,
    opt_state: optax.OptState,
    batch: Decisions,
    entropy_bonus: jax.Array,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int = 1,
    clip: float | None = None,
    axis: str | None = None,
) -> tuple[LearntPolicy, optax.OptState, dict[str, jax.Array]]:
    """One policy-gradient update of `epochs` steps (see `guarded_update`), with the metrics of `reinforce_loss`."""

    def loss_of(params: nnx.State) -> tuple[jax.Array, dict[str, jax.Array]]:
        return reinforce_loss(params, policy, batch, entropy_bonus, clip, axis)

    return guarded_update(loss_of, policy, opt_state, jnp.sum(batch.weight), optimizer, epochs, axis)
