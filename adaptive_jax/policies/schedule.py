"""Hand-written schedules: one action where a person would take it, another everywhere else."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Float32, Int32

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Observation, PromptObservation


@struct.dataclass
class TokenSchedule:
    """The last action of the space where the token before is one of `triggers`, the first action elsewhere.

    What a person who knows the texts would write by hand; the yardstick for what is there to be learnt.

    Attributes:
        actions: the action space, shape [A].
        triggers: token ids.
    """

    actions: SamplingParams
    triggers: Int32[Array, " tokens"]

    @property
    def learns(self) -> bool:
        return False

    @property
    def sees_budget(self) -> bool:
        return False

    def begin(self, prompt: PromptObservation, uniform: Float32[Array, " rows"]) -> Int32[Array, " rows"]:
        return jnp.zeros(uniform.shape, jnp.int32)

    def step(
        self, observation: Observation, sequence_action: Int32[Array, " rows"], uniform: Float32[Array, " rows"]
    ) -> tuple[Int32[Array, " rows"], Float[Array, "rows features"]]:
        triggered = jnp.any(observation.token[:, None] == self.triggers[None, :], axis=1)
        action = jnp.where(triggered, len(self.actions) - 1, 0).astype(jnp.int32)
        return action, jnp.zeros((sequence_action.shape[0], 0), jnp.float32)


@struct.dataclass
class OpeningSchedule:
    """The last action of the space for a completion's first tokens where its budget allows it, the first action elsewhere.

    Attributes:
        actions: the action space, shape [A].
        opening: so many first tokens (static).
        least: the smallest token budget at which they get the last action, in tokens (static).
    """

    actions: SamplingParams
    opening: int = struct.field(pytree_node=False)
    least: int = struct.field(pytree_node=False)

    @property
    def learns(self) -> bool:
        return False

    @property
    def sees_budget(self) -> bool:
        return True

    def begin(self, prompt: PromptObservation, uniform: Float32[Array, " rows"]) -> Int32[Array, " rows"]:
        return jnp.zeros(uniform.shape, jnp.int32)

    def step(
        self, observation: Observation, sequence_action: Int32[Array, " rows"], uniform: Float32[Array, " rows"]
    ) -> tuple[Int32[Array, " rows"], Float[Array, "rows features"]]:
        first = observation.remaining > observation.budget - self.opening
        allowed = first & (observation.budget >= self.least)
        action = jnp.where(allowed, len(self.actions) - 1, 0).astype(jnp.int32)
        return action, jnp.zeros((sequence_action.shape[0], 0), jnp.float32)
