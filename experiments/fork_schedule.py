"""The hand-written schedule for the embedded model, an upper row beside the learnt adapters."""

import jax.numpy as jnp

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.lm.model import LM
from adaptive_jax.policies.schedule import TokenSchedule


def fork_schedule(lm: LM) -> TokenSchedule:
    """For the embedded model: hot (1.25) where a line of working has ended and the text forks, greedy everywhere else."""
    (line_end,) = lm.tokenizer.encode("\n", add_special_tokens=False)
    actions = SamplingParams.stack([SamplingParams(0.0), SamplingParams(1.25)])
    return TokenSchedule(actions, jnp.asarray([line_end], jnp.int32))
