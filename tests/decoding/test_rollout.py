"""The loop against a language model whose right answer is known in closed form."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from adaptive_jax.decoding import loop
from adaptive_jax.decoding import rings as rings_module
from adaptive_jax.decoding import rollout as rollout_module
from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import PromptObservation
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.queue import Waiting
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.rows import DecodeState
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.policies.fixed import MixedPolicy, mixed, static
from adaptive_jax.policies.token import TokenAdapter, token_adapter
from tests.decoding.counting_lm import VOCABULARY, CountingLM, greedy_completion, successor_table

STOP = 5
SHARP = CountingLM(jnp.asarray(successor_table(50.0)))
SOFT = CountingLM(jnp.asarray(successor_table(1.0)))
KEY = jax.random.key(3)


def some_prompts(count: int, seed: int = 0) -> list[Prompt]:
    rng = np.random.default_rng(seed)
    return [
        Prompt(f"problem {i}", rng.integers(0, VOCABULARY, rng.integers(1, 40)).tolist(), int(rng.integers(1, 70)))
        for i in range(count)
    ]


def always(action: int) -> TokenAdapter:
    """A token adapter that picks one action, whatever it sees."""
    adapter = token_adapter(2, inputs="hidden+budget", budget_scale=70)
    bias = adapter.params["last"]["bias"]
    adapter.params["last"]["bias"] = bias.replace(jnp.where(jnp.arange(4) == action, 40.0, 0.0))
    return adapter


def assert_same(left: Trajectory, right: Trajectory) -> None:
    for field in dataclasses.fields(Trajectory):
        if field.name not in ("row_steps", "columns", "prompt_tokens"):
            np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name), err_msg=field.name)


@pytest.mark.parametrize(("rows", "chunk"), [(1, 7), (4, 16), (64, 5)])
def test_greedy_completions_are_those_of_plain_arithmetic(rows: int, chunk: int) -> None:
    prompts = some_prompts(17)
    done = rollout(SHARP, static(0.0), prompts, key=KEY, stop_ids=[STOP], completions=2, rows=rows, chunk=chunk)
    for n in range(34):
        prompt = prompts[n // 2]
        expected = greedy_completion(prompt.tokens, prompt.budget, STOP)
        assert done.new_tokens(n).tolist() == expected
        assert done.stopped[n] == (expected[-1] == STOP)
        assert done.budgets[n] == prompt.budget


def test_completions_move_into_longer_rings_and_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same as in one ring from start to end."""
    table = successor_table(1.0)
    table[:, STOP] -= 3.0
    decoder = CountingLM(jnp.asarray(table))
    prompts = [dataclasses.replace(prompt, budget=400) for prompt in some_prompts(160)]
    settings = [SamplingParams(1.0), SamplingParams(2.0)]
    rings = []
    empty_state = rings_module.empty_state

    def spy(*args: Any, rows: int, size: int) -> DecodeState:
        rings.append((rows, size))
        return empty_state(*args, rows=rows, size=size)

    together = set()
    decode_chunk = loop.decode_chunk

    def chunk_spy(*args: Any, sizes: tuple[int, ...], **options: Any) -> Any:
        together.add(sizes)
        return decode_chunk(*args, sizes=sizes, **options)

    monkeypatch.setattr(rings_module, "empty_state", spy)
    monkeypatch.setattr(loop, "decode_chunk", chunk_spy)

    def complete(chunk: int) -> Trajectory:
        return rollout(decoder, mixed(settings), prompts, key=KEY, stop_ids=[STOP], completions=3, rows=96, chunk=chunk)

    reference = complete(chunk=400)
    assert rings == [(96, 480)]
    assert 60 < reference.lengths.mean() < 140
    assert reference.lengths.max() > 300
    rings.clear()
    monkeypatch.setattr(rollout_module, "WORTHWHILE", 32)
    moved = complete(chunk=8)
    assert_same(moved, reference)
    begun, fewer = [(96, 128), (80, 192), (48, 320), (32, 480)], [(48, 128), (40, 192), (20, 192), (24, 320), (16, 480)]
    assert [ring for ring in rings if ring not in fewer] == begun
    assert [ring for ring in rings if ring not in begun] == fewer
    assert {(128, 192), (192, 320), (320, 480)} < together
    assert moved.columns < 0.6 * reference.columns


