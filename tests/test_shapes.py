"""Signatures state shapes: the tests check them, and outside tests nothing does."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from adaptive_jax.decoding.policy import Observation
from adaptive_jax.lm.transformer import KVCache, rotate
from adaptive_jax.policies.token import budget_features


def observation(budgets: int) -> Observation:
    counts, values = jnp.zeros(3, jnp.int32), jnp.zeros(3, jnp.float32)
    return Observation(jnp.zeros((3, 4)), counts, jnp.zeros(budgets, jnp.int32), counts, values, values)


def test_other_shapes_and_dtypes_than_stated_raise() -> None:
    with pytest.raises(TypeCheckError, match="'remaining'"):
        budget_features(jnp.zeros(3, jnp.float32), 4, "shares")
    with pytest.raises(TypeCheckError, match="'budget'"):
        observation(budgets=4)
    with pytest.raises(TypeCheckError, match="'cos'"):
        rotate(jnp.zeros((2, 3, 4, 8)), jnp.zeros((2, 3, 4, 4)), jnp.zeros((2, 3, 1, 4)))
    with pytest.raises(TypeCheckError, match="'values'"):
        KVCache(keys=(jnp.zeros((2, 1, 4, 8)),), values=(jnp.zeros((2, 1, 4, 8)),))


def test_what_jax_puts_into_structs_is_no_error() -> None:
    jax.tree.map(lambda leaf: None, observation(budgets=3))
    stacked = jax.vmap(lambda row: jax.tree.map(lambda leaf: leaf + 0, row))(observation(budgets=3))
    assert stacked.hidden.shape == (3, 4)


def test_nothing_is_checked_outside_tests() -> None:
    code = (
        "import sys; import adaptive_jax as aj; from adaptive_jax.policies.token import budget_features as f;"
        "assert not hasattr(f, '__wrapped__') and 'beartype' not in sys.modules; aj.static(0.5)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
