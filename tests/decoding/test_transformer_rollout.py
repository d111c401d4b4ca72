"""The loop with a real transformer: ring, refill and prefill against the uncached forward pass and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptive_jax.decoding import rings
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.lm.prompts import encode, render
from adaptive_jax.lm.transformer import KVCache
from adaptive_jax.policies.fixed import static
from adaptive_jax.policies.token import token_adapter
from adaptive_jax.tasks import arithmetic


@pytest.fixture(scope="module")
def tiny() -> LM:
    return load_lm("tiny")


def prompts_of(lm: LM, budgets: list[int]) -> list[Prompt]:
    problems = arithmetic.problems("validation", len(budgets))
    texts = [render(lm.tokenizer, problem.question) for problem in problems]
    return [
        Prompt(p.id, encode(lm.tokenizer, t, lm.config.vocab_size), b) for p, t, b in zip(problems, texts, budgets, strict=True)
    ]


def test_greedy_completions_are_those_of_the_uncached_forward_pass(tiny: LM) -> None:
    """11 prompts through 3 rows: rows are refilled at many cursors, past the ring's end too."""
    prompts = prompts_of(tiny, [7, 30, 12, 25, 3, 18, 30, 9, 22, 30, 14])
    done = rollout(tiny.decoder, static(0.0), prompts, key=jax.random.key(0), stop_ids=tiny.stop_ids, rows=3, chunk=5)
    size = 64  # room for the longest prompt and completion
    texts = [list(prompt.tokens) for prompt in prompts]
    alive = [True] * len(prompts)
    while any(alive):
        tokens = np.zeros((len(texts), size), np.int32)
        mask = np.zeros((len(texts), size), bool)
        for row, text in enumerate(texts):
            tokens[row, : len(text)], mask[row, : len(text)] = text, True
        logits = np.asarray(tiny(tokens, mask)[0])
        for row, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
            if alive[row]:
                text.append(int(logits[row, len(text) - 1].argmax()))
                alive[row] = text[-1] not in tiny.stop_ids and len(text) < len(prompt.tokens) + prompt.budget
    for n, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        assert done.new_tokens(n).tolist() == text[len(prompt.tokens) :]


def test_sampled_completions_do_not_depend_on_company(tiny: LM) -> None:
    prompts = prompts_of(tiny, [40, 25, 40, 10, 33, 40])
    adapter = token_adapter(tiny.config.hidden_size, budget_scale=40)
    options = {"key": jax.random.key(1), "stop_ids": tiny.stop_ids, "completions": 2}
    together = rollout(tiny.decoder, adapter, prompts, rows=12, chunk=16, **options)
    few_rows = rollout(tiny.decoder, adapter, prompts[::-1], rows=5, chunk=7, **options)
    for index in range(6):
        for j in range(2):
            np.testing.assert_array_equal(
                together.new_tokens(2 * index + j), few_rows.new_tokens(2 * (5 - index) + j), err_msg=f"{index} {j}"
            )


def test_completions_that_outgrow_their_ring_go_on_in_the_next_one(tiny: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ring has 96 columns and the second 160; a chunk of 100 steps leaves only that one."""
    monkeypatch.setattr(rings, "SHORT_BUDGET", 64)
    prompts = prompts_of(tiny, [100] * 6)
    options = {"key": jax.random.key(1), "stop_ids": tiny.stop_ids, "rows": 3}
    plain = rollout(tiny.decoder, static(0.5), prompts, chunk=100, **options)
    moved = rollout(tiny.decoder, static(0.5), prompts, chunk=16, **options)
    assert plain.lengths.min() < 64 < plain.lengths.max()
    assert moved.columns < plain.columns
    for n in range(6):
        np.testing.assert_array_equal(moved.new_tokens(n), plain.new_tokens(n))


def filled_cache(lm: LM, rows: int, size: int, seed: int) -> KVCache:
    rng = np.random.default_rng(seed)
    empty = KVCache.zeros(lm.config, rows, size, jnp.float32)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), empty)


@pytest.mark.parametrize("width", [4, 9])
def test_move_takes_all_entries_at_every_cursor(tiny: LM, width: int) -> None:
    """From a ring of `width` columns behind each cursor of one of 9, against NumPy's modular indexing."""
    size, source = 9, np.array([-1, 2, -1, 0], np.int32)
    ring, target = filled_cache(tiny, 3, width, 0), filled_cache(tiny, 4, size, 1)
    move = jax.jit(tiny.decoder.move)
    for cursor in range(size):
        own = cursor % width
        done = move(ring, jnp.int32(own), target, jnp.int32(cursor), jnp.asarray(source))
        columns, given = (cursor - width + np.arange(width)) % size, (own + np.arange(width)) % width
        for layer in range(tiny.config.num_layers):
            keys, values = np.array(target.keys[layer]), np.array(target.values[layer])
            for row in np.flatnonzero(source >= 0):
                keys[row][:, :, columns] = np.asarray(ring.keys[layer])[source[row]][:, :, given]
                values[row][:, columns] = np.asarray(ring.values[layer])[source[row]][:, given]
            np.testing.assert_array_equal(done.keys[layer], keys)
            np.testing.assert_array_equal(done.values[layer], values)


def test_insert_writes_behind_every_cursor(tiny: LM) -> None:
    """Each cursor of a ring of 9 columns, prompts of width 4, against NumPy's modular indexing."""
    config = tiny.config
    size, width, rows = 9, 4, 5
    source = np.array([2, -1, 0, 2, -1], np.int32)
    ring, prompts = filled_cache(tiny, rows, size, 0), filled_cache(tiny, 3, width, 1)
    insert = jax.jit(tiny.decoder.insert)
    for cursor in range(size):
        done = insert(ring, prompts, jnp.asarray(source), jnp.int32(cursor))
        columns = (cursor - width + np.arange(width)) % size
        for layer in range(config.num_layers):
            keys, values = np.array(ring.keys[layer]), np.array(ring.values[layer])
            for row in np.flatnonzero(source >= 0):
                keys[row][:, :, columns] = np.asarray(prompts.keys[layer])[source[row]]
                values[row][:, columns] = np.asarray(prompts.values[layer])[source[row]]
            np.testing.assert_array_equal(done.keys[layer], keys)
            np.testing.assert_array_equal(done.values[layer], values)
