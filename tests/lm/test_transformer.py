"""The transformer against transformers' own float32 logits (tests/lm/golden), and its cache against no cache."""

import functools
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adaptive_jax.decoding import rings
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.rows import visible
from adaptive_jax.lm.config import LMConfig, read_json
from adaptive_jax.lm.families import FAMILIES
from adaptive_jax.lm.model import LM
from adaptive_jax.lm.transformer import KVCache
from adaptive_jax.lm.weights import load_hf, shapes
from adaptive_jax.policies.fixed import static

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/expected.npz"))
CONTINUED = [case for case in CASES if "continued" in np.load(GOLDEN / case / "expected.npz")]


@cache
def load(case: str) -> tuple[LM, dict[str, np.ndarray]]:
    context = 512 if case.endswith("_long") else None
    config, graphdef, params = load_hf(GOLDEN / case, dtype=jnp.float32, max_model_len=context)
    return LM(case, config, None, (0,), graphdef, params), dict(np.load(GOLDEN / case / "expected.npz"))


def test_golden_files_cover_every_family_and_stay_small() -> None:
    assert {LMConfig.from_hf(read_json(GOLDEN / case / "config.json"), case).family for case in CASES} == set(FAMILIES)
    assert sum(file.stat().st_size for file in GOLDEN.rglob("*")) < 3 * 2**20


