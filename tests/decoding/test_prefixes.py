"""What prompts share is computed once: which prefixes are found, what is computed, and that no completion changes."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax.decoding import generate, prefixes
from adaptive_jax.decoding.prefixes import common_prefixes
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.lm.model import load_lm
from adaptive_jax.lm.prompts import encode, render
from adaptive_jax.policies.fixed import static
from adaptive_jax.rollouts.command import rollout as run_rollout
from adaptive_jax.rollouts.config import RolloutConfig
from adaptive_jax.tasks import arithmetic
from tests.decoding.counting_lm import VOCABULARY, CountingLM, greedy_completion, successor_table

KEY = jax.random.key(0)
SHARP = CountingLM(jnp.asarray(successor_table(50.0)))


def most_saved(prompts: list[list[int]], depth: int = 0) -> int:
    """By recursion over the tree of all prompts: one prefix for all of them, or the best for those with each next token."""
    branches: dict[int, list[list[int]]] = {}
    for prompt in prompts:
        if len(prompt) > depth + 1:
            branches.setdefault(prompt[depth], []).append(prompt)
    return max((len(prompts) - 1) * depth, sum(most_saved(branch, depth + 1) for branch in branches.values()))


@pytest.mark.parametrize("seed", range(20))
def test_prefixes_are_those_that_save_most(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(prefixes, "SHORTEST", 1)
    monkeypatch.setattr(prefixes, "MOST", 1000)
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, 2, rng.integers(1, 9)).tolist() for _ in range(12)]
    found = common_prefixes(prompts)
    own = 0
    for prompt in prompts:
        fitting = [len(prefix) for prefix in found if len(prefix) < len(prompt) and tuple(prompt[: len(prefix)]) == prefix]
        own += len(prompt) - max(fitting, default=0)
    assert sum(map(len, prompts)) - own - sum(map(len, found)) == most_saved(prompts)


def test_short_prefixes_are_left_alone_and_the_best_of_many_are_kept() -> None:
    short = [[1] * 31 + [2], [1] * 31 + [3]]
    assert common_prefixes(short) == []
    tasks = [[task] * (40 + task) + [50, n] for task in range(10) for n in range(2)]
    assert common_prefixes(tasks) == [(task,) * (40 + task) + (50,) for task in range(9, 1, -1)]


def test_a_common_beginning_of_1000_prompts_is_computed_once() -> None:
    rng = np.random.default_rng(0)
    beginning = rng.integers(0, VOCABULARY, 512).tolist()
    own = [rng.integers(0, VOCABULARY, rng.integers(1, 60)).tolist() for _ in range(1000)]
    prompts = [Prompt(str(i), beginning + tokens, 4) for i, tokens in enumerate(own)]
    done = rollout(SHARP, static(0.0), prompts, key=KEY, stop_ids=[0], completions=2, rows=128)
    assert done.prompt_tokens <= 512 + sum(map(len, own))
    for n in range(2000):
        assert done.new_tokens(n).tolist() == greedy_completion(prompts[n // 2].tokens, 4, stop=0)


def test_tasks_with_examples_of_their_own_share_theirs() -> None:
    """Three tasks with 40 to 200 tokens of examples, and prompts that share nothing, mixed in any batch."""
    rng = np.random.default_rng(1)
    tasks = [rng.integers(0, VOCABULARY, count).tolist() for count in (200, 90, 40, 0)]
    own = [rng.integers(0, VOCABULARY, rng.integers(1, 30)).tolist() for _ in range(80)]
    budgets = rng.integers(1, 40, 80).tolist()
    prompts = [Prompt(str(i), tasks[i % 4] + tokens, budgets[i]) for i, tokens in enumerate(own)]
    done = rollout(SHARP, static(0.0), prompts, key=KEY, stop_ids=[0], rows=16)
    assert done.prompt_tokens <= sum(map(len, tasks)) + sum(map(len, own))
    for n, prompt in enumerate(prompts):
        assert done.new_tokens(n).tolist() == greedy_completion(prompt.tokens, prompt.budget, stop=0)


def test_completions_do_not_depend_on_whether_prefixes_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load_lm("tiny")
    problems = arithmetic.problems("validation", 12)
    examples = [(p.question, p.answer) for p in arithmetic.problems("train", 6)]
    prompts = []
    for i, problem in enumerate(problems):
        text = render(lm.tokenizer, problem.question, examples=examples[: 6 if i % 3 else 4])
        prompts.append(Prompt(problem.id, encode(lm.tokenizer, text, lm.config.vocab_size), 24))
    options = {"key": KEY, "stop_ids": lm.stop_ids, "completions": 3, "rows": 16}
    shared = rollout(lm.decoder, static(1.0), prompts, **options)
    monkeypatch.setattr(prefixes, "MOST", 0)
    plain = rollout(lm.decoder, static(1.0), prompts, **options)
    assert plain.prompt_tokens == sum(len(prompt.tokens) for prompt in prompts) > 2 * shared.prompt_tokens
    np.testing.assert_array_equal(shared.tokens, plain.tokens)


def test_batches_and_shards_share_what_was_computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Prompt tokens of five rollouts in a row: batches of Python, then shards of the command."""
    computed = []

    def counted(*arguments: Any, **options: Any) -> Trajectory:
        done = rollout(*arguments, **options)
        computed.append(done.prompt_tokens)
        return done

    monkeypatch.setattr(generate, "rollout", counted)
    lm = load_lm("tiny")
    system = "Answer with the number alone, and nothing else. " * 3
    prompts = [f"{system}{i} + 1 =" for i in range(15)]
    own = [len(encode(lm.tokenizer, prompt, lm.config.vocab_size)) for prompt in prompts]
    system_tokens = len(encode(lm.tokenizer, system, lm.config.vocab_size))
    list(aj.rollout_batches(lm, iter(prompts), static(1.0), max_new_tokens=4, batch_size=3, logprobs=True))
    assert len(computed) == 5
    assert sum(computed) <= sum(own) - 14 * system_tokens
    computed.clear()
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(prompts))
    run_rollout(RolloutConfig(prompts=str(file), model="tiny", budget=4, completions=1, shard_size=3, out=tmp_path / "out"))
    assert len(computed) == 5
    assert sum(computed) <= sum(own) - 14 * system_tokens


