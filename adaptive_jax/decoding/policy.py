"""What a policy sees and what the loop asks of it."""

from typing import Protocol

from flax import struct
from jaxtyping import Array, Float, Float32, Int32

from adaptive_jax.decoding.params import SamplingParams


@struct.dataclass
class Observation:
    """What is known before a token is drawn, one entry per row.

    Attributes:
        hidden: hidden state after the final norm, which predicts the next token (e_t in the paper).
        remaining: token budget left, b_t = b - t, in tokens.
        budget: token budget b, in tokens.
        token: the token before; the prompt's last one at step 0.
        entropy: of the untempered next-token distribution, in nats.
        top_probability: of the untempered next-token distribution.
    """

    hidden: Float[Array, "rows width"]
    remaining: Int32[Array, " rows"]
    budget: Int32[Array, " rows"]
    token: Int32[Array, " rows"]
    entropy: Float32[Array, " rows"]
    top_probability: Float32[Array, " rows"]


@struct.dataclass
class PromptObservation:
    """What is known of a completion before its first token, one entry per completion.

    Attributes:
        last: hidden state of the prompt's last token.
        mean: mean hidden state over the prompt.
        completion: its index among the prompt's completions.
        samples: sampling budget B: how many completions the prompt gets.
        budget: token budget b, in tokens.
    """

    last: Float[Array, "rows width"]
    mean: Float[Array, "rows width"]
    completion: Int32[Array, " rows"]
    samples: Int32[Array, " rows"]
    budget: Int32[Array, " rows"]


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

    def begin(self, prompt: PromptObservation, uniform: Float32[Array, " rows"]) -> Int32[Array, " rows"]:
        """The action a completion holds, chosen before its first token."""
        ...

    def step(
        self, observation: Observation, sequence_action: Int32[Array, " rows"], uniform: Float32[Array, " rows"]
    ) -> tuple[Int32[Array, " rows"], Float[Array, "rows features"]]:
        """Actions, and the features that they were chosen from (none where nothing is learnt).

        Args:
            observation: what is known now.
            sequence_action: the actions that `begin` chose.
            uniform: in [0, 1).
        """
        ...