@pytest.mark.parametrize("case", CASES)
def test_logits_of_left_padded_rows_match_transformers(case: str) -> None:
    lm, expected = load(case)
    logits, _ = lm(expected["tokens"], expected["mask"])
    real = expected["mask"]
    assert np.std(expected["logits"][real]) > 1.0
    np.testing.assert_allclose(np.asarray(logits)[real], expected["logits"][real], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", [case for case in CONTINUED if case != "llama_dynamic"])
def test_each_token_of_transformers_greedy_texts_is_the_best_one(case: str) -> None:
    """64 tokens of four prompts, all at once: beyond windows and original contexts."""
    lm, expected = load(case)
    continued, mask = expected["continued"], np.pad(expected["mask"], ((0, 0), (0, 63)), constant_values=True)
    logits, _ = lm(np.concatenate([expected["tokens"], continued[:, :-1]], axis=1), mask)
    np.testing.assert_array_equal(np.argmax(logits[:, -64:], axis=-1), continued)


# windows over all layers, where rings are no longer than the window, or over two kinds of layers; a base that grows with the
# text, growing queries, factors for long texts, and layers without positions
@pytest.mark.parametrize("case", ["gemma3", "llama_dynamic", "ministral3", "mistral", "phi3_long", "smollm3"])
def test_greedy_texts_are_those_of_transformers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 tokens of each prompt through two rows, from a short ring into a long one: beyond windows and original contexts."""
    monkeypatch.setattr(rings, "SHORT_BUDGET", 32)
    lm, expected = load(case)
    rows = zip(expected["tokens"], expected["mask"], strict=True)
    # the first one's budget makes room for the long ring
    prompts = [Prompt(str(n), tuple(tokens[mask].tolist()), 64 + 192 * (n == 0)) for n, (tokens, mask) in enumerate(rows)]
    done = rollout(lm.decoder, static(0.0), prompts, key=jax.random.key(0), stop_ids=[], rows=2, chunk=16)
    for n, continued in enumerate(expected["continued"]):
        np.testing.assert_array_equal(done.new_tokens(n)[:64], continued)


@pytest.mark.parametrize("case", ["gemma3", "ministral3", "phi3_long", "qwen3"])
def test_rings_that_decode_together_are_those_that_decode_alone(case: str) -> None:
    """Three rings of different sizes, rows and cursors, the second around its end."""
    decoder, random = load(case)[0].decoder, np.random.default_rng(0)
    shapes, columns, lengths = [(2, 96), (3, 64), (1, 160)], (70, 9, 130), [[70, 3], [40, 0, 63], [130]]
    caches = tuple(
        jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape), x.dtype), decoder.empty_cache(*shape))
        for shape in shapes
    )
    tokens = jnp.asarray(random.integers(1, 60, 6), jnp.int32)
    positions, cursors = [jnp.asarray(own, jnp.int32) for own in lengths], tuple(map(jnp.int32, columns))
    seen = tuple(visible(*ring, size) for *ring, (_, size) in zip(cursors, positions, shapes, strict=True))
    hidden, written = decoder.step(caches, tokens, jnp.concatenate(positions), cursors, seen)
    alone = [
        decoder.step((cache,), own, position, (cursor,), (mask,))
        for cache, own, position, cursor, mask in zip(caches, jnp.split(tokens, [2, 5]), positions, cursors, seen, strict=True)
    ]
    expected = jnp.concatenate([part for part, _ in alone]), tuple(cache for _, (cache,) in alone)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5), (hidden, written), expected)


def test_a_ring_as_long_as_the_window_of_all_layers_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of 220 tokens in rings of 64 and 96 columns, for a window of 80; a beginning of 128 is longer than both."""
    monkeypatch.setattr(rings, "SHORT_BUDGET", 32)
    golden, _ = load("mistral")
    config = replace(golden.config, window=80)
    lm = LM("mistral", config, None, (0,), nnx.split(shapes(config, jnp.dtype(jnp.float32)))[0], golden.params)
    texts = np.random.default_rng(0).integers(0, config.vocab_size, (3, 24)).tolist()
    assert [shape.size for shape in rings.ring_shapes(24, 200, 16, 2, config.reach)] == [64, 96]
    assert {shape.size for shape in rings.ring_shapes(152, 200, 16, 2, config.reach)} == {96}
    for prompts in (texts, [texts[0] * 5 + own for own in texts]):
        named = [Prompt(str(n), tuple(tokens), 200) for n, tokens in enumerate(prompts)]
        done = rollout(lm.decoder, static(0.0), named, key=jax.random.key(0), stop_ids=[], rows=2, chunk=16)
        whole = [prompt + done.new_tokens(n).tolist() for n, prompt in enumerate(prompts)]
        logits, _ = lm(np.array(whole), np.ones((3, len(whole[0])), bool))
        best = np.argmax(logits[:, len(prompts[0]) - 1 : -1], axis=-1)
        np.testing.assert_array_equal([done.new_tokens(n) for n in range(3)], best)


def test_a_beginning_that_prompts_share_changes_no_text() -> None:
    """It is computed once, apart: 40 tokens, longer than the window."""
    lm, _ = load("gemma3")
    tokens = np.random.default_rng(0).integers(0, lm.config.vocab_size, (3, 52)).tolist()
    prompts = [Prompt(str(n), tuple(tokens[0][:40] + own[40:]), 24) for n, own in enumerate(tokens)]

    def greedy(*prompts: Prompt) -> list[int]:
        done = rollout(lm.decoder, static(0.0), prompts, key=jax.random.key(0), stop_ids=[], rows=4, chunk=8)
        assert done.prompt_tokens < 3 * 52
        return done.new_tokens(0).tolist()

    assert greedy(*prompts) == greedy(prompts[0])


def test_padding_on_the_right_gives_the_same_logits() -> None:
    lm, expected = load("qwen3")
    tokens, mask = expected["tokens"], expected["mask"]
    turned = [np.roll(row, int(keep.sum()), axis=0) for row, keep in zip(tokens, mask, strict=True)]
    logits, hidden = lm(np.stack(turned), mask[:, ::-1])
    assert hidden.shape == (*tokens.shape, lm.config.hidden_size)
    np.testing.assert_allclose(np.asarray(logits)[mask[:, ::-1]], expected["logits"][mask], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["llama_linear", "qwen2_sharded", "qwen3"])  # 4, 1 and 2 query heads to a key head
def test_cached_decoding_equals_the_uncached_forward(case: str) -> None:
    """A left-padded prompt is written into a cache that begins with other columns, then tokens follow one at a time."""
    lm, expected = load(case)
    tokens, mask = jnp.asarray(expected["tokens"]), jnp.asarray(expected["mask"])
    _, whole = lm(tokens, mask)
    model = nnx.merge(lm.graphdef, lm.params)
    rows, width = tokens.shape
    before, prompt = 3, 20
    positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
    columns = jnp.pad(mask, ((0, 0), (before, 2)))  # [B, S]: a row's own columns
    arrival = jnp.arange(columns.shape[1]) - before  # the token index that each column holds

    @jax.jit
    def call(cache: KVCache, query: jax.Array) -> tuple[jax.Array, KVCache]:
        visible = columns[:, None, :] & (arrival[None, None, :] <= query[None, :, None])
        return model(tokens[:, query], positions[:, query], visible, cache, before + query[0])

    cache = KVCache.zeros(lm.config, rows, before + width + 2, jnp.float32)
    filled = jax.tree.map(lambda zeros: zeros + 7.0, cache)  # what is not a row's own must not matter
    hidden, cache = call(filled, jnp.arange(prompt))
    pieces = [hidden]
    for step in range(prompt, width):
        hidden, cache = call(cache, jnp.arange(step, step + 1))
        pieces.append(hidden)
    cached = jnp.concatenate(pieces, axis=1)
    np.testing.assert_allclose(np.asarray(cached)[mask], np.asarray(whole)[mask], rtol=0, atol=2e-5)