def test_prefill_behind_a_prefix_is_that_of_the_whole_prompts() -> None:
    """Entries, last and mean hidden states, against the uncached forward pass."""
    lm = load_lm("tiny")
    rng = np.random.default_rng(2)
    shared = [rng.integers(3, lm.config.vocab_size - 1, count).tolist() for count in (50, 33)]
    source = np.array([0, 1, 0, -1], np.int32)
    own = [rng.integers(3, lm.config.vocab_size - 1, count).tolist() for count in (1, 32, 17, 9)]
    prompts = [(shared[s] if s >= 0 else []) + tokens for s, tokens in zip(source, own, strict=True)]

    def aligned(texts: list[list[int]], width: int) -> np.ndarray:
        return np.array([[0] * (width - len(text)) + text[-width:] for text in texts], np.int32)

    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    prefix = jax.jit(lm.decoder.prefix)(aligned(shared, 64), np.array([50, 33], np.int32))
    after = jax.jit(lm.decoder.prefill_after, static_argnums=4)
    done = after(prefix, source, aligned(prompts, 32), lengths, 128)
    plain = jax.jit(lm.decoder.prefill)(aligned(prompts, 128), lengths)
    hidden = np.asarray(lm(aligned(prompts, 128), np.arange(128)[None] >= 128 - lengths[:, None])[1])
    for row, count in enumerate(lengths):
        np.testing.assert_allclose(done.last[row], hidden[row, -1], atol=1e-5)
        np.testing.assert_allclose(done.mean[row], hidden[row, -count:].mean(axis=0), atol=1e-5)
        for layer in range(lm.config.num_layers):
            keys, values = done.cache.keys[layer], done.cache.values[layer]
            np.testing.assert_allclose(keys[row, ..., -count:], plain.cache.keys[layer][row, ..., -count:], atol=1e-5)
            np.testing.assert_allclose(values[row, :, -count:], plain.cache.values[layer][row, :, -count:], atol=1e-5)
