"""The decoder-only transformer of all supported families, as Flax NNX modules; `LMConfig` has its switches.

One forward pass serves three uses: the whole sequence without a cache (`lm(tokens, mask)`), the prefill of
prompts, whose keys and values it returns, and one decoding step against a cache.

Keys are cached as [rows, kv_heads, head_dim, columns] and values as [rows, kv_heads, columns, head_dim]: in these layouts
both of attention's contractions run over a dimension that is not the innermost one, which XLA's CPU backend vectorises (4 to 6
times faster there than the usual [rows, columns, kv_heads, head_dim] for both).

Axes: rows; tokens of this call; columns of the cache; width of hidden states; heads of queries, kv_heads of keys and values,
each of head_dim channels; pairs of channels that are rotated; vocab.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Float32, Int32, Shaped

from adaptive_jax.lm.config import LMConfig
from adaptive_jax.lm.rope import RopeConfig, rope_frequencies

Turns = Float32[Array, "rows tokens 1 pairs"]
Queries = Float[Array, "rows tokens heads head_dim"]
Keys = Float[Array, "rows kv_heads head_dim columns"]
Values = Float[Array, "rows kv_heads columns head_dim"]
Mask = Bool[Array, "rows tokens columns"]
Mixed = Float[Array, "rows tokens heads*head_dim"]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}
MASKED = -1e30  # finite, so that a row with nothing to attend to gives finite (unused) numbers instead of NaN
PIECE = 256  # queries that attend at a time


@struct.dataclass
class KVCache:
    """Keys and values of every layer; rotary position is already applied to the keys."""

    keys: tuple[Keys, ...]
    values: tuple[Values, ...]

    @classmethod
    def zeros(cls, config: LMConfig, rows: int, size: int, dtype: jnp.dtype) -> "KVCache":
        """An empty cache for `rows` rows of `size` tokens."""
        k, d = config.num_kv_heads, config.head_dim
        layers = range(config.num_layers)
        return cls(
            keys=tuple(jnp.zeros((rows, k, d, size), dtype) for _ in layers),
            values=tuple(jnp.zeros((rows, k, size, d), dtype) for _ in layers),
        )


class Ring(NamedTuple):
    """What some rows look at: arguments of `Transformer.__call__`."""

    mask: Mask
    cache: KVCache | None
    column: Int32[Array, ""] | int


def turns(rope: RopeConfig, head_dim: int, positions: Int32[Array, "rows tokens"]) -> tuple[Turns, Turns]:
    """cos and sin of rotary position."""
    frequencies = rope_frequencies(rope, head_dim, jnp.max(positions, axis=1) + 1)
    frequencies = frequencies[None] if frequencies.ndim == 1 else frequencies
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies[:, None, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos, sin) if rope.attention_factor == 1.0 else (cos * rope.attention_factor, sin * rope.attention_factor)


def rotate(x: Queries, cos: Turns, sin: Turns) -> Queries:
    """Apply rotary position to heads: to as many of their first channels as there are pairs for."""
    rotated = 2 * cos.shape[-1]
    first, second = jnp.split(x[..., :rotated].astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
    return turned if rotated == x.shape[-1] else jnp.concatenate([turned, x[..., rotated:]], axis=-1)


def capped(x: Float[Array, "*shape"], cap: float | None) -> Float[Array, "*shape"]:
    """Soft cap: cap * tanh(x / cap); x itself without one (Gemma 2, arXiv 2408.00118)."""
    return x if cap is None else cap * jnp.tanh(x / cap)


class RMSNorm(nnx.Module):
    """x / rms(x) * (scale + offset) over the last axis, computed in float32 (arXiv 1910.07467 eq. 4)."""

    def __init__(self, size: int, config: LMConfig, dtype: jnp.dtype):
        self.eps, self.offset = config.norm_eps, config.form.norm_offset
        self.scale = nnx.Param(jnp.full((size,), 1.0 - self.offset, dtype))

    def __call__(self, x: Float[Array, "*others size"]) -> Float[Array, "*others size"]:
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))
        if self.offset:
            return (normed * (scale.astype(jnp.float32) + self.offset)).astype(x.dtype)
        return normed.astype(x.dtype) * scale


class Linear(nnx.Module):
    """x @ kernel (+ bias); the kernel is stored [inputs, outputs]."""

    def __init__(self, inputs: int, outputs: int, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs):
        scale = 1.0 / math.sqrt(inputs)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (inputs, outputs), dtype) * jnp.asarray(scale, dtype))
        self.bias = nnx.Param(jnp.zeros((outputs,), dtype)) if bias else None

    def __call__(self, x: Float[Array, "*others inputs"]) -> Float[Array, "*others outputs"]:
        y = x @ self.kernel[...]
        return y if self.bias is None else y + self.bias[...].reshape((1,) * (y.ndim - 1) + (-1,))


class Attention(nnx.Module):
    """Grouped-query self-attention, with RMSNorm on queries and keys where the config asks for it."""

    def __init__(self, config: LMConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, d = config.hidden_size, config.head_dim
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, d
        self.scale = math.sqrt(d if config.attention_scale is None else config.attention_scale)
        self.cap, self.per_head = config.score_cap, config.form.qk_norm == "head"
        self.q = Linear(width, config.num_heads * d, config.qkv_bias, dtype, rngs)
        self.k = Linear(width, config.num_kv_heads * d, config.qkv_bias, dtype, rngs)
        self.v = Linear(width, config.num_kv_heads * d, config.qkv_bias, dtype, rngs)
        self.o = Linear(config.num_heads * d, width, config.output_bias, dtype, rngs)
        sizes = (d, d) if self.per_head else (config.num_heads * d, config.num_kv_heads * d)
        self.q_norm, self.k_norm = (RMSNorm(size, config, dtype) if config.qk_norm else None for size in sizes)

    def project(
        self,
        x: Float[Array, "rows tokens width"],
        turned: tuple[Turns, Turns] | None,
        growth: Float32[Array, "rows tokens"] | None,
    ) -> tuple[Queries, Float[Array, "rows kv_heads head_dim tokens"], Float[Array, "rows kv_heads tokens head_dim"]]:
        """Queries, keys and values.

        Args:
            x: inputs.
            turned: cos and sin of rotary position (see `rotate`); None for a layer without it.
            growth: factors of the queries, or None.
        """
        rows, steps, _ = x.shape
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.q_norm is not None and self.k_norm is not None and not self.per_head:
            q, k = self.q_norm(q), self.k_norm(k)
        q = q.reshape(rows, steps, self.heads, self.head_dim)
        k, v = (part.reshape(rows, steps, self.kv_heads, self.head_dim) for part in (k, v))
        if self.q_norm is not None and self.k_norm is not None and self.per_head:
            q, k = self.q_norm(q), self.k_norm(k)
        if turned is not None:
            q, k = rotate(q, *turned), rotate(k, *turned)
        if growth is not None:
            q = (q.astype(jnp.float32) * growth[:, :, None, None]).astype(q.dtype)
        return q, k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)

    def mixed(self, q: Queries, keys: Keys, values: Values, mask: Mask) -> Mixed:
        """The heads' mixtures, side by side, of those values that the mask lets each query see.

        Of more than `PIECE` queries so many are taken at a time: all scores of long prompts would be larger than the model.
        """
        steps = q.shape[1]
        if steps <= PIECE:
            return self._mixed(q, keys, values, mask)

        def pieces(x: Shaped[Array, "rows tokens *rest"]) -> Shaped[Array, "pieces rows piece *rest"]:
            """What fills the last piece up sees nothing, and is cut off in the end."""
            filled = jnp.pad(x, [(0, -steps % PIECE if axis == 1 else 0) for axis in range(x.ndim)])
            return jnp.moveaxis(filled.reshape(len(x), -1, PIECE, *x.shape[2:]), 1, 0)

        mixed = jax.lax.map(lambda part: self._mixed(part[0], keys, values, part[1]), (pieces(q), pieces(mask)))
        return jnp.moveaxis(mixed, 0, 1).reshape(len(q), -1, mixed.shape[-1])[:, :steps]

    def _mixed(self, q: Queries, keys: Keys, values: Values, mask: Mask) -> Mixed:
        rows, steps, _, d = q.shape
        grouped = q.reshape(rows, steps, self.kv_heads, self.heads // self.kv_heads, d).transpose(0, 2, 3, 1, 4)
        scores = jnp.einsum("bkgtd,bkds->bkgts", grouped, keys, preferred_element_type=jnp.float32) / self.scale
        scores = jnp.where(mask[:, None, None], capped(scores, self.cap), MASKED)
        weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        mixed = jnp.einsum("bkgts,bksd->bkgtd", weights, values)
        return mixed.transpose(0, 3, 1, 2, 4).reshape(rows, steps, self.heads * d)


class MLP(nnx.Module):
    """A gated MLP: down(activation(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, config: LMConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.activation = ACTIVATIONS[config.activation]
        self.gate = Linear(config.hidden_size, config.intermediate_size, config.mlp_bias, dtype, rngs)
        self.up = Linear(config.hidden_size, config.intermediate_size, config.mlp_bias, dtype, rngs)
        self.down = Linear(config.intermediate_size, config.hidden_size, config.mlp_bias, dtype, rngs)

    def __call__(self, x: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Attention and MLP with residual connections, and norms before them, after them or both."""

    def __init__(self, config: LMConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        before, after = (
            [RMSNorm(config.hidden_size, config, dtype) if config.form.norms in (place, "both") else None for _ in range(2)]
            for place in ("before", "after")
        )
        self.attention_norm, self.mlp_norm = before
        self.attention_post_norm, self.mlp_post_norm = after
        self.attention = Attention(config, dtype, rngs)
        self.mlp = MLP(config, dtype, rngs)


def normed(norm: RMSNorm | None, x: Float[Array, "rows tokens width"]) -> Float[Array, "rows tokens width"]:
    """The norm of x, or x where there is none."""
    return x if norm is None else norm(x)


class Transformer(nnx.Module):
    """Embedding, L blocks, final norm and LM head.

    Args:
        config: the shape.
        dtype: dtype of parameters and matmuls; norms, rotary position and softmax are computed in float32.
        rngs: for the initial values (a stream named "params").
    """

    def __init__(self, config: LMConfig, *, dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        scale = jnp.asarray(0.02, dtype)
        shape = (config.vocab_size, config.hidden_size)
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), shape, dtype) * scale)
        self.blocks = nnx.List([Block(config, dtype, rngs) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.hidden_size, config, dtype)
        self.head = None if config.tie_embeddings else Linear(shape[1], shape[0], False, dtype, rngs)

    def __call__(
        self,
        tokens: Int32[Array, "rows tokens"],
        positions: Int32[Array, "rows tokens"],
        mask: Mask,
        cache: KVCache | None = None,
        column: Int32[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "rows tokens width"], KVCache]:
        """Hidden states after the final norm, and the cache.

        Args:
            tokens: ids.
            positions: each token's place in its own text, from 0.
            mask: which keys a query may see; without a cache the columns are this call's tokens.
            cache: keys and values so far. This call's are written from `column` on.
            column: without a cache it means nothing.

        Returns:
            Hidden states, and the cache: the one given with this call's columns written, or (without one) this call's own keys
            and values.
        """
        hidden, (cache,) = self.over_rings(tokens, positions, [Ring(mask, cache, column)])
        return hidden, cache

    def over_rings(
        self, tokens: Int32[Array, "rows tokens"], positions: Int32[Array, "rows tokens"], rings: Sequence[Ring]
    ) -> tuple[Float[Array, "rows tokens width"], tuple[KVCache, ...]]:
        """The same where the rows, in order, belong to several rings: all is computed together but what looks at a cache."""
        config = self.config
        turned = turns(config.rope, config.head_dim, positions)
        local = turned if config.local_rope is None else turns(config.local_rope, config.head_dim, positions)
        growth, near = self._query_growth(positions), [self._in_window(ring.mask, ring.column) for ring in rings]
        x = jnp.take(self.embedding[...], tokens, axis=0)
        if config.form.scaled_embedding:
            x = x * jnp.asarray(math.sqrt(config.hidden_size), x.dtype)
        ends = list(itertools.accumulate(len(ring.mask) for ring in rings))[:-1]
        all_keys: list[list[Keys]] = [[] for _ in rings]
        all_values: list[list[Values]] = [[] for _ in rings]
        for index, block in enumerate(self.blocks):
            slides = bool(config.sliding) and config.sliding[index]
            rotary = None if config.unrotated and config.unrotated[index] else local if slides else turned
            projected = block.attention.project(normed(block.attention_norm, x), rotary, growth)
            parts, mixed = (jnp.split(part, ends) for part in projected), []
            for place, (ring, q, keys, values) in enumerate(zip(rings, *parts, strict=True)):
                if ring.cache is not None:
                    keys = jax.lax.dynamic_update_slice_in_dim(ring.cache.keys[index], keys, ring.column, axis=3)
                    values = jax.lax.dynamic_update_slice_in_dim(ring.cache.values[index], values, ring.column, axis=2)
                all_keys[place].append(keys)
                all_values[place].append(values)
                mixed.append(block.attention.mixed(q, keys, values, near[place] if slides else ring.mask))
            x = x + normed(block.attention_post_norm, block.attention.o(jnp.concatenate(mixed)))
            x = x + normed(block.mlp_post_norm, block.mlp(normed(block.mlp_norm, x)))
        caches = (KVCache(tuple(keys), tuple(values)) for keys, values in zip(all_keys, all_values, strict=True))
        return self.norm(x), tuple(caches)

    def _in_window(self, mask: Mask, column: Int32[Array, ""] | int) -> Mask:
        """The mask of sliding layers. A text lies in one run of columns, around the ring's end too: columns tell age."""
        if self.config.window is None:
            return mask
        _, steps, size = mask.shape
        age = (column + jnp.arange(steps, dtype=jnp.int32)[:, None] - jnp.arange(size, dtype=jnp.int32)[None]) % size
        return mask & (age < self.config.window)[None]

    def _query_growth(self, positions: Int32[Array, "rows tokens"]) -> Float32[Array, "rows tokens"] | None:
        """What queries are multiplied by, as in transformers' Ministral 3; None for nothing."""
        if not self.config.query_growth:
            return None
        spans = jnp.floor(positions.astype(jnp.float32) / self.config.rope.original_max_position)
        return 1.0 + self.config.query_growth * jnp.log1p(spans)

    def logits(self, hidden: Float[Array, "*others width"]) -> Float32[Array, "*others vocab"]:
        """The LM head."""
        kernel = self.embedding[...].T if self.head is None else self.head.kernel[...]
        return capped(jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32), self.config.logit_cap)
