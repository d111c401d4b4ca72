"""The learner's share of a training iteration: features in, gradient, update."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.learning.reinforce import leave_one_out, pad_decisions, reinforce_update
from adaptive_jax.learning.train import TrainSettings
from adaptive_jax.policies.token import token_adapter
from experiments.bench.measure import Findings
from experiments.bench.subject import Subject

COMPLETIONS = 8


def learner(subject: Subject) -> Findings:
    """Bar `learner_share`: of a rollout and the update from it; grading is left out, rewards are random."""
    adapter = token_adapter(subject.config.hidden_size, budget_scale=subject.new_tokens)
    optimizer = optax.adam(1e-3)
    opt_state = optimizer.init(adapter.params)
    prompts = subject.prompts(-(-subject.rows // COMPLETIONS), subject.new_tokens)
    shares, decisions = [], 0
    for repeat in range(subject.repeats + 1):
        start = time.perf_counter()
        done = rollout(
            subject.decoder,
            adapter,
            prompts,
            key=jax.random.key(repeat),
            stop_ids=(),
            completions=COMPLETIONS,
            rows=subject.rows,
        )
        rewards = np.random.default_rng(repeat).integers(0, 2, (len(prompts), COMPLETIONS)).astype(np.float32)
        middle = time.perf_counter()
        completion, at = np.nonzero(done.decisions)
        batch = pad_decisions(done.features, done.actions[completion, at], leave_one_out(rewards).reshape(-1)[completion])
        steps = {"optimizer": optimizer, "epochs": TrainSettings.epochs, "clip": TrainSettings.clip}
        adapter, opt_state, _ = reinforce_update(adapter, opt_state, batch, jnp.float32(0.01), **steps)
        jax.block_until_ready(adapter)
        end = time.perf_counter()
        shares.append((end - middle) / (end - start))
        decisions = len(at)
    # the first repeat compiles
    return Findings({"learner_share": float(np.median(shares[1:]))}, {"shares": shares[1:], "decisions": decisions})
