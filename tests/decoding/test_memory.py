"""What a rollout is said to need against what XLA reports of the compiled loop."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adaptive_jax.__main__ import Memory
from adaptive_jax.decoding import loop
from adaptive_jax.decoding.memory import memory
from adaptive_jax.decoding.rollout import ring_sizes
from adaptive_jax.lm.config import LMConfig
from adaptive_jax.lm.decoder import TransformerDecoder
from adaptive_jax.lm.model import load_config
from adaptive_jax.lm.transformer import Transformer
from adaptive_jax.policies.fixed import static

TINY = load_config("tiny")
WIDE_HEAD = dataclasses.replace(TINY, vocab_size=16384, num_layers=2)  # where logits are more than a third of all


@pytest.mark.parametrize(("config", "rows", "budget"), [(TINY, 128, 96), (WIDE_HEAD, 64, 200)])
def test_the_need_is_within_a_tenth_of_what_xla_reports(config: LMConfig, rows: int, budget: int) -> None:
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    decoder = TransformerDecoder(params, graphdef)
    hidden = jax.ShapeDtypeStruct((1, config.hidden_size), jnp.float32)
    _, size = ring_sizes(40, budget, 16)
    empty = functools.partial(loop.empty_state, rows=rows, size=size)
    state = jax.eval_shape(empty, decoder, jax.eval_shape(lambda: jax.random.key(0)), hidden)
    chunk = jax.jit(functools.partial(loop.decode_chunk, size=size, chunk=16), donate_argnums=3)
    program = chunk.lower(decoder, static(temperature=0.7), np.array([1], np.int32), state, jnp.int32(0)).compile()
    report = program.memory_analysis()
    reported = report.argument_size_in_bytes + report.temp_size_in_bytes
    need = memory(config, rows=rows, prompt=40, budget=budget, dtype=jnp.dtype(jnp.float32))
    assert need.decoding == pytest.approx(reported, rel=0.1)
    assert need.weights == sum(leaf.size * 4 for leaf in jax.tree.leaves(params))


def test_a_ring_that_grows_is_counted_and_a_text_beyond_the_context_refused() -> None:
    need = functools.partial(memory, TINY, rows=8, prompt=60, dtype=jnp.dtype(jnp.bfloat16))
    small, large = need(budget=64), need(budget=800)
    assert (small.growth, small.most) == (0, small.decoding)
    assert large.growth > 0
    assert large.most > large.decoding
    with pytest.raises(ValueError, match="a prompt of 60 tokens and a budget of 1000 exceed the model's context of 1024"):
        need(budget=1000)


def test_the_verb_says_what_the_function_counts() -> None:
    text, sound = Memory("tiny", rows=256, budget=512, prompt=64, dtype="float32")()
    need = memory(TINY, rows=256, prompt=64, budget=512, dtype=jnp.dtype(jnp.float32))
    assert sound
    assert "tiny: 256 rows of 64 + 512 tokens, float32" in text
    assert f"{need.most / 2**30:.3f} GiB" in text.splitlines()[-1]
