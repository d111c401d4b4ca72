"""Checks that need several devices: run with JAX_NUM_CPU_DEVICES=8 by test_parallel.py, since a test process has one."""

import sys
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import adaptive_jax as aj
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.learning.lpo import Preferences, lpo_update
from adaptive_jax.learning.reinforce import Decisions, reinforce_update
from adaptive_jax.lm.sharding import DATA, MODEL
from adaptive_jax.parallel import Replicas
from adaptive_jax.policies.token import token_adapter
from tests.decoding.counting_lm import VOCABULARY, CountingLM, successor_table
from tests.policies.adapters import random_adapter

COUNTS = (3, 8)
STOP = 5


def mesh_of(count: int) -> Mesh:
    """The first `count` devices, one replica each."""
    return Mesh(np.array(jax.devices()[:count]).reshape(-1, 1), (DATA, MODEL))


def check_rollouts() -> None:
    """Ragged completions that outgrow the first ring, of prompts that no count of devices divides: the same on all counts."""
    table = successor_table(1.0)
    table[:, STOP] -= 3.0
    decoder = CountingLM(jnp.asarray(table))
    random = np.random.default_rng(0)
    prompts = [
        Prompt(f"p{n}", random.integers(0, VOCABULARY, 1 + n % 9).tolist(), int(random.choice([40, 300]))) for n in range(53)
    ]
    policy = token_adapter(2, budget_scale=300)

    def complete(decoder: CountingLM, rows: int) -> Trajectory:
        key = jax.random.key(3)
        return rollout(decoder, policy, prompts, key=key, stop_ids=[STOP], completions=3, rows=rows, chunk=8)

    reference = complete(decoder, 16)
    assert reference.lengths.max() > 192, "no completion outgrows the first ring"
    for count in COUNTS:
        replicated = Replicas(mesh_of(count)).replicate(decoder)
        rows = 10 if count == 3 else 8 * count
        assert_same(complete(replicated, rows), reference, f"{count} devices, {rows} rows")


def check_few_prompts() -> None:
    """Two prompts of five completions on eight devices: all of them decode, and what they do is the same as on one."""
    decoder = CountingLM(jnp.asarray(successor_table(1.0)))
    prompts = [Prompt("a", [1, 2], 16), Prompt("b", [3], 16)]
    options = {"key": jax.random.key(0), "stop_ids": [VOCABULARY], "completions": 5}
    reference = rollout(decoder, token_adapter(2, budget_scale=16), prompts, **options)
    found = rollout(Replicas(mesh_of(8)).replicate(decoder), token_adapter(2, budget_scale=16), prompts, **options)
    for name in ("tokens", "actions", "features"):
        np.testing.assert_array_equal(getattr(found, name), getattr(reference, name), err_msg=name)
    assert found.row_steps == 16 * 16, "some completions waited although there were replicas without any"


def check_updates() -> None:
    """13 decisions and 5 pairs, which no count of devices divides: the same gradient step as on one device, within rounding."""
    policy, optimizer = random_adapter(3, "hidden", scale=0.3), optax.sgd(1.0)
    random = np.random.default_rng(0)
    features, actions = random.normal(size=(13, 3)).astype(np.float32), random.integers(0, 4, 13)
    ones = np.ones(13, np.float32)
    batches: dict[Any, tuple[Any, ...]] = {
        reinforce_update: (Decisions(features, actions.astype(np.int32), random.normal(size=13).astype(np.float32), ones), 0.1),
        lpo_update: (
            Preferences(
                random.normal(size=(5, 4, 3)).astype(np.float32),
                random.integers(0, 4, (5, 4)).astype(np.int32),
                random.integers(-1, 2, (5, 4)).astype(np.float32),
                np.float32([1, 0, 1, 1, 0]),
            ),
        ),
    }
    for update, (batch, *rest) in batches.items():
        static = {"beta": 0.3} if update is lpo_update else {}
        rest = [jnp.float32(value) for value in rest]
        learner = (policy, optimizer.init(policy.params))
        expected = update(*learner, jax.tree.map(jnp.asarray, batch), *rest, optimizer=optimizer, **static)
        moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), expected[0].params, policy.params)
        assert max(jax.tree.leaves(moved)) > 1e-3, "the step is too small to tell anything"
        for count in COUNTS:
            found = Replicas(mesh_of(count)).update(update, learner, batch, *rest, optimizer=optimizer, **static)
            for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(left, right, rtol=0, atol=1e-6, err_msg=f"{update}, {count} devices")


def check_models() -> None:
    """The embedded model on 8 replicas, on one of two devices, and on four of two: the same texts."""
    prompts = [aj.prompt(lm := aj.load_lm("tiny"), problem) for problem in aj.load_problems("arithmetic", limit=9)]
    policy = token_adapter(lm.config.hidden_size, budget_scale=24)
    reference = aj.generate(lm, prompts, policy, n=2, max_new_tokens=24, seed=1, rows=8)
    for replicas, parts in ((8, 1), (1, 2), (4, 2)):
        mesh = Mesh(np.array(jax.devices()[: replicas * parts]).reshape(replicas, parts), (DATA, MODEL))
        found = aj.generate(aj.load_lm("tiny", mesh=mesh), prompts, policy, n=2, max_new_tokens=24, seed=1, rows=8)
        for left, right in zip(chain(*found), chain(*reference), strict=True):
            np.testing.assert_array_equal(left.tokens, right.tokens, err_msg=f"{replicas} replicas of {parts}")
            np.testing.assert_array_equal(left.actions, right.actions, err_msg=f"{replicas} replicas of {parts}")


def assert_same(found: Trajectory, reference: Trajectory, where: str) -> None:
    """All that does not tell how the work was laid out, bit for bit."""
    for name, expected in vars(reference).items():
        if name not in ("row_steps", "columns"):
            np.testing.assert_array_equal(getattr(found, name), expected, err_msg=f"{where}: {name}")


CHECKS: dict[str, Any] = {name.removeprefix("check_"): value for name, value in globals().items() if name.startswith("check_")}

if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    assert len(jax.devices()) == max(COUNTS)
    CHECKS[sys.argv[1]]()
    print("held")
