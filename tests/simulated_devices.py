"""Checks that need several devices: run with JAX_NUM_CPU_DEVICES=8 by test_parallel.py, since a test process has one."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.parallel import DATA, MODEL, Lanes
from adaptive_jax.policies.token import token_adapter
from tests.decoding.counting_lm import VOCABULARY, CountingLM, successor_table

COUNTS = (2, 4, 8)
STOP = 5


def mesh_of(count: int) -> Mesh:
    """The first `count` devices, one lane each."""
    return Mesh(np.array(jax.devices()[:count]).reshape(-1, 1), (DATA, MODEL))


def check_rollouts() -> None:
    """Ragged completions that outgrow the short ring, in numbers that no count of devices divides: the same on all counts."""
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
    assert reference.lengths.max() > 150, "no completion outgrows the short ring"
    for count in COUNTS:
        replicated = Lanes(mesh_of(count)).replicate(decoder)
        for rows in (8 * count, 10):
            assert_same(complete(replicated, rows), reference, f"{count} devices, {rows} rows")


def assert_same(found: Trajectory, reference: Trajectory, where: str) -> None:
    """All that does not tell how the work was laid out, bit for bit."""
    for name, expected in vars(reference).items():
        if name != "row_steps":
            np.testing.assert_array_equal(getattr(found, name), expected, err_msg=f"{where}: {name}")


CHECKS: dict[str, Any] = {name.removeprefix("check_"): value for name, value in globals().items() if name.startswith("check_")}

if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    assert len(jax.devices()) == max(COUNTS)
    CHECKS[sys.argv[1]]()
    print("held")
