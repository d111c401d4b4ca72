"""The hand-written schedules for the embedded models, an upper row beside the learnt adapters."""

import jax.numpy as jnp

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.lm.model import LM
from adaptive_jax.policies.schedule import OpeningSchedule, TokenSchedule

WORKED = 13  # tokens of a worked answer of `fork`, the stop token included
OPENINGS = {"forks": 1, "fork_programs": 2}  # a program's first token opens its block
PROGRAM = 20  # tokens of a program that works step by step


def hand_written(dataset: str, lm: LM) -> Policy | None:
    """What a person who knows the embedded model's texts would write; None for another model or data set.

    `tiny` on arithmetic: hot (1.25) where a line of working has ended and the text forks, greedy everywhere else. `fork`: hot
    where an answer begins, if the budget holds a worked one, and greedy everywhere else.
    """
    actions = SamplingParams.stack([SamplingParams(0.0), SamplingParams(1.25)])
    if lm.name == "tiny" and dataset == "arithmetic":
        (line_end,) = lm.tokenizer.encode("\n", add_special_tokens=False)
        return TokenSchedule(actions, jnp.asarray([line_end], jnp.int32))
    if lm.name == "fork" and dataset in OPENINGS:
        return OpeningSchedule(actions, OPENINGS[dataset], PROGRAM if dataset == "fork_programs" else WORKED)
    return None