def test_completions_wait_for_a_full_ring_and_draw_what_they_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of four rows outgrow the shortest ring together, and the next four while the longer one is full."""
    chunks = []
    decode_chunk = loop.decode_chunk

    def spy(*args: Any, sizes: tuple[int, ...], **options: Any) -> Any:
        chunks.append(sizes)
        return decode_chunk(*args, sizes=sizes, **options)

    monkeypatch.setattr(loop, "decode_chunk", spy)
    prompts = [Prompt(str(i), [i % 7] * (1 + i % 31), 300 - 7 * (i % 3)) for i in range(12)]
    for longest in (512, 256):
        monkeypatch.setattr(rollout_module, "TOGETHER", longest)
        done = rollout(SHARP, static(0.0), prompts, key=KEY, stop_ids=[], rows=4, chunk=8)
        for n, prompt in enumerate(prompts):
            assert done.new_tokens(n).tolist() == greedy_completion(prompt.tokens, prompt.budget, -1)
        pairs = {sizes for sizes in chunks if len(sizes) == 2}
        assert pairs
        assert max(map(max, pairs)) <= longest
        chunks.clear()


@pytest.mark.parametrize("chunk", [64, 96, 150])
def test_a_long_chunk_stays_within_its_ring(chunk: int) -> None:
    prompts = [Prompt(str(i), [i % VOCABULARY] * 32, 400) for i in range(16)]
    done = rollout(SHARP, static(0.0), prompts, key=KEY, stop_ids=[], rows=16, chunk=chunk)
    for n, prompt in enumerate(prompts):
        assert done.new_tokens(n).tolist() == greedy_completion(prompt.tokens, prompt.budget, -1)


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf] * VOCABULARY])
def test_logits_that_are_not_finite_stop_a_rollout(bad: list[float]) -> None:
    """Where a completion meets them, not where only a row does that has ended; tokens barred by -infinity are sound."""
    prompt = [0, 2]
    path = greedy_completion(prompt, 4, STOP)
    states = [sum(n + token for n, token in enumerate(prompt + path[:k])) % VOCABULARY for k in range(5)]
    assert STOP not in path
    assert len(set(states)) == 5
    table = successor_table(50.0)
    table[:, STOP] = -np.inf
    table[states[3], : len(bad)] = bad
    short, long = Prompt("short", prompt, 3), Prompt("a question", prompt, 4)

    def complete(*prompts: Prompt) -> Trajectory:
        return rollout(CountingLM(jnp.asarray(table)), static(0.0), prompts, key=KEY, stop_ids=[STOP], completions=2, chunk=3)

    assert [complete(short).new_tokens(n).tolist() for n in range(2)] == [path[:3]] * 2
    with pytest.raises(FloatingPointError, match=r"not finite at new token 4 of a completion of 'a question': .* float32"):
        complete(short, long)


@struct.dataclass
class ByMean(MixedPolicy):
    """Holds action 1 for prompts of an even number of tokens, as their mean embedding tells, and 0 for the others."""

    def begin(self, prompt: PromptObservation, uniform: jax.Array) -> jax.Array:
        return (jnp.floor_divide(prompt.mean[:, 0], 1000.0) % 2 == 0).astype(jnp.int32)


@pytest.mark.parametrize("tokens", [4, 5])
def test_a_completion_that_moves_before_its_first_token_keeps_its_action(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fifth of five gets a row when the others have gone to the longer ring, and alone joins them once one has ended."""
    budgets = [150, 140, 130, 120, 20]
    prompts = [Prompt(str(n), [1] * tokens, budget) for n, budget in enumerate(budgets)]
    policy = ByMean(SamplingParams.stack([SamplingParams(1.0), SamplingParams(1.0)]))
    steps = []
    move = rollout_module.move

    def spy(decoder: CountingLM, state: DecodeState, target: DecodeState, source: np.ndarray) -> Any:
        steps.append(np.asarray(state.step)[source[source >= 0]].tolist())
        return move(decoder, state, target, source)

    monkeypatch.setattr(rollout_module, "move", spy)
    done = rollout(SOFT, policy, prompts, key=KEY, stop_ids=[], rows=4, chunk=8)
    assert len(steps[0]) == 4
    assert [0] in steps
    for n, budget in enumerate(budgets):
        assert (done.actions[n, :budget] == (tokens % 2 == 0)).all(), n


def test_every_stop_token_ends_a_completion() -> None:
    prompts = some_prompts(8)
    done = rollout(SHARP, static(0.0), prompts, key=KEY, stop_ids=list(range(VOCABULARY)), rows=4)
    assert done.lengths.tolist() == [1] * 8
    assert done.stopped.all()


