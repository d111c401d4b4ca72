"""The token adapter: a policy that picks a sampling action for every token, and its entropy-only variant."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx, struct

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Observation, PromptObservation
from adaptive_jax.policies.mlp import MLP

Inputs = Literal["hidden+budget", "hidden", "entropy"]

PAPER_ACTIONS = (0.0, 0.5, 1.0, 1.25)

BudgetEncoding = Literal["centred", "shares"]
BUDGET_WEIGHT = 3.0  # two numbers among hundreds: at a weight of 1, b_t takes hundreds of updates to be noticed


@struct.dataclass
class TokenAdapter:
    """pi(action | [e_t; b_t]): a 3-layer MLP on the hidden state that predicts the next token and the remaining budget.

    Attributes:
        params: of the MLP.
        actions: the action space, shape [A].
        graphdef: of the MLP (static).
        hidden_size: D of the language model (static).
        inputs: what it sees (static): "hidden+budget" is the paper's adapter, "hidden" drops b_t, "entropy" sees only the
            entropy of the next-token distribution.
        budget_scale: tokens that the budget encoding maps to its upper end (static); the largest budget in training.
        budget_encoding: how b_t is encoded (static): "centred", or "shares" in adapters of earlier versions; see `features`.
        argmax: take the most probable action instead of drawing one (static).
    """

    params: nnx.State
    actions: SamplingParams
    graphdef: nnx.GraphDef = struct.field(pytree_node=False)
    hidden_size: int = struct.field(pytree_node=False)
    inputs: Inputs = struct.field(pytree_node=False, default="hidden+budget")
    budget_scale: int = struct.field(pytree_node=False, default=1024)
    budget_encoding: BudgetEncoding = struct.field(pytree_node=False, default="centred")
    argmax: bool = struct.field(pytree_node=False, default=False)

    @property
    def learns(self) -> bool:
        return True

    @property
    def sees_budget(self) -> bool:
        return self.inputs == "hidden+budget"

    def begin(self, prompt: PromptObservation, uniform: jax.Array) -> jax.Array:
        return jnp.zeros(uniform.shape, jnp.int32)

    def step(self, observation: Observation, sequence_action: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = self.features(observation)
        logits = self.logits(features)
        if self.argmax:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32), features
        # inverse CDF, from the same uniform for any A; the last action takes what rounding leaves
        cumulative = jnp.cumsum(jax.nn.softmax(logits, axis=-1), axis=-1)[:, :-1]
        return jnp.sum(uniform[:, None] >= cumulative, axis=-1).astype(jnp.int32), features

    def features(self, observation: Observation) -> jax.Array:
        """What the MLP sees, [B, F], in the hidden state's dtype.

        The hidden state is divided by its root mean square. The remaining budget (not specified by the paper) is encoded twice:
        b_t / scale tells large budgets apart, log(1 + b_t) / log(1 + scale) small ones. As "shares" both go from 0 to 1, and
        "centred" from -3 to 3: two numbers of about 1 among a hundred are noticed late.

        Raises:
            ValueError: the hidden state is not as wide as that of the model the adapter belongs to.
        """
        hidden = observation.hidden
        if hidden.shape[-1] != self.hidden_size:
            raise ValueError(
                f"this adapter belongs to a model of hidden size {self.hidden_size}, and this one has {hidden.shape[-1]}: "
                "use the model that it was trained on"
            )
        if self.inputs == "entropy":
            return observation.entropy[:, None].astype(hidden.dtype)
        wide = hidden.astype(jnp.float32)
        parts = [wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-6)]
        if self.inputs == "hidden+budget":
            remaining = jnp.maximum(observation.remaining, 0).astype(jnp.float32)[:, None]  # dead rows go below 0
            shares = remaining / self.budget_scale, jnp.log1p(remaining) / jnp.log1p(jnp.float32(self.budget_scale))
            centred = self.budget_encoding == "centred"
            parts += [BUDGET_WEIGHT * (2.0 * share - 1.0) if centred else share for share in shares]
        return jnp.concatenate(parts, axis=-1).astype(hidden.dtype)

    def logits(self, features: jax.Array) -> jax.Array:
        """Unnormalised log-probabilities of the actions: features [M, F] -> float32 [M, A]."""
        return nnx.merge(self.graphdef, self.params)(features.astype(jnp.float32))


def token_adapter(
    hidden_size: int,
    *,
    inputs: Inputs = "hidden+budget",
    actions: SamplingParams | None = None,
    width: int = 64,
    budget_scale: int = 1024,
    budget_encoding: BudgetEncoding = "centred",
    seed: int = 0,
) -> TokenAdapter:
    """An untrained token adapter; it starts as the uniform policy.

    Args:
        hidden_size: D of the language model.
        inputs: see `TokenAdapter`.
        actions: the action space; the paper's by default: greedy, 0.5, 1.0, 1.25.
        width: hidden width of the MLP.
        budget_scale: the largest token budget in training, in tokens.
        budget_encoding: see `TokenAdapter`.
        seed: of the initial weights.
    """
    if actions is None:
        actions = SamplingParams.stack([SamplingParams(temperature) for temperature in PAPER_ACTIONS])
    size = {"hidden+budget": hidden_size + 2, "hidden": hidden_size, "entropy": 1}[inputs]
    graphdef, params = nnx.split(MLP(size, width, len(actions), rngs=nnx.Rngs(seed)))
    return TokenAdapter(params, actions, graphdef, hidden_size, inputs, budget_scale, budget_encoding)
