"""Prompts of more tokens than attend at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptive_jax.lm import transformer
from adaptive_jax.lm.decoder import Prefill
from adaptive_jax.lm.model import LM, load_lm

LENGTHS = (600, 300, 1)


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_lm("tiny")


def prefilled(lm: LM, columns: int) -> Prefill:
    """Prompts of `LENGTHS`, right-aligned in so many columns; compiled anew, whatever `PIECE` was before."""
    tokens = np.random.default_rng(0).integers(0, lm.config.vocab_size, (len(LENGTHS), 600))
    held = np.arange(600) >= 600 - np.array(LENGTHS)[:, None]
    given = np.pad(np.where(held, tokens, 0), ((0, 0), (columns - 600, 0))).astype(np.int32)
    return jax.jit(lambda t, n: lm.decoder.prefill(t, n))(given, jnp.array(LENGTHS, jnp.int32))


@pytest.mark.parametrize("columns", [768, 601])
def test_pieces_come_to_what_all_queries_at_once_do(lm: LM, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last piece is filled up; padding in the columns before a short prompt tells nothing."""
    in_pieces = prefilled(lm, columns)
    monkeypatch.setattr(transformer, "PIECE", 4096)
    at_once = prefilled(lm, 600)
    for name in ("last", "mean"):
        np.testing.assert_allclose(getattr(in_pieces, name), getattr(at_once, name), atol=2e-5, rtol=0)
    for row, length in enumerate(LENGTHS):
        for ours, theirs in zip(in_pieces.cache.keys, at_once.cache.keys, strict=True):
            np.testing.assert_allclose(ours[row, :, :, -length:], theirs[row, :, :, -length:], atol=2e-5, rtol=0)
        for ours, theirs in zip(in_pieces.cache.values, at_once.cache.values, strict=True):
            np.testing.assert_allclose(ours[row, :, -length:], theirs[row, :, -length:], atol=2e-5, rtol=0)


def test_no_scores_of_all_queries_are_in_memory(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what XLA reserves for a prompt of 2048 tokens."""
    tokens, lengths = jnp.zeros((1, 2048), jnp.int32), jnp.array([2048], jnp.int32)

    def reserved() -> int:
        compiled = jax.jit(lambda t, n: lm.decoder.prefill(t, n)).lower(tokens, lengths).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    scores = lm.config.num_heads * 2048 * 2048 * 4
    assert reserved() < scores
    monkeypatch.setattr(transformer, "PIECE", 4096)
    assert reserved() > scores
