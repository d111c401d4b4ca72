"""What is measured: a model, its shapes, and the other sides that are at hand."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.lm.config import LMConfig
from adaptive_jax.lm.decoder import TransformerDecoder
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.lm.rope import RopeConfig
from adaptive_jax.lm.transformer import Transformer
from experiments.bench.opponent import TUNIX, Opponent, Side, hf_directory

QWEN3_4B = "qwen3-4b-shape"


@dataclass(frozen=True)
class Subject:
    """A decoder under test.

    Attributes:
        name: of the model.
        config: its shape.
        decoder: on the device.
        lm: with tokenizer; None for a bare shape.
        rows, prompt_tokens, new_tokens: the batch.
        repeats: rounds in which the sides take turns.
        interpreters: of the other sides that are at hand.
    """

    name: str
    config: LMConfig
    decoder: TransformerDecoder
    lm: LM | None
    rows: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    interpreters: Mapping[str, str] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """What the model computes in."""
        return str(self.decoder.model.embedding[...].dtype)

    def prompts(self, count: int, budget: int) -> list[Prompt]:
        """`count` prompts of random tokens; the first token of each is its index."""
        tokens = np.random.default_rng(0).integers(0, self.config.vocab_size - 1, (count, self.prompt_tokens))
        tokens[:, 0] = np.arange(count)
        return [Prompt(f"prompt {index}", row.tolist(), budget) for index, row in enumerate(tokens)]

    @contextmanager
    def opponent(self, side: Side) -> Iterator[Opponent | None]:
        """The other side with the same weights, or None where it was not asked for."""
        interpreter = self.interpreters.get(side.name)
        if interpreter is None or (self.lm is None and side is TUNIX):  # which wants a tokenizer
            yield None
            return
        tokenizer = None if self.lm is None else self.lm.tokenizer
        directory = hf_directory(self.config, self.decoder.params, tokenizer)
        with directory as place, Opponent(side, interpreter, place) as opponent:
            yield opponent


def load_decoder(name: str) -> tuple[LMConfig, TransformerDecoder, LM | None]:
    """A model by its name; `qwen3-4b-shape` has Qwen3-4B's shape and random weights."""
    if name != QWEN3_4B:
        lm = load_lm(name)
        return lm.config, lm.decoder, lm
    config = qwen3_4b()
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    graphdef, _ = nnx.split(shape_of(config, dtype))
    params: nnx.State = jax.jit(lambda: nnx.state(Transformer(config, dtype=dtype, rngs=nnx.Rngs(0))))()
    return config, TransformerDecoder(params, graphdef), None


def shape_of(config: LMConfig, dtype: jnp.dtype) -> Transformer:
    """The transformer with shapes in place of arrays."""
    return nnx.eval_shape(lambda: Transformer(config, dtype=dtype, rngs=nnx.Rngs(0)))


def qwen3_4b() -> LMConfig:
    """The shape of Qwen3-4B."""
    return LMConfig(
        family="qwen3",
        vocab_size=151936,
        hidden_size=2560,
        intermediate_size=9728,
        num_layers=36,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        max_positions=40960,
        norm_eps=1e-6,
        rope=RopeConfig(theta=1e6),
        tie_embeddings=True,
        qk_norm=True,
    )
