"""Text in, text out: completions of prompts under a policy."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float32, Int32
from tqdm import tqdm

from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.prefixes import SharedPrefixes
from adaptive_jax.decoding.prompt import Prompt, problem_digest
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.stop import StopTexts
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.digest import tree_digest
from adaptive_jax.lm.model import LM
from adaptive_jax.lm.prompts import decode, encode

BATCH = 4096  # completions that `rollout_batches` has in memory

FinishReason = Literal["stop", "budget"]


@dataclass(frozen=True)
class Completion:
    """One completion.

    Attributes:
        text: decoded, without special tokens.
        tokens: the stop token included.
        actions: the index of each token's sampling setting in `policy.actions`.
        finish_reason: "stop", or "budget" where it was truncated.
        logprobs, model_logprobs: of each token, in nats: in the distribution that it was drawn from, after
            temperature and filters, and in the model's, before them. None where they were not asked for.
    """

    text: str
    tokens: Int32[np.ndarray, " length"]
    actions: Int32[np.ndarray, " length"]
    finish_reason: FinishReason
    logprobs: Float32[np.ndarray, " length"] | None = None
    model_logprobs: Float32[np.ndarray, " length"] | None = None


def generate(
    lm: LM,
    prompts: Sequence[str],
    policy: Policy | Sequence[Policy],
    *,
    n: int = 1,
    max_new_tokens: int = 256,
    budget: int | Sequence[int] | None = None,
    stop: Sequence[str] = (),
    seed: int = 0,
    rows: int = 128,
    logprobs: bool = False,
    progress: bool = False,
) -> list[list[Completion]]:
    """Complete prompts; `done[i][j]` is completion j of prompt i.

    The draws of a completion depend on the seed, its prompt's text and j only (a prompt given twice goes on counting j), so
    they stay the same whatever else is in the list.

    Args:
        lm: the frozen language model.
        prompts: texts to be continued, special tokens spelled out (see `adaptive_jax.prompt`).
        policy: chooses the sampling action: `adaptive_jax.static(...)`, an adapter, ...; or a list with one
            for each prompt. Prompts of equal policies are decoded together, one policy after the other.
        n: completions per prompt; the sampling budget B that the policy sees.
        max_new_tokens: tokens a completion may have.
        budget: token budget b, for all prompts or one each; at most max_new_tokens, which it is by default.
        stop: a completion ends where its text first contains one of these, which is cut off, and so is what follows.
        seed: fixes every draw.
        rows: how many completions are decoded side by side.
        logprobs: whether completions have their tokens' log-probabilities; what is drawn is the same.
        progress: whether standard error shows how many completions have ended.

    Raises:
        TypeError: prompts is one string instead of a list.
        ValueError: not one policy for each prompt, an empty prompt or stop text, a prompt that does not fit the model's context
            with its budget or has a token that the model has not, or a budget out of range.
        FloatingPointError: the model's logits are not finite.
    """
    _check(prompts, n=n, rows=rows)
    if not prompts:
        return []
    budgets = _budgets(budget, max_new_tokens, len(prompts))
    ends = StopTexts(lm, stop)
    asked = _asked(lm, prompts, budgets, n, Counter())
    done: list[list[Completion]] = [[] for _ in asked]
    options: dict[str, Any] = {"n": n, "seed": seed, "rows": rows, "logprobs": logprobs}
    options["prompt_width"] = max(len(prompt.tokens) for prompt in asked)
    with tqdm(total=n * len(asked), desc="completions", disable=not progress) as bar:
        for own, members in _by_policy(policy, len(asked)):
            before = bar.n

            def show(ended: int, before: int = before) -> None:
                bar.update(before + ended - bar.n)

            groups = _groups(*complete(lm, [asked[i] for i in members], own, ends, on_progress=show, **options), n)
            for place, group in zip(members, groups, strict=True):
                done[place] = group
    return done


def rollout_batches(
    lm: LM,
    prompts: Iterable[str],
    policy: Policy,
    *,
    n: int = 1,
    max_new_tokens: int = 256,
    stop: Sequence[str] = (),
    seed: int = 0,
    rows: int = 128,
    logprobs: bool = False,
    batch_size: int | None = None,
) -> Iterator[list[list[Completion]]]:
    """Complete prompts batch by batch; put together, the batches are what `generate` gives for all prompts.

    Memory is bounded by a batch, but for 100 bytes or so a prompt, which tell prompts apart.

    Args:
        lm: the frozen language model.
        prompts: texts to be continued; taken one batch after the other, so they may come from a generator.
        policy, n, max_new_tokens, stop, seed, rows, logprobs: as for `generate`.
        batch_size: prompts of a batch; by default as many as get 4096 completions. At the end of each batch rows are idle, so
            small ones take longer.

    Yields:
        The completions of the next prompts; `batch[i][j]` is completion j of prompt i among them.

    Raises:
        TypeError, ValueError, FloatingPointError: as `generate`; what is wrong with a prompt is told when its batch is reached.
    """
    size = max(BATCH // max(n, 1), 1) if batch_size is None else batch_size
    _check(prompts, n=n, rows=rows, max_new_tokens=max_new_tokens, batch_size=size)
    ends = StopTexts(lm, stop)

    def batches() -> Iterator[list[list[Completion]]]:
        seen: Counter[bytes] = Counter()
        width, rest = 1, iter(prompts)
        prefixes: SharedPrefixes | None = None
        while texts := list(itertools.islice(rest, size)):
            asked = _asked(lm, texts, [max_new_tokens] * len(texts), n, seen)
            # of all so far: a longer prompt costs another compilation, a batch of shorter ones none
            width = max(width, *(len(prompt.tokens) for prompt in asked))
            tokens = [prompt.tokens for prompt in asked]
            found = SharedPrefixes(lm.decoder, tokens)
            if prefixes is None or found.saves(tokens) > prefixes.saves(tokens):  # those of batches before are computed
                prefixes = found
            options: dict[str, Any] = {"rows": rows, "logprobs": logprobs, "prompt_width": width, "prefixes": prefixes}
            yield _groups(*complete(lm, asked, policy, ends, n=n, seed=seed, **options), n)

    return batches()


def complete(
    lm: LM, prompts: Sequence[Prompt], policy: Policy, ends: StopTexts, *, n: int, seed: int, **options: Any
) -> tuple[Trajectory, list[str]]:
    """What `draw` gives, and the texts of its completions."""
    trajectory = draw(lm, prompts, policy, ends, n=n, seed=seed, **options)
    return trajectory, texts_of(lm, trajectory, ends)


def draw(
    lm: LM, prompts: Sequence[Prompt], policy: Policy, ends: StopTexts, *, n: int, seed: int, **options: Any
) -> Trajectory:
    """`rollout` with what belongs to a model, up to each completion's first stop text.

    Args:
        lm: the frozen language model.
        prompts: N / n of them.
        policy: chooses the sampling actions.
        ends: what ends a completion.
        n: completions per prompt.
        seed: fixes every draw.
        options: of `rollout`, whose errors it raises.
    """
    trajectory = rollout(
        lm.decoder,
        policy,
        prompts,
        key=jax.random.key(seed),
        stop_ids=ends.ids,
        completions=n,
        max_positions=lm.config.max_positions,
        **options,
    )
    return ends.truncated(trajectory)


def texts_of(lm: LM, trajectory: Trajectory, ends: StopTexts) -> list[str]:
    """The completions' texts without special tokens and without their stop text."""
    return [ends.cut(text) for text in decode(lm.tokenizer, trajectory.tokens, trajectory.lengths)]


