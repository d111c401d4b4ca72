"""Where a completion's chance comes from: its own key and its own step, never the row, the batch or the chunk."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, Key, Shaped, UInt32

BEGIN_STEP = 2**32 - 1  # the key of what is drawn before the first token; no completion has that many steps


@jax.jit
def completion_keys(
    key: Key[Array, ""], problem: UInt32[Array, "completions 2"], completion: Int32[Array, " completions"]
) -> Key[Array, " completions"]:
    """Keys from one typed key, problem digests and completion indices; nothing else matters."""

    def one(problem: jax.Array, completion: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, problem[0]), problem[1]), completion)

    return jax.vmap(one)(problem, completion)


def uniforms(key: Key[Array, " rows"], step: Shaped[Array, " rows"], count: int) -> Float32[Array, "rows count"]:
    """`count` numbers in [0, 1): the chance of step `step` of the completions with the keys."""
    return jax.vmap(lambda k, t: jax.random.uniform(jax.random.fold_in(k, t), (count,)))(key, step.astype(jnp.uint32))
