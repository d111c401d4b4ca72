"""Tensor parallelism: one transformer over the "model" axis of a mesh, by head (Megatron-LM, arXiv 1909.08053 section 3).

Each of N devices holds the same share of every layer: H / N query heads with their K / N key/value heads and caches, and
1 / N of the MLP's width. The projections into heads and into the MLP are split by outputs, those out of them by inputs, so a
layer needs two all-reduces of hidden states [B, T, D] and nothing else. Embedding and LM head are split over the vocabulary.

Only placement is said here: parameters and caches have a `NamedSharding`, a few constraints hold XLA to it, and the program
stays the one of a single device. It may also run inside `jax.shard_map(..., axis_names={"data"}, check_vma=False)`, where rows
are split by hand and the model by XLA. "model" must be an axis of type Auto, as `jax.sharding.Mesh` makes them by default
and `jax.make_mesh` does not.
"""

import math
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Shaped

from adaptive_jax.lm.config import LMConfig

DATA, MODEL = "data", "model"
Tree = TypeVar("Tree")

OUTPUTS = ("q", "k", "v", "gate", "up")  # kernels [inputs, outputs] and biases that are split by outputs
INPUTS = ("o", "down")  # kernels that are split by inputs; their biases are added to whole sums
FREE = P.UNCONSTRAINED  # a dimension that a constraint says nothing about, such as rows, split over "data" or not


def check_model_parallel(config: LMConfig, parts: int) -> None:
    """Raises ValueError unless `parts` devices can share the heads and the MLP of a model equally; names those that could."""
    shares = {
        "key/value heads": config.num_kv_heads,
        "query heads": config.num_heads,
        "MLP channels": config.intermediate_size,
    }
    common = math.gcd(*shares.values())
    if parts < 1 or common % parts:
        counts = ", ".join(f"{count} {name}" for name, count in shares.items())
        fitting = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise ValueError(f"--model-parallel {parts} does not divide the model's {counts}; what does: {fitting}")


def parameter_spec(path: tuple[Any, ...], shape: tuple[int, ...], parts: int) -> P:
    """How a parameter of the `Transformer` is split.

    Args:
        path: its path in the state, such as ("blocks", 0, "mlp", "up", "bias").
        shape: of the parameter.
        parts: devices along "model".
    """
    if path[0] == "embedding":
        return P(MODEL, None) if shape[0] % parts == 0 else P()
    if path[0] == "head":
        return P(None, MODEL) if shape[1] % parts == 0 else P()
    layer, kind = path[-2:]
    if layer in OUTPUTS:
        return P(None, MODEL) if kind == "kernel" else P(MODEL)
    return P(MODEL, None) if layer in INPUTS and kind == "kernel" else P()


def split_cache(cache: Tree, mesh: Mesh | None) -> Tree:
    """Holds the leaves of a cache to a split over key/value heads, inside a traced function. Does nothing without a mesh."""
    return jax.tree.map(lambda leaf: _constrain(leaf, mesh, P(FREE, MODEL, FREE, FREE)), cache)


def whole(x: Float[Array, "rows *tokens channels"], mesh: Mesh | None) -> Float[Array, "rows *tokens channels"]:
    """Holds activations to having all channels on every device along "model"."""
    return _constrain(x, mesh, P(*[FREE] * (x.ndim - 1), None))


def gathered(logits: Float[Array, "*rows vocab"], mesh: Mesh | None) -> Float[Array, "*rows vocab"]:
    """Logits, first computed in parts of the vocabulary where it divides, then given whole to every device along "model".

    What follows, the sampling kernel above all, then needs no communication. Said in two steps, because asked for whole logits
    alone, XLA may gather the LM head instead.
    """
    if mesh is not None and logits.shape[-1] % mesh.shape[MODEL] == 0:
        logits = _constrain(logits, mesh, P(*[FREE] * (logits.ndim - 1), MODEL))
    return whole(logits, mesh)


def _constrain(x: Shaped[Array, "*shape"], mesh: Mesh | None, spec: P) -> Shaped[Array, "*shape"]:
    if mesh is None or mesh.shape[MODEL] == 1:  # a program that is mapped over "data" alone may not know of "model"
        return x
    context = jax.sharding.get_abstract_mesh()  # inside shard_map: the same axes, of which some are manual
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh if context.empty else context, spec))
