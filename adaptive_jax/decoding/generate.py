"""Text in, text out: completions of prompts under a policy."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.stop import StopTexts
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.lm.model import LM
from adaptive_jax.lm.prompts import decode, encode

FinishReason = Literal["stop", "budget"]


@dataclass(frozen=True)
class Completion:
    """One completion.

    Attributes:
        text: decoded, without special tokens.
        tokens: int32 [T], the stop token included.
        actions: int32 [T], the index of each token's sampling setting in `policy.actions`.
        finish_reason: "stop", or "budget" where it was truncated.
        logprobs, model_logprobs: float32 [T], of each token, in nats: in the distribution that it was drawn from, after
            temperature and filters, and in the model's, before them. None where they were not asked for.
    """

    text: str
    tokens: np.ndarray
    actions: np.ndarray
    finish_reason: FinishReason
    logprobs: np.ndarray | None = None
    model_logprobs: np.ndarray | None = None


def generate(
    lm: LM,
    prompts: Sequence[str],
    policy: Policy,
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
        policy: chooses the sampling action: `adaptive_jax.static(...)`, an adapter, ...
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
        ValueError: an empty prompt or stop text, a prompt that does not fit the model's context with its budget or has a token
            that the model has not, or a budget out of range.
        FloatingPointError: the model's logits are not finite.
    """
    if isinstance(prompts, str):
        raise TypeError("prompts is a string: give a list of prompts, such as [prompt]")
    for name, value in (("n", n), ("rows", rows)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give at least 1")
    if not prompts:
        return []
    budgets = _budgets(budget, max_new_tokens, len(prompts))
    ends = StopTexts(lm, stop)
    seen: Counter[str] = Counter()
    asked = []
    for text, limit in zip(prompts, budgets, strict=True):
        asked.append(Prompt(text, encode(lm.tokenizer, text, lm.config.vocab_size), limit, first_completion=seen[text] * n))
        seen[text] += 1
    with tqdm(total=n * len(asked), desc="completions", disable=not progress) as bar:

        def show(ended: int) -> None:
            bar.update(ended - bar.n)

        trajectory, texts = complete(
            lm,
            asked,
            policy,
            ends,
            n=n,
            seed=seed,
            rows=rows,
            logprobs=logprobs,
            on_progress=show,
        )
    completions = [_completion(trajectory, index, text) for index, text in enumerate(texts)]
    return [completions[i : i + n] for i in range(0, len(completions), n)]


def complete(
    lm: LM, prompts: Sequence[Prompt], policy: Policy, ends: StopTexts, *, n: int, seed: int, **options: Any
) -> tuple[Trajectory, list[str]]:
    """`rollout` with what belongs to a model, up to each completion's first stop text; and the texts, without it.

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
    trajectory = ends.truncated(trajectory)
    return trajectory, [ends.cut(text) for text in decode(lm.tokenizer, trajectory.tokens, trajectory.lengths)]


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