def test_draws_do_not_depend_on_company() -> None:
    """Rows, chunk length, order of prompts, and what else is in the batch: the same completions, bit for bit."""
    prompts = some_prompts(12)
    adapter = token_adapter(2, budget_scale=70)
    reference = rollout(SOFT, adapter, prompts, key=KEY, stop_ids=[STOP], completions=3, rows=36, chunk=16)
    assert reference.decisions.sum() > 100
    assert len(np.unique(reference.actions[reference.decisions])) == 4
    for rows, chunk in [(1, 16), (5, 3), (36, 1)]:
        other = rollout(SOFT, adapter, prompts, key=KEY, stop_ids=[STOP], completions=3, rows=rows, chunk=chunk)
        assert_same(reference, other)
    order = np.random.default_rng(1).permutation(12)
    shuffled = rollout(SOFT, adapter, [prompts[i] for i in order], key=KEY, stop_ids=[STOP], completions=3, rows=5)
    for place, index in enumerate(order):
        for j in range(3):
            np.testing.assert_array_equal(shuffled.new_tokens(place * 3 + j), reference.new_tokens(index * 3 + j))
    alone = rollout(SOFT, adapter, [prompts[4]], key=KEY, stop_ids=[STOP], completions=3)
    for j in range(3):
        np.testing.assert_array_equal(alone.new_tokens(j), reference.new_tokens(12 + j))


def test_completions_of_a_prompt_differ_and_go_on_counting() -> None:
    prompt = Prompt("p", [1, 2, 3], 40)
    four = rollout(SOFT, static(1.0), [prompt], key=KEY, stop_ids=[STOP], completions=4)
    assert len({tuple(four.new_tokens(n)) for n in range(4)}) > 1
    counted_on = dataclasses.replace(prompt, first_completion=2)
    later = rollout(SOFT, static(1.0), [counted_on], key=KEY, stop_ids=[STOP], completions=2)
    np.testing.assert_array_equal(later.new_tokens(0), four.new_tokens(2))
    other_seed = rollout(SOFT, static(1.0), [prompt], key=jax.random.key(4), stop_ids=[STOP], completions=4)
    assert any(tuple(other_seed.new_tokens(n)) != tuple(four.new_tokens(n)) for n in range(4))


@pytest.mark.parametrize("action", [0, 3])
def test_policy_that_always_picks_one_action_equals_the_static_policy(action: int) -> None:
    prompts = some_prompts(10)
    on = rollout(SOFT, always(action), prompts, key=KEY, stop_ids=[STOP], rows=4)
    off = rollout(SOFT, static((0.0, 0.5, 1.0, 1.25)[action]), prompts, key=KEY, stop_ids=[STOP], rows=4)
    np.testing.assert_array_equal(on.tokens, off.tokens)
    assert on.decisions.any()
    assert not off.decisions.any()


def test_smaller_budget_is_a_prefix_for_a_policy_that_does_not_see_it() -> None:
    prompts = [dataclasses.replace(p, budget=60) for p in some_prompts(10)]
    long = rollout(SOFT, static(1.0), prompts, key=KEY, stop_ids=[STOP])
    short = rollout(SOFT, static(1.0), [dataclasses.replace(p, budget=9) for p in prompts], key=KEY, stop_ids=[STOP])
    for n in range(10):
        np.testing.assert_array_equal(short.new_tokens(n), long.new_tokens(n)[:9])