def _check(prompts: Iterable[str], **counts: int) -> None:
    if isinstance(prompts, str):
        raise TypeError("prompts is a string: give a list of prompts, such as [prompt]")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is {value}: give at least 1")


def _asked(lm: LM, texts: Sequence[str], budgets: Sequence[int], n: int, seen: Counter[bytes]) -> list[Prompt]:
    """Prompts, known by their texts; `seen` counts how often each one was met, those before included."""
    asked = []
    for text, budget in zip(texts, budgets, strict=True):
        known = problem_digest(text).tobytes()  # what draws depend on
        tokens = encode(lm.tokenizer, text, lm.config.vocab_size)
        asked.append(Prompt(text, tokens, budget, first_completion=seen[known] * n))
        seen[known] += 1
    return asked


def _by_policy(policy: Policy | Sequence[Policy], count: int) -> list[tuple[Policy, list[int]]]:
    """Policies with the prompts that each is for; equal ones are one."""
    if not isinstance(policy, Sequence):
        return [(policy, list(range(count)))]
    if len(policy) != count:
        raise ValueError(f"policy has {len(policy)} entries for {count} prompts: give one policy, or one each")
    known = {id(own): (jax.tree.structure(own), tree_digest(own)) for own in policy}
    found: dict[Any, tuple[Policy, list[int]]] = {}
    for number, own in enumerate(policy):
        found.setdefault(known[id(own)], (own, []))[1].append(number)
    return list(found.values())


def _budgets(budget: int | Sequence[int] | None, max_new_tokens: int, count: int) -> list[int]:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}: give at least 1")
    if budget is None:
        budgets = [max_new_tokens] * count
    elif isinstance(budget, (int, np.integer)):
        budgets = [int(budget)] * count
    else:
        budgets = [int(b) for b in budget]
    if len(budgets) != count:
        raise ValueError(f"budget has {len(budgets)} entries for {count} prompts: give one number, or one each")
    for value in budgets:
        if not 1 <= value <= max_new_tokens:
            raise ValueError(f"budget {value} is outside 1..{max_new_tokens}: raise max_new_tokens or lower the budget")
    return budgets


def _groups(trajectory: Trajectory, texts: Sequence[str], n: int) -> list[list[Completion]]:
    completions = [_completion(trajectory, index, text) for index, text in enumerate(texts)]
    return [completions[i : i + n] for i in range(0, len(completions), n)]


def _completion(trajectory: Trajectory, index: int, text: str) -> Completion:
    length = trajectory.lengths[index]
    return Completion(
        text=text,
        tokens=trajectory.new_tokens(index),
        actions=trajectory.actions[index, :length],
        finish_reason="stop" if trajectory.stopped[index] else "budget",
        logprobs=None if trajectory.logprobs is None else trajectory.logprobs[index, :length],
        model_logprobs=None if trajectory.model_logprobs is None else trajectory.model_logprobs[index, :length],
    )
