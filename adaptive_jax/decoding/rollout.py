"""Rollouts: prompts in, a `Trajectory` out. The host's half of the loop: prefill, admission, harvest."""

import hashlib
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.trajectory import Trajectory, TrajectoryBuilder
from adaptive_jax.lm.decoder import Decoder, Prefill

BUCKET = 32  # ring sizes are rounded up to it, prompt widths to it times a power of two, so that few shapes are compiled


@dataclass(frozen=True)
class Prompt:
    """A prompt of a rollout.

    Attributes:
        id: the problem's identity; the draws of its completions depend on it.
        tokens: int [P], at least one.
        budget: token budget b of its completions, at least 1.
        first_completion: index of its first completion; a later rollout can go on counting where one ended.
    """

    id: str
    tokens: Sequence[int]
    budget: int
    first_completion: int = 0


def rollout(
    decoder: Decoder,
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    key: jax.Array,
    stop_ids: Sequence[int],
    completions: int = 1,
    rows: int = 128,
    chunk: int = 16,
    max_positions: int | None = None,
    prompt_width: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> Trajectory:
    """Decode `completions` completions of every prompt under a policy.

    A completion's draws depend on `key`, its prompt's id, its index and its step only: not on the rows, the chunk,
    the order of the prompts or what else is in the batch.

    Args:
        decoder: the frozen language model.
        policy: chooses the sampling action of each completion or step.
        prompts: N / G of them.
        key: typed PRNG key.
        stop_ids: tokens that end a completion.
        completions: G, per prompt; also the sampling budget B that the policy sees.
        rows: how many completions are decoded side by side.
        chunk: steps between two looks of the host; finished rows give their place to waiting completions then.
        max_positions: the model's context, in tokens.
        prompt_width: tokens that the cache leaves for a prompt at least; rollouts with one such width (that of the longest
            prompt of all) and one largest budget share the compilation of the loop.
        on_progress: called with the number of completions that have ended.

    Raises:
        ValueError: no prompt, rows, chunk or completions below 1, or a prompt that `check_prompts` refuses.
    """
    if not prompts:
        raise ValueError("prompts is empty: give at least one prompt")
    for name, value in (("completions", completions), ("rows", rows), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give at least 1")
    check_prompts(prompts, max_positions)
    total = len(prompts) * completions
    rows = min(rows, total)
    longest = max(prompt_width, *(len(prompt.tokens) for prompt in prompts))
    size = _round_up(_prefill_width(longest) + max(prompt.budget for prompt in prompts))
    # long budgets first, so that what is left when no completion waits any more is short; then prompts of like length together
    order = sorted(range(len(prompts)), key=lambda i: (-prompts[i].budget, len(prompts[i].tokens)))
    keys = loop.completion_keys(key, *_identities(prompts, completions))
    width = min(len(prompts), -(-rows // completions))
    waves = _waves(decoder, prompts, completions, order, width)
    stops = jnp.asarray(stop_ids, jnp.int32)

    budgets = np.repeat(np.array([p.budget for p in prompts], np.int32), completions)
    harvest = TrajectoryBuilder(budgets, stop_ids)
    row_completion, row_step = np.full(rows, -1), np.zeros(rows, np.int64)
    wave = next(waves)
    waiting = wave.completions  # those of the current wave that have no row yet
    harvest.prompt_tokens += wave.prompt_tokens
    state = loop.empty_state(decoder, wave.prefill.last, key, rows=rows, size=size)
    admitted = 0
    while True:
        free = np.flatnonzero(row_completion < 0)
        while len(free) and admitted < total:
            if not len(waiting):
                wave = next(waves)
                harvest.prompt_tokens += wave.prompt_tokens
                waiting = wave.completions
            taken, waiting = waiting[: len(free)], waiting[len(free) :]
            places, free = free[: len(taken)], free[len(taken) :]
            row_completion[places], row_step[places] = taken, 0
            admitted += len(taken)
            admission = _admission(prompts, completions, wave, keys, rows, places, taken)
            state = loop.admit(decoder, policy, state, wave.prefill, admission)
        if (row_completion < 0).all():
            return harvest.build()
        state, outputs = loop.decode_chunk(decoder, policy, stops, state, size=size, chunk=chunk)
        harvest.collect(outputs, row_completion, row_step)
        row_step += chunk
        ended = ~np.asarray(state.alive) & (row_completion >= 0)
        row_completion[ended] = -1
        if on_progress is not None:
            on_progress(admitted - int((row_completion >= 0).sum()))


def problem_digest(problem_id: str) -> np.ndarray:
    """uint32 [2], a digest of a problem's id; what its completions' keys are folded from."""
    return np.frombuffer(hashlib.sha256(problem_id.encode()).digest()[:8], np.uint32)


def _identities(prompts: Sequence[Prompt], completions: int) -> tuple[jax.Array, jax.Array]:
    digests = np.repeat(np.stack([problem_digest(p.id) for p in prompts]), completions, axis=0)
    first = np.repeat([p.first_completion for p in prompts], completions)
    return jnp.asarray(digests), jnp.asarray(first + np.tile(np.arange(completions), len(prompts)), jnp.int32)


def check_prompts(prompts: Sequence[Prompt], max_positions: int | None) -> None:
    """Raises ValueError for an empty prompt, a budget below 1, or a prompt that does not fit the context with its budget."""
    for index, prompt in enumerate(prompts):
        count, name = len(prompt.tokens), f"prompt {index} ({reprlib.repr(prompt.id)})"
        if count == 0:
            raise ValueError(f"{name} is empty: it needs at least one token")
        if prompt.budget < 1:
            raise ValueError(f"{name} has a token budget of {prompt.budget}: give at least 1")
        if max_positions is not None and count + prompt.budget > max_positions:
            raise ValueError(
                f"{name} has {count} tokens, which with a token budget of {prompt.budget} do not fit the "
                f"model's context of {max_positions}: shorten the prompt or lower the budget"
            )


def _round_up(count: int) -> int:
    return -(-count // BUCKET) * BUCKET


def _prefill_width(count: int) -> int:
    return BUCKET << max(-(-count // BUCKET) - 1, 0).bit_length()


@dataclass(frozen=True)
class _Wave:
    """Prompts that were prefilled together: their completions, and `place[i]`, where prompt i lies in the prefill."""

    completions: np.ndarray
    place: dict[int, int]
    prefill: Prefill
    prompt_tokens: int


def _waves(decoder: Decoder, prompts: Sequence[Prompt], completions: int, order: list[int], width: int) -> Iterator[_Wave]:
    """Prefill the prompts, `width` at a time: only those that are about to start occupy memory."""
    for start in range(0, len(order), width):
        members = order[start : start + width]
        columns = _prefill_width(max(len(prompts[i].tokens) for i in members))
        tokens = np.zeros((width, columns), np.int32)
        lengths = np.ones(width, np.int32)  # rows that pad the last wave are one-token prompts that nobody reads
        for row, index in enumerate(members):
            ids = prompts[index].tokens
            tokens[row, columns - len(ids) :] = ids
            lengths[row] = len(ids)
        computed = loop.prefill(decoder, jnp.asarray(tokens), jnp.asarray(lengths))
        place = {index: row for row, index in enumerate(members)}
        numbers = (np.array(members)[:, None] * completions + np.arange(completions)).reshape(-1)
        yield _Wave(numbers, place, computed, sum(len(prompts[i].tokens) for i in members))


def _admission(
    prompts: Sequence[Prompt],
    completions: int,
    wave: _Wave,
    keys: jax.Array,
    rows: int,
    places: np.ndarray,
    taken: np.ndarray,
) -> loop.Admission:
    """Completions `taken` for the rows `places`."""
    source = np.full(rows, -1, np.int32)
    token, length, budget, number = np.zeros((4, rows), np.int32)
    chosen = np.zeros(rows, np.int32)
    for row, completion in zip(places, taken, strict=True):
        index = int(completion) // completions
        prompt = prompts[index]
        source[row] = wave.place[index]
        token[row], length[row], budget[row] = prompt.tokens[-1], len(prompt.tokens), prompt.budget
        number[row] = prompt.first_completion + int(completion) % completions
        chosen[row] = completion
    return loop.Admission(
        source=jnp.asarray(source),
        token=jnp.asarray(token),
        length=jnp.asarray(length),
        completion=jnp.asarray(number),
        budget=jnp.asarray(budget),
        samples=jnp.full((rows,), completions, jnp.int32),
        key=keys[jnp.asarray(chosen)],
    )
