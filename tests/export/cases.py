"""Adapters of every kind, over tiny; and what they do, computed by JAX from whole texts."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import adaptive_jax as aj
from adaptive_jax.decoding.policy import Observation, PromptObservation
from adaptive_jax.decoding.sampling import summary
from adaptive_jax.export.transformers import export_transformers
from adaptive_jax.policies.sequence import SequenceAdapter
from adaptive_jax.policies.token import TokenAdapter
from adaptive_jax.runs.adapters import Adapter
from tests.policies.adapters import random_adapter, random_sequence_adapter, with_random_head

TINY_WIDTH = 96
FILTERED = [
    aj.SamplingParams(0.0),
    aj.SamplingParams(1.5, top_k=5),
    aj.SamplingParams(1.25, top_p=0.8),
    aj.SamplingParams(1.4, min_p=0.05),
    aj.SamplingParams(2.0, top_k=20, top_p=0.9, min_p=0.01),
]
KINDS = ("two-hot", "centred", "shares", "hidden", "entropy", "filtered", "both", "last", "mean", "held")


def case(kind: str, hidden_size: int = TINY_WIDTH) -> Adapter:
    """An adapter that is sure of nothing and indifferent to nothing."""
    if kind in ("two-hot", "centred", "shares"):
        return random_adapter(hidden_size, scale=0.3, encoding=kind)
    if kind in ("hidden", "entropy"):
        return random_adapter(hidden_size, kind, scale=0.3)
    if kind == "filtered":
        actions = aj.SamplingParams.stack(FILTERED)
        return with_random_head(aj.token_adapter(hidden_size, actions=actions, width=16, budget_scale=64), 0.3, 3)
    if kind == "held":  # one action for every prompt, unless there is a single completion
        return random_sequence_adapter(hidden_size).replace(held=(-1, *[2] * 7))
    return random_sequence_adapter(hidden_size, kind, sees_samples=kind != "last")


def probabilities(
    lm: aj.LM, adapter: Adapter, tokens: np.ndarray, mask: np.ndarray, start: int, budgets: np.ndarray, samples: int
):
    """float32 [N, T - start, A]: of the actions before each token behind the prompts, by one forward pass without a cache.

    Args:
        tokens, mask: int32 and bool [N, T], prompts padded on the left, and their completions.
        start: where the completions begin.
        budgets: int32 [N].
        samples: sampling budget B.
    """
    logits, hidden = lm(tokens, mask)
    if lm.tokens is not None:
        logits = jnp.where(lm.tokens, logits, -jnp.inf)
    rows, steps = tokens.shape[0], tokens.shape[1] - start
    if isinstance(adapter, SequenceAdapter):
        shares = (mask[:, :start] / mask[:, :start].sum(axis=1, keepdims=True)).astype(np.float32)
        mean = jnp.einsum("ntd,nt->nd", hidden[:, :start], shares)
        whole = jnp.full(rows, samples, jnp.int32)
        prompt = PromptObservation(hidden[:, start - 1], mean, jnp.zeros_like(whole), whole, jnp.asarray(budgets))
        one = jax.nn.softmax(adapter.logits(adapter.features(prompt)), axis=-1)
        return np.repeat(np.asarray(one)[:, None], steps, axis=1)
    assert isinstance(adapter, TokenAdapter)
    seen, before = hidden[:, start - 1 : -1].reshape(rows * steps, -1), logits[:, start - 1 : -1].reshape(rows * steps, -1)
    remaining = jnp.asarray((budgets[:, None] - np.arange(steps)).reshape(-1).astype(np.int32))
    observation = Observation(seen, remaining, remaining, remaining, *summary(before))
    chances = jax.nn.softmax(adapter.logits(adapter.features(observation)), axis=-1)
    return np.asarray(chances).reshape(rows, steps, -1)


def exported(kind: str, lm: aj.LM, path: Path) -> str:
    """The directory of an export of that adapter; below path."""
    aj.save_adapter(path / kind, case(kind, lm.config.hidden_size), lm)
    export_transformers(path / kind, path / "out", model=lm)
    return str(path / "out")


def padded(lm: aj.LM, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and masks, int64 [prompts, width] each, padded on the left."""
    ids = [lm.tokenizer.encode(text, add_special_tokens=False) for text in prompts]
    width = max(map(len, ids))
    tokens = np.array([[0] * (width - len(row)) + row for row in ids])
    return tokens, np.array([[0] * (width - len(row)) + [1] * len(row) for row in ids])
