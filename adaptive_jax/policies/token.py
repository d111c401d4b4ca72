"""The token adapter: a policy that picks a sampling action for every token, and its entropy-only variant."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float, Float32, Int32

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Observation, PromptObservation
from adaptive_jax.policies.mlp import MLP

Inputs = Literal["hidden+budget", "hidden", "entropy"]

PAPER_ACTIONS = (0.0, 0.5, 1.0, 1.25)

BudgetEncoding = Literal["two-hot", "centred", "shares"]
BUDGET_WEIGHT = 3.0  # a few numbers among hundreds: at a weight of 1, b_t takes hundreds of updates to be noticed


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
        budget_encoding: how b_t is encoded (static): "two-hot", or "centred" and "shares" in adapters of earlier versions; see
            `budget_features`.
        argmax: take the most probable action instead of drawing one (static).
    """

    params: nnx.State
    actions: SamplingParams
    graphdef: nnx.GraphDef = struct.field(pytree_node=False)
    hidden_size: int = struct.field(pytree_node=False)
    inputs: Inputs = struct.field(pytree_node=False, default="hidden+budget")
    budget_scale: int = struct.field(pytree_node=False, default=1024)
    budget_encoding: BudgetEncoding = struct.field(pytree_node=False, default="two-hot")
    argmax: bool = struct.field(pytree_node=False, default=False)

    @property
    def learns(self) -> bool:
        return True

    @property
    def sees_budget(self) -> bool:
        return self.inputs == "hidden+budget"

    def begin(self, prompt: PromptObservation, uniform: Float32[Array, " rows"]) -> Int32[Array, " rows"]:
        return jnp.zeros(uniform.shape, jnp.int32)

    def step(
        self, observation: Observation, sequence_action: Int32[Array, " rows"], uniform: Float32[Array, " rows"]
    ) -> tuple[Int32[Array, " rows"], Float[Array, "rows features"]]:
        features = self.features(observation)
        logits = self.logits(features)
        if self.argmax:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32), features
        # inverse CDF, from the same uniform for any A; the last action takes what rounding leaves
        cumulative = jnp.cumsum(jax.nn.softmax(logits, axis=-1), axis=-1)[:, :-1]
        return jnp.sum(uniform[:, None] >= cumulative, axis=-1).astype(jnp.int32), features

    def features(self, observation: Observation) -> Float[Array, "rows features"]:
        """What the MLP sees, in the hidden state's dtype.

        The hidden state is divided by its root mean square. The remaining budget is encoded as `budget_features` says.

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
            parts.append(budget_features(observation.remaining, self.budget_scale, self.budget_encoding))
        return jnp.concatenate(parts, axis=-1).astype(hidden.dtype)

    def logits(self, features: Float[Array, "*batch features"]) -> Float32[Array, "*batch actions"]:
        """Unnormalised log-probabilities of the actions."""
        return nnx.merge(self.graphdef, self.params)(features.astype(jnp.float32))


def budget_features(remaining: Int32[Array, " rows"], scale: int, encoding: BudgetEncoding) -> Float32[Array, "rows features"]:
    """The remaining budget b_t as numbers that a policy tells apart; the paper does not say how it encodes it.

    "two-hot": x = log2(1 + b_t), b_t at most `scale`, lies between two whole numbers n and n + 1, and features n and n + 1 are
    1 - (x - n) and x - n, times `BUDGET_WEIGHT`; all others are zero. What is learnt at one budget then hardly moves what is
    done at half or twice of it. The earlier ones are b_t / scale and log(1 + b_t) / log(1 + scale): as "shares" from 0 to 1,
    "centred" from -3 to 3.

    Args:
        remaining: in tokens; below 0, as in rows that have ended, counts as 0.
        scale: in tokens, see `TokenAdapter`.
        encoding: see above.

    Returns:
        `budget_width(scale, encoding)` features.
    """
    tokens = jnp.maximum(remaining, 0).astype(jnp.float32)[:, None]
    if encoding == "two-hot":
        place = jnp.log2(1.0 + jnp.minimum(tokens, scale))
        every = jnp.arange(budget_width(scale, encoding), dtype=jnp.float32)[None]
        return BUDGET_WEIGHT * jnp.maximum(0.0, 1.0 - jnp.abs(place - every))
    shares = jnp.concatenate([tokens / scale, jnp.log1p(tokens) / jnp.log1p(jnp.float32(scale))], axis=-1)
    return BUDGET_WEIGHT * (2.0 * shares - 1.0) if encoding == "centred" else shares


def budget_width(scale: int, encoding: BudgetEncoding) -> int:
    """How many numbers encode the remaining budget."""
    return scale.bit_length() + 1 if encoding == "two-hot" else 2


def token_adapter(
    hidden_size: int,
    *,
    inputs: Inputs = "hidden+budget",
    actions: SamplingParams | None = None,
    width: int = 64,
    budget_scale: int = 1024,
    budget_encoding: BudgetEncoding = "two-hot",
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
    budget = budget_width(budget_scale, budget_encoding)
    size = {"hidden+budget": hidden_size + budget, "hidden": hidden_size, "entropy": 1}[inputs]
    graphdef, params = nnx.split(MLP(size, width, len(actions), rngs=nnx.Rngs(seed)))
    return TokenAdapter(params, actions, graphdef, hidden_size, inputs, budget_scale, budget_encoding)
