"""Policies that hold one action for a whole completion and learn nothing: static, mixed, and each action in turn."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Float32, Int32

from adaptive_jax.decoding.params import SamplingParams, Value
from adaptive_jax.decoding.policy import Observation, PromptObservation


@struct.dataclass
class MixedPolicy:
    """An action drawn uniformly per completion and held to its end; with a single action, a static policy.

    Attributes:
        actions: the action space, `SamplingParams` of shape [A].
    """

    actions: SamplingParams

    @property
    def learns(self) -> bool:
        return False

    @property
    def sees_budget(self) -> bool:
        return False

    def begin(self, prompt: PromptObservation, uniform: Float32[Array, " rows"]) -> Int32[Array, " rows"]:
        count = len(self.actions)
        return jnp.minimum((uniform * count).astype(jnp.int32), count - 1)

    def step(
        self, observation: Observation, sequence_action: Int32[Array, " rows"], uniform: Float32[Array, " rows"]
    ) -> tuple[Int32[Array, " rows"], Float[Array, "rows features"]]:
        return sequence_action, jnp.zeros((sequence_action.shape[0], 0), jnp.float32)


@struct.dataclass
class InTurn(MixedPolicy):
    """Completion j of a prompt holds action j mod A: all actions of a prompt are scored in one rollout of A * G completions."""

    def begin(self, prompt: PromptObservation, uniform: Float32[Array, " rows"]) -> Int32[Array, " rows"]:
        return jnp.mod(prompt.completion, len(self.actions))


def static(temperature: Value = 1.0, top_k: Value = 0, top_p: Value = 1.0, min_p: Value = 0.0) -> MixedPolicy:
    """One setting for every step of every completion (scalars; see `SamplingParams`, whose errors it raises)."""
    return MixedPolicy(SamplingParams.stack([SamplingParams(temperature, top_k, top_p, min_p)]))


def mixed(settings: Sequence[SamplingParams]) -> MixedPolicy:
    """A setting drawn uniformly per completion (the paper's mixed static baseline)."""
    return MixedPolicy(SamplingParams.stack(settings))
