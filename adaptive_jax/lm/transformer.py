"""The decoder-only transformer of the families Llama, Qwen2 and Qwen3, as Flax NNX modules.

One forward pass serves three uses: the whole sequence without a cache (`lm(tokens, mask)`), the prefill of
prompts, whose keys and values it returns, and one decoding step against a cache.

Keys are cached as [B, K, head_dim, S] and values as [B, K, S, head_dim]: in these layouts both of attention's
contractions run over a dimension that is not the innermost one, which XLA's CPU backend vectorises (4 to 6 times
faster there than the usual [B, S, K, head_dim] for both).

Shapes: B rows, T tokens of this call, S cache length, D hidden width, H query heads, K key/value heads, V vocabulary.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx, struct

from adaptive_jax.lm.config import LMConfig, RopeConfig

MASKED = -1e30  # finite, so that a row with nothing to attend to gives finite (unused) numbers instead of NaN


@struct.dataclass
class KVCache:
    """Keys and values of every layer; rotary position is already applied to the keys.

    Attributes:
        keys: L arrays [B, K, head_dim, S].
        values: L arrays [B, K, S, head_dim].
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]

    @classmethod
    def zeros(cls, config: LMConfig, rows: int, size: int, dtype: jnp.dtype) -> "KVCache":
        """An empty cache for `rows` rows of `size` tokens."""
        k, d = config.num_kv_heads, config.head_dim
        layers = range(config.num_layers)
        return cls(
            keys=tuple(jnp.zeros((rows, k, d, size), dtype) for _ in layers),
            values=tuple(jnp.zeros((rows, k, size, d), dtype) for _ in layers),
        )


def rope_frequencies(rope: RopeConfig, head_dim: int) -> jax.Array:
    """Rotation per position of each pair of channels: float32 [head_dim / 2], in radians.

    Source: RoFormer (arXiv 2104.09864) eq. 15; "llama3" as in the Llama 3.1 release: wavelengths longer than
    `original_max_position / low_freq_factor` are slowed by `factor`, short ones are kept, with a linear blend between.
    """
    inverse = 1.0 / rope.theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if rope.kind == "linear":
        return inverse / rope.factor
    if rope.kind == "llama3":
        wavelength = 2 * math.pi / inverse
        smooth = (rope.original_max_position / wavelength - rope.low_freq_factor) / (
            rope.high_freq_factor - rope.low_freq_factor
        )
        smooth = jnp.clip(smooth, 0.0, 1.0)
        return (1 - smooth) * inverse / rope.factor + smooth * inverse
    return inverse


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Apply rotary position to heads x [B, T, heads, head_dim]; cos and sin are float32 [B, T, 1, head_dim / 2]."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis, computed in float32 (arXiv 1910.07467 eq. 4)."""

    def __init__(self, size: int, eps: float, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.ones((size,), dtype))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))
        return normed.astype(x.dtype) * scale


class Linear(nnx.Module):
    """x @ kernel (+ bias); kernel [inputs, outputs]."""

    def __init__(self, inputs: int, outputs: int, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs):
        scale = 1.0 / math.sqrt(inputs)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (inputs, outputs), dtype) * jnp.asarray(scale, dtype))
        self.bias = nnx.Param(jnp.zeros((outputs,), dtype)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...]
        return y if self.bias is None else y + self.bias[...].reshape((1,) * (y.ndim - 1) + (-1,))