def test_what_a_trajectory_records() -> None:
    """Entropy, top probability and decisions against NumPy; features in the order of the decisions."""
    prompts = some_prompts(9)
    adapter = token_adapter(2, budget_scale=70, budget_encoding="centred")
    done = rollout(SOFT, adapter, prompts, key=KEY, stop_ids=[STOP], completions=2, rows=5, chunk=4)
    table = np.asarray(SOFT.table, np.float64)
    softmax = np.exp(table) / np.exp(table).sum(axis=1, keepdims=True)
    features = iter(done.features)
    for n in range(18):
        prompt = prompts[n // 2]
        entries = [token + place for place, token in enumerate(prompt.tokens)]
        for t, token in enumerate(done.new_tokens(n)):
            state = sum(entries) % VOCABULARY
            p = softmax[state]
            np.testing.assert_allclose(done.entropy[n, t], -(p * np.log(p)).sum(), rtol=1e-5)
            np.testing.assert_allclose(done.top_probability[n, t], p.max(), rtol=1e-5)
            assert done.decisions[n, t] == (p.max() <= 0.95)
            if done.decisions[n, t]:
                remaining = prompt.budget - t
                hidden = np.array([state, state**2]) / np.sqrt((state**2 + state**4) / 2 + 1e-6)
                shares = np.array([remaining / 70, np.log1p(remaining) / np.log1p(70)])
                expected = [*hidden, *(6 * shares - 3)]
                np.testing.assert_allclose(next(features), expected, rtol=1e-5, atol=1e-6)
            entries.append(token + len(entries))
        assert not done.decisions[n, done.lengths[n] :].any()
    assert next(features, None) is None


def test_prompts_are_computed_once_and_rows_are_refilled() -> None:
    prompts = [Prompt(str(i), [1] * 20, 64 if i % 8 == 0 else 4) for i in range(64)]
    done = rollout(SHARP, static(0.0), prompts, key=KEY, stop_ids=[], completions=4, rows=16, chunk=16)
    assert done.prompt_tokens == 64 * 20
    assert done.lengths.sum() == done.row_steps


@pytest.mark.parametrize(
    ("waiting", "alive"),
    [
        (0, [*range(16, 0, -1)]),
        (1, [16, 16, *range(14, 0, -1)]),
        (8, [16, 16, 16, 16, 14, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (40, [16, 16, 16, 16, 14, 11]),
    ],
)
def test_rows_get_the_next_completion_at_once_and_the_host_looks_when_the_queue_is_empty(
    monkeypatch: pytest.MonkeyPatch, waiting: int, alive: list[int]
) -> None:
    """Of 16 rows one ends at each step, and so does each one-token completion that has waited: 1, 2, 3 and 4 rows fall free.

    Eight wait in the queue, two batches of four, since prompts are long: the first four steps have all rows. Then 2 and 5 rows
    idle, and in the next step 6 would: more than half a step in all, so the host looks, if there are others.
    """
    budgets = [*range(16, 0, -1), *[1] * waiting]
    chunks = []
    decode_chunk = loop.decode_chunk

    def spy(*args: Any, **options: Any) -> tuple[tuple[DecodeState, ...], Waiting, loop.StepOutput]:
        states, left, outputs = decode_chunk(*args, **options)
        chunks.append(np.asarray(outputs.alive).sum(axis=1).tolist())
        return states, left, outputs

    monkeypatch.setattr(loop, "decode_chunk", spy)
    prompts = [Prompt(str(i), [1] * 256, budget) for i, budget in enumerate(budgets)]
    done = rollout(SHARP, static(0.0), prompts, key=KEY, stop_ids=[], rows=16, chunk=16)
    assert chunks[0] == alive + [0] * (16 - len(alive))
    assert done.lengths.tolist() == budgets
    assert done.row_steps == 16 * sum(np.count_nonzero(chunk) for chunk in chunks)


def test_mixed_policy_holds_one_action_per_completion() -> None:
    policy = mixed([SamplingParams(t) for t in (0.0, 0.5, 1.0, 1.25)])
    done = rollout(SOFT, policy, some_prompts(100), key=KEY, stop_ids=[STOP], completions=4)
    first = done.actions[:, 0]
    inside = np.arange(done.tokens.shape[1])[None] < done.lengths[:, None]
    assert (done.actions == np.where(inside, first[:, None], 0)).all()
    counts = np.bincount(first, minlength=4)
    assert (np.abs(counts - 100) < 4 * np.sqrt(400 * 0.25 * 0.75)).all()


def test_distribution_of_first_tokens() -> None:
    """Chi-square of 20,000 first tokens against the model's own softmax."""
    count = 20_000
    done = rollout(SOFT, static(1.0), [Prompt("p", [4, 4], 1)], key=KEY, stop_ids=[STOP], completions=count, rows=count)
    logits = np.asarray(SOFT.table, np.float64)[9]
    expected = count * np.exp(logits) / np.exp(logits).sum()
    observed = np.bincount(done.tokens[:, 0], minlength=VOCABULARY)
    assert ((observed - expected) ** 2 / expected).sum() < 29.6  # 99.9% quantile at 10 degrees of freedom


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (Prompt("x", [], 4), {}, r"prompt 0 \('x'\) is empty"),
        (Prompt("x", [1], 0), {}, r"prompt 0 \('x'\) has a token budget of 0"),
        (Prompt("x", [1] * 9, 4), {"max_positions": 12}, "9 tokens.*budget of 4.*context of 12"),
        (Prompt("x", [1], 4), {"rows": 0}, "rows is 0"),
        (Prompt("x", [1], 4), {"completions": 0}, "completions is 0"),
    ],
)
def test_bad_input_is_named(prompt: Prompt, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(SHARP, static(), [prompt], key=KEY, stop_ids=[STOP], **options)


def test_ring_wraps_for_every_cursor() -> None:
    """Chunk lengths that are no divisor of the ring's size bring the cursor to every column when prompts are inserted."""
    prompts = [Prompt(str(i), [i % VOCABULARY] * (1 + i % 31), 1 + i % 13) for i in range(80)]
    for rows, chunk in ((2, 1), (3, 5)):
        done = rollout(SHARP, static(0.0), prompts, key=KEY, stop_ids=[STOP], rows=rows, chunk=chunk)
        for n, prompt in enumerate(prompts):
            assert done.new_tokens(n).tolist() == greedy_completion(prompt.tokens, prompt.budget, STOP)
