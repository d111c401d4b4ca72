"""What a policy sees and what the loop asks of it."""

from typing import Protocol

import jax
from flax import struct

from adaptive_jax.decoding.params import SamplingParams


@struct.dataclass
class Observation:
    """What is known before a token is drawn, one entry per row.

    Attributes:
        hidden: [B, D] hidden state after the final norm, which predicts the next token (e_t in the paper).
        remaining: int32 [B], token budget left, b_t = b - t, in tokens.
        budget: int32 [B], token budget b, in tokens.
        token: int32 [B], the token before; the prompt's last one at step 0.
        entropy: float32 [B], of the untempered next-token distribution, in nats.
        top_probability: float32 [B], of the untempered next-token distribution.
    """

    hidden: jax.Array
    remaining: jax.Array
    budget: jax.Array
    token: jax.Array
    entropy: jax.Array
    top_probability: jax.Array


@struct.dataclass
class PromptObservation:
    """What is known of a completion before its first token, one entry per completion.

    Attributes:
        last: [N, D] hidden state of the prompt's last token.
        mean: [N, D] mean hidden state over the prompt.
        completion: int32 [N], its index among the prompt's completions.
        samples: int32 [N], sampling budget B: how many completions the prompt gets.
        budget: int32 [N], token budget b, in tokens.
    """

    last: jax.Array
    mean: jax.Array
    completion: jax.Array
    samples: jax.Array
    budget: jax.Array


class Policy(Protocol):
    """Chooses sampling actions. A policy is a pytree: its parameters are leaves, its kind is static.

    Uniform numbers in [0, 1) are its only source of chance; the loop derives them from the completion's own key.

    Attributes:
        actions: the action space, `SamplingParams` of shape [A].
        learns: whether its steps are decisions and its features are recorded (static).
        sees_budget: whether its actions depend on the token budget (static). Where they don't, the completion at a smaller
            budget is a prefix of the one at a larger budget.
    """

    @property
    def actions(self) -> SamplingParams: ...

    @property
    def learns(self) -> bool: ...

    @property
    def sees_budget(self) -> bool: ...

    def begin(self, prompt: PromptObservation, uniform: jax.Array) -> jax.Array:
        """The action a completion holds, int32 [N], chosen before its first token; uniform is float32 [N]."""
        ...

    def step(self, observation: Observation, sequence_action: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Actions int32 [B], and the features [B, F] that they were chosen from (F = 0 where nothing is learnt).

        Args:
            observation: what is known now.
            sequence_action: int32 [B], the actions that `begin` chose.
            uniform: float32 [B].
        """
        ...