class Attention(nnx.Module):
    """Grouped-query self-attention, with RMSNorm on query and key heads where the config asks for it."""

    def __init__(self, config: LMConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        width, d = config.hidden_size, config.head_dim
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, d
        self.q = Linear(width, config.num_heads * d, config.qkv_bias, dtype, rngs)
        self.k = Linear(width, config.num_kv_heads * d, config.qkv_bias, dtype, rngs)
        self.v = Linear(width, config.num_kv_heads * d, config.qkv_bias, dtype, rngs)
        self.o = Linear(config.num_heads * d, width, config.output_bias, dtype, rngs)
        self.q_norm = RMSNorm(d, config.norm_eps, dtype) if config.qk_norm else None
        self.k_norm = RMSNorm(d, config.norm_eps, dtype) if config.qk_norm else None

    def project(self, x: jax.Array, cos: jax.Array, sin: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, T, H, d], keys [B, K, d, T] and values [B, K, T, d] of inputs x [B, T, D]."""
        rows, steps, _ = x.shape
        q = self.q(x).reshape(rows, steps, self.heads, self.head_dim)
        k = self.k(x).reshape(rows, steps, self.kv_heads, self.head_dim)
        v = self.v(x).reshape(rows, steps, self.kv_heads, self.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return q, k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)

    def attend(self, q: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array) -> jax.Array:
        """Outputs [B, T, D] of queries [B, T, H, d] over keys [B, K, d, S] and values [B, K, S, d] where mask [B, T, S]."""
        rows, steps, _, d = q.shape
        grouped = q.reshape(rows, steps, self.kv_heads, self.heads // self.kv_heads, d).transpose(0, 2, 3, 1, 4)
        scores = jnp.einsum("bkgtd,bkds->bkgts", grouped, keys, preferred_element_type=jnp.float32) / math.sqrt(d)
        scores = jnp.where(mask[:, None, None], scores, MASKED)
        weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        mixed = jnp.einsum("bkgts,bksd->bkgtd", weights, values)
        return self.o(mixed.transpose(0, 3, 1, 2, 4).reshape(rows, steps, self.heads * d))


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, config: LMConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.gate = Linear(config.hidden_size, config.intermediate_size, config.mlp_bias, dtype, rngs)
        self.up = Linear(config.hidden_size, config.intermediate_size, config.mlp_bias, dtype, rngs)
        self.down = Linear(config.intermediate_size, config.hidden_size, config.mlp_bias, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Pre-norm attention and MLP with residual connections."""

    def __init__(self, config: LMConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps, dtype)
        self.attention = Attention(config, dtype, rngs)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps, dtype)
        self.mlp = MLP(config, dtype, rngs)


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
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, dtype)
        self.head = None if config.tie_embeddings else Linear(shape[1], shape[0], False, dtype, rngs)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        cache: KVCache | None = None,
        column: jax.Array | int = 0,
    ) -> tuple[jax.Array, KVCache]:
        """Hidden states after the final norm.

        Args:
            tokens: int32 [B, T].
            positions: int32 [B, T], each token's place in its own text, from 0.
            mask: bool [B, T, S], which keys a query may see; S is T without a cache, the cache's length with one.
            cache: keys and values so far. This call's are written at columns [column, column + T).
            column: int32 scalar; without a cache it means nothing.

        Returns:
            hidden [B, T, D], and the cache: the one given with this call's columns written, or (without one)
            this call's own keys and values, S = T.
        """
        frequencies = rope_frequencies(self.config.rope, self.config.head_dim)
        angles = positions[:, :, None, None].astype(jnp.float32) * frequencies[None, None, None, :]
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        x = jnp.take(self.embedding[...], tokens, axis=0)
        all_keys, all_values = [], []
        for index, block in enumerate(self.blocks):
            q, keys, values = block.attention.project(block.attention_norm(x), cos, sin)
            if cache is not None:
                keys = jax.lax.dynamic_update_slice_in_dim(cache.keys[index], keys, column, axis=3)
                values = jax.lax.dynamic_update_slice_in_dim(cache.values[index], values, column, axis=2)
            all_keys.append(keys)
            all_values.append(values)
            x = x + block.attention.attend(q, keys, values, mask)
            x = x + block.mlp(block.mlp_norm(x))
        return self.norm(x), KVCache(keys=tuple(all_keys), values=tuple(all_values))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """LM head: hidden [..., D] -> float32 logits [..., V]."""
        kernel = self.embedding[...].T if self.head is None else self.head.kernel[...]
        return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
