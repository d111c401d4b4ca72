"""The sequence adapter: a policy that picks one sampling action for a prompt and holds it for all its completions."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float, Float32, Int32

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Observation, PromptObservation
from adaptive_jax.policies.mlp import MLP

Pooling = Literal["last", "mean", "both"]

SAMPLES_WEIGHT = 3.0  # one number among hundreds: at a weight of 1, B takes thousands of updates to be noticed


@struct.dataclass
class SequenceAdapter:
    """pi(action | [e; B]): a 3-layer MLP on a pooled prompt embedding and the sampling budget (paper, sequence level).

    A contextual bandit: one action per prompt and sampling budget, shared by the B completions. So when it decodes it takes
    the most probable action, which is the same for all completions of a prompt; actions are only drawn in training, where no
    text is decoded (`adaptive_jax.learning.bandit`).

    Attributes:
        params: of the MLP.
        actions: the action space, shape [A].
        graphdef: of the MLP (static).
        hidden_size: D of the language model (static).
        pooling: e is the hidden state of the prompt's last token, the mean over the prompt, or both (static).
        sees_samples: whether it sees the sampling budget B (static).
        samples_scale: the largest B of training (static). Larger ones are taken for it.
        held: for each B from 1 to `samples_scale` the action that every prompt gets at it, or -1 where the MLP chooses
            (static); none where it always does. What was learnt at one sampling budget is so no reason for a loss at another.
    """

    params: nnx.State
    actions: SamplingParams
    graphdef: nnx.GraphDef = struct.field(pytree_node=False)
    hidden_size: int = struct.field(pytree_node=False)
    pooling: Pooling = struct.field(pytree_node=False, default="both")
    sees_samples: bool = struct.field(pytree_node=False, default=True)
    samples_scale: int = struct.field(pytree_node=False, default=8)
    held: tuple[int, ...] = struct.field(pytree_node=False, default=())

    @property
    def learns(self) -> bool:
        """False: its steps are no decisions."""
        return False

    @property
    def sees_budget(self) -> bool:
        """False: B is the sampling budget; the token budget b is the loop's own business."""
        return False

    def begin(self, prompt: PromptObservation, uniform: Float32[Array, " rows"]) -> Int32[Array, " rows"]:
        chosen = jnp.argmax(self.logits(self.features(prompt)), axis=-1).astype(jnp.int32)
        if not self.held:
            return chosen
        held = jnp.asarray(self.held, jnp.int32)[jnp.clip(prompt.samples, 1, len(self.held)) - 1]
        return jnp.where(held >= 0, held, chosen)

    def step(
        self, observation: Observation, sequence_action: Int32[Array, " rows"], uniform: Float32[Array, " rows"]
    ) -> tuple[Int32[Array, " rows"], Float[Array, "rows features"]]:
        return sequence_action, jnp.zeros((sequence_action.shape[0], 0), jnp.float32)

    def features(self, prompt: PromptObservation) -> Float32[Array, "rows features"]:
        """What the MLP sees.

        Each embedding is divided by its root mean square. The sampling budget is encoded as log2 B, scaled from
        -3 at B = 1 to 3 at the largest of training. Pooling and encoding are ours; the paper states neither.

        Raises:
            ValueError: the embeddings are not as wide as those of the model that the adapter belongs to.
        """
        width = prompt.last.shape[-1]
        if width != self.hidden_size:
            raise ValueError(
                f"this adapter belongs to a model of hidden size {self.hidden_size}, and this one has {width}: "
                "use the model that it was trained on"
            )
        pooled = {"last": (prompt.last,), "mean": (prompt.mean,), "both": (prompt.last, prompt.mean)}[self.pooling]
        parts = []
        for embedding in pooled:
            wide = embedding.astype(jnp.float32)
            parts.append(wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-6))
        if self.sees_samples:
            known = jnp.clip(prompt.samples, 1, self.samples_scale).astype(jnp.float32)
            share = jnp.log2(known)[:, None] / max(math.log2(self.samples_scale), 1.0)
            parts.append(SAMPLES_WEIGHT * (2.0 * share - 1.0))
        return jnp.concatenate(parts, axis=-1)

    def logits(self, features: Float32[Array, "*batch features"]) -> Float32[Array, "*batch actions"]:
        """Unnormalised log-probabilities of the actions."""
        return nnx.merge(self.graphdef, self.params)(features)


def sequence_adapter(
    hidden_size: int,
    actions: SamplingParams,
    *,
    pooling: Pooling = "both",
    sees_samples: bool = True,
    samples_scale: int = 8,
    held: Sequence[int] = (),
    width: int = 64,
    seed: int = 0,
) -> SequenceAdapter:
    """An untrained sequence adapter; all its actions are equally probable, and it takes the first.

    Args:
        hidden_size: D of the language model.
        actions: the action space, shape [A].
        pooling, sees_samples, samples_scale, held: see `SequenceAdapter`.
        width: hidden width of the MLP.
        seed: of the initial weights.

    Raises:
        ValueError: `held` has neither no entry nor one for each sampling budget, or one that is no action.
    """
    if held and (len(held) != samples_scale or not all(-1 <= action < len(actions) for action in held)):
        raise ValueError(f"held is {tuple(held)}: give {samples_scale} actions from 0 to {len(actions) - 1}, or -1 for none")
    size = hidden_size * (2 if pooling == "both" else 1) + sees_samples
    graphdef, params = nnx.split(MLP(size, width, len(actions), rngs=nnx.Rngs(seed)))
    return SequenceAdapter(params, actions, graphdef, hidden_size, pooling, sees_samples, samples_scale, tuple(held))
